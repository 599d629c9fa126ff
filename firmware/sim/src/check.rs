//! What must never happen, looked at after every step; and what must have happened at the end.
//!
//! Written without a look at the code under test: slashing conditions, agreement and equivocation are spelled out here
//! once more.

use std::collections::{BTreeMap, BTreeSet};

use chain::PublicKeyBytes;
use duty::{Digest, Duty, DutyKind, Outcome, Reason, Record, Who};
use qbft::{Kind, Member, Message};

use crate::messages;
use crate::values::Seal;
use crate::world::{Weather, World};

/// What honest members did so far.
#[derive(Default)]
pub(crate) struct Checks {
    threshold: usize,
    liars: usize,
    decided: BTreeMap<Duty, (Member, Digest)>,
    /// Duties decided on a value that honest members refuse to sign: the leader lied, or follows another chain.
    unsound: BTreeSet<Duty>,
    said: BTreeMap<(Member, Duty, u64, Kind), Digest>,
    /// Per validator: who signed which message.
    signed: BTreeMap<PublicKeyBytes, BTreeMap<messages::Message, BTreeSet<Member>>>,
    published: BTreeMap<PublicKeyBytes, BTreeSet<messages::Message>>,
    outcomes: BTreeMap<(Member, u32, Duty), Record>,
    accepted: BTreeSet<(Member, u32, Duty)>,
    pub(crate) violation: Option<String>,
}

impl Checks {
    pub(crate) fn new(world: &World, weather: &Weather) -> Self {
        Checks { threshold: world.threshold(), liars: weather.byzantine.len(), ..Checks::default() }
    }

    pub(crate) fn violated(&mut self, what: String) {
        self.violation.get_or_insert(what);
    }

    /// Agreement: all honest members decide alike.
    pub(crate) fn on_decided(&mut self, member: Member, duty: Duty, value: Digest, sound: bool) {
        if !sound {
            self.unsound.insert(duty);
        }
        let (first, before) = *self.decided.entry(duty).or_insert((member, value));
        if before != value {
            self.violated(format!("{duty}: member {member} decided {value:?}, member {first} {before:?}"));
        }
    }

    /// Honesty: nobody who kept its journal says two things in one round.
    pub(crate) fn on_said(&mut self, member: Member, duty: Duty, message: &Message<Seal>) {
        let ballot = message.vote.ballot;
        let speaks = matches!(ballot.kind, Kind::PrePrepare | Kind::Prepare | Kind::Commit | Kind::Decided);
        if !speaks {
            return;
        }
        let before = *self.said.entry((member, duty, ballot.round, ballot.kind)).or_insert(ballot.value);
        if before != ballot.value {
            self.violated(format!(
                "{duty}: member {member} said {:?} twice, {before:?} and {:?}",
                ballot, ballot.value
            ));
        }
    }

    /// A member lost its journal and may contradict itself.
    pub(crate) fn on_journal_lost(&mut self, member: Member) {
        self.said.retain(|(author, ..), _| *author != member);
    }

    /// No two conflicting signatures of one share, and no two conflicting group signatures within reach.
    pub(crate) fn on_signed(
        &mut self,
        member: Member,
        validator: PublicKeyBytes,
        message: messages::Message,
    ) {
        let signed = self.signed.entry(validator).or_default();
        let other = signed.iter().find(|(other, by)| by.contains(&member) && other.conflicts_with(&message));
        let conflict = other.map(|(other, _)| format!("member {member} signed {other:?} and {message:?}"));
        signed.entry(message).or_default().insert(member);
        let in_reach: Vec<&messages::Message> = signed
            .iter()
            .filter(|(_, by)| by.len() + self.liars >= self.threshold)
            .map(|(message, _)| message)
            .collect();
        let slashable = in_reach.iter().enumerate().find_map(|(i, one)| {
            let other = in_reach[i + 1..].iter().find(|other| one.conflicts_with(other))?;
            Some(format!("slashable group signatures within reach: {one:?} and {other:?}"))
        });
        conflict.into_iter().chain(slashable).for_each(|what| self.violated(what));
    }

