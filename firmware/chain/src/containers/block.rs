//! Blocks (electra and fulu) and their headers.

use super::attestation::{Attestation, AttesterSlashing};
use super::execution::{ExecutionPayload, ExecutionPayloadHeader, ExecutionRequests};
use super::message::{DepositData, SignedBlsToExecutionChange, SignedVoluntaryExit};
use super::sync::SyncAggregate;
use crate::{Bytes32, KzgCommitment, Mainnet, Preset, Root, SignatureBytes, Slot, ValidatorIndex, decimal};
use serde::{Deserialize, Serialize};
use ssz_derive::{Decode, Encode};
use ssz_types::{FixedVector, VariableList};
use tree_hash::TreeHash as _;
use tree_hash_derive::TreeHash;
use typenum::{U1, U8, U16, U33, U4096};

/// A vote on the deposit contract's state.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, Default, Serialize, Deserialize, Encode, Decode, TreeHash,
)]
pub struct Eth1Data {
    /// Root of all deposits.
    pub deposit_root: Root,
    /// How many.
    #[serde(with = "decimal")]
    pub deposit_count: u64,
    /// The execution block they were read at.
    pub block_hash: Bytes32,
}

/// A block without its body: what a proposer signs hashes to the same root.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, Default, Serialize, Deserialize, Encode, Decode, TreeHash,
)]
pub struct BeaconBlockHeader {
    /// The slot of the duty.
    pub slot: Slot,
    /// The proposer.
    pub proposer_index: ValidatorIndex,
    /// The block before.
    pub parent_root: Root,
    /// The state after.
    pub state_root: Root,
    /// The body's root.
    pub body_root: Root,
}

/// A [`BeaconBlockHeader`] with its proposer's signature.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, Default, Serialize, Deserialize, Encode, Decode, TreeHash,
)]
pub struct SignedBeaconBlockHeader {
    /// What was signed.
    pub message: BeaconBlockHeader,
    /// The proposer's signature.
    pub signature: SignatureBytes,
}

/// The proof that a proposer broke the rules.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, Default, Serialize, Deserialize, Encode, Decode, TreeHash,
)]
pub struct ProposerSlashing {
    /// One of two headers of the same slot.
    pub signed_header_1: SignedBeaconBlockHeader,
    /// The other.
    pub signed_header_2: SignedBeaconBlockHeader,
}

/// A deposit with its Merkle proof (before EIP-6110 took over).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Encode, Decode, TreeHash)]
pub struct Deposit {
    /// `DEPOSIT_CONTRACT_TREE_DEPTH + 1` hashes.
    pub proof: FixedVector<Root, U33>,
    /// The deposit.
    pub data: DepositData,
}

macro_rules! block_types {
    ($suffix:literal, $body:ident, $block:ident, $signed:ident, $payload_field:ident, $payload:ty) => {
        #[doc = concat!("The body of a ", $suffix, "block, electra and fulu.")]
        #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Encode, Decode, TreeHash)]
        #[serde(bound = "P: Preset")]
        #[expect(missing_docs, reason = "the names are those of the consensus specification")]
        pub struct $body<P: Preset = Mainnet> {
            pub randao_reveal: SignatureBytes,
            pub eth1_data: Eth1Data,
            pub graffiti: Bytes32,
            pub proposer_slashings: VariableList<ProposerSlashing, U16>,
            pub attester_slashings: VariableList<AttesterSlashing<P>, U1>,
            pub attestations: VariableList<Attestation<P>, U8>,
            pub deposits: VariableList<Deposit, U16>,
            pub voluntary_exits: VariableList<SignedVoluntaryExit, U16>,
            pub sync_aggregate: SyncAggregate<P>,
            pub $payload_field: $payload,
            pub bls_to_execution_changes: VariableList<SignedBlsToExecutionChange, U16>,
            pub blob_kzg_commitments: VariableList<KzgCommitment, U4096>,
            pub execution_requests: ExecutionRequests,
        }

        #[doc = concat!("A ", $suffix, "block, electra and fulu.")]
        #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Encode, Decode, TreeHash)]
        #[serde(bound = "P: Preset")]
        pub struct $block<P: Preset = Mainnet> {
            /// The slot of the duty.
            pub slot: Slot,
            /// The proposer.
            pub proposer_index: ValidatorIndex,
            /// The block before.
            pub parent_root: Root,
            /// The state after.
            pub state_root: Root,
            /// The content.
            pub body: $body<P>,
        }

        impl<P: Preset> $block<P> {
            /// The header, which has the same hash tree root as the block.
            pub fn header(&self) -> BeaconBlockHeader {
                BeaconBlockHeader {
                    slot: self.slot,
                    proposer_index: self.proposer_index,
                    parent_root: self.parent_root,
                    state_root: self.state_root,
                    body_root: self.body.tree_hash_root().into(),
                }
            }
        }

        #[doc = concat!("A ", $suffix, "block with its proposer's signature, electra and fulu.")]
        #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Encode, Decode, TreeHash)]
        #[serde(bound = "P: Preset")]
        pub struct $signed<P: Preset = Mainnet> {
            /// What was signed.
            pub message: $block<P>,
            /// The proposer's signature.
            pub signature: SignatureBytes,
        }
    };
}

block_types!("", BeaconBlockBody, BeaconBlock, SignedBeaconBlock, execution_payload, ExecutionPayload<P>);
block_types!(
    "blinded ",
    BlindedBeaconBlockBody,
    BlindedBeaconBlock,
    SignedBlindedBeaconBlock,
    execution_payload_header,
    ExecutionPayloadHeader
);
