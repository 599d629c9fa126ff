//! The door for validator clients and key managers outside the box: mutual TLS that begins and ends in this process.
//!
//! The signer still has no network. It gets a unix socket from systemd, like all its sockets; whoever carries the bytes there
//! (on the box systemd's own `systemd-socket-proxyd`, in a unit of its own) sees nothing but TLS and cannot change it. Shut
//! until the owner lets a client in, and every request is held against the owner's list, not only every connection
//! (decision 0290).

mod api;
mod authority;
mod serve;

use std::{
    collections::BTreeSet,
    path::PathBuf,
    sync::{Arc, PoisonError, RwLock},
};

use ipc::{
    Problem, Sensitive,
    remote::{
        ALL_CLIENTS, MAX_ADDRESSES, MAX_CLIENTS, RemoteClient, RemoteClientMade, RemoteClientOrder,
        RemoteClientRemoval, RemoteRight, RemoteStatus,
    },
};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

pub(crate) use api::control_routes;
pub(crate) use serve::serve;

use self::authority::{Authority, AuthorityError};
use crate::{files, signer::Signer};

/// What the list of clients is sealed for. Frozen.
const LABEL: &[u8] = b"hearth remote clients v1";
const FOLDER: &str = "remote";
/// The authority's key and the list.
const FILE: &str = "clients.sealed";
/// There as long as somebody may come in: the port is opened when it appears (`signer-gate.path`).
const MARK: &str = "open";
const MAX_FILE_BYTES: u64 = 1 << 20;
const MAX_NAME: usize = 40;

/// All that is known of the door. Read by every request, changed by the owner's word.
#[derive(Default)]
pub(crate) struct Remote {
    door: RwLock<Option<Arc<Door>>>,
    /// The owner's words come one after the other.
    changing: tokio::sync::Mutex<()>,
}

/// The open door.
pub(crate) struct Door {
    authority: Authority,
    addresses: Vec<String>,
    clients: Vec<RemoteClient>,
    acceptor: tokio_rustls::TlsAcceptor,
}

/// What is kept, sealed: whoever can write this list can ask for signatures.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    authority_key: String,
    authority: Vec<u8>,
    addresses: Vec<String>,
    clients: Vec<RemoteClient>,
}

impl Drop for Kept {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.authority_key);
    }
}

impl Door {
    fn new(
        authority: Authority,
        addresses: Vec<String>,
        clients: Vec<RemoteClient>,
    ) -> Result<Self, AuthorityError> {
        let config = authority.server(&addresses)?;
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        Ok(Self { authority, addresses, clients, acceptor })
    }

    fn kept(&self) -> Kept {
        Kept {
            authority_key: self.authority.key_pem().to_string(),
            authority: self.authority.certificate().to_vec(),
            addresses: self.addresses.clone(),
            clients: self.clients.clone(),
        }
    }

    fn status(&self) -> RemoteStatus {
        RemoteStatus { clients: self.clients.clone(), addresses: self.addresses.clone() }
    }

    fn client(&self, fingerprint: &str) -> Option<&RemoteClient> {
        self.clients.iter().find(|client| client.fingerprint == fingerprint)
    }
}

impl Signer {
    /// The door; none when the owner never let anybody in.
    fn door(&self) -> Result<Option<Arc<Door>>, Problem> {
        if let Some(door) = &*self.remote.door.read().unwrap_or_else(PoisonError::into_inner) {
            return Ok(Some(Arc::clone(door)));
        }
        let path = self.remote_folder().join(FILE);
        let sealed = files::read_small(&path, MAX_FILE_BYTES)
            .map_err(|error| unusable(&format!("{} cannot be read: {error}", path.display())))?;
        let Some(sealed) = sealed else { return Ok(None) };
        let (vault, _) = self.open_parts()?;
        let plain = vault.open_bytes(LABEL, &sealed).ok_or_else(|| unusable("it was changed"))?;
        let kept: Kept = serde_json::from_slice(&plain).map_err(|_| unusable("it is of another version"))?;
        let authority = Authority::restore(&kept.authority_key, kept.authority.clone())
            .map_err(|error| unusable(&error.to_string()))?;
        let door = Door::new(authority, kept.addresses.clone(), kept.clients.clone())
            .map_err(|error| unusable(&error.to_string()))?;
        Ok(Some(self.adopt_door(door)))
    }

