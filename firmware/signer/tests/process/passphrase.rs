//! A board that has no TPM: what its passphrase opens and keeps shut, and what happens to it with old copies of its disk.

use crate::harness::*;
use ipc::{
    ClientError, Sensitive,
    passphrase::{PASSPHRASE_PATH, PassphraseOrder, PassphraseState, PassphraseStatus},
    signer::{ChainClock, History, ProtectionTier},
};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use tpm::swtpm::Swtpm;

const WORDS: &str = "copper lantern violet marsh tune";
const OTHER_WORDS: &str = "velvet orchard glacier bishop quilt";

fn open(words: &str) -> PassphraseOrder {
    PassphraseOrder::Open { passphrase: Sensitive::new(words.to_owned()) }
}

fn first(words: &str) -> PassphraseOrder {
    PassphraseOrder::First { passphrase: Sensitive::new(words.to_owned()) }
}

fn change(words: &str, new: &str) -> PassphraseOrder {
    let secret = |words: &str| Sensitive::new(words.to_owned());
    PassphraseOrder::Change { passphrase: secret(words), new: secret(new) }
}

fn state(outcome: Result<PassphraseStatus, ClientError>) -> PassphraseState {
    outcome.unwrap().state
}

async fn start_and_open(machine: &Machine, words: &str) -> Running {
    let signer = machine.start().await;
    assert_eq!(state(signer.passphrase(&open(words)).await), PassphraseState::Open);
    signer
}

