//! The control socket: status, metrics, and the one change the owner can make.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{FromRequest as _, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, put};
use axum::{Json, Router};
use ipc::node::{CLUSTER_PATH, STATUS_PATH};
use ipc::server::{Limits, refusal};
use ipc::{ClusterSetup, NodeStatus, Problem};
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::board::Board;

/// A cluster handed in, and where to say what became of it.
pub type SetupRequest = (ClusterSetup, oneshot::Sender<Result<(), Problem>>);

/// Checking the signatures of a lock with a thousand validators takes some seconds, asking slow beacon nodes some more.
const SETUP_PATIENCE: Duration = Duration::from_secs(60);

#[derive(Clone)]
struct Shared {
    board: Arc<Board>,
    setups: mpsc::Sender<SetupRequest>,
    /// One setup at a time: each may bring a large lock.
    one: Arc<Semaphore>,
}

/// What the socket answers.
pub fn router(board: Arc<Board>, setups: mpsc::Sender<SetupRequest>) -> Router {
    Router::new()
        .route(STATUS_PATH, get(status))
        .route(CLUSTER_PATH, put(set_cluster))
        .route("/metrics", get(metrics))
        .with_state(Shared { board, setups, one: Arc::new(Semaphore::new(1)) })
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

/// Reads a setup. The error says only where it went wrong: the texts of the parser quote values, and one of them is the
/// identity key.
fn parse_setup(body: &[u8]) -> Result<ClusterSetup, String> {
    serde_json::from_slice(body).map_err(|error| {
        let what = match error.classify() {
            serde_json::error::Category::Data => "a field is missing, unknown or of another kind",
            serde_json::error::Category::Eof => "it ends too early",
            serde_json::error::Category::Syntax | serde_json::error::Category::Io => "it is not JSON",
        };
        format!("{what}, at line {} column {}", error.line(), error.column())
    })
}

async fn set_cluster(State(shared): State<Shared>, request: Request) -> Response {
    let busy = || {
        let problem =
            Problem::new("busy", "Another cluster setup is being checked.", "Try again in a minute.");
        refusal(StatusCode::SERVICE_UNAVAILABLE, problem)
    };
    // Before the body is read.
    let Ok(_place) = shared.one.try_acquire() else { return busy() };
    let body = match Bytes::from_request(request, &()).await {
        Ok(body) => body,
        Err(rejection) => {
            let problem = Problem::new(
                "request_invalid",
                "The request could not be read in full.",
                "Send the request again; a cluster lock larger than this box takes is not one.",
            );
            return refusal(rejection.status(), problem);
        }
    };
    let setup = match parse_setup(&body) {
        Ok(setup) => setup,
        Err(place) => {
            let problem = Problem::new(
                "request_invalid",
                format!("The request is not a cluster setup: {place}."),
                "Send the cluster lock, the identity key, the beacon nodes and the members' addresses as documented.",
            );
            return refusal(StatusCode::BAD_REQUEST, problem);
        }
    };
    drop(body);
    let (to, answer) = oneshot::channel();
    if shared.setups.try_send((setup, to)).is_err() {
        return busy();
    }
    match answer.await {
        Ok(Ok(())) => Json(shared.board.status()).into_response(),
        Ok(Err(problem)) => refusal(StatusCode::UNPROCESSABLE_ENTITY, problem),
        Err(_) => busy(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_that_cannot_be_read_is_never_quoted() {
        let secret = "5ec2e75ec2e75ec2e7";
        let table = [
            format!(r#"{{"lock": {{}}, "identity_key": ["{secret}"], "beacon_nodes": [], "peers": []}}"#),
            format!(r#"{{"lock": {{}}, "beacon_nodes": "{secret}", "peers": []}}"#),
            format!(r#"{{"{secret}": 1}}"#),
            format!(r#""{secret}""#),
            format!(r#"{{"identity_key": "{secret}""#),
            secret.to_owned(),
        ];
        for text in table {
            let error = parse_setup(text.as_bytes()).unwrap_err();
            assert!(!error.contains("5ec2e7") && error.contains("line 1 column"), "{error}");
        }
        let whole = r#"{"lock": {}, "identity_key": "ab", "beacon_nodes": [], "peers": []}"#;
        assert!(parse_setup(whole.as_bytes()).is_ok());
    }
}
