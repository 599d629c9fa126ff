//! Encodings, roots and domains against the recorded vectors, with the same checks as `./hearth vectors`.
#![expect(
    unreachable_pub,
    dead_code,
    reason = "the modules are those of the vector runner, which uses more of them"
)]

#[path = "../../../hw-tests/src/vectors/deposit.rs"]
mod deposit;
#[path = "../../../hw-tests/src/vectors/report.rs"]
mod report;
#[path = "../../../hw-tests/src/vectors/signing_roots.rs"]
mod signing_roots;
#[path = "../../../hw-tests/src/vectors/ssz_static.rs"]
mod ssz_static;
#[path = "../../../hw-tests/src/vectors/web3signer.rs"]
mod web3signer;

use report::Report;
use std::path::{Path, PathBuf};

fn check(set: &str, run: fn(&Path) -> Report) {
    let root = std::env::var_os("HEARTH_VECTORS")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/vectors"), PathBuf::from);
    let folder = root.join(set);
    if !folder.is_dir() {
        eprintln!("SKIPPED: {set}: no vectors at {}; set HEARTH_VECTORS", folder.display());
        return;
    }
    let report = run(&folder);
    assert_eq!(report.failed, 0, "{set}: {:#?}", report.why);
    assert!(report.passed > 0, "{set}: no case ran");
}

#[test]
fn encodings_and_roots_follow_the_spec_tests() {
    check("ssz", ssz_static::run);
}

#[test]
fn domains_and_signing_roots_follow_the_recorded_vectors() {
    check("signing-roots", signing_roots::run);
}

#[test]
fn roots_of_a_real_clients_requests_are_recomputed() {
    check("web3signer", web3signer::run);
}

#[test]
fn deposits_follow_the_recorded_vectors() {
    check("deposit", deposit::run);
    check("obol/deposit", deposit::run);
}
