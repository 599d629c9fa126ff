//! A cluster with one validator on a real chain, and what the chain's blocks say about that validator.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use chain::{Bytes32, Epoch, ExecutionAddress, Slot, ValidatorIndex};
use cluster::Network;
use cluster::create::{self, Addresses, CreateOptions, CreatedCluster};
use ipc::signer::{ChainClock, ChainPreset};
use threshold::SecretKey;

use crate::devnet::inclusion::{Follower, Inclusion, Reader};
use crate::devnet::{self, Config, DepositEntry, Devnet, DistributedValidator, Tools};
use crate::join::ChainFacts;

/// Its name for those who ask.
pub const NETWORK: &str = "devnet";
/// Its execution layer's number.
pub const CHAIN_ID: u64 = 1337;

/// A chain on which a cluster of four has a validator.
pub struct WatchedCluster {
    /// The chain, running.
    pub chain: Devnet,
    /// What its members have.
    pub created: CreatedCluster,
    /// What members are told about the chain.
    pub facts: ChainFacts,
    /// The validator as the chain shows it.
    pub watch: Watch,
}

impl WatchedCluster {
    /// Starts the chain; nobody does the validator's duties yet.
    ///
    /// # Errors
    /// When a part of the chain does not come up.
    pub fn start(dir: &Path, slot_seconds: u64) -> anyhow::Result<Self> {
        let whole = SecretKey::random(&mut rand::rng());
        let mut credentials = [0; 32];
        credentials[0] = 1;
        let validator = DistributedValidator { deposit: DepositEntry::signed(&whole, Bytes32(credentials)) };
        let config = Config { slot_seconds, filler_validators: 32, ..Config::electra() };
        let tools = Tools::ensure(&mut |line| eprintln!("{line}"))?;
        let slots_per_epoch = config.slots_per_epoch;
        let mut chain = Devnet::prepare(dir, config, tools, &[validator])?;
        chain.start(Duration::from_secs(30))?;
        let genesis_time = chain.genesis_time()?;
        let network = Network {
            name: NETWORK.to_owned(),
            chain_id: CHAIN_ID,
            genesis_fork_version: devnet::GENESIS_FORK_VERSION,
            genesis_time,
        };
        let address = ExecutionAddress([0x11; 20]);
        let addresses = Addresses { fee_recipient: address, withdrawal: address };
        let options = CreateOptions::new("friends", 4, 1, network, addresses);
        let created = create::split_keys(&options, vec![whole], &mut rand::rng())?;
        let facts = ChainFacts {
            genesis_validators_root: chain.api().genesis_validators_root()?,
            clock: ChainClock {
                genesis_time,
                slot_ms: slot_seconds * 1000,
                slots_per_epoch,
                preset: ChainPreset::Mainnet,
            },
            beacon_nodes: vec![chain.beacon_url()],
        };
        let reader = Reader::new(chain.api(), slots_per_epoch);
        let watch = Watch { follower: Follower::new(reader, Slot(1)), votes: BTreeMap::new() };
        Ok(Self { chain, created, facts, watch })
    }
}

/// The cluster's validator as the chain's blocks show it.
pub struct Watch {
    follower: Follower,
    /// What it voted for in each epoch: two different votes for one target would be the end of it.
    votes: BTreeMap<Epoch, Inclusion>,
}

impl Watch {
    /// # Panics
    /// When the validator voted twice for one target.
    fn look(&mut self) {
        for vote in self.follower.poll().unwrap_or_default() {
            if vote.validator == ValidatorIndex(0) {
                let first = self.votes.entry(vote.target).or_insert(vote);
                assert_eq!(first.attestation_slot, vote.attestation_slot, "two votes in one epoch");
            }
        }
    }

    /// Waits until a block has a vote of the validator for a slot from this one on.
    ///
    /// # Panics
    /// When there is none in this time, or the validator voted twice for one target.
    pub fn attests(&mut self, from: Slot, patience: Duration) -> Inclusion {
        let begun = Instant::now();
        loop {
            self.look();
            if let Some(vote) = self.votes.values().rev().find(|vote| vote.attestation_slot >= from) {
                return *vote;
            }
            assert!(begun.elapsed() < patience, "no attestation from slot {from} on: {:?}", self.votes);
            std::thread::sleep(Duration::from_millis(500));
        }
    }

    /// Every vote so far, by target.
    pub fn votes(&mut self) -> &BTreeMap<Epoch, Inclusion> {
        self.look();
        &self.votes
    }

    /// Whether the block with this vote is on the chain that everybody follows.
    ///
    /// # Errors
    /// When the beacon node does not say.
    pub fn is_canonical(&mut self, vote: &Inclusion) -> Result<bool, crate::devnet::ApiError> {
        self.follower.reader().is_canonical(vote)
    }
}
