//! Serving a validator client: what it asks is answered when it is known, what it signed is what it was asked to sign.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use beacon::validator_api::{AgreedBlock, Message, PartialSignature, Unavailable};
use chain::{
    Attestation, CommitteeIndex, Epoch, ForkName, Root, SignedVoluntaryExit, SlotTiming,
    SyncCommitteeContribution, UnixMillis,
};
use duty::{Duty, DutyKind, Outcome, Payload, Task, TaskId, Value};
use obol::unsigned::{Unsigned, read_set};
use obol::{DutyType, versioned};
use qbft::Digest;
use tree_hash::TreeHash as _;

use super::{Event, Node};
use crate::obol_network::{agreed_block, agreed_vote};
use crate::validator_client::desk::{Desk, Handed};
use crate::validator_client::link::{Indices, Link, kind_of};
use crate::validator_client::question::Question;

/// Signatures that come within this time of the first go to the members, and later to the beacon node, together: clients
/// send them one by one.
const GATHER: Duration = Duration::from_millis(20);
/// Questions that wait at once.
const MAX_WAITING: usize = 32_768;
/// Outcomes remembered, so that a late question is answered at once.
const MAX_OVER: usize = 1_024;
/// Clients end their work for a slot with the slot: what is not there a twenty-fourth of a slot before it ends is refused, as
/// long as the client still listens.
const HEARD_BEFORE_END: u64 = 24;
/// Epochs ahead for which a client may prepare (obol.md 7.6).
const EPOCHS_AHEAD: u64 = 2;

/// What is kept about the validator client.
#[derive(Debug, Default)]
pub(crate) struct Client {
    desk: Desk,
    indices: Indices,
    waiting: Vec<Question>,
    /// Duties that ended, with the words for it.
    over: BTreeMap<Duty, String>,
    /// Duties whose ready signatures are about to go.
    gathering: BTreeSet<Duty>,
    /// Sync-committee duties whose head the client has to tell.
    heads: BTreeSet<Duty>,
    /// Something became known that a question may wait for.
    news: bool,
    /// When the first of the waiting questions is given up.
    first_given_up: Option<UnixMillis>,
    /// How often the validator API was asked for anything.
    requests: Arc<AtomicU64>,
}

impl Client {
    /// A way to the node's loop.
    pub(super) fn link(&self, events: tokio::sync::mpsc::Sender<Event>) -> Link {
        Link::new(events, Arc::clone(&self.indices))
    }

    /// Counts what the validator API is asked.
    pub(super) fn requests(&self) -> &Arc<AtomicU64> {
        &self.requests
    }
}

impl Node {
    /// Something was agreed on or given.
    pub(super) fn client_has_news(&mut self) {
        if let Some(client) = &mut self.client {
            client.news = true;
        }
    }

    /// A duty ended; who still waits for it is told why.
    pub(super) fn client_duty_ended(&mut self, duty: Duty, outcome: &Outcome) {
        let Some(client) = &mut self.client else { return };
        let text = match outcome {
            Outcome::Done => "it is done".to_owned(),
            Outcome::NotNeeded => "there was nothing to do".to_owned(),
            Outcome::Missed(reason) => reason.to_string(),
        };
        client.over.insert(duty, text);
        while client.over.len() > MAX_OVER {
            client.over.pop_first();
        }
        client.news = true;
    }

    /// The engine asks the client, in the place of the signer.
    pub(super) fn ask_client(&mut self, duty: Duty, tasks: &[Task]) {
        if let Some(running) = &self.running {
            let network = running.engine.network();
            let roots = tasks.iter().map(|task| network.signing_root(duty, task.message_root));
            self.expect_messages(roots.collect());
        }
        let Some(client) = &mut self.client else { return };
        if client.desk.ask(duty, tasks.iter().map(|task| (task.id, task.message_root))) {
            self.gather(duty, true);
        }
    }

    /// The client tells which head its sync-committee members vote for, since it cannot be told.
    pub(super) fn client_head(&mut self, duty: Duty) {
        let Some(client) = &mut self.client else { return };
        match client.desk.early_root(duty) {
            Some(root) => self.head_is_known(duty, root),
            None => drop(client.heads.insert(duty)),
        }
    }

    fn head_is_known(&mut self, duty: Duty, root: Root) {
        let value = Value { digest: Digest(root.0), bytes: Payload::from(root.0) };
        self.spawn(async move { Event::Fetched(duty, Ok(value)) });
    }

