//! Whole ceremonies of simulated members: the real state machine and the real secret half, without sockets, files or a TPM.

#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a liar changes one kind of packet and passes the others on"
)]

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use chain::ExecutionAddress;
use cluster::add::{AddedValidator, Addition};
use cluster::create::{Addresses, CreateOptions};
use cluster::definition::Operator;
use cluster::{Definition, Enr, IdentityKey, Lock, Network, SchemaVersion};
use obol::dkg::ceremony::{Answer, Channel, Event, Failure, Output, Phase, Question, Record};
use obol::dkg::exchange::{self, Exchange};
use obol::dkg::wire::{BCastSigRequest, FrostRound1Casts, FrostRound1P2P, FrostRound2Casts, MsgNodeSig};
use obol::dkg::{Born, Ceremony, Dealer, Plan, Profile, frost};
use obol::wire::{Any, Named as _};
use prost::Message as _;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha20Rng;
use threshold::SecretShare;
use zeroize::Zeroizing;

fn identity(member: usize) -> Arc<IdentityKey> {
    let byte = u8::try_from(member + 1).unwrap();
    Arc::new(IdentityKey::from_bytes(Zeroizing::new([byte; 32])).unwrap())
}

fn hoodi() -> Network {
    Network::by_name("hoodi").unwrap()
}

fn definition(members: usize, validators: usize, change: impl Fn(&mut Definition)) -> Definition {
    let addresses =
        Addresses { fee_recipient: ExecutionAddress([1; 20]), withdrawal: ExecutionAddress([2; 20]) };
    let options = CreateOptions::new("born together", 4, validators, hoodi(), addresses);
    let mut rng = ChaCha20Rng::seed_from_u64(7);
    let mut definition = cluster::create::cluster(&options, &mut rng).unwrap().lock.definition;
    definition.operators = (0..members)
        .map(|member| Operator {
            enr: Enr::build(&identity(member)).as_str().to_owned(),
            config_signature: Some(Vec::new()),
            enr_signature: Some(Vec::new()),
            ..Operator::default()
        })
        .collect();
    definition.threshold = (u64::try_from(members).unwrap() * 2).div_ceil(3);
    change(&mut definition);
    definition.set_hashes().unwrap();
    definition
}

/// The secret half of a member, as its signer runs it, without the seal.
struct Signer {
    plan: Arc<Plan>,
    dealer: Dealer,
    /// Shares of the validators that the cluster has already.
    present: Vec<SecretShare>,
    kept: BTreeMap<usize, Vec<Zeroizing<[u8; 32]>>>,
    born: Option<Born>,
    released: Option<Lock>,
}

impl Signer {
    fn new(plan: Arc<Plan>, seed: u8, present: Vec<SecretShare>) -> Self {
        let dealer = Dealer::new(Arc::clone(&plan), Zeroizing::new([seed; 32]));
        Self { plan, dealer, present, kept: BTreeMap::new(), born: None, released: None }
    }

    fn answer(&mut self, question: Question) -> Answer {
        let failed = |member, why: String| Answer::Failed { member, why, next_step: String::new() };
        match question {
            Question::Deal { .. } => {
                let cast = frost::write_round_1(self.plan.own(), &self.dealer.casts().unwrap()).to_any();
                let shares = self.plan.others().map(|to| (to, self.dealer.shares_for(to).unwrap())).collect();
                Answer::Dealt { cast, shares, kept: self.kept.keys().copied().collect() }
            }
            Question::Keep { member, bytes } => match frost::read_shares(&self.plan, member, &bytes) {
                Ok(shares) => {
                    self.kept.entry(member).or_insert(shares);
                    Answer::Kept { member }
                }
                Err(why) => failed(Some(member), why.to_string()),
            },
            Question::Finish { casts } => {
                let read = |(member, cast): (usize, obol::dkg::ceremony::SignedCast)| {
                    (member, frost::read_round_1(&self.plan, member, &cast.value).unwrap())
                };
                let casts = casts.into_iter().map(read).collect();
                match self.dealer.finish(&casts, &self.kept) {
                    Ok(born) => {
                        let validators = born.validators().to_vec();
                        self.born = Some(born);
                        Answer::Finished { validators }
                    }
                    Err(culprit) => failed(Some(culprit.member), culprit.why.to_string()),
                }
            }
            Question::Sign(exchange) => {
                assert!(self.released.is_none(), "nothing is signed for a ceremony after the release");
                let partials = self.born.as_ref().unwrap().sign(exchange).unwrap();
                Answer::Signed { exchange, partials }
            }
            Question::SignLock(signed) => {
                assert!(self.released.is_none(), "nothing is signed for a ceremony after the release");
                let (_, partials) = self.born.as_ref().unwrap().sign_lock(&signed, &self.present).unwrap();
                Answer::Signed { exchange: Exchange::Lock, partials }
            }
            Question::Release { lock } => {
                self.released = Some(Lock::from_json(&lock).unwrap());
                Answer::Released
            }
        }
    }
}

