//! The client half: typed requests over a unix socket, with a deadline and a kept-alive connection.

use std::{
    path::{Path, PathBuf},
    sync::Mutex,
    time::Duration,
};

use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::{
    Method, Request, StatusCode,
    body::{Bytes, Incoming},
    client::conn::http1::SendRequest,
};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};

use crate::Problem;

/// How long a request may take unless [`Client::with_timeout`] says otherwise.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);
/// The largest answer taken unless [`Client::with_answer_limit`] says otherwise.
const MAX_ANSWER_BYTES: usize = 4 * 1024 * 1024;
/// Idle connections kept for the next request. HTTP/1.1 carries one request at a time, so a slot's burst uses several.
const MAX_IDLE: usize = 16;

/// Why a request to another daemon failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody answers on the socket.
    #[error("cannot reach {}: is the service running, and may this user open its socket?", .socket.display())]
    Unreachable {
        /// The socket.
        socket: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The connection broke in the middle of the exchange.
    #[error("the connection to {} broke", .socket.display())]
    Broken {
        /// The socket.
        socket: PathBuf,
        /// What HTTP said.
        #[source]
        source: hyper::Error,
    },
    /// No answer in time. The other side may or may not have acted.
    #[error("no answer from {} within {} ms", .socket.display(), .timeout.as_millis())]
    Timeout {
        /// The socket.
        socket: PathBuf,
        /// The deadline.
        timeout: Duration,
    },
    /// The other side refused, and said why.
    #[error("refused with status {status}: {problem}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// The reason.
        problem: Problem,
    },
    /// The answer is not what the contract says.
    #[error("{} gave an answer that is too large or malformed ({reason})", .socket.display())]
    Malformed {
        /// The socket.
        socket: PathBuf,
        /// In which way.
        reason: String,
    },
}

/// Talks to one daemon's socket. Cheap to share behind an `Arc`; connections are opened when needed.
#[derive(Debug)]
pub struct Client {
    socket: PathBuf,
    timeout: Duration,
    answer_bytes: usize,
    idle: Mutex<Vec<SendRequest<Full<Bytes>>>>,
}