/// A board without a TPM that holds the share 1 of a chain with such slots.
async fn board_with_a_share(slot_ms: u64) -> (Machine, ChainClock) {
    let machine = Machine::without_tpm();
    let signer = machine.start().await;
    assert_eq!(state(signer.passphrase(&first(WORDS)).await), PassphraseState::Open);
    let mut bundle = bundle(&[1], History::NeverSigned);
    bundle.chain = clock_with(slot_ms);
    signer.import_only(&bundle).await.unwrap();
    signer.stop();
    (machine, bundle.chain)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_board_without_a_tpm_waits_for_the_passphrase_after_each_start_and_shows_its_lower_tier() {
    let machine = Machine::without_tpm();
    let signer = machine.start().await;
    assert_eq!(signer.problem_codes().await, ["passphrase_unset"]);
    let status = signer.status().await;
    assert_eq!((status.protection.tier, status.import_key), (ProtectionTier::Passphrase, None));
    assert!(status.protection.explanation.starts_with("A lower tier"), "{:?}", status.protection);
    assert_eq!(status.passphrase.as_ref().unwrap().state, PassphraseState::Unset);
    let key = hex::decode(&status.passphrase.unwrap().key).unwrap();
    assert!(signer.screen_text().contains(&ipc::envelope::fingerprint(&key)), "{}", signer.screen_text());
    for weak in ["", "short", "passwordpasswordpassword", "12345678901234567890"] {
        assert_eq!(code(signer.passphrase(&first(weak)).await), refused(422, "passphrase_weak"), "{weak}");
    }
    assert_eq!(code(signer.passphrase(&open(WORDS)).await), refused(503, "passphrase_unset"));
    assert_eq!(state(signer.passphrase(&first(WORDS)).await), PassphraseState::Open);
    assert_eq!(code(signer.passphrase(&first(OTHER_WORDS)).await), refused(422, "passphrase_set"));
    let bundle = bundle(&[1], History::NeverSigned);
    signer.import(&bundle).await.unwrap();
    // Above the clock by an epoch more than where a TPM is a witness: another copy may have run by another clock.
    let early = code(signer.attest(&pubshare(1), &vote(1, 2, 1)).await);
    assert_eq!(early, refused(412, "slashable"));
    signer.attest(&pubshare(1), &vote(2, 3, 1)).await.unwrap();
    signer.stop();

    let signer = machine.start().await;
    assert_eq!(signer.problem_codes().await, ["passphrase_needed"]);
    let status = signer.status().await;
    assert_eq!((status.protection.tier, status.import_key), (ProtectionTier::Passphrase, None));
    assert_eq!(status.passphrase.unwrap().state, PassphraseState::Locked);
    assert_eq!(status.shares.len(), 1, "what is held is known, and nothing of it is open");
    let outcome = signer.attest(&pubshare(1), &vote(2, 3, 1)).await;
    assert_eq!(code(outcome), refused(503, "passphrase_needed"));
    assert_eq!(code(signer.passphrase(&open(OTHER_WORDS)).await), refused(422, "passphrase_wrong"));
    assert_eq!(signer.problem_codes().await, ["passphrase_needed"]);
    assert_eq!(state(signer.passphrase(&open(WORDS)).await), PassphraseState::Open);
    assert_eq!(state(signer.passphrase(&open(WORDS)).await), PassphraseState::Open, "sent twice");
    let now = epoch_of(&bundle.chain);
    until_epoch(&bundle.chain, now + 5).await;
    assert_eq!(signer.problem_codes().await, [""; 0]);
    assert_eq!(signer.status().await.protection.tier, ProtectionTier::Passphrase);
    signer.attest(&pubshare(1), &vote(now + 3, now + 4, 1)).await.unwrap();
    // While it is open, too, only the right words are right.
    assert_eq!(code(signer.passphrase(&open(OTHER_WORDS)).await), refused(422, "passphrase_wrong"));
    assert_eq!(signer.problem_codes().await, [""; 0]);
    // What it promises cannot be kept here.
    let order = ipc::moving::MoveOrder { to: "09".repeat(32), code: None };
    let outcome = signer.control.post::<serde_json::Value>(ipc::moving::MOVES_PATH, &order).await;
    assert_eq!(code(outcome), refused(422, "move_needs_tpm"));
    // What was sealed for it before a start does not open afterwards: the ledger may be an old one.
    let key = signer.status().await.import_key.unwrap();
    let sealed = ipc::envelope::seal(&key, &crate::harness::bundle(&[2], History::NeverSigned)).unwrap();
    signer.stop();
    let signer = start_and_open(&machine, WORDS).await;
    let outcome = signer.control.post::<serde_json::Value>("/v1/shares", &sealed).await;
    assert_eq!(code(outcome), refused(422, "envelope_invalid"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_passphrase_never_takes_the_place_of_a_tpm_that_is_there() {
    // A TPM that the firmware speaks of and that does not answer.
    for (sign, is_folder) in [("tpm/tpm0", true), ("TPM2", false)] {
        let machine = Machine::without_tpm();
        let sign = machine.dir.path().join("sys").join(sign);
        std::fs::create_dir_all(if is_folder { &sign } else { sign.parent().unwrap() }).unwrap();
        if !is_folder {
            std::fs::write(&sign, b"").unwrap();
        }
        let signer = machine.start().await;
        assert_eq!(signer.problem_codes().await, ["tpm_missing"]);
        assert_eq!(signer.status().await.protection.tier, ProtectionTier::None);
        let outcome = signer.control.get::<PassphraseStatus>(PASSPHRASE_PATH).await;
        assert_eq!(code(outcome), refused(422, "passphrase_not_wanted"));
        signer.stop();
        assert!(!machine.state().join("vault.passphrase").exists());
    }
    // Nowhere to look for one: the kernel has no list of TPMs, or does not show the firmware's variables. Or nothing was found, and the start
    // was not that of a board without one.
    for place in ["sys/class-tpm", "efivars", "sys/no-tpm"] {
        let machine = Machine::without_tpm();
        std::fs::remove_dir_all(machine.dir.path().join(place)).unwrap();
        let signer = machine.start().await;
        assert_eq!(signer.problem_codes().await, ["tpm_missing"], "{place}");
        assert_eq!(code(signer.passphrase(&first(WORDS)).await).1, "passphrase_not_wanted", "{place}");
        signer.stop();
        assert!(!machine.state().join("vault.passphrase").exists());
    }
    // One that its driver has not found yet, and one that somebody has set up at another address.
    let machine = Machine::without_tpm();
    let node = machine.dir.path().join("sys/devicetree/soc/spi@1/tpm@0");
    std::fs::create_dir_all(&node).unwrap();
    std::fs::write(node.join("compatible"), b"infineon,slb9670\0tcg,tpm_tis-spi\0").unwrap();
    let signer = machine.start().await;
    assert_eq!(signer.problem_codes().await, ["tpm_missing"]);
    signer.stop();
    let mut machine = Machine::without_tpm();
    machine.tcti = "swtpm:path=/no/such/socket".to_owned();
    let signer = machine.start().await;
    assert_eq!(signer.problem_codes().await, ["tpm_missing"]);
    signer.stop();
    // One whose driver was late: the disk was made without it. No vault is made in it.
    let mut machine = Machine::new();
    machine.let_a_passphrase_do();
    let signer = machine.start().await;
    assert_eq!(signer.problem_codes().await, ["tpm_late"]);
    assert_eq!(signer.status().await.import_key, None, "there is nothing that a share could be sealed to");
    assert_eq!(code(signer.passphrase(&first(WORDS)).await).1, "passphrase_not_wanted");
    signer.stop();
    assert!(!machine.state().join("vault.tpm").exists());
    // A box with a vault in its TPM, whose TPM is hidden afterwards.
    let mut machine = Machine::new();
    let signer = machine.start().await;
    signer.import(&bundle(&[1], History::NeverSigned)).await.unwrap();
    signer.stop();
    let tcti = std::mem::replace(&mut machine.tcti, "device:/dev/no-such-tpm".to_owned());
    machine.let_a_passphrase_do();
    let signer = machine.start().await;
    assert_eq!(signer.problem_codes().await, ["tpm_missing"]);
    signer.stop();
    // …and whose file is taken away as well: shares are not left for a new vault to take over.
    let vault = std::fs::read(machine.state().join("vault.tpm")).unwrap();
    std::fs::remove_file(machine.state().join("vault.tpm")).unwrap();
    let signer = machine.start().await;
    assert_eq!(signer.problem_codes().await, ["vault_missing"]);
    assert_eq!(signer.status().await.passphrase, None);
    signer.stop();
    std::fs::write(machine.state().join("vault.tpm"), vault).unwrap();
    machine.tcti = tcti;
    let signer = machine.start().await;
    assert_eq!(signer.problem_codes().await, [""; 0]);
    signer.stop();
    // Secure Boot off on a box that must have it.
    let mut machine = Machine::without_tpm();
    machine.secure_boot = true;
    let signer = machine.start().await;
    assert_eq!(signer.problem_codes().await, ["secure_boot_off"]);
    assert_eq!(signer.status().await.passphrase, None);
    signer.stop();
    machine.set_secure_boot(1, 0);
    assert_eq!(machine.start().await.problem_codes().await, ["passphrase_unset"]);
}

/// Without a TPM only the clock keeps an old copy from signing again.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_tpm_nothing_opens_by_a_clock_that_nobody_vouches_for() {
    let (mut machine, _) = board_with_a_share(1).await;
    let mark = machine.clock_mark.take();
    let signer = machine.start().await;
    assert_eq!(signer.problem_codes().await, ["time_service_missing"]);
    assert_eq!(signer.status().await.passphrase, None, "nobody is asked for it");
    signer.stop();
    let empty = {
        let mut machine = Machine::without_tpm();
        machine.clock_mark = None;
        machine
    };
    let signer = empty.start().await;
    assert_eq!(signer.problem_codes().await, ["time_service_missing"]);
    assert_eq!(code(signer.passphrase(&first(WORDS)).await).1, "passphrase_not_wanted");
    signer.stop();
    // With a time service that has not spoken yet, it opens when that has.
    machine.clock_mark = mark.clone();
    let mark = mark.unwrap();
    let signer = machine.start().await;
    std::fs::remove_file(&mark).unwrap();
    assert_eq!(state(signer.passphrase(&open(WORDS)).await), PassphraseState::Open);
    assert_eq!(signer.status().await.import_key, None);
    std::fs::write(&mark, b"").unwrap();
    for _ in 0..100 {
        if signer.status().await.import_key.is_some() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("{:?}", signer.problem_codes().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_words_are_the_same_however_their_letters_are_put_together() {
    let machine = Machine::without_tpm();
    let signer = machine.start().await;
    signer.passphrase(&first("m\u{fc}hle nachtigall \u{e9}tude")).await.unwrap();
    signer.stop();
    let signer = machine.start().await;
    let apart = "mu\u{308}hle nachtigall e\u{301}tude";
    assert_eq!(state(signer.passphrase(&open(apart)).await), PassphraseState::Open);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vault_under_a_passphrase_is_not_used_on_a_board_with_a_tpm() {
    let (mut machine, _) = board_with_a_share(1).await;
    machine.swtpm = Some(Swtpm::start(&machine.dir.path().join("a tpm")).unwrap());
    let without = std::mem::replace(&mut machine.tcti, machine.swtpm.as_ref().unwrap().tcti().to_owned());
    let signer = machine.start().await;
    assert_eq!(signer.problem_codes().await, ["tpm_appeared"]);
    assert_eq!(signer.status().await.protection.tier, ProtectionTier::None);
    let outcome = signer.attest(&pubshare(1), &vote(1, 2, 1)).await;
    assert_eq!(code(outcome), refused(503, "tpm_appeared"));
    signer.stop();
    machine.tcti = without;
    start_and_open(&machine, WORDS).await.stop();
}

/// What has been signed, by any copy: one root for each target, and no vote around another.
#[derive(Default)]
struct Signed(BTreeMap<u64, (u64, u8)>);

impl Signed {
    fn add(&mut self, source: u64, target: u64, head: u8) {
        let before = self.0.insert(target, (source, head));
        assert!(before.is_none() || before == Some((source, head)), "two votes for {target}: {before:?}");
        for (other, (from, _)) in &self.0 {
            let around = (source < *from && target > *other) || (*from < source && *other > target);
            assert!(!around, "{source} to {target} around {from} to {other}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_copy_is_put_back_and_whenever_it_is_killed_no_two_votes_conflict() {
    // Epochs of 80 ms, and votes for all of them stay within reach for ten minutes: only the floors stand in the way.
    let (machine, chain) = board_with_a_share(10).await;
    let mut copies = vec![machine.disk()];
    let mut signed = Signed::default();
    let (mut votes, mut refusals) = (0, 0);
    for round in 0..12_u8 {
        // Now the newest, now the oldest, now one in between.
        let copy = match round % 3 {
            0 => copies.len() - 1,
            1 => 0,
            _ => copies.len() / 2,
        };
        machine.put_back(&copies[copy]);
        let mut signer = start_and_open(&machine, WORDS).await;
        let begun = epoch_of(&chain);
        let mut middle = None;
        // Eight epochs are 640 ms: a slow machine gets longer to come to a vote.
        let (before, patience) = (votes, Instant::now() + Duration::from_secs(20));
        while epoch_of(&chain) < begun + 8 || (votes < before + 2 && Instant::now() < patience) {
            // Everything that was voted for lately is asked for again with another head, and what comes next.
            let now = epoch_of(&chain).max(3);
            for target in now.saturating_sub(12).max(1)..=now + 1 {
                let outcome = signer.attest(&pubshare(1), &vote(target - 1, target, round)).await;
                match outcome {
                    Ok(_) => {
                        signed.add(target - 1, target, round);
                        votes += 1;
                    }
                    Err(_) => refusals += 1,
                }
            }
            middle.get_or_insert_with(|| machine.disk());
        }
        copies.extend(middle);
        if round % 2 == 0 {
            signer.kill();
        } else {
            signer.stop();
        }
        copies.push(machine.disk());
    }
    assert!(votes > 20 && refusals > 100, "{votes} votes and {refusals} refusals show nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_orderly_end_of_an_older_day_does_not_shorten_the_wait() {
    let (machine, chain) = board_with_a_share(100).await; // Epochs of 800 ms.
    until_epoch(&chain, 1).await;
    let signer = start_and_open(&machine, WORDS).await;
    assert_eq!(signer.problem_codes().await, ["waiting_after_start"]);
    let evening = epoch_of(&chain) + 3;
    until_epoch(&chain, evening).await;
    signer.attest(&pubshare(1), &vote(evening - 1, evening, 1)).await.unwrap();
    signer.stop();
    let yesterday = machine.disk();
    let signer = start_and_open(&machine, WORDS).await;
    let today = epoch_of(&chain) + 3;
    until_epoch(&chain, today).await;
    signer.attest(&pubshare(1), &vote(today - 1, today, 1)).await.unwrap();
    signer.stop();
    // In another box without a TPM as well as in this one.
    let clone = machine.sibling_without_tpm();
    for machine in [&machine, &clone] {
        machine.put_back(&yesterday);
        let signer = machine.start().await;
        assert_eq!(signer.problem_codes().await, ["passphrase_needed"]);
        let again = signer.attest(&pubshare(1), &vote(today - 1, today, 2)).await;
        assert_eq!(code(again), refused(503, "passphrase_needed"));
        signer.passphrase(&open(WORDS)).await.unwrap();
        for (source, target) in [(today - 1, today), (today - 2, today + 1), (evening, today)] {
            let again = signer.attest(&pubshare(1), &vote(source, target, 2)).await;
            assert_eq!(code(again), refused(412, "slashable"), "{source} to {target}");
        }
        signer.stop();
    }
}

/// A library that puts the clock of one process forward, for nobody can set the kernel's here.
fn build_shift(dir: &Path) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/process/shift.c");
    let library = dir.join("shift.so");
    let mut command = Command::new("cc");
    command.args(["-Wall", "-O1", "-shared", "-fPIC", "-o"]).arg(&library).arg(source).arg("-ldl");
    assert!(command.status().unwrap().success(), "the test needs a C compiler");
    library
}

/// A machine that is put back while it runs has a clock that makes a step, and nothing else tells.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_tpm_a_clock_that_was_set_makes_its_shares_wait_before_anything_is_signed() {
    let (machine, chain) = board_with_a_share(100).await; // Epochs of 800 ms.
    let (library, shift) = (build_shift(machine.dir.path()), machine.dir.path().join("shift"));
    until_epoch(&chain, 1).await;
    machine.vouch_for_the_clock();
    let words = format!("export LD_PRELOAD={} HEARTH_CLOCK_SHIFT={}", library.display(), shift.display());
    let signer = machine.start_in(&words, machine.dir.path()).await;
    assert_eq!(state(signer.passphrase(&open(WORDS)).await), PassphraseState::Open);
    let first = epoch_of(&chain) + 4;
    until_epoch(&chain, first).await;
    signer.attest(&pubshare(1), &vote(first - 1, first, 1)).await.unwrap();
    let hour = Duration::from_secs(3600);
    std::fs::write(&shift, hour.as_secs().to_string()).unwrap();
    let later = || epoch_of(&chain) + 3_600_000 / 800;
    let ask = async |target| code(signer.attest(&pubshare(1), &vote(target - 1, target, 1)).await);
    assert_eq!(ask(later()).await, refused(503, "clock_stepped"));
    // Vouched for, it is believed at once, and the shares are made to wait all the same.
    let mark = std::fs::File::create(machine.clock_mark.as_ref().unwrap()).unwrap();
    mark.set_modified(std::time::SystemTime::now() + hour).unwrap();
    let soon = [refused(412, "slashable"), refused(503, "clock_was_set")];
    let believed = later();
    let outcome = ask(believed).await;
    assert!(soon.contains(&outcome), "{outcome:?}");
    // It looks at its clock every second, and writes down what follows.
    let mut outcome = ask(believed + 1).await;
    for _ in 0..400 {
        if outcome != soon[1] {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        outcome = ask(believed + 1).await;
    }
    assert_eq!(outcome, soon[0], "what nobody remembers any more");
    until_epoch(&chain, epoch_of(&chain) + 4).await;
    signer.attest(&pubshare(1), &vote(later() - 1, later(), 1)).await.unwrap();
}

/// Nothing seals the disk of such a board: whoever has it in hand exchanges the record of a signature, and asks for a repeat.
#[tokio::test(flavor = "multi_thread")]
async fn a_signature_that_somebody_wrote_into_the_record_is_not_repeated() {
    let (machine, chain) = board_with_a_share(1).await;
    let signer = start_and_open(&machine, WORDS).await;
    let now = epoch_of(&chain).max(60) + 5;
    until_epoch(&chain, now).await;
    let genuine = vote(now - 1, now, 1);
    signer.attest(&pubshare(1), &genuine).await.unwrap();
    signer.attest(&pubshare(1), &genuine).await.expect("a repeat within the run");
    signer.stop();
    let database = rusqlite::Connection::open(machine.state().join("ledger.db")).unwrap();
    let forged = vote(now - 1, now, 2);
    let domain = chain::domain::domain_at(chain::domain::BEACON_ATTESTER, chain::Epoch(now), &fork_info());
    let root = chain::signing_root(&forged, domain);
    let known = "UPDATE attestations SET signing_root = ?1 WHERE target = ?2";
    let epoch = i64::try_from(now).unwrap();
    assert_eq!(database.execute(known, rusqlite::params![root.as_slice(), epoch]).unwrap(), 1);
    // The sum that finds accidents is no secret, and is made to fit as well.
    let part_of = |vote: &chain::AttestationData| {
        let mut hash = Sha256::new();
        hash.update(pubshare(1).as_slice());
        hash.update(b"a\x01");
        hash.update(chain::signing_root(vote, domain).as_slice());
        for epoch in [vote.source.epoch, vote.target.epoch] {
            hash.update([1]);
            hash.update(epoch.0.to_be_bytes());
        }
        u64::from_be_bytes(hash.finalize()[..8].try_into().unwrap())
    };
    let digest = "SELECT value FROM meta WHERE name = 'digest'";
    let digest: i64 = database.query_row(digest, [], |row| row.get(0)).unwrap();
    let digest = u64::from_le_bytes(digest.to_le_bytes());
    let fits = digest.wrapping_sub(part_of(&genuine)).wrapping_add(part_of(&forged));
    let fits = i64::from_le_bytes(fits.to_le_bytes());
    database.execute("UPDATE meta SET value = ?1 WHERE name = 'digest'", [fits]).unwrap();
    drop(database);
    let signer = start_and_open(&machine, WORDS).await;
    for vote in [&forged, &genuine] {
        assert_eq!(code(signer.attest(&pubshare(1), vote).await), refused(412, "slashable"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_passphrase_is_changed_whole_or_not_at_all_and_guessing_is_slow() {
    let (machine, _) = board_with_a_share(1).await;
    let signer = start_and_open(&machine, WORDS).await;
    assert_eq!(code(signer.passphrase(&change(WORDS, "weak")).await), refused(422, "passphrase_weak"));
    assert_eq!(
        code(signer.passphrase(&change("not it", OTHER_WORDS)).await),
        refused(422, "passphrase_wrong")
    );
    signer.passphrase(&change(WORDS, OTHER_WORDS)).await.unwrap();
    signer.stop();
    let signer = machine.start().await;
    for _ in 0..3 {
        assert_eq!(code(signer.passphrase(&open(WORDS)).await), refused(422, "passphrase_wrong"));
    }
    // Now not even the right one is tried.
    assert_eq!(code(signer.passphrase(&open(OTHER_WORDS)).await), refused(503, "passphrase_too_often"));
    drop(signer);
    start_and_open(&machine, OTHER_WORDS).await.stop();

    // Killed at any moment of a change.
    let (mut now, mut new) = (OTHER_WORDS, WORDS);
    for delay_ms in [0, 1, 2, 3, 5, 8, 13, 21, 34] {
        let mut signer = start_and_open(&machine, now).await;
        let order = change(now, new);
        let changing = signer.passphrase(&order);
        let _ = tokio::time::timeout(Duration::from_millis(delay_ms), changing).await;
        signer.kill();
        let signer = machine.start().await;
        if signer.passphrase(&open(now)).await.is_err() {
            signer.passphrase(&open(new)).await.unwrap();
            std::mem::swap(&mut now, &mut new);
        }
        signer.stop();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_or_missing_file_of_the_passphrase_is_not_replaced() {
    let (machine, _) = board_with_a_share(1).await;
    let path = machine.state().join("vault.passphrase");
    let good = std::fs::read(&path).unwrap();
    for bad in [&good[..good.len() / 2], b"{}", &[b' '; 5000]] {
        std::fs::write(&path, bad).unwrap();
        let signer = machine.start().await;
        assert_eq!(code(signer.passphrase(&open(WORDS)).await), refused(503, "vault_damaged"));
        assert_eq!(code(signer.passphrase(&first(WORDS)).await), refused(422, "passphrase_set"));
        signer.stop();
    }
    std::fs::remove_file(&path).unwrap();
    let signer = machine.start().await;
    assert_eq!(signer.problem_codes().await, ["vault_missing"]);
    assert_eq!(code(signer.passphrase(&first(WORDS)).await), refused(422, "passphrase_not_wanted"));
    signer.stop();
    assert!(!path.exists());
    std::fs::write(&path, &good).unwrap();
    start_and_open(&machine, WORDS).await.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_passphrase_is_neither_on_the_disk_nor_in_the_log_nor_in_an_answer() {
    let (machine, _) = board_with_a_share(1).await;
    let signer = machine.start().await;
    let mut shown = vec![format!("{:?}", signer.passphrase(&open(OTHER_WORDS)).await)];
    shown.push(format!("{:?}", signer.passphrase(&change(WORDS, OTHER_WORDS)).await));
    shown.push(format!("{:?}", signer.passphrase(&open(OTHER_WORDS)).await));
    // In the clear, where it does not belong: a script that was not written by us.
    for body in [serde_json::json!({ "open": { "passphrase": WORDS } }), serde_json::json!(WORDS)] {
        shown.push(format!("{:?}", signer.control.post::<()>(PASSPHRASE_PATH, &body).await));
    }
    shown.push(serde_json::to_string(&signer.status().await).unwrap());
    shown.push(signer.log_text());
    shown.push(signer.screen_text());
    let secret = secret(1).expose_bytes();
    let hex = hex::encode(secret.as_slice());
    let disk = machine.disk().into_iter().map(|(_, bytes)| bytes);
    for place in disk.chain(shown.into_iter().map(String::into_bytes)) {
        for needle in [&b"lantern"[..], b"orchard", secret.as_slice(), hex.as_bytes()] {
            assert!(!place.windows(needle.len()).any(|window| window == needle));
        }
    }
}
