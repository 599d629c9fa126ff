//! The daemon's part in a change of a cluster: the cluster's node rests while it runs, and afterwards serves the new cluster
//! or the old one, or there is none. One change at a time, whichever cluster of the box it is of.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use ipc::edit::{
    ClusterEdit, ClusterEditProgress, ClusterEditStatus, EditCommit, UNREADABLE_EDIT, edit_name,
};
use ipc::node::NodeState;
use ipc::{ClusterSetup, Problem};
use obol::dkg::edit::Record;
use tokio::time::Instant;

use super::brought::Bringing;
use super::joining::{left_name, unreadable_name};
use super::key_generation::{RESUME_AGAIN, longer};
use super::{Daemon, Ended, disk, setup};
use crate::edit::{self, EditStore, Ending, Request};
use crate::sealed;
use crate::setup::Membership;
use crate::store::{Store, StoreError};

/// A change, if there is one.
pub(super) struct Change {
    pub(super) store: EditStore,
    pub(super) running: Option<edit::Running>,
    /// The place on this box of its cluster.
    pub(super) place: Option<u8>,
    /// How the one that is over, or could not be gone on with, stands.
    pub(super) last: Option<ClusterEditProgress>,
    /// When an interrupted one is tried again.
    pub(super) resume_at: Option<Instant>,
    /// How long the next pause before that is.
    resume_pause: Duration,
    /// A lock that was handed in, while the signer is asked about it.
    pub(super) bringing: Option<Bringing>,
}

impl Change {
    /// What is kept below the box's state directory.
    pub(super) fn new(state_dir: &Path) -> Self {
        Self {
            store: EditStore::new(state_dir),
            running: None,
            place: None,
            last: None,
            resume_at: None,
            resume_pause: RESUME_AGAIN,
            bringing: None,
        }
    }

    /// Whether one is under way, or waits to go on, or may be over by a lock that was handed in.
    pub(super) fn is_running(&self) -> bool {
        self.running.is_some() || self.resume_at.is_some() || self.bringing.is_some()
    }

    /// When an interrupted one is to be tried again.
    pub(super) fn resume_at(&self) -> Option<Instant> {
        self.resume_at
    }

    /// How it ended, or what the signer said to a lock; never, while there is neither.
    pub(super) async fn ended(&mut self) -> Ended {
        let running = &mut self.running;
        let change = async {
            match running {
                Some(running) => running.ended().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            ending = change => Ended::Change(Box::new(ending)),
            brought = Bringing::ended(&mut self.bringing) => Ended::Brought(Box::new(brought)),
        }
    }

    pub(super) fn status(&self) -> ClusterEditStatus {
        let now = self.running.as_ref().map(edit::Running::progress);
        let looked_at = self
            .bringing
            .as_ref()
            .map(|_| ClusterEditProgress { phase: "lock_handed_in".to_owned(), ..over(Vec::new()) });
        ClusterEditStatus { edit: now.or(looked_at).or_else(|| self.last.clone()) }
    }

    /// By which name the change that is kept, or was the last, is given up.
    fn name(&self) -> std::io::Result<Option<String>> {
        match self.store.request() {
            Ok(Some(request)) => {
                let hash = request.lock.get("lock_hash").and_then(serde_json::Value::as_str);
                Ok(Some(edit_name(hash.unwrap_or_default()).to_owned()))
            }
            Ok(None) => Ok(self.last.as_ref().map(|last| edit_name(&last.lock_hash).to_owned())),
            Err(error) if error.kind() == std::io::ErrorKind::InvalidData => {
                Ok(Some(UNREADABLE_EDIT.to_owned()))
            }
            Err(error) => Err(error),
        }
    }

    /// How the kept change ended: of which cluster it is, its request says, and little else is known.
    fn over(&self, problems: Vec<Problem>) -> ClusterEditProgress {
        let request = self.store.readable_request().ok().flatten();
        let hash = request.as_ref().and_then(|request| request.lock.get("lock_hash")?.as_str());
        ClusterEditProgress { lock_hash: hash.unwrap_or_default().to_owned(), ..over(problems) }
    }
}

impl Daemon {
    /// Goes on with a change that a restart interrupted, before any node is started.
    pub(super) async fn resume_change(&mut self) {
        self.change.resume_at = None;
        self.follow_the_changed_cluster();
        let found = self
            .change
            .store
            .request()
            .and_then(|request| Ok((request, self.change.store.place()?, self.change.store.ended()?)));
        match found {
            // What was left of it was to be put away when the disk was full: the place serves what its files say.
            Ok((None, _, _)) => self.serve_by_the_files_again().await,
            Ok((Some(_), _, Some(problems))) => {
                self.change.last = Some(self.change.over(problems));
                self.serve_by_the_files_again().await;
            }
            // Its folder was being removed.
            Ok((Some(_), None, None)) => {
                tracing::warn!(
                    "what is left of a change of a cluster does not say where it was; it is not gone on with"
                );
                self.change.last = Some(self.change.over(vec![damaged_change()]));
                self.serve_by_the_files_again().await;
            }
            Ok((Some(request), place, None)) => {
                self.change.place = place;
                if let Err(problem) = self.start_change(request).await {
                    self.change_interrupted(problem).await;
                }
            }
            // The disk may answer the next time, and others may wait for this box.
            Err(error) if error.kind() != std::io::ErrorKind::InvalidData => {
                self.change_interrupted(kept(&error)).await;
            }
            Err(error) => {
                tracing::error!(%error, "the stored change of a cluster cannot be read");
                self.change.last = Some(self.change.over(vec![kept(&error)]));
                self.serve_by_the_files_again().await;
            }
        }
    }

