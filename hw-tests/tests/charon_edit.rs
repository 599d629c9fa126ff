//! Changes of a cluster in which Hearths and Charons take part together, each with its own program: the members are native
//! Hearths with real signers and software TPMs, and `charon alpha edit …` of a binary that the user has.
//!
//! Needs a Charon, named by HEARTH_CHARON; its minor version says which messages everybody speaks. Run one test at a time
//! (`RUST_TEST_THREADS=1`). With HEARTH_BINARIES the daemons are taken from that folder, with HEARTH_KEEP the logs stay.

#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

mod seated;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use chain::{ExecutionAddress, PublicKeyBytes, Root};
use cluster::create::{self, Addresses, CreateOptions, CreatedCluster};
use cluster::edit::Edit;
use cluster::keystore::{KdfCost, Keystore};
use cluster::{Enr, IdentityKey, Lock, Network, PeerId};
use hw_tests::ceremony::address;
use hw_tests::charon::{Charon, Relay};
use hw_tests::member::Member;
use hw_tests::ports::free_ports;
use hw_tests::process::{Launch, Process, log_tail};
use ipc::dkg::{
    AddedValidator, Adding, CEREMONY_PATH, CeremonyConsent, CeremonyStatus, DKG_FILES_PATH, DKG_PATH,
    KeyGeneration, KeyGenerationFiles, KeyGenerationStatus,
};
use ipc::edit::{
    CLUSTER_EDIT_LOCK_PATH, CLUSTER_EDIT_PATH, ClusterEdit, ClusterEditProgress, ClusterEditStatus,
    EDIT_PATH, EditCommit, EditConsent, EditStatus,
};
use ipc::signer::{ChainClock, ChainPreset, STATUS_PATH, SignerStatus};
use ipc::{Client, NodeStatus, Sensitive};
use threshold::{SecretShare, ShareIndex};

const PATIENCE: Duration = Duration::from_secs(150);
const VALIDATORS: usize = 2;

/// What runs a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Hearth,
    Charon,
    /// It takes no part, so nothing is started.
    Off,
}

use Kind::{Charon as C, Hearth as H, Off};

fn binaries() -> PathBuf {
    std::env::var_os("HEARTH_BINARIES").map_or_else(
        || std::env::current_exe().unwrap().parent().and_then(Path::parent).unwrap().to_owned(),
        PathBuf::from,
    )
}

/// The binary that the user named; without one the test says that it tried nothing.
fn charon() -> Option<Charon> {
    let Some(path) = std::env::var_os("HEARTH_CHARON") else {
        println!(
            "SKIPPED: no Charon to change a cluster with; set HEARTH_CHARON to the path of a Charon binary"
        );
        return None;
    };
    Some(Charon::open(Path::new(&path)).unwrap())
}

fn minor_of(charon: &Charon) -> u8 {
    let minor = charon.version().split('.').nth(1).unwrap();
    minor.chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap()
}

/// One `charon alpha edit …` at work.
struct Editor {
    place: usize,
    process: Process,
    output: PathBuf,
}

/// Members of which the first ones are a cluster, on Hoodi: Charon edits clusters of no other than public networks.
struct World {
    runtime: tokio::runtime::Runtime,
    charon: Charon,
    created: CreatedCluster,
    clock: ChainClock,
    genesis_root: Root,
    kinds: Vec<Kind>,
    hearths: BTreeMap<usize, Member>,
    identities: Vec<IdentityKey>,
    charon_ports: Vec<u16>,
    relay: Relay,
    dir: PathBuf,
    _cleanup: Option<tempfile::TempDir>,
}

