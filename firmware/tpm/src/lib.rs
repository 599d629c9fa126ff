//! Has the board's TPM make keys that only it can use, after the signed boot alone, and counts where nobody can count back.
//!
//! A key made here works only on the same TPM, only after a boot whose measurement (PCR 11) the image's key has
//! approved, and only with the same Secure Boot state and the same command-line extras (PCR 7 and 12) as when it was
//! made. So it survives our updates and works for nothing else. What each of the three is for: decision 0120.
//!
//! The only user of `tss-esapi`. It must never write a secret anywhere or log one, and leaves no object or session
//! behind in the TPM. Called by `signer`; developers' tools use [`devpolicy`] and [`swtpm`], which the image lacks.

#[cfg_attr(not(feature = "device"), allow(dead_code, reason = "only the device uses all of it"))]
pub mod blob;
#[cfg_attr(not(feature = "device"), allow(dead_code, reason = "only the device uses all of it"))]
pub mod policy;

#[cfg(feature = "device")]
mod counter;
#[cfg(feature = "device")]
mod device;
#[cfg(feature = "dev")]
pub mod devpolicy;
#[cfg(feature = "device")]
mod error;
#[cfg(feature = "dev")]
pub mod swtpm;

pub use blob::SealedBlob;
#[cfg(feature = "device")]
pub use counter::Counter;
#[cfg(feature = "device")]
pub use device::{Tpm, TpmIdentity};
#[cfg(feature = "device")]
pub use error::TpmError;
pub use policy::{Policy, PolicyError};
