//! Stands between one member and the beacon node, passes everything on and remembers what the node accepted.
//!
//! Aggregates and sync-committee contributions leave no trace of their author on the chain, so this is the only place where
//! they can be counted; and no block shows which member of a cluster handed a duty's whole signature in. It judges nothing
//! and changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use chain::{PublicKeyBytes, Slot, ValidatorIndex};
use futures::FutureExt as _;
use serde_json::Value;
use tokio::sync::oneshot;

use super::DevnetError;
use super::api::{spawn, wait};

/// A beacon node takes no more either.
pub(super) const MAX_BODY: usize = 32 * 1024 * 1024;
/// What belongs to one connection and is not passed on.
const HOP_BY_HOP: [HeaderName; 6] = [
    header::CONNECTION,
    header::TRANSFER_ENCODING,
    header::TE,
    header::TRAILER,
    header::UPGRADE,
    header::HOST,
];

/// What somebody handed in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Handed {
    /// A vote.
    Attestation,
    /// A block, blinded or whole.
    Block,
    /// A sync-committee message.
    SyncMessage,
    /// A voluntary exit, which belongs to no slot: noted under slot 0.
    Exit,
    /// A builder registration, under slot 0 too. A witness knows the key only ([`Seen::registered`]).
    Registration,
    /// An aggregate of a committee.
    Aggregate,
    /// A contribution of a subcommittee.
    Contribution {
        /// Which one.
        subcommittee: u64,
    },
}

/// One thing that the beacon node accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Accepted {
    /// The slot it is for.
    pub slot: Slot,
    /// Its author.
    pub validator: ValidatorIndex,
    /// What it is.
    pub what: Handed,
}

/// All that a witness has seen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// Accepted by the beacon node.
    pub accepted: BTreeSet<Accepted>,
    /// When the first votes of each slot arrived, in milliseconds of Unix time.
    pub attested_at_ms: BTreeMap<Slot, u64>,
    /// Builder registrations handed in, and of these accepted; repeats count again.
    pub registrations: (u64, u64),
    /// The validators of the accepted ones.
    pub registered: BTreeSet<PublicKeyBytes>,
    /// Requests that the beacon node refused, with what it said; the first few.
    pub refused: Vec<String>,
    /// How many were refused.
    pub refusals: u64,
    /// Requests that the node accepted and whose body could not be read here, so that nobody's duty counts for them.
    pub unreadable: u64,
}

/// How many refusals are kept word by word.
const KEPT_REFUSALS: usize = 20;

/// A listener of its own for one member. Dropping it closes it.
#[derive(Debug)]
pub struct Witness {
    address: SocketAddr,
    seen: Arc<Mutex<Seen>>,
    _end: oneshot::Sender<()>,
}

#[derive(Clone)]
struct Passage {
    node: Arc<str>,
    client: reqwest::Client,
    seen: Arc<Mutex<Seen>>,
}

