//! Exits as members pass them on without a network of their own, and who is paid for blocks.

#![allow(clippy::unwrap_used, reason = "a failed helper fails its test")]

mod sample;

use chain::{
    Domain, Epoch, ExecutionAddress, ForkVersion, PublicKeyBytes, Root, SignedValidatorRegistration,
    SignedVoluntaryExit, ValidatorIndex, ValidatorRegistration, VoluntaryExit, domain,
};
use cluster::create::CreatedCluster;
use cluster::exit::{
    self, ExitBlob, ExitError, FullExitAnswer, PartialExits, authorization_root, bearer, request_root,
};
use cluster::registrations::{Effective, OverridesError, overrides_file, parse_overrides};
use cluster::{IdentityKey, create};
use sample::{created, rng};
use std::collections::BTreeMap;
use std::path::PathBuf;
use threshold::SecretKey;

fn exit_domain() -> Domain {
    domain::compute_domain(domain::VOLUNTARY_EXIT, ForkVersion([0x40, 0, 9, 0x10]), Root([3; 32]))
}

fn blob(created: &CreatedCluster, node: usize, validator: usize, epoch: u64) -> ExitBlob {
    let index = ValidatorIndex(100 - u64::try_from(validator).unwrap());
    let message = VoluntaryExit { epoch: Epoch(epoch), validator_index: index };
    let root = chain::signing_root(&message, exit_domain());
    let signature = created.nodes[node].shares[validator].sign(&root.0).to_bytes();
    let public_key = created.group_public_keys()[validator];
    ExitBlob { public_key, signed_exit_message: SignedVoluntaryExit { message, signature } }
}

fn handed_in(created: &CreatedCluster, node: usize, epoch: u64) -> PartialExits {
    let exits = vec![blob(created, node, 0, epoch), blob(created, node, 1, epoch)];
    PartialExits::sign(exits, u8::try_from(node).unwrap() + 1, &created.nodes[node].identity).unwrap()
}

#[test]
fn the_obol_api_s_roots_and_tokens_are_the_recorded_ones() {
    let folder = std::env::var_os("HEARTH_VECTORS").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/vectors")),
        PathBuf::from,
    );
    let path = folder.join("obol/obolapi/exits.json");
    let Ok(text) = std::fs::read(&path) else {
        println!("SKIPPED: no vectors at {}", path.display());
        return;
    };
    let vectors: serde_json::Value = serde_json::from_slice(&text).unwrap();
    let (mut signed, mut exits) = (0, 0);
    for case in vectors["cases"].as_array().unwrap() {
        let number = |value: &serde_json::Value| value.as_u64().unwrap();
        let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
        let read = |exit: &serde_json::Value| ExitBlob {
            public_key: text(&exit["public_key"]).parse().unwrap(),
            signed_exit_message: SignedVoluntaryExit {
                message: VoluntaryExit {
                    epoch: Epoch(number(&exit["epoch"])),
                    validator_index: ValidatorIndex(number(&exit["validator_index"])),
                },
                signature: text(&exit["signature"]).parse().unwrap(),
            },
        };
        let blobs: Vec<ExitBlob> = case["partial_exits"].as_array().unwrap().iter().map(read).collect();
        for (blob, root) in blobs.iter().zip(case["exit_roots"].as_array().unwrap()) {
            assert_eq!(hex::encode(blob.root()), text(root));
            exits += 1;
        }
        let share_index = number(&case["share_idx"]);
        assert_eq!(hex::encode(request_root(&blobs, share_index).unwrap()), text(&case["request_root"]));
        let lock_hash: [u8; 32] =
            hex::decode(text(&case["lock_hash"]).trim_start_matches("0x")).unwrap().try_into().unwrap();
        let validator: PublicKeyBytes = text(&case["validator_pubkey"]).parse().unwrap();
        let root = authorization_root(&lock_hash, &validator, share_index);
        assert_eq!(hex::encode(root), text(&case["auth_root"]));
        if let Some(key) = case["private_key_hex"].as_str() {
            let identity = IdentityKey::from_file_text(key).unwrap();
            let token = bearer(&identity, &lock_hash, &validator, share_index);
            assert_eq!(token, format!("Bearer {}", text(&case["bearer"])));
            if let Ok(index) = u8::try_from(share_index) {
                let request = PartialExits::sign(blobs, index, &identity).unwrap();
                assert_eq!(request.signature, text(&case["request_signature"]));
                signed += 1;
            }
        }
    }
    assert!(signed > 3 && exits > 0, "{signed} signed, {exits} exits");
}

