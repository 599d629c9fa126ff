//! What the members cost in the counted slots: processor time, memory, bytes between members, and how soon they vote.
//!
//! All members are read from outside by the same instruments, whoever wrote them: the kernel's accounts of their processes,
//! `ss` for their connections, and the witness before the beacon node for the arrival of votes. So a mixed cluster compares
//! its members within one run, on the same chain and the same machine.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::members::{Body, Cluster, Seat};
use super::options::Occupant;

/// The kernel's unit of processor time: a hundredth of a second on every Linux that Hearth runs on.
const MS_PER_TICK: u64 = 10;

/// Everything read until now.
#[derive(Debug, Default)]
pub(super) struct Usage {
    members: BTreeMap<u8, OfMember>,
    begun: bool,
}

#[derive(Debug, Default)]
struct OfMember {
    /// By process: a member that is restarted has several.
    ticks: BTreeMap<u32, Moved>,
    /// By connection.
    sent: BTreeMap<String, Moved>,
    /// The most at any reading, of all its processes together.
    rss_kib: u64,
}

/// A counter that only grows, from where it stood at the first reading.
#[derive(Debug, Clone, Copy)]
struct Moved {
    first: u64,
    last: u64,
}

impl Moved {
    fn by(self) -> u64 {
        self.last.saturating_sub(self.first)
    }
}

impl Usage {
    /// Reads everybody who runs. What began after the first reading counts from zero.
    pub(super) fn read(&mut self, cluster: &Cluster) {
        let ports: BTreeSet<u16> =
            cluster.seats.iter().filter_map(|seat| seat.body.as_ref().map(Body::p2p_port)).collect();
        let connections = connections(&ports);
        for seat in &cluster.seats {
            let member = self.members.entry(seat.number).or_default();
            let mut rss_kib = 0;
            for process in processes(seat) {
                if let Some(ticks) = ticks(process) {
                    note(&mut member.ticks, process, ticks, self.begun);
                }
                rss_kib += resident_kib(process).unwrap_or(0);
                for connection in connections.iter().filter(|connection| connection.process == process) {
                    note(&mut member.sent, connection.ends.clone(), connection.sent, self.begun);
                }
            }
            member.rss_kib = member.rss_kib.max(rss_kib);
        }
        self.begun = true;
    }

    /// One member's figures; nothing for a box in QEMU, whose emulation would be measured.
    pub(super) fn of(&self, seat: &Seat, slots: u64, attested_ms: &[i64]) -> Option<Value> {
        let member = self.members.get(&seat.number).filter(|member| !member.ticks.is_empty())?;
        let slots = slots.max(1);
        let cpu_ms = member.ticks.values().map(|moved| moved.by()).sum::<u64>() * MS_PER_TICK;
        let sent: u64 = member.sent.values().map(|moved| moved.by()).sum();
        let mut attested_ms = attested_ms.to_vec();
        attested_ms.sort_unstable();
        Some(json!({
            "processes": of_what(&seat.occupant),
            "cpu_ms_per_slot": tenths(cpu_ms, slots),
            "rss_mib": tenths(member.rss_kib, 1024),
            "p2p_sent_kib_per_slot": tenths(sent, 1024 * slots),
            "attested_ms_after_a_third_p50": at(&attested_ms, 50),
            "attested_ms_after_a_third_p90": at(&attested_ms, 90),
        }))
    }
}

/// Charons over Hearths, means of both: above one where ours is cheaper or sooner. Nothing without both kinds.
pub(super) fn compare(members: &BTreeMap<String, Value>) -> Option<Value> {
    let mean = |kind: &str, figure: &str| {
        let of_kind = members.values().filter(|member| member["kind"] == kind);
        let figures: Vec<f64> = of_kind.filter_map(|member| member["usage"][figure].as_f64()).collect();
        let count = u32::try_from(figures.len()).ok().filter(|count| *count > 0)?;
        Some(figures.iter().sum::<f64>() / f64::from(count))
    };
    let figures = [
        "cpu_ms_per_slot",
        "rss_mib",
        "p2p_sent_kib_per_slot",
        "attested_ms_after_a_third_p50",
        "attested_ms_after_a_third_p90",
    ];
    let ratios: BTreeMap<&str, f64> = figures
        .into_iter()
        .filter_map(|figure| {
            let (charon, hearth) = (mean("charon", figure)?, mean("hearth", figure)?);
            (hearth > 0.0).then(|| (figure, (charon / hearth * 100.0).round() / 100.0))
        })
        .collect();
    (!ratios.is_empty()).then(|| json!(ratios))
}

fn note<K: Ord>(counters: &mut BTreeMap<K, Moved>, key: K, now: u64, begun: bool) {
    let first = if begun { 0 } else { now };
    counters.entry(key).or_insert(Moved { first, last: now }).last = now;
}

fn of_what(occupant: &Occupant) -> &'static str {
    match occupant {
        Occupant::Box => "qemu",
        Occupant::Hearth => "dv-node and signer",
        Occupant::HearthWithClient => "dv-node; the validator client is not counted",
        Occupant::HearthWithRemoteClient => "dv-node and signer; the validator client is not counted",
        Occupant::Charon(_) => "charon; the validator client is not counted",
    }
}

