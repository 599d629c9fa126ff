//! The steps of an edit that touch the disk: prepare, dry run, commit.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use chain::{PublicKeyBytes, SignatureBytes};
use cluster::{Lock, SchemaVersion};
use ipc::Problem;
use ipc::edit::{
    EditBegun, EditCheck, EditChecked, EditCommit, EditCommitted, EditConsent, EditDryRun, EditKeys,
    EditPartial, EditPartials, EditPrepared, EditStage, EditStatus, EditStep, EditStepped,
    FORGO_CONFIRMATION, OpenEdit,
};
use threshold::{PublicKey, ShareIndex, Signature};

use super::{Ceremony, bad, hash_of, hash_text, malformed, none_under_way};
use crate::boot;
use crate::import::{Second, There};
use crate::ledger::{LedgerError, Pending, Recreating, ShareRow, Vouched};
use crate::rollback;
use crate::share::Share;
use crate::signer::{Signer, blocking, ledger_problem};

impl Signer {
    /// The owner allows an edit. One at a time; a new one takes the place of one that has not got to sealed shares.
    pub(crate) async fn allow_edit(self: &Arc<Self>, consent: EditConsent) -> Result<EditStatus, Problem> {
        if self.config.lacks_secure_boot() {
            return Err(boot::secure_boot_off());
        }
        let ceremony = blocking(move || Ceremony::new(consent)).await.unwrap_or_else(|| Err(fault()))?;
        self.image_keys.allow(&ceremony.genesis_validators_root)?;
        self.image_keys.allow_fork(ceremony.plan.base().fork_version)?;
        let ledger = self.ledger()?;
        let ours = ceremony.own_old_shares().unwrap_or_default();
        for (share, validator) in ours.iter().zip(&ceremony.plan.base().validators) {
            // Who leaves may give it up all the same.
            if ceremony.own_new_index().is_some() && ledger.is_stopped(share) {
                return Err(ledger_problem(&LedgerError::SignsElsewhere(*share)));
            }
            let root = &ceremony.genesis_validators_root;
            self.holds_as(share, &validator.group_public_key, root, &ceremony.clock)?;
        }
        // Held until the word is taken, so that no such key generation begins in between.
        let _none_adds = if ours.is_empty() {
            None
        } else {
            let (vault, _) = self.open_parts()?;
            self.adds_beside(&vault, &ours).await?
        };
        self.check_one_member(&ceremony)?;
        if !ceremony.is_recreate {
            // In place of making all shares anew, if that was begun with these: the owner has given that up.
            let given_up = ledger.forget_recreating(ceremony.own_old_shares().unwrap_or_default()).await;
            given_up.map_err(|error| ledger_problem(&error))?;
        }
        let status = ceremony.status();
        tracing::info!(
            threshold = ceremony.plan.threshold(),
            members = ceremony.plan.members().len(),
            "the owner allows a change of the cluster"
        );
        *self.editing.lock().await = Some(ceremony);
        Ok(status)
    }

    /// Refuses to become, or to stay, a second member of what this box has another share of. Who leaves may do so all the same.
    fn check_one_member(&self, ceremony: &Ceremony) -> Result<(), Problem> {
        let own = ceremony.own_old_shares().unwrap_or_default();
        let validators = &ceremony.plan.base().validators;
        let is_other = |row: &&ShareRow| {
            validators.iter().any(|known| known.group_public_key == row.group_key)
                && row.genesis_validators_root == ceremony.genesis_validators_root
                && !own.contains(&row.pubshare)
        };
        match self.known_rows().iter().find(is_other).filter(|_| ceremony.own_new_index().is_some()) {
            Some(other) => Err(Second {
                share: other.pubshare,
                validator: other.group_key,
                other: other.pubshare,
                there: There::Held,
            }
            .to_problem()),
            None => Ok(()),
        }
    }

    /// The same for new shares that wait and are not promised yet: another box may have given its share of their validator to this
    /// one since they were sealed. Nothing keeps that out, for it would be lost (decision 0302); so the change ends here.
    async fn check_still_one_member(&self, lock_hash: [u8; 32]) -> Result<(), Problem> {
        let pending = self.ledger()?.pending().await.map_err(|error| ledger_problem(&error))?;
        let rows = self.known_rows();
        for waiting in pending.iter().filter(|known| known.lock_hash == lock_hash && !known.is_frozen) {
            let is_other = |row: &&ShareRow| {
                row.validator() == waiting.row.validator() && Some(row.pubshare) != waiting.replaces
            };
            if let Some(other) = rows.iter().find(is_other) {
                return Err(Second {
                    share: waiting.row.pubshare,
                    validator: other.group_key,
                    other: other.pubshare,
                    there: There::Held,
                }
                .to_problem());
            }
        }
        Ok(())
    }

