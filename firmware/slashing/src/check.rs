//! The rules.

use crate::history::{History, SignedAttestation, SignedBlock};
use chain::{Epoch, PublicKeyBytes, Root, Slot};

/// A request to sign an attestation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttestationVote {
    /// Epoch of the source checkpoint.
    pub source: Epoch,
    /// Epoch of the target checkpoint.
    pub target: Epoch,
    /// What would be signed, computed by the caller from the whole message.
    pub signing_root: Root,
}

/// A request to sign a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockProposal {
    /// The block's slot.
    pub slot: Slot,
    /// What would be signed, computed by the caller from the whole message.
    pub signing_root: Root,
}

/// The proof that an attestation passed [`check_attestation`]; made nowhere else and used once.
#[derive(Debug)]
#[must_use = "a permit does nothing until it is recorded"]
pub struct AttestationPermit {
    key: PublicKeyBytes,
    vote: AttestationVote,
    repeat: bool,
}

impl AttestationPermit {
    /// Whose key may sign.
    pub fn key(&self) -> PublicKeyBytes {
        self.key
    }

    /// What may be signed.
    pub fn vote(&self) -> &AttestationVote {
        &self.vote
    }

    /// Whether exactly this was recorded before. The ledger then has its row already.
    pub fn is_repeat(&self) -> bool {
        self.repeat
    }

    /// The row the ledger must store before anything is signed.
    pub fn entry(&self) -> SignedAttestation {
        SignedAttestation {
            source_epoch: self.vote.source,
            target_epoch: self.vote.target,
            signing_root: Some(self.vote.signing_root),
        }
    }
}

/// The proof that a block passed [`check_block`]; made nowhere else and used once.
#[derive(Debug)]
#[must_use = "a permit does nothing until it is recorded"]
pub struct BlockPermit {
    key: PublicKeyBytes,
    proposal: BlockProposal,
    repeat: bool,
}

impl BlockPermit {
    /// Whose key may sign.
    pub fn key(&self) -> PublicKeyBytes {
        self.key
    }

    /// What may be signed.
    pub fn proposal(&self) -> &BlockProposal {
        &self.proposal
    }

    /// Whether exactly this was recorded before. The ledger then has its row already.
    pub fn is_repeat(&self) -> bool {
        self.repeat
    }

    /// The row the ledger must store before anything is signed.
    pub fn entry(&self) -> SignedBlock {
        SignedBlock { slot: self.proposal.slot, signing_root: Some(self.proposal.signing_root) }
    }
}

/// Why a message must not be signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No attestation of the chain looks like this, and the surround rule does not hold for it.
    #[error("source epoch {source_epoch} is after target epoch {target_epoch}: not a valid attestation")]
    SourceAfterTarget {
        /// Asked for.
        source_epoch: Epoch,
        /// Asked for.
        target_epoch: Epoch,
    },
    /// Two different votes for one target are slashable.
    #[error(
        "another attestation with target epoch {target_epoch} was already signed: signing this one is a slashable double vote"
    )]
    DoubleVote {
        /// The common target.
        target_epoch: Epoch,
    },
    /// The new vote spans an old one.
    #[error(
        "this attestation surrounds the signed one from epoch {source_epoch} to {target_epoch}: slashable"
    )]
    Surrounds {
        /// Of the signed attestation.
        source_epoch: Epoch,
        /// Of the signed attestation.
        target_epoch: Epoch,
    },
    /// An old vote spans the new one.
    #[error(
        "this attestation is surrounded by the signed one from epoch {source_epoch} to {target_epoch}: slashable"
    )]
    Surrounded {
        /// Of the signed attestation.
        source_epoch: Epoch,
        /// Of the signed attestation.
        target_epoch: Epoch,
    },
    /// Too old to be known.
    #[error("source epoch is below {floor}, where this box's knowledge of signed attestations begins")]
    SourceBelowFloor {
        /// The lowest source allowed.
        floor: Epoch,
    },
    /// Too old to be known.
    #[error("target epoch is not above {floor}, where this box's knowledge of signed attestations begins")]
    TargetBelowFloor {
        /// Targets must be higher.
        floor: Epoch,
    },
    /// Two different blocks of one slot are slashable.
    #[error("another block of slot {slot} was already signed: signing this one is slashable")]
    DoubleBlock {
        /// The common slot.
        slot: Slot,
    },
    /// Too old to be known.
    #[error("slot is not above {floor}, where this box's knowledge of signed blocks begins")]
    BlockBelowFloor {
        /// Slots must be higher.
        floor: Slot,
    },
    /// Without a history there is no permission.
    #[error("nothing is known about what key {key} has signed; import its history first")]
    UnknownKey {
        /// The key.
        key: PublicKeyBytes,
    },
}

