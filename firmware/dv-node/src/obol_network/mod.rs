//! The Obol network as the duty engine sees it, and the translations between its words and the wire's.
//!
//! A payload of the engine is the wire form of the object: for attester duties a `VersionedAttestation`, unsigned (all-zero
//! signature) in tasks, and as it came in partial signatures.

use std::collections::BTreeMap;

use chain::{
    Attestation, AttestationData, AttesterDuty, Epoch, ForkName, ForkSchedule, PublicKeyBytes, Root,
    SignatureBytes, SingleAttestation, SlotTiming, ValidatorIndex,
};
use duty::{Duty, DutyKind, Known, Partial, Payload, Task, TaskId, Unreadable, Value, Vote};
use obol::attestation::{AnyAttestation, VersionedAttestation};
use obol::consensus::{self, Seal};
use obol::signed::Signed;
use obol::unsigned::{AttesterData, read_set_key, set_key};
use obol::wire::UnsignedDataSet;
use obol::{DutyType, parsigex, versioned};
use prost::Message as _;
use ssz_types::{BitList, BitVector};
use tree_hash::TreeHash as _;

/// Pure knowledge of one cluster's chain.
#[derive(Debug, Clone)]
pub struct ObolNetwork {
    /// The chain's clock.
    pub timing: SlotTiming,
    /// The chain's forks.
    pub schedule: ForkSchedule,
}

impl duty::Network for ObolNetwork {
    type Seal = Seal;

    fn read(&self, duty: Duty, value: &[u8], _: &Known<'_>) -> Result<Vec<Task>, Unreadable> {
        match duty.kind {
            DutyKind::Attester => self.read_attester(duty, value),
            DutyKind::InfoSync => match obol::wire::PriorityResult::decode(value) {
                Ok(_) => Ok(Vec::new()), // Nothing is signed.
                Err(_) => Err(Unreadable("not a priority result".to_owned())),
            },
            DutyKind::Proposer
            | DutyKind::Exit
            | DutyKind::BuilderRegistration
            | DutyKind::Randao
            | DutyKind::PrepareAggregator
            | DutyKind::Aggregator
            | DutyKind::SyncMessage
            | DutyKind::PrepareSyncContribution
            | DutyKind::SyncContribution => {
                Err(Unreadable(format!("this version does not do {} duties", duty.kind.row().name)))
            }
        }
    }
}

impl ObolNetwork {
    fn read_attester(&self, duty: Duty, value: &[u8]) -> Result<Vec<Task>, Unreadable> {
        let set = UnsignedDataSet::decode(value)
            .map_err(|_| Unreadable("not a set of unsigned data".to_owned()))?;
        let mut tasks = Vec::with_capacity(set.set.len());
        for (key, bytes) in &set.set {
            let validator =
                read_set_key(key).ok_or_else(|| Unreadable(format!("{key:.20} is not a public key")))?;
            let data = AttesterData::decode(bytes)
                .map_err(|_| Unreadable(format!("the attestation data of {validator} cannot be read")))?;
            self.check_attester(duty, &validator, &data).map_err(Unreadable)?;
            tasks.push(self.attester_task(validator, &data)?);
        }
        Ok(tasks)
    }

    /// What must hold whatever the members agreed on: the vote is for this duty's slot and validator, and its checkpoints
    /// are in order. A vote for anything else is never given to the signer.
    fn check_attester(
        &self,
        duty: Duty,
        validator: &PublicKeyBytes,
        data: &AttesterData,
    ) -> Result<(), String> {
        let vote = &data.attestation_data;
        let epoch = self.timing.epoch_of(duty.slot);
        let wrong = |what: String| Err(format!("the attestation data of {validator} is {what}"));
        if vote.slot != duty.slot || data.attestation_duty.slot != duty.slot {
            return wrong(format!("for slot {}, not {}", vote.slot, duty.slot));
        }
        if data.attestation_duty.pubkey != *validator {
            return wrong(format!("for validator {}", data.attestation_duty.pubkey));
        }
        if vote.index.0 != 0 {
            return wrong(format!("for committee {}, which the data of this fork does not name", vote.index));
        }
        if vote.target.epoch != epoch {
            return wrong(format!("for target epoch {}, not {epoch}", vote.target.epoch));
        }
        if vote.source.epoch >= vote.target.epoch && vote.target.epoch != Epoch(0) {
            return wrong(format!("for source epoch {}, which is not before its target", vote.source.epoch));
        }
        Ok(())
    }

