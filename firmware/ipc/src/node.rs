//! `dv-node`'s control socket: the cluster it serves, and what became of each duty.
//!
//! `GET /v1/status` answers [`NodeStatus`], `PUT /v1/cluster` takes [`ClusterSetup`], `GET /metrics` is for Prometheus.
//! A box may be in several clusters (decision 0230): `GET /v1/clusters` lists them ([`ClusterEntry`]), `POST` there joins
//! another one, `GET` and `DELETE /v1/clusters/<lock hash>` answer one's status and leave it, and what is said about
//! validators, such as exits, is also at `/v1/clusters/<lock hash>/...`. Without a lock hash the first cluster is meant.
//! Numbers are plain JSON numbers and keys are `0x` hex text: this is what the page shows, not what gets signed.

use serde::{Deserialize, Serialize};

use crate::{Problem, Sensitive};

/// Path of [`NodeStatus`] on the control socket.
pub const STATUS_PATH: &str = "/v1/status";
/// Path that takes [`ClusterSetup`].
pub const CLUSTER_PATH: &str = "/v1/cluster";
/// Path that answers a list of [`ClusterEntry`], and takes a [`ClusterSetup`] to join.
pub const CLUSTERS_PATH: &str = "/v1/clusters";
/// `GET /v1/setup` and, for one of several clusters, `/v1/clusters/<lock hash>/setup`: the [`ClusterSetup`] that it was joined with,
/// without the identity key. Another box that has this member's shares and identity key joins with it.
pub const SETUP_PATH: &str = "/v1/setup";
/// Path that takes a list of [`WantedExit`].
pub const EXITS_PATH: &str = "/v1/exits";
/// Path that takes [`crate::owner::ExitCancel`].
pub const EXITS_CANCEL_PATH: &str = "/v1/exits/cancel";
/// Path that answers [`ExitFiles`], and takes a member's partial exits as that member's box gave them out.
pub const EXIT_FILES_PATH: &str = "/v1/exits/files";
/// Path that takes [`DepositsAsked`] and answers [`DepositPlan`].
pub const DEPOSITS_PATH: &str = "/v1/deposits";
/// The most duties a status lists, newest first.
pub const MAX_DUTIES_SHOWN: usize = 128;

/// Makes this box a member of a cluster. Holds the node's identity key, hence no `Clone`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterSetup {
    /// The cluster lock file, as JSON.
    pub lock: serde_json::Value,
    /// This node's secp256k1 identity key, 32 bytes in hex (`charon-enr-private-key`). Empty when the signer got it in a Charon
    /// node's folder ([`crate::folder`]).
    pub identity_key: Sensitive,
    /// Beacon node addresses, the preferred one first.
    pub beacon_nodes: Vec<String>,
    /// Beacon nodes that are used only while none of the others can be. Absent: those that this cluster has here already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fallback_beacon_nodes: Option<Vec<String>>,
    /// Multiaddresses of the other members, each ending in `/p2p/<peer id>`. Empty: those that this cluster has here already.
    pub peers: Vec<String>,
    /// Relays through which members meet that cannot dial each other: web addresses or multiaddresses. Absent: those of
    /// Obol on public networks, none elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relays: Option<Vec<String>>,
    /// Who holds this member's key shares and signs with them.
    #[serde(default)]
    pub signing: Signing,
    /// What the blocks that this member proposes are like. Absent: as this cluster has it here already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proposals: Option<Proposals>,
    /// Whether the lock is published at the Obol API, and partial exits are exchanged through it: whoever runs that service then
    /// knows this cluster. Absent: as this cluster has it here already; nobody having said anything, it is not used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub obol_api: Option<bool>,
}

/// What the blocks that a member proposes are like.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Proposals {
    /// Whether builders' offers for blocks are taken, as all members of a cluster must.
    pub builder_api: bool,
    /// What blocks say: nothing of ours (the beacon node's own), one text for all validators, or one for each in the lock's order.
    pub graffiti: Vec<String>,
    /// Without the mark of the client behind it; the text may be 32 bytes long then instead of 28.
    pub graffiti_alone: bool,
}

impl Proposals {
    /// Whether nobody has set anything.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// Who signs for this member.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Signing {
    /// This box's own signer.
    #[default]
    BuiltIn,
    /// A stock validator client in its distributed mode, which holds the shares itself.
    ValidatorClient {
        /// Where the validator API listens for it. Whoever reaches this address reaches the beacon node too.
        listen: std::net::SocketAddr,
    },
}

/// One of the clusters that this box is in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClusterEntry {
    /// Hash of the cluster lock, `0x` hex: the cluster's name on this interface.
    pub lock_hash: String,
    /// The name the founders gave it; empty when its lock cannot be read.
    pub name: String,
    /// This box's share index in it, from 1.
    pub share_index: u8,
    /// Its place on this box, from 0.
    pub place: u8,
    /// Where this box listens for its members: the port is the configured one plus the place.
    pub listen: Vec<String>,
    /// Where it is in its life.
    pub state: NodeState,
    /// What is wrong, the worst first.
    pub problems: Vec<Problem>,
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
    /// Validators that shall leave the chain.
    #[serde(default)]
    pub exits: Vec<ExitStatus>,
}

/// An exit the owner has confirmed at the signer, for `dv-node` to ask for when its time has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WantedExit {
    /// The validator's public key, `0x` hex.
    pub validator: String,
    /// The epoch in the message.
    pub epoch: u64,
    /// When the signer may be asked, unix milliseconds.
    pub not_before_ms: u64,
}

