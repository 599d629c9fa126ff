//! Changing to new shares of the same validators, step by step on the disk (decisions 0180 and 0181).
//!
//! A new share is first *prepared*: sealed beside the old one, of no use yet. Then the old one is *frozen*: it signs no vote
//! any more, whatever software reads this file, because its floors stand above every epoch there will be. Only after that does
//! the new share make its first signature, the dry run. At last the change is *committed*: in one transaction the new share
//! takes the old one's place and history, and the old one is gone for good. So at every moment at most one of them can
//! sign a vote, and never is the share lost: until the end the old one is there to deal another time.

use std::collections::BTreeSet;

use chain::{Epoch, PublicKeyBytes, Slot, UnixMillis};
use ipc::signer::{ChainClock, ChainPreset};
use rusqlite::{Connection, OptionalExtension as _, Transaction, params};
use slashing::{Floors, History, Retention, SignedAttestation, SignedBlock};

use super::leave::{highest, retire};
use super::store::{LedgerError, Store, bytes, from_sql, insert_share, replace_history, to_sql};
use super::writer::{Writer, first_target};
use super::{Resuming, ShareRow, digest, store};
use crate::clock;

/// The tables are added to ledgers that lack them. The image in the other slot does not know them; it obeys the floors.
const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS pending (
    pubshare BLOB PRIMARY KEY,
    replaces BLOB, lock_hash BLOB NOT NULL, frozen INTEGER NOT NULL,
    group_key BLOB NOT NULL, share_index INTEGER NOT NULL, genesis_validators_root BLOB NOT NULL,
    genesis_time INTEGER NOT NULL, slot_ms INTEGER NOT NULL, slots_per_epoch INTEGER NOT NULL,
    minimal_preset INTEGER NOT NULL,
    sealed BLOB NOT NULL,
    floor_block INTEGER, floor_source INTEGER, floor_target INTEGER
) STRICT;
CREATE TABLE IF NOT EXISTS retired (pubshare BLOB PRIMARY KEY, lock_hash BLOB NOT NULL) STRICT;
";

/// No chain reaches it: at twelve seconds a slot it is thirteen million years away. Small enough that the first slot of its
/// epoch still fits everywhere.
const FROZEN: Epoch = Epoch(1 << 40);

/// How far apart the members' clocks may be, in epochs. What another member's old share can have signed lies below what this
/// member's clock says, plus this.
const CLOCKS_APART: u64 = 1;

/// A new share that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pending {
    /// As it will be kept.
    pub row: ShareRow,
    /// The share it takes the place of; none for a member that joins.
    pub replaces: Option<PublicKeyBytes>,
    /// Hash of the lock that will be in force.
    pub lock_hash: [u8; 32],
    /// The old share signs no more.
    pub is_frozen: bool,
}

/// What a commit did.
#[derive(Debug)]
pub(crate) struct Committed {
    /// What the TPM's counter must be brought to.
    pub counter: u64,
    /// The new shares, now in force.
    pub rows: Vec<ShareRow>,
    /// The old ones, which are gone.
    pub retired: Vec<PublicKeyBytes>,
    /// When the new shares begin.
    pub resuming: Resuming,
}

/// Adds what a ledger of before lacks.
pub(super) fn create(connection: &Connection) -> Result<(), LedgerError> {
    // What is deleted is overwritten: an old share must not be found in the file afterwards.
    connection.pragma_update(None, "secure_delete", true)?;
    Ok(connection.execute_batch(SCHEMA)?)
}

/// Whether a share was given up for another one.
pub(super) fn is_retired(transaction: &Transaction<'_>, key: &PublicKeyBytes) -> Result<bool, LedgerError> {
    let found = transaction
        .query_row("SELECT 1 FROM retired WHERE pubshare = ?1", [key.as_slice()], |_| Ok(()))
        .optional()?;
    Ok(found.is_some())
}

