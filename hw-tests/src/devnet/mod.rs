//! A real Ethereum chain on loopback: geth, a Prysm beacon node and Prysm's own validator client.
//!
//! Some validators of its genesis are *distributed*: their keys come from outside and whoever holds the shares must attest
//! for them. The others are *fillers* with publicly known interop keys, run by the validator client, so that the chain
//! lives whatever the distributed ones do. `docs/devnet.md` tells how to use it by hand.

mod api;
pub mod builder;
pub mod duties;
mod genesis;
pub mod inclusion;
mod interop;
mod load;
pub mod scribe;
mod sync_committee;
mod tools;
pub mod witness;

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use chain::{Epoch, Slot};

pub(crate) use api::wait;
pub use api::{ApiError, BeaconApi, ValidatorInfo};
use builder::Builder;
pub use genesis::{DepositEntry, GENESIS_FORK_VERSION};
pub use interop::interop_deposit;
pub use load::{BusyLoops, Measurement, choose_slot_seconds, measure};
pub use tools::{Tools, cache_dir};

use crate::ports::free_ports;
use crate::process::{self, Launch, POLL, Process, ProcessError};
use genesis::{CHAIN_ID, FEE_RECIPIENT};

/// Prysm starts a timer at the slot's end minus two seconds: with less it panics at start-up.
pub const SLOT_SECONDS_FLOOR: u64 = 2;
/// How long one of the three programs may take until its port answers; measured 4 s on a busy two-core machine.
const START_PATIENCE: Duration = Duration::from_secs(60);

/// What can go wrong with the local chain.
#[derive(Debug, thiserror::Error)]
pub enum DevnetError {
    /// A file could not be read or written.
    #[error("cannot use {path}")]
    File {
        /// The file or folder.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// There is nowhere to keep built tools.
    #[error(
        "neither XDG_CACHE_HOME nor HOME is set, so there is nowhere to keep built tools: set one of them"
    )]
    NoCache,
    /// No Go to build geth and Prysm with.
    #[error("no Go that can build geth and Prysm: {reason}")]
    NoGo {
        /// What the search said.
        reason: String,
    },
    /// A tool did not build.
    #[error("building the Go tool module {module} failed; the end of {log} says:\n{tail}")]
    Build {
        /// Folder under `hw-tests/devnet/`.
        module: &'static str,
        /// The build log.
        log: PathBuf,
        /// Its last lines.
        tail: String,
    },
    /// geth's built-in genesis is not what this code was written for.
    #[error(
        "the genesis printed by `geth dumpgenesis --hoodi` {what}: the pinned geth and this harness do not fit"
    )]
    ExecutionGenesis {
        /// What is wrong with it.
        what: &'static str,
    },
    /// The genesis state is not what this code was written for.
    #[error(
        "the genesis state made by prysmctl has its sync committees elsewhere: the pinned Prysm and this harness do not fit"
    )]
    GenesisState,
    /// The settings cannot work.
    #[error("this chain cannot run: {why}")]
    Config {
        /// The rule it breaks.
        why: &'static str,
    },
    /// A filler's key could not be used; our mistake.
    #[error("cannot make the interop deposit of filler {index}: {why}")]
    Interop {
        /// Its number.
        index: u64,
        /// The cause.
        why: String,
    },
    /// A child process failed.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// The beacon node's API failed.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// Something did not happen in time.
    #[error("{what} did not happen within {seconds} s; see the logs in {dir}")]
    TooSlow {
        /// What was waited for.
        what: String,
        /// For how long.
        seconds: u64,
        /// The folder of this chain.
        dir: PathBuf,
    },
    /// A call that needs a running chain.
    #[error("the chain is not running: call start first")]
    NotRunning,
}

/// The newest consensus fork of the chain, active from genesis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fork {
    /// Works with any number of slots per epoch.
    Electra,
    /// Works with 32 slots per epoch only: the proposer look-ahead has a compiled-in length.
    Fulu,
}

