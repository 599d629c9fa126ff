//! The priority protocol: members tell each other ordered wishes per topic, and agree on what enough of them support.

use std::collections::{BTreeMap, BTreeSet};

use cluster::{IdentityKey, PeerId};
use prost::Message as _;

use crate::canonical;
use crate::duty::{Duty, Expiry, Now};
use crate::root::{bytes_root, message_root};
use crate::scan;
use crate::wire::{
    Any, Complete as _, PriorityMsg, PriorityResult, PriorityScoredResult, PriorityTopicProposal,
    PriorityTopicResult, StringValue,
};

/// Milliseconds after the start at which the result is computed from whatever has arrived.
pub const COLLECT_MS: u64 = 6000;
/// Score of a first place; every place further down is worth one less.
const FIRST_PLACE: i64 = 1000;
/// From this many priorities on, a topic is invalid.
const MAX_PRIORITIES: usize = 1000;
/// Topics one message may have; the reference sends three.
const MAX_TOPICS: usize = 32;

/// Why a message is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No such message.
    #[error("the bytes are not a priority message")]
    Malformed,
    /// A mandatory sub-message is absent.
    #[error("the field {0} is absent")]
    Absent(&'static str),
    /// More topics or priorities than can make sense.
    #[error("too many topics or priorities")]
    TooMany,
    /// Not 1..=13.
    #[error("duty type {0} does not exist")]
    UnknownDuty(i32),
    /// More than two epochs ahead.
    #[error("the duty lies too far in the future")]
    TooEarly,
    /// Its deadline has passed, or it has none.
    #[error("the duty's deadline has passed")]
    Expired,
    /// It claims to be from somebody other than its sender.
    #[error("the message claims another author than its sender")]
    NotTheSender,
    /// The signature is wrong.
    #[error("the signature is wrong")]
    WrongSignature,
}

/// Makes and signs our own message. Topics and priorities are plain strings, best first.
pub fn sign(duty: Duty, topics: &[(&str, Vec<String>)], key: &IdentityKey) -> PriorityMsg {
    let proposal = |(topic, priorities): &(&str, Vec<String>)| PriorityTopicProposal {
        topic: Some(StringValue::any(topic)),
        priorities: priorities.iter().map(|priority| StringValue::any(priority)).collect(),
    };
    let mut message = PriorityMsg {
        duty: Some(duty.to_wire()),
        topics: topics.iter().map(proposal).collect(),
        peer_id: PeerId::from_public_key(&key.public_key()).to_string(),
        signature: Vec::new(),
    };
    message.signature = key.sign(&message_root(&message)).to_vec();
    message
}

/// Checks a request or a response of `sender`.
pub fn receive(bytes: &[u8], sender: &PeerId, now: Now) -> Result<(Duty, PriorityMsg), Refusal> {
    count(bytes)?;
    let message = PriorityMsg::decode(bytes).map_err(|_| Refusal::Malformed)?;
    message.complete().map_err(Refusal::Absent)?;
    let wire_duty = message.duty.ok_or(Refusal::Absent("duty"))?;
    let duty = Duty::from_wire(wire_duty).ok_or(Refusal::UnknownDuty(wire_duty.r#type))?;
    if !now.admits(duty) {
        return Err(Refusal::TooEarly);
    }
    if now.expiry(duty) != Expiry::Scheduled {
        return Err(Refusal::Expired);
    }
    if message.peer_id != sender.to_string() {
        return Err(Refusal::NotTheSender);
    }
    let unsigned = canonical::signed_part(bytes).map_err(|_| Refusal::Malformed)?;
    let signed = sender.public_key().verify(&bytes_root(&unsigned), &message.signature);
    signed.map_err(|_| Refusal::WrongSignature)?;
    Ok((duty, message))
}

/// Counts before decoding.
fn count(bytes: &[u8]) -> Result<(), Refusal> {
    let mut rest = bytes;
    let mut topics = 0;
    while let Some(field) = scan::next_field(&mut rest).map_err(|_| Refusal::Malformed)? {
        if let (2, Some(topic)) = (field.tag, field.contents) {
            topics += 1;
            let priorities = scan::count(topic, 2).map_err(|_| Refusal::Malformed)?;
            if topics > MAX_TOPICS || priorities >= MAX_PRIORITIES {
                return Err(Refusal::TooMany);
            }
        }
    }
    Ok(())
}

/// Why no result can be computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidInput {
    /// Nobody said anything.
    #[error("there are no messages")]
    NoMessages,
    /// One member twice.
    #[error("a member's message is there twice")]
    DuplicatePeer,
    /// Messages of different duties.
    #[error("the messages belong to different duties")]
    DifferentDuties,
    /// One member names a topic twice.
    #[error("a topic is named twice")]
    DuplicateTopic,
    /// One member names a priority twice.
    #[error("a priority is named twice")]
    DuplicatePriority,
    /// 1000 or more.
    #[error("a topic has too many priorities")]
    TooManyPriorities,
    /// A topic is absent.
    #[error("a topic is absent")]
    Incomplete,
}

/// Computes what enough members support, from messages in order of arrival. `threshold` is the signature threshold.
pub fn calculate(messages: &[PriorityMsg], threshold: u8) -> Result<PriorityResult, InvalidInput> {
    let first = messages.first().ok_or(InvalidInput::NoMessages)?;
    if messages.iter().any(|message| message.duty != first.duty) {
        return Err(InvalidInput::DifferentDuties);
    }
    let by_peer: BTreeMap<&str, &PriorityMsg> =
        messages.iter().map(|message| (message.peer_id.as_str(), message)).collect();
    if by_peer.len() != messages.len() {
        return Err(InvalidInput::DuplicatePeer);
    }
    let mut topics: BTreeMap<[u8; 32], (&Any, Scores<'_>)> = BTreeMap::new();
    for message in by_peer.values() {
        let mut named = BTreeSet::new();
        for proposal in &message.topics {
            let topic = proposal.topic.as_ref().ok_or(InvalidInput::Incomplete)?;
            if !named.insert(topic) {
                return Err(InvalidInput::DuplicateTopic);
            }
            let (_, scores) = topics.entry(message_root(topic)).or_insert_with(|| (topic, Scores::default()));
            scores.add(&proposal.priorities)?;
        }
    }
    let topics = topics.into_values().map(|(topic, scores)| PriorityTopicResult {
        topic: Some(topic.clone()),
        priorities: scores.above((i64::from(threshold) - 1) * FIRST_PLACE),
    });
    Ok(PriorityResult { msgs: messages.to_vec(), topics: topics.collect() })
}

/// Scores of one topic in first-seen order.
#[derive(Default)]
struct Scores<'a>(Vec<(&'a Any, i64)>);

