//! The protobuf messages of Charon's protocols, written by hand from the field tables of the specification.
//!
//! Maps are `BTreeMap`s so that encoding is deterministic. Message-typed fields are `Option`s because protobuf makes
//! them so; [`Complete::complete`] is the structural check: a received message with an absent sub-message is dropped.

use std::collections::BTreeMap;

use prost::Message;

/// Prefix of every `Any` type URL.
const TYPE_URL_PREFIX: &str = "type.googleapis.com/";

/// `core.corepb.v1.Duty`: what is being agreed on or signed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Message)]
pub struct Duty {
    /// Slot of the duty.
    #[prost(uint64, tag = "1")]
    pub slot: u64,
    /// Number of the duty type, 1..=13.
    #[prost(int32, tag = "2")]
    pub r#type: i32,
}

/// `core.corepb.v1.UnsignedDataSet`: one unsigned object per validator of the cluster.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct UnsignedDataSet {
    /// Group public key (`0x` and 96 lower-case hex digits) to encoded unsigned data.
    #[prost(btree_map = "string, bytes", tag = "1")]
    pub set: BTreeMap<String, Vec<u8>>,
}

/// `core.corepb.v1.ParSignedData`: one partial signature with the object it signs.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct ParSignedData {
    /// The signed object, encoded per duty type.
    #[prost(bytes = "vec", tag = "1")]
    pub data: Vec<u8>,
    /// The signature once more; readers use the one inside `data`.
    #[prost(bytes = "vec", tag = "2")]
    pub signature: Vec<u8>,
    /// Share index of the signer, from 1.
    #[prost(int32, tag = "3")]
    pub share_idx: i32,
}

/// `core.corepb.v1.ParSignedDataSet`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct ParSignedDataSet {
    /// Group public key to partial signature.
    #[prost(btree_map = "string, message", tag = "1")]
    pub set: BTreeMap<String, ParSignedData>,
}

/// `core.corepb.v1.ParSigExMsg`: partial signatures of one duty, sent to every other member.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct ParSigExMsg {
    /// The duty signed for.
    #[prost(message, optional, tag = "1")]
    pub duty: Option<Duty>,
    /// The partial signatures.
    #[prost(message, optional, tag = "2")]
    pub data_set: Option<ParSignedDataSet>,
}

/// `google.protobuf.Any`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Message)]
pub struct Any {
    /// `type.googleapis.com/` and the full message name.
    #[prost(string, tag = "1")]
    pub type_url: String,
    /// The encoded message.
    #[prost(bytes = "vec", tag = "2")]
    pub value: Vec<u8>,
}

/// `google.protobuf.Timestamp`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Message)]
pub struct Timestamp {
    /// Seconds since 1970.
    #[prost(int64, tag = "1")]
    pub seconds: i64,
    /// Nanoseconds within the second.
    #[prost(int32, tag = "2")]
    pub nanos: i32,
}

/// `core.corepb.v1.QBFTMsg`: one signed vote.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct QbftMsg {
    /// 1 PRE-PREPARE, 2 PREPARE, 3 COMMIT, 4 ROUND-CHANGE, 5 DECIDED.
    #[prost(int64, tag = "1")]
    pub r#type: i64,
    /// The duty agreed on.
    #[prost(message, optional, tag = "2")]
    pub duty: Option<Duty>,
    /// Peer index of the author, from 0.
    #[prost(int64, tag = "3")]
    pub peer_idx: i64,
    /// Round, from 1.
    #[prost(int64, tag = "4")]
    pub round: i64,
    /// Round in which the author prepared a value; 0 for none.
    #[prost(int64, tag = "6")]
    pub prepared_round: i64,
    /// 65-byte signature over the root of this message without this field.
    #[prost(bytes = "vec", tag = "8")]
    pub signature: Vec<u8>,
    /// Hash of the value; 32 zero bytes for none.
    #[prost(bytes = "vec", tag = "11")]
    pub value_hash: Vec<u8>,
    /// Hash of the prepared value; 32 zero bytes for none.
    #[prost(bytes = "vec", tag = "12")]
    pub prepared_value_hash: Vec<u8>,
}

/// `core.corepb.v1.QBFTConsensusMsg`: a vote with what justifies it and the values whose hashes it names.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct QbftConsensusMsg {
    /// The vote.
    #[prost(message, optional, tag = "1")]
    pub msg: Option<QbftMsg>,
    /// The votes of others that justify it.
    #[prost(message, repeated, tag = "2")]
    pub justification: Vec<QbftMsg>,
    /// `UnsignedDataSet` or `PriorityResult`, one per distinct hash.
    #[prost(message, repeated, tag = "3")]
    pub values: Vec<Any>,
}

/// `PriorityMsg`: one member's ordered wishes.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct PriorityMsg {
    /// The info-sync duty this belongs to.
    #[prost(message, optional, tag = "1")]
    pub duty: Option<Duty>,
    /// One proposal per topic.
    #[prost(message, repeated, tag = "2")]
    pub topics: Vec<PriorityTopicProposal>,
    /// Base58 peer ID of the author.
    #[prost(string, tag = "3")]
    pub peer_id: String,
    /// 65-byte signature over the root of this message without this field.
    #[prost(bytes = "vec", tag = "4")]
    pub signature: Vec<u8>,
}

/// `PriorityTopicProposal`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct PriorityTopicProposal {
    /// Name of the topic, `Any(google.protobuf.Value)`.
    #[prost(message, optional, tag = "1")]
    pub topic: Option<Any>,
    /// Options, best first.
    #[prost(message, repeated, tag = "2")]
    pub priorities: Vec<Any>,
}

