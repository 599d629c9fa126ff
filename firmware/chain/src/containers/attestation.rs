//! Votes on the chain's head, and their aggregates.

use crate::{CommitteeIndex, Epoch, Mainnet, Preset, Root, SignatureBytes, Slot, ValidatorIndex};
use serde::{Deserialize, Serialize};
use ssz_derive::{Decode, Encode};
use ssz_types::{BitList, BitVector, VariableList};
use tree_hash_derive::TreeHash;
use typenum::U2048;

/// An epoch and the block that stands for it.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Default,
    Serialize,
    Deserialize,
    Encode,
    Decode,
    TreeHash,
)]
pub struct Checkpoint {
    /// The epoch.
    pub epoch: Epoch,
    /// Its first block, or the last one before.
    pub root: Root,
}

/// The vote itself: what an attester signs.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Default,
    Serialize,
    Deserialize,
    Encode,
    Decode,
    TreeHash,
)]
pub struct AttestationData {
    /// The slot of the duty.
    pub slot: Slot,
    /// The committee before electra; zero from electra on (gloas: payload status).
    pub index: CommitteeIndex,
    /// The head of the chain.
    pub beacon_block_root: Root,
    /// The justified checkpoint.
    pub source: Checkpoint,
    /// The checkpoint of the slot's epoch.
    pub target: Checkpoint,
}

/// An attestation of one committee, up to deneb.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Encode, Decode, TreeHash)]
pub struct Phase0Attestation {
    /// Who of the committee voted.
    pub aggregation_bits: BitList<U2048>,
    /// The vote.
    pub data: AttestationData,
    /// The aggregate of the voters' signatures.
    pub signature: SignatureBytes,
}

/// An attestation across committees, from electra on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Encode, Decode, TreeHash)]
#[serde(bound = "P: Preset")]
pub struct Attestation<P: Preset = Mainnet> {
    /// Who voted, committee after committee.
    pub aggregation_bits: BitList<P::MaxValidatorsPerSlot>,
    /// The vote.
    pub data: AttestationData,
    /// The aggregate of the voters' signatures.
    pub signature: SignatureBytes,
    /// Which committees `aggregation_bits` covers.
    pub committee_bits: BitVector<P::MaxCommitteesPerSlot>,
}

/// An attestation of one validator on its way to the network, from electra on.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, Default, Serialize, Deserialize, Encode, Decode, TreeHash,
)]
pub struct SingleAttestation {
    /// The attester's committee.
    pub committee_index: CommitteeIndex,
    /// The attester.
    pub attester_index: ValidatorIndex,
    /// The vote.
    pub data: AttestationData,
    /// The attester's signature.
    pub signature: SignatureBytes,
}

/// An attestation that names its voters, from electra on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Encode, Decode, TreeHash)]
#[serde(bound = "P: Preset")]
pub struct IndexedAttestation<P: Preset = Mainnet> {
    /// The voters in ascending order.
    pub attesting_indices: VariableList<ValidatorIndex, P::MaxValidatorsPerSlot>,
    /// The vote.
    pub data: AttestationData,
    /// The aggregate of the voters' signatures.
    pub signature: SignatureBytes,
}

/// The proof that attesters broke the rules.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Encode, Decode, TreeHash)]
#[serde(bound = "P: Preset")]
pub struct AttesterSlashing<P: Preset = Mainnet> {
    /// One of two votes that may not coexist.
    pub attestation_1: IndexedAttestation<P>,
    /// The other.
    pub attestation_2: IndexedAttestation<P>,
}

/// An aggregate and the proof that its author was chosen to make it, from electra on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Encode, Decode, TreeHash)]
#[serde(bound = "P: Preset")]
pub struct AggregateAndProof<P: Preset = Mainnet> {
    /// The author.
    pub aggregator_index: ValidatorIndex,
    /// The aggregate.
    pub aggregate: Attestation<P>,
    /// The author's signature over the slot.
    pub selection_proof: SignatureBytes,
}

/// An [`AggregateAndProof`] with its author's signature.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Encode, Decode, TreeHash)]
#[serde(bound = "P: Preset")]
pub struct SignedAggregateAndProof<P: Preset = Mainnet> {
    /// What was signed.
    pub message: AggregateAndProof<P>,
    /// The author's signature.
    pub signature: SignatureBytes,
}

/// An aggregate of one committee, up to deneb.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Encode, Decode, TreeHash)]
pub struct Phase0AggregateAndProof {
    /// The author.
    pub aggregator_index: ValidatorIndex,
    /// The aggregate.
    pub aggregate: Phase0Attestation,
    /// The author's signature over the slot.
    pub selection_proof: SignatureBytes,
}