struct Member {
    plan: Arc<Plan>,
    profile: Profile,
    ceremony: Ceremony,
    signer: Signer,
    records: Vec<Record>,
    complete: Option<Lock>,
    refused: Vec<(usize, String)>,
    failed: Option<Failure>,
    done: bool,
}

impl Member {
    fn new(own: usize, definition: &Definition, profile: Profile) -> Self {
        let plan = Plan::new(definition.clone(), &[], &identity(own).public_key()).unwrap();
        Self::of(plan, profile, 100, Vec::new())
    }

    fn of(plan: Plan, profile: Profile, seed: usize, present: Vec<SecretShare>) -> Self {
        let key = identity(plan.own());
        let seed = u8::try_from(plan.own() + seed).unwrap();
        let plan = Arc::new(plan);
        Self {
            ceremony: Ceremony::new(Arc::clone(&plan), profile, key, "sim", [9; 32]),
            signer: Signer::new(Arc::clone(&plan), seed, present),
            plan,
            profile,
            records: Vec::new(),
            complete: None,
            refused: Vec::new(),
            failed: None,
            done: false,
        }
    }

    /// As after a power cut: only records and what the signer keeps are left.
    fn restart(&mut self) {
        let key = identity(self.plan.own());
        self.ceremony = Ceremony::new(Arc::clone(&self.plan), self.profile, key, "sim", [9; 32]);
        // As it is written and read.
        let text = serde_json::to_string(&self.records).unwrap();
        self.ceremony.restore(serde_json::from_str::<Vec<Record>>(&text).unwrap()).unwrap();
        // A real signer keeps what it made; this one makes it again, which must come to the same.
        self.signer.born = None;
        self.complete = None;
    }
}

/// What travels.
enum Packet {
    Message(Channel, Vec<u8>),
    SignRequest(Vec<u8>),
    Sync(Vec<u8>),
}

type Tamper = Box<dyn FnMut(usize, usize, Packet) -> Vec<Packet>>;

struct World {
    members: Vec<Member>,
    /// From, to.
    wire: VecDeque<(usize, usize, Packet)>,
    rng: ChaCha20Rng,
    tamper: Tamper,
    now_ms: u64,
    steps: u64,
}

impl World {
    fn new(
        members: usize,
        validators: usize,
        minor: u8,
        seed: u64,
        change: impl Fn(&mut Definition),
    ) -> Self {
        let definition = definition(members, validators, change);
        let profile = Profile::of_minor(minor).unwrap();
        Self::of((0..members).map(|own| Member::new(own, &definition, profile)).collect(), seed)
    }

    /// The same members, after they made a cluster, add so many validators to it.
    fn adding(self, validators: usize, seed: u64) -> Self {
        let base = self.members[0].complete.clone().unwrap();
        let member = |member: Member| {
            let more = vec![more(); validators];
            let addition = Addition::new(base.clone(), &more, &[]).unwrap();
            let plan = Plan::adding(addition, &[], &identity(member.plan.own()).public_key()).unwrap();
            let present = member.signer.born.unwrap().into_secrets();
            Member::of(plan, member.profile, 200, member.signer.present.into_iter().chain(present).collect())
        };
        Self::of(self.members.into_iter().map(member).collect(), seed)
    }

