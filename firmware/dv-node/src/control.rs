//! The control socket: status, metrics, and the one change the owner can make.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{FromRequest as _, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use cluster::exit::PartialExits;
use ipc::node::{
    CLUSTER_PATH, DEPOSITS_PATH, DepositsAsked, EXIT_FILES_PATH, EXITS_CANCEL_PATH, EXITS_PATH, ExitFiles,
    STATUS_PATH, WantedExit,
};
use ipc::owner::ExitCancel;
use ipc::preflight::{PREFLIGHT_PATH, PreflightReport, PreflightRequest};
use ipc::server::{Body, Limits, refusal};
use ipc::{ClusterSetup, NodeStatus, Problem};
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::board::Board;
use crate::exits::Desk;
use crate::preflight::Preflight;
use crate::store::Store;

/// A cluster handed in, and where to say what became of it.
pub type SetupRequest = (ClusterSetup, oneshot::Sender<Result<(), Problem>>);

/// Checking the signatures of a lock with a thousand validators takes some seconds, asking slow beacon nodes some more.
const SETUP_PATIENCE: Duration = Duration::from_secs(60);

/// The node looks once a second.
const FILE_PATIENCE: Duration = Duration::from_secs(20);

/// What deposits are made from.
#[derive(Clone)]
pub struct Documents {
    /// Where the cluster lock is.
    pub store: Store,
    /// Networks that are not public.
    pub networks: Vec<cluster::Network>,
}

/// What the handlers need.
#[derive(Clone)]
pub struct Shared {
    board: Arc<Board>,
    desk: Arc<Desk>,
    preflight: Arc<Preflight>,
    documents: Documents,
    setups: mpsc::Sender<SetupRequest>,
    /// One setup at a time: each may bring a large lock.
    one: Arc<Semaphore>,
}

impl Shared {
    /// Everything that the socket speaks for.
    pub fn new(
        board: Arc<Board>,
        desk: Arc<Desk>,
        preflight: Arc<Preflight>,
        documents: Documents,
        setups: mpsc::Sender<SetupRequest>,
    ) -> Self {
        Self { board, desk, preflight, documents, setups, one: Arc::new(Semaphore::new(1)) }
    }
}

/// What the socket answers.
pub fn router(shared: Shared) -> Router {
    let board = Arc::clone(&shared.board);
    Router::new()
        .route(STATUS_PATH, get(status))
        .route(CLUSTER_PATH, put(set_cluster))
        .route(EXITS_PATH, post(want_exits))
        .route(EXITS_CANCEL_PATH, post(cancel_exits))
        .route(EXIT_FILES_PATH, get(exit_files).post(take_exit_file))
        .route(PREFLIGHT_PATH, get(preflight).post(begin_preflight))
        .route(DEPOSITS_PATH, post(deposits))
        .with_state(shared)
        .merge(watching(board))
}

/// What is asked by those who watch many boxes.
fn watching(board: Arc<Board>) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/livez", get(live))
        .route("/readyz", get(ready))
        .with_state(board)
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

async fn want_exits(State(shared): State<Shared>, Body(wanted): Body<Vec<WantedExit>>) -> Response {
    done(shared.desk.wish(&wanted), &shared.board)
}

async fn cancel_exits(State(shared): State<Shared>, Body(cancel): Body<ExitCancel>) -> Response {
    done(shared.desk.forget(&cancel.validator), &shared.board)
}

async fn preflight(State(shared): State<Shared>) -> Json<PreflightReport> {
    Json(shared.preflight.report())
}

async fn begin_preflight(State(shared): State<Shared>, Body(request): Body<PreflightRequest>) -> Response {
    match shared.preflight.begin(request) {
        Ok(report) => Json(report).into_response(),
        Err(problem) => refusal(StatusCode::UNPROCESSABLE_ENTITY, problem),
    }
}

