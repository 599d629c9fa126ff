//! What this process says about itself: the status for the page, the counters for Prometheus.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use chain::UnixMillis;
use ipc::node::{
    ClockState, ClockStatus, DutyKind, DutyOutcome, DutyReason, DutyRecord, MAX_DUTIES_SHOWN, NodeState,
    ValidatorStatus,
};
use ipc::{NodeStatus, Problem};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// Shared by the event loop, which writes, and the control socket, which reads.
#[derive(Debug)]
pub struct Board {
    /// Without the validators, which seldom change and may be a thousand.
    status: Mutex<NodeStatus>,
    validators: Mutex<Vec<ValidatorStatus>>,
    finished: Mutex<VecDeque<DutyRecord>>,
    registry: Mutex<Registry>,
    /// The same cluster under the names of the reference, once there is one.
    watched: Mutex<Option<Registry>>,
    /// Whether this box is ready, or why not.
    ready: Mutex<Result<(), String>>,
    /// When a node that ends for a moment costs least; none while it does no duties.
    pace: Mutex<Option<Pace>>,
    /// When the node crashed last, and what is told of it afterwards.
    crash: Mutex<Option<(Instant, Problem)>>,
    /// The counters.
    pub metrics: Metrics,
}

/// What a node is about to do, for whoever wants it to end for a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// Length of a slot.
    pub slot_ms: u64,
    /// The end of the slots of the near future in which one of the validators proposes, when there is one.
    pub proposes_until: Option<UnixMillis>,
}

/// Counters and gauges, all under `hearth_dv_`.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Duties that ended, by kind, outcome and reason.
    pub duties: Family<DutyLabels, Counter>,
    /// Messages of members that were not listened to.
    pub refused: Family<RefusedLabels, Counter>,
    /// Wrong partial signatures, by member.
    pub liars: Family<MemberLabels, Counter>,
    /// Members connected, without ourselves.
    pub peers_connected: Gauge,
    /// Beacon nodes that are ready.
    pub beacon_nodes_ready: Gauge,
    /// Problems shown to the owner.
    pub problems: Gauge,
    /// The current slot.
    pub slot: Gauge,
    /// Reference clock minus ours, milliseconds.
    pub clock_offset_ms: Gauge,
    /// Seconds into the slot at which attestations were published.
    pub published_seconds: Latency,
    /// Seconds from the trigger of a combination to its result.
    pub combine_seconds: Latency,
    /// Seconds that making the journal durable took.
    pub journal_seconds: Latency,
    /// Seconds that the signer took for one set.
    pub sign_seconds: Latency,
    /// Rounds in which agreements ended.
    pub rounds: Rounds,
    /// Agreements, by kind of duty and by who led the round that decided.
    pub agreed: Family<AgreedLabels, Counter>,
    /// Agreed blocks that pay another fee recipient than the cluster's.
    pub wrong_fee_recipients: Counter,
}

/// A histogram of seconds.
#[derive(Debug, Clone)]
pub struct Latency(pub Histogram);

impl Default for Latency {
    fn default() -> Self {
        let bounds = [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 2.0, 4.0, 6.0, 8.0, 12.0];
        Self(Histogram::new(bounds))
    }
}

/// A histogram of rounds.
#[derive(Debug, Clone)]
pub struct Rounds(pub Histogram);

impl Default for Rounds {
    fn default() -> Self {
        Self(Histogram::new([1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0]))
    }
}

/// Labels of a duty that ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct DutyLabels {
    /// Name of the kind.
    pub kind: String,
    /// `done` or `missed`.
    pub outcome: String,
    /// Code of the reason, or empty.
    pub reason: String,
}

/// Labels of an agreement.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct AgreedLabels {
    /// Name of the kind of duty.
    pub kind: String,
    /// Share index of the member whose proposal was decided.
    pub leader: u64,
}

/// Labels of a message not listened to.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RefusedLabels {
    /// The sender's name.
    pub member: String,
    /// What it was.
    pub protocol: String,
}

/// A member.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct MemberLabels {
    /// Its name.
    pub member: String,
}

impl Default for Board {
    fn default() -> Self {
        Self::with_registry(Registry::with_prefix("hearth_dv"))
    }
}

impl Board {
    /// The board of a further cluster, whose counters carry its place. Those of the first one are as they were when a box
    /// had one cluster.
    pub fn at_place(place: u8) -> Self {
        if place == 0 {
            return Self::default();
        }
        let label = [("place".into(), place.to_string().into())];
        Self::with_registry(Registry::with_prefix_and_labels("hearth_dv", label.into_iter()))
    }

    fn with_registry(mut registry: Registry) -> Self {
        let metrics = Metrics::default();
        metrics.register(&mut registry);
        Self {
            status: Mutex::new(empty_status()),
            validators: Mutex::default(),
            finished: Mutex::default(),
            registry: Mutex::new(registry),
            watched: Mutex::new(None),
            crash: Mutex::default(),
            pace: Mutex::default(),
            ready: Mutex::new(Err(UNKNOWN_READINESS.to_owned())),
            metrics,
        }
    }
}

