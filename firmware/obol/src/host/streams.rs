//! The behaviour that opens and accepts streams, and keeps everybody who is no member out.
//!
//! Accepted streams go into a bounded queue per peer and protocol, so a burst of one-message streams waits instead of
//! being lost, and what does not fit is reset and counted. Relays may be connected too; they are members of nothing and
//! may ask only who we are, which is how they count their users.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::convert::Infallible;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll, Waker};

use futures::future::{Ready, ready};
use libp2p::core::transport::PortUse;
use libp2p::core::{Endpoint, UpgradeInfo};
use libp2p::swarm::handler::{ConnectionEvent, FullyNegotiatedInbound, FullyNegotiatedOutbound};
use libp2p::swarm::{
    CloseConnection, ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId, FromSwarm,
    NetworkBehaviour, NotifyHandler, Stream, StreamUpgradeError, SubstreamProtocol, THandler,
    THandlerInEvent, THandlerOutEvent, ToSwarm,
};
use libp2p::{InboundUpgrade, Multiaddr, OutboundUpgrade, PeerId};
use tokio::sync::{mpsc, oneshot};

use super::legacy::ALIAS;
use super::peer::Peer;
use super::{Accepts, MAX_CONNECTIONS_PER_PEER, OUTGOING_STREAMS, RefusedWhy, SEND_DEADLINE};
use crate::protocol::Protocol;

/// Requests for a stream that wait for a peer to be connected. More than the senders can have under way.
const MAX_PARKED: usize = 2 * OUTGOING_STREAMS;

/// Why a stream could not be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OpenError {
    /// The peer does not speak the protocol.
    Unsupported,
    /// The connection broke or the negotiation did.
    Broken,
}

/// Somebody wants a stream to a peer.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) peer: PeerId,
    pub(super) protocol: Protocol,
    pub(super) reply: oneshot::Sender<Result<Stream, OpenError>>,
}

/// One live connection.
#[derive(Clone, Copy, Debug)]
struct Live {
    id: ConnectionId,
    /// Through a relay: used only while there is no other.
    relayed: bool,
}

/// The behaviour. See the module.
pub(super) struct Streams {
    members: BTreeMap<PeerId, Arc<Peer>>,
    accepts: Accepts,
    /// Who may be connected without being a member.
    relays: BTreeSet<PeerId>,
    /// Where the questions of relays go.
    questions: mpsc::Sender<Stream>,
    opens: mpsc::Receiver<Open>,
    /// Live connections of each peer, oldest first.
    connections: BTreeMap<PeerId, VecDeque<Live>>,
    parked: BTreeMap<PeerId, VecDeque<Open>>,
    actions: VecDeque<ToSwarm<Infallible, Open>>,
    waker: Option<Waker>,
}

impl Streams {
    pub(super) fn new(
        members: BTreeMap<PeerId, Arc<Peer>>,
        accepts: Accepts,
        opens: mpsc::Receiver<Open>,
        questions: mpsc::Sender<Stream>,
    ) -> Self {
        Self {
            members,
            accepts,
            relays: BTreeSet::new(),
            questions,
            opens,
            connections: BTreeMap::new(),
            parked: BTreeMap::new(),
            actions: VecDeque::new(),
            waker: None,
        }
    }

    /// Replaces the relays. Whoever is none any more loses its connections.
    pub(super) fn set_relays(&mut self, relays: BTreeSet<PeerId>) {
        let gone = self.relays.difference(&relays).filter(|id| !self.members.contains_key(id));
        let gone: Vec<PeerId> = gone.copied().collect();
        self.relays = relays;
        for peer_id in gone {
            self.push(ToSwarm::CloseConnection { peer_id, connection: CloseConnection::All });
        }
    }

    fn handler_for(&self, peer: PeerId) -> Result<Handler, ConnectionDenied> {
        let remote = match self.members.get(&peer) {
            Some(peer) => Remote::Member(Arc::clone(peer), self.accepts),
            None if self.relays.contains(&peer) => Remote::Relay(self.questions.clone()),
            None => return Err(ConnectionDenied::new(RefusedWhy::NotAMember)),
        };
        Ok(Handler { remote, requested: VecDeque::new(), waker: None })
    }