async fn deposits(State(shared): State<Shared>, Body(asked): Body<DepositsAsked>) -> Response {
    let Ok(_place) = shared.one.try_acquire() else {
        let problem =
            Problem::new("busy", "Another cluster lock is being checked.", "Try again in a minute.");
        return refusal(StatusCode::SERVICE_UNAVAILABLE, problem);
    };
    let documents = shared.documents.clone();
    let planned = tokio::task::spawn_blocking(move || {
        let setup = documents.store.load_cluster().map_err(|error| crate::exits::disk(&error))?;
        let setup = setup.ok_or_else(|| {
            Problem::new("no_cluster", "The box is not in a cluster.", "Hand in the cluster lock first.")
        })?;
        crate::deposits::plan(&setup, &documents.networks, &asked)
    });
    match planned.await {
        Ok(Ok(plan)) => Json(plan).into_response(),
        Ok(Err(problem)) => refusal(StatusCode::UNPROCESSABLE_ENTITY, problem),
        Err(_) => {
            let problem =
                Problem::new("internal", "Making the plan failed by a fault of ours.", "Report this.");
            refusal(StatusCode::INTERNAL_SERVER_ERROR, problem)
        }
    }
}

async fn exit_files(State(shared): State<Shared>) -> Json<ExitFiles> {
    Json(shared.desk.files())
}

async fn take_exit_file(State(shared): State<Shared>, Body(file): Body<PartialExits>) -> Response {
    let answer = match shared.desk.hand_in(file) {
        Ok(answer) => tokio::time::timeout(FILE_PATIENCE, answer).await,
        Err(problem) => return refusal(StatusCode::SERVICE_UNAVAILABLE, problem),
    };
    let outcome = answer.ok().and_then(Result::ok).unwrap_or_else(|| {
        Err(Problem::new(
            "no_cluster",
            "The box is not in a cluster, or does not know its chain yet.",
            "Wait until the cluster runs, then send the file again.",
        ))
    });
    done(outcome, &shared.board)
}

fn done(outcome: Result<(), Problem>, board: &Board) -> Response {
    match outcome {
        Ok(()) => Json(board.status()).into_response(),
        Err(problem) => refusal(StatusCode::UNPROCESSABLE_ENTITY, problem),
    }
}

async fn metrics(State(board): State<Arc<Board>>) -> String {
    board.metrics_text()
}

/// The process answers, which is all this says.
async fn live() -> &'static str {
    "ok"
}

/// Whether duties can be done, as those who watch Charon ask it.
async fn ready(State(board): State<Arc<Board>>) -> Response {
    match board.ready() {
        Ok(()) => "ok".into_response(),
        Err(reason) => (StatusCode::INTERNAL_SERVER_ERROR, reason).into_response(),
    }
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
    use tower::ServiceExt as _;

    use super::*;

    async fn get(board: &Arc<Board>, path: &str) -> (StatusCode, String) {
        let request = Request::builder().uri(path).body(axum::body::Body::empty()).unwrap();
        let response = watching(Arc::clone(board)).oneshot(request).await.unwrap();
        let status = response.status();
        let body = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn readiness_is_told_with_its_reason() {
        let board = Arc::new(Board::default());
        assert_eq!(get(&board, "/livez").await, (StatusCode::OK, "ok".to_owned()));
        let unready = StatusCode::INTERNAL_SERVER_ERROR;
        assert_eq!(get(&board, "/readyz").await, (unready, "ready check uninitialised".to_owned()));
        board.set_ready(Err("beacon node down"));
        assert_eq!(get(&board, "/readyz").await, (unready, "beacon node down".to_owned()));
        board.set_ready(Ok(()));
        assert_eq!(get(&board, "/readyz").await, (StatusCode::OK, "ok".to_owned()));
    }

    #[tokio::test]
    async fn both_sets_of_metrics_stand_in_one_text() {
        let board = Arc::new(Board::default());
        let identity = crate::monitoring::Identity { hash: "0a1b2c3".to_owned(), ..Default::default() };
        let (_metrics, registry) = crate::monitoring::Monitoring::new(&identity);
        board.watch(registry);
        let (_, text) = get(&board, "/metrics").await;
        assert!(text.contains("hearth_dv_problems"), "{text}");
        assert!(text.contains("cluster_hash=\"0a1b2c3\""), "{text}");
        assert_eq!(text.matches("# EOF").count(), 1);
        assert!(text.ends_with("# EOF\n"));
    }

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
