//! A block builder and its relay in one, for the local chain: what a beacon node speaks to with `--http-mev-relay`.
//!
//! It makes real payloads: the beacon node's `payload_attributes` events tell it what the next block must be like, geth
//! builds (`testing_buildBlockV1`, which takes transactions and extra data and leaves geth's head alone), and a transfer to
//! the proposer stands in the block, as builders pay. It offers only to validators whose registration it holds, each checked
//! against the validator's own key, and shows a payload to whoever brings the signed blinded block for it. Its blocks carry
//! [`MARK`], so that the chain itself tells who built a block. A tool of the harness, in no image.

mod payload;
mod payment;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use chain::deposit::registration_signing_root;
use chain::{
    Bytes32, PublicKeyBytes, SignedBlindedBeaconBlock, SignedValidatorRegistration, Slot,
    ValidatorRegistration, domain,
};
use cluster::IdentityKey;
use futures::StreamExt as _;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use threshold::SecretKey;
use tokio::sync::oneshot;
use zeroize::Zeroizing;

use super::DevnetError;
use super::api::{spawn, wait};
use super::genesis::{CHAIN_ID, GENESIS_FORK_VERSION};
use super::witness::MAX_BODY;
use payload::{Announced, Built};
pub use payload::{BuilderBid, SignedBuilderBid};
use payment::Transfer;

/// The extra data of every payload that this builder makes.
pub const MARK: &str = "hearth local builder";
/// The gas limit of the local chain, which registrations must ask for: geth takes one for all, and the beacon node refuses
/// an offer whose limit is not the registration's.
pub const GAS_LIMIT: u64 = 60_000_000;
/// Every so many slots it offers nothing, as builders do now and then, so that a cluster that takes offers is seen to make its
/// beacon node's own blocks too.
const RESTS_EVERY: u64 = 3;
/// What the proposer is paid for each block, in wei: far above what local blocks without transactions are worth.
const BID_WEI: u64 = 10_000_000_000_000_000;
/// Above the base fee, which falls from one gwei.
const GAS_PRICE: u64 = 10_000_000_000;
/// Slots whose announcements and offers are kept.
const KEPT: usize = 64;
/// The longest line of the event stream that is read; withdrawals make it some kilobytes.
const MAX_EVENT: usize = 1024 * 1024;
/// Why there is no offer in a slot of rest; no problem.
const RESTS: &str = "the builder rests in this slot";
/// How many refusals are kept word by word.
const KEPT_WORDS: usize = 20;
/// geth answers in milliseconds, and the beacon node waits one second for an offer.
const TIMEOUT: Duration = Duration::from_secs(10);

/// What the builder has seen and done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BuilderSeen {
    /// The newest registration of each validator, all signed by the validator's own key.
    pub registrations: BTreeMap<PublicKeyBytes, ValidatorRegistration>,
    /// How many signed registrations arrived, repeats included.
    pub registrations_taken: u64,
    /// How many were refused because the validator's key had not signed them.
    pub registrations_refused: u64,
    /// Offers made, one for each slot and parent.
    pub offers: u64,
    /// Payloads shown for a signed blinded block, each once.
    pub revealed: u64,
    /// Why an offer or a payload was not given; the first few.
    pub problems: Vec<String>,
}

/// A running builder. Dropping it ends it.
#[derive(Debug)]
pub struct Builder {
    address: SocketAddr,
    seen: Arc<Mutex<BuilderSeen>>,
    _end: oneshot::Sender<()>,
}

/// Whether the builder has an offer for this slot, as far as it is up to the builder.
pub fn offers_in(slot: Slot) -> bool {
    !slot.0.is_multiple_of(RESTS_EVERY)
}

/// The account that pays proposers; funded in genesis, worth nothing anywhere.
pub(super) fn purse() -> IdentityKey {
    let secret: [u8; 32] = Sha256::digest(b"builder of the local chain").into();
    IdentityKey::from_bytes(Zeroizing::new(secret)).expect("this hash is a number below the curve's order")
}

/// The address of [`purse`], which is the fee recipient of the builder's payloads as well.
pub(super) fn purse_address() -> String {
    format!("0x{}", hex::encode(purse().public_key().address()))
}

