//! The box's identity keys: sealed on the disk, asked of the signer when they are needed (decision 0373).

use std::path::Path;
use std::time::Duration;

use ipc::dkg::KeyGeneration;
use ipc::node::NodeState;
use ipc::{ClusterSetup, Problem};
use tokio::time::Instant;

use super::key_generation::longer;
use super::{Daemon, copies, disk};
use crate::sealed;
use crate::setup::Membership;
use crate::signer::Signer;
use crate::store::{self, Store};

/// What does not open is asked about again after this time.
const ELSEWHERE_AGAIN: Duration = Duration::from_secs(30);

impl Daemon {
    /// The same with the identity key where it is sealed, or left out so that nobody between the browser and the signer has seen it:
    /// a cluster that is here has it, also where the signer does not because a validator client signs; of one whose Charon folder
    /// the owner imported the signer has it.
    pub(super) async fn with_identity(&self, mut setup: ClusterSetup) -> Result<ClusterSetup, Problem> {
        let lock_hash = setup.lock.get("lock_hash").and_then(serde_json::Value::as_str).map(str::to_owned);
        if setup.identity_key.expose_secret().trim().is_empty()
            && let Some(lock_hash) = &lock_hash
        {
            // Whether it is this lock's is checked as with any other key.
            let here = self.places.of_cluster(lock_hash).ok();
            if let Some(known) = here.and_then(|place| place.store.load_identity().ok().flatten()) {
                setup.identity_key = known;
            }
        }
        let mut why = None;
        if sealed::is_sealed(&setup.identity_key) {
            match sealed::open(&self.config.signer_socket, &setup.identity_key).await {
                Ok(key) => {
                    setup.identity_key = key;
                    return Ok(setup);
                }
                // What was sealed for backups may open all the same.
                Err(problem) if problem.code == sealed::ELSEWHERE => why = Some(problem),
                Err(problem) => return Err(problem),
            }
        }
        if why.is_some() || setup.identity_key.expose_secret().trim().is_empty() {
            match lock_hash {
                Some(hash) => {
                    let known = Signer::new(&self.config.signer_socket).identity(&hash).await;
                    // What passes is said first: it is asked again.
                    let passes = |problem: &Problem| problem.code == sealed::LOCKED;
                    setup.identity_key = known.map_err(|problem| match why {
                        Some(why) if !passes(&problem) => why,
                        Some(_) | None => problem,
                    })?;
                }
                None => return why.map_or(Ok(setup), Err),
            }
        }
        Ok(setup)
    }

    /// The clusters whose identity key waited for the signer, where it opens it now. What did not open in an open vault is asked
    /// about now and then: a backup may have been restored, or the cluster's folder imported.
    pub(super) async fn serve_what_was_sealed(&mut self) {
        let waits = |seat: &super::Seat| {
            seat.sealed.as_ref().is_some_and(|problem| problem.code == sealed::LOCKED) && !seat.changing
        };
        let waiting: Vec<u8> =
            self.seats.iter().filter(|(_, seat)| waits(seat)).map(|(number, _)| *number).collect();
        self.serve_what_opens_elsewhere().await;
        for number in waiting {
            let Some(seat) = self.seats.get(&number) else { continue };
            let (known, hash) =
                (seat.place.store.load_identity(), seat.place.lock_hash().unwrap_or_default());
            let known = known.ok().flatten().filter(sealed::is_sealed);
            let comes = match known {
                Some(key) => sealed::open(&self.config.signer_socket, &key).await,
                // In the clear or sealed for backups only.
                None => Signer::new(&self.config.signer_socket).identity(&hash).await,
            };
            match comes {
                Err(problem) if problem.code == sealed::LOCKED => {
                    // It may wait for something else than before. There is one vault: what this cluster waits for, the others
                    // wait for too, and asking once for each would hold up everything else here.
                    let others = self.seats.values_mut().filter(|seat| waits(seat));
                    for seat in others.filter(|seat| seat.sealed.as_ref() != Some(&problem)) {
                        seat.place.board.idle(NodeState::Halted, vec![problem.clone()]);
                        seat.sealed = Some(problem.clone());
                    }
                    return;
                }
                // Only now the lock is read and verified again.
                Ok(_) | Err(_) => {
                    if let Some(seat) = self.seats.get_mut(&number) {
                        seat.sealed = None;
                    }
                    self.serve_by_the_files(number).await;
                }
            }
        }
    }

    async fn serve_what_opens_elsewhere(&mut self) {
        let is_due = self.elsewhere_asked.is_none_or(|at| at.elapsed() >= ELSEWHERE_AGAIN);
        let is_elsewhere = |seat: &super::Seat| {
            seat.sealed.as_ref().is_some_and(|problem| problem.code == sealed::ELSEWHERE) && !seat.changing
        };
        let waiting: Vec<u8> =
            self.seats.iter().filter(|(_, seat)| is_elsewhere(seat)).map(|(number, _)| *number).collect();
        if !is_due || waiting.is_empty() {
            return;
        }
        self.elsewhere_asked = Some(Instant::now());
        for number in waiting {
            let Some(seat) = self.seats.get(&number) else { continue };
            let hash = seat.place.lock_hash().unwrap_or_default();
            match Signer::new(&self.config.signer_socket).identity(&hash).await {
                Ok(_) => {}
                Err(problem) if problem.code == sealed::LOCKED => return,
                Err(_) => continue,
            }
            if let Some(seat) = self.seats.get_mut(&number) {
                seat.sealed = None;
            }
            self.serve_by_the_files(number).await;
        }
    }

