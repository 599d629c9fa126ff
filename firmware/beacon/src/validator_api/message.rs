//! What a validator client signs, and reading it.

use std::sync::Arc;

use chain::{
    AggregateAndProof, AttestationData, CommitteeIndex, ContributionAndProof, Epoch, ForkName,
    PublicKeyBytes, Root, SignatureBytes, SignedAggregateAndProof, SignedBlock, SignedContributionAndProof,
    SignedVoluntaryExit, SingleAttestation, Slot, SyncAggregatorSelectionData, SyncCommitteeMessage,
    ValidatorIndex, VoluntaryExit, domain,
};
use serde::de::DeserializeOwned;
use ssz::Decode;
use tree_hash::TreeHash as _;

use super::reply::{ApiError, Form};
use crate::ChainInfo;

/// Items of one list. A validator client has one for each of its validators, or one for each of an epoch.
pub(super) const MAX_ITEMS: usize = 16_384;

/// A message that was signed with our share.
#[derive(Debug, Clone, PartialEq)]
pub enum Message {
    /// A vote.
    Attestation {
        /// The attester's committee.
        committee: CommitteeIndex,
        /// The vote.
        data: AttestationData,
    },
    /// A block. It carries the signature once more.
    Block {
        /// Whose rules it follows.
        fork: ForkName,
        /// The block.
        block: Arc<SignedBlock>,
    },
    /// An aggregate.
    Aggregate {
        /// Whose rules it follows.
        fork: ForkName,
        /// The aggregate.
        aggregate: Box<AggregateAndProof>,
    },
    /// A sync-committee member's vote.
    SyncVote {
        /// For this slot.
        slot: Slot,
        /// For this block.
        block: Root,
    },
    /// A contribution.
    Contribution(Box<ContributionAndProof>),
    /// A RANDAO reveal.
    Randao {
        /// The proposal that it is for.
        slot: Slot,
        /// What is signed.
        epoch: Epoch,
    },
    /// A proof of selection as aggregator.
    CommitteeSelection {
        /// For this slot.
        slot: Slot,
    },
    /// A proof of selection as sync aggregator.
    SyncSelection {
        /// For this slot.
        slot: Slot,
        /// In this subcommittee.
        subcommittee: u64,
    },
    /// An exit.
    Exit(VoluntaryExit),
}

/// A verified partial signature of our share.
#[derive(Debug, Clone, PartialEq)]
pub struct PartialSignature {
    /// The validator's own key.
    pub validator: PublicKeyBytes,
    /// Its index.
    pub index: ValidatorIndex,
    /// What was signed.
    pub message: Message,
    /// With our share.
    pub signature: SignatureBytes,
}

impl Message {
    /// The slot that the message belongs to (obol.md 5.1).
    pub fn slot(&self, slots_per_epoch: u64) -> Slot {
        match self {
            Self::Attestation { data, .. } => data.slot,
            Self::Block { block, .. } => block.slot(),
            Self::Aggregate { aggregate, .. } => aggregate.aggregate.data.slot,
            Self::Contribution(contribution) => contribution.contribution.slot,
            Self::SyncVote { slot, .. }
            | Self::Randao { slot, .. }
            | Self::CommitteeSelection { slot }
            | Self::SyncSelection { slot, .. } => *slot,
            Self::Exit(exit) => exit.epoch.start_slot(slots_per_epoch),
        }
    }

    /// The sync subcommittee, where a validator may sit in several; otherwise 0.
    pub fn subcommittee(&self) -> u64 {
        match self {
            Self::SyncSelection { subcommittee, .. } => *subcommittee,
            Self::Contribution(contribution) => contribution.contribution.subcommittee_index,
            Self::Attestation { .. }
            | Self::Block { .. }
            | Self::Aggregate { .. }
            | Self::SyncVote { .. }
            | Self::Randao { .. }
            | Self::CommitteeSelection { .. }
            | Self::Exit(_) => 0,
        }
    }

    /// The root that groups partial signatures (obol.md 5.8).
    pub fn root(&self) -> Root {
        match self {
            Self::Attestation { data, .. } => data.tree_hash_root().into(),
            Self::Block { block, .. } => block.message_root(),
            Self::Aggregate { aggregate, .. } => aggregate.tree_hash_root().into(),
            Self::SyncVote { block, .. } => *block,
            Self::Contribution(contribution) => contribution.tree_hash_root().into(),
            Self::Randao { epoch, .. } => epoch.tree_hash_root().into(),
            Self::CommitteeSelection { slot } => slot.tree_hash_root().into(),
            Self::SyncSelection { slot, subcommittee } => {
                SyncAggregatorSelectionData { slot: *slot, subcommittee_index: *subcommittee }
                    .tree_hash_root()
                    .into()
            }
            Self::Exit(exit) => exit.tree_hash_root().into(),
        }
    }

