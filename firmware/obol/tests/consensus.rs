//! Which consensus messages are listened to, and which are refused under which name.

#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use std::collections::BTreeMap;
use std::sync::Arc;

use chain::PublicKeyBytes;
use cluster::{IdentityKey, IdentityPublicKey};
use obol::consensus::{Context, Received, Refusal, Seal, SendError, encode, receive, sign, value_of};
use obol::duty::{Duty, DutyType, Now, SlotLengths};
use obol::unsigned::set_key;
use obol::wire::{Any, Named as _, QbftConsensusMsg, QbftMsg, StringValue, UnsignedDataSet};
use proptest::prelude::*;
use prost::Message as _;
use qbft::{Ballot, Digest, Kind, Member, Message, Vote};
use zeroize::Zeroizing;

const DUTY: Duty = Duty::new(100, DutyType::Attester);
const LENGTHS: SlotLengths = SlotLengths { slot_ns: 12_000_000_000, slots_per_epoch: 32 };

fn key(member: u8) -> IdentityKey {
    IdentityKey::from_bytes(Zeroizing::new([member + 1; 32])).unwrap()
}

fn operators() -> Vec<IdentityPublicKey> {
    (0..4).map(|member| key(member).public_key()).collect()
}

fn context(operators: &[IdentityPublicKey]) -> Context<'_> {
    Context {
        operators,
        validators: 2,
        kinds: &[DutyType::Attester, DutyType::Proposer, DutyType::InfoSync],
        now: Now { since_genesis_ns: 100 * 12_000_000_000, lengths: LENGTHS },
    }
}

fn value(byte: u8) -> (Digest, Arc<[u8]>) {
    let set = BTreeMap::from([(set_key(&PublicKeyBytes([byte; 48])), vec![byte; 232])]);
    value_of(&UnsignedDataSet { set })
}

fn lookup(digest: &Digest) -> Option<Arc<[u8]>> {
    (0..8).map(value).find(|(known, _)| known == digest).map(|(_, bytes)| bytes)
}

fn own(ballot: Ballot) -> Vote<Seal> {
    Vote { ballot, seal: None }
}

/// A vote of another member, sealed as it would arrive.
fn sealed(ballot: Ballot) -> Vote<Seal> {
    let bytes = encode(
        DUTY,
        &Message { vote: own(ballot), justification: Vec::new() },
        ballot.author,
        &key(ballot.author.0),
        lookup,
    );
    receive(&bytes.unwrap(), &context(&operators())).unwrap().message.vote
}

/// A PRE-PREPARE of round 2 by its leader, justified by three ROUND-CHANGEs and three PREPAREs.
fn justified() -> Message<Seal> {
    let prepared = value(1).0;
    let mut justification = Vec::new();
    for author in (0..3).map(Member) {
        justification.push(sealed(Ballot::round_change(author, 2, Some((1, prepared)))));
    }
    for author in (1..4).map(Member) {
        justification.push(sealed(Ballot::for_value(Kind::Prepare, author, 1, prepared)));
    }
    Message { vote: own(Ballot::for_value(Kind::PrePrepare, Member(0), 2, prepared)), justification }
}

fn encoded(message: &Message<Seal>) -> Vec<u8> {
    encode(DUTY, message, Member(0), &key(0), lookup).unwrap()
}

/// Receives a message after a change to its decoded form; `resign` signs the main vote again as member 0.
fn changed(resign: bool, change: impl FnOnce(&mut QbftConsensusMsg)) -> Result<Received, Refusal> {
    let mut message = QbftConsensusMsg::decode(encoded(&justified()).as_slice()).unwrap();
    change(&mut message);
    if resign {
        let main = message.msg.as_mut().unwrap();
        main.signature.clear();
        main.signature = key(0).sign(&obol::root::message_root(main)).to_vec();
    }
    receive(&message.encode_to_vec(), &context(&operators()))
}

fn main_of(message: &mut QbftConsensusMsg) -> &mut QbftMsg {
    message.msg.as_mut().unwrap()
}

#[test]
fn what_we_send_is_received_with_its_justification_and_one_value_per_digest() {
    let sent = justified();
    let bytes = encoded(&sent);
    let received = receive(&bytes, &context(&operators())).unwrap();
    assert_eq!(received.duty, DUTY);
    assert_eq!(received.message.vote.ballot, sent.vote.ballot);
    assert_eq!(received.message.justification, sent.justification);
    assert_eq!(received.values.into_iter().collect::<Vec<_>>(), [value(1)]);
}

#[test]
fn a_justification_is_relayed_byte_for_byte() {
    let bytes = encoded(&justified());
    let received = receive(&bytes, &context(&operators())).unwrap();
    // Member 3 relays the whole message: no key of the authors is needed.
    assert_eq!(encode(DUTY, &received.message, Member(3), &key(3), lookup).unwrap(), bytes);
}

