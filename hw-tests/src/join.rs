//! What an owner does with a `.charon` folder and a box: bring the shares in, then join the cluster.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use cluster::Lock;
use ipc::envelope::{self, EnvelopeError};
use ipc::signer::{ChainClock, History, ShareBundle, ShareEntry};
use ipc::{ClusterSetup, Sensitive, Signing};

use crate::page::{Page, PageError};

/// Why a box could not be made a member.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The folder is incomplete.
    #[error("cannot read {path} of the node's folder")]
    File {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A file is not what its name says.
    #[error("{path} is not as expected: {why}")]
    Content {
        /// The file.
        path: PathBuf,
        /// In which way.
        why: String,
    },
    /// The shares could not be sealed.
    #[error(transparent)]
    Seal(#[from] EnvelopeError),
    /// The box refused.
    #[error(transparent)]
    Page(#[from] PageError),
}

/// One node's folder as `create cluster` writes it.
#[derive(Clone, Debug)]
pub struct NodeFolder {
    path: PathBuf,
}

/// The chain that the validators are on.
#[derive(Clone, Debug)]
pub struct ChainFacts {
    /// `0x` hex.
    pub genesis_validators_root: String,
    /// Its clock.
    pub clock: ChainClock,
    /// Beacon nodes as the box sees them.
    pub beacon_nodes: Vec<String>,
}

impl NodeFolder {
    /// The folder at `path`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// The cluster lock in it.
    ///
    /// # Errors
    /// When it is missing or not a lock.
    pub fn lock(&self) -> Result<Lock, JoinError> {
        let path = self.path.join("cluster-lock.json");
        let bytes = self.read("cluster-lock.json")?;
        Lock::from_json(&bytes).map_err(|error| JoinError::Content { path, why: error.to_string() })
    }

    /// The cluster lock as it is written.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn lock_json(&self) -> Result<serde_json::Value, JoinError> {
        let path = self.path.join("cluster-lock.json");
        serde_json::from_slice(&self.read("cluster-lock.json")?)
            .map_err(|error| JoinError::Content { path, why: error.to_string() })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The key shares in it, in the order of the lock.
    ///
    /// # Errors
    /// When a keystore is missing or does not open with the password beside it.
    pub fn share_keys(&self) -> Result<Vec<threshold::SecretKey>, JoinError> {
        let validators = self.lock()?.validators.len();
        let open = |position| {
            let stem = self.keystore_stem(position);
            let password = self.read_text(&format!("{stem}.txt"))?;
            let content =
                |why: String| JoinError::Content { path: self.path.join(format!("{stem}.json")), why };
            let keystore = cluster::keystore::Keystore::from_json(&self.read(&format!("{stem}.json"))?)
                .map_err(|error| content(error.to_string()))?;
            keystore.decrypt_key(password.trim()).map_err(|error| content(error.to_string()))
        };
        (0..validators).map(open).collect()
    }

    /// Seals the shares to the box's signer and sends them. They must never have signed: this is for new clusters.
    ///
    /// # Errors
    /// When a file is missing or the box refuses.
    pub fn import_shares(&self, page: &Page, share_index: u8, chain: &ChainFacts) -> Result<(), JoinError> {
        let lock = self.lock()?;
        let mut validators = Vec::new();
        for (position, validator) in lock.validators.iter().enumerate() {
            let stem = self.keystore_stem(position);
            let password = self.read_text(&format!("{stem}.txt"))?;
            let keystore =
                serde_json::from_str(&self.read_text(&format!("{stem}.json"))?).map_err(|error| {
                    JoinError::Content {
                        path: self.path.join(format!("{stem}.json")),
                        why: error.to_string(),
                    }
                })?;
            let pubshare = validator.public_shares.get(usize::from(share_index) - 1);
            let pubshare = pubshare.ok_or_else(|| JoinError::Content {
                path: self.path.join("cluster-lock.json"),
                why: format!("it has no share {share_index}"),
            })?;
            validators.push(ShareEntry {
                keystore,
                password: Sensitive::new(password),
                public_key: pubshare.to_string(),
                group_public_key: validator.public_key.to_string(),
                share_index,
            });
        }
        let bundle = ShareBundle {
            validators,
            history: History::NeverSigned,
            genesis_validators_root: chain.genesis_validators_root.clone(),
            chain: chain.clock,
        };
        page.import_shares(&envelope::seal(&page.import_key()?, &bundle)?)?;
        Ok(())
    }

    /// Makes the box a member: the lock, this node's identity, the beacon nodes, where the others are, and who signs.
    ///
    /// # Errors
    /// When a file is missing or the box refuses.
    pub fn join(
        &self,
        page: &Page,
        chain: &ChainFacts,
        peers: Vec<String>,
        signing: Signing,
    ) -> Result<(), JoinError> {
        self.join_proposing(page, chain, peers, signing, ipc::Proposals::default())
    }

    /// The same, and what the blocks shall be like that the box proposes.
    ///
    /// # Errors
    /// When a file is missing or the box refuses.
    pub fn join_proposing(
        &self,
        page: &Page,
        chain: &ChainFacts,
        peers: Vec<String>,
        signing: Signing,
        proposals: ipc::Proposals,
    ) -> Result<(), JoinError> {
        let lock = self.lock_json()?;
        let identity_key = Sensitive::new(self.read_text("charon-enr-private-key")?.trim().to_owned());
        page.set_cluster(&ClusterSetup {
            lock,
            identity_key,
            beacon_nodes: chain.beacon_nodes.clone(),
            peers,
            relays: None,
            signing,
            fallback_beacon_nodes: None,
            proposals: Some(proposals),
            obol_api: None,
        })?;
        Ok(())
    }

    /// Keystores made cheaply for tests say so in their name.
    fn keystore_stem(&self, position: usize) -> String {
        let insecure = format!("validator_keys/keystore-insecure-{position}");
        if self.path.join(format!("{insecure}.json")).exists() {
            insecure
        } else {
            format!("validator_keys/keystore-{position}")
        }
    }

    fn read(&self, name: &str) -> Result<Vec<u8>, JoinError> {
        let path: &Path = &self.path.join(name);
        fs::read(path).map_err(|source| JoinError::File { path: path.to_owned(), source })
    }

    fn read_text(&self, name: &str) -> Result<String, JoinError> {
        let path = self.path.join(name);
        fs::read_to_string(&path).map_err(|source| JoinError::File { path, source })
    }
}
