//! What goes to the beacon node.

use chain::SingleAttestation;
use duty::{Aggregate, Duty, PublishError};

use super::{Event, Node};
use crate::obol_network::single_attestation;

impl Node {
    pub(super) fn publish(&self, duty: Duty, set: &[Aggregate]) {
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
