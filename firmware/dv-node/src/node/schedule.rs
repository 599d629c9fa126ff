//! Handing duties to the engine.
//!
//! Duties that are agreed on are handed over when their slot starts and not before, because a reorganisation may move them
//! and a validator must never be made to vote in two slots of one epoch. What only prepares for them (randao reveals,
//! selection proofs) is signed a little ahead, so that the group's signature is there when its slot starts; signing it for
//! nothing costs nothing.

use std::collections::BTreeMap;

use chain::{Epoch, PublicKeyBytes, Slot, UnixMillis};
use duty::{Clock, Duty, DutyKind, Payload};
use serde::Serialize;

use super::Node;
use crate::obol_network::describe;

/// Selections of attesters are signed this many epochs ahead, as far as duties are known: validator clients behind other
/// members ask for those of a whole epoch at its start, and do nothing else until all are there.
const SELECTIONS_AHEAD_EPOCHS: u64 = 1;
/// Randao reveals and selections of sync committees, this many.
const ONE_AHEAD: u64 = 1;

impl Node {
    /// Asks for what is missing, and hands the duties of a slot that has begun to the engine.
    pub(crate) fn on_slot(&mut self, now: UnixMillis) {
        let Some(running) = &mut self.running else { return };
        let timing = running.chain.timing;
        let slot = timing.slot_at(now);
        // A clock that is not trusted moves nothing: it may come back.
        let trusted = running.trusted == Some(Clock::Trusted);
        let before = running.slots.last().map(|slot| timing.epoch_of(slot));
        let new_slot = trusted && slot.is_some_and(|slot| running.slots.see(slot));
        let epoch = slot.map_or(Epoch(0), |slot| timing.epoch_of(slot));
        let is_last = slot.is_some_and(|slot| timing.epoch_of(slot.saturating_add(1)) != epoch);
        if new_slot && before != Some(epoch) {
            self.on_new_epoch(epoch);
        }
        self.ask_for_validators(epoch);
        self.ask_for_duties(epoch);
        if is_last || slot.is_none() {
            self.ask_for_duties(epoch.saturating_add(u64::from(slot.is_some())));
        }
        if let (true, Some(slot)) = (new_slot, slot) {
            self.kept.trim(&timing, now);
            self.board.metrics.slot.set(i64::try_from(slot.0).unwrap_or(i64::MAX));
            self.schedule_slot(slot);
            if is_last {
                self.begin_infosync(slot);
            }
        }
    }

    /// Everything that begins with this slot. May be repeated when more becomes known.
    fn schedule_slot(&mut self, slot: Slot) {
        if !self.may_begin(slot) {
            return;
        }
        let Some(epoch) = self.epoch_of(slot) else { return };
        let proposers = self.duties.proposers(epoch, slot);
        self.schedule(slot, &[DutyKind::Randao, DutyKind::Proposer], &proposers);
        self.schedule_attesters(slot);
        let seats = self.duties.sync(epoch);
        let of_sync = [DutyKind::SyncMessage, DutyKind::PrepareSyncContribution, DutyKind::SyncContribution];
        self.schedule(slot, &of_sync, &seats);
        // Last: a whole epoch's selections must not stand before this slot's block at the signer.
        self.prepare_ahead(slot);
    }

    fn schedule_attesters(&mut self, slot: Slot) {
        let Some(epoch) = self.epoch_of(slot) else { return };
        let attesters = self.duties.attesters(epoch, slot);
        let kinds = [DutyKind::Attester, DutyKind::PrepareAggregator, DutyKind::Aggregator];
        self.schedule(slot, &kinds, &attesters);
    }

    /// What later slots need, as far as their duties are known.
    fn prepare_ahead(&mut self, slot: Slot) {
        let Some(selections_ahead) = self.selections_ahead() else { return };
        for ahead in 1..=selections_ahead {
            let later = slot.saturating_add(ahead);
            let Some(epoch) = self.epoch_of(later) else { return };
            if !self.is_prepared(later) {
                let attesters = self.duties.attesters(epoch, later);
                self.schedule(later, &[DutyKind::PrepareAggregator], &attesters);
                self.note_prepared(later);
            }
            if ahead <= ONE_AHEAD {
                let proposers = self.duties.proposers(epoch, later);
                self.schedule(later, &[DutyKind::Randao], &proposers);
                let seats = self.duties.sync(epoch);
                self.schedule(later, &[DutyKind::PrepareSyncContribution], &seats);
            }
        }
    }

