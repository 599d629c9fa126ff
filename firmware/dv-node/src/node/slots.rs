//! Which slots have begun, by a clock that may come back from the future.

use std::collections::BTreeSet;

use chain::Slot;

/// Slots remembered as begun, in case the clock comes back.
const REMEMBERED: usize = 256;

/// The slots that were begun. No slot is begun twice after its duties may be over: they would be done anew.
#[derive(Debug, Default)]
pub(crate) struct Slots {
    last: Option<Slot>,
    /// The latest few that were begun.
    begun: BTreeSet<Slot>,
    /// Begun before the clock came back from beyond them.
    left_out: BTreeSet<Slot>,
}

impl Slots {
    /// The last slot whose start was seen by a clock that was trusted.
    pub(crate) fn last(&self) -> Option<Slot> {
        self.last
    }

    /// A trusted clock shows this slot. Says whether it starts now. A slot to which the clock comes back does not start:
    /// the next one does.
    pub(crate) fn see(&mut self, slot: Slot) -> bool {
        let before = self.last.replace(slot);
        if before.is_some_and(|before| before > slot) {
            tracing::warn!(%slot, ?before, "the clock came back from a later slot");
            self.left_out = self.begun.range(slot..).copied().collect();
            self.left_out.insert(slot);
        }
        before.is_none_or(|before| before < slot)
    }

    /// Whether the duties of this slot may be begun, again while it is the current one; from then on it counts as begun.
    pub(crate) fn begin(&mut self, slot: Slot) -> bool {
        if self.left_out.contains(&slot) {
            return false;
        }
        self.begun.insert(slot);
        while self.begun.len() > REMEMBERED {
            self.begun.pop_first();
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_comes_back_goes_on_without_repeating_anything() {
        let mut slots = Slots::default();
        for slot in [5, 6] {
            assert!(slots.see(Slot(slot)) && slots.begin(Slot(slot)));
            assert!(!slots.see(Slot(slot)), "it starts once");
        }
        assert!(slots.begin(Slot(6)), "its duties may become known late");
        // Into the future, where two slots are begun, and back.
        for slot in [1_000, 1_001] {
            assert!(slots.see(Slot(slot)) && slots.begin(Slot(slot)));
        }
        assert!(!slots.see(Slot(6)) && !slots.begin(Slot(6)), "what may be over is not begun again");
        assert_eq!(slots.last(), Some(Slot(6)));
        for slot in 7..1_000 {
            assert!(slots.see(Slot(slot)) && slots.begin(Slot(slot)), "{slot} was never begun");
        }
        for slot in [1_000, 1_001] {
            assert!(slots.see(Slot(slot)) && !slots.begin(Slot(slot)), "{slot} was begun from the future");
        }
        assert!(slots.see(Slot(1_002)) && slots.begin(Slot(1_002)));
    }

    #[test]
    fn a_small_step_back_costs_only_the_slots_it_repeats() {
        let mut slots = Slots::default();
        for slot in 1..=10 {
            assert!(slots.see(Slot(slot)) && slots.begin(Slot(slot)));
        }
        assert!(!slots.see(Slot(8)));
        let done: Vec<u64> =
            (8..13).filter(|slot| slots.see(Slot(*slot)) && slots.begin(Slot(*slot))).collect();
        assert_eq!(done, [11, 12]);
    }
}