    /// Nothing is gone on with: the place that rested for it serves what its files say.
    async fn serve_by_the_files_again(&mut self) {
        if let Some(place) = self.change.place {
            self.release_place();
            self.serve_by_the_files(place).await;
        }
    }

    /// At which place of the box the cluster is that is changed, by the files: this is asked before any cluster is served. A
    /// cluster that cannot be read may be it.
    fn whereabouts(&self, request: &ClusterEdit) -> Whereabouts {
        let Ok(lock) = cluster::Lock::from_value(request.lock.clone()) else { return Whereabouts::Unclear };
        let wanted: BTreeSet<_> = lock.validators.iter().map(|validator| validator.public_key).collect();
        // A folder on its way back has its cluster file last.
        let Ok(places) = self.folders.finish().and_then(|()| self.folders.places()) else {
            return Whereabouts::Unclear;
        };
        let mut found = Whereabouts::Nowhere;
        for place in places {
            let known = match self.folders.store_as_it_is(place).load_cluster() {
                Ok(None) => continue,
                Ok(Some(setup)) => cluster::Lock::from_value(setup.lock).ok(),
                Err(_) => None,
            };
            match known {
                None => found = Whereabouts::Unclear,
                Some(known)
                    if known.validators.iter().any(|validator| wanted.contains(&validator.public_key)) =>
                {
                    return Whereabouts::At(place);
                }
                Some(_) => {}
            }
        }
        found
    }

    /// The box may have left the cluster whose change is kept, or have left it and joined it again at another place. A box that
    /// is only to join has an identity key in the request, and is in it nowhere.
    pub(super) fn follow_the_changed_cluster(&mut self) {
        let Ok(Some(request)) = self.change.store.readable_request() else { return };
        if request.identity_key.is_some() || self.change.is_running() {
            return;
        }
        match self.whereabouts(&request) {
            Whereabouts::Nowhere => self.finish_leaving(),
            Whereabouts::At(place) => {
                // Without any place its folder was being removed: it is not to be gone on with.
                let moved = match self.change.store.place() {
                    Ok(Some(known)) => known != place,
                    Ok(None) => false,
                    Err(error) => error.kind() == std::io::ErrorKind::InvalidData,
                };
                if moved && let Err(error) = self.change.store.move_to(place) {
                    tracing::error!(%error, place, "the place at which the changed cluster is now cannot be kept");
                }
            }
            Whereabouts::Unclear => {}
        }
    }

    /// Forgets a change of a cluster in which this box is not any more. New shares that wait in the signer stay there.
    fn finish_leaving(&mut self) {
        tracing::warn!(
            "this box is not in the cluster any more whose change was under way: the change is forgotten"
        );
        self.change.last = match self.change.store.finish() {
            Ok(()) => None,
            Err(error) => Some(over(vec![kept(&error)])),
        };
    }