impl Store {
    /// The shares that wait, each with the floors that its predecessor had when it was frozen.
    pub(super) fn pending_with_floors(&self) -> Result<Vec<(Pending, Floors)>, LedgerError> {
        let mut query = self.connection().prepare(
            "SELECT pubshare, replaces, lock_hash, frozen, group_key, share_index, genesis_validators_root,
                    genesis_time, slot_ms, slots_per_epoch, minimal_preset, sealed,
                    floor_block, floor_source, floor_target FROM pending ORDER BY pubshare",
        )?;
        let rows = query.query_map([], |row| {
            let keys = (
                row.get::<_, Vec<u8>>(0)?,
                row.get::<_, Option<Vec<u8>>>(1)?,
                row.get::<_, Vec<u8>>(2)?,
                row.get::<_, bool>(3)?,
                row.get::<_, Vec<u8>>(4)?,
                row.get::<_, u8>(5)?,
                row.get::<_, Vec<u8>>(6)?,
            );
            let clock = (
                row.get::<_, i64>(7)?,
                row.get::<_, i64>(8)?,
                row.get::<_, i64>(9)?,
                row.get::<_, bool>(10)?,
            );
            let floors = (
                row.get::<_, Option<i64>>(12)?,
                row.get::<_, Option<i64>>(13)?,
                row.get::<_, Option<i64>>(14)?,
            );
            Ok((keys, clock, row.get::<_, Vec<u8>>(11)?, floors))
        })?;
        rows.map(|row| {
            let (keys, (genesis_time, slot_ms, slots_per_epoch, minimal), sealed, floors) = row?;
            let (pubshare, replaces, lock_hash, is_frozen, group_key, share_index, root) = keys;
            let row = ShareRow {
                pubshare: bytes(&pubshare)?,
                group_key: bytes(&group_key)?,
                share_index,
                genesis_validators_root: bytes(&root)?,
                clock: ChainClock {
                    genesis_time: from_sql(genesis_time)?,
                    slot_ms: from_sql(slot_ms)?,
                    slots_per_epoch: from_sql(slots_per_epoch)?,
                    preset: if minimal { ChainPreset::Minimal } else { ChainPreset::Mainnet },
                },
                sealed,
            };
            let floors = Floors {
                block: floors.0.map(from_sql).transpose()?.map(Slot),
                source: floors.1.map(from_sql).transpose()?.map(Epoch),
                target: floors.2.map(from_sql).transpose()?.map(Epoch),
            };
            let replaces = replaces.as_deref().map(bytes).transpose()?;
            let lock_hash = bytes(&lock_hash)?;
            Ok((Pending { row, replaces, lock_hash, is_frozen }, floors))
        })
        .collect()
    }

    /// The shares that were given up for a lock.
    pub(crate) fn retired_for(&self, lock_hash: &[u8; 32]) -> Result<Vec<PublicKeyBytes>, LedgerError> {
        let mut query = self
            .connection()
            .prepare("SELECT pubshare FROM retired WHERE lock_hash = ?1 ORDER BY pubshare")?;
        let rows = query.query_map([lock_hash.as_slice()], |row| row.get::<_, Vec<u8>>(0))?;
        rows.map(|row| bytes(&row?)).collect()
    }

    /// The shares that are frozen: each has a successor for which that was promised. Their floors alone do not tell, for a history
    /// from elsewhere may name any epoch.
    pub(super) fn frozen(&self) -> Result<BTreeSet<PublicKeyBytes>, LedgerError> {
        let frozen = self.pending()?.into_iter().filter(|pending| pending.is_frozen);
        Ok(frozen.filter_map(|pending| pending.replaces).collect())
    }

    /// The shares that wait.
    pub(crate) fn pending(&self) -> Result<Vec<Pending>, LedgerError> {
        Ok(self.pending_with_floors()?.into_iter().map(|(pending, _)| pending).collect())
    }
}

impl Writer {
    /// Puts new shares beside the old ones. What was prepared for the same validators before is dropped; an old share that
    /// is frozen stays so, and then the counter that the TPM must be brought to comes back: a copy of the disk from before
    /// must not bring the dropped share back.
    pub(super) fn prepare(&mut self, new: &[Pending]) -> Result<Option<u64>, LedgerError> {
        self.ensure_certain()?;
        self.keep_stops()?;
        let known = self.store().pending_with_floors()?;
        for old in new.iter().filter_map(|pending| pending.replaces) {
            self.ensure_only_here(&old)?;
        }
        let next = self.next_counter()?;
        let mut counter = None;
        let transaction = self.store_mut().begin()?;
        for pending in new {
            let row = &pending.row;
            let before = known.iter().find(|(known, _)| {
                known.row.group_key == row.group_key
                    && known.row.genesis_validators_root == row.genesis_validators_root
            });
            let carried = before.filter(|(known, _)| known.is_frozen && known.replaces.is_some());
            if carried.is_some_and(|(known, _)| known.replaces != pending.replaces) {
                return Err(LedgerError::Frozen(row.group_key));
            }
            counter = counter.or(before.filter(|(known, _)| known.is_frozen).map(|_| next));
            transaction.execute(
                "DELETE FROM pending WHERE group_key = ?1 AND genesis_validators_root = ?2",
                params![row.group_key.as_slice(), row.genesis_validators_root.as_slice()],
            )?;
            // What a share of the validator that left put on the waiting one stays on it, frozen or not.
            insert(&transaction, pending, carried.is_some(), before.map(|(_, floors)| *floors))?;
        }
        if let Some(counter) = counter {
            store::write_counter(&transaction, counter)?;
        }
        transaction.commit()?;
        Ok(counter)
    }

    /// Whoever sees the new share's first signature takes it that the old one votes no more. That is not so of one that was given
    /// up here and may have been taken elsewhere since, nor of one that was seen there.
    fn ensure_only_here(&self, old: &PublicKeyBytes) -> Result<(), LedgerError> {
        if !self.is_here(old) {
            return Err(LedgerError::NotHere(*old));
        }
        if self.store().stopped()?.contains_key(old) {
            return Err(LedgerError::SignsElsewhere(*old));
        }
        Ok(())
    }

