//! One box in two clusters: both are served, and what happens in one does not reach the other.

#![expect(clippy::unwrap_used, reason = "a test fails loudly")]

#[path = "../../beacon/tests/fake/mod.rs"]
mod fake;
mod house;

use dv_node::daemon::{self, Work};
use dv_node::node;
use house::flood::Flood;
use house::impostor::Impostor;
use house::{House, create_cluster, eventually};
use ipc::dkg::{DKG_PATH, KeyGenerationStatus};
use ipc::edit::{
    CLUSTER_EDIT_PATH, ClusterEdit, ClusterEditStatus, UNREADABLE_EDIT, cluster_edit_discard_path,
    cluster_edit_forgo_path,
};
use ipc::node::{CLUSTER_PATH, CLUSTERS_PATH, ClusterEntry, NodeState, SETUP_PATH, cluster_path};
use ipc::{ClientError, ClusterSetup, NodeStatus, Problem, Sensitive};
use std::cell::Cell;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Two clusters of four; the first member of the second one is the first member of the first one.
async fn two_clusters() -> (House, House) {
    let mut first = House::build(4, 2).await;
    let mut second = first.beside(4, 2);
    first.start().await;
    let setup = second.setup(0);
    let _status: NodeStatus = first.members[0].client().post(CLUSTERS_PATH, &setup).await.unwrap();
    start_others(&mut second).await;
    (first, second)
}

async fn start_others(second: &mut House) {
    for index in 1..second.members.len() {
        second.members[index].start().await;
        let setup = second.setup(index);
        let _status: NodeStatus = second.members[index].client().put(CLUSTER_PATH, &setup).await.unwrap();
    }
}

async fn clusters(house: &House) -> Vec<ClusterEntry> {
    house.members[0].client().get(CLUSTERS_PATH).await.unwrap()
}

/// The box is needed: without it and one more of each cluster's four nothing can be signed.
async fn the_box_signs_for(cluster: &mut House) {
    cluster.members[3].kill();
    cluster.attested_again().await;
    cluster.members[3].start().await;
}

