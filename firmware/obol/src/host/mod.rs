//! The libp2p host: connections to the other members and one new stream per message.
//!
//! TCP, Noise and yamux. Only members may stay connected, in either direction. Everything a peer can make us hold or do
//! is bounded per peer, so that a flooding or a stalled member costs only its own part.
//!
//! Members that cannot be dialled are met through relays, which carry bytes between members and are trusted with nothing:
//! a connection through a relay is encrypted and proves identities as a direct one does, and gives way to one.

mod build;
mod cork;
mod dials;
mod door;
mod incoming;
mod legacy;
mod outgoing;
mod peer;
mod relay;
mod reservations;
mod streams;
mod swarm;
mod sync_stream;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use cluster::PeerId;
use libp2p::{Multiaddr, multiaddr};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio::time::Instant;

pub use libp2p::multiaddr::Protocol as AddressPart;
pub use peer::PeerState;
pub use relay::{DEFAULT_RELAYS, MAX_BODY, MAX_RELAYS, Relay, RelayEntry, RelayError, read_description};
pub use reservations::RelayStatus;
pub use sync_stream::SyncStream;

pub use crate::peerinfo::OwnInfo;
pub(crate) use legacy::translated;

use crate::frame;
use crate::protocol::Protocol;

/// How long a message may take from being queued to being sent, and a request to being answered.
pub const SEND_DEADLINE: Duration = Duration::from_secs(7);
/// How long an inbound message may take to arrive, to be handled and to be answered.
pub const SERVE_DEADLINE: Duration = Duration::from_secs(5);
/// First pause before a message with a longer deadline is queued again; it doubles each time.
pub const RESEND_AFTER: Duration = Duration::from_millis(500);
/// Longest such pause.
pub const MAX_RESEND_AFTER: Duration = Duration::from_secs(15);
/// Messages of one peer that wait for being queued again at once; further ones are given up.
pub const WAITING_TO_RESEND: usize = 256;
/// Pause before the one retry after a reset stream.
pub const RETRY_AFTER: Duration = Duration::from_millis(100);
/// Live direct connections to one peer, and as many through relays; the oldest gives way, because a peer that lost power
/// cannot close its own.
pub const MAX_CONNECTIONS_PER_PEER: usize = 2;
/// Messages waiting to be sent to one peer; the oldest is dropped.
pub const OUTGOING_QUEUE: usize = 256;
/// Messages on their way to one peer at once.
pub const OUTGOING_STREAMS: usize = 128;
/// Requests of ours to one peer under way at once.
pub const OUTGOING_REQUESTS: usize = 16;
/// Accepted streams of one peer and one protocol waiting to be read; more are reset and counted.
pub const INCOMING_QUEUE: usize = 256;
/// Messages of one peer being read, waiting for the daemon, or being handled at once.
pub const INCOMING_MESSAGES: usize = 64;
/// Bytes of messages of one peer held at once: one message of the largest kind and some more.
pub const INCOMING_BYTES: usize = 40 << 20;

/// A member of the cluster, other than ourselves.
#[derive(Clone, Debug)]
pub struct Member {
    /// Who it is.
    pub peer_id: PeerId,
    /// Where to dial it; empty when it will dial us.
    pub addrs: Vec<Multiaddr>,
}

/// What the host needs to start.
pub struct HostConfig {
    /// secp256k1 secret of this node; wiped once the host has it.
    pub identity: zeroize::Zeroizing<[u8; 32]>,
    /// Where to listen, such as `/ip4/0.0.0.0/tcp/3610`; empty for outgoing connections only.
    pub listen: Vec<Multiaddr>,
    /// Where the others can dial us, as far as we cannot see it ourselves: announced first.
    pub external: Vec<Multiaddr>,
    /// The other members.
    pub members: Vec<Member>,
    /// Answers peerinfo requests, and asks the others every minute.
    pub info: OwnInfo,
    /// What the members may open streams for.
    pub accepts: Accepts,
}

/// What members may open streams for. The library goes through the whole list whenever it looks at a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accepts {
    /// What members of a cluster say while it runs ([`Protocol::RUN`]).
    RunMode,
    /// The protocols of key generation too.
    Ceremonies,
}

