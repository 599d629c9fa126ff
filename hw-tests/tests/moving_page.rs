//! An owner at two boxes' pages, in a real browser: brings a Charon node in, backs it up, and moves to the other box.

#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use chain::ExecutionAddress;
use cluster::Network;
use cluster::create::{self, Addresses, CreateOptions};
use cluster::keystore::KdfCost;
use cluster::ssv::{KeyShares, OperatorKey, OperatorPublicKey, ValidatorShares};
use hw_tests::browser::{self, Owner};
use hw_tests::member::Member;

fn binaries() -> PathBuf {
    // This test is target/<profile>/deps/moving_page-…, the daemons are beside the folder of it.
    let test = std::env::current_exe().unwrap();
    test.parent().and_then(Path::parent).unwrap().to_owned()
}

/// The `.charon` folder of a cluster's first member.
fn charon_folder(dir: &Path) -> PathBuf {
    let addresses =
        Addresses { fee_recipient: ExecutionAddress([1; 20]), withdrawal: ExecutionAddress([2; 20]) };
    let options = CreateOptions::new("moves house", 4, 2, Network::by_name("hoodi").unwrap(), addresses);
    let created = create::cluster(&options, &mut rand::rng()).unwrap();
    let folder = dir.join(".charon");
    for file in created.node_files(0, KdfCost::Insecure, &mut rand::rng()).unwrap() {
        let path = folder.join(&file.path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, file.content.as_slice()).unwrap();
    }
    folder
}

/// The claim code that the box's owner reads on its screen.
fn claim_code(member: &Member) -> String {
    std::fs::read_to_string(member.dir().join("web/claim-code")).unwrap().trim().to_owned()
}

fn shares(member: &Member) -> usize {
    member.page().unwrap().status().unwrap().signer.unwrap().shares.len()
}

/// Where pictures are kept when somebody wants to look at them.
fn picture(owner: &Owner, card: &str, name: &str) {
    if let Ok(dir) = std::env::var("HEARTH_PICTURES") {
        let card = format!("section[aria-labelledby={card}]");
        owner.picture(&card, &Path::new(&dir).join(name)).unwrap();
    }
}

