//! Whole changes of a cluster among simulated members: the real state machine, the real resharing and the signer's rules
//! about what is durable, without sockets, files or a TPM.

#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a liar changes one kind of packet and passes the others on"
)]

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, OnceLock};

use chain::{ExecutionAddress, PublicKeyBytes};
use cluster::create::{self, Addresses, CreateOptions, CreatedCluster};
use cluster::edit::{Edit, EditPlan};
use cluster::{Enr, IdentityKey, Lock, Network};
use obol::dkg::Profile;
use obol::dkg::ceremony::Failure;
use obol::dkg::edit::{
    Answer, Channel, DealEvent, Editing, Event, GIVE_UP_MS, Output, Question, Record, STAY_MS,
};
use obol::dkg::exchange::Partials;
use obol::dkg::pedersen::{Announcement, BundleKind, nonce_rule, read_bundle, write_bundle};
use obol::dkg::wire::{BCastSigRequest, MsgNodeSig, MsgSync};
use obol::wire::ParSigExMsg;
use prost::Message as _;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha20Rng;
use threshold::pedersen::{self, EphemeralKey, OldSharing, Outcome, Own, Pedersen, Setup, session_nonce};
use threshold::{PublicKey, SecretKey, SecretShare, ShareIndex, Signature};
use zeroize::Zeroizing;

type ShareBytes = Zeroizing<[u8; 32]>;

fn hoodi() -> Network {
    Network::by_name("hoodi").unwrap()
}

/// A cluster that is in force, made once: five validators' worth of keys are slow to make.
fn created(members: usize) -> &'static CreatedCluster {
    static FOUR: OnceLock<CreatedCluster> = OnceLock::new();
    static FIVE: OnceLock<CreatedCluster> = OnceLock::new();
    let made = if members == 4 { &FOUR } else { &FIVE };
    made.get_or_init(|| {
        let addresses =
            Addresses { fee_recipient: ExecutionAddress([1; 20]), withdrawal: ExecutionAddress([2; 20]) };
        let options = CreateOptions::new("to be changed", members, 2, hoodi(), addresses);
        create::cluster(&options, &mut ChaCha20Rng::seed_from_u64(3)).unwrap()
    })
}

fn newcomer(number: u8) -> Arc<IdentityKey> {
    Arc::new(IdentityKey::from_bytes(Zeroizing::new([number + 1; 32])).unwrap())
}

fn record_of(number: u8) -> String {
    Enr::build(&newcomer(number)).as_str().to_owned()
}

/// What survives a power cut in a signer.
#[derive(Clone, Default)]
struct Disk {
    /// The share of each validator that is in force by the old lock.
    old: Option<Vec<ShareBytes>>,
    pending: Option<(Lock, Vec<ShareBytes>)>,
    is_frozen: bool,
    /// In force by the new lock.
    new: Option<Vec<ShareBytes>>,
    left: bool,
}

/// What does not.
struct Run {
    key: EphemeralKey,
    keys: Vec<PublicKey>,
    runs: BTreeMap<usize, Pedersen>,
    outcomes: BTreeMap<usize, Outcome>,
}

/// The secret half of a member, by the rules of decision 0180.
struct Signer {
    plan: Arc<EditPlan>,
    place: usize,
    profile: Profile,
    disk: Disk,
    run: Option<Run>,
    /// A liar deals a second time, to somebody else.
    second_face: Arc<Mutex<Option<Vec<u8>>>>,
}

impl Signer {
    /// The owner's consent.
    fn allow(&mut self, rng: &mut ChaCha20Rng) {
        let key = EphemeralKey::random(rng);
        self.run = Some(Run { key, keys: Vec::new(), runs: BTreeMap::new(), outcomes: BTreeMap::new() });
    }

