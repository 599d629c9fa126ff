//! The identity keys with which `dv-node` speaks to the members of its clusters, sealed here for backups and moves.
//!
//! `dv-node` could write anything: what it says is worth less than what a verified lock shows or another box has carried here. A lock
//! that it hands in proves no more than that it fits our shares' public keys, for anybody can make one up around those (decision 0340):
//! so of all locks about one share the first counts, and what the owner sealed to this process counts more. Room is made by what is
//! worth least; what a lock shows to belong to a share that is held here is given up for an owner's folder only, and that for nothing.

use std::path::PathBuf;

use chain::PublicKeyBytes;
use cluster::{ClusterView, IdentityKey, IdentityPublicKey, Lock};
use ipc::{
    Problem, Sensitive,
    moving::{CarriedIdentity, MAX_IDENTITIES},
};
use zeroize::Zeroizing;

use crate::{
    files,
    folder::disk,
    import::bad,
    signer::{Signer, blocking},
    vault::Vault,
};

/// Binds a sealed identity key to its purpose. With what is known of it, and by which shares.
const LABEL: &[u8] = b"hearth identity key v3";
/// By one share only.
const LABEL_OF_ONE: &[u8] = b"hearth identity key v2";
/// The key alone.
const LABEL_BEFORE: &[u8] = b"hearth identity key v1";
/// What `dv-node` keeps of its own on its disk (decision 0373).
const LABEL_OF_NODE: &[u8] = b"hearth node identity v1";
/// Hex digits of such a key sealed: nonce, text and tag are less than half of it.
const MAX_SEALED_OF_NODE: usize = 512;
/// 64 hex digits, and 17 for each share of a lock that counts.
const MAX_SEALED: u64 = 64 * 1024;
/// Shares of one lock that are remembered: a box holds a thousand.
const MAX_SHARES: usize = 2_000;

/// The beginning of a public share: enough to know it again.
type Mark = [u8; 8];

/// Who says that an identity key is the one of a cluster; what is worth less first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Said {
    /// The network process, for a cluster that was joined by hand.
    Node,
    /// Another box, in a backup or a certificate. It may have had it from its own network process.
    AnotherBox,
    /// A lock that verifies and that `dv-node` handed in, by which this share of the cluster belongs to that identity.
    Lock(PublicKeyBytes),
    /// The same in a folder that the owner sealed to this process: `dv-node` had no hand in it.
    Folder(PublicKeyBytes),
}

/// A key that is kept.
pub(crate) struct Kept {
    said: Said,
    text: Zeroizing<String>,
    /// The shares of the lock that says so.
    shares: Vec<Mark>,
}

impl Kept {
    fn write(said: Said, identity: &IdentityKey, shares: &[Mark]) -> Zeroizing<Vec<u8>> {
        let said = match said {
            Said::Node => "node".to_owned(),
            Said::AnotherBox => "box".to_owned(),
            Said::Lock(share) => share.to_string(),
            Said::Folder(share) => format!("folder {share}"),
        };
        let shares: Vec<String> = shares.iter().take(MAX_SHARES).map(hex::encode).collect();
        let text = format!("{said}\n{}\n{}", identity.to_file_text().as_str(), shares.join(" "));
        Zeroizing::new(text.into_bytes())
    }

    /// Reads what was sealed: who says it, the key, and the shares where there are some.
    pub(crate) fn read(text: &[u8]) -> Option<Self> {
        let (said, rest) = std::str::from_utf8(text).ok()?.split_once('\n')?;
        let said = match (said, said.strip_prefix("folder ")) {
            ("node", _) => Said::Node,
            ("box", _) => Said::AnotherBox,
            (_, Some(share)) => Said::Folder(share.parse().ok()?),
            (share, None) => Said::Lock(share.parse().ok()?),
        };
        let (key, shares) = rest.split_once('\n').unwrap_or((rest, ""));
        let mark = |text: &str| hex::decode(text).ok()?.try_into().ok();
        let mut shares = shares.split_ascii_whitespace().map(mark).collect::<Option<Vec<Mark>>>()?;
        if shares.len() > MAX_SHARES {
            return None;
        }
        // What was written by one share only.
        shares.extend(said.share().filter(|_| shares.is_empty()).map(|share| mark_of(&share)));
        Some(Self { said, text: Zeroizing::new(key.to_owned()), shares })
    }