    /// The others wait for this box, whether or not its owner looks at the page: what may pass is tried again, and the cluster
    /// rests meanwhile. What only the owner can mend ends the attempt.
    async fn change_interrupted(&mut self, problem: Problem) {
        let passes = ["signer_unavailable", "p2p_failed", "disk_write_failed", "cluster_stuck"];
        if !passes.contains(&problem.code.as_str()) {
            tracing::error!(%problem, "the change of the cluster cannot be gone on with");
            return self.on_change_ended(Ending::Failed(vec![problem])).await;
        }
        self.change.resume_at = Some(Instant::now() + self.change.resume_pause);
        self.change.resume_pause = longer(self.change.resume_pause);
        if !self.change.last.as_ref().is_some_and(|last| last.problems.contains(&problem)) {
            tracing::warn!(%problem, "the change of the cluster cannot go on yet; it is tried again");
        }
        let interrupted =
            ClusterEditProgress { phase: "interrupted".to_owned(), ..self.change.over(vec![problem]) };
        self.change.last = Some(interrupted);
    }

    fn around_change(&self, place: u8) -> Result<edit::Surroundings, Problem> {
        let p2p = self.config.p2p.at_place(place);
        let present = match self.seats.get(&place) {
            Some(seat) => seat.place.store.load_cluster().map_err(|error| disk(&error))?,
            None => None,
        };
        Ok(edit::Surroundings {
            external: p2p.external(),
            listen: p2p.listen,
            nickname: p2p.nickname,
            signer_socket: self.config.signer_socket.clone(),
            networks: self.config.custom_networks(),
            store: self.change.store.clone(),
            present,
        })
    }

    async fn start_change(&mut self, request: ClusterEdit) -> Result<(), Problem> {
        let place = self.change.place.unwrap_or_default();
        if let Some(seat) = self.seats.get_mut(&place) {
            // First: whatever fails from here on, the node of before does not come up beside the change.
            seat.changing = true;
            seat.end().await?;
        }
        let around = self.around_change(place)?;
        self.reserved = self.reserved.or(Some(place));
        self.change.running = Some(edit::start(request, around).await?);
        self.change.last = None;
        self.change.resume_at = None;
        self.change.resume_pause = RESUME_AGAIN;
        if let Some(seat) = self.seats.get(&place) {
            let problem = Problem::new(
                "edit_under_way",
                "The cluster is being changed: this box does no duties for it meanwhile.",
                "Follow the change on the page; before anything is promised, it ends by itself after a quarter of an hour.",
            );
            seat.place.board.idle(NodeState::Halted, vec![problem]);
        }
        Ok(())
    }

    /// The place is its cluster's again, or nobody's.
    pub(super) fn release_place(&mut self) {
        if self.reserved == self.change.place && self.ceremony.is_none() {
            self.reserved = None;
        }
        if let Some(seat) = self.change.place.take().and_then(|place| self.seats.get_mut(&place)) {
            seat.changing = false;
        }
    }

    /// The owner asks.
    pub(super) async fn on_change(&mut self, request: Request) {
        match request {
            Request::Start(wanted, answer) => {
                let result = self.begin_change(*wanted).await.map(|()| self.change.status());
                drop(answer.send(result));
            }
            Request::Status(answer) => drop(answer.send(Ok(self.change.status()))),
            Request::Discard(name, answer) => {
                let result = self.discard_change(&name).await.map(|()| self.change.status());
                drop(answer.send(result));
            }
            Request::Forgo(name, answer) => {
                let result = self.forget_promise(&name).await.map(|()| self.change.status());
                drop(answer.send(result));
            }
            Request::Lock(lock, answer) => self.on_lock(lock, answer).await,
            Request::GiveLock(answer) => {
                let lock = self.change.store.lock().map_err(|error| kept(&error));
                let lock = lock.and_then(|lock| lock.map(|lock| EditCommit { lock }).ok_or_else(no_lock));
                drop(answer.send(lock));
            }
        }
    }

