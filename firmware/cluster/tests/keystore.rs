//! Keystores: what we write we read, and absurd or hostile ones are refused before any work is done.

#![allow(clippy::unwrap_used, reason = "a failed helper fails its test")]

use cluster::keystore::{KdfCost, Keystore, KeystoreError};
use rand::SeedableRng;
use rand_chacha::ChaCha20Rng;
use serde_json::{Value, json};
use threshold::SecretKey;

fn sample(seed: u64) -> (SecretKey, Keystore) {
    let mut rng = ChaCha20Rng::seed_from_u64(seed);
    let secret = SecretKey::random(&mut rng);
    let keystore = Keystore::encrypt_share(&secret, "correct horse", KdfCost::Insecure, &mut rng);
    (secret, keystore)
}

#[test]
fn a_written_keystore_opens_with_its_password_only() {
    let (secret, keystore) = sample(1);
    let read = Keystore::from_json(&keystore.to_json()).unwrap();
    assert_eq!(read, keystore);
    assert_eq!(read.uuid, read.uuid.to_uppercase());
    assert_eq!(read.decrypt_key("correct horse").unwrap().public_key(), secret.public_key());
    // Control codes do not count, compatible forms of characters are one.
    assert!(read.decrypt_key("correct\u{0} horse\u{7f}\u{9f}").is_ok());
    assert!(read.decrypt_key("ｃorrect horse").is_ok());
    for wrong in ["", "correct horse ", "Correct horse"] {
        assert_eq!(read.decrypt_key(wrong).err(), Some(KeystoreError::WrongPassword));
    }
}

#[test]
fn the_standard_cost_is_the_reference_one() {
    let mut rng = ChaCha20Rng::seed_from_u64(2);
    let secret = SecretKey::random(&mut rng);
    let keystore = Keystore::encrypt_share(&secret, "pass", KdfCost::Standard, &mut rng);
    let json: Value = serde_json::from_slice(&keystore.to_json()).unwrap();
    let kdf = &json["crypto"]["kdf"];
    assert_eq!((&kdf["function"], &kdf["params"]["c"]), (&json!("pbkdf2"), &json!(262_144)));
    assert!(keystore.decrypt_key("pass").is_ok());
}

#[test]
fn a_secret_of_another_key_is_noticed() {
    let (_, mut keystore) = sample(3);
    let (other, _) = sample(4);
    let public_key = other.public_key().to_bytes();
    keystore.public_key = Some(public_key);
    assert_eq!(
        keystore.decrypt_key("correct horse").err(),
        Some(KeystoreError::PublicKeyMismatch(public_key))
    );
    keystore.public_key = None;
    assert!(keystore.decrypt_key("correct horse").is_ok());
}

#[test]
fn absurd_key_derivations_are_refused_at_once() {
    let (_, keystore) = sample(5);
    let verdict = |function: &str, params: Value| {
        let mut json: Value = serde_json::from_slice(&keystore.to_json()).unwrap();
        json["crypto"]["kdf"] = json!({"function": function, "params": params, "message": ""});
        let keystore = Keystore::from_json(json.to_string().as_bytes()).unwrap();
        keystore.decrypt_key("correct horse").err().unwrap()
    };
    let pbkdf2 = |c: u64| json!({"dklen": 32, "c": c, "prf": "hmac-sha256", "salt": "00"});
    let scrypt = |n: u64, r: u64, p: u64| json!({"dklen": 32, "n": n, "r": r, "p": p, "salt": "00"});
    let cases = [
        ("pbkdf2", pbkdf2(0), KeystoreError::KdfParameter("c")),
        ("pbkdf2", pbkdf2(1 << 25), KeystoreError::KdfTooCostly),
        ("pbkdf2", pbkdf2(u64::MAX), KeystoreError::KdfTooCostly),
        ("scrypt", scrypt(1 << 20, 8, 1), KeystoreError::KdfTooCostly),
        ("scrypt", scrypt(1 << 63, 8, 1), KeystoreError::KdfTooCostly),
        ("scrypt", scrypt(2, u64::MAX, 1), KeystoreError::KdfTooCostly),
        ("scrypt", scrypt(2, 1, u64::MAX), KeystoreError::KdfTooCostly),
        ("scrypt", scrypt(2, 1 << 12, 1 << 12), KeystoreError::KdfTooCostly),
        ("scrypt", scrypt(1, 8, 1), KeystoreError::KdfParameter("n")),
        ("scrypt", scrypt(3, 8, 1), KeystoreError::KdfParameter("n")),
        ("scrypt", scrypt(16, 8, 1), KeystoreError::WrongPassword),
    ];
    for (function, params, expected) in cases {
        assert_eq!(verdict(function, params.clone()), expected, "{function} {params}");
    }
}

