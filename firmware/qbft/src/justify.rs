//! Whether a message is allowed to say what it says, and how a leader finds the proof for its proposal.

use alloc::vec::Vec;

use crate::heard::{Heard, Members, one_per_author};
use crate::{Ballot, Digest, Kind, Message, Size, Vote};

/// A DECIDED proves itself by a quorum of COMMITs for its round and value; whatever else it carries is ignored.
pub(crate) fn decided<S>(message: &Message<S>, size: Size) -> bool {
    commits_of(message).len() >= size.quorum()
}

/// The COMMITs that a DECIDED rests on, one per author.
pub(crate) fn commits_of<S>(message: &Message<S>) -> Vec<&Vote<S>> {
    let decided = message.vote.ballot;
    one_per_author(message.justification.iter(), |b| {
        b.kind == Kind::Commit && b.round == decided.round && b.value == decided.value
    })
}

/// A ROUND-CHANGE either claims that nothing was prepared and carries nothing, or proves what was prepared by a quorum.
pub(crate) fn round_change<S>(message: &Message<S>, size: Size) -> bool {
    let claim = message.vote.ballot;
    if message.justification.is_empty() {
        return claim.is_unprepared();
    }
    let mut authors = Members::default();
    let all_match = message.justification.iter().all(|vote| {
        let b = vote.ballot;
        b.kind == Kind::Prepare
            && b.round == claim.prepared_round
            && b.value == claim.prepared_value
            && authors.insert(b.author)
    });
    all_match && authors.len() >= size.quorum()
}

/// A PRE-PREPARE after round 1 needs a quorum that changed to its round, such that (J1) none of them had prepared
/// anything, or (J2) the value is the one prepared latest among them.
pub(crate) fn pre_prepare<S>(message: &Message<S>, size: Size) -> bool {
    let proposal = message.vote.ballot;
    if proposal.round == 1 {
        return true;
    }
    let changes = one_per_author(message.justification.iter(), |b| {
        b.kind == Kind::RoundChange && b.round == proposal.round
    });
    if changes.len() < size.quorum() {
        return false;
    }
    if changes.iter().all(|vote| vote.ballot.is_unprepared()) {
        return true; // J1
    }
    let Some((round, value)) = common_prepares(&message.justification, size) else { return false };
    value == proposal.value
        && changes.iter().all(|vote| vote.ballot.prepared_round <= round)
        && changes.iter().any(|vote| claims(&vote.ballot, round, value)) // J2
}

/// Round and value of the PREPAREs, if they are a quorum and all agree. One duplicate or stray PREPARE spoils the proof.
fn common_prepares<S>(votes: &[Vote<S>], size: Size) -> Option<(u64, Digest)> {
    let mut prepares = votes.iter().map(|vote| vote.ballot).filter(|b| b.kind == Kind::Prepare).peekable();
    let first = *prepares.peek()?;
    let mut authors = Members::default();
    let agree =
        prepares.all(|b| b.round == first.round && b.value == first.value && authors.insert(b.author));
    (agree && authors.len() >= size.quorum()).then_some((first.round, first.value))
}

fn claims(change: &Ballot, round: u64, value: Digest) -> bool {
    change.prepared_round == round && change.prepared_value == value
}

/// What a new leader may propose.
pub(crate) enum Mandate<S> {
    /// Its own input: nobody in the quorum had prepared anything.
    Free(Vec<Vote<S>>),
    /// This value: it may already have been decided somewhere.
    Bound(Digest, Vec<Vote<S>>),
}

/// Searches what was heard for a justification of a PRE-PREPARE in `round`.
pub(crate) fn find_mandate<S: Clone>(heard: &Heard<S>, round: u64, size: Size) -> Option<Mandate<S>> {
    let in_round = |b: &Ballot| b.kind == Kind::RoundChange && b.round == round;
    let unprepared = one_per_author(heard.votes(), |b| in_round(b) && b.is_unprepared());
    if unprepared.len() >= size.quorum() {
        return Some(Mandate::Free(owned(unprepared)));
    }
    for (prepared_round, value) in prepared_anywhere(heard) {
        let prepares = heard.votes_for(Kind::Prepare, prepared_round, value);
        if prepares.len() < size.quorum() {
            continue;
        }
        let changes = one_per_author(heard.votes(), |b| in_round(b) && b.prepared_round <= prepared_round);
        let one_matches = changes.iter().any(|vote| claims(&vote.ballot, prepared_round, value));
        if changes.len() >= size.quorum() && one_matches {
            return Some(Mandate::Bound(value, owned(changes.into_iter().chain(prepares))));
        }
    }
    None
}

/// Every (round, value) that somebody prepared, latest first.
fn prepared_anywhere<S>(heard: &Heard<S>) -> Vec<(u64, Digest)> {
    let mut found: Vec<(u64, Digest)> = heard
        .votes()
        .filter(|vote| vote.ballot.kind == Kind::Prepare)
        .map(|vote| (vote.ballot.round, vote.ballot.value))
        .collect();
    found.sort_unstable_by(|a, b| b.cmp(a));
    found.dedup();
    found
}

fn owned<'a, S: Clone + 'a>(votes: impl IntoIterator<Item = &'a Vote<S>>) -> Vec<Vote<S>> {
    votes.into_iter().cloned().collect()
}
