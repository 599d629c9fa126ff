//! `keystores/eip2335` and `obol/keystore`: reading, decrypting and refusing keystores.

use super::report::{Report, equal, files, hex_field, label, list, read, read_json, text};
use cluster::keystore::{EncryptedSecret, Keystore, KeystoreError, normalize_password};
use serde_json::Value;
use std::path::Path;

/// `keystores/eip2335`.
pub fn eip2335(folder: &Path) -> Report {
    let mut report = Report::default();
    for file in files(folder, "json") {
        let name = label(folder, &file);
        match name.as_str() {
            "schema.json" => continue, // Describes keystores, is none.
            "password_normalisation.json" => match read_json(&file) {
                Ok(value) => {
                    for case in list(&value, "cases").unwrap_or_default() {
                        report.case(format!("{name} {}", case["name"]), password_case(case));
                    }
                }
                Err(why) => report.case(name, Err(why)),
            },
            _ => report.case(name, read_json(&file).and_then(|case| keystore_case(&case))),
        }
    }
    report
}

fn password_case(case: &Value) -> Result<(), String> {
    let input = String::from_utf8(hex_field(case, "input_utf8_hex")?).map_err(|error| error.to_string())?;
    let output = normalize_password(&input).as_bytes().to_vec();
    equal("password", output, hex_field(case, "output_utf8_hex")?)
}

fn keystore_case(case: &Value) -> Result<(), String> {
    let password = match case.get("password_utf8_hex") {
        Some(_) => {
            String::from_utf8(hex_field(case, "password_utf8_hex")?).map_err(|error| error.to_string())?
        }
        None => text(case, "password")?.to_owned(),
    };
    let parsed = parse(case);
    let expected = text(case, "expected")?;
    let kind = expected.split([':']).next().unwrap_or_default();
    match (kind, parsed) {
        ("parse_error", Err(_)) | ("parse_ok", Ok(_)) => Ok(()),
        ("parse_error", Ok(_)) => Err("parses, but must not".to_owned()),
        ("ok", Ok(crypto)) => {
            let secret = crypto.decrypt(&password).map_err(|error| error.to_string())?;
            equal("secret", secret.to_vec(), hex_field(case, "secret")?)
        }
        ("decrypt_error", Err(_)) if case.get("keystore").is_none() => Ok(()),
        (kind, Ok(crypto)) if kind.starts_with("decrypt_error") => match crypto.decrypt(&password) {
            Ok(_) => Err("decrypts, but must not".to_owned()),
            Err(_) => Ok(()),
        },
        (_, Err(error)) => Err(format!("expected {expected}: {error}")),
        (_, Ok(_)) => Err(format!("unknown expectation {expected}")),
    }
}

/// A whole keystore, or its `crypto` part alone.
fn parse(case: &Value) -> Result<EncryptedSecret, KeystoreError> {
    match (case.get("keystore"), case.get("crypto")) {
        (Some(keystore), _) => {
            Keystore::from_json(keystore.to_string().as_bytes()).map(|keystore| keystore.crypto)
        }
        (None, Some(crypto)) => EncryptedSecret::from_json(crypto.to_string().as_bytes()),
        (None, None) => EncryptedSecret::from_json(b""),
    }
}

/// `obol/keystore`: a keystore of the reference implementation with its password beside it.
pub fn obol(folder: &Path) -> Report {
    let mut report = Report::default();
    for file in files(folder, "json") {
        report.case(label(folder, &file), decrypt_with_neighbour(&file));
    }
    report
}

fn decrypt_with_neighbour(file: &Path) -> Result<(), String> {
    let keystore = Keystore::from_json(&read(file)?).map_err(|error| error.to_string())?;
    let password =
        String::from_utf8(read(&file.with_extension("txt"))?).map_err(|error| error.to_string())?;
    let key = keystore.decrypt_key(&password).map_err(|error| error.to_string())?;
    equal("public key", Some(key.public_key().to_bytes()), keystore.public_key)?;
    match keystore.decrypt_key(&format!("{password}x")) {
        Err(KeystoreError::WrongPassword) => Ok(()),
        Err(error) => Err(format!("a wrong password gives: {error}")),
        Ok(_) => Err("a wrong password is accepted".to_owned()),
    }
}
