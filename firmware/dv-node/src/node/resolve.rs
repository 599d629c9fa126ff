//! Which validator has a duty in which slot, kept up to date with the chain. What is done with it: [`super::schedule`].

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use beacon::{AttesterDuties, BeaconError, ChainEvent, ProposerDuties, ValidatorInfo};
use chain::{AttesterDuty, Epoch, ProposerDuty, PublicKeyBytes, Root, Slot, SyncDuty, ValidatorIndex};

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
    attesters: PerEpoch<BySlot<AttesterDuty>>,
    proposers: PerEpoch<BySlot<ProposerDuty>>,
    sync: PerEpoch<BTreeMap<PublicKeyBytes, SyncDuty>>,
    /// When a question last failed, and with which words.
    pub(crate) failed: Option<(Instant, String)>,
}

/// The duties of an epoch, and on what they depend.
#[derive(Debug)]
struct BySlot<D> {
    dependent_root: Root,
    by_slot: BTreeMap<Slot, BTreeMap<PublicKeyBytes, D>>,
}

/// One kind of duties, epoch by epoch.
#[derive(Debug)]
struct PerEpoch<T> {
    known: BTreeMap<Epoch, T>,
    asking: BTreeSet<Epoch>,
    /// Epochs whose duties may have changed.
    stale: BTreeSet<Epoch>,
    /// When a question last failed.
    failed: Option<Instant>,
}

impl<T> Default for PerEpoch<T> {
    fn default() -> Self {
        Self { known: BTreeMap::new(), asking: BTreeSet::new(), stale: BTreeSet::new(), failed: None }
    }
}

impl<T> PerEpoch<T> {
    fn is_wanted(&self, epoch: Epoch) -> bool {
        let fresh = self.known.contains_key(&epoch) && !self.stale.contains(&epoch);
        !fresh && !self.asking.contains(&epoch) && !is_just_now(self.failed)
    }

    fn ask(&mut self, epoch: Epoch) {
        self.asking.insert(epoch);
        self.stale.remove(&epoch);
    }

    fn answered(&mut self, epoch: Epoch, answer: T) {
        self.asking.remove(&epoch);
        self.known.insert(epoch, answer);
    }

    fn failed(&mut self, epoch: Epoch) {
        self.asking.remove(&epoch);
        self.failed = Some(Instant::now());
        self.may_have_changed(epoch);
    }

    fn may_have_changed(&mut self, epoch: Epoch) {
        if self.known.contains_key(&epoch) {
            self.stale.insert(epoch);
        }
    }

    fn all_may_have_changed(&mut self) {
        self.stale.extend(self.known.keys().copied());
    }

    fn forget_before(&mut self, epoch: Epoch) {
        self.known.retain(|known, _| *known >= epoch);
        self.stale.retain(|stale| *stale >= epoch);
    }
}

impl<D> PerEpoch<BySlot<D>> {
    /// The head's chain has other dependent roots than these duties were computed with.
    fn compare_dependent_root(&mut self, epoch: Epoch, roots: &[Root]) {
        let changed = self.known.get(&epoch).is_some_and(|duties| !roots.contains(&duties.dependent_root));
        if changed && !self.asking.contains(&epoch) {
            self.stale.insert(epoch);
        }
    }

    fn of_slot(&self, epoch: Epoch, slot: Slot) -> Option<&BTreeMap<PublicKeyBytes, D>> {
        self.known.get(&epoch)?.by_slot.get(&slot)
    }
}

impl Duties {
    /// Who attests in this slot.
    pub(crate) fn attesters(&self, epoch: Epoch, slot: Slot) -> BTreeMap<PublicKeyBytes, AttesterDuty> {
        self.attesters.of_slot(epoch, slot).cloned().unwrap_or_default()
    }

    /// Who of ours proposes in this slot.
    pub(crate) fn proposers(&self, epoch: Epoch, slot: Slot) -> BTreeMap<PublicKeyBytes, ProposerDuty> {
        self.proposers.of_slot(epoch, slot).cloned().unwrap_or_default()
    }

    /// Who of ours sits in the sync committee.
    pub(crate) fn sync(&self, epoch: Epoch) -> BTreeMap<PublicKeyBytes, SyncDuty> {
        self.sync.known.get(&epoch).cloned().unwrap_or_default()
    }

