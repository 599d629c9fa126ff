//! Old shares that have vouched for making all shares anew, which the other members count on (decision 0180).
//!
//! A member vouches with the old share that it has not changed over by an earlier change's lock. If it did so afterwards, the others would
//! end with new shares of which this member has none. So from the voucher on, only the lock of that new making takes the old share's
//! place, whatever happens in memory: until it has, or the owner gives it up.

use std::collections::BTreeMap;

use chain::PublicKeyBytes;
use rusqlite::{Connection, params};

use super::{
    store::{LedgerError, Store, bytes},
    writer::Writer,
};

/// Added to ledgers that lack it.
const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS recreating (pubshare BLOB PRIMARY KEY, lock_hash BLOB) STRICT;
";

/// By old share: the hash of the lock that may take its place; none as long as that lock is not known.
pub(crate) type Recreating = BTreeMap<PublicKeyBytes, Option<[u8; 32]>>;

/// Adds what a ledger of before lacks.
pub(super) fn create(connection: &Connection) -> Result<(), LedgerError> {
    Ok(connection.execute_batch(SCHEMA)?)
}

impl Store {
    /// The old shares that have vouched, and for which lock.
    pub(super) fn recreating(&self) -> Result<Recreating, LedgerError> {
        let mut query = self.connection().prepare("SELECT pubshare, lock_hash FROM recreating")?;
        let rows =
            query.query_map([], |row| Ok((row.get::<_, Vec<u8>>(0)?, row.get::<_, Option<Vec<u8>>>(1)?)))?;
        rows.map(|row| {
            let (key, lock_hash) = row?;
            Ok((bytes(&key)?, lock_hash.as_deref().map(bytes).transpose()?))
        })
        .collect()
    }
}

impl Writer {
    /// From now on nothing but this lock takes the place of these shares; nothing at all as long as it is not known.
    pub(super) fn keep_recreating(
        &mut self,
        shares: &[PublicKeyBytes],
        lock_hash: Option<[u8; 32]>,
    ) -> Result<(), LedgerError> {
        self.ensure_certain()?;
        let transaction = self.store_mut().begin()?;
        for share in shares {
            transaction.execute(
                "INSERT OR REPLACE INTO recreating VALUES (?1, ?2)",
                params![share.as_slice(), lock_hash.as_ref().map(<[u8; 32]>::as_slice)],
            )?;
        }
        Ok(transaction.commit()?)
    }

    /// The owner gives it up: for these shares, or for all.
    pub(super) fn forget_recreating(&mut self, shares: Option<&[PublicKeyBytes]>) -> Result<(), LedgerError> {
        self.ensure_certain()?;
        let transaction = self.store_mut().begin()?;
        match shares {
            Some(shares) => {
                for share in shares {
                    transaction.execute("DELETE FROM recreating WHERE pubshare = ?1", [share.as_slice()])?;
                }
            }
            None => {
                transaction.execute("DELETE FROM recreating", [])?;
            }
        }
        Ok(transaction.commit()?)
    }
}