impl Client {
    /// A client of the daemon listening at `socket`. Nothing is opened yet.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self {
            socket: socket.into(),
            timeout: DEFAULT_TIMEOUT,
            answer_bytes: MAX_ANSWER_BYTES,
            idle: Mutex::new(Vec::new()),
        }
    }

    /// The same with another deadline for each whole exchange.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The same for larger or smaller answers.
    #[must_use]
    pub fn with_answer_limit(mut self, bytes: usize) -> Self {
        self.answer_bytes = bytes;
        self
    }

    /// The socket it talks to.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// `GET`, answer parsed as JSON.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        let body = self.exchange(Method::GET, path, Bytes::new()).await?;
        self.parse(&body)
    }

    /// `GET`, answer as text: `/metrics` and `/upcheck`.
    pub async fn get_text(&self, path: &str) -> Result<String, ClientError> {
        let body = self.exchange(Method::GET, path, Bytes::new()).await?;
        String::from_utf8(body.to_vec()).map_err(|_| self.malformed("not UTF-8".to_owned()))
    }

    /// `PUT` a JSON document, answer parsed as JSON (an empty answer reads as `null`).
    pub async fn put<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        self.send(Method::PUT, path, body).await
    }

    /// `POST` a JSON document, answer parsed as JSON (an empty answer reads as `null`).
    pub async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        self.send(Method::POST, path, body).await
    }

    /// `POST` a JSON document that is text already.
    pub async fn post_text<T: DeserializeOwned>(&self, path: &str, body: String) -> Result<T, ClientError> {
        let answer = self.exchange(Method::POST, path, Bytes::from(body)).await?;
        self.parse(&answer)
    }

    /// `DELETE`, answer parsed as JSON.
    pub async fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        let body = self.exchange(Method::DELETE, path, Bytes::new()).await?;
        self.parse(&body)
    }

    async fn send<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        let text = serde_json::to_vec(body).map_err(|error| self.malformed(error.to_string()))?;
        let answer = self.exchange(method, path, Bytes::from(text)).await?;
        self.parse(&answer)
    }

    fn parse<T: DeserializeOwned>(&self, body: &[u8]) -> Result<T, ClientError> {
        let body = if body.is_empty() { b"null" } else { body };
        serde_json::from_slice(body).map_err(|error| self.malformed(error.to_string()))
    }

    fn malformed(&self, reason: String) -> ClientError {
        ClientError::Malformed { socket: self.socket.clone(), reason }
    }

    async fn exchange(&self, method: Method, path: &str, body: Bytes) -> Result<Bytes, ClientError> {
        tokio::time::timeout(self.timeout, self.exchange_within_deadline(&method, path, &body))
            .await
            .unwrap_or_else(|_| {
                Err(ClientError::Timeout { socket: self.socket.clone(), timeout: self.timeout })
            })
    }

    async fn exchange_within_deadline(
        &self,
        method: &Method,
        path: &str,
        body: &Bytes,
    ) -> Result<Bytes, ClientError> {
        // A kept connection may have been closed by the other side since. Every request on these sockets may be
        // repeated safely (signing the same message twice is allowed), so it is tried once more on a fresh one.
        while let Some(mut kept) = self.take_idle() {
            if kept.ready().await.is_err() {
                continue;
            }
            match kept.send_request(self.request(method, path, body)?).await {
                Ok(response) => return self.finish(kept, response).await,
                Err(error) => tracing::debug!(%error, "a kept connection was gone"),
            }
        }
        let mut fresh = self.connect().await?;
        let response = fresh
            .send_request(self.request(method, path, body)?)
            .await
            .map_err(|source| ClientError::Broken { socket: self.socket.clone(), source })?;
        self.finish(fresh, response).await
    }

    fn request(
        &self,
        method: &Method,
        path: &str,
        body: &Bytes,
    ) -> Result<Request<Full<Bytes>>, ClientError> {
        Request::builder()
            .method(method)
            .uri(path)
            .header("host", "localhost")
            .header("accept", "application/json")
            .header("content-type", "application/json")
            .body(Full::new(body.clone()))
            .map_err(|error| self.malformed(format!("path {path:?}: {error}")))
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, ClientError> {
        let unreachable = |source| ClientError::Unreachable { socket: self.socket.clone(), source };
        let stream = tokio::net::UnixStream::connect(&self.socket).await.map_err(unreachable)?;
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|source| ClientError::Broken { socket: self.socket.clone(), source })?;
        // Ends by itself when the sender is dropped or the other side hangs up.
        tokio::spawn(connection);
        Ok(sender)
    }

    async fn finish(
        &self,
        sender: SendRequest<Full<Bytes>>,
        response: hyper::Response<Incoming>,
    ) -> Result<Bytes, ClientError> {
        let status = response.status();
        let body = Limited::new(response.into_body(), self.answer_bytes)
            .collect()
            .await
            .map_err(|error| {
                self.malformed(if error.is::<LengthLimitError>() {
                    format!("larger than {} bytes", self.answer_bytes)
                } else {
                    error.to_string()
                })
            })?
            .to_bytes();
        self.keep_idle(sender);
        if status.is_success() { Ok(body) } else { Err(self.refusal(status, &body)) }
    }

    fn refusal(&self, status: StatusCode, body: &[u8]) -> ClientError {
        let problem = serde_json::from_slice(body).unwrap_or_else(|_| {
            let text: String = String::from_utf8_lossy(body).chars().take(200).collect();
            Problem::new("unexplained", text, format!("Look into the log of {}.", self.socket.display()))
        });
        ClientError::Refused { status: status.as_u16(), problem }
    }

    fn take_idle(&self) -> Option<SendRequest<Full<Bytes>>> {
        self.idle.lock().unwrap_or_else(std::sync::PoisonError::into_inner).pop()
    }

    fn keep_idle(&self, sender: SendRequest<Full<Bytes>>) {
        let mut idle = self.idle.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if idle.len() < MAX_IDLE && !sender.is_closed() {
            idle.push(sender);
        }
    }
}
