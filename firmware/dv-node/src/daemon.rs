//! The life of the process: a control socket first, then a node for as long as there is a cluster.

use std::sync::Arc;

use anyhow::Context as _;
use ipc::dkg::KeyGenerationProgress;
use ipc::listen::Inherited;
use ipc::node::NodeState;
use ipc::{ClusterSetup, Problem};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use crate::board::Board;
use crate::config::Config;
use crate::control::{self, SetupRequest};
use crate::dkg;
use crate::exits::Desk;
use crate::node::{self, StartError, Surroundings};
use crate::overrides;
use crate::preflight::Preflight;
use crate::setup::{self, Membership};
use crate::store::Store;

/// The file of fee recipients is looked at this often.
const LOOK_AT_OVERRIDES: std::time::Duration = std::time::Duration::from_secs(5);

/// A node that runs.
struct Running {
    membership: Membership,
    /// As the lock alone has it.
    original: Membership,
    stop: watch::Sender<bool>,
    alive: mpsc::Sender<oneshot::Sender<()>>,
    task: JoinHandle<Result<(), StartError>>,
}

/// Runs until asked to stop.
pub async fn run(config: Config) -> anyhow::Result<()> {
    let store = Store::open(&config.state_dir).context("cannot use the state directory")?;
    let mut sockets = Inherited::from_environment().context("cannot take over systemd's sockets")?;
    let listener = sockets
        .take("control", config.listen.control.as_deref())
        .context("cannot open the control socket")?;
    let board = Arc::new(Board::default());
    let desk = Arc::new(Desk::open(store.clone()).context("cannot read the owner's wishes about exits")?);
    let preflight = Arc::new(Preflight::new(Arc::clone(&board), store.clone()));
    let (setups, mut requests) = mpsc::channel(1);
    let (dkg_to, mut key_generation) = mpsc::channel(4);
    let server = tokio::spawn(ipc::server::serve(
        listener,
        control::router(control::Shared::new(
            Arc::clone(&board),
            Arc::clone(&desk),
            preflight,
            control::Documents { store: store.clone(), networks: config.custom_networks() },
            setups,
        ))
        .merge(dkg::router(dkg_to)),
        config.callers.control.resolve(),
        control::limits(),
    ));
    let ceremonies = dkg::CeremonyStore::new(&config.state_dir);
    let mut daemon = Daemon {
        config,
        store,
        board,
        desk,
        overrides_seen: None,
        running: None,
        ceremonies,
        ceremony: None,
        last_ceremony: None,
        born: None,
    };
    daemon.resume().await;
    daemon.resume_ceremony().await;
    ipc::service::ready("serving");
    let (alive_to, mut alive) = mpsc::channel::<oneshot::Sender<()>>(1);
    let watchdog = tokio::spawn(watchdog(alive_to));
    let stopped = ipc::service::asked_to_stop();
    tokio::pin!(stopped);
    let mut look = tokio::time::interval(LOOK_AT_OVERRIDES);
    loop {
        tokio::select! {
            () = &mut stopped => break,
            Some(request) = requests.recv() => daemon.on_request(request).await,
            Some(question) = alive.recv() => daemon.on_alive(question),
            _ = look.tick() => daemon.look_at_overrides().await,
            Some(request) = key_generation.recv() => daemon.on_key_generation(request).await,
            ended = daemon.something_ended() => match ended {
                Ended::Node => daemon.on_node_ended().await,
                Ended::KeyGeneration(setup) => daemon.on_ceremony_finished(setup).await,
            },
        }
    }
    daemon.end_node().await;
    watchdog.abort();
    server.abort();
    Ok(())
}

/// Asks the node's own loop whether it turns, as often as systemd wants to know.
async fn watchdog(alive: mpsc::Sender<oneshot::Sender<()>>) {
    ipc::service::watchdog(|| {
        let alive = alive.clone();
        async move {
            let (to, answer) = oneshot::channel();
            let asked = async { alive.send(to).await.is_ok() && answer.await.is_ok() };
            tokio::time::timeout(std::time::Duration::from_secs(10), asked).await.unwrap_or(false)
        }
    })
    .await;
}

struct Daemon {
    config: Config,
    store: Store,
    board: Arc<Board>,
    desk: Arc<Desk>,
    /// When the overrides that are in force were written.
    overrides_seen: Option<std::time::SystemTime>,
    running: Option<Running>,
    ceremonies: dkg::CeremonyStore,
    ceremony: Option<dkg::Running>,
    /// How the ceremony that is over, or could not be resumed, stands.
    last_ceremony: Option<KeyGenerationProgress>,
    /// A cluster that was born here and could not be joined yet.
    born: Option<(tokio::time::Instant, ClusterSetup)>,
}

