//! Key generation on the control socket.

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use axum::{Json, Router};
use ipc::Problem;
use ipc::dkg::{DKG_FILES_PATH, DKG_PATH, KeyGeneration};
use ipc::server::refusal;
use serde::Serialize;
use tokio::sync::{mpsc, oneshot};

use super::Request;

/// Reading a definition with a thousand validators takes a while; the daemon may be joining a cluster meanwhile.
const PATIENCE: Duration = Duration::from_secs(55);

type Requests = mpsc::Sender<Request>;

/// What the socket answers about key generation.
pub fn router(requests: Requests) -> Router {
    Router::new()
        .route(DKG_PATH, get(status).put(start).delete(discard))
        .route(DKG_FILES_PATH, get(files))
        .with_state(requests)
}

async fn start(State(requests): State<Requests>, body: Bytes) -> Response {
    // The parser's own words would quote values, and one of them is the identity key.
    let Ok(request) = serde_json::from_slice::<KeyGeneration>(&body) else {
        let problem = Problem::new(
            "request_invalid",
            "The request is not a key generation.",
            "Send the definition, the identity key, the minor version, the members' addresses and the beacon nodes as documented.",
        );
        return refusal(StatusCode::BAD_REQUEST, problem);
    };
    drop(body);
    ask(&requests, |to| Request::Start(Box::new(request), to)).await
}

async fn status(State(requests): State<Requests>) -> Response {
    ask(&requests, Request::Status).await
}

async fn discard(State(requests): State<Requests>) -> Response {
    ask(&requests, Request::Discard).await
}

async fn files(State(requests): State<Requests>) -> Response {
    ask(&requests, Request::Files).await
}

async fn ask<T: Serialize>(
    requests: &Requests,
    request: impl FnOnce(oneshot::Sender<Result<T, Problem>>) -> Request,
) -> Response {
    let (to, answer) = oneshot::channel();
    let exchange = async {
        requests.send(request(to)).await.ok()?;
        answer.await.ok()
    };
    match tokio::time::timeout(PATIENCE, exchange).await.ok().flatten() {
        Some(Ok(answer)) => Json(answer).into_response(),
        Some(Err(problem)) => {
            tracing::warn!(%problem, "a request about key generation was refused");
            refusal(StatusCode::UNPROCESSABLE_ENTITY, problem)
        }
        None => {
            let problem =
                Problem::new("busy", "The node is busy with another request.", "Try again in a minute.");
            refusal(StatusCode::SERVICE_UNAVAILABLE, problem)
        }
    }
}
