//! Questions and submissions for duties.

use std::collections::BTreeSet;
use std::time::Duration;

use chain::{
    AttestationData, AttesterDuty, Checkpoint, Epoch, ForkName, PublicKeyBytes, Root, SingleAttestation,
    Slot, ValidatorIndex,
};
use serde::Deserialize;

use crate::ask::{BYTES_PER_VALIDATOR, SMALL, encode, unless};
use crate::error::{BeaconError, Cause, RequestError};
use crate::nodes::{BeaconNodes, Node};
use crate::submit::Submitted;
use crate::wire::{Data, DutiesWire, LivenessWire, ValidatorWire, ValidatorsRequest};

const ASKING_FOR_VOTE: &str = "asking for attestation data";
/// How often and how long apart a node that is not yet in our slot is asked again: half a second in all.
const SLOT_RETRIES: u32 = 5;
const SLOT_RETRY_WAIT: Duration = Duration::from_millis(100);

/// A validator as the chain knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ValidatorInfo {
    /// Its key.
    pub public_key: PublicKeyBytes,
    /// Its place in the registry.
    pub index: ValidatorIndex,
    /// The beacon API's word, such as `active_ongoing` or `pending_queued`.
    pub status: String,
    /// First epoch with duties.
    pub activation_epoch: Epoch,
    /// First epoch without duties.
    pub exit_epoch: Epoch,
}

impl ValidatorInfo {
    /// Whether it has duties in this epoch.
    pub fn active_at(&self, epoch: Epoch) -> bool {
        self.activation_epoch <= epoch && epoch < self.exit_epoch
    }
}

/// The attester duties of an epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttesterDuties {
    /// They hold as long as the head's chain has this root; see [`crate::ChainEvent::Head`].
    pub dependent_root: Root,
    /// One entry for each active validator that was asked for.
    pub duties: Vec<AttesterDuty>,
}

/// The justified and finalized checkpoints of the head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct FinalityCheckpoints {
    /// What a vote of now must have as its source.
    pub current_justified: Checkpoint,
    /// The justified checkpoint before.
    pub previous_justified: Checkpoint,
    /// What cannot be undone any more.
    pub finalized: Checkpoint,
}

impl BeaconNodes {
    /// Which of these keys the chain knows, and how they stand. Unknown keys are simply absent.
    pub async fn validators(&self, keys: &[PublicKeyBytes]) -> Result<Vec<ValidatorInfo>, BeaconError> {
        let doing = "asking for validators";
        if keys.is_empty() {
            return Ok(Vec::new()); // An empty list would mean the whole registry.
        }
        let wanted: BTreeSet<PublicKeyBytes> = keys.iter().copied().collect();
        let request = ValidatorsRequest { ids: wanted.iter().map(ToString::to_string).collect() };
        let body = encode(&request);
        let limits = self.read_limits(SMALL + wanted.len() * BYTES_PER_VALIDATOR);
        let (wanted, body) = (&wanted, &body);
        self.read(doing, |node| async move {
            let path = "/eth/v1/beacon/states/head/validators";
            let answer = node.endpoint.post(doing, path, &[], body.clone(), limits).await?;
            let answer: Data<Vec<ValidatorWire>> = node.endpoint.parse(doing, &answer.body)?;
            let infos = answer.data.into_iter().map(|wire| ValidatorInfo {
                public_key: wire.validator.pubkey,
                index: wire.index,
                status: wire
                    .status
                    .chars()
                    .filter(|c| c.is_ascii_lowercase() || *c == '_')
                    .take(32)
                    .collect(),
                activation_epoch: wire.validator.activation_epoch,
                exit_epoch: wire.validator.exit_epoch,
            });
            let infos: Vec<_> = infos.collect();
            unless(
                infos.iter().all(|info| wanted.contains(&info.public_key)),
                node,
                doing,
                "a validator nobody asked for",
            )?;
            Ok(infos)
        })
        .await
    }

    /// Attester duties of an epoch, which may be the current or the next one.
    pub async fn attester_duties(
        &self,
        epoch: Epoch,
        indices: &[ValidatorIndex],
    ) -> Result<AttesterDuties, BeaconError> {
        let doing = "asking for attester duties";
        if indices.is_empty() {
            // Prysm refuses an empty list, and there is nothing to ask.
            return Ok(AttesterDuties { dependent_root: Root::ZERO, duties: Vec::new() });
        }
        let wanted: BTreeSet<ValidatorIndex> = indices.iter().copied().collect();
        let body = encode(&wanted.iter().map(|index| index.0.to_string()).collect::<Vec<_>>());
        let limits = self.read_limits(SMALL + wanted.len() * BYTES_PER_VALIDATOR);
        let slots_per_epoch = self.chain().map_or(0, |chain| chain.timing.slots_per_epoch);
        let (wanted, body) = (&wanted, &body);
        self.read(doing, |node| async move {
            let path = format!("/eth/v1/validator/duties/attester/{}", epoch.0);
            let answer = node.endpoint.post(doing, &path, &[], body.clone(), limits).await?;
            let answer: DutiesWire<AttesterDuty> = node.endpoint.parse(doing, &answer.body)?;
            unless(!answer.execution_optimistic, node, doing, "duties of a head that is not verified yet")?;
            let fits = |duty: &AttesterDuty| {
                wanted.contains(&duty.validator_index)
                    && slots_per_epoch > 0
                    && duty.slot.0 / slots_per_epoch == epoch.0
            };
            unless(answer.data.iter().all(fits), node, doing, "a duty of another epoch or validator")?;
            let distinct: BTreeSet<_> = answer.data.iter().map(|duty| duty.validator_index).collect();
            unless(distinct.len() == answer.data.len(), node, doing, "two duties for one validator")?;
            Ok(AttesterDuties { dependent_root: answer.dependent_root, duties: answer.data })
        })
        .await
    }

