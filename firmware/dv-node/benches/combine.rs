//! `./hearth bench dv`: what it costs from the partial signatures of a slot to the validators' verified signatures.
//!
//! It calls the function the node calls, `dv_node::node::combine::combine_jobs`, and compares it within one run, on one
//! thread, by that thread's CPU time, with
//!
//! - the plain way (`threshold::combine_plainly`): verify every partial on its own, combine with one full multiplication per
//!   partial, verify the result. Public keys are read beforehand, as ours are;
//! - the floor: the operations that no way can do without, each timed alone. `Floor` lists them.
//!
//! Each figure is the lowest of several passes. docs/benchmarks.md says how to read them.
#![expect(
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a benchmark that stops when something is wrong"
)]

use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::Duration;

use blst::{MultiPoint as _, blst_fp12, blst_p1_affine, blst_p2_affine, min_pk};
use chain::{
    AttestationData, AttesterDuty, Checkpoint, CommitteeIndex, Epoch, ForkName, ForkSchedule, PublicKeyBytes,
    Root, ScheduledFork, SignatureBytes, Slot, SlotTiming, ValidatorIndex,
};
use duty::{CombineJob, Duty, DutyKind, Given, Known, Network as _, Task};
use dv_node::node::combine::{ClusterKeys, Combined, combine_jobs};
use dv_node::obol_network::ObolNetwork;
use dv_node::setup::ValidatorKeys;
use nix::time::{ClockId, clock_gettime};
use qbft::Member;
use serde_json::{Map, Value, json};
use threshold::{Combiner, HashedMessage, Job, SecretKey, SecretShare, ShareIndex, combine_plainly, split};

const MEMBERS: [usize; 4] = [4, 7, 10, 16];
const VALIDATORS: [usize; 4] = [1, 8, 64, 256];
/// The plain way costs the same for each validator: it is measured with this many at most.
const PLAIN_VALIDATORS: usize = 8;
const SLOT: Slot = Slot(3_200);
const EPOCH: Epoch = Epoch(100);
const DUTY: Duty = Duty { slot: SLOT, kind: DutyKind::Attester };

fn main() {
    let json = std::env::args().any(|argument| argument == "--json");
    // `cargo bench` and `cargo test --benches` pass words of their own; none of them matters here.
    let mut report = Report::default();
    for members in MEMBERS {
        eprintln!("bench dv: {members} members: making keys and signatures");
        let cluster = Cluster::new(members, VALIDATORS[VALIDATORS.len() - 1]);
        for validators in VALIDATORS {
            eprintln!("bench dv: {members} members, {validators} validators");
            report.measure(&cluster, validators);
        }
        report.measure_subsets(&cluster);
        if members == 4 {
            report.measure_liar(&cluster, 64);
        }
    }
    if json {
        println!("{}", report.json());
    } else {
        println!("{}", report.table());
    }
}

/// This thread's CPU time.
fn cpu() -> Duration {
    let now = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("this thread's clock");
    Duration::from(now)
}

/// Microseconds of the fastest of several passes; at least `least` of them and about as long as `patience`.
fn fastest<T>(least: usize, patience: Duration, mut pass: impl FnMut() -> T) -> f64 {
    let mut best = Duration::MAX;
    let begun = cpu();
    let mut passes = 0;
    while passes < least || (cpu().saturating_sub(begun) < patience && passes < 200) {
        let start = cpu();
        black_box(pass());
        best = best.min(cpu().saturating_sub(start));
        passes += 1;
    }
    best.as_secs_f64() * 1e6
}

fn count(number: usize) -> f64 {
    f64::from(u32::try_from(number).unwrap_or(u32::MAX))
}

/// A cluster whose validators all attest in one slot, and what its members signed.
struct Cluster {
    members: usize,
    threshold: usize,
    keys: BTreeMap<PublicKeyBytes, ValidatorKeys>,
    shares: Vec<Vec<SecretShare>>,
    jobs: Vec<CombineJob>,
    network: ObolNetwork,
    signing_root: Root,
}

