//! An SSV operator's key and key shares, sealed as the owner's browser seals them.

use std::sync::LazyLock;

use crate::{elsewhere, harness::*};
use chain::{ExecutionAddress, PublicKeyBytes};
use cluster::keystore::KdfCost;
use cluster::ssv::{KeyShares, OperatorKey, OperatorPublicKey, ValidatorShares};
use ipc::{
    ClientError, Sensitive,
    folder::{Past, StatedChain},
    owner::{RESUME_CONFIRMATION, RESUME_PATH, ResumeShare, ShareResumed},
    signer::{ChainClock, History},
    ssv::*,
};
use serde_json::{Value, json};
use threshold::SecretKey;

/// Two operators whose keys we have: making one takes a second.
static KEYS: LazyLock<[OperatorKey; 2]> =
    LazyLock::new(|| [OperatorKey::generate(&mut rand::rng()), OperatorKey::generate(&mut rand::rng())]);

/// A validator of four operators, among them our two, as the second and the third.
struct Split {
    secret_bytes: [u8; 32],
    shares: ValidatorShares,
}

impl Split {
    fn new() -> Self {
        let secret = SecretKey::random(&mut rand::rng());
        let secret_bytes = *secret.expose_bytes();
        let stranger = |first: u8| {
            let mut modulus = [0x5b; 256];
            modulus[0] = first;
            OperatorPublicKey::from_modulus(&modulus).unwrap()
        };
        let operators = [
            (12, stranger(0x81)),
            (345, KEYS[0].public_key()),
            (346, KEYS[1].public_key()),
            (70_000, stranger(0x82)),
        ];
        let owner = ExecutionAddress([0xfe; 20]);
        let shares = ValidatorShares::split(secret, &operators, owner, 3, &mut rand::rng()).unwrap();
        Self { secret_bytes, shares }
    }

    fn pubshare(&self) -> PublicKeyBytes {
        self.shares.operators[1].public_share
    }
}

fn file_of(splits: &[&Split]) -> String {
    let shares: Vec<_> = splits.iter().map(|split| split.shares.clone()).collect();
    String::from_utf8(KeyShares::write(&shares, "2026-01-01T00:00:00.000Z")).unwrap()
}

fn plain_key(place: usize) -> SsvKeyFile {
    SsvKeyFile { file: Sensitive::new(KEYS[place].expose_text().to_string()), password: None }
}

/// What the page sends for the first of our operators.
fn files(splits: &[&Split], clock: ChainClock) -> SsvFiles {
    SsvFiles {
        operator_key: plain_key(0),
        key_shares: file_of(splits),
        old_node_stopped: true,
        past: Past::Wait,
        network: None,
        chain: Some(StatedChain {
            name: "devnet".to_owned(),
            chain_id: 1337,
            genesis_fork_version: "0x20000089".to_owned(),
            genesis_validators_root: GENESIS_ROOT.to_string(),
            clock,
        }),
    }
}

async fn hand_in(signer: &Running, files: &SsvFiles) -> Result<SsvImported, ClientError> {
    let key = signer.status().await.import_key.unwrap();
    let sealed = ipc::envelope::seal_as_page(&key, SSV_INFO, &serde_json::to_vec(files).unwrap()).unwrap();
    signer.control.post(SSV_PATH, &sealed).await
}

/// The owner lets a share go on.
async fn resume(signer: &Running, share: &PublicKeyBytes) -> Option<u64> {
    elsewhere::resume_share(signer, share, RESUME_CONFIRMATION).await.unwrap().votes_from_epoch
}

