//! `--slots`: some whole epochs in which everything that the chain asks of the cluster is counted.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use chain::{PublicKeyBytes, Slot, ValidatorIndex};
use hw_tests::devnet::Devnet;
use hw_tests::devnet::builder::BuilderSeen;
use hw_tests::devnet::duties::{ByMember, Counts, REGISTRATION, Register, Source};
use hw_tests::devnet::witness::{Accepted, Handed, Seen};
use ipc::node::{DutyKind, DutyOutcome};
use ipc::web::BoxStatus;
use threshold::SecretKey;

use super::check::summary;
use super::members::Cluster;
use super::pause;
use super::records::Records;
use super::usage::Usage;
use crate::say;

/// How many epochs everybody may take to be at work; then the counting begins, whoever is missing.
const READY_EPOCHS: u64 = 5;
/// A member is killed every third epoch, so that it has signed again before the next one goes.
const RESTART_EVERY_EPOCHS: u64 = 3;
/// How long a killed member stays away.
const AWAY_SLOTS: u64 = 2;
/// How many epochs more are counted for a proposal that must be seen, and that chance has not asked for yet.
const MORE_EPOCHS: u64 = 4;
/// How often the members' own records are read, in slots' parts.
const RECORDS_PER_SLOT: u32 = 2;

/// What was counted, and how.
pub(super) struct Outcome {
    pub(super) counts: Counts,
    /// What the block builder saw, when the chain has one.
    pub(super) builder: Option<BuilderSeen>,
    pub(super) records: Records,
    pub(super) usage: Usage,
    pub(super) restarts: Vec<Restart>,
    pub(super) first_slot: Slot,
    pub(super) slots: u64,
    /// Who was not at work when counting began, and why.
    pub(super) not_ready: Vec<String>,
    /// Seconds from genesis to the end of the count.
    pub(super) chain_seconds: u64,
}

/// One member killed and started again.
#[derive(Debug, Clone, serde::Serialize)]
pub(super) struct Restart {
    pub(super) member: u8,
    pub(super) kind: &'static str,
    pub(super) killed_at_slot: u64,
    pub(super) started_at_slot: u64,
    /// The first later slot in which another member saw its partial signature.
    pub(super) signed_again_at_slot: Option<u64>,
}

/// What is done in the slots, beside counting.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wish {
    /// How many, rounded up to whole epochs.
    pub(super) slots: u64,
    /// Whether members are killed in turn.
    pub(super) restart_members: bool,
    /// Whether to go on for some epochs until the chain has asked for a proposal of every kind.
    pub(super) until_it_proposes: bool,
}

