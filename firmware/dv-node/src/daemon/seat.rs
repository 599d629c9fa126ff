//! One cluster of this box and the node that serves it.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, SystemTime};

use ipc::Problem;
use ipc::node::NodeState;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::Work;
use crate::config::Config;
use crate::isolation::{self, Outcome};
use crate::node::{StartError, Surroundings};
use crate::overrides;
use crate::places::{Facts, Place};
use crate::setup::Membership;

/// Pause before a node that crashed is started anew; twice as long each time, up to the longest.
const PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// A node that ran for so long had recovered.
const RECOVERED: Duration = Duration::from_secs(300);
/// A node whose loop has not answered for so long is stuck.
const STUCK: Duration = Duration::from_secs(15);
/// How long a node may take to end. What of it runs beside its loop has five seconds, and the daemon's own loop, which may wait for it,
/// answers the watchdog within ten.
const PATIENCE: Duration = Duration::from_secs(8);

type Ending = Outcome<Result<(), StartError>>;

/// A place and what goes on at it.
pub(super) struct Seat {
    pub(super) place: Arc<Place>,
    /// The cluster as its lock alone has it; none while there is no cluster that can be served.
    pub(super) membership: Option<Membership>,
    running: Option<Running>,
    /// After a crash: until when nothing is started, and how long that pause is.
    pause: Option<(Instant, Duration)>,
    /// The cluster is being changed: nothing is started.
    pub(super) changing: bool,
    /// Its identity key is sealed, and the signer does not open it yet.
    pub(super) sealed: Option<Problem>,
    /// When the overrides that are in force were written.
    overrides_seen: Option<SystemTime>,
    /// It was asked to end and takes its time: it starts again, with what is in force then, when it has ended.
    again: bool,
    /// Why nothing here is served until the box is restarted.
    halted: Option<Problem>,
}

/// A node that runs.
struct Running {
    stop: watch::Sender<bool>,
    alive: mpsc::Sender<oneshot::Sender<()>>,
    done: oneshot::Receiver<Ending>,
    since: Instant,
    /// A question that its loop has not answered yet.
    asked: Option<(Instant, oneshot::Receiver<()>)>,
    /// The owner was told that it is stuck.
    told: bool,
    /// Since when it is asked to end.
    ending: Option<Instant>,
}

impl Seat {
    pub(super) fn new(place: Arc<Place>) -> Self {
        Self {
            place,
            membership: None,
            running: None,
            pause: None,
            changing: false,
            sealed: None,
            overrides_seen: None,
            again: false,
            halted: None,
        }
    }

    /// The cluster is this one from now on.
    pub(super) fn take(&mut self, membership: Membership) {
        self.place.set_facts(Some(Facts::of(&membership)));
        self.membership = Some(membership);
        self.sealed = None;
        self.place.board.forget_crash();
        self.pause = None;
    }

    /// Its files cannot be used as they are.
    pub(super) fn halt(&mut self, problem: Problem) {
        self.halted = Some(problem);
    }

    pub(super) fn halted(&self) -> Option<&Problem> {
        self.halted.as_ref()
    }

    /// There was a cluster here that signed, and it is not known which validators it has.
    pub(super) fn is_unreadable(&self) -> bool {
        self.membership.is_none() && !matches!(self.place.store.load_chain(), Ok(None))
    }

    /// The cluster cannot be served: what is known of it all the same.
    pub(super) fn remember(&mut self) {
        let chain = self.place.store.load_chain().ok().flatten();
        let share_index = chain.as_ref().and_then(|chain| chain.share_index).unwrap_or_default();
        let lock_hash = chain.and_then(|chain| chain.lock_hash).or_else(|| self.claimed_lock_hash());
        self.place.set_facts(Some(Facts::remembered(lock_hash.unwrap_or_default(), share_index)));
    }

    /// What the stored lock calls itself, unverified.
    fn claimed_lock_hash(&self) -> Option<String> {
        let setup = self.place.store.load_cluster().ok().flatten()?;
        let claimed = setup.lock.get("lock_hash")?.as_str()?;
        Some(claimed.strip_prefix("0x").unwrap_or(claimed).to_ascii_lowercase())
    }

    /// Starts the node, unless it runs: two of one cluster never run, whatever happens.
    pub(super) fn start(&mut self, config: &Config, work: &Work) {
        let Some(membership) = &self.membership else { return };
        if self.running.is_some() || self.changing {
            return;
        }
        self.overrides_seen = self.place.store.overrides_written();
        let mut membership = membership.clone();
        overrides::apply(&mut membership, &self.place.store);
        let (stop, stopped) = watch::channel(false);
        let (alive, questions) = mpsc::channel(1);
        let mut config = config.clone();
        config.p2p = config.p2p.at_place(self.place.number);
        let around = Surroundings {
            config,
            store: self.place.store.clone(),
            board: Arc::clone(&self.place.board),
            desk: Arc::clone(&self.place.desk),
            stop: stopped,
            alive: questions,
        };
        self.place.board.idle(NodeState::Starting, Vec::new());
        let work = Arc::clone(work);
        let name = format!("cluster-{}", self.place.number);
        match isolation::start(&name, move || work(membership, around)) {
            Ok(done) => {
                let since = Instant::now();
                self.running =
                    Some(Running { stop, alive, done, since, asked: None, told: false, ending: None });
            }
            Err(error) => {
                tracing::error!(%error, "no threads for a cluster");
                self.crashed();
            }
        }
    }

