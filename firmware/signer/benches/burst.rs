//! `./hearth bench signer`: the real signer process, with a software TPM and its ledger on this disk, signing bursts.
//!
//! A list of attestations goes through the signing socket as `dv-node` sends it; for comparison also one call per message,
//! as stock clients do. Measured in the same run: one BLS signature (hashing to the curve and multiplying, this thread's CPU
//! time, lowest of many) and one fdatasync of 128 bytes beside the ledger. The signer's CPU is the kernel's account of the
//! whole process. docs/benchmarks.md says how to read the result.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark that stops when something is wrong"
)]
#![expect(dead_code, reason = "the harness is shared with the tests of the process")]

#[path = "../tests/process/harness.rs"]
mod harness;

use std::{
    fs::File,
    hint::black_box,
    io::Write as _,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use chain::{AttestationData, Checkpoint, Epoch, PublicKeyBytes, Root, Slot};
use cluster::keystore::{KdfCost, Keystore};
use futures::StreamExt as _;
use harness::{GENESIS_ROOT, Machine, PASSWORD, Running, clock_with, epoch_of, fork_info, until_epoch};
use ipc::{
    Sensitive, SignRequest,
    signer::{ChainClock, History, ShareBundle, ShareEntry},
    web3signer::{SIGN_MANY_PATH, SignGroup, SignOutcome, sign_lists},
};
use nix::{
    sys::signal::{Signal, kill},
    time::{ClockId, clock_getcpuclockid, clock_gettime},
    unistd::Pid,
};
use serde_json::{Map, Value, json};
use threshold::SecretKey;

const SHARES: usize = 1000;
/// Goals for that many shares: the signer's CPU time for a signature as a multiple of the bare signature's, and how many signatures
/// share a durable write.
const MOST_CPU: f64 = 1.25;
const LEAST_PER_FSYNC: f64 = 16.0;
/// Single calls under way at once: as many as a stock client has connections.
const CALLS_AT_ONCE: usize = 32;
/// Epochs of 8 slots fly by, so that every burst votes in one of its own.
const SLOT_MS: u64 = 60;

fn main() {
    let json = std::env::args().any(|argument| argument == "--json");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let report = runtime.block_on(measure());
    println!("{}", if json { report.json().to_string() } else { report.table() });
}

async fn measure() -> Report {
    let machine = Machine::new();
    let raw = raw_signature_us();
    let fsync = Percentiles::of((0..200).map(|_| fsync_ms(&machine)).collect());
    eprintln!("bench signer: one BLS signature {raw:.0} us, one fsync {:.2} ms", fsync.p50);
    let signer = machine.start().await;
    let (keys, clock) = import(&signer).await;
    let mut bench = Bench { signer: &signer, keys, clock, last: 0 };
    let mut sizes = Map::new();
    for (size, epochs) in [(1_usize, 1_usize), (100, 4), (1000, 25)] {
        eprintln!("bench signer: lists of {size}");
        let bursts: Vec<Burst> = bench.lists(size, epochs).await;
        sizes.insert(format!("shares_{size}"), summary(&bursts, size, raw, &fsync));
    }
    eprintln!("bench signer: {SHARES} single calls, as stock clients make them");
    let single = [bench.single_calls().await, bench.single_calls().await, bench.single_calls().await];
    eprintln!("bench signer: counting fsyncs");
    let counted = bench.count_fsyncs().await;
    Report { raw, fsync, sizes, single: summary(&single, SHARES, raw, &Percentiles::of(vec![0.0])), counted }
}

/// One list or one volley of single calls.
struct Burst {
    /// The signer's CPU, in microseconds per signature.
    cpu: f64,
    /// From the first request to the last answer.
    took_ms: f64,
    /// Of each call by itself.
    calls_ms: Vec<f64>,
    commits: f64,
}

struct Bench<'a> {
    signer: &'a Running,
    keys: Vec<PublicKeyBytes>,
    clock: ChainClock,
    last: u64,
}

