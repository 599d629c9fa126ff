//! Changing a cluster: the shell around the pure state machine. It carries messages between the members and the signer,
//! keeps what must survive a restart, and shows how far everybody is. It holds no key: shares pass encrypted to signers.
//!
//! While it runs this box does no duties: the change needs the box's one port, and the old shares fall silent in the middle
//! of it anyway. An attempt that comes to nothing before anything was promised ends by itself, and the node goes on with the
//! cluster as it was (decision 0221).

mod control;
mod shell;
mod signer;
mod store;

pub use control::router;
pub use shell::{Ending, Running, Surroundings, check, setup_after, start};
pub use signer::{commit, waits_for};
pub use store::{EditStore, FOLDER, UNREADABLE};

use ipc::Problem;
use ipc::edit::{ClusterEdit, ClusterEditStatus, EditCommit};
use tokio::sync::oneshot;

/// What the owner asks for on the control socket, and where to say what became of it.
pub enum Request {
    /// Take part in a change, or go on with one.
    Start(Box<ClusterEdit>, oneshot::Sender<Result<ClusterEditStatus, Problem>>),
    /// How far is it?
    Status(oneshot::Sender<Result<ClusterEditStatus, Problem>>),
    /// Give the one up that has this name (`ipc::edit::OpenEdit`).
    Discard(String, oneshot::Sender<Result<ClusterEditStatus, Problem>>),
    /// Forget the promise to join with the lock of this hash: the owner has given it up in the signer.
    Forgo(String, oneshot::Sender<Result<ClusterEditStatus, Problem>>),
    /// The complete lock, from another member.
    Lock(serde_json::Value, oneshot::Sender<Result<ClusterEditStatus, Problem>>),
    /// The complete lock of the last change, for another member.
    GiveLock(oneshot::Sender<Result<EditCommit, Problem>>),
}
