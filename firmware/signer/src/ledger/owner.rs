//! The owner's rules and confirmed exits, in the same file as everything else that must not be lost. No history is here.
//!
//! The tables are added to ledgers that lack them, and the version of the file stays: the image in the other slot does not
//! know them and can still read all it needs.

use std::collections::BTreeMap;

use chain::{Bytes32, Epoch, ExecutionAddress, ForkVersion, PublicKeyBytes, UnixMillis};
use rusqlite::{Connection, params};

use super::store::{LedgerError, Store, bytes, from_sql, to_sql};
use crate::rules::{Approval, Rules};

const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS rules (
    validator BLOB PRIMARY KEY,
    genesis_fork_version BLOB NOT NULL, capella_fork_version BLOB,
    fee_recipient BLOB NOT NULL, gas_limit INTEGER NOT NULL,
    withdrawal_credentials BLOB
) STRICT;
CREATE TABLE IF NOT EXISTS exits (
    validator BLOB PRIMARY KEY,
    epoch INTEGER NOT NULL, confirmed_at INTEGER NOT NULL, ready_at INTEGER NOT NULL, signed_at INTEGER
) STRICT;
";

/// The owner's rules, by validator.
pub(crate) type AllRules = BTreeMap<PublicKeyBytes, Rules>;
/// The confirmed exits, by validator.
pub(crate) type Approvals = BTreeMap<PublicKeyBytes, Approval>;

/// Adds what a ledger of before lacks.
pub(super) fn create(connection: &Connection) -> Result<(), LedgerError> {
    Ok(connection.execute_batch(SCHEMA)?)
}

impl Store {
    /// Everything the owner has said.
    pub(crate) fn wishes(&self) -> Result<(AllRules, Approvals), LedgerError> {
        Ok((self.rules()?, self.approvals()?))
    }

    fn rules(&self) -> Result<AllRules, LedgerError> {
        let mut query = self.connection().prepare(
            "SELECT validator, genesis_fork_version, capella_fork_version, fee_recipient, gas_limit,
                    withdrawal_credentials FROM rules",
        )?;
        let rows = query.query_map([], |row| {
            Ok((
                row.get::<_, Vec<u8>>(0)?,
                row.get::<_, Vec<u8>>(1)?,
                row.get::<_, Option<Vec<u8>>>(2)?,
                row.get::<_, Vec<u8>>(3)?,
                row.get::<_, i64>(4)?,
                row.get::<_, Option<Vec<u8>>>(5)?,
            ))
        })?;
        rows.map(|row| {
            let (validator, genesis, capella, fee_recipient, gas_limit, credentials) = row?;
            let rules = Rules {
                genesis_fork_version: bytes::<ForkVersion>(&genesis)?,
                capella_fork_version: capella.as_deref().map(bytes).transpose()?,
                fee_recipient: bytes::<ExecutionAddress>(&fee_recipient)?,
                gas_limit: from_sql(gas_limit)?,
                withdrawal_credentials: credentials.as_deref().map(bytes::<Bytes32>).transpose()?,
            };
            Ok((bytes(&validator)?, rules))
        })
        .collect()
    }

    fn approvals(&self) -> Result<Approvals, LedgerError> {
        let mut query = self
            .connection()
            .prepare("SELECT validator, epoch, confirmed_at, ready_at, signed_at FROM exits")?;
        let rows = query.query_map([], |row| {
            Ok((
                row.get::<_, Vec<u8>>(0)?,
                row.get::<_, i64>(1)?,
                row.get::<_, i64>(2)?,
                row.get::<_, i64>(3)?,
                row.get::<_, Option<i64>>(4)?,
            ))
        })?;
        rows.map(|row| {
            let (validator, epoch, confirmed_at, ready_at, signed_at) = row?;
            let approval = Approval {
                epoch: Epoch(from_sql(epoch)?),
                confirmed_at: UnixMillis(from_sql(confirmed_at)?),
                ready_at: UnixMillis(from_sql(ready_at)?),
                signed_at: signed_at.map(from_sql).transpose()?.map(UnixMillis),
            };
            Ok((bytes(&validator)?, approval))
        })
        .collect()
    }

    /// Writes rules in place of those of the same validators.
    pub(crate) fn keep_rules(&mut self, rules: &AllRules) -> Result<(), LedgerError> {
        let transaction = self.begin()?;
        for (validator, rules) in rules {
            transaction
                .prepare_cached("INSERT OR REPLACE INTO rules VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?
                .execute(params![
                    validator.as_slice(),
                    rules.genesis_fork_version.as_slice(),
                    rules.capella_fork_version.as_ref().map(ForkVersion::as_slice),
                    rules.fee_recipient.as_slice(),
                    to_sql(rules.gas_limit)?,
                    rules.withdrawal_credentials.as_ref().map(Bytes32::as_slice),
                ])?;
        }
        Ok(transaction.commit()?)
    }

    /// Writes all confirmed exits in place of those that are there.
    pub(crate) fn keep_approvals(&mut self, approvals: &Approvals) -> Result<(), LedgerError> {
        let transaction = self.begin()?;
        transaction.execute("DELETE FROM exits", [])?;
        for (validator, approval) in approvals {
            transaction.execute(
                "INSERT INTO exits VALUES (?1, ?2, ?3, ?4, ?5)",
                params![
                    validator.as_slice(),
                    to_sql(approval.epoch.0)?,
                    to_sql(approval.confirmed_at.0)?,
                    to_sql(approval.ready_at.0)?,
                    approval.signed_at.map(|at| to_sql(at.0)).transpose()?,
                ],
            )?;
        }
        Ok(transaction.commit()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_owner_said_is_there_after_a_restart_and_in_a_ledger_of_before() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = Store::open(dir.path()).unwrap();
        let key = PublicKeyBytes([5; 48]);
        let rules = Rules {
            genesis_fork_version: ForkVersion([1, 2, 3, 4]),
            capella_fork_version: None,
            fee_recipient: ExecutionAddress([6; 20]),
            gas_limit: 7,
            withdrawal_credentials: Some(Bytes32([8; 32])),
        };
        let approval = Approval {
            epoch: Epoch(1),
            confirmed_at: UnixMillis(2),
            ready_at: UnixMillis(3),
            signed_at: None,
        };
        store.keep_rules(&AllRules::from([(key, rules)])).unwrap();
        store.keep_approvals(&Approvals::from([(key, approval)])).unwrap();
        store.close().unwrap();
        let mut store = Store::open(dir.path()).unwrap();
        assert_eq!(
            store.wishes().unwrap(),
            (AllRules::from([(key, rules)]), Approvals::from([(key, approval)]))
        );
        store.keep_approvals(&Approvals::new()).unwrap();
        assert_eq!(store.wishes().unwrap().1, Approvals::new(), "cancelled");
        store.connection().execute_batch("DROP TABLE rules; DROP TABLE exits").unwrap();
        store.close().unwrap();
        let store = Store::open(dir.path()).unwrap();
        assert_eq!(store.wishes().unwrap(), (AllRules::new(), Approvals::new()));
    }
}
