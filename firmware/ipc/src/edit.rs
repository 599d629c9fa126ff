//! Changing a cluster across the privilege border: what the owner allows, and what `dv-node` asks of the signer.
//!
//! On the signer's control socket the owner allows one edit and takes it back (`PUT`, `GET`, `DELETE` [`EDIT_PATH`]);
//! `dv-node` is no caller there. On the signing socket `dv-node` carries it through: begin, keys, steps, prepare, dry run,
//! check, commit. The signer works out itself who takes part and what the new lock says, deals only to keys that the members'
//! identities signed, and gives the old shares up only for a lock that every new share has signed (decisions 0180 to
//! 0182). Members are named by their place in the edit, from 0.

use serde::{Deserialize, Serialize};

use crate::signer::ChainClock;

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
}

/// What this member announces.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EditBegun {
    /// Our ephemeral key, `0x` hex.
    pub public_key: String,
    /// Our present public shares, one per validator; none when we join.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shares: Option<Vec<String>>,
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
