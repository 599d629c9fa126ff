//! What validators sign in the simulation: attestations, blocks, and everything that nobody is punished for.

use chain::{Root, Slot};
use duty::{DutyKind, Payload};

use crate::values::{Attestation, fingerprint};

/// One message of any kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Message {
    Attestation(Attestation),
    Block(Block),
    Harmless(Harmless),
}

/// A block: two different ones of one slot are punished.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Block {
    pub(crate) slot: Slot,
    pub(crate) body: Root,
    /// The group's reveal in it.
    pub(crate) reveal: Root,
}

/// A reveal, a selection, a vote of a sync-committee member, an aggregate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Harmless {
    pub(crate) kind: u8,
    pub(crate) slot: Slot,
    pub(crate) content: Root,
}

impl Message {
    pub(crate) fn harmless(kind: DutyKind, slot: Slot, content: Root) -> Self {
        Message::Harmless(Harmless { kind: kind.row().number, slot, content })
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        match self {
            Message::Attestation(attestation) => {
                bytes.push(0);
                bytes.extend(attestation.encode());
            }
            Message::Block(block) => {
                bytes.push(1);
                bytes.extend(block.slot.0.to_le_bytes());
                bytes.extend(block.body.0);
                bytes.extend(block.reveal.0);
            }
            Message::Harmless(harmless) => {
                bytes.extend([2, harmless.kind]);
                bytes.extend(harmless.slot.0.to_le_bytes());
                bytes.extend(harmless.content.0);
            }
        }
        bytes
    }

    /// The message in front, and what follows it.
    pub(crate) fn split(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (tag, rest) = bytes.split_first()?;
        match tag {
            0 => {
                let (head, rest) = rest.split_at_checked(Attestation::BYTES)?;
                Some((Message::Attestation(Attestation::decode(head)?), rest))
            }
            1 => {
                let (slot, rest) = rest.split_first_chunk::<8>()?;
                let (body, rest) = rest.split_first_chunk::<32>()?;
                let (reveal, rest) = rest.split_first_chunk::<32>()?;
                let slot = Slot(u64::from_le_bytes(*slot));
                Some((Message::Block(Block { slot, body: Root(*body), reveal: Root(*reveal) }), rest))
            }
            2 => {
                let (kind, rest) = rest.split_first()?;
                let (slot, rest) = rest.split_first_chunk::<8>()?;
                let (content, rest) = rest.split_first_chunk::<32>()?;
                let slot = Slot(u64::from_le_bytes(*slot));
                Some((Message::Harmless(Harmless { kind: *kind, slot, content: Root(*content) }), rest))
            }
            _ => None,
        }
    }

    /// What a signer or a simulated peer reads.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        Self::split(bytes).filter(|(_, rest)| rest.is_empty()).map(|(message, _)| message)
    }

    pub(crate) fn message_root(&self) -> Root {
        Root(fingerprint(&[&self.encode()]))
    }

    pub(crate) fn payload(&self) -> Payload {
        Payload::from(self.encode())
    }

    /// Whether one validator signing both would be slashed.
    pub(crate) fn conflicts_with(&self, other: &Message) -> bool {
        match (self, other) {
            (Message::Attestation(one), Message::Attestation(two)) => one.conflicts_with(two),
            (Message::Block(one), Message::Block(two)) => one != two && one.slot == two.slot,
            (Message::Attestation(_) | Message::Block(_) | Message::Harmless(_), _) => false,
        }
    }
}
