//! `bls`: the signature scheme.

use super::report::{Report, bytes_of, equal, hex_field, json_cases, list, text};
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde_json::Value;
use std::path::Path;
use threshold::{BatchItem, KeyError, PublicKey, SecretKey, Signature};

/// `bls/sign`.
pub fn sign(folder: &Path) -> Report {
    json_cases(folder, |case| {
        let input = &case["input"];
        let message = hex_field(input, "message")?;
        let signature = SecretKey::from_bytes(&hex_field(input, "privkey")?)
            .ok()
            .map(|key| key.sign(&message).to_bytes().to_string());
        equal("signature", signature.as_deref(), case["output"].as_str())
    })
}

/// `bls/verify`.
pub fn verify(folder: &Path) -> Report {
    json_cases(folder, |case| {
        let input = &case["input"];
        let message = hex_field(input, "message")?;
        let valid = match (key(&input["pubkey"])?, signature(&input["signature"])?) {
            (Some(key), Some(signature)) => threshold::verify(&key, &message, &signature),
            (None, _) | (_, None) => false,
        };
        expect_bool(case, valid)
    })
}

/// `bls/aggregate`.
pub fn aggregate(folder: &Path) -> Report {
    json_cases(folder, |case| {
        let sum = match all(list(case, "input")?, signature)? {
            Some(signatures) => threshold::aggregate_signatures(&signatures).ok(),
            None => None,
        };
        let sum = sum.map(|sum| sum.to_bytes().to_string());
        equal("aggregate", sum.as_deref(), case["output"].as_str())
    })
}

/// `bls/fast_aggregate_verify`.
pub fn fast_aggregate_verify(folder: &Path) -> Report {
    json_cases(folder, |case| one_message(case, threshold::fast_aggregate_verify))
}

/// `bls/eth_fast_aggregate_verify`.
pub fn eth_fast_aggregate_verify(folder: &Path) -> Report {
    json_cases(folder, |case| one_message(case, threshold::eth_fast_aggregate_verify))
}

fn one_message(case: &Value, check: fn(&[PublicKey], &[u8], &Signature) -> bool) -> Result<(), String> {
    let input = &case["input"];
    let message = hex_field(input, "message")?;
    let valid = match (all(list(input, "pubkeys")?, key)?, signature(&input["signature"])?) {
        (Some(keys), Some(signature)) => check(&keys, &message, &signature),
        (None, _) | (_, None) => false,
    };
    expect_bool(case, valid)
}

/// `bls/aggregate_verify`.
pub fn aggregate_verify(folder: &Path) -> Report {
    json_cases(folder, |case| {
        let input = &case["input"];
        let messages = messages(input)?;
        let messages: Vec<_> = messages.iter().map(Vec::as_slice).collect();
        let valid = match (all(list(input, "pubkeys")?, key)?, signature(&input["signature"])?) {
            (Some(keys), Some(signature)) => threshold::aggregate_verify(&keys, &messages, &signature),
            (None, _) | (_, None) => false,
        };
        expect_bool(case, valid)
    })
}

/// `bls/batch_verify`.
pub fn batch_verify(folder: &Path) -> Report {
    json_cases(folder, |case| {
        let input = &case["input"];
        let messages = messages(input)?;
        let keys = all(list(input, "pubkeys")?, key)?;
        let signatures = all(list(input, "signatures")?, signature)?;
        let valid = match (keys, signatures) {
            (Some(keys), Some(signatures))
                if keys.len() == messages.len() && signatures.len() == keys.len() =>
            {
                let items: Vec<_> = keys
                    .iter()
                    .zip(&messages)
                    .zip(&signatures)
                    .map(|((key, message), signature)| BatchItem { key, message, signature })
                    .collect();
                threshold::batch_verify(&items, &mut StdRng::from_os_rng())
            }
            (Some(_) | None, Some(_) | None) => false,
        };
        expect_bool(case, valid)
    })
}

/// `bls/deserialization_G1`. Infinity is a valid point here, though no valid key: our parser says which it was.
pub fn deserialization_g1(folder: &Path) -> Report {
    json_cases(folder, |case| {
        let valid = match PublicKey::from_slice(&hex_field(&case["input"], "pubkey")?) {
            Ok(_) | Err(KeyError::Infinity) => true,
            Err(_) => false,
        };
        expect_bool(case, valid)
    })
}

/// `bls/deserialization_G2`.
pub fn deserialization_g2(folder: &Path) -> Report {
    json_cases(folder, |case| {
        let valid = Signature::from_slice(&hex_field(&case["input"], "signature")?).is_ok();
        expect_bool(case, valid)
    })
}

/// `bls/hash_to_G2`, with the tag of RFC 9380's own tests.
pub fn hash_to_g2(folder: &Path) -> Report {
    json_cases(folder, |case| {
        let dst = b"QUUX-V01-CS02-with-BLS12381G2_XMD:SHA-256_SSWU_RO_";
        let point = threshold::hash_to_g2_affine(text(&case["input"], "msg")?.as_bytes(), dst);
        let [x0, x1, y0, y1] = point.map(|element| format!("0x{}", hex::encode(element)));
        equal("x", format!("{x0},{x1}").as_str(), text(&case["output"], "x")?)?;
        equal("y", format!("{y0},{y1}").as_str(), text(&case["output"], "y")?)
    })
}

/// `bls/eth_aggregate_pubkeys`.
pub fn eth_aggregate_pubkeys(folder: &Path) -> Report {
    json_cases(folder, |case| {
        let sum = match all(list(case, "input")?, key)? {
            Some(keys) => threshold::aggregate_public_keys(&keys).ok(),
            None => None,
        };
        let sum = sum.map(|sum| sum.to_string());
        equal("aggregate", sum.as_deref(), case["output"].as_str())
    })
}

/// None for bytes that are no valid key; an error only for a case we cannot read.
fn key(value: &Value) -> Result<Option<PublicKey>, String> {
    let bytes = bytes_of(value.as_str().ok_or("a public key is no text")?)?;
    Ok(PublicKey::from_slice(&bytes).ok())
}

fn signature(value: &Value) -> Result<Option<Signature>, String> {
    let bytes = bytes_of(value.as_str().ok_or("a signature is no text")?)?;
    Ok(Signature::from_slice(&bytes).ok())
}

fn all<T>(
    values: &[Value],
    parse: fn(&Value) -> Result<Option<T>, String>,
) -> Result<Option<Vec<T>>, String> {
    values.iter().map(parse).collect::<Result<Option<Vec<_>>, _>>()
}

fn messages(input: &Value) -> Result<Vec<Vec<u8>>, String> {
    list(input, "messages")?
        .iter()
        .map(|message| bytes_of(message.as_str().ok_or("a message is no text")?))
        .collect()
}

fn expect_bool(case: &Value, found: bool) -> Result<(), String> {
    let expected = case["output"].as_bool().ok_or("output is neither true nor false")?;
    equal("result", found, expected)
}
