//! Agreeing: one `qbft` instance per duty, with the values behind its digests.

use chain::{SlotTiming, UnixMillis};
use qbft::{Config, Decision, Digest, Instance, Journal, Message, RoundTimer};

use crate::work::{Context, Decided, Work};
use crate::{Agreement, Duty, MAX_WAITING, Network, Output, Refusal, Saved, Value};

/// Rounds that may end in one step. After a long sleep many are over at once; between some of them the others' answers
/// shall be heard.
const MAX_ROUNDS_PER_STEP: usize = 4;

/// Length of round 1; each later round lasts one more of these.
const ROUND_STEP_MS: u64 = 1000;

/// What a second round needs to be worth having: a proposal, three messages, a signature and a publication.
const ROUND_ROOM_MS: u64 = 700;

/// The network's timer; on chains whose slots are so short that a dead leader's first round would last until the duty is
/// over, rounds that let a second one fit. Members with longer rounds follow: a round change of `f + 1` members takes
/// them along.
fn round_timer(duty: Duty, origin: UnixMillis, extra_ms: u64, timing: &SlotTiming) -> RoundTimer {
    let room = duty.deadline(timing).map_or(u64::MAX, |deadline| deadline.0.saturating_sub(origin.0));
    if room >= ROUND_STEP_MS.saturating_add(extra_ms).saturating_add(ROUND_ROOM_MS) {
        return RoundTimer { origin_ms: origin.0, step_ms: ROUND_STEP_MS, extra_ms };
    }
    RoundTimer { origin_ms: origin.0, step_ms: (room * 2 / 5).max(1), extra_ms: 0 }
}

impl<S: Clone + PartialEq> Work<S> {
    pub(crate) fn start_agreement_if_due<N: Network<Seal = S>>(
        &mut self,
        context: &Context<'_, N>,
        out: &mut Vec<Output<S>>,
    ) {
        let Agreement::Qbft { extra_ms, .. } = self.row().agreement else { return };
        let due = self.joins_when_triggered() || self.own.is_some() || self.restored.is_some();
        if self.agreement.is_some() || !due {
            return;
        }
        let origin = self.duty.triggers_at(&context.settings.timing).unwrap_or(context.now);
        let config = Config {
            size: context.settings.size,
            me: context.settings.me,
            leader_offset: context.network.leader_offset(self.duty),
            timer: round_timer(self.duty, origin, extra_ms, &context.settings.timing),
        };
        self.agreement = Some(match self.restored.take() {
            Some(journal) => Instance::restore(config, journal),
            None => Instance::new(config),
        });
        let first = self.own.map(qbft::Event::Input); // Before the start, so that a leader proposes at once.
        for event in first.into_iter().chain([qbft::Event::Start]) {
            let _nothing_to_refuse = self.feed(event, context, out);
        }
        while let Some(message) = self.waiting.pop_front() {
            let _refused_as_if_late = self.feed(qbft::Event::Message(message), context, out);
        }
    }

    pub(crate) fn propose<N: Network<Seal = S>>(
        &mut self,
        value: Digest,
        context: &Context<'_, N>,
        out: &mut Vec<Output<S>>,
    ) {
        let _only_zero_is_refused = self.feed(qbft::Event::Input(value), context, out);
    }

    pub(crate) fn on_message<N: Network<Seal = S>>(
        &mut self,
        message: Message<S>,
        values: &[Value],
        room: usize,
        context: &Context<'_, N>,
        out: &mut Vec<Output<S>>,
    ) -> Result<(), Refusal> {
        if self.row().agreement == Agreement::NotNeeded {
            return Err(Refusal::NoAgreement(self.duty));
        }
        self.values.add_from(&message, values, room)?;
        if self.agreement.is_some() {
            return self.feed(qbft::Event::Message(message), context, out);
        }
        // Each member has a share of the queue of its own, so that nobody can fill it alone.
        let author = message.vote.ballot.author;
        let share = MAX_WAITING.div_ceil(context.settings.size.members());
        let waiting = self.waiting.iter().filter(|other| other.vote.ballot.author == author).count();
        if waiting >= share {
            return Err(Refusal::TooManyWaiting(self.duty));
        }
        self.waiting.push_back(message);
        Ok(())
    }

