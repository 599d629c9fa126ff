//! Shares that were seen signing elsewhere: they sign nothing until the owner has decided (decision 0284). No history is here.
//!
//! The table is added to ledgers that lack it, and the version of the file stays: the image in the other slot does not know it
//! and would sign, which is why the floors are raised as well.

use std::collections::{BTreeMap, BTreeSet};

use chain::{Epoch, PublicKeyBytes, UnixMillis};
use rusqlite::{Connection, Transaction, params};
use slashing::{AttestationVote, BlockProposal, History, Origin, SignedAttestation, SignedBlock};

use super::{
    Asked, digest,
    record::{KEEP_EPOCHS, KEEP_SLOTS},
    store::{self, LedgerError, Store, bytes, from_sql, to_sql},
    writer::{Writer, first_target},
};
use crate::{clock, folder::CLOCKS_APART, message::Vote};

const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS stopped (pubshare BLOB PRIMARY KEY, seen_at INTEGER NOT NULL) STRICT;
";

/// The moment at which a share that only rests was seen elsewhere: never.
pub(crate) const RESTS: UnixMillis = UnixMillis(0);

/// The stopped shares, and when each was seen; [`RESTS`] for those that came in to rest.
pub(crate) type Stopped = BTreeMap<PublicKeyBytes, UnixMillis>;

/// What came of the owner's word that a stopped share may go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Resumed {
    /// It votes from this epoch on, if from any.
    GoesOn(Option<Epoch>),
    /// It was not stopped.
    NotStopped,
    /// It is stopped since another moment than the owner knew of: it stays so.
    StoppedAnew,
}

/// Adds what a ledger of before lacks.
pub(super) fn create(connection: &Connection) -> Result<(), LedgerError> {
    Ok(connection.execute_batch(SCHEMA)?)
}

impl Store {
    /// The stopped shares.
    pub(super) fn stopped(&self) -> Result<Stopped, LedgerError> {
        let mut query = self.connection().prepare("SELECT pubshare, seen_at FROM stopped")?;
        let rows = query.query_map([], |row| Ok((row.get::<_, Vec<u8>>(0)?, row.get::<_, i64>(1)?)))?;
        rows.map(|row| {
            let (key, seen_at) = row?;
            Ok((bytes(&key)?, UnixMillis(from_sql(seen_at)?)))
        })
        .collect()
    }
}

/// Stops a share. One that was seen elsewhere already stays so since then; one that only rests is seen from now on.
pub(super) fn stop(
    transaction: &Transaction<'_>,
    key: &PublicKeyBytes,
    now: UnixMillis,
) -> Result<(), LedgerError> {
    transaction.execute(
        "INSERT INTO stopped (pubshare, seen_at) VALUES (?1, ?2)
         ON CONFLICT (pubshare) DO UPDATE SET seen_at = ?2 WHERE seen_at = ?3",
        params![key.as_slice(), to_sql(now.0)?, to_sql(RESTS.0)?],
    )?;
    Ok(())
}

/// Who made this signature of the share with this history.
fn origin_of(history: &History, asked: &Asked) -> Origin {
    let signing_root = asked.message.signing_root;
    match asked.message.vote {
        Vote::Attestation { source, target } => {
            let vote = AttestationVote { source, target, signing_root };
            slashing::origin_of_attestation(history, &vote, KEEP_EPOCHS)
        }
        Vote::Block { slot } => {
            let block = BlockProposal { slot, signing_root };
            slashing::origin_of_block(history, &block, KEEP_SLOTS)
        }
        Vote::None => Origin::Unknowable,
    }
}

/// Whether the floors leave it open.
fn is_above(history: &History, asked: &Asked) -> bool {
    let floors = history.floors();
    match asked.message.vote {
        Vote::Attestation { target, .. } => Some(target) > floors.target,
        Vote::Block { slot } => Some(slot) > floors.block,
        Vote::None => false,
    }
}

impl Writer {
    /// Judges valid signatures of shares that are held here; their signers are known to have had the share. Stops, for good,
    /// those that this ledger did not record, and gives their keys.
    pub(super) fn seen(
        &mut self,
        votes: &[Asked],
        now: UnixMillis,
    ) -> Result<Vec<PublicKeyBytes>, LedgerError> {
        let outcome = self.try_seen(votes, now);
        if outcome.is_err() {
            self.recover();
        }
        outcome
    }

