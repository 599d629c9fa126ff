//! Runs published and recorded test vectors against the rooms that claim to follow them.
//!
//! A set is one folder of cases. Whoever builds a new room adds its sets to [`sets`]; folders nobody claims are reported as
//! skipped, by name, so that nothing is forgotten silently. The folder may hold more or fewer cases than any we have seen.

pub mod bls;
mod builder_specs;
pub mod cluster_files;
pub mod deposit;
pub mod dkg;
pub mod identity;
pub mod keystores;
pub mod obol_protocols;
pub mod openapi_documents;
pub mod report;
pub mod signing_roots;
pub mod slashing;
pub mod ssv;
pub mod ssz_static;
pub mod threshold_bls;
pub mod validator_api;
pub mod web3signer;

use report::Report;
use serde_json::json;
use std::collections::BTreeSet;
use std::path::Path;
use std::process::ExitCode;

/// One set of cases.
pub struct Set {
    /// The set's name, which is also its folder below the vectors' root.
    pub name: &'static str,
    /// Runs all cases of the folder.
    pub run: fn(&Path) -> Report,
}

/// Every set somebody runs.
pub fn sets() -> Vec<Set> {
    vec![
        Set { name: "bls/sign", run: bls::sign },
        Set { name: "bls/verify", run: bls::verify },
        Set { name: "bls/aggregate", run: bls::aggregate },
        Set { name: "bls/fast_aggregate_verify", run: bls::fast_aggregate_verify },
        Set { name: "bls/aggregate_verify", run: bls::aggregate_verify },
        Set { name: "bls/batch_verify", run: bls::batch_verify },
        Set { name: "bls/deserialization_G1", run: bls::deserialization_g1 },
        Set { name: "bls/deserialization_G2", run: bls::deserialization_g2 },
        Set { name: "bls/hash_to_G2", run: bls::hash_to_g2 },
        Set { name: "bls/eth_aggregate_pubkeys", run: bls::eth_aggregate_pubkeys },
        Set { name: "bls/eth_fast_aggregate_verify", run: bls::eth_fast_aggregate_verify },
        Set { name: "ssz/ssz_static", run: ssz_static::run },
        Set { name: "signing-roots", run: signing_roots::run },
        Set { name: "deposit", run: deposit::run },
        Set { name: "slashing-protection", run: slashing::run },
        Set { name: "threshold-bls", run: threshold_bls::run },
        Set { name: "openapi", run: openapi_documents::run },
        Set { name: "validator-api", run: validator_api::run },
        Set { name: "web3signer", run: web3signer::run },
        Set { name: "builder-specs-examples", run: builder_specs::run },
        Set { name: "enr-identity", run: identity::records },
        Set { name: "keystores/eip2335", run: keystores::eip2335 },
        Set { name: "obol/cluster", run: cluster_files::cluster },
        Set { name: "obol/deposit", run: cluster_files::deposit },
        Set { name: "obol/identity", run: identity::obol },
        Set { name: "obol/keystore", run: keystores::obol },
        Set { name: "obol/layout", run: cluster_files::layout },
        Set { name: "obol/qbft", run: obol_protocols::qbft },
        Set { name: "obol/parsigex", run: obol_protocols::parsigex },
        Set { name: "obol/priority", run: obol_protocols::priority },
        Set { name: "obol/peerinfo", run: obol_protocols::peerinfo },
        Set { name: "obol/encoding", run: obol_protocols::encoding },
        Set { name: "obol/duties", run: obol_protocols::duties },
        Set { name: "obol/dkg", run: dkg::run },
        Set { name: "ssv/registry", run: ssv::registry },
        Set { name: "ssv/dkg", run: ssv::dkg },
        Set { name: "ssv/keysets", run: ssv::keysets },
        Set { name: "ssv/derived", run: ssv::derived },
    ]
}

