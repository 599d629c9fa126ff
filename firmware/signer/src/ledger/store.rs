//! The database: SQLite, write-ahead log, every commit synced.
//!
//! Shares and histories are in one file on purpose (decision 0121): a share without its history cannot exist, whatever
//! is deleted or restored, and an import is one transaction.

use std::{
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use chain::{Epoch, PublicKeyBytes, Root, Slot};
use ipc::signer::{ChainClock, ChainPreset};
use rusqlite::{Connection, OptionalExtension as _, Transaction, TransactionBehavior, params};
use slashing::{Floors, History, Retention, SignedAttestation, SignedBlock};

use super::ShareRow;

const FILE: &str = "ledger.db";
/// "Hrth", so that `file` and a careful person can tell what this is.
const APPLICATION_ID: i32 = 0x4872_7468;
const SCHEMA_VERSION: i32 = 2;
/// That of a ledger which has given shares away. Software from before there were moves does not count a kept certificate as
/// something to protect, and would let an old copy with one in it pass; it refuses a version that it does not know.
pub(super) const GAVE_AWAY_VERSION: i32 = 3;

const SCHEMA: &str = "
CREATE TABLE meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT;
CREATE TABLE shares (
    id INTEGER PRIMARY KEY,
    pubshare BLOB NOT NULL UNIQUE,
    group_key BLOB NOT NULL,
    share_index INTEGER NOT NULL,
    genesis_validators_root BLOB NOT NULL,
    genesis_time INTEGER NOT NULL, slot_ms INTEGER NOT NULL, slots_per_epoch INTEGER NOT NULL,
    minimal_preset INTEGER NOT NULL,
    sealed BLOB NOT NULL,
    floor_block INTEGER, floor_source INTEGER, floor_target INTEGER
) STRICT;
CREATE TABLE attestations (
    share INTEGER NOT NULL REFERENCES shares (id),
    target INTEGER NOT NULL, source INTEGER NOT NULL, signing_root BLOB
) STRICT;
CREATE UNIQUE INDEX attestation ON attestations (share, target, source, signing_root);
CREATE TABLE blocks (
    share INTEGER NOT NULL REFERENCES shares (id),
    slot INTEGER NOT NULL, signing_root BLOB
) STRICT;
CREATE UNIQUE INDEX block ON blocks (share, slot, signing_root);
";

/// Why the ledger cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LedgerError {
    /// The directory or file cannot be used.
    #[error("cannot use {}", .path.display())]
    Io {
        /// The path.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// SQLite refused.
    #[error("the ledger could not be read or written: {0}")]
    Sqlite(#[from] rusqlite::Error),
    /// The file is damaged.
    #[error("the ledger is damaged ({0})")]
    Damaged(String),
    /// The file was written by newer software.
    #[error("the ledger has version {found}, this software knows version {GAVE_AWAY_VERSION}")]
    Newer {
        /// Version found.
        found: i32,
    },
    /// A share signed while it was about to be given away.
    #[error("a share signed while it was about to be given away")]
    SignedMeanwhile,
    /// The database does not promise what a record needs.
    #[error("the disk's file system does not let records be made durable ({0})")]
    NotDurable(String),
    /// A number that no chain reaches.
    #[error("the history holds an epoch or slot beyond any real one: {0}")]
    TooLarge(u64),
    /// The share is there with other facts.
    #[error("the share {0} is already held with another validator, index or chain")]
    Conflict(PublicKeyBytes),
    /// The share was given up for another one.
    #[error(
        "the share {0} was given up here for good, when the cluster was changed or the shares moved to another box, and must not come back"
    )]
    Retired(PublicKeyBytes),
    /// The validator's share is in the middle of being replaced.
    #[error("the share of the validator {0} is being replaced")]
    Frozen(PublicKeyBytes),
    /// The share that is to be replaced was given up here.
    #[error("the share {0} that is to be replaced is not here any more")]
    NotHere(PublicKeyBytes),
    /// The share that is to be replaced was seen signing elsewhere.
    #[error("the share {0} that is to be replaced was seen signing elsewhere")]
    SignsElsewhere(PublicKeyBytes),
    /// No new share waits for that lock, or not in that state.
    #[error("no new share waits for this lock")]
    NothingPrepared,
    /// The thread has ended.
    #[error("the ledger's thread has stopped")]
    Stopped,
}

