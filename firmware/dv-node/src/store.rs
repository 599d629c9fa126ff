//! What dv-node remembers on disk, apart from the journal: the cluster, the identity key (sealed), the chain.
//!
//! Every file is written beside its place, synced and renamed, so that a crash leaves the old or the new one and never a
//! half. `cluster.json` is written last: as long as it is not there, there is no cluster.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use chain::{PublicKeyBytes, Root};
use ipc::{ClusterSetup, Problem, Sensitive};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::exits::Wish;
use crate::sealed;
use crate::settings::{self, Settings};
use crate::setup::{Kept, Membership, not_used};

pub(crate) const CLUSTER: &str = "cluster.json";
/// The cluster file of a cluster that comes back, until its new one is written.
pub(crate) const CLUSTER_BEFORE: &str = "cluster.json.before";
/// The identity key as it was kept before the signer sealed it. Empty, it says that the key is not here: software of before asks
/// the signer then.
const IDENTITY: &str = "identity.key";
/// The identity key as the signer sealed it; see [`crate::sealed`].
const SEALED_IDENTITY: &str = "identity.sealed";
const CHAIN: &str = "chain.json";
const JOURNAL: &str = "journal";
/// Says that words of this member may have been lost; see [`Forgotten`].
const FORGOTTEN: &str = "forgotten.json";
/// What the owner has set apart from the cluster itself; see [`crate::settings`].
const SETTINGS: &str = "settings.json";
const EXIT_WISHES: &str = "exit-wishes.json";
const EXIT_POOL: &str = "exits.json";
/// No cluster lock is larger (`cluster::MAX_FILE_BYTES`), and the rest is small.
const MAX_BYTES: u64 = 128 << 20;

/// A file of ours could not be read or written.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The system refused.
    #[error("cannot {doing} {path}: {source}")]
    Io {
        /// `read` or `write`.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is not what we wrote.
    #[error("{path} is damaged ({why})")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// In which way.
        why: String,
    },
}

/// The state directory.
#[derive(Debug, Clone)]
pub struct Store {
    dir: PathBuf,
}

/// `cluster.json`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredCluster {
    lock: serde_json::Value,
    beacon_nodes: Vec<String>,
    peers: Vec<String>,
    #[serde(default)]
    relays: Option<Vec<String>>,
    #[serde(default)]
    signing: ipc::Signing,
    // Read where the last version has written them, and never written here: see [`crate::settings`].
    #[serde(default, skip_serializing)]
    fallback_beacon_nodes: Vec<String>,
    #[serde(default, skip_serializing)]
    proposals: ipc::Proposals,
}

/// The chain this cluster has served, so that it never serves another one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PinnedChain {
    /// Its genesis validators root.
    pub genesis_validators_root: Root,
    /// Its genesis, unix seconds.
    pub genesis_time: u64,
    /// The cluster that the journal belongs to, hex; absent in files of the first versions.
    #[serde(default)]
    pub lock_hash: Option<String>,
    /// Our place in it, from 1.
    #[serde(default)]
    pub share_index: Option<u8>,
}

/// What this member said before may be in a memory that nobody can assign to it any more: it stays silent about every slot in
/// which that can have been (decision 0280). The file goes away once this silence is in the journal.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forgotten {
    /// The latest slot that such a memory speaks of; 0 when it says nothing.
    pub slot: u64,
}

impl PinnedChain {
    /// Whether this is the memory of this member of this cluster.
    pub fn is_of(&self, membership: &Membership) -> bool {
        let lock_hash = hex::encode(membership.view.lock_hash);
        self.lock_hash.as_ref().is_none_or(|known| *known == lock_hash)
            && self.share_index.is_none_or(|known| known == membership.share_index)
    }
}

