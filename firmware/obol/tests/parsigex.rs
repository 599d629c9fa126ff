//! Which partial signatures are taken, and which messages are refused under which name.

#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use std::collections::BTreeSet;

use chain::{
    Attestation, AttestationData, Epoch, PublicKeyBytes, Root, SignatureBytes, SignedVoluntaryExit, Slot,
    SyncCommitteeMessage, ValidatorIndex, VoluntaryExit,
};
use obol::attestation::{AnyAttestation, VersionedAttestation};
use obol::duty::{Duty, DutyType, Now, SlotLengths};
use obol::parsigex::{Context, Received, Refusal, encode, receive, receive_remembered};
use obol::signed::{BeaconCommitteeSelection, Signed, SignedRandao, SyncCommitteeSelection};
use obol::versioned::{DecodeError, FULU};
use obol::wire::ParSigExMsg;
use proptest::prelude::*;
use prost::Message as _;

const SIGNATURE: SignatureBytes = SignatureBytes([0xb5; 96]);
const KINDS: [DutyType; 10] = [
    DutyType::Proposer,
    DutyType::Attester,
    DutyType::Exit,
    DutyType::BuilderRegistration,
    DutyType::Randao,
    DutyType::PrepareAggregator,
    DutyType::Aggregator,
    DutyType::SyncMessage,
    DutyType::PrepareSyncContribution,
    DutyType::SyncContribution,
];
const VALIDATORS: [PublicKeyBytes; 2] = [PublicKeyBytes([1; 48]), PublicKeyBytes([2; 48])];

fn receive_from(sender: u8, bytes: &[u8]) -> Result<Received, Refusal> {
    receive_with(receive, sender, bytes)
}