/// Where the distributed validators stand in genesis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Their indices start at 0.
    First,
    /// Their indices follow the fillers'.
    Last,
}

/// Who sits in the sync committees until the third period (512 epochs; with 8 slots of 2 s more than two hours).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyncCommittee {
    /// Eight fillers, and up to four distributed validators with one seat each in a subcommittee of their own: far less
    /// work than with 512 holders, and yet every distributed duty occurs.
    Few,
    /// Everybody by chance, as on a public chain.
    Everybody,
}

/// The shape of a chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Newest fork.
    pub fork: Fork,
    /// 8 by default with Electra, so that epochs are short; 32 with Fulu.
    pub slots_per_epoch: u64,
    /// Whole seconds, at least [`SLOT_SECONDS_FLOOR`].
    pub slot_seconds: u64,
    /// Validators with interop keys 0, 1, 2 …, run by Prysm's validator client.
    pub filler_validators: u64,
    /// Where the distributed validators stand.
    pub distributed: Place,
    /// Who sits in the sync committees.
    pub sync_committee: SyncCommittee,
    /// Whether the beacon node has a block builder to ask ([`builder`]).
    pub builder: bool,
}

impl Config {
    /// Electra, epochs of 8 slots, 2 s slots, 64 fillers.
    pub fn electra() -> Self {
        Self {
            fork: Fork::Electra,
            slots_per_epoch: 8,
            slot_seconds: SLOT_SECONDS_FLOOR,
            filler_validators: 64,
            distributed: Place::First,
            sync_committee: SyncCommittee::Few,
            builder: false,
        }
    }

    /// Fulu, epochs of 32 slots, 2 s slots, 64 fillers.
    pub fn fulu() -> Self {
        Self { fork: Fork::Fulu, slots_per_epoch: 32, ..Self::electra() }
    }

    fn check(&self) -> Result<(), DevnetError> {
        let rules = [
            (self.slot_seconds >= SLOT_SECONDS_FLOOR, "Prysm needs slots of at least 2 s"),
            (self.fork != Fork::Fulu || self.slots_per_epoch == 32, "Fulu needs 32 slots per epoch"),
            (self.slots_per_epoch > 1, "an epoch needs at least 2 slots"),
            (
                self.filler_validators >= 2 * self.slots_per_epoch.min(8),
                "too few fillers: the chain must live without the distributed validators",
            ),
        ];
        match rules.into_iter().find(|(holds, _)| !holds) {
            Some((_, why)) => Err(DevnetError::Config { why }),
            None => Ok(()),
        }
    }
}

/// A validator whose key lives outside the chain's own validator client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DistributedValidator {
    /// Deposit signed by the group key; `deposit.pubkey` is the group's public key.
    pub deposit: DepositEntry,
}

/// The loopback ports of one chain.
#[derive(Debug, Clone, Copy)]
struct Ports {
    geth_http: u16,
    geth_p2p: u16,
    engine: u16,
    beacon_http: u16,
    beacon_rpc: u16,
    beacon_monitoring: u16,
    beacon_tcp: u16,
    beacon_quic: u16,
    beacon_udp: u16,
    validator_monitoring: u16,
    validator_rpc: u16,
    validator_http: u16,
}

impl Ports {
    fn choose() -> Self {
        let mut ports = free_ports(12).into_iter();
        let mut next = || ports.next().expect("twelve were asked for");
        Self {
            geth_http: next(),
            geth_p2p: next(),
            engine: next(),
            beacon_http: next(),
            beacon_rpc: next(),
            beacon_monitoring: next(),
            beacon_tcp: next(),
            beacon_quic: next(),
            beacon_udp: next(),
            validator_monitoring: next(),
            validator_rpc: next(),
            validator_http: next(),
        }
    }
}

