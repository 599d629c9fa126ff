//! The record of everything ever signed, and the only place from which a permission to sign comes.
//!
//! One thread owns the database. Requests that wait while it writes are checked and committed together, so a slot's
//! burst costs one fsync. A [`Clearance`] exists only for a message whose record is on the disk.

mod chain_marks;
#[cfg(test)]
mod crash;
mod delete;
mod digest;
mod edit;
mod elsewhere;
mod leave;
mod owner;
mod record;
mod recreate;
mod release;
mod store;
mod writer;

pub(crate) use edit::{Committed, Pending};
pub(crate) use elsewhere::{RESTS, Resumed, Stopped};
pub(crate) use recreate::{Recreating, Vouched};
pub(crate) use release::Marks;
pub(crate) use writer::SLOW_COMMIT;

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{PoisonError, atomic::Ordering},
};

use chain::{Epoch, PublicKeyBytes, Root, UnixMillis};
use ipc::{
    signer::{ChainClock, LastSigned},
    web3signer::ChainMark,
};
use slashing::{History, SignedAttestation, SignedBlock};
use tokio::sync::{mpsc, oneshot};

pub(crate) use owner::{AllRules, Approvals};
pub(crate) use store::{LedgerError, Store};

use crate::{
    clock::now,
    message::{Message, Vote},
    metrics::Metrics,
    refusal::Refusal,
    rules::Permitted,
};

/// Requests that may wait for the writer; beyond that the caller is told to come back.
const QUEUE: usize = 4096;

/// What the database keeps of a share besides its history. The secret is sealed; see [`crate::vault`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ShareRow {
    /// Public key of the share.
    pub pubshare: PublicKeyBytes,
    /// Public key of the validator.
    pub group_key: PublicKeyBytes,
    /// Share index, from 1.
    pub share_index: u8,
    /// The chain it may sign for.
    pub genesis_validators_root: Root,
    /// When that chain's slots are.
    pub clock: ChainClock,
    /// The secret, sealed.
    pub sealed: Vec<u8>,
}

impl ShareRow {
    /// Whose share it is: one validator on one chain. Signatures for two chains cannot conflict.
    pub(crate) fn validator(&self) -> (PublicKeyBytes, Root) {
        (self.group_key, self.genesis_validators_root)
    }
}

/// One share to be imported, with all that is known of what it signed.
pub(crate) struct Import {
    /// The share.
    pub row: ShareRow,
    /// What it signed; both empty only when its owner says that it never did.
    pub history: Entries,
    /// It is held already, and its sealed form did not open: the new one takes its place.
    pub was_damaged: bool,
    /// By how many epochs more than usual it waits when it is new: another machine may have signed with it until now, by another
    /// clock.
    pub more_epochs: u64,
    /// It was seen signing elsewhere, then, where it was before: it is stopped here too.
    pub stopped: Option<UnixMillis>,
}

/// Shares whose floors were raised over all that may have been forgotten, with the first target epoch that each may sign.
pub(crate) type Resuming = BTreeMap<PublicKeyBytes, Epoch>;

/// Whether somebody beside the disk vouches for the ledger being the newest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Past {
    /// The TPM's counter does.
    Known,
    /// Nobody does: it may be a copy of any day.
    Unknown,
}

/// What an import did.
pub(crate) struct Imported {
    /// What the TPM's counter must be brought to.
    pub counter: u64,
    /// Whether that is one further than before. It is not when everything was known already.
    pub is_step: bool,
    /// The new shares that have to wait.
    pub resuming: Resuming,
}

/// What is known before a run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Facts {
    /// The TPM counter's value as the ledger knows it.
    pub counter: Option<u64>,
    /// Whether there is anything to protect.
    pub shares_exist: bool,
}

/// What an interchange file says about one share.
pub(crate) type Entries = (Vec<SignedBlock>, Vec<SignedAttestation>);

/// The proof that a message may be signed by one key: the rules were asked and the record, if it needs one, is durable.
/// Made only by this module, used up by signing.
#[derive(Debug)]
#[must_use = "a clearance does nothing until it is signed"]
pub(crate) struct Clearance {
    key: PublicKeyBytes,
    signing_root: Root,
}

impl Clearance {
    /// Whose key may sign.
    pub(crate) fn key(&self) -> PublicKeyBytes {
        self.key
    }

