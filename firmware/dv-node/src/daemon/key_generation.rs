//! The daemon's part in key generation: one ceremony at a time, beside the clusters that the box is in already, and the new
//! cluster after it.

use std::time::Duration;

use tokio::time::Instant;

use cluster::IdentityKey;
use ipc::dkg::{Adding, KeyGeneration, KeyGenerationFiles, KeyGenerationStatus};
use ipc::{ClusterSetup, Problem, Sensitive};

use super::joining::under_way;
use super::{Daemon, setup};
use crate::dkg::{self, Request};
use crate::sealed;

/// Pause before a new cluster is joined again, when its beacon node was not there. Twice as long each time, up to the longest.
const JOIN_AGAIN: Duration = Duration::from_secs(15);
/// Pause before a stored ceremony is resumed again, when the signer was still starting or the disk was full. Twice as long
/// each time, up to the longest: some problems stay until the owner does something.
pub(super) const RESUME_AGAIN: Duration = Duration::from_secs(2);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// The same where each attempt costs the running node a slot or two.
const LONGEST_WITHOUT_NODE: Duration = Duration::from_secs(900);

/// A proposal puts a new lock off so often and no more: where they come all the time, none can be waited for.
const MOST_PUT_OFF: u8 = 4;

/// A cluster that was made here, until it is served.
pub(super) struct Born {
    setup: ClusterSetup,
    adding: Option<Adding>,
    /// When it is to be served.
    at: Instant,
    /// How long the pause is after an attempt that fails.
    pause: Duration,
    /// How often its turn has been put off.
    put_off: u8,
    /// It has been tried to serve it.
    tried: bool,
}

impl Born {
    fn new(made: dkg::Made) -> Self {
        let dkg::Made { setup, adding } = made;
        Self { setup, adding, at: Instant::now(), pause: JOIN_AGAIN, put_off: 0, tried: false }
    }

    #[cfg(test)]
    pub(super) fn until(&self) -> Duration {
        self.at.saturating_duration_since(Instant::now())
    }
}

impl Daemon {
    /// Goes on with a ceremony that a restart interrupted.
    pub(super) async fn resume_ceremony(&mut self) {
        self.resume_at = None;
        let stored = self.ceremonies.request().and_then(|request| Ok((request, self.ceremonies.is_over()?)));
        match stored {
            // Over, it led to a cluster that this box is in or has left; its files stay until they are discarded.
            Ok((None, _)) => {}
            Ok((Some(request), true)) if request.adding.is_some() => self.ceremony_is_over(true),
            Ok((_, true)) => {}
            Ok((Some(request), false)) => match self.with_open_key(request).await {
                Ok(request) if self.has_come_of(&request) => self.ceremony_is_over(request.adding.is_some()),
                Ok(request) => {
                    // The signer may still be starting: the ceremony is there all the same.
                    if let Err(problem) = self.start_ceremony(request).await {
                        self.interrupted(problem);
                    }
                }
                Err(problem) => self.interrupted(problem),
            },
            // The disk may answer the next time, and the others wait.
            Err(error) if error.kind() != std::io::ErrorKind::InvalidData => self.interrupted(disk(&error)),
            Err(error) => {
                tracing::error!(%error, "the stored ceremony cannot be read");
                self.last_ceremony = Some(standing("failed", unreadable(&error)));
            }
        }
    }

    /// The ceremony's cluster is this box's: it is never joined by a restart any more. A disk that does not take this now is
    /// told again when the box starts and when the cluster is left. A cluster that was there before knows its lock by itself.
    fn ceremony_is_over(&self, was_there_before: bool) {
        let ended =
            if was_there_before { self.ceremonies.end_without_request() } else { self.ceremonies.end() };
        if let Err(error) = ended {
            tracing::error!(%error, "it cannot be kept that the key generation is over");
        }
    }

