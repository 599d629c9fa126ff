//! ROUND-CHANGE: giving up on a leader, catching up with the others, and taking over.

use alloc::vec::Vec;

use crate::instance::Rule;
use crate::justify::{Mandate, find_mandate};
use crate::{Ballot, Instance, Kind, MAX_MEMBERS, MAX_ROUND, Output};

impl<S: Clone + PartialEq> Instance<S> {
    pub(crate) fn on_round_timeout(&mut self, round: u64, out: &mut Vec<Output<S>>) {
        let current = round == self.journal.round; // Otherwise the timer of a round we already left.
        if current && self.journal.decided.is_none() && round < MAX_ROUND {
            self.change_round(round + 1, out);
        }
    }

    pub(crate) fn on_round_change(&mut self, change: &Ballot, out: &mut Vec<Output<S>>) {
        if change.round > self.journal.round {
            self.catch_up(change.round, out);
        } else if change.round == self.journal.round {
            self.take_over(out);
        }
    }

    /// Upon f + 1 members ahead of us (so at least one honest one): join the hindmost of them.
    fn catch_up(&mut self, message_round: u64, out: &mut Vec<Output<S>>) {
        let mut highest = [0u64; MAX_MEMBERS];
        for vote in self.heard.votes().filter(|vote| vote.ballot.kind == Kind::RoundChange) {
            if let Some(round) = highest.get_mut(usize::from(vote.ballot.author.0)) {
                *round = (*round).max(vote.ballot.round);
            }
        }
        let enough = self.config.size.faulty() + 1;
        let ahead: Vec<u64> =
            highest.into_iter().filter(|round| *round > self.journal.round).take(enough).collect();
        if ahead.len() < enough || !self.first_time(Rule::RoundChangesAhead, message_round) {
            return;
        }
        if let Some(round) = ahead.into_iter().min() {
            self.change_round(round, out);
        }
    }

    /// Upon a quorum that changed to our round, if we lead it: propose what the quorum allows.
    fn take_over(&mut self, out: &mut Vec<Output<S>>) {
        let round = self.journal.round;
        if !self.leads(round) || self.heard.round_changes(round).len() < self.config.size.quorum() {
            return;
        }
        let Some(mandate) = find_mandate(&self.heard, round, self.config.size) else { return };
        if !self.first_time(Rule::QuorumRoundChanges, round) {
            return;
        }
        match mandate {
            Mandate::Free(justification) => self.propose_own(justification, out),
            Mandate::Bound(value, justification) => self.propose(value, justification, out),
        }
    }

    fn change_round(&mut self, round: u64, out: &mut Vec<Output<S>>) {
        self.enter_round(round);
        self.set_timer(out);
        self.say_round_change(out);
    }

    fn say_round_change(&mut self, out: &mut Vec<Output<S>>) {
        let prepared = self.journal.prepared.as_ref();
        let claim = prepared.map(|prepared| (prepared.round, prepared.value));
        let proof = prepared.map(|prepared| prepared.prepares.clone()).unwrap_or_default();
        self.say(Ballot::round_change(self.config.me, self.journal.round, claim), proof, out);
    }

    /// Repeats what we said in the current round before a restart: it may not have left the box.
    pub(crate) fn repeat_after_restart(&mut self, out: &mut Vec<Output<S>>) {
        let (me, round) = (self.config.me, self.journal.round);
        let committed = self.journal.prepared.as_ref().filter(|prepared| prepared.round == round);
        let commit = committed.map(|prepared| prepared.value);
        if round > 1 && commit.is_none() {
            self.say_round_change(out);
        }
        if let Some(value) = self.journal.voted {
            self.say(Ballot::for_value(Kind::Prepare, me, round, value), Vec::new(), out);
        }
        if let Some(value) = commit {
            self.say(Ballot::for_value(Kind::Commit, me, round, value), Vec::new(), out);
        }
    }
}
