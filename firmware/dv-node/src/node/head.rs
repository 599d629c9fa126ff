//! Voting as soon as the block of the slot is here, and not only at its third (decision 0360).

use chain::{AttestationData, Root, Slot, SlotTiming, UnixMillis};
use duty::{Clock, Duty, DutyKind, Payload, Value};
use qbft::Digest;

use super::{Event, Node, wall};

/// Questions about the votes of one slot before its third. Whoever tells of ever new heads gets no more.
const MOST_QUESTIONS: u32 = 4;

/// The newest head that a beacon node has told us of, and what the one that we ask would vote. Pure.
///
/// Events come from every endpoint, also from those that are asked nothing: they are a reason to ask, and nothing is signed by them.
#[derive(Debug, Default)]
pub(crate) struct Head {
    newest: Option<(Slot, Option<Root>)>,
    /// The node that we ask has voted for it.
    known: bool,
    /// How often was asked in that slot.
    questions: u32,
    /// A question is under way.
    asking: bool,
    /// Something was told meanwhile.
    again: bool,
    vote: Option<AttestationData>,
    /// The root that is in such a vote, for the sync committee.
    root: Option<(Slot, Root)>,
}

impl Head {
    /// A verified head. Says whether to ask for the vote now. A node that lags behind the others takes nothing back.
    fn see(&mut self, slot: Slot, block: Root) -> bool {
        if self.newest.is_some_and(|(newest, _)| newest > slot) {
            return false;
        }
        if self.newest.is_none_or(|(newest, _)| newest != slot) {
            self.questions = 0;
        }
        let newest = Some((slot, Some(block)));
        if self.known && self.newest == newest {
            return false;
        }
        (self.newest, self.known, self.vote, self.root) = (newest, false, None, None);
        self.ask()
    }

    fn ask(&mut self) -> bool {
        self.again = self.asking;
        let asks = !self.asking && self.questions < MOST_QUESTIONS;
        if asks {
            (self.asking, self.questions) = (true, self.questions + 1);
        }
        asks
    }

    /// What came of the question: kept if it is for the newest head, for a node that lags behind answers too.
    fn answered(&mut self, vote: Option<AttestationData>) -> Answered {
        self.asking = false;
        if let Some(vote) = vote
            && self.newest == Some((vote.slot, Some(vote.beacon_block_root)))
        {
            let slot = vote.slot;
            (self.known, self.root) = (true, Some((slot, vote.beacon_block_root)));
            self.vote = Some(vote);
            return Answered::Kept(slot);
        }
        let slot = self.newest.map(|(slot, _)| slot);
        match slot {
            Some(slot) if std::mem::take(&mut self.again) && self.ask() => Answered::AskAgain(slot),
            Some(_) | None => Answered::Nothing,
        }
    }

    /// The vote of a slot, once: whoever asks again wants to know what the beacon node says by then. So does a duty that was not
    /// known yet when the block came, and begins at its third: seconds have passed, and the chain may have gone another way.
    pub(super) fn take_vote(&mut self, slot: Slot, begins: Begins) -> Option<AttestationData> {
        self.vote.take_if(|vote| vote.slot == slot).filter(|_| begins == Begins::Early)
    }

    /// What the sync committee signs in a slot whose block is here, as a value; once, too, and by the same rule.
    pub(super) fn take_root(&mut self, slot: Slot, begins: Begins) -> Option<Value> {
        let (_, root) = self.root.take_if(|(known, _)| *known == slot).filter(|_| begins == Begins::Early)?;
        Some(Value { digest: Digest(root.0), bytes: Payload::from(root.0) })
    }

    /// The chain was reorganised: nothing counts but what is asked for from now on.
    pub(super) fn forget(&mut self) {
        let Self { questions, asking, newest, .. } = std::mem::take(self);
        // The limit of questions stays, and so does the question that is under way; its answer fits nothing.
        let newest = newest.map(|(slot, _)| (slot, None));
        *self = Self { newest, questions, asking, ..Self::default() };
    }

    /// What was kept is of no use: its time has come without it.
    fn drop_answer(&mut self) {
        (self.vote, self.root) = (None, None);
    }
}

/// When a duty begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Begins {
    /// With the block, before its third.
    Early,
    /// At its third.
    AtItsThird,
}

/// What to do with the answer to an early question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answered {
    /// It is for the newest head: the duties of this slot may begin.
    Kept(Slot),
    /// It is not, and there was news since.
    AskAgain(Slot),
    /// The third of the slot comes anyway.
    Nothing,
}