    fn adopt_door(&self, door: Door) -> Arc<Door> {
        let door = Arc::new(door);
        *self.remote.door.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&door));
        door
    }

    /// Who may come in.
    pub(crate) fn remote_status(&self) -> Result<RemoteStatus, Problem> {
        Ok(self.door()?.map(|door| door.status()).unwrap_or_default())
    }

    /// Whether a client that came in still may, and do this.
    fn remote_may(&self, fingerprint: &str, right: RemoteRight) -> bool {
        let door = self.door().ok().flatten();
        door.is_some_and(|door| door.client(fingerprint).is_some_and(|client| client.may.contains(&right)))
    }

    /// The owner lets a client in. The answer holds its key, which is kept nowhere here.
    pub(crate) async fn let_in(&self, order: RemoteClientOrder) -> Result<RemoteClientMade, Problem> {
        let _one_at_a_time = self.remote.changing.lock().await;
        check_order(&order)?;
        let known = self.door()?;
        let (authority, mut addresses, mut clients) = match &known {
            Some(door) => {
                let kept = door.kept();
                let authority = Authority::restore(&kept.authority_key, kept.authority.clone());
                (authority, door.addresses.clone(), door.clients.clone())
            }
            None => (Authority::generate(), Vec::new(), Vec::new()),
        };
        let authority = authority.map_err(|error| unusable(&error.to_string()))?;
        if clients.iter().any(|client| client.name == order.name) {
            return Err(invalid(
                &format!("A client with the name {} may come in already.", order.name),
                "Remove it first, or choose another name.",
            ));
        }
        if clients.len() >= MAX_CLIENTS {
            return Err(invalid(
                &format!("{MAX_CLIENTS} clients may come in at most."),
                "Remove one that is not used any more.",
            ));
        }
        let asked: BTreeSet<&String> = order.addresses.iter().collect();
        for address in asked {
            if !addresses.contains(address) {
                addresses.push(address.clone());
            }
        }
        if addresses.len() > MAX_ADDRESSES {
            return Err(invalid(
                &format!("{MAX_ADDRESSES} names and addresses of the box are kept at most."),
                "Name fewer; every client may also call this box `hearth-signer`.",
            ));
        }
        let issued = authority.issue(&order.name).map_err(|error| unusable(&error.to_string()))?;
        let client =
            RemoteClient { name: order.name, may: order.may, fingerprint: issued.fingerprint.clone() };
        clients.push(client.clone());
        clients.sort_by(|a, b| a.name.cmp(&b.name));
        // Before the list, so that a client is never let in whose token could not be made.
        let keymanager_token = if client.may.contains(&RemoteRight::ManageKeys) {
            Some(Sensitive::new(self.keymanager_token()?.to_string()))
        } else {
            None
        };
        let door = Door::new(authority, addresses, clients).map_err(|error| match error {
            AuthorityError::Make(_) => invalid(
                "One of the addresses is neither a host name nor an IP address.",
                "Name the box as the client calls it, such as hearth-1a2b.local or 192.168.1.20.",
            ),
            other @ (AuthorityError::Use(_) | AuthorityError::Verifier(_)) => unusable(&other.to_string()),
        })?;
        self.keep_door(&door)?;
        let door = self.adopt_door(door);
        tracing::warn!(client = %client.name, may = ?client.may, "the owner lets a client outside the box ask this signer");
        Ok(RemoteClientMade {
            client,
            certificate: issued.certificate.clone(),
            private_key: Sensitive::new(issued.private_key.to_string()),
            authority: door.authority.certificate_pem(),
            keymanager_token,
        })
    }

    /// The owner shuts a client out. From this answer on it gets none, also on connections that are open.
    pub(crate) async fn shut_out(&self, removal: RemoteClientRemoval) -> Result<RemoteStatus, Problem> {
        let _one_at_a_time = self.remote.changing.lock().await;
        if removal.name == ALL_CLIENTS {
            return self.shut_all_out();
        }
        let unknown = || invalid("No client with that name may come in.", "See the list of clients.");
        let known = self.door()?.ok_or_else(unknown)?;
        let mut clients = known.clients.clone();
        clients.retain(|client| client.name != removal.name);
        if clients.len() == known.clients.len() {
            return Err(unknown());
        }
        let kept = known.kept();
        let authority = Authority::restore(&kept.authority_key, kept.authority.clone())
            .map_err(|error| unusable(&error.to_string()))?;
        let door = Door::new(authority, known.addresses.clone(), clients)
            .map_err(|error| unusable(&error.to_string()))?;
        // Out of memory first: what fails to be written is refused now and shown as an error.
        let door = self.adopt_door(door);
        self.keep_door(&door)?;
        tracing::warn!("the owner shut a client outside the box out");
        Ok(door.status())
    }

    /// Needs neither the list nor the vault: the way out when either is damaged.
    fn shut_all_out(&self) -> Result<RemoteStatus, Problem> {
        let folder = self.remote_folder();
        for file in [MARK, FILE] {
            match std::fs::remove_file(folder.join(file)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(unusable(&format!("{} cannot be written: {error}", folder.display())));
                }
                Ok(()) | Err(_) => {}
            }
        }
        *self.remote.door.write().unwrap_or_else(PoisonError::into_inner) = None;
        if folder.exists() {
            files::sync_dir(&folder).map_err(|error| unusable(&error.to_string()))?;
        }
        tracing::warn!("the owner shut every client outside the box out");
        Ok(RemoteStatus::default())
    }

    fn keep_door(&self, door: &Door) -> Result<(), Problem> {
        let (vault, _) = self.open_parts()?;
        let plain =
            Zeroizing::new(serde_json::to_vec(&door.kept()).map_err(|error| unusable(&error.to_string()))?);
        let sealed = vault.seal_bytes(LABEL, &plain)?;
        let folder = self.remote_folder();
        let written = (|| {
            use std::os::unix::fs::DirBuilderExt as _;
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
            files::write_atomically(&folder.join(FILE), &sealed)?;
            let mark = folder.join(MARK);
            if door.clients.is_empty() {
                match std::fs::remove_file(&mark) {
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
                    Ok(()) | Err(_) => Ok(()),
                }
            } else {
                files::write_atomically(&mark, b"")
            }
        })();
        written.map_err(|error: std::io::Error| {
            unusable(&format!("{} cannot be written: {error}", folder.display()))
        })
    }

    fn remote_folder(&self) -> PathBuf {
        self.config.state_dir.join(FOLDER)
    }
}

fn check_order(order: &RemoteClientOrder) -> Result<(), Problem> {
    let allowed = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '-';
    if order.name.is_empty()
        || order.name == ALL_CLIENTS
        || order.name.len() > MAX_NAME
        || !order.name.chars().all(allowed)
    {
        return Err(invalid(
            "A client's name has 1 to 40 small letters, digits and hyphens, and is not `all`.",
            "Choose another name.",
        ));
    }
    if order.may.is_empty() {
        return Err(invalid("A client that may do nothing needs no certificate.", "Say what it may do."));
    }
    if order.addresses.len() > MAX_ADDRESSES || order.addresses.iter().any(|address| address.len() > 253) {
        return Err(invalid("These are too many or too long addresses.", "Name those that the client uses."));
    }
    Ok(())
}

fn invalid(message: &str, next_step: &str) -> Problem {
    Problem::new("remote_client_invalid", message, next_step)
}

fn unusable(why: &str) -> Problem {
    Problem::new(
        "remote_unusable",
        format!("The list of clients outside the box cannot be used: {why}."),
        "Nobody outside the box is let in, and nothing else is touched. Remove `all` clients and let each of them in again.",
    )
}
