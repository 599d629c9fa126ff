//! The thread that owns the database: check, record, commit, and only then answer.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use chain::{Epoch, PublicKeyBytes, Root, UnixMillis};
use ipc::{
    signer::{ChainClock, LastSigned},
    web3signer::ChainMark,
};
use rusqlite::Transaction;
use slashing::{AttestationVote, BlockProposal, History, Retention};
use tokio::sync::{mpsc, oneshot};

use super::{
    Asked, Clearance, Facts, Import, Imported, Job, LedgerError, Past, Resuming, ShareRow, Stopped,
    chain_marks::ChainMarks,
    digest, edit, elsewhere,
    record::{record, with_imported},
    store,
    store::Store,
};
use crate::{clock, clock_guard, folder::CLOCKS_APART, message::Vote, metrics::Metrics, refusal::Refusal};

/// Votes committed together at most; more only makes the first wait longer.
const MAX_BATCH: usize = 512;
/// What the writer keeps up to date for everybody to see.
#[derive(Clone, Default)]
pub(super) struct Shown {
    /// The latest moment at which a vote was recorded, by the clock of then: as the database has it.
    pub(super) recorded_at: Arc<AtomicU64>,
    /// Which import key is in force.
    pub(super) generation: Arc<AtomicU64>,
    /// The shares that were seen elsewhere, as the database has them.
    pub(super) stopped: Arc<RwLock<Stopped>>,
    /// Members remember signatures that this ledger should have had.
    pub(super) lacks_votes: Arc<AtomicBool>,
}

/// Starts the thread.
pub(super) fn start(
    store: Store,
    queue: mpsc::Receiver<Job>,
    metrics: Metrics,
) -> Result<Shown, LedgerError> {
    let mut writer = Writer::new(store, metrics);
    writer.reload()?;
    let shown = writer.shown.clone();
    std::thread::Builder::new()
        .name("ledger".to_owned())
        .spawn(move || writer.run(queue))
        .map_err(|source| LedgerError::Io { path: "the ledger's thread".into(), source })?;
    Ok(shown)
}

/// One validator on one chain. What any of its shares signed binds all of them.
pub(super) type Validator = (PublicKeyBytes, Root);

struct Held {
    /// Row number.
    id: i64,
    validator: Validator,
    clock: ChainClock,
    history: History,
    /// It was given up: its history binds, and nothing is recorded for it.
    is_deleted: bool,
    /// It votes no more, since another share has promised to take its place; see [`super::edit`].
    is_frozen: bool,
}

pub(super) struct Writer {
    store: Store,
    /// The shares: what the database holds, after every commit.
    shares: BTreeMap<PublicKeyBytes, Held>,
    /// The shares of each validator; seldom more than one.
    siblings: BTreeMap<Validator, BTreeSet<PublicKeyBytes>>,
    /// The digest of all histories, as the database has it.
    digest: u64,
    /// A write failed and the histories could not be read back yet. Nothing is cleared meanwhile.
    doubtful: bool,
    /// This process has marked the ledger as in use, so that only it may take the mark away.
    begun: bool,
    /// What vouches for what is on the disk, as the run that was begun last says.
    past: Past,
    /// The shares that had to wait since the run began.
    resuming: Resuming,
    shown: Shown,
    /// What was seen of shares that sign elsewhere and could not be written yet; they are among the stopped ones all the same.
    unkept_stops: Vec<(Asked, UnixMillis)>,
    /// When it was found that all floors must be raised for votes that this ledger lacks; until that is on the disk.
    floors_owed: Option<UnixMillis>,
    /// What the chain shows of validators that is not on record here.
    chain_marks: ChainMarks,
    metrics: Metrics,
}

struct Waiting {
    votes: Vec<Asked>,
    reply: oneshot::Sender<Vec<Result<Clearance, Refusal>>>,
}

impl Writer {
    pub(super) fn new(store: Store, metrics: Metrics) -> Self {
        Self {
            store,
            shares: BTreeMap::new(),
            siblings: BTreeMap::new(),
            digest: 0,
            doubtful: false,
            begun: false,
            past: Past::Known,
            resuming: Resuming::new(),
            shown: Shown::default(),
            unkept_stops: Vec::new(),
            floors_owed: None,
            chain_marks: ChainMarks::default(),
            metrics,
        }
    }