    pub(super) fn on_question(&mut self, question: Question) {
        if let Question::Take(partials, reply) = question {
            let taken = partials.into_iter().map(|partial| self.take(partial)).collect();
            // The client may have gone: what it signed counts all the same.
            drop(reply.send(taken));
            return;
        }
        let Some(waits) = self.try_answer(question) else { return };
        let timing = self.running.as_ref().map(|running| running.chain.timing);
        let Some(client) = &mut self.client else { return };
        if client.waiting.len() >= MAX_WAITING {
            client.waiting.retain(|question| !question.is_given_up());
        }
        if client.waiting.len() < MAX_WAITING {
            let until = timing.and_then(|timing| Some(given_up(waits.duty()?, &timing)));
            client.first_given_up = [client.first_given_up, until].into_iter().flatten().min();
            client.waiting.push(waits);
        } else {
            waits.refuse(Unavailable::Failed("too many requests wait".to_owned()));
        }
    }

    /// After every event: whatever can be answered now is.
    pub(super) fn answer_client(&mut self) {
        let Some(client) = &mut self.client else { return };
        if !std::mem::take(&mut client.news) {
            return;
        }
        let waiting = std::mem::take(&mut client.waiting);
        let still: Vec<Question> =
            waiting.into_iter().filter(|q| !q.is_given_up()).filter_map(|q| self.try_answer(q)).collect();
        let timing = self.running.as_ref().map(|running| running.chain.timing);
        let until = |question: &Question| Some(given_up(question.duty()?, &timing?));
        if let Some(client) = &mut self.client {
            client.first_given_up = still.iter().filter_map(until).min();
            client.waiting.extend(still);
        }
    }

    /// When a waiting question of the client must be refused.
    pub(super) fn client_wake(&self) -> Option<UnixMillis> {
        self.client.as_ref()?.first_given_up
    }

    /// Time passed: deadlines count as news.
    pub(super) fn client_pulse(&mut self, now: UnixMillis) {
        let timing = self.running.as_ref().map(|running| running.chain.timing);
        if let (Some(client), Some(timing)) = (&mut self.client, timing) {
            client.desk.trim(&timing, now);
            client.heads.retain(|duty| duty.deadline(&timing).is_none_or(|deadline| deadline > now));
            client.news = true;
        }
        self.answer_client();
    }

    /// The chain told which validators it knows.
    pub(super) fn tell_client_indices(&self) {
        let Some(client) = &self.client else { return };
        let known = self.duties.validators.values().map(|info| (info.index, info.public_key)).collect();
        *client.indices.write().unwrap_or_else(PoisonError::into_inner) = known;
    }

    /// Answers a question, or gives it back when it must wait.
    fn try_answer(&mut self, question: Question) -> Option<Question> {
        let duty = question.duty()?;
        match question {
            Question::Proposer(slot, reply) => {
                let epoch = self.running.as_ref().map(|running| running.chain.timing.epoch_of(slot));
                let ours = epoch.and_then(|epoch| self.duties.proposers(epoch, slot).into_iter().next());
                if let Some((key, duty)) = ours {
                    drop(reply.send(Ok((duty.validator_index, key))));
                    return None;
                }
                self.hopeless(duty, Question::Proposer(slot, reply))
            }
            Question::AttestationData(slot, reply) => {
                match self.kept.value(duty).and_then(|value| agreed_vote(&value.bytes)) {
                    Some(vote) => {
                        drop(reply.send(Ok(vote)));
                        None
                    }
                    None => self.hopeless(duty, Question::AttestationData(slot, reply)),
                }
            }
            Question::Block(slot, reply) => {
                match self.kept.value(duty).and_then(|value| block_of(&value.bytes)) {
                    Some(block) => {
                        drop(reply.send(Ok(Arc::new(block))));
                        None
                    }
                    None => self.hopeless(duty, Question::Block(slot, reply)),
                }
            }
            Question::Aggregate(slot, root, committee, reply) => match self.kept.value(duty) {
                Some(value) => {
                    let found = aggregate_of(&value.bytes, root, committee);
                    drop(reply.send(found.ok_or_else(|| other_value(duty))));
                    None
                }
                None => self.hopeless(duty, Question::Aggregate(slot, root, committee, reply)),
            },
            Question::Contribution(slot, subcommittee, root, reply) => match self.kept.value(duty) {
                Some(value) => {
                    let found = contribution_of(&value.bytes, subcommittee, root);
                    drop(reply.send(found.ok_or_else(|| other_value(duty))));
                    None
                }
                None => self.hopeless(duty, Question::Contribution(slot, subcommittee, root, reply)),
            },
            Question::Selection(_, id, reply) => match self.kept.group_signature(duty, &id) {
                Some(given) => {
                    drop(reply.send(Ok(given.signature)));
                    None
                }
                None => self.hopeless(duty, Question::Selection(duty, id, reply)),
            },
            take @ Question::Take(..) => Some(take),
        }
    }

