//! What time it is on a share's chain, and what follows from it.

use std::time::{Duration, SystemTime};

use chain::{Epoch, Slot, SlotTiming, TimingError, UnixMillis};
use ipc::signer::ChainClock;
use slashing::Floors;

/// The box's clock.
pub(crate) fn now() -> UnixMillis {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    UnixMillis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// The chain's slots.
pub(crate) fn timing(clock: &ChainClock) -> Result<SlotTiming, TimingError> {
    SlotTiming::new(clock.genesis_time.saturating_mul(1000), clock.slot_ms, clock.slots_per_epoch)
}

/// The epoch now; none before the chain has begun, when no vote is signed (see [`crate::rules`]).
pub(crate) fn epoch_at(clock: &ChainClock, now: UnixMillis) -> Option<Epoch> {
    timing(clock).ok()?.epoch_at(now)
}

/// The floors that cover everything this signer can have signed until now, whether anybody remembers it or not. It signs
/// no target beyond the next epoch, no source beyond the previous one and no block beyond the next epoch, so a share that
/// begins above these floors conflicts with nothing. `known` is the highest target on record, which a clock that was put
/// back may be behind of. None when the chain has not begun and nothing is on record.
pub(crate) fn floors_at(clock: &ChainClock, now: UnixMillis, known: Option<Epoch>) -> Option<Floors> {
    let signed_at = known.map(|target| target.saturating_sub(1));
    let epoch = epoch_at(clock, now).max(signed_at)?;
    let first_after = timing(clock).ok()?.first_slot_of(epoch.saturating_add(2));
    Some(Floors {
        block: Some(Slot(first_after.0.saturating_sub(1))),
        source: Some(epoch.saturating_sub(1)),
        target: Some(epoch.saturating_add(1)),
    })
}

/// How far beyond the clock a history from elsewhere may go, in epochs. Floors of this box stand up to six epochs ahead of it, after
/// a backup was restored, and a history that goes out has them; the clock of the client that wrote it may have been ahead too.
const MOST_AHEAD_EPOCHS: u64 = 16;
/// The same on chains of short epochs. What a file of nonsense can silence a share for is no longer than this or those epochs.
const MOST_AHEAD: Duration = Duration::from_secs(2 * 3600);

/// The last epoch of which anybody can say that something was signed in it (decision 0390). None when there is no such chain.
pub(crate) fn latest_signed(clock: &ChainClock, now: UnixMillis) -> Option<Epoch> {
    let epochs_ms = clock.slot_ms.saturating_mul(clock.slots_per_epoch).saturating_mul(MOST_AHEAD_EPOCHS);
    let ahead = u64::try_from(MOST_AHEAD.as_millis()).unwrap_or(u64::MAX).max(epochs_ms);
    // Of a chain that has not begun, histories are those of its first epochs.
    let from = now.0.max(clock.genesis_time.saturating_mul(1000));
    epoch_at(clock, UnixMillis(from.saturating_add(ahead)))
}

/// The time some epochs later. While the chain has not begun nothing can have been signed; the epochs in which another holder of
/// the same share would be noticed can then only be those after its beginning.
pub(crate) fn epochs_later(clock: &ChainClock, now: UnixMillis, epochs: u64) -> UnixMillis {
    let ms = clock.slot_ms.saturating_mul(clock.slots_per_epoch).saturating_mul(epochs);
    let begins = match (epoch_at(clock, now), epochs) {
        (Some(_), _) | (None, 0) => now.0,
        (None, _) => now.0.max(clock.genesis_time.saturating_mul(1_000)),
    };
    UnixMillis(begins.saturating_add(ms))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ipc::signer::ChainPreset;

    const CLOCK: ChainClock =
        ChainClock { genesis_time: 1000, slot_ms: 2000, slots_per_epoch: 8, preset: ChainPreset::Mainnet };

    fn at(epoch: u64) -> UnixMillis {
        UnixMillis(1_000_000 + epoch * 8 * 2000 + 1)
    }

    #[test]
    fn a_chain_that_has_not_begun_makes_nobody_wait_but_whoever_may_not_be_alone() {
        assert_eq!(epochs_later(&CLOCK, UnixMillis(5), 0), UnixMillis(5));
        // A copy whose other holder can first be heard when the chain begins.
        let until = epochs_later(&CLOCK, UnixMillis(5), 3);
        assert_eq!(until, UnixMillis(1_000_000 + 3 * 8 * 2000));
        assert_eq!(floors_at(&CLOCK, until, None).and_then(|floors| floors.target), Some(Epoch(4)));
        assert_eq!(epochs_later(&CLOCK, at(5), 3), at(8));
        assert_eq!(epochs_later(&CLOCK, at(5), u64::MAX), UnixMillis(u64::MAX));
    }

    #[test]
    fn a_history_may_go_some_epochs_beyond_the_clock_and_no_further() {
        let mainnet = ChainClock { slot_ms: 12_000, slots_per_epoch: 32, ..CLOCK };
        let at = |epoch: u64| UnixMillis(1_000_000 + epoch * 32 * 12_000 + 1);
        assert_eq!(latest_signed(&mainnet, at(100)), Some(Epoch(118)), "two hours");
        assert_eq!(latest_signed(&mainnet, UnixMillis(5)), Some(Epoch(18)), "it has not begun");
        let slow = ChainClock { slot_ms: 60_000, ..mainnet };
        assert_eq!(latest_signed(&slow, UnixMillis(1_000_000)), Some(Epoch(16)));
        // Whatever this box itself raises floors to comes back in.
        for clock in [mainnet, slow] {
            let now = UnixMillis(900_000_000);
            let floors = floors_at(&clock, epochs_later(&clock, now, 5), None).unwrap();
            assert!(floors.target <= latest_signed(&clock, now));
        }
    }

    #[test]
    fn floors_lie_above_everything_that_can_have_been_signed() {
        let floors = |block, source, target| {
            Some(Floors {
                block: Some(Slot(block)),
                source: Some(Epoch(source)),
                target: Some(Epoch(target)),
            })
        };
        assert_eq!(floors_at(&CLOCK, UnixMillis(0), None), None, "before genesis nothing was signed");
        assert_eq!(floors_at(&CLOCK, UnixMillis(999_999), None), None);
        assert_eq!(floors_at(&CLOCK, at(0), None), floors(15, 0, 1));
        assert_eq!(floors_at(&CLOCK, at(5), None), floors(55, 4, 6));
        assert_eq!(floors_at(&CLOCK, at(5), Some(Epoch(6))), floors(55, 4, 6));
        // The clock was put back: what is on record counts.
        assert_eq!(floors_at(&CLOCK, at(5), Some(Epoch(10))), floors(87, 8, 10));
        assert_eq!(floors_at(&CLOCK, UnixMillis(0), Some(Epoch(10))), floors(87, 8, 10));
        assert!(floors_at(&CLOCK, UnixMillis(u64::MAX), Some(Epoch(u64::MAX))).is_some());
    }
}
