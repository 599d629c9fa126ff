//! The signing socket: the Web3Signer API.

use std::sync::Arc;

use axum::{
    Json, Router,
    body::Bytes,
    extract::{DefaultBodyLimit, FromRequestParts, Path, State},
    http::{HeaderMap, StatusCode, header, request::Parts},
    response::{IntoResponse as _, Response},
    routing::{get, post},
};
use chain::PublicKeyBytes;
use ipc::{
    SignAnswer, SignRequest,
    folder::{
        IdentityAnswer, IdentityGiven, IdentityToSeal, OPEN_IDENTITY_PATH, SEAL_IDENTITY_PATH, SealedIdentity,
    },
    web3signer::{
        CHAIN_MARKS_PATH, ChainMark, MAX_SIGNED_AT_ONCE, PUBLIC_KEYS_PATH, REMEMBERED_PATH, SEEN_PATH,
        SIGN_MANY_PATH, SeenAnswer, SeenSignature, SignGroup, SignOutcome, UPCHECK_PATH,
    },
};

use crate::{refusal::Refusal, signer::Signer};

/// What a lock of a thousand validators has four times over.
const MAX_IDENTITY_PARTS: usize = 400_000;

/// The router.
pub(crate) fn router(signer: Arc<Signer>) -> Router {
    Router::new()
        .route("/api/v1/eth2/sign/{key}", post(sign))
        .route(SIGN_MANY_PATH, post(sign_many))
        .route(SEEN_PATH, post(seen))
        .route(REMEMBERED_PATH, post(remembered))
        .route(CHAIN_MARKS_PATH, post(chain_marks))
        .route(PUBLIC_KEYS_PATH, get(public_keys))
        .route(UPCHECK_PATH, get(up))
        .route(
            "/v1/identities/{lock_hash}",
            get(identity).put(keep_identity).layer(DefaultBodyLimit::max(crate::MAX_LARGE_BYTES)),
        )
        .route(SEAL_IDENTITY_PATH, post(seal_identity))
        .route(OPEN_IDENTITY_PATH, post(open_identity))
        .merge(crate::ceremony::sign_routes())
        .merge(crate::edit::sign_routes())
        .with_state(signer)
}

/// What a client outside the box may ask: the standard's routes, and none that are for `dv-node` alone.
pub(crate) fn remote_routes(signer: Arc<Signer>) -> Router {
    Router::new()
        .route("/api/v1/eth2/sign/{key}", post(sign))
        .route(PUBLIC_KEYS_PATH, get(public_keys))
        .route(UPCHECK_PATH, get(up))
        .with_state(signer)
}