    /// Sends a request to the newest direct connection, else to the newest one, or parks it until there is one.
    fn dispatch(&mut self, open: Open) {
        let live = self.connections.get(&open.peer);
        let newest = live.and_then(|live| live.iter().rfind(|live| !live.relayed).or(live.back()));
        if let Some(connection) = newest {
            self.push(ToSwarm::NotifyHandler {
                peer_id: open.peer,
                handler: NotifyHandler::One(connection.id),
                event: open,
            });
        } else {
            let parked = self.parked.entry(open.peer).or_default();
            parked.retain(|open| !open.reply.is_closed());
            if parked.len() >= MAX_PARKED {
                parked.pop_front();
            }
            parked.push_back(open);
        }
    }

    fn push(&mut self, action: ToSwarm<Infallible, Open>) {
        self.actions.push_back(action);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

impl NetworkBehaviour for Streams {
    type ConnectionHandler = Handler;
    type ToSwarm = Infallible;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.handler_for(peer)
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.handler_for(peer)
    }

    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "a foreign, non-exhaustive enum; only connections matter here"
    )]
    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionEstablished(established) => {
                let peer = established.peer_id;
                let relayed = established.endpoint.is_relayed();
                let connections = self.connections.entry(peer).or_default();
                connections.push_back(Live { id: established.connection_id, relayed });
                let alike: Vec<_> = connections.iter().filter(|live| live.relayed == relayed).collect();
                let excess = alike.len().saturating_sub(MAX_CONNECTIONS_PER_PEER);
                let oldest: Vec<_> = alike.into_iter().take(excess).map(|live| live.id).collect();
                for id in oldest {
                    let connection = CloseConnection::One(id);
                    self.push(ToSwarm::CloseConnection { peer_id: peer, connection });
                }
                for open in self.parked.remove(&peer).unwrap_or_default() {
                    self.dispatch(open);
                }
            }
            FromSwarm::ConnectionClosed(closed) => {
                if let Some(connections) = self.connections.get_mut(&closed.peer_id) {
                    connections.retain(|live| live.id != closed.connection_id);
                    if connections.is_empty() {
                        self.connections.remove(&closed.peer_id);
                    }
                }
            }
            _ => {}
        }
    }

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: THandlerOutEvent<Self>) {
        match event {}
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        loop {
            if let Some(action) = self.actions.pop_front() {
                return Poll::Ready(action);
            }
            match self.opens.poll_recv(cx) {
                Poll::Ready(Some(open)) => self.dispatch(open),
                Poll::Ready(None) | Poll::Pending => {
                    self.waker = Some(cx.waker().clone());
                    return Poll::Pending;
                }
            }
        }
    }
}

/// Who is at the other end.
enum Remote {
    /// A member, and what it may open.
    Member(Arc<Peer>, Accepts),
    /// A relay, and where its questions go.
    Relay(mpsc::Sender<Stream>),
}

/// One connection of a member or of a relay.
pub(super) struct Handler {
    remote: Remote,
    requested: VecDeque<Open>,
    waker: Option<Waker>,
}

impl ConnectionHandler for Handler {
    type FromBehaviour = Open;
    type ToBehaviour = Infallible;
    type InboundProtocol = Accepted;
    type OutboundProtocol = OneProtocol;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = oneshot::Sender<Result<Stream, OpenError>>;

    fn listen_protocol(&self) -> SubstreamProtocol<Self::InboundProtocol, Self::InboundOpenInfo> {
        let accepted = match self.remote {
            Remote::Member(_, Accepts::Ceremonies) => Accepted::Everything,
            Remote::Member(_, Accepts::RunMode) => Accepted::RunMode,
            Remote::Relay(_) => Accepted::PeerInfoOnly,
        };
        SubstreamProtocol::new(accepted, ()).with_timeout(SEND_DEADLINE)
    }

