//! Key generation across the privilege border: what the owner allows, what `dv-node` asks of the signer, and what it shows.
//!
//! On the signer's control socket the owner begins and discards a ceremony (`PUT`, `GET`, `DELETE` [`CEREMONY_PATH`]); `dv-node`
//! is no caller there. On the signing socket `dv-node` takes it through its rounds. The signer answers each round for one
//! set of messages only, deals the same however often it is asked, and signs nothing but what it works out from the
//! definition itself (decisions 0170 to 0173). Members are named by their place in the definition, from 0.

use serde::{Deserialize, Serialize};

use crate::{Problem, Sensitive, signer::ChainClock};

/// On the control socket: takes [`CeremonyConsent`], answers [`CeremonyStatus`].
pub const CEREMONY_PATH: &str = "/v1/ceremony";
/// On the signing socket: answers [`CeremonyStatus`].
pub const CEREMONY_STATUS_PATH: &str = "/v1/ceremony/status";
/// On the signing socket: takes [`DealRequest`], answers [`Dealt`].
pub const DEAL_PATH: &str = "/v1/ceremony/deal";
/// On the signing socket: takes [`KeepRequest`], answers [`CeremonyStatus`].
pub const KEEP_PATH: &str = "/v1/ceremony/keep";
/// On the signing socket: takes [`FinishRequest`], answers [`Made`].
pub const FINISH_PATH: &str = "/v1/ceremony/finish";
/// On the signing socket: takes [`PartialsRequest`], answers [`PartialsMade`].
pub const PARTIALS_PATH: &str = "/v1/ceremony/partials";
/// On the signing socket: takes [`ReleaseRequest`], answers [`CeremonyStatus`].
pub const RELEASE_PATH: &str = "/v1/ceremony/release";

/// The owner takes part in a ceremony. This alone lets the signer deal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CeremonyConsent {
    /// The cluster definition file, as JSON; left out for a cluster that exists.
    #[serde(default, skip_serializing_if = "serde_json::Value::is_null")]
    pub definition: serde_json::Value,
    /// More validators for a cluster that exists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adding: Option<Adding>,
    /// This box's identity: its compressed secp256k1 public key, hex. It says which member we are.
    pub identity: String,
    /// The chain that the new shares may sign for, `0x` hex; pinned for good. On public networks it must be theirs.
    pub genesis_validators_root: String,
    /// The chain's clock.
    pub chain: ChainClock,
    /// The chain, when it is not public.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<PrivateNetwork>,
    /// Share indices, from 1, of members whose software takes no sealed shares, such as Charon. The shares that are
    /// exchanged with them pass through this box's network process in the clear.
    #[serde(default)]
    pub unsealed: Vec<u8>,
}

/// Validators that a cluster is to have more. All members mean the same ones in the same order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Adding {
    /// The lock in force, as JSON.
    pub lock: serde_json::Value,
    /// The new validators.
    pub validators: Vec<AddedValidator>,
}

/// Where the rewards and the stake of a new validator go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddedValidator {
    /// `0x` address.
    pub fee_recipient: String,
    /// `0x` address.
    pub withdrawal: String,
}

/// A chain that is not public.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PrivateNetwork {
    /// Its name.
    pub name: String,
    /// Execution-layer chain id.
    pub chain_id: u64,
    /// Genesis, unix seconds, as members must agree on it: part of builder registrations.
    pub genesis_time: u64,
}

/// Where the signer's side of a ceremony is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CeremonyStatus {
    /// The ceremony, when there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ceremony: Option<CeremonyFacts>,
}

/// A ceremony in the signer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CeremonyFacts {
    /// Definition hash, `0x` hex.
    pub definition_hash: String,
    /// The X25519 key that shares for this box are to be sealed to, hex.
    pub seal_key: String,
    /// The members whose shares are kept.
    pub kept: Vec<usize>,
    /// The keys are made.
    pub finished: bool,
    /// Members whose shares the network process may see.
    pub unsealed: Vec<usize>,
}

/// First round: what is published, and a message for each other member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DealRequest {
    /// Definition hash, `0x` hex.
    pub definition_hash: String,
    /// The keys that members announced.
    pub seal_keys: Vec<MemberSealKey>,
}

/// The key that one member announced, with its identity's signature.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemberSealKey {
    /// Whose.
    pub member: usize,
    /// X25519 key, hex.
    pub key: String,
    /// 65-byte identity signature, hex.
    pub signature: String,
}

/// Answer to [`DealRequest`].
#[derive(Debug, Serialize, Deserialize)]
pub struct Dealt {
    /// `FrostRound1Casts`, hex.
    pub cast: String,
    /// A message for each other member.
    pub shares: Vec<MemberMessage>,
    /// The members whose shares are kept.
    pub kept: Vec<usize>,
}

/// A share message of or for one member: secret when it is not sealed.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemberMessage {
    /// Of or for whom.
    pub member: usize,
    /// `FrostRound1P2P`, hex.
    pub message: Sensitive,
}

/// A member's share arrived.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeepRequest {
    /// Definition hash, `0x` hex.
    pub definition_hash: String,
    /// The share.
    pub share: MemberMessage,
}

