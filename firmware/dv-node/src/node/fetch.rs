//! What the beacon node is asked for, to be agreed on or signed.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use beacon::{BeaconError, BeaconNodes, BlockRequest};
use chain::{
    Attestation, AttesterDuty, Bytes32, CommitteeIndex, ForkName, ProposerDuty, PublicKeyBytes, Root,
    SyncCommitteeContribution, SyncDuty,
};
use duty::{Duty, DutyKind, FetchError, Given, Payload, TaskId, Value};
use obol::proposal::VersionedProposal;
use obol::versioned;
use qbft::Digest;
use serde::de::DeserializeOwned;
use tree_hash::TreeHash as _;

use super::{Event, Node};
use crate::obol_network::{
    ObolNetwork, agreed_vote, contribution_value, facts_of, is_selected, proposer_value,
    selected_subcommittees,
};

/// Takes a builder's offer whenever there is one.
const BUILDER_ALWAYS: u64 = u64::MAX;
/// Takes the beacon node's own block.
const BUILDER_NEVER: u64 = 0;

impl Node {
    pub(super) fn fetch(
        &mut self,
        duty: Duty,
        validators: &BTreeMap<PublicKeyBytes, Payload>,
        given: &Given,
    ) {
        let Some(running) = &self.running else { return };
        let over = running.slots.last().is_some_and(|now| now > duty.slot);
        let network = running.engine.network().clone();
        let beacon = self.beacon.clone();
        let failed = move |error: FetchError| Event::Fetched(duty, Err(error));
        if over && duty.kind != DutyKind::InfoSync {
            // Beacon nodes answer such questions for their current slot only.
            let error = FetchError::Permanent("the slot is over".to_owned());
            return self.spawn(async move { failed(error) });
        }
        let begins = self.begins(duty);
        match duty.kind {
            DutyKind::InfoSync => self.start_exchange(duty),
            DutyKind::Attester => {
                let duties: BTreeMap<_, AttesterDuty> = described(validators);
                // What was asked for when the block of this slot came.
                if let Some(vote) = self.head.take_vote(duty.slot, begins) {
                    let value = network.attester_value(vote, &duties);
                    return self.spawn(async move { Event::Fetched(duty, Ok(value)) });
                }
                self.spawn(
                    async move { Event::Fetched(duty, attester(&beacon, &network, duty, &duties).await) },
                );
            }
            DutyKind::Proposer => {
                let proposers: BTreeMap<_, ProposerDuty> = described(validators);
                let mut reveals = validators.keys().filter_map(|validator| {
                    Some(given.get(&(DutyKind::Randao, TaskId::from(*validator)))?.signature)
                });
                let Some(randao_reveal) = reveals.next() else { return };
                let factor = if self.builder_api() { BUILDER_ALWAYS } else { BUILDER_NEVER };
                let graffiti = validators.keys().next().and_then(|validator| self.graffiti(validator));
                let request = BlockRequest {
                    slot: duty.slot,
                    randao_reveal,
                    graffiti,
                    builder_boost_factor: Some(factor),
                };
                self.spawn(async move { Event::Fetched(duty, block(&beacon, &proposers, &request).await) });
            }
            DutyKind::Aggregator => {
                let duties: BTreeMap<PublicKeyBytes, AttesterDuty> = described(validators);
                let selected = duties.into_iter().filter(|(v, own)| is_selected(given, v, own) == Some(true));
                let selected: BTreeMap<_, _> = selected.collect();
                let vote = self.kept.value(Duty::new(duty.slot, DutyKind::Attester));
                let vote = vote.and_then(|value| agreed_vote(&value.bytes));
                self.spawn(async move {
                    let result = match vote {
                        _ if selected.is_empty() => Err(FetchError::NothingToDo),
                        Some(vote) => {
                            let root = vote.tree_hash_root().into();
                            aggregates(&beacon, &network, duty, root, &selected).await
                        }
                        None => {
                            Err(FetchError::Temporary("the votes to aggregate are not agreed on".to_owned()))
                        }
                    };
                    Event::Fetched(duty, result)
                });
            }
            DutyKind::SyncMessage if self.client.is_some() => self.client_head(duty),
            DutyKind::SyncMessage => {
                if let Some(root) = self.head.take_root(duty.slot, begins) {
                    return self.spawn(async move { Event::Fetched(duty, Ok(root)) });
                }
                self.spawn(async move { Event::Fetched(duty, head(&beacon).await) });
            }
            DutyKind::SyncContribution => {
                let several = self.infosync.plural_contributions(duty.slot);
                let most = if several { usize::MAX } else { 1 };
                let wanted = contributions_wanted(most, validators, given);
                self.spawn(async move { Event::Fetched(duty, contributions(&beacon, duty, wanted).await) });
            }
            // What these sign follows from the duty itself: the engine does not ask.
            DutyKind::Exit
            | DutyKind::BuilderRegistration
            | DutyKind::Randao
            | DutyKind::PrepareAggregator
            | DutyKind::PrepareSyncContribution => {}
        }
    }

