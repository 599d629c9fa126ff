//! Notices when the ledger was put back to an earlier day.
//!
//! The TPM counts one step per start and per import; the ledger keeps the same number. The ledger is always written first,
//! so after a crash in between it is one ahead, and never more: before anything else is written the TPM catches up. Then
//! both go one further. So the number that was in the ledger during a crash is never again the current one, and a copy
//! of the disk made at that moment is as old as any other copy. Whenever the ledger is behind, somebody restored an old
//! copy, which does not know what was signed since: nothing is signed then. What the counter cannot see, a copy put back
//! within the same run of the signer, is covered by the ledger's mark of an unfinished run (decision 0126).

use ipc::Problem;
use tpm::{Tpm, TpmError};

use crate::{
    config::TpmConfig,
    ledger::{Ledger, Past},
    signer::{blocking, ledger_problem},
    vault::VaultError,
};

/// A new counter's first step, catching up, writing and stepping make five looks at the TPM; more is no progress.
const MAX_ACTIONS: u8 = 8;

/// What is to be done next, given what both sides say now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    /// Step the TPM once.
    Step,
    /// Write this number, the next of the two, to the ledger.
    Write(u64),
    /// Both are where they should be.
    Finished,
}

/// What beside the disk knows how old the ledger is.
#[derive(Clone, Copy)]
pub(crate) enum Witness<'a> {
    /// The TPM's counter.
    Tpm(&'a TpmConfig),
    /// Nothing: each start may be one on an old copy, and is treated as one (decision 0321).
    Nobody,
}

/// Begins a run: both sides go to a number that neither ever had. Asks the ledger anew on each attempt.
pub(crate) async fn begin_run(witness: Witness<'_>, ledger: &Ledger) -> Result<(), Problem> {
    let facts = ledger.facts().await.map_err(|error| ledger_problem(&error))?;
    let Witness::Tpm(config) = witness else {
        let next = facts.counter.unwrap_or_default().saturating_add(1);
        return ledger.begin_run(next, Past::Unknown).await.map_err(|error| ledger_problem(&error));
    };
    let mut found = read(config).await?;
    for _ in 0..MAX_ACTIONS {
        match before_a_run(facts.counter, found, facts.shares_exist)? {
            Action::Step => found = Some(step(config).await?),
            Action::Write(next) => {
                ledger.begin_run(next, Past::Known).await.map_err(|error| ledger_problem(&error))?;
                return settle(witness, next).await;
            }
            Action::Finished => break,
        }
    }
    Err(no_progress(facts.counter, found))
}

/// Brings the TPM to the number that the ledger has just been given. When this fails, nothing may be signed until
/// [`begin_run`] went well again.
pub(crate) async fn settle(witness: Witness<'_>, target: u64) -> Result<(), Problem> {
    let Witness::Tpm(config) = witness else { return Ok(()) };
    let mut found = read(config).await?;
    for _ in 0..MAX_ACTIONS {
        match after_writing(target, found)? {
            Action::Step => found = Some(step(config).await?),
            Action::Finished => return Ok(()),
            Action::Write(_) => break,
        }
    }
    Err(no_progress(Some(target), found))
}

async fn read(config: &TpmConfig) -> Result<Option<u64>, Problem> {
    on_tpm(config, |tpm, index| tpm.counter(index).read()).await
}

async fn step(config: &TpmConfig) -> Result<u64, Problem> {
    on_tpm(config, |tpm, index| tpm.counter(index).increment()).await
}

async fn on_tpm<T: Send + 'static>(
    config: &TpmConfig,
    work: fn(&mut Tpm, u32) -> Result<T, TpmError>,
) -> Result<T, Problem> {
    let (tcti, index) = (config.tcti.clone(), config.counter_index);
    let done = blocking(move || work(&mut Tpm::open(&tcti)?, index)).await;
    match done {
        Some(done) => done.map_err(|error| VaultError::from(error).to_problem()),
        None => Err(Problem::new("tpm_unavailable", "The TPM could not be asked.", "Restart the box.")),
    }
}

/// Whether the ledger may be as old as it says it is, and what comes next.
fn before_a_run(known: Option<u64>, found: Option<u64>, shares_exist: bool) -> Result<Action, Problem> {
    match (known, found) {
        (Some(known), Some(found)) if known == found => Ok(Action::Write(known.saturating_add(1))),
        (Some(known), Some(found)) if known == found.saturating_add(1) => Ok(Action::Step),
        // Nothing to protect yet: a new box, or one whose data was erased on purpose.
        (_, None) if !shares_exist => Ok(Action::Step),
        (_, Some(found)) if !shares_exist => Ok(Action::Write(found.saturating_add(1))),
        (known, found) => {
            tracing::error!(?known, ?found, "the ledger and the TPM's counter do not match");
            Err(Problem::new(
                "ledger_rolled_back",
                "The record of what was signed is older than this box itself: an old copy of the disk was restored. It does not know what was signed since, so nothing is signed.",
                "Put the newest disk back if you have it. Otherwise set the box up anew and import the shares with a complete history.",
            ))
        }
    }
}