    fn attester_task(&self, validator: PublicKeyBytes, data: &AttesterData) -> Result<Task, Unreadable> {
        let vote = data.attestation_data;
        let attestation = self.unsigned_attestation(data)?;
        Ok(Task {
            id: TaskId::from(validator),
            message_root: vote.tree_hash_root().into(),
            vote: Some(Vote { source: vote.source, target: vote.target }),
            data: Payload::from(attestation.encode()),
        })
    }

    fn unsigned_attestation(&self, data: &AttesterData) -> Result<VersionedAttestation, Unreadable> {
        let duty = &data.attestation_duty;
        let version = self.fork_number(self.timing.epoch_of(duty.slot))?;
        let unreadable = |what: &str| Unreadable(what.to_owned());
        let committee =
            usize::try_from(duty.committee_index.0).map_err(|_| unreadable("committee out of range"))?;
        let mut committee_bits = BitVector::new();
        committee_bits.set(committee, true).map_err(|_| unreadable("committee out of range"))?;
        let aggregation_bits = BitList::with_capacity(0).map_err(|_| unreadable("empty bits"))?;
        let attestation = Attestation {
            aggregation_bits,
            data: data.attestation_data,
            signature: SignatureBytes::ZERO,
            committee_bits,
        };
        Ok(VersionedAttestation {
            version,
            validator_index: Some(duty.validator_index),
            attestation: AnyAttestation::Electra(attestation),
        })
    }

