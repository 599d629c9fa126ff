//! The event loop of the host: listens, dials members until they are connected, closes what no longer answers pings.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use libp2p::core::transport::ListenerId;
use libp2p::swarm::{ConnectionId, DialError, ListenError, NetworkBehaviour, SwarmEvent, dial_opts};
use libp2p::{Multiaddr, PeerId, Swarm, connection_limits, dcutr, identify, ping, relay};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::dials::Dials;
use super::door::Door;
use super::peer::Peer;
use super::relay::Relay;
use super::reservations::{Reservations, Shown};
use super::streams::Streams;
use super::{HostEvent, RefusedWhy, unix_ms};

/// Events kept while the daemon is busy; the oldest is dropped.
const MAX_BACKLOG: usize = 1024;
/// When there is nothing to dial.
const FAR: Duration = Duration::from_secs(3600);

/// Everything libp2p does for us. The order counts: whoever is turned away by one is not heard of by those below it.
#[derive(NetworkBehaviour)]
pub(super) struct Behaviour {
    pub(super) door: Door,
    pub(super) limits: connection_limits::Behaviour,
    pub(super) streams: Streams,
    pub(super) relay: relay::client::Behaviour,
    pub(super) hole_punching: dcutr::Behaviour,
    pub(super) identify: identify::Behaviour,
    pub(super) ping: ping::Behaviour,
}

/// What a handle asks of the loop.
pub(super) enum Command {
    /// New addresses of a member.
    SetAddresses(PeerId, Vec<Multiaddr>),
    /// The relays in use from now on.
    SetRelays(Vec<Relay>),
}

/// One live connection of a member.
struct Live {
    peer: PeerId,
    addr: Multiaddr,
    relayed: bool,
}

pub(super) struct Loop {
    swarm: Swarm<Behaviour>,
    peers: BTreeMap<PeerId, Arc<Peer>>,
    dials: Dials,
    reservations: Reservations,
    live: BTreeMap<ConnectionId, Live>,
    events: mpsc::Sender<HostEvent>,
    backlog: VecDeque<HostEvent>,
}

impl Loop {
    pub(super) fn new(
        swarm: Swarm<Behaviour>,
        peers: BTreeMap<PeerId, Arc<Peer>>,
        dials: Dials,
        relays: Shown,
        events: mpsc::Sender<HostEvent>,
    ) -> Self {
        Self {
            swarm,
            peers,
            dials,
            reservations: Reservations::new(relays),
            live: BTreeMap::new(),
            events,
            backlog: VecDeque::new(),
        }
    }

    /// Runs until every handle is gone. `tasks` are the tasks of the peers; they end with the loop.
    pub(super) async fn run(mut self, mut commands: mpsc::Receiver<Command>, tasks: JoinSet<()>) {
        let events = self.events.clone();
        loop {
            let wake = self.next_wake();
            tokio::select! {
                event = self.swarm.select_next_some() => self.on_event(event),
                command = commands.recv() => match command {
                    Some(command) => self.on_command(command),
                    None => break,
                },
                () = sleep_until(wake) => self.on_wake(Instant::now()),
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

    fn next_wake(&self) -> Instant {
        let due = [self.dials.next(), self.reservations.next()];
        due.into_iter().flatten().min().unwrap_or_else(|| Instant::now() + FAR)
    }

    fn on_wake(&mut self, now: Instant) {
        self.reservations.due(&mut self.swarm, now);
        self.dials.dial_everybody(self.reservations.none_granted(), now);
        self.dial_due(now);
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
                addrs.iter().for_each(|addr| self.swarm.behaviour_mut().door.learn(addr));
                self.dials.configure(&peer, addrs, Instant::now());
            }
            Command::SetRelays(relays) => {
                for addr in relays.iter().flat_map(|relay| &relay.addrs) {
                    self.swarm.behaviour_mut().door.learn(addr);
                }
                self.reservations.set(&mut self.swarm, relays);
                let ids: BTreeSet<PeerId> = self.reservations.ids().collect();
                self.swarm.behaviour_mut().streams.set_relays(ids);
                self.dials.relays_changed(Instant::now());
            }
        }
    }

    fn dial_due(&mut self, now: Instant) {
        for order in self.dials.due(now, &self.reservations.circuits()) {
            if self.swarm.is_connected(&order.peer) != order.upgrade {
                continue; // A connection came or went; its event follows.
            }
            let condition = if order.upgrade {
                dial_opts::PeerCondition::NotDialing
            } else {
                dial_opts::PeerCondition::DisconnectedAndNotDialing
            };
            let opts = dial_opts::DialOpts::peer_id(order.peer).condition(condition).addresses(order.addrs);
            let opts = opts.build();
            self.swarm.behaviour_mut().door.expect(opts.connection_id());
            if let Err(error) = self.swarm.dial(opts) {
                self.on_dial_failed(order.peer, &error);
            }
        }
    }

    fn on_dial_failed(&mut self, peer: PeerId, error: &DialError) {
        let why = dial_failure(error);
        self.reservations.on_dial_failed(&peer, why.clone());
        let circuits = self.reservations.circuits();
        let Some(why) = self.dials.on_failed(&peer, why, &circuits, Instant::now()) else { return };
        if let Some(peer) = self.peers.get(&peer) {
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
            SwarmEvent::ConnectionEstablished { peer_id, connection_id, endpoint, .. } => {
                let addr = endpoint.get_remote_address().clone();
                let live = Live { peer: peer_id, addr, relayed: endpoint.is_relayed() };
                self.on_established(connection_id, live);
            }
            SwarmEvent::ConnectionClosed { peer_id, connection_id, num_established, cause, .. } => {
                let why = cause.map_or_else(|| "closed".to_owned(), |cause| cause.to_string());
                self.on_closed(peer_id, connection_id, num_established, why);
            }
            SwarmEvent::IncomingConnectionError { send_back_addr, error, peer_id, .. } => {
                self.on_incoming_error(send_back_addr, &error, peer_id);
            }
            SwarmEvent::OutgoingConnectionError { peer_id: Some(peer), error, .. } => {
                self.on_dial_failed(peer, &error)
            }
            SwarmEvent::NewListenAddr { address, .. } => self.tell(HostEvent::Listening { addr: address }),
            SwarmEvent::ListenerClosed { listener_id, reason, .. } => {
                let why = reason.err().map_or_else(|| "closed".to_owned(), |error| first_cause(&error));
                self.on_listener_closed(listener_id, &why);
            }
            SwarmEvent::ListenerError { error, .. } => {
                tracing::warn!(%error, "a listening address failed");
            }
            SwarmEvent::Behaviour(BehaviourEvent::Relay(relay::client::Event::ReservationReqAccepted {
                relay_peer_id,
                ..
            })) => {
                self.reservations.on_reserved(&relay_peer_id);
                self.dials.relays_changed(Instant::now());
            }
            SwarmEvent::Behaviour(BehaviourEvent::HolePunching(event)) => {
                let worked = event.result.is_ok();
                tracing::debug!(peer = %event.remote_peer_id, worked, "hole punching ended");
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
                    self.dials.learn(&peer_id, &info.listen_addrs, Instant::now());
                }
            }
            _ => {}
        }
    }

