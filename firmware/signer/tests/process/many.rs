//! Lists of messages: one request, one durable write, each message still judged by itself.

use std::collections::BTreeSet;

use crate::harness::*;
use chain::PublicKeyBytes;
use ipc::{
    ClientError, SignRequest,
    signer::History,
    web3signer::{MAX_SIGNED_AT_ONCE, SIGN_MANY_PATH, SignGroup, SignOutcome},
};

fn group(numbers: &[u8], vote: &chain::AttestationData) -> SignGroup {
    SignGroup {
        keys: numbers.iter().map(|number| pubshare(*number)).collect(),
        request: SignRequest::attestation(fork_info(), vote).unwrap(),
    }
}

async fn sign_many(signer: &Running, groups: &[SignGroup]) -> Result<Vec<Vec<SignOutcome>>, ClientError> {
    signer.sign.post(SIGN_MANY_PATH, &groups).await
}

fn code_of(outcome: &SignOutcome) -> String {
    match outcome {
        SignOutcome::Signed(_) => String::new(),
        SignOutcome::Refused { status, problem } => format!("{status} {}", problem.code),
    }
}

async fn commits(signer: &Running) -> u64 {
    let metrics = signer.control.get_text("/metrics").await.unwrap();
    let line = metrics.lines().find(|line| line.starts_with("hearth_signer_commit_seconds_count")).unwrap();
    line.split_whitespace().last().unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_is_signed_with_one_write_and_each_message_is_judged_by_itself() {
    let machine = Machine::new();
    let signer = machine.start().await;
    let held: Vec<u8> = (1..=40).collect();
    signer.import(&bundle(&held, History::NeverSigned)).await.unwrap();
    signer.attest(&pubshare(3), &vote(9, 20, 2)).await.unwrap();
    let before = commits(&signer).await;

    let asked = vote(9, 20, 1);
    let stranger = 99;
    let mut numbers = held.clone();
    numbers.push(stranger);
    let mut garbled = group(&[6], &vote(9, 21, 1));
    garbled.request.body.clear();
    let groups =
        [group(&numbers, &asked), group(&[4], &vote(9, 20, 7)), garbled, group(&[4, 5], &vote(10, 21, 1))];
    let outcomes = sign_many(&signer, &groups).await.unwrap();

    assert_eq!(commits(&signer).await, before + 1, "one durable write for all");
    for (number, outcome) in numbers.iter().zip(&outcomes[0]) {
        match (number, outcome) {
            (3, outcome) => {
                assert_eq!(code_of(outcome), "412 slashable", "it signed for another head before")
            }
            (99, outcome) => assert_eq!(code_of(outcome), "404 unknown_key"),
            (_, SignOutcome::Signed(answer)) => assert!(signs(&pubshare(*number), &asked, &answer.signature)),
            (_, outcome) => panic!("{number}: {outcome:?}"),
        }
    }
    assert_eq!(code_of(&outcomes[1][0]), "412 slashable", "within one list, what came before counts");
    assert_eq!(code_of(&outcomes[2][0]), "400 malformed");
    assert_eq!(outcomes[3].iter().map(code_of).collect::<Vec<_>>(), ["", ""]);

    // The single call and a restart see the same history.
    assert_eq!(code(signer.attest(&pubshare(5), &vote(9, 20, 8)).await), refused(412, "slashable"));
    drop(signer); // kill -9
    machine.forget_the_power_cut();
    let signer = machine.start().await;
    let again = sign_many(&signer, &groups[..1]).await.unwrap();
    assert_eq!(again[0][0], outcomes[0][0], "the same again is harmless");
    let other: Vec<SignGroup> = vec![group(&held, &vote(9, 20, 5))];
    let refused: BTreeSet<String> =
        sign_many(&signer, &other).await.unwrap()[0].iter().map(code_of).collect();
    assert_eq!(refused, BTreeSet::from(["412 slashable".to_owned()]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_is_read_for_the_chain_of_each_share_that_is_asked_to_sign_it() {
    let machine = Machine::new();
    let signer = machine.start().await;
    let here = bundle(&[1], History::NeverSigned);
    let mut there = bundle(&[2], History::NeverSigned);
    there.chain = here.chain;
    there.genesis_validators_root = chain::Root([0x43; 32]).to_string();
    signer.import_only(&there).await.unwrap();
    signer.import(&here).await.unwrap();
    let outcomes = sign_many(&signer, &[group(&[1, 2], &vote(9, 20, 1))]).await.unwrap();
    assert_eq!(outcomes[0].iter().map(code_of).collect::<Vec<_>>(), ["", "412 wrong_chain"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_too_long_or_unreadable_are_refused_whole() {
    let machine = Machine::new();
    let signer = machine.start().await;
    signer.import(&bundle(&[1], History::NeverSigned)).await.unwrap();
    let mut long = group(&[1], &vote(9, 20, 1));
    long.keys = vec![PublicKeyBytes([7; 48]); MAX_SIGNED_AT_ONCE + 1];
    assert_eq!(code(sign_many(&signer, &[long]).await), refused(400, "malformed"));
    for text in ["", "{}", "[1]", "[{\"keys\":[\"0x00\"],\"type\":\"ATTESTATION\"}]"] {
        let answer = signer.sign.post_text::<serde_json::Value>(SIGN_MANY_PATH, text.to_owned()).await;
        assert_eq!(code(answer), refused(400, "malformed"), "{text}");
    }
    assert_eq!(sign_many(&signer, &[]).await.unwrap(), Vec::<Vec<SignOutcome>>::new());
}
