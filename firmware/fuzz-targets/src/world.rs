//! The small cluster that the targets read on behalf of: four members, two validators, always the same keys.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use chain::{
    Domain, Epoch, ExecutionAddress, ForkName, ForkSchedule, ForkVersion, PublicKeyBytes, Root,
    ScheduledFork, SlotTiming, domain,
};
use cluster::add::{AddedValidator, Addition};
use cluster::create::{self, Addresses, CreateOptions, CreatedCluster};
use cluster::definition::{Creator, Operator};
use cluster::eip712::{Statement, digest};
use cluster::{Definition, Enr, IdentityKey, IdentityPublicKey, Lock, Network, SchemaVersion};
use obol::dkg::Plan;
use rand::SeedableRng as _;
use rand_chacha::ChaCha20Rng;
use threshold::{HashedMessage, PublicKey, ShareIndex, Signature};
use zeroize::Zeroizing;

pub(crate) const MEMBERS: u8 = 4;
pub(crate) const GENESIS_ROOT: Root = Root([4; 32]);

pub(crate) fn rng() -> ChaCha20Rng {
    ChaCha20Rng::seed_from_u64(20_261_127)
}

pub(crate) fn hoodi() -> Network {
    Network::by_name("hoodi").expect("a known network")
}

pub(crate) fn identity(member: usize) -> Arc<IdentityKey> {
    static KEYS: LazyLock<Vec<Arc<IdentityKey>>> = LazyLock::new(|| {
        (1..=2 * MEMBERS)
            .map(|byte| Arc::new(IdentityKey::from_bytes(Zeroizing::new([byte; 32])).expect("a valid key")))
            .collect()
    });
    Arc::clone(&KEYS[member % KEYS.len()])
}

pub(crate) fn identities() -> Vec<IdentityPublicKey> {
    (0..usize::from(MEMBERS)).map(|member| identity(member).public_key()).collect()
}

fn addresses() -> Addresses {
    Addresses { fee_recipient: ExecutionAddress([0xfe; 20]), withdrawal: ExecutionAddress([0xd1; 20]) }
}

fn options(name: &str) -> CreateOptions {
    let mut options = CreateOptions::new(name, usize::from(MEMBERS), 2, hoodi(), addresses());
    options.timestamp = "2026-11-25T09:00:00Z".to_owned();
    options
}

/// The cluster with every secret in it.
pub(crate) fn created() -> &'static CreatedCluster {
    static CREATED: LazyLock<CreatedCluster> =
        LazyLock::new(|| create::cluster(&options("four friends"), &mut rng()).expect("a cluster"));
    &CREATED
}

pub(crate) fn validators() -> Vec<PublicKeyBytes> {
    created().group_public_keys()
}

/// A validator's key as it is written and as a point, and its members' public shares.
pub(crate) type Shared = (PublicKeyBytes, PublicKey, BTreeMap<ShareIndex, PublicKey>);

/// Every validator's public shares.
pub(crate) fn public_shares() -> &'static Vec<Shared> {
    static SHARES: LazyLock<Vec<Shared>> = LazyLock::new(|| {
        let created = created();
        let of = |(place, validator): (usize, PublicKeyBytes)| {
            let shares = created.nodes.iter().map(|node| {
                let share = &node.shares[place];
                (share.index(), share.key().public_key())
            });
            let group = PublicKey::parse(&validator).expect("a group key");
            (validator, group, shares.collect())
        };
        validators().into_iter().enumerate().map(of).collect()
    });
    &SHARES
}

/// The cluster's lock as that version would hold it, with every hash and signature made anew.
pub(crate) fn lock_in(version: SchemaVersion) -> Lock {
    let created = created();
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
        let keep = match () {
            () if version < SchemaVersion::V1_6 => 0,
            () if version < SchemaVersion::V1_8 => 1,
            () => validator.deposits.len(),
        };
        validator.deposits.truncate(keep);
        if version < SchemaVersion::V1_7 {
            validator.builder_registration = None;
        }
    }
    seal(&mut lock);
    lock
}