    fn answer(&mut self, question: Question, lies: bool, rng: &mut ChaCha20Rng) -> Answer {
        let gone = || Answer::Failed {
            why: "no change is under way".to_owned(),
            next_step: "Let the owner begin one first.".to_owned(),
        };
        let member = self.plan.members()[self.place].clone();
        match question {
            Question::Begin => {
                let Some(run) = &self.run else { return gone() };
                let shares = member.old.map(|old| {
                    (0..2).map(|validator| self.plan.old_shares(validator).unwrap()[&old]).collect()
                });
                Answer::Begun(Announcement { key: run.key.public_key().to_bytes(), shares, voucher: None })
            }
            Question::Keys { keys } => {
                let Some(run) = &mut self.run else { return gone() };
                run.keys =
                    keys.iter().map(|said| PublicKey::parse(&said.announcement.key).unwrap()).collect();
                assert_eq!(run.keys[self.place], run.key.public_key());
                Answer::KeysTaken
            }
            Question::Deal { validator, event } => self.deal(validator, event, lies, rng),
            Question::Prepare => {
                let Some(run) = self.run.as_mut().filter(|run| run.outcomes.len() == 2) else {
                    return gone();
                };
                let receivers = self.plan.members().iter().filter(|member| member.new.is_some()).count();
                let public: Vec<_> =
                    run.outcomes.values().map(|outcome| public_shares(outcome, receivers)).collect();
                let lock = self.plan.lock(&public).unwrap();
                let shares =
                    std::mem::take(&mut run.outcomes).into_values().filter_map(|outcome| outcome.share);
                let shares: Vec<ShareBytes> = shares.map(|share| share.key().expose_bytes()).collect();
                if !shares.is_empty() {
                    assert!(!self.disk.is_frozen);
                    self.disk.pending = Some((lock.clone(), shares));
                }
                Answer::Prepared { lock: lock.to_json().unwrap() }
            }
            Question::DryRun { lock_hash } => {
                let Some((lock, shares)) =
                    self.disk.pending.clone().filter(|(lock, _)| lock.lock_hash == lock_hash)
                else {
                    return gone();
                };
                self.disk.is_frozen = true;
                let sign = |(validator, bytes): (&cluster::DistributedValidator, &ShareBytes)| {
                    let key = SecretKey::from_bytes(bytes.as_slice()).unwrap();
                    (validator.public_key, key.sign(&lock_hash).to_bytes())
                };
                Answer::Partials(lock.validators.iter().zip(&shares).map(sign).collect())
            }
            Question::Check { lock, members } => check(&Lock::from_json(&lock).unwrap(), &members),
            Question::Commit { lock } => {
                let lock = Lock::from_json(&lock).unwrap();
                lock.verify(&[]).unwrap();
                assert!(!lock.signature_aggregate.is_empty());
                match self.disk.pending.take() {
                    Some((known, shares)) => {
                        assert!(self.disk.is_frozen && known.lock_hash == lock.lock_hash);
                        self.disk = Disk { new: Some(shares), ..Disk::default() };
                    }
                    None if member.new.is_none() => {
                        self.disk = Disk { left: true, ..Disk::default() };
                    }
                    None => assert!(self.disk.new.is_some(), "asked again after a lost answer"),
                }
                Answer::Committed
            }
        }
    }

    fn deal(&mut self, validator: usize, event: DealEvent, lies: bool, rng: &mut ChaCha20Rng) -> Answer {
        let failed = |why: String| Answer::Failed { why, next_step: String::new() };
        let Some(run) = &mut self.run else { return failed("no change is under way".to_owned()) };
        let outputs = match event {
            DealEvent::Start => {
                let (setup, own, secret) =
                    setup(&self.plan, self.place, self.profile, &run.keys, validator, &self.disk);
                let copy =
                    secret.as_ref().map(|key| SecretKey::from_bytes(key.expose_bytes().as_slice()).unwrap());
                if lies && own.dealer.is_some() {
                    let (_, out) = Pedersen::start(setup.clone(), own, copy, &run.key, rng).unwrap();
                    *self.second_face.lock().unwrap() = out.iter().find_map(|output| match output {
                        pedersen::Output::Send(bundle) => Some(write_bundle(bundle)),
                        _ => None,
                    });
                }
                let (started, out) = Pedersen::start(setup, own, secret, &run.key, rng).unwrap();
                run.runs.insert(validator, started);
                out
            }
            DealEvent::Received { member, kind, bytes } => {
                let from = &self.plan.members()[member];
                let index = if kind == BundleKind::Response { from.new } else { from.old };
                let bundle = read_bundle(kind, index.unwrap(), &bytes).unwrap();
                let Some(started) = run.runs.get_mut(&validator) else {
                    return failed("not started".to_owned());
                };
                started.step(pedersen::Event::Received(bundle), &run.key)
            }
            DealEvent::Timeout => {
                run.runs.get_mut(&validator).unwrap().step(pedersen::Event::Timeout, &run.key)
            }
        };
        let (mut send, mut new_phase, mut accused) = (Vec::new(), false, Vec::new());
        for output in outputs {
            match output {
                pedersen::Output::Send(bundle) => send.push((BundleKind::of(&bundle), write_bundle(&bundle))),
                pedersen::Output::Entered(_) => new_phase = true,
                pedersen::Output::Accused(what) => accused.push(format!("{what:?}")),
                pedersen::Output::Finished(outcome) => drop(run.outcomes.insert(validator, *outcome)),
                pedersen::Output::Failed(failure) => return failed(failure.to_string()),
            }
        }
        let receivers = self.plan.members().iter().filter(|member| member.new.is_some()).count();
        let finished = run.outcomes.get(&validator).map(|outcome| public_shares(outcome, receivers));
        Answer::Dealt { send, new_phase, accused, finished }
    }

    /// Whether the old shares, or the new ones, would sign a vote.
    fn votes(&self) -> (bool, bool) {
        (self.disk.old.is_some() && !self.disk.is_frozen, self.disk.new.is_some())
    }
}

fn public_shares(outcome: &Outcome, receivers: usize) -> Vec<PublicKeyBytes> {
    let share = |place: usize| {
        let index = ShareIndex::new(u64::try_from(place + 1).unwrap()).unwrap();
        outcome.commitments.public_share(index).unwrap().key.to_bytes()
    };
    (0..receivers).map(share).collect()
}