async fn sign(
    State(signer): State<Arc<Signer>>,
    Path(key): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Refusal> {
    let key = parse_key(&key)?;
    let request: SignRequest = serde_json::from_slice(&body).map_err(unreadable)?;
    let signature = signer.sign(key, &request).await?;
    Ok(if accepts(&headers, "text/plain") && !accepts(&headers, "application/json") {
        signature.to_string().into_response()
    } else {
        Json(SignAnswer { signature }).into_response()
    })
}

/// A life sign: Web3Signer's word, or in JSON (EIP-3030) for who asks for that.
async fn up(headers: HeaderMap) -> Response {
    if accepts(&headers, "application/json") {
        return Json(serde_json::json!({ "status": "OK" })).into_response();
    }
    "OK".into_response()
}

/// Whether the request names this kind of answer.
fn accepts(headers: &HeaderMap, kind: &str) -> bool {
    let named = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    named
        .flat_map(|value| value.split(','))
        .any(|part| part.split(';').next().is_some_and(|name| name.trim().eq_ignore_ascii_case(kind)))
}

/// The parser's own words would quote what it found, at any length.
fn unreadable(error: serde_json::Error) -> Refusal {
    Refusal::Malformed(format!("not as expected at line {}, column {}", error.line(), error.column()))
}

/// The identity key that came in a folder, for `dv-node`, whose key it is.
async fn identity(State(signer): State<Arc<Signer>>, Path(lock_hash): Path<String>) -> Response {
    match signer.identity(&lock_hash) {
        Ok(identity_key) => Json(IdentityAnswer { identity_key }).into_response(),
        Err(problem) => ipc::server::refusal(crate::api::control::status_of(&problem), problem),
    }
}

/// `dv-node` keeps its identity keys sealed by this process.
async fn seal_identity(
    State(signer): State<Arc<Signer>>,
    ipc::server::Body(wanted): ipc::server::Body<IdentityToSeal>,
) -> Response {
    match signer.seal_for_node(&wanted.identity_key) {
        Ok(sealed) => Json(SealedIdentity { sealed }).into_response(),
        Err(problem) => ipc::server::refusal(crate::api::control::status_of(&problem), problem),
    }
}

async fn open_identity(
    State(signer): State<Arc<Signer>>,
    ipc::server::Body(kept): ipc::server::Body<SealedIdentity>,
) -> Response {
    match signer.open_for_node(&kept.sealed) {
        Ok(identity_key) => Json(IdentityAnswer { identity_key }).into_response(),
        Err(problem) => ipc::server::refusal(crate::api::control::status_of(&problem), problem),
    }
}

/// `dv-node` hands in the identity key of a cluster that it joined, so that backups and moves have it.
async fn keep_identity(
    State(signer): State<Arc<Signer>>,
    Path(lock_hash): Path<String>,
    turn: Turn,
    ipc::server::CountedBody(given): ipc::server::CountedBody<IdentityGiven, MAX_IDENTITY_PARTS>,
) -> Response {
    // Its turn lasts until the work is done, whether the caller waits for it or not.
    let keeping = tokio::spawn(async move {
        let _turn = turn;
        signer.take_identity(&lock_hash, &given.identity_key, given.lock).await
    });
    match keeping.await.unwrap_or_else(|_| Err(crate::folder::fault())) {
        Ok(()) => Json(serde_json::json!({})).into_response(),
        Err(problem) => ipc::server::refusal(crate::api::control::status_of(&problem), problem),
    }
}

/// The one turn among large bodies from `dv-node`, waited for before the body is read: the votes that it asks for have memory and
/// processors beside one of those, and not beside as many as it has connections.
pub(crate) struct Turn(
    #[expect(dead_code, reason = "it is given back when dropped")] tokio::sync::OwnedSemaphorePermit,
);

impl FromRequestParts<Arc<Signer>> for Turn {
    type Rejection = Response;

    async fn from_request_parts(_: &mut Parts, signer: &Arc<Signer>) -> Result<Self, Response> {
        let turn = Arc::clone(&signer.turns).acquire_owned().await;
        turn.map(Self)
            .map_err(|_| ipc::server::refusal(StatusCode::SERVICE_UNAVAILABLE, crate::folder::fault()))
    }
}

async fn sign_many(
    State(signer): State<Arc<Signer>>,
    body: Bytes,
) -> Result<Json<Vec<Vec<SignOutcome>>>, Refusal> {
    let groups: Vec<SignGroup> = serde_json::from_slice(&body).map_err(unreadable)?;
    let count = groups.iter().map(|group| group.keys.len()).fold(0, usize::saturating_add);
    if count > MAX_SIGNED_AT_ONCE {
        return Err(Refusal::Malformed(format!(
            "{count} signatures are asked for at once, at most {MAX_SIGNED_AT_ONCE} are given"
        )));
    }
    let outcome = |outcome| match outcome {
        Ok(signature) => SignOutcome::Signed(SignAnswer { signature }),
        Err(refusal) => refused(&refusal),
    };
    let outcomes = signer.sign_many(&groups).await;
    Ok(Json(outcomes.into_iter().map(|group| group.into_iter().map(outcome).collect()).collect()))
}

async fn seen(State(signer): State<Arc<Signer>>, body: Bytes) -> Result<Json<SeenAnswer>, Refusal> {
    let seen: Vec<SeenSignature> = serde_json::from_slice(&body).map_err(unreadable)?;
    signer.note_seen(seen).await.map(Json)
}

async fn remembered(State(signer): State<Arc<Signer>>, body: Bytes) -> Result<Json<SeenAnswer>, Refusal> {
    let seen: Vec<SeenSignature> = serde_json::from_slice(&body).map_err(unreadable)?;
    signer.note_remembered(seen).await.map(Json)
}

async fn chain_marks(
    State(signer): State<Arc<Signer>>,
    body: Bytes,
) -> Result<Json<serde_json::Value>, Refusal> {
    let marks: Vec<ChainMark> = serde_json::from_slice(&body).map_err(unreadable)?;
    signer.note_chain_marks(marks).await.map(|()| Json(serde_json::json!({})))
}

fn refused(refusal: &Refusal) -> SignOutcome {
    SignOutcome::Refused { status: refusal.status().as_u16(), problem: refusal.to_problem() }
}

/// Some clients leave the `0x` out.
fn parse_key(text: &str) -> Result<PublicKeyBytes, Refusal> {
    let prefixed = if text.starts_with("0x") { text.to_owned() } else { format!("0x{text}") };
    prefixed.parse().map_err(|_| Refusal::UnknownKey("that the path should name".to_owned()))
}

async fn public_keys(State(signer): State<Arc<Signer>>) -> Json<Vec<PublicKeyBytes>> {
    Json(signer.public_keys())
}
