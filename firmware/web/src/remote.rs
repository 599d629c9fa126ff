//! Who outside the box may ask the signer, and the history that the owner takes along: passed on. The bytes of those clients
//! never come by here.

use std::sync::Arc;

use axum::extract::{RawQuery, State};
use axum::http::header;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use ipc::Client;
use ipc::remote::{
    REMOTE_CLIENTS_PATH, REMOTE_PATH, REMOTE_REMOVE_PATH, RemoteClientMade, RemoteClientOrder,
    RemoteClientRemoval, RemoteStatus,
};
use ipc::server::Body;
use ipc::signer::HISTORY_PATH;
use ipc::web;
use serde_json::Value;

use crate::server::{Owner, Refusal, Web};

/// A complete history of a thousand shares.
const MAX_HISTORY_BYTES: usize = 64 * 1024 * 1024;

/// The routes.
pub(crate) fn routes() -> Router<Arc<Web>> {
    Router::new()
        .route(web::REMOTE_PATH, get(status))
        .route(web::REMOTE_CLIENTS_PATH, post(let_in))
        .route(web::REMOTE_REMOVE_PATH, post(shut_out))
        .route(web::HISTORY_PATH, get(history))
}

/// `GET /api/v1/remote`.
async fn status(State(web): State<Arc<Web>>, _owner: Owner) -> Result<Json<RemoteStatus>, Refusal> {
    Ok(Json(web.signer.get(REMOTE_PATH).await?))
}

/// `POST /api/v1/remote/clients`: the answer holds the client's key, for the owner alone and this once.
async fn let_in(
    State(web): State<Arc<Web>>,
    _owner: Owner,
    Body(order): Body<RemoteClientOrder>,
) -> Result<Json<RemoteClientMade>, Refusal> {
    let made = web.signer.post(REMOTE_CLIENTS_PATH, &order).await?;
    tracing::warn!("the owner lets a client outside the box ask the signer");
    Ok(Json(made))
}

/// `GET /api/v1/slashing-protection`: what the shares have signed, as a file (EIP-3076).
async fn history(
    State(web): State<Arc<Web>>,
    _owner: Owner,
    RawQuery(query): RawQuery,
) -> Result<Response, Refusal> {
    let path = match query {
        Some(query) => format!("{HISTORY_PATH}?{query}"),
        None => HISTORY_PATH.to_owned(),
    };
    let signer = Client::new(web.signer.socket()).with_answer_limit(MAX_HISTORY_BYTES);
    let document: Value = signer.get(&path).await?;
    let file = "attachment; filename=\"slashing-protection.json\"";
    Ok(([(header::CONTENT_DISPOSITION, file)], Json(document)).into_response())
}

/// `POST /api/v1/remote/clients/remove`.
async fn shut_out(
    State(web): State<Arc<Web>>,
    _owner: Owner,
    Body(removal): Body<RemoteClientRemoval>,
) -> Result<Json<RemoteStatus>, Refusal> {
    Ok(Json(web.signer.post(REMOTE_REMOVE_PATH, &removal).await?))
}
