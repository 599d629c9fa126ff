//! The signer as a whole: from start to a signature, in the order that keeps the stake safe.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use chain::{Epoch, PublicKeyBytes, SignatureBytes};
use ipc::{
    Problem, SignRequest, SignerStatus,
    envelope::ImportSecret,
    signer::{ClockVouched, HeldShare, KeyProtection, ProtectionTier},
};

use crate::{
    boot,
    clock::now,
    clock_guard::{self, ClockWatch},
    config::Config,
    edit,
    ledger::{AllRules, Approvals, Ledger, LedgerError, Resuming, ShareRow},
    message::{self, Asks, Message},
    metrics::Metrics,
    owner::Confirmed,
    real_chain::ImageKeys,
    refusal::Refusal,
    rollback::{self, Witness},
    rules::{self, Permitted, Rules, Subject},
    share::{self, Share},
    unserved::{damaged_share, held_twice, unfinished_edit, waiting},
    vault::{Vault, VaultError},
};

/// How often the clock is looked at when nobody asks for signatures.
const LOOK_AT_CLOCK: Duration = Duration::from_secs(1);
/// Sealed files in memory at once. Each may take twelve megabytes of what may be locked.
const LARGE_BODIES: usize = 4;
/// How often a locked signer tries again: the TPM's driver may come up after us.
const RETRY: Duration = Duration::from_secs(10);

/// The whole signer. Shared by all requests.
pub(crate) struct Signer {
    pub(crate) config: Config,
    pub(crate) metrics: Metrics,
    /// Whose keys signed this system.
    pub(crate) image_keys: ImageKeys,
    clock: ClockWatch,
    /// How often the clock had been set when the floors were raised last. Counts where they are all there is against an old copy.
    floors_know_of: AtomicU64,
    ledger: Result<Ledger, Problem>,
    state: RwLock<State>,
    /// Imports go one after the other: each may take 256 MB for a keystore's scrypt.
    pub(crate) importing: tokio::sync::Mutex<()>,
    /// Since the last start the counter has gone one further: no copy of the disk with shares is current any more.
    pub(crate) certificates_may_leave: AtomicBool,
    /// Large bodies are read for a few callers at a time; see [`crate::api`].
    pub(crate) places: Arc<tokio::sync::Semaphore>,
    /// Those of `dv-node` come one after the other; see [`crate::api::sign::Turn`].
    pub(crate) turns: Arc<tokio::sync::Semaphore>,
    /// Who stands before the box.
    pub(crate) presence: crate::presence::Presence,
    /// Key generation under way.
    pub(crate) ceremonies: crate::ceremony::Ceremonies,
    /// The owner's words come one after the other, and no exit is signed while one of them is being written.
    pub(crate) wishing: tokio::sync::Mutex<()>,
    /// The change of the cluster that the owner has allowed.
    pub(crate) editing: tokio::sync::Mutex<Option<edit::Ceremony>>,
    /// The door for clients outside the box.
    pub(crate) remote: crate::remote::Remote,
    /// The passphrase of a board without a TPM.
    pub(crate) no_tpm: crate::no_tpm::NoTpm,
    /// How often the TPM's counter may still be stepped.
    pub(crate) wear: crate::wear::Budget,
}

#[derive(Default)]
struct State {
    vault: Option<Arc<Vault>>,
    /// Why there is no vault, or what is wrong with single shares.
    problems: Vec<Problem>,
    /// All shares in the ledger, whether they could be opened or not.
    rows: Vec<ShareRow>,
    shares: BTreeMap<PublicKeyBytes, Arc<Share>>,
    /// New shares, and when each may begin.
    beginning: Resuming,
    /// What the owner has settled, by validator.
    rules: AllRules,
    /// The exits that the owner has confirmed, by validator.
    exits: BTreeMap<PublicKeyBytes, Confirmed>,
}

