//! Who is paid for a validator's blocks: the newest of what its own key has signed, in the lock or in the file of overrides
//! (obol spec 12.7).

use std::collections::BTreeMap;

use chain::deposit::registration_signing_root;
use chain::{ExecutionAddress, ForkVersion, PublicKeyBytes, SignedValidatorRegistration, ValidatorIndex};
use serde::{Deserialize, Serialize};

use crate::bls;
use crate::document::{MAX_VALIDATORS, bounded};
use crate::view::ClusterView;

/// Name of the overrides file in a data directory.
pub const OVERRIDES_FILE: &str = "builder_registrations_overrides.json";
/// Largest overrides file that is read: an entry takes about 500 bytes.
pub const MAX_OVERRIDES_BYTES: usize = 48 * 1024 * 1024;

/// Why an overrides file was refused. One wrong entry spoils the file: half of an owner's wishes is not what they wished.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OverridesError {
    /// Too large.
    #[error("fee recipient overrides: {0} bytes is more than such a file may have")]
    TooLarge(usize),
    /// Not JSON of the right shape.
    #[error("fee recipient overrides: not valid JSON of the expected form ({0}); fetch the file again")]
    Json(String),
    /// Another kind of entry.
    #[error("fee recipient overrides: entry {0} is not of version v1; update this box")]
    Version(usize),
    /// Not signed by the validator it names.
    #[error(
        "fee recipient overrides: entry {0} is not signed by the validator it names; fetch the file again"
    )]
    Signature(usize),
    /// A validator of another cluster.
    #[error(
        "fee recipient overrides: entry {entry} is for {validator}, which is no validator of this cluster"
    )]
    UnknownValidator {
        /// Position in the file.
        entry: usize,
        /// Whom it names.
        validator: PublicKeyBytes,
    },
}

/// One entry, members in any case, as the file is read.
#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    #[serde(alias = "Version", alias = "VERSION")]
    version: String,
    #[serde(default, alias = "V1", skip_serializing_if = "Option::is_none")]
    v1: Option<Signed>,
}

/// A registration with lower-case members or the capitals that other tools write.
#[derive(Debug, Serialize, Deserialize)]
struct Signed {
    #[serde(alias = "Message")]
    message: chain::ValidatorRegistration,
    #[serde(alias = "Signature")]
    signature: chain::SignatureBytes,
}

#[derive(Deserialize)]
#[serde(transparent)]
struct Entries(#[serde(deserialize_with = "bounded::<_, _, MAX_VALIDATORS>")] Vec<Entry>);

/// Reads an overrides file; every entry must be signed by the key it names, and that key must be of this cluster.
pub fn parse_overrides(
    bytes: &[u8],
    view: &ClusterView,
) -> Result<Vec<SignedValidatorRegistration>, OverridesError> {
    if bytes.len() > MAX_OVERRIDES_BYTES {
        return Err(OverridesError::TooLarge(bytes.len()));
    }
    let Entries(entries) =
        serde_json::from_slice(bytes).map_err(|error| OverridesError::Json(error.to_string()))?;
    let known: std::collections::BTreeSet<PublicKeyBytes> =
        view.validators.iter().map(|validator| validator.group_public_key).collect();
    let mut found = Vec::with_capacity(entries.len());
    for (position, entry) in entries.into_iter().enumerate() {
        let signed = entry.v1.filter(|_| entry.version.eq_ignore_ascii_case("v1"));
        let Signed { message, signature } = signed.ok_or(OverridesError::Version(position))?;
        let registration = SignedValidatorRegistration { message, signature };
        let validator = registration.message.pubkey;
        if !known.contains(&validator) {
            return Err(OverridesError::UnknownValidator { entry: position, validator });
        }
        if !is_signed(&registration, view.fork_version) {
            return Err(OverridesError::Signature(position));
        }
        found.push(registration);
    }
    Ok(found)
}

/// Writes an overrides file.
pub fn overrides_file(registrations: &[SignedValidatorRegistration]) -> Vec<u8> {
    let entry = |signed: &SignedValidatorRegistration| Entry {
        version: "v1".to_owned(),
        v1: Some(Signed { message: signed.message, signature: signed.signature }),
    };
    let entries: Vec<Entry> = registrations.iter().map(entry).collect();
    crate::document::to_indented_json(&entries)
}

fn is_signed(registration: &SignedValidatorRegistration, fork_version: ForkVersion) -> bool {
    let root = registration_signing_root(&registration.message, fork_version);
    bls::verify(&registration.message.pubkey, &root.0, &registration.signature)
}

/// The registration of each validator that counts, and who is paid.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Effective {
    registrations: BTreeMap<PublicKeyBytes, SignedValidatorRegistration>,
    fee_recipients: BTreeMap<PublicKeyBytes, ExecutionAddress>,
}

impl Effective {
    /// The newest of the lock's and the overrides'; of equally old ones, the lock's.
    pub fn new(view: &ClusterView, overrides: &[SignedValidatorRegistration]) -> Self {
        let mut effective = Self::default();
        for validator in &view.validators {
            let key = validator.group_public_key;
            effective.fee_recipients.insert(key, validator.fee_recipient);
            if let Some(registration) = validator.builder_registration {
                effective.take(key, registration);
            }
        }
        for registration in overrides {
            let key = registration.message.pubkey;
            let known = effective.registrations.get(&key).map(|known| known.message.timestamp);
            let is_ours = effective.fee_recipients.contains_key(&key);
            if is_ours && known.is_none_or(|known| registration.message.timestamp > known) {
                effective.take(key, *registration);
            }
        }
        effective
    }

    fn take(&mut self, key: PublicKeyBytes, registration: SignedValidatorRegistration) {
        self.fee_recipients.insert(key, registration.message.fee_recipient);
        self.registrations.insert(key, registration);
    }

    /// Puts what counts in place of what the lock says, so that nobody who reads the view has to know of overrides.
    pub fn apply(&self, view: &mut ClusterView) {
        for validator in &mut view.validators {
            let key = validator.group_public_key;
            validator.fee_recipient = self.fee_recipient(&key).unwrap_or(validator.fee_recipient);
            validator.builder_registration =
                self.registrations.get(&key).copied().or(validator.builder_registration);
        }
    }

    /// Who is paid for this validator's blocks.
    pub fn fee_recipient(&self, validator: &PublicKeyBytes) -> Option<ExecutionAddress> {
        self.fee_recipients.get(validator).copied()
    }

    /// The registrations to submit to builders, in the order of the keys. Locks before v1.7 have none.
    pub fn registrations(&self) -> impl Iterator<Item = &SignedValidatorRegistration> {
        self.registrations.values()
    }

    /// What the beacon node is told each epoch (`prepare_beacon_proposer`), for validators that have an index.
    pub fn preparations(
        &self,
        indices: &BTreeMap<PublicKeyBytes, ValidatorIndex>,
    ) -> Vec<(ValidatorIndex, ExecutionAddress)> {
        let pair =
            |(key, index): (&PublicKeyBytes, &ValidatorIndex)| Some((*index, self.fee_recipient(key)?));
        indices.iter().filter_map(pair).collect()
    }
}