    fn of(members: Vec<Member>, seed: u64) -> Self {
        let mut world = Self {
            members,
            wire: VecDeque::new(),
            rng: ChaCha20Rng::seed_from_u64(seed),
            tamper: Box::new(|_, _, packet| vec![packet]),
            now_ms: 0,
            steps: 0,
        };
        for member in 0..world.members.len() {
            world.connect(member);
        }
        world
    }

    fn connect(&mut self, member: usize) {
        for other in 0..self.members.len() {
            if other != member {
                self.event(member, Event::Connected { member: other });
                self.event(other, Event::Connected { member });
            }
        }
    }

    /// Cuts a member's power and switches it on again.
    fn restart(&mut self, member: usize) {
        self.wire.retain(|(from, to, _)| *from != member && *to != member);
        self.members[member].restart();
        for other in 0..self.members.len() {
            if other != member {
                self.event(other, Event::Disconnected { member });
            }
        }
        self.connect(member);
    }

    fn event(&mut self, member: usize, event: Event) -> Option<Vec<u8>> {
        let mut queue = VecDeque::from([event]);
        let mut answer = None;
        while let Some(event) = queue.pop_front() {
            let mut out = Vec::new();
            self.members[member].ceremony.step(event, &mut out);
            for output in out {
                self.steps += 1;
                let this = &mut self.members[member];
                match output {
                    Output::Record(record) => this.records.push(record),
                    Output::Reply { bytes, .. } => answer = bytes,
                    Output::RequestSignature { member: to, bytes } => {
                        self.wire.push_back((member, to, Packet::SignRequest(bytes)));
                    }
                    Output::Send { member: to, channel, bytes } => {
                        self.wire.push_back((member, to, Packet::Message(channel, bytes.to_vec())));
                    }
                    Output::Ask(question) => queue.push_back(Event::Answer(this.signer.answer(question))),
                    Output::Refused { member: who, why } => this.refused.push((who, why)),
                    Output::Complete(lock) => this.complete = Some(*lock),
                    Output::Failed(failure) => this.failed = Some(failure),
                    Output::Done => this.done = true,
                }
            }
        }
        answer
    }

    fn deliver(&mut self, from: usize, to: usize, packet: Packet) {
        for packet in (self.tamper)(from, to, packet) {
            match packet {
                Packet::Message(Channel::Broadcast, bytes) => {
                    self.event(to, Event::Broadcast { member: from, bytes });
                }
                Packet::Message(Channel::Share, bytes) => {
                    self.event(to, Event::Share { member: from, bytes: bytes.into() });
                }
                Packet::Message(Channel::Partials, bytes) => {
                    self.event(to, Event::Partials { member: from, bytes });
                }
                Packet::SignRequest(bytes) => {
                    if let Some(bytes) = self.event(to, Event::SignRequest { member: from, bytes, reply: 0 })
                    {
                        self.event(from, Event::Signed { member: to, bytes });
                    }
                }
                Packet::Sync(bytes) => {
                    if let Some(bytes) = self.event(to, Event::Sync { member: from, bytes, reply: 0 }) {
                        self.event(from, Event::SyncAnswer { member: to, bytes });
                    }
                }
            }
        }
    }

    /// One turn: everybody tells its step, then some messages in any order arrive.
    fn turn(&mut self) {
        self.now_ms += 500;
        let everybody: Vec<usize> = (0..self.members.len()).collect();
        for from in everybody.clone() {
            self.event(from, Event::Tick { now_ms: self.now_ms });
            for to in everybody.clone() {
                if from != to {
                    let bytes = self.members[from].ceremony.sync_message(self.now_ms);
                    self.deliver(from, to, Packet::Sync(bytes));
                }
            }
        }
        for _ in 0..self.wire.len() {
            let place = self.rng.random_range(0..self.wire.len());
            if let Some((from, to, packet)) = self.wire.swap_remove_back(place) {
                self.deliver(from, to, packet);
            }
        }
    }

    fn run(&mut self) {
        for _ in 0..100 {
            self.turn();
            if self.members.iter().all(|member| member.done || member.failed.is_some()) {
                return;
            }
        }
    }

