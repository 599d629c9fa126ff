//! The box's identity keys: sealed on the disk, asked of the signer when they are needed (decision 0373).

use ipc::dkg::KeyGeneration;
use ipc::node::NodeState;
use ipc::{ClusterSetup, Problem};
use tokio::time::Instant;

use super::key_generation::longer;
use super::{Daemon, disk};
use crate::sealed;
use crate::signer::Signer;

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
                    setup.identity_key = known.map_err(|problem| why.unwrap_or(problem))?;
                }
                None => return why.map_or(Ok(setup), Err),
            }
        }
        Ok(setup)
    }

    /// The clusters whose identity key waited for the signer, where it opens it now.
    pub(super) async fn serve_what_was_sealed(&mut self) {
        let waits = |seat: &super::Seat| seat.sealed.is_some() && !seat.changing;
        let waiting: Vec<u8> =
            self.seats.iter().filter(|(_, seat)| waits(seat)).map(|(number, _)| *number).collect();
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

    /// A kept request with its key opened, before it is known whether its cluster has come: clusters that wait for the signer may be it.
    pub(super) async fn with_open_key(&self, mut request: KeyGeneration) -> Result<KeyGeneration, Problem> {
        if let Some(problem) = self.seats.values().find_map(|seat| seat.sealed.clone()) {
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

    async fn take_over(&self) -> Result<(), Problem> {
        let signer = &self.config.signer_socket;
        for store in self.folders.all_stores().map_err(|error| disk(&error))? {
            let key = match store.plain_identity() {
                Ok(Some(key)) => key,
                Ok(None) => continue,
                // It is no key that anybody could use.
                Err(error) => {
                    tracing::warn!(%error, "an identity key cannot be read");
                    continue;
                }
            };
            sealed::seal(signer, &key).await?;
            let Some(kept) = store.keep_sealed_identity(&key).map_err(|error| disk(&error))? else {
                continue;
            };
            sealed::opens_to(signer, &kept, &key).await?;
            store.drop_plain_identity().map_err(|error| disk(&error))?;
            tracing::info!(folder = %store.dir().display(), "an identity key is sealed from now on");
        }
        if let Ok(Some(key)) = self.ceremonies.plain_key() {
            sealed::seal(signer, &key).await?;
            self.ceremonies.seal_request().map_err(|error| kept(&error))?;
        }
        if let Ok(Some(key)) = self.change.store.plain_key() {
            sealed::seal(signer, &key).await?;
            self.change.store.seal_request().map_err(|error| kept(&error))?;
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
