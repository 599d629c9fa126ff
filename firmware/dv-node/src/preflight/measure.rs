//! Measuring: everything with a bound in time, size and number.

use std::fs::OpenOptions;
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use beacon::Probe;
use ipc::NodeStatus;
use ipc::node::BeaconNodeState;
use ipc::preflight::{Finding, Subject};

use super::judge::{About, Measure, judge};

/// One answer.
const WITHIN: Duration = Duration::from_secs(3);
/// A download that measures the line.
const DOWNLOAD_WITHIN: Duration = Duration::from_secs(15);
/// Calls one after the other.
const CALLS: usize = 5;
/// Calls at once, as at the start of an epoch, and how often.
const AT_ONCE: usize = 16;
const ROUNDS: usize = 2;
/// What is written to the disk: enough to leave the disk's own cache behind on small boards, and quickly gone.
const DISK_BYTES: usize = 64 << 20;
const DISK_WITHIN: Duration = Duration::from_secs(10);
const SYNCS: usize = 50;
/// A board has one.
const MAX_MEMORY_NODES: usize = 64;

fn finding(subject: Subject, code: &'static str, of: &str, measure: &Measure) -> Finding {
    judge(About { subject, code, of: of.to_owned() }, measure)
}

fn millis(took: Duration) -> u64 {
    u64::try_from(took.as_millis()).unwrap_or(u64::MAX)
}

fn micros(took: Duration) -> u64 {
    u64::try_from(took.as_micros()).unwrap_or(u64::MAX)
}

/// The value that this share of the sorted ones does not exceed.
fn percentile(mut values: Vec<Duration>, percent: usize) -> Option<Duration> {
    values.sort_unstable();
    let last = values.len().checked_sub(1)?;
    values.get((values.len() * percent / 100).min(last)).copied()
}

/// The members, as the running node sees them.
pub(super) fn peers(status: &NodeStatus) -> Vec<Finding> {
    let Some(cluster) = &status.cluster else {
        let why = "The box is not in a cluster yet, so there is nobody to reach.".to_owned();
        return vec![finding(Subject::Peers, "connected", "", &Measure::NotMeasured(why))];
    };
    let of = cluster.operators.len();
    let up = cluster.operators.iter().filter(|operator| operator.connected).count();
    let quorum = (of * 2).div_ceil(3);
    let mut found = vec![finding(Subject::Peers, "connected", "", &Measure::Members { up, of, quorum })];
    for operator in cluster.operators.iter().filter(|operator| !operator.is_self) {
        let relayed = operator.address.as_ref().is_some_and(|address| address.contains("/p2p-circuit"));
        let measure = Measure::Member { connected: operator.connected, ping_us: operator.ping_us, relayed };
        found.push(finding(Subject::Peers, "ping", &operator.name, &measure));
    }
    found
}