    /// No two conflicting group signatures in public.
    pub(crate) fn on_published(&mut self, validator: PublicKeyBytes, message: messages::Message) {
        let published = self.published.entry(validator).or_default();
        let other = published.iter().find(|other| other.conflicts_with(&message)).copied();
        published.insert(message);
        if let Some(other) = other {
            self.violated(format!("slashable messages published: {other:?} and {message:?}"));
        }
    }

    pub(crate) fn on_accepted(&mut self, member: Member, life: u32, duty: Duty) {
        self.accepted.insert((member, life, duty));
    }

    /// One outcome per duty.
    pub(crate) fn on_outcome(&mut self, member: Member, life: u32, record: &Record) {
        let key = (member, life, record.duty);
        if !self.accepted.contains(&key) {
            self.violated(format!("{}: member {member} reports an unscheduled duty", record.duty));
        }
        if self.outcomes.insert(key, record.clone()).is_some() {
            self.violated(format!("{}: member {member} reports two outcomes", record.duty));
        }
    }

    pub(crate) fn records(&self) -> impl Iterator<Item = (Member, &Record)> {
        self.outcomes.iter().map(|((member, ..), record)| (*member, record))
    }

    /// At the end: every duty of every last life has its outcome, and what began in the calm was done in time.
    pub(crate) fn at_end(&mut self, weather: &Weather, last_life: &BTreeMap<Member, u32>) {
        let missing: Vec<String> = self
            .accepted
            .iter()
            .filter(|(member, life, _)| last_life.get(member) == Some(life))
            .filter(|key| !self.outcomes.contains_key(key))
            .map(|(member, _, duty)| format!("{duty}: member {member} reports no outcome"))
            .collect();
        let late: Vec<String> = self
            .outcomes
            .iter()
            .filter(|((member, life, _), _)| {
                last_life.get(member) == Some(life) && weather.is_honest(*member)
            })
            .filter_map(|((member, _, _), record)| self.not_live(weather, *member, record))
            .collect();
        missing.into_iter().chain(late).for_each(|what| self.violated(what));
    }

    /// Whether somebody's signer refused its part in a duty.
    fn refused_by_signers(&self, duty: Duty) -> bool {
        let refused = |record: &Record| matches!(record.withheld, Some(Reason::SignerRefused(_)));
        self.outcomes.values().any(|record| record.duty == duty && refused(record))
    }

    /// What is wrong with an outcome of a duty that nothing should have hindered.
    fn not_live(&self, weather: &Weather, member: Member, record: &Record) -> Option<String> {
        // What began in the storm may stay undone: a round that saw its proposal lasts as long again as all rounds before it
        // (`eager_dlinear`), which can be longer than the duty.
        if record.duty.slot.0 * 12_000 < World::CALM_FROM_MS {
            return None;
        }
        // Short deadlines leave no time for rounds led by liars, and members on another chain vote for another head.
        let fair = weather.byzantine.is_empty() && weather.split.is_empty();
        // What they need is signed before their slot: it must have begun in the calm too.
        let prepared = record.duty.slot.0 * 12_000 - World::TOLD_AHEAD_MS >= World::CALM_FROM_MS;
        if record.duty.kind != DutyKind::Attester && !(fair && prepared) {
            return None;
        }
        let unsound = self.unsound.contains(&record.duty);
        match &record.outcome {
            Outcome::Done => {
                let into_slot = record.published_ms_into_slot?;
                let late = into_slot > MAX_DONE_MS;
                late.then(|| format!("{}: member {member} done only after {into_slot} ms", record.duty))
            }
            Outcome::Missed(_) if unsound => None,
            // What was signed in the storm, without a view of our own, may forbid some members to sign what is right now.
            Outcome::Missed(_) if !self.unsound.is_empty() && self.refused_by_signers(record.duty) => None,
            Outcome::NotNeeded if record.duty.kind.row().who == Who::Selected => None,
            Outcome::NotNeeded | Outcome::Missed(_) => {
                Some(format!("{}: member {member} should have done it: {record:?}", record.duty))
            }
        }
    }
}

/// A duty that begins in the calm is done by then: a third of a slot to begin, and rounds led by liars to sit out.
const MAX_DONE_MS: u64 = 30_000;
