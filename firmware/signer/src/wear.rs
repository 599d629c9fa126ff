//! How often others may have the TPM's counter stepped: its memory wears, and a worn counter locks the board for good (decisions
//! 0261 and 0392).
//!
//! A start is bounded by the unit. Imports and deletions are bounded here, for whoever may ask for them may be in foreign hands.
//! One request, of however many shares, is one step.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use ipc::Problem;

/// So many at once: more than anybody needs who sets a box up.
const MOST: u32 = 128;
/// One more comes back after so long: as often as a signer that ends right after each start is started again.
const EVERY: Duration = Duration::from_secs(300);

/// The steps that are left.
#[derive(Default)]
pub(crate) struct Budget(Mutex<Spent>);

#[derive(Default)]
struct Spent {
    steps: u32,
    /// Since when one of them is on its way back.
    since: Option<Instant>,
}

impl Budget {
    /// Whether one more step may be asked for. Nothing is written before this was asked.
    pub(crate) fn check(&self, now: Instant) -> Result<(), Problem> {
        let mut spent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        spent.recover(now);
        if spent.steps < MOST {
            return Ok(());
        }
        Err(Problem::new(
            "counter_tired",
            format!(
                "Shares came in and went {MOST} times in a short while. Each time costs the TPM's counter a step, and its memory does not take steps without end."
            ),
            "Find out who does that, and take their access away. If it is you: name many shares in one request, or go on in some minutes.",
        ))
    }

    /// A step was taken.
    pub(crate) fn spend(&self, now: Instant) {
        let mut spent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        spent.recover(now);
        spent.steps = spent.steps.saturating_add(1);
        spent.since.get_or_insert(now);
    }
}

impl Spent {
    fn recover(&mut self, now: Instant) {
        while let Some(since) = self.since
            && now.saturating_duration_since(since) >= EVERY
        {
            self.steps = self.steps.saturating_sub(1);
            self.since = (self.steps > 0).then_some(since + EVERY);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_bounded_and_come_back_with_time() {
        let (budget, begun) = (Budget::default(), Instant::now());
        let day = Duration::from_secs(86_400);
        // Asked without pause, for a day.
        let taken = |from: Instant| {
            let seconds = (0..86_400_u64).map(|second| from + Duration::from_secs(second));
            let ask = |now: Instant| {
                let may = budget.check(now);
                assert!(may.as_ref().err().is_none_or(|problem| problem.code == "counter_tired"));
                may.is_ok().then(|| budget.spend(now))
            };
            seconds.filter_map(ask).count()
        };
        assert_eq!(taken(begun), 128 + 287);
        assert_eq!(taken(begun + day), 288, "on the second day no more than come back");
        // A quiet day, and all are there again, but no more than that.
        let later = begun + day * 40;
        for _ in 0..MOST {
            budget.check(later).unwrap();
            budget.spend(later);
        }
        assert!(budget.check(later).is_err());
        assert!(budget.check(later + EVERY).is_ok());
    }
}
