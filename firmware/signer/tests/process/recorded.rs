//! Requests that a stock validator client made of a remote signer, sent to the real process over its socket: the same status, the
//! same type of content and the same signature come back, byte by byte.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use crate::harness::*;
use cluster::keystore::{KdfCost, Keystore};
use ipc::{
    Sensitive,
    signer::{ChainClock, ChainPreset, History, ShareBundle, ShareEntry},
};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use threshold::SecretKey;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
};

/// Long enough for all shares to come in before the chain begins, short enough for its eleven epochs.
const SLOT_MS: u64 = 20;
/// The epoch after the last recorded one.
const OVER: u64 = 12;

fn vectors() -> Option<PathBuf> {
    let folder = std::env::var_os("HEARTH_VECTORS")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/vectors"), PathBuf::from);
    if !folder.join("web3signer").is_dir() {
        println!("SKIPPED: no vectors at {}", folder.display());
        return None;
    }
    Some(folder)
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// The recorded cases, by run: votes of different runs may contradict each other.
fn runs(folder: &Path) -> BTreeMap<String, Vec<Value>> {
    let mut runs = BTreeMap::<String, Vec<Value>>::new();
    for file in std::fs::read_dir(folder.join("web3signer")).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_some_and(|ending| ending == "json") {
            let set = json(&path);
            let cases = set["cases"].as_array().unwrap().clone();
            runs.entry(set["run"].as_str().unwrap().to_owned()).or_default().extend(cases);
        }
    }
    runs
}

struct Answer {
    status: u16,
    content_type: String,
    body: String,
}

/// As the client wrote it, but for its connection's own headers.
async fn send(machine: &Machine, method: &str, path: &str, accept: Option<&str>, body: &str) -> Answer {
    let mut stream = UnixStream::connect(machine.dir.path().join("sign.sock")).await.unwrap();
    let accept = accept.map_or_else(String::new, |kind| format!("accept: {kind}\r\n"));
    let text = format!(
        "{method} {path} HTTP/1.1\r\nhost: x\r\n{accept}content-type: application/json\r\nconnection: close\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let field = |line: &str| line.to_ascii_lowercase().strip_prefix("content-type: ").map(str::to_owned);
    Answer {
        status: head.split(' ').nth(1).unwrap().parse().unwrap(),
        content_type: head.lines().find_map(field).unwrap_or_default(),
        body: body.to_owned(),
    }
}

/// A machine that holds all these keys as shares of the recorded chain, when that has gone as far as the records.
async fn holding(secrets: &[SecretKey], genesis_validators_root: &str) -> (Machine, Running) {
    let machine = Machine::new();
    let signer = machine.start().await;
    let entry = |(number, secret): (usize, &SecretKey)| {
        let keystore = Keystore::encrypt_share(secret, PASSWORD, KdfCost::Insecure, &mut rand::rng());
        ShareEntry {
            keystore: serde_json::from_slice(&keystore.to_json()).unwrap(),
            password: Sensitive::new(PASSWORD.to_owned()),
            public_key: secret.public_key().to_bytes().to_string(),
            group_public_key: pubshare(u8::try_from(number + 1).unwrap()).to_string(),
            share_index: 1,
        }
    };
    let mut bundle = ShareBundle {
        validators: secrets.iter().enumerate().map(entry).collect(),
        history: History::NeverSigned,
        genesis_validators_root: genesis_validators_root.to_owned(),
        chain: ChainClock { preset: ChainPreset::Minimal, ..clock_with(SLOT_MS) },
    };
    // Sixty-four keystores on a machine that is busy.
    bundle.chain.genesis_time += 15;
    signer.import_only(&bundle).await.unwrap();
    assert_eq!(epoch_of(&bundle.chain), 0, "before the chain begins");
    until_epoch(&bundle.chain, OVER).await;
    (machine, signer)
}

/// What needs the owner's word, which was not given here.
fn refusal(kind: &str) -> Option<&'static str> {
    match kind {
        // Exits are signed with Capella's version (EIP-7044), which the owner's rules bring; the request names another one.
        "VOLUNTARY_EXIT" => Some("signing_root_mismatch"),
        "VALIDATOR_REGISTRATION" => Some("no_rules"),
        _ => None,
    }
}

