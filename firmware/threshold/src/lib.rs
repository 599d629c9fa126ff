//! BLS12-381 signatures made by several boxes together: shares, partial signatures, combination, verification.
//!
//! The only room that calls blst. It knows nothing of duties or slashing: `signer` asks it to sign what was already checked
//! and recorded, `dv-node` and `cluster` verify and combine with it. It reads no clock and makes no randomness of its own:
//! random numbers are an argument. Secret types are wiped on drop and cannot be cloned, printed or serialised.
//!
//! Scheme: `BLS_SIG_BLS12381G2_XMD:SHA-256_SSWU_RO_POP_`, public keys in G1, signatures in G2 (Ethereum's). A share is the
//! value of a secret polynomial at its index; index 0 would be the group secret and is refused everywhere.

mod aggregate;
mod batch;
mod combine;
mod ffi;
pub mod frost;
mod keys;
mod lagrange;
mod memory;
pub mod pedersen;
mod plain;
mod run;
mod shamir;
mod signature;
mod suspects;

pub use aggregate::{
    aggregate_public_keys, aggregate_signatures, aggregate_verify, eth_fast_aggregate_verify,
    fast_aggregate_verify,
};
pub use batch::{BatchItem, batch_verify, batch_verify_one_message};
pub use combine::{Combination, CombineError, Combined, Combiner, Job, combine, combine_and_verify};
pub use ffi::{HashedMessage, hash_to_g2_affine};
pub use keys::{KeyError, PublicKey, PublicShare, SecretKey, SecretShare, ShareIndex};
pub use lagrange::{InterpolationError, lagrange_coefficients};
pub use plain::combine_plainly;
pub use shamir::{Commitments, Polynomial, ShamirError, Split, interpolate_public_key, split};
pub use signature::{Signature, SignatureError, verify, verify_bytes};

/// Largest number of shares or partial signatures taken at once. Clusters have at most 16 members today; the bound keeps
/// the work on hostile input small.
pub const MAX_SHARES: usize = 256;