impl Bench<'_> {
    fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.signer.child.id()).unwrap())
    }

    fn cpu(&self) -> Duration {
        Duration::from(clock_gettime(clock_getcpuclockid(self.pid()).unwrap()).unwrap())
    }

    async fn commits(&self) -> f64 {
        let metrics = self.signer.control.get_text("/metrics").await.unwrap();
        let line =
            metrics.lines().find(|line| line.starts_with("hearth_signer_commit_seconds_count")).unwrap();
        line.split_whitespace().last().unwrap().parse().unwrap()
    }

    /// A vote in an epoch that no share has voted in.
    async fn next_vote(&mut self) -> AttestationData {
        until_epoch(&self.clock, self.last + 1).await;
        self.last = epoch_of(&self.clock);
        let target = self.last;
        AttestationData {
            slot: Slot(target * self.clock.slots_per_epoch),
            source: Checkpoint { epoch: Epoch(target - 1), root: Root([1; 32]) },
            target: Checkpoint { epoch: Epoch(target), root: Root([2; 32]) },
            ..AttestationData::default()
        }
    }

    /// In each epoch every share signs once at most, in lists of this size.
    async fn lists(&mut self, size: usize, epochs: usize) -> Vec<Burst> {
        let mut bursts = Vec::new();
        for _ in 0..epochs {
            let vote = self.next_vote().await;
            let request = SignRequest::attestation(fork_info(), &vote).unwrap();
            for keys in self.keys.chunks(size).take(200) {
                let group = SignGroup { keys: keys.to_vec(), request: request.clone() };
                let commits = self.commits().await;
                let (cpu, begun) = (self.cpu(), Instant::now());
                let (mut signed, mut calls_ms) = (0, Vec::new());
                for (_, list) in sign_lists(&[group]).unwrap() {
                    let asked = Instant::now();
                    let answer: Vec<Vec<SignOutcome>> =
                        self.signer.sign.post_text(SIGN_MANY_PATH, list).await.unwrap();
                    calls_ms.push(ms(asked.elapsed()));
                    signed += answer.iter().flatten().filter(|o| matches!(o, SignOutcome::Signed(_))).count();
                }
                let (took, cpu) = (begun.elapsed(), self.cpu().saturating_sub(cpu));
                assert_eq!(signed, keys.len(), "every message is signed");
                bursts.push(Burst {
                    cpu: cpu.as_secs_f64() * 1e6 / count(size),
                    took_ms: ms(took),
                    calls_ms,
                    commits: self.commits().await - commits,
                });
            }
        }
        bursts
    }

    async fn single_calls(&mut self) -> Burst {
        let vote = self.next_vote().await;
        let commits = self.commits().await;
        let (cpu, begun) = (self.cpu(), Instant::now());
        let client = &self.signer.sign;
        let vote = &vote;
        let call = |key| async move {
            let asked = Instant::now();
            let answer = harness::attest(client, key, vote).await;
            (answer, ms(asked.elapsed()))
        };
        let answers: Vec<_> =
            futures::stream::iter(&self.keys).map(call).buffer_unordered(CALLS_AT_ONCE).collect().await;
        let (took, cpu) = (begun.elapsed(), self.cpu().saturating_sub(cpu));
        assert!(answers.iter().all(|(answer, _)| answer.is_ok()), "every message is signed");
        Burst {
            cpu: cpu.as_secs_f64() * 1e6 / count(SHARES),
            took_ms: ms(took),
            calls_ms: answers.into_iter().map(|(_, call_ms)| call_ms).collect(),
            commits: self.commits().await - commits,
        }
    }

    /// Every fsync of the process, checkpoints included, as the kernel sees them; none without strace.
    async fn count_fsyncs(&mut self) -> Option<f64> {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("fsyncs");
        let pid = self.signer.child.id().to_string();
        let mut strace = Command::new("strace")
            .args(["-f", "-qq", "-e", "trace=fsync,fdatasync", "-o"])
            .arg(&log)
            .args(["-p", &pid])
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        tokio::time::sleep(Duration::from_millis(500)).await;
        let bursts = self.lists(SHARES, 8).await;
        let id = Pid::from_raw(i32::try_from(strace.id()).unwrap());
        kill(id, Signal::SIGINT).unwrap();
        strace.wait().unwrap();
        let lines = std::fs::read_to_string(&log).ok()?;
        let syncs = lines.lines().filter(|line| line.contains("sync(")).count();
        (syncs > 0).then(|| count(bursts.len() * SHARES) / count(syncs))
    }
}

