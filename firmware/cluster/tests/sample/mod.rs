//! A small cluster, in any schema version, and the means to seal it again after it was tampered with.

#![allow(dead_code, reason = "each file of tests needs its own part")]

use chain::ExecutionAddress;
use cluster::create::{self, Addresses, CreateOptions, CreatedCluster};
use cluster::definition::Creator;
use cluster::eip712::{Statement, digest};
use cluster::{IdentityKey, Lock, Network, SchemaVersion};
use rand::SeedableRng;
use rand_chacha::ChaCha20Rng;
use threshold::{HashedMessage, Signature};

pub(crate) fn options(operators: usize, validators: usize) -> CreateOptions {
    let addresses =
        Addresses { fee_recipient: ExecutionAddress([0xfe; 20]), withdrawal: ExecutionAddress([0xd1; 20]) };
    let hoodi = Network::by_name("hoodi").unwrap();
    let mut options = CreateOptions::new("four friends", operators, validators, hoodi, addresses);
    options.timestamp = "2026-11-25T09:00:00Z".to_owned();
    options
}

pub(crate) fn created() -> CreatedCluster {
    create::cluster(&options(4, 2), &mut rng()).unwrap()
}

pub(crate) fn rng() -> ChaCha20Rng {
    ChaCha20Rng::seed_from_u64(20_261_125)
}

/// The wallets of the operators, and the creator's as the last one.
pub(crate) fn wallets(count: usize) -> Vec<IdentityKey> {
    let mut rng = ChaCha20Rng::seed_from_u64(1);
    (0..=count).map(|_| IdentityKey::generate(&mut rng)).collect()
}

pub(crate) fn address(wallet: &IdentityKey) -> String {
    format!("0x{}", hex::encode(wallet.public_key().address()))
}

/// The lock as this version would hold it, everything sealed again.
pub(crate) fn in_version(created: &CreatedCluster, version: SchemaVersion) -> Lock {
    let mut lock = created.lock.clone();
    lock.definition.version = version;
    if version < SchemaVersion::V1_10 {
        lock.definition.target_gas_limit = 0;
    }
    if version < SchemaVersion::V1_2 {
        for operator in &mut lock.definition.operators {
            operator.config_signature = None;
            operator.enr_signature = None;
        }
    }
    for validator in &mut lock.validators {
        let keep = if version < SchemaVersion::V1_6 {
            0
        } else if version < SchemaVersion::V1_8 {
            1
        } else {
            validator.deposits.len()
        };
        validator.deposits.truncate(keep);
        if version < SchemaVersion::V1_7 {
            validator.builder_registration = None;
        }
    }
    seal(created, &mut lock);
    lock
}

/// Hashes, aggregate and node signatures of the present content.
pub(crate) fn seal(created: &CreatedCluster, lock: &mut Lock) {
    lock.definition.set_hashes().unwrap();
    lock.lock_hash = lock.compute_lock_hash().unwrap();
    let message = HashedMessage::new(&lock.lock_hash);
    let shares = created.nodes.iter().flat_map(|node| &node.shares);
    let signatures: Vec<Signature> = shares.map(|share| share.key().sign_hashed(&message)).collect();
    lock.signature_aggregate = threshold::aggregate_signatures(&signatures).unwrap().to_bytes().0.to_vec();
    lock.node_signatures.clear();
    if lock.definition.version >= SchemaVersion::V1_7 {
        let signatures = created.nodes.iter().map(|node| node.identity.sign(&lock.lock_hash).to_vec());
        lock.node_signatures = signatures.collect();
    }
}

/// Lets every wallet sign the definition, then seals the lock.
pub(crate) fn sign_definition(created: &CreatedCluster, lock: &mut Lock) {
    let chain_id = Network::by_name("hoodi").unwrap().chain_id;
    let wallets = wallets(lock.definition.operators.len());
    let version = lock.definition.version;
    for (operator, wallet) in lock.definition.operators.iter_mut().zip(&wallets) {
        operator.address = address(wallet);
    }
    let creator = wallets.last().unwrap();
    if version >= SchemaVersion::V1_4 {
        lock.definition.creator = Creator { address: address(creator), config_signature: Vec::new() };
    }
    let config_hash = format!("0x{}", hex::encode(lock.definition.compute_config_hash().unwrap()));
    let statement =
        if version == SchemaVersion::V1_3 { Statement::ConfigHash } else { Statement::OperatorConfigHash };
    for (operator, wallet) in lock.definition.operators.iter_mut().zip(&wallets) {
        operator.config_signature = Some(wallet.sign(&digest(statement, &config_hash, chain_id)).to_vec());
        operator.enr_signature = Some(wallet.sign(&digest(Statement::Enr, &operator.enr, chain_id)).to_vec());
    }
    if version >= SchemaVersion::V1_4 {
        let digest = digest(Statement::CreatorConfigHash, &config_hash, chain_id);
        lock.definition.creator.config_signature = creator.sign(&digest).to_vec();
    }
    seal(created, lock);
}
