//! The server half: an axum router on a unix socket that answers only the users on its list.

use std::{collections::BTreeSet, time::Duration};

use axum::{
    Json, Router,
    body::Bytes,
    extract::{DefaultBodyLimit, FromRequest, Request},
    http::{StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use nix::unistd::{Uid, User};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::error::Category;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{UnixListener, UnixStream},
};

use crate::Problem;

/// The users that may talk on one socket, by name or number, as written in the configuration. Root has no special
/// place: a socket that lists no user answers nobody.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct CallerNames(Vec<CallerName>);

/// One user.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum CallerName {
    /// A user number.
    Uid(u32),
    /// A user name; `self` means the user the daemon itself runs as (native members and tests).
    Name(String),
}

impl CallerNames {
    /// A list of these users.
    pub fn new(names: Vec<CallerName>) -> Self {
        Self(names)
    }

    /// Looks the names up. A name that does not exist is logged and left out, so nobody is let in by mistake.
    pub fn resolve(&self) -> AllowedCallers {
        let mut uids = BTreeSet::new();
        for name in &self.0 {
            match name {
                CallerName::Uid(uid) => {
                    uids.insert(*uid);
                }
                CallerName::Name(name) if name == "self" => {
                    uids.insert(Uid::effective().as_raw());
                }
                CallerName::Name(name) => match User::from_name(name) {
                    Ok(Some(user)) => {
                        uids.insert(user.uid.as_raw());
                    }
                    Ok(None) | Err(_) => {
                        tracing::warn!(user = %name, "no such user: it is left out of the allowed callers");
                    }
                },
            }
        }
        AllowedCallers { uids }
    }
}

/// The users that may talk on one socket.
#[derive(Clone, Debug)]
pub struct AllowedCallers {
    uids: BTreeSet<u32>,
}

impl AllowedCallers {
    /// Whether this user is one of them.
    pub fn permits(&self, uid: u32) -> bool {
        self.uids.contains(&uid)
    }
}

/// Who is on the other end, as the kernel says. In every request's extensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// User number.
    pub uid: u32,
}

/// What one socket takes.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Largest request body.
    pub body_bytes: usize,
    /// How long a handler may take, reading the body included.
    pub request_timeout: Duration,
    /// How long a connection may sit idle or take to send its headers.
    pub idle_timeout: Duration,
    /// Connections at once; more wait their turn.
    pub connections: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body_bytes: 256 * 1024,
            request_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(120),
            connections: 64,
        }
    }
}

/// A request's body, read as JSON. In place of axum's own extractor, whose refusals quote what they found: bodies here
/// hold identity keys and keystores, and a refusal is shown and logged.
pub struct Body<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Response;

    async fn from_request(request: Request, state: &S) -> Result<Self, Response> {
        read_json(&bytes_of(request, state).await?)
            .map(Self)
            .map_err(|(status, problem)| refusal(status, problem))
    }
}

/// The same for large bodies of free form: with more than so many parts it is not read at all. Eight bytes of JSON can be six
/// hundred in memory.
pub struct CountedBody<T, const PARTS: usize>(pub T);

impl<T: DeserializeOwned, S: Send + Sync, const PARTS: usize> FromRequest<S> for CountedBody<T, PARTS> {
    type Rejection = Response;

    async fn from_request(request: Request, state: &S) -> Result<Self, Response> {
        let bytes = bytes_of(request, state).await?;
        if bytes.iter().filter(|byte| b",:[{".contains(byte)).count() > PARTS {
            let problem = Problem::new(
                "request_too_many_parts",
                format!("The request has more than {PARTS} parts."),
                "Send less at once.",
            );
            return Err(refusal(StatusCode::PAYLOAD_TOO_LARGE, problem));
        }
        read_json(&bytes).map(Self).map_err(|(status, problem)| refusal(status, problem))
    }
}

async fn bytes_of<S: Send + Sync>(request: Request, state: &S) -> Result<Bytes, Response> {
    let kind = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    if !kind.is_some_and(|kind| kind.starts_with("application/json")) {
        let problem = Problem::new(
            "request_invalid",
            "The request does not say that it is JSON.",
            "Send it with `content-type: application/json`.",
        );
        return Err(refusal(StatusCode::UNSUPPORTED_MEDIA_TYPE, problem));
    }
    Bytes::from_request(request, state).await.map_err(|rejection| {
        let problem = Problem::new(
            "request_unreadable",
            "The request is too large or was cut off.",
            "Send less at once, and try again.",
        );
        refusal(rejection.status(), problem)
    })
}

