//! Every message that crosses a privilege border on the box, and the one way in which the daemons say it.
//!
//! The daemons talk HTTP/1.1 with JSON over unix sockets that systemd opens, so that everything can be tried with
//! `curl --unix-socket`. This room holds the typed messages (each border in its own module), the server half (which
//! refuses callers that are not on the socket's list), the client half, and the start-up chores all daemons share:
//! sockets from systemd, logging, readiness and the watchdog.
//!
//! It must never hold a key share in the clear (only the sealed envelope passes), nor decide anything: who may do what
//! is the unit file's and the daemon's business. Called by every daemon, by `xtask` and by the hardware tests.

pub mod client;
pub mod disks;
pub mod dkg;
pub mod edit;
pub mod envelope;
pub mod folder;
pub mod listen;
pub mod logging;
pub mod moving;
pub mod node;
pub mod owner;
pub mod passphrase;
pub mod preflight;
pub mod recovery;
pub mod remote;
pub mod server;
pub mod service;
pub mod signer;
pub mod ssv;
pub mod web;
pub mod web3signer;

mod problem;
mod sensitive;

pub use client::{Client, ClientError};
pub use node::{ClusterSetup, NodeStatus, Proposals, Signing};
pub use problem::Problem;
pub use sensitive::Sensitive;
pub use signer::{ShareImport, SignerStatus};
pub use web::BoxStatus;
pub use web3signer::{SignAnswer, SignRequest};
