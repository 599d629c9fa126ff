//! One endpoint: bounded, timed HTTP with errors that can be read.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use chain::UnixMillis;
use reqwest::header::HeaderMap;
use serde::de::DeserializeOwned;

use crate::error::{Cause, ConfigError, RequestError};
use crate::wire::{FailureWire, FailuresWire};

/// How much of a node's own error text is kept.
const MAX_MESSAGE_CHARS: usize = 300;
/// How much of an error body is read.
const MAX_ERROR_BODY: usize = 64 * 1024;
/// How many refused items of one list are kept.
const MAX_FAILURES: usize = 1024;
/// How much of a path, or of what is no address at all, is shown.
const HINT_CHARS: usize = 4;

/// The reading of a `Date` header together with our clock around the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DateReading {
    /// Our clock when the request left.
    pub(crate) sent: UnixMillis,
    /// Our clock when the headers of the answer were there.
    pub(crate) received: UnixMillis,
    /// The node's clock, cut to a whole second.
    pub(crate) date_s: u64,
}

/// A successful answer.
pub(crate) struct Answer {
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
    pub(crate) date: Option<DateReading>,
}

impl Answer {
    /// Whether the body is SSZ; without a content type it is JSON.
    pub(crate) fn is_ssz(&self) -> bool {
        self.header("content-type").is_some_and(|kind| kind.starts_with(SSZ))
    }

    /// A header that is text.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// Media types.
pub(crate) const JSON: &str = "application/json";
/// See [`JSON`].
pub(crate) const SSZ: &str = "application/octet-stream";
/// Prysm answers 406 on many routes to anything but JSON, so that is always named too.
const SSZ_OR_JSON: &str = "application/octet-stream;q=1.0,application/json;q=0.9";

/// One beacon node's address with a connection pool of its own.
#[derive(Debug, Clone)]
pub(crate) struct Endpoint {
    base: String,
    /// What stands before the paths of the beacon API; empty where nothing does. Providers that charge have the owner's key there.
    prefix: String,
    name: String,
    http: reqwest::Client,
}

impl Endpoint {
    /// Accepts `http://` and `https://` addresses, with or without a path prefix.
    pub(crate) fn new(url: &str) -> Result<Self, ConfigError> {
        let bad = |why: String| ConfigError::BadUrl(redact(url), why);
        let parsed = reqwest::Url::parse(url.trim()).map_err(|error| bad(error.to_string()))?;
        if !matches!(parsed.scheme(), "http" | "https") {
            return Err(bad("only http and https are spoken".to_owned()));
        }
        if parsed.query().is_some() || parsed.fragment().is_some() {
            return Err(bad("it must not contain ? or #".to_owned()));
        }
        // Another part of the process may have installed the same provider already; that is fine.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(Duration::from_secs(2))
            .pool_max_idle_per_host(4)
            .pool_idle_timeout(Duration::from_secs(30))
            .tcp_nodelay(true)
            .build()
            .map_err(|error| ConfigError::Client(error.to_string()))?;
        let base = parsed.as_str().trim_end_matches('/').to_owned();
        let prefix = parsed.path().trim_end_matches('/').to_owned();
        Ok(Self { name: redact(&base), prefix, base, http })
    }

    /// How it is named wherever somebody may look: without user name and password, and with a hint of the path, which may be a
    /// key, too.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn fail(&self, doing: &'static str, cause: Cause) -> RequestError {
        RequestError { endpoint: self.name.clone(), doing, cause: self.without_prefix(cause) }
    }

    /// A server that does not know a path likes to repeat it.
    fn without_prefix(&self, cause: Cause) -> Cause {
        if self.prefix.is_empty() {
            return cause;
        }
        let hidden = |text: String| text.replace(&self.prefix, "/\u{2026}");
        match cause {
            Cause::Unreachable(text) => Cause::Unreachable(hidden(text)),
            Cause::NotCurrentSlot(text) => Cause::NotCurrentSlot(hidden(text)),
            Cause::Syncing(text) => Cause::Syncing(hidden(text)),
            Cause::Unreadable(text) => Cause::Unreadable(hidden(text)),
            Cause::Refused { status, message, items } => Cause::Refused {
                status,
                message: hidden(message),
                items: items.into_iter().map(|(item, text)| (item, hidden(text))).collect(),
            },
            Cause::TimedOut { .. } | Cause::TooLarge { .. } | Cause::Unfitting(_) | Cause::NotUsable(_) => {
                cause
            }
        }
    }

