//! What a running node needs to know of its cluster, taken from a verified lock.

use chain::{ExecutionAddress, ForkVersion, PublicKeyBytes, SignedValidatorRegistration};

use crate::enr::Enr;
use crate::identity::IdentityPublicKey;
use crate::lock::{Lock, LockError};
use crate::peer::PeerId;

/// Summary of a cluster. Only [`Lock::verify`] makes one, so holding it means the lock was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterView {
    /// Human name of the cluster.
    pub name: String,
    /// Hash that names the cluster everywhere.
    pub lock_hash: [u8; 32],
    /// Hash of the definition.
    pub definition_hash: [u8; 32],
    /// Genesis fork version of the chain.
    pub fork_version: ForkVersion,
    /// Partial signatures needed.
    pub threshold: u8,
    /// Preferred agreement protocol, empty for the default.
    pub consensus_protocol: String,
    /// Gas limit of blocks and registrations; 30,000,000 in files older than v1.10.
    pub target_gas_limit: u64,
    /// The members, in operator order.
    pub operators: Vec<OperatorView>,
    /// The validators, in lock order.
    pub validators: Vec<ValidatorView>,
}

/// One member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OperatorView {
    /// Position in the definition (0 is the first); the share index is one more.
    pub index: usize,
    /// ENR text.
    pub enr: String,
    /// Identity key.
    pub public_key: IdentityPublicKey,
    /// libp2p peer id.
    pub peer_id: PeerId,
    /// Two-word name.
    pub name: String,
}

/// One validator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ValidatorView {
    /// The validator's key on chain.
    pub group_public_key: PublicKeyBytes,
    /// Public shares, in operator order.
    pub public_shares: Vec<PublicKeyBytes>,
    /// Who is paid for blocks.
    pub fee_recipient: ExecutionAddress,
    /// Pre-signed builder registration, if the lock has one.
    pub builder_registration: Option<SignedValidatorRegistration>,
}

/// Gas limit of definitions that do not name one.
pub const DEFAULT_GAS_LIMIT: u64 = 30_000_000;

/// The least threshold of that many members with which two different messages of one duty cannot both be signed while at
/// most `floor((n-1)/3)` of them lie: any two groups of that size share a member that does not.
pub fn least_safe_threshold(members: usize) -> usize {
    (members + members.saturating_sub(1) / 3) / 2 + 1
}

impl ClusterView {
    pub(crate) fn new(lock: &Lock, records: &[Enr], threshold: u8) -> Result<Self, LockError> {
        let operators = records.iter().enumerate().map(|(index, record)| {
            let peer_id = record.peer_id();
            OperatorView {
                index,
                enr: record.as_str().to_owned(),
                public_key: record.public_key(),
                peer_id,
                name: peer_id.name(),
            }
        });
        let mut validators = Vec::with_capacity(lock.validators.len());
        for (index, validator) in lock.validators.iter().enumerate() {
            validators.push(ValidatorView {
                group_public_key: validator.public_key,
                public_shares: validator.public_shares.clone(),
                fee_recipient: lock.fee_recipient(index)?,
                builder_registration: validator.builder_registration,
            });
        }
        let definition = &lock.definition;
        Ok(Self {
            name: definition.name.clone(),
            lock_hash: lock.lock_hash,
            definition_hash: definition.definition_hash,
            fork_version: definition.fork_version,
            threshold,
            consensus_protocol: definition.consensus_protocol.clone(),
            target_gas_limit: match definition.target_gas_limit {
                0 => DEFAULT_GAS_LIMIT,
                limit => limit,
            },
            operators: operators.collect(),
            validators,
        })
    }

    /// The share index (1 to n) of the operator with this identity.
    pub fn share_index_of(&self, identity: &IdentityPublicKey) -> Result<u8, LockError> {
        let position = self.operators.iter().position(|operator| operator.public_key == *identity);
        position.and_then(|index| u8::try_from(index + 1).ok()).ok_or_else(|| LockError::OperatorNotInLock {
            peer_id: PeerId::from_public_key(identity).to_string(),
            cluster: self.name.clone(),
        })
    }

    /// The members that must be out before agreement stops: `n - ceil(2n/3)`.
    pub fn tolerated_faults(&self) -> usize {
        self.operators.len() - self.quorum()
    }

    /// The least threshold with which two different messages of one duty cannot both be signed while at most
    /// `floor((n-1)/3)` members lie: any two groups of that size share a member that does not.
    pub fn least_safe_threshold(&self) -> usize {
        least_safe_threshold(self.operators.len())
    }

    /// Whether the threshold is at least [`ClusterView::least_safe_threshold`]: `2t > n + floor((n-1)/3)`.
    pub fn threshold_is_safe(&self) -> bool {
        usize::from(self.threshold) >= self.least_safe_threshold()
    }

    /// Votes that agreement needs: `ceil(2n/3)`, whatever the signature threshold is.
    pub fn quorum(&self) -> usize {
        (self.operators.len() * 2).div_ceil(3)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::IdentityKey;

    fn view(members: usize, threshold: u8) -> ClusterView {
        let public_key = IdentityKey::from_bytes(zeroize::Zeroizing::new([1; 32])).unwrap().public_key();
        let peer_id = PeerId::from_public_key(&public_key);
        let operator =
            |index| OperatorView { index, enr: String::new(), public_key, peer_id, name: String::new() };
        ClusterView {
            name: String::new(),
            lock_hash: [0; 32],
            definition_hash: [0; 32],
            fork_version: ForkVersion([0; 4]),
            threshold,
            consensus_protocol: String::new(),
            target_gas_limit: DEFAULT_GAS_LIMIT,
            operators: (0..members).map(operator).collect(),
            validators: Vec::new(),
        }
    }

    #[test]
    fn a_threshold_is_safe_when_two_groups_share_an_honest_member() {
        for (members, least) in [(1, 1), (2, 2), (3, 2), (4, 3), (5, 4), (6, 4), (7, 5), (10, 7), (13, 9)] {
            assert!(view(members, least).threshold_is_safe(), "{least} of {members}");
            assert!(!view(members, least - 1).threshold_is_safe(), "{} of {members}", least - 1);
            let (t, faults) = (usize::from(least), (members - 1) / 3);
            assert!(2 * t > members + faults && 2 * (t - 1) <= members + faults, "{members}");
            assert!(t <= view(members, least).quorum(), "the usual threshold of {members} is safe");
        }
    }
}
