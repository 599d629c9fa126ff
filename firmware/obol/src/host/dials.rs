//! Whom to dial, where, and when (spec section 4.4).
//!
//! Direct addresses come first: those the owner gave and those the member itself announced. When none answers, a member
//! with a greater identity is dialled through the relays; one with a smaller identity dials us. While a member is
//! reached only through a relay, the direct addresses are tried again and again, because relays are slow and end their
//! circuits.

use std::collections::BTreeMap;
use std::time::Duration;

use libp2p::{Multiaddr, PeerId, multiaddr::Protocol};
use tokio::time::Instant;

use super::relay::is_dialled;

/// First pause after a failed dial; it doubles with every further failure.
const BACKOFF: Duration = Duration::from_millis(500);
/// Longest pause between dials.
const MAX_BACKOFF: Duration = Duration::from_secs(30);
/// Doublings after which the pause is at its longest.
const MAX_DOUBLINGS: u32 = 6;
/// Until the first direct dial of a member that was reached through a relay: it has announced its addresses by then.
const UPGRADE_SOON: Duration = Duration::from_secs(2);
/// Longest pause before a further one; the pauses double. The first failures say little: both sides dial at once, and hole
/// punching beside them, and what collides ends.
const UPGRADE_EVERY: Duration = Duration::from_secs(60);
/// Addresses remembered of those a member announces.
const MAX_LEARNED: usize = 8;

/// A dial to make now.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Order {
    pub(super) peer: PeerId,
    pub(super) addrs: Vec<Multiaddr>,
    /// A direct dial of a member that is connected through a relay.
    pub(super) upgrade: bool,
}

/// One member.
#[derive(Debug, Default)]
struct Dial {
    configured: Vec<Multiaddr>,
    /// What it announced.
    learned: Vec<Multiaddr>,
    /// Whether its identity is greater than ours, so that it is we who go through the relays.
    ours: bool,
    direct: u32,
    relayed: u32,
    /// The direct addresses have failed; the relays are next.
    through_relays: bool,
    /// Why they have.
    direct_failure: Option<String>,
    failures: u32,
    /// Direct dials while a relay serves, since there was a direct connection.
    upgrades: u32,
    /// `None` while there is nothing to dial or a dial is under way.
    next: Option<Instant>,
}

/// All members.
#[derive(Debug, Default)]
pub(super) struct Dials {
    members: BTreeMap<PeerId, Dial>,
    /// Whether announced loopback addresses may be dialled: only when we are on loopback ourselves.
    loopback: bool,
    /// Nobody can reach us through a relay: then we dial everybody, whatever the identities.
    everybody: bool,
}

impl Dials {
    pub(super) fn new(
        own: PeerId,
        addrs: Vec<(PeerId, Vec<Multiaddr>)>,
        loopback: bool,
        now: Instant,
    ) -> Self {
        let own = own.to_bytes();
        let dial = |(peer, configured): (PeerId, Vec<Multiaddr>)| {
            let ours = peer.to_bytes() > own;
            (peer, Dial { configured, ours, next: Some(now), ..Dial::default() })
        };
        Self { members: addrs.into_iter().map(dial).collect(), loopback, everybody: false }
    }

    /// When [`Dials::due`] wants to be called.
    pub(super) fn next(&self) -> Option<Instant> {
        self.members.values().filter_map(|dial| dial.next).min()
    }

    /// What is to be dialled now. `circuits` are the relays' addresses through which members are reached.
    pub(super) fn due(&mut self, now: Instant, circuits: &[Multiaddr]) -> Vec<Order> {
        let mut orders = Vec::new();
        for (peer, dial) in &mut self.members {
            if dial.next.is_none_or(|next| next > now) {
                continue;
            }
            dial.next = None;
            if dial.direct > 0 {
                continue;
            }
            let direct = dial.direct_addrs();
            let upgrade = dial.relayed > 0;
            if direct.is_empty() {
                dial.through_relays = true;
            }
            let through = dial.circuits(circuits, self.everybody);
            let addrs = if upgrade || !dial.through_relays { direct } else { through };
            if !addrs.is_empty() {
                dial.upgrades = dial.upgrades.saturating_add(u32::from(upgrade));
                orders.push(Order { peer: *peer, addrs, upgrade });
            }
        }
        orders
    }

