//! The published signature vectors and the recorded threshold vectors, with the same checks as `./hearth vectors`.
#![expect(
    unreachable_pub,
    dead_code,
    reason = "the modules are those of the vector runner, which uses more of them"
)]

#[path = "../../../hw-tests/src/vectors/bls.rs"]
mod bls;
#[path = "../../../hw-tests/src/vectors/report.rs"]
mod report;
#[path = "../../../hw-tests/src/vectors/threshold_bls.rs"]
mod threshold_bls;

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
fn bls_signatures_follow_the_published_vectors() {
    check("bls/sign", bls::sign);
    check("bls/verify", bls::verify);
    check("bls/aggregate", bls::aggregate);
    check("bls/fast_aggregate_verify", bls::fast_aggregate_verify);
    check("bls/aggregate_verify", bls::aggregate_verify);
    check("bls/batch_verify", bls::batch_verify);
    check("bls/deserialization_G1", bls::deserialization_g1);
    check("bls/deserialization_G2", bls::deserialization_g2);
    check("bls/hash_to_G2", bls::hash_to_g2);
    check("bls/eth_aggregate_pubkeys", bls::eth_aggregate_pubkeys);
    check("bls/eth_fast_aggregate_verify", bls::eth_fast_aggregate_verify);
}

#[test]
fn threshold_signatures_follow_the_recorded_vectors() {
    check("threshold-bls", threshold_bls::run);
}