/// How the chain is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// Slot by the clock.
    pub clock: Slot,
    /// Slot of the newest block.
    pub head: Slot,
    /// Slots after genesis that are over and have no block, oldest first.
    ///
    /// A distributed validator that does not propose costs one now and then; that is no fault of the chain.
    pub missed: Vec<Slot>,
    /// Newest finalized epoch; 0 until the first one.
    pub finalized: Epoch,
}

/// One local chain in one folder. Dropping it stops it.
#[derive(Debug)]
pub struct Devnet {
    dir: PathBuf,
    config: Config,
    tools: Tools,
    ports: Ports,
    /// Public keys of genesis: all of them, and the fillers'.
    keys: Vec<[u8; 48]>,
    filler_keys: Vec<[u8; 48]>,
    genesis_time: Option<u64>,
    builder: Option<Builder>,
    // Stopped in this order: whoever uses another one first.
    validator: Option<Process>,
    beacon_node: Option<Process>,
    geth: Option<Process>,
    api: BeaconApi,
    missed: Vec<Slot>,
    looked_up_to: Slot,
}

impl Devnet {
    /// Writes everything but the genesis time into `dir`, and throws away the chain that was there before.
    ///
    /// # Errors
    /// When the settings cannot work or `dir` cannot be written.
    pub fn prepare(
        dir: &Path,
        config: Config,
        tools: Tools,
        distributed: &[DistributedValidator],
    ) -> Result<Self, DevnetError> {
        config.check()?;
        let ports = Ports::choose();
        let mut chain = Self {
            dir: dir.to_owned(),
            keys: Vec::new(),
            filler_keys: Vec::new(),
            api: BeaconApi::new(&format!("http://127.0.0.1:{}", ports.beacon_http)),
            config,
            tools,
            ports,
            genesis_time: None,
            builder: None,
            validator: None,
            beacon_node: None,
            geth: None,
            missed: Vec::new(),
            looked_up_to: Slot(0),
        };
        fs::create_dir_all(dir).map_err(|source| DevnetError::File { path: dir.to_owned(), source })?;
        // A database of an earlier chain with the same keys would make the validator client refuse to sign.
        for old in ["execution", "beacon", "validator", "validator-wallet"] {
            let path = chain.path(old);
            if path.exists() {
                fs::remove_dir_all(&path).map_err(|source| DevnetError::File { path, source })?;
            }
        }
        for old in ["prysmctl.log", "geth.log", "beacon-chain.log", "validator.log"] {
            let path = chain.path(old);
            if path.exists() {
                fs::remove_file(&path).map_err(|source| DevnetError::File { path, source })?;
            }
        }
        chain.write("config.yaml", genesis::chain_config(&chain.config).as_bytes())?;
        chain.write("execution-in.json", &chain.execution_genesis()?)?;
        let secret: [u8; 32] = rand::random();
        chain.write("jwt.hex", hex::encode(secret).as_bytes())?;
        let fillers = chain.filler_deposits()?;
        let distributed: Vec<_> = distributed.iter().map(|validator| validator.deposit.clone()).collect();
        chain.filler_keys = public_keys(&fillers)?;
        let deposits = match chain.config.distributed {
            Place::First => [distributed, fillers].concat(),
            Place::Last => [fillers, distributed].concat(),
        };
        chain.keys = public_keys(&deposits)?;
        let deposits = serde_json::to_vec_pretty(&deposits).expect("strings and numbers serialize");
        chain.write("deposits.json", &deposits)?;
        Ok(chain)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), DevnetError> {
        let path = self.path(name);
        // Private, because one of these files is the engine's shared secret.
        let write = || {
            fs::OpenOptions::new()
                .create(true)
                .truncate(true)
                .write(true)
                .mode(0o600)
                .open(&path)?
                .write_all(bytes)
        };
        write().map_err(|source| DevnetError::File { path: path.clone(), source })
    }