/// Folders whose subject this version of the box does not have, and why.
const NOT_BUILT: &[(&str, &str)] = &[
    ("shamir-slip39", "the box has no SLIP-39 backup"),
    ("ssv/spec", "the protocol of SSV's nodes is not built"),
    ("tuf", "the updater is not built"),
    ("update-formats", "the updater is not built"),
    ("keystores/eip2333", "the box derives no keys from seeds"),
    ("keystores/eip2386", "the box keeps no wallets"),
    ("keystores/bip39", "the box has no mnemonics"),
    ("obol/obolapi", "nobody reads these; what the box asks of Obol is tried by its own tests"),
];

/// The sum over all sets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Cases with the expected result.
    pub passed: u64,
    /// Cases with another result.
    pub failed: u64,
    /// Cases nobody ran.
    pub skipped: u64,
}

impl Totals {
    /// Success when nothing failed.
    pub fn exit_code(self) -> ExitCode {
        if self.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A line per set for people.
    Text,
    /// A JSON object per line.
    Json,
}

/// Runs every set found in `dir`, printing one line for each as it ends.
pub fn run(dir: &Path, format: Format) -> Totals {
    let mut totals = Totals::default();
    let mut print = |name: &str, report: Report| {
        totals.passed += report.passed;
        totals.failed += report.failed;
        totals.skipped += report.skipped;
        print_line(name, &report, format);
    };
    let sets = sets();
    for set in &sets {
        let folder = dir.join(set.name);
        let report =
            if folder.is_dir() { (set.run)(&folder) } else { Report::skipped(0, "the folder is not there") };
        print(set.name, report);
    }
    for (name, count) in unclaimed(dir, &sets) {
        let why = NOT_BUILT.iter().find(|(known, _)| *known == name);
        print(&name, Report::skipped(count, why.map_or("no room of this version reads it", |(_, why)| why)));
    }
    if format == Format::Text {
        println!("passed {}, failed {}, skipped {}", totals.passed, totals.failed, totals.skipped);
    }
    totals
}

/// Folders with data that no set covers, one or two levels deep, with the number of files in each.
fn unclaimed(dir: &Path, sets: &[Set]) -> Vec<(String, u64)> {
    let claimed: BTreeSet<&str> = sets.iter().map(|set| set.name).collect();
    let mut found = Vec::new();
    for top in subfolders(dir) {
        if claimed.contains(top.as_str()) {
            continue;
        }
        let has_sets = claimed.iter().any(|name| name.starts_with(&format!("{top}/")));
        let split = has_sets || NOT_BUILT.iter().any(|(name, _)| name.starts_with(&format!("{top}/")));
        if !split {
            let count = count_files(&dir.join(&top));
            found.push((top, count));
            continue;
        }
        for sub in subfolders(&dir.join(&top)) {
            let name = format!("{top}/{sub}");
            let covered = claimed.contains(name.as_str())
                || claimed.iter().any(|claim| claim.starts_with(&format!("{name}/")));
            if !covered && name != "ssz/config" {
                let count = count_files(&dir.join(&name));
                found.push((name, count));
            }
        }
    }
    found
}

fn subfolders(dir: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    let mut names: Vec<String> = entries
        .flatten()
        .filter(|entry| entry.path().is_dir())
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    names
}

fn count_files(dir: &Path) -> u64 {
    let kinds = ["json", "yaml", "yml", "ssz", "ssz_snappy", "txt", "conf", "raucm", "bin", "pem", "xml"];
    let count: usize = kinds.iter().map(|kind| report::files(dir, kind).len()).sum();
    u64::try_from(count).unwrap_or(u64::MAX)
}

fn print_line(name: &str, report: &Report, format: Format) {
    let why = report.why.join("; ");
    match format {
        Format::Json => {
            let line = json!({
                "set": name,
                "passed": report.passed,
                "failed": report.failed,
                "skipped": report.skipped,
                "why": why,
            });
            println!("{line}");
        }
        Format::Text => {
            let verdict = match (report.failed, report.passed, report.skipped) {
                (1.., _, _) => "FAILED",
                (0, 0, _) => "skipped",
                (0, _, _) => "ok",
            };
            let counts =
                format!("{} passed, {} failed, {} skipped", report.passed, report.failed, report.skipped);
            let reason = if why.is_empty() { String::new() } else { format!(" ({why})") };
            println!("{verdict:8} {name:32} {counts}{reason}");
        }
    }
}
