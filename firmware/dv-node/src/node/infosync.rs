//! At the end of each epoch: telling the members what we speak, and agreeing on what all speak.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use chain::{PublicKeyBytes, Slot, UnixMillis};
use duty::{Duty, DutyKind, FetchError, Payload, Value};
use obol::host::Responder;
use obol::infosync::own_topics;
use obol::priority::{self, COLLECT_MS, Exchange, InvalidInput};
use obol::wire::{PriorityMsg, PriorityResult};
use obol::{Protocol, consensus};
use prost::Message as _;
use qbft::Member;

use super::{Event, Node};
use crate::obol_network::{from_wire, to_wire};

/// Exchanges under way and what came of earlier ones.
#[derive(Default)]
pub(crate) struct InfoSync {
    exchanges: BTreeMap<Duty, (Exchange, Instant)>,
    agreed: obol::infosync::InfoSync,
}

impl InfoSync {
    /// Whether the cluster agreed on a version that reads several sync contributions per validator.
    pub(crate) fn plural_contributions(&self, slot: Slot) -> bool {
        self.agreed.plural_contributions(slot.0)
    }
}

impl Node {
    /// The last slot of an epoch has begun.
    pub(crate) fn begin_infosync(&mut self, slot: Slot) {
        // The engine counts validators; here the cluster itself stands in for one.
        let validators = BTreeMap::from([(PublicKeyBytes::ZERO, Payload::from([]))]);
        self.step(duty::Event::Schedule { duty: Duty::new(slot, DutyKind::InfoSync), validators });
    }

    /// The engine wants something to propose: ask every member.
    pub(crate) fn start_exchange(&mut self, duty: Duty) {
        let (Some(own), Some(host)) = (self.own_priorities(duty), self.host.clone()) else {
            let error = FetchError::Temporary("the other members cannot be asked yet".to_owned());
            return self.step(duty::Event::Fetched { duty, result: Err(error) });
        };
        let bytes = own.encode_to_vec();
        let view = self.membership.view.clone();
        let members = view.operators.len();
        for operator in
            view.operators.iter().filter(|operator| operator.index != usize::from(self.membership.me().0))
        {
            let Ok(index) = u8::try_from(operator.index) else { continue };
            let (host, bytes, peer) = (host.clone(), bytes.clone(), operator.peer_id);
            self.spawn(async move {
                let answer = host.request(&peer, Protocol::Priority, &bytes).await;
                Event::Priority(duty, Member(index), answer.ok())
            });
        }
        if let Ok(wire) = to_wire(duty) {
            let exchange = Exchange::new(wire, own, members, view.threshold);
            self.infosync.exchanges.insert(duty, (exchange, Instant::now()));
        }
    }

    fn own_priorities(&self, duty: Duty) -> Option<PriorityMsg> {
        if let Some((exchange, _)) = self.infosync.exchanges.get(&duty) {
            return exchange.own().cloned();
        }
        Some(priority::sign(to_wire(duty).ok()?, &own_topics(self.builder_api()), &self.membership.identity))
    }

    /// A member asks. What we wish does not depend on when, so it is answered at once.
    pub(crate) fn on_priority_request(&mut self, sender: Member, bytes: &[u8], responder: Option<Responder>) {
        let Some((duty, message)) = self.read_priority(sender, bytes) else { return };
        if let (Some(own), Some(responder)) = (self.own_priorities(duty), responder) {
            responder.respond(own.encode_to_vec());
        }
        self.take_priority(duty, message);
    }

    /// A member answered, or did not.
    pub(crate) fn on_priority_answer(&mut self, asked: Duty, sender: Member, answer: Option<Vec<u8>>) {
        let Some(bytes) = answer else { return };
        if let Some((duty, message)) = self.read_priority(sender, &bytes)
            && duty == asked
        {
            self.take_priority(duty, message);
        }
    }

    fn read_priority(&mut self, sender: Member, bytes: &[u8]) -> Option<(Duty, PriorityMsg)> {
        let now = self.obol_now()?;
        let peer = self.membership.view.operators.get(usize::from(sender.0))?.peer_id;
        match priority::receive(bytes, &peer, now) {
            Ok((duty, message)) => {
                let duty = from_wire(duty).filter(|duty| duty.kind == DutyKind::InfoSync)?;
                Some((duty, message))
            }
            Err(refusal) => {
                self.count_refused(sender, "priority", &refusal);
                None
            }
        }
    }

    fn take_priority(&mut self, duty: Duty, message: PriorityMsg) {
        let Ok(wire) = to_wire(duty) else { return };
        let Some((exchange, _)) = self.infosync.exchanges.get_mut(&duty) else { return };
        let result = exchange.add(wire, message);
        self.propose_priorities(duty, result);
    }

    /// Proposes what has arrived when the time for collecting is up.
    pub(crate) fn infosync_due(&mut self, now: UnixMillis) {
        let mut results = Vec::new();
        // On chains with short slots the duty would end before the reference's time for collecting does.
        let half_slot = self.running.as_ref().map_or(u64::MAX, |running| running.chain.timing.slot_ms / 2);
        for (duty, (exchange, started)) in &mut self.infosync.exchanges {
            if started.elapsed() >= Duration::from_millis(COLLECT_MS.min(half_slot)) {
                results.push((*duty, exchange.time_up()));
            }
        }
        for (duty, result) in results {
            self.propose_priorities(duty, result);
        }
        if let Some(running) = &self.running {
            let timing = running.chain.timing;
            self.infosync
                .exchanges
                .retain(|duty, _| duty.deadline(&timing).is_none_or(|deadline| deadline > now));
        }
    }

    fn propose_priorities(&mut self, duty: Duty, result: Option<Result<PriorityResult, InvalidInput>>) {
        let result = match result {
            None => return,
            Some(Ok(result)) => {
                let (digest, bytes) = consensus::priority_value_of(&result);
                Ok(Value { digest, bytes })
            }
            Some(Err(error)) => Err(FetchError::Permanent(error.to_string())),
        };
        self.step(duty::Event::Fetched { duty, result });
    }

    /// The members agreed.
    pub(crate) fn on_priorities_agreed(&mut self, duty: Duty, value: &Value) {
        match PriorityResult::decode(&*value.bytes) {
            Ok(result) => {
                self.infosync.agreed.add(duty.slot.0, &result);
                let versions = self.infosync.agreed.at(duty.slot.0, obol::infosync::VERSION);
                tracing::debug!(slot = %duty.slot, ?versions, "the members agreed on versions");
                if let Some(preferred) = self.infosync.agreed.unspoken_consensus(duty.slot.0) {
                    tracing::warn!(preferred, "the members prefer another way to agree; QBFT goes on");
                }
            }
            Err(error) => tracing::warn!(%error, "the members agreed on priorities that cannot be read"),
        }
    }
}
