//! A cluster that changes on a real chain: four members attest, one operator is replaced over the network, and the validator,
//! whose key is what it was, attests again with the new shares.

#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use chain::Slot;
use cluster::create::{self, CreatedCluster};
use cluster::edit::Edit;
use cluster::keystore::KdfCost;
use cluster::{Enr, IdentityKey, Lock};
use hw_tests::ceremony::address;
use hw_tests::devnet::Devnet;
use hw_tests::join::{ChainFacts, NodeFolder};
use hw_tests::member::Member;
use hw_tests::watched::{CHAIN_ID, NETWORK, Watch, WatchedCluster};
use ipc::edit::{
    CLUSTER_EDIT_LOCK_PATH, CLUSTER_EDIT_PATH, ClusterEdit, ClusterEditStatus, EDIT_PATH, EditCommit,
    EditConsent, EditNetwork, EditStatus,
};
use ipc::{Client, Sensitive};

/// The new shares wait for three epochs, the first ones for two.
const PATIENCE: Duration = Duration::from_secs(400);
const SLOT_SECONDS: u64 = 3;

fn binaries() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.parent().and_then(Path::parent).unwrap().to_owned()
}

struct World {
    runtime: tokio::runtime::Runtime,
    created: CreatedCluster,
    facts: ChainFacts,
    members: Vec<Member>,
    identities: Vec<IdentityKey>,
}

impl World {
    fn lock(&self) -> serde_json::Value {
        serde_json::from_slice(&self.created.lock.to_json().unwrap()).unwrap()
    }

    fn peers(&self) -> Vec<String> {
        self.members.iter().zip(&self.identities).map(|(member, key)| address(member, key)).collect()
    }

    fn enr(&self, place: usize) -> String {
        Enr::build(&self.identities[place]).as_str().to_owned()
    }

    fn ask(socket: PathBuf) -> Client {
        Client::new(socket).with_timeout(Duration::from_secs(120))
    }

    /// What one owner does: the consent to the signer, then the change to the node.
    fn begin(&self, place: usize, edit: &Edit) {
        let (lock, edit) = (self.lock(), serde_json::to_value(edit).unwrap());
        let identity = &self.identities[place];
        let consent = EditConsent {
            lock: lock.clone(),
            edit: edit.clone(),
            identity: identity.public_key().to_string(),
            minor: 10,
            genesis_validators_root: self.facts.genesis_validators_root.clone(),
            chain: self.facts.clock,
            network: Some(EditNetwork { name: NETWORK.to_owned(), chain_id: CHAIN_ID }),
            unvouched: Vec::new(),
        };
        let joins = place >= self.created.nodes.len();
        let request = ClusterEdit {
            lock,
            edit,
            identity_key: joins.then(|| Sensitive::new(identity.to_file_text().to_string())),
            minor: 10,
            peers: self.peers(),
            relays: Some(Vec::new()),
            beacon_nodes: if joins { self.facts.beacon_nodes.clone() } else { Vec::new() },
        };
        let (signer, node) = (&self.members[place].signer_socket(), &self.members[place].node_socket());
        self.runtime.block_on(async {
            let _: EditStatus = Self::ask(signer.clone()).put(EDIT_PATH, &consent).await.unwrap();
            let _: ClusterEditStatus =
                Self::ask(node.clone()).put(CLUSTER_EDIT_PATH, &request).await.unwrap();
        });
    }