#[test]
fn three_members_files_make_an_exit_whole_and_two_do_not() {
    let created = created();
    let view = &created.view;
    let key = created.group_public_keys()[1];
    let mut members = Vec::new();
    for node in [3, 0, 2] {
        let file = handed_in(&created, node, 7).to_json();
        let read = PartialExits::from_json(&file).unwrap();
        assert!(
            read.partial_exits[0].signed_exit_message.message.validator_index
                < read.partial_exits[1].signed_exit_message.message.validator_index
        );
        members.push(read.verify(view, exit_domain()).unwrap());
    }
    let missing = exit::combine(view, &key, &members[..2], exit_domain());
    assert!(matches!(missing, Err(ExitError::TooFew { have: 2, need: 3, .. })));
    let whole = exit::combine(view, &key, &members, exit_domain()).unwrap();
    let file = exit::file_content(&whole);
    assert_eq!(exit::parse_file(&file, &key, exit_domain()).unwrap(), whole);
    assert_eq!(exit::file_name(&key), format!("exit-{key}.json"));
    let other = created.group_public_keys()[0];
    assert!(matches!(exit::parse_file(&file, &other, exit_domain()), Err(ExitError::NotByValidator(_))));
    // The same twice is one.
    let twice = [members[0].clone(), members[0].clone(), members[1].clone()];
    assert!(matches!(
        exit::combine(view, &key, &twice, exit_domain()),
        Err(ExitError::TooFew { have: 2, .. })
    ));
    // Another epoch is another message.
    let late = handed_in(&created, 1, 8).verify(view, exit_domain()).unwrap();
    let mixed = [members[0].clone(), members[1].clone(), late];
    assert!(matches!(exit::combine(view, &key, &mixed, exit_domain()), Err(ExitError::Differ(_))));
}

#[test]
fn a_file_that_is_not_its_member_s_own_is_refused() {
    let created = created();
    let view = &created.view;
    let good = handed_in(&created, 0, 7);
    let verify = |file: &PartialExits| file.verify(view, exit_domain());
    verify(&good).unwrap();
    let another = PartialExits { share_idx: 2, ..good.clone() };
    assert!(matches!(verify(&another), Err(ExitError::NotByOperator { operator: 2, .. })));
    for share_idx in [0, 5, u64::MAX] {
        let nobody = PartialExits { share_idx, ..good.clone() };
        assert!(matches!(verify(&nobody), Err(ExitError::UnknownShare(_))));
    }
    // Member 2 hands in member 1's partial signatures as its own.
    let borrowed = PartialExits::sign(good.partial_exits.clone(), 2, &created.nodes[1].identity).unwrap();
    assert!(matches!(verify(&borrowed), Err(ExitError::WrongPartial { operator: 2, .. })));
    let mut changed = good.clone();
    changed.partial_exits[0].signed_exit_message.message.epoch = Epoch(8);
    assert!(matches!(verify(&changed), Err(ExitError::NotByOperator { .. })));
    let foreign = create::cluster(&sample::options(4, 1), &mut rng()).unwrap();
    let blob = blob(&foreign, 0, 0, 7);
    if !created.group_public_keys().contains(&blob.public_key) {
        let file = PartialExits::sign(vec![blob], 1, &created.nodes[0].identity).unwrap();
        assert!(matches!(verify(&file), Err(ExitError::UnknownValidator(_))));
    }
    for junk in [&b""[..], b"[]", b"{\"partial_exits\":[{}],\"share_idx\":1,\"signature\":\"\"}", b"\xff"] {
        assert!(matches!(PartialExits::from_json(junk), Err(ExitError::Json(_))));
    }
}

