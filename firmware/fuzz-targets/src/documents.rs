//! The documents of a cluster, as files and from other people: definitions, locks, records, keystores, deposits, histories.

use std::sync::LazyLock;

use chain::{Epoch, ExecutionAddress, Root, Slot};
use cluster::edit::{Edit, EditPlan};
use cluster::keystore::{EncryptedSecret, KdfCost, Keystore};
use cluster::registrations::{Effective, overrides_file, parse_overrides};
use cluster::{ClusterView, Definition, Enr, Lock, PeerId, SchemaVersion, deposit, read_address};
use slashing::{AttestationVote, BlockProposal, Interchange, Protection, Retention};

use crate::world::{self, GENESIS_ROOT, created, hoodi, identity, signed_lock};
use crate::{Target, Verdict, choose, chosen};

pub(crate) const TARGETS: &[Target] = &[
    Target {
        name: "definition",
        about: "a cluster definition of any version (a file): written and read the same, with the same hashes",
        max_bytes: 16_384,
        run: definition,
        seeds: definition_seeds,
    },
    Target {
        name: "lock",
        about: "a cluster lock of any version (a file): one that verifies hashes the same when written again",
        max_bytes: 32_768,
        run: lock,
        seeds: lock_seeds,
    },
    Target {
        name: "edit",
        about: "an owner's wish to change a cluster: never too few honest members, everybody in one place",
        max_bytes: 4096,
        run: edit,
        seeds: edit_seeds,
    },
    Target {
        name: "enr",
        about: "a node record or peer id (a person, a relay): one that is taken has one text",
        max_bytes: 1024,
        run: enr,
        seeds: enr_seeds,
    },
    Target {
        name: "keystore",
        about: "an EIP-2335 file: written and read the same",
        max_bytes: 4096,
        run: keystore,
        seeds: keystore_seeds,
    },
    Target {
        name: "interchange",
        about: "an EIP-3076 file: its import never loosens what was known, and an export is imported the same",
        max_bytes: 8192,
        run: interchange,
        seeds: interchange_seeds,
    },
    Target {
        name: "deposits",
        about: "a deposit file: taken only with right roots, written and read the same",
        max_bytes: 8192,
        run: deposits,
        seeds: deposit_seeds,
    },
    Target {
        name: "fee_recipients",
        about: "the file of registrations that goes over the lock, and addresses as people write them",
        max_bytes: 8192,
        run: overrides,
        seeds: override_seeds,
    },
];

fn definition(input: &[u8]) -> Verdict {
    let Ok(definition) = Definition::from_json(input) else { return Verdict::Refused };
    let hashes = (definition.compute_config_hash(), definition.compute_definition_hash());
    let valid = definition.verify(&[]);
    if let Ok(text) = definition.to_json() {
        let again = Definition::from_json(&text).expect("what is read is written readable");
        assert_eq!((again.compute_config_hash(), again.compute_definition_hash()), hashes);
        assert!(valid.is_err() || again.verify(&[]).is_ok(), "writing a valid definition makes it invalid");
    } else {
        assert!(valid.is_err(), "a valid definition cannot be written");
    }
    Verdict::Taken
}

fn definition_seeds() -> Vec<Vec<u8>> {
    let mut seeds: Vec<Vec<u8>> = SchemaVersion::ALL
        .into_iter()
        .map(|version| world::lock_in(version).definition.to_json().expect("our own definition"))
        .collect();
    seeds.push(world::definition().to_json().expect("our own definition"));
    seeds.push(signed_lock().definition.to_json().expect("our own definition"));
    seeds
}

/// The locks that all views of one lock's hash are compared with.
fn good_view() -> &'static ClusterView {
    static VIEW: LazyLock<ClusterView> = LazyLock::new(|| signed_lock().verify(&[]).expect("our own lock"));
    &VIEW
}

fn lock(input: &[u8]) -> Verdict {
    let Ok(lock) = Lock::from_json(input) else { return Verdict::Refused };
    let hash = lock.compute_lock_hash();
    let view = lock.verify(&[]);
    if let Ok(text) = lock.to_json() {
        let again = Lock::from_json(&text).expect("what is read is written readable");
        assert_eq!(again.compute_lock_hash(), hash, "another hash after writing");
        if let Ok(view) = &view {
            assert_eq!(
                again.verify(&[]).ok().as_ref(),
                Some(view),
                "writing a valid lock changes what it says"
            );
        }
    } else {
        assert!(view.is_err(), "a valid lock cannot be written");
    }
    if let Ok(view) = view {
        assert_eq!(hash.as_ref(), Ok(&view.lock_hash));
        // Whatever was changed in a file, a lock of this hash says the same of who takes part.
        if view.lock_hash == good_view().lock_hash {
            assert_eq!(&view, good_view(), "one hash, two clusters");
        }
    }
    Verdict::Taken
}

