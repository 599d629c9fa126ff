//! Which validator has a duty in which slot, kept up to date with the chain.
//!
//! Duties are given to the engine when their slot starts and not before, because a reorganisation may move them and a
//! validator must never be made to vote in two slots of one epoch.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use beacon::{AttesterDuties, BeaconError, ChainEvent, ValidatorInfo};
use chain::{AttesterDuty, Epoch, PublicKeyBytes, Root, Slot, UnixMillis, ValidatorIndex};
use duty::{Duty, DutyKind, Payload};

use super::{Event, Node};

/// Epochs of duties kept behind the current one.
const EPOCHS_KEPT: u64 = 3;

/// What is known about validators and their duties.
#[derive(Debug, Default)]
pub(crate) struct Duties {
    /// As the chain has them.
    pub(crate) validators: BTreeMap<PublicKeyBytes, ValidatorInfo>,
    /// The epoch in which they were last asked for.
    validators_of: Option<Epoch>,
    asking_validators: bool,
    epochs: BTreeMap<Epoch, EpochDuties>,
    asking: BTreeSet<Epoch>,
    /// Epochs whose duties may have changed.
    stale: BTreeSet<Epoch>,
    /// When a question last failed, and with which words.
    pub(crate) failed: Option<(Instant, String)>,
}

#[derive(Debug)]
struct EpochDuties {
    dependent_root: Root,
    by_slot: BTreeMap<Slot, BTreeMap<PublicKeyBytes, AttesterDuty>>,
}

impl Duties {
    /// Who attests in this slot.
    pub(crate) fn of_slot(&self, epoch: Epoch, slot: Slot) -> BTreeMap<PublicKeyBytes, AttesterDuty> {
        self.epochs.get(&epoch).and_then(|duties| duties.by_slot.get(&slot)).cloned().unwrap_or_default()
    }

    /// One validator's duty in this slot.
    pub(crate) fn of_validator(
        &self,
        epoch: Epoch,
        slot: Slot,
        validator: &PublicKeyBytes,
    ) -> Option<&AttesterDuty> {
        self.epochs.get(&epoch)?.by_slot.get(&slot)?.get(validator)
    }

    fn knows(&self, epoch: Epoch) -> bool {
        self.epochs.contains_key(&epoch) && !self.stale.contains(&epoch)
    }

    fn active(&self, epoch: Epoch) -> Vec<ValidatorIndex> {
        let active = self.validators.values().filter(|info| info.active_at(epoch));
        active.map(|info| info.index).collect()
    }
}

impl Node {
    /// Asks for what is missing, and hands the duties of a slot that has begun to the engine.
    pub(crate) fn on_slot(&mut self, now: UnixMillis) {
        let Some(running) = &mut self.running else { return };
        let timing = running.chain.timing;
        let slot = timing.slot_at(now);
        // A clock that is not trusted moves nothing: it may come back.
        let trusted = running.trusted == Some(duty::Clock::Trusted);
        let new_slot = trusted && slot.is_some_and(|slot| running.slots.see(slot));
        let epoch = slot.map_or(Epoch(0), |slot| timing.epoch_of(slot));
        let is_last = slot.is_some_and(|slot| timing.epoch_of(slot.saturating_add(1)) != epoch);
        self.ask_for_validators(epoch);
        self.ask_for_duties(epoch);
        if is_last || slot.is_none() {
            self.ask_for_duties(epoch.saturating_add(u64::from(slot.is_some())));
        }
        if let (true, Some(slot)) = (new_slot, slot) {
            self.kept.trim(&timing, now);
            self.duties.epochs.retain(|known, _| known.0.saturating_add(EPOCHS_KEPT) >= epoch.0);
            self.board.metrics.slot.set(i64::try_from(slot.0).unwrap_or(i64::MAX));
            self.schedule_attesters(slot);
            if is_last {
                self.begin_infosync(slot);
            }
        }
    }

    fn schedule_attesters(&mut self, slot: Slot) {
        let Some(running) = &mut self.running else { return };
        if running.silent_until.is_some_and(|until| slot <= until) || !running.slots.begin(slot) {
            return;
        }
        let epoch = running.chain.timing.epoch_of(slot);
        let payload = |duty: &AttesterDuty| Payload::from(serde_json::to_vec(duty).unwrap_or_default());
        let validators: BTreeMap<PublicKeyBytes, Payload> = self
            .duties
            .of_slot(epoch, slot)
            .iter()
            .map(|(validator, duty)| (*validator, payload(duty)))
            .collect();
        if !validators.is_empty() {
            self.step(duty::Event::Schedule { duty: Duty::new(slot, DutyKind::Attester), validators });
        }
    }

    fn ask_for_validators(&mut self, epoch: Epoch) {
        let fresh = self.duties.validators_of == Some(epoch);
        if fresh || self.duties.asking_validators || !self.beacon.any_ready() || self.failed_just_now() {
            return;
        }
        self.duties.asking_validators = true;
        self.duties.validators_of = Some(epoch);
        let beacon = self.beacon.clone();
        let keys: Vec<PublicKeyBytes> = self.validators.iter().copied().collect();
        self.spawn(async move { Event::Validators(beacon.validators(&keys).await) });
    }

