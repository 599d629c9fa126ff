//! Who may open a sealed blob, as pure arithmetic on digests: the TPM does the same sums and compares.
//!
//! The policy is `PolicyAuthorize(PCR 11 approvals of the image's key)` followed by `PolicyPCR(literal PCRs)`, in
//! SHA-256. Formulas: TPM 2.0 library specification, part 3, TPM2_PolicyPCR and TPM2_PolicyAuthorize.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

/// A SHA-256 digest.
pub type Digest = [u8; 32];

/// The PCR that holds the measured image and boot phase (systemd-stub, systemd-pcrphase).
pub const SIGNED_PCR: u8 = 11;
/// Largest file this module reads.
const MAX_FILE_BYTES: u64 = 256 * 1024;
/// systemd signs four boot phases per key; nothing sensible holds more than this.
const MAX_APPROVALS: usize = 64;

const CC_POLICY_PCR: u32 = 0x17f;
const CC_POLICY_AUTHORIZE: u32 = 0x16a;
const ALG_RSA: u16 = 0x0001;
const ALG_SHA256: u16 = 0x000b;
const ALG_NULL: u16 = 0x0010;
/// userWithAuth, decrypt, sign: what systemd gives the key too. Part of the key's name, hence of every blob: frozen.
pub(crate) const KEY_ATTRIBUTES: u32 = 0x0006_0040;
/// Stands for 65537 in a TPM's RSA parameters.
const DEFAULT_EXPONENT: u32 = 0;

/// Why a policy could not be read.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// A file is missing or unreadable.
    #[error("cannot read {}: was this system started by a signed unified kernel image?", .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The public key is not what the image carries.
    #[error("{} is not a PEM file with an RSA public key of 2048 to 4096 bits and exponent 65537", .path.display())]
    BadKey {
        /// The file.
        path: PathBuf,
    },
    /// The approvals are not in systemd's format.
    #[error("{} does not hold PCR approvals in systemd's format", .path.display())]
    BadApprovals {
        /// The file.
        path: PathBuf,
    },
    /// A literal PCR that makes no sense.
    #[error(
        "PCR {pcr} cannot be a literal PCR: use numbers from 0 to 23, each once, and never 11, which is signed"
    )]
    BadPcr {
        /// The number.
        pcr: u8,
    },
}

/// Who may open a blob: the image's key, the approvals at hand, and the PCRs that must stay as they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    pub(crate) key: ApprovalKey,
    pub(crate) approvals: Vec<Approval>,
    pub(crate) literal_pcrs: Vec<u8>,
}

/// The RSA key that approves PCR 11 values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ApprovalKey {
    pub(crate) modulus: Vec<u8>,
}

/// One approved PCR 11 value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Approval {
    /// Policy digest of `PolicyPCR(11)` with the approved value.
    pub(crate) policy: Digest,
    /// RSASSA-PKCS1v1.5 with SHA-256 over that digest.
    pub(crate) signature: Vec<u8>,
}

impl Policy {
    /// Reads the files that systemd-stub passes on (`/run/systemd/tpm2-pcr-public-key.pem`, `…-signature.json`).
    pub fn load(public_key: &Path, approvals: &Path, literal_pcrs: &[u8]) -> Result<Self, PolicyError> {
        let key = ApprovalKey::from_pem(&read(public_key)?)
            .ok_or_else(|| PolicyError::BadKey { path: public_key.to_owned() })?;
        let approvals = parse_approvals(&read(approvals)?)
            .ok_or_else(|| PolicyError::BadApprovals { path: approvals.to_owned() })?;
        Self::new(key, approvals, literal_pcrs)
    }

    /// Reads the two files' contents; [`Policy::load`] tells which of them is wrong.
    #[doc(hidden)]
    pub fn parse(public_key: &[u8], approvals: &[u8], literal_pcrs: &[u8]) -> Option<Self> {
        Self::new(ApprovalKey::from_pem(public_key)?, parse_approvals(approvals)?, literal_pcrs).ok()
    }

    fn new(key: ApprovalKey, approvals: Vec<Approval>, literal_pcrs: &[u8]) -> Result<Self, PolicyError> {
        let mut sorted = literal_pcrs.to_vec();
        sorted.sort_unstable();
        let twice = sorted.windows(2).find(|pair| pair[0] == pair[1]).map(|pair| pair[0]);
        let odd = sorted.iter().copied().find(|pcr| *pcr > 23 || *pcr == SIGNED_PCR);
        if let Some(pcr) = twice.or(odd) {
            return Err(PolicyError::BadPcr { pcr });
        }
        Ok(Self { key, approvals, literal_pcrs: sorted })
    }

    /// The PCRs that must be as they were when sealing.
    pub fn literal_pcrs(&self) -> &[u8] {
        &self.literal_pcrs
    }

