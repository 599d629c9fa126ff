//! The HTTP server: bounded in connections, bodies and time.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, HeaderValue, StatusCode, request::Parts};
use axum::response::Response;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use super::api::{Answer, Request, ValidatorApi};
use super::cluster::Cluster;
use super::reply::{ApiError, Reply};
use super::route::{Route, route};
use crate::pass::passable;

/// A block with its blobs in JSON, the largest thing that is sent.
const MAX_BLOCK: usize = 40 * 1024 * 1024;
/// Everything else.
const MAX_BODY: usize = 8 * 1024 * 1024;

/// What a server takes.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections at once; more wait their turn.
    pub connections: usize,
    /// How long a connection may sit idle or take to send its headers.
    pub idle: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections: 64, idle: Duration::from_secs(120) }
    }
}

/// Answers validator clients until the future is dropped.
pub async fn serve<C: Cluster>(listener: TcpListener, api: Arc<ValidatorApi<C>>, limits: Limits) {
    let places = Arc::new(Semaphore::new(limits.connections));
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of file descriptors, for one: wait for some connection to end.
                tracing::warn!(%error, "cannot accept a validator client's connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        while connections.try_join_next().is_some() {}
        let _ = stream.set_nodelay(true); // Slower without, not wrong.
        let api = Arc::clone(&api);
        let service = axum::Router::new().fallback(move |request: axum::extract::Request| {
            let api = Arc::clone(&api);
            async move { handle(&api, request).await }
        });
        connections.spawn(async move {
            let served = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(limits.idle)
                .max_headers(64)
                .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service))
                .await;
            if let Err(error) = served {
                tracing::debug!(%error, "a validator client's connection ended badly");
            }
            drop(place);
        });
    }
}

async fn handle<C: Cluster>(api: &ValidatorApi<C>, request: axum::extract::Request) -> Response {
    api.requests.fetch_add(1, Ordering::Relaxed);
    let (parts, body) = request.into_parts();
    let (method, path) = (parts.method.as_str().to_owned(), parts.uri.path().to_owned());
    let result = match route(&method, &path) {
        // Without an end.
        Ok(Route::Events) => events(api, parts).await,
        Ok(route) => {
            let whole = respond(api, route, parts, body);
            match tokio::time::timeout(api.patience.whole, whole).await {
                Ok(result) => result,
                Err(_) => Err(ApiError::new(408, "client cancelled request: nothing came in time")),
            }
        }
        Err(error) => Err(error),
    };
    result.unwrap_or_else(|error| {
        tracing::debug!(%method, %path, status = error.status, message = %error.message, "a validator client was refused");
        refusal(&error)
    })
}

async fn respond<C: Cluster>(
    api: &ValidatorApi<C>,
    route: Route,
    parts: Parts,
    body: Body,
) -> Result<Response, ApiError> {
    let limit = if matches!(route, Route::SubmitBlock { .. }) { MAX_BLOCK } else { MAX_BODY };
    let body = to_bytes(body, limit)
        .await
        .map_err(|_| ApiError::new(413, format!("the body is larger than {limit} bytes or was cut off")))?;
    let header =
        |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let uri = parts.uri.path_and_query().map_or("/", |uri| uri.as_str());
    if !uri.starts_with('/') {
        return Err(ApiError::bad("not a path"));
    }
    if route == Route::Proxied {
        // What changes something there goes to every beacon node, as our own submissions do.
        let everywhere =
            parts.method.as_str() == "POST" && !uri.contains("/liveness/") && !uri.contains("/states/");
        let answer = if everywhere {
            api.nodes.pass_to_all(parts.method.as_str(), uri, parts.headers, body).await?
        } else {
            api.nodes.pass_to_one(parts.method.as_str(), uri, parts.headers, body).await?
        };
        return Ok(passed(answer));
    }
    if header("content-encoding").is_some_and(|encoding| !encoding.eq_ignore_ascii_case("identity")) {
        return Err(ApiError::unsupported("compressed bodies are not read"));
    }
    let request = Request {
        method: parts.method.as_str().to_owned(),
        uri: uri.to_owned(),
        accept: header("accept"),
        content_type: header("content-type"),
        consensus_version: header("eth-consensus-version"),
        body,
    };
    Ok(match api.answer(route, &request).await? {
        Answer::Own(reply) => own(reply),
        Answer::Passed(answer) => {
            let mut response = Response::new(Body::from(answer.body.clone()));
            *response.status_mut() = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::BAD_GATEWAY);
            if let Some(kind) =
                answer.content_type.as_deref().and_then(|kind| HeaderValue::from_str(kind).ok())
            {
                response.headers_mut().insert("content-type", kind);
            }
            response
        }
    })
}

/// One beacon node's stream of events, for as long as both sides want.
async fn events<C: Cluster>(api: &ValidatorApi<C>, parts: Parts) -> Result<Response, ApiError> {
    let uri = parts.uri.path_and_query().map_or("/", |uri| uri.as_str());
    let answer = api.nodes.pass_to_one("GET", uri, parts.headers, bytes::Bytes::new()).await?;
    Ok(passed(answer))
}

fn own(reply: Reply) -> Response {
    let mut response = Response::new(Body::from(reply.body));
    let headers = response.headers_mut();
    if let Some(kind) = reply.content_type {
        headers.insert("content-type", HeaderValue::from_static(kind));
    }
    for (name, value) in &reply.headers {
        if let Ok(value) = HeaderValue::from_str(value) {
            insert(headers, name, value);
        }
    }
    response
}

fn insert(headers: &mut HeaderMap, name: &str, value: HeaderValue) {
    if let Ok(name) = axum::http::HeaderName::try_from(name) {
        headers.insert(name, value);
    }
}

/// A beacon node's answer as it is: status, headers, and the body as it comes.
fn passed(answer: reqwest::Response) -> Response {
    let status = answer.status();
    let headers = passable(answer.headers());
    let mut response = Response::new(Body::from_stream(answer.bytes_stream()));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

fn refusal(error: &ApiError) -> Response {
    let mut response = Response::new(Body::from(error.body()));
    *response.status_mut() = StatusCode::from_u16(error.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/json"));
    response
}
