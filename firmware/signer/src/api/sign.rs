//! The signing socket: the Web3Signer API.

use std::sync::Arc;

use axum::{
    Json, Router,
    body::Bytes,
    extract::{Path, State},
    routing::{get, post},
};
use chain::PublicKeyBytes;
use ipc::{
    SignAnswer, SignRequest,
    web3signer::{PUBLIC_KEYS_PATH, UPCHECK_PATH},
};

use crate::{refusal::Refusal, signer::Signer};

/// The router.
pub(crate) fn router(signer: Arc<Signer>) -> Router {
    Router::new()
        .route("/api/v1/eth2/sign/{key}", post(sign))
        .route(PUBLIC_KEYS_PATH, get(public_keys))
        .route(UPCHECK_PATH, get(|| async { Json(serde_json::json!({ "status": "OK" })) }))
        .with_state(signer)
}

async fn sign(
    State(signer): State<Arc<Signer>>,
    Path(key): Path<String>,
    body: Bytes,
) -> Result<Json<SignAnswer>, Refusal> {
    let key = parse_key(&key)?;
    let request: SignRequest = serde_json::from_slice(&body).map_err(|error| {
        // The parser's own words would quote what it found, at any length.
        Refusal::Malformed(format!("not as expected at line {}, column {}", error.line(), error.column()))
    })?;
    let signature = signer.sign(key, &request).await?;
    Ok(Json(SignAnswer { signature }))
}

/// Some clients leave the `0x` out.
fn parse_key(text: &str) -> Result<PublicKeyBytes, Refusal> {
    let prefixed = if text.starts_with("0x") { text.to_owned() } else { format!("0x{text}") };
    prefixed.parse().map_err(|_| Refusal::UnknownKey(text.chars().take(98).collect()))
}

async fn public_keys(State(signer): State<Arc<Signer>>) -> Json<Vec<PublicKeyBytes>> {
    Json(signer.public_keys())
}