    /// What may be signed.
    pub(crate) fn signing_root(&self) -> Root {
        self.signing_root
    }
}

/// A handle to the thread that owns the ledger.
#[derive(Clone)]
pub(crate) struct Ledger {
    jobs: mpsc::Sender<Job>,
    shown: writer::Shown,
}

/// A message that needs a record, and whose.
#[derive(Clone)]
pub(crate) struct Asked {
    /// With which share.
    pub key: PublicKeyBytes,
    /// The message.
    pub message: Message,
}

enum Job {
    Record {
        votes: Vec<Asked>,
        now: UnixMillis,
        reply: oneshot::Sender<Vec<Result<Clearance, Refusal>>>,
    },
    Import {
        shares: Vec<Import>,
        now: UnixMillis,
        reply: oneshot::Sender<Result<Imported, LedgerError>>,
    },
    Facts {
        reply: oneshot::Sender<Result<Facts, LedgerError>>,
    },
    Rows {
        reply: oneshot::Sender<Result<Vec<ShareRow>, LedgerError>>,
    },
    BeginRun {
        counter: u64,
        past: Past,
        now: UnixMillis,
        reply: oneshot::Sender<Result<(), LedgerError>>,
    },
    RaiseFloors {
        now: UnixMillis,
        reply: oneshot::Sender<Result<(), LedgerError>>,
    },
    Resuming {
        reply: oneshot::Sender<Resuming>,
    },
    Marks {
        reply: oneshot::Sender<Vec<(PublicKeyBytes, LastSigned)>>,
    },
    Wishes {
        reply: oneshot::Sender<Result<(AllRules, Approvals), LedgerError>>,
    },
    KeepRules {
        rules: AllRules,
        reply: oneshot::Sender<Result<(), LedgerError>>,
    },
    KeepApprovals {
        approvals: Approvals,
        reply: oneshot::Sender<Result<(), LedgerError>>,
    },
    Pending {
        reply: oneshot::Sender<Result<Vec<Pending>, LedgerError>>,
    },
    RetiredFor {
        lock_hash: [u8; 32],
        reply: oneshot::Sender<Result<Vec<PublicKeyBytes>, LedgerError>>,
    },
    Prepare {
        shares: Vec<Pending>,
        reply: oneshot::Sender<Result<Option<u64>, LedgerError>>,
    },
    KeepRecreating {
        shares: Vec<PublicKeyBytes>,
        vouched: Vouched,
        reply: oneshot::Sender<Result<u64, LedgerError>>,
    },
    ForgetRecreating {
        shares: Vec<PublicKeyBytes>,
        reply: oneshot::Sender<Result<(), LedgerError>>,
    },
    Recreating {
        reply: oneshot::Sender<Result<Recreating, LedgerError>>,
    },
    Discard {
        lock_hash: [u8; 32],
        reply: oneshot::Sender<Result<(), LedgerError>>,
    },
    Forgo {
        lock_hash: [u8; 32],
        reply: oneshot::Sender<Result<Option<u64>, LedgerError>>,
    },
    Freeze {
        lock_hash: [u8; 32],
        reply: oneshot::Sender<Result<Option<u64>, LedgerError>>,
    },
    Commit {
        lock_hash: [u8; 32],
        now: UnixMillis,
        reply: oneshot::Sender<Result<Committed, LedgerError>>,
    },
    Leave {
        keys: Vec<PublicKeyBytes>,
        lock_hash: [u8; 32],
        reply: oneshot::Sender<Result<u64, LedgerError>>,
    },
    Delete {
        keys: Vec<PublicKeyBytes>,
        reply: oneshot::Sender<Result<u64, LedgerError>>,
    },
    DeletedRows {
        reply: oneshot::Sender<Result<Vec<ShareRow>, LedgerError>>,
    },
    Histories {
        reply: oneshot::Sender<Result<Vec<(Root, History)>, LedgerError>>,
    },
    Seen {
        votes: Vec<Asked>,
        now: UnixMillis,
        reply: oneshot::Sender<Result<Vec<PublicKeyBytes>, LedgerError>>,
    },
    Remembered {
        votes: Vec<Asked>,
        now: UnixMillis,
        reply: oneshot::Sender<Result<Vec<PublicKeyBytes>, LedgerError>>,
    },
    ChainMarks {
        marks: Vec<ChainMark>,
        now: UnixMillis,
        reply: oneshot::Sender<Result<(), LedgerError>>,
    },
    Resume {
        key: PublicKeyBytes,
        shown: UnixMillis,
        now: UnixMillis,
        reply: oneshot::Sender<Result<Resumed, LedgerError>>,
    },
    RemoteGeneration {
        reply: oneshot::Sender<Result<u64, LedgerError>>,
    },
    KeepRemoteGeneration {
        generation: u64,
        reply: oneshot::Sender<Result<(), LedgerError>>,
    },
    Watermarks {
        reply: oneshot::Sender<Result<Vec<Marks>, LedgerError>>,
    },
    Release {
        shares: Vec<Marks>,
        id: [u8; 32],
        certificate: Vec<u8>,
        reply: oneshot::Sender<Result<u64, LedgerError>>,
    },
    Advance {
        reply: oneshot::Sender<Result<u64, LedgerError>>,
    },
    RetiredAmong {
        keys: Vec<PublicKeyBytes>,
        reply: oneshot::Sender<Result<Vec<PublicKeyBytes>, LedgerError>>,
    },
    Releases {
        reply: oneshot::Sender<Result<Vec<Vec<u8>>, LedgerError>>,
    },
    Ping {
        reply: oneshot::Sender<()>,
    },
    Close {
        reply: oneshot::Sender<Result<(), LedgerError>>,
    },
}