async fn import(signer: &Running) -> (Vec<PublicKeyBytes>, ChainClock) {
    eprintln!("bench signer: importing {SHARES} shares");
    let mut rng = rand::rng();
    let mut keys = Vec::with_capacity(SHARES);
    let validators = (0..SHARES)
        .map(|_| {
            let secret = SecretKey::random(&mut rng);
            let key = secret.public_key().to_bytes();
            let keystore = Keystore::encrypt_share(&secret, PASSWORD, KdfCost::Insecure, &mut rng);
            keys.push(key);
            ShareEntry {
                keystore: serde_json::from_slice(&keystore.to_json()).unwrap(),
                password: Sensitive::new(PASSWORD.to_owned()),
                public_key: key.to_string(),
                group_public_key: SecretKey::random(&mut rng).public_key().to_bytes().to_string(),
                share_index: 2,
            }
        })
        .collect();
    let clock = clock_with(SLOT_MS);
    let bundle = ShareBundle {
        validators,
        history: History::NeverSigned,
        genesis_validators_root: GENESIS_ROOT.to_string(),
        chain: clock,
    };
    let imported = signer.import_only(&bundle).await.unwrap();
    assert_eq!(imported.imported.len(), SHARES);
    // New shares wait until nothing of before can be in their way.
    let now = epoch_of(&clock);
    until_epoch(&clock, now + 4).await;
    (keys, clock)
}

fn summary(bursts: &[Burst], size: usize, raw: f64, fsync: &Percentiles) -> Value {
    let cpu = bursts.iter().map(|burst| burst.cpu).fold(f64::MAX, f64::min);
    let middle = Percentiles::of(bursts.iter().map(|burst| burst.cpu).collect()).p50;
    let took = Percentiles::of(bursts.iter().map(|burst| burst.took_ms).collect());
    let latency = Percentiles::of(bursts.iter().flat_map(|burst| burst.calls_ms.clone()).collect());
    let commits: f64 = bursts.iter().map(|burst| burst.commits).sum();
    json!({
        "bursts": bursts.len(),
        "cpu_over_raw_bls": rounded(cpu / raw),
        "cpu_over_raw_bls_median": rounded(middle / raw),
        "signatures_per_commit": rounded(count(bursts.len() * size) / commits.max(1.0)),
        "signatures_per_s": rounded(count(size) * 1e3 / took.p50),
        "burst_ms_p50": rounded(took.p50),
        "latency_ms_p50": rounded(latency.p50),
        "latency_ms_p99": rounded(latency.p99),
        "latency_over_fsync_p50": rounded(latency.p50 / fsync.p50.max(0.001)),
    })
}

struct Percentiles {
    p50: f64,
    p99: f64,
}

impl Percentiles {
    fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let at =
            |hundredths: usize| values.get((values.len() - 1) * hundredths / 100).copied().unwrap_or(0.0);
        Self { p50: at(50), p99: at(99) }
    }
}

/// One signature as anybody makes it: the message hashed, the point multiplied, the result compressed.
fn raw_signature_us() -> f64 {
    let cpu = || Duration::from(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap());
    let secret = SecretKey::random(&mut rand::rng());
    let one = |number: u16| {
        let begun = cpu();
        black_box(secret.sign(&number.to_be_bytes()).to_bytes());
        cpu().saturating_sub(begun)
    };
    (0..400).map(one).min().unwrap().as_secs_f64() * 1e6
}

fn fsync_ms(machine: &Machine) -> f64 {
    let path = machine.dir.path().join("fsync");
    let mut file = File::options().append(true).create(true).open(path).unwrap();
    file.write_all(&[7; 128]).unwrap();
    let begun = Instant::now();
    file.sync_data().unwrap();
    begun.elapsed().as_secs_f64() * 1e3
}