    /// `GET path`, JSON answer of at most `max_bytes`.
    pub(crate) async fn get<T: DeserializeOwned>(
        &self,
        doing: &'static str,
        path: &str,
        limits: Limits,
    ) -> Result<(T, Option<DateReading>), RequestError> {
        let request = self.http.get(format!("{}{path}", self.base)).header("accept", JSON);
        let answer = self.send(doing, request, limits).await?;
        let value = self.parse(doing, &answer.body)?;
        Ok((value, answer.date))
    }

    /// `GET path`, in SSZ if the node can; the caller reads the raw answer.
    pub(crate) async fn get_ssz(
        &self,
        doing: &'static str,
        path: &str,
        limits: Limits,
    ) -> Result<Answer, RequestError> {
        let request = self.http.get(format!("{}{path}", self.base)).header("accept", SSZ_OR_JSON);
        self.send(doing, request, limits).await
    }

    /// `POST path` with a JSON body; the caller reads the raw answer.
    pub(crate) async fn post(
        &self,
        doing: &'static str,
        path: &str,
        headers: &[(&'static str, &str)],
        body: impl Into<Bytes>,
        limits: Limits,
    ) -> Result<Answer, RequestError> {
        self.post_as(doing, path, headers, JSON, body, limits).await
    }

    /// `POST path` with a body of this media type.
    pub(crate) async fn post_as(
        &self,
        doing: &'static str,
        path: &str,
        headers: &[(&'static str, &str)],
        content_type: &'static str,
        body: impl Into<Bytes>,
        limits: Limits,
    ) -> Result<Answer, RequestError> {
        let mut request = self
            .http
            .post(format!("{}{path}", self.base))
            .header("content-type", content_type)
            .header("accept", JSON)
            .body(body.into());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send(doing, request, limits).await
    }

    /// Passes a request on; only the wait for the answer's headers is limited.
    pub(crate) async fn pass(
        &self,
        doing: &'static str,
        method: &str,
        uri: &str,
        headers: HeaderMap,
        body: Bytes,
        limit_ms: u64,
    ) -> Result<reqwest::Response, RequestError> {
        let method = reqwest::Method::from_bytes(method.as_bytes())
            .map_err(|_| self.fail(doing, Cause::Unfitting("not a method".to_owned())))?;
        let mut request = self.http.request(method, format!("{}{uri}", self.base)).headers(headers);
        if !body.is_empty() {
            request = request.body(body);
        }
        match tokio::time::timeout(Duration::from_millis(limit_ms), request.send()).await {
            Err(_) => Err(self.fail(doing, Cause::TimedOut { limit_ms })),
            Ok(Err(error)) => Err(self.fail(doing, transport_cause(&error, limit_ms))),
            Ok(Ok(response)) => Ok(response),
        }
    }

    /// Opens the events stream. Only the wait for the headers is limited; the body has no end.
    pub(crate) async fn open_stream(
        &self,
        doing: &'static str,
        path: &str,
        limit_ms: u64,
    ) -> Result<reqwest::Response, RequestError> {
        let request = self.http.get(format!("{}{path}", self.base)).header("accept", "text/event-stream");
        let sent = tokio::time::timeout(Duration::from_millis(limit_ms), request.send()).await;
        let response = match sent {
            Err(_) => return Err(self.fail(doing, Cause::TimedOut { limit_ms })),
            Ok(Err(error)) => return Err(self.fail(doing, transport_cause(&error, limit_ms))),
            Ok(Ok(response)) => response,
        };
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status().as_u16();
        let body = read_bounded(response, MAX_ERROR_BODY, limit_ms).await.unwrap_or_default();
        Err(self.fail(doing, refusal(status, &body)))
    }

    pub(crate) fn parse<T: DeserializeOwned>(
        &self,
        doing: &'static str,
        body: &[u8],
    ) -> Result<T, RequestError> {
        serde_json::from_slice(body)
            .map_err(|error| self.fail(doing, Cause::Unreadable(shorten(&error.to_string()))))
    }

    async fn send(
        &self,
        doing: &'static str,
        request: reqwest::RequestBuilder,
        limits: Limits,
    ) -> Result<Answer, RequestError> {
        let whole = async {
            let sent = now();
            let response = request.send().await.map_err(|error| transport_cause(&error, limits.limit_ms))?;
            let received = now();
            let status = response.status();
            let date = date_of(&response).map(|date_s| DateReading { sent, received, date_s });
            if status.is_success() {
                let headers = response.headers().clone();
                let body = read_bounded(response, limits.max_bytes, limits.limit_ms).await?;
                return Ok(Answer { headers, body, date });
            }
            let body = read_bounded(response, MAX_ERROR_BODY, limits.limit_ms).await.unwrap_or_default();
            Err(refusal(status.as_u16(), &body))
        };
        match tokio::time::timeout(Duration::from_millis(limits.limit_ms), whole).await {
            Ok(result) => result.map_err(|cause| self.fail(doing, cause)),
            Err(_) => Err(self.fail(doing, Cause::TimedOut { limit_ms: limits.limit_ms })),
        }
    }
}

/// What one request may cost.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// From sending to the last byte of the answer.
    pub(crate) limit_ms: u64,
    /// Largest acceptable answer.
    pub(crate) max_bytes: usize,
}

/// The wall clock, only used to compare it with the node's own.
fn now() -> UnixMillis {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    UnixMillis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

pub(crate) async fn read_bounded(
    mut response: reqwest::Response,
    max_bytes: usize,
    limit_ms: u64,
) -> Result<Vec<u8>, Cause> {
    let mut body = Vec::new();
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) if body.len().saturating_add(chunk.len()) > max_bytes => {
                return Err(Cause::TooLarge { limit: max_bytes });
            }
            Ok(Some(chunk)) => body.extend_from_slice(&chunk),
            Ok(None) => return Ok(body),
            Err(error) => return Err(transport_cause(&error, limit_ms)),
        }
    }
}

fn transport_cause(error: &reqwest::Error, limit_ms: u64) -> Cause {
    if error.is_timeout() {
        return Cause::TimedOut { limit_ms };
    }
    // The outer message repeats the URL (perhaps with a password); the innermost cause says what happened.
    let mut cause = std::error::Error::source(error);
    let mut text = "the request failed".to_owned();
    while let Some(inner) = cause {
        text = inner.to_string();
        cause = inner.source();
    }
    Cause::Unreachable(shorten(&text))
}

/// Reads an error answer. Beacon nodes mix JSON and plain text, so the text is taken as it comes.
pub(crate) fn refusal(status: u16, body: &[u8]) -> Cause {
    let text = String::from_utf8_lossy(body);
    let message = match serde_json::from_slice::<serde_json::Value>(body) {
        Ok(value) => message_of(&value).unwrap_or_else(|| text.trim().to_owned()),
        Err(_) => text.trim().to_owned(),
    };
    let message = shorten(&message);
    let items = match serde_json::from_slice::<FailuresWire>(body) {
        Ok(wire) => wire.failures.into_iter().take(MAX_FAILURES).filter_map(item).collect(),
        Err(_) => Vec::new(),
    };
    if !items.is_empty() {
        return Cause::Refused { status, message, items };
    }
    if message.contains("not the current slot")
        || message.contains("current or previous")
        || message.contains("future")
    {
        return Cause::NotCurrentSlot(message);
    }
    if status == 503 || message.contains("syncing") {
        return Cause::Syncing(message);
    }
    Cause::Refused { status, message, items }
}

fn item(failure: FailureWire) -> Option<(usize, String)> {
    Some((usize::try_from(failure.index.0).ok()?, shorten(&failure.message)))
}

/// Which items of a list of `count` a refusal is about; `None` when it is about the request as a whole.
///
/// An item that the node has already is not a failure: every member of the cluster sends the same attestation.
pub(crate) fn refusal_failures(cause: &Cause, count: usize) -> Option<BTreeMap<usize, String>> {
    let Cause::Refused { items, .. } = cause else { return None };
    if items.is_empty() || items.iter().any(|(index, _)| *index >= count) {
        return None;
    }
    let known =
        |message: &str| message.contains("PriorAttestationKnown") || message.contains("already known");
    Some(items.iter().filter(|(_, message)| !known(message)).cloned().collect())
}

fn message_of(value: &serde_json::Value) -> Option<String> {
    let message = value.get("message")?.as_str()?;
    let failures = value.get("failures").and_then(|list| list.as_array());
    let first = failures
        .and_then(|list| list.first())
        .and_then(|first| first.get("message"))
        .and_then(|text| text.as_str());
    Some(match first {
        Some(first) => format!("{message}: {first}"),
        None => message.to_owned(),
    })
}

/// Keeps foreign text printable and short, so that it can go into a log or a page.
fn shorten(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_MESSAGE_CHARS).collect()
}