impl Signer {
    /// Opens ledger and vault. Never fails: a signer that cannot sign says why on its status.
    pub(crate) async fn start(config: Config, metrics: Metrics) -> Arc<Self> {
        let ledger = Ledger::open(&config.state_dir, metrics.clone()).map_err(|error| {
            tracing::error!(%error, "the ledger cannot be used: nothing is signed");
            ledger_problem(&error)
        });
        let state = RwLock::default();
        let (importing, wishing) = (tokio::sync::Mutex::default(), tokio::sync::Mutex::default());
        let ceremonies = crate::ceremony::Ceremonies::default();
        let editing = tokio::sync::Mutex::default();
        let remote = crate::remote::Remote::default();
        let image_keys = ImageKeys::of_image(&config.os_release);
        let clock = ClockWatch::new(config.clock.mark.clone());
        let presence = crate::presence::Presence::default();
        let signer = Arc::new(Self {
            config,
            metrics,
            image_keys,
            clock,
            floors_know_of: AtomicU64::new(0),
            ledger,
            state,
            importing,
            certificates_may_leave: AtomicBool::new(false),
            places: Arc::new(tokio::sync::Semaphore::new(LARGE_BODIES)),
            turns: Arc::new(tokio::sync::Semaphore::new(1)),
            presence,
            wishing,
            ceremonies,
            editing,
            remote,
            no_tpm: crate::no_tpm::NoTpm::default(),
            wear: crate::wear::Budget::default(),
        });
        signer.show_passphrase_key();
        signer.unlock().await;
        signer
    }

    /// Tries to unlock whenever it is locked: at the start, and again when an import left the TPM's counter behind.
    pub(crate) async fn keep_unlocking(self: Arc<Self>) {
        while self.ledger.is_ok() {
            // Who waits for the clock alone goes on as soon as it is vouched for, and has not asked the TPM yet.
            let waits_for_clock = self.clock_is_awaited();
            tokio::time::sleep(if waits_for_clock { LOOK_AT_CLOCK } else { RETRY }).await;
            let _no_import = self.importing.lock().await;
            if self.read(|state| state.vault.is_none()) {
                self.unlock().await;
            }
        }
    }

    fn clock_is_awaited(&self) -> bool {
        let of_clock = |problem: &Problem| problem.code.starts_with("clock_");
        self.read(|state| state.vault.is_none() && state.problems.first().is_some_and(of_clock))
    }

    /// A clock that is set while nobody asks for a signature is noticed as well.
    pub(crate) async fn keep_watching_the_clock(self: Arc<Self>) {
        loop {
            tokio::time::sleep(LOOK_AT_CLOCK).await;
            // What it says now, whoever asks next is told.
            if self.clock.judge().is_ok() && self.floors_are_behind() {
                self.raise_floors_after_a_step().await;
            }
        }
    }

    /// Whether the clock was set since the floors were raised by it, where only they keep an old copy of the ledger from
    /// signing again. That holds for a whole machine that was put back while it ran, too: its clock makes a step.
    fn floors_are_behind(&self) -> bool {
        self.is_unlocked()
            && matches!(self.witness(), Witness::Nobody)
            && self.clock.steps() != self.floors_know_of.load(Ordering::Relaxed)
    }

    /// Raises them by the clock as it is now. When that fails nothing is signed, and it is tried again.
    async fn raise_floors_after_a_step(&self) {
        let Ok(ledger) = &self.ledger else { return };
        // A step that comes meanwhile counts as not known.
        let steps = self.clock.steps();
        match ledger.raise_floors().await {
            Ok(()) => self.floors_know_of.store(steps, Ordering::Relaxed),
            Err(error) => tracing::error!(%error, "the floors could not be raised: nothing is signed"),
        }
    }

    /// Whether the clock may be believed.
    pub(crate) fn trust_clock(&self) -> Result<(), Refusal> {
        self.clock.judge().map_err(clock_guard::Doubt::to_refusal)?;
        if self.floors_are_behind() {
            return Err(Refusal::ClockWasSet);
        }
        let Ok(ledger) = &self.ledger else { return Ok(()) };
        match clock_guard::behind(now(), ledger.recorded_at()) {
            Some(by_ms) => Err(Refusal::ClockBehind { by_s: by_ms.div_ceil(1000) }),
            None => Ok(()),
        }
    }