impl Cluster {
    fn new(members: usize, validators: usize) -> Self {
        let mut rng = rand::rng();
        let threshold = (2 * members).div_ceil(3);
        let (mut keys, mut shares_of) = (BTreeMap::new(), BTreeMap::new());
        for _ in 0..validators {
            let secret = SecretKey::random(&mut rng);
            let group = secret.public_key();
            let shares = split(secret, threshold, members, &mut rng).expect("a possible cluster").shares;
            let public: BTreeMap<_, _> =
                shares.iter().map(|share| (share.index(), share.public_share().key)).collect();
            let own_share = shares[0].public_share().key.to_bytes();
            keys.insert(group.to_bytes(), ValidatorKeys { group, shares: public, own_share });
            shares_of.insert(group.to_bytes(), shares);
        }
        let network = network();
        let tasks = tasks(&network, keys.keys().copied(), 1);
        let signing_root = root_of(&tasks[0], &network);
        let jobs = jobs(&tasks, &shares_of, &network);
        let shares = tasks.iter().filter_map(|task| shares_of.remove(&task.id.validator)).collect();
        Self { members, threshold, keys, shares, jobs, network, signing_root }
    }

    fn combine(&self, combiner: &Combiner, jobs: &[CombineJob]) -> Combined {
        let cluster = ClusterKeys { keys: &self.keys, threshold: self.threshold };
        let combined = combine_jobs(combiner, jobs, cluster, &self.network, DUTY);
        assert!(combined.results.iter().all(|(_, result)| result.is_ok()), "everything can be combined");
        combined
    }

    /// The same jobs as the plain way takes them.
    fn combine_plainly(&self, jobs: &[CombineJob]) {
        for job in jobs {
            let keys = &self.keys[&job.id.validator];
            let signing_root = self.network.signing_root(DUTY, job.message_root);
            let partials: Vec<_> =
                job.partials.iter().map(|(member, bytes)| (share(*member), *bytes)).collect();
            let job = Job {
                group_key: &keys.group,
                public_shares: &keys.shares,
                threshold: self.threshold,
                message: &signing_root.0,
                partials: &partials,
            };
            black_box(combine_plainly(&job).expect("everything can be combined"));
        }
    }

    /// The jobs with the partials of these members only.
    fn only(&self, jobs: &[CombineJob], members: &[u8]) -> Vec<CombineJob> {
        let mut jobs = jobs.to_vec();
        for job in &mut jobs {
            job.partials.retain(|(member, _)| members.contains(&member.0));
        }
        jobs
    }

    /// The same with one member that signs something else.
    fn lied(&self, validators: usize, liar: u8) -> Vec<CombineJob> {
        let wrong = HashedMessage::new(b"something else");
        let mut jobs = self.jobs[..validators].to_vec();
        for (job, shares) in jobs.iter_mut().zip(&self.shares) {
            for (member, signature) in &mut job.partials {
                if member.0 == liar {
                    *signature = shares[usize::from(liar)].key().sign_hashed(&wrong).to_bytes();
                }
            }
        }
        jobs
    }
}

fn share(member: Member) -> ShareIndex {
    ShareIndex::new(u64::from(member.0) + 1).expect("not zero")
}

fn network() -> ObolNetwork {
    let fork =
        |(name, byte)| ScheduledFork { name, version: chain::ForkVersion([byte, 0, 0, 0]), epoch: Epoch(0) };
    let forks = [
        (ForkName::Phase0, 0),
        (ForkName::Altair, 1),
        (ForkName::Bellatrix, 2),
        (ForkName::Capella, 3),
        (ForkName::Deneb, 4),
        (ForkName::Electra, 5),
        (ForkName::Fulu, 6),
    ];
    ObolNetwork {
        timing: SlotTiming::new(0, 12_000, 32).expect("a clock"),
        schedule: ForkSchedule::new(forks.map(fork)).expect("a schedule"),
        genesis_validators_root: Root([7; 32]),
    }
}

