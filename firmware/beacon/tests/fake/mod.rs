//! A beacon node made of nothing, for faults that a real one cannot be asked to have.
//!
//! It serves one small chain on loopback. Any route can be told to be slow, to answer something else, or to answer too
//! much. What it gets submitted is kept.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "test files of two crates include this, each uses its own part"
)]

pub mod members;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use chain::{PublicKeyBytes, Root};
use serde_json::{Value, json};
use tokio::sync::broadcast;

/// What one route does instead of its duty.
#[derive(Clone)]
pub enum Fault {
    /// Says nothing for this long, then answers properly.
    Slow(Duration),
    /// Answers this.
    Says(u16, Vec<u8>),
    /// Answers properly from the n-th request on, this before.
    SaysFirst(u32, u16, Vec<u8>),
    /// Answers without end.
    Endless,
}

/// The chain it serves.
#[derive(Clone)]
pub struct FakeChain {
    pub genesis_time_s: u64,
    pub genesis_validators_root: Root,
    pub slot_ms: u64,
    pub slots_per_epoch: u64,
    pub validators: Vec<PublicKeyBytes>,
    /// First byte of all its fork versions.
    pub fork_prefix: u8,
    /// When fulu comes, if this node knows of it.
    pub fulu_epoch: Option<u64>,
    /// The software it says it is.
    pub version: String,
}

impl FakeChain {
    /// Slots of ten minutes, so that no test runs across the end of one.
    pub fn new(validators: Vec<PublicKeyBytes>) -> Self {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        Self {
            genesis_time_s: now - 1_000,
            genesis_validators_root: Root([7; 32]),
            slot_ms: 600_000,
            slots_per_epoch: 8,
            validators,
            fork_prefix: 0x20,
            fulu_epoch: None,
            version: "Fake/v1".to_owned(),
        }
    }

    pub fn now_ms(&self) -> u64 {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis();
        u64::try_from(now).unwrap()
    }

    pub fn slot_now(&self) -> u64 {
        (self.now_ms() - self.genesis_time_s * 1_000) / self.slot_ms
    }
}

pub struct Inner {
    pub chain: FakeChain,
    pub faults: BTreeMap<String, Fault>,
    pub hits: BTreeMap<String, u32>,
    pub submitted: Vec<(String, Value)>,
    /// When each of them came, unix milliseconds.
    pub submitted_at_ms: Vec<u64>,
    pub sync_distance: u64,
    /// How many peers it says it has.
    pub peers: u64,
    /// Validators' status, by position; `active_ongoing` where absent.
    pub statuses: BTreeMap<usize, String>,
    /// Added to the genesis root in every answer of attestation data: another view of the chain.
    pub source_root: Root,
    /// Number of the newest block, as far as duties depend on it.
    pub head: u64,
    /// Blocks come from a builder.
    pub blinded: bool,
    /// Blocks are given and taken in JSON alone.
    pub only_json: bool,
    /// Whether registrations go anywhere.
    pub has_builder: bool,
    /// What was said when blocks were asked for: the slot and the part after the question mark.
    pub blocks_asked: Vec<(u64, String)>,
    /// The aggregate of every committee, if any.
    pub aggregate: Option<Value>,
    /// Who has voted in which epoch: indices, by position.
    pub voted: BTreeMap<u64, Vec<usize>>,
    /// Whether there is an aggregate of whatever slot is asked for, when none is given above.
    pub makes_aggregates: bool,
}

#[derive(Clone)]
pub struct FakeNode {
    pub url: String,
    pub inner: Arc<Mutex<Inner>>,
    pub events: broadcast::Sender<String>,
    stop: Arc<tokio::sync::Notify>,
}