#[test]
fn an_owner_brings_a_charon_node_in_backs_it_up_and_moves_to_another_box_by_the_page() {
    if !browser::is_here() {
        println!("SKIPPED: no Chromium with its driver on this machine");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let start = |name: &str| Member::start_as_released(name, &dir.path().join(name), &binaries()).unwrap();
    let (old, new) = (start("old"), start("new"));
    let folder = charon_folder(dir.path());
    let owner = Owner::new((1280, 1400)).unwrap();

    owner.open(old.page_address()).unwrap();
    let key = old.page().unwrap().import_key().unwrap();
    owner.reads("own-key", &key).unwrap();
    let fingerprint = ipc::envelope::fingerprint(&hex::decode(&key).unwrap());
    assert!(old.screen().unwrap().contains(&fingerprint), "the screen shows what the page shows");
    picture(&owner, "h-folder", "folder.png");
    picture(&owner, "h-moving", "moving.png");

    // Without the owner's word nothing comes in; with it, all of it does, and the box is in the cluster.
    owner.fill("folder-files", &folder.display().to_string()).unwrap();
    owner.fill("folder-beacons", "http://127.0.0.1:9").unwrap();
    owner.fill("folder-code", &claim_code(&old)).unwrap();
    owner.click("#folder-form button[type=submit]").unwrap();
    owner.reads("folder-said", "Stop the old node").unwrap();
    assert_eq!(shares(&old), 0);
    owner.click("#folder-stopped").unwrap();
    owner.click("#folder-form button[type=submit]").unwrap();
    // The shares are in. No beacon node answers here, so the box joins when the same is sent again.
    owner.reads("folder-said", "No beacon node answers").unwrap();
    assert_eq!(shares(&old), 2);

    // A backup needs the code from the box's screen.
    let seen = old.screen().unwrap().len();
    for field in ["backup-words", "backup-again"] {
        owner.fill(field, "five words that nobody guesses").unwrap();
    }
    owner.fill("backup-code", &claim_code(&old)).unwrap();
    owner.click("#backup-form button[type=submit]").unwrap();
    owner.reads("moving-said", "its screen shows a code now").unwrap();
    picture(&owner, "h-moving", "confirm.png");
    owner.fill("backup-screen", &old.code_on_screen(seen).unwrap()).unwrap();
    owner.click("#backup-form button[type=submit]").unwrap();
    owner.reads("moving-said", "A backup of 2 key shares was made").unwrap();

    // The move: the other box's key, compared on both screens, and a code.
    std::thread::sleep(Duration::from_secs(6)); // Between two codes.
    let seen = old.screen().unwrap().len();
    let target = new.page().unwrap().import_key().unwrap();
    let fingerprint = ipc::envelope::fingerprint(&hex::decode(&target).unwrap());
    assert!(new.screen().unwrap().contains(&fingerprint));
    owner.fill("move-to", &target).unwrap();
    owner.reads("move-seen", &fingerprint).unwrap();
    owner.fill("move-code", &claim_code(&old)).unwrap();
    owner.click("#move-form button[type=submit]").unwrap();
    owner.reads("moving-said", "its screen shows a code now").unwrap();
    assert!(old.screen().unwrap()[seen..].contains(&fingerprint), "the screen says where to");
    owner.fill("move-screen", &old.code_on_screen(seen).unwrap()).unwrap();
    owner.click("#move-form button[type=submit]").unwrap();
    owner.reads("moving-said", "The shares are gone from this box").unwrap();
    assert_eq!(shares(&old), 0);

    // The certificate is a file; here it is read where the page reads it again after a crash.
    let release_key = old.page().unwrap().status().unwrap().signer.unwrap().release_key.unwrap();
    let moves = old.page().unwrap().moves().unwrap();
    assert_eq!(moves.moves.len(), 1);
    let certificate = dir.path().join("certificate.json");
    std::fs::write(&certificate, serde_json::to_vec(&moves.moves[0]).unwrap()).unwrap();
    owner.open(new.page_address()).unwrap();
    owner.fill("arrive-file", &certificate.display().to_string()).unwrap();
    owner.fill("arrive-from", &release_key).unwrap();
    owner.fill("arrive-code", &claim_code(&new)).unwrap();
    owner.click("#arrive-form button[type=submit]").unwrap();
    owner.reads("moving-said", "2 key shares have come in").unwrap();
    assert_eq!(shares(&new), 2);
}

#[test]
fn an_owner_brings_an_ssv_operator_in_by_the_page() {
    if !browser::is_here() {
        println!("SKIPPED: no Chromium with its driver on this machine");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let member = Member::start_as_released("ssv", &dir.path().join("ssv"), &binaries()).unwrap();
    let rng = &mut rand::rng();
    let key = OperatorKey::generate(rng);
    let stranger = |first: u8| {
        let mut modulus = [0x5b; 256];
        modulus[0] = first;
        OperatorPublicKey::from_modulus(&modulus).unwrap()
    };
    let operators =
        [(12, stranger(0x81)), (345, key.public_key()), (346, stranger(0x82)), (70_000, stranger(0x83))];
    let secret = threshold::SecretKey::random(rng);
    let shares = ValidatorShares::split(secret, &operators, ExecutionAddress([1; 20]), 3, rng).unwrap();
    let (key_file, shares_file) =
        (dir.path().join("encrypted_private_key.json"), dir.path().join("keyshares.json"));
    std::fs::write(&key_file, key.to_encrypted("a password", KdfCost::Insecure, rng)).unwrap();
    std::fs::write(&shares_file, KeyShares::write(std::slice::from_ref(&shares), "2026-01-01T00:00:00Z"))
        .unwrap();

    let owner = Owner::new((1280, 1400)).unwrap();
    owner.open(member.page_address()).unwrap();
    owner.reads("own-key", &member.page().unwrap().import_key().unwrap()).unwrap();
    owner.fill("ssv-key", &key_file.display().to_string()).unwrap();
    owner.fill("ssv-password", "a password").unwrap();
    owner.fill("ssv-shares", &shares_file.display().to_string()).unwrap();
    owner.fill("ssv-code", &claim_code(&member)).unwrap();
    owner.click("#ssv-network option[value=hoodi]").unwrap();
    picture(&owner, "h-ssv", "ssv.png");
    owner.click("#ssv-form button[value=seal]").unwrap();
    owner.reads("ssv-said", "Stop the old SSV node").unwrap();
    assert_eq!(self::shares(&member), 0);
    owner.click("#ssv-stopped").unwrap();
    owner.click("#ssv-form button[value=seal]").unwrap();
    owner.reads("ssv-said", "1 new key shares, 0 already here. They rest").unwrap();
    assert_eq!(self::shares(&member), 1);
}