impl World {
    /// A cluster of `members`, and `more` that are in none.
    fn new(charon: Charon, members: &[Kind], more: &[Kind]) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let network = Network::by_name("hoodi").unwrap();
        let genesis_root = network.genesis_validators_root().unwrap();
        let clock = ChainClock {
            genesis_time: network.genesis_time,
            slot_ms: 12_000,
            slots_per_epoch: 32,
            preset: ChainPreset::Mainnet,
        };
        let addresses = Addresses {
            fee_recipient: ExecutionAddress([0xfe; 20]),
            withdrawal: ExecutionAddress([0xd1; 20]),
        };
        let mut options = CreateOptions::new("mixed", members.len(), VALIDATORS, network.clone(), addresses);
        options.timestamp = "2026-01-02T03:04:05Z".to_owned();
        let created = create::cluster(&options, &mut rand::rng()).unwrap();
        let temporary = tempfile::tempdir().unwrap();
        let (dir, cleanup) = if std::env::var_os("HEARTH_KEEP").is_some() {
            let dir = temporary.keep();
            println!("everything is in {}", dir.display());
            (dir, None)
        } else {
            (temporary.path().to_owned(), Some(temporary))
        };
        let kinds: Vec<Kind> = members.iter().chain(more).copied().collect();
        let identities = seated::identities(&created, more.len());
        let relay = Relay::start(&charon, &dir.join("relay")).unwrap();
        let mut world = Self {
            runtime,
            charon,
            created,
            clock,
            genesis_root,
            hearths: BTreeMap::new(),
            identities,
            charon_ports: free_ports(kinds.len()),
            kinds,
            relay,
            dir,
            _cleanup: cleanup,
        };
        for place in 0..world.kinds.len() {
            match world.kinds[place] {
                H => world.start_hearth(place),
                C => world.write_charon(place),
                Off => {}
            }
        }
        world
    }

    fn start_hearth(&mut self, place: usize) {
        let name = format!("m{place}");
        let member = Member::start_as_released(&name, &self.dir.join(&name), &binaries()).unwrap();
        self.hearths.insert(place, member);
        if place < self.created.nodes.len() {
            self.import(place);
            self.join(place);
        }
    }

    fn home(&self, place: usize) -> PathBuf {
        self.dir.join(format!("charon{place}"))
    }

    /// The folder that an operator of a Charon has.
    fn write_charon(&self, place: usize) {
        let home = self.home(place);
        fs::create_dir_all(&home).unwrap();
        fs::write(home.join("charon-enr-private-key"), self.identities[place].to_file_text().as_bytes())
            .unwrap();
        fs::write(home.join("cluster-lock.json"), self.created.lock.to_json().unwrap()).unwrap();
        if place >= self.created.nodes.len() {
            return;
        }
        for file in self.created.node_files(place, KdfCost::Insecure, &mut rand::rng()).unwrap() {
            if let Some((_, name)) = file.path.split_once("deposit-data") {
                fs::write(home.join(format!("deposit-data{name}")), file.content.as_slice()).unwrap();
            }
            let Some((_, name)) = file.path.split_once("validator_keys/") else { continue };
            fs::create_dir_all(home.join("validator_keys")).unwrap();
            fs::write(home.join("validator_keys").join(name), file.content.as_slice()).unwrap();
        }
    }

    fn enr(&self, place: usize) -> String {
        Enr::build(&self.identities[place]).as_str().to_owned()
    }

    fn lock_json(&self) -> serde_json::Value {
        seated::lock_json(&self.created)
    }

    /// Where everybody that is on is reached.
    fn peers(&self) -> Vec<String> {
        let reached = |place: usize| match self.kinds[place] {
            H => self.hearths.get(&place).map(|member| address(member, &self.identities[place])),
            C => {
                let peer = PeerId::from_public_key(&self.identities[place].public_key());
                Some(format!("/ip4/127.0.0.1/tcp/{}/p2p/{peer}", self.charon_ports[place]))
            }
            Off => None,
        };
        (0..self.kinds.len()).filter_map(reached).collect()
    }

    fn signer(&self, place: usize) -> Client {
        Client::new(self.hearths[&place].signer_socket()).with_timeout(PATIENCE)
    }

    fn node(&self, place: usize) -> Client {
        Client::new(self.hearths[&place].node_socket()).with_timeout(PATIENCE)
    }

    fn signer_status(&self, place: usize) -> SignerStatus {
        self.runtime.block_on(self.signer(place).get(STATUS_PATH)).unwrap()
    }

    fn import(&self, place: usize) {
        let signer = self.signer(place);
        self.runtime.block_on(seated::import(&signer, &self.created, place, self.genesis_root, self.clock));
    }

    fn join(&mut self, place: usize) {
        let member = self.hearths.get_mut(&place).unwrap();
        seated::join(member, &self.identities[place], &self.created, &[]);
    }

    /// What one Hearth's owner does: the consent to the signer, in which the Charons are named, then the change to the node.
    fn begin(&self, place: usize, edit: &Edit) {
        let of = self.created.nodes.len();
        let charons = (0..of).filter(|other| self.kinds[*other] == C);
        let consent = EditConsent {
            lock: self.lock_json(),
            edit: serde_json::to_value(edit).unwrap(),
            identity: self.identities[place].public_key().to_string(),
            minor: minor_of(&self.charon),
            genesis_validators_root: self.genesis_root.to_string(),
            chain: self.clock,
            network: None,
            unvouched: charons.map(|other| u8::try_from(other + 1).unwrap()).collect(),
        };
        let joins = place >= of;
        let request = ClusterEdit {
            lock: self.lock_json(),
            edit: serde_json::to_value(edit).unwrap(),
            identity_key: joins.then(|| Sensitive::new(self.identities[place].to_file_text().to_string())),
            minor: minor_of(&self.charon),
            peers: self.peers(),
            relays: Some(Vec::new()),
            beacon_nodes: if joins { vec!["http://127.0.0.1:9".to_owned()] } else { Vec::new() },
        };
        self.runtime.block_on(async {
            let _: EditStatus = self.signer(place).put(EDIT_PATH, &consent).await.unwrap();
            let _: ClusterEditStatus = self.node(place).put(CLUSTER_EDIT_PATH, &request).await.unwrap();
        });
    }

    /// What one Charon's operator does.
    fn edit(&self, place: usize, command: &[String]) -> Editor {
        let home = self.home(place);
        let output = home.join("output");
        let process = Launch::new(format!("charon {place}"), self.charon.path(), home.join("charon.log"))
            .current_dir(&home)
            .args(["alpha", "edit"])
            .args(command)
            .args(["--lock-file", "cluster-lock.json", "--private-key-file", "charon-enr-private-key"])
            .args(["--validator-keys-dir", "validator_keys", "--output-dir", "output"])
            .args(["--p2p-relays", &self.relay.url(), "--p2p-external-ip", "127.0.0.1"])
            .args(["--p2p-tcp-address", &format!("127.0.0.1:{}", self.charon_ports[place])])
            .args(["--timeout", "60s", "--log-color", "disable", "--log-level", "debug"])
            .start()
            .unwrap();
        Editor { place, process, output }
    }

    /// What one Hearth's owner does to add validators.
    fn begin_adding(&self, place: usize, validators: &[AddedValidator]) {
        let of = self.created.nodes.len();
        let adding = Adding { lock: self.lock_json(), validators: validators.to_vec() };
        let charons = (0..of).filter(|other| self.kinds[*other] == C);
        let consent = CeremonyConsent {
            definition: serde_json::Value::Null,
            adding: Some(adding.clone()),
            identity: self.identities[place].public_key().to_string(),
            genesis_validators_root: self.genesis_root.to_string(),
            chain: self.clock,
            network: None,
            unsealed: charons.map(|other| u8::try_from(other + 1).unwrap()).collect(),
        };
        let reached = |other: usize| {
            let peer = PeerId::from_public_key(&self.identities[other].public_key());
            let port = match self.hearths.get(&other) {
                Some(member) => member.p2p_port() + 1,
                None => self.charon_ports[other],
            };
            format!("/ip4/127.0.0.1/tcp/{port}/p2p/{peer}")
        };
        let request = KeyGeneration {
            definition: serde_json::Value::Null,
            adding: Some(adding),
            identity_key: Sensitive::new(String::new()),
            minor: minor_of(&self.charon),
            peers: (0..of).map(reached).collect(),
            beacon_nodes: Vec::new(),
            relays: None,
        };
        self.runtime.block_on(async {
            let _: CeremonyStatus = self.signer(place).put(CEREMONY_PATH, &consent).await.unwrap();
            let _: KeyGenerationStatus = self.node(place).put(DKG_PATH, &request).await.unwrap();
        });
    }

    /// The lock that a Hearth has after validators were added.
    fn lock_with_more(&self, place: usize, editors: &[Editor]) -> Vec<u8> {
        let begun = Instant::now();
        loop {
            let status: KeyGenerationStatus = self.runtime.block_on(self.node(place).get(DKG_PATH)).unwrap();
            let ceremony = status.ceremony.unwrap();
            if ceremony.lock_hash.is_some() {
                break;
            }
            let failed = ceremony.phase == "failed";
            let tails: String = editors.iter().map(|editor| log_tail(editor.process.log(), 12)).collect();
            assert!(!failed && begun.elapsed() < PATIENCE, "{place}: {ceremony:#?}\n{tails}");
            std::thread::sleep(Duration::from_millis(100));
        }
        let files: KeyGenerationFiles = self.runtime.block_on(self.node(place).get(DKG_FILES_PATH)).unwrap();
        let lock = files.files.into_iter().find(|file| file.name == "cluster-lock.json");
        lock.unwrap().content.into_bytes()
    }

    fn progress(&self, place: usize) -> Option<ClusterEditProgress> {
        let status: ClusterEditStatus =
            self.runtime.block_on(self.node(place).get(CLUSTER_EDIT_PATH)).unwrap();
        status.edit
    }

    /// Whether a Hearth's node rests for a change.
    fn is_changing(&self, place: usize) -> bool {
        let status: NodeStatus = self.runtime.block_on(self.node(place).get(ipc::node::STATUS_PATH)).unwrap();
        status.problems.iter().any(|problem| problem.code == "edit_under_way")
    }

    /// Everybody at `places` begins, Hearths and Charons.
    fn run(&self, places: &[usize], edit: &Edit, command: &[String]) -> Vec<Editor> {
        let mut editors = Vec::new();
        for place in places {
            match self.kinds[*place] {
                H => self.begin(*place, edit),
                C => editors.push(self.edit(*place, command)),
                Off => panic!("{place} is off"),
            }
        }
        editors
    }

    /// The lock that all members end with; `leaving` are Charons that end without one.
    fn changed(&self, places: &[usize], editors: &mut [Editor], leaving: &[usize]) -> Lock {
        let mut locks: Vec<Vec<u8>> = Vec::new();
        let begun = Instant::now();
        for place in places.iter().filter(|place| self.kinds[**place] == H) {
            loop {
                let found = self.progress(*place);
                if found.as_ref().is_some_and(|progress| progress.new_lock_hash.is_some()) {
                    break;
                }
                let failed = found.as_ref().is_some_and(|progress| progress.phase == "failed");
                let tails: String = editors.iter().map(|editor| log_tail(editor.process.log(), 12)).collect();
                assert!(!failed && begun.elapsed() < PATIENCE, "{place}: {found:#?}\n{tails}");
                std::thread::sleep(Duration::from_millis(100));
            }
            let lock: EditCommit =
                self.runtime.block_on(self.node(*place).get(CLUSTER_EDIT_LOCK_PATH)).unwrap();
            locks.push(Lock::from_value(lock.lock).unwrap().to_json().unwrap());
        }
        for editor in editors {
            let ended = editor.process.wait(PATIENCE).unwrap();
            let tail = log_tail(editor.process.log(), 12);
            assert!(ended.is_some_and(|status| status.success()), "charon {}: {tail}", editor.place);
            if !leaving.contains(&editor.place) {
                locks.push(fs::read(editor.output.join("cluster-lock.json")).unwrap());
            }
        }
        assert!(locks.windows(2).all(|pair| pair[0] == pair[1]), "the members have different locks");
        let lock = Lock::from_json(&locks[0]).unwrap();
        lock.verify(&[]).unwrap();
        let keys = |lock: &Lock| -> Vec<PublicKeyBytes> {
            lock.validators.iter().map(|validator| validator.public_key).collect()
        };
        assert_eq!(keys(&lock), keys(&self.created.lock), "the validators' keys stay");
        for (old, new) in self.created.lock.validators.iter().zip(&lock.validators) {
            assert!(new.public_shares.iter().all(|share| !old.public_shares.contains(share)));
        }
        println!(
            "{} of {} members with Charon {}: the same lock {} everywhere after {:?}",
            lock.definition.threshold,
            lock.definition.operators.len(),
            self.charon.version(),
            lock.lock_hash_hex(),
            begun.elapsed()
        );
        lock
    }

    /// Every member has its new shares of the lock and no other. That these sign for the unchanged keys, the lock's own signature
    /// says, which all of them made; votes of Hearths would be three epochs of Hoodi away. `members` are the places of the new
    /// cluster in its order.
    fn assert_in_force(&self, members: &[usize], lock: &Lock) {
        for (new, place) in members.iter().enumerate() {
            let index = ShareIndex::new(u64::try_from(new + 1).unwrap()).unwrap();
            let own = lock.validators.iter().map(|validator| validator.public_shares[new]);
            let own: BTreeSet<PublicKeyBytes> = own.collect();
            let held: BTreeSet<PublicKeyBytes> = match self.kinds[*place] {
                H => {
                    let held = self.signer_status(*place).shares.into_iter();
                    held.map(|share| share.pubshare.parse().unwrap()).collect()
                }
                C => (0..lock.validators.len())
                    .map(|position| self.charon_share(*place, position, index).public_share().key.to_bytes())
                    .collect(),
                Off => panic!("{place} is off"),
            };
            assert_eq!(held, own, "{place}");
        }
    }

    /// The new share that a Charon wrote.
    fn charon_share(&self, place: usize, validator: usize, index: ShareIndex) -> SecretShare {
        let keys = self.home(place).join("output/validator_keys");
        let keystore = fs::read(keys.join(format!("keystore-{validator}.json"))).unwrap();
        let password = fs::read_to_string(keys.join(format!("keystore-{validator}.txt"))).unwrap();
        let key = Keystore::from_json(&keystore).unwrap().decrypt_key(&password).unwrap();
        SecretShare::new(index, key)
    }
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

