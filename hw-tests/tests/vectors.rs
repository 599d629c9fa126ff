//! Every conformance set that a room claims to follow.

use hw_tests::vectors::{Format, run};
use std::path::{Path, PathBuf};

#[test]
fn every_set_we_claim_passes() {
    let dir = std::env::var_os("HEARTH_VECTORS")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/vectors"), PathBuf::from);
    if !dir.is_dir() {
        eprintln!("SKIPPED: no conformance vectors at {}; set HEARTH_VECTORS", dir.display());
        return;
    }
    let totals = run(&dir, Format::Text);
    assert_eq!(totals.failed, 0);
    assert!(totals.passed > 0);
}

#[test]
fn an_empty_folder_has_no_failures_and_no_passes() {
    let empty = tempfile::tempdir().unwrap();
    let totals = run(empty.path(), Format::Json);
    assert_eq!((totals.passed, totals.failed), (0, 0));
}

#[test]
fn unknown_folders_and_broken_files_are_told_and_do_no_harm() {
    let dir = tempfile::tempdir().unwrap();
    let put = |path: &str, content: &[u8]| {
        let path = dir.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    };
    put("something-new/case.json", b"{}");
    put("bls/sign/broken.json", b"{");
    put("bls/sign/empty.json", b"{}");
    put("bls/sign/notes.txt", b"not a case");
    put("slashing-protection/generated/empty.json", b"{\"steps\": 7}");
    put("ssz/ssz_static/mainnet/electra/Checkpoint/x/case_0/serialized.ssz_snappy", &[0xff; 9]);
    put("ssz/ssz_static/mainnet/osaka/Checkpoint/x/case_0/serialized.ssz_snappy", &[0xff; 9]);
    let totals = run(dir.path(), Format::Text);
    assert_eq!((totals.passed, totals.failed, totals.skipped), (0, 4, 2));
}
