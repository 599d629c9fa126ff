//! What is remembered about selection proofs, so that a repeated question is answered without any work.

use std::collections::BTreeMap;

use chain::{SignatureBytes, Slot, ValidatorIndex};

use super::message::{Claimed, Message};

/// Proofs kept: two epochs of more validators than a box serves.
const MAX_KEPT: usize = 65_536;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    slot: Slot,
    /// `None` for the beacon committee.
    subcommittee: Option<u64>,
    index: ValidatorIndex,
}

#[derive(Debug, Clone, Copy)]
struct Kept {
    partial: SignatureBytes,
    group: Option<SignatureBytes>,
}

/// The memory.
#[derive(Debug, Default)]
pub struct Selections {
    kept: BTreeMap<Key, Kept>,
}

impl Selections {
    /// Whether exactly this partial proof has been verified and passed on before.
    pub fn knows(&self, claimed: &Claimed) -> bool {
        let kept = key(claimed).and_then(|key| self.kept.get(&key));
        kept.is_some_and(|kept| kept.partial == claimed.signature)
    }

    /// A partial proof was verified and passed on.
    pub fn passed_on(&mut self, claimed: &Claimed) {
        let Some(key) = key(claimed) else { return };
        self.kept.entry(key).or_insert(Kept { partial: claimed.signature, group: None });
        while self.kept.len() > MAX_KEPT {
            self.kept.pop_first(); // The oldest slot.
        }
    }

    /// The group's proof, if it is there already.
    pub fn group(&self, claimed: &Claimed) -> Option<SignatureBytes> {
        self.kept.get(&key(claimed)?)?.group
    }

    /// The group's proof has come.
    pub fn completed(&mut self, claimed: &Claimed, group: SignatureBytes) {
        if let Some(kept) = key(claimed).and_then(|key| self.kept.get_mut(&key)) {
            kept.group = Some(group);
        }
    }

    /// Forgets what was before a slot.
    pub fn forget_before(&mut self, slot: Slot) {
        let first = Key { slot, subcommittee: None, index: ValidatorIndex(0) };
        self.kept = self.kept.split_off(&first);
    }
}

fn key(claimed: &Claimed) -> Option<Key> {
    let index = claimed.index;
    match &claimed.message {
        Message::CommitteeSelection { slot } => Some(Key { slot: *slot, subcommittee: None, index }),
        Message::SyncSelection { slot, subcommittee } => {
            Some(Key { slot: *slot, subcommittee: Some(*subcommittee), index })
        }
        Message::Attestation { .. }
        | Message::Block { .. }
        | Message::Aggregate { .. }
        | Message::SyncVote { .. }
        | Message::Contribution(_)
        | Message::Randao { .. }
        | Message::Exit(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claimed(slot: u64, subcommittee: Option<u64>, signature: u8) -> Claimed {
        let message = match subcommittee {
            None => Message::CommitteeSelection { slot: Slot(slot) },
            Some(subcommittee) => Message::SyncSelection { slot: Slot(slot), subcommittee },
        };
        Claimed { index: ValidatorIndex(4), message, signature: SignatureBytes([signature; 96]) }
    }

    #[test]
    fn what_was_passed_on_is_known_and_nothing_else() {
        let mut memory = Selections::default();
        memory.passed_on(&claimed(5, None, 1));
        assert!(memory.knows(&claimed(5, None, 1)));
        for other in [claimed(5, None, 2), claimed(6, None, 1), claimed(5, Some(0), 1)] {
            assert!(!memory.knows(&other));
        }
        assert_eq!(memory.group(&claimed(5, None, 1)), None);
        memory.completed(&claimed(5, None, 1), SignatureBytes([9; 96]));
        assert_eq!(memory.group(&claimed(5, None, 1)), Some(SignatureBytes([9; 96])));
        memory.forget_before(Slot(6));
        assert!(!memory.knows(&claimed(5, None, 1)));
    }
}
