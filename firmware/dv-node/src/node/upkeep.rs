//! What beacon nodes are told beside the duties: whom to pay, and what to listen to.

use std::collections::BTreeMap;
use std::time::Duration;

use beacon::Registered;
use chain::{
    AttesterDuty, BeaconCommitteeSubscription, Epoch, ProposerPreparation, PublicKeyBytes,
    SignedValidatorRegistration, SyncCommitteeSubscription, SyncDuty,
};
use duty::{Aggregate, Duty, DutyKind};
use obol::duty::is_attestation_aggregator;
use obol::signed::Signed;

use super::Node;
use crate::obol_network::to_wire;

/// Sync committees are subscribed to for this many epochs at a time, and anew in each.
const SYNC_SUBSCRIPTION_EPOCHS: u64 = 2;

impl Node {
    /// Tells whom to pay when one of our validators proposes. Beacon nodes forget it after two epochs.
    pub(super) fn prepare_proposers(&self) {
        let of_cluster = self.membership.view.validators.iter();
        let preparations: Vec<ProposerPreparation> = of_cluster
            .filter_map(|validator| {
                let info = self.duties.validators.get(&validator.group_public_key)?;
                let fee_recipient = validator.fee_recipient;
                Some(ProposerPreparation { validator_index: info.index, fee_recipient })
            })
            .collect();
        if preparations.is_empty() {
            return;
        }
        let beacon = self.beacon.clone();
        tokio::spawn(async move {
            if let Err(error) = beacon.prepare_proposers(&preparations).await {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "the beacon node was not told whom to pay"
                );
            }
        });
    }

    /// Tells builders the lock's registrations, late in the first slot of the epoch when beacon nodes are idle.
    pub(super) fn register_with_builders(&self) {
        if !self.builder_api() {
            return;
        }
        let of_cluster = self.membership.view.validators.iter();
        let registrations: Vec<SignedValidatorRegistration> =
            of_cluster.filter_map(|validator| validator.builder_registration).collect();
        let slot_ms = self.running.as_ref().map_or(0, |running| running.chain.timing.slot_ms);
        self.register(registrations, Duration::from_millis(slot_ms / 4 * 3));
    }

    fn register(&self, registrations: Vec<SignedValidatorRegistration>, after: Duration) {
        if registrations.is_empty() {
            return;
        }
        let beacon = self.beacon.clone();
        tokio::spawn(async move {
            tokio::time::sleep(after).await;
            match beacon.register_validators(&registrations).await {
                Ok(Registered::Accepted) => {
                    tracing::debug!(count = registrations.len(), "builders were told")
                }
                Ok(Registered::NoBuilder) => {
                    tracing::warn!("no beacon node has a builder to be told whom to pay")
                }
                Err(error) => {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "builders were not told whom to pay"
                    );
                }
            }
        });
    }

    /// Makes beacon nodes look for the subnets of our attesters. Who aggregates is told when it is known.
    pub(super) fn subscribe_committees<'a>(&self, duties: impl Iterator<Item = &'a AttesterDuty>) {
        self.send_subscriptions(duties.map(|duty| subscription(duty, false)).collect());
    }

    fn send_subscriptions(&self, subscriptions: Vec<BeaconCommitteeSubscription>) {
        if subscriptions.is_empty() {
            return;
        }
        let beacon = self.beacon.clone();
        tokio::spawn(async move {
            if let Err(error) = beacon.subscribe_beacon_committees(&subscriptions).await {
                tracing::warn!(error = &error as &dyn std::error::Error, "committees were not subscribed to");
            }
        });
    }

    pub(super) fn subscribe_sync_committees(&self, epoch: Epoch, seats: &BTreeMap<PublicKeyBytes, SyncDuty>) {
        if seats.is_empty() {
            return;
        }
        let subscriptions: Vec<SyncCommitteeSubscription> = seats
            .values()
            .map(|duty| SyncCommitteeSubscription {
                validator_index: duty.validator_index,
                sync_committee_indices: duty.sync_committee_indices.clone(),
                until_epoch: epoch.saturating_add(SYNC_SUBSCRIPTION_EPOCHS),
            })
            .collect();
        let beacon = self.beacon.clone();
        tokio::spawn(async move {
            if let Err(error) = beacon.subscribe_sync_committees(&subscriptions).await {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "sync committees were not subscribed to"
                );
            }
        });
    }

    /// Group signatures that stay in the cluster: kept, and beacon nodes and builders are told what follows from them.
    pub(super) fn on_provided(&mut self, duty: Duty, set: Vec<Aggregate>) {
        match duty.kind {
            DutyKind::PrepareAggregator => self.on_selections(duty, &set),
            DutyKind::BuilderRegistration => self.on_registrations(duty, &set),
            DutyKind::Proposer
            | DutyKind::Attester
            | DutyKind::Exit
            | DutyKind::Randao
            | DutyKind::Aggregator
            | DutyKind::SyncMessage
            | DutyKind::PrepareSyncContribution
            | DutyKind::SyncContribution
            | DutyKind::InfoSync => {}
        }
        self.kept.provided(duty, set);
    }

    fn on_selections(&self, duty: Duty, set: &[Aggregate]) {
        let Some(running) = &self.running else { return };
        let epoch = running.chain.timing.epoch_of(duty.slot);
        let selected = set.iter().filter_map(|aggregate| {
            let own = self.duties.of_validator(epoch, duty.slot, &aggregate.id.validator)?;
            let aggregates = is_attestation_aggregator(&aggregate.signature.0, own.committee_length);
            aggregates.then(|| subscription(own, true))
        });
        self.send_subscriptions(selected.collect());
    }

    fn on_registrations(&self, duty: Duty, set: &[Aggregate]) {
        let Ok(wire) = to_wire(duty) else { return };
        let read = |aggregate: &Aggregate| match Signed::decode(wire.kind, &aggregate.data).ok()? {
            Signed::Registration(mut versioned) => {
                versioned.registration.signature = aggregate.signature;
                Some(versioned.registration)
            }
            Signed::Proposal(_)
            | Signed::Attestation(_)
            | Signed::Raw(_)
            | Signed::Exit(_)
            | Signed::Randao(_)
            | Signed::CommitteeSelection(_)
            | Signed::Aggregate(_)
            | Signed::SyncMessage(_)
            | Signed::SyncSelection(_)
            | Signed::Contribution(_) => None,
        };
        if self.builder_api() {
            self.register(set.iter().filter_map(read).collect(), Duration::ZERO);
        }
    }
}

fn subscription(duty: &AttesterDuty, is_aggregator: bool) -> BeaconCommitteeSubscription {
    BeaconCommitteeSubscription {
        validator_index: duty.validator_index,
        committee_index: duty.committee_index,
        committees_at_slot: duty.committees_at_slot,
        slot: duty.slot,
        is_aggregator,
    }
}
