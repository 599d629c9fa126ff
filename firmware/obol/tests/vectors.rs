//! The recorded messages of the reference, run by the same code as the conformance suite.

#![expect(
    unreachable_pub,
    reason = "the modules are shared with the conformance suite, where they are public"
)]

#[expect(dead_code, reason = "shared with the conformance suite, which uses all of it")]
#[path = "../../../hw-tests/src/vectors/report.rs"]
mod report;

#[path = "../../../hw-tests/src/vectors/dkg.rs"]
mod dkg;
#[path = "../../../hw-tests/src/vectors/obol_protocols.rs"]
mod obol_protocols;

use std::path::{Path, PathBuf};

use report::Report;

fn run(set: &str, run: fn(&Path) -> Report) {
    let root = std::env::var_os("HEARTH_VECTORS")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/vectors"), PathBuf::from);
    let folder = root.join("obol").join(set);
    if !folder.is_dir() {
        return eprintln!("SKIPPED: no vectors of {set}; set HEARTH_VECTORS to their folder");
    }
    let report = run(&folder);
    assert_eq!(report.failed, 0, "{:#?}", report.why);
    assert!(report.passed > 0, "no case ran: {:?}", report.why);
}

#[test]
fn qbft_messages_roots_and_numbers() {
    run("qbft", obol_protocols::qbft);
}

#[test]
fn partial_signatures() {
    run("parsigex", obol_protocols::parsigex);
}

#[test]
fn priorities() {
    run("priority", obol_protocols::priority);
}

#[test]
fn peerinfo() {
    run("peerinfo", obol_protocols::peerinfo);
}

#[test]
fn encodings() {
    run("encoding", obol_protocols::encoding);
}

#[test]
fn duties() {
    run("duties", obol_protocols::duties);
}

#[test]
fn key_generation() {
    run("dkg", dkg::run);
}