    fn try_seen(&mut self, votes: &[Asked], now: UnixMillis) -> Result<Vec<PublicKeyBytes>, LedgerError> {
        self.ensure_certain()?;
        self.keep_stops()?;
        let mut stopped = Vec::new();
        for asked in votes {
            let Some((_, _, history)) = self.held(&asked.key) else { continue };
            match origin_of(&history, asked) {
                Origin::Elsewhere => self.stop_for(asked, now)?,
                Origin::Here | Origin::Unknowable => continue,
            }
            if !stopped.contains(&asked.key) {
                stopped.push(asked.key);
            }
        }
        Ok(stopped)
    }

    /// Judges valid signatures that members remember from before this box started (decision 0375). One above everything that this
    /// ledger knows, its floors included, proves that the ledger is an old copy or that the share has another signer: it is
    /// stopped, and every share of this ledger waits as where nothing vouches for its age. What lies below the floors an earlier
    /// holder may have signed, and nothing that is signed from now on can conflict with it.
    pub(super) fn remembered(
        &mut self,
        votes: &[Asked],
        now: UnixMillis,
    ) -> Result<Vec<PublicKeyBytes>, LedgerError> {
        let outcome = self.try_remembered(votes, now);
        if outcome.is_err() {
            self.recover();
        }
        outcome
    }

    fn try_remembered(
        &mut self,
        votes: &[Asked],
        now: UnixMillis,
    ) -> Result<Vec<PublicKeyBytes>, LedgerError> {
        self.ensure_certain()?;
        self.keep_stops()?;
        let is_proof = |asked: &&Asked| {
            let Some((_, _, history)) = self.held(&asked.key) else { return false };
            is_above(&history, asked) && origin_of(&history, asked) == Origin::Elsewhere
        };
        let proofs: Vec<Asked> = votes.iter().filter(is_proof).cloned().collect();
        if proofs.is_empty() {
            return Ok(Vec::new());
        }
        for asked in &proofs {
            self.stop_in_memory(asked, now);
        }
        self.owe_floors(now);
        self.keep_stops()?;
        let stopped: BTreeSet<_> = proofs.iter().map(|asked| asked.key).collect();
        Ok(stopped.into_iter().collect())
    }

    /// In memory at once, so that nothing is signed while the disk is full; on the disk before this returns, or else before the
    /// next vote of any share is recorded.
    fn stop_for(&mut self, asked: &Asked, now: UnixMillis) -> Result<(), LedgerError> {
        self.stop_in_memory(asked, now);
        self.keep_stops()
    }

    /// Puts on the disk what could not be put there before. The floors come first: a stop is then never all that is left of a proof.
    pub(super) fn keep_stops(&mut self) -> Result<(), LedgerError> {
        self.settle_floors()?;
        while let Some((asked, now)) = self.first_unkept_stop() {
            self.keep_stop(&asked, now)?;
            self.forget_unkept_stop(&asked.key);
        }
        Ok(())
    }

    /// What was signed elsewhere binds this share from now on, whatever the owner decides.
    fn keep_stop(&mut self, asked: &Asked, now: UnixMillis) -> Result<(), LedgerError> {
        let Some((id, _, history)) = self.held(&asked.key) else { return Ok(()) };
        let mut bound = history.clone();
        match asked.message.vote {
            Vote::Attestation { source, target } => bound.adopt(
                [],
                [SignedAttestation { source_epoch: source, target_epoch: target, signing_root: None }],
            ),
            Vote::Block { slot } => bound.adopt([SignedBlock { slot, signing_root: None }], []),
            Vote::None => {}
        }
        let change = digest::of_history(&bound).wrapping_sub(digest::of_history(&history));
        let digest = self.digest().wrapping_add(change);
        let transaction = self.store_mut().begin()?;
        stop(&transaction, &asked.key, now)?;
        store::replace_history(&transaction, id, &bound)?;
        store::write_digest(&transaction, digest)?;
        transaction.commit()?;
        self.read_back()
    }

    /// The owner has decided: the share that is stopped since `shown` goes on above everything that can have been signed by now.
    pub(super) fn resume(
        &mut self,
        key: &PublicKeyBytes,
        shown: UnixMillis,
        now: UnixMillis,
    ) -> Result<Resumed, LedgerError> {
        let outcome = self.try_resume(key, shown, now);
        if outcome.is_err() {
            self.recover();
        }
        outcome
    }

