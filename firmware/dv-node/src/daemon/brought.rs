//! The complete lock of a change, brought by the owner. It is all that a member needs which lost touch with the others in the
//! middle: whatever this node still knows of the change, the signer knows whether new shares of its own wait for that lock.
//!
//! The lock is kept before the signer is asked, and the signer is asked beside the daemon's loop: verifying a large lock takes
//! longer than a loop may stand still. Until the signer has changed over, everything goes on as it was.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use chain::PublicKeyBytes;
use cluster::{IdentityKey, Lock, Network, PeerId};
use ipc::edit::{ClusterEditProgress, ClusterEditStatus, EditCommitted};
use ipc::node::NodeState;
use ipc::{ClusterSetup, Problem, Sensitive};
use obol::dkg::edit::Record;
use serde_json::Value;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::change::{kept, over};
use super::{Daemon, disk};
use crate::edit;
use crate::sealed;
use crate::setup::sentence;

/// After a restart a signer that is not ready is asked this often.
const ASK_AGAIN: Duration = Duration::from_secs(5);

/// To whom the outcome is said; nobody waits after a restart.
type To = Option<oneshot::Sender<Result<ClusterEditStatus, Problem>>>;

/// A lock that the signer is asked about.
pub(super) struct Bringing {
    task: JoinHandle<Result<Taken, Problem>>,
    number: u8,
    lock: Value,
    to: To,
}

/// What became of it.
pub(super) struct Brought {
    taken: Result<Taken, Problem>,
    number: u8,
    lock: Value,
    to: To,
}

/// The signer has changed over to it.
struct Taken {
    /// How the cluster is served now; none when this box has left it.
    setup: Option<ClusterSetup>,
}

/// What is known here of the cluster at a place, for the task.
struct Known {
    present: Option<ClusterSetup>,
    request: Option<ipc::edit::ClusterEdit>,
    /// The lock is in force already, and a cut kept the steps after that from being done.
    unfinished: bool,
}

impl Bringing {
    /// What the signer said. Not to be asked again afterwards.
    pub(super) async fn ended(this: &mut Option<Self>) -> Brought {
        let Some(bringing) = this else { return std::future::pending().await };
        let taken = (&mut bringing.task).await.unwrap_or_else(|_| {
            Err(Problem::new("internal", "Reading the lock failed by a fault of ours.", "Report this."))
        });
        let Some(Self { number, lock, to, .. }) = this.take() else { return std::future::pending().await };
        Brought { taken, number, lock, to }
    }
}

impl Daemon {
    /// Hands it to the change that goes on with it, which helps the others to their end, too; and to the signer alone when no
    /// such change is known here any more, or another one was begun since.
    pub(super) async fn on_lock(
        &mut self,
        lock: Value,
        to: oneshot::Sender<Result<ClusterEditStatus, Problem>>,
    ) {
        if self.change.bringing.is_some() {
            let next_step = "Wait until the signer has looked at it.";
            drop(to.send(Err(Problem::new("busy", "A lock was handed in a moment ago.", next_step))));
        } else if self.goes_on_with(&lock) && self.hand_to_change(&lock).await.is_ok() {
            drop(to.send(Ok(self.change.status())));
        } else {
            self.ask_signer(lock, Some(to));
        }
    }

    /// One that was kept before a restart.
    pub(super) fn resume_brought(&mut self) {
        // A cut between leaving the cluster and forgetting the change.
        self.follow_the_changed_cluster();
        match self.change.store.brought() {
            Ok(Some(lock)) => self.ask_signer(lock, None),
            Ok(None) => {}
            Err(error) => {
                tracing::error!(%error, "a lock that was handed in cannot be read; hand it in again")
            }
        }
    }

    async fn hand_to_change(&mut self, lock: &Value) -> Result<(), Problem> {
        if self.change.running.is_none()
            && let Some(request) = self.change.store.readable_request().map_err(|error| kept(&error))?
        {
            self.begin_change(request).await?;
        }
        let Some(running) = &self.change.running else { return Err(nothing_known()) };
        // Kept until the change is over: whoever handed it in has been told that it is here.
        self.change.store.keep_brought(lock).map_err(|error| kept(&error))?;
        if running.bring_lock(lock) { Ok(()) } else { Err(nothing_known()) }
    }