    /// Drops what was prepared for a lock, unless an old share was frozen for it.
    pub(super) fn discard(&mut self, lock_hash: &[u8; 32]) -> Result<(), LedgerError> {
        self.ensure_certain()?;
        let transaction = self.store_mut().begin()?;
        transaction
            .execute("DELETE FROM pending WHERE lock_hash = ?1 AND frozen = 0", [lock_hash.as_slice()])?;
        Ok(transaction.commit()?)
    }

    /// Drops the new shares with which this box has promised to join by a lock: it never will. No old share is silent for them here,
    /// and they have signed nothing but the lock's hash. Gives the counter that the TPM must be brought to, for no copy of the disk
    /// may bring them back once another share of these validators is here; none when there is nothing of the kind.
    pub(super) fn forgo(&mut self, lock_hash: &[u8; 32]) -> Result<Option<u64>, LedgerError> {
        self.ensure_certain()?;
        let counter = self.next_counter()?;
        let transaction = self.store_mut().begin()?;
        let dropped = transaction.execute(
            "DELETE FROM pending WHERE lock_hash = ?1 AND frozen = 1 AND replaces IS NULL",
            [lock_hash.as_slice()],
        )?;
        if dropped == 0 {
            return Ok(None);
        }
        store::write_counter(&transaction, counter)?;
        transaction.commit()?;
        self.store().forget_log();
        Ok(Some(counter))
    }

    /// The promise: from here on the old shares sign no vote. The counter that the TPM must be brought to comes back; none
    /// when everything was frozen before.
    pub(super) fn freeze(&mut self, lock_hash: &[u8; 32]) -> Result<Option<u64>, LedgerError> {
        let outcome = self.try_freeze(lock_hash);
        if !matches!(outcome, Ok(None)) {
            self.read_back()?;
        }
        outcome
    }

    fn try_freeze(&mut self, lock_hash: &[u8; 32]) -> Result<Option<u64>, LedgerError> {
        self.ensure_certain()?;
        self.keep_stops()?;
        let pending = self.store().pending_with_floors()?;
        let ours: Vec<_> = pending.iter().filter(|(pending, _)| pending.lock_hash == *lock_hash).collect();
        if ours.is_empty() {
            return Err(LedgerError::NothingPrepared);
        }
        if ours.iter().all(|(pending, _)| pending.is_frozen) {
            return Ok(None);
        }
        let mut digest = self.digest();
        let mut frozen = Vec::new();
        for (pending, waiting) in ours {
            let Some(old) = pending.replaces.filter(|_| !pending.is_frozen) else { continue };
            self.ensure_only_here(&old)?;
            let (id, clock, mut history) = self.held(&old).ok_or(LedgerError::NothingPrepared)?;
            let floors = highest(*waiting, history.floors());
            digest = digest.wrapping_sub(digest::of_history(&history));
            history.raise(Floors {
                block: clock::timing(&clock).ok().map(|timing| timing.first_slot_of(FROZEN)),
                source: None,
                target: Some(FROZEN),
            });
            digest = digest.wrapping_add(digest::of_history(&history));
            frozen.push((pending.row.pubshare, id, floors, history));
        }
        let counter = self.next_counter()?;
        let transaction = self.store_mut().begin()?;
        transaction.execute("UPDATE pending SET frozen = 1 WHERE lock_hash = ?1", [lock_hash.as_slice()])?;
        for (pubshare, id, floors, history) in frozen {
            write_floors_of_pending(&transaction, &pubshare, floors)?;
            replace_history(&transaction, id, &history)?;
        }
        store::write_digest(&transaction, digest)?;
        store::write_counter(&transaction, counter)?;
        transaction.commit()?;
        Ok(Some(counter))
    }

    /// The change itself. The caller has seen the new lock, signed by every new share.
    pub(super) fn commit(&mut self, lock_hash: &[u8; 32], now: UnixMillis) -> Result<Committed, LedgerError> {
        let outcome = self.try_commit(lock_hash, now);
        self.read_back()?;
        outcome
    }

    fn try_commit(&mut self, lock_hash: &[u8; 32], now: UnixMillis) -> Result<Committed, LedgerError> {
        self.ensure_certain()?;
        self.keep_stops()?;
        let pending: Vec<(Pending, Floors)> = self
            .store()
            .pending_with_floors()?
            .into_iter()
            .filter(|(pending, _)| pending.lock_hash == *lock_hash)
            .collect();
        if pending.is_empty() || !pending.iter().all(|(pending, _)| pending.is_frozen) {
            return Err(LedgerError::NothingPrepared);
        }
        let now = self.no_earlier_than_recorded(now);
        let mut steps = Vec::new();
        let (mut digest, mut resuming) = (self.digest(), Resuming::new());
        for (pending, floors) in pending {
            let row = pending.row;
            let old = match pending.replaces {
                Some(old) => Some((old, self.held(&old).ok_or(LedgerError::NothingPrepared)?)),
                None => None,
            };
            let history =
                self.successor(&row, old.as_ref().map(|(key, (_, _, old))| (*key, old)), floors, now);
            resuming.extend(first_target(&history).map(|epoch| (row.pubshare, epoch)));
            if let Some((_, (_, _, old))) = &old {
                digest = digest.wrapping_sub(digest::of_history(old));
            }
            digest = digest.wrapping_add(digest::of_history(&history));
            steps.push((row, old.map(|(key, (id, _, _))| (key, id)), history));
        }
        let counter = self.next_counter()?;
        let transaction = self.store_mut().begin()?;
        let (mut rows, mut retired) = (Vec::new(), Vec::new());
        for (row, old, history) in steps {
            let id = insert_share(&transaction, &row, false)?;
            replace_history(&transaction, id, &history)?;
            if let Some((key, old)) = old {
                retire(&transaction, old, &key, lock_hash)?;
                retired.push(key);
            }
            transaction.execute("DELETE FROM pending WHERE pubshare = ?1", [row.pubshare.as_slice()])?;
            rows.push(row);
        }
        store::write_digest(&transaction, digest)?;
        store::write_counter(&transaction, counter)?;
        transaction.commit()?;
        self.store().forget_log();
        Ok(Committed { counter, rows, retired, resuming })
    }

