//! The same clusters in thousands of broken worlds. `HEARTH_SIM_SEEDS` sets how many (per cluster size).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use sim::{Crypto, Journals, Ledger, Report, World, run, run_with_log};

const DEFAULT_SEEDS: u64 = 400;

fn seeds() -> u64 {
    std::env::var("HEARTH_SIM_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(DEFAULT_SEEDS)
}

/// Sums of many runs.
#[derive(Default)]
struct Sums {
    runs: usize,
    done: usize,
    missed: usize,
    reasons: BTreeMap<&'static str, usize>,
    rounds: BTreeMap<u64, usize>,
    failed: Option<u64>,
}

impl Sums {
    fn add(&mut self, report: &Report) {
        self.runs += 1;
        self.done += report.done;
        self.missed += report.missed;
        for (reason, count) in &report.reasons {
            *self.reasons.entry(reason).or_default() += count;
        }
        for (round, count) in &report.rounds {
            *self.rounds.entry(*round).or_default() += count;
        }
        if report.violation.is_some() {
            self.failed.get_or_insert(report.seed);
        }
    }
}

/// Runs many seeds on every core; stops at the first violation.
fn run_seeds(world: World, count: u64) -> Sums {
    let next = AtomicU64::new(0);
    let failed = AtomicU64::new(u64::MAX);
    let work = || {
        let mut sums = Sums::default();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= count || failed.load(Ordering::Relaxed) < u64::MAX {
                return sums;
            }
            let report = run(seed, &world);
            sums.add(&report);
            if report.violation.is_some() {
                failed.fetch_min(seed, Ordering::Relaxed);
            }
        }
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut total = Sums::default();
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..cores).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            let sums = worker.join().expect("a run panicked");
            total.runs += sums.runs;
            total.done += sums.done;
            total.missed += sums.missed;
            for (reason, count) in sums.reasons {
                *total.reasons.entry(reason).or_default() += count;
            }
            for (round, count) in sums.rounds {
                *total.rounds.entry(round).or_default() += count;
            }
        }
    });
    total.failed = Some(failed.load(Ordering::Relaxed)).filter(|seed| *seed < u64::MAX);
    total
}

fn check(world: World, count: u64) -> Sums {
    let sums = run_seeds(world, count);
    println!(
        "{} runs of {} members: {} duties done, {} missed {:?}, decided in rounds {:?}",
        sums.runs, world.members, sums.done, sums.missed, sums.reasons, sums.rounds
    );
    if let Some(seed) = sums.failed {
        let report = run_with_log(seed, &world);
        for line in &report.log {
            eprintln!("{}", line.chars().take(300).collect::<String>());
        }
        panic!(
            "seed {seed}, {} members: {}\nreplay: cargo run -p sim --example replay -- {seed} {}",
            world.members,
            report.violation.unwrap_or_default(),
            world.members
        );
    }
    sums
}

#[test]
fn four_members_survive_everything() {
    let sums = check(World::new(4), seeds());
    assert!(sums.done > sums.missed, "most duties are done even so");
}

#[test]
fn seven_members_survive_everything() {
    let sums = check(World::new(7), seeds());
    assert!(sums.done > sums.missed, "most duties are done even so");
}

#[test]
fn odd_sizes_survive_too() {
    for members in [1, 2, 3, 5, 10] {
        check(World::new(members), seeds() / 100);
    }
}

#[test]
fn without_accidents_every_duty_is_done_in_round_one() {
    for members in [1, 3, 4, 7, 16] {
        check(World::calm(members), 20);
    }
}

#[test]
fn real_signatures_behave_like_the_stand_ins() {
    check(World { crypto: Crypto::Bls, ..World::new(4) }, (seeds() / 250).max(1));
}

#[test]
fn a_seed_replays_exactly() {
    for seed in 0..20 {
        let (one, two) = (run_with_log(seed, &World::new(4)), run_with_log(seed, &World::new(4)));
        assert_eq!(one.log, two.log);
    }
}

/// The simulation must be able to fail. Each of these worlds breaks one promise on purpose.
fn must_be_caught(world: World, expected: &[&str]) {
    let caught = (0..5_000).map(|seed| run(seed, &world)).find_map(|report| report.violation);
    let what = caught.expect("a broken world went unnoticed");
    assert!(expected.iter().any(|text| what.contains(text)), "{what}");
}

#[test]
fn a_quorum_of_half_is_caught() {
    must_be_caught(World { quorum: Some(2), ..World::new(4) }, &["decided"]);
}

#[test]
fn one_liar_too_many_is_caught() {
    must_be_caught(World { faulty: Some(2), ..World::new(4) }, &["decided", "slashable", "should have done"]);
}

#[test]
fn a_ledger_that_is_not_durable_is_caught() {
    must_be_caught(World { ledger: Ledger::LostInCrashes, ..World::new(4) }, &["signed"]);
}

#[test]
fn a_journal_that_is_not_durable_is_caught() {
    must_be_caught(World { journals: Journals::LostInCrashes, ..World::new(4) }, &["said", "decided"]);
}
