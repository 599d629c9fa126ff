//! One run: a queue of happenings in virtual time.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::rc::Rc;

use chain::{Epoch, PublicKeyBytes, Root, Slot};
use duty::{
    Agreement, Clock, CombineJob, Duty, DutyKind, Event, FetchError, Given, Outcome, Output, Payload,
    PublishError, SignError, Task, TaskId, Value, Who,
};
use qbft::Member;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::check::Checks;
use crate::crypto::Keys;
use crate::member::Node;
use crate::messages::{Block, Message};
use crate::send::{Letter, Packet, arrivals, retry_after_ms};
use crate::values::{
    Attestation, Seal, digests_match, fingerprint, print_of, seal, sealed_well, selects, validator, value_of,
};
use crate::world::{Disk, Journals, Weather, World};

/// What came of a run.
#[derive(Clone, Debug)]
pub struct Report {
    /// The seed that replays it.
    pub seed: u64,
    /// What must not have happened, if it did.
    pub violation: Option<String>,
    /// Duties that honest members reported as done.
    pub done: usize,
    /// Duties that honest members reported as missed.
    pub missed: usize,
    /// Reasons of the missed ones, counted by their codes.
    pub reasons: BTreeMap<&'static str, usize>,
    /// Decisions by round.
    pub rounds: BTreeMap<u64, usize>,
    /// Happenings processed.
    pub steps: usize,
    /// What happened, if it was asked for.
    pub log: Vec<String>,
}

/// Runs a world with a seed.
pub fn run(seed: u64, world: &World) -> Report {
    Simulation::new(seed, world, false).run()
}

/// Runs a world with a seed and writes down what happens.
pub fn run_with_log(seed: u64, world: &World) -> Report {
    Simulation::new(seed, world, true).run()
}

/// What a beacon node is asked for.
#[derive(Debug)]
struct Question {
    validators: Vec<PublicKeyBytes>,
    given: Given,
}

/// Something that happens at a time.
#[derive(Debug)]
enum Happening {
    Boot(Member),
    Crash(Member, Disk),
    Tell(Member, Slot),
    Arrive(Letter),
    Resend(Letter),
    BeaconAnswers { node: Member, life: u32, duty: Duty, question: Box<Question> },
    SignerWorks { node: Member, life: u32, duty: Duty, tasks: Vec<Task> },
    Answer { node: Member, life: u32, event: Box<Event<Seal>> },
    Wake { node: Member, life: u32 },
}

struct Simulation<'a> {
    seed: u64,
    world: &'a World,
    weather: Weather,
    rng: ChaCha8Rng,
    keys: Keys,
    now: u64,
    queue: BinaryHeap<Reverse<(u64, u64)>>,
    happenings: BTreeMap<u64, Happening>,
    next_id: u64,
    nodes: Vec<Node>,
    checks: Checks,
    steps: usize,
    log: Option<Vec<String>>,
}

/// The kinds of duties that each slot with duties has.
const KINDS: [DutyKind; 8] = [
    DutyKind::Randao,
    DutyKind::Proposer,
    DutyKind::Attester,
    DutyKind::PrepareAggregator,
    DutyKind::Aggregator,
    DutyKind::SyncMessage,
    DutyKind::PrepareSyncContribution,
    DutyKind::SyncContribution,
];

/// More happenings than any sane run has; a livelock is a failure too.
const MAX_STEPS: usize = 400_000;

impl<'a> Simulation<'a> {
    fn new(seed: u64, world: &'a World, with_log: bool) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let weather = Weather::draw(world, &mut rng);
        let keys = Keys::generate(world, &mut rng);
        let checks = Checks::new(world, &weather);
        let mut simulation = Simulation {
            seed,
            world,
            weather,
            rng,
            keys,
            now: World::BOOT_MS - 1000,
            queue: BinaryHeap::new(),
            happenings: BTreeMap::new(),
            next_id: 0,
            nodes: world.size().all().map(Node::new).collect(),
            checks,
            steps: 0,
            log: with_log.then(Vec::new),
        };
        simulation.plan();
        simulation
    }

