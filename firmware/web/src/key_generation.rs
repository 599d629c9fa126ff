//! Key generation for the owner: the signer hears it first, from here and not from the node, then the node begins.

use std::sync::Arc;

use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use ipc::dkg::{CEREMONY_PATH, DKG_FILES_PATH, DKG_PATH, KeyGenerationFiles, KeyGenerationStatus};
use ipc::server::Body;
use ipc::web::{KEY_GENERATION_FILES_PATH, KEY_GENERATION_PATH, KeyGenerationStart};

use crate::server::{Owner, Refusal, Web};

/// The routes.
pub(crate) fn routes() -> Router<Arc<Web>> {
    Router::new()
        .route(KEY_GENERATION_PATH, get(status).put(start).delete(discard))
        .route(KEY_GENERATION_FILES_PATH, get(files))
}

/// `GET /api/v1/key-generation`: how far every member is.
async fn status(State(web): State<Arc<Web>>) -> Result<Json<KeyGenerationStatus>, Refusal> {
    Ok(Json(web.node.get(DKG_PATH).await?))
}

/// `PUT /api/v1/key-generation`: takes part in a ceremony, or goes on with the same one.
async fn start(
    State(web): State<Arc<Web>>,
    _owner: Owner,
    Body(start): Body<KeyGenerationStart>,
) -> Result<Json<KeyGenerationStatus>, Refusal> {
    web.signer.put::<serde_json::Value>(CEREMONY_PATH, &start.consent).await?;
    let status = web.node.put(DKG_PATH, &start.ceremony).await?;
    tracing::info!("the owner began a key generation");
    Ok(Json(status))
}

/// `DELETE /api/v1/key-generation`: gives a ceremony up, in both places.
async fn discard(State(web): State<Arc<Web>>, _owner: Owner) -> Result<Json<KeyGenerationStatus>, Refusal> {
    let status = web.node.delete(DKG_PATH).await?;
    web.signer.delete::<serde_json::Value>(CEREMONY_PATH).await?;
    tracing::warn!("the owner discarded a key generation");
    Ok(Json(status))
}

/// `GET /api/v1/key-generation/files`: the lock and the deposits of a finished one.
async fn files(State(web): State<Arc<Web>>) -> Result<Json<KeyGenerationFiles>, Refusal> {
    Ok(Json(web.node.get(DKG_FILES_PATH).await?))
}
