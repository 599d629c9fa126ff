//! A Charon node's folder, sealed as the owner's browser seals it.

use crate::harness::*;
use chain::{ExecutionAddress, ForkVersion};
use cluster::{
    Network,
    create::{self, Addresses, CreateOptions, CreatedCluster},
    keystore::KdfCost,
};
use ipc::{ClientError, Sensitive, folder::*, signer::ChainClock};
use serde_json::{Value, json};

const GENESIS: ForkVersion = ForkVersion([0x20, 0, 0, 0x89]);

/// A cluster of four with three validators, and the chain it is for.
pub(crate) struct Charon {
    pub created: CreatedCluster,
    pub clock: ChainClock,
}

/// Makes one thing of a folder wrong.
type Spoil = fn(&mut CharonFolder, &Charon);

impl Charon {
    pub(crate) fn new(clock: ChainClock) -> Self {
        let network = Network {
            name: "devnet".to_owned(),
            chain_id: 1337,
            genesis_fork_version: GENESIS,
            genesis_time: clock.genesis_time,
        };
        Self::on(network, clock)
    }

    /// A cluster for a public test network. Nobody's: its keys are made here.
    pub(crate) fn of_hoodi() -> Self {
        let hoodi = Network::by_name("hoodi").unwrap();
        let genesis_time = hoodi.genesis_time;
        Self::on(hoodi, ChainClock { genesis_time, ..clock_with(12_000) })
    }

    fn on(network: Network, clock: ChainClock) -> Self {
        let addresses = Addresses {
            fee_recipient: ExecutionAddress([0xfe; 20]),
            withdrawal: ExecutionAddress([0xd1; 20]),
        };
        let options = CreateOptions::new("friends", 4, 3, network, addresses);
        Self { created: create::cluster(&options, &mut rand::rng()).unwrap(), clock }
    }

    /// What the browser reads out of the folder of the member at this place.
    pub(crate) fn folder(&self, node: usize) -> CharonFolder {
        let files = self.created.node_files(node, KdfCost::Insecure, &mut rand::rng()).unwrap();
        let text = |ending: &str| {
            let file = files.iter().find(|file| file.path.ends_with(ending)).unwrap();
            String::from_utf8(file.content.to_vec()).unwrap()
        };
        let keystore = |file: &cluster::create::OutputFile| FolderKeystore {
            name: file.path.rsplit('/').next().unwrap().to_owned(),
            keystore: serde_json::from_slice(&file.content).unwrap(),
            password: Sensitive::new(text(&file.path.replace(".json", ".txt"))),
        };
        let keystores =
            files.iter().filter(|file| file.path.contains("keystore-") && file.path.ends_with(".json"));
        CharonFolder {
            lock: serde_json::from_str(&text("cluster-lock.json")).unwrap(),
            identity_key: Sensitive::new(text("charon-enr-private-key")),
            keystores: keystores.map(keystore).collect(),
            old_node_stopped: true,
            past: Past::Wait,
            chain: Some(StatedChain {
                name: "devnet".to_owned(),
                chain_id: 1337,
                genesis_fork_version: GENESIS.to_string(),
                genesis_validators_root: GENESIS_ROOT.to_string(),
                clock: self.clock,
            }),
        }
    }

    pub(crate) fn pubshare(&self, node: usize, validator: usize) -> chain::PublicKeyBytes {
        self.created.lock.validators[validator].public_shares[node]
    }

    pub(crate) fn lock_hash(&self) -> String {
        hex::encode(self.created.lock.lock_hash)
    }
}