fn lock_seeds() -> Vec<Vec<u8>> {
    let versions = [
        SchemaVersion::V1_0,
        SchemaVersion::V1_3,
        SchemaVersion::V1_5,
        SchemaVersion::V1_7,
        SchemaVersion::V1_8,
    ];
    let mut locks: Vec<Lock> = versions.into_iter().map(world::lock_in).collect();
    locks.push(signed_lock().clone());
    locks.iter().map(|lock| lock.to_json().expect("our own lock")).collect()
}

fn edit(input: &[u8]) -> Verdict {
    let Ok(edit) = serde_json::from_slice::<Edit>(input) else { return Verdict::Refused };
    let text = serde_json::to_vec(&edit).expect("an edit has a JSON form");
    assert_eq!(serde_json::from_slice::<Edit>(&text).expect("our own JSON is readable"), edit);
    let Ok(plan) = EditPlan::new(signed_lock().clone(), &edit, &[]) else { return Verdict::Refused };
    let staying = plan.members().iter().filter(|member| member.old.is_some() && member.new.is_some()).count();
    let new: Vec<u32> = plan.members().iter().filter_map(|member| member.new).collect();
    assert!(staying >= usize::from(good_view().threshold), "too few stay to deal");
    assert!((0..).zip(&new).all(|(place, new)| place == *new), "places {new:?}");
    let least = cluster::least_safe_threshold(new.len());
    assert!((least..=new.len()).contains(&usize::from(plan.threshold())), "an unsafe threshold");
    for member in plan.members() {
        let seat = plan.place_of(&member.public_key).and_then(|place| plan.members().get(place));
        assert_eq!(seat, Some(member), "a member has two places");
    }
    Verdict::Taken
}

fn edit_seeds() -> Vec<Vec<u8>> {
    let operators = &signed_lock().definition.operators;
    let enr = |place: usize| operators[place].enr.clone();
    let newcomer = |place: usize| Enr::build(&identity(place)).as_str().to_owned();
    [
        Edit::Recreate { threshold: None },
        Edit::Add { operators: vec![newcomer(5)], threshold: None },
        Edit::Remove { operators: vec![enr(3)], dealing: vec![enr(3)], threshold: Some(3) },
        Edit::Replace { old: enr(1), new: newcomer(6) },
        Edit::Recreate { threshold: Some(4) },
    ]
    .iter()
    .map(|edit| serde_json::to_vec(edit).expect("an edit has a JSON form"))
    .collect()
}

fn enr(input: &[u8]) -> Verdict {
    let peer = PeerId::from_bytes(input).ok();
    if let Some(peer) = &peer {
        assert_eq!(&peer.to_bytes()[..], input, "one peer id has two forms");
    }
    let Ok(text) = std::str::from_utf8(input) else { return Verdict::of(peer) };
    if let Ok(peer) = text.parse::<PeerId>() {
        assert_eq!(peer.to_string(), text, "one peer id has two texts");
        assert_eq!(PeerId::from_bytes(&peer.to_bytes()), Ok(peer));
    }
    let record = Enr::parse(text).ok();
    if let Some(record) = &record {
        assert_eq!(Enr::parse(record.as_str()).as_ref(), Ok(record));
        assert_eq!(record.peer_id().public_key(), record.public_key());
        let _facts = (record.endpoint(), record.seq(), record.value(b"ip6"));
    }
    Verdict::of(peer).or(Verdict::of(record))
}

fn enr_seeds() -> Vec<Vec<u8>> {
    let key = identity(0);
    let endpoint =
        cluster::EnrEndpoint { ip: Some([192, 0, 2, 7].into()), tcp: Some(3610), udp: Some(30303) };
    let peer = PeerId::from_public_key(&key.public_key());
    vec![
        Enr::build(&key).as_str().as_bytes().to_vec(),
        Enr::build_with(&key, endpoint).as_str().as_bytes().to_vec(),
        peer.to_string().into_bytes(),
        peer.to_bytes().to_vec(),
    ]
}

