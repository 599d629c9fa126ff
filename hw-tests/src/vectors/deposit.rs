//! `deposit`: roots and signatures of deposit files. Keys are not derived from the mnemonic: no part of the box does that.

use super::report::{Report, bytes_of, equal, files, hex_field, label, list, read_json, text};
use chain::deposit::{
    compounding_credentials, deposit_data_root, deposit_message_root, deposit_signing_root,
    registration_signing_root, withdrawal_credentials,
};
use chain::{Bytes32, DepositMessage, ExecutionAddress, ForkVersion, Gwei, PublicKeyBytes, SignatureBytes};
use serde_json::Value;
use std::path::Path;
use threshold::SecretKey;

/// Deposit files as deposit tools write them: an array, or an object around it with the mnemonic it came from.
pub fn run(folder: &Path) -> Report {
    let mut report = Report::default();
    for file in files(folder, "json") {
        let name = label(folder, &file);
        match read_json(&file) {
            Ok(value) => run_file(&name, &value, &mut report),
            Err(why) => report.case(name, Err(why)),
        }
    }
    report
}

fn run_file(name: &str, value: &Value, report: &mut Report) {
    let deposits = value.as_array().or_else(|| value.get("deposit_data").and_then(Value::as_array));
    if let Some(deposits) = deposits {
        let result = deposits.iter().try_for_each(check_deposit);
        report.case(name, if deposits.is_empty() { Err("holds no deposit".to_owned()) } else { result });
        return;
    }
    match list(value, "cases") {
        Ok(cases) => {
            for (number, case) in cases.iter().enumerate() {
                let result = if case.get("fee_recipient").is_some() {
                    check_registration(case)
                } else {
                    check_signing(case)
                };
                report.case(format!("{name} case {number}"), result);
            }
        }
        Err(_) => report.skip(1, &format!("{name} has no form we know")),
    }
}

/// One entry of a deposit file.
fn check_deposit(deposit: &Value) -> Result<(), String> {
    let message = DepositMessage {
        pubkey: fixed(deposit, "pubkey").map(PublicKeyBytes)?,
        withdrawal_credentials: fixed(deposit, "withdrawal_credentials").map(Bytes32)?,
        amount: Gwei(number(deposit, "amount")?),
    };
    let version = ForkVersion(fixed(deposit, "fork_version")?);
    let signature = SignatureBytes(fixed(deposit, "signature")?);
    check_roots(deposit, &message, signature)?;
    let root = deposit_signing_root(&message, version);
    threshold::verify_bytes(&message.pubkey, &root.0, &signature).map_err(|error| error.to_string())
}

/// A deposit made from a secret key.
fn check_signing(case: &Value) -> Result<(), String> {
    let key = secret_key(case)?;
    let address = ExecutionAddress(fixed(case, "withdrawal_address")?);
    let compounding = case.get("compounding").and_then(Value::as_bool).unwrap_or(false);
    let credentials =
        if compounding { compounding_credentials(address) } else { withdrawal_credentials(address) };
    equal("withdrawal credentials", credentials.0, fixed(case, "withdrawal_credentials")?)?;
    let amount =
        number(case, "amount_eth")?.checked_mul(1_000_000_000).ok_or("the amount is out of range")?;
    let message = DepositMessage {
        pubkey: key.public_key().to_bytes(),
        withdrawal_credentials: credentials,
        amount: Gwei(amount),
    };
    equal("public key", message.pubkey.0, fixed(case, "pubkey")?)?;
    let root = deposit_signing_root(&message, ForkVersion(fixed(case, "genesis_fork_version")?));
    equal("signing root", root.0, fixed(case, "signing_root")?)?;
    let signature = key.sign(&root.0).to_bytes();
    equal("signature", signature.0, fixed(case, "signature")?)?;
    check_roots(case, &message, signature)
}

fn check_roots(case: &Value, message: &DepositMessage, signature: SignatureBytes) -> Result<(), String> {
    equal("deposit message root", deposit_message_root(message).0, fixed(case, "deposit_message_root")?)?;
    equal("deposit data root", deposit_data_root(message, signature).0, fixed(case, "deposit_data_root")?)
}

fn check_registration(case: &Value) -> Result<(), String> {
    let key = secret_key(case)?;
    let registration = chain::ValidatorRegistration {
        fee_recipient: ExecutionAddress(fixed(case, "fee_recipient")?),
        gas_limit: number(case, "gas_limit")?,
        timestamp: number(case, "timestamp")?,
        pubkey: PublicKeyBytes(fixed(case, "message_pubkey")?),
    };
    let message_root = chain::Root::from(tree_hash::TreeHash::tree_hash_root(&registration));
    equal("message root", message_root.0, fixed(case, "message_root")?)?;
    let root = registration_signing_root(&registration, ForkVersion(fixed(case, "genesis_fork_version")?));
    equal("signing root", root.0, fixed(case, "signing_root")?)?;
    equal("signature", key.sign(&root.0).to_bytes().0, fixed(case, "signature")?)
}

fn secret_key(case: &Value) -> Result<SecretKey, String> {
    SecretKey::from_bytes(&hex_field(case, "secret_key")?).map_err(|error| error.to_string())
}

/// Hex with or without `0x`, of exactly the right length.
fn fixed<const N: usize>(value: &Value, field: &str) -> Result<[u8; N], String> {
    let bytes = bytes_of(text(value, field)?)?;
    bytes.try_into().map_err(|bytes: Vec<u8>| format!("field `{field}` has {} bytes, not {N}", bytes.len()))
}

/// A number, written as such or as a string.
fn number(value: &Value, field: &str) -> Result<u64, String> {
    let found = value.get(field).ok_or_else(|| format!("field `{field}` is missing"))?;
    found
        .as_u64()
        .or_else(|| found.as_str().and_then(|text| text.parse().ok()))
        .ok_or_else(|| format!("field `{field}` is no number"))
}
