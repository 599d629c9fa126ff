//! Whether the box's clock may be trusted.
//!
//! Two observations: the wall clock against the monotonic one (a step), and against other clocks (an offset): the beacon
//! node's `Date` headers and the members' peerinfo. A clock that stepped is trusted again only when another clock
//! confirms it afterwards, because a wrong clock signs for wrong slots and locks the share out of right ones.

use std::collections::BTreeMap;

use chain::UnixMillis;

/// A difference between the two own clocks that no slewing explains, between two looks a second apart.
const STEP_MS: u64 = 500;
/// A peer's word counts this long.
const FRESH_MS: u64 = 180_000;

/// Whether signing may go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// Nothing speaks against it.
    Trusted,
    /// It was set, and nothing has confirmed it since.
    Stepped {
        /// By how much; positive is forward.
        by_ms: i64,
    },
    /// It differs from this reference by more than the limit.
    Off {
        /// The reference.
        reference: Reference,
        /// Reference minus ours.
        offset_ms: i64,
    },
}

/// What a clock is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reference {
    /// A beacon node.
    BeaconNode,
    /// Most of the other members.
    Members,
}

/// Keeps the observations. Pure: all times are arguments.
#[derive(Debug)]
pub struct ClockGuard {
    limit_ms: i64,
    others: usize,
    last: Option<(UnixMillis, u64)>,
    stepped_by: Option<i64>,
    beacon: Option<beacon::ClockOffset>,
    members: BTreeMap<u8, Heard>,
}

/// What a member's clock said.
#[derive(Debug)]
struct Heard {
    offset_ms: i64,
    /// How far the truth may be from that, to either side.
    unsure_ms: i64,
    /// When (monotonic).
    at: u64,
}

impl Heard {
    /// It is at least so far to the side of this sign.
    fn surely(&self, sign: i64) -> i64 {
        self.offset_ms.saturating_mul(sign).saturating_sub(self.unsure_ms)
    }

    /// It is at most so far, to either side.
    fn most(&self) -> i64 {
        self.offset_ms.saturating_abs().saturating_add(self.unsure_ms)
    }
}

impl ClockGuard {
    /// A guard for a cluster with so many other members.
    pub fn new(limit_ms: u32, others: usize) -> Self {
        Self {
            limit_ms: i64::from(limit_ms),
            others,
            last: None,
            stepped_by: None,
            beacon: None,
            members: BTreeMap::new(),
        }
    }

    /// Looks at both own clocks; called at least once a second. Says by how much the wall clock stepped.
    pub fn look(&mut self, wall: UnixMillis, monotonic_ms: u64) -> Option<i64> {
        let before = self.last.replace((wall, monotonic_ms));
        let (last_wall, last_monotonic) = before?;
        let expected = last_wall.0.saturating_add(monotonic_ms.saturating_sub(last_monotonic));
        if wall.0.abs_diff(expected) <= STEP_MS {
            return None;
        }
        let by_ms = signed(wall.0).saturating_sub(signed(expected));
        // A step back undoes a step forward: what remains is what counts.
        self.stepped_by = Some(self.stepped_by.unwrap_or(0).saturating_add(by_ms));
        // What others said was about the clock before.
        self.beacon = None;
        self.members.clear();
        Some(by_ms)
    }

    /// What a beacon node's clock says, or nothing when none answers.
    pub fn beacon(&mut self, offset: Option<beacon::ClockOffset>) {
        self.beacon = offset;
        if let Some(offset) = offset
            && !offset.surely_beyond(self.limit_ms)
        {
            self.stepped_by = None;
        }
    }

    /// What a member's clock says, and how long its answer was on the way, there and back: its offset is known to half of that.
    /// A box that was held up itself right after it connected hears everybody late at once, and all to the same side.
    pub fn member(&mut self, member: u8, offset_ms: i64, round_trip_ms: u64, monotonic_ms: u64) {
        let unsure_ms = signed(round_trip_ms / 2);
        self.members.insert(member, Heard { offset_ms, unsure_ms, at: monotonic_ms });
        let agree = self.fresh(monotonic_ms).filter(|heard| heard.most() <= self.limit_ms).count();
        if self.members_against(monotonic_ms).is_none() && agree * 2 > self.others {
            self.stepped_by = None;
        }
    }

    /// The verdict as of now.
    pub fn trust(&self, monotonic_ms: u64) -> Trust {
        if let Some(offset) = self.beacon
            && offset.surely_beyond(self.limit_ms)
        {
            return Trust::Off { reference: Reference::BeaconNode, offset_ms: offset.estimate_ms() };
        }
        if let Some(offset_ms) = self.members_against(monotonic_ms) {
            return Trust::Off { reference: Reference::Members, offset_ms };
        }
        match self.stepped_by {
            Some(by_ms) => Trust::Stepped { by_ms },
            None => Trust::Trusted,
        }
    }

