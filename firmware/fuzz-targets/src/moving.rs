//! Shares that come with a Charon node's folder, out of a backup or from another box, and signatures that others have seen.

use ipc::Sensitive;
use ipc::folder::{CharonFolder, FolderKeystore, Past};
use ipc::moving::{
    Arrival, BackupContent, BackupEnvelope, CarriedIdentity, CarriedSecrets, CarriedShare, MoveBody,
    MoveCertificate, Watermarks,
};
use ipc::web3signer::{ChainMark, SeenSignature};
use serde_json::Value;
use signer::outside;
use threshold::{PublicKey, Signature};

use crate::key_shares::clock;
use crate::local::{is_cheap, requests};
use crate::world::{self, GENESIS_ROOT, created, identity};
use crate::{Target, Verdict, choose, chosen};

pub(crate) const TARGETS: &[Target] = &[
    Target {
        name: "charon_folder",
        about: "a Charon node's folder, with its own lock or with ours: exactly this member's share of each validator, or nothing",
        max_bytes: 32_768,
        run: folder,
        seeds: folder_seeds,
    },
    Target {
        name: "backup",
        about: "a backup as a file and what is inside of it: no secret but that of its public share, none twice",
        max_bytes: 8192,
        run: backup,
        seeds: backup_seeds,
    },
    Target {
        name: "move_certificate",
        about: "a certificate of shares that another box gave away, also signed anew: by the named box alone, every byte signed",
        max_bytes: 8192,
        run: certificate,
        seeds: certificate_seeds,
    },
    Target {
        name: "seen_signatures",
        about: "signatures of our shares that others have seen: a vote counts only where the share's own key verifies it",
        max_bytes: 8192,
        run: seen,
        seeds: seen_seeds,
    },
];

const PASSPHRASE: &str = "correct horse battery staple";

/// The first member's folder, with cheap keystores.
fn our_folder() -> CharonFolder {
    let files = created()
        .node_files(0, cluster::keystore::KdfCost::Insecure, &mut world::rng())
        .expect("the files of a member");
    let text = |ending: &str| {
        let file = files.iter().find(|file| file.path.ends_with(ending)).expect("a file of a member");
        String::from_utf8(file.content.to_vec()).expect("text")
    };
    let keystores = files
        .iter()
        .filter(|file| file.path.contains("keystore-") && file.path.ends_with(".json"))
        .map(|file| FolderKeystore {
            name: file.path.rsplit('/').next().unwrap_or_default().to_owned(),
            keystore: serde_json::from_slice(&file.content).expect("our own JSON"),
            password: Sensitive::new(text(&file.path.replace(".json", ".txt"))),
        });
    CharonFolder {
        lock: serde_json::from_str(&text("cluster-lock.json")).expect("our own JSON"),
        identity_key: Sensitive::new(text("charon-enr-private-key")),
        keystores: keystores.collect(),
        old_node_stopped: true,
        past: Past::Wait,
        chain: None,
    }
}

/// The lock's signatures hold against almost every change. So the other half of the inputs has our own lock put in.
fn folder(input: &[u8]) -> Verdict {
    let Some((choice, bytes)) = choose(input, 2) else { return Verdict::Refused };
    let Ok(mut folder) = serde_json::from_slice::<CharonFolder>(bytes) else { return Verdict::Refused };
    if choice == 1 {
        folder.lock =
            serde_json::from_slice(&created().lock.to_json().expect("our own lock")).expect("our own JSON");
    }
    let cheap = folder.keystores.iter().all(|entry| is_cheap(&entry.keystore));
    if folder.keystores.len() > 4 || !cheap {
        return Verdict::Refused;
    }
    let (stopped, count) = (folder.old_node_stopped, folder.keystores.len());
    let text = serde_json::to_vec(&folder).expect("a folder has a JSON form");
    let Some(keys) = outside::charon_folder(&text) else { return Verdict::Refused };
    assert!(stopped, "without the owner's word");
    assert_eq!(keys.len(), count);
    // Nobody but this one member's keystores and passwords are in the seeds.
    let ours: Vec<_> = created().nodes[0].shares.iter().map(|s| s.key().public_key().to_bytes()).collect();
    assert!(keys.len() == ours.len() && keys.iter().all(|key| ours.contains(key)), "a share out of nothing");
    Verdict::Taken
}