    /// Everybody has the same verified lock, and the shares in the signers sign for its keys.
    fn assert_born(&self) {
        let lock = self.members[0].complete.as_ref().expect("no lock");
        lock.verify(&[]).unwrap();
        for member in &self.members {
            assert!(member.done && member.failed.is_none(), "{:?}", member.ceremony.progress());
            assert_eq!(member.complete.as_ref().unwrap().lock_hash, lock.lock_hash);
            assert_eq!(member.complete, self.members[0].complete, "the files are the same");
            assert_eq!(member.signer.released.as_ref(), Some(lock));
            assert_eq!(member.refused, []);
        }
    }

    fn failures(&self) -> Vec<Option<&Failure>> {
        self.members.iter().map(|member| member.failed.as_ref()).collect()
    }
}

#[test]
fn members_make_one_lock_in_every_profile_and_schema() {
    for (members, validators, minor, version) in [
        (4, 2, 10, SchemaVersion::V1_10),
        (4, 1, 11, SchemaVersion::V1_11),
        (3, 2, 8, SchemaVersion::V1_8),
        (4, 1, 9, SchemaVersion::V1_9),
        (7, 1, 10, SchemaVersion::V1_10),
        (4, 1, 10, SchemaVersion::V1_7),
        (4, 1, 10, SchemaVersion::V1_6),
    ] {
        let mut world = World::new(members, validators, minor, 1, |definition| {
            definition.version = version;
            if version < SchemaVersion::V1_10 {
                definition.target_gas_limit = 0;
                definition.compounding = false;
            }
        });
        world.run();
        world.assert_born();
        let lock = world.members[0].complete.as_ref().unwrap();
        let deposits = if version < SchemaVersion::V1_8 { 1 } else { 2 };
        assert!(lock.validators.iter().all(|validator| validator.deposits.len() == deposits));
    }
}

fn more() -> AddedValidator {
    AddedValidator {
        fee_recipient: format!("0x{}", "05".repeat(20)),
        withdrawal: format!("0x{}", "06".repeat(20)),
    }
}

#[test]
fn a_cluster_gets_more_validators_and_then_more_again() {
    for (minor, version) in [(10, SchemaVersion::V1_10), (11, SchemaVersion::V1_11), (9, SchemaVersion::V1_7)]
    {
        let mut world = World::new(4, 2, minor, 5, |definition| {
            definition.version = version;
            if version < SchemaVersion::V1_10 {
                definition.target_gas_limit = 0;
                definition.compounding = false;
            }
        });
        world.run();
        let mut known = world.members[0].complete.clone().unwrap();
        for (round, added) in [2, 1].into_iter().enumerate() {
            world = world.adding(added, 6 + u64::try_from(round).unwrap());
            assert_eq!(world.members[0].plan.hash(), known.definition.definition_hash);
            world.turn();
            world.restart(round + 1);
            world.run();
            world.assert_born();
            let lock = world.members[0].complete.clone().unwrap();
            let (present, new) = lock.validators.split_at(known.validators.len());
            assert_eq!((present, new.len()), (known.validators.as_slice(), added));
            assert_eq!(lock.definition.operators.len(), known.definition.operators.len());
            assert_eq!(lock.definition.threshold, known.definition.threshold);
            for validator in new {
                let credentials = &validator.deposits[0].withdrawal_credentials;
                assert!(credentials.as_slice().ends_with(&[6; 20]));
                let registration = validator.builder_registration.as_ref();
                assert!(registration.is_none_or(|signed| signed.message.fee_recipient.0 == [5; 20]));
            }
            known = lock;
        }
    }
}

/// It sends another share's signature in its place.
#[test]
fn who_does_not_sign_the_new_lock_with_an_old_share_is_named() {
    let mut world = World::new(4, 1, 10, 8, |_| {});
    world.run();
    let mut world = world.adding(1, 9);
    let plan = Arc::clone(&world.members[0].plan);
    let old = plan.present()[0].public_key;
    world.tamper = Box::new(move |from, _, packet| match packet {
        Packet::Message(Channel::Partials, bytes) if from == 2 => {
            let (what, mut partials) = exchange::read(&plan, 2, &bytes).unwrap();
            if what == Exchange::Lock {
                let other = partials.iter().find(|(key, _)| *key != old).unwrap().1;
                partials.iter_mut().find(|(key, _)| *key == old).unwrap().1 = other;
            }
            vec![Packet::Message(Channel::Partials, exchange::write(2, what, &partials))]
        }
        packet => vec![packet],
    });
    world.run();
    for (place, failure) in world.failures().into_iter().enumerate().filter(|(place, _)| *place != 2) {
        assert_eq!(failure.unwrap().member, Some(2), "{place}: {failure:?}");
        assert!(world.members[place].signer.released.is_none());
    }
}

