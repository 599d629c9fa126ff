//! What members ask and tell beacon nodes for the duties beyond attesting.

#![expect(clippy::unwrap_used, reason = "a test fails loudly")]

mod fake;

use std::sync::Arc;

use beacon::{BeaconError, BeaconNodes, BlockRequest, Cause, ExpectedChain, Registered, Timeouts};
use chain::{
    AttestationData, BeaconCommitteeSubscription, Bytes32, CommitteeIndex, Epoch, ExecutionAddress, ForkName,
    ProposerPreparation, PublicKeyBytes, Root, SignatureBytes, SignedValidatorRegistration,
    SignedVoluntaryExit, Slot, SyncCommitteeMessage, SyncCommitteePosition, SyncCommitteeSubscription,
    ValidatorIndex,
};
use fake::{FakeChain, FakeNode, Fault};
use serde_json::json;
use tree_hash::TreeHash as _;

async fn one_node() -> (FakeNode, BeaconNodes) {
    let keys: Vec<PublicKeyBytes> = (0..4).map(|byte| PublicKeyBytes([byte; 48])).collect();
    let node = FakeNode::start(FakeChain::new(keys)).await;
    let timeouts = Timeouts { read_ms: 1_000, submit_ms: 1_000, hedge_ms: 100, ..Timeouts::default() };
    let nodes =
        BeaconNodes::new(std::slice::from_ref(&node.url), timeouts, ExpectedChain::default()).unwrap();
    nodes.refresh().await;
    (node, nodes)
}

fn unfitting<T: std::fmt::Debug>(result: Result<T, BeaconError>) -> bool {
    matches!(result, Err(BeaconError::AllFailed { last, .. }) if matches!(last.cause, Cause::Unfitting(_) | Cause::Unreadable(_)))
}

fn request(slot: u64) -> BlockRequest {
    BlockRequest {
        slot: Slot(slot),
        randao_reveal: SignatureBytes([5; 96]),
        graffiti: Some(Bytes32([6; 32])),
        builder_boost_factor: Some(u64::MAX),
    }
}

#[tokio::test]
async fn proposers_of_an_epoch_are_told_with_the_root_they_depend_on() {
    let (node, nodes) = one_node().await;
    let duties = nodes.proposer_duties(Epoch(3)).await.unwrap();
    assert_eq!(duties.duties.len(), 8);
    assert_eq!(duties.duties[2].slot, Slot(26));
    node.inner.lock().unwrap().head = 77;
    assert_eq!(nodes.proposer_duties(Epoch(3)).await.unwrap().dependent_root, Root([77; 32]), "never kept");
    let wrong = json!({"dependent_root": Root([1; 32]), "data": [{"pubkey": PublicKeyBytes([1; 48]), "validator_index": "1", "slot": "8"}]});
    node.fault("duties/proposer", Fault::Says(200, wrong.to_string().into_bytes()));
    assert!(unfitting(nodes.proposer_duties(Epoch(3)).await), "slot 8 is in epoch 1");
}

#[tokio::test]
async fn who_was_live_in_an_epoch_is_told_of_those_that_were_asked_for() {
    let (node, nodes) = one_node().await;
    let indices = [0, 1, 2].map(ValidatorIndex);
    assert_eq!(nodes.seen_live(Epoch(7), &indices).await.unwrap(), [].into());
    node.inner.lock().unwrap().voted.insert(7, vec![1, 3]);
    assert_eq!(nodes.seen_live(Epoch(7), &indices).await.unwrap(), [ValidatorIndex(1)].into());
    assert_eq!(nodes.seen_live(Epoch(6), &indices).await.unwrap(), [].into());
    assert_eq!(nodes.seen_live(Epoch(7), &[]).await.unwrap(), [].into(), "nobody is asked about nobody");
    let stranger = json!({"data": [{"index": "3", "is_live": true}]});
    node.fault("liveness", Fault::Says(200, stranger.to_string().into_bytes()));
    assert!(unfitting(nodes.seen_live(Epoch(7), &indices).await));
    // Whatever it says to this question, it goes on being asked the others.
    for status in [400, 404, 500, 503] {
        node.fault("liveness", Fault::Says(status, b"{}".to_vec()));
        assert!(nodes.seen_live(Epoch(7), &indices).await.is_err());
        assert!(nodes.proposer_duties(Epoch(3)).await.is_ok(), "after {status}");
    }
}

