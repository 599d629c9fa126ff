//! Signature domains and signing roots.

use crate::containers::{ForkData, SigningData};
use crate::{Domain, DomainType, Epoch, ForkInfo, ForkVersion, Root};
use tree_hash::TreeHash;

/// Block proposals.
pub const BEACON_PROPOSER: DomainType = DomainType([0, 0, 0, 0]);
/// Attestations.
pub const BEACON_ATTESTER: DomainType = DomainType([1, 0, 0, 0]);
/// RANDAO reveals.
pub const RANDAO: DomainType = DomainType([2, 0, 0, 0]);
/// Deposits.
pub const DEPOSIT: DomainType = DomainType([3, 0, 0, 0]);
/// Voluntary exits.
pub const VOLUNTARY_EXIT: DomainType = DomainType([4, 0, 0, 0]);
/// Attestation aggregator selection.
pub const SELECTION_PROOF: DomainType = DomainType([5, 0, 0, 0]);
/// Aggregates.
pub const AGGREGATE_AND_PROOF: DomainType = DomainType([6, 0, 0, 0]);
/// Sync-committee messages.
pub const SYNC_COMMITTEE: DomainType = DomainType([7, 0, 0, 0]);
/// Sync-committee aggregator selection.
pub const SYNC_COMMITTEE_SELECTION_PROOF: DomainType = DomainType([8, 0, 0, 0]);
/// Sync-committee contributions.
pub const CONTRIBUTION_AND_PROOF: DomainType = DomainType([9, 0, 0, 0]);
/// Changes from BLS to execution withdrawal credentials.
pub const BLS_TO_EXECUTION_CHANGE: DomainType = DomainType([10, 0, 0, 0]);
/// Execution payload bids and envelopes of builders (draft fork gloas).
pub const BEACON_BUILDER: DomainType = DomainType([11, 0, 0, 0]);
/// Payload attestations (draft fork gloas).
pub const PTC_ATTESTER: DomainType = DomainType([12, 0, 0, 0]);
/// Proposer preferences (draft fork gloas).
pub const PROPOSER_PREFERENCES: DomainType = DomainType([13, 0, 0, 0]);
/// Builder registrations (builder-specs).
pub const APPLICATION_BUILDER: DomainType = DomainType([0, 0, 0, 1]);

/// `compute_fork_data_root` of the consensus specifications.
pub fn fork_data_root(current_version: ForkVersion, genesis_validators_root: Root) -> Root {
    ForkData { current_version, genesis_validators_root }.tree_hash_root().into()
}

/// `compute_domain` of the consensus specifications.
pub fn compute_domain(
    domain_type: DomainType,
    fork_version: ForkVersion,
    genesis_validators_root: Root,
) -> Domain {
    let fork_data_root = fork_data_root(fork_version, genesis_validators_root);
    let mut domain = [0; 32];
    domain[..4].copy_from_slice(&domain_type.0);
    domain[4..].copy_from_slice(&fork_data_root.0[..28]);
    Domain(domain)
}

/// `get_domain`: the domain of a message that belongs to `epoch`. A message of before the fork keeps the version of before.
pub fn domain_at(domain_type: DomainType, epoch: Epoch, fork_info: &ForkInfo) -> Domain {
    compute_domain(domain_type, fork_info.fork.version_at(epoch), fork_info.genesis_validators_root)
}

/// The domain of deposits and builder registrations: genesis version, no chain root, so that they outlive forks and
/// can be made before genesis.
pub fn genesis_domain(domain_type: DomainType, genesis_version: ForkVersion) -> Domain {
    compute_domain(domain_type, genesis_version, Root::ZERO)
}

/// `compute_signing_root`: what a key actually signs.
pub fn signing_root(object: &impl TreeHash, domain: Domain) -> Root {
    signing_root_of(object.tree_hash_root().into(), domain)
}

/// The signing root of an object whose hash tree root is known.
pub fn signing_root_of(object_root: Root, domain: Domain) -> Root {
    SigningData { object_root, domain }.tree_hash_root().into()
}