    /// What was read, written again; none where it holds no key.
    pub(crate) fn rewritten(&self) -> Option<Zeroizing<Vec<u8>>> {
        let identity = IdentityKey::from_file_text(&self.text).ok()?;
        Some(Self::write(self.said, &identity, &self.shares))
    }
}

/// A share of a lock, and the validator that the lock says it is of.
pub(crate) type Shown = (PublicKeyBytes, PublicKeyBytes);

/// By what a verified lock shows an identity to be one of its members: that member's shares.
pub(crate) fn shares_of(view: &ClusterView, identity: &IdentityPublicKey) -> Vec<Shown> {
    let Ok(share_index) = view.share_index_of(identity) else { return Vec::new() };
    let place = usize::from(share_index).saturating_sub(1);
    let shown = view
        .validators
        .iter()
        .filter_map(|validator| Some((*validator.public_shares.get(place)?, validator.group_public_key)));
    shown.collect()
}

/// How the shares that a lock shows are known again.
pub(crate) fn marks_of(shown: &[Shown]) -> Vec<[u8; 8]> {
    shown.iter().map(|(share, _)| mark_of(share)).collect()
}

fn mark_of(share: &PublicKeyBytes) -> Mark {
    let mut mark = Mark::default();
    mark.iter_mut().zip(share.as_slice()).for_each(|(mark, byte)| *mark = *byte);
    mark
}

impl Signer {
    /// The identity key of a cluster.
    pub(crate) fn identity(&self, lock_hash: &str) -> Result<Sensitive, Problem> {
        let unknown = || {
            Problem::new(
                "identity_unknown",
                "No identity key of this cluster was imported.",
                "Hand in the identity key (charon-enr-private-key) with the cluster lock.",
            )
        };
        let hash = parse_hash(lock_hash).ok_or_else(unknown)?;
        let (vault, _) = self.open_parts()?;
        let path = self.identity_file(&hash);
        if !path.exists() {
            return Err(unknown());
        }
        let kept = self.kept_identity(&vault, &hash)?.ok_or_else(|| {
            Problem::new(
                "identity_damaged",
                "The sealed identity key of this cluster was changed and does not open.",
                "Hand in the identity key (charon-enr-private-key) with the cluster lock.",
            )
        })?;
        Ok(Sensitive::new(kept.text.as_str().to_owned()))
    }

    /// Seals an identity key for `dv-node`, which keeps what comes of it on its disk instead of the key. Nothing is kept here.
    pub(crate) fn seal_for_node(&self, key: &Sensitive) -> Result<String, Problem> {
        let identity = IdentityKey::from_file_text(key.expose_secret()).map_err(|error| {
            bad(
                "identity_key_invalid",
                &error.to_string(),
                "Restore charon-enr-private-key from your backup.",
            )
        })?;
        let (vault, _) = self.open_parts()?;
        Ok(hex::encode(vault.seal_bytes(LABEL_OF_NODE, identity.to_file_text().as_bytes())?))
    }

    /// Opens what [`Self::seal_for_node`] gave out. The vault must be open: so no changed system, other TPM or missing passphrase
    /// gets at it.
    pub(crate) fn open_for_node(&self, sealed: &str) -> Result<Sensitive, Problem> {
        let (vault, _) = self.open_parts()?;
        let sealed = Some(sealed).filter(|sealed| sealed.len() <= MAX_SEALED_OF_NODE);
        let text = sealed.and_then(|sealed| vault.open_bytes(LABEL_OF_NODE, &hex::decode(sealed).ok()?));
        let text = text.and_then(|text| Some(std::str::from_utf8(&text).ok()?.to_owned()));
        text.map(Sensitive::new).ok_or_else(|| {
            Problem::new(
                "identity_sealed_elsewhere",
                "This box's identity key does not open: it was sealed by another vault, on another box or before this one was \
                 set up anew, or the file was changed.",
                "Join the cluster again with its lock and its identity key (charon-enr-private-key). If you have it no more, \
                 restore this box's backup first, which carries it.",
            )
        })
    }