fn setup(
    plan: &EditPlan,
    place: usize,
    profile: Profile,
    keys: &[PublicKey],
    validator: usize,
    disk: &Disk,
) -> (Setup, Own, Option<SecretKey>) {
    let members = plan.members();
    let side = |of: fn(&cluster::edit::EditMember) -> Option<u32>| {
        members.iter().zip(keys).filter_map(|(member, key)| Some((of(member)?, *key))).collect()
    };
    let public_shares = plan.old_shares(validator).unwrap();
    let setup = Setup {
        threshold: usize::from(plan.threshold()),
        session: session_nonce(
            nonce_rule(profile),
            u32::try_from(validator).unwrap(),
            &members.iter().zip(keys).map(|(member, key)| (member.index(), *key)).collect(),
        ),
        dealers: side(|member| member.old),
        receivers: side(|member| member.new),
        old: Some(OldSharing {
            threshold: usize::from(plan.base().threshold),
            public_shares: public_shares
                .iter()
                .map(|(index, key)| (*index, PublicKey::parse(key).unwrap()))
                .collect(),
            group_key: PublicKey::parse(&plan.base().validators[validator].group_public_key).unwrap(),
        }),
    };
    let own = Own { dealer: members[place].old, receiver: members[place].new };
    let secret =
        own.dealer.map(|_| SecretKey::from_bytes(disk.old.as_ref().unwrap()[validator].as_slice()).unwrap());
    (setup, own, secret)
}

fn check(lock: &Lock, members: &[Partials]) -> Answer {
    let mut all = Vec::new();
    for (place, validator) in lock.validators.iter().enumerate() {
        let partials: Vec<_> = (1_u64..)
            .zip(members)
            .map(|(index, set)| (ShareIndex::new(index).unwrap(), set[place].1))
            .collect();
        let whole = threshold::combine(&partials).unwrap();
        threshold::verify_bytes(&validator.public_key, &lock.lock_hash, &whole).unwrap();
        all.extend(partials.iter().map(|(_, signature)| Signature::parse(signature).unwrap()));
    }
    Answer::Checked { aggregate: threshold::aggregate_signatures(&all).unwrap().to_bytes() }
}

struct Member {
    identity: Arc<IdentityKey>,
    editing: Editing,
    signer: Signer,
    records: Vec<Record>,
    changed: Option<Lock>,
    refused: Vec<(usize, String)>,
    accused: Vec<String>,
    failed: Option<Failure>,
    done: bool,
    /// Outputs until the power goes.
    power: Option<u64>,
    off: bool,
    lies: bool,
}

enum Packet {
    Message(Channel, Vec<u8>),
    SignRequest(Vec<u8>),
}

type Tamper = Box<dyn FnMut(usize, usize, Packet) -> Vec<Packet>>;

struct World {
    plan: Arc<EditPlan>,
    profile: Profile,
    members: Vec<Member>,
    /// Old shares on boxes that take no part, whose owners did not switch them off.
    elsewhere: usize,
    wire: VecDeque<(usize, usize, Packet)>,
    rng: ChaCha20Rng,
    tamper: Tamper,
    /// A member that does not say that it drops repeats: software other than ours.
    counts_repeats: Option<usize>,
    now_ms: u64,
    outputs: u64,
}

impl World {
    fn new(of: usize, edit: &Edit, minor: u8, seed: u64) -> Self {
        let created = created(of);
        let plan = Arc::new(EditPlan::new(created.lock.clone(), edit, &[]).unwrap());
        let profile = Profile::of_minor(minor).unwrap();
        let mut rng = ChaCha20Rng::seed_from_u64(seed);
        let mut members = Vec::new();
        for (place, member) in plan.members().iter().enumerate() {
            let node = member.old.map(|old| &created.nodes[usize::try_from(old).unwrap()]);
            let identity = match node {
                Some(node) => {
                    IdentityKey::from_bytes(node.identity.secret_bytes().clone()).map(Arc::new).unwrap()
                }
                None => (0..9).map(newcomer).find(|key| key.public_key() == member.public_key).unwrap(),
            };
            let shares = |node: &create::CreatedNode| {
                node.shares.iter().map(|share: &SecretShare| share.key().expose_bytes()).collect()
            };
            let mut signer = Signer {
                plan: Arc::clone(&plan),
                place,
                profile,
                disk: Disk { old: node.map(shares), ..Disk::default() },
                run: None,
                second_face: Arc::default(),
            };
            signer.allow(&mut rng);
            let editing =
                Editing::new(Arc::clone(&plan), Vec::new(), profile, Arc::clone(&identity), "sim").unwrap();
            members.push(Member {
                identity,
                editing,
                signer,
                records: Vec::new(),
                changed: None,
                refused: Vec::new(),
                accused: Vec::new(),
                failed: None,
                done: false,
                power: None,
                off: false,
                lies: false,
            });
        }
        let dealing = plan.members().iter().filter(|member| member.old.is_some()).count();
        let mut world = Self {
            plan,
            profile,
            members,
            elsewhere: of - dealing,
            wire: VecDeque::new(),
            rng,
            tamper: Box::new(|_, _, packet| vec![packet]),
            counts_repeats: None,
            now_ms: 0,
            outputs: 0,
        };
        for member in 0..world.members.len() {
            world.connect(member);
        }
        world
    }

