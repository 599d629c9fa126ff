//! `./hearth bench dv --whole`: whole `dv-node` processes on loopback, as they run on a box: CPU and bytes for each duty,
//! memory, and the time that the cluster adds to a duty.
//!
//! Real processes, real libp2p, agreement, journals on disk. The beacon node is the tests' own, and the signers are the tests'
//! too (real rules and shares behind the real socket), both inside this process and not counted: `./hearth bench signer`
//! measures the signer. Between each two members a relay holds every byte back for a while, and counts it.
//! docs/benchmarks.md says how to read the result.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark that stops when something is wrong"
)]

#[path = "../../beacon/tests/fake/mod.rs"]
mod fake;
#[path = "../tests/house/mod.rs"]
mod house;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use house::House;
use ipc::NodeStatus;
use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;
use serde_json::{Map, Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Members, validators, milliseconds one way between members, length of a slot, slots measured.
const CASES: [(usize, usize, u64, u64, u64); 6] = [
    (4, 1, 0, 2_000, 16),
    (4, 100, 0, 2_000, 16),
    (4, 1000, 0, 4_000, 8),
    (4, 100, 20, 2_000, 16),
    (4, 100, 100, 2_000, 16),
    (16, 1000, 0, 12_000, 3),
];
/// Slots before measuring: everybody has found everybody and knows the duties.
const WARM_UP_SLOTS: u64 = 4;

fn main() {
    let json = std::env::args().any(|argument| argument == "--json");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    // `--only n16_v1000_delay0`: one row.
    let only = std::env::args().skip_while(|argument| argument != "--only").nth(1);
    let mut rows = Vec::new();
    for (members, validators, delay_ms, slot_ms, slots) in CASES {
        if only.as_ref().is_some_and(|only| *only != format!("n{members}_v{validators}_delay{delay_ms}")) {
            continue;
        }
        eprintln!("bench dv: {members} members, {validators} validators, {delay_ms} ms between members");
        let case = Case { members, validators, delay_ms, slot_ms, slots };
        let row = runtime.block_on(case.measure());
        eprintln!("bench dv: {} {}", case.key(), row.json());
        rows.push(row);
    }
    if json {
        let by_key: Map<String, Value> = rows.into_iter().map(|row| (row.case.key(), row.json())).collect();
        println!("{}", json!({ "whole": by_key }));
    } else {
        println!("{}", table(&rows));
    }
}

#[derive(Clone, Copy)]
struct Case {
    members: usize,
    validators: usize,
    delay_ms: u64,
    slot_ms: u64,
    slots: u64,
}

struct Row {
    case: Case,
    /// One member's CPU for one attester duty, and for one slot.
    cpu_ms_per_duty: f64,
    cpu_ms_per_slot: f64,
    /// Bytes one member sends for one duty.
    bytes_per_duty: f64,
    /// The largest of the members.
    rss_mib: f64,
    anonymous_mib: f64,
    /// From the slot phase to the first member's submission and to the last one's.
    first: Percentiles,
    all: Percentiles,
    duties: usize,
    missed: usize,
}

impl Case {
    fn key(&self) -> String {
        format!("n{}_v{}_delay{}", self.members, self.validators, self.delay_ms)
    }

    async fn measure(self) -> Row {
        let mut house = House::build_with_slots(self.members, self.validators, self.slot_ms).await;
        let bytes = Arc::new(AtomicU64::new(0));
        self.start(&mut house, &bytes).await;
        let chain = house.beacon.inner.lock().unwrap().chain.clone();
        let until = |slot: u64| {
            let at = chain.genesis_time_s * 1000 + slot * chain.slot_ms;
            tokio::time::sleep(Duration::from_millis(at.saturating_sub(chain.now_ms())))
        };
        house::eventually("the first attestation", || async { !house.beacon.submitted().is_empty() }).await;
        let first_slot = chain.slot_now() + WARM_UP_SLOTS;
        until(first_slot).await;
        let cpu = self.cpu(&house);
        let sent = bytes.load(Ordering::Relaxed);
        until(first_slot + self.slots).await;
        let cpu = (self.cpu(&house) - cpu) * 1e3 / count(self.members);
        let sent = bytes.load(Ordering::Relaxed) - sent;
        let (rss, anonymous) = self.memory(&house);
        let slots = first_slot..first_slot + self.slots;
        let (duties, first, all) = latencies(&house, slots.clone());
        let expected = slots.map(|slot| self.duties_in(slot)).sum::<usize>();
        Row {
            case: self,
            cpu_ms_per_duty: cpu / count(expected.max(1)),
            cpu_ms_per_slot: cpu / count(usize::try_from(self.slots).unwrap()),
            bytes_per_duty: count(usize::try_from(sent).unwrap())
                / count(self.members)
                / count(expected.max(1)),
            rss_mib: rss,
            anonymous_mib: anonymous,
            first,
            all,
            duties,
            missed: expected.saturating_sub(duties),
        }
    }

    /// As the tests' beacon node deals them out: four slots an epoch, each validator once.
    fn duties_in(&self, slot: u64) -> usize {
        let (epoch, place) = (slot / 4, slot % 4);
        (0..self.validators).filter(|index| (u64::try_from(*index).unwrap() + epoch) % 4 == place).count()
    }

    async fn start(&self, house: &mut House, bytes: &Arc<AtomicU64>) {
        for member in &mut house.members {
            member.start().await;
        }
        for from in 0..self.members {
            let mut setup = house.setup(from);
            setup.peers.clear();
            for (_, member) in house.members.iter().enumerate().filter(|(to, _)| *to != from) {
                let port = relay(member.port, Duration::from_millis(self.delay_ms), Arc::clone(bytes)).await;
                setup.peers.push(format!("/ip4/127.0.0.1/tcp/{port}/p2p/{}", member.peer_id));
            }
            let client = house.members[from].client().with_timeout(Duration::from_secs(120));
            let _status: NodeStatus = client.put(ipc::node::CLUSTER_PATH, &setup).await.unwrap();
        }
    }

    /// CPU seconds of all members.
    fn cpu(&self, house: &House) -> f64 {
        house.members.iter().filter_map(house::Member::pid).map(cpu_of).sum()
    }

    fn memory(&self, house: &House) -> (f64, f64) {
        let of = |pid: u32, name: &str| {
            let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
            let line = text.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
            line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
        };
        let pids = || house.members.iter().filter_map(house::Member::pid);
        let largest = |name: &str| pids().map(|pid| of(pid, name)).fold(0.0, f64::max);
        (largest("VmRSS"), largest("RssAnon"))
    }
}

fn cpu_of(pid: u32) -> f64 {
    let clock = clock_getcpuclockid(Pid::from_raw(i32::try_from(pid).unwrap())).unwrap();
    Duration::from(clock_gettime(clock).unwrap()).as_secs_f64()
}

/// Duties of these slots that were published, and how long after the slot phase: by the first member, and by each.
fn latencies(house: &House, slots: std::ops::Range<u64>) -> (usize, Percentiles, Percentiles) {
    let inner = house.beacon.inner.lock().unwrap();
    let chain = &inner.chain;
    let (mut first, mut all): (BTreeMap<u64, f64>, Vec<f64>) = (BTreeMap::new(), Vec::new());
    let mut duties: BTreeMap<(u64, String), ()> = BTreeMap::new();
    // Only the arrival of attestations is timed.
    let attestations = inner.submitted.iter().filter(|(path, _)| path.contains("pool/attestations"));
    for ((_, body), at) in attestations.zip(&inner.submitted_at_ms) {
        for attestation in body.as_array().unwrap() {
            let slot: u64 = attestation["data"]["slot"].as_str().unwrap().parse().unwrap();
            if slots.contains(&slot) {
                duties.insert((slot, attestation["attester_index"].to_string()), ());
            }
        }
        let slot: u64 = body[0]["data"]["slot"].as_str().unwrap().parse().unwrap();
        if slots.contains(&slot) {
            // A third of the slot, in basis points of the specification.
            let due = chain.genesis_time_s * 1000 + slot * chain.slot_ms + chain.slot_ms * 3333 / 10_000;
            let late = count(usize::try_from(at.saturating_sub(due)).unwrap());
            let known = first.entry(slot).or_insert(late);
            *known = known.min(late);
            all.push(late);
        }
    }
    (duties.len(), Percentiles::of(first.into_values().collect()), Percentiles::of(all))
}

/// Holds every byte back for a while on its way to a member, in both directions, and counts it.
async fn relay(to: u16, delay: Duration, bytes: Arc<AtomicU64>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            let Ok(far) = TcpStream::connect(("127.0.0.1", to)).await else { continue };
            let _ = (near.set_nodelay(true), far.set_nodelay(true));
            let ((near_read, near_write), (far_read, far_write)) = (near.into_split(), far.into_split());
            tokio::spawn(pump(near_read, far_write, delay, Arc::clone(&bytes)));
            tokio::spawn(pump(far_read, near_write, delay, Arc::clone(&bytes)));
        }
    });
    port
}