/// Runs some slots, and counts.
pub(super) fn run(
    chain: &mut Devnet,
    cluster: &mut Cluster,
    keys: BTreeMap<ValidatorIndex, SecretKey>,
    wish: Wish,
) -> anyhow::Result<Outcome> {
    let per_epoch = chain.config().slots_per_epoch;
    let not_ready = wait_until_ready(chain, cluster)?;
    // Not the first epoch, in which clients still find each other, and only whole ones.
    let first = Slot((chain.clock_slot()?.0 / per_epoch + 1).max(1) * per_epoch);
    let slots = wish.slots.div_ceil(per_epoch) * per_epoch;
    let mut end = Slot(first.0 + slots);
    let longest = Slot(end.0 + if wish.until_it_proposes { MORE_EPOCHS * per_epoch } else { 0 });
    say::begin(&format!("counting the duties of {slots} slots, from slot {first} to slot {}", end.0 - 1));
    let public_keys: BTreeMap<ValidatorIndex, PublicKeyBytes> =
        keys.iter().map(|(index, key)| (*index, key.public_key().to_bytes())).collect();
    let register = Register::new(chain.api(), per_epoch, first..end, keys)?;
    let mut register = register.with_builder(chain.config().builder);
    let mut records = Records::new(first..end);
    let mut usage = Usage::default();
    let mut restarts = Restarts::new(cluster, wish.restart_members, first, end, per_epoch);
    let mut told_epoch = 0;
    let slot_time = Duration::from_secs(chain.config().slot_seconds);
    let mut read_at = Instant::now();
    loop {
        pause(chain, cluster)?;
        let now = chain.clock_slot()?;
        // A node that is late gets asked again; what it must still know it knows for an epoch.
        if let Err(error) = register.look(now) {
            say::note(&format!("asking again: {error}"));
        }
        if now >= end && end < longest && !register.asked_to_propose() {
            say::note("the chain has not asked for a proposal of every kind yet: one more epoch");
            end = Slot(end.0 + per_epoch);
            register.extend(per_epoch);
            records.extend(end);
        }
        if read_at.elapsed() > slot_time / RECORDS_PER_SLOT {
            read_at = Instant::now();
            records.read(cluster, now);
            if now >= first && now < end {
                usage.read(cluster);
            }
        }
        restarts.step(cluster, now)?;
        let epoch = now.0 / per_epoch;
        if epoch > told_epoch {
            told_epoch = epoch;
            tell_progress(now, first, end, chain, &records);
        }
        // Votes may come until the end of the next epoch; once all are there nobody need wait.
        let last_chance = end.0 + per_epoch + 1;
        if now.0 > last_chance || (now.0 > end.0 + 2 && register.all_votes_in().unwrap_or(false)) {
            break;
        }
    }
    restarts.finish(cluster)?;
    records.read(cluster, chain.clock_slot()?);
    let mut counts = register.count(&cluster.handed_in()).context("counting what is on the chain")?;
    let builder = chain.builder().map(|builder| builder.seen());
    if let Some(builder) = &builder {
        let held = public_keys
            .iter()
            .map(|(index, key)| (registration(*index), builder.registrations.contains_key(key)));
        counts.note(REGISTRATION, Source::Builder, &registered(cluster, &public_keys), held);
    }
    let restarts = restarts.done.into_iter().map(|restart| Restart {
        signed_again_at_slot: records.first_partial_after(restart.member, restart.started_at_slot),
        ..restart
    });
    Ok(Outcome {
        counts,
        builder,
        restarts: restarts.collect(),
        records,
        usage,
        first_slot: first,
        slots: end.0 - first.0,
        not_ready,
        chain_seconds: chain.clock_slot()?.0 * chain.config().slot_seconds,
    })
}

fn registration(validator: ValidatorIndex) -> Accepted {
    Accepted { slot: Slot(0), validator, what: Handed::Registration }
}

/// The registrations that the beacon node took from each member.
fn registered(cluster: &Cluster, keys: &BTreeMap<ValidatorIndex, PublicKeyBytes>) -> ByMember {
    let seats = cluster.seats.iter().filter_map(|seat| Some((seat.number, seat.witness.as_ref()?.seen())));
    let of = |(number, seen): (u8, Seen)| {
        let ours = keys.iter().filter(|(_, key)| seen.registered.contains(*key));
        (number, ours.map(|(index, _)| registration(*index)).collect())
    };
    seats.map(of).collect()
}

/// A share that came after genesis begins to vote two epochs later (decision 0127); other duties tell nothing about that.
fn has_attested(status: &BoxStatus) -> bool {
    let mut duties = status.node.iter().flat_map(|node| &node.duties);
    duties.any(|duty| duty.kind == DutyKind::Attester && duty.outcome == DutyOutcome::Done)
}

/// Waits until every Hearth member has attested and every Charon says that it is ready.
fn wait_until_ready(chain: &mut Devnet, cluster: &mut Cluster) -> anyhow::Result<Vec<String>> {
    say::begin("waiting until every member is at work");
    let deadline = chain.clock_slot()?.0 + READY_EPOCHS * chain.config().slots_per_epoch;
    let mut ready = vec![false; cluster.seats.len()];
    loop {
        pause(chain, cluster)?;
        let mut waiting = Vec::new();
        for (seat, ready) in cluster.seats.iter().zip(&mut ready) {
            if *ready {
                continue;
            }
            let why = match (seat.charon(), seat.status()) {
                (Some(charon), _) => charon.readiness().err(),
                (None, Some(status)) if has_attested(&status) => None,
                (None, Some(status)) => Some(summary(&status)),
                (None, None) => Some("its page does not answer".to_owned()),
            };
            match why {
                None => {
                    *ready = true;
                    say::good(&format!("{} is at work", seat.name));
                }
                Some(why) => waiting.push(format!("{}: {why}", seat.name)),
            }
        }
        if waiting.is_empty() {
            return Ok(waiting);
        }
        if chain.clock_slot()?.0 > deadline {
            for who in &waiting {
                say::note(&format!("not at work after {READY_EPOCHS} epochs, counting begins anyway: {who}"));
            }
            return Ok(waiting);
        }
    }
}

