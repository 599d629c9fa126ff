//! The partially signed objects that members exchange, and what is signed in each.

pub use chain::{BeaconCommitteeSelection, SyncCommitteeSelection};
use chain::{
    Epoch, Root, SignatureBytes, SignedContributionAndProof, SignedValidatorRegistration,
    SignedVoluntaryExit, SyncAggregatorSelectionData, SyncCommitteeMessage,
};
use serde::{Deserialize, Serialize};
use ssz::Encode as _;
use tree_hash::TreeHash as _;

use crate::attestation::{VersionedAggregate, VersionedAttestation};
use crate::duty::DutyType;
use crate::proposal::VersionedSignedProposal;
use crate::versioned::{self, DecodeError};

/// A RANDAO reveal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedRandao {
    /// The epoch signed.
    pub epoch: Epoch,
    /// The signature.
    pub signature: SignatureBytes,
}

/// `VersionedSignedValidatorRegistration`; there is only version 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionedRegistration {
    /// Always 0.
    pub version: u64,
    /// The registration.
    pub registration: SignedValidatorRegistration,
}

/// One partially signed object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Signed {
    /// Duty 1.
    Proposal(VersionedSignedProposal),
    /// Duty 2.
    Attestation(VersionedAttestation),
    /// Duty 3, key generation only: bytes whose meaning the ceremony knows.
    Raw(Vec<u8>),
    /// Duty 4.
    Exit(SignedVoluntaryExit),
    /// Duty 6.
    Registration(VersionedRegistration),
    /// Duty 7.
    Randao(SignedRandao),
    /// Duty 8.
    CommitteeSelection(BeaconCommitteeSelection),
    /// Duty 9.
    Aggregate(VersionedAggregate),
    /// Duty 10.
    SyncMessage(SyncCommitteeMessage),
    /// Duty 11.
    SyncSelection(SyncCommitteeSelection),
    /// Duty 12.
    Contribution(SignedContributionAndProof),
}

impl Signed {
    /// Reads the object of a duty: SSZ where the type has that form, then JSON.
    pub fn decode(kind: DutyType, bytes: &[u8]) -> Result<Self, DecodeError> {
        match kind {
            DutyType::Proposer => VersionedSignedProposal::decode(bytes).map(Self::Proposal),
            DutyType::Attester => VersionedAttestation::decode(bytes).map(Self::Attestation),
            DutyType::Aggregator => VersionedAggregate::decode(bytes).map(Self::Aggregate),
            DutyType::SyncMessage => ssz_or_json(bytes).map(Self::SyncMessage),
            DutyType::SyncContribution => ssz_or_json(bytes).map(Self::Contribution),
            DutyType::Exit => ssz_or_json(bytes).map(Self::Exit),
            DutyType::Randao => versioned::json(bytes).map(Self::Randao),
            DutyType::PrepareAggregator => versioned::json(bytes).map(Self::CommitteeSelection),
            DutyType::PrepareSyncContribution => versioned::json(bytes).map(Self::SyncSelection),
            DutyType::BuilderRegistration => {
                let registration: VersionedRegistration = versioned::json(bytes)?;
                if registration.version != 0 {
                    return Err(DecodeError::UnknownFork(registration.version));
                }
                Ok(Self::Registration(registration))
            }
            DutyType::Signature => {
                let text: String = serde_json::from_slice(bytes).map_err(|_| DecodeError::Malformed)?;
                base64_decode(&text).map(Self::Raw).ok_or(DecodeError::Malformed)
            }
            DutyType::BuilderProposer | DutyType::InfoSync => Err(DecodeError::NotForThisDuty),
        }
    }

