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

    /// Votes that agreement needs: `ceil(2n/3)`, whatever the signature threshold is.
    pub fn quorum(&self) -> usize {
        (self.operators.len() * 2).div_ceil(3)
    }
}
