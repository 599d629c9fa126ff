//! How good a measured value is, and what its owner should do. Pure: a value in, a verdict and a sentence out. Each threshold
//! carries its reason.

use ipc::node::{BeaconNodeState, ClockState};
use ipc::preflight::{Finding, Subject, Verdict};

const GIB: u64 = 1 << 30;
const MIB: u64 = 1 << 20;

/// What was measured.
#[derive(Debug, Clone, PartialEq)]
pub enum Measure {
    /// How many members are connected, with this box, of how many, and how many agreement needs.
    Members {
        /// Connected, with this box.
        up: usize,
        /// In the cluster.
        of: usize,
        /// Needed.
        quorum: usize,
    },
    /// One member: its last ping, if it is connected and has answered one, and whether a relay is between.
    Member {
        /// Connected.
        connected: bool,
        /// Microseconds there and back.
        ping_us: Option<u64>,
        /// Through a relay.
        relayed: bool,
    },
    /// The state of a beacon node.
    BeaconState {
        /// As the node itself sees it.
        state: BeaconNodeState,
        /// Slots behind.
        sync_distance: Option<u64>,
    },
    /// How many peers it has.
    BeaconPeers(u64),
    /// What software it is.
    BeaconVersion(String),
    /// A call that a duty makes: the median of a few, one after the other.
    BeaconCall(u64),
    /// The same for nine of ten calls when many are made at once.
    BeaconLoad(u64),
    /// A relay's answer.
    Relay(u64),
    /// Megabytes a second that the disk takes, durable.
    DiskWrite(u64),
    /// Megabytes a second that come back.
    DiskRead(u64),
    /// How long nine of ten small durable writes take, in microseconds.
    DiskSync(u64),
    /// Bytes free and in all.
    DiskFree {
        /// Free.
        free: u64,
        /// In all.
        total: u64,
    },
    /// Memory of the board in bytes.
    MemoryTotal(u64),
    /// Memory that programs could have now.
    MemoryFree(u64),
    /// An answer from the internet.
    InternetLatency(u64),
    /// Kilobits a second.
    InternetSpeed(u64),
    /// The clock, against the beacon nodes and the members.
    Clock {
        /// Whether it is trusted.
        state: ClockState,
        /// Milliseconds off, when known.
        offset_ms: Option<i64>,
    },
    /// Something that does not answer, with its words.
    Silent(String),
    /// Something that was not looked at, and why.
    NotMeasured(String),
}

/// What belongs to what and is called what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct About {
    /// What it belongs to.
    pub subject: Subject,
    /// Stable word.
    pub code: &'static str,
    /// Which one.
    pub of: String,
}

/// Judges one value.
pub fn judge(about: About, measure: &Measure) -> Finding {
    let (verdict, measured, sentence) = match measure {
        Measure::Members { up, of, quorum } => members(*up, *of, *quorum),
        Measure::Member { connected, ping_us, relayed } => member(*connected, *ping_us, *relayed),
        Measure::BeaconState { state, sync_distance } => beacon_state(*state, *sync_distance),
        Measure::BeaconPeers(peers) => beacon_peers(*peers),
        Measure::BeaconVersion(version) => (
            Verdict::Pass,
            version.clone(),
            "This is the beacon node's software; update it when its makers say so.".to_owned(),
        ),
        Measure::BeaconCall(ms) => beacon_call(*ms),
        Measure::BeaconLoad(ms) => beacon_load(*ms),
        Measure::Relay(ms) => relay(*ms),
        Measure::DiskWrite(mb) => disk_speed(*mb, "write"),
        Measure::DiskRead(mb) => disk_speed(*mb, "read"),
        Measure::DiskSync(us) => disk_sync(*us),
        Measure::DiskFree { free, total } => disk_free(*free, *total),
        Measure::MemoryTotal(bytes) => memory_total(*bytes),
        Measure::MemoryFree(bytes) => memory_free(*bytes),
        Measure::InternetLatency(ms) => internet_latency(*ms),
        Measure::InternetSpeed(kbit) => internet_speed(*kbit),
        Measure::Clock { state, offset_ms } => clock(*state, *offset_ms),
        Measure::Silent(why) => (
            Verdict::Poor,
            "no answer".to_owned(),
            format!("It does not answer ({why}): check the address, and that it runs."),
        ),
        Measure::NotMeasured(why) => (Verdict::Skipped, String::new(), why.clone()),
    };
    let About { subject, code, of } = about;
    Finding { subject, code: code.to_owned(), of, verdict, measured, sentence }
}

type Judged = (Verdict, String, String);

