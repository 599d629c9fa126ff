//! A whole key-generation ceremony as one member sees it (obol spec 11.1): events in, ordered outputs out.
//!
//! It holds no secret: it asks the signer for everything that needs one ([`Question`]). What must survive a restart is an
//! output that comes before whatever depends on it ([`Record`]); a member that comes back with its records goes on where it
//! was, because the signer deals the same again. Every refusal names the member that caused it.

mod finish;
mod keygen;
mod types;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use chain::SignatureBytes;
use cluster::{IdentityKey, Lock};

use super::bcast::{BroadcastRefusal, Broadcasts, Delivered, Session};
use super::dealer::{BornValidator, SignedByValidators};
use super::exchange::{self, Exchange, Partials};
use super::frost::{self, Arrived, Cast, FrostRefusal, NODE_SIGNATURE, ROUND_1, ROUND_2};
use super::plan::Plan;
use super::profile::Profile;
use super::sync::{SEAL_KEY_BYTES, SealKey, Sync, SyncRefusal, seal_key_digest};

pub use types::{
    Answer, Channel, Event, Failure, MemberProgress, Output, Outputs, Phase, Progress, Question, Record,
    RecordError, SignedCast,
};

/// How long a member may take to sign our message before it is asked again.
const ASK_AGAIN_MS: u64 = 2_000;
/// How long we wait for goodbyes once everything is stored.
const GOODBYE_MS: u64 = 120_000;

/// The ceremony. See the module.
pub struct Ceremony {
    plan: Arc<Plan>,
    identity: Arc<IdentityKey>,
    sync: Sync,
    broadcasts: Broadcasts,
    connected: BTreeSet<usize>,
    now_ms: u64,

    /// Questions to the signer that were asked since the start.
    asked: BTreeSet<&'static str>,
    asked_to_sign: BTreeSet<Exchange>,
    /// Our shares for the others, from the signer.
    shares: BTreeMap<usize, zeroize::Zeroizing<Vec<u8>>>,
    /// Whole broadcasts by sender and name, as they travelled.
    travelled: BTreeMap<(usize, &'static str), Vec<u8>>,
    casts: BTreeMap<usize, (Vec<Cast>, SignedCast)>,
    kept: BTreeSet<usize>,
    keeping: BTreeSet<usize>,
    validators: Option<Vec<BornValidator>>,
    arrived: BTreeMap<usize, Vec<Arrived>>,
    partials: BTreeMap<(Exchange, usize), Partials>,
    own_partials: BTreeMap<Exchange, Partials>,
    signed: SignedByValidators,
    lock: Option<Lock>,
    aggregate: Option<SignatureBytes>,
    node_signatures: BTreeMap<usize, Vec<u8>>,
    last_asked: BTreeMap<&'static str, u64>,
    released: bool,
    leaving_since: Option<u64>,
    failure: Option<Failure>,
    done: bool,
}

impl Ceremony {
    /// A ceremony at its beginning. `seal_key` is the signer's key for shares from other Hearths.
    pub fn new(
        plan: Arc<Plan>,
        profile: Profile,
        identity: Arc<IdentityKey>,
        nickname: &str,
        seal_key: [u8; SEAL_KEY_BYTES],
    ) -> Self {
        let members = plan.members().to_vec();
        let hash = plan.hash();
        let mut sync = Sync::new(profile, hash, members.clone(), plan.own(), &identity, nickname);
        let signature = identity.sign(&seal_key_digest(&hash, &seal_key)).to_vec();
        sync.announce(SealKey { key: seal_key, signature });
        let session = Session { version: profile.broadcast, hash };
        let kinds = frost::kinds(&plan);
        let broadcasts = Broadcasts::new(session, members, plan.own(), Arc::clone(&identity), kinds);
        Self {
            plan,
            identity,
            sync,
            broadcasts,
            connected: BTreeSet::new(),
            now_ms: 0,
            asked: BTreeSet::new(),
            asked_to_sign: BTreeSet::new(),
            shares: BTreeMap::new(),
            travelled: BTreeMap::new(),
            casts: BTreeMap::new(),
            kept: BTreeSet::new(),
            keeping: BTreeSet::new(),
            validators: None,
            arrived: BTreeMap::new(),
            partials: BTreeMap::new(),
            own_partials: BTreeMap::new(),
            signed: SignedByValidators::default(),
            lock: None,
            aggregate: None,
            node_signatures: BTreeMap::new(),
            last_asked: BTreeMap::new(),
            released: false,
            leaving_since: None,
            failure: None,
            done: false,
        }
    }