/// What the members would sign: every validator the same vote.
fn tasks(network: &ObolNetwork, validators: impl Iterator<Item = PublicKeyBytes>, head: u8) -> Vec<Task> {
    let checkpoint = |epoch: u64| Checkpoint { epoch: Epoch(epoch), root: Root([9; 32]) };
    let vote = AttestationData {
        slot: SLOT,
        index: CommitteeIndex(0),
        beacon_block_root: Root([head; 32]),
        source: checkpoint(EPOCH.0 - 1),
        target: checkpoint(EPOCH.0),
    };
    let duty = |pubkey| AttesterDuty {
        pubkey,
        validator_index: ValidatorIndex(11),
        committee_index: CommitteeIndex(3),
        committee_length: 64,
        committees_at_slot: 4,
        validator_committee_index: 5,
        slot: SLOT,
    };
    let duties = validators.map(|pubkey| (pubkey, duty(pubkey))).collect();
    let value = network.attester_value(vote, &duties);
    let known = Known { validators: &BTreeMap::new(), given: &Given::new() };
    network.read(DUTY, &value.bytes, &known).expect("our own value")
}

fn root_of(task: &Task, network: &ObolNetwork) -> Root {
    network.signing_root(DUTY, task.message_root)
}

fn jobs(
    tasks: &[Task],
    shares: &BTreeMap<PublicKeyBytes, Vec<SecretShare>>,
    network: &ObolNetwork,
) -> Vec<CombineJob> {
    let Some(first) = tasks.first() else { return Vec::new() };
    let hashed = HashedMessage::new(&root_of(first, network).0);
    let sign = |task: &Task| {
        let shares = &shares[&task.id.validator];
        let partial = |(member, share): (u8, &SecretShare)| {
            (Member(member), share.key().sign_hashed(&hashed).to_bytes())
        };
        CombineJob {
            id: task.id,
            message_root: task.message_root,
            data: task.data.clone(),
            partials: (0..).zip(shares).map(partial).collect(),
        }
    };
    tasks.iter().map(sign).collect()
}

/// The operations that no way can do without, in microseconds each, timed alone in the same run.
struct Floor {
    /// Reading one compressed partial: a square root. `threshold` of them.
    parse: f64,
    /// Adding as many points as a combination has, as if all coefficients were one.
    combine: f64,
    /// One subgroup check, of the result.
    subgroup: f64,
    /// The share of one validator in the two sums of random multiples (64 bits) of a batch of this size.
    multiples: f64,
    /// Converting a batch's results to affine form and compressing them, for one.
    compress: f64,
    /// Hashing the message; two Miller loops; one final exponentiation. Once for all validators.
    hash: f64,
    pairing: f64,
}

