//! Who may ask the signer from outside the box, and how the owner says so on the signer's control socket.
//!
//! `GET /v1/remote` answers [`RemoteStatus`], `POST /v1/remote/clients` takes [`RemoteClientOrder`] and answers
//! [`RemoteClientMade`], `POST /v1/remote/clients/remove` takes [`RemoteClientRemoval`] and answers [`RemoteStatus`].
//!
//! A client shows a certificate that this box's signer made, and the signer shows one of the same authority: mutual TLS, which
//! begins and ends in the signer's process. On its socket it finds the signing routes of the Web3Signer API, or those
//! of the keymanager API, or both; nothing else of what the signer does for the box itself.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::Sensitive;

/// Path of [`RemoteStatus`].
pub const REMOTE_PATH: &str = "/v1/remote";
/// Path that takes [`RemoteClientOrder`].
pub const REMOTE_CLIENTS_PATH: &str = "/v1/remote/clients";
/// Path that takes [`RemoteClientRemoval`].
pub const REMOTE_REMOVE_PATH: &str = "/v1/remote/clients/remove";
/// Stands for every client.
pub const ALL_CLIENTS: &str = "all";
/// Clients at once.
pub const MAX_CLIENTS: usize = 16;
/// Names and addresses of the box at once.
pub const MAX_ADDRESSES: usize = 16;
/// The name that is always in the signer's certificate.
pub const SERVER_NAME: &str = "hearth-signer";

/// What a client may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RemoteRight {
    /// Ask for signatures: the Web3Signer API.
    Sign,
    /// List, import and delete shares, and read and set who is paid: the keymanager API. Its token is needed as well.
    ManageKeys,
}

/// Who may come in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoteStatus {
    /// The clients, in the order of their names.
    pub clients: Vec<RemoteClient>,
    /// The names and addresses in the signer's certificate.
    pub addresses: Vec<String>,
}

/// One client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoteClient {
    /// What the owner calls it.
    pub name: String,
    /// What it may do.
    pub may: BTreeSet<RemoteRight>,
    /// SHA-256 of its certificate, hex.
    pub fingerprint: String,
}

/// The owner lets a client in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RemoteClientOrder {
    /// Small letters, digits and hyphens, at most 40.
    pub name: String,
    /// What it may do; at least one thing.
    pub may: BTreeSet<RemoteRight>,
    /// Names and addresses by which the client calls this box, beside those known before; they go into the signer's
    /// certificate, for clients that compare.
    #[serde(default)]
    pub addresses: Vec<String>,
    /// The code that the box's own screen shows for this order. Without one it shows one, and the answer says `confirm_on_screen`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
}

/// What the client needs, shown this once.
#[derive(Debug, Serialize, Deserialize)]
pub struct RemoteClientMade {
    /// The client.
    pub client: RemoteClient,
    /// Its certificate, PEM.
    pub certificate: String,
    /// Its private key, PEM. The signer does not keep it.
    pub private_key: Sensitive,
    /// The certificate of the authority that both sides trust, PEM.
    pub authority: String,
    /// The token of the keymanager API, for a client that may use it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keymanager_token: Option<Sensitive>,
}

/// The owner shuts a client out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RemoteClientRemoval {
    /// Its name; [`ALL_CLIENTS`] shuts out everybody and makes the authority anew, also when the list cannot be read.
    pub name: String,
}
