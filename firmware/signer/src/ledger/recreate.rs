//! Old shares that have vouched for making all shares anew, which the other members count on (decision 0180).
//!
//! A member vouches with the old share that it has not changed over by an earlier change's lock. If it did so afterwards, the others would
//! end with new shares of which this member has none. So from the voucher on, only the lock of that new making takes the old share's
//! place, whatever happens in memory: until it has, or the owner gives it up.

use std::collections::BTreeMap;

use chain::PublicKeyBytes;
use rusqlite::{Connection, params};

use super::{
    store::{self, LedgerError, Store, bytes},
    writer::Writer,
};

/// Added to ledgers that lack it.
const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS recreating (pubshare BLOB PRIMARY KEY, lock_hash BLOB) STRICT;
";

/// What an old share has vouched for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Vouched {
    /// The hash of the lock that may take its place; none as long as that lock is not known.
    pub lock_hash: Option<[u8; 32]>,
    /// The hash of the lock in force, by which the owner knows the cluster. None for what was written before this was kept.
    pub base: Option<[u8; 32]>,
}

/// By old share.
pub(crate) type Recreating = BTreeMap<PublicKeyBytes, Vouched>;

/// Adds what a ledger of before lacks.
pub(super) fn create(connection: &Connection) -> Result<(), LedgerError> {
    connection.execute_batch(SCHEMA)?;
    let has_base: bool = connection.query_row(
        "SELECT EXISTS (SELECT 1 FROM pragma_table_info('recreating') WHERE name = 'base')",
        [],
        |row| row.get(0),
    )?;
    if !has_base {
        connection.execute_batch("ALTER TABLE recreating ADD COLUMN base BLOB")?;
    }
    Ok(())
}

impl Store {
    /// The old shares that have vouched, and for what.
    pub(super) fn recreating(&self) -> Result<Recreating, LedgerError> {
        let mut query = self.connection().prepare("SELECT pubshare, lock_hash, base FROM recreating")?;
        let rows = query.query_map([], |row| {
            Ok((
                row.get::<_, Vec<u8>>(0)?,
                row.get::<_, Option<Vec<u8>>>(1)?,
                row.get::<_, Option<Vec<u8>>>(2)?,
            ))
        })?;
        rows.map(|row| {
            let (key, lock_hash, base) = row?;
            let lock_hash = lock_hash.as_deref().map(bytes).transpose()?;
            let base = base.as_deref().map(bytes).transpose()?;
            Ok((bytes(&key)?, Vouched { lock_hash, base }))
        })
        .collect()
    }
}

impl Writer {
    /// From now on nothing but this lock takes the place of these shares; nothing at all as long as it is not known. Comes with
    /// the counter that the TPM must be brought to before a voucher leaves: no copy of the disk from before may be used again,
    /// for it does not know what the other members count on.
    pub(super) fn keep_recreating(
        &mut self,
        shares: &[PublicKeyBytes],
        vouched: Vouched,
    ) -> Result<u64, LedgerError> {
        self.ensure_certain()?;
        let counter = self.next_counter()?;
        let transaction = self.store_mut().begin()?;
        for share in shares {
            transaction.execute(
                "INSERT OR REPLACE INTO recreating (pubshare, lock_hash, base) VALUES (?1, ?2, ?3)",
                params![
                    share.as_slice(),
                    vouched.lock_hash.as_ref().map(<[u8; 32]>::as_slice),
                    vouched.base.as_ref().map(<[u8; 32]>::as_slice),
                ],
            )?;
        }
        store::write_counter(&transaction, counter)?;
        transaction.commit()?;
        Ok(counter)
    }

    /// The owner gives it up for these shares.
    pub(super) fn forget_recreating(&mut self, shares: &[PublicKeyBytes]) -> Result<(), LedgerError> {
        self.ensure_certain()?;
        let transaction = self.store_mut().begin()?;
        for share in shares {
            transaction.execute("DELETE FROM recreating WHERE pubshare = ?1", [share.as_slice()])?;
        }
        Ok(transaction.commit()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;

    #[test]
    fn a_ledger_of_before_gets_the_column_and_what_is_in_it_stays() {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch(SCHEMA).unwrap();
        connection.execute("INSERT INTO recreating VALUES (?1, NULL)", [[7_u8; 48].as_slice()]).unwrap();
        for _ in 0..2 {
            create(&connection).unwrap();
        }
        let found: Option<Vec<u8>> =
            connection.query_row("SELECT base FROM recreating", [], |row| row.get(0)).unwrap();
        assert_eq!(found, None);
    }

    #[test]
    fn each_voucher_steps_the_counter_and_the_owner_gives_up_what_is_named_only() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = Writer::new(Store::open(dir.path()).unwrap(), Metrics::default());
        writer.reload().unwrap();
        writer.begin_run(1, crate::ledger::Past::Known, chain::UnixMillis(5)).unwrap();
        let (one, other) = (PublicKeyBytes([1; 48]), PublicKeyBytes([2; 48]));
        let of = |base| Vouched { lock_hash: None, base: Some([base; 32]) };
        assert_eq!(writer.keep_recreating(&[one], of(1)).unwrap(), 2);
        assert_eq!(writer.keep_recreating(&[other], of(2)).unwrap(), 3);
        writer.forget_recreating(&[one]).unwrap();
        assert_eq!(writer.store().recreating().unwrap(), Recreating::from([(other, of(2))]));
        assert_eq!(writer.store().counter().unwrap(), Some(3));
    }
}
