//! One box in two clusters, with a real signer and a software TPM: a cluster of four and one of seven.
//!
//! The chain is the tests' own beacon node: what is tried here is one ledger, one vault and one signing socket under two
//! clusters, through a power cut and through leaving one of them.

#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

#[path = "../../firmware/beacon/tests/fake/mod.rs"]
mod fake;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use chain::{ExecutionAddress, ForkVersion, PublicKeyBytes, SingleAttestation};
use cluster::create::{Addresses, CreateOptions, CreatedCluster};
use cluster::keystore::KdfCost;
use cluster::{Network, PeerId};
use fake::{FakeChain, FakeNode};
use hw_tests::ceremony::{Ceremony, CeremonyChain, status};
use hw_tests::join::{ChainFacts, NodeFolder};
use hw_tests::member::Member;
use ipc::node::{CLUSTERS_PATH, ClusterEntry, cluster_path};
use ipc::signer::{ChainClock, ChainPreset, STATUS_PATH, SignerStatus};

/// Two epochs pass after an import and after a power cut before anything is signed (decisions 0126, 0127).
const PATIENCE: Duration = Duration::from_secs(150);
const SLOT_MS: u64 = 2_000;
const SLOTS_PER_EPOCH: u64 = 4;

fn binaries() -> PathBuf {
    // This test is target/<profile>/deps/two_clusters-…, the daemons are beside the folder of it.
    let test = std::env::current_exe().unwrap();
    test.parent().and_then(Path::parent).unwrap().to_owned()
}

fn create(name: &str, members: usize) -> CreatedCluster {
    let network = Network {
        name: "fake".to_owned(),
        chain_id: 1337,
        genesis_fork_version: ForkVersion([0x20, 0, 0, 0x89]),
        genesis_time: 1_700_000_000,
    };
    let address = ExecutionAddress([0x11; 20]);
    let addresses = Addresses { fee_recipient: address, withdrawal: address };
    let mut options = CreateOptions::new(name, members, 2, network, addresses);
    options.timestamp = "2026-01-01T00:00:00Z".to_owned();
    cluster::create::cluster(&options, &mut rand::rng()).unwrap()
}

/// A cluster of which the box is the first member, and exactly as many others run as it needs beside the box.
struct Group {
    created: CreatedCluster,
    others: Vec<Member>,
    folders: Vec<NodeFolder>,
}

impl Group {
    fn start(dir: &Path, name: &str, members: usize) -> Self {
        let created = create(name, members);
        let needed = usize::from(created.view.threshold) - 1;
        let others = (1..=needed).map(|number| {
            let name = format!("{name}-{number}");
            Member::start_as_released(&name, &dir.join(&name), &binaries()).unwrap()
        });
        let others = others.collect();
        let mut folders = Vec::new();
        for node in 0..=needed {
            for file in created.node_files(node, KdfCost::Insecure, &mut rand::rng()).unwrap() {
                let path = dir.join(name).join(&file.path);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(&path, &*file.content).unwrap();
            }
            folders.push(NodeFolder::new(dir.join(name).join(format!("node{node}"))));
        }
        Self { created, others, folders }
    }

    /// Everybody gets its shares and its place. The box listens at `box_port` for this cluster.
    fn join(&self, this_box: &Member, box_port: u16, chain: &ChainFacts) {
        let ports = std::iter::once(box_port).chain(self.others.iter().map(Member::p2p_port));
        let peers: Vec<String> = ports
            .zip(&self.created.nodes)
            .map(|(port, node)| {
                let peer = PeerId::from_public_key(&node.identity.public_key());
                format!("/ip4/127.0.0.1/tcp/{port}/p2p/{peer}")
            })
            .collect();
        let members = std::iter::once(this_box).chain(&self.others);
        for ((index, member), folder) in (1..).zip(members).zip(&self.folders) {
            let page = member.page().unwrap();
            folder.import_shares(&page, index, chain).unwrap();
            folder.join(&page, chain, peers.clone(), ipc::Signing::BuiltIn).unwrap();
        }
    }

