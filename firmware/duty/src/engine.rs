//! The engine: its events, its outputs, and who gets which event.

use std::collections::BTreeMap;

use chain::{PublicKeyBytes, SignatureBytes, Slot, SlotTiming, UnixMillis};
use qbft::{Digest, Journal, Member, Message, Size};
use serde::{Deserialize, Serialize};

use crate::work::{Context, Work};
use crate::{
    Aggregate, CombineJob, Duty, Given, Network, Partial, Payload, Record, Refusal, Task, TaskId,
    UnknownView, Value,
};

/// What the engine must know about the cluster and the owner's wishes.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// The chain's clock.
    pub timing: SlotTiming,
    /// How many members there are.
    pub size: Size,
    /// Which of them we are.
    pub me: Member,
    /// How many partial signatures make one of the group.
    pub threshold: usize,
    /// Whether to sign what the others agreed on when our own beacon node has no view.
    pub unknown_view: UnknownView,
    /// How long a decision waits for our own beacon node's view.
    pub view_patience_ms: u64,
}

/// Whether the box's clock can be trusted. Untrusted, nothing is signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// Synchronised and steady.
    Trusted,
    /// Unsynchronised, or it jumped.
    Untrusted,
}

/// Everything that can happen to the engine. All answers may come in any order, late, twice or never.
#[derive(Clone, Debug)]
pub enum Event<S> {
    /// Time passed; due at [`Engine::next_wake`].
    Tick,
    /// These validators have this duty. May be repeated and extended. The bytes are whatever the adapter needs to fetch.
    Schedule {
        /// The duty.
        duty: Duty,
        /// Who has it.
        validators: BTreeMap<PublicKeyBytes, Payload>,
    },
    /// What a duty of a third of the slot votes for is here before that: it need not wait any longer. Whoever says so has the
    /// data at hand that is fetched for it (decision 0360).
    MayBegin {
        /// The duty.
        duty: Duty,
    },
    /// The answer to [`Output::Fetch`].
    Fetched {
        /// The duty.
        duty: Duty,
        /// What to propose, or why there is nothing.
        result: Result<Value, FetchError>,
    },
    /// A peer spoke about an agreement. Seals, members, the digests of `values` and that every justification belongs to
    /// this duty have been verified.
    Agreement {
        /// The duty.
        duty: Duty,
        /// What was said.
        message: Message<S>,
        /// The values it came with.
        values: Vec<Value>,
    },
    /// The answer to [`Output::Sign`].
    Signed {
        /// The duty.
        duty: Duty,
        /// Per message: our partial signature, or why not.
        results: Vec<(TaskId, Result<SignatureBytes, SignError>)>,
    },
    /// A peer's partial signatures. The peer is authenticated and speaks only for itself; the signatures need not have
    /// been verified.
    Partials {
        /// The duty.
        duty: Duty,
        /// Who sent, and signed, them.
        sender: Member,
        /// The signatures.
        set: Vec<Partial>,
    },
    /// The answer to [`Output::Combine`].
    Combined {
        /// The duty.
        duty: Duty,
        /// Per job: a group signature that **verifies**, or the members whose partial signatures do not.
        results: Vec<(TaskId, Result<SignatureBytes, Vec<Member>>)>,
    },
    /// The answer to [`Output::Publish`].
    Published {
        /// The duty.
        duty: Duty,
        /// How it went.
        result: Result<(), PublishError>,
    },
    /// The trust in the clock changed.
    Clock(Clock),
}

/// Why nothing was fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FetchError {
    /// Worth another try.
    Temporary(String),
    /// Not worth another try.
    Permanent(String),
    /// There is nothing to do (no validator is selected).
    NothingToDo,
}

/// Why a message was not signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SignError {
    /// The signer refuses this message, for good.
    Refused(String),
    /// The signer cannot be reached or is not ready.
    Unavailable(String),
    /// This box does not ask its signer for it, for good.
    Withheld(String),
    /// This box does not ask its signer for it yet.
    HeldBack(String),
}

/// Why a result was not published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PublishError {
    /// Worth another try.
    Temporary(String),
    /// Not worth another try.
    Permanent(String),
    /// These were refused and are not worth another try; whatever else was handed over is taken.
    Partly(BTreeMap<TaskId, String>),
}

/// What must survive a restart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved<S> {
    /// What we said in the agreement.
    pub journal: Journal<S>,
    /// The values it names.
    pub values: Vec<Value>,
}

