//! Creation of a cluster: what comes out, and what is refused.

#![allow(clippy::unwrap_used, reason = "a failed helper fails its test")]

mod sample;

use chain::{DepositMessage, Gwei};
use cluster::create::{self, CreateError, CreatedCluster};
use cluster::deposit::{self, ETH};
use cluster::keystore::KdfCost;
use cluster::{IdentityKey, Keystore, Lock, SchemaVersion};
use sample::{created, options, rng};
use std::collections::BTreeMap;
use threshold::{PublicKey, SecretKey, ShareIndex};

fn files_of(created: &CreatedCluster) -> BTreeMap<String, (Vec<u8>, u32)> {
    let files = created.files(KdfCost::Insecure, &mut rng()).unwrap();
    files.into_iter().map(|file| (file.path, (file.content.to_vec(), file.mode))).collect()
}

#[test]
fn a_created_cluster_has_the_form_charon_writes() {
    let created = created();
    let definition = &created.lock.definition;
    assert_eq!(definition.version, SchemaVersion::V1_10);
    assert_eq!((definition.threshold, definition.num_validators), (3, 2));
    assert_eq!(definition.dkg_algorithm, "default");
    assert_eq!(definition.uuid, definition.uuid.to_uppercase());
    assert_eq!(
        definition.validators[0].fee_recipient_address.to_lowercase(),
        format!("0x{}", "fe".repeat(20))
    );
    assert!(definition.creator.address.is_empty());
    assert!(definition.operators.iter().all(|operator| operator.address.is_empty()));
    assert_eq!(definition.deposit_amounts, None);
    for validator in &created.lock.validators {
        let amounts: Vec<u64> = validator.deposits.iter().map(|deposit| deposit.amount.0 / ETH.0).collect();
        assert_eq!(amounts, [1, 32]);
        let message = &validator.builder_registration.unwrap().message;
        assert_eq!((message.gas_limit, message.timestamp), (60_000_000, 1_742_213_400));
    }
}

#[test]
fn any_three_members_can_sign_and_two_cannot() {
    let created = created();
    for (validator, public_key) in created.group_public_keys().iter().enumerate() {
        let key = PublicKey::parse(public_key).unwrap();
        let partial = |node: usize| {
            let share = &created.nodes[node].shares[validator];
            (share.index(), share.sign(b"message").to_bytes())
        };
        for members in [vec![0, 1, 2], vec![0, 1, 3], vec![0, 2, 3], vec![1, 2, 3], vec![0, 1, 2, 3]] {
            let partials: Vec<_> = members.iter().map(|node| partial(*node)).collect();
            let combined = threshold::combine(&partials).unwrap();
            assert!(threshold::verify_bytes(&key.to_bytes(), b"message", &combined).is_ok(), "{members:?}");
        }
        let combined = threshold::combine(&[partial(0), partial(1)]).unwrap();
        assert!(threshold::verify_bytes(&key.to_bytes(), b"message", &combined).is_err());
        assert_eq!(partial(3).0, ShareIndex::new(4).unwrap());
    }
}

#[test]
fn every_member_gets_its_own_secrets_and_the_common_lock() {
    let created = created();
    let files = files_of(&created);
    let lock = &files["node0/cluster-lock.json"];
    for (index, node) in created.nodes.iter().enumerate() {
        let at = |name: &str| &files[&format!("node{index}/{name}")];
        assert_eq!(at("cluster-lock.json"), lock);
        assert_eq!(at("cluster-lock.json").1, 0o444);
        let (key, mode) = at("charon-enr-private-key");
        assert_eq!((key.len(), *mode), (64, 0o600));
        let identity = IdentityKey::from_file_text(std::str::from_utf8(key).unwrap()).unwrap();
        assert_eq!(identity.public_key(), node.identity.public_key());
        for (validator, share) in node.shares.iter().enumerate() {
            let (password, mode) = at(&format!("validator_keys/keystore-insecure-{validator}.txt"));
            assert_eq!((password.len(), *mode), (32, 0o400));
            let (keystore, mode) = at(&format!("validator_keys/keystore-insecure-{validator}.json"));
            assert_eq!(*mode, 0o444);
            let keystore = Keystore::from_json(keystore).unwrap();
            assert_eq!(keystore.path, "m/12381/3600/0/0/0");
            let key = keystore.decrypt_key(std::str::from_utf8(password).unwrap()).unwrap();
            assert_eq!(key.public_key(), share.public_share().key);
        }
    }
    let read = Lock::from_json(&lock.0).unwrap();
    assert_eq!(read.verify(&[]).unwrap(), created.view);
    // One space of indentation, members in the order of the reference implementation.
    let text = String::from_utf8(lock.0.clone()).unwrap();
    assert!(
        text.starts_with("{\n \"cluster_definition\": {\n  \"name\": \"four friends\",\n  \"creator\": {\n")
    );
    let position = |member: &str| text.find(&format!("\"{member}\"")).unwrap();
    assert!(position("builder_registration") < position("partial_deposit_data"));
    assert!(position("lock_hash") < position("node_signatures"));
}