    fn execution_genesis(&self) -> Result<Vec<u8>, DevnetError> {
        let geth = &self.tools.geth;
        let output = Command::new(geth)
            .args(["dumpgenesis", "--hoodi"])
            .output()
            .map_err(|source| DevnetError::File { path: geth.clone(), source })?;
        let genesis = genesis::execution_genesis(&String::from_utf8_lossy(&output.stdout))?;
        Ok(serde_json::to_vec_pretty(&genesis).expect("a JSON value serializes"))
    }

    fn filler_deposits(&self) -> Result<Vec<DepositEntry>, DevnetError> {
        (0..self.config.filler_validators).map(interop_deposit).collect()
    }

    /// Makes the genesis state and starts the three programs; the first slot begins `genesis_delay` from now.
    ///
    /// Fifteen seconds are plenty on two idle cores. When the programs need longer, the first slots stay empty.
    ///
    /// # Errors
    /// When a program fails or does not answer in time. Whatever was started is stopped again.
    pub fn start(&mut self, genesis_delay: Duration) -> Result<(), DevnetError> {
        let started = self.try_start(genesis_delay);
        if started.is_err() {
            self.stop();
        }
        started
    }

    fn try_start(&mut self, genesis_delay: Duration) -> Result<(), DevnetError> {
        let genesis_time = unix_seconds(SystemTime::now() + genesis_delay);
        self.genesis_time = Some(genesis_time);
        self.make_genesis(genesis_time)?;
        self.start_geth()?;
        if self.config.builder {
            // Before the beacon node, which looks for it once when it starts.
            self.builder = Some(Builder::start(&self.beacon_url(), &self.execution_url())?);
        }
        self.start_beacon_node()?;
        self.start_validator()
    }

    fn make_genesis(&self, genesis_time: u64) -> Result<(), DevnetError> {
        let fork = match self.config.fork {
            Fork::Electra => "electra",
            Fork::Fulu => "fulu",
        };
        process::run(
            Launch::new("prysmctl", &self.tools.prysmctl, self.path("prysmctl.log"))
                .current_dir(&self.dir)
                .args(["testnet", "generate-genesis", "--fork", fork])
                .args(["--genesis-time", &genesis_time.to_string()])
                .args(["--chain-config-file", "config.yaml"])
                .args(["--geth-genesis-json-in", "execution-in.json"])
                .args(["--geth-genesis-json-out", "execution-genesis.json"])
                .args(["--deposit-json-file", "deposits.json", "--num-validators", "0"])
                .args(["--output-ssz", "genesis.ssz"]),
        )?;
        if self.config.sync_committee == SyncCommittee::Few {
            let distributed: Vec<[u8; 48]> =
                self.keys.iter().filter(|key| !self.filler_keys.contains(key)).copied().collect();
            let genesis = self.path("genesis.ssz");
            sync_committee::give_to_few(&genesis, &self.keys, &self.filler_keys, &distributed)?;
        }
        process::run(
            Launch::new("geth init", &self.tools.geth, self.path("geth.log")).current_dir(&self.dir).args([
                "init",
                "--datadir",
                "execution",
                "execution-genesis.json",
            ]),
        )?;
        Ok(())
    }

    fn start_geth(&mut self) -> Result<(), DevnetError> {
        let ports = self.ports;
        let geth = Launch::new("geth", &self.tools.geth, self.path("geth.log"))
            .current_dir(&self.dir)
            .args(["--datadir", "execution", "--networkid", &CHAIN_ID.to_string()])
            .args(["--nodiscover", "--maxpeers", "0", "--nat", "none", "--ipcdisable"])
            .args(["--port", &ports.geth_p2p.to_string()])
            .args(["--syncmode", "full", "--cache", "64"])
            .args(["--http", "--http.addr", "127.0.0.1", "--http.port", &ports.geth_http.to_string()])
            // `testing` is what the builder has its payloads built with.
            .args(["--http.api", "eth,net,web3,debug,txpool,testing"])
            .args(["--miner.gaslimit", &builder::GAS_LIMIT.to_string()])
            .args(["--authrpc.addr", "127.0.0.1", "--authrpc.port", &ports.engine.to_string()])
            .args(["--authrpc.jwtsecret", "jwt.hex"])
            .start()?;
        let geth = self.geth.insert(geth);
        let address = (std::net::Ipv4Addr::LOCALHOST, ports.engine);
        let answers = || std::net::TcpStream::connect(address).is_ok();
        wait_for_port(geth, &self.dir, answers)
    }

