//! The life of the process: a control socket first, then a node for each cluster, in threads of its own.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::Context as _;
use futures::future::BoxFuture;
use ipc::dkg::KeyGenerationProgress;
use ipc::listen::Inherited;
use ipc::node::NodeState;
use ipc::{ClusterSetup, Problem};
use tokio::sync::{mpsc, oneshot};

use crate::alone::Alone;
use crate::config::Config;
use crate::control;
use crate::dkg;
use crate::edit;
use crate::folders::Folders;
use crate::isolation::Outcome;
use crate::node::{self, StartError, Surroundings};
use crate::places::{Place, Places};
use crate::sealed;
use crate::setup::{self, Membership};
use crate::signer::Signer;
use crate::store::StoreError;

mod adding;
mod brought;
mod change;
mod copies;
mod identity;
mod joining;
mod key_generation;
mod seat;

pub(crate) use change::damaged_change;
use seat::Seat;

/// Overrides and the turning of the nodes are looked at this often.
const LOOK: std::time::Duration = std::time::Duration::from_secs(5);
/// A signer that is locked at first may wait for its clock, or for a passphrase.
const HAND_OVER_TRIES: usize = 60;
const HAND_OVER_PAUSE: std::time::Duration = std::time::Duration::from_secs(60);

/// What serves a cluster: [`node::run`].
pub type Work =
    Arc<dyn Fn(Membership, Surroundings) -> BoxFuture<'static, Result<(), StartError>> + Send + Sync>;

/// Runs until asked to stop.
pub async fn run(config: Config) -> anyhow::Result<()> {
    run_with(config, Arc::new(|membership, around| Box::pin(node::run(membership, around)))).await
}

/// The same with what serves a cluster given.
pub async fn run_with(config: Config, work: Work) -> anyhow::Result<()> {
    let stopped = ipc::service::asked_to_stop();
    let folders = Folders::at(&config.state_dir).context("cannot use the state directory")?;
    let _alone = Alone::with(&config.state_dir)?;
    let unfinished = folders.finish().err();
    let mut sockets = Inherited::from_environment().context("cannot take over systemd's sockets")?;
    let listener = sockets
        .take("control", config.listen.control.as_deref())
        .context("cannot open the control socket")?;
    let places = Arc::new(Places::new(config.p2p.clone()));
    let (to, mut requests) = mpsc::channel(1);
    let (dkg_to, mut key_generation) = mpsc::channel(4);
    let (edit_to, mut edits) = mpsc::channel(4);
    let mut daemon = Daemon::new(config, folders, Arc::clone(&places), work);
    daemon.open_seats(unfinished).context("cannot use the state directory")?;
    let server = tokio::spawn(ipc::server::serve(
        listener,
        control::router(control::Shared::new(places, daemon.config.custom_networks(), to))
            .merge(dkg::router(dkg_to))
            .merge(edit::router(edit_to)),
        daemon.config.callers.control.resolve(),
        control::limits(),
    ));
    // Whatever is being done then, at the start too, is left where it is, as by a power cut: it must not make the stop wait.
    tokio::select! {
        () = stopped => {}
        () = daemon.serve(&mut requests, &mut key_generation, &mut edits) => {}
    }
    for seat in daemon.seats.values_mut() {
        seat.ask_to_stop();
    }
    for seat in daemon.seats.values_mut() {
        // Whoever does not stop ends with the process.
        let _stuck = seat.end().await;
    }
    server.abort();
    Ok(())
}

/// Asks the daemon's own loop whether it and the nodes turn, as often as systemd wants to know.
async fn watchdog(alive: mpsc::Sender<oneshot::Sender<bool>>) {
    ipc::service::watchdog(|| {
        let alive = alive.clone();
        async move {
            let (to, answer) = oneshot::channel();
            let asked = async { alive.send(to).await.is_ok() && answer.await.unwrap_or(false) };
            tokio::time::timeout(std::time::Duration::from_secs(10), asked).await.unwrap_or(false)
        }
    })
    .await;
}

