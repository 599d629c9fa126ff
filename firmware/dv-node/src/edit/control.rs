//! Changes of the cluster on the control socket.

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use axum::{Json, Router};
use ipc::Problem;
use ipc::edit::{
    CLUSTER_EDIT_LOCK_PATH, CLUSTER_EDIT_PATH, ClusterEdit, EditCommit, EditDiscard, edit_which,
};
use ipc::server::refusal;
use serde::Serialize;
use tokio::sync::{mpsc, oneshot};

use super::Request;

/// Verifying a lock of a thousand validators and ending the node take a while.
const PATIENCE: Duration = Duration::from_secs(55);

type Requests = mpsc::Sender<Request>;

/// What the socket answers about changes of the cluster.
pub fn router(requests: Requests) -> Router {
    Router::new()
        .route(CLUSTER_EDIT_PATH, get(status).put(start).delete(discard))
        .route(CLUSTER_EDIT_LOCK_PATH, get(give_lock).put(lock))
        .with_state(requests)
}

async fn start(State(requests): State<Requests>, body: Bytes) -> Response {
    // The parser's own words would quote values, and one of them may be the identity key.
    let Ok(request) = serde_json::from_slice::<ClusterEdit>(&body) else {
        return malformed("Send the lock in force, the edit, the minor version and the members' addresses.");
    };
    drop(body);
    ask(&requests, |to| Request::Start(Box::new(request), to)).await
}

async fn status(State(requests): State<Requests>) -> Response {
    ask(&requests, Request::Status).await
}

async fn discard(State(requests): State<Requests>, Query(which): Query<EditDiscard>) -> Response {
    match which.name() {
        Some(name) if which.is_confirmed() => ask(&requests, |to| Request::Forgo(name.to_owned(), to)).await,
        Some(name) => ask(&requests, |to| Request::Discard(name.to_owned(), to)).await,
        None => refusal(StatusCode::UNPROCESSABLE_ENTITY, edit_which(&[])),
    }
}

async fn lock(State(requests): State<Requests>, body: Bytes) -> Response {
    let Ok(request) = serde_json::from_slice::<EditCommit>(&body) else {
        return malformed("Send the complete lock as another member gives it.");
    };
    ask(&requests, |to| Request::Lock(request.lock, to)).await
}

async fn give_lock(State(requests): State<Requests>) -> Response {
    ask(&requests, Request::GiveLock).await
}

fn malformed(next_step: &str) -> Response {
    let what = "The request is not a change of the cluster.";
    refusal(StatusCode::BAD_REQUEST, Problem::new("request_invalid", what, next_step))
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
            tracing::warn!(%problem, "a request about a change of the cluster was refused");
            refusal(StatusCode::UNPROCESSABLE_ENTITY, problem)
        }
        None => {
            let problem =
                Problem::new("busy", "The node is busy with another request.", "Try again in a minute.");
            refusal(StatusCode::SERVICE_UNAVAILABLE, problem)
        }
    }
}
