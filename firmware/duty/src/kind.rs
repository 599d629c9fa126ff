//! The table of duties: what differs between them, and nothing else.

use std::fmt;

use chain::{Slot, SlotTiming, UnixMillis};
use serde::{Deserialize, Serialize};

/// What a validator has to do. The numbers are those of the Obol wire (`core.corepb.v1.Duty.type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DutyKind {
    /// Propose a block.
    Proposer,
    /// Attest.
    Attester,
    /// Leave the chain.
    Exit,
    /// Tell builders the fee recipient.
    BuilderRegistration,
    /// Reveal randomness, needed for a proposal.
    Randao,
    /// Prove to be selected as an aggregator of attestations.
    PrepareAggregator,
    /// Aggregate attestations.
    Aggregator,
    /// Sign the head as a member of the sync committee.
    SyncMessage,
    /// Prove to be selected as an aggregator of sync messages.
    PrepareSyncContribution,
    /// Aggregate sync messages.
    SyncContribution,
    /// Agree on versions and protocols. Nothing is signed.
    InfoSync,
}

/// One duty: a slot and a kind. All validators with this duty are one set, agreed on together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Duty {
    /// The slot.
    pub slot: Slot,
    /// The kind.
    pub kind: DutyKind,
}

impl fmt::Display for Duty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.slot, self.kind.row().name)
    }
}

/// An exact share of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotShare {
    /// Counted in parts …
    pub parts: u64,
    /// … of which a slot has this many.
    pub of: u64,
}

impl SlotShare {
    const NONE: SlotShare = SlotShare { parts: 0, of: 1 };
    const THIRD: SlotShare = SlotShare { parts: 1, of: 3 };
    const TWO_THIRDS: SlotShare = SlotShare { parts: 2, of: 3 };

    /// The share in milliseconds.
    pub fn millis(self, slot_ms: u64) -> u64 {
        slot_ms * self.parts / self.of
    }
}

/// Whether the members must agree before they sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Agreement {
    /// Everybody knows what to sign.
    NotNeeded,
    /// By QBFT; the first timer of each round is longer by `extra_ms`.
    Qbft {
        /// When a member takes part.
        join: Join,
        /// Milliseconds added to each round.
        extra_ms: u64,
    },
}

/// When a member takes part in an agreement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Join {
    /// When the duty is triggered, with or without data of its own.
    WhenTriggered,
    /// When it has something to propose.
    WhenProposing,
}

/// When work on a duty starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// As soon as it is scheduled.
    WhenScheduled,
    /// At this share of its slot.
    IntoSlot(SlotShare),
}

/// When a duty is given up and everything about it is forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deadline {
    /// This share of the slot, and a twelfth of a slot.
    SlotShare(SlotShare),
    /// So many epochs, and a twelfth of a slot.
    Epochs(u64),
    /// It never expires; a bounded number is kept.
    Never,
}

/// What has to be fetched before anything can be proposed or signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// A block proposal.
    Block,
    /// The attestation data of the slot.
    AttestationData,
    /// The aggregate of a committee's attestations.
    Aggregate,
    /// The root of the head.
    HeadRoot,
    /// A sync committee contribution.
    Contribution,
    /// Only the slot or epoch itself, or a message made elsewhere.
    TheDutyItself,
}

/// Which of the scheduled validators must sign something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// All of them.
    Everyone,
    /// Those that are selected when the time comes, maybe none.
    Selected,
}

/// What is done with the group's signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Publication {
    /// It goes to the beacon node.
    BeaconNode,
    /// Another duty waits for it.
    OtherDuties,
    /// Nothing is signed.
    NothingSigned,
}

/// What is particular about a kind of duty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// The kind.
    pub kind: DutyKind,
    /// Number on the Obol wire.
    pub number: u8,
    /// Name in texts.
    pub name: &'static str,
    /// Whether and when to agree.
    pub agreement: Agreement,
    /// When work starts.
    pub trigger: Trigger,
    /// Whether it may start before that, once the block of its slot is here (consensus-specs, phase0/validator.md and
    /// altair/validator.md: a vote is due when the block is known, at a third of the slot at the latest).
    pub early: bool,
    /// When it ends, counted from the start of the slot.
    pub deadline: Deadline,
    /// What is fetched.
    pub input: Input,
    /// Who must sign.
    pub who: Who,
    /// Duties of the same slot whose group signatures the fetch needs.
    pub needs: &'static [DutyKind],
    /// What happens to the result.
    pub publication: Publication,
}

