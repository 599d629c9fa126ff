//! Makes a whole cluster at once, as `charon create cluster` does: one party makes all keys and hands them out.
//!
//! For local chains and for owners who trust one machine for a moment. Members who trust nobody run a key-generation
//! ceremony instead. Nothing is signed with wallets here, so the operators' addresses stay empty.

mod files;

use chain::deposit::registration_signing_root;
use chain::{
    DepositData, DepositMessage, ExecutionAddress, Gwei, PublicKeyBytes, SignedValidatorRegistration,
    ValidatorRegistration,
};
use rand::{CryptoRng, RngCore};
use threshold::{HashedMessage, SecretKey, SecretShare, Signature};

use crate::definition::{Creator, Definition, DefinitionError, Operator, SchemaVersion, ValidatorAddresses};
use crate::deposit::{AmountsError, check_amounts, credentials, effective_amounts, signing_root};
use crate::document::{FieldError, FieldProblem, MAX_VALIDATORS};
use crate::enr::Enr;
use crate::identity::IdentityKey;
use crate::lock::{DistributedValidator, Lock, LockError};
use crate::network::Network;
use crate::primitives::checksum_address;
use crate::view::{ClusterView, least_safe_threshold};

pub use files::OutputFile;

/// Fewest members: with two, one failure stops the cluster.
const MIN_OPERATORS: usize = 3;
/// Most members: share indices are single bytes.
const MAX_SHARE_INDEX: usize = 255;

/// Gas limit that new clusters vote for (Charon's default since v1.5).
pub const NEW_GAS_LIMIT: u64 = 60_000_000;

/// Why a cluster could not be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CreateError {
    /// Too few or too many members.
    #[error("a cluster has 3 to 255 operators, not {0}")]
    Operators(usize),
    /// A threshold that cannot work, or that would let two groups sign different things while a third of the members lies.
    /// No box serves a cluster with such a threshold, so none is made.
    #[error(
        "a threshold of {threshold} does not fit {operators} operators: choose {least} to {operators}; {recommended} is recommended"
    )]
    Threshold {
        /// Asked for.
        threshold: u8,
        /// Number of operators.
        operators: usize,
        /// The least that is safe; see [`crate::least_safe_threshold`].
        least: usize,
        /// `ceil(2n/3)`.
        recommended: usize,
    },
    /// Too few or too many validators.
    #[error("a cluster has 1 to 65536 validators, not {0}")]
    Validators(usize),
    /// Neither one pair of addresses nor one per validator.
    #[error("{found} pairs of addresses for {validators} validators: give one for all, or one for each")]
    Addresses {
        /// Pairs given.
        found: usize,
        /// Number of validators.
        validators: usize,
    },
    /// The deposit amounts break a rule.
    #[error(transparent)]
    Amounts(#[from] AmountsError),
    /// A member is too long.
    #[error("cluster definition: {0}")]
    Field(#[from] FieldError),
    /// Splitting a key failed.
    #[error("the key of validator {0} could not be split; try again")]
    Split(usize),
    /// The finished lock does not pass its own check.
    #[error("the new lock does not verify, do not use it: {0}")]
    SelfCheck(#[from] LockError),
}

impl From<DefinitionError> for CreateError {
    fn from(error: DefinitionError) -> Self {
        Self::SelfCheck(error.into())
    }
}

/// Where rewards and stake of a validator go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses {
    /// Paid for proposed blocks.
    pub fee_recipient: ExecutionAddress,
    /// Receives withdrawals; cannot be changed later.
    pub withdrawal: ExecutionAddress,
}

/// What cluster to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateOptions {
    /// Human name.
    pub name: String,
    /// Number of members.
    pub operators: usize,
    /// Partial signatures needed; `None` means two thirds, rounded up.
    pub threshold: Option<u8>,
    /// Number of validators.
    pub validators: usize,
    /// The chain: public, or a local one.
    pub network: Network,
    /// One pair for all validators, or one for each.
    pub addresses: Vec<Addresses>,
    /// Deposit amounts; empty means 1 and 32 ETH (1, 8, 32 and 256 when compounding).
    pub deposit_amounts: Vec<Gwei>,
    /// 0x02 withdrawal credentials.
    pub compounding: bool,
    /// Gas limit of builder registrations.
    pub target_gas_limit: u64,
    /// Preferred agreement protocol; empty for the default.
    pub consensus_protocol: String,
    /// RFC 3339 time of creation, from the caller's clock.
    pub timestamp: String,
    /// Unix seconds in builder registrations; `None` means genesis, which is right for keys that never ran before.
    pub registration_time: Option<u64>,
}

impl CreateOptions {
    /// A cluster with the usual choices: one pair of addresses, default threshold, amounts and gas limit.
    pub fn new(
        name: &str,
        operators: usize,
        validators: usize,
        network: Network,
        addresses: Addresses,
    ) -> Self {
        Self {
            name: name.to_owned(),
            operators,
            threshold: None,
            validators,
            network,
            addresses: vec![addresses],
            deposit_amounts: Vec::new(),
            compounding: false,
            target_gas_limit: NEW_GAS_LIMIT,
            consensus_protocol: String::new(),
            timestamp: String::new(),
            registration_time: None,
        }
    }

