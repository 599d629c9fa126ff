//! The client of beacon nodes: asks them for duties and data, tells them what was signed, and knows which of them to trust.
//!
//! Several endpoints are used as one: reads go to the best endpoint and, when it is slow or fails, to the next ones;
//! submissions go to all. An endpoint on another chain is never used, one that is not synced is never asked for duties.
//! Every answer is bounded in size and time and checked against the question. [`validator_api`] is the other side: it serves
//! stock validator clients as if it were a beacon node. It holds no key and decides no vote; what
//! a beacon node says is data to be agreed on, and the signer has the last word. Called by `dv-node` alone.

mod aggregates;
mod ask;
mod blocks;
mod chain_info;
mod duties;
mod error;
mod events;
mod health;
mod http;
mod identity;
mod nodes;
#[doc(hidden)]
pub mod outside;
mod pass;
mod probe;
mod proposer;
mod skew;
mod sse;
mod submit;
mod sync_committee;
pub mod validator_api;
mod wire;

pub use blocks::{HeadRoot, KnownBlock};
pub use chain_info::{ChainInfo, ChainMismatch, ExpectedChain};
pub use duties::{AttesterDuties, FinalityCheckpoints, ValidatorInfo};
pub use error::{BeaconError, Cause, ConfigError, RequestError};
pub use events::ChainEvent;
pub use health::{EndpointStatus, Health};
pub use nodes::{BeaconNodes, MAX_ENDPOINTS, Timeouts};
pub use probe::{Probe, Probed};
pub use proposer::{BlockRequest, ProducedBlock, ProposerDuties, Registered};
pub use skew::ClockOffset;
pub use submit::Submitted;