    fn try_resume(
        &mut self,
        key: &PublicKeyBytes,
        shown: UnixMillis,
        now: UnixMillis,
    ) -> Result<Resumed, LedgerError> {
        self.ensure_certain()?;
        self.keep_stops()?;
        let Some((id, clock, history)) = self.held(key) else { return Ok(Resumed::NotStopped) };
        match self.store().stopped()?.get(key) {
            None => return Ok(Resumed::NotStopped),
            Some(stopped) if *stopped != shown => return Ok(Resumed::StoppedAnew),
            Some(_) => {}
        }
        // By the clock of what else signed with it, which may have been another.
        let now = clock::epochs_later(&clock, self.no_earlier_than_recorded(now), CLOCKS_APART);
        let mut raised = history.clone();
        if let Some(floors) = clock::floors_at(&clock, now, history.last_known().target) {
            raised.raise(floors);
        }
        let change = digest::of_history(&raised).wrapping_sub(digest::of_history(&history));
        let digest = self.digest().wrapping_add(change);
        let transaction = self.store_mut().begin()?;
        transaction.execute("DELETE FROM stopped WHERE pubshare = ?1", [key.as_slice()])?;
        store::replace_history(&transaction, id, &raised)?;
        store::write_digest(&transaction, digest)?;
        transaction.commit()?;
        self.read_back()?;
        Ok(Resumed::GoesOn(first_target(&raised)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        ledger::{Import, ShareRow},
        message::{Asks, Kind, Message},
        metrics::Metrics,
    };
    use chain::Root;
    use ipc::signer::{ChainClock, ChainPreset};

    const CLOCK: ChainClock =
        ChainClock { genesis_time: 1000, slot_ms: 2000, slots_per_epoch: 8, preset: ChainPreset::Mainnet };

    fn key(number: u8) -> PublicKeyBytes {
        PublicKeyBytes([number; 48])
    }

    fn at_epoch(epoch: u64) -> UnixMillis {
        UnixMillis(1_000_000 + epoch * 8 * 2000 + 1)
    }

    fn writer(dir: &std::path::Path, counter: u64, now: UnixMillis) -> Writer {
        let mut writer = Writer::new(Store::open(dir).unwrap(), Metrics::default());
        writer.reload().unwrap();
        writer.begin_run(counter, crate::ledger::Past::Known, now).unwrap();
        writer
    }

    fn import(number: u8) -> Import {
        let row = ShareRow {
            pubshare: key(number),
            group_key: key(number + 100),
            share_index: 1,
            genesis_validators_root: Root([9; 32]),
            clock: CLOCK,
            sealed: vec![number],
        };
        Import { row, history: (vec![], vec![]), was_damaged: false, more_epochs: 0, stopped: None }
    }

    fn vote(number: u8, source: u64, target: u64, root: u8) -> Asked {
        let vote = Vote::Attestation { source: Epoch(source), target: Epoch(target) };
        let signing_root = Root([root; 32]);
        let message =
            Message { kind: Kind::Attestation, signing_root, epoch: Epoch(target), vote, asks: Asks::Duty };
        Asked { key: key(number), message }
    }

    fn signs(writer: &mut Writer, asked: &Asked, now: UnixMillis) -> bool {
        writer.record_all(&[asked], now).unwrap()[0].is_ok()
    }

    #[test]
    fn a_share_that_was_seen_elsewhere_stays_stopped_over_restarts_until_the_owner_decides() {
        let dir = tempfile::tempdir().unwrap();
        let mut first = writer(dir.path(), 1, UnixMillis(5));
        first.import(&[import(1), import(2)], UnixMillis(5)).unwrap();
        assert!(signs(&mut first, &vote(1, 2, 3, 1), at_epoch(3)));
        // Our own, heard again, and one of a share that is not here: nothing happens.
        assert_eq!(first.seen(&[vote(1, 2, 3, 1), vote(7, 2, 3, 9)], at_epoch(3)).unwrap(), []);
        assert!(signs(&mut first, &vote(1, 3, 4, 1), at_epoch(4)));
        // One that was not recorded here.
        assert_eq!(first.seen(&[vote(1, 4, 5, 8)], at_epoch(5)).unwrap(), [key(1)]);
        assert!(!signs(&mut first, &vote(1, 3, 4, 1), at_epoch(5)), "not even the same again");
        assert!(!signs(&mut first, &vote(1, 5, 6, 1), at_epoch(6)));
        assert!(signs(&mut first, &vote(2, 5, 6, 1), at_epoch(6)), "the other share goes on");
        drop(first);
        let mut second = writer(dir.path(), 3, at_epoch(6));
        assert!(!signs(&mut second, &vote(1, 19, 20, 1), at_epoch(20)));
        // The owner decides: it waits for two epochs, and for one more by another's clock, and what was seen binds it.
        assert_eq!(second.resume(&key(2), at_epoch(5), at_epoch(20)).unwrap(), Resumed::NotStopped);
        let goes_on = second.resume(&key(1), at_epoch(5), at_epoch(20)).unwrap();
        assert_eq!(goes_on, Resumed::GoesOn(Some(Epoch(23))));
        assert!(!signs(&mut second, &vote(1, 21, 22, 1), at_epoch(22)));
        assert!(signs(&mut second, &vote(1, 22, 23, 1), at_epoch(23)));
        // Seen once more, it stops once more.
        assert_eq!(second.seen(&[vote(1, 20, 21, 8)], at_epoch(23)).unwrap(), [key(1)]);
        assert!(!signs(&mut second, &vote(1, 23, 24, 1), at_epoch(24)));
        second.reload().unwrap();
        assert!(!signs(&mut second, &vote(1, 23, 24, 1), at_epoch(24)));
    }

    #[test]
    fn what_members_remember_above_the_floors_stops_its_share_and_makes_all_wait() {
        let dir = tempfile::tempdir().unwrap();
        let mut first = writer(dir.path(), 1, UnixMillis(5));
        first.import(&[import(1), import(2)], UnixMillis(5)).unwrap();
        assert!(signs(&mut first, &vote(1, 2, 3, 1), at_epoch(3)));
        // Our own, and those of shares that are not here.
        assert_eq!(first.remembered(&[vote(1, 2, 3, 1), vote(7, 2, 3, 9)], at_epoch(4)).unwrap(), []);
        assert!(signs(&mut first, &vote(2, 3, 4, 1), at_epoch(4)), "nobody waits");
        // One that was forgotten, or made by another one.
        assert_eq!(first.remembered(&[vote(1, 9, 10, 1)], at_epoch(10)).unwrap(), [key(1)]);
        drop(first);
        let mut second = writer(dir.path(), 3, at_epoch(10));
        assert!(!signs(&mut second, &vote(1, 19, 20, 1), at_epoch(20)), "stopped for good");
        for target in 10..=12 {
            assert!(!signs(&mut second, &vote(2, target - 1, target, 1), at_epoch(target)));
        }
        assert!(signs(&mut second, &vote(2, 12, 13, 1), at_epoch(13)));
        // The owner lets it go on: what is remembered from before it is no news.
        second.resume(&key(1), at_epoch(10), at_epoch(13)).unwrap();
        assert_eq!(second.remembered(&[vote(1, 10, 11, 1)], at_epoch(14)).unwrap(), []);
    }

    #[test]
    fn what_an_earlier_holder_signed_below_the_floors_stops_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = writer(dir.path(), 1, at_epoch(10));
        // Never signed here: its floors lie above the clock.
        writer.import(&[import(1)], at_epoch(10)).unwrap();
        assert_eq!(writer.remembered(&[vote(1, 8, 9, 1), vote(1, 9, 10, 1)], at_epoch(10)).unwrap(), []);
        assert!(signs(&mut writer, &vote(1, 11, 12, 1), at_epoch(12)));
        assert_eq!(writer.remembered(&[vote(1, 12, 13, 1)], at_epoch(13)).unwrap(), [key(1)]);
    }

    #[test]
    fn what_was_seen_elsewhere_binds_a_share_that_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = writer(dir.path(), 1, UnixMillis(5));
        writer.import(&[import(1)], UnixMillis(5)).unwrap();
        assert!(signs(&mut writer, &vote(1, 2, 3, 1), at_epoch(3)));
        // Whoever has the share signed four epochs ahead of us, beyond the floors of one that goes on.
        assert_eq!(writer.seen(&[vote(1, 6, 7, 8)], at_epoch(3)).unwrap(), [key(1)]);
        writer.resume(&key(1), at_epoch(3), at_epoch(3)).unwrap();
        assert!(!signs(&mut writer, &vote(1, 5, 6, 1), at_epoch(6)));
        assert!(!signs(&mut writer, &vote(1, 6, 7, 1), at_epoch(7)), "the same target");
        assert!(signs(&mut writer, &vote(1, 7, 8, 1), at_epoch(8)));
    }