/// The answer's status, and why the body is not what was asked for.
fn read_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, (StatusCode, Problem)> {
    serde_json::from_slice(bytes).map_err(|error| {
        let (status, what) = match error.classify() {
            Category::Io | Category::Eof | Category::Syntax => (StatusCode::BAD_REQUEST, "is not JSON"),
            Category::Data => {
                (StatusCode::UNPROCESSABLE_ENTITY, "has a missing, unknown or unfitting member")
            }
        };
        let place = format!("line {}, column {}", error.line(), error.column());
        let problem = Problem::new(
            "request_invalid",
            format!("The request {what} ({place}). Its content is not shown here, for it may be secret."),
            "Send it as documented; the page does so by itself.",
        );
        (status, problem)
    })
}

/// Answers requests on `listener` until the future is dropped.
pub async fn serve(listener: UnixListener, router: Router, callers: AllowedCallers, limits: Limits) {
    let router = bounded(router, limits);
    let refusing = bounded(Router::new().fallback(refuse_caller), limits);
    let places = std::sync::Arc::new(tokio::sync::Semaphore::new(limits.connections));
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let Ok(place) = std::sync::Arc::clone(&places).acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of file descriptors, for one: wait for some connection to end.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        while connections.try_join_next().is_some() {}
        let Some(caller) = caller_of(&stream) else { continue };
        let service = if callers.permits(caller.uid) {
            router.clone()
        } else {
            tracing::warn!(uid = caller.uid, "a user that is not on the socket's list was refused");
            refusing.clone()
        };
        let service = service.layer(axum::Extension(caller));
        connections.spawn(async move {
            converse(stream, service, limits).await;
            drop(place);
        });
    }
}

/// Answers the requests of one connection until it ends. The router has its own bounds; see [`bounded`].
pub async fn converse<S: AsyncRead + AsyncWrite + Unpin>(stream: S, router: Router, limits: Limits) {
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.idle_timeout)
        .max_headers(64)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a connection ended badly");
    }
}

/// Who is on the other end, as the kernel says; none when it does not.
pub fn caller_of(stream: &UnixStream) -> Option<Caller> {
    match stream.peer_cred() {
        Ok(credentials) => Some(Caller { uid: credentials.uid() }),
        Err(error) => {
            tracing::warn!(%error, "the kernel does not say who called: refused");
            None
        }
    }
}

/// The same routes, with bounds on bodies and time.
pub fn bounded(router: Router, limits: Limits) -> Router {
    router.layer(DefaultBodyLimit::max(limits.body_bytes)).layer(middleware::from_fn(
        move |request: Request, next: Next| async move {
            match tokio::time::timeout(limits.request_timeout, next.run(request)).await {
                Ok(response) => response,
                Err(_) => refusal(
                    StatusCode::SERVICE_UNAVAILABLE,
                    Problem::new(
                        "timeout",
                        "The request took too long.",
                        "Try again; if it persists, restart the box.",
                    ),
                ),
            }
        },
    ))
}

async fn refuse_caller(caller: axum::Extension<Caller>) -> Response {
    refusal(
        StatusCode::FORBIDDEN,
        Problem::new(
            "caller_not_allowed",
            format!("User {} may not use this socket.", caller.uid),
            "Call as a user listed under `callers` in the service's configuration.",
        ),
    )
}