#[tokio::test(flavor = "multi_thread")]
async fn ssv_key_shares_come_in_to_rest_and_sign_once_their_owner_says_so() {
    LazyLock::force(&KEYS);
    let machine = Machine::new();
    let signer = machine.start().await;
    let mut chain = clock_with(100); // Epochs of 800 ms.
    chain.genesis_time -= 60;
    let (first, second) = (Split::new(), Split::new());
    let mut with_password = files(&[&first, &second], chain);
    let encrypted = KEYS[0].to_encrypted(PASSWORD, KdfCost::Insecure, &mut rand::rng());
    with_password.operator_key =
        SsvKeyFile { file: Sensitive::new(encrypted), password: Some(Sensitive::new(PASSWORD.to_owned())) };
    let taken = hand_in(&signer, &with_password).await.unwrap();
    assert_eq!((taken.imported.len(), taken.already_held.len()), (2, 0));
    assert_eq!(taken.operator, KEYS[0].public_key().fingerprint());
    for (split, held) in [&first, &second].into_iter().zip(&taken.imported) {
        assert_eq!(held.pubshare, split.pubshare().to_string());
        assert_eq!((&held.group_key, held.share_index), (&split.shares.public_key.to_string(), 2));
    }
    // However long it has waited, over restarts: it rests.
    let share = first.pubshare();
    let far = epoch_of(&chain) + 6;
    until_epoch(&chain, far).await;
    assert_eq!(code(signer.attest(&share, &vote(far - 1, far, 1)).await), refused(412, "signs_elsewhere"));
    signer.stop();
    let signer = machine.start().await;
    assert_eq!(signer.status().await.shares.len(), 2);
    // It is no alarm, and each is named.
    let problems = signer.status().await.problems;
    assert!(problems.iter().all(|problem| problem.code != "signs_elsewhere"), "{problems:?}");
    let rests = problems.iter().find(|problem| problem.code == "shares_rest").unwrap();
    for split in [&first, &second] {
        assert!(rests.message.contains(&split.pubshare().to_string()), "{}", rests.message);
    }
    let now = epoch_of(&chain);
    assert_eq!(code(signer.attest(&share, &vote(now - 1, now, 1)).await), refused(412, "signs_elsewhere"));
    // The owner's word counts from then on: above all that the old node can have signed by that moment.
    let begins = resume(&signer, &share).await.unwrap();
    assert!(begins >= now + 3, "{begins} after {now}");
    assert_eq!(code(signer.attest(&share, &vote(begins - 2, begins - 1, 1)).await).0, 412);
    until_epoch(&chain, begins).await;
    let signed = signer.attest(&share, &vote(begins - 1, begins, 1)).await.unwrap();
    assert!(signs(&share, &vote(begins - 1, begins, 1), &signed));
    let other = second.pubshare();
    assert_eq!(code(signer.attest(&other, &vote(begins - 1, begins, 1)).await).1, "signs_elsewhere");
    // The other is seen while its owner reads that it merely rests: an alarm, which the word for a rest does not lift.
    let data = vote(begins - 1, begins, 8);
    let request = ipc::SignRequest::attestation(fork_info(), &data).unwrap();
    let domain = chain::domain::domain_at(chain::domain::BEACON_ATTESTER, data.target.epoch, &fork_info());
    let signing_root = chain::domain::signing_root(&data, domain);
    let secret = KEYS[0].decrypt_share(&second.shares.operators[1].encrypted_share, &other, &mut rand::rng());
    let signature = secret.unwrap().sign(&signing_root.0).to_bytes();
    let shown = elsewhere::stopped_at(&signer, &other).await.unwrap();
    assert_eq!(shown, 0, "it rests");
    let seen = [ipc::web3signer::SeenSignature { key: other, request, signature }];
    assert_eq!(elsewhere::tell(&signer, &seen).await, [other]);
    let problems = signer.problem_codes().await;
    assert!(
        problems.contains(&"signs_elsewhere".to_owned()) && !problems.contains(&"shares_rest".to_owned())
    );
    let wish = ResumeShare {
        share: other.to_string(),
        stopped_at_ms: shown,
        confirm: RESUME_CONFIRMATION.to_owned(),
    };
    let lifted = signer.control.post::<ShareResumed>(RESUME_PATH, &wish).await;
    assert_eq!(code(lifted), refused(422, "share_stopped_anew"));
    assert!(elsewhere::stopped_at(&signer, &other).await.unwrap() > 0, "it stays one");
    // Handed in again nothing is new, what was signed is known, what goes on goes on, and what rests rests.
    let again = hand_in(&signer, &files(&[&first, &second], chain)).await.unwrap();
    assert_eq!((again.imported.len(), again.already_held.len()), (0, 2));
    let next = epoch_of(&chain).max(begins + 1);
    until_epoch(&chain, next).await;
    signer.attest(&share, &vote(begins, next, 1)).await.unwrap();
    assert_eq!(code(signer.attest(&other, &vote(begins, next, 1)).await).1, "signs_elsewhere");
    assert_eq!(code(signer.attest(&share, &vote(begins - 1, begins, 2)).await), refused(412, "slashable"));

    // Neither the operator's key nor a share is on the disk or in the log, and the key is not there sealed either.
    let secret = KEYS[0].decrypt_share(&first.shares.operators[1].encrypted_share, &share, &mut rand::rng());
    let share_bytes = secret.unwrap().expose_bytes();
    let pem = KEYS[0].expose_pem();
    let lines = pem.lines().nth(5).unwrap();
    let needles =
        [share_bytes.to_vec(), hex::encode(share_bytes.as_slice()).into_bytes(), lines.as_bytes().to_vec()];
    for (path, content) in machine.disk() {
        assert!(!path.to_string_lossy().contains("ssv"), "{}", path.display());
        for needle in &needles {
            let found = content.windows(needle.len()).any(|window| window == needle.as_slice());
            assert!(!found, "{}", path.display());
        }
        // The validator's whole key never was here.
        assert!(!content.windows(32).any(|window| window == first.secret_bytes));
    }
    assert!(!signer.log_text().contains(lines) && !signer.log_text().contains(PASSWORD));
    assert!(!signer.log_text().contains(&hex::encode(share_bytes.as_slice())));
}