impl Node {
    /// A beacon node has a new head. If it is the block of this slot, the votes for it need not wait.
    pub(super) fn on_head(&mut self, slot: Slot, block: Root) {
        if self.waits_for_third(slot).is_some() && self.head.see(slot, block) {
            self.ask_early(slot);
        }
    }

    /// Which kinds of duty of this very slot, by a clock that is trusted, begin at its third and have not begun.
    fn waits_for_third(&self, slot: Slot) -> Option<(bool, bool)> {
        let running = self.running.as_ref()?;
        let (now, timing) = (wall(), running.chain.timing);
        let waits = |kind| {
            let duty = Duty::new(slot, kind);
            running.engine.scheduled_for(duty) > 0 && is_before_its_third(&timing, running.trusted, now, duty)
        };
        // A validator client says by itself when it wants to sign the head.
        let (votes, signs) =
            (waits(DutyKind::Attester), self.client.is_none() && waits(DutyKind::SyncMessage));
        (votes || signs).then_some((votes, signs))
    }

    /// Whether a duty that begins now does so before its third.
    pub(super) fn begins(&self, duty: Duty) -> Begins {
        let early = |running: &super::Running| {
            is_before_its_third(&running.chain.timing, running.trusted, wall(), duty)
        };
        if self.running.as_ref().is_some_and(early) { Begins::Early } else { Begins::AtItsThird }
    }

    fn ask_early(&self, slot: Slot) {
        let beacon = self.beacon.clone();
        self.spawn(async move { Event::HeadVote(beacon.early_attestation_data(slot).await.ok()) });
    }

    /// What the beacon node would vote. Nothing, or something else, changes nothing: the third of the slot comes anyway.
    pub(super) fn on_head_vote(&mut self, vote: Option<AttestationData>) {
        match self.head.answered(vote) {
            Answered::Kept(slot) => {
                let Some((votes, signs)) = self.waits_for_third(slot) else {
                    return self.head.drop_answer();
                };
                let duties = [(votes, DutyKind::Attester), (signs, DutyKind::SyncMessage)];
                for (_, kind) in duties.into_iter().filter(|(waits, _)| *waits) {
                    self.step(duty::Event::MayBegin { duty: Duty::new(slot, kind) });
                }
            }
            Answered::AskAgain(slot) if self.waits_for_third(slot).is_some() => self.ask_early(slot),
            Answered::AskAgain(_) => {
                let _nothing = self.head.answered(None);
            }
            Answered::Nothing => {}
        }
    }
}