impl Metrics {
    fn register(&self, registry: &mut Registry) {
        registry.register("duties", "Duties that ended", self.duties.clone());
        registry.register("messages_refused", "Messages of members not listened to", self.refused.clone());
        registry.register("wrong_partials", "Wrong partial signatures", self.liars.clone());
        registry.register("peers_connected", "Members connected", self.peers_connected.clone());
        registry.register(
            "beacon_nodes_ready",
            "Beacon nodes that are ready",
            self.beacon_nodes_ready.clone(),
        );
        registry.register("problems", "Problems shown to the owner", self.problems.clone());
        registry.register("slot", "Current slot", self.slot.clone());
        registry.register("clock_offset_ms", "Reference clock minus ours", self.clock_offset_ms.clone());
        registry.register(
            "published_seconds",
            "Into the slot, when published",
            self.published_seconds.0.clone(),
        );
        registry.register("combine_seconds", "Combining and verifying a set", self.combine_seconds.0.clone());
        registry.register("journal_seconds", "Making the journal durable", self.journal_seconds.0.clone());
        registry.register("sign_seconds", "The signer's answer to a set", self.sign_seconds.0.clone());
        registry.register(
            "wrong_fee_recipients",
            "Agreed blocks that pay another fee recipient than the cluster's",
            self.wrong_fee_recipients.clone(),
        );
        registry.register("decided_round", "Rounds in which agreements ended", self.rounds.0.clone());
        registry.register("agreed", "Agreements, by kind and leader", self.agreed.clone());
    }
}

/// A crash is told for so long: a page that is looked at now and then would never show the second before the new start.
const CRASH_SHOWN: Duration = Duration::from_secs(300);
/// Nobody has looked yet.
const UNKNOWN_READINESS: &str = "ready check uninitialised";

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn empty_status() -> NodeStatus {
    NodeStatus {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        state: NodeState::WaitingForCluster,
        problems: Vec::new(),
        cluster: None,
        chain: None,
        duties: Vec::new(),
        clock: ClockStatus { state: ClockState::Unknown, offset_ms: None },
        exits: Vec::new(),
    }
}

impl Board {
    /// The status as of now.
    pub fn status(&self) -> NodeStatus {
        let mut status = lock(&self.status).clone();
        if let Some(cluster) = &mut status.cluster {
            cluster.validators.clone_from(&lock(&self.validators));
        }
        status
    }

    /// State and problems of now.
    pub fn brief(&self) -> (NodeState, Vec<Problem>) {
        let status = lock(&self.status);
        (status.state, status.problems.clone())
    }

    /// What every status from now on says about the validators.
    pub fn show_validators(&self, validators: Vec<ValidatorStatus>) {
        *lock(&self.validators) = validators;
    }

    /// The node that published here has crashed: told now, and for a while to whoever looks after it was started again.
    pub fn crashed(&self, now: Problem, afterwards: Problem) {
        *lock(&self.crash) = Some((Instant::now(), afterwards));
        self.idle(NodeState::Starting, vec![now]);
    }

    /// Another cluster is served here from now on.
    pub fn forget_crash(&self) {
        *lock(&self.crash) = None;
    }

    fn crash(&self) -> Option<Problem> {
        let crash = lock(&self.crash);
        crash.as_ref().filter(|(at, _)| at.elapsed() < CRASH_SHOWN).map(|(_, problem)| problem.clone())
    }

    /// There is no cluster, or it cannot be served: only this can be said.
    pub fn idle(&self, state: NodeState, mut problems: Vec<Problem>) {
        if problems.is_empty() && state == NodeState::Starting {
            problems.extend(self.crash());
        }
        *lock(&self.status) = NodeStatus { state, problems, ..empty_status() };
        *lock(&self.watched) = None;
        self.show_pace(None);
        self.set_ready(Err(UNKNOWN_READINESS));
    }

    /// What the node is about to do.
    pub fn show_pace(&self, pace: Option<Pace>) {
        *lock(&self.pace) = pace;
    }

    /// What the node is about to do; none while it does no duties.
    pub fn pace(&self) -> Option<Pace> {
        *lock(&self.pace)
    }

    /// A cluster is served: its metrics under the names of the reference.
    pub fn watch(&self, registry: Registry) {
        *lock(&self.watched) = Some(registry);
    }

    /// Whether this box is ready, or why not.
    pub fn ready(&self) -> Result<(), String> {
        lock(&self.ready).clone()
    }

    /// Says whether this box is ready.
    pub fn set_ready(&self, ready: Result<(), &str>) {
        *lock(&self.ready) = ready.map_err(str::to_owned);
    }