/// Order of the BLS12-381 scalar field, big-endian.
const CURVE_ORDER: [u8; 32] = [
    0x73, 0xed, 0xa7, 0x53, 0x29, 0x9d, 0x7d, 0x48, 0x33, 0x39, 0xd8, 0x08, 0x09, 0xa1, 0xd8, 0x05, 0x53,
    0xbd, 0xa4, 0x02, 0xff, 0xfe, 0x5b, 0xfe, 0xff, 0xff, 0xff, 0xff, 0x00, 0x00, 0x00, 0x01,
];

/// The publicly known key of this number: the hash of the number, modulo the order of the field.
fn interop(number: usize) -> SecretKey {
    let mut preimage = [0; 32];
    preimage[0] = u8::try_from(number).unwrap();
    let mut key: [u8; 32] = Sha256::digest(preimage).into();
    key.reverse();
    while key >= CURVE_ORDER {
        let mut borrow = 0;
        for (place, order) in CURVE_ORDER.into_iter().enumerate().rev() {
            let left = 256 + i32::from(key[place]) - i32::from(order) - borrow;
            borrow = i32::from(left < 256);
            key[place] = u8::try_from(left % 256).unwrap();
        }
    }
    SecretKey::from_bytes(&key).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stock_client_s_recorded_requests_are_answered_byte_by_byte() {
    let Some(folder) = vectors() else { return };
    let played = runs(&folder).into_iter().map(|(run, cases)| play(run, cases));
    let signed: usize = futures::future::join_all(played).await.into_iter().sum();
    assert!(signed >= 90, "{signed}");
}

/// One run's requests; gives how many signatures came.
async fn play(run: String, mut cases: Vec<Value>) -> usize {
    let root = |case: &Value| {
        let root = case["request"]["body"]["fork_info"]["genesis_validators_root"].as_str();
        root.map(str::to_owned)
    };
    let root = cases.iter().find_map(root).unwrap();
    let listed = cases.iter().filter_map(|case| case["response"]["body"].as_array()).map(Vec::len).max();
    let secrets: Vec<SecretKey> = (0..listed.unwrap()).map(interop).collect();
    let (machine, _signer) = holding(&secrets, &root).await;
    // The oldest votes first, as they were made.
    cases.sort_by_key(|case| {
        let body = &case["request"]["body"];
        let of = |value: &Value| value["slot"].as_str().and_then(|slot| slot.parse::<u64>().ok());
        of(&body["attestation"]).or_else(|| of(&body["beacon_block"]["block_header"])).unwrap_or_default()
    });
    let mut signed = 0;
    for case in cases {
        let (request, response) = (&case["request"], &case["response"]);
        let (method, path) = (request["method"].as_str().unwrap(), request["path"].as_str().unwrap());
        let body = if request["body"].is_object() { request["body"].to_string() } else { String::new() };
        let answer = send(&machine, method, path, request["headers"]["accept"].as_str(), &body).await;
        let kind = request["body"]["type"].as_str().unwrap_or_default();
        let told: Value = serde_json::from_str(&answer.body).unwrap();
        if let Some(code) = refusal(kind) {
            assert_eq!((answer.status, told["code"].as_str()), (412, Some(code)), "{run} {kind}");
            continue;
        }
        assert_eq!(u64::from(answer.status), response["status"].as_u64().unwrap(), "{run} {kind}: {told}");
        assert_eq!(answer.content_type, "application/json", "{run} {kind}");
        if let Some(keys) = response["body"].as_array() {
            // In whatever order.
            let told = told.as_array().unwrap();
            assert!(told.len() == keys.len() && keys.iter().all(|key| told.contains(key)), "{run}");
            continue;
        }
        assert_eq!(told, response["body"], "{run} {kind}");
        signed += 1;
        if kind == "RANDAO_REVEAL" {
            the_answer_has_the_type_that_was_asked_for(&machine, path, &body, &told).await;
        }
    }
    signed
}

async fn the_answer_has_the_type_that_was_asked_for(
    machine: &Machine,
    path: &str,
    body: &str,
    signed: &Value,
) {
    for (accept, is_text) in [
        (None, false),
        (Some("*/*"), false),
        (Some("application/json"), false),
        (Some("text/plain"), true),
        (Some("text/plain, application/json;q=0.5"), false),
    ] {
        let answer = send(machine, "POST", path, accept, body).await;
        assert_eq!(answer.status, 200);
        let (kind, said) = if is_text {
            ("text/plain; charset=utf-8", answer.body == signed["signature"].as_str().unwrap())
        } else {
            ("application/json", serde_json::from_str::<Value>(&answer.body).unwrap() == *signed)
        };
        assert!(said && answer.content_type == kind, "{accept:?}: {} {}", answer.content_type, answer.body);
    }
}