    /// Starts the beacon node (again) and waits for its API.
    ///
    /// After a stop of more than some slots do not expect the chain to go on: a node that comes back starts at its last
    /// justified block and nobody can tell it the rest. [`Self::pause_beacon_node`] has no such trouble.
    ///
    /// # Errors
    /// When it ends by itself or does not answer in time.
    pub fn start_beacon_node(&mut self) -> Result<(), DevnetError> {
        let ports = self.ports;
        let node = Launch::new("beacon-chain", &self.tools.beacon_chain, self.path("beacon-chain.log"))
            .current_dir(&self.dir)
            .args(["--accept-terms-of-use", "--datadir", "beacon"])
            .args(["--chain-config-file", "config.yaml", "--genesis-state", "genesis.ssz"])
            .args(["--chain-id", &CHAIN_ID.to_string(), "--network-id", &CHAIN_ID.to_string()])
            .args(["--execution-endpoint", &format!("http://127.0.0.1:{}", ports.engine)])
            .args(["--jwt-secret", "jwt.hex", "--contract-deployment-block", "0"])
            .args(["--min-sync-peers", "0", "--no-discovery", "--p2p-max-peers", "0"])
            .args(["--minimum-peers-per-subnet", "0", "--p2p-local-ip", "127.0.0.1"])
            .args(["--p2p-tcp-port", &ports.beacon_tcp.to_string()])
            .args(["--p2p-quic-port", &ports.beacon_quic.to_string()])
            .args(["--p2p-udp-port", &ports.beacon_udp.to_string()])
            .args(["--http-host", "127.0.0.1", "--http-port", &ports.beacon_http.to_string()])
            .args(["--rpc-host", "127.0.0.1", "--rpc-port", &ports.beacon_rpc.to_string()])
            .args(["--monitoring-host", "127.0.0.1"])
            .args(["--monitoring-port", &ports.beacon_monitoring.to_string()])
            .args(["--suggested-fee-recipient", FEE_RECIPIENT]);
        let node = match &self.builder {
            None => node,
            // Prysm leaves its builder for an epoch after a few empty slots. Here the builder is what is looked at, and on a
            // busy machine slots stay empty without it too.
            Some(builder) => node
                .args(["--http-mev-relay", &builder.url()])
                .args(["--max-builder-consecutive-missed-slots", "32"])
                .args(["--max-builder-epoch-missed-slots", "32"]),
        };
        let node = node.start()?;
        let node = self.beacon_node.insert(node);
        let api = &self.api;
        // The node answers simple questions some time before it has a head ("nil head"); this one needs the head state.
        wait_for_port(node, &self.dir, || api.finalized().is_ok())
    }

    fn start_validator(&mut self) -> Result<(), DevnetError> {
        let ports = self.ports;
        let validator = Launch::new("validator", &self.tools.validator, self.path("validator.log"))
            .current_dir(&self.dir)
            .args(["--accept-terms-of-use", "--datadir", "validator", "--wallet-dir", "validator-wallet"])
            .args(["--chain-config-file", "config.yaml", "--force-clear-db"])
            .args([
                "--interop-start-index",
                "0",
                "--interop-num-validators",
                &self.config.filler_validators.to_string(),
            ])
            .args(["--enable-beacon-rest-api", "--beacon-rest-api-provider", &self.beacon_url()])
            .args(["--rpc-host", "127.0.0.1", "--rpc-port", &ports.validator_rpc.to_string()])
            .args(["--http-host", "127.0.0.1", "--http-port", &ports.validator_http.to_string()])
            .args(["--monitoring-host", "127.0.0.1"])
            .args(["--monitoring-port", &ports.validator_monitoring.to_string()])
            .args(["--suggested-fee-recipient", FEE_RECIPIENT, "--disable-rewards-penalties-logging"])
            .start()?;
        self.validator = Some(validator);
        Ok(())
    }

