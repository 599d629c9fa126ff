//! Answering what is not simply passed on.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use chain::{Slot, UnixMillis};
use serde_json::json;
use ssz::Encode as _;

use super::cluster::{AgreedBlock, Cluster};
use super::keys::{KeyMap, Named};
use super::message::{self, Claimed, Message, PartialSignature};
use super::reply::{ApiError, Form, Reply, accepted, content_form};
use super::route::{Query, Route};
use super::selections::Selections;
use super::verify;
use crate::pass::Passed;
use crate::{BeaconNodes, ChainInfo};

/// Validators in one question. More would be no validator client.
const MAX_IDS: usize = 16_384;
/// The largest answer of a beacon node that keys are looked for in.
const MAX_ANSWER: usize = 64 * 1024 * 1024;
/// Epochs ahead for which anything is taken (obol.md 7.6).
const EPOCHS_AHEAD: u64 = 2;

/// How long a client is made to wait.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// No answer takes longer (obol.md 9.1).
    pub whole: Duration,
    /// When some of the group's selection proofs are there and others are late, the client gets those that are there. A
    /// client that asks for a whole epoch at once does nothing else in the meantime.
    pub selections: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { whole: Duration::from_secs(10), selections: Duration::from_secs(2) }
    }
}

/// A request, as far as it matters.
#[derive(Debug, Clone)]
pub struct Request {
    /// `GET`, `POST`.
    pub method: String,
    /// Path and query.
    pub uri: String,
    /// `Accept`.
    pub accept: Option<String>,
    /// `Content-Type`.
    pub content_type: Option<String>,
    /// `Eth-Consensus-Version`.
    pub consensus_version: Option<String>,
    /// The body.
    pub body: Bytes,
}

impl Request {
    fn query(&self) -> Query<'_> {
        Query(self.uri.split_once('?').map_or("", |(_, query)| query))
    }

    fn form(&self) -> Result<Form, ApiError> {
        content_form(self.content_type.as_deref())
    }

    fn accepts(&self) -> Form {
        accepted(self.accept.as_deref())
    }
}

/// What becomes of a request.
pub(super) enum Answer {
    /// We answer.
    Own(Reply),
    /// The beacon node's answer, changed or not.
    Passed(Passed),
}

/// The validator API of one member.
pub struct ValidatorApi<C> {
    pub(super) nodes: BeaconNodes,
    keys: Arc<KeyMap>,
    pub(super) cluster: C,
    pub(super) selections: Mutex<Selections>,
    version: String,
    pub(super) patience: Patience,
    pub(super) requests: Arc<AtomicU64>,
}

impl<C: Cluster> ValidatorApi<C> {
    /// `version` is what `node/version` says.
    pub fn new(
        nodes: BeaconNodes,
        keys: Arc<KeyMap>,
        cluster: C,
        version: String,
        patience: Patience,
    ) -> Self {
        let requests = Arc::default();
        Self { nodes, keys, cluster, selections: Mutex::default(), version, patience, requests }
    }

    /// Counts the requests there, so that others can see whether a client is there at all.
    pub fn counted_by(self, requests: Arc<AtomicU64>) -> Self {
        Self { requests, ..self }
    }

    pub(super) async fn answer(&self, route: Route, request: &Request) -> Result<Answer, ApiError> {
        let own = match route {
            Route::Duties => return self.duties(request).await,
            Route::Validators { path } => return self.validators(&path, request).await,
            Route::ValidatorsByPost => return self.validators_by_post(request).await,
            Route::Validator { path, id } => return self.validator(&path, &id, request).await,
            Route::AttestationData => self.attestation_data(request).await,
            Route::ProduceBlock(slot) => self.produce_block(slot, request).await,
            Route::Aggregate => self.aggregate(request).await,
            Route::Contribution => self.contribution(request).await,
            Route::SubmitBlock { blinded } => self.submit_block(blinded, request).await,
            Route::SubmitAttestations => {
                message::fork_of(request.consensus_version.as_deref())?;
                self.submit(message::read_attestations(request.form()?, &request.body)?).await
            }
            Route::SubmitAggregates => {
                let fork = message::fork_of(request.consensus_version.as_deref())?;
                self.submit(message::read_aggregates(fork, request.form()?, &request.body)?).await
            }
            Route::SubmitSyncMessages => {
                self.submit(message::read_sync_messages(request.form()?, &request.body)?).await
            }
            Route::SubmitContributions => {
                self.submit(message::read_contributions(request.form()?, &request.body)?).await
            }
            Route::SubmitExit => self.submit(vec![message::read_exit(request.form()?, &request.body)?]).await,
            Route::CommitteeSelections => {
                self.select(message::read_committee_selections(request.form()?, &request.body)?).await
            }
            Route::SyncSelections => {
                self.select(message::read_sync_selections(request.form()?, &request.body)?).await
            }
            Route::Swallowed => Ok(Reply::empty()),
            Route::Gone => Err(ApiError::new(404, "NotFound")),
            Route::Version => Ok(Reply::json(&json!({"data": {"version": self.version}}))),
            Route::Events | Route::Proxied => Err(ApiError::new(404, "NotFound")), // Passed on before it comes here.
        };
        own.map(Answer::Own)
    }