/// Whether an attestation may be signed (EIP-3076 conditions 3 to 6).
pub fn check_attestation(history: &History, vote: &AttestationVote) -> Result<AttestationPermit, Refusal> {
    let AttestationVote { source, target, signing_root } = *vote;
    if source > target {
        return Err(Refusal::SourceAfterTarget { source_epoch: source, target_epoch: target });
    }
    let mut repeat = false;
    for known in history.attestations_at(target) {
        // Without a known signing root the signed vote may have been a different one.
        if known.signing_root != Some(signing_root) || known.source_epoch != source {
            return Err(Refusal::DoubleVote { target_epoch: target });
        }
        repeat = true;
    }
    let inner = history.attestations_before(target).find(|known| source < known.source_epoch);
    if let Some(known) = inner {
        return Err(Refusal::Surrounds {
            source_epoch: known.source_epoch,
            target_epoch: known.target_epoch,
        });
    }
    let outer = history.attestations_after(target).find(|known| known.source_epoch < source);
    if let Some(known) = outer {
        return Err(Refusal::Surrounded {
            source_epoch: known.source_epoch,
            target_epoch: known.target_epoch,
        });
    }
    if !repeat || history.binds_repeats() {
        // The repeat of a recorded vote adds nothing that was not signed already, so the floors do not bind it, unless the record
        // itself may be a forged one.
        if let Some(floor) = history.floors().source.filter(|floor| source < *floor) {
            return Err(Refusal::SourceBelowFloor { floor });
        }
        if let Some(floor) = history.floors().target.filter(|floor| target <= *floor) {
            return Err(Refusal::TargetBelowFloor { floor });
        }
    }
    Ok(AttestationPermit { key: history.key(), vote: *vote, repeat })
}