#[tokio::test]
async fn blocks_come_in_ssz_or_json_full_or_blinded() {
    let (node, nodes) = one_node().await;
    for blinded in [false, true] {
        let mut seen = Vec::new();
        for only_json in [false, true] {
            {
                let mut inner = node.inner.lock().unwrap();
                (inner.blinded, inner.only_json) = (blinded, only_json);
            }
            let produced = nodes.produce_block(&request(40)).await.unwrap();
            assert_eq!((produced.fork, produced.block.is_blinded()), (ForkName::Electra, blinded));
            assert_eq!(produced.execution_payload_value, 12_345.into());
            assert_eq!(produced.consensus_block_value, 678.into());
            assert_eq!(produced.block.slot(), Slot(40));
            seen.push(produced);
        }
        assert_eq!(seen[0], seen[1], "both forms say the same");
    }
}

#[tokio::test]
async fn a_block_that_nobody_asked_for_is_refused() {
    let (node, nodes) = one_node().await;
    for answer in [
        json!({"version": "electra", "execution_payload_blinded": false, "data": fake::members::block(Slot(41), 1, SignatureBytes([5; 96]), false)}),
        json!({"version": "electra", "execution_payload_blinded": true, "data": fake::members::block(Slot(40), 1, SignatureBytes([5; 96]), false)}),
        json!({"version": "deneb", "execution_payload_blinded": false, "data": {}}),
        json!({"version": "zeta", "execution_payload_blinded": false, "data": {}}),
        json!({"version": "electra", "data": fake::members::block(Slot(40), 1, SignatureBytes([5; 96]), false)}),
    ] {
        node.fault("v3/validator/blocks", Fault::Says(200, answer.to_string().into_bytes()));
        assert!(unfitting(nodes.produce_block(&request(40)).await), "{answer:.80}");
    }
}

