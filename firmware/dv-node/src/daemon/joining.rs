//! Joining a cluster and leaving one.

use std::sync::Arc;

use ipc::node::NodeState;
use ipc::{ClusterSetup, Problem};

use super::seat::Seat;
use super::{Daemon, disk};
use crate::control::Request;
use crate::folders::MAX_CLUSTERS;
use crate::node;
use crate::places::Place;
use crate::setup::{self, Membership};
use crate::store::{PinnedChain, Store, StoreError};

/// What a place is to a cluster that shall be joined.
enum Relation {
    /// It is this cluster's, and we are this member.
    Own,
    /// It is another cluster's.
    Others,
    /// Nobody's.
    Free,
}

impl Daemon {
    pub(super) async fn on_request(&mut self, request: Request) {
        // The caller may have given up: the result holds all the same.
        match request {
            Request::Join(_, answer) if self.change.is_running() => drop(answer.send(Err(under_way()))),
            Request::Leave(_, answer) if self.change.is_running() => drop(answer.send(Err(under_way()))),
            Request::Join(setup, answer) => {
                let result = self.join(*setup).await;
                if let Err(problem) = &result {
                    tracing::warn!(%problem, "a cluster setup was refused");
                }
                drop(answer.send(result));
            }
            Request::Leave(lock_hash, answer) => {
                let result = self.leave(&lock_hash).await;
                if let Err(problem) = &result {
                    tracing::warn!(%problem, "a cluster is not left");
                }
                drop(answer.send(result));
            }
        }
    }

    /// Checks everything, keeps it, and starts the node with it. Joined again, a cluster gets its new addresses.
    pub(super) async fn join(&mut self, setup: ClusterSetup) -> Result<Arc<Place>, Problem> {
        self.join_at(setup, None).await
    }

    /// The same with the place that a new cluster gets if it is free.
    pub(super) async fn join_at(
        &mut self,
        setup: ClusterSetup,
        preferred: Option<u8>,
    ) -> Result<Arc<Place>, Problem> {
        self.folders.finish().map_err(|error| disk(&error))?;
        let (mut membership, mut setup) = self.verify(setup).await?;
        let (number, is_new) = self.place_for(&membership, preferred)?;
        let before = if is_new { self.left_store(&membership) } else { self.seat_store(number) };
        let before = before.transpose().map_err(|error| disk(&error))?;
        let kept = before.as_ref().map(|store| store.kept_of(&setup.lock)).unwrap_or_default();
        setup::keep_unsaid(&mut setup, &mut membership, kept)?;
        let (chain, chain_is_damaged) = match before.map(|store| store.load_chain()).transpose() {
            Ok(chain) => (chain.flatten(), false),
            // Whose memory this is, its place says. Which chain it was is learned anew.
            Err(StoreError::Damaged { .. }) => (None, true),
            Err(error) => return Err(disk(&error)),
        };
        let expected = node::expected_chain(&membership, chain.as_ref());
        let nodes = setup::beacon_nodes(&membership, self.config.beacon.into(), expected);
        setup::check_beacon_nodes(&nodes.map_err(|error| setup::bad_beacon_address(&error))?).await?;

        let was_left = is_new && self.folders.left(&left_name(&membership)).is_some();
        if is_new && let Err(error) = self.prepare(number, &membership, &setup) {
            self.put_back(number, was_left.then(|| left_name(&membership)));
            return Err(disk(&error));
        }
        let Some(seat) = self.seats.get_mut(&number) else {
            return Err(Problem::new("internal", "A place is missing by a fault of ours.", "Report this."));
        };
        if !is_new {
            if let Some(problem) = seat.halted() {
                return Err(problem.clone());
            }
            seat.end().await?;
            let store = &seat.place.store;
            let aside = if chain_is_damaged { store.set_chain_aside() } else { Ok(()) };
            if let Err(error) = aside.and_then(|()| store.save_cluster(&setup)) {
                // What was served before goes on as it was.
                seat.start(&self.config, &self.work);
                return Err(disk(&error));
            }
        }
        let place = Arc::clone(&seat.place);
        let (cluster, share_index) = (membership.view.name.clone(), membership.share_index);
        tracing::info!(cluster, share_index, place = number, "joined a cluster");
        self.hand_identity_over(&setup, &membership);
        self.seat_and_start(number, membership);
        self.follow_the_changed_cluster();
        Ok(place)
    }

