//! Native members with real signers and software TPMs change their cluster over the network, without any chain: their
//! beacon nodes are away, their votes are asked for by the test.

#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

mod seated;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use chain::{
    AttestationData, Checkpoint, CommitteeIndex, Epoch, ExecutionAddress, Fork, ForkInfo, PublicKeyBytes,
    Root, SignatureBytes, Slot,
};
use cluster::create::{self, Addresses, CreateOptions, CreatedCluster};
use cluster::edit::Edit;
use cluster::{Enr, IdentityKey, Lock, Network, PeerId};
use hw_tests::ceremony::address;
use hw_tests::member::Member;
use ipc::dkg::{
    AddedValidator, Adding, CEREMONY_PATH, CeremonyConsent, CeremonyStatus, DKG_FILES_PATH, DKG_PATH,
    KeyGeneration, KeyGenerationFiles, KeyGenerationProgress, KeyGenerationStatus, NamedFile, PrivateNetwork,
};
use ipc::edit::{
    CLUSTER_EDIT_LOCK_PATH, CLUSTER_EDIT_PATH, ClusterEdit, ClusterEditProgress, ClusterEditStatus,
    EDIT_PATH, EditCommit, EditConsent, EditNetwork, EditStatus,
};
use ipc::signer::{ChainClock, ChainPreset, STATUS_PATH, SignerStatus};
use ipc::web3signer::{self, SignAnswer, SignRequest};
use ipc::{Client, ClientError, Sensitive};
use sha2::{Digest as _, Sha256};
use threshold::ShareIndex;

const PATIENCE: Duration = Duration::from_secs(180);
const GENESIS_ROOT: Root = Root([0x42; 32]);
const SLOT_MS: u64 = 50;
const SLOTS_PER_EPOCH: u64 = 8;

fn binaries() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.parent().and_then(Path::parent).unwrap().to_owned()
}

fn now_ms() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

/// A fast clock that began a minute ago.
fn fast_clock() -> ChainClock {
    ChainClock {
        genesis_time: now_ms() / 1000 - 60,
        slot_ms: SLOT_MS,
        slots_per_epoch: SLOTS_PER_EPOCH,
        preset: ChainPreset::Mainnet,
    }
}

fn epoch(clock: &ChainClock) -> u64 {
    (now_ms() - clock.genesis_time * 1000) / SLOT_MS / SLOTS_PER_EPOCH
}

fn fork_info(genesis_validators_root: Root) -> ForkInfo {
    let version = chain::ForkVersion([5, 0, 0, 1]);
    let fork = Fork { previous_version: version, current_version: version, epoch: Epoch(0) };
    ForkInfo { fork, genesis_validators_root }
}

fn vote(source: u64, target: u64, head: u8) -> AttestationData {
    AttestationData {
        slot: Slot(target * SLOTS_PER_EPOCH),
        index: CommitteeIndex(0),
        beacon_block_root: Root([head; 32]),
        source: Checkpoint { epoch: Epoch(source), root: Root([1; 32]) },
        target: Checkpoint { epoch: Epoch(target), root: Root([2; 32]) },
    }
}

/// Boxes of which some are a cluster, and the identities of all.
struct World {
    runtime: tokio::runtime::Runtime,
    created: CreatedCluster,
    network: Network,
    clock: ChainClock,
    members: Vec<Member>,
    identities: Vec<IdentityKey>,
    _dir: tempfile::TempDir,
}

impl World {
    /// `of` boxes in a cluster and `more` that are in none.
    fn new(of: usize, more: usize) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let clock = fast_clock();
        let network = Network {
            name: "local".to_owned(),
            chain_id: 1337,
            genesis_fork_version: chain::ForkVersion([0x20, 0, 0, 0x89]),
            genesis_time: clock.genesis_time,
        };
        let addresses = Addresses {
            fee_recipient: ExecutionAddress([0xfe; 20]),
            withdrawal: ExecutionAddress([0xd1; 20]),
        };
        let options = CreateOptions::new("friends", of, 2, network.clone(), addresses);
        let created = create::cluster(&options, &mut rand::rng()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let start = |number: usize| {
            let name = format!("m{number}");
            Member::start(&name, &dir.path().join(&name), &binaries()).unwrap()
        };
        let members: Vec<Member> = (0..of + more).map(start).collect();
        let identities = seated::identities(&created, more);
        let mut world = Self { runtime, created, network, clock, members, identities, _dir: dir };
        for member in &mut world.members {
            member.know_network(world.network.clone());
        }
        for place in 0..of {
            world.import(place);
            world.join(place);
        }
        world
    }