/// One beacon node: its state, and the calls that duties make.
pub(super) async fn beacon_node(url: &str, status: &NodeStatus) -> Vec<Finding> {
    let probe = match Probe::new(url) {
        Ok(probe) => probe,
        Err(error) => {
            return vec![finding(Subject::BeaconNode, "state", "", &Measure::Silent(error.to_string()))];
        }
    };
    let of = probe.name().to_owned();
    let found = |code, measure: &Measure| finding(Subject::BeaconNode, code, &of, measure);
    let known = status.chain.as_ref().and_then(|chain| chain.beacon_nodes.iter().find(|node| node.url == of));
    let syncing = match probe.get_json("/eth/v1/node/syncing", WITHIN).await {
        Ok((_, answer)) => answer,
        Err(why) => return vec![found("state", &Measure::Silent(why))],
    };
    let distance = syncing["data"]["sync_distance"].as_str().and_then(|text| text.parse().ok());
    let state = match (known.map(|node| node.state), syncing["data"]["is_syncing"].as_bool()) {
        (Some(BeaconNodeState::WrongChain), _) => BeaconNodeState::WrongChain,
        (_, Some(false)) => BeaconNodeState::Ready,
        (_, Some(true) | None) => BeaconNodeState::Syncing,
    };
    let mut all = vec![found("state", &Measure::BeaconState { state, sync_distance: distance })];
    if let Ok((_, answer)) = probe.get_json("/eth/v1/node/version", WITHIN).await {
        let version = answer["data"]["version"].as_str().unwrap_or("unknown").chars().take(100).collect();
        all.push(found("version", &Measure::BeaconVersion(version)));
    }
    match probe.get_json("/eth/v1/node/peer_count", WITHIN).await {
        Ok((_, answer)) => {
            let peers = answer["data"]["connected"].as_str().and_then(|text| text.parse().ok()).unwrap_or(0);
            all.push(found("peers", &Measure::BeaconPeers(peers)));
        }
        Err(why) => all.push(found("peers", &Measure::Silent(why))),
    }
    let head = "/eth/v1/beacon/headers/head".to_owned();
    let data = status
        .chain
        .as_ref()
        .map(|chain| format!("/eth/v1/validator/attestation_data?slot={}&committee_index=0", chain.slot));
    let duties =
        status.chain.as_ref().map(|chain| format!("/eth/v1/validator/duties/proposer/{}", chain.epoch));
    let calls =
        [("head", Some(head.clone())), ("attestation_data", data.clone()), ("proposer_duties", duties)];
    for (code, path) in calls {
        let Some(path) = path else { continue };
        let mut took = Vec::new();
        let mut silent = None;
        for _ in 0..CALLS {
            match probe.get_json(&path, WITHIN).await {
                Ok((time, _)) => took.push(time),
                Err(why) => silent = Some(why),
            }
        }
        match (percentile(took, 50), silent) {
            (Some(median), None) => all.push(found(code, &Measure::BeaconCall(millis(median)))),
            (_, why) => all.push(found(code, &Measure::Silent(why.unwrap_or_default()))),
        }
    }
    let mut took = Vec::new();
    let path = data.unwrap_or(head);
    for _ in 0..ROUNDS {
        let calls = (0..AT_ONCE).map(|_| probe.get_json(&path, WITHIN));
        let answers = futures::future::join_all(calls).await;
        // A call that fails counts as one that takes as long as can be.
        took.extend(answers.into_iter().map(|answer| answer.map_or(WITHIN, |(time, _)| time)));
    }
    if let Some(slow) = percentile(took, 90) {
        all.push(found("load", &Measure::BeaconLoad(millis(slow))));
    }
    all
}

/// One block relay.
pub(super) async fn relay(url: &str) -> Finding {
    let answer = match Probe::new(url) {
        Ok(probe) => {
            let answer = probe.get("/eth/v1/builder/status", WITHIN).await;
            (probe.name().to_owned(), answer)
        }
        Err(error) => (String::new(), Err(error.to_string())),
    };
    let measure = match &answer.1 {
        Ok(probed) => Measure::Relay(millis(probed.took)),
        Err(why) => Measure::Silent(why.clone()),
    };
    finding(Subject::Relays, "status", &answer.0, &measure)
}

/// One address that the owner has named.
pub(super) async fn internet(url: &str) -> Vec<Finding> {
    let found = |of: &str, code, measure: &Measure| finding(Subject::Internet, code, of, measure);
    let probe = match Probe::new(url) {
        Ok(probe) => probe,
        Err(error) => return vec![found("", "latency", &Measure::Silent(error.to_string()))],
    };
    match probe.get("", DOWNLOAD_WITHIN).await {
        Ok(probed) if probed.body.len() >= 1 << 20 => {
            let bits = u64::try_from(probed.body.len()).unwrap_or(u64::MAX).saturating_mul(8);
            let speed = Measure::InternetSpeed(bits / millis(probed.took).max(1));
            vec![found(probe.name(), "speed", &speed)]
        }
        Ok(probed) => vec![found(probe.name(), "latency", &Measure::InternetLatency(millis(probed.took)))],
        Err(why) => vec![found(probe.name(), "latency", &Measure::Silent(why))],
    }
}