    fn connect(&mut self, member: usize) {
        for other in 0..self.members.len() {
            if other != member && !self.members[other].off {
                self.event(member, Event::Connected { member: other });
                self.event(other, Event::Connected { member });
            }
        }
    }

    /// The power goes: what is in memory and on the wire is lost.
    fn cut(&mut self, member: usize) {
        self.wire.retain(|(from, to, _)| *from != member && *to != member);
        let this = &mut self.members[member];
        this.off = true;
        this.power = None;
        this.signer.run = None;
        this.changed = None;
        for other in 0..self.members.len() {
            if other != member {
                self.event(other, Event::Disconnected { member });
            }
        }
    }

    /// The power comes back: nobody does anything but what the box does by itself.
    fn restore(&mut self, member: usize) {
        let (plan, profile) = (Arc::clone(&self.plan), self.profile);
        let this = &mut self.members[member];
        this.editing = Editing::new(plan, Vec::new(), profile, Arc::clone(&this.identity), "sim").unwrap();
        let text = serde_json::to_string(&this.records).unwrap();
        this.editing.restore(serde_json::from_str::<Vec<Record>>(&text).unwrap()).unwrap();
        this.off = false;
        this.done = false;
        this.failed = None;
        self.connect(member);
    }

    /// All owners begin the change again, as they were told.
    fn begin_again(&mut self) {
        for member in 0..self.members.len() {
            if !self.members[member].off {
                self.cut(member);
            }
        }
        for member in 0..self.members.len() {
            self.members[member].records.clear();
            let mut rng = ChaCha20Rng::seed_from_u64(self.rng.random());
            self.members[member].signer.allow(&mut rng);
            self.restore(member);
        }
    }

    fn event(&mut self, member: usize, event: Event) -> Option<Vec<u8>> {
        let mut queue = VecDeque::from([event]);
        let mut answer = None;
        while let Some(event) = queue.pop_front() {
            if self.members[member].off {
                return None;
            }
            let mut out = Vec::new();
            self.members[member].editing.step(event, &mut out);
            for output in out {
                self.outputs += 1;
                let this = &mut self.members[member];
                if let Some(left) = &mut this.power {
                    if *left == 0 {
                        self.cut(member);
                        return None;
                    }
                    *left -= 1;
                }
                match output {
                    Output::Record(record) => this.records.push(record),
                    Output::Reply { bytes, .. } => answer = bytes,
                    Output::RequestSignature { member: to, bytes } => {
                        self.wire.push_back((member, to, Packet::SignRequest(bytes)));
                    }
                    Output::Send { member: to, channel, bytes } => {
                        self.wire.push_back((member, to, Packet::Message(channel, bytes)));
                    }
                    Output::Ask(question) => {
                        let lies = this.lies;
                        queue.push_back(Event::Answer(this.signer.answer(question, lies, &mut self.rng)));
                    }
                    Output::Refused { member: who, why } => this.refused.push((who, why)),
                    Output::Accused { what } => this.accused.push(what),
                    Output::Changed(lock) => this.changed = Some(*lock),
                    Output::Failed(failure) => this.failed = Some(failure),
                    Output::Done => this.done = true,
                }
                self.assert_safe();
            }
        }
        answer
    }

    /// Rule 1, after every output: never may a quorum of old shares and a quorum of new ones sign; and a share is never lost.
    fn assert_safe(&self) {
        let old = self.members.iter().filter(|member| member.signer.votes().0).count() + self.elsewhere;
        let new = self.members.iter().filter(|member| member.signer.votes().1).count();
        let (old_quorum, new_quorum) =
            (usize::from(self.plan.base().threshold), usize::from(self.plan.threshold()));
        assert!(old < old_quorum || new == 0, "{old} old shares vote beside {new} new ones");
        assert!(old < old_quorum || new < new_quorum);
        for member in &self.members {
            let disk = &member.signer.disk;
            assert!(
                disk.old.is_some() != disk.new.is_some() || disk.left || !disk_had_share(&self.plan, member)
            );
        }
    }

    fn deliver(&mut self, from: usize, to: usize, packet: Packet) {
        for packet in (self.tamper)(from, to, packet) {
            match packet {
                Packet::Message(channel, bytes) => {
                    self.event(to, Event::Message { member: from, channel, bytes });
                }
                Packet::SignRequest(bytes) => {
                    if let Some(bytes) = self.event(to, Event::SignRequest { member: from, bytes, reply: 0 })
                    {
                        self.event(from, Event::Signed { member: to, bytes });
                    }
                }
            }
        }
    }

