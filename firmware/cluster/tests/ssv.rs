//! SSV's files: what our own encoder writes, and what is wrong with a file. The recorded ones are in `vectors.rs`.

#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use std::sync::LazyLock;

use chain::ExecutionAddress;
use cluster::keystore::KdfCost;
use cluster::ssv::{
    KeyShares, KeySharesError, OperatorKey, OperatorKeyError, OperatorPublicKey, ShareError, ValidatorShares,
};
use rand::SeedableRng as _;
use rand_chacha::ChaCha20Rng;
use serde_json::{Value, json};
use threshold::{SecretKey, ShareIndex};

const OWNER: ExecutionAddress = ExecutionAddress([0x5a; 20]);

fn rng(seed: u64) -> ChaCha20Rng {
    ChaCha20Rng::seed_from_u64(seed)
}

/// Four operators: making one of their keys takes a second.
static KEYS: LazyLock<Vec<OperatorKey>> =
    LazyLock::new(|| (1..=4).map(|seed| OperatorKey::generate(&mut rng(seed))).collect());

fn operators() -> Vec<(u64, OperatorPublicKey)> {
    [3, 9, 1_000, 70_000].into_iter().zip(KEYS.iter().map(OperatorKey::public_key)).collect()
}

fn shares_of(seed: u64) -> ValidatorShares {
    let secret = SecretKey::random(&mut rng(seed));
    ValidatorShares::split(secret, &operators(), OWNER, 7, &mut rng(seed)).unwrap()
}

fn file() -> Value {
    let file = KeyShares::write(&[shares_of(11), shares_of(12)], "2026-01-01T00:00:00Z");
    serde_json::from_slice(&file).unwrap()
}

fn read(file: &Value) -> Result<KeyShares, KeySharesError> {
    KeyShares::from_json(file.to_string().as_bytes())
}

#[test]
fn what_is_split_is_read_and_each_operator_opens_its_own_share_alone() {
    let read = read(&file()).unwrap();
    assert_eq!(read.validators(), [shares_of(11), shares_of(12)]);
    let validator = &read.validators()[0];
    let mut opened = Vec::new();
    for (place, key) in (1..).zip(KEYS.iter()) {
        let (found, operator) = validator.operator(&key.public_key()).unwrap();
        assert_eq!(found, place);
        let secret =
            key.decrypt_share(&operator.encrypted_share, &operator.public_share, &mut rng(0)).unwrap();
        opened.push(threshold::SecretShare::new(ShareIndex::new(operator.id).unwrap(), secret));
    }
    // Any three sign for the validator.
    let partials: Vec<_> =
        opened[1..].iter().map(|share| (share.index(), share.sign(&[7; 32]).to_bytes())).collect();
    let signature = threshold::combine(&partials).unwrap();
    assert!(threshold::verify_bytes(&validator.public_key, &[7; 32], &signature).is_ok());
    // Another operator's share does not open, and its own not under another public key.
    let [first, second] = [&validator.operators[0], &validator.operators[1]];
    for (encrypted, public) in [(second, second), (first, second), (second, first)] {
        let opened =
            KEYS[0].decrypt_share(&encrypted.encrypted_share, &public.public_share, &mut rng(0)).err();
        assert_eq!(opened, Some(ShareError));
    }
    assert!(validator.operator(&OperatorKey::generate(&mut rng(77)).public_key()).is_none());
}

/// Makes one thing wrong in a validator of the file.
type Spoil = fn(&mut Value);

