//! Everything about one duty, and the order in which it moves.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use chain::{PublicKeyBytes, SlotTiming, UnixMillis};
use qbft::{Digest, Instance, Journal, Member, Message};

use crate::collect::Partials;
use crate::engine::Clock;
use crate::guard::Guard;
use crate::publish::Results;
use crate::retry::Asking;
use crate::sign::Signing;
use crate::values::{Values, max_value_bytes};
use crate::{
    Agreement, Duty, FetchError, Given, Join, Network, Outcome, Output, Payload, Reason, Record, Refusal,
    Row, Saved, Settings, Task, TaskId, Value, Who,
};

/// What a duty sees of the world while it moves.
pub(crate) struct Context<'a, N> {
    pub(crate) now: UnixMillis,
    pub(crate) clock: Clock,
    pub(crate) settings: &'a Settings,
    pub(crate) network: &'a N,
}

/// What was agreed on.
pub(crate) struct Decided {
    pub(crate) round: u64,
    pub(crate) leader: Member,
    pub(crate) value: Digest,
}

/// One duty. The steps (fetch, agree, judge, sign, collect, publish) live in files of their own; each looks at the state
/// and does what has become possible, so no order of events can leave one out.
pub(crate) struct Work<S> {
    pub(crate) duty: Duty,
    /// Empty while only peers have spoken of it.
    pub(crate) validators: BTreeMap<PublicKeyBytes, Payload>,
    pub(crate) introduced_by: Option<Member>,
    pub(crate) triggered: bool,
    /// It need not wait for its share of the slot.
    pub(crate) may_begin: bool,
    pub(crate) values: Values,

    pub(crate) fetch: Asking,
    pub(crate) fetch_error: Option<String>,
    /// The first value we fetched: what we propose.
    pub(crate) own: Option<Digest>,
    /// The latest view of our own beacon node.
    pub(crate) own_view: Option<Vec<Task>>,

    pub(crate) waiting: VecDeque<Message<S>>,
    pub(crate) restored: Option<Journal<S>>,
    pub(crate) saved: bool,
    pub(crate) agreement: Option<Instance<S>>,
    pub(crate) round_timer: Option<(u64, UnixMillis)>,
    pub(crate) decided: Option<Decided>,

    /// What the scheduled validators have to sign, once known.
    pub(crate) tasks: Option<BTreeMap<TaskId, Task>>,
    pub(crate) unusable: Option<String>,
    pub(crate) guard: Guard,
    pub(crate) signing: Signing,
    pub(crate) partials: Partials,
    pub(crate) results: Results,
    pub(crate) outcome: Option<Outcome>,
    /// What the duties that this one needs have given so far.
    pub(crate) given: Given,
    /// Whether they have given all they can.
    pub(crate) given_all: bool,
    /// For how many validators something was fetched.
    pub(crate) fetched_for: usize,
    /// Nothing is waited for any more that this duty needs.
    pub(crate) patience_over: bool,
    /// How much was known when the value that counts was last read.
    pub(crate) read_with: Option<(usize, usize)>,
}

impl<S> Work<S> {
    pub(crate) fn new(duty: Duty, introduced_by: Option<Member>) -> Self {
        Work {
            duty,
            validators: BTreeMap::new(),
            introduced_by,
            triggered: false,
            may_begin: false,
            values: Values::default(),
            fetch: Asking::Idle,
            fetch_error: None,
            own: None,
            own_view: None,
            waiting: VecDeque::new(),
            restored: None,
            saved: false,
            agreement: None,
            round_timer: None,
            decided: None,
            tasks: None,
            unusable: None,
            guard: Guard::default(),
            signing: Signing::default(),
            partials: Partials::default(),
            results: Results::default(),
            outcome: None,
            given: Given::new(),
            given_all: false,
            fetched_for: 0,
            patience_over: false,
            read_with: None,
        }
    }