#[test]
fn damaged_files_name_the_member() {
    let (_, keystore) = sample(6);
    let verdict = |change: &dyn Fn(&mut Value)| {
        let mut json: Value = serde_json::from_slice(&keystore.to_json()).unwrap();
        change(&mut json);
        Keystore::from_json(json.to_string().as_bytes()).err().unwrap().to_string()
    };
    assert!(verdict(&|json| json["version"] = json!(3)).contains("version 3"));
    assert!(verdict(&|json| json["pubkey"] = json!("00")).contains("'pubkey' must be 48 bytes"));
    assert!(
        verdict(&|json| json["crypto"]["cipher"]["params"]["iv"] = json!("00")).contains("iv' must be 16")
    );
    assert!(verdict(&|json| json["crypto"]["cipher"]["function"] = json!("rot13")).contains("rot13"));
    assert!(verdict(&|json| json["extra"] = json!(1)).contains("unknown or unfitting member at line 1"));
    let large = vec![b' '; cluster::keystore::MAX_KEYSTORE_BYTES + 1];
    assert!(matches!(Keystore::from_json(&large), Err(KeystoreError::FileTooLarge { .. })));
}

/// Every string in a JSON value, replaced one at a time.
fn with_each_string_replaced(value: &Value, by: &str) -> Vec<Value> {
    let wrap =
        |inner: Vec<Value>, put: &dyn Fn(Value) -> Value| inner.into_iter().map(put).collect::<Vec<_>>();
    match value {
        Value::Object(members) => members
            .iter()
            .flat_map(|(name, member)| {
                wrap(with_each_string_replaced(member, by), &|changed| {
                    let mut whole = members.clone();
                    whole.insert(name.clone(), changed);
                    Value::Object(whole)
                })
            })
            .collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            vec![json!(by)]
        }
    }
}

#[test]
fn a_bare_secret_in_the_wrong_place_is_not_repeated_in_an_error() {
    let (secret, keystore) = sample(7);
    let hex = hex::encode(secret.expose_bytes());
    let whole: Value = serde_json::from_slice(&keystore.to_json()).unwrap();
    let mut texts =
        vec![hex.clone(), format!("0x{hex}"), json!(hex).to_string(), json!({ &hex: 1 }).to_string()];
    for form in [hex.clone(), format!("0x{hex}")] {
        texts.extend(with_each_string_replaced(&whole, &form).iter().map(Value::to_string));
    }
    let mut named = whole.clone();
    named[&hex] = json!(1);
    texts.push(named.to_string());
    let mut refused = 0;
    for text in texts {
        for error in [
            Keystore::from_json(text.as_bytes())
                .and_then(|read| read.decrypt_key("correct horse").map(drop))
                .err(),
            cluster::keystore::EncryptedSecret::from_json(text.as_bytes()).err(),
        ] {
            let Some(error) = error else { continue };
            refused += 1;
            let shown = format!("{error} {error:?}");
            assert!(
                !hex.as_bytes().windows(8).any(|part| shown.contains(std::str::from_utf8(part).unwrap())),
                "{shown}"
            );
        }
    }
    assert!(refused > 30, "{refused}");
}
