//! The validator API: a beacon node as a stock validator client sees it, in which this member's public shares stand for the
//! validators' keys (obol.md 9).
//!
//! What a client signs is verified against our own public share and handed to the member; what it asks to sign is what the
//! members agreed on; the rest goes to the beacon node and back as it is. It holds no key, never waits longer than a duty
//! lives, and remembers nothing but selection proofs: duties and their dependent roots are always the beacon node's newest.

mod api;
mod cluster;
mod keys;
mod message;
mod reply;
mod route;
mod select;
mod selections;
mod server;
mod verify;

pub use api::{Patience, Request, ValidatorApi};
pub use cluster::{AgreedBlock, Cluster, Unavailable};
pub use keys::{KeyMap, Named};
pub use message::{
    Claimed, Message, PartialSignature, fork_of, read_aggregates, read_attestations, read_block,
    read_committee_selections, read_contributions, read_exit, read_sync_messages, read_sync_selections,
};
pub use reply::{ApiError, Form, Reply, accepted, content_form};
pub use route::{Query, Route, route};
pub use selections::Selections;
pub use server::{Limits, serve};