    /// What is known from the start to happen.
    fn plan(&mut self) {
        let weather = format!("{:?}", self.weather);
        self.note(|| weather);
        for member in self.world.size().all() {
            self.at(World::BOOT_MS, Happening::Boot(member));
            for slot in World::DUTY_SLOTS {
                let late =
                    slot * 12_000 < World::CALM_FROM_MS && self.rng.random_bool(self.weather.late_schedule);
                let lateness = if late { self.rng.random_range(0..30_000) } else { 0 };
                self.at(slot * 12_000 - World::TOLD_AHEAD_MS + lateness, Happening::Tell(member, Slot(slot)));
            }
        }
        for crash in self.weather.crashes.clone() {
            self.at(crash.at_ms, Happening::Crash(crash.member, crash.disk));
        }
    }

    fn run(mut self) -> Report {
        while let Some(Reverse((at, id))) = self.queue.pop() {
            if at > World::END_MS || self.checks.violation.is_some() {
                break;
            }
            self.now = at;
            self.steps += 1;
            if self.steps > MAX_STEPS {
                self.checks.violated(format!("livelock: more than {MAX_STEPS} happenings"));
            }
            if let Some(happening) = self.happenings.remove(&id) {
                self.happen(happening);
            }
        }
        if self.checks.violation.is_none() {
            self.look_at_the_end();
        }
        self.report()
    }

    fn look_at_the_end(&mut self) {
        let lives = self.nodes.iter().map(|node| (node.me, node.life)).collect();
        self.checks.at_end(&self.weather, &lives);
        for node in &self.nodes {
            let remembered = node.engine.as_ref().map_or(0, |engine| engine.remembered());
            if remembered + node.disk.len() > 0 {
                let what = format!("member {} remembers expired duties: {:?}", node.me, node.disk.keys());
                self.checks.violated(what);
            }
        }
        if !self.world.accidents {
            self.expect_perfection();
        }
    }

    /// When nothing breaks, everything is done in round 1.
    fn expect_perfection(&mut self) {
        let flaw = self.checks.records().find(|(_, record)| {
            let agreed = match record.duty.kind.row().agreement {
                Agreement::NotNeeded => None,
                Agreement::Qbft { .. } => Some(1),
            };
            let idle = record.outcome == Outcome::NotNeeded && record.duty.kind.row().who == Who::Selected;
            !idle
                && (record.outcome != Outcome::Done
                    || record.decided_round != agreed
                    || record.withheld.is_some())
        });
        if let Some(what) =
            flaw.map(|(member, record)| format!("member {member} in calm weather: {record:?}"))
        {
            self.checks.violated(what);
        }
    }

    fn report(mut self) -> Report {
        let mut report = Report {
            seed: self.seed,
            violation: self.checks.violation.take(),
            done: 0,
            missed: 0,
            reasons: BTreeMap::new(),
            rounds: BTreeMap::new(),
            steps: self.steps,
            log: self.log.take().unwrap_or_default(),
        };
        for (_, record) in self.checks.records().filter(|(member, _)| self.weather.is_honest(*member)) {
            match &record.outcome {
                Outcome::Done => report.done += 1,
                Outcome::Missed(reason) => {
                    report.missed += 1;
                    *report.reasons.entry(reason.code()).or_default() += 1;
                }
                Outcome::NotNeeded => {}
            }
            if let Some(round) = record.decided_round {
                *report.rounds.entry(round).or_default() += 1;
            }
        }
        report
    }

    fn note(&mut self, text: impl FnOnce() -> String) {
        let now = self.now;
        if let Some(log) = &mut self.log {
            log.push(format!("{now:>6} {}", text()));
        }
    }

    fn at(&mut self, when: u64, happening: Happening) {
        self.queue.push(Reverse((when.max(self.now), self.next_id)));
        self.happenings.insert(self.next_id, happening);
        self.next_id += 1;
    }

    fn after(&mut self, delay: std::ops::RangeInclusive<u64>, happening: Happening) {
        let delay = self.rng.random_range(delay);
        self.at(self.now + delay, happening);
    }

    fn storm(&self) -> bool {
        self.now < World::CALM_FROM_MS
    }

    fn node(&mut self, member: Member) -> &mut Node {
        &mut self.nodes[usize::from(member.0)]
    }

