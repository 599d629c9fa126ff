//! The control socket: status, metrics, and the few changes the owner can make, for each cluster of this box.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{FromRequest as _, FromRequestParts, RawPathParams, Request as HttpRequest, State};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use ipc::node::{
    CLUSTER_PATH, CLUSTERS_PATH, ClusterEntry, DEPOSITS_PATH, DepositsAsked, EXIT_FILES_PATH,
    EXITS_CANCEL_PATH, EXITS_PATH, ExitFiles, SETUP_PATH, STATUS_PATH, WantedExit, cluster_path,
};
use ipc::owner::ExitCancel;
use ipc::preflight::{PREFLIGHT_PATH, PreflightReport, PreflightRequest};
use ipc::server::{Body, Limits, refusal};
use ipc::{ClusterSetup, NodeStatus, Problem, Sensitive};
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::board::joined_metrics;
use crate::exits::ExitFile;
use crate::places::{Place, Places};

/// What the owner asks of the daemon, and where to say what became of it.
#[derive(Debug)]
pub enum Request {
    /// Join a cluster, or take new addresses for one.
    Join(Box<ClusterSetup>, oneshot::Sender<Result<Arc<Place>, Problem>>),
    /// Leave the cluster with this lock hash.
    Leave(String, oneshot::Sender<Result<(), Problem>>),
}

/// Checking the signatures of a lock with a thousand validators takes some seconds, asking slow beacon nodes some more.
const SETUP_PATIENCE: Duration = Duration::from_secs(60);

/// The node looks once a second.
const FILE_PATIENCE: Duration = Duration::from_secs(20);

/// What the handlers need.
#[derive(Clone)]
pub struct Shared {
    places: Arc<Places>,
    /// Networks that are not public.
    networks: Vec<cluster::Network>,
    requests: mpsc::Sender<Request>,
    /// One setup at a time: each may bring a large lock.
    one: Arc<Semaphore>,
}

impl Shared {
    /// Everything that the socket speaks for.
    pub fn new(
        places: Arc<Places>,
        networks: Vec<cluster::Network>,
        requests: mpsc::Sender<Request>,
    ) -> Self {
        Self { places, networks, requests, one: Arc::new(Semaphore::new(1)) }
    }
}

/// The cluster that a request means: the one in its path, else the first one.
struct Chosen(Arc<Place>);

impl FromRequestParts<Shared> for Chosen {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, shared: &Shared) -> Result<Self, Response> {
        let path =
            RawPathParams::from_request_parts(parts, shared).await.map_err(IntoResponse::into_response)?;
        let found = match path.iter().find(|(name, _)| *name == LOCK_HASH) {
            Some((_, lock_hash)) => shared.places.of_cluster(lock_hash),
            None => shared.places.first().ok_or_else(no_cluster),
        };
        found.map(Self).map_err(|problem| refusal(StatusCode::NOT_FOUND, problem))
    }
}

/// Name of the lock hash in paths.
const LOCK_HASH: &str = "lock_hash";

/// What the socket answers.
pub fn router(shared: Shared) -> Router {
    let places = Arc::clone(&shared.places);
    let one = cluster_path(&format!("{{{LOCK_HASH}}}"));
    Router::new()
        .route(STATUS_PATH, get(status))
        .route(CLUSTER_PATH, put(set_cluster))
        .route(EXITS_PATH, post(want_exits))
        .route(EXITS_CANCEL_PATH, post(cancel_exits))
        .merge(of_one(""))
        .route(CLUSTERS_PATH, get(clusters).post(set_cluster))
        .route(&one, get(status).delete(leave))
        .nest(&one, of_one("/v1"))
        .with_state(shared)
        .merge(watching(places))
}

/// What is asked about one cluster, with or without its name in the path. `prefix` is what the paths begin with that is not
/// repeated after the name.
fn of_one(prefix: &str) -> Router<Shared> {
    let path = |whole: &'static str| whole.strip_prefix(prefix).unwrap_or(whole);
    Router::new()
        .route(path(EXIT_FILES_PATH), get(exit_files).post(take_exit_file))
        .route(path(PREFLIGHT_PATH), get(preflight).post(begin_preflight))
        .route(path(DEPOSITS_PATH), post(deposits))
        .route(path(SETUP_PATH), get(setup))
}

