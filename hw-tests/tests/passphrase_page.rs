//! An owner at the page of a board that has no TPM, in a real browser: chooses a passphrase, and types it after a start.

#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use std::path::{Path, PathBuf};

use hw_tests::browser::{self, Owner};
use hw_tests::member::Member;
use ipc::passphrase::PassphraseState;
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
