//! Key generation in the daemon: a ceremony that failed harms nothing, and one that is over does not come back.

#![expect(clippy::unwrap_used, reason = "a test fails loudly")]

#[path = "../../beacon/tests/fake/mod.rs"]
mod fake;
mod house;

use std::time::Duration;

use chain::ExecutionAddress;
use cluster::Network;
use cluster::create::{Addresses, CreateOptions, CreatedCluster};
use house::{House, eventually};
use ipc::dkg::{DKG_FILES_PATH, DKG_PATH, KeyGeneration, KeyGenerationFiles, KeyGenerationStatus, NamedFile};
use ipc::node::{CLUSTER_PATH, CLUSTERS_PATH, ClusterEntry, cluster_path};
use ipc::{ClientError, NodeStatus, Sensitive};

async fn progress(house: &House, member: usize) -> Option<ipc::dkg::KeyGenerationProgress> {
    let status: KeyGenerationStatus = house.members[member].client().get(DKG_PATH).await.unwrap();
    status.ceremony
}

/// A definition of others than the house's members.
fn to_be_born() -> CreatedCluster {
    let hoodi = Network::by_name("hoodi").unwrap();
    let address = ExecutionAddress([0x11; 20]);
    let addresses = Addresses { fee_recipient: address, withdrawal: address };
    let options = CreateOptions::new("not to be born", 4, 1, hoodi, addresses);
    cluster::create::cluster(&options, &mut rand::rng()).unwrap()
}