    /// One turn: everybody tells its step, then some messages in any order arrive.
    fn turn(&mut self) {
        self.now_ms += 1_000;
        let everybody: Vec<usize> = (0..self.members.len()).collect();
        for from in everybody.clone() {
            self.event(from, Event::Tick { now_ms: self.now_ms });
            for to in everybody.clone() {
                if from != to && !self.members[from].off && !self.members[to].off {
                    let mut bytes = self.members[from].editing.sync_message(self.now_ms);
                    if self.counts_repeats == Some(from) {
                        let message = MsgSync::decode(bytes.as_slice()).unwrap();
                        bytes = MsgSync { drops_repeats: false, ..message }.encode_to_vec();
                    }
                    if let Some(bytes) = self.event(to, Event::Sync { member: from, bytes, reply: 0 }) {
                        self.event(from, Event::SyncAnswer { member: to, bytes });
                    }
                }
            }
        }
        for _ in 0..self.wire.len() {
            if self.wire.is_empty() {
                break; // Lost in a power cut.
            }
            let place = self.rng.random_range(0..self.wire.len());
            if let Some((from, to, packet)) = self.wire.swap_remove_back(place) {
                self.deliver(from, to, packet);
            }
        }
    }

    fn run(&mut self, turns: usize) {
        for _ in 0..turns {
            if self.members.iter().all(|member| member.changed.is_some() || member.failed.is_some()) {
                return;
            }
            self.turn();
        }
    }

    fn promised(&self) -> bool {
        self.members.iter().any(|member| member.signer.disk.is_frozen || member.signer.disk.new.is_some())
    }

    fn states(&self) -> Vec<String> {
        let state = |member: &Member| {
            format!(
                "{:?} step {} failed {:?} refused {:?}",
                member.editing.progress().phase,
                member.editing.progress().step,
                member.failed,
                member.refused
            )
        };
        self.members.iter().map(state).collect()
    }

    /// Everybody has the same lock, the new shares make signatures of the unchanged keys, the old ones are gone.
    fn assert_changed(&self, what: &str) {
        let old = &created(self.plan.base().operators.len()).lock;
        let lock = self.members[0].changed.as_ref().unwrap_or_else(|| panic!("{what}: {:?}", self.states()));
        lock.verify(&[]).unwrap();
        assert_eq!(lock.definition.threshold, u64::from(self.plan.threshold()));
        for member in &self.members {
            assert_eq!(member.changed.as_ref(), Some(lock), "{what}: {:?}", self.states());
            assert!(member.signer.disk.old.is_none() && member.signer.disk.pending.is_none(), "{what}");
        }
        let mut signing: Vec<(usize, &Member)> = Vec::new();
        for (member, known) in self.members.iter().zip(self.plan.members()) {
            match known.new {
                Some(new) => signing.push((usize::try_from(new).unwrap(), member)),
                None => assert!(member.signer.disk.left),
            }
        }
        let quorum = usize::from(self.plan.threshold());
        for (place, validator) in lock.validators.iter().enumerate() {
            assert_eq!(validator.public_key, old.validators[place].public_key);
            for group in [&signing[..quorum], &signing[signing.len() - quorum..]] {
                let partials: Vec<_> = group
                    .iter()
                    .map(|(new, member)| {
                        let bytes = &member.signer.disk.new.as_ref().unwrap()[place];
                        let key = SecretKey::from_bytes(bytes.as_slice()).unwrap();
                        assert_eq!(key.public_key().to_bytes(), validator.public_shares[*new]);
                        (
                            ShareIndex::new(u64::try_from(new + 1).unwrap()).unwrap(),
                            key.sign(b"duty").to_bytes(),
                        )
                    })
                    .collect();
                let whole = threshold::combine(&partials).unwrap();
                threshold::verify_bytes(&validator.public_key, b"duty", &whole).unwrap();
            }
        }
    }
}

fn disk_had_share(plan: &EditPlan, member: &Member) -> bool {
    plan.members()[member.signer.place].old.is_some()
}

fn enr(of: usize, place: usize) -> String {
    created(of).view.operators[place].enr.clone()
}

fn replace() -> Edit {
    Edit::Replace { old: enr(4, 3), new: record_of(0) }
}

#[test]
fn members_replace_add_and_remove_operators_and_change_the_threshold() {
    let edits = [
        (4, replace()),
        (4, Edit::Add { operators: vec![record_of(0)], threshold: None }),
        (5, Edit::Remove { operators: vec![enr(5, 1)], dealing: Vec::new(), threshold: None }),
        (5, Edit::Remove { operators: vec![enr(5, 0)], dealing: vec![enr(5, 0)], threshold: None }),
        (4, Edit::Recreate { threshold: Some(4) }),
        (4, Edit::Recreate { threshold: None }),
    ];
    for minor in [9, 10, 11] {
        for (of, edit) in &edits {
            let mut world = World::new(*of, edit, minor, 1);
            world.run(60);
            world.assert_changed(&format!("v1.{minor} {edit:?}"));
            for member in &world.members {
                assert_eq!((member.refused.as_slice(), member.accused.as_slice()), (&[][..], &[][..]));
            }
            world.run(10);
            for _ in 0..20 {
                world.turn();
            }
            assert!(world.members.iter().all(|member| member.done), "{:?}", world.states());
        }
    }
}