    /// The form on the wire.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Proposal(proposal) => proposal.encode(),
            Self::Attestation(attestation) => attestation.encode(),
            Self::Raw(bytes) => versioned::to_json(&base64_encode(bytes)),
            Self::Exit(exit) => versioned::to_json(exit),
            Self::Registration(registration) => versioned::to_json(registration),
            Self::Randao(randao) => versioned::to_json(randao),
            Self::CommitteeSelection(selection) => versioned::to_json(selection),
            Self::Aggregate(aggregate) => aggregate.encode(),
            Self::SyncMessage(message) => message.as_ssz_bytes(),
            Self::SyncSelection(selection) => versioned::to_json(selection),
            Self::Contribution(contribution) => contribution.as_ssz_bytes(),
        }
    }

    /// What is signed; partial signatures of equal roots belong together. `None` for raw signatures.
    pub fn message_root(&self) -> Option<Root> {
        Some(match self {
            Self::Proposal(proposal) => proposal.message_root(),
            Self::Attestation(versioned) => versioned.attestation.data().tree_hash_root().into(),
            Self::Raw(_) => return None,
            Self::Exit(exit) => exit.message.tree_hash_root().into(),
            Self::Registration(versioned) => versioned.registration.message.tree_hash_root().into(),
            Self::Randao(randao) => randao.epoch.tree_hash_root().into(),
            Self::CommitteeSelection(selection) => selection.slot.tree_hash_root().into(),
            Self::Aggregate(versioned) => versioned.aggregate_and_proof.message_root(),
            Self::SyncMessage(message) => message.beacon_block_root,
            Self::SyncSelection(selection) => {
                let SyncCommitteeSelection { slot, subcommittee_index, .. } = *selection;
                SyncAggregatorSelectionData { slot, subcommittee_index }.tree_hash_root().into()
            }
            Self::Contribution(contribution) => contribution.message.tree_hash_root().into(),
        })
    }

    /// The signature. `None` for raw signatures, whose kind only the ceremony knows.
    pub fn signature(&self) -> Option<SignatureBytes> {
        Some(match self {
            Self::Proposal(proposal) => proposal.signature(),
            Self::Attestation(versioned) => versioned.attestation.signature(),
            Self::Raw(_) => return None,
            Self::Exit(exit) => exit.signature,
            Self::Registration(versioned) => versioned.registration.signature,
            Self::Randao(randao) => randao.signature,
            Self::CommitteeSelection(selection) => selection.selection_proof,
            Self::Aggregate(versioned) => versioned.aggregate_and_proof.signature(),
            Self::SyncMessage(message) => message.signature,
            Self::SyncSelection(selection) => selection.selection_proof,
            Self::Contribution(contribution) => contribution.signature,
        })
    }

    /// The same object under another signature: how the group's result is made from one of the partial ones.
    #[must_use]
    pub fn with_signature(mut self, signature: SignatureBytes) -> Self {
        match &mut self {
            Self::Proposal(proposal) => proposal.set_signature(signature),
            Self::Attestation(versioned) => versioned.attestation.set_signature(signature),
            Self::Raw(bytes) => *bytes = signature.0.to_vec(),
            Self::Exit(exit) => exit.signature = signature,
            Self::Registration(versioned) => versioned.registration.signature = signature,
            Self::Randao(randao) => randao.signature = signature,
            Self::CommitteeSelection(selection) => selection.selection_proof = signature,
            Self::Aggregate(versioned) => versioned.aggregate_and_proof.set_signature(signature),
            Self::SyncMessage(message) => message.signature = signature,
            Self::SyncSelection(selection) => selection.selection_proof = signature,
            Self::Contribution(contribution) => contribution.signature = signature,
        }
        self
    }

    /// Subcommittee that keeps apart the several messages of one validator and duty; 0 where there is only one.
    pub fn subcommittee(&self) -> u64 {
        match self {
            Self::SyncSelection(selection) => selection.subcommittee_index,
            Self::Contribution(contribution) => contribution.message.contribution.subcommittee_index,
            Self::Proposal(_)
            | Self::Attestation(_)
            | Self::Raw(_)
            | Self::Exit(_)
            | Self::Registration(_)
            | Self::Randao(_)
            | Self::CommitteeSelection(_)
            | Self::Aggregate(_)
            | Self::SyncMessage(_) => 0,
        }
    }
}

fn ssz_or_json<T: ssz::Decode + serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T, DecodeError> {
    versioned::ssz(bytes).or_else(|_| versioned::json(bytes))
}

fn base64_encode(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

fn base64_decode(text: &str) -> Option<Vec<u8>> {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.decode(text).ok()
}
