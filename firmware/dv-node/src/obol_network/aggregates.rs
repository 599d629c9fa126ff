//! Aggregates of attestations and sync contributions: only for validators that the group's own proof selects.

use std::collections::BTreeMap;

use chain::{
    AggregateAndProof, Attestation, AttesterDuty, ContributionAndProof, PublicKeyBytes, Root, SignatureBytes,
    SignedAggregateAndProof, SignedContributionAndProof, SyncCommitteeContribution, SyncCommitteeMessage,
    SyncDuty,
};
use duty::{Duty, DutyKind, Given, Known, Task, TaskId, Unreadable, Value};
use obol::DutyType;
use obol::attestation::{AnyAggregate, AnyAttestation, VersionedAggregate, VersionedAttestation};
use obol::duty::{is_attestation_aggregator, is_sync_aggregator};
use obol::signed::Signed;
use obol::unsigned::{Unsigned, read_set, write_set};

use super::{ObolNetwork, definition, selections::subcommittees, task};

/// The group's selection proof of a validator, once it exists.
fn proof(given: &Given, kind: DutyKind, id: TaskId) -> Option<SignatureBytes> {
    given.get(&(kind, id)).map(|aggregate| aggregate.signature)
}

/// Whether this attester aggregates; `None` while the group's proof is missing.
pub fn is_selected(given: &Given, validator: &PublicKeyBytes, duty: &AttesterDuty) -> Option<bool> {
    let proof = proof(given, DutyKind::PrepareAggregator, TaskId::from(*validator))?;
    Some(is_attestation_aggregator(&proof.0, duty.committee_length))
}

/// The subcommittees whose votes this validator aggregates, as far as the group's proofs exist.
pub fn selected_subcommittees(given: &Given, validator: &PublicKeyBytes, duty: &SyncDuty) -> Vec<u64> {
    let selected = |subcommittee: &u64| {
        let id = TaskId { validator: *validator, subcommittee: *subcommittee };
        proof(given, DutyKind::PrepareSyncContribution, id).is_some_and(|proof| is_sync_aggregator(&proof.0))
    };
    subcommittees(duty).into_iter().filter(selected).collect()
}

impl ObolNetwork {
    pub(super) fn read_aggregator(
        &self,
        duty: Duty,
        value: &[u8],
        known: &Known<'_>,
    ) -> Result<Vec<Task>, Unreadable> {
        let set = read_set(DutyType::Aggregator, value).map_err(|error| Unreadable(error.to_string()))?;
        let mut tasks = Vec::new();
        for (validator, unsigned) in set {
            let Unsigned::Aggregate(versioned) = unsigned else { continue };
            let own: AttesterDuty = match known.validators.contains_key(&validator) {
                true => definition(known, &validator)?,
                false => continue, // Not ours to sign here.
            };
            self.check_aggregate(duty, &own, &versioned)
                .map_err(|what| Unreadable(format!("the aggregate of {validator} is {what}")))?;
            let id = TaskId::from(validator);
            let Some(selection_proof) = proof(known.given, DutyKind::PrepareAggregator, id) else { continue };
            if !is_attestation_aggregator(&selection_proof.0, own.committee_length) {
                return Err(Unreadable(format!("{validator} is not selected to aggregate")));
            }
            let AnyAttestation::Electra(aggregate) = versioned.attestation else { continue };
            let message =
                AggregateAndProof { aggregator_index: own.validator_index, aggregate, selection_proof };
            let signed = SignedAggregateAndProof { message, signature: SignatureBytes::ZERO };
            let aggregate_and_proof = AnyAggregate::Electra(signed);
            let version = versioned.version;
            tasks.push(task(id, &Signed::Aggregate(VersionedAggregate { version, aggregate_and_proof }))?);
        }
        Ok(tasks)
    }

    fn check_aggregate(
        &self,
        duty: Duty,
        own: &AttesterDuty,
        versioned: &VersionedAttestation,
    ) -> Result<(), String> {
        let epoch = self.timing.epoch_of(duty.slot);
        let fork = self.fork_number(epoch).map_err(|error| error.to_string())?;
        let AnyAttestation::Electra(aggregate) = &versioned.attestation else {
            return Err("from before electra".to_owned());
        };
        let data = &aggregate.data;
        if versioned.version != fork {
            return Err(format!("of fork number {}, not {fork}", versioned.version));
        }
        if data.slot != duty.slot || own.slot != duty.slot {
            return Err(format!("for slot {}, not {}", data.slot, duty.slot));
        }
        if data.index.0 != 0 || data.target.epoch != epoch {
            return Err("for another epoch or form of attestation".to_owned());
        }
        let committees: Vec<usize> =
            aggregate.committee_bits.iter().enumerate().filter(|(_, bit)| *bit).map(|(at, _)| at).collect();
        if committees.iter().map(|at| u64::try_from(*at)).ne([Ok(own.committee_index.0)]) {
            return Err(format!("for committees {committees:?}, not {}", own.committee_index));
        }
        if u64::try_from(aggregate.aggregation_bits.len()) != Ok(own.committee_length) {
            return Err("of another length than the committee".to_owned());
        }
        if aggregate.aggregation_bits.is_zero() {
            return Err("of nobody's votes".to_owned());
        }
        Ok(())
    }