fn assert_nothing_slashable(houses: &[&House]) {
    for member in houses.iter().flat_map(|house| &house.members) {
        let signer = member.signer.lock().unwrap();
        assert!(signer.refused.is_empty(), "refused by {}'s signer: {:#?}", member.peer_id, signer.refused);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_box_serves_two_clusters_through_a_restart_and_leaving_one_keeps_the_other() {
    let (mut first, mut second) = two_clusters().await;
    first.attested_again().await;
    second.attested_again().await;
    the_box_signs_for(&mut second).await;
    the_box_signs_for(&mut first).await;

    let listed = clusters(&first).await;
    let hashes: Vec<&str> = listed.iter().map(|entry| entry.lock_hash.as_str()).collect();
    assert_eq!(hashes, [first.lock_hash(), second.lock_hash()]);
    assert!(listed[1].listen[0].ends_with(&format!("/tcp/{}", first.members[0].port + 1)));
    let client = first.members[0].client();
    for house in [&first, &second] {
        let status: NodeStatus = client.get(&cluster_path(&house.lock_hash())).await.unwrap();
        assert_eq!(status.cluster.unwrap().lock_hash, house.lock_hash());
        eventually("it runs", || async {
            let status: NodeStatus = client.get(&cluster_path(&house.lock_hash())).await.unwrap();
            status.state == NodeState::Running
        })
        .await;
    }
    let one: NodeStatus = client.get(ipc::node::STATUS_PATH).await.unwrap();
    assert_eq!(one.cluster.unwrap().lock_hash, first.lock_hash(), "who knows of one cluster sees the first");
    let metrics = client.get_text("/metrics").await.unwrap();
    assert!(metrics.contains("\nhearth_dv_slot ") && metrics.contains("\nhearth_dv_slot{place=\"1\"} "));

    // The power goes: both come back by themselves.
    first.members[0].kill();
    first.members[0].start().await;
    the_box_signs_for(&mut second).await;
    the_box_signs_for(&mut first).await;

    // Left, the first one is silent, and its memory is put away as it is.
    let state = first.members[0].dir.path().join("state");
    let left: Vec<ClusterEntry> = client.delete(&cluster_path(&first.lock_hash())).await.unwrap();
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].lock_hash, second.lock_hash());
    let memory = state.join("left").join(format!("{}-1", &first.lock_hash()[2..]));
    assert!(memory.join("journal").exists() && memory.join("chain.json").exists());
    assert!(!state.join("journal").exists() && !state.join("cluster.json").exists());
    the_box_signs_for(&mut second).await;
    first.members[0].kill();
    first.members[0].start().await;
    the_box_signs_for(&mut second).await;
    assert_eq!(clusters(&first).await.len(), 1);

    // Joined again, it goes on with what it remembered.
    let journal = std::fs::metadata(memory.join("journal")).unwrap().len();
    let setup = first.setup(0);
    let _status: NodeStatus = first.members[0].client().post(CLUSTERS_PATH, &setup).await.unwrap();
    assert!(!memory.exists() && std::fs::metadata(state.join("journal")).unwrap().len() >= journal);
    the_box_signs_for(&mut first).await;
    assert!(!first.members[0].log().contains("the journal was damaged"));
    assert_nothing_slashable(&[&first, &second]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_box_that_was_set_up_before_there_were_several_is_taken_over_as_it_is() {
    let mut first = House::build(4, 2).await;
    first.start().await;
    the_box_signs_for(&mut first).await;
    first.members[0].kill();
    // What the program of before left: files in the state directory and nothing else. A cluster that it does not know the
    // lock hash of has a chain file of the first versions.
    let state = first.members[0].dir.path().join("state");
    let names = |dir: &Path| -> Vec<String> {
        let entries = std::fs::read_dir(dir).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        // A file that is just being replaced, or was when the power went.
        names.retain(|name| !name.ends_with(".new"));
        names.sort();
        names
    };
    let before = names(&state);
    let known = ["chain.json", "cluster.json", "exits.json", "identity.key", "identity.sealed", "journal"];
    assert!(before.len() >= 5 && before.iter().all(|name| known.contains(&name.as_str())), "{before:?}");
    let chain = std::fs::read(state.join("chain.json")).unwrap();
    let mut old: serde_json::Value = serde_json::from_slice(&chain).unwrap();
    for key in ["lock_hash", "share_index"] {
        old.as_object_mut().unwrap().remove(key).unwrap();
    }
    std::fs::write(state.join("chain.json"), old.to_string()).unwrap();
    let journal = std::fs::read(state.join("journal")).unwrap();
    first.members[0].start().await;
    let listed = clusters(&first).await;
    assert_eq!((listed.len(), listed[0].lock_hash.clone()), (1, first.lock_hash()));
    the_box_signs_for(&mut first).await;
    // It was read where it was, and goes on there, perhaps without what is long past.
    assert!(!journal.is_empty() && !first.members[0].log().contains("the journal was damaged"));
    assert!(std::fs::metadata(state.join("journal")).unwrap().len() > 0);
    // Nothing was moved, so software from before would still find it.
    let after = names(&state);
    assert!(before.iter().all(|name| after.contains(name)), "{after:?}");
    assert!(after.iter().all(|name| known.contains(&name.as_str())), "{after:?}");
    assert_nothing_slashable(&[&first]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_another_box_joins_with_is_all_that_was_handed_in_but_the_identity_key() {
    let mut house = House::build(4, 2).await;
    house.start().await;
    let client = house.members[0].client();
    let handed_in = house.setup(0);
    for path in [SETUP_PATH.to_owned(), format!("{}/setup", cluster_path(&house.lock_hash()))] {
        let text = client.get_text(&path).await.unwrap();
        assert!(!text.contains(handed_in.identity_key.expose_secret().trim()), "{path}");
        let given: ClusterSetup = serde_json::from_str(&text).unwrap();
        assert!(given.identity_key.expose_secret().is_empty());
        assert_eq!(
            (&given.lock, &given.beacon_nodes, &given.peers, &given.relays, given.signing),
            (
                &handed_in.lock,
                &handed_in.beacon_nodes,
                &handed_in.peers,
                &handed_in.relays,
                handed_in.signing
            )
        );
    }
}

/// What a change leaves on the disk of a member that was in the cluster.
fn a_change_was_under_way(house: &House) -> std::path::PathBuf {
    let edit = a_change_of(house, house.lock(), 0);
    std::fs::write(edit.join("brought-lock.json"), serde_json::to_vec(&house.lock()).unwrap()).unwrap();
    edit
}

/// The owner of the first member gives up what has this name; the code of a refusal.
async fn given_up(house: &House, name: &str) -> Result<(), String> {
    let path = cluster_edit_discard_path(name);
    match house.members[0].client().delete::<ClusterEditStatus>(&path).await {
        Ok(_) => Ok(()),
        Err(ClientError::Refused { problem, .. }) => Err(problem.code),
        Err(error) => panic!("{error}"),
    }
}

/// The same on the disk of this house's first member, of a cluster with that lock.
fn a_change_of(house: &House, lock: serde_json::Value, place: u8) -> std::path::PathBuf {
    let edit = house.members[0].dir.path().join("state/edit");
    let request = ClusterEdit {
        lock,
        edit: serde_json::json!({ "threshold": { "threshold": 3 } }),
        identity_key: None,
        minor: 10,
        peers: Vec::new(),
        relays: None,
        beacon_nodes: Vec::new(),
    };
    std::fs::create_dir_all(&edit).unwrap();
    std::fs::write(edit.join("request.json"), serde_json::to_vec(&request).unwrap()).unwrap();
    std::fs::write(edit.join("place"), place.to_string()).unwrap();
    std::fs::write(edit.join("records"), b"\"promised\"\n").unwrap();
    edit
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_between_leaving_a_cluster_and_forgetting_its_change_leaves_nothing_stuck() {
    let mut house = House::build(4, 2).await;
    house.start().await;
    let client = house.members[0].client();
    let _left: Vec<ClusterEntry> = client.delete(&cluster_path(&house.lock_hash())).await.unwrap();
    house.members[0].kill();
    let edit = a_change_was_under_way(&house);
    house.members[0].start().await;
    // The request goes first; the folder stays, for the complete lock of a change that is done.
    let kept = ["request.json", "place", "records", "brought-lock.json"];
    eventually("all of the change is forgotten", || async {
        !kept.iter().any(|name| edit.join(name).exists())
    })
    .await;
    // Nothing is in the way of joining again.
    let _status: NodeStatus = client.post(CLUSTERS_PATH, &house.setup(0)).await.unwrap();
    assert_eq!(clusters(&house).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_whose_request_is_damaged_can_be_given_up() {
    let mut house = House::build(4, 2).await;
    house.start().await;
    house.members[0].kill();
    let edit = a_change_was_under_way(&house);
    std::fs::remove_file(edit.join("brought-lock.json")).unwrap();
    // As it is, somebody may wait for this member; damaged, nobody can go on with it.
    std::fs::write(edit.join("ended.json"), b"[]").unwrap();
    house.members[0].start().await;
    let client = house.members[0].client();
    assert_eq!(given_up(&house, &house.lock_hash()).await, Err("edit_promised".to_owned()));
    house.members[0].kill();
    std::fs::write(edit.join("request.json"), b"{\"lock\":").unwrap();
    house.members[0].start().await;
    // Nobody can say any more of which cluster it is; and nothing is given up that is not named.
    let unnamed: Result<ClusterEditStatus, ClientError> = client.delete(CLUSTER_EDIT_PATH).await;
    assert!(matches!(unnamed, Err(ClientError::Refused { problem, .. }) if problem.code == "edit_which"));
    for another in [house.lock_hash(), format!("0x{}", "ab".repeat(32))] {
        assert_eq!(given_up(&house, &another).await, Ok(()));
        assert!(edit.join("records").exists());
    }
    assert_eq!(given_up(&house, UNREADABLE_EDIT).await, Ok(()));
    assert!(!edit.exists() && edit.with_extension("unreadable").join("records").exists());
    // It is needed.
    house.members[3].kill();
    house.attested_again().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_which_a_newer_version_kept_records_can_be_given_up_and_keeps_nobody_from_duties() {
    let mut house = House::build(4, 2).await;
    house.start().await;
    house.members[0].kill();
    let edit = a_change_of(&house, house.lock(), 0);
    std::fs::write(edit.join("records"), b"\"of_tomorrow\"\n").unwrap();
    house.members[0].start().await;
    // It is needed, and the change is not tried again and again.
    house.members[3].kill();
    house.attested_again().await;
    let client = house.members[0].client();
    let shown: ClusterEditStatus = client.get(CLUSTER_EDIT_PATH).await.unwrap();
    assert_eq!(shown.edit.unwrap().problems[0].code, "edit_damaged");
    assert_eq!(given_up(&house, UNREADABLE_EDIT).await, Ok(()));
    assert!(edit.exists(), "its request can be read");
    assert_eq!(given_up(&house, &house.lock_hash()).await, Ok(()));
    assert!(!edit.exists() && edit.with_extension("unreadable").join("records").exists());
    house.attested_again().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_whose_folder_was_being_removed_is_not_gone_on_with() {
    let mut house = House::build(4, 2).await;
    house.start().await;
    house.members[0].kill();
    let edit = a_change_of(&house, house.lock(), 0);
    for gone in ["place", "records"] {
        std::fs::remove_file(edit.join(gone)).unwrap();
    }
    house.members[0].start().await;
    // It is needed.
    house.members[3].kill();
    house.attested_again().await;
    let client = house.members[0].client();
    let shown: ClusterEditStatus = client.get(CLUSTER_EDIT_PATH).await.unwrap();
    let shown = shown.edit.unwrap();
    assert_eq!((shown.problems[0].code.as_str(), shown.lock_hash), ("edit_damaged", house.lock_hash()));
    assert!(!edit.join("place").exists());
}

/// Others have made the shares anew without this box, and its owner has given its promise to join them up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_promise_to_join_is_forgotten_when_the_signer_has_given_it_up_and_not_before() {
    let mut house = House::build(4, 1).await;
    house.start().await;
    house.members[0].kill();
    // The change in which it was to join another cluster.
    let other = create_cluster(4, 1);
    let lock: serde_json::Value = serde_json::from_slice(&other.lock.to_json().unwrap()).unwrap();
    let new = format!("0x{}", "ab".repeat(32));
    let prepared = hex::encode(serde_json::json!({ "lock_hash": new }).to_string());
    let edit = a_change_of(&house, lock, 1);
    let path = edit.join("request.json");
    let mut request: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    request["identity_key"] = serde_json::json!(other.nodes[3].identity.to_file_text().to_string());
    std::fs::write(&path, request.to_string()).unwrap();
    let records = format!("{{\"prepared\":{{\"lock\":\"{prepared}\",\"said\":[]}}}}\n\"promised\"\n");
    std::fs::write(edit.join("records"), records).unwrap();
    std::fs::write(edit.join("ended.json"), b"[]").unwrap();
    {
        let mut signer = house.members[0].signer.lock().unwrap();
        (signer.edit_promised, signer.edit_allowed) = (Some(new.clone()), true);
    }
    house.members[0].start().await;
    let client = house.members[0].client().with_timeout(Duration::from_secs(90));
    let of_own_cluster = ClusterEdit {
        lock: house.lock(),
        edit: serde_json::json!({ "recreate": {} }),
        identity_key: None,
        minor: 10,
        peers: Vec::new(),
        relays: None,
        beacon_nodes: Vec::new(),
    };
    let begun = async || match client.put::<ClusterEditStatus>(CLUSTER_EDIT_PATH, &of_own_cluster).await {
        Ok(_) => "begun".to_owned(),
        Err(ClientError::Refused { problem, .. }) => problem.code,
        Err(error) => panic!("{error}"),
    };
    let forgone =
        async |name: &str| match client.delete::<ClusterEditStatus>(&cluster_edit_forgo_path(name)).await {
            Ok(_) => Ok(()),
            Err(ClientError::Refused { problem, .. }) => Err(problem.code),
            Err(error) => panic!("{error}"),
        };
    assert_eq!(begun().await, "edit_promised");
    // Not while the signer waits for that lock, whatever is said; nor by another name, nor without the owner's word.
    assert_eq!(forgone(&new).await, Err("edit_promised".to_owned()));
    house.members[0].signer.lock().unwrap().edit_promised = None;
    assert_eq!(forgone(&format!("0x{}", "cd".repeat(32))).await, Ok(()));
    assert_eq!(given_up(&house, &new).await, Ok(()));
    assert_eq!(begun().await, "edit_promised");
    assert_eq!(forgone(&new).await, Ok(()));
    assert!(!edit.join("request.json").exists());
    assert_eq!(begun().await, "begun", "its other cluster can be changed again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kept_change_follows_its_cluster_to_another_place_and_is_forgotten_when_that_is_left() {
    let mut first = House::build(4, 2).await;
    let second = first.beside(4, 2);
    first.start().await;
    let client = first.members[0].client();
    let _left: Vec<ClusterEntry> = client.delete(&cluster_path(&first.lock_hash())).await.unwrap();
    let _status: NodeStatus = client.post(CLUSTERS_PATH, &second.setup(0)).await.unwrap();
    assert!(clusters(&first).await[0].lock_hash == second.lock_hash());
    first.members[0].kill();
    // It was at the second place when its change was begun and failed.
    let edit = a_change_of(&first, second.lock(), 1);
    std::fs::write(edit.join("ended.json"), b"[]").unwrap();
    first.members[0].start().await;
    let place = || std::fs::read_to_string(edit.join("place")).unwrap_or_default();
    eventually("the change is where its cluster is", || async { place() == "0" }).await;
    assert!(edit.join("request.json").exists(), "its cluster is here: others may wait for this box");
    let client = first.members[0].client();
    assert_eq!(given_up(&first, &second.lock_hash()).await, Err("edit_promised".to_owned()));
    let _left: Vec<ClusterEntry> = client.delete(&cluster_path(&second.lock_hash())).await.unwrap();
    assert!(!edit.join("request.json").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kept_change_of_a_cluster_in_whose_place_another_one_is_is_forgotten() {
    let mut house = House::build(4, 2).await;
    let other = house.beside(4, 2);
    house.start().await;
    house.members[0].kill();
    let edit = a_change_of(&house, other.lock(), 0);
    std::fs::write(edit.join("ended.json"), b"[]").unwrap();
    house.members[0].start().await;
    eventually("the change is forgotten", || async { !edit.join("request.json").exists() }).await;
    house.attested_again().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_while_a_cluster_is_joined_again_leaves_a_place_that_can_be_left() {
    let mut first = House::build(4, 2).await;
    let mut second = first.beside(4, 2);
    first.start().await;
    first.attested_again().await;
    first.members[0].kill();
    let state = first.members[0].dir.path().join("state");
    std::fs::remove_file(state.join("cluster.json")).unwrap();
    first.members[0].start().await;
    let listed = clusters(&first).await;
    assert_eq!((listed.len(), listed[0].lock_hash.clone()), (1, first.lock_hash()));
    assert_eq!(listed[0].problems[0].code, "cluster_half_joined");
    let client = first.members[0].client();
    let _left: Vec<ClusterEntry> = client.delete(&cluster_path(&first.lock_hash())).await.unwrap();
    let _status: NodeStatus = client.post(CLUSTERS_PATH, &second.setup(0)).await.unwrap();
    start_others(&mut second).await;
    second.attested_again().await;
    assert_nothing_slashable(&[&first, &second]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_left_cluster_whose_return_fails_is_not_served_after_a_restart() {
    let mut first = House::build(4, 2).await;
    let mut second = first.beside(4, 2);
    first.start().await;
    let client = first.members[0].client();
    let _status: NodeStatus = client.post(CLUSTERS_PATH, &second.setup(0)).await.unwrap();
    start_others(&mut second).await;
    first.attested_again().await;
    second.attested_again().await;
    let left = first.members[0].dir.path().join("state/left");
    // At the first place, where files move one by one, and at a further one.
    for house in [&second, &first] {
        let _left: Vec<ClusterEntry> = client.delete(&cluster_path(&house.lock_hash())).await.unwrap();
    }
    let returning = [&first, &second].map(|house| (house.lock_hash(), house.setup(0)));
    for (lock_hash, setup) in returning {
        let memory = left.join(format!("{}-1", &lock_hash[2..]));
        let journal = std::fs::metadata(memory.join("journal")).unwrap().len();
        // The cluster file cannot be written, as on a disk that is full.
        let obstacle = memory.join("cluster.json.new");
        std::fs::create_dir(&obstacle).unwrap();
        assert_eq!(refused(&first, &setup).await.code, "disk_write_failed");
        assert_eq!(std::fs::metadata(memory.join("journal")).unwrap().len(), journal, "put away again");
        first.members[0].kill();
        first.members[0].start().await;
        assert!(!clusters(&first).await.iter().any(|entry| entry.lock_hash == lock_hash));
        std::fs::remove_dir(&obstacle).unwrap();
        let _status: NodeStatus = client.post(CLUSTERS_PATH, &setup).await.unwrap();
        assert!(!memory.exists());
    }
    first.attested_again().await;
    second.attested_again().await;
    assert_eq!(clusters(&first).await.len(), 2);
    assert_nothing_slashable(&[&first, &second]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_files_halt_their_own_cluster_and_nothing_new_is_joined_beside_it_unseen() {
    let mut first = House::build(4, 2).await;
    // The same validators under another lock, for another identity that this box has not.
    let mut overlapping = first.setup(1);
    overlapping.lock = first.lock_under_another_name();
    let mut second = first.beside(4, 2);
    first.start().await;
    let client = first.members[0].client();
    let _status: NodeStatus = client.post(CLUSTERS_PATH, &second.setup(0)).await.unwrap();
    start_others(&mut second).await;
    first.attested_again().await;
    second.attested_again().await;

    let state = first.members[0].dir.path().join("state");
    first.members[0].kill();
    std::fs::write(state.join("cluster.json"), "{").unwrap();
    std::fs::write(state.join("clusters/1/exit-wishes.json"), "[").unwrap();
    first.members[0].start().await;
    the_box_signs_for(&mut second).await;
    assert!(state.join("clusters/1/exit-wishes.json.damaged").exists());
    let listed = clusters(&first).await;
    assert_eq!((listed[0].state, listed[0].lock_hash.clone()), (NodeState::Halted, first.lock_hash()));
    assert_eq!(refused(&first, &overlapping).await.code, "cluster_unreadable");
    // The other one's new addresses are taken, and the damaged one is repaired with its lock.
    for setup in [second.setup(0), first.setup(0)] {
        let _status: NodeStatus = client.post(CLUSTERS_PATH, &setup).await.unwrap();
    }
    assert_eq!(refused(&first, &overlapping).await.code, "validator_in_another_cluster");
    the_box_signs_for(&mut first).await;

    // What nobody can even open. A third cluster might be there.
    first.members[0].kill();
    std::fs::write(state.join("clusters/3"), "no folder").unwrap();
    first.members[0].start().await;
    the_box_signs_for(&mut second).await;
    the_box_signs_for(&mut first).await;
    let listed = clusters(&first).await;
    assert_eq!(listed[2].problems[0].code, "cluster_files_unusable", "{listed:?}");
    let other = create_cluster(4, 1);
    overlapping.lock = serde_json::from_slice(&other.lock.to_json().unwrap()).unwrap();
    overlapping.identity_key = Sensitive::new(other.nodes[0].identity.to_file_text().to_string());
    overlapping.peers.clear();
    assert_eq!(refused(&first, &overlapping).await.code, "cluster_unreadable");
    assert_nothing_slashable(&[&first, &second]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_whose_memory_nobody_can_assign_is_silent_about_all_it_may_have_said_when_it_comes_back() {
    let mut first = House::build(4, 1).await;
    first.start().await;
    the_box_signs_for(&mut first).await;
    let state = first.members[0].dir.path().join("state");
    let client = first.members[0].client();
    let at = |folder: &Path| dv_node::outside::journal(&std::fs::read(folder.join("journal")).unwrap()).0;
    for also_the_cluster in [true, false] {
        first.members[0].kill();
        std::fs::write(state.join("chain.json"), "{").unwrap();
        if also_the_cluster {
            std::fs::write(state.join("cluster.json"), "{").unwrap();
        }
        let spoken = at(&state).keys().map(|(slot, _)| *slot).max().unwrap();
        first.members[0].start().await;
        eventually("it is told", || async {
            clusters(&first).await.first().is_some_and(|entry| entry.state == NodeState::Halted)
        })
        .await;
        if also_the_cluster {
            // Nobody knows whose it is: it is left, and the same member joins again.
            assert_eq!(refused(&first, &first.setup(0)).await.code, "cluster_unreadable");
            let listed = clusters(&first).await;
            let _left: Vec<ClusterEntry> = client.delete(&cluster_path(&listed[0].lock_hash)).await.unwrap();
            assert!(!state.join("journal").exists());
        }
        let _status: NodeStatus = client.post(CLUSTERS_PATH, &first.setup(0)).await.unwrap();
        let is_silent = async || {
            state.join("journal").exists()
                && at(&state).keys().any(|(slot, kind)| *kind == 0 && *slot >= spoken)
                && !state.join("forgotten.json").exists()
                && state.join("chain.json").exists()
        };
        let deadline = Instant::now() + Duration::from_secs(300);
        while !is_silent().await {
            assert!(Instant::now() < deadline, "it is not silent about what it may have said");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        the_box_signs_for(&mut first).await;
    }
    let left: Vec<_> =
        std::fs::read_dir(state.join("left")).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(left.len() == 1 && left[0].join("journal").exists(), "what nobody can assign stays: {left:?}");
    assert_nothing_slashable(&[&first]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_join_that_the_disk_refuses_leaves_the_cluster_served_as_it_was() {
    let mut first = House::build(4, 1).await;
    first.start().await;
    first.attested_again().await;
    let obstacle = first.members[0].dir.path().join("state/cluster.json.new");
    std::fs::create_dir(&obstacle).unwrap();
    assert_eq!(refused(&first, &first.setup(0)).await.code, "disk_write_failed");
    the_box_signs_for(&mut first).await;
    std::fs::remove_dir(&obstacle).unwrap();
    let _status: NodeStatus = first.members[0].client().post(CLUSTERS_PATH, &first.setup(0)).await.unwrap();
    the_box_signs_for(&mut first).await;
    assert_nothing_slashable(&[&first]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_that_meets_a_full_disk_leaves_the_cluster_served_as_it_was() {
    let mut house = House::build(4, 1).await;
    let state = house.members[0].dir.path().join("state");
    let Some(disk) = house::SmallDisk::mount(&state) else {
        return eprintln!("SKIPPED: this machine mounts no file system for a test");
    };
    house.members[0].signer.lock().unwrap().edit_allowed = true;
    house.start().await;
    the_box_signs_for(&mut house).await;
    // Room for what duties write, and none for the request, which has something in it that nobody reads. The journal has up to
    // a mebibyte, is written anew beside its place, and has a slot's states more in it each second.
    disk.fill_but(6 << 20);
    let mut lock = house.lock();
    lock["padding"] = "x".repeat(8 << 20).into();
    let wanted = ClusterEdit {
        lock,
        edit: serde_json::json!({ "recreate": {} }),
        identity_key: None,
        minor: 10,
        peers: Vec::new(),
        relays: None,
        beacon_nodes: Vec::new(),
    };
    let client = house.members[0].client().with_timeout(Duration::from_secs(90));
    for _ in 0..2 {
        match client.put::<ClusterEditStatus>(CLUSTER_EDIT_PATH, &wanted).await {
            Err(ClientError::Refused { problem, .. }) => {
                assert_eq!(problem.code, "disk_write_failed", "{problem}")
            }
            other => panic!("{other:?}"),
        }
        the_box_signs_for(&mut house).await;
    }
    assert!(!state.join("edit/request.json").exists());
    // Nor is anything of it gone on with by a box that restarts.
    house.members[0].kill();
    house.members[0].start().await;
    the_box_signs_for(&mut house).await;
    // With room it begins, and the cluster rests for it.
    disk.make_room();
    let _status: ClusterEditStatus = client.put(CLUSTER_EDIT_PATH, &wanted).await.unwrap();
    let status = house.members[0].status().await;
    assert!(status.problems.iter().any(|problem| problem.code == "edit_under_way"), "{:?}", status.problems);
    assert_eq!(given_up(&house, &house.lock_hash()).await, Ok(()));
    the_box_signs_for(&mut house).await;
    assert_nothing_slashable(&[&house]);
    house.members[0].kill();
    drop(disk);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_that_cannot_be_used_cost_no_duty_and_are_named() {
    let mut house = House::build(4, 1).await;
    house.members[0].fallbacks = vec!["http://127.0.0.1:9".to_owned()];
    house.start().await;
    house.members[0].kill();
    // As another version may have written them: more fallbacks than are taken here, one that is no address, a longer text.
    let settings = house.members[0].dir.path().join("state/settings.json");
    let mut stored: serde_json::Value = serde_json::from_slice(&std::fs::read(&settings).unwrap()).unwrap();
    let many: Vec<String> = (1..=8).map(|port| format!("http://127.0.0.1:{port}")).collect();
    stored["fallback_beacon_nodes"] = [vec!["of tomorrow".to_owned()], many].concat().into();
    stored["proposals"]["graffiti"] = serde_json::json!(["x".repeat(40)]);
    stored["proposals"]["graffiti_alone"] = "of tomorrow".into();
    std::fs::write(&settings, stored.to_string()).unwrap();
    house.members[0].start().await;
    the_box_signs_for(&mut house).await;
    let client = house.members[0].client();
    let named = || async {
        let status: NodeStatus = client.get(ipc::node::STATUS_PATH).await.unwrap();
        let unused = status.problems.into_iter().filter(|problem| problem.code == "setting_not_used");
        unused.map(|problem| problem.message).collect::<Vec<_>>()
    };
    eventually("they are named", || async { named().await.len() == 4 }).await;
    let named = named().await;
    for (at, what) in
        [(0, "of tomorrow"), (1, "http://127.0.0.1:8"), (2, "`graffiti`"), (3, "`graffiti_alone`")]
    {
        assert!(named[at].contains(what), "{named:?}");
    }
    // And they stand in the way of nothing that is set.
    house.members[0].fallbacks = Vec::new();
    let setup = ClusterSetup { proposals: None, ..house.setup(0) };
    let _status: NodeStatus = client.post(CLUSTERS_PATH, &setup).await.unwrap();
    the_box_signs_for(&mut house).await;
    assert_nothing_slashable(&[&house]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_are_saved_without_the_identity_key_where_the_signer_has_none() {
    let mut house = House::build(4, 1).await;
    // A signer that is asked for it does not know it, as where a validator client signs.
    let port = house::Port::take();
    let listen = ([127, 0, 0, 1], port.number).into();
    house.members[0].signing = ipc::Signing::ValidatorClient { listen };
    house.members[0].start().await;
    let client = house.members[0].client();
    let _status: NodeStatus = client.post(CLUSTERS_PATH, &house.setup(0)).await.unwrap();
    // As the page sends them.
    let path = format!("{}/setup", cluster_path(&house.lock_hash()));
    let mut shown: ClusterSetup = client.get(&path).await.unwrap();
    assert!(shown.identity_key.expose_secret().is_empty());
    shown.obol_api = Some(true);
    let _status: NodeStatus = client.post(CLUSTERS_PATH, &shown).await.unwrap();
    let shown: ClusterSetup = client.get(&path).await.unwrap();
    assert_eq!((shown.obol_api, shown.signing), (Some(true), house.members[0].signing));
    // Of a cluster that is not here it must be given.
    let other = create_cluster(4, 1);
    let mut unknown = house.setup(0);
    unknown.lock = serde_json::from_slice(&other.lock.to_json().unwrap()).unwrap();
    unknown.identity_key = Sensitive::new(String::new());
    assert!(client.post::<NodeStatus>(CLUSTERS_PATH, &unknown).await.is_err());
}

async fn refused(house: &House, setup: &ClusterSetup) -> Problem {
    match house.members[0].client().post::<NodeStatus>(CLUSTERS_PATH, setup).await {
        Err(ClientError::Refused { problem, .. }) => problem,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_two_clusters_must_not_share_is_refused() {
    let mut first = House::build(4, 2).await;
    first.members[0].start().await;
    let _status: NodeStatus = first.members[0].client().put(CLUSTER_PATH, &first.setup(0)).await.unwrap();

    // Another member of the same cluster, and the same validators under another lock.
    let mut setup = first.setup(1);
    assert_eq!(refused(&first, &setup).await.code, "already_in_a_cluster");
    setup = first.setup(0);
    setup.lock = first.lock_under_another_name();
    let problem = refused(&first, &setup).await;
    assert_eq!(problem.code, "validator_in_another_cluster", "{problem}");
    assert!(problem.next_step.contains("Leave 'house'"), "{problem}");

    // The same identity in another cluster.
    let own_lock = first.lock();
    setup.lock = first.lock_of_other_validators();
    assert_eq!(refused(&first, &setup).await.code, "identity_key_in_use");

    // Two validator clients at one port.
    let port = house::Port::take();
    let client = ipc::Signing::ValidatorClient { listen: ([127, 0, 0, 1], port.number).into() };
    let mut again = first.setup(0);
    again.lock = own_lock;
    again.signing = client;
    let _status: NodeStatus = first.members[0].client().post(CLUSTERS_PATH, &again).await.unwrap();
    let other = create_cluster(4, 1);
    setup.lock = serde_json::from_slice(&other.lock.to_json().unwrap()).unwrap();
    setup.identity_key = Sensitive::new(other.nodes[0].identity.to_file_text().to_string());
    setup.peers.clear();
    setup.signing = client;
    assert_eq!(refused(&first, &setup).await.code, "validator_client_port_taken");
    setup.signing = ipc::Signing::BuiltIn;
    let _status: NodeStatus = first.members[0].client().post(CLUSTERS_PATH, &setup).await.unwrap();
    assert_eq!(clusters(&first).await.len(), 2);

    // As many as there are places, and not one more.
    for _ in 2..dv_node::folders::MAX_CLUSTERS {
        let other = create_cluster(4, 1);
        setup.lock = serde_json::from_slice(&other.lock.to_json().unwrap()).unwrap();
        setup.identity_key = Sensitive::new(other.nodes[0].identity.to_file_text().to_string());
        let _status: NodeStatus = first.members[0].client().post(CLUSTERS_PATH, &setup).await.unwrap();
    }
    let other = create_cluster(4, 1);
    setup.lock = serde_json::from_slice(&other.lock.to_json().unwrap()).unwrap();
    setup.identity_key = Sensitive::new(other.nodes[0].identity.to_file_text().to_string());
    assert_eq!(refused(&first, &setup).await.code, "too_many_clusters");
}

/// What a member's share has signed for an attestation duty, as it was sent.
fn attestation_in(house: &House, bytes: &[u8], share_index: u8) -> Option<obol::parsigex::Received> {
    let chain = house.beacon.inner.lock().unwrap().chain.clone();
    let validators = house.created.group_public_keys().into_iter().collect();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let since_genesis = now.saturating_sub(Duration::from_millis(chain.genesis_time_s * 1_000));
    let lengths = obol::duty::SlotLengths {
        slot_ns: chain.slot_ms * 1_000_000,
        slots_per_epoch: chain.slots_per_epoch,
    };
    let context = obol::parsigex::Context {
        validators: &validators,
        members: 4,
        kinds: &[obol::DutyType::Attester],
        now: obol::duty::Now { since_genesis_ns: u64::try_from(since_genesis.as_nanos()).unwrap(), lengths },
        sender: share_index,
    };
    obol::parsigex::receive(bytes, &context).ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_sent_in_a_members_name_reaches_it_and_its_signer_hears_of_what_it_did_not_send() {
    // All of it is about one vote, which members take for an epoch.
    let mut house = House::build_with_slots(4, 2, 6_000).await;
    house.start().await;
    house.attested_again().await;
    house.members[3].kill();
    let mut impostor = Impostor::connect(&house).await;
    let told = |house: &House| house.members[0].signer.lock().unwrap().seen.len();

    // The first member's own signatures, as it sent them, come back to it: nothing is new in them.
    let (mut bytes, mut received) = (impostor.partials().await, None);
    for _ in 0..200 {
        received = attestation_in(&house, &bytes, 1);
        if received.is_some() {
            break;
        }
        bytes = impostor.partials().await;
    }
    let received = received.unwrap();
    impostor.send_partials(&bytes);
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(told(&house), 0);

    // Another signature in its name: the signer hears of it, with the whole message.
    let other = |share_index: u8, number: u8| {
        let changed: Vec<_> = received
            .partials
            .iter()
            .map(|(key, partial)| {
                (*key, partial.signed.clone().with_signature(chain::SignatureBytes([number; 96])))
            })
            .collect();
        let entries = changed.iter().map(|(key, signed)| (key, signed));
        obol::parsigex::encode(received.duty, share_index, entries)
    };
    impostor.send_partials(&other(1, 7));
    eventually("the signer is told", || async { told(&house) > 0 }).await;
    {
        let signer = house.members[0].signer.lock().unwrap();
        let seen = &signer.seen[0];
        assert_eq!(
            (seen.request.kind.as_str(), seen.signature),
            ("ATTESTATION", chain::SignatureBytes([7; 96]))
        );
        let validators = &house.created.lock.validators;
        assert!(validators.iter().any(|validator| validator.public_shares[0] == seen.key));
    }
    // In another member's name it is that member's business.
    impostor.send_partials(&other(2, 8));
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(house.members[0].signer.lock().unwrap().seen.iter().all(|s| s.signature.0[0] == 7));

    // What comes in the sender's own name is sent back to it, once both know that they are Hearths, and whatever differs again.
    let mut number = 20;
    let came_back = tokio::time::timeout(Duration::from_secs(120), async {
        loop {
            number += 1;
            let sent = other(4, number);
            impostor.send_partials(&sent);
            let heard = async { while impostor.partials().await != sent {} };
            if tokio::time::timeout(Duration::from_secs(1), heard).await.is_ok() {
                return;
            }
        }
    });
    came_back.await.unwrap();
    assert_nothing_slashable(&[&house]);
}

/// How often a run of slots may be begun anew: on a machine that is busy with other things a duty can be missed for that alone,
/// and what a fault takes from a cluster it takes from most runs.
const RUNS: usize = 8;

/// The second cluster's whole slots from the next one on, with the box needed for each duty: those that were missed.
async fn missed_in(second: &House, slots: u64) -> Vec<(u64, u64)> {
    let from = second.beacon.inner.lock().unwrap().chain.slot_now() + 1;
    // A vote is published late as well, for an epoch.
    second.until(from + slots + 4).await;
    second.missed(from..from + slots)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_floods_one_cluster_costs_the_other_no_duty() {
    let (mut first, mut second) = two_clusters().await;
    first.attested_again().await;
    second.attested_again().await;
    second.members[3].kill();
    second.attested_again().await;
    first.members[3].kill();
    let flood = Flood::start(&first).await;
    let (mut missed, mut unharmed) = (Vec::new(), 0);
    while unharmed < 3 {
        let of_this_run = missed_in(&second, 4).await;
        if of_this_run.is_empty() {
            unharmed += 1;
        } else {
            missed.push(of_this_run);
        }
        assert!(missed.len() <= RUNS - 3, "(slot, validator): {missed:?}");
    }
    assert!(flood.queued() > 1_000);
    let metrics = first.members[0].client().get_text("/metrics").await.unwrap();
    let refused = metrics.lines().filter(|line| line.starts_with("hearth_dv_messages_refused_total{"));
    assert!(refused.clone().count() > 0, "nothing of the flood arrived: {metrics}");
    assert!(refused.clone().all(|line| !line.contains("place=")), "the other cluster heard of it");
    drop(flood);
    // Whoever floods is worth no more and no less than before.
    first.members[3].start().await;
    first.attested_again().await;
    assert_nothing_slashable(&[&first, &second]);
}

/// The daemon in this process, with a part of the first cluster's work that panics when it is told to.
fn start_with_a_fault(house: &House, panics: &Arc<AtomicBool>) {
    let (faulty, panics) = (house.created.view.lock_hash, Arc::clone(panics));
    let work: Work = Arc::new(move |membership, around| {
        let (is_faulty, panics) = (membership.view.lock_hash == faulty, Arc::clone(&panics));
        Box::pin(async move {
            if is_faulty {
                tokio::spawn(async move {
                    while !panics.swap(false, Ordering::SeqCst) {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                    panic!("as the test told it");
                });
            }
            node::run(membership, around).await
        })
    });
    start_in_this_process(house, work);
}

fn start_in_this_process(house: &House, work: Work) {
    let config = toml::from_str(&house.members[0].config()).unwrap();
    // Ends with the test's process.
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        runtime.unwrap().block_on(daemon::run_with(config, work)).unwrap();
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_in_one_cluster_costs_the_other_no_duty_and_it_comes_back() {
    let mut first = House::build(4, 2).await;
    let mut second = first.beside(4, 2);
    let panics = Arc::new(AtomicBool::new(false));
    start_with_a_fault(&first, &panics);
    first.members[0].answers().await;
    let client = first.members[0].client();
    for setup in [first.setup(0), second.setup(0)] {
        let _status: NodeStatus = client.post(CLUSTERS_PATH, &setup).await.unwrap();
    }
    start_others(&mut first).await;
    start_others(&mut second).await;
    for cluster in [&mut first, &mut second] {
        cluster.members[3].kill();
        cluster.attested_again().await;
    }
    let (mut runs, mut unharmed) = (0, 0);
    while unharmed < 2 {
        panics.store(true, Ordering::SeqCst);
        eventually("it crashes", || async { !panics.load(Ordering::SeqCst) }).await;
        eventually("the owner is told", || async {
            clusters(&first).await[0].problems.iter().any(|problem| problem.code == "cluster_crashed")
        })
        .await;
        let missed = missed_in(&second, 3).await;
        (runs, unharmed) = (runs + 1, unharmed + usize::from(missed.is_empty()));
        assert!(runs - unharmed < 4, "(slot, validator): {missed:?}");
        // It was started anew, and is needed.
        first.attested_again().await;
        // Whoever looks only now is told as well.
        assert!(clusters(&first).await[0].problems.iter().any(|problem| problem.code == "cluster_crashed"));
    }
    assert_eq!(clusters(&first).await.len(), 2);
    assert_nothing_slashable(&[&first, &second]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_does_not_end_for_new_fee_recipients_holds_up_nobody_and_starts_when_it_has_ended() {
    let house = House::build(4, 1).await;
    let (starts, may_end) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let work: Work = {
        let (starts, may_end) = (Arc::clone(&starts), Arc::clone(&may_end));
        Arc::new(move |_, mut around| {
            starts.fetch_add(1, Ordering::SeqCst);
            let may_end = Arc::clone(&may_end);
            Box::pin(async move {
                let mut look = tokio::time::interval(Duration::from_millis(50));
                while !(*around.stop.borrow() && may_end.load(Ordering::SeqCst)) {
                    tokio::select! {
                        Some(to) = around.alive.recv() => drop(to.send(())),
                        _ = look.tick() => {}
                    }
                }
                Ok(())
            })
        })
    };
    start_in_this_process(&house, work);
    house.members[0].answers().await;
    let client = house.members[0].client();
    let _status: NodeStatus = client.post(CLUSTERS_PATH, &house.setup(0)).await.unwrap();
    let overrides = house.members[0].dir.path().join("state").join(cluster::registrations::OVERRIDES_FILE);
    std::fs::write(overrides, "[]").unwrap();
    // The daemon looks every 5 s. Whoever asks it anything is answered at once, also when the owner is told of the one that does not end.
    let patient = house.members[0].client().with_timeout(Duration::from_secs(60));
    let slowest = Cell::new(Duration::ZERO);
    let is_told = || async {
        let asked = Instant::now();
        while patient.get::<KeyGenerationStatus>(DKG_PATH).await.is_err() {}
        slowest.set(asked.elapsed().max(slowest.get()));
        patient
            .get::<Vec<ClusterEntry>>(CLUSTERS_PATH)
            .await
            .is_ok_and(|all| all[0].problems.iter().any(|problem| problem.code == "cluster_stuck"))
    };
    eventually("the owner is told", is_told).await;
    // What needs the node to end is refused, and not waited for once more.
    for _ in 0..2 {
        let asked = Instant::now();
        let left: Result<Vec<ClusterEntry>, _> = patient.delete(&cluster_path(&house.lock_hash())).await;
        assert!(matches!(left, Err(ClientError::Refused { problem, .. }) if problem.code == "cluster_stuck"));
        slowest.set(asked.elapsed().max(slowest.get()));
    }
    assert!(slowest.get() < Duration::from_secs(4), "{slowest:?}");
    assert_eq!(starts.load(Ordering::SeqCst), 1);
    may_end.store(true, Ordering::SeqCst);
    eventually("it starts with the new ones", || async { starts.load(Ordering::SeqCst) == 2 }).await;
}