    fn chain(&self) -> Result<Arc<ChainInfo>, ApiError> {
        self.nodes.chain().ok_or_else(|| ApiError::new(503, "no beacon node has answered yet"))
    }

    // --- What the beacon node knows, with our public shares for the validators' keys.

    async fn duties(&self, request: &Request) -> Result<Answer, ApiError> {
        let body = match (request.method.as_str(), request.form()?) {
            ("GET", _) => None,
            (_, Form::Ssz) => return Err(ApiError::unsupported("Cannot read the supplied content type.")),
            (_, Form::Json) => Some(indices(&request.body)?),
        };
        self.show(&request.method, &request.uri, body).await
    }

    async fn validators(&self, path: &str, request: &Request) -> Result<Answer, ApiError> {
        // A comma may be written out, in letters of either case (RFC 3986, 6.2.2.1).
        let apart = |value| str::split(value, ',').flat_map(|v| v.split("%2C")).flat_map(|v| v.split("%2c"));
        let list = |name| request.query().all(name).flat_map(apart);
        let ids: Vec<&str> = list("id").filter(|id| !id.is_empty()).take(MAX_IDS + 1).collect();
        if ids.is_empty() {
            return self.show("GET", &request.uri, None).await;
        }
        let statuses: Vec<&str> = list("status").take(32).collect();
        self.ask_validators(path, &ids, &statuses).await
    }

    async fn validators_by_post(&self, request: &Request) -> Result<Answer, ApiError> {
        #[derive(serde::Deserialize)]
        struct Body {
            #[serde(default)]
            ids: Option<Vec<String>>,
            #[serde(default)]
            statuses: Option<Vec<String>>,
        }
        if request.form()? == Form::Ssz {
            return Err(ApiError::unsupported("Cannot read the supplied content type."));
        }
        let body: Body = serde_json::from_slice(&request.body)
            .map_err(|error| ApiError::bad(format!("failed parsing json request body: {error:.200}")))?;
        let path = request.uri.split('?').next().unwrap_or_default();
        let ids = body.ids.unwrap_or_default();
        if ids.is_empty() {
            return self.show("POST", path, Some(request.body.clone())).await;
        }
        let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
        let statuses = body.statuses.unwrap_or_default();
        let statuses: Vec<&str> = statuses.iter().map(String::as_str).collect();
        self.ask_validators(path, &ids, &statuses).await
    }

    async fn validator(&self, path: &str, id: &str, request: &Request) -> Result<Answer, ApiError> {
        match self.known_as(id)? {
            Some(known) => self.show(&request.method, &format!("{path}/{known}"), None).await,
            None => Err(ApiError::new(404, "NotFound")),
        }
    }

    /// By `POST`, since a box has more validators than fit into a URL.
    async fn ask_validators(&self, path: &str, ids: &[&str], statuses: &[&str]) -> Result<Answer, ApiError> {
        if ids.len() > MAX_IDS {
            return Err(ApiError::bad(format!("more than {MAX_IDS} ids")));
        }
        let mut asked = Vec::with_capacity(ids.len());
        for id in ids {
            asked.extend(self.known_as(id)?);
        }
        if asked.is_empty() {
            // An empty list would ask for the whole registry.
            return Ok(Answer::Own(Reply::json(
                &json!({"execution_optimistic": false, "finalized": false, "data": []}),
            )));
        }
        let mut body = json!({"ids": asked});
        if !statuses.is_empty() {
            body["statuses"] = json!(statuses);
        }
        self.show("POST", path, Some(body.to_string().into())).await
    }

    /// How the chain names what a client names: indices are the same. Keys that nobody knows are left out, as beacon nodes do.
    fn known_as(&self, id: &str) -> Result<Option<String>, ApiError> {
        let id = id.trim();
        if !id.is_empty() && id.len() <= 20 && id.bytes().all(|byte| byte.is_ascii_digit()) {
            return Ok(Some(id.to_owned()));
        }
        let share = id.parse().map_err(|_| ApiError::bad(format!("invalid validator id {id:.100}")))?;
        Ok(match self.keys.named(&share)? {
            Named::Ours(validator) => Some(validator.to_string()),
            Named::Unknown => None,
        })
    }

