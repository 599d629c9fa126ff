//! Key generation: the shell around the pure ceremony. It carries messages between the members and the signer, keeps what
//! must survive a restart, and shows how far everybody is. It holds no key, and share messages only for as long as they
//! pass through; those of other Hearths it cannot read (decision 0171).

mod control;
mod shell;
mod signer;
mod store;

pub use control::router;
pub(crate) use shell::tell_step;
pub use shell::{Made, Running, Surroundings, start};
pub(crate) use store::parse_records;
pub use store::{CeremonyStore, FOLDER, StoredRequest};

use ipc::Problem;
use ipc::dkg::{KeyGeneration, KeyGenerationFiles, KeyGenerationStatus};
use tokio::sync::oneshot;

/// What the owner asks for on the control socket, and where to say what became of it.
pub enum Request {
    /// Take part in a ceremony.
    Start(Box<KeyGeneration>, oneshot::Sender<Result<KeyGenerationStatus, Problem>>),
    /// How far is it?
    Status(oneshot::Sender<Result<KeyGenerationStatus, Problem>>),
    /// Give it up.
    Discard(oneshot::Sender<Result<KeyGenerationStatus, Problem>>),
    /// What a finished one left.
    Files(oneshot::Sender<Result<KeyGenerationFiles, Problem>>),
}
