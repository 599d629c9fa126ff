//! What a key manager sends to the signer: requests with keystores, passwords, a history and a lock.

use serde_json::{Value, json};
use signer::outside;

use crate::{Target, Verdict, world};

pub(crate) const TARGETS: &[Target] = &[Target {
    name: "keymanager_import",
    about: "a request to import shares: as many passwords as keystores, a lock that holds together, nothing that is not known",
    max_bytes: 32_768,
    run: import,
    seeds: import_seeds,
}];

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
    let root = format!("0x{}", "42".repeat(32));
    let chain = json!({"genesis_time": 1_742_212_800, "slot_ms": 12_000, "slots_per_epoch": 32});
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