    /// Takes back what has this name, as [`Self::edit_status`] gives it, and nothing else. What was promised stays, but for a
    /// promise to join that the owner says nobody counts on.
    pub(crate) async fn discard_edit(
        &self,
        named: Option<&str>,
        forgoes: bool,
    ) -> Result<EditStatus, Problem> {
        let _no_import = self.importing.lock().await;
        let (_, ledger) = self.open_parts()?;
        let Some(named) = named else {
            // What there is may be another cluster's, whose members count on it.
            return Err(ipc::edit::edit_which(&self.edit_status().await?.open));
        };
        let named = Named::read(named)?;
        if let Named::Lock(hash) = named {
            self.forgo_joining(hash, forgoes).await?;
        }
        let vouched = ledger.recreating().await.map_err(|error| ledger_problem(&error))?;
        let is_meant = |ceremony: &mut Ceremony| named == Named::Lock(ceremony.plan.base().lock_hash);
        let mut editing = self.editing.lock().await;
        let ceremony = editing.take_if(is_meant);
        let in_hand =
            editing.as_ref().and_then(|ceremony| ceremony.prepared.as_ref()).map(|lock| lock.lock_hash);
        drop(editing);
        let mut shares = given_up(&vouched, named);
        // New shares that wait for this, whether or not a start has forgotten the change; none that was promised is dropped.
        let mut locks: Vec<[u8; 32]> =
            shares.iter().filter_map(|share| vouched.get(share)?.lock_hash).collect();
        // Those of a change that is remembered go by its name, with the rest of it, or not at all.
        if let Named::Lock(hash) = named
            && in_hand != Some(hash)
            && vouched.values().all(|vouched| vouched.lock_hash != Some(hash))
        {
            locks.push(hash);
        }
        shares.extend(ceremony.as_ref().and_then(Ceremony::own_old_shares).unwrap_or_default());
        locks.extend(ceremony.and_then(|ceremony| ceremony.prepared).map(|lock| lock.lock_hash));
        ledger.forget_recreating(shares).await.map_err(|error| ledger_problem(&error))?;
        for lock in locks {
            ledger.discard(lock).await.map_err(|error| ledger_problem(&error))?;
        }
        self.edit_status().await
    }

    /// Gives up the shares with which this box has promised to join by this lock, if there are any. The lock may be complete, and
    /// others may have changed over: then the cluster is one member short, and no box signs twice, for those shares are gone from
    /// here like those that another change takes the place of (decision 0371).
    async fn forgo_joining(&self, lock_hash: [u8; 32], confirmed: bool) -> Result<(), Problem> {
        let (_, ledger) = self.open_parts()?;
        let pending = ledger.pending().await.map_err(|error| ledger_problem(&error))?;
        let is_meant = |known: &Pending| known.lock_hash == lock_hash && is_promise_to_join(known);
        if !pending.iter().any(is_meant) {
            return Ok(());
        }
        if !confirmed {
            return Err(bad(
                "not_confirmed",
                "this box has promised to join: others may have the complete lock by now, and then the cluster is short of this member for good",
                &format!(
                    "Ask every member for the new cluster lock: handed in here, it brings the change to its end. Only if none has it, and the shares were made anew (`recreate`) or are about to be, type: {FORGO_CONFIRMATION}."
                ),
            ));
        }
        let mut editing = self.editing.lock().await;
        match ledger.forgo(lock_hash).await {
            Ok(Some(counter)) => self.settle_edit(counter).await?,
            Ok(None) => {}
            // Whether it is on the disk is not known: the counter is brought to what is there before anything is signed.
            Err(error) => return Err(self.lock_for(ledger_problem(&error))),
        }
        let is_it = |lock: &Lock| lock.lock_hash == lock_hash;
        editing.take_if(|ceremony| ceremony.prepared.as_ref().is_some_and(is_it));
        tracing::warn!(lock = %hash_text(&lock_hash), "the owner gave up the shares with which this box was to join");
        Ok(())
    }