/// Whether a block may be signed (EIP-3076 conditions 1 and 2).
pub fn check_block(history: &History, proposal: &BlockProposal) -> Result<BlockPermit, Refusal> {
    let BlockProposal { slot, signing_root } = *proposal;
    let mut repeat = false;
    for known in history.blocks_at(slot) {
        if known.signing_root != Some(signing_root) {
            return Err(Refusal::DoubleBlock { slot });
        }
        repeat = true;
    }
    if (!repeat || history.binds_repeats())
        && let Some(floor) = history.floors().block.filter(|floor| slot <= *floor)
    {
        return Err(Refusal::BlockBelowFloor { floor });
    }
    Ok(BlockPermit { key: history.key(), proposal: *proposal, repeat })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{Floors, RecordError, Retention};

    const KEY: PublicKeyBytes = PublicKeyBytes([1; 48]);

    fn root(number: u8) -> Root {
        Root([number; 32])
    }

    fn vote(source: u64, target: u64, number: u8) -> AttestationVote {
        AttestationVote { source: Epoch(source), target: Epoch(target), signing_root: root(number) }
    }

    fn proposal(slot: u64, number: u8) -> BlockProposal {
        BlockProposal { slot: Slot(slot), signing_root: root(number) }
    }

    fn signed(votes: &[(u64, u64, Option<u8>)]) -> History {
        let entries = votes.iter().map(|(source, target, number)| SignedAttestation {
            source_epoch: Epoch(*source),
            target_epoch: Epoch(*target),
            signing_root: number.map(root),
        });
        History::restore(KEY, Retention::Complete, Floors::default(), [], entries)
    }

    #[test]
    fn attestations_are_judged_by_the_table() {
        let double = |target| Some(Refusal::DoubleVote { target_epoch: Epoch(target) });
        let surrounds = |source, target| {
            Some(Refusal::Surrounds { source_epoch: Epoch(source), target_epoch: Epoch(target) })
        };
        let surrounded = |source, target| {
            Some(Refusal::Surrounded { source_epoch: Epoch(source), target_epoch: Epoch(target) })
        };
        let low_source = |floor| Some(Refusal::SourceBelowFloor { floor: Epoch(floor) });
        let low_target = |floor| Some(Refusal::TargetBelowFloor { floor: Epoch(floor) });
        let backwards =
            |s, t| Some(Refusal::SourceAfterTarget { source_epoch: Epoch(s), target_epoch: Epoch(t) });
        let history = signed(&[(2, 3, Some(1)), (3, 4, None), (5, 9, Some(1))]);
        let cases = [
            (vote(9, 10, 1), None),
            (vote(5, 10, 1), None),
            (vote(4, 10, 1), surrounds(5, 9)),
            (vote(6, 8, 1), surrounded(5, 9)),
            (vote(5, 8, 1), None), // Shares its source with (5, 9): neither surrounds the other.
            (vote(4, 5, 1), None), // In the gap.
            (vote(2, 3, 1), None), // The same again.
            (vote(2, 3, 2), double(3)),
            (vote(1, 3, 1), double(3)),
            (vote(3, 4, 1), double(4)), // Signed before with an unknown root.
            (vote(5, 9, 2), double(9)),
            (vote(1, 2, 1), low_source(2)),
            (vote(2, 2, 1), low_target(3)),
            (vote(1, 10, 1), surrounds(2, 3)),
            (vote(10, 9, 1), backwards(10, 9)),
            (vote(u64::MAX, u64::MAX, 1), None),
        ];
        for (vote, expected) in cases {
            assert_eq!(check_attestation(&history, &vote).err(), expected, "{vote:?}");
        }
    }

    #[test]
    fn blocks_are_judged_by_the_table() {
        let entries = [(10, Some(1)), (12, None), (15, Some(1))]
            .map(|(slot, number)| SignedBlock { slot: Slot(slot), signing_root: number.map(root) });
        let history = History::restore(KEY, Retention::Complete, Floors::default(), entries, []);
        let cases = [
            (proposal(16, 1), None),
            (proposal(15, 1), None), // The same again.
            (proposal(15, 2), Some(Refusal::DoubleBlock { slot: Slot(15) })),
            (proposal(12, 1), Some(Refusal::DoubleBlock { slot: Slot(12) })),
            (proposal(11, 1), None), // In the gap.
            (proposal(10, 1), None),
            (proposal(9, 1), Some(Refusal::BlockBelowFloor { floor: Slot(10) })),
            (proposal(0, 1), Some(Refusal::BlockBelowFloor { floor: Slot(10) })),
        ];
        for (proposal, expected) in cases {
            assert_eq!(check_block(&history, &proposal).err(), expected, "{proposal:?}");
        }
    }

    #[test]
    fn a_permit_is_worthless_once_something_else_was_recorded() {
        let mut history = History::never_signed(KEY, Retention::Complete);
        let first = check_attestation(&history, &vote(0, 1, 1)).unwrap();
        let second = check_attestation(&history, &vote(0, 1, 2)).unwrap();
        history.record_attestation(first).unwrap();
        let refused = history.record_attestation(second).unwrap_err();
        assert_eq!(refused, RecordError::Stale(Refusal::DoubleVote { target_epoch: Epoch(1) }));
        let first = check_block(&history, &proposal(1, 1)).unwrap();
        let second = check_block(&history, &proposal(1, 2)).unwrap();
        history.record_block(first).unwrap();
        let refused = history.record_block(second).unwrap_err();
        assert_eq!(refused, RecordError::Stale(Refusal::DoubleBlock { slot: Slot(1) }));
    }

    #[test]
    fn a_permit_is_for_one_key_only() {
        let mine = History::never_signed(KEY, Retention::Complete);
        let mut other = History::never_signed(PublicKeyBytes([2; 48]), Retention::Complete);
        let permit = check_attestation(&mine, &vote(0, 1, 1)).unwrap();
        assert_eq!(other.record_attestation(permit), Err(RecordError::OtherKey(KEY)));
    }

    #[test]
    fn pruning_raises_the_floors_over_what_it_forgets() {
        let mut history = signed(&[(1, 2, Some(1)), (2, 3, Some(1)), (3, 10, Some(1))]);
        history.prune(0, 5);
        assert_eq!(history.floors(), Floors { block: None, source: Some(Epoch(2)), target: Some(Epoch(3)) });
        assert_eq!(history.attestations().count(), 1);
        assert!(check_attestation(&history, &vote(2, 3, 1)).is_err());
        assert!(check_attestation(&history, &vote(1, 11, 1)).is_err());
        assert!(check_attestation(&history, &vote(3, 10, 1)).unwrap().is_repeat());
    }

    #[test]
    fn what_a_file_names_is_never_signed_again_and_what_was_recorded_here_may_be() {
        let mut history = History::never_signed(KEY, Retention::Complete);
        let permit = check_attestation(&history, &vote(2, 3, 1)).unwrap();
        history.record_attestation(permit).unwrap();
        let permit = check_block(&history, &proposal(40, 1)).unwrap();
        history.record_block(permit).unwrap();
        let blocks = [(40, Some(1)), (30, Some(1)), (50, Some(1))]
            .map(|(slot, number)| SignedBlock { slot: Slot(slot), signing_root: number.map(root) });
        let attestations = [(2, 3), (1, 2), (4, 5)].map(|(source, target)| SignedAttestation {
            source_epoch: Epoch(source),
            target_epoch: Epoch(target),
            signing_root: Some(root(1)),
        });
        history.adopt(blocks, attestations);
        for (slot, number, allowed) in
            [(40, 1, true), (40, 2, false), (30, 1, false), (50, 1, false), (45, 1, false), (51, 1, true)]
        {
            assert_eq!(check_block(&history, &proposal(slot, number)).is_ok(), allowed, "{slot} {number}");
        }
        for (source, target, allowed) in
            [(2, 3, true), (1, 2, false), (4, 5, false), (3, 4, false), (3, 6, false), (4, 6, true)]
        {
            let found = check_attestation(&history, &vote(source, target, 1)).is_ok();
            assert_eq!(found, allowed, "{source} to {target}");
        }
    }

    #[test]
    fn where_records_may_be_forged_the_floors_bind_repeats_and_entries_refuse_as_before() {
        let mut history = signed(&[(2, 3, Some(1)), (8, 9, Some(1))]);
        let permit = check_block(&history, &proposal(70, 1)).unwrap();
        history.record_block(permit).unwrap();
        history.raise(Floors { block: Some(Slot(70)), source: Some(Epoch(5)), target: Some(Epoch(7)) });
        assert!(check_attestation(&history, &vote(2, 3, 1)).unwrap().is_repeat());
        assert!(check_block(&history, &proposal(70, 1)).unwrap().is_repeat());
        history.distrust_repeats();
        let below = Some(Refusal::SourceBelowFloor { floor: Epoch(5) });
        assert_eq!(check_attestation(&history, &vote(2, 3, 1)).err(), below);
        let below = Some(Refusal::BlockBelowFloor { floor: Slot(70) });
        assert_eq!(check_block(&history, &proposal(70, 1)).err(), below);
        // What lies above the floors was recorded after they were raised.
        assert!(check_attestation(&history, &vote(8, 9, 1)).unwrap().is_repeat());
        for (source, target) in [(8, 9), (7, 10), (9, 9)] {
            assert!(check_attestation(&history, &vote(source, target, 2)).is_err(), "{source} to {target}");
        }
    }

    #[test]
    fn watermarks_allow_nothing_twice() {
        let mut history = History::never_signed(KEY, Retention::Watermark);
        let permit = check_attestation(&history, &vote(0, 1, 1)).unwrap();
        history.record_attestation(permit).unwrap();
        assert!(check_attestation(&history, &vote(0, 1, 1)).is_err());
        assert_eq!(history.attestations().count(), 0);
    }
}