#[test]
fn chosen_amounts_and_compounding_are_signed() {
    use cluster::deposit::ETH;
    let amounts = [32, 8, 2000].map(|eth| chain::Gwei(eth * ETH.0)).to_vec();
    let mut world = World::new(4, 2, 10, 2, |definition| {
        definition.compounding = true;
        definition.deposit_amounts = Some(amounts.clone());
    });
    world.run();
    world.assert_born();
    let lock = world.members[0].complete.as_ref().unwrap();
    for validator in &lock.validators {
        let found: Vec<_> = validator.deposits.iter().map(|deposit| deposit.amount.0 / ETH.0).collect();
        assert_eq!(found, [8, 32, 2000]);
        assert!(validator.deposits.iter().all(|deposit| deposit.withdrawal_credentials.0[0] == 2));
        let file = cluster::deposit::file_content(&validator.deposits, &hoodi());
        assert_eq!(cluster::deposit::parse_file(&file).unwrap().len(), 3);
    }
}

#[test]
fn a_member_that_dies_at_any_moment_comes_back_and_all_finish() {
    for minor in [10, 11] {
        let mut undisturbed = World::new(3, 1, minor, 3, |_| {});
        undisturbed.run();
        undisturbed.assert_born();
        let hash = undisturbed.members[0].complete.as_ref().unwrap().lock_hash;
        for seed in 0..40 {
            let mut world = World::new(3, 1, minor, seed, |_| {});
            let mut cuts = ChaCha20Rng::seed_from_u64(seed);
            for _ in 0..60 {
                // In the middle of a turn: some messages arrived, others are lost.
                if world.members.iter().all(|member| member.complete.is_some()) {
                    break;
                }
                world.turn();
                if cuts.random_bool(0.4) {
                    let members: Vec<usize> = (0..world.members.len()).collect();
                    world.restart(*members.choose(&mut cuts).unwrap());
                }
            }
            world.run();
            let failures = world.failures();
            assert!(failures.iter().all(Option::is_none), "minor {minor} seed {seed}: {failures:?}");
            for member in &world.members {
                let lock = member
                    .complete
                    .as_ref()
                    .unwrap_or_else(|| panic!("minor {minor} seed {seed}: {:?}", member.ceremony.progress()));
                assert_eq!(lock.lock_hash, hash, "the same keys come out, whoever died");
            }
        }
    }
}

#[test]
fn a_member_that_lost_its_records_is_named_and_everybody_is_told_what_to_do() {
    for minor in [10, 11] {
        let mut world = World::new(4, 1, minor, 5, |_| {});
        for _ in 0..4 {
            world.turn();
        }
        assert!(world.members[2].ceremony.progress().step >= 1);
        world.members[2].records.clear();
        world.restart(2);
        world.run();
        for (own, member) in world.members.iter().enumerate() {
            let failure = member.failed.as_ref().unwrap_or_else(|| panic!("member {own} of v1.{minor}"));
            if own != 2 {
                assert_eq!(failure.member, Some(2), "{failure:?}");
                assert!(failure.next_step.contains("start it again together"), "{failure:?}");
            }
            assert!(member.complete.is_none());
        }
    }
}

/// Runs a ceremony in which member 1 sends other bytes than it should; what everybody else says of it.
fn with_a_liar(mut lie: impl FnMut(usize, Packet) -> Vec<Packet> + 'static) -> World {
    let mut world = World::new(4, 2, 10, 6, |_| {});
    world.tamper = Box::new(move |from, to, packet| if from == 1 { lie(to, packet) } else { vec![packet] });
    world.run();
    world
}

