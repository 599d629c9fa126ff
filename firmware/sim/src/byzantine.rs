//! Members that lie. Each runs the honest engine, so that it looks plausible, and twists what goes out.
//!
//! A liar says anything in its own name and repeats anything it heard; what it cannot do is forge somebody else's seal.

use std::collections::{BTreeMap, BTreeSet};

use chain::{Root, SignatureBytes};
use duty::{Digest, Duty, Partial, Value};
use qbft::{Ballot, Kind, Member, Message, Vote};
use rand::Rng;
use rand_chacha::ChaCha8Rng;

use crate::crypto::Keys;
use crate::messages;
use crate::send::Packet;
use crate::values::{Attestation, Seal, seal, validator, value_of};

/// How a liar lies.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Twist {
    /// Says nothing at all.
    silent: bool,
    /// Tells odd members another value than even ones.
    two_faced: bool,
    /// The other value votes for other checkpoints, and not only for another head.
    other_checkpoints: bool,
    /// Prepares and commits everything it sees.
    votes_for_everything: bool,
    /// Chance to answer a message with nonsense.
    babbles: f64,
    /// What its partial signatures are worth.
    partials: PartialLie,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PartialLie {
    None,
    Garbage,
    OtherMessage,
    Both,
}

/// What a liar remembers, to lie better.
#[derive(Default)]
pub(crate) struct Memory {
    votes: Vec<(Duty, Vote<Seal>)>,
    values: BTreeMap<Duty, Vec<Value>>,
    voted: BTreeSet<(Duty, u64, Digest)>,
}

const MAX_REMEMBERED: usize = 200;

impl Twist {
    pub(crate) fn draw(rng: &mut ChaCha8Rng) -> Self {
        let partials = match rng.random_range(0..4) {
            0 => PartialLie::Garbage,
            1 => PartialLie::OtherMessage,
            2 => PartialLie::Both,
            _ => PartialLie::None,
        };
        Twist {
            silent: rng.random_bool(0.15),
            two_faced: rng.random_bool(0.6),
            other_checkpoints: rng.random_bool(0.5),
            votes_for_everything: rng.random_bool(0.5),
            babbles: if rng.random_bool(0.5) { 0.2 } else { 0.0 },
            partials,
        }
    }

    /// What `to` gets instead of `packet`.
    pub(crate) fn on_send(
        &self,
        me: Member,
        to: Member,
        packet: &Packet,
        validators: &[u8],
        keys: &Keys,
    ) -> Vec<Packet> {
        if self.silent {
            return Vec::new();
        }
        match packet {
            Packet::Agreement { duty, message, .. } if self.two_faced && to.0 % 2 == 1 => {
                self.other_face(me, *duty, message, packet, validators).into_iter().collect()
            }
            Packet::Partials { duty, set } => self.lie_in_partials(me, *duty, set, keys),
            Packet::Agreement { .. } => vec![packet.clone()],
        }
    }

    /// The same vote for another value.
    fn other_face(
        &self,
        me: Member,
        duty: Duty,
        message: &Message<Seal>,
        packet: &Packet,
        validators: &[u8],
    ) -> Option<Packet> {
        let Packet::Agreement { values, .. } = packet else { return None };
        let ballot = message.vote.ballot;
        let swaps = matches!(ballot.kind, Kind::PrePrepare | Kind::Prepare | Kind::Commit);
        let original = values.iter().find(|value| value.digest == ballot.value).filter(|_| swaps);
        let Some(original) = original else { return Some(packet.clone()) };
        let other = self.other_value(original, validators)?;
        let mut message = message.clone();
        message.vote.ballot.value = other.digest;
        seal(duty, me, &mut message);
        let mut values = values.clone();
        values.push(other);
        Some(Packet::Agreement { duty, message, values })
    }

    fn other_value(&self, original: &Value, validators: &[u8]) -> Option<Value> {
        let (message, numbers) = messages::Message::split(&original.bytes)?;
        let numbers = if numbers.is_empty() { validators } else { numbers };
        let keys: Vec<_> = numbers.iter().map(|number| validator(*number)).collect();
        Some(value_of(&self.other_message(message), &keys))
    }

    fn other_message(&self, message: messages::Message) -> messages::Message {
        match message {
            messages::Message::Attestation(attestation) => {
                messages::Message::Attestation(self.other_attestation(attestation))
            }
            messages::Message::Block(mut block) => {
                block.body = Root([0xee; 32]);
                messages::Message::Block(block)
            }
            messages::Message::Harmless(mut harmless) => {
                harmless.content = Root([0xee; 32]);
                messages::Message::Harmless(harmless)
            }
        }
    }

    fn other_attestation(&self, mut attestation: Attestation) -> Attestation {
        attestation.head = Root([0xee; 32]);
        if self.other_checkpoints {
            // One of these surrounds, or is surrounded by, what is right in another epoch.
            let latest = attestation.target.0.saturating_sub(1);
            let source = if attestation.source.0 < latest { latest } else { latest.saturating_sub(1) };
            attestation.source = (source, Root([0xdd; 32]));
            attestation.target.1 = Root([0xcc; 32]);
        }
        attestation
    }