    /// Puts back what was recorded before a restart, in the order it was recorded. Before the first event.
    pub fn restore(&mut self, records: impl IntoIterator<Item = Record>) -> Result<(), RecordError> {
        for record in records {
            match record {
                Record::Signed { member, id, hash } => {
                    self.broadcasts.remember(member, &id, hash).map_err(|_| RecordError)?;
                }
                Record::Delivered { member, bytes } => {
                    let delivered = self.broadcasts.on_message(member, &bytes).map_err(|_| RecordError)?;
                    self.take_delivered(member, &delivered, bytes).map_err(|_| RecordError)?;
                }
                Record::Kept { member } => {
                    self.kept.insert(member);
                }
                Record::Partials { member, bytes } => {
                    let (exchange, partials) =
                        exchange::read(&self.plan, member, &bytes).map_err(|_| RecordError)?;
                    self.partials.insert((exchange, member), partials);
                }
                Record::Step(step) => self.sync.resume(step),
                Record::Lock { bytes } => {
                    self.lock = Some(Lock::from_json(&bytes).map_err(|_| RecordError)?);
                    self.asked.insert("lock verified");
                }
                Record::Released => self.released = true,
            }
        }
        Ok(())
    }

    /// Our sync message now; to be sent to every other member ten times a second.
    pub fn sync_message(&self, now_ms: u64) -> Vec<u8> {
        self.sync.message(now_ms)
    }

    /// Whether our messages say goodbye: a member that has answered one needs no other.
    pub fn is_leaving(&self) -> bool {
        self.sync.is_leaving()
    }

    /// What the page shows.
    pub fn progress(&self) -> Progress {
        let step = self.sync.step();
        let member = |place: usize| {
            let peer = self.sync.peer(place);
            let is_self = place == self.plan.own();
            MemberProgress {
                is_self,
                connected: is_self || self.connected.contains(&place),
                in_sync: is_self || peer.is_some_and(|peer| peer.heard && peer.answered),
                step: if is_self { step } else { peer.map_or(0, |peer| peer.step) },
                nickname: peer.map(|peer| peer.nickname.clone()).unwrap_or_default(),
                takes_sealed_shares: is_self || peer.is_some_and(|peer| peer.seal_key.is_some()),
                waited_for: !self.done && self.failure.is_none() && self.waiting_for().contains(&place),
            }
        };
        Progress {
            phase: self.phase(),
            step,
            members: (0..self.plan.members().len()).map(member).collect(),
            failure: self.failure.clone(),
        }
    }

    /// Takes one event; appends what is to be done, in order.
    pub fn step(&mut self, event: Event, out: &mut Outputs) {
        if let Event::Tick { now_ms } = event {
            self.now_ms = now_ms;
        }
        if self.done {
            return self.refuse_reply(&event, out);
        }
        match event {
            Event::Connected { member } => {
                self.connected.insert(member);
                self.send_again(member, out);
            }
            Event::Disconnected { member } => {
                self.connected.remove(&member);
                self.sync.disconnected(member);
            }
            Event::Sync { member, bytes, reply } => self.on_sync(member, &bytes, reply, out),
            Event::SyncAnswer { member, bytes } => {
                if let Err(why) = self.sync.on_response(member, &bytes) {
                    self.on_sync_refusal(member, &why, out);
                }
            }
            Event::SignRequest { member, bytes, reply } => self.on_sign_request(member, &bytes, reply, out),
            Event::Signed { member, bytes } => match self.broadcasts.on_response(member, &bytes) {
                Ok(id) => self.when_signed(id, out),
                Err(why) => out.push(Output::Refused { member, why: why.to_string() }),
            },
            Event::Broadcast { member, bytes } => self.on_broadcast(member, bytes, out),
            Event::Share { member, bytes } => self.on_share(member, bytes, out),
            Event::Partials { member, bytes } => self.on_partials(member, bytes, out),
            Event::Answer(answer) => self.on_answer(answer, out),
            Event::Tick { .. } => self.ask_again(out),
        }
        self.go_on(out);
    }

