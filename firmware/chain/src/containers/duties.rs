//! What the beacon API answers to "when is it my turn", and what it is told before a turn comes.

use crate::{
    CommitteeIndex, Epoch, ExecutionAddress, PublicKeyBytes, SignatureBytes, Slot, ValidatorIndex, decimal,
};
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

/// `POST /eth/v1/validator/beacon_committee_subscriptions`, one entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct BeaconCommitteeSubscription {
    /// The attester.
    pub validator_index: ValidatorIndex,
    /// Its committee.
    pub committee_index: CommitteeIndex,
    /// Committees in that slot.
    #[serde(with = "decimal")]
    pub committees_at_slot: u64,
    /// When it attests.
    pub slot: Slot,
    /// Whether the beacon node must collect the committee's votes for it.
    pub is_aggregator: bool,
}

/// `POST /eth/v1/validator/sync_committee_subscriptions`, one entry.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SyncCommitteeSubscription {
    /// The member.
    pub validator_index: ValidatorIndex,
    /// Its places in the committee.
    pub sync_committee_indices: Vec<SyncCommitteePosition>,
    /// The first epoch in which it has no place any more.
    pub until_epoch: Epoch,
}

/// `POST /eth/v1/validator/prepare_beacon_proposer`, one entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ProposerPreparation {
    /// The validator that may come to propose.
    pub validator_index: ValidatorIndex,
    /// Who is paid.
    pub fee_recipient: ExecutionAddress,
}

/// `POST /eth/v1/validator/beacon_committee_selections`, one entry: the proof of being chosen as an aggregator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BeaconCommitteeSelection {
    /// The validator.
    pub validator_index: ValidatorIndex,
    /// The slot signed.
    pub slot: Slot,
    /// The signature.
    pub selection_proof: SignatureBytes,
}

/// `POST /eth/v1/validator/sync_committee_selections`, one entry: the same for a sync subcommittee.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncCommitteeSelection {
    /// The validator.
    pub validator_index: ValidatorIndex,
    /// The slot signed.
    pub slot: Slot,
    /// The subcommittee signed.
    #[serde(with = "decimal")]
    pub subcommittee_index: u64,
    /// The signature.
    pub selection_proof: SignatureBytes,
}