    /// How far it is. What is on the disk counts more than what is in memory.
    pub(crate) async fn edit_status(&self) -> Result<EditStatus, Problem> {
        let pending = self.ledger()?.pending().await.map_err(|error| ledger_problem(&error))?;
        let vouched = self.ledger()?.recreating().await.map_err(|error| ledger_problem(&error))?;
        let mut open = self.vouched_for(&vouched);
        let mut known: Vec<[u8; 32]> = vouched.values().filter_map(|vouched| vouched.lock_hash).collect();
        let mut status = match &*self.editing.lock().await {
            Some(ceremony) => {
                known.extend(ceremony.prepared.as_ref().map(|lock| lock.lock_hash));
                let base = ceremony.plan.base();
                let validator = base.validators.first().map(|first| first.group_public_key.to_string());
                let name = hash_text(&base.lock_hash);
                let validators = base.validators.len();
                open.insert(name.clone(), OpenEdit { name, validators, validator, promised: false });
                ceremony.status()
            }
            None => EditStatus {
                stage: EditStage::None,
                lock_hash: None,
                dealt: 0,
                validators: pending.len(),
                open: Vec::new(),
            },
        };
        // New shares whose change nobody remembers, and those that were promised to join: by the lock that they wait for.
        for waiting in pending.iter().filter(|waiting| {
            is_promise_to_join(waiting) || (!waiting.is_frozen && !known.contains(&waiting.lock_hash))
        }) {
            let name = hash_text(&waiting.lock_hash);
            let validator = Some(waiting.row.group_key.to_string());
            let promised = waiting.is_frozen;
            let new = OpenEdit { name: name.clone(), validators: 0, validator, promised };
            open.entry(name).or_insert(new).validators += 1;
        }
        status.open = open.into_values().collect();
        if let Some(waiting) = pending.iter().max_by_key(|pending| pending.is_frozen) {
            status.lock_hash = Some(hash_text(&waiting.lock_hash));
            status.stage = if waiting.is_frozen { EditStage::Frozen } else { EditStage::Prepared };
        }
        Ok(status)
    }

    /// What old shares have vouched for, by the name that it is given up by.
    fn vouched_for(&self, vouched: &Recreating) -> BTreeMap<String, OpenEdit> {
        let mut open: BTreeMap<String, OpenEdit> = BTreeMap::new();
        for (share, known) in vouched {
            let name = Named::of(share, known).to_string();
            let validator = self.known_row(share).map(|(row, _)| row.group_key.to_string());
            let new = OpenEdit { name: name.clone(), validators: 0, validator, promised: false };
            open.entry(name).or_insert(new).validators += 1;
        }
        open
    }

    /// What this member announces.
    pub(crate) async fn begin_edit(&self) -> Result<EditBegun, Problem> {
        let _no_import = self.importing.lock().await;
        let (vault, ledger) = self.open_parts()?;
        let rows = ledger.rows().await.map_err(|error| ledger_problem(&error))?;
        let open = |share: PublicKeyBytes| {
            rows.iter().find(|row| row.pubshare == share).and_then(|row| vault.open_share(row))
        };
        let mut editing = self.editing.lock().await;
        forget_stale(&mut editing)?;
        let ceremony = editing.as_mut().ok_or_else(none_under_way)?;
        if ceremony.is_recreate && !ceremony.has_vouched() {
            let shares = ceremony.own_old_shares().unwrap_or_default();
            // Without them there will be no voucher.
            if let Some(share) = shares.iter().find(|share| open(**share).is_none()) {
                return Err(super::ceremony::share_missing(share));
            }
            // Before the voucher leaves, durably: the others count on it from then on, whatever becomes of this process and
            // whichever copy of the disk is put back.
            let vouched = Vouched { lock_hash: None, base: Some(ceremony.plan.base().lock_hash) };
            match ledger.keep_recreating(shares, vouched).await {
                Ok(counter) => self.settle_edit(counter).await?,
                // Whether it is on the disk is not known: the counter is brought to what is there before anything is signed.
                Err(error) => return Err(self.lock_for(ledger_problem(&error))),
            }
        }
        ceremony.begin(open)
    }

    /// The members' keys.
    pub(crate) async fn edit_keys(&self, keys: EditKeys) -> Result<EditStatus, Problem> {
        let mut editing = self.editing.lock().await;
        forget_stale(&mut editing)?;
        let ceremony = editing.as_mut().ok_or_else(none_under_way)?;
        ceremony.take_keys(&keys)?;
        Ok(ceremony.status())
    }

    /// One event of one validator's resharing.
    pub(crate) async fn edit_step(&self, step: EditStep) -> Result<EditStepped, Problem> {
        let (vault, ledger) = self.open_parts()?;
        let rows = ledger.rows().await.map_err(|error| ledger_problem(&error))?;
        let mut editing = self.editing.lock().await;
        let ceremony = editing.as_mut().ok_or_else(none_under_way)?;
        let open = |share: PublicKeyBytes| {
            rows.iter().find(|row| row.pubshare == share).and_then(|row| vault.open_share(row))
        };
        let outcome = ceremony.step(&step, open);
        if outcome.as_ref().is_err_and(|problem| problem.code == "edit_failed") {
            *editing = None; // Nothing of it is of use any more.
        }
        outcome
    }

