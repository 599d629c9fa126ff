//! The files a chain starts from: consensus parameters, the execution client's genesis and the first validators.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use chain::deposit::{deposit_data_root, deposit_signing_root};
use chain::{Bytes32, DepositMessage, ForkVersion, Gwei};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use threshold::SecretKey;

use super::{Config, DevnetError, Fork, builder};

/// Chain and network id of the execution chain.
pub(super) const CHAIN_ID: u64 = 1337;
/// `GENESIS_FORK_VERSION`; deposits are signed for it.
pub const GENESIS_FORK_VERSION: ForkVersion = ForkVersion([0x20, 0x00, 0x00, 0x89]);
/// What every validator of genesis deposits.
const DEPOSIT_AMOUNT: Gwei = Gwei(32_000_000_000);
/// Receives block rewards: a publicly known developer account, worth nothing.
pub(super) const FEE_RECIPIENT: &str = "0x8943545177806ED17B9F23F0a21ee5948eCaa776";
/// Where hoodi and mainnet have it too.
const DEPOSIT_CONTRACT: &str = "0x00000000219ab540356cbb839cbe05303d7705fa";
/// Beacon roots, history, withdrawals, consolidations and deposits.
const SYSTEM_CONTRACTS: usize = 5;
const FAR_FUTURE_EPOCH: u64 = u64::MAX;
/// A billion ether.
const RICH: &str = "0x33b2e3c9fd0803ce8000000";

/// One validator of genesis, in the format of the usual deposit-data file. Other fields of such a file are ignored.
///
/// The genesis maker checks the signature and builds a proof from the root, so both must be right.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DepositEntry {
    /// Public key (a distributed validator's group key), hex.
    pub pubkey: String,
    /// Withdrawal credentials, hex.
    pub withdrawal_credentials: String,
    /// Gwei; 32000000000.
    pub amount: u64,
    /// Signature over the deposit message for [`GENESIS_FORK_VERSION`], hex.
    pub signature: String,
    /// Hash tree root of the deposit data, hex.
    pub deposit_data_root: String,
}

impl DepositEntry {
    /// The deposit of a validator whose whole key is at hand: a filler, or a group key that a test is about to split.
    pub fn signed(key: &SecretKey, withdrawal_credentials: Bytes32) -> Self {
        let pubkey = key.public_key().to_bytes();
        let message = DepositMessage { pubkey, withdrawal_credentials, amount: DEPOSIT_AMOUNT };
        let signature = key.sign(&deposit_signing_root(&message, GENESIS_FORK_VERSION).0).to_bytes();
        Self {
            pubkey: hex::encode(pubkey.0),
            withdrawal_credentials: hex::encode(withdrawal_credentials.0),
            amount: DEPOSIT_AMOUNT.0,
            signature: hex::encode(signature.0),
            deposit_data_root: hex::encode(deposit_data_root(&message, signature).0),
        }
    }
}

/// `config.yaml`: what differs from mainnet. No comment may stand on a line with a hex value, because Prysm rewrites those
/// lines before YAML sees them.
pub(super) fn chain_config(config: &Config) -> String {
    let fulu_epoch = match config.fork {
        Fork::Electra => FAR_FUTURE_EPOCH,
        Fork::Fulu => 0,
    };
    let mut text = String::from(
        "PRESET_BASE: 'mainnet'\nCONFIG_NAME: 'devnet'\nMIN_GENESIS_ACTIVE_VALIDATOR_COUNT: 1\nMIN_GENESIS_TIME: 0\n\
         GENESIS_DELAY: 0\nGENESIS_FORK_VERSION: 0x20000089\n",
    );
    let forks = [("ALTAIR", 0x90, 0), ("BELLATRIX", 0x91, 0), ("CAPELLA", 0x92, 0), ("DENEB", 0x93, 0)]
        .into_iter()
        .chain([("ELECTRA", 0x94, 0), ("FULU", 0x95, fulu_epoch)]);
    let mut line = |key: &str, value: &dyn std::fmt::Display| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{key}: {value}");
    };
    for (name, version, epoch) in forks {
        line(&format!("{name}_FORK_VERSION"), &format!("0x200000{version:02x}"));
        line(&format!("{name}_FORK_EPOCH"), &epoch);
    }
    line("TERMINAL_TOTAL_DIFFICULTY", &0);
    line("SECONDS_PER_SLOT", &config.slot_seconds);
    // Must agree: the default of 12000 wins in much of the code.
    line("SLOT_DURATION_MS", &(config.slot_seconds * 1000));
    line("SLOTS_PER_EPOCH", &config.slots_per_epoch);
    line("EPOCHS_PER_SYNC_COMMITTEE_PERIOD", &256);
    line("SHARD_COMMITTEE_PERIOD", &1);
    line("MIN_VALIDATOR_WITHDRAWABILITY_DELAY", &1);
    line("ETH1_FOLLOW_DISTANCE", &8);
    line("SECONDS_PER_ETH1_BLOCK", &config.slot_seconds);
    line("DEPOSIT_CHAIN_ID", &CHAIN_ID);
    line("DEPOSIT_NETWORK_ID", &CHAIN_ID);
    line("DEPOSIT_CONTRACT_ADDRESS", &DEPOSIT_CONTRACT);
    line("BLOB_SCHEDULE", &"[]");
    text
}

