//! The values that digests stand for, with a quota for each member that introduces one.

use std::collections::BTreeMap;

use qbft::{Digest, Member, Message};

use crate::{
    DutyKind, MAX_BLOCK_BYTES_PER_MEMBER, MAX_VALUE_BYTES_PER_MEMBER, MAX_VALUES_PER_MEMBER, Payload,
    Refusal, Value,
};

/// How many bytes of values one member may introduce for a duty of this kind.
pub(crate) fn max_value_bytes(kind: DutyKind) -> usize {
    if kind == DutyKind::Proposer { MAX_BLOCK_BYTES_PER_MEMBER } else { MAX_VALUE_BYTES_PER_MEMBER }
}

/// The values known for one duty.
#[derive(Default)]
pub(crate) struct Values {
    known: BTreeMap<Digest, Payload>,
    introduced: BTreeMap<Member, Quota>,
}

#[derive(Clone, Copy, Default)]
struct Quota {
    values: usize,
    bytes: usize,
}

impl Values {
    /// Adds a value of our own, or one that we had made durable.
    pub(crate) fn add_own(&mut self, value: Value) {
        self.known.entry(value.digest).or_insert(value.bytes);
    }

    /// How many bytes of the values were introduced by this member.
    pub(crate) fn introduced_by(&self, member: Member) -> usize {
        self.introduced.get(&member).map_or(0, |quota| quota.bytes)
    }

    /// Adds the values that a message names. Each must be known or come with it; values it does not name are ignored. Its
    /// author may have introduced `most` bytes afterwards.
    pub(crate) fn add_from<S>(
        &mut self,
        message: &Message<S>,
        values: &[Value],
        most: usize,
    ) -> Result<(), Refusal> {
        let author = message.vote.ballot.author;
        let mut new: BTreeMap<Digest, &Payload> = BTreeMap::new();
        for digest in named(message) {
            if self.known.contains_key(&digest) {
                continue;
            }
            let value = values.iter().find(|value| value.digest == digest);
            new.insert(digest, &value.ok_or(Refusal::ValueMissing(author))?.bytes);
        }
        if new.is_empty() {
            return Ok(()); // Whoever has no room left may still speak of what is known.
        }
        let quota = self.introduced.entry(author).or_default();
        let after = Quota {
            values: quota.values + new.len(),
            bytes: new.values().fold(quota.bytes, |sum, bytes| sum.saturating_add(bytes.len())),
        };
        if after.values > MAX_VALUES_PER_MEMBER || after.bytes > most {
            return Err(Refusal::TooManyValues(author));
        }
        *quota = after;
        self.known.extend(new.into_iter().map(|(digest, bytes)| (digest, bytes.clone())));
        Ok(())
    }

    pub(crate) fn get(&self, digest: Digest) -> Option<Value> {
        self.known.get(&digest).map(|bytes| Value { digest, bytes: bytes.clone() })
    }

    /// The values that a message names, each once, in order of their digests.
    pub(crate) fn for_message<S>(&self, message: &Message<S>) -> Vec<Value> {
        self.for_digests(named(message))
    }

    /// The values of these digests, each once.
    pub(crate) fn for_digests(&self, digests: impl IntoIterator<Item = Digest>) -> Vec<Value> {
        let mut digests: Vec<Digest> = digests.into_iter().collect();
        digests.sort_unstable();
        digests.dedup();
        digests.into_iter().filter_map(|digest| self.get(digest)).collect()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.known.is_empty()
    }
}

/// Every digest that the message and its justification name.
fn named<S>(message: &Message<S>) -> impl Iterator<Item = Digest> {
    std::iter::once(&message.vote)
        .chain(&message.justification)
        .flat_map(|vote| [vote.ballot.value, vote.ballot.prepared_value])
        .filter(|digest| !digest.is_zero())
}
