//! COMMIT and DECIDED: the end of an instance, and telling those who missed it.

use alloc::vec::Vec;

use crate::instance::Rule;
use crate::{
    Ballot, Decision, Digest, Instance, Kind, MAX_DECIDED_ANSWERS, Message, Output, Refusal, Vote, justify,
};

impl<S: Clone + PartialEq> Instance<S> {
    /// Upon a quorum of COMMITs for our round and one value: decide.
    pub(crate) fn on_commit(&mut self, commit: &Ballot, out: &mut Vec<Output<S>>) {
        if commit.round != self.journal.round || commit.value.is_zero() {
            return;
        }
        let votes = self.heard.votes_for(Kind::Commit, commit.round, commit.value);
        if votes.len() < self.config.size.quorum() {
            return;
        }
        let commits: Vec<Vote<S>> = votes.into_iter().cloned().collect();
        if self.first_time(Rule::QuorumCommits, commit.round) {
            self.decide(commit.round, commit.value, commits, out);
        }
    }

    /// Upon a proven decision of any round: believe it.
    pub(crate) fn on_decided(&mut self, message: &Message<S>, out: &mut Vec<Output<S>>) {
        let ballot = message.vote.ballot;
        let commits = justify::commits_of(message).into_iter().cloned().collect();
        self.decide(ballot.round, ballot.value, commits, out);
    }

    fn decide(&mut self, round: u64, value: Digest, commits: Vec<Vote<S>>, out: &mut Vec<Output<S>>) {
        let decision = Decision { round, value, commits };
        self.enter_round(round);
        self.journal.decided = Some(decision.clone());
        self.heard.clear();
        self.save(out);
        out.push(Output::StopTimer);
        out.push(Output::Decided(decision));
    }

    /// A member that still changes rounds has missed the decision: tell it, a bounded number of times.
    pub(crate) fn answer_after_deciding(
        &mut self,
        ballot: &Ballot,
        out: &mut Vec<Output<S>>,
    ) -> Result<(), Refusal> {
        let Some(decision) = self.journal.decided.as_ref() else { return Ok(()) };
        if ballot.kind != Kind::RoundChange || ballot.author == self.config.me {
            return Err(Refusal::AlreadyDecided);
        }
        let Some((last_round, answers)) = self.answered.get_mut(usize::from(ballot.author.0)) else {
            return Err(Refusal::UnknownMember(ballot.author));
        };
        if ballot.round <= *last_round || *answers >= MAX_DECIDED_ANSWERS {
            return Err(Refusal::AlreadyDecided);
        }
        *last_round = ballot.round;
        *answers += 1;
        let answer = Ballot::for_value(Kind::Decided, self.config.me, decision.round, decision.value);
        out.push(Output::Broadcast(Message {
            vote: Vote { ballot: answer, seal: None },
            justification: decision.commits.clone(),
        }));
        Ok(())
    }
}