    fn connection_keep_alive(&self) -> bool {
        true // Members and relays stay connected; the ping closes what is dead.
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<Self::OutboundProtocol, Self::OutboundOpenInfo, Self::ToBehaviour>> {
        while let Some(open) = self.requested.pop_front() {
            if open.reply.is_closed() {
                continue; // Whoever asked has given up.
            }
            let protocol =
                SubstreamProtocol::new(OneProtocol(open.protocol), open.reply).with_timeout(SEND_DEADLINE);
            return Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest { protocol });
        }
        self.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    fn on_behaviour_event(&mut self, open: Open) {
        self.requested.push_back(open);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "a foreign, non-exhaustive enum; the rest is not about streams"
    )]
    fn on_connection_event(
        &mut self,
        event: ConnectionEvent<
            '_,
            Self::InboundProtocol,
            Self::OutboundProtocol,
            Self::InboundOpenInfo,
            Self::OutboundOpenInfo,
        >,
    ) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound {
                protocol: (stream, protocol),
                ..
            }) => {
                match &self.remote {
                    Remote::Member(peer, _) => peer.accept(protocol, stream),
                    // One too many is reset.
                    Remote::Relay(questions) => drop(questions.try_send(stream)),
                }
            }
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound {
                protocol: stream,
                info: reply,
            }) => {
                let _ = reply.send(Ok(stream));
            }
            ConnectionEvent::DialUpgradeError(failed) => {
                let why = match failed.error {
                    StreamUpgradeError::NegotiationFailed => OpenError::Unsupported,
                    StreamUpgradeError::Timeout | StreamUpgradeError::Io(_) => OpenError::Broken,
                    StreamUpgradeError::Apply(never) => match never {},
                };
                let _ = failed.info.send(Err(why));
            }
            _ => {}
        }
    }
}

/// What the other end may open.
#[derive(Clone, Copy, Debug)]
pub(super) enum Accepted {
    /// Every protocol we speak.
    Everything,
    /// What members say while the cluster runs.
    RunMode,
    /// The question who we are.
    PeerInfoOnly,
}

/// Offers one protocol, under all its names.
#[derive(Clone, Copy, Debug)]
pub(super) struct OneProtocol(Protocol);

/// A protocol under one of its names.
#[derive(Clone, Copy, Debug)]
pub(super) struct Offer {
    protocol: Protocol,
    id: &'static str,
}

impl AsRef<str> for Offer {
    fn as_ref(&self) -> &str {
        self.id
    }
}

fn offers(protocol: Protocol) -> impl Iterator<Item = Offer> {
    // The negotiation library knows only names that begin with a slash; see `legacy`.
    let slashed = |id: &&'static str| if id.starts_with('/') { *id } else { ALIAS };
    protocol.ids().iter().map(slashed).map(move |id| Offer { protocol, id })
}

static EVERYTHING: LazyLock<Vec<Offer>> =
    LazyLock::new(|| Protocol::ALL.into_iter().flat_map(offers).collect());
static RUN_MODE: LazyLock<Vec<Offer>> =
    LazyLock::new(|| Protocol::RUN.into_iter().flat_map(offers).collect());
static PEER_INFO: LazyLock<Vec<Offer>> = LazyLock::new(|| offers(Protocol::PeerInfo).collect());

impl UpgradeInfo for Accepted {
    type Info = Offer;
    type InfoIter = std::iter::Copied<std::slice::Iter<'static, Offer>>;

    // Asked for at every look at a connection, so made once.
    fn protocol_info(&self) -> Self::InfoIter {
        let accepted: &'static [Offer] = match self {
            Self::Everything => &EVERYTHING,
            Self::RunMode => &RUN_MODE,
            Self::PeerInfoOnly => &PEER_INFO,
        };
        accepted.iter().copied()
    }
}

impl InboundUpgrade<Stream> for Accepted {
    type Output = (Stream, Protocol);
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Self::Error>>;

    fn upgrade_inbound(self, stream: Stream, offer: Offer) -> Self::Future {
        ready(Ok((stream, offer.protocol)))
    }
}

impl UpgradeInfo for OneProtocol {
    type Info = Offer;
    type InfoIter = std::vec::IntoIter<Offer>;

    fn protocol_info(&self) -> Self::InfoIter {
        offers(self.0).collect::<Vec<_>>().into_iter()
    }
}

impl OutboundUpgrade<Stream> for OneProtocol {
    type Output = Stream;
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Self::Error>>;

    fn upgrade_outbound(self, stream: Stream, _: Offer) -> Self::Future {
        ready(Ok(stream))
    }
}
