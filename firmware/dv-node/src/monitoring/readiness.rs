//! Whether this box does its part, and the first reason why it does not (obol.md 12.4).

use std::time::{Duration, Instant};

/// Slots for which a quorum may be away before this box is called not ready.
const AWAY_SLOTS: u32 = 6;
/// Beyond this many slots a beacon node that says it is synced is called far behind.
const FAR_BEHIND: u64 = 320;

/// What readiness depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// What the beacon nodes say.
    pub beacon: BeaconFacts,
    /// Whether enough members for a quorum are connected, ourselves included.
    pub quorum: bool,
    /// How often a validator client has asked for anything, where one signs for this member.
    pub client_requests: Option<u64>,
    /// The epoch, as far as it is known.
    pub epoch: u64,
    /// Whether nothing is signed on purpose.
    pub halted: bool,
    /// How long a slot is.
    pub slot: Duration,
}

/// The beacon nodes as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BeaconFacts {
    /// None answers.
    Down,
    /// One answers: the one that is used, or that comes nearest to it.
    Answers {
        /// Slots between its head and now, where it cannot be asked for duties.
        behind: Option<u64>,
        /// It says itself that it is syncing.
        admitted: bool,
        /// How many peers it has, if it tells.
        peers: Option<u64>,
    },
}

/// Remembers for how long a quorum has been away, and when a validator client was last there.
#[derive(Debug, Default)]
pub struct Readiness {
    away_since: Option<Instant>,
    client: Option<ClientSeen>,
}

/// A validator client's requests, epoch by epoch.
#[derive(Clone, Copy, Debug)]
struct ClientSeen {
    epoch: u64,
    /// The count when the epoch began.
    before: u64,
    /// Whether it asked for anything in the epoch before. Of the first one nobody knows.
    asked: bool,
}

impl Readiness {
    /// The gauge's value and, unless ready, the reason. The values, the reasons and their order are the reference's; 9, for
    /// signing that is halted on purpose, is ours and comes last.
    pub fn judge(&mut self, facts: Facts, now: Instant) -> (i64, Result<(), &'static str>) {
        if facts.quorum {
            self.away_since = None;
        }
        let away = !facts.quorum
            && now.duration_since(*self.away_since.get_or_insert(now)) >= facts.slot * AWAY_SLOTS;
        let client_away = facts.client_requests.is_some_and(|count| !self.client_asked(count, facts.epoch));
        match facts.beacon {
            BeaconFacts::Down => return (2, Err("beacon node down")),
            BeaconFacts::Answers { admitted: true, .. } => return (3, Err("beacon node not synced")),
            BeaconFacts::Answers { peers: Some(0), .. } => return (7, Err("beacon node has zero peers")),
            BeaconFacts::Answers { behind: Some(distance), .. } if distance > FAR_BEHIND => {
                return (8, Err("beacon node far behind"));
            }
            // The reference would go on here; nothing is asked of such a node, so it is not called ready.
            BeaconFacts::Answers { behind: Some(_), .. } => return (3, Err("beacon node not synced")),
            BeaconFacts::Answers { behind: None, .. } => {}
        }
        match () {
            () if away => (4, Err("quorum peers not connected")),
            () if client_away => (5, Err("vc not connected")),
            () if facts.halted => (9, Err("signing halted")),
            () => (1, Ok(())),
        }
    }

    /// Whether the client asked for anything in the whole epoch before this one.
    fn client_asked(&mut self, count: u64, epoch: u64) -> bool {
        let seen = self.client.get_or_insert(ClientSeen { epoch, before: count, asked: true });
        if seen.epoch != epoch {
            *seen = ClientSeen { epoch, before: count, asked: count > seen.before };
        }
        seen.asked
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLOT: Duration = Duration::from_secs(12);
    const GOOD: Facts = Facts {
        beacon: BeaconFacts::Answers { behind: None, admitted: false, peers: Some(3) },
        quorum: true,
        client_requests: None,
        epoch: 7,
        halted: false,
        slot: SLOT,
    };

    #[test]
    fn the_first_reason_that_holds_is_given_with_its_value() {
        let start = Instant::now();
        let answers = |behind, admitted, peers| BeaconFacts::Answers { behind, admitted, peers };
        let table = [
            (GOOD.beacon, (1, Ok(()))),
            (answers(None, false, None), (1, Ok(()))),
            (BeaconFacts::Down, (2, Err("beacon node down"))),
            (answers(Some(0), true, Some(0)), (3, Err("beacon node not synced"))),
            (answers(Some(1_000), true, Some(3)), (3, Err("beacon node not synced"))),
            (answers(Some(320), false, None), (3, Err("beacon node not synced"))),
            (answers(None, false, Some(0)), (7, Err("beacon node has zero peers"))),
            (answers(Some(1_000), false, Some(0)), (7, Err("beacon node has zero peers"))),
            (answers(Some(321), false, Some(3)), (8, Err("beacon node far behind"))),
        ];
        for (beacon, expected) in table {
            assert_eq!(Readiness::default().judge(Facts { beacon, ..GOOD }, start), expected, "{beacon:?}");
            let halted = Facts { beacon, halted: true, ..GOOD };
            let expected = if expected.0 == 1 { (9, Err("signing halted")) } else { expected };
            assert_eq!(Readiness::default().judge(halted, start), expected, "{beacon:?} and halted");
        }
    }

    #[test]
    fn a_quorum_may_be_away_for_six_slots() {
        let start = Instant::now();
        let mut readiness = Readiness::default();
        let away = Facts { quorum: false, ..GOOD };
        assert_eq!(readiness.judge(away, start).0, 1, "not at once");
        assert_eq!(readiness.judge(away, start + SLOT * 5).0, 1);
        assert_eq!(readiness.judge(away, start + SLOT * 6), (4, Err("quorum peers not connected")));
        assert_eq!(readiness.judge(GOOD, start + SLOT * 7).0, 1);
        assert_eq!(readiness.judge(away, start + SLOT * 8).0, 1, "and counted anew");
    }

    #[test]
    fn a_validator_client_is_away_when_it_asked_for_nothing_in_the_epoch_before() {
        let start = Instant::now();
        let mut readiness = Readiness::default();
        let mut at = |epoch, requests| {
            readiness.judge(Facts { epoch, client_requests: Some(requests), ..GOOD }, start)
        };
        assert_eq!(at(7, 0).0, 1, "of the first epoch nobody knows");
        assert_eq!(at(8, 0), (5, Err("vc not connected")));
        assert_eq!(at(8, 4), (5, Err("vc not connected")), "the epoch before counts");
        assert_eq!(at(9, 4), (1, Ok(())));
        assert_eq!(at(9, 4), (1, Ok(())));
        assert_eq!(at(10, 4).0, 5);
    }
}
