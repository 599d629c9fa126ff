//! Bounds the handshakes of those who have not yet proved who they are.
//!
//! Anybody can open a connection and say nothing more. Without a bound per address, one machine could hold every place
//! for half-open connections and so keep members out. Here one address has few places, strangers together never have all
//! of them, and what remains is for addresses at which members or relays have been before. A connection through a relay
//! says at once whom it is from, so strangers do not get even that far.
//!
//! In the other direction, a member may ask for a direct connection (hole punching) to addresses of its choice. How often
//! it can make us dial so is bounded too.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::convert::Infallible;
use std::net::IpAddr;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent, THandlerOutEvent,
    ToSwarm, dummy,
};
use libp2p::{Multiaddr, PeerId, multiaddr::Protocol};

use super::RefusedWhy;

/// Half-open connections at once, all together.
const MAX_HALF_OPEN: usize = 256;
/// Of these, from addresses where no member was seen.
const MAX_FROM_STRANGERS: usize = 128;
/// Half-open connections from one address, or of one member through a relay.
const MAX_FROM_ONE: usize = 8;
/// The same where a member was seen: several may share an address.
const MAX_FROM_KNOWN: usize = 32;
/// Addresses remembered as those of members, the newest.
const MAX_KNOWN: usize = 256;

/// Dials of one peer that others may make us do within [`WINDOW`].
const MAX_UNASKED_DIALS: usize = 6;
/// See [`MAX_UNASKED_DIALS`].
const WINDOW: Duration = Duration::from_secs(60);

/// Where a half-open connection comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Origin {
    /// An IPv4 address, or the first half of an IPv6 one: whoever has one has the whole half.
    Net(u128),
    /// Through a relay, which says who it is; the handshake will prove it.
    Through(PeerId),
    /// Unknown.
    Elsewhere,
}

/// Too many connections under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Full {
    /// From this address.
    #[error("too many half-open connections from one address")]
    FromOne,
    /// From strangers, or altogether.
    #[error("too many half-open connections")]
    All,
    /// Towards this peer.
    #[error("the peer asks for direct connections too often")]
    Unasked,
}

/// The places and who holds them.
#[derive(Debug, Default)]
struct Places {
    held: BTreeMap<usize, Origin>,
    known: VecDeque<Origin>,
    next: usize,
}

impl Places {
    fn is_known(&self, origin: Origin) -> bool {
        matches!(origin, Origin::Through(_)) || self.known.contains(&origin)
    }

    fn take(&mut self, origin: Origin) -> Result<usize, Full> {
        let most = if self.known.contains(&origin) { MAX_FROM_KNOWN } else { MAX_FROM_ONE };
        if self.held.values().filter(|held| **held == origin).count() >= most {
            return Err(Full::FromOne);
        }
        let strangers = self.held.values().filter(|held| !self.is_known(**held)).count();
        if self.held.len() >= MAX_HALF_OPEN || (strangers >= MAX_FROM_STRANGERS && !self.is_known(origin)) {
            return Err(Full::All);
        }
        self.next = self.next.wrapping_add(1);
        self.held.insert(self.next, origin);
        Ok(self.next)
    }

    fn give_back(&mut self, place: usize) {
        self.held.remove(&place);
    }

    fn learn(&mut self, origin: Origin) {
        if !matches!(origin, Origin::Net(_)) {
            return;
        }
        self.known.retain(|known| *known != origin);
        self.known.push_back(origin);
        if self.known.len() > MAX_KNOWN {
            self.known.pop_front();
        }
    }
}

/// The behaviour. See the module.
#[derive(Debug)]
pub(super) struct Door {
    members: BTreeSet<PeerId>,
    places: Places,
    by_connection: BTreeMap<ConnectionId, usize>,
    /// A dial of our own that is about to begin.
    ours: Option<ConnectionId>,
    /// When dials that are not our own were begun, by peer.
    unasked: BTreeMap<PeerId, VecDeque<Instant>>,
}

impl Door {
    /// `members` are whom relays may bring; `addrs` where members are configured to be.
    pub(super) fn new<'a>(members: BTreeSet<PeerId>, addrs: impl Iterator<Item = &'a Multiaddr>) -> Self {
        let mut door = Self {
            members,
            places: Places::default(),
            by_connection: BTreeMap::new(),
            ours: None,
            unasked: BTreeMap::new(),
        };
        addrs.for_each(|addr| door.learn(addr));
        door
    }

    /// A member or a relay is or may be at this address.
    pub(super) fn learn(&mut self, addr: &Multiaddr) {
        self.places.learn(origin(addr));
    }

    /// The dial that begins next is our own.
    pub(super) fn expect(&mut self, connection: ConnectionId) {
        self.ours = Some(connection);
    }

    /// Whether a dial that somebody else wants may begin.
    fn admit_unasked(&mut self, peer: PeerId, now: Instant) -> Result<(), Full> {
        let begun = self.unasked.entry(peer).or_default();
        while begun.front().is_some_and(|at| now.duration_since(*at) >= WINDOW) {
            begun.pop_front();
        }
        if begun.len() >= MAX_UNASKED_DIALS {
            return Err(Full::Unasked);
        }
        begun.push_back(now);
        Ok(())
    }

    fn leave(&mut self, connection: ConnectionId) {
        if let Some(place) = self.by_connection.remove(&connection) {
            self.places.give_back(place);
        }
    }
}

