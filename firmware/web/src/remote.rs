//! Who outside the box may ask the signer: the owner's word, passed on. The bytes of those clients never come by here.

use std::sync::Arc;

use axum::extract::State;
use axum::routing::{get, post};
use axum::{Json, Router};
use ipc::remote::{
    REMOTE_CLIENTS_PATH, REMOTE_PATH, REMOTE_REMOVE_PATH, RemoteClientMade, RemoteClientOrder,
    RemoteClientRemoval, RemoteStatus,
};
use ipc::server::Body;
use ipc::web;

use crate::server::{Owner, Refusal, Web};

/// The routes.
pub(crate) fn routes() -> Router<Arc<Web>> {
    Router::new()
        .route(web::REMOTE_PATH, get(status))
        .route(web::REMOTE_CLIENTS_PATH, post(let_in))
        .route(web::REMOTE_REMOVE_PATH, post(shut_out))
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

/// `POST /api/v1/remote/clients/remove`.
async fn shut_out(
    State(web): State<Arc<Web>>,
    _owner: Owner,
    Body(removal): Body<RemoteClientRemoval>,
) -> Result<Json<RemoteStatus>, Refusal> {
    Ok(Json(web.signer.post(REMOTE_REMOVE_PATH, &removal).await?))
}
