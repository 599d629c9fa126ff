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
    if !repeat {
        // The repeat of a recorded vote adds nothing that was not signed already, so the floors do not bind it.
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
    if !repeat && let Some(floor) = history.floors().block.filter(|floor| slot <= *floor) {
        return Err(Refusal::BlockBelowFloor { floor });
    }
    Ok(BlockPermit { key: history.key(), proposal: *proposal, repeat })
}
