//! Deposits of a cluster's validators: which amounts, what is signed, and the files the launchpad reads.

use chain::deposit::{
    compounding_credentials, deposit_data_root, deposit_message_root, deposit_signing_root,
    withdrawal_credentials,
};
use chain::{
    Bytes32, DepositData, DepositMessage, ExecutionAddress, ForkVersion, Gwei, PublicKeyBytes, Root,
};
use serde::{Deserialize, Serialize};

use crate::document::{FieldError, exact, hex_from, to_indented_json};
use crate::network::Network;

/// One ether.
pub const ETH: Gwei = Gwei(1_000_000_000);
const MIN_AMOUNT: u64 = ETH.0;
const MAX_AMOUNT: u64 = 32 * ETH.0;
const MAX_AMOUNT_COMPOUNDING: u64 = 2048 * ETH.0;
const MIN_TOTAL: u64 = 32 * ETH.0;

/// Version of the deposit file format.
const DEPOSIT_CLI_VERSION: &str = "2.7.0";

/// Why a list of deposit amounts is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AmountsError {
    /// Below one ether.
    #[error("a deposit of {0} gwei is below the minimum of 1 ETH; raise it")]
    TooSmall(Gwei),
    /// Above what one validator may hold.
    #[error("a deposit of {amount} gwei is above the maximum of {limit} gwei; lower it, or use compounding")]
    TooLarge {
        /// The amount.
        amount: Gwei,
        /// Most allowed.
        limit: Gwei,
    },
    /// All together too little to activate a validator.
    #[error("the deposits sum to {0} gwei, less than the 32 ETH a validator needs; add amounts")]
    SumTooSmall(Gwei),
}

/// Checks the amounts of a definition; an empty list means the defaults.
pub fn check_amounts(amounts: &[Gwei], compounding: bool) -> Result<(), AmountsError> {
    let limit = if compounding { MAX_AMOUNT_COMPOUNDING } else { MAX_AMOUNT };
    let mut total = 0_u64;
    for amount in amounts {
        if amount.0 < MIN_AMOUNT {
            return Err(AmountsError::TooSmall(*amount));
        }
        if amount.0 > limit {
            return Err(AmountsError::TooLarge { amount: *amount, limit: Gwei(limit) });
        }
        total = total.saturating_add(amount.0);
    }
    if !amounts.is_empty() && total < MIN_TOTAL {
        return Err(AmountsError::SumTooSmall(Gwei(total)));
    }
    Ok(())
}

/// The deposits that are signed: each amount once, smallest first; the defaults when none are given.
pub fn effective_amounts(amounts: &[Gwei], compounding: bool) -> Vec<Gwei> {
    if amounts.is_empty() {
        let defaults: &[u64] = if compounding { &[1, 8, 32, 256] } else { &[1, 32] };
        return defaults.iter().map(|eth| Gwei(eth * ETH.0)).collect();
    }
    let mut amounts = amounts.to_vec();
    amounts.sort_unstable();
    amounts.dedup();
    amounts
}

/// Withdrawal credentials: type 2 when compounding, else type 1.
pub fn credentials(address: ExecutionAddress, compounding: bool) -> Bytes32 {
    if compounding { compounding_credentials(address) } else { withdrawal_credentials(address) }
}

/// What the validator key signs.
pub fn signing_root(message: &DepositMessage, genesis_fork_version: ForkVersion) -> Root {
    deposit_signing_root(message, genesis_fork_version)
}

/// Name of the file with the deposits of one amount: `deposit-data.json` for 32 ETH.
pub fn file_name(amount: Gwei) -> String {
    if amount.0 == MAX_AMOUNT {
        return "deposit-data.json".to_owned();
    }
    let fraction = format!("{:09}", amount.0 % ETH.0);
    let fraction = fraction.trim_end_matches('0');
    let dot = if fraction.is_empty() { "" } else { "." };
    format!("deposit-data-{}{dot}{fraction}eth.json", amount.0 / ETH.0)
}

/// One entry of a deposit file, members in file order, hex without `0x`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct DepositEntry {
    pubkey: String,
    withdrawal_credentials: String,
    amount: u64,
    signature: String,
    deposit_message_root: String,
    deposit_data_root: String,
    fork_version: String,
    network_name: String,
    deposit_cli_version: String,
}