/// How far an exit has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitStatus {
    /// The validator's public key, `0x` hex.
    pub validator: String,
    /// The epoch in the message.
    pub epoch: u64,
    /// How far it is.
    pub state: ExitState,
    /// Share indices whose partial signatures are here.
    #[serde(default)]
    pub partials_from: Vec<u8>,
    /// Partial signatures needed.
    pub needed: u8,
    /// Until when it can be cancelled, unix milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before_ms: Option<u64>,
    /// Why it does not go on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// How far an exit has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExitState {
    /// The owner can still cancel it.
    Waiting,
    /// The signer is asked.
    Asking,
    /// Other members want it; this box's owner has not confirmed it.
    AskedByOthers,
    /// This box has signed; more members are needed.
    Signed,
    /// Enough members have signed; it is on its way to the chain.
    Whole,
    /// A beacon node has taken it.
    Published,
}

/// Who pays what of each validator's stake.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DepositsAsked {
    /// What each member pays for one validator, in gwei, in operator order; empty: as the cluster's deposit amounts say.
    #[serde(default)]
    pub parts_gwei: Vec<u64>,
}

/// The deposits of a cluster, each member's part, and the files to send them with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DepositPlan {
    /// Name of the network, as in the files.
    pub network: String,
    /// Each member's part of every validator.
    pub parts: Vec<DepositPart>,
    /// The sum of the parts, for one validator, in gwei.
    pub total_gwei: u64,
    /// Where each validator's money goes.
    pub validators: Vec<DepositAddresses>,
    /// The deposit files, one for each amount.
    pub files: Vec<NamedFile>,
    /// What the owner must know before sending anything.
    pub warnings: Vec<String>,
}

/// One member's part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DepositPart {
    /// Share index, from 1.
    pub member: u8,
    /// Its name.
    pub name: String,
    /// What it pays for one validator, in gwei.
    pub total_gwei: u64,
    /// Which deposits to send for each validator.
    pub deposits: Vec<DepositShare>,
}

/// One deposit and how often to send it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DepositShare {
    /// The amount, in gwei.
    pub amount_gwei: u64,
    /// How often this member sends it for each validator.
    pub times: u32,
    /// The file with it.
    pub file: String,
}

/// Where a validator's money goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DepositAddresses {
    /// The validator's public key, `0x` hex.
    pub validator: String,
    /// Who may withdraw: a wallet, or a contract that splits.
    pub withdrawal_address: String,
    /// Who is paid for blocks.
    pub fee_recipient: String,
}

/// Exits as files, for members who exchange them otherwise.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ExitFiles {
    /// This box's partial exits, signed by its identity: what the Obol API takes, and the other members' boxes.
    pub partial: Option<serde_json::Value>,
    /// The whole exits.
    pub whole: Vec<NamedFile>,
    /// How the owner exchanges them with members whose nodes use the Obol API. The box makes them itself only
    /// when its owner has said so ([`ClusterSetup::obol_api`]).
    #[serde(default)]
    pub obol_api: Vec<ObolApiCall>,
}

/// A call of the Obol API for the owner to make.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObolApiCall {
    /// What it does.
    pub what: String,
    /// `GET`, `POST` or `DELETE`.
    pub method: String,
    /// The whole address.
    pub url: String,
    /// The `Authorization` header, where there is one. It opens nothing but this member's own exits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authorization: Option<String>,
}

/// A file to be kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NamedFile {
    /// Its name.
    pub name: String,
    /// Its content.
    pub content: serde_json::Value,
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
    /// Relays through which members can meet.
    #[serde(default)]
    pub relays: Vec<RelayStatus>,
}

/// One relay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayStatus {
    /// Its address as it was named.
    pub relay: String,
    /// Whether a connection is up.
    pub connected: bool,
    /// Whether members can reach this box through it.
    pub reserved: bool,
    /// Why they cannot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
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
    /// Whether it is reached only through a relay.
    #[serde(default)]
    pub relayed: bool,
    /// The version it told us.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Its clock minus ours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock_offset_ms: Option<i64>,
    /// The last ping, there and back, in microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ping_us: Option<u64>,
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
    /// It is used only while none of the others can be.
    #[serde(default)]
    pub is_fallback: bool,
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

/// Path of the [`NodeStatus`] of one cluster; `DELETE` leaves it.
pub fn cluster_path(lock_hash: &str) -> String {
    format!("{CLUSTERS_PATH}/{lock_hash}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_signs_is_one_of_two_and_anything_else_is_refused() {
        let read = |text: &str| serde_json::from_str::<Signing>(text);
        assert_eq!(read(r#""built_in""#).unwrap(), Signing::BuiltIn);
        let listen = "127.0.0.1:3600".parse().unwrap();
        let client = Signing::ValidatorClient { listen };
        assert_eq!(read(r#"{"validator_client":{"listen":"127.0.0.1:3600"}}"#).unwrap(), client);
        assert_eq!(read(&serde_json::to_string(&client).unwrap()).unwrap(), client);
        for wrong in [
            r#""validator_client""#,
            r#""both""#,
            "null",
            "{}",
            r#"{"validator_client":{}}"#,
            r#"{"validator_client":{"listen":"3600"}}"#,
            r#"{"validator_client":{"listen":"127.0.0.1:3600","also":"built_in"}}"#,
            r#"{"validator_client":{"listen":"127.0.0.1:3600"},"built_in":null}"#,
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
