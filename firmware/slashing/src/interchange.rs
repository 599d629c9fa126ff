//! The interchange format of EIP-3076, version 5.

use crate::history::{History, SignedAttestation, SignedBlock};
use chain::{PublicKeyBytes, Root};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The only version that exists.
const FORMAT_VERSION: &str = "5";
/// A file larger than this is refused before it is parsed. A complete history of 1000 keys over a year has about 9 GB and
/// must be exported minimal.
const MAX_BYTES: usize = 128 << 20;

/// A whole interchange file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interchange {
    /// Which format and chain.
    pub metadata: Metadata,
    /// One record per key; a key may occur more than once.
    pub data: Vec<ValidatorRecord>,
}

/// The head of an interchange file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metadata {
    /// Always "5".
    pub interchange_format_version: String,
    /// The root that names the chain.
    pub genesis_validators_root: Root,
}

/// What one key has signed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ValidatorRecord {
    /// The key.
    pub pubkey: PublicKeyBytes,
    /// Its blocks.
    pub signed_blocks: Vec<SignedBlock>,
    /// Its attestations.
    pub signed_attestations: Vec<SignedAttestation>,
}

/// Why an interchange file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InterchangeError {
    /// Too large to read.
    #[error("the slashing protection file has {0} bytes, more than {MAX_BYTES}; export a minimal one")]
    TooLarge(usize),
    /// Not the format.
    #[error("the file is not a slashing protection interchange file (EIP-3076)")]
    Format(#[from] serde_json::Error),
    /// Another version.
    #[error("interchange format version {0:?} is unknown; this box reads version 5")]
    Version(String),
    /// Another chain.
    #[error(
        "the file is for the chain {found}, this box runs on {expected}; export it from the right network"
    )]
    OtherChain {
        /// The chain we are on.
        expected: Root,
        /// The chain of the file.
        found: Root,
    },
}

impl Interchange {
    /// Reads a file for a given chain. Unknown fields are passed over: clients add their own.
    pub fn parse(bytes: &[u8], genesis_validators_root: Root) -> Result<Self, InterchangeError> {
        if bytes.len() > MAX_BYTES {
            return Err(InterchangeError::TooLarge(bytes.len()));
        }
        let interchange: Self = serde_json::from_slice(bytes)?;
        interchange.check(genesis_validators_root)?;
        Ok(interchange)
    }

    /// Whether version and chain are ours.
    pub fn check(&self, genesis_validators_root: Root) -> Result<(), InterchangeError> {
        let Metadata { interchange_format_version: version, genesis_validators_root: found } = &self.metadata;
        if version != FORMAT_VERSION {
            // What is quoted to the owner is bounded.
            return Err(InterchangeError::Version(version.chars().take(16).collect()));
        }
        if *found != genesis_validators_root {
            return Err(InterchangeError::OtherChain { expected: genesis_validators_root, found: *found });
        }
        Ok(())
    }

    /// The entries of each key of the file, records of the same key put together.
    pub fn by_key(&self) -> BTreeMap<PublicKeyBytes, (Vec<SignedBlock>, Vec<SignedAttestation>)> {
        let mut by_key: BTreeMap<PublicKeyBytes, (Vec<SignedBlock>, Vec<SignedAttestation>)> =
            BTreeMap::new();
        for record in &self.data {
            let (blocks, attestations) = by_key.entry(record.pubkey).or_default();
            blocks.extend(&record.signed_blocks);
            attestations.extend(&record.signed_attestations);
        }
        by_key
    }

    /// A file with everything the histories know.
    pub fn complete<'a>(
        genesis_validators_root: Root,
        histories: impl IntoIterator<Item = &'a History>,
    ) -> Self {
        Self::of(genesis_validators_root, histories.into_iter().map(History::record))
    }

    /// A file with one entry per key and kind: the highest slot, source and target.
    pub fn minimal<'a>(
        genesis_validators_root: Root,
        histories: impl IntoIterator<Item = &'a History>,
    ) -> Self {
        Self::of(genesis_validators_root, histories.into_iter().map(History::minimal_record))
    }

    fn of(genesis_validators_root: Root, data: impl Iterator<Item = ValidatorRecord>) -> Self {
        let metadata =
            Metadata { interchange_format_version: FORMAT_VERSION.to_owned(), genesis_validators_root };
        Self { metadata, data: data.collect() }
    }
}