    /// The beacon API for processes on this machine.
    pub fn beacon_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.ports.beacon_http)
    }

    /// The beacon API for a QEMU guest with user networking, which sees the host's loopback under this address.
    pub fn beacon_url_for_guest(&self) -> String {
        format!("http://10.0.2.2:{}", self.ports.beacon_http)
    }

    /// The execution client's JSON-RPC, for processes on this machine.
    pub fn execution_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.ports.geth_http)
    }

    /// The block builder, when this chain has one and runs.
    pub fn builder(&self) -> Option<&Builder> {
        self.builder.as_ref()
    }

    /// The programs of this chain.
    pub fn tools(&self) -> &Tools {
        &self.tools
    }

    /// The consensus parameters, for other clients of this chain.
    pub fn config_file(&self) -> PathBuf {
        self.path("config.yaml")
    }

    /// A client of the beacon API.
    pub fn api(&self) -> &BeaconApi {
        &self.api
    }

    /// The shape of this chain.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The folder with its files and logs.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Unix seconds at which slot 0 begins.
    ///
    /// # Errors
    /// Before [`Self::start`].
    pub fn genesis_time(&self) -> Result<u64, DevnetError> {
        self.genesis_time.ok_or(DevnetError::NotRunning)
    }

    /// The slot by this machine's clock; 0 before genesis.
    ///
    /// # Errors
    /// Before [`Self::start`].
    pub fn clock_slot(&self) -> Result<Slot, DevnetError> {
        let since_genesis = unix_seconds(SystemTime::now()).saturating_sub(self.genesis_time()?);
        Ok(Slot(since_genesis / self.config.slot_seconds))
    }

    /// Process ids of whatever runs, by name.
    pub fn processes(&self) -> Vec<(String, u32)> {
        let all = [&self.geth, &self.beacon_node, &self.validator];
        all.into_iter().flatten().map(|process| (process.name().to_owned(), process.id())).collect()
    }

    /// Fails when a program has ended by itself.
    ///
    /// # Errors
    /// With the end of its log.
    pub fn check_alive(&mut self) -> Result<(), DevnetError> {
        for process in [&mut self.geth, &mut self.beacon_node, &mut self.validator].into_iter().flatten() {
            process.check_alive()?;
        }
        Ok(())
    }

    /// Waits until the chain has its first block after genesis.
    ///
    /// # Errors
    /// When a program ends, or no block comes within `patience` after genesis.
    pub fn wait_ready(&mut self, patience: Duration) -> Result<(), DevnetError> {
        self.wait_for_head(Slot(1), patience)
    }

    /// Waits until a block of `slot` or later is the head.
    ///
    /// # Errors
    /// When a program ends, or it takes longer than `patience` after that slot should have begun.
    pub fn wait_for_head(&mut self, slot: Slot, patience: Duration) -> Result<(), DevnetError> {
        let begins =
            UNIX_EPOCH + Duration::from_secs(self.genesis_time()? + slot.0 * self.config.slot_seconds);
        let until_then = begins.duration_since(SystemTime::now()).unwrap_or_default();
        let limit = until_then + patience;
        let deadline = Instant::now() + limit;
        loop {
            self.check_alive()?;
            // A node that does not answer is late, and lateness has its own error.
            if self.api.head().is_ok_and(|head| head >= slot) {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(DevnetError::TooSlow {
                    what: format!("a block of slot {} or later", slot.0),
                    seconds: limit.as_secs(),
                    dir: self.dir.clone(),
                });
            }
            std::thread::sleep(4 * POLL);
        }
    }

    /// Looks at the chain. Cheap when called often: slots already looked at are remembered.
    ///
    /// # Errors
    /// When a program has ended or the beacon node does not answer.
    pub fn health(&mut self) -> Result<Health, DevnetError> {
        self.check_alive()?;
        let clock = self.clock_slot()?;
        let head = self.api.head()?;
        // The block of the slot before may still be on its way.
        while self.looked_up_to.0 + 2 < clock.0 {
            let slot = Slot(self.looked_up_to.0 + 1);
            if !self.api.has_block(slot)? {
                self.missed.push(slot);
            }
            self.looked_up_to = slot;
        }
        Ok(Health { clock, head, missed: self.missed.clone(), finalized: self.api.finalized()? })
    }

    /// Freezes the beacon node: connections are accepted by the kernel and never answered.
    ///
    /// # Errors
    /// When it is not running.
    pub fn pause_beacon_node(&mut self) -> Result<(), DevnetError> {
        Ok(self.beacon_node.as_mut().ok_or(DevnetError::NotRunning)?.pause()?)
    }

    /// Lets the frozen beacon node go on.
    ///
    /// # Errors
    /// When it is not running.
    pub fn resume_beacon_node(&mut self) -> Result<(), DevnetError> {
        Ok(self.beacon_node.as_mut().ok_or(DevnetError::NotRunning)?.resume()?)
    }

    /// Stops the beacon node: connections are refused from now on. See [`Self::start_beacon_node`] before you restart it.
    ///
    /// # Errors
    /// When it cannot be stopped.
    pub fn stop_beacon_node(&mut self) -> Result<(), DevnetError> {
        if let Some(mut node) = self.beacon_node.take() {
            node.stop()?;
        }
        Ok(())
    }

    /// Ends all three programs. The files stay, the chain cannot be started again: prepare a new one.
    pub fn stop(&mut self) {
        // Each one stops when dropped, killed if it does not listen.
        drop(self.validator.take());
        drop(self.beacon_node.take());
        drop(self.builder.take());
        drop(self.geth.take());
    }
}