#[test]
fn a_seal_survives_the_journal() {
    let vote = sealed(Ballot::for_value(Kind::Commit, Member(2), 1, value(3).0));
    let text = serde_json::to_string(&vote).unwrap();
    assert_eq!(serde_json::from_str::<Vote<Seal>>(&text).unwrap(), vote);
}

#[test]
fn what_we_cannot_back_is_not_sent() {
    let unknown = Digest([0xee; 32]);
    let message =
        Message { vote: own(Ballot::for_value(Kind::Prepare, Member(0), 1, unknown)), justification: vec![] };
    assert_eq!(encode(DUTY, &message, Member(0), &key(0), lookup), Err(SendError::MissingValue(unknown)));
    assert_eq!(
        encode(DUTY, &message, Member(1), &key(1), |_| Some(value(0).1)),
        Err(SendError::NotOurs(Member(0)))
    );
}

#[test]
fn a_field_added_by_a_newer_release_is_signed_along_and_kept() {
    let mut vote = sign(DUTY, &Ballot::for_value(Kind::Commit, Member(1), 1, value(1).0), &key(1));
    vote.signature.clear();
    let added = [0xf8, 0x01, 0x07]; // Field 31, varint 7.
    let unsigned = [vote.encode_to_vec(), added.to_vec()].concat();
    vote.signature = key(1).sign(&obol::root::bytes_root(&unsigned)).to_vec();
    let raw = [vote.encode_to_vec(), added.to_vec()].concat();
    let mut bytes = Vec::new();
    prost::encoding::bytes::encode(1, &raw, &mut bytes);
    prost::encoding::message::encode(3, &value_any(1), &mut bytes);
    let received = receive(&bytes, &context(&operators())).unwrap();
    assert_eq!(received.message.vote.seal.unwrap().as_bytes(), raw);
}

fn value_any(byte: u8) -> Any {
    Any { type_url: UnsignedDataSet::default().to_any().type_url, value: value(byte).1.to_vec() }
}