/// The open database.
pub(crate) struct Store {
    connection: Connection,
}

impl Store {
    /// Opens or creates the ledger and checks all of it. A damaged one is never repaired: what it forgot could be signed
    /// twice.
    pub(crate) fn open(state_dir: &Path) -> Result<Self, LedgerError> {
        let io = |source| LedgerError::Io { path: state_dir.to_owned(), source };
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(state_dir).map_err(io)?;
        let path = state_dir.join(FILE);
        // Made by us, for its mode; SQLite's other files take the mode over.
        std::fs::OpenOptions::new().append(true).create(true).mode(0o600).open(&path).map_err(io)?;
        crate::files::sync_dir(state_dir).map_err(io)?;
        let connection = Connection::open(&path)?;
        // Nobody else may open the file while we have it: two signers on one ledger would be two ledgers.
        connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
        make_durable(&connection)?;
        connection.pragma_update(None, "foreign_keys", true)?;
        connection.pragma_update(None, "trusted_schema", false)?;
        let mut store = Self { connection };
        store.create_or_check()?;
        super::owner::create(&store.connection)?;
        super::edit::create(&store.connection)?;
        super::recreate::create(&store.connection)?;
        super::elsewhere::create(&store.connection)?;
        super::release::create(&store.connection)?;
        Ok(store)
    }