    fn run(mut self, mut queue: mpsc::Receiver<Job>) {
        let mut next = queue.blocking_recv();
        while let Some(job) = next.take() {
            match job {
                Job::Record { votes, mut now, reply } => {
                    let mut count = votes.len();
                    let mut batch = vec![Waiting { votes, reply }];
                    while count < MAX_BATCH {
                        match queue.try_recv() {
                            Ok(Job::Record { votes, now: later, reply }) => {
                                now = later;
                                count += votes.len();
                                batch.push(Waiting { votes, reply });
                            }
                            Ok(other) => {
                                next = Some(other);
                                break;
                            }
                            Err(_) => break,
                        }
                    }
                    self.clear_together(batch, now);
                }
                Job::Import { shares, now, reply } => {
                    let outcome = self.import(&shares, now);
                    // The caller may have gone; what is stored stays stored.
                    let _ = reply.send(outcome);
                }
                Job::Facts { reply } => {
                    let _ = reply.send(self.facts());
                }
                Job::Rows { reply } => {
                    let _ = reply.send(self.store.rows());
                }
                Job::BeginRun { counter, past, now, reply } => {
                    let _ = reply.send(self.begin_run(counter, past, now));
                }
                Job::RaiseFloors { now, reply } => {
                    let _ = reply.send(self.raise_floors(now));
                }
                Job::Resuming { reply } => {
                    let _ = reply.send(self.resuming.clone());
                }
                Job::Marks { reply } => {
                    let _ = reply.send(self.marks());
                }
                Job::Wishes { reply } => {
                    let _ = reply.send(self.store.wishes());
                }
                Job::KeepRules { rules, reply } => {
                    let outcome = self.store.settle().and_then(|()| self.store.keep_rules(&rules));
                    let _ = reply.send(outcome);
                }
                Job::KeepApprovals { approvals, reply } => {
                    let outcome = self.store.settle().and_then(|()| self.store.keep_approvals(&approvals));
                    let _ = reply.send(outcome);
                }
                Job::Pending { reply } => {
                    let _ = reply.send(self.store.pending());
                }
                Job::RetiredFor { lock_hash, reply } => {
                    let _ = reply.send(self.store.retired_for(&lock_hash));
                }
                Job::Prepare { shares, reply } => {
                    let _ = reply.send(self.prepare(&shares));
                }
                Job::KeepRecreating { shares, vouched, reply } => {
                    let _ = reply.send(self.keep_recreating(&shares, vouched));
                }
                Job::ForgetRecreating { shares, reply } => {
                    let _ = reply.send(self.forget_recreating(&shares));
                }
                Job::Recreating { reply } => {
                    let _ = reply.send(self.store.recreating());
                }
                Job::Discard { lock_hash, reply } => {
                    let _ = reply.send(self.discard(&lock_hash));
                }
                Job::Forgo { lock_hash, reply } => {
                    let _ = reply.send(self.forgo(&lock_hash));
                }
                Job::Freeze { lock_hash, reply } => {
                    let _ = reply.send(self.freeze(&lock_hash));
                }
                Job::Commit { lock_hash, now, reply } => {
                    let _ = reply.send(self.commit(&lock_hash, now));
                }
                Job::Leave { keys, lock_hash, reply } => {
                    let _ = reply.send(self.leave(&keys, &lock_hash));
                }
                Job::Delete { keys, reply } => {
                    let _ = reply.send(self.delete(&keys));
                }
                Job::DeletedRows { reply } => {
                    let _ = reply.send(self.store.deleted_rows());
                }
                Job::Histories { reply } => {
                    let _ = reply.send(self.all_histories());
                }
                Job::Seen { votes, now, reply } => {
                    let _ = reply.send(self.seen(&votes, now));
                }
                Job::Remembered { votes, now, reply } => {
                    let _ = reply.send(self.remembered(&votes, now));
                }
                Job::ChainMarks { marks, now, reply } => {
                    let _ = reply.send(self.ensure_certain().map(|()| self.mark(&marks, now)));
                }
                Job::Resume { key, shown, now, reply } => {
                    let _ = reply.send(self.resume(&key, shown, now));
                }
                Job::RemoteGeneration { reply } => {
                    let _ = reply.send(self.store.remote_generation());
                }
                Job::KeepRemoteGeneration { generation, reply } => {
                    let outcome =
                        self.store.settle().and_then(|()| self.store.keep_remote_generation(generation));
                    let _ = reply.send(outcome);
                }
                Job::Watermarks { reply } => {
                    let _ = reply.send(self.watermarks());
                }
                Job::Release { shares, id, certificate, reply } => {
                    let _ = reply.send(self.release(&shares, &id, &certificate));
                }
                Job::Advance { reply } => {
                    let _ = reply.send(self.advance());
                }
                Job::RetiredAmong { keys, reply } => {
                    let _ = reply.send(self.retired_among(&keys));
                }
                Job::Releases { reply } => {
                    let _ = reply.send(self.store.releases());
                }
                Job::Ping { reply } => {
                    let _ = reply.send(());
                }
                Job::Close { reply } => {
                    let _ = reply.send(self.close());
                    return;
                }
            }
            if next.is_none() {
                next = queue.blocking_recv();
            }
        }
    }

