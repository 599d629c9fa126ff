//! Voluntary exits. They are no duties of a slot: people ask for them at different hours, one validator now and another one
//! next week, and they never expire. So they do not go through the engine (decision 0200): partial exits are gathered in a
//! pool that is written down, and whoever has enough of them publishes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use beacon::BeaconError;
use chain::{
    Domain, Epoch, Fork, ForkInfo, ForkName, PublicKeyBytes, SignatureBytes, SignedVoluntaryExit,
    VoluntaryExit, domain,
};
use cluster::exit::{self, ExitBlob, FullExitAnswer, PartialExits};
use cluster::exit_pool::{ExitPool, Pending, Taken, whole};
use duty::{Clock, SignError};
use ipc::node::{ExitFiles, ExitState, ExitStatus, NamedFile, ObolApiCall};
use obol::signed::Signed;
use obol::{DutyType, Protocol, parsigex};
use qbft::Member;

use super::{Event, Node, wall};
use crate::exits::{self, Desk, ExitFile, Wish};

/// The signer, or a beacon node, is asked again after this.
const ASK_AGAIN: Duration = Duration::from_secs(20);
/// A member whose partial exit did not verify, or who signs too many different ones, is not listened to for this long: each check costs a pairing.
const DEAF_AFTER_LIE: Duration = Duration::from_secs(60);
/// Our partial exits are told again this often: what came while a member did not yet know its chain was lost.
const TELL_AGAIN: Duration = Duration::from_secs(30);
/// How long one sending may take.
const SEND_WITHIN: Duration = Duration::from_secs(60);
/// Exits in one message to the members, and of one message from them that are checked: each costs a pairing.
const PER_MESSAGE: usize = 16;

/// Everything about exits in this cluster.
pub(crate) struct Exits {
    desk: Arc<Desk>,
    pool: ExitPool,
    loaded: bool,
    changed: bool,
    asked: BTreeMap<PublicKeyBytes, Instant>,
    submitted: BTreeMap<PublicKeyBytes, Instant>,
    /// Why it does not go on, by validator.
    trouble: BTreeMap<PublicKeyBytes, String>,
    lied: BTreeMap<u8, Instant>,
    /// When our partial exits were last told to everybody.
    told: Option<Instant>,
}

impl Exits {
    pub(crate) fn new(desk: Arc<Desk>) -> Self {
        Self {
            desk,
            pool: ExitPool::default(),
            loaded: false,
            changed: false,
            asked: BTreeMap::new(),
            submitted: BTreeMap::new(),
            trouble: BTreeMap::new(),
            lied: BTreeMap::new(),
            told: None,
        }
    }
}

impl Node {
    /// Everything about exits that is due.
    pub(super) fn pursue_exits(&mut self) {
        let Some(domain) = self.exit_domain() else { return };
        self.load_exits(domain);
        self.take_handed_in(domain);
        self.ask_for_exits(domain);
        self.publish_exits(domain);
        self.keep_exits(domain);
        self.tell_again();
    }

    /// From Deneb on, exits are signed with Capella's version for good (EIP-7044).
    fn exit_fork_info(&self) -> Option<ForkInfo> {
        let chain = &self.running.as_ref()?.chain;
        let version = chain.schedule.version_of(ForkName::Capella);
        let version = version.unwrap_or_else(|| chain.schedule.genesis_version());
        let fork = Fork { previous_version: version, current_version: version, epoch: Epoch(0) };
        Some(ForkInfo { fork, genesis_validators_root: chain.genesis_validators_root })
    }

    pub(super) fn exit_domain(&self) -> Option<Domain> {
        Some(domain::domain_at(domain::VOLUNTARY_EXIT, Epoch(0), &self.exit_fork_info()?))
    }

