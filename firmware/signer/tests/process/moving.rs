//! Backups and moves between real signers, each with its own software TPM.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::folder::{Charon, hand_in};
use crate::harness::*;
use ipc::{
    ClientError, Sensitive,
    folder::{IdentityAnswer, identity_path},
    moving::*,
    passphrase::PassphraseOrder,
    signer::{History, ShareImported},
    web3signer::PUBLIC_KEYS_PATH,
};
use serde::Serialize;

pub(crate) const WORDS: &str = "a passphrase that nobody guesses";

pub(crate) async fn sealed(signer: &Running, purpose: &[u8], order: &impl Serialize) -> ipc::ShareImport {
    let key = signer.status().await.import_key.unwrap();
    ipc::envelope::seal_as_page(&key, purpose, &serde_json::to_vec(order).unwrap()).unwrap()
}

pub(crate) async fn order_backup(
    signer: &Running,
    words: &str,
    code: Option<String>,
) -> Result<BackupFile, ClientError> {
    let order = BackupOrder { passphrase: Sensitive::new(words.to_owned()), code };
    signer.control.post(BACKUPS_PATH, &sealed(signer, BACKUP_INFO, &order).await).await
}

/// A backup by somebody who reads the screen.
pub(crate) async fn back_up(signer: &Running) -> BackupFile {
    assert_eq!(code(order_backup(signer, WORDS, None).await), refused(422, "confirm_on_screen"));
    order_backup(signer, WORDS, Some(signer.code_on_screen())).await.unwrap()
}

pub(crate) async fn restore(signer: &Running, file: &str, words: &str) -> Result<ShareImported, ClientError> {
    let order = RestoreOrder {
        file: file.to_owned(),
        passphrase: Sensitive::new(words.to_owned()),
        old_box_gone: true,
    };
    signer.control.post(RESTORES_PATH, &sealed(signer, RESTORE_INFO, &order).await).await
}

pub(crate) async fn order_move(
    from: &Running,
    to: &str,
    code: Option<String>,
) -> Result<MoveCertificate, ClientError> {
    from.control.post(MOVES_PATH, &MoveOrder { to: to.to_owned(), code }).await
}

pub(crate) async fn arrive(
    to: &Running,
    from: &str,
    certificate: &MoveCertificate,
) -> Result<ShareImported, ClientError> {
    let arrival = Arrival { from: from.to_owned(), certificate: certificate.clone() };
    to.control.post(ARRIVALS_PATH, &arrival).await
}

