//! The network's own tables: who leads, how many make a quorum, when rounds end.
#![allow(clippy::unwrap_used, reason = "helpers of tests may panic, as tests do")]

use std::path::PathBuf;

use qbft::{Config, Instance, Member, RoundTimer, Size};
use serde_json::Value;

fn cases(name: &str) -> Vec<Value> {
    let folder = std::env::var_os("HEARTH_VECTORS").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/vectors")),
        PathBuf::from,
    );
    let path = folder.join("obol/qbft").join(name);
    let Ok(text) = std::fs::read_to_string(&path) else {
        println!("SKIPPED: no vectors at {}", path.display());
        return Vec::new();
    };
    let document: Value = serde_json::from_str(&text).unwrap();
    document["cases"].as_array().unwrap().clone()
}

fn number(case: &Value, field: &str) -> u64 {
    case[field].as_u64().unwrap_or_else(|| panic!("{field} in {case}"))
}

fn count(case: &Value, field: &str) -> usize {
    usize::try_from(number(case, field)).unwrap()
}

#[test]
fn quorums_match() {
    for case in cases("quorum.json") {
        let size = Size::new(count(&case, "nodes")).unwrap();
        assert_eq!(size.quorum(), count(&case, "quorum"), "{case}");
        assert_eq!(size.faulty(), count(&case, "faulty"), "{case}");
    }
}

#[test]
fn leaders_match() {
    for case in cases("leader.json") {
        let config = Config {
            size: Size::new(count(&case, "nodes")).unwrap(),
            me: Member(0),
            leader_offset: number(&case, "slot") + number(&case, "duty_type"),
            timer: RoundTimer::eager(0),
        };
        let leader = Instance::<()>::new(config).leader(number(&case, "round"));
        assert_eq!(u64::from(leader.0), number(&case, "leader"), "{case}");
    }
}

#[test]
fn round_deadlines_match() {
    for case in cases("timer_eager_double_linear.json") {
        let slot_ms = number(&case, "slot_seconds") * 1000;
        let (origin_ms, extra_ms) = match number(&case, "duty_type") {
            1 => (0, 500),
            2 => (slot_ms / 3, 0),
            9 | 12 => (slot_ms * 2 / 3, 0),
            _ => (0, 0),
        };
        let timer = RoundTimer { origin_ms, step_ms: 1000, extra_ms };
        let round = number(&case, "round");
        assert_eq!(timer.round_deadline_ms(round), number(&case, "deadline_ms_after_slot_start"), "{case}");
        let extended = number(&case, "extended_deadline_ms_after_slot_start");
        assert_eq!(timer.extended_deadline_ms(round), extended, "{case}");
    }
}