    fn create_or_check(&mut self) -> Result<(), LedgerError> {
        let verdict: String = self.connection.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))?;
        if verdict != "ok" {
            return Err(LedgerError::Damaged(verdict));
        }
        let version: i32 = self.connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
        let application: i32 =
            self.connection.pragma_query_value(None, "application_id", |row| row.get(0))?;
        match (application, version) {
            (0, 0) => {
                let transaction = self.begin()?;
                transaction.execute_batch(SCHEMA)?;
                transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
                transaction.pragma_update(None, "user_version", SCHEMA_VERSION)?;
                Ok(transaction.commit()?)
            }
            (APPLICATION_ID, SCHEMA_VERSION | GAVE_AWAY_VERSION) => Ok(()),
            (APPLICATION_ID, found) => Err(LedgerError::Newer { found }),
            (other, _) => Err(LedgerError::Damaged(format!("another program's file, {other:#x}"))),
        }
    }

    /// For reading.
    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Empties the write-ahead log, so that nothing deleted is left in it. When it cannot be done now, it is done later: what
    /// is in there is sealed.
    pub(super) fn forget_log(&self) {
        let done =
            self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, i64>(0));
        if !matches!(done, Ok(0)) {
            tracing::warn!(?done, "the write-ahead log could not be emptied yet");
        }
    }

    /// Starts a transaction that has the write lock from the beginning.
    pub(crate) fn begin(&mut self) -> Result<Transaction<'_>, LedgerError> {
        Ok(self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?)
    }

    /// Whether a failed transaction is still open, after which nothing may be believed until it is rolled back.
    pub(crate) fn settle(&mut self) -> Result<(), LedgerError> {
        if self.connection.is_autocommit() {
            Ok(())
        } else {
            Ok(self.connection.execute_batch("ROLLBACK")?)
        }
    }

    /// The shares kept.
    pub(crate) fn rows(&self) -> Result<Vec<ShareRow>, LedgerError> {
        self.rows_that("length(sealed) > 0")
    }

    /// The shares that were given up, of which the history is still known; see [`super::delete`].
    pub(crate) fn deleted_rows(&self) -> Result<Vec<ShareRow>, LedgerError> {
        self.rows_that("length(sealed) = 0")
    }

    fn rows_that(&self, condition: &str) -> Result<Vec<ShareRow>, LedgerError> {
        let mut query = self.connection.prepare(&format!(
            "SELECT pubshare, group_key, share_index, genesis_validators_root, genesis_time, slot_ms,
                    slots_per_epoch, minimal_preset, sealed FROM shares WHERE {condition} ORDER BY pubshare",
        ))?;
        let rows = query.query_map([], |row| {
            let clock =
                (row.get::<_, i64>(4)?, row.get::<_, i64>(5)?, row.get::<_, i64>(6)?, row.get::<_, bool>(7)?);
            Ok((
                row.get::<_, Vec<u8>>(0)?,
                row.get::<_, Vec<u8>>(1)?,
                row.get::<_, u8>(2)?,
                row.get::<_, Vec<u8>>(3)?,
                clock,
                row.get::<_, Vec<u8>>(8)?,
            ))
        })?;
        rows.map(|row| {
            let (pubshare, group_key, share_index, root, clock, sealed) = row?;
            let (genesis_time, slot_ms, slots_per_epoch, minimal) = clock;
            Ok(ShareRow {
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
            })
        })
        .collect()
    }

    /// The TPM counter's value as it was last known, or about to become.
    pub(crate) fn counter(&self) -> Result<Option<u64>, LedgerError> {
        self.meta("counter")?.map(from_sql).transpose()
    }

    /// Whether a run was begun and not ended in order.
    pub(crate) fn is_open(&self) -> Result<bool, LedgerError> {
        Ok(self.meta("open")?.is_some_and(|value| value != 0))
    }

    /// The latest moment at which a vote was recorded, by the clock of then.
    pub(crate) fn recorded_at(&self) -> Result<u64, LedgerError> {
        Ok(self.meta("recorded_at")?.map(from_sql).transpose()?.unwrap_or_default())
    }

    /// The least generation of the list of clients outside the box that is believed; see [`crate::remote`].
    pub(crate) fn remote_generation(&self) -> Result<u64, LedgerError> {
        Ok(self.meta("remote_generation")?.map(from_sql).transpose()?.unwrap_or_default())
    }

    /// Raises it; never lowers it.
    pub(crate) fn keep_remote_generation(&mut self, generation: u64) -> Result<(), LedgerError> {
        if generation > self.remote_generation()? {
            let transaction = self.begin()?;
            write_meta(&transaction, "remote_generation", to_sql(generation)?)?;
            transaction.commit()?;
        }
        Ok(())
    }

    /// Which import key is in force; none before the first run.
    pub(crate) fn generation(&self) -> Result<Option<u64>, LedgerError> {
        self.meta("import_generation")?.map(from_sql).transpose()
    }

    /// The digest that was written with the last change; see [`super::digest`].
    pub(crate) fn digest(&self) -> Result<Option<u64>, LedgerError> {
        Ok(self.meta("digest")?.map(|value| u64::from_le_bytes(value.to_le_bytes())))
    }

    fn meta(&self, name: &str) -> Result<Option<i64>, LedgerError> {
        Ok(self
            .connection
            .query_row("SELECT value FROM meta WHERE name = ?1", [name], |row| row.get(0))
            .optional()?)
    }

    /// Closes the file, with everything in it and nothing left beside it.
    pub(crate) fn close(self) -> Result<(), LedgerError> {
        self.connection.close().map_err(|(_, error)| LedgerError::Sqlite(error))
    }

    /// Everything known of each share, with the share's row number.
    pub(crate) fn histories(&self) -> Result<Vec<(i64, History)>, LedgerError> {
        let mut query = self.connection.prepare(
            "SELECT id, pubshare, floor_block, floor_source, floor_target FROM shares ORDER BY id",
        )?;
        let shares = query.query_map([], |row| {
            let floors =
                (row.get::<_, Option<i64>>(2)?, row.get::<_, Option<i64>>(3)?, row.get::<_, Option<i64>>(4)?);
            Ok((row.get::<_, i64>(0)?, row.get::<_, Vec<u8>>(1)?, floors))
        })?;
        shares
            .map(|share| {
                let (id, pubshare, (block, source, target)) = share?;
                let floors = Floors {
                    block: block.map(from_sql).transpose()?.map(Slot),
                    source: source.map(from_sql).transpose()?.map(Epoch),
                    target: target.map(from_sql).transpose()?.map(Epoch),
                };
                let (blocks, attestations) = (self.blocks(id)?, self.attestations(id)?);
                Ok((
                    id,
                    History::restore(bytes(&pubshare)?, Retention::Complete, floors, blocks, attestations),
                ))
            })
            .collect()
    }

    fn attestations(&self, share: i64) -> Result<Vec<SignedAttestation>, LedgerError> {
        let mut query = self
            .connection
            .prepare_cached("SELECT source, target, signing_root FROM attestations WHERE share = ?1")?;
        let rows = query.query_map([share], |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, row.get::<_, Option<Vec<u8>>>(2)?))
        })?;
        rows.map(|row| {
            let (source, target, root) = row?;
            Ok(SignedAttestation {
                source_epoch: Epoch(from_sql(source)?),
                target_epoch: Epoch(from_sql(target)?),
                signing_root: root.as_deref().map(bytes).transpose()?,
            })
        })
        .collect()
    }

    fn blocks(&self, share: i64) -> Result<Vec<SignedBlock>, LedgerError> {
        let mut query =
            self.connection.prepare_cached("SELECT slot, signing_root FROM blocks WHERE share = ?1")?;
        let rows =
            query.query_map([share], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, Option<Vec<u8>>>(1)?)))?;
        rows.map(|row| {
            let (slot, root) = row?;
            Ok(SignedBlock {
                slot: Slot(from_sql(slot)?),
                signing_root: root.as_deref().map(bytes).transpose()?,
            })
        })
        .collect()
    }
}

