//! What the validator API needs of the member that it belongs to.

use std::sync::Arc;

use chain::{
    Attestation, AttestationData, CommitteeIndex, ForkName, PublicKeyBytes, Root, SignatureBytes, Slot,
    SyncCommitteeContribution, UnsignedBlock, ValidatorIndex,
};

use super::message::{Message, PartialSignature};
use super::reply::ApiError;

/// Why there is nothing to give. Told as soon as it is known, so that a client never waits for its own timeout.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unavailable {
    /// The duty's deadline has passed.
    #[error("the deadline of this duty has passed ({0})")]
    TooLate(String),
    /// The cluster has no such duty.
    #[error("no such duty here ({0})")]
    NoSuchDuty(String),
    /// The duty was tried and failed.
    #[error("the cluster could not do this duty ({0})")]
    Failed(String),
    /// What was signed is not what the members agreed on.
    #[error("this is not what the members agreed on ({0})")]
    NotAgreed(String),
}

impl From<Unavailable> for ApiError {
    fn from(unavailable: Unavailable) -> Self {
        let status = match &unavailable {
            Unavailable::TooLate(_) | Unavailable::NotAgreed(_) => 400,
            Unavailable::NoSuchDuty(_) => 404,
            Unavailable::Failed(_) => 500,
        };
        ApiError::new(status, unavailable.to_string())
    }
}

/// The block that the members agreed on.
#[derive(Debug, PartialEq)]
pub struct AgreedBlock {
    /// Whose rules it follows.
    pub fork: ForkName,
    /// The block.
    pub block: UnsignedBlock,
}

/// One member of a cluster. Everything that waits ends by itself when the duty is over, with the reason.
pub trait Cluster: Send + Sync + 'static {
    /// The validator with this index, if it is one of the cluster's.
    fn validator(&self, index: ValidatorIndex) -> Option<PublicKeyBytes>;

    /// Which of the cluster's validators proposes in this slot.
    fn proposer(
        &self,
        slot: Slot,
    ) -> impl Future<Output = Result<(ValidatorIndex, PublicKeyBytes), Unavailable>> + Send;

    /// What the members agreed to vote for in this slot.
    fn attestation_data(
        &self,
        slot: Slot,
    ) -> impl Future<Output = Result<AttestationData, Unavailable>> + Send;

    /// The block that the members agreed on.
    fn block(&self, slot: Slot) -> impl Future<Output = Result<Arc<AgreedBlock>, Unavailable>> + Send;

    /// The aggregate that the members agreed on.
    fn aggregate(
        &self,
        slot: Slot,
        data_root: Root,
        committee: CommitteeIndex,
    ) -> impl Future<Output = Result<Attestation, Unavailable>> + Send;

    /// The contribution that the members agreed on.
    fn contribution(
        &self,
        slot: Slot,
        subcommittee: u64,
        block: Root,
    ) -> impl Future<Output = Result<SyncCommitteeContribution, Unavailable>> + Send;

    /// The group's proof of a selection ([`Message::CommitteeSelection`] or [`Message::SyncSelection`]).
    fn selection(
        &self,
        validator: PublicKeyBytes,
        message: &Message,
    ) -> impl Future<Output = Result<SignatureBytes, Unavailable>> + Send;

    /// Takes verified partial signatures; one answer for each.
    fn take(
        &self,
        partials: Vec<PartialSignature>,
    ) -> impl Future<Output = Vec<Result<(), Unavailable>>> + Send;
}
