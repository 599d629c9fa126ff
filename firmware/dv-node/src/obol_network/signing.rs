//! What is signed for each duty: the domain, and the whole message as the signer wants it.

use chain::{
    BeaconBlockHeader, DomainType, Epoch, ForkInfo, ForkName, Root, Slot, SyncAggregatorSelectionData, domain,
};
use duty::{Duty, DutyKind, Unreadable};
use ipc::SignRequest;
use obol::attestation::AnyAggregate;
use obol::signed::Signed;
use serde::Serialize;

use super::{ObolNetwork, proposer, read_signed};

/// The message of a `RANDAO_REVEAL`.
#[derive(Serialize)]
struct AtEpoch {
    epoch: Epoch,
}

/// The message of an `AGGREGATION_SLOT`.
#[derive(Serialize)]
struct AtSlot {
    slot: Slot,
}

/// The message of a `SYNC_COMMITTEE_MESSAGE`.
#[derive(Serialize)]
struct Head {
    beacon_block_root: Root,
    slot: Slot,
}

/// The message of a `BLOCK_V2`.
#[derive(Serialize)]
struct BlockV2 {
    version: String,
    block_header: BeaconBlockHeader,
}

/// The message of an `AGGREGATE_AND_PROOF_V2`.
#[derive(Serialize)]
struct Versioned<'a, T> {
    version: String,
    data: &'a T,
}

impl ObolNetwork {
    /// What a share signs for a message of this duty (obol.md 5.8). Every message of a duty belongs to the epoch of the
    /// duty's slot; one that says otherwise has another message root than the honest ones.
    pub fn signing_root(&self, duty: Duty, message_root: Root) -> Root {
        let epoch = self.timing.epoch_of(duty.slot);
        let domain = match duty.kind {
            DutyKind::BuilderRegistration => {
                domain::genesis_domain(domain::APPLICATION_BUILDER, self.schedule.genesis_version())
            }
            DutyKind::Exit => self.exit_domain(epoch),
            DutyKind::Proposer
            | DutyKind::Attester
            | DutyKind::Randao
            | DutyKind::PrepareAggregator
            | DutyKind::Aggregator
            | DutyKind::SyncMessage
            | DutyKind::PrepareSyncContribution
            | DutyKind::SyncContribution
            | DutyKind::InfoSync => domain::domain_at(domain_type(duty.kind), epoch, &self.fork_info(duty)),
        };
        domain::signing_root_of(message_root, domain)
    }

    /// Fork and chain of a duty.
    pub fn fork_info(&self, duty: Duty) -> ForkInfo {
        ForkInfo {
            fork: self.schedule.fork_at(self.timing.epoch_of(duty.slot)),
            genesis_validators_root: self.genesis_validators_root,
        }
    }

    /// From deneb on exits are signed with capella's version for ever (EIP-7044).
    fn exit_domain(&self, epoch: Epoch) -> chain::Domain {
        let lasting = self.schedule.fork_name_at(epoch) >= ForkName::Deneb;
        let capella = self.schedule.version_of(ForkName::Capella).filter(|_| lasting);
        let version = capella.unwrap_or_else(|| self.schedule.fork_at(epoch).version_at(epoch));
        domain::compute_domain(domain::VOLUNTARY_EXIT, version, self.genesis_validators_root)
    }

    /// The whole message of a payload, for the signer.
    pub fn sign_request(&self, duty: Duty, payload: &[u8]) -> Result<SignRequest, Unreadable> {
        let fork_info = self.fork_info(duty);
        let fork = self.schedule.fork_name_at(self.timing.epoch_of(duty.slot));
        let version = fork.as_str().to_ascii_uppercase();
        let request = match read_signed(duty, payload)? {
            Signed::Attestation(versioned) => {
                SignRequest::attestation(fork_info, versioned.attestation.data())
            }
            Signed::Proposal(proposal) => {
                let block = BlockV2 { version, block_header: proposer::header_of(&proposal) };
                SignRequest::new("BLOCK_V2", Some(fork_info), "beacon_block", &block)
            }
            Signed::Randao(randao) => {
                let message = AtEpoch { epoch: randao.epoch };
                SignRequest::new("RANDAO_REVEAL", Some(fork_info), "randao_reveal", &message)
            }
            Signed::CommitteeSelection(selection) => {
                let message = AtSlot { slot: selection.slot };
                SignRequest::new("AGGREGATION_SLOT", Some(fork_info), "aggregation_slot", &message)
            }
            Signed::Aggregate(aggregate) => {
                let AnyAggregate::Electra(signed) = &aggregate.aggregate_and_proof else {
                    return Err(Unreadable("an aggregate from before electra".to_owned()));
                };
                let message = Versioned { version, data: &signed.message };
                SignRequest::new("AGGREGATE_AND_PROOF_V2", Some(fork_info), "aggregate_and_proof", &message)
            }
            Signed::SyncMessage(vote) => {
                let message = Head { beacon_block_root: vote.beacon_block_root, slot: vote.slot };
                let field = "sync_committee_message";
                SignRequest::new("SYNC_COMMITTEE_MESSAGE", Some(fork_info), field, &message)
            }
            Signed::SyncSelection(selection) => {
                let message = SyncAggregatorSelectionData {
                    slot: selection.slot,
                    subcommittee_index: selection.subcommittee_index,
                };
                let field = "sync_aggregator_selection_data";
                SignRequest::new("SYNC_COMMITTEE_SELECTION_PROOF", Some(fork_info), field, &message)
            }
            Signed::Contribution(signed) => {
                let kind = "SYNC_COMMITTEE_CONTRIBUTION_AND_PROOF";
                SignRequest::new(kind, Some(fork_info), "contribution_and_proof", &signed.message)
            }
            Signed::Exit(exit) => {
                SignRequest::new("VOLUNTARY_EXIT", Some(fork_info), "voluntary_exit", &exit.message)
            }
            Signed::Registration(versioned) => {
                let message = &versioned.registration.message;
                SignRequest::new("VALIDATOR_REGISTRATION", None, "validator_registration", message)
            }
            Signed::Raw(_) => return Err(Unreadable("bytes without a meaning are never signed".to_owned())),
        };
        request.map_err(|error| Unreadable(error.to_string()))
    }
}

fn domain_type(kind: DutyKind) -> DomainType {
    match kind {
        DutyKind::Proposer => domain::BEACON_PROPOSER,
        DutyKind::Attester => domain::BEACON_ATTESTER,
        DutyKind::Exit => domain::VOLUNTARY_EXIT,
        DutyKind::BuilderRegistration => domain::APPLICATION_BUILDER,
        DutyKind::Randao => domain::RANDAO,
        DutyKind::PrepareAggregator => domain::SELECTION_PROOF,
        DutyKind::Aggregator => domain::AGGREGATE_AND_PROOF,
        // Nothing is signed for an info-sync.
        DutyKind::SyncMessage | DutyKind::InfoSync => domain::SYNC_COMMITTEE,
        DutyKind::PrepareSyncContribution => domain::SYNC_COMMITTEE_SELECTION_PROOF,
        DutyKind::SyncContribution => domain::CONTRIBUTION_AND_PROOF,
    }
}