    fn lock_hash(&self) -> String {
        format!("0x{}", hex::encode(self.created.view.lock_hash))
    }

    /// Waits until the beacon node has a verified attestation of each of the cluster's validators for a slot after now. The box
    /// is needed for each.
    fn attests(&self, beacon: &FakeNode) {
        let since = beacon.inner.lock().unwrap().chain.slot_now();
        let begun = Instant::now();
        while !self.created.group_public_keys().iter().all(|key| newest(beacon, key) > Some(since)) {
            assert!(begun.elapsed() < PATIENCE, "in vain: {} does not attest", self.created.view.name);
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

/// The newest slot for which this validator attested.
fn newest(beacon: &FakeNode, validator: &PublicKeyBytes) -> Option<u64> {
    let chain = beacon.inner.lock().unwrap().chain.clone();
    let lists = beacon.submitted().into_iter().filter(|(path, _)| path.contains("attestations"));
    let all = lists.flat_map(|(_, body)| serde_json::from_value::<Vec<SingleAttestation>>(body).unwrap());
    let own =
        all.filter(|vote| chain.validators[usize::try_from(vote.attester_index.0).unwrap()] == *validator);
    let slots = own.map(|vote| {
        let version = ForkVersion([0x20, 0, 0, 0x94]);
        let domain =
            chain::compute_domain(chain::domain::BEACON_ATTESTER, version, chain.genesis_validators_root);
        let root = chain::domain::signing_root(&vote.data, domain);
        assert!(threshold::verify_bytes(validator, &root.0, &vote.signature).is_ok());
        vote.data.slot.0
    });
    slots.max()
}

#[test]
fn a_box_in_a_cluster_of_four_and_one_of_seven_signs_for_both_with_one_signer() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let mut this_box = Member::start_as_released("box", &dir.path().join("box"), &binaries()).unwrap();
    let four = Group::start(dir.path(), "four", 4);
    let seven = Group::start(dir.path(), "seven", 7);
    let validators = [&four, &seven].into_iter().flat_map(|group| group.created.group_public_keys());
    let chain = FakeChain {
        slot_ms: SLOT_MS,
        slots_per_epoch: SLOTS_PER_EPOCH,
        ..FakeChain::new(validators.collect())
    };
    let facts = |url: &str| ChainFacts {
        genesis_validators_root: chain.genesis_validators_root.to_string(),
        clock: ChainClock {
            genesis_time: chain.genesis_time_s,
            slot_ms: SLOT_MS,
            slots_per_epoch: SLOTS_PER_EPOCH,
            preset: ChainPreset::Mainnet,
        },
        beacon_nodes: vec![url.to_owned()],
    };
    let beacon = runtime.block_on(FakeNode::start(chain.clone()));
    four.join(&this_box, this_box.p2p_port(), &facts(&beacon.url));
    seven.join(&this_box, this_box.p2p_port() + 1, &facts(&beacon.url));
    let node = ipc::Client::new(this_box.node_socket());
    let list = || runtime.block_on(node.get::<Vec<ClusterEntry>>(CLUSTERS_PATH)).unwrap();
    let hashes =
        |list: Vec<ClusterEntry>| -> Vec<String> { list.into_iter().map(|entry| entry.lock_hash).collect() };
    assert_eq!(hashes(list()), [four.lock_hash(), seven.lock_hash()]);
    four.attests(&beacon);
    seven.attests(&beacon);
    let signer = ipc::Client::new(this_box.signer_socket());
    let status: SignerStatus = runtime.block_on(signer.get(STATUS_PATH)).unwrap();
    assert_eq!(status.shares.len(), 4);
    assert!(status.shares.iter().all(|share| share.last_signed.is_some()), "{status:?}");
    let shown = this_box.page().unwrap().status().unwrap();
    let names = [shown.node.as_ref(), shown.clusters.first()];
    let names = names.map(|node| node.unwrap().cluster.as_ref().unwrap().name.clone());
    assert_eq!(names, ["four", "seven"]);

    // The power goes; both clusters come back by themselves.
    this_box.power_cut().unwrap();
    this_box.power_on().unwrap();
    four.attests(&beacon);
    seven.attests(&beacon);

    // One is left; the other one goes on, and the signer keeps what it has.
    let left: Vec<ClusterEntry> = runtime.block_on(node.delete(&cluster_path(&four.lock_hash()))).unwrap();
    assert_eq!(hashes(left), [seven.lock_hash()]);
    seven.attests(&beacon);
    let status: SignerStatus = runtime.block_on(signer.get(STATUS_PATH)).unwrap();
    assert_eq!(status.shares.len(), 4);
    this_box.check_alive().unwrap();
}

#[test]
fn keys_are_made_on_a_box_that_is_in_a_cluster_already() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let this_box = Member::start_as_released("box", &dir.path().join("box"), &binaries()).unwrap();
    let port = this_box.p2p_port();
    let mut members = vec![this_box];
    for number in 2..=4 {
        let name = format!("m{number}");
        members.push(Member::start_as_released(&name, &dir.path().join(&name), &binaries()).unwrap());
    }
    // A cluster whose other members are not there: it is not needed to do anything here.
    let old = create("old", 4);
    for file in old.node_files(0, KdfCost::Insecure, &mut rand::rng()).unwrap() {
        let path = dir.path().join("old").join(&file.path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, &*file.content).unwrap();
    }
    let beacon = runtime.block_on(FakeNode::start(FakeChain::new(old.group_public_keys())));
    let hoodi = Network::by_name("hoodi").unwrap();
    let root = hoodi.genesis_validators_root().unwrap().to_string();
    let clock = ChainClock {
        genesis_time: hoodi.genesis_time,
        slot_ms: 12_000,
        slots_per_epoch: 32,
        preset: ChainPreset::Mainnet,
    };
    let facts =
        ChainFacts { genesis_validators_root: root.clone(), clock, beacon_nodes: vec![beacon.url.clone()] };
    let folder = NodeFolder::new(dir.path().join("old/node0"));
    folder.join(&members[0].page().unwrap(), &facts, Vec::new(), ipc::Signing::BuiltIn).unwrap();

    let address = ExecutionAddress([1; 20]);
    let addresses = Addresses { fee_recipient: address, withdrawal: address };
    let options = CreateOptions::new("new", 4, 1, hoodi, addresses);
    let chain = CeremonyChain {
        genesis_validators_root: root,
        clock,
        network: None,
        beacon_nodes: vec!["http://127.0.0.1:9".to_owned()],
    };
    let mut ceremony = Ceremony::among(&members, &options, chain).unwrap();
    // The box takes part at the port of its next place.
    let (first, second) = (format!("/tcp/{port}/"), format!("/tcp/{}/", port + 1));
    assert!(ceremony.peers[0].contains(&first));
    ceremony.peers[0] = ceremony.peers[0].replace(&first, &second);
    let lock = ceremony.run(&members, PATIENCE).unwrap();
    lock.verify(&[]).unwrap();
    // All that the new cluster lacks is its beacon node; the old one is as it was.
    let begun = Instant::now();
    let wants_beacon_node = || {
        let progress = status(&members[0]).unwrap().ceremony.unwrap();
        progress.problems.iter().any(|problem| problem.code == "beacon_node_unreachable")
    };
    while !wants_beacon_node() {
        assert!(begun.elapsed() < PATIENCE, "in vain: {:?}", status(&members[0]).unwrap());
        std::thread::sleep(Duration::from_millis(200));
    }
    let node = ipc::Client::new(members[0].node_socket());
    let list: Vec<ClusterEntry> = runtime.block_on(node.get(CLUSTERS_PATH)).unwrap();
    let names: Vec<(&str, u8)> = list.iter().map(|entry| (entry.name.as_str(), entry.place)).collect();
    assert_eq!(names, [("old", 0)]);
}