    /// Checks a batch against the rules and commits its records. Nobody gets a clearance before the commit.
    fn clear_together(&mut self, batch: Vec<Waiting>, now: UnixMillis) {
        let begun = Instant::now();
        let votes: Vec<&Asked> = batch.iter().flat_map(|waiting| &waiting.votes).collect();
        let verdicts = self.record_all(&votes, now);
        self.metrics.committed(begun.elapsed(), votes.len(), verdicts.is_ok());
        match verdicts {
            Ok(verdicts) => {
                let mut verdicts = verdicts.into_iter();
                for Waiting { votes, reply } in batch {
                    let cleared = |(asked, verdict): (Asked, Result<(), Refusal>)| {
                        verdict
                            .map(|()| Clearance { key: asked.key, signing_root: asked.message.signing_root })
                    };
                    let count = votes.len();
                    let _ = reply
                        .send(votes.into_iter().zip(verdicts.by_ref().take(count)).map(cleared).collect());
                }
            }
            Err(error) => {
                let reason = error.to_string();
                tracing::error!(error = %reason, votes = votes.len(), "votes could not be recorded: not signed");
                for Waiting { votes, reply } in batch {
                    let refused = votes.iter().map(|_| Err(Refusal::NotDurable(reason.clone())));
                    let _ = reply.send(refused.collect());
                }
                self.recover();
            }
        }
    }

    /// One verdict for each, in their order: each is judged with what the ones before it have left in the history.
    pub(super) fn record_all(
        &mut self,
        batch: &[&Asked],
        now: UnixMillis,
    ) -> Result<Vec<Result<(), Refusal>>, LedgerError> {
        if self.doubtful {
            self.reload()?;
        }
        self.keep_stops()?;
        let known = self.shown.recorded_at.load(Ordering::Relaxed);
        if let Some(by_ms) = clock_guard::behind(now, UnixMillis(known)) {
            let refusal = Refusal::ClockBehind { by_s: by_ms.div_ceil(1000) };
            return Ok(batch.iter().map(|_| Err(refusal.clone())).collect());
        }
        let transaction = self.store.begin()?;
        let mut verdicts = Vec::with_capacity(batch.len());
        let mut digest = self.digest;
        let stopped = Arc::clone(&self.shown.stopped);
        let stopped = stopped.read().unwrap_or_else(PoisonError::into_inner);
        for asked in batch {
            if stopped.contains_key(&asked.key) {
                verdicts.push(Err(Refusal::SignsElsewhere));
                continue;
            }
            if let Err(refusal) = self.chain_marks.allow(asked) {
                verdicts.push(Err(refusal));
                continue;
            }
            if let Err(refusal) = check_siblings(&self.shares, &self.siblings, asked) {
                verdicts.push(Err(refusal));
                continue;
            }
            let verdict = match self.shares.get_mut(&asked.key) {
                Some(Held { is_deleted: true, .. }) => Err(Refusal::UnknownKey(asked.key.to_string())),
                Some(Held { id, history, .. }) => {
                    let before = digest::of_floors(history);
                    let (verdict, added) = record(&transaction, *id, history, &asked.message)?;
                    let after = digest::of_floors(history);
                    digest = digest.wrapping_sub(before).wrapping_add(after).wrapping_add(added);
                    verdict
                }
                None => Err(Refusal::UnknownKey(asked.key.to_string())),
            };
            verdicts.push(verdict);
        }
        // A repeat changes no entry, and yet it is signed at this moment.
        let latest = if verdicts.iter().any(Result::is_ok) { known.max(now.0) } else { known };
        if latest != known {
            store::write_recorded_at(&transaction, latest)?;
        }
        if digest != self.digest {
            store::write_digest(&transaction, digest)?;
        }
        transaction.commit()?;
        self.digest = digest;
        self.shown.recorded_at.store(latest, Ordering::Relaxed);
        Ok(verdicts)
    }

