//! Published and recorded vectors. The checks live with the vector runner of `hw-tests`, which is one tool for all rooms;
//! here they run without everything else that tool needs.

#![expect(
    unreachable_pub,
    dead_code,
    reason = "the included files are modules of a library and serve it whole"
)]

use std::path::{Path, PathBuf};

#[path = "../../../hw-tests/src/vectors/cluster_files.rs"]
mod cluster_files;
#[path = "../../../hw-tests/src/vectors/identity.rs"]
mod identity;
#[path = "../../../hw-tests/src/vectors/keystores.rs"]
mod keystores;
#[path = "../../../hw-tests/src/vectors/report.rs"]
mod report;
#[path = "../../../hw-tests/src/vectors/ssv.rs"]
mod ssv;

fn check(set: &str, run: fn(&Path) -> report::Report, at_least: u64) {
    let root = std::env::var_os("HEARTH_VECTORS")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/vectors"), PathBuf::from);
    let folder = root.join(set);
    if !folder.is_dir() {
        eprintln!("SKIPPED: no vectors in {} (set HEARTH_VECTORS)", folder.display());
        return;
    }
    let report = run(&folder);
    println!("{set}: {} passed, {} skipped {:?}", report.passed, report.skipped, report.why);
    assert_eq!(report.failed, 0, "{set}: {:#?}", report.why);
    assert!(report.passed >= at_least, "{set}: only {} cases passed", report.passed);
}

#[test]
fn definitions_and_locks_of_every_version() {
    check("obol/cluster", cluster_files::cluster, 50);
}

#[test]
fn layout_of_created_clusters() {
    check("obol/layout", cluster_files::layout, 5);
}

#[test]
fn deposits_and_registrations() {
    check("obol/deposit", cluster_files::deposit, 9);
}

#[test]
fn obol_identities() {
    check("obol/identity", identity::obol, 40);
}

#[test]
fn node_records() {
    check("enr-identity", identity::records, 2);
}

#[test]
fn eip2335_keystores() {
    check("keystores/eip2335", keystores::eip2335, 60);
}

#[test]
fn obol_keystore() {
    check("obol/keystore", keystores::obol, 1);
}

#[test]
fn ssv_key_shares_of_the_splitting_tool_and_broken_ones() {
    check("ssv/registry", ssv::registry, 6);
}

#[test]
fn ssv_key_shares_and_operators_of_recorded_ceremonies() {
    check("ssv/dkg", ssv::dkg, 20);
}

#[test]
fn ssv_keys_of_the_specification() {
    check("ssv/keysets", ssv::keysets, 5);
}

#[test]
fn what_an_ssv_owner_s_validators_have_signed() {
    check("ssv/derived", ssv::derived, 4);
}