    fn lie_in_partials(&self, me: Member, duty: Duty, set: &[Partial], keys: &Keys) -> Vec<Packet> {
        let garbage = |partial: &Partial| Partial { signature: SignatureBytes([7; 96]), ..partial.clone() };
        let other = |partial: &Partial| {
            let other = self.other_message(messages::Message::decode(&partial.data)?);
            let message_root = other.message_root();
            let signature = keys.sign(me, &partial.id.validator, message_root);
            Some(Partial { id: partial.id, message_root, signature, data: other.payload() })
        };
        let packet = |set: Vec<Partial>| Packet::Partials { duty, set };
        match self.partials {
            PartialLie::None => vec![packet(set.to_vec())],
            PartialLie::Garbage => vec![packet(set.iter().map(garbage).collect())],
            PartialLie::OtherMessage => vec![packet(set.iter().filter_map(other).collect())],
            PartialLie::Both => vec![packet(set.iter().filter_map(other).collect()), packet(set.to_vec())],
        }
    }

    /// What a liar says, and to whom, upon hearing `packet`.
    pub(crate) fn on_receive(
        &self,
        me: Member,
        members: usize,
        memory: &mut Memory,
        packet: &Packet,
        rng: &mut ChaCha8Rng,
    ) -> Vec<(Member, Packet)> {
        let Packet::Agreement { duty, message, values } = packet else { return Vec::new() };
        if self.silent {
            return Vec::new();
        }
        memory.remember(*duty, message, values);
        let mut said = Vec::new();
        if self.votes_for_everything {
            said.extend(vote_for(me, members, *duty, message, memory));
        }
        if rng.random_bool(self.babbles) {
            let to = Member(u8::try_from(rng.random_range(0..members)).unwrap_or(0));
            said.extend(memory.nonsense(me, members, *duty, rng).map(|packet| (to, packet)));
        }
        said.retain(|(to, _)| *to != me);
        said
    }
}

/// PREPARE and COMMIT for whatever the message is about, to everybody.
fn vote_for(
    me: Member,
    members: usize,
    duty: Duty,
    message: &Message<Seal>,
    memory: &mut Memory,
) -> Vec<(Member, Packet)> {
    let Ballot { round, value, .. } = message.vote.ballot;
    if value.is_zero() || !memory.voted.insert((duty, round, value)) {
        return Vec::new();
    }
    let values: Vec<Value> = memory.known(duty, value).into_iter().collect();
    let mut said = Vec::new();
    for kind in [Kind::Prepare, Kind::Commit] {
        let ballot = Ballot::for_value(kind, me, round, value);
        let vote = Vote { ballot, seal: Some(Seal::new(duty, &ballot)) };
        let message = Message { vote, justification: Vec::new() };
        let packet = Packet::Agreement { duty, message, values: values.clone() };
        said.extend((0..members).filter_map(|to| Some((Member(u8::try_from(to).ok()?), packet.clone()))));
    }
    said
}

impl Memory {
    fn remember(&mut self, duty: Duty, message: &Message<Seal>, values: &[Value]) {
        if self.votes.len() < MAX_REMEMBERED {
            let votes = std::iter::once(&message.vote).chain(&message.justification).cloned();
            self.votes.extend(votes.map(|vote| (duty, vote)));
        }
        let known = self.values.entry(duty).or_default();
        for value in values {
            if known.len() < MAX_REMEMBERED && !known.contains(value) {
                known.push(value.clone());
            }
        }
    }

    fn known(&self, duty: Duty, digest: Digest) -> Option<Value> {
        self.values.get(&duty)?.iter().find(|value| value.digest == digest).cloned()
    }

    /// A message that could be anything, justified by a random choice of what was heard.
    fn nonsense(&self, me: Member, members: usize, duty: Duty, rng: &mut ChaCha8Rng) -> Option<Packet> {
        let values = self.values.get(&duty).cloned().unwrap_or_default();
        let any_digest = |rng: &mut ChaCha8Rng| match rng.random_range(0..6) {
            0 => Digest::ZERO,
            1 => Digest([9; 32]),
            _ => values.get(rng.random_range(0..values.len().max(1))).map_or(Digest::ZERO, |v| v.digest),
        };
        let ballot = Ballot {
            kind: Kind::from_number(rng.random_range(1..=5))?,
            author: me,
            round: rng.random_range(0..6),
            value: any_digest(rng),
            prepared_round: rng.random_range(0..4),
            prepared_value: any_digest(rng),
        };
        let heard: Vec<&Vote<Seal>> = self.votes.iter().filter(|(d, _)| *d == duty).map(|(_, v)| v).collect();
        let count = if heard.is_empty() { 0 } else { rng.random_range(0..=2 * members + 1) };
        let justification = (0..count).map(|_| heard[rng.random_range(0..heard.len())].clone()).collect();
        let seal = if rng.random_bool(0.1) { Seal::forged() } else { Seal::new(duty, &ballot) };
        let message = Message { vote: Vote { ballot, seal: Some(seal) }, justification };
        Some(Packet::Agreement { duty, message, values })
    }
}