    pub(crate) fn row(&self) -> &'static Row {
        self.duty.kind.row()
    }

    pub(crate) fn is_scheduled(&self) -> bool {
        !self.validators.is_empty()
    }

    pub(crate) fn is_pending(&self) -> bool {
        self.is_scheduled() && self.outcome.is_none()
    }

    pub(crate) fn is_done(&self) -> bool {
        self.outcome == Some(Outcome::Done)
    }

    pub(crate) fn is_over(&self, now: UnixMillis, timing: &SlotTiming) -> bool {
        self.duty.deadline(timing).is_some_and(|deadline| deadline <= now)
    }

    pub(crate) fn schedule(&mut self, validators: BTreeMap<PublicKeyBytes, Payload>) {
        for (validator, definition) in validators {
            self.validators.entry(validator).or_insert(definition);
        }
    }

    pub(crate) fn restore(&mut self, saved: Saved<S>) {
        self.saved = true;
        saved.values.into_iter().for_each(|value| self.values.add_own(value));
        self.restored = Some(saved.journal);
    }

    /// When this duty wants to be pursued again.
    pub(crate) fn next_wake(&self, timing: &SlotTiming, clock: Clock) -> Option<UnixMillis> {
        let trigger =
            (self.is_scheduled() && !self.triggered).then(|| self.duty.triggers_at(timing)).flatten();
        let waits = self.triggered && self.fetch.is_idle() && !self.given_all && !self.given.is_empty();
        let patience = Some(self.patience_ends(timing)).filter(|_| waits && !self.patience_over);
        [
            self.duty.deadline(timing),
            trigger,
            patience,
            self.fetch.wake(),
            self.round_timer.map(|(_, at)| at),
            self.guard.wake(),
            // Untrusted, nothing is signed: the clock's recovery is what to wait for.
            self.signing.wake().filter(|_| clock == Clock::Trusted),
            self.results.wake(),
        ]
        .into_iter()
        .flatten()
        .min()
    }
}

impl<S: Clone + PartialEq> Work<S> {
    /// The block to vote for is here. Rounds still end when they would have: members that begin at the third take part in
    /// them.
    pub(crate) fn may_begin<N>(&mut self, context: &Context<'_, N>) -> Result<(), Refusal> {
        let has_begun = context.settings.timing.start_of(self.duty.slot) <= context.now;
        if !self.row().early || !has_begun {
            return Err(Refusal::NotAsked);
        }
        self.may_begin = true;
        Ok(())
    }

    /// Takes every step that has become possible.
    pub(crate) fn pursue<N: Network<Seal = S>>(
        &mut self,
        context: &Context<'_, N>,
        out: &mut Vec<Output<S>>,
    ) {
        if !self.is_scheduled() || self.is_over(context.now, &context.settings.timing) {
            return;
        }
        let timing = &context.settings.timing;
        // One that may begin early does so in its slot, also when the clock is set back.
        let begins = match self.may_begin {
            true => Some(timing.start_of(self.duty.slot)),
            false => self.duty.triggers_at(timing),
        };
        if begins.is_some_and(|at| at > context.now) {
            return;
        }
        self.triggered = true;
        self.ask_for_data(context, out);
        self.start_agreement_if_due(context, out);
        self.run_round_timer(context, out);
        self.read_what_counts(context);
        self.judge(context);
        self.ask_signer(context, out);
        self.combine(context, out);
        self.publish(context, out);
        self.conclude(context, out);
    }

    fn ask_for_data<N>(&mut self, context: &Context<'_, N>, out: &mut Vec<Output<S>>) {
        if self.says_it_all() {
            return;
        }
        if !self.fetch.is_idle() && !self.fetch.is_due(context.now) {
            return;
        }
        let ready = self.ready();
        self.patience_over |= self.patience_ends(&context.settings.timing) <= context.now;
        let first =
            self.fetch.is_idle() && ready.len() > self.fetched_for && (self.given_all || self.patience_over);
        if !ready.is_empty() && (first || self.fetch.is_due(context.now)) {
            self.fetch.ask();
            self.fetched_for = ready.len();
            out.push(Output::Fetch { duty: self.duty, validators: ready, given: self.given.clone() });
        }
    }

    pub(crate) fn on_fetched<N: Network<Seal = S>>(
        &mut self,
        result: Result<Value, FetchError>,
        context: &Context<'_, N>,
        out: &mut Vec<Output<S>>,
    ) -> Result<(), Refusal> {
        if !self.fetch.is_waiting() {
            return Err(Refusal::NotAsked);
        }
        let value = match result {
            // Nobody would listen to it, and the journal could not hold it.
            Ok(value) if self.is_agreed_on() && value.bytes.len() > max_value_bytes(self.duty.kind) => {
                let text = format!("{} bytes are more than members agree on", value.bytes.len());
                self.fetch_failed(FetchError::Temporary(text), context, out);
                return Ok(());
            }
            Ok(value) => value,
            Err(error) => {
                self.fetch_failed(error, context, out);
                return Ok(());
            }
        };
        match context.network.read(self.duty, &value.bytes, &self.known()) {
            Ok(tasks) => {
                self.fetch.answered();
                self.own_view = Some(tasks);
                self.values.add_own(value.clone());
                if self.own.is_none() {
                    self.own = Some(value.digest);
                    self.propose(value.digest, context, out);
                }
            }
            Err(unreadable) => {
                self.fetch_failed(FetchError::Temporary(unreadable.to_string()), context, out);
            }
        }
        Ok(())
    }