const AT_TRIGGER: Agreement = Agreement::Qbft { join: Join::WhenTriggered, extra_ms: 0 };
const WITH_PROPOSAL: Agreement = Agreement::Qbft { join: Join::WhenProposing, extra_ms: 0 };
const ONE_SLOT: Deadline = Deadline::SlotShare(SlotShare { parts: 1, of: 1 });
const AT_START: Trigger = Trigger::IntoSlot(SlotShare::NONE);
const AT_ONE_THIRD: Trigger = Trigger::IntoSlot(SlotShare::THIRD);
const AT_TWO_THIRDS: Trigger = Trigger::IntoSlot(SlotShare::TWO_THIRDS);

/// Every duty (numbers, offsets and deadlines of the Obol network), in the order of [`DutyKind`].
#[rustfmt::skip]
pub const ROWS: [Row; 11] = [
    Row { kind: DutyKind::Proposer, number: 1, name: "proposer",
        agreement: Agreement::Qbft { join: Join::WhenTriggered, extra_ms: 500 }, trigger: AT_START, early: false,
        deadline: Deadline::SlotShare(SlotShare::THIRD), input: Input::Block, who: Who::Everyone, needs: &[DutyKind::Randao],
        publication: Publication::BeaconNode },
    Row { kind: DutyKind::Attester, number: 2, name: "attester",
        agreement: AT_TRIGGER, trigger: AT_ONE_THIRD, early: true,
        deadline: Deadline::Epochs(1), input: Input::AttestationData, who: Who::Everyone, needs: &[],
        publication: Publication::BeaconNode },
    Row { kind: DutyKind::Exit, number: 4, name: "exit",
        agreement: Agreement::NotNeeded, trigger: Trigger::WhenScheduled, early: false,
        deadline: Deadline::Never, input: Input::TheDutyItself, who: Who::Everyone, needs: &[],
        publication: Publication::BeaconNode },
    Row { kind: DutyKind::BuilderRegistration, number: 6, name: "builder_registration",
        agreement: Agreement::NotNeeded, trigger: Trigger::WhenScheduled, early: false,
        deadline: Deadline::Never, input: Input::TheDutyItself, who: Who::Everyone, needs: &[],
        publication: Publication::OtherDuties },
    Row { kind: DutyKind::Randao, number: 7, name: "randao",
        agreement: Agreement::NotNeeded, trigger: Trigger::WhenScheduled, early: false,
        deadline: Deadline::SlotShare(SlotShare::THIRD), input: Input::TheDutyItself, who: Who::Everyone, needs: &[],
        publication: Publication::OtherDuties },
    Row { kind: DutyKind::PrepareAggregator, number: 8, name: "prepare_aggregator",
        agreement: Agreement::NotNeeded, trigger: Trigger::WhenScheduled, early: false,
        deadline: Deadline::Epochs(2), input: Input::TheDutyItself, who: Who::Everyone, needs: &[],
        publication: Publication::OtherDuties },
    Row { kind: DutyKind::Aggregator, number: 9, name: "aggregator",
        agreement: WITH_PROPOSAL, trigger: AT_TWO_THIRDS, early: false,
        deadline: Deadline::Epochs(1), input: Input::Aggregate, who: Who::Selected, needs: &[DutyKind::PrepareAggregator],
        publication: Publication::BeaconNode },
    Row { kind: DutyKind::SyncMessage, number: 10, name: "sync_message",
        agreement: Agreement::NotNeeded, trigger: AT_ONE_THIRD, early: true,
        deadline: ONE_SLOT, input: Input::HeadRoot, who: Who::Everyone, needs: &[],
        publication: Publication::BeaconNode },
    Row { kind: DutyKind::PrepareSyncContribution, number: 11, name: "prepare_sync_contribution",
        agreement: Agreement::NotNeeded, trigger: Trigger::WhenScheduled, early: false,
        deadline: Deadline::Epochs(2), input: Input::TheDutyItself, who: Who::Everyone, needs: &[],
        publication: Publication::OtherDuties },
    Row { kind: DutyKind::SyncContribution, number: 12, name: "sync_contribution",
        agreement: WITH_PROPOSAL, trigger: AT_TWO_THIRDS, early: false,
        deadline: ONE_SLOT, input: Input::Contribution, who: Who::Selected,
        needs: &[DutyKind::PrepareSyncContribution, DutyKind::SyncMessage],
        publication: Publication::BeaconNode },
    Row { kind: DutyKind::InfoSync, number: 13, name: "info_sync",
        agreement: WITH_PROPOSAL, trigger: AT_START, early: false,
        deadline: ONE_SLOT, input: Input::TheDutyItself, who: Who::Everyone, needs: &[],
        publication: Publication::NothingSigned },
];