/// The disk that the state is on. Blocks; not for the event loop.
pub(super) fn disk(dir: &Path) -> Vec<Finding> {
    let found = |code, measure: &Measure| finding(Subject::Disk, code, "", measure);
    let mut all = Vec::new();
    match rustix::fs::statvfs(dir) {
        Ok(fs) => {
            let (free, total) =
                (fs.f_bavail.saturating_mul(fs.f_frsize), fs.f_blocks.saturating_mul(fs.f_frsize));
            all.push(found("free", &Measure::DiskFree { free, total }));
            if free < 4 * u64::try_from(DISK_BYTES).unwrap_or(u64::MAX) {
                let why = "The disk is too full to be tried.".to_owned();
                all.push(found("write", &Measure::NotMeasured(why)));
                return all;
            }
        }
        Err(error) => all.push(found("free", &Measure::Silent(error.to_string()))),
    }
    match speeds(dir) {
        Ok((write, read, sync)) => {
            all.push(found("write", &Measure::DiskWrite(write)));
            all.push(found("read", &Measure::DiskRead(read)));
            all.push(found("durable_write", &Measure::DiskSync(sync)));
        }
        Err(error) => all.push(found("write", &Measure::Silent(error.to_string()))),
    }
    all
}

/// Megabytes a second written and read, and microseconds of a durable small write.
fn speeds(dir: &Path) -> std::io::Result<(u64, u64, u64)> {
    let path = dir.join("preflight.tmp");
    let removed = std::fs::remove_file(&path);
    drop(removed); // Left over from a crash, or not there.
    let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
    let measured = speeds_of(file);
    std::fs::remove_file(&path)?;
    measured
}

fn speeds_of(mut file: std::fs::File) -> std::io::Result<(u64, u64, u64)> {
    // Bytes that no disk can make smaller.
    let mut block = vec![0_u8; 1 << 20];
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for chunk in block.chunks_mut(8) {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        chunk.copy_from_slice(&state.to_le_bytes());
    }
    let begun = Instant::now();
    let mut written = 0;
    while written < DISK_BYTES && begun.elapsed() < DISK_WITHIN {
        file.write_all(&block)?;
        written += block.len();
    }
    file.sync_all()?;
    let write = per_second(written, begun.elapsed());
    // What was written is in memory, too; the kernel is asked to forget it first.
    let _only_a_wish = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed);
    file.rewind()?;
    let begun = Instant::now();
    let mut read = 0;
    while read < written && begun.elapsed() < DISK_WITHIN {
        match file.read(&mut block)? {
            0 => break,
            count => read += count,
        }
    }
    let read = per_second(read, begun.elapsed());
    let mut syncs = Vec::new();
    let begun = Instant::now();
    while syncs.len() < SYNCS && begun.elapsed() < DISK_WITHIN {
        let one = Instant::now();
        file.write_all(&block[..4096])?;
        file.sync_data()?;
        syncs.push(one.elapsed());
    }
    Ok((write, read, percentile(syncs, 90).map_or(0, micros)))
}

fn per_second(bytes: usize, took: Duration) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX) / micros(took).max(1)
}

/// The board's memory.
pub(super) fn memory() -> Vec<Finding> {
    let found = |code, measure: &Measure| finding(Subject::Memory, code, "", measure);
    let info = rustix::system::sysinfo();
    let unit = u64::from(info.mem_unit);
    let total = info.totalram.saturating_mul(unit);
    let bare = info.freeram.saturating_add(info.bufferram).saturating_mul(unit);
    // What the kernel itself thinks could be had, where this process may see it: the box's unit hides that file, and the one
    // of each memory node it does not. Else what is free without asking anybody.
    let available = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| available(&text));
    let available = available.or_else(|| available_in_nodes(Path::new("/sys/devices/system/node")));
    vec![
        found("total", &Measure::MemoryTotal(total)),
        found("available", &Measure::MemoryFree(available.unwrap_or(bare))),
    ]
}

fn available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kilobytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kilobytes.saturating_mul(1024))
}

/// What could be had of all memory nodes together.
fn available_in_nodes(folder: &Path) -> Option<u64> {
    let mut sum = None;
    let entries = std::fs::read_dir(folder).ok()?.flatten();
    let nodes = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("node"));
    for entry in nodes.take(MAX_MEMORY_NODES) {
        let text = std::fs::read_to_string(entry.path().join("meminfo")).unwrap_or_default();
        if let Some(bytes) = available_in_node(&text) {
            sum = Some(bytes.saturating_add(sum.unwrap_or(0)));
        }
    }
    sum
}

