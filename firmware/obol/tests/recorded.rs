//! What Charon v1.10.3 says, recorded: each message was received by our own host in the place of the fourth operator of a
//! test cluster whose other three ran the reference (`examples/beside_charon.rs`). It must be understood for ever.

#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use std::collections::BTreeSet;

use cluster::{ClusterView, Lock, Network, PeerId};
use obol::duty::{Now, SlotLengths};
use obol::{Duty, DutyType, consensus, infosync, parsigex, peerinfo, priority};
use prost::Message as _;

fn cluster() -> ClusterView {
    let lock: serde_json::Value = serde_json::from_str(include_str!("recorded/cluster-lock.json")).unwrap();
    let network = Network {
        name: "devnet".to_owned(),
        chain_id: 1337,
        genesis_fork_version: chain::ForkVersion([0x20, 0, 0, 0x89]),
        genesis_time: 0,
    };
    Lock::from_value(lock).unwrap().verify(&[network]).unwrap()
}

fn recorded(text: &str) -> Vec<u8> {
    hex::decode(text.split_whitespace().collect::<String>()).unwrap()
}

/// The present, as it was when a message about the slot arrived.
fn during(slot: u64) -> Now {
    let slot_ns = 3_000_000_000;
    Now { since_genesis_ns: slot * slot_ns, lengths: SlotLengths { slot_ns, slots_per_epoch: 16 } }
}

fn peer(view: &ClusterView, index: usize) -> PeerId {
    view.operators[index].peer_id
}

fn agreement(bytes: &[u8], kind: DutyType) -> consensus::Received {
    let view = cluster();
    let keys: Vec<_> = view.operators.iter().map(|operator| operator.public_key).collect();
    let slot = consensus::decode(bytes, 4).unwrap().msg.unwrap().duty.unwrap().slot;
    let context = consensus::Context {
        operators: &keys,
        validators: view.validators.len(),
        kinds: &[kind],
        now: during(slot),
    };
    let received = consensus::receive(bytes, &context).unwrap();
    assert_eq!(received.duty, Duty::new(slot, kind));
    received
}

#[test]
fn an_agreement_on_an_attestation_is_understood() {
    let received = agreement(&recorded(include_str!("recorded/qbft-attester.hex")), DutyType::Attester);
    let value = received.values.values().next().unwrap();
    let set = obol::wire::UnsignedDataSet::decode(&**value).unwrap();
    assert_eq!(set.set.len(), 1);
    for bytes in set.set.values() {
        let data = obol::unsigned::AttesterData::decode(bytes).unwrap();
        assert_eq!(data.attestation_data.slot.0, received.duty.slot);
    }
}

#[test]
fn an_agreement_on_priorities_is_understood_and_hashed_alike() {
    let received = agreement(&recorded(include_str!("recorded/qbft-info-sync.hex")), DutyType::InfoSync);
    let value = received.values.values().next().unwrap();
    let result = obol::wire::PriorityResult::decode(&**value).unwrap();
    assert!(result.msgs.len() >= 3, "a quorum spoke");
    let mut info = infosync::InfoSync::default();
    info.add(received.duty.slot, &result);
    assert!(info.at(received.duty.slot, infosync::VERSION).contains(&"v1.10".to_owned()));
    assert!(info.at(received.duty.slot, infosync::PROTOCOL).contains(&"/charon/parsigex/2.0.0".to_owned()));
    // From the messages it used we compute the same result.
    assert_eq!(priority::calculate(&result.msgs, 3).unwrap(), result);
}

#[test]
fn a_members_wishes_are_understood() {
    let view = cluster();
    for (text, index) in
        [(include_str!("recorded/priority-of-0.hex"), 0), (include_str!("recorded/priority-of-1.hex"), 1)]
    {
        let bytes = recorded(text);
        let slot = obol::wire::PriorityMsg::decode(bytes.as_slice()).unwrap().duty.unwrap().slot;
        let (duty, message) = priority::receive(&bytes, &peer(&view, index), during(slot)).unwrap();
        assert_eq!(duty, Duty::new(slot, DutyType::InfoSync));
        assert_eq!(message.topics.len(), 3);
        let other = peer(&view, (index + 1) % 4);
        assert_eq!(priority::receive(&bytes, &other, during(slot)), Err(priority::Refusal::NotTheSender));
    }
}

#[test]
fn what_a_member_says_about_itself_is_understood() {
    let view = cluster();
    let bytes = recorded(include_str!("recorded/peerinfo.hex"));
    let report = peerinfo::check(&bytes, &view.lock_hash, 0, 0).unwrap();
    assert!(report.same_lock && report.version_supported, "{report:?}");
    assert_eq!((report.dv_client.as_str(), report.charon_version.as_str()), ("", "v1.10"));
}

#[test]
fn partial_signatures_are_understood() {
    let view = cluster();
    let validators: BTreeSet<_> = view.validators.iter().map(|one| one.group_public_key).collect();
    for (kind, text) in [
        (DutyType::Attester, include_str!("recorded/parsigex-attester.hex")),
        (DutyType::Randao, include_str!("recorded/parsigex-randao.hex")),
        (DutyType::PrepareAggregator, include_str!("recorded/parsigex-prepare-aggregator.hex")),
    ] {
        let bytes = recorded(text);
        let slot = obol::wire::ParSigExMsg::decode(bytes.as_slice()).unwrap().duty.unwrap().slot;
        let context = parsigex::Context {
            validators: &validators,
            members: 4,
            kinds: &[kind],
            now: during(slot),
            sender: 1,
        };
        let received = parsigex::receive(&bytes, &context).unwrap();
        assert_eq!((received.duty, received.partials.len()), (Duty::new(slot, kind), 1));
        assert!(received.partials.values().all(|one| one.signed.signature().is_some()), "{kind:?}");
    }
}

#[test]
fn an_agreement_on_a_block_is_understood() {
    let received = agreement(&recorded(include_str!("recorded/qbft-proposer.hex")), DutyType::Proposer);
    assert_eq!(received.values.len(), 1);
}