    /// Whether the change that is kept here has sealed its shares for exactly that lock.
    fn goes_on_with(&self, lock: &Value) -> bool {
        let is_it = |record: &Record| {
            let Record::Prepared { lock: bytes, .. } = record else { return false };
            let prepared = serde_json::from_slice::<Value>(bytes).ok();
            prepared.as_ref().and_then(hash_of).is_some_and(|known| Some(known) == hash_of(lock))
        };
        matches!(self.change.store.request(), Ok(Some(_)))
            && self.change.store.records().is_ok_and(|records| records.iter().any(is_it))
    }

    fn ask_signer(&mut self, lock: Value, to: To) {
        let begun = self.place_of_lock(&lock).and_then(|(number, known)| {
            self.change.store.keep_brought(&lock).map_err(|error| kept(&error))?;
            Ok((number, known))
        });
        match begun {
            Ok((number, known)) => {
                let (socket, networks) = (self.config.signer_socket.clone(), self.config.custom_networks());
                let given = lock.clone();
                // After a restart the signer may be a while, and nobody is there to hand the lock in again.
                let patient = to.is_none();
                let task = tokio::spawn(async move { take(given, known, &socket, networks, patient).await });
                self.change.bringing = Some(Bringing { task, number, lock, to });
            }
            Err(problem) => {
                tracing::warn!(%problem, "a lock that was handed in is not taken");
                if let Some(to) = to {
                    drop(to.send(Err(problem)));
                }
            }
        }
    }

    /// At which place the cluster of that lock is, and what is known of it. A change of another cluster is not touched.
    fn place_of_lock(&self, lock: &Value) -> Result<(u8, Known), Problem> {
        let parsed = Lock::from_value(lock.clone()).map_err(|error| invalid(&error.to_string()))?;
        let validators: BTreeSet<PublicKeyBytes> =
            parsed.validators.iter().map(|validator| validator.public_key).collect();
        let store = &self.change.store;
        let request = store.readable_request().map_err(|error| kept(&error))?;
        let changed = match request {
            Some(_) => store.readable_place().map_err(|error| kept(&error))?,
            None => None,
        };
        let has = |place: &&std::sync::Arc<crate::places::Place>| validators.iter().any(|key| place.has(key));
        let taken = self.places.taken();
        if let Some(place) = taken.iter().find(has) {
            if changed.is_some_and(|changed| changed != place.number) {
                return Err(Problem::new(
                    "edit_under_way",
                    "Another cluster of this box is being changed.",
                    "Finish that change or give it up, then hand this lock in again.",
                ));
            }
            let present = place.store.load_cluster().map_err(|error| disk(&error))?;
            let hash = hash_of(lock);
            let in_force = present.as_ref().is_some_and(|present| hash_of(&present.lock) == hash);
            // The memory is still the old member's, or the change from the old lock is not put away.
            let chain = place.store.load_chain().ok().flatten().and_then(|chain| chain.lock_hash);
            let plain = hash.as_deref().map(|hash| hash.trim_start_matches("0x"));
            let unfinished = in_force
                && (chain.is_some_and(|known| Some(known.as_str()) != plain)
                    || request.as_ref().is_some_and(|request| hash_of(&request.lock) != hash));
            return Ok((place.number, Known { present, request, unfinished }));
        }
        // A box that joins has no cluster yet, but what it was told when the change began.
        if request.as_ref().is_none_or(|request| request.identity_key.is_none()) {
            return Err(nothing_known());
        }
        let is_free = |number: &u8| taken.iter().all(|place| place.number != *number);
        let number = match changed.filter(is_free) {
            Some(number) => number,
            None => self.place_of_ceremony()?,
        };
        Ok((number, Known { present: None, request, unfinished: false }))
    }

    /// The signer has answered.
    pub(super) async fn on_brought(&mut self, brought: Brought) {
        let Brought { taken, number, lock, to } = brought;
        let outcome = match taken {
            Ok(taken) => {
                let outcome = self.take_up(number, &lock, taken).await;
                if let Err(problem) = &outcome
                    && let Some(seat) = self.seats.get(&number)
                {
                    seat.place.board.idle(NodeState::Halted, vec![problem.clone()]);
                }
                outcome
            }
            Err(problem) => {
                // One that could not be asked, or may have done it all the same, is asked again after the next start.
                let may_have =
                    ["signer_unavailable", "edit_fault", "internal"].contains(&problem.code.as_str());
                if !may_have && let Err(error) = self.change.store.forget_brought() {
                    tracing::warn!(%error, "a lock that was refused stays on the disk until the next start");
                }
                Err(problem)
            }
        };
        if let Err(problem) = &outcome {
            tracing::warn!(%problem, "the cluster is not changed over to the lock that was handed in");
        }
        let heard = match (&outcome, to) {
            (_, Some(to)) => {
                let status = self.change.status();
                to.send(outcome.clone().map(|()| status)).is_ok()
            }
            (Ok(()), None) => true,
            (Err(_), None) => false,
        };
        // Whoever handed it in has stopped waiting, or a restart was between: the page says it.
        if let Err(problem) = outcome
            && !heard
            && self.change.running.is_none()
        {
            self.change.last = Some(over(vec![problem]));
        }
    }