/// The better end first: up to the first bound it passes, up to the second it is average.
fn below(value: u64, pass: u64, average: u64) -> Verdict {
    match value {
        value if value <= pass => Verdict::Pass,
        value if value <= average => Verdict::Average,
        _ => Verdict::Poor,
    }
}

/// The same where more is better.
fn above(value: u64, pass: u64, average: u64) -> Verdict {
    match value {
        value if value >= pass => Verdict::Pass,
        value if value >= average => Verdict::Average,
        _ => Verdict::Poor,
    }
}

fn say(verdict: Verdict, pass: &str, average: &str, poor: &str) -> String {
    match verdict {
        Verdict::Pass | Verdict::Skipped => pass.to_owned(),
        Verdict::Average => average.to_owned(),
        Verdict::Poor => poor.to_owned(),
    }
}

/// All is good; the quorum and one to spare works and hangs on one more failure; below the quorum nothing is agreed.
fn members(up: usize, of: usize, quorum: usize) -> Judged {
    let verdict = if up >= of {
        Verdict::Pass
    } else if up >= quorum {
        Verdict::Average
    } else {
        Verdict::Poor
    };
    let sentence = say(
        verdict,
        "All members are connected.",
        "The cluster works; ask the owners of the missing members to look at their boxes before another one fails.",
        "Too few members are connected for any duty: call their owners, and check this box's line.",
    );
    (verdict, format!("{up} of {of}, {quorum} needed"), sentence)
}

/// An attestation's agreement takes three messages one after the other, then one for the partial signatures, and has four
/// seconds on a public chain before it is late. At 100 ms there and back that costs 0.2 s; at 300 ms 0.6 s and a lost round
/// after each hiccup.
fn member(connected: bool, ping_us: Option<u64>, relayed: bool) -> Judged {
    if !connected {
        let text = "Not connected: check that the other box runs, its address, and that port 3610 is open at its owner's router.";
        return (Verdict::Poor, "not connected".to_owned(), text.to_owned());
    }
    let Some(us) = ping_us else {
        let text = "Connected a moment ago and not pinged yet; look again in a few seconds.";
        return (Verdict::Average, "connected".to_owned(), text.to_owned());
    };
    let by_time = below(us, 100_000, 300_000);
    let verdict = if relayed { by_time.max(Verdict::Average) } else { by_time };
    let how = if relayed { "through a relay" } else { "directly" };
    let measured = format!("{}.{} ms, {how}", us / 1000, us % 1000 / 100);
    let sentence = match (by_time, relayed) {
        (Verdict::Poor, _) => {
            "Too slow: agreements will need second rounds; look for a loaded line or a far-away relay."
        }
        (_, true) => {
            "It works through a relay, which can fail for reasons of its own: open port 3610 on one of the two routers."
        }
        (Verdict::Average, false) => "Good enough; a member on another continent answers like this.",
        (Verdict::Pass | Verdict::Skipped, false) => "Quick and direct.",
    };
    (verdict, measured, sentence.to_owned())
}

fn beacon_state(state: BeaconNodeState, sync_distance: Option<u64>) -> Judged {
    match state {
        BeaconNodeState::Ready => {
            (Verdict::Pass, "synced".to_owned(), "It follows the cluster's chain.".to_owned())
        }
        BeaconNodeState::Syncing => (
            Verdict::Poor,
            sync_distance.map_or_else(|| "syncing".to_owned(), |slots| format!("{slots} slots behind")),
            "It is catching up: no duty is done with it until it is there, which may take hours.".to_owned(),
        ),
        BeaconNodeState::WrongChain => (
            Verdict::Poor,
            "another chain".to_owned(),
            "It follows another chain than the cluster's and is never used: name another beacon node."
                .to_owned(),
        ),
        BeaconNodeState::Unreachable | BeaconNodeState::Unknown => (
            Verdict::Poor,
            "no answer".to_owned(),
            "It does not answer: check that it runs and that the address is right.".to_owned(),
        ),
    }
}

/// Below 20, single peers that fail are felt in late blocks; clients aim at 50 to 100.
fn beacon_peers(peers: u64) -> Judged {
    let verdict = above(peers, 40, 20);
    let sentence = say(
        verdict,
        "It has enough peers to hear of blocks at once.",
        "It works; more peers would bring blocks sooner: open its port at the router.",
        "Blocks arrive late or not at all: open its port at the router and wait until it has found more peers.",
    );
    (verdict, format!("{peers} peers"), sentence)
}

