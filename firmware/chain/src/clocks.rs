//! Two clocks as of one moment.

use crate::UnixMillis;

/// Readings between which so little time passed are of one moment.
const ONE_MOMENT_MS: u64 = 50;
/// A machine that is so busy is believed as it is.
const ATTEMPTS: usize = 3;

/// The wall clock and a steady one, in milliseconds, read at one moment.
///
/// They can only be read one after the other, and who is taken off the processor in between sees a wall clock that seems to have
/// been set. So the steady clock is read on both sides of the other, and the quickest of a few attempts counts. What still looks like a
/// step then is to be taken for one.
pub fn read_together(
    mut wall: impl FnMut() -> UnixMillis,
    mut steady_ms: impl FnMut() -> u64,
) -> (UnixMillis, u64) {
    let mut before = steady_ms();
    let mut quickest: Option<(u64, UnixMillis, u64)> = None;
    for _ in 0..ATTEMPTS {
        let read = wall();
        let after = steady_ms();
        let took = after.saturating_sub(before);
        if quickest.is_none_or(|(least, ..)| took < least) {
            quickest = Some((took, read, before));
        }
        if took <= ONE_MOMENT_MS {
            break;
        }
        before = after;
    }
    quickest.map_or_else(|| (wall(), before), |(_, wall, steady_ms)| (wall, steady_ms))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads both by a time that passes as said before each question: before the steady clock, and before the wall clock.
    fn read(waits: [(u64, u64); 4]) -> (u64, u64, u64) {
        let (now, asked) = (std::cell::Cell::new(0), std::cell::Cell::new(0));
        let steady = || {
            now.set(now.get() + waits[asked.get()].0);
            now.get()
        };
        let wall = || {
            now.set(now.get() + waits[asked.get()].1);
            asked.set(asked.get() + 1);
            UnixMillis(1_000_000 + now.get())
        };
        let (wall, steady_ms) = read_together(wall, steady);
        (wall.0 - 1_000_000, steady_ms, asked.get() as u64)
    }

    #[test]
    fn clocks_that_are_read_at_once_are_read_once() {
        assert_eq!(read([(7, 0), (0, 0), (0, 0), (0, 0)]), (7, 7, 1));
        assert_eq!(read([(7, 50), (0, 0), (0, 0), (0, 0)]), (57, 7, 1));
    }

    #[test]
    fn who_was_taken_off_the_processor_in_between_reads_again() {
        assert_eq!(read([(0, 900), (0, 0), (0, 0), (0, 0)]), (900, 900, 2), "before the wall clock");
        assert_eq!(read([(0, 0), (900, 0), (0, 0), (0, 0)]), (900, 900, 2), "after it");
        assert_eq!(read([(0, 900), (0, 900), (0, 0), (0, 0)]), (1_800, 1_800, 3));
    }

    #[test]
    fn where_nothing_is_quick_the_quickest_counts() {
        assert_eq!(read([(0, 900), (0, 60), (0, 900), (0, 0)]), (960, 900, 3));
    }
}
