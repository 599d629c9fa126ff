//! The owner's routes for the door, on the control socket.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::State,
    response::{IntoResponse as _, Response},
    routing::{get, post},
};
use ipc::{
    Problem,
    remote::{REMOTE_CLIENTS_PATH, REMOTE_PATH, REMOTE_REMOVE_PATH, RemoteClientOrder, RemoteClientRemoval},
    server::Body,
};
use serde::Serialize;

use crate::signer::Signer;

/// To be merged into the control socket's router.
pub(crate) fn control_routes() -> Router<Arc<Signer>> {
    Router::new()
        .route(REMOTE_PATH, get(status))
        .route(REMOTE_CLIENTS_PATH, post(let_in))
        .route(REMOTE_REMOVE_PATH, post(shut_out))
}

async fn status(State(signer): State<Arc<Signer>>) -> Response {
    answer(signer.remote_status().await)
}

async fn let_in(State(signer): State<Arc<Signer>>, Body(order): Body<RemoteClientOrder>) -> Response {
    answer(signer.let_in(order).await)
}

async fn shut_out(State(signer): State<Arc<Signer>>, Body(removal): Body<RemoteClientRemoval>) -> Response {
    answer(signer.shut_out(removal).await)
}

fn answer<T: Serialize>(outcome: Result<T, Problem>) -> Response {
    match outcome {
        Ok(done) => Json(done).into_response(),
        Err(problem) => ipc::server::refusal(crate::api::control::status_of(&problem), problem),
    }
}