impl Daemon {
    /// Goes on with the stored cluster, if there is one.
    async fn resume(&mut self) {
        let setup = match self.store.load_cluster() {
            Ok(None) => return self.board.idle(NodeState::WaitingForCluster, Vec::new()),
            Ok(Some(setup)) => setup,
            Err(error) => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "the stored cluster cannot be read"
                );
                let next_step = "Import the cluster lock and this box's identity key again.";
                let problem =
                    Problem::new("cluster_file_damaged", setup::sentence(&error.to_string()), next_step);
                return self.board.idle(NodeState::Halted, vec![problem]);
            }
        };
        match self.verify(setup).await {
            Ok((membership, _)) => self.start(membership),
            Err(problem) => {
                tracing::error!(%problem, "the stored cluster is not valid");
                self.board.idle(NodeState::Halted, vec![problem]);
            }
        }
    }

    async fn verify(&self, setup: ClusterSetup) -> Result<(Membership, ClusterSetup), Problem> {
        let networks = self.config.custom_networks();
        let verified = tokio::task::spawn_blocking(move || {
            let membership = setup::verify(&setup, &networks)?;
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

    async fn on_request(&mut self, (setup, answer): SetupRequest) {
        let result = self.join(setup).await;
        if let Err(problem) = &result {
            tracing::warn!(%problem, "a cluster setup was refused");
        }
        // The caller may have given up: the result holds all the same.
        drop(answer.send(result));
    }

    /// Checks everything, keeps it, and starts the node with it.
    async fn join(&mut self, setup: ClusterSetup) -> Result<(), Problem> {
        let (membership, setup) = self.verify(setup).await?;
        if let Some(running) = &self.running {
            same_place(&running.membership, &membership)?;
        }
        let chain = self.store.load_chain().map_err(|error| disk(&error))?;
        if chain.as_ref().is_some_and(|chain| !chain.is_of(&membership)) {
            return Err(Problem::new(
                "already_in_a_cluster",
                "This box holds the memory of another cluster, or of another member of this one.",
                "Reset the box before joining another cluster.",
            ));
        }
        let expected = node::expected_chain(&membership, chain.as_ref());
        let nodes = beacon::BeaconNodes::new(&membership.beacon_nodes, self.config.beacon.into(), expected);
        setup::check_beacon_nodes(&nodes.map_err(|error| setup::bad_beacon_address(&error))?).await?;
        self.store.save_cluster(&setup).map_err(|error| disk(&error))?;
        tracing::info!(cluster = %membership.view.name, share_index = membership.share_index, "joined a cluster");
        self.end_node().await;
        self.start(membership);
        Ok(())
    }

    /// The owner, or another tool, has put another file of fee recipients there: the node begins again with it.
    async fn look_at_overrides(&mut self) {
        let written = self.store.overrides_written();
        if written == self.overrides_seen {
            return;
        }
        self.overrides_seen = written;
        if let Some(running) = &self.running {
            let membership = running.original.clone();
            tracing::info!("the fee recipients were changed");
            self.end_node().await;
            self.start(membership);
        }
    }

    fn start(&mut self, original: Membership) {
        self.overrides_seen = self.store.overrides_written();
        let mut membership = original.clone();
        overrides::apply(&mut membership, &self.store);
        let (stop, stopped) = watch::channel(false);
        let (alive_to, alive) = mpsc::channel(1);
        let around = Surroundings {
            config: self.config.clone(),
            store: self.store.clone(),
            board: Arc::clone(&self.board),
            desk: Arc::clone(&self.desk),
            stop: stopped,
            alive,
        };
        self.board.idle(NodeState::Starting, Vec::new());
        let task = tokio::spawn(node::run(membership.clone(), around));
        self.running = Some(Running { membership, original, stop, alive: alive_to, task });
    }

    async fn end_node(&mut self) {
        if let Some(running) = self.running.take() {
            let _ended_already = running.stop.send(true);
            if let Err(error) = running.task.await {
                tracing::error!(%error, "the node ended badly");
            }
        }
    }

    /// Without a node, the daemon itself is what must be alive.
    fn on_alive(&self, question: oneshot::Sender<()>) {
        match &self.running {
            None => drop(question.send(())),
            // A full queue means that the loop has not answered the question before: no answer is the answer.
            Some(running) => drop(running.alive.try_send(question)),
        }
    }

    async fn something_ended(&mut self) -> Ended {
        tokio::select! {
            () = node_ended(self.running.as_ref()) => Ended::Node,
            setup = key_generation::finished(&mut self.ceremony, &self.born) => Ended::KeyGeneration(setup),
        }
    }

    /// The node ended by itself: a start that failed, or a bug. A bug ends the process, and systemd starts it anew.
    async fn on_node_ended(&mut self) {
        let Some(running) = self.running.take() else { return };
        match running.task.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::error!(error = &error as &dyn std::error::Error, "the node cannot start");
                let problem = Problem::new(
                    "node_failed",
                    setup::sentence(&error.to_string()),
                    "Correct the cluster setup on the page, or restart the box.",
                );
                self.board.idle(NodeState::Halted, vec![problem]);
            }
            Err(error) => {
                tracing::error!(%error, "the node stopped unexpectedly");
                std::process::exit(70);
            }
        }
    }
}

mod key_generation;

/// What ended by itself.
enum Ended {
    Node,
    KeyGeneration(ClusterSetup),
}

async fn node_ended(running: Option<&Running>) {
    match running {
        Some(running) => {
            while !running.task.is_finished() {
                tokio::time::sleep(std::time::Duration::from_millis(500)).await;
            }
        }
        None => std::future::pending().await,
    }
}

/// Addresses may change; the cluster and our place in it may not, because the shares and the journal belong to them.
fn same_place(now: &Membership, new: &Membership) -> Result<(), Problem> {
    if now.view.lock_hash == new.view.lock_hash && now.share_index == new.share_index {
        return Ok(());
    }
    Err(Problem::new(
        "already_in_a_cluster",
        format!("This box is a member of the cluster '{}' already.", now.view.name),
        "Reset the box before joining another cluster.",
    ))
}

fn disk(error: &crate::store::StoreError) -> Problem {
    Problem::new(
        "disk_write_failed",
        setup::sentence(&error.to_string()),
        "Free space on this box's disk, then try again.",
    )
}
