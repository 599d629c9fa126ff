//! The member of the cluster: finds out which duties the cluster's validators have, agrees on them with the other
//! members, gets this box's partial signatures from the signer, combines and publishes.
//!
//! A box may be in several clusters, each in threads of its own (decisions 0230, 0231). For each there is one event loop
//! around the pure `duty` engine: everything slow runs beside it and comes back as an event. It never holds a key share (the
//! signer does, and judges every message itself) and never says anything that it would not remember
//! after a crash. Started by systemd; spoken to over its control socket by `web`.

pub mod alone;
pub mod board;
pub mod clock;
pub mod config;
pub mod control;
pub mod daemon;
pub mod deposits;
pub mod dkg;
pub mod edit;
pub mod exits;
pub mod folders;
pub mod graffiti;
pub mod isolation;
pub mod journal;
pub mod monitoring;
pub mod node;
pub mod obol_api;
pub mod obol_network;
#[doc(hidden)]
pub mod outside;
mod overrides;
pub mod places;
pub mod preflight;
mod sealed;
pub mod settings;
pub mod setup;
pub mod signer;
pub mod store;
mod validator_client;