/// Where an address is.
fn origin(addr: &Multiaddr) -> Origin {
    let known = addr.iter().find_map(|part| {
        if let Protocol::Ip4(ip) = part {
            return Some(Origin::Net(ip.to_ipv6_mapped().to_bits()));
        }
        if let Protocol::Ip6(ip) = part {
            return Some(Origin::Net(match IpAddr::from(ip).to_canonical() {
                IpAddr::V4(ip) => ip.to_ipv6_mapped().to_bits(),
                IpAddr::V6(ip) => ip.to_bits() >> 64 << 64,
            }));
        }
        if let Protocol::P2p(id) = part { Some(Origin::Through(id)) } else { None }
    });
    known.unwrap_or(Origin::Elsewhere)
}

impl NetworkBehaviour for Door {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = Infallible;

    fn handle_pending_inbound_connection(
        &mut self,
        connection: ConnectionId,
        _: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        let origin = origin(remote);
        if let Origin::Through(id) = origin
            && !self.members.contains(&id)
        {
            return Err(ConnectionDenied::new(RefusedWhy::NotAMember));
        }
        let place = self.places.take(origin).map_err(ConnectionDenied::new)?;
        self.by_connection.insert(connection, place);
        Ok(())
    }

    fn handle_pending_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: Option<PeerId>,
        _: &[Multiaddr],
        _: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        if self.ours.take() != Some(connection)
            && let Some(peer) = peer.filter(|peer| self.members.contains(peer))
        {
            self.admit_unasked(peer, Instant::now()).map_err(ConnectionDenied::new)?;
        }
        Ok(Vec::new())
    }

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(dummy::ConnectionHandler)
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(dummy::ConnectionHandler)
    }

    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "a foreign, non-exhaustive enum; only the end of a handshake matters here"
    )]
    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionEstablished(established) => {
                self.leave(established.connection_id);
                // Every behaviour has agreed by now: it is a member or a relay.
                self.learn(established.endpoint.get_remote_address());
            }
            FromSwarm::ListenFailure(failure) => self.leave(failure.connection_id),
            _ => {}
        }
    }

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: THandlerOutEvent<Self>) {
        match event {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Origin {
        origin(&text.parse().unwrap())
    }

    #[test]
    fn one_address_has_few_places_and_gets_them_back() {
        let mut places = Places::default();
        let one = at("/ip4/192.0.2.1/tcp/1000");
        let taken: Vec<usize> = (0..MAX_FROM_ONE).map(|_| places.take(one).unwrap()).collect();
        assert_eq!(places.take(at("/ip4/192.0.2.1/tcp/2000")), Err(Full::FromOne));
        assert!(places.take(at("/ip4/192.0.2.2/tcp/1000")).is_ok());
        places.give_back(taken[0]);
        assert!(places.take(one).is_ok());
    }

    #[test]
    fn strangers_never_hold_the_places_of_those_who_were_here_before() {
        let mut places = Places::default();
        let member = at("/ip4/198.51.100.7/tcp/3610");
        places.learn(member);
        let stranger = |i: usize| Origin::Net(u128::try_from(i).unwrap());
        let held = (0..10_000).filter(|i| places.take(stranger(*i)).is_ok()).count();
        assert_eq!(held, MAX_FROM_STRANGERS);
        assert!(places.take(member).is_ok());
        assert!(places.take(Origin::Through(PeerId::random())).is_ok());
    }

    #[test]
    fn whoever_has_one_ipv6_address_has_the_whole_network() {
        assert_eq!(at("/ip6/2001:db8::1/tcp/1"), at("/ip6/2001:db8::ffff:2/tcp/9"));
        assert_ne!(at("/ip6/2001:db8::1/tcp/1"), at("/ip6/2001:db8:0:1::1/tcp/1"));
        assert_eq!(at("/ip6/::ffff:192.0.2.1/tcp/1"), at("/ip4/192.0.2.1/tcp/5"));
        let id = PeerId::random();
        assert_eq!(at(&format!("/p2p/{id}")), Origin::Through(id));
    }

    #[test]
    fn nobody_makes_us_dial_without_end() {
        let (peer, other) = (PeerId::random(), PeerId::random());
        let mut door = Door::new(BTreeSet::from([peer, other]), std::iter::empty());
        let start = Instant::now();
        let admitted = (0..100).filter(|_| door.admit_unasked(peer, start).is_ok()).count();
        assert_eq!(admitted, MAX_UNASKED_DIALS);
        assert!(door.admit_unasked(other, start).is_ok());
        assert!(door.admit_unasked(peer, start + WINDOW).is_ok());
        let own = ConnectionId::new_unchecked(7);
        door.expect(own);
        let dialled = door.handle_pending_outbound_connection(own, Some(peer), &[], Endpoint::Dialer);
        assert!(dialled.is_ok(), "our own dials are not counted");
    }

    #[test]
    fn remembered_addresses_are_bounded() {
        let mut places = Places::default();
        (0..10_000_u128).for_each(|i| places.learn(Origin::Net(i)));
        assert_eq!(places.known.len(), MAX_KNOWN);
    }
}