/// Everybody's first broadcast is here: check and add up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FinishRequest {
    /// Definition hash, `0x` hex.
    pub definition_hash: String,
    /// The minor version spoken: it says how broadcasts were signed.
    pub minor: u8,
    /// One for each member, in order.
    pub casts: Vec<MemberCast>,
}

/// A member's first broadcast.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemberCast {
    /// `FrostRound1Casts`, hex.
    pub value: String,
    /// Every member's 65-byte signature, in order, hex.
    pub signatures: Vec<String>,
}

/// Answer to [`FinishRequest`]: the new validators, in order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Made {
    /// The validators.
    pub validators: Vec<MadeValidator>,
}

/// A new validator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MadeValidator {
    /// Its key, `0x` hex.
    pub group_key: String,
    /// Every member's public share, in order, `0x` hex.
    pub public_shares: Vec<String>,
}

/// Partial signatures that a ceremony needs. No root is given: the signer works it out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PartialsRequest {
    /// Definition hash, `0x` hex.
    pub definition_hash: String,
    /// What is signed.
    pub what: CeremonySignature,
}

/// What a ceremony signs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum CeremonySignature {
    /// The deposit of the amount at this position, smallest first.
    Deposit(u16),
    /// Builder registrations.
    Registration,
    /// The lock hash, worked out from the definition, the new keys and these whole signatures.
    Lock {
        /// For each amount, one per validator, `0x` hex.
        deposits: Vec<Vec<String>>,
        /// One per validator, `0x` hex.
        registrations: Vec<String>,
    },
}

/// Answer to [`PartialsRequest`]: one signature per validator, in order, `0x` hex.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartialsMade {
    /// The signatures.
    pub signatures: Vec<String>,
}

/// The lock is complete: put the shares into service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReleaseRequest {
    /// Definition hash, `0x` hex.
    pub definition_hash: String,
    /// The lock file, as JSON.
    pub lock: serde_json::Value,
}

/// On `dv-node`'s control socket: takes [`KeyGeneration`], answers [`KeyGenerationStatus`]; `DELETE` discards the ceremony.
pub const DKG_PATH: &str = "/v1/dkg";
/// On `dv-node`'s control socket: answers [`KeyGenerationFiles`].
pub const DKG_FILES_PATH: &str = "/v1/dkg/files";

/// Take part in a ceremony. The signer must have the owner's consent before. Holds the identity key, hence no `Clone`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyGeneration {
    /// The cluster definition file, as JSON; left out for a cluster that exists.
    #[serde(default, skip_serializing_if = "serde_json::Value::is_null")]
    pub definition: serde_json::Value,
    /// More validators for a cluster that this box is in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adding: Option<Adding>,
    /// This node's secp256k1 identity key, 32 bytes in hex (`charon-enr-private-key`); empty for a cluster that exists, of which
    /// the box has it.
    pub identity_key: Sensitive,
    /// The minor version of Charon v1 to speak: that of the members who run Charon.
    #[serde(default = "default_minor")]
    pub minor: u8,
    /// Multiaddresses of the other members, each ending in `/p2p/<peer id>`. While a cluster gets validators, its members' nodes
    /// keep their own ports, so these are others: of a Hearth the next free one.
    pub peers: Vec<String>,
    /// Beacon nodes for the cluster afterwards; one that exists keeps its own.
    pub beacon_nodes: Vec<String>,
    /// Relays through which members without an address are reached, such as `https://4.relay.obol.dev`; left out, none
    /// for the ceremony and the usual ones for the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relays: Option<Vec<String>>,
}

fn default_minor() -> u8 {
    10
}

/// How far key generation is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KeyGenerationStatus {
    /// The ceremony, when there is or was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ceremony: Option<KeyGenerationProgress>,
}

/// One ceremony.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KeyGenerationProgress {
    /// Name of the cluster to be.
    pub name: String,
    /// Definition hash, `0x` hex.
    pub definition_hash: String,
    /// One word for where it is, such as `connecting` or `making_keys`.
    pub phase: String,
    /// Steps done, 0 to 8.
    pub step: i64,
    /// All members, in the order of the definition.
    pub members: Vec<KeyGenerationMember>,
    /// Why it cannot go on, or whom it waits for.
    pub problems: Vec<Problem>,
    /// The lock hash, once the keys are in service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lock_hash: Option<String>,
}

/// One member of a ceremony.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KeyGenerationMember {
    /// Share index, from 1.
    pub index: u8,
    /// A readable name derived from the peer id.
    pub name: String,
    /// The name its operator gave it.
    pub nickname: String,
    /// This box itself.
    pub is_self: bool,
    /// A connection is up.
    pub connected: bool,
    /// It has the same definition and version, and hears us.
    pub in_sync: bool,
    /// Steps it has done, 0 to 8.
    pub step: i64,
    /// Shares for it pass through nobody's network process in the clear.
    pub sealed: bool,
    /// The present step waits for it.
    pub waited_for: bool,
}

/// The files that a finished ceremony leaves: the lock and the deposits, by name. Nothing in them is secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyGenerationFiles {
    /// The files.
    pub files: Vec<NamedFile>,
}

/// One file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedFile {
    /// Its name, such as `deposit-data.json`.
    pub name: String,
    /// Its content.
    pub content: String,
}