/// Nobody finished, and every member that noticed something blames member 1 alone.
fn assert_named(world: &World, words: &str) {
    let mut noticed = 0;
    for (own, member) in world.members.iter().enumerate() {
        assert!(member.complete.is_none(), "member {own} finished");
        if own == 1 {
            continue;
        }
        let failure = member.failed.iter().map(|failure| (failure.member, failure.why.clone()));
        let refused = member.refused.iter().map(|(member, why)| (Some(*member), why.clone()));
        for (who, why) in failure.chain(refused) {
            assert_eq!(who, Some(1), "{why}");
            noticed += usize::from(why.contains(words));
        }
    }
    let said: Vec<_> = world.members.iter().map(|member| (&member.failed, &member.refused)).collect();
    assert!(noticed > 0, "nobody said {words:?}: {said:?}");
}

/// Changes the first broadcast of a member inside its request to sign it.
/// A liar that changes what it asks the others to sign under one identifier.
fn lying_broadcast<M: prost::Message + Default>(
    id: &'static str,
    change: impl Fn(&mut M) + 'static,
) -> impl FnMut(usize, Packet) -> Vec<Packet> {
    move |_, packet| match packet {
        Packet::SignRequest(bytes) => {
            let mut request = BCastSigRequest::decode(bytes.as_slice()).unwrap();
            if request.id == id {
                let any = request.message.clone().unwrap();
                let mut message = M::decode(any.value.as_slice()).unwrap();
                change(&mut message);
                request.message = Some(Any { value: message.encode_to_vec(), ..any });
            }
            vec![Packet::SignRequest(request.encode_to_vec())]
        }
        other => vec![other],
    }
}

fn lying_cast(change: impl Fn(&mut FrostRound1Casts) + 'static) -> impl FnMut(usize, Packet) -> Vec<Packet> {
    lying_broadcast(frost::ROUND_1, change)
}

#[test]
fn malformed_first_broadcasts_are_never_signed_and_their_sender_is_named() {
    type Change = fn(&mut FrostRound1Casts);
    let cases: [(&str, Change); 9] = [
        ("claims to be share index 3", |casts| casts.casts[0].key.as_mut().unwrap().source_id = 3),
        ("is meant for share index 1", |casts| casts.casts[0].key.as_mut().unwrap().target_id = 1),
        ("there is no validator 4000000000", |casts| {
            casts.casts[0].key.as_mut().unwrap().val_idx = 4_000_000_000;
        }),
        ("validator 1 is in it twice", |casts| casts.casts[0].key.as_mut().unwrap().val_idx = 1),
        ("2 commitments for validator 1", |casts| casts.casts[1].commitments.truncate(2)),
        ("5 commitments for validator 0", |casts| casts.casts[0].commitments.resize(5, vec![0; 2])),
        ("1 entries for 2 validators", |casts| casts.casts.truncate(1)),
        ("wrong length", |casts| casts.casts[1].commitments[0].truncate(47)),
        ("wrong length", |casts| casts.casts[1].wi.push(0)),
    ];
    for (words, change) in cases {
        let world = with_a_liar(lying_cast(change));
        assert_named(&world, words);
    }
    let world = with_a_liar(lying_cast(|casts| {
        let huge = vec![vec![7; 48]; 10_000];
        casts.casts[0].commitments = huge;
    }));
    assert_named(&world, "longer than its kind can be");
}

#[test]
fn later_broadcasts_in_another_s_name_are_never_signed_and_their_sender_is_named() {
    type Change = fn(&mut FrostRound2Casts);
    let cases: [(&str, Change); 5] = [
        ("the field key is absent", |casts| casts.casts[1].key = None),
        ("claims to be share index 3", |casts| casts.casts[0].key.as_mut().unwrap().source_id = 3),
        ("is meant for share index 4", |casts| casts.casts[0].key.as_mut().unwrap().target_id = 4),
        ("wrong length", |casts| casts.casts[0].verification_key.push(0)),
        ("1 entries for 2 validators", |casts| casts.casts.truncate(1)),
    ];
    for (words, change) in cases {
        assert_named(&with_a_liar(lying_broadcast(frost::ROUND_2, change)), words);
    }
    // A node signature has a place in the lock: the one of whoever sent it, whatever it says.
    type Claim = fn(&mut MsgNodeSig);
    let claims: [(&str, Claim); 3] = [
        ("claims to be share index 3", |message| message.peer_index = 2),
        ("claims to be share index 1", |message| message.peer_index = 0),
        ("claims to be share index 4294967295", |message| message.peer_index = u32::MAX),
    ];
    for (words, change) in claims {
        assert_named(&with_a_liar(lying_broadcast(frost::NODE_SIGNATURE, change)), words);
    }
}