    pub(crate) fn on_validators(&mut self, result: Result<Vec<ValidatorInfo>, BeaconError>) {
        self.duties.asking_validators = false;
        match result {
            Ok(infos) => {
                let before = self.duties.validators.len();
                let active_before: Vec<_> = self.active_now();
                self.duties.validators = infos.into_iter().map(|info| (info.public_key, info)).collect();
                self.show_validators();
                if active_before != self.active_now() || before != self.duties.validators.len() {
                    tracing::info!(
                        known = self.duties.validators.len(),
                        active = self.active_now().len(),
                        of = self.validators.len(),
                        "validators found on the chain"
                    );
                    let epochs: Vec<Epoch> = self.duties.epochs.keys().copied().collect();
                    self.duties.stale.extend(epochs);
                }
                self.on_slot(super::wall());
            }
            Err(error) => {
                self.duties.validators_of = None;
                self.note_failure(&error);
            }
        }
    }

    fn active_now(&self) -> Vec<ValidatorIndex> {
        let epoch = self.running.as_ref().and_then(|running| running.chain.timing.epoch_at(super::wall()));
        self.duties.active(epoch.unwrap_or(Epoch(0)))
    }

    fn ask_for_duties(&mut self, epoch: Epoch) {
        let indices = self.duties.active(epoch);
        let busy = self.duties.knows(epoch) || self.duties.asking.contains(&epoch);
        if indices.is_empty() || busy || !self.beacon.any_ready() || self.failed_just_now() {
            return;
        }
        self.duties.asking.insert(epoch);
        self.duties.stale.remove(&epoch);
        let beacon = self.beacon.clone();
        self.spawn(async move { Event::Duties(epoch, beacon.attester_duties(epoch, &indices).await) });
    }

    pub(crate) fn on_duties(&mut self, epoch: Epoch, result: Result<AttesterDuties, BeaconError>) {
        self.duties.asking.remove(&epoch);
        let found = match result {
            Ok(found) => found,
            Err(error) => {
                if self.duties.epochs.contains_key(&epoch) {
                    self.duties.stale.insert(epoch);
                }
                self.note_failure(&error);
                return;
            }
        };
        let mut by_slot: BTreeMap<Slot, BTreeMap<PublicKeyBytes, AttesterDuty>> = BTreeMap::new();
        for duty in found.duties {
            // An index that belongs to another key would make us vote for a stranger.
            let ours = self
                .duties
                .validators
                .get(&duty.pubkey)
                .is_some_and(|info| info.index == duty.validator_index);
            if ours {
                by_slot.entry(duty.slot).or_default().insert(duty.pubkey, duty);
            } else {
                tracing::warn!(index = %duty.validator_index, "the beacon node gave a duty for another validator's key");
            }
        }
        let count: usize = by_slot.values().map(BTreeMap::len).sum();
        tracing::debug!(%epoch, count, "attester duties resolved");
        self.duties.epochs.insert(epoch, EpochDuties { dependent_root: found.dependent_root, by_slot });
        self.schedule_late(epoch);
    }

    /// Duties became known while their slot was running already, or after a restart.
    fn schedule_late(&mut self, epoch: Epoch) {
        let Some(running) = &mut self.running else { return };
        let timing = running.chain.timing;
        let restored: Vec<Duty> =
            running.restored.iter().copied().filter(|duty| timing.epoch_of(duty.slot) == epoch).collect();
        running.restored.retain(|duty| timing.epoch_of(duty.slot) != epoch);
        let current = running.slots.last().filter(|slot| timing.epoch_of(*slot) == epoch);
        for duty in
            restored.iter().filter(|duty| duty.kind == DutyKind::Attester && Some(duty.slot) != current)
        {
            self.schedule_attesters(duty.slot);
        }
        if let Some(slot) = current {
            self.schedule_attesters(slot);
        }
    }

    /// A beacon node told something by itself.
    pub(crate) fn on_chain(&mut self, event: ChainEvent) {
        match event {
            ChainEvent::Head { slot, current_dependent_root, previous_dependent_root, .. } => {
                let Some(running) = &self.running else { return };
                let epoch = running.chain.timing.epoch_of(slot);
                // The attesters of an epoch follow from the chain as of the end of the epoch before the last one.
                self.compare_dependent_root(epoch, previous_dependent_root);
                self.compare_dependent_root(epoch.saturating_add(1), current_dependent_root);
            }
            ChainEvent::Reorg { slot, depth, epoch } => {
                tracing::info!(%slot, depth, "the chain was reorganised; duties are asked for again");
                for epoch in [epoch, epoch.saturating_add(1)] {
                    if self.duties.epochs.contains_key(&epoch) {
                        self.duties.stale.insert(epoch);
                    }
                }
            }
            ChainEvent::Block { .. } => {}
            ChainEvent::StreamOpen { endpoint } => tracing::debug!(endpoint, "events stream is open"),
            ChainEvent::StreamLost(error) => {
                tracing::debug!(%error, "events stream lost; it is opened again")
            }
        }
    }

    fn compare_dependent_root(&mut self, epoch: Epoch, root: Root) {
        if let Some(known) = self.duties.epochs.get(&epoch)
            && known.dependent_root != root
            && !self.duties.asking.contains(&epoch)
        {
            self.duties.stale.insert(epoch);
        }
    }

    fn note_failure(&mut self, error: &BeaconError) {
        tracing::warn!(error = error as &dyn std::error::Error, "the beacon node did not tell our duties");
        self.duties.failed = Some((Instant::now(), error.to_string()));
    }

    /// One failed question is enough per pulse.
    fn failed_just_now(&self) -> bool {
        self.duties.failed.as_ref().is_some_and(|(at, _)| at.elapsed().as_millis() < 900)
    }
}
