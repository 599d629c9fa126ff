//! The relays of the cluster: asks them for their addresses and hands these to the host (decision 0142).
//!
//! One task for each relay that is named by a web address. What a relay answers is bounded and only read for addresses.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ipc::node::RelayStatus;
use obol::HostHandle;
use obol::host::{MAX_BODY, Relay, RelayEntry, RelayError, read_description};
use tokio::task::JoinSet;

use super::Node;
use crate::setup::sentence;

/// A question to a relay that takes longer has failed.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How often relays are asked (obol.md 4.4).
const PACE: Pace = Pace { again: Duration::from_secs(120), backoff: Duration::from_millis(500) };
/// Doublings after which the pause is at its longest: 32 seconds.
const MAX_DOUBLINGS: u32 = 6;
/// As many as web browsers follow for such things.
const MAX_REDIRECTS: usize = 5;

/// How often a relay is asked.
#[derive(Debug, Clone, Copy)]
struct Pace {
    /// After an answer.
    again: Duration,
    /// After the first failure; it doubles with every further one.
    backoff: Duration,
}

/// Why a relay could not be asked.
#[derive(Debug, thiserror::Error)]
enum AskError {
    /// No connection, or no answer in time.
    #[error("it does not answer ({0})")]
    Unreachable(String),
    /// It answered something else.
    #[error("it answers with status {0}")]
    Status(u16),
    /// Its answer cannot be used.
    #[error(transparent)]
    Description(#[from] RelayError),
}

/// What is known about one entry.
#[derive(Debug)]
struct Known {
    name: String,
    relay: Option<Relay>,
    why_not: Option<String>,
}

/// The relays in use. Its tasks end with it.
#[derive(Debug)]
pub(crate) struct Relays {
    known: Arc<Mutex<Vec<Known>>>,
    _tasks: JoinSet<()>,
}

/// How the relays recognise the cluster: its hash and its identifier.
#[derive(Debug, Clone)]
pub(crate) struct Cluster {
    /// First seven hex digits of the lock hash.
    pub(crate) hash: String,
    /// The definition's identifier.
    pub(crate) uuid: String,
}

impl Relays {
    /// Resolves the entries from now on and keeps the host told.
    pub(crate) fn start(entries: &[RelayEntry], cluster: &Cluster, host: &HostHandle) -> Self {
        Self::start_at(PACE, entries, cluster, host)
    }

