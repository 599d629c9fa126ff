//! What `dv-node` is handed by the page, and finds on its disk after a crash.

use std::collections::BTreeMap;

use chain::{Epoch, UnixMillis};
use duty::{Saved, Value};
use dv_node::dkg::StoredRequest;
use dv_node::exits::{ExitFile, Wish};
use dv_node::graffiti::Graffiti;
use dv_node::outside;
use dv_node::settings::{FoundSettings, Settings};
use dv_node::store::PinnedChain;
use ipc::{ClusterSetup, Sensitive, Signing};
use obol::consensus::Seal;
use obol::dkg::ceremony::Record;
use qbft::{Ballot, Digest, Journal, Kind, Member, Vote};

use crate::ssz_forms::KEY;
use crate::world::{GENESIS_ROOT, created, definition};
use crate::{Target, Verdict, choose, chosen};

pub(crate) const TARGETS: &[Target] = &[
    Target {
        name: "journal",
        about: "the journal of agreements after a crash: what is read is written and read the same, nothing is invented",
        max_bytes: 4096,
        run: journal,
        seeds: journal_seeds,
    },
    Target {
        name: "saved_duty",
        about: "a duty's state in the journal: written and read the same, and an agreement goes on from it",
        max_bytes: 8192,
        run: saved,
        seeds: saved_seeds,
    },
    Target {
        name: "ceremony_records",
        about: "a ceremony's records after a crash: a torn last line is no record, others are read the same",
        max_bytes: 4096,
        run: records,
        seeds: record_seeds,
    },
    Target {
        name: "cluster_setup",
        about: "a cluster's setup and a key generation's (the page): checked without a panic, no secret in a refusal",
        max_bytes: 32_768,
        run: setup,
        seeds: setup_seeds,
    },
    Target {
        name: "cluster_settings",
        about: "what an owner has set for a cluster (the disk, another version): written and read the same, nothing of another cluster",
        max_bytes: 8192,
        run: settings,
        seeds: settings_seeds,
    },
    Target {
        name: "graffiti",
        about: "what blocks say: what is taken fits its field whatever the beacon node calls itself, and is the owner's words",
        max_bytes: 4096,
        run: graffiti,
        seeds: graffiti_seeds,
    },
    Target {
        name: "exit_handed_in",
        about: "a file of exits that a person hands in: read as one of the two kinds, nothing of it in a refusal",
        max_bytes: 8192,
        run: exit_handed_in,
        seeds: exit_handed_in_seeds,
    },
];

fn lock_named(hash: &str) -> serde_json::Value {
    serde_json::json!({ "lock_hash": hash })
}

fn settings(input: &[u8]) -> Verdict {
    let (ours, other) = (lock_named("0xaa"), lock_named("0xbb"));
    let Some(found) = outside::settings(input, &ours) else { return Verdict::Refused };
    match outside::write_settings(&found.settings, &ours) {
        Some(written) => {
            let again = outside::settings(&written, &ours).expect("our own file is readable");
            assert_eq!(again, FoundSettings { settings: found.settings, unread: Vec::new() });
            assert_eq!(outside::settings(&written, &other), None, "another cluster's settings");
        }
        None => assert_eq!(found.settings, Settings::default()),
    }
    Verdict::Taken
}

fn settings_seeds() -> Vec<Vec<u8>> {
    let proposals = ipc::Proposals {
        builder_api: true,
        graffiti: vec!["one".to_owned(), "other".to_owned()],
        graffiti_alone: true,
    };
    let set = Settings {
        fallback_beacon_nodes: vec!["http://127.0.0.1:5052".to_owned()],
        proposals,
        obol_api: true,
    };
    let written = outside::write_settings(&set, &lock_named("0xaa")).expect("something is set");
    let before: serde_json::Value = serde_json::from_slice(&written).expect("our own JSON");
    let cut = serde_json::json!({ "lock_hash": "bb", "before": before });
    let later =
        serde_json::json!({ "lock_hash": "aa", "proposals": { "graffiti": "of tomorrow" }, "new": 1 });
    vec![written, cut.to_string().into_bytes(), later.to_string().into_bytes()]
}

