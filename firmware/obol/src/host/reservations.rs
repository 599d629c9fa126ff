//! Holds a reservation at every relay, so that members can reach us through it (spec section 4.4).
//!
//! A relay is dialled until it is connected, then asked for a reservation; the library renews it before it expires. When
//! the connection or the reservation is lost, it begins again, after a pause that grows while it fails.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use libp2p::core::transport::ListenerId;
use libp2p::multiaddr::Protocol;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::{Multiaddr, PeerId, Swarm};
use tokio::time::Instant;

use super::relay::{MAX_RELAYS, Relay};
use super::swarm::Behaviour;

/// First pause after a failure; it doubles with every further one.
const BACKOFF: Duration = Duration::from_millis(500);
/// Longest pause.
const MAX_BACKOFF: Duration = Duration::from_secs(30);
/// Doublings after which the pause is at its longest.
const MAX_DOUBLINGS: u32 = 6;
/// Failures after which a relay is not expected to give us a place soon.
const GIVEN_UP: u32 = 3;
/// A dial or a request for a reservation that leads to nothing is begun again.
const PATIENCE: Duration = Duration::from_secs(30);

/// A relay as the host sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelayStatus {
    /// Who.
    pub id: PeerId,
    /// Whether it is connected.
    pub connected: bool,
    /// Whether members can reach us through it.
    pub reserved: bool,
    /// Why not, in words.
    pub why_not: Option<String>,
}

/// What everybody may read.
#[derive(Clone, Debug, Default)]
pub(super) struct Shown(Arc<Mutex<Vec<RelayStatus>>>);