fn folder_seeds() -> Vec<Vec<u8>> {
    let text = |folder: &CharonFolder| serde_json::to_vec(folder).expect("a folder has a JSON form");
    let mut without_lock = our_folder();
    without_lock.lock = Value::Null;
    let mut with_history = our_folder();
    with_history.lock = Value::Null;
    let entry = |share: &threshold::SecretShare| {
        serde_json::json!({"pubkey": share.key().public_key().to_bytes(), "signed_blocks": [{"slot": "40"}],
            "signed_attestations": [{"source_epoch": "4", "target_epoch": "5"}]})
    };
    let root = world::hoodi().genesis_validators_root().unwrap_or(GENESIS_ROOT);
    with_history.past = Past::Interchange(serde_json::json!({
        "metadata": {"interchange_format_version": "5", "genesis_validators_root": root},
        "data": created().nodes[0].shares.iter().map(entry).collect::<Vec<_>>(),
    }));
    vec![chosen(0, text(&our_folder())), chosen(1, text(&without_lock)), chosen(1, text(&with_history))]
}

fn carried(place: usize) -> (CarriedShare, Sensitive) {
    let secret = created().nodes[0].shares[place].key();
    let share = CarriedShare {
        pubshare: secret.public_key().to_bytes().to_string(),
        group_key: world::validators()[place].to_string(),
        share_index: 1,
        genesis_validators_root: GENESIS_ROOT.to_string(),
        chain: clock(),
        marks: Watermarks { block: Some(40), source: Some(4), target: Some(5) },
        stopped_at_ms: (place == 1).then_some(1_700_000_000_000),
    };
    (share, Sensitive::new(hex::encode(secret.expose_bytes().as_slice())))
}

fn content() -> BackupContent {
    let (shares, secrets) = [carried(0), carried(1)].into_iter().unzip();
    let identities = vec![CarriedIdentity {
        lock_hash: "ab".repeat(32),
        identity_key: Sensitive::new(identity(0).to_file_text().to_string()),
    }];
    BackupContent {
        made_at_ms: 1_700_000_000_000,
        shares,
        secrets: CarriedSecrets { shares: secrets, identities },
    }
}

fn backup(input: &[u8]) -> Verdict {
    let Some((choice, bytes)) = choose(input, 2) else { return Verdict::Refused };
    let keys = if choice == 0 {
        let Ok(envelope) = serde_json::from_slice::<BackupEnvelope>(bytes) else { return Verdict::Refused };
        // What a file may ask for at most is tried beside the key derivation; here there is no time for it.
        if envelope.memory_kib > 1024 || envelope.passes > 4 {
            return Verdict::Refused;
        }
        outside::backup(bytes, PASSPHRASE)
    } else {
        outside::backup_content(bytes)
    };
    let Some(keys) = keys else { return Verdict::Refused };
    let ours: Vec<_> = created().nodes[0].shares.iter().map(|s| s.key().public_key().to_bytes()).collect();
    assert!(!keys.is_empty() && keys.len() <= ours.len(), "a share twice");
    if choice == 0 {
        assert_eq!(keys, ours[..keys.len()], "another file under the same seal");
    }
    for (place, key) in keys.iter().enumerate() {
        assert!(!keys[..place].contains(key), "a share twice");
        assert!(PublicKey::parse(key).is_ok());
    }
    Verdict::Taken
}

fn backup_seeds() -> Vec<Vec<u8>> {
    let file = outside::make_backup(&content(), PASSPHRASE).expect("a backup");
    let mut cut: BackupEnvelope = serde_json::from_str(&file).expect("our own JSON");
    cut.ciphertext.truncate(64);
    vec![
        chosen(0, file),
        chosen(0, serde_json::to_vec(&cut).expect("a JSON form")),
        chosen(1, serde_json::to_vec(&content()).expect("a JSON form")),
    ]
}

fn signed(body: String) -> MoveCertificate {
    let mut certificate =
        MoveCertificate { body, enc: "11".repeat(32), ciphertext: "22".repeat(48), signature: String::new() };
    certificate.signature = hex::encode(identity(0).sign(&outside::certificate_digest(&certificate)));
    certificate
}

/// The old box of the seeds.
fn from() -> String {
    hex::encode(identity(0).public_key().as_bytes())
}

