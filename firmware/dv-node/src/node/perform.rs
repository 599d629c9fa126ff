//! Doing what the engine wants, in its order.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use duty::{Agreement, Duty, DutyKind, Output, Saved, SignError, Task};
use obol::Protocol;
use obol::consensus::{self, Seal};

use super::{Event, Node, Outputs};
use crate::board::AgreedLabels;
use crate::journal::{Durable, Key};
use crate::obol_network::to_wire;

impl Node {
    /// First makes everything durable that must be remembered, in one write; then does the rest in order, or stays silent
    /// about all of it.
    pub(crate) fn perform(&mut self, outputs: Outputs) {
        let durable = self.make_durable(&outputs);
        for output in outputs {
            match output {
                Output::Persist { .. } => {}
                Output::Forget { duty } => {
                    if let Some(running) = &mut self.running {
                        running.journal.forget(key_of(duty));
                        running.sent_partials.remove(&duty);
                    }
                    self.kept.forget(duty);
                }
                Output::Broadcast { duty, message, values } => {
                    if durable.as_ref().is_some_and(|durable| self.may_speak(durable, duty)) {
                        self.broadcast(duty, &message, &values);
                    } // A lost broadcast is made up for by the next rounds.
                }
                Output::Sign { duty, tasks } => {
                    if durable.as_ref().is_some_and(|durable| self.may_speak(durable, duty)) {
                        self.ask_for_signatures(duty, tasks);
                    } else {
                        self.stay_silent(duty, tasks);
                    }
                }
                Output::Fetch { duty, validators, given } => self.fetch(duty, &validators, &given),
                Output::Agreed { duty, round, leader, value } => {
                    tracing::debug!(%duty, round, "the members agreed");
                    self.count_agreed(duty, leader);
                    self.kept.agreed(duty, &value);
                    self.client_has_news();
                    if duty.kind == DutyKind::Proposer {
                        self.look_at_fee_recipient(duty, &value);
                    }
                    if duty.kind == DutyKind::InfoSync {
                        self.on_priorities_agreed(duty, &value);
                    }
                }
                Output::SendPartials { duty, set } => self.send_partials(duty, &set),
                Output::Combine { duty, jobs } => self.combine(duty, jobs),
                Output::Publish { duty, set } => self.publish(duty, &set),
                Output::Provide { duty, set } => {
                    self.on_provided(duty, set);
                    self.client_has_news();
                }
                Output::Outcome(record) => self.on_outcome(record),
            }
        }
    }

    /// The proof that everything that has to be remembered is on disk, if it is.
    fn make_durable(&mut self, outputs: &Outputs) -> Option<Durable> {
        let running = self.running.as_mut()?;
        // Of each duty the last state counts; what is over by the end of the step needs none.
        let mut records: BTreeMap<Key, Vec<u8>> = BTreeMap::new();
        for output in outputs {
            if let Output::Persist { duty, saved } = output {
                match encode_saved(saved) {
                    Some(bytes) => drop(records.insert(key_of(*duty), bytes)),
                    None => {
                        tracing::error!(%duty, "a state cannot be encoded: nothing is said or signed");
                        return None;
                    }
                }
            } else if let Output::Forget { duty } = output {
                records.remove(&key_of(*duty));
            }
        }
        if records.is_empty() {
            return running.journal.nothing_to_append();
        }
        let records: Vec<(Key, Vec<u8>)> = records.into_iter().collect();
        let start = Instant::now();
        let written = tokio::task::block_in_place(|| running.journal.append(&records));
        self.board.metrics.journal_seconds.0.observe(start.elapsed().as_secs_f64());
        if let Err(error) = &written {
            tracing::error!(
                error = error as &dyn std::error::Error,
                "the journal cannot be written: nothing is said or signed"
            );
        }
        written.ok()
    }

    /// Whether what we say about this duty, which is on disk, stays there. Where nothing is agreed on, nothing has to be remembered
    /// here: the signer's ledger has all that counts.
    fn may_speak(&self, _all_of_it: &Durable, duty: Duty) -> bool {
        let Some(running) = &self.running else { return false };
        match duty.kind.row().agreement {
            Agreement::NotNeeded => !running.journal.is_broken(),
            Agreement::Qbft { .. } => running.journal.keeps(key_of(duty)),
        }
    }

    /// The disk does not take what we would have to remember.
    fn stay_silent(&mut self, duty: Duty, tasks: Vec<Task>) {
        let why = SignError::HeldBack("this box's disk cannot be written".to_owned());
        let results = tasks.into_iter().map(|task| (task.id, Err(why.clone()))).collect();
        self.spawn(async move { Event::Signed(duty, results) });
    }

    fn count_agreed(&self, duty: Duty, leader: qbft::Member) {
        let labels = AgreedLabels {
            kind: duty.kind.row().name.to_owned(),
            leader: u64::from(leader.0).saturating_add(1),
        };
        self.board.metrics.agreed.get_or_create(&labels).inc();
    }

    fn broadcast(&self, duty: Duty, message: &qbft::Message<Seal>, values: &[duty::Value]) {
        let (Some(host), Ok(wire_duty)) = (&self.host, to_wire(duty)) else { return };
        let find = |digest: &qbft::Digest| {
            values.iter().find(|value| value.digest == *digest).map(|value| Arc::clone(&value.bytes))
        };
        match consensus::encode(wire_duty, message, self.membership.me(), &self.membership.identity, find) {
            Ok(bytes) => host.broadcast(Protocol::Qbft, &bytes),
            Err(error) => tracing::error!(%duty, %error, "our own agreement message cannot be encoded"),
        }
    }
}

fn key_of(duty: Duty) -> Key {
    (duty.slot.0, duty.kind.row().number)
}

fn encode_saved(saved: &Saved<Seal>) -> Option<Vec<u8>> {
    serde_json::to_vec(saved).ok()
}