/// One line for each validator; the first bytes say how they are meant, and what the beacon node calls itself.
fn graffiti(input: &[u8]) -> Verdict {
    const CLIENTS: [&str; 4] = ["Prysm/v7", "teku/v25/linux", "", "of tomorrow"];
    let Some((choice, bytes)) = choose(input, 16) else { return Verdict::Refused };
    let Ok(text) = std::str::from_utf8(bytes) else { return Verdict::Refused };
    let texts: Vec<String> = text.split('\n').map(str::to_owned).collect();
    let (alone, validators) = (choice & 1 == 1, if choice & 2 == 2 { texts.len() } else { 3 });
    let graffiti = match Graffiti::new(&texts, alone, validators) {
        Ok(graffiti) => graffiti,
        Err(error) => {
            let has_a_fault = texts.iter().any(|text| text.len() > 28) || !matches!(texts.len(), 1 | 3);
            assert!(has_a_fault && error.to_string().len() < 1_000, "{error}");
            return Verdict::Refused;
        }
    };
    let client = CLIENTS.get(usize::from(choice >> 2)).copied();
    for position in 0..validators {
        let text = if texts.len() == 1 { &texts[0] } else { &texts[position] };
        let field = graffiti.of(position, client).expect("what was taken fits").0;
        assert!(field.starts_with(text.as_bytes()));
        let rest = &field[text.len()..];
        assert!(if alone { rest.iter().all(|byte| *byte == 0) } else { rest.starts_with(b"OB") });
    }
    Verdict::Taken
}

fn graffiti_seeds() -> Vec<Vec<u8>> {
    vec![
        chosen(0, "us"),
        chosen(1, "x".repeat(32)),
        chosen(7, "one\nother\nthird\n"),
        chosen(8, "x".repeat(29)),
    ]
}

fn exit_handed_in(input: &[u8]) -> Verdict {
    let Ok(value) = serde_json::from_slice::<serde_json::Value>(input) else { return Verdict::Refused };
    let is_answer = value.get("signatures").is_some();
    match ExitFile::from_value(value) {
        Ok(ExitFile::OfObolApi(answer)) => {
            assert!(is_answer && answer.signatures.len() <= 256);
            Verdict::Taken
        }
        Ok(ExitFile::OfMember(_)) => {
            assert!(!is_answer);
            Verdict::Taken
        }
        Err(problem) => {
            // Whatever was handed in, perhaps a secret: the same words.
            let known = ExitFile::from_value(serde_json::Value::Null).expect_err("nothing is no file");
            assert_eq!(problem, known);
            Verdict::Refused
        }
    }
}

fn exit_handed_in_seeds() -> Vec<Vec<u8>> {
    let of_member = crate::exits::handed_in(0).to_json();
    let answer = serde_json::json!({"epoch": "7", "validator_index": "100", "signatures": ["", "0xab"]});
    let secret = serde_json::json!({ "signatures": { "a secret": 1 } });
    vec![of_member, answer.to_string().into_bytes(), secret.to_string().into_bytes()]
}

fn journal(input: &[u8]) -> Verdict {
    let (live, _) = outside::journal(input);
    let held: usize = live.values().map(Vec::len).sum();
    assert!(held <= input.len(), "more is read than there is");
    let written = outside::write_journal(&live).expect("it was within the bounds");
    let (again, found) = outside::journal(&written);
    assert_eq!((&again, found), (&live, dv_node::journal::Found::Whole));
    // A crash while the last record is written loses at most that one.
    if let Some(cut) = written.len().checked_sub(1) {
        let (torn, _) = outside::journal(&written[..cut]);
        assert!(torn.len() + 1 == live.len() && torn.iter().all(|(key, state)| live.get(key) == Some(state)));
    }
    Verdict::of(live.first_key_value())
}

fn journal_seeds() -> Vec<Vec<u8>> {
    let write = |live| outside::write_journal(&live).expect("a small journal");
    let one = write(BTreeMap::from([((5, 2), b"first".to_vec())]));
    let forgotten = write(BTreeMap::from([((5, 2), Vec::new()), ((6, 1), b"second".to_vec())]));
    let torn = [&one[..], &forgotten[..20]].concat();
    vec![one.clone(), [one, forgotten].concat(), torn]
}

fn saved(input: &[u8]) -> Verdict {
    let Ok(saved) = serde_json::from_slice::<Saved<Seal>>(input) else { return Verdict::Refused };
    let text = serde_json::to_vec(&saved).expect("a state has a JSON form");
    let again: Saved<Seal> = serde_json::from_slice(&text).expect("our own JSON is readable");
    assert_eq!(serde_json::to_vec(&again).expect("a state has a JSON form"), text);
    Verdict::Taken
}

fn saved_seeds() -> Vec<Vec<u8>> {
    let seal: Seal = serde_json::from_value(serde_json::json!("0a0b0c")).expect("hex");
    let digest = Digest([1; 32]);
    let votes = |kind| -> Vec<Vote<Seal>> {
        let ballot = |author| Ballot::for_value(kind, Member(author), 1, digest);
        (0..3).map(|author| Vote { ballot: ballot(author), seal: Some(seal.clone()) }).collect()
    };
    let values = vec![Value { digest, bytes: vec![7; 40].into() }];
    let journal = Journal {
        round: 2,
        proposed: Some(digest),
        voted: Some(digest),
        prepared: Some(qbft::Prepared { round: 1, value: digest, prepares: votes(Kind::Prepare) }),
        decided: Some(qbft::Decision { round: 1, value: digest, commits: votes(Kind::Commit) }),
    };
    let early = Journal { prepared: None, decided: None, ..journal.clone() };
    [Saved { journal, values: values.clone() }, Saved { journal: early, values }]
        .iter()
        .map(|saved| serde_json::to_vec(saved).expect("a state has a JSON form"))
        .collect()
}

