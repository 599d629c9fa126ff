//! The sync committee: who sits in it, its votes and their contributions.

use std::collections::BTreeSet;

use chain::{
    Epoch, Root, SignedContributionAndProof, Slot, SyncCommitteeContribution, SyncCommitteeMessage,
    SyncCommitteeSubscription, SyncDuty, ValidatorIndex,
};

use crate::ask::{BYTES_PER_VALIDATOR, SMALL, encode, unless};
use crate::error::BeaconError;
use crate::nodes::BeaconNodes;
use crate::submit::Submitted;
use crate::wire::Data;
use crate::wire::SyncDutiesWire;

/// Seats of the whole committee, of which one validator may have several.
const SEATS: usize = 512;
/// Characters that one seat takes in an answer.
const BYTES_PER_SEAT: usize = 16;
/// Subcommittees that the seats are divided into.
const SUBCOMMITTEES: u64 = 4;

impl BeaconNodes {
    /// Which of these validators sit in the sync committee of an epoch, in this period or the next one.
    pub async fn sync_duties(
        &self,
        epoch: Epoch,
        indices: &[ValidatorIndex],
    ) -> Result<Vec<SyncDuty>, BeaconError> {
        let doing = "asking for sync committee duties";
        if indices.is_empty() {
            return Ok(Vec::new());
        }
        let wanted: BTreeSet<ValidatorIndex> = indices.iter().copied().collect();
        let body = encode(&wanted.iter().map(|index| index.0.to_string()).collect::<Vec<_>>());
        let limits = self.read_limits(SMALL + SEATS * BYTES_PER_SEAT + wanted.len() * BYTES_PER_VALIDATOR);
        let path = format!("/eth/v1/validator/duties/sync/{}", epoch.0);
        let (wanted, body, path) = (&wanted, &body, &path);
        self.read(doing, |node| async move {
            let answer = node.endpoint.post(doing, path, &[], body.clone(), limits).await?;
            let answer: SyncDutiesWire = node.endpoint.parse(doing, &answer.body)?;
            unless(!answer.execution_optimistic, node, doing, "duties of a head that is not verified yet")?;
            let ours = answer.data.iter().all(|duty| wanted.contains(&duty.validator_index));
            unless(ours, node, doing, "a duty of another validator")?;
            let distinct: BTreeSet<_> = answer.data.iter().map(|duty| duty.validator_index).collect();
            unless(distinct.len() == answer.data.len(), node, doing, "two entries for one validator")?;
            let mut seats = BTreeSet::new();
            let seated =
                answer.data.iter().flat_map(|duty| &duty.sync_committee_indices).all(|seat| {
                    usize::try_from(seat.0).is_ok_and(|seat| seat < SEATS) && seats.insert(seat.0)
                });
            unless(seated, node, doing, "a seat that does not exist, or one for two")?;
            Ok(answer.data)
        })
        .await
    }

    /// Makes every endpoint listen to the subcommittees that our validators sit in.
    pub async fn subscribe_sync_committees(
        &self,
        subscriptions: &[SyncCommitteeSubscription],
    ) -> Result<Submitted, BeaconError> {
        let path = "/eth/v1/validator/sync_committee_subscriptions";
        self.submit_list("subscribing to sync committees", path, None, subscriptions).await
    }

    /// Sends sync-committee votes.
    pub async fn submit_sync_messages(
        &self,
        messages: &[SyncCommitteeMessage],
    ) -> Result<Submitted, BeaconError> {
        let path = "/eth/v1/beacon/pool/sync_committees";
        self.submit_list("submitting sync committee votes", path, None, messages).await
    }

    /// The best contribution that the endpoint has collected for a block; `None` when it has no vote for it.
    pub async fn sync_committee_contribution(
        &self,
        slot: Slot,
        subcommittee_index: u64,
        block: Root,
    ) -> Result<Option<SyncCommitteeContribution>, BeaconError> {
        let doing = "asking for a sync committee contribution";
        let limits = self.read_limits(SMALL);
        let path = format!(
            "/eth/v1/validator/sync_committee_contribution?slot={slot}&subcommittee_index={subcommittee_index}&beacon_block_root={block}"
        );
        let path = &path;
        let found = self
            .read_if_there(doing, |node| async move {
                let (answer, _) =
                    node.endpoint.get::<Data<SyncCommitteeContribution>>(doing, path, limits).await?;
                let found = answer.data;
                let fits = found.slot == slot
                    && found.beacon_block_root == block
                    && found.subcommittee_index == subcommittee_index
                    && subcommittee_index < SUBCOMMITTEES;
                unless(fits, node, doing, "a contribution to something else")?;
                Ok(found)
            })
            .await?;
        // Prysm says 'nothing' with a contribution that nobody contributed to.
        Ok(found.filter(|found| found.aggregation_bits.iter().any(|voted| voted)))
    }

    /// Sends signed contributions.
    pub async fn submit_contributions(
        &self,
        contributions: &[SignedContributionAndProof],
    ) -> Result<Submitted, BeaconError> {
        let path = "/eth/v1/validator/contribution_and_proofs";
        self.submit_list("submitting contributions", path, None, contributions).await
    }
}
