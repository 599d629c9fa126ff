//! Which duties exist: those our scheduler names, and, in bounds, those that peers speak of before it does.

use std::collections::BTreeMap;

use chain::{PublicKeyBytes, UnixMillis};
use qbft::Member;

use crate::values::max_value_bytes;
use crate::work::{Context, Work};
use crate::{
    Deadline, Duty, Engine, MAX_EPOCHS_AHEAD, MAX_PARTIAL_BYTES_PER_MEMBER, MAX_SCHEDULED,
    MAX_UNSCHEDULED_PARTIALS_PER_MEMBER, MAX_UNSCHEDULED_PER_MEMBER, MAX_UNSCHEDULED_SELECTION_EPOCHS,
    MAX_VALUE_BYTES_PER_MEMBER_IN_ALL, MAX_WITHOUT_DEADLINE, Network, Output, Partial, Payload, Refusal,
};

impl<N: Network> Engine<N> {
    pub(crate) fn schedule(
        &mut self,
        now: UnixMillis,
        duty: Duty,
        validators: BTreeMap<PublicKeyBytes, Payload>,
        out: &mut Vec<Output<N::Seal>>,
    ) -> Result<(), Refusal> {
        self.gate(now, duty)?;
        let scheduled = self.works.values().filter(|work| work.is_scheduled()).count();
        if scheduled >= MAX_SCHEDULED && !self.works.contains_key(&duty) {
            return Err(Refusal::TooManyScheduled);
        }
        self.make_room(now, duty, out);
        let saved = self.take_restored(duty);
        let work = self.works.entry(duty).or_insert_with(|| Work::new(duty, None));
        work.schedule(validators);
        if let Some(saved) = saved {
            work.restore(saved);
        }
        Ok(())
    }

    /// Lets a peer speak of a duty.
    pub(crate) fn admit(&mut self, now: UnixMillis, duty: Duty, peer: Member) -> Result<(), Refusal> {
        let settings = self.settings();
        if peer == settings.me || usize::from(peer.0) >= settings.size.members() {
            return Err(Refusal::NotAPeer(peer));
        }
        self.gate(now, duty)?;
        if self.works.contains_key(&duty) {
            return Ok(());
        }
        let is_selection = |duty: Duty| duty.kind.row().deadline == Deadline::Epochs(2);
        let alike = |other: Duty| {
            if is_selection(duty) { other.kind == duty.kind } else { !is_selection(other) }
        };
        let unscheduled = |work: &&Work<N::Seal>| {
            !work.is_scheduled() && work.introduced_by == Some(peer) && alike(work.duty)
        };
        let most = if is_selection(duty) {
            let slots = settings.timing.slots_per_epoch.saturating_mul(MAX_UNSCHEDULED_SELECTION_EPOCHS);
            usize::try_from(slots).unwrap_or(usize::MAX)
        } else {
            MAX_UNSCHEDULED_PER_MEMBER
        };
        if self.works.values().filter(unscheduled).count() >= most {
            return Err(Refusal::TooManyUnknown(peer));
        }
        self.works.insert(duty, Work::new(duty, Some(peer)));
        Ok(())
    }

    /// How many bytes of values a member may have introduced for this duty, given what it introduced for others.
    pub(crate) fn room_for_values(&self, duty: Duty, peer: Member) -> usize {
        let others = self.works.values().filter(|work| work.duty != duty);
        let elsewhere: usize = others.map(|work| work.values.introduced_by(peer)).sum();
        MAX_VALUE_BYTES_PER_MEMBER_IN_ALL.saturating_sub(elsewhere).min(max_value_bytes(duty.kind))
    }

    /// Bounds the memory that a member may fill with partial signatures, and how many it may have waiting for duties that
    /// we have not scheduled.
    pub(crate) fn admit_partials(&self, duty: Duty, peer: Member, set: &[Partial]) -> Result<(), Refusal> {
        let new = self.works.get(&duty).map_or(0, |work| work.partials.cost(peer, set));
        let bytes =
            self.works.values().fold(new, |sum, work| sum.saturating_add(work.partials.charged(peer)));
        if new > 0 && bytes > MAX_PARTIAL_BYTES_PER_MEMBER {
            return Err(Refusal::TooManyPartials(peer));
        }
        if self.works.get(&duty).is_some_and(Work::is_scheduled) {
            return Ok(());
        }
        let unscheduled = self.works.values().filter(|work| !work.is_scheduled());
        let held: usize = unscheduled.map(|work| work.partials.held(peer)).sum();
        if held.saturating_add(set.len()) > MAX_UNSCHEDULED_PARTIALS_PER_MEMBER {
            return Err(Refusal::TooManyPartials(peer));
        }
        Ok(())
    }

    /// Nothing from beyond the next epochs, nothing from the past.
    fn gate(&self, now: UnixMillis, duty: Duty) -> Result<(), Refusal> {
        let timing = &self.settings().timing;
        let epoch_now = timing.epoch_at(now).map_or(0, |epoch| epoch.0);
        if timing.epoch_of(duty.slot).0 > epoch_now.saturating_add(MAX_EPOCHS_AHEAD) {
            return Err(Refusal::TooFarAhead(duty));
        }
        match duty.deadline(timing) {
            Some(deadline) if deadline <= now => Err(Refusal::Expired(duty)),
            Some(_) | None => Ok(()),
        }
    }

    /// Duties that never expire push out the oldest of their kind.
    fn make_room(&mut self, now: UnixMillis, duty: Duty, out: &mut Vec<Output<N::Seal>>) {
        if duty.kind.row().deadline != Deadline::Never || self.works.contains_key(&duty) {
            return;
        }
        let same_kind: Vec<Duty> =
            self.works.keys().copied().filter(|other| other.kind == duty.kind).collect();
        if let Some(oldest) = same_kind.first().filter(|_| same_kind.len() >= MAX_WITHOUT_DEADLINE)
            && let Some(mut work) = self.works.remove(oldest)
        {
            let context =
                Context { now, clock: self.clock(), settings: self.settings(), network: self.network() };
            work.push_out(&context, out);
        }
    }
}
