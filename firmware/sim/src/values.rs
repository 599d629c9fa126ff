//! The network of the simulation: a value is one message for several validators.

use chain::{Checkpoint, Epoch, PublicKeyBytes, Root, SignatureBytes, Slot, SlotTiming};
use duty::{Digest, Duty, DutyKind, Known, Network, Task, TaskId, Unreadable, Value, Vote};
use qbft::{Ballot, Member};

use crate::messages::{Block, Message};

/// A fast fingerprint; nobody here searches for collisions.
pub(crate) fn fingerprint(parts: &[&[u8]]) -> [u8; 32] {
    let mut lanes =
        [0x9e37_79b9_7f4a_7c15_u64, 0xbf58_476d_1ce4_e5b9, 0x94d0_49bb_1331_11eb, 0x2545_f491_4f6c_dd1d];
    for part in parts {
        for chunk in part.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            let word = u64::from_le_bytes(word);
            for (lane, rotation) in lanes.iter_mut().zip([5, 17, 29, 43]) {
                *lane =
                    (*lane ^ word).wrapping_mul(0xff51_afd7_ed55_8ccd).rotate_left(rotation) ^ (*lane >> 33);
            }
        }
        for (lane, length) in lanes.iter_mut().zip([part.len(); 4]) {
            *lane = lane.wrapping_add(u64::try_from(length).unwrap_or(0)).rotate_left(31);
        }
    }
    let mut bytes = [0; 32];
    for (eight, lane) in bytes.chunks_mut(8).zip(lanes) {
        eight.copy_from_slice(&lane.to_le_bytes());
    }
    bytes
}

/// What an attestation says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Attestation {
    pub(crate) slot: Slot,
    pub(crate) head: Root,
    pub(crate) source: (Epoch, Root),
    pub(crate) target: (Epoch, Root),
}

impl Attestation {
    pub(crate) const BYTES: usize = 8 + 32 + 40 + 40;

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(Self::BYTES);
        bytes.extend(self.slot.0.to_le_bytes());
        bytes.extend(self.head.0);
        for (epoch, root) in [self.source, self.target] {
            bytes.extend(epoch.0.to_le_bytes());
            bytes.extend(root.0);
        }
        bytes
    }

    /// What a signer or a simulated peer reads.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (slot, rest) = bytes.split_first_chunk::<8>()?;
        let (head, rest) = rest.split_first_chunk::<32>()?;
        let (source_epoch, rest) = rest.split_first_chunk::<8>()?;
        let (source_root, rest) = rest.split_first_chunk::<32>()?;
        let (target_epoch, rest) = rest.split_first_chunk::<8>()?;
        let (target_root, rest) = rest.split_first_chunk::<32>()?;
        rest.is_empty().then_some(Attestation {
            slot: Slot(u64::from_le_bytes(*slot)),
            head: Root(*head),
            source: (Epoch(u64::from_le_bytes(*source_epoch)), Root(*source_root)),
            target: (Epoch(u64::from_le_bytes(*target_epoch)), Root(*target_root)),
        })
    }

    /// Whether one validator signing both would be slashed.
    pub(crate) fn conflicts_with(&self, other: &Attestation) -> bool {
        let double = self != other && self.target.0 == other.target.0;
        let surrounds = |a: &Attestation, b: &Attestation| a.source.0 < b.source.0 && b.target.0 < a.target.0;
        double || surrounds(self, other) || surrounds(other, self)
    }
}

/// Validator number `number`.
pub(crate) fn validator(number: u8) -> PublicKeyBytes {
    PublicKeyBytes([number; 48])
}

/// Proof of authorship: a fingerprint that the simulation never makes in somebody else's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Seal(u64);

impl Seal {
    pub(crate) fn new(duty: Duty, ballot: &Ballot) -> Self {
        let fields = [
            duty.slot.0.to_le_bytes(),
            [ballot.kind.number(), ballot.author.0, duty.kind.row().number, 0, 0, 0, 0, 0],
            ballot.round.to_le_bytes(),
            ballot.prepared_round.to_le_bytes(),
        ];
        let print = fingerprint(&[fields.as_flattened(), &ballot.value.0, &ballot.prepared_value.0]);
        Seal(u64::from_le_bytes([
            print[0], print[1], print[2], print[3], print[4], print[5], print[6], print[7],
        ]))
    }

    pub(crate) fn forged() -> Self {
        Seal(0)
    }
}

/// Signs everything of our own in a message, as a shell does before it sends.
pub(crate) fn seal(duty: Duty, me: Member, message: &mut qbft::Message<Seal>) {
    for vote in std::iter::once(&mut message.vote).chain(&mut message.justification) {
        if vote.ballot.author == me {
            vote.seal = Some(Seal::new(duty, &vote.ballot));
        }
    }
}

/// What a shell checks before it hands a message to the engine.
pub(crate) fn sealed_well(duty: Duty, message: &qbft::Message<Seal>) -> bool {
    std::iter::once(&message.vote)
        .chain(&message.justification)
        .all(|vote| vote.seal == Some(Seal::new(duty, &vote.ballot)))
}