#[test]
fn the_api_s_answer_is_combined_whatever_order_it_has() {
    let created = created();
    let key = created.group_public_keys()[0];
    let partial = |node| blob(&created, node, 0, 9).signed_exit_message.signature.to_string();
    let answer = |signatures: &[String]| -> FullExitAnswer {
        let json = serde_json::json!({"epoch": "9", "validator_index": "100", "signatures": signatures});
        serde_json::from_value(json).unwrap()
    };
    let combine = |signatures: &[String]| answer(signatures).combine(&created.view, &key, exit_domain());
    let whole = combine(&[partial(0), String::new(), partial(2), partial(3)]).unwrap();
    assert_eq!(whole.message, VoluntaryExit { epoch: Epoch(9), validator_index: ValidatorIndex(100) });
    assert_eq!(combine(&[partial(3), partial(0), partial(1)]).unwrap(), whole, "positions are not believed");
    let few = combine(&[partial(0), String::new(), partial(0), partial(1)]);
    assert!(matches!(few, Err(ExitError::TooFew { have: 2, .. })));
    let foreign = blob(&created, 0, 1, 9).signed_exit_message.signature.to_string();
    // What is nobody's is named by its place and takes nothing else with it.
    let few = combine(&[partial(0), partial(1), foreign.clone()]);
    assert!(matches!(few, Err(ExitError::TooFew { have: 2, .. })));
    let mixed = [partial(3), foreign.clone(), partial(1), "0x01".to_owned(), partial(0)];
    assert_eq!(combine(&mixed).unwrap(), whole);
    let partials = answer(&mixed).partials(&created.view, &key, exit_domain()).unwrap();
    let right: Vec<u64> = partials.right.iter().map(|(share, _)| *share).collect();
    assert_eq!((right, partials.wrong), (vec![1, 2, 4], vec![2, 4]));
    // Nobody makes us check more than there are members.
    let many: Vec<String> = (0..5).map(|node| format!("0x{}{node:02x}", "ab".repeat(95))).collect();
    let refused = answer(&many).partials(&created.view, &key, exit_domain());
    assert!(matches!(refused, Err(ExitError::TooManyPartials { members: 4, .. })));
}

#[test]
fn the_usual_epoch_is_charon_s_where_the_chain_is_old_enough() {
    assert_eq!(exit::usual_epoch(Epoch(3)), Epoch(0));
    assert_eq!(exit::usual_epoch(Epoch(194_048)), Epoch(194_048));
    assert_eq!(exit::usual_epoch(Epoch(400_000)), Epoch(194_048));
}

/// A cluster whose validator keys are known, so that a test may sign for them.
fn with_keys() -> (CreatedCluster, Vec<SecretKey>) {
    let mut random = rng();
    let secrets = || -> Vec<SecretKey> { (1..3).map(|n| SecretKey::from_bytes(&[n; 32]).unwrap()).collect() };
    (create::split_keys(&sample::options(4, 2), secrets(), &mut random).unwrap(), secrets())
}

fn registration(
    created: &CreatedCluster,
    secret: &SecretKey,
    fee_recipient: u8,
    timestamp: u64,
) -> SignedValidatorRegistration {
    let message = ValidatorRegistration {
        fee_recipient: ExecutionAddress([fee_recipient; 20]),
        gas_limit: 60_000_000,
        timestamp,
        pubkey: secret.public_key().to_bytes(),
    };
    let root = chain::deposit::registration_signing_root(&message, created.view.fork_version);
    SignedValidatorRegistration { message, signature: secret.sign(&root.0).to_bytes() }
}

#[test]
fn the_newest_registration_says_who_is_paid() {
    let (created, secrets) = with_keys();
    let view = &created.view;
    let keys = created.group_public_keys();
    let of_lock = view.validators[0].builder_registration.unwrap().message.timestamp;
    let newer = registration(&created, &secrets[0], 0xaa, of_lock + 2);
    let newest = registration(&created, &secrets[0], 0xbb, of_lock + 3);
    let older = registration(&created, &secrets[1], 0xcc, of_lock - 1);
    let same_age = registration(&created, &secrets[1], 0xdd, of_lock);
    let file = overrides_file(&[newer, newest, newer, older, same_age]);
    let effective = Effective::new(view, &parse_overrides(&file, view).unwrap());
    assert_eq!(effective.fee_recipient(&keys[0]), Some(ExecutionAddress([0xbb; 20])));
    assert_eq!(effective.fee_recipient(&keys[1]), Some(ExecutionAddress([0xfe; 20])), "the lock's");
    let paid: Vec<u8> = keys
        .iter()
        .map(|key| {
            effective.registrations().find(|r| r.message.pubkey == *key).unwrap().message.fee_recipient.0[0]
        })
        .collect();
    assert_eq!(paid, [0xbb, 0xfe]);
    let mut applied = view.clone();
    effective.apply(&mut applied);
    assert_eq!(applied.validators[0].fee_recipient, ExecutionAddress([0xbb; 20]));
    assert_eq!(applied.validators[0].builder_registration, Some(newest));
    assert_eq!(applied.validators[1], view.validators[1]);
    let indices = BTreeMap::from([(keys[1], ValidatorIndex(12))]);
    assert_eq!(effective.preparations(&indices), [(ValidatorIndex(12), ExecutionAddress([0xfe; 20]))]);
}