/// The content of a deposit file, sorted by public key.
pub fn file_content(deposits: &[DepositData], network: &Network) -> Vec<u8> {
    let mut entries: Vec<DepositEntry> = deposits.iter().map(|deposit| entry(deposit, network)).collect();
    entries.sort_by(|a, b| a.pubkey.cmp(&b.pubkey));
    to_indented_json(&entries)
}

fn entry(deposit: &DepositData, network: &Network) -> DepositEntry {
    let message = message_of(deposit);
    DepositEntry {
        pubkey: hex::encode(deposit.pubkey.0),
        withdrawal_credentials: hex::encode(deposit.withdrawal_credentials.0),
        amount: deposit.amount.0,
        signature: hex::encode(deposit.signature.0),
        deposit_message_root: hex::encode(deposit_message_root(&message).0),
        deposit_data_root: hex::encode(deposit_data_root(&message, deposit.signature).0),
        fork_version: hex::encode(network.genesis_fork_version.0),
        network_name: network.name.clone(),
        deposit_cli_version: DEPOSIT_CLI_VERSION.to_owned(),
    }
}

/// The message inside a deposit.
pub fn message_of(deposit: &DepositData) -> DepositMessage {
    DepositMessage {
        pubkey: deposit.pubkey,
        withdrawal_credentials: deposit.withdrawal_credentials,
        amount: deposit.amount,
    }
}

/// Why a deposit file was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DepositFileError {
    /// More bytes than any cluster's deposits take.
    #[error("deposit file: {0} bytes are more than any cluster's deposits take; get the original file")]
    TooLarge(usize),
    /// Not a deposit file.
    #[error("deposit file: not valid JSON of the expected form ({0})")]
    Json(String),
    /// A malformed member.
    #[error("deposit file: {0}")]
    Field(#[from] FieldError),
    /// The roots or the signature do not belong to the entry.
    #[error("deposit file: entry {index} has a wrong {what}; do not deposit with it, create the file again")]
    Wrong {
        /// Position in the file.
        index: usize,
        /// Which member.
        what: &'static str,
    },
}

/// Reads a deposit file and checks every root and signature in it.
pub fn parse_file(bytes: &[u8]) -> Result<Vec<DepositData>, DepositFileError> {
    if bytes.len() > crate::document::MAX_FILE_BYTES {
        return Err(DepositFileError::TooLarge(bytes.len()));
    }
    let entries: Vec<DepositEntry> =
        serde_json::from_slice(bytes).map_err(|error| DepositFileError::Json(error.to_string()))?;
    let mut deposits = Vec::with_capacity(entries.len());
    for (index, entry) in entries.iter().enumerate() {
        deposits.push(checked_deposit(index, entry)?);
    }
    Ok(deposits)
}

fn checked_deposit(index: usize, entry: &DepositEntry) -> Result<DepositData, DepositFileError> {
    let field = |name: &str| format!("[{index}].{name}");
    let bytes = |name: &'static str, text: &str| hex_from(&field(name), text);
    let deposit = DepositData {
        pubkey: PublicKeyBytes(exact("pubkey", &bytes("pubkey", &entry.pubkey)?)?),
        withdrawal_credentials: Bytes32(exact(
            "withdrawal_credentials",
            &bytes("withdrawal_credentials", &entry.withdrawal_credentials)?,
        )?),
        amount: Gwei(entry.amount),
        signature: chain::SignatureBytes(exact("signature", &bytes("signature", &entry.signature)?)?),
    };
    let fork_version = ForkVersion(exact("fork_version", &bytes("fork_version", &entry.fork_version)?)?);
    let message = message_of(&deposit);
    let wrong = |what| DepositFileError::Wrong { index, what };
    if hex::encode(deposit_message_root(&message).0) != entry.deposit_message_root {
        return Err(wrong("deposit_message_root"));
    }
    if hex::encode(deposit_data_root(&message, deposit.signature).0) != entry.deposit_data_root {
        return Err(wrong("deposit_data_root"));
    }
    let root = signing_root(&message, fork_version);
    if !crate::bls::verify(&deposit.pubkey, &root.0, &deposit.signature) {
        return Err(wrong("signature"));
    }
    Ok(deposit)
}
