//! When slots start and duties are due.

use crate::{Epoch, Slot, UnixMillis};
use serde::{Deserialize, Serialize};

/// The whole of a slot in basis points.
pub const BASIS_POINTS: u64 = 10_000;

/// A slot longer than this is a configuration error (the longest known chain has 12 s).
const MAX_SLOT_MS: u64 = 600_000;
/// Likewise for epochs (mainnet: 32 slots).
const MAX_SLOTS_PER_EPOCH: u64 = 1024;

/// The clock of one chain. Shares of a slot are in basis points and not in seconds, because forks move them
/// (consensus-specs `*_DUE_BPS`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SlotTiming {
    /// Start of slot 0.
    pub genesis_ms: u64,
    /// Length of a slot (`SLOT_DURATION_MS`).
    pub slot_ms: u64,
    /// `SLOTS_PER_EPOCH`.
    pub slots_per_epoch: u64,
    /// `ATTESTATION_DUE_BPS`.
    pub attestation_due_bps: u64,
    /// `AGGREGATE_DUE_BPS`.
    pub aggregate_due_bps: u64,
    /// `SYNC_MESSAGE_DUE_BPS`.
    pub sync_message_due_bps: u64,
    /// `CONTRIBUTION_DUE_BPS`.
    pub contribution_due_bps: u64,
    /// `PROPOSER_REORG_CUTOFF_BPS`.
    pub proposer_reorg_cutoff_bps: u64,
}

/// Why a chain's timing cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TimingError {
    /// The slot length is zero or absurd.
    #[error("slot duration of {0} ms is out of range (1 to 600000)")]
    SlotDuration(u64),
    /// The epoch length is zero or absurd.
    #[error("{0} slots per epoch is out of range (1 to 1024)")]
    SlotsPerEpoch(u64),
    /// A deadline lies beyond its slot.
    #[error("a deadline of {0} basis points is beyond its slot")]
    Deadline(u64),
}

impl SlotTiming {
    /// Timing of forks up to fulu: attestations a third into the slot, aggregates two thirds.
    pub fn new(genesis_ms: u64, slot_ms: u64, slots_per_epoch: u64) -> Result<Self, TimingError> {
        let timing = Self {
            genesis_ms,
            slot_ms,
            slots_per_epoch,
            attestation_due_bps: 3333,
            aggregate_due_bps: 6667,
            sync_message_due_bps: 3333,
            contribution_due_bps: 6667,
            proposer_reorg_cutoff_bps: 1667,
        };
        timing.check()?;
        Ok(timing)
    }

    /// The same chain with the earlier deadlines of the draft fork gloas.
    pub fn gloas(self) -> Self {
        Self {
            attestation_due_bps: 2500,
            aggregate_due_bps: 5000,
            sync_message_due_bps: 2500,
            contribution_due_bps: 5000,
            ..self
        }
    }

    /// Refuses values that no chain has; call it on timing that was read from outside.
    pub fn check(&self) -> Result<(), TimingError> {
        if self.slot_ms == 0 || self.slot_ms > MAX_SLOT_MS {
            return Err(TimingError::SlotDuration(self.slot_ms));
        }
        if self.slots_per_epoch == 0 || self.slots_per_epoch > MAX_SLOTS_PER_EPOCH {
            return Err(TimingError::SlotsPerEpoch(self.slots_per_epoch));
        }
        let deadlines = [
            self.attestation_due_bps,
            self.aggregate_due_bps,
            self.sync_message_due_bps,
            self.contribution_due_bps,
            self.proposer_reorg_cutoff_bps,
        ];
        match deadlines.into_iter().find(|bps| *bps > BASIS_POINTS) {
            Some(bps) => Err(TimingError::Deadline(bps)),
            None => Ok(()),
        }
    }

    /// When a slot starts.
    pub fn start_of(&self, slot: Slot) -> UnixMillis {
        UnixMillis(self.genesis_ms.saturating_add(slot.0.saturating_mul(self.slot_ms)))
    }

