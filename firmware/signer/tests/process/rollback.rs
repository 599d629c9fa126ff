//! Old copies, cloned disks and cleared TPMs, as an owner would bring them about: nothing is signed, and the owner is told.

use crate::elsewhere::{remember, signed_elsewhere};
use crate::harness::*;
use chain::Epoch;
use ipc::signer::{History, ProtectionTier};
use ipc::web3signer::{CHAIN_MARKS_PATH, ChainMark};
use std::path::PathBuf;
use tpm::{Tpm, swtpm::Swtpm};

/// Where the counter is unless the configuration says otherwise.
const COUNTER: u32 = 0x0150_0021;
const OLD_DISK: &str = "The record of what was signed is older than this box itself: an old copy of the disk was restored. It does not know what was signed since, so nothing is signed.";
const OTHER_BOX: &str = "The shares cannot be opened: this was sealed by another TPM, or this TPM was cleared: put the disk back into its own box, or import the shares anew.";

type Folder = Vec<(PathBuf, Vec<u8>)>;

fn put_back(machine: &Machine, folder: &Folder) {
    std::fs::create_dir_all(machine.state()).unwrap();
    for (path, _) in machine.disk() {
        std::fs::remove_file(path).unwrap();
    }
    for (path, content) in folder {
        std::fs::write(machine.state().join(path.file_name().unwrap()), content).unwrap();
    }
}

/// Nothing is signed or taken in, and this is what the owner reads.
async fn is_locked_and_says(machine: &Machine, code_of: &str, sentence: &str) {
    let signer = machine.start().await;
    let status = signer.status().await;
    let [problem] = status.problems.as_slice() else { panic!("{:?}", status.problems) };
    assert_eq!((problem.code.as_str(), problem.message.as_str()), (code_of, sentence));
    assert!(problem.next_step.len() > 20, "{problem:?}");
    assert_eq!((status.protection.tier, status.import_key), (ProtectionTier::None, None));
    // The votes that were signed, others for the same targets, and later ones.
    for (source, target, head) in [(2, 3, 1), (2, 3, 2), (3, 4, 1), (40, 41, 1)] {
        let outcome = signer.attest(&pubshare(1), &vote(source, target, head)).await;
        assert_eq!(code(outcome), refused(503, code_of));
    }
    let keys: Vec<chain::PublicKeyBytes> = signer.sign.get(ipc::web3signer::PUBLIC_KEYS_PATH).await.unwrap();
    assert_eq!(keys, []);
    signer.stop();
}

/// A box that has voted on a first day, and its folder of that evening.
async fn yesterday() -> (Machine, Folder) {
    let machine = Machine::new();
    let signer = machine.start().await;
    signer.import(&bundle(&[1], History::NeverSigned)).await.unwrap();
    signer.attest(&pubshare(1), &vote(1, 2, 1)).await.unwrap();
    signer.stop();
    let folder = machine.disk();
    (machine, folder)
}