    pub(super) fn import(&mut self, shares: &[Import], now: UnixMillis) -> Result<Imported, LedgerError> {
        let outcome = self.try_import(shares, now);
        if outcome.is_err() {
            self.recover();
        }
        outcome
    }

    fn try_import(&mut self, shares: &[Import], now: UnixMillis) -> Result<Imported, LedgerError> {
        if self.doubtful {
            self.reload()?;
        }
        let now = self.no_earlier_than_recorded(now);
        let known = self.store.counter()?;
        let known = known.ok_or_else(|| LedgerError::Damaged("no run was begun".to_owned()))?;
        let counter = known.saturating_add(1);
        let mut resuming = Resuming::new();
        // What tells nothing new can be handed in again and again, and the TPM does not count without end.
        let mut is_news = false;
        let transaction = self.store.begin()?;
        let mut digest = self.digest;
        for import in shares {
            let row = &import.row;
            let (key, validator) = (row.pubshare, (row.group_key, row.genesis_validators_root));
            if edit::is_retired(&transaction, &key)? {
                return Err(LedgerError::Retired(key));
            }
            let comes_back = self.shares.get(&key).is_some_and(|held| held.is_deleted);
            let new = !self.shares.contains_key(&key) || comes_back;
            if new && others(&self.shares, &self.siblings, validator, key).any(|held| held.is_frozen) {
                return Err(LedgerError::Frozen(row.group_key));
            }
            let mut id = store::insert_share(&transaction, row, import.was_damaged)?;
            if comes_back {
                // The same facts, as was just seen; now the secret too.
                id = store::insert_share(&transaction, row, true)?;
            }
            let (is_new, before, old) = match self.shares.get(&key) {
                Some(held) => (false, digest::of_history(&held.history), held.history.clone()),
                None => (true, 0, History::never_signed(key, Retention::Complete)),
            };
            let mut history = with_imported(&old, &import.history);
            if self.past == Past::Unknown {
                history.distrust_repeats();
            }
            // Whoever kept the file, or a copy of an older ledger, may have signed with it since: a new share begins
            // where nothing of that kind can be, and no lower than the validator's other shares.
            if is_new || comes_back || import.was_damaged {
                for sibling in others(&self.shares, &self.siblings, validator, key) {
                    history.raise(sibling.history.last_known());
                }
                let until = clock::epochs_later(&row.clock, now, import.more_epochs);
                if let Some(floors) = clock::floors_at(&row.clock, until, history.last_known().target) {
                    history.raise(floors);
                    resuming.extend(first_target(&history).map(|epoch| (key, epoch)));
                }
            }
            digest = digest.wrapping_sub(before).wrapping_add(digest::of_history(&history));
            store::replace_history(&transaction, id, &history)?;
            is_news |= is_new || comes_back || import.was_damaged || history != old;
            if let Some(seen_at) = import.stopped {
                elsewhere::stop(&transaction, &key, seen_at)?;
                let shown = self.shown.stopped.read().unwrap_or_else(PoisonError::into_inner);
                is_news |= shown.get(&key).is_none_or(|at| *at == elsewhere::RESTS && seen_at != *at);
            }
            if import.was_damaged {
                self.siblings.values_mut().for_each(|keys| {
                    keys.remove(&key);
                });
            }
            self.siblings.entry(validator).or_default().insert(key);
            let clock = self
                .shares
                .get(&key)
                .filter(|_| !import.was_damaged && !comes_back)
                .map_or(row.clock, |held| held.clock);
            let is_frozen = self.shares.get(&key).is_some_and(|held| held.is_frozen);
            self.shares.insert(key, Held { id, validator, clock, history, is_deleted: false, is_frozen });
        }
        if !is_news {
            return Ok(Imported { counter: known, is_step: false, resuming });
        }
        store::write_digest(&transaction, digest)?;
        store::write_counter(&transaction, counter)?;
        transaction.commit()?;
        self.digest = digest;
        let stopped = shares.iter().filter_map(|import| Some((import.row.pubshare, import.stopped?)));
        let mut known = self.shown.stopped.write().unwrap_or_else(PoisonError::into_inner);
        for (key, seen_at) in stopped {
            let at = known.entry(key).or_insert(seen_at);
            if *at == elsewhere::RESTS {
                *at = seen_at;
            }
        }
        Ok(Imported { counter, is_step: true, resuming })
    }