    /// New addresses of a member from the owner.
    pub(super) fn configure(&mut self, peer: &PeerId, addrs: Vec<Multiaddr>, now: Instant) {
        if let Some(dial) = self.members.get_mut(peer) {
            dial.configured = addrs;
            dial.begin_again(now);
        }
    }

    /// A member announced its addresses.
    pub(super) fn learn(&mut self, peer: &PeerId, announced: &[Multiaddr], now: Instant) {
        let loopback = self.loopback;
        let Some(dial) = self.members.get_mut(peer) else { return };
        // With its own identity at the end, as some do.
        let bare = announced.iter().map(|addr| match addr.iter().last() {
            Some(Protocol::P2p(id)) if id == *peer => addr.iter().take(2).collect(),
            _ => addr.clone(),
        });
        let usable = bare.filter(|addr: &Multiaddr| is_dialled(addr) && is_sane(addr, loopback));
        dial.learned = usable.take(MAX_LEARNED).collect();
        if dial.direct == 0 && dial.relayed > 0 {
            let pause = dial.upgrade_pause();
            dial.next = Some(dial.next.unwrap_or(now + pause));
        }
    }

    /// Whether everybody is dialled through the relays, because nobody can reach us through them.
    pub(super) fn dial_everybody(&mut self, everybody: bool, now: Instant) {
        if std::mem::replace(&mut self.everybody, everybody) != everybody && everybody {
            self.relays_changed(now);
        }
    }

    /// There are relays that were not there before.
    pub(super) fn relays_changed(&mut self, now: Instant) {
        let everybody = self.everybody;
        let alone = |dial: &&mut Dial| (dial.ours || everybody) && dial.direct + dial.relayed == 0;
        for dial in self.members.values_mut().filter(alone) {
            if dial.through_relays || dial.direct_addrs().is_empty() {
                dial.next = Some(now);
            }
        }
    }

    pub(super) fn on_connected(&mut self, peer: &PeerId, relayed: bool, now: Instant) {
        let Some(dial) = self.members.get_mut(peer) else { return };
        if relayed {
            dial.relayed = dial.relayed.saturating_add(1);
        } else {
            dial.direct = dial.direct.saturating_add(1);
            dial.upgrades = 0;
        }
        dial.failures = 0;
        dial.through_relays = false;
        dial.direct_failure = None;
        dial.next = (dial.direct == 0).then(|| now + UPGRADE_SOON);
    }

    pub(super) fn on_closed(&mut self, peer: &PeerId, relayed: bool, now: Instant) {
        let Some(dial) = self.members.get_mut(peer) else { return };
        if relayed {
            dial.relayed = dial.relayed.saturating_sub(1);
        } else {
            dial.direct = dial.direct.saturating_sub(1);
        }
        if dial.direct == 0 {
            dial.next = Some(now + if dial.relayed == 0 { BACKOFF } else { UPGRADE_SOON });
        }
    }

    /// A dial failed. Returns the reason in full once everything has been tried.
    pub(super) fn on_failed(
        &mut self,
        peer: &PeerId,
        why: String,
        circuits: &[Multiaddr],
        now: Instant,
    ) -> Option<String> {
        let dial = self.members.get_mut(peer)?;
        if dial.direct > 0 {
            return None; // It reached us meanwhile.
        }
        if dial.relayed > 0 {
            // Hole punching dials, too, and may fail while the next dial of ours is still to come.
            if dial.next.is_none() {
                let pause = dial.upgrade_pause();
                dial.next = Some(now + pause + spread(peer, pause));
            }
            return None;
        }
        if !dial.through_relays && !dial.circuits(circuits, self.everybody).is_empty() {
            dial.through_relays = true;
            dial.direct_failure = Some(why);
            dial.next = Some(now);
            return None;
        }
        let whole = match dial.direct_failure.take() {
            Some(direct) => format!("{direct}; through a relay: {why}"),
            None => why,
        };
        dial.through_relays = false;
        let pause = BACKOFF.saturating_mul(1 << dial.failures.min(MAX_DOUBLINGS)).min(MAX_BACKOFF);
        dial.failures = dial.failures.saturating_add(1);
        dial.next = Some(now + pause + spread(peer, pause));
        Some(whole)
    }
}

