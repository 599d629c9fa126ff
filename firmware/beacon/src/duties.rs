//! Questions and submissions for duties.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chain::{
    AttestationData, AttesterDuty, Checkpoint, Epoch, ForkName, PublicKeyBytes, Root, SingleAttestation,
    Slot, ValidatorIndex,
};
use serde::Deserialize;
use tokio::sync::mpsc;

use crate::error::{BeaconError, Cause, RequestError};
use crate::http::{Limits, refusal_failures};
use crate::nodes::{BeaconNodes, Node};
use crate::wire::{AttesterDutiesWire, Data, HeaderWire, ValidatorWire, ValidatorsRequest};

const SMALL: usize = 64 * 1024;
/// Room for one answer entry, generously.
const BYTES_PER_VALIDATOR: usize = 2 * 1024;
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

/// A block that an endpoint knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KnownBlock {
    /// Its root.
    pub root: Root,
    /// Its slot.
    pub slot: Slot,
    /// It is an ancestor of the head, or the head.
    pub canonical: bool,
}

/// What became of a list that was sent to every endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Submitted {
    /// Items that no endpoint accepted, by position in the list, with the words of the last refusal.
    pub rejected: BTreeMap<usize, String>,
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
            let answer: AttesterDutiesWire<AttesterDuty> = node.endpoint.parse(doing, &answer.body)?;
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

    /// What a validator would vote in this slot, as of now. Since Electra the committee index in it is zero.
    pub async fn attestation_data(&self, slot: Slot) -> Result<AttestationData, BeaconError> {
        let doing = "asking for attestation data";
        let limits = self.read_limits(SMALL);
        self.read(doing, |node| async move {
            let path = format!("/eth/v1/validator/attestation_data?slot={}&committee_index=0", slot.0);
            let mut retries = 0;
            let data = loop {
                match node.endpoint.get::<Data<AttestationData>>(doing, &path, limits).await {
                    Ok((answer, date)) => {
                        node.note_date(date);
                        break answer.data;
                    }
                    // Its clock is a little behind ours: the slot starts there in a moment.
                    Err(error)
                        if matches!(error.cause, Cause::NotCurrentSlot(_)) && retries < SLOT_RETRIES =>
                    {
                        retries += 1;
                        tokio::time::sleep(SLOT_RETRY_WAIT).await;
                    }
                    Err(error) => return Err(error),
                }
            };
            unless(
                data.slot == slot && data.index.0 == 0,
                node,
                doing,
                "data for another slot or committee",
            )?;
            Ok(data)
        })
        .await
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

    /// Looks a block up; `None` when the endpoint has never seen it.
    pub async fn block(&self, root: Root) -> Result<Option<KnownBlock>, BeaconError> {
        let doing = "looking a block up";
        let limits = self.read_limits(SMALL);
        let path = format!("/eth/v1/beacon/headers/{root}");
        let path = &path;
        self.read(doing, |node| async move {
            match node.endpoint.get::<Data<HeaderWire>>(doing, path, limits).await {
                Ok((answer, _)) => {
                    let header = answer.data;
                    unless(header.root == root, node, doing, "another block")?;
                    let slot = header.header.message.slot;
                    Ok(Some(KnownBlock { root: header.root, slot, canonical: header.canonical }))
                }
                Err(RequestError { cause: Cause::Refused { status: 404, .. }, .. }) => Ok(None),
                Err(error) => Err(error),
            }
        })
        .await
    }

    /// Sends attestations to every endpoint on our chain; done as soon as one of them has accepted all.
    pub async fn submit_attestations(
        &self,
        fork: ForkName,
        attestations: &[SingleAttestation],
    ) -> Result<Submitted, BeaconError> {
        let headers = vec![("Eth-Consensus-Version", fork.as_str().to_owned())];
        let path = "/eth/v2/beacon/pool/attestations";
        self.submit("submitting attestations", path, headers, encode(&attestations), attestations.len()).await
    }

    async fn submit(
        &self,
        doing: &'static str,
        path: &'static str,
        headers: Vec<(&'static str, String)>,
        body: Vec<u8>,
        items: usize,
    ) -> Result<Submitted, BeaconError> {
        if items == 0 {
            return Ok(Submitted { rejected: BTreeMap::new() });
        }
        let indices = self.same_chain();
        let asked = indices.len();
        let (to, mut results) = mpsc::channel(asked.max(1));
        for index in indices {
            let (nodes, to, headers, body) = (self.clone(), to.clone(), headers.clone(), body.clone());
            let limits = Limits { limit_ms: self.shared.timeouts.submit_ms, max_bytes: SMALL };
            // A task of its own: the others go on after the first has succeeded.
            tokio::spawn(async move {
                let node = &nodes.shared.nodes[index];
                let headers: Vec<(&'static str, &str)> =
                    headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
                let result = node.endpoint.post(doing, path, &headers, body, limits).await.map(|_| ());
                if let Err(error) = &result {
                    node.state().failed(error);
                    tracing::debug!(error = %error, "submission not accepted");
                }
                let _ = to.send(result).await; // Nobody waits any more: fine.
            });
        }
        drop(to);
        let mut rejected: Option<BTreeMap<usize, String>> = None;
        let mut last = None;
        while let Some(result) = results.recv().await {
            match result {
                Ok(()) => return Ok(Submitted { rejected: BTreeMap::new() }),
                Err(error) => {
                    if let Some(bad) = refusal_failures(&error.cause, items) {
                        if bad.is_empty() {
                            return Ok(Submitted { rejected: bad });
                        }
                        rejected = Some(match rejected {
                            None => bad,
                            Some(before) => {
                                bad.into_iter().filter(|(item, _)| before.contains_key(item)).collect()
                            }
                        });
                    }
                    last = Some(error);
                }
            }
        }
        match (rejected, last) {
            (Some(rejected), _) if rejected.len() < items => Ok(Submitted { rejected }),
            (_, Some(last)) => Err(BeaconError::AllFailed { last, asked }),
            (_, None) => Err(self.none_ready(doing)),
        }
    }
}

fn unless(fits: bool, node: &Node, doing: &'static str, what: &str) -> Result<(), RequestError> {
    if fits { Ok(()) } else { Err(node.endpoint.fail(doing, Cause::Unfitting(what.to_owned()))) }
}

fn encode(value: &impl serde::Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("plain structures of strings always encode")
}
