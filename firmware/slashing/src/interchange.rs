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
    #[error("its interchange format version is unknown; this box reads version 5")]
    Version,
    /// Another chain.
    #[error("the file is for another chain than this box; export it from the right network")]
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
            return Err(InterchangeError::Version);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Protection, Retention};
    use chain::{Epoch, Slot};
    use proptest::prelude::*;

    const CHAIN: Root = Root([3; 32]);
    const EXAMPLE: &str = concat!(
        r#"{"metadata":{"interchange_format_version":"5","genesis_validators_root":"#,
        r#""0x0303030303030303030303030303030303030303030303030303030303030303","tool":"x"},"#,
        r#""data":[{"pubkey":"0x010101010101010101010101010101010101010101010101010101010101010101010101010101010101010101010101","#,
        r#""signed_blocks":[{"slot":"81952","signing_root":null},{"slot":"81951"}],"#,
        r#""signed_attestations":[{"source_epoch":"2290","target_epoch":"3007"},{"source_epoch":"2290","target_epoch":"3008"}]}]}"#,
    );

    #[test]
    fn another_version_or_chain_is_refused() {
        assert!(Interchange::parse(EXAMPLE.as_bytes(), CHAIN).is_ok());
        let other = Interchange::parse(EXAMPLE.as_bytes(), Root([4; 32]));
        assert!(matches!(other, Err(InterchangeError::OtherChain { .. })));
        let newer = EXAMPLE.replace(r#""5""#, r#""6""#);
        assert!(matches!(Interchange::parse(newer.as_bytes(), CHAIN), Err(InterchangeError::Version)));
        for broken in
            ["", "{}", "[]", "null", &EXAMPLE.replace("2290", "-1"), &EXAMPLE.replace("0x0101", "0x01")]
        {
            assert!(matches!(Interchange::parse(broken.as_bytes(), CHAIN), Err(InterchangeError::Format(_))));
        }
    }

    #[test]
    fn an_unusable_file_changes_nothing() {
        let mut protection = Protection::new(Root([4; 32]), Retention::Complete);
        let before = protection.clone();
        let interchange = Interchange::parse(EXAMPLE.as_bytes(), CHAIN).unwrap();
        assert!(protection.import(&interchange).is_err());
        assert_eq!(protection, before);
    }

    #[test]
    fn a_minimal_export_holds_the_highest_values() {
        let mut protection = Protection::new(CHAIN, Retention::Complete);
        protection.import(&Interchange::parse(EXAMPLE.as_bytes(), CHAIN).unwrap()).unwrap();
        let minimal = protection.export_minimal();
        let [record] = minimal.data.as_slice() else { panic!("one record") };
        assert_eq!(record.signed_blocks, [SignedBlock { slot: Slot(81952), signing_root: None }]);
        let highest =
            SignedAttestation { source_epoch: Epoch(2290), target_epoch: Epoch(3008), signing_root: None };
        assert_eq!(record.signed_attestations, [highest]);
    }

    #[test]
    fn a_complete_export_reads_back_as_the_same_history() {
        let mut protection = Protection::new(CHAIN, Retention::Complete);
        protection.import(&Interchange::parse(EXAMPLE.as_bytes(), CHAIN).unwrap()).unwrap();
        let bytes = serde_json::to_vec(&protection.export_complete()).unwrap();
        let mut again = Protection::new(CHAIN, Retention::Complete);
        again.import(&Interchange::parse(&bytes, CHAIN).unwrap()).unwrap();
        assert_eq!(again, protection);
    }

    proptest! {
        #[test]
        fn random_and_mutated_files_never_panic(
            noise in proptest::collection::vec(any::<u8>(), 0..100),
            place in 0..EXAMPLE.len(),
            byte: u8,
        ) {
            let _ = Interchange::parse(&noise, CHAIN);
            let mut mutated = EXAMPLE.as_bytes().to_vec();
            mutated[place] = byte;
            if let Ok(interchange) = Interchange::parse(&mutated, CHAIN) {
                let mut protection = Protection::new(CHAIN, Retention::Complete);
                prop_assert!(protection.import(&interchange).is_ok());
            }
        }
    }
}
