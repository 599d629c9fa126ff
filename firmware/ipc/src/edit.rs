//! Changing a cluster across the privilege border: what the owner allows, and what `dv-node` asks of the signer.
//!
//! On the signer's control socket the owner allows one edit and takes it back by its name (`PUT`, `GET`, `DELETE` [`EDIT_PATH`]);
//! `dv-node` is no caller there. On the signing socket `dv-node` carries it through: begin, keys, steps, prepare, dry run,
//! check, commit. The signer works out itself who takes part and what the new lock says, deals only to keys that the members'
//! identities signed, and gives the old shares up only for a lock that every new share has signed (decisions 0180 to
//! 0182). Members are named by their place in the edit, from 0.

use serde::{Deserialize, Serialize};

use crate::dkg::KeyGenerationMember;
use crate::signer::ChainClock;
use crate::{Problem, Sensitive};

/// On the control socket: takes [`EditConsent`], answers [`EditStatus`].
pub const EDIT_PATH: &str = "/v1/edit";
/// On the signing socket: answers [`EditStatus`].
pub const EDIT_STATUS_PATH: &str = "/v1/edit/status";
/// On the signing socket: answers [`EditBegun`].
pub const EDIT_BEGIN_PATH: &str = "/v1/edit/begin";
/// On the signing socket: takes [`EditKeys`], answers [`EditStatus`].
pub const EDIT_KEYS_PATH: &str = "/v1/edit/keys";
/// On the signing socket: takes [`EditStep`], answers [`EditStepped`].
pub const EDIT_STEP_PATH: &str = "/v1/edit/step";
/// On the signing socket: answers [`EditPrepared`].
pub const EDIT_PREPARE_PATH: &str = "/v1/edit/prepare";
/// On the signing socket: takes [`EditDryRun`], answers [`EditPartials`].
pub const EDIT_DRY_RUN_PATH: &str = "/v1/edit/dry-run";
/// On the signing socket: takes [`EditCheck`], answers [`EditChecked`].
pub const EDIT_CHECK_PATH: &str = "/v1/edit/check";
/// On the signing socket: takes [`EditCommit`], answers [`EditCommitted`].
pub const EDIT_COMMIT_PATH: &str = "/v1/edit/commit";

/// The owner takes part in an edit. This alone lets the signer deal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EditConsent {
    /// The cluster lock in force, as JSON.
    pub lock: serde_json::Value,
    /// What is changed: `recreate`, `add`, `remove` or `replace`, as `cluster::edit::Edit` reads it.
    pub edit: serde_json::Value,
    /// This box's identity: its compressed secp256k1 public key, hex.
    pub identity: String,
    /// The minor version of v1 whose messages the members speak.
    pub minor: u8,
    /// The chain, `0x` hex. For shares that are held already it must be theirs.
    pub genesis_validators_root: String,
    /// The chain's clock; likewise.
    pub chain: ChainClock,
    /// Name and chain id of a chain that is not public.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<EditNetwork>,
    /// Share indices, from 1 and of the lock in force, of members whose software cannot vouch for its ephemeral key with its
    /// old shares, such as Charon: for them their operator's identity is enough (decision 0220).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unvouched: Vec<u8>,
}

/// A chain that is not public.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EditNetwork {
    /// Its name.
    pub name: String,
    /// Execution-layer chain id.
    pub chain_id: u64,
}

/// How far an edit is in this signer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EditStage {
    /// No edit is under way.
    None,
    /// The owner has agreed.
    Allowed,
    /// Shares are being dealt.
    Dealing,
    /// The new shares wait beside the old ones, which still sign.
    Prepared,
    /// The old shares sign no more; the new ones wait for the complete lock.
    Frozen,
}

/// What the signer says of an edit. Nothing in it is secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EditStatus {
    /// How far it is.
    pub stage: EditStage,
    /// Hash of the lock that will be in force, once it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lock_hash: Option<String>,
    /// Validators whose new shares are dealt.
    pub dealt: usize,
    /// Validators of the cluster.
    pub validators: usize,
    /// What the owner can take back, each by its name: the change in hand, and those that old shares have vouched for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub open: Vec<OpenEdit>,
}

/// A change that can be given up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenEdit {
    /// What it is given up by: hash of the lock in force, `0x` hex. Where that was not kept, the old share's public key, or the
    /// hash of the lock for which new shares wait; of what the node cannot read any more, [`UNREADABLE_EDIT`].
    pub name: String,
    /// Validators of that cluster.
    pub validators: usize,
    /// One of them, `0x` hex, by which an owner knows the cluster too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validator: Option<String>,
    /// This box has promised to join: others may have the complete lock, and count on its share. It is given up only with
    /// [`FORGO_CONFIRMATION`].
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub promised: bool,
}

