//! The compile-time sizes of containers that differ between chains.

use ssz_types::typenum::{U4, U8, U16, U32, U64, U128, U512, U8192, U131072};
use std::fmt::Debug;
use typenum::Unsigned;

/// A preset of the consensus specifications. Every public chain uses [`Mainnet`].
pub trait Preset: Clone + Copy + Debug + PartialEq + Eq + Send + Sync + 'static {
    /// The preset's name in `PRESET_BASE`.
    const NAME: &'static str;
    /// `MAX_COMMITTEES_PER_SLOT`.
    type MaxCommitteesPerSlot: Unsigned + Clone + Debug + PartialEq + Eq + Send + Sync + 'static;
    /// `MAX_VALIDATORS_PER_COMMITTEE * MAX_COMMITTEES_PER_SLOT`.
    type MaxValidatorsPerSlot: Unsigned + Clone + Debug + PartialEq + Eq + Send + Sync + 'static;
    /// `SYNC_COMMITTEE_SIZE`.
    type SyncCommitteeSize: Unsigned + Clone + Debug + PartialEq + Eq + Send + Sync + 'static;
    /// `SYNC_COMMITTEE_SIZE / SYNC_COMMITTEE_SUBNET_COUNT`.
    type SyncSubcommitteeSize: Unsigned + Clone + Debug + PartialEq + Eq + Send + Sync + 'static;
    /// `MAX_WITHDRAWALS_PER_PAYLOAD`.
    type MaxWithdrawalsPerPayload: Unsigned + Clone + Debug + PartialEq + Eq + Send + Sync + 'static;
    /// `PTC_SIZE` (draft fork gloas).
    type PtcSize: Unsigned + Clone + Debug + PartialEq + Eq + Send + Sync + 'static;
}

/// The preset of mainnet and of every public test network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mainnet {}

impl Preset for Mainnet {
    const NAME: &'static str = "mainnet";
    type MaxCommitteesPerSlot = U64;
    type MaxValidatorsPerSlot = U131072;
    type SyncCommitteeSize = U512;
    type SyncSubcommitteeSize = U128;
    type MaxWithdrawalsPerPayload = U16;
    type PtcSize = U512;
}

/// The small preset of the specification's own tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Minimal {}

impl Preset for Minimal {
    const NAME: &'static str = "minimal";
    type MaxCommitteesPerSlot = U4;
    type MaxValidatorsPerSlot = U8192;
    type SyncCommitteeSize = U32;
    type SyncSubcommitteeSize = U8;
    type MaxWithdrawalsPerPayload = U4;
    type PtcSize = U16;
}
