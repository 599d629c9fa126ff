//! Notices when the ledger was put back to an earlier day.
//!
//! The TPM counts one step per start and per import; the ledger keeps the same number. The ledger is written first, so
//! after a crash in between it may be one ahead. Whenever it is behind, somebody restored an old copy, and an old copy does
//! not know what was signed since: nothing is signed then. What the counter cannot see yet is a copy taken and put back
//! within the same run of the signer (decision 0123).

use ipc::Problem;
use tpm::{Tpm, TpmError};

use crate::{
    config::TpmConfig,
    ledger::Ledger,
    signer::{blocking, ledger_problem},
    vault::VaultError,
};

/// Compares, and steps both. Gives the new value.
pub(crate) async fn step_at_start(
    config: &TpmConfig,
    ledger: &Ledger,
    known: Option<u64>,
    shares_exist: bool,
) -> Result<u64, Problem> {
    let found = on_tpm(config, |tpm, index| tpm.counter(index).read()).await?;
    judge(known, found, shares_exist)?;
    if let Some(found) = found {
        ledger.set_counter(found.saturating_add(1)).await.map_err(|error| ledger_problem(&error))?;
    }
    let stepped = step(config).await?;
    // A new counter starts where the TPM wants; from here on it is known.
    if found.is_none_or(|found| found.saturating_add(1) != stepped) {
        ledger.set_counter(stepped).await.map_err(|error| ledger_problem(&error))?;
    }
    Ok(stepped)
}

/// Steps the TPM's counter.
pub(crate) async fn step(config: &TpmConfig) -> Result<u64, Problem> {
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

/// Whether the ledger may be as old as it says it is.
fn judge(known: Option<u64>, found: Option<u64>, shares_exist: bool) -> Result<(), Problem> {
    // Nothing to protect yet: a new box, or one whose data was erased on purpose.
    if !shares_exist {
        return Ok(());
    }
    match (known, found) {
        (Some(known), Some(found)) if known == found || known == found.saturating_add(1) => Ok(()),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_ledger_is_noticed_and_a_crash_between_the_two_steps_is_forgiven() {
        for (known, found, shares_exist, good) in [
            (None, None, false, true),
            (None, Some(7), false, true),
            (Some(3), Some(7), false, true),
            (Some(7), Some(7), true, true),
            (Some(8), Some(7), true, true), // The ledger was written, then the power went.
            (Some(6), Some(7), true, false), // Yesterday's disk.
            (Some(9), Some(7), true, false),
            (Some(7), None, true, false), // The TPM was cleared.
            (None, Some(7), true, false),
            (None, None, true, false),
        ] {
            assert_eq!(judge(known, found, shares_exist).is_ok(), good, "{known:?} {found:?} {shares_exist}");
        }
    }
}