/// What the owner types to give up the shares with which this box has promised to join a cluster. If it is not so, the cluster has
/// lost a member for good; where those that stayed are fewer than its threshold, and all others do this, the validators.
pub const FORGO_CONFIRMATION: &str = "no member has the new lock";

/// Name of a change that `dv-node` keeps and cannot read any more. The signer has none of that name.
pub const UNREADABLE_EDIT: &str = "unreadable";

/// What this member announces.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EditBegun {
    /// Our ephemeral key, `0x` hex.
    pub public_key: String,
    /// Our present public shares, one per validator; none when we join.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shares: Option<Vec<String>>,
    /// What our old shares signed to vouch for the key, `0x` hex; none when we join.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub voucher: Option<String>,
    /// Our place among the members.
    pub place: usize,
}

/// What all members announced, in their order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EditKeys {
    /// One for each member, our own too.
    pub members: Vec<EditKey>,
}

/// A member's ephemeral key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EditKey {
    /// The key, `0x` hex.
    pub public_key: String,
    /// The member's identity signature of its announcement, hex: the one that its broadcast carried.
    pub signature: String,
    /// What its old shares signed to vouch for the key, `0x` hex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub voucher: Option<String>,
}

/// Which messages a bundle is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EditBundleKind {
    /// Commitments and shares.
    Deal,
    /// What a receiver says of them.
    Response,
    /// Answers to complaints.
    Justification,
}

/// One event of the resharing of one validator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum EditEvent {
    /// Deal.
    Start,
    /// A bundle came from a member.
    Received {
        /// Its place.
        from: usize,
        /// Which protocol it came on.
        kind: EditBundleKind,
        /// The message as it came, hex.
        bundle: String,
    },
    /// The time of the phase is over.
    Timeout,
}

/// An event and the validator it is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EditStep {
    /// Position of the validator in the lock.
    pub validator: usize,
    /// What happened.
    pub event: EditEvent,
}

/// A bundle for all other members.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EditBundle {
    /// Which protocol carries it.
    pub kind: EditBundleKind,
    /// The message, hex.
    pub bundle: String,
}

/// What came of an event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EditStepped {
    /// To be sent to all other members.
    pub send: Vec<EditBundle>,
    /// Whether a new phase began, so that its time starts anew.
    pub new_phase: bool,
    /// What members did wrong, in words.
    pub accused: Vec<String>,
    /// Whether this validator's new share is there.
    pub finished: bool,
    /// Then the new public shares of all, by new share index minus one, `0x` hex.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub public_shares: Vec<String>,
}

/// The new shares are sealed beside the old ones.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EditPrepared {
    /// The new lock, not signed yet, as JSON.
    pub lock: serde_json::Value,
    /// Its hash.
    pub lock_hash: String,
}

/// Sign the new lock with the new shares. From here on the old ones sign no vote.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EditDryRun {
    /// Hash of the new lock.
    pub lock_hash: String,
}

/// A validator's partial signature of the new lock's hash.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EditPartial {
    /// The validator's key, `0x` hex.
    pub validator: String,
    /// The signature, `0x` hex.
    pub signature: String,
}

/// Our partial signatures.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EditPartials {
    /// One per validator.
    pub partials: Vec<EditPartial>,
}

/// The dry run's outcome, to be checked: all new members' partial signatures.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EditCheck {
    /// The new lock as [`EditPrepared`] has it.
    pub lock: serde_json::Value,
    /// By new share index minus one.
    pub members: Vec<Vec<EditPartial>>,
}

/// Every new share signs, and they make the validators' signatures together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EditChecked {
    /// The lock's aggregate, `0x` hex.
    pub signature_aggregate: String,
}

/// Which change the owner gives up, in the query of `DELETE` [`EDIT_PATH`] and [`CLUSTER_EDIT_PATH`]. Without it nothing is
/// given up: what there is may be another cluster's, whose members count on it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EditDiscard {
    /// [`OpenEdit::name`], which mostly is the hash of the lock in force that it would change, `0x` hex.
    #[serde(default)]
    pub lock_hash: Option<String>,
    /// [`FORGO_CONFIRMATION`], typed, where this box has promised to join ([`OpenEdit::promised`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirm: Option<String>,
}

impl EditDiscard {
    /// Whether the owner says that a promise to join can be given up.
    pub fn is_confirmed(&self) -> bool {
        self.confirm.as_deref().is_some_and(|typed| typed.trim().to_lowercase() == FORGO_CONFIRMATION)
    }

    /// The name, if it is one: no other text goes into a path.
    pub fn name(&self) -> Option<&str> {
        self.lock_hash.as_deref().filter(|name| *name == UNREADABLE_EDIT || is_hex_name(name))
    }
}

fn is_hex_name(name: &str) -> bool {
    let is_hex = |digits: &str| digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    matches!(name.len(), 66 | 98) && name.strip_prefix("0x").is_some_and(is_hex)
}