impl Dial {
    /// Until the next direct dial of a member that is reached through a relay.
    fn upgrade_pause(&self) -> Duration {
        (UPGRADE_SOON * (1 << self.upgrades.min(MAX_DOUBLINGS))).min(UPGRADE_EVERY)
    }

    fn direct_addrs(&self) -> Vec<Multiaddr> {
        let new = self.learned.iter().filter(|addr| !self.configured.contains(addr));
        self.configured.iter().chain(new).cloned().collect()
    }

    fn circuits(&self, circuits: &[Multiaddr], everybody: bool) -> Vec<Multiaddr> {
        if self.ours || everybody { circuits.to_vec() } else { Vec::new() }
    }

    fn begin_again(&mut self, now: Instant) {
        self.failures = 0;
        self.upgrades = 0;
        self.through_relays = false;
        self.direct_failure = None;
        self.next = (self.direct == 0).then_some(now);
    }
}

/// Members started together must not keep dialling each other in step: up to an eighth longer, by identity.
fn spread(peer: &PeerId, pause: Duration) -> Duration {
    pause / 8 * u32::from(peer.to_bytes().last().copied().unwrap_or_default()) / 256
}

/// Whether an announced address can be another machine's: what it says makes us connect there.
pub(super) fn is_sane(addr: &Multiaddr, loopback: bool) -> bool {
    match addr.iter().next() {
        Some(Protocol::Ip4(ip)) => {
            !(ip.is_unspecified() || ip.is_multicast() || ip.is_broadcast())
                && (loopback || !ip.is_loopback())
        }
        Some(Protocol::Ip6(ip)) => {
            !(ip.is_unspecified() || ip.is_multicast()) && (loopback || !ip.is_loopback())
        }
        _ => true,
    }
}