/// What is asked by those who watch many boxes.
fn watching(places: Arc<Places>) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/livez", get(live))
        .route("/readyz", get(ready))
        .with_state(places)
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

async fn status(Chosen(place): Chosen) -> Json<NodeStatus> {
    Json(place.board.status())
}

async fn clusters(State(shared): State<Shared>) -> Json<Vec<ClusterEntry>> {
    Json(shared.places.entries())
}

/// Each validator's wish goes to the cluster that has it.
async fn want_exits(State(shared): State<Shared>, Body(wanted): Body<Vec<WantedExit>>) -> Response {
    let mut by_place: BTreeMap<u8, (Arc<Place>, Vec<WantedExit>)> = BTreeMap::new();
    for exit in wanted {
        let Some(place) = shared.places.of_validator(&exit.validator) else {
            return refusal(StatusCode::UNPROCESSABLE_ENTITY, no_cluster());
        };
        by_place.entry(place.number).or_insert_with(|| (place, Vec::new())).1.push(exit);
    }
    done(by_place.into_values().try_for_each(|(place, wanted)| place.desk.wish(&wanted)), &shared)
}

async fn cancel_exits(State(shared): State<Shared>, Body(cancel): Body<ExitCancel>) -> Response {
    let places = if cancel.validator == ipc::owner::ALL_VALIDATORS {
        shared.places.taken()
    } else {
        shared.places.of_validator(&cancel.validator).into_iter().collect()
    };
    done(places.into_iter().try_for_each(|place| place.desk.forget(&cancel.validator)), &shared)
}

async fn preflight(Chosen(place): Chosen) -> Json<PreflightReport> {
    Json(place.preflight.report())
}

async fn begin_preflight(Chosen(place): Chosen, Body(request): Body<PreflightRequest>) -> Response {
    match place.preflight.begin(request) {
        Ok(report) => Json(report).into_response(),
        Err(problem) => refusal(StatusCode::UNPROCESSABLE_ENTITY, problem),
    }
}