    /// Whether this cluster takes builders' offers.
    pub(super) fn builder_api(&self) -> bool {
        self.membership.builder_api
    }

    /// What a block of this validator shall say; nothing where that is left to the beacon node.
    fn graffiti(&self, validator: &PublicKeyBytes) -> Option<Bytes32> {
        let all = &self.membership.view.validators;
        let position = all.iter().position(|known| known.group_public_key == *validator)?;
        self.membership.graffiti.of(position, self.beacon.preferred_version().as_deref())
    }
}

/// The subcommittees and blocks that each selected validator contributes for, at most this many for each: only one, the first,
/// as long as the cluster has not agreed on a version that reads several (obol.md 5.6).
fn contributions_wanted(
    most: usize,
    validators: &BTreeMap<PublicKeyBytes, Payload>,
    given: &Given,
) -> BTreeMap<PublicKeyBytes, Vec<(u64, Root)>> {
    let mut wanted = BTreeMap::new();
    for (validator, own) in described::<SyncDuty>(validators) {
        let Some(vote) = given.get(&(DutyKind::SyncMessage, TaskId::from(validator))) else { continue };
        let selected = selected_subcommittees(given, &validator, &own);
        let several: Vec<(u64, Root)> =
            selected.into_iter().take(most).map(|subcommittee| (subcommittee, vote.message_root)).collect();
        if !several.is_empty() {
            wanted.insert(validator, several);
        }
    }
    wanted
}

/// What the duties were scheduled with.
fn described<T: DeserializeOwned>(
    validators: &BTreeMap<PublicKeyBytes, Payload>,
) -> BTreeMap<PublicKeyBytes, T> {
    validators.iter().filter_map(|(v, payload)| Some((*v, serde_json::from_slice(payload).ok()?))).collect()
}

/// A refusal now says little about the next try: beacon nodes give 400 and 500 for passing states.
fn again(error: BeaconError) -> FetchError {
    FetchError::Temporary(error.to_string())
}

async fn attester(
    beacon: &BeaconNodes,
    network: &ObolNetwork,
    duty: Duty,
    duties: &BTreeMap<PublicKeyBytes, AttesterDuty>,
) -> Result<Value, FetchError> {
    let vote = beacon.attestation_data(duty.slot).await.map_err(again)?;
    Ok(network.attester_value(vote, duties))
}

async fn block(
    beacon: &BeaconNodes,
    proposers: &BTreeMap<PublicKeyBytes, ProposerDuty>,
    request: &BlockRequest,
) -> Result<Value, FetchError> {
    let produced = beacon.produce_block(request).await.map_err(again)?;
    let version = match produced.fork {
        ForkName::Electra => versioned::ELECTRA,
        ForkName::Fulu => versioned::FULU,
        fork @ (ForkName::Phase0
        | ForkName::Altair
        | ForkName::Bellatrix
        | ForkName::Capella
        | ForkName::Deneb
        | ForkName::Gloas) => {
            return Err(FetchError::Permanent(format!(
                "this version does not read blocks of the fork {fork}"
            )));
        }
    };
    let proposal = VersionedProposal { version, block: produced.block };
    // After a reorganisation several validators may have been scheduled: the block says whose it is.
    let index = facts_of(&proposal).header.proposer_index;
    let proposer = proposers.iter().find(|(_, own)| own.validator_index == index);
    let (validator, _) = proposer.ok_or_else(|| {
        FetchError::Temporary(format!("the beacon node's block is of validator {index}, which is not ours"))
    })?;
    Ok(proposer_value(validator, proposal))
}

