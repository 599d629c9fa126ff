//! What members say to each other.

use alloc::vec::Vec;
use core::fmt;

use serde::{Deserialize, Serialize};

/// Fingerprint of a proposed value. All zero means "no value".
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// "No value".
    pub const ZERO: Digest = Digest([0; 32]);

    /// Whether this says "no value".
    pub fn is_zero(self) -> bool {
        self == Digest::ZERO
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..4].iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        f.write_str("…")
    }
}

/// Index of a member, from 0, in the order of the cluster file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Member(pub u8);

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The five things a member can say. The numbers are those of the wire (`QBFTMsg.type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[repr(u8)]
pub enum Kind {
    /// The leader of the round proposes a value.
    PrePrepare = 1,
    /// The author saw the leader's proposal.
    Prepare = 2,
    /// The author saw a quorum of PREPAREs.
    Commit = 3,
    /// The author gave up on the round before.
    RoundChange = 4,
    /// The author decided, and proves it.
    Decided = 5,
}

impl Kind {
    /// The kind with this number on the wire.
    pub fn from_number(number: i64) -> Option<Self> {
        match number {
            1 => Some(Kind::PrePrepare),
            2 => Some(Kind::Prepare),
            3 => Some(Kind::Commit),
            4 => Some(Kind::RoundChange),
            5 => Some(Kind::Decided),
            _ => None,
        }
    }

    /// The number on the wire.
    pub fn number(self) -> u8 {
        match self {
            Kind::PrePrepare => 1,
            Kind::Prepare => 2,
            Kind::Commit => 3,
            Kind::RoundChange => 4,
            Kind::Decided => 5,
        }
    }
}

/// One signed statement. Which instance it belongs to is part of what the seal covers, and checked with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Ballot {
    /// What is said.
    pub kind: Kind,
    /// Who says it.
    pub author: Member,
    /// The round it is about, from 1.
    pub round: u64,
    /// The value it is about; zero in a ROUND-CHANGE.
    pub value: Digest,
    /// ROUND-CHANGE only: the round in which the author last prepared a value, 0 for never.
    pub prepared_round: u64,
    /// ROUND-CHANGE only: the value prepared then, zero for none.
    pub prepared_value: Digest,
}

impl Ballot {
    /// A PRE-PREPARE, PREPARE, COMMIT or DECIDED: everything that names a value and no past.
    pub fn for_value(kind: Kind, author: Member, round: u64, value: Digest) -> Self {
        Ballot { kind, author, round, value, prepared_round: 0, prepared_value: Digest::ZERO }
    }

    /// A ROUND-CHANGE to `round` by someone who last prepared `prepared` (round and value), if ever.
    pub fn round_change(author: Member, round: u64, prepared: Option<(u64, Digest)>) -> Self {
        let (prepared_round, prepared_value) = prepared.unwrap_or((0, Digest::ZERO));
        Ballot { kind: Kind::RoundChange, author, round, value: Digest::ZERO, prepared_round, prepared_value }
    }

    pub(crate) fn is_unprepared(&self) -> bool {
        self.prepared_round == 0 && self.prepared_value.is_zero()
    }
}

/// A ballot with the proof of its author.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vote<S> {
    /// What was said.
    pub ballot: Ballot,
    /// The author's signature as it arrived. `None` on our own ballots: whoever sends them signs them, again and again if
    /// need be, so that no key comes near this crate.
    pub seal: Option<S>,
}

/// A ballot and the ballots of others that justify it. By this type, justifications cannot nest; that they belong to the
/// same instance is checked by whoever verified the seals.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message<S> {
    /// What the author says.
    pub vote: Vote<S>,
    /// Why the author may say so; at most two per member.
    pub justification: Vec<Vote<S>>,
}
