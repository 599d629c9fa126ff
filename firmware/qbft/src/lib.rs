//! Lets the members of a cluster agree on one digest, although some of them may lie (QBFT, arXiv 2002.03613).
//!
//! A plain state machine: [`Instance::step`] takes one event and appends what the caller must now do. It knows nothing of
//! Ethereum, opens no socket, reads no clock, and never says two different things in one round, not even across a
//! restart: what it is about to say is in a [`Journal`] that the caller makes durable first. The `duty` engine runs one
//! instance per duty; signatures of messages are checked before they come here and made after they leave.
//!
//! The rules are exactly those of the running Obol network, so that a cluster may mix implementations.
#![no_std]

extern crate alloc;

mod decide;
mod heard;
mod instance;
mod journal;
mod justify;
mod message;
mod prepare;
mod propose;
mod round_change;
mod size;
mod timer;

pub use instance::{Config, Event, Instance, Output, Refusal};
pub use journal::{Decision, Journal, Prepared};
pub use message::{Ballot, Digest, Kind, Member, Message, Vote};
pub use size::{Size, SizeError};
pub use timer::RoundTimer;

/// The largest cluster this crate accepts. Sets of members are bits of one `u32`.
pub const MAX_MEMBERS: usize = 32;

/// Messages remembered per author; an older one makes room. A member that floods only forgets its own words.
pub const MAX_HEARD_PER_MEMBER: usize = 100;

/// Highest round that is accepted: the wire carries a signed 64-bit number.
pub const MAX_ROUND: u64 = i64::MAX as u64;

/// How often one member is told the decision after it was made.
pub const MAX_DECIDED_ANSWERS: u8 = 16;