    /// Goes as far as what is known allows.
    fn go_on(&mut self, out: &mut Outputs) {
        while self.failure.is_none() && !self.done {
            let moved = match self.sync.step() {
                0 => self.sync.missing().is_empty() && self.reach(1, out),
                1 => self.reached(1, out) && self.make_keys(out) && self.reach(2, out),
                2 => self.reached(2, out) && self.sign_deposits(out) && self.reach(3, out),
                3 => self.reached(3, out) && self.sign_registrations(out) && self.reach(4, out),
                4 => self.reached(4, out) && self.sign_lock(out) && self.reach(5, out),
                5 => self.reached(5, out) && self.sign_as_nodes(out) && self.reach(6, out),
                6 => self.reached(6, out) && self.release(out) && self.reach(7, out),
                7 => self.give_lock(out) && self.reached(7, out) && self.reach(8, out),
                _ => self.give_lock(out) && self.say_goodbye(out),
            };
            if !moved {
                break;
            }
        }
    }

    /// Takes a step of ours, durably before anybody hears of it.
    fn reach(&mut self, step: i64, out: &mut Outputs) -> bool {
        out.push(Output::Record(Record::Step(step)));
        self.sync.advance(step);
        true
    }

    /// Whether everybody has reached a step.
    fn reached(&mut self, step: i64, out: &mut Outputs) -> bool {
        match self.sync.behind(step) {
            Ok(behind) => behind.is_empty(),
            Err((member, why)) => {
                self.on_sync_refusal(member, &why, out);
                false
            }
        }
    }

    fn on_sync(&mut self, member: usize, bytes: &[u8], reply: u64, out: &mut Outputs) {
        let before = self.sync.peer(member).map(|peer| peer.heard);
        let heard = self.sync.on_message(member, bytes);
        out.push(Output::Reply { reply, bytes: heard.response, ends: heard.ends });
        if let Some(why) = heard.refusal {
            return self.on_sync_refusal(member, &why, out);
        }
        if before == Some(false) {
            self.send_again(member, out);
        }
    }

    /// Key generation needs everybody: who cannot go on, or lost its part, ends it. The owner is told what to do.
    fn on_sync_refusal(&mut self, member: usize, why: &SyncRefusal, out: &mut Outputs) {
        let name = self.plan.name_of(member);
        let next_step = match why {
            SyncRefusal::Malformed => {
                return out.push(Output::Refused { member, why: why.to_string() });
            }
            SyncRefusal::Version { expected, .. } => format!(
                "All members must run the same minor version: have {name} start a {expected} release, or start this box's ceremony with the version that the others announce."
            ),
            SyncRefusal::Definition => format!(
                "Compare the definition hash with {name}: everybody must start from the same cluster definition file."
            ),
            SyncRefusal::FirstStep(_)
            | SyncRefusal::WentBack { .. }
            | SyncRefusal::Jumped { .. }
            | SyncRefusal::Ahead { .. } => format!(
                "{name} or this box lost its part of the ceremony. Nothing was funded yet and no key is in use: discard the ceremony on every member, delete what other software wrote of it, and start it again together."
            ),
            SyncRefusal::Told(_) => {
                format!("Ask {name} what its log says, correct it, and start again together.")
            }
        };
        self.fail(Some(member), why.to_string(), next_step, out);
    }