    /// A new change, or the same one again where it was.
    pub(super) async fn begin_change(&mut self, mut wanted: ClusterEdit) -> Result<(), Problem> {
        if self.ceremony.is_some() || self.born.is_some() || self.resume_at.is_some() {
            return Err(Problem::new(
                "ceremony_under_way",
                "A key generation is under way on this box.",
                "Finish or discard it first.",
            ));
        }
        if self.change.bringing.is_some() {
            return Err(lock_is_looked_at());
        }
        let known = self.change.store.readable_request().map_err(|error| kept(&error))?;
        let records = self.change.store.readable_records().map_err(|error| kept(&error))?;
        let has = |wanted: fn(&Record) -> bool| records.iter().any(wanted);
        let goes_on = known.as_ref().is_some_and(|known| {
            (&known.lock, &known.edit, known.minor) == (&wanted.lock, &wanted.edit, wanted.minor)
        }) && has(|record| matches!(record, Record::Prepared { .. }));
        let is_known = known.is_some();
        // A box that joins is known by its key, which is not said again.
        if goes_on && wanted.identity_key.as_ref().is_none_or(|key| key.expose_secret().is_empty()) {
            wanted.identity_key = known.and_then(|known| known.identity_key);
        }
        let place = if goes_on {
            match self.change.store.readable_place().map_err(|error| kept(&error))? {
                Some(place) => place,
                None => self.place_of_change(&wanted)?,
            }
        } else {
            self.place_of_change(&wanted)?
        };
        if self.change.is_running() && self.change.place != Some(place) {
            return Err(Problem::new(
                "edit_under_way",
                "Another cluster of this box is being changed.",
                "Finish that change or give it up first.",
            ));
        }
        if !goes_on {
            let may_be_promised = is_known && has(|record| matches!(record, Record::Promised));
            // Made anew, a cluster's shares leave its own promise behind, and never another cluster's.
            let of_another = self.change.store.readable_place().map_err(|error| kept(&error))? != Some(place);
            if may_be_promised && (of_another || wanted.edit.get("recreate").is_none()) {
                return Err(promised());
            }
            edit::check(&wanted, &self.around_change(place)?).await?;
        }
        if let Some(key) = &wanted.identity_key {
            crate::sealed::seal(&self.config.signer_socket, key).await?;
        }
        if goes_on {
            self.change.store.keep_request(&wanted).map_err(|error| kept(&error))?;
        }
        if let Some(running) = self.change.running.take() {
            running.stop().await;
        }
        if let Some(seat) = self.seats.get_mut(&place) {
            seat.end().await?;
        }
        self.change.place = Some(place);
        if !goes_on && let Err(error) = self.change.store.begin(&wanted, place) {
            // The cluster goes on as it was.
            self.serve_as_before();
            return Err(kept(&error));
        }
        let started = self.start_change(wanted).await;
        match &started {
            Ok(()) => {}
            // Others may wait for it: what passes is waited for, as after a restart.
            Err(problem) if goes_on => self.change_interrupted(problem.clone()).await,
            Err(problem) => self.on_change_ended(Ending::Failed(vec![problem.clone()])).await,
        }
        started
    }

    /// The place of the cluster that is changed; a free one for a box that joins.
    fn place_of_change(&self, wanted: &ClusterEdit) -> Result<u8, Problem> {
        let hash = wanted.lock.get("lock_hash").and_then(serde_json::Value::as_str).unwrap_or_default();
        match (self.places.of_cluster(hash), &wanted.identity_key) {
            (Ok(place), _) => Ok(place.number),
            (Err(_), Some(_)) if self.change.is_running() => Ok(self.change.place.unwrap_or_default()),
            (Err(_), Some(_)) => self.place_of_ceremony(),
            (Err(problem), None) => Err(problem),
        }
    }

    /// Gives the change up that has this name, if it is here and nobody can be waiting for it.
    async fn discard_change(&mut self, name: &str) -> Result<(), Problem> {
        if self.change.bringing.is_some() {
            return Err(lock_is_looked_at());
        }
        let kept_name = self.change.name().map_err(|error| kept(&error))?;
        if !kept_name.is_some_and(|known| known.eq_ignore_ascii_case(name)) {
            return Ok(()); // It may be one that the signer alone knows of.
        }
        // A request that cannot be read cannot be gone on with: what was promised for it, the signer knows.
        let records = self.change.store.readable_records().map_err(|error| kept(&error))?;
        if records.iter().any(|record| matches!(record, Record::Promised)) {
            return Err(promised());
        }
        if let Some(running) = self.change.running.take() {
            running.stop().await;
        }
        self.change.last = None;
        self.change.resume_at = None;
        let given_up = self.change.store.give_up().map_err(|error| kept(&error));
        // Whatever the disk says, nobody is to do without this cluster's duties for it.
        self.serve_as_before();
        given_up
    }

