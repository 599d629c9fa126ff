//! The Obol network as the duty engine sees it, and the translations between its words and the wire's.
//!
//! A payload of the engine is the wire form of the object that is signed, without its signature (all zero): equal messages of
//! several members are equal bytes, which are kept once. A duty is scheduled with the beacon node's own description of it as JSON: an `AttesterDuty`
//! for attesters and their aggregators, a `ProposerDuty` for proposers and their randao, a `SyncDuty` for the sync
//! committee, and the message itself for exits and registrations.

mod aggregates;
mod attester;
mod proposer;
mod results;
mod selections;
mod signing;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use chain::{Epoch, ForkName, ForkSchedule, PublicKeyBytes, Root, SlotTiming};
use duty::{Duty, DutyKind, Known, Partial, Payload, Task, TaskId, Unreadable, Value};
use obol::consensus::{self, Seal};
use obol::signed::Signed;
use obol::wire::UnsignedDataSet;
use obol::{DutyType, parsigex, versioned};
use prost::Message as _;
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use aggregates::{contribution_value, is_selected, selected_subcommittees};
pub use attester::agreed_vote;
pub use proposer::{BlockFacts, agreed_block, facts_of, proposer_value};
pub use results::{Place, Published, published};
pub use selections::subcommittees;

/// Pure knowledge of one cluster's chain.
#[derive(Debug, Clone)]
pub struct ObolNetwork {
    /// The chain's clock.
    pub timing: SlotTiming,
    /// The chain's forks.
    pub schedule: ForkSchedule,
    /// The root that names the chain.
    pub genesis_validators_root: Root,
}

impl duty::Network for ObolNetwork {
    type Seal = Seal;

    fn read(&self, duty: Duty, value: &[u8], known: &Known<'_>) -> Result<Vec<Task>, Unreadable> {
        match duty.kind {
            DutyKind::Proposer => self.read_proposer(duty, value, known),
            DutyKind::Attester => self.read_attester(duty, value, known),
            DutyKind::Exit => self.exit_tasks(duty, known),
            DutyKind::BuilderRegistration => self.registration_tasks(known),
            DutyKind::Randao => self.randao_tasks(duty, known),
            DutyKind::PrepareAggregator => self.selection_tasks(duty, known),
            DutyKind::Aggregator => self.read_aggregator(duty, value, known),
            DutyKind::SyncMessage => self.read_sync_message(duty, value, known),
            DutyKind::PrepareSyncContribution => self.sync_selection_tasks(duty, known),
            DutyKind::SyncContribution => self.read_sync_contribution(duty, value, known),
            DutyKind::InfoSync => match obol::wire::PriorityResult::decode(value) {
                Ok(_) => Ok(Vec::new()), // Nothing is signed.
                Err(_) => Err(Unreadable("not a priority result".to_owned())),
            },
        }
    }
}

impl ObolNetwork {
    /// The number of the fork in force on the wire; only forks whose attestations we know.
    pub(super) fn fork_number(&self, epoch: Epoch) -> Result<u64, Unreadable> {
        match self.schedule.fork_name_at(epoch) {
            ForkName::Electra => Ok(versioned::ELECTRA),
            ForkName::Fulu => Ok(versioned::FULU),
            other @ (ForkName::Phase0
            | ForkName::Altair
            | ForkName::Bellatrix
            | ForkName::Capella
            | ForkName::Deneb
            | ForkName::Gloas) => Err(Unreadable(format!("this version cannot attest in the fork {other}"))),
        }
    }
}

/// The partial signatures of a checked message, for the engine.
pub fn partials_of(received: parsigex::Received) -> Vec<Partial> {
    let partial = |(validator, partial): (PublicKeyBytes, parsigex::Partial)| {
        Some(Partial {
            id: TaskId { validator, subcommittee: partial.signed.subcommittee() },
            message_root: partial.signed.message_root()?,
            signature: partial.signed.signature()?,
            data: Payload::from(partial.data),
        })
    };
    received.partials.into_iter().filter_map(partial).collect()
}