impl Ledger {
    /// Opens the database in `state_dir`, checks it, and starts its thread.
    pub(crate) fn open(state_dir: &Path, metrics: Metrics) -> Result<Self, LedgerError> {
        let store = Store::open(state_dir)?;
        let (jobs, queue) = mpsc::channel(QUEUE);
        let shown = writer::start(store, queue, metrics)?;
        Ok(Self { jobs, shown })
    }

    /// Which of this box's import keys is in force; see decision 0303.
    pub(crate) fn generation(&self) -> u64 {
        self.shown.generation.load(Ordering::Relaxed)
    }

    /// The latest moment, by the clock of then, at which a vote was recorded; 0 when none was.
    pub(crate) fn recorded_at(&self) -> UnixMillis {
        UnixMillis(self.shown.recorded_at.load(Ordering::Relaxed))
    }

    /// Clears a message for signing. When it can be punished, its record is durable before this returns.
    pub(crate) async fn clear(
        &self,
        key: PublicKeyBytes,
        permitted: &Permitted,
    ) -> Result<Clearance, Refusal> {
        let stopped = || Err(Refusal::NotDurable("the ledger has stopped".to_owned()));
        self.clear_all(&[(key, permitted)]).await.pop().unwrap_or_else(stopped)
    }

    /// Clears many, one after the other, with one durable write for all. One outcome each, in their order; a refusal of one
    /// says nothing about the others.
    pub(crate) async fn clear_all(
        &self,
        asked: &[(PublicKeyBytes, &Permitted)],
    ) -> Vec<Result<Clearance, Refusal>> {
        let needs_record = |permitted: &Permitted| permitted.message().vote != Vote::None;
        let votes: Vec<Asked> = asked
            .iter()
            .filter(|(_, permitted)| needs_record(permitted))
            .map(|(key, permitted)| Asked { key: *key, message: permitted.message().clone() })
            .collect();
        let recorded = if votes.is_empty() { Ok(Vec::new()) } else { self.record(votes).await };
        let mut recorded = recorded.map(Vec::into_iter);
        let outcome = |(key, permitted): &(PublicKeyBytes, &Permitted)| {
            if !needs_record(permitted) {
                return Ok(Clearance { key: *key, signing_root: permitted.message().signing_root });
            }
            match &mut recorded {
                Ok(verdicts) => verdicts
                    .next()
                    .unwrap_or_else(|| Err(Refusal::NotDurable("the ledger left it out".to_owned()))),
                Err(refusal) => Err(refusal.clone()),
            }
        };
        asked.iter().map(outcome).collect()
    }

    async fn record(&self, votes: Vec<Asked>) -> Result<Vec<Result<Clearance, Refusal>>, Refusal> {
        let (reply, answer) = oneshot::channel();
        let job = Job::Record { votes, now: now(), reply };
        self.jobs.try_send(job).map_err(|_| Refusal::NotDurable("too many votes are waiting".to_owned()))?;
        answer.await.map_err(|_| Refusal::NotDurable("the ledger has stopped".to_owned()))
    }