    /// Seals the new shares beside the old ones, which go on signing.
    pub(crate) async fn prepare_edit(&self) -> Result<EditPrepared, Problem> {
        let _no_import = self.importing.lock().await;
        let (vault, ledger) = self.open_parts()?;
        let mut editing = self.editing.lock().await;
        let ceremony = editing.as_mut().ok_or_else(none_under_way)?;
        if let Some(lock) = &ceremony.prepared {
            return prepared(lock);
        }
        // A share may have come in since the owner's word was taken.
        self.check_one_member(ceremony)?;
        let replaced = ceremony.own_old_shares();
        // Whoever has the complete lock of that promise may hold live shares of it. Only all members together, each still with
        // its old share, prove that nobody who stays has changed over (decision 0180).
        let known = ledger.pending().await.map_err(|error| ledger_problem(&error))?;
        let ours = replaced.as_deref().unwrap_or_default();
        let promised =
            |known: &Pending| known.is_frozen && known.replaces.is_some_and(|old| ours.contains(&old));
        if !ceremony.is_recreate && known.iter().any(promised) {
            return Err(bad(
                "edit_promised",
                "a change was promised before, and others may hold its complete lock",
                "Get that lock, or make all shares anew (`recreate`) with every member of the lock in force.",
            ));
        }
        let (lock, shares) = ceremony.finish()?;
        let mut pending = Vec::with_capacity(shares.len());
        for (validator, share) in shares.iter().enumerate() {
            let share_index = ceremony.own_new_index().ok_or_else(fault)?;
            let group = ceremony.plan.base().validators.get(validator).ok_or_else(fault)?;
            let mut row = ShareRow {
                pubshare: share.public_share().key.to_bytes(),
                group_key: group.group_public_key,
                share_index,
                genesis_validators_root: ceremony.genesis_validators_root,
                clock: ceremony.clock,
                sealed: Vec::new(),
            };
            row.sealed = vault.seal_share(&row, share.key())?;
            if vault.open_share(&row).is_none() {
                return Err(fault());
            }
            let replaces = replaced.as_ref().and_then(|shares| shares.get(validator).copied());
            pending.push(Pending { row, replaces, lock_hash: lock.lock_hash, is_frozen: false });
        }
        if ceremony.is_recreate {
            let shares = replaced.unwrap_or_default();
            let base = Some(ceremony.plan.base().lock_hash);
            let vouched = Vouched { lock_hash: Some(lock.lock_hash), base };
            match ledger.keep_recreating(shares, vouched).await {
                Ok(counter) => self.settle_edit(counter).await?,
                Err(error) => return Err(self.lock_for(ledger_problem(&error))),
            }
        }
        if !pending.is_empty() {
            let counter = ledger.prepare(pending).await.map_err(|error| ledger_problem(&error))?;
            if let Some(counter) = counter {
                self.settle_edit(counter).await?;
            }
        }
        let answer = prepared(&lock)?;
        ceremony.prepared = Some(lock);
        Ok(answer)
    }

    /// Each new share signs the new lock's hash, which no chain would take for anything. Before, durably and for good, the old
    /// ones stop voting: so whoever sees all these signatures knows that no old share votes any more.
    pub(crate) async fn dry_run(&self, request: EditDryRun) -> Result<EditPartials, Problem> {
        let _no_import = self.importing.lock().await;
        let lock_hash = hash_of(&request.lock_hash)?;
        let (vault, ledger) = self.open_parts()?;
        self.check_still_one_member(lock_hash).await?;
        // The hash is one that this signer worked out itself: nothing else is ever written beside a new share.
        let counter = match ledger.freeze(lock_hash).await {
            Ok(counter) => counter,
            // Refused before anything was written.
            Err(
                error @ (LedgerError::NothingPrepared
                | LedgerError::NotHere(_)
                | LedgerError::SignsElsewhere(_)),
            ) => return Err(ledger_problem(&error)),
            // Whether it is on the disk is not known: the counter is brought to what is there before anything is signed.
            Err(error) => return Err(self.lock_for(ledger_problem(&error))),
        };
        if let Some(counter) = counter {
            self.settle_edit(counter).await?;
            tracing::warn!(lock = %request.lock_hash, "the old shares sign no more: the change of the cluster has begun");
        }
        let pending = ledger.pending().await.map_err(|error| ledger_problem(&error))?;
        let mut partials = Vec::with_capacity(pending.len());
        for pending in pending.iter().filter(|pending| pending.lock_hash == lock_hash && pending.is_frozen) {
            let share = vault.open_share(&pending.row).ok_or_else(|| {
                bad(
                    "share_damaged",
                    "a new share was changed on the disk and does not open",
                    "Change the cluster again.",
                )
            })?;
            partials.push(EditPartial {
                validator: pending.row.group_key.to_string(),
                signature: share.sign(&lock_hash).to_bytes().to_string(),
            });
        }
        Ok(EditPartials { partials })
    }