impl Drop for Devnet {
    fn drop(&mut self) {
        self.stop();
    }
}

fn wait_for_port(process: &mut Process, dir: &Path, answers: impl Fn() -> bool) -> Result<(), DevnetError> {
    let deadline = Instant::now() + START_PATIENCE;
    loop {
        // Alive and answering: another chain may hold the port while our own child is already dead.
        process.check_alive()?;
        if answers() {
            process.check_alive()?;
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(DevnetError::TooSlow {
                what: format!("the start of {}", process.name()),
                seconds: START_PATIENCE.as_secs(),
                dir: dir.to_owned(),
            });
        }
        std::thread::sleep(POLL);
    }
}

fn public_keys(deposits: &[DepositEntry]) -> Result<Vec<[u8; 48]>, DevnetError> {
    let key = |deposit: &DepositEntry| {
        let text = deposit.pubkey.trim_start_matches("0x");
        hex::decode(text).ok()?.try_into().ok()
    };
    let keys: Option<Vec<_>> = deposits.iter().map(key).collect();
    keys.ok_or(DevnetError::Config { why: "a deposit has a public key that is not 48 bytes of hex" })
}

fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_are_known_to_fail_are_refused() {
        let electra = Config::electra;
        let cases = [
            (electra(), true),
            (Config::fulu(), true),
            (Config { slot_seconds: 1, ..electra() }, false),
            (Config { fork: Fork::Fulu, ..electra() }, false),
            (Config { filler_validators: 4, ..electra() }, false),
        ];
        for (config, expected) in cases {
            assert_eq!(config.check().is_ok(), expected, "{config:?}");
        }
    }
}
