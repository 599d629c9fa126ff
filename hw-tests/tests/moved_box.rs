//! An owner's whole way with real duties on a real chain, by the pages of both boxes in a real browser: a Charon node's folder
//! comes in, the box attests, its shares move to another box, and that one attests in its place.

#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use chain::Slot;
use cluster::IdentityKey;
use cluster::keystore::KdfCost;
use hw_tests::browser::{self, Owner};
use hw_tests::ceremony::address;
use hw_tests::devnet::GENESIS_FORK_VERSION;
use hw_tests::join::NodeFolder;
use hw_tests::member::Member;
use hw_tests::vm::measure::MEASURED;
use hw_tests::watched::{CHAIN_ID, NETWORK, WatchedCluster};
use ipc::folder::StatedChain;

/// Shares that come in wait for three epochs.
const PATIENCE: Duration = Duration::from_secs(400);
const SLOT_SECONDS: u64 = 3;

fn binaries() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.parent().and_then(Path::parent).unwrap().to_owned()
}

/// The claim code that the box's owner reads on its screen.
fn claim_code(member: &Member) -> String {
    std::fs::read_to_string(member.dir().join("web/claim-code")).unwrap().trim().to_owned()
}

/// The file that the browser has saved under this name.
fn saved(downloads: &Path, name: &str) -> PathBuf {
    let path = downloads.join(name);
    let begun = Instant::now();
    while !path.exists() {
        assert!(begun.elapsed() < Duration::from_secs(30), "{name} was not saved");
        std::thread::sleep(Duration::from_millis(100));
    }
    path
}

#[test]
fn a_box_whose_shares_move_by_its_page_is_replaced_in_the_cluster_and_the_validator_goes_on() {
    if !browser::is_here() {
        println!("SKIPPED: no Chromium with its driver on this machine");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let WatchedCluster { mut chain, created, facts, mut watch } =
        WatchedCluster::start(&dir.path().join("chain"), SLOT_SECONDS).unwrap();
    let start = |name: &str| Member::start(name, &dir.path().join(name), &binaries()).unwrap();
    let (old, new) = (start("old"), start("new"));
    let others = [start("second"), start("third")];
    let identities: Vec<IdentityKey> = created
        .nodes
        .iter()
        .map(|node| IdentityKey::from_bytes(node.identity.secret_bytes().clone()).unwrap())
        .collect();
    let peers: Vec<String> = std::iter::once(&old)
        .chain(&others)
        .zip(&identities)
        .map(|(member, key)| address(member, key))
        .collect();
    let folders = [0, 1, 2].map(|place| {
        for file in created.node_files(place, KdfCost::Insecure, &mut rand::rng()).unwrap() {
            let path = dir.path().join("cluster").join(&file.path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, &*file.content).unwrap();
        }
        NodeFolder::new(dir.path().join(format!("cluster/node{place}")))
    });
    // The fourth member is off for good: each vote needs the box.
    for ((index, member), folder) in (2..).zip(&others).zip(&folders[1..]) {
        let page = member.page().unwrap();
        folder.import_shares(&page, index, &facts).unwrap();
        folder.join(&page, &facts, peers.clone(), ipc::Signing::BuiltIn).unwrap();
    }

    let owner = Owner::new((1280, 1400)).unwrap();
    owner.open(old.page_address()).unwrap();
    let stated = StatedChain {
        name: NETWORK.to_owned(),
        chain_id: CHAIN_ID,
        genesis_fork_version: format!("0x{}", hex::encode(GENESIS_FORK_VERSION.0)),
        genesis_validators_root: facts.genesis_validators_root.clone(),
        clock: facts.clock,
    };
    owner.fill("folder-files", &folders[0].path().display().to_string()).unwrap();
    owner.fill("folder-beacons", &facts.beacon_nodes[0]).unwrap();
    owner.fill("folder-peers", &peers.join(" ")).unwrap();
    owner.fill("folder-chain", &serde_json::to_string(&stated).unwrap()).unwrap();
    owner.fill("folder-code", &claim_code(&old)).unwrap();
    owner.click("#folder-stopped").unwrap();
    owner.click("#folder-form button[type=submit]").unwrap();
    owner.reads("folder-said", "Member 1 of friends: 1 new key shares").unwrap();
    let first = watch.attests(Slot(0), PATIENCE);
    eprintln!("the box attests: {first:?}");

    // The move. What the other box joins with is saved with the certificate.
    let target = new.page().unwrap().import_key().unwrap();
    let seen = old.screen().unwrap().len();
    owner.fill("move-to", &target).unwrap();
    owner.fill("move-code", &claim_code(&old)).unwrap();
    owner.click("#move-form button[type=submit]").unwrap();
    owner.reads("moving-said", "its screen shows a code now").unwrap();
    owner.fill("move-screen", &old.code_on_screen(seen).unwrap()).unwrap();
    owner.click("#move-form button[type=submit]").unwrap();
    owner.reads("moving-said", "The shares are gone from this box").unwrap();
    let moved = chain.clock_slot().unwrap();
    let status = old.page().unwrap().status().unwrap();
    let release_key = status.signer.as_ref().unwrap().release_key.clone().unwrap();
    assert!(status.signer.unwrap().shares.is_empty(), "the old box has no share");
    assert!(status.node.unwrap().cluster.is_none(), "and speaks for nobody in the cluster");

    owner.open(new.page_address()).unwrap();
    let file = saved(owner.downloads(), "hearth-move.json");
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(
        !text.contains(identities[0].to_file_text().as_str()),
        "no identity key lies among the owner's files"
    );
    owner.fill("arrive-file", &file.display().to_string()).unwrap();
    owner.fill("arrive-from", &release_key).unwrap();
    owner.fill("arrive-code", &claim_code(&new)).unwrap();
    owner.click("#arrive-form button[type=submit]").unwrap();
    let said = owner.reads("moving-said", "1 key shares have come in").unwrap();
    assert!(said.contains("This box is in"), "{said}");

    let after = watch.attests(moved, PATIENCE);
    eprintln!("the other box attests: {after:?}");
    assert!(watch.is_canonical(&after).unwrap());
    let share = new.page().unwrap().status().unwrap().signer.unwrap().shares.into_iter().next().unwrap();
    assert!(share.last_signed.is_some(), "the new box's own share has signed");
    // Nobody had to be told that it is another box now: it speaks with the identity that came along.
    let waited = after.target.0.saturating_sub(moved.0 / chain.config().slots_per_epoch);
    println!("{MEASURED}epochs between a move and the next vote: {waited}");
    chain.check_alive().unwrap();
    assert!(watch.votes().len() >= 2);
}
