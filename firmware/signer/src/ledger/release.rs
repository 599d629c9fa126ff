//! Giving shares away: in one transaction they are destroyed, remembered as gone for good, and the proof is kept.

use chain::{PublicKeyBytes, UnixMillis};
use rusqlite::{Connection, params};
use slashing::{Floors, History};

use super::leave::{before_freezing, highest, known_of};
use super::writer::Writer;
use super::{digest, edit, store, store::LedgerError, store::Store};

/// Added to ledgers that lack it.
const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS released (id BLOB PRIMARY KEY, certificate BLOB NOT NULL) STRICT;
";

/// All that is known of a share in three numbers, and the fingerprint of its history at that moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Marks {
    /// The share.
    pub key: PublicKeyBytes,
    /// The highest that it signed or may have signed.
    pub floors: Floors,
    /// When it was seen elsewhere, if it is stopped.
    pub stopped: Option<UnixMillis>,
    history: u64,
}

/// Adds what a ledger of before lacks. One that gave shares away while its version did not say so yet says so from now on.
pub(super) fn create(connection: &Connection) -> Result<(), LedgerError> {
    connection.execute_batch(SCHEMA)?;
    let gave_away: bool =
        connection.query_row("SELECT EXISTS (SELECT 1 FROM released)", [], |row| row.get(0))?;
    if gave_away {
        connection.pragma_update(None, "user_version", store::GAVE_AWAY_VERSION)?;
    }
    Ok(())
}

impl Store {
    /// The certificates, sealed.
    pub(super) fn releases(&self) -> Result<Vec<Vec<u8>>, LedgerError> {
        let mut query = self.connection().prepare("SELECT certificate FROM released ORDER BY rowid")?;
        let found = query.query_map([], |row| row.get(0))?;
        Ok(found.collect::<Result<_, _>>()?)
    }
}

impl Writer {
    /// The marks of every share: the highest that it or another share of its validator signed, deleted ones as well.
    pub(super) fn watermarks(&mut self) -> Result<Vec<Marks>, LedgerError> {
        self.ensure_certain()?;
        self.keep_stops()?;
        let pending = self.store().pending_with_floors()?;
        let marks = |(key, _, validator, history): (PublicKeyBytes, i64, _, &History)| {
            let others = self.all_held().filter(|(other, _, of, _)| *other != key && *of == validator);
            let others =
                others.map(|(other, _, _, history)| known_of(history, before_freezing(&pending, &other)));
            Marks {
                key,
                floors: others.fold(history.last_known(), highest),
                stopped: self.stopped_at(&key),
                history: digest::of_history(history),
            }
        };
        Ok(self.all_held().map(marks).collect())
    }

    /// One step further, with nothing else changed.
    pub(super) fn advance(&mut self) -> Result<u64, LedgerError> {
        self.ensure_certain()?;
        let counter = self.next_counter()?;
        let transaction = self.store_mut().begin()?;
        store::write_counter(&transaction, counter)?;
        transaction.commit()?;
        Ok(counter)
    }

    /// Those of these shares that were given up here for good.
    pub(super) fn retired_among(
        &mut self,
        keys: &[PublicKeyBytes],
    ) -> Result<Vec<PublicKeyBytes>, LedgerError> {
        self.ensure_certain()?;
        let transaction = self.store_mut().begin()?;
        let mut retired = Vec::new();
        for key in keys {
            if edit::is_retired(&transaction, key)? {
                retired.push(*key);
            }
        }
        Ok(retired)
    }

    /// Destroys the shares, if none of them has signed since its marks were taken. Gives the counter that the TPM must be
    /// brought to before the certificate leaves.
    pub(super) fn release(
        &mut self,
        shares: &[Marks],
        id: &[u8; 32],
        certificate: &[u8],
    ) -> Result<u64, LedgerError> {
        let outcome = self.try_release(shares, id, certificate);
        self.read_back()?;
        outcome
    }

