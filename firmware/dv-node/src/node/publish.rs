//! What goes to the beacon node.

use std::collections::BTreeMap;
use std::sync::Arc;

use beacon::{BeaconError, BeaconNodes, Submitted};
use chain::{
    ForkName, PublicKeyBytes, SignedAggregateAndProof, SignedContributionAndProof, SignedVoluntaryExit,
    SingleAttestation, SyncCommitteeMessage,
};
use duty::{Aggregate, Duty, PublishError, TaskId};
use obol::proposal::VersionedSignedProposal;

use super::{Event, Node};
use crate::obol_network::{Place, Published, published};

/// Messages of one kind, and whose each is.
struct Messages<T>(Vec<TaskId>, Vec<T>);

impl<T> Default for Messages<T> {
    fn default() -> Self {
        Self(Vec::new(), Vec::new())
    }
}

impl<T> Messages<T> {
    fn push(&mut self, id: TaskId, message: T) {
        self.0.push(id);
        self.1.push(message);
    }
}

/// The results of a duty by the calls that take them.
#[derive(Default)]
struct Outgoing {
    blocks: Messages<VersionedSignedProposal>,
    attestations: Messages<SingleAttestation>,
    exits: Messages<SignedVoluntaryExit>,
    aggregates: Messages<SignedAggregateAndProof>,
    sync_messages: Messages<SyncCommitteeMessage>,
    contributions: Messages<SignedContributionAndProof>,
    refused: Refused,
}

/// What is not taken, with the reason. Whatever is not among it is.
#[derive(Default)]
struct Refused(BTreeMap<TaskId, String>);

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
                Ok(published) => outgoing.add(aggregate.id, published),
                Err(error) => {
                    let why = "a member's form of the message cannot be read".to_owned();
                    outgoing.refused.0.insert(aggregate.id, why);
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
    fn add(&mut self, id: TaskId, published: Published) {
        match published {
            Published::Block(block) => self.blocks.push(id, *block),
            Published::Attestation(attestation) => self.attestations.push(id, attestation),
            Published::Exit(exit) => self.exits.push(id, exit),
            Published::Aggregate(aggregate) => self.aggregates.push(id, *aggregate),
            Published::SyncMessage(message) => self.sync_messages.push(id, message),
            Published::Contribution(contribution) => self.contributions.push(id, *contribution),
        }
    }

    /// One request for each kind of result, not one per validator.
    async fn send(self, beacon: &BeaconNodes, fork: ForkName) -> Result<(), PublishError> {
        let mut refused = self.refused;
        for (id, block) in self.blocks.0.iter().zip(self.blocks.1) {
            let sent = beacon.publish_block(fork, Arc::new(block.block)).await;
            refused.judge(&[*id], sent.map(|()| none_rejected()))?;
        }
        for (id, exit) in self.exits.0.iter().zip(&self.exits.1) {
            refused.judge(&[*id], beacon.submit_exit(exit).await.map(|()| none_rejected()))?;
        }
        let Messages(ids, list) = &self.attestations;
        refused.judge(ids, beacon.submit_attestations(fork, list).await)?;
        let Messages(ids, list) = &self.aggregates;
        refused.judge(ids, beacon.submit_aggregates(fork, list).await)?;
        let Messages(ids, list) = &self.sync_messages;
        refused.judge(ids, beacon.submit_sync_messages(list).await)?;
        let Messages(ids, list) = &self.contributions;
        refused.judge(ids, beacon.submit_contributions(list).await)?;
        if refused.0.is_empty() { Ok(()) } else { Err(PublishError::Partly(refused.0)) }
    }
}

fn none_rejected() -> Submitted {
    Submitted { rejected: BTreeMap::new() }
}

impl Refused {
    /// What became of one call. A failure that may pass ends it all: everything is sent again.
    fn judge(&mut self, ids: &[TaskId], result: Result<Submitted, BeaconError>) -> Result<(), PublishError> {
        match result {
            Ok(sent) => {
                let rejected = sent.rejected.into_iter();
                self.0.extend(rejected.filter_map(|(item, why)| Some((*ids.get(item)?, why))));
            }
            Err(error) if error.is_temporary() => return Err(PublishError::Temporary(error.to_string())),
            Err(error) => self.0.extend(ids.iter().map(|id| (*id, error.to_string()))),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids() -> [TaskId; 3] {
        [1, 2, 3].map(|byte| TaskId::from(PublicKeyBytes([byte; 48])))
    }

    #[test]
    fn what_of_a_list_is_refused_is_told_by_validator() {
        let ids = ids();
        let mut refused = Refused::default();
        assert_eq!(refused.judge(&ids, Ok(none_rejected())), Ok(()));
        assert!(refused.0.is_empty());
        let rejected = BTreeMap::from([(1, "too old".to_owned()), (7, "of nobody".to_owned())]);
        assert_eq!(refused.judge(&ids, Ok(Submitted { rejected })), Ok(()));
        assert_eq!(refused.0, BTreeMap::from([(ids[1], "too old".to_owned())]));
    }

    #[test]
    fn a_call_that_fails_for_now_sends_all_again_and_one_that_fails_for_good_costs_its_own_list() {
        let ids = ids();
        let mut refused = Refused::default();
        let nobody = BeaconError::NoneReady { doing: "votes", states: "syncing".to_owned() };
        assert!(matches!(refused.judge(&ids, Err(nobody)), Err(PublishError::Temporary(_))));
        assert!(refused.0.is_empty());
        let cause = beacon::Cause::Refused { status: 400, message: "no".to_owned(), items: Vec::new() };
        let last = beacon::RequestError { endpoint: "http://x".to_owned(), doing: "votes", cause };
        let failed = BeaconError::AllFailed { last, asked: 1 };
        assert_eq!(refused.judge(&ids[..2], Err(failed)), Ok(()));
        assert_eq!(refused.0.into_keys().collect::<Vec<_>>(), ids[..2]);
    }
}
