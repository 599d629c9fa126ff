//! Step 1 of a change: ephemeral keys, and the resharing of one validator after the other.
//!
//! Bundles name the run they are for by its nonce, so one that comes before its time waits and one that comes too late is
//! dropped. Before the next validator begins, all new members say which public share they arrived at: a dealer that shows
//! two consistent faces is found here, while the old shares still sign, and not in the dry run.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use chain::PublicKeyBytes;
use cluster::edit::EditPlan;
use threshold::PublicKey;
use threshold::pedersen::{Bundle, session_nonce};

use super::{Answer, Channel, DealEvent, Editing, Failure, Output, Outputs, Question, Record, SUSPECT, Said};
use crate::dkg::pedersen::{
    BundleKind, MAX_BUNDLE_BYTES, NODE_PUBKEYS, nonce_rule, read_bundle, read_public_share,
    write_announcement, write_public_share,
};
use crate::wire::Named as _;

/// How long a phase of one validator's resharing may take while everybody is there.
const PHASE_MS: u64 = 60_000;
/// Bundles that a member may have waiting for validators whose turn has not come.
const MAX_WAITING: usize = 8;
/// Different bundles of one kind of one member that are passed on: the first, and one that proves that it lies.
const MAX_DIFFERENT: usize = 2;

/// The resharing as far as it is told.
#[derive(Default)]
pub(super) struct Dealing {
    /// The validator that a nonce is for, once all keys are known.
    validators: BTreeMap<[u8; 32], usize>,
    /// The validator whose turn it is.
    turn: usize,
    is_started: bool,
    is_over: bool,
    /// What waits for the signer.
    queue: VecDeque<DealEvent>,
    is_asking: bool,
    /// What came for the present validator and for later ones, by sender.
    heard: BTreeMap<(usize, usize, BundleKind), Vec<Vec<u8>>>,
    /// What came before the keys were known.
    early: BTreeMap<(usize, BundleKind), Vec<u8>>,
    /// What we said for the present validator, or for the one before while it is not begun.
    said: Vec<Said>,
    phase_since: Option<u64>,
    /// The new public shares of the present validator, by new position.
    finished: Option<Vec<PublicKeyBytes>>,
    /// The public shares that each new member says it arrived at, validator by validator.
    arrived: BTreeMap<usize, Vec<PublicKeyBytes>>,
}

impl Dealing {
    /// It was over before a restart.
    pub(super) fn is_over(&mut self, said: Vec<Said>) {
        self.is_over = true;
        self.said = said;
    }

    /// What we said last.
    pub(super) fn said(&self) -> &[Said] {
        &self.said
    }

    pub(super) fn validators_done(&self) -> usize {
        self.turn
    }

    /// Whose word is missing for the present validator.
    pub(super) fn waiting_for(&self, plan: &EditPlan, own: usize) -> BTreeSet<usize> {
        let missing = |(place, member): (usize, &cluster::edit::EditMember)| {
            let has = |kind| self.heard.contains_key(&(self.turn, place, kind));
            let waits = match &self.finished {
                Some(_) => member.new.is_some() && self.arrived.get(&place).map_or(0, Vec::len) <= self.turn,
                None => {
                    (member.old.is_some() && !has(BundleKind::Deal))
                        || (member.new.is_some() && !has(BundleKind::Response))
                }
            };
            (place != own && waits).then_some(place)
        };
        plan.members().iter().enumerate().filter_map(missing).collect()
    }
}

impl Editing {
    /// Whether all validators' new shares are dealt and everybody arrived at the same.
    pub(super) fn deal(&mut self, out: &mut Outputs) -> bool {
        if self.dealing.is_over {
            return true;
        }
        self.ask("begin", Question::Begin, out);
        if self.announced.len() < self.plan.members().len() {
            return false;
        }
        let keys = self.announced.values().cloned().collect();
        self.ask("keys", Question::Keys { keys }, out);
        if self.dealing.validators.is_empty() {
            return false;
        }
        while self.dealing.turn < self.plan.base().validators.len() {
            if !self.dealing.is_started {
                self.dealing.is_started = true;
                self.dealing.phase_since = None;
                self.dealing.queue.push_back(DealEvent::Start);
                self.queue_waiting();
            }
            self.ask_next(out);
            if !self.everybody_arrived(out) {
                return false;
            }
            let turn = self.dealing.turn;
            self.dealing.heard.retain(|(validator, _, _), _| *validator > turn);
            self.dealing.turn = turn + 1;
            self.dealing.is_started = false;
            self.dealing.finished = None;
            self.dealing.queue.clear();
        }
        true
    }