/// One question for each committee, however many validators aggregate there.
async fn aggregates(
    beacon: &BeaconNodes,
    network: &ObolNetwork,
    duty: Duty,
    root: Root,
    selected: &BTreeMap<PublicKeyBytes, AttesterDuty>,
) -> Result<Value, FetchError> {
    let mut found: BTreeMap<CommitteeIndex, Option<Attestation>> = BTreeMap::new();
    for committee in selected.values().map(|own| own.committee_index) {
        if let Entry::Vacant(entry) = found.entry(committee) {
            let aggregate = beacon.aggregate_attestation(duty.slot, root, committee).await.map_err(again)?;
            entry.insert(aggregate);
        }
    }
    let of = |own: &AttesterDuty| found.get(&own.committee_index).cloned().flatten();
    let aggregates: BTreeMap<PublicKeyBytes, Attestation> =
        selected.iter().filter_map(|(validator, own)| Some((*validator, of(own)?))).collect();
    if aggregates.is_empty() {
        return Err(FetchError::Temporary("the beacon node has no vote to aggregate".to_owned()));
    }
    network.aggregator_value(duty, aggregates).map_err(|error| FetchError::Permanent(error.to_string()))
}

/// The head's root. It is not agreed on: a member whose head differs does not sign with the others.
async fn head(beacon: &BeaconNodes) -> Result<Value, FetchError> {
    let head = beacon.head_block_root().await.map_err(again)?;
    if head.optimistic {
        return Err(FetchError::Temporary("the beacon node's head is not verified yet".to_owned()));
    }
    Ok(Value { digest: Digest(head.root.0), bytes: Payload::from(head.root.0) })
}

async fn contributions(
    beacon: &BeaconNodes,
    duty: Duty,
    wanted: BTreeMap<PublicKeyBytes, Vec<(u64, Root)>>,
) -> Result<Value, FetchError> {
    if wanted.is_empty() {
        return Err(FetchError::NothingToDo);
    }
    let mut found: BTreeMap<(u64, Root), Option<SyncCommitteeContribution>> = BTreeMap::new();
    for question in wanted.values().flatten() {
        if let Entry::Vacant(entry) = found.entry(*question) {
            let (subcommittee, root) = *question;
            let answer = beacon.sync_committee_contribution(duty.slot, subcommittee, root).await;
            entry.insert(answer.map_err(again)?);
        }
    }
    let mut contributions = BTreeMap::new();
    for (validator, questions) in wanted {
        let several: Vec<_> =
            questions.iter().filter_map(|question| found.get(question).cloned().flatten()).collect();
        if !several.is_empty() {
            contributions.insert(validator, several);
        }
    }
    if contributions.is_empty() {
        return Err(FetchError::Temporary("the beacon node has no vote to contribute".to_owned()));
    }
    Ok(contribution_value(contributions))
}

#[cfg(test)]
mod tests {
    use chain::{SignatureBytes, SyncCommitteePosition, ValidatorIndex};
    use duty::Aggregate;

    use super::*;
    use crate::obol_network::describe;

    #[test]
    fn a_validator_contributes_once_until_the_cluster_agreed_that_members_read_more() {
        let validator = PublicKeyBytes([7; 48]);
        let seats = [0, 5, 130, 400].map(SyncCommitteePosition);
        let own = SyncDuty {
            pubkey: validator,
            validator_index: ValidatorIndex(11),
            sync_committee_indices: seats.to_vec(),
        };
        let validators = BTreeMap::from([(validator, describe(&own))]);
        let selects = |proof: &SignatureBytes| obol::duty::is_sync_aggregator(&proof.0);
        let mut proofs = (0..=u8::MAX).map(|byte| SignatureBytes([byte; 96]));
        let yes = proofs.find(selects).unwrap();
        let no = proofs.find(|proof| !selects(proof)).unwrap();
        let mut given = Given::default();
        let mut give = |kind, subcommittee, signature| {
            let id = TaskId { validator, subcommittee };
            let aggregate = Aggregate {
                id,
                message_root: Root([9; 32]),
                data: Payload::from([]),
                signature,
                from: Vec::new(),
            };
            given.insert((kind, id), aggregate);
        };
        give(DutyKind::SyncMessage, 0, no);
        for (subcommittee, proof) in [(0, no), (1, yes), (3, yes)] {
            give(DutyKind::PrepareSyncContribution, subcommittee, proof);
        }
        let wanted = |most| contributions_wanted(most, &validators, &given).remove(&validator).unwrap();
        assert_eq!(wanted(1), [(1, Root([9; 32]))], "the lowest that is selected");
        assert_eq!(wanted(usize::MAX), [(1, Root([9; 32])), (3, Root([9; 32]))]);
    }
}