    /// What we propose: one aggregate for each selected validator.
    pub fn aggregator_value(
        &self,
        duty: Duty,
        aggregates: BTreeMap<PublicKeyBytes, Attestation>,
    ) -> Result<Value, Unreadable> {
        let version = self.fork_number(self.timing.epoch_of(duty.slot))?;
        let unsigned = |aggregate| {
            Unsigned::Aggregate(VersionedAttestation {
                version,
                validator_index: None,
                attestation: AnyAttestation::Electra(aggregate),
            })
        };
        let entries: BTreeMap<PublicKeyBytes, Unsigned> =
            aggregates.into_iter().map(|(validator, aggregate)| (validator, unsigned(aggregate))).collect();
        Ok(super::value_of(&write_set(&entries)))
    }

    pub(super) fn read_sync_message(
        &self,
        duty: Duty,
        value: &[u8],
        known: &Known<'_>,
    ) -> Result<Vec<Task>, Unreadable> {
        let root =
            <[u8; 32]>::try_from(value).map_err(|_| Unreadable("not the root of a block".to_owned()))?;
        if root == [0; 32] {
            return Err(Unreadable("no block to vote for".to_owned()));
        }
        let vote = |validator: &PublicKeyBytes| {
            let own: SyncDuty = definition(known, validator)?;
            let signed = Signed::SyncMessage(SyncCommitteeMessage {
                slot: duty.slot,
                beacon_block_root: Root(root),
                validator_index: own.validator_index,
                signature: SignatureBytes::ZERO,
            });
            task(TaskId::from(*validator), &signed)
        };
        known.validators.keys().map(vote).collect()
    }

    pub(super) fn read_sync_contribution(
        &self,
        duty: Duty,
        value: &[u8],
        known: &Known<'_>,
    ) -> Result<Vec<Task>, Unreadable> {
        let set = read_set(DutyType::SyncContribution, value).map_err(|e| Unreadable(e.to_string()))?;
        let mut tasks: BTreeMap<TaskId, Task> = BTreeMap::new();
        for (validator, unsigned) in set {
            let Unsigned::Contributions(contributions) = unsigned else { continue };
            if !known.validators.contains_key(&validator) {
                continue; // Not ours to sign here.
            }
            let own: SyncDuty = definition(known, &validator)?;
            let seats = subcommittees(&own);
            for contribution in contributions {
                let wrong =
                    |what: &str| Err(Unreadable(format!("the contribution of {validator} is {what}")));
                let subcommittee = contribution.subcommittee_index;
                if contribution.slot != duty.slot {
                    return wrong("for another slot");
                }
                if !seats.contains(&subcommittee) {
                    return wrong("for a subcommittee in which it has no seat");
                }
                if contribution.beacon_block_root == Root::ZERO || contribution.aggregation_bits.is_zero() {
                    return wrong("for no block or of nobody's votes");
                }
                let id = TaskId { validator, subcommittee };
                let Some(selection_proof) = proof(known.given, DutyKind::PrepareSyncContribution, id) else {
                    continue;
                };
                if !is_sync_aggregator(&selection_proof.0) {
                    return wrong("for a subcommittee for which it is not selected");
                }
                let aggregator_index = own.validator_index;
                let message = ContributionAndProof { aggregator_index, contribution, selection_proof };
                let signed = SignedContributionAndProof { message, signature: SignatureBytes::ZERO };
                if tasks.insert(id, task(id, &Signed::Contribution(signed))?).is_some() {
                    return wrong("there twice");
                }
            }
        }
        Ok(tasks.into_values().collect())
    }
}

/// What we propose: the contributions of each selected validator, in ascending order of their subcommittees. Members older
/// than v1.11 read only one for each.
pub fn contribution_value(contributions: BTreeMap<PublicKeyBytes, Vec<SyncCommitteeContribution>>) -> Value {
    let entries: BTreeMap<PublicKeyBytes, Unsigned> =
        contributions.into_iter().map(|(v, several)| (v, Unsigned::Contributions(several))).collect();
    super::value_of(&write_set(&entries))
}
