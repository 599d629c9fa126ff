//! Aggregates of attestations, what must be subscribed to for them, and exits.

use chain::{
    Attestation, BeaconCommitteeSubscription, CommitteeIndex, ForkName, Root, SignedAggregateAndProof,
    SignedVoluntaryExit, Slot,
};
use tree_hash::TreeHash as _;

use crate::ask::{SMALL, encode, unless};
use crate::error::BeaconError;
use crate::nodes::BeaconNodes;
use crate::submit::{Content, Recipients, Submission, Submitted};
use crate::wire::Data;

impl BeaconNodes {
    /// Makes every endpoint listen to the committees of our attesters, and collect votes where one aggregates.
    pub async fn subscribe_beacon_committees(
        &self,
        subscriptions: &[BeaconCommitteeSubscription],
    ) -> Result<Submitted, BeaconError> {
        let path = "/eth/v1/validator/beacon_committee_subscriptions";
        self.submit_list("subscribing to committees", path, None, subscriptions).await
    }

    /// The best aggregate of a committee's votes for this data (electra and later); `None` when there is no vote for it.
    pub async fn aggregate_attestation(
        &self,
        slot: Slot,
        data_root: Root,
        committee: CommitteeIndex,
    ) -> Result<Option<Attestation>, BeaconError> {
        let doing = "asking for an aggregate";
        let limits = self.read_limits(SMALL);
        let path = format!(
            "/eth/v2/validator/aggregate_attestation?attestation_data_root={data_root}&slot={slot}&committee_index={committee}"
        );
        let path = &path;
        self.read_if_there(doing, |node| async move {
            let (answer, _) = node.endpoint.get::<Data<Attestation>>(doing, path, limits).await?;
            let found = answer.data;
            let position = usize::try_from(committee.0).unwrap_or(usize::MAX);
            let same_committee = found.committee_bits.num_set_bits() == 1
                && found.committee_bits.get(position).unwrap_or(false);
            let same_data = Root::from(found.data.tree_hash_root()) == data_root;
            unless(same_data && same_committee, node, doing, "an aggregate of something else")?;
            Ok(found)
        })
        .await
    }

    /// Sends signed aggregates (electra and later).
    pub async fn submit_aggregates(
        &self,
        fork: ForkName,
        aggregates: &[SignedAggregateAndProof],
    ) -> Result<Submitted, BeaconError> {
        let path = "/eth/v2/validator/aggregate_and_proofs";
        self.submit_list("submitting aggregates", path, Some(fork), aggregates).await
    }

    /// Sends a voluntary exit, which cannot be taken back.
    pub async fn submit_exit(&self, exit: &SignedVoluntaryExit) -> Result<(), BeaconError> {
        let path = "/eth/v1/beacon/pool/voluntary_exits";
        let content = Content::Json(encode(exit).into());
        let doing = "submitting an exit";
        let to = Recipients::InTurn;
        self.submit(Submission { doing, path, fork: None, content, items: 1, to }).await?;
        Ok(())
    }
}