#[test]
fn a_charon_and_three_hearths_make_all_shares_anew() {
    let Some(charon) = charon() else { return };
    let world = World::new(charon, &[H, C, H, H], &[]);
    let everybody = [0, 1, 2, 3];
    let mut editors =
        world.run(&everybody, &Edit::Recreate { threshold: None }, &words(&["recreate-private-keys"]));
    let lock = world.changed(&everybody, &mut editors, &[]);
    world.assert_in_force(&everybody, &lock);
}

#[test]
fn a_charon_takes_a_hearths_place() {
    let Some(charon) = charon() else { return };
    let world = World::new(charon, &[H, Off, H, H], &[C]);
    let (old, new) = (world.enr(1), world.enr(4));
    let command = words(&["replace-operator", "--old-operator-enr", &old, "--new-operator-enr", &new]);
    let members = [0, 4, 2, 3];
    let mut editors = world.run(&members, &Edit::Replace { old, new }, &command);
    let lock = world.changed(&members, &mut editors, &[]);
    world.assert_in_force(&members, &lock);
}

#[test]
fn a_hearth_takes_a_members_place_beside_a_charon_that_stays() {
    let Some(charon) = charon() else { return };
    let world = World::new(charon, &[H, H, Off, C, H, H], &[H]);
    let (old, new) = (world.enr(2), world.enr(6));
    let command = words(&["replace-operator", "--old-operator-enr", &old, "--new-operator-enr", &new]);
    let members = [0, 1, 6, 3, 4, 5];
    let mut editors = world.run(&members, &Edit::Replace { old, new }, &command);
    let lock = world.changed(&members, &mut editors, &[]);
    world.assert_in_force(&members, &lock);
}