#[test]
fn entries_without_a_key_are_refused_before_anything_is_looked_up_in_them() {
    let keyless = lying_cast(|casts| casts.casts[0].key = None);
    assert_named(&with_a_liar(keyless), "the field key is absent");
    let keyless_share = |_: usize, packet: Packet| match packet {
        Packet::Message(Channel::Share, bytes) => {
            let mut message = FrostRound1P2P::decode(bytes.as_slice()).unwrap();
            message.shares[1].key = None;
            vec![Packet::Message(Channel::Share, message.encode_to_vec())]
        }
        other => vec![other],
    };
    assert_named(&with_a_liar(keyless_share), "the field key is absent");
}

#[test]
fn different_broadcasts_to_different_members_end_it() {
    let world = with_a_liar(|to, packet| {
        if to == 3 { lying_cast(|casts| casts.casts[0].wi[5] ^= 1)(to, packet) } else { vec![packet] }
    });
    // The liar never gets everybody's signature: its broadcast is delivered to nobody.
    for (own, member) in world.members.iter().enumerate() {
        assert!(member.complete.is_none() && member.signer.born.is_none());
        let progress = member.ceremony.progress();
        assert_eq!(progress.phase, Phase::MakingKeys);
        assert!(own == 1 || progress.members[1].waited_for, "{progress:?}");
    }
    // Telling one member two things is noticed by itself.
    let mut first = None;
    let world = with_a_liar(move |to, packet| match (to, packet) {
        (3, Packet::SignRequest(bytes)) if first.is_none() => {
            first = Some(());
            let other = lying_cast(|casts| casts.casts[0].wi[5] ^= 1)(to, Packet::SignRequest(bytes.clone()));
            [vec![Packet::SignRequest(bytes)], other].concat_packets()
        }
        (_, packet) => vec![packet],
    });
    let failure = world.members[3].failed.as_ref().unwrap();
    assert!(failure.member == Some(1) && failure.why.contains("two different"), "{failure:?}");
    assert!(failure.next_step.contains("start it again together"));
}

trait ConcatPackets {
    fn concat_packets(self) -> Vec<Packet>;
}

impl ConcatPackets for [Vec<Packet>; 2] {
    fn concat_packets(self) -> Vec<Packet> {
        self.into_iter().flatten().collect()
    }
}

#[test]
fn wrong_shares_and_partial_signatures_are_named() {
    let wrong_share = |_: usize, packet: Packet| match packet {
        Packet::Message(Channel::Share, bytes) => {
            let mut message = FrostRound1P2P::decode(bytes.as_slice()).unwrap();
            message.shares[1].value[31] ^= 1;
            vec![Packet::Message(Channel::Share, message.encode_to_vec())]
        }
        other => vec![other],
    };
    assert_named(&with_a_liar(wrong_share), "the share is not on the polynomial");

    let share_of_another = |_: usize, packet: Packet| match packet {
        Packet::Message(Channel::Share, bytes) => {
            let mut message = FrostRound1P2P::decode(bytes.as_slice()).unwrap();
            message.shares[0].key.as_mut().unwrap().source_id = 4;
            vec![Packet::Message(Channel::Share, message.encode_to_vec())]
        }
        other => vec![other],
    };
    assert_named(&with_a_liar(share_of_another), "claims to be share index 4");

    let wrong_partial = |_: usize, packet: Packet| match packet {
        Packet::Message(Channel::Partials, bytes) => {
            let mut message = obol::wire::ParSigExMsg::decode(bytes.as_slice()).unwrap();
            let set = &mut message.data_set.as_mut().unwrap().set;
            let other = set.values().nth(1).unwrap().data.clone();
            set.values_mut().next().unwrap().data = other;
            vec![Packet::Message(Channel::Partials, message.encode_to_vec())]
        }
        other => vec![other],
    };
    assert_named(&with_a_liar(wrong_partial), "its signature for validator");

    let share_index_of_another = |_: usize, packet: Packet| match packet {
        Packet::Message(Channel::Partials, bytes) => {
            let mut message = obol::wire::ParSigExMsg::decode(bytes.as_slice()).unwrap();
            for entry in message.data_set.as_mut().unwrap().set.values_mut() {
                entry.share_idx = 3;
            }
            vec![Packet::Message(Channel::Partials, message.encode_to_vec())]
        }
        other => vec![other],
    };
    assert_named(&with_a_liar(share_index_of_another), "claims share index 3");
}