    fn fetch_failed<N>(&mut self, error: FetchError, context: &Context<'_, N>, out: &mut Vec<Output<S>>) {
        match error {
            FetchError::Temporary(text) => {
                self.fetch_error = Some(text);
                self.fetch.ask_again_later(context.now);
            }
            FetchError::Permanent(text) => {
                self.fetch_error = Some(text);
                self.fetch = Asking::GivenUp;
            }
            FetchError::NothingToDo if self.fetched_for == self.validators.len() => {
                self.fetch = Asking::GivenUp;
                self.end(Outcome::NotNeeded, context, out);
            }
            // Nothing for those who could be asked about; the others may still come.
            FetchError::NothingToDo => self.fetch = Asking::Idle,
        }
    }

    /// The messages that must be published for this duty to be done, as far as is known.
    pub(crate) fn expected(&self) -> BTreeSet<TaskId> {
        let known = self.tasks.iter().flat_map(|tasks| tasks.keys().copied());
        let mut expected: BTreeSet<TaskId> = known.collect();
        if self.row().who == Who::Everyone {
            let named: BTreeSet<PublicKeyBytes> = expected.iter().map(|id| id.validator).collect();
            let left_out = self.validators.keys().filter(|validator| !named.contains(validator));
            let left_out: Vec<TaskId> = left_out.map(|validator| TaskId::from(*validator)).collect();
            expected.extend(left_out);
        }
        expected
    }

    /// Says that everything is done, when it is.
    fn conclude<N>(&mut self, context: &Context<'_, N>, out: &mut Vec<Output<S>>) {
        if self.outcome.is_some() {
            return;
        }
        let all = || {
            // Looked at with every event: what is not even begun is not counted.
            let expected = if self.results.any_published() { self.expected() } else { BTreeSet::new() };
            !expected.is_empty() && expected.iter().all(|id| self.results.is_published(id))
        };
        let nothing_to_sign = self.row().publication == crate::Publication::NothingSigned;
        if (nothing_to_sign && self.decided.is_some()) || all() {
            self.end(Outcome::Done, context, out);
        }
    }

    /// The deadline has come: says what is missing, if it was not done, and drops everything.
    pub(crate) fn close<N>(&mut self, context: &Context<'_, N>, out: &mut Vec<Output<S>>) {
        if self.is_pending() {
            // Where only selected validators sign, we may have published what the others agreed on without us.
            let done_by_others = self.expected().is_empty() && self.results.published().count() > 0;
            let outcome =
                if done_by_others { Outcome::Done } else { Outcome::Missed(self.why_missed(context)) };
            self.end(outcome, context, out);
        }
        if std::mem::take(&mut self.saved) {
            out.push(Output::Forget { duty: self.duty });
        }
    }

    pub(crate) fn push_out<N>(&mut self, context: &Context<'_, N>, out: &mut Vec<Output<S>>) {
        if self.is_pending() {
            self.end(Outcome::Missed(Reason::PushedOut), context, out);
        }
        self.close(context, out);
    }

    fn end<N>(&mut self, outcome: Outcome, context: &Context<'_, N>, out: &mut Vec<Output<S>>) {
        if self.outcome.is_some() {
            return;
        }
        // Others may have been quick enough to finish the duty before our own signature is there: that is not withheld.
        let still_coming = outcome == Outcome::Done && self.is_own_partial_coming(context);
        let withheld = self.why_withheld(context).filter(|_| !still_coming);
        self.outcome = Some(outcome.clone());
        let start = context.settings.timing.start_of(self.duty.slot);
        let published_at = self.results.last_published_at();
        out.push(Output::Outcome(Record {
            duty: self.duty,
            outcome,
            expected: self.expected().len(),
            published: self.results.published().count(),
            decided_round: self.decided.as_ref().map(|decided| decided.round),
            leader: self.decided.as_ref().map(|decided| decided.leader),
            partials_from: self.results.contributors(),
            liars: self.partials.liars(),
            equivocators: self.partials.equivocators(),
            withheld,
            published_ms_into_slot: published_at.map(|at| at.0.saturating_sub(start.0)),
        }));
    }

    fn is_agreed_on(&self) -> bool {
        self.row().agreement != Agreement::NotNeeded
    }

    pub(crate) fn joins_when_triggered(&self) -> bool {
        matches!(self.row().agreement, Agreement::Qbft { join: Join::WhenTriggered, .. })
    }
}