#[test]
fn deposit_files_pass_their_own_check() {
    let mut options = options(3, 3);
    options.deposit_amounts = vec![Gwei(31 * ETH.0), Gwei(1_500_000_000), Gwei(31 * ETH.0)];
    let created = create::cluster(&options, &mut rng()).unwrap();
    let files = files_of(&created);
    for name in ["deposit-data-31eth.json", "deposit-data-1.5eth.json"] {
        let (content, mode) = &files[&format!("node2/{name}")];
        assert_eq!(*mode, 0o444);
        let deposits = deposit::parse_file(content).unwrap();
        assert_eq!(deposits.len(), 3);
        assert!(deposits.windows(2).all(|pair| pair[0].pubkey < pair[1].pubkey));
        let mut damaged: serde_json::Value = serde_json::from_slice(content).unwrap();
        damaged[1]["amount"] = serde_json::json!(1);
        assert!(deposit::parse_file(damaged.to_string().as_bytes()).is_err());
    }
    assert_eq!(created.deposits().count(), 6);
    for data in created.deposits() {
        let message = DepositMessage {
            pubkey: data.pubkey,
            withdrawal_credentials: data.withdrawal_credentials,
            amount: data.amount,
        };
        assert_eq!(deposit::message_of(data), message);
        assert_eq!(data.withdrawal_credentials.0[0], 1);
    }
}

#[test]
fn existing_keys_keep_their_public_keys() {
    let secrets: Vec<SecretKey> = (0..2).map(|_| SecretKey::random(&mut rng())).collect();
    // The same generator twice gives the same key twice, which the lock must refuse.
    assert!(matches!(
        create::split_keys(&options(4, 2), secrets, &mut rng()),
        Err(CreateError::SelfCheck(_))
    ));
    let mut random = rng();
    let secrets: Vec<SecretKey> = (0..2).map(|_| SecretKey::random(&mut random)).collect();
    let keys: Vec<_> = secrets.iter().map(|secret| secret.public_key().to_bytes()).collect();
    let created = create::split_keys(&options(4, 2), secrets, &mut random).unwrap();
    assert_eq!(created.group_public_keys(), keys);
}

#[test]
fn impossible_wishes_are_refused() {
    let refusal = |change: &dyn Fn(&mut create::CreateOptions)| {
        let mut options = options(4, 2);
        change(&mut options);
        create::cluster(&options, &mut rng()).err().unwrap()
    };
    assert_eq!(refusal(&|options| options.operators = 2), CreateError::Operators(2));
    assert_eq!(refusal(&|options| options.operators = 256), CreateError::Operators(256));
    // Half of the members could sign twice, in two groups that know nothing of each other; 3 of 5 and 4 of 7 could when a
    // third of them lies. No box serves such a cluster.
    for (operators, threshold, least, recommended) in
        [(4, 0, 3, 3), (4, 1, 3, 3), (4, 2, 3, 3), (4, 5, 3, 3), (5, 3, 4, 4), (7, 4, 5, 5), (10, 6, 7, 7)]
    {
        let expected = CreateError::Threshold { threshold, operators, least, recommended };
        let change = |options: &mut create::CreateOptions| {
            (options.operators, options.threshold) = (operators, Some(threshold));
        };
        assert_eq!(refusal(&change), expected);
    }
    assert_eq!(refusal(&|options| options.validators = 0), CreateError::Validators(0));
    let expected = CreateError::Addresses { found: 0, validators: 2 };
    assert_eq!(refusal(&|options| options.addresses.clear()), expected);
    let error = refusal(&|options| options.deposit_amounts = vec![Gwei(16 * ETH.0)]);
    assert!(matches!(error, CreateError::Amounts(_)), "{error}");
    assert!(matches!(refusal(&|options| options.target_gas_limit = 0), CreateError::Field(_)));
    assert!(matches!(refusal(&|options| options.name = "n".repeat(257)), CreateError::Field(_)));
}

#[test]
fn thresholds_default_to_two_thirds() {
    for (operators, threshold) in [(3, 2), (4, 3), (5, 4), (6, 4), (7, 5), (10, 7)] {
        let created = create::cluster(&options(operators, 1), &mut rng()).unwrap();
        assert_eq!(created.view.threshold, threshold, "{operators}");
    }
}

#[test]
fn a_deposit_file_larger_than_any_cluster_s_is_refused_before_it_is_parsed() {
    let large = vec![b' '; cluster::MAX_FILE_BYTES + 1];
    let refused = cluster::deposit::parse_file(&large);
    assert_eq!(refused, Err(cluster::deposit::DepositFileError::TooLarge(large.len())));
}
