//! Whose a signature is that was heard of elsewhere: the watch for a second signer with the same share (decision 0284).
//!
//! A ledger knows every vote that its own signer has made, because it was written before the signature existed. So a valid
//! signature of the share under a vote that is not in the ledger was made by another signer with the same share, or by this one
//! in a time that the ledger has forgotten because an old copy was put back. Both are a reason to stop.

use crate::check::{AttestationVote, BlockProposal};
use crate::history::{History, SignedAttestation, SignedBlock};

/// Who made a signature that is known to be the share's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The signer whose history this is.
    Here,
    /// Perhaps this one, or an earlier one whose history was imported: what it is about is known without details, or so old
    /// that the details were dropped.
    Unknowable,
    /// Another one.
    Elsewhere,
}

/// Who made this attestation. Details are kept for `kept_epochs` behind the newest target.
pub fn origin_of_attestation(history: &History, vote: &AttestationVote, kept_epochs: u64) -> Origin {
    let exactly = SignedAttestation {
        source_epoch: vote.source,
        target_epoch: vote.target,
        signing_root: Some(vote.signing_root),
    };
    if history.attestations_at(vote.target).any(|known| *known == exactly) {
        return Origin::Here;
    }
    // An entry without its root came with a file, which may be a minimal one: it speaks for everything up to it.
    let told =
        history.attestations().any(|known| known.signing_root.is_none() && known.target_epoch >= vote.target);
    let newest = history.attestations().map(|known| known.target_epoch).max();
    let dropped = newest.is_some_and(|newest| vote.target.saturating_add(kept_epochs) < newest);
    if told || dropped { Origin::Unknowable } else { Origin::Elsewhere }
}

/// Who made this block. Details are kept for `kept_slots` behind the newest slot.
pub fn origin_of_block(history: &History, proposal: &BlockProposal, kept_slots: u64) -> Origin {
    let exactly = SignedBlock { slot: proposal.slot, signing_root: Some(proposal.signing_root) };
    if history.blocks_at(proposal.slot).any(|known| *known == exactly) {
        return Origin::Here;
    }
    let told = history.blocks().any(|known| known.signing_root.is_none() && known.slot >= proposal.slot);
    let newest = history.blocks().map(|known| known.slot).max();
    let dropped = newest.is_some_and(|newest| proposal.slot.saturating_add(kept_slots) < newest);
    if told || dropped { Origin::Unknowable } else { Origin::Elsewhere }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{check_attestation, check_block};
    use crate::history::{Floors, Retention};
    use chain::{Epoch, PublicKeyBytes, Root, Slot};

    const KEY: PublicKeyBytes = PublicKeyBytes([1; 48]);

    fn vote(source: u64, target: u64, root: u8) -> AttestationVote {
        AttestationVote { source: Epoch(source), target: Epoch(target), signing_root: Root([root; 32]) }
    }

    fn signed(votes: &[AttestationVote]) -> History {
        let mut history = History::never_signed(KEY, Retention::Complete);
        for vote in votes {
            let permit = check_attestation(&history, vote).unwrap();
            history.record_attestation(permit).unwrap();
        }
        history
    }

    #[test]
    fn what_is_not_on_record_was_signed_elsewhere() {
        let mut history = signed(&[vote(9, 10, 1), vote(10, 11, 1)]);
        for (vote, origin) in [
            (vote(9, 10, 1), Origin::Here),
            (vote(9, 10, 2), Origin::Elsewhere),
            (vote(8, 10, 1), Origin::Elsewhere),
            (vote(11, 12, 1), Origin::Elsewhere),
            (vote(7, 8, 1), Origin::Elsewhere),
            (vote(0, 3, 1), Origin::Unknowable),
        ] {
            assert_eq!(origin_of_attestation(&history, &vote, 7), origin, "{vote:?}");
        }
        // Floors say nothing about who signed.
        history.raise(Floors { block: None, source: Some(Epoch(20)), target: Some(Epoch(21)) });
        assert_eq!(origin_of_attestation(&history, &vote(11, 12, 1), 7), Origin::Elsewhere);
        let fresh = History::never_signed(KEY, Retention::Complete);
        assert_eq!(origin_of_attestation(&fresh, &vote(0, 0, 1), 7), Origin::Elsewhere);
    }

    #[test]
    fn what_an_imported_file_speaks_for_proves_nothing() {
        let mut history = History::never_signed(KEY, Retention::Complete);
        let entry = SignedAttestation {
            source_epoch: Epoch(9),
            target_epoch: Epoch(10),
            signing_root: Some(Root([1; 32])),
        };
        history.adopt([SignedBlock { slot: Slot(40), signing_root: None }], [entry]);
        for (vote, origin) in [
            (vote(9, 10, 1), Origin::Unknowable),
            (vote(8, 9, 3), Origin::Unknowable),
            (vote(9, 11, 1), Origin::Elsewhere),
        ] {
            assert_eq!(origin_of_attestation(&history, &vote, 300), origin, "{vote:?}");
        }
        let block = |slot| BlockProposal { slot: Slot(slot), signing_root: Root([1; 32]) };
        let permit = check_block(&history, &block(50)).unwrap();
        history.record_block(permit).unwrap();
        for (slot, root, origin) in [
            (50, 1, Origin::Here),
            (50, 2, Origin::Elsewhere),
            (45, 1, Origin::Elsewhere),
            (40, 1, Origin::Unknowable),
            (30, 1, Origin::Unknowable),
            (51, 1, Origin::Elsewhere),
        ] {
            let block = BlockProposal { slot: Slot(slot), signing_root: Root([root; 32]) };
            assert_eq!(origin_of_block(&history, &block, 300), origin, "{slot} {root}");
        }
    }
}