    fn enr(&self, place: usize) -> String {
        Enr::build(&self.identities[place]).as_str().to_owned()
    }

    fn lock_json(&self) -> serde_json::Value {
        seated::lock_json(&self.created)
    }

    fn peers(&self) -> Vec<String> {
        self.members.iter().zip(&self.identities).map(|(member, key)| address(member, key)).collect()
    }

    fn signer(&self, place: usize) -> Client {
        Client::new(self.members[place].signer_socket()).with_timeout(PATIENCE)
    }

    fn node(&self, place: usize) -> Client {
        Client::new(self.members[place].node_socket()).with_timeout(PATIENCE)
    }

    fn sign_socket(&self, place: usize) -> Client {
        Client::new(self.members[place].dir().join("run/sign.sock")).with_timeout(PATIENCE)
    }

    fn signer_status(&self, place: usize) -> SignerStatus {
        self.runtime.block_on(self.signer(place).get(STATUS_PATH)).unwrap()
    }

    fn import(&self, place: usize) {
        let signer = self.signer(place);
        self.runtime.block_on(seated::import(&signer, &self.created, place, GENESIS_ROOT, self.clock));
    }

    fn join(&mut self, place: usize) {
        let peers = self.peers();
        let peers = &peers[..self.created.nodes.len()];
        seated::join(&mut self.members[place], &self.identities[place], &self.created, peers);
    }

    /// What one owner does: the consent to the signer, then the change to the node.
    fn begin(&self, place: usize, edit: &Edit) {
        let consent = EditConsent {
            lock: self.lock_json(),
            edit: serde_json::to_value(edit).unwrap(),
            identity: self.identities[place].public_key().to_string(),
            minor: 10,
            genesis_validators_root: GENESIS_ROOT.to_string(),
            chain: self.clock,
            network: Some(EditNetwork { name: self.network.name.clone(), chain_id: self.network.chain_id }),
            unvouched: Vec::new(),
        };
        let joins = place >= self.created.nodes.len();
        let request = ClusterEdit {
            lock: self.lock_json(),
            edit: serde_json::to_value(edit).unwrap(),
            identity_key: joins.then(|| Sensitive::new(self.identities[place].to_file_text().to_string())),
            minor: 10,
            peers: self.peers(),
            relays: Some(Vec::new()),
            beacon_nodes: if joins { vec!["http://127.0.0.1:9".to_owned()] } else { Vec::new() },
        };
        self.runtime.block_on(async {
            let _: EditStatus = self.signer(place).put(EDIT_PATH, &consent).await.unwrap();
            let _: ClusterEditStatus = self.node(place).put(CLUSTER_EDIT_PATH, &request).await.unwrap();
        });
    }

    fn progress(&self, place: usize) -> Option<ClusterEditProgress> {
        let status: ClusterEditStatus =
            self.runtime.block_on(self.node(place).get(CLUSTER_EDIT_PATH)).unwrap();
        status.edit
    }