    /// What is actually signed (obol.md 5.8).
    pub fn signing_root(&self, chain: &ChainInfo) -> Root {
        let of_slot = |slot: Slot| slot.epoch(chain.timing.slots_per_epoch);
        let own = self.slot(chain.timing.slots_per_epoch);
        let (kind, epoch) = match self {
            Self::Attestation { data, .. } => (domain::BEACON_ATTESTER, data.target.epoch),
            Self::Block { .. } => (domain::BEACON_PROPOSER, of_slot(own)),
            Self::Aggregate { .. } => (domain::AGGREGATE_AND_PROOF, of_slot(own)),
            Self::SyncVote { .. } => (domain::SYNC_COMMITTEE, of_slot(own)),
            Self::Contribution(_) => (domain::CONTRIBUTION_AND_PROOF, of_slot(own)),
            Self::Randao { epoch, .. } => (domain::RANDAO, *epoch),
            Self::CommitteeSelection { .. } => (domain::SELECTION_PROOF, of_slot(own)),
            Self::SyncSelection { .. } => (domain::SYNC_COMMITTEE_SELECTION_PROOF, of_slot(own)),
            Self::Exit(exit) => {
                // Since deneb exits are signed with capella's version for ever (EIP-7044).
                let capella = chain.schedule.version_of(ForkName::Capella);
                let version = match capella {
                    Some(capella) if chain.schedule.fork_name_at(exit.epoch) >= ForkName::Deneb => capella,
                    Some(_) | None => chain.schedule.fork_at(exit.epoch).current_version,
                };
                let domain =
                    chain::compute_domain(domain::VOLUNTARY_EXIT, version, chain.genesis_validators_root);
                return domain::signing_root_of(self.root(), domain);
            }
        };
        signing_root_at(self.root(), kind, epoch, chain)
    }
}

pub(super) fn signing_root_at(root: Root, kind: chain::DomainType, epoch: Epoch, chain: &ChainInfo) -> Root {
    let version = chain.schedule.fork_at(epoch).current_version;
    domain::signing_root_of(root, chain::compute_domain(kind, version, chain.genesis_validators_root))
}

/// One item of a submission as it was sent, before anything is verified.
#[derive(Debug, Clone, PartialEq)]
pub struct Claimed {
    /// Whose signature it is said to be.
    pub index: ValidatorIndex,
    /// What is said to be signed.
    pub message: Message,
    /// The signature.
    pub signature: SignatureBytes,
}

/// Reads a value of either form.
pub(super) fn read<T: DeserializeOwned + Decode>(form: Form, body: &[u8]) -> Result<T, ApiError> {
    if body.is_empty() {
        return Err(ApiError::bad("empty request body"));
    }
    match form {
        Form::Json => serde_json::from_slice(body)
            .map_err(|error| ApiError::bad(format!("failed parsing json request body: {error:.200}"))),
        Form::Ssz => {
            T::from_ssz_bytes(body).map_err(|_| ApiError::unsupported("failed parsing ssz request body"))
        }
    }
}

/// Reads a list of either form that is not endless. A list of nothing is one; no body at all is not.
pub(super) fn read_list<T: DeserializeOwned + Decode>(form: Form, body: &[u8]) -> Result<Vec<T>, ApiError> {
    let list: Vec<T> = match form {
        Form::Json if !body.is_empty() => serde_json::from_slice(body)
            .map_err(|error| ApiError::bad(format!("failed parsing json request body: {error:.200}")))?,
        Form::Ssz if !body.is_empty() => {
            Vec::from_ssz_bytes(body).map_err(|_| ApiError::unsupported("failed parsing ssz request body"))?
        }
        Form::Json | Form::Ssz => return Err(ApiError::bad("empty request body")),
    };
    bounded(list)
}

fn bounded<T>(list: Vec<T>) -> Result<Vec<T>, ApiError> {
    if list.len() > MAX_ITEMS {
        return Err(ApiError::bad(format!("{} items; send at most {MAX_ITEMS}", list.len())));
    }
    Ok(list)
}

/// The fork in `Eth-Consensus-Version`, which must be one whose containers we know.
pub fn fork_of(header: Option<&str>) -> Result<ForkName, ApiError> {
    let text = header.ok_or_else(|| ApiError::bad("Eth-Consensus-Version header is required"))?;
    match text.parse() {
        Ok(fork @ (ForkName::Electra | ForkName::Fulu)) => Ok(fork),
        _ => Err(ApiError::bad(format!("unsupported Eth-Consensus-Version {text:.20}"))),
    }
}