    /// All identity keys that were given to this signer.
    pub(crate) fn identities(&self, vault: &Vault) -> Result<Vec<CarriedIdentity>, Problem> {
        let mut found = Vec::new();
        for (_, hash) in self.identity_files()?.into_iter().take(MAX_IDENTITIES) {
            // One that was changed is left out: it is worth nothing, and the shares matter more.
            let Some(kept) = self.kept_identity(vault, &hash)? else { continue };
            let identity_key = Sensitive::new(kept.text.as_str().to_owned());
            found.push(CarriedIdentity { lock_hash: hex::encode(hash), identity_key });
        }
        Ok(found)
    }

    /// None when there is none, or it does not open.
    fn kept_identity(&self, vault: &Vault, lock_hash: &[u8; 32]) -> Result<Option<Kept>, Problem> {
        let sealed = files::read_small(&self.identity_file(lock_hash), MAX_SEALED);
        let Some(sealed) = sealed.map_err(|error| disk(&error))? else { return Ok(None) };
        for with_facts in [LABEL, LABEL_OF_ONE] {
            if let Some(text) = vault.open_bytes(&label(with_facts, lock_hash), &sealed) {
                return Ok(Kept::read(&text));
            }
        }
        let before = vault.open_bytes(&label(LABEL_BEFORE, lock_hash), &sealed);
        let text = before.and_then(|text| Some(Zeroizing::new(std::str::from_utf8(&text).ok()?.to_owned())));
        Ok(text.map(|text| Kept { said: Said::Node, text, shares: Vec::new() }))
    }