    /// Stores shares and their histories in one step, together with the next counter value: all of it or none.
    pub(crate) async fn import(&self, shares: Vec<Import>) -> Result<Imported, LedgerError> {
        self.ask(|reply| Job::Import { shares, now: now(), reply }).await?
    }

    /// What must be known before a run.
    pub(crate) async fn facts(&self) -> Result<Facts, LedgerError> {
        self.ask(|reply| Job::Facts { reply }).await?
    }

    /// The shares kept.
    pub(crate) async fn rows(&self) -> Result<Vec<ShareRow>, LedgerError> {
        self.ask(|reply| Job::Rows { reply }).await?
    }

    /// Begins a run: stores what the TPM's counter is about to be, marks the ledger as in use, and, when it was left so
    /// by a run that never ended or its past is unknown, raises all floors over what may have been forgotten.
    pub(crate) async fn begin_run(&self, counter: u64, past: Past) -> Result<(), LedgerError> {
        self.ask(|reply| Job::BeginRun { counter, past, now: now(), reply }).await?
    }

    /// Raises all floors over what can have been signed by now, because the clock by which that was done before was set since.
    pub(crate) async fn raise_floors(&self) -> Result<(), LedgerError> {
        self.ask(|reply| Job::RaiseFloors { now: now(), reply }).await?
    }

    /// The shares that waited since this run began.
    pub(crate) async fn resuming(&self) -> Result<Resuming, LedgerError> {
        self.ask(|reply| Job::Resuming { reply }).await
    }

    /// The highest marks of every share.
    pub(crate) async fn marks(&self) -> Result<Vec<(PublicKeyBytes, LastSigned)>, LedgerError> {
        self.ask(|reply| Job::Marks { reply }).await
    }

    /// What the owner has said.
    pub(crate) async fn wishes(&self) -> Result<(AllRules, Approvals), LedgerError> {
        self.ask(|reply| Job::Wishes { reply }).await?
    }

    /// Stores rules in place of those of the same validators.
    pub(crate) async fn keep_rules(&self, rules: AllRules) -> Result<(), LedgerError> {
        self.ask(|reply| Job::KeepRules { rules, reply }).await?
    }

    /// Stores all confirmed exits in place of those that are there.
    pub(crate) async fn keep_approvals(&self, approvals: Approvals) -> Result<(), LedgerError> {
        self.ask(|reply| Job::KeepApprovals { approvals, reply }).await?
    }

    /// The new shares that wait to take the place of old ones.
    pub(crate) async fn pending(&self) -> Result<Vec<Pending>, LedgerError> {
        self.ask(|reply| Job::Pending { reply }).await?
    }

    /// The shares that were given up for a lock.
    pub(crate) async fn retired_for(&self, lock_hash: [u8; 32]) -> Result<Vec<PublicKeyBytes>, LedgerError> {
        self.ask(|reply| Job::RetiredFor { lock_hash, reply }).await?
    }

    /// Puts new shares beside the old ones. Gives the counter that the TPM must be brought to, when it must.
    pub(crate) async fn prepare(&self, shares: Vec<Pending>) -> Result<Option<u64>, LedgerError> {
        self.ask(|reply| Job::Prepare { shares, reply }).await?
    }

    /// From now on nothing but this lock takes the place of these shares; nothing at all as long as it is not known.
    pub(crate) async fn keep_recreating(
        &self,
        shares: Vec<PublicKeyBytes>,
        vouched: Vouched,
    ) -> Result<u64, LedgerError> {
        self.ask(|reply| Job::KeepRecreating { shares, vouched, reply }).await?
    }

    /// Any lock may again.
    pub(crate) async fn forget_recreating(&self, shares: Vec<PublicKeyBytes>) -> Result<(), LedgerError> {
        self.ask(|reply| Job::ForgetRecreating { shares, reply }).await?
    }

    /// The shares of which that is so, and for which lock.
    pub(crate) async fn recreating(&self) -> Result<Recreating, LedgerError> {
        self.ask(|reply| Job::Recreating { reply }).await?
    }

    /// Drops what was prepared for a lock, unless an old share was frozen for it.
    pub(crate) async fn discard(&self, lock_hash: [u8; 32]) -> Result<(), LedgerError> {
        self.ask(|reply| Job::Discard { lock_hash, reply }).await?
    }