    /// Clock, TPM, vault, anti-rollback, shares; in this order, and each only if the one before went well. The clock is the
    /// first: by it the floors are raised over what may have been forgotten.
    pub(crate) async fn unlock(&self) {
        let Ok(ledger) = &self.ledger else { return };
        if let Err(refusal) = self.trust_clock() {
            return self.stay_locked(refusal.to_problem());
        }
        // Read anew on each attempt: an import may have come in between.
        let rows = match ledger.rows().await {
            Ok(rows) => rows,
            Err(error) => return self.stay_locked(ledger_problem(&error)),
        };
        self.write(|state| state.rows.clone_from(&rows));
        match ledger.wishes().await {
            Ok((rules, exits)) => {
                self.adopt_rules(rules);
                // Known from now on: its delay begins anew with each start, for the clock may have been wrong before.
                self.adopt_approvals(&exits, Instant::now());
            }
            Err(error) => return self.stay_locked(ledger_problem(&error)),
        }
        let waiting = match ledger.pending().await {
            Ok(waiting) => waiting,
            Err(error) => return self.stay_locked(ledger_problem(&error)),
        };
        let config = self.config.clone();
        let given_away = match ledger.releases().await {
            Ok(kept) => kept,
            Err(error) => return self.stay_locked(ledger_problem(&error)),
        };
        // A certificate is sealed like a share: with another vault it would be lost without a word.
        let shares_exist = !rows.is_empty() || !waiting.is_empty() || !given_away.is_empty();
        let opened = blocking(move || Vault::open(&config, shares_exist)).await;
        let vault = match opened {
            Some(Ok(vault)) => Arc::new(vault),
            Some(Err(error)) => {
                let typed = self.no_tpm.opened().filter(|_| matches!(error, VaultError::PassphraseNeeded));
                match typed {
                    Some(vault) => vault,
                    None => return self.stay_locked(error.to_problem()),
                }
            }
            None => return self.stay_locked(crashed()),
        };
        let witness = vault.witness(&self.config.tpm);
        let by_the_clock_alone = matches!(witness, Witness::Nobody);
        if let Err(problem) = rollback::begin_run(witness, ledger).await {
            return self.stay_locked(problem);
        }
        if by_the_clock_alone && self.clock.steps() != self.floors_know_of.load(Ordering::Relaxed) {
            // A run is begun once, and it may have been before the step.
            self.raise_floors_after_a_step().await;
        }
        let mut problems = Vec::new();
        let mut shares = BTreeMap::new();
        for row in rows {
            if let Err(problem) = self.may_serve(&row) {
                tracing::error!(pubshare = %row.pubshare, code = %problem.code, "a share is not opened for the sake of its chain");
                if !problems.contains(&problem) {
                    problems.push(problem);
                }
                continue;
            }
            match vault.open_share(&row) {
                Some(secret) => {
                    shares.insert(row.pubshare, Arc::new(Share::new(row, secret)));
                }
                None => {
                    tracing::error!(pubshare = %row.pubshare, "a sealed share does not open: it was changed");
                    problems.push(damaged_share(&row));
                }
            }
        }
        tracing::info!(shares = shares.len(), "unlocked: ready to sign");
        self.metrics.holding(shares.len());
        self.write(|state| {
            state.vault = Some(vault);
            state.problems = problems;
            state.shares = shares;
        });
        self.show_keys();
    }