impl Store {
    /// Opens the directory, making it (0700) when it is not there.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        let is_new = !dir.is_dir();
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
        // What is kept in it lasts only if the folder itself does.
        made.and_then(|()| if is_new { sync_parent(dir) } else { Ok(()) })
            .map_err(|source| StoreError::Io { doing: "make", path: dir.to_owned(), source })?;
        Ok(Self::as_it_is(dir))
    }

    /// The same without making or looking at anything.
    pub fn as_it_is(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    /// The directory itself.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where the journal is.
    pub fn journal_path(&self) -> PathBuf {
        self.dir.join(JOURNAL)
    }

    /// The stored cluster, if there is one.
    pub fn load_cluster(&self) -> Result<Option<ClusterSetup>, StoreError> {
        let path = self.dir.join(CLUSTER);
        let Some(bytes) = self.read(&path)? else { return Ok(None) };
        let damaged = |why: String| StoreError::Damaged { path: path.clone(), why };
        let stored: StoredCluster =
            serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
        let missing =
            || StoreError::Damaged { path: self.dir.join(IDENTITY), why: "the file is missing".to_owned() };
        let key = self.load_identity()?.ok_or_else(missing)?;
        let in_cluster_file = Settings {
            fallback_beacon_nodes: stored.fallback_beacon_nodes,
            proposals: stored.proposals,
            obol_api: false,
        };
        let settings = self.settings_of(&stored.lock).unwrap_or(in_cluster_file);
        let mut setup = ClusterSetup {
            lock: stored.lock,
            identity_key: key,
            beacon_nodes: stored.beacon_nodes,
            peers: stored.peers,
            relays: stored.relays,
            signing: stored.signing,
            fallback_beacon_nodes: None,
            proposals: None,
            obol_api: None,
        };
        settings.into_setup(&mut setup);
        Ok(Some(setup))
    }

    /// What is known here of this cluster, served now or left.
    pub fn kept_of(&self, lock: &serde_json::Value) -> Kept {
        match self.load_cluster() {
            Ok(Some(known)) if settings::lock_hash(&known.lock) == settings::lock_hash(lock) => {
                Kept { settings: Settings::said(&known), peers: known.peers }
            }
            // A cluster file that cannot be read takes nothing else with it.
            Ok(_) | Err(_) => {
                Kept { settings: self.settings_of(lock).unwrap_or_default(), peers: Vec::new() }
            }
        }
    }

    /// A file that cannot be read costs the owner these settings and never a duty.
    fn settings_of(&self, lock: &serde_json::Value) -> Option<Settings> {
        let path = self.dir.join(SETTINGS);
        match self.read_settings(lock) {
            Ok(found) => found.map(|found| found.settings),
            Err(why) => {
                tracing::error!(path = %path.display(), why, "what the owner has set for a cluster cannot be read");
                None
            }
        }
    }

    fn read_settings(&self, lock: &serde_json::Value) -> Result<Option<settings::FoundSettings>, String> {
        let bytes = self.read(&self.dir.join(SETTINGS)).map_err(|error| error.to_string())?;
        Ok(bytes.map(|bytes| settings::read(&bytes, lock)).transpose()?.flatten())
    }

    /// What the owner has set for this cluster and what cannot be read, for the page.
    pub fn settings_problems(&self, lock: &serde_json::Value) -> Vec<Problem> {
        match self.read_settings(lock) {
            Ok(found) => {
                let unread = found.map(|found| found.unread).unwrap_or_default();
                unread
                    .iter()
                    .map(|name| not_used(name, "this version of the software cannot read its value"))
                    .collect()
            }
            Err(why) => vec![not_used(SETTINGS, &why)],
        }
    }

    /// The identity key alone: sealed, where this process has not had it opened yet. One in the clear counts first: software of
    /// before has written it since, or it is about to be taken over.
    pub fn load_identity(&self) -> Result<Option<Sensitive>, StoreError> {
        let plain = self.read_text(IDENTITY)?;
        if plain.as_ref().is_some_and(sealed::is_key) {
            return Ok(plain);
        }
        match self.read_text(SEALED_IDENTITY)? {
            Some(text) if sealed::is_sealed(&text) => Ok(Some(sealed::if_opened(text))),
            // What is neither is said to be damaged by who reads a key in it.
            Some(_) | None => Ok(plain),
        }
    }

    /// The identity key where it lies in the clear.
    pub fn plain_identity(&self) -> Result<Option<Sensitive>, StoreError> {
        Ok(self.read_text(IDENTITY)?.filter(sealed::is_key))
    }

    /// The identity key as the signer sealed it, as it is on the disk.
    pub fn sealed_identity(&self) -> Result<Option<String>, StoreError> {
        let text = self.read_text(SEALED_IDENTITY)?;
        Ok(text.map(|text| text.expose_secret().to_owned()).filter(|text| sealed::looks_sealed(text)))
    }

    /// Writes the sealed form of a key beside the plain one, durably; none where the signer has not sealed it.
    pub fn keep_sealed_identity(&self, key: &Sensitive) -> Result<Option<String>, StoreError> {
        let Some(text) = sealed::for_disk(key) else { return Ok(None) };
        if self.sealed_identity()?.as_ref() != Some(&text) {
            self.write(SEALED_IDENTITY, text.as_bytes())?;
        }
        // Read back before anything else goes away.
        if self.sealed_identity()?.as_ref() != Some(&text) {
            let path = self.dir.join(SEALED_IDENTITY);
            return Err(StoreError::Damaged { path, why: "it is not what was just written".to_owned() });
        }
        Ok(Some(text))
    }

    /// Does away with the key in the clear. The sealed one is durable.
    pub fn drop_plain_identity(&self) -> Result<(), StoreError> {
        let path = self.dir.join(IDENTITY);
        let failed = |source| StoreError::Io { doing: "write", path: path.clone(), source };
        self.drop_left_over()?;
        match fs::metadata(&path) {
            Ok(found) if found.len() == 0 => return Ok(()),
            Ok(_) => {
                let file = OpenOptions::new().write(true).open(&path).map_err(failed)?;
                overwrite(file).map_err(failed)?;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
        self.write(IDENTITY, &[])
    }

    fn read_text(&self, name: &str) -> Result<Option<Sensitive>, StoreError> {
        let path = self.dir.join(name);
        let Some(bytes) = self.read(&path)? else { return Ok(None) };
        let text = String::from_utf8(bytes)
            .map_err(|_| StoreError::Damaged { path, why: "it is not text".to_owned() })?;
        Ok(Some(Sensitive::new(text)))
    }

    /// In the clear only where it is so already and waits to be taken over.
    fn write_identity(&self, key: &Sensitive) -> Result<(), StoreError> {
        if self.keep_sealed_identity(key)?.is_some() {
            return self.drop_plain_identity();
        }
        let written = sealed::written(key, self.plain_identity()?.as_ref());
        let path = self.dir.join(SEALED_IDENTITY);
        let written = written.map_err(|source| StoreError::Io { doing: "write", path, source })?;
        self.write(IDENTITY, written.expose_secret().trim().as_bytes())
    }

    /// Does away with what a cut left of a write of the key in the clear: it is nobody's any more.
    pub fn drop_left_over(&self) -> Result<(), StoreError> {
        let path = self.dir.join(IDENTITY).with_added_extension("new");
        wipe(&path).map_err(|source| StoreError::Io { doing: "write", path, source })
    }

    /// Keeps the cluster. It is there after a crash if and only if this returned.
    pub fn save_cluster(&self, setup: &ClusterSetup) -> Result<(), StoreError> {
        let stored = StoredCluster {
            lock: setup.lock.clone(),
            beacon_nodes: setup.beacon_nodes.clone(),
            peers: setup.peers.clone(),
            relays: setup.relays.clone(),
            signing: setup.signing,
            fallback_beacon_nodes: Vec::new(),
            proposals: ipc::Proposals::default(),
        };
        let text = encode(&stored);
        let path = self.dir.join(SETTINGS);
        // Settings that cannot be read keep nobody from a cluster, nor from the end of a change.
        let (said, kept) = (Settings::said(setup), self.read(&path).unwrap_or_default());
        let other =
            |known: &ClusterSetup| settings::lock_hash(&known.lock) != settings::lock_hash(&setup.lock);
        let known = self.load_cluster().ok().flatten();
        let is_same = known.as_ref().is_some_and(|known| !other(known));
        let before = known.filter(other);
        let before = before.map(|known| (Settings::said(&known), known.lock));
        self.write_identity(&setup.identity_key)?;
        self.write_settings(settings::write(&said, &setup.lock, before.as_ref()))?;
        if let Err(error) = self.write(CLUSTER, &text) {
            // What is refused now is not in force after the next start either, as far as the disk lets us; unless the file did
            // come to its place and only that was not confirmed: then the settings are its.
            let came = self.load_cluster().ok().flatten().is_some_and(|now| !other(&now));
            if is_same || !came {
                let _as_before = self.write_settings(kept);
            }
            return Err(error);
        }
        if before.is_some() {
            // What is left of the other cluster's in the file counts for nobody any more.
            let _smaller = self.write_settings(settings::write(&said, &setup.lock, None));
        }
        Ok(())
    }

    fn write_settings(&self, content: Option<Vec<u8>>) -> Result<(), StoreError> {
        match content {
            Some(bytes) => self.write(SETTINGS, &bytes),
            None => self.remove(&self.dir.join(SETTINGS)),
        }
    }

    /// There is no cluster from now on, also after a crash; the file goes aside. What the cluster remembers stays.
    pub fn set_cluster_aside(&self) -> Result<(), StoreError> {
        let path = self.dir.join(CLUSTER);
        match fs::rename(&path, self.dir.join(CLUSTER_BEFORE)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result.and_then(|()| sync_parent(&path)),
        }
        .map_err(|source| StoreError::Io { doing: "write", path, source })
    }

    /// Puts another lock of the same validators in force: the signer has given the old shares up. What was said under the old
    /// lock was put away before, and the silence about it noted (decision 0221). May be repeated after a crash.
    pub fn change_cluster(&self, setup: &ClusterSetup, membership: &Membership) -> Result<(), StoreError> {
        let chain = self.load_chain()?;
        self.save_cluster(setup)?;
        // The old shares' partial exits are of no use any more; the owner's wishes stay.
        self.remove(&self.dir.join(EXIT_POOL))?;
        match chain {
            Some(chain) => self.save_chain(&PinnedChain {
                lock_hash: Some(hex::encode(membership.view.lock_hash)),
                share_index: Some(membership.share_index),
                ..chain
            }),
            None => Ok(()),
        }
    }

    fn remove(&self, path: &Path) -> Result<(), StoreError> {
        match fs::remove_file(path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(StoreError::Io { doing: "remove", path: path.to_owned(), source })
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// The chain served before, if any.
    pub fn load_chain(&self) -> Result<Option<PinnedChain>, StoreError> {
        let path = self.dir.join(CHAIN);
        let Some(bytes) = self.read(&path)? else { return Ok(None) };
        let parsed = serde_json::from_slice(&bytes);
        parsed.map(Some).map_err(|error| StoreError::Damaged { path, why: error.to_string() })
    }

    /// Remembers the chain for good.
    pub fn save_chain(&self, chain: &PinnedChain) -> Result<(), StoreError> {
        self.write(CHAIN, &encode(chain))
    }

    /// Puts a chain file that cannot be read out of the way, so that the chain can be learned anew. Words may be forgotten with
    /// it, and that is noted first.
    pub fn set_chain_aside(&self) -> Result<(), StoreError> {
        self.note_forgotten(0)?;
        self.set_aside(CHAIN, "damaged")
    }

    /// Puts a journal that nobody knows the owner of out of the way, noting first how far it speaks.
    pub fn set_journal_aside(&self) -> Result<(), StoreError> {
        self.note_forgotten(crate::journal::latest_slot(&self.journal_path()))?;
        self.set_aside(JOURNAL, "before")
    }

    /// From here on this member counts as having spoken up to this slot and up to now. Never lowers what was noted before.
    pub fn note_forgotten(&self, slot: u64) -> Result<(), StoreError> {
        let known = self.load_forgotten()?.unwrap_or_default();
        self.write(FORGOTTEN, &encode(&Forgotten { slot: slot.max(known.slot) }))
    }

    /// Whether words may be forgotten. A file that cannot be read says so too.
    pub fn load_forgotten(&self) -> Result<Option<Forgotten>, StoreError> {
        let bytes = self.read(&self.dir.join(FORGOTTEN))?;
        Ok(bytes.map(|bytes| serde_json::from_slice(&bytes).unwrap_or_default()))
    }

    /// The silence is durable in the journal.
    pub fn forgotten_is_settled(&self) -> Result<(), StoreError> {
        let path = self.dir.join(FORGOTTEN);
        match fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result.and_then(|()| sync_parent(&path)),
        }
        .map_err(|source| StoreError::Io { doing: "write", path, source })
    }

    fn set_aside(&self, name: &str, as_what: &str) -> Result<(), StoreError> {
        let path = self.dir.join(name);
        fs::rename(&path, path.with_added_extension(as_what))
            .and_then(|()| sync_parent(&path))
            .map_err(|source| StoreError::Io { doing: "write", path, source })
    }

    /// The fee recipient overrides, and when they were written.
    pub fn load_overrides(&self) -> Result<Option<Vec<u8>>, StoreError> {
        self.read(&self.dir.join(cluster::registrations::OVERRIDES_FILE))
    }

    /// When the overrides were last written; none when there are none.
    pub fn overrides_written(&self) -> Option<std::time::SystemTime> {
        fs::metadata(self.dir.join(cluster::registrations::OVERRIDES_FILE)).ok()?.modified().ok()
    }

    /// The exits the owner wants.
    pub fn load_exit_wishes(&self) -> Result<BTreeMap<PublicKeyBytes, Wish>, StoreError> {
        let path = self.dir.join(EXIT_WISHES);
        let Some(bytes) = self.read(&path)? else { return Ok(BTreeMap::new()) };
        let read: Result<Vec<(PublicKeyBytes, Wish)>, _> = serde_json::from_slice(&bytes);
        let damaged = |error: serde_json::Error| StoreError::Damaged { path, why: error.to_string() };
        Ok(read.map_err(damaged)?.into_iter().collect())
    }

    /// Puts a file of wishes that cannot be read out of the way.
    pub fn set_exit_wishes_aside(&self) -> Result<(), StoreError> {
        self.set_aside(EXIT_WISHES, "damaged")
    }

    /// Keeps them.
    pub fn save_exit_wishes(&self, wishes: &BTreeMap<PublicKeyBytes, Wish>) -> Result<(), StoreError> {
        let list: Vec<_> = wishes.iter().collect();
        self.write(EXIT_WISHES, &encode(&list))
    }

    /// The partial exits that have come in.
    pub fn load_exit_pool(&self) -> Result<Option<Vec<u8>>, StoreError> {
        self.read(&self.dir.join(EXIT_POOL))
    }

    /// Keeps them.
    pub fn save_exit_pool(&self, bytes: &[u8]) -> Result<(), StoreError> {
        self.write(EXIT_POOL, bytes)
    }

    fn read(&self, path: &Path) -> Result<Option<Vec<u8>>, StoreError> {
        let failed = |source| StoreError::Io { doing: "read", path: path.to_owned(), source };
        match fs::metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
            Ok(found) if found.len() > MAX_BYTES => {
                return Err(StoreError::Damaged {
                    path: path.to_owned(),
                    why: "it is far too large".to_owned(),
                });
            }
            Ok(_) => {}
        }
        fs::read(path).map(Some).map_err(failed)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        let path = self.dir.join(name);
        replace_file(&path, bytes).map_err(|source| StoreError::Io { doing: "write", path, source })
    }
}

/// Replaces a file (mode 0600) so that a crash leaves the old or the new content, and returns when the new one is durable.
pub(crate) fn replace_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let beside = path.with_file_name(name);
    // A left-over of a crash may have other permissions: it goes first.
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
    let written =
        file.write_all(bytes).and_then(|()| file.sync_all()).and_then(|()| fs::rename(&beside, path));
    // What was written until the disk was full would keep it full, for the journal too.
    written.inspect_err(|_| drop(fs::remove_file(&beside)))?;
    sync_parent(path)
}

/// Does away with a file in which a key may stand in the clear: over the same blocks, as far as the file system and the disk write
/// where they wrote before.
pub(crate) fn wipe(path: &Path) -> io::Result<()> {
    match OpenOptions::new().write(true).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
        Ok(file) => overwrite(file)?,
    }
    fs::remove_file(path)?;
    sync_parent(path)
}