fn wanted(
    house: &House,
    created: &CreatedCluster,
    index: usize,
    minor: u8,
    peers: &[String],
) -> KeyGeneration {
    KeyGeneration {
        definition: serde_json::from_slice(&created.lock.definition.to_json().unwrap()).unwrap(),
        adding: None,
        identity_key: Sensitive::new(created.nodes[index].identity.to_file_text().to_string()),
        minor,
        peers: peers.to_vec(),
        beacon_nodes: vec![house.beacon.url.clone()],
        relays: None,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signer_that_does_not_answer_holds_up_no_cluster_when_a_ceremony_is_resumed() {
    let mut house = House::build(4, 1).await;
    let folder = house.members[0].dir.path().to_owned();
    // As with a socket of systemd's whose service is still starting: it takes connections, and nobody answers.
    std::fs::remove_file(folder.join("sign.sock")).unwrap();
    let _silent = std::os::unix::net::UnixListener::bind(folder.join("sign.sock")).unwrap();
    std::fs::create_dir_all(folder.join("state/dkg")).unwrap();
    let request = wanted(&house, &to_be_born(), 0, 10, &[]);
    std::fs::write(folder.join("state/dkg/request.json"), serde_json::to_vec(&request).unwrap()).unwrap();
    house.members[0].start().await;
    let setup = house.setup(0);
    // The daemon serves at once, and says what a new cluster waits for: its identity key is sealed first.
    match house.members[0].client().put::<NodeStatus>(CLUSTER_PATH, &setup).await {
        Err(ClientError::Refused { problem, .. }) => assert_eq!(problem.code, "identity_locked"),
        other => panic!("{other:?}"),
    }
    let shown = progress(&house, 0).await.unwrap();
    assert_eq!(
        (shown.phase.as_str(), shown.problems[0].code.as_str()),
        ("interrupted", "signer_unavailable")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_does_not_wait_for_what_is_under_way_at_the_start() {
    let mut house = House::build(4, 1).await;
    // The signer is asked for five seconds about a ceremony that was under way.
    let request = serde_json::to_vec(&wanted(&house, &to_be_born(), 0, 10, &[])).unwrap();
    let member = &mut house.members[0];
    let folder = member.dir.path().to_owned();
    std::fs::remove_file(folder.join("sign.sock")).unwrap();
    let _silent = std::os::unix::net::UnixListener::bind(folder.join("sign.sock")).unwrap();
    let dkg = folder.join("state/dkg");
    std::fs::create_dir_all(&dkg).unwrap();
    std::fs::write(dkg.join("request.json"), request).unwrap();
    member.spawn();
    member.answers().await;
    let asked = std::time::Instant::now();
    member.stop().await;
    let took = asked.elapsed();
    assert!(took < Duration::from_millis(3_500), "it took {took:?}");
    assert!(dkg.join("request.json").exists(), "nothing of it is lost");
    assert!(!member.log().contains("panicked"), "{}", member.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ceremony_that_failed_stays_shown_and_the_daemon_goes_on() {
    let mut house = House::build(4, 1).await;
    let created = to_be_born();
    let definition = &created.lock.definition;
    let ids: Vec<_> = created.nodes.iter().map(|node| node.identity.public_key()).collect();
    // Members that speak different minor versions cannot make keys together.
    for index in 0..2 {
        let member = &mut house.members[index];
        let hash = definition.definition_hash;
        member.signer.lock().unwrap().ceremony = Some(format!("0x{}", hex::encode(hash)));
        member.start().await;
    }
    let peers: Vec<String> = (0..2)
        .map(|index| {
            let peer = cluster::PeerId::from_public_key(&ids[index]);
            format!("/ip4/127.0.0.1/tcp/{}/p2p/{peer}", house.members[index].port)
        })
        .collect();
    for (index, minor) in [(0, 10), (1, 11)] {
        let wanted = wanted(&house, &created, index, minor, &peers);
        let _status: KeyGenerationStatus =
            house.members[index].client().put(DKG_PATH, &wanted).await.unwrap();
    }
    for round in 0..2 {
        eventually("it has failed", || async {
            progress(&house, 0).await.is_some_and(|progress| progress.phase == "failed")
        })
        .await;
        // Five seconds after a failure the ceremony falls silent. The daemon must not stumble over it, however often it looks.
        for _ in 0..5 {
            tokio::time::sleep(Duration::from_secs(2)).await;
            let shown = progress(&house, 0).await.unwrap();
            assert_eq!(
                (shown.phase.as_str(), shown.problems[0].code.as_str()),
                ("failed", "ceremony_failed")
            );
        }
        if round == 0 {
            house.members[0].kill();
            house.members[0].start().await;
            house.members[1].kill();
            house.members[1].start().await;
        }
    }
    assert!(!house.members[0].log().contains("panicked"), "{}", house.members[0].log());
    let discarded: KeyGenerationStatus = house.members[0].client().delete(DKG_PATH).await.unwrap();
    assert_eq!(discarded.ceremony, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_was_left_is_not_brought_back_by_the_ceremony_that_made_it() {
    let mut house = House::build(4, 1).await;
    let setup = house.setup(0);
    let request = KeyGeneration {
        definition: setup.lock["cluster_definition"].clone(),
        adding: None,
        identity_key: Sensitive::new(setup.identity_key.expose_secret().to_owned()),
        minor: 10,
        peers: setup.peers.clone(),
        beacon_nodes: setup.beacon_nodes.clone(),
        relays: None,
    };
    // A ceremony that led to this cluster, as far as the disk knows.
    let dkg = house.members[0].dir.path().join("state/dkg");
    std::fs::create_dir_all(&dkg).unwrap();
    std::fs::write(dkg.join("request.json"), serde_json::to_vec(&request).unwrap()).unwrap();
    std::fs::write(dkg.join("place"), "0").unwrap();
    let files = [NamedFile { name: "cluster-lock.json".to_owned(), content: "{}".to_owned() }];
    std::fs::write(dkg.join("files"), serde_json::to_vec(&files).unwrap()).unwrap();
    house.members[0].start().await;
    assert!(progress(&house, 0).await.is_some(), "without its cluster it is resumed");

    let client = house.members[0].client();
    let _status: NodeStatus = client.put(CLUSTER_PATH, &setup).await.unwrap();
    let _left: Vec<ClusterEntry> = client.delete(&cluster_path(&house.lock_hash())).await.unwrap();
    for _ in 0..2 {
        house.members[0].kill();
        house.members[0].start().await;
        assert_eq!(progress(&house, 0).await, None);
        let clusters: Vec<ClusterEntry> = client.get(CLUSTERS_PATH).await.unwrap();
        assert!(clusters.is_empty());
        let kept: KeyGenerationFiles = client.get(DKG_FILES_PATH).await.unwrap();
        assert_eq!(kept.files, files);
        // Nor by the same request; the owner joins with the lock, or discards it.
        match client.put::<KeyGenerationStatus>(DKG_PATH, &request).await {
            Err(ClientError::Refused { problem, .. }) => assert_eq!(problem.code, "ceremony_over"),
            other => panic!("{other:?}"),
        }
    }

    // Joined again and left once more, it stays away as well. A box that only restarts in its cluster marks it too.
    std::fs::remove_file(dkg.join("over")).unwrap();
    let _status: NodeStatus = client.put(CLUSTER_PATH, &setup).await.unwrap();
    house.members[0].kill();
    house.members[0].start().await;
    eventually("it is kept that it is over", || async { dkg.join("over").exists() }).await;
    assert_eq!(progress(&house, 0).await, None);
}

/// Makes a member's files those that it has when it has taken a lock with more validators.
fn take(folder: &std::path::Path, lock: &serde_json::Value) {
    let change = |name: &str, change: &dyn Fn(&mut serde_json::Value)| {
        let path = folder.join(name);
        let mut file = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        change(&mut file);
        std::fs::write(path, file.to_string()).unwrap();
    };
    std::fs::remove_file(folder.join("journal")).unwrap();
    std::fs::write(folder.join("forgotten.json"), r#"{"slot":0}"#).unwrap();
    change("cluster.json", &|file| file["lock"] = lock.clone());
    let hash = lock["lock_hash"].as_str().unwrap().trim_start_matches("0x").to_owned();
    change("chain.json", &|file| file["lock_hash"] = hash.clone().into());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_on_the_lock_of_before_and_on_the_grown_one_attest_together() {
    let mut house = House::build(4, 1).await;
    house.start().await;
    house.attested_again().await;
    let grown = house.grown_lock();
    for index in 2..4 {
        house.members[index].kill();
        take(&house.members[index].dir.path().join("state"), &grown);
        house.members[index].start().await;
        let served: Vec<ClusterEntry> = house.members[index].client().get(CLUSTERS_PATH).await.unwrap();
        assert_eq!(serde_json::json!(served[0].lock_hash), grown["lock_hash"]);
        assert_ne!(served[0].lock_hash, house.lock_hash());
    }
    // Two by the old lock and one by the new one, and each of them is needed; then the other way round.
    house.members[3].kill();
    house.attested_again().await;
    house.members[3].start().await;
    house.members[1].kill();
    house.attested_again().await;
    for member in &house.members {
        let signer = member.signer.lock().unwrap();
        assert!(signer.refused.is_empty(), "{:?}", signer.refused);
    }
}