async fn pump(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    delay: Duration,
    bytes: Arc<AtomicU64>,
) {
    let (sender, mut queue) = mpsc::channel::<(Instant, Vec<u8>)>(1024);
    tokio::spawn(async move {
        while let Some((at, chunk)) = queue.recv().await {
            tokio::time::sleep_until(at).await;
            if to.write_all(&chunk).await.is_err() {
                return;
            }
        }
    });
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        bytes.fetch_add(u64::try_from(length).unwrap(), Ordering::Relaxed);
        if sender.send((Instant::now() + delay, buffer[..length].to_vec())).await.is_err() {
            return;
        }
    }
}

#[derive(Clone, Copy)]
struct Percentiles {
    p50: f64,
    p99: f64,
}

impl Percentiles {
    fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let at = |hundredths: usize| {
            values.get(values.len().saturating_sub(1) * hundredths / 100).copied().unwrap_or(f64::NAN)
        };
        Self { p50: at(50), p99: at(99) }
    }
}

impl Row {
    fn json(&self) -> Value {
        json!({
            "cpu_ms_per_duty": rounded(self.cpu_ms_per_duty), "cpu_ms_per_slot": rounded(self.cpu_ms_per_slot),
            "bytes_sent_per_duty": rounded(self.bytes_per_duty),
            "rss_mib": rounded(self.rss_mib), "rss_anon_mib": rounded(self.anonymous_mib),
            "first_published_ms_p50": rounded(self.first.p50), "first_published_ms_p99": rounded(self.first.p99),
            "published_ms_p50": rounded(self.all.p50), "published_ms_p99": rounded(self.all.p99),
            "duties": self.duties, "missed": self.missed,
        })
    }
}