    /// What beside the disk knows how old the ledger is. With a locked vault that is the TPM, which then has to answer.
    pub(crate) fn witness(&self) -> Witness<'_> {
        let vault = self.read(|state| state.vault.clone());
        vault.map_or(Witness::Tpm(&self.config.tpm), |vault| vault.witness(&self.config.tpm))
    }

    /// Whether there is a vault in use.
    pub(crate) fn is_unlocked(&self) -> bool {
        self.read(|state| state.vault.is_some())
    }

    /// Whether one of these problems keeps it locked.
    pub(crate) fn is_locked_for(&self, codes: &[&str]) -> bool {
        let one_of = |problem: &Problem| codes.contains(&problem.code.as_str());
        self.read(|state| state.vault.is_none() && state.problems.first().is_some_and(one_of))
    }

    /// Which keys are this signer's, for whoever stands before the box.
    pub(crate) fn show_keys(&self) {
        let (Ok((vault, _)), Ok(key)) = (self.open_parts(), self.import_key()) else { return };
        let fingerprint = ipc::envelope::fingerprint(&key.public_bytes());
        let release = ipc::envelope::fingerprint(vault.release_key().public_key().as_bytes());
        crate::screen::show(&format!("key of the signer {fingerprint}, its release key {release}"));
        if let Ok(arrival) = self.arrival_key()
            && arrival.public_bytes() != key.public_bytes()
        {
            let arrival = ipc::envelope::fingerprint(&arrival.public_bytes());
            crate::screen::show(&format!(
                "no TPM here; the key that other boxes move shares to is {arrival}"
            ));
        }
    }

    /// Signs nothing and takes nothing in until [`Self::keep_unlocking`] has put it right.
    pub(crate) fn lock_again(&self, problem: Problem) {
        self.certificates_may_leave.store(false, Ordering::Relaxed);
        self.metrics.holding(0);
        self.write(|state| {
            state.vault = None;
            state.shares.clear();
        });
        self.stay_locked(problem);
    }

    fn stay_locked(&self, problem: Problem) {
        let news = self.read(|state| state.problems.first() != Some(&problem));
        if news {
            tracing::error!(code = %problem.code, reason = %problem.message, "locked: nothing is signed");
        }
        self.write(|state| state.problems = vec![problem]);
    }

    /// From a request to a signature. Each step uses up the proof of the one before.
    pub(crate) async fn sign(
        &self,
        key: PublicKeyBytes,
        request: &SignRequest,
    ) -> Result<SignatureBytes, Refusal> {
        let outcome = self.try_sign(key, request).await;
        if let Err(refusal) = &outcome {
            self.note_refusal(key, request, refusal);
        }
        outcome
    }

    pub(crate) fn note_refusal(&self, key: PublicKeyBytes, request: &SignRequest, refusal: &Refusal) {
        self.metrics.refused(refusal);
        tracing::warn!(pubshare = %key, kind = message::Kind::name_of(request), code = refusal.code(), %refusal, "refused to sign");
    }

    async fn try_sign(&self, key: PublicKeyBytes, request: &SignRequest) -> Result<SignatureBytes, Refusal> {
        let ledger = self.ready()?;
        let (share, permitted) = self.permit(key, request)?;
        if permitted.message().asks == Asks::Exit {
            return self.sign_exit(key, request).await;
        }
        self.sign_permitted(ledger, &share, &permitted).await
    }

    /// All checks that need no ledger.
    pub(crate) fn permit(
        &self,
        key: PublicKeyBytes,
        request: &SignRequest,
    ) -> Result<(Arc<Share>, Permitted), Refusal> {
        self.permit_read(key, |row, rules| {
            message::read(request, row.genesis_validators_root, &row.clock, rules)
        })
    }

    /// The same for a message that is read by the caller, for the share's chain and under the validator's rules.
    pub(crate) fn permit_read(
        &self,
        key: PublicKeyBytes,
        read: impl FnOnce(&ShareRow, Option<&Rules>) -> Result<Message, Refusal>,
    ) -> Result<(Arc<Share>, Permitted), Refusal> {
        self.trust_clock()?;
        let share = self.read(|state| state.shares.get(&key).cloned()).ok_or_else(|| self.not_held(key))?;
        let row = share.row();
        if self.ledger.as_ref().is_ok_and(|ledger| ledger.is_stopped(&key)) {
            return Err(Refusal::SignsElsewhere);
        }
        let (rules, exit) = self.read(|state| {
            let exit = state.exits.get(&row.group_key).map(Confirmed::waited);
            (state.rules.get(&row.group_key).copied(), exit)
        });
        let message = read(row, rules.as_ref())?;
        let subject = Subject { validator: row.group_key, clock: &row.clock, rules: rules.as_ref(), exit };
        let permitted = rules::permit(message, &subject, now())?;
        Ok((share, permitted))
    }

    async fn sign_permitted(
        &self,
        ledger: &Ledger,
        share: &Share,
        permitted: &Permitted,
    ) -> Result<SignatureBytes, Refusal> {
        let key = share.row().pubshare;
        let clearance = ledger.clear(key, permitted).await?;
        let signature = share.sign(clearance).ok_or_else(|| Refusal::UnknownKey(key.to_string()))?;
        self.metrics.signed(permitted.message().kind);
        Ok(signature)
    }

    /// Judged once more while the owner cannot be in the middle of cancelling, and noted before the signature leaves.
    async fn sign_exit(&self, key: PublicKeyBytes, request: &SignRequest) -> Result<SignatureBytes, Refusal> {
        let _no_new_word = self.wishing.lock().await;
        let ledger = self.ready()?;
        let (share, permitted) = self.permit(key, request)?;
        let noted = self.note_exit_signed(share.row().group_key).await;
        noted.map_err(|problem| Refusal::NotDurable(problem.message))?;
        self.sign_permitted(ledger, &share, &permitted).await
    }

    /// The ledger, locked or not: the owner may settle things before a share can be opened.
    pub(crate) fn ledger(&self) -> Result<&Ledger, Problem> {
        self.ledger.as_ref().map_err(Clone::clone)
    }

    /// All shares in the ledger.
    pub(crate) fn known_rows(&self) -> Vec<ShareRow> {
        self.read(|state| state.rows.clone())
    }

    /// The exits that the owner has confirmed.
    pub(crate) fn confirmed(&self) -> BTreeMap<PublicKeyBytes, Confirmed> {
        self.read(|state| state.exits.clone())
    }

    /// What the owner has settled for a validator.
    pub(crate) fn known_rules(&self, validator: &PublicKeyBytes) -> Option<Rules> {
        self.read(|state| state.rules.get(validator).copied())
    }

    /// Takes over rules that are stored.
    pub(crate) fn adopt_rules(&self, rules: AllRules) {
        self.write(|state| state.rules.extend(rules));
    }

    /// Takes over stored approvals. Those that are new are known `since` then.
    pub(crate) fn adopt_approvals(&self, approvals: &Approvals, since: Instant) {
        self.write(|state| {
            let known = std::mem::take(&mut state.exits);
            let since_of = |validator: &PublicKeyBytes, approval: &rules::Approval| {
                let same =
                    known.get(validator).filter(|known| known.approval.confirmed_at == approval.confirmed_at);
                same.map_or(since, |known| known.since)
            };
            let exits = approvals.iter().map(|(validator, approval)| {
                (*validator, Confirmed { approval: *approval, since: since_of(validator, approval) })
            });
            state.exits = exits.collect();
        });
    }

    pub(crate) fn ready(&self) -> Result<&Ledger, Refusal> {
        let ledger = self.ledger.as_ref().map_err(|problem| Refusal::NotReady(problem.clone()))?;
        match self.read(|state| state.vault.is_none().then(|| state.problems.first().cloned())) {
            None => Ok(ledger),
            Some(problem) => Err(Refusal::NotReady(problem.unwrap_or_else(starting))),
        }
    }

    /// The open vault and the ledger, for an import.
    pub(crate) fn open_parts(&self) -> Result<(Arc<Vault>, &Ledger), Problem> {
        let ledger = self.ready().map_err(|refusal| refusal.to_problem())?;
        let vault = self.read(|state| state.vault.clone()).ok_or_else(starting)?;
        Ok((vault, ledger))
    }

    /// The key that opens what is sealed for this box now (decision 0303).
    pub(crate) fn import_key(&self) -> Result<ImportSecret, Problem> {
        let (vault, ledger) = self.open_parts()?;
        Ok(vault.import_key(ledger.generation())?)
    }

    /// The key that opens what other boxes give away to this one.
    pub(crate) fn arrival_key(&self) -> Result<ImportSecret, Problem> {
        let (vault, ledger) = self.open_parts()?;
        Ok(vault.arrival_key(ledger.generation())?)
    }

    /// The share of that key as the ledger has it, and whether it could be opened.
    pub(crate) fn known_row(&self, key: &PublicKeyBytes) -> Option<(ShareRow, bool)> {
        self.read(|state| {
            let row = state.rows.iter().find(|row| row.pubshare == *key).cloned()?;
            Some((row, state.shares.contains_key(key)))
        })
    }

    /// Puts imported shares into service.
    pub(crate) fn adopt(&self, shares: Vec<Share>, beginning: Resuming) {
        let held = self.write(|state| {
            for share in shares {
                let key = share.row().pubshare;
                state.rows.retain(|row| row.pubshare != key);
                state.rows.push(share.row().clone());
                state.shares.insert(key, Arc::new(share));
            }
            state.beginning.extend(beginning);
            let opened = |row: &ShareRow| state.shares.contains_key(&row.pubshare);
            let why = |row: &ShareRow| self.may_serve(row).err().unwrap_or_else(|| damaged_share(row));
            state.problems = state.rows.iter().filter(|row| !opened(row)).map(why).collect();
            state.problems.dedup();
            state.shares.len()
        });
        self.metrics.holding(held);
    }

    /// Takes shares out of service, before they are given up on the disk.
    pub(crate) fn withdraw(&self, keys: &[PublicKeyBytes]) {
        self.write(|state| keys.iter().for_each(|key| drop(state.shares.remove(key))));
    }

    /// Forgets shares that are gone.
    pub(crate) fn forget(&self, gone: &[PublicKeyBytes]) {
        self.replace(gone, Vec::new(), Vec::new(), Resuming::new());
    }

    /// Forgets shares that are gone and puts their successors into service: `shares`. Of `rows`, which are all the successors, the
    /// others are shown with why they are not.
    pub(crate) fn replace(
        &self,
        gone: &[PublicKeyBytes],
        rows: Vec<ShareRow>,
        shares: Vec<Share>,
        beginning: Resuming,
    ) {
        self.write(|state| {
            let is_new = |row: &ShareRow| rows.iter().any(|new| new.pubshare == row.pubshare);
            state.rows.retain(|row| !gone.contains(&row.pubshare) && !is_new(row));
            state.rows.extend(rows);
            state.shares.retain(|key, _| !gone.contains(key));
        });
        self.adopt(shares, beginning);
    }

    /// The first epoch in which all of these new shares vote.
    pub(crate) fn beginning_of(&self, keys: &[PublicKeyBytes]) -> Option<Epoch> {
        self.read(|state| keys.iter().filter_map(|key| state.beginning.get(key)).max().copied())
    }

    /// The shares that can sign now.
    pub(crate) fn in_service(&self) -> Vec<Arc<Share>> {
        self.read(|state| state.shares.values().cloned().collect())
    }

    /// The keys that can sign now.
    pub(crate) fn public_keys(&self) -> Vec<PublicKeyBytes> {
        self.read(|state| state.shares.keys().copied().collect())
    }

    /// What the page shows.
    pub(crate) async fn status(&self) -> SignerStatus {
        let (vault, mut problems, rows) =
            self.read(|state| (state.vault.clone(), state.problems.clone(), state.rows.clone()));
        let mut shares: BTreeMap<PublicKeyBytes, HeldShare> =
            rows.iter().map(|row| (row.pubshare, share::held(row))).collect();
        match &self.ledger {
            Ok(ledger) => match ledger.marks().await {
                Ok(marks) => {
                    for (key, at) in ledger.stopped() {
                        if let Some(share) = shares.get_mut(&key) {
                            share.stopped_at_ms = Some(at.0);
                        }
                    }
                    for (key, marks) in marks {
                        let signed = marks.target_epoch.is_some() || marks.block_slot.is_some();
                        if let Some(share) = shares.get_mut(&key) {
                            share.last_signed = signed.then_some(marks);
                        }
                    }
                    let (code, why) = if self.no_tpm.opened().is_some() {
                        (
                            "waiting_after_start",
                            "This board has no TPM, so after each start its record of what was signed could be an old copy.",
                        )
                    } else if ledger.lacks_votes() {
                        (
                            "waiting_for_lost_votes",
                            "Other members hold signatures of this box that its own record lacks, so it is an old copy, or another box signs with these shares.",
                        )
                    } else {
                        (
                            "waiting_after_power_cut",
                            "The box was switched off without warning, so it cannot know for certain what it signed last.",
                        )
                    };
                    problems.extend(waiting(&rows, &ledger.resuming().await.unwrap_or_default(), code, why));
                    problems.extend(unfinished_edit(&ledger.pending().await.unwrap_or_default()));
                    let beginning = self.read(|state| state.beginning.clone());
                    problems.extend(waiting(
                        &rows,
                        &beginning,
                        "waiting_after_import",
                        "New shares begin above every epoch in which they could have been used elsewhere.",
                    ));
                }
                Err(error) => problems.insert(0, ledger_problem(&error)),
            },
            Err(problem) => problems.insert(0, problem.clone()),
        }
        problems.extend(self.stopped_problems());
        problems.extend(held_twice(&rows));
        // A locked signer that waits for the clock says so already.
        let doubt = self.trust_clock().err().map(|refusal| refusal.to_problem());
        let clock = ClockVouched {
            trusted: doubt.is_none(),
            explanation: doubt
                .as_ref()
                .map_or_else(|| self.clock.explanation().to_owned(), |doubt| doubt.message.clone()),
        };
        problems.extend(doubt.filter(|doubt| problems.iter().all(|known| known.code != doubt.code)));
        let facts = vault.as_ref().and_then(|vault| vault.facts().cloned());
        let passphrase = self.passphrase_status();
        let keeper = match (&facts, &passphrase) {
            (Some(facts), _) => Keeper::Tpm { is_software: facts.is_software },
            (None, Some(_)) => Keeper::Passphrase,
            (None, None) => Keeper::Nobody,
        };
        SignerStatus {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            protection: protection(&keeper, boot::is_secure(&self.config.efivars)),
            passphrase,
            release_key: vault.as_ref().map(|vault| hex::encode(vault.release_key().public_key().as_bytes())),
            import_key: self.import_key().ok().map(|key| key.public_hex()),
            arrival_key: self.arrival_key().ok().map(|key| key.public_hex() + self.image_keys.mark()),
            tpm: facts,
            shares: shares.into_values().collect(),
            problems,
            exits: self.exit_approvals().exits,
            clock: Some(clock),
        }
    }

    /// Whether the parts that must answer do. Feeds the watchdog.
    pub(crate) async fn is_alive(&self) -> bool {
        match &self.ledger {
            Ok(ledger) => ledger.ping().await.is_ok(),
            Err(_) => true, // It says so on its status; a restart would not help.
        }
    }

    /// Closes the ledger at the end.
    pub(crate) async fn close(&self) {
        if let Ok(ledger) = &self.ledger
            && let Err(error) = ledger.close().await
        {
            tracing::warn!(%error, "the ledger was not closed; the next start tidies up");
        }
    }

    fn read<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.state.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn write<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.state.write().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Runs slow work beside the event loop; none when it panicked.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    tokio::task::spawn_blocking(work).await.ok()
}

