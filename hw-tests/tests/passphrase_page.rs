//! An owner at the page, in a real browser: of a board that has no TPM, with a passphrase that is typed after each start; of one that has one,
//! with the recovery key of its disk.

#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use std::path::{Path, PathBuf};

use hw_tests::browser::{self, Owner};
use hw_tests::member::Member;
use hw_tests::process::Launch;
use ipc::passphrase::PassphraseState;
use ipc::recovery::RecoveryState;
use ipc::signer::ProtectionTier;

const WORDS: &str = "copper lantern violet marsh tune";
const OTHER_WORDS: &str = "velvet orchard glacier bishop quilt";

fn binaries() -> PathBuf {
    // This test is target/<profile>/deps/passphrase_page-…, the daemons are beside the folder of it.
    let test = std::env::current_exe().unwrap();
    test.parent().and_then(Path::parent).unwrap().to_owned()
}

fn claim_code(member: &Member) -> String {
    std::fs::read_to_string(member.dir().join("web/claim-code")).unwrap().trim().to_owned()
}

fn state(member: &Member) -> PassphraseState {
    let signer = member.page().unwrap().status().unwrap().signer.unwrap();
    assert_eq!(signer.protection.tier, ProtectionTier::Passphrase);
    signer.passphrase.unwrap().state
}

fn fingerprint(member: &Member) -> String {
    let signer = member.page().unwrap().status().unwrap().signer.unwrap();
    ipc::envelope::fingerprint(&hex::decode(signer.passphrase.unwrap().key).unwrap())
}

fn type_in(owner: &Owner, member: &Member, form: &str, fields: &[(&str, &str)], said: &str) {
    for (field, text) in fields {
        owner.fill(field, text).unwrap();
    }
    owner.fill(&format!("{form}-code"), &claim_code(member)).unwrap();
    owner.click(&format!("#{form} button[type=submit]")).unwrap();
    owner.reads("passphrase-said", said).unwrap();
}