#[test]
fn a_charon_joins_where_a_charon_is() {
    let Some(charon) = charon() else { return };
    let world = World::new(charon, &[H, C, H, H, H], &[C]);
    let operators = vec![world.enr(5)];
    let command = words(&["add-operators", "--new-operator-enrs", &operators[0]]);
    let members = [0, 1, 2, 3, 4, 5];
    let mut editors = world.run(&members, &Edit::Add { operators, threshold: None }, &command);
    let lock = world.changed(&members, &mut editors, &[]);
    assert_eq!((lock.definition.operators.len(), lock.definition.threshold), (6, 4));
    world.assert_in_force(&members, &lock);
}

#[test]
fn a_member_that_takes_no_part_is_removed() {
    let Some(charon) = charon() else { return };
    let world = World::new(charon, &[H, Off, H, C, H, H], &[]);
    let operators = vec![world.enr(1)];
    let command = words(&["remove-operators", "--operator-enrs-to-remove", &operators[0]]);
    let members = [0, 2, 3, 4, 5];
    let edit = Edit::Remove { operators, dealing: Vec::new(), threshold: None };
    let mut editors = world.run(&members, &edit, &command);
    let lock = world.changed(&members, &mut editors, &[]);
    assert_eq!((lock.definition.operators.len(), lock.definition.threshold), (5, 4));
    world.assert_in_force(&members, &lock);
}

