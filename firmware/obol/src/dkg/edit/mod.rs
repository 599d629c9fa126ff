//! A whole change of the cluster as one member sees it (obol spec 11.9): events in, ordered outputs out.
//!
//! It holds no secret: it asks the signer for everything that needs one ([`Question`]), one question at a time. The steps, of
//! which none begins before everybody has reached it:
//!
//! | step | what happens | a power cut in it |
//! |---|---|---|
//! | 0 | everybody connects | begins again by itself |
//! | 1 | ephemeral keys, resharing of one validator after the other, new shares sealed | this attempt is over, for everybody; the old shares sign on |
//! | 2 | dry run: old shares frozen, new ones sign the new lock | goes on |
//! | 3 | operators sign the lock; the old shares are given up for it | goes on |
//! | 4, 5, 6 | the others are helped to finish | goes on |
//!
//! So nobody freezes an old share before everybody's new shares are durable (step 2 is told only then) and before all have
//! arrived at the same public shares: what can go wrong in the dealing goes wrong while the old shares still sign. From the
//! dry run on nothing ends the change but the complete lock (decision 0180): refusals are told, and waiting goes on.

mod deal;
mod finish;
mod types;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use chain::{PublicKeyBytes, SignatureBytes};
use cluster::edit::EditPlan;
use cluster::{IdentityKey, IdentityPublicKey, Lock, Network};

use super::bcast::{BroadcastRefusal, Broadcasts, Delivered, Kind, Session};
use super::ceremony::{Failure, MemberProgress};
use super::exchange::Partials;
use super::frost::{self, NO_SIGNATURE, NODE_SIGNATURE};
use super::pedersen::{NODE_PUBKEYS, announcement_kind, read_announcement};
use super::profile::Profile;
use super::sync::{Sync, SyncRefusal};
use super::wire::MsgNodeSig;
use crate::wire::{Any, Named as _};
use deal::Dealing;

pub use types::{
    Answer, Channel, DealEvent, Event, Output, Outputs, Phase, Progress, Question, Record, RecordError, Said,
    SignedAnnouncement,
};

/// What may have been lost on the way is said again this often.
const SAY_AGAIN_MS: u64 = 3_000;
/// Before anything is promised, a change that does not come to that is given up after this long: meanwhile the validators
/// are without this member.
pub const GIVE_UP_MS: u64 = 15 * 60 * 1_000;
/// How long we stay for members that are late once our old shares are gone. The new ones vote in three epochs at the
/// earliest, twenty minutes on mainnet.
pub const STAY_MS: u64 = 10 * 60 * 1_000;

/// What an owner does about an attempt that is over before anybody promised anything.
const AGAIN: &str =
    "The old shares are as they were and sign on. Begin the change again on every member, at the same time.";
/// The same where another member may have promised already.
const AGAIN_OR_ON: &str = "The old shares of this box are as they were. If any member's page says that its old shares are frozen, begin the same change on this box again: it goes on where it was. Otherwise begin it anew on every member.";
/// What an owner can do about a member that cheats or is broken.
const SUSPECT: &str = "The old shares are as they were and sign on. Speak with that member's owner; if its software is sound, begin the change again on every member.";

/// Why a change cannot even begin.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EditingError {
    /// The identity is not one of the plan's.
    #[error("this box takes no part in the change that the lock and the edit describe")]
    NotTakingPart,
    /// Bundles of that release do not say which validator they are for.
    #[error("changes of v1.{0} are not spoken here; v1.9, v1.10 and v1.11 are")]
    Release(u8),
}

/// A change of the cluster. See the module.
pub struct Editing {
    plan: Arc<EditPlan>,
    networks: Vec<Network>,
    own: usize,
    profile: Profile,
    identity: Arc<IdentityKey>,
    sync: Sync,
    broadcasts: Broadcasts,
    connected: BTreeSet<usize>,
    now_ms: u64,
    began_ms: Option<u64>,
    said_ms: u64,

