//! Pedersen's key generation and resharing, as the cluster tools of Obol run it (kyber's `share/dkg`, fast-sync mode).
//!
//! Every dealer hides a secret in a polynomial, publishes commitments to it and sends each receiver its value, encrypted.
//! In a key generation the secrets are random and the sum of all polynomials is the new key. In a resharing each dealer's
//! secret is its old share, and what the receivers interpolate is a new polynomial with the same group key.
//!
//! [`Pedersen`] is one member's whole part for one validator, secrets included: it belongs into the process that holds the
//! shares. Bundles go in and out as plain data; they carry nothing that may not be seen by everybody. Whoever carries them
//! must make sure that a bundle comes from the member it names.

mod bundle;
mod deal;
mod ecies;
mod finish;
mod justify;
mod machine;
mod nonce;
mod respond;
mod setup;
#[cfg(test)]
mod tests;

pub use bundle::{Deal, DealBundle, Justification, JustificationBundle, Response, ResponseBundle};
pub use ecies::{CIPHERTEXT_BYTES, EphemeralKey};
pub use finish::Outcome;
pub use machine::{Accusation, Bundle, Event, Failure, Fault, Output, Pedersen, Phase};
pub use nonce::{NonceRule, session_nonce};
pub use setup::{OldSharing, Own, Setup, SetupError};

/// Binds a bundle to one run for one validator.
pub type Session = [u8; 32];

/// The most members of either side; share indices are bytes elsewhere.
pub const MAX_MEMBERS: usize = 255;
