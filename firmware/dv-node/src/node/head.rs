//! Voting as soon as the block of the slot is here, and not only at its third (decision 0360).

use chain::{AttestationData, Root, Slot};
use duty::{Clock, Duty, DutyKind, Payload, Value};
use qbft::Digest;

use super::{Event, Node, wall};

/// The newest head that a beacon node has told us of, and the vote for it. Pure.
#[derive(Debug, Default)]
pub(crate) struct Head {
    newest: Option<(Slot, Root)>,
    vote: Option<AttestationData>,
}

impl Head {
    /// A verified head. Says whether it is news. A node that lags behind the others takes nothing back.
    fn see(&mut self, slot: Slot, block: Root) -> bool {
        if self.newest == Some((slot, block)) || self.newest.is_some_and(|(newest, _)| newest > slot) {
            return false;
        }
        *self = Self { newest: Some((slot, block)), vote: None };
        true
    }

    /// Keeps what a beacon node would vote, if it is for the newest head: one that lags behind answers too.
    fn keep(&mut self, vote: AttestationData) -> bool {
        let fits = self.newest == Some((vote.slot, vote.beacon_block_root));
        if fits {
            self.vote = Some(vote);
        }
        fits
    }

    /// The vote of a slot, once: whoever asks again wants to know what the beacon node says by then.
    pub(super) fn take_vote(&mut self, slot: Slot) -> Option<AttestationData> {
        self.vote.take_if(|vote| vote.slot == slot)
    }

    /// What the sync committee signs in a slot whose block is here, as a value.
    pub(super) fn root_of(&self, slot: Slot) -> Option<Value> {
        let (_, root) = self.newest.filter(|(newest, _)| *newest == slot)?;
        Some(Value { digest: Digest(root.0), bytes: Payload::from(root.0) })
    }

    /// The chain was reorganised: nothing counts but what is asked for from now on.
    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }
}

impl Node {
    /// A beacon node has a new head. If it is the block of this slot, the votes for it need not wait.
    pub(super) fn on_head(&mut self, slot: Slot, block: Root) {
        let Some(running) = &self.running else { return };
        let (now, timing) = (wall(), running.chain.timing);
        let trusted = running.trusted == Some(Clock::Trusted);
        if !trusted || timing.slot_at(now) != Some(slot) || !self.head.see(slot, block) {
            return;
        }
        let waits = |kind| {
            let duty = Duty::new(slot, kind);
            running.engine.scheduled_for(duty) > 0 && duty.triggers_at(&timing).is_some_and(|at| at > now)
        };
        let (votes, signs) = (waits(DutyKind::Attester), waits(DutyKind::SyncMessage));
        if votes {
            let beacon = self.beacon.clone();
            self.spawn(async move { Event::HeadVote(beacon.attestation_data(slot).await.ok()) });
        }
        // A validator client says by itself when it wants to sign this.
        if signs && self.client.is_none() {
            self.step(duty::Event::MayBegin { duty: Duty::new(slot, DutyKind::SyncMessage) });
        }
    }

    /// What the beacon node would vote. Nothing, or something else, changes nothing: the third of the slot comes anyway.
    pub(super) fn on_head_vote(&mut self, vote: Option<AttestationData>) {
        let Some(vote) = vote else { return };
        let slot = vote.slot;
        if self.head.keep(vote) {
            self.step(duty::Event::MayBegin { duty: Duty::new(slot, DutyKind::Attester) });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vote(slot: u64, block: u8) -> AttestationData {
        AttestationData {
            slot: Slot(slot),
            beacon_block_root: Root([block; 32]),
            ..AttestationData::default()
        }
    }

    #[test]
    fn only_a_vote_for_the_newest_head_counts_and_it_counts_once() {
        let mut head = Head::default();
        assert!(!head.keep(vote(5, 1)), "nobody has told of such a head");
        assert!(head.see(Slot(5), Root([1; 32])) && !head.see(Slot(5), Root([1; 32])));
        assert!(!head.keep(vote(5, 2)) && !head.keep(vote(4, 1)), "of a node that lags behind");
        assert!(head.keep(vote(5, 1)));
        assert_eq!(head.take_vote(Slot(6)), None);
        assert_eq!(head.take_vote(Slot(5)), Some(vote(5, 1)));
        assert_eq!(head.take_vote(Slot(5)), None);
    }

    #[test]
    fn another_head_replaces_the_vote_for_the_one_before() {
        let mut head = Head::default();
        assert!(head.see(Slot(5), Root([1; 32])) && head.keep(vote(5, 1)));
        assert!(!head.see(Slot(4), Root([9; 32])), "an earlier slot's block is no news");
        assert!(head.see(Slot(5), Root([2; 32])));
        assert_eq!(head.take_vote(Slot(5)), None);
        assert_eq!(head.root_of(Slot(5)).map(|value| value.digest), Some(Digest([2; 32])));
        assert_eq!(head.root_of(Slot(6)), None);
        head.forget();
        assert_eq!(head.root_of(Slot(5)), None);
        assert!(head.see(Slot(4), Root([9; 32])));
    }
}
