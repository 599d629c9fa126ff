//! The complete lock of a change, brought by the owner. It is all that a member needs which lost touch with the others in the
//! middle: whatever this node still knows of the change, the signer knows whether new shares of its own wait for that lock.

use std::collections::BTreeSet;

use cluster::{ClusterView, Lock, PeerId};
use ipc::edit::ClusterEditProgress;
use ipc::node::NodeState;
use ipc::{ClusterSetup, Problem, Sensitive};
use obol::dkg::edit::Record;
use serde_json::Value;

use super::change::{kept, over};
use super::{Daemon, disk};
use crate::edit;
use crate::setup::sentence;

/// What this box is to a lock that was brought.
enum Part {
    /// It stays in the cluster, or joins it, and serves it so.
    Serves(Box<ClusterSetup>),
    /// It leaves the cluster with this lock.
    Leaves {
        /// The lock that it served.
        present: String,
    },
}

impl Daemon {
    /// Hands it to the change that goes on with it, which helps the others to their end, too; and to the signer alone when no
    /// such change is known here any more, or another one was begun since.
    pub(super) async fn bring_lock(&mut self, lock: &Value) -> Result<(), Problem> {
        if self.goes_on_with(lock) {
            if self.change.running.is_none()
                && let Some(request) = self.change.store.request().map_err(|error| kept(&error))?
            {
                self.begin_change(request).await?;
            }
            if let Some(running) = &self.change.running {
                running.bring_lock(lock).await;
            }
            return Ok(());
        }
        let (number, part) = self.part_in(lock).await?;
        if self.change.is_running() && self.change.place != Some(number) {
            return Err(Problem::new(
                "edit_under_way",
                "Another cluster of this box is being changed.",
                "Hand the lock in again when that change is over.",
            ));
        }
        let at_rest = self.change.is_running();
        if let Some(seat) = self.seats.get_mut(&number).filter(|_| !at_rest) {
            seat.end().await?;
            seat.changing = true;
        }
        let committed = match edit::commit(&self.config.signer_socket, lock.clone()).await {
            Ok(committed) => committed,
            Err(problem) => {
                if let Some(seat) = self.seats.get_mut(&number).filter(|_| !at_rest) {
                    seat.changing = false;
                    seat.start(&self.config, &self.work);
                }
                return Err(problem);
            }
        };
        tracing::warn!(
            shares = committed.shares.len(),
            retired = committed.retired.len(),
            begins_in_epoch = ?committed.begins_in_epoch,
            "the signer has changed over to a cluster lock that the owner brought"
        );
        // Whatever else was begun is over for this box.
        if let Some(running) = self.change.running.take() {
            running.stop().await;
        }
        self.change.resume_at = None;
        self.change.place = Some(number);
        let outcome = self.take_up(lock, part).await;
        if let Err(problem) = &outcome
            && let Some(seat) = self.seats.get(&number)
        {
            seat.place.board.idle(NodeState::Halted, vec![problem.clone()]);
        }
        outcome
    }

    /// Whether the change that is kept here has sealed its shares for exactly that lock.
    fn goes_on_with(&self, lock: &Value) -> bool {
        let hash = |lock: &Value| lock.get("lock_hash")?.as_str().map(str::to_ascii_lowercase);
        let is_it = |record: &Record| {
            let Record::Prepared { lock: bytes, .. } = record else { return false };
            let prepared = serde_json::from_slice::<Value>(bytes).ok();
            prepared.as_ref().and_then(hash).is_some_and(|known| Some(known) == hash(lock))
        };
        matches!(self.change.store.request(), Ok(Some(_)))
            && self.change.store.records().is_ok_and(|records| records.iter().any(is_it))
    }

    /// At which place the cluster of the lock is, and what this box is to it afterwards. Nothing is believed but the lock's
    /// own signatures; whether it is to be believed for our shares, the signer decides.
    async fn part_in(&self, lock: &Value) -> Result<(u8, Part), Problem> {
        let (given, networks) = (lock.clone(), self.config.custom_networks());
        let read = tokio::task::spawn_blocking(move || {
            let lock = Lock::from_value(given).map_err(|error| invalid(&error.to_string()))?;
            lock.verify(&networks).map_err(|error| invalid(&error.to_string()))
        });
        let view: ClusterView = read.await.map_err(|_| invalid("reading it failed"))??;
        let operators: BTreeSet<PeerId> = view.operators.iter().map(|operator| operator.peer_id).collect();
        let has = |place: &std::sync::Arc<crate::places::Place>| {
            view.validators.iter().any(|validator| place.has(&validator.group_public_key))
        };
        let request = self.change.store.request().ok().flatten();
        let (number, present) = match self.places.taken().into_iter().find(has) {
            Some(place) => (place.number, place.store.load_cluster().map_err(|error| disk(&error))?),
            // A box that joins has no cluster yet, but what it was told when the change began.
            None => match self.change.store.place() {
                Ok(Some(number)) if request.is_some() => (number, None),
                Ok(_) | Err(_) => return Err(nothing_known()),
            },
        };
        let key = present.as_ref().map(|present| &present.identity_key);
        let key = key.or_else(|| request.as_ref()?.identity_key.as_ref()).ok_or_else(nothing_known)?;
        let identity = cluster::IdentityKey::from_file_text(key.expose_secret()).map_err(|error| {
            Problem::new("identity_key_invalid", sentence(&error.to_string()), "Report this.")
        })?;
        if !operators.contains(&PeerId::from_public_key(&identity.public_key())) {
            let of = |present: &ClusterSetup| Some(present.lock.get("lock_hash")?.as_str()?.to_owned());
            let present = present.as_ref().and_then(of).ok_or_else(nothing_known)?;
            return Ok((number, Part::Leaves { present }));
        }
        let identity = Sensitive::new(identity.to_file_text().to_string());
        let setup = edit::setup_after(lock.clone(), identity, &operators, present.as_ref(), request.as_ref());
        Ok((number, Part::Serves(Box::new(setup))))
    }

    /// The signer has changed over. Every step may be repeated: handed in again, the lock does the rest.
    async fn take_up(&mut self, lock: &Value, part: Part) -> Result<(), Problem> {
        let bytes = serde_json::to_vec(lock).map_err(|_| invalid("it cannot be written"))?;
        self.change.store.save_lock(&bytes).map_err(|error| kept(&error))?;
        match part {
            Part::Serves(setup) => self.change_over(*setup).await?,
            Part::Leaves { present } => {
                self.release_place();
                if self.places.of_cluster(&present).is_ok() {
                    self.leave(&present).await?;
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

fn invalid(why: &str) -> Problem {
    let (what, next_step) = why
        .rsplit_once("; ")
        .unwrap_or((why, "Get the complete lock from a member whose page says that the change is done."));
    Problem::new("lock_invalid", sentence(what), sentence(next_step))
}

fn nothing_known() -> Problem {
    Problem::new(
        "edit_none",
        "This box is in no cluster with the validators of that lock, and takes no part in a change of one.",
        "A box that takes no part needs no lock.",
    )
}