    /// Whether every new member says that it has the public share that we worked out for it.
    fn everybody_arrived(&mut self, out: &mut Outputs) -> bool {
        let Some(expected) = &self.dealing.finished else { return false };
        let mut missing = false;
        for (place, member) in self.plan.members().iter().enumerate() {
            let Some(new) = member.new.and_then(|new| usize::try_from(new).ok()) else { continue };
            if place == self.own {
                continue;
            }
            let said = self.dealing.arrived.get(&place).and_then(|shares| shares.get(self.dealing.turn));
            match said {
                None => missing = true,
                Some(share) if expected.get(new) == Some(share) => {}
                Some(_) => {
                    let why = format!(
                        "it arrived at another share of validator {} than this box worked out for it: a dealer told members different things, or it lies",
                        self.dealing.turn + 1
                    );
                    self.fail(Some(place), why, SUSPECT, out);
                    return false;
                }
            }
        }
        !missing
    }

    /// The signer took everybody's keys: now it is known which nonce is for which validator.
    fn on_keys_taken(&mut self, out: &mut Outputs) {
        let keys: Result<BTreeMap<u32, PublicKey>, _> = (self.plan.members().iter())
            .zip(self.announced.values())
            .map(|(member, said)| Ok((member.index(), PublicKey::parse(&said.announcement.key)?)))
            .collect();
        let Ok(keys): Result<_, threshold::KeyError> = keys else {
            return self.fail(None, "a member's ephemeral key is none".to_owned(), SUSPECT, out);
        };
        let rule = nonce_rule(self.profile);
        self.dealing.validators = (0_u32..)
            .zip(0..self.plan.base().validators.len())
            .map(|(position, validator)| (session_nonce(rule, position, &keys), validator))
            .collect();
        for ((member, kind), bytes) in std::mem::take(&mut self.dealing.early) {
            self.on_bundle(member, kind, bytes, out);
        }
    }

    /// A bundle came: it is for the present validator, waits, or is too late.
    pub(super) fn on_bundle(&mut self, member: usize, kind: BundleKind, bytes: Vec<u8>, out: &mut Outputs) {
        if self.dealing.is_over {
            return;
        }
        let refused = |why: String| Output::Refused { member, why };
        let index = self.plan.members().get(member).and_then(|known| match kind {
            BundleKind::Deal | BundleKind::Justification => known.old,
            BundleKind::Response => known.new,
        });
        let Some(index) = index else {
            return out.push(refused("it has nothing of this kind to say".to_owned()));
        };
        if bytes.len() > MAX_BUNDLE_BYTES {
            return out.push(refused(format!("{} bytes are more than a bundle can have", bytes.len())));
        }
        if self.dealing.validators.is_empty() {
            self.dealing.early.entry((member, kind)).or_insert(bytes);
            return;
        }
        let nonce = match read_bundle(kind, index, &bytes) {
            Ok(Bundle::Deal(bundle)) => bundle.session,
            Ok(Bundle::Response(bundle)) => bundle.session,
            Ok(Bundle::Justification(bundle)) => bundle.session,
            Err(why) => return out.push(refused(why.to_string())),
        };
        let Some(validator) = self.dealing.validators.get(&nonce).copied() else {
            return out.push(refused("it is of another change of the cluster".to_owned()));
        };
        if validator < self.dealing.turn {
            return; // Sent again.
        }
        let is_present = validator == self.dealing.turn && self.dealing.is_started;
        let waiting = self
            .dealing
            .heard
            .keys()
            .filter(|(later, sender, _)| *sender == member && *later > self.dealing.turn);
        if !is_present && waiting.count() >= MAX_WAITING {
            return out.push(refused("it is far ahead of everybody".to_owned()));
        }
        let known = self.dealing.heard.entry((validator, member, kind)).or_default();
        if known.contains(&bytes) || known.len() >= MAX_DIFFERENT {
            return;
        }
        known.push(bytes.clone());
        if is_present {
            self.dealing.queue.push_back(DealEvent::Received { member, kind, bytes });
        }
    }

    /// What came for this validator before its turn.
    fn queue_waiting(&mut self) {
        let turn = self.dealing.turn;
        for ((validator, member, kind), bundles) in &self.dealing.heard {
            for bytes in bundles.iter().filter(|_| *validator == turn) {
                let (member, kind, bytes) = (*member, *kind, bytes.clone());
                self.dealing.queue.push_back(DealEvent::Received { member, kind, bytes });
            }
        }
    }