impl Builder {
    /// Listens on loopback. `node` and `execution` are the addresses of the beacon API and of geth's JSON-RPC; neither must
    /// answer yet.
    ///
    /// # Errors
    /// When there is no port to listen on.
    ///
    /// # Panics
    /// When the HTTP client cannot be made, which only a broken build can cause.
    pub fn start(node: &str, execution: &str) -> Result<Self, DevnetError> {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder()
            .no_proxy()
            .build()
            .expect("a client without files or certificates can always be made");
        let seen = Arc::new(Mutex::new(BuilderSeen::default()));
        let works = Arc::new(Works {
            node: node.trim_end_matches('/').to_owned(),
            execution: execution.to_owned(),
            client,
            key: SecretKey::random(&mut rand::rng()),
            purse: purse(),
            seen: Arc::clone(&seen),
            announced: Mutex::new(BTreeMap::new()),
            offers: tokio::sync::Mutex::new(BTreeMap::new()),
        });
        let port = |source| DevnetError::File { path: "127.0.0.1".into(), source };
        let listener = wait(async { tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await });
        let listener = listener.map_err(port)?;
        let address = listener.local_addr().map_err(port)?;
        let (end, ended) = oneshot::channel::<()>();
        let router = Router::new()
            .route("/eth/v1/builder/status", get(async || StatusCode::OK))
            .route("/eth/v1/builder/validators", post(register))
            .route("/eth/v1/builder/header/{slot}/{parent_hash}/{pubkey}", get(header))
            .route("/eth/v1/builder/blinded_blocks", post(reveal))
            .route("/eth/v2/builder/blinded_blocks", post(publish))
            .layer(DefaultBodyLimit::max(MAX_BODY))
            .with_state(Arc::clone(&works));
        spawn(async move {
            let served = axum::serve(listener, router);
            tokio::select! {
                _ = ended => {}
                () = follow(works) => {}
                _ = served.into_future() => {}
            }
        });
        Ok(Self { address, seen, _end: end })
    }

    /// What the beacon node is told (`--http-mev-relay`).
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What was seen and done until now.
    pub fn seen(&self) -> BuilderSeen {
        locked(&self.seen).clone()
    }
}

/// A panic elsewhere leaves a list that is still worth reading.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What all requests share.
struct Works {
    node: String,
    execution: String,
    client: reqwest::Client,
    /// Signs offers.
    key: SecretKey,
    purse: IdentityKey,
    seen: Arc<Mutex<BuilderSeen>>,
    announced: Mutex<BTreeMap<(u64, Bytes32), Announced>>,
    /// Held while geth builds, so that all members of a cluster get the same offer for a slot.
    offers: tokio::sync::Mutex<BTreeMap<(u64, Bytes32), Offer>>,
}

/// An offer that was made.
#[derive(Clone)]
struct Offer {
    built: Arc<Built>,
    version: String,
    answer: Value,
    shown: bool,
}

impl Works {
    fn problem(&self, what: String) {
        let mut seen = locked(&self.seen);
        if seen.problems.len() < KEPT_WORDS {
            seen.problems.push(what);
        }
    }

    /// Takes a registration when the validator's own key signed it.
    fn take(&self, signed: &SignedValidatorRegistration) -> Result<(), String> {
        let key = signed.message.pubkey;
        let root = registration_signing_root(&signed.message, GENESIS_FORK_VERSION);
        let checked = threshold::verify_bytes(&key, &root.0, &signed.signature);
        let mut seen = locked(&self.seen);
        match checked {
            Ok(()) => {
                seen.registrations_taken += 1;
                seen.registrations.insert(key, signed.message);
                Ok(())
            }
            Err(error) => {
                seen.registrations_refused += 1;
                Err(format!("the registration of {key} is not signed by that key: {error}"))
            }
        }
    }