    /// Whether all new shares signed, each for itself and together under the unchanged keys.
    pub(crate) async fn check_dry_run(&self, request: EditCheck) -> Result<EditChecked, Problem> {
        blocking(move || check(&request)).await.unwrap_or_else(|| Err(fault()))
    }

    /// Gives the old shares up for the new ones, or for nothing when this member leaves.
    pub(crate) async fn commit_edit(&self, request: EditCommit) -> Result<EditCommitted, Problem> {
        let _no_import = self.importing.lock().await;
        let mut editing = self.editing.lock().await;
        let custom = editing.as_ref().map(|ceremony| ceremony.custom.clone()).unwrap_or_default();
        let verified = blocking(move || {
            let invalid = |text: String| {
                bad("lock_invalid", &text, "Wait until every member has signed, or get the complete lock.")
            };
            let lock = Lock::from_value(request.lock).map_err(|error| invalid(error.to_string()))?;
            if lock.signature_aggregate.is_empty() {
                return Err(invalid("the lock is not signed by the new shares".to_owned()));
            }
            lock.verify(&custom).map_err(|error| invalid(error.to_string()))?;
            Ok(lock)
        });
        let lock = verified.await.unwrap_or_else(|| Err(fault()))?;
        let (vault, ledger) = self.open_parts()?;
        let pending = ledger.pending().await.map_err(|error| ledger_problem(&error))?;
        let waiting: Vec<&Pending> =
            pending.iter().filter(|pending| pending.lock_hash == lock.lock_hash).collect();
        if waiting.is_empty() {
            let leaving = editing.as_ref().and_then(|ceremony| leaving(ceremony, &lock));
            if let Some(shares) = leaving {
                return self.leave(shares, &lock, &mut editing).await;
            }
            return self.already_committed(&lock).await;
        }
        // While all members make their shares anew, the others count on the old share that this one vouched with: an earlier
        // change of it may have been dropped by them already.
        let vouched = ledger.recreating().await.map_err(|error| ledger_problem(&error))?;
        let for_another = |pending: &&Pending| {
            let known = pending.replaces.and_then(|old| vouched.get(&old));
            known.is_some_and(|known| known.lock_hash != Some(lock.lock_hash))
        };
        if waiting.iter().any(for_another) {
            return Err(bad(
                "edit_under_way",
                "all shares are being made anew, which the other members count on",
                "Let that come to its end; if it was begun more than once, the last one counts. If it cannot, give it up on every member, then hand the lock in again.",
            ));
        }
        // The floors of the new shares are as good as the clock.
        self.trust_clock().map_err(|refusal| refusal.to_problem())?;
        // Out of memory first: from here on the old shares make no signature of any kind.
        let old: Vec<PublicKeyBytes> = waiting.iter().filter_map(|pending| pending.replaces).collect();
        self.withdraw(&old);
        let committed = match ledger.commit(lock.lock_hash).await {
            Ok(committed) => committed,
            Err(error) => return Err(self.lock_for(ledger_problem(&error))),
        };
        self.settle_edit(committed.counter).await?;
        let mut shares = Vec::with_capacity(committed.rows.len());
        for row in &committed.rows {
            // Allowed by software that did not ask, or before this image. After the promise nothing is refused: what may not be
            // served is kept as it is.
            if let Err(problem) = self.may_serve(row) {
                tracing::error!(pubshare = %row.pubshare, code = %problem.code, "a new share is not put into service for the sake of its chain");
                continue;
            }
            let Some(secret) = vault.open_share(row) else {
                return Err(self.lock_for(fault())); // Shown as damaged when the signer unlocks again.
            };
            shares.push(Share::new(row.clone(), secret));
        }
        let begins = committed.resuming.values().max().map(|epoch| epoch.0);
        let keys = |rows: &[ShareRow]| rows.iter().map(|row| row.pubshare.to_string()).collect();
        let answer = EditCommitted {
            shares: keys(&committed.rows),
            retired: committed.retired.iter().map(ToString::to_string).collect(),
            begins_in_epoch: begins,
        };
        self.replace(&committed.retired, committed.rows, shares, committed.resuming);
        *editing = None;
        tracing::warn!(new = answer.shares.len(), retired = answer.retired.len(), begins = ?begins, "the cluster was changed: the new shares are in force");
        Ok(answer)
    }