async fn another_day(machine: &Machine, target: u64) {
    let signer = machine.start().await;
    signer.attest(&pubshare(1), &vote(target - 1, target, 1)).await.unwrap();
    signer.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn yesterday_s_whole_folder_signs_nothing_and_says_so_until_the_newest_is_back() {
    let (machine, yesterday) = yesterday().await;
    let signer = machine.start().await;
    let in_the_middle = machine.disk(); // A copy of a disk that is in use, as a backup program makes it.
    signer.attest(&pubshare(1), &vote(2, 3, 1)).await.unwrap();
    signer.stop();
    another_day(&machine, 4).await;
    let newest = machine.disk();
    for old in [&yesterday, &in_the_middle] {
        put_back(&machine, old);
        is_locked_and_says(&machine, "ledger_rolled_back", OLD_DISK).await;
        // Trying it often changes nothing: the ledger does not catch up by being started.
        is_locked_and_says(&machine, "ledger_rolled_back", OLD_DISK).await;
    }
    put_back(&machine, &newest);
    let signer = machine.start().await;
    assert_eq!(signer.problem_codes().await, [""; 0]);
    assert_eq!(code(signer.attest(&pubshare(1), &vote(3, 4, 2)).await), refused(412, "slashable"));
    signer.attest(&pubshare(1), &vote(4, 5, 1)).await.unwrap();
}

/// All files of a folder, with their names.
fn files_of(dir: &std::path::Path) -> Folder {
    let files = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    files.map(|path| (path.clone(), std::fs::read(path).unwrap())).collect()
}

/// A machine that was put back with its TPM, as a virtual one is: its two shares have voted for epoch 3 and have forgotten it.
async fn put_back_with_its_chip() -> Machine {
    let mut machine = Machine::new();
    let signer = machine.start().await;
    signer.import(&bundle(&[1, 2], History::NeverSigned)).await.unwrap();
    signer.attest(&pubshare(1), &vote(1, 2, 1)).await.unwrap();
    signer.attest(&pubshare(2), &vote(1, 2, 1)).await.unwrap();
    signer.stop();
    drop(machine.swtpm.take());
    let chip = machine.dir.path().join("tpm");
    let (disk, counter) = (machine.disk(), files_of(&chip));
    machine.swtpm = Some(Swtpm::start_at(&machine.tcti, &chip).unwrap());
    let signer = machine.start().await;
    for share in [1, 2] {
        signer.attest(&pubshare(share), &vote(2, 3, 1)).await.unwrap();
    }
    signer.stop();

    // As a virtual machine is put back: its chip with it.
    drop(machine.swtpm.take());
    put_back(&machine, &disk);
    for (path, content) in &counter {
        std::fs::write(path, content).unwrap();
    }
    machine.swtpm = Some(Swtpm::start_at(&machine.tcti, &chip).unwrap());
    machine
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_and_a_tpm_of_yesterday_do_not_vote_against_what_the_chain_shows() {
    let machine = put_back_with_its_chip().await;
    let signer = machine.start().await;
    assert_eq!(signer.problem_codes().await, [""; 0], "the box itself cannot know");
    let shown =
        |share, target| ChainMark { key: pubshare(share), target: Epoch(target), justified: Epoch(2) };
    let mark = async |marks: &[ChainMark]| {
        let told: serde_json::Value = signer.sign.post(CHAIN_MARKS_PATH, &marks).await.unwrap();
        assert_eq!(told, serde_json::json!({}));
    };
    // Of a share that is not here, and of an epoch that is on record.
    mark(&[shown(9, 3), shown(1, 2)]).await;
    signer.attest(&pubshare(1), &vote(1, 2, 1)).await.expect("a repeat");
    mark(&[shown(1, 3)]).await;
    for (source, target, head) in [(2, 3, 1), (2, 3, 2), (1, 4, 1)] {
        let outcome = signer.attest(&pubshare(1), &vote(source, target, head)).await;
        assert_eq!(code(outcome), refused(412, "slashable"), "{source} to {target}");
    }
    // Nothing waits, nothing is stopped, and a validator of which the chain shows nothing goes on.
    assert_eq!(signer.problem_codes().await, [""; 0]);
    signer.attest(&pubshare(1), &vote(3, 4, 1)).await.unwrap();
    signer.attest(&pubshare(2), &vote(2, 4, 1)).await.unwrap();
    // What members remember a moment later is as much of a proof as before.
    assert_eq!(remember(&signer, &[signed_elsewhere(1, 1, 2, 3, 1)]).await, [pubshare(1)]);
    let too_many = vec![shown(1, 3); ipc::web3signer::MAX_CHAIN_MARKS_AT_ONCE + 1];
    let outcome: Result<serde_json::Value, _> = signer.sign.post(CHAIN_MARKS_PATH, &too_many).await;
    assert_eq!(code(outcome), refused(400, "malformed"));
}

#[tokio::test(flavor = "multi_thread")]
async fn yesterday_s_disk_with_yesterday_s_software_tpm_is_given_away_by_what_members_remember() {
    let machine = put_back_with_its_chip().await;
    let signer = machine.start().await;
    assert_eq!(signer.problem_codes().await, [""; 0], "the box itself cannot know");
    // Members that lie cost nothing: another's signature, one that is none, a vote that is on record, a share that is not here.
    let mut none = signed_elsewhere(1, 1, 2, 3, 1);
    none.signature = chain::SignatureBytes([7; 96]);
    let lies = [
        none,
        signed_elsewhere(1, 2, 2, 3, 1),
        signed_elsewhere(1, 1, 1, 2, 1),
        signed_elsewhere(9, 9, 2, 3, 1),
    ];
    assert_eq!(remember(&signer, &lies).await, []);
    assert_eq!(signer.problem_codes().await, [""; 0]);
    // What the box itself signed, and has forgotten.
    assert_eq!(remember(&signer, &[signed_elsewhere(1, 1, 2, 3, 1)]).await, [pubshare(1)]);
    for head in [1, 2] {
        let outcome = signer.attest(&pubshare(1), &vote(2, 3, head)).await;
        assert_eq!(code(outcome), refused(412, "signs_elsewhere"));
        // Of the other share nobody remembered anything, and it is of the same old ledger.
        assert_eq!(code(signer.attest(&pubshare(2), &vote(2, 3, head)).await), refused(412, "slashable"));
    }
    assert!(signer.problem_codes().await.contains(&"signs_elsewhere".to_owned()));
    signer.stop();
    let signer = machine.start().await;
    assert_eq!(signer.problem_codes().await, ["signs_elsewhere"]);
    assert_eq!(code(signer.attest(&pubshare(2), &vote(2, 3, 2)).await), refused(412, "slashable"));
}

#[tokio::test(flavor = "multi_thread")]
async fn yesterday_s_ledger_alone_signs_nothing_and_says_so() {
    let (machine, yesterday) = yesterday().await;
    another_day(&machine, 3).await;
    let old = yesterday.iter().find(|(path, _)| path.ends_with("ledger.db")).unwrap();
    std::fs::write(machine.state().join("ledger.db"), &old.1).unwrap();
    is_locked_and_says(&machine, "ledger_rolled_back", OLD_DISK).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_cloned_to_a_second_box_signs_nothing_there_and_goes_on_here() {
    let (first, folder) = yesterday().await;
    let second = first.sibling();
    put_back(&second, &folder);
    is_locked_and_says(&second, "other_tpm", OTHER_BOX).await;
    another_day(&first, 3).await;
    is_locked_and_says(&second, "other_tpm", OTHER_BOX).await;

    // The ledger alone, with its sealed shares, in a box with a vault of its own: whether or not the counters happen to be
    // the same there, no share opens.
    for starts in 1..=5 {
        let third = first.sibling();
        for _ in 0..starts {
            drop(third.start().await); // Without power from one moment to the next.
        }
        for (path, _) in third.disk() {
            if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("ledger.db")) {
                std::fs::remove_file(path).unwrap(); // The log of the other database with it.
            }
        }
        let ledger = folder.iter().find(|(path, _)| path.ends_with("ledger.db")).unwrap();
        std::fs::write(third.state().join("ledger.db"), &ledger.1).unwrap();
        let signer = third.start().await;
        let problems = signer.problem_codes().await;
        assert!(problems == ["ledger_rolled_back"] || problems == ["share_damaged"], "{problems:?}");
        let refusal = code(signer.attest(&pubshare(1), &vote(2, 3, 1)).await);
        assert!(refusal == refused(503, "ledger_rolled_back") || refusal == refused(404, "unknown_key"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cleared_tpm_opens_nothing_and_the_owner_is_told() {
    let (machine, _) = yesterday().await;
    Tpm::open(&machine.tcti).unwrap().clear().unwrap();
    assert_eq!(
        Tpm::open(&machine.tcti).unwrap().counter(COUNTER).read().unwrap(),
        None,
        "the counter is gone"
    );
    is_locked_and_says(&machine, "other_tpm", OTHER_BOX).await;
    // A vault that is thrown away does not help: a new one is not made over shares of the old one.
    std::fs::remove_file(machine.state().join("vault.tpm")).unwrap();
    let signer = machine.start().await;
    assert_eq!(signer.problem_codes().await, ["vault_missing"]);
    signer.stop();
    // Set up anew it works, and an imported share begins above the clock as every new one does (decision 0127).
    std::fs::remove_dir_all(machine.state()).unwrap();
    let signer = machine.start().await;
    signer.import(&bundle(&[1], History::NeverSigned)).await.unwrap();
    assert_eq!(signer.problem_codes().await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_counter_steps_once_per_start_and_import_and_never_for_a_signature() {
    let (machine, _) = yesterday().await;
    let counter = || Tpm::open(&machine.tcti).unwrap().counter(COUNTER).read().unwrap().unwrap();
    let before = counter();
    for number in 2..=4_u8 {
        let signer = machine.start().await;
        signer.import_only(&bundle(&[number], History::NeverSigned)).await.unwrap();
        for target in 0..20 {
            let target = 3 + 20 * u64::from(number - 2) + target;
            let outcome = signer.attest(&pubshare(1), &vote(target - 1, target, 1)).await;
            assert!(outcome.is_ok() || target > 50, "{outcome:?}");
        }
        let _ = signer.status().await;
        signer.stop();
    }
    assert_eq!(counter() - before, 6, "three starts and three imports");
    drop(machine.start().await); // kill -9
    machine.start().await.stop();
    assert_eq!(counter() - before, 8, "a start after a power cut costs no more than another");
    // What is handed in again tells nothing new.
    let signer = machine.start().await;
    let sealed = {
        let key = signer.status().await.import_key.unwrap();
        ipc::envelope::seal(&key, &bundle(&[1, 2], History::NeverSigned)).unwrap()
    };
    for _ in 0..200 {
        let again: serde_json::Value = signer.control.post(ipc::signer::SHARES_PATH, &sealed).await.unwrap();
        assert_eq!(again["already_held"].as_array().map(Vec::len), Some(2), "{again}");
    }
    assert_eq!(counter() - before, 9, "a start, and nothing for what was held");
    signer.stop();
    assert_eq!(machine.start().await.problem_codes().await, [""; 0]);
}