    pub(super) fn store(&self) -> &Store {
        &self.store
    }

    pub(super) fn store_mut(&mut self) -> &mut Store {
        &mut self.store
    }

    pub(super) fn digest(&self) -> u64 {
        self.digest
    }

    /// A held share: its row number, its clock and a copy of its history.
    pub(super) fn held(&self, key: &PublicKeyBytes) -> Option<(i64, ChainClock, History)> {
        self.shares.get(key).map(|held| (held.id, held.clock, held.history.clone()))
    }

    /// Whether a share is here with its secret.
    pub(super) fn is_here(&self, key: &PublicKeyBytes) -> bool {
        self.shares.get(key).is_some_and(|held| !held.is_deleted)
    }

    /// All shares, each with its row number, whose it is, and what is known of it.
    pub(super) fn all_held(&self) -> impl Iterator<Item = (PublicKeyBytes, i64, Validator, &History)> {
        self.shares.iter().map(|(key, held)| (*key, held.id, held.validator, &held.history))
    }

    /// Takes note of what the chain shows; see [`ChainMarks`].
    fn mark(&mut self, marks: &[ChainMark], now: UnixMillis) {
        for mark in marks {
            if let Some(held) = self.shares.get(&mark.key).filter(|held| !held.is_deleted) {
                self.chain_marks.note(mark, &held.history, &held.clock, now);
            }
        }
    }

    /// When a share was seen elsewhere, if it is stopped.
    pub(super) fn stopped_at(&self, key: &PublicKeyBytes) -> Option<UnixMillis> {
        self.shown.stopped.read().unwrap_or_else(PoisonError::into_inner).get(key).copied()
    }

    /// The histories of a validator's shares but one. Frozen ones say nothing: they are about to go.
    pub(super) fn other_histories(
        &self,
        validator: Validator,
        but: Option<PublicKeyBytes>,
    ) -> impl Iterator<Item = &History> {
        let keys = self.siblings.get(&validator).into_iter().flatten();
        keys.filter(move |key| Some(**key) != but)
            .filter_map(|key| self.shares.get(key))
            .filter(|held| !held.is_frozen)
            .map(|held| &held.history)
    }

    /// Everything known, by share.
    pub(super) fn known_histories(&self) -> impl Iterator<Item = (Root, &History)> {
        self.shares.values().map(|held| (held.validator.1, &held.history))
    }

    /// Nothing is decided on histories that may not be those on the disk.
    pub(super) fn ensure_certain(&mut self) -> Result<(), LedgerError> {
        if self.doubtful { self.reload() } else { Ok(()) }
    }

    /// What the disk holds after a change that was not made in memory, or that may have failed half-way.
    pub(super) fn read_back(&mut self) -> Result<(), LedgerError> {
        self.doubtful = true;
        self.reload()
    }