/// `PriorityResult`: what the cluster agrees on.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct PriorityResult {
    /// The messages the result was computed from.
    #[prost(message, repeated, tag = "1")]
    pub msgs: Vec<PriorityMsg>,
    /// One result per topic.
    #[prost(message, repeated, tag = "2")]
    pub topics: Vec<PriorityTopicResult>,
}

/// `PriorityTopicResult`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct PriorityTopicResult {
    /// Name of the topic.
    #[prost(message, optional, tag = "1")]
    pub topic: Option<Any>,
    /// Options with enough support, best first.
    #[prost(message, repeated, tag = "2")]
    pub priorities: Vec<PriorityScoredResult>,
}

/// `PriorityScoredResult`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct PriorityScoredResult {
    /// The option.
    #[prost(message, optional, tag = "1")]
    pub priority: Option<Any>,
    /// Its score.
    #[prost(int64, tag = "2")]
    pub score: i64,
}

/// `google.protobuf.Value`, of which only the string form is used.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct StringValue {
    /// The string, field 3 of `Value`; absent when the value is of another kind.
    #[prost(string, optional, tag = "3")]
    pub string_value: Option<String>,
}

/// `app.peerinfo.peerinfopb.v1.PeerInfo`, used as request and as response.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct PeerInfo {
    /// Version of the software, `v1.10.3`.
    #[prost(string, tag = "1")]
    pub charon_version: String,
    /// Lock hash of the cluster.
    #[prost(bytes = "vec", tag = "2")]
    pub lock_hash: Vec<u8>,
    /// When this was sent.
    #[prost(message, optional, tag = "3")]
    pub sent_at: Option<Timestamp>,
    /// 7 hex digits or `unknown`.
    #[prost(string, tag = "4")]
    pub git_hash: String,
    /// When the process started.
    #[prost(message, optional, tag = "5")]
    pub started_at: Option<Timestamp>,
    /// Whether the builder API is in use.
    #[prost(bool, tag = "6")]
    pub builder_api_enabled: bool,
    /// Name the operator gave the node, at most 32 characters.
    #[prost(string, tag = "7")]
    pub nickname: String,
    /// Name of the implementation; `charon` for the reference.
    #[prost(string, tag = "8")]
    pub dv_client: String,
}

/// Messages that have a name and so may travel inside an [`Any`].
pub trait Named: Message + Default {
    /// Full message name.
    const NAME: &'static str;

    /// This message as `Any`.
    fn to_any(&self) -> Any {
        Any { type_url: format!("{TYPE_URL_PREFIX}{}", Self::NAME), value: self.encode_to_vec() }
    }

    /// Whether an `Any` says it holds this message. Any prefix up to the last slash is accepted, as protobuf says.
    fn is_in(any: &Any) -> bool {
        any.type_url.rsplit('/').next() == Some(Self::NAME)
    }
}

impl Named for UnsignedDataSet {
    const NAME: &'static str = "core.corepb.v1.UnsignedDataSet";
}
impl Named for PriorityResult {
    const NAME: &'static str = "core.corepb.v1.PriorityResult";
}
impl Named for StringValue {
    const NAME: &'static str = "google.protobuf.Value";
}

impl StringValue {
    /// A string as `Any(google.protobuf.Value)`, the form of topics and priorities.
    pub fn any(text: &str) -> Any {
        Self { string_value: Some(text.to_owned()) }.to_any()
    }

    /// The string inside such an `Any`; `None` when it holds something else.
    pub fn text(any: &Any) -> Option<String> {
        if !Self::is_in(any) {
            return None;
        }
        Self::decode(any.value.as_slice()).ok()?.string_value
    }
}

/// The structural check of received messages: every mandatory sub-message is there, recursively.
pub trait Complete {
    /// Name of the first absent field, or `Ok`.
    fn complete(&self) -> Result<(), &'static str>;
}

impl Complete for QbftMsg {
    fn complete(&self) -> Result<(), &'static str> {
        self.duty.map(|_| ()).ok_or("duty")
    }
}

impl Complete for QbftConsensusMsg {
    fn complete(&self) -> Result<(), &'static str> {
        self.msg.as_ref().ok_or("msg")?.complete()?;
        self.justification.iter().try_for_each(Complete::complete)
    }
}

impl Complete for ParSigExMsg {
    fn complete(&self) -> Result<(), &'static str> {
        self.duty.ok_or("duty")?;
        self.data_set.as_ref().map(|_| ()).ok_or("data_set")
    }
}

impl Complete for PriorityMsg {
    fn complete(&self) -> Result<(), &'static str> {
        self.duty.ok_or("duty")?;
        self.topics.iter().try_for_each(|topic| topic.topic.as_ref().map(|_| ()).ok_or("topic"))
    }
}

impl Complete for PriorityResult {
    fn complete(&self) -> Result<(), &'static str> {
        self.msgs.iter().try_for_each(Complete::complete)?;
        self.topics.iter().try_for_each(|topic| {
            topic.topic.as_ref().ok_or("topic")?;
            topic
                .priorities
                .iter()
                .try_for_each(|scored| scored.priority.as_ref().map(|_| ()).ok_or("priority"))
        })
    }
}

impl Complete for PeerInfo {
    fn complete(&self) -> Result<(), &'static str> {
        Ok(()) // Its timestamps are marked optional; the client side checks them itself.
    }
}
