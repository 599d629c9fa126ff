//! Which chain a beacon node follows.

use chain::{ForkSchedule, ForkVersion, Root, SlotTiming};
use thiserror::Error;

/// All that does not change while a chain lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainInfo {
    /// `CONFIG_NAME`, such as `mainnet`.
    pub network: String,
    /// When slot 0 starts, unix seconds.
    pub genesis_time_s: u64,
    /// Identifies the chain in every signing domain.
    pub genesis_validators_root: Root,
    /// Fork version of the genesis; Obol locks name the network by it.
    pub genesis_fork_version: ForkVersion,
    /// When slots start and when duties are due.
    pub timing: SlotTiming,
    /// Which fork holds from which epoch.
    pub schedule: ForkSchedule,
    /// Every fork version that the node says it will ever use, in order.
    pub fork_versions: Vec<ForkVersion>,
}

/// What the cluster's documents and our own memory say about the chain.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExpectedChain {
    /// The fork version in the cluster lock.
    pub fork_version: Option<ForkVersion>,
    /// The chain that this box has served before.
    pub genesis_validators_root: Option<Root>,
    /// Its genesis time, unix seconds: two runs of a test chain can differ in nothing else.
    pub genesis_time_s: Option<u64>,
}

/// A beacon node on another chain.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ChainMismatch {
    /// The lock is for a network that this node does not know.
    #[error(
        "the beacon node is on another chain: it follows {network}, whose forks do not include {expected} of the cluster lock"
    )]
    ForkVersion {
        /// The network it follows.
        network: String,
        /// The lock's fork version.
        expected: ForkVersion,
    },
    /// Same network parameters, another genesis.
    #[error(
        "the beacon node is on another chain: its genesis validators root is {found}, this cluster's is {expected}"
    )]
    GenesisRoot {
        /// What the node says.
        found: Root,
        /// What this cluster has used so far.
        expected: Root,
    },
    /// Same genesis state, started at another time.
    #[error("the beacon node is on another chain: its genesis time is {found}, this cluster's is {expected}")]
    GenesisTime {
        /// What the node says, unix seconds.
        found: u64,
        /// What this cluster has used so far, unix seconds.
        expected: u64,
    },
}

impl ChainInfo {
    /// Whether this is the chain that the cluster is for.
    pub fn check(&self, expected: &ExpectedChain) -> Result<(), ChainMismatch> {
        if let Some(version) = expected.fork_version
            && !self.fork_versions.contains(&version)
        {
            return Err(ChainMismatch::ForkVersion { network: self.network.clone(), expected: version });
        }
        match expected.genesis_validators_root {
            Some(root) if root != self.genesis_validators_root => {
                return Err(ChainMismatch::GenesisRoot {
                    found: self.genesis_validators_root,
                    expected: root,
                });
            }
            Some(_) | None => {}
        }
        match expected.genesis_time_s {
            Some(time) if time != self.genesis_time_s => {
                Err(ChainMismatch::GenesisTime { found: self.genesis_time_s, expected: time })
            }
            Some(_) | None => Ok(()),
        }
    }

    /// The same chain, now exactly.
    pub fn as_expected(&self, fork_version: Option<ForkVersion>) -> ExpectedChain {
        ExpectedChain {
            fork_version,
            genesis_validators_root: Some(self.genesis_validators_root),
            genesis_time_s: Some(self.genesis_time_s),
        }
    }
}