    fn ask_next(&mut self, out: &mut Outputs) {
        if self.dealing.is_asking || self.dealing.finished.is_some() {
            return;
        }
        if let Some(event) = self.dealing.queue.pop_front() {
            self.dealing.is_asking = true;
            out.push(Output::Ask(Question::Deal { validator: self.dealing.turn, event }));
        }
    }

    /// A phase whose time is over, while all are there to hear each other, ends without those that said nothing.
    pub(super) fn deal_in_time(&mut self) {
        let dealing = &mut self.dealing;
        let idle = dealing.is_started
            && dealing.finished.is_none()
            && !dealing.is_asking
            && dealing.queue.is_empty()
            && !dealing.is_over;
        if !idle || !self.sync.missing().is_empty() {
            dealing.phase_since = None;
            return;
        }
        let since = *dealing.phase_since.get_or_insert(self.now_ms);
        if self.now_ms.saturating_sub(since) > PHASE_MS {
            dealing.phase_since = None;
            dealing.queue.push_back(DealEvent::Timeout);
        }
    }

    /// A new member says which public share it arrived at. They come validator by validator, without a number.
    pub(super) fn on_public_share(&mut self, member: usize, bytes: &[u8], out: &mut Outputs) {
        if self.dealing.is_over {
            return;
        }
        match read_public_share(&self.plan.base().definition_hash, bytes) {
            Ok(None) => {} // It leaves.
            Ok(Some(share)) => {
                let turn = self.dealing.turn;
                let known = self.dealing.arrived.entry(member).or_default();
                if !known.contains(&share) && known.len() <= turn {
                    known.push(share);
                }
            }
            Err(why) => out.push(Output::Refused { member, why: why.to_string() }),
        }
    }

    /// Whether our new shares are sealed.
    pub(super) fn prepare(&mut self, out: &mut Outputs) -> bool {
        if self.lock.is_none() {
            self.ask("prepare", Question::Prepare, out);
        }
        self.lock.is_some()
    }

    /// What the signer says.
    pub(super) fn on_answer(&mut self, answer: Answer, out: &mut Outputs) {
        match answer {
            Answer::Begun(announcement) => {
                let hash = self.plan.base().definition_hash;
                self.broadcast(NODE_PUBKEYS, write_announcement(&hash, &announcement).to_any(), out);
            }
            Answer::KeysTaken => self.on_keys_taken(out),
            Answer::Dealt { send, new_phase, accused, finished } => {
                self.on_dealt(send, new_phase, accused, finished, out);
            }
            Answer::Prepared { lock } => {
                match cluster::Lock::from_json(&lock) {
                    Ok(read) => self.lock = Some(read),
                    Err(error) => {
                        let next_step = "Report this: the box's own parts do not understand each other.";
                        return self.fail(None, error.to_string(), next_step, out);
                    }
                }
                let said = self.dealing.said.clone();
                out.push(Output::Record(Record::Prepared { lock, said: said.clone() }));
                self.dealing.is_over(said);
            }
            Answer::Partials(partials) => self.on_own_partials(partials, out),
            Answer::Checked { aggregate } => self.aggregate = Some(aggregate),
            Answer::Committed => {
                self.committed = true;
                out.push(Output::Record(Record::Committed));
            }
            Answer::Failed { why, next_step } => {
                self.may_go_on = self.lock.is_some();
                self.end(Failure { member: None, why, next_step }, out);
            }
        }
    }

    fn on_dealt(
        &mut self,
        send: Vec<(BundleKind, Vec<u8>)>,
        new_phase: bool,
        accused: Vec<String>,
        finished: Option<Vec<PublicKeyBytes>>,
        out: &mut Outputs,
    ) {
        self.dealing.is_asking = false;
        if new_phase {
            self.dealing.phase_since = None;
        }
        out.extend(accused.into_iter().map(|what| Output::Accused { what }));
        for (kind, bytes) in send {
            if kind == BundleKind::Deal || self.dealing.said.iter().any(is_public_share) {
                self.dealing.said.clear(); // Of the validator before: everybody has it.
            }
            self.send_all(Channel::Bundle(kind), &bytes, out);
            self.dealing.said.push(Said::bundle(kind, bytes));
        }
        if let Some(shares) = finished {
            let own = self.plan.members().get(self.own).and_then(|own| own.new);
            let own = own.and_then(|new| shares.get(usize::try_from(new).ok()?).copied());
            let bytes = write_public_share(&self.plan.base().definition_hash, own);
            self.send_all(Channel::PublicShare, &bytes, out);
            self.dealing.said.push(Said::PublicShare(bytes));
            self.dealing.finished = Some(shares);
        }
    }
}

fn is_public_share(said: &Said) -> bool {
    matches!(said, Said::PublicShare(_))
}