    /// The signer has changed over. Every step may be repeated: the lock is kept until all are done.
    async fn take_up(&mut self, number: u8, lock: &Value, taken: Taken) -> Result<(), Problem> {
        // Whatever else was begun for this cluster is over for this box.
        if let Some(running) = self.change.running.take() {
            running.stop().await;
        }
        self.change.resume_at = None;
        self.change.place = Some(number);
        if let Some(seat) = self.seats.get_mut(&number)
            && let Err(problem) = seat.end().await
        {
            // Its shares are gone: it is not started again when it ends.
            seat.ask_to_stop();
            return Err(problem);
        }
        let bytes = serde_json::to_vec(lock).map_err(|_| invalid("it cannot be written"))?;
        self.change.store.save_lock(&bytes).map_err(|error| kept(&error))?;
        match taken.setup {
            Some(setup) => self.change_over(setup).await?,
            None => {
                self.release_place();
                let present = self.seats.get(&number).and_then(|seat| seat.membership.as_ref());
                if let Some(hash) = present.map(|present| hex::encode(present.view.lock_hash)) {
                    self.leave(&hash).await?;
                }
                self.change.store.finish().map_err(|error| kept(&error))?;
            }
        }
        let new_lock_hash = lock.get("lock_hash").and_then(Value::as_str).map(str::to_owned);
        let done = ClusterEditProgress { phase: "done".to_owned(), new_lock_hash, ..over(Vec::new()) };
        self.change.last = Some(done);
        Ok(())
    }
}

/// Verifies the lock, has the signer change over, and makes sure that it did: that it also recognises locks which it left long
/// ago, or which are in force, is no reason to serve them.
async fn take(
    lock: Value,
    known: Known,
    socket: &Path,
    networks: Vec<Network>,
    patient: bool,
) -> Result<Taken, Problem> {
    let given = lock.clone();
    let read = tokio::task::spawn_blocking(move || {
        let lock = Lock::from_value(given).map_err(|error| invalid(&error.to_string()))?;
        let view = lock.verify(&networks).map_err(|error| invalid(&error.to_string()))?;
        Ok((lock, view))
    });
    let (parsed, view) = read.await.map_err(|_| invalid("reading it failed by a fault of ours"))??;
    if parsed.signature_aggregate.is_empty() {
        return Err(invalid("it is not signed by the new shares"));
    }
    let Known { present, request, unfinished } = known;
    if unfinished {
        return Ok(Taken { setup: present });
    }
    let key = present.as_ref().map(|present| &present.identity_key);
    let key = key.or_else(|| request.as_ref()?.identity_key.as_ref()).ok_or_else(nothing_known)?;
    let key = loop {
        match sealed::open(socket, key).await {
            Ok(key) => break key,
            Err(problem) if patient && problem.code == sealed::LOCKED => {
                tokio::time::sleep(ASK_AGAIN).await;
            }
            Err(problem) => return Err(sealed::unavailable(problem)),
        }
    };
    let identity = IdentityKey::from_file_text(key.expose_secret()).map_err(|error| {
        Problem::new("identity_key_invalid", sentence(&error.to_string()), "Report this.")
    })?;
    let own = PeerId::from_public_key(&identity.public_key());
    let new: Vec<PublicKeyBytes> = match view.operators.iter().position(|operator| operator.peer_id == own) {
        Some(index) => shares_at(&parsed, index),
        None => Vec::new(),
    };
    let old: Vec<PublicKeyBytes> = match &present {
        Some(present) => own_shares(&present.lock, &identity)?,
        None => Vec::new(),
    };
    if new == old {
        return Err(Problem::new(
            "edit_lock_in_force",
            "This lock is the one that is in force here.",
            "Hand in the new lock, from a member whose page says that the change is done.",
        ));
    }
    let committed = loop {
        match edit::commit(socket, lock.clone()).await {
            Ok(committed) => break committed,
            Err(problem) if patient && problem.code == "signer_unavailable" => {
                tokio::time::sleep(ASK_AGAIN).await;
            }
            Err(problem) => return Err(problem),
        }
    };
    if !has_changed_over(&committed, &old, &new) {
        return Err(Problem::new(
            "edit_lock_not_newest",
            "The signer does not hold this lock's shares in place of those that this box serves now.",
            "Hand in the lock of the change that is not finished here.",
        ));
    }
    let operators: BTreeSet<PeerId> = view.operators.iter().map(|operator| operator.peer_id).collect();
    if !operators.contains(&own) {
        return Ok(Taken { setup: None });
    }
    let identity = Sensitive::new(identity.to_file_text().to_string());
    let setup = edit::setup_after(lock, identity, &operators, present.as_ref(), request.as_ref());
    Ok(Taken { setup: Some(setup) })
}