    /// The counter's next value.
    pub(super) fn next_counter(&self) -> Result<u64, LedgerError> {
        let known = self.store.counter()?;
        Ok(known.ok_or_else(|| LedgerError::Damaged("no run was begun".to_owned()))?.saturating_add(1))
    }

    fn facts(&self) -> Result<Facts, LedgerError> {
        // A share that waits for its change is one: without it in the count, a copy of the disk from before would pass.
        // So is one that was given up: its history must not be put back either.
        // And so is what was given away: a certificate must not leave a ledger that other copies have gone past.
        let shares_exist = !self.shares.is_empty()
            || !self.store.pending()?.is_empty()
            || !self.store.releases()?.is_empty();
        Ok(Facts { counter: self.store.counter()?, shares_exist })
    }

    pub(super) fn begin_run(&mut self, counter: u64, past: Past, now: UnixMillis) -> Result<(), LedgerError> {
        let outcome = self.try_begin_run(counter, past, now);
        if outcome.is_err() {
            self.recover();
        }
        outcome
    }

    fn try_begin_run(&mut self, counter: u64, past: Past, now: UnixMillis) -> Result<(), LedgerError> {
        if self.doubtful {
            self.reload()?;
        }
        let now = self.no_earlier_than_recorded(now);
        // Without a witness an orderly end proves nothing: this may be the copy of another day.
        let was_cut_off = (self.store.is_open()? || past == Past::Unknown) && !self.begun;
        // A ledger that begins, or that was put back when it held nothing and so may pass, has forgotten what it took in and
        // gave away: nothing that was sealed for this box before may open any more (decision 0303).
        let goes_on = self.store.counter()?.map(|known| known.saturating_add(1)) == Some(counter);
        let generation = self.store.generation()?.filter(|_| goes_on).unwrap_or(counter);
        // What is on the disk may be a forger's as well as of another day, wherever nothing but the disk tells.
        self.past = past;
        if past == Past::Unknown {
            self.shares.values_mut().for_each(|held| held.history.distrust_repeats());
        }
        let transaction = self.store.begin()?;
        let (mut resuming, mut digest) = (Resuming::new(), self.digest);
        if was_cut_off {
            // This may be a copy made during a run, which does not know what that run signed afterwards.
            (resuming, digest) = raise_all(&transaction, &mut self.shares, digest, past, now)?;
            store::write_digest(&transaction, digest)?;
            tracing::warn!(
                shares = resuming.len(),
                ?past,
                "the last run was cut off, or nothing knows whether this ledger is the newest: shares wait for some epochs"
            );
        }
        store::write_generation(&transaction, generation)?;
        store::write_counter(&transaction, counter)?;
        store::write_open(&transaction, true)?;
        transaction.commit()?;
        self.shown.generation.store(generation, Ordering::Relaxed);
        self.digest = digest;
        self.begun = true;
        self.resuming.extend(resuming);
        Ok(())
    }

    /// Raises all floors once more, within a run: the clock by which they were raised when it began was set since.
    pub(super) fn raise_floors(&mut self, now: UnixMillis) -> Result<(), LedgerError> {
        let outcome = self.try_raise_floors(now);
        if outcome.is_err() {
            self.recover();
        }
        outcome
    }

    fn try_raise_floors(&mut self, now: UnixMillis) -> Result<(), LedgerError> {
        self.ensure_certain()?;
        self.raise_over_all(self.past, now)?;
        tracing::warn!("the clock was set: shares wait once more");
        Ok(())
    }

    fn raise_over_all(&mut self, past: Past, now: UnixMillis) -> Result<(), LedgerError> {
        self.ensure_certain()?;
        let now = self.no_earlier_than_recorded(now);
        let transaction = self.store.begin()?;
        // What is raised in memory and does not get to the disk is read back before anything else is done, whoever asks for it.
        self.doubtful = true;
        let (resuming, digest) = raise_all(&transaction, &mut self.shares, self.digest, past, now)?;
        store::write_digest(&transaction, digest)?;
        transaction.commit()?;
        self.doubtful = false;
        self.digest = digest;
        self.resuming.extend(resuming);
        Ok(())
    }