/// Whether an address is this machine itself.
pub(super) fn is_loopback(addr: &Multiaddr) -> bool {
    match addr.iter().next() {
        Some(Protocol::Ip4(ip)) => ip.is_loopback(),
        Some(Protocol::Ip6(ip)) => ip.is_loopback(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: u8 = 100;

    fn id(rank: u8) -> PeerId {
        // An identity multihash, so that bytes compare as ranks do.
        PeerId::from_bytes(&[0, 2, rank, rank]).unwrap()
    }

    fn addr(text: &str) -> Multiaddr {
        text.parse().unwrap()
    }

    fn circuits() -> Vec<Multiaddr> {
        vec![addr("/ip4/192.0.2.9/tcp/1").with(Protocol::P2p(id(1))).with(Protocol::P2pCircuit)]
    }

    fn dials(peer: u8, configured: &[&str], now: Instant) -> Dials {
        let configured = configured.iter().map(|text| addr(text)).collect();
        Dials::new(id(OWN), vec![(id(peer), configured)], false, now)
    }

    fn only(orders: Vec<Order>) -> Order {
        assert_eq!(orders.len(), 1);
        orders.into_iter().next().unwrap()
    }

    #[test]
    fn only_members_with_greater_identities_are_dialled_through_relays() {
        let now = Instant::now();
        let order = only(dials(101, &[], now).due(now, &circuits()));
        assert_eq!((order.addrs, order.upgrade), (circuits(), false));
        let mut smaller = dials(99, &[], now);
        assert_eq!(smaller.due(now, &circuits()), []);
        // Nobody reaches us through a relay: so we go.
        smaller.dial_everybody(true, now);
        assert_eq!(only(smaller.due(now, &circuits())).addrs, circuits());
        smaller.on_failed(&id(99), "no reservation".into(), &circuits(), now);
        smaller.dial_everybody(false, now);
        let later = smaller.next().unwrap();
        assert_eq!(smaller.due(later, &circuits()), []);
    }

    #[test]
    fn direct_addresses_come_first_and_relays_at_once_after_them() {
        let now = Instant::now();
        let mut dials = dials(101, &["/ip4/192.0.2.7/tcp/3610"], now);
        assert_eq!(only(dials.due(now, &circuits())).addrs, [addr("/ip4/192.0.2.7/tcp/3610")]);
        assert_eq!(dials.on_failed(&id(101), "refused".into(), &circuits(), now), None);
        assert_eq!(only(dials.due(now, &circuits())).addrs, circuits());
        let why = dials.on_failed(&id(101), "no reservation".into(), &circuits(), now);
        assert_eq!(why.unwrap(), "refused; through a relay: no reservation");
        assert_eq!(dials.due(now, &circuits()), [], "then a pause");
        let later = dials.next().unwrap();
        assert_eq!(only(dials.due(later, &circuits())).addrs, [addr("/ip4/192.0.2.7/tcp/3610")]);
    }

    #[test]
    fn a_member_reached_through_a_relay_is_dialled_where_it_says_it_is() {
        let mut now = Instant::now();
        let mut dials = dials(99, &[], now);
        assert_eq!(dials.due(now, &circuits()), []);
        dials.on_connected(&id(99), true, now);
        let own = addr("/ip4/198.51.100.7/tcp/3610").with(Protocol::P2p(id(99)));
        dials.learn(&id(99), &[own, addr("/ip4/127.0.0.1/tcp/1"), circuits()[0].clone()], now);
        now += UPGRADE_SOON;
        let order = only(dials.due(now, &circuits()));
        assert_eq!((order.addrs, order.upgrade), (vec![addr("/ip4/198.51.100.7/tcp/3610")], true));
        // One failure may be a collision with what the other side dials: soon again, then ever more seldom.
        let mut pauses = Vec::new();
        for _ in 0..8 {
            dials.on_failed(&id(99), "refused".into(), &circuits(), now);
            let next = dials.next().unwrap();
            // What hole punching fails at changes nothing.
            dials.on_failed(&id(99), "refused".into(), &circuits(), now);
            assert_eq!(dials.next(), Some(next));
            pauses.push((next - now).as_secs());
            now = next;
            assert!(only(dials.due(now, &circuits())).upgrade);
        }
        assert_eq!(pauses, [4, 8, 16, 33, 62, 62, 62, 62]);
        dials.on_connected(&id(99), false, now);
        assert_eq!(dials.next(), None);
        // The direct connection is lost, the relayed one is still there.
        dials.on_closed(&id(99), false, now);
        assert_eq!(dials.next(), Some(now + UPGRADE_SOON));
    }

    #[test]
    fn what_a_member_announces_is_bounded_and_never_this_machine() {
        let now = Instant::now();
        let mut dials = dials(99, &[], now);
        let many: Vec<Multiaddr> =
            (1..100).map(|port| addr(&format!("/ip4/198.51.100.7/tcp/{port}"))).collect();
        dials.learn(&id(99), &many, now);
        assert_eq!(dials.members[&id(99)].learned.len(), MAX_LEARNED);
        let bad = ["/ip4/127.0.0.1/tcp/5052", "/ip4/0.0.0.0/tcp/1", "/ip4/224.0.0.1/tcp/1", "/ip6/::1/tcp/1"];
        dials.learn(&id(99), &bad.map(addr), now);
        assert!(dials.members[&id(99)].learned.is_empty());
        dials.loopback = true;
        dials.learn(&id(99), &bad.map(addr), now);
        assert_eq!(dials.members[&id(99)].learned.len(), 2);
    }

    #[test]
    fn new_relays_wake_those_who_wait_for_one() {
        let now = Instant::now();
        let mut dials = dials(101, &[], now);
        assert_eq!(dials.due(now, &[]), []);
        assert_eq!(dials.next(), None);
        dials.relays_changed(now);
        assert_eq!(only(dials.due(now, &circuits())).addrs, circuits());
    }
}