    fn is_alive(&self, member: Member, life: u32) -> bool {
        let node = &self.nodes[usize::from(member.0)];
        node.life == life && node.engine.is_some()
    }

    fn is_awaited(&self, member: Member) -> bool {
        self.nodes[usize::from(member.0)].wake_at == Some(self.now)
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Boot(member) => self.boot(member),
            Happening::Crash(member, disk) => self.crash(member, disk),
            Happening::Tell(member, slot) => self.tell(member, slot),
            Happening::Arrive(letter) => self.arrive(letter),
            Happening::Resend(letter) => {
                if self.is_alive(letter.from, letter.from_life) {
                    self.post(letter);
                }
            }
            Happening::BeaconAnswers { node, life, duty, question } if self.is_alive(node, life) => {
                let result = self.beacon_answer(node, duty, &question);
                self.give(node, Event::Fetched { duty, result });
            }
            Happening::SignerWorks { node, life, duty, tasks } if self.is_alive(node, life) => {
                self.signer_works(node, life, duty, &tasks);
            }
            Happening::Answer { node, life, event } if self.is_alive(node, life) => self.give(node, *event),
            Happening::Wake { node, life } if self.is_alive(node, life) && self.is_awaited(node) => {
                self.node(node).wake_at = None;
                self.give(node, Event::Tick);
            }
            Happening::BeaconAnswers { .. }
            | Happening::SignerWorks { .. }
            | Happening::Answer { .. }
            | Happening::Wake { .. } => {} // Meant for a former life, or replaced by an earlier alarm.
        }
    }

    fn boot(&mut self, member: Member) {
        let world = self.world;
        if self.node(member).engine.is_some() {
            return;
        }
        self.note(|| format!("member {member} boots"));
        self.node(member).boot(world);
        let trusted = !self.weather.clock_untrusted.contains(&member);
        let clock = if trusted { Clock::Trusted } else { Clock::Untrusted };
        self.give(member, Event::Clock(clock));
        for slot in self.node(member).told.clone() {
            self.schedule(member, slot);
        }
        self.let_others_repeat(member);
    }

    /// Members send what they signed once more to one that connects, as it may have been down before.
    fn let_others_repeat(&mut self, to: Member) {
        for from in self.world.size().all().filter(|from| *from != to) {
            let Node { life, ref sent, .. } = *self.node(from);
            for (_, packet) in sent.clone() {
                self.post(Letter { from, from_life: life, to, packet, attempt: 0 });
            }
        }
    }

    fn crash(&mut self, member: Member, disk: Disk) {
        let ledger = self.world.ledger;
        if self.node(member).engine.is_none() {
            // Already down; what the disk loses, it loses all the same.
            if disk == Disk::Kept {
                return;
            }
        }
        self.note(|| format!("member {member} crashes, {disk:?}"));
        let forgets = self.world.journals == Journals::LostInCrashes;
        self.node(member).crash(if forgets { Disk::JournalLost } else { disk }, ledger);
        if disk == Disk::JournalLost {
            self.checks.on_journal_lost(member);
        }
        let back = self.now + self.rng.random_range(200..15_000);
        self.at(back.min(World::CALM_FROM_MS - 1), Happening::Boot(member));
    }

    fn tell(&mut self, member: Member, slot: Slot) {
        self.node(member).told.push(slot);
        if self.node(member).engine.is_some() {
            self.schedule(member, slot);
        }
    }

    fn schedule(&mut self, member: Member, slot: Slot) {
        let numbers = self.weather.validators(slot);
        for kind in KINDS {
            let duty = Duty::new(slot, kind);
            let deadline = duty.deadline(&World::timing());
            if deadline.is_some_and(|deadline| deadline <= self.weather.local_time(member, self.now)) {
                continue;
            }
            let proposes = matches!(kind, DutyKind::Proposer | DutyKind::Randao);
            let numbers = if proposes { &numbers[..1] } else { &numbers[..] };
            let validators =
                numbers.iter().map(|number| (validator(*number), Payload::from([*number]))).collect();
            let life = self.node(member).life;
            self.checks.on_accepted(member, life, duty);
            self.give(member, Event::Schedule { duty, validators });
            if self.node(member).life != life {
                return; // It crashed, and will be told again.
            }
        }
    }

    /// Hands an event to a member's engine and does what it wants.
    fn give(&mut self, member: Member, event: Event<Seal>) {
        let local = self.weather.local_time(member, self.now);
        let mut outputs = Vec::new();
        let described = if self.log.is_some() { format!("{event:?}") } else { String::new() };
        let Some(engine) = self.node(member).engine.as_mut() else { return };
        let result = engine.step(local, event, &mut outputs);
        self.note(|| format!("member {member} <- {described} {result:?}"));
        self.perform(member, outputs);
        self.plan_wake(member);
    }

    fn plan_wake(&mut self, member: Member) {
        let Some(wake) = self.node(member).engine.as_ref().and_then(|engine| engine.next_wake()) else {
            return;
        };
        let at = self.weather.true_time(member, wake).max(self.now + 1);
        let (now, node) = (self.now, self.node(member));
        if node.wake_at.is_none_or(|planned| planned <= now || at < planned) {
            node.wake_at = Some(at);
            let life = node.life;
            self.at(at, Happening::Wake { node: member, life });
        }
    }

    /// Performs outputs in order; a crash may come between any two.
    fn perform(&mut self, member: Member, outputs: Vec<Output<Seal>>) {
        for output in outputs {
            let unlucky = self.storm() && self.weather.is_honest(member);
            if unlucky && self.rng.random_bool(self.weather.crash_between) {
                self.crash(member, Disk::Kept);
                return;
            }
            self.note(|| format!("member {member} -> {output:?}"));
            self.perform_one(member, output);
        }
    }

    fn perform_one(&mut self, node: Member, output: Output<Seal>) {
        let life = self.node(node).life;
        match output {
            Output::Persist { duty, saved } => drop(self.node(node).disk.insert(duty, saved)),
            Output::Forget { duty } => drop(self.node(node).disk.remove(&duty)),
            Output::Fetch { duty, validators, given } => {
                let question = Box::new(Question { validators: validators.into_keys().collect(), given });
                self.after(10..=300, Happening::BeaconAnswers { node, life, duty, question });
            }
            Output::Broadcast { duty, mut message, values } => {
                if self.weather.is_honest(node) {
                    self.checks.on_said(node, duty, &message);
                }
                seal(duty, node, &mut message);
                self.send_to_all(node, &Packet::Agreement { duty, message, values });
            }
            Output::Agreed { duty, value, .. } => {
                if self.weather.is_honest(node) {
                    let sound = self.is_sound(duty, &value);
                    self.checks.on_decided(node, duty, value.digest, sound);
                }
            }
            Output::Sign { duty, tasks } => {
                self.after(5..=30, Happening::SignerWorks { node, life, duty, tasks });
            }
            Output::SendPartials { duty, set } => self.send_to_all(node, &Packet::Partials { duty, set }),
            Output::Combine { duty, jobs } => self.combine(node, life, duty, &jobs),
            Output::Publish { duty, set } => {
                for aggregate in set {
                    self.look_at_published(node, &aggregate);
                }
                let unlucky = self.storm() && self.rng.random_bool(self.weather.local_failures);
                let result = if unlucky { Err(PublishError::Temporary("busy".to_owned())) } else { Ok(()) };
                let event = Box::new(Event::Published { duty, result });
                self.after(10..=100, Happening::Answer { node, life, event });
            }
            Output::Provide { set, .. } => {
                set.iter().for_each(|aggregate| self.look_at_published(node, aggregate));
            }
            Output::Outcome(record) => {
                self.checks.on_outcome(node, life, &record);
            }
        }
    }

    fn look_at_published(&mut self, node: Member, aggregate: &duty::Aggregate) {
        let valid = self.keys.verify(&aggregate.id.validator, aggregate.message_root, &aggregate.signature);
        let message = Message::decode(&aggregate.data);
        match message.filter(|message| valid && message.message_root() == aggregate.message_root) {
            Some(message) => self.checks.on_published(aggregate.id.validator, message),
            None => self.checks.violated(format!("member {node} published something wrong: {aggregate:?}")),
        }
    }

    fn combine(&mut self, node: Member, life: u32, duty: Duty, jobs: &[CombineJob]) {
        let keys = &self.keys;
        let rng = &mut self.rng;
        let results = jobs.iter().map(|job| (job.id, keys.combine(job, rng))).collect();
        let event = Box::new(Event::Combined { duty, results });
        self.after(1..=5, Happening::Answer { node, life, event });
    }

    /// The signer answers; or the box crashes after the record and before the answer.
    fn signer_works(&mut self, node: Member, life: u32, duty: Duty, tasks: &[Task]) {
        let honest = self.weather.is_honest(node);
        if honest && self.storm() && self.rng.random_bool(self.weather.local_failures) {
            let busy = |task: &Task| (task.id, Err(SignError::Unavailable("starting".to_owned())));
            let results = tasks.iter().map(busy).collect();
            return self.give(node, Event::Signed { duty, results });
        }
        let mut results = Vec::new();
        for task in tasks {
            if !honest {
                let signature = self.keys.sign(node, &task.id.validator, task.message_root);
                results.push((task.id, Ok(signature)));
                continue;
            }
            let signed = self.nodes[usize::from(node.0)].signer.sign(task, &self.keys);
            if let Ok((message, _)) = &signed {
                self.checks.on_signed(node, task.id.validator, *message);
            }
            results.push((task.id, signed.map(|(_, signature)| signature)));
        }
        if honest && self.storm() && self.rng.random_bool(self.weather.crash_between) {
            return self.crash(node, Disk::Kept);
        }
        if self.is_alive(node, life) {
            self.give(node, Event::Signed { duty, results });
        }
    }

    /// What a member's beacon node says.
    fn beacon_answer(
        &mut self,
        member: Member,
        duty: Duty,
        question: &Question,
    ) -> Result<Value, FetchError> {
        let down = self.storm() && self.weather.beacon_down.contains(&member);
        if down || (self.storm() && self.rng.random_bool(self.weather.local_failures)) {
            return Err(FetchError::Temporary("the beacon node is down".to_owned()));
        }
        let chain = if self.weather.split.contains(&member) { &b"other chain"[..] } else { b"chain" };
        let late = self.rng.random_bool(self.weather.heads_differ);
        let validators = &question.validators[..];
        let content = |what: &[u8]| Root(fingerprint(&[chain, what, &duty.slot.0.to_le_bytes()]));
        match duty.kind {
            DutyKind::Proposer => {
                let [proposer] = validators else { return Err(FetchError::NothingToDo) };
                let reveal = question.given.get(&(DutyKind::Randao, TaskId::from(*proposer)));
                let Some(reveal) = reveal else { return Err(FetchError::NothingToDo) };
                // Every beacon node makes another block.
                let body = Root(fingerprint(&[chain, &[member.0], &duty.slot.0.to_le_bytes()]));
                let block = Block { slot: duty.slot, body, reveal: print_of(&reveal.signature) };
                Ok(value_of(&Message::Block(block), validators))
            }
            DutyKind::Aggregator | DutyKind::SyncContribution => {
                let needs = duty.kind.row().needs[0];
                let is_selected = |validator: &&PublicKeyBytes| {
                    let proof = question.given.get(&(needs, TaskId::from(**validator)));
                    proof.is_some_and(|proof| selects(&proof.signature))
                };
                let selected: Vec<PublicKeyBytes> = validators.iter().filter(is_selected).copied().collect();
                if selected.is_empty() {
                    return Err(FetchError::NothingToDo);
                }
                let votes = Root(fingerprint(&[chain, &[member.0], b"votes", &duty.slot.0.to_le_bytes()]));
                Ok(value_of(&Message::harmless(duty.kind, duty.slot, votes), &selected))
            }
            DutyKind::SyncMessage => {
                Ok(value_of(&Message::harmless(duty.kind, duty.slot, content(b"head")), &[]))
            }
            DutyKind::Attester
            | DutyKind::Exit
            | DutyKind::BuilderRegistration
            | DutyKind::Randao
            | DutyKind::PrepareAggregator
            | DutyKind::PrepareSyncContribution
            | DutyKind::InfoSync => {
                let view = self.view(chain, duty, duty.slot.0 - u64::from(late));
                Ok(value_of(&Message::Attestation(view), validators))
            }
        }
    }

    /// Whether the honest members would sign this value.
    fn is_sound(&self, duty: Duty, value: &Value) -> bool {
        let validators = self.weather.validators(duty.slot);
        let Some((message, numbers)) = Message::split(&value.bytes) else { return false };
        match message {
            Message::Attestation(attestation) => {
                let right = self.view(b"chain", duty, duty.slot.0);
                numbers == validators
                    && attestation.slot == duty.slot
                    && attestation.source == right.source
                    && attestation.target == right.target
            }
            // A liar may leave out validators, or name those that are not selected.
            Message::Block(_) | Message::Harmless(_) => self.weather.byzantine.is_empty(),
        }
    }

    fn view(&self, chain: &[u8], duty: Duty, head: u64) -> Attestation {
        let target = World::timing().epoch_of(duty.slot);
        let source = Epoch(target.0.saturating_sub(self.weather.source_lag));
        let root = |what: &[u8], number: u64| Root(fingerprint(&[chain, what, &number.to_le_bytes()]));
        Attestation {
            slot: duty.slot,
            head: root(b"block", head),
            source: (source, root(b"epoch", source.0)),
            target: (target, root(b"epoch", target.0)),
        }
    }

    fn send_to_all(&mut self, from: Member, packet: &Packet) {
        let from_life = self.node(from).life;
        let twist = self.weather.byzantine.get(&from).copied();
        let honest = Rc::new(packet.clone());
        for to in self.world.size().all().filter(|to| *to != from) {
            let packets = match &twist {
                None => vec![honest.clone()],
                Some(twist) => {
                    let validators = self.weather.validators(packet.duty().slot);
                    let twisted = twist.on_send(from, to, packet, &validators, &self.keys);
                    twisted.into_iter().map(Rc::new).collect()
                }
            };
            for packet in packets {
                if matches!(*packet, Packet::Partials { .. }) && twist.is_none() {
                    let sent = &mut self.node(from).sent;
                    if !sent.iter().any(|(duty, known)| *duty == packet.duty() && Rc::ptr_eq(known, &packet))
                    {
                        sent.push((packet.duty(), packet.clone()));
                    }
                }
                self.post(Letter { from, from_life, to, packet, attempt: 0 });
            }
        }
    }

    fn post(&mut self, letter: Letter) {
        let arrivals = arrivals(&self.weather, &letter, self.now, &mut self.rng);
        if arrivals.is_empty() {
            self.note(|| format!("lost: {} to {}, {:?}", letter.from, letter.to, letter.packet.duty()));
            self.retry(letter.clone());
        }
        for at in arrivals {
            self.at(at, Happening::Arrive(letter.clone()));
        }
    }

    /// Partial signatures are sent again until somebody takes them.
    fn retry(&mut self, mut letter: Letter) {
        if matches!(*letter.packet, Packet::Partials { .. }) {
            letter.attempt += 1;
            self.at(self.now + retry_after_ms(letter.attempt), Happening::Resend(letter));
        }
    }

    /// A letter arrives: the shell verifies it and hands it to the engine.
    fn arrive(&mut self, letter: Letter) {
        if self.node(letter.to).engine.is_none() {
            return self.retry(letter);
        }
        self.let_liar_answer(&letter);
        let event = match &*letter.packet {
            Packet::Agreement { duty, message, values } => {
                if !sealed_well(*duty, message) || !digests_match(values) {
                    return;
                }
                Event::Agreement { duty: *duty, message: message.clone(), values: values.clone() }
            }
            Packet::Partials { duty, set } => {
                Event::Partials { duty: *duty, sender: letter.from, set: set.clone() }
            }
        };
        self.give(letter.to, event);
    }

    fn let_liar_answer(&mut self, letter: &Letter) {
        let Some(twist) = self.weather.byzantine.get(&letter.to).copied() else { return };
        if !self.weather.is_honest(letter.from) {
            return; // Liars do not excite each other, or a run would never end.
        }
        let members = self.world.members;
        let node = &mut self.nodes[usize::from(letter.to.0)];
        let from_life = node.life;
        let said = twist.on_receive(letter.to, members, &mut node.memory, &letter.packet, &mut self.rng);
        for (to, packet) in said {
            self.post(Letter { from: letter.to, from_life, to, packet: Rc::new(packet), attempt: 0 });
        }
    }
}