#[test]
fn an_owner_chooses_types_and_changes_the_passphrase_of_a_board_without_a_tpm_on_its_page() {
    if !browser::is_here() {
        println!("SKIPPED: no Chromium with its driver on this machine");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut member = Member::start_without_tpm("bare", &dir.path().join("bare"), &binaries()).unwrap();
    let owner = Owner::new((1280, 1400)).unwrap();
    owner.open(member.page_address()).unwrap();
    assert_eq!(state(&member), PassphraseState::Unset);
    let shown = fingerprint(&member);
    owner.reads("passphrase-key", &shown).unwrap();
    owner.reads("passphrase-tier", "A lower tier").unwrap();
    let screen = std::fs::read_to_string(member.dir().join("signer.log")).unwrap();
    assert!(screen.contains(&shown), "the screen shows what the page shows");

    let again = |words| [("passphrase-new", words), ("passphrase-again", words)];
    let first = "passphrase-first";
    type_in(&owner, &member, first, &again("passwordpasswordpassword"), "too easy to guess");
    type_in(&owner, &member, first, &again(WORDS), "Kept.");
    assert_eq!(state(&member), PassphraseState::Open);
    let change =
        [("passphrase-old", WORDS), ("passphrase-next", OTHER_WORDS), ("passphrase-next-again", OTHER_WORDS)];
    owner.reads("passphrase-state", "was typed").unwrap();
    type_in(&owner, &member, "passphrase-change", &change, "Changed.");

    // Somebody else answers by the time the words are sent: they are not sealed to a key that nobody compared.
    owner.fill("passphrase-old", OTHER_WORDS).unwrap();
    member.power_cut().unwrap();
    member.power_on().unwrap();
    owner.reads("passphrase-key", &fingerprint(&member)).unwrap();
    for (field, text) in &change[1..] {
        owner.fill(field, text).unwrap();
    }
    owner.fill("passphrase-change-code", &claim_code(&member)).unwrap();
    owner.click("#passphrase-change button[type=submit]").unwrap();
    owner.reads("passphrase-said", "The key has changed since you began to type").unwrap();

    member.power_cut().unwrap();
    member.power_on().unwrap();
    owner.open(member.page_address()).unwrap();
    assert_eq!(state(&member), PassphraseState::Locked);
    assert_ne!(fingerprint(&member), shown, "a key of this start");
    owner.reads("passphrase-key", &fingerprint(&member)).unwrap();
    let open = "passphrase-open";
    type_in(&owner, &member, open, &[("passphrase-words", WORDS)], "The passphrase is another one");
    assert_eq!(state(&member), PassphraseState::Locked);
    type_in(&owner, &member, open, &[("passphrase-words", OTHER_WORDS)], "Right.");
    assert_eq!(state(&member), PassphraseState::Open);
}

/// As systemd-cryptenroll says one.
const RECOVERY_KEY: &str = "cbdefghi-jklnrtuv-vutrnlkj-ihgfedbc-cccccccc-bbbbbbbb-dddddddd-cbdefghv";

#[test]
fn an_owner_writes_the_recovery_key_down_and_sees_it_no_more() {
    if !browser::is_here() {
        println!("SKIPPED: no Chromium with its driver on this machine");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let member = Member::start("box", &dir.path().join("box"), &binaries()).unwrap();
    let kept = dir.path().join("kept");
    std::fs::create_dir(&kept).unwrap();
    std::fs::write(kept.join("key"), RECOVERY_KEY).unwrap();
    std::fs::write(kept.join("this-start"), "0f0f").unwrap();
    let config = dir.path().join("recovery.toml");
    let text = format!(
        "state_dir = \"{}\"\n[signer]\nstate_dir = \"/none\"\ntcti = \"none\"\ncounter_index = 0\n\
         [callers]\ncontrol = [\"self\"]\n[listen]\ncontrol = \"{}\"\n",
        kept.display(),
        member.recovery_socket().display()
    );
    std::fs::write(&config, text).unwrap();
    let log = dir.path().join("recovery.log");
    let _keeper = Launch::new("recovery", binaries().join("recovery"), &log)
        .arg("--start")
        .arg("0f0f")
        .arg("--config")
        .arg(&config)
        .start()
        .unwrap();

    let owner = Owner::new((1280, 1400)).unwrap();
    owner.open(member.page_address()).unwrap();
    // A box that is being set up opens the card by itself; without the claim code it says nothing of this box.
    owner.reads("recovery-more", "Write it down now").unwrap();
    let look = |code: &str| {
        owner.fill("recovery-code", code).unwrap();
        owner.click("#recovery-ask button").unwrap();
    };
    look("AAAA-AAAA-AAAA");
    owner.reads("recovery-said", "not this box's claim code").unwrap();
    look(&claim_code(&member));
    owner.reads("recovery-said", "Nobody was shown it before.").unwrap();
    for group in RECOVERY_KEY.split('-') {
        owner.reads("recovery-key", group).unwrap();
    }
    look(&claim_code(&member));
    owner.reads("recovery-said", "it was shown before: 1 times").unwrap();
    // The page asks for one group, which the owner reads from the paper.
    let asked: usize = owner.reads("recovery-which", "").unwrap().trim().parse().unwrap();
    owner.fill("recovery-letters", "cccccccd").unwrap();
    owner.click("#recovery-noted button").unwrap();
    owner.reads("recovery-said", "not the letters of that group").unwrap();
    assert!(kept.join("key").exists());
    owner.fill("recovery-letters", RECOVERY_KEY.split('-').nth(asked - 1).unwrap()).unwrap();
    owner.click("#recovery-noted button").unwrap();
    owner.reads("recovery-said", "Written down on").unwrap();
    assert!(!kept.join("key").exists() && kept.join("noted").exists());
    // Later it is told, and nothing shown.
    owner.open(member.page_address()).unwrap();
    owner.reads("recovery-more", "Write it down now").unwrap();
    look(&claim_code(&member));
    owner.reads("recovery-said", "Written down on").unwrap();
    assert_eq!(member.page().unwrap().recovery_status().unwrap().state, RecoveryState::Noted);
    assert!(member.page().unwrap().recovery_key().is_err());
    for log in [&log, &member.dir().join("web.log")] {
        let said = String::from_utf8_lossy(&std::fs::read(log).unwrap()).into_owned();
        assert!(RECOVERY_KEY.split('-').all(|group| !said.contains(group)), "{said}");
    }
}
