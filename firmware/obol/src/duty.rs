//! Duty types, their deadlines and the gate that keeps far-away duties out.

use core::fmt;

use sha2::{Digest as _, Sha256};

use crate::wire;

/// Epochs a duty may lie ahead of the current epoch.
pub const GATE_EPOCHS: u64 = 2;

/// What a duty is about. The numbers are the wire values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum DutyType {
    /// Propose a block.
    Proposer = 1,
    /// Attest.
    Attester = 2,
    /// Exchange of signatures during key generation.
    Signature = 3,
    /// Voluntary exit.
    Exit = 4,
    /// Deprecated blinded proposal.
    BuilderProposer = 5,
    /// Builder registration.
    BuilderRegistration = 6,
    /// RANDAO reveal for a proposal.
    Randao = 7,
    /// Selection proof of an attestation aggregator.
    PrepareAggregator = 8,
    /// Aggregate attestations.
    Aggregator = 9,
    /// Sync-committee message.
    SyncMessage = 10,
    /// Selection proof of a sync-committee aggregator.
    PrepareSyncContribution = 11,
    /// Sync-committee contribution.
    SyncContribution = 12,
    /// Agreement on supported versions and protocols.
    InfoSync = 13,
}

impl DutyType {
    /// Every type valid on the wire.
    pub const ALL: [Self; 13] = [
        Self::Proposer,
        Self::Attester,
        Self::Signature,
        Self::Exit,
        Self::BuilderProposer,
        Self::BuilderRegistration,
        Self::Randao,
        Self::PrepareAggregator,
        Self::Aggregator,
        Self::SyncMessage,
        Self::PrepareSyncContribution,
        Self::SyncContribution,
        Self::InfoSync,
    ];

    /// The type of a wire number.
    pub fn from_wire(number: i32) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.number() == number)
    }

    /// The wire number.
    pub const fn number(self) -> i32 {
        self as i32
    }

    /// Name as the reference prints it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Proposer => "proposer",
            Self::Attester => "attester",
            Self::Signature => "signature",
            Self::Exit => "exit",
            Self::BuilderProposer => "builder_proposer",
            Self::BuilderRegistration => "builder_registration",
            Self::Randao => "randao",
            Self::PrepareAggregator => "prepare_aggregator",
            Self::Aggregator => "aggregator",
            Self::SyncMessage => "sync_message",
            Self::PrepareSyncContribution => "prepare_sync_contribution",
            Self::SyncContribution => "sync_contribution",
            Self::InfoSync => "info_sync",
        }
    }
}

/// A slot and what is to be done in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Duty {
    /// The slot; for exits the first slot of the exit epoch.
    pub slot: u64,
    /// What is to be done.
    pub kind: DutyType,
}

impl Duty {
    /// A duty.
    pub const fn new(slot: u64, kind: DutyType) -> Self {
        Self { slot, kind }
    }

    /// Reads a duty from the wire; `None` when the type is not valid there.
    pub fn from_wire(duty: wire::Duty) -> Option<Self> {
        Some(Self { slot: duty.slot, kind: DutyType::from_wire(duty.r#type)? })
    }

    /// The wire form.
    pub const fn to_wire(self) -> wire::Duty {
        wire::Duty { slot: self.slot, r#type: self.kind.number() }
    }

    /// How long rounds of this duty's agreement last, for a slot that starts at `slot_start_ms`.
    pub fn round_timer(self, slot_start_ms: u64, slot_ms: u64) -> qbft::RoundTimer {
        let (delay_ms, extra_ms) = match self.kind {
            DutyType::Proposer => (0, 500),
            DutyType::Attester => (slot_ms / 3, 0),
            DutyType::Aggregator | DutyType::SyncContribution => (slot_ms / 3 * 2 + slot_ms % 3 * 2 / 3, 0),
            DutyType::Signature
            | DutyType::Exit
            | DutyType::BuilderProposer
            | DutyType::BuilderRegistration
            | DutyType::Randao
            | DutyType::PrepareAggregator
            | DutyType::SyncMessage
            | DutyType::PrepareSyncContribution
            | DutyType::InfoSync => (0, 0),
        };
        qbft::RoundTimer { origin_ms: slot_start_ms.saturating_add(delay_ms), step_ms: 1000, extra_ms }
    }

    /// Peer index of the leader of a round of this duty's agreement in a cluster of `nodes` members (0 for none).
    pub fn leader(self, round: u64, nodes: u8) -> u8 {
        let sum = u128::from(self.slot) + u128::from(self.kind as u8) + u128::from(round);
        u8::try_from(sum.checked_rem(u128::from(nodes)).unwrap_or(0)).unwrap_or(0)
    }
}

impl fmt::Display for Duty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.slot, self.kind.name())
    }
}

/// The lengths a deadline depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotLengths {
    /// Nanoseconds of one slot.
    pub slot_ns: u64,
    /// Slots of one epoch, at least 1.
    pub slots_per_epoch: u64,
}

