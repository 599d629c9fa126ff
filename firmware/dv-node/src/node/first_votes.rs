//! The order of a validator's first votes.
//!
//! What a signer signs first for a validator is where its knowledge begins: an earlier vote is refused from then on
//! (EIP-3076, conditions 5 and 6). A validator that attests in the last slot of one epoch and in the first of the next may
//! see the members agree on the second vote before the first, and a member that asked for both in that order would ask for
//! what must be refused. So the first vote is asked for alone, and nothing from before it.

use std::collections::BTreeMap;

use chain::{Epoch, PublicKeyBytes};
use duty::SignError;

/// Per validator, what this run knows of the beginning of its signer's knowledge.
#[derive(Debug, Default)]
pub(crate) struct FirstVotes(BTreeMap<PublicKeyBytes, First>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum First {
    /// Being asked for, with this target. Nobody knows yet whether it is signed.
    Asked(Epoch),
    /// The earliest target that was signed in this run. The signer may know earlier ones, from before it; that a late vote
    /// is then lost is the price of not asking.
    Signed(Epoch),
}

impl FirstVotes {
    /// Whether the signer may be asked for this vote; if not, why not, and whether to come again.
    pub(crate) fn ask(&mut self, validator: PublicKeyBytes, target: Epoch) -> Result<(), SignError> {
        match *self.0.entry(validator).or_insert(First::Asked(target)) {
            First::Signed(first) if target < first => Err(SignError::Withheld(format!(
                "the vote of epoch {first} was this validator's first here, and none from before it is signed"
            ))),
            First::Asked(other) if other != target => Err(SignError::HeldBack(format!(
                "the validator's first vote, of epoch {other}, is being signed"
            ))),
            First::Signed(_) | First::Asked(_) => Ok(()),
        }
    }

    /// The signer answered, or was not reached.
    pub(crate) fn answered(&mut self, validator: PublicKeyBytes, target: Epoch, is_signed: bool) {
        match (self.0.get(&validator).copied(), is_signed) {
            (Some(First::Signed(first)), true) => {
                self.0.insert(validator, First::Signed(first.min(target)));
            }
            (_, true) => drop(self.0.insert(validator, First::Signed(target))),
            (Some(First::Asked(asked)), false) if asked == target => drop(self.0.remove(&validator)),
            (_, false) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: PublicKeyBytes = PublicKeyBytes([1; 48]);
    const OTHER: PublicKeyBytes = PublicKeyBytes([2; 48]);

    fn is_later(asked: Result<(), SignError>) -> bool {
        matches!(asked, Err(SignError::HeldBack(_)))
    }

    fn is_never(asked: Result<(), SignError>) -> bool {
        matches!(asked, Err(SignError::Withheld(_)))
    }

    #[test]
    fn nothing_from_before_the_first_vote_is_asked_for() {
        let mut votes = FirstVotes::default();
        assert_eq!(votes.ask(KEY, Epoch(8)), Ok(()));
        votes.answered(KEY, Epoch(8), true);
        assert!(is_never(votes.ask(KEY, Epoch(7))));
        votes.answered(KEY, Epoch(7), false); // As the engine is told of what was not asked for.
        assert!(is_never(votes.ask(KEY, Epoch(7))));
        for target in [8, 10, 9] {
            assert_eq!(votes.ask(KEY, Epoch(target)), Ok(()), "{target} is not before it");
            votes.answered(KEY, Epoch(target), true);
        }
        assert_eq!(votes.ask(OTHER, Epoch(7)), Ok(()), "each validator has a history of its own");
    }

    #[test]
    fn while_the_first_vote_is_being_signed_the_others_wait() {
        let mut votes = FirstVotes::default();
        assert_eq!(votes.ask(KEY, Epoch(7)), Ok(()));
        assert!(is_later(votes.ask(KEY, Epoch(8))), "it might reach the signer first");
        assert!(is_later(votes.ask(KEY, Epoch(6))));
        assert_eq!(votes.ask(KEY, Epoch(7)), Ok(()), "the same one is the same one");
        votes.answered(KEY, Epoch(8), false);
        assert!(is_later(votes.ask(KEY, Epoch(8))), "only the answer to the first one counts");
        votes.answered(KEY, Epoch(7), true);
        assert_eq!(votes.ask(KEY, Epoch(8)), Ok(()));
    }

    #[test]
    fn a_signer_that_was_locked_or_refused_knows_nothing_yet() {
        let mut votes = FirstVotes::default();
        assert_eq!(votes.ask(KEY, Epoch(8)), Ok(()));
        votes.answered(KEY, Epoch(8), false);
        assert_eq!(votes.ask(KEY, Epoch(7)), Ok(()));
        votes.answered(KEY, Epoch(7), true);
        assert_eq!(votes.ask(KEY, Epoch(8)), Ok(()));
    }
}