#[test]
fn overrides_must_be_signed_by_the_validators_they_name() {
    let (created, secrets) = with_keys();
    let view = &created.view;
    let good = registration(&created, &secrets[0], 0xaa, 2_000_000_000);
    let forged = SignedValidatorRegistration {
        message: ValidatorRegistration { fee_recipient: ExecutionAddress([0xbb; 20]), ..good.message },
        ..good
    };
    assert_eq!(parse_overrides(&overrides_file(&[good, forged]), view), Err(OverridesError::Signature(1)));
    let stranger = registration(&created, &SecretKey::from_bytes(&[9; 32]).unwrap(), 0xaa, 2_000_000_000);
    let outcome = parse_overrides(&overrides_file(&[stranger]), view);
    assert!(matches!(outcome, Err(OverridesError::UnknownValidator { entry: 0, .. })));
    let text = String::from_utf8(overrides_file(&[good])).unwrap();
    for (from, to) in [("\"version\"", "\"Version\""), ("\"v1\":", "\"V1\":"), ("\"message\"", "\"Message\"")]
    {
        assert_eq!(parse_overrides(text.replace(from, to).as_bytes(), view).unwrap(), [good], "{to}");
    }
    let v2 = text.replace("\"v1\",", "\"v2\",");
    assert_eq!(parse_overrides(v2.as_bytes(), view), Err(OverridesError::Version(0)));
    for junk in [&b"{}"[..], b"", b"[1]", b"[{\"version\":1}]"] {
        assert!(matches!(parse_overrides(junk, view), Err(OverridesError::Json(_))));
    }
}

#[test]
fn partial_exits_from_anywhere_make_one_whole_and_are_remembered() {
    use cluster::exit_pool::{ExitPool, Taken};
    let created = created();
    let view = &created.view;
    let key = created.group_public_keys()[0];
    let mut pool = ExitPool::default();
    let take = |pool: &mut ExitPool, node: usize, epoch| {
        let exit = blob(&created, node, 0, epoch).signed_exit_message;
        pool.take(view, exit_domain(), u8::try_from(node).unwrap() + 1, &key, exit)
    };
    assert_eq!(take(&mut pool, 0, 7).unwrap(), Taken::New);
    assert_eq!(take(&mut pool, 0, 7).unwrap(), Taken::Known);
    assert_eq!(take(&mut pool, 1, 8).unwrap(), Taken::New, "another epoch is another exit");
    assert_eq!(take(&mut pool, 2, 7).unwrap(), Taken::New);
    assert!(pool.to_publish(view, exit_domain(), |_| true).is_empty());
    let mut pool = ExitPool::from_json(&pool.to_json(), view, exit_domain()).unwrap();
    assert_eq!(take(&mut pool, 3, 7).unwrap(), Taken::New);
    let ready = pool.to_publish(view, exit_domain(), |_| true);
    let exit = *ready[0].1.as_ref().unwrap();
    assert_eq!((ready.len(), exit.message.epoch), (1, Epoch(7)));
    let root = chain::signing_root(&exit.message, exit_domain());
    assert!(threshold::verify_bytes(&key, &root.0, &exit.signature).is_ok());
    pool.set_published(&key, exit.message);
    let pool = ExitPool::from_json(&pool.to_json(), view, exit_domain()).unwrap();
    assert!(pool.to_publish(view, exit_domain(), |_| true).is_empty());
    assert_eq!(pool.signed_by(1), [blob(&created, 0, 0, 7)]);
    assert_eq!(ExitPool::from_json(b"[", view, exit_domain()), None);
}