/// One of four leaves and still deals. The reference wants three of three then. (That a Hearth does so where a Charon stays, the
/// signer refuses: Charon would not tell it of the new lock.)
fn one_of_four_deals_and_leaves(kinds: &[Kind; 4], leaving: usize) {
    let Some(charon) = charon() else { return };
    let world = World::new(charon, kinds, &[]);
    let operators = vec![world.enr(leaving)];
    let everybody: Vec<String> = (0..4).map(|place| world.enr(place)).collect();
    let command = words(&[
        "remove-operators",
        "--operator-enrs-to-remove",
        &operators[0],
        "--participating-operator-enrs",
        &everybody.join(","),
    ]);
    let threshold = if minor_of(&world.charon) <= 10 { 3 } else { 2 };
    let edit = Edit::Remove { dealing: operators.clone(), operators, threshold: Some(threshold) };
    let mut editors = world.run(&[0, 1, 2, 3], &edit, &command);
    let members: Vec<usize> = (0..4).filter(|place| *place != leaving).collect();
    let lock = world.changed(&members, &mut editors, &[leaving]);
    assert_eq!((lock.definition.operators.len(), lock.definition.threshold), (3, u64::from(threshold)));
    world.assert_in_force(&members, &lock);
}

#[test]
fn a_charon_deals_and_leaves() {
    one_of_four_deals_and_leaves(&[H, C, H, H], 1);
}

