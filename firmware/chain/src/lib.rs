//! What the beacon chain calls things: slots and epochs, forks, the containers that get signed, domains and signing
//! roots, and when each duty is due.
//!
//! Pure facts of the consensus specifications: no file, no clock, no network, no key. Every other room speaks these types,
//! so that a slot is never mistaken for an epoch nor a root for a signature. It decides nothing and signs nothing.

mod bytes;
mod clocks;
pub mod containers;
pub mod deposit;
pub mod domain;
mod fork;
mod hex_form;
mod preset;
pub mod progressive;
mod quantity;
mod timing;
mod uint256;

pub use bytes::{
    Bytes32, Domain, DomainType, ExecutionAddress, ForkVersion, KzgCommitment, LogsBloom, PublicKeyBytes,
    Root, SignatureBytes,
};
pub use clocks::read_together;
pub use containers::*;
pub use domain::{compute_domain, fork_data_root, signing_root};
pub use fork::{Fork, ForkInfo, ForkName, ForkSchedule, ForkScheduleError, ScheduledFork, UnknownFork};
pub use hex_form::HexError;
pub use preset::{Mainnet, Minimal, Preset};
pub use quantity::decimal;
pub use quantity::{CommitteeIndex, Epoch, Gwei, QuantityError, Slot, UnixMillis, ValidatorIndex};
pub use timing::{BASIS_POINTS, SlotTiming, TimingError};
pub use uint256::Uint256;