    /// The number of the fork in force on the wire; only forks whose attestations we know.
    fn fork_number(&self, epoch: Epoch) -> Result<u64, Unreadable> {
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

    /// What we propose: the vote, with each validator's place.
    pub fn attester_value(
        &self,
        vote: AttestationData,
        duties: &BTreeMap<PublicKeyBytes, AttesterDuty>,
    ) -> Value {
        let entry = |(validator, duty): (&PublicKeyBytes, &AttesterDuty)| {
            let data = AttesterData { attestation_data: vote, attestation_duty: *duty };
            (set_key(validator), data.encode())
        };
        let (digest, bytes) =
            consensus::value_of(&UnsignedDataSet { set: duties.iter().map(entry).collect() });
        Value { digest, bytes }
    }
}

/// The vote inside an attester payload.
pub fn vote_of(payload: &[u8]) -> Result<AttestationData, Unreadable> {
    let attestation =
        VersionedAttestation::decode(payload).map_err(|_| Unreadable("not an attestation".to_owned()))?;
    Ok(*attestation.attestation.data())
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

/// Our own partial signatures as one message.
pub fn encode_partials(duty: Duty, share_index: u8, set: &[Partial]) -> Result<Vec<u8>, Unreadable> {
    let duty = to_wire(duty)?;
    let mut signed = Vec::with_capacity(set.len());
    for partial in set {
        let object = Signed::decode(duty.kind, &partial.data)
            .map_err(|_| Unreadable(format!("our own {duty} payload cannot be read")))?;
        signed.push((partial.id.validator, object.with_signature(partial.signature)));
    }
    Ok(parsigex::encode(duty, share_index, signed.iter().map(|(validator, object)| (validator, object))))
}

/// What goes to the beacon node. Our own duty is preferred over what others say about the validator's place, which
/// nobody signs.
pub fn single_attestation(
    payload: &[u8],
    signature: SignatureBytes,
    own: Option<&AttesterDuty>,
) -> Result<SingleAttestation, Unreadable> {
    let unreadable = |what: &str| Unreadable(what.to_owned());
    let versioned = VersionedAttestation::decode(payload).map_err(|_| unreadable("not an attestation"))?;
    let AnyAttestation::Electra(attestation) = &versioned.attestation else {
        return Err(unreadable("an attestation from before electra"));
    };
    let (committee_index, attester_index) = match own {
        Some(duty) => (duty.committee_index, duty.validator_index),
        None => {
            let bit = attestation.committee_bits.iter().position(|bit| bit);
            let committee =
                bit.and_then(|bit| u64::try_from(bit).ok()).ok_or_else(|| unreadable("no committee"))?;
            let index: ValidatorIndex =
                versioned.validator_index.ok_or_else(|| unreadable("no validator index"))?;
            (chain::CommitteeIndex(committee), index)
        }
    };
    Ok(SingleAttestation { committee_index, attester_index, data: attestation.data, signature })
}

/// The wire's name of a duty.
pub fn to_wire(duty: Duty) -> Result<obol::Duty, Unreadable> {
    let kind = DutyType::from_wire(i32::from(duty.kind.row().number));
    let kind = kind.ok_or_else(|| Unreadable(format!("{duty} has no name on the wire")))?;
    Ok(obol::Duty::new(duty.slot.0, kind))
}

/// The duties whose agreements are listened to.
pub const AGREED_HERE: [DutyType; 2] = [DutyType::Attester, DutyType::InfoSync];
/// The duties whose partial signatures are taken.
pub const SIGNED_HERE: [DutyType; 2] = [DutyType::Attester, DutyType::Exit];

/// Our name of a duty of the wire; `None` for kinds that run mode does not have.
pub fn from_wire(duty: obol::Duty) -> Option<Duty> {
    let kind = DutyKind::from_number(i64::from(duty.kind.number())).ok()?;
    Some(Duty::new(chain::Slot(duty.slot), kind))
}

/// What is signed for a vote.
pub fn attester_signing_root(
    message_root: Root,
    vote: &AttestationData,
    fork_info: &chain::ForkInfo,
) -> Root {
    let domain = chain::domain::domain_at(chain::domain::BEACON_ATTESTER, vote.target.epoch, fork_info);
    chain::domain::signing_root_of(message_root, domain)
}

#[cfg(test)]
mod tests {
    use chain::{Checkpoint, CommitteeIndex, ForkVersion, ScheduledFork, Slot};
    use duty::Network as _;
    use proptest::prelude::*;

    use super::*;

    const VALIDATOR: PublicKeyBytes = PublicKeyBytes([7; 48]);

    fn network(newest: ForkName) -> ObolNetwork {
        let forks = ForkName::ALL.into_iter().filter(|fork| *fork <= newest);
        let fork = |name| ScheduledFork { name, version: ForkVersion([name as u8; 4]), epoch: Epoch(0) };
        ObolNetwork {
            timing: SlotTiming::new(0, 12_000, 8).unwrap(),
            schedule: ForkSchedule::new(forks.map(fork)).unwrap(),
        }
    }

    fn vote() -> AttestationData {
        let checkpoint = |epoch: u64| Checkpoint { epoch: Epoch(epoch), root: Root([9; 32]) };
        AttestationData {
            slot: Slot(42),
            index: CommitteeIndex(0),
            beacon_block_root: Root([1; 32]),
            source: checkpoint(4),
            target: checkpoint(5),
        }
    }

    fn duty() -> AttesterDuty {
        AttesterDuty {
            pubkey: VALIDATOR,
            validator_index: ValidatorIndex(11),
            committee_index: CommitteeIndex(3),
            committee_length: 64,
            committees_at_slot: 4,
            validator_committee_index: 5,
            slot: Slot(42),
        }
    }

    fn attester() -> Duty {
        Duty::new(Slot(42), DutyKind::Attester)
    }

    fn read_as(network: &ObolNetwork, duty: Duty, value: &[u8]) -> Result<Vec<Task>, Unreadable> {
        let (validators, given) = Default::default();
        network.read(duty, value, &Known { validators: &validators, given: &given })
    }

    fn read_alone(network: &ObolNetwork, value: &[u8]) -> Result<Vec<Task>, Unreadable> {
        read_as(network, attester(), value)
    }

    fn read(change: impl FnOnce(&mut AttestationData, &mut AttesterDuty)) -> Result<Vec<Task>, Unreadable> {
        let (mut vote, mut duty) = (vote(), duty());
        change(&mut vote, &mut duty);
        let network = network(ForkName::Electra);
        let value = network.attester_value(vote, &BTreeMap::from([(VALIDATOR, duty)]));
        read_alone(&network, &value.bytes)
    }

    #[test]
    fn what_we_propose_can_be_read_signed_sent_and_published() {
        let tasks = read(|_, _| ()).unwrap();
        let [task] = tasks.as_slice() else { panic!("{tasks:?}") };
        assert_eq!(vote_of(&task.data).unwrap(), vote());
        let signature = SignatureBytes([5; 96]);
        let partial =
            Partial { id: task.id, message_root: task.message_root, signature, data: task.data.clone() };
        let bytes = encode_partials(attester(), 2, &[partial]).unwrap();
        let context = parsigex::Context {
            validators: &[VALIDATOR].into(),
            members: 4,
            kinds: &SIGNED_HERE,
            now: obol::duty::Now {
                since_genesis_ns: 42 * 12_000_000_000,
                lengths: obol::duty::SlotLengths { slot_ns: 12_000_000_000, slots_per_epoch: 8 },
            },
            sender: 2,
        };
        let heard = partials_of(parsigex::receive(&bytes, &context).unwrap());
        assert_eq!((heard[0].message_root, heard[0].signature), (task.message_root, signature));
        for own in [None, Some(&duty())] {
            let single = single_attestation(&heard[0].data, signature, own).unwrap();
            assert_eq!((single.committee_index.0, single.attester_index.0, single.data), (3, 11, vote()));
        }
    }

    #[test]
    fn a_vote_for_anything_but_this_duty_is_never_read() {
        assert!(read(|_, _| ()).is_ok());
        type Change = fn(&mut AttestationData, &mut AttesterDuty);
        let table: [(&str, Change); 9] = [
            ("another slot", |vote, _| vote.slot = Slot(43)),
            ("a duty of another slot", |_, duty| duty.slot = Slot(41)),
            ("another validator", |_, duty| duty.pubkey = PublicKeyBytes([8; 48])),
            ("a committee", |vote, _| vote.index = CommitteeIndex(3)),
            ("a later target", |vote, _| vote.target.epoch = Epoch(6)),
            ("an earlier target", |vote, _| vote.target.epoch = Epoch(4)),
            ("a source that is the target", |vote, _| vote.source.epoch = Epoch(5)),
            ("a source after the target", |vote, _| vote.source.epoch = Epoch(6)),
            ("no such committee", |_, duty| duty.committee_index = CommitteeIndex(64)),
        ];
        for (what, change) in table {
            assert!(read(change).is_err(), "{what}");
        }
    }

    #[test]
    fn in_the_first_epoch_source_and_target_are_the_genesis() {
        let network = network(ForkName::Fulu);
        let genesis = Checkpoint { epoch: Epoch(0), root: Root::ZERO };
        let vote = AttestationData { slot: Slot(3), source: genesis, target: genesis, ..vote() };
        let duty = AttesterDuty { slot: Slot(3), ..duty() };
        let value = network.attester_value(vote, &BTreeMap::from([(VALIDATOR, duty)]));
        assert_eq!(read_as(&network, Duty::new(Slot(3), DutyKind::Attester), &value.bytes).unwrap().len(), 1);
    }

    #[test]
    fn forks_whose_attestations_we_do_not_know_are_refused() {
        for (fork, readable) in [
            (ForkName::Deneb, false),
            (ForkName::Electra, true),
            (ForkName::Fulu, true),
            (ForkName::Gloas, false),
        ] {
            let network = network(fork);
            let value = network.attester_value(vote(), &BTreeMap::from([(VALIDATOR, duty())]));
            assert_eq!(read_alone(&network, &value.bytes).is_ok(), readable, "{fork}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]
        #[test]
        fn random_and_mutated_values_never_panic(
            random in proptest::collection::vec(any::<u8>(), 0..400),
            at: prop::sample::Index,
            flip in 1_u8..,
        ) {
            let network = network(ForkName::Electra);
            for kind in [DutyKind::Attester, DutyKind::InfoSync, DutyKind::Proposer] {
                let _ = read_as(&network, Duty::new(Slot(42), kind), &random);
            }
            let mut bytes = network.attester_value(vote(), &BTreeMap::from([(VALIDATOR, duty())])).bytes.to_vec();
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
            let _ = read_alone(&network, &bytes);
            let _ = vote_of(&random);
            let _ = single_attestation(&random, SignatureBytes::ZERO, None);
        }
    }
}