    /// The offer for a slot; made the first time it is asked for.
    async fn offer(&self, slot: u64, parent: Bytes32, validator: PublicKeyBytes) -> Result<Value, String> {
        let registered = locked(&self.seen).registrations.get(&validator).copied();
        let registration = registered.ok_or_else(|| format!("{validator} is not registered"))?;
        if !offers_in(Slot(slot)) {
            return Err(RESTS.to_owned());
        }
        let mut offers = self.offers.lock().await;
        if let Some(offer) = offers.get(&(slot, parent)) {
            return Ok(offer.answer.clone());
        }
        let announced = locked(&self.announced).get(&(slot, parent)).cloned();
        let announced = announced
            .ok_or_else(|| format!("slot {slot} on {parent} was not announced by the beacon node"))?;
        let built = self.build(&announced, &registration).await?;
        if built.payload.gas_limit != registration.gas_limit {
            return Err(format!(
                "{validator} registered for a gas limit of {}, and geth builds with {}",
                registration.gas_limit, built.payload.gas_limit
            ));
        }
        let bid = built.bid(BID_WEI, self.key.public_key().to_bytes())?;
        // By the rules of builder-specs: no fork and no chain but the genesis version goes into the domain.
        let domain = domain::genesis_domain(domain::APPLICATION_BUILDER, GENESIS_FORK_VERSION);
        let signature = self.key.sign(&domain::signing_root(&bid, domain).0).to_bytes();
        let answer =
            json!({"version": announced.version, "data": SignedBuilderBid { message: bid, signature }});
        let offer = Offer {
            built: Arc::new(built),
            version: announced.version,
            answer: answer.clone(),
            shown: false,
        };
        offers.insert((slot, parent), offer);
        while offers.len() > KEPT {
            offers.pop_first();
        }
        locked(&self.seen).offers += 1;
        Ok(answer)
    }

    async fn build(
        &self,
        announced: &Announced,
        registration: &ValidatorRegistration,
    ) -> Result<Built, String> {
        let own = purse_address();
        let nonce = self.ask("eth_getTransactionCount", json!([own, "latest"])).await?;
        let nonce =
            nonce.as_str().and_then(|text| u64::from_str_radix(text.trim_start_matches("0x"), 16).ok());
        let transfer = Transfer {
            nonce: nonce.ok_or("geth's transaction count is no number")?,
            gas_price: GAS_PRICE,
            to: registration.fee_recipient.0,
            value: BID_WEI,
        };
        let payment = format!("0x{}", hex::encode(transfer.signed(CHAIN_ID, &self.purse)));
        let attributes = announced.attributes.for_engine(&own);
        let mark = format!("0x{}", hex::encode(MARK));
        let parameters = json!([announced.parent_hash, attributes, [payment], mark]);
        Built::read(&self.ask("testing_buildBlockV1", parameters).await?)
    }

    /// One question to geth.
    async fn ask(&self, method: &str, parameters: Value) -> Result<Value, String> {
        let body = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": parameters});
        let request = self.client.post(&self.execution).timeout(TIMEOUT).json(&body);
        let said = |error: reqwest::Error| format!("geth does not answer {method}: {error}");
        let answer: Value = request.send().await.map_err(said)?.json().await.map_err(said)?;
        match answer.get("result") {
            Some(result) if !result.is_null() => Ok(result.clone()),
            _ => Err(format!("geth refuses {method}: {}", answer["error"]["message"])),
        }
    }

    /// The offer that a signed blinded block took, and whether it is shown for the first time.
    async fn taken(&self, block: &SignedBlindedBeaconBlock) -> Result<(Offer, bool), String> {
        let header = &block.message.body.execution_payload_header;
        let key = (block.message.slot.0, header.parent_hash);
        let mut offers = self.offers.lock().await;
        let offer = offers.get_mut(&key).ok_or_else(|| format!("nothing was offered for slot {}", key.0))?;
        if offer.built.header() != *header {
            return Err(format!("the blinded block of slot {} has not the header that was offered", key.0));
        }
        let first = !offer.shown;
        offer.shown = true;
        if first {
            locked(&self.seen).revealed += 1;
        }
        Ok((offer.clone(), first))
    }
}