    pub(crate) fn run_round_timer<N: Network<Seal = S>>(
        &mut self,
        context: &Context<'_, N>,
        out: &mut Vec<Output<S>>,
    ) {
        for _ in 0..MAX_ROUNDS_PER_STEP {
            let Some((round, _)) = self.round_timer.filter(|(_, at)| *at <= context.now) else { return };
            self.round_timer = None;
            let _never_refused = self.feed(qbft::Event::RoundTimeout(round), context, out);
        }
    }

    /// Gives the instance one event and translates what it wants.
    fn feed<N: Network<Seal = S>>(
        &mut self,
        event: qbft::Event<S>,
        context: &Context<'_, N>,
        out: &mut Vec<Output<S>>,
    ) -> Result<(), Refusal> {
        let Some(agreement) = self.agreement.as_mut() else { return Ok(()) };
        let mut wants = Vec::new();
        let result = agreement.step(event, &mut wants);
        for want in wants {
            match want {
                qbft::Output::Persist(journal) => self.persist(journal, out),
                qbft::Output::Broadcast(message) => {
                    let values = self.values.for_message(&message);
                    out.push(Output::Broadcast { duty: self.duty, message, values });
                }
                qbft::Output::SetTimer { round, at_ms } => {
                    self.round_timer = Some((round, UnixMillis(at_ms)))
                }
                qbft::Output::StopTimer => self.round_timer = None,
                qbft::Output::Decided(decision) => self.on_decided(&decision, context, out),
            }
        }
        result.map_err(Refusal::Agreement)
    }

    fn persist(&mut self, journal: Journal<S>, out: &mut Vec<Output<S>>) {
        self.saved = true;
        let prepared = journal.prepared.as_ref().map(|prepared| prepared.value);
        let decided = journal.decided.as_ref().map(|decision| decision.value);
        let named = [journal.proposed, journal.voted, prepared, decided];
        let values = self.values.for_digests(named.into_iter().flatten());
        out.push(Output::Persist { duty: self.duty, saved: Saved { journal, values } });
    }

    fn on_decided<N: Network<Seal = S>>(
        &mut self,
        decision: &Decision<S>,
        context: &Context<'_, N>,
        out: &mut Vec<Output<S>>,
    ) {
        let Some(agreement) = self.agreement.as_ref().filter(|_| self.decided.is_none()) else { return };
        let leader = agreement.leader(decision.round);
        self.decided = Some(Decided { round: decision.round, leader, value: decision.value });
        let Some(value) = self.values.get(decision.value) else {
            // Every message brings the values it names, and restarts keep them: only damaged storage leads here.
            self.unusable = Some("the value behind the agreed digest is not known".to_owned());
            return;
        };
        self.read_what_counts(context);
        out.push(Output::Agreed { duty: self.duty, round: decision.round, leader, value });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DutyKind;
    use chain::Slot;

    #[test]
    fn a_second_round_fits_however_short_the_slot_is() {
        // (slot length, kind, when rounds 1 and 2 end after the trigger)
        let table = [
            (12_000, DutyKind::Proposer, 1_500, 2_500),
            (6_000, DutyKind::Proposer, 1_500, 2_500),
            (3_000, DutyKind::Proposer, 500, 1_000),
            (2_000, DutyKind::Proposer, 333, 666),
            (12_000, DutyKind::SyncContribution, 1_000, 2_000),
            (3_000, DutyKind::SyncContribution, 500, 1_000),
            (2_000, DutyKind::Attester, 1_000, 2_000),
        ];
        for (slot_ms, kind, first, second) in table {
            let timing = SlotTiming::new(0, slot_ms, 8).unwrap();
            let duty = Duty::new(Slot(10), kind);
            let origin = duty.triggers_at(&timing).unwrap();
            let extra = if kind == DutyKind::Proposer { 500 } else { 0 };
            let timer = round_timer(duty, origin, extra, &timing);
            let ends = [1, 2].map(|round| timer.round_deadline_ms(round) - origin.0);
            assert_eq!(ends, [first, second], "{kind:?} at {slot_ms} ms");
            assert!(ends[0] + 300 < duty.deadline(&timing).unwrap().0 - origin.0);
        }
    }
}