/// What keeps the shares.
enum Keeper {
    Tpm { is_software: bool },
    Passphrase,
    Nobody,
}

fn protection(keeper: &Keeper, secure_boot: bool) -> KeyProtection {
    let (tier, explanation) = match keeper {
        Keeper::Tpm { is_software: false } if !secure_boot => (
            ProtectionTier::TpmWithoutSecureBoot,
            "Shares are sealed to this board's TPM, but Secure Boot is off: whoever has the box in hand can start other software that opens them.",
        ),
        Keeper::Tpm { is_software: false } => (
            ProtectionTier::TpmMeasuredBoot,
            "Shares are sealed to this board's TPM and open only for software signed by the image's maker.",
        ),
        Keeper::Tpm { is_software: true } => (
            ProtectionTier::SoftwareTpm,
            "Shares are sealed to a TPM made of software: good for trying things out, no protection against whoever can read its files.",
        ),
        Keeper::Passphrase => (
            ProtectionTier::Passphrase,
            "A lower tier: this board has no TPM. A stolen disk opens only with your passphrase, but neither changed software nor an old copy of the disk is noticed: whoever changes the box while it is off learns the passphrase when you type it next. After each start the shares wait for three epochs.",
        ),
        Keeper::Nobody => (
            ProtectionTier::None,
            "Nothing can be sealed or opened now: no share is accepted and nothing is signed.",
        ),
    };
    KeyProtection { tier, explanation: explanation.to_owned() }
}