fn seal(lock: &mut Lock) {
    let created = created();
    lock.definition.set_hashes().expect("hashes");
    lock.lock_hash = lock.compute_lock_hash().expect("a hash");
    let message = HashedMessage::new(&lock.lock_hash);
    let shares = created.nodes.iter().flat_map(|node| &node.shares);
    let signatures: Vec<Signature> = shares.map(|share| share.key().sign_hashed(&message)).collect();
    let whole = threshold::aggregate_signatures(&signatures).expect("an aggregate");
    lock.signature_aggregate = whole.to_bytes().0.to_vec();
    lock.node_signatures.clear();
    if lock.definition.version >= SchemaVersion::V1_7 {
        let signatures = created.nodes.iter().map(|node| node.identity.sign(&lock.lock_hash).to_vec());
        lock.node_signatures = signatures.collect();
    }
}

/// The newest lock, with the wallets' signatures too.
pub(crate) fn signed_lock() -> &'static Lock {
    static LOCK: LazyLock<Lock> = LazyLock::new(|| {
        let mut lock = lock_in(SchemaVersion::V1_10);
        let address = |wallet: &IdentityKey| format!("0x{}", hex::encode(wallet.public_key().address()));
        let chain_id = hoodi().chain_id;
        for (place, operator) in lock.definition.operators.iter_mut().enumerate() {
            operator.address = address(&identity(place));
        }
        let creator = identity(usize::from(MEMBERS));
        lock.definition.creator = Creator { address: address(&creator), config_signature: Vec::new() };
        let hash = format!("0x{}", hex::encode(lock.definition.compute_config_hash().expect("a hash")));
        for (place, operator) in lock.definition.operators.iter_mut().enumerate() {
            let wallet = identity(place);
            let sign = |statement, text: &str| wallet.sign(&digest(statement, text, chain_id)).to_vec();
            operator.config_signature = Some(sign(Statement::OperatorConfigHash, &hash));
            operator.enr_signature = Some(sign(Statement::Enr, &operator.enr));
        }
        let signed = creator.sign(&digest(Statement::CreatorConfigHash, &hash, chain_id));
        lock.definition.creator.config_signature = signed.to_vec();
        seal(&mut lock);
        lock
    });
    &LOCK
}

/// A definition for which the members have not made keys yet.
pub(crate) fn definition() -> Definition {
    let mut definition =
        create::cluster(&options("born together"), &mut rng()).expect("a cluster").lock.definition;
    definition.operators = (0..usize::from(MEMBERS))
        .map(|member| Operator {
            enr: Enr::build(&identity(member)).as_str().to_owned(),
            config_signature: Some(Vec::new()),
            enr_signature: Some(Vec::new()),
            ..Operator::default()
        })
        .collect();
    definition.set_hashes().expect("hashes");
    definition
}

/// The ceremony of that definition, as a member sees it.
pub(crate) fn plan(member: usize) -> Arc<Plan> {
    static PLANS: LazyLock<Vec<Arc<Plan>>> = LazyLock::new(|| {
        let plan = |key: IdentityPublicKey| Plan::new(definition(), &[], &key).expect("a plan");
        identities().into_iter().map(plan).map(Arc::new).collect()
    });
    Arc::clone(&PLANS[member % usize::from(MEMBERS)])
}

/// The addition of one validator to the cluster of [`created`], as its first member sees it.
pub(crate) fn plan_to_add() -> &'static Plan {
    static PLAN: LazyLock<Plan> = LazyLock::new(|| {
        let created = created();
        let wanted = [AddedValidator {
            fee_recipient: format!("0x{}", "0a".repeat(20)),
            withdrawal: format!("0x{}", "0b".repeat(20)),
        }];
        let addition = Addition::new(created.lock.clone(), &wanted, &[]).expect("an addition");
        Plan::adding(addition, &[], &created.nodes[0].identity.public_key()).expect("a plan")
    });
    &PLAN
}

pub(crate) fn exit_domain() -> Domain {
    domain::compute_domain(domain::VOLUNTARY_EXIT, ForkVersion([0x40, 0, 9, 0x10]), GENESIS_ROOT)
}

pub(crate) fn timing() -> SlotTiming {
    SlotTiming::new(0, 12_000, 8).expect("a timing")
}

/// A chain that has had every fork up to this one from its genesis.
pub(crate) fn schedule(newest: ForkName) -> ForkSchedule {
    let forks = ForkName::ALL.into_iter().filter(|fork| *fork <= newest);
    let fork = |name| ScheduledFork { name, version: ForkVersion([name as u8; 4]), epoch: Epoch(0) };
    ForkSchedule::new(forks.map(fork)).expect("a schedule")
}
