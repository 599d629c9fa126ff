//! What goes in and out of a ceremony.

use std::collections::BTreeMap;
use std::fmt;

use cluster::Lock;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::dkg::dealer::{BornValidator, SignedByValidators};
use crate::dkg::exchange::{Exchange, Partials};
use crate::dkg::sync::SealKey;
use crate::wire::Any;

/// Everything that wakes a ceremony. Members are named by their place, from 0; the caller knows them by the authenticated
/// identity of their connection.
pub enum Event {
    /// A member is connected, perhaps again.
    Connected {
        /// Who.
        member: usize,
    },
    /// Its last connection is gone.
    Disconnected {
        /// Who.
        member: usize,
    },
    /// A sync message arrived.
    Sync {
        /// From whom.
        member: usize,
        /// The message.
        bytes: Vec<u8>,
        /// How the caller knows the answer's way.
        reply: u64,
    },
    /// Our sync message was answered.
    SyncAnswer {
        /// By whom.
        member: usize,
        /// The answer.
        bytes: Vec<u8>,
    },
    /// A member asks us to sign its broadcast.
    SignRequest {
        /// Who.
        member: usize,
        /// The request.
        bytes: Vec<u8>,
        /// How the caller knows the answer's way.
        reply: u64,
    },
    /// A member signed our broadcast.
    Signed {
        /// Who.
        member: usize,
        /// Its answer.
        bytes: Vec<u8>,
    },
    /// A whole broadcast arrived.
    Broadcast {
        /// From whom.
        member: usize,
        /// The message.
        bytes: Vec<u8>,
    },
    /// A member's share for us arrived, sealed or not.
    Share {
        /// From whom.
        member: usize,
        /// The message; secret when it is not sealed.
        bytes: Zeroizing<Vec<u8>>,
    },
    /// Partial signatures arrived.
    Partials {
        /// From whom.
        member: usize,
        /// The message.
        bytes: Vec<u8>,
    },
    /// The signer answered.
    Answer(Answer),
    /// Time has passed. A few times a second is enough.
    Tick {
        /// Unix milliseconds, or any clock that only goes forward.
        now_ms: u64,
    },
}

/// What only the signer can do.
pub enum Question {
    /// Deal: what to publish, and the others' shares.
    Deal {
        /// The keys to seal shares to, of those members who announced one.
        seal_keys: BTreeMap<usize, SealKey>,
    },
    /// Keep a share that a member sent.
    Keep {
        /// From whom.
        member: usize,
        /// The message as it came.
        bytes: Zeroizing<Vec<u8>>,
    },
    /// Check everything that was dealt and add it up.
    Finish {
        /// Everybody's first broadcast with everybody's signatures.
        casts: BTreeMap<usize, SignedCast>,
    },
    /// Sign deposits or registrations.
    Sign(Exchange),
    /// Sign the lock hash.
    SignLock(SignedByValidators),
    /// Put the new shares into service.
    Release {
        /// The complete lock file.
        lock: Vec<u8>,
    },
}

/// What the signer said.
pub enum Answer {
    /// To [`Question::Deal`].
    Dealt {
        /// The first broadcast.
        cast: Any,
        /// The message for each other member, sealed where it can be.
        shares: BTreeMap<usize, Zeroizing<Vec<u8>>>,
        /// Whose shares it keeps already.
        kept: Vec<usize>,
    },
    /// To [`Question::Keep`].
    Kept {
        /// Whose share.
        member: usize,
    },
    /// To [`Question::Finish`].
    Finished {
        /// The new validators.
        validators: Vec<BornValidator>,
    },
    /// To [`Question::Sign`] and [`Question::SignLock`].
    Signed {
        /// What was signed.
        exchange: Exchange,
        /// Our partial signatures.
        partials: Partials,
    },
    /// To [`Question::Release`].
    Released,
    /// It refuses, and that ends the ceremony.
    Failed {
        /// Whose fault it is, when it is a member's.
        member: Option<usize>,
        /// What is wrong.
        why: String,
        /// What to do.
        next_step: String,
    },
}

/// A first broadcast with the signatures of all members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedCast {
    /// The message inside the `Any`.
    pub value: Vec<u8>,
    /// 65-byte identity signatures, in order.
    pub signatures: Vec<Vec<u8>>,
}

/// Which way a one-way message goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channel {
    /// A broadcast that everybody signed.
    Broadcast,
    /// A share for one member.
    Share,
    /// Partial signatures.
    Partials,
}

