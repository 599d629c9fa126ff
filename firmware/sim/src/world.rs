//! What kind of world a run happens in, and the accidents that its seed draws.

use std::collections::{BTreeMap, BTreeSet};

use chain::{Slot, SlotTiming, UnixMillis};
use qbft::{Member, Size};
use rand::Rng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use crate::byzantine::Twist;

/// Which signatures the members make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crypto {
    /// Fingerprints: fast, unforgeable because nobody tries.
    StandIn,
    /// BLS12-381 through `threshold`.
    Bls,
}

/// What signers remember.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ledger {
    /// The record is durable before the signature leaves.
    Durable,
    /// A crash loses it. Forbidden; exists to prove that the simulation notices.
    LostInCrashes,
}

/// What members remember of their agreements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Journals {
    /// What a member says is durable before anybody hears it.
    Durable,
    /// Every crash loses it. Forbidden; exists to prove that the simulation notices.
    LostInCrashes,
}

/// The rules of a world. Within them, the seed decides what happens.
#[derive(Clone, Copy, Debug)]
pub struct World {
    /// Number of members.
    pub members: usize,
    /// Which signatures they make.
    pub crypto: Crypto,
    /// What their signers remember.
    pub ledger: Ledger,
    /// What they remember of their agreements.
    pub journals: Journals,
    /// How many members may lie or forget; `None`: as many as the protocol promises to survive.
    pub faulty: Option<usize>,
    /// Another quorum than the right one.
    pub quorum: Option<u8>,
    /// Whether anything breaks at all.
    pub accidents: bool,
}

impl World {
    /// A world with as many accidents as the protocol must survive.
    pub fn new(members: usize) -> Self {
        World {
            members,
            crypto: Crypto::StandIn,
            ledger: Ledger::Durable,
            journals: Journals::Durable,
            faulty: None,
            quorum: None,
            accidents: true,
        }
    }

    /// A world in which nothing breaks.
    pub fn calm(members: usize) -> Self {
        World { accidents: false, ..World::new(members) }
    }

    pub(crate) fn size(&self) -> Size {
        let size = Size::new(self.members).expect("a simulated cluster has a possible size");
        self.quorum.map_or(size, |quorum| size.broken_for_simulation(quorum))
    }

    /// Partial signatures needed: two thirds, as Obol clusters have by default.
    pub(crate) fn threshold(&self) -> usize {
        (2 * self.members).div_ceil(3)
    }

    /// The slots with a duty. The first two begin while everything breaks, the others after the accidents stopped.
    pub(crate) const DUTY_SLOTS: [u64; 4] = [16, 18, 20, 22];

    /// From here on nothing new breaks (simulated Unix milliseconds).
    pub(crate) const CALM_FROM_MS: u64 = 240_000;

    pub(crate) fn timing() -> SlotTiming {
        SlotTiming::new(0, 12_000, 4).expect("a possible chain")
    }

    /// When members first boot, some time before the first duty.
    pub(crate) const BOOT_MS: u64 = 185_000;

    /// So long before their slot members learn of its duties.
    pub(crate) const TOLD_AHEAD_MS: u64 = 6_000;

    /// When every duty has expired.
    pub(crate) const END_MS: u64 = 370_000;
}

/// A time in which some members cannot reach the others.
#[derive(Clone, Debug)]
pub(crate) struct Partition {
    pub(crate) from_ms: u64,
    pub(crate) until_ms: u64,
    pub(crate) island: BTreeSet<Member>,
}

/// What a crash leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Disk {
    Kept,
    /// The agreement journal is lost. The signer's ledger never is.
    JournalLost,
}

/// A crash that is planned from the start.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PlannedCrash {
    pub(crate) at_ms: u64,
    pub(crate) member: Member,
    pub(crate) disk: Disk,
}

/// Everything that the seed decided in advance.
#[derive(Clone, Debug)]
pub(crate) struct Weather {
    pub(crate) loss: f64,
    pub(crate) duplication: f64,
    pub(crate) max_delay_ms: u64,
    pub(crate) partitions: Vec<Partition>,
    pub(crate) crashes: Vec<PlannedCrash>,
    /// Chance that a member crashes between two outputs.
    pub(crate) crash_between: f64,
    pub(crate) byzantine: BTreeMap<Member, Twist>,
    /// Members whose beacon node follows another chain, all the time.
    pub(crate) split: BTreeSet<Member>,
    /// Members whose clock is known to be wrong, all the time.
    pub(crate) clock_untrusted: BTreeSet<Member>,
    pub(crate) clock_offset_ms: BTreeMap<Member, i64>,
    /// Chance that a beacon node or a signer fails to answer.
    pub(crate) local_failures: f64,
    /// Members whose beacon node is down until the calm.
    pub(crate) beacon_down: BTreeSet<Member>,
    /// Members that learn of a duty late.
    pub(crate) late_schedule: f64,
    pub(crate) heads_differ: f64,
    pub(crate) source_lag: u64,
    /// A validator is moved to a second slot of the same epoch, as a reorganisation of the chain can do.
    pub(crate) moved_validator: bool,
}

impl Weather {
    pub(crate) fn draw(world: &World, rng: &mut ChaCha8Rng) -> Self {
        if world.accidents { Weather::storm(world, rng) } else { Weather::fair(world) }
    }

    fn fair(world: &World) -> Self {
        Weather {
            loss: 0.0,
            duplication: 0.0,
            max_delay_ms: 60,
            partitions: Vec::new(),
            crashes: Vec::new(),
            crash_between: 0.0,
            byzantine: BTreeMap::new(),
            split: BTreeSet::new(),
            clock_untrusted: BTreeSet::new(),
            clock_offset_ms: world.size().all().map(|member| (member, 0)).collect(),
            local_failures: 0.0,
            beacon_down: BTreeSet::new(),
            late_schedule: 0.0,
            heads_differ: 0.3,
            source_lag: 1,
            moved_validator: false,
        }
    }