/// An error answer: a status and the problem as JSON.
pub fn refusal(status: StatusCode, problem: Problem) -> Response {
    (status, Json(problem)).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Client, ClientError};
    use axum::routing::{get, post};
    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    fn start(callers: Vec<CallerName>, limits: Limits) -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("test.sock");
        let listener = crate::listen::Inherited::default().take("test", Some(&path)).unwrap();
        let router = Router::new()
            .route("/answer", get(|| async { Json(42) }))
            .route("/echo", post(|body: Json<serde_json::Value>| async { body }))
            .route("/hang", get(|| async { std::future::pending::<()>().await }));
        tokio::spawn(serve(listener, router, CallerNames::new(callers).resolve(), limits));
        (dir, path)
    }

    fn me() -> Vec<CallerName> {
        vec![CallerName::Name("self".to_owned())]
    }

    #[tokio::test]
    async fn an_allowed_caller_is_answered_over_one_connection() {
        let (_dir, path) = start(me(), Limits { connections: 1, ..Limits::default() });
        let client = Client::new(path);
        // One place only: a second connection would wait for ever.
        for _ in 0..3 {
            assert_eq!(client.get::<u64>("/answer").await.unwrap(), 42);
        }
        let echoed: serde_json::Value = client.post("/echo", &serde_json::json!({"a": 1})).await.unwrap();
        assert_eq!(echoed["a"], 1);
    }

    #[tokio::test]
    async fn a_caller_that_is_not_listed_gets_a_clear_403() {
        let somebody_else = Uid::effective().as_raw().wrapping_add(1);
        for list in
            [vec![CallerName::Uid(somebody_else)], vec![], vec![CallerName::Name("nobody-at-all".into())]]
        {
            let (_dir, path) = start(list, Limits::default());
            match Client::new(path).get::<u64>("/answer").await {
                Err(ClientError::Refused { status: 403, problem }) => {
                    assert_eq!(problem.code, "caller_not_allowed")
                }
                other => panic!("{other:?}"),
            }
        }
    }

    #[tokio::test]
    async fn bodies_and_patience_are_bounded() {
        let limits =
            Limits { body_bytes: 1000, request_timeout: Duration::from_millis(50), ..Limits::default() };
        let (_dir, path) = start(me(), limits);
        let client = Client::new(path);
        let large = "x".repeat(2000);
        match client.post::<serde_json::Value>("/echo", &large).await {
            Err(ClientError::Refused { status: 413, .. }) => {}
            other => panic!("{other:?}"),
        }
        match client.get::<()>("/hang").await {
            Err(ClientError::Refused { status: 503, problem }) => assert_eq!(problem.code, "timeout"),
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn a_missing_daemon_is_unreachable_and_a_silent_one_times_out() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("none.sock");
        assert!(matches!(Client::new(&path).get::<()>("/x").await, Err(ClientError::Unreachable { .. })));
        let _silent = UnixListener::bind(&path).unwrap();
        let client = Client::new(&path).with_timeout(Duration::from_millis(50));
        assert!(matches!(client.get::<()>("/x").await, Err(ClientError::Timeout { .. })));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn garbage_does_not_stop_the_server(garbage in proptest::collection::vec(any::<u8>(), 0..2000)) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let (_dir, path) = start(me(), Limits { idle_timeout: Duration::from_millis(50), ..Limits::default() });
                let mut stream = UnixStream::connect(&path).await.unwrap();
                // The server may hang up while we still write.
                let _ = stream.write_all(&garbage).await;
                let _ = stream.shutdown().await;
                let mut answer = Vec::new();
                let _ = stream.read_to_end(&mut answer).await;
                assert_eq!(Client::new(path).get::<u64>("/answer").await.unwrap(), 42);
            });
        }
    }

    #[tokio::test]
    async fn a_refused_body_is_not_quoted() {
        use crate::ClusterSetup;
        const SECRET: &str = "5ec4e75ec4e75ec4e75ec4e75ec4e75ec4e75ec4e75ec4e75ec4e75ec4e75ec4";
        let members = r#""lock":{},"beacon_nodes":[],"peers":[]"#;
        for (body, status) in [
            (format!("\"{SECRET}\""), 422),
            (SECRET.to_owned(), 400),
            (format!("{{\"{SECRET}\":1}}"), 422),
            (format!("{{{members},\"identity_key\":[\"{SECRET}\"]}}"), 422),
            (format!("{{{members},\"identity_key\":{{\"key\":\"{SECRET}\"}}}}"), 422),
            (format!("{{\"lock\":{{}},\"beacon_nodes\":\"{SECRET}\"}}"), 422),
            (format!("{{{members},\"identity_key\":\"{SECRET}"), 400),
        ] {
            let request = Request::post("/")
                .header(header::CONTENT_TYPE, "application/json")
                .body(axum::body::Body::from(body))
                .unwrap();
            let Err(answer) = Body::<ClusterSetup>::from_request(request, &()).await else {
                panic!("accepted")
            };
            assert_eq!(answer.status().as_u16(), status);
            let shown = axum::body::to_bytes(answer.into_body(), 10_000).await.unwrap();
            let shown = String::from_utf8(shown.to_vec()).unwrap();
            assert!(!shown.contains("5ec4e7"), "{shown}");
            assert!(shown.contains("request_invalid"), "{shown}");
        }
        let plain = Request::post("/").body(axum::body::Body::from("{}")).unwrap();
        let Err(answer) = Body::<serde_json::Value>::from_request(plain, &()).await else {
            panic!("accepted")
        };
        assert_eq!(answer.status().as_u16(), 415);
    }
}
