//! What a lock must satisfy: the good ones of every version pass, and each rule refuses its own violation by name.

#![allow(clippy::unwrap_used, reason = "a failed helper fails its test")]

mod sample;

use chain::{ExecutionAddress, ForkVersion, Gwei};
use cluster::{DefinitionError, IdentityKey, Lock, LockError, Network, PeerId, SchemaVersion};
use sample::{created, in_version, rng, seal, sign_definition};

fn since(first: SchemaVersion) -> impl Iterator<Item = SchemaVersion> {
    SchemaVersion::ALL.into_iter().filter(move |version| *version >= first)
}

#[test]
fn locks_of_every_version_verify_and_survive_a_write() {
    let created = created();
    for version in SchemaVersion::ALL {
        let lock = in_version(&created, version);
        let view = lock.verify(&[]).unwrap_or_else(|error| panic!("{version}: {error}"));
        let read = Lock::from_json(&lock.to_json().unwrap()).unwrap();
        assert_eq!(read, lock, "{version}");
        assert_eq!(read.verify(&[]).unwrap(), view);
        let value = serde_json::from_slice(&lock.to_json().unwrap()).unwrap();
        assert_eq!(Lock::from_value(value).unwrap(), lock);
    }
}

#[test]
fn definitions_signed_by_wallets_verify_in_every_version_that_has_signatures() {
    let created = created();
    for version in since(SchemaVersion::V1_3) {
        let mut lock = in_version(&created, version);
        sign_definition(&created, &mut lock);
        lock.verify(&[]).unwrap_or_else(|error| panic!("{version}: {error}"));
        // The other numbering of the recovery byte, as wallets write it.
        for operator in &mut lock.definition.operators {
            operator.config_signature.as_mut().unwrap()[64] += 27;
        }
        seal(&created, &mut lock);
        lock.verify(&[]).unwrap_or_else(|error| panic!("{version}: {error}"));
    }
}

#[test]
fn the_view_tells_the_node_what_it_needs() {
    let created = created();
    let view = &created.view;
    assert_eq!((view.threshold, view.quorum(), view.tolerated_faults()), (3, 3, 1));
    assert_eq!((view.operators.len(), view.validators.len()), (4, 2));
    assert_eq!(view.name, "four friends");
    assert_eq!(view.lock_hash, created.lock.lock_hash);
    assert_eq!(view.fork_version, ForkVersion([0x10, 0, 0x09, 0x10]));
    for (index, node) in created.nodes.iter().enumerate() {
        let operator = &view.operators[index];
        let share_index = view.share_index_of(&node.identity.public_key()).unwrap();
        assert_eq!(usize::from(share_index), index + 1);
        assert_eq!(operator.index, index);
        assert_eq!(operator.peer_id, PeerId::from_public_key(&node.identity.public_key()));
        assert_eq!(operator.name, operator.peer_id.name());
        for (share, validator) in node.shares.iter().zip(&view.validators) {
            assert_eq!(share.index().get(), u64::from(share_index));
            assert_eq!(share.public_share().key.to_bytes(), validator.public_shares[index]);
            assert_eq!(validator.fee_recipient, ExecutionAddress([0xfe; 20]));
        }
    }
    let stranger = IdentityKey::generate(&mut rng());
    match view.share_index_of(&stranger.public_key()) {
        Err(LockError::OperatorNotInLock { peer_id, cluster }) => {
            assert_eq!(peer_id, PeerId::from_public_key(&stranger.public_key()).to_string());
            assert_eq!(cluster, "four friends");
        }
        other => panic!("{other:?}"),
    }
}

/// Tampers with a good lock, seals it again, and checks the verdict.
fn refused(tamper: impl FnOnce(&mut Lock), expected: LockError) {
    let created = created();
    let mut lock = created.lock.clone();
    tamper(&mut lock);
    seal(&created, &mut lock);
    assert_eq!(lock.verify(&[]).unwrap_err(), expected);
}

#[test]
fn tampering_is_refused_even_when_the_hashes_were_made_again() {
    refused(
        |lock| {
            lock.validators.pop();
        },
        LockError::ValidatorCount { expected: 2, found: 1 },
    );
    refused(
        |lock| lock.validators[1] = lock.validators[0].clone(),
        LockError::DuplicateValidator { first: 0, second: 1 },
    );
    refused(
        |lock| lock.validators[1].public_shares[3] = lock.validators[1].public_shares[1],
        LockError::DuplicateShare { validator: 1, first: 1, second: 3 },
    );
    refused(
        |lock| {
            lock.validators[0].public_shares.pop();
        },
        LockError::ShareCount { validator: 0, operators: 4, found: 3 },
    );
    // Another valid key in place of a share: among the first three, and as the last one.
    refused(
        |lock| lock.validators[0].public_shares[1] = lock.validators[1].public_shares[1],
        LockError::SharesNotOfValidator { validator: 0 },
    );
    refused(
        |lock| lock.validators[0].public_shares[3] = lock.validators[1].public_shares[3],
        LockError::ShareNotOfValidator { validator: 0, share: 3 },
    );
    refused(
        |lock| lock.validators[0].public_shares.swap(0, 1),
        LockError::SharesNotOfValidator { validator: 0 },
    );
    refused(|lock| lock.validators[1].public_key.0 = [0; 48], LockError::PublicKey { validator: 1 });
    refused(|lock| lock.validators[1].public_shares[2].0[0] ^= 0x40, LockError::PublicKey { validator: 1 });
    refused(|lock| lock.definition.threshold = 0, LockError::Threshold { threshold: 0, operators: 4 });
    refused(|lock| lock.definition.threshold = 5, LockError::Threshold { threshold: 5, operators: 4 });
    refused(|lock| lock.definition.threshold = 2, LockError::SharesNotOfValidator { validator: 0 });
    refused(
        |lock| lock.validators[1].builder_registration = None,
        LockError::RegistrationMissing { validator: 1 },
    );
    refused(
        |lock| lock.validators[1].builder_registration = lock.validators[0].builder_registration,
        LockError::RegistrationInvalid { validator: 1 },
    );
    refused(
        |lock| lock.validators[0].builder_registration.as_mut().unwrap().message.gas_limit += 1,
        LockError::RegistrationInvalid { validator: 0 },
    );
    refused(
        |lock| lock.definition.validators[1].fee_recipient_address = format!("0x{}", "ab".repeat(20)),
        LockError::RegistrationInvalid { validator: 1 },
    );
}