    /// Stops doing the cluster's duties for good. Its files are put away, not destroyed; the signer keeps shares and history.
    pub(super) async fn leave(&mut self, lock_hash: &str) -> Result<(), Problem> {
        self.folders.finish().map_err(|error| disk(&error))?;
        let number = self.places.of_cluster(lock_hash)?.number;
        self.end_ceremony_of(number).await?;
        let Some(seat) = self.seats.get_mut(&number) else { return Ok(()) };
        seat.end().await?;
        let name = match (&seat.membership, seat.place.store.load_chain()) {
            (Some(membership), _) => left_name(membership),
            (None, Ok(Some(PinnedChain { lock_hash: Some(hash), share_index: Some(index), .. }))) => {
                format!("{hash}-{index}")
            }
            // Nobody can tell whose memory it is: it stays, and whoever is joined later counts as having spoken in it.
            (None, Ok(_) | Err(_)) => unreadable_name(),
        };
        let left = self.folders.leave(number, &name).map_err(|error| disk(&error));
        if let Err(problem) = &left
            && number > 0
        {
            // Its folder is where it was, and so its place is not free.
            seat.rest(problem.clone());
            return left;
        }
        // The files are on their way or gone: whatever the disk says, this cluster is not served any more, and nothing is joined
        // before all of them have arrived.
        self.seats.remove(&number);
        self.places.remove(number);
        if number == 0 {
            self.open_seat(0).map_err(|error| disk(&error))?;
        }
        tracing::warn!(lock_hash, place = number, "left a cluster");
        self.follow_the_changed_cluster();
        left
    }

    /// Where a cluster belongs, and whether it is new there.
    fn place_for(&self, membership: &Membership, preferred: Option<u8>) -> Result<(u8, bool), Problem> {
        let mut own = None;
        let mut taken = Vec::new();
        for (number, seat) in &self.seats {
            match relation(seat, membership)? {
                Relation::Own => own = Some(*number),
                Relation::Others => taken.push(*number),
                Relation::Free => {}
            }
        }
        if let Some(number) = own {
            self.room_beside_others(membership, number)?;
            return Ok((number, false));
        }
        let number = self.free_place(&taken, preferred)?;
        self.room_beside_others(membership, number)?;
        // Two agreements about one validator must not come to be because nobody could look.
        if let Some((unreadable, _)) = self.seats.iter().find(|(_, seat)| seat.is_unreadable()) {
            return Err(Problem::new(
                "cluster_unreadable",
                format!(
                    "The files of the cluster at place {unreadable} cannot be used, so it is not known whether it has the \
                     same validators."
                ),
                "Join that cluster again with its lock and identity key, or leave it, or restart the box; then try again.",
            ));
        }
        Ok((number, true))
    }

    /// The first place that no cluster has, nor a ceremony's.
    fn free_place(&self, taken: &[u8], preferred: Option<u8>) -> Result<u8, Problem> {
        let free = |number: &u8| !taken.contains(number) && self.reserved != Some(*number);
        preferred.into_iter().chain(0..MAX_CLUSTERS).find(free).ok_or_else(|| {
            Problem::new(
                "too_many_clusters",
                format!("This box is in {MAX_CLUSTERS} clusters, which is as many as it takes."),
                "Leave one of them first, or use another box.",
            )
        })
    }

    /// The place that the cluster of a ceremony will have.
    pub(super) fn place_of_ceremony(&self) -> Result<u8, Problem> {
        let is_taken =
            |seat: &Seat| seat.place.is_taken() || !matches!(seat.place.store.load_chain(), Ok(None));
        let taken: Vec<u8> =
            self.seats.iter().filter(|(_, seat)| is_taken(seat)).map(|(number, _)| *number).collect();
        self.free_place(&taken, None)
    }

    /// Refuses what cannot be on one box with the clusters at other places.
    pub(super) fn room_beside_others(&self, membership: &Membership, number: u8) -> Result<(), Problem> {
        let others = self.seats.iter().filter(|(other, _)| **other != number);
        others
            .filter_map(|(_, seat)| seat.membership.as_ref())
            .try_for_each(|other| beside(membership, other))
    }

    fn seat_store(&self, number: u8) -> Option<Result<Store, StoreError>> {
        self.seats.get(&number).map(|seat| Ok(seat.place.store.clone()))
    }

    fn left_store(&self, membership: &Membership) -> Option<Result<Store, StoreError>> {
        self.folders.left(&left_name(membership)).map(|folder| Store::open(&folder))
    }

    /// A seat for a cluster that is new at its place: with what it left here, if it was here before.
    ///
    /// Until the new cluster file is written nothing here is served: a crash, or a disk that is full, in the middle of this
    /// must not bring back what the owner had left.
    pub(super) fn prepare(
        &mut self,
        number: u8,
        membership: &Membership,
        setup: &ClusterSetup,
    ) -> Result<(), StoreError> {
        let name = left_name(membership);
        let was_left = self.folders.left(&name);
        if let Some(folder) = &was_left {
            let store = Store::open(folder)?;
            store.set_cluster_aside()?;
            if matches!(store.load_chain(), Err(StoreError::Damaged { .. })) {
                store.set_chain_aside()?;
            }
            self.folders.take_back(&name, number)?;
        }
        let of_unknown = self.folders.left_by_unknown()?.filter(|_| was_left.is_none());
        // The same member of the same validators under another lock, as when validators were added: its words are ours.
        let own = self.folders.left_by_member(&membership.identity.public_key(), &name)?;
        let store = self.open_seat(number)?.place.store.clone();
        // A memory that lies about, here or put away, may be this member's.
        if was_left.is_none() && store.journal_path().exists() {
            store.set_journal_aside()?;
        }
        if let Some(slot) = of_unknown.max(own) {
            store.note_forgotten(slot)?;
        }
        store.save_cluster(setup)?;
        let Some(seat) = self.seats.get(&number) else { return Ok(()) };
        seat.place.board.idle(NodeState::Starting, Vec::new());
        Ok(())
    }

