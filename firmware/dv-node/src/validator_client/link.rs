//! The validator API's way to the node's loop.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use beacon::validator_api::{AgreedBlock, Cluster, Message, PartialSignature, Unavailable};
use chain::{
    Attestation, AttestationData, CommitteeIndex, PublicKeyBytes, Root, SignatureBytes, Slot,
    SyncCommitteeContribution, ValidatorIndex,
};
use duty::{Duty, DutyKind, TaskId};
use tokio::sync::{mpsc, oneshot};

use super::question::{Question, Reply};
use crate::node::Event;

/// Validators that the chain knows, by index.
pub(crate) type Indices = Arc<RwLock<BTreeMap<ValidatorIndex, PublicKeyBytes>>>;

/// The way. The loop takes one question at a time.
#[derive(Debug, Clone)]
pub(crate) struct Link {
    events: mpsc::Sender<Event>,
    indices: Indices,
}

impl Link {
    pub(crate) fn new(events: mpsc::Sender<Event>, indices: Indices) -> Self {
        Self { events, indices }
    }

    async fn ask<T>(&self, question: impl FnOnce(Reply<T>) -> Question) -> Result<T, Unavailable> {
        let (reply, answer) = oneshot::channel();
        if self.events.send(Event::Client(question(reply))).await.is_err() {
            return Err(stopped());
        }
        answer.await.unwrap_or_else(|_| Err(stopped()))
    }
}

fn stopped() -> Unavailable {
    Unavailable::Failed("this member is stopping".to_owned())
}

impl Cluster for Link {
    fn validator(&self, index: ValidatorIndex) -> Option<PublicKeyBytes> {
        self.indices.read().unwrap_or_else(PoisonError::into_inner).get(&index).copied()
    }

    async fn proposer(&self, slot: Slot) -> Result<(ValidatorIndex, PublicKeyBytes), Unavailable> {
        self.ask(|reply| Question::Proposer(slot, reply)).await
    }

    async fn attestation_data(&self, slot: Slot) -> Result<AttestationData, Unavailable> {
        self.ask(|reply| Question::AttestationData(slot, reply)).await
    }

    async fn block(&self, slot: Slot) -> Result<Arc<AgreedBlock>, Unavailable> {
        self.ask(|reply| Question::Block(slot, reply)).await
    }

    async fn aggregate(
        &self,
        slot: Slot,
        data_root: Root,
        committee: CommitteeIndex,
    ) -> Result<Attestation, Unavailable> {
        self.ask(|reply| Question::Aggregate(slot, data_root, committee, reply)).await
    }

    async fn contribution(
        &self,
        slot: Slot,
        subcommittee: u64,
        block: Root,
    ) -> Result<SyncCommitteeContribution, Unavailable> {
        self.ask(|reply| Question::Contribution(slot, subcommittee, block, reply)).await
    }

    async fn selection(
        &self,
        validator: PublicKeyBytes,
        message: &Message,
    ) -> Result<SignatureBytes, Unavailable> {
        let id = TaskId { validator, subcommittee: message.subcommittee() };
        let duty = match message {
            Message::CommitteeSelection { slot } => Duty::new(*slot, DutyKind::PrepareAggregator),
            Message::SyncSelection { slot, .. } => Duty::new(*slot, DutyKind::PrepareSyncContribution),
            Message::Attestation { .. }
            | Message::Block { .. }
            | Message::Aggregate { .. }
            | Message::SyncVote { .. }
            | Message::Contribution(_)
            | Message::Randao { .. }
            | Message::Exit(_) => return Err(Unavailable::NoSuchDuty("not a selection".to_owned())),
        };
        self.ask(|reply| Question::Selection(duty, id, reply)).await
    }

    async fn take(&self, partials: Vec<PartialSignature>) -> Vec<Result<(), Unavailable>> {
        let count = partials.len();
        let (reply, answer) = oneshot::channel();
        let sent = self.events.send(Event::Client(Question::Take(partials, reply))).await;
        match (sent, answer.await) {
            (Ok(()), Ok(taken)) => taken,
            (Ok(()) | Err(_), _) => vec![Err(stopped()); count],
        }
    }
}

/// The kind of duty that a message belongs to.
pub(crate) fn kind_of(message: &Message) -> DutyKind {
    match message {
        Message::Attestation { .. } => DutyKind::Attester,
        Message::Block { .. } => DutyKind::Proposer,
        Message::Aggregate { .. } => DutyKind::Aggregator,
        Message::SyncVote { .. } => DutyKind::SyncMessage,
        Message::Contribution(_) => DutyKind::SyncContribution,
        Message::Randao { .. } => DutyKind::Randao,
        Message::CommitteeSelection { .. } => DutyKind::PrepareAggregator,
        Message::SyncSelection { .. } => DutyKind::PrepareSyncContribution,
        Message::Exit(_) => DutyKind::Exit,
    }
}
