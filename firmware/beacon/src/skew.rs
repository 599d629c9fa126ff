//! How far the beacon node's clock is from ours, from nothing but its `Date` headers.

use std::collections::VecDeque;

use crate::http::DateReading;

/// Readings kept. Each one cuts the interval; old ones go, because clocks drift.
const WINDOW: usize = 24;

/// An interval that must contain `node's clock − our clock`.
///
/// One header only says which second it was, so a single reading is good to about a second. Readings fall at different
/// phases of that second, and the intersection of their intervals is soon good to some tens of milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockOffset {
    /// The node's clock is at least this much ahead of ours, in milliseconds (negative: behind).
    pub least_ms: i64,
    /// The node's clock is at most this much ahead of ours, in milliseconds.
    pub most_ms: i64,
}

impl ClockOffset {
    /// The middle of the interval.
    pub fn estimate_ms(&self) -> i64 {
        self.least_ms.saturating_add(self.most_ms) / 2
    }

    /// Whether the clocks are surely further apart than the limit: the whole interval lies outside.
    pub fn surely_beyond(&self, limit_ms: i64) -> bool {
        self.least_ms > limit_ms || self.most_ms < -limit_ms
    }
}

/// Collects readings of one endpoint.
#[derive(Debug, Default)]
pub(crate) struct SkewMeter {
    readings: VecDeque<ClockOffset>,
}

impl SkewMeter {
    pub(crate) fn add(&mut self, reading: DateReading) {
        let date_ms = signed(reading.date_s).saturating_mul(1_000);
        let interval = ClockOffset {
            least_ms: date_ms.saturating_sub(signed(reading.received.0)),
            // One second of truncation, and one millisecond of ours.
            most_ms: date_ms.saturating_add(1_001).saturating_sub(signed(reading.sent.0)),
        };
        self.readings.push_back(interval);
        while self.readings.len() > WINDOW {
            self.readings.pop_front();
        }
        // One of the clocks was set or drifted: what came before no longer holds.
        while self.intersection().is_none() && self.readings.len() > 1 {
            self.readings.pop_front();
        }
    }

    pub(crate) fn offset(&self) -> Option<ClockOffset> {
        self.intersection()
    }

    fn intersection(&self) -> Option<ClockOffset> {
        let least_ms = self.readings.iter().map(|reading| reading.least_ms).max()?;
        let most_ms = self.readings.iter().map(|reading| reading.most_ms).min()?;
        (least_ms <= most_ms).then_some(ClockOffset { least_ms, most_ms })
    }
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use chain::UnixMillis;

    use super::*;

    fn reading(node_minus_ours_ms: i64, our_ms: i64) -> DateReading {
        let date_s = u64::try_from((our_ms + 5 + node_minus_ours_ms) / 1_000).unwrap();
        let ms = |value: i64| UnixMillis(u64::try_from(value).unwrap());
        DateReading { sent: ms(our_ms), received: ms(our_ms + 10), date_s }
    }

    #[test]
    fn many_readings_narrow_the_offset_to_tens_of_milliseconds() {
        for offset in [-3_000, -1_200, -40, 0, 75, 999, 1_500, 60_000] {
            let mut meter = SkewMeter::default();
            for step in 0..20 {
                meter.add(reading(offset, 1_700_000_000_000 + step * 1_370));
            }
            let found = meter.offset().unwrap();
            assert!(found.least_ms <= offset && offset <= found.most_ms, "{offset} {found:?}");
            assert!((found.estimate_ms() - offset).abs() < 60, "{offset} {found:?}");
            assert_eq!(found.surely_beyond(1_000), offset.abs() > 1_000, "{offset} {found:?}");
        }
    }

    #[test]
    fn one_reading_never_accuses_a_clock_that_may_be_right() {
        for phase in 0..1_000 {
            let mut meter = SkewMeter::default();
            meter.add(reading(0, 1_700_000_000_000 + phase));
            assert!(!meter.offset().unwrap().surely_beyond(1_000));
        }
    }

    #[test]
    fn a_clock_step_forgets_what_was_before() {
        let mut meter = SkewMeter::default();
        for step in 0..20 {
            meter.add(reading(0, 1_700_000_000_000 + step * 700));
        }
        meter.add(reading(5_000, 1_700_000_020_000));
        assert!(meter.offset().unwrap().surely_beyond(1_000));
    }
}