#[tokio::test]
async fn blocks_are_published_in_ssz_and_in_json_where_that_is_not_read() {
    let (node, nodes) = one_node().await;
    for (blinded, path) in [(false, "/eth/v2/beacon/blocks"), (true, "/eth/v2/beacon/blinded_blocks")] {
        let signed = fake::members::block(Slot(40), 1, SignatureBytes([5; 96]), blinded)
            .signed(SignatureBytes([9; 96]));
        let signed = Arc::new(signed);
        node.inner.lock().unwrap().only_json = false;
        nodes.publish_block(ForkName::Electra, Arc::clone(&signed)).await.unwrap();
        assert_eq!(node.submitted().pop().unwrap(), (path.to_owned(), json!(signed.to_ssz())));
        node.inner.lock().unwrap().only_json = true;
        nodes.publish_block(ForkName::Electra, Arc::clone(&signed)).await.unwrap();
        assert_eq!(node.submitted().pop().unwrap(), (path.to_owned(), json!(*signed)));
    }
    node.fault("/eth/v2/beacon/blocks", Fault::Says(400, br#"{"message":"bad block","code":400}"#.to_vec()));
    let signed =
        fake::members::block(Slot(40), 1, SignatureBytes([5; 96]), false).signed(SignatureBytes([9; 96]));
    let error = nodes.publish_block(ForkName::Electra, Arc::new(signed)).await.unwrap_err();
    assert!(error.to_string().contains("bad block"), "{error}");
}

#[tokio::test]
async fn seats_of_the_sync_committee_are_checked() {
    let (node, nodes) = one_node().await;
    let asked = [ValidatorIndex(1), ValidatorIndex(3)];
    let duties = nodes.sync_duties(Epoch(5), &asked).await.unwrap();
    assert_eq!(duties.len(), 2);
    assert_eq!(duties[1].sync_committee_indices, [SyncCommitteePosition(3), SyncCommitteePosition(203)]);
    assert!(nodes.sync_duties(Epoch(5), &[]).await.unwrap().is_empty());
    let key = PublicKeyBytes([1; 48]);
    for (index, seats) in [("1", json!(["512"])), ("1", json!(["7", "7"])), ("2", json!(["7"]))] {
        let wrong = json!({"data": [{"pubkey": key, "validator_index": index, "validator_sync_committee_indices": seats}]});
        node.fault("duties/sync", Fault::Says(200, wrong.to_string().into_bytes()));
        assert!(unfitting(nodes.sync_duties(Epoch(5), &asked).await), "{wrong}");
    }
}

#[tokio::test]
async fn an_empty_contribution_is_no_contribution() {
    let (_node, nodes) = one_node().await;
    let found = nodes.sync_committee_contribution(Slot(7), 2, Root([9; 32])).await.unwrap();
    assert_eq!(found.unwrap().subcommittee_index, 2);
    assert_eq!(nodes.sync_committee_contribution(Slot(7), 2, Root([8; 32])).await.unwrap(), None);
}

#[tokio::test]
async fn aggregates_are_of_the_data_and_committee_asked_for() {
    let (node, nodes) = one_node().await;
    let data = AttestationData { slot: Slot(40), ..AttestationData::default() };
    let root = Root::from(data.tree_hash_root());
    let ask = |committee| nodes.aggregate_attestation(Slot(40), root, CommitteeIndex(committee));
    assert_eq!(ask(3).await.unwrap(), None);
    node.inner.lock().unwrap().aggregate = Some(json!({"aggregation_bits": "0x0f", "data": data,
        "signature": SignatureBytes([1; 96]), "committee_bits": "0x0800000000000000"}));
    assert_eq!(ask(3).await.unwrap().unwrap().data, data);
    assert!(unfitting(ask(2).await));
    assert!(unfitting(nodes.aggregate_attestation(Slot(40), Root([1; 32]), CommitteeIndex(3)).await));
}

#[tokio::test]
async fn registrations_without_a_builder_are_no_failure() {
    let (node, nodes) = one_node().await;
    let registration = SignedValidatorRegistration::default();
    assert_eq!(nodes.register_validators(&[registration]).await.unwrap(), Registered::NoBuilder);
    node.inner.lock().unwrap().has_builder = true;
    assert_eq!(nodes.register_validators(&[registration]).await.unwrap(), Registered::Accepted);
    node.fault("register_validator", Fault::Says(400, b"bad signature".to_vec()));
    assert!(nodes.register_validators(&[registration]).await.is_err());
}

#[tokio::test]
async fn everything_that_is_sent_has_the_form_of_the_beacon_api() {
    let (node, nodes) = one_node().await;
    let seats = vec![SyncCommitteePosition(3)];
    let subscription = SyncCommitteeSubscription {
        validator_index: ValidatorIndex(1),
        sync_committee_indices: seats,
        until_epoch: Epoch(8),
    };
    nodes.subscribe_sync_committees(&[subscription]).await.unwrap();
    let subscription = BeaconCommitteeSubscription {
        validator_index: ValidatorIndex(1),
        committee_index: CommitteeIndex(2),
        committees_at_slot: 3,
        slot: Slot(4),
        is_aggregator: true,
    };
    nodes.subscribe_beacon_committees(&[subscription]).await.unwrap();
    let preparation =
        ProposerPreparation { validator_index: ValidatorIndex(1), fee_recipient: ExecutionAddress([2; 20]) };
    nodes.prepare_proposers(&[preparation]).await.unwrap();
    nodes.submit_sync_messages(&[SyncCommitteeMessage::default()]).await.unwrap();
    nodes.submit_exit(&SignedVoluntaryExit::default()).await.unwrap();
    // Nodes refuse empty lists, so these are never sent.
    nodes.submit_contributions(&[]).await.unwrap();
    nodes.submit_aggregates(ForkName::Electra, &[]).await.unwrap();
    let sent = node.submitted();
    let bodies: Vec<_> = sent.iter().map(|(_, body)| body.clone()).collect();
    assert_eq!(bodies.len(), 5, "{sent:?}");
    assert_eq!(
        bodies[..3],
        [
            json!([{"validator_index": "1", "sync_committee_indices": ["3"], "until_epoch": "8"}]),
            json!([{"validator_index": "1", "committee_index": "2", "committees_at_slot": "3", "slot": "4", "is_aggregator": true}]),
            json!([{"validator_index": "1", "fee_recipient": "0x0202020202020202020202020202020202020202"}]),
        ]
    );
    assert!(bodies[4].is_object(), "an exit is sent alone, not in a list");
}

#[tokio::test]
async fn the_chain_tells_which_block_is_in_a_slot() {
    let (node, nodes) = one_node().await;
    assert_eq!(nodes.head_block_root().await.unwrap().root, Root([9; 32]));
    assert_eq!(nodes.block_at(Slot(3)).await.unwrap(), None);
    let header = |slot: &str| json!({"data": {"root": Root([4; 32]), "canonical": true, "header": {"message": {"slot": slot}, "signature": "0x"}}});
    node.fault("headers/3", Fault::Says(200, header("3").to_string().into_bytes()));
    assert_eq!(nodes.block_at(Slot(3)).await.unwrap().unwrap().root, Root([4; 32]));
    node.fault("headers/3", Fault::Says(200, header("2").to_string().into_bytes()));
    assert!(unfitting(nodes.block_at(Slot(3)).await), "the block before an empty slot is not the slot's");
}