/// Remembers what the beacon node announces, for as long as somebody waits for this.
async fn follow(works: Arc<Works>) {
    let url = format!("{}/eth/v1/events?topics=payload_attributes", works.node);
    loop {
        if let Ok(answer) = works.client.get(&url).header("accept", "text/event-stream").send().await
            && answer.status().is_success()
        {
            let mut pieces = answer.bytes_stream();
            let mut line = Vec::new();
            while let Some(Ok(piece)) = pieces.next().await {
                for byte in piece {
                    match byte {
                        b'\n' => {
                            works.hear(&line);
                            line.clear();
                        }
                        _ if line.len() < MAX_EVENT => line.push(byte),
                        _ => {}
                    }
                }
            }
        }
        // The beacon node starts after this, and may be started again.
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

impl Works {
    fn hear(&self, line: &[u8]) {
        let Some(data) = line.strip_prefix(b"data:") else { return };
        let Some(announced) = Announced::read(data) else { return };
        let mut all = locked(&self.announced);
        all.insert((announced.slot, announced.parent_hash), announced);
        while all.len() > KEPT {
            all.pop_first();
        }
    }
}

type Shared = State<Arc<Works>>;

fn refused(code: StatusCode, why: &str) -> Response {
    (code, axum::Json(json!({"code": code.as_u16(), "message": why}))).into_response()
}

async fn register(State(works): Shared, body: Bytes) -> Response {
    let Ok(registrations) = serde_json::from_slice::<Vec<SignedValidatorRegistration>>(&body) else {
        return refused(StatusCode::BAD_REQUEST, "not a list of signed registrations");
    };
    let problems: Vec<String> =
        registrations.iter().filter_map(|registration| works.take(registration).err()).collect();
    match problems.into_iter().next() {
        None => StatusCode::OK.into_response(),
        Some(problem) => {
            works.problem(problem.clone());
            refused(StatusCode::BAD_REQUEST, &problem)
        }
    }
}

async fn header(
    State(works): Shared,
    Path((slot, parent, validator)): Path<(u64, String, String)>,
) -> Response {
    let (Ok(parent), Ok(validator)) = (parent.parse(), validator.parse()) else {
        return refused(StatusCode::BAD_REQUEST, "not a hash and a public key");
    };
    match works.offer(slot, parent, validator).await {
        Ok(answer) => axum::Json(answer).into_response(),
        Err(problem) => {
            if problem != RESTS {
                works.problem(format!("no offer: {problem}"));
            }
            StatusCode::NO_CONTENT.into_response()
        }
    }
}

/// Electra: the beacon node gets the payload and publishes the block.
async fn reveal(State(works): Shared, body: Bytes) -> Response {
    let Ok(block) = serde_json::from_slice::<SignedBlindedBeaconBlock>(&body) else {
        return refused(StatusCode::BAD_REQUEST, "not a signed blinded block");
    };
    match works.taken(&block).await {
        Ok((offer, _)) => axum::Json(json!({
            "version": offer.version,
            "data": {"execution_payload": offer.built.payload, "blobs_bundle": offer.built.blobs},
        }))
        .into_response(),
        Err(problem) => {
            works.problem(problem.clone());
            refused(StatusCode::BAD_REQUEST, &problem)
        }
    }
}

/// From Fulu on: the builder publishes the block itself and only says that it will.
async fn publish(State(works): Shared, headers: HeaderMap, body: Bytes) -> Response {
    let read = (serde_json::from_slice::<SignedBlindedBeaconBlock>(&body), serde_json::from_slice(&body));
    let (Ok(block), Ok::<Value, _>(json)) = read else {
        return refused(StatusCode::BAD_REQUEST, "not a signed blinded block");
    };
    let (offer, first) = match works.taken(&block).await {
        Ok(taken) => taken,
        Err(problem) => {
            works.problem(problem.clone());
            return refused(StatusCode::BAD_REQUEST, &problem);
        }
    };
    // Every member of a cluster brings the same block; one publication is enough.
    if first {
        let version = headers.get("eth-consensus-version").and_then(|version| version.to_str().ok());
        let version = version.unwrap_or(&offer.version).to_owned();
        let Some(contents) = offer.built.unblind(&json) else {
            return refused(StatusCode::BAD_REQUEST, "a blinded block without a header in it");
        };
        tokio::spawn(async move {
            let request = works
                .client
                .post(format!("{}/eth/v2/beacon/blocks", works.node))
                .timeout(TIMEOUT)
                .header("eth-consensus-version", version)
                .json(&contents);
            let said = match request.send().await {
                Ok(answer) if answer.status().is_success() => return,
                Ok(answer) => format!("{}: {}", answer.status(), answer.text().await.unwrap_or_default()),
                Err(error) => error.to_string(),
            };
            works.problem(format!("the block of slot {} was not published: {said}", block.message.slot));
        });
    }
    StatusCode::ACCEPTED.into_response()
}

#[cfg(test)]
mod tests;