    /// Before the cluster at a place is left: a ceremony that led to it must not bring it back, neither now nor after a
    /// restart. Its validators may be served elsewhere by then.
    pub(super) async fn end_ceremony_of(&mut self, number: u8) -> Result<(), Problem> {
        let request = match self.ceremonies.request() {
            Ok(None) => return Ok(()),
            Ok(Some(request)) => Some(request),
            // It may be this cluster's; nothing can be resumed from it, and it keeps nobody in a cluster.
            Err(error) if error.kind() == std::io::ErrorKind::InvalidData => None,
            Err(error) => return Err(disk(&error)),
        };
        let key_of = |text: &Sensitive| {
            IdentityKey::from_file_text(text.expose_secret()).ok().map(|key| key.public_key())
        };
        let Some(seat) = self.seats.get(&number) else { return Ok(()) };
        let own = match &seat.membership {
            Some(membership) => Some(membership.identity.public_key()),
            None => seat.place.store.load_identity().ok().flatten().and_then(|key| key_of(&key)),
        };
        let is_its = match (own, &request) {
            (_, None) => true,
            (Some(own), Some(request)) if !sealed::is_sealed(&request.identity_key) => {
                key_of(&request.identity_key) == Some(own)
            }
            // Nobody knows who we were there, or in the ceremony: the place says whether it led there.
            (_, Some(_)) => self.ceremonies.place().map_err(|error| disk(&error))? == Some(number),
        };
        if !is_its {
            return Ok(());
        }
        self.ceremonies.end().map_err(|error| disk(&error))?;
        if let Some(running) = self.ceremony.take() {
            self.last_ceremony = Some(running.progress());
            running.stop().await;
        }
        self.resume_at = None;
        self.born = None;
        self.reserved = None;
        Ok(())
    }

    /// The others wait for this box, whether or not its owner looks at the page: it is tried again until it goes on.
    fn interrupted(&mut self, problem: Problem) {
        self.resume_at = Some(Instant::now() + self.resume_pause);
        self.resume_pause = longer(self.resume_pause);
        if self.last_ceremony.as_ref().is_some_and(|last| last.problems.contains(&problem)) {
            return;
        }
        tracing::warn!(%problem, "the ceremony cannot go on yet; it is tried again");
        self.last_ceremony = Some(standing("interrupted", problem));
    }

    /// The cluster of this box in which it has this identity key.
    pub(super) fn cluster_with(&self, identity_key: &Sensitive) -> Option<String> {
        let key = IdentityKey::from_file_text(identity_key.expose_secret()).ok()?.public_key();
        let clusters = self.seats.values().filter_map(|seat| seat.membership.as_ref());
        let mut found = clusters.filter(|cluster| cluster.identity.public_key() == key);
        found.next().map(|cluster| cluster.view.name.clone())
    }

    async fn start_ceremony(&mut self, request: KeyGeneration) -> Result<(), Problem> {
        // The others reach this box at the port of the place that the new cluster will have.
        let place = match self.ceremonies.place().map_err(|error| disk(&error))? {
            Some(place) => place,
            None => {
                let place = self.place_of_ceremony()?;
                self.ceremonies.keep_place(place).map_err(|error| disk(&error))?;
                place
            }
        };
        self.reserved = Some(place);
        let around = dkg::Surroundings {
            listen: self.config.p2p.at_place(place).listen,
            nickname: self.config.p2p.nickname.clone(),
            signer_socket: self.config.signer_socket.clone(),
            networks: self.config.custom_networks(),
            store: self.ceremonies.clone(),
        };
        self.ceremony = Some(dkg::start(request, around).await?);
        self.last_ceremony = None;
        self.resume_at = None;
        self.resume_pause = RESUME_AGAIN;
        Ok(())
    }

    /// The owner asks.
    pub(super) async fn on_key_generation(&mut self, request: Request) {
        match request {
            Request::Start(wanted, answer) => {
                let result = self.begin_ceremony(*wanted).await.map(|()| self.key_generation());
                drop(answer.send(result));
            }
            Request::Status(answer) => {
                drop(answer.send(Ok(self.key_generation())));
            }
            Request::Discard(answer) => {
                let result = self.discard_ceremony().await.map(|()| self.key_generation());
                drop(answer.send(result));
            }
            Request::Files(answer) => {
                let files = self.ceremonies.files().map(|files| KeyGenerationFiles { files });
                drop(answer.send(files.map_err(|error| disk(&error))));
            }
        }
    }

