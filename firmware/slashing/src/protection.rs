//! The histories of all keys of one chain.

use crate::check::{
    AttestationPermit, AttestationVote, BlockPermit, BlockProposal, Refusal, check_attestation, check_block,
};
use crate::history::{History, RecordError, Retention, SignedAttestation, SignedBlock};
use crate::interchange::{Interchange, InterchangeError};
use chain::{PublicKeyBytes, Root};
use std::collections::BTreeMap;

/// Why a history was not taken over.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The file is unusable.
    #[error("the slashing protection history was not imported")]
    File(#[from] InterchangeError),
    /// The owner said "never signed" of a key that has signed.
    #[error("key {0} has a signing history already; it cannot be declared as never used")]
    AlreadyKnown(PublicKeyBytes),
}

/// What every key of one chain has signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Protection {
    genesis_validators_root: Root,
    retention: Retention,
    histories: BTreeMap<PublicKeyBytes, History>,
}

impl Protection {
    /// No key is known yet.
    pub fn new(genesis_validators_root: Root, retention: Retention) -> Self {
        Self { genesis_validators_root, retention, histories: BTreeMap::new() }
    }

    /// Adds a history as the ledger stored it.
    pub fn restore(&mut self, history: History) {
        self.histories.insert(history.key(), history);
    }

    /// The chain's root.
    pub fn genesis_validators_root(&self) -> Root {
        self.genesis_validators_root
    }

    /// The history of a key, when one is known.
    pub fn history(&self, key: &PublicKeyBytes) -> Option<&History> {
        self.histories.get(key)
    }

    /// Every history, by key.
    pub fn histories(&self) -> impl Iterator<Item = &History> {
        self.histories.values()
    }

    /// Starts the history of a key that has never signed.
    pub fn declare_never_signed(&mut self, key: PublicKeyBytes) -> Result<(), ImportError> {
        if self.histories.contains_key(&key) {
            return Err(ImportError::AlreadyKnown(key));
        }
        self.histories.insert(key, History::never_signed(key, self.retention));
        Ok(())
    }

    /// Whether a key may sign an attestation. An unknown key may not.
    pub fn check_attestation(
        &self,
        key: &PublicKeyBytes,
        vote: &AttestationVote,
    ) -> Result<AttestationPermit, Refusal> {
        check_attestation(self.histories.get(key).ok_or(Refusal::UnknownKey { key: *key })?, vote)
    }

    /// Whether a key may sign a block. An unknown key may not.
    pub fn check_block(
        &self,
        key: &PublicKeyBytes,
        proposal: &BlockProposal,
    ) -> Result<BlockPermit, Refusal> {
        check_block(self.histories.get(key).ok_or(Refusal::UnknownKey { key: *key })?, proposal)
    }

    /// Takes note of an attestation that is durable in the ledger.
    pub fn record_attestation(
        &mut self,
        permit: AttestationPermit,
    ) -> Result<SignedAttestation, RecordError> {
        let key = permit.key();
        self.histories.get_mut(&key).ok_or(RecordError::OtherKey(key))?.record_attestation(permit)
    }

    /// Takes note of a block that is durable in the ledger.
    pub fn record_block(&mut self, permit: BlockPermit) -> Result<SignedBlock, RecordError> {
        let key = permit.key();
        self.histories.get_mut(&key).ok_or(RecordError::OtherKey(key))?.record_block(permit)
    }

    /// Takes over a file: all of it or, when it is for another chain or format, nothing. Gives the keys it told about.
    ///
    /// A file that shows slashable signatures is taken over too. They cannot be undone, and knowing them refuses more.
    pub fn import(&mut self, interchange: &Interchange) -> Result<Vec<PublicKeyBytes>, ImportError> {
        interchange.check(self.genesis_validators_root)?;
        let by_key = interchange.by_key();
        let keys = by_key.keys().copied().collect();
        for (key, (blocks, attestations)) in by_key {
            let history =
                self.histories.entry(key).or_insert_with(|| History::never_signed(key, self.retention));
            history.learn(blocks, attestations);
        }
        Ok(keys)
    }

    /// The same as the box does it: nothing is allowed afterwards that was refused before; see [`History::adopt`].
    pub fn adopt(&mut self, interchange: &Interchange) -> Result<Vec<PublicKeyBytes>, ImportError> {
        interchange.check(self.genesis_validators_root)?;
        let by_key = interchange.by_key();
        let keys = by_key.keys().copied().collect();
        for (key, (blocks, attestations)) in by_key {
            let history =
                self.histories.entry(key).or_insert_with(|| History::never_signed(key, self.retention));
            history.adopt(blocks, attestations);
        }
        Ok(keys)
    }

    /// Forgets what lies far behind, for every key; see [`History::prune`].
    pub fn prune(&mut self, slots: u64, epochs: u64) {
        self.histories.values_mut().for_each(|history| history.prune(slots, epochs));
    }

    /// A file with everything known.
    pub fn export_complete(&self) -> Interchange {
        Interchange::complete(self.genesis_validators_root, self.histories())
    }

    /// A file with the highest values only.
    pub fn export_minimal(&self) -> Interchange {
        Interchange::minimal(self.genesis_validators_root, self.histories())
    }
}
