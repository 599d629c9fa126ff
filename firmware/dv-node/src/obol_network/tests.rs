//! Every kind of duty from the value to what is published, and everything that must never be read.

use chain::{
    Attestation, AttestationData, AttesterDuty, BeaconBlock, BeaconBlockBody, Bytes32, Checkpoint,
    CommitteeIndex, ExecutionAddress, ExecutionPayload, ForkVersion, LogsBloom, ProposerDuty, ScheduledFork,
    SignatureBytes, Slot, SyncAggregate, SyncCommitteeContribution, SyncCommitteePosition, SyncDuty, Uint256,
    ValidatorIndex,
};
use duty::{Aggregate, Given, Network as _};
use obol::proposal::{Block, Contents, VersionedProposal};
use proptest::prelude::*;
use qbft::Member;
use ssz_types::{BitList, BitVector, VariableList};

use super::*;

const VALIDATOR: PublicKeyBytes = PublicKeyBytes([7; 48]);

fn network(newest: ForkName) -> ObolNetwork {
    let forks = ForkName::ALL.into_iter().filter(|fork| *fork <= newest);
    let fork = |name| ScheduledFork { name, version: ForkVersion([name as u8; 4]), epoch: Epoch(0) };
    ObolNetwork {
        timing: SlotTiming::new(0, 12_000, 8).unwrap(),
        schedule: ForkSchedule::new(forks.map(fork)).unwrap(),
        genesis_validators_root: Root([4; 32]),
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
    let signature = SignatureBytes([5; 96]);
    let partial =
        Partial { id: task.id, message_root: task.message_root, signature, data: task.data.clone() };
    let messages = encode_partials(attester(), 2, &[partial]).unwrap();
    let [bytes] = messages.as_slice() else { panic!("{messages:?}") };
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
    let heard = partials_of(parsigex::receive(bytes, &context).unwrap());
    assert_eq!((heard[0].message_root, heard[0].signature), (task.message_root, signature));
    assert_eq!(heard[0].data, task.data, "what others signed takes no memory beside our own message");
    let from = vec![Member(1)];
    let (id, message_root, data) = (task.id, task.message_root, heard[0].data.clone());
    let result = Aggregate { id, message_root, data, signature, from };
    for attester in [None, Some(&duty())] {
        let place = Place { attester, ..Place::default() };
        let Ok(Published::Attestation(single)) = published(super::tests::attester(), &result, place) else {
            panic!("an attestation")
        };
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
fn a_vote_names_our_validator_by_its_own_index() {
    let value = |index| {
        let duty = AttesterDuty { validator_index: ValidatorIndex(index), ..duty() };
        network(ForkName::Electra).attester_value(vote(), &BTreeMap::from([(VALIDATOR, duty)]))
    };
    let scheduled = Scheduled::new(&duty());
    assert_eq!(scheduled.read(DutyKind::Attester, &value(11).bytes).unwrap().len(), 1);
    assert!(scheduled.read(DutyKind::Attester, &value(12).bytes).is_err());
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
        for row in duty::ROWS {
            let _ = read_as(&network, Duty::new(Slot(42), row.kind), &random);
        }
        let mut bytes = network.attester_value(vote(), &BTreeMap::from([(VALIDATOR, duty())])).bytes.to_vec();
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        let _ = read_alone(&network, &bytes);
        let _ = (agreed_vote(&random), agreed_block(&random));
        for row in duty::ROWS {
            let _ = network.sign_request(Duty::new(Slot(42), row.kind), &random);
        }
    }
}

/// What is known when these validators are scheduled and these group signatures exist.
struct Scheduled {
    validators: BTreeMap<PublicKeyBytes, Payload>,
    given: Given,
}

impl Scheduled {
    fn new(duty: &impl Serialize) -> Self {
        Self { validators: BTreeMap::from([(VALIDATOR, describe(duty))]), given: Given::new() }
    }

    fn given(mut self, kind: DutyKind, subcommittee: u64, signature: SignatureBytes) -> Self {
        let id = TaskId { validator: VALIDATOR, subcommittee };
        let (data, from) = (Payload::from([]), Vec::new());
        let aggregate = Aggregate { id, message_root: Root([1; 32]), data, signature, from };
        self.given.insert((kind, id), aggregate);
        self
    }

    fn read(&self, kind: DutyKind, value: &[u8]) -> Result<Vec<Task>, Unreadable> {
        let known = Known { validators: &self.validators, given: &self.given };
        network(ForkName::Electra).read(Duty::new(Slot(42), kind), value, &known)
    }
}

/// Reads, and makes the signer's request of each task: its kind and the field of the message.
fn requests(scheduled: &Scheduled, kind: DutyKind, value: &[u8]) -> Vec<(String, String)> {
    let network = network(ForkName::Electra);
    let tasks = scheduled.read(kind, value).unwrap();
    let request = |task: &Task| {
        let request = network.sign_request(Duty::new(Slot(42), kind), &task.data).unwrap();
        (request.kind, request.body.into_keys().next().unwrap())
    };
    tasks.iter().map(request).collect()
}

fn one(kind: &str, field: &str) -> Vec<(String, String)> {
    vec![(kind.to_owned(), field.to_owned())]
}

fn proposer_duty() -> ProposerDuty {
    ProposerDuty { pubkey: VALIDATOR, validator_index: ValidatorIndex(11), slot: Slot(42) }
}

fn sync_duty(seats: &[u64]) -> SyncDuty {
    SyncDuty {
        pubkey: VALIDATOR,
        validator_index: ValidatorIndex(11),
        sync_committee_indices: seats.iter().copied().map(SyncCommitteePosition).collect(),
    }
}

const REVEAL: SignatureBytes = SignatureBytes([6; 96]);

fn proposal() -> VersionedProposal {
    let zero = Bytes32([0; 32]);
    let execution_payload = ExecutionPayload {
        parent_hash: zero,
        fee_recipient: ExecutionAddress([3; 20]),
        state_root: zero,
        receipts_root: zero,
        logs_bloom: LogsBloom([0; 256]),
        prev_randao: zero,
        block_number: 1,
        gas_limit: 2,
        gas_used: 3,
        timestamp: 4,
        extra_data: VariableList::default(),
        base_fee_per_gas: Uint256::default(),
        block_hash: zero,
        transactions: VariableList::default(),
        withdrawals: VariableList::default(),
        blob_gas_used: 0,
        excess_blob_gas: 0,
    };
    let sync_aggregate = SyncAggregate {
        sync_committee_bits: BitVector::default(),
        sync_committee_signature: SignatureBytes::ZERO,
    };
    let body = BeaconBlockBody {
        randao_reveal: REVEAL,
        eth1_data: chain::Eth1Data::default(),
        graffiti: zero,
        proposer_slashings: VariableList::default(),
        attester_slashings: VariableList::default(),
        attestations: VariableList::default(),
        deposits: VariableList::default(),
        voluntary_exits: VariableList::default(),
        sync_aggregate,
        execution_payload,
        bls_to_execution_changes: VariableList::default(),
        blob_kzg_commitments: VariableList::default(),
        execution_requests: chain::ExecutionRequests::default(),
    };
    let block = BeaconBlock {
        slot: Slot(42),
        proposer_index: ValidatorIndex(11),
        parent_root: Root([1; 32]),
        state_root: Root([2; 32]),
        body,
    };
    let contents = Contents { block, kzg_proofs: vec![5; 48], blobs: vec![8; 131_072] };
    VersionedProposal { version: versioned::ELECTRA, block: Block::Full(Box::new(contents)) }
}

fn full(proposal: &mut VersionedProposal) -> &mut BeaconBlock {
    match &mut proposal.block {
        Block::Full(contents) => &mut contents.block,
        Block::Blinded(_) => panic!("a full block"),
    }
}

#[test]
fn a_block_is_agreed_on_signed_and_published_with_the_agreed_blobs() {
    let value = proposer_value(&VALIDATOR, proposal());
    let scheduled = Scheduled::new(&proposer_duty()).given(DutyKind::Randao, 0, REVEAL);
    assert_eq!(requests(&scheduled, DutyKind::Proposer, &value.bytes), one("BLOCK_V2", "beacon_block"));
    let task = scheduled.read(DutyKind::Proposer, &value.bytes).unwrap().remove(0);
    let facts = facts_of(&agreed_block(&value.bytes).unwrap());
    assert_eq!(facts.fee_recipient, Some(ExecutionAddress([3; 20])));
    assert_eq!(Root::from(tree_hash::TreeHash::tree_hash_root(&facts.header)), task.message_root);

    // A member may send its partial signature with other blobs, which nobody signs.
    let mut other = proposal();
    if let Block::Full(contents) = &mut other.block {
        contents.blobs = vec![9; 131_072];
    }
    let signature = SignatureBytes([7; 96]);
    let data = Payload::from(Signed::Proposal(proposer::sign(other, SignatureBytes::ZERO)).encode());
    let (id, message_root) = (task.id, task.message_root);
    let result = Aggregate { id, message_root, data, signature, from: Vec::new() };
    let place = Place { agreed: Some(&value.bytes), ..Place::default() };
    let Ok(Published::Block(block)) = published(Duty::new(Slot(42), DutyKind::Proposer), &result, place)
    else {
        panic!("a block")
    };
    let Block::Full(contents) = block.block else { panic!("a full block") };
    assert_eq!((contents.block.signature, contents.blobs[0]), (signature, 8));
}

#[test]
fn a_block_for_anything_but_this_duty_is_never_read() {
    type Change = fn(&mut VersionedProposal, &mut ProposerDuty, &mut Scheduled);
    let table: [(&str, Change); 7] = [
        ("another slot", |block, _, _| full(block).slot = Slot(43)),
        ("another proposer", |block, _, _| full(block).proposer_index = ValidatorIndex(12)),
        ("another fork", |block, _, _| block.version = versioned::FULU),
        ("another reveal", |block, _, _| full(block).body.randao_reveal = SignatureBytes([1; 96])),
        ("a duty of another slot", |_, duty, _| duty.slot = Slot(41)),
        ("another of our validators", |_, duty, _| duty.validator_index = ValidatorIndex(12)),
        ("nobody's duty here", |_, _, scheduled| scheduled.validators.clear()),
    ];
    for (what, change) in table {
        let (mut block, mut duty) = (proposal(), proposer_duty());
        let mut scheduled = Scheduled::new(&duty).given(DutyKind::Randao, 0, REVEAL);
        let value = proposer_value(&VALIDATOR, block.clone());
        assert!(scheduled.read(DutyKind::Proposer, &value.bytes).is_ok());
        change(&mut block, &mut duty, &mut scheduled);
        scheduled.validators.values_mut().for_each(|description| *description = describe(&duty));
        let value = proposer_value(&VALIDATOR, block);
        assert!(scheduled.read(DutyKind::Proposer, &value.bytes).is_err(), "{what}");
    }
    let other = obol::unsigned::Unsigned::Proposal(proposal());
    let two = obol::unsigned::write_set([(&VALIDATOR, &other), (&PublicKeyBytes([8; 48]), &other)]);
    let scheduled = Scheduled::new(&proposer_duty());
    assert!(scheduled.read(DutyKind::Proposer, &value_of(&two).bytes).is_err(), "two blocks");
}

#[test]
fn what_prepares_follows_from_the_duty_alone() {
    let scheduled = Scheduled::new(&proposer_duty());
    assert_eq!(requests(&scheduled, DutyKind::Randao, &[]), one("RANDAO_REVEAL", "randao_reveal"));
    let scheduled = Scheduled::new(&duty());
    let selection = one("AGGREGATION_SLOT", "aggregation_slot");
    assert_eq!(requests(&scheduled, DutyKind::PrepareAggregator, &[]), selection);
    let other = Scheduled::new(&AttesterDuty { slot: Slot(41), ..duty() });
    assert!(other.read(DutyKind::PrepareAggregator, &[]).is_err(), "a duty of another slot");

    // Seats in three subcommittees make three messages, which cannot share one map of validators.
    let scheduled = Scheduled::new(&sync_duty(&[0, 5, 130, 511]));
    let tasks = scheduled.read(DutyKind::PrepareSyncContribution, &[]).unwrap();
    let subcommittees: Vec<u64> = tasks.iter().map(|task| task.id.subcommittee).collect();
    assert_eq!(subcommittees, [0, 1, 3]);
    let partial = |task: &Task| Partial {
        id: task.id,
        message_root: task.message_root,
        signature: SignatureBytes([5; 96]),
        data: task.data.clone(),
    };
    let set: Vec<Partial> = tasks.iter().map(partial).collect();
    let duty = Duty::new(Slot(42), DutyKind::PrepareSyncContribution);
    assert_eq!(encode_partials(duty, 2, &set).unwrap().len(), 3);
}

/// A proof that selects, or one that does not, for a rule of one in `modulo`.
fn proof(selects: impl Fn(&SignatureBytes) -> bool) -> SignatureBytes {
    (0..=u8::MAX).map(|byte| SignatureBytes([byte; 96])).find(selects).unwrap()
}

fn aggregate() -> Attestation {
    let mut aggregation_bits = BitList::with_capacity(64).unwrap();
    aggregation_bits.set(5, true).unwrap();
    let mut committee_bits = BitVector::new();
    committee_bits.set(3, true).unwrap();
    Attestation { aggregation_bits, data: vote(), signature: SignatureBytes([2; 96]), committee_bits }
}

fn read_aggregate(
    proof: Option<SignatureBytes>,
    change: impl FnOnce(&mut Attestation),
) -> Result<Vec<Task>, Unreadable> {
    let mut aggregate = aggregate();
    change(&mut aggregate);
    let aggregates = BTreeMap::from([(VALIDATOR, aggregate)]);
    let aggregator = Duty::new(Slot(42), DutyKind::Aggregator);
    let value = network(ForkName::Electra).aggregator_value(aggregator, aggregates).unwrap();
    let mut scheduled = Scheduled::new(&duty());
    if let Some(proof) = proof {
        scheduled = scheduled.given(DutyKind::PrepareAggregator, 0, proof);
        if let Ok(tasks) = scheduled.read(DutyKind::Aggregator, &value.bytes) {
            assert_eq!(tasks.len(), 1);
            let expected = one("AGGREGATE_AND_PROOF_V2", "aggregate_and_proof");
            assert_eq!(requests(&scheduled, DutyKind::Aggregator, &value.bytes), expected);
        }
    }
    scheduled.read(DutyKind::Aggregator, &value.bytes)
}

#[test]
fn only_selected_validators_sign_an_aggregate_and_only_their_committees() {
    let selects = |proof: &SignatureBytes| obol::duty::is_attestation_aggregator(&proof.0, 64);
    let (yes, no) = (proof(selects), proof(|proof| !selects(proof)));
    assert_eq!(read_aggregate(Some(yes), |_| ()).unwrap().len(), 1);
    assert!(read_aggregate(Some(no), |_| ()).is_err(), "not selected");
    assert_eq!(read_aggregate(None, |_| ()).unwrap(), [], "the proof is still to come");
    type Change = fn(&mut Attestation);
    let table: [(&str, Change); 7] = [
        ("another slot", |aggregate| aggregate.data.slot = Slot(43)),
        ("another epoch", |aggregate| aggregate.data.target.epoch = Epoch(6)),
        ("an index", |aggregate| aggregate.data.index = CommitteeIndex(3)),
        ("another committee", |aggregate| {
            aggregate.committee_bits = BitVector::new();
            aggregate.committee_bits.set(4, true).unwrap();
        }),
        ("two committees", |aggregate| aggregate.committee_bits.set(4, true).unwrap()),
        ("another length", |aggregate| aggregate.aggregation_bits = BitList::with_capacity(63).unwrap()),
        ("nobody", |aggregate| aggregate.aggregation_bits = BitList::with_capacity(64).unwrap()),
    ];
    for (what, change) in table {
        assert!(read_aggregate(Some(yes), change).is_err(), "{what}");
    }
}

#[test]
fn sync_votes_and_contributions_are_for_the_validators_own_seats() {
    let scheduled = Scheduled::new(&sync_duty(&[0, 130]));
    let kind = "SYNC_COMMITTEE_MESSAGE";
    let expected = one(kind, "sync_committee_message");
    assert_eq!(requests(&scheduled, DutyKind::SyncMessage, &[7; 32]), expected);
    for bad in [&[7; 31][..], &[7; 33], &[0; 32], &[]] {
        assert!(scheduled.read(DutyKind::SyncMessage, bad).is_err());
    }

    let selects = |proof: &SignatureBytes| obol::duty::is_sync_aggregator(&proof.0);
    let (yes, no) = (proof(selects), proof(|proof| !selects(proof)));
    let contribution = |slot, subcommittee_index| {
        let mut aggregation_bits = BitVector::new();
        aggregation_bits.set(1, true).unwrap();
        let (beacon_block_root, signature) = (Root([7; 32]), SignatureBytes([2; 96]));
        SyncCommitteeContribution {
            slot: Slot(slot),
            beacon_block_root,
            subcommittee_index,
            aggregation_bits,
            signature,
        }
    };
    let read = |proofs: [Option<SignatureBytes>; 2], several: Vec<SyncCommitteeContribution>| {
        let mut scheduled = Scheduled::new(&sync_duty(&[0, 130]));
        for (subcommittee, proof) in (0..).zip(proofs) {
            if let Some(proof) = proof {
                scheduled = scheduled.given(DutyKind::PrepareSyncContribution, subcommittee, proof);
            }
        }
        let value = contribution_value(BTreeMap::from([(VALIDATOR, several)]));
        scheduled.read(DutyKind::SyncContribution, &value.bytes).map(|tasks| tasks.len())
    };
    let both = || vec![contribution(42, 0), contribution(42, 1)];
    assert_eq!(read([Some(yes), Some(yes)], both()), Ok(2), "the plural form");
    assert_eq!(read([Some(yes), None], both()), Ok(1), "one proof is still to come");
    assert_eq!(read([None, None], both()), Ok(0));
    assert!(read([Some(yes), Some(no)], both()).is_err(), "not selected");
    let one = |slot, subcommittee| read([Some(yes), Some(yes)], vec![contribution(slot, subcommittee)]);
    assert_eq!(one(42, 1), Ok(1), "the single form");
    assert!(one(43, 1).is_err(), "another slot");
    assert!(one(42, 2).is_err(), "no seat there");
    assert!(read([Some(yes), Some(yes)], vec![contribution(42, 1), contribution(42, 1)]).is_err(), "twice");
}

#[test]
fn exits_and_registrations_are_signed_in_their_own_domains() {
    let exit = chain::VoluntaryExit { epoch: Epoch(5), validator_index: ValidatorIndex(11) };
    let known = Scheduled::new(&exit);
    let first = Duty::new(Slot(40), DutyKind::Exit);
    let network = network(ForkName::Electra);
    let read = |duty| network.read(duty, &[], &Known { validators: &known.validators, given: &known.given });
    let task = read(first).unwrap().remove(0);
    assert_eq!(network.sign_request(first, &task.data).unwrap().kind, "VOLUNTARY_EXIT");
    assert!(read(Duty::new(Slot(48), DutyKind::Exit)).is_err(), "another epoch");
    let capella = ForkVersion([ForkName::Capella as u8; 4]);
    let domain = chain::compute_domain(chain::domain::VOLUNTARY_EXIT, capella, Root([4; 32]));
    let root = chain::domain::signing_root_of(task.message_root, domain);
    assert_eq!(network.signing_root(first, task.message_root), root, "capella for ever (EIP-7044)");

    let registration = chain::ValidatorRegistration { pubkey: VALIDATOR, ..Default::default() };
    let known = Scheduled::new(&registration);
    assert_eq!(
        requests(&known, DutyKind::BuilderRegistration, &[]),
        one("VALIDATOR_REGISTRATION", "validator_registration")
    );
    let other = chain::ValidatorRegistration { pubkey: PublicKeyBytes([8; 48]), ..Default::default() };
    assert!(Scheduled::new(&other).read(DutyKind::BuilderRegistration, &[]).is_err());
}

#[test]
fn a_sync_message_is_published_for_the_dutys_slot_whatever_members_wrote() {
    let message = chain::SyncCommitteeMessage {
        slot: Slot(7_000),
        beacon_block_root: Root([1; 32]),
        validator_index: ValidatorIndex(99),
        signature: SignatureBytes::ZERO,
    };
    let signed = Signed::SyncMessage(message);
    let result = Aggregate {
        id: TaskId::from(VALIDATOR),
        message_root: signed.message_root().unwrap(),
        data: Payload::from(signed.encode()),
        signature: SignatureBytes([6; 96]),
        from: Vec::new(),
    };
    let place = Place { index: Some(ValidatorIndex(11)), ..Place::default() };
    let Ok(Published::SyncMessage(message)) =
        published(Duty::new(Slot(42), DutyKind::SyncMessage), &result, place)
    else {
        panic!("a sync message is published");
    };
    assert_eq!((message.slot, message.validator_index), (Slot(42), ValidatorIndex(11)));
    assert_eq!(message.signature, SignatureBytes([6; 96]));
}
