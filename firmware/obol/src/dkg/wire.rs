//! The protobuf messages of key generation, `dkg.dkgpb.v1` (obol spec 11.2), written by hand from its field tables.

use prost::Message;

use crate::wire::{Any, Complete, Named, Timestamp};

/// `MsgSync`: where a member is in the ceremony, sent ten times a second.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct MsgSync {
    /// When it was sent.
    #[prost(message, optional, tag = "1")]
    pub timestamp: Option<Timestamp>,
    /// DER signature of the sender's identity over SHA-256 of the ceremony's hash.
    #[prost(bytes = "vec", tag = "2")]
    pub hash_signature: Vec<u8>,
    /// The sender is done.
    #[prost(bool, tag = "3")]
    pub shutdown: bool,
    /// Minor version, such as `v1.10`.
    #[prost(string, tag = "4")]
    pub version: String,
    /// The step it has reached.
    #[prost(int64, tag = "5")]
    pub step: i64,
    /// The name its operator gave it.
    #[prost(string, tag = "6")]
    pub nickname: String,
    /// Our own extension, which others skip: the key that shares for this member are sealed to (decision 0171).
    #[prost(bytes = "vec", tag = "20000")]
    pub seal_key: Vec<u8>,
    /// The sender's identity signature over that key and this ceremony.
    #[prost(bytes = "vec", tag = "20001")]
    pub seal_key_signature: Vec<u8>,
    /// Our own extension too: the sender drops what it is told a second time. The reference counts it twice.
    #[prost(bool, tag = "20002")]
    pub drops_repeats: bool,
}

/// `MsgSyncResponse`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct MsgSyncResponse {
    /// The request's timestamp.
    #[prost(message, optional, tag = "1")]
    pub sync_timestamp: Option<Timestamp>,
    /// Why the ceremony cannot go on; empty when it can.
    #[prost(string, tag = "2")]
    pub error: String,
}

/// `BCastSigRequest`: please sign that you have seen this.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct BCastSigRequest {
    /// Identifier of the message.
    #[prost(string, tag = "1")]
    pub id: String,
    /// The message.
    #[prost(message, optional, tag = "3")]
    pub message: Option<Any>,
}

/// `BCastSigResponse`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct BCastSigResponse {
    /// Identifier of the message.
    #[prost(string, tag = "1")]
    pub id: String,
    /// 65-byte identity signature over the message's hash.
    #[prost(bytes = "vec", tag = "2")]
    pub signature: Vec<u8>,
}

/// `BCastMessage`: a message that everybody signed.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct BCastMessage {
    /// Identifier of the message.
    #[prost(string, tag = "1")]
    pub id: String,
    /// The message.
    #[prost(message, optional, tag = "2")]
    pub message: Option<Any>,
    /// One identity signature per operator, in order.
    #[prost(bytes = "vec", repeated, tag = "3")]
    pub signatures: Vec<Vec<u8>>,
}

/// `FrostMsgKey`: which validator, from whom, to whom.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Message)]
pub struct FrostMsgKey {
    /// Position of the validator, from 0.
    #[prost(uint32, tag = "1")]
    pub val_idx: u32,
    /// Share index of the sender.
    #[prost(uint32, tag = "2")]
    pub source_id: u32,
    /// Share index of the receiver; 0 for everybody.
    #[prost(uint32, tag = "3")]
    pub target_id: u32,
}

/// `FrostRound1Cast`: commitments and proof for one validator.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct FrostRound1Cast {
    /// Which validator, from whom.
    #[prost(message, optional, tag = "1")]
    pub key: Option<FrostMsgKey>,
    /// The proof's response.
    #[prost(bytes = "vec", tag = "2")]
    pub wi: Vec<u8>,
    /// The proof's challenge.
    #[prost(bytes = "vec", tag = "3")]
    pub ci: Vec<u8>,
    /// The commitments, the constant term's first.
    #[prost(bytes = "vec", repeated, tag = "4")]
    pub commitments: Vec<Vec<u8>>,
}

