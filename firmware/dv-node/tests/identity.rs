//! The box's identity key on the disk: sealed by the signer, taken over where software of before left it in the clear.

#![expect(clippy::unwrap_used, reason = "a test fails loudly")]

#[path = "../../beacon/tests/fake/mod.rs"]
mod fake;
mod house;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use house::{House, eventually};
use ipc::NodeStatus;
use ipc::node::{CLUSTER_PATH, NodeState};

/// A member that has joined, and was killed.
async fn joined() -> House {
    let mut house = House::build(4, 1).await;
    house.members[0].start().await;
    let _status: NodeStatus = house.members[0].client().put(CLUSTER_PATH, &house.setup(0)).await.unwrap();
    house.members[0].kill();
    house
}

fn state(house: &House) -> PathBuf {
    house.members[0].dir.path().join("state")
}

fn key(house: &House) -> String {
    house.members[0].identity().to_file_text().to_string()
}

/// Every file in the state directory in which a part of the key stands, as text or in bytes.
fn with_the_key(house: &House) -> Vec<PathBuf> {
    fn walk(dir: &Path, parts: &[Vec<u8>], found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, parts, found);
            } else if let Ok(content) = std::fs::read(&path)
                && parts.iter().any(|part| content.windows(part.len()).any(|window| window == part))
            {
                found.push(path);
            }
        }
    }
    let text = key(house).into_bytes();
    let raw = house.members[0].identity().secret_bytes().to_vec();
    let parts = [text[..16].to_vec(), text[48..].to_vec(), raw[..16].to_vec(), raw[16..].to_vec()];
    let mut found = Vec::new();
    walk(&state(house), &parts, &mut found);
    found
}

/// As software of before left it.
fn put_in_the_clear(house: &House) {
    let _ = std::fs::remove_file(state(house).join("identity.sealed"));
    std::fs::write(state(house).join("identity.key"), key(house)).unwrap();
}

fn is_taken_over(house: &House) -> bool {
    let empty = std::fs::metadata(state(house).join("identity.key")).is_ok_and(|found| found.len() == 0);
    empty && state(house).join("identity.sealed").exists()
}

async fn has_problem(house: &House, code: &str) -> bool {
    let status = house.members[0].status().await;
    status.state == NodeState::Halted && status.problems.iter().any(|problem| problem.code == code)
}