impl Floor {
    fn measure(cluster: &Cluster, validators: usize) -> Self {
        let patience = Duration::from_millis(60);
        let bytes: Vec<SignatureBytes> =
            cluster.jobs[..validators].iter().map(|job| job.partials[0].1).collect();
        let parse = fastest(20, patience, || min_pk::Signature::uncompress(&bytes[0].0));
        let signatures: Vec<min_pk::Signature> =
            bytes.iter().map(|bytes| min_pk::Signature::uncompress(&bytes.0).expect("a point")).collect();
        let (one, t) = (signatures[0], cluster.threshold);
        let combine = fastest(20, patience, || {
            let mut sum = min_pk::AggregateSignature::from_signature(&one);
            for _ in 1..t {
                sum.add_signature(&one, false).expect("no check, no error");
            }
            sum
        });
        let subgroup = fastest(20, patience, || one.subgroup_check());
        let in_g2: Vec<blst_p2_affine> = signatures.iter().map(|signature| (*signature).into()).collect();
        let keys: Vec<min_pk::PublicKey> = cluster.jobs[..validators]
            .iter()
            .map(|job| min_pk::PublicKey::uncompress(&job.id.validator.0).expect("a key"))
            .collect();
        let in_g1: Vec<blst_p1_affine> = keys.iter().map(|key| (*key).into()).collect();
        let multipliers: Vec<u8> = (0..validators * 8).map(|_| rand::random()).collect();
        let multiples = if validators == 1 {
            0.0 // One result needs no multiplier.
        } else {
            fastest(5, patience, || (in_g1.mult(&multipliers, 64), in_g2.mult(&multipliers, 64)))
                / count(validators)
        };
        let sums: Vec<blst::blst_p2> = signatures
            .iter()
            .map(|signature| {
                let mut sum = min_pk::AggregateSignature::from_signature(signature);
                sum.add_aggregate(&min_pk::AggregateSignature::from_signature(&one));
                blst::blst_p2::from(sum)
            })
            .collect();
        let compress = fastest(5, patience, || {
            let affine = blst::p2_affines::from(&sums);
            affine
                .as_slice()
                .iter()
                .map(|point| min_pk::Signature::from(*point).compress())
                .collect::<Vec<_>>()
        }) / count(validators);
        let hash = fastest(20, patience, || HashedMessage::new(&cluster.signing_root.0));
        let (two_g2, two_g1) = ([in_g2[0], in_g2[0]], [in_g1[0], in_g1[0]]);
        let pairing = fastest(20, patience, || blst_fp12::miller_loop_n(&two_g2, &two_g1).final_exp());
        Self { parse, combine, subgroup, multiples, compress, hash, pairing }
    }

    /// For one validator of a slot.
    fn per_validator(&self, threshold: usize, validators: usize) -> f64 {
        self.parse * count(threshold)
            + self.combine
            + self.subgroup
            + self.multiples
            + self.compress
            + (self.hash + self.pairing) / count(validators)
    }
}

#[derive(Default)]
struct Report {
    rows: Vec<Row>,
    subsets: Map<String, Value>,
    liar: Map<String, Value>,
}

struct Row {
    members: usize,
    validators: usize,
    ours: f64,
    plain: f64,
    floor: f64,
}

impl Row {
    fn key(&self) -> String {
        format!("n{}_v{}", self.members, self.validators)
    }
}

impl Report {
    fn measure(&mut self, cluster: &Cluster, validators: usize) {
        let jobs = &cluster.jobs[..validators];
        let v = count(validators);
        // A new combiner each time: nothing is remembered, no message hashed and no point read beforehand.
        let ours = fastest(5, Duration::from_millis(900), || cluster.combine(&Combiner::default(), jobs)) / v;
        let few = validators.min(PLAIN_VALIDATORS);
        let plain =
            fastest(3, Duration::from_millis(500), || cluster.combine_plainly(&jobs[..few])) / count(few);
        let floor = Floor::measure(cluster, validators).per_validator(cluster.threshold, validators);
        self.rows.push(Row { members: cluster.members, validators, ours, plain, floor });
    }

    /// With no choice of members: the average over sets of as many as needed, as they may happen to come first.
    fn measure_subsets(&mut self, cluster: &Cluster) {
        let validators = 64;
        let everybody: Vec<u8> = (0..u8::try_from(cluster.members).unwrap_or(u8::MAX)).collect();
        let mut total = 0.0;
        let rounds: usize = if cluster.members == 4 { 4 } else { 12 };
        for round in 0..rounds {
            let mut chosen = everybody.clone();
            if cluster.members == 4 {
                chosen.remove(round); // All four sets of three.
            } else {
                while chosen.len() > cluster.threshold {
                    chosen.swap_remove(rand::random_range(0..chosen.len()));
                }
            }
            let jobs = cluster.only(&cluster.jobs[..validators], &chosen);
            total += fastest(3, Duration::from_millis(60), || cluster.combine(&Combiner::default(), &jobs));
        }
        let ours = total / count(rounds) / count(validators);
        let row = self.rows.iter().find(|row| row.members == cluster.members && row.validators == validators);
        if let Some(row) = row {
            let entry = json!({
                "plain_over_ours": rounded(row.plain / ours),
                "ours_over_floor": rounded(ours / row.floor),
            });
            self.subsets.insert(row.key(), entry);
        }
    }