/// Charon v1.10 counts what it hears: one key or public share said twice takes another member's place, and a bundle of the validator
/// before makes its sender one that says two things.
#[test]
fn a_member_that_counts_repeats_hears_nothing_twice() {
    const OTHER: usize = 2;
    type Heard = BTreeMap<(usize, usize, Vec<u8>), usize>;
    let heard: Arc<Mutex<Heard>> = Arc::default();
    let (seen, mut late) = (Arc::clone(&heard), 0_u32);
    let mut world = World::new(4, &Edit::Recreate { threshold: None }, 10, 5);
    world.counts_repeats = Some(OTHER);
    world.tamper = Box::new(move |from, to, packet| {
        if let Packet::Message(channel, bytes) = &packet
            && *channel != Channel::Partials
            && !bytes.windows(8).any(|part| part == b"node_sig")
        {
            *seen.lock().unwrap().entry((from, to, bytes.clone())).or_default() += 1;
        }
        // What one member says is lost for a while, so that the others say everything more than once.
        let is_lost = from == 3 && to != OTHER && matches!(packet, Packet::Message(..)) && late < 8;
        late += u32::from(is_lost);
        if is_lost { Vec::new() } else { vec![packet] }
    });
    world.run(60);
    world.assert_changed("with one that counts repeats");
    let heard = heard.lock().unwrap();
    let most = |to: usize| {
        let counts = heard.iter().filter(|((from, receiver, _), _)| *receiver == to && *from != 3);
        counts.map(|(_, count)| *count).max().unwrap()
    };
    assert_eq!(most(OTHER), 1);
    assert!(most(0) > 1, "nothing was repeated, so this tried nothing");
}

/// As the reference has it: who is removed without taking part leaves a gap in the numbers of the dry run, though the new shares
/// have none; who deals and leaves says in place of a signature that it has none.
#[test]
fn the_dry_run_goes_by_old_numbers_and_who_leaves_signs_nothing() {
    type Said = Vec<(usize, Vec<u8>)>;
    let numbers: Arc<Mutex<Vec<i32>>> = Arc::default();
    let signed: Arc<Mutex<Said>> = Arc::default();
    for dealing in [vec![], vec![enr(5, 1)]] {
        let edit = Edit::Remove { operators: vec![enr(5, 1)], dealing: dealing.clone(), threshold: None };
        let mut world = World::new(5, &edit, 10, 1);
        let (numbers, signed) = (Arc::clone(&numbers), Arc::clone(&signed));
        let (told, said) = (Arc::clone(&numbers), Arc::clone(&signed));
        world.tamper = Box::new(move |from, _, packet| {
            match &packet {
                Packet::Message(Channel::Partials, bytes) => {
                    let message = ParSigExMsg::decode(bytes.as_slice()).unwrap();
                    told.lock()
                        .unwrap()
                        .extend(message.data_set.unwrap().set.values().map(|entry| entry.share_idx));
                }
                Packet::SignRequest(bytes) => {
                    let request = BCastSigRequest::decode(bytes.as_slice()).unwrap();
                    if request.id == "/charon/dkg/node_sig" {
                        let message = MsgNodeSig::decode(request.message.unwrap().value.as_slice()).unwrap();
                        said.lock().unwrap().push((from, message.signature));
                    }
                }
                Packet::Message(..) => {}
            }
            vec![packet]
        });
        world.run(60);
        world.assert_changed("one of five is removed");
        for _ in 0..10 {
            world.turn(); // Who leaves is heard out, though nothing of it is needed.
        }
        let mut found = std::mem::take(&mut *numbers.lock().unwrap());
        found.sort_unstable();
        found.dedup();
        assert_eq!(found, [1, 3, 4, 5]);
        let signed = std::mem::take(&mut *signed.lock().unwrap());
        let leaves = |from: usize| !dealing.is_empty() && from == 1;
        assert_eq!(signed.iter().any(|(from, _)| leaves(*from)), !dealing.is_empty());
        for (from, signature) in signed {
            assert_eq!(signature == [0xde, 0xad, 0xbe, 0xef], leaves(from));
        }
        for member in &world.members {
            assert_eq!(member.refused.as_slice(), &[][..], "{:?}", world.states());
        }
    }
}

