//! Charon's protocols: how an Obol cluster talks.
//!
//! Two halves. The codec half (`wire`, `root`, `consensus`, `parsigex`, `priority`, `peerinfo`, `signed`, `unsigned`) is
//! pure: bytes in, checked messages or a named refusal out. The `host` half is the libp2p node that carries those bytes
//! between members. Neither decides what to sign, holds a key share or reaches anyone outside the cluster; the identity
//! key signs messages to other members only. Called by `dv-node`.

pub mod attestation;
mod canonical;
pub mod consensus;
pub mod dkg;
pub mod duty;
#[cfg(feature = "host")]
mod frame;
#[cfg(feature = "host")]
pub mod host;
pub mod infosync;
#[doc(hidden)]
pub mod outside;
pub mod parsigex;
pub mod peerinfo;
pub mod priority;
pub mod proposal;
pub mod protocol;
pub mod root;
mod scan;
pub mod signed;
pub mod unsigned;
pub mod versioned;
pub mod wire;

pub use duty::{Duty, DutyType};
#[cfg(feature = "host")]
pub use host::{Host, HostConfig, HostEvent, HostHandle, Inbound, Member};
#[cfg(feature = "host")]
pub use libp2p::Multiaddr;
pub use protocol::Protocol;