    fn on_sign_request(&mut self, member: usize, bytes: &[u8], reply: u64, out: &mut Outputs) {
        let checked = self.broadcasts.on_request(member, bytes).map_err(|why| {
            self.on_broadcast_refusal(member, &why, out);
            why.to_string()
        });
        let checked = checked.and_then(|request| match self.read_content(member, &request) {
            Ok(_) => Ok(request),
            Err(why) => Err(why.to_string()),
        });
        let signed = checked.and_then(|request| {
            let answer = self.broadcasts.sign(member, &request).map_err(|why| why.to_string())?;
            Ok((request, answer))
        });
        match signed {
            Ok((request, answer)) => {
                let id = request.id.to_owned();
                out.push(Output::Record(Record::Signed { member, id, hash: request.hash }));
                out.push(Output::Reply { reply, bytes: Some(answer), ends: true });
            }
            Err(why) => {
                out.push(Output::Reply { reply, bytes: None, ends: true });
                out.push(Output::Refused { member, why });
            }
        }
    }

    fn on_broadcast(&mut self, member: usize, bytes: Vec<u8>, out: &mut Outputs) {
        match self.broadcasts.on_message(member, &bytes) {
            Ok(delivered) if self.travelled.contains_key(&(member, delivered.id)) => {} // Sent again.
            Ok(delivered) => match self.take_delivered(member, &delivered, bytes.clone()) {
                Ok(()) => out.push(Output::Record(Record::Delivered { member, bytes })),
                Err(why) => out.push(Output::Refused { member, why: why.to_string() }),
            },
            Err(why) => {
                self.on_broadcast_refusal(member, &why, out);
                out.push(Output::Refused { member, why: why.to_string() });
            }
        }
    }

    /// Whoever says two different things under one name never gets everybody's signature for the second: it began anew, or
    /// lies. Everything else that is refused may still come right.
    fn on_broadcast_refusal(&mut self, member: usize, why: &BroadcastRefusal, out: &mut Outputs) {
        if matches!(why, BroadcastRefusal::SecondDifferent(_)) {
            let name = self.plan.name_of(member);
            let next_step = format!(
                "{name} began the ceremony anew without the others, or is not to be trusted. Nothing was funded yet and no key is in use: discard the ceremony on every member, delete what other software wrote of it, and start it again together."
            );
            self.fail(Some(member), why.to_string(), next_step, out);
        }
    }

    /// What the signer says.
    fn on_answer(&mut self, answer: Answer, out: &mut Outputs) {
        match answer {
            Answer::Dealt { cast, shares, kept } => {
                self.shares = shares;
                self.kept.extend(kept);
                self.broadcast(ROUND_1, cast, out);
            }
            Answer::Kept { member } => {
                self.keeping.remove(&member);
                if self.kept.insert(member) {
                    out.push(Output::Record(Record::Kept { member }));
                }
            }
            Answer::Finished { validators } => self.on_finished(validators, out),
            Answer::Signed { exchange, partials } => self.on_own_partials(exchange, partials, out),
            Answer::Released => {
                self.released = true;
                out.push(Output::Record(Record::Released));
            }
            Answer::Failed { member, why, next_step } => self.fail(member, why, next_step, out),
        }
    }

    /// Asks the signer once.
    fn ask(&mut self, name: &'static str, question: impl FnOnce(&Self) -> Question, out: &mut Outputs) {
        if self.asked.insert(name) {
            out.push(Output::Ask(question(self)));
        }
    }

    /// Begins a broadcast of ours, or sends it again when it was signed by all before.
    fn broadcast(&mut self, id: &'static str, message: crate::wire::Any, out: &mut Outputs) {
        let hash = self.broadcasts.session().hash_of(id, &message);
        match self.broadcasts.begin(id, message) {
            Ok(request) => {
                let member = self.plan.own();
                out.push(Output::Record(Record::Signed { member, id: id.to_owned(), hash }));
                if self.travelled.contains_key(&(member, id)) {
                    for member in self.plan.others().collect::<Vec<_>>() {
                        self.send_again(member, out);
                    }
                    return;
                }
                self.last_asked.insert(id, self.now_ms);
                for member in self.plan.others() {
                    out.push(Output::RequestSignature { member, bytes: request.clone() });
                }
            }
            Err(why) => self.fail(
                Some(self.plan.own()),
                why.to_string(),
                "This box lost what it had told the others: discard the ceremony on every member and start it again together.".to_owned(),
                out,
            ),
        }
    }