/// Scheme, host and port, and of the path no more than tells two addresses apart: anybody on the owner's network may look.
fn redact(url: &str) -> String {
    match reqwest::Url::parse(url.trim()) {
        Ok(parsed) if parsed.has_host() => {
            let host = parsed.host_str().unwrap_or_default();
            let port = parsed.port().map(|port| format!(":{port}")).unwrap_or_default();
            let path = hint(parsed.path().trim_matches('/'));
            let slash = if path.is_empty() { "" } else { "/" };
            format!("{}://{host}{port}{slash}{path}", parsed.scheme())
        }
        Ok(_) | Err(_) => hint(&shorten(url)),
    }
}

/// The first letters.
fn hint(text: &str) -> String {
    let short: String = text.chars().take(HINT_CHARS).collect();
    if short.len() < text.len() { short + "\u{2026}" } else { short }
}

fn date_of(response: &reqwest::Response) -> Option<u64> {
    parse_http_date(response.headers().get("date")?.to_str().ok()?)
}

/// `Wed, 25 Nov 2026 09:17:35 GMT` (RFC 9110 IMF-fixdate, the only form still written) in seconds since 1970.
pub(crate) fn parse_http_date(text: &str) -> Option<u64> {
    let mut words = text.split_ascii_whitespace();
    let (_weekday, day, month, year, time, zone) =
        (words.next()?, words.next()?, words.next()?, words.next()?, words.next()?, words.next()?);
    let months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let month = u64::try_from(months.iter().position(|name| *name == month)?).ok()? + 1;
    let (day, year): (u64, u64) = (day.parse().ok()?, year.parse().ok()?);
    let mut clock = time.split(':').map(|part| part.parse::<u64>().ok());
    let (hour, minute, second) = (clock.next()??, clock.next()??, clock.next()??);
    if zone != "GMT"
        || !(1970..10_000).contains(&year)
        || !(1..=31).contains(&day)
        || hour > 23
        || minute > 59
        || second > 60
    {
        return None;
    }
    // Days from civil date (years start in March, so that the leap day is the last one).
    let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day - 1;
    let days = days.checked_sub(719_468)?;
    Some(days * 86_400 + hour * 3_600 + minute * 60 + second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn http_dates_are_read() {
        for (text, expected) in [
            ("Thu, 01 Jan 1970 00:00:00 GMT", Some(0)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(784_111_777)),
            ("Thu, 29 Feb 2024 23:59:59 GMT", Some(1_709_251_199)),
            ("Wed, 25 Nov 2026 09:17:35 GMT", Some(1_795_598_255)),
            ("Wed, 25 Nov 2026 09:17:35 CET", None),
            ("Wed, 25 Xxx 2026 09:17:35 GMT", None),
            ("", None),
        ] {
            assert_eq!(parse_http_date(text), expected, "{text}");
        }
    }

    #[test]
    fn errors_of_any_form_are_read() {
        let refused =
            |status, message: &str| Cause::Refused { status, message: message.to_owned(), items: Vec::new() };
        assert_eq!(refusal(404, b"404 page not found\n"), refused(404, "404 page not found"));
        assert_eq!(
            refusal(400, br#"{"message":"No data submitted","code":400}"#),
            refused(400, "No data submitted")
        );
        assert_eq!(
            refusal(
                400,
                br#"{"message":"failed","code":400,"failures":[{"index":0,"message":"bad signature"}]}"#
            ),
            Cause::Refused {
                status: 400,
                message: "failed: bad signature".to_owned(),
                items: vec![(0, "bad signature".to_owned())]
            }
        );
        assert_eq!(refusal(500, b"\xff\xfe\0"), refused(500, "\u{fffd}\u{fffd} "));
        assert_eq!(
            refusal(400, br#"{"message":"invalid request: slot 92 is not the current slot 91","code":400}"#),
            Cause::NotCurrentSlot("invalid request: slot 92 is not the current slot 91".to_owned())
        );
        assert!(matches!(refusal(503, b""), Cause::Syncing(_)));
    }

    #[test]
    fn neither_passwords_nor_keys_in_paths_show() {
        for (url, name) in [
            ("https://me:secret@example.org:8545/v2/5ec2e75ec2e7/", "https://example.org:8545/v2/5\u{2026}"),
            ("http://127.0.0.1:5052", "http://127.0.0.1:5052"),
            ("http://[::1]:5052/eth", "http://[::1]:5052/eth"),
        ] {
            assert_eq!(Endpoint::new(url).unwrap().name(), name);
        }
        let endpoint = Endpoint::new("https://example.org/v2/5ec2e75ec2e7").unwrap();
        let said = refusal(404, b"no such path: /v2/5ec2e75ec2e7/eth/v1/node/version");
        let said = endpoint.fail("asking for its version", said).to_string();
        assert!(said.contains("no such path: /\u{2026}/eth/v1/node/version"), "{said}");
        for bad in ["https://example.org/5ec2e75ec2e7?x=1", "example.org/5ec2e75ec2e7", "5ec2e75ec2e7://x y"]
        {
            let refused = Endpoint::new(bad).unwrap_err().to_string();
            assert!(!refused.contains("5ec2e75"), "{refused}");
        }
        assert!(Endpoint::new("ftp://example.org").is_err());
        assert!(Endpoint::new("not a url").is_err());
        assert!(Endpoint::new("http://a/?x=1").is_err());
    }
}
