//! Deposits and builder registrations: their roots.

use crate::containers::{DepositData, DepositMessage, ValidatorRegistration};
use crate::domain::{self, genesis_domain, signing_root};
use crate::{Bytes32, ExecutionAddress, ForkVersion, Root, SignatureBytes};
use tree_hash::TreeHash;

/// Withdrawal credentials that pay to an execution address, with a balance capped at 32 ether (type `0x01`).
pub fn withdrawal_credentials(address: ExecutionAddress) -> Bytes32 {
    credentials(1, address)
}

/// Withdrawal credentials of a compounding validator (type `0x02`, EIP-7251).
pub fn compounding_credentials(address: ExecutionAddress) -> Bytes32 {
    credentials(2, address)
}

fn credentials(prefix: u8, address: ExecutionAddress) -> Bytes32 {
    let mut bytes = [0; 32];
    bytes[0] = prefix;
    bytes[12..].copy_from_slice(&address.0);
    Bytes32(bytes)
}

/// The hash tree root of a deposit message (`deposit_message_root` in deposit files).
pub fn deposit_message_root(message: &DepositMessage) -> Root {
    message.tree_hash_root().into()
}

/// What the validator's key signs in a deposit.
pub fn deposit_signing_root(message: &DepositMessage, genesis_version: ForkVersion) -> Root {
    signing_root(message, genesis_domain(domain::DEPOSIT, genesis_version))
}

/// The hash tree root of a signed deposit (`deposit_data_root` in deposit files, checked by the deposit contract).
pub fn deposit_data_root(message: &DepositMessage, signature: SignatureBytes) -> Root {
    let data = DepositData {
        pubkey: message.pubkey,
        withdrawal_credentials: message.withdrawal_credentials,
        amount: message.amount,
        signature,
    };
    data.tree_hash_root().into()
}

/// What the validator's key signs in a builder registration (builder-specs).
pub fn registration_signing_root(registration: &ValidatorRegistration, genesis_version: ForkVersion) -> Root {
    signing_root(registration, genesis_domain(domain::APPLICATION_BUILDER, genesis_version))
}