impl FakeNode {
    pub async fn start(chain: FakeChain) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::start_on(listener, chain)
    }

    pub fn start_on(listener: tokio::net::TcpListener, chain: FakeChain) -> Self {
        let url = format!("http://{}", listener.local_addr().unwrap());
        let inner = Inner {
            chain,
            faults: BTreeMap::new(),
            hits: BTreeMap::new(),
            submitted: Vec::new(),
            submitted_at_ms: Vec::new(),
            sync_distance: 0,
            peers: 5,
            statuses: BTreeMap::new(),
            source_root: Root([1; 32]),
            head: 0,
            blinded: false,
            only_json: false,
            has_builder: false,
            blocks_asked: Vec::new(),
            aggregate: None,
            voted: BTreeMap::new(),
            makes_aggregates: false,
        };
        let node = Self {
            url,
            inner: Arc::new(Mutex::new(inner)),
            events: broadcast::channel(64).0,
            stop: Arc::new(tokio::sync::Notify::new()),
        };
        let app = axum::Router::new().fallback(serve).with_state(node.clone());
        let stop = node.stop.clone();
        let server = axum::serve(listener, app);
        tokio::spawn(async move {
            tokio::select! {
                _ = server => {}
                () = stop.notified() => {}
            }
        });
        node
    }

    pub fn fault(&self, path_part: &str, fault: Fault) {
        self.inner.lock().unwrap().faults.insert(path_part.to_owned(), fault);
    }

    /// Nobody is there any more.
    pub fn stop(&self) {
        self.stop.notify_one();
    }

    pub fn heal(&self) {
        self.inner.lock().unwrap().faults.clear();
    }

    pub fn hits(&self, path_part: &str) -> u32 {
        self.inner
            .lock()
            .unwrap()
            .hits
            .iter()
            .filter(|(path, _)| path.contains(path_part))
            .map(|(_, n)| n)
            .sum()
    }

    pub fn submitted(&self) -> Vec<(String, Value)> {
        self.inner.lock().unwrap().submitted.clone()
    }

    pub fn emit(&self, topic: &str, data: &Value) {
        let _ = self.events.send(format!("event: {topic}\ndata: {data}\n\n"));
    }
}

impl Drop for FakeNode {
    fn drop(&mut self) {
        // The last handle outside the server itself and its router.
        if Arc::strong_count(&self.stop) <= 3 {
            self.stop.notify_waiters();
        }
    }
}

fn take_fault(node: &FakeNode, path: &str) -> Option<Fault> {
    let mut inner = node.inner.lock().unwrap();
    *inner.hits.entry(path.to_owned()).or_default() += 1;
    let key = inner.faults.keys().find(|part| path.contains(part.as_str())).cloned()?;
    match inner.faults.get_mut(&key)? {
        Fault::SaysFirst(0, ..) => None,
        Fault::SaysFirst(left, status, body) => {
            *left -= 1;
            Some(Fault::Says(*status, body.clone()))
        }
        other @ (Fault::Slow(_) | Fault::Says(..) | Fault::Endless) => Some(other.clone()),
    }
}

async fn serve(State(node): State<FakeNode>, request: Request) -> Response {
    let path = request.uri().path().to_owned();
    match take_fault(&node, &path) {
        None | Some(Fault::SaysFirst(..)) => {}
        Some(Fault::Slow(time)) => tokio::time::sleep(time).await,
        Some(Fault::Says(status, body)) => {
            return (StatusCode::from_u16(status).unwrap(), body).into_response();
        }
        Some(Fault::Endless) => {
            let chunks =
                futures::stream::repeat_with(|| Ok::<_, std::io::Error>(Bytes::from(vec![b'['; 64 * 1024])));
            return Body::from_stream(chunks).into_response();
        }
    }
    answer(&node, request, &path).await
}

fn error(code: u16, message: &str) -> Response {
    let body = json!({"message": message, "code": code}).to_string();
    (StatusCode::from_u16(code).unwrap(), body).into_response()
}

/// Where a request is not as the published API has it: a strict node refuses it. Benchmarks do without.
fn misfit(parts: &axum::http::request::Parts, path: &str, query: &str, body: &Bytes) -> Option<String> {
    let is_ssz = parts.headers.get("content-type").is_some_and(|kind| kind == "application/octet-stream");
    if cfg!(not(test)) || is_ssz {
        return None;
    }
    let query: Vec<(&str, &str)> = query.split('&').filter_map(|part| part.split_once('=')).collect();
    let posted: Option<Value> = (!body.is_empty()).then(|| serde_json::from_slice(body).ok()).flatten();
    match openapi::published(openapi::BEACON)?.request(parts.method.as_str(), path, &query, posted.as_ref()) {
        openapi::Verdict::Differs(why) => Some(why),
        openapi::Verdict::Fits | openapi::Verdict::Unlisted | openapi::Verdict::UnlistedAnswer => None,
    }
}