    /// Replaces the status; the finished duties are added to the pending ones given.
    pub fn publish(&self, mut status: NodeStatus) {
        status.problems.extend(self.crash());
        self.metrics.problems.set(i64::try_from(status.problems.len()).unwrap_or(i64::MAX));
        let finished = lock(&self.finished);
        let room = MAX_DUTIES_SHOWN.saturating_sub(status.duties.len());
        status.duties.extend(finished.iter().take(room).cloned());
        drop(finished);
        status.duties.sort_by(|a, b| b.slot.cmp(&a.slot).then(a.kind.cmp(&b.kind)));
        *lock(&self.status) = status;
    }

    /// A duty ended.
    pub fn finished(&self, record: DutyRecord) {
        self.count(&record);
        let mut finished = lock(&self.finished);
        finished.push_front(record);
        finished.truncate(MAX_DUTIES_SHOWN);
    }

    /// Counts a duty that ended without showing it.
    pub fn count(&self, record: &DutyRecord) {
        let outcome = match record.outcome {
            DutyOutcome::Done => "done",
            DutyOutcome::Missed => "missed",
            DutyOutcome::Pending => "pending",
        };
        let reason =
            record.reason.as_ref().map(|reason: &DutyReason| reason.code.clone()).unwrap_or_default();
        let labels = DutyLabels {
            kind: format!("{:?}", record.kind).to_lowercase(),
            outcome: outcome.to_owned(),
            reason,
        };
        self.metrics.duties.get_or_create(&labels).inc();
        if let Some(ms) = record.published_ms_into_slot.filter(|_| record.kind == DutyKind::Attester) {
            self.metrics.published_seconds.0.observe(seconds(ms));
        }
        if let Some(round) = record.decided_round {
            self.metrics.rounds.0.observe(f64::from(u32::try_from(round).unwrap_or(u32::MAX)));
        }
    }

    /// The counters as Prometheus wants them.
    pub fn metrics_text(&self) -> String {
        let mut text = String::new();
        let written = prometheus_client::encoding::text::encode_registry(&mut text, &lock(&self.registry))
            .and_then(|()| match &*lock(&self.watched) {
                Some(watched) => prometheus_client::encoding::text::encode_registry(&mut text, watched),
                None => Ok(()),
            })
            .and_then(|()| prometheus_client::encoding::text::encode_eof(&mut text));
        if written.is_err() {
            text.clear(); // Writing into a string does not fail.
        }
        text
    }
}

/// The counters of several clusters as one text: each family once, with the samples of all.
pub fn joined_metrics(texts: impl IntoIterator<Item = String>) -> String {
    const FAMILY: &str = "# HELP ";
    // Only where a line begins: the same words inside one are somebody's.
    let line = format!("\n{FAMILY}");
    let mut families: Vec<(String, String)> = Vec::new();
    let mut places: BTreeMap<String, usize> = BTreeMap::new();
    for text in texts {
        let text = format!("\n{text}");
        for family in text.split(line.as_str()).skip(1) {
            let lines = family.lines().filter(|line| *line != "# EOF").enumerate();
            let (head, samples): (Vec<_>, Vec<_>) = lines
                .map(|(at, line)| (at == 0 || line.starts_with('#'), line))
                .partition(|(is_head, _)| *is_head);
            let joined = |lines: Vec<(bool, &str)>| -> String {
                lines.into_iter().flat_map(|(_, line)| [line, "\n"]).collect()
            };
            let head = joined(head);
            let place = *places.entry(head.clone()).or_insert_with(|| {
                families.push((head, String::new()));
                families.len() - 1
            });
            if let Some((_, known)) = families.get_mut(place) {
                known.push_str(&joined(samples));
            }
        }
    }
    let text = families.into_iter().map(|(head, samples)| format!("{FAMILY}{head}{samples}"));
    text.chain(["# EOF\n".to_owned()]).collect()
}

/// Milliseconds as seconds, for histograms.
pub(crate) fn seconds(ms: u64) -> f64 {
    f64::from(u32::try_from(ms).unwrap_or(u32::MAX)) / 1_000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_of_several_clusters_stand_in_one_text_with_each_family_once() {
        let boards = [Board::at_place(0), Board::at_place(1)];
        boards[1].metrics.slot.set(7);
        let text = joined_metrics(boards.iter().map(Board::metrics_text));
        assert_eq!(text.matches("# TYPE hearth_dv_slot gauge").count(), 1, "{text}");
        assert!(text.contains("\nhearth_dv_slot 0\nhearth_dv_slot{place=\"1\"} 7\n"), "{text}");
        assert!(text.ends_with("# EOF\n") && text.matches("# EOF").count() == 1);
        let alone = boards[0].metrics_text();
        assert_eq!(joined_metrics([alone.clone()]), alone);
    }

    #[test]
    fn a_label_with_the_words_of_a_heading_is_no_heading() {
        let text = "# HELP a A.\n# TYPE a gauge\na{name=\"# HELP me\"} 1\n# EOF\n";
        assert_eq!(joined_metrics([text.to_owned()]), text);
        assert_eq!(joined_metrics([text.to_owned(), text.to_owned()]).matches("# HELP me").count(), 2);
    }
}