/// Whether the signer holds all new shares and none of the old ones.
fn has_changed_over(committed: &EditCommitted, old: &[PublicKeyBytes], new: &[PublicKeyBytes]) -> bool {
    let among = |texts: &[String], key: &PublicKeyBytes| {
        texts.iter().any(|text| text.parse::<PublicKeyBytes>().is_ok_and(|known| known == *key))
    };
    new.iter().all(|key| among(&committed.shares, key))
        && old.iter().all(|key| among(&committed.retired, key))
}

/// What a lock calls itself.
fn hash_of(lock: &Value) -> Option<String> {
    lock.get("lock_hash")?.as_str().map(str::to_ascii_lowercase)
}

fn shares_at(lock: &Lock, index: usize) -> Vec<PublicKeyBytes> {
    lock.validators.iter().filter_map(|validator| validator.public_shares.get(index).copied()).collect()
}

/// The public shares of this box in the lock that it serves.
fn own_shares(lock: &Value, identity: &IdentityKey) -> Result<Vec<PublicKeyBytes>, Problem> {
    let lock = Lock::from_value(lock.clone()).map_err(|error| invalid(&error.to_string()))?;
    let own = identity.public_key();
    let records = lock.definition.operators.iter().map(|operator| cluster::Enr::parse(&operator.enr));
    let index = records.into_iter().position(|record| record.is_ok_and(|record| record.public_key() == own));
    let index = index.ok_or_else(nothing_known)?;
    Ok(shares_at(&lock, index))
}

fn invalid(why: &str) -> Problem {
    let advice = "Get the complete lock from a member whose page says that the change is done.";
    let (what, next_step) = why.rsplit_once("; ").unwrap_or((why, advice));
    Problem::new("lock_invalid", sentence(what), sentence(next_step))
}

fn nothing_known() -> Problem {
    Problem::new(
        "edit_none",
        "This box is in no cluster with the validators of that lock, and takes no part in a change of one.",
        "If it was to join with that lock, join the cluster with it and its identity key first, then hand it in again.",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_signer_recognises_is_not_always_what_it_has_just_changed_over_to() {
        let key = |byte: u8| PublicKeyBytes([byte; 48]);
        let said = |held: &[u8], gone: &[u8]| EditCommitted {
            shares: held.iter().map(|byte| key(*byte).to_string()).collect(),
            retired: gone.iter().map(|byte| key(*byte).to_string()).collect(),
            begins_in_epoch: None,
        };
        let (old, new) = ([key(1), key(2)], [key(3), key(4)]);
        assert!(has_changed_over(&said(&[3, 4], &[1, 2]), &old, &new));
        // A box that joins, and one that leaves.
        assert!(has_changed_over(&said(&[3, 4], &[]), &[], &new));
        assert!(has_changed_over(&said(&[], &[1, 2]), &old, &[]));
        // The lock in force, whose shares are held and frozen; an earlier one; and half of one.
        assert!(!has_changed_over(&said(&[1, 2], &[]), &old, &new));
        assert!(!has_changed_over(&said(&[], &[8, 9]), &old, &new));
        assert!(!has_changed_over(&said(&[], &[8, 9]), &old, &[]));
        assert!(!has_changed_over(&said(&[3], &[1, 2]), &old, &new));
    }
}