    /// Once everybody signed our message, it goes to everybody, ourselves included.
    fn when_signed(&mut self, id: &'static str, out: &mut Outputs) {
        let own = self.plan.own();
        if self.travelled.contains_key(&(own, id)) {
            return;
        }
        let Some((bytes, delivered)) = self.broadcasts.complete(id) else { return };
        if let Err(why) = self.take_delivered(own, &delivered, bytes.clone()) {
            return out.push(Output::Refused { member: own, why: why.to_string() });
        }
        out.push(Output::Record(Record::Delivered { member: own, bytes: bytes.clone() }));
        for member in self.plan.others() {
            out.push(Output::Send { member, channel: Channel::Broadcast, bytes: bytes.clone().into() });
            if id == ROUND_1
                && let Some(share) = self.shares.get(&member)
            {
                out.push(Output::Send { member, channel: Channel::Share, bytes: share.clone() });
            }
        }
    }

    /// Asks those again who have not signed our messages, in case the question or the answer was lost.
    fn ask_again(&mut self, out: &mut Outputs) {
        for id in [ROUND_1, ROUND_2, NODE_SIGNATURE] {
            let due = self.last_asked.get(id).is_some_and(|asked| self.now_ms >= asked + ASK_AGAIN_MS);
            if !due || self.travelled.contains_key(&(self.plan.own(), id)) {
                continue;
            }
            self.last_asked.insert(id, self.now_ms);
            let Some(request) = self.broadcasts.request(id) else { continue };
            for member in self.broadcasts.unsigned(id) {
                out.push(Output::RequestSignature { member, bytes: request.clone() });
            }
        }
    }

    /// Sends a member that has come (back) what it may have missed: everything that belongs to its step.
    fn send_again(&self, member: usize, out: &mut Outputs) {
        if !self.connected.contains(&member) {
            return;
        }
        let own = self.plan.own();
        let their_step = self.sync.peer(member).map_or(0, |peer| peer.step);
        for (id, step) in [(ROUND_1, 1), (ROUND_2, 1), (NODE_SIGNATURE, 5)] {
            if their_step > step {
                continue;
            }
            if let Some(bytes) = self.travelled.get(&(own, id)) {
                out.push(Output::Send { member, channel: Channel::Broadcast, bytes: bytes.clone().into() });
                if id == ROUND_1
                    && let Some(share) = self.shares.get(&member)
                {
                    out.push(Output::Send { member, channel: Channel::Share, bytes: share.clone() });
                }
            } else if self.broadcasts.unsigned(id).contains(&member)
                && let Some(bytes) = self.broadcasts.request(id)
            {
                out.push(Output::RequestSignature { member, bytes });
            }
        }
        for (exchange, partials) in &self.own_partials {
            if their_step <= step_of(*exchange) {
                let bytes = exchange::write(own, *exchange, partials).into();
                out.push(Output::Send { member, channel: Channel::Partials, bytes });
            }
        }
    }

    /// Whoever asks after the end gets no answer, and no waiting either.
    fn refuse_reply(&mut self, event: &Event, out: &mut Outputs) {
        match event {
            // The others may still be leaving.
            Event::Sync { member, bytes, reply } => {
                let heard = self.sync.on_message(*member, bytes);
                out.push(Output::Reply { reply: *reply, bytes: heard.response, ends: heard.ends });
            }
            Event::SignRequest { reply, .. } => {
                out.push(Output::Reply { reply: *reply, bytes: None, ends: true });
            }
            Event::Connected { .. }
            | Event::Disconnected { .. }
            | Event::SyncAnswer { .. }
            | Event::Signed { .. }
            | Event::Broadcast { .. }
            | Event::Share { .. }
            | Event::Partials { .. }
            | Event::Answer(_)
            | Event::Tick { .. } => {}
        }
    }

