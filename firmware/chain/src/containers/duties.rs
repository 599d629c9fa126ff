//! What the beacon API answers to "when is it my turn".

use crate::{CommitteeIndex, PublicKeyBytes, Slot, ValidatorIndex, decimal};
use serde::{Deserialize, Serialize};

/// `POST /eth/v1/validator/duties/attester/{epoch}`, one entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AttesterDuty {
    /// The validator's key.
    pub pubkey: PublicKeyBytes,
    /// The validator.
    pub validator_index: ValidatorIndex,
    /// Its committee.
    pub committee_index: CommitteeIndex,
    /// Members of that committee.
    #[serde(with = "decimal")]
    pub committee_length: u64,
    /// Committees in that slot.
    #[serde(with = "decimal")]
    pub committees_at_slot: u64,
    /// The validator's place in its committee.
    #[serde(with = "decimal")]
    pub validator_committee_index: u64,
    /// When.
    pub slot: Slot,
}

/// `GET /eth/v1/validator/duties/proposer/{epoch}`, one entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ProposerDuty {
    /// The validator's key.
    pub pubkey: PublicKeyBytes,
    /// The validator.
    pub validator_index: ValidatorIndex,
    /// When.
    pub slot: Slot,
}

/// `POST /eth/v1/validator/duties/sync/{epoch}`, one entry.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SyncDuty {
    /// The validator's key.
    pub pubkey: PublicKeyBytes,
    /// The validator.
    pub validator_index: ValidatorIndex,
    /// Its places in the sync committee; a validator may sit there more than once.
    #[serde(rename = "validator_sync_committee_indices")]
    pub sync_committee_indices: Vec<SyncCommitteePosition>,
}

/// A place in the sync committee.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SyncCommitteePosition(#[serde(with = "decimal")] pub u64);
