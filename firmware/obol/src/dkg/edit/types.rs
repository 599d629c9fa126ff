//! What goes in and out of a change of the cluster.

use std::fmt;

use chain::{PublicKeyBytes, SignatureBytes};
use cluster::Lock;
use serde::{Deserialize, Serialize};

use crate::dkg::ceremony::{Failure, MemberProgress};
use crate::dkg::exchange::Partials;
use crate::dkg::pedersen::{Announcement, BundleKind};

/// Everything that wakes a change of the cluster. Members are named by their place in the plan, from 0; the caller knows them
/// by the authenticated identity of their connection.
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
    /// A one-way message arrived.
    Message {
        /// From whom.
        member: usize,
        /// On which way.
        channel: Channel,
        /// The message.
        bytes: Vec<u8>,
    },
    /// The owner brings the complete lock, from another member.
    Lock {
        /// The lock file.
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

/// Which way a one-way message goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channel {
    /// A broadcast that everybody signed.
    Broadcast,
    /// A message of the resharing of one validator.
    Bundle(BundleKind),
    /// A new public share of one validator.
    PublicShare,
    /// Partial signatures of the new lock: the dry run.
    Partials,
}

/// A member's ephemeral key as it announced it, with its identity's signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedAnnouncement {
    /// What it announced.
    pub announcement: Announcement,
    /// 65-byte identity signature of it.
    pub signature: Vec<u8>,
}

/// What happens to one validator's resharing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DealEvent {
    /// Deal.
    Start,
    /// A bundle came.
    Received {
        /// From whom.
        member: usize,
        /// Which.
        kind: BundleKind,
        /// The message.
        bytes: Vec<u8>,
    },
    /// The time of the phase is over.
    Timeout,
}

/// What only the signer can do. One question at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    /// Make an ephemeral key for this change.
    Begin,
    /// Take over all members' keys.
    Keys {
        /// What each announced, in order.
        keys: Vec<SignedAnnouncement>,
    },
    /// One event of one validator's resharing.
    Deal {
        /// Position of the validator in the lock.
        validator: usize,
        /// What happened.
        event: DealEvent,
    },
    /// Seal the new shares beside the old ones, and say what the new lock is.
    Prepare,
    /// Freeze the old shares, then sign the new lock with the new ones.
    DryRun {
        /// Hash of the new lock.
        lock_hash: [u8; 32],
    },
    /// Check that all new shares signed, and add their signatures up.
    Check {
        /// The new lock.
        lock: Vec<u8>,
        /// By new position.
        members: Vec<Partials>,
    },
    /// Give the old shares up.
    Commit {
        /// The complete lock file.
        lock: Vec<u8>,
    },
}

/// What the signer said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// To [`Question::Begin`].
    Begun(Announcement),
    /// To [`Question::Keys`].
    KeysTaken,
    /// To [`Question::Deal`].
    Dealt {
        /// To be sent to all other members.
        send: Vec<(BundleKind, Vec<u8>)>,
        /// A new phase began, and its time.
        new_phase: bool,
        /// What members did wrong, in words.
        accused: Vec<String>,
        /// The new public shares by new position, once the validator's resharing is over.
        finished: Option<Vec<PublicKeyBytes>>,
    },
    /// To [`Question::Prepare`].
    Prepared {
        /// The new lock, not signed yet.
        lock: Vec<u8>,
    },
    /// To [`Question::DryRun`].
    Partials(Partials),
    /// To [`Question::Check`].
    Checked {
        /// The lock's aggregate.
        aggregate: SignatureBytes,
    },
    /// To [`Question::Commit`].
    Committed,
    /// It refuses, and that ends the change here for now.
    Failed {
        /// What is wrong.
        why: String,
        /// What to do.
        next_step: String,
    },
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
        /// The message.
        bytes: Vec<u8>,
    },
    /// Ask the signer.
    Ask(Question),
    /// A member said something that is not taken. The change goes on.
    Refused {
        /// Who.
        member: usize,
        /// Why.
        why: String,
    },
    /// The resharing found something wrong and goes on without it.
    Accused {
        /// In words.
        what: String,
    },
    /// The signer gave the old shares up: this is the cluster now. Said again after a restart.
    Changed(Box<Lock>),
    /// It does not go on.
    Failed(Failure),
    /// Nothing more will come.
    Done,
}