fn starting() -> Problem {
    Problem::new("starting", "The signer is still starting.", "Wait a moment.")
}

fn crashed() -> Problem {
    Problem::new(
        "vault_unavailable",
        "Opening the vault failed by a fault of ours.",
        "Restart the box and report this.",
    )
}

pub(crate) fn ledger_problem(error: &LedgerError) -> Problem {
    let (code, next_step) = match error {
        LedgerError::Damaged(_) => (
            "ledger_damaged",
            "Do not restore an old copy. Wait until the cluster has gone on without this box for two epochs, then set the box up anew and import the shares with the history that the other boxes know.",
        ),
        LedgerError::Newer { .. } => ("ledger_newer", "Install the newer image again."),
        LedgerError::Conflict(_) => ("share_conflict", "Check that the file belongs to this cluster."),
        LedgerError::Retired(_) => (
            "share_retired",
            "Use the share that took its place, or the box that it moved to. If there is none any more, make all shares anew (`recreate`) with the other members.",
        ),
        LedgerError::Frozen(_) => (
            "share_being_replaced",
            "Bring the change of the cluster to its end first: hand this box the new cluster lock, or make all shares anew (`recreate`) with every member.",
        ),
        LedgerError::NotHere(_) => (
            "share_missing",
            "It may sign elsewhere by now. Import it again with its lock and history, or change the cluster without this box.",
        ),
        LedgerError::SignsElsewhere(_) => (
            "signs_elsewhere",
            "Find what else signs with it and end it for good, let the share go on on the page, and begin the change again.",
        ),
        LedgerError::SignedMeanwhile => ("move_again", "Order the move again."),
        LedgerError::NothingPrepared => (
            "edit_not_prepared",
            "Hand in the lock of the change that this box took part in, or begin the change again.",
        ),
        LedgerError::TooLarge(_) => {
            ("history_invalid", "Export the history again; it must be of the cluster's chain.")
        }
        LedgerError::NotDurable(_) => {
            ("ledger_not_durable", "Install the box anew on a local disk with its own file system.")
        }
        LedgerError::Io { .. } | LedgerError::Sqlite(_) | LedgerError::Stopped => (
            "ledger_unavailable",
            "Free some disk space and restart the box; if it persists, replace the disk.",
        ),
    };
    Problem::new(code, format!("The record of what was signed cannot be used: {error}."), next_step)
}

impl From<VaultError> for Problem {
    fn from(error: VaultError) -> Self {
        error.to_problem()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_protection_shown_is_the_one_there_is() {
        let (chip, program) = (Keeper::Tpm { is_software: false }, Keeper::Tpm { is_software: true });
        for (keeper, secure_boot, tier) in [
            (&chip, true, ProtectionTier::TpmMeasuredBoot),
            (&chip, false, ProtectionTier::TpmWithoutSecureBoot),
            (&Keeper::Passphrase, true, ProtectionTier::Passphrase),
            (&program, true, ProtectionTier::SoftwareTpm),
            (&program, false, ProtectionTier::SoftwareTpm),
            (&Keeper::Nobody, true, ProtectionTier::None),
        ] {
            assert_eq!(protection(keeper, secure_boot).tier, tier);
        }
    }
}
