//! What goes to the beacon node.

use std::sync::Arc;

use beacon::{BeaconError, BeaconNodes, Submitted};
use chain::{
    ForkName, PublicKeyBytes, SignedAggregateAndProof, SignedContributionAndProof, SignedVoluntaryExit,
    SingleAttestation, SyncCommitteeMessage,
};
use duty::{Aggregate, Duty, PublishError};
use obol::proposal::VersionedSignedProposal;

use super::{Event, Node};
use crate::obol_network::{Place, Published, published};

/// The results of a duty by the calls that take them.
#[derive(Default)]
struct Outgoing {
    blocks: Vec<VersionedSignedProposal>,
    attestations: Vec<SingleAttestation>,
    exits: Vec<SignedVoluntaryExit>,
    aggregates: Vec<SignedAggregateAndProof>,
    sync_messages: Vec<SyncCommitteeMessage>,
    contributions: Vec<SignedContributionAndProof>,
    unreadable: bool,
}

impl Node {
    pub(super) fn publish(&self, duty: Duty, set: &[Aggregate]) {
        let Some(running) = &self.running else { return };
        let epoch = running.chain.timing.epoch_of(duty.slot);
        let fork = running.chain.schedule.fork_name_at(epoch);
        let mut outgoing = Outgoing::default();
        for aggregate in set {
            let validator = &aggregate.id.validator;
            let place = Place {
                attester: self.duties.of_validator(epoch, duty.slot, validator),
                index: self.duties.validators.get(validator).map(|info| info.index),
                agreed: self.kept.value(duty).map(|value| &*value.bytes),
            };
            match published(duty, aggregate, place) {
                Ok(published) => outgoing.add(published),
                Err(error) => {
                    outgoing.unreadable = true;
                    tracing::error!(%duty, %error, "a result cannot be published");
                }
            }
        }
        let beacon = self.beacon.clone();
        self.spawn(async move { Event::Published(duty, outgoing.send(&beacon, fork).await) });
    }

    /// Who is paid for a full block is the leader's beacon node's choice; the owner is told when it is not the cluster's.
    pub(super) fn look_at_fee_recipient(&self, duty: Duty, value: &duty::Value) {
        let Some(block) = crate::obol_network::agreed_block(&value.bytes) else { return };
        let facts = crate::obol_network::facts_of(&block);
        let Some(found) = facts.fee_recipient else { return };
        let of = |validator: &PublicKeyBytes| {
            let info = self.duties.validators.get(validator)?;
            (info.index == facts.header.proposer_index).then_some(*validator)
        };
        let proposer = self.validators.iter().find_map(of);
        let validators = &self.membership.view.validators;
        let expected = validators.iter().find(|validator| Some(validator.group_public_key) == proposer);
        if let Some(expected) = expected.filter(|validator| validator.fee_recipient != found) {
            tracing::warn!(
                %duty, %found, expected = %expected.fee_recipient,
                "the agreed block pays another fee recipient than the cluster's; check the leader's beacon node"
            );
            self.board.metrics.wrong_fee_recipients.inc();
        }
    }
}

impl Outgoing {
    fn add(&mut self, published: Published) {
        match published {
            Published::Block(block) => self.blocks.push(*block),
            Published::Attestation(attestation) => self.attestations.push(attestation),
            Published::Exit(exit) => self.exits.push(exit),
            Published::Aggregate(aggregate) => self.aggregates.push(*aggregate),
            Published::SyncMessage(message) => self.sync_messages.push(message),
            Published::Contribution(contribution) => self.contributions.push(*contribution),
        }
    }

    /// One request for each kind of result, not one per validator.
    async fn send(self, beacon: &BeaconNodes, fork: ForkName) -> Result<(), PublishError> {
        for block in self.blocks {
            let sent = beacon.publish_block(fork, Arc::new(block.block)).await;
            judge(sent.map(|()| none_rejected()))?;
        }
        for exit in &self.exits {
            judge(beacon.submit_exit(exit).await.map(|()| none_rejected()))?;
        }
        judge(beacon.submit_attestations(fork, &self.attestations).await)?;
        judge(beacon.submit_aggregates(fork, &self.aggregates).await)?;
        judge(beacon.submit_sync_messages(&self.sync_messages).await)?;
        judge(beacon.submit_contributions(&self.contributions).await)?;
        if self.unreadable {
            return Err(PublishError::Permanent("a member's form of the message cannot be read".to_owned()));
        }
        Ok(())
    }
}

fn none_rejected() -> Submitted {
    Submitted { rejected: std::collections::BTreeMap::new() }
}

fn judge(result: Result<Submitted, BeaconError>) -> Result<(), PublishError> {
    match result {
        Ok(sent) if sent.rejected.is_empty() => Ok(()),
        Ok(sent) => {
            let texts: Vec<&str> = sent.rejected.values().map(String::as_str).collect();
            Err(PublishError::Permanent(texts.join("; ")))
        }
        Err(error) if error.is_temporary() => Err(PublishError::Temporary(error.to_string())),
        Err(error) => Err(PublishError::Permanent(error.to_string())),
    }
}