/// Zeros over all of an open file, also when its name has gone to another one.
pub(crate) fn overwrite(mut file: File) -> io::Result<()> {
    let length = file.metadata()?.len();
    io::copy(&mut io::Read::take(io::repeat(0), length), &mut file)?;
    file.sync_all()
}

pub(crate) fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

fn encode(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("plain structures always encode")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use serde_json::json;

    use super::*;

    fn setup() -> ClusterSetup {
        ClusterSetup {
            lock: json!({"a": 1}),
            identity_key: Sensitive::new("ab\n".to_owned()),
            beacon_nodes: vec!["http://x".to_owned()],
            peers: vec!["/ip4/192.0.2.1/tcp/3610/p2p/x".to_owned()],
            relays: Some(vec!["https://relay.example".to_owned()]),
            signing: ipc::Signing::BuiltIn,
            fallback_beacon_nodes: Some(vec!["http://y".to_owned()]),
            proposals: Some(ipc::Proposals { graffiti: vec!["us".to_owned()], ..ipc::Proposals::default() }),
            obol_api: Some(true),
        }
    }

    #[test]
    fn whatever_is_set_the_software_from_before_reads_the_cluster() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let plain = ClusterSetup {
            fallback_beacon_nodes: Some(Vec::new()),
            proposals: Some(ipc::Proposals::default()),
            obol_api: Some(false),
            ..setup()
        };
        for (setup, is_set) in [(setup(), true), (plain, false)] {
            store.save_cluster(&setup).unwrap();
            let written: serde_json::Value =
                serde_json::from_slice(&fs::read(dir.path().join(CLUSTER)).unwrap()).unwrap();
            let mut members: Vec<&str> = written.as_object().unwrap().keys().map(String::as_str).collect();
            members.sort_unstable();
            assert_eq!(members, ["beacon_nodes", "lock", "peers", "relays", "signing"]);
            assert_eq!(dir.path().join(SETTINGS).exists(), is_set);
            // What a box that gets the shares joins with, which may be older, too.
            let given = serde_json::to_value(store.load_cluster().unwrap().unwrap()).unwrap();
            assert_eq!(given.get("proposals").is_some(), is_set);
            assert_eq!(given.get("obol_api").is_some(), is_set);
            assert_eq!(given.get("fallback_beacon_nodes").is_some(), is_set);
        }
    }

    #[test]
    fn settings_are_those_of_their_cluster_and_damaged_ones_cost_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let first = ClusterSetup { lock: json!({"lock_hash": "0xAA"}), ..setup() };
        store.save_cluster(&first).unwrap();
        let kept = |lock: &serde_json::Value| store.kept_of(lock).settings;
        assert_eq!(kept(&json!({"lock_hash": "0xaa"})), Settings::said(&first));
        assert_eq!(store.kept_of(&first.lock).peers, first.peers);
        // As the last version wrote them.
        let beside = fs::read(dir.path().join(SETTINGS)).unwrap();
        fs::remove_file(dir.path().join(SETTINGS)).unwrap();
        let old = json!({"lock": first.lock, "beacon_nodes": ["http://x"], "peers": [], "fallback_beacon_nodes": ["http://z"]});
        fs::write(dir.path().join(CLUSTER), encode(&old)).unwrap();
        assert_eq!(kept(&first.lock).fallback_beacon_nodes, ["http://z"]);
        // Software from before leaves this file where it is when another cluster takes the place.
        fs::write(dir.path().join(SETTINGS), &beside).unwrap();
        let other = ClusterSetup {
            lock: json!({"lock_hash": "0xbb"}),
            fallback_beacon_nodes: None,
            proposals: None,
            obol_api: None,
            ..setup()
        };
        let old = json!({"lock": other.lock, "beacon_nodes": ["http://x"], "peers": []});
        fs::write(dir.path().join(CLUSTER), encode(&old)).unwrap();
        assert_eq!(kept(&other.lock), Settings::default());
        assert!(store.load_cluster().unwrap().unwrap().proposals.is_none());
        fs::write(dir.path().join(SETTINGS), &beside).unwrap();
        fs::write(dir.path().join(CLUSTER), "{").unwrap();
        assert_eq!(kept(&first.lock), Settings::said(&first), "they outlive the file beside them");
        fs::write(dir.path().join(CLUSTER), encode(&old)).unwrap();
        fs::write(dir.path().join(SETTINGS), "{").unwrap();
        assert_eq!(Settings::said(&store.load_cluster().unwrap().unwrap()), Settings::default());
    }

    #[test]
    fn settings_that_cannot_be_read_keep_nobody_from_a_cluster() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        // Larger than anything that is read.
        fs::File::create(dir.path().join(SETTINGS)).unwrap().set_len(MAX_BYTES + 1).unwrap();
        let setup = ClusterSetup { lock: json!({"lock_hash": "0xAA"}), ..setup() };
        store.save_cluster(&setup).unwrap();
        assert_eq!(Settings::said(&store.load_cluster().unwrap().unwrap()), Settings::said(&setup));
    }

    #[test]
    fn until_the_cluster_s_file_is_replaced_the_settings_of_the_one_before_count() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let first = ClusterSetup { lock: json!({"lock_hash": "0xaa"}), ..setup() };
        let second = ClusterSetup {
            lock: json!({"lock_hash": "0xbb"}),
            fallback_beacon_nodes: None,
            obol_api: None,
            ..setup()
        };
        store.save_cluster(&first).unwrap();
        // Cut between the two files.
        let before = (Settings::said(&first), first.lock.clone());
        store.write_settings(settings::write(&Settings::said(&second), &second.lock, Some(&before))).unwrap();
        let in_force = || Settings::said(&store.load_cluster().unwrap().unwrap());
        assert_eq!(in_force(), Settings::said(&first));
        // A disk that is full for the larger one.
        let obstacle = dir.path().join("cluster.json.new");
        fs::create_dir(&obstacle).unwrap();
        assert!(store.save_cluster(&second).is_err());
        assert_eq!(in_force(), Settings::said(&first));
        let refused = ClusterSetup { lock: first.lock.clone(), obol_api: None, ..setup() };
        assert!(store.save_cluster(&refused).is_err());
        assert_eq!(in_force(), Settings::said(&first), "nor is what was refused");
        fs::remove_dir(&obstacle).unwrap();
        store.save_cluster(&second).unwrap();
        assert_eq!(in_force(), Settings::said(&second));
        assert!(!fs::read_to_string(dir.path().join(SETTINGS)).unwrap().contains("before"));
    }

    #[test]
    fn a_cluster_survives_and_its_key_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("deep/state")).unwrap();
        assert!(store.load_cluster().unwrap().is_none());
        store.save_cluster(&setup()).unwrap();
        store.save_cluster(&setup()).unwrap();
        let loaded = store.load_cluster().unwrap().unwrap();
        assert_eq!((loaded.identity_key.expose_secret(), loaded.lock), ("ab", json!({"a": 1})));
        assert_eq!(loaded.relays, setup().relays);
        assert_eq!(loaded.fallback_beacon_nodes, setup().fallback_beacon_nodes);
        assert_eq!(loaded.proposals, setup().proposals);
        let mode = |name: &str| fs::metadata(store.dir.join(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(IDENTITY), mode(CLUSTER)), (0o600, 0o600));
    }

    #[test]
    fn a_crash_before_the_last_rename_leaves_no_cluster() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        fs::write(dir.path().join(IDENTITY), "ab").unwrap();
        fs::write(dir.path().join("cluster.json.new"), "{\"lo").unwrap();
        assert!(store.load_cluster().unwrap().is_none());
        store.save_cluster(&setup()).unwrap();
        assert!(store.load_cluster().unwrap().is_some());
    }

    #[test]
    fn an_identity_key_is_taken_over_and_is_there_after_a_cut_at_any_step() {
        let (key, sealed) = ("51".repeat(32), "sealed:51f0");
        sealed::as_if_opened(sealed, &key);
        let setup = ClusterSetup { identity_key: Sensitive::new(format!("{key}\n")), ..setup() };
        // What a cut can leave of the two files, in the order in which it comes to be: of a write beside its place, of the write
        // over the key, and of the write that empties it.
        let (nothing, cut_off) = ("\0".repeat(64), format!("{}{}", "\0".repeat(20), &key[20..]));
        let left: [&[(&str, &str)]; 6] = [
            &[(IDENTITY, &key)],
            &[(IDENTITY, &key), ("identity.sealed.new", "sealed:51")],
            &[(IDENTITY, &key), (SEALED_IDENTITY, sealed)],
            &[(IDENTITY, &cut_off), (SEALED_IDENTITY, sealed)],
            &[(IDENTITY, &nothing), (SEALED_IDENTITY, sealed), ("identity.key.new", "")],
            &[(IDENTITY, ""), (SEALED_IDENTITY, sealed)],
        ];
        for files in left {
            let dir = tempfile::tempdir().unwrap();
            let store = Store::open(dir.path()).unwrap();
            for (name, content) in files {
                fs::write(dir.path().join(name), content).unwrap();
            }
            let loaded = || store.load_identity().unwrap().unwrap().expose_secret().to_owned();
            assert_eq!(loaded(), key, "{files:?}");
            if store.plain_identity().unwrap().is_some() {
                let kept = store.keep_sealed_identity(&setup.identity_key).unwrap();
                assert_eq!((kept.as_deref(), loaded()), (Some(sealed), key.clone()));
                assert!(store.plain_identity().unwrap().is_some(), "until it is known to open");
            }
            store.drop_plain_identity().unwrap();
            assert_eq!(loaded(), key, "{files:?}");
            store.save_cluster(&setup).unwrap();
            assert_eq!(store.load_cluster().unwrap().unwrap().identity_key.expose_secret(), key);
            for entry in fs::read_dir(dir.path()).unwrap() {
                let content = fs::read(entry.unwrap().path()).unwrap();
                assert!(!content.windows(16).any(|part| key.as_bytes().starts_with(part)), "{files:?}");
            }
            // Software of before takes an empty file for a key that is the signer's to give.
            assert_eq!(fs::read(dir.path().join(IDENTITY)).unwrap(), b"");
        }
    }

    #[test]
    fn a_key_that_software_of_before_has_written_since_counts_and_one_that_is_not_opened_stays_sealed() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        fs::write(dir.path().join(SEALED_IDENTITY), "sealed:52f0").unwrap();
        assert_eq!(store.load_identity().unwrap().unwrap().expose_secret(), "sealed:52f0");
        fs::write(dir.path().join(IDENTITY), "53".repeat(32)).unwrap();
        assert_eq!(store.load_identity().unwrap().unwrap().expose_secret(), "53".repeat(32));
        // Without the signer's seal nothing goes away.
        assert_eq!(store.keep_sealed_identity(&Sensitive::new("53".repeat(32))).unwrap(), None);
        assert!(store.plain_identity().unwrap().is_some());
    }

    #[test]
    fn what_may_be_forgotten_is_noted_before_anything_is_put_aside_and_only_ever_grows() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        assert_eq!(store.load_forgotten().unwrap(), None);
        assert!(store.set_chain_aside().is_err(), "there is none");
        assert_eq!(store.load_forgotten().unwrap(), Some(Forgotten { slot: 0 }));
        let live = BTreeMap::from([((7, 2), vec![1]), ((9, 2), vec![1])]);
        fs::write(store.journal_path(), crate::journal::write_bytes(&live).unwrap()).unwrap();
        store.set_journal_aside().unwrap();
        assert!(!store.journal_path().exists() && dir.path().join("journal.before").exists());
        store.note_forgotten(3).unwrap();
        assert_eq!(store.load_forgotten().unwrap(), Some(Forgotten { slot: 9 }));
        fs::write(dir.path().join(FORGOTTEN), "{").unwrap();
        assert_eq!(store.load_forgotten().unwrap(), Some(Forgotten::default()), "unreadable counts");
        store.forgotten_is_settled().unwrap();
        store.forgotten_is_settled().unwrap();
        assert_eq!(store.load_forgotten().unwrap(), None);
    }

    #[test]
    fn damaged_files_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        fs::write(dir.path().join(CLUSTER), "{").unwrap();
        assert!(store.load_cluster().unwrap_err().to_string().contains("cluster.json is damaged"));
        fs::write(dir.path().join(CLUSTER), encode(&json!({"lock": 1, "beacon_nodes": [], "peers": []})))
            .unwrap();
        assert!(store.load_cluster().unwrap_err().to_string().contains("identity.key is damaged"));
        fs::write(dir.path().join(CHAIN), "[]").unwrap();
        assert!(store.load_chain().is_err());
    }
}
