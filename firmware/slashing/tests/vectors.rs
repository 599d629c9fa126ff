//! The interchange tests of EIP-3076, with the same checks as `./hearth vectors`.
#![expect(
    unreachable_pub,
    dead_code,
    reason = "the modules are those of the vector runner, which uses more of them"
)]

#[path = "../../../hw-tests/src/vectors/report.rs"]
mod report;
#[path = "../../../hw-tests/src/vectors/slashing.rs"]
mod slashing_set;

use std::path::{Path, PathBuf};

#[test]
fn imports_and_decisions_follow_the_published_vectors() {
    let root = std::env::var_os("HEARTH_VECTORS")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/vectors"), PathBuf::from);
    let folder = root.join("slashing-protection");
    if !folder.is_dir() {
        eprintln!("SKIPPED: slashing-protection: no vectors at {}; set HEARTH_VECTORS", folder.display());
        return;
    }
    let report = slashing_set::run(&folder);
    assert_eq!(report.failed, 0, "{:#?}", report.why);
    assert!(report.passed > 0, "no case ran");
}
