//! What must survive a restart: everything this member has said in its current round, and why.

use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::{Digest, Vote};

/// The memory of one instance. Made durable before the words in it are spoken; given back to [`crate::Instance::restore`].
///
/// Only the current round is kept, because an instance never returns to an earlier one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Journal<S> {
    /// The round we are in.
    pub round: u64,
    /// The value we proposed in this round, as its leader.
    pub proposed: Option<Digest>,
    /// The value we sent a PREPARE for in this round.
    pub voted: Option<Digest>,
    /// The value we last saw prepared by a quorum; when its round is the current one, we sent a COMMIT for it.
    pub prepared: Option<Prepared<S>>,
    /// The decision.
    pub decided: Option<Decision<S>>,
}

/// A value that a quorum prepared, with the proof.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prepared<S> {
    /// The round it was prepared in.
    pub round: u64,
    /// The value.
    pub value: Digest,
    /// The quorum of PREPAREs.
    pub prepares: Vec<Vote<S>>,
}

/// The decision, with the proof.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision<S> {
    /// The round it was decided in.
    pub round: u64,
    /// The value.
    pub value: Digest,
    /// The quorum of COMMITs.
    pub commits: Vec<Vote<S>>,
}

impl<S> Journal<S> {
    pub(crate) fn new() -> Self {
        Journal { round: 1, proposed: None, voted: None, prepared: None, decided: None }
    }

    /// Moves to another round, in which nothing has been said yet.
    pub(crate) fn enter(&mut self, round: u64) {
        if self.round != round {
            self.round = round;
            self.proposed = None;
            self.voted = None;
        }
    }
}