    /// Refuses what can never be answered any more, and gives the rest back.
    fn hopeless(&mut self, duty: Duty, question: Question) -> Option<Question> {
        match self.why_hopeless(duty) {
            Some(why) => {
                question.refuse(why);
                None
            }
            None => Some(question),
        }
    }

    /// Why a duty will not give what is asked for, once that is known.
    fn why_hopeless(&self, duty: Duty) -> Option<Unavailable> {
        let running = self.running.as_ref()?;
        let timing = running.chain.timing;
        if let Some(text) = self.client.as_ref()?.over.get(&duty) {
            return Some(Unavailable::Failed(format!("{duty}: {text}")));
        }
        if super::wall() >= given_up(duty, &timing) {
            return Some(Unavailable::TooLate(duty.to_string()));
        }
        let epoch = timing.epoch_of(duty.slot);
        let known = match duty.kind {
            DutyKind::Proposer => {
                self.duties.knows_proposers(epoch).then(|| self.duties.proposers(epoch, duty.slot).len())
            }
            DutyKind::Attester | DutyKind::PrepareAggregator | DutyKind::Aggregator => {
                self.duties.knows_attesters(epoch).then(|| self.duties.attesters(epoch, duty.slot).len())
            }
            DutyKind::PrepareSyncContribution | DutyKind::SyncContribution | DutyKind::SyncMessage => {
                self.duties.knows_sync(epoch).then(|| self.duties.sync(epoch).len())
            }
            DutyKind::Exit | DutyKind::BuilderRegistration | DutyKind::Randao | DutyKind::InfoSync => None,
        };
        (known == Some(0)).then(|| Unavailable::NoSuchDuty(duty.to_string()))
    }

    /// Takes one verified partial signature.
    fn take(&mut self, partial: PartialSignature) -> Result<(), Unavailable> {
        let Some(running) = &self.running else {
            return Err(Unavailable::Failed("the chain is not known yet".to_owned()));
        };
        let timing = running.chain.timing;
        let PartialSignature { validator, message, signature, .. } = partial;
        if let Message::Exit(message) = message {
            tracing::info!(%validator, epoch = %message.epoch, "the validator client signed an exit");
            let exit = SignedVoluntaryExit { message, signature };
            return self.on_exit_of_client(validator, exit).map_err(Unavailable::Failed);
        }
        let duty = Duty::new(message.slot(timing.slots_per_epoch), kind_of(&message));
        let now = super::wall();
        if duty.deadline(&timing).is_some_and(|deadline| deadline <= now) {
            return Err(Unavailable::TooLate(duty.to_string()));
        }
        let this_epoch = timing.epoch_at(now).unwrap_or(Epoch(0));
        if timing.epoch_of(duty.slot) > this_epoch.saturating_add(EPOCHS_AHEAD) {
            return Err(Unavailable::NoSuchDuty(format!("{duty} is too far ahead")));
        }
        let id = TaskId { validator, subcommittee: message.subcommittee() };
        let root = message.root();
        let Some(client) = &mut self.client else {
            return Err(Unavailable::Failed("this member signs by itself".to_owned()));
        };
        let handed = client.desk.hand_in(duty, id, root, signature);
        match handed {
            Handed::Differs => {
                return Err(Unavailable::NotAgreed(format!("{duty}: something else is to be signed")));
            }
            Handed::Wanted { all } => self.gather(duty, all),
            Handed::Again => {}
            Handed::Kept => self.begin_what_the_client_begins(duty, &message),
        }
        Ok(())
    }