    /// A key that came from what the signer keeps for backups, because the sealed one beside the cluster does not open, is sealed
    /// anew. When that does not come about, the next start does it.
    pub(super) async fn seal_what_did_not_open(&self, store: &Store, setup: &ClusterSetup) {
        if !matches!(store.plain_identity(), Ok(None)) || sealed::for_disk(&setup.identity_key).is_some() {
            return;
        }
        let is_sealed = sealed::seal(&self.config.signer_socket, &setup.identity_key).await;
        let written = is_sealed.and_then(|()| {
            store.keep_sealed_identity(&setup.identity_key).map(drop).map_err(|error| disk(&error))
        });
        if let Err(problem) = written {
            tracing::warn!(%problem, "the identity key that came from the signer is not sealed anew yet");
        }
    }

    /// A kept request with its key opened, before it is known whether its cluster has come: clusters that wait for the signer may be it.
    pub(super) async fn with_open_key(&self, mut request: KeyGeneration) -> Result<KeyGeneration, Problem> {
        let is_locked = |problem: &Problem| problem.code == sealed::LOCKED;
        if let Some(problem) = self.seats.values().find_map(|seat| seat.sealed.clone().filter(is_locked)) {
            return Err(problem);
        }
        request.identity_key = sealed::open(&self.config.signer_socket, &request.identity_key).await?;
        Ok(request)
    }

    /// Identity keys that software of before left in the clear: each is sealed, written, read back and opened once more before
    /// the one in the clear goes away. A cut anywhere leaves at least one of the two. Nobody waits for this.
    pub(super) async fn take_identities_over(&mut self) {
        let Some((_, pause)) = self.take_over_at.filter(|(at, _)| *at <= Instant::now()) else { return };
        self.take_over_at = match self.take_over().await {
            Ok(()) => None,
            Err(problem) => {
                tracing::warn!(%problem, "an identity key on this box's disk is not sealed yet");
                Some((Instant::now() + pause, longer(pause)))
            }
        };
    }

    /// What cannot be taken over now keeps nothing else from it.
    async fn take_over(&self) -> Result<(), Problem> {
        let mut outcome = Ok(());
        // There is one vault: where it cannot be asked for one, asking for each would hold up everything else here.
        let is_over =
            |done: &Result<(), Problem>| matches!(done, Err(problem) if problem.code == sealed::LOCKED);
        for store in self.folders.all_stores().map_err(|error| disk(&error))? {
            let done = self.take_store_over(&store).await;
            if is_over(&done) {
                return done;
            }
            outcome = done.and(outcome);
        }
        let requests = [self.ceremonies.request_path()].into_iter().chain(self.change.store.request_paths());
        for request in requests {
            let done = self.take_over_request(&request).await;
            if is_over(&done) {
                return done;
            }
            outcome = done.and(outcome);
        }
        outcome
    }

    async fn take_store_over(&self, store: &Store) -> Result<(), Problem> {
        store.drop_left_over().map_err(|error| disk(&error))?;
        let key = match store.plain_identity() {
            Ok(Some(key)) => key,
            Ok(None) => return Ok(()),
            // It is no key that anybody could use.
            Err(error) => {
                tracing::warn!(%error, "an identity key cannot be read");
                return Ok(());
            }
        };
        let signer = self.config.signer_socket.clone();
        sealed::seal(&signer, &key).await?;
        let Some(kept) = store.keep_sealed_identity(&key).map_err(|error| disk(&error))? else {
            return Ok(());
        };
        sealed::opens_to(&signer, &kept, &key).await?;
        // The version before finds an empty file and asks for the signer's own copy.
        let here = self.seats.values().find(|seat| seat.place.store.dir() == store.dir());
        if let Some(membership) = here.and_then(|seat| seat.membership.clone())
            && let Ok(Some(setup)) = store.load_cluster()
            && !self.copy_is_settled(&setup, &membership)
        {
            return Err(Problem::new(
                "identity_copy_awaited",
                "The signer has not taken its copy of this box's identity key yet, so the key in the clear stays until it has.",
                "Nothing to do: it is tried again.",
            ));
        }
        store.drop_plain_identity().map_err(|error| disk(&error))?;
        tracing::info!(folder = %store.dir().display(), "an identity key is sealed from now on");
        Ok(())
    }

    /// Whether the signer has its copy of a served cluster's key, or never will; has it handed over again where neither is known.
    fn copy_is_settled(&self, setup: &ClusterSetup, membership: &Membership) -> bool {
        if membership.signing != ipc::Signing::BuiltIn {
            return true;
        }
        match self.copies.of(&hex::encode(membership.view.lock_hash)) {
            Some(copies::Handed::Settled) => true,
            Some(copies::Handed::UnderWay) => false,
            None => {
                self.hand_identity_over(setup, membership);
                false
            }
        }
    }

    async fn take_over_request(&self, request: &Path) -> Result<(), Problem> {
        store::wipe(&request.with_added_extension("new")).map_err(|error| kept(&error))?;
        if let Some(key) = sealed::key_in(request).map_err(|error| kept(&error))? {
            sealed::seal(&self.config.signer_socket, &key).await?;
            sealed::seal_in(request).map_err(|error| kept(&error))?;
        }
        Ok(())
    }
}

fn kept(error: &std::io::Error) -> Problem {
    Problem::new(
        "disk_write_failed",
        crate::setup::sentence(&format!("the request of a ceremony cannot be written: {error}")),
        "Free space on this box's disk, then restart it.",
    )
}