    /// Drops the new shares with which this box has promised to join by a lock. Gives the counter that the TPM must be brought to;
    /// none when there are none.
    pub(crate) async fn forgo(&self, lock_hash: [u8; 32]) -> Result<Option<u64>, LedgerError> {
        self.ask(|reply| Job::Forgo { lock_hash, reply }).await?
    }

    /// From here on the old shares sign no vote. Gives the counter that the TPM must be brought to, when it must.
    pub(crate) async fn freeze(&self, lock_hash: [u8; 32]) -> Result<Option<u64>, LedgerError> {
        self.ask(|reply| Job::Freeze { lock_hash, reply }).await?
    }

    /// Puts the new shares in the old ones' place.
    pub(crate) async fn commit(&self, lock_hash: [u8; 32]) -> Result<Committed, LedgerError> {
        self.ask(|reply| Job::Commit { lock_hash, now: now(), reply }).await?
    }

    /// Gives shares up without successors, and gives the counter that the TPM must be brought to.
    pub(crate) async fn leave(
        &self,
        keys: Vec<PublicKeyBytes>,
        lock_hash: [u8; 32],
    ) -> Result<u64, LedgerError> {
        self.ask(|reply| Job::Leave { keys, lock_hash, reply }).await?
    }

    /// Destroys the secrets of shares and keeps all that is known of them. Gives the counter that the TPM must be brought to.
    pub(crate) async fn delete(&self, keys: Vec<PublicKeyBytes>) -> Result<u64, LedgerError> {
        self.ask(|reply| Job::Delete { keys, reply }).await?
    }

    /// The shares that were given up.
    pub(crate) async fn deleted_rows(&self) -> Result<Vec<ShareRow>, LedgerError> {
        self.ask(|reply| Job::DeletedRows { reply }).await?
    }

    /// All that is known of every share, deleted ones as well, with its chain.
    pub(crate) async fn histories(&self) -> Result<Vec<(Root, History)>, LedgerError> {
        self.ask(|reply| Job::Histories { reply }).await?
    }

    /// Judges valid signatures of our shares that others have sent; gives the shares that were stopped because of them.
    pub(crate) async fn seen(&self, votes: Vec<Asked>) -> Result<Vec<PublicKeyBytes>, LedgerError> {
        self.ask(|reply| Job::Seen { votes, now: now(), reply }).await?
    }

    /// The same for what members remember from before this box started; then every share may have to wait.
    pub(crate) async fn remembered(&self, votes: Vec<Asked>) -> Result<Vec<PublicKeyBytes>, LedgerError> {
        self.ask(|reply| Job::Remembered { votes, now: now(), reply }).await?
    }

    /// Takes note of what the chain shows of these shares' validators.
    pub(crate) async fn mark(&self, marks: Vec<ChainMark>) -> Result<(), LedgerError> {
        self.ask(|reply| Job::ChainMarks { marks, now: now(), reply }).await?
    }

    /// Whether members remember votes that this ledger lacks.
    pub(crate) fn lacks_votes(&self) -> bool {
        self.shown.lacks_votes.load(Ordering::Relaxed)
    }

    /// A share that is stopped since `shown` goes on, above everything that can have been signed by now.
    pub(crate) async fn resume(
        &self,
        key: PublicKeyBytes,
        shown: UnixMillis,
        now: UnixMillis,
    ) -> Result<Resumed, LedgerError> {
        self.ask(|reply| Job::Resume { key, shown, now, reply }).await?
    }

    /// Whether a share was seen signing elsewhere, or rests.
    pub(crate) fn is_stopped(&self, key: &PublicKeyBytes) -> bool {
        self.shown.stopped.read().unwrap_or_else(PoisonError::into_inner).contains_key(key)
    }

    /// Since when a share is stopped; [`RESTS`] where it came in to rest.
    pub(crate) fn stopped_at(&self, key: &PublicKeyBytes) -> Option<UnixMillis> {
        self.shown.stopped.read().unwrap_or_else(PoisonError::into_inner).get(key).copied()
    }

