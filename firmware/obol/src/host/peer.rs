//! What the host holds for one member: its queues, its limits, its counters and its state.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use libp2p::{Multiaddr, swarm::Stream};
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::time::Instant;

use super::{
    INCOMING_BYTES, INCOMING_MESSAGES, INCOMING_QUEUE, OUTGOING_QUEUE, OUTGOING_REQUESTS, PeerCounters,
    WAITING_TO_RESEND,
};
use crate::protocol::Protocol;

/// Sent streams of one peer kept open at once.
const LINGERING_STREAMS: usize = 64;

/// One member, shared by the tasks that serve it.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) id: cluster::PeerId,
    pub(super) libp2p: libp2p::PeerId,
    pub(super) counters: Counters,
    pub(super) outgoing: Outgoing,
    /// Places for messages being read, waiting for the daemon or being handled.
    pub(super) messages: Arc<Semaphore>,
    /// Bytes of those messages.
    pub(super) bytes: Arc<Semaphore>,
    /// Places for requests of ours under way.
    pub(super) requests: Arc<Semaphore>,
    /// Places for streams we have sent on and wait for the peer to close.
    pub(super) lingering: Arc<Semaphore>,
    /// Places for messages waiting to be queued again.
    pub(super) resending: Arc<Semaphore>,
    /// Rings when the peer was connected.
    pub(super) connected: Notify,
    state: Mutex<PeerState>,
    inboxes: [mpsc::Sender<Stream>; Protocol::ALL.len()],
}

/// What is known about a member right now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerState {
    /// Where it is connected from or to; `None` while it is not connected.
    pub addr: Option<Multiaddr>,
    /// Whether every connection to it goes through a relay.
    pub relayed: bool,
    /// Connections that lead to it directly.
    pub direct_connections: u32,
    /// Connections through relays.
    pub relayed_connections: u32,
    /// Software it named in identify.
    pub agent: Option<String>,
    /// Last ping, in microseconds.
    pub ping_us: Option<u64>,
    /// When it was last heard of, in milliseconds since 1970.
    pub last_seen_ms: Option<u64>,
}

/// The receiving ends of a peer's accepted streams.
pub(super) type Inboxes = Vec<(Protocol, mpsc::Receiver<Stream>)>;

impl Peer {
    pub(super) fn new(id: cluster::PeerId, libp2p: libp2p::PeerId) -> (Arc<Self>, Inboxes) {
        let mut receivers = Vec::new();
        let inboxes = Protocol::ALL.map(|protocol| {
            let (sender, receiver) = mpsc::channel(INCOMING_QUEUE);
            receivers.push((protocol, receiver));
            sender
        });
        let peer = Self {
            id,
            libp2p,
            counters: Counters::default(),
            outgoing: Outgoing::default(),
            messages: Arc::new(Semaphore::new(INCOMING_MESSAGES)),
            bytes: Arc::new(Semaphore::new(INCOMING_BYTES)),
            requests: Arc::new(Semaphore::new(OUTGOING_REQUESTS)),
            lingering: Arc::new(Semaphore::new(LINGERING_STREAMS)),
            resending: Arc::new(Semaphore::new(WAITING_TO_RESEND)),
            connected: Notify::new(),
            state: Mutex::default(),
            inboxes,
        };
        (Arc::new(peer), receivers)
    }

    /// Takes an accepted stream. Dropping it resets it.
    pub(super) fn accept(&self, protocol: Protocol, stream: Stream) {
        let inbox = Protocol::ALL.into_iter().zip(&self.inboxes).find(|(known, _)| *known == protocol);
        let taken = inbox.is_some_and(|(_, inbox)| inbox.try_send(stream).is_ok());
        if !taken {
            Counters::add(&self.counters.inbound_reset);
            tracing::debug!(peer = %self.id, ?protocol, "stream reset: too many of this peer are waiting");
        }
    }

    /// The state, to read or to change. A panic elsewhere does not make it unusable.
    pub(super) fn state(&self) -> MutexGuard<'_, PeerState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A message waiting to be sent.
#[derive(Debug)]
pub(super) struct Queued {
    pub(super) protocol: Protocol,
    /// Framed once, shared by all peers it goes to.
    pub(super) frame: Arc<[u8]>,
    pub(super) deadline: Instant,
    /// How often it has been queued again.
    pub(super) resent: u32,
}

/// The outgoing queue: bounded, the oldest gives way.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    queue: Mutex<VecDeque<Queued>>,
    filled: Notify,
}

impl Outgoing {
    /// Adds a message; says whether another was dropped for it.
    pub(super) fn push(&self, message: Queued) -> bool {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let full = queue.len() >= OUTGOING_QUEUE;
        if full {
            queue.pop_front();
        }
        queue.push_back(message);
        drop(queue);
        self.filled.notify_one();
        full
    }

    /// Waits for the next message. Only one task may wait.
    pub(super) async fn next(&self) -> Queued {
        loop {
            let next = self.queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            if let Some(message) = next {
                return message;
            }
            self.filled.notified().await;
        }
    }
}

/// Counters of one peer.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) sent: AtomicU64,
    pub(super) send_failed: AtomicU64,
    pub(super) send_dropped: AtomicU64,
    pub(super) retried: AtomicU64,
    pub(super) received: AtomicU64,
    pub(super) inbound_reset: AtomicU64,
    pub(super) inbound_refused: AtomicU64,
}

impl Counters {
    pub(super) fn add(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn snapshot(&self) -> PeerCounters {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        PeerCounters {
            sent: read(&self.sent),
            send_failed: read(&self.send_failed),
            send_dropped: read(&self.send_dropped),
            retried: read(&self.retried),
            received: read(&self.received),
            inbound_reset: read(&self.inbound_reset),
            inbound_refused: read(&self.inbound_refused),
        }
    }
}