    fn load_exits(&mut self, domain: Domain) {
        if std::mem::replace(&mut self.exits.loaded, true) {
            return;
        }
        match self.store.load_exit_pool() {
            Ok(Some(bytes)) => match ExitPool::from_json(&bytes, &self.membership.view, domain) {
                Some(pool) => self.exits.pool = pool,
                None => tracing::warn!("the stored exits cannot be read; the members send theirs again"),
            },
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(%error, "the stored exits cannot be read; the members send theirs again")
            }
        }
        self.exits.changed = true; // The files are made anew.
    }

    fn keep_exits(&mut self, domain: Domain) {
        if !std::mem::take(&mut self.exits.changed) {
            return;
        }
        if let Err(error) = self.store.save_exit_pool(&self.exits.pool.to_json()) {
            tracing::error!(%error, "the partial exits cannot be written down");
            self.exits.changed = true; // Tried again with the next pulse.
        }
        let files = self.exit_files(domain);
        self.exits.desk.set_files(files);
    }

    fn exit_files(&self, domain: Domain) -> ExitFiles {
        let share = self.membership.share_index;
        let own = self.exits.pool.signed_by(share);
        let signed = (!own.is_empty()).then(|| PartialExits::sign(own, share, &self.membership.identity));
        let partial = signed.and_then(Result::ok).and_then(|signed| serde_json::to_value(signed).ok());
        let whole = self.exits.pool.pending().iter().filter_map(|pending| {
            let exit = whole(pending, &self.membership.view, domain).ok()?;
            let content = serde_json::to_value(exit).ok()?;
            Some(NamedFile { name: exit::file_name(&pending.validator), content })
        });
        let whole = whole.collect();
        let obol_api = if partial.is_some() { self.obol_api_calls() } else { Vec::new() };
        ExitFiles { partial, whole, obol_api }
    }

    /// The exits that our share has signed.
    pub(super) fn exits_given_out(&self) -> Vec<ExitBlob> {
        self.exits.pool.signed_by(self.membership.share_index)
    }

    /// Exits that we have signed and too few others, as far as is known here.
    pub(super) fn exits_too_few(&self) -> impl Iterator<Item = PublicKeyBytes> {
        let (share, need) = (self.membership.share_index, usize::from(self.membership.view.threshold));
        let lacks = move |pending: &&Pending| {
            pending.partials.contains_key(&share) && pending.partials.len() < need && !pending.published
        };
        self.exits.pool.pending().iter().filter(lacks).map(|pending| pending.validator)
    }

    /// What the owner calls to exchange these exits with members that use the Obol API.
    fn obol_api_calls(&self) -> Vec<ObolApiCall> {
        let (lock_hash, share) = (&self.membership.view.lock_hash, u64::from(self.membership.share_index));
        let call = |what: &str, method: &str, path: String, authorization: Option<String>| ObolApiCall {
            what: what.to_owned(),
            method: method.to_owned(),
            url: exit::api_url(&self.config.obol_api, &path),
            authorization,
        };
        let hand_out = "gives `partial` to the other members";
        let mut calls = vec![call(hand_out, "POST", exit::partial_exits_path(lock_hash), None)];
        for blob in self.exits.pool.signed_by(self.membership.share_index) {
            let key = &blob.public_key;
            let bearer = exit::bearer(&self.membership.identity, lock_hash, key, share);
            let fetch =
                format!("asks for what all members signed for {key}; its answer is taken here by POST");
            let path = exit::full_exit_path(lock_hash, key, share);
            calls.push(call(&fetch, "GET", path, Some(bearer.clone())));
            let path = exit::own_partial_exit_path(lock_hash, key, share);
            calls.push(call(&format!("takes back our own for {key}"), "DELETE", path, Some(bearer)));
        }
        calls
    }

    /// Files that members passed on by hand.
    fn take_handed_in(&mut self, domain: Domain) {
        for (file, answer) in self.exits.desk.take_handed_in() {
            let outcome = match &file {
                ExitFile::OfMember(file) => self.take_members_file(domain, file).map(|()| Vec::new()),
                ExitFile::OfObolApi(answer) => self.take_answer(domain, answer),
            };
            let outcome = outcome.map_err(|error| exits::invalid(&error.to_string()));
            let outcome = outcome.and_then(|wrong| match wrong.as_slice() {
                [] => Ok(()),
                wrong => Err(exits::partly_wrong(&self.names_of(wrong))),
            });
            // Whoever asked may have given up.
            drop(answer.send(outcome));
        }
    }

    fn take_members_file(&mut self, domain: Domain, file: &PartialExits) -> Result<(), exit::ExitError> {
        let verified = tokio::task::block_in_place(|| file.verify(&self.membership.view, domain))?;
        let share = share_of(verified.share_index())?;
        for exit in verified.exits() {
            self.take_partial_exit(domain, share, &exit.public_key, exit.signed_exit_message)?;
        }
        Ok(())
    }

    /// What the Obol API has of all members for one validator. Each signature is believed as far as it verifies; comes with
    /// the share indices in whose places something else stands.
    pub(super) fn take_answer(
        &mut self,
        domain: Domain,
        answer: &FullExitAnswer,
    ) -> Result<Vec<u64>, exit::ExitError> {
        let known = self.duties.validators.iter();
        let found = known.into_iter().find(|(_, info)| info.index == answer.validator_index);
        let Some((validator, _)) = found else {
            return Err(exit::ExitError::UnknownIndex(answer.validator_index));
        };
        let validator = *validator;
        let view = &self.membership.view;
        let partials = tokio::task::block_in_place(|| answer.partials(view, &validator, domain))?;
        for (share, signature) in partials.right {
            let exit = SignedVoluntaryExit { message: answer.message(), signature };
            self.take_partial_exit(domain, share_of(share)?, &validator, exit)?;
        }
        Ok(partials.wrong)
    }

    fn take_partial_exit(
        &mut self,
        domain: Domain,
        share: u8,
        validator: &PublicKeyBytes,
        exit: SignedVoluntaryExit,
    ) -> Result<Taken, exit::ExitError> {
        let taken = self.exits.pool.take(&self.membership.view, domain, share, validator, exit)?;
        if taken == Taken::New {
            self.exits.changed = true;
            let epoch = exit.message.epoch;
            tracing::warn!(%validator, %epoch, share, "a member wants this validator to leave the chain");
        }
        Ok(taken)
    }

    /// A member's partial exits.
    pub(super) fn on_exit_partials(&mut self, sender: Member, received: &parsigex::Received) {
        let Some(domain) = self.exit_domain() else { return };
        self.load_exits(domain);
        let Some(running) = &self.running else { return };
        let epoch = running.chain.timing.epoch_of(chain::Slot(received.duty.slot));
        let share = received.share_index;
        if self.exits.lied.get(&share).is_some_and(|at| at.elapsed() < DEAF_AFTER_LIE) {
            return;
        }
        let mut checked = 0;
        for (validator, partial) in &received.partials {
            // The loop has other things to do. Members send theirs again when they connect, and what is known costs nothing.
            if checked == PER_MESSAGE {
                return;
            }
            let Signed::Exit(exit) = partial.signed else { continue };
            // The duty's slot is made of the message's epoch; anything else is no exit of this duty.
            let fits = exit.message.epoch == epoch;
            let outcome = if fits {
                self.take_partial_exit(domain, share, validator, exit)
            } else {
                Err(exit::ExitError::Differ(*validator))
            };
            match outcome {
                Ok(Taken::New) => checked += 1,
                Ok(Taken::Known) => {}
                // The rest of the message may still be of use.
                Ok(Taken::TooMany) => {
                    if self.exits.lied.insert(share, Instant::now()).is_none() {
                        let member = self.membership.name_of(sender).to_owned();
                        tracing::warn!(member, %validator, "a member signs too many different exits");
                    }
                }
                Err(error) => {
                    let member = self.membership.name_of(sender).to_owned();
                    tracing::warn!(member, %error, "a member sent a wrong partial exit");
                    self.exits.lied.insert(share, Instant::now());
                    return self.count_refused(sender, "parsigex", &error);
                }
            }
        }
    }

    /// Asks the signer for what the owner wants and has not got.
    fn ask_for_exits(&mut self, domain: Domain) {
        let (Some(fork_info), Some(running)) = (self.exit_fork_info(), &self.running) else { return };
        if running.trusted != Some(Clock::Trusted) {
            return;
        }
        let now = wall();
        for (validator, wish) in self.exits.desk.wishes() {
            let waiting = self.exits.asked.get(&validator).is_some_and(|at| at.elapsed() < ASK_AGAIN);
            if wish.not_before > now || waiting || self.has_own_exit(&validator, &wish) {
                continue;
            }
            self.exits.asked.insert(validator, Instant::now());
            if self.client.is_some() {
                let text = "this member's validator client holds the share: make it sign the exit".to_owned();
                self.exits.trouble.insert(validator, text);
                continue;
            }
            let Some(index) = self.duties.validators.get(&validator).map(|info| info.index) else {
                let text = "the validator has no index on the chain yet".to_owned();
                self.exits.trouble.insert(validator, text);
                continue;
            };
            let Some(keys) = self.membership.keys.get(&validator) else {
                let text = "it is no validator of this cluster".to_owned();
                self.exits.trouble.insert(validator, text);
                continue;
            };
            let message = VoluntaryExit { epoch: wish.epoch, validator_index: index };
            let (signer, share) = (self.signer.clone(), keys.own_share);
            let root = chain::signing_root(&message, domain);
            self.spawn(async move {
                let result = signer.sign_exit(share, fork_info, &message, root).await;
                Event::ExitSigned(validator, message, result)
            });
        }
    }

    fn has_own_exit(&self, validator: &PublicKeyBytes, wish: &Wish) -> bool {
        let share = self.membership.share_index;
        let own = |pending: &Pending| {
            pending.validator == *validator
                && pending.message.epoch == wish.epoch
                && pending.partials.contains_key(&share)
        };
        self.exits.pool.pending().iter().any(own)
    }

    /// The signer's answer.
    pub(super) fn on_exit_signed(
        &mut self,
        validator: PublicKeyBytes,
        message: VoluntaryExit,
        result: Result<SignatureBytes, SignError>,
    ) {
        let Some(domain) = self.exit_domain() else { return };
        let exit = match result {
            Ok(signature) => SignedVoluntaryExit { message, signature },
            Err(
                SignError::Refused(text)
                | SignError::Unavailable(text)
                | SignError::Withheld(text)
                | SignError::HeldBack(text),
            ) => {
                tracing::warn!(%validator, reason = text, "no signature for an exit");
                drop(self.exits.trouble.insert(validator, text));
                return;
            }
        };
        self.exits.trouble.remove(&validator);
        if let Err(error) = self.take_own_exit(domain, &validator, exit) {
            self.exits.trouble.insert(validator, error.to_string());
        }
    }

    /// An exit that a validator client signed with our share. It holds the shares and its owner asked it: that is the wish.
    pub(super) fn on_exit_of_client(
        &mut self,
        validator: PublicKeyBytes,
        exit: SignedVoluntaryExit,
    ) -> Result<(), String> {
        let domain = self.exit_domain().ok_or("the chain is not known yet")?;
        self.load_exits(domain);
        self.take_own_exit(domain, &validator, exit).map_err(|error| error.to_string())
    }

    fn take_own_exit(
        &mut self,
        domain: Domain,
        validator: &PublicKeyBytes,
        exit: SignedVoluntaryExit,
    ) -> Result<(), exit::ExitError> {
        self.take_partial_exit(domain, self.membership.share_index, validator, exit)?;
        let to_all = self.exit_messages(&BTreeSet::from([*validator]));
        if let Some(host) = &self.host {
            to_all.iter().for_each(|bytes| {
                host.broadcast_within(Protocol::ParSigEx, bytes, SEND_WITHIN);
            });
        }
        self.pursue_exits();
        Ok(())
    }

    /// A member that connects may have missed our partial exits, however old they are.
    pub(super) fn resend_exits(&mut self, peer: &cluster::PeerId) {
        let Some(domain) = self.exit_domain() else { return };
        self.load_exits(domain);
        let all = self.exits.pool.pending().iter().map(|pending| pending.validator).collect();
        let messages = self.exit_messages(&all);
        let Some(host) = &self.host else { return };
        for bytes in messages {
            let _only_strangers_fail = host.send_within(peer, Protocol::ParSigEx, &bytes, SEND_WITHIN);
        }
    }

    /// Tells everybody our partial exits from time to time, as long as there are any; what is known costs them nothing.
    fn tell_again(&mut self) {
        let rested = self.exits.told.is_none_or(|at| at.elapsed() >= TELL_AGAIN);
        if !rested || self.exits.pool.pending().is_empty() {
            return;
        }
        self.exits.told = Some(Instant::now());
        let all = self.exits.pool.pending().iter().map(|pending| pending.validator).collect();
        let messages = self.exit_messages(&all);
        let Some(host) = &self.host else { return };
        for bytes in messages {
            host.broadcast_within(Protocol::ParSigEx, &bytes, SEND_WITHIN);
        }
    }

    /// Our partial exits of these validators as the members take them: all exits of one epoch are one duty.
    fn exit_messages(&self, of: &BTreeSet<PublicKeyBytes>) -> Vec<Vec<u8>> {
        let Some(running) = &self.running else { return Vec::new() };
        let timing = &running.chain.timing;
        let share = self.membership.share_index;
        let mut by_epoch: BTreeMap<Epoch, Vec<(PublicKeyBytes, Signed)>> = BTreeMap::new();
        let own = self.exits.pool.signed_by(share);
        for blob in own.into_iter().filter(|blob| of.contains(&blob.public_key)) {
            let exit = blob.signed_exit_message;
            by_epoch.entry(exit.message.epoch).or_default().push((blob.public_key, Signed::Exit(exit)));
        }
        let mut messages = Vec::new();
        for (epoch, exits) in by_epoch {
            let duty = obol::Duty::new(timing.first_slot_of(epoch).0, DutyType::Exit);
            for some in exits.chunks(PER_MESSAGE) {
                let entries = some.iter().map(|(validator, signed)| (validator, signed));
                messages.push(parsigex::encode(duty, share, entries));
            }
        }
        messages
    }

    /// Whoever has enough publishes; beacon nodes know an exit that they have seen.
    fn publish_exits(&mut self, domain: Domain) {
        let Some(running) = &self.running else { return };
        if !self.beacon.any_ready() {
            return;
        }
        let now = running.chain.timing.epoch_at(wall()).unwrap_or(Epoch(0));
        let submitted = &self.exits.submitted;
        let rested =
            |validator: &PublicKeyBytes| submitted.get(validator).is_none_or(|at| at.elapsed() >= ASK_AGAIN);
        // Beacon nodes refuse an exit before its epoch.
        let wanted = |pending: &Pending| pending.message.epoch <= now && rested(&pending.validator);
        for (validator, exit) in self.exits.pool.to_publish(&self.membership.view, domain, wanted) {
            self.exits.submitted.insert(validator, Instant::now());
            match exit {
                Ok(exit) => {
                    let beacon = self.beacon.clone();
                    self.spawn(async move {
                        let result = beacon.submit_exit(&exit).await;
                        Event::ExitPublished(validator, exit.message, result)
                    });
                }
                Err(error) => drop(self.exits.trouble.insert(validator, error.to_string())),
            }
        }
    }

    /// The beacon nodes' answer.
    pub(super) fn on_exit_published(
        &mut self,
        validator: PublicKeyBytes,
        message: VoluntaryExit,
        result: Result<(), BeaconError>,
    ) {
        let leaves = self.duties.validators.get(&validator).is_some_and(|info| is_leaving(&info.status));
        match result {
            Err(error) if !leaves => {
                tracing::warn!(%validator, %error, "an exit was not taken; it is sent again");
                self.exits.trouble.insert(validator, error.to_string());
            }
            Ok(()) | Err(_) => {
                tracing::warn!(%validator, epoch = %message.epoch, "the validator leaves the chain");
                self.exits.pool.set_published(&validator, message);
                self.exits.trouble.remove(&validator);
                self.exits.changed = true;
            }
        }
    }

    /// For the page.
    pub(super) fn exit_statuses(&self) -> Vec<ExitStatus> {
        let now = wall();
        let share = self.membership.share_index;
        let wishes = self.exits.desk.wishes();
        let mut shown: Vec<ExitStatus> = Vec::new();
        for pending in self.exits.pool.pending() {
            let own = pending.partials.contains_key(&share);
            let state = match () {
                () if pending.published => ExitState::Published,
                () if pending.partials.len() >= usize::from(self.membership.view.threshold) => {
                    ExitState::Whole
                }
                () if own => ExitState::Signed,
                () => ExitState::AskedByOthers,
            };
            shown.push(ExitStatus {
                validator: pending.validator.to_string(),
                epoch: pending.message.epoch.0,
                state,
                partials_from: pending.partials.keys().copied().collect(),
                needed: self.membership.view.threshold,
                not_before_ms: None,
                message: self.exits.trouble.get(&pending.validator).cloned(),
            });
        }
        for (validator, wish) in &wishes {
            if self.has_own_exit(validator, wish) {
                continue;
            }
            let state = if wish.not_before > now { ExitState::Waiting } else { ExitState::Asking };
            shown.push(ExitStatus {
                validator: validator.to_string(),
                epoch: wish.epoch.0,
                state,
                partials_from: Vec::new(),
                needed: self.membership.view.threshold,
                not_before_ms: Some(wish.not_before.0),
                message: self.exits.trouble.get(validator).cloned(),
            });
        }
        shown
    }
}

fn share_of(index: u64) -> Result<u8, exit::ExitError> {
    u8::try_from(index).map_err(|_| exit::ExitError::UnknownShare(index))
}

/// Whether the chain has taken its exit already, by the beacon API's words.
fn is_leaving(status: &str) -> bool {
    status.starts_with("exited") || status.starts_with("withdrawal") || status == "active_exiting"
}