/// Nearly as the kernel sums `MemAvailable` up: free memory, the pages of files (not those of tmpfs, or locked ones) and caches
/// of its own; less what it keeps for itself, which no file of the node says (a sixty-fourth is more than it usually is).
fn available_in_node(meminfo: &str) -> Option<u64> {
    let of = |name: &str| {
        let mut words = meminfo.lines().map(|line| line.split_whitespace().skip(2));
        let value = words.find_map(|mut words| (words.next()? == name).then(|| words.next()))??;
        value.parse::<u64>().ok()
    };
    let files = of("Active(file):")?.saturating_add(of("Inactive(file):")?);
    let sum = of("MemFree:")?.saturating_add(files).saturating_add(of("SReclaimable:").unwrap_or(0));
    Some(sum.saturating_sub(of("MemTotal:")? / 64).saturating_mul(1024))
}

/// The clock, as the running node judges it.
pub(super) fn clock(status: &NodeStatus) -> Finding {
    let measure = Measure::Clock { state: status.clock.state, offset_ms: status.clock.offset_ms };
    finding(Subject::Clock, "offset", "", &measure)
}

/// Nothing to look at.
pub(super) fn not_named(subject: Subject, why: &str) -> Finding {
    finding(subject, "none", "", &Measure::NotMeasured(why.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ipc::preflight::Verdict;

    #[test]
    fn the_disk_and_the_memory_of_this_machine_are_measured() {
        let dir = tempfile::tempdir().unwrap();
        let codes: Vec<String> = disk(dir.path()).into_iter().map(|finding| finding.code).collect();
        assert_eq!(codes, ["free", "write", "read", "durable_write"]);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left behind");
        assert!(
            memory()
                .iter()
                .all(|finding| finding.verdict != Verdict::Skipped && !finding.measured.is_empty())
        );
        let missing = disk(&dir.path().join("not there"));
        assert!(missing.iter().all(|finding| finding.verdict == Verdict::Poor), "{missing:?}");
    }

    #[test]
    fn the_kernel_s_own_word_for_available_memory_is_read() {
        assert_eq!(available("MemTotal: 9 kB\nMemAvailable:    2048 kB\n"), Some(2 << 20));
        for text in ["", "MemAvailable:", "MemAvailable: x kB", "MemFree: 1 kB"] {
            assert_eq!(available(text), None);
        }
    }

    /// A box that has read much has little free memory and much that it can have back.
    #[test]
    fn the_page_cache_is_memory_that_can_be_had() {
        let node = |number: u8, free: u64| {
            format!(
                "\nNode {number} MemTotal:        4000000 kB\nNode {number} MemFree:          {free} kB\n\
                 Node {number} Active(file):    1000000 kB\nNode {number} Inactive(file):  1900000 kB\n\
                 Node {number} FilePages:       3000000 kB\nNode {number} SReclaimable:      50000 kB\n"
            )
        };
        assert_eq!(available_in_node(&node(0, 100_000)), Some(2_987_500 * 1024));
        assert_eq!(available_in_node("Node 0 MemFree: 5 kB\n"), None);
        assert_eq!(available_in_node(&node(0, 1).replace("MemFree:          1", "MemFree: x")), None);
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(available_in_nodes(dir.path()), None);
        for number in 0..2_u8 {
            let folder = dir.path().join(format!("node{number}"));
            std::fs::create_dir(&folder).unwrap();
            std::fs::write(folder.join("meminfo"), node(number, 100_000)).unwrap();
        }
        std::fs::write(dir.path().join("online"), "0-1\n").unwrap();
        assert_eq!(available_in_nodes(dir.path()), Some(2 * 2_987_500 * 1024));
    }

    #[test]
    fn nine_of_ten_are_within_the_percentile() {
        let values = (1..=10).map(Duration::from_millis).collect::<Vec<_>>();
        assert_eq!(percentile(values.clone(), 90), Some(Duration::from_millis(10)));
        assert_eq!(percentile(values, 50), Some(Duration::from_millis(6)));
        assert_eq!(percentile(Vec::new(), 90), None);
    }
}