    /// Whether the attesters of an epoch are known.
    pub(crate) fn knows_attesters(&self, epoch: Epoch) -> bool {
        self.attesters.known.contains_key(&epoch)
    }

    /// Whether the proposers of an epoch are known.
    pub(crate) fn knows_proposers(&self, epoch: Epoch) -> bool {
        self.proposers.known.contains_key(&epoch)
    }

    /// Whether the sync committee of an epoch is known.
    pub(crate) fn knows_sync(&self, epoch: Epoch) -> bool {
        self.sync.known.contains_key(&epoch)
    }

    /// One validator's duty in this slot.
    pub(crate) fn of_validator(
        &self,
        epoch: Epoch,
        slot: Slot,
        validator: &PublicKeyBytes,
    ) -> Option<&AttesterDuty> {
        self.attesters.of_slot(epoch, slot)?.get(validator)
    }

    pub(crate) fn forget_before(&mut self, epoch: Epoch) {
        let oldest = Epoch(epoch.0.saturating_sub(EPOCHS_KEPT));
        self.attesters.forget_before(oldest);
        self.proposers.forget_before(oldest);
        self.sync.forget_before(oldest);
    }

    fn active(&self, epoch: Epoch) -> Vec<ValidatorIndex> {
        let active = self.validators.values().filter(|info| info.active_at(epoch));
        active.map(|info| info.index).collect()
    }

    /// Whether this is one of ours: an index that belongs to another key would make us sign for a stranger.
    fn is_ours(&self, key: &PublicKeyBytes, index: ValidatorIndex) -> bool {
        let ours = self.validators.get(key).is_some_and(|info| info.index == index);
        if !ours {
            tracing::warn!(%index, "the beacon node gave a duty for another validator's key");
        }
        ours
    }
}