    /// The best known offset (reference minus ours), for the page.
    pub fn offset_ms(&self, monotonic_ms: u64) -> Option<i64> {
        let mut offsets: Vec<i64> = self.fresh(monotonic_ms).map(|heard| heard.offset_ms).collect();
        offsets.sort_unstable();
        offsets.get(offsets.len() / 2).copied().or(self.beacon.map(|offset| offset.estimate_ms()))
    }

    fn fresh(&self, monotonic_ms: u64) -> impl Iterator<Item = &Heard> {
        self.members.values().filter(move |heard| monotonic_ms.saturating_sub(heard.at) <= FRESH_MS)
    }

    /// More than half of all other members find us off in the same direction: not one liar's work. Their median.
    fn members_against(&self, monotonic_ms: u64) -> Option<i64> {
        for sign in [1, -1] {
            let mut against: Vec<i64> = self
                .fresh(monotonic_ms)
                .filter(|heard| heard.surely(sign) > self.limit_ms)
                .map(|heard| heard.offset_ms)
                .collect();
            if against.len() * 2 > self.others && self.others > 0 {
                against.sort_unstable();
                return against.get(against.len() / 2).copied();
            }
        }
        None
    }
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WALL: u64 = 1_700_000_000_000;

    fn beacon_says(offset_ms: i64) -> Option<beacon::ClockOffset> {
        Some(beacon::ClockOffset { least_ms: offset_ms - 50, most_ms: offset_ms + 50 })
    }

    #[test]
    fn a_step_stops_signing_until_another_clock_confirms() {
        for by in [-10_000_i64, -600, 600, 3_600_000] {
            let mut guard = ClockGuard::new(1_000, 3);
            assert_eq!(guard.look(UnixMillis(WALL), 0), None);
            assert_eq!(guard.look(UnixMillis(WALL + 1_010), 1_000), None);
            let stepped = u64::try_from(i64::try_from(WALL + 2_000).unwrap() + by).unwrap();
            assert!(guard.look(UnixMillis(stepped), 2_000).is_some());
            assert!(matches!(guard.trust(2_000), Trust::Stepped { .. }));
            assert_eq!(guard.look(UnixMillis(stepped + 1_000), 3_000), None);
            assert!(matches!(guard.trust(3_000), Trust::Stepped { .. }), "time alone does not heal");
            guard.beacon(beacon_says(10));
            assert_eq!(guard.trust(3_000), Trust::Trusted);
        }
    }

    #[test]
    fn slewing_is_not_a_step() {
        let mut guard = ClockGuard::new(1_000, 3);
        for second in 0..1_000 {
            assert_eq!(guard.look(UnixMillis(WALL + second * 1_001), second * 1_000), None);
        }
        assert_eq!(guard.trust(0), Trust::Trusted);
    }

    #[test]
    fn a_beacon_node_that_surely_differs_stops_signing() {
        let mut guard = ClockGuard::new(1_000, 3);
        guard.beacon(beacon_says(1_040));
        assert_eq!(guard.trust(0), Trust::Trusted, "the interval reaches into the limit");
        guard.beacon(beacon_says(-1_100));
        assert!(matches!(guard.trust(0), Trust::Off { reference: Reference::BeaconNode, .. }));
    }

    #[test]
    fn most_members_can_stop_signing_and_one_liar_cannot() {
        let table: [(&[i64], bool); 6] = [
            (&[5_000], true),
            (&[5_000, 10, 20], true),
            (&[5_000, -5_000, 0], true),
            (&[5_000, 4_000, 0], false),
            (&[-2_000, -3_000, -4_000], false),
            (&[900, -900, 900], true),
        ];
        for (offsets, trusted) in table {
            let mut guard = ClockGuard::new(1_000, 3);
            for (member, offset) in offsets.iter().enumerate() {
                guard.member(u8::try_from(member).unwrap(), *offset, 0, 0);
            }
            assert_eq!(guard.trust(0) == Trust::Trusted, trusted, "{offsets:?}");
            assert_eq!(guard.trust(FRESH_MS + 1), Trust::Trusted, "old words do not count");
        }
    }

    #[test]
    fn answers_that_were_long_on_the_way_neither_accuse_nor_confirm() {
        let mut guard = ClockGuard::new(1_000, 3);
        for member in 0..3 {
            guard.member(member, -2_500, 4_000, 0);
        }
        assert_eq!(guard.trust(0), Trust::Trusted, "this box was held up for two seconds");
        guard.look(UnixMillis(WALL), 0);
        guard.look(UnixMillis(WALL + 61_000), 1_000);
        for member in 0..3 {
            guard.member(member, 0, 4_000, 1_000);
        }
        assert!(matches!(guard.trust(1_000), Trust::Stepped { .. }), "nobody has confirmed the new time");
        for member in 0..2 {
            guard.member(member, 100, 80, 1_000);
        }
        assert_eq!(guard.trust(1_000), Trust::Trusted);
    }
}
