//! Selection proofs: the client's go to the members, the group's come back. What was asked before costs nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{MutexGuard, PoisonError};

use chain::{SignatureBytes, Slot, ValidatorIndex};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use serde_json::json;

use super::api::{ValidatorApi, number, wall};
use super::cluster::Cluster;
use super::message::{Claimed, Message, PartialSignature};
use super::reply::{ApiError, Reply};
use super::selections::Selections;

/// Epochs for which selection proofs are remembered.
const EPOCHS_KEPT: u64 = 2;

/// Whose proof, for when, in which subcommittee.
type Proof = (ValidatorIndex, Slot, u64);

impl<C: Cluster> ValidatorApi<C> {
    pub(super) async fn select(&self, claimed: Vec<Claimed>) -> Result<Reply, ApiError> {
        if claimed.is_empty() {
            return Ok(Reply::json(&json!({ "data": [] })));
        }
        self.forget_old_selections();
        let new: Vec<(usize, Claimed)> = {
            let memory = self.memory();
            number(claimed.iter().cloned()).into_iter().filter(|(_, claim)| !memory.knows(claim)).collect()
        };
        let mut failures = Vec::new();
        if !new.is_empty() {
            let (good, bad) = self.sort(new, |claim| self.cluster.validator(claim.index)).await?;
            failures = bad;
            let (positions, partials): (Vec<usize>, Vec<PartialSignature>) = good.into_iter().unzip();
            if !partials.is_empty() {
                let taken = self.cluster.take(partials).await;
                for (position, taken) in positions.into_iter().zip(taken) {
                    match taken {
                        Ok(()) => self.memory().passed_on(&claimed[position]),
                        Err(error) => failures.push((position, error.to_string())),
                    }
                }
            }
        }
        let failed: BTreeSet<usize> = failures.iter().map(|(position, _)| *position).collect();
        if failed.len() == claimed.len() {
            return Err(ApiError::failures(failures));
        }
        let waited = claimed.iter().enumerate().filter(|(position, _)| !failed.contains(position));
        let proofs = self.group_proofs(waited.map(|(_, claim)| claim)).await?;
        let entry = |claim: &Claimed| {
            let proof = proofs.get(&(claim.index, claim.message.slot(1), claim.message.subcommittee()))?;
            let mut entry = json!({"validator_index": claim.index, "slot": claim.message.slot(1), "selection_proof": proof});
            if let Message::SyncSelection { subcommittee, .. } = &claim.message {
                entry["subcommittee_index"] = json!(subcommittee.to_string());
            }
            Some(entry)
        };
        let data: Vec<_> = claimed.iter().filter_map(entry).collect();
        Ok(Reply::json(&json!({ "data": data })))
    }

    /// The group's proofs: all of them, or after some patience those that are there.
    async fn group_proofs<'a>(
        &self,
        claimed: impl Iterator<Item = &'a Claimed>,
    ) -> Result<BTreeMap<Proof, SignatureBytes>, ApiError> {
        let mut proofs = BTreeMap::new();
        let mut waiting = FuturesUnordered::new();
        for claim in claimed {
            let key = (claim.index, claim.message.slot(1), claim.message.subcommittee());
            if let Some(group) = self.memory().group(claim) {
                proofs.insert(key, group);
                continue;
            }
            let Some(validator) = self.cluster.validator(claim.index) else { continue };
            waiting
                .push(async move { (key, claim, self.cluster.selection(validator, &claim.message).await) });
        }
        let patience = tokio::time::sleep(self.patience.selections);
        tokio::pin!(patience);
        let mut patient = true;
        let mut last = None;
        while !waiting.is_empty() && (patient || proofs.is_empty()) {
            tokio::select! {
                found = waiting.next() => match found {
                    Some((key, claim, Ok(group))) => {
                        self.memory().completed(claim, group);
                        proofs.insert(key, group);
                    }
                    Some((_, _, Err(error))) => last = Some(error),
                    None => {}
                },
                () = &mut patience, if patient => patient = false,
            }
        }
        match last {
            Some(error) if proofs.is_empty() => Err(error.into()),
            _ => Ok(proofs),
        }
    }

    fn memory(&self) -> MutexGuard<'_, Selections> {
        self.selections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn forget_old_selections(&self) {
        let Some(chain) = self.nodes.chain() else { return };
        let Some(now) = chain.timing.slot_at(wall()) else { return };
        let kept = chain.timing.slots_per_epoch.saturating_mul(EPOCHS_KEPT);
        self.memory().forget_before(now.saturating_sub(kept));
    }
}
