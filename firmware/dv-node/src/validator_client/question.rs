//! What a validator client waits for.

use std::sync::Arc;

use beacon::validator_api::{AgreedBlock, PartialSignature, Unavailable};
use chain::{
    Attestation, AttestationData, CommitteeIndex, PublicKeyBytes, Root, SignatureBytes, Slot,
    SyncCommitteeContribution, ValidatorIndex,
};
use duty::{Duty, DutyKind, TaskId};
use tokio::sync::oneshot;

/// Where an answer goes.
pub(crate) type Reply<T> = oneshot::Sender<Result<T, Unavailable>>;

/// A question to the node's loop.
#[derive(Debug)]
pub(crate) enum Question {
    /// Who of ours proposes.
    Proposer(Slot, Reply<(ValidatorIndex, PublicKeyBytes)>),
    /// What to vote for.
    AttestationData(Slot, Reply<AttestationData>),
    /// Which block to sign.
    Block(Slot, Reply<Arc<AgreedBlock>>),
    /// Which aggregate to sign, by the root of its data and its committee.
    Aggregate(Slot, Root, CommitteeIndex, Reply<Attestation>),
    /// Which contribution to sign, by its subcommittee and block.
    Contribution(Slot, u64, Root, Reply<SyncCommitteeContribution>),
    /// The group's proof of a selection.
    Selection(Duty, TaskId, Reply<SignatureBytes>),
    /// Verified partial signatures.
    Take(Vec<PartialSignature>, oneshot::Sender<Vec<Result<(), Unavailable>>>),
}

impl Question {
    /// The duty that answers it.
    pub(crate) fn duty(&self) -> Option<Duty> {
        Some(match self {
            Self::AttestationData(slot, _) => Duty::new(*slot, DutyKind::Attester),
            Self::Proposer(slot, _) | Self::Block(slot, _) => Duty::new(*slot, DutyKind::Proposer),
            Self::Aggregate(slot, ..) => Duty::new(*slot, DutyKind::Aggregator),
            Self::Contribution(slot, ..) => Duty::new(*slot, DutyKind::SyncContribution),
            Self::Selection(duty, ..) => *duty,
            Self::Take(..) => return None,
        })
    }

    /// Says no.
    pub(crate) fn refuse(self, why: Unavailable) {
        // Whoever asked may have given up: fine.
        match self {
            Self::Proposer(_, reply) => drop(reply.send(Err(why))),
            Self::AttestationData(_, reply) => drop(reply.send(Err(why))),
            Self::Block(_, reply) => drop(reply.send(Err(why))),
            Self::Aggregate(_, _, _, reply) => drop(reply.send(Err(why))),
            Self::Contribution(_, _, _, reply) => drop(reply.send(Err(why))),
            Self::Selection(_, _, reply) => drop(reply.send(Err(why))),
            Self::Take(list, reply) => drop(reply.send(list.iter().map(|_| Err(why.clone())).collect())),
        }
    }

    /// Nobody waits for the answer any more.
    pub(crate) fn is_given_up(&self) -> bool {
        match self {
            Self::Proposer(_, reply) => reply.is_closed(),
            Self::AttestationData(_, reply) => reply.is_closed(),
            Self::Block(_, reply) => reply.is_closed(),
            Self::Aggregate(_, _, _, reply) => reply.is_closed(),
            Self::Contribution(_, _, _, reply) => reply.is_closed(),
            Self::Selection(_, _, reply) => reply.is_closed(),
            Self::Take(_, reply) => reply.is_closed(),
        }
    }
}