async fn is_served(house: &House) -> bool {
    let status = house.members[0].status().await;
    status.cluster.is_some() && [NodeState::Starting, NodeState::Running].contains(&status.state)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sealed_identity_key_waits_for_the_signer_and_what_does_not_open_is_said() {
    let mut house = joined().await;
    assert!(is_taken_over(&house));
    assert_eq!(with_the_key(&house), Vec::<PathBuf>::new(), "a new key is never written in the clear");
    let path = state(&house).join("identity.sealed");
    let sealed = || std::fs::read(&path).unwrap();
    let (before, vault) = (sealed(), house.members[0].signer.lock().unwrap().vault);
    // The signer is there and waits for its passphrase; then it opens, without anybody restarting anything.
    house.members[0].signer.lock().unwrap().vault = None;
    house.members[0].start().await;
    eventually("it says what it waits for", || has_problem(&house, "identity_locked")).await;
    let problem = house.members[0].status().await.problems.remove(0);
    assert!(problem.message.contains("your passphrase") && problem.next_step == "Type it.", "{problem}");
    assert!(house.members[0].client().put::<NodeStatus>(CLUSTER_PATH, &house.setup(0)).await.is_err());
    house.members[0].signer.lock().unwrap().vault = vault;
    eventually("it serves its cluster", || is_served(&house)).await;
    house.members[0].kill();

    // Another vault, that nothing was put into: nothing is made in the place of the key, and nothing of it is lost.
    {
        let mut signer = house.members[0].signer.lock().unwrap();
        signer.vault = Some(0x33);
        signer.copies.clear();
    }
    house.members[0].start().await;
    eventually("it says that it does not open", || has_problem(&house, "identity_sealed_elsewhere")).await;
    assert_eq!((sealed(), is_taken_over(&house)), (before.clone(), true));
    // A backup is restored: the signer has the key, and it is sealed anew without a restart.
    let hash = house.lock_hash().trim_start_matches("0x").to_owned();
    house.members[0].signer.lock().unwrap().copies.insert(hash, key(&house));
    eventually("it serves its cluster", || is_served(&house)).await;
    eventually("it is sealed anew", || async { sealed() != before && is_taken_over(&house) }).await;
    house.members[0].kill();

    // Nobody has it but its owner, who hands it in again.
    {
        let mut signer = house.members[0].signer.lock().unwrap();
        (signer.vault, signer.takes_copies) = (Some(0x34), false);
        signer.copies.clear();
    }
    house.members[0].start().await;
    eventually("it says that it does not open", || has_problem(&house, "identity_sealed_elsewhere")).await;
    let _status: NodeStatus = house.members[0].client().put(CLUSTER_PATH, &house.setup(0)).await.unwrap();
    eventually("it serves its cluster", || is_served(&house)).await;
    assert_eq!(with_the_key(&house), Vec::<PathBuf>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_identity_key_in_the_clear_is_served_at_once_and_taken_over_when_the_signer_can() {
    let mut house = joined().await;
    put_in_the_clear(&house);
    // Also what another cluster left behind.
    let left = state(&house).join("left").join(format!("{}-1", "ab".repeat(32)));
    std::fs::create_dir_all(&left).unwrap();
    std::fs::write(left.join("identity.key"), key(&house)).unwrap();
    let vault = house.members[0].signer.lock().unwrap().vault.take();
    house.members[0].start().await;
    eventually("duties do not wait for it", || is_served(&house)).await;
    assert!(!is_taken_over(&house) && !with_the_key(&house).is_empty());
    // The version before would find an empty file and a signer without a copy: until that has one, the key stays.
    {
        let mut signer = house.members[0].signer.lock().unwrap();
        (signer.vault, signer.takes_copies) = (vault, false);
    }
    eventually("it is sealed", || async { state(&house).join("identity.sealed").exists() }).await;
    tokio::time::sleep(Duration::from_secs(7)).await;
    assert!(!is_taken_over(&house), "the signer has no copy");
    house.members[0].signer.lock().unwrap().takes_copies = true;
    eventually("it is taken over", || async { is_taken_over(&house) && with_the_key(&house).is_empty() })
        .await;
    eventually("it is served all the same", || is_served(&house)).await;
    house.members[0].kill();
    house.members[0].start().await;
    eventually("it is served as before", || is_served(&house)).await;
    // Software of before, put back, writes it in the clear; that counts, and is taken over again.
    house.members[0].kill();
    put_in_the_clear(&house);
    std::fs::write(state(&house).join("identity.sealed"), "sealed:00ff").unwrap();
    house.members[0].start().await;
    // Its cluster is taken up anew with the sealed key: for a moment nothing is served.
    eventually("it is taken over once more, and served", || async {
        with_the_key(&house).is_empty() && is_taken_over(&house) && is_served(&house).await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whenever_it_is_killed_the_key_is_there_in_the_clear_or_sealed() {
    let mut house = joined().await;
    let config = house.members[0].dir.path().join("killed.toml");
    std::fs::write(&config, house.members[0].config()).unwrap();
    let mut done = 0;
    for step in 0..60_u64 {
        if step % 12 == 0 || is_taken_over(&house) {
            put_in_the_clear(&house);
        }
        let mut child = Command::new(env!("CARGO_BIN_EXE_dv-node"))
            .arg("--config")
            .arg(&config)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // It is at work for a few milliseconds some time after its start, sooner or later on a busy machine.
        tokio::time::sleep(Duration::from_millis(20 + (step * 7) % 400)).await;
        child.kill().unwrap();
        child.wait().unwrap();
        let plain = std::fs::read_to_string(state(&house).join("identity.key")).unwrap();
        let sealed = std::fs::read_to_string(state(&house).join("identity.sealed")).unwrap_or_default();
        let vault = house.members[0].signer.lock().unwrap().vault.unwrap();
        let hidden = format!("sealed:{}", hex::encode([vault]))
            + &key(&house).bytes().map(|byte| hex::encode([byte ^ vault])).collect::<String>();
        assert!(plain == key(&house) || sealed == hidden, "{step}: {plain:?} {sealed:?}");
        done += u32::from(plain.is_empty());
    }
    println!("{done} of 60 were killed after the end of it");
    house.members[0].start().await;
    eventually("it is taken over", || async { is_taken_over(&house) && with_the_key(&house).is_empty() })
        .await;
    eventually("it serves its cluster", || is_served(&house)).await;
}