    async fn leave(
        &self,
        shares: Vec<PublicKeyBytes>,
        lock: &Lock,
        editing: &mut Option<Ceremony>,
    ) -> Result<EditCommitted, Problem> {
        let (_, ledger) = self.open_parts()?;
        self.withdraw(&shares);
        let counter = match ledger.leave(shares.clone(), lock.lock_hash).await {
            Ok(counter) => counter,
            Err(error) => return Err(self.lock_for(ledger_problem(&error))),
        };
        self.settle_edit(counter).await?;
        self.forget(&shares);
        *editing = None;
        tracing::warn!(retired = shares.len(), "this box has left the cluster: its shares are gone");
        let retired = shares.iter().map(ToString::to_string).collect();
        Ok(EditCommitted { shares: Vec::new(), retired, begins_in_epoch: None })
    }

    /// Asked again after a lost answer: the new shares are held already, or the old ones are gone for this lock.
    async fn already_committed(&self, lock: &Lock) -> Result<EditCommitted, Problem> {
        let held: Vec<String> = self
            .known_rows()
            .iter()
            .filter(|row| {
                let place = usize::from(row.share_index).checked_sub(1);
                let validator = lock.validators.iter().find(|known| known.public_key == row.group_key);
                validator.zip(place).is_some_and(|(validator, place)| {
                    validator.public_shares.get(place) == Some(&row.pubshare)
                })
            })
            .map(|row| row.pubshare.to_string())
            .collect();
        let gone =
            self.ledger()?.retired_for(lock.lock_hash).await.map_err(|error| ledger_problem(&error))?;
        if held.is_empty() && gone.is_empty() {
            return Err(bad(
                "edit_out_of_order",
                "no new share waits here for this lock",
                "If this box leaves the cluster with that lock, allow the same change again and go on with it. If its promise to join was given up here, it does not join with this lock any more: the other members replace it, or make the shares anew without it.",
            ));
        }
        let retired = gone.iter().map(ToString::to_string).collect();
        Ok(EditCommitted { shares: held, retired, begins_in_epoch: None })
    }

    /// Brings the TPM's counter to the ledger's, so that no copy of the disk from before can take the step back.
    async fn settle_edit(&self, counter: u64) -> Result<(), Problem> {
        match rollback::settle(self.witness(), counter).await {
            Ok(()) => Ok(()),
            Err(problem) => Err(self.lock_for(problem)),
        }
    }

    fn lock_for(&self, problem: Problem) -> Problem {
        self.lock_again(problem.clone());
        problem
    }
}

/// Whether this box joins with that share and has promised so. No old share is silent for it here.
fn is_promise_to_join(pending: &Pending) -> bool {
    pending.is_frozen && pending.replaces.is_none()
}

/// What a change is given up by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Named {
    /// The cluster whose lock in force has this hash.
    Lock([u8; 32]),
    /// One old share of which it was not kept whose cluster's it is.
    Share(PublicKeyBytes),
}

impl Named {
    fn read(text: &str) -> Result<Self, Problem> {
        let is_share = |key: &PublicKeyBytes| text.len() == key.to_string().len();
        match text.parse::<PublicKeyBytes>().ok().filter(is_share) {
            Some(share) => Ok(Self::Share(share)),
            None => hash_of(text).map(Self::Lock),
        }
    }

    fn of(share: &PublicKeyBytes, known: &Vouched) -> Self {
        known.base.map_or(Self::Share(*share), Self::Lock)
    }
}

impl std::fmt::Display for Named {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Lock(hash) => to.write_str(&hash_text(hash)),
            Self::Share(share) => share.fmt(to),
        }
    }
}

/// The shares whose making anew the owner gives up by this name. Other clusters' members count on theirs, and of a share of which it
/// is not known whose it is, nobody can say that they do not.
fn given_up(vouched: &Recreating, named: Named) -> Vec<PublicKeyBytes> {
    let meant = vouched.iter().filter(|(share, known)| Named::of(share, known) == named);
    meant.map(|(share, _)| *share).collect()
}

/// What was allowed once and never came about must not be dug out long after the owner has forgotten it.
fn forget_stale(editing: &mut Option<Ceremony>) -> Result<(), Problem> {
    if !editing.as_ref().is_some_and(|ceremony| ceremony.is_stale(Instant::now())) {
        return Ok(());
    }
    *editing = None;
    Err(bad(
        "edit_consent_expired",
        "the owner allowed this change more than an hour ago, and shares were not dealt since",
        "Begin it again on the box's page.",
    ))
}