    /// Waits until a member's node has the new lock.
    fn changed(&self, place: usize) -> Lock {
        let node = Self::ask(self.members[place].node_socket());
        let begun = Instant::now();
        loop {
            let status: ClusterEditStatus = self.runtime.block_on(node.get(CLUSTER_EDIT_PATH)).unwrap();
            if status.edit.as_ref().is_some_and(|edit| edit.new_lock_hash.is_some()) {
                let lock: EditCommit = self.runtime.block_on(node.get(CLUSTER_EDIT_LOCK_PATH)).unwrap();
                return Lock::from_value(lock.lock).unwrap();
            }
            assert!(begun.elapsed() < PATIENCE, "in vain: {place}: {status:?}");
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Waits until a member's node serves the new cluster.
    fn serves(&self, place: usize, lock: &Lock) {
        let node = Self::ask(self.members[place].node_socket());
        let begun = Instant::now();
        loop {
            let status: ipc::NodeStatus = self.runtime.block_on(node.get(ipc::node::STATUS_PATH)).unwrap();
            if status.cluster.as_ref().is_some_and(|cluster| cluster.lock_hash == lock.lock_hash_hex()) {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "in vain: {place}: {status:?}");
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

/// A chain with one distributed validator, and its cluster of four with a fifth box that is in none.
fn world(dir: &Path) -> (Devnet, Watch, World) {
    let WatchedCluster { chain, created, facts, watch } =
        WatchedCluster::start(&dir.join("chain"), SLOT_SECONDS).unwrap();
    let start = |number: usize| {
        let name = format!("m{number}");
        Member::start(&name, &dir.join(&name), &binaries()).unwrap()
    };
    let members: Vec<Member> = (0..5).map(start).collect();
    let identity =
        |node: &create::CreatedNode| IdentityKey::from_bytes(node.identity.secret_bytes().clone()).unwrap();
    let mut identities: Vec<IdentityKey> = created.nodes.iter().map(identity).collect();
    identities.push(IdentityKey::generate(&mut rand::rng()));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let world = World { runtime, created, facts, members, identities };
    for place in 0..4 {
        for file in world.created.node_files(place, KdfCost::Insecure, &mut rand::rng()).unwrap() {
            let path = dir.join("cluster").join(&file.path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, &*file.content).unwrap();
        }
        let folder = NodeFolder::new(dir.join(format!("cluster/node{place}")));
        let page = world.members[place].page().unwrap();
        folder.import_shares(&page, u8::try_from(place + 1).unwrap(), &world.facts).unwrap();
        // The fifth is nobody to this cluster yet.
        let peers = world.peers().into_iter().take(4).collect();
        folder.join(&page, &world.facts, peers, ipc::Signing::BuiltIn).unwrap();
    }
    (chain, watch, world)
}

#[test]
fn a_validator_whose_cluster_was_changed_attests_in_blocks_with_its_new_operator() {
    let dir = tempfile::tempdir().unwrap();
    let (mut chain, mut watch, mut world) = world(dir.path());
    let before = watch.attests(Slot(0), PATIENCE);
    eprintln!("before the change: {before:?}");

    // The fourth member's box is off for good; the fifth comes in its place.
    world.members[3].power_cut().unwrap();
    let edit = Edit::Replace { old: world.enr(3), new: world.enr(4) };
    for place in [0, 1, 2, 4] {
        world.begin(place, &edit);
    }
    let locks: Vec<Lock> = [0, 1, 2, 4].map(|place| world.changed(place)).into();
    assert!(locks.windows(2).all(|pair| pair[0] == pair[1]));
    assert_eq!(locks[0].validators[0].public_key, world.created.lock.validators[0].public_key);
    let changed = chain.clock_slot().unwrap();
    eprintln!("changed in slot {changed}");

    // Everybody has left the change: who loses its power before is waited for.
    for place in [0, 1, 2, 4] {
        world.serves(place, &locks[0]);
    }
    // With three of four in force the new one is needed for every vote.
    world.members[1].power_cut().unwrap();
    let after = watch.attests(changed, PATIENCE);
    eprintln!("after the change: {after:?}");
    let per_epoch = chain.config().slots_per_epoch;
    assert!(after.target.0 >= changed.0 / per_epoch + 3, "nothing before the third epoch after the change");
    assert!(watch.is_canonical(&after).unwrap());

    // What the old member said in agreements is put away, and the new one has written a journal of its own.
    let state = world.members[0].dir().join("dv-node");
    let old = hex::encode(world.created.lock.lock_hash);
    let put_away = std::fs::metadata(state.join(format!("left/{old}-1/journal"))).unwrap();
    assert!(put_away.len() > 0 && state.join("journal").exists());
    assert!(!state.join("forgotten.json").exists(), "its silence is in the journal");
    chain.check_alive().unwrap();
    for place in [0, 2, 4] {
        world.members[place].check_alive().unwrap();
    }
}