/// Whether a duty of this very slot, by a clock that is trusted, begins at its third and that is yet to come.
fn is_before_its_third(timing: &SlotTiming, clock: Option<Clock>, now: UnixMillis, duty: Duty) -> bool {
    clock == Some(Clock::Trusted)
        && timing.slot_at(now) == Some(duty.slot)
        && duty.triggers_at(timing).is_some_and(|at| at > now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_set_back_within_a_slot_lets_nothing_of_it_begin() {
        let timing = SlotTiming::new(1_000, 12_000, 32).unwrap();
        let duty = Duty::new(Slot(5), DutyKind::Attester);
        let begins =
            |clock, now: u64| is_before_its_third(&timing, clock, UnixMillis(61_000 + now - 12_000), duty);
        // From the start of the slot to its third.
        for (now, expected) in
            [(11_999, false), (12_000, true), (15_000, true), (16_000, false), (24_000, false)]
        {
            assert_eq!(begins(Some(Clock::Trusted), now), expected, "{now}");
            assert!(!begins(Some(Clock::Untrusted), now) && !begins(None, now), "{now}");
        }
        assert!(!begins(Some(Clock::Trusted), 0), "set back by a slot, and confirmed");
        // What was asked before it was set is of no use then.
        let mut head = Head::default();
        assert!(head.see(Slot(5), root(1)));
        assert_eq!(head.answered(Some(vote(5, 1))), Answered::Kept(Slot(5)));
        head.drop_answer();
        assert_eq!(
            (head.take_vote(Slot(5), Begins::Early), head.take_root(Slot(5), Begins::Early)),
            (None, None)
        );
    }

    fn vote(slot: u64, block: u8) -> AttestationData {
        AttestationData { slot: Slot(slot), beacon_block_root: root(block), ..AttestationData::default() }
    }

    fn root(byte: u8) -> Root {
        Root([byte; 32])
    }

    #[test]
    fn only_a_vote_for_the_newest_head_counts_and_it_counts_once() {
        let mut head = Head::default();
        assert_eq!(head.answered(Some(vote(5, 1))), Answered::Nothing, "nobody has told of such a head");
        assert!(head.see(Slot(5), root(1)));
        assert_eq!(head.answered(Some(vote(5, 2))), Answered::Nothing, "of a node that lags behind");
        // Another node tells of the same block: by now the one that is asked may have it.
        assert!(head.see(Slot(5), root(1)));
        assert_eq!(head.answered(Some(vote(5, 1))), Answered::Kept(Slot(5)));
        assert!(!head.see(Slot(5), root(1)), "it is known already");
        assert_eq!(
            (head.take_vote(Slot(6), Begins::Early), head.take_root(Slot(6), Begins::Early)),
            (None, None)
        );
        assert_eq!(head.take_vote(Slot(5), Begins::Early), Some(vote(5, 1)));
        assert_eq!(head.take_root(Slot(5), Begins::Early).map(|value| value.digest), Some(Digest([1; 32])));
        assert_eq!(
            (head.take_vote(Slot(5), Begins::Early), head.take_root(Slot(5), Begins::Early)),
            (None, None)
        );
        assert!(!head.see(Slot(5), root(1)), "another node tells of it after it was taken up");
    }

    #[test]
    fn a_duty_that_was_scheduled_after_its_block_came_asks_anew_at_its_third() {
        let mut head = Head::default();
        assert!(head.see(Slot(5), root(1)));
        // Only the votes were scheduled by then: the sync committee's seats become known later.
        assert_eq!(head.answered(Some(vote(5, 1))), Answered::Kept(Slot(5)));
        assert_eq!(head.take_vote(Slot(5), Begins::Early), Some(vote(5, 1)));
        assert_eq!(head.take_root(Slot(5), Begins::AtItsThird), None);
        // And what was not for it is nobody's later on.
        assert_eq!(head.take_root(Slot(5), Begins::Early), None);
        let mut head = Head::default();
        assert!(head.see(Slot(5), root(1)));
        assert_eq!(head.answered(Some(vote(5, 1))), Answered::Kept(Slot(5)));
        assert_eq!(head.take_vote(Slot(5), Begins::AtItsThird), None);
        assert_eq!(head.take_vote(Slot(5), Begins::Early), None);
    }

    #[test]
    fn what_an_endpoint_tells_is_signed_by_nobody_unless_the_one_that_is_asked_says_the_same() {
        let mut head = Head::default();
        assert!(head.see(Slot(5), root(9)));
        assert_eq!(head.take_root(Slot(5), Begins::Early), None);
        assert_eq!(head.answered(Some(vote(5, 1))), Answered::Nothing);
        assert_eq!(
            (head.take_vote(Slot(5), Begins::Early), head.take_root(Slot(5), Begins::Early)),
            (None, None)
        );
    }

    #[test]
    fn another_head_replaces_the_vote_for_the_one_before_and_a_reorganisation_takes_it_back() {
        let mut head = Head::default();
        assert!(head.see(Slot(5), root(1)));
        assert_eq!(head.answered(Some(vote(5, 1))), Answered::Kept(Slot(5)));
        assert!(!head.see(Slot(4), root(9)), "an earlier slot's block is no news");
        assert!(head.see(Slot(5), root(2)));
        assert_eq!(head.take_vote(Slot(5), Begins::Early), None);
        head.forget();
        assert_eq!(
            head.answered(Some(vote(5, 2))),
            Answered::Nothing,
            "asked before the chain was reorganised"
        );
        assert!(head.see(Slot(5), root(2)));
        assert_eq!(head.answered(Some(vote(5, 2))), Answered::Kept(Slot(5)));
    }

    #[test]
    fn whoever_tells_of_ever_new_heads_gets_few_questions_asked_and_one_at_a_time() {
        let mut head = Head::default();
        assert!(head.see(Slot(5), root(0)));
        assert!(!(1..=200).any(|block| head.see(Slot(5), root(block))), "one is under way");
        assert_eq!(head.answered(None), Answered::AskAgain(Slot(5)), "for the newest of them");
        assert_eq!(head.answered(None), Answered::Nothing, "nothing was told since");
        let more = (0..=200).filter(|block| {
            let asks = head.see(Slot(5), root(*block));
            let _nothing = head.answered(None);
            asks
        });
        assert_eq!(more.count(), 2);
        head.forget();
        assert!(!head.see(Slot(5), root(1)), "nor by telling of reorganisations");
        assert!(head.see(Slot(6), root(1)), "the next slot begins anew");
    }
}