/// `FrostRound1Casts`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct FrostRound1Casts {
    /// One per validator.
    #[prost(message, repeated, tag = "1")]
    pub casts: Vec<FrostRound1Cast>,
}

/// `FrostRound1ShamirShare`. Secret: from enough of these follows a key.
#[derive(Clone, PartialEq, Eq, Message)]
#[prost(skip_debug)]
pub struct FrostRound1ShamirShare {
    /// Which validator, from whom, to whom.
    #[prost(message, optional, tag = "1")]
    pub key: Option<FrostMsgKey>,
    /// Share index of the receiver once more.
    #[prost(uint32, tag = "2")]
    pub id: u32,
    /// The value, 32 bytes big-endian.
    #[prost(bytes = "vec", tag = "3")]
    pub value: Vec<u8>,
}

/// The value is not printed.
impl std::fmt::Debug for FrostRound1ShamirShare {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "FrostRound1ShamirShare({:?}, not shown)", self.key)
    }
}

/// `FrostRound1P2P`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct FrostRound1P2P {
    /// One per validator; empty when they are sealed.
    #[prost(message, repeated, tag = "1")]
    pub shares: Vec<FrostRound1ShamirShare>,
    /// Our own extension: the encapsulated key of the sealed shares (decision 0171).
    #[prost(bytes = "vec", tag = "20000")]
    pub sealed_enc: Vec<u8>,
    /// An encoded `FrostRound1P2P`, sealed to the receiver's key.
    #[prost(bytes = "vec", tag = "20001")]
    pub sealed: Vec<u8>,
}

/// `FrostRound2Cast`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct FrostRound2Cast {
    /// Which validator, from whom.
    #[prost(message, optional, tag = "1")]
    pub key: Option<FrostMsgKey>,
    /// The validator's key as the sender sees it.
    #[prost(bytes = "vec", tag = "2")]
    pub verification_key: Vec<u8>,
    /// The sender's public share.
    #[prost(bytes = "vec", tag = "3")]
    pub vk_share: Vec<u8>,
}

/// `FrostRound2Casts`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct FrostRound2Casts {
    /// One per validator.
    #[prost(message, repeated, tag = "1")]
    pub casts: Vec<FrostRound2Cast>,
}

/// `MsgNodeSig`: an operator's signature over the lock hash.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct MsgNodeSig {
    /// 65-byte identity signature, or four bytes that mean none.
    #[prost(bytes = "vec", tag = "1")]
    pub signature: Vec<u8>,
    /// Position of the operator, from 0.
    #[prost(uint32, tag = "2")]
    pub peer_index: u32,
}

impl Named for FrostRound1Casts {
    const NAME: &'static str = "dkg.dkgpb.v1.FrostRound1Casts";
}
impl Named for FrostRound2Casts {
    const NAME: &'static str = "dkg.dkgpb.v1.FrostRound2Casts";
}
impl Named for MsgNodeSig {
    const NAME: &'static str = "dkg.dkgpb.v1.MsgNodeSig";
}

impl Complete for MsgSync {
    fn complete(&self) -> Result<(), &'static str> {
        self.timestamp.map(|_| ()).ok_or("timestamp")
    }
}
impl Complete for BCastSigRequest {
    fn complete(&self) -> Result<(), &'static str> {
        self.message.as_ref().map(|_| ()).ok_or("message")
    }
}
impl Complete for BCastMessage {
    fn complete(&self) -> Result<(), &'static str> {
        self.message.as_ref().map(|_| ()).ok_or("message")
    }
}
impl Complete for FrostRound1Casts {
    fn complete(&self) -> Result<(), &'static str> {
        self.casts.iter().try_for_each(|cast| cast.key.map(|_| ()).ok_or("key"))
    }
}
impl Complete for FrostRound1P2P {
    fn complete(&self) -> Result<(), &'static str> {
        self.shares.iter().try_for_each(|share| share.key.map(|_| ()).ok_or("key"))
    }
}
impl Complete for FrostRound2Casts {
    fn complete(&self) -> Result<(), &'static str> {
        self.casts.iter().try_for_each(|cast| cast.key.map(|_| ()).ok_or("key"))
    }
}
