//! The event loop of the host: listens, dials members until they are connected, closes what no longer answers pings.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use libp2p::swarm::{ConnectionId, DialError, ListenError, NetworkBehaviour, SwarmEvent, dial_opts};
use libp2p::{Multiaddr, PeerId, Swarm, connection_limits, identify, ping};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::peer::Peer;
use super::streams::Streams;
use super::{HostEvent, RefusedWhy, unix_ms};

/// First pause after a failed dial; it doubles with every further failure.
const DIAL_BACKOFF: Duration = Duration::from_millis(500);
/// Longest pause between dials.
const MAX_DIAL_BACKOFF: Duration = Duration::from_secs(30);
/// Doublings after which the pause is at its longest.
const MAX_DOUBLINGS: u32 = 6;
/// Events kept while the daemon is busy; the oldest is dropped.
const MAX_BACKLOG: usize = 1024;
/// When there is nothing to dial.
const FAR: Duration = Duration::from_secs(3600);

/// Everything libp2p does for us.
#[derive(NetworkBehaviour)]
pub(super) struct Behaviour {
    pub(super) limits: connection_limits::Behaviour,
    pub(super) streams: Streams,
    pub(super) identify: identify::Behaviour,
    pub(super) ping: ping::Behaviour,
}

/// What a handle asks of the loop.
pub(super) enum Command {
    /// New addresses of a member.
    SetAddresses(PeerId, Vec<Multiaddr>),
}

/// Whom to dial, and when next.
struct Dial {
    addrs: Vec<Multiaddr>,
    failures: u32,
    /// `None` while connected or while a dial is under way.
    next: Option<Instant>,
}

pub(super) struct Loop {
    swarm: Swarm<Behaviour>,
    peers: BTreeMap<PeerId, Arc<Peer>>,
    dials: BTreeMap<PeerId, Dial>,
    events: mpsc::Sender<HostEvent>,
    backlog: VecDeque<HostEvent>,
}

impl Loop {
    pub(super) fn new(
        swarm: Swarm<Behaviour>,
        peers: BTreeMap<PeerId, Arc<Peer>>,
        addrs: Vec<(PeerId, Vec<Multiaddr>)>,
        events: mpsc::Sender<HostEvent>,
    ) -> Self {
        let now = Instant::now();
        let dials =
            addrs.into_iter().map(|(peer, addrs)| (peer, Dial { addrs, failures: 0, next: Some(now) }));
        Self { swarm, peers, dials: dials.collect(), events, backlog: VecDeque::new() }
    }

    /// Runs until every handle is gone. `tasks` are the tasks of the peers; they end with the loop.
    pub(super) async fn run(mut self, mut commands: mpsc::Receiver<Command>, tasks: JoinSet<()>) {
        let events = self.events.clone();
        loop {
            let next_dial = self.next_dial();
            tokio::select! {
                event = self.swarm.select_next_some() => self.on_event(event),
                command = commands.recv() => match command {
                    Some(command) => self.on_command(command),
                    None => break,
                },
                () = sleep_until(next_dial) => self.dial_due(Instant::now()),
                place = events.reserve(), if !self.backlog.is_empty() => match place {
                    Ok(place) => {
                        if let Some(event) = self.backlog.pop_front() {
                            place.send(event);
                        }
                    }
                    Err(_) => break, // Nobody listens any more.
                },
            }
        }
        drop(tasks);
    }

    fn next_dial(&self) -> Instant {
        let due = self.dials.values().filter(|dial| !dial.addrs.is_empty()).filter_map(|dial| dial.next);
        due.min().unwrap_or_else(|| Instant::now() + FAR)
    }

    fn tell(&mut self, event: HostEvent) {
        if self.backlog.len() >= MAX_BACKLOG {
            self.backlog.pop_front();
        }
        self.backlog.push_back(event);
    }

    fn on_command(&mut self, command: Command) {
        match command {
            Command::SetAddresses(peer, addrs) => {
                let connected = self.swarm.is_connected(&peer);
                if let Some(dial) = self.dials.get_mut(&peer) {
                    let next = (!connected).then(Instant::now);
                    *dial = Dial { addrs, failures: 0, next };
                }
            }
        }
    }

    fn dial_due(&mut self, now: Instant) {
        let mut failed = Vec::new();
        for (peer, dial) in &mut self.dials {
            if dial.addrs.is_empty() || dial.next.is_none_or(|next| next > now) {
                continue;
            }
            dial.next = None;
            if self.swarm.is_connected(peer) {
                continue;
            }
            let opts = dial_opts::DialOpts::peer_id(*peer)
                .condition(dial_opts::PeerCondition::DisconnectedAndNotDialing)
                .addresses(dial.addrs.clone())
                .build();
            if let Err(error) = self.swarm.dial(opts) {
                failed.push((*peer, error));
            }
        }
        for (peer, error) in failed {
            self.on_dial_failed(peer, &error);
        }
    }