/// Writes one attestation; an identical one that is there already stays.
pub(super) fn insert_attestation(
    transaction: &Transaction<'_>,
    share: i64,
    entry: &SignedAttestation,
) -> Result<(), LedgerError> {
    transaction
        .prepare_cached(
            "INSERT OR IGNORE INTO attestations (share, target, source, signing_root) VALUES (?1, ?2, ?3, ?4)",
        )?
        .execute(params![
            share,
            to_sql(entry.target_epoch.0)?,
            to_sql(entry.source_epoch.0)?,
            entry.signing_root.as_ref().map(Root::as_slice)
        ])?;
    Ok(())
}

/// Writes one block; an identical one that is there already stays.
pub(super) fn insert_block(
    transaction: &Transaction<'_>,
    share: i64,
    entry: &SignedBlock,
) -> Result<(), LedgerError> {
    transaction
        .prepare_cached("INSERT OR IGNORE INTO blocks (share, slot, signing_root) VALUES (?1, ?2, ?3)")?
        .execute(params![share, to_sql(entry.slot.0)?, entry.signing_root.as_ref().map(Root::as_slice)])?;
    Ok(())
}

/// Writes the whole history of a share in place of what is stored of it.
pub(super) fn replace_history(
    transaction: &Transaction<'_>,
    share: i64,
    history: &History,
) -> Result<(), LedgerError> {
    let Floors { block, source, target } = history.floors();
    transaction.execute(
        "UPDATE shares SET floor_block = ?2, floor_source = ?3, floor_target = ?4 WHERE id = ?1",
        params![
            share,
            block.map(|slot| to_sql(slot.0)).transpose()?,
            source.map(|epoch| to_sql(epoch.0)).transpose()?,
            target.map(|epoch| to_sql(epoch.0)).transpose()?
        ],
    )?;
    transaction.execute("DELETE FROM attestations WHERE share = ?1", [share])?;
    transaction.execute("DELETE FROM blocks WHERE share = ?1", [share])?;
    for entry in history.attestations() {
        insert_attestation(transaction, share, &entry)?;
    }
    for entry in history.blocks() {
        insert_block(transaction, share, &entry)?;
    }
    Ok(())
}

/// Adds a share and says where it is. One that is there already must be the same in all but its sealed form, unless it
/// did not open: then nothing in its row can be believed but its key, and all of it is written anew.
pub(super) fn insert_share(
    transaction: &Transaction<'_>,
    row: &ShareRow,
    was_damaged: bool,
) -> Result<i64, LedgerError> {
    let known = transaction
        .query_row(
            "SELECT id, group_key, share_index, genesis_validators_root FROM shares WHERE pubshare = ?1",
            [row.pubshare.as_slice()],
            |found| {
                let same = found.get::<_, Vec<u8>>(1)? == row.group_key.as_slice()
                    && found.get::<_, u8>(2)? == row.share_index
                    && found.get::<_, Vec<u8>>(3)? == row.genesis_validators_root.as_slice();
                Ok((found.get::<_, i64>(0)?, same))
            },
        )
        .optional()?;
    if let Some((id, same)) = known
        && !was_damaged
    {
        return if same { Ok(id) } else { Err(LedgerError::Conflict(row.pubshare)) };
    }
    transaction.execute(
        "INSERT INTO shares (pubshare, group_key, share_index, genesis_validators_root, genesis_time, slot_ms,
                             slots_per_epoch, minimal_preset, sealed)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)
         ON CONFLICT (pubshare) DO UPDATE SET group_key = ?2, share_index = ?3, genesis_validators_root = ?4,
             genesis_time = ?5, slot_ms = ?6, slots_per_epoch = ?7, minimal_preset = ?8, sealed = ?9",
        params![
            row.pubshare.as_slice(),
            row.group_key.as_slice(),
            row.share_index,
            row.genesis_validators_root.as_slice(),
            to_sql(row.clock.genesis_time)?,
            to_sql(row.clock.slot_ms)?,
            to_sql(row.clock.slots_per_epoch)?,
            row.clock.preset == ChainPreset::Minimal,
            row.sealed
        ],
    )?;
    Ok(known.map_or_else(|| transaction.last_insert_rowid(), |(id, _)| id))
}