fn table(rows: &[Row]) -> String {
    use std::fmt::Write as _;
    let mut text = format!(
        "Whole dv-node processes; CPU, bytes and memory of one member. Published: after the slot phase, first member / all.\n\
         {:>20} {:>9} {:>9} {:>11} {:>8} {:>8} {:>15} {:>15} {:>7} {:>7}\n",
        "",
        "CPU/duty",
        "CPU/slot",
        "sent/duty",
        "RSS",
        "anon",
        "first p50/p99",
        "all p50/p99",
        "duties",
        "missed"
    );
    for row in rows {
        let of = |p: Percentiles| format!("{:.0} / {:.0} ms", p.p50, p.p99);
        let _ = writeln!(
            text,
            "{:>20} {:6.2} ms {:6.1} ms {:7.0} byt {:4.1} MiB {:4.1} MiB {:>15} {:>15} {:7} {:7}",
            row.case.key(),
            row.cpu_ms_per_duty,
            row.cpu_ms_per_slot,
            row.bytes_per_duty,
            row.rss_mib,
            row.anonymous_mib,
            of(row.first),
            of(row.all),
            row.duties,
            row.missed
        );
    }
    text
}

fn count(number: usize) -> f64 {
    f64::from(u32::try_from(number).unwrap_or(u32::MAX))
}

fn rounded(value: f64) -> Value {
    json!((value * 100.0).round() / 100.0)
}