/// `POST /eth/v2/beacon/pool/attestations`, electra and later.
pub fn read_attestations(form: Form, body: &[u8]) -> Result<Vec<Claimed>, ApiError> {
    let list: Vec<SingleAttestation> = read_list(form, body)?;
    let claim = |item: SingleAttestation| Claimed {
        index: item.attester_index,
        message: Message::Attestation { committee: item.committee_index, data: item.data },
        signature: item.signature,
    };
    Ok(list.into_iter().map(claim).collect())
}

/// `POST /eth/v2/validator/aggregate_and_proofs`, electra and later.
pub fn read_aggregates(fork: ForkName, form: Form, body: &[u8]) -> Result<Vec<Claimed>, ApiError> {
    let list: Vec<SignedAggregateAndProof> = read_list(form, body)?;
    let claim = |item: SignedAggregateAndProof| Claimed {
        index: item.message.aggregator_index,
        message: Message::Aggregate { fork, aggregate: Box::new(item.message) },
        signature: item.signature,
    };
    Ok(list.into_iter().map(claim).collect())
}

/// `POST /eth/v1/beacon/pool/sync_committees`.
pub fn read_sync_messages(form: Form, body: &[u8]) -> Result<Vec<Claimed>, ApiError> {
    let list: Vec<SyncCommitteeMessage> = read_list(form, body)?;
    let claim = |item: SyncCommitteeMessage| Claimed {
        index: item.validator_index,
        message: Message::SyncVote { slot: item.slot, block: item.beacon_block_root },
        signature: item.signature,
    };
    Ok(list.into_iter().map(claim).collect())
}

/// `POST /eth/v1/validator/contribution_and_proofs`.
pub fn read_contributions(form: Form, body: &[u8]) -> Result<Vec<Claimed>, ApiError> {
    let list: Vec<SignedContributionAndProof> = read_list(form, body)?;
    let claim = |item: SignedContributionAndProof| Claimed {
        index: item.message.aggregator_index,
        message: Message::Contribution(Box::new(item.message)),
        signature: item.signature,
    };
    Ok(list.into_iter().map(claim).collect())
}

/// `POST /eth/v1/validator/beacon_committee_selections`.
pub fn read_committee_selections(form: Form, body: &[u8]) -> Result<Vec<Claimed>, ApiError> {
    let list: Vec<chain::BeaconCommitteeSelection> = read_json_list(form, body)?;
    let claim = |item: chain::BeaconCommitteeSelection| Claimed {
        index: item.validator_index,
        message: Message::CommitteeSelection { slot: item.slot },
        signature: item.selection_proof,
    };
    Ok(list.into_iter().map(claim).collect())
}

/// `POST /eth/v1/validator/sync_committee_selections`.
pub fn read_sync_selections(form: Form, body: &[u8]) -> Result<Vec<Claimed>, ApiError> {
    let list: Vec<chain::SyncCommitteeSelection> = read_json_list(form, body)?;
    let claim = |item: chain::SyncCommitteeSelection| Claimed {
        index: item.validator_index,
        message: Message::SyncSelection { slot: item.slot, subcommittee: item.subcommittee_index },
        signature: item.selection_proof,
    };
    Ok(list.into_iter().map(claim).collect())
}

/// Lists that have no SSZ form. The refusal makes clients send JSON.
fn read_json_list<T: DeserializeOwned>(form: Form, body: &[u8]) -> Result<Vec<T>, ApiError> {
    if form == Form::Ssz {
        return Err(ApiError::unsupported("Cannot read the supplied content type."));
    }
    if body.is_empty() {
        return Err(ApiError::bad("empty request body"));
    }
    let list: Vec<T> = serde_json::from_slice(body)
        .map_err(|error| ApiError::bad(format!("failed parsing json request body: {error:.200}")))?;
    bounded(list)
}

/// `POST /eth/v1/beacon/pool/voluntary_exits`.
pub fn read_exit(form: Form, body: &[u8]) -> Result<Claimed, ApiError> {
    let exit: SignedVoluntaryExit = read(form, body)?;
    Ok(Claimed {
        index: exit.message.validator_index,
        message: Message::Exit(exit.message),
        signature: exit.signature,
    })
}

/// `POST` of a block, full or blinded.
pub fn read_block(fork: ForkName, blinded: bool, form: Form, body: &[u8]) -> Result<Claimed, ApiError> {
    if body.is_empty() {
        return Err(ApiError::bad("empty request body"));
    }
    let block = match form {
        Form::Ssz => SignedBlock::from_ssz(blinded, body)
            .map_err(|_| ApiError::unsupported("failed parsing ssz request body"))?,
        Form::Json => {
            SignedBlock::deserialize_as(blinded, &mut serde_json::Deserializer::from_slice(body))
                .map_err(|error| ApiError::bad(format!("failed parsing json request body: {error:.200}")))?
        }
    };
    let (index, signature) = (block.proposer_index(), block.signature());
    Ok(Claimed { index, message: Message::Block { fork, block: Arc::new(block) }, signature })
}