pub(crate) async fn keys(signer: &Running) -> Vec<chain::PublicKeyBytes> {
    signer.sign.get(PUBLIC_KEYS_PATH).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_backup_signs_nothing_that_conflicts_with_what_the_old_box_signed() {
    let (old, new) = (Machine::new(), Machine::new());
    let first = old.start().await;
    let mut chain = clock_with(100); // Epochs of 0.8 s.
    chain.genesis_time -= 60;
    let charon = Charon::new(chain);
    hand_in(&first, &charon.folder(0)).await.unwrap();
    let share = charon.pubshare(0, 0);
    until_epoch(&chain, epoch_of(&chain) + 4).await;
    let at_backup = epoch_of(&chain);
    first.attest(&share, &vote(at_backup - 1, at_backup, 1)).await.unwrap();
    let backup = back_up(&first).await;
    assert_eq!(backup.shares, 3);
    for member in &charon.created.nodes[0].shares {
        assert!(!backup.file.contains(&hex::encode(member.key().expose_bytes().as_slice())));
    }
    assert!(!first.log_text().contains(WORDS) && !first.screen_text().contains(WORDS));

    // The old box goes on until the moment of the restore.
    let mut signed = vec![at_backup];
    while epoch_of(&chain) < at_backup + 3 || signed.len() < 3 {
        assert!(epoch_of(&chain) < at_backup + 100, "only {signed:?}: {}", first.log_text());
        let now = epoch_of(&chain);
        if signed.last() != Some(&now) && first.attest(&share, &vote(now - 1, now, 1)).await.is_ok() {
            signed.push(now);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(signed.len() > 2, "{signed:?}");
    let second = new.start().await;
    let taken = restore(&second, &backup.file, WORDS).await.unwrap();
    let restored_at = epoch_of(&chain);
    drop(first); // Power off for good.
    assert_eq!(taken.imported.len(), 3);
    assert_eq!(second.problem_codes().await, ["waiting_after_import"]);
    for target in signed.iter().copied().chain([restored_at, restored_at + 1]) {
        for head in [1, 2] {
            let outcome = second.attest(&share, &vote(target - 1, target, head)).await;
            assert_eq!(code(outcome).0, 412, "target {target}");
        }
    }
    // The identity key came along.
    let identity: IdentityAnswer = second.sign.get(&identity_path(&charon.lock_hash())).await.unwrap();
    assert_eq!(
        identity.identity_key.expose_secret(),
        charon.created.nodes[0].identity.to_file_text().as_str()
    );
    // A restart does not shorten the wait.
    second.stop();
    let second = new.start().await;
    until_epoch(&chain, restored_at + 4).await;
    let early = epoch_of(&chain);
    if early < restored_at + 6 {
        assert_eq!(code(second.attest(&share, &vote(early - 1, early, 2)).await).0, 412);
    } else {
        println!("the machine was too slow to see the wait after a restart");
    }
    until_epoch(&chain, restored_at + 8).await;
    let later = epoch_of(&chain);
    let signature = second.attest(&share, &vote(later - 1, later, 2)).await.unwrap();
    assert!(signs(&share, &vote(later - 1, later, 2), &signature));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_is_wrong_in_any_way_brings_nothing_in() {
    let (old, new) = (Machine::new(), Machine::new());
    let first = old.start().await;
    first.import_only(&bundle(&[1, 2], History::NeverSigned)).await.unwrap();
    // Nobody gets one who does not stand before the box.
    assert_eq!(code(order_backup(&first, "short", None).await), refused(422, "passphrase_short"));
    assert_eq!(code(order_backup(&first, WORDS, None).await), refused(422, "confirm_on_screen"));
    let wrong = Some("00000000".to_owned());
    assert_eq!(code(order_backup(&first, WORDS, wrong).await), refused(422, "screen_code_wrong"));
    let file = order_backup(&first, WORDS, Some(first.code_on_screen())).await.unwrap().file;
    let again = Some(first.code_on_screen());
    assert_eq!(
        code(order_backup(&first, WORDS, again).await),
        refused(422, "confirm_on_screen"),
        "once only"
    );
    // Nor is it for a backup that somebody else can open.
    let foreign = order_backup(&first, "words of somebody else's choice", Some(first.code_on_screen())).await;
    let foreign = code(foreign);
    assert!(["screen_code_too_soon", "confirm_on_screen"].contains(&foreign.1.as_str()), "{foreign:?}");

    let second = new.start().await;
    assert_eq!(
        code(restore(&second, &file, "another passphrase here").await),
        refused(422, "passphrase_wrong")
    );
    for cut in [0, 1, file.len() / 2, file.len() - 1] {
        assert_eq!(code(restore(&second, &file[..cut], WORDS).await), refused(422, "file_invalid"), "{cut}");
    }
    let envelope: BackupEnvelope = serde_json::from_str(&file).unwrap();
    type Spoil = fn(&mut BackupEnvelope);
    let spoils: [(Spoil, &str); 8] = [
        (|e| e.ciphertext.replace_range(20..22, "zz"), "file_invalid"),
        (|e| e.ciphertext.truncate(e.ciphertext.len() - 2), "passphrase_wrong"),
        (|e| flip(&mut e.ciphertext), "passphrase_wrong"),
        (|e| flip(&mut e.salt), "passphrase_wrong"),
        (|e| flip(&mut e.nonce), "passphrase_wrong"),
        (|e| e.passes += 1, "passphrase_wrong"),
        (|e| e.memory_kib = 1 << 30, "file_invalid"),
        (|e| e.hearth_backup = 2, "file_invalid"),
    ];
    for (spoil, expected) in spoils {
        let mut spoilt = envelope.clone();
        spoil(&mut spoilt);
        let text = serde_json::to_string(&spoilt).unwrap();
        assert_eq!(code(restore(&second, &text, WORDS).await), refused(422, expected));
    }
    let order = RestoreOrder {
        file: file.clone(),
        passphrase: Sensitive::new(WORDS.to_owned()),
        old_box_gone: false,
    };
    let order = sealed(&second, RESTORE_INFO, &order).await;
    let running = second.control.post::<ShareImported>(RESTORES_PATH, &order).await;
    assert_eq!(code(running), refused(422, "old_box_running"));
    // Made an hour from now: it may be this box's clock that is wrong, and by it the shares would begin too early.
    let share = CarriedShare {
        pubshare: pubshare(1).to_string(),
        group_key: pubshare(129).to_string(),
        share_index: 2,
        genesis_validators_root: GENESIS_ROOT.to_string(),
        chain: clock(),
        marks: Watermarks::default(),
        stopped_at_ms: None,
    };
    let in_an_hour = SystemTime::now() + Duration::from_secs(3600);
    let secret = Sensitive::new(hex::encode(secret(1).expose_bytes().as_slice()));
    let content = BackupContent {
        made_at_ms: u64::try_from(in_an_hour.duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap(),
        shares: vec![share],
        secrets: CarriedSecrets { shares: vec![secret], identities: Vec::new() },
    };
    let future = ::signer::outside::make_backup(&content, WORDS).unwrap();
    assert_eq!(code(restore(&second, &future, WORDS).await), refused(422, "file_from_the_future"));
    assert_eq!(second.status().await.shares, []);
    assert_eq!(restore(&second, &file, WORDS).await.unwrap().imported.len(), 2);
}

fn flip(text: &mut String) {
    let old = text.remove(7);
    text.insert(7, if old == '0' { '1' } else { '0' });
}

#[tokio::test(flavor = "multi_thread")]
async fn shares_move_to_another_box_and_are_gone_from_the_old_one() {
    let (old, new, third) = (Machine::new(), Machine::new(), Machine::new());
    let (from, to, other) = (old.start().await, new.start().await, third.start().await);
    let mut chain = clock_with(100);
    chain.genesis_time -= 60;
    let charon = Charon::new(chain);
    hand_in(&from, &charon.folder(0)).await.unwrap();
    let backup = back_up(&from).await;
    let share = charon.pubshare(0, 1);
    until_epoch(&chain, epoch_of(&chain) + 4).await;
    let last = epoch_of(&chain);
    from.attest(&share, &vote(last - 1, last, 1)).await.unwrap();
    let (release_key, own_key) = {
        let status = from.status().await;
        (status.release_key.unwrap(), status.import_key.unwrap())
    };
    let target = to.status().await.import_key.unwrap();
    assert_eq!(code(order_move(&from, &own_key, None).await), refused(422, "move_to_itself"));
    assert_eq!(code(order_move(&from, "zz", None).await), refused(422, "key_invalid"));
    assert_eq!(code(order_move(&from, &target, None).await), refused(422, "confirm_on_screen"));
    let seen = ipc::envelope::fingerprint(&hex::decode(&target).unwrap());
    let on_screen = from.code_on_screen();
    assert!(from.screen_text().contains(&seen), "the screen says where to");
    // A page in foreign hands cannot use the owner's code for another box.
    let hijacked =
        order_move(&from, &other.status().await.import_key.unwrap(), Some(on_screen.clone())).await;
    assert_eq!(code(hijacked), refused(422, "screen_code_too_soon"));
    let certificate = order_move(&from, &target, Some(on_screen)).await.unwrap();

    assert_eq!(keys(&from).await, []);
    assert_eq!(from.status().await.shares, []);
    let gone = from.attest(&share, &vote(last, last + 1, 1)).await;
    assert_eq!(code(gone), refused(404, "unknown_key"));
    for member in &charon.created.nodes[0].shares {
        let secret = member.key().expose_bytes();
        assert!(!serde_json::to_string(&certificate).unwrap().contains(&hex::encode(secret.as_slice())));
        for (path, content) in old.disk() {
            assert!(!content.windows(32).any(|window| window == secret.as_slice()), "{}", path.display());
        }
    }
    // It never comes back here: not from the folder, not from the backup, not with the certificate, not after a restart.
    let answered = from.control.get::<Moves>(MOVES_PATH).await.unwrap();
    assert_eq!(answered.moves, std::slice::from_ref(&certificate));
    from.stop();
    let from = old.start().await;
    assert_eq!(from.problem_codes().await, [""; 0]);
    assert_eq!(code(hand_in(&from, &charon.folder(0)).await), refused(422, "share_retired"));
    assert_eq!(code(restore(&from, &backup.file, WORDS).await), refused(422, "share_retired"));
    assert_eq!(
        code(arrive(&from, &release_key, &certificate).await),
        refused(422, "certificate_for_another_box")
    );
    let kept = from.control.get::<Moves>(MOVES_PATH).await.unwrap().moves;
    assert_eq!(kept, std::slice::from_ref(&certificate));

    // Only the right box, only the whole certificate, only from the box that the owner names.
    assert_eq!(
        code(arrive(&other, &release_key, &certificate).await),
        refused(422, "certificate_for_another_box")
    );
    assert_eq!(
        code(arrive(&to, &"02".repeat(33), &certificate).await),
        refused(422, "certificate_of_another_box")
    );
    type Spoil = fn(&mut MoveCertificate);
    let spoils: [Spoil; 4] = [
        |c| c.body = c.body.replace("\"share_index\":1", "\"share_index\":2"),
        |c| flip(&mut c.enc),
        |c| flip(&mut c.ciphertext),
        |c| flip(&mut c.signature),
    ];
    for spoil in spoils {
        let mut spoilt = certificate.clone();
        spoil(&mut spoilt);
        assert_eq!(code(arrive(&to, &release_key, &spoilt).await), refused(422, "certificate_invalid"));
    }
    assert_eq!(to.status().await.shares, []);
    let before = epoch_of(&chain);
    let taken = arrive(&to, &release_key, &certificate).await.unwrap();
    let arrived = epoch_of(&chain);
    assert_eq!(taken.imported.len(), 3);
    for target in [last, arrived, arrived + 1] {
        assert_eq!(code(to.attest(&share, &vote(target - 1, target, 2)).await).0, 412, "target {target}");
    }
    until_epoch(&chain, before + 2).await;
    let by_the_other_clock = to.attest(&share, &vote(before + 1, before + 2, 2)).await;
    assert_eq!(code(by_the_other_clock), refused(412, "slashable"));
    until_epoch(&chain, arrived + 4).await;
    let now = epoch_of(&chain);
    to.attest(&share, &vote(now - 1, now, 2)).await.unwrap();
    let identity: IdentityAnswer = to.sign.get(&identity_path(&charon.lock_hash())).await.unwrap();
    assert_eq!(
        identity.identity_key.expose_secret(),
        charon.created.nodes[0].identity.to_file_text().as_str()
    );
    // Handed in again, it changes nothing.
    assert_eq!(arrive(&to, &release_key, &certificate).await.unwrap().imported, []);
}

/// A copy of the disk as it was before a move is where the counter is until the counter has stepped for that move.
#[tokio::test(flavor = "multi_thread")]
async fn the_counter_steps_anew_for_the_certificates_after_each_move() {
    let (old, new) = (Machine::new(), Machine::new());
    let to = new.start().await;
    let counter = || -> i64 {
        let database = rusqlite::Connection::open(old.state().join("ledger.db")).unwrap();
        database.query_row("SELECT value FROM meta WHERE name = 'counter'", [], |row| row.get(0)).unwrap()
    };
    old.start().await.stop();
    let before = counter();
    let from = old.start().await; // The first step,
    for (number, certificates) in [(1, 1), (2, 2)] {
        from.import_only(&bundle(&[number], History::NeverSigned)).await.unwrap(); // one for the import,
        crate::carried::move_to(&from, &to).await; // one for the move,
        for _ in 0..2 {
            // and one for all that are given out then.
            let given: Moves = from.control.get(MOVES_PATH).await.unwrap();
            assert_eq!((given.moves.len(), given.next), (certificates, None));
        }
    }
    from.stop();
    assert_eq!(counter() - before, 1 + 3 + 3);
}

/// A certificate may be on its way for days, and exists nowhere else.
#[tokio::test(flavor = "multi_thread")]
async fn what_moves_to_a_board_without_a_tpm_opens_there_after_its_restarts_too() {
    let (old, new) = (Machine::new(), Machine::without_tpm());
    let (from, to) = (old.start().await, new.start().await);
    from.import_only(&bundle(&[1], History::NeverSigned)).await.unwrap();
    let words = "copper lantern violet marsh tune";
    let secret = || ipc::Sensitive::new(words.to_owned());
    to.passphrase(&PassphraseOrder::First { passphrase: secret() }).await.unwrap();
    let status = to.status().await;
    let target = status.arrival_key.unwrap();
    assert_ne!(Some(&target), status.import_key.as_ref(), "what the page seals is for this start only");
    let shown = ipc::envelope::fingerprint(&hex::decode(&target).unwrap());
    assert!(to.screen_text().contains(&shown), "{}", to.screen_text());
    assert_eq!(code(order_move(&from, &target, None).await), refused(422, "confirm_on_screen"));
    let certificate = order_move(&from, &target, Some(from.code_on_screen())).await.unwrap();
    let release_key = from.status().await.release_key.unwrap();
    to.stop();
    let to = new.start().await;
    assert_eq!(code(arrive(&to, &release_key, &certificate).await), refused(503, "passphrase_needed"));
    to.passphrase(&PassphraseOrder::Open { passphrase: secret() }).await.unwrap();
    assert_eq!(to.status().await.arrival_key.unwrap(), target);
    assert_eq!(arrive(&to, &release_key, &certificate).await.unwrap().imported.len(), 1);
    // What the keymanager API deletes there may be on a copy of the disk, and its answer says so.
    let token = crate::keymanager::token(&to).await;
    let body = serde_json::json!({ "pubkeys": [pubshare(1).to_string()] }).to_string();
    let (_, answer) =
        crate::keymanager::ask(&new, Some(&token), "DELETE", crate::keymanager::KEYSTORES, &body).await;
    assert_eq!(answer["data"][0]["status"], "deleted");
    assert!(answer["data"][0]["message"].as_str().unwrap().contains("an older copy of its disk"), "{answer}");
    // With a TPM it is one key.
    let status = from.status().await;
    assert_eq!(status.arrival_key, status.import_key);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_killed_at_any_moment_leaves_one_box_that_signs_at_most() {
    let new = Machine::new();
    let to = new.start().await;
    let target = to.status().await.import_key.unwrap();
    let mut moved = 0;
    for round in 0..10_u8 {
        let old = Machine::new();
        let from = old.start().await;
        let numbers = [10 + 2 * round, 11 + 2 * round];
        from.import_only(&bundle(&numbers, History::NeverSigned)).await.unwrap();
        let release_key = from.status().await.release_key.unwrap();
        assert_eq!(code(order_move(&from, &target, None).await), refused(422, "confirm_on_screen"));
        let order = order_move(&from, &target, Some(from.code_on_screen()));
        // From nearly at once to long after the end, which the last one reaches.
        let after = if round < 9 { Duration::from_millis(1 << round) } else { Duration::from_secs(60) };
        let cut = tokio::time::timeout(after, order).await;
        assert!(round < 9 || matches!(cut, Ok(Ok(_))), "{cut:?}");
        drop(from); // kill -9
        old.forget_the_power_cut();
        let from = old.start().await;
        assert_eq!(from.problem_codes().await, [""; 0], "round {round}");
        let held = keys(&from).await.len();
        let certificates = from.control.get::<Moves>(MOVES_PATH).await.unwrap().moves;
        // Either the shares or the certificate, never both and never neither.
        assert!(
            (held == 2 && certificates.is_empty()) || (held == 0 && certificates.len() == 1),
            "round {round}: {held} shares and {} certificates",
            certificates.len()
        );
        if let Ok(Ok(certificate)) = cut {
            assert_eq!(certificates, [certificate], "an answer means that they are gone");
        }
        if let Some(certificate) = certificates.first() {
            moved += 1;
            assert_eq!(arrive(&to, &release_key, certificate).await.unwrap().imported.len(), 2);
        }
        from.stop();
    }
    println!("{moved} of 10 moves had happened, nine of which were interrupted");
    assert!(moved >= 1);
    assert_eq!(keys(&to).await.len(), 2 * moved);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_of_the_disk_from_before_a_move_signs_no_more() {
    let (old, new) = (Machine::new(), Machine::new());
    let to = new.start().await;
    let target = to.status().await.import_key.unwrap();
    let from = old.start().await;
    from.import_only(&bundle(&[1], History::NeverSigned)).await.unwrap();
    // Made within the run that moves, so that nothing but the move's own step of the counter is between it and the end.
    let before = old.dir.path().join("before");
    copy(&old.state(), &before);
    let release_key = from.status().await.release_key.unwrap();
    assert_eq!(code(order_move(&from, &target, None).await), refused(422, "confirm_on_screen"));
    let certificate = order_move(&from, &target, Some(from.code_on_screen())).await.unwrap();
    from.stop();
    std::fs::remove_dir_all(old.state()).unwrap();
    copy(&before, &old.state());
    let from = old.start().await;
    assert_eq!(from.problem_codes().await, ["ledger_rolled_back"]);
    assert_eq!(keys(&from).await, []);
    assert_eq!(arrive(&to, &release_key, &certificate).await.unwrap().imported.len(), 1);
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
}