impl SlotLengths {
    /// Nanoseconds from the start of a duty's slot until its state may be dropped; `None` when it never expires.
    pub fn deadline_ns(self, kind: DutyType) -> Option<u64> {
        let slot = self.slot_ns;
        let epoch = slot.saturating_mul(self.slots_per_epoch);
        let duration = match kind {
            DutyType::Exit | DutyType::BuilderRegistration => return None,
            DutyType::Proposer | DutyType::Randao => slot / 3,
            DutyType::Attester | DutyType::Aggregator => epoch,
            DutyType::PrepareAggregator | DutyType::PrepareSyncContribution => epoch.saturating_mul(2),
            DutyType::SyncMessage
            | DutyType::SyncContribution
            | DutyType::Signature
            | DutyType::BuilderProposer
            | DutyType::InfoSync => slot,
        };
        Some(duration.saturating_add(slot / 12))
    }
}

/// Members a committee's aggregate should have authors from, on average (`TARGET_AGGREGATORS_PER_COMMITTEE`, and the same
/// number per sync subcommittee).
const TARGET_AGGREGATORS: u64 = 16;
/// `SYNC_COMMITTEE_SIZE / SYNC_COMMITTEE_SUBNET_COUNT / TARGET_AGGREGATORS_PER_SYNC_SUBCOMMITTEE` of mainnet.
const SYNC_AGGREGATOR_MODULO: u64 = 512 / 4 / TARGET_AGGREGATORS;

/// Whether a selection proof makes a validator an aggregator of its attestation committee.
pub fn is_attestation_aggregator(selection_proof: &[u8], committee_length: u64) -> bool {
    is_selected(selection_proof, (committee_length / TARGET_AGGREGATORS).max(1))
}

/// Whether a selection proof makes a validator an aggregator of its sync subcommittee.
pub fn is_sync_aggregator(selection_proof: &[u8]) -> bool {
    is_selected(selection_proof, SYNC_AGGREGATOR_MODULO)
}

fn is_selected(selection_proof: &[u8], modulo: u64) -> bool {
    let hash = Sha256::digest(selection_proof);
    hash.first_chunk().is_some_and(|first| u64::from_le_bytes(*first).is_multiple_of(modulo))
}

/// What the receivers need to know about the present. Plain numbers: the caller reads the clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Nanoseconds since genesis; 0 before it.
    pub since_genesis_ns: u64,
    /// Slot and epoch lengths.
    pub lengths: SlotLengths,
}

/// Whether a duty can still be worked on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiry {
    /// Its deadline lies ahead.
    Scheduled,
    /// Its deadline has passed.
    Expired,
    /// It never expires, and consensus and priority refuse it.
    Exempt,
}

impl Now {
    /// The gate: not more than two epochs ahead.
    pub fn admits(self, duty: Duty) -> bool {
        let per_epoch = self.lengths.slots_per_epoch.max(1);
        let epoch = self.since_genesis_ns / self.lengths.slot_ns.max(1) / per_epoch;
        duty.slot / per_epoch <= epoch.saturating_add(GATE_EPOCHS)
    }

    /// Whether the deadline of a duty has passed.
    pub fn expiry(self, duty: Duty) -> Expiry {
        let Some(after) = self.lengths.deadline_ns(duty.kind) else { return Expiry::Exempt };
        let deadline = u128::from(duty.slot) * u128::from(self.lengths.slot_ns) + u128::from(after);
        if u128::from(self.since_genesis_ns) < deadline { Expiry::Scheduled } else { Expiry::Expired }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Now = Now {
        since_genesis_ns: 12_000_000_000 * 100,
        lengths: SlotLengths { slot_ns: 12_000_000_000, slots_per_epoch: 32 },
    };

    #[test]
    fn the_gate_admits_two_epochs_ahead_and_any_past() {
        for (slot, admitted) in
            [(0, true), (100, true), (6 * 32 - 1, true), (6 * 32, false), (u64::MAX, false)]
        {
            assert_eq!(NOW.admits(Duty::new(slot, DutyType::Attester)), admitted, "slot {slot}");
        }
    }

    #[test]
    fn a_duty_expires_at_its_deadline_and_an_exit_never_does() {
        assert_eq!(NOW.expiry(Duty::new(100, DutyType::Proposer)), Expiry::Scheduled);
        assert_eq!(NOW.expiry(Duty::new(99, DutyType::Proposer)), Expiry::Expired);
        assert_eq!(NOW.expiry(Duty::new(68, DutyType::Attester)), Expiry::Scheduled);
        assert_eq!(NOW.expiry(Duty::new(67, DutyType::Attester)), Expiry::Expired);
        assert_eq!(NOW.expiry(Duty::new(u64::MAX, DutyType::Attester)), Expiry::Scheduled);
        assert_eq!(NOW.expiry(Duty::new(0, DutyType::Exit)), Expiry::Exempt);
    }

    #[test]
    fn wire_numbers_outside_1_to_13_are_no_duty() {
        for number in [-1, 0, 14, i32::MIN, i32::MAX] {
            assert_eq!(DutyType::from_wire(number), None);
        }
        assert_eq!(Duty::new(7, DutyType::InfoSync).to_string(), "7/info_sync");
    }
}
