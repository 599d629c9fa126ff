//! PREPARE: a quorum of them binds every later leader, so they are remembered before anybody hears our COMMIT.

use alloc::vec::Vec;

use crate::instance::Rule;
use crate::{Ballot, Instance, Kind, Output, Prepared, Vote};

impl<S: Clone + PartialEq> Instance<S> {
    /// Upon a quorum of PREPAREs for our round and one value: remember it with its proof, then commit to it.
    pub(crate) fn on_prepare(&mut self, prepare: &Ballot, out: &mut Vec<Output<S>>) {
        let round = self.journal.round;
        if prepare.round != round || prepare.value.is_zero() {
            return; // Kept, because it may justify something later, but it triggers nothing.
        }
        let votes = self.heard.votes_for(Kind::Prepare, round, prepare.value);
        if votes.len() < self.config.size.quorum() {
            return;
        }
        let prepares: Vec<Vote<S>> = votes.into_iter().cloned().collect();
        let committed = self.journal.prepared.as_ref().is_some_and(|prepared| prepared.round == round);
        if !self.first_time(Rule::QuorumPrepares, round) || committed {
            return;
        }
        self.journal.prepared = Some(Prepared { round, value: prepare.value, prepares });
        self.say(Ballot::for_value(Kind::Commit, self.config.me, round, prepare.value), Vec::new(), out);
    }
}
