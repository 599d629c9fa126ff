//! Containers of the draft fork gloas (consensus-specs v1.7.0-alpha.13: EIP-7732, EIP-7688, EIP-7928, EIP-8282). Drafts change:
//! nothing but conformance tests and domains may rely on them yet.
//!
//! Types that are the same as before (attestation data, headers, exits, sync committees, deposits) stay where they are.

use super::attestation::AttestationData;
use super::block::{Deposit, Eth1Data, ProposerSlashing};
use super::execution::{ConsolidationRequest, DepositRequest, Withdrawal, WithdrawalRequest};
use super::message::{SignedBlsToExecutionChange, SignedVoluntaryExit};
use super::sync::SyncAggregate;
use crate::progressive::{ProgressiveBits, ProgressiveBytes, ProgressiveList, progressive_container};
use crate::{
    Bytes32, ExecutionAddress, Gwei, KzgCommitment, LogsBloom, Mainnet, Preset, PublicKeyBytes, Root,
    SignatureBytes, Slot, Uint256, ValidatorIndex, decimal,
};
use serde::{Deserialize, Serialize};
use ssz_derive::{Decode, Encode};
use ssz_types::{BitVector, VariableList};
use tree_hash_derive::TreeHash;
use typenum::U32;

/// An attestation across committees.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Encode, Decode)]
#[serde(bound = "P: Preset")]
pub struct Attestation<P: Preset = Mainnet> {
    /// Who voted, committee after committee.
    pub aggregation_bits: ProgressiveBits,
    /// The vote.
    pub data: AttestationData,
    /// The aggregate of the voters' signatures.
    pub signature: SignatureBytes,
    /// Which committees `aggregation_bits` covers.
    pub committee_bits: BitVector<P::MaxCommitteesPerSlot>,
}
progressive_container!(Attestation<P> { aggregation_bits, data, signature, committee_bits });

/// An attestation that names its voters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Encode, Decode)]
pub struct IndexedAttestation {
    /// The voters in ascending order.
    pub attesting_indices: ProgressiveList<ValidatorIndex>,
    /// The vote.
    pub data: AttestationData,
    /// The aggregate of the voters' signatures.
    pub signature: SignatureBytes,
}
progressive_container!(IndexedAttestation { attesting_indices, data, signature });

/// The proof that attesters broke the rules.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Encode, Decode, TreeHash)]
pub struct AttesterSlashing {
    /// One of two votes that may not coexist.
    pub attestation_1: IndexedAttestation,
    /// The other.
    pub attestation_2: IndexedAttestation,
}

/// An aggregate and the proof that its author was chosen to make it.
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

/// A vote on whether a payload arrived in time: what a member of the payload committee signs.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, Default, Serialize, Deserialize, Encode, Decode, TreeHash,
)]
pub struct PayloadAttestationData {
    /// The block whose payload it is about.
    pub beacon_block_root: Root,
    /// The slot of the duty.
    pub slot: Slot,
    /// Whether the payload was there.
    pub payload_present: bool,
    /// Whether its blobs were.
    pub blob_data_available: bool,
}

/// One member's vote on a payload.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, Default, Serialize, Deserialize, Encode, Decode, TreeHash,
)]
pub struct PayloadAttestationMessage {
    /// The member.
    pub validator_index: ValidatorIndex,
    /// The vote.
    pub data: PayloadAttestationData,
    /// Its signature.
    pub signature: SignatureBytes,
}

/// The payload committee's votes, as a block carries them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Encode, Decode)]
#[serde(bound = "P: Preset")]
pub struct PayloadAttestation<P: Preset = Mainnet> {
    /// Who voted.
    pub aggregation_bits: BitVector<P::PtcSize>,
    /// The vote.
    pub data: PayloadAttestationData,
    /// The aggregate of the voters' signatures.
    pub signature: SignatureBytes,
}
progressive_container!(PayloadAttestation<P> { aggregation_bits, data, signature });

/// A payload attestation that names its voters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Encode, Decode)]
#[serde(bound = "P: Preset")]
pub struct IndexedPayloadAttestation<P: Preset = Mainnet> {
    /// The voters.
    pub attesting_indices: VariableList<ValidatorIndex, P::PtcSize>,
    /// The vote.
    pub data: PayloadAttestationData,
    /// The aggregate of the voters' signatures.
    pub signature: SignatureBytes,
}
progressive_container!(IndexedPayloadAttestation<P> { attesting_indices, data, signature });

