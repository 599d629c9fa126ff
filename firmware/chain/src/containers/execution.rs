//! Execution payloads and requests, as blocks carry them (electra and fulu).

use crate::{
    Bytes32, ExecutionAddress, Gwei, LogsBloom, Mainnet, Preset, PublicKeyBytes, Root, SignatureBytes,
    Uint256, ValidatorIndex, decimal,
};
use serde::{Deserialize, Serialize};
use ssz_derive::{Decode, Encode};
use ssz_types::VariableList;
use tree_hash_derive::TreeHash;
use typenum::{U2, U16, U32, U8192, U1048576, U1073741824};

/// A transaction, opaque to us.
pub type Transaction = VariableList<u8, U1073741824>;

/// A withdrawal from the beacon chain.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, Default, Serialize, Deserialize, Encode, Decode, TreeHash,
)]
pub struct Withdrawal {
    /// Number of the withdrawal.
    #[serde(with = "decimal")]
    pub index: u64,
    /// Whose balance.
    pub validator_index: ValidatorIndex,
    /// To whom.
    pub address: ExecutionAddress,
    /// How much.
    pub amount: Gwei,
}

/// A block of the execution layer, deneb to fulu. Field meanings: execution-specs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Encode, Decode, TreeHash)]
#[serde(bound = "P: Preset")]
#[expect(missing_docs, reason = "the names are those of the execution specification")]
pub struct ExecutionPayload<P: Preset = Mainnet> {
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
    #[serde(with = "ssz_types::serde_utils::list_of_hex_var_list")]
    pub transactions: VariableList<Transaction, U1048576>,
    pub withdrawals: VariableList<Withdrawal, P::MaxWithdrawalsPerPayload>,
    #[serde(with = "decimal")]
    pub blob_gas_used: u64,
    #[serde(with = "decimal")]
    pub excess_blob_gas: u64,
}

/// The header of an [`ExecutionPayload`], which blinded blocks carry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Encode, Decode, TreeHash)]
#[expect(missing_docs, reason = "the names are those of the execution specification")]
pub struct ExecutionPayloadHeader {
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
    pub transactions_root: Root,
    pub withdrawals_root: Root,
    #[serde(with = "decimal")]
    pub blob_gas_used: u64,
    #[serde(with = "decimal")]
    pub excess_blob_gas: u64,
}

/// A deposit that the execution layer saw (EIP-6110).
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, Default, Serialize, Deserialize, Encode, Decode, TreeHash,
)]
#[expect(missing_docs, reason = "the fields of a deposit, and its number")]
pub struct DepositRequest {
    pub pubkey: PublicKeyBytes,
    pub withdrawal_credentials: Bytes32,
    pub amount: Gwei,
    pub signature: SignatureBytes,
    #[serde(with = "decimal")]
    pub index: u64,
}

/// A withdrawal asked for on the execution layer (EIP-7002).
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, Default, Serialize, Deserialize, Encode, Decode, TreeHash,
)]
#[expect(missing_docs, reason = "the names are those of EIP-7002")]
pub struct WithdrawalRequest {
    pub source_address: ExecutionAddress,
    pub validator_pubkey: PublicKeyBytes,
    pub amount: Gwei,
}

/// A consolidation asked for on the execution layer (EIP-7251).
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, Default, Serialize, Deserialize, Encode, Decode, TreeHash,
)]
#[expect(missing_docs, reason = "the names are those of EIP-7251")]
pub struct ConsolidationRequest {
    pub source_address: ExecutionAddress,
    pub source_pubkey: PublicKeyBytes,
    pub target_pubkey: PublicKeyBytes,
}

/// What the execution layer asks of the beacon chain (EIP-7685), electra and fulu.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize, Encode, Decode, TreeHash)]
pub struct ExecutionRequests {
    /// Deposits.
    pub deposits: VariableList<DepositRequest, U8192>,
    /// Withdrawals.
    pub withdrawals: VariableList<WithdrawalRequest, U16>,
    /// Consolidations.
    pub consolidations: VariableList<ConsolidationRequest, U2>,
}