    /// Forgets the change in which this box had promised to join with the lock of that name. The word of whoever asks is not
    /// enough: what the signer still waits for is not forgotten, or the complete lock would find nobody here to take it.
    async fn forget_promise(&mut self, name: &str) -> Result<(), Problem> {
        if self.change.bringing.is_some() {
            return Err(lock_is_looked_at());
        }
        let request = self.change.store.readable_request().map_err(|error| kept(&error))?;
        // Of a cluster that this box is in, only the lock or a change with every member leads on.
        if request.is_none_or(|request| request.identity_key.is_none()) {
            return Ok(());
        }
        let records = self.change.store.readable_records().map_err(|error| kept(&error))?;
        let is_it = |record: &Record| {
            let Record::Prepared { lock, .. } = record else { return false };
            let lock: Option<serde_json::Value> = serde_json::from_slice(lock).ok();
            let hash = lock.as_ref().and_then(|lock| lock.get("lock_hash")?.as_str());
            hash.is_some_and(|hash| hash.eq_ignore_ascii_case(name))
        };
        if !records.iter().any(is_it) {
            return Ok(()); // It is another change that the signer has given up.
        }
        if edit::waits_for(&self.config.signer_socket, name).await? {
            return Err(promised());
        }
        if let Some(running) = self.change.running.take() {
            running.stop().await;
        }
        self.change.last = None;
        self.change.resume_at = None;
        let given_up = self.change.store.give_up().map_err(|error| kept(&error));
        self.serve_as_before();
        tracing::warn!(name, "a promise to join a cluster was given up by the owner and is forgotten");
        given_up
    }

    pub(super) fn serve_as_before(&mut self) {
        let place = self.change.place;
        self.release_place();
        if let Some(place) = place {
            self.start_again(place);
        }
    }

    /// The change is over: the node serves what is in force now.
    pub(super) async fn on_change_ended(&mut self, ending: Ending) {
        self.change.resume_at = None;
        let progress = self.change.running.take().map(|running| running.progress());
        let outcome = match ending {
            Ending::Changed(setup) => self.change_over(*setup).await,
            Ending::Left => self.leave_for_good(progress.as_ref()).await,
            Ending::Failed(problems) => {
                if let Err(error) = self.change.store.end(&problems) {
                    tracing::error!(%error, "the end of the change cannot be kept");
                }
                self.change.last = Some(match progress {
                    Some(progress) => {
                        ClusterEditProgress { phase: "failed".to_owned(), problems, ..progress }
                    }
                    None => self.change.over(problems),
                });
                return self.serve_as_before();
            }
        };
        self.change.last = progress;
        if let Err(problem) = outcome {
            // Gone on with at the next start, before any node; and before that, when it is the disk, which may have room again.
            tracing::error!(%problem, "the changed cluster cannot be served yet");
            if ["disk_write_failed", sealed::LOCKED].contains(&problem.code.as_str()) {
                self.change.resume_at = Some(Instant::now() + self.change.resume_pause);
                self.change.resume_pause = longer(self.change.resume_pause);
            }
            if let Some(seat) = self.change.place.and_then(|place| self.seats.get(&place)) {
                seat.place.board.idle(NodeState::Halted, vec![problem.clone()]);
            }
            if let Some(progress) = &mut self.change.last {
                progress.problems.insert(0, problem);
            }
        }
    }

    /// The signer has the new shares. Every step may be repeated after a crash: until the end, the change is gone on with at
    /// the next start, before any node.
    pub(super) async fn change_over(&mut self, setup: ClusterSetup) -> Result<(), Problem> {
        let (membership, setup) = self.verify_stored(setup).await?;
        // A key that was opened long ago may be forgotten in its sealed form.
        sealed::seal(&self.config.signer_socket, &setup.identity_key).await?;
        let number = self.change.place.unwrap_or_default();
        self.take_new_lock(number, &setup, &membership)?;
        self.change.store.finish().map_err(|error| kept(&error))?;
        tracing::warn!(cluster = %membership.view.name, share_index = membership.share_index, place = number, "the cluster was changed");
        self.release_place();
        self.hand_identity_over(&setup, &membership);
        self.seat_and_start(number, membership);
        Ok(())
    }

    /// Writes the new lock of the cluster at a place where its files are, after its node has ended. May be repeated after a crash.
    pub(super) fn take_new_lock(
        &mut self,
        number: u8,
        setup: &ClusterSetup,
        membership: &Membership,
    ) -> Result<(), Problem> {
        self.room_beside_others(membership, number)?;
        if !self.seats.contains_key(&number) {
            self.open_seat(number).map_err(|error| disk(&error))?;
        }
        let Some(seat) = self.seats.get_mut(&number) else {
            return Err(Problem::new("internal", "A place is missing by a fault of ours.", "Report this."));
        };
        let (store, old) = (seat.place.store.clone(), seat.membership.clone());
        // Another cluster's files are never written over.
        let same =
            |old: &Membership| membership.keys.keys().any(|validator| old.keys.contains_key(validator));
        if old.as_ref().is_some_and(|old| !same(old)) {
            return Err(Problem::new(
                "edit_place_taken",
                "Another cluster has taken the place on this box that the changed one was to have.",
                "Leave that cluster, or send us the log.",
            ));
        }
        self.put_old_memory_away(number, &store, old.as_ref(), membership).map_err(|error| disk(&error))?;
        store.change_cluster(setup, membership).map_err(|error| disk(&error))
    }

