//! Key generation among the members of a cluster to be: nobody ever holds a whole key (obol spec 11).
//!
//! Pure: messages in, checked content or a refusal that names its sender out. [`sync`] keeps everybody in step, [`bcast`]
//! makes sure that everybody is told the same. Nothing here holds a share or a polynomial but `Dealer`, which runs in
//! `signer` alone.

pub mod bcast;
pub mod ceremony;
pub mod dealer;
pub mod edit;
pub mod exchange;
pub mod frost;
pub mod pedersen;
pub mod pedersen_wire;
pub mod plan;
pub mod profile;
pub mod sync;
pub mod wire;

pub use bcast::{BroadcastRefusal, BroadcastVersion, Broadcasts, Delivered, Session};
pub use ceremony::Ceremony;
pub use dealer::{Born, BornValidator, Culprit, Dealer, SignedByValidators};
pub use plan::{Plan, PlanError};
pub use profile::Profile;
pub use sync::{SealKey, Sync, SyncRefusal};