/// What a proposer wants of its payloads, told to builders ahead of time.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, Default, Serialize, Deserialize, Encode, Decode, TreeHash,
)]
#[expect(missing_docs, reason = "the names are those of the consensus specification")]
pub struct ProposerPreferences {
    pub dependent_root: Root,
    pub proposal_slot: Slot,
    pub validator_index: ValidatorIndex,
    pub fee_recipient: ExecutionAddress,
    #[serde(with = "decimal")]
    pub target_gas_limit: u64,
}

/// [`ProposerPreferences`] with the proposer's signature.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, Default, Serialize, Deserialize, Encode, Decode, TreeHash,
)]
pub struct SignedProposerPreferences {
    /// What was signed.
    pub message: ProposerPreferences,
    /// The proposer's signature.
    pub signature: SignatureBytes,
}

/// A builder's offer of a payload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Encode, Decode)]
#[expect(missing_docs, reason = "the names are those of the consensus specification")]
pub struct ExecutionPayloadBid {
    pub parent_block_hash: Bytes32,
    pub parent_block_root: Root,
    pub block_hash: Bytes32,
    pub prev_randao: Bytes32,
    pub fee_recipient: ExecutionAddress,
    #[serde(with = "decimal")]
    pub gas_limit: u64,
    #[serde(with = "decimal")]
    pub builder_index: u64,
    pub slot: Slot,
    pub value: Gwei,
    pub execution_payment: Gwei,
    pub blob_kzg_commitments: ProgressiveList<KzgCommitment>,
    pub execution_requests_root: Root,
}
progressive_container!(ExecutionPayloadBid {
    parent_block_hash,
    parent_block_root,
    block_hash,
    prev_randao,
    fee_recipient,
    gas_limit,
    builder_index,
    slot,
    value,
    execution_payment,
    blob_kzg_commitments,
    execution_requests_root,
});

/// An [`ExecutionPayloadBid`] with its builder's signature.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Encode, Decode, TreeHash)]
pub struct SignedExecutionPayloadBid {
    /// What was signed.
    pub message: ExecutionPayloadBid,
    /// The builder's signature.
    pub signature: SignatureBytes,
}

/// A block of the execution layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Encode, Decode)]
#[expect(missing_docs, reason = "the names are those of the execution specification")]
pub struct ExecutionPayload {
    pub parent_hash: Bytes32,
    pub fee_recipient: ExecutionAddress,
    pub state_root: Bytes32,
    pub receipts_root: Bytes32,
    pub logs_bloom: LogsBloom,
    pub prev_randao: Bytes32,
    #[serde(with = "decimal")]
    pub block_number: u64,
    #[serde(with = "decimal")]
    pub gas_limit: u64,
    #[serde(with = "decimal")]
    pub gas_used: u64,
    #[serde(with = "decimal")]
    pub timestamp: u64,
    #[serde(with = "ssz_types::serde_utils::hex_var_list")]
    pub extra_data: VariableList<u8, U32>,
    pub base_fee_per_gas: Uint256,
    pub block_hash: Bytes32,
    pub transactions: ProgressiveList<ProgressiveBytes>,
    pub withdrawals: ProgressiveList<Withdrawal>,
    #[serde(with = "decimal")]
    pub blob_gas_used: u64,
    #[serde(with = "decimal")]
    pub excess_blob_gas: u64,
    pub block_access_list: ProgressiveBytes,
    #[serde(with = "decimal")]
    pub slot_number: u64,
}
progressive_container!(ExecutionPayload {
    parent_hash,
    fee_recipient,
    state_root,
    receipts_root,
    logs_bloom,
    prev_randao,
    block_number,
    gas_limit,
    gas_used,
    timestamp,
    extra_data,
    base_fee_per_gas,
    block_hash,
    transactions,
    withdrawals,
    blob_gas_used,
    excess_blob_gas,
    block_access_list,
    slot_number,
});