/// Makes one thing of the files wrong.
type Spoil = fn(&mut SsvFiles, &Split);

fn change(files: &mut SsvFiles, how: impl Fn(&mut Value)) {
    let mut file: Value = serde_json::from_str(&files.key_shares).unwrap();
    how(&mut file);
    files.key_shares = file.to_string();
}

#[tokio::test(flavor = "multi_thread")]
async fn ssv_files_with_anything_wrong_are_refused_whole() {
    let machine = Machine::new();
    let signer = machine.start().await;
    let (first, second) = (Split::new(), Split::new());
    let cases: [(Spoil, &str); 17] = [
        (|f, _| f.old_node_stopped = false, "old_node_running"),
        (|f, _| f.chain = None, "chain_unknown"),
        (|f, _| f.network = Some("mainnet".to_owned()), "chain_unknown"),
        (
            |f, _| {
                f.chain = None;
                f.network = Some("atlantis".to_owned());
            },
            "chain_unknown",
        ),
        // A network that was shut down is told from one that is not known.
        (
            |f, _| {
                f.chain = None;
                f.network = Some("holesky".to_owned());
            },
            "chain_gone",
        ),
        (|f, _| f.chain.as_mut().unwrap().genesis_fork_version = "0x01017000".to_owned(), "chain_gone"),
        (|f, _| f.chain.as_mut().unwrap().clock.slot_ms = 0, "chain_invalid"),
        // A public chain's root under a clock of one's own: by it, epochs that are over would be signed for again.
        (
            |f, _| {
                let mainnet =
                    cluster::Network::by_name("mainnet").unwrap().genesis_validators_root().unwrap();
                f.chain.as_mut().unwrap().genesis_validators_root = mainnet.to_string();
            },
            "chain_invalid",
        ),
        (
            |f, _| {
                let stranger = OperatorKey::generate(&mut rand::rng());
                f.operator_key.file = Sensitive::new(stranger.expose_text().to_string());
            },
            "operator_not_in_shares",
        ),
        (|f, _| f.operator_key.file = Sensitive::new("x".to_owned()), "operator_key_invalid"),
        (|f, _| f.operator_key.file = Sensitive::new("{}".to_owned()), "operator_key_invalid"),
        (|f, _| f.key_shares = "{}".to_owned(), "key_shares_invalid"),
        (|f, _| change(f, |file| file["shares"][1]["data"]["ownerNonce"] = 4.into()), "key_shares_invalid"),
        (|f, _| change(f, |file| file["shares"][1] = file["shares"][0].clone()), "key_shares_invalid"),
        // Our own share replaced by bytes that were never encrypted to us: only its operator can see that.
        (
            |f, split| {
                let mut shares = split.shares.clone();
                shares.operators[1].encrypted_share[9] ^= 1;
                f.key_shares = String::from_utf8(KeyShares::write(&[shares], "")).unwrap();
            },
            "ssv_share_invalid",
        ),
        (|f, _| f.past = Past::Interchange(json!({"data": []})), "history_invalid"),
        (
            |f, _| {
                f.past = Past::Interchange(json!({
                    "metadata": {"interchange_format_version": "5", "genesis_validators_root": GENESIS_ROOT.to_string()},
                    "data": [],
                }));
            },
            "history_missing",
        ),
    ];
    for (number, (spoil, expected)) in cases.into_iter().enumerate() {
        let mut files = files(&[&first, &second], clock());
        spoil(&mut files, &first);
        assert_eq!(code(hand_in(&signer, &files).await), refused(422, expected), "{number}");
    }
    let key = signer.status().await.import_key.unwrap();
    let text = serde_json::to_vec(&files(&[&first], clock())).unwrap();
    for (purpose, text, expected) in [
        (ipc::folder::FOLDER_INFO, text.as_slice(), "envelope_invalid"),
        (SSV_INFO, b"{\"topsecret\":1}".as_slice(), "ssv_files_invalid"),
    ] {
        let sealed = ipc::envelope::seal_as_page(&key, purpose, text).unwrap();
        let refusal = signer.control.post::<Value>(SSV_PATH, &sealed).await;
        assert!(!format!("{refusal:?}").contains("topsecret"));
        assert_eq!(code(refusal), refused(422, expected));
    }
    assert_eq!(signer.status().await.shares, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ssv_share_of_a_running_chain_waits_like_any_other_that_may_sign_elsewhere() {
    let machine = Machine::new();
    let signer = machine.start().await;
    let mut chain = clock_with(250); // Epochs of 2 s.
    chain.genesis_time -= 60;
    let (first, second) = (Split::new(), Split::new());
    let mut files = files(&[&first, &second], chain);
    let epoch = epoch_of(&chain);
    let entry = |split: &Split, target: u64| {
        json!({
            "pubkey": split.pubshare().to_string(), "signed_blocks": [],
            "signed_attestations": [{"source_epoch": (target - 1).to_string(), "target_epoch": target.to_string()}],
        })
    };
    files.past = Past::Interchange(json!({
        "metadata": {"interchange_format_version": "5", "genesis_validators_root": GENESIS_ROOT.to_string()},
        "data": [entry(&first, 1), entry(&second, epoch + 6)],
    }));
    let taken = hand_in(&signer, &files).await.unwrap();
    let now = epoch_of(&chain);
    assert_eq!(taken.imported.len(), 2);
    for split in [&first, &second] {
        resume(&signer, &split.pubshare()).await.unwrap();
    }
    let now = now.max(epoch_of(&chain));
    // Two epochs and one more for the clock of the old node: nothing that it may have signed by now is signed here.
    for target in [epoch, now, now + 1, now + 2] {
        for split in [&first, &second] {
            assert!(
                signer.attest(&split.pubshare(), &vote(target - 1, target, 1)).await.is_err(),
                "{target}"
            );
        }
    }
    // Neither a restart nor the same files once more shorten the wait.
    signer.stop();
    let signer = machine.start().await;
    files.past = Past::Wait;
    assert_eq!(hand_in(&signer, &files).await.unwrap().already_held.len(), 2);
    until_epoch(&chain, now + 5).await;
    let at = epoch_of(&chain);
    signer.attest(&first.pubshare(), &vote(at - 1, at, 1)).await.unwrap();
    assert!(
        signer.attest(&second.pubshare(), &vote(at - 1, at, 1)).await.is_err() || at > epoch + 7,
        "its history goes on"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_validator_that_another_cluster_runs_here_does_not_come_in_with_ssv_too() {
    let machine = Machine::new();
    let signer = machine.start().await;
    let split = Split::new();
    let mut other = bundle(&[1], History::NeverSigned);
    other.validators[0].group_public_key = split.shares.public_key.to_string();
    signer.import(&other).await.unwrap();
    let handed_in = files(&[&split], clock());
    assert_eq!(code(hand_in(&signer, &handed_in).await), refused(422, "validator_already_here"));
    // Nor does the box become two operators of one validator.
    let another = Split::new();
    hand_in(&signer, &files(&[&another], clock())).await.unwrap();
    let as_second = SsvFiles { operator_key: plain_key(1), ..files(&[&another], clock()) };
    assert_eq!(code(hand_in(&signer, &as_second).await), refused(422, "validator_already_here"));
    assert_eq!(signer.status().await.shares.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_ssv_share_of_a_public_chain_comes_in_where_everybody_can_sign_the_image() {
    let mut machine = Machine::new();
    machine.release_keys = false;
    let signer = machine.start().await;
    let split = Split::new();
    let on_hoodi = SsvFiles { chain: None, network: Some("hoodi".to_owned()), ..files(&[&split], clock()) };
    assert_eq!(code(hand_in(&signer, &on_hoodi).await), refused(422, "test_keys_real_chain"));
    assert_eq!(signer.status().await.shares, []);
    hand_in(&signer, &files(&[&split], clock())).await.unwrap();
}
