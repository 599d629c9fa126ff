//! The thread that owns the database: check, record, commit, and only then answer.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use chain::{Epoch, PublicKeyBytes, Slot};
use ipc::signer::LastSigned;
use rusqlite::Transaction;
use slashing::{AttestationVote, BlockProposal, Floors, History, Retention};
use tokio::sync::{mpsc, oneshot};

use super::{Clearance, Entries, Import, Job, LedgerError, digest, store, store::Store};
use crate::{
    message::{Message, Vote},
    metrics::Metrics,
    refusal::Refusal,
};

/// Votes committed together at most; more only makes the first wait longer.
const MAX_BATCH: usize = 512;
/// Details are kept for about a day of epochs; the floors stand for everything older.
const KEEP_EPOCHS: u64 = 256;
const KEEP_SLOTS: u64 = KEEP_EPOCHS * 32;
/// Old details are dropped when a share's target reaches a multiple of this.
const PRUNE_EVERY_EPOCHS: u64 = 64;

pub(super) fn start(store: Store, queue: mpsc::Receiver<Job>, metrics: Metrics) -> Result<(), LedgerError> {
    let mut writer = Writer { store, shares: BTreeMap::new(), digest: 0, doubtful: false, metrics };
    writer.reload()?;
    std::thread::Builder::new()
        .name("ledger".to_owned())
        .spawn(move || writer.run(queue))
        .map_err(|source| LedgerError::Io { path: "the ledger's thread".into(), source })?;
    Ok(())
}

struct Writer {
    store: Store,
    /// Row number and history of each share: what the database holds, after every commit.
    shares: BTreeMap<PublicKeyBytes, (i64, History)>,
    /// The digest of all histories, as the database has it.
    digest: u64,
    /// A write failed and the histories could not be read back yet. Nothing is cleared meanwhile.
    doubtful: bool,
    metrics: Metrics,
}

struct Waiting {
    key: PublicKeyBytes,
    message: Message,
    reply: oneshot::Sender<Result<Clearance, Refusal>>,
}

impl Writer {
    fn run(mut self, mut queue: mpsc::Receiver<Job>) {
        let mut next = queue.blocking_recv();
        while let Some(job) = next.take() {
            match job {
                Job::Record { key, message, reply } => {
                    let mut batch = vec![Waiting { key, message, reply }];
                    while batch.len() < MAX_BATCH {
                        match queue.try_recv() {
                            Ok(Job::Record { key, message, reply }) => {
                                batch.push(Waiting { key, message, reply })
                            }
                            Ok(other) => {
                                next = Some(other);
                                break;
                            }
                            Err(_) => break,
                        }
                    }
                    self.clear_together(batch);
                }
                Job::Import { shares, counter, reply } => {
                    let outcome = self.import(&shares, counter);
                    // The caller may have gone; what is stored stays stored.
                    let _ = reply.send(outcome);
                }
                Job::SetCounter { value, reply } => {
                    let _ = reply.send(self.set_counter(value));
                }
                Job::Marks { reply } => {
                    let _ = reply.send(self.marks());
                }
                Job::Ping { reply } => {
                    let _ = reply.send(());
                }
                Job::Close { reply } => {
                    let _ = reply.send(self.store.close());
                    return;
                }
            }
            if next.is_none() {
                next = queue.blocking_recv();
            }
        }
    }

    /// Checks a batch against the rules and commits its records. Nobody gets a clearance before the commit.
    fn clear_together(&mut self, batch: Vec<Waiting>) {
        let begun = Instant::now();
        let verdicts = self.record_all(&batch);
        self.metrics.committed(begun.elapsed(), batch.len(), verdicts.is_ok());
        match verdicts {
            Ok(verdicts) => {
                for (waiting, verdict) in batch.into_iter().zip(verdicts) {
                    let cleared = verdict
                        .map(|()| Clearance { key: waiting.key, signing_root: waiting.message.signing_root });
                    let _ = waiting.reply.send(cleared);
                }
            }
            Err(error) => {
                let reason = error.to_string();
                tracing::error!(error = %reason, votes = batch.len(), "votes could not be recorded: not signed");
                for waiting in batch {
                    let _ = waiting.reply.send(Err(Refusal::NotDurable(reason.clone())));
                }
                self.recover();
            }
        }
    }

