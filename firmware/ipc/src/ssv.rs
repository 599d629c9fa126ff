//! The files of an operator of the SSV network on their way into the box: its RSA key, and the key shares that are encrypted to it.
//!
//! The page seals [`SsvFiles`] to the signer's import key with [`SSV_INFO`] as its purpose ([`crate::envelope::seal_as_page`] does the
//! same), and `POST`s it to [`SSV_PATH`] of the control socket by way of `web`. The signer opens this operator's share of each
//! validator, forgets the operator's key, and answers [`SsvImported`].

use serde::{Deserialize, Serialize};

use crate::Sensitive;
use crate::folder::{Past, StatedChain};
use crate::signer::HeldShare;

/// Path on the control socket that takes sealed [`SsvFiles`] and answers [`SsvImported`].
pub const SSV_PATH: &str = "/v1/ssv";
/// HPKE's `info`: binds an envelope to this purpose.
pub const SSV_INFO: &[u8] = b"hearth ssv files v1";
/// The largest plaintext.
pub const MAX_SSV_BYTES: usize = crate::folder::MAX_FOLDER_BYTES;

/// What the owner hands in. Exists in the owner's browser and in the signer only.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SsvFiles {
    /// The operator's key. It opens the shares and is not kept.
    pub operator_key: SsvKeyFile,
    /// `keyshares.json` as text.
    pub key_shares: String,
    /// The owner's word that the node which used these shares is stopped and stays so. Without it no share is taken in.
    #[serde(default)]
    pub old_node_stopped: bool,
    /// What the shares have signed before.
    pub past: Past,
    /// The name of the public network that operator and validators are on: no file of SSV says it.
    #[serde(default)]
    pub network: Option<String>,
    /// The chain, when it is not a public one.
    #[serde(default)]
    pub chain: Option<StatedChain>,
}

/// An operator's key as it is in a file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SsvKeyFile {
    /// The file: Base64 text, or `encrypted_private_key.json`.
    pub file: Sensitive,
    /// The password of the encrypted form.
    #[serde(default)]
    pub password: Option<Sensitive>,
}

/// What came of it. All of these shares rest: each signs once its owner has said that it may go on ([`crate::owner::ResumeShare`]).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SsvImported {
    /// SHA-256 of the operator's public key, hex.
    pub operator: String,
    /// Shares that were new.
    pub imported: Vec<HeldShare>,
    /// Public keys of shares that were there already.
    pub already_held: Vec<String>,
}