#[test]
fn a_broadcast_of_another_ceremony_is_refused() {
    for minor in [10, 11] {
        let mut other = World::new(4, 1, minor, 8, |definition| definition.name = "another".to_owned());
        other.run();
        other.assert_born();
        let replayed: Vec<Vec<u8>> = other.members[0]
            .records
            .iter()
            .filter_map(|record| match record {
                Record::Delivered { member: 1, bytes } => Some(bytes.clone()),
                Record::Signed { .. }
                | Record::Delivered { .. }
                | Record::Kept { .. }
                | Record::Partials { .. }
                | Record::Step(_)
                | Record::Lock { .. }
                | Record::Released => None,
            })
            .collect();
        assert_eq!(replayed.len(), 3);
        let mut world = World::new(4, 1, minor, 9, |_| {});
        for bytes in replayed {
            world.event(0, Event::Broadcast { member: 1, bytes });
        }
        let refused = std::mem::take(&mut world.members[0].refused);
        assert_eq!(refused.len(), 3, "{refused:?}");
        assert!(refused.iter().all(|(who, why)| *who == 1 && why.contains("another")), "{refused:?}");
        world.run();
        world.assert_born();
    }
}

#[test]
fn one_nonce_in_two_proofs_is_refused_by_every_signer() {
    let definition = definition(3, 2, |_| {});
    let plan = |own| Arc::new(Plan::new(definition.clone(), &[], &identity(own).public_key()).unwrap());
    let signers: Vec<_> =
        (0..3_u8).map(|own| Signer::new(plan(usize::from(own)), own + 1, Vec::new())).collect();
    let mut casts: BTreeMap<usize, _> =
        signers.iter().enumerate().map(|(own, signer)| (own, signer.dealer.casts().unwrap())).collect();
    let shares = |to: usize, from: usize| {
        frost::read_shares(&signers[to].plan, from, &signers[from].dealer.shares_for(to).unwrap()).unwrap()
    };
    let kept: BTreeMap<_, _> = [1, 2].map(|from| (from, shares(0, from))).into();
    assert!(signers[0].dealer.finish(&casts, &kept).is_ok());
    // Member 2 uses one polynomial and one nonce for both validators.
    let first = casts[&2][0].clone();
    casts.get_mut(&2).unwrap()[1] = first;
    let culprit = signers[0].dealer.finish(&casts, &kept).map(|_| ()).unwrap_err();
    assert_eq!((culprit.member, culprit.why), (2, frost::FrostRefusal::NonceReused { first: 0, second: 1 }));
    // And nobody gets our own shares out of our signer.
    assert!(signers[0].dealer.shares_for(0).is_err());
    assert!(signers[0].dealer.shares_for(3).is_err());
}

#[test]
fn members_of_different_definitions_or_minors_say_so() {
    for (minor, name, words) in [(11, "born together", "version"), (10, "another", "definition")] {
        let mut world = World::new(3, 1, 10, 10, |_| {});
        let other = definition(3, 1, |definition| definition.name = name.to_owned());
        world.members[2] = Member::new(2, &other, Profile::of_minor(minor).unwrap());
        world.connect(2);
        world.run();
        let failure = world.members[0].failed.as_ref().unwrap();
        assert_eq!(failure.member, Some(2));
        assert!(failure.why.contains(words) && !failure.next_step.is_empty(), "{failure:?}");
        assert!(world.members[2].failed.is_some());
    }
}