/// What the caller must do, in order.
pub enum Output {
    /// Make this durable before anything that comes later.
    Record(Record),
    /// Answer a sync message or a request to sign.
    Reply {
        /// What the event named.
        reply: u64,
        /// The answer; none: close the stream without one.
        bytes: Option<Vec<u8>>,
        /// Close the stream afterwards.
        ends: bool,
    },
    /// Ask a member to sign our broadcast; bring its answer back as [`Event::Signed`].
    RequestSignature {
        /// Whom.
        member: usize,
        /// The request.
        bytes: Vec<u8>,
    },
    /// Send a message.
    Send {
        /// To whom.
        member: usize,
        /// On which way.
        channel: Channel,
        /// The message; secret when it is a share.
        bytes: Zeroizing<Vec<u8>>,
    },
    /// Ask the signer.
    Ask(Question),
    /// A member sent something that is not taken. The ceremony goes on.
    Refused {
        /// Who.
        member: usize,
        /// Why.
        why: String,
    },
    /// The lock is complete, verified and the shares are in service. Said again after a restart.
    Complete(Box<Lock>),
    /// The ceremony cannot go on.
    Failed(Failure),
    /// Everybody has left: nothing more will come.
    Done,
}

/// Outputs in order.
pub type Outputs = Vec<Output>;

/// Why a ceremony ended without keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Whose fault it is, from 0, when it is a member's.
    pub member: Option<usize>,
    /// What is wrong.
    pub why: String,
    /// What to do.
    pub next_step: String,
}

/// A fact that must survive a restart. Nothing in it is secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Record {
    /// We signed a broadcast: no other of that member under that name.
    Signed {
        /// Whose broadcast.
        member: usize,
        /// Its name.
        id: String,
        /// Its hash.
        #[serde(with = "hex::serde")]
        hash: [u8; 32],
    },
    /// A broadcast that everybody signed.
    Delivered {
        /// Whose.
        member: usize,
        /// As it travelled.
        #[serde(with = "hex::serde")]
        bytes: Vec<u8>,
    },
    /// The signer keeps a member's share.
    Kept {
        /// Whose.
        member: usize,
    },
    /// Partial signatures of another member.
    Partials {
        /// Whose.
        member: usize,
        /// As they travelled.
        #[serde(with = "hex::serde")]
        bytes: Vec<u8>,
    },
    /// We reached a step.
    Step(i64),
    /// The lock is complete and verified.
    Lock {
        /// The lock file.
        #[serde(with = "hex::serde")]
        bytes: Vec<u8>,
    },
    /// The shares are in service.
    Released,
}

/// The records do not fit this ceremony.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the records of this ceremony are damaged; discard it on every member and start it again together")]
pub struct RecordError;

/// Where a ceremony is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Waiting until everybody is there.
    Connecting,
    /// The two rounds of key generation.
    MakingKeys,
    /// Deposits are signed together.
    SigningDeposits,
    /// Builder registrations are signed together.
    SigningRegistrations,
    /// The lock is signed by all shares.
    SigningLock,
    /// The lock is signed by all operators.
    SigningAsNodes,
    /// The lock is checked and everything stored.
    Storing,
    /// Everything is stored; waiting for the others to be done.
    Leaving,
    /// Over.
    Done,
}

/// What is known of one member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberProgress {
    /// It is us.
    pub is_self: bool,
    /// A connection is up.
    pub connected: bool,
    /// It and we hear each other and agree on what is done.
    pub in_sync: bool,
    /// Its step, 0 to 8.
    pub step: i64,
    /// The name its operator gave it.
    pub nickname: String,
    /// Its signer takes shares that no process in between can read.
    pub takes_sealed_shares: bool,
    /// The present step waits for it.
    pub waited_for: bool,
}

/// How far a ceremony is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// In words.
    pub phase: Phase,
    /// Our step, 0 to 8.
    pub step: i64,
    /// All members, in order.
    pub members: Vec<MemberProgress>,
    /// Why it ended, when it failed.
    pub failure: Option<Failure>,
}

/// Shares are not printed.
impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Record(record) => write!(f, "Record({record:?})"),
            Self::Reply { reply, bytes, ends } => {
                write!(f, "Reply({reply}, {:?} bytes, ends {ends})", bytes.as_ref().map(Vec::len))
            }
            Self::RequestSignature { member, .. } => write!(f, "RequestSignature({member})"),
            Self::Send { member, channel, .. } => write!(f, "Send({member}, {channel:?})"),
            Self::Ask(_) => f.write_str("Ask"),
            Self::Refused { member, why } => write!(f, "Refused({member}, {why})"),
            Self::Complete(_) => f.write_str("Complete"),
            Self::Failed(failure) => write!(f, "Failed({failure:?})"),
            Self::Done => f.write_str("Done"),
        }
    }
}