    #[test]
    fn a_share_that_rests_is_an_alarm_from_the_moment_it_is_seen_and_stays_one() {
        let dir = tempfile::tempdir().unwrap();
        let resting = |number| Import { stopped: Some(RESTS), ..import(number) };
        let mut first = writer(dir.path(), 1, UnixMillis(5));
        first.import(&[resting(1), resting(2)], UnixMillis(5)).unwrap();
        assert_eq!(first.seen(&[vote(1, 4, 5, 8)], at_epoch(5)).unwrap(), [key(1)]);
        assert_eq!((first.stopped_at(&key(1)), first.stopped_at(&key(2))), (Some(at_epoch(5)), Some(RESTS)));
        assert_eq!(first.seen(&[vote(1, 5, 6, 8)], at_epoch(6)).unwrap(), [key(1)]);
        // What another box or a backup knows counts as much; to come in to rest once more does not.
        let seen = Import { stopped: Some(at_epoch(4)), ..import(2) };
        let counter = first.import(&[seen, resting(1)], at_epoch(7)).unwrap().counter;
        drop(first);
        let mut second = writer(dir.path(), counter + 1, at_epoch(8));
        assert_eq!(
            (second.stopped_at(&key(1)), second.stopped_at(&key(2))),
            (Some(at_epoch(5)), Some(at_epoch(4)))
        );
        // What was seen binds the one that goes on.
        second.resume(&key(1), at_epoch(5), at_epoch(2)).unwrap();
        assert!(!signs(&mut second, &vote(1, 4, 5, 1), at_epoch(5)));
    }