/// What does the work of a member: for a Hearth that signs by itself its signer too.
fn processes(seat: &Seat) -> Vec<u32> {
    match &seat.body {
        Some(Body::Native(member)) => {
            let signs = matches!(seat.occupant, Occupant::Hearth | Occupant::HearthWithRemoteClient);
            let all = member.processes().into_iter();
            all.filter(|(name, _)| name == "dv-node" || (signs && name == "signer"))
                .map(|(_, id)| id)
                .collect()
        }
        Some(Body::Charon(member)) => member.process_id().into_iter().collect(),
        Some(Body::Qemu { .. }) | None => Vec::new(),
    }
}

/// User and system time of a process, proc(5).
fn ticks(process: u32) -> Option<u64> {
    parse_ticks(&fs::read_to_string(format!("/proc/{process}/stat")).ok()?)
}

fn parse_ticks(stat: &str) -> Option<u64> {
    // The name may hold anything, brackets and blanks too.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let mut next = || fields.next()?.parse::<u64>().ok();
    Some(next()? + next()?)
}

fn resident_kib(process: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// One end of a connection between two members.
#[derive(Debug, PartialEq, Eq)]
struct Connection {
    process: u32,
    ends: String,
    sent: u64,
}

/// What each process has sent to other members, as the kernel counts it.
fn connections(ports: &BTreeSet<u16>) -> Vec<Connection> {
    let listed = Command::new("ss").args(["-H", "-t", "-n", "-p", "-i", "-O"]).stdin(Stdio::null()).output();
    match listed {
        Ok(listed) => parse_connections(&String::from_utf8_lossy(&listed.stdout), ports),
        Err(_) => Vec::new(), // Without the tool the report has no bytes.
    }
}

fn parse_connections(listed: &str, ports: &BTreeSet<u16>) -> Vec<Connection> {
    let one = |line: &str| {
        let mut fields = line.split_whitespace().skip(3);
        let (near, far) = (fields.next()?, fields.next()?);
        let port = |end: &str| end.rsplit_once(':')?.1.parse::<u16>().ok();
        let between_members = [near, far].into_iter().filter_map(port).any(|port| ports.contains(&port));
        let (_, process) = line.split_once("pid=")?;
        let process = process.split(|letter: char| !letter.is_ascii_digit()).next()?.parse().ok()?;
        let sent = line.split_whitespace().find_map(|word| word.strip_prefix("bytes_sent:"))?.parse().ok()?;
        between_members.then(|| Connection { process, ends: format!("{near} {far}"), sent })
    };
    listed.lines().filter_map(one).collect()
}

/// `value / by`, to one decimal.
fn tenths(value: u64, by: u64) -> f64 {
    let tenths = value.saturating_mul(10).saturating_add(by / 2) / by.max(1);
    f64::from(u32::try_from(tenths).unwrap_or(u32::MAX)) / 10.0
}

fn at(sorted: &[i64], hundredths: usize) -> Option<i64> {
    sorted.get(sorted.len().checked_sub(1)? * hundredths / 100).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restarted_process_counts_from_zero_and_a_running_one_from_where_it_stood() {
        let mut counters = BTreeMap::new();
        note(&mut counters, 1, 100, false);
        note(&mut counters, 1, 130, true);
        note(&mut counters, 2, 7, true);
        note(&mut counters, 2, 9, true);
        assert_eq!(counters.values().map(|moved| moved.by()).sum::<u64>(), 30 + 9);
    }

    #[test]
    fn processor_time_is_read_whatever_a_program_is_called() {
        let stat = "42 (a b) c) S 1 42 42 0 -1 4194560 100 0 0 0 17 5 0 0 20 0 1 0 99 1000 20";
        assert_eq!(parse_ticks(stat), Some(22));
        assert_eq!(parse_ticks("42 (dv-node"), None);
        assert!(ticks(std::process::id()).is_some());
    }

    #[test]
    fn only_connections_between_members_are_counted() {
        let listed = "ESTAB 0 0 127.0.0.1:9001 127.0.0.1:50000 users:((\"dv-node\",pid=7,fd=9)) cubic bytes_sent:1500 bytes_acked:1\n\
                      ESTAB 0 0 127.0.0.1:40000 127.0.0.1:3500 users:((\"dv-node\",pid=7,fd=8)) cubic bytes_sent:99\n\
                      ESTAB 0 0 127.0.0.1:9001 127.0.0.1:50001\n\
                      nonsense\n";
        let found = parse_connections(listed, &[9001].into());
        let ends = "127.0.0.1:9001 127.0.0.1:50000".to_owned();
        assert_eq!(found, [Connection { process: 7, ends, sent: 1500 }]);
    }

    #[test]
    fn ratios_need_both_kinds() {
        let member = |kind: &str, cpu: f64| json!({"kind": kind, "usage": {"cpu_ms_per_slot": cpu}});
        let mut members = BTreeMap::from([("1".to_owned(), member("hearth", 10.0))]);
        assert_eq!(compare(&members), None);
        members.insert("2".to_owned(), member("charon", 80.0));
        members.insert("3".to_owned(), member("charon", 120.0));
        assert_eq!(compare(&members), Some(json!({"cpu_ms_per_slot": 10.0})));
    }
}