/// The present validators and their shares stay, and everybody, a Charon too, has the same lock with one more.
#[test]
fn a_charon_and_three_hearths_add_a_validator() {
    let Some(charon) = charon() else { return };
    let world = World::new(charon, &[H, C, H, H], &[]);
    let address = |byte: &str| format!("0x{}", byte.repeat(20));
    // Digits alone, which have no capitals: Charon writes addresses down as it is given them.
    let wanted = AddedValidator { fee_recipient: address("05"), withdrawal: address("06") };
    for place in [0, 2, 3] {
        world.begin_adding(place, std::slice::from_ref(&wanted));
    }
    let command =
        ["add-validators", "--num-validators", "1", "--fee-recipient-addresses", &wanted.fee_recipient];
    let command = [&command[..], &["--withdrawal-addresses", &wanted.withdrawal]].concat();
    let mut editors = vec![world.edit(1, &words(&command))];
    let mut locks: Vec<Vec<u8>> = [0, 2, 3].map(|place| world.lock_with_more(place, &editors)).into();
    let ended = editors[0].process.wait(PATIENCE).unwrap();
    assert!(ended.is_some_and(|status| status.success()), "{}", log_tail(editors[0].process.log(), 12));
    locks.push(fs::read(editors[0].output.join("cluster-lock.json")).unwrap());
    let read = |bytes: &Vec<u8>| Lock::from_json(bytes).unwrap();
    assert!(
        locks.windows(2).all(|pair| read(&pair[0]) == read(&pair[1])),
        "the members have different locks"
    );
    let lock = read(&locks[0]);
    lock.verify(&[]).unwrap();
    assert_eq!(lock.validators[..VALIDATORS], world.created.lock.validators);
    assert_eq!(lock.validators.len(), VALIDATORS + 1);
    world.assert_in_force(&[0, 1, 2, 3], &lock);
}