impl<'a> Scores<'a> {
    fn add(&mut self, priorities: &'a [Any]) -> Result<(), InvalidInput> {
        if priorities.len() >= MAX_PRIORITIES {
            return Err(InvalidInput::TooManyPriorities);
        }
        let mut named = BTreeSet::new();
        for (priority, score) in priorities.iter().zip((0..=FIRST_PLACE).rev()) {
            if !named.insert(priority) {
                return Err(InvalidInput::DuplicatePriority);
            }
            match self.0.iter_mut().find(|(known, _)| *known == priority) {
                Some((_, sum)) => *sum += score,
                None => self.0.push((priority, score)),
            }
        }
        Ok(())
    }

    fn above(mut self, least: i64) -> Vec<PriorityScoredResult> {
        self.0.retain(|(_, score)| *score > least);
        self.0.sort_by_key(|(_, score)| std::cmp::Reverse(*score)); // Stable: ties stay in first-seen order.
        let scored =
            |(priority, score): (&Any, i64)| PriorityScoredResult { priority: Some(priority.clone()), score };
        self.0.into_iter().map(scored).collect()
    }
}

/// One exchange, from our side: collects the members' messages until all are there or the time is up.
#[derive(Clone, Debug)]
pub struct Exchange {
    duty: Duty,
    members: usize,
    threshold: u8,
    messages: Vec<PriorityMsg>,
    done: bool,
}

impl Exchange {
    /// Starts with our own message.
    pub fn new(duty: Duty, own: PriorityMsg, members: usize, threshold: u8) -> Self {
        Self { duty, members, threshold, messages: vec![own], done: false }
    }

    /// Our own message, which answers every request.
    pub fn own(&self) -> Option<&PriorityMsg> {
        self.messages.first()
    }

    /// Takes a checked message; the first of each member counts. Returns the result to propose once all have spoken.
    pub fn add(&mut self, duty: Duty, message: PriorityMsg) -> Option<Result<PriorityResult, InvalidInput>> {
        let known = self.messages.iter().any(|other| other.peer_id == message.peer_id);
        if duty != self.duty || known || self.done {
            return None;
        }
        self.messages.push(message);
        if self.messages.len() < self.members { None } else { self.time_up() }
    }