    /// What the new share begins with: all that the old one signed, and floors above everything that any member's old share
    /// can have signed until now.
    ///
    /// The new lock is signed by every new share, and a new share signs only after its predecessor was frozen. So whoever
    /// holds that lock knows that no old share of a member that stays has signed since. Until then they signed, like
    /// ours, no target and no block beyond the next epoch and no source beyond the previous one, by a clock that is at
    /// most [`CLOCKS_APART`] from ours.
    fn successor(
        &self,
        row: &ShareRow,
        old: Option<(PublicKeyBytes, &History)>,
        floors: Floors,
        now: UnixMillis,
    ) -> History {
        let mut history = match old {
            Some((_, old)) => {
                // Without what was signed, nothing of it can be repeated: a repeat is not bound by the floors, and would be a
                // new share's signature below them.
                let blocks = old.blocks().map(|block| SignedBlock { signing_root: None, ..block });
                let votes = old.attestations().map(|vote| SignedAttestation { signing_root: None, ..vote });
                History::restore(row.pubshare, Retention::Complete, floors, blocks, votes)
            }
            None => {
                let mut history = History::never_signed(row.pubshare, Retention::Complete);
                history.raise(floors);
                history
            }
        };
        history.raise(history.last_known());
        let validator = (row.group_key, row.genesis_validators_root);
        for other in self.other_histories(validator, old.map(|(key, _)| key)) {
            history.raise(other.last_known());
        }
        let later = UnixMillis(now.0.saturating_add(epoch_ms(&row.clock).saturating_mul(CLOCKS_APART)));
        if let Some(floors) = clock::floors_at(&row.clock, later, history.last_known().target) {
            history.raise(floors);
        }
        history
    }
}

fn epoch_ms(clock: &ChainClock) -> u64 {
    clock.slot_ms.saturating_mul(clock.slots_per_epoch)
}

/// The floors with which a share that waits takes its place.
pub(super) fn write_floors_of_pending(
    transaction: &Transaction<'_>,
    key: &PublicKeyBytes,
    floors: Floors,
) -> Result<(), LedgerError> {
    let [block, source, target] = numbers(floors)?;
    transaction.execute(
        "UPDATE pending SET floor_block = ?2, floor_source = ?3, floor_target = ?4 WHERE pubshare = ?1",
        params![key.as_slice(), block, source, target],
    )?;
    Ok(())
}

fn insert(
    transaction: &Transaction<'_>,
    pending: &Pending,
    is_frozen: bool,
    floors: Option<Floors>,
) -> Result<(), LedgerError> {
    let row = &pending.row;
    let [block, source, target] = numbers(floors.unwrap_or_default())?;
    transaction.execute(
        "INSERT INTO pending VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)",
        params![
            row.pubshare.as_slice(),
            pending.replaces.as_ref().map(PublicKeyBytes::as_slice),
            pending.lock_hash.as_slice(),
            is_frozen,
            row.group_key.as_slice(),
            row.share_index,
            row.genesis_validators_root.as_slice(),
            to_sql(row.clock.genesis_time)?,
            to_sql(row.clock.slot_ms)?,
            to_sql(row.clock.slots_per_epoch)?,
            row.clock.preset == ChainPreset::Minimal,
            row.sealed,
            block,
            source,
            target,
        ],
    )?;
    Ok(())
}