/// The shares that this member gives up, when the lock is the one of the edit in which it leaves: the one that this signer
/// worked out itself while it dealt. A signer that was switched off since does not know that one any more; then the new
/// operators' signatures, which locks have since v1.7, show that it is no lock of somebody's own making.
fn leaving(ceremony: &Ceremony, lock: &Lock) -> Option<Vec<PublicKeyBytes>> {
    if ceremony.own_new_index().is_some() {
        return None;
    }
    let is_it = match &ceremony.prepared {
        Some(prepared) => prepared.lock_hash == lock.lock_hash,
        // No honest lock is complete before this member has prepared its own.
        None if ceremony.has_begun() => false,
        None => {
            let public: Vec<_> =
                lock.validators.iter().map(|validator| validator.public_shares.clone()).collect();
            lock.definition.version >= SchemaVersion::V1_7
                && ceremony.plan.lock(&public).is_ok_and(|planned| planned.lock_hash == lock.lock_hash)
        }
    };
    if is_it { ceremony.own_old_shares() } else { None }
}

fn prepared(lock: &Lock) -> Result<EditPrepared, Problem> {
    let bytes = lock.to_json().map_err(|_| fault())?;
    let lock_json = serde_json::from_slice(&bytes).map_err(|_| fault())?;
    Ok(EditPrepared { lock: lock_json, lock_hash: hash_text(&lock.lock_hash) })
}

/// Every partial under its own public share, and two different groups of them under the validator's key.
fn check(request: &EditCheck) -> Result<EditChecked, Problem> {
    let lock = Lock::from_value(request.lock.clone())
        .map_err(|error| bad("lock_invalid", &error.to_string(), "Take the lock as the signer gave it."))?;
    lock.verify_hashes()
        .map_err(|error| bad("lock_invalid", &error.to_string(), "Take the lock as the signer gave it."))?;
    let wrong = |member: usize| {
        bad(
            "dry_run_failed",
            &format!(
                "member {} did not sign the new lock with the new shares that the others dealt it",
                member + 1
            ),
            "The old shares are not given up. Ask that member what its log says, and change the cluster again.",
        )
    };
    let members = lock.definition.operators.len();
    if request.members.len() != members {
        return Err(malformed("`members` has not one list for each new member"));
    }
    let mut by_member: Vec<BTreeMap<PublicKeyBytes, Signature>> = Vec::with_capacity(members);
    for (member, partials) in request.members.iter().enumerate() {
        let mut parsed = BTreeMap::new();
        for partial in partials {
            let key: PublicKeyBytes =
                partial.validator.parse().map_err(|_| malformed("`validator` is no key"))?;
            let signature: SignatureBytes =
                partial.signature.parse().map_err(|_| malformed("`signature` is none"))?;
            parsed.insert(key, Signature::parse(&signature).map_err(|_| wrong(member))?);
        }
        by_member.push(parsed);
    }
    let threshold = usize::try_from(lock.definition.threshold).unwrap_or(usize::MAX);
    let mut all = Vec::new();
    for validator in &lock.validators {
        let mut partials = Vec::with_capacity(members);
        for (member, signatures) in by_member.iter().enumerate() {
            let share = validator.public_shares.get(member).ok_or_else(|| wrong(member))?;
            let share = PublicKey::parse(share).map_err(|_| wrong(member))?;
            let signature = signatures.get(&validator.public_key).ok_or_else(|| wrong(member))?;
            if !threshold::verify(&share, &lock.lock_hash, signature) {
                return Err(wrong(member));
            }
            let index = u64::try_from(member + 1).ok().and_then(|index| ShareIndex::new(index).ok());
            partials.push((index.ok_or_else(fault)?, signature.to_bytes()));
            all.push(*signature);
        }
        let first = partials.get(..threshold).ok_or_else(fault)?;
        let last = partials.get(members - threshold..).ok_or_else(fault)?;
        for group in [first, last] {
            let whole = threshold::combine(group).map_err(|_| fault())?;
            threshold::verify_bytes(&validator.public_key, &lock.lock_hash, &whole).map_err(|_| {
                bad(
                    "dry_run_failed",
                    &format!("the new shares do not make a signature of the validator {}", validator.public_key),
                    "The old shares are not given up. A member dealt two different things: change the cluster again without the one whose software is not sound.",
                )
            })?;
        }
    }
    let aggregate = threshold::aggregate_signatures(&all).map_err(|_| fault())?;
    Ok(EditChecked { signature_aggregate: aggregate.to_bytes().to_string() })
}

