//! Bytes and texts from outside: read or refused, never a panic, and what was read is written back the same.

use chain::*;
use proptest::prelude::*;
use serde::Serialize;
use serde::de::DeserializeOwned;
use ssz::{Decode, Encode};
use ssz_types::{BitList, BitVector};
use std::fmt::Debug;
use tree_hash::TreeHash;

fn read<T: Decode + Encode + TreeHash + Serialize + DeserializeOwned + PartialEq + Debug>(bytes: &[u8]) {
    let Ok(object) = T::from_ssz_bytes(bytes) else { return };
    assert_eq!(object.as_ssz_bytes(), bytes);
    let _ = object.tree_hash_root();
    let json = serde_json::to_string(&object).expect("every container has a JSON form");
    let again: T = serde_json::from_str(&json).expect("our own JSON is readable");
    assert_eq!(again, object);
}

fn read_as_everything(bytes: &[u8]) {
    read::<AttestationData>(bytes);
    read::<Attestation>(bytes);
    read::<Attestation<Minimal>>(bytes);
    read::<SingleAttestation>(bytes);
    read::<Phase0Attestation>(bytes);
    read::<AggregateAndProof>(bytes);
    read::<SignedAggregateAndProof>(bytes);
    read::<IndexedAttestation>(bytes);
    read::<SyncCommitteeMessage>(bytes);
    read::<SignedContributionAndProof>(bytes);
    read::<SyncAggregate>(bytes);
    read::<SignedVoluntaryExit>(bytes);
    read::<ValidatorRegistration>(bytes);
    read::<DepositData>(bytes);
    read::<ExecutionPayload>(bytes);
    read::<ExecutionPayloadHeader>(bytes);
    read::<ExecutionRequests>(bytes);
    read::<BeaconBlock>(bytes);
    read::<SignedBlindedBeaconBlock>(bytes);
    read::<gloas::Attestation>(bytes);
    read::<gloas::BeaconBlock>(bytes);
    read::<gloas::SignedExecutionPayloadEnvelope>(bytes);
}

/// A well-formed attestation with a few bits set.
fn attestation() -> Attestation {
    let mut aggregation_bits = BitList::with_capacity(300).expect("300 validators fit in a slot");
    aggregation_bits.set(7, true).expect("bit 7 of 300 exists");
    let mut committee_bits = BitVector::new();
    committee_bits.set(3, true).expect("bit 3 of 64 exists");
    Attestation {
        aggregation_bits,
        data: AttestationData::default(),
        signature: SignatureBytes([9; 96]),
        committee_bits,
    }
}

#[test]
fn beacon_api_json_is_quoted_numbers_and_prefixed_hex() {
    let json = serde_json::to_value(attestation()).expect("an attestation has a JSON form");
    assert_eq!(json["data"]["slot"], "0");
    assert_eq!(json["data"]["target"]["epoch"], "0");
    assert_eq!(json["committee_bits"], "0x0800000000000000");
    assert!(json["aggregation_bits"].as_str().is_some_and(|bits| bits.starts_with("0x80000000")));
    let duty = r#"{"pubkey":"0x010101010101010101010101010101010101010101010101010101010101010101010101010101010101010101010101",
        "validator_index":"1","committee_index":"2","committee_length":"128","committees_at_slot":"64",
        "validator_committee_index":"25","slot":"77","more":"fields are passed over"}"#;
    let duty: AttesterDuty = serde_json::from_str(duty).expect("the form of the beacon API");
    assert_eq!((duty.slot, duty.committee_length), (Slot(77), 128));
    let duty = r#"{"pubkey":"0x010101010101010101010101010101010101010101010101010101010101010101010101010101010101010101010101",
        "validator_index":"1","validator_sync_committee_indices":["0","511"]}"#;
    let duty: SyncDuty = serde_json::from_str(duty).expect("the form of the beacon API");
    assert_eq!(duty.sync_committee_indices[1].0, 511);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        read_as_everything(&bytes);
    }

    #[test]
    fn mutated_attestations_never_panic(place: prop::sample::Index, byte: u8, cut: prop::sample::Index) {
        let mut bytes = attestation().as_ssz_bytes();
        let place = place.index(bytes.len());
        bytes[place] = byte;
        read_as_everything(&bytes);
        bytes.truncate(cut.index(bytes.len()));
        read_as_everything(&bytes);
    }

    #[test]
    fn mutated_json_never_panics(place: prop::sample::Index, byte in 0x20_u8..0x7f) {
        let mut json = serde_json::to_vec(&attestation()).expect("an attestation has a JSON form");
        let place = place.index(json.len());
        json[place] = byte;
        let _ = serde_json::from_slice::<Attestation>(&json);
        let _ = serde_json::from_slice::<SingleAttestation>(&json);
    }
}