#[test]
fn a_member_can_neither_lie_nor_fill_the_pool() {
    use cluster::exit_pool::{ExitPool, Taken};
    let created = created();
    let view = &created.view;
    let key = created.group_public_keys()[0];
    let mut pool = ExitPool::default();
    let of = |node: usize, epoch| blob(&created, node, 0, epoch).signed_exit_message;
    let borrowed = pool.take(view, exit_domain(), 2, &key, of(0, 7));
    assert!(matches!(borrowed, Err(ExitError::WrongPartial { operator: 2, .. })));
    for share in [0, 5, 255] {
        assert!(matches!(
            pool.take(view, exit_domain(), share, &key, of(0, 7)),
            Err(ExitError::UnknownShare(_))
        ));
    }
    let stranger = PublicKeyBytes([1; 48]);
    let outcome = pool.take(view, exit_domain(), 1, &stranger, of(0, 7));
    assert!(matches!(outcome, Err(ExitError::UnknownValidator(_))));
    for epoch in 0..10 {
        let expected = if epoch < 4 { Taken::New } else { Taken::TooMany };
        assert_eq!(pool.take(view, exit_domain(), 1, &key, of(0, epoch)).unwrap(), expected);
    }
    assert_eq!(pool.pending().len(), 4);
    assert_eq!(
        pool.take(view, exit_domain(), 2, &key, of(1, 3)).unwrap(),
        Taken::New,
        "others are not shut out"
    );
}

#[test]
fn only_wanted_exits_are_made_whole_and_few_at_once() {
    use cluster::exit_pool::ExitPool;
    let created = created();
    let view = &created.view;
    let keys = created.group_public_keys();
    let mut pool = ExitPool::default();
    for (validator, key) in keys.iter().enumerate() {
        for epoch in 0..5_u64 {
            // Three of four members sign each, so that none signs more than four.
            for node in (0..4).filter(|node| u64::try_from(*node).unwrap() != epoch).take(3) {
                let exit = blob(&created, node, validator, epoch).signed_exit_message;
                let share = u8::try_from(node).unwrap() + 1;
                pool.take(view, exit_domain(), share, key, exit).unwrap();
            }
        }
    }
    assert_eq!(pool.pending().len(), 10);
    let ready = pool.to_publish(view, exit_domain(), |_| true);
    assert_eq!(ready.len(), 8);
    assert!(ready.iter().all(|(_, exit)| exit.is_ok()));
    assert!(pool.to_publish(view, exit_domain(), |_| false).is_empty());
    let due = pool.to_publish(view, exit_domain(), |pending| {
        pending.validator == keys[1] && pending.message.epoch <= Epoch(1)
    });
    let found: Vec<_> = due.iter().map(|(key, exit)| (*key, exit.as_ref().unwrap().message.epoch)).collect();
    assert_eq!(found, [(keys[1], Epoch(0)), (keys[1], Epoch(1))]);
}

#[test]
fn calls_replace_the_path_of_the_service_s_address() {
    let lock_hash = [0xab; 32];
    let hash = "ab".repeat(32);
    let validator = PublicKeyBytes([7; 48]);
    let table = [
        (exit::OBOL_API, "https://api.obol.tech"),
        ("https://api.obol.tech", "https://api.obol.tech"),
        ("http://127.0.0.1:8080/", "http://127.0.0.1:8080"),
        ("https://me:secret@example.org:8443/base/v2/?x=1#y", "https://me:secret@example.org:8443"),
        ("http://[::1]:80/v1", "http://[::1]:80"),
    ];
    for (service, host) in table {
        let paths = [
            (exit::partial_exits_path(&lock_hash), format!("/exp/partial_exits/0x{hash}")),
            (
                exit::full_exit_path(&lock_hash, &validator, 3),
                format!("/exp/exit/0x{hash}/3/0x{}", "07".repeat(48)),
            ),
            (
                exit::own_partial_exit_path(&lock_hash, &validator, 3),
                format!("/exp/partial_exits/0x{hash}/3/0x{}", "07".repeat(48)),
            ),
        ];
        for (path, expected) in paths {
            assert_eq!(exit::api_url(service, &path), format!("{host}{expected}"));
        }
    }
}