    /// One member of four lies about every validator.
    fn measure_liar(&mut self, cluster: &Cluster, validators: usize) {
        let liar = 1;
        let honest_jobs = &cluster.jobs[..validators];
        let lying = cluster.lied(validators, liar);
        let mut one_lie = honest_jobs.to_vec();
        one_lie[0] = lying[0].clone();
        let named =
            |combined: &Combined| assert!(combined.liars.iter().eq([&Member(liar)]), "the liar is named");
        let patience = Duration::from_millis(700);
        let honest = fastest(5, patience, || cluster.combine(&Combiner::default(), honest_jobs));
        let first = fastest(5, patience, || named(&cluster.combine(&Combiner::default(), &lying)));
        let first_one = fastest(5, patience, || named(&cluster.combine(&Combiner::default(), &one_lie)));
        // Later slots: the message of each is new, so it is hashed anew; that is added below.
        let hash = fastest(20, patience, || HashedMessage::new(&cluster.signing_root.0));
        let knowing = Combiner::default();
        named(&cluster.combine(&knowing, &lying));
        let later = fastest(5, patience, || named(&cluster.combine(&knowing, &lying))) + hash;
        let later_honest = {
            let knowing = Combiner::default();
            named(&cluster.combine(&knowing, &lying));
            fastest(5, patience, || cluster.combine(&knowing, honest_jobs)) + hash
        };
        let plain = fastest(1, Duration::ZERO, || cluster.combine_plainly(&lying));
        for (name, us) in [
            ("first_slot_over_honest", first / honest),
            ("first_slot_one_lie_over_honest", first_one / honest),
            ("later_slots_over_honest", later / honest),
            ("later_slots_honest_again_over_honest", later_honest / honest),
            ("plain_over_first_slot", plain / first),
            ("plain_over_later_slots", plain / later),
        ] {
            self.liar.insert(name.to_owned(), rounded(us));
        }
    }

    fn json(&self) -> String {
        let of = |value: fn(&Row) -> f64| -> Map<String, Value> {
            self.rows.iter().map(|row| (row.key(), rounded(value(row)))).collect()
        };
        json!({
            "plain_over_ours": of(|row| row.plain / row.ours),
            "ours_over_floor": of(|row| row.ours / row.floor),
            "any_subset": self.subsets,
            "one_liar_n4_v64": self.liar,
            "us_per_validator": {
                "ours": of(|row| row.ours), "plain": of(|row| row.plain), "floor": of(|row| row.floor),
            },
        })
        .to_string()
    }

    fn table(&self) -> String {
        use std::fmt::Write as _;
        let mut text = String::from(
            "From partial signatures to verified ones, CPU microseconds per validator (one thread, lowest of several passes)\n\
             members  validators      plain       ours      floor   plain/ours   ours/floor\n",
        );
        for row in &self.rows {
            let _ = writeln!(
                text,
                "{:7} {:11} {:10.0} {:10.0} {:10.0} {:12.1} {:12.2}",
                row.members,
                row.validators,
                row.plain,
                row.ours,
                row.floor,
                row.plain / row.ours,
                row.ours / row.floor
            );
        }
        let _ = writeln!(text, "\nAny set of members that happens to be first, 64 validators:");
        for (key, entry) in &self.subsets {
            let _ = writeln!(text, "  {key}: {entry}");
        }
        let _ = writeln!(text, "\nOne liar among four, 64 validators:");
        for (key, ratio) in &self.liar {
            let _ = writeln!(text, "  {key}: {ratio}");
        }
        text
    }
}

fn rounded(value: f64) -> Value {
    json!((value * 100.0).round() / 100.0)
}