fn numbers(floors: Floors) -> Result<[Option<i64>; 3], LedgerError> {
    Ok([
        floors.block.map(|slot| to_sql(slot.0)).transpose()?,
        floors.source.map(|epoch| to_sql(epoch.0)).transpose()?,
        floors.target.map(|epoch| to_sql(epoch.0)).transpose()?,
    ])
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use chain::Root;
    use slashing::{AttestationVote, BlockProposal, check_attestation, check_block};

    use super::*;
    use crate::ledger::{Asked, Entries, Import};
    use crate::message::{Asks, Kind, Message, Vote};
    use crate::metrics::Metrics;

    const CLOCK: ChainClock =
        ChainClock { genesis_time: 1000, slot_ms: 2000, slots_per_epoch: 8, preset: ChainPreset::Mainnet };
    const OLD: PublicKeyBytes = PublicKeyBytes([1; 48]);
    const NEW: PublicKeyBytes = PublicKeyBytes([2; 48]);
    const LOCK: [u8; 32] = [7; 32];

    fn at(epoch: u64) -> UnixMillis {
        UnixMillis(1_000_000 + epoch * 8 * 2000 + 1)
    }

    fn row(pubshare: PublicKeyBytes, sealed: u8) -> ShareRow {
        ShareRow {
            pubshare,
            group_key: PublicKeyBytes([9; 48]),
            share_index: 1,
            genesis_validators_root: Root([3; 32]),
            clock: CLOCK,
            sealed: vec![sealed; 72],
        }
    }

    fn import(pubshare: PublicKeyBytes) -> Import {
        let (row, history) = (row(pubshare, 0xaa), Entries::default());
        Import { row, history, was_damaged: false, more_epochs: 0, stopped: None }
    }

    fn pending(pubshare: PublicKeyBytes, replaces: Option<PublicKeyBytes>, lock_hash: [u8; 32]) -> Pending {
        Pending { row: row(pubshare, 0xee), replaces, lock_hash, is_frozen: false }
    }

    /// The ledger as a process that has just started finds it; what came before was not ended in order.
    fn open(dir: &Path) -> Writer {
        let mut writer = Writer::new(Store::open(dir).unwrap(), Metrics::default());
        writer.reload().unwrap();
        writer
    }

    /// A ledger with one share that voted from 3 to 4 in epoch 4.
    fn with_old(dir: &Path) -> Writer {
        let mut writer = open(dir);
        writer.begin_run(1, crate::ledger::Past::Known, UnixMillis(5)).unwrap();
        writer.import(&[import(OLD)], UnixMillis(5)).unwrap();
        let asked = |kind, vote| {
            let (signing_root, asks) = (Root([4; 32]), Asks::Duty);
            Asked { key: OLD, message: Message { kind, signing_root, epoch: Epoch(4), vote, asks } }
        };
        let voted = asked(Kind::Attestation, Vote::Attestation { source: Epoch(3), target: Epoch(4) });
        let proposed = asked(Kind::Block, Vote::Block { slot: Slot(33) });
        let verdicts = writer.record_all(&[&voted, &proposed], UnixMillis(5)).unwrap();
        assert_eq!(verdicts, [Ok(()), Ok(())]);
        writer
    }

    /// Whether a share may sign this vote.
    fn may(writer: &Writer, key: &PublicKeyBytes, source: u64, target: u64) -> bool {
        let Some((_, _, history)) = writer.held(key) else { return false };
        let vote =
            AttestationVote { source: Epoch(source), target: Epoch(target), signing_root: Root([5; 32]) };
        check_attestation(&history, &vote).is_ok()
    }

    /// The two shares' power to sign votes of the far future.
    fn powers(writer: &Writer) -> (bool, bool) {
        (may(writer, &OLD, 1000, 1001), may(writer, &NEW, 1000, 1001))
    }

    #[test]
    fn at_every_step_and_after_every_crash_one_share_at_most_can_vote_and_none_is_lost() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = with_old(dir.path());
        let look = |writer: &mut Writer, expected: (bool, bool), there: (usize, usize), step: &str| {
            assert_eq!(powers(writer), expected, "{step}");
            // A process that dies here: what the next one finds is the same.
            let copy = tempfile::tempdir().unwrap();
            for entry in std::fs::read_dir(dir.path()).unwrap() {
                let entry = entry.unwrap();
                std::fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
            }
            let mut next = open(copy.path());
            assert_eq!(powers(&next), expected, "{step}, after a crash");
            next.begin_run(9, crate::ledger::Past::Known, at(5)).unwrap();
            assert_eq!(powers(&next), expected, "{step}, in the next run");
            let found = (next.store().rows().unwrap().len(), next.store().pending().unwrap().len());
            assert_eq!(found, there, "{step}");
        };
        look(&mut writer, (true, false), (1, 0), "before");
        assert_eq!(writer.prepare(&[pending(NEW, Some(OLD), LOCK)]).unwrap(), None);
        look(&mut writer, (true, false), (1, 1), "prepared");
        assert!(matches!(writer.commit(&LOCK, at(5)), Err(LedgerError::NothingPrepared)), "not frozen yet");
        look(&mut writer, (true, false), (1, 1), "committed too early");
        assert_eq!(writer.freeze(&LOCK).unwrap(), Some(3));
        look(&mut writer, (false, false), (1, 1), "frozen");
        assert_eq!(writer.freeze(&LOCK).unwrap(), None, "the promise holds already");
        assert!(matches!(writer.commit(&[8; 32], at(5)), Err(LedgerError::NothingPrepared)), "another lock");
        writer.discard(&LOCK).unwrap();
        look(&mut writer, (false, false), (1, 1), "a promise cannot be discarded");
        let committed = writer.commit(&LOCK, at(5)).unwrap();
        assert_eq!((committed.counter, committed.retired.as_slice()), (4, [OLD].as_slice()));
        assert_eq!(committed.rows, [row(NEW, 0xee)]);
        look(&mut writer, (false, true), (1, 0), "committed");
    }

    #[test]
    fn the_new_share_begins_above_all_that_any_old_share_can_have_signed() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = with_old(dir.path());
        writer.prepare(&[pending(NEW, Some(OLD), LOCK)]).unwrap();
        writer.freeze(&LOCK).unwrap();
        let committed = writer.commit(&LOCK, at(5)).unwrap();
        // Others may have signed in epoch 5, or 6 by their clocks: targets up to 7, sources up to 5.
        assert_eq!(committed.resuming[&NEW], Epoch(8));
        for (source, target, allowed) in [(6, 7, false), (4, 8, false), (5, 8, true), (7, 8, true)] {
            assert_eq!(may(&writer, &NEW, source, target), allowed, "{source} to {target}");
        }
        // The history went with it.
        let (_, _, history) = writer.held(&NEW).unwrap();
        assert_eq!(history.attestations().next().unwrap().target_epoch, Epoch(4));
        assert_eq!(history.key(), NEW);
    }

    #[test]
    fn the_new_share_repeats_nothing_that_the_old_one_signed() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = with_old(dir.path());
        let vote = AttestationVote { source: Epoch(3), target: Epoch(4), signing_root: Root([4; 32]) };
        let block = BlockProposal { slot: Slot(33), signing_root: Root([4; 32]) };
        let repeats = |writer: &Writer, key: &PublicKeyBytes| {
            let (_, _, history) = writer.held(key).unwrap();
            (check_attestation(&history, &vote).is_ok(), check_block(&history, &block).is_ok())
        };
        assert_eq!(repeats(&writer, &OLD), (true, true));
        writer.prepare(&[pending(NEW, Some(OLD), LOCK)]).unwrap();
        writer.freeze(&LOCK).unwrap();
        writer.commit(&LOCK, at(5)).unwrap();
        assert_eq!(repeats(&writer, &NEW), (false, false));
        drop(writer);
        assert_eq!(repeats(&open(dir.path()), &NEW), (false, false), "after a restart");
    }

    #[test]
    fn a_clock_behind_the_record_does_not_let_the_new_share_begin_too_early() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = with_old(dir.path());
        writer.prepare(&[pending(NEW, Some(OLD), LOCK)]).unwrap();
        writer.freeze(&LOCK).unwrap();
        writer.commit(&LOCK, UnixMillis(0)).unwrap();
        assert!(!may(&writer, &NEW, 3, 4), "the old share's vote is remembered");
        assert!(may(&writer, &NEW, 4, 5));
    }

    #[test]
    fn a_clock_that_went_back_since_the_last_vote_does_not_let_the_new_share_begin_earlier() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = with_old(dir.path());
        let vote = Vote::Attestation { source: Epoch(7), target: Epoch(8) };
        let message = Message {
            kind: Kind::Attestation,
            signing_root: Root([4; 32]),
            epoch: Epoch(8),
            vote,
            asks: Asks::Duty,
        };
        assert_eq!(writer.record_all(&[&Asked { key: OLD, message }], at(8)).unwrap(), [Ok(())]);
        writer.prepare(&[pending(NEW, Some(OLD), LOCK)]).unwrap();
        writer.freeze(&LOCK).unwrap();
        let committed = writer.commit(&LOCK, at(5)).unwrap();
        assert_eq!(committed.resuming[&NEW], Epoch(11), "as at the moment of that vote");
    }

    #[test]
    fn an_old_share_never_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = with_old(dir.path());
        writer.prepare(&[pending(NEW, Some(OLD), LOCK)]).unwrap();
        writer.freeze(&LOCK).unwrap();
        // A third share of the validator would begin where the frozen one stands, or sign in its place.
        let third = PublicKeyBytes([6; 48]);
        let refused = writer.import(&[import(third)], at(5));
        assert!(matches!(refused, Err(LedgerError::Frozen(_))));
        writer.import(&[import(OLD)], at(5)).unwrap();
        assert_eq!(powers(&writer), (false, false), "importing it again does not thaw it");
        writer.commit(&LOCK, at(5)).unwrap();
        assert!(matches!(writer.import(&[import(OLD)], at(5)), Err(LedgerError::Retired(OLD))));
        drop(writer);
        let mut writer = open(dir.path());
        assert!(matches!(writer.import(&[import(OLD)], at(5)), Err(LedgerError::Retired(OLD))));
    }

    #[test]
    fn the_old_share_s_sealed_bytes_are_not_in_the_file_any_more() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = with_old(dir.path());
        let found = |byte| crate::ledger::tests::is_on_disk(dir.path(), byte);
        assert!(found(0xaa));
        writer.prepare(&[pending(NEW, Some(OLD), LOCK)]).unwrap();
        writer.freeze(&LOCK).unwrap();
        writer.commit(&LOCK, at(5)).unwrap();
        assert!(found(0xee) && !found(0xaa));
    }

    /// An edit that got stuck after the promise: the members change the cluster again, from the old shares.
    #[test]
    fn another_edit_takes_over_from_one_that_got_stuck_and_the_old_share_stays_silent() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = with_old(dir.path());
        writer.prepare(&[pending(NEW, Some(OLD), LOCK)]).unwrap();
        writer.freeze(&LOCK).unwrap();
        let (newer, other) = (PublicKeyBytes([8; 48]), [6; 32]);
        let of_nobody = writer.prepare(&[pending(newer, None, other)]);
        assert!(matches!(of_nobody, Err(LedgerError::Frozen(_))), "the old share's past would be lost");
        let counter = writer.prepare(&[pending(newer, Some(OLD), other)]).unwrap();
        assert_eq!(
            counter,
            Some(4),
            "a copy of the disk with the dropped share in it is too old from here on"
        );
        assert!(!powers(&writer).0);
        assert!(matches!(writer.commit(&LOCK, at(5)), Err(LedgerError::NothingPrepared)), "it was dropped");
        writer.commit(&other, at(5)).unwrap();
        assert!(may(&writer, &newer, 1000, 1001));
        assert_eq!(writer.held(&newer).unwrap().2.attestations().count(), 1);
        assert_eq!(powers(&writer), (false, false));
    }

    #[test]
    fn the_old_share_s_floors_bind_the_new_one_whatever_the_clock_says() {
        let (dir, newer, other) = (tempfile::tempdir().unwrap(), PublicKeyBytes([8; 48]), [6; 32]);
        let mut writer = open(dir.path());
        writer.begin_run(1, crate::ledger::Past::Known, at(30)).unwrap();
        writer.import(&[import(OLD)], at(30)).unwrap(); // It has floors and no vote.
        writer.prepare(&[pending(NEW, Some(OLD), LOCK)]).unwrap();
        writer.freeze(&LOCK).unwrap();
        writer.prepare(&[pending(newer, Some(OLD), other)]).unwrap();
        writer.commit(&other, UnixMillis(0)).unwrap();
        assert!(!may(&writer, &newer, 30, 31) && may(&writer, &newer, 30, 32));
    }

    #[test]
    fn a_frozen_share_that_leaves_binds_the_others_by_what_it_had_before_and_silences_none() {
        let (dir, other) = (tempfile::tempdir().unwrap(), PublicKeyBytes([5; 48]));
        let mut writer = open(dir.path());
        writer.begin_run(1, crate::ledger::Past::Known, UnixMillis(5)).unwrap();
        writer.import(&[import(other)], UnixMillis(5)).unwrap();
        writer.import(&[import(OLD)], at(30)).unwrap();
        writer.prepare(&[pending(NEW, Some(OLD), LOCK)]).unwrap();
        writer.freeze(&LOCK).unwrap();
        writer.leave(&[OLD], &[6; 32]).unwrap();
        assert!(writer.store().pending().unwrap().is_empty(), "its successor goes with it");
        assert!(!may(&writer, &other, 30, 31) && may(&writer, &other, 30, 32));
    }

    #[test]
    fn a_share_that_leaves_binds_the_one_that_waits_for_another_s_place() {
        let (dir, other) = (tempfile::tempdir().unwrap(), PublicKeyBytes([5; 48]));
        let mut writer = with_old(dir.path());
        writer.import(&[import(other)], at(30)).unwrap();
        writer.prepare(&[pending(NEW, Some(OLD), LOCK)]).unwrap();
        writer.freeze(&LOCK).unwrap();
        writer.leave(&[other], &[6; 32]).unwrap();
        writer.commit(&LOCK, UnixMillis(0)).unwrap();
        assert!(!may(&writer, &NEW, 30, 31) && may(&writer, &NEW, 30, 32));
    }

    #[test]
    fn what_a_share_that_left_put_on_one_that_is_to_join_outlives_another_attempt() {
        let (dir, other, newer) =
            (tempfile::tempdir().unwrap(), PublicKeyBytes([5; 48]), PublicKeyBytes([8; 48]));
        let mut writer = open(dir.path());
        writer.begin_run(1, crate::ledger::Past::Known, UnixMillis(5)).unwrap();
        writer.import(&[import(other)], at(30)).unwrap();
        writer.prepare(&[pending(NEW, None, LOCK)]).unwrap();
        writer.leave(&[other], &[6; 32]).unwrap();
        writer.prepare(&[pending(newer, None, LOCK)]).unwrap();
        writer.freeze(&LOCK).unwrap();
        writer.commit(&LOCK, UnixMillis(0)).unwrap();
        assert!(!may(&writer, &newer, 30, 31) && may(&writer, &newer, 30, 32));
    }

    #[test]
    fn a_promise_to_join_is_given_up_for_good_and_one_about_an_old_share_never() {
        let (dir, other) = (tempfile::tempdir().unwrap(), [6; 32]);
        let mut writer = with_old(dir.path());
        let joining = Pending {
            row: ShareRow { group_key: PublicKeyBytes([8; 48]), ..row(NEW, 0xdd) },
            ..pending(NEW, None, other)
        };
        writer.prepare(&[pending(PublicKeyBytes([5; 48]), Some(OLD), LOCK)]).unwrap();
        writer.prepare(&[joining]).unwrap();
        assert_eq!(writer.forgo(&other).unwrap(), None, "nothing is promised yet");
        let (first, second) =
            (writer.freeze(&LOCK).unwrap().unwrap(), writer.freeze(&other).unwrap().unwrap());
        assert_eq!(second, first + 1);
        assert_eq!(writer.forgo(&LOCK).unwrap(), None, "the old share is silent for it");
        let is_there = || crate::ledger::tests::is_on_disk(dir.path(), 0xdd);
        assert!(is_there());
        assert_eq!(
            writer.forgo(&other).unwrap(),
            Some(second + 1),
            "a copy of the disk from before is too old"
        );
        assert!(!is_there(), "its secret is overwritten");
        assert!(matches!(writer.commit(&other, at(5)), Err(LedgerError::NothingPrepared)));
        let left: Vec<_> = writer.store().pending().unwrap().iter().map(|left| left.lock_hash).collect();
        assert_eq!(left, [LOCK]);
        drop(writer);
        assert!(matches!(open(dir.path()).commit(&other, at(5)), Err(LedgerError::NothingPrepared)));
    }

    #[test]
    fn who_joins_begins_above_the_clock_and_who_leaves_keeps_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = open(dir.path());
        writer.begin_run(1, crate::ledger::Past::Known, UnixMillis(5)).unwrap();
        writer.prepare(&[pending(NEW, None, LOCK)]).unwrap();
        assert_eq!(writer.freeze(&LOCK).unwrap(), Some(2));
        let committed = writer.commit(&LOCK, at(5)).unwrap();
        assert_eq!((committed.resuming[&NEW], committed.retired.len()), (Epoch(8), 0));

        let dir = tempfile::tempdir().unwrap();
        let mut writer = with_old(dir.path());
        assert_eq!(writer.leave(&[OLD], &LOCK).unwrap(), 3);
        assert!(writer.store().rows().unwrap().is_empty());
        assert!(writer.held(&OLD).is_none());
        assert!(matches!(writer.import(&[import(OLD)], at(5)), Err(LedgerError::Retired(OLD))));
    }

    #[test]
    fn nothing_takes_the_place_of_a_share_that_was_deleted_or_signs_elsewhere() {
        // Deleted while shares were dealt, before anything was prepared.
        let dir = tempfile::tempdir().unwrap();
        let mut writer = with_old(dir.path());
        writer.delete(&[OLD]).unwrap();
        let replacing = [pending(NEW, Some(OLD), LOCK)];
        assert!(matches!(writer.prepare(&replacing), Err(LedgerError::NotHere(OLD))));
        assert!(writer.store().pending().unwrap().is_empty());
        // Once it is back, it can be replaced; and then it cannot be deleted.
        writer.import(&[import(OLD)], at(5)).unwrap();
        writer.prepare(&replacing).unwrap();
        assert!(matches!(writer.delete(&[OLD]), Err(LedgerError::Frozen(_))));

        // Seen elsewhere, before it was prepared and after that.
        let seen = |source, target| {
            let vote = Vote::Attestation { source: Epoch(source), target: Epoch(target) };
            let message = Message {
                kind: Kind::Attestation,
                signing_root: Root([0x66; 32]),
                epoch: Epoch(target),
                vote,
                asks: Asks::Duty,
            };
            Asked { key: OLD, message }
        };
        let dir = tempfile::tempdir().unwrap();
        let mut writer = with_old(dir.path());
        assert_eq!(writer.seen(&[seen(4, 5)], at(5)).unwrap(), [OLD]);
        assert!(matches!(writer.prepare(&replacing), Err(LedgerError::SignsElsewhere(OLD))));
        writer.resume(&OLD, at(5), at(5)).unwrap();
        writer.prepare(&replacing).unwrap();
        assert_eq!(writer.seen(&[seen(8, 9)], at(9)).unwrap(), [OLD]);
        assert!(matches!(writer.freeze(&LOCK), Err(LedgerError::SignsElsewhere(OLD))));
        assert!(!writer.store().pending().unwrap()[0].is_frozen, "nothing is promised");
        // The owner decides, and it goes on. After the promise the new share is all there is to wait for; it begins above
        // what was seen, and of a share that is gone nothing says that it signs elsewhere.
        writer.resume(&OLD, at(9), at(9)).unwrap();
        writer.freeze(&LOCK).unwrap();
        assert_eq!(writer.seen(&[seen(20, 21)], at(11)).unwrap(), [OLD]);
        assert!(!powers(&writer).0);
        writer.commit(&LOCK, at(11)).unwrap();
        assert!(writer.store().stopped().unwrap().is_empty());
        assert_eq!((may(&writer, &NEW, 20, 21), may(&writer, &NEW, 21, 22)), (false, true));
    }

    #[test]
    fn without_new_shares_nothing_is_frozen() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = with_old(dir.path());
        assert!(matches!(writer.freeze(&LOCK), Err(LedgerError::NothingPrepared)));
        writer.prepare(&[pending(NEW, Some(OLD), LOCK)]).unwrap();
        writer.discard(&LOCK).unwrap();
        assert!(matches!(writer.freeze(&LOCK), Err(LedgerError::NothingPrepared)));
        assert_eq!(powers(&writer), (true, false));
    }
}