    /// The node has crashed, and is started again after a pause.
    pub(super) fn crashed(&mut self) {
        let before = self.pause.map(|(_, pause)| pause.saturating_mul(2).min(LONGEST_PAUSE));
        let pause = before.unwrap_or(PAUSE);
        self.pause = Some((Instant::now() + pause, pause));
        let problem = Problem::new(
            "cluster_crashed",
            format!(
                "A fault of ours ended the work for the cluster '{}'. Nothing is signed for it until it is back; other \
                 clusters go on.",
                self.place.name()
            ),
            "It is started again by itself. If this comes back, send us the log.",
        );
        let afterwards = Problem::new(
            "cluster_crashed",
            format!(
                "A fault of ours ended the work for the cluster '{}' a short time ago; it was started again. What was due \
                 meanwhile may have been missed.",
                self.place.name()
            ),
            "Nothing has to be done. If this comes back, send us the log.",
        );
        self.place.board.crashed(problem, afterwards);
    }

    /// Until when nothing is started after a crash.
    pub(super) fn pause(&self) -> Option<(Instant, u8)> {
        let (until, _) = self.pause.filter(|_| self.running.is_none() && self.membership.is_some())?;
        Some((until, self.place.number))
    }

    pub(super) fn ask_to_stop(&mut self) {
        self.again = false;
        if let Some(running) = &mut self.running {
            running.ending.get_or_insert_with(Instant::now);
            let _ended_already = running.stop.send(true);
        }
    }

    /// Ends the node. When it does not end it stays where it is, and nothing else is started in its place; it starts again, as what it
    /// was, if it does end later. One that is known to be stuck, or was waited for before, is not waited for again: everybody else
    /// would wait with it.
    pub(super) async fn end(&mut self) -> Result<(), Problem> {
        self.ask_to_stop();
        let patience = if self.is_stuck() { Duration::ZERO } else { PATIENCE };
        let Some(running) = &mut self.running else {
            self.pause = None;
            return Ok(());
        };
        let waited = running.ending.map_or(Duration::ZERO, |since| since.elapsed());
        match tokio::time::timeout(patience.saturating_sub(waited), &mut running.done).await {
            Ok(outcome) => {
                if let Ok(Outcome::Crashed(what)) = outcome {
                    tracing::error!(what, "the node ended badly");
                }
                self.running = None;
                self.pause = None;
                Ok(())
            }
            Err(_) => {
                self.again = true;
                Err(self.stuck())
            }
        }
    }

    /// Asks the node to end and to start again with what is on the disk by then. Nobody waits for it.
    pub(super) fn take_overrides(&mut self) {
        self.overrides_seen = self.place.store.overrides_written();
        self.ask_to_stop();
        self.again = true;
    }

    /// It was asked to end, and has not for too long: for the owner, once.
    pub(super) fn does_not_end(&mut self) -> Option<Problem> {
        let stuck = self.stuck();
        let running = self.running.as_mut()?;
        let too_long = running.ending.is_some_and(|since| since.elapsed() > PATIENCE);
        if !too_long || std::mem::replace(&mut running.told, true) {
            return None;
        }
        self.place.board.idle(NodeState::Halted, vec![stuck.clone()]);
        Some(stuck)
    }

    /// It has ended by itself after it was asked to.
    pub(super) fn is_to_start_again(&mut self) -> bool {
        std::mem::take(&mut self.again)
    }

    /// The node cannot start as things are: nothing is tried until they change.
    pub(super) fn rest(&mut self, problem: Problem) {
        self.pause = None;
        self.place.board.idle(NodeState::Halted, vec![problem]);
    }

    pub(super) fn is_running(&self) -> bool {
        self.running.is_some()
    }

    pub(super) fn is_stuck(&mut self) -> bool {
        let Some(running) = &mut self.running else { return false };
        let Some((since, answer)) = &mut running.asked else { return false };
        if answer.try_recv() == Err(oneshot::error::TryRecvError::Empty) {
            return since.elapsed() > STUCK;
        }
        running.asked = None;
        running.told = running.ending.is_some() && running.told;
        false
    }

    /// Asks the node's loop whether it turns, and tells the owner when it does not.
    pub(super) fn ask_whether_alive(&mut self) {
        let is_stuck = self.is_stuck();
        let problem = self.stuck();
        let Some(running) = &mut self.running else { return };
        if is_stuck && !std::mem::replace(&mut running.told, true) {
            tracing::error!(%problem, "a node does not turn any more");
            self.place.board.idle(NodeState::Halted, vec![problem]);
        } else if running.asked.is_none() {
            let (to, answer) = oneshot::channel();
            // The queue has room: there is one question at a time.
            drop(running.alive.try_send(to));
            running.asked = Some((Instant::now(), answer));
        }
    }

    fn stuck(&self) -> Problem {
        Problem::new(
            "cluster_stuck",
            format!("By a fault of ours the work for the cluster '{}' stands still.", self.place.name()),
            "Restart the box at a quiet time, and send us the log. Other clusters go on meanwhile.",
        )
    }

    /// Whether the owner, or another tool, has put another file of fee recipients there.
    pub(super) fn overrides_changed(&self) -> bool {
        self.running.is_some() && self.place.store.overrides_written() != self.overrides_seen
    }
}

/// The next node that ends by itself.
pub(super) async fn ended(seats: &mut BTreeMap<u8, Seat>) -> (u8, Ending) {
    std::future::poll_fn(|context| {
        for (place, seat) in seats.iter_mut() {
            let Some(running) = &mut seat.running else { continue };
            if let Poll::Ready(outcome) = Pin::new(&mut running.done).poll(context) {
                if running.since.elapsed() > RECOVERED {
                    seat.pause = None;
                }
                seat.running = None;
                return Poll::Ready((*place, outcome.unwrap_or_else(|_| Outcome::Crashed(String::new()))));
            }
        }
        Poll::Pending
    })
    .await
}