    /// The approvals that cover this PCR 11 value.
    pub(crate) fn approvals_of(&self, pcr11: &Digest) -> impl Iterator<Item = &Approval> {
        let wanted = policy_pcr(&[0; 32], &[SIGNED_PCR], &[*pcr11]);
        self.approvals.iter().filter(move |approval| approval.policy == wanted)
    }

    /// The digest a sealed object carries: it opens for sessions that arrive at the same digest.
    pub(crate) fn digest(&self, literal_values: &[Digest]) -> Digest {
        let authorized = policy_authorize(&self.key.name());
        if self.literal_pcrs.is_empty() {
            return authorized;
        }
        policy_pcr(&authorized, &self.literal_pcrs, literal_values)
    }
}

impl ApprovalKey {
    fn from_pem(pem: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(pem).ok()?;
        let body = text.split_once("-----BEGIN PUBLIC KEY-----")?.1.split_once("-----END PUBLIC KEY-----")?.0;
        let body: String = body.chars().filter(|letter| !letter.is_ascii_whitespace()).collect();
        Self::from_der(&base64::engine::general_purpose::STANDARD.decode(body).ok()?)
    }

    /// A SubjectPublicKeyInfo (RFC 5280) with an RSAPublicKey (RFC 8017) in it, and nothing around.
    fn from_der(der: &[u8]) -> Option<Self> {
        const RSA_ENCRYPTION: [u8; 9] = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
        const EXPONENT_65537: [u8; 3] = [1, 0, 1];
        let (info, rest) = tlv(der, 0x30)?;
        let (algorithm, info) = tlv(info, 0x30)?;
        let (oid, parameters) = tlv(algorithm, 0x06)?;
        let (bits, after_bits) = tlv(info, 0x03)?;
        let (unused_bits, key) = bits.split_first()?;
        let (numbers, after_key) = tlv(key, 0x30)?;
        let (modulus, numbers) = tlv(numbers, 0x02)?;
        let (exponent, numbers) = tlv(numbers, 0x02)?;
        let whole = rest.is_empty() && after_bits.is_empty() && after_key.is_empty() && numbers.is_empty();
        let modulus = modulus.strip_prefix(&[0])?; // The top bit of an RSA modulus is set, so DER adds a zero.
        let fits = matches!(modulus.len(), 256 | 384 | 512) && modulus.first()? & 0x80 != 0;
        let rsa = oid == RSA_ENCRYPTION && parameters == [0x05, 0x00] && exponent == EXPONENT_65537;
        (whole && fits && rsa && *unused_bits == 0).then(|| Self { modulus: modulus.to_vec() })
    }

    pub(crate) fn bits(&self) -> u16 {
        u16::try_from(self.modulus.len().saturating_mul(8)).unwrap_or(u16::MAX)
    }

    /// The TPM name of this key: the hash of its public area.
    pub(crate) fn name(&self) -> Vec<u8> {
        let mut area = Vec::new();
        area.extend(ALG_RSA.to_be_bytes());
        area.extend(ALG_SHA256.to_be_bytes());
        area.extend(KEY_ATTRIBUTES.to_be_bytes());
        area.extend(0_u16.to_be_bytes()); // No policy of its own.
        area.extend(ALG_NULL.to_be_bytes()); // No symmetric algorithm,
        area.extend(ALG_NULL.to_be_bytes()); // and no fixed scheme.
        area.extend(self.bits().to_be_bytes());
        area.extend(DEFAULT_EXPONENT.to_be_bytes());
        area.extend((self.bits() / 8).to_be_bytes());
        area.extend(&self.modulus);
        let mut name = ALG_SHA256.to_be_bytes().to_vec();
        name.extend(Sha256::digest(&area));
        name
    }
}

/// One DER element with the wanted tag: its content, and what follows it.
fn tlv(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (found, rest) = der.split_first()?;
    let (first, rest) = rest.split_first()?;
    let (length, rest) = match *first {
        short @ 0..=0x7f => (usize::from(short), rest),
        0x81 => (usize::from(*rest.first()?), rest.get(1..)?),
        0x82 => (usize::from(u16::from_be_bytes([*rest.first()?, *rest.get(1)?])), rest.get(2..)?),
        _ => return None,
    };
    (*found == tag).then_some(())?;
    rest.split_at_checked(length)
}

#[derive(Deserialize)]
struct ApprovalsFile {
    sha256: Vec<ApprovalEntry>,
}

#[derive(Deserialize)]
struct ApprovalEntry {
    pcrs: Vec<u8>,
    pol: String,
    sig: String,
}

