//! The SSZ containers that validators sign or that travel with what they sign, with the beacon API's JSON form.
//!
//! Types that depend on chain sizes take a [`crate::Preset`], mainnet unless said otherwise. A type that differs between
//! forks carries the first fork it is valid from in its documentation.

mod attestation;
mod block;
mod contents;
mod duties;
mod execution;
pub mod gloas;
mod message;
mod sync;

pub use attestation::{
    AggregateAndProof, Attestation, AttestationData, AttesterSlashing, Checkpoint, IndexedAttestation,
    Phase0AggregateAndProof, Phase0Attestation, SignedAggregateAndProof, SingleAttestation,
};
pub use block::{
    BeaconBlock, BeaconBlockBody, BeaconBlockHeader, BlindedBeaconBlock, BlindedBeaconBlockBody, Deposit,
    Eth1Data, ProposerSlashing, SignedBeaconBlock, SignedBeaconBlockHeader, SignedBlindedBeaconBlock,
};
pub use contents::{AnyBlock, BlockContents, InContents, SignedBlock, UnsignedBlock};
pub use duties::{
    AttesterDuty, BeaconCommitteeSelection, BeaconCommitteeSubscription, ProposerDuty, ProposerPreparation,
    SyncCommitteePosition, SyncCommitteeSelection, SyncCommitteeSubscription, SyncDuty,
};
pub use execution::{
    ConsolidationRequest, DepositRequest, ExecutionPayload, ExecutionPayloadHeader, ExecutionRequests,
    Transaction, Withdrawal, WithdrawalRequest,
};
pub use message::{
    BlsToExecutionChange, DepositData, DepositMessage, ForkData, SignedBlsToExecutionChange,
    SignedValidatorRegistration, SignedVoluntaryExit, SigningData, ValidatorRegistration, VoluntaryExit,
};
pub use sync::{
    ContributionAndProof, SignedContributionAndProof, SyncAggregate, SyncAggregatorSelectionData,
    SyncCommitteeContribution, SyncCommitteeMessage,
};