/// Runs a change in which one member loses its power after so many outputs and gets it back a little later. Whether the
/// whole of it went on by itself.
fn with_power_cut(edit: &Edit, member: usize, after: u64) -> (bool, bool) {
    let what = format!("member {member} after {after}");
    let mut world = World::new(4, edit, 10, 7);
    world.members[member].power = Some(after);
    for _ in 0..40 {
        world.turn();
        if world.members[member].off || world.members.iter().all(|member| member.changed.is_some()) {
            break;
        }
    }
    let was_cut = world.members[member].off;
    if was_cut {
        world.turn();
        world.turn();
        world.restore(member);
    }
    world.run(60);
    if world.members.iter().all(|member| member.changed.is_some()) {
        world.assert_changed(&what);
        return (was_cut, true);
    }
    // It was interrupted while shares were dealt: everybody knows, nobody promised, and the old shares are there.
    assert!(!world.promised(), "{what}: {:?}", world.states());
    for known in &world.members {
        let failure = known.failed.as_ref().unwrap_or_else(|| panic!("{what}: {:?}", world.states()));
        assert!(failure.next_step.contains("egin"), "{failure:?}");
        assert!(!known.editing.may_go_on(), "{what}: {:?}", world.states());
        assert_eq!(known.signer.votes(), (known.signer.disk.old.is_some(), false));
    }
    world.begin_again();
    world.run(60);
    world.assert_changed(&what);
    (was_cut, false)
}

#[test]
fn a_power_cut_at_any_moment_ends_in_the_old_cluster_or_in_the_new_one() {
    let edit = replace();
    // Place 3 is the one that joins.
    for (member, stride) in [(0, 7), (3, 7)] {
        let (mut went_on, mut began_again) = (0, 0);
        for after in (0..).step_by(stride) {
            let (was_cut, by_itself) = with_power_cut(&edit, member, after);
            if !was_cut {
                break;
            }
            if by_itself { went_on += 1 } else { began_again += 1 }
        }
        assert!(went_on > 5 && began_again > 5, "{went_on} went on, {began_again} began again");
    }
}

#[test]
fn power_cuts_of_anybody_at_any_time_never_end_in_two_clusters() {
    for seed in 0..12 {
        let minor = if seed % 2 == 0 { 10 } else { 11 };
        let mut world = World::new(4, &replace(), minor, seed);
        let mut cuts = ChaCha20Rng::seed_from_u64(seed);
        for _ in 0..8 {
            for _ in 0..25 {
                world.turn();
                let members: Vec<usize> = (0..world.members.len()).collect();
                let one = *members.choose(&mut cuts).unwrap();
                if world.members[one].off {
                    world.restore(one);
                } else if cuts.random_bool(0.15) {
                    world.members[one].power = Some(cuts.random_range(0..40));
                }
            }
            for member in 0..world.members.len() {
                world.members[member].power = None;
                if world.members[member].off {
                    world.restore(member);
                }
            }
            world.run(60);
            if world.promised() || world.members.iter().all(|member| member.changed.is_some()) {
                break;
            }
            world.begin_again();
        }
        world.run(60);
        world.assert_changed(&format!("seed {seed}"));
    }
}

#[test]
fn a_dealer_with_two_faces_is_found_while_the_old_shares_still_sign() {
    let mut world = World::new(4, &replace(), 10, 4);
    world.members[1].lies = true;
    let shown = Arc::clone(&world.members[1].signer.second_face);
    world.tamper = Box::new(move |from, to, packet| match packet {
        Packet::Message(Channel::Bundle(BundleKind::Deal), bytes) if from == 1 && to == 2 => {
            let second = shown.lock().unwrap().clone().unwrap_or(bytes);
            vec![Packet::Message(Channel::Bundle(BundleKind::Deal), second)]
        }
        packet => vec![packet],
    });
    world.run(40);
    assert!(!world.promised());
    for honest in [0, 2, 3] {
        let failure = world.members[honest].failed.as_ref().unwrap();
        assert!(
            failure.why.contains("another share") || failure.why.contains("refuses to go on"),
            "{failure:?}"
        );
    }
    let named = world.members.iter().any(|member| {
        member
            .failed
            .as_ref()
            .is_some_and(|failure| failure.why.contains("a dealer told members different things"))
    });
    assert!(named);
}

#[test]
fn a_liar_in_the_dry_run_is_named_and_cannot_end_the_change() {
    let mut world = World::new(4, &replace(), 10, 5);
    let lying = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let liar = Arc::clone(&lying);
    world.tamper = Box::new(move |from, _, packet| match packet {
        Packet::Message(Channel::Partials, mut bytes)
            if from == 2 && liar.load(std::sync::atomic::Ordering::Relaxed) =>
        {
            // Another character of the base64 text of a signature; after it comes a copy that nobody reads.
            let place = bytes.len() - 130;
            bytes[place] = if bytes[place] == b'A' { b'B' } else { b'A' };
            vec![Packet::Message(Channel::Partials, bytes)]
        }
        packet => vec![packet],
    });
    world.run(40);
    for honest in [0, 1, 3] {
        let member = &world.members[honest];
        assert!(member.failed.is_none() && member.changed.is_none(), "{:?}", world.states());
        assert!(member.refused.iter().all(|(who, _)| *who == 2) && !member.refused.is_empty());
        assert!(member.editing.is_promised());
    }
    lying.store(false, std::sync::atomic::Ordering::Relaxed);
    world.run(40);
    world.assert_changed("the liar came round");
}

