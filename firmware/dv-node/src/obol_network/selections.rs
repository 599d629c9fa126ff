//! Messages that follow from the duty itself: randao reveals, selection proofs, exits and registrations.

use std::collections::BTreeSet;

use chain::{
    AttesterDuty, ProposerDuty, SignatureBytes, SignedValidatorRegistration, SignedVoluntaryExit, SyncDuty,
    ValidatorRegistration, VoluntaryExit,
};
use duty::{Duty, Known, Task, TaskId, Unreadable};
use obol::signed::{
    BeaconCommitteeSelection, Signed, SignedRandao, SyncCommitteeSelection, VersionedRegistration,
};

use super::{ObolNetwork, definition, task};

/// Seats of one sync subcommittee (`SYNC_COMMITTEE_SIZE / SYNC_COMMITTEE_SUBNET_COUNT`).
const SUBCOMMITTEE_SEATS: u64 = 512 / 4;

impl ObolNetwork {
    pub(super) fn randao_tasks(&self, duty: Duty, known: &Known<'_>) -> Result<Vec<Task>, Unreadable> {
        let epoch = self.timing.epoch_of(duty.slot);
        let reveal = |validator| {
            let own: ProposerDuty = definition(known, validator)?;
            must_be_of_slot(own.slot == duty.slot)?;
            let signed = Signed::Randao(SignedRandao { epoch, signature: SignatureBytes::ZERO });
            task(TaskId::from(*validator), &signed)
        };
        known.validators.keys().map(reveal).collect()
    }

    pub(super) fn selection_tasks(&self, duty: Duty, known: &Known<'_>) -> Result<Vec<Task>, Unreadable> {
        let selection = |validator| {
            let own: AttesterDuty = definition(known, validator)?;
            must_be_of_slot(own.slot == duty.slot)?;
            let signed = Signed::CommitteeSelection(BeaconCommitteeSelection {
                validator_index: own.validator_index,
                slot: duty.slot,
                selection_proof: SignatureBytes::ZERO,
            });
            task(TaskId::from(*validator), &signed)
        };
        known.validators.keys().map(selection).collect()
    }

    pub(super) fn sync_selection_tasks(
        &self,
        duty: Duty,
        known: &Known<'_>,
    ) -> Result<Vec<Task>, Unreadable> {
        let mut tasks = Vec::new();
        for validator in known.validators.keys() {
            let own: SyncDuty = definition(known, validator)?;
            for subcommittee in subcommittees(&own) {
                let signed = Signed::SyncSelection(SyncCommitteeSelection {
                    validator_index: own.validator_index,
                    slot: duty.slot,
                    subcommittee_index: subcommittee,
                    selection_proof: SignatureBytes::ZERO,
                });
                tasks.push(task(TaskId { validator: *validator, subcommittee }, &signed)?);
            }
        }
        Ok(tasks)
    }

    pub(super) fn exit_tasks(&self, duty: Duty, known: &Known<'_>) -> Result<Vec<Task>, Unreadable> {
        let exit = |validator| {
            let message: VoluntaryExit = definition(known, validator)?;
            must_be_of_slot(self.timing.first_slot_of(message.epoch) == duty.slot)?;
            let signed = Signed::Exit(SignedVoluntaryExit { message, signature: SignatureBytes::ZERO });
            task(TaskId::from(*validator), &signed)
        };
        known.validators.keys().map(exit).collect()
    }

    pub(super) fn registration_tasks(&self, known: &Known<'_>) -> Result<Vec<Task>, Unreadable> {
        let registration = |validator| {
            let message: ValidatorRegistration = definition(known, validator)?;
            if message.pubkey != *validator {
                return Err(Unreadable("a registration of another validator".to_owned()));
            }
            let registration = SignedValidatorRegistration { message, signature: SignatureBytes::ZERO };
            let signed = Signed::Registration(VersionedRegistration { version: 0, registration });
            task(TaskId::from(*validator), &signed)
        };
        known.validators.keys().map(registration).collect()
    }
}

/// The subcommittees in which a validator has seats.
pub fn subcommittees(duty: &SyncDuty) -> BTreeSet<u64> {
    duty.sync_committee_indices.iter().map(|seat| seat.0 / SUBCOMMITTEE_SEATS).collect()
}

fn must_be_of_slot(it_is: bool) -> Result<(), Unreadable> {
    if it_is { Ok(()) } else { Err(Unreadable("a duty of another slot".to_owned())) }
}