async fn deposits(
    State(shared): State<Shared>,
    Chosen(place): Chosen,
    Body(asked): Body<DepositsAsked>,
) -> Response {
    let Ok(_place) = shared.one.try_acquire() else {
        let problem =
            Problem::new("busy", "Another cluster lock is being checked.", "Try again in a minute.");
        return refusal(StatusCode::SERVICE_UNAVAILABLE, problem);
    };
    let networks = shared.networks.clone();
    let planned = tokio::task::spawn_blocking(move || {
        let setup = place.store.load_cluster().map_err(|error| crate::exits::disk(&error))?;
        crate::deposits::plan(&setup.ok_or_else(no_cluster)?, &networks, &asked)
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

/// What another box joins with. The identity key stays: the signer carries it, sealed.
async fn setup(State(shared): State<Shared>, Chosen(place): Chosen) -> Response {
    let Ok(_place) = shared.one.try_acquire() else { return busy() };
    let loaded = tokio::task::spawn_blocking(move || place.store.load_cluster());
    match loaded.await {
        Ok(Ok(Some(setup))) => {
            Json(ClusterSetup { identity_key: Sensitive::new(String::new()), ..setup }).into_response()
        }
        Ok(Ok(None)) => refusal(StatusCode::NOT_FOUND, no_cluster()),
        Ok(Err(error)) => refusal(StatusCode::UNPROCESSABLE_ENTITY, crate::exits::disk(&error)),
        Err(_) => {
            let problem =
                Problem::new("internal", "Reading the cluster failed by a fault of ours.", "Report this.");
            refusal(StatusCode::INTERNAL_SERVER_ERROR, problem)
        }
    }
}

fn no_cluster() -> Problem {
    Problem::new("no_cluster", "The box is not in a cluster.", "Hand in the cluster lock first.")
}

async fn exit_files(Chosen(place): Chosen) -> Json<ExitFiles> {
    Json(place.desk.files())
}

async fn take_exit_file(Chosen(place): Chosen, Body(file): Body<serde_json::Value>) -> Response {
    let file = match ExitFile::from_value(file) {
        Ok(file) => file,
        Err(problem) => return refusal(StatusCode::UNPROCESSABLE_ENTITY, problem),
    };
    let answer = match place.desk.hand_in(file) {
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
    match outcome {
        Ok(()) => Json(place.board.status()).into_response(),
        Err(problem) => refusal(StatusCode::UNPROCESSABLE_ENTITY, problem),
    }
}

/// With the first cluster's status, as those expect who know of one.
fn done(outcome: Result<(), Problem>, shared: &Shared) -> Response {
    match (outcome, shared.places.first()) {
        (Ok(()), Some(place)) => Json(place.board.status()).into_response(),
        (Ok(()), None) => refusal(StatusCode::UNPROCESSABLE_ENTITY, no_cluster()),
        (Err(problem), _) => refusal(StatusCode::UNPROCESSABLE_ENTITY, problem),
    }
}

/// Those of all clusters.
async fn metrics(State(places): State<Arc<Places>>) -> String {
    let mut shown = places.taken();
    if shown.is_empty() {
        shown.extend(places.first());
    }
    joined_metrics(shown.iter().map(|place| place.board.metrics_text()))
}

/// The process answers, which is all this says.
async fn live() -> &'static str {
    "ok"
}

/// Whether duties can be done in every cluster, as those who watch Charon ask it.
async fn ready(State(places): State<Arc<Places>>) -> Response {
    let taken = places.taken();
    let several = taken.len() > 1;
    let reason = if taken.is_empty() {
        places.first().and_then(|place| place.board.ready().err())
    } else {
        taken.iter().find_map(|place| {
            let reason = place.board.ready().err()?;
            Some(if several { format!("{}: {reason}", place.name()) } else { reason })
        })
    };
    match reason {
        None => "ok".into_response(),
        Some(reason) => (StatusCode::INTERNAL_SERVER_ERROR, reason).into_response(),
    }
}

async fn leave(State(shared): State<Shared>, Chosen(place): Chosen) -> Response {
    let (to, answer) = oneshot::channel();
    let entries = shared.places.entries();
    let Some(entry) = entries.into_iter().find(|entry| entry.place == place.number) else {
        return refusal(StatusCode::NOT_FOUND, no_cluster());
    };
    if shared.requests.try_send(Request::Leave(entry.lock_hash, to)).is_err() {
        return busy();
    }
    match answer.await {
        Ok(Ok(())) => Json(shared.places.entries()).into_response(),
        Ok(Err(problem)) => refusal(StatusCode::UNPROCESSABLE_ENTITY, problem),
        Err(_) => busy(),
    }
}

fn busy() -> Response {
    let problem = Problem::new("busy", "Another cluster setup is being checked.", "Try again in a minute.");
    refusal(StatusCode::SERVICE_UNAVAILABLE, problem)
}

/// Reads a setup. The error says only where it went wrong: the texts of the parser quote values, and one of them is the
/// identity key.
pub(crate) fn parse_setup(body: &[u8]) -> Result<ClusterSetup, String> {
    serde_json::from_slice(body).map_err(|error| {
        let what = match error.classify() {
            serde_json::error::Category::Data => "a field is missing, unknown or of another kind",
            serde_json::error::Category::Eof => "it ends too early",
            serde_json::error::Category::Syntax | serde_json::error::Category::Io => "it is not JSON",
        };
        format!("{what}, at line {} column {}", error.line(), error.column())
    })
}

async fn set_cluster(State(shared): State<Shared>, request: HttpRequest) -> Response {
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
    if shared.requests.try_send(Request::Join(Box::new(setup), to)).is_err() {
        return busy();
    }
    match answer.await {
        Ok(Ok(place)) => Json(place.board.status()).into_response(),
        Ok(Err(problem)) => refusal(StatusCode::UNPROCESSABLE_ENTITY, problem),
        Err(_) => busy(),
    }
}

#[cfg(test)]
mod tests {
    use tower::ServiceExt as _;

    use super::*;

    fn places(dir: &tempfile::TempDir) -> (Arc<Places>, Arc<Place>) {
        let p2p = toml::from_str("listen = [\"/ip4/0.0.0.0/tcp/3610\"]").unwrap();
        let places = Arc::new(Places::new(p2p));
        let place = Arc::new(Place::open(0, crate::store::Store::open(dir.path()).unwrap()).unwrap());
        places.add(Arc::clone(&place));
        (places, place)
    }

    async fn get(places: &Arc<Places>, path: &str) -> (StatusCode, String) {
        let request = HttpRequest::builder().uri(path).body(axum::body::Body::empty()).unwrap();
        let (requests, _) = mpsc::channel(1);
        let shared = Shared::new(Arc::clone(places), Vec::new(), requests);
        let response = router(shared).oneshot(request).await.unwrap();
        let status = response.status();
        let body = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn readiness_is_told_with_its_reason() {
        let dir = tempfile::tempdir().unwrap();
        let (places, place) = places(&dir);
        assert_eq!(get(&places, "/livez").await, (StatusCode::OK, "ok".to_owned()));
        let unready = StatusCode::INTERNAL_SERVER_ERROR;
        assert_eq!(get(&places, "/readyz").await, (unready, "ready check uninitialised".to_owned()));
        place.board.set_ready(Err("beacon node down"));
        assert_eq!(get(&places, "/readyz").await, (unready, "beacon node down".to_owned()));
        place.board.set_ready(Ok(()));
        assert_eq!(get(&places, "/readyz").await, (StatusCode::OK, "ok".to_owned()));
    }

    #[tokio::test]
    async fn both_sets_of_metrics_stand_in_one_text() {
        let dir = tempfile::tempdir().unwrap();
        let (places, place) = places(&dir);
        let identity = crate::monitoring::Identity { hash: "0a1b2c3".to_owned(), ..Default::default() };
        let (_metrics, registry) = crate::monitoring::Monitoring::new(&identity);
        place.board.watch(registry);
        let (_, text) = get(&places, "/metrics").await;
        assert!(text.contains("hearth_dv_problems"), "{text}");
        assert!(text.contains("cluster_hash=\"0a1b2c3\""), "{text}");
        assert_eq!(text.matches("# EOF").count(), 1);
        assert!(text.ends_with("# EOF\n"));
    }

    #[tokio::test]
    async fn a_cluster_is_asked_for_by_its_lock_hash_and_the_first_one_without() {
        let dir = tempfile::tempdir().unwrap();
        let (places, place) = places(&dir);
        assert_eq!(get(&places, STATUS_PATH).await.0, StatusCode::OK, "before there is any");
        assert_eq!(get(&places, CLUSTERS_PATH).await.1, "[]");
        place.set_facts(Some(crate::places::Facts::remembered("aa".to_owned(), 2)));
        let entries: Vec<ClusterEntry> = serde_json::from_str(&get(&places, CLUSTERS_PATH).await.1).unwrap();
        assert_eq!((entries[0].lock_hash.as_str(), entries[0].share_index), ("0xaa", 2));
        assert_eq!(entries[0].listen, ["/ip4/0.0.0.0/tcp/3610"]);
        for path in [
            "/v1/clusters/0xaa",
            "/v1/clusters/AA",
            "/v1/clusters/aa/exits/files",
            "/v1/clusters/aa/preflight",
        ] {
            assert_eq!(get(&places, path).await.0, StatusCode::OK, "{path}");
        }
        for path in ["/v1/clusters/bb", "/v1/clusters/bb/preflight"] {
            let (status, text) = get(&places, path).await;
            assert!(status == StatusCode::NOT_FOUND && text.contains("cluster_unknown"), "{path} {text}");
        }
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