    /// The slot at a time, or none before genesis.
    pub fn slot_at(&self, now: UnixMillis) -> Option<Slot> {
        let since_genesis = now.0.checked_sub(self.genesis_ms)?;
        since_genesis.checked_div(self.slot_ms).map(Slot)
    }

    /// The epoch of a slot.
    pub fn epoch_of(&self, slot: Slot) -> Epoch {
        slot.epoch(self.slots_per_epoch)
    }

    /// The first slot of an epoch.
    pub fn first_slot_of(&self, epoch: Epoch) -> Slot {
        epoch.start_slot(self.slots_per_epoch)
    }

    /// The epoch at a time, or none before genesis.
    pub fn epoch_at(&self, now: UnixMillis) -> Option<Epoch> {
        self.slot_at(now).map(|slot| self.epoch_of(slot))
    }

    /// A moment inside a slot, in basis points of its length (rounded down, as the specification does).
    pub fn into_slot(&self, slot: Slot, basis_points: u64) -> UnixMillis {
        let offset_ms = self.slot_ms.saturating_mul(basis_points) / BASIS_POINTS;
        self.start_of(slot).saturating_add(offset_ms)
    }

    /// When this slot's attestation must be on its way.
    pub fn attestation_due(&self, slot: Slot) -> UnixMillis {
        self.into_slot(slot, self.attestation_due_bps)
    }

    /// When this slot's aggregate must be on its way.
    pub fn aggregate_due(&self, slot: Slot) -> UnixMillis {
        self.into_slot(slot, self.aggregate_due_bps)
    }

    /// When this slot's sync-committee message must be on its way.
    pub fn sync_message_due(&self, slot: Slot) -> UnixMillis {
        self.into_slot(slot, self.sync_message_due_bps)
    }

    /// When this slot's sync-committee contribution must be on its way.
    pub fn contribution_due(&self, slot: Slot) -> UnixMillis {
        self.into_slot(slot, self.contribution_due_bps)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines_are_shares_of_the_slot() {
        // (slot length, attestation, aggregate, gloas attestation), offsets in ms from consensus-specs.
        let cases =
            [(12_000, 3_999, 8_000, 3_000), (6_000, 1_999, 4_000, 1_500), (5_000, 1_666, 3_333, 1_250)];
        for (slot_ms, attestation, aggregate, gloas) in cases {
            let timing = SlotTiming::new(1_000, slot_ms, 32).unwrap();
            let start = 1_000 + 10 * slot_ms;
            assert_eq!(timing.start_of(Slot(10)), UnixMillis(start));
            assert_eq!(timing.attestation_due(Slot(10)), UnixMillis(start + attestation));
            assert_eq!(timing.aggregate_due(Slot(10)), UnixMillis(start + aggregate));
            assert_eq!(timing.gloas().attestation_due(Slot(10)), UnixMillis(start + gloas));
        }
    }

    #[test]
    fn a_slot_lasts_until_the_next_starts() {
        let timing = SlotTiming::new(1_000, 12_000, 32).unwrap();
        let cases = [
            (0, None),
            (999, None),
            (1_000, Some(0)),
            (12_999, Some(0)),
            (13_000, Some(1)),
            (25_000, Some(2)),
        ];
        for (now, slot) in cases {
            assert_eq!(timing.slot_at(UnixMillis(now)), slot.map(Slot), "at {now}");
        }
    }

    #[test]
    fn absurd_timing_is_refused_and_never_overflows() {
        assert_eq!(SlotTiming::new(0, 0, 32), Err(TimingError::SlotDuration(0)));
        assert_eq!(SlotTiming::new(0, 12_000, 0), Err(TimingError::SlotsPerEpoch(0)));
        let timing = SlotTiming::new(u64::MAX, 12_000, 32).unwrap();
        assert_eq!(timing.attestation_due(Slot(u64::MAX)), UnixMillis(u64::MAX));
    }
}