fn keystore(input: &[u8]) -> Verdict {
    let bare = EncryptedSecret::from_json(input).ok();
    let Ok(keystore) = Keystore::from_json(input) else { return Verdict::of(bare) };
    let again = Keystore::from_json(&keystore.to_json()).expect("what is read is written readable");
    assert_eq!(again, keystore);
    Verdict::Taken
}

fn keystore_seeds() -> Vec<Vec<u8>> {
    let share = created().nodes[0].shares[0].key();
    let cheap = Keystore::encrypt_share(share, "password", KdfCost::Insecure, &mut world::rng());
    let json = String::from_utf8(cheap.to_json()).expect("JSON is text");
    let value: serde_json::Value = serde_json::from_str(&json).expect("our own JSON");
    let mut scrypt = value.clone();
    scrypt["crypto"]["kdf"] = serde_json::json!({"function": "scrypt", "message": "",
        "params": {"dklen": 32, "n": 1024, "r": 8, "p": 1, "salt": "00".repeat(32)}});
    let bare = value["crypto"].to_string();
    vec![json.into_bytes(), scrypt.to_string().into_bytes(), bare.into_bytes()]
}

/// What was signed before the import, and what is asked for afterwards.
fn votes() -> Vec<AttestationVote> {
    let mut votes = Vec::new();
    for (source, target) in
        [(0, 1), (3, 4), (4, 5), (4, 6), (5, 6), (3, 7), (2, 9), (6, 8), (9, 10), (40, 41)]
    {
        for root in [1, 2] {
            votes.push(AttestationVote {
                source: Epoch(source),
                target: Epoch(target),
                signing_root: Root([root; 32]),
            });
        }
    }
    votes
}

fn proposals() -> Vec<BlockProposal> {
    let slots = [1, 39, 40, 41, 50, 1000];
    slots
        .iter()
        .flat_map(|slot| {
            [1, 2].map(|root| BlockProposal { slot: Slot(*slot), signing_root: Root([root; 32]) })
        })
        .collect()
}

fn protection() -> Protection {
    let mut protection = Protection::new(GENESIS_ROOT, Retention::Complete);
    let key = world::validators()[0];
    protection.declare_never_signed(key).expect("it is not known yet");
    let vote = AttestationVote { source: Epoch(4), target: Epoch(5), signing_root: Root([1; 32]) };
    let permit = protection.check_attestation(&key, &vote).expect("the first vote");
    protection.record_attestation(permit).expect("just permitted");
    let block = BlockProposal { slot: Slot(40), signing_root: Root([1; 32]) };
    let permit = protection.check_block(&key, &block).expect("the first block");
    protection.record_block(permit).expect("just permitted");
    protection
}

fn interchange(input: &[u8]) -> Verdict {
    let Ok(file) = Interchange::parse(input, GENESIS_ROOT) else { return Verdict::Refused };
    let key = world::validators()[0];
    let before = protection();
    let mut after = protection();
    // As the box does it.
    let Ok(told) = after.adopt(&file) else { return Verdict::Refused };
    for key in told.iter().chain([&key]) {
        for vote in votes() {
            let now = after.check_attestation(key, &vote).is_ok();
            let allowed = before.check_attestation(key, &vote).is_ok() || before.history(key).is_none();
            assert!(allowed || !now, "the import allows {vote:?}");
            // What the file says was signed is never signed differently.
            let signed = file
                .data
                .iter()
                .filter(|record| record.pubkey == *key)
                .flat_map(|record| &record.signed_attestations);
            let conflicts = |other: &slashing::SignedAttestation| {
                let same = other.signing_root == Some(vote.signing_root) && other.source_epoch == vote.source;
                let double = other.target_epoch == vote.target && !same;
                let surrounds = vote.source < other.source_epoch && other.target_epoch < vote.target;
                let surrounded = other.source_epoch < vote.source && vote.target < other.target_epoch;
                double || surrounds || surrounded
            };
            assert!(!now || !signed.into_iter().any(conflicts), "slashable after the import: {vote:?}");
        }
        for proposal in proposals() {
            let now = after.check_block(key, &proposal).is_ok();
            let allowed = before.check_block(key, &proposal).is_ok() || before.history(key).is_none();
            assert!(allowed || !now, "the import allows {proposal:?}");
        }
    }
    // What is exported, whole or in short, forbids at least as much where it is imported.
    for file in [after.export_complete(), after.export_minimal()] {
        let text = serde_json::to_vec(&file).expect("a file has a JSON form");
        let read = Interchange::parse(&text, GENESIS_ROOT).expect("our own file");
        assert_eq!(read, file);
        // As the box does it, by the letter of EIP-3076 and by the highest values alone.
        let mut adopted = Protection::new(GENESIS_ROOT, Retention::Complete);
        adopted.adopt(&read).expect("our own file");
        let mut literal = Protection::new(GENESIS_ROOT, Retention::Complete);
        literal.import(&read).expect("our own file");
        let mut highest = Protection::new(GENESIS_ROOT, Retention::Watermark);
        highest.import(&read).expect("our own file");
        for elsewhere in [adopted, literal, highest] {
            for vote in votes() {
                let there = elsewhere.check_attestation(&key, &vote).is_ok();
                assert!(!there || after.check_attestation(&key, &vote).is_ok(), "an export forgets {vote:?}");
            }
            for proposal in proposals() {
                let there = elsewhere.check_block(&key, &proposal).is_ok();
                assert!(
                    !there || after.check_block(&key, &proposal).is_ok(),
                    "an export forgets {proposal:?}"
                );
            }
        }
    }
    Verdict::Taken
}