    fn storm(world: &World, rng: &mut ChaCha8Rng) -> Self {
        let mut members: Vec<Member> = world.size().all().collect();
        members.shuffle(rng);
        // Those who lie or forget, then those who honestly cannot sign: together never more than the cluster can spare.
        let faulty = world.faulty.unwrap_or(world.size().faulty());
        let liars = if world.faulty.is_some() { faulty } else { rng.random_range(0..=faulty) };
        let forgetful = rng.random_range(0..=faulty - liars);
        let spare = (world.members - world.threshold()).saturating_sub(liars);
        let handicapped = rng.random_range(0..=spare);
        let mut rest = members.into_iter();
        let byzantine = rest.by_ref().take(liars).map(|member| (member, Twist::draw(rng))).collect();
        let honest: Vec<Member> = rest.collect();
        let forgetful: BTreeSet<Member> = honest.iter().copied().take(forgetful).collect();
        let mut split = BTreeSet::new();
        let mut clock_untrusted = BTreeSet::new();
        for member in honest.iter().rev().take(handicapped) {
            let one = if rng.random_bool(0.5) { &mut split } else { &mut clock_untrusted };
            one.insert(*member);
        }
        let max_offset: i64 = pick(rng, &[0, 100, 400]);
        let offsets = world.size().all().map(|member| (member, rng.random_range(-max_offset..=max_offset)));
        let clock_offset_ms = offsets.collect();
        let beacons_down = if rng.random_bool(0.2) { rng.random_range(0..=honest.len()) } else { 0 };
        Weather {
            loss: pick(rng, &[0.0, 0.05, 0.2, 0.5]),
            duplication: pick(rng, &[0.0, 0.1, 0.5]),
            max_delay_ms: pick(rng, &[40, 300, 1200, 4000]),
            partitions: draw_partitions(world, rng),
            crashes: draw_crashes(&honest, &forgetful, rng),
            crash_between: pick(rng, &[0.0, 0.0, 0.01, 0.05]),
            byzantine,
            split,
            clock_untrusted,
            clock_offset_ms,
            local_failures: pick(rng, &[0.0, 0.1, 0.4]),
            beacon_down: honest.iter().copied().take(beacons_down).collect(),
            late_schedule: pick(rng, &[0.0, 0.0, 0.3]),
            heads_differ: pick(rng, &[0.0, 0.3, 0.9]),
            source_lag: rng.random_range(1..=3),
            moved_validator: rng.random_bool(0.3),
        }
    }

    pub(crate) fn partitioned(&self, a: Member, b: Member, now_ms: u64) -> bool {
        let parts = |p: &Partition| p.from_ms <= now_ms && now_ms < p.until_ms;
        self.partitions.iter().any(|p| parts(p) && p.island.contains(&a) != p.island.contains(&b))
    }

    pub(crate) fn is_honest(&self, member: Member) -> bool {
        !self.byzantine.contains_key(&member)
    }

    /// What a member's clock shows.
    pub(crate) fn local_time(&self, member: Member, now_ms: u64) -> UnixMillis {
        let offset = self.clock_offset_ms.get(&member).copied().unwrap_or(0);
        UnixMillis(now_ms.saturating_add_signed(offset))
    }

    /// When a member's clock shows this time.
    pub(crate) fn true_time(&self, member: Member, local: UnixMillis) -> u64 {
        let offset = self.clock_offset_ms.get(&member).copied().unwrap_or(0);
        local.0.saturating_add_signed(-offset)
    }

    /// Which validators have the duty of a slot.
    pub(crate) fn validators(&self, slot: Slot) -> Vec<u8> {
        match slot.0 {
            16 | 20 => vec![1, 2],
            18 if self.moved_validator => vec![1, 3],
            _ => vec![3],
        }
    }
}

fn pick<T: Copy>(rng: &mut ChaCha8Rng, choices: &[T]) -> T {
    choices[rng.random_range(0..choices.len())]
}

fn draw_partitions(world: &World, rng: &mut ChaCha8Rng) -> Vec<Partition> {
    let count: usize = pick(rng, &[0, 0, 1, 3]);
    let draw = |_| {
        let from_ms = rng.random_range(World::BOOT_MS..World::CALM_FROM_MS);
        let until_ms = rng.random_range(from_ms..=World::CALM_FROM_MS);
        let island = world.size().all().filter(|_| rng.random_bool(0.5)).collect();
        Partition { from_ms, until_ms, island }
    };
    (0..count).map(draw).collect()
}

fn draw_crashes(honest: &[Member], forgetful: &BTreeSet<Member>, rng: &mut ChaCha8Rng) -> Vec<PlannedCrash> {
    let kept: usize = pick(rng, &[0, 0, 1, 4]);
    let when = |rng: &mut ChaCha8Rng| {
        // Mostly while an agreement is under way.
        let slot = World::DUTY_SLOTS[rng.random_range(0..2)];
        slot * 12_000 + 4_000 + rng.random_range(0..4_000)
    };
    let mut crashes = Vec::new();
    for member in forgetful {
        crashes.push(PlannedCrash { at_ms: when(rng), member: *member, disk: Disk::JournalLost });
    }
    for _ in 0..kept {
        let Some(member) = honest.get(rng.random_range(0..honest.len().max(1))) else { break };
        crashes.push(PlannedCrash { at_ms: when(rng), member: *member, disk: Disk::Kept });
    }
    crashes
}