#[test]
fn a_wrong_public_share_and_bundles_of_nobody_are_refused_with_a_name() {
    let mut world = World::new(4, &replace(), 10, 6);
    world.turn();
    for (channel, bytes) in [
        (Channel::Bundle(BundleKind::Response), vec![0; 50_000]),
        (Channel::PublicShare, vec![1; 300]),
        (Channel::Partials, vec![1, 2, 3]),
        (Channel::Broadcast, vec![1, 2, 3]),
    ] {
        world.event(0, Event::Message { member: 2, channel, bytes });
    }
    // Who joins has nothing to deal.
    world.event(0, Event::Message { member: 3, channel: Channel::Bundle(BundleKind::Deal), bytes: vec![] });
    let names: Vec<usize> = world.members[0].refused.iter().map(|(who, _)| *who).collect();
    assert_eq!(names, [2, 2, 2, 2, 3]);
    world.run(40);
    world.assert_changed("noise");
}

/// Everybody's signature of a broadcast names no sender. Whoever had another member sign a key with that member's shares
/// beside it could have that member's new shares dealt to itself.
#[test]
fn nobody_signs_an_announcement_with_other_shares_than_its_sender_s() {
    let created = created(4);
    let of = |place: usize| created.view.validators.iter().map(move |known| known.public_shares[place].0);
    // Whoever joins has no share of its own and believes nothing but the lock: the group key comes from there.
    for edit in [Edit::Recreate { threshold: None }, replace()] {
        let own = of(2).collect::<Vec<_>>();
        let others = of(1).collect::<Vec<_>>();
        let mut world = World::new(4, &edit, 10, 11);
        world.tamper = Box::new(move |from, _, packet| match packet {
            Packet::SignRequest(mut bytes) if from == 2 => {
                for (own, other) in own.iter().zip(&others) {
                    let found = bytes.windows(48).position(|part| part == own);
                    if let Some(at) = found {
                        bytes[at..at + 48].copy_from_slice(other);
                    }
                }
                vec![Packet::SignRequest(bytes)]
            }
            packet => vec![packet],
        });
        for _ in 0..6 {
            world.turn();
        }
        for other in [0, 1, 3] {
            let member = &world.members[other];
            assert!(member.refused.iter().any(|(who, why)| *who == 2 && why.contains("other shares")));
            let signed = |record: &Record| matches!(record, Record::Signed { member: 2, .. });
            assert!(!member.records.iter().any(signed));
        }
    }
}

#[test]
fn a_change_that_comes_to_nothing_is_given_up_before_a_promise_and_never_after_it() {
    let mut world = World::new(4, &replace(), 10, 8);
    world.cut(3);
    for _ in 0..3 {
        world.turn();
    }
    world.now_ms += GIVE_UP_MS;
    world.turn();
    for member in &world.members[..3] {
        let failure = member.failed.as_ref().unwrap();
        assert!(failure.why.contains("15 minutes"), "{failure:?}");
    }

    let mut world = World::new(4, &replace(), 10, 8);
    while !world.members[0].signer.disk.is_frozen {
        world.turn();
    }
    if world.members[3].changed.is_none() {
        world.cut(3);
        for _ in 0..3 {
            world.now_ms += GIVE_UP_MS;
            world.turn();
        }
        assert!(world.members[..3].iter().all(|member| member.failed.is_none()));
        world.restore(3);
    }
    world.run(60);
    world.assert_changed("the last one came back after an hour");
}

#[test]
fn whoever_comes_back_when_the_others_are_gone_needs_nothing_but_the_complete_lock() {
    let mut found = false;
    for seed in 0..3 {
        let mut world = World::new(4, &replace(), 10, seed);
        // Its operator's signature has reached the others, theirs have not reached it.
        world.tamper = Box::new(|_, to, packet| match packet {
            Packet::Message(Channel::Broadcast, bytes)
                if to == 1 && bytes.windows(8).any(|part| part == b"node_sig") =>
            {
                vec![]
            }
            packet => vec![packet],
        });
        for _ in 0..30 {
            world.turn();
        }
        if world.members[0].changed.is_none() || world.members[1].changed.is_some() {
            continue;
        }
        found = true;
        world.cut(1);
        world.now_ms += STAY_MS;
        for _ in 0..3 {
            world.turn();
        }
        assert!([0, 2, 3].into_iter().all(|other| world.members[other].done));
        world.restore(1);
        for other in [0, 2, 3] {
            world.members[other].off = true;
        }
        for _ in 0..3 {
            world.turn();
        }
        assert!(world.members[1].changed.is_none() && world.members[1].editing.is_promised());
        let wrong = created(4).lock.to_json().unwrap();
        world.event(1, Event::Lock { bytes: wrong });
        assert!(world.members[1].changed.is_none());
        let lock = world.members[0].changed.as_ref().unwrap().to_json().unwrap();
        world.event(1, Event::Lock { bytes: lock });
        world.assert_changed("handed in");
    }
    assert!(found);
}