    /// What was said under the old lock never counts as the new member's word: it is put away under the old member's name, and
    /// the new one is silent about every slot up to the latest in it and up to now (decisions 0221 and 0280).
    pub(super) fn put_old_memory_away(
        &self,
        number: u8,
        store: &Store,
        old: Option<&Membership>,
        new: &Membership,
    ) -> Result<(), StoreError> {
        let chain = match store.load_chain() {
            Err(StoreError::Damaged { .. }) => {
                store.set_chain_aside()?;
                None
            }
            chain => chain?,
        };
        let is_new = |hash: &str| hash == hex::encode(new.view.lock_hash);
        let of = chain.as_ref().and_then(|chain| Some((chain.lock_hash.clone()?, chain.share_index?)));
        if of.as_ref().is_some_and(|(hash, _)| is_new(hash)) {
            return Ok(()); // Done before a crash.
        }
        if chain.is_some() || store.journal_path().exists() {
            let old = old.filter(|old| old.view.lock_hash != new.view.lock_hash);
            let name = match (of, old) {
                (Some((hash, index)), _) => format!("{hash}-{index}"),
                (None, Some(old)) => left_name(old),
                // Nobody can tell whose it is.
                (None, None) => unreadable_name(),
            };
            self.folders.put_memory_away(number, &name, chain.as_ref())?;
        }
        if let Some(slot) = self.folders.left_by_unknown()? {
            store.note_forgotten(slot)?;
        }
        Ok(())
    }

    /// This box is not in the cluster any more.
    async fn leave_for_good(&mut self, progress: Option<&ClusterEditProgress>) -> Result<(), Problem> {
        let hash = progress.map(|progress| progress.lock_hash.clone()).unwrap_or_default();
        self.release_place();
        if self.places.of_cluster(&hash).is_ok() {
            self.leave(&hash).await?;
        }
        self.change.store.finish().map_err(|error| kept(&error))?;
        tracing::warn!("this box has left the cluster: its shares are gone");
        Ok(())
    }
}

/// Where the cluster of a change is on this box.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whereabouts {
    /// At this place.
    At(u8),
    /// It was left.
    Nowhere,
    /// Some cluster's files cannot be read, and it may be that one.
    Unclear,
}

/// A change of which nothing is known but how it ended.
pub(super) fn over(problems: Vec<Problem>) -> ClusterEditProgress {
    ClusterEditProgress {
        name: String::new(),
        lock_hash: String::new(),
        phase: "failed".to_owned(),
        step: 0,
        dealt: 0,
        validators: 0,
        promised: false,
        members: Vec::new(),
        problems,
        new_lock_hash: None,
    }
}

fn promised() -> Problem {
    Problem::new(
        "edit_promised",
        "The old shares may be silent for the change that was begun, and other members may have finished it.",
        "Begin the same change again: it goes on where it was. Or hand in the new cluster lock from another member. If nobody has it, make all shares anew (`recreate`) with every member.",
    )
}

/// What is kept of a change cannot be gone on with.
pub(crate) fn damaged_change() -> Problem {
    Problem::new(
        "edit_damaged",
        "What this box kept of the change of its cluster cannot be read.",
        "Begin the change again, or give it up. If the others have finished it, hand in the new cluster lock.",
    )
}

fn lock_is_looked_at() -> Problem {
    Problem::new(
        "busy",
        "The signer is looking at a cluster lock that was handed in.",
        "Try again in a minute.",
    )
}

fn no_lock() -> Problem {
    Problem::new(
        "edit_no_lock",
        "This box has no complete lock of a change.",
        "Ask another member whose page says that the change is done.",
    )
}

pub(super) fn kept(error: &std::io::Error) -> Problem {
    Problem::new(
        "disk_write_failed",
        setup::sentence(&format!("the change of the cluster cannot be kept: {error}")),
        "Free space on this box's disk, then try again.",
    )
}