    async fn begin_ceremony(&mut self, mut wanted: KeyGeneration) -> Result<(), Problem> {
        if self.change.is_running() {
            return Err(under_way());
        }
        if let Some(adding) = &wanted.adding {
            wanted.identity_key = self.identity_in(adding)?;
            self.is_apart_from_nodes(&wanted, adding)?;
        } else if let Some(name) = self.cluster_with(&wanted.identity_key) {
            return Err(Problem::new(
                "identity_key_in_use",
                format!("This identity key is the one that this box has in the cluster '{name}'."),
                "Make another identity key for each cluster, or discard the key generation that is over.",
            ));
        }
        let known = self.ceremonies.request().map_err(|error| disk(&error))?;
        if let Some(mut known) = known {
            // A sealed key is no other one: while it cannot be opened, that is what the owner is told.
            known.identity_key = sealed::open(&self.config.signer_socket, &known.identity_key).await?;
            let same = known.definition == wanted.definition
                && known.adding == wanted.adding
                && sealed::is_same(&known.identity_key, &wanted.identity_key);
            if !same {
                return Err(Problem::new(
                    "ceremony_under_way",
                    "Another key generation is under way on this box.",
                    "Discard it first if it cannot be finished.",
                ));
            }
            if self.ceremonies.is_over().map_err(|error| disk(&error))? {
                return Err(Problem::new(
                    "ceremony_over",
                    "This key generation is over: its cluster was made, and this box has left it since.",
                    "Join the cluster with its lock to be in it again, or discard the key generation.",
                ));
            }
            // The same again goes on, with new addresses if they changed.
            if let Some(running) = self.ceremony.take() {
                running.stop().await;
            }
            self.ceremonies.keep_request(&wanted).map_err(|error| disk(&error))?;
            return self.start_ceremony(wanted).await;
        }
        // Its files are the owner's until they are discarded.
        if self.ceremonies.is_over().map_err(|error| disk(&error))? {
            return Err(Problem::new(
                "ceremony_over",
                "The files of an earlier key generation are still on this box.",
                "Download them, then discard that key generation and begin this one.",
            ));
        }
        sealed::seal(&self.config.signer_socket, &wanted.identity_key).await?;
        self.ceremonies.begin(&wanted).map_err(|error| disk(&error))?;
        let started = self.start_ceremony(wanted).await;
        if started.is_err() {
            self.ceremonies.discard().map_err(|error| disk(&error))?;
        }
        started
    }

    pub(super) async fn discard_ceremony(&mut self) -> Result<(), Problem> {
        // The others have the new lock already: without it this box would stay on the one of before. In a few minutes it is over.
        if let Some(born) = self.born.as_ref().filter(|born| born.adding.is_some() && !born.tried) {
            return Err(turn_awaited(born.at.saturating_duration_since(Instant::now())));
        }
        if let Some(running) = self.ceremony.take() {
            running.stop().await;
        }
        self.last_ceremony = None;
        self.resume_at = None;
        self.resume_pause = RESUME_AGAIN;
        self.born = None;
        self.reserved = None;
        self.ceremonies.discard().map_err(|error| disk(&error))
    }

    fn key_generation(&self) -> KeyGenerationStatus {
        let now = self.ceremony.as_ref().map(dkg::Running::progress);
        KeyGenerationStatus { ceremony: now.or_else(|| self.last_ceremony.clone()) }
    }

    /// Everybody has left the ceremony: its port is given back, and the cluster joined. Without anything made, it is time for what
    /// was made before.
    pub(super) async fn on_ceremony_finished(&mut self, made: Option<dkg::Made>) {
        if let Some(running) = self.ceremony.take() {
            self.last_ceremony = Some(running.progress());
            running.stop().await;
        }
        let is_new = made.is_some();
        let Some(mut born) = made.map(Born::new).or_else(|| self.born.take()) else { return };
        if let Some(wait) = self.until_its_turn(&born, is_new) {
            tracing::info!(seconds = wait.as_secs(), "the new lock is served when it is this box's turn");
            self.note_at_ceremony(turn_awaited(wait));
            (born.at, born.put_off) = (Instant::now() + wait, born.put_off.saturating_add(1));
            self.born = Some(born);
            return;
        }
        born.tried = true;
        // The place was kept for this cluster. Whatever else is joined meanwhile has taken another one.
        let reserved = self.reserved.take();
        let again = copy_of(&born.setup);
        let setup = std::mem::replace(&mut born.setup, again);
        let served = match &born.adding {
            Some(adding) => match self.ready_for_more_validators(setup, adding).await {
                Ok(ready) => {
                    self.take_more_validators(ready).await.map_err(|problem| (problem, LONGEST_WITHOUT_NODE))
                }
                Err(problem) => Err((problem, LONGEST_PAUSE)),
            },
            None => {
                let joined = self.join_at(setup, reserved).await;
                joined.map(drop).map_err(|problem| (problem, LONGEST_PAUSE))
            }
        };
        match served {
            Ok(()) => {
                if born.adding.is_some()
                    && let Some(progress) = &mut self.last_ceremony
                {
                    progress.problems.clear();
                }
                self.ceremony_is_over(born.adding.is_some());
            }
            Err((problem, longest)) => {
                self.reserved = reserved;
                tracing::warn!(%problem, "the new lock cannot be served yet; it is tried again");
                self.note_at_ceremony(problem);
                born.at = Instant::now() + born.pause;
                born.pause = born.pause.saturating_mul(2).min(longest);
                self.born = Some(born);
            }
        }
    }