struct Daemon {
    config: Config,
    folders: Folders,
    work: Work,
    places: Arc<Places>,
    /// The first place always has one, a further one while there is a cluster at it.
    seats: BTreeMap<u8, Seat>,
    ceremonies: dkg::CeremonyStore,
    ceremony: Option<dkg::Running>,
    /// How the ceremony that is over, or could not be resumed, stands.
    last_ceremony: Option<KeyGenerationProgress>,
    /// When an interrupted ceremony is tried again.
    resume_at: Option<tokio::time::Instant>,
    /// How long the next pause before that is.
    resume_pause: std::time::Duration,
    /// A cluster that was made here and is not served yet.
    born: Option<key_generation::Born>,
    /// The place that the cluster of the ceremony will have.
    reserved: Option<u8>,
    /// The change of a cluster.
    change: change::Change,
    /// When identity keys in the clear are looked for again, and the pause after that; none once there are none.
    take_over_at: Option<(tokio::time::Instant, std::time::Duration)>,
    /// The copies of identity keys that the signer keeps.
    copies: copies::Copies,
    /// When the signer was last asked about keys that it did not open.
    elsewhere_asked: Option<tokio::time::Instant>,
}

impl Daemon {
    fn new(config: Config, folders: Folders, places: Arc<Places>, work: Work) -> Self {
        Self {
            change: change::Change::new(&config.state_dir),
            ceremonies: dkg::CeremonyStore::new(&config.state_dir),
            config,
            folders,
            work,
            places,
            seats: BTreeMap::new(),
            ceremony: None,
            last_ceremony: None,
            resume_at: None,
            resume_pause: key_generation::RESUME_AGAIN,
            born: None,
            reserved: None,
            take_over_at: Some((tokio::time::Instant::now(), key_generation::RESUME_AGAIN)),
            copies: copies::Copies::default(),
            elsewhere_asked: None,
        }
    }

    /// Goes on with what the files say, then does what it is asked and what comes up, without an end.
    async fn serve(
        &mut self,
        requests: &mut mpsc::Receiver<control::Request>,
        key_generation: &mut mpsc::Receiver<dkg::Request>,
        edits: &mut mpsc::Receiver<edit::Request>,
    ) {
        self.resume_change().await;
        self.resume().await;
        self.resume_brought();
        self.resume_ceremony().await;
        ipc::service::ready("serving");
        let (alive_to, mut alive) = mpsc::channel::<oneshot::Sender<bool>>(1);
        // Ends with this function.
        let mut beside = tokio::task::JoinSet::new();
        beside.spawn(watchdog(alive_to));
        let mut look = tokio::time::interval(LOOK);
        loop {
            tokio::select! {
                Some(request) = requests.recv() => self.on_request(request).await,
                Some(answer) = alive.recv() => drop(answer.send(self.is_alive())),
                _ = look.tick() => self.look().await,
                Some(request) = key_generation.recv() => self.on_key_generation(request).await,
                Some(request) = edits.recv() => self.on_change(request).await,
                ended = self.something_ended() => match ended {
                    Ended::Node(place, outcome) => self.on_node_ended(place, outcome),
                    Ended::Pause(place) => self.start_again(place),
                    Ended::KeyGeneration(made) => self.on_ceremony_finished(made.map(|made| *made)).await,
                    Ended::CeremonyPause => self.resume_ceremony().await,
                    Ended::ChangePause => self.resume_change().await,
                    Ended::Change(ending) => self.on_change_ended(*ending).await,
                    Ended::Brought(brought) => self.on_brought(*brought).await,
                },
            }
        }
    }

    /// A seat for each place that has files. Files that cannot be used halt their own cluster only.
    fn open_seats(&mut self, mut unfinished: Option<StoreError>) -> Result<(), StoreError> {
        for number in self.folders.places()? {
            let opened = match unfinished.take_if(|_| number == 0) {
                // Only the first place's files move one by one, and some of them are still away.
                Some(error) => Err(error),
                None => self.open_seat(number).map(drop),
            };
            if let Err(error) = opened {
                let problem = Problem::new(
                    "cluster_files_unusable",
                    setup::sentence(&error.to_string()),
                    "Free space on this box's disk, then restart it. If this comes back, send us the log.",
                );
                let place = Arc::new(Place::halted(number, self.folders.store_as_it_is(number)));
                self.seat_at(place).halt(problem);
            }
        }
        Ok(())
    }

    fn open_seat(&mut self, number: u8) -> Result<&mut Seat, StoreError> {
        let place = Arc::new(Place::open(number, self.folders.store(number)?)?);
        place.board.idle(NodeState::WaitingForCluster, Vec::new());
        Ok(self.seat_at(place))
    }

    fn seat_at(&mut self, place: Arc<Place>) -> &mut Seat {
        self.places.add(Arc::clone(&place));
        self.seats.entry(place.number).insert_entry(Seat::new(place)).into_mut()
    }

    /// Goes on with the stored clusters.
    async fn resume(&mut self) {
        let places: Vec<u8> = self.seats.keys().copied().collect();
        for number in places {
            self.serve_by_the_files(number).await;
        }
    }

