//! Identity keys that a network process in foreign hands says to belong to our shares.

use std::{io::Write as _, os::unix::net::UnixStream, time::Duration};

use cluster::{Lock, create::CreatedCluster};
use ipc::folder::{IdentityAnswer, IdentityGiven, identity_path};
use ipc::{Client, ClientError, Sensitive};

use crate::{
    folder::{Charon, hand_in},
    harness::*,
};

/// Another lock about the same shares, as if somebody had found numbers by which they sign it.
fn made_up(created: &CreatedCluster, name: &str) -> Lock {
    let mut lock = created.lock.clone();
    name.clone_into(&mut lock.definition.name);
    lock.definition.set_hashes().unwrap();
    lock.lock_hash = lock.compute_lock_hash().unwrap();
    let signatures: Vec<_> = created
        .nodes
        .iter()
        .flat_map(|node| node.shares.iter().map(|share| share.sign(&lock.lock_hash)))
        .collect();
    lock.signature_aggregate = threshold::aggregate_signatures(&signatures).unwrap().to_bytes().0.to_vec();
    lock.node_signatures =
        created.nodes.iter().map(|node| node.identity.sign(&lock.lock_hash).to_vec()).collect();
    lock.verify(&[]).unwrap();
    lock
}

async fn put(signer: &Running, key: String, lock: &Lock) -> Result<serde_json::Value, ClientError> {
    let json = serde_json::from_slice(&lock.to_json().unwrap()).unwrap();
    let given = IdentityGiven { identity_key: Sensitive::new(key), lock: Some(json) };
    signer.sign.put(&identity_path(&hex::encode(lock.lock_hash)), &given).await
}

async fn get(signer: &Running, hash: &[u8; 32]) -> Option<String> {
    let answer = signer.sign.get::<IdentityAnswer>(&identity_path(&hex::encode(hash))).await;
    answer.ok().map(|answer| answer.identity_key.expose_secret().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn locks_that_are_made_up_about_our_shares_prove_one_key_at_most_and_hold_no_folder_up() {
    let machine = Machine::new();
    let signer = machine.start().await;
    let (charon, second) = (Charon::new(clock()), Charon::new(clock()));
    hand_in(&signer, &charon.folder(2)).await.unwrap();
    let key = |charon: &Charon| charon.created.nodes[2].identity.to_file_text().to_string();
    let hash = charon.created.lock.lock_hash;
    // What the owner's folder said is not overruled by another lock, whoever else's key that names.
    let mut kept = 0;
    let locks: Vec<Lock> =
        (0..64).map(|number| made_up(&charon.created, &format!("friends {number}"))).collect();
    for lock in &locks {
        kept += u8::from(put(&signer, key(&charon), lock).await.is_ok());
    }
    assert_eq!(kept, 63, "they fill the room there is, as anything that the node says does");
    assert_eq!(get(&signer, &hash).await, Some(key(&charon)));
    hand_in(&signer, &second.folder(2)).await.unwrap();
    assert_eq!(get(&signer, &second.created.lock.lock_hash).await, Some(key(&second)));
    assert_eq!(get(&signer, &hash).await, Some(key(&charon)));

    // Where no folder spoke before, the first of them counts; what the owner seals counts more, and finds room.
    for (path, _) in machine.disk().iter().filter(|(path, _)| path.to_string_lossy().contains("identity-")) {
        std::fs::remove_file(path).unwrap();
    }
    for lock in &locks {
        let _ = put(&signer, key(&charon), lock).await;
    }
    assert!(get(&signer, &locks[63].lock_hash).await.is_some());
    hand_in(&signer, &second.folder(2)).await.unwrap();
    hand_in(&signer, &charon.folder(2)).await.unwrap();
    assert!(get(&signer, &locks[0].lock_hash).await.is_some(), "the youngest of what is worth nothing went");
    assert_eq!(get(&signer, &locks[63].lock_hash).await, None);
    assert_eq!(get(&signer, &hash).await, Some(key(&charon)));
    assert_eq!(get(&signer, &second.created.lock.lock_hash).await, Some(key(&second)));
    signer.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn large_bodies_of_the_network_process_are_read_one_at_a_time_and_votes_go_on_beside_them() {
    let machine = Machine::new();
    let signer = machine.start().await;
    signer.import(&bundle(&[1], ipc::signer::History::NeverSigned)).await.unwrap();
    let charon = Charon::new(clock());
    // One that never comes to its end.
    let mut held = UnixStream::connect(machine.dir.path().join("sign.sock")).unwrap();
    let path = identity_path(&charon.lock_hash());
    write!(
        held,
        "PUT {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{{"
    )
    .unwrap();
    let hasty = Client::new(machine.dir.path().join("sign.sock")).with_timeout(Duration::from_secs(1));
    let given = || IdentityGiven { identity_key: Sensitive::new("11".repeat(32)), lock: None };
    // The one that is held may not have been taken up yet: the same key again harms nothing.
    let mut second = hasty.put::<serde_json::Value>(&path, &given()).await;
    for _ in 0..30 {
        if second.is_err() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        second = hasty.put::<serde_json::Value>(&path, &given()).await;
    }
    assert!(matches!(second, Err(ClientError::Timeout { .. })), "{second:?}");
    let checked = hasty.post::<serde_json::Value>(ipc::edit::EDIT_CHECK_PATH, &serde_json::json!({})).await;
    assert!(matches!(checked, Err(ClientError::Timeout { .. })), "{checked:?}");
    signer.attest(&pubshare(1), &vote(2, 3, 1)).await.unwrap();
    drop(held);
    signer.sign.put::<serde_json::Value>(&path, &given()).await.unwrap();
    // More parts than any lock has are not made into anything.
    let crowd = format!("{{\"identity_key\":\"x\",\"lock\":[{}0]}}", "0,".repeat(400_001));
    let crowd: Box<serde_json::value::RawValue> = serde_json::value::RawValue::from_string(crowd).unwrap();
    let refusal = signer.sign.put::<serde_json::Value>(&path, &crowd).await;
    assert_eq!(code(refusal), refused(413, "request_too_many_parts"));
    signer.stop();
}