    fn on_dial_failed(&mut self, peer: PeerId, error: &DialError) {
        if self.swarm.is_connected(&peer) {
            return; // It reached us meanwhile.
        }
        let Some(dial) = self.dials.get_mut(&peer) else { return };
        let doublings = dial.failures.min(MAX_DOUBLINGS);
        dial.failures = dial.failures.saturating_add(1);
        let pause = DIAL_BACKOFF.saturating_mul(1 << doublings).min(MAX_DIAL_BACKOFF);
        // Members started together must not keep dialling each other in step: up to an eighth longer, by identity.
        let spread = peer.to_bytes().last().copied().unwrap_or_default();
        dial.next = Some(Instant::now() + pause + pause / 8 * u32::from(spread) / 256);
        if let Some(peer) = self.peers.get(&peer) {
            let why = dial_failure(error);
            tracing::debug!(peer = %peer.id, why, "dial failed");
            let peer = peer.id;
            self.tell(HostEvent::DialFailed { peer, why });
        }
    }

    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "a foreign, non-exhaustive enum; the rest needs no action"
    )]
    fn on_event(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::ConnectionEstablished { peer_id, endpoint, num_established, .. } => {
                self.on_established(peer_id, endpoint.get_remote_address().clone(), num_established.get());
            }
            SwarmEvent::ConnectionClosed { peer_id, num_established, cause, .. } => {
                let why = cause.map_or_else(|| "closed".to_owned(), |cause| cause.to_string());
                self.on_closed(peer_id, num_established, why);
            }
            SwarmEvent::IncomingConnectionError { send_back_addr, error, peer_id, .. } => {
                self.on_incoming_error(send_back_addr, &error, peer_id);
            }
            SwarmEvent::OutgoingConnectionError { peer_id: Some(peer), error, .. } => {
                self.on_dial_failed(peer, &error)
            }
            SwarmEvent::NewListenAddr { address, .. } => self.tell(HostEvent::Listening { addr: address }),
            SwarmEvent::ListenerClosed { reason: Err(error), .. }
            | SwarmEvent::ListenerError { error, .. } => {
                tracing::warn!(%error, "a listening address failed");
            }
            SwarmEvent::Behaviour(BehaviourEvent::Ping(event)) => {
                self.on_ping(event.peer, event.connection, event.result)
            }
            SwarmEvent::Behaviour(BehaviourEvent::Identify(identify::Event::Received {
                peer_id,
                info,
                ..
            })) => {
                if let Some(peer) = self.peers.get(&peer_id) {
                    let agent = info.agent_version.chars().filter(|c| !c.is_control()).take(128).collect();
                    peer.state().agent = Some(agent);
                }
            }
            _ => {}
        }
    }

    fn on_established(&mut self, peer_id: PeerId, addr: Multiaddr, established: u32) {
        if let Some(dial) = self.dials.get_mut(&peer_id) {
            dial.failures = 0;
            dial.next = None;
        }
        let Some(peer) = self.peers.get(&peer_id).cloned() else { return };
        {
            let mut state = peer.state();
            state.addr = Some(addr.clone());
            state.last_seen_ms = Some(unix_ms());
        }
        if established == 1 {
            tracing::info!(peer = %peer.id, %addr, "member connected");
            peer.connected.notify_one();
            self.tell(HostEvent::PeerConnected { peer: peer.id, addr });
        } else {
            self.tell(HostEvent::PeerConnectedAgain { peer: peer.id });
        }
    }

    fn on_closed(&mut self, peer_id: PeerId, remaining: u32, why: String) {
        if remaining > 0 {
            return;
        }
        if let Some(dial) = self.dials.get_mut(&peer_id) {
            dial.next = Some(Instant::now() + DIAL_BACKOFF);
        }
        let Some(peer) = self.peers.get(&peer_id).cloned() else { return };
        {
            let mut state = peer.state();
            state.addr = None;
            state.ping_us = None;
        }
        tracing::info!(peer = %peer.id, why, "member disconnected");
        self.tell(HostEvent::PeerDisconnected { peer: peer.id, why });
    }

    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "a foreign, non-exhaustive enum; the rest is noise of strangers"
    )]
    fn on_incoming_error(&mut self, addr: Multiaddr, error: &ListenError, peer_id: Option<PeerId>) {
        let why = match error {
            ListenError::Denied { cause } => match cause.downcast_ref::<RefusedWhy>() {
                Some(why) => *why,
                None => return tracing::debug!(%addr, "connection refused: too many"),
            },
            ListenError::LocalPeerId { .. } => RefusedWhy::OurOwnIdentity,
            _ => return tracing::debug!(%addr, %error, "incoming connection failed"),
        };
        let peer_id = peer_id.map(|peer| peer.to_base58());
        tracing::warn!(peer_id, %addr, %why, "connection refused");
        self.tell(HostEvent::Refused { peer_id, addr, why });
    }

    fn on_ping(
        &mut self,
        peer_id: PeerId,
        connection: ConnectionId,
        result: Result<Duration, ping::Failure>,
    ) {
        match result {
            Ok(round_trip) => {
                if let Some(peer) = self.peers.get(&peer_id) {
                    let mut state = peer.state();
                    state.ping_us = u64::try_from(round_trip.as_micros()).ok();
                    state.last_seen_ms = Some(unix_ms());
                }
            }
            Err(ping::Failure::Unsupported) => {}
            Err(ping::Failure::Timeout | ping::Failure::Other { .. }) => {
                // A peer that lost power cannot say goodbye; close, so that the next dial is not held up.
                self.swarm.close_connection(connection);
            }
        }
    }
}

/// What went wrong in the end: the layers above only say that something did.
fn first_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}

/// Why a dial failed, in words an owner can act on.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "a foreign, non-exhaustive enum; its own words serve for the rest"
)]
fn dial_failure(error: &DialError) -> String {
    match error {
        DialError::WrongPeerId { obtained, address } => {
            format!("{address} belongs to another node, {obtained}; correct this member's address")
        }
        DialError::LocalPeerId { address } => {
            format!("{address} is this box itself; correct this member's address")
        }
        DialError::Transport(attempts) => {
            let texts: Vec<_> = attempts
                .iter()
                .map(|(address, error)| format!("{address}, {}", first_cause(error)))
                .collect();
            format!("not reachable: {}", texts.join("; "))
        }
        other => other.to_string(),
    }
}