#[test]
fn a_changed_identity_is_refused() {
    let stranger = IdentityKey::generate(&mut rng());
    let record = cluster::Enr::build(&stranger);
    let text = record.as_str().to_owned();
    refused(|lock| lock.definition.operators[2].enr = text, LockError::NodeSignatureInvalid { operator: 2 });

    let created = created();
    let first = created.lock.definition.operators[0].enr.clone();
    let peer_id = created.view.operators[0].peer_id.to_string();
    refused(
        |lock| lock.definition.operators[3].enr = first,
        DefinitionError::DuplicatePeer { first: 0, second: 3, peer_id }.into(),
    );
}

#[test]
fn wrong_seals_are_refused() {
    let created = created();
    let check = |tamper: &dyn Fn(&mut Lock), expected: LockError| {
        let mut lock = created.lock.clone();
        tamper(&mut lock);
        assert_eq!(lock.verify(&[]).unwrap_err(), expected);
    };
    check(&|lock| lock.signature_aggregate.clear(), LockError::AggregateMissing);
    check(&|lock| lock.signature_aggregate[95] ^= 1, LockError::AggregateInvalid);
    check(&|lock| lock.signature_aggregate.truncate(95), LockError::AggregateInvalid);
    check(
        &|lock| {
            let one = created.nodes[0].shares[0].sign(&lock.lock_hash);
            lock.signature_aggregate = one.to_bytes().0.to_vec();
        },
        LockError::AggregateInvalid,
    );
    check(
        &|lock| {
            lock.node_signatures.pop();
        },
        LockError::NodeSignatureCount { operators: 4, found: 3 },
    );
    check(&|lock| lock.node_signatures.swap(0, 1), LockError::NodeSignatureInvalid { operator: 0 });
    check(&|lock| lock.node_signatures[3][64] = 2, LockError::NodeSignatureInvalid { operator: 3 });
    check(&|lock| lock.node_signatures[3].clear(), LockError::NodeSignatureInvalid { operator: 3 });
}

#[test]
fn changed_content_is_refused_by_the_hash_that_covers_it() {
    let created = created();
    let verdict = |tamper: &dyn Fn(&mut Lock)| {
        let mut lock = created.lock.clone();
        tamper(&mut lock);
        lock.verify(&[]).unwrap_err()
    };
    let config = verdict(&|lock| lock.definition.compounding = true);
    assert!(matches!(config, LockError::Definition(DefinitionError::ConfigHashMismatch { .. })), "{config}");
    let full = verdict(&|lock| lock.definition.operators[0].enr.push('='));
    assert!(matches!(full, LockError::Definition(DefinitionError::DefinitionHashMismatch { .. })), "{full}");
    let lock = verdict(&|lock| lock.validators[0].deposits[0].amount = Gwei(1));
    assert!(matches!(lock, LockError::LockHashMismatch { .. }), "{lock}");
}

#[test]
fn old_versions_refuse_what_came_later() {
    let created = created();
    let mut lock = in_version(&created, SchemaVersion::V1_6);
    lock.validators[1].builder_registration = created.lock.validators[1].builder_registration;
    assert_eq!(
        lock.verify(&[]).unwrap_err(),
        LockError::RegistrationNotAllowed { validator: 1, version: SchemaVersion::V1_6 }
    );
    let mut lock = in_version(&created, SchemaVersion::V1_6);
    lock.node_signatures = created.lock.node_signatures.clone();
    assert_eq!(lock.verify(&[]).unwrap_err(), LockError::NodeSignaturesNotAllowed(SchemaVersion::V1_6));
    // The aggregate became a must after the first two versions.
    for version in SchemaVersion::ALL {
        let mut lock = in_version(&created, version);
        lock.signature_aggregate.clear();
        let expected = if version <= SchemaVersion::V1_1 { None } else { Some(LockError::AggregateMissing) };
        assert_eq!(lock.verify(&[]).err(), expected, "{version}");
    }
}

#[test]
fn custom_networks_are_known_when_named() {
    let created = created();
    let mut lock = in_version(&created, SchemaVersion::V1_10);
    lock.definition.fork_version = ForkVersion([9, 9, 9, 9]);
    sign_definition(&created, &mut lock);
    let unknown = DefinitionError::UnknownNetwork(ForkVersion([9, 9, 9, 9]));
    assert_eq!(lock.definition.verify(&[]).unwrap_err(), unknown);
    // The wallets signed for hoodi's chain id.
    let named = |chain_id| Network {
        name: "local".to_owned(),
        chain_id,
        genesis_fork_version: ForkVersion([9, 9, 9, 9]),
        genesis_time: 0,
    };
    lock.definition.verify(&[named(560_048)]).unwrap();
    let wrong = lock.definition.verify(&[named(1)]).unwrap_err();
    assert!(matches!(wrong, DefinitionError::InvalidSignature { .. }), "{wrong}");
}
