//! Whether the box's clock may be believed (decision 0283).
//!
//! Floors after a power cut, floors of new shares and the refusal of far-ahead votes are as good as the clock. So nothing is
//! signed or taken in while nobody vouches for the clock, nor after somebody has set it until it was vouched for anew, nor while
//! it is behind the moment at which this ledger last recorded a vote.
//!
//! The core is pure: both clocks and the mark are arguments. The mark is a file that the time service's unit rewrites as long as
//! the time service says that the clock is synchronised. A signer outside an image has no such file and can only notice steps.

use std::{
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::UNIX_EPOCH,
};

use chain::UnixMillis;

use crate::{clock, refusal::Refusal};

/// A difference between the two clocks that no slewing explains, between two looks.
const STEP_MS: u64 = 500;
/// Between looks that are further apart, a clock that is being slewed may have moved by a tenth, and never by more than this.
const MOST_SLEW_MS: u64 = 2_000;
/// The mark is rewritten every 20 seconds; the service may have to ask several times.
const MARK_LASTS_MS: u64 = 90_000;
/// Two clocks are read one after the other, and files have the time of the last tick.
const AT_ONCE_MS: u64 = 2_000;
/// Without anybody to vouch for it, a clock that was set is believed again after having run evenly for so long.
const CALM_MS: u64 = 60_000;
/// What is recorded at one moment may be judged a little earlier on another processor.
const BEHIND_MS: u64 = 2_000;

/// Both clocks at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reading {
    /// What duties go by, and what can be set.
    pub wall: UnixMillis,
    /// Milliseconds since the machine started, asleep or not; nobody can set it.
    pub boot_ms: u64,
}

/// Who vouches for the clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mark {
    /// The time service did, at this time by the wall clock.
    At(UnixMillis),
    /// The time service does not.
    Missing,
    /// There is no time service to ask.
    NotAsked,
}

/// Why the clock is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Doubt {
    /// Nobody vouches for it.
    Unsynchronised,
    /// It was set, and nobody has vouched for it since.
    Stepped {
        /// By how much; negative is back.
        by_ms: i64,
    },
}

#[derive(Clone, Copy, Debug)]
struct Step {
    by_ms: i64,
    seen: Reading,
    /// The mark when the step was seen: it may be from before.
    mark: Mark,
}

/// Keeps what was seen.
#[derive(Debug, Default)]
pub(crate) struct ClockGuard {
    last: Option<Reading>,
    step: Option<Step>,
    /// How often the clock was set since the start.
    steps: u64,
}

impl ClockGuard {
    /// The verdict as of now.
    pub(crate) fn judge(&mut self, now: Reading, mark: Mark) -> Result<(), Doubt> {
        self.notice(now, mark);
        let is_vouched_for = match mark {
            Mark::NotAsked => true,
            Mark::Missing => false,
            Mark::At(at) => {
                at.0 <= now.wall.0.saturating_add(AT_ONCE_MS)
                    && now.wall.0.saturating_sub(at.0) <= MARK_LASTS_MS
            }
        };
        if let Some(step) = self.step {
            let is_over = match mark {
                Mark::At(at) => is_vouched_for && mark != step.mark && at >= step.seen.wall,
                Mark::NotAsked => now.boot_ms.saturating_sub(step.seen.boot_ms) >= CALM_MS,
                Mark::Missing => false,
            };
            if !is_over {
                return Err(Doubt::Stepped { by_ms: step.by_ms });
            }
            tracing::warn!(by_ms = step.by_ms, "the clock that was set is believed again");
            self.step = None;
        }
        if is_vouched_for { Ok(()) } else { Err(Doubt::Unsynchronised) }
    }

    fn notice(&mut self, now: Reading, mark: Mark) {
        let Some(before) = self.last.replace(now) else { return };
        let elapsed = now.boot_ms.saturating_sub(before.boot_ms);
        let expected = before.wall.0.saturating_add(elapsed);
        if now.wall.0.abs_diff(expected) <= (STEP_MS + elapsed / 10).min(MOST_SLEW_MS) {
            return;
        }
        let moved = signed(now.wall.0).saturating_sub(signed(expected));
        // A step back undoes a step forward in the telling only: both have to be vouched for.
        let by_ms = self.step.map_or(0, |step| step.by_ms).saturating_add(moved);
        tracing::error!(
            moved_ms = moved,
            "the clock was set: nothing is signed until it is vouched for again"
        );
        self.steps = self.steps.saturating_add(1);
        self.step = Some(Step { by_ms, seen: now, mark });
    }
}

/// By how much the clock is behind the moment at which something was recorded last, when that is too much.
pub(crate) fn behind(now: UnixMillis, recorded_at: UnixMillis) -> Option<u64> {
    let by_ms = recorded_at.0.saturating_sub(now.0);
    (by_ms > BEHIND_MS).then_some(by_ms)
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

impl Doubt {
    /// The same for who asked for a signature.
    pub(crate) fn to_refusal(self) -> Refusal {
        match self {
            Self::Unsynchronised => Refusal::ClockUnsynchronised,
            Self::Stepped { by_ms } => Refusal::ClockStepped { by_ms },
        }
    }
}

/// The guard with the clocks and the file it looks at.
pub(crate) struct ClockWatch {
    mark: Option<PathBuf>,
    guard: Mutex<ClockGuard>,
}

impl ClockWatch {
    /// With the time service's mark, if there is one.
    pub(crate) fn new(mark: Option<PathBuf>) -> Self {
        if mark.is_none() {
            tracing::warn!(
                "nobody vouches for the clock here: only a clock that is set while this runs is noticed"
            );
        }
        Self { mark, guard: Mutex::default() }
    }

    /// How far the guard goes when it has no doubt.
    pub(crate) fn explanation(&self) -> &'static str {
        match self.mark {
            Some(_) => {
                "The time service calls the clock synchronised; nothing is signed when it stops doing so, or when the clock is set."
            }
            None => {
                "No time service vouches for the clock here: nothing is signed for a minute after the clock is set, and a clock that was wrong from the start is not noticed."
            }
        }
    }

    /// How often the clock was set since the start, as far as anybody has looked.
    pub(crate) fn steps(&self) -> u64 {
        self.guard.lock().unwrap_or_else(PoisonError::into_inner).steps
    }

    /// Looks at everything. Cheap: it is asked before each signature.
    pub(crate) fn judge(&self) -> Result<(), Doubt> {
        let mut guard = self.guard.lock().unwrap_or_else(PoisonError::into_inner);
        let (wall, boot_ms) = chain::read_together(clock::now, since_boot_ms);
        let now = Reading { wall, boot_ms };
        // After the clocks and never from memory: a mark of before a step must be known as such when the step is seen.
        guard.judge(now, look_at(self.mark.as_deref()))
    }
}