/// Waits until every Hearth at `places` says that the attempt is over and what to do. No old share was given up.
fn assert_failed(world: &World, places: &[usize], what: &str) {
    for place in places {
        let begun = Instant::now();
        let progress = loop {
            let progress = world.progress(*place).unwrap();
            if progress.phase == "failed" {
                break progress;
            }
            assert!(begun.elapsed() < PATIENCE, "{place}: {progress:#?}");
            std::thread::sleep(Duration::from_millis(100));
        };
        println!("{place}: {:?}", progress.problems);
        assert!(!progress.promised);
        assert!(progress.problems.iter().any(|problem| problem.message.contains(what)), "{progress:#?}");
        assert!(progress.problems.iter().all(|problem| !problem.next_step.is_empty()));
        for validator in &world.created.lock.validators {
            let own = validator.public_shares.get(*place).map(ToString::to_string);
            let held = world.signer_status(*place).shares;
            assert!(own.is_none_or(|own| held.iter().any(|share| share.pubshare == own)));
        }
    }
}

#[test]
fn a_charon_that_restarts_in_the_middle_ends_the_attempt_and_the_next_one_works() {
    let Some(charon) = charon() else { return };
    let mut world = World::new(charon, &[H, H, C, H], &[]);
    let (edit, command) = (Edit::Recreate { threshold: None }, words(&["recreate-private-keys"]));
    for place in [0, 1, 3] {
        world.begin(place, &edit);
    }
    // One signer does not answer, so that nothing is dealt yet when Charon goes.
    world.hearths.get_mut(&3).unwrap().signer().as_mut().unwrap().pause().unwrap();
    let mut editor = world.edit(2, &command);
    let begun = Instant::now();
    while !world.progress(0).unwrap().members.iter().any(|member| member.index == 3 && member.step >= 1) {
        assert!(begun.elapsed() < PATIENCE);
        std::thread::sleep(Duration::from_millis(50));
    }
    editor.process.kill().unwrap();
    let mut again = world.edit(2, &command);
    let ended = again.process.wait(PATIENCE).unwrap();
    println!("charon: {ended:?} {}", log_tail(again.process.log(), 3));
    world.hearths.get_mut(&3).unwrap().signer().as_mut().unwrap().resume().unwrap();
    // Whoever hears of it first tells the others.
    assert_failed(&world, &[0, 1, 3], "restarted in the middle");
    assert!(ended.is_some_and(|status| !status.success()));
    // Who has failed says so for a while to everybody, and would end the next attempt with it.
    for place in [0, 1, 3] {
        let begun = Instant::now();
        while world.is_changing(place) {
            assert!(begun.elapsed() < PATIENCE, "{place} does not end the attempt");
            std::thread::sleep(Duration::from_millis(100));
        }
    }
    let everybody = [0, 1, 2, 3];
    let mut editors = world.run(&everybody, &edit, &command);
    let lock = world.changed(&everybody, &mut editors, &[]);
    world.assert_in_force(&everybody, &lock);
}

/// Five members whose threshold stays three: two groups of which one member lies could sign two sides. Charon makes such a
/// cluster; Hearths do not.
#[test]
fn a_threshold_that_is_too_low_for_five_is_not_made() {
    let Some(charon) = charon() else { return };
    let world = World::new(charon, &[H, C, H, H], &[H]);
    let operators = vec![world.enr(4)];
    let command = words(&["add-operators", "--new-operator-enrs", &operators[0]]);
    let edit = Edit::Add { operators, threshold: None };
    let _editors = world.run(&[0, 1, 2, 3, 4], &edit, &command);
    let begun = Instant::now();
    loop {
        let progress = world.progress(0).unwrap();
        assert!(!progress.promised && progress.new_lock_hash.is_none());
        if progress.problems.iter().any(|problem| problem.message.contains("DealerCommitments 1")) {
            break; // It is given up after a quarter of an hour; the old shares sign meanwhile.
        }
        assert!(begun.elapsed() < PATIENCE, "{progress:#?}");
        std::thread::sleep(Duration::from_millis(100));
    }
}