    /// Votes were signed that this ledger lacks. Nothing more is signed before [`Self::settle_floors`] went well.
    pub(super) fn owe_floors(&mut self, now: UnixMillis) {
        self.floors_owed = Some(now);
        self.shown.lacks_votes.store(true, Ordering::Relaxed);
    }

    /// Raises all floors when that is owed. What this ledger lacks another box may have signed, by another clock.
    pub(super) fn settle_floors(&mut self) -> Result<(), LedgerError> {
        if let Some(now) = self.floors_owed {
            self.raise_over_all(Past::Unknown, now)?;
            tracing::error!("members remember votes that this ledger lacks: all shares wait for some epochs");
            self.floors_owed = None;
        }
        Ok(())
    }

    /// Floors that are raised over everything up to now are never raised by a clock that has gone back.
    pub(super) fn no_earlier_than_recorded(&self, now: UnixMillis) -> UnixMillis {
        now.max(UnixMillis(self.shown.recorded_at.load(Ordering::Relaxed)))
    }

    /// Ends the run in order. A run that this process did not begin, whose records stay in doubt, or of which something is owed that
    /// the disk does not take, stays open: the next start raises all floors.
    pub(super) fn close(mut self) -> Result<(), LedgerError> {
        if self.begun && self.ensure_certain().is_ok() && self.keep_stops().is_ok() {
            let transaction = self.store.begin()?;
            store::write_open(&transaction, false)?;
            transaction.commit()?;
        }
        self.store.close()
    }

    /// After a failed write the histories in memory may know more than the disk. They are read back, now or later.
    pub(super) fn recover(&mut self) {
        self.doubtful = true;
        if let Err(error) = self.reload() {
            tracing::error!(%error, "the ledger cannot be read back: nothing is signed until it can");
        }
    }

    pub(super) fn reload(&mut self) -> Result<(), LedgerError> {
        self.store.settle()?;
        let mut histories = BTreeMap::new();
        for (id, history) in self.store.histories()? {
            histories.insert(history.key(), (id, history));
        }
        let found =
            histories.values().map(|(_, history)| digest::of_history(history)).fold(0, u64::wrapping_add);
        if self.store.digest()?.unwrap_or(0) != found {
            return Err(LedgerError::Damaged("its parts are from different days".to_owned()));
        }
        let (mut shares, mut siblings) = (BTreeMap::new(), BTreeMap::<Validator, BTreeSet<_>>::new());
        let (kept, deleted, frozen) = (self.store.rows()?, self.store.deleted_rows()?, self.store.frozen()?);
        let with = |rows: Vec<ShareRow>, is_deleted| rows.into_iter().map(move |row| (row, is_deleted));
        for (row, is_deleted) in with(kept, false).chain(with(deleted, true)) {
            let Some((id, mut history)) = histories.remove(&row.pubshare) else { continue };
            if self.past == Past::Unknown {
                history.distrust_repeats();
            }
            let validator = (row.group_key, row.genesis_validators_root);
            siblings.entry(validator).or_default().insert(row.pubshare);
            let is_frozen = frozen.contains(&row.pubshare);
            shares.insert(
                row.pubshare,
                Held { id, validator, clock: row.clock, history, is_deleted, is_frozen },
            );
        }
        self.shown.recorded_at.store(self.store.recorded_at()?, Ordering::Relaxed);
        self.shown.generation.store(self.store.generation()?.unwrap_or_default(), Ordering::Relaxed);
        let mut stopped = self.store.stopped()?;
        stopped.extend(self.unkept_stops.iter().map(|(asked, now)| (asked.key, *now)));
        *self.shown.stopped.write().unwrap_or_else(PoisonError::into_inner) = stopped;
        (self.digest, self.shares, self.siblings, self.doubtful) = (found, shares, siblings, false);
        Ok(())
    }

    pub(super) fn stop_in_memory(&mut self, asked: &Asked, now: UnixMillis) {
        self.shown.stopped.write().unwrap_or_else(PoisonError::into_inner).insert(asked.key, now);
        // One proof is enough to stop a share; the first stays.
        if !self.unkept_stops.iter().any(|(known, _)| known.key == asked.key) {
            self.unkept_stops.push((asked.clone(), now));
        }
    }