impl Node {
    pub(super) fn ask_for_validators(&mut self, epoch: Epoch) {
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
                self.tell_client_indices();
                if active_before != self.active_now() || before != self.duties.validators.len() {
                    tracing::info!(
                        known = self.duties.validators.len(),
                        active = self.active_now().len(),
                        of = self.validators.len(),
                        "validators found on the chain"
                    );
                    self.duties.attesters.all_may_have_changed();
                    self.duties.proposers.all_may_have_changed();
                    self.duties.sync.all_may_have_changed();
                }
                self.prepare_proposers();
                self.ask_the_chain();
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

    /// Asks for what is not known of an epoch.
    pub(super) fn ask_for_duties(&mut self, epoch: Epoch) {
        let indices = self.duties.active(epoch);
        if indices.is_empty() || !self.beacon.any_ready() {
            return;
        }
        if self.duties.attesters.is_wanted(epoch) {
            self.duties.attesters.ask(epoch);
            let (beacon, indices) = (self.beacon.clone(), indices.clone());
            self.spawn(async move { Event::Duties(epoch, beacon.attester_duties(epoch, &indices).await) });
        }
        if self.duties.proposers.is_wanted(epoch) {
            self.duties.proposers.ask(epoch);
            let beacon = self.beacon.clone();
            self.spawn(async move { Event::Proposers(epoch, beacon.proposer_duties(epoch).await) });
        }
        if self.duties.sync.is_wanted(epoch) {
            self.duties.sync.ask(epoch);
            let beacon = self.beacon.clone();
            self.spawn(async move { Event::SyncDuties(epoch, beacon.sync_duties(epoch, &indices).await) });
        }
    }

    pub(crate) fn on_duties(&mut self, epoch: Epoch, result: Result<AttesterDuties, BeaconError>) {
        let found = match result {
            Ok(found) => found,
            Err(error) => {
                self.duties.attesters.failed(epoch);
                return self.note_failure(&error);
            }
        };
        let mut by_slot: BTreeMap<Slot, BTreeMap<PublicKeyBytes, AttesterDuty>> = BTreeMap::new();
        for duty in found.duties {
            if self.duties.is_ours(&duty.pubkey, duty.validator_index) {
                by_slot.entry(duty.slot).or_default().insert(duty.pubkey, duty);
            }
        }
        let count: usize = by_slot.values().map(BTreeMap::len).sum();
        tracing::debug!(%epoch, count, "attester duties resolved");
        self.subscribe_committees(by_slot.values().flat_map(BTreeMap::values));
        let dependent_root = found.dependent_root;
        self.duties.attesters.answered(epoch, BySlot { dependent_root, by_slot });
        self.prepare_again(epoch);
        self.schedule_late(epoch);
    }

    pub(crate) fn on_proposers(&mut self, epoch: Epoch, result: Result<ProposerDuties, BeaconError>) {
        let found = match result {
            Ok(found) => found,
            Err(error) => {
                self.duties.proposers.failed(epoch);
                return self.note_failure(&error);
            }
        };
        let mut by_slot: BTreeMap<Slot, BTreeMap<PublicKeyBytes, ProposerDuty>> = BTreeMap::new();
        for duty in found.duties.into_iter().filter(|duty| self.validators.contains(&duty.pubkey)) {
            if self.duties.is_ours(&duty.pubkey, duty.validator_index) {
                by_slot.entry(duty.slot).or_default().insert(duty.pubkey, duty);
            }
        }
        tracing::debug!(%epoch, count = by_slot.len(), "proposer duties resolved");
        let dependent_root = found.dependent_root;
        self.duties.proposers.answered(epoch, BySlot { dependent_root, by_slot });
        self.schedule_late(epoch);
    }

    pub(crate) fn on_sync_duties(&mut self, epoch: Epoch, result: Result<Vec<SyncDuty>, BeaconError>) {
        let found = match result {
            Ok(found) => found,
            Err(error) => {
                self.duties.sync.failed(epoch);
                return self.note_failure(&error);
            }
        };
        let ours = found.into_iter().filter(|duty| self.duties.is_ours(&duty.pubkey, duty.validator_index));
        let seats: BTreeMap<PublicKeyBytes, SyncDuty> = ours.map(|duty| (duty.pubkey, duty)).collect();
        tracing::debug!(%epoch, count = seats.len(), "sync-committee duties resolved");
        self.subscribe_sync_committees(epoch, &seats);
        self.duties.sync.answered(epoch, seats);
        self.schedule_late(epoch);
    }

    /// A beacon node told something by itself.
    pub(crate) fn on_chain(&mut self, event: ChainEvent) {
        match event {
            ChainEvent::Head { slot, block, optimistic, current_dependent_root, previous_dependent_root } => {
                if !optimistic {
                    self.on_head(slot, block);
                }
                let Some(running) = &self.running else { return };
                let epoch = running.chain.timing.epoch_of(slot);
                let next = epoch.saturating_add(1);
                // The attesters of an epoch follow from the chain as of the end of the epoch before the last one.
                self.duties.attesters.compare_dependent_root(epoch, &[previous_dependent_root]);
                self.duties.attesters.compare_dependent_root(next, &[current_dependent_root]);
                // Its proposers, from the end of the last one; from fulu on, from where its attesters follow too. Which of
                // the two a node tells differs from node to node. Before fulu those of the next epoch depend on every block
                // until it begins; they are asked for again then.
                let either = [current_dependent_root, previous_dependent_root];
                self.duties.proposers.compare_dependent_root(epoch, &either);
            }
            ChainEvent::Reorg { slot, depth, epoch } => {
                tracing::info!(%slot, depth, "the chain was reorganised; duties are asked for again");
                self.head.forget();
                for epoch in [epoch, epoch.saturating_add(1)] {
                    self.duties.attesters.may_have_changed(epoch);
                    self.duties.proposers.may_have_changed(epoch);
                }
            }
            ChainEvent::Block { .. } => {}
            ChainEvent::StreamOpen { endpoint } => tracing::debug!(endpoint, "events stream is open"),
            ChainEvent::StreamLost(error) => {
                tracing::debug!(%error, "events stream lost; it is opened again")
            }
        }
    }

    /// An epoch begins: who proposes in it was only a forecast so far, and sync committees change only now.
    pub(super) fn on_new_epoch(&mut self, epoch: Epoch) {
        self.duties.proposers.may_have_changed(epoch);
        self.duties.forget_before(epoch);
        self.prepare_proposers();
        self.register_with_builders();
    }

    fn note_failure(&mut self, error: &BeaconError) {
        tracing::warn!(error = error as &dyn std::error::Error, "the beacon node did not tell our duties");
        self.duties.failed = Some((Instant::now(), error.to_string()));
    }

    fn failed_just_now(&self) -> bool {
        is_just_now(self.duties.failed.as_ref().map(|(at, _)| *at))
    }
}

/// One failed question is enough per pulse.
fn is_just_now(failed: Option<Instant>) -> bool {
    failed.is_some_and(|at| at.elapsed().as_millis() < 900)
}