    fn try_release(
        &mut self,
        shares: &[Marks],
        id: &[u8; 32],
        certificate: &[u8],
    ) -> Result<u64, LedgerError> {
        self.ensure_certain()?;
        // What it takes along of stopped shares is what is written here.
        self.keep_stops()?;
        for marks in shares {
            let (_, _, history) = self.held(&marks.key).ok_or(LedgerError::SignedMeanwhile)?;
            if digest::of_history(&history) != marks.history || self.stopped_at(&marks.key) != marks.stopped {
                return Err(LedgerError::SignedMeanwhile);
            }
        }
        let keys: Vec<PublicKeyBytes> = shares.iter().map(|marks| marks.key).collect();
        let (departure, counter) = (self.departure(&keys)?, self.next_counter()?);
        let transaction = self.store_mut().begin()?;
        departure.write(&transaction, id)?;
        transaction.execute(
            "INSERT OR REPLACE INTO released VALUES (?1, ?2)",
            params![id.as_slice(), certificate],
        )?;
        transaction.pragma_update(None, "user_version", store::GAVE_AWAY_VERSION)?;
        store::write_counter(&transaction, counter)?;
        transaction.commit()?;
        self.store().forget_log();
        Ok(counter)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Asked, Import, ShareRow, tests::is_on_disk};
    use super::*;
    use crate::{
        message::{Asks, Kind, Message, Vote},
        metrics::Metrics,
    };
    use chain::{Epoch, Root};
    use ipc::signer::{ChainClock, ChainPreset};
    use std::path::Path;

    const NOW: UnixMillis = UnixMillis(5);

    fn key(number: u8) -> PublicKeyBytes {
        PublicKeyBytes([number; 48])
    }

    fn import(number: u8, group: u8) -> Import {
        let clock = ChainClock {
            genesis_time: 1000,
            slot_ms: 2000,
            slots_per_epoch: 8,
            preset: ChainPreset::Mainnet,
        };
        let row = ShareRow {
            pubshare: key(number),
            group_key: key(group),
            share_index: 1,
            genesis_validators_root: Root([9; 32]),
            clock,
            sealed: vec![number; 72],
        };
        Import { row, history: (vec![], vec![]), was_damaged: false, more_epochs: 0, stopped: None }
    }

    fn run(dir: &Path, counter: u64) -> Writer {
        let mut writer = Writer::new(Store::open(dir).unwrap(), Metrics::default());
        writer.reload().unwrap();
        writer.begin_run(counter, crate::ledger::Past::Known, NOW).unwrap();
        writer
    }

    fn vote(number: u8, source: u64, target: u64, root: u8) -> Asked {
        let message = Message {
            kind: Kind::Attestation,
            signing_root: Root([root; 32]),
            epoch: Epoch(target),
            vote: Vote::Attestation { source: Epoch(source), target: Epoch(target) },
            asks: Asks::Duty,
        };
        Asked { key: key(number), message }
    }

    fn signs(writer: &mut Writer, asked: &Asked) -> bool {
        writer.record_all(&[asked], NOW).unwrap()[0].is_ok()
    }

    fn marks_of(writer: &mut Writer, number: u8) -> Marks {
        writer.watermarks().unwrap().into_iter().find(|marks| marks.key == key(number)).unwrap()
    }