    /// Ends the ceremony, unless everything that matters is stored already.
    fn fail(&mut self, member: Option<usize>, why: String, next_step: String, out: &mut Outputs) {
        if self.released || self.failure.is_some() {
            return;
        }
        let failure = Failure { member, why, next_step };
        self.failure = Some(failure.clone());
        out.push(Output::Failed(failure));
    }

    /// Whom the present step waits for.
    fn waiting_for(&self) -> BTreeSet<usize> {
        let step = self.sync.step();
        if step == 0 {
            return self.sync.missing().into_iter().collect();
        }
        let behind = self.sync.behind(step).unwrap_or_default();
        if !behind.is_empty() {
            return behind.into_iter().collect();
        }
        let all = 0..self.plan.members().len();
        let has_partials = |exchange| move |member: &usize| self.partials.contains_key(&(exchange, *member));
        match step {
            1 => {
                let waits = |member: &usize| {
                    let kept = *member == self.plan.own() || self.kept.contains(member);
                    if self.validators.is_none() {
                        !self.casts.contains_key(member) || !kept
                    } else {
                        !self.arrived.contains_key(member)
                    }
                };
                all.filter(waits).collect()
            }
            2 => all
                .filter(|member| {
                    !self.deposit_exchanges().iter().all(|exchange| has_partials(*exchange)(member))
                })
                .collect(),
            3 => all.filter(|member| !has_partials(Exchange::Registration)(member)).collect(),
            4 => all.filter(|member| !has_partials(Exchange::Lock)(member)).collect(),
            5 => all.filter(|member| !self.node_signatures.contains_key(member)).collect(),
            _ => BTreeSet::new(),
        }
    }

    fn phase(&self) -> Phase {
        match (self.done, self.sync.step()) {
            (true, _) => Phase::Done,
            (false, 0) => Phase::Connecting,
            (false, 1) => Phase::MakingKeys,
            (false, 2) => Phase::SigningDeposits,
            (false, 3) => Phase::SigningRegistrations,
            (false, 4) => Phase::SigningLock,
            (false, 5) => Phase::SigningAsNodes,
            (false, 6) => Phase::Storing,
            (false, _) => Phase::Leaving,
        }
    }

    /// Reads what a broadcast says, and matches it to its sender.
    fn read_content(&self, member: usize, delivered: &Delivered) -> Result<Content, FrostRefusal> {
        let bytes = delivered.message.value.as_slice();
        match delivered.id {
            ROUND_1 => frost::read_round_1(&self.plan, member, bytes).map(Content::Casts),
            ROUND_2 => frost::read_round_2(&self.plan, member, bytes).map(Content::Arrived),
            _ => frost::read_node_signature(member, bytes).map(Content::NodeSignature),
        }
    }

    fn take_delivered(
        &mut self,
        member: usize,
        delivered: &Delivered,
        travelled: Vec<u8>,
    ) -> Result<(), FrostRefusal> {
        match self.read_content(member, delivered)? {
            Content::Casts(casts) => {
                let signed = SignedCast {
                    value: delivered.message.value.clone(),
                    signatures: delivered.signatures.clone(),
                };
                self.casts.insert(member, (casts, signed));
            }
            Content::Arrived(arrived) => {
                self.arrived.insert(member, arrived);
            }
            Content::NodeSignature(signature) => {
                self.node_signatures.insert(member, signature);
            }
        }
        self.travelled.insert((member, delivered.id), travelled);
        Ok(())
    }
}

/// What a broadcast says.
enum Content {
    Casts(Vec<Cast>),
    Arrived(Vec<Arrived>),
    NodeSignature(Vec<u8>),
}

/// The step in which an exchange happens.
fn step_of(exchange: Exchange) -> i64 {
    match exchange {
        Exchange::Deposit(_) => 2,
        Exchange::Registration => 3,
        Exchange::Lock => 4,
    }
}