/// Every duty asks before the members can agree, and each waits for the leader's answer. 50 ms is what a node on the same
/// board needs; 250 ms is a sixteenth of an attestation's time.
fn beacon_call(ms: u64) -> Judged {
    let verdict = below(ms, 50, 250);
    let sentence = say(
        verdict,
        "It answers at once.",
        "Good enough; a beacon node on the same board or in the same house answers sooner.",
        "Too slow: duties start late; use a nearer beacon node, or give it more memory and a faster disk.",
    );
    (verdict, format!("{ms} ms"), sentence)
}

/// At the start of an epoch many calls come together; a node that then needs more than a second lets attestations slip.
fn beacon_load(ms: u64) -> Judged {
    let verdict = below(ms, 200, 1_000);
    let sentence = say(
        verdict,
        "It stays quick when much is asked at once.",
        "It slows down when much is asked at once; with many validators that will be felt.",
        "It chokes when much is asked at once, as at the start of each epoch: give it a stronger board.",
    );
    (verdict, format!("{ms} ms for 9 of 10 calls"), sentence)
}

/// A relay is asked while the slot runs, and proposals want theirs out within its first second.
fn relay(ms: u64) -> Judged {
    let verdict = below(ms, 200, 600);
    let sentence = say(
        verdict,
        "It answers quickly.",
        "It works; its blocks come a little late.",
        "Too slow: its blocks would come too late; choose a nearer one.",
    );
    (verdict, format!("{ms} ms"), sentence)
}

/// An execution client writes tens of megabytes a second while it follows the chain, hundreds while it syncs. A SATA SSD
/// does 300 to 500; below 100 it is a hard disk or a worn-out card.
fn disk_speed(mb: u64, what: &str) -> Judged {
    let verdict = above(mb, 300, 100);
    let sentence = say(
        verdict,
        "The disk is fast enough for this box and for clients on it.",
        "The disk is fast enough for this box; an execution client on it would fall behind at times.",
        "The disk is too slow to follow a public chain: use an NVMe or SATA SSD.",
    );
    (verdict, format!("{mb} MB/s {what}"), sentence)
}

/// The record of each signature is made durable before it leaves, and so is what the box says in agreements: three or four
/// times in a duty, one after the other.
fn disk_sync(us: u64) -> Judged {
    let verdict = below(us, 5_000, 30_000);
    let sentence = say(
        verdict,
        "Records are durable in no time.",
        "Each record takes a while; duties come a little later for it.",
        "Making a record durable takes so long that duties come late: use an SSD, not a card or a hard disk.",
    );
    (verdict, format!("{}.{} ms for 9 of 10 durable writes", us / 1000, us % 1000 / 100), sentence)
}

/// This box alone needs little. Ledgers and journals stop when the disk is full, and the box with them.
fn disk_free(free: u64, total: u64) -> Judged {
    let verdict = above(free, 20 * GIB, 2 * GIB);
    let sentence = say(
        verdict,
        "There is room.",
        "There is room for this box; clients of a public chain need a disk of 2 TB.",
        "Nearly full: when it is full nothing can be recorded and nothing is signed; free some space or use a larger disk.",
    );
    (verdict, format!("{} free of {}", size(free), size(total)), sentence)
}

/// The box itself takes a quarter of a gigabyte; a beacon node and an execution client together want 16.
fn memory_total(bytes: u64) -> Judged {
    // A board of 16 GB shows a little less.
    let verdict = above(bytes, 15 * GIB, 2 * GIB);
    let sentence = say(
        verdict,
        "Enough for this box and clients beside it.",
        "Enough for this box; clients of a public chain need another machine, or 16 GB here.",
        "Little even for this box: use a board with 4 GB or more.",
    );
    (verdict, size(bytes), sentence)
}

fn memory_free(bytes: u64) -> Judged {
    let verdict = above(bytes, 2 * GIB, GIB / 2);
    let sentence = say(
        verdict,
        "There is memory to spare.",
        "It gets narrow: see what else runs on this machine.",
        "Memory is nearly used up: something will be ended by the system; stop what does not belong here.",
    );
    (verdict, format!("{} can be had now", size(bytes)), sentence)
}

fn internet_latency(ms: u64) -> Judged {
    let verdict = below(ms, 100, 300);
    let sentence = say(
        verdict,
        "The line answers quickly.",
        "The line is a little slow; members far away will notice.",
        "The line is slow: look for a loaded router, WLAN or a mobile link, and use a cable.",
    );
    (verdict, format!("{ms} ms"), sentence)
}

/// A beacon node with 80 peers takes about 10 Mbit/s with peaks of several times that; this box alone takes 1.
fn internet_speed(kbit: u64) -> Judged {
    let verdict = above(kbit, 50_000, 10_000);
    let sentence = say(
        verdict,
        "The line carries this box and clients beside it.",
        "The line carries this box; a beacon node beside it would fill it at times.",
        "The line is too narrow for a beacon node on it; this box alone may work.",
    );
    (verdict, format!("{}.{} Mbit/s", kbit / 1000, kbit % 1000 / 100), sentence)
}

