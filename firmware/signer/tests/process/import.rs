//! What happens to an import that is wrong, or cut off in the middle.

use crate::carried::move_to;
use crate::folder::{Charon, hand_in};
use crate::harness::*;
use crate::moving::{WORDS, arrive, back_up, restore};
use ipc::{
    Sensitive,
    signer::{History, SHARES_PATH, ShareBundle},
};
use std::time::Duration;

/// Makes one thing of a bundle wrong.
type Spoil = fn(&mut ShareBundle);

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_bundle_is_refused_whole() {
    let machine = Machine::new();
    let signer = machine.start().await;
    // The first share of each bundle is good, the second is not.
    let cases: [(Spoil, &str); 10] = [
        (|b| b.validators[1].password = Sensitive::new("wrong".to_owned()), "keystore_invalid"),
        (|b| b.validators[1].keystore["version"] = 3.into(), "keystore_invalid"),
        (|b| b.validators[1].public_key = pubshare(9).to_string(), "pubshare_mismatch"),
        (|b| b.validators[1].public_key = "0x00".to_owned(), "bundle_invalid"),
        (|b| b.validators[1].group_public_key = format!("0x{}", "00".repeat(48)), "group_key_invalid"),
        (|b| b.validators[1].share_index = 0, "share_index_zero"),
        (|b| b.genesis_validators_root = "0x12".to_owned(), "bundle_invalid"),
        (|b| b.chain.slots_per_epoch = 0, "clock_invalid"),
        // By a clock of one's own, epochs of mainnet in which the share has signed would be signed for again.
        (|b| b.genesis_validators_root = mainnet().0.to_string(), "chain_clock_wrong"),
        (|b| b.history = History::Interchange(serde_json::json!({"data": []})), "history_invalid"),
    ];
    for (spoil, expected) in cases {
        let mut spoilt = bundle(&[1, 2], History::NeverSigned);
        spoil(&mut spoilt);
        assert_eq!(code(signer.import(&spoilt).await), refused(422, expected));
    }
    let twice = bundle(&[1, 1], History::NeverSigned);
    assert_eq!(code(signer.import(&twice).await), refused(422, "share_twice"));
    assert_eq!(code(signer.import(&bundle(&[], History::NeverSigned)).await), refused(422, "bundle_size"));
    let foreign = ipc::envelope::seal(&"09".repeat(32), &bundle(&[1], History::NeverSigned)).unwrap();
    assert_eq!(
        code(signer.control.post::<()>(SHARES_PATH, &foreign).await),
        refused(422, "envelope_invalid")
    );
    // Nothing would take it back that a share has signed in an epoch which no clock reaches.
    let of = |number: u8, source: u64, target: u64, slot: u64| {
        let vote =
            serde_json::json!({"source_epoch": source.to_string(), "target_epoch": target.to_string()});
        let block = serde_json::json!({"slot": slot.to_string()});
        serde_json::json!({"pubkey": pubshare(number), "signed_blocks": [block], "signed_attestations": [vote]})
    };
    for (source, target, slot) in [
        (1, 1 << 30, 1),
        (1 << 30, 1, 1),
        (1, 2, 1 << 33),
        (1, 1 << 41, 1),
        (1 << 41, (1 << 41) + 1, 1),
        (1, u64::MAX, 1),
        (1, 2, u64::MAX),
    ] {
        let metadata =
            serde_json::json!({"interchange_format_version": "5", "genesis_validators_root": GENESIS_ROOT});
        let data = [of(1, 1, 2, 3), of(2, source, target, slot)];
        let history = History::Interchange(serde_json::json!({"metadata": metadata, "data": data}));
        let problem = signer.import(&bundle(&[1, 2], history)).await.unwrap_err();
        assert!(format!("{problem:?}").contains(&pubshare(2).to_string()), "{problem}");
        assert_eq!(code::<()>(Err(problem)), refused(422, "history_invalid"), "{source} {target} {slot}");
    }
    assert_eq!(signer.status().await.shares, []);
    signer.import(&bundle(&[1, 2], History::NeverSigned)).await.unwrap();

    let mut moved = bundle(&[1], History::NeverSigned);
    moved.validators[0].share_index = 3;
    assert_eq!(code(signer.import(&moved).await), refused(422, "share_conflict"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_share_of_a_validator_comes_in_by_no_door() {
    let (machine, old) = (Machine::new(), Machine::new());
    let signer = machine.start().await;
    let of_one_validator = |number: u8| {
        let mut bundle = bundle(&[number], History::NeverSigned);
        bundle.validators[0].group_public_key = pubshare(200).to_string();
        bundle
    };
    let mut both = bundle(&[1, 2], History::NeverSigned);
    both.validators[1].group_public_key = both.validators[0].group_public_key.clone();
    assert_eq!(code(signer.import(&both).await), refused(422, "validator_already_here"));
    signer.import(&of_one_validator(1)).await.unwrap();
    assert_eq!(code(signer.import(&of_one_validator(2)).await), refused(422, "validator_already_here"));
    signer.import(&of_one_validator(1)).await.expect("the same again adds its history");
    // A whole folder, of two members.
    let charon = Charon::new(clock());
    hand_in(&signer, &charon.folder(0)).await.unwrap();
    assert_eq!(code(hand_in(&signer, &charon.folder(1)).await), refused(422, "validator_already_here"));
    // Of a backup, all others come in.
    let other = old.start().await;
    other.import_only(&of_one_validator(2)).await.unwrap();
    other.import_only(&bundle(&[3], History::NeverSigned)).await.unwrap();
    let taken = restore(&signer, &back_up(&other).await.file, WORDS).await.unwrap();
    assert_eq!((taken.imported.len(), taken.left_out.len(), taken.second.len()), (1, 0, 1));
    let left = &taken.second[0];
    let named = (left.share.as_str(), left.other.as_str(), left.validator.as_str());
    let expected = [2, 1, 200].map(|number| pubshare(number).to_string());
    assert_eq!(named, (expected[0].as_str(), expected[1].as_str(), expected[2].as_str()));
    assert!(left.next_step.contains("keymanager"), "{left:?}");
    // What another box has destroyed for this one is taken all the same; the owner is told.
    let (certificate, release_key) = move_to(&other, &signer).await;
    arrive(&signer, &release_key, &certificate).await.unwrap();
    let problems = signer.status().await.problems;
    let told = problems.iter().find(|problem| problem.code == "validator_twice").unwrap();
    assert!(
        told.message.contains(&pubshare(1).to_string()) && told.message.contains(&pubshare(2).to_string())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_of_which_nothing_may_come_in_says_of_each_share_why() {
    let (machine, old, third) = (Machine::new(), Machine::new(), Machine::new());
    let (signer, other, last) = (machine.start().await, old.start().await, third.start().await);
    // The third share was given up here for good, and the first is of the same validator as the second.
    signer.import_only(&bundle(&[3], History::NeverSigned)).await.unwrap();
    move_to(&signer, &last).await;
    let of_one_validator = |number: u8| {
        let mut bundle = bundle(&[number], History::NeverSigned);
        bundle.validators[0].group_public_key = pubshare(200).to_string();
        bundle
    };
    signer.import_only(&of_one_validator(1)).await.unwrap();
    other.import_only(&of_one_validator(2)).await.unwrap();
    other.import_only(&bundle(&[3], History::NeverSigned)).await.unwrap();
    let taken = restore(&signer, &back_up(&other).await.file, WORDS).await.unwrap();
    assert_eq!((taken.imported.len(), taken.already_held.len()), (0, 0));
    assert_eq!(taken.left_out, [pubshare(3).to_string()]);
    let second: Vec<_> = taken.second.iter().map(|second| second.share.clone()).collect();
    assert_eq!(second, [pubshare(2).to_string()]);
    // Where nothing else is to be said, that it was given up is an error.
    let retired = Machine::new();
    let retired = retired.start().await;
    retired.import_only(&bundle(&[3], History::NeverSigned)).await.unwrap();
    let outcome = restore(&signer, &back_up(&retired).await.file, WORDS).await;
    assert_eq!(code(outcome), refused(422, "share_retired"));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_chains_with_one_validator_key_are_two_validators() {
    let machine = Machine::new();
    let signer = machine.start().await;
    let on = |number: u8, root: chain::Root| {
        let mut bundle = bundle(&[number], History::NeverSigned);
        bundle.validators[0].group_public_key = pubshare(200).to_string();
        bundle.genesis_validators_root = root.to_string();
        bundle
    };
    signer.import_only(&on(1, GENESIS_ROOT)).await.unwrap();
    // A local chain that was begun anew, with the same validators split once more: nothing of it conflicts.
    signer.import_only(&on(2, chain::Root([0x43; 32]))).await.unwrap();
    assert!(!signer.problem_codes().await.contains(&"validator_twice".to_owned()));
    assert_eq!(code(signer.import_only(&on(3, GENESIS_ROOT)).await), refused(422, "validator_already_here"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_share_imported_into_a_running_chain_waits_for_two_epochs() {
    let machine = Machine::new();
    let signer = machine.start().await;
    let mut shares = bundle(&[1], History::NeverSigned);
    shares.chain = clock_with(250);
    shares.chain.genesis_time -= 60; // Epoch 28 or so.
    signer.import(&shares).await.unwrap();
    let epoch = epoch_of(&shares.chain);
    assert_eq!(signer.problem_codes().await, ["waiting_after_import"]);
    let early = signer.attest(&pubshare(1), &vote(epoch - 1, epoch, 1)).await;
    assert_eq!(code(early), refused(412, "slashable"));
    assert_eq!(signer.status().await.shares[0].last_signed, None);
    until_epoch(&shares.chain, epoch + 2).await;
    signer.attest(&pubshare(1), &vote(epoch + 1, epoch + 2, 1)).await.unwrap();
    assert_eq!(signer.problem_codes().await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tpm_that_fails_during_an_import_locks_until_it_is_back() {
    let mut machine = Machine::new();
    let signer = machine.start().await;
    signer.import(&bundle(&[1], History::NeverSigned)).await.unwrap();
    let tpm = machine.swtpm.take().unwrap();
    let state = machine.dir.path().join("tpm");
    drop(tpm);
    let second = bundle(&[2], History::NeverSigned);
    let key = signer.status().await.import_key.unwrap();
    assert_eq!(code(signer.import(&second).await), refused(503, "tpm_missing"));
    // The ledger is one ahead now. Nothing more may happen before the TPM has caught up.
    let again = ipc::envelope::seal(&key, &second).unwrap();
    assert_eq!(code(signer.control.post::<()>(SHARES_PATH, &again).await), refused(503, "tpm_missing"));
    assert_eq!(code(signer.attest(&pubshare(1), &vote(1, 2, 1)).await), refused(503, "tpm_missing"));
    machine.swtpm = Some(tpm::swtpm::Swtpm::start_at(&machine.tcti, &state).unwrap());
    // It tries again by itself, without a restart.
    let begun = std::time::Instant::now();
    loop {
        let codes = signer.problem_codes().await;
        if codes.is_empty() {
            break;
        }
        assert_eq!(codes, ["tpm_missing"], "no false alarm about an old ledger");
        assert!(begun.elapsed() < Duration::from_secs(60), "{}", signer.log_text());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    until_epoch(&second.chain, 3).await;
    for number in [1, 2] {
        signer.attest(&pubshare(number), &vote(1, 2, 1)).await.unwrap();
    }
    signer.import_only(&bundle(&[3], History::NeverSigned)).await.unwrap();
    signer.stop();
    assert_eq!(machine.start().await.problem_codes().await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_killed_at_any_moment_is_whole_or_absent() {
    let machine = Machine::new();
    machine.start().await.stop();
    let mut whole = 0;
    for round in 0..12_u8 {
        let numbers = [10 + 3 * round, 11 + 3 * round, 12 + 3 * round];
        let signer = machine.start().await;
        let key = signer.status().await.import_key.unwrap();
        let shares = bundle(&numbers, History::NeverSigned);
        let sealed = ipc::envelope::seal(&key, &shares).unwrap();
        let cut = tokio::time::timeout(
            Duration::from_micros(u64::from(round) * 500),
            signer.control.post::<serde_json::Value>(SHARES_PATH, &sealed),
        );
        let answered = cut.await.is_ok();
        drop(signer); // kill -9
        machine.forget_the_power_cut();
        let signer = machine.start().await;
        assert_eq!(signer.problem_codes().await, [""; 0], "round {round}");
        let keys: Vec<chain::PublicKeyBytes> =
            signer.sign.get(ipc::web3signer::PUBLIC_KEYS_PATH).await.unwrap();
        let held = numbers.iter().filter(|number| keys.contains(&pubshare(**number))).count();
        assert!(held == 0 || held == 3, "round {round}: {held} of 3 shares");
        assert!(held == 3 || !answered, "round {round}: an answered import is durable");
        whole += held / 3;
        signer.import_only(&bundle(&numbers, History::NeverSigned)).await.unwrap();
        if round == 11 {
            until_epoch(&shares.chain, 1000).await;
            signer.attest(&pubshare(numbers[2]), &vote(1, 2, 1)).await.unwrap();
            signer.attest(&pubshare(10), &vote(1, 2, 1)).await.unwrap();
        }
        signer.stop();
    }
    println!("{whole} of 12 interrupted imports were whole");
}
