//! The protobuf messages of Pedersen's key generation and of resharing (obol spec 11.2), written by hand from its field
//! tables.

use prost::Message;

use crate::wire::Named;

/// `NodePubKeyShares`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct NodePubKeyShares {
    /// The sender's present public shares, one per validator.
    #[prost(bytes = "vec", repeated, tag = "1")]
    pub public_key_shares: Vec<Vec<u8>>,
}

/// `NodePubKeyMessage`: a member's ephemeral key for this ceremony.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct NodePubKeyMessage {
    /// Definition hash.
    #[prost(bytes = "vec", tag = "1")]
    pub session_id: Vec<u8>,
    /// The ephemeral key.
    #[prost(bytes = "vec", tag = "2")]
    pub public_key: Vec<u8>,
    /// Absent in a key generation and for members that join.
    #[prost(message, optional, tag = "3")]
    pub shares: Option<NodePubKeyShares>,
    /// Our own extension, which others skip: the sender's present shares vouch for the key (decision 0220).
    #[prost(bytes = "vec", tag = "20000")]
    pub voucher: Vec<u8>,
}

/// `ValidatorPubKeyShareMessage`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct ValidatorPubKeyShareMessage {
    /// Definition hash.
    #[prost(bytes = "vec", tag = "1")]
    pub session_id: Vec<u8>,
    /// The sender's new public share; empty when it leaves.
    #[prost(bytes = "vec", tag = "2")]
    pub public_key_share: Vec<u8>,
}

/// `PedersenDeal`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct PedersenDeal {
    /// The receiver, from 0.
    #[prost(uint32, tag = "1")]
    pub share_index: u32,
    /// The share, encrypted.
    #[prost(bytes = "vec", tag = "2")]
    pub encrypted_share: Vec<u8>,
}

/// `PedersenDealBundle`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct PedersenDealBundle {
    /// The dealer, from 0.
    #[prost(uint32, tag = "1")]
    pub dealer_index: u32,
    /// The shares.
    #[prost(message, repeated, tag = "2")]
    pub deals: Vec<PedersenDeal>,
    /// The commitments.
    #[prost(bytes = "vec", repeated, tag = "3")]
    pub public: Vec<Vec<u8>>,
    /// The validator's nonce.
    #[prost(bytes = "vec", tag = "4")]
    pub session_id: Vec<u8>,
    /// By the ephemeral key.
    #[prost(bytes = "vec", tag = "5")]
    pub signature: Vec<u8>,
}

/// `PedersenResponse`.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct PedersenResponse {
    /// The dealer.
    #[prost(uint32, tag = "1")]
    pub dealer_index: u32,
    /// False is a complaint.
    #[prost(bool, tag = "2")]
    pub status: bool,
}

/// `PedersenResponseBundle`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct PedersenResponseBundle {
    /// The receiver, from 0.
    #[prost(uint32, tag = "1")]
    pub share_index: u32,
    /// One per dealer.
    #[prost(message, repeated, tag = "2")]
    pub responses: Vec<PedersenResponse>,
    /// The validator's nonce.
    #[prost(bytes = "vec", tag = "3")]
    pub session_id: Vec<u8>,
    /// By the ephemeral key.
    #[prost(bytes = "vec", tag = "4")]
    pub signature: Vec<u8>,
}

/// `PedersenJustification`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct PedersenJustification {
    /// The receiver.
    #[prost(uint32, tag = "1")]
    pub share_index: u32,
    /// Its share, for all to see.
    #[prost(bytes = "vec", tag = "2")]
    pub share: Vec<u8>,
}

/// `PedersenJustificationBundle`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct PedersenJustificationBundle {
    /// The dealer, from 0.
    #[prost(uint32, tag = "1")]
    pub dealer_index: u32,
    /// The shares in question.
    #[prost(message, repeated, tag = "2")]
    pub justifications: Vec<PedersenJustification>,
    /// The validator's nonce.
    #[prost(bytes = "vec", tag = "3")]
    pub session_id: Vec<u8>,
    /// By the ephemeral key.
    #[prost(bytes = "vec", tag = "4")]
    pub signature: Vec<u8>,
}

impl Named for NodePubKeyMessage {
    const NAME: &'static str = "dkg.dkgpb.v1.NodePubKeyMessage";
}