pub(crate) async fn hand_in(signer: &Running, folder: &CharonFolder) -> Result<FolderImported, ClientError> {
    let key = signer.status().await.import_key.unwrap();
    let text = serde_json::to_vec(folder).unwrap();
    let sealed = ipc::envelope::seal_as_page(&key, FOLDER_INFO, &text).unwrap();
    signer.control.post(FOLDERS_PATH, &sealed).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_charon_folder_comes_in_whole_and_its_shares_sign() {
    let machine = Machine::new();
    let signer = machine.start().await;
    let mut chain = clock();
    chain.genesis_time += 5; // Whatever else this machine does, the folder is in before the chain begins.
    let charon = Charon::new(chain);
    let taken = hand_in(&signer, &charon.folder(2)).await.unwrap();
    assert_eq!((taken.cluster.as_str(), taken.share_index, taken.imported.len()), ("friends", 3, 3));
    let held: Vec<String> = signer.status().await.shares.into_iter().map(|share| share.pubshare).collect();
    for validator in 0..3 {
        assert!(held.contains(&charon.pubshare(2, validator).to_string()));
    }
    // The identity key is for dv-node, from the signing socket; the page's server cannot ask for it.
    let path = identity_path(&charon.lock_hash());
    let identity: IdentityAnswer = signer.sign.get(&path).await.unwrap();
    assert_eq!(
        identity.identity_key.expose_secret(),
        charon.created.nodes[2].identity.to_file_text().as_str()
    );
    assert!(signer.control.get::<IdentityAnswer>(&path).await.is_err());
    let unknown = signer.sign.get::<IdentityAnswer>(&identity_path(&"ab".repeat(32))).await;
    assert_eq!(code(unknown), refused(422, "identity_unknown"));

    until_epoch(&charon.clock, 20).await;
    let share = charon.pubshare(2, 0);
    let signed = signer.attest(&share, &vote(2, 3, 1)).await.unwrap();
    assert!(signs(&share, &vote(2, 3, 1), &signed));
    // Handed in again, nothing is new, and what was signed is known.
    let again = hand_in(&signer, &charon.folder(2)).await.unwrap();
    assert_eq!((again.imported.len(), again.already_held.len()), (0, 3));
    assert_eq!(code(signer.attest(&share, &vote(2, 3, 2)).await), refused(412, "slashable"));

    // On the disk there is nothing in the clear, and in the log neither.
    let secrets: Vec<String> = [charon.created.nodes[2].identity.to_file_text().to_string()]
        .into_iter()
        .chain(
            charon.created.nodes[2]
                .shares
                .iter()
                .map(|share| hex::encode(share.key().expose_bytes().as_slice())),
        )
        .collect();
    for secret in &secrets {
        assert!(!signer.log_text().contains(secret));
        let bytes = hex::decode(secret).unwrap();
        for (path, content) in machine.disk() {
            let found = |needle: &[u8]| content.windows(needle.len()).any(|window| window == needle);
            assert!(!found(&bytes) && !found(secret.as_bytes()), "{}", path.display());
        }
    }
    // After a restart the identity key is still there.
    signer.stop();
    let signer = machine.start().await;
    signer.sign.get::<IdentityAnswer>(&path).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_with_anything_wrong_is_refused_whole() {
    let machine = Machine::new();
    let signer = machine.start().await;
    let charon = Charon::new(clock());
    let cases: [(Spoil, &str); 14] = [
        (|f, _| f.old_node_stopped = false, "old_node_running"),
        (|f, _| f.keystores[1].password = Sensitive::new("wrong".to_owned()), "keystore_invalid"),
        (|f, _| f.keystores[2].keystore["version"] = 3.into(), "keystore_invalid"),
        (|f, _| drop(f.keystores.pop()), "keystores_incomplete"),
        (|f, c| f.keystores[1] = c.folder(0).keystores.remove(1), "pubshare_mismatch"),
        (|f, c| f.keystores[0] = c.folder(2).keystores.remove(1), "share_twice"),
        (|f, c| f.identity_key = c.folder(0).identity_key, "pubshare_mismatch"),
        (|f, _| f.identity_key = Sensitive::new("11".repeat(32)), "identity_not_in_lock"),
        (|f, _| f.identity_key = Sensitive::new("zz".to_owned()), "identity_key_invalid"),
        (|f, _| f.lock["cluster_definition"]["name"] = "foes".into(), "lock_invalid"),
        (|f, _| f.lock["signature_aggregate"] = "".into(), "lock_invalid"),
        (|f, _| f.chain = None, "chain_unknown"),
        (|f, _| f.chain.as_mut().unwrap().clock.slot_ms = 0, "chain_invalid"),
        (|f, _| f.past = Past::Interchange(json!({"data": []})), "history_invalid"),
    ];
    // One that was shut down, stated or not.
    let holesky = Network {
        name: "holesky".to_owned(),
        chain_id: 17_000,
        genesis_fork_version: ForkVersion([1, 1, 0x70, 0]),
        genesis_time: 1_695_902_400,
    };
    let holesky = Charon::on(holesky, clock());
    for is_stated in [true, false] {
        let mut folder = holesky.folder(0);
        folder.chain = folder.chain.filter(|_| is_stated);
        assert_eq!(code(hand_in(&signer, &folder).await), refused(422, "chain_gone"));
    }
    for (spoil, expected) in cases {
        let mut folder = charon.folder(2);
        spoil(&mut folder, &charon);
        assert_eq!(code(hand_in(&signer, &folder).await), refused(422, expected));
    }
    // A history that says nothing about one of the shares is none.
    let mut folder = charon.folder(2);
    folder.past = Past::Interchange(json!({
        "metadata": {"interchange_format_version": "5", "genesis_validators_root": GENESIS_ROOT.to_string()},
        "data": [],
    }));
    assert_eq!(code(hand_in(&signer, &folder).await), refused(422, "history_missing"));
    let key = signer.status().await.import_key.unwrap();
    let text = serde_json::to_vec(&charon.folder(2)).unwrap();
    for (purpose, text, expected) in [
        (b"hearth share import v1".as_slice(), text.as_slice(), "envelope_invalid"),
        (FOLDER_INFO, b"{\"topsecret\":1}".as_slice(), "folder_invalid"),
    ] {
        let sealed = ipc::envelope::seal_as_page(&key, purpose, text).unwrap();
        let refusal = signer.control.post::<Value>(FOLDERS_PATH, &sealed).await;
        assert!(!format!("{refusal:?}").contains("topsecret"));
        assert_eq!(code(refusal), refused(422, expected));
    }
    assert_eq!(signer.status().await.shares, []);
    let left: Vec<_> =
        machine.disk().into_iter().filter(|(path, _)| path.to_string_lossy().contains("identity")).collect();
    assert!(left.is_empty(), "no identity key of a refused folder is kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_share_of_another_machine_waits_one_epoch_more_than_a_clock_of_our_own_asks_for() {
    let machine = Machine::new();
    let signer = machine.start().await;
    let mut chain = clock_with(4_000); // Epochs of 32 s.
    chain.genesis_time -= 600;
    let before = epoch_of(&chain);
    let taken = hand_in(&signer, &Charon::new(chain).folder(1)).await.unwrap();
    let first = taken.votes_from_epoch.unwrap();
    assert!((before + 3..=epoch_of(&chain) + 3).contains(&first), "{first} and not two after {before}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_from_a_running_chain_waits_longer_and_its_history_counts() {
    let machine = Machine::new();
    let signer = machine.start().await;
    let mut chain = clock_with(250);
    chain.genesis_time -= 60; // Epoch 28 or so.
    let charon = Charon::new(chain);
    let mut folder = charon.folder(1);
    let epoch = epoch_of(&chain);
    let entry = |validator: usize, target: u64| {
        json!({
            "pubkey": charon.pubshare(1, validator).to_string(), "signed_blocks": [],
            "signed_attestations": [{"source_epoch": (target - 1).to_string(), "target_epoch": target.to_string()}],
        })
    };
    folder.past = Past::Interchange(json!({
        "metadata": {"interchange_format_version": "5", "genesis_validators_root": GENESIS_ROOT.to_string()},
        "data": [entry(0, epoch), entry(1, epoch + 6), entry(2, 1)],
    }));
    let taken = hand_in(&signer, &folder).await.unwrap();
    let now = epoch_of(&chain);
    let first = taken.votes_from_epoch.unwrap();
    assert!(first >= epoch + 7, "the history of one share reaches further: {first}");
    assert_eq!(signer.problem_codes().await, ["waiting_after_import"]);
    for target in [epoch, now, now + 1] {
        for validator in 0..3 {
            let share = charon.pubshare(1, validator);
            assert!(signer.attest(&share, &vote(target - 1, target, 1)).await.is_err(), "target {target}");
        }
    }
    // Two epochs and one more for the other machine's clock.
    until_epoch(&chain, now + 4).await;
    let share = charon.pubshare(1, 2);
    let at = epoch_of(&chain);
    signer.attest(&share, &vote(at - 1, at, 1)).await.unwrap();
    assert!(
        signer.attest(&charon.pubshare(1, 1), &vote(at - 1, at, 1)).await.is_err(),
        "its history goes on"
    );
}

/// The folder of the second of four nodes, as `charon create cluster --insecure-keys` (v1.10.3) wrote it for a chain that
/// does not exist. Its keys are everybody's.
fn written_by_charon() -> CharonFolder {
    let text = |name: &str| {
        let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/process/charon-folder");
        std::fs::read_to_string(dir.join(name)).unwrap()
    };
    let keystore = |place: u8| FolderKeystore {
        name: format!("keystore-insecure-{place}.json"),
        keystore: serde_json::from_str(&text(&format!("validator_keys/keystore-insecure-{place}.json")))
            .unwrap(),
        password: Sensitive::new(text(&format!("validator_keys/keystore-insecure-{place}.txt"))),
    };
    let lock: Value = serde_json::from_str(&text("cluster-lock.json")).unwrap();
    CharonFolder {
        identity_key: Sensitive::new(text("charon-enr-private-key")),
        keystores: vec![keystore(1), keystore(0)],
        old_node_stopped: true,
        past: Past::Wait,
        chain: Some(StatedChain {
            name: "devnet".to_owned(),
            chain_id: 1337,
            genesis_fork_version: lock["cluster_definition"]["fork_version"].as_str().unwrap().to_owned(),
            genesis_validators_root: GENESIS_ROOT.to_string(),
            clock: ChainClock { genesis_time: 1_700_000_000, ..clock_with(12_000) },
        }),
        lock,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_charon_itself_wrote_comes_in() {
    let machine = Machine::new();
    let signer = machine.start().await;
    let taken = hand_in(&signer, &written_by_charon()).await.unwrap();
    assert_eq!((taken.cluster.as_str(), taken.share_index, taken.imported.len()), ("live", 2, 2));
    assert!(taken.votes_from_epoch.is_some(), "its chain runs");
}
