//! Asking again: 250 ms, growing by 1.6, at most 12 s.
//!
//! No jitter: each box asks its own beacon node and its own signer, so nobody can stampede.

use chain::UnixMillis;

const FIRST_MS: u64 = 250;
const MAX_MS: u64 = 12_000;

/// One thing that is asked of somebody, and asked again when it failed for a while.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Asking {
    /// Nothing is to be asked now.
    #[default]
    Idle,
    /// The question is out.
    Waiting {
        /// How often it was asked before.
        attempt: u32,
    },
    /// It failed; ask again then.
    Again {
        /// How often it was asked.
        attempt: u32,
        /// When.
        at: UnixMillis,
    },
    /// It was answered well; more may be asked later.
    Answered {
        /// How often it was asked before.
        attempt: u32,
    },
    /// No point in asking again.
    GivenUp,
}

impl Asking {
    /// The question goes out.
    pub(crate) fn ask(&mut self) {
        let attempt = match *self {
            Asking::Idle | Asking::GivenUp => 0,
            Asking::Waiting { attempt } | Asking::Again { attempt, .. } | Asking::Answered { attempt } => {
                attempt
            }
        };
        *self = Asking::Waiting { attempt };
    }

    /// The answer was good.
    pub(crate) fn answered(&mut self) {
        if let Asking::Waiting { attempt } = *self {
            *self = Asking::Answered { attempt };
        }
    }

    /// The answer was bad, or not what was hoped for, but may become good.
    pub(crate) fn ask_again_later(&mut self, now: UnixMillis) {
        if let Asking::Waiting { attempt } | Asking::Answered { attempt } = *self {
            *self = Asking::Again {
                attempt: attempt.saturating_add(1),
                at: now.saturating_add(pause_ms(attempt)),
            };
        }
    }

    pub(crate) fn is_waiting(self) -> bool {
        matches!(self, Asking::Waiting { .. })
    }

    pub(crate) fn is_idle(self) -> bool {
        self == Asking::Idle
    }

    pub(crate) fn is_answered(self) -> bool {
        matches!(self, Asking::Answered { .. })
    }

    /// When it is time to ask again, if it is going to be.
    pub(crate) fn wake(self) -> Option<UnixMillis> {
        match self {
            Asking::Again { at, .. } => Some(at),
            Asking::Idle | Asking::Waiting { .. } | Asking::Answered { .. } | Asking::GivenUp => None,
        }
    }

    pub(crate) fn is_due(self, now: UnixMillis) -> bool {
        self.wake().is_some_and(|at| at <= now)
    }
}

fn pause_ms(attempt: u32) -> u64 {
    (0..attempt.min(10)).fold(FIRST_MS, |pause, _| pause * 8 / 5).min(MAX_MS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_stop_growing() {
        let pauses: Vec<u64> = (0..12).map(pause_ms).collect();
        assert_eq!(pauses[..6], [250, 400, 640, 1024, 1638, 2620]);
        assert_eq!(pauses[9..], [12_000; 3]);
    }

    #[test]
    fn an_answer_nobody_waits_for_changes_nothing() {
        let mut asking = Asking::Idle;
        asking.ask_again_later(UnixMillis(5));
        assert_eq!(asking, Asking::Idle);
    }
}
