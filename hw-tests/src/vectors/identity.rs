//! `obol/identity` and `enr-identity`: node records, peer ids and names, identity signatures.

use super::report::{Report, equal, files, hex_field, label, list, read_as, read_json, text};
use cluster::enr::EnrEndpoint;
use cluster::{Enr, EnrError, IdentityKey, IdentityPublicKey, PeerId};
use serde_json::Value;
use std::path::Path;

/// `obol/identity`.
pub fn obol(folder: &Path) -> Report {
    let mut report = Report::default();
    for file in files(folder, "json") {
        let name = label(folder, &file);
        let check: fn(&Value) -> Result<(), String> = match name.as_str() {
            "enr.json" => enr_case,
            "enr_invalid.json" => invalid_enr_case,
            "k1_keys.json" => key_case,
            "peer_id_name.json" => peer_case,
            "peer_name_words.json" => continue, // The word lists themselves; every name below depends on them.
            _ => {
                report.skip(1, "a file of unknown form");
                continue;
            }
        };
        match read_json(&file).and_then(|value| Ok(list(&value, "cases")?.to_vec())) {
            Ok(cases) => {
                for (index, case) in cases.iter().enumerate() {
                    report.case(format!("{name} case {index}"), check(case));
                }
            }
            Err(why) => report.case(name, Err(why)),
        }
    }
    report
}

fn enr_case(case: &Value) -> Result<(), String> {
    let enr = Enr::parse(text(case, "enr")?).map_err(|error| error.to_string())?;
    check_enr(&enr, case)
}

fn check_enr(enr: &Enr, case: &Value) -> Result<(), String> {
    equal("seq", enr.seq(), read_as(case, "seq")?)?;
    equal("key", enr.public_key().to_string().as_str(), text(case, "pubkey_compressed")?)?;
    equal("peer id", enr.peer_id().to_string().as_str(), text(case, "peer_id")?)?;
    equal("peer name", enr.peer_id().name().as_str(), text(case, "peer_name")?)?;
    let read_back: PeerId = text(case, "peer_id")?.parse().map_err(|_| "the peer id does not parse")?;
    equal("key of the peer id", read_back.public_key(), enr.public_key())?;
    equal("endpoint", enr.endpoint(), endpoint_of(case)?)
}

fn endpoint_of(case: &Value) -> Result<EnrEndpoint, String> {
    let field = |name: &str| case.get(name).is_some_and(|value| !value.is_null());
    Ok(EnrEndpoint {
        ip: field("ip").then(|| read_as(case, "ip")).transpose()?,
        tcp: field("tcp").then(|| read_as(case, "tcp")).transpose()?,
        udp: field("udp").then(|| read_as(case, "udp")).transpose()?,
    })
}

fn invalid_enr_case(case: &Value) -> Result<(), String> {
    match Enr::parse(text(case, "enr")?) {
        Ok(_) => Err(format!("accepted, though: {}", text(case, "reason")?)),
        Err(_) => Ok(()),
    }
}

fn key_case(case: &Value) -> Result<(), String> {
    let hex = text(case, "private_key_hex")?;
    let key = IdentityKey::from_file_text(&format!("  {hex}\n")).map_err(|error| error.to_string())?;
    equal("key file", key.to_file_text().as_str(), hex)?;
    let public = key.public_key();
    equal("public key", public.to_string().as_str(), text(case, "pubkey_compressed")?)?;
    if case.get("enr").is_some() {
        let enr = Enr::build_with(&key, endpoint_of(case)?);
        equal("built record", enr.as_str(), text(case, "enr")?)?;
        check_enr(&enr, case)?;
        enr_case(case)?;
    }
    let digest: [u8; 32] = hex_field(case, "digest")?.try_into().map_err(|_| "the digest is not 32 bytes")?;
    let signature = hex_field(case, "k1_sig65")?;
    equal("signature", key.sign(&digest).to_vec(), signature.clone())?;
    // The same signature with the other numbering of its recovery byte; nothing else recovers the key.
    for byte in 0..=u8::MAX {
        let mut other = signature.clone();
        other[64] = byte;
        let expected = byte == signature[64] || byte == signature[64] + 27;
        equal("recovery", public.verify(&digest, &other).is_ok(), expected)?;
    }
    Ok(())
}

fn peer_case(case: &Value) -> Result<(), String> {
    let peer: PeerId = text(case, "peer_id")?.parse().map_err(|_| "the peer id does not parse")?;
    equal("name", peer.name().as_str(), text(case, "peer_name")?)
}

/// `enr-identity`.
pub fn records(folder: &Path) -> Report {
    let mut report = Report::default();
    for file in files(folder, "json") {
        let name = label(folder, &file);
        let value = match read_json(&file) {
            Ok(value) => value,
            Err(why) => {
                report.case(name, Err(why));
                continue;
            }
        };
        if value.get("enr").is_some() {
            report.case(name, record_case(&value));
            continue;
        }
        for (index, case) in list(&value, "cases").unwrap_or_default().iter().enumerate() {
            let name = format!("{name} case {index}");
            match case.get("type").and_then(Value::as_str) {
                Some("secp256k1") => report.case(name, protobuf_case(case)),
                Some(_) => report.skip(1, "the box has no other identity keys than secp256k1"),
                None => report.skip(1, "the box does not speak node discovery"),
            }
        }
    }
    report
}

/// The example record of EIP-778: parsed, with every pair, and refused once a bit is changed.
fn record_case(case: &Value) -> Result<(), String> {
    let enr = Enr::parse(text(case, "enr")?).map_err(|error| error.to_string())?;
    equal("sequence", enr.seq(), read_as(case, "sequence")?)?;
    equal("signature", enr.signature().to_vec(), hex_field(case, "signature")?)?;
    for (key, value) in case["pairs"].as_object().into_iter().flatten() {
        let value = value.as_str().unwrap_or_default();
        let expected = if key == "id" { value.as_bytes().to_vec() } else { super::report::bytes_of(value)? };
        equal(key, enr.value(key.as_bytes()).map(<[u8]>::to_vec), Some(expected))?;
    }
    let key = text(case, "private_key")?;
    let key = IdentityKey::from_file_text(key.trim_start_matches("0x")).map_err(|error| error.to_string())?;
    equal("key", key.public_key(), enr.public_key())?;
    let damaged = text(case, "enr")?.replace("udp", "tcp").replacen("-IS4QH", "-IS4QI", 1);
    match Enr::parse(&damaged) {
        Err(EnrError::Signature(_)) => Ok(()),
        other => Err(format!("a damaged record gives {other:?}")),
    }
}

/// libp2p's protobuf form of a key is the peer id without its two multihash bytes.
fn protobuf_case(case: &Value) -> Result<(), String> {
    let public = hex_field(case, "public_key_protobuf")?;
    let private = hex_field(case, "private_key_protobuf")?;
    let key = IdentityPublicKey::from_bytes(public.get(4..).unwrap_or_default())
        .map_err(|error| error.to_string())?;
    equal("public key", PeerId::from_public_key(&key).to_bytes()[2..].to_vec(), public)?;
    let secret = private.get(4..).map(hex::encode).unwrap_or_default();
    let secret = IdentityKey::from_file_text(&secret).map_err(|error| error.to_string())?;
    equal("key of the private key", secret.public_key(), key)
}