    fn checked_threshold(&self) -> Result<u8, CreateError> {
        let operators = self.operators;
        if !(MIN_OPERATORS..=MAX_SHARE_INDEX).contains(&operators) {
            return Err(CreateError::Operators(operators));
        }
        let recommended = (operators * 2).div_ceil(3);
        let default = u8::try_from(recommended).map_err(|_| CreateError::Operators(operators))?;
        let threshold = self.threshold.unwrap_or(default);
        let least = least_safe_threshold(operators);
        if !(least..=operators).contains(&usize::from(threshold)) {
            return Err(CreateError::Threshold { threshold, operators, least, recommended });
        }
        Ok(threshold)
    }

    fn addresses_of(&self, validator: usize) -> Option<Addresses> {
        self.addresses.get(validator).or(self.addresses.first()).copied()
    }
}

/// A finished cluster with all its secrets.
pub struct CreatedCluster {
    /// The verified lock.
    pub lock: Lock,
    /// Summary of the lock.
    pub view: ClusterView,
    /// What each member gets, in operator order.
    pub nodes: Vec<CreatedNode>,
    network: Network,
}

/// The secrets of one member.
pub struct CreatedNode {
    /// Its identity.
    pub identity: IdentityKey,
    /// Its key shares, in validator order.
    pub shares: Vec<SecretShare>,
}

impl CreatedCluster {
    /// The validators' keys, in lock order.
    pub fn group_public_keys(&self) -> Vec<PublicKeyBytes> {
        self.lock.validators.iter().map(|validator| validator.public_key).collect()
    }

    /// Every signed deposit: per validator, smallest amount first.
    pub fn deposits(&self) -> impl Iterator<Item = &DepositData> {
        self.lock.validators.iter().flat_map(|validator| &validator.deposits)
    }
}

/// Makes a cluster with fresh validator keys.
pub fn cluster<R: RngCore + CryptoRng + ?Sized>(
    options: &CreateOptions,
    rng: &mut R,
) -> Result<CreatedCluster, CreateError> {
    let count = options.validators.min(MAX_VALIDATORS + 1);
    let secrets = (0..count).map(|_| SecretKey::random(rng)).collect();
    split_keys(options, secrets, rng)
}

/// Makes a cluster of existing validator keys, which must be running nowhere else.
pub fn split_keys<R: RngCore + CryptoRng + ?Sized>(
    options: &CreateOptions,
    secrets: Vec<SecretKey>,
    rng: &mut R,
) -> Result<CreatedCluster, CreateError> {
    let threshold = options.checked_threshold()?;
    let validators = secrets.len();
    if validators != options.validators || !(1..=MAX_VALIDATORS).contains(&validators) {
        return Err(CreateError::Validators(options.validators));
    }
    if options.addresses.len() != 1 && options.addresses.len() != validators {
        return Err(CreateError::Addresses { found: options.addresses.len(), validators });
    }
    check_amounts(&options.deposit_amounts, options.compounding)?;
    if options.target_gas_limit == 0 {
        return Err(FieldError::new("target_gas_limit", FieldProblem::MustBe("above 0")).into());
    }

    let mut nodes: Vec<CreatedNode> = (0..options.operators)
        .map(|_| CreatedNode { identity: IdentityKey::generate(rng), shares: Vec::new() })
        .collect();
    let mut distributed = Vec::with_capacity(validators);
    for (index, secret) in secrets.into_iter().enumerate() {
        let (validator, shares) = validator(options, index, secret, threshold, rng)?;
        distributed.push(validator);
        for (node, share) in nodes.iter_mut().zip(shares) {
            node.shares.push(share);
        }
    }
    let mut lock = Lock {
        definition: definition(options, threshold, &records_of(&nodes), rng)?,
        validators: distributed,
        signature_aggregate: Vec::new(),
        lock_hash: [0; 32],
        node_signatures: Vec::new(),
    };
    lock.lock_hash = lock.compute_lock_hash()?;
    lock.signature_aggregate = aggregate(&lock.lock_hash, &nodes);
    lock.node_signatures = nodes.iter().map(|node| node.identity.sign(&lock.lock_hash).to_vec()).collect();
    let view = lock.verify(std::slice::from_ref(&options.network))?;
    Ok(CreatedCluster { lock, view, nodes, network: options.network.clone() })
}

/// Makes a definition for a key-generation ceremony of these operators, as `charon create dkg` does. Nobody has signed it.
pub fn draft<R: RngCore + ?Sized>(
    options: &CreateOptions,
    operators: &[Enr],
    rng: &mut R,
) -> Result<Definition, CreateError> {
    let threshold = options.checked_threshold()?;
    if operators.len() != options.operators {
        return Err(CreateError::Operators(operators.len()));
    }
    if !(1..=MAX_VALIDATORS).contains(&options.validators) {
        return Err(CreateError::Validators(options.validators));
    }
    if options.addresses.len() != 1 && options.addresses.len() != options.validators {
        let (found, validators) = (options.addresses.len(), options.validators);
        return Err(CreateError::Addresses { found, validators });
    }
    check_amounts(&options.deposit_amounts, options.compounding)?;
    if options.target_gas_limit == 0 {
        return Err(FieldError::new("target_gas_limit", FieldProblem::MustBe("above 0")).into());
    }
    let records: Vec<String> = operators.iter().map(|record| record.as_str().to_owned()).collect();
    let definition = definition(options, threshold, &records, rng)?;
    definition.operator_records()?; // One identity twice is refused here already.
    Ok(definition)
}