    /// The files of identity keys, and of which cluster each is.
    fn identity_files(&self) -> Result<Vec<(PathBuf, [u8; 32])>, Problem> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&self.config.state_dir).map_err(|error| disk(&error))? {
            let path = entry.map_err(|error| disk(&error))?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let hash = name.strip_prefix("identity-").and_then(|name| name.strip_suffix(".sealed"));
            if let Some(hash) = hash.and_then(parse_hash) {
                found.push((path, hash));
            }
        }
        found.sort();
        Ok(found)
    }

    /// Keeps the identity key with which `dv-node` speaks to a cluster's members, for backups and moves. When it sends the complete
    /// lock, and that gives the identity a share which is held here, the lock says so, not `dv-node`.
    pub(crate) async fn take_identity(
        &self,
        lock_hash: &str,
        key: &Sensitive,
        lock: Option<serde_json::Value>,
    ) -> Result<(), Problem> {
        let hash = parse_hash(lock_hash).ok_or_else(|| {
            bad("lock_invalid", "this is no lock hash", "Get the original cluster-lock.json.")
        })?;
        let identity = IdentityKey::from_file_text(key.expose_secret()).map_err(|error| {
            bad(
                "identity_key_invalid",
                &error.to_string(),
                "Restore charon-enr-private-key from your backup.",
            )
        })?;
        let (vault, _) = self.open_parts()?;
        // It comes at each start of a cluster: what is known does not cost a thousand signatures' verification again.
        let known = self.kept_identity(&vault, &hash)?;
        let is_same =
            known.as_ref().is_some_and(|known| known.text.as_str() == identity.to_file_text().as_str());
        if is_same && known.is_some_and(|known| self.is_proven(known.said)) {
            return Ok(());
        }
        let public = identity.public_key();
        let shown = blocking(move || {
            let lock = Lock::from_value(lock?).ok().filter(|lock| !lock.signature_aggregate.is_empty())?;
            let view = lock.verify(&[]).ok().filter(|view| view.lock_hash == hash)?;
            Some(shares_of(&view, &public))
        });
        let shown = shown.await.flatten().unwrap_or_default();
        // Nothing else is kept between looking and writing.
        let _one_at_a_time = self.importing.lock().await;
        let is_held =
            |shown: &&Shown| self.known_row(&shown.0).is_some_and(|(row, _)| row.group_key == shown.1);
        let held = shown.iter().find(is_held).map(|shown| shown.0);
        let marks = marks_of(&shown);
        let said = match held {
            Some(share) if !self.is_proven_otherwise(&vault, &hash, &marks)? => Said::Lock(share),
            _ => Said::Node,
        };
        self.keep_identity(&vault, &hash, &identity, said, &marks)
    }

    /// Whether a lock about a share that is held here says so.
    fn is_proven(&self, said: Said) -> bool {
        said.share().is_some_and(|share| self.known_row(&share).is_some())
    }

    /// Whether one of these shares belongs to another cluster already, by another lock. A share is of one cluster.
    fn is_proven_otherwise(&self, vault: &Vault, hash: &[u8; 32], marks: &[Mark]) -> Result<bool, Problem> {
        for (_, other) in self.identity_files()?.into_iter().filter(|(_, other)| other != hash) {
            let Some(kept) = self.kept_identity(vault, &other)? else { continue };
            if self.is_proven(kept.said) && kept.shares.iter().any(|mark| marks.contains(mark)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Seals an identity key, durably. One that is worth less never takes another one's place. The caller holds `importing`.
    pub(crate) fn keep_identity(
        &self,
        vault: &Vault,
        lock_hash: &[u8; 32],
        identity: &IdentityKey,
        said: Said,
        marks: &[Mark],
    ) -> Result<(), Problem> {
        let known = self.kept_identity(vault, lock_hash)?;
        if let Some(known) = &known {
            let is_same = known.text.as_str() == identity.to_file_text().as_str();
            let is_worth_less = said.worth() < known.said.worth();
            if is_same && (is_worth_less || said.share().is_none() && said == known.said) {
                return Ok(());
            }
            if !is_same && (is_worth_less || said == Said::Node) {
                return Err(bad(
                    "identity_conflict",
                    "another identity key of this cluster is kept here",
                    "Import the cluster's folder, whose lock says which key is this box's.",
                ));
            }
        }
        let path = self.identity_file(lock_hash);
        if !path.exists() {
            self.make_room_for_identity(vault, said)?;
        }
        let sealed = vault.seal_bytes(&label(LABEL, lock_hash), &Kept::write(said, identity, marks))?;
        files::write_atomically(&path, &sealed).map_err(|error| disk(&error))
    }

    /// Drops what is worth least, the youngest first: what a network process in foreign hands put here came after the keys that are
    /// in use. But for what it says itself nothing is dropped.
    fn make_room_for_identity(&self, vault: &Vault, said: Said) -> Result<(), Problem> {
        let files = self.identity_files()?;
        let over = (files.len() + 1).saturating_sub(MAX_IDENTITIES);
        if over == 0 {
            return Ok(());
        }
        let for_what = said.worth();
        let mut known = Vec::with_capacity(files.len());
        for (path, hash) in files {
            let written = std::fs::metadata(&path).and_then(|found| found.modified()).ok();
            let said = self.kept_identity(vault, &hash)?.map(|kept| kept.said);
            let by_owner = said.map(Said::worth) == Some(Said::FOLDER);
            let stays =
                said.is_some_and(|said| self.is_proven(said)) && (by_owner || for_what != Said::FOLDER);
            known.push((said.map(Said::worth), std::cmp::Reverse(written), path, stays));
        }
        known.sort();
        let dropped: Vec<PathBuf> =
            known.into_iter().filter(|known| !known.3).map(|known| known.2).take(over).collect();
        if dropped.len() < over || said == Said::Node {
            return Err(bad(
                "too_many_identities",
                &format!("this box keeps {MAX_IDENTITIES} identity keys and no more"),
                "Import the cluster's folder, which makes room.",
            ));
        }
        for path in dropped {
            std::fs::remove_file(path).map_err(|error| disk(&error))?;
        }
        Ok(())
    }

    fn identity_file(&self, lock_hash: &[u8; 32]) -> PathBuf {
        self.config.state_dir.join(format!("identity-{}.sealed", hex::encode(lock_hash)))
    }
}

impl Said {
    const FOLDER: u8 = 3;

    fn worth(self) -> u8 {
        match self {
            Self::Node => 0,
            Self::AnotherBox => 1,
            Self::Lock(_) => 2,
            Self::Folder(_) => Self::FOLDER,
        }
    }

    fn share(self) -> Option<PublicKeyBytes> {
        match self {
            Self::Node | Self::AnotherBox => None,
            Self::Lock(share) | Self::Folder(share) => Some(share),
        }
    }
}

fn label(label: &[u8], lock_hash: &[u8; 32]) -> Vec<u8> {
    [label, lock_hash].concat()
}

fn parse_hash(text: &str) -> Option<[u8; 32]> {
    hex::decode(text.strip_prefix("0x").unwrap_or(text)).ok()?.try_into().ok()
}