    fn on_listener_closed(&mut self, listener: ListenerId, why: &str) {
        if !self.reservations.on_listener_closed(listener, why) {
            tracing::info!(why, "a listening address ended");
        }
    }

    fn on_established(&mut self, connection: ConnectionId, live: Live) {
        if !live.relayed && self.reservations.on_connected(&live.peer) {
            tracing::debug!(relay = %live.peer, addr = %live.addr, "relay connected");
            self.dials.relays_changed(Instant::now());
        }
        let Some(peer) = self.peers.get(&live.peer).cloned() else { return };
        self.dials.on_connected(&live.peer, live.relayed, Instant::now());
        let (addr, relayed) = (live.addr.clone(), live.relayed);
        self.live.insert(connection, live);
        let before = self.show_connections(&peer);
        peer.state().last_seen_ms = Some(unix_ms());
        if before == 0 {
            tracing::info!(peer = %peer.id, %addr, relayed, "member connected");
            peer.connected.notify_one();
            self.tell(HostEvent::PeerConnected { peer: peer.id, addr });
        } else {
            tracing::debug!(peer = %peer.id, %addr, relayed, "member connected once more");
            self.tell(HostEvent::PeerConnectedAgain { peer: peer.id });
        }
    }

    fn on_closed(&mut self, peer_id: PeerId, connection: ConnectionId, remaining: u32, why: String) {
        if remaining == 0 {
            self.reservations.on_disconnected(&peer_id, why.clone());
        }
        let Some(closed) = self.live.remove(&connection) else { return };
        self.dials.on_closed(&peer_id, closed.relayed, Instant::now());
        let Some(peer) = self.peers.get(&peer_id).cloned() else { return };
        self.show_connections(&peer);
        if remaining > 0 {
            return;
        }
        peer.state().ping_us = None;
        tracing::info!(peer = %peer.id, why, "member disconnected");
        self.tell(HostEvent::PeerDisconnected { peer: peer.id, why });
    }

    /// Writes down how a member is connected; returns how many connections were written down before.
    fn show_connections(&self, peer: &Peer) -> u32 {
        let of_peer = || self.live.values().filter(|live| live.peer == peer.libp2p);
        let best = of_peer().find(|live| !live.relayed).or_else(|| of_peer().next());
        let count = |relayed: bool| {
            u32::try_from(of_peer().filter(|live| live.relayed == relayed).count()).unwrap_or(u32::MAX)
        };
        let mut state = peer.state();
        let before = state.direct_connections.saturating_add(state.relayed_connections);
        state.addr = best.map(|live| live.addr.clone());
        state.relayed = best.is_some_and(|live| live.relayed);
        state.direct_connections = count(false);
        state.relayed_connections = count(true);
        before
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