    /// All such shares, and those that rest.
    pub(crate) fn stopped(&self) -> Stopped {
        self.shown.stopped.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// All that is known of every share, in three numbers each.
    pub(crate) async fn watermarks(&self) -> Result<Vec<Marks>, LedgerError> {
        self.ask(|reply| Job::Watermarks { reply }).await?
    }

    /// Destroys shares for good and keeps the certificate. Gives the counter that the TPM must be brought to before it leaves.
    pub(crate) async fn release(
        &self,
        shares: Vec<Marks>,
        id: [u8; 32],
        certificate: Vec<u8>,
    ) -> Result<u64, LedgerError> {
        self.ask(|reply| Job::Release { shares, id, certificate, reply }).await?
    }

    /// One step further, with nothing else changed. Gives the counter that the TPM must be brought to.
    pub(crate) async fn advance(&self) -> Result<u64, LedgerError> {
        self.ask(|reply| Job::Advance { reply }).await?
    }

    /// Those of these shares that were given up here for good.
    pub(crate) async fn retired_among(
        &self,
        keys: Vec<PublicKeyBytes>,
    ) -> Result<Vec<PublicKeyBytes>, LedgerError> {
        self.ask(|reply| Job::RetiredAmong { keys, reply }).await?
    }

    /// The certificates that were kept.
    pub(crate) async fn releases(&self) -> Result<Vec<Vec<u8>>, LedgerError> {
        self.ask(|reply| Job::Releases { reply }).await?
    }

    /// The least generation of the list of clients outside the box that is believed.
    pub(crate) async fn remote_generation(&self) -> Result<u64, LedgerError> {
        self.ask(|reply| Job::RemoteGeneration { reply }).await?
    }

    /// From now on no list of an earlier generation is believed. Never lowers it.
    pub(crate) async fn keep_remote_generation(&self, generation: u64) -> Result<(), LedgerError> {
        self.ask(|reply| Job::KeepRemoteGeneration { generation, reply }).await?
    }

    /// Resolves once the thread has answered.
    pub(crate) async fn ping(&self) -> Result<(), LedgerError> {
        self.ask(|reply| Job::Ping { reply }).await
    }

    /// Ends the run and closes the database; nothing can be recorded afterwards.
    pub(crate) async fn close(&self) -> Result<(), LedgerError> {
        self.ask(|reply| Job::Close { reply }).await?
    }

    async fn ask<T>(&self, job: impl FnOnce(oneshot::Sender<T>) -> Job) -> Result<T, LedgerError> {
        let (reply, answer) = oneshot::channel();
        self.jobs.send(job(reply)).await.map_err(|_| LedgerError::Stopped)?;
        answer.await.map_err(|_| LedgerError::Stopped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::share::{HashedRoot, Share};
    use ipc::signer::ChainPreset;

    /// Whether a share's sealed form, which consists of this byte alone, is in any of the ledger's files.
    pub(super) fn is_on_disk(dir: &Path, sealed: u8) -> bool {
        let files = std::fs::read_dir(dir).unwrap();
        let content: Vec<u8> =
            files.flat_map(|entry| std::fs::read(entry.unwrap().path()).unwrap()).collect();
        content.windows(60).any(|window| window.iter().all(|byte| *byte == sealed))
    }

    /// A share in service.
    pub(super) fn share(number: u8) -> Share {
        let mut bytes = [number; 32];
        bytes[0] = 0x11; // Below the group's order.
        let secret = threshold::SecretKey::from_bytes(&bytes).unwrap();
        let pubshare = secret.public_key().to_bytes();
        let row = ShareRow {
            pubshare,
            group_key: PublicKeyBytes([9; 48]),
            share_index: 1,
            genesis_validators_root: Root([9; 32]),
            clock: ChainClock {
                genesis_time: 1000,
                slot_ms: 2000,
                slots_per_epoch: 8,
                preset: ChainPreset::Mainnet,
            },
            sealed: Vec::new(),
        };
        let index = threshold::ShareIndex::try_from(row.share_index).unwrap();
        Share::new(row, threshold::SecretShare::new(index, secret))
    }

    #[test]
    fn a_clearance_signs_its_own_root_with_its_own_share_and_nothing_else() {
        let (ours, other) = (share(7), share(8));
        let cleared = |share: &Share| Clearance { key: share.row().pubshare, signing_root: Root([1; 32]) };
        let hashed = |root| HashedRoot::new(Root([root; 32]));
        assert!(ours.sign(cleared(&ours)).is_some());
        assert!(ours.sign_hashed(cleared(&ours), &hashed(1)).is_some());
        assert!(ours.sign(cleared(&other)).is_none());
        assert!(ours.sign_hashed(cleared(&ours), &hashed(2)).is_none());
    }
}