/// The name of a change that the node keeps, by what its lock says that its hash is.
pub fn edit_name(lock_hash: &str) -> &str {
    if is_hex_name(lock_hash) { lock_hash } else { UNREADABLE_EDIT }
}

/// Where the owner gives up what has this name in the signer.
pub fn edit_discard_path(name: &str) -> String {
    format!("{EDIT_PATH}?lock_hash={name}")
}

/// The same with the owner's word that a promise to join can be given up.
pub fn edit_forgo_path(name: &str) -> String {
    format!("{}&confirm={}", edit_discard_path(name), FORGO_CONFIRMATION.replace(' ', "%20"))
}

/// Where the owner gives up what has this name in the node.
pub fn cluster_edit_discard_path(name: &str) -> String {
    format!("{CLUSTER_EDIT_PATH}?lock_hash={name}")
}

/// Where the node is told that its owner has given up in the signer what it had promised to join with. It asks the signer itself.
pub fn cluster_edit_forgo_path(name: &str) -> String {
    format!("{}&confirm={}", cluster_edit_discard_path(name), FORGO_CONFIRMATION.replace(' ', "%20"))
}

/// What is to be given up has no name.
pub fn edit_which(open: &[OpenEdit]) -> Problem {
    let names: Vec<&str> = open.iter().map(|open| open.name.as_str()).collect();
    let what = match names.as_slice() {
        [] => "It is not said which change of a cluster is given up, and none is open here.".to_owned(),
        names => {
            format!("It is not said which change of a cluster is given up. Open are: {}.", names.join(", "))
        }
    };
    Problem::new("edit_which", what, "Say which of them you give up, by that name.")
}

/// Give the old shares up.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EditCommit {
    /// The new lock with all its signatures.
    pub lock: serde_json::Value,
}

/// The new shares are in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EditCommitted {
    /// Their public keys.
    pub shares: Vec<String>,
    /// The old ones, which are gone.
    pub retired: Vec<String>,
    /// The first epoch that the new shares vote in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub begins_in_epoch: Option<u64>,
}

/// On `dv-node`'s control socket: takes [`ClusterEdit`], answers [`ClusterEditStatus`]; `DELETE` with [`EditDiscard`] in its query
/// gives the change up that has this name, if the node keeps it.
pub const CLUSTER_EDIT_PATH: &str = "/v1/cluster/edit";
/// On `dv-node`'s control socket: gives the complete lock of the last change as [`EditCommit`], and takes one from another
/// member, which brings a change to its end when the others are gone.
pub const CLUSTER_EDIT_LOCK_PATH: &str = "/v1/cluster/edit/lock";

/// Take part in a change of the cluster. The signer must have the owner's consent before. Until the change is over, or given
/// up after a quarter of an hour, this box does no duties. May hold the identity key, hence no `Clone`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterEdit {
    /// The cluster lock in force, as JSON.
    pub lock: serde_json::Value,
    /// What is changed, as in [`EditConsent`].
    pub edit: serde_json::Value,
    /// The identity key of a box that joins; a member uses the one that it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity_key: Option<Sensitive>,
    /// The minor version of v1 whose messages the members speak.
    #[serde(default = "default_minor")]
    pub minor: u8,
    /// Multiaddresses of the other members, each ending in `/p2p/<peer id>`: those that join, and those whose address is
    /// not known yet. A member knows the others' from its cluster.
    pub peers: Vec<String>,
    /// Relays; left out, those of the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relays: Option<Vec<String>>,
    /// Beacon nodes of a box that joins; a member keeps those that it has.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub beacon_nodes: Vec<String>,
}

fn default_minor() -> u8 {
    10
}

/// How far a change of the cluster is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClusterEditStatus {
    /// The change, when there is or was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub edit: Option<ClusterEditProgress>,
}

/// One change.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClusterEditProgress {
    /// Name of the cluster.
    pub name: String,
    /// Hash of the lock that is changed, `0x` hex.
    pub lock_hash: String,
    /// One word for where it is: `connecting`, `dealing`, `prepared`, `dry_run`, `changing`, `leaving`, `done`, `failed`.
    pub phase: String,
    /// Steps done, 0 to 6.
    pub step: i64,
    /// Validators whose new shares are dealt.
    pub dealt: usize,
    /// Validators of the cluster.
    pub validators: usize,
    /// The old shares may be silent already: nothing ends this change but the complete lock.
    pub promised: bool,
    /// Everybody that takes part: the new members in their order, then those that leave. `sealed` says that its signer
    /// vouched for the key that its share is dealt to.
    pub members: Vec<KeyGenerationMember>,
    /// Why it does not go on, or what to do.
    pub problems: Vec<Problem>,
    /// Hash of the new lock once it is in force here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new_lock_hash: Option<String>,
}