    /// [`COLLECT_MS`] have passed: the result to propose, unless there was one already.
    pub fn time_up(&mut self) -> Option<Result<PriorityResult, InvalidInput>> {
        if std::mem::replace(&mut self.done, true) {
            return None;
        }
        Some(calculate(&self.messages, self.threshold))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use zeroize::Zeroizing;

    use super::*;
    use crate::duty::{DutyType, SlotLengths};

    const DUTY: Duty = Duty::new(31, DutyType::InfoSync);
    const NOW: Now = Now {
        since_genesis_ns: 31 * 12_000_000_000,
        lengths: SlotLengths { slot_ns: 12_000_000_000, slots_per_epoch: 32 },
    };

    fn key(seed: u8) -> IdentityKey {
        IdentityKey::from_bytes(Zeroizing::new([seed; 32])).unwrap()
    }

    fn message(seed: u8) -> PriorityMsg {
        sign(DUTY, &[("version", vec!["v1.11".into(), "v1.10".into()])], &key(seed))
    }

    fn peer(seed: u8) -> PeerId {
        PeerId::from_public_key(&key(seed).public_key())
    }

    #[test]
    fn a_message_passes_only_from_its_author_and_in_time() {
        let bytes = message(1).encode_to_vec();
        assert_eq!(receive(&bytes, &peer(1), NOW).unwrap(), (DUTY, message(1)));
        assert_eq!(receive(&bytes, &peer(2), NOW), Err(Refusal::NotTheSender));
        let late = Now { since_genesis_ns: 34 * 12_000_000_000, ..NOW };
        assert_eq!(receive(&bytes, &peer(1), late), Err(Refusal::Expired));
        let early = Now { since_genesis_ns: 0, lengths: SlotLengths { slots_per_epoch: 4, ..NOW.lengths } };
        assert_eq!(receive(&bytes, &peer(1), early), Err(Refusal::TooEarly));
        let mut other = message(1);
        other.topics.clear();
        assert_eq!(receive(&other.encode_to_vec(), &peer(1), NOW), Err(Refusal::WrongSignature));
        other.topics.push(PriorityTopicProposal::default());
        assert_eq!(receive(&other.encode_to_vec(), &peer(1), NOW), Err(Refusal::Absent("topic")));
        other.topics = vec![PriorityTopicProposal::default(); MAX_TOPICS + 1];
        assert_eq!(receive(&other.encode_to_vec(), &peer(1), NOW), Err(Refusal::TooMany));
    }

    #[test]
    fn invalid_input_is_named() {
        let (one, two) = (message(1), message(2));
        assert_eq!(calculate(&[], 2), Err(InvalidInput::NoMessages));
        assert_eq!(calculate(&[one.clone(), one.clone()], 2), Err(InvalidInput::DuplicatePeer));
        let other_duty =
            PriorityMsg { duty: Some(Duty::new(63, DutyType::InfoSync).to_wire()), ..two.clone() };
        assert_eq!(calculate(&[one.clone(), other_duty], 2), Err(InvalidInput::DifferentDuties));
        let mut twice = two.clone();
        twice.topics.push(twice.topics[0].clone());
        assert_eq!(calculate(&[one.clone(), twice], 2), Err(InvalidInput::DuplicateTopic));
        let mut twice = two.clone();
        twice.topics[0].priorities[1] = twice.topics[0].priorities[0].clone();
        assert_eq!(calculate(&[one.clone(), twice], 2), Err(InvalidInput::DuplicatePriority));
        let mut many = two;
        many.topics[0].priorities = (0..1000).map(|i| StringValue::any(&i.to_string())).collect();
        assert_eq!(calculate(&[one, many], 2), Err(InvalidInput::TooManyPriorities));
    }

    #[test]
    fn the_result_comes_when_all_have_spoken_or_time_is_up_and_only_once() {
        let mut exchange = Exchange::new(DUTY, message(1), 3, 2);
        assert_eq!(exchange.add(DUTY, message(2)), None);
        assert_eq!(exchange.add(DUTY, message(2)), None, "the first message of a member counts");
        let result = exchange.add(DUTY, message(3)).unwrap().unwrap();
        assert_eq!(result.msgs.len(), 3);
        assert_eq!(exchange.time_up(), None);

        let mut alone = Exchange::new(DUTY, message(1), 3, 2);
        let result = alone.time_up().unwrap().unwrap();
        assert_eq!((result.msgs.len(), result.topics[0].priorities.len()), (1, 0));
    }

    proptest! {
        #[test]
        fn any_bytes_are_refused_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(receive(&bytes, &peer(1), NOW).is_err());
        }

        #[test]
        fn a_changed_byte_never_passes_for_another_message(at in 0_usize..200, bit in 0_u8..8) {
            let mut bytes = message(1).encode_to_vec();
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
            if let Ok((_, received)) = receive(&bytes, &peer(1), NOW) {
                let unsigned = |message: PriorityMsg| PriorityMsg { signature: Vec::new(), ..message };
                prop_assert_eq!(unsigned(received), unsigned(message(1)));
            }
        }
    }
}