/// What must now be done, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output<S> {
    /// Make this durable, replacing what was saved for the duty, before any later output is performed.
    Persist {
        /// The duty.
        duty: Duty,
        /// What to keep.
        saved: Saved<S>,
    },
    /// What was saved for the duty is not needed any more.
    Forget {
        /// The duty.
        duty: Duty,
    },
    /// Ask the beacon node; answer with [`Event::Fetched`].
    Fetch {
        /// The duty.
        duty: Duty,
        /// For whom: those for whom everything needed is given.
        validators: BTreeMap<PublicKeyBytes, Payload>,
        /// Group signatures of the duties this one needs.
        given: Given,
    },
    /// Seal this, and our own ballots in its justification, and send it to every other member. Losing it is allowed.
    Broadcast {
        /// The duty.
        duty: Duty,
        /// What to say.
        message: Message<S>,
        /// The values it names.
        values: Vec<Value>,
    },
    /// The members agreed. For those who keep agreed data; signing follows by itself.
    Agreed {
        /// The duty.
        duty: Duty,
        /// In which round.
        round: u64,
        /// Whose proposal it was: who led that round.
        leader: Member,
        /// On what.
        value: Value,
    },
    /// Ask the signer; answer with [`Event::Signed`].
    Sign {
        /// The duty.
        duty: Duty,
        /// What to sign.
        tasks: Vec<Task>,
    },
    /// Send our partial signatures, as one message, to every other member, and retry until they have it or the duty ends.
    SendPartials {
        /// The duty.
        duty: Duty,
        /// The signatures.
        set: Vec<Partial>,
    },
    /// Combine partial signatures and verify the result; answer with [`Event::Combined`].
    Combine {
        /// The duty.
        duty: Duty,
        /// What to combine.
        jobs: Vec<CombineJob>,
    },
    /// Give these to the beacon node; answer with [`Event::Published`].
    Publish {
        /// The duty.
        duty: Duty,
        /// What to publish.
        set: Vec<Aggregate>,
    },
    /// Group signatures that other duties need. No answer.
    Provide {
        /// The duty.
        duty: Duty,
        /// The signatures.
        set: Vec<Aggregate>,
    },
    /// The duty is over. Said exactly once per scheduled duty.
    Outcome(Record),
}

/// Every duty of one cluster.
pub struct Engine<N: Network> {
    network: N,
    settings: Settings,
    pub(crate) works: BTreeMap<Duty, Work<N::Seal>>,
    restored: BTreeMap<Duty, Saved<N::Seal>>,
    clock: Clock,
}

/// Which duties an event may have moved.
enum Moved {
    Nothing,
    Slot(Slot),
    Everything,
}

impl<N: Network> Engine<N> {
    /// An engine with what was saved before a restart. The clock is not trusted until somebody says so.
    pub fn new(settings: Settings, network: N, restored: BTreeMap<Duty, Saved<N::Seal>>) -> Self {
        Engine { network, settings, works: BTreeMap::new(), restored, clock: Clock::Untrusted }
    }

    /// Takes one event at a time; appends what must now be done to `out`, in order.
    pub fn step(
        &mut self,
        now: UnixMillis,
        event: Event<N::Seal>,
        out: &mut Vec<Output<N::Seal>>,
    ) -> Result<(), Refusal> {
        let moved = match &event {
            Event::Tick => Moved::Nothing,
            Event::Clock(_) => Moved::Everything,
            Event::Schedule { duty, .. }
            | Event::MayBegin { duty }
            | Event::Fetched { duty, .. }
            | Event::Agreement { duty, .. }
            | Event::Signed { duty, .. }
            | Event::Partials { duty, .. }
            | Event::Combined { duty, .. }
            | Event::Published { duty, .. } => Moved::Slot(duty.slot),
        };
        let result = self.take(now, event, out);
        self.pursue(now, &moved, out);
        self.forget_stale(now, out);
        result
    }

    /// When [`Event::Tick`] is due next.
    pub fn next_wake(&self) -> Option<UnixMillis> {
        let works = self.works.values().filter_map(|work| work.next_wake(&self.settings.timing, self.clock));
        let stale = self.restored.keys().filter_map(|duty| duty.deadline(&self.settings.timing));
        works.chain(stale).min()
    }

    /// The network adapter.
    pub fn network(&self) -> &N {
        &self.network
    }

    /// Replaces the network adapter, when more is known about the same network than before.
    pub fn set_network(&mut self, network: N) {
        self.network = network;
    }

    /// The settings.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Scheduled duties that are not over, in order.
    pub fn pending(&self) -> impl Iterator<Item = Duty> {
        self.works.values().filter(|work| work.is_pending()).map(|work| work.duty)
    }

    /// How many validators have a duty here.
    pub fn scheduled_for(&self, duty: Duty) -> usize {
        self.works.get(&duty).map_or(0, |work| work.validators.len())
    }

    /// How many duties are remembered, scheduled or not.
    pub fn remembered(&self) -> usize {
        self.works.len()
    }

    /// The digest the members agreed on for a duty that is still remembered.
    pub fn decision(&self, duty: Duty) -> Option<Digest> {
        self.works.get(&duty).and_then(|work| work.decided.as_ref()).map(|decided| decided.value)
    }

