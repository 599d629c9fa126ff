//! A Charon node's folder on its way into the box: from the owner's browser to the signer, and nowhere else in the clear.
//!
//! The page seals a [`CharonFolder`] to the signer's import key with [`FOLDER_INFO`] as its purpose
//! ([`crate::envelope::seal_as_page`] does the same), and `POST`s it to [`FOLDERS_PATH`] of the control socket by way of `web`. The
//! signer proves every share against the lock and answers [`FolderImported`]. `dv-node` then asks on the signing socket for
//! the identity key of the cluster it joins ([`identity_path`]).

use serde::{Deserialize, Serialize};

use crate::Sensitive;
use crate::signer::{ChainClock, HeldShare};

/// Path on the control socket that takes a sealed [`CharonFolder`] and answers [`FolderImported`].
pub const FOLDERS_PATH: &str = "/v1/folders";
/// Path on the signing socket, below which the identity keys are that came in folders.
pub const IDENTITIES_PATH: &str = "/v1/identities";
/// Path on the signing socket that seals an [`IdentityToSeal`] for `dv-node`'s own disk and answers [`SealedIdentity`].
pub const SEAL_IDENTITY_PATH: &str = "/v1/node-identity/seal";
/// Path on the signing socket that opens a [`SealedIdentity`] and answers [`IdentityAnswer`].
pub const OPEN_IDENTITY_PATH: &str = "/v1/node-identity/open";
/// HPKE's `info`: binds an envelope to this purpose.
pub const FOLDER_INFO: &[u8] = b"hearth charon folder v1";
/// The largest plaintext: the lock and the keystores of a thousand validators are about 3 MiB.
pub const MAX_FOLDER_BYTES: usize = 5 * 1024 * 1024;

/// Where `dv-node` asks for the identity key that belongs to a cluster.
pub fn identity_path(lock_hash: &str) -> String {
    format!("{IDENTITIES_PATH}/{lock_hash}")
}

/// What is in a `.charon` folder, and what its owner says about it. Exists in the owner's browser and in the signer only.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CharonFolder {
    /// `cluster-lock.json`.
    pub lock: serde_json::Value,
    /// `charon-enr-private-key`.
    pub identity_key: Sensitive,
    /// `validator_keys/keystore-*.json`, each with the password beside it, in any order.
    pub keystores: Vec<FolderKeystore>,
    /// The owner's word that the node which used these keys is stopped and stays so. Without it nothing is taken in.
    pub old_node_stopped: bool,
    /// What the shares have signed before.
    pub past: Past,
    /// The chain, when it is not a public one. What everybody knows of a public one cannot be stated otherwise.
    #[serde(default)]
    pub chain: Option<StatedChain>,
}

/// One keystore of the folder.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FolderKeystore {
    /// Its file name, for what the owner is told.
    pub name: String,
    /// The EIP-2335 keystore.
    pub keystore: serde_json::Value,
    /// The content of the `.txt` file beside it.
    pub password: Sensitive,
}

/// What the shares of a folder have signed before.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Past {
    /// The EIP-3076 document that the old validator client exported. Charon's validator clients know shares, not validators,
    /// so its keys are the public shares.
    Interchange(serde_json::Value),
    /// There is none: the owner accepts that the shares wait until nothing that the old node signed can matter.
    Wait,
}

/// A chain that is not public.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StatedChain {
    /// Any name.
    pub name: String,
    /// Execution-layer chain id.
    pub chain_id: u64,
    /// `0x` hex, as in the lock.
    pub genesis_fork_version: String,
    /// `0x` hex.
    pub genesis_validators_root: String,
    /// Its slots.
    pub clock: ChainClock,
}

/// What came of a folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FolderImported {
    /// The cluster's name.
    pub cluster: String,
    /// Hash of its lock, `0x` hex.
    pub lock_hash: String,
    /// Our share index in it, from 1.
    pub share_index: u8,
    /// Shares that were new.
    pub imported: Vec<HeldShare>,
    /// Public keys of shares that were there already.
    pub already_held: Vec<String>,
    /// The epoch from which the new shares vote; none when the chain has not begun, or nothing is new.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub votes_from_epoch: Option<u64>,
}

/// An identity key on its way from `dv-node` to the signer, for backups and moves.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdentityGiven {
    /// As in `charon-enr-private-key`.
    pub identity_key: Sensitive,
    /// The cluster's complete lock, which shows whose the key is.
    #[serde(default)]
    pub lock: Option<serde_json::Value>,
}

/// An identity key on its way to `dv-node`, which speaks to the other members with it.
#[derive(Debug, Serialize, Deserialize)]
pub struct IdentityAnswer {
    /// As in `charon-enr-private-key`.
    pub identity_key: Sensitive,
}

/// An identity key that `dv-node` wants to keep on its disk.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdentityToSeal {
    /// As in `charon-enr-private-key`.
    pub identity_key: Sensitive,
}

/// The same as it may lie on the disk: only the signer of this box opens it, while its vault is open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SealedIdentity {
    /// Hex.
    pub sealed: String,
}