    #[test]
    fn the_owner_s_word_lifts_what_the_owner_was_shown_and_no_alarm_that_came_since() {
        let dir = tempfile::tempdir().unwrap();
        let mut first = writer(dir.path(), 1, UnixMillis(5));
        let resting = Import { stopped: Some(RESTS), ..import(1) };
        first.import(&[resting], UnixMillis(5)).unwrap();
        assert_eq!(first.seen(&[vote(1, 4, 5, 8)], at_epoch(5)).unwrap(), [key(1)]);
        for shown in [RESTS, at_epoch(4)] {
            assert_eq!(first.resume(&key(1), shown, at_epoch(20)).unwrap(), Resumed::StoppedAnew);
            assert!(!signs(&mut first, &vote(1, 22, 23, 1), at_epoch(23)));
        }
        drop(first);
        let mut second = writer(dir.path(), 3, at_epoch(23));
        assert_eq!(second.stopped_at(&key(1)), Some(at_epoch(5)), "on the disk, too");
        assert!(matches!(second.resume(&key(1), at_epoch(5), at_epoch(23)).unwrap(), Resumed::GoesOn(_)));
    }

    #[test]
    fn a_block_that_was_signed_elsewhere_stops_the_share_and_binds_it() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = writer(dir.path(), 1, UnixMillis(5));
        writer.import(&[import(1)], UnixMillis(5)).unwrap();
        let block = |slot, root| {
            let mut asked = vote(1, 0, 0, root);
            (asked.message.kind, asked.message.vote) = (Kind::Block, Vote::Block { slot: chain::Slot(slot) });
            asked
        };
        assert!(signs(&mut writer, &block(24, 1), at_epoch(3)));
        assert_eq!(writer.seen(&[block(24, 1)], at_epoch(3)).unwrap(), [], "our own");
        assert_eq!(writer.seen(&[block(60, 8)], at_epoch(3)).unwrap(), [key(1)]);
        assert!(!signs(&mut writer, &block(25, 1), at_epoch(3)));
        // Beyond what the clock alone makes it wait for.
        writer.resume(&key(1), at_epoch(3), at_epoch(3)).unwrap();
        assert!(!signs(&mut writer, &block(60, 1), at_epoch(7)), "what was seen binds it");
        assert!(signs(&mut writer, &block(61, 1), at_epoch(7)));
    }

    #[test]
    fn a_stop_that_the_full_disk_did_not_take_holds_and_is_kept_when_there_is_room() {
        let dir = tempfile::tempdir().unwrap();
        let mut first = writer(dir.path(), 1, UnixMillis(5));
        first.import(&[import(1), import(2)], UnixMillis(5)).unwrap();
        assert!(signs(&mut first, &vote(1, 2, 3, 1), at_epoch(3)));
        let full = |writer: &Writer, is_full: bool| {
            writer.store().connection().pragma_update(None, "query_only", is_full).unwrap();
        };
        full(&first, true);
        assert!(first.seen(&[vote(1, 4, 5, 8)], at_epoch(5)).is_err());
        assert!(first.record_all(&[&vote(2, 4, 5, 1)], at_epoch(5)).is_err(), "no share before it is kept");
        full(&first, false);
        assert!(!signs(&mut first, &vote(1, 6, 7, 1), at_epoch(7)));
        assert!(signs(&mut first, &vote(2, 6, 7, 1), at_epoch(7)));
        drop(first);
        let mut second = writer(dir.path(), 3, at_epoch(7));
        assert!(!signs(&mut second, &vote(1, 19, 20, 1), at_epoch(20)));
    }

    #[test]
    fn floors_that_the_full_disk_did_not_take_are_owed_and_nothing_is_signed_before_they_are_there() {
        let full = |writer: &Writer, is_full: bool| {
            writer.store().connection().pragma_update(None, "query_only", is_full).unwrap();
        };
        for ends_in_order in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let mut first = writer(dir.path(), 1, UnixMillis(5));
            first.import(&[import(1), import(2)], UnixMillis(5)).unwrap();
            assert!(signs(&mut first, &vote(1, 2, 3, 1), at_epoch(3)));
            full(&first, true);
            assert!(first.remembered(&[vote(1, 9, 10, 1)], at_epoch(10)).is_err());
            assert!(
                first.record_all(&[&vote(2, 9, 10, 1)], at_epoch(10)).is_err(),
                "no share before it is kept"
            );
            // A backup and a change of the cluster ask for it too, and take nothing of it for kept.
            assert!(first.watermarks().is_err() && first.prepare(&[]).is_err());
            full(&first, false);
            if ends_in_order {
                first.close().unwrap();
            } else {
                assert!(!signs(&mut first, &vote(2, 11, 12, 1), at_epoch(12)), "the floors are there first");
                first.reload().expect("the disk holds what its own sum says");
                drop(first);
            }
            let mut second = writer(dir.path(), 3, at_epoch(12));
            assert!(!signs(&mut second, &vote(1, 19, 20, 1), at_epoch(20)), "stopped for good");
            assert!(!signs(&mut second, &vote(2, 11, 12, 1), at_epoch(12)));
            assert!(signs(&mut second, &vote(2, 14, 15, 1), at_epoch(15)));
        }
    }

    #[test]
    fn a_stopped_share_that_is_deleted_and_imported_again_stays_stopped() {
        let dir = tempfile::tempdir().unwrap();
        let mut first = writer(dir.path(), 1, UnixMillis(5));
        first.import(&[import(1)], UnixMillis(5)).unwrap();
        assert_eq!(first.seen(&[vote(1, 2, 3, 8)], at_epoch(3)).unwrap(), [key(1)]);
        let counter = first.delete(&[key(1)]).unwrap();
        first.import(&[import(1)], at_epoch(4)).unwrap();
        assert!(!signs(&mut first, &vote(1, 19, 20, 1), at_epoch(20)));
        drop(first);
        let mut second = writer(dir.path(), counter + 2, at_epoch(20));
        assert!(!signs(&mut second, &vote(1, 29, 30, 1), at_epoch(30)));
        let goes_on = second.resume(&key(1), at_epoch(3), at_epoch(30)).unwrap();
        assert!(matches!(goes_on, Resumed::GoesOn(Some(_))), "only the owner lets it go on");
        assert!(!signs(&mut second, &vote(1, 31, 32, 1), at_epoch(32)));
        assert!(signs(&mut second, &vote(1, 32, 33, 1), at_epoch(33)));
    }

    #[test]
    fn a_share_that_was_stopped_where_it_comes_from_is_stopped_here() {
        let dir = tempfile::tempdir().unwrap();
        let mut first = writer(dir.path(), 1, UnixMillis(5));
        let stopped = |number| Import { stopped: Some(at_epoch(2)), ..import(number) };
        first.import(&[stopped(1), import(2)], UnixMillis(5)).unwrap();
        assert!(!signs(&mut first, &vote(1, 5, 6, 1), at_epoch(6)));
        assert!(signs(&mut first, &vote(2, 5, 6, 1), at_epoch(6)));
        // Also one that was here already.
        first.import(&[stopped(2)], at_epoch(6)).unwrap();
        assert!(!signs(&mut first, &vote(2, 6, 7, 1), at_epoch(7)));
        drop(first);
        let mut second = writer(dir.path(), 4, at_epoch(7));
        for number in [1, 2] {
            assert!(!signs(&mut second, &vote(number, 19, 20, 1), at_epoch(20)));
        }
    }
}