    pub(super) fn first_unkept_stop(&self) -> Option<(Asked, UnixMillis)> {
        self.unkept_stops.first().cloned()
    }

    pub(super) fn forget_unkept_stop(&mut self, key: &PublicKeyBytes) {
        self.unkept_stops.retain(|(asked, _)| asked.key != *key);
    }

    /// What was really signed or imported; floors are no votes.
    fn marks(&self) -> Vec<(PublicKeyBytes, LastSigned)> {
        let marks = |held: &Held| {
            let attestations = || held.history.attestations();
            LastSigned {
                source_epoch: attestations().map(|entry| entry.source_epoch.0).max(),
                target_epoch: attestations().map(|entry| entry.target_epoch.0).max(),
                block_slot: held.history.blocks().map(|entry| entry.slot.0).max(),
            }
        };
        self.shares.iter().map(|(key, held)| (*key, marks(held))).collect()
    }
}

/// Raises the floors of all shares over everything that can have been signed by now. Gives who waits for which epoch, and the digest.
fn raise_all(
    transaction: &Transaction<'_>,
    shares: &mut BTreeMap<PublicKeyBytes, Held>,
    mut digest: u64,
    past: Past,
    now: UnixMillis,
) -> Result<(Resuming, u64), LedgerError> {
    let mut resuming = Resuming::new();
    for (key, held) in shares {
        if held.is_frozen {
            continue; // It votes no more, and its successor begins above the clock of that day.
        }
        // What another copy has signed, it may have signed in another box, by another clock.
        let until = match past {
            Past::Known => now,
            Past::Unknown => clock::epochs_later(&held.clock, now, CLOCKS_APART),
        };
        let known = held.history.last_known().target;
        let Some(floors) = clock::floors_at(&held.clock, until, known) else { continue };
        let before = digest::of_history(&held.history);
        held.history.raise(floors);
        digest = digest.wrapping_sub(before).wrapping_add(digest::of_history(&held.history));
        store::replace_history(transaction, held.id, &held.history)?;
        resuming.extend(first_target(&held.history).map(|epoch| (*key, epoch)));
    }
    Ok((resuming, digest))
}

/// The validator's other shares.
fn others<'a>(
    shares: &'a BTreeMap<PublicKeyBytes, Held>,
    siblings: &'a BTreeMap<Validator, BTreeSet<PublicKeyBytes>>,
    validator: Validator,
    key: PublicKeyBytes,
) -> impl Iterator<Item = &'a Held> {
    siblings
        .get(&validator)
        .into_iter()
        .flatten()
        .filter(move |other| **other != key)
        .filter_map(|other| shares.get(other))
}

/// Whether what the validator's other shares signed allows this vote. It is the validator that is punished.
fn check_siblings(
    shares: &BTreeMap<PublicKeyBytes, Held>,
    siblings: &BTreeMap<Validator, BTreeSet<PublicKeyBytes>>,
    asked: &Asked,
) -> Result<(), Refusal> {
    let Some(held) = shares.get(&asked.key) else { return Ok(()) };
    let signing_root = asked.message.signing_root;
    for sibling in others(shares, siblings, held.validator, asked.key) {
        let verdict = match asked.message.vote {
            Vote::None => Ok(()),
            Vote::Attestation { source, target } => {
                let vote = AttestationVote { source, target, signing_root };
                slashing::check_attestation(&sibling.history, &vote).map(drop)
            }
            Vote::Block { slot } => {
                let proposal = BlockProposal { slot, signing_root };
                slashing::check_block(&sibling.history, &proposal).map(drop)
            }
        };
        verdict.map_err(|refusal| {
            Refusal::Slashable(format!("another share of this validator is held here, and {refusal}"))
        })?;
    }
    Ok(())
}

/// The first target epoch above the floors.
pub(super) fn first_target(history: &History) -> Option<Epoch> {
    history.floors().target.map(|floor| floor.saturating_add(1))
}

/// How long a commit may take before it is worth a line in the log. A consumer drive without power-loss protection needs
/// 20 ms; a second means that it is dying or starved.
pub(crate) const SLOW_COMMIT: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests;