/// The execution genesis, made from `geth dumpgenesis --hoodi`.
///
/// Prysm's built-in one lacks the contracts that Prague's blocks call; hoodi has all five, with the deposit contract's
/// storage. The genesis maker then fills in the time and the fork times.
pub(super) fn execution_genesis(hoodi: &str) -> Result<Value, DevnetError> {
    let strange = |what: &'static str| DevnetError::ExecutionGenesis { what };
    let hoodi: Value = serde_json::from_str(hoodi).map_err(|_| strange("is not JSON"))?;
    let mut config = hoodi["config"].as_object().ok_or_else(|| strange("has no config"))?.clone();
    for dated in [
        "pragueTime",
        "osakaTime",
        "bpo1Time",
        "bpo2Time",
        "bpo3Time",
        "bpo4Time",
        "bpo5Time",
        "amsterdamTime",
    ] {
        config.remove(dated);
    }
    config.insert("chainId".into(), json!(CHAIN_ID));
    let blobs =
        |target, max, fraction| json!({"target": target, "max": max, "baseFeeUpdateFraction": fraction});
    config.insert(
        "blobSchedule".into(),
        json!({
            "cancun": blobs(3, 6, 3_338_477),
            "prague": blobs(6, 9, 5_007_716),
            "osaka": blobs(6, 9, 5_007_716),
        }),
    );
    let mut accounts: BTreeMap<String, Value> = hoodi["alloc"]
        .as_object()
        .ok_or_else(|| strange("has no alloc"))?
        .iter()
        .filter(|(_, account)| account.get("code").is_some())
        .map(|(address, account)| (address.clone(), account.clone()))
        .collect();
    if accounts.len() != SYSTEM_CONTRACTS {
        return Err(strange("does not have exactly the five system contracts"));
    }
    let funded = FEE_RECIPIENT.trim_start_matches("0x").to_lowercase();
    accounts.insert(funded, json!({"balance": RICH}));
    // Always there, so that the chain is the same with a builder and without.
    let payer = builder::purse_address().trim_start_matches("0x").to_lowercase();
    accounts.insert(payer, json!({"balance": RICH}));
    Ok(json!({
        "config": config,
        "nonce": "0x1234",
        "timestamp": "0x0",
        "extraData": "0x",
        "gasLimit": format!("{:#x}", builder::GAS_LIMIT),
        "difficulty": "0x0",
        "mixHash": format!("0x{}", "0".repeat(64)),
        "coinbase": format!("0x{}", "0".repeat(40)),
        "baseFeePerGas": "0x3b9aca00",
        "alloc": accounts,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_two_slot_lengths_agree_and_fulu_starts_when_asked() {
        let electra = chain_config(&Config { slot_seconds: 3, ..Config::electra() });
        assert!(electra.contains("SECONDS_PER_SLOT: 3\nSLOT_DURATION_MS: 3000\nSLOTS_PER_EPOCH: 8\n"));
        assert!(electra.contains("FULU_FORK_EPOCH: 18446744073709551615\n"));
        let fulu = chain_config(&Config::fulu());
        assert!(fulu.contains("SLOTS_PER_EPOCH: 32\n") && fulu.contains("FULU_FORK_EPOCH: 0\n"));
    }

    #[test]
    fn the_execution_genesis_keeps_code_and_drops_dates() {
        let account = json!({"code": "0x60", "balance": "0x0"});
        let mut alloc = serde_json::Map::new();
        for number in 0..SYSTEM_CONTRACTS {
            alloc.insert(number.to_string(), account.clone());
        }
        alloc.insert("rich".into(), json!({"balance": "0x1"}));
        let hoodi = json!({"config": {"chainId": 560_048, "pragueTime": 1, "cancunTime": 0}, "alloc": alloc});
        let genesis = execution_genesis(&hoodi.to_string()).unwrap();
        assert_eq!(genesis["config"]["chainId"], CHAIN_ID);
        assert!(genesis["config"]["pragueTime"].is_null() && genesis["alloc"]["rich"].is_null());
        assert_eq!(genesis["gasLimit"], "0x3938700");
        assert_eq!(genesis["alloc"]["0"], account);

        let bare = json!({"config": {}, "alloc": {}});
        assert!(execution_genesis(&bare.to_string()).is_err());
    }
}
