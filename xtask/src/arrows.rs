//! Who may depend on whom: `deny.toml` states it, this checks it on every test run.
//!
//! `cargo deny` knows the same rule (`wrappers`), and more about licences; run it by hand. This check
//! needs nothing but cargo, so a wrong arrow fails on every machine.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use anyhow::Context as _;
use serde_json::Value;

/// A crate from outside and the only rooms that may name it.
const WRAPPERS: [(&str, &[&str]); 7] = [
    ("blst", &["threshold"]),
    ("tss-esapi", &["tpm"]),
    ("libp2p", &["obol", "dv-node"]),
    ("rusqlite", &["signer"]),
    ("reqwest", &["beacon", "dv-node", "hw-tests"]),
    ("hpke", &["ipc"]),
    ("rsa", &["cluster"]),
];

/// Rooms that compute and do nothing else.
const PURE: [&str; 6] = ["chain", "qbft", "slashing", "threshold", "duty", "cluster"];
/// What would let a pure room read a clock, a file or a socket.
const IMPURE: [&str; 8] =
    ["tokio", "nix", "rustix", "reqwest", "hyper", "libp2p", "tracing-journald", "rusqlite"];
/// Processes; they meet in `ipc` and never name each other.
const DAEMONS: [&str; 4] = ["signer", "dv-node", "web", "recovery"];
/// Tries the parsers of all of them, and is on no box.
const TRIES_ALL: &str = "fuzz-targets";

/// All wrong arrows of the workspace, each as a sentence.
pub(crate) fn wrong() -> anyhow::Result<Vec<String>> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--locked"])
        .output()
        .context("cannot run cargo metadata")?;
    anyhow::ensure!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout)?;
    Ok(judge(&arrows(&metadata)))
}

/// Crate → the crates it names outside its tests.
fn arrows(metadata: &Value) -> BTreeMap<String, BTreeSet<String>> {
    let packages = metadata["packages"].as_array().map(Vec::as_slice).unwrap_or_default();
    packages
        .iter()
        .map(|package| {
            let named = package["dependencies"].as_array().map(Vec::as_slice).unwrap_or_default();
            let named = named
                .iter()
                .filter(|dependency| dependency["kind"] != "dev")
                .filter_map(|dependency| dependency["name"].as_str().map(str::to_owned))
                .collect();
            (package["name"].as_str().unwrap_or_default().to_owned(), named)
        })
        .collect()
}

fn judge(arrows: &BTreeMap<String, BTreeSet<String>>) -> Vec<String> {
    let mut wrong = Vec::new();
    for (room, named) in arrows {
        if named.contains(TRIES_ALL) {
            wrong.push(format!(
                "{room} depends on {TRIES_ALL}, which is only for the fuzzer and the test run"
            ));
        }
        for (outside, allowed) in WRAPPERS {
            if named.contains(outside) && !allowed.contains(&room.as_str()) {
                wrong.push(format!("{room} names {outside}, which only {} may", allowed.join(", ")));
            }
        }
        for daemon in DAEMONS {
            if named.contains(daemon) && room != TRIES_ALL {
                wrong.push(format!("{room} depends on the daemon {daemon}; daemons meet in ipc"));
            }
        }
        if PURE.contains(&room.as_str()) {
            for other in named {
                if IMPURE.contains(&other.as_str()) {
                    wrong.push(format!("{room} is pure and names {other}"));
                }
                if arrows.contains_key(other) && !PURE.contains(&other.as_str()) {
                    wrong.push(format!("{room} is pure and names the room {other}"));
                }
            }
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(room: &str, named: &[&str]) -> Vec<String> {
        let mut all = BTreeMap::from([("ipc".to_owned(), BTreeSet::new())]);
        all.insert(room.to_owned(), named.iter().map(|name| (*name).to_owned()).collect());
        judge(&all)
    }

    #[test]
    fn right_arrows_pass_and_wrong_ones_are_named() {
        assert_eq!(one("threshold", &["blst", "chain"]), Vec::<String>::new());
        assert_eq!(one("signer", &["rusqlite", "tpm", "ipc"]), Vec::<String>::new());
        assert_eq!(one("fuzz-targets", &["signer", "dv-node"]), Vec::<String>::new());
        for (room, named) in [
            ("web", "fuzz-targets"),
            ("duty", "blst"),
            ("duty", "tokio"),
            ("duty", "ipc"),
            ("web", "tss-esapi"),
            ("web", "signer"),
            ("signer", "libp2p"),
        ] {
            assert_eq!(one(room, &[named]).len(), 1, "{room} → {named}");
        }
    }
}
