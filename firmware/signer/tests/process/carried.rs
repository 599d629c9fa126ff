//! What must hold for a share wherever it is carried: stopped is stopped, the clock must be believed, the image must be the
//! maker's own, and nothing that was sealed for a box is good for longer than the box remembers.

use std::time::{Duration, SystemTime};

use crate::elsewhere::{signed_elsewhere, tell};
use crate::folder::{Charon, hand_in};
use crate::harness::*;
use crate::keymanager::{KEYSTORES, ask, token};
use crate::moving::*;
use chain::PublicKeyBytes;
use ipc::{
    ClientError,
    moving::{MoveCertificate, RESTORES_PATH},
    owner::RESUME_CONFIRMATION,
    signer::{History, ShareImported},
};
use serde_json::json;

/// Moves all shares; the certificate and the old box's release key.
pub(crate) async fn move_to(from: &Running, to: &Running) -> (MoveCertificate, String) {
    let release_key = from.status().await.release_key.unwrap();
    let target = to.status().await.import_key.unwrap();
    assert_eq!(code(order_move(from, &target, None).await), refused(422, "confirm_on_screen"));
    (order_move(from, &target, Some(from.code_on_screen())).await.unwrap(), release_key)
}

async fn delete(machine: &Machine, signer: &Running, key: &PublicKeyBytes) {
    let token = token(signer).await;
    let body = json!({"pubkeys": [key.to_string()]}).to_string();
    let (status, answer) = ask(machine, Some(&token), "DELETE", KEYSTORES, &body).await;
    assert_eq!((status, answer["data"][0]["status"].as_str()), (200, Some("deleted")), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_share_that_signs_elsewhere_stays_stopped_when_it_is_deleted_moved_or_restored() {
    let (old, new, third) = (Machine::new(), Machine::new(), Machine::new());
    let from = old.start().await;
    let bundle = bundle(&[1, 2], History::NeverSigned);
    from.import(&bundle).await.unwrap();
    assert_eq!(tell(&from, &[signed_elsewhere(1, 1, 4, 5, 8)]).await, [pubshare(1)]);

    // Deleted, it is nothing to decide on; imported again, it is stopped.
    delete(&old, &from, &pubshare(1)).await;
    assert_eq!(from.problem_codes().await, [""; 0]);
    from.import(&bundle).await.unwrap();
    assert!(from.problem_codes().await.contains(&"signs_elsewhere".to_owned()));
    let stopped = refused(412, "signs_elsewhere");
    assert_eq!(code(from.attest(&pubshare(1), &vote(50, 51, 1)).await), stopped);

    let backup = back_up(&from).await;
    let (to, restored) = (new.start().await, third.start().await);
    let (certificate, release_key) = move_to(&from, &to).await;
    assert_eq!(from.problem_codes().await, [""; 0], "what is gone is nothing to decide on");
    arrive(&to, &release_key, &certificate).await.unwrap();
    restore(&restored, &backup.file, WORDS).await.unwrap();
    to.stop();
    let to = new.start().await;
    for signer in [&to, &restored] {
        assert!(signer.problem_codes().await.contains(&"signs_elsewhere".to_owned()));
        let far = epoch_of(&bundle.chain) + 1;
        assert_eq!(code(signer.attest(&pubshare(1), &vote(far - 1, far, 1)).await), stopped);
    }
    // What is decided is the owner's, as on the old box, and what was seen binds it.
    crate::elsewhere::resume_share(&to, &pubshare(1), RESUME_CONFIRMATION).await.unwrap();
    assert_eq!(code(to.attest(&pubshare(1), &vote(4, 5, 1)).await), refused(412, "slashable"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_sealed_for_a_box_is_worth_nothing_once_it_has_deleted_shares() {
    let (old, new) = (Machine::new(), Machine::new());
    let (from, to) = (old.start().await, new.start().await);
    from.import_only(&bundle(&[1], History::NeverSigned)).await.unwrap();
    let backup = back_up(&from).await;
    let (certificate, release_key) = move_to(&from, &to).await;
    arrive(&to, &release_key, &certificate).await.unwrap();
    // Orders of the owner that a page in foreign hands has kept for later.
    let key = to.status().await.import_key.unwrap();
    let order = ipc::moving::RestoreOrder {
        file: backup.file,
        passphrase: ipc::Sensitive::new(WORDS.to_owned()),
        old_box_gone: true,
    };
    let kept = sealed(&to, ipc::moving::RESTORE_INFO, &order).await;
    let envelope = ipc::envelope::seal(&key, &bundle(&[1], History::NeverSigned)).unwrap();

    delete(&new, &to, &pubshare(1)).await;
    let now = to.status().await.import_key.unwrap();
    assert_ne!(now, key);
    let shown = ipc::envelope::fingerprint(&hex::decode(&now).unwrap());
    assert!(to.screen_text().contains(&shown), "the owner sees the new key: {}", to.screen_text());
    assert_eq!(
        code(arrive(&to, &release_key, &certificate).await),
        refused(422, "certificate_for_another_box")
    );
    let restored = to.control.post::<ShareImported>(RESTORES_PATH, &kept).await;
    assert_eq!(code(restored), refused(422, "envelope_invalid"));
    let imported = to.control.post::<ShareImported>(ipc::signer::SHARES_PATH, &envelope).await;
    assert_eq!(code(imported), refused(422, "envelope_invalid"));
    assert_eq!(keys(&to).await, []);
    // The owner's own word of now is another thing.
    assert_eq!(
        to.control
            .post::<ShareImported>(RESTORES_PATH, &sealed(&to, ipc::moving::RESTORE_INFO, &order).await)
            .await
            .unwrap()
            .imported
            .len(),
        1
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_box_that_was_put_back_to_the_day_it_was_empty_does_not_take_a_certificate_twice() {
    let (old, new, third) = (Machine::new(), Machine::new(), Machine::new());
    let to = new.start().await;
    to.stop();
    let empty = new.disk();
    let (from, to) = (old.start().await, new.start().await);
    from.import_only(&bundle(&[1], History::NeverSigned)).await.unwrap();
    let (certificate, release_key) = move_to(&from, &to).await;
    arrive(&to, &release_key, &certificate).await.unwrap();
    // On to a third box, and then the second one's disk from before it held anything.
    let last = third.start().await;
    let (onward, of_second) = move_to(&to, &last).await;
    arrive(&last, &of_second, &onward).await.unwrap();
    to.stop();
    std::fs::remove_dir_all(new.state()).unwrap();
    std::fs::create_dir_all(new.state()).unwrap();
    for (path, content) in empty {
        std::fs::write(path, content).unwrap();
    }
    let to = new.start().await;
    assert_eq!(to.problem_codes().await, [""; 0], "an empty box has nothing to protect");
    assert_eq!(
        code(arrive(&to, &release_key, &certificate).await),
        refused(422, "certificate_for_another_box")
    );
    assert_eq!(keys(&to).await, []);
    assert_eq!(keys(&last).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_a_public_chain_comes_in_where_everybody_can_sign_the_image() {
    let (old, mut new) = (Machine::new(), Machine::new());
    new.release_keys = false;
    let (from, to) = (old.start().await, new.start().await);
    let real = of_mainnet(bundle(&[1], History::NeverSigned));
    from.import_only(&real).await.unwrap();
    let public = Charon::of_hoodi();
    let forbidden = refused(422, "test_keys_real_chain");
    assert_eq!(code(hand_in(&to, &public.folder(0)).await), forbidden);
    assert_eq!(code(restore(&to, &back_up(&from).await.file, WORDS).await), forbidden);
    // A move there is refused before anything is gone: the key that people copy says what kind of box it is.
    let target = to.status().await.arrival_key.unwrap();
    assert_eq!(code(order_move(&from, &target, None).await), refused(422, "other_box_test_keys"));
    assert_eq!(keys(&from).await, [pubshare(1)]);
    // Somebody who leaves that away is refused there all the same.
    let (certificate, release_key) = move_to(&from, &to).await;
    assert_eq!(code(arrive(&to, &release_key, &certificate).await), forbidden);
    assert_eq!(to.status().await.shares, []);
    assert!(new.disk().iter().all(|(path, _)| !path.to_string_lossy().contains("identity")));
    // The folder is a good one, on an image of its maker's own.
    let taken = hand_in(&from, &public.folder(0)).await.unwrap();
    assert_eq!(taken.imported.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_comes_in_by_a_clock_that_nobody_vouches_for() {
    let (old, mut new) = (Machine::new(), Machine::new());
    let mark = new.dir.path().join("synchronised");
    let vouch = || std::fs::File::create(&mark).unwrap().set_modified(SystemTime::now()).unwrap();
    new.clock_mark = Some(mark.clone());
    vouch();
    let (from, to) = (old.start().await, new.start().await);
    from.import_only(&bundle(&[1], History::NeverSigned)).await.unwrap();
    let backup = back_up(&from).await;
    let (certificate, release_key) = move_to(&from, &to).await;
    let charon = Charon::new(clock());

    std::fs::remove_file(&mark).unwrap();
    for _ in 0..200 {
        if !to.status().await.clock.unwrap().trusted {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    fn doubted<T: std::fmt::Debug>(outcome: Result<T, ClientError>) {
        assert_eq!(code(outcome), refused(503, "clock_unsynchronised"));
    }
    doubted(hand_in(&to, &charon.folder(0)).await);
    doubted(restore(&to, &backup.file, WORDS).await);
    doubted(arrive(&to, &release_key, &certificate).await);
    assert!(new.disk().iter().all(|(path, _)| !path.to_string_lossy().contains("identity")));
    vouch();
    tokio::time::sleep(Duration::from_millis(300)).await;
    arrive(&to, &release_key, &certificate).await.unwrap();
    assert_eq!(keys(&to).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_nobody_vouches_for_lets_nothing_out_either() {
    let (mut old, new) = (Machine::new(), Machine::new());
    let mark = old.dir.path().join("synchronised");
    old.clock_mark = Some(mark.clone());
    std::fs::File::create(&mark).unwrap().set_modified(SystemTime::now()).unwrap();
    let (from, to) = (old.start().await, new.start().await);
    from.import_only(&bundle(&[1], History::NeverSigned)).await.unwrap();
    let target = to.status().await.import_key.unwrap();
    std::fs::remove_file(&mark).unwrap();
    for _ in 0..200 {
        if !from.status().await.clock.unwrap().trusted {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let doubted = refused(503, "clock_unsynchronised");
    assert_eq!(code(order_backup(&from, WORDS, None).await), doubted);
    assert_eq!(code(order_move(&from, &target, None).await), doubted);
    assert_eq!(keys(&from).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_share_that_cannot_come_back_does_not_cost_the_others() {
    let (one, other) = (Machine::new(), Machine::new());
    let (first, second) = (one.start().await, other.start().await);
    first.import_only(&bundle(&[1], History::NeverSigned)).await.unwrap();
    second.import_only(&bundle(&[2], History::NeverSigned)).await.unwrap();
    let (certificate, release_key) = move_to(&first, &second).await;
    arrive(&second, &release_key, &certificate).await.unwrap();
    assert_eq!(keys(&second).await.len(), 2);
    // Back to the first box, which gave one of them away.
    let (certificate, release_key) = move_to(&second, &first).await;
    let taken = arrive(&first, &release_key, &certificate).await.unwrap();
    assert_eq!(taken.left_out, [pubshare(1).to_string()]);
    assert_eq!(keys(&first).await, [pubshare(2)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn identity_keys_beyond_any_number_of_clusters_are_not_kept_and_hold_no_move_up() {
    let (old, new) = (Machine::new(), Machine::new());
    let (from, to) = (old.start().await, new.start().await);
    from.import_only(&bundle(&[1], History::NeverSigned)).await.unwrap();
    let mut kept = 0;
    for number in 0..70_u8 {
        let key = ipc::Sensitive::new(hex::encode([number.max(1); 32]));
        let path = ipc::folder::identity_path(&hex::encode([number; 32]));
        let given = ipc::folder::IdentityGiven { identity_key: key, lock: None };
        let answer = from.sign.put::<serde_json::Value>(&path, &given).await;
        kept += usize::from(answer.is_ok());
    }
    assert_eq!(kept, ipc::moving::MAX_IDENTITIES);
    let (certificate, release_key) = move_to(&from, &to).await;
    assert_eq!(arrive(&to, &release_key, &certificate).await.unwrap().imported.len(), 1);
}