fn certificate(input: &[u8]) -> Verdict {
    let Some((choice, bytes)) = choose(input, 2) else { return Verdict::Refused };
    let arrival = if choice == 0 {
        let Ok(arrival) = serde_json::from_slice::<Arrival>(bytes) else { return Verdict::Refused };
        arrival
    } else {
        let Ok(body) = String::from_utf8(bytes.to_vec()) else { return Verdict::Refused };
        Arrival { from: from(), certificate: signed(body) }
    };
    let Some(count) = outside::move_certificate(&arrival) else { return Verdict::Refused };
    let body: MoveBody = serde_json::from_str(&arrival.certificate.body).expect("what was read is JSON");
    assert_eq!(body.shares.len(), count);
    assert!(body.from.eq_ignore_ascii_case(arrival.from.trim().trim_start_matches("0x")), "by another box");
    // Whatever is changed of it, it is not the same box's word any more.
    let spoil = |change: fn(&mut MoveCertificate)| {
        let mut other = arrival.clone();
        change(&mut other.certificate);
        assert!(outside::move_certificate(&other).is_none(), "a changed certificate is taken");
    };
    spoil(|certificate| certificate.body.push(' '));
    spoil(|certificate| certificate.enc.push('0'));
    spoil(|certificate| certificate.ciphertext.push('0'));
    Verdict::Taken
}

fn certificate_seeds() -> Vec<Vec<u8>> {
    let body = |shares: Vec<CarriedShare>| MoveBody {
        version: 1,
        from: from(),
        to: "33".repeat(32),
        issued_at_ms: 1_700_000_000_000,
        shares,
    };
    let text = |body: &MoveBody| serde_json::to_string(body).expect("a JSON form");
    let whole = text(&body(vec![carried(0).0, carried(1).0]));
    let arrival = Arrival { from: from(), certificate: signed(whole.clone()) };
    vec![
        chosen(0, serde_json::to_vec(&arrival).expect("a JSON form")),
        chosen(1, whole),
        chosen(1, text(&body(Vec::new()))),
    ]
}

fn seen(input: &[u8]) -> Verdict {
    if let Some(marks) =
        serde_json::from_slice::<Vec<ChainMark>>(input).ok().filter(|marks| !marks.is_empty())
    {
        let again = serde_json::to_vec(&marks).expect("marks have a JSON form");
        assert_eq!(serde_json::from_slice::<Vec<ChainMark>>(&again).ok(), Some(marks));
        return Verdict::Taken;
    }
    let Ok(list) = serde_json::from_slice::<Vec<SeenSignature>>(input) else { return Verdict::Refused };
    let mut verdict = Verdict::Refused;
    for seen in list.iter().take(4) {
        let Some((signing_root, counts)) = outside::seen_signature(seen, GENESIS_ROOT, &clock()) else {
            continue;
        };
        let own = PublicKey::parse(&seen.key).ok().zip(Signature::parse(&seen.signature).ok());
        let verifies =
            own.is_some_and(|(key, signature)| threshold::verify(&key, signing_root.as_slice(), &signature));
        assert_eq!(counts, verifies);
        verdict = if counts { Verdict::Taken } else { verdict };
    }
    verdict
}

fn seen_seeds() -> Vec<Vec<u8>> {
    let share = &created().nodes[0].shares[0];
    let key = share.key().public_key().to_bytes();
    let signed = |request: ipc::SignRequest| {
        let root = outside::sign_request(&request, GENESIS_ROOT, &clock())?.signing_root;
        Some(SeenSignature { key, request, signature: share.sign(&root.0).to_bytes() })
    };
    let votes = ["ATTESTATION", "BLOCK_V2"];
    let mark = ChainMark { key, target: chain::Epoch(9), justified: chain::Epoch(7) };
    let of_votes = requests().into_iter().filter(|request| votes.contains(&request.kind.as_str()));
    let all: Vec<SeenSignature> = of_votes.filter_map(signed).collect();
    all.iter()
        .map(std::slice::from_ref)
        .chain([all.as_slice()])
        .map(|list| serde_json::to_vec(list).expect("a list has a JSON form"))
        .chain([serde_json::to_vec(&[mark]).expect("a list has a JSON form")])
        .collect()
}