/// systemd's `{"sha256":[{"pcrs":[11],"pkfp":…,"pol":hex,"sig":base64}]}`. Entries for other PCRs are of no use to us.
fn parse_approvals(json: &[u8]) -> Option<Vec<Approval>> {
    let file: ApprovalsFile = serde_json::from_slice(json).ok()?;
    if file.sha256.len() > MAX_APPROVALS {
        return None;
    }
    file.sha256
        .into_iter()
        .filter(|entry| entry.pcrs == [SIGNED_PCR])
        .map(|entry| {
            let policy = hex::decode(&entry.pol).ok()?.try_into().ok()?;
            let signature = base64::engine::general_purpose::STANDARD.decode(&entry.sig).ok()?;
            (signature.len() <= 512).then_some(Approval { policy, signature })
        })
        .collect()
}

fn read(path: &Path) -> Result<Vec<u8>, PolicyError> {
    use std::io::Read as _;
    let unreadable = |source| PolicyError::Unreadable { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(unreadable)?;
    file.take(MAX_FILE_BYTES).read_to_end(&mut bytes).map_err(unreadable)?;
    Ok(bytes)
}

/// `TPM2_PolicyPCR` on a session whose digest is `before`. `pcrs` ascend, `values` are theirs.
pub(crate) fn policy_pcr(before: &Digest, pcrs: &[u8], values: &[Digest]) -> Digest {
    let mut hash = Sha256::new();
    hash.update(before);
    hash.update(CC_POLICY_PCR.to_be_bytes());
    hash.update(1_u32.to_be_bytes());
    hash.update(ALG_SHA256.to_be_bytes());
    hash.update([3]);
    hash.update(selection(pcrs));
    hash.update(Sha256::digest(values.concat()));
    hash.finalize().into()
}

/// `TPM2_PolicyAuthorize` by the key of that name, with an empty policy reference.
fn policy_authorize(key_name: &[u8]) -> Digest {
    let mut hash = Sha256::new();
    hash.update([0; 32]);
    hash.update(CC_POLICY_AUTHORIZE.to_be_bytes());
    hash.update(key_name);
    Sha256::digest(hash.finalize()).into()
}

fn selection(pcrs: &[u8]) -> [u8; 3] {
    let mut bits = [0; 3];
    for pcr in pcrs {
        if let Some(byte) = bits.get_mut(usize::from(pcr / 8)) {
            *byte |= 1 << (pcr % 8);
        }
    }
    bits
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_pcr_selection_is_a_bitmap_with_the_low_pcrs_first() {
        assert_eq!(selection(&[7, 12]), [0x80, 0x10, 0]);
        assert_eq!(selection(&[11]), [0, 0x08, 0]);
    }

    #[test]
    fn literal_pcrs_are_sorted_and_sane() {
        let key = ApprovalKey { modulus: vec![0x80; 256] };
        let policy = |pcrs: &[u8]| Policy::new(key.clone(), vec![], pcrs);
        assert_eq!(policy(&[12, 7]).unwrap().literal_pcrs(), [7, 12]);
        for (bad, which) in [(&[7, 7][..], 7), (&[24][..], 24), (&[7, 11][..], 11)] {
            match policy(bad) {
                Err(PolicyError::BadPcr { pcr }) => assert_eq!(pcr, which),
                other => panic!("{bad:?}: {other:?}"),
            }
        }
    }

    #[test]
    fn approvals_read_in_systemd_s_format() {
        let json = br#"{"sha1":[],"sha256":[
            {"pcrs":[11],"pkfp":"00","pol":"0101010101010101010101010101010101010101010101010101010101010101","sig":"AAEC"},
            {"pcrs":[4],"pkfp":"00","pol":"zz","sig":""}]}"#;
        let approvals = parse_approvals(json).unwrap();
        assert_eq!(approvals, [Approval { policy: [1; 32], signature: vec![0, 1, 2] }]);
        for bad in ["", "[]", r#"{"sha256":[{"pcrs":[11],"pol":"00","sig":"AA=="}]}"#] {
            assert!(parse_approvals(bad.as_bytes()).is_none(), "{bad}");
        }
    }

    #[test]
    fn the_approvals_that_systemd_makes_cover_the_values_that_it_measures() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/systemd-252");
        let policy =
            Policy::load(&folder.join("public.pem"), &folder.join("signature.json"), &[7, 12]).unwrap();
        let values = std::fs::read_to_string(folder.join("values.txt")).unwrap();
        let values: Vec<Digest> = values
            .lines()
            .filter_map(|line| hex::decode(line.strip_prefix("11:sha256=")?).ok()?.try_into().ok())
            .collect();
        assert_eq!(values.len(), 4, "one for each phase of the boot");
        for value in values {
            assert_eq!(policy.approvals_of(&value).count(), 1);
        }
        assert_eq!(policy.approvals_of(&[0; 32]).count(), 0);
    }

    proptest! {
        #[test]
        fn random_keys_and_approvals_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..700)) {
            let _ = ApprovalKey::from_der(&bytes);
            let _ = ApprovalKey::from_pem(&bytes);
            let _ = parse_approvals(&bytes);
        }
    }
}
