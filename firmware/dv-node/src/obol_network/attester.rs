//! Attestations: one vote for all validators of a slot.

use std::collections::BTreeMap;

use chain::{Attestation, AttestationData, AttesterDuty, Epoch, PublicKeyBytes, SignatureBytes};
use duty::{Duty, Known, Payload, Task, TaskId, Unreadable, Value, Vote};
use obol::attestation::{AnyAttestation, VersionedAttestation};
use obol::consensus;
use obol::unsigned::{AttesterData, read_set_key, set_key};
use obol::wire::UnsignedDataSet;
use prost::Message as _;
use ssz_types::{BitList, BitVector};
use tree_hash::TreeHash as _;

use super::{ObolNetwork, definition};

impl ObolNetwork {
    pub(super) fn read_attester(
        &self,
        duty: Duty,
        value: &[u8],
        known: &Known<'_>,
    ) -> Result<Vec<Task>, Unreadable> {
        let set = UnsignedDataSet::decode(value)
            .map_err(|_| Unreadable("not a set of unsigned data".to_owned()))?;
        let mut tasks = Vec::with_capacity(set.set.len());
        for (key, bytes) in &set.set {
            let validator =
                read_set_key(key).ok_or_else(|| Unreadable(format!("{key:.20} is not a public key")))?;
            let data = AttesterData::decode(bytes)
                .map_err(|_| Unreadable(format!("the attestation data of {validator} cannot be read")))?;
            self.check_attester(duty, &validator, &data).map_err(Unreadable)?;
            if known.validators.contains_key(&validator) {
                let own: AttesterDuty = definition(known, &validator)?;
                if own.validator_index != data.attestation_duty.validator_index {
                    let found = data.attestation_duty.validator_index;
                    return Err(Unreadable(format!("{validator} is not validator {found}")));
                }
            }
            tasks.push(self.attester_task(validator, &data)?);
        }
        Ok(tasks)
    }

    /// What must hold whatever the members agreed on: the vote is for this duty's slot and validator, and its checkpoints
    /// are in order. A vote for anything else is never given to the signer.
    fn check_attester(
        &self,
        duty: Duty,
        validator: &PublicKeyBytes,
        data: &AttesterData,
    ) -> Result<(), String> {
        let vote = &data.attestation_data;
        let epoch = self.timing.epoch_of(duty.slot);
        let wrong = |what: String| Err(format!("the attestation data of {validator} is {what}"));
        if vote.slot != duty.slot || data.attestation_duty.slot != duty.slot {
            return wrong(format!("for slot {}, not {}", vote.slot, duty.slot));
        }
        if data.attestation_duty.pubkey != *validator {
            return wrong(format!("for validator {}", data.attestation_duty.pubkey));
        }
        if vote.index.0 != 0 {
            return wrong(format!("for committee {}, which the data of this fork does not name", vote.index));
        }
        if vote.target.epoch != epoch {
            return wrong(format!("for target epoch {}, not {epoch}", vote.target.epoch));
        }
        if vote.source.epoch >= vote.target.epoch && vote.target.epoch != Epoch(0) {
            return wrong(format!("for source epoch {}, which is not before its target", vote.source.epoch));
        }
        Ok(())
    }

    fn attester_task(&self, validator: PublicKeyBytes, data: &AttesterData) -> Result<Task, Unreadable> {
        let vote = data.attestation_data;
        let attestation = self.unsigned_attestation(data)?;
        Ok(Task {
            id: TaskId::from(validator),
            message_root: vote.tree_hash_root().into(),
            vote: Some(Vote { source: vote.source, target: vote.target }),
            data: Payload::from(attestation.encode()),
        })
    }

    fn unsigned_attestation(&self, data: &AttesterData) -> Result<VersionedAttestation, Unreadable> {
        let duty = &data.attestation_duty;
        let version = self.fork_number(self.timing.epoch_of(duty.slot))?;
        let unreadable = |what: &str| Unreadable(what.to_owned());
        let committee =
            usize::try_from(duty.committee_index.0).map_err(|_| unreadable("committee out of range"))?;
        let mut committee_bits = BitVector::new();
        committee_bits.set(committee, true).map_err(|_| unreadable("committee out of range"))?;
        let aggregation_bits = BitList::with_capacity(0).map_err(|_| unreadable("empty bits"))?;
        let attestation = Attestation {
            aggregation_bits,
            data: data.attestation_data,
            signature: SignatureBytes::ZERO,
            committee_bits,
        };
        Ok(VersionedAttestation {
            version,
            validator_index: Some(duty.validator_index),
            attestation: AnyAttestation::Electra(attestation),
        })
    }

    /// What we propose: the vote, with each validator's place.
    pub fn attester_value(
        &self,
        vote: AttestationData,
        duties: &BTreeMap<PublicKeyBytes, AttesterDuty>,
    ) -> Value {
        let entry = |(validator, duty): (&PublicKeyBytes, &AttesterDuty)| {
            let data = AttesterData { attestation_data: vote, attestation_duty: *duty };
            (set_key(validator), data.encode())
        };
        let (digest, bytes) =
            consensus::value_of(&UnsignedDataSet { set: duties.iter().map(entry).collect() });
        Value { digest, bytes }
    }
}

/// The vote that was agreed on; all validators of a slot have the same.
pub fn agreed_vote(value: &[u8]) -> Option<AttestationData> {
    let set = UnsignedDataSet::decode(value).ok()?;
    let data = AttesterData::decode(set.set.values().next()?).ok()?;
    Some(data.attestation_data)
}
