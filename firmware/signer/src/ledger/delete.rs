//! Giving a share up while all that is known of it stays.
//!
//! A deleted share's row keeps its public facts and its history; only the sealed secret is overwritten with nothing, which is
//! also what marks it. So its history goes on binding the validator's other shares, comes out in every export, and is there
//! again when the same share is imported once more. Older software sees a share that does not open, and signs nothing with it.

use chain::{PublicKeyBytes, Root};
use rusqlite::params;
use slashing::History;

use super::store::{self, LedgerError};
use super::writer::Writer;

impl Writer {
    /// Destroys the secrets of these shares. From here on nothing is recorded for them, so a request that was under way is
    /// refused. Gives the counter that the TPM must be brought to: no copy of the disk from before may bring one back.
    pub(super) fn delete(&mut self, keys: &[PublicKeyBytes]) -> Result<u64, LedgerError> {
        let outcome = self.try_delete(keys);
        self.read_back()?;
        outcome
    }

    fn try_delete(&mut self, keys: &[PublicKeyBytes]) -> Result<u64, LedgerError> {
        self.ensure_certain()?;
        // A share in the middle of being replaced is needed to bring that to its end.
        if let Some(pending) = self
            .store()
            .pending()?
            .into_iter()
            .find(|pending| pending.replaces.is_some_and(|old| keys.contains(&old)))
        {
            return Err(LedgerError::Frozen(pending.row.group_key));
        }
        let counter = self.next_counter()?;
        let transaction = self.store_mut().begin()?;
        for key in keys {
            transaction.execute(
                "UPDATE shares SET sealed = zeroblob(0) WHERE pubshare = ?1",
                params![key.as_slice()],
            )?;
        }
        // What was sealed for this box until now and is still around must not bring one back either.
        store::write_generation(&transaction, counter)?;
        store::write_counter(&transaction, counter)?;
        transaction.commit()?;
        self.store().forget_log();
        Ok(counter)
    }

    /// All that is known of every share, deleted ones as well, with its chain.
    pub(super) fn all_histories(&mut self) -> Result<Vec<(Root, History)>, LedgerError> {
        self.ensure_certain()?;
        Ok(self.known_histories().map(|(root, history)| (root, history.clone())).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Import, ShareRow, store::Store, tests::is_on_disk};
    use super::*;
    use crate::{
        ledger::Asked,
        message::{Asks, Kind, Message, Vote},
        metrics::Metrics,
    };
    use chain::{Epoch, UnixMillis};
    use ipc::signer::{ChainClock, ChainPreset};
    use std::path::Path;

    const CLOCK: ChainClock =
        ChainClock { genesis_time: 1000, slot_ms: 2000, slots_per_epoch: 8, preset: ChainPreset::Mainnet };

    fn at_epoch(epoch: u64) -> UnixMillis {
        UnixMillis(1_000_000 + epoch * 8 * 2000 + 1)
    }

    fn key(number: u8) -> PublicKeyBytes {
        PublicKeyBytes([number; 48])
    }

    fn share(number: u8, group: u8) -> Import {
        let row = ShareRow {
            pubshare: key(number),
            group_key: key(group),
            share_index: 1,
            genesis_validators_root: Root([9; 32]),
            clock: CLOCK,
            sealed: vec![number; 72],
        };
        Import { row, history: (vec![], vec![]), was_damaged: false, more_epochs: 0, stopped: None }
    }

    fn run(dir: &Path, counter: u64) -> Writer {
        let mut writer = Writer::new(Store::open(dir).unwrap(), Metrics::default());
        writer.reload().unwrap();
        writer.begin_run(counter, crate::ledger::Past::Known, UnixMillis(5)).unwrap();
        writer
    }

    fn attest(writer: &mut Writer, number: u8, source: u64, target: u64, root: u8) -> bool {
        let message = Message {
            kind: Kind::Attestation,
            signing_root: Root([root; 32]),
            epoch: Epoch(target),
            vote: Vote::Attestation { source: Epoch(source), target: Epoch(target) },
            asks: Asks::Duty,
        };
        writer
            .record_all(&[&Asked { key: key(number), message }], UnixMillis(5))
            .unwrap()
            .pop()
            .unwrap()
            .is_ok()
    }

    #[test]
    fn a_deleted_share_signs_nothing_and_its_history_stays() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = run(dir.path(), 1);
        writer.import(&[share(1, 100), share(2, 101)], UnixMillis(5)).unwrap();
        assert!(attest(&mut writer, 1, 3, 4, 1));
        writer.store().forget_log(); // Into the file itself.
        assert!(is_on_disk(dir.path(), 1));
        let counter = writer.delete(&[key(1)]).unwrap();
        assert_eq!(counter, 3);
        assert!(!is_on_disk(dir.path(), 1) && is_on_disk(dir.path(), 2), "while it runs, too");
        assert!(!attest(&mut writer, 1, 4, 5, 1), "what was under way is refused");
        assert!(attest(&mut writer, 2, 4, 5, 1));
        assert_eq!(writer.store().rows().unwrap().len(), 1);
        assert_eq!(writer.store().deleted_rows().unwrap().len(), 1);
        drop(writer);
        assert!(!is_on_disk(dir.path(), 1), "its secret is overwritten");

        let mut writer = run(dir.path(), counter + 1);
        assert!(!attest(&mut writer, 1, 5, 6, 1));
        let known = writer.all_histories().unwrap();
        let history = &known.iter().find(|(_, history)| history.key() == key(1)).unwrap().1;
        assert_eq!(history.attestations().map(|vote| vote.target_epoch.0).collect::<Vec<_>>(), [4]);
        // It binds another share of the same validator.
        writer.import(&[share(3, 100)], UnixMillis(5)).unwrap();
        assert!(!attest(&mut writer, 3, 2, 5, 9), "surrounds what the deleted share signed");
    }

    #[test]
    fn a_share_that_comes_back_has_its_history_and_begins_above_the_clock() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = run(dir.path(), 1);
        writer.import(&[share(1, 100)], UnixMillis(5)).unwrap();
        assert!(attest(&mut writer, 1, 3, 4, 1));
        writer.delete(&[key(1)]).unwrap();
        let other_validator =
            Import { row: ShareRow { group_key: key(7), ..share(1, 100).row }, ..share(1, 100) };
        assert!(matches!(writer.import(&[other_validator], at_epoch(10)), Err(LedgerError::Conflict(_))));
        let imported = writer.import(&[share(1, 100)], at_epoch(10)).unwrap();
        assert_eq!(imported.resuming.get(&key(1)), Some(&Epoch(12)));
        assert!(!attest(&mut writer, 1, 10, 11, 1));
        assert!(attest(&mut writer, 1, 11, 12, 1));
        assert!(writer.store().deleted_rows().unwrap().is_empty());
        assert_eq!(writer.store().rows().unwrap()[0].sealed, vec![1; 72]);
        let (_, history) = &writer.all_histories().unwrap()[0];
        assert_eq!(history.attestations().map(|vote| vote.target_epoch.0).collect::<Vec<_>>(), [4, 12]);
    }
}