    /// Questions to the signer that were asked since the start.
    asked: BTreeSet<&'static str>,
    /// Whole broadcasts by sender and name, as they travelled.
    travelled: BTreeMap<(usize, &'static str), Vec<u8>>,
    announced: BTreeMap<usize, SignedAnnouncement>,
    dealing: Dealing,
    /// The new lock, once our new shares are sealed; with all signatures once it is complete.
    lock: Option<Lock>,
    /// Everybody's partial signatures of it, by place, in the order of its validators.
    partials: BTreeMap<usize, Partials>,
    aggregate: Option<SignatureBytes>,
    node_signatures: BTreeMap<usize, Vec<u8>>,
    promised: bool,
    is_complete: bool,
    committed: bool,
    stays_since: Option<u64>,
    failure: Option<Failure>,
    failure_told: bool,
    may_go_on: bool,
    done: bool,
}

impl Editing {
    /// A change at its beginning. `networks` are chains that are not public.
    pub fn new(
        plan: Arc<EditPlan>,
        networks: Vec<Network>,
        profile: Profile,
        identity: Arc<IdentityKey>,
        nickname: &str,
    ) -> Result<Self, EditingError> {
        let own = plan.place_of(&identity.public_key()).ok_or(EditingError::NotTakingPart)?;
        if profile.minor < 9 {
            return Err(EditingError::Release(profile.minor));
        }
        let members: Vec<IdentityPublicKey> = plan.members().iter().map(|member| member.public_key).collect();
        let base = plan.base();
        let mut sync = Sync::new(profile, base.definition_hash, members.clone(), own, &identity, nickname);
        sync.drop_repeats();
        let session = Session { version: profile.broadcast, hash: base.lock_hash };
        let kinds = vec![
            announcement_kind(base.validators.len()),
            Kind { id: NODE_SIGNATURE, type_name: MsgNodeSig::NAME, max_bytes: 128 },
        ];
        let broadcasts = Broadcasts::new(session, members, own, Arc::clone(&identity), kinds);
        Ok(Self {
            plan,
            networks,
            own,
            profile,
            identity,
            sync,
            broadcasts,
            connected: BTreeSet::new(),
            now_ms: 0,
            began_ms: None,
            said_ms: 0,
            asked: BTreeSet::new(),
            travelled: BTreeMap::new(),
            announced: BTreeMap::new(),
            dealing: Dealing::default(),
            lock: None,
            partials: BTreeMap::new(),
            aggregate: None,
            node_signatures: BTreeMap::new(),
            promised: false,
            is_complete: false,
            committed: false,
            stays_since: None,
            failure: None,
            failure_told: false,
            may_go_on: false,
            done: false,
        })
    }

