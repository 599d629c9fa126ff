//! The control socket: status, metrics, and the one change the owner can make.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, put};
use axum::{Json, Router};
use ipc::node::{CLUSTER_PATH, STATUS_PATH};
use ipc::server::{Limits, refusal};
use ipc::{ClusterSetup, NodeStatus, Problem};
use tokio::sync::{mpsc, oneshot};

use crate::board::Board;

/// A cluster handed in, and where to say what became of it.
pub type SetupRequest = (ClusterSetup, oneshot::Sender<Result<(), Problem>>);

/// Checking the signatures of a lock with a thousand validators takes some seconds, asking slow beacon nodes some more.
const SETUP_PATIENCE: Duration = Duration::from_secs(60);

#[derive(Clone)]
struct Shared {
    board: Arc<Board>,
    setups: mpsc::Sender<SetupRequest>,
}

/// What the socket answers.
pub fn router(board: Arc<Board>, setups: mpsc::Sender<SetupRequest>) -> Router {
    Router::new()
        .route(STATUS_PATH, get(status))
        .route(CLUSTER_PATH, put(set_cluster))
        .route("/metrics", get(metrics))
        .with_state(Shared { board, setups })
}

/// What the socket takes: locks are large, everything else is small.
pub fn limits() -> Limits {
    Limits {
        body_bytes: cluster::MAX_FILE_BYTES,
        request_timeout: SETUP_PATIENCE,
        connections: 16,
        ..Limits::default()
    }
}

async fn status(State(shared): State<Shared>) -> Json<NodeStatus> {
    Json(shared.board.status())
}

async fn metrics(State(shared): State<Shared>) -> String {
    shared.board.metrics_text()
}

async fn set_cluster(
    State(shared): State<Shared>,
    setup: Result<Json<ClusterSetup>, JsonRejection>,
) -> Response {
    let Json(setup) = match setup {
        Ok(setup) => setup,
        Err(rejection) => {
            let problem = Problem::new(
                "request_invalid",
                format!("The request is not a cluster setup: {}.", rejection.body_text()),
                "Send the cluster lock, the identity key, the beacon nodes and the members' addresses as documented.",
            );
            return refusal(rejection.status(), problem);
        }
    };
    let (to, answer) = oneshot::channel();
    let busy = || {
        let problem =
            Problem::new("busy", "Another cluster setup is being checked.", "Try again in a minute.");
        refusal(StatusCode::SERVICE_UNAVAILABLE, problem)
    };
    if shared.setups.try_send((setup, to)).is_err() {
        return busy();
    }
    match answer.await {
        Ok(Ok(())) => Json(shared.board.status()).into_response(),
        Ok(Err(problem)) => refusal(StatusCode::UNPROCESSABLE_ENTITY, problem),
        Err(_) => busy(),
    }
}
