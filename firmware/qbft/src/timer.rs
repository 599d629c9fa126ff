//! When a round has lasted long enough.

/// The timer `eager_dlinear`: rounds end at fixed instants, so that members who started at different moments meet again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoundTimer {
    /// When round 1 should begin: slot start plus the duty's delay (Unix milliseconds).
    pub origin_ms: u64,
    /// Added per round; 1000 on the Obol network.
    pub step_ms: u64,
    /// Added once; 500 for proposer duties on the Obol network, otherwise 0.
    pub extra_ms: u64,
}

impl RoundTimer {
    /// The Obol network's timer for a duty that is not a proposal.
    pub fn eager(origin_ms: u64) -> Self {
        RoundTimer { origin_ms, step_ms: 1000, extra_ms: 0 }
    }

    /// How long round `round` may take.
    pub fn timeout_ms(&self, round: u64) -> u64 {
        round.saturating_mul(self.step_ms).saturating_add(self.extra_ms)
    }

    /// When the timer of `round` fires if it is started for the first time. May lie in the past: it then fires at once.
    pub fn round_deadline_ms(&self, round: u64) -> u64 {
        self.origin_ms.saturating_add(self.timeout_ms(round))
    }

    /// When the timer of `round` fires if it is started again because the leader's proposal arrived: the round gets its
    /// time once more, counted from the first deadline.
    pub fn extended_deadline_ms(&self, round: u64) -> u64 {
        self.round_deadline_ms(round).saturating_add(self.timeout_ms(round))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_end_at_these_instants() {
        // (extra, origin after slot start, round, first, extended)
        let table = [
            (500, 0, 1, 1500, 3000),
            (500, 0, 2, 2500, 5000),
            (500, 0, 4, 4500, 9000),
            (0, 4000, 1, 5000, 6000),
            (0, 4000, 2, 6000, 8000),
            (0, 4000, 4, 8000, 12000),
            (0, 8000, 1, 9000, 10000),
        ];
        for (extra_ms, origin_ms, round, first, extended) in table {
            let timer = RoundTimer { origin_ms, step_ms: 1000, extra_ms };
            assert_eq!(timer.round_deadline_ms(round), first);
            assert_eq!(timer.extended_deadline_ms(round), extended);
        }
    }

    #[test]
    fn an_absurd_round_saturates() {
        assert_eq!(RoundTimer::eager(5).extended_deadline_ms(u64::MAX), u64::MAX);
    }
}
