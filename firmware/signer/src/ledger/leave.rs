//! Shares that go for good without a successor: their member leaves the cluster, or another box takes them over.
//!
//! What such a share signed goes with it, and its validator can be punished for it all the same. So in the same transaction it
//! comes to bind whatever else of the validator stays: shares in use, shares that were deleted here, and shares that wait to
//! take another one's place.

use std::collections::{BTreeMap, BTreeSet};

use chain::PublicKeyBytes;
use rusqlite::{Transaction, params};
use slashing::{Floors, History, Retention};

use super::edit::write_floors_of_pending;
use super::store::{self, LedgerError, replace_history};
use super::writer::{Validator, Writer};
use super::{Pending, digest};

/// Shares on their way out, and what they leave behind.
pub(super) struct Departure {
    leaving: Vec<(PublicKeyBytes, i64)>,
    /// The histories of those that stay, as they are from then on.
    staying: Vec<(i64, History)>,
    /// The floors of those that wait.
    waiting: Vec<(PublicKeyBytes, Floors)>,
    digest: u64,
}

impl Writer {
    /// Gives shares up without successors: this member leaves. Gives the counter that the TPM must be brought to.
    pub(super) fn leave(
        &mut self,
        keys: &[PublicKeyBytes],
        lock_hash: &[u8; 32],
    ) -> Result<u64, LedgerError> {
        let outcome = self.try_leave(keys, lock_hash);
        self.read_back()?;
        outcome
    }

    fn try_leave(&mut self, keys: &[PublicKeyBytes], lock_hash: &[u8; 32]) -> Result<u64, LedgerError> {
        self.ensure_certain()?;
        // What was seen of those that go binds those that stay.
        self.keep_stops()?;
        let (departure, counter) = (self.departure(keys)?, self.next_counter()?);
        let transaction = self.store_mut().begin()?;
        departure.write(&transaction, lock_hash)?;
        store::write_counter(&transaction, counter)?;
        transaction.commit()?;
        self.store().forget_log();
        Ok(counter)
    }

    /// What has to be written when these shares go.
    pub(super) fn departure(&self, keys: &[PublicKeyBytes]) -> Result<Departure, LedgerError> {
        let going: BTreeSet<&PublicKeyBytes> = keys.iter().collect();
        let goes = |pending: &Pending| pending.replaces.is_some_and(|old| going.contains(&old));
        let pending = self.store().pending_with_floors()?;
        let mut digest = self.digest();
        let (mut leaving, mut left_by) = (Vec::new(), BTreeMap::<Validator, Floors>::new());
        for (key, id, validator, history) in self.all_held().filter(|(key, ..)| going.contains(key)) {
            let left = left_by.entry(validator).or_default();
            *left = highest(*left, known_of(history, before_freezing(&pending, &key)));
            digest = digest.wrapping_sub(digest::of_history(history));
            leaving.push((key, id));
        }
        let mut staying = Vec::new();
        for (_, id, validator, history) in self.all_held().filter(|(key, ..)| !going.contains(key)) {
            let Some(floors) = left_by.get(&validator) else { continue };
            let mut bound = history.clone();
            bound.raise(*floors);
            digest =
                digest.wrapping_sub(digest::of_history(history)).wrapping_add(digest::of_history(&bound));
            staying.push((id, bound));
        }
        let still_waiting = pending.iter().filter(|(pending, _)| !goes(pending));
        let waiting = still_waiting.filter_map(|(Pending { row, .. }, floors)| {
            let left = left_by.get(&(row.group_key, row.genesis_validators_root))?;
            Some((row.pubshare, highest(*floors, *left)))
        });
        let waiting = waiting.collect();
        Ok(Departure { leaving, staying, waiting, digest })
    }
}

impl Departure {
    /// All of it, as part of what is written at that moment.
    pub(super) fn write(
        self,
        transaction: &Transaction<'_>,
        lock_hash: &[u8; 32],
    ) -> Result<(), LedgerError> {
        for (key, id) in self.leaving {
            retire(transaction, id, &key, lock_hash)?;
            transaction.execute("DELETE FROM pending WHERE replaces = ?1", [key.as_slice()])?;
        }
        for (id, history) in self.staying {
            replace_history(transaction, id, &history)?;
        }
        for (key, floors) in self.waiting {
            write_floors_of_pending(transaction, &key, floors)?;
        }
        store::write_digest(transaction, self.digest)
    }
}

/// Deletes a share with all that belongs to it, and remembers that it must never come back.
pub(super) fn retire(
    transaction: &Transaction<'_>,
    id: i64,
    key: &PublicKeyBytes,
    lock_hash: &[u8; 32],
) -> Result<(), LedgerError> {
    transaction.execute("DELETE FROM attestations WHERE share = ?1", [id])?;
    transaction.execute("DELETE FROM blocks WHERE share = ?1", [id])?;
    transaction.execute("DELETE FROM shares WHERE id = ?1", [id])?;
    transaction.execute("DELETE FROM stopped WHERE pubshare = ?1", [key.as_slice()])?;
    transaction.execute("DELETE FROM recreating WHERE pubshare = ?1", [key.as_slice()])?;
    transaction.execute(
        "INSERT OR REPLACE INTO retired VALUES (?1, ?2)",
        params![key.as_slice(), lock_hash.as_slice()],
    )?;
    Ok(())
}

/// The highest of both.
pub(super) fn highest(one: Floors, other: Floors) -> Floors {
    Floors {
        block: one.block.max(other.block),
        source: one.source.max(other.source),
        target: one.target.max(other.target),
    }
}

/// The floors of a frozen share from before, which are kept with the share that waits for its place. None of one that is not frozen.
pub(super) fn before_freezing(pending: &[(Pending, Floors)], key: &PublicKeyBytes) -> Option<Floors> {
    let frozen = |pending: &Pending| pending.is_frozen && pending.replaces == Some(*key);
    pending.iter().find(|(pending, _)| frozen(pending)).map(|(_, floors)| *floors)
}

/// All that a share knows, as floors. Those of a frozen one stand above every epoch and say nothing: its own from before count.
pub(super) fn known_of(history: &History, before_freezing: Option<Floors>) -> Floors {
    let Some(floors) = before_freezing else { return history.last_known() };
    let (blocks, votes) = (history.blocks(), history.attestations());
    History::restore(history.key(), Retention::Complete, floors, blocks, votes).last_known()
}