    fn start_at(pace: Pace, entries: &[RelayEntry], cluster: &Cluster, host: &HostHandle) -> Self {
        let known = entries.iter().map(|entry| match entry {
            RelayEntry::Url(url) => Known { name: url.clone(), relay: None, why_not: None },
            RelayEntry::Fixed(relay) => {
                let name = relay.addrs.first().map(|addr| format!("{addr}/p2p/{}", relay.id));
                Known { name: name.unwrap_or_default(), relay: Some(relay.clone()), why_not: None }
            }
        });
        let known = Arc::new(Mutex::new(known.collect::<Vec<_>>()));
        let mut tasks = JoinSet::new();
        tasks.spawn(tell(host.clone(), Arc::clone(&known)));
        for (index, entry) in entries.iter().enumerate() {
            if let RelayEntry::Url(url) = entry {
                tasks.spawn(keep_resolved(
                    pace,
                    url.clone(),
                    index,
                    cluster.clone(),
                    host.clone(),
                    Arc::clone(&known),
                ));
            }
        }
        Self { known, _tasks: tasks }
    }
}

fn lock(known: &Mutex<Vec<Known>>) -> MutexGuard<'_, Vec<Known>> {
    known.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn tell(host: HostHandle, known: Arc<Mutex<Vec<Known>>>) {
    let relays = lock(&known).iter().filter_map(|known| known.relay.clone()).collect();
    // The host is gone when the node ends.
    let _ = host.set_relays(relays).await;
}

async fn keep_resolved(
    pace: Pace,
    url: String,
    index: usize,
    cluster: Cluster,
    host: HostHandle,
    known: Arc<Mutex<Vec<Known>>>,
) {
    let mut failures = 0_u32;
    loop {
        let answer = match tokio::time::timeout(TIMEOUT, ask(&url, &cluster)).await {
            Ok(answer) => answer,
            Err(_) => Err(AskError::Unreachable(format!("no answer in {} s", TIMEOUT.as_secs()))),
        };
        let (pause, changed) = match answer {
            Ok(relay) => {
                failures = 0;
                (pace.again, learn(&known, index, relay))
            }
            Err(error) => {
                tracing::debug!(relay = url, %error, "a relay cannot be resolved");
                if let Some(known) = lock(&known).get_mut(index) {
                    known.why_not = Some(error.to_string());
                }
                let pause = pace.backoff.saturating_mul(1 << failures.min(MAX_DOUBLINGS));
                failures = failures.saturating_add(1);
                // What it said before still holds: relays seldom move.
                (pause, false)
            }
        };
        if changed {
            tell(host.clone(), Arc::clone(&known)).await;
        }
        tokio::time::sleep(pause).await;
    }
}

/// Takes over what a relay said; says whether it is new.
fn learn(known: &Mutex<Vec<Known>>, index: usize, relay: Relay) -> bool {
    let mut known = lock(known);
    let Some(known) = known.get_mut(index) else { return false };
    known.why_not = None;
    if known.relay.as_ref() == Some(&relay) {
        return false;
    }
    tracing::info!(relay = known.name, id = %relay.id, addrs = ?relay.addrs, "a relay says where it is");
    known.relay = Some(relay);
    true
}

async fn ask(url: &str, cluster: &Cluster) -> Result<Relay, AskError> {
    let failed = |error: reqwest::Error| AskError::Unreachable(cause(&error));
    // Another part of the process may have installed the same provider already; that is fine.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::limited(MAX_REDIRECTS))
        .timeout(TIMEOUT)
        .build()
        .map_err(failed)?;
    let request =
        client.get(url).header("Charon-Cluster", &cluster.hash).header("Cluster-Uuid", &cluster.uuid);
    let mut answer = request.send().await.map_err(failed)?;
    if !answer.status().is_success() {
        return Err(AskError::Status(answer.status().as_u16()));
    }
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(failed)? {
        if body.len() + chunk.len() > MAX_BODY {
            return Err(RelayError::TooLong.into());
        }
        body.extend_from_slice(&chunk);
    }
    Ok(read_description(&body, on_this_machine(url))?)
}

/// Whether the owner named a relay on this machine itself.
fn on_this_machine(url: &str) -> bool {
    let url = reqwest::Url::parse(url).ok();
    url.as_ref().and_then(reqwest::Url::host_str).is_some_and(|host| {
        let ip = host.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>();
        host == "localhost" || ip.is_ok_and(|ip| ip.is_loopback())
    })
}

/// The last cause, without the address, which the caller names.
fn cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}

impl Node {
    /// The relays as the page shows them.
    pub(crate) fn relay_status(&self) -> Vec<RelayStatus> {
        let Some(relays) = &self.relays else { return Vec::new() };
        let held = self.host.as_ref().map(HostHandle::relays).unwrap_or_default();
        let known = lock(&relays.known);
        let status = |known: &Known| {
            let held = known.relay.as_ref().and_then(|relay| held.iter().find(|held| held.id == relay.id));
            let reserved = held.is_some_and(|held| held.reserved);
            let why_not = held.and_then(|held| held.why_not.clone()).or_else(|| known.why_not.clone());
            RelayStatus {
                relay: known.name.clone(),
                connected: held.is_some_and(|held| held.connected),
                reserved,
                message: why_not.filter(|_| !reserved),
            }
        };
        known.iter().map(status).collect()
    }
}