    /// What the files at a place say is served there.
    async fn serve_by_the_files(&mut self, number: u8) {
        let Some(seat) = self.seats.get(&number) else { return };
        let store = seat.place.store.clone();
        let remembers = || matches!(store.load_chain(), Ok(Some(chain)) if chain.lock_hash.is_some());
        let outcome = match (seat.halted().cloned(), store.load_cluster()) {
            (Some(problem), _) => Err(problem),
            // A cut while it was joined again: its memory is here, its lock is not yet.
            (None, Ok(None)) if remembers() => Err(Problem::new(
                "cluster_half_joined",
                "This box was switched off while it joined a cluster, and does nothing for it.",
                "Join it again with its lock and identity key, or leave it.",
            )),
            (None, Ok(None)) => return,
            (None, Ok(Some(setup))) => {
                let unread = store.settings_problems(&setup.lock);
                let verified = self.verify_stored(setup).await;
                verified.map(|(mut membership, setup)| {
                    membership.unused.extend(unread);
                    (membership, setup)
                })
            }
            (None, Err(error)) => Err(Problem::new(
                "cluster_file_damaged",
                setup::sentence(&error.to_string()),
                "Import the cluster lock and this box's identity key again.",
            )),
        };
        let outcome = outcome.and_then(|(membership, setup)| {
            self.room_beside_others(&membership, number)?;
            Ok((membership, setup))
        });
        match outcome {
            Ok((membership, setup)) => {
                self.seal_what_did_not_open(&store, &setup).await;
                // At each start: what an older signer kept, or one that was locked then did not, it keeps by the lock now.
                self.hand_identity_over(&setup, &membership);
                self.seat_and_start(number, membership);
            }
            Err(problem) => {
                tracing::error!(%problem, place = number, "the stored cluster cannot be served");
                if let Some(seat) = self.seats.get_mut(&number) {
                    seat.remember();
                    let asked_again = [sealed::LOCKED, sealed::ELSEWHERE].contains(&problem.code.as_str());
                    seat.sealed = Some(problem.clone()).filter(|_| asked_again);
                    seat.place.board.idle(NodeState::Halted, vec![problem]);
                }
            }
        }
    }

    /// What the owner hands in.
    async fn verify(&self, setup: ClusterSetup) -> Result<(Membership, ClusterSetup), Problem> {
        let verified = self.verify_by(setup, |setup, networks| setup::verify(setup, networks)).await?;
        // Before anything of it is written down.
        sealed::seal(&self.config.signer_socket, &verified.1.identity_key).await?;
        Ok(verified)
    }

    /// What this box has kept.
    async fn verify_stored(&self, setup: ClusterSetup) -> Result<(Membership, ClusterSetup), Problem> {
        self.verify_by(setup, setup::verify_stored).await
    }

    async fn verify_by(
        &self,
        setup: ClusterSetup,
        verify: fn(&mut ClusterSetup, &[cluster::Network]) -> Result<Membership, Problem>,
    ) -> Result<(Membership, ClusterSetup), Problem> {
        let mut setup = self.with_identity(setup).await?;
        let networks = self.config.custom_networks();
        let verified = tokio::task::spawn_blocking(move || {
            let membership = verify(&mut setup, &networks)?;
            Ok((membership, setup))
        });
        verified.await.unwrap_or_else(|_| {
            Err(Problem::new(
                "internal",
                "Checking the cluster lock failed unexpectedly.",
                "Try again and send us the log.",
            ))
        })
    }

    /// The signer keeps the identity key for backups and for a move to another box. Duties do not need that: when it does not
    /// take the key within an hour, it gets it when this node starts again.
    fn hand_identity_over(&self, setup: &ClusterSetup, membership: &Membership) {
        if membership.signing != ipc::Signing::BuiltIn {
            return;
        }
        let lock_hash = hex::encode(membership.view.lock_hash);
        let key = ipc::Sensitive::new(setup.identity_key.expose_secret().to_owned());
        let lock = setup.lock.clone();
        let signer = Signer::new(&self.config.signer_socket);
        let copies = self.copies.clone();
        copies.note(&lock_hash, Some(copies::Handed::UnderWay));
        // A signer that does not answer holds nothing up.
        tokio::spawn(async move {
            let mut pause = key_generation::RESUME_AGAIN;
            for _ in 0..HAND_OVER_TRIES {
                // The request has the lock in it; the next one needs it again.
                match signer.keep_identity(&lock_hash, &key, lock.clone()).await {
                    Ok(()) => return copies.note(&lock_hash, Some(copies::Handed::Settled)),
                    Err(problem) => {
                        tracing::warn!(code = %problem.code, "the signer did not take the identity key: backups lack it");
                        // Whatever is not a signer that cannot be asked yet stays so.
                        if problem.code != sealed::LOCKED {
                            return copies.note(&lock_hash, Some(copies::Handed::Settled));
                        }
                    }
                }
                tokio::time::sleep(pause).await;
                pause = key_generation::longer(pause).min(HAND_OVER_PAUSE);
            }
            copies.note(&lock_hash, None);
        });
    }

