//! Doing what the engine wants, in its order.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chain::{AttesterDuty, ForkInfo, PublicKeyBytes, SingleAttestation, SlotTiming, UnixMillis};
use duty::{
    Aggregate, Duty, DutyKind, FetchError, Output, Partial, Payload, PublishError, Saved, SignError, Task,
    TaskId,
};
use obol::Protocol;
use obol::consensus::{self, Seal};
use obol::host::SEND_DEADLINE;

use super::{Event, Node, Outputs};
use crate::journal::Key;
use crate::obol_network::{attester_signing_root, encode_partials, single_attestation, to_wire, vote_of};
use crate::signer::Request;

/// Duties whose partial signatures are kept for members that connect late.
const SENT_KEPT: usize = 64;
/// Messages of one duty kept: one for each time that the signer signed something new.
const SENT_PER_DUTY: usize = 64;
/// No message is tried for longer than this, whatever the clock says.
const LONGEST_SENDING: Duration = Duration::from_secs(1_800);

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
                }
                speaking @ (Output::Broadcast { duty, .. } | Output::Sign { duty, .. }) => {
                    let kept =
                        self.running.as_ref().is_some_and(|running| running.journal.keeps(key_of(duty)));
                    if durable && kept {
                        self.speak(speaking);
                    } else {
                        self.stay_silent(speaking);
                    }
                }
                Output::Fetch { duty, validators } => self.fetch(duty, &validators),
                Output::Agreed { duty, round, value } => {
                    tracing::debug!(%duty, round, "the members agreed");
                    if duty.kind == DutyKind::InfoSync {
                        self.on_priorities_agreed(duty, &value);
                    }
                }
                Output::SendPartials { duty, set } => self.send_partials(duty, &set),
                Output::Combine { duty, jobs } => self.combine(duty, jobs),
                Output::Publish { duty, set } => self.publish(duty, &set),
                Output::Provide { .. } => {} // No duty of ours builds on another one yet.
                Output::Outcome(record) => self.on_outcome(record),
            }
        }
    }

    /// Whether everything that has to be remembered is on disk.
    fn make_durable(&mut self, outputs: &Outputs) -> bool {
        let Some(running) = &mut self.running else { return false };
        // Of each duty the last state counts; what is over by the end of the step needs none.
        let mut records: BTreeMap<Key, Vec<u8>> = BTreeMap::new();
        for output in outputs {
            if let Output::Persist { duty, saved } = output {
                match encode_saved(saved) {
                    Some(bytes) => drop(records.insert(key_of(*duty), bytes)),
                    None => {
                        tracing::error!(%duty, "a state cannot be encoded: nothing is said or signed");
                        return false;
                    }
                }
            } else if let Output::Forget { duty } = output {
                records.remove(&key_of(*duty));
            }
        }
        if records.is_empty() {
            return !running.journal.is_broken();
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
        written.is_ok()
    }

    fn speak(&mut self, output: Output<Seal>) {
        match output {
            Output::Broadcast { duty, message, values } => self.broadcast(duty, &message, &values),
            Output::Sign { duty, tasks } => self.sign(duty, tasks),
            Output::Persist { .. }
            | Output::Forget { .. }
            | Output::Fetch { .. }
            | Output::Agreed { .. }
            | Output::SendPartials { .. }
            | Output::Combine { .. }
            | Output::Publish { .. }
            | Output::Provide { .. }
            | Output::Outcome(_) => {}
        }
    }

    /// The disk does not take what we would have to remember. A lost broadcast is made up for by the next rounds.
    fn stay_silent(&mut self, output: Output<Seal>) {
        if let Output::Sign { duty, tasks } = output {
            let why = SignError::Unavailable("this box's disk cannot be written".to_owned());
            let results = tasks.into_iter().map(|task| (task.id, Err(why.clone()))).collect();
            self.spawn(async move { Event::Signed(duty, results) });
        }
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

    fn fetch(&mut self, duty: Duty, validators: &BTreeMap<PublicKeyBytes, Payload>) {
        if duty.kind == DutyKind::InfoSync {
            return self.start_exchange(duty);
        }
        let Some(running) = &self.running else { return };
        let network = running.engine.network().clone();
        let over = running.slots.last().is_some_and(|now| now > duty.slot);
        let duties: BTreeMap<PublicKeyBytes, AttesterDuty> = validators
            .iter()
            .filter_map(|(validator, payload)| Some((*validator, serde_json::from_slice(payload).ok()?)))
            .collect();
        let beacon = self.beacon.clone();
        self.spawn(async move {
            if duty.kind != DutyKind::Attester {
                let text = format!("this version does not do {} duties", duty.kind.row().name);
                return Event::Fetched(duty, Err(FetchError::Permanent(text)));
            }
            if over {
                // Beacon nodes give attestation data for their current slot only.
                let text = "the slot is over".to_owned();
                return Event::Fetched(duty, Err(FetchError::Permanent(text)));
            }
            let result = match beacon.attestation_data(duty.slot).await {
                Ok(vote) => Ok(network.attester_value(vote, &duties)),
                Err(error) if error.is_temporary() => Err(FetchError::Temporary(error.to_string())),
                // A refusal now says little about the next try: beacon nodes give 400 and 500 for passing states.
                Err(error) => Err(FetchError::Temporary(error.to_string())),
            };
            Event::Fetched(duty, result)
        });
    }

    fn sign(&self, duty: Duty, tasks: Vec<Task>) {
        let Some(running) = &self.running else { return };
        let fork_info = ForkInfo {
            fork: running.chain.schedule.fork_at(running.chain.timing.epoch_of(duty.slot)),
            genesis_validators_root: running.chain.genesis_validators_root,
        };
        let mut requests = Vec::with_capacity(tasks.len());
        let mut results = Vec::new();
        for task in tasks {
            match self.request(&task, &fork_info) {
                Ok(request) => requests.push(request),
                Err(why) => results.push((task.id, Err(SignError::Refused(why)))),
            }
        }
        self.expect_messages(requests.iter().map(|request| request.signing_root).collect());
        let (signer, board) = (self.signer.clone(), Arc::clone(&self.board));
        self.spawn(async move {
            let start = Instant::now();
            results.extend(signer.sign(fork_info, requests).await);
            board.metrics.sign_seconds.0.observe(start.elapsed().as_secs_f64());
            Event::Signed(duty, results)
        });
    }

    fn request(&self, task: &Task, fork_info: &ForkInfo) -> Result<Request<TaskId>, String> {
        let keys = self.membership.keys.get(&task.id.validator).ok_or("not a validator of this cluster")?;
        let data = vote_of(&task.data).map_err(|error| error.to_string())?;
        Ok(Request {
            key: task.id,
            share: keys.own_share,
            signing_root: attester_signing_root(task.message_root, &data, fork_info),
            data,
        })
    }

    fn send_partials(&mut self, duty: Duty, set: &[Partial]) {
        let bytes = match encode_partials(duty, self.membership.share_index, set) {
            Ok(bytes) => bytes,
            Err(error) => {
                return tracing::error!(%duty, %error, "our own partial signatures cannot be encoded");
            }
        };
        if let Some(host) = &self.host {
            let timing = &self.running.as_ref().map(|running| running.chain.timing);
            let left = timing.map_or(SEND_DEADLINE, |timing| left_of(duty, &timing, super::wall()));
            host.broadcast_within(Protocol::ParSigEx, &bytes, left);
        }
        if let Some(running) = &mut self.running {
            let sent = running.sent_partials.entry(duty).or_default();
            if sent.len() < SENT_PER_DUTY {
                sent.push(bytes.into());
            }
            while running.sent_partials.len() > SENT_KEPT {
                running.sent_partials.pop_first();
            }
        }
    }

    /// A member that connects may have missed what we sent while it was away.
    pub(crate) fn resend_partials(&self, peer: &cluster::PeerId) {
        let (Some(host), Some(running)) = (&self.host, &self.running) else { return };
        let now = super::wall();
        for (duty, messages) in &running.sent_partials {
            let left = left_of(*duty, &running.chain.timing, now);
            for bytes in messages.iter().filter(|_| !left.is_zero()) {
                let _only_strangers_fail = host.send_within(peer, Protocol::ParSigEx, bytes, left);
            }
        }
    }

    fn publish(&self, duty: Duty, set: &[Aggregate]) {
        let Some(running) = &self.running else { return };
        let epoch = running.chain.timing.epoch_of(duty.slot);
        let fork = running.chain.schedule.fork_name_at(epoch);
        let mut attestations: Vec<SingleAttestation> = Vec::with_capacity(set.len());
        for aggregate in set {
            let own = self.duties.of_validator(epoch, duty.slot, &aggregate.id.validator);
            match single_attestation(&aggregate.data, aggregate.signature, own) {
                Ok(attestation) => attestations.push(attestation),
                Err(error) => tracing::error!(%duty, %error, "a result cannot be published"),
            }
        }
        let beacon = self.beacon.clone();
        let unreadable = attestations.len() < set.len();
        self.spawn(async move {
            let result = match beacon.submit_attestations(fork, &attestations).await {
                Ok(sent) if sent.rejected.is_empty() && !unreadable => Ok(()),
                Ok(sent) if sent.rejected.is_empty() => Err(PublishError::Permanent(
                    "a member's form of the attestation cannot be read".to_owned(),
                )),
                Ok(sent) => {
                    let texts: Vec<&str> = sent.rejected.values().map(String::as_str).collect();
                    Err(PublishError::Permanent(texts.join("; ")))
                }
                Err(error) if error.is_temporary() => Err(PublishError::Temporary(error.to_string())),
                Err(error) => Err(PublishError::Permanent(error.to_string())),
            };
            Event::Published(duty, result)
        });
    }
}

/// How long a duty lives from now on.
fn left_of(duty: Duty, timing: &SlotTiming, now: UnixMillis) -> Duration {
    let left = duty.deadline(timing).map_or(u64::MAX, |deadline| deadline.0.saturating_sub(now.0));
    Duration::from_millis(left).min(LONGEST_SENDING)
}

fn key_of(duty: Duty) -> Key {
    (duty.slot.0, duty.kind.row().number)
}

fn encode_saved(saved: &Saved<Seal>) -> Option<Vec<u8>> {
    serde_json::to_vec(saved).ok()
}