/// What a shell checks before it hands values to the engine.
pub(crate) fn digests_match(values: &[Value]) -> bool {
    values.iter().all(|value| value.digest == Digest(fingerprint(&[&value.bytes])))
}

/// The value that a message is agreed on as, for these validators.
pub(crate) fn value_of(message: &Message, validators: &[PublicKeyBytes]) -> Value {
    let mut bytes = message.encode();
    validators.iter().for_each(|validator| bytes.push(validator.0[0]));
    Value { digest: Digest(fingerprint(&[&bytes])), bytes: bytes.into() }
}

/// Whether a group signature selects its validator.
pub(crate) fn selects(signature: &SignatureBytes) -> bool {
    signature.0[95].is_multiple_of(2)
}

/// The adapter.
pub(crate) struct SimNetwork {
    pub(crate) timing: SlotTiming,
}

impl Network for SimNetwork {
    type Seal = Seal;

    fn read(&self, duty: Duty, value: &[u8], known: &Known<'_>) -> Result<Vec<Task>, Unreadable> {
        let unreadable = |why: &str| Unreadable(why.to_owned());
        let task = |validator: PublicKeyBytes, message: Message| Task {
            id: TaskId::from(validator),
            message_root: message.message_root(),
            vote: vote_of(&message),
            data: message.payload(),
        };
        if matches!(
            duty.kind,
            DutyKind::Randao | DutyKind::PrepareAggregator | DutyKind::PrepareSyncContribution
        ) {
            // A reveal is of the epoch; two proposals of one epoch have the same.
            let reveals = duty.kind == DutyKind::Randao;
            let content = if reveals { self.timing.epoch_of(duty.slot).0 } else { duty.slot.0 };
            let content = Root(fingerprint(&[&content.to_le_bytes()]));
            let message = Message::harmless(duty.kind, duty.slot, content);
            return Ok(known.validators.keys().map(|validator| task(*validator, message)).collect());
        }
        let (message, numbers) = Message::split(value).ok_or_else(|| unreadable("value does not decode"))?;
        self.check(duty, &message).map_err(unreadable)?;
        let named = numbers.iter().map(|number| validator(*number));
        match duty.kind {
            DutyKind::SyncMessage => Ok(known.validators.keys().map(|v| task(*v, message)).collect()),
            DutyKind::Proposer => {
                let [number] = numbers else { return Err(unreadable("not one proposer")) };
                let proposer = validator(*number);
                let reveal = known.given.get(&(DutyKind::Randao, TaskId::from(proposer)));
                let wrong =
                    |block: &Block| reveal.is_some_and(|reveal| print_of(&reveal.signature) != block.reveal);
                if matches!(&message, Message::Block(block) if wrong(block)) {
                    return Err(unreadable("another reveal"));
                }
                Ok(vec![task(proposer, message)])
            }
            DutyKind::Aggregator | DutyKind::SyncContribution => {
                let needs = duty.kind.row().needs[0];
                let mut tasks = Vec::new();
                for validator in named {
                    let Some(proof) = known.given.get(&(needs, TaskId::from(validator))) else { continue };
                    if !selects(&proof.signature) {
                        return Err(unreadable("not selected"));
                    }
                    let content = [&message.encode()[..], &proof.signature.0];
                    let content = Root(fingerprint(&content));
                    tasks.push(task(validator, Message::harmless(duty.kind, duty.slot, content)));
                }
                Ok(tasks)
            }
            DutyKind::Attester
            | DutyKind::Exit
            | DutyKind::BuilderRegistration
            | DutyKind::Randao
            | DutyKind::PrepareAggregator
            | DutyKind::PrepareSyncContribution
            | DutyKind::InfoSync => Ok(named.map(|validator| task(validator, message)).collect()),
        }
    }
}

impl SimNetwork {
    /// Whether a message is for exactly this duty.
    fn check(&self, duty: Duty, message: &Message) -> Result<(), &'static str> {
        let right = match message {
            Message::Attestation(attestation) => {
                if attestation.source.0 >= attestation.target.0 {
                    return Err("source is not before target");
                }
                duty.kind == DutyKind::Attester
                    && attestation.slot == duty.slot
                    && attestation.target.0 == self.timing.epoch_of(duty.slot)
            }
            Message::Block(block) => duty.kind == DutyKind::Proposer && block.slot == duty.slot,
            Message::Harmless(harmless) => {
                harmless.slot == duty.slot && harmless.kind == duty.kind.row().number
            }
        };
        if right { Ok(()) } else { Err("value for another duty") }
    }
}

/// What a block says of a reveal.
pub(crate) fn print_of(signature: &SignatureBytes) -> Root {
    Root(fingerprint(&[&signature.0]))
}

fn vote_of(message: &Message) -> Option<Vote> {
    let Message::Attestation(attestation) = message else { return None };
    let checkpoint = |(epoch, root)| Checkpoint { epoch, root };
    Some(Vote { source: checkpoint(attestation.source), target: checkpoint(attestation.target) })
}