impl Shown {
    pub(super) fn lock(&self) -> MutexGuard<'_, Vec<RelayStatus>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One relay.
#[derive(Debug)]
struct Held {
    addrs: Vec<Multiaddr>,
    connected: bool,
    listener: Option<ListenerId>,
    reserved: bool,
    failures: u32,
    why_not: Option<String>,
    /// When something is to be done.
    next: Option<Instant>,
}

/// All relays in use.
#[derive(Debug, Default)]
pub(super) struct Reservations {
    relays: BTreeMap<PeerId, Held>,
    shown: Shown,
}

impl Reservations {
    pub(super) fn new(shown: Shown) -> Self {
        Self { relays: BTreeMap::new(), shown }
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = PeerId> {
        self.relays.keys().copied()
    }

    /// When [`Reservations::due`] wants to be called.
    pub(super) fn next(&self) -> Option<Instant> {
        self.relays.values().filter_map(|held| held.next).min()
    }

    /// Where members are reached through relays that are connected. The member's identity goes behind it.
    pub(super) fn circuits(&self) -> Vec<Multiaddr> {
        let connected = self.relays.iter().filter(|(_, held)| held.connected);
        connected.filter_map(|(id, held)| held.addrs.first().map(|addr| circuit(addr, *id))).collect()
    }

    /// Whether relays are connected and none gives us a place, after several attempts: nobody can reach us through them,
    /// so it is for us to reach the others. Relays on private networks are so: they grant a place and name no address,
    /// which the library takes for a refusal.
    pub(super) fn none_granted(&self) -> bool {
        let mut connected = self.relays.values().filter(|held| held.connected).peekable();
        connected.peek().is_some() && connected.all(|held| !held.reserved && held.failures >= GIVEN_UP)
    }

    /// Replaces the relays. Those no longer named lose their reservation; their connections are closed by the gate.
    pub(super) fn set(&mut self, swarm: &mut Swarm<Behaviour>, relays: Vec<Relay>) {
        let mut wanted: BTreeMap<PeerId, Vec<Multiaddr>> = BTreeMap::new();
        for relay in relays {
            if wanted.len() < MAX_RELAYS || wanted.contains_key(&relay.id) {
                wanted.entry(relay.id).or_default().extend(relay.addrs);
            }
        }
        let gone: Vec<PeerId> = self.ids().filter(|id| !wanted.contains_key(id)).collect();
        for id in gone {
            if let Some(listener) = self.relays.remove(&id).and_then(|held| held.listener) {
                swarm.remove_listener(listener);
            }
        }
        for (id, addrs) in wanted {
            match self.relays.get_mut(&id) {
                Some(held) => held.addrs = addrs,
                None => {
                    let connected = swarm.is_connected(&id);
                    let held = Held {
                        addrs,
                        connected,
                        listener: None,
                        reserved: false,
                        failures: 0,
                        why_not: None,
                        next: Some(Instant::now()),
                    };
                    self.relays.insert(id, held);
                }
            }
        }
        self.show();
    }

    /// Dials and reserves what is due.
    pub(super) fn due(&mut self, swarm: &mut Swarm<Behaviour>, now: Instant) {
        let due = self.relays.iter_mut().filter(|(_, held)| held.next.is_some_and(|next| next <= now));
        for (id, held) in due {
            held.next = Some(now + PATIENCE);
            let failed = if held.connected {
                reserve(swarm, *id, held)
            } else {
                let opts = DialOpts::peer_id(*id)
                    .condition(PeerCondition::DisconnectedAndNotDialing)
                    .addresses(held.addrs.clone());
                swarm.dial(opts.build()).err().map(|error| error.to_string())
            };
            if let Some(why) = failed {
                held.fail(why);
            }
        }
        self.show();
    }

    /// A relay was connected. Says whether it is one.
    pub(super) fn on_connected(&mut self, id: &PeerId) -> bool {
        let Some(held) = self.relays.get_mut(id) else { return false };
        if !held.connected {
            held.connected = true;
            held.next = Some(Instant::now());
            self.show();
        }
        true
    }

    /// The last connection of a relay is gone.
    pub(super) fn on_disconnected(&mut self, id: &PeerId, why: String) {
        let Some(held) = self.relays.get_mut(id) else { return };
        held.connected = false;
        held.fail(why);
        self.show();
    }

    /// A dial of a relay failed.
    pub(super) fn on_dial_failed(&mut self, id: &PeerId, why: String) {
        let Some(held) = self.relays.get_mut(id) else { return };
        if !held.connected {
            held.fail(why);
            self.show();
        }
    }

    /// A relay holds a place for us, for the first time or once more.
    pub(super) fn on_reserved(&mut self, id: &PeerId) {
        let Some(held) = self.relays.get_mut(id) else { return };
        if !held.reserved {
            tracing::info!(relay = %id, "members can reach this box through a relay");
        }
        held.reserved = true;
        held.failures = 0;
        held.why_not = None;
        held.next = None;
        self.show();
    }

    /// A listener ended. Says whether it was a relay's.
    pub(super) fn on_listener_closed(&mut self, listener: ListenerId, why: &str) -> bool {
        let found = self.relays.iter_mut().find(|(_, held)| held.listener == Some(listener));
        let Some((id, held)) = found else { return false };
        tracing::info!(relay = %id, why, "the reservation at a relay ended");
        held.listener = None;
        held.fail(why.to_owned());
        self.show();
        true
    }

    fn show(&self) {
        let status = |(id, held): (&PeerId, &Held)| RelayStatus {
            id: *id,
            connected: held.connected,
            reserved: held.reserved,
            why_not: held.why_not.clone(),
        };
        *self.shown.lock() = self.relays.iter().map(status).collect();
    }
}

impl Held {
    /// Begins again after a pause.
    fn fail(&mut self, why: String) {
        self.reserved = false;
        self.why_not = Some(why);
        let pause = BACKOFF.saturating_mul(1 << self.failures.min(MAX_DOUBLINGS)).min(MAX_BACKOFF);
        self.failures = self.failures.saturating_add(1);
        self.next = Some(Instant::now() + pause);
    }
}

/// Asks a connected relay for a place.
fn reserve(swarm: &mut Swarm<Behaviour>, id: PeerId, held: &mut Held) -> Option<String> {
    if let Some(listener) = held.listener.take() {
        swarm.remove_listener(listener); // It led to nothing.
    }
    let addr = held.addrs.first()?;
    match swarm.listen_on(circuit(addr, id)) {
        Ok(listener) => {
            held.listener = Some(listener);
            None
        }
        Err(error) => Some(error.to_string()),
    }
}

fn circuit(addr: &Multiaddr, relay: PeerId) -> Multiaddr {
    addr.clone().with(Protocol::P2p(relay)).with(Protocol::P2pCircuit)
}
