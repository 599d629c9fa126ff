//! The cluster lock: the result of key generation and the only configuration a node needs.

mod hash;
mod json;
mod pledges;
mod verify;

use chain::{DepositData, PublicKeyBytes, SignedValidatorRegistration};

use crate::definition::{Definition, DefinitionError, SchemaVersion};
use crate::document::{FieldError, hex_to};

pub use pledges::Pledge;

/// Why a lock was refused. Every text names the member; the remedy is nearly always the original file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LockError {
    /// Larger than any cluster file.
    #[error("cluster lock: {found} bytes is more than the {limit} a cluster file may have")]
    FileTooLarge {
        /// Most bytes allowed.
        limit: usize,
        /// Bytes found.
        found: usize,
    },
    /// Not JSON of the right shape.
    #[error(
        "cluster lock: not valid JSON of the expected form ({0}); copy cluster-lock.json again from its source"
    )]
    Json(String),
    /// The definition inside is wrong.
    #[error("cluster lock: {0}")]
    Definition(#[from] DefinitionError),
    /// One member is malformed.
    #[error("cluster lock: {0}")]
    Field(#[from] FieldError),
    /// The stored lock hash is not that of the content.
    #[error(
        "cluster lock: lock_hash is {found} but the content hashes to {expected}; the file was changed, get the original"
    )]
    LockHashMismatch {
        /// Hash of the content.
        expected: String,
        /// Hash in the file.
        found: String,
    },
    /// Validators and count disagree.
    #[error("cluster lock: num_validators is {expected} but 'distributed_validators' has {found} entries")]
    ValidatorCount {
        /// `num_validators` of the definition.
        expected: u64,
        /// Validators found.
        found: usize,
    },
    /// More operators than share indices.
    #[error("cluster lock: {0} operators; this box supports at most 255")]
    TooManyOperators(usize),
    /// The threshold cannot be met, or is zero.
    #[error("cluster lock: threshold {threshold} is impossible with {operators} operators")]
    Threshold {
        /// Threshold of the definition.
        threshold: u64,
        /// Number of operators.
        operators: usize,
    },
    /// Shares and operators disagree.
    #[error(
        "cluster lock: distributed_validators[{validator}] has {found} public shares for {operators} operators"
    )]
    ShareCount {
        /// Position of the validator.
        validator: usize,
        /// Number of operators.
        operators: usize,
        /// Shares found.
        found: usize,
    },
    /// One key twice.
    #[error("cluster lock: distributed_validators[{first}] and [{second}] have the same public key")]
    DuplicateValidator {
        /// Position of the first.
        first: usize,
        /// Position of the second.
        second: usize,
    },
    /// One share twice within a validator.
    #[error(
        "cluster lock: distributed_validators[{validator}]: public_shares[{first}] and [{second}] are the same"
    )]
    DuplicateShare {
        /// Position of the validator.
        validator: usize,
        /// Position of the first.
        first: usize,
        /// Position of the second.
        second: usize,
    },
    /// Not a point of the curve's right subgroup.
    #[error(
        "cluster lock: distributed_validators[{validator}] holds a public key that is not a valid BLS key"
    )]
    PublicKey {
        /// Position of the validator.
        validator: usize,
    },
    /// The first shares do not make the validator's key.
    #[error(
        "cluster lock: distributed_validators[{validator}]: the public shares do not make the validator key; the key generation went wrong, do not use or fund this cluster"
    )]
    SharesNotOfValidator {
        /// Position of the validator.
        validator: usize,
    },
    /// A later share is not on the polynomial of the others.
    #[error(
        "cluster lock: distributed_validators[{validator}]: public_shares[{share}] does not belong to the validator key; the key generation went wrong, do not use or fund this cluster"
    )]
    ShareNotOfValidator {
        /// Position of the validator.
        validator: usize,
        /// Position of the share.
        share: usize,
    },
    /// `signature_aggregate` is missing.
    #[error("cluster lock: 'signature_aggregate' is missing; get the complete file")]
    AggregateMissing,
    /// `signature_aggregate` does not verify.
    #[error(
        "cluster lock: 'signature_aggregate' was not made by all key shares of this lock; get the original file"
    )]
    AggregateInvalid,
    /// A registration is missing.
    #[error("cluster lock: distributed_validators[{validator}].builder_registration is missing")]
    RegistrationMissing {
        /// Position of the validator.
        validator: usize,
    },
    /// A registration where the version has none.
    #[error(
        "cluster lock: distributed_validators[{validator}].builder_registration is not allowed in version {version}"
    )]
    RegistrationNotAllowed {
        /// Position of the validator.
        validator: usize,
        /// The schema version.
        version: SchemaVersion,
    },
    /// A registration that does not verify.
    #[error(
        "cluster lock: distributed_validators[{validator}].builder_registration is not signed by the validator for the definition's fee recipient"
    )]
    RegistrationInvalid {
        /// Position of the validator.
        validator: usize,
    },
    /// Node signatures where the version has none.
    #[error("cluster lock: 'node_signatures' is not allowed in version {0}")]
    NodeSignaturesNotAllowed(SchemaVersion),
    /// Wrong number of node signatures.
    #[error("cluster lock: {found} node signatures for {operators} operators; get the complete file")]
    NodeSignatureCount {
        /// Number of operators.
        operators: usize,
        /// Signatures found.
        found: usize,
    },
    /// A node signature of another key.
    #[error(
        "cluster lock: node_signatures[{operator}] is not by the identity of operators[{operator}]; get the original file"
    )]
    NodeSignatureInvalid {
        /// Position of the operator.
        operator: usize,
    },
    /// This identity is not a member.
    #[error(
        "the identity key of this box (peer id {peer_id}) is no operator of the cluster '{cluster}'; import the charon-enr-private-key that belongs to this cluster-lock.json"
    )]
    OperatorNotInLock {
        /// Peer id of the identity.
        peer_id: String,
        /// Name of the cluster.
        cluster: String,
    },
}

/// A cluster lock of any schema version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lock {
    /// The definition the keys were made for.
    pub definition: Definition,
    /// The validators, in order.
    pub validators: Vec<DistributedValidator>,
    /// Plain BLS aggregate of every share's signature over the lock hash.
    pub signature_aggregate: Vec<u8>,
    /// Lock hash as found in the file.
    pub lock_hash: [u8; 32],
    /// One identity signature over the lock hash per operator (v1.7 and later).
    pub node_signatures: Vec<Vec<u8>>,
}

/// One validator of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DistributedValidator {
    /// The validator's (group) public key.
    pub public_key: PublicKeyBytes,
    /// The public shares, in operator order: share index is position plus one.
    pub public_shares: Vec<PublicKeyBytes>,
    /// Signed deposits (one in v1.6 and v1.7, several later).
    pub deposits: Vec<DepositData>,
    /// Pre-signed builder registration (v1.7 and later).
    pub builder_registration: Option<SignedValidatorRegistration>,
}

impl Lock {
    /// The lock hash as text, as Obol tools print it.
    pub fn lock_hash_hex(&self) -> String {
        hex_to(&self.lock_hash)
    }
}
