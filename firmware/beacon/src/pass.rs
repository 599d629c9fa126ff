//! Passing requests of a validator client on to beacon nodes, and their answers back as they are.

use std::time::Duration;

use bytes::Bytes;
use reqwest::header::HeaderMap;
use tokio::sync::mpsc;

use crate::error::{RequestError, is_of_a_proxy};
use crate::health::Health;
use crate::nodes::{BeaconNodes, Node, Use};
use crate::validator_api::ApiError;

/// Headers that belong to one connection, or that are made anew for the next one.
const NOT_PASSED: [&str; 12] = [
    "connection",
    "host",
    "content-length",
    "transfer-encoding",
    "keep-alive",
    "te",
    "trailer",
    "upgrade",
    "proxy-connection",
    "proxy-authorization",
    "proxy-authenticate",
    "expect",
];
/// No request that is passed on takes longer until its answer begins (obol.md 9.1).
const LIMIT_MS: u64 = 10_000;

/// An answer that was read to its end.
#[derive(Debug, Clone)]
pub(crate) struct Passed {
    pub(crate) status: u16,
    pub(crate) content_type: Option<String>,
    pub(crate) body: Bytes,
}

impl BeaconNodes {
    /// Asks one endpoint after the other until one answers, and reads the answer. A refusal is an answer: only when a node has
    /// failed is the next one asked.
    pub(crate) async fn pass_json(
        &self,
        method: &str,
        uri: &str,
        body: Option<Bytes>,
        max_bytes: usize,
    ) -> Result<Passed, ApiError> {
        let mut headers = HeaderMap::new();
        headers.insert("accept", reqwest::header::HeaderValue::from_static("application/json"));
        if body.is_some() {
            headers.insert("content-type", reqwest::header::HeaderValue::from_static("application/json"));
        }
        let answer = self.pass_to_one(method, uri, headers, body.unwrap_or_default()).await?;
        let status = answer.status().as_u16();
        let content_type =
            answer.headers().get("content-type").and_then(|kind| kind.to_str().ok()).map(str::to_owned);
        let read = crate::http::read_bounded(answer, max_bytes, LIMIT_MS);
        let body = match tokio::time::timeout(Duration::from_millis(LIMIT_MS), read).await {
            Ok(Ok(body)) => body.into(),
            Ok(Err(cause)) => {
                return Err(ApiError::new(502, format!("the beacon node's answer broke off: {cause}")));
            }
            Err(_) => return Err(ApiError::new(504, "the beacon node did not finish its answer in time")),
        };
        Ok(Passed { status, content_type, body })
    }

    /// Passes a request on to the first endpoint that answers.
    pub(crate) async fn pass_to_one(
        &self,
        method: &str,
        uri: &str,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<reqwest::Response, ApiError> {
        let headers = passable(&headers);
        let mut refused: Option<reqwest::Response> = None;
        let mut failed = None;
        for index in self.in_order() {
            let node = &self.shared.nodes[index];
            // A fallback is only for what the others could not answer at all.
            if node.is_fallback && refused.as_ref().is_some_and(is_of_a_node) {
                break;
            }
            match self.open(node, method, uri, headers.clone(), body.clone()).await {
                Ok(answer) if answer.status().is_server_error() => {
                    if is_of_a_node(&answer) || !refused.as_ref().is_some_and(is_of_a_node) {
                        refused = Some(answer);
                    }
                }
                Ok(answer) => return Ok(answer),
                Err(error) => {
                    node.state().failed(&error);
                    failed = Some(error);
                }
            }
        }
        refused.ok_or_else(|| none_answers(failed))
    }

    /// Passes a request on to every endpoint on our chain; the first good answer counts, else the last refusal.
    pub(crate) async fn pass_to_all(
        &self,
        method: &str,
        uri: &str,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<reqwest::Response, ApiError> {
        let headers = passable(&headers);
        let mut refused: Option<reqwest::Response> = None;
        let mut failed = None;
        for indices in self.same_chain() {
            if refused.as_ref().is_some_and(is_of_a_node) {
                break;
            }
            let mut answers = self.pass_to_these(indices, (method, uri), &headers, &body);
            while let Some(answer) = answers.recv().await {
                match answer {
                    Ok(answer) if answer.status().is_success() => return Ok(answer),
                    // What a node itself has said is not forgotten for what a proxy says before another one.
                    Ok(answer) if refused.as_ref().is_some_and(is_of_a_node) && !is_of_a_node(&answer) => {}
                    Ok(answer) => refused = Some(answer),
                    Err(error) => failed = Some(error),
                }
            }
        }
        refused.ok_or_else(|| none_answers(failed))
    }

    fn pass_to_these(
        &self,
        indices: Vec<usize>,
        (method, uri): (&str, &str),
        headers: &HeaderMap,
        body: &Bytes,
    ) -> mpsc::Receiver<Result<reqwest::Response, RequestError>> {
        let (to, answers) = mpsc::channel(indices.len().max(1));
        for index in indices {
            let (nodes, to, headers, body) = (self.clone(), to.clone(), headers.clone(), body.clone());
            let (method, uri) = (method.to_owned(), uri.to_owned());
            // A task of its own: the others go on after the first has succeeded.
            tokio::spawn(async move {
                let node = &nodes.shared.nodes[index];
                let answer = nodes.open(node, &method, &uri, headers, body).await;
                if let Err(error) = &answer {
                    node.state().failed(error);
                }
                let _ = to.send(answer).await; // Nobody waits any more: fine.
            });
        }
        answers
    }

    async fn open(
        &self,
        node: &Node,
        method: &str,
        uri: &str,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<reqwest::Response, RequestError> {
        let doing = "passing a request on";
        self.confirm(node, Use::Submit, doing).await?;
        node.endpoint.pass(doing, method, uri, headers, body, LIMIT_MS).await
    }

    /// Endpoints on our chain: the ready ones first, the least failing first among them. One that is syncing still tells so.
    /// Fallbacks after all others, unless none of those is ready.
    fn in_order(&self) -> Vec<usize> {
        let [first, fallbacks] = self.same_chain();
        let sorted = |indices: Vec<usize>| {
            let mut order: Vec<(bool, u32, usize)> = Vec::new();
            for index in indices {
                let state = self.shared.nodes[index].state();
                order.push((state.health != Health::Ready, state.strikes, index));
            }
            order.sort_unstable();
            order.into_iter().map(|(_, _, index)| index)
        };
        sorted(first).chain(sorted(fallbacks)).collect()
    }
}

/// Whether the node itself has answered, and not a proxy before a dead one.
fn is_of_a_node(answer: &reqwest::Response) -> bool {
    !is_of_a_proxy(answer.status().as_u16())
}

fn none_answers(failed: Option<RequestError>) -> ApiError {
    let why = failed.map_or_else(|| "none is on the cluster's chain".to_owned(), |error| error.to_string());
    ApiError::new(502, format!("no beacon node answers: {why}"))
}

/// What may go on to the next connection.
pub(crate) fn passable(headers: &HeaderMap) -> HeaderMap {
    let mut passed = HeaderMap::with_capacity(headers.len());
    for (name, value) in headers {
        if !NOT_PASSED.contains(&name.as_str()) {
            passed.append(name.clone(), value.clone());
        }
    }
    passed
}
