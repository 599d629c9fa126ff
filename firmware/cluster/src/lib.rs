//! The documents that say who is in: identities and node records, the cluster definition and lock of Obol-type
//! clusters, deposits, the EIP-2335 files key shares travel in, and the files of SSV's operators.
//!
//! Pure: bytes in, verdicts and bytes out. It opens no file or socket, reads no clock and makes no randomness of its own
//! (both are arguments). It never accepts half a lock: only [`Lock::verify`] hands out a [`ClusterView`], which `dv-node`
//! and `signer` build on. Secrets made or opened here are wiped on drop and never printed.

pub mod add;
mod bls;
pub mod create;
pub mod definition;
pub mod deposit;
mod document;
pub mod edit;
pub mod eip712;
pub mod enr;
pub mod exit;
pub mod exit_pool;
pub mod identity;
pub mod keystore;
pub mod lock;
mod merkle;
pub mod network;
pub mod parts;
pub mod peer;
mod primitives;
pub mod registrations;
mod rlp;
pub mod ssv;
mod view;

pub use definition::{Definition, DefinitionError, SchemaVersion};
pub use document::{FieldError, FieldProblem, MAX_FILE_BYTES};
pub use enr::{Enr, EnrEndpoint, EnrError};
pub use identity::{IdentityError, IdentityKey, IdentityPublicKey};
pub use keystore::{Keystore, KeystoreError};
pub use lock::{DistributedValidator, Lock, LockError};
pub use network::Network;
pub use peer::{PeerId, PeerIdError};
pub use primitives::{AddressError, read_address};
pub use rlp::RlpError;
pub use view::{ClusterView, DEFAULT_GAS_LIMIT, OperatorView, ValidatorView, least_safe_threshold};