/// What the host tells the daemon.
#[derive(Debug)]
pub enum HostEvent {
    /// We listen on this address.
    Listening {
        /// The address, with the port chosen.
        addr: Multiaddr,
    },
    /// A member is connected; sent for the first of its connections.
    PeerConnected {
        /// Who.
        peer: PeerId,
        /// From or to where.
        addr: Multiaddr,
    },
    /// A member has one more connection: what was sent on the one before may be lost.
    PeerConnectedAgain {
        /// Who.
        peer: PeerId,
    },
    /// The last connection of a member is gone.
    PeerDisconnected {
        /// Who.
        peer: PeerId,
        /// Why, in words.
        why: String,
    },
    /// A dial to a member failed; the host tries again by itself.
    DialFailed {
        /// Whom we tried to reach.
        peer: PeerId,
        /// Why, in words.
        why: String,
    },
    /// Somebody who is no member, or who claims to be another, was turned away.
    Refused {
        /// Who it proved to be, as base58 text; `None` when it proved nothing.
        peer_id: Option<String>,
        /// From where.
        addr: Multiaddr,
        /// Why.
        why: RefusedWhy,
    },
    /// A whole message arrived. Drop the event once it is handled: until then it counts against its sender.
    Inbound(Inbound),
    /// A member answered peerinfo.
    PeerInfo {
        /// Who.
        peer: PeerId,
        /// What it said, checked.
        info: crate::peerinfo::Report,
    },
}

/// Why a connection was turned away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RefusedWhy {
    /// Its identity is not one of the cluster's operators.
    #[error("not a member of this cluster")]
    NotAMember,
    /// It uses our own identity: two boxes run with one key.
    #[error("it uses this node's own identity key; only one box may run with it")]
    OurOwnIdentity,
}

/// A message of a member.
#[derive(Debug)]
pub struct Inbound {
    /// Who sent it: the authenticated identity of the connection.
    pub peer: PeerId,
    /// On which protocol.
    pub protocol: Protocol,
    /// The protobuf message, without its length prefix.
    pub bytes: Vec<u8>,
    /// How to answer; `None` for one-way protocols.
    pub responder: Option<Responder>,
    /// Gives the sender its share of our attention back.
    _permit: Option<(OwnedSemaphorePermit, Option<OwnedSemaphorePermit>)>,
}

/// Answers one request. Dropping it closes the stream without an answer.
#[derive(Debug)]
pub struct Responder(pub(crate) oneshot::Sender<Vec<u8>>);

impl Responder {
    /// Sends the answer, unless its deadline has passed.
    pub fn respond(self, bytes: Vec<u8>) {
        let _ = self.0.send(bytes);
    }
}

/// Why a request brought no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// The peer is no member.
    #[error("the peer is not a member of this cluster")]
    NotAMember,
    /// No connection, or no answer, within [`SEND_DEADLINE`].
    #[error("the peer did not answer in time")]
    TimedOut,
    /// The peer does not speak the protocol.
    #[error("the peer does not speak this protocol")]
    Unsupported,
    /// The stream broke, twice.
    #[error("the stream to the peer was reset")]
    Reset,
    /// The answer is longer than the protocol allows.
    #[error("the peer's answer is too long")]
    TooLong,
    /// Too many requests to this peer are under way.
    #[error("too many requests to this peer are under way")]
    Busy,
    /// The host has stopped.
    #[error("the peer-to-peer host has stopped")]
    Stopped,
}

/// Why the host could not start.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The identity key is no valid secp256k1 key.
    #[error("the identity key is not a valid secp256k1 key; restore it from your backup")]
    Identity,
    /// A listen address cannot be used.
    #[error("cannot listen on {addr}; is another program using the port?")]
    Listen {
        /// The address.
        addr: Multiaddr,
        /// What the system said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The transport could not be built.
    #[error("cannot set up the peer-to-peer transport")]
    Transport(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A member list that holds ourselves, or one peer twice.
    #[error("the member list holds {0} twice, or it is this node itself")]
    Members(PeerId),
}

/// Counters of one peer since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerCounters {
    /// Messages and requests sent.
    pub sent: u64,
    /// Messages that could not be sent.
    pub send_failed: u64,
    /// Messages dropped because the outgoing queue was full or they had waited too long.
    pub send_dropped: u64,
    /// Retries after a reset.
    pub retried: u64,
    /// Messages received.
    pub received: u64,
    /// Streams reset because the peer had too many waiting.
    pub inbound_reset: u64,
    /// Messages refused: too long, malformed framing, or not whole in time.
    pub inbound_refused: u64,
}

/// The time now, in milliseconds since 1970.
pub(crate) fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Starts hosts.
pub struct Host;

impl Host {
    /// Starts a host on the current tokio runtime. It stops when every handle is dropped.
    pub fn spawn(config: HostConfig) -> Result<(HostHandle, mpsc::Receiver<HostEvent>), HostError> {
        build::spawn(config)
    }
}

/// Talks to a running host. Cheap to clone.
#[derive(Clone)]
pub struct HostHandle {
    own: PeerId,
    peers: Arc<BTreeMap<PeerId, Arc<peer::Peer>>>,
    opens: mpsc::Sender<streams::Open>,
    commands: mpsc::Sender<swarm::Command>,
    relays: reservations::Shown,
}

/// One member as the host sees it.
#[derive(Clone, Debug)]
pub struct PeerStatus {
    /// Who.
    pub peer: PeerId,
    /// What is known about it now.
    pub state: PeerState,
    /// What went to and fro.
    pub counters: PeerCounters,
}