fn interchange_seeds() -> Vec<Vec<u8>> {
    let protection = protection();
    let mut more = protection.export_complete();
    if let Some(record) = more.data.first_mut() {
        record.signed_attestations.push(slashing::SignedAttestation {
            source_epoch: Epoch(5),
            target_epoch: Epoch(9),
            signing_root: None,
        });
        record
            .signed_blocks
            .push(slashing::SignedBlock { slot: Slot(50), signing_root: Some(Root([2; 32])) });
    }
    [protection.export_complete(), protection.export_minimal(), more]
        .iter()
        .map(|file| serde_json::to_vec(file).expect("a file has a JSON form"))
        .collect()
}

fn deposits(input: &[u8]) -> Verdict {
    let Ok(deposits) = deposit::parse_file(input) else { return Verdict::Refused };
    let again = deposit::parse_file(&deposit::file_content(&deposits, &hoodi()));
    if let Ok(mut again) = again {
        let mut deposits = deposits;
        let key = |deposit: &chain::DepositData| (deposit.pubkey, deposit.amount, deposit.signature);
        deposits.sort_by_key(key);
        again.sort_by_key(key);
        assert_eq!(again, deposits);
    }
    Verdict::Taken
}

fn deposit_seeds() -> Vec<Vec<u8>> {
    let all: Vec<chain::DepositData> = created().deposits().copied().collect();
    vec![deposit::file_content(&all, &hoodi()), deposit::file_content(&all[..1], &hoodi())]
}

fn overrides(input: &[u8]) -> Verdict {
    let Some((choice, bytes)) = choose(input, 2) else { return Verdict::Refused };
    if choice == 1 {
        let Some(address) = std::str::from_utf8(bytes).ok().and_then(|text| read_address(text).ok()) else {
            return Verdict::Refused;
        };
        assert_eq!(read_address(&address.to_string()), Ok(address));
        return Verdict::Taken;
    }
    let view = good_view();
    let Ok(registrations) = parse_overrides(bytes, view) else { return Verdict::Refused };
    assert_eq!(parse_overrides(&overrides_file(&registrations), view).as_ref(), Ok(&registrations));
    let effective = Effective::new(view, &registrations);
    for validator in &view.validators {
        let key = validator.group_public_key;
        // Money goes where the lock says or where the validator's own key has signed, nowhere else.
        let signed = registrations.iter().filter(|signed| signed.message.pubkey == key);
        let mut allowed: Vec<ExecutionAddress> = signed.map(|signed| signed.message.fee_recipient).collect();
        allowed.push(validator.fee_recipient);
        assert!(effective.fee_recipient(&key).is_some_and(|address| allowed.contains(&address)));
    }
    Verdict::Taken
}

fn override_seeds() -> Vec<Vec<u8>> {
    let from_lock: Vec<_> =
        good_view().validators.iter().filter_map(|validator| validator.builder_registration).collect();
    vec![
        chosen(0, overrides_file(&from_lock)),
        chosen(0, overrides_file(&from_lock[..1])),
        chosen(1, b"0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed"),
        chosen(1, b"0x5aaeb6053f3e94c9b9a09f33669435e7ef1beaed"),
    ]
}
