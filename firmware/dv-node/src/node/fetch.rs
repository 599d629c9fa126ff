//! What the beacon node is asked for, to be agreed on or signed.

use std::collections::BTreeMap;

use chain::{AttesterDuty, PublicKeyBytes};
use duty::{Duty, DutyKind, FetchError, Given, Payload};

use super::{Event, Node};

impl Node {
    pub(super) fn fetch(
        &mut self,
        duty: Duty,
        validators: &BTreeMap<PublicKeyBytes, Payload>,
        _given: &Given,
    ) {
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
}
