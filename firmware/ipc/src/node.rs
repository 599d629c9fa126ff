//! `dv-node`'s control socket: the cluster it serves, and what became of each duty.
//!
//! `GET /v1/status` answers [`NodeStatus`], `PUT /v1/cluster` takes [`ClusterSetup`], `GET /metrics` is for Prometheus.
//! Numbers are plain JSON numbers and keys are `0x` hex text: this is what the page shows, not what gets signed.

use serde::{Deserialize, Serialize};

use crate::{Problem, Sensitive};

/// Path of [`NodeStatus`] on the control socket.
pub const STATUS_PATH: &str = "/v1/status";
/// Path that takes [`ClusterSetup`].
pub const CLUSTER_PATH: &str = "/v1/cluster";
/// The most duties a status lists, newest first.
pub const MAX_DUTIES_SHOWN: usize = 128;

/// Makes this box a member of a cluster. Holds the node's identity key, hence no `Clone`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterSetup {
    /// The cluster lock file, as JSON.
    pub lock: serde_json::Value,
    /// This node's secp256k1 identity key, 32 bytes in hex (`charon-enr-private-key`).
    pub identity_key: Sensitive,
    /// Beacon node addresses, the preferred one first.
    pub beacon_nodes: Vec<String>,
    /// Multiaddresses of the other members, each ending in `/p2p/<peer id>`.
    pub peers: Vec<String>,
}

/// All that `dv-node` tells the page.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Version of the software.
    pub version: String,
    /// Where the node is in its life.
    pub state: NodeState,
    /// What is wrong, the worst first.
    pub problems: Vec<Problem>,
    /// The cluster, once it is set up.
    pub cluster: Option<ClusterStatus>,
    /// The chain, once a beacon node has answered.
    pub chain: Option<ChainStatus>,
    /// The last duties, newest first, at most [`MAX_DUTIES_SHOWN`].
    pub duties: Vec<DutyRecord>,
    /// The box's clock.
    pub clock: ClockStatus,
}

/// Where the node is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeState {
    /// No cluster has been set up.
    WaitingForCluster,
    /// A cluster is known; peers or the beacon node are not there yet.
    Starting,
    /// Duties are being done.
    Running,
    /// Duties are refused on purpose; `problems` says why.
    Halted,
}

/// The cluster as its lock describes it, and who of it can be reached.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClusterStatus {
    /// The name the founders gave it.
    pub name: String,
    /// Hash of the cluster lock, `0x` hex.
    pub lock_hash: String,
    /// Partial signatures needed for a whole one.
    pub threshold: u8,
    /// This box's share index, from 1.
    pub share_index: u8,
    /// All members, in the order of the lock.
    pub operators: Vec<OperatorStatus>,
    /// All validators, in the order of the lock.
    pub validators: Vec<ValidatorStatus>,
}

/// One member of the cluster.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OperatorStatus {
    /// Share index, from 1.
    pub index: u8,
    /// A readable name derived from the peer id.
    pub name: String,
    /// The libp2p peer id.
    pub peer_id: String,
    /// Whether this is the box itself.
    pub is_self: bool,
    /// Whether a connection is up.
    pub connected: bool,
    /// The address it was last reached at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// The version it told us.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Its clock minus ours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock_offset_ms: Option<i64>,
    /// When it was last heard, unix milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_seen_ms: Option<u64>,
}

/// One distributed validator.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ValidatorStatus {
    /// The validator's public key, `0x` hex.
    pub group_public_key: String,
    /// The public key of this box's share of it, `0x` hex.
    pub pubshare: String,
    /// Its index on the beacon chain, once it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<u64>,
    /// The beacon API's word for its state, such as `active_ongoing`, or `unknown`.
    pub status: String,
}

/// The chain as the beacon nodes tell it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ChainStatus {
    /// The current slot.
    pub slot: u64,
    /// The current epoch.
    pub epoch: u64,
    /// Length of a slot.
    pub slot_ms: u64,
    /// Slots in an epoch.
    pub slots_per_epoch: u64,
    /// When the chain began, unix seconds.
    pub genesis_time: u64,
    /// Name of the network, as the beacon node's `CONFIG_NAME` has it.
    pub network: String,
    /// The beacon nodes in use, the preferred one first.
    pub beacon_nodes: Vec<BeaconNodeStatus>,
}

/// One beacon node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BeaconNodeStatus {
    /// Its address.
    pub url: String,
    /// Whether it can be used.
    pub state: BeaconNodeState,
    /// The version it reports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Slots it is behind the head.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sync_distance: Option<u64>,
    /// Why it cannot be used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// Whether a beacon node can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BeaconNodeState {
    /// Not asked yet.
    Unknown,
    /// Synced and on our chain.
    Ready,
    /// On our chain and behind.
    Syncing,
    /// It follows another chain; never used.
    WrongChain,
    /// It does not answer.
    Unreachable,
}

/// What became of one duty.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DutyRecord {
    /// The duty's slot.
    pub slot: u64,
    /// Which kind of duty.
    pub kind: DutyKind,
    /// How many of the cluster's validators it was for.
    pub validators: u32,
    /// How it ended.
    pub outcome: DutyOutcome,
    /// Why it was missed; exactly one reason for a missed duty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<DutyReason>,
    /// The agreement's round that decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decided_round: Option<u64>,
    /// Share index of that round's leader.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader: Option<u8>,
    /// Share indices whose partial signatures arrived.
    #[serde(default)]
    pub partials_from: Vec<u8>,
    /// When the whole signature was published, from the slot's start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub published_ms_into_slot: Option<u64>,
}

/// The kinds of duty a cluster has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DutyKind {
    /// Vote for a head and checkpoints.
    Attester,
    /// Propose a block.
    Proposer,
    /// Sign the randomness reveal for a proposal.
    Randao,
    /// Prove selection as aggregator.
    PrepareAggregator,
    /// Publish an aggregate.
    Aggregator,
    /// Sign the head for the sync committee.
    SyncMessage,
    /// Prove selection as sync-committee aggregator.
    PrepareSyncContribution,
    /// Publish a sync-committee contribution.
    SyncContribution,
    /// Register with block builders.
    BuilderRegistration,
    /// Leave the chain.
    Exit,
}

/// How a duty ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DutyOutcome {
    /// Still running.
    Pending,
    /// Published.
    Done,
    /// Not published; `reason` says why.
    Missed,
}

/// Why a duty was missed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DutyReason {
    /// Stable word, such as `no_quorum`.
    pub code: String,
    /// The part it failed in: `beacon`, `qbft`, `signer`, `peers`, `clock`.
    pub component: String,
    /// For a person.
    pub message: String,
}

/// The box's clock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockStatus {
    /// Whether it can be trusted.
    pub state: ClockState,
    /// Ours minus the reference, when known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset_ms: Option<i64>,
}

/// Whether the clock can be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClockState {
    /// Not known yet.
    Unknown,
    /// Within bounds.
    Synchronised,
    /// No source of time.
    Unsynchronised,
    /// It jumped, or is off by more than we allow.
    Stepped,
}