fn look_at(path: Option<&Path>) -> Mark {
    let Some(path) = path else { return Mark::NotAsked };
    let written = std::fs::metadata(path).ok().filter(std::fs::Metadata::is_file);
    let since = written.and_then(|found| found.modified().ok()?.duration_since(UNIX_EPOCH).ok());
    since.map_or(Mark::Missing, |since| Mark::At(UnixMillis(millis(since))))
}

fn since_boot_ms() -> u64 {
    let read = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME);
    read.map_or(0, |time| millis(std::time::Duration::from(time)))
}

fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WALL: u64 = 1_700_000_000_000;

    fn at(wall_ms: i64, boot_ms: u64) -> Reading {
        Reading { wall: UnixMillis(WALL.saturating_add_signed(wall_ms)), boot_ms }
    }

    fn mark(wall_ms: i64) -> Mark {
        Mark::At(UnixMillis(WALL.saturating_add_signed(wall_ms)))
    }

    #[test]
    fn a_clock_that_nobody_vouches_for_signs_nothing() {
        let mut guard = ClockGuard::default();
        for (found, wall, expected) in [
            (Mark::Missing, 0, Err(Doubt::Unsynchronised)),
            (mark(0), 10, Ok(())),
            (mark(0), 90_000, Ok(())),
            (mark(0), 90_001, Err(Doubt::Unsynchronised)),
            (mark(90_000), 90_010, Ok(())),
            (mark(92_100), 90_020, Err(Doubt::Unsynchronised)),
            (Mark::NotAsked, 90_030, Ok(())),
        ] {
            let boot_ms = u64::try_from(wall).unwrap();
            assert_eq!(guard.judge(at(wall, boot_ms), found), expected, "{found:?} at {wall}");
        }
    }

    #[test]
    fn a_step_stops_signing_until_it_was_vouched_for_afterwards() {
        for by in [-3_600_000_i64, -20_000, -10_000, -700, 700, 10_000, 3_600_000] {
            let mut guard = ClockGuard::default();
            assert_eq!(guard.judge(at(0, 0), mark(-5_000)), Ok(()));
            assert_eq!(guard.steps, 0);
            let refused = Err(Doubt::Stepped { by_ms: by });
            assert_eq!(guard.judge(at(1_000 + by, 1_000), mark(-5_000)), refused, "{by}");
            // Time alone does not heal, nor does the mark of before, even when it looks fresh.
            for second in 2..40 {
                let now = at(i64::try_from(second * 1_000).unwrap() + by, second * 1_000);
                assert_eq!(guard.judge(now, mark(-5_000)), refused, "{by} at {second} s");
            }
            assert_eq!(guard.judge(at(40_000 + by, 40_000), mark(39_900 + by)), Ok(()), "{by}");
            assert_eq!(guard.steps, 1, "it is remembered after it is over");
        }
    }

    #[test]
    fn where_nobody_vouches_a_step_is_over_after_a_calm_minute() {
        let mut guard = ClockGuard::default();
        assert_eq!(guard.judge(at(0, 0), Mark::NotAsked), Ok(()));
        let refused = |by_ms| Err(Doubt::Stepped { by_ms });
        assert_eq!(guard.judge(at(-9_000, 1_000), Mark::NotAsked), refused(-10_000));
        assert_eq!(guard.judge(at(50_000, 50_000), Mark::NotAsked), refused(0), "back again is a step too");
        assert_eq!(guard.judge(at(109_000, 109_000), Mark::NotAsked), refused(0));
        assert_eq!(guard.judge(at(110_000, 110_000), Mark::NotAsked), Ok(()));
    }

    #[test]
    fn slewing_and_a_pause_are_no_steps_and_a_long_pause_hides_none() {
        let mut guard = ClockGuard::default();
        for second in 0..1_000_u64 {
            // chrony slews by a twelfth at most.
            let wall = i64::try_from(second * 1_083).unwrap();
            assert_eq!(guard.judge(at(wall, second * 1_000), mark(wall)), Ok(()));
        }
        let mut guard = ClockGuard::default();
        assert_eq!(guard.judge(at(0, 0), mark(0)), Ok(()));
        assert_eq!(guard.judge(at(7_200_900, 7_200_000), mark(7_200_000)), Ok(()), "it slept");
        assert!(guard.judge(at(14_403_000, 14_400_000), mark(14_400_000)).is_err());
    }

    #[test]
    fn a_clock_behind_the_last_record_is_noticed() {
        let record = UnixMillis(WALL);
        for (now, expected) in
            [(WALL + 5, None), (WALL - 2_000, None), (WALL - 2_001, Some(2_001)), (0, Some(WALL))]
        {
            assert_eq!(behind(UnixMillis(now), record), expected);
        }
    }
}