    /// Waits until a member's node is where it should be.
    fn wait(&self, place: usize, what: &str, is_there: impl Fn(&ClusterEditProgress) -> bool) {
        let begun = Instant::now();
        loop {
            let found = self.progress(place);
            if found.as_ref().is_some_and(&is_there) {
                return;
            }
            let late = begun.elapsed() > PATIENCE;
            assert!(!late, "in vain: {place} waits for {what}: {found:?}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Everybody's node says that the change is done; the lock that all of them have.
    fn changed(&self, places: &[usize]) -> Lock {
        let mut locks = Vec::new();
        for place in places {
            self.wait(*place, "the change", |progress| progress.new_lock_hash.is_some());
            let lock: EditCommit =
                self.runtime.block_on(self.node(*place).get(CLUSTER_EDIT_LOCK_PATH)).unwrap();
            locks.push(Lock::from_value(lock.lock).unwrap());
        }
        assert!(locks.windows(2).all(|pair| pair[0] == pair[1]));
        locks[0].verify(&[]).unwrap();
        locks.swap_remove(0)
    }

    /// What one owner allows its signer to add validators.
    fn consent_to_add(&self, place: usize, validators: &[AddedValidator]) -> CeremonyConsent {
        CeremonyConsent {
            definition: serde_json::Value::Null,
            adding: Some(Adding { lock: self.lock_json(), validators: validators.to_vec() }),
            identity: self.identities[place].public_key().to_string(),
            genesis_validators_root: GENESIS_ROOT.to_string(),
            chain: self.clock,
            network: Some(PrivateNetwork {
                name: self.network.name.clone(),
                chain_id: self.network.chain_id,
                genesis_time: self.network.genesis_time,
            }),
            unsealed: Vec::new(),
        }
    }

    /// What one owner does to add validators: the consent to the signer, then the key generation to the node.
    fn begin_adding(&self, place: usize, validators: &[AddedValidator]) {
        let consent = self.consent_to_add(place, validators);
        let request = self.request_to_add(&consent);
        // The running nodes' own addresses are not to be met at.
        let at_nodes = KeyGeneration { peers: self.peers(), ..self.request_to_add(&consent) };
        self.runtime.block_on(async {
            let _: CeremonyStatus = self.signer(place).put(CEREMONY_PATH, &consent).await.unwrap();
            let refused: Result<KeyGenerationStatus, _> = self.node(place).put(DKG_PATH, &at_nodes).await;
            let Err(ClientError::Refused { problem, .. }) = refused else { panic!("{refused:?}") };
            assert_eq!(problem.code, "address_of_the_cluster");
            let _: KeyGenerationStatus = self.node(place).put(DKG_PATH, &request).await.unwrap();
        });
    }

    fn request_to_add(&self, consent: &CeremonyConsent) -> KeyGeneration {
        let beside = |(member, key): (&Member, &IdentityKey)| {
            let peer = PeerId::from_public_key(&key.public_key());
            format!("/ip4/127.0.0.1/tcp/{}/p2p/{peer}", member.p2p_port() + 1)
        };
        KeyGeneration {
            definition: serde_json::Value::Null,
            adding: consent.adding.clone(),
            identity_key: Sensitive::new(String::new()),
            minor: 10,
            peers: self.members.iter().zip(&self.identities).map(beside).collect(),
            beacon_nodes: Vec::new(),
            relays: None,
        }
    }

    /// Waits until the key generation at a member's node is where it should be.
    fn wait_adding(&self, place: usize, is_there: impl Fn(&KeyGenerationProgress) -> bool) {
        let begun = Instant::now();
        loop {
            let status: KeyGenerationStatus = self.runtime.block_on(self.node(place).get(DKG_PATH)).unwrap();
            if status.ceremony.as_ref().is_some_and(&is_there) {
                return;
            }
            let failed = status.ceremony.as_ref().is_some_and(|ceremony| ceremony.phase == "failed");
            assert!(!failed && begun.elapsed() < PATIENCE, "in vain: {place}: {status:#?}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// The lock that all members have in the end, and the deposits beside it.
    fn added(&self) -> (Lock, serde_json::Value) {
        let mut found: Vec<Vec<NamedFile>> = Vec::new();
        for place in 0..self.members.len() {
            self.wait_adding(place, |ceremony| ceremony.phase == "done");
            let files: KeyGenerationFiles =
                self.runtime.block_on(self.node(place).get(DKG_FILES_PATH)).unwrap();
            found.push(files.files);
        }
        assert!(found.windows(2).all(|pair| pair[0] == pair[1]), "the members have different files");
        let file = |is_it: fn(&str) -> bool| {
            let found = found[0].iter().find(|file| is_it(&file.name)).unwrap();
            found.content.clone()
        };
        let lock = Lock::from_json(file(|name| name == "cluster-lock.json").as_bytes()).unwrap();
        let deposits = file(|name| name.starts_with("deposit-data"));
        (lock, serde_json::from_str(&deposits).unwrap())
    }

    fn epoch(&self) -> u64 {
        epoch(&self.clock)
    }

    fn attest(
        &self,
        place: usize,
        share: &PublicKeyBytes,
        vote: &AttestationData,
    ) -> Result<SignatureBytes, ClientError> {
        let request = SignRequest::attestation(fork_info(GENESIS_ROOT), vote).unwrap();
        let answer: Result<SignAnswer, _> =
            self.runtime.block_on(self.sign_socket(place).post(&web3signer::sign_path(share), &request));
        answer.map(|answer| answer.signature)
    }

    /// The old shares vote, which takes a while after the import; the epoch that all of them voted in.
    fn vote_with_old_shares(&self) -> u64 {
        let begun = Instant::now();
        loop {
            let target = self.epoch();
            let signed = (0..self.created.nodes.len()).filter(|place| {
                let share = self.created.lock.validators[0].public_shares[*place];
                self.attest(*place, &share, &vote(target - 1, target, 1)).is_ok()
            });
            if signed.count() == self.created.nodes.len() {
                return target;
            }
            assert!(begun.elapsed() < PATIENCE, "in vain: an answer");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// The new shares are the only ones, remember what the old ones signed, and vote for the unchanged keys: any quorum.
    fn assert_in_force(&self, places: &[usize], lock: &Lock, voted: u64) {
        for (new, place) in places.iter().enumerate() {
            let held = self.signer_status(*place);
            assert_eq!(held.shares.len(), lock.validators.len(), "{:?}", held.shares);
            for validator in &lock.validators {
                let own = validator.public_shares[new].to_string();
                assert!(held.shares.iter().any(|share| share.pubshare == own));
            }
            assert!(!held.problems.iter().any(|problem| problem.code == "edit_unfinished"));
            if *place < self.created.nodes.len() {
                let validator = &self.created.lock.validators[0];
                let gone = self.attest(*place, &validator.public_shares[*place], &vote(9000, 9001, 1));
                assert!(
                    matches!(&gone, Err(ClientError::Refused { status: 404, .. })),
                    "an old share is there: {gone:?}"
                );
                let marks =
                    held.shares.iter().find(|share| share.group_key == validator.public_key.to_string());
                let target = marks.and_then(|share| share.last_signed).and_then(|marks| marks.target_epoch);
                assert!(target >= Some(voted), "the history moved along: {target:?}");
                let own = lock.validators[0].public_shares[new];
                let other = self.attest(*place, &own, &vote(voted - 1, voted, 9));
                assert!(
                    matches!(&other, Err(ClientError::Refused { status: 412, .. })),
                    "what the old share voted against: {other:?}"
                );
            }
        }
        self.assert_signs(places, lock, 0);
    }

    /// Any quorum of the shares signs a new vote of the validator at that position.
    fn assert_signs(&self, places: &[usize], lock: &Lock, position: usize) {
        let quorum = usize::try_from(lock.definition.threshold).unwrap();
        let begun = Instant::now();
        let validator = &lock.validators[position];
        let (partials, vote) = loop {
            let target = self.epoch();
            let vote = vote(target - 1, target, 3);
            let partials: Vec<_> = places
                .iter()
                .enumerate()
                .filter_map(|(new, place)| {
                    let index = ShareIndex::new(u64::try_from(new + 1).unwrap()).unwrap();
                    Some((index, self.attest(*place, &validator.public_shares[new], &vote).ok()?))
                })
                .collect();
            if partials.len() == places.len() {
                break (partials, vote);
            }
            assert!(begun.elapsed() < PATIENCE, "in vain: the new shares do not sign");
            std::thread::sleep(Duration::from_millis(100));
        };
        let domain = chain::domain::domain_at(
            chain::domain::BEACON_ATTESTER,
            vote.target.epoch,
            &fork_info(GENESIS_ROOT),
        );
        let root = chain::signing_root(&vote, domain);
        for group in [&partials[..quorum], &partials[partials.len() - quorum..]] {
            let whole = threshold::combine(group).unwrap();
            threshold::verify_bytes(&validator.public_key, root.as_slice(), &whole).unwrap();
        }
    }

    /// The nodes serve the new cluster once everybody has left the change.
    fn assert_served(&self, places: &[usize], lock: &Lock) {
        let begun = Instant::now();
        for place in places {
            loop {
                let status: ipc::NodeStatus =
                    self.runtime.block_on(self.node(*place).get(ipc::node::STATUS_PATH)).unwrap();
                if status.cluster.as_ref().is_some_and(|cluster| cluster.lock_hash == lock.lock_hash_hex()) {
                    break;
                }
                assert!(begun.elapsed() < PATIENCE, "in vain: {place}: {status:?}");
                std::thread::sleep(Duration::from_millis(100));
            }
        }
    }
}

#[test]
fn one_operator_is_replaced_and_a_power_cut_in_the_middle_does_not_matter() {
    let mut world = World::new(4, 1);
    let voted = world.vote_with_old_shares();
    let edit = Edit::Replace { old: world.enr(3), new: world.enr(4) };
    // The fourth member's owner is not asked; its box is off.
    world.members[3].power_cut().unwrap();
    for place in [0, 1, 2, 4] {
        world.begin(place, &edit);
    }
    // As soon as one member's old shares may be silent its power goes, and another's.
    for place in [0, 4] {
        world.wait(place, "the dry run", |progress| progress.step >= 2);
    }
    world.members[0].power_cut().unwrap();
    world.members[4].power_cut().unwrap();
    world.members[0].power_on().unwrap();
    world.members[4].power_on().unwrap();
    let lock = world.changed(&[0, 1, 2, 4]);
    assert_eq!(lock.definition.operators[3].enr, world.enr(4));
    world.assert_in_force(&[0, 1, 2, 4], &lock, voted);
    world.assert_served(&[0, 1, 2, 4], &lock);
    // A restart changes nothing.
    world.members[1].power_cut().unwrap();
    world.members[1].power_on().unwrap();
    world.assert_served(&[1], &lock);
    let old = world.created.lock.validators[0].public_shares[1];
    assert!(world.attest(1, &old, &vote(9000, 9001, 1)).is_err());
}

#[test]
fn a_member_that_was_cut_off_while_shares_were_dealt_is_told_and_the_change_is_begun_again() {
    let mut world = World::new(4, 1);
    let voted = world.vote_with_old_shares();
    let edit = Edit::Add { operators: vec![world.enr(4)], threshold: None };
    for place in 0..4 {
        world.begin(place, &edit);
    }
    world.wait(1, "the others", |progress| {
        progress.members.iter().filter(|member| member.in_sync).count() == 4
    });
    // Its signer forgets the owner's word with the power; nothing was dealt.
    world.members[1].power_cut().unwrap();
    world.members[1].power_on().unwrap();
    world.wait(1, "being told", |progress| {
        progress.phase == "failed" && progress.problems.iter().all(|problem| !problem.next_step.is_empty())
    });
    // The old shares of everybody are as they were.
    world.vote_with_old_shares();
    for place in 0..5 {
        world.begin(place, &edit);
    }
    let lock = world.changed(&[0, 1, 2, 3, 4]);
    assert_eq!((lock.definition.operators.len(), lock.definition.threshold), (5, 4));
    world.assert_in_force(&[0, 1, 2, 3, 4], &lock, voted);
}

#[test]
fn one_of_five_is_removed_and_gives_its_shares_up() {
    let mut world = World::new(5, 0);
    let voted = world.vote_with_old_shares();
    let edit = Edit::Remove { operators: vec![world.enr(1)], dealing: vec![world.enr(1)], threshold: None };
    for place in 0..4 {
        world.begin(place, &edit);
    }
    // Nothing comes about without the last one.
    let disk = world.members[1].dir().join("signer");
    let before = files_in(&disk);
    world.begin(4, &edit);
    let lock = world.changed(&[0, 2, 3, 4, 1]);
    assert_eq!((lock.definition.operators.len(), lock.definition.threshold), (4, 3));
    world.assert_in_force(&[0, 2, 3, 4], &lock, voted);
    assert!(world.signer_status(1).shares.is_empty(), "who leaves keeps nothing");
    world.assert_served(&[0, 2, 3, 4], &lock);
    let begun = Instant::now();
    loop {
        let status: ipc::NodeStatus =
            world.runtime.block_on(world.node(1).get(ipc::node::STATUS_PATH)).unwrap();
        if status.cluster.is_none() {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "in vain: {status:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
    // No copy of the disk from before brings them back.
    world.members[1].power_cut().unwrap();
    for (path, _) in files_in(&disk) {
        std::fs::remove_file(path).unwrap();
    }
    for (path, content) in before {
        std::fs::write(path, content).unwrap();
    }
    world.members[1].power_on().unwrap();
    assert_eq!(world.signer_status(1).problems[0].code, "ledger_rolled_back");
}

fn files_in(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let paths = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    // A temporary file of a database at work may be gone by now.
    paths.filter_map(|path| Some((path.clone(), std::fs::read(path).ok()?))).collect()
}

/// A slot in which the first member spoke under the old lock.
const SPOKEN: u64 = 1_300;

/// The journal of a member that said one thing in an agreement, and the chain it was about.
fn memory(lock: &Lock) -> (Vec<u8>, serde_json::Value) {
    let mut body = SPOKEN.to_le_bytes().to_vec();
    body.extend([2, 1]);
    let mut journal = u32::try_from(body.len()).unwrap().to_le_bytes().to_vec();
    journal.extend(&Sha256::digest(&body)[..8]);
    journal.extend(body);
    let chain = serde_json::json!({
        "genesis_validators_root": GENESIS_ROOT,
        "genesis_time": 1,
        "lock_hash": lock.lock_hash_hex().trim_start_matches("0x"),
        "share_index": 1,
    });
    (journal, chain)
}

#[test]
fn the_threshold_is_changed_and_what_was_said_under_the_old_lock_is_kept() {
    let mut world = World::new(4, 0);
    let (journal, chain) = memory(&world.created.lock);
    world.members[0].power_cut().unwrap();
    let dir = world.members[0].dir().join("dv-node");
    std::fs::write(dir.join("journal"), &journal).unwrap();
    std::fs::write(dir.join("chain.json"), chain.to_string()).unwrap();
    world.members[0].power_on().unwrap();
    let voted = world.vote_with_old_shares();
    let edit = Edit::Recreate { threshold: Some(4) };
    for place in 0..4 {
        world.begin(place, &edit);
    }
    let lock = world.changed(&[0, 1, 2, 3]);
    assert_eq!(lock.definition.threshold, 4);
    world.assert_in_force(&[0, 1, 2, 3], &lock, voted);
    world.assert_served(&[0, 1, 2, 3], &lock);
    // The old member's words are where it would find them, and the new one is silent about all of it.
    let old = dir.join("left").join(format!("{}-1", chain["lock_hash"].as_str().unwrap()));
    assert_eq!(std::fs::read(old.join("journal")).unwrap(), journal);
    let read = |path: PathBuf| -> serde_json::Value {
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
    };
    assert_eq!(read(old.join("chain.json")), chain);
    assert_eq!(read(dir.join("forgotten.json")), serde_json::json!({ "slot": SPOKEN }));
    assert!(!dir.join("journal").exists());
    let pinned = read(dir.join("chain.json"));
    assert_eq!(pinned["lock_hash"].as_str().unwrap(), lock.lock_hash_hex().trim_start_matches("0x"));
    // A lock that was handed in, and a power cut between the writing of the new cluster and of what it remembers.
    world.members[0].power_cut().unwrap();
    std::fs::write(dir.join("chain.json"), chain.to_string()).unwrap();
    std::fs::write(dir.join("edit/brought-lock.json"), lock.to_json().unwrap()).unwrap();
    world.members[0].power_on().unwrap();
    let begun = Instant::now();
    while dir.join("edit/brought-lock.json").exists() {
        assert!(begun.elapsed() < PATIENCE, "in vain: it stays unfinished");
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(read(dir.join("chain.json")), pinned);
    world.assert_served(&[0], &lock);
}

/// The node's memory of the change is gone, as it is when another one was begun over it or its disk was damaged.
#[test]
fn the_complete_lock_is_all_that_a_member_needs_whose_node_has_forgotten_the_change() {
    let mut world = World::new(4, 1);
    let voted = world.vote_with_old_shares();
    let dir = world.members[0].dir().join("dv-node");
    let before = std::fs::read(dir.join("cluster.json")).unwrap();
    let edit = Edit::Replace { old: world.enr(3), new: world.enr(4) };
    for place in [0, 1, 2, 4] {
        world.begin(place, &edit);
    }
    world.wait(1, "the new lock", |progress| progress.new_lock_hash.is_some());
    world.members[0].power_cut().unwrap();
    std::fs::write(dir.join("cluster.json"), &before).unwrap();
    // The node may have changed over already; then it remembers nothing of that either.
    if dir.join("chain.json").exists() {
        std::fs::remove_file(dir.join("chain.json")).unwrap();
    }
    std::fs::remove_dir_all(dir.join("edit")).unwrap();
    world.members[0].power_on().unwrap();
    let given: EditCommit = world.runtime.block_on(world.node(1).get(CLUSTER_EDIT_LOCK_PATH)).unwrap();
    // Neither a lock that nobody signed nor the one in force is anything to change over to.
    let mut unsigned = given.lock.clone();
    unsigned["signature_aggregate"] = serde_json::json!("");
    for lock in [unsigned, world.lock_json()] {
        let refused: Result<ClusterEditStatus, _> =
            world.runtime.block_on(world.node(0).put(CLUSTER_EDIT_LOCK_PATH, &EditCommit { lock }));
        let Err(ClientError::Refused { status: 422, problem }) = refused else { panic!("{refused:?}") };
        let status: ipc::NodeStatus =
            world.runtime.block_on(world.node(0).get(ipc::node::STATUS_PATH)).unwrap();
        let expected = ["lock_invalid", "edit_lock_in_force"];
        assert!(expected.contains(&problem.code.as_str()), "{problem:?} {status:?}");
    }
    let status: ClusterEditStatus =
        world.runtime.block_on(world.node(0).put(CLUSTER_EDIT_LOCK_PATH, &given)).unwrap();
    assert_eq!(status.edit.unwrap().phase, "done");
    let lock = world.changed(&[0, 1, 2, 4]);
    world.assert_in_force(&[0, 1, 2, 4], &lock, voted);
    world.assert_served(&[0], &lock);
}

/// The old shares vote before it, during it and after it, and a power cut in the middle does not matter.
#[test]
fn validators_are_added_and_the_old_ones_vote_all_the_time() {
    let mut world = World::new(4, 0);
    let voted = world.vote_with_old_shares();
    let wanted: Vec<AddedValidator> = ["0a", "0b"]
        .map(|byte| AddedValidator {
            fee_recipient: format!("0x{}", byte.repeat(20)),
            withdrawal: format!("0x{}", "0c".repeat(20)),
        })
        .to_vec();
    // Only for the shares that the signer has, by the clock that it has them with, and for addresses that are some.
    let mut by_another_clock = world.consent_to_add(0, &wanted);
    by_another_clock.chain.slot_ms += 1;
    let mut nowhere = world.consent_to_add(0, &wanted);
    nowhere.adding.as_mut().unwrap().validators[1].withdrawal.push('0');
    for (consent, expected) in [(by_another_clock, "share_conflict"), (nowhere, "addition_invalid")] {
        let refused: Result<CeremonyStatus, _> =
            world.runtime.block_on(world.signer(0).put(CEREMONY_PATH, &consent));
        let Err(ClientError::Refused { problem, .. }) = refused else { panic!("{refused:?}") };
        assert_eq!(problem.code, expected);
    }
    for place in 0..3 {
        world.begin_adding(place, &wanted);
    }
    world.wait_adding(0, |ceremony| ceremony.members.iter().filter(|member| member.in_sync).count() == 3);
    // The cluster is served as it was.
    world.vote_with_old_shares();
    world.assert_served(&[0, 1, 2, 3], &world.created.lock);
    world.members[1].power_cut().unwrap();
    world.members[1].power_on().unwrap();
    world.begin_adding(3, &wanted);
    let (lock, deposits) = world.added();
    lock.verify(&[world.network.clone()]).unwrap();
    let old = &world.created.lock;
    assert_eq!(lock.validators[..2], old.validators);
    assert_eq!((lock.validators.len(), lock.definition.num_validators), (4, 4));
    assert_eq!(lock.definition.threshold, old.definition.threshold);
    let enrs = |lock: &Lock| -> Vec<String> {
        lock.definition.operators.iter().map(|operator| operator.enr.clone()).collect()
    };
    assert_eq!(enrs(&lock), enrs(old));
    let key_of = |deposit: &serde_json::Value| format!("0x{}", deposit["pubkey"].as_str().unwrap());
    let funded: BTreeSet<String> = deposits.as_array().unwrap().iter().map(key_of).collect();
    let new = lock.validators[2..].iter().map(|validator| validator.public_key.to_string());
    assert_eq!(funded, new.collect(), "the new ones are funded alone");
    let all = [0, 1, 2, 3];
    world.assert_served(&all, &lock);
    for place in all {
        // Nothing of the old shares was begun anew: not their history, nor a pause.
        let held = world.signer_status(place).shares;
        assert_eq!(held.len(), 4);
        for validator in &lock.validators {
            let own = validator.public_shares[place].to_string();
            assert!(held.iter().any(|share| share.pubshare == own));
        }
        let own = old.validators[0].public_shares[place];
        let other = world.attest(place, &own, &vote(voted - 1, voted, 9));
        assert!(
            matches!(&other, Err(ClientError::Refused { status: 412, .. })),
            "what the share voted against: {other:?}"
        );
    }
    for position in 0..lock.validators.len() {
        world.assert_signs(&all, &lock, position);
    }
    // A restart changes nothing.
    world.members[1].power_cut().unwrap();
    world.members[1].power_on().unwrap();
    world.assert_served(&all, &lock);
}