fn fault() -> Problem {
    Problem::new("edit_fault", "The change of the cluster stopped by a fault of ours.", "Report this.")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use chain::ExecutionAddress;
    use cluster::Network;
    use cluster::create::{self, Addresses, CreateOptions, CreatedCluster};
    use ipc::edit::EditNetwork;
    use ipc::signer::{ChainClock, ChainPreset};
    use threshold::SecretKey;

    use super::*;

    /// A cluster of five which the first member leaves, and what its owner says.
    fn leaving_consent() -> (CreatedCluster, EditConsent) {
        let network = Network {
            name: "local".to_owned(),
            chain_id: 1337,
            genesis_fork_version: chain::ForkVersion([0x20, 0, 0, 0x89]),
            genesis_time: 1_700_000_000,
        };
        let addresses =
            Addresses { fee_recipient: ExecutionAddress([1; 20]), withdrawal: ExecutionAddress([2; 20]) };
        let options = CreateOptions::new("five", 5, 1, network.clone(), addresses);
        let created = create::cluster(&options, &mut rand::rng()).unwrap();
        let enr = created.lock.definition.operators[0].enr.clone();
        let consent = EditConsent {
            lock: serde_json::from_slice(&created.lock.to_json().unwrap()).unwrap(),
            edit: serde_json::json!({ "remove": { "operators": [enr], "dealing": [enr] } }),
            identity: hex::encode(created.nodes[0].identity.public_key().as_bytes()),
            minor: 10,
            genesis_validators_root: chain::Root([7; 32]).to_string(),
            chain: ChainClock {
                genesis_time: network.genesis_time,
                slot_ms: 12_000,
                slots_per_epoch: 32,
                preset: ChainPreset::Mainnet,
            },
            network: Some(EditNetwork { name: network.name, chain_id: network.chain_id }),
            unvouched: Vec::new(),
        };
        (created, consent)
    }

    fn leaver() -> (CreatedCluster, Ceremony) {
        let (created, consent) = leaving_consent();
        (created, Ceremony::new(consent).unwrap())
    }

    fn lock_of(ceremony: &Ceremony) -> Lock {
        let share = || {
            let secret = SecretKey::random(&mut rand::rng());
            secret.public_key().to_bytes()
        };
        ceremony.plan.lock(&[(0..4).map(|_| share()).collect()]).unwrap()
    }

    #[test]
    fn who_leaves_gives_its_shares_up_for_the_lock_that_it_dealt_and_for_no_other() {
        let (_, mut ceremony) = leaver();
        let (dealt, other) = (lock_of(&ceremony), lock_of(&ceremony));
        ceremony.prepared = Some(dealt.clone());
        assert_eq!(leaving(&ceremony, &dealt), ceremony.own_old_shares());
        assert_eq!(leaving(&ceremony, &other), None);
        // Switched off since: any lock of this change that its operators signed.
        ceremony.prepared = None;
        assert!(leaving(&ceremony, &other).is_some());
        let old = Lock { definition: older(&other), ..other };
        assert_eq!(leaving(&ceremony, &old), None);
    }

    fn older(lock: &Lock) -> cluster::Definition {
        cluster::Definition { version: SchemaVersion::V1_6, ..lock.definition.clone() }
    }

    #[test]
    fn what_is_given_up_is_what_is_named_and_nothing_is_guessed() {
        let (one, other) = (PublicKeyBytes([1; 48]), PublicKeyBytes([2; 48]));
        let (old, older) = (PublicKeyBytes([3; 48]), PublicKeyBytes([4; 48]));
        let of = |base: Option<u8>| Vouched { lock_hash: None, base: base.map(|byte| [byte; 32]) };
        // What was written before the cluster was kept is nobody's but its share's.
        let vouched =
            Recreating::from([(one, of(Some(1))), (other, of(Some(2))), (old, of(None)), (older, of(None))]);
        let by = |name: &str| given_up(&vouched, Named::read(name).unwrap());
        assert_eq!(by(&hash_text(&[2; 32])), [other]);
        assert_eq!(by(&hash_text(&[9; 32])), []);
        assert_eq!(by(&old.to_string()), [old]);
        assert_eq!(by(&one.to_string()), [], "it has another name");
        for (share, known) in &vouched {
            assert_eq!(by(&Named::of(share, known).to_string()), [*share], "as it is shown");
        }
        assert!(Named::read("unreadable").is_err() && Named::read("").is_err());
    }

    #[test]
    fn a_public_chain_s_root_comes_with_that_chain_s_clock_and_lock_or_not_at_all() {
        let (_, mut consent) = leaving_consent();
        let mainnet = Network::by_name("mainnet").unwrap();
        consent.genesis_validators_root = mainnet.genesis_validators_root().unwrap().to_string();
        let refused = |consent: &EditConsent| Ceremony::new(consent.clone()).err().unwrap().code;
        assert_eq!(refused(&consent), "chain_clock_wrong");
        consent.chain.genesis_time = mainnet.genesis_time;
        assert_eq!(refused(&consent), "chain_root_wrong", "the lock is for another chain");
    }

    #[test]
    fn the_owner_s_word_holds_for_an_hour_until_dealing_begins() {
        let (_, ceremony) = leaver();
        let now = Instant::now();
        assert!(!ceremony.is_stale(now + Duration::from_secs(3_500)));
        assert!(ceremony.is_stale(now + Duration::from_secs(3_700)));
    }
}
