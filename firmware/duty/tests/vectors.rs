//! The network's own table of duty deadlines.

use std::path::PathBuf;

use chain::{Slot, SlotTiming};
use duty::{Duty, DutyKind};

#[test]
fn deadlines_match() {
    let folder = std::env::var_os("HEARTH_VECTORS").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/vectors")),
        PathBuf::from,
    );
    let path = folder.join("obol/duties/deadlines.json");
    let Ok(text) = std::fs::read_to_string(&path) else {
        println!("SKIPPED: no vectors at {}", path.display());
        return;
    };
    let document: serde_json::Value = serde_json::from_str(&text).unwrap();
    for case in document["cases"].as_array().unwrap() {
        // Type 3 exists only in key ceremonies, which are no duties of ours.
        let Ok(kind) = DutyKind::from_number(case["duty_type"].as_i64().unwrap()) else { continue };
        let slot_ms = case["slot_seconds"].as_u64().unwrap() * 1000;
        let timing = SlotTiming::new(0, slot_ms, case["slots_per_epoch"].as_u64().unwrap()).unwrap();
        let deadline = Duty::new(Slot(0), kind).deadline(&timing).map(|at| at.0);
        let expected = case["deadline_ns_after_slot_start"].as_u64().map(|ns| ns / 1_000_000);
        assert_eq!(deadline, expected, "{case}");
    }
}