impl Witness {
    /// Listens on loopback for one member of the beacon node at `node`, such as `http://127.0.0.1:3500`.
    ///
    /// # Errors
    /// When there is no port to listen on.
    ///
    /// # Panics
    /// When the HTTP client cannot be made, which only a broken build can cause.
    pub fn start(node: &str) -> Result<Self, DevnetError> {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder()
            .no_proxy()
            .build()
            .expect("a client without files or certificates can always be made");
        let seen = Arc::new(Mutex::new(Seen::default()));
        let passage = Passage { node: node.trim_end_matches('/').into(), client, seen: Arc::clone(&seen) };
        let listener = wait(async { tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await });
        let listener = listener.map_err(|source| DevnetError::File { path: "127.0.0.1".into(), source })?;
        let address =
            listener.local_addr().map_err(|source| DevnetError::File { path: "127.0.0.1".into(), source })?;
        let (end, ended) = oneshot::channel::<()>();
        let router = axum::Router::new().fallback(pass).with_state(passage);
        spawn(async move {
            let served = axum::serve(listener, router).with_graceful_shutdown(ended.map(|_| ()));
            // Ends with its owner; event streams that are still open end with the process.
            let _ = served.await;
        });
        Ok(Self { address, seen, _end: end })
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// The beacon API for processes on this machine.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What was seen until now.
    pub fn seen(&self) -> Seen {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Passes one request on.
async fn pass(State(passage): State<Passage>, request: Request) -> Response {
    match try_pass(&passage, request).await {
        Ok(response) => response,
        Err(problem) => (StatusCode::BAD_GATEWAY, problem).into_response(),
    }
}

async fn try_pass(passage: &Passage, request: Request) -> Result<Response, String> {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
    let kind = Kind::of(parts.method.as_str(), parts.uri.path());
    let body = axum::body::to_bytes(body, MAX_BODY).await.map_err(|error| error.to_string())?;
    let arrived_ms = now_ms();
    let answer = passage
        .client
        .request(parts.method.clone(), format!("{}{path}", passage.node))
        .headers(end_to_end(&parts.headers))
        .body(body.clone())
        .send()
        .await
        .map_err(|error| format!("the beacon node does not answer: {error}"))?;
    let status = answer.status();
    let headers = end_to_end(answer.headers());
    let body = match kind {
        None => Body::from_stream(answer.bytes_stream()),
        Some(kind) => {
            let said = answer.bytes().await.map_err(|error| error.to_string())?;
            let ssz = is_ssz(&parts.headers);
            passage.note(kind, arrived_ms, &path, Handing { body: &body, ssz }, status, &said);
            Body::from(said)
        }
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    Ok(response)
}

pub(super) fn end_to_end(headers: &HeaderMap) -> HeaderMap {
    let kept = headers.iter().filter(|(name, _)| !HOP_BY_HOP.contains(name));
    kept.map(|(name, value)| (name.clone(), value.clone())).collect()
}

fn is_ssz(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    kind.is_some_and(|kind| kind.starts_with("application/octet-stream"))
}

/// The requests that are remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Aggregates,
    Contributions,
    /// Votes, and their time.
    Attestations,
    SyncMessages,
    Block,
    Exit,
    /// Builder registrations; the builder itself tells whose they are.
    Registrations,
    /// Whatever else a member submits: only refusals matter.
    Other,
}

impl Kind {
    fn of(method: &str, path: &str) -> Option<Self> {
        if method != "POST" {
            return None;
        }
        let ends = [
            ("/validator/aggregate_and_proofs", Self::Aggregates),
            ("/validator/contribution_and_proofs", Self::Contributions),
            ("/beacon/pool/attestations", Self::Attestations),
            ("/beacon/pool/sync_committees", Self::SyncMessages),
            ("/beacon/pool/voluntary_exits", Self::Exit),
            ("/validator/register_validator", Self::Registrations),
            ("/beacon/blocks", Self::Block),
            ("/beacon/blinded_blocks", Self::Block),
        ];
        let known = ends.into_iter().find(|(end, _)| path.ends_with(end)).map(|(_, kind)| kind);
        known.or_else(|| path.contains("/beacon/pool/").then_some(Self::Other))
    }
}

/// A request's body.
#[derive(Debug, Clone, Copy)]
struct Handing<'a> {
    body: &'a [u8],
    /// Bytes of SSZ instead of JSON.
    ssz: bool,
}

impl Passage {
    fn note(
        &self,
        kind: Kind,
        arrived_ms: u64,
        path: &str,
        handing: Handing<'_>,
        status: StatusCode,
        said: &Bytes,
    ) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if !status.is_success() {
            seen.refusals += 1;
            if seen.refused.len() < KEPT_REFUSALS {
                let said: String = String::from_utf8_lossy(said).chars().take(300).collect();
                seen.refused.push(format!("{arrived_ms} {path}: {} {said}", status.as_u16()));
            }
        }
        if kind == Kind::Attestations {
            for slot in slots_of_votes(handing.body) {
                seen.attested_at_ms.entry(slot).or_insert(arrived_ms);
            }
        }
        if kind == Kind::Registrations {
            let count = length_of_list(handing.body);
            seen.registrations.0 += count;
            if status.is_success() {
                seen.registrations.1 += count;
                seen.registered.extend(keys_of_registrations(handing.body));
            }
        }
        let Some(entries) = entries(kind, handing) else {
            seen.unreadable += u64::from(status.is_success());
            return;
        };
        let refused = refused_positions(status, said, entries.len());
        let good = entries.into_iter().enumerate().filter(|(position, _)| !refused.contains(position));
        seen.accepted.extend(good.map(|(_, entry)| entry));
    }
}

/// What a request hands in; nothing for kinds of which only refusals matter, none when it cannot be read.
fn entries(kind: Kind, handing: Handing<'_>) -> Option<Vec<Accepted>> {
    let read: fn(&Value) -> Option<Accepted> = match kind {
        Kind::Other | Kind::Registrations => return Some(Vec::new()),
        Kind::Block => return Some(vec![block(handing)?]),
        Kind::Exit => {
            let exit: Value = serde_json::from_slice(handing.body).ok()?;
            let validator = number(&exit, "/message/validator_index").map(ValidatorIndex)?;
            return Some(vec![Accepted { slot: Slot(0), validator, what: Handed::Exit }]);
        }
        Kind::Attestations => |entry| {
            Some(Accepted {
                slot: number(entry, "/data/slot").map(Slot)?,
                validator: number(entry, "/attester_index").map(ValidatorIndex)?,
                what: Handed::Attestation,
            })
        },
        Kind::SyncMessages => |entry| {
            Some(Accepted {
                slot: number(entry, "/slot").map(Slot)?,
                validator: number(entry, "/validator_index").map(ValidatorIndex)?,
                what: Handed::SyncMessage,
            })
        },
        Kind::Aggregates => |entry| {
            Some(Accepted {
                slot: number(entry, "/message/aggregate/data/slot").map(Slot)?,
                validator: number(entry, "/message/aggregator_index").map(ValidatorIndex)?,
                what: Handed::Aggregate,
            })
        },
        Kind::Contributions => |entry| {
            Some(Accepted {
                slot: number(entry, "/message/contribution/slot").map(Slot)?,
                validator: number(entry, "/message/aggregator_index").map(ValidatorIndex)?,
                what: Handed::Contribution {
                    subcommittee: number(entry, "/message/contribution/subcommittee_index")?,
                },
            })
        },
    };
    let body: Value = serde_json::from_slice(handing.body).ok()?;
    body.as_array()?.iter().map(read).collect()
}

/// Whose block, and of which slot. A whole block comes with its blobs, a blinded one alone.
fn block(handing: Handing<'_>) -> Option<Accepted> {
    let (slot, proposer) = if handing.ssz {
        let message = message_of_ssz(handing.body)?;
        (eight_bytes(message, 0)?, eight_bytes(message, 8)?)
    } else {
        let body: Value = serde_json::from_slice(handing.body).ok()?;
        let block = body.get("signed_block").unwrap_or(&body);
        (number(block, "/message/slot")?, number(block, "/message/proposer_index")?)
    };
    Some(Accepted { slot: Slot(slot), validator: ValidatorIndex(proposer), what: Handed::Block })
}

/// The message of a signed block, by the offsets that SSZ puts in front of parts of any length: a signed block begins with
/// the offset of its message and the signature (4 + 96 bytes), one with blobs with three offsets (12 bytes).
fn message_of_ssz(body: &[u8]) -> Option<&[u8]> {
    const SIGNED_BLOCK: usize = 4 + 96;
    const WITH_BLOBS: usize = 3 * 4;
    let offset = |bytes: &[u8]| {
        let first: [u8; 4] = bytes.get(..4)?.try_into().ok()?;
        usize::try_from(u32::from_le_bytes(first)).ok()
    };
    let signed = if offset(body)? == WITH_BLOBS { body.get(WITH_BLOBS..)? } else { body };
    if offset(signed)? == SIGNED_BLOCK { signed.get(SIGNED_BLOCK..) } else { None }
}

fn eight_bytes(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

fn keys_of_registrations(body: &[u8]) -> BTreeSet<PublicKeyBytes> {
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    let key = |entry: &Value| {
        let key = hex::decode(entry.pointer("/message/pubkey")?.as_str()?.strip_prefix("0x")?).ok()?;
        Some(PublicKeyBytes(key.try_into().ok()?))
    };
    body.as_array().into_iter().flatten().filter_map(key).collect()
}

/// The slots that a list of votes is for.
fn slots_of_votes(body: &[u8]) -> BTreeSet<Slot> {
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    let votes = body.as_array().into_iter().flatten();
    votes.filter_map(|vote| number(vote, "/data/slot").map(Slot)).collect()
}

fn length_of_list(body: &[u8]) -> u64 {
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    body.as_array().map_or(0, |list| u64::try_from(list.len()).unwrap_or(u64::MAX))
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn number(value: &Value, pointer: &str) -> Option<u64> {
    value.pointer(pointer)?.as_str()?.parse().ok()
}

/// Which entries of a list the node refused: none, those that its answer names, or all of them.
fn refused_positions(status: StatusCode, said: &[u8], entries: usize) -> BTreeSet<usize> {
    if status.is_success() {
        return BTreeSet::new();
    }
    let answer: Option<Value> = serde_json::from_slice(said).ok();
    let failures = answer.as_ref().and_then(|answer| answer["failures"].as_array());
    let named: Option<BTreeSet<usize>> = failures.and_then(|failures| {
        let index = |failure: &Value| {
            let index = &failure["index"];
            index
                .as_u64()
                .or_else(|| index.as_str()?.parse().ok())
                .and_then(|index| usize::try_from(index).ok())
        };
        failures.iter().map(index).collect()
    });
    named.filter(|named| !named.is_empty()).unwrap_or_else(|| (0..entries).collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn json_body(body: &str) -> Handing<'_> {
        Handing { body: body.as_bytes(), ssz: false }
    }

    fn contribution(slot: &str, author: &str, subcommittee: &str) -> Value {
        json!({"message": {
            "aggregator_index": author,
            "contribution": {"slot": slot, "subcommittee_index": subcommittee},
        }})
    }

    #[test]
    fn a_list_that_is_refused_in_part_counts_in_part() {
        let failures = json!({"code": 400, "failures": [{"index": 1, "message": "no"}]}).to_string();
        assert_eq!(refused_positions(StatusCode::BAD_REQUEST, failures.as_bytes(), 3), [1].into());
        assert_eq!(refused_positions(StatusCode::BAD_REQUEST, b"no", 3), [0, 1, 2].into());
        assert_eq!(refused_positions(StatusCode::OK, b"", 3), BTreeSet::new());
    }

    #[test]
    fn contributions_are_told_apart_by_subcommittee() {
        let body = json!([contribution("9", "3", "0"), contribution("9", "3", "2")]).to_string();
        let found = entries(Kind::Contributions, json_body(&body)).unwrap();
        let what: Vec<_> = found.iter().map(|entry| entry.what).collect();
        assert_eq!(
            what,
            [Handed::Contribution { subcommittee: 0 }, Handed::Contribution { subcommittee: 2 }]
        );
        assert_eq!((found[0].slot, found[0].validator), (Slot(9), ValidatorIndex(3)));
        assert!(entries(Kind::Aggregates, json_body(&body)).is_none());
    }

    #[test]
    fn everything_passes_and_what_the_node_accepts_is_remembered() {
        let node = axum::Router::new().fallback(|request: Request| async move {
            let path = request.uri().to_string();
            let body = axum::body::to_bytes(request.into_body(), MAX_BODY).await.unwrap_or_default();
            let status = if path.contains("v1") { StatusCode::OK } else { StatusCode::BAD_REQUEST };
            (status, [("x-node", "yes")], format!("{path} {}", body.len()))
        });
        let listener = wait(async { tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await }).unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        spawn(async move {
            let _ = axum::serve(listener, node).await;
        });
        let witness = Witness::start(&url).unwrap();
        let body = json!([contribution("9", "3", "0")]).to_string();
        let ask = |path: &str| {
            let request = reqwest::Client::builder().no_proxy().build().unwrap();
            let request = request.post(format!("{}{path}", witness.url())).body(body.clone());
            wait(async move {
                let response = request.send().await.unwrap();
                (response.status().as_u16(), response.headers().clone(), response.text().await.unwrap())
            })
        };
        let (status, headers, text) = ask("/eth/v1/validator/contribution_and_proofs?x=1");
        assert_eq!((status, headers["x-node"].to_str().unwrap()), (200, "yes"));
        assert_eq!(text, format!("/eth/v1/validator/contribution_and_proofs?x=1 {}", body.len()));
        assert_eq!(witness.seen().accepted.len(), 1);
        assert_eq!(ask("/eth/v2/beacon/pool/attestations").0, 400);
        let seen = witness.seen();
        assert_eq!((seen.accepted.len(), seen.refusals, seen.unreadable), (1, 1, 0));
        // As votes they cannot be read.
        assert_eq!(ask("/eth/v1/beacon/pool/attestations").0, 200);
        assert_eq!(witness.seen().unreadable, 1);
    }

    #[test]
    fn registrations_are_counted_one_by_one() {
        assert_eq!(Kind::of("POST", "/eth/v1/validator/register_validator"), Some(Kind::Registrations));
        assert_eq!(length_of_list(b"[{}, {}]"), 2);
        assert_eq!((length_of_list(b"{}"), length_of_list(b"[")), (0, 0));
        let key = format!("0x{}", "ab".repeat(48));
        let body = json!([{"message": {"pubkey": key}}, {"message": {"pubkey": "0xab"}}, 1]).to_string();
        assert_eq!(keys_of_registrations(body.as_bytes()), [PublicKeyBytes([0xab; 48])].into());
    }

    #[test]
    fn votes_messages_and_exits_tell_whose_they_are() {
        let one = |kind, body: Value| entries(kind, json_body(&body.to_string()));
        let vote = json!([{"committee_index": "0", "attester_index": "4", "data": {"slot": "12"}}]);
        let message = json!([{"slot": "12", "validator_index": "4", "beacon_block_root": "0x"}]);
        let exit = json!({"message": {"epoch": "3", "validator_index": "4"}, "signature": "0x"});
        for (kind, body, slot, what) in [
            (Kind::Attestations, vote, 12, Handed::Attestation),
            (Kind::SyncMessages, message, 12, Handed::SyncMessage),
            (Kind::Exit, exit, 0, Handed::Exit),
        ] {
            let expected = Accepted { slot: Slot(slot), validator: ValidatorIndex(4), what };
            assert_eq!(one(kind, body), Some(vec![expected]));
        }
        let of = |path: &str| Kind::of("POST", path);
        assert_eq!(of("/eth/v2/beacon/pool/attestations"), Some(Kind::Attestations));
        assert_eq!(of("/eth/v1/beacon/pool/sync_committees"), Some(Kind::SyncMessages));
        assert_eq!(of("/eth/v1/beacon/pool/voluntary_exits"), Some(Kind::Exit));
        assert_eq!(of("/eth/v1/beacon/pool/proposer_slashings"), Some(Kind::Other));
        assert_eq!(Kind::of("GET", "/eth/v1/beacon/pool/voluntary_exits"), None);
    }

    #[test]
    fn a_block_tells_its_proposer_in_every_form_it_is_handed_in() {
        let expected = Accepted { slot: Slot(9), validator: ValidatorIndex(7), what: Handed::Block };
        let message = json!({"message": {"slot": "9", "proposer_index": "7"}});
        for body in [message.clone(), json!({"signed_block": message, "blobs": []})] {
            assert_eq!(block(json_body(&body.to_string())), Some(expected));
        }
        let mut alone = 100_u32.to_le_bytes().to_vec();
        alone.extend([0xee; 96]);
        alone.extend(9_u64.to_le_bytes());
        alone.extend(7_u64.to_le_bytes());
        let mut with_blobs = 12_u32.to_le_bytes().to_vec();
        with_blobs.extend([0; 8]);
        with_blobs.extend(&alone);
        for body in [&alone, &with_blobs] {
            assert_eq!(block(Handing { body, ssz: true }), Some(expected));
            // Cut off anywhere it is nobody's block.
            assert!((0..body.len()).all(|end| block(Handing { body: &body[..end], ssz: true }).is_none()));
        }
        for path in ["/eth/v2/beacon/blocks", "/eth/v2/beacon/blinded_blocks"] {
            assert_eq!(Kind::of("POST", path), Some(Kind::Block));
        }
    }

    #[test]
    fn votes_tell_their_slot() {
        let body =
            json!([{"committee_index": "0", "attester_index": "4", "data": {"slot": "12"}}]).to_string();
        assert_eq!(slots_of_votes(body.as_bytes()), [Slot(12)].into());
        assert_eq!(slots_of_votes(b"[{}, 1]"), BTreeSet::new());
    }
}
