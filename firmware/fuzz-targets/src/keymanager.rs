//! What a key manager sends to the signer, and what the owner says about who may be one.

use ipc::remote::{MAX_ADDRESSES, RemoteClientOrder, RemoteRight};
use ipc::signer::MAX_IMPORTED;
use serde_json::{Value, json};
use signer::outside;

use crate::{Target, Verdict, world};

pub(crate) const TARGETS: &[Target] = &[
    Target {
        name: "keymanager_import",
        about: "a request to import shares: as many passwords as keystores, a lock that holds together, nothing that is not known",
        max_bytes: 32_768,
        run: import,
        seeds: import_seeds,
    },
    Target {
        name: "keymanager_delete",
        about: "a request to delete shares: bounded, one answer for each name, a key only where one is written",
        max_bytes: 4096,
        run: delete,
        seeds: delete_seeds,
    },
    Target {
        name: "remote_client",
        about: "the owner's word about a client outside the box: a plain name, at least one right, bounded",
        max_bytes: 4096,
        run: remote_client,
        seeds: remote_client_seeds,
    },
];

fn import(input: &[u8]) -> Verdict {
    if !outside::keymanager_import(input) {
        return Verdict::Refused;
    }
    let value: Value = serde_json::from_slice(input).expect("what was read is JSON");
    let count = |name: &str| value[name].as_array().map_or(0, Vec::len);
    assert!(count("keystores") > 0 && count("keystores") == count("passwords"), "not a password for each");
    let known = ["keystores", "passwords", "slashing_protection", "hearth"];
    let members = value.as_object().into_iter().flatten();
    members
        .for_each(|(name, _)| assert!(known.contains(&name.as_str()), "an unknown member was passed over"));
    Verdict::Taken
}

fn import_seeds() -> Vec<Vec<u8>> {
    let lock: Value = serde_json::from_slice(&world::created().lock.to_json().expect("our own lock"))
        .expect("our own JSON");
    let root = world::hoodi().genesis_validators_root();
    let chain = json!({"genesis_time": 1_742_213_400, "slot_ms": 12_000, "slots_per_epoch": 32});
    let history =
        json!({"metadata": {"interchange_format_version": "5", "genesis_validators_root": root}, "data": []});
    [
        json!({"keystores": ["{}"], "passwords": ["x"]}),
        json!({"keystores": ["{}", "[]"], "passwords": ["x", ""], "slashing_protection": history.to_string()}),
        json!({"keystores": ["{}"], "passwords": ["x"],
            "hearth": {"lock": lock, "genesis_validators_root": root, "chain": chain, "history": "never_signed"}}),
    ]
    .iter()
    .map(|request| request.to_string().into_bytes())
    .collect()
}

fn delete(input: &[u8]) -> Verdict {
    let Some(named) = outside::keymanager_delete(input) else { return Verdict::Refused };
    assert!(named.len() <= MAX_IMPORTED);
    let value: Value = serde_json::from_slice(input).expect("what was read is JSON");
    let texts = value["pubkeys"].as_array().map(Vec::as_slice).unwrap_or_default();
    assert_eq!(texts.len(), named.len(), "not an answer for each");
    for (text, key) in texts.iter().zip(&named) {
        let written = text.as_str().unwrap_or_default();
        assert!(key.is_none_or(|key| key.to_string().eq_ignore_ascii_case(written)), "another key");
    }
    Verdict::Taken
}

fn delete_seeds() -> Vec<Vec<u8>> {
    let key = world::validators()[0];
    [json!({"pubkeys": [key]}), json!({"pubkeys": []}), json!({"pubkeys": [key, key, "0x00", ""]})]
        .iter()
        .map(|request| request.to_string().into_bytes())
        .collect()
}

fn remote_client(input: &[u8]) -> Verdict {
    let Ok(order) = serde_json::from_slice::<RemoteClientOrder>(input) else { return Verdict::Refused };
    let text = serde_json::to_vec(&order).expect("an order has a JSON form");
    assert_eq!(serde_json::from_slice::<RemoteClientOrder>(&text).ok().as_ref(), Some(&order));
    if !outside::remote_client_order(&order) {
        return Verdict::Refused;
    }
    // It becomes the name in a certificate.
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    assert!((1..=40).contains(&order.name.len()) && order.name.bytes().all(plain) && order.name != "all");
    assert!(!order.may.is_empty() && order.addresses.len() <= MAX_ADDRESSES);
    Verdict::Taken
}

fn remote_client_seeds() -> Vec<Vec<u8>> {
    let order = |name: &str, may: &[RemoteRight], addresses: &[&str]| RemoteClientOrder {
        name: name.to_owned(),
        may: may.iter().copied().collect(),
        addresses: addresses.iter().map(|address| (*address).to_owned()).collect(),
        code: None,
    };
    [
        order("lighthouse-1", &[RemoteRight::Sign], &[]),
        order("manager", &[RemoteRight::Sign, RemoteRight::ManageKeys], &["hearth-1a2b.local", "192.0.2.7"]),
        order("all", &[RemoteRight::Sign], &[]),
    ]
    .iter()
    .map(|order| serde_json::to_vec(order).expect("an order has a JSON form"))
    .collect()
}