/// Writes the digest of everything known; see [`super::digest`].
pub(super) fn write_digest(transaction: &Transaction<'_>, digest: u64) -> Result<(), LedgerError> {
    write_meta(transaction, "digest", i64::from_le_bytes(digest.to_le_bytes()))
}

/// Writes the counter.
pub(super) fn write_counter(transaction: &Transaction<'_>, value: u64) -> Result<(), LedgerError> {
    write_meta(transaction, "counter", to_sql(value)?)
}

/// From now on another import key is in force. The counter's value is a number that was never used before.
pub(super) fn write_generation(transaction: &Transaction<'_>, counter: u64) -> Result<(), LedgerError> {
    write_meta(transaction, "import_generation", to_sql(counter)?)
}

/// Writes the latest moment at which a vote was recorded.
pub(super) fn write_recorded_at(transaction: &Transaction<'_>, at: u64) -> Result<(), LedgerError> {
    write_meta(transaction, "recorded_at", to_sql(at)?)
}

/// Notes that a run has begun, or has ended in order.
pub(super) fn write_open(transaction: &Transaction<'_>, open: bool) -> Result<(), LedgerError> {
    write_meta(transaction, "open", i64::from(open))
}

fn write_meta(transaction: &Transaction<'_>, name: &str, value: i64) -> Result<(), LedgerError> {
    transaction
        .prepare_cached("INSERT OR REPLACE INTO meta (name, value) VALUES (?1, ?2)")?
        .execute(params![name, value])?;
    Ok(())
}

/// Asks for a write-ahead log and a sync with every commit, and asks again whether that is how it is: SQLite answers with
/// what it could do and calls that no error.
fn make_durable(connection: &Connection) -> Result<(), LedgerError> {
    const SYNCHRONOUS_FULL: i64 = 2;
    let mode: String = connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0))?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    let synchronous: i64 = connection.pragma_query_value(None, "synchronous", |row| row.get(0))?;
    if mode.eq_ignore_ascii_case("wal") && synchronous == SYNCHRONOUS_FULL {
        Ok(())
    } else {
        Err(LedgerError::NotDurable(format!("journal mode {mode}, synchronous {synchronous}")))
    }
}

pub(super) fn to_sql(value: u64) -> Result<i64, LedgerError> {
    i64::try_from(value).map_err(|_| LedgerError::TooLarge(value))
}

pub(super) fn from_sql(value: i64) -> Result<u64, LedgerError> {
    u64::try_from(value).map_err(|_| LedgerError::Damaged(format!("negative number {value}")))
}

pub(super) fn bytes<'a, T: TryFrom<&'a [u8]>>(found: &'a [u8]) -> Result<T, LedgerError> {
    T::try_from(found)
        .map_err(|_| LedgerError::Damaged(format!("{} bytes where a key or root belongs", found.len())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_that_cannot_be_durable_is_not_used() {
        // One in memory takes every pragma without an error and has no log.
        let connection = Connection::open_in_memory().unwrap();
        assert!(matches!(make_durable(&connection), Err(LedgerError::NotDurable(_))));
        let dir = tempfile::tempdir().unwrap();
        let connection = Connection::open(dir.path().join("file.db")).unwrap();
        make_durable(&connection).unwrap();
    }
}