/// No duty has this number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} is not the number of a duty")]
pub struct UnknownKind(pub i64);

impl DutyKind {
    /// The row of this kind.
    pub fn row(self) -> &'static Row {
        // Looked up many times for every event.
        &ROWS[self as usize]
    }

    /// The kind with this number on the wire.
    pub fn from_number(number: i64) -> Result<Self, UnknownKind> {
        let found = ROWS.iter().find(|row| i64::from(row.number) == number);
        found.map(|row| row.kind).ok_or(UnknownKind(number))
    }
}

impl Duty {
    /// A duty.
    pub fn new(slot: Slot, kind: DutyKind) -> Self {
        Duty { slot, kind }
    }

    /// When work on it starts; `None`: at once.
    pub fn triggers_at(self, timing: &SlotTiming) -> Option<UnixMillis> {
        match self.kind.row().trigger {
            Trigger::WhenScheduled => None,
            Trigger::IntoSlot(share) => {
                Some(timing.start_of(self.slot).saturating_add(share.millis(timing.slot_ms)))
            }
        }
    }

    /// When it is given up; `None`: never.
    pub fn deadline(self, timing: &SlotTiming) -> Option<UnixMillis> {
        // In nanoseconds, because thirds and twelfths of odd slots are rounded there by everybody else.
        let slot_ns = timing.slot_ms.saturating_mul(1_000_000);
        let duration_ns = match self.kind.row().deadline {
            Deadline::SlotShare(share) => share.millis(slot_ns),
            Deadline::Epochs(epochs) => slot_ns.saturating_mul(timing.slots_per_epoch).saturating_mul(epochs),
            Deadline::Never => return None,
        };
        let total_ms = duration_ns.saturating_add(slot_ns / 12) / 1_000_000;
        Some(timing.start_of(self.slot).saturating_add(total_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_carry_the_numbers_of_the_wire() {
        assert!(ROWS.iter().all(|row| row.kind.row() == row));
        let numbers: Vec<u8> = ROWS.iter().map(|row| row.number).collect();
        assert_eq!(numbers, [1, 2, 4, 6, 7, 8, 9, 10, 11, 12, 13]);
        for row in ROWS {
            assert_eq!(DutyKind::from_number(row.number.into()), Ok(row.kind));
            assert_eq!(row.kind.row(), &row);
        }
        for number in [-1, 0, 3, 5, 14, i64::MAX] {
            assert_eq!(DutyKind::from_number(number), Err(UnknownKind(number)));
        }
    }

    #[test]
    fn duties_start_at_these_offsets() {
        let timing = SlotTiming::new(1_000_000, 12_000, 32).unwrap();
        let at = |kind| Duty::new(Slot(10), kind).triggers_at(&timing).map(|t| t.0 - 1_120_000);
        assert_eq!(at(DutyKind::Proposer), Some(0));
        assert_eq!(at(DutyKind::Attester), Some(4000));
        assert_eq!(at(DutyKind::Aggregator), Some(8000));
        assert_eq!(at(DutyKind::SyncContribution), Some(8000));
        assert_eq!(at(DutyKind::Randao), None);
    }

    #[test]
    fn a_duty_reads_like_the_reference_writes_it() {
        assert_eq!(Duty::new(Slot(7), DutyKind::PrepareAggregator).to_string(), "7/prepare_aggregator");
    }
}
