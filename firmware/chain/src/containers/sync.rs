//! Sync-committee messages, contributions and aggregates.

use crate::{Mainnet, Preset, Root, SignatureBytes, Slot, ValidatorIndex, decimal};
use serde::{Deserialize, Serialize};
use ssz_derive::{Decode, Encode};
use ssz_types::BitVector;
use tree_hash_derive::TreeHash;

/// One member's vote for a block. Its signature is over the block root alone.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, Default, Serialize, Deserialize, Encode, Decode, TreeHash,
)]
pub struct SyncCommitteeMessage {
    /// The slot of the duty.
    pub slot: Slot,
    /// The head of the chain.
    pub beacon_block_root: Root,
    /// The member.
    pub validator_index: ValidatorIndex,
    /// Its signature.
    pub signature: SignatureBytes,
}

/// The votes of one subcommittee.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Encode, Decode, TreeHash)]
#[serde(bound = "P: Preset")]
pub struct SyncCommitteeContribution<P: Preset = Mainnet> {
    /// The slot of the duty.
    pub slot: Slot,
    /// The head of the chain.
    pub beacon_block_root: Root,
    /// Which subcommittee.
    #[serde(with = "decimal")]
    pub subcommittee_index: u64,
    /// Who of it voted.
    pub aggregation_bits: BitVector<P::SyncSubcommitteeSize>,
    /// The aggregate of the voters' signatures.
    pub signature: SignatureBytes,
}

/// A contribution and the proof that its author was chosen to make it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Encode, Decode, TreeHash)]
#[serde(bound = "P: Preset")]
pub struct ContributionAndProof<P: Preset = Mainnet> {
    /// The author.
    pub aggregator_index: ValidatorIndex,
    /// The contribution.
    pub contribution: SyncCommitteeContribution<P>,
    /// The author's signature over [`SyncAggregatorSelectionData`].
    pub selection_proof: SignatureBytes,
}

/// A [`ContributionAndProof`] with its author's signature.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Encode, Decode, TreeHash)]
#[serde(bound = "P: Preset")]
pub struct SignedContributionAndProof<P: Preset = Mainnet> {
    /// What was signed.
    pub message: ContributionAndProof<P>,
    /// The author's signature.
    pub signature: SignatureBytes,
}

/// What a member signs to learn whether it aggregates.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, Default, Serialize, Deserialize, Encode, Decode, TreeHash,
)]
pub struct SyncAggregatorSelectionData {
    /// The slot of the duty.
    pub slot: Slot,
    /// Which subcommittee.
    #[serde(with = "decimal")]
    pub subcommittee_index: u64,
}

/// The whole committee's votes, as a block carries them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Encode, Decode, TreeHash)]
#[serde(bound = "P: Preset")]
pub struct SyncAggregate<P: Preset = Mainnet> {
    /// Who voted.
    pub sync_committee_bits: BitVector<P::SyncCommitteeSize>,
    /// The aggregate of the voters' signatures.
    pub sync_committee_signature: SignatureBytes,
}