/// What the owner is told when no relay can be used.
pub(crate) fn problem(relays: &[RelayStatus]) -> Option<ipc::Problem> {
    if relays.is_empty() || relays.iter().any(|relay| relay.reserved) {
        return None;
    }
    let why: Vec<String> = relays
        .iter()
        .map(|relay| match &relay.message {
            Some(why) => format!("{} ({why})", relay.relay),
            None => relay.relay.clone(),
        })
        .collect();
    Some(ipc::Problem::new(
        "relays_unreachable",
        sentence(&format!(
            "No relay can be used, so members that cannot dial this box directly do not reach it: {}",
            why.join("; ")
        )),
        "Check this box's internet connection, or name other relays in the cluster setup; members with direct addresses \
         stay connected.",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(reserved: bool, message: Option<&str>) -> RelayStatus {
        RelayStatus {
            relay: "https://relay.example".to_owned(),
            connected: reserved,
            reserved,
            message: message.map(str::to_owned),
        }
    }

    #[test]
    fn the_owner_hears_of_relays_only_when_none_can_be_used() {
        assert!(problem(&[]).is_none());
        assert!(problem(&[status(false, None), status(true, None)]).is_none());
        let problem = problem(&[status(false, Some("it answers with status 502"))]).unwrap();
        assert!(
            problem.message.contains("https://relay.example (it answers with status 502)"),
            "{problem:?}"
        );
    }

    #[test]
    fn a_relay_on_this_machine_is_one_that_is_named_so() {
        for url in ["http://127.0.0.1:3640", "http://[::1]:3640/x", "http://localhost/"] {
            assert!(on_this_machine(url), "{url}");
        }
        for url in ["https://0.relay.obol.tech", "http://127.0.0.1.example/", "http://10.0.0.1", "nonsense"] {
            assert!(!on_this_machine(url), "{url}");
        }
    }

    /// Answers one request with `body` and returns what was asked.
    async fn serve(listener: &tokio::net::TcpListener, status: u16, body: Vec<u8>) -> String {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut asked = vec![0; 4096];
        let read = stream.read(&mut asked).await.unwrap();
        asked.truncate(read);
        let head =
            format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
        stream.write_all(head.as_bytes()).await.unwrap();
        drop(stream.write_all(&body).await); // Too long a body is not read to its end.
        String::from_utf8(asked).unwrap().to_lowercase()
    }

    async fn asked(status: u16, body: Vec<u8>) -> (Result<Relay, AskError>, String) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let cluster = Cluster { hash: "0a1b2c3".to_owned(), uuid: "ABC-1".to_owned() };
        tokio::join!(ask(&url, &cluster), serve(&listener, status, body))
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_relay_is_asked_again_after_a_failure_and_after_an_answer() {
        let identity = |seed: u8| cluster::IdentityKey::from_bytes([seed; 32].into()).unwrap();
        let id = |seed| cluster::PeerId::from_public_key(&identity(seed).public_key()).to_string();
        let (host, _events) = obol::Host::spawn(obol::HostConfig {
            identity: [1; 32].into(),
            listen: Vec::new(),
            external: Vec::new(),
            members: Vec::new(),
            accepts: obol::host::Accepts::RunMode,
            info: obol::host::OwnInfo {
                charon_version: "v1.10.3".into(),
                lock_hash: [9; 32],
                git_hash: "unknown".into(),
                nickname: String::new(),
                builder_api_enabled: false,
            },
        })
        .unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let cluster = Cluster { hash: "0a1b2c3".to_owned(), uuid: "ABC-1".to_owned() };
        let entries = [RelayEntry::Url(url)];
        let pace = Pace { again: Duration::from_millis(100), backoff: Duration::from_millis(20) };
        assert_eq!((PACE.again.as_secs(), TIMEOUT.as_secs()), (120, 10));
        let relays = Relays::start_at(pace, &entries, &cluster, &host);
        let held = || host.relays().iter().map(|relay| relay.id.to_string()).collect::<Vec<_>>();
        for (status, relay) in [(503, None), (200, Some(7)), (500, None), (200, Some(8))] {
            let body = relay.map(|seed| format!("[\"/ip4/127.0.0.1/tcp/9/p2p/{}\"]", id(seed)));
            let again = serve(&listener, status, body.unwrap_or_default().into_bytes()).await;
            assert!(again.contains("charon-cluster: 0a1b2c3"), "each time: {again}");
            if let Some(seed) = relay {
                let told = async {
                    while held() != [id(seed)] {
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                };
                tokio::time::timeout(Duration::from_secs(20), told).await.expect("the host is told");
            } else if status == 500 {
                assert_eq!(held(), [id(7)], "what it said before still holds");
            }
        }
        drop(relays);
    }

    #[tokio::test]
    async fn a_relay_is_asked_with_the_clusters_name_and_believed_within_bounds() {
        let key = cluster::IdentityKey::from_bytes([7; 32].into()).unwrap();
        let id = cluster::PeerId::from_public_key(&key.public_key());
        let body = format!("[\"/ip4/192.0.2.1/tcp/3610/p2p/{id}\"]");
        let (relay, request) = asked(200, body.into_bytes()).await;
        let relay = relay.unwrap();
        assert_eq!((relay.id.to_string(), relay.addrs.len()), (id.to_string(), 1));
        assert!(request.contains("charon-cluster: 0a1b2c3"), "{request}");
        assert!(request.contains("cluster-uuid: abc-1"), "{request}");
        assert!(matches!(asked(503, Vec::new()).await.0, Err(AskError::Status(503))));
        let long = asked(200, vec![b'['; MAX_BODY + 1]).await.0;
        assert!(matches!(long, Err(AskError::Description(RelayError::TooLong))), "{long:?}");
    }
}