type Receive = fn(&[u8], &Context<'_>) -> Result<Received, Refusal>;

fn receive_with(receive: Receive, sender: u8, bytes: &[u8]) -> Result<Received, Refusal> {
    let validators = BTreeSet::from(VALIDATORS);
    let lengths = SlotLengths { slot_ns: 12_000_000_000, slots_per_epoch: 32 };
    let now = Now { since_genesis_ns: 100 * 12_000_000_000, lengths };
    receive(bytes, &Context { validators: &validators, members: 4, kinds: &KINDS, now, sender })
}

fn attestation(index: u64) -> Signed {
    let mut committee_bits = ssz_types_bits();
    committee_bits.committee_bits.set(1, true).unwrap();
    let data = AttestationData { slot: Slot(100), ..AttestationData::default() };
    let attestation = Attestation { data, signature: SIGNATURE, ..committee_bits };
    Signed::Attestation(VersionedAttestation {
        version: FULU,
        validator_index: Some(ValidatorIndex(index)),
        attestation: AnyAttestation::Electra(attestation),
    })
}

/// An attestation as a validator client gives it: an empty bit list, which is one byte.
fn ssz_types_bits() -> Attestation {
    let bytes = [&236_u32.to_le_bytes()[..], &[0; 128 + 96 + 8], &[1]].concat();
    <Attestation as ssz::Decode>::from_ssz_bytes(&bytes).unwrap()
}

fn signed() -> [(DutyType, Signed); 7] {
    let (validator_index, slot) = (ValidatorIndex(7), Slot(100));
    let exit = VoluntaryExit { epoch: Epoch(3), validator_index };
    [
        (DutyType::Attester, attestation(7)),
        (DutyType::Randao, Signed::Randao(SignedRandao { epoch: Epoch(3), signature: SIGNATURE })),
        (DutyType::Exit, Signed::Exit(SignedVoluntaryExit { message: exit, signature: SIGNATURE })),
        (
            DutyType::PrepareAggregator,
            Signed::CommitteeSelection(BeaconCommitteeSelection {
                validator_index,
                slot,
                selection_proof: SIGNATURE,
            }),
        ),
        (
            DutyType::PrepareSyncContribution,
            Signed::SyncSelection(SyncCommitteeSelection {
                validator_index,
                slot,
                subcommittee_index: 3,
                selection_proof: SIGNATURE,
            }),
        ),
        (
            DutyType::SyncMessage,
            Signed::SyncMessage(SyncCommitteeMessage {
                slot,
                beacon_block_root: Root([4; 32]),
                validator_index,
                signature: SIGNATURE,
            }),
        ),
        (DutyType::Attester, attestation(u64::MAX)),
    ]
}

fn duty(kind: DutyType) -> Duty {
    Duty::new(100, kind)
}

#[test]
fn every_kind_of_partial_signature_arrives_as_it_was_sent() {
    for (kind, signed) in signed() {
        let bytes = encode(duty(kind), 2, VALIDATORS.iter().map(|validator| (validator, &signed)));
        let received = receive_from(2, &bytes).unwrap();
        assert_eq!((received.duty, received.share_index), (duty(kind), 2));
        assert_eq!(received.partials.keys().copied().collect::<Vec<_>>(), VALIDATORS);
        for partial in received.partials.values() {
            assert_eq!(partial.signed, signed);
            assert_eq!(partial.signed.signature(), Some(SIGNATURE));
            assert_eq!(
                partial.signed.message_root(),
                signed.clone().with_signature(SignatureBytes::ZERO).message_root()
            );
        }
    }
}

#[test]
fn an_exit_is_written_as_json_and_read_in_both_forms() {
    let (kind, exit) = signed()[2].clone();
    assert_eq!(exit.encode()[0], b'{');
    let Signed::Exit(plain) = &exit else { unreachable!() };
    let ssz = ssz::Encode::as_ssz_bytes(plain);
    assert_eq!(ssz.len(), 112);
    assert_eq!(Signed::decode(kind, &ssz).unwrap(), exit);
    assert_eq!(Signed::decode(kind, &exit.encode()).unwrap(), exit);
}

#[test]
fn an_attestation_is_read_from_either_header_and_from_json() {
    let Signed::Attestation(new) = attestation(7) else { unreachable!() };
    let old = VersionedAttestation { validator_index: None, ..new.clone() };
    assert_eq!((new.encode().len() - old.encode().len(), new.encode()[16], old.encode()[8]), (8, 20, 12));
    for form in [new.clone(), old] {
        for bytes in [form.encode(), form.to_json()] {
            assert_eq!(VersionedAttestation::decode(&bytes).unwrap(), form);
        }
    }
}

/// Receives an attester message after a change.
fn changed(change: impl FnOnce(&mut ParSigExMsg)) -> Result<Received, Refusal> {
    let signed = attestation(7);
    let bytes = encode(duty(DutyType::Attester), 2, VALIDATORS.iter().map(|validator| (validator, &signed)));
    let mut message = ParSigExMsg::decode(bytes.as_slice()).unwrap();
    change(&mut message);
    receive_from(2, &message.encode_to_vec())
}

#[test]
fn every_broken_rule_has_its_name() {
    type Change = fn(&mut ParSigExMsg);
    let table: &[(Change, Refusal)] = &[
        (|m| m.duty = None, Refusal::Absent("duty")),
        (|m| m.data_set = None, Refusal::Absent("data_set")),
        (|m| m.data_set.as_mut().unwrap().set.clear(), Refusal::Empty),
        (|m| m.duty.as_mut().unwrap().r#type = 14, Refusal::UnknownDuty(14)),
        (|m| m.duty.as_mut().unwrap().r#type = 3, Refusal::NothingSigned),
        (|m| m.duty.as_mut().unwrap().r#type = 5, Refusal::NothingSigned),
        (|m| m.duty.as_mut().unwrap().r#type = 13, Refusal::NothingSigned),
        (|m| m.duty.as_mut().unwrap().slot = 6 * 32, Refusal::TooEarly),
        (|m| m.duty.as_mut().unwrap().slot = 60, Refusal::Expired),
        (|m| entry(m).share_idx = 0, Refusal::UnknownShare(0)),
        (|m| entry(m).share_idx = 5, Refusal::UnknownShare(5)),
        (|m| entry(m).share_idx = -1, Refusal::UnknownShare(-1)),
        (|m| entry(m).share_idx = 258, Refusal::UnknownShare(258)),
        (|m| entry(m).share_idx = 3, Refusal::NotTheSendersShare(3)),
        (|m| entry(m).data.truncate(30), Refusal::Entry(DecodeError::Malformed)),
        (|m| entry(m).data[0] = 7, Refusal::Entry(DecodeError::UnknownFork(7))),
        (
            |m| entry(m).data = attestation(7).with_signature(SignatureBytes::ZERO).encode(),
            Refusal::ZeroSignature,
        ),
        (|m| rename(m, |key| key.to_uppercase()), Refusal::UnknownValidator),
        (|m| rename(m, |key| key.replace("02", "03")), Refusal::UnknownValidator),
        (|m| rename(m, |key| key[2..].to_owned()), Refusal::UnknownValidator),
        (
            |m| {
                let set = &mut m.data_set.as_mut().unwrap().set;
                set.insert("x".into(), Default::default());
            },
            Refusal::TooManyEntries,
        ),
    ];
    for (index, (change, refusal)) in table.iter().enumerate() {
        assert_eq!(changed(change).unwrap_err(), *refusal, "row {index}");
    }
    assert!(changed(|_| ()).is_ok());
}

#[test]
fn what_is_over_is_read_as_a_witness_and_by_every_other_rule() {
    let signed = attestation(7);
    let at = |slot, by| encode(Duty::new(slot, DutyType::Attester), by, [(&VALIDATORS[0], &signed)]);
    let remembered = |by, bytes: &[u8]| receive_with(receive_remembered, by, bytes);
    assert_eq!(receive_from(2, &at(60, 2)), Err(Refusal::Expired));
    assert_eq!(remembered(2, &at(60, 2)).unwrap().duty.slot, 60);
    assert_eq!(remembered(2, &at(100, 2)), receive_from(2, &at(100, 2)));
    assert_eq!(remembered(2, &at(60, 3)), Err(Refusal::NotTheSendersShare(3)));
    assert_eq!(remembered(2, &at(6 * 32, 2)), Err(Refusal::TooEarly));
    assert_eq!(remembered(2, b"nothing"), Err(Refusal::Malformed));
    // It may speak of validators that came later than what is known here.
    let stranger = PublicKeyBytes([7; 48]);
    let all = [(&VALIDATORS[0], &signed), (&VALIDATORS[1], &signed), (&stranger, &signed)];
    let more = encode(Duty::new(60, DutyType::Attester), 2, all);
    let read = remembered(2, &more).unwrap();
    assert_eq!(read.partials.into_keys().collect::<Vec<_>>(), VALIDATORS);
    let others = [VALIDATORS[0], stranger];
    let other = encode(Duty::new(100, DutyType::Attester), 2, others.iter().map(|key| (key, &signed)));
    assert_eq!(receive_from(2, &other), Err(Refusal::UnknownValidator), "nothing of it is of use");
}

fn entry(message: &mut ParSigExMsg) -> &mut obol::wire::ParSignedData {
    message.data_set.as_mut().unwrap().set.values_mut().last().unwrap()
}

fn rename(message: &mut ParSigExMsg, rename: impl Fn(&str) -> String) {
    let set = &mut message.data_set.as_mut().unwrap().set;
    let (key, data) = set.pop_last().unwrap();
    set.insert(rename(&key), data);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn any_bytes_are_refused_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(receive_from(2, &bytes).is_err());
        for kind in DutyType::ALL {
            let _ = Signed::decode(kind, &bytes);
            let _ = obol::unsigned::Unsigned::decode(kind, &bytes);
        }
    }

    #[test]
    fn a_changed_byte_never_panics_and_never_changes_the_sender(at in any::<prop::sample::Index>(), bit in 0_u8..8) {
        for (kind, signed) in signed() {
            let mut bytes = encode(duty(kind), 2, [(&VALIDATORS[0], &signed)]);
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            if let Ok(received) = receive_from(2, &bytes) {
                prop_assert_eq!(received.share_index, 2);
            }
        }
    }
}

#[test]
fn what_is_kept_of_a_partial_is_no_longer_than_the_object() {
    let duty = Duty::new(100, DutyType::Attester);
    let honest = encode(duty, 2, [(&VALIDATORS[0], &attestation(7))]);
    let expected = receive_from(2, &honest).unwrap().partials[&VALIDATORS[0]].data.clone();
    // A header whose offset leaves room for anything.
    let padded = |filler: usize| {
        let mut message = ParSigExMsg::decode(honest.as_slice()).unwrap();
        let entry = message.data_set.as_mut().unwrap().set.values_mut().next().unwrap();
        let value = entry.data.split_off(20);
        let offset = u32::try_from(20 + filler).unwrap();
        entry.data[16..20].copy_from_slice(&offset.to_le_bytes());
        entry.data.extend(std::iter::repeat_n(0xee, filler));
        entry.data.extend(value);
        receive_from(2, &message.encode_to_vec())
    };
    assert_eq!(padded(0).unwrap().partials[&VALIDATORS[0]].data, expected);
    for filler in [1, 1_000, 100_000] {
        if let Ok(received) = padded(filler) {
            assert_eq!(received.partials[&VALIDATORS[0]].data, expected, "{filler}");
        }
    }
    assert!(matches!(padded(100_000), Err(Refusal::EntryTooLong(_) | Refusal::Entry(_))));
}

#[test]
fn duties_not_done_here_are_dropped_before_their_content_is_read() {
    let validators = BTreeSet::from(VALIDATORS);
    let lengths = SlotLengths { slot_ns: 12_000_000_000, slots_per_epoch: 32 };
    let now = Now { since_genesis_ns: 100 * 12_000_000_000, lengths };
    let context =
        Context { validators: &validators, members: 4, kinds: &[DutyType::Attester], now, sender: 2 };
    for (kind, object) in signed() {
        let bytes = encode(Duty::new(100, kind), 2, [(&VALIDATORS[0], &object)]);
        let received = receive(&bytes, &context);
        if kind == DutyType::Attester {
            assert!(received.is_ok());
        } else {
            assert_eq!(received.unwrap_err(), Refusal::NotDoneHere, "{kind:?}");
        }
    }
}

/// Without an index, as older releases send it, the slot stands where the newer form has the number 20.
#[test]
fn the_plain_form_of_an_attestation_of_slot_twenty_is_not_taken_for_the_newer_form() {
    for slot in [19, 20, 21] {
        let Signed::Attestation(mut plain) = attestation(7) else { unreachable!() };
        plain.validator_index = None;
        let AnyAttestation::Electra(vote) = &mut plain.attestation else { unreachable!() };
        vote.data.slot = Slot(slot);
        assert_eq!(VersionedAttestation::decode(&plain.encode()).as_ref(), Ok(&plain), "slot {slot}");
    }
}
