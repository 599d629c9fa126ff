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
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::Instant,
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
use crate::{
    files,
    signer::{Signer, ledger_problem},
};

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
    door: RwLock<State>,
    /// The owner's words come one after the other, and the file is never read while one of them is carried out.
    changing: tokio::sync::Mutex<()>,
}

#[derive(Clone, Default)]
enum State {
    /// Nobody asked since the start.
    #[default]
    Unread,
    /// Nobody may come in, whatever the disk says.
    Shut,
    Open(Arc<Door>),
}

impl Remote {
    fn state(&self) -> State {
        self.door.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn become_state(&self, state: State) {
        *self.door.write().unwrap_or_else(PoisonError::into_inner) = state;
    }
}

/// The open door.
pub(crate) struct Door {
    /// Of the list, one more with each change.
    generation: u64,
    authority: Authority,
    addresses: Vec<String>,
    clients: Vec<RemoteClient>,
    acceptor: tokio_rustls::TlsAcceptor,
}

/// What is kept, sealed: whoever can write this list can ask for signatures. An older list put back would let in who was shut
/// out, so the ledger keeps the least generation that is believed; see [`Signer::door_unless_read`].
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    #[serde(default)]
    generation: u64,
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
        generation: u64,
        authority: Authority,
        addresses: Vec<String>,
        clients: Vec<RemoteClient>,
    ) -> Result<Self, AuthorityError> {
        let config = authority.server(&addresses)?;
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        Ok(Self { generation, authority, addresses, clients, acceptor })
    }

    fn kept(&self) -> Kept {
        Kept {
            generation: self.generation,
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
    /// The door; none when the owner let nobody in.
    async fn door(&self) -> Result<Option<Arc<Door>>, Problem> {
        match self.remote.state() {
            State::Unread => {
                let _one_at_a_time = self.remote.changing.lock().await;
                self.door_unless_read().await
            }
            State::Shut => Ok(None),
            State::Open(door) => Ok(Some(door)),
        }
    }

    /// The same for who holds `changing`: what is read cannot have been overtaken by the owner's word.
    async fn door_unless_read(&self) -> Result<Option<Arc<Door>>, Problem> {
        match self.remote.state() {
            State::Unread => {}
            State::Shut => return Ok(None),
            State::Open(door) => return Ok(Some(door)),
        }
        let path = self.remote_folder().join(FILE);
        let sealed = files::read_small(&path, MAX_FILE_BYTES)
            .map_err(|error| unusable(&format!("{} cannot be read: {error}", path.display())))?;
        let Some(sealed) = sealed else {
            self.remote.become_state(State::Shut);
            return Ok(None);
        };
        let (vault, ledger) = self.open_parts()?;
        let plain = vault.open_bytes(LABEL, &sealed).ok_or_else(|| unusable("it was changed"))?;
        let kept: Kept = serde_json::from_slice(&plain).map_err(|_| unusable("it is of another version"))?;
        let least = ledger.remote_generation().await.map_err(|error| ledger_problem(&error))?;
        if kept.generation < least {
            return Err(unusable("an older copy of it was put back"));
        }
        let authority = Authority::restore(&kept.authority_key, kept.authority.clone())
            .map_err(|error| unusable(&error.to_string()))?;
        let door = Door::new(kept.generation, authority, kept.addresses.clone(), kept.clients.clone())
            .map_err(|error| unusable(&error.to_string()))?;
        // The power went between the list and the ledger: now the one before it is not believed any more.
        ledger.keep_remote_generation(kept.generation).await.map_err(|error| ledger_problem(&error))?;
        Ok(Some(self.adopt_door(door)))
    }

    fn adopt_door(&self, door: Door) -> Arc<Door> {
        let door = Arc::new(door);
        self.remote.become_state(State::Open(Arc::clone(&door)));
        door
    }

    async fn next_generation(&self) -> Result<u64, Problem> {
        let (_, ledger) = self.open_parts()?;
        let known = ledger.remote_generation().await.map_err(|error| ledger_problem(&error))?;
        Ok(known.saturating_add(1))
    }

    /// Who may come in.
    pub(crate) async fn remote_status(&self) -> Result<RemoteStatus, Problem> {
        Ok(self.door().await?.map(|door| door.status()).unwrap_or_default())
    }

    /// Whether a client that came in still may, and do this.
    async fn remote_may(&self, fingerprint: &str, right: RemoteRight) -> bool {
        let door = self.door().await.ok().flatten();
        door.is_some_and(|door| door.client(fingerprint).is_some_and(|client| client.may.contains(&right)))
    }

    /// The owner lets a client in. The answer holds its key, which is kept nowhere here.
    pub(crate) async fn let_in(&self, order: RemoteClientOrder) -> Result<RemoteClientMade, Problem> {
        let _one_at_a_time = self.remote.changing.lock().await;
        check_order(&order)?;
        let known = self.door_unless_read().await?;
        let generation = self.next_generation().await?;
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
        let door = Door::new(generation, authority, addresses, clients).map_err(|error| match error {
            AuthorityError::Make(_) => invalid(
                "One of the addresses is neither a host name nor an IP address.",
                "Name the box as the client calls it, such as hearth-1a2b.local or 192.168.1.20.",
            ),
            other @ (AuthorityError::Use(_) | AuthorityError::Verifier(_)) => unusable(&other.to_string()),
        })?;
        // A page in foreign hands could let itself in otherwise. Asked when nothing but the disk can fail any more.
        let (what, line) = on_screen(&client, &order.addresses);
        self.presence.confirm(&what, &line, order.code.as_deref(), Instant::now())?;
        // Before the list, so that a client is never let in whose token could not be made.
        let keymanager_token = if client.may.contains(&RemoteRight::ManageKeys) {
            Some(Sensitive::new(self.keymanager_token()?.to_string()))
        } else {
            None
        };
        self.keep_door(&door).await?;
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
            return self.shut_all_out().await;
        }
        let unknown = || invalid("No client with that name may come in.", "See the list of clients.");
        let known = self.door_unless_read().await?.ok_or_else(unknown)?;
        let mut clients = known.clients.clone();
        clients.retain(|client| client.name != removal.name);
        if clients.len() == known.clients.len() {
            return Err(unknown());
        }
        let kept = known.kept();
        let authority = Authority::restore(&kept.authority_key, kept.authority.clone())
            .map_err(|error| unusable(&error.to_string()))?;
        let generation = self.next_generation().await?;
        let door = Door::new(generation, authority, known.addresses.clone(), clients)
            .map_err(|error| unusable(&error.to_string()))?;
        // Out of memory first: what fails to be written is refused now and shown as an error.
        let door = self.adopt_door(door);
        self.keep_door(&door).await?;
        tracing::warn!("the owner shut a client outside the box out");
        Ok(door.status())
    }

    /// Needs neither the list nor the vault: the way out when either is damaged. Nobody comes in from here on, also when the
    /// disk takes nothing any more; the error then says that a restart may bring them back.
    async fn shut_all_out(&self) -> Result<RemoteStatus, Problem> {
        self.remote.become_state(State::Shut);
        // No copy of the list is believed any more. Without a ledger none is believed either, nor is anything signed.
        let forgotten = match (self.next_generation().await, self.open_parts()) {
            (Ok(generation), Ok((_, ledger))) => {
                ledger.keep_remote_generation(generation).await.map_err(|error| error.to_string())
            }
            (Err(_), _) | (_, Err(_)) => Ok(()),
        };
        // All of it is tried, whatever fails.
        let folder = self.remote_folder();
        let [mark, list] = [MARK, FILE].map(|file| remove(&folder.join(file)));
        let synced = if folder.exists() { files::sync_dir(&folder) } else { Ok(()) };
        let removed = mark.and(list).and(synced).map_err(|error| error.to_string());
        forgotten.and(removed).map_err(|why| {
            unusable(&format!(
                "nobody is let in until the next start, but {} cannot be written: {why}",
                folder.display()
            ))
        })?;
        tracing::warn!("the owner shut every client outside the box out");
        Ok(RemoteStatus::default())
    }

    /// The list first, then the ledger's word that no older one is believed.
    async fn keep_door(&self, door: &Door) -> Result<(), Problem> {
        let (vault, ledger) = self.open_parts()?;
        let plain =
            Zeroizing::new(serde_json::to_vec(&door.kept()).map_err(|error| unusable(&error.to_string()))?);
        let sealed = vault.seal_bytes(LABEL, &plain)?;
        let folder = self.remote_folder();
        let written = (|| {
            use std::os::unix::fs::DirBuilderExt as _;
            if !folder.exists() {
                std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
                files::sync_dir(&self.config.state_dir)?;
            }
            files::write_atomically(&folder.join(FILE), &sealed)?;
            let mark = folder.join(MARK);
            if door.clients.is_empty() {
                remove(&mark)?;
                files::sync_dir(&folder)
            } else {
                files::write_atomically(&mark, b"")
            }
        })();
        written.map_err(|error: std::io::Error| {
            unusable(&format!("{} cannot be written: {error}", folder.display()))
        })?;
        ledger.keep_remote_generation(door.generation).await.map_err(|error| ledger_problem(&error))
    }

    fn remote_folder(&self) -> PathBuf {
        self.config.state_dir.join(FOLDER)
    }
}

/// Gone, or never there.
fn remove(path: &Path) -> std::io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// What is allowed by a code, and how that is said on the screen. The name's alphabet was checked.
fn on_screen(client: &RemoteClient, addresses: &[String]) -> (Vec<u8>, String) {
    let rights: Vec<&str> = client
        .may
        .iter()
        .map(|right| match right {
            RemoteRight::Sign => "ask for signatures",
            RemoteRight::ManageKeys => "bring in and delete key shares",
        })
        .collect();
    let rights = rights.join(" and ");
    let mut what = format!("let in\n{}\n{rights}", client.name).into_bytes();
    for address in addresses {
        what.push(b'\n');
        what.extend_from_slice(address.as_bytes());
    }
    (what, format!("a machine outside the box, called {}, shall {rights}", client.name))
}

pub(crate) fn check_order(order: &RemoteClientOrder) -> Result<(), Problem> {
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