#[test]
fn votes_of_another_duty_justify_nothing() {
    // The votes inside are signed by their members and were all said: about another slot, or another duty of the slot.
    let of = |slot: u64, kind: i32| {
        changed(true, move |message| {
            let duty = main_of(message).duty.as_mut().unwrap();
            (duty.slot, duty.r#type) = (slot, kind);
        })
    };
    assert!(of(DUTY.slot, 2).is_ok());
    for (slot, kind) in [(DUTY.slot + 1, 2), (DUTY.slot, 1), (DUTY.slot, 13), (DUTY.slot + 1, 1)] {
        assert_eq!(of(slot, kind).unwrap_err(), Refusal::OtherDuty, "{slot} {kind}");
    }
}

#[test]
fn every_broken_rule_has_its_name() {
    type Change = fn(&mut QbftConsensusMsg);
    // (signed again, change, refusal)
    let table: &[(bool, Change, Refusal)] = &[
        (false, |m| m.msg = None, Refusal::Absent("msg")),
        (true, |m| main_of(m).duty = None, Refusal::Absent("duty")),
        (false, |m| m.justification[0].duty = None, Refusal::Absent("duty")),
        (true, |m| main_of(m).r#type = 0, Refusal::UnknownType(0)),
        (true, |m| main_of(m).r#type = 6, Refusal::UnknownType(6)),
        (true, |m| main_of(m).duty.as_mut().unwrap().r#type = 14, Refusal::UnknownDuty(14)),
        (true, |m| main_of(m).duty.as_mut().unwrap().r#type = 0, Refusal::UnknownDuty(0)),
        (true, |m| main_of(m).round = 0, Refusal::BadRound),
        (true, |m| main_of(m).round = i64::MIN, Refusal::BadRound),
        (true, |m| main_of(m).prepared_round = -1, Refusal::BadRound),
        (true, |m| main_of(m).peer_idx = 4, Refusal::UnknownMember(4)),
        (true, |m| main_of(m).peer_idx = -1, Refusal::UnknownMember(-1)),
        (true, |m| main_of(m).peer_idx = 256, Refusal::UnknownMember(256)),
        (true, |m| main_of(m).peer_idx = 1, Refusal::WrongSignature(1)),
        (false, |m| main_of(m).round = 3, Refusal::WrongSignature(0)),
        (false, |m| main_of(m).signature.clear(), Refusal::WrongSignature(0)),
        (false, |m| main_of(m).signature[64] = 29, Refusal::WrongSignature(0)),
        (false, |m| m.justification[4].round = 7, Refusal::WrongSignature(2)),
        (true, |m| main_of(m).duty.as_mut().unwrap().slot = 101, Refusal::OtherDuty),
        (true, |m| main_of(m).duty.as_mut().unwrap().slot = 6 * 32, Refusal::TooEarly),
        (true, |m| main_of(m).duty.as_mut().unwrap().slot = 60, Refusal::Expired),
        (true, |m| main_of(m).duty.as_mut().unwrap().r#type = 4, Refusal::NeverAgreed),
        (false, |m| m.justification = vec![m.justification[0].clone(); 9], Refusal::TooManyJustifications),
        (false, |m| m.values = vec![m.values[0].clone(); 15], Refusal::TooManyValues),
        (false, |m| m.values.clear(), Refusal::MissingValue),
        (true, |m| main_of(m).value_hash = vec![5; 32], Refusal::MissingValue),
        (false, |m| m.justification[5].value_hash = vec![5; 32], Refusal::MissingValue),
        (false, |m| m.values[0] = StringValue::any("x"), Refusal::UnknownValue),
        (false, |m| m.values[0].value.push(7), Refusal::BadValue),
        (true, |m| main_of(m).value_hash = vec![5; 5000], Refusal::VoteTooLong(5114)),
    ];
    for (index, (resign, change, refusal)) in table.iter().enumerate() {
        assert_eq!(changed(*resign, change).unwrap_err(), *refusal, "row {index}");
    }
    assert!(changed(true, |_| ()).is_ok());
}

#[test]
fn hashes_of_another_length_say_no_value_and_v_of_27_is_understood() {
    let received = changed(true, |m| main_of(m).prepared_value_hash = vec![9; 31]).unwrap();
    assert!(received.message.vote.ballot.prepared_value.is_zero());
    assert!(changed(false, |m| main_of(m).signature[64] += 27).is_ok());
}

#[test]
fn a_value_with_more_entries_than_validators_is_refused_before_it_is_decoded() {
    let set = (0..3).map(|byte| (set_key(&PublicKeyBytes([byte; 48])), vec![1])).collect();
    let any = UnsignedDataSet { set }.to_any();
    assert_eq!(changed(false, |m| m.values[0] = any).unwrap_err(), Refusal::BadValue);
}

#[test]
fn a_message_relayed_by_another_member_is_accepted() {
    // Nothing in the check asks who brought it: only signatures count.
    let vote = sealed(Ballot::for_value(Kind::Commit, Member(2), 1, value(3).0));
    let bytes = encode(DUTY, &Message { vote, justification: vec![] }, Member(1), &key(1), lookup).unwrap();
    assert_eq!(receive(&bytes, &context(&operators())).unwrap().message.vote.ballot.author, Member(2));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn any_bytes_are_refused_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(receive(&bytes, &context(&operators())).is_err());
    }

    #[test]
    fn a_changed_byte_changes_no_ballot(at in any::<prop::sample::Index>(), bit in 0_u8..8) {
        let sent = justified();
        let mut bytes = encoded(&sent);
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        if let Ok(received) = receive(&bytes, &context(&operators())) {
            prop_assert_eq!(received.message.vote.ballot, sent.vote.ballot);
        }
    }

    #[test]
    fn a_cut_message_is_refused(at in any::<prop::sample::Index>()) {
        let bytes = encoded(&justified());
        let at = at.index(bytes.len());
        prop_assert!(receive(&bytes[..at], &context(&operators())).is_err());
    }
}

#[test]
fn values_longer_than_their_validators_need_are_refused() {
    let with_value = |bytes: usize| {
        let set = BTreeMap::from([(set_key(&PublicKeyBytes([1; 48])), vec![0; bytes])]);
        let (digest, bytes) = value_of(&UnsignedDataSet { set });
        let ballot = Ballot::for_value(Kind::PrePrepare, Member(0), 1, digest);
        let message = Message { vote: own(ballot), justification: Vec::new() };
        let encoded = encode(DUTY, &message, Member(0), &key(0), |_| Some(Arc::clone(&bytes))).unwrap();
        receive(&encoded, &context(&operators())).map(|_| ())
    };
    assert_eq!(with_value(232), Ok(()));
    assert_eq!(with_value(1_000), Ok(()));
    assert_eq!(with_value(4_000), Err(Refusal::BadValue));
    assert_eq!(with_value(4 << 20), Err(Refusal::BadValue));
}

#[test]
fn agreements_about_duties_not_done_here_are_dropped() {
    let operators = operators();
    let context = Context { kinds: &[DutyType::InfoSync], ..context(&operators) };
    assert_eq!(receive(&encoded(&justified()), &context), Err(Refusal::NotDoneHere));
}