    /// After a join that was refused in the middle: nothing of it is served after a restart, and what was left is put away
    /// again as far as the disk lets it.
    fn put_back(&mut self, number: u8, was_left: Option<String>) {
        let undone = self.folders.finish().and_then(|()| {
            self.folders.store(number)?.set_cluster_aside()?;
            if let Some(name) = was_left.filter(|name| self.folders.left(name).is_none()) {
                self.folders.leave(number, &name)?;
                self.seats.remove(&number);
                self.places.remove(number);
                if number == 0 {
                    self.open_seat(0)?;
                }
            }
            Ok(())
        });
        if let Err(error) = undone {
            tracing::error!(%error, place = number, "the files of a refused cluster are not put away");
        }
    }
}

/// What is kept of a cluster that was left is named by it and by our place in it.
pub(super) fn left_name(membership: &Membership) -> String {
    format!("{}-{}", hex::encode(membership.view.lock_hash), membership.share_index)
}

/// The name of a memory that nobody can assign (decision 0280).
pub(super) fn unreadable_name() -> String {
    format!("unreadable-{}", node::wall().0)
}

fn already(name: &str) -> Problem {
    Problem::new(
        "already_in_a_cluster",
        format!("This box is another member of the cluster '{name}' already."),
        "Use another box: two members on one box are lost together.",
    )
}

fn relation(seat: &Seat, membership: &Membership) -> Result<Relation, Problem> {
    let (lock_hash, name) = (membership.view.lock_hash, &membership.view.name);
    if let Some(known) = &seat.membership {
        return match (known.view.lock_hash == lock_hash, known.share_index == membership.share_index) {
            (true, true) => Ok(Relation::Own),
            (true, false) => Err(already(name)),
            (false, _) => Ok(Relation::Others),
        };
    }
    // No lock, or one that cannot be read: the chain remembers whose journal this is.
    match seat.place.store.load_chain() {
        Ok(None) => Ok(match seat.place.lock_hash() {
            // A file that never led to anything and does not even say what it was.
            None => Relation::Free,
            Some(known) if known.is_empty() => Relation::Free,
            Some(known) if known == hex::encode(lock_hash) => Relation::Own,
            Some(_) => Relation::Others,
        }),
        // Of the first versions, which wrote no cluster down: only the lock beside it can say whose it is.
        Ok(Some(chain))
            if chain.lock_hash.is_none() && seat.place.lock_hash() != Some(hex::encode(lock_hash)) =>
        {
            Ok(Relation::Others)
        }
        Ok(Some(chain)) if chain.is_of(membership) => Ok(Relation::Own),
        Ok(Some(chain)) if chain.lock_hash == Some(hex::encode(lock_hash)) => Err(already(name)),
        Ok(Some(_)) => Ok(Relation::Others),
        // Nobody knows whose it is. Nothing new is joined beside it.
        Err(_) => Ok(Relation::Others),
    }
}

pub(super) fn under_way() -> Problem {
    Problem::new(
        "edit_under_way",
        "A cluster of this box is being changed.",
        "Wait until the change is over.",
    )
}

/// What two clusters on one box must not share.
fn beside(new: &Membership, other: &Membership) -> Result<(), Problem> {
    let name = &other.view.name;
    // Two agreements about one validator are two votes: this must not depend on the signer alone.
    if let Some(validator) = new.keys.keys().find(|validator| other.keys.contains_key(*validator)) {
        return Err(Problem::new(
            "validator_in_another_cluster",
            format!("The validator {validator} belongs to the cluster '{name}' that this box is in already."),
            format!("Leave '{name}' first if this cluster has taken its place."),
        ));
    }
    if new.identity.public_key() == other.identity.public_key() {
        return Err(Problem::new(
            "identity_key_in_use",
            format!("This identity key is the one that this box has in the cluster '{name}'."),
            "Make another identity key for each cluster.",
        ));
    }
    if let (ipc::Signing::ValidatorClient { listen: new }, ipc::Signing::ValidatorClient { listen: other }) =
        (new.signing, other.signing)
        && new.port() == other.port()
    {
        return Err(Problem::new(
            "validator_client_port_taken",
            format!("Port {} serves the validator client of the cluster '{name}'.", new.port()),
            "Name another port for this cluster's validator client.",
        ));
    }
    Ok(())
}