    fn take(
        &mut self,
        now: UnixMillis,
        event: Event<N::Seal>,
        out: &mut Vec<Output<N::Seal>>,
    ) -> Result<(), Refusal> {
        let me = self.settings.me;
        let context = Context { now, clock: self.clock, settings: &self.settings, network: &self.network };
        match event {
            Event::Tick => Ok(()),
            Event::Clock(clock) => {
                self.clock = clock;
                Ok(())
            }
            Event::Schedule { duty, validators } => self.schedule(now, duty, validators, out),
            Event::MayBegin { duty } => known(&mut self.works, duty)?.may_begin(&context),
            Event::Fetched { duty, result } => {
                known(&mut self.works, duty)?.on_fetched(result, &context, out)
            }
            Event::Agreement { duty, message, values } => {
                let author = message.vote.ballot.author;
                self.admit(now, duty, author)?;
                let room = self.room_for_values(duty, author);
                let context =
                    Context { now, clock: self.clock, settings: &self.settings, network: &self.network };
                known(&mut self.works, duty)?.on_message(message, &values, room, &context, out)
            }
            Event::Signed { duty, results } => known(&mut self.works, duty)?.on_signed(results, me, now, out),
            Event::Partials { duty, sender, set } => {
                self.admit(now, duty, sender)?;
                self.admit_partials(duty, sender, &set)?;
                known(&mut self.works, duty)?.on_partials(sender, set)
            }
            Event::Combined { duty, results } => known(&mut self.works, duty)?.on_combined(results),
            Event::Published { duty, result } => known(&mut self.works, duty)?.on_published(result, &context),
        }
    }

    /// Lets every duty that may have moved, or whose time has come, take its next steps.
    fn pursue(&mut self, now: UnixMillis, moved: &Moved, out: &mut Vec<Output<N::Seal>>) {
        let timing = self.settings.timing;
        let moving = |work: &Work<N::Seal>| match moved {
            Moved::Nothing => false,
            Moved::Slot(slot) => work.duty.slot == *slot,
            Moved::Everything => true,
        };
        let due = |work: &Work<N::Seal>| work.next_wake(&timing, self.clock).is_some_and(|at| at <= now);
        let mut duties: Vec<Duty> =
            self.works.values().filter(|work| moving(work) || due(work)).map(|work| work.duty).collect();
        // Those that others need go first, so that what they finish now is used now.
        duties.sort_by_key(|duty| duty.kind.row().needs.len());
        for duty in duties {
            self.give_what_is_needed(duty);
            let context =
                Context { now, clock: self.clock, settings: &self.settings, network: &self.network };
            let Some(work) = self.works.get_mut(&duty) else { continue };
            work.pursue(&context, out);
            if work.is_over(now, &timing) {
                work.close(&context, out);
                self.works.remove(&duty);
            }
        }
    }

    /// Hands a duty the group signatures that it needs, as far as they exist by now.
    fn give_what_is_needed(&mut self, duty: Duty) {
        let needs = duty.kind.row().needs;
        let Some(work) = self.works.get(&duty).filter(|work| !needs.is_empty() && work.is_pending()) else {
            return;
        };
        let sources = needs.iter().filter_map(|kind| self.works.get(&Duty::new(duty.slot, *kind)));
        let exist: usize = sources.clone().map(|source| source.results.combined().len()).sum();
        let complete = sources.clone().filter(|source| source.is_done()).count() == needs.len();
        if exist == work.given.len() && complete == work.given_all {
            return;
        }
        let one = |source: &Work<N::Seal>, aggregate: &Aggregate| {
            ((source.duty.kind, aggregate.id), aggregate.clone())
        };
        let given: Given = sources
            .flat_map(|source| {
                source.results.combined().values().map(move |aggregate| one(source, aggregate))
            })
            .collect();
        if let Some(work) = self.works.get_mut(&duty) {
            work.given = given;
            work.given_all = complete;
        }
    }

    /// Drops what was saved for duties that expired before they were scheduled again.
    fn forget_stale(&mut self, now: UnixMillis, out: &mut Vec<Output<N::Seal>>) {
        let timing = &self.settings.timing;
        self.restored.retain(|duty, _| {
            let keep = duty.deadline(timing).is_none_or(|deadline| deadline > now);
            if !keep {
                out.push(Output::Forget { duty: *duty });
            }
            keep
        });
    }

    pub(crate) fn take_restored(&mut self, duty: Duty) -> Option<Saved<N::Seal>> {
        self.restored.remove(&duty)
    }

    pub(crate) fn clock(&self) -> Clock {
        self.clock
    }
}

fn known<S>(works: &mut BTreeMap<Duty, Work<S>>, duty: Duty) -> Result<&mut Work<S>, Refusal> {
    works.get_mut(&duty).ok_or(Refusal::Unknown(duty))
}
