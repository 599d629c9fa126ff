//! Which chain a beacon node follows.

use chain::{Epoch, ForkName, ForkSchedule, ForkVersion, Root, ScheduledFork, SlotTiming};
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
    /// When slots start and duties are due, where that is known without any node. What a fallback tells is compared with it.
    pub timing: Option<SlotTiming>,
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
    /// Same genesis, other rules.
    #[error("the beacon node is on another chain: its {0} differ from what this cluster has used so far")]
    Parameters(&'static str),
    /// Same genesis, but a fork that is in force already differs: one of the nodes has not been updated in time.
    #[error(
        "the beacon node follows other rules: its fork in epoch {epoch} is {found}, this cluster's is {expected}; update the node that has missed the fork"
    )]
    Fork {
        /// An epoch that is not to come any more.
        epoch: Epoch,
        /// What holds there according to the node.
        found: ForkName,
        /// What this cluster has used so far.
        expected: ForkName,
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

    /// Whether another node tells the same rules for all that is not to come any more. When nobody else vouches for what is
    /// known (`may_extend`), a node that knows one more fork of the past is believed: it was updated late.
    pub(crate) fn check_past(&self, told: &Self, now: Epoch, may_extend: bool) -> Result<(), ChainMismatch> {
        if told.timing != self.timing {
            return Err(ChainMismatch::Parameters("slot times"));
        }
        let known: Vec<_> = self.past(now).collect();
        let found: Vec<_> = told.past(now).collect();
        if known == found || (may_extend && found.starts_with(&known)) {
            return Ok(());
        }
        let differing =
            found.iter().chain(&known).filter(|fork| !(found.contains(fork) && known.contains(fork)));
        let epoch = differing.map(|fork| fork.epoch).min().unwrap_or(now);
        Err(ChainMismatch::Fork {
            epoch,
            found: told.schedule.fork_name_at(epoch),
            expected: self.schedule.fork_name_at(epoch),
        })
    }

    fn past(&self, now: Epoch) -> impl Iterator<Item = &ScheduledFork> {
        self.schedule.forks().iter().filter(move |fork| fork.epoch <= now)
    }

    /// The same chain, now exactly.
    pub fn as_expected(&self, fork_version: Option<ForkVersion>) -> ExpectedChain {
        ExpectedChain {
            fork_version,
            genesis_validators_root: Some(self.genesis_validators_root),
            genesis_time_s: Some(self.genesis_time_s),
            timing: Some(self.timing),
        }
    }
}