    /// Some duties begin when the client signs: it prepares a whole epoch.
    fn begin_what_the_client_begins(&mut self, duty: Duty, message: &Message) {
        let Some(running) = &self.running else { return };
        let epoch = running.chain.timing.epoch_of(duty.slot);
        match message {
            Message::CommitteeSelection { .. } => {
                let attesters = self.duties.attesters(epoch, duty.slot);
                self.schedule(duty.slot, &[duty.kind], &attesters);
            }
            Message::SyncSelection { .. } => {
                let seats = self.duties.sync(epoch);
                self.schedule(duty.slot, &[duty.kind], &seats);
            }
            Message::Randao { .. } => {
                let proposers = self.duties.proposers(epoch, duty.slot);
                self.schedule(duty.slot, &[duty.kind], &proposers);
            }
            Message::SyncVote { block, .. } => {
                let waits = self.client.as_mut().is_some_and(|client| client.heads.remove(&duty));
                if waits {
                    self.head_is_known(duty, *block);
                }
            }
            // Signed before it was asked for: it waits on the desk.
            Message::Exit(_)
            | Message::Attestation { .. }
            | Message::Block { .. }
            | Message::Aggregate { .. }
            | Message::Contribution(_) => {}
        }
    }

    /// What is ready goes to the engine: at once when nothing is missing, else with what comes within a moment.
    fn gather(&mut self, duty: Duty, all: bool) {
        let Some(client) = &mut self.client else { return };
        if all {
            client.gathering.remove(&duty);
            return self.spawn(async move { Event::ClientSigned(duty) });
        }
        if client.gathering.insert(duty) {
            self.spawn(async move {
                tokio::time::sleep(GATHER).await;
                Event::ClientSigned(duty)
            });
        }
    }

    /// The moment is over.
    pub(super) fn on_client_signed(&mut self, duty: Duty) {
        let Some(client) = &mut self.client else { return };
        client.gathering.remove(&duty);
        let signed = client.desk.take(duty);
        if !signed.is_empty() {
            let results = signed.into_iter().map(|(id, signature)| (id, Ok(signature))).collect();
            self.step(duty::Event::Signed { duty, results });
        }
    }
}

/// From when on a question about this duty is not left waiting any more. Attestations may be published for an epoch, but no
/// client waits for them longer than the slot lasts.
fn given_up(duty: Duty, timing: &SlotTiming) -> UnixMillis {
    let end = timing.start_of(duty.slot.saturating_add(1));
    let heard = UnixMillis(end.0.saturating_sub(timing.slot_ms / HEARD_BEFORE_END));
    duty.deadline(timing).map_or(heard, |deadline| deadline.min(heard))
}

fn other_value(duty: Duty) -> Unavailable {
    Unavailable::NoSuchDuty(format!("{duty}: the members agreed on something else"))
}

fn block_of(value: &[u8]) -> Option<AgreedBlock> {
    let proposal = agreed_block(value)?;
    let fork = match proposal.version {
        versioned::ELECTRA => ForkName::Electra,
        versioned::FULU => ForkName::Fulu,
        _ => return None,
    };
    Some(AgreedBlock { fork, block: proposal.block })
}

fn aggregate_of(value: &[u8], root: Root, committee: CommitteeIndex) -> Option<Attestation> {
    let position = usize::try_from(committee.0).ok()?;
    read_set(DutyType::Aggregator, value).ok()?.into_values().find_map(|unsigned| match unsigned {
        Unsigned::Aggregate(versioned) => match versioned.attestation {
            obol::attestation::AnyAttestation::Electra(found)
                if Root::from(found.data.tree_hash_root()) == root
                    && found.committee_bits.get(position).unwrap_or(false) =>
            {
                Some(found)
            }
            obol::attestation::AnyAttestation::Electra(_) | obol::attestation::AnyAttestation::Phase0(_) => {
                None
            }
        },
        Unsigned::Attester(_) | Unsigned::Proposal(_) | Unsigned::Contributions(_) => None,
    })
}

fn contribution_of(value: &[u8], subcommittee: u64, root: Root) -> Option<SyncCommitteeContribution> {
    read_set(DutyType::SyncContribution, value).ok()?.into_values().find_map(|unsigned| match unsigned {
        Unsigned::Contributions(several) => several.into_iter().find(|contribution| {
            contribution.subcommittee_index == subcommittee && contribution.beacon_block_root == root
        }),
        Unsigned::Attester(_) | Unsigned::Proposal(_) | Unsigned::Aggregate(_) => None,
    })
}
