//! Small messages: exits, deposits, registrations, and what domains are made of.

use crate::{
    Bytes32, Domain, Epoch, ExecutionAddress, ForkVersion, Gwei, PublicKeyBytes, Root, SignatureBytes,
    ValidatorIndex, decimal,
};
use serde::{Deserialize, Serialize};
use ssz_derive::{Decode, Encode};
use tree_hash_derive::TreeHash;

/// What is hashed to get the fork's half of a domain.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, Default, Serialize, Deserialize, Encode, Decode, TreeHash,
)]
pub struct ForkData {
    /// The fork's version.
    pub current_version: ForkVersion,
    /// The root that names the chain.
    pub genesis_validators_root: Root,
}

/// What is hashed to get a signing root.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, Default, Serialize, Deserialize, Encode, Decode, TreeHash,
)]
pub struct SigningData {
    /// The hash tree root of the message.
    pub object_root: Root,
    /// Its domain.
    pub domain: Domain,
}

/// A validator's wish to leave.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, Default, Serialize, Deserialize, Encode, Decode, TreeHash,
)]
pub struct VoluntaryExit {
    /// The earliest epoch it may be processed in.
    pub epoch: Epoch,
    /// Who leaves.
    pub validator_index: ValidatorIndex,
}

/// A [`VoluntaryExit`] with its validator's signature.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, Default, Serialize, Deserialize, Encode, Decode, TreeHash,
)]
pub struct SignedVoluntaryExit {
    /// What was signed.
    pub message: VoluntaryExit,
    /// The validator's signature.
    pub signature: SignatureBytes,
}

/// A change from a BLS withdrawal key to an execution address.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, Default, Serialize, Deserialize, Encode, Decode, TreeHash,
)]
pub struct BlsToExecutionChange {
    /// Whose credentials change.
    pub validator_index: ValidatorIndex,
    /// The withdrawal key that signs.
    pub from_bls_pubkey: PublicKeyBytes,
    /// The new recipient of withdrawals.
    pub to_execution_address: ExecutionAddress,
}

/// A [`BlsToExecutionChange`] with its signature.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, Default, Serialize, Deserialize, Encode, Decode, TreeHash,
)]
pub struct SignedBlsToExecutionChange {
    /// What was signed.
    pub message: BlsToExecutionChange,
    /// The withdrawal key's signature.
    pub signature: SignatureBytes,
}

/// What a validator's key signs to be deposited for.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, Default, Serialize, Deserialize, Encode, Decode, TreeHash,
)]
pub struct DepositMessage {
    /// The validator's key.
    pub pubkey: PublicKeyBytes,
    /// Who may withdraw.
    pub withdrawal_credentials: Bytes32,
    /// How much is deposited.
    pub amount: Gwei,
}

/// A signed deposit.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, Default, Serialize, Deserialize, Encode, Decode, TreeHash,
)]
pub struct DepositData {
    /// The validator's key.
    pub pubkey: PublicKeyBytes,
    /// Who may withdraw.
    pub withdrawal_credentials: Bytes32,
    /// How much is deposited.
    pub amount: Gwei,
    /// The validator's signature over the other three.
    pub signature: SignatureBytes,
}

/// `ValidatorRegistrationV1` of builder-specs: where builders pay to.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, Default, Serialize, Deserialize, Encode, Decode, TreeHash,
)]
pub struct ValidatorRegistration {
    /// Who is paid.
    pub fee_recipient: ExecutionAddress,
    /// The gas limit the validator votes for.
    #[serde(with = "decimal")]
    pub gas_limit: u64,
    /// Seconds since 1970; the newest registration counts.
    #[serde(with = "decimal")]
    pub timestamp: u64,
    /// The validator's key.
    pub pubkey: PublicKeyBytes,
}

/// A [`ValidatorRegistration`] with its validator's signature.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, Default, Serialize, Deserialize, Encode, Decode, TreeHash,
)]
pub struct SignedValidatorRegistration {
    /// What was signed.
    pub message: ValidatorRegistration,
    /// The validator's signature.
    pub signature: SignatureBytes,
}
