//! The identity keys with which `dv-node` speaks to the members of its clusters, sealed here for backups and moves.
//!
//! `dv-node` could write anything: what it says is worth less than what a verified lock shows or another box has carried here. Room is
//! made by what is worth least, and what a lock shows to belong to a share that is held here is never given up for anything.

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

/// Binds a sealed identity key to its purpose. With what is known of it; those of before are the key alone.
const LABEL: &[u8] = b"hearth identity key v2";
const LABEL_BEFORE: &[u8] = b"hearth identity key v1";
/// 64 hex digits and a public key, sealed.
const MAX_SEALED: u64 = 1024;

/// Who says that an identity key is the one of a cluster; what is worth less first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Said {
    /// The network process, for a cluster that was joined by hand.
    Node,
    /// Another box, in a backup or a certificate. It may have had it from its own network process.
    AnotherBox,
    /// A verified lock, by which this share of the cluster belongs to that identity.
    Lock(PublicKeyBytes),
}

/// A key that is kept.
struct Kept {
    said: Said,
    text: Zeroizing<String>,
}

impl Kept {
    fn write(said: Said, identity: &IdentityKey) -> Zeroizing<Vec<u8>> {
        let said = match said {
            Said::Node => "node".to_owned(),
            Said::AnotherBox => "box".to_owned(),
            Said::Lock(share) => share.to_string(),
        };
        Zeroizing::new(format!("{said}\n{}", identity.to_file_text().as_str()).into_bytes())
    }

    fn read(text: &[u8]) -> Option<Self> {
        let (said, key) = std::str::from_utf8(text).ok()?.split_once('\n')?;
        let said = match said {
            "node" => Said::Node,
            "box" => Said::AnotherBox,
            share => Said::Lock(share.parse().ok()?),
        };
        Some(Self { said, text: Zeroizing::new(key.to_owned()) })
    }
}

/// By what a verified lock shows an identity to be one of its members: that member's shares.
pub(crate) fn shares_of(view: &ClusterView, identity: &IdentityPublicKey) -> Vec<PublicKeyBytes> {
    let Ok(share_index) = view.share_index_of(identity) else { return Vec::new() };
    let place = usize::from(share_index).saturating_sub(1);
    view.validators.iter().filter_map(|validator| validator.public_shares.get(place).copied()).collect()
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
        if let Some(text) = vault.open_bytes(&label(LABEL, lock_hash), &sealed) {
            return Ok(Kept::read(&text));
        }
        let before = vault.open_bytes(&label(LABEL_BEFORE, lock_hash), &sealed);
        let text = before.and_then(|text| Some(Zeroizing::new(std::str::from_utf8(&text).ok()?.to_owned())));
        Ok(text.map(|text| Kept { said: Said::Node, text }))
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
    /// lock, and that gives the identity a share which is held here, the lock says so, not `dv-node`: that share has signed it.
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
        let public = identity.public_key();
        let shown = blocking(move || {
            let lock = Lock::from_value(lock?).ok().filter(|lock| !lock.signature_aggregate.is_empty())?;
            let view = lock.verify(&[]).ok().filter(|view| view.lock_hash == hash)?;
            Some(shares_of(&view, &public))
        });
        let shown = shown.await.flatten().unwrap_or_default();
        let held = shown.into_iter().find(|share| self.known_row(share).is_some());
        self.keep_identity(&vault, &hash, &identity, held.map_or(Said::Node, Said::Lock))
    }

    /// Seals an identity key, durably. One that is worth less never takes another one's place.
    pub(crate) fn keep_identity(
        &self,
        vault: &Vault,
        lock_hash: &[u8; 32],
        identity: &IdentityKey,
        said: Said,
    ) -> Result<(), Problem> {
        let known = self.kept_identity(vault, lock_hash)?;
        if let Some(known) = &known {
            let is_same = known.text.as_str() == identity.to_file_text().as_str();
            if is_same && known.said.worth() >= said.worth() && !matches!(said, Said::Lock(_)) {
                return Ok(());
            }
            let is_worth_less = said.worth() < known.said.worth();
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
        let sealed = vault.seal_bytes(&label(LABEL, lock_hash), &Kept::write(said, identity))?;
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
        let mut known = Vec::with_capacity(files.len());
        for (path, hash) in files {
            let written = std::fs::metadata(&path).and_then(|found| found.modified()).ok();
            let said = self.kept_identity(vault, &hash)?.map(|kept| kept.said);
            let is_held = matches!(said, Some(Said::Lock(share)) if self.known_row(&share).is_some());
            known.push((said.map(Said::worth), std::cmp::Reverse(written), path, is_held));
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
    fn worth(self) -> u8 {
        match self {
            Self::Node => 0,
            Self::AnotherBox => 1,
            Self::Lock(_) => 2,
        }
    }
}

fn label(label: &[u8], lock_hash: &[u8; 32]) -> Vec<u8> {
    [label, lock_hash].concat()
}

fn parse_hash(text: &str) -> Option<[u8; 32]> {
    hex::decode(text.strip_prefix("0x").unwrap_or(text)).ok()?.try_into().ok()
}