    fn record_all(&mut self, batch: &[Waiting]) -> Result<Vec<Result<(), Refusal>>, LedgerError> {
        if self.doubtful {
            self.reload()?;
        }
        let transaction = self.store.begin()?;
        let mut verdicts = Vec::with_capacity(batch.len());
        let mut digest = self.digest;
        for waiting in batch {
            let verdict = match self.shares.get_mut(&waiting.key) {
                Some((id, history)) => {
                    let before = digest::of_floors(history);
                    let (verdict, added) = record(&transaction, *id, history, &waiting.message)?;
                    let after = digest::of_floors(history);
                    digest = digest.wrapping_sub(before).wrapping_add(after).wrapping_add(added);
                    verdict
                }
                None => Err(Refusal::UnknownKey(waiting.key.to_string())),
            };
            verdicts.push(verdict);
        }
        if digest != self.digest {
            store::write_digest(&transaction, digest)?;
        }
        transaction.commit()?;
        self.digest = digest;
        Ok(verdicts)
    }

    fn import(&mut self, shares: &[Import], counter: Option<u64>) -> Result<(), LedgerError> {
        let outcome = self.try_import(shares, counter);
        if outcome.is_err() {
            self.recover();
        }
        outcome
    }

    fn try_import(&mut self, shares: &[Import], counter: Option<u64>) -> Result<(), LedgerError> {
        if self.doubtful {
            self.reload()?;
        }
        let transaction = self.store.begin()?;
        let mut digest = self.digest;
        for import in shares {
            let id = store::insert_share(&transaction, &import.row)?;
            let key = import.row.pubshare;
            let blank = || (id, History::never_signed(key, Retention::Complete));
            let is_new = !self.shares.contains_key(&key);
            let (_, history) = self.shares.entry(key).or_insert_with(blank);
            let before = if is_new { 0 } else { digest::of_history(history) };
            *history = with_imported(history, &import.history);
            digest = digest.wrapping_sub(before).wrapping_add(digest::of_history(history));
            store::replace_history(&transaction, id, history)?;
        }
        store::write_digest(&transaction, digest)?;
        if let Some(counter) = counter {
            store::write_counter(&transaction, counter)?;
        }
        transaction.commit()?;
        self.digest = digest;
        Ok(())
    }

    fn set_counter(&mut self, value: u64) -> Result<(), LedgerError> {
        let transaction = self.store.begin()?;
        store::write_counter(&transaction, value)?;
        Ok(transaction.commit()?)
    }

    /// After a failed write the histories in memory may know more than the disk. They are read back, now or later.
    fn recover(&mut self) {
        self.doubtful = true;
        if let Err(error) = self.reload() {
            tracing::error!(%error, "the ledger cannot be read back: nothing is signed until it can");
        }
    }

    fn reload(&mut self) -> Result<(), LedgerError> {
        self.store.settle()?;
        let histories = self.store.histories()?;
        let found =
            histories.iter().map(|(_, history)| digest::of_history(history)).fold(0, u64::wrapping_add);
        if self.store.digest()?.unwrap_or(0) != found {
            return Err(LedgerError::Damaged("its parts are from different days".to_owned()));
        }
        self.digest = found;
        self.shares = histories.into_iter().map(|(id, history)| (history.key(), (id, history))).collect();
        self.doubtful = false;
        Ok(())
    }

    fn marks(&self) -> Vec<(PublicKeyBytes, LastSigned)> {
        self.shares.iter().map(|(key, (_, history))| (*key, last_signed(history))).collect()
    }
}

/// One vote: the rules, then its row. Also gives what its entries add to the digest.
fn record(
    transaction: &Transaction<'_>,
    share: i64,
    history: &mut History,
    message: &Message,
) -> Result<(Result<(), Refusal>, u64), LedgerError> {
    let slashable = |refusal: slashing::Refusal| Refusal::Slashable(refusal.to_string());
    let stale = |error: slashing::RecordError| Refusal::Slashable(error.to_string());
    let refused = |refusal| Ok((Err(refusal), 0));
    let signing_root = message.signing_root;
    match message.vote {
        Vote::None => Ok((Ok(()), 0)),
        Vote::Attestation { source, target } => {
            if i64::try_from(target.0).is_err() {
                return refused(Refusal::Malformed("no chain reaches this epoch".to_owned()));
            }
            let vote = AttestationVote { source, target, signing_root };
            let permit = match slashing::check_attestation(history, &vote) {
                Ok(permit) => permit,
                Err(refusal) => return refused(slashable(refusal)),
            };
            let is_repeat = permit.is_repeat();
            let entry = match history.record_attestation(permit) {
                Ok(entry) => entry,
                Err(error) => return refused(stale(error)),
            };
            store::insert_attestation(transaction, share, &entry)?;
            let added = if is_repeat { 0 } else { digest::of_attestation(history, &entry) };
            let dropped =
                if target.0 % PRUNE_EVERY_EPOCHS == 0 { prune(transaction, share, history)? } else { 0 };
            Ok((Ok(()), added.wrapping_sub(dropped)))
        }
        Vote::Block { slot } => {
            if i64::try_from(slot.0).is_err() {
                return refused(Refusal::Malformed("no chain reaches this slot".to_owned()));
            }
            let proposal = BlockProposal { slot, signing_root };
            let permit = match slashing::check_block(history, &proposal) {
                Ok(permit) => permit,
                Err(refusal) => return refused(slashable(refusal)),
            };
            let is_repeat = permit.is_repeat();
            let entry = match history.record_block(permit) {
                Ok(entry) => entry,
                Err(error) => return refused(stale(error)),
            };
            store::insert_block(transaction, share, &entry)?;
            Ok((Ok(()), if is_repeat { 0 } else { digest::of_block(history, &entry) }))
        }
    }
}

