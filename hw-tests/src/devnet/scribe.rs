//! Stands between a stock validator client and the validator API that it takes for its beacon node, passes everything on and
//! writes down every request with its answer.
//!
//! It judges nothing and changes nothing; [`crate::client_manners`] reads what it wrote.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use futures::FutureExt as _;
use tokio::sync::oneshot;

use super::DevnetError;
use super::api::{spawn, wait};
use super::witness::{MAX_BODY, end_to_end};

/// Requests written down; a client of a few validators makes some dozen in a slot.
const MAX_WRITTEN: usize = 50_000;
/// Longer bodies are not kept; nothing that is judged is longer.
const MAX_KEPT: usize = 512 * 1024;

/// One request and what came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exchange {
    /// When it came, by the wall clock.
    pub at_ms: u64,
    /// `GET`, `POST`.
    pub method: String,
    /// Without its query.
    pub path: String,
    /// What follows the question mark.
    pub query: String,
    /// What was sent.
    pub body: Bytes,
    /// Nothing while it is not answered; it stays so when the client gave up.
    pub answer: Option<Answer>,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// From the request to the end of the answer, or to the beginning of a stream of events.
    pub took_ms: u64,
    /// What was answered; empty for a stream of events.
    pub body: Bytes,
}

/// A listener of its own for one client. Dropping it closes it.
#[derive(Debug)]
pub struct Scribe {
    address: SocketAddr,
    written: Arc<Mutex<Vec<Exchange>>>,
    _end: oneshot::Sender<()>,
}

#[derive(Clone)]
struct Desk {
    api: Arc<str>,
    client: reqwest::Client,
    written: Arc<Mutex<Vec<Exchange>>>,
}

impl Scribe {
    /// Listens on loopback in front of the validator API at `api`, such as `http://127.0.0.1:3600`.
    ///
    /// # Errors
    /// When there is no port to listen on.
    ///
    /// # Panics
    /// When the HTTP client cannot be made, which only a broken build can cause.
    pub fn start(api: &str) -> Result<Self, DevnetError> {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder()
            .no_proxy()
            .build()
            .expect("a client without files or certificates can always be made");
        let written = Arc::new(Mutex::new(Vec::new()));
        let desk = Desk { api: api.trim_end_matches('/').into(), client, written: Arc::clone(&written) };
        let listener = wait(async { tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await });
        let problem = |source| DevnetError::File { path: "127.0.0.1".into(), source };
        let listener = listener.map_err(problem)?;
        let address = listener.local_addr().map_err(problem)?;
        let (end, ended) = oneshot::channel::<()>();
        let router = axum::Router::new().fallback(pass).with_state(desk);
        spawn(async move {
            // Ends with its owner; event streams that are still open end with the process.
            let _ = axum::serve(listener, router).with_graceful_shutdown(ended.map(|_| ())).await;
        });
        Ok(Self { address, written, _end: end })
    }

    /// What the client is told to be its beacon node.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// All that was written down until now, in the order in which it came.
    pub fn written(&self) -> Vec<Exchange> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn pass(State(desk): State<Desk>, request: Request) -> Response {
    match try_pass(&desk, request).await {
        Ok(response) => response,
        // The member is being started again, or gone: what a client sees then too.
        Err(problem) => (StatusCode::BAD_GATEWAY, problem).into_response(),
    }
}

async fn try_pass(desk: &Desk, request: Request) -> Result<Response, String> {
    let begun = Instant::now();
    let (parts, body) = request.into_parts();
    let target = parts.uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
    let body = axum::body::to_bytes(body, MAX_BODY).await.map_err(|error| error.to_string())?;
    let line = desk.begin(parts.method.as_str(), parts.uri.path(), parts.uri.query(), &body);
    let answer = desk
        .client
        .request(parts.method, format!("{}{target}", desk.api))
        .headers(end_to_end(&parts.headers))
        .body(body)
        .send()
        .await
        .map_err(|error| format!("the validator API does not answer: {error}"))?;
    let status = answer.status();
    let headers = end_to_end(answer.headers());
    let (body, said) = if parts.uri.path() == "/eth/v1/events" {
        (Body::from_stream(answer.bytes_stream()), Bytes::new())
    } else {
        let said = answer.bytes().await.map_err(|error| error.to_string())?;
        (Body::from(said.clone()), said)
    };
    desk.end(line, status.as_u16(), begun, &said);
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    Ok(response)
}

fn kept(body: &Bytes) -> Bytes {
    if body.len() > MAX_KEPT { Bytes::new() } else { body.clone() }
}

impl Desk {
    /// Writes a request down, and says in which line.
    fn begin(&self, method: &str, path: &str, query: Option<&str>, body: &Bytes) -> Option<usize> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        if written.len() >= MAX_WRITTEN {
            return None;
        }
        written.push(Exchange {
            at_ms: u64::try_from(now).unwrap_or(u64::MAX),
            method: method.to_owned(),
            path: path.to_owned(),
            query: query.unwrap_or_default().to_owned(),
            body: kept(body),
            answer: None,
        });
        Some(written.len() - 1)
    }

    fn end(&self, line: Option<usize>, status: u16, begun: Instant, said: &Bytes) {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(exchange) = line.and_then(|line| written.get_mut(line)) else { return };
        let took_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        exchange.answer = Some(Answer { status, took_ms, body: kept(said) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_passes_and_every_request_is_written_down_even_one_that_is_never_answered() {
        let api = axum::Router::new().fallback(|request: Request| async move {
            if request.uri().path() == "/never" {
                std::future::pending::<()>().await;
            }
            let path = request.uri().to_string();
            let body = axum::body::to_bytes(request.into_body(), MAX_BODY).await.unwrap_or_default();
            (StatusCode::BAD_REQUEST, [("x-api", "yes")], format!("{path} {}", body.len()))
        });
        let listener = wait(async { tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await }).unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        spawn(async move {
            let _ = axum::serve(listener, api).await;
        });
        let scribe = Scribe::start(&url).unwrap();
        let ask = |path: &str, limit_ms: u64| {
            let client = reqwest::Client::builder().no_proxy();
            let client = client.timeout(std::time::Duration::from_millis(limit_ms)).build().unwrap();
            let request = client.post(format!("{}{path}", scribe.url())).body("four");
            wait(async move {
                let answer = request.send().await.ok()?;
                Some((answer.headers().contains_key("x-api"), answer.text().await.unwrap()))
            })
        };
        assert_eq!(ask("/a/b?c=d", 20_000), Some((true, "/a/b?c=d 4".to_owned())));
        assert_eq!(ask("/never", 300), None);
        let written = scribe.written();
        let [first, second] = written.as_slice() else { panic!("{written:?}") };
        assert_eq!(
            (first.method.as_str(), first.path.as_str(), first.query.as_str()),
            ("POST", "/a/b", "c=d")
        );
        assert_eq!(first.body, "four");
        let answer = first.answer.as_ref().unwrap();
        assert_eq!((answer.status, &answer.body[..]), (400, &b"/a/b?c=d 4"[..]));
        assert_eq!((second.path.as_str(), &second.answer), ("/never", &None));
    }
}