/// Attestations wait for a third of the slot by the clock: 100 ms is lost in other delays, half a second is an eighth of
/// the time there is. Beyond a second nothing is signed.
fn clock(state: ClockState, offset_ms: Option<i64>) -> Judged {
    let measured = offset_ms.map_or_else(|| "not known".to_owned(), |ms| format!("{ms:+} ms"));
    let verdict = match (state, offset_ms) {
        (ClockState::Synchronised, Some(ms)) => below(ms.unsigned_abs(), 100, 500),
        (ClockState::Unknown, _) => Verdict::Skipped,
        (ClockState::Synchronised, None) => Verdict::Average,
        (ClockState::Unsynchronised | ClockState::Stepped, _) => Verdict::Poor,
    };
    let sentence = match verdict {
        Verdict::Pass => "It agrees with the beacon nodes and the members.",
        Verdict::Average => {
            "It is a little off, or nothing was there to compare it with; check that a time server can be reached."
        }
        Verdict::Poor => {
            "It is wrong, so nothing is signed: check that a time server can be reached and the board's battery is good."
        }
        Verdict::Skipped => {
            "Nothing is there yet to compare it with: it is compared when the box is in a cluster."
        }
    };
    (verdict, measured, sentence.to_owned())
}

fn size(bytes: u64) -> String {
    if bytes >= GIB {
        format!("{}.{} GB", bytes / GIB, bytes % GIB * 10 / GIB)
    } else {
        format!("{} MB", bytes / MIB)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(measure: Measure) -> Verdict {
        let about = About { subject: Subject::Disk, code: "x", of: String::new() };
        let finding = judge(about, &measure);
        assert!(finding.sentence.ends_with('.') && finding.sentence.len() > 10, "{finding:?}");
        finding.verdict
    }

    #[test]
    fn every_value_gets_the_verdict_of_its_bounds() {
        use Verdict::{Average, Pass, Poor, Skipped};
        let member = |connected, ping_us, relayed| Measure::Member { connected, ping_us, relayed };
        let members = |up| Measure::Members { up, of: 4, quorum: 3 };
        let state = |state| Measure::BeaconState { state, sync_distance: Some(9) };
        let clock = |state, offset_ms| Measure::Clock { state, offset_ms };
        for (measure, expected) in [
            (members(4), Pass),
            (members(3), Average),
            (members(2), Poor),
            (member(false, None, false), Poor),
            (member(true, None, false), Average),
            (member(true, Some(100_000), false), Pass),
            (member(true, Some(100_001), false), Average),
            (member(true, Some(1_000), true), Average),
            (member(true, Some(300_001), true), Poor),
            (state(BeaconNodeState::Ready), Pass),
            (state(BeaconNodeState::Syncing), Poor),
            (state(BeaconNodeState::WrongChain), Poor),
            (state(BeaconNodeState::Unreachable), Poor),
            (Measure::BeaconPeers(40), Pass),
            (Measure::BeaconPeers(39), Average),
            (Measure::BeaconPeers(19), Poor),
            (Measure::BeaconCall(50), Pass),
            (Measure::BeaconCall(251), Poor),
            (Measure::BeaconLoad(1_000), Average),
            (Measure::Relay(601), Poor),
            (Measure::DiskWrite(300), Pass),
            (Measure::DiskRead(99), Poor),
            (Measure::DiskSync(5_001), Average),
            (Measure::DiskSync(30_001), Poor),
            (Measure::DiskFree { free: 2 * GIB, total: 64 * GIB }, Average),
            (Measure::DiskFree { free: 2 * GIB - 1, total: 64 * GIB }, Poor),
            (Measure::MemoryTotal(16 * GIB - 300 * MIB), Pass),
            (Measure::MemoryTotal(8 * GIB), Average),
            (Measure::MemoryFree(100 * MIB), Poor),
            (Measure::InternetLatency(301), Poor),
            (Measure::InternetSpeed(9_999), Poor),
            (clock(ClockState::Synchronised, Some(-100)), Pass),
            (clock(ClockState::Synchronised, Some(-101)), Average),
            (clock(ClockState::Synchronised, Some(501)), Poor),
            (clock(ClockState::Stepped, None), Poor),
            (clock(ClockState::Unknown, None), Skipped),
            (Measure::Silent("refused".to_owned()), Poor),
            (Measure::NotMeasured("No address is set.".to_owned()), Skipped),
        ] {
            assert_eq!(verdict(measure.clone()), expected, "{measure:?}");
        }
    }
}