    #[test]
    fn what_signed_or_was_stopped_since_its_marks_were_read_does_not_leave() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = run(dir.path(), 1);
        writer.import(&[import(1, 101)], NOW).unwrap();
        assert!(signs(&mut writer, &vote(1, 1, 2, 1)));
        let before = marks_of(&mut writer, 1);
        assert!(signs(&mut writer, &vote(1, 2, 3, 1)));
        let meanwhile = |outcome| matches!(outcome, Err(LedgerError::SignedMeanwhile));
        assert!(meanwhile(writer.release(&[before], &[7; 32], b"x")));
        let before = marks_of(&mut writer, 1);
        assert_eq!(writer.seen(&[vote(1, 3, 4, 8)], NOW).unwrap(), [key(1)]);
        assert!(meanwhile(writer.release(&[before], &[7; 32], b"x")));
        let unaware = Marks { stopped: None, ..marks_of(&mut writer, 1) };
        assert!(meanwhile(writer.release(&[unaware], &[7; 32], b"x")));
        assert!(writer.store().releases().unwrap().is_empty());
        // What was seen elsewhere is in its marks.
        let marks = marks_of(&mut writer, 1);
        assert_eq!((marks.floors.target, marks.stopped), (Some(Epoch(4)), Some(NOW)));
        writer.release(&[marks], &[7; 32], b"x").unwrap();
        assert_eq!(writer.store().releases().unwrap(), [b"x"]);
        assert!(!signs(&mut writer, &vote(1, 9, 10, 1)));
        assert!(matches!(writer.import(&[import(1, 101)], NOW), Err(LedgerError::Retired(_))));
    }

    #[test]
    fn software_from_before_there_were_moves_refuses_a_ledger_that_gave_shares_away() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = run(dir.path(), 1);
        writer.import(&[import(1, 101)], NOW).unwrap();
        let version = |writer: &Writer| -> i32 {
            let connection = writer.store().connection();
            connection.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap()
        };
        assert_eq!(version(&writer), 2, "the newest that such software knows");
        let marks = marks_of(&mut writer, 1);
        writer.release(&[marks], &[7; 32], b"x").unwrap();
        assert_eq!(version(&writer), 3);
        drop(writer);
        assert_eq!(run(dir.path(), 3).store().releases().unwrap(), [b"x"]);
        // One that gave away before the version said so.
        let connection = rusqlite::Connection::open(dir.path().join("ledger.db")).unwrap();
        connection.pragma_update(None, "user_version", 2).unwrap();
        drop(connection);
        assert_eq!(version(&run(dir.path(), 5)), 3);
        let connection = rusqlite::Connection::open(dir.path().join("ledger.db")).unwrap();
        connection.pragma_update(None, "user_version", 4).unwrap();
        drop(connection);
        assert!(matches!(Store::open(dir.path()), Err(LedgerError::Newer { found: 4 })));
    }

    #[test]
    fn what_a_deleted_share_of_the_same_validator_signed_goes_along() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = run(dir.path(), 1);
        writer.import(&[import(1, 101), import(2, 101), import(3, 103)], NOW).unwrap();
        assert!(signs(&mut writer, &vote(1, 4, 5, 1)));
        assert!(signs(&mut writer, &vote(2, 1, 6, 1)) || signs(&mut writer, &vote(2, 4, 6, 1)));
        writer.delete(&[key(2)]).unwrap();
        let floors = marks_of(&mut writer, 1).floors;
        assert_eq!((floors.source, floors.target), (Some(Epoch(4)), Some(Epoch(6))));
        assert_eq!(marks_of(&mut writer, 3).floors, Floors::default());
    }

    #[test]
    fn the_blocks_of_all_of_a_validator_s_shares_go_along() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = run(dir.path(), 1);
        writer.import(&[import(1, 101), import(2, 101)], NOW).unwrap();
        let mut block = vote(2, 0, 0, 1);
        (block.message.kind, block.message.vote) = (Kind::Block, Vote::Block { slot: chain::Slot(40) });
        assert!(signs(&mut writer, &block));
        let marks = marks_of(&mut writer, 1);
        assert_eq!(marks.floors.block, Some(chain::Slot(40)), "a sibling's");
        let (carried, _) = crate::carry::pack(&super::super::tests::share(1), &marks);
        assert_eq!(carried.marks.block, Some(40));
    }

    #[test]
    fn what_is_given_away_is_not_on_the_disk_any_more_and_what_it_signed_binds_what_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = run(dir.path(), 1);
        writer.import(&[import(1, 101), import(2, 101)], NOW).unwrap();
        assert!(signs(&mut writer, &vote(1, 4, 5, 1)));
        writer.store().forget_log(); // Into the file itself.
        assert!(is_on_disk(dir.path(), 1));
        let marks = marks_of(&mut writer, 1);
        writer.release(&[marks], &[7; 32], b"x").unwrap();
        assert!(!is_on_disk(dir.path(), 1) && is_on_disk(dir.path(), 2), "while it runs, too");
        assert!(!signs(&mut writer, &vote(2, 4, 5, 2)) && signs(&mut writer, &vote(2, 5, 6, 2)));
    }

    #[test]
    fn what_was_sealed_for_this_box_opens_until_it_deletes_shares_or_forgets_what_it_held() {
        let dir = tempfile::tempdir().unwrap();
        let generation = |writer: &Writer| writer.store().generation().unwrap();
        let mut writer = run(dir.path(), 7);
        assert_eq!(generation(&writer), Some(7));
        let empty = dir.path().join("empty.db");
        writer.store().forget_log();
        std::fs::copy(dir.path().join("ledger.db"), &empty).unwrap();
        writer.import(&[import(1, 101), import(2, 102)], NOW).unwrap();
        drop(writer);
        let mut writer = run(dir.path(), 9);
        assert_eq!(generation(&writer), Some(7), "neither imports nor starts change it");
        let counter = writer.delete(&[key(1)]).unwrap();
        assert_eq!(generation(&writer), Some(counter));
        let marks = [marks_of(&mut writer, 2)];
        let counter = writer.release(&marks, &[7; 32], b"x").unwrap();
        drop(writer);
        // The ledger of the first day, empty, which passes: there is nothing in it to protect.
        for file in ["ledger.db-wal", "ledger.db-shm"] {
            let _ = std::fs::remove_file(dir.path().join(file));
        }
        std::fs::copy(&empty, dir.path().join("ledger.db")).unwrap();
        let writer = run(dir.path(), counter + 1);
        assert_eq!(generation(&writer), Some(counter + 1));
        drop(writer);
        std::fs::remove_file(dir.path().join("ledger.db")).unwrap();
        assert_eq!(generation(&run(dir.path(), counter + 2)), Some(counter + 2));
    }
}
