//! Decides whether a share may sign a message without ever risking a slashing (EIP-3076).
//!
//! Pure rules: no file, no clock, no key. The signer keeps the history and asks here before every signature; nobody else
//! should. When the history is unknown the answer is no: a missed duty costs cents, a slashing costs the stake.
//!
//! The order a caller cannot get wrong: [`check_attestation`] gives an [`AttestationPermit`], which the ledger makes durable
//! and then hands to [`History::record_attestation`]; only then may a key sign. Blocks go the same way.

mod check;
mod history;
mod interchange;
mod origin;
mod protection;

pub use check::{
    AttestationPermit, AttestationVote, BlockPermit, BlockProposal, Refusal, check_attestation, check_block,
};
pub use history::{Floors, History, RecordError, Retention, SignedAttestation, SignedBlock};
pub use interchange::{Interchange, InterchangeError, Metadata, ValidatorRecord};
pub use origin::{Origin, origin_of_attestation, origin_of_block};
pub use protection::{ImportError, Protection};