    /// Asks the beacon node and shows our public shares in its answer. Refusals pass as they are.
    async fn show(&self, method: &str, uri: &str, body: Option<Bytes>) -> Result<Answer, ApiError> {
        let passed = self.nodes.pass_json(method, uri, body, MAX_ANSWER).await?;
        if passed.status != 200 {
            return Ok(Answer::Passed(passed));
        }
        let mut json = passed.body.to_vec();
        self.keys.show_shares(&mut json);
        Ok(Answer::Passed(Passed { body: json.into(), ..passed }))
    }

    // --- What the members agreed on.

    async fn attestation_data(&self, request: &Request) -> Result<Reply, ApiError> {
        let (slot, committee) = (request.query().slot()?, request.query().committee()?);
        tracing::trace!(%slot, %committee, "a validator client asks what to attest");
        let data = self.cluster.attestation_data(slot).await?;
        Ok(match request.accepts() {
            Form::Json => Reply::json(&json!({ "data": data })),
            Form::Ssz => Reply::ssz(data.as_ssz_bytes()).with("Eth-Consensus-Version", self.fork_at(slot)?),
        })
    }

    fn fork_at(&self, slot: Slot) -> Result<&'static str, ApiError> {
        let chain = self.chain()?;
        Ok(chain.schedule.fork_name_at(chain.timing.epoch_of(slot)).as_str())
    }

    async fn produce_block(&self, slot: Slot, request: &Request) -> Result<Reply, ApiError> {
        let reveal = request.query().randao_reveal()?;
        let (index, validator) = self.cluster.proposer(slot).await?;
        let epoch = self.chain()?.timing.epoch_of(slot);
        let claimed = Claimed { index, message: Message::Randao { slot, epoch }, signature: reveal };
        let (mut good, failures) = self.sort(vec![(0, claimed)], move |_| Some(validator)).await?;
        let Some((_, partial)) = good.pop() else {
            let why = failures.into_iter().map(|(_, why)| why).next().unwrap_or_default();
            return Err(ApiError::bad(format!("randao_reveal: {why}")));
        };
        for taken in self.cluster.take(vec![partial]).await {
            taken?;
        }
        let agreed = self.cluster.block(slot).await?;
        let AgreedBlock { fork, block } = &*agreed;
        let blinded = block.is_blinded();
        let reply = match request.accepts() {
            Form::Ssz => Reply::ssz(block.to_ssz()),
            Form::Json => Reply::json(&ProducedBlock {
                version: fork.as_str(),
                execution_payload_blinded: blinded,
                execution_payload_value: "1",
                consensus_block_value: "1",
                data: block,
            }),
        };
        // What a block is worth was weighed before the members agreed; a client must not weigh again.
        Ok(reply
            .with("Eth-Consensus-Version", fork.as_str())
            .with("Eth-Execution-Payload-Blinded", blinded.to_string())
            .with("Eth-Execution-Payload-Value", "1")
            .with("Eth-Consensus-Block-Value", "1"))
    }

    async fn aggregate(&self, request: &Request) -> Result<Reply, ApiError> {
        let query = request.query();
        let (slot, root) = (query.slot()?, query.root("attestation_data_root")?);
        let aggregate = self.cluster.aggregate(slot, root, query.committee()?).await?;
        let version = self.fork_at(slot)?;
        let reply = match request.accepts() {
            Form::Json => Reply::json(&json!({"version": version, "data": aggregate})),
            Form::Ssz => Reply::ssz(aggregate.as_ssz_bytes()),
        };
        Ok(reply.with("Eth-Consensus-Version", version))
    }

    async fn contribution(&self, request: &Request) -> Result<Reply, ApiError> {
        let query = request.query();
        let (slot, subcommittee) = (query.slot()?, query.subcommittee()?);
        let block = query.root("beacon_block_root")?;
        let contribution = self.cluster.contribution(slot, subcommittee, block).await?;
        Ok(match request.accepts() {
            Form::Json => Reply::json(&json!({ "data": contribution })),
            Form::Ssz => {
                Reply::ssz(contribution.as_ssz_bytes()).with("Eth-Consensus-Version", self.fork_at(slot)?)
            }
        })
    }

    // --- What a client signed.

    async fn submit(&self, claimed: Vec<Claimed>) -> Result<Reply, ApiError> {
        if claimed.is_empty() {
            return Ok(Reply::empty());
        }
        let (good, mut failures) =
            self.sort(number(claimed), |claim| self.cluster.validator(claim.index)).await?;
        let (positions, partials): (Vec<usize>, Vec<PartialSignature>) = good.into_iter().unzip();
        if !partials.is_empty() {
            let taken = self.cluster.take(partials).await;
            let refused = positions.into_iter().zip(taken);
            failures
                .extend(refused.filter_map(|(position, taken)| Some((position, taken.err()?.to_string()))));
        }
        if failures.is_empty() {
            return Ok(Reply::empty());
        }
        failures.sort_unstable();
        tracing::warn!(refused = failures.len(), why = %failures[0].1, "a validator client sent what cannot be used");
        Err(ApiError::failures(failures))
    }

    async fn submit_block(&self, blinded: bool, request: &Request) -> Result<Reply, ApiError> {
        let fork = message::fork_of(request.consensus_version.as_deref())?;
        let claimed = message::read_block(fork, blinded, request.form()?, &request.body)?;
        let Message::Block { block, .. } = &claimed.message else {
            return Err(ApiError::bad("not a block"));
        };
        let agreed = self.cluster.block(block.slot()).await?;
        let differs = if agreed.fork != fork {
            Some("version")
        } else if agreed.block.is_blinded() != blinded {
            Some("blinded or not")
        } else if agreed.block.proposer_index() != claimed.index {
            Some("proposer")
        } else if agreed.block.message_root() != block.message_root() {
            Some("content")
        } else {
            None
        };
        if let Some(what) = differs {
            return Err(ApiError::bad(format!(
                "this is not the block that the members agreed on: {what} differs"
            )));
        }
        self.submit(vec![claimed]).await
    }

    /// Which items hold, away from the threads that serve connections.
    pub(super) async fn sort(
        &self,
        claimed: Vec<(usize, Claimed)>,
        validator: impl Fn(&Claimed) -> Option<chain::PublicKeyBytes>,
    ) -> Result<verify::Sorted, ApiError> {
        let chain = self.chain()?;
        let now = chain.timing.slot_at(wall()).unwrap_or(Slot(0));
        let newest = chain.timing.epoch_of(now).saturating_add(EPOCHS_AHEAD);
        let slots_per_epoch = chain.timing.slots_per_epoch;
        let (early, fitting): (Vec<_>, Vec<_>) = claimed.into_iter().partition(|(_, claim)| {
            let is_exit = matches!(claim.message, Message::Exit(_));
            !is_exit && claim.message.slot(slots_per_epoch).epoch(slots_per_epoch) > newest
        });
        let keys = Arc::clone(&self.keys);
        let owners: Vec<_> = fitting.iter().map(|(_, claim)| (claim.index, validator(claim))).collect();
        let verified = tokio::task::spawn_blocking(move || {
            let owners: BTreeMap<_, _> = owners.into_iter().collect();
            verify::sort(fitting, &keys, &chain, |claim| owners.get(&claim.index).copied().flatten())
        });
        let (good, mut failures) = verified.await.map_err(|_| ApiError::new(500, "Internal server error"))?;
        failures
            .extend(early.into_iter().map(|(position, _)| (position, "too far in the future".to_owned())));
        Ok((good, failures))
    }
}

#[derive(serde::Serialize)]
struct ProducedBlock<'a> {
    version: &'static str,
    execution_payload_blinded: bool,
    execution_payload_value: &'static str,
    consensus_block_value: &'static str,
    data: &'a chain::UnsignedBlock,
}

pub(super) fn number(claimed: impl IntoIterator<Item = Claimed>) -> Vec<(usize, Claimed)> {
    claimed.into_iter().enumerate().collect()
}

/// A list of indices as beacon nodes read it: clients write them as texts or as numbers.
fn indices(body: &[u8]) -> Result<Bytes, ApiError> {
    if body.is_empty() {
        return Err(ApiError::bad("empty request body"));
    }
    let list: Vec<chain::ValidatorIndex> = serde_json::from_slice(body)
        .map_err(|error| ApiError::bad(format!("failed parsing json request body: {error:.200}")))?;
    if list.len() > MAX_IDS {
        return Err(ApiError::bad(format!("more than {MAX_IDS} indices")));
    }
    Ok(crate::ask::encode(&list).into())
}

/// Which slot it is decides what is taken and what is forgotten, nothing else.
pub(super) fn wall() -> UnixMillis {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    UnixMillis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