/// A builder's deposit seen by the execution layer (EIP-8282).
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, Default, Serialize, Deserialize, Encode, Decode, TreeHash,
)]
#[expect(missing_docs, reason = "the fields of a deposit")]
pub struct BuilderDepositRequest {
    pub pubkey: PublicKeyBytes,
    pub withdrawal_credentials: Bytes32,
    pub amount: Gwei,
    pub signature: SignatureBytes,
}

/// A builder's exit asked for on the execution layer (EIP-8282).
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, Default, Serialize, Deserialize, Encode, Decode, TreeHash,
)]
#[expect(missing_docs, reason = "the names are those of EIP-8282")]
pub struct BuilderExitRequest {
    pub source_address: ExecutionAddress,
    pub pubkey: PublicKeyBytes,
}

/// What the execution layer asks of the beacon chain.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize, Encode, Decode)]
#[expect(missing_docs, reason = "the names are those of the consensus specification")]
pub struct ExecutionRequests {
    pub deposits: ProgressiveList<DepositRequest>,
    pub withdrawals: ProgressiveList<WithdrawalRequest>,
    pub consolidations: ProgressiveList<ConsolidationRequest>,
    pub builder_deposits: ProgressiveList<BuilderDepositRequest>,
    pub builder_exits: ProgressiveList<BuilderExitRequest>,
}
progressive_container!(ExecutionRequests {
    deposits,
    withdrawals,
    consolidations,
    builder_deposits,
    builder_exits
});

/// A payload on its way, after its block.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Encode, Decode)]
#[expect(missing_docs, reason = "the names are those of the consensus specification")]
pub struct ExecutionPayloadEnvelope {
    pub payload: ExecutionPayload,
    pub execution_requests: ExecutionRequests,
    #[serde(with = "decimal")]
    pub builder_index: u64,
    pub beacon_block_root: Root,
    pub parent_beacon_block_root: Root,
}
progressive_container!(ExecutionPayloadEnvelope {
    payload,
    execution_requests,
    builder_index,
    beacon_block_root,
    parent_beacon_block_root,
});

/// An [`ExecutionPayloadEnvelope`] with its builder's signature.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Encode, Decode, TreeHash)]
pub struct SignedExecutionPayloadEnvelope {
    /// What was signed.
    pub message: ExecutionPayloadEnvelope,
    /// The builder's signature.
    pub signature: SignatureBytes,
}

/// The body of a block; the payload travels apart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Encode, Decode)]
#[serde(bound = "P: Preset")]
#[expect(missing_docs, reason = "the names are those of the consensus specification")]
pub struct BeaconBlockBody<P: Preset = Mainnet> {
    pub randao_reveal: SignatureBytes,
    pub eth1_data: Eth1Data,
    pub graffiti: Bytes32,
    pub proposer_slashings: ProgressiveList<ProposerSlashing>,
    pub attester_slashings: ProgressiveList<AttesterSlashing>,
    pub attestations: ProgressiveList<Attestation<P>>,
    pub deposits: ProgressiveList<Deposit>,
    pub voluntary_exits: ProgressiveList<SignedVoluntaryExit>,
    pub sync_aggregate: SyncAggregate<P>,
    pub bls_to_execution_changes: ProgressiveList<SignedBlsToExecutionChange>,
    pub signed_execution_payload_bid: SignedExecutionPayloadBid,
    pub payload_attestations: ProgressiveList<PayloadAttestation<P>>,
    pub parent_execution_requests: ExecutionRequests,
}
progressive_container!(BeaconBlockBody<P> {
    randao_reveal,
    eth1_data,
    graffiti,
    proposer_slashings,
    attester_slashings,
    attestations,
    deposits,
    voluntary_exits,
    sync_aggregate,
    bls_to_execution_changes,
    signed_execution_payload_bid,
    payload_attestations,
    parent_execution_requests,
});

/// A block.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Encode, Decode, TreeHash)]
#[serde(bound = "P: Preset")]
pub struct BeaconBlock<P: Preset = Mainnet> {
    /// The slot of the duty.
    pub slot: Slot,
    /// The proposer.
    pub proposer_index: ValidatorIndex,
    /// The block before.
    pub parent_root: Root,
    /// The state after.
    pub state_root: Root,
    /// The content.
    pub body: BeaconBlockBody<P>,
}