fn tell_progress(now: Slot, first: Slot, end: Slot, chain: &Devnet, records: &Records) {
    let finalized = chain.api().finalized().map_or_else(|_| "?".to_owned(), |epoch| epoch.0.to_string());
    let head = chain.api().head().map_or(0, |head| head.0);
    let place = if now < first {
        "counting has not begun".to_owned()
    } else if now < end {
        format!("{} of {} slots", now.0 - first.0, end.0 - first.0)
    } else {
        "waiting for the last votes".to_owned()
    };
    say::detail(&format!(
        "slot {now}: {place}; head {head}, finalized epoch {finalized}; {}",
        records.in_short()
    ));
}

/// Kills members in turn and starts them again.
struct Restarts {
    /// Seats, in the order in which they go.
    queue: Vec<usize>,
    turn: usize,
    next_at: Slot,
    last_at: Slot,
    every: u64,
    away: Option<(usize, Slot)>,
    done: Vec<Restart>,
}

impl Restarts {
    fn new(cluster: &Cluster, wanted: bool, first: Slot, end: Slot, per_epoch: u64) -> Self {
        let can = |charon: bool| {
            let seats = cluster.seats.iter().enumerate();
            let fitting =
                seats.filter(move |(_, seat)| seat.can_restart() && seat.charon().is_some() == charon);
            fitting.map(|(position, _)| position).collect::<Vec<_>>()
        };
        let (hearth, charon) = (can(false), can(true));
        // In turn, so that both sides see the other one go; who has fewer members goes more often.
        let rounds = if wanted { hearth.len().max(charon.len()) } else { 0 };
        let pick = |side: &[usize], round: usize| side.get(round % side.len().max(1)).copied();
        let queue = (0..rounds).flat_map(|round| [pick(&hearth, round), pick(&charon, round)]).flatten();
        Self {
            queue: queue.collect(),
            turn: 0,
            next_at: Slot(first.0 + per_epoch + per_epoch / 2),
            // Whoever comes back needs time to sign again before the count ends.
            last_at: Slot(end.0.saturating_sub(per_epoch)),
            every: RESTART_EVERY_EPOCHS * per_epoch,
            away: None,
            done: Vec::new(),
        }
    }

    fn step(&mut self, cluster: &mut Cluster, now: Slot) -> anyhow::Result<()> {
        if let Some((position, since)) = self.away {
            if now.0 >= since.0 + AWAY_SLOTS {
                self.bring_back(cluster, position, since, now)?;
            }
        } else if !self.queue.is_empty() && now >= self.next_at && now < self.last_at {
            let position = self.queue[self.turn % self.queue.len()];
            let seat = &mut cluster.seats[position];
            seat.kill().with_context(|| format!("killing {}", seat.name))?;
            say::note(&format!("slot {now}: {} killed, back in {AWAY_SLOTS} slots", seat.name));
            self.away = Some((position, now));
            self.turn += 1;
            self.next_at = Slot(now.0 + self.every);
        }
        Ok(())
    }

    fn bring_back(
        &mut self,
        cluster: &mut Cluster,
        position: usize,
        since: Slot,
        now: Slot,
    ) -> anyhow::Result<()> {
        let seat = &mut cluster.seats[position];
        seat.power_on().with_context(|| format!("starting {} again", seat.name))?;
        say::good(&format!("slot {now}: {} started again", seat.name));
        self.done.push(Restart {
            member: seat.number,
            kind: seat.occupant.word(),
            killed_at_slot: since.0,
            started_at_slot: now.0,
            signed_again_at_slot: None,
        });
        self.away = None;
        Ok(())
    }

    fn finish(&mut self, cluster: &mut Cluster) -> anyhow::Result<()> {
        if let Some((position, since)) = self.away {
            self.bring_back(cluster, position, since, since)?;
        }
        ensure!(self.away.is_none(), "a member stayed away");
        Ok(())
    }
}