fn records_of(nodes: &[CreatedNode]) -> Vec<String> {
    nodes.iter().map(|node| Enr::build(&node.identity).as_str().to_owned()).collect()
}

fn definition<R: RngCore + ?Sized>(
    options: &CreateOptions,
    threshold: u8,
    records: &[String],
    rng: &mut R,
) -> Result<Definition, CreateError> {
    let operators = records.iter().map(|record| Operator {
        address: String::new(),
        enr: record.clone(),
        config_signature: Some(Vec::new()),
        enr_signature: Some(Vec::new()),
    });
    let addresses = (0..options.validators).filter_map(|index| options.addresses_of(index));
    let validators = addresses.map(|pair| ValidatorAddresses {
        fee_recipient_address: checksum_address(&pair.fee_recipient.0),
        withdrawal_address: checksum_address(&pair.withdrawal.0),
    });
    let amounts = (!options.deposit_amounts.is_empty()).then(|| options.deposit_amounts.clone());
    let mut definition = Definition {
        name: options.name.clone(),
        creator: Creator::default(),
        operators: operators.collect(),
        uuid: random_uuid(rng),
        version: SchemaVersion::V1_10,
        timestamp: options.timestamp.clone(),
        num_validators: u64::try_from(options.validators)
            .map_err(|_| CreateError::Validators(options.validators))?,
        threshold: u64::from(threshold),
        validators: validators.collect(),
        dkg_algorithm: "default".to_owned(),
        fork_version: options.network.genesis_fork_version,
        deposit_amounts: amounts,
        consensus_protocol: options.consensus_protocol.clone(),
        target_gas_limit: options.target_gas_limit,
        compounding: options.compounding,
        config_hash: [0; 32],
        definition_hash: [0; 32],
    };
    definition.set_hashes()?;
    Ok(definition)
}

/// Signs what the validator key has to sign, then splits the key.
fn validator<R: RngCore + CryptoRng + ?Sized>(
    options: &CreateOptions,
    index: usize,
    secret: SecretKey,
    threshold: u8,
    rng: &mut R,
) -> Result<(DistributedValidator, Vec<SecretShare>), CreateError> {
    let missing = CreateError::Addresses { found: options.addresses.len(), validators: options.validators };
    let addresses = options.addresses_of(index).ok_or(missing)?;
    let public_key = secret.public_key().to_bytes();
    let fork_version = options.network.genesis_fork_version;

    let deposits =
        effective_amounts(&options.deposit_amounts, options.compounding).into_iter().map(|amount| {
            let withdrawal_credentials = credentials(addresses.withdrawal, options.compounding);
            let message = DepositMessage { pubkey: public_key, withdrawal_credentials, amount };
            let signature = secret.sign(&signing_root(&message, fork_version).0).to_bytes();
            DepositData { pubkey: public_key, withdrawal_credentials, amount, signature }
        });
    let deposits = deposits.collect();

    let message = ValidatorRegistration {
        fee_recipient: addresses.fee_recipient,
        gas_limit: options.target_gas_limit,
        timestamp: options.registration_time.unwrap_or(options.network.genesis_time),
        pubkey: public_key,
    };
    let signature = secret.sign(&registration_signing_root(&message, fork_version).0).to_bytes();

    let split = threshold::split(secret, usize::from(threshold), options.operators, rng)
        .map_err(|_| CreateError::Split(index))?;
    let public_shares = split.shares.iter().map(|share| share.public_share().key.to_bytes()).collect();
    let validator = DistributedValidator {
        public_key,
        public_shares,
        deposits,
        builder_registration: Some(SignedValidatorRegistration { message, signature }),
    };
    Ok((validator, split.shares))
}

/// Sum of every share's signature over the lock hash.
fn aggregate(lock_hash: &[u8; 32], nodes: &[CreatedNode]) -> Vec<u8> {
    let message = HashedMessage::new(lock_hash);
    let shares = nodes.iter().flat_map(|node| &node.shares);
    let signatures: Vec<Signature> = shares.map(|share| share.key().sign_hashed(&message)).collect();
    match threshold::aggregate_signatures(&signatures) {
        Ok(signature) => signature.to_bytes().0.to_vec(),
        Err(_) => Vec::new(), // No validator at all, which was refused before.
    }
}

/// A random UUID in the capitals Obol writes.
pub(crate) fn random_uuid<R: RngCore + ?Sized>(rng: &mut R) -> String {
    let mut bytes = [0; 16];
    rng.fill_bytes(&mut bytes);
    uuid::Builder::from_random_bytes(bytes).into_uuid().to_string().to_uppercase()
}