fn records(input: &[u8]) -> Verdict {
    let (records, whole) = outside::records(input);
    assert!(whole <= input.len() && !input[whole..].contains(&b'\n'));
    let Some(records) = records else { return Verdict::Refused };
    let mut written = Vec::new();
    for record in &records {
        serde_json::to_writer(&mut written, record).expect("a record has a JSON form");
        written.push(b'\n');
    }
    assert_eq!(outside::records(&written), (Some(records.clone()), written.len()));
    Verdict::of(records.first())
}

fn record_seeds() -> Vec<Vec<u8>> {
    let records = [
        Record::Signed { member: 1, id: "/charon/dkg/node_sig".to_owned(), hash: [3; 32] },
        Record::Delivered { member: 2, bytes: vec![1, 2, 3] },
        Record::Kept { member: 3 },
        Record::Partials { member: 1, bytes: vec![4, 5] },
        Record::Step(4),
        Record::Lock { bytes: vec![b'{', b'}'] },
    ];
    let line = |record: &Record| [&serde_json::to_vec(record).expect("a JSON form")[..], b"\n"].concat();
    let all: Vec<u8> = records.iter().flat_map(line).collect();
    let torn = all[..all.len() - 9].to_vec();
    vec![all, torn, line(&records[4])]
}

fn setup(input: &[u8]) -> Verdict {
    let Some((choice, bytes)) = choose(input, 4) else { return Verdict::Refused };
    match choice {
        0 => {
            let setup = match outside::cluster_setup(bytes) {
                Ok(setup) => setup,
                Err(told) => {
                    assert!(told.len() < 200, "{told}");
                    return Verdict::Refused;
                }
            };
            if let Some(membership) = outside::membership(&setup, &[]) {
                let own = membership.me();
                assert!(usize::from(own.0) < membership.view.operators.len());
                assert!(membership.view.threshold_is_safe(), "a cluster that could sign two messages");
            }
            Verdict::Taken
        }
        1 => {
            let Ok(request) = serde_json::from_slice::<StoredRequest>(bytes) else { return Verdict::Refused };
            let text = serde_json::to_vec(&request).expect("a request has a JSON form");
            let again: StoredRequest = serde_json::from_slice(&text).expect("our own JSON is readable");
            assert_eq!(again.definition, request.definition);
            Verdict::Taken
        }
        2 => Verdict::of(serde_json::from_slice::<PinnedChain>(bytes).ok()),
        _ => Verdict::of(serde_json::from_slice::<Vec<(chain::PublicKeyBytes, Wish)>>(bytes).ok()),
    }
}

fn setup_seeds() -> Vec<Vec<u8>> {
    let created = created();
    let lock = serde_json::from_slice(&created.lock.to_json().expect("our own lock")).expect("our own JSON");
    let key = created.nodes[0].identity.to_file_text();
    let peers = created
        .view
        .operators
        .iter()
        .skip(1)
        .map(|operator| format!("/ip4/192.0.2.7/tcp/3610/p2p/{}", operator.peer_id));
    let setup = ClusterSetup {
        lock,
        identity_key: Sensitive::new(key.to_string()),
        beacon_nodes: vec!["http://127.0.0.1:5052".to_owned()],
        peers: peers.collect(),
        relays: None,
        signing: Signing::default(),
        fallback_beacon_nodes: None,
        proposals: None,
        obol_api: None,
    };
    let definition: serde_json::Value =
        serde_json::from_slice(&definition().to_json().expect("our own definition")).expect("our own JSON");
    let request = serde_json::json!({"definition": definition, "identity_key": "11".repeat(32), "minor": 10,
        "peers": [], "beacon_nodes": ["http://127.0.0.1:5052"]});
    let chain =
        serde_json::json!({"genesis_validators_root": GENESIS_ROOT, "genesis_time": 1, "share_index": 2});
    let wishes = vec![(KEY, Wish { epoch: Epoch(3), not_before: UnixMillis(1_000) })];
    vec![
        chosen(0, serde_json::to_vec(&setup).expect("a JSON form")),
        chosen(1, request.to_string()),
        chosen(2, chain.to_string()),
        chosen(3, serde_json::to_vec(&wishes).expect("a JSON form")),
    ]
}