struct Report {
    raw: f64,
    fsync: Percentiles,
    sizes: Map<String, Value>,
    single: Value,
    counted: Option<f64>,
}

impl Report {
    /// Without strace: a commit is one fsync, and each may be followed by the two of a checkpoint.
    fn per_fsync(&self, size: &str) -> Value {
        let per_commit = self.sizes[size]["signatures_per_commit"].as_f64().unwrap_or(0.0);
        match (size, self.counted) {
            ("shares_1000", Some(counted)) => rounded(counted),
            _ => rounded(per_commit / 3.0),
        }
    }

    fn json(&self) -> Value {
        let of = |name: &str| -> Map<String, Value> {
            self.sizes.iter().map(|(size, values)| (size.clone(), values[name].clone())).collect()
        };
        let per_fsync: Map<String, Value> =
            self.sizes.keys().map(|size| (size.clone(), self.per_fsync(size))).collect();
        json!({
            "cpu_over_raw_bls": of("cpu_over_raw_bls"),
            "signatures_per_fsync": per_fsync,
            "goals": self.goals(),
            "fsyncs_counted_for": if self.counted.is_some() { "shares_1000" } else { "none: at least this many" },
            "lists": self.sizes,
            "single_calls_1000": self.single,
            "raw_bls_us": rounded(self.raw),
            "fsync_ms": { "p50": rounded(self.fsync.p50), "p99": rounded(self.fsync.p99) },
        })
    }

    /// What 1,000 shares are to reach (docs/benchmarks.md), and whether they did.
    fn goals(&self) -> Value {
        let cpu = self.sizes["shares_1000"]["cpu_over_raw_bls"].as_f64().unwrap_or(f64::MAX);
        let per_fsync = self.per_fsync("shares_1000").as_f64().unwrap_or(0.0);
        json!({
            "cpu_over_raw_bls": { "at_most": MOST_CPU, "measured": cpu, "reached": cpu <= MOST_CPU },
            "signatures_per_fsync": {
                "more_than": LEAST_PER_FSYNC, "measured": per_fsync, "reached": per_fsync > LEAST_PER_FSYNC,
            },
        })
    }

    fn table(&self) -> String {
        use std::fmt::Write as _;
        let mut text = format!(
            "One BLS signature: {:.0} us of CPU. One fsync: p50 {:.2} ms, p99 {:.2} ms.\n\
             {:>18} {:>14} {:>14} {:>16} {:>12} {:>12} {:>14}\n",
            self.raw,
            self.fsync.p50,
            self.fsync.p99,
            "",
            "CPU / raw BLS",
            "signatures/s",
            "per durable write",
            "p50 ms",
            "p99 ms",
            "per fsync"
        );
        let single = ("1000 single calls".to_owned(), self.single.clone());
        for (name, row) in self.sizes.iter().map(|(n, v)| (n.clone(), v.clone())).chain([single]) {
            let per_fsync = if self.sizes.contains_key(&name) {
                self.per_fsync(&name).to_string()
            } else {
                String::new()
            };
            let _ = writeln!(
                text,
                "{name:>18} {:>14} {:>14} {:>16} {:>12} {:>12} {per_fsync:>14}",
                row["cpu_over_raw_bls"].to_string(),
                row["signatures_per_s"].to_string(),
                row["signatures_per_commit"].to_string(),
                row["latency_ms_p50"].to_string(),
                row["latency_ms_p99"].to_string()
            );
        }
        if let Value::Object(goals) = self.goals() {
            for (name, goal) in goals {
                let outcome = if goal["reached"] == true { "reached" } else { "NOT reached" };
                let _ = writeln!(text, "Goal for {SHARES} shares, {name}: {outcome} {goal}");
            }
        }
        text
    }
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

fn count(number: usize) -> f64 {
    f64::from(u32::try_from(number).unwrap_or(u32::MAX))
}

fn rounded(value: f64) -> Value {
    json!((value * 100.0).round() / 100.0)
}
