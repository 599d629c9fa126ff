//! What the members said, bounded per author, and counting in it.
//!
//! Counting runs over a flattened view: the messages and the ballots inside their justifications. So a member whose
//! PREPARE was lost to us still counts when somebody else's ROUND-CHANGE proves that it was sent.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use crate::{Ballot, Digest, Kind, MAX_HEARD_PER_MEMBER, Member, Message, Size, Vote};

/// A set of members.
#[derive(Clone, Copy, Default)]
pub(crate) struct Members(u32);

impl Members {
    /// Adds a member; false when it was there already.
    pub(crate) fn insert(&mut self, member: Member) -> bool {
        let bit = 1u32.checked_shl(u32::from(member.0)).unwrap_or(0);
        let new = self.0 & bit == 0;
        self.0 |= bit;
        new
    }

    pub(crate) fn len(self) -> usize {
        usize::try_from(self.0.count_ones()).expect("at most 32")
    }
}

/// Keeps the first vote of each author among those that `wanted` accepts.
pub(crate) fn one_per_author<'a, S: 'a>(
    votes: impl Iterator<Item = &'a Vote<S>>,
    wanted: impl Fn(&Ballot) -> bool,
) -> Vec<&'a Vote<S>> {
    let mut seen = Members::default();
    votes.filter(|vote| wanted(&vote.ballot) && seen.insert(vote.ballot.author)).collect()
}

/// The buffers of one instance: a queue of [`MAX_HEARD_PER_MEMBER`] messages per author.
pub(crate) struct Heard<S> {
    queues: Vec<VecDeque<Message<S>>>,
}

impl<S> Heard<S> {
    pub(crate) fn new(size: Size) -> Self {
        Heard { queues: size.all().map(|_| VecDeque::new()).collect() }
    }

    pub(crate) fn remember(&mut self, message: Message<S>) {
        let Some(queue) = self.queues.get_mut(usize::from(message.vote.ballot.author.0)) else { return };
        if queue.len() >= MAX_HEARD_PER_MEMBER {
            queue.pop_front();
        }
        queue.push_back(message);
    }

    /// Forgets everything; after the decision nothing here matters any more.
    pub(crate) fn clear(&mut self) {
        self.queues.iter_mut().for_each(|queue| *queue = VecDeque::new());
    }

    /// Every vote in the flattened view, by author of the carrying message and then by arrival.
    pub(crate) fn votes(&self) -> impl Iterator<Item = &Vote<S>> {
        self.queues
            .iter()
            .flatten()
            .flat_map(|message| core::iter::once(&message.vote).chain(&message.justification))
    }

    /// One vote per author for this kind, round and value.
    pub(crate) fn votes_for(&self, kind: Kind, round: u64, value: Digest) -> Vec<&Vote<S>> {
        one_per_author(self.votes(), |b| b.kind == kind && b.round == round && b.value == value)
    }

    /// One ROUND-CHANGE per author for this round.
    pub(crate) fn round_changes(&self, round: u64) -> Vec<&Vote<S>> {
        one_per_author(self.votes(), |b| b.kind == Kind::RoundChange && b.round == round)
    }
}