impl HostHandle {
    /// Our own identity.
    pub fn own_id(&self) -> PeerId {
        self.own
    }

    /// Queues a message for one member; it is dropped when it cannot be sent within [`SEND_DEADLINE`].
    pub fn send(&self, to: &PeerId, protocol: Protocol, message: &[u8]) -> Result<(), RequestError> {
        let peer = self.peers.get(to).ok_or(RequestError::NotAMember)?;
        push(peer, protocol, frame::frame(message).into(), SEND_DEADLINE);
        Ok(())
    }

    /// Queues a message for one member, again and again until it is sent or so much time has passed.
    pub fn send_within(
        &self,
        to: &PeerId,
        protocol: Protocol,
        message: &[u8],
        within: Duration,
    ) -> Result<(), RequestError> {
        let peer = self.peers.get(to).ok_or(RequestError::NotAMember)?;
        push(peer, protocol, frame::frame(message).into(), within);
        Ok(())
    }

    /// Queues a message for every other member.
    pub fn broadcast(&self, protocol: Protocol, message: &[u8]) {
        self.broadcast_within(protocol, message, SEND_DEADLINE);
    }

    /// Queues a message for every other member, again and again until it is sent or so much time has passed.
    pub fn broadcast_within(&self, protocol: Protocol, message: &[u8], within: Duration) {
        let framed: Arc<[u8]> = frame::frame(message).into();
        for peer in self.peers.values() {
            push(peer, protocol, Arc::clone(&framed), within);
        }
    }

    /// Asks one member and waits for its answer, at most [`SEND_DEADLINE`].
    pub async fn request(
        &self,
        to: &PeerId,
        protocol: Protocol,
        message: &[u8],
    ) -> Result<Vec<u8>, RequestError> {
        let peer = self.peers.get(to).ok_or(RequestError::NotAMember)?;
        outgoing::request(peer, &self.opens, protocol, message).await
    }

    /// Opens a stream on which a ceremony tells one member how far we are.
    pub async fn sync_stream(&self, to: &PeerId) -> Result<SyncStream, RequestError> {
        let peer = self.peers.get(to).ok_or(RequestError::NotAMember)?;
        SyncStream::open(peer, &self.opens).await
    }

    /// Replaces the addresses at which a member is dialled.
    pub async fn set_addresses(&self, of: &PeerId, addrs: Vec<Multiaddr>) -> Result<(), RequestError> {
        let peer = self.peers.get(of).ok_or(RequestError::NotAMember)?;
        let command = swarm::Command::SetAddresses(peer.libp2p, addrs);
        self.commands.send(command).await.map_err(|_| RequestError::Stopped)
    }

    /// Replaces the relays through which members can meet, at most [`MAX_RELAYS`].
    pub async fn set_relays(&self, relays: Vec<Relay>) -> Result<(), RequestError> {
        let command = swarm::Command::SetRelays(relays);
        self.commands.send(command).await.map_err(|_| RequestError::Stopped)
    }

    /// The relays and whether members can reach us through them.
    pub fn relays(&self) -> Vec<RelayStatus> {
        self.relays.lock().clone()
    }

    /// All other members, in order of their identity.
    pub fn peers(&self) -> Vec<PeerStatus> {
        let status = |peer: &Arc<peer::Peer>| PeerStatus {
            peer: peer.id,
            state: peer.state().clone(),
            counters: peer.counters.snapshot(),
        };
        self.peers.values().map(status).collect()
    }
}

fn push(peer: &peer::Peer, protocol: Protocol, frame: Arc<[u8]>, within: Duration) {
    let deadline = Instant::now() + within;
    if peer.outgoing.push(peer::Queued { protocol, frame, deadline, resent: 0 }) {
        peer::Counters::add(&peer.counters.send_dropped);
    }
}

/// Splits a member's address such as `/ip4/192.0.2.7/tcp/3610/p2p/16Uiu2HA…` into who and where.
pub fn parse_member_address(text: &str) -> Result<(PeerId, Multiaddr), AddressError> {
    let mut addr: Multiaddr = text.parse().map_err(|_| AddressError::Malformed(text.to_owned()))?;
    let Some(multiaddr::Protocol::P2p(id)) = addr.pop() else {
        return Err(AddressError::WithoutPeer(text.to_owned()));
    };
    let peer = PeerId::from_bytes(&id.to_bytes()).map_err(|_| AddressError::WithoutPeer(text.to_owned()))?;
    if addr.is_empty() {
        return Err(AddressError::Malformed(text.to_owned()));
    }
    Ok((peer, addr))
}

/// Why a member's address is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Not a multiaddr.
    #[error("{0} is not an address of the form /ip4/192.0.2.7/tcp/3610/p2p/16Uiu2HA…")]
    Malformed(String),
    /// Not a multiaddr that ends with an operator's peer id.
    #[error("{0} does not end with /p2p/ and the peer id of an operator")]
    WithoutPeer(String),
}