async fn answer(node: &FakeNode, request: Request, path: &str) -> Response {
    let (parts, body) = request.into_parts();
    let query = parts.uri.query().unwrap_or_default().to_owned();
    if path == "/eth/v1/events" {
        let receiver = node.events.subscribe();
        let stream = futures::stream::unfold(receiver, |mut receiver| async move {
            let text = receiver.recv().await.ok()?;
            Some((Ok::<_, std::io::Error>(Bytes::from(text)), receiver))
        });
        return Body::from_stream(stream).into_response();
    }
    let body = axum::body::to_bytes(body, 1 << 22).await.unwrap();
    if let Some(why) = misfit(&parts, path, &query, &body) {
        eprintln!("{} {path}: {why}", parts.method);
        return error(400, &why);
    }
    if let Some(response) = members::answer(node, &parts, path, &body) {
        return response;
    }
    let posted: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
    if parts.method == Method::POST
        && parts.headers.get("content-type").is_none_or(|v| !v.as_bytes().starts_with(b"application/json"))
    {
        return (StatusCode::UNSUPPORTED_MEDIA_TYPE, "Unsupported media type").into_response();
    }
    let mut inner = node.inner.lock().unwrap();
    let chain = inner.chain.clone();
    let root = |byte: u8| Root([byte; 32]).to_string();
    let entry = |inner: &Inner, index: usize, key: &PublicKeyBytes| {
        let status = inner.statuses.get(&index).cloned().unwrap_or("active_ongoing".to_owned());
        let activation = if status.starts_with("pending") { u64::MAX } else { 0 };
        json!({"index": index.to_string(), "balance": "1", "status": status, "validator": {
            "pubkey": key, "activation_epoch": activation.to_string(), "exit_epoch": u64::MAX.to_string()}})
    };
    let data = match path {
        "/eth/v1/beacon/genesis" => json!({
            "genesis_time": chain.genesis_time_s.to_string(),
            "genesis_validators_root": chain.genesis_validators_root,
            "genesis_fork_version": format!("0x{:02x}000089", chain.fork_prefix),
        }),
        "/eth/v1/config/spec" => {
            let mut spec = json!({
                "CONFIG_NAME": "fake", "SLOTS_PER_EPOCH": chain.slots_per_epoch.to_string(),
                "SLOT_DURATION_MS": chain.slot_ms.to_string(), "BLOB_SCHEDULE": [],
            });
            for (index, name) in ["ALTAIR", "BELLATRIX", "CAPELLA", "DENEB", "ELECTRA"].iter().enumerate() {
                spec[format!("{name}_FORK_VERSION")] =
                    json!(format!("0x{:02x}0000{}", chain.fork_prefix, 90 + index));
                spec[format!("{name}_FORK_EPOCH")] = json!("0");
            }
            if let Some(epoch) = chain.fulu_epoch {
                spec["FULU_FORK_VERSION"] = json!(format!("0x{:02x}000095", chain.fork_prefix));
                spec["FULU_FORK_EPOCH"] = json!(epoch.to_string());
            }
            spec
        }
        "/eth/v1/config/fork_schedule" => {
            let fork = |v: u32| json!({"previous_version": "0x00000000", "current_version": format!("0x{:02x}0000{v}", chain.fork_prefix), "epoch": "0"});
            (89..96).map(fork).collect()
        }
        "/eth/v1/node/version" => json!({"version": chain.version}),
        "/eth/v1/node/syncing" => json!({
            "head_slot": "1", "sync_distance": inner.sync_distance.to_string(), "is_syncing": false, "is_optimistic": false, "el_offline": false,
        }),
        "/eth/v1/node/peer_count" => json!({
            "disconnected": "1", "connecting": "0", "connected": inner.peers.to_string(), "disconnecting": "0",
        }),
        "/eth/v1/beacon/states/head/validators" => {
            let ids: Vec<String> = serde_json::from_value(posted["ids"].clone()).unwrap_or_default();
            let known = chain
                .validators
                .iter()
                .enumerate()
                .filter(|(_, key)| ids.is_empty() || ids.contains(&key.to_string()));
            known.map(|(index, key)| entry(&inner, index, key)).collect()
        }
        _ if path.starts_with("/eth/v1/beacon/states/head/validators/") => {
            let asked = path.rsplit('/').next().unwrap();
            let mut all = chain.validators.iter().enumerate();
            match all.find(|(index, key)| index.to_string() == asked || key.to_string() == asked) {
                Some((index, key)) => entry(&inner, index, key),
                None => return error(404, "Validator not found"),
            }
        }
        _ if path.starts_with("/eth/v1/validator/liveness/") => {
            let indices: Vec<String> = serde_json::from_value(posted).unwrap_or_default();
            let epoch: u64 = path.rsplit('/').next().unwrap().parse().unwrap();
            let voted = inner.voted.get(&epoch).cloned().unwrap_or_default();
            let is_live = |index: &String| voted.iter().any(|voter| voter.to_string() == *index);
            indices.iter().map(|index| json!({"index": index, "is_live": is_live(index)})).collect()
        }
        "/eth/v1/validator/attestation_data" => {
            let slot: u64 =
                query.split('&').find_map(|part| part.strip_prefix("slot=")).unwrap().parse().unwrap();
            if slot != chain.slot_now() {
                return error(
                    400,
                    &format!("invalid request: slot {slot} is not the current slot {}", chain.slot_now()),
                );
            }
            let epoch = slot / chain.slots_per_epoch;
            json!({"slot": slot.to_string(), "index": "0", "beacon_block_root": root(9),
                "source": {"epoch": epoch.saturating_sub(1).to_string(), "root": inner.source_root},
                "target": {"epoch": epoch.to_string(), "root": root(2)}})
        }
        "/eth/v1/beacon/states/head/finality_checkpoints" => {
            let checkpoint = |epoch: u64| json!({"epoch": epoch.to_string(), "root": inner.source_root});
            let epoch = chain.slot_now() / chain.slots_per_epoch;
            json!({"current_justified": checkpoint(epoch.saturating_sub(1)),
                "previous_justified": checkpoint(epoch.saturating_sub(2)), "finalized": checkpoint(epoch.saturating_sub(2))})
        }
        "/eth/v2/beacon/pool/attestations" => {
            if parts.headers.get("Eth-Consensus-Version").is_none_or(|v| v != "electra") {
                return error(400, "Eth-Consensus-Version header is required");
            }
            if posted.as_array().is_none_or(Vec::is_empty) {
                return error(400, "No data submitted");
            }
            inner.submitted.push((path.to_owned(), posted));
            inner.submitted_at_ms.push(chain.now_ms());
            return StatusCode::OK.into_response();
        }
        _ if path.starts_with("/eth/v1/validator/duties/attester/") => {
            let epoch: u64 = path.rsplit('/').next().unwrap().parse().unwrap();
            let indices: Vec<String> = serde_json::from_value(posted).unwrap_or_default();
            if indices.is_empty() {
                return error(400, "No data submitted");
            }
            let duty = |text: &String| {
                let index: u64 = text.parse().unwrap();
                let slot = epoch * chain.slots_per_epoch + (index + epoch) % chain.slots_per_epoch;
                json!({"pubkey": chain.validators[usize::try_from(index).unwrap()], "validator_index": text, "committee_index": "0",
                    "committee_length": "4", "committees_at_slot": "1", "validator_committee_index": "1", "slot": slot.to_string()})
            };
            let duties: Vec<Value> = indices.iter().map(duty).collect();
            let body =
                json!({"dependent_root": root(3), "execution_optimistic": false, "data": duties}).to_string();
            return body.into_response();
        }
        _ if path.starts_with("/eth/v1/beacon/headers/") => {
            let asked = path.rsplit('/').next().unwrap();
            if asked != root(9) && asked != root(2) {
                return error(404, "Block not found");
            }
            json!({"root": asked, "canonical": true, "header": {"message": {"slot": "1"}, "signature": "0x"}})
        }
        _ => return (StatusCode::NOT_FOUND, "404 page not found\n").into_response(),
    };
    json!({ "data": data }).to_string().into_response()
}