    /// Whether the selections of a later slot are the engine's already. A whole epoch of them is looked at in each slot: with
    /// a thousand validators, describing them all again would be most of what an idle slot costs.
    fn is_prepared(&self, slot: Slot) -> bool {
        self.running.as_ref().is_some_and(|running| running.prepared.contains(&slot))
    }

    /// Only what the engine took counts; what it refused is handed to it again in the next slot.
    fn note_prepared(&mut self, slot: Slot) {
        let Some(running) = &mut self.running else { return };
        if running.engine.scheduled_for(Duty::new(slot, DutyKind::PrepareAggregator)) > 0 {
            running.prepared.insert(slot);
        }
        let now = running.slots.last();
        running.prepared.retain(|slot| now.is_none_or(|now| *slot >= now));
    }

    /// The attesters of an epoch are others now, or may be.
    pub(super) fn prepare_again(&mut self, epoch: Epoch) {
        if let Some(running) = &mut self.running {
            let timing = running.chain.timing;
            running.prepared.retain(|slot| timing.epoch_of(*slot) != epoch);
        }
    }

    pub(super) fn schedule(
        &mut self,
        slot: Slot,
        kinds: &[DutyKind],
        validators: &BTreeMap<PublicKeyBytes, impl Serialize>,
    ) {
        if validators.is_empty() {
            return;
        }
        let validators: BTreeMap<PublicKeyBytes, Payload> =
            validators.iter().map(|(validator, duty)| (*validator, describe(duty))).collect();
        for kind in kinds {
            let validators = validators.clone();
            self.step(duty::Event::Schedule { duty: Duty::new(slot, *kind), validators });
        }
    }

    /// Whether duties of this slot are done at all; from then on it counts as begun.
    fn may_begin(&mut self, slot: Slot) -> bool {
        let Some(running) = &mut self.running else { return false };
        running.silent_until.is_none_or(|until| slot > until) && running.slots.begin(slot)
    }

    fn selections_ahead(&self) -> Option<u64> {
        let running = self.running.as_ref()?;
        Some(running.chain.timing.slots_per_epoch.saturating_mul(SELECTIONS_AHEAD_EPOCHS))
    }

    fn epoch_of(&self, slot: Slot) -> Option<Epoch> {
        self.running.as_ref().map(|running| running.chain.timing.epoch_of(slot))
    }

    /// Duties became known while their slot was running already, or after a restart.
    pub(super) fn schedule_late(&mut self, epoch: Epoch) {
        let Some(selections_ahead) = self.selections_ahead() else { return };
        let Some(running) = &mut self.running else { return };
        let timing = running.chain.timing;
        let restored: Vec<Duty> =
            running.restored.iter().copied().filter(|duty| timing.epoch_of(duty.slot) == epoch).collect();
        let last = running.slots.last();
        let current = last.filter(|slot| timing.epoch_of(*slot) == epoch);
        // The current slot prepares for the next epoch too.
        let prepares = last.filter(|slot| {
            timing.epoch_of(slot.saturating_add(selections_ahead)) == epoch && current.is_none()
        });
        let attests = |kind| matches!(kind, DutyKind::Attester | DutyKind::Aggregator);
        for duty in restored.iter().filter(|duty| attests(duty.kind) && Some(duty.slot) != current) {
            if !self.duties.attesters(epoch, duty.slot).is_empty() && self.may_begin(duty.slot) {
                self.schedule_attesters(duty.slot);
                if let Some(running) = &mut self.running {
                    running.restored.remove(duty);
                }
            }
        }
        if let Some(slot) = current {
            self.schedule_slot(slot);
        }
        if let Some(slot) = prepares
            && self.may_begin(slot)
        {
            self.prepare_ahead(slot);
        }
    }
}