/// Drops old details; the floors rise over them. Gives what the dropped entries were in the digest.
fn prune(transaction: &Transaction<'_>, share: i64, history: &mut History) -> Result<u64, LedgerError> {
    let entries = |history: &History| digest::of_history(history).wrapping_sub(digest::of_floors(history));
    let before = entries(history);
    history.prune(KEEP_SLOTS, KEEP_EPOCHS);
    store::replace_history(transaction, share, history)?;
    Ok(before.wrapping_sub(entries(history)))
}

/// Adds imported entries and raises every floor to the highest value known from either side.
///
/// An imported file may be a minimal one, whose single entry stands for many that are not listed (EIP-3076). Taken as a
/// complete list it would leave the epochs between our own entries and its entry open for a second vote. With the floors
/// raised, importing can only ever forbid more; a validator's votes go forward anyway.
fn with_imported(history: &History, (blocks, attestations): &Entries) -> History {
    if blocks.is_empty() && attestations.is_empty() {
        return history.clone();
    }
    let mut merged = history.clone();
    merged.learn(blocks.iter().copied(), attestations.iter().copied());
    let marks = last_signed(&merged);
    let floors = Floors {
        block: marks.block_slot.map(Slot),
        source: marks.source_epoch.map(Epoch),
        target: marks.target_epoch.map(Epoch),
    };
    History::restore(merged.key(), Retention::Complete, floors, merged.blocks(), merged.attestations())
}

fn last_signed(history: &History) -> LastSigned {
    let floors = history.floors();
    let sources = history.attestations().map(|entry| entry.source_epoch).max().max(floors.source);
    let targets = history.attestations().map(|entry| entry.target_epoch).max().max(floors.target);
    let blocks = history.blocks().map(|entry| entry.slot).max().max(floors.block);
    LastSigned {
        source_epoch: sources.map(|epoch| epoch.0),
        target_epoch: targets.map(|epoch| epoch.0),
        block_slot: blocks.map(|slot| slot.0),
    }
}

/// How long a commit may take before it is worth a line in the log. A consumer drive without power-loss protection needs
/// 20 ms; a second means that it is dying or starved.
pub(crate) const SLOW_COMMIT: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use super::*;
    use slashing::{SignedAttestation, check_attestation};

    fn entry(source: u64, target: u64) -> SignedAttestation {
        SignedAttestation { source_epoch: Epoch(source), target_epoch: Epoch(target), signing_root: None }
    }

    #[test]
    fn a_minimal_file_closes_the_epochs_it_does_not_list() {
        let own = (1..10).map(|epoch| entry(epoch, epoch + 1));
        let key = PublicKeyBytes([1; 48]);
        let known = History::restore(key, Retention::Complete, Floors::default(), [], own);
        let merged = with_imported(&known, &(vec![], vec![entry(19, 20)]));
        for (source, target, allowed) in
            [(13, 14, false), (19, 20, false), (18, 21, false), (19, 21, true), (20, 21, true)]
        {
            let vote = AttestationVote {
                source: Epoch(source),
                target: Epoch(target),
                signing_root: Default::default(),
            };
            assert_eq!(check_attestation(&merged, &vote).is_ok(), allowed, "{source} to {target}");
        }
    }

    #[test]
    fn an_older_file_never_loosens() {
        let key = PublicKeyBytes([1; 48]);
        let floors = Floors { block: Some(Slot(9)), source: Some(Epoch(5)), target: Some(Epoch(6)) };
        let known = History::restore(key, Retention::Complete, floors, [], []);
        let merged = with_imported(&known, &(vec![], vec![entry(1, 2)]));
        assert_eq!(merged.floors(), floors);
    }
}
