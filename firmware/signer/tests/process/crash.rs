//! kill -9 and a full disk in the middle of a storm of conflicting votes.

use crate::harness::*;
use chain::PublicKeyBytes;
use ipc::signer::{History, ShareBundle};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

/// The votes that got a signature, by key and target.
type Given = Arc<Mutex<BTreeMap<(PublicKeyBytes, u64), Vec<u8>>>>;

fn note(given: &Given, key: PublicKeyBytes, target: u64, head: u8) {
    let mut given = given.lock().unwrap();
    let heads = given.entry((key, target)).or_default();
    if !heads.contains(&head) {
        heads.push(head);
    }
    assert_eq!(heads.len(), 1, "two votes of {key} for epoch {target} were signed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signer_killed_under_load_never_signs_two_votes_for_one_target() {
    const ROUNDS: u64 = 8;
    const TARGETS: u64 = 40;
    let machine = Machine::new();
    let signer = machine.start().await;
    let shares = bundle(&[1, 2, 3], History::NeverSigned);
    signer.import(&shares).await.unwrap();
    until_epoch(&shares.chain, ROUNDS * TARGETS + 2).await;
    signer.stop();
    let given = Given::default();
    for round in 0..ROUNDS {
        let signer = machine.start().await;
        let mut storm = tokio::task::JoinSet::new();
        for target in round * TARGETS + 1..=(round + 1) * TARGETS {
            for number in 1..=3 {
                for head in 1..=3 {
                    let (client, given) = (Arc::clone(&signer.sign), Arc::clone(&given));
                    storm.spawn(async move {
                        let key = pubshare(number);
                        let asked = vote(target - 1, target, head);
                        if let Ok(signature) = attest(&client, &key, &asked).await {
                            assert!(signs(&key, &asked, &signature));
                            note(&given, key, target, head);
                        }
                    });
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(15 + 60 * round)).await; // The moment of death varies.
        drop(signer); // kill -9
        while let Some(done) = storm.join_next().await {
            done.unwrap();
        }
        // Whatever was given out before must still be known: nobody gets another head for the same target.
        machine.forget_the_power_cut();
        let signer = machine.start().await;
        assert_eq!(signer.problem_codes().await, [""; 0]);
        let before: Vec<_> = given.lock().unwrap().keys().copied().collect();
        for (key, target) in before.into_iter().rev().take(60) {
            for head in 1..=3 {
                if signer.attest(&key, &vote(target - 1, target, head)).await.is_ok() {
                    note(&given, key, target, head);
                }
            }
        }
        signer.stop();
    }
    let signed = given.lock().unwrap().len();
    println!("{signed} targets signed in {ROUNDS} rounds, each once");
    assert!(signed > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn votes_that_wait_together_share_one_commit() {
    let machine = Machine::new();
    let signer = machine.start().await;
    let numbers: Vec<u8> = (1..=60).collect();
    signer.import(&bundle(&numbers, History::NeverSigned)).await.unwrap();
    let mut burst = tokio::task::JoinSet::new();
    for number in numbers {
        let client = Arc::clone(&signer.sign);
        burst.spawn(async move { attest(&client, &pubshare(number), &vote(1, 2, 1)).await.unwrap() });
    }
    assert_eq!(burst.join_all().await.len(), 60);
    let metrics = signer.control.get_text("/metrics").await.unwrap();
    let value = |name: &str| -> u64 {
        let line = metrics.lines().find(|line| line.starts_with(name)).unwrap();
        line.rsplit(' ').next().unwrap().parse().unwrap()
    };
    let (votes, commits) =
        (value("hearth_signer_recorded_votes_total"), value("hearth_signer_commit_seconds_count"));
    println!("{votes} votes in {commits} commits");
    assert_eq!(votes, 60);
    assert!(commits < votes, "{commits} commits");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_stops_signing_and_room_resumes_it() {
    let machine = Machine::new();
    let signer = machine.start().await;
    signer.import(&bundle(&[1], History::NeverSigned)).await.unwrap();
    signer.stop();
    // Files may grow to 96 KiB: some votes fit, then none.
    let signer = machine.start_with_file_limit(192).await;
    let key = pubshare(1);
    let mut target = 1;
    let refusal = loop {
        match signer.attest(&key, &vote(target - 1, target, 1)).await {
            Ok(_) => target += 1,
            refusal => break refusal,
        }
        assert!(target < 5000, "the limit is never reached");
    };
    assert_eq!(code(refusal), refused(503, "not_durable"));
    let full = code(signer.attest(&key, &vote(target - 1, target, 2)).await);
    assert_eq!(full, refused(503, "not_durable"), "the other head neither");
    let pid = signer.child.id().to_string();
    let raised =
        std::process::Command::new("prlimit").args(["--pid", &pid, "--fsize=unlimited:"]).status().unwrap();
    assert!(raised.success());
    signer.attest(&key, &vote(target - 1, target, 2)).await.unwrap();
    assert_eq!(code(signer.attest(&key, &vote(target - 1, target, 1)).await), refused(412, "slashable"));
    let earlier = vote(target - 2, target - 1, 2);
    assert_eq!(code(signer.attest(&key, &earlier).await), refused(412, "slashable"));
    signer.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_put_back_within_one_run_signs_nothing_that_the_run_may_have_signed() {
    let machine = Machine::new();
    let signer = machine.start().await;
    signer.import(&bundle(&[1], History::NeverSigned)).await.unwrap();
    let key = pubshare(1);
    signer.attest(&key, &vote(1, 2, 1)).await.unwrap();
    let copy = machine.disk();
    signer.attest(&key, &vote(2, 3, 1)).await.unwrap();
    signer.attest(&key, &vote(39, 40, 1)).await.unwrap();
    drop(signer); // kill -9
    for (path, _) in machine.disk() {
        std::fs::remove_file(path).unwrap();
    }
    for (path, content) in copy {
        std::fs::write(path, content).unwrap();
    }
    // The TPM's counter did not move, so this is not seen as an old copy.
    let signer = machine.start().await;
    assert!(!signer.problem_codes().await.contains(&"ledger_rolled_back".to_owned()));
    for (source, target) in [(2, 3), (39, 40), (38, 41), (40, 41)] {
        let outcome = signer.attest(&key, &vote(source, target, 2)).await;
        assert_eq!(code(outcome), refused(412, "slashable"), "{source} to {target}");
    }
    signer.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_power_cut_the_owner_is_told_when_it_goes_on() {
    let machine = Machine::new();
    let signer = machine.start().await;
    let shares = ShareBundle { chain: clock_with(250), ..bundle(&[1], History::NeverSigned) };
    signer.import(&shares).await.unwrap();
    until_epoch(&shares.chain, 1).await;
    signer.attest(&pubshare(1), &vote(0, 1, 1)).await.unwrap();
    drop(signer); // kill -9
    let before = epoch_of(&shares.chain);
    let signer = machine.start().await;
    let status = signer.status().await;
    let [note] = status.problems.as_slice() else { panic!("{:?}", status.problems) };
    assert_eq!(note.code, "waiting_after_power_cut");
    let resumes =
        (before + 2..before + 9).find(|epoch| note.message.contains(&format!("from epoch {epoch} on")));
    let resumes = resumes.unwrap_or_else(|| panic!("{note:?}"));
    let early = signer.attest(&pubshare(1), &vote(resumes - 3, resumes - 1, 1)).await;
    assert_eq!(code(early), refused(412, "slashable"));
    until_epoch(&shares.chain, resumes).await;
    assert_eq!(signer.problem_codes().await, [""; 0]);
    signer.attest(&pubshare(1), &vote(resumes - 1, resumes, 1)).await.unwrap();
    signer.stop();
    assert_eq!(machine.start().await.problem_codes().await, [""; 0], "an orderly end costs nothing");
}