    /// The cluster at a place is this one from now on.
    fn seat_and_start(&mut self, number: u8, membership: Membership) {
        if let Some(seat) = self.seats.get_mut(&number) {
            seat.take(membership);
            seat.start(&self.config, &self.work);
        }
    }

    fn start_again(&mut self, number: u8) {
        if let Some(seat) = self.seats.get_mut(&number) {
            seat.start(&self.config, &self.work);
        }
    }

    /// What changed on the disk, and who does not turn any more.
    async fn look(&mut self) {
        self.serve_what_was_sealed().await;
        self.take_identities_over().await;
        for seat in self.seats.values_mut() {
            seat.ask_whether_alive();
            if seat.overrides_changed() {
                tracing::info!(place = seat.place.number, "the fee recipients were changed");
                // It is started when it has ended: whoever takes its time holds nobody up.
                seat.take_overrides();
            }
            if let Some(problem) = seat.does_not_end() {
                tracing::error!(%problem, place = seat.place.number, "a node does not end");
            }
        }
    }

    /// A process in which everything is stuck is to be started anew. One cluster that is stuck does not take others with it.
    fn is_alive(&mut self) -> bool {
        let mut running = self.seats.values_mut().filter(|seat| seat.is_running()).peekable();
        running.peek().is_none() || running.any(|seat| !seat.is_stuck())
    }

    async fn something_ended(&mut self) -> Ended {
        let pause = self.seats.values().filter_map(Seat::pause).min();
        let change_at = self.change.resume_at();
        tokio::select! {
            (place, outcome) = seat::ended(&mut self.seats) => Ended::Node(place, outcome),
            place = paused(pause) => Ended::Pause(place),
            made = key_generation::finished(&mut self.ceremony, &self.born) => Ended::KeyGeneration(made.map(Box::new)),
            () = key_generation::to_be_resumed(self.resume_at) => Ended::CeremonyPause,
            () = key_generation::to_be_resumed(change_at) => Ended::ChangePause,
            ended = self.change.ended() => ended,
        }
    }

    /// A node ended by itself: a start that failed, or a fault of ours.
    fn on_node_ended(&mut self, place: u8, outcome: Outcome<Result<(), StartError>>) {
        let Some(seat) = self.seats.get_mut(&place) else { return };
        match outcome {
            Outcome::Ended(Ok(())) => {
                if seat.is_to_start_again() {
                    seat.start(&self.config, &self.work);
                }
            }
            Outcome::Ended(Err(error)) => {
                tracing::error!(error = &error as &dyn std::error::Error, place, "the node cannot start");
                let problem = Problem::new(
                    "node_failed",
                    setup::sentence(&error.to_string()),
                    "Correct the cluster setup on the page, or restart the box.",
                );
                seat.rest(problem);
            }
            Outcome::Crashed(what) => {
                tracing::error!(what, place, "the node crashed; it is started anew");
                seat.crashed();
            }
        }
    }
}

/// What ended by itself.
enum Ended {
    Node(u8, Outcome<Result<(), StartError>>),
    /// The pause after a crash.
    Pause(u8),
    /// What a ceremony made, or nothing when it is time again for what it made before.
    KeyGeneration(Option<Box<dkg::Made>>),
    /// The pause before an interrupted ceremony is tried again.
    CeremonyPause,
    /// The pause before an interrupted change of a cluster is tried again.
    ChangePause,
    Change(Box<edit::Ending>),
    /// What the signer said to a lock that was handed in.
    Brought(Box<brought::Brought>),
}

async fn paused(pause: Option<(tokio::time::Instant, u8)>) -> u8 {
    match pause {
        Some((until, place)) => {
            tokio::time::sleep_until(until).await;
            place
        }
        None => std::future::pending().await,
    }
}

fn disk(error: &StoreError) -> Problem {
    Problem::new(
        "disk_write_failed",
        setup::sentence(&error.to_string()),
        "Free space on this box's disk, then try again.",
    )
}
