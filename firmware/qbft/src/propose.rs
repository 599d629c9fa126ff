//! PRE-PREPARE: a leader proposes, everybody else looks at the proposal.

use alloc::vec::Vec;

use crate::{Ballot, Digest, Instance, Kind, Output, Refusal, Vote};

impl<S: Clone + PartialEq> Instance<S> {
    pub(crate) fn on_input(&mut self, value: Digest, out: &mut Vec<Output<S>>) -> Result<(), Refusal> {
        if value.is_zero() {
            return Err(Refusal::NoValue);
        }
        if self.input.is_none() {
            self.input = Some(value); // The first counts: a leader that changed its mind would be equivocating.
        }
        if self.journal.decided.is_none()
            && let Some(justification) = self.waiting_for_input.take()
        {
            self.propose_own(justification, out);
        }
        Ok(())
    }

    /// Proposes our own input, or remembers to do so once we have one.
    pub(crate) fn propose_own(&mut self, justification: Vec<Vote<S>>, out: &mut Vec<Output<S>>) {
        // After a restart what we proposed in this round stands, even before we have an input again.
        match self.journal.proposed.or(self.input) {
            Some(value) => self.propose(value, justification, out),
            None => self.waiting_for_input = Some(justification),
        }
    }

    pub(crate) fn propose(&mut self, value: Digest, justification: Vec<Vote<S>>, out: &mut Vec<Output<S>>) {
        let round = self.journal.round;
        if self.journal.proposed.is_some_and(|before| before != value) {
            return; // Before a restart we proposed something else in this round. Two proposals would be a lie.
        }
        self.journal.proposed = Some(value);
        self.say(Ballot::for_value(Kind::PrePrepare, self.config.me, round, value), justification, out);
    }

    /// Upon the first justified proposal of our round or a later one: go there, give it time, vote for it.
    pub(crate) fn on_pre_prepare(&mut self, proposal: &Ballot, out: &mut Vec<Output<S>>) {
        let stale = proposal.round < self.journal.round;
        let voted = proposal.round == self.journal.round && self.journal.voted.is_some();
        if stale || voted {
            return; // Also an equivocating leader's second proposal.
        }
        self.enter_round(proposal.round);
        self.journal.voted = Some(proposal.value);
        self.set_timer(out);
        self.say(
            Ballot::for_value(Kind::Prepare, self.config.me, proposal.round, proposal.value),
            Vec::new(),
            out,
        );
    }
}
