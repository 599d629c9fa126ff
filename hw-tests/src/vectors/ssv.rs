//! `ssv/…`: the files of SSV's operators, as the network's own tools wrote them. What its nodes say to each other is not built.

use super::report::{Report, bytes_of, equal, files, hex_field, label, list, read_json, text};
use chain::PublicKeyBytes;
use cluster::ssv::{KeyShares, OperatorKey, OperatorPublicKey, ownership_message};
use serde_json::{Value, json};
use std::path::Path;
use threshold::SecretKey;

/// Parts of a name that say that the file is broken on purpose, or of a layout from before version 1.
const BROKEN: [&str; 8] = ["empty", "invalid", "duplicate", "miss", "old", "wrong", "broken", "unsorted"];

/// `ssv/registry`: key shares of the splitting tool, valid and broken.
pub fn registry(folder: &Path) -> Report {
    let mut report = Report::default();
    for file in files(&folder.join("keyshares"), "json") {
        let name = label(folder, &file);
        let is_broken = BROKEN.iter().any(|part| name.contains(part));
        report.case(name, read_json(&file).and_then(|case| key_shares(case, is_broken)));
    }
    report
}

fn key_shares(case: Value, is_broken: bool) -> Result<(), String> {
    // Single items are put into the file that they belong to.
    let is_item = case.get("data").is_some();
    let file = if is_item { json!({"version": "v1.2.0", "shares": [case]}) } else { case };
    match (KeyShares::from_json(file.to_string().as_bytes()), is_broken) {
        (Ok(_), false) | (Err(_), true) => Ok(()),
        (Ok(_), true) => Err("is read, but must not be".to_owned()),
        (Err(error), false) => Err(format!("{error} {:?}", std::error::Error::source(&error))),
    }
}

/// `ssv/dkg`: operators' keys under their passwords, and the shares that ceremonies encrypted to them.
pub fn dkg(folder: &Path) -> Report {
    let mut report = Report::default();
    let mut keys = Vec::new();
    for file in files(&folder.join("operators"), "json") {
        let key = read_json(&file).and_then(|case| operator(&case));
        let found = key.map(|key| keys.push(key));
        report.case(label(folder, &file), found);
    }
    for file in files(&folder.join("ceremonies"), "json") {
        if file.ends_with("keyshares.json") {
            report.case(label(folder, &file), read_json(&file).and_then(|case| ceremony(&case, &keys)));
        } else {
            report.skip(1, "what a ceremony of SSV makes beside key shares is not read");
        }
    }
    let requests = files(&folder.join("requests"), "json").len();
    report.skip(u64::try_from(requests).unwrap_or(u64::MAX), "ceremonies of SSV are not built");
    report
}

fn operator(case: &Value) -> Result<OperatorKey, String> {
    let password = String::from_utf8(hex_field(case, "passwordHex")?).map_err(|error| error.to_string())?;
    let file = case.get("encryptedKeyFile").ok_or("field `encryptedKeyFile` is missing")?.to_string();
    let key = OperatorKey::from_file(file.as_bytes(), Some(&password)).map_err(|error| error.to_string())?;
    let public = text(case, "publicKeyBase64Pem")?;
    equal("public key", key.public_key().to_text().as_str(), public)?;
    let read = OperatorPublicKey::from_text(public).map_err(|error| error.to_string())?;
    equal("public key", read, key.public_key())?;
    Ok(key)
}

/// Every operator opens its share, and no other does.
fn ceremony(case: &Value, keys: &[OperatorKey]) -> Result<(), String> {
    let read = KeyShares::from_json(case.to_string().as_bytes()).map_err(|error| error.to_string())?;
    for validator in read.validators() {
        let mut opened = 0;
        for key in keys {
            let Some((_, operator)) = validator.operator(&key.public_key()) else { continue };
            key.decrypt_share(&operator.encrypted_share, &operator.public_share, &mut rand::rng())
                .map_err(|error| format!("operator {}: {error}", operator.id))?;
            let others = validator.operators.iter().filter(|other| other.id != operator.id);
            for other in others.take(1) {
                let result = key.decrypt_share(&other.encrypted_share, &other.public_share, &mut rand::rng());
                equal("opens another operator's share", result.is_ok(), false)?;
            }
            opened += 1;
        }
        equal("shares opened", opened, validator.operators.len())?;
    }
    Ok(())
}

/// `ssv/keysets`: the specification's own keys. Their shares go through encryption and back.
pub fn keysets(folder: &Path) -> Report {
    let mut report = Report::default();
    for file in files(folder, "json") {
        report.case(label(folder, &file), read_json(&file).and_then(|case| keyset(&case)));
    }
    report
}

fn keyset(case: &Value) -> Result<(), String> {
    let keys = case.get("OperatorKeys").and_then(Value::as_object).ok_or("no `OperatorKeys`")?;
    let shares = case.get("Shares").ok_or("no `Shares`")?;
    for (id, pem) in keys {
        let pem = bytes_of(pem.as_str().unwrap_or_default())?;
        let pem = String::from_utf8(pem).map_err(|error| error.to_string())?;
        let key = OperatorKey::from_pem(&pem).map_err(|error| error.to_string())?;
        equal("PEM text", key.expose_pem().trim(), pem.trim())?;
        let share = SecretKey::from_bytes(&hex_field(shares, id)?).map_err(|error| error.to_string())?;
        let public = share.public_key().to_bytes();
        let encrypted = key.public_key().encrypt_share(&share, &mut rand::rng());
        key.decrypt_share(&encrypted, &public, &mut rand::rng()).map_err(|error| error.to_string())?;
        let other = PublicKeyBytes([0xa0; 48]);
        let result = key.decrypt_share(&encrypted, &other, &mut rand::rng());
        equal("opens under another public key", result.is_ok(), false)?;
    }
    Ok(())
}

/// `ssv/derived`: what an owner's validators have signed. The rest is about the protocol.
pub fn derived(folder: &Path) -> Report {
    let mut report = Report::default();
    for file in files(folder, "json") {
        let name = label(folder, &file);
        if name != "ownership_messages.json" {
            report.skip(1, "the protocol of SSV's nodes is not built");
            continue;
        }
        match read_json(&file) {
            Ok(value) => {
                for (place, case) in list(&value, "cases").unwrap_or_default().iter().enumerate() {
                    report.case(format!("{name} {place}"), ownership(case));
                }
            }
            Err(why) => report.case(name, Err(why)),
        }
    }
    report
}

fn ownership(case: &Value) -> Result<(), String> {
    let owner = cluster::read_address(text(case, "owner")?).map_err(|error| error.to_string())?;
    let nonce = case.get("nonce").and_then(Value::as_u64).ok_or("field `nonce` is missing")?;
    equal("digest", ownership_message(&owner, nonce).to_vec(), hex_field(case, "keccak256")?)
}