/// Our own partial signatures as messages. One message holds one entry per validator, so the several subcommittees of one
/// validator need several.
pub fn encode_partials(duty: Duty, share_index: u8, set: &[Partial]) -> Result<Vec<Vec<u8>>, Unreadable> {
    let wire = to_wire(duty)?;
    let mut by_subcommittee: BTreeMap<u64, Vec<(PublicKeyBytes, Signed)>> = BTreeMap::new();
    for partial in set {
        let signed = read_signed(duty, &partial.data)?.with_signature(partial.signature);
        by_subcommittee.entry(partial.id.subcommittee).or_default().push((partial.id.validator, signed));
    }
    let encode = |signed: &Vec<(PublicKeyBytes, Signed)>| {
        parsigex::encode(wire, share_index, signed.iter().map(|(validator, object)| (validator, object)))
    };
    Ok(by_subcommittee.values().map(encode).collect())
}

/// The wire's name of a duty.
pub fn to_wire(duty: Duty) -> Result<obol::Duty, Unreadable> {
    let kind = DutyType::from_wire(i32::from(duty.kind.row().number));
    let kind = kind.ok_or_else(|| Unreadable(format!("{duty} has no name on the wire")))?;
    Ok(obol::Duty::new(duty.slot.0, kind))
}

/// The duties whose agreements are listened to.
pub const AGREED_HERE: [DutyType; 5] = [
    DutyType::Proposer,
    DutyType::Attester,
    DutyType::Aggregator,
    DutyType::SyncContribution,
    DutyType::InfoSync,
];
/// The duties whose partial signatures are taken. Builder registrations are none: those of the lock are used.
pub const SIGNED_HERE: [DutyType; 9] = [
    DutyType::Proposer,
    DutyType::Attester,
    DutyType::Exit,
    DutyType::Randao,
    DutyType::PrepareAggregator,
    DutyType::Aggregator,
    DutyType::SyncMessage,
    DutyType::PrepareSyncContribution,
    DutyType::SyncContribution,
];

/// Our name of a duty of the wire; `None` for kinds that run mode does not have.
pub fn from_wire(duty: obol::Duty) -> Option<Duty> {
    let kind = DutyKind::from_number(i64::from(duty.kind.number())).ok()?;
    Some(Duty::new(chain::Slot(duty.slot), kind))
}

/// What a duty is scheduled with.
pub fn describe(duty: &impl Serialize) -> Payload {
    // These types have string keys only and cannot fail; an empty description is refused when it is read.
    Payload::from(serde_json::to_vec(duty).unwrap_or_default())
}

/// What a validator's duty was scheduled with here. A validator that is not scheduled here has no duty to be signed.
fn definition<T: DeserializeOwned>(known: &Known<'_>, validator: &PublicKeyBytes) -> Result<T, Unreadable> {
    let bytes = known
        .validators
        .get(validator)
        .ok_or_else(|| Unreadable(format!("{validator} does not have this duty")))?;
    serde_json::from_slice(bytes)
        .map_err(|_| Unreadable(format!("our own description of the duty of {validator} cannot be read")))
}

/// Reads a payload.
fn read_signed(duty: Duty, payload: &[u8]) -> Result<Signed, Unreadable> {
    let duty = to_wire(duty)?;
    Signed::decode(duty.kind, payload).map_err(|error| Unreadable(format!("{duty}: {error}")))
}

/// A message that nobody has signed yet.
fn task(id: TaskId, unsigned: &Signed) -> Result<Task, Unreadable> {
    let message_root =
        unsigned.message_root().ok_or_else(|| Unreadable("a message without a meaning".to_owned()))?;
    Ok(Task { id, message_root, vote: None, data: Payload::from(unsigned.encode()) })
}

/// A set as a value to agree on.
fn value_of(set: &UnsignedDataSet) -> Value {
    let (digest, bytes) = consensus::value_of(set);
    Value { digest, bytes }
}