#[test]
fn whatever_is_wrong_in_a_file_is_said() {
    let cases: &[(Spoil, &str)] = &[
        (|v| v["data"]["ownerNonce"] = 8.into(), "has not signed"),
        (|v| v["data"]["ownerAddress"] = format!("0x{}", "5b".repeat(20)).into(), "has not signed"),
        (|v| v["data"]["ownerAddress"] = "0x5a".into(), "ownerAddress"),
        (|v| v["data"]["publicKey"] = format!("0x{}", "ab".repeat(48)).into(), "not the same"),
        (|v| v["data"]["publicKey"] = "0xab".into(), "48 bytes"),
        (|v| v["payload"]["operatorIds"][0] = 4.into(), "not the same"),
        (|v| drop(v["payload"]["operatorIds"].as_array_mut().unwrap().pop()), "not the same"),
        (|v| drop(v["data"]["operators"].as_array_mut().unwrap().pop()), "not the same"),
        (|v| v["data"]["operators"][1]["operatorKey"] = "".into(), "operator 9"),
        (
            |v| v["data"]["operators"][1]["operatorKey"] = v["data"]["operators"][0]["operatorKey"].clone(),
            "same key",
        ),
        (|v| v["payload"]["sharesData"] = "0x00".into(), "1312 bytes"),
        (|v| v["payload"]["sharesData"] = "zz".into(), "1312 bytes"),
        // The first public share in the place of the second.
        (|v| change(v, |data| data.copy_within(96..144, 144)), "same share"),
        (|v| change(v, |data| data[0] ^= 1), "has not signed"),
        (|v| change(v, |data| data[96] = 0), "no BLS key"),
        // Ids of others: the shares no longer fit, although owner and nonce are signed.
        (
            |v| {
                v["payload"]["operatorIds"][3] = 70_001.into();
                v["data"]["operators"][3]["id"] = 70_001.into();
            },
            "do not make up",
        ),
        (
            |v| {
                for (place, id) in [(0, 9), (1, 3)] {
                    v["payload"]["operatorIds"][place] = id.into();
                    v["data"]["operators"][place]["id"] = id.into();
                }
            },
            "ascend",
        ),
        (
            |v| {
                v["payload"]["operatorIds"][0] = 0.into();
                v["data"]["operators"][0]["id"] = 0.into();
            },
            "ascend",
        ),
        (
            |v| {
                v["payload"]["operatorIds"].as_array_mut().unwrap().pop();
                v["data"]["operators"].as_array_mut().unwrap().pop();
            },
            "among 3 operators",
        ),
    ];
    for (number, (spoil, expected)) in cases.iter().enumerate() {
        let mut spoilt = file();
        spoil(&mut spoilt["shares"][1]);
        let error = read(&spoilt).unwrap_err();
        let KeySharesError::Validator { place: 1, problem } = &error else { panic!("{number}: {error:?}") };
        let said = problem.to_string();
        assert!(said.contains(expected), "{number}: {said}");
    }
    let mut file = file();
    file["shares"][1] = file["shares"][0].clone();
    assert!(matches!(read(&file), Err(KeySharesError::ValidatorTwice(_))));
    file["shares"] = json!([]);
    assert_eq!(read(&file), Err(KeySharesError::Empty));
    file["version"] = "v3".into();
    assert_eq!(read(&file), Err(KeySharesError::Version("v3".to_owned())));
    file["shares"] = vec![json!({}); 2_000].into();
    assert!(matches!(read(&file), Err(KeySharesError::Json { .. })));
    let large = vec![b' '; cluster::ssv::MAX_KEY_SHARES_BYTES + 1];
    assert!(matches!(KeyShares::from_json(&large), Err(KeySharesError::TooLarge { .. })));
}

fn change(validator: &mut Value, how: impl Fn(&mut [u8])) {
    let text = validator["payload"]["sharesData"].as_str().unwrap();
    let mut data = hex::decode(&text[2..]).unwrap();
    how(&mut data);
    validator["payload"]["sharesData"] = format!("0x{}", hex::encode(data)).into();
}

#[test]
fn an_operator_s_key_is_read_in_both_forms_and_nothing_else_is() {
    let key = &KEYS[0];
    let plain = key.expose_text();
    assert!(plain.starts_with("LS0tLS1CRUdJTiBSU0EgUFJJVkFURSBLRVktLS0tLQ"));
    assert_eq!(key.public_key().to_text().len(), 612);
    let encrypted = key.to_encrypted("pass word", KdfCost::Insecure, &mut rng(5));
    for (file, password) in [
        (plain.as_str(), None),
        (&format!("{}\n", plain.as_str()), Some("")),
        (&encrypted, Some("pass word\n")),
    ] {
        let read = OperatorKey::from_file(file.as_bytes(), password).unwrap();
        assert_eq!(read.public_key(), key.public_key());
        assert_eq!(read.expose_pem(), key.expose_pem());
    }
    assert!(!format!("{key:?}").contains(&plain[40..60]));
    let changed = |how: fn(&mut Value)| {
        let mut file: Value = serde_json::from_str(&encrypted).unwrap();
        how(&mut file);
        OperatorKey::from_file(file.to_string().as_bytes(), Some("pass word")).unwrap_err()
    };
    assert_eq!(
        OperatorKey::from_file(encrypted.as_bytes(), None).unwrap_err(),
        OperatorKeyError::PasswordMissing
    );
    assert_eq!(
        OperatorKey::from_file(encrypted.as_bytes(), Some("password")).unwrap_err(),
        OperatorKeyError::WrongPassword
    );
    assert_eq!(
        changed(|file| file["pubKey"] = KEYS[1].public_key().to_text().into()),
        OperatorKeyError::OtherPublicKey
    );
    assert_eq!(changed(|file| file["pubKey"] = 1.into()), OperatorKeyError::OtherPublicKey);
    assert!(matches!(
        changed(|file| file["kdf"]["params"]["c"] = 1_000_000_000.into()),
        OperatorKeyError::Encryption(_)
    ));
    assert!(matches!(changed(|file| file["more"] = 1.into()), OperatorKeyError::Encryption(_)));
    let long = "A".repeat(20_000);
    for (file, expected) in [
        ("", OperatorKeyError::NoKeyFile),
        ("{", OperatorKeyError::NoKeyFile),
        ("LS0t", OperatorKeyError::NoKeyFile),
        ("not a key", OperatorKeyError::NoKeyFile),
        (&long, OperatorKeyError::TooLarge { found: 20_000 }),
        (&key.public_key().to_text(), OperatorKeyError::NoRsaKey),
    ] {
        assert_eq!(OperatorKey::from_file(file.as_bytes(), Some("x")).unwrap_err(), expected, "{file:.20}");
    }
    // A private key is no public one.
    assert!(OperatorPublicKey::from_text(&plain).is_err());
}