    /// Puts back what was recorded before a restart, in the order it was recorded. Before the first event.
    ///
    /// A member that was interrupted while shares were dealt cannot go on: it tells the others so and ends.
    pub fn restore(&mut self, records: impl IntoIterator<Item = Record>) -> Result<(), RecordError> {
        let mut step = 0;
        for record in records {
            match record {
                Record::Signed { member, id, hash } => {
                    self.broadcasts.remember(member, &id, hash).map_err(|_| RecordError)?;
                }
                Record::Delivered { member, bytes } => {
                    let delivered = self.broadcasts.on_message(member, &bytes).map_err(|_| RecordError)?;
                    self.take_delivered(member, &delivered, bytes).map_err(|_| RecordError)?;
                }
                Record::Prepared { lock, said } => {
                    self.lock = Some(Lock::from_json(&lock).map_err(|_| RecordError)?);
                    self.dealing.is_over(said);
                }
                Record::Promised => self.promised = true,
                Record::Partials { member, bytes } => {
                    let partials = self.read_partials(member, &bytes).map_err(|_| RecordError)?;
                    self.partials.insert(member, partials);
                }
                Record::Step(reached) => {
                    step = reached;
                    self.sync.resume(reached);
                }
                Record::Lock { bytes } => {
                    self.lock = Some(Lock::from_json(&bytes).map_err(|_| RecordError)?);
                    self.is_complete = true;
                }
                Record::Committed => self.committed = true,
            }
        }
        if step >= 1 && self.lock.is_none() {
            self.failure = Some(Failure {
                member: Some(self.own),
                why:
                    "this box was switched off while new shares were dealt, and what it knew of them is gone"
                        .to_owned(),
                next_step: AGAIN.to_owned(),
            });
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

    /// Whether old shares may be frozen for this change, here or elsewhere by our doing: nothing but the complete lock ends
    /// it then.
    pub fn is_promised(&self) -> bool {
        self.promised && !self.committed
    }

    /// Whether a change that failed can be gone on with from its records. Otherwise it is over for everybody, and the records
    /// are to be forgotten.
    pub fn may_go_on(&self) -> bool {
        self.may_go_on
    }

    /// What the page shows.
    pub fn progress(&self) -> Progress {
        let step = self.sync.step();
        let waiting = self.waiting_for();
        let member = |place: usize| {
            let peer = self.sync.peer(place);
            let is_self = place == self.own;
            MemberProgress {
                is_self,
                connected: is_self || self.connected.contains(&place),
                in_sync: is_self || peer.is_some_and(|peer| peer.heard && peer.answered),
                step: if is_self { step } else { peer.map_or(0, |peer| peer.step) },
                nickname: peer.map(|peer| peer.nickname.clone()).unwrap_or_default(),
                takes_sealed_shares: is_self
                    || self.announced.get(&place).is_some_and(|said| said.announcement.voucher.is_some()),
                waited_for: !self.done && self.failure.is_none() && waiting.contains(&place),
            }
        };
        Progress {
            phase: self.phase(),
            step,
            dealt: self.dealing.validators_done(),
            members: (0..self.plan.members().len()).map(member).collect(),
            failure: self.failure.clone(),
        }
    }

    /// Takes one event; appends what is to be done, in order.
    pub fn step(&mut self, event: Event, out: &mut Outputs) {
        if let Event::Tick { now_ms } = event {
            self.now_ms = now_ms;
            self.began_ms.get_or_insert(now_ms);
        }
        if self.done || self.failure.is_some() {
            return self.only_answer(&event, out);
        }
        match event {
            Event::Connected { member } => {
                self.connected.insert(member);
                self.say_again(member, out);
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
            Event::Message { member, channel, bytes } => match channel {
                Channel::Broadcast => self.on_broadcast(member, bytes, out),
                Channel::Bundle(kind) => self.on_bundle(member, kind, bytes, out),
                Channel::PublicShare => self.on_public_share(member, &bytes, out),
                Channel::Partials => self.on_partials(member, bytes, out),
            },
            Event::Lock { bytes } => self.on_lock(&bytes, out),
            Event::Answer(answer) => self.on_answer(answer, out),
            Event::Tick { .. } => self.on_tick(out),
        }
        self.go_on(out);
    }

    /// Goes as far as what is known allows.
    fn go_on(&mut self, out: &mut Outputs) {
        while self.failure.is_none() && !self.done {
            let moved = match self.sync.step() {
                0 => self.sync.missing().is_empty() && self.reach(1, out),
                1 => self.reached(1, out) && self.deal(out) && self.prepare(out) && self.reach(2, out),
                // Whoever has the complete lock needs nobody any more.
                2 | 3 if self.is_complete => self.commit(out) && self.reach(4, out),
                2 => self.reached(2, out) && self.dry_run(out) && self.reach(3, out),
                3 => self.reached(3, out) && self.sign_as_nodes(out),
                step @ (4 | 5) => self.give_lock(out) && self.reached(step, out) && self.reach(step + 1, out),
                _ => self.give_lock(out) && self.say_goodbye(),
            };
            if !moved {
                break;
            }
        }
        if self.sync.step() >= 4 {
            self.leave_in_time(out);
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
                // From the dry run on it may come back to where we are.
                false
            }
        }
    }

    fn on_tick(&mut self, out: &mut Outputs) {
        let waited = self.now_ms.saturating_sub(self.began_ms.unwrap_or(self.now_ms));
        if waited > GIVE_UP_MS && !self.promised {
            let late: Vec<String> =
                self.waiting_for().into_iter().map(|member| self.plan.name_of(member)).collect();
            let late = if late.is_empty() { "the signer".to_owned() } else { late.join(", ") };
            let why = format!("nothing came of it in {} minutes; waited for: {late}", GIVE_UP_MS / 60_000);
            return self.fail(None, why, AGAIN, out);
        }
        self.deal_in_time();
        if self.now_ms.saturating_sub(self.said_ms) >= SAY_AGAIN_MS {
            self.said_ms = self.now_ms;
            for member in self.others() {
                self.say_again(member, out);
            }
        }
    }

    fn on_sync(&mut self, member: usize, bytes: &[u8], reply: u64, out: &mut Outputs) {
        let before = self.sync.peer(member).map(|peer| peer.heard);
        let heard = self.sync.on_message(member, bytes);
        out.push(Output::Reply { reply, bytes: heard.response });
        if let Some(why) = heard.refusal {
            return self.on_sync_refusal(member, &why, out);
        }
        if before == Some(false) {
            self.say_again(member, out);
        }
    }

    /// A change needs everybody: who cannot go on ends it, unless something was promised already.
    fn on_sync_refusal(&mut self, member: usize, why: &SyncRefusal, out: &mut Outputs) {
        let name = self.plan.name_of(member);
        let next_step = match why {
            SyncRefusal::Malformed => {
                return out.push(Output::Refused { member, why: why.to_string() });
            }
            SyncRefusal::Version { expected, .. } => format!(
                "The old shares are as they were. All members must begin with the same version: have {name} begin with {expected}, or begin again with the version that the others announce."
            ),
            SyncRefusal::Definition => format!(
                "The old shares are as they were. Everybody must begin from the cluster lock that is in force: compare its hash with {name}."
            ),
            SyncRefusal::FirstStep(_)
            | SyncRefusal::WentBack { .. }
            | SyncRefusal::Jumped { .. }
            | SyncRefusal::Ahead { .. }
            | SyncRefusal::Told(_) => AGAIN.to_owned(),
        };
        self.fail(Some(member), why.to_string(), &next_step, out);
    }

    fn on_sign_request(&mut self, member: usize, bytes: &[u8], reply: u64, out: &mut Outputs) {
        let checked = self.broadcasts.on_request(member, bytes).map_err(|why| {
            self.on_broadcast_refusal(member, &why, out);
            why.to_string()
        });
        let checked = checked.and_then(|request| self.read_content(member, &request).map(|_| request));
        let signed = checked.and_then(|request| {
            let answer = self.broadcasts.sign(member, &request).map_err(|why| why.to_string())?;
            Ok((request, answer))
        });
        match signed {
            Ok((request, answer)) => {
                let id = request.id.to_owned();
                out.push(Output::Record(Record::Signed { member, id, hash: request.hash }));
                out.push(Output::Reply { reply, bytes: Some(answer) });
            }
            Err(why) => {
                out.push(Output::Reply { reply, bytes: None });
                out.push(Output::Refused { member, why });
            }
        }
    }

    fn on_broadcast(&mut self, member: usize, bytes: Vec<u8>, out: &mut Outputs) {
        if self.travelled.iter().any(|((sender, _), known)| *sender == member && *known == bytes) {
            return; // Sent again.
        }
        match self.broadcasts.on_message(member, &bytes) {
            Ok(delivered) => match self.take_delivered(member, &delivered, bytes.clone()) {
                Ok(()) => out.push(Output::Record(Record::Delivered { member, bytes })),
                Err(why) => out.push(Output::Refused { member, why }),
            },
            Err(why) => {
                self.on_broadcast_refusal(member, &why, out);
                out.push(Output::Refused { member, why: why.to_string() });
            }
        }
    }

    /// Whoever says two different things under one name began anew, or lies.
    fn on_broadcast_refusal(&mut self, member: usize, why: &BroadcastRefusal, out: &mut Outputs) {
        if matches!(why, BroadcastRefusal::SecondDifferent(_)) {
            self.fail(Some(member), why.to_string(), AGAIN, out);
        }
    }

    /// Asks the signer once.
    fn ask(&mut self, name: &'static str, question: Question, out: &mut Outputs) {
        if self.asked.insert(name) {
            out.push(Output::Ask(question));
        }
    }

    /// Begins a broadcast of ours, or sends it again when it was signed by all before.
    fn broadcast(&mut self, id: &'static str, message: Any, out: &mut Outputs) {
        let hash = self.broadcasts.session().hash_of(id, &message);
        match self.broadcasts.begin(id, message) {
            Ok(request) => {
                let member = self.own;
                out.push(Output::Record(Record::Signed { member, id: id.to_owned(), hash }));
                if self.travelled.contains_key(&(member, id)) {
                    return; // Said again with the next turn.
                }
                for member in self.others() {
                    out.push(Output::RequestSignature { member, bytes: request.clone() });
                }
            }
            Err(why) => self.fail(Some(self.own), why.to_string(), AGAIN, out),
        }
    }

    /// Once everybody signed our message, it goes to everybody, ourselves included.
    fn when_signed(&mut self, id: &'static str, out: &mut Outputs) {
        if self.travelled.contains_key(&(self.own, id)) {
            return;
        }
        let Some((bytes, delivered)) = self.broadcasts.complete(id) else { return };
        if let Err(why) = self.take_delivered(self.own, &delivered, bytes.clone()) {
            return out.push(Output::Refused { member: self.own, why });
        }
        out.push(Output::Record(Record::Delivered { member: self.own, bytes: bytes.clone() }));
        self.send_all(Channel::Broadcast, &bytes, out);
    }

    fn send_all(&self, channel: Channel, bytes: &[u8], out: &mut Outputs) {
        for member in self.others() {
            out.push(Output::Send { member, channel, bytes: bytes.to_vec() });
        }
    }

    fn others(&self) -> Vec<usize> {
        (0..self.plan.members().len()).filter(|member| *member != self.own).collect()
    }

    /// Says to one member what it may have missed: everything that belongs to its step.
    fn say_again(&self, member: usize, out: &mut Outputs) {
        if !self.connected.contains(&member) {
            return;
        }
        let their_step = self.sync.peer(member).map_or(0, |peer| peer.step);
        // The reference counts messages, not senders: one key or public share said twice takes another member's place, and a
        // bundle said twice is read as the next validator's. It hears them once: what was lost on the way stops the dealing,
        // while the old shares sign on; what is counted twice may be found only when they are frozen.
        let may_repeat =
            self.profile.minor >= 11 || self.sync.peer(member).is_some_and(|peer| peer.drops_repeats);
        let mut send = |channel, bytes: &[u8]| {
            out.push(Output::Send { member, channel, bytes: bytes.to_vec() });
        };
        for (id, step) in [(NODE_PUBKEYS, 1), (NODE_SIGNATURE, 3)] {
            let may_be_said = may_repeat || id == NODE_SIGNATURE;
            if let Some(bytes) = self.travelled.get(&(self.own, id))
                && their_step <= step
                && may_be_said
            {
                send(Channel::Broadcast, bytes);
            }
        }
        if their_step <= 1 && may_repeat {
            for said in self.dealing.said() {
                let (channel, bytes) = said.message();
                send(channel, bytes);
            }
        }
        if their_step <= 2
            && let Some(bytes) = self.own_partials_message()
        {
            send(Channel::Partials, &bytes);
        }
        for id in [NODE_PUBKEYS, NODE_SIGNATURE] {
            if !self.travelled.contains_key(&(self.own, id))
                && self.broadcasts.unsigned(id).contains(&member)
                && let Some(bytes) = self.broadcasts.request(id)
            {
                out.push(Output::RequestSignature { member, bytes });
            }
        }
    }

    /// After the end: the others may still be leaving, or must hear that we cannot go on.
    fn only_answer(&mut self, event: &Event, out: &mut Outputs) {
        if let Some(failure) = &self.failure
            && !std::mem::replace(&mut self.failure_told, true)
        {
            out.push(Output::Failed(failure.clone()));
        }
        match event {
            Event::Sync { member, bytes, reply } => {
                let response = match &self.failure {
                    Some(failure) => self.sync.refuse(bytes, &failure.why),
                    None => self.sync.on_message(*member, bytes).response,
                };
                out.push(Output::Reply { reply: *reply, bytes: response });
            }
            Event::SignRequest { reply, .. } => out.push(Output::Reply { reply: *reply, bytes: None }),
            Event::Connected { .. }
            | Event::Disconnected { .. }
            | Event::SyncAnswer { .. }
            | Event::Signed { .. }
            | Event::Message { .. }
            | Event::Lock { .. }
            | Event::Answer(_)
            | Event::Tick { .. } => {}
        }
    }

    /// Ends this attempt. After a promise there is no end but the complete lock: it is only told.
    fn fail(&mut self, member: Option<usize>, why: String, next_step: &str, out: &mut Outputs) {
        // A member that has told step 2 can go on where it was, and may be counted on by those who promised.
        let theirs = member.and_then(|member| self.sync.peer(member)).map_or(0, |peer| peer.step);
        let other = member.filter(|member| *member != self.own);
        let comes_back = self.sync.step() >= 2 && other.is_some() && theirs >= 2;
        if self.promised || self.is_complete || comes_back {
            if let Some(member) = member {
                out.push(Output::Refused { member, why });
            }
            return;
        }
        // One that has not told it cannot be counted on by anybody. If it is nobody's fault, somebody may have promised.
        self.may_go_on = self.sync.step() >= 2 && other.is_none();
        let next_step = if self.may_go_on { AGAIN_OR_ON } else { next_step };
        self.end(Failure { member, why, next_step: next_step.to_owned() }, out);
    }

    /// Ends this attempt whatever was promised: the signer does not go on, so neither can we.
    fn end(&mut self, failure: Failure, out: &mut Outputs) {
        if self.failure.is_none() {
            self.may_go_on |= self.promised;
            self.failure = Some(failure.clone());
            self.failure_told = true;
            out.push(Output::Failed(failure));
        }
    }

    /// Reads what a broadcast says, and matches it to its sender.
    fn read_content(&self, member: usize, delivered: &Delivered) -> Result<Content, String> {
        let bytes = delivered.message.value.as_slice();
        if delivered.id == NODE_PUBKEYS {
            let base = self.plan.base();
            let read = read_announcement(&base.definition_hash, base.validators.len(), bytes);
            let announcement = read.map_err(|why| why.to_string())?;
            // Its hash names no sender: signed with other shares in it, ours would pass for a word of whoever holds those.
            if announcement.shares != self.old_shares_of(member) {
                return Err("it announces other shares than the lock in force has for it".to_owned());
            }
            // Every member's identity signed this very message; the sender's signature is the one that its signer's key counts by.
            let signature = delivered.signatures.get(member).cloned().unwrap_or_default();
            return Ok(Content::Announced(SignedAnnouncement { announcement, signature }));
        }
        let signature = frost::read_node_signature(member, bytes).map_err(|why| why.to_string())?;
        let (Some(lock), Some(sender)) = (&self.lock, self.plan.members().get(member)) else {
            return Err("it signs the new lock before this box knows it".to_owned());
        };
        // Who leaves has nothing to sign, and says so.
        if sender.new.is_none() && signature == NO_SIGNATURE {
            return Ok(Content::NodeSignature(signature));
        }
        if sender.new.is_none() || sender.public_key.verify(&lock.lock_hash, &signature).is_err() {
            return Err(
                "its operator's signature of the new lock is wrong: it arrived at another lock".to_owned()
            );
        }
        Ok(Content::NodeSignature(signature))
    }

    /// The public shares of a member in the lock in force, one for each validator; none for one that joins.
    fn old_shares_of(&self, member: usize) -> Option<Vec<PublicKeyBytes>> {
        let old = self.plan.members().get(member)?.old?;
        let validators = 0..self.plan.base().validators.len();
        validators.map(|validator| self.plan.old_shares(validator)?.get(&old).copied()).collect()
    }

    fn take_delivered(
        &mut self,
        member: usize,
        delivered: &Delivered,
        travelled: Vec<u8>,
    ) -> Result<(), String> {
        match self.read_content(member, delivered)? {
            Content::Announced(announced) => {
                self.announced.insert(member, announced);
            }
            Content::NodeSignature(signature) => {
                self.node_signatures.insert(member, signature);
            }
        }
        self.travelled.insert((member, delivered.id), travelled);
        Ok(())
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
        let signs =
            |member: &usize| self.plan.members().get(*member).is_some_and(|known| known.new.is_some());
        match step {
            1 if self.announced.len() < self.plan.members().len() => {
                all.filter(|member| !self.announced.contains_key(member)).collect()
            }
            1 => self.dealing.waiting_for(&self.plan, self.own),
            2 => all.filter(|member| signs(member) && !self.partials.contains_key(member)).collect(),
            3 => all.filter(|member| signs(member) && !self.node_signatures.contains_key(member)).collect(),
            _ => BTreeSet::new(),
        }
    }

    fn phase(&self) -> Phase {
        match (self.done, self.sync.step()) {
            (true, _) => Phase::Done,
            (false, 0) => Phase::Connecting,
            (false, 1) => Phase::Dealing,
            (false, 2) if !self.promised => Phase::Prepared,
            (false, 2) => Phase::DryRun,
            (false, 3) => Phase::Changing,
            (false, _) => Phase::Leaving,
        }
    }
}

/// What a broadcast says.
enum Content {
    Announced(SignedAnnouncement),
    NodeSignature(Vec<u8>),
}