    /// How long the new lock has to wait: a cluster that goes on meanwhile must not do without more members than it can spare.
    fn until_its_turn(&self, born: &Born, is_new: bool) -> Option<Duration> {
        let adding = born.adding.as_ref()?;
        let own = if is_new { self.turn_of(adding) } else { None };
        own.or_else(|| self.until_proposed(adding).filter(|_| born.put_off < MOST_PUT_OFF))
    }

    fn note_at_ceremony(&mut self, problem: Problem) {
        if let Some(progress) = &mut self.last_ceremony {
            progress.problems = vec![problem];
        }
    }
}

/// When what the ceremony made can be served: itself when it is new, and nothing after a pause.
pub(super) async fn finished(ceremony: &mut Option<dkg::Running>, born: &Option<Born>) -> Option<dkg::Made> {
    if let Some(born) = born {
        tokio::time::sleep_until(born.at).await;
        return None;
    }
    match ceremony {
        Some(running) => Some(running.finished().await),
        None => std::future::pending().await,
    }
}

/// When an interrupted ceremony is to be tried again. Never, while there is none.
pub(super) async fn to_be_resumed(when: Option<Instant>) {
    match when {
        Some(when) => tokio::time::sleep_until(when).await,
        None => std::future::pending().await,
    }
}

/// The next pause after one that did not help.
pub(super) fn longer(pause: Duration) -> Duration {
    pause.saturating_mul(2).min(LONGEST_PAUSE)
}

/// A ceremony of which nothing else is known.
pub(super) fn standing(phase: &str, problem: Problem) -> ipc::dkg::KeyGenerationProgress {
    ipc::dkg::KeyGenerationProgress {
        name: String::new(),
        definition_hash: String::new(),
        phase: phase.to_owned(),
        step: 0,
        members: Vec::new(),
        problems: vec![problem],
        lock_hash: None,
    }
}

fn turn_awaited(wait: Duration) -> Problem {
    Problem::new(
        "turn_awaited",
        format!(
            "The members take the new lock one after the other, so that duties go on: this box does so in {} seconds.",
            wait.as_secs().max(1)
        ),
        "Nothing has to be done.",
    )
}

fn unreadable(error: &std::io::Error) -> Problem {
    Problem::new(
        "ceremony_damaged",
        setup::sentence(&format!("the key generation cannot be gone on with: {error}")),
        "Discard it, and agree with the other owners to begin it again.",
    )
}

fn copy_of(setup: &ClusterSetup) -> ClusterSetup {
    ClusterSetup {
        lock: setup.lock.clone(),
        identity_key: Sensitive::new(setup.identity_key.expose_secret().to_owned()),
        beacon_nodes: setup.beacon_nodes.clone(),
        peers: setup.peers.clone(),
        relays: setup.relays.clone(),
        signing: setup.signing,
        fallback_beacon_nodes: setup.fallback_beacon_nodes.clone(),
        proposals: setup.proposals.clone(),
        obol_api: setup.obol_api,
    }
}

fn disk(error: &std::io::Error) -> Problem {
    Problem::new(
        "disk_write_failed",
        setup::sentence(&format!("the key generation cannot be kept: {error}")),
        "Free space on this box's disk, then try again.",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ceremony_that_cannot_go_on_is_tried_ever_more_seldom_up_to_once_a_minute() {
        let pauses = std::iter::successors(Some(RESUME_AGAIN), |pause| Some(longer(*pause)));
        let seconds: Vec<u64> = pauses.take(8).map(|pause| pause.as_secs()).collect();
        assert_eq!(seconds, [2, 4, 8, 16, 32, 60, 60, 60]);
    }
}
