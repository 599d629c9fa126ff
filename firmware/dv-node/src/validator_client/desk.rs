//! Where what is asked to be signed and what a validator client signed meet.

use std::collections::{BTreeMap, BTreeSet};

use chain::{Root, SignatureBytes, SlotTiming, UnixMillis};
use duty::{Duty, TaskId};

/// Duties remembered at most: two epochs of all kinds.
const MAX_DUTIES: usize = 1_024;

/// The desk. Only signatures under roots that were asked for ever leave it.
#[derive(Debug, Default)]
pub(crate) struct Desk {
    duties: BTreeMap<Duty, Papers>,
}

#[derive(Debug, Default)]
struct Papers {
    /// What the engine asks to be signed: never two messages for one validator.
    asked: BTreeMap<TaskId, Root>,
    /// Asked for and not signed yet.
    missing: BTreeSet<TaskId>,
    /// What was signed last, asked for or not.
    signed: BTreeMap<TaskId, (Root, SignatureBytes)>,
    /// Signed as asked; goes to the engine together with what comes a moment later.
    ready: BTreeMap<TaskId, SignatureBytes>,
}

/// What became of a signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Handed {
    /// It may be asked for yet.
    Kept,
    /// It is what was asked for. `all` says that nothing of this duty is missing any more.
    Wanted {
        /// Nothing is missing.
        all: bool,
    },
    /// It was handed in before.
    Again,
    /// Something else was asked for.
    Differs,
}

impl Desk {
    /// The engine asks. What was signed already is ready; the answer says whether anything is.
    pub(crate) fn ask(&mut self, duty: Duty, tasks: impl IntoIterator<Item = (TaskId, Root)>) -> bool {
        let papers = self.of(duty);
        for (id, root) in tasks {
            if *papers.asked.entry(id).or_insert(root) != root {
                continue; // Nobody signs a second message for one duty.
            }
            match papers.signed.get(&id) {
                Some((signed, signature)) if *signed == root => drop(papers.ready.insert(id, *signature)),
                Some(_) | None => drop(papers.missing.insert(id)),
            }
        }
        !papers.ready.is_empty()
    }

    /// A verified signature of our share.
    pub(crate) fn hand_in(
        &mut self,
        duty: Duty,
        id: TaskId,
        root: Root,
        signature: SignatureBytes,
    ) -> Handed {
        let papers = self.of(duty);
        match papers.asked.get(&id) {
            Some(asked) if *asked != root => Handed::Differs,
            Some(_) if papers.missing.remove(&id) => {
                papers.signed.insert(id, (root, signature));
                papers.ready.insert(id, signature);
                Handed::Wanted { all: papers.missing.is_empty() }
            }
            Some(_) => Handed::Again,
            None => {
                papers.signed.insert(id, (root, signature));
                Handed::Kept
            }
        }
    }

    /// Takes what is ready.
    pub(crate) fn take(&mut self, duty: Duty) -> Vec<(TaskId, SignatureBytes)> {
        let papers = self.duties.get_mut(&duty);
        papers.map(|papers| std::mem::take(&mut papers.ready).into_iter().collect()).unwrap_or_default()
    }

    /// What a validator signed for a duty, before it was asked for or after.
    pub(crate) fn early_root(&self, duty: Duty) -> Option<Root> {
        self.duties.get(&duty)?.signed.values().next().map(|(root, _)| *root)
    }

    /// Drops what is over.
    pub(crate) fn trim(&mut self, timing: &SlotTiming, now: UnixMillis) {
        self.duties.retain(|duty, _| duty.deadline(timing).is_none_or(|deadline| deadline > now));
    }

    fn of(&mut self, duty: Duty) -> &mut Papers {
        while self.duties.len() >= MAX_DUTIES && !self.duties.contains_key(&duty) {
            self.duties.pop_first();
        }
        self.duties.entry(duty).or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chain::{PublicKeyBytes, Slot};
    use duty::DutyKind;

    const DUTY: Duty = Duty { slot: Slot(7), kind: DutyKind::Attester };

    fn id(byte: u8) -> TaskId {
        TaskId::from(PublicKeyBytes([byte; 48]))
    }

    fn signature(byte: u8) -> SignatureBytes {
        SignatureBytes([byte; 96])
    }

    #[test]
    fn only_what_was_asked_for_leaves_the_desk() {
        let mut desk = Desk::default();
        assert!(!desk.ask(DUTY, [(id(1), Root([1; 32])), (id(2), Root([1; 32]))]));
        // Another vote than the agreed one.
        assert_eq!(desk.hand_in(DUTY, id(1), Root([9; 32]), signature(1)), Handed::Differs);
        assert_eq!(desk.hand_in(DUTY, id(3), Root([1; 32]), signature(3)), Handed::Kept);
        assert!(desk.take(DUTY).is_empty());
        assert_eq!(desk.hand_in(DUTY, id(1), Root([1; 32]), signature(1)), Handed::Wanted { all: false });
        assert_eq!(desk.hand_in(DUTY, id(2), Root([1; 32]), signature(2)), Handed::Wanted { all: true });
        assert_eq!(desk.take(DUTY), [(id(1), signature(1)), (id(2), signature(2))]);
        assert!(desk.take(DUTY).is_empty(), "once");
        // Nor does anything else afterwards, whoever asks for it.
        assert_eq!(desk.hand_in(DUTY, id(1), Root([9; 32]), signature(1)), Handed::Differs);
        assert_eq!(desk.hand_in(DUTY, id(1), Root([1; 32]), signature(1)), Handed::Again);
        assert!(!desk.ask(DUTY, [(id(1), Root([9; 32]))]));
        assert!(desk.take(DUTY).is_empty());
        // Asked for once more, because it was lost on the way, it is given again.
        assert!(desk.ask(DUTY, [(id(1), Root([1; 32]))]));
        assert_eq!(desk.take(DUTY), [(id(1), signature(1))]);
    }

    #[test]
    fn what_was_signed_early_counts_if_it_is_what_is_asked_for_then() {
        for (signed, counts) in [(1, true), (2, false)] {
            let mut desk = Desk::default();
            assert_eq!(desk.hand_in(DUTY, id(1), Root([signed; 32]), signature(1)), Handed::Kept);
            assert_eq!(desk.early_root(DUTY), Some(Root([signed; 32])));
            assert_eq!(desk.ask(DUTY, [(id(1), Root([1; 32]))]), counts);
            assert_eq!(desk.take(DUTY).len(), usize::from(counts));
            // The right one may still come.
            let later = desk.hand_in(DUTY, id(1), Root([1; 32]), signature(1));
            assert_eq!(later == Handed::Wanted { all: true }, !counts);
        }
    }

    #[test]
    fn what_is_over_is_forgotten_and_the_rest_is_bounded() {
        let timing = SlotTiming::new(1_000, 12_000, 32).unwrap();
        let mut desk = Desk::default();
        desk.hand_in(DUTY, id(1), Root([1; 32]), signature(1));
        desk.trim(&timing, timing.start_of(Slot(100)));
        assert_eq!(desk.early_root(DUTY), None);
        for slot in 0..2 * u64::try_from(MAX_DUTIES).unwrap() {
            desk.hand_in(Duty { slot: Slot(slot), ..DUTY }, id(1), Root([1; 32]), signature(1));
        }
        assert_eq!(desk.duties.len(), MAX_DUTIES);
    }
}
