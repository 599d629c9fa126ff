//! `threshold-bls`: shares, commitments, partial signatures and their combination.

use super::report::{Report, bytes_of, equal, files, hex_field, label, list, read_as, read_json, text};
use chain::{PublicKeyBytes, SignatureBytes};
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use threshold::{
    CombineError, Commitments, Job, Polynomial, PublicKey, SecretKey, ShareIndex, combine,
    combine_and_verify, lagrange_coefficients,
};

/// The whole set: each file's key material counts as one case, and each entry of its `cases`.
pub fn run(folder: &Path) -> Report {
    let mut report = Report::default();
    for file in files(folder, "json") {
        let name = label(folder, &file);
        let group = match read_json(&file).and_then(Group::read) {
            Ok(group) => group,
            Err(why) => {
                report.case(name, Err(why));
                continue;
            }
        };
        report.case(format!("{name} key material"), group.check_key_material());
        for case in &group.cases {
            let case_name = text(case, "name").unwrap_or("unnamed");
            report.case(format!("{name} {case_name}"), group.check_case(case));
        }
    }
    report
}

struct Group {
    value: Value,
    threshold: usize,
    group_key: PublicKey,
    group_signature: SignatureBytes,
    message: Vec<u8>,
    partials: BTreeMap<u64, SignatureBytes>,
    public_shares: BTreeMap<ShareIndex, PublicKey>,
    cases: Vec<Value>,
}

impl Group {
    fn read(value: Value) -> Result<Self, String> {
        let partials = list(&value, "partial_signatures")?
            .iter()
            .map(|partial| Ok((index_of(partial)?, read_as(partial, "signature")?)))
            .collect::<Result<_, String>>()?;
        let public_shares = list(&value, "shares")?
            .iter()
            .map(|share| Ok((share_index(index_of(share)?)?, public_key(&read_as(share, "public_share")?)?)))
            .collect::<Result<_, String>>()?;
        Ok(Self {
            threshold: read_as(&value, "threshold")?,
            group_key: public_key(&read_as(&value, "group_public_key")?)?,
            group_signature: read_as(&value, "group_signature")?,
            message: hex_field(&value, "message")?,
            partials,
            public_shares,
            cases: list(&value, "cases")?.to_vec(),
            value,
        })
    }

    /// Polynomial, commitments, shares and partial signatures all follow from the coefficients.
    fn check_key_material(&self) -> Result<(), String> {
        let coefficients = list(&self.value, "polynomial_coefficients")?
            .iter()
            .map(|value| SecretKey::from_bytes(&bytes_of(value.as_str().unwrap_or_default())?).map_err(said))
            .collect::<Result<_, String>>()?;
        let polynomial = Polynomial::from_coefficients(coefficients).map_err(said)?;
        let expected: Vec<PublicKeyBytes> = read_as(&self.value, "feldman_commitments_g1")?;
        equal("commitments", polynomial.commitments().to_bytes(), expected.clone())?;
        equal("threshold", polynomial.threshold(), self.threshold)?;
        let commitments = Commitments::parse(&expected).map_err(said)?;
        equal("group key", commitments.group_key(), self.group_key)?;
        for share in list(&self.value, "shares")? {
            let made = polynomial.share(share_index(index_of(share)?)?).map_err(said)?;
            if made.key().expose_bytes().as_slice() != hex_field(share, "secret_share")? {
                return Err(format!("share {} has another secret", made.index()));
            }
            let public: PublicKeyBytes = read_as(share, "public_share")?;
            equal("public share", made.public_share().key.to_bytes(), public)?;
            equal("share fits its commitments", commitments.matches(&made), true)?;
            let partial = self.partials.get(&made.index().get()).copied();
            equal("partial signature", Some(made.sign(&self.message).to_bytes()), partial)?;
        }
        let group_secret = SecretKey::from_bytes(&hex_field(&self.value, "group_secret")?).map_err(said)?;
        equal("group signature", group_secret.sign(&self.message).to_bytes(), self.group_signature)
    }

    fn check_case(&self, case: &Value) -> Result<(), String> {
        let numbers: Vec<u64> = read_as(case, "indices")?;
        let expected = text(case, "expected")?;
        let found = self.partials_of(case, &numbers).and_then(|partials| {
            let signature = combine(&partials).map_err(said)?;
            Ok((partials, signature))
        });
        let (partials, signature) = match (found, expected) {
            (Err(_), "error") => return Ok(()),
            (Ok(_), "error") => return Err("combined, though an error is expected".to_owned()),
            (Ok(found), "valid" | "invalid") => found,
            (Err(why), _) => return Err(why),
            (Ok(_), other) => return Err(format!("unknown expectation `{other}`")),
        };
        equal("combined signature", signature, read_as(case, "combined_signature")?)?;
        let valid = threshold::verify_bytes(&self.group_key.to_bytes(), &self.message, &signature).is_ok();
        equal("signature verifies", valid, expected == "valid")?;
        if let Some(coefficients) = case.get("lagrange_coefficients") {
            let indices: Vec<_> = partials.iter().map(|(index, _)| *index).collect();
            let found: Vec<_> = lagrange_coefficients(&indices)
                .map_err(said)?
                .iter()
                .map(|c| format!("0x{}", hex::encode(c)))
                .collect();
            let expected: Vec<String> = serde_json::from_value(coefficients.clone()).map_err(said)?;
            equal("coefficients", found, expected)?;
        }
        self.check_verified(case, &partials, expected)
    }

    /// The checked way must agree, and name whoever lied.
    fn check_verified(
        &self,
        case: &Value,
        partials: &[(ShareIndex, SignatureBytes)],
        expected: &str,
    ) -> Result<(), String> {
        let job = Job {
            group_key: &self.group_key,
            public_shares: &self.public_shares,
            threshold: self.threshold,
            message: &self.message,
            partials,
        };
        let result = combine_and_verify(&job, &mut StdRng::from_os_rng());
        let overridden: Vec<u64> = case
            .get("partial_override")
            .and_then(Value::as_object)
            .map(|map| map.keys().filter_map(|index| index.parse().ok()).collect())
            .unwrap_or_default();
        match (result, expected) {
            (Ok(combined), "valid") => equal("verified signature", combined.signature, self.group_signature),
            (Err(CombineError::TooFew { liars, .. }), "invalid") => {
                let mut liars: Vec<_> = liars.into_iter().map(ShareIndex::get).collect();
                let mut expected = overridden;
                liars.sort_unstable();
                expected.sort_unstable();
                equal("liars", liars, expected)
            }
            (other, _) => Err(format!("checked combination gives {other:?}, expected {expected}")),
        }
    }

    fn partials_of(
        &self,
        case: &Value,
        numbers: &[u64],
    ) -> Result<Vec<(ShareIndex, SignatureBytes)>, String> {
        numbers
            .iter()
            .map(|number| {
                let changed =
                    case.get("partial_override").and_then(|changed| changed.get(number.to_string()));
                let signature = match changed {
                    Some(signature) => serde_json::from_value(signature.clone()).map_err(said)?,
                    None => self.partials.get(number).copied().unwrap_or(self.group_signature),
                };
                Ok((share_index(*number)?, signature))
            })
            .collect()
    }
}

fn index_of(value: &Value) -> Result<u64, String> {
    read_as(value, "index")
}

fn share_index(number: u64) -> Result<ShareIndex, String> {
    ShareIndex::new(number).map_err(said)
}

fn public_key(bytes: &PublicKeyBytes) -> Result<PublicKey, String> {
    PublicKey::parse(bytes).map_err(said)
}

fn said(error: impl std::fmt::Display) -> String {
    error.to_string()
}