    /// Who of these validators was seen doing something in this epoch, the current or the previous one. Some nodes count votes
    /// alone, some blocks as well, and some have to be told to look. Nothing is held against a node that does not say.
    pub async fn seen_live(
        &self,
        epoch: Epoch,
        indices: &[ValidatorIndex],
    ) -> Result<BTreeSet<ValidatorIndex>, BeaconError> {
        let doing = "asking who has voted lately";
        if indices.is_empty() {
            return Ok(BTreeSet::new());
        }
        let wanted: BTreeSet<ValidatorIndex> = indices.iter().copied().collect();
        let body = encode(&wanted.iter().map(|index| index.0.to_string()).collect::<Vec<_>>());
        let limits = self.read_limits(SMALL + wanted.len() * BYTES_PER_VALIDATOR);
        let (wanted, body) = (&wanted, &body);
        self.read_early(doing, |node| async move {
            let path = format!("/eth/v1/validator/liveness/{}", epoch.0);
            let answer = node.endpoint.post(doing, &path, &[], body.clone(), limits).await?;
            let answer: Data<Vec<LivenessWire>> = node.endpoint.parse(doing, &answer.body)?;
            let all_wanted = answer.data.iter().all(|entry| wanted.contains(&entry.index));
            unless(all_wanted, node, doing, "a validator nobody asked for")?;
            Ok(answer.data.into_iter().filter(|entry| entry.is_live).map(|entry| entry.index).collect())
        })
        .await
    }

    /// What a validator would vote in this slot, as of now. Since Electra the committee index in it is zero.
    pub async fn attestation_data(&self, slot: Slot) -> Result<AttestationData, BeaconError> {
        self.read(ASKING_FOR_VOTE, |node| self.vote_of(node, slot)).await
    }

    /// The same before it is due: only the best endpoint is asked, and that it has no answer yet is not held against it.
    pub async fn early_attestation_data(&self, slot: Slot) -> Result<AttestationData, BeaconError> {
        self.read_early(ASKING_FOR_VOTE, |node| self.vote_of(node, slot)).await
    }

    async fn vote_of(&self, node: &Node, slot: Slot) -> Result<AttestationData, RequestError> {
        let (doing, limits) = (ASKING_FOR_VOTE, self.read_limits(SMALL));
        let path = format!("/eth/v1/validator/attestation_data?slot={}&committee_index=0", slot.0);
        let mut retries = 0;
        let data = loop {
            match node.endpoint.get::<Data<AttestationData>>(doing, &path, limits).await {
                Ok((answer, date)) => {
                    node.note_date(date);
                    break answer.data;
                }
                // Its clock is a little behind ours: the slot starts there in a moment.
                Err(error) if matches!(error.cause, Cause::NotCurrentSlot(_)) && retries < SLOT_RETRIES => {
                    retries += 1;
                    tokio::time::sleep(SLOT_RETRY_WAIT).await;
                }
                Err(error) => return Err(error),
            }
        };
        unless(data.slot == slot && data.index.0 == 0, node, doing, "data for another slot or committee")?;
        Ok(data)
    }

    /// The head's justified and finalized checkpoints.
    pub async fn finality(&self) -> Result<FinalityCheckpoints, BeaconError> {
        let doing = "asking for finality";
        let limits = self.read_limits(SMALL);
        let path = "/eth/v1/beacon/states/head/finality_checkpoints";
        self.read(doing, |node| async move {
            Ok(node.endpoint.get::<Data<FinalityCheckpoints>>(doing, path, limits).await?.0.data)
        })
        .await
    }

    /// Sends attestations to every endpoint on our chain; done as soon as one of them has accepted all.
    pub async fn submit_attestations(
        &self,
        fork: ForkName,
        attestations: &[SingleAttestation],
    ) -> Result<Submitted, BeaconError> {
        let path = "/eth/v2/beacon/pool/attestations";
        self.submit_list("submitting attestations", path, Some(fork), attestations).await
    }
}