/// What comes next once the ledger holds `target`.
fn after_writing(target: u64, found: Option<u64>) -> Result<Action, Problem> {
    match found {
        Some(found) if found == target => Ok(Action::Finished),
        Some(found) if found.saturating_add(1) == target => Ok(Action::Step),
        other => Err(no_progress(Some(target), other)),
    }
}

fn no_progress(known: Option<u64>, found: Option<u64>) -> Problem {
    tracing::error!(?known, ?found, "the TPM's counter does not go where it should");
    Problem::new(
        "counter_unusable",
        "The TPM's counter does not follow the record of what was signed, so nothing is signed.",
        "Restart the box. If it stays so, another program uses the counter: report this.",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both sides and what the last interrupted action was.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    struct World {
        ledger: Option<u64>,
        tpm: Option<u64>,
        shares_exist: bool,
    }

    impl World {
        fn step(&mut self) {
            // A new counter starts wherever the TPM wants.
            self.tpm = Some(self.tpm.map_or(41, |value| value + 1));
        }

        /// One start, cut off after `actions` actions. `Ok(true)`: it came to its end.
        fn start(&mut self, actions: usize) -> Result<bool, Problem> {
            let mut left = actions;
            let mut target = None;
            loop {
                let action = match target {
                    None => before_a_run(self.ledger, self.tpm, self.shares_exist)?,
                    Some(target) => after_writing(target, self.tpm)?,
                };
                if action == Action::Finished {
                    return Ok(true);
                }
                if left == 0 {
                    return Ok(false);
                }
                left -= 1;
                match action {
                    Action::Step => self.step(),
                    Action::Write(next) => (self.ledger, target) = (Some(next), Some(next)),
                    Action::Finished => {}
                }
            }
        }

        /// One import, cut off likewise.
        fn import(&mut self, actions: usize) {
            self.shares_exist = true;
            if actions > 0 {
                self.ledger = self.ledger.map(|value| value + 1);
            }
            if actions > 1 {
                self.step();
            }
        }
    }

    const ENOUGH: usize = 10;

    #[test]
    fn an_old_ledger_is_noticed_and_a_crash_between_the_two_steps_is_forgiven() {
        for (ledger, tpm, shares_exist, good) in [
            (None, None, false, true),
            (None, Some(7), false, true),
            (Some(3), Some(7), false, true),
            (Some(9), Some(7), false, true),
            (Some(7), Some(7), true, true),
            (Some(8), Some(7), true, true), // The ledger was written, then the power went.
            (Some(6), Some(7), true, false), // Yesterday's disk.
            (Some(9), Some(7), true, false),
            (Some(7), None, true, false), // The TPM was cleared.
            (None, Some(7), true, false),
            (None, None, true, false),
        ] {
            let mut world = World { ledger, tpm, shares_exist };
            let outcome = world.start(ENOUGH);
            assert_eq!(outcome.is_ok(), good, "{ledger:?} {tpm:?} {shares_exist}");
            if good {
                assert_eq!(outcome, Ok(true));
                assert_eq!(world.ledger, world.tpm, "{ledger:?} {tpm:?} {shares_exist}");
                assert!(world.ledger.is_some());
            }
        }
    }

    #[test]
    fn no_crash_locks_the_box_and_no_copy_made_in_one_passes_after_a_whole_start() {
        // Every history of three starts or imports, each cut off after every number of actions.
        let cuts = [0, 1, 2, 3, ENOUGH];
        for first in cuts {
            for second in cuts {
                for third in cuts {
                    for import in [false, true] {
                        let mut world = World { ledger: Some(50), tpm: Some(50), shares_exist: true };
                        let mut copies = vec![world];
                        for cut in [first, second, third] {
                            let _ = world.start(cut).expect("a crash is not a rollback");
                            copies.push(world);
                            if import && world.ledger == world.tpm {
                                world.import(cut);
                                copies.push(world);
                            }
                        }
                        assert_eq!(world.start(ENOUGH), Ok(true), "{first} {second} {third} {import}");
                        // Now it signs. Whatever was copied before must not pass any more.
                        for copy in copies {
                            let mut restored = World { tpm: world.tpm, ..copy };
                            let outcome = restored.start(ENOUGH);
                            assert!(outcome.is_err(), "{first} {second} {third} {import}: {copy:?}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn attempts_that_fail_at_the_tpm_do_not_drift_apart() {
        let mut world = World { ledger: Some(50), tpm: Some(50), shares_exist: true };
        for _ in 0..100 {
            // The ledger is written, the TPM does not move.
            match before_a_run(world.ledger, world.tpm, true).unwrap() {
                Action::Write(next) => world.ledger = Some(next),
                Action::Step | Action::Finished => {}
            }
        }
        assert_eq!(world.ledger, Some(51));
        assert_eq!(world.start(ENOUGH), Ok(true));
    }

    /// What is on a disk, or on a copy of one.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
    struct Disk {
        ledger: u64,
        /// It has the shares; otherwise it gave them away, and has the certificate.
        shares: bool,
    }

    /// Every disk there ever was, any of which may be put back, and the TPM.
    #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
    struct Copies {
        disks: std::collections::BTreeSet<Disk>,
        tpm: u64,
        certificate_is_out: bool,
    }

    impl Copies {
        /// Starts a disk, cut off after so many actions; none when it is refused. What it leaves is one more disk.
        fn start(&self, disk: Disk, actions: usize) -> Option<(Self, Disk, bool)> {
            let mut world = World { ledger: Some(disk.ledger), tpm: Some(self.tpm), shares_exist: true };
            let whole = world.start(actions).ok()?;
            let disk = Disk { ledger: world.ledger?, ..disk };
            let mut after = self.clone();
            after.tpm = world.tpm?;
            after.disks.insert(disk);
            Some((after, disk, whole))
        }

        /// The ledger goes one further with this in it, then the TPM, unless it is cut off in between.
        fn go_on(&self, disk: Disk, cut: bool) -> (Self, Disk) {
            let disk = Disk { ledger: disk.ledger + 1, shares: false };
            let mut after = self.clone();
            after.disks.insert(disk);
            after.tpm += u64::from(!cut);
            (after, disk)
        }

        /// What can happen next: a start of any disk, cut off anywhere, and what its owner does then.
        fn next(&self, steps_before_it_leaves: bool) -> Vec<Self> {
            let mut found = Vec::new();
            for disk in &self.disks {
                for cut in [0, 1, 2, ENOUGH] {
                    let Some((started, disk, whole)) = self.start(*disk, cut) else { continue };
                    if whole && disk.shares {
                        found.push(started.go_on(disk, true).0);
                        let moved = started.go_on(disk, false).0;
                        found.push(Self { certificate_is_out: true, ..moved });
                    } else if whole {
                        let shown = if steps_before_it_leaves {
                            found.push(started.go_on(disk, true).0);
                            started.go_on(disk, false).0
                        } else {
                            started.clone()
                        };
                        found.push(Self { certificate_is_out: true, ..shown });
                    }
                    found.push(started);
                }
            }
            found
        }

        /// The shares are on their way to another box, and a disk with them starts here.
        fn is_double(&self) -> bool {
            let starts = |disk: &&Disk| disk.shares && self.start(**disk, ENOUGH).is_some();
            self.certificate_is_out && self.disks.iter().any(|disk| starts(&disk))
        }
    }

    fn some_order_of_starts_leaves_two_boxes(steps_before_it_leaves: bool) -> bool {
        let first =
            Copies { disks: [Disk { ledger: 50, shares: true }].into(), tpm: 50, certificate_is_out: false };
        let mut seen = std::collections::BTreeSet::from([first]);
        for _ in 0..6 {
            let next = seen.iter().flat_map(|copies| copies.next(steps_before_it_leaves));
            let next: std::collections::BTreeSet<Copies> = next.collect();
            if next.iter().any(Copies::is_double) {
                return true;
            }
            seen = next;
        }
        false
    }

    #[test]
    fn once_a_certificate_is_out_no_disk_with_its_shares_starts_whatever_was_copied_and_cut_off_before() {
        assert!(!some_order_of_starts_leaves_two_boxes(true));
        assert!(some_order_of_starts_leaves_two_boxes(false), "the step before it leaves is needed");
    }

    #[test]
    fn a_counter_that_somebody_else_steps_is_not_believed() {
        for found in [None, Some(5), Some(8), Some(9)] {
            assert!(after_writing(7, found).is_err(), "{found:?}");
        }
        assert_eq!(after_writing(7, Some(7)), Ok(Action::Finished));
        assert_eq!(after_writing(7, Some(6)), Ok(Action::Step));
    }
}