/// Outputs in order.
pub type Outputs = Vec<Output>;

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
    /// The signer sealed the new shares; from here on a restart goes on.
    Prepared {
        /// The new lock, not signed yet.
        #[serde(with = "hex::serde")]
        lock: Vec<u8>,
        /// What we said last while shares were dealt: a member that has not heard it still waits for it.
        said: Vec<Said>,
    },
    /// The signer is about to be asked for the dry run: the old shares may be silent from here on.
    Promised,
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
    /// The old shares are gone.
    Committed,
}

/// A message of the resharing of the last validator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Said {
    /// Commitments and shares.
    Deal(#[serde(with = "hex::serde")] Vec<u8>),
    /// What we said of the others'.
    Response(#[serde(with = "hex::serde")] Vec<u8>),
    /// Answers to complaints.
    Justification(#[serde(with = "hex::serde")] Vec<u8>),
    /// Our new public share.
    PublicShare(#[serde(with = "hex::serde")] Vec<u8>),
}

impl Said {
    /// The message and its way.
    pub(super) fn message(&self) -> (Channel, &[u8]) {
        match self {
            Self::Deal(bytes) => (Channel::Bundle(BundleKind::Deal), bytes),
            Self::Response(bytes) => (Channel::Bundle(BundleKind::Response), bytes),
            Self::Justification(bytes) => (Channel::Bundle(BundleKind::Justification), bytes),
            Self::PublicShare(bytes) => (Channel::PublicShare, bytes),
        }
    }

    /// A bundle of ours.
    pub(super) fn bundle(kind: BundleKind, bytes: Vec<u8>) -> Self {
        match kind {
            BundleKind::Deal => Self::Deal(bytes),
            BundleKind::Response => Self::Response(bytes),
            BundleKind::Justification => Self::Justification(bytes),
        }
    }
}

/// The records do not fit this change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the records of this change of the cluster are damaged; if the signer says that a change is unfinished, hand in the complete lock from another member, otherwise begin the change again on every member"
)]
pub struct RecordError;

/// Where a change is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Waiting until everybody is there.
    Connecting,
    /// New shares are dealt.
    Dealing,
    /// Our new shares are sealed; waiting until everybody's are.
    Prepared,
    /// The old shares are silent; the new ones sign the new lock.
    DryRun,
    /// The lock is signed by all operators, and the old shares are given up.
    Changing,
    /// Our part is done; the others are helped to finish.
    Leaving,
    /// Over.
    Done,
}

/// How far a change is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// In words.
    pub phase: Phase,
    /// Our step, 0 to 6.
    pub step: i64,
    /// Validators whose new shares are dealt.
    pub dealt: usize,
    /// All members, in the plan's order.
    pub members: Vec<MemberProgress>,
    /// Why it does not go on, when it failed.
    pub failure: Option<Failure>,
}

/// Messages are not printed.
impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Record(record) => write!(f, "Record({record:?})"),
            Self::Reply { reply, bytes } => {
                write!(f, "Reply({reply}, {:?} bytes)", bytes.as_ref().map(Vec::len))
            }
            Self::RequestSignature { member, .. } => write!(f, "RequestSignature({member})"),
            Self::Send { member, channel, .. } => write!(f, "Send({member}, {channel:?})"),
            Self::Ask(question) => write!(f, "Ask({question:?})"),
            Self::Refused { member, why } => write!(f, "Refused({member}, {why})"),
            Self::Accused { what } => write!(f, "Accused({what})"),
            Self::Changed(_) => f.write_str("Changed"),
            Self::Failed(failure) => write!(f, "Failed({failure:?})"),
            Self::Done => f.write_str("Done"),
        }
    }
}
