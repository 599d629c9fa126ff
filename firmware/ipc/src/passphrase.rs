//! The passphrase of a board that has no TPM (decision 0320).
//!
//! `GET` [`PASSPHRASE_PATH`] on the signer's control socket answers [`PassphraseStatus`], `POST` takes a sealed
//! [`PassphraseOrder`] and answers the same. The key it is sealed to is made anew at each start of the signer: before the passphrase is
//! known, there is no other.

use serde::{Deserialize, Serialize};

use crate::Sensitive;

/// Path of [`PassphraseStatus`], and of the sealed [`PassphraseOrder`].
pub const PASSPHRASE_PATH: &str = "/v1/passphrase";
/// HPKE's `info` of a sealed [`PassphraseOrder`].
pub const PASSPHRASE_INFO: &[u8] = b"hearth passphrase v1";
/// The longest passphrase, in bytes.
pub const MAX_PASSPHRASE_BYTES: usize = 512;
/// The largest [`PassphraseOrder`].
pub const MAX_ORDER_BYTES: usize = 4096;

/// Where a board without a TPM stands. Nothing in it is secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PassphraseStatus {
    /// Where it stands.
    pub state: PassphraseState,
    /// The HPKE public key that orders are sealed to, 32 bytes in hex. Its fingerprint is on the box's own screen.
    pub key: String,
}

/// Where a board without a TPM stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PassphraseState {
    /// There is none yet: the owner chooses it now.
    Unset,
    /// The shares wait for it.
    Locked,
    /// It was typed since the last start.
    Open,
}

/// What the owner wants. Sealed by the page.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum PassphraseOrder {
    /// Opens the shares after a start.
    Open {
        /// The passphrase.
        passphrase: Sensitive,
    },
    /// The first one, before any share is here.
    First {
        /// The passphrase.
        passphrase: Sensitive,
    },
    /// Another one from now on.
    Change {
        /// The one until now.
        passphrase: Sensitive,
        /// The new one.
        new: Sensitive,
    },
}
