//! The running node: one event loop around the duty engine.

mod client;
pub mod combine;
mod early;
mod echo;
mod event;
mod exchange;
mod exits;
mod fetch;
mod first_votes;
mod head;
mod inbound;
mod infosync;
mod kept;
mod monitor;
mod obol_api;
mod perform;
mod publish;
pub(crate) mod relays;
mod remembered;
mod report;
mod resolve;
mod schedule;
mod sign;
mod slots;
mod upkeep;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use beacon::{BeaconNodes, ChainInfo, ExpectedChain};
use chain::{PublicKeyBytes, Slot, UnixMillis};
use duty::{Clock, Duty, Engine, Output, Saved};
use ipc::Problem;
use obol::consensus::Seal;
use obol::{Host, HostConfig, HostEvent, HostHandle};
use tokio::sync::{mpsc, watch};

use crate::board::Board;
use crate::clock::{ClockGuard, Trust};
use crate::config::Config;
use crate::journal::{Found, Journal};
use crate::monitoring::{Identity, Monitoring, Readiness};
use crate::obol_network::ObolNetwork;
use crate::setup::{self, Membership};
use crate::signer::Signer;
use crate::store::{Forgotten, PinnedChain, Store, StoreError};
use crate::validator_client;

pub(crate) use event::Event;

/// The status is made anew, the clocks compared and everything late looked at this often.
const PULSE_MS: u64 = 1_000;
/// News reach the page this soon. During a slot's work there is always news, and each look at everything costs.
const NEWS_MS: u64 = 300;
/// Pulses are at least this far apart.
const MIN_PULSE_MS: u64 = 2;
/// Beacon nodes are examined this often.
const EXAMINE_EVERY: Duration = Duration::from_secs(3);
/// The signer is asked this often what it holds.
const ASK_SIGNER_EVERY: Duration = Duration::from_secs(5);
/// A failed start of the peer-to-peer host is tried again this often.
const HOST_RETRY: Duration = Duration::from_secs(1);
/// A broken journal is repaired this often.
const REPAIR_EVERY: Duration = Duration::from_secs(1);
/// The journal's key for "no duty of this slot or an earlier one is done"; no duty has this number.
const SILENCE: u8 = 0;
/// Slots after which no duty of before is alive any more, on any chain.
const SILENCE_KEPT: u64 = 1_024;
/// Events of our own tasks waiting for the loop. They are few; the bound only catches a bug.
const EVENTS: usize = 4_096;
/// How long a decision waits for our own beacon node's view.
const VIEW_PATIENCE_MS: u64 = 2_000;
/// What becomes of a decision when no view comes. The others may all follow one beacon node that is on a wrong chain.
const UNKNOWN_VIEW: duty::UnknownView = duty::UnknownView::Refuse;
/// Version of the reference whose wire we speak.
pub(crate) const CHARON_VERSION: &str = "v1.10.3";

/// What a node needs from the outside.
pub struct Surroundings {
    /// The configuration.
    pub config: Config,
    /// The state directory.
    pub store: Store,
    /// Where to report.
    pub board: Arc<Board>,
    /// The owner's wishes about exits.
    pub desk: Arc<crate::exits::Desk>,
    /// Turns `true` when the node has to end.
    pub stop: watch::Receiver<bool>,
    /// The watchdog's questions.
    pub alive: mpsc::Receiver<tokio::sync::oneshot::Sender<()>>,
}

/// A member of a cluster.
pub(crate) struct Node {
    config: Config,
    store: Store,
    board: Arc<Board>,
    membership: Membership,
    validators: Arc<BTreeSet<PublicKeyBytes>>,
    operators: Vec<cluster::IdentityPublicKey>,
    beacon: BeaconNodes,
    signer: Signer,
    events: mpsc::Sender<Event>,
    started: Instant,
    clock: ClockGuard,
    host: Option<HostHandle>,
    host_problem: Option<Problem>,
    host_tried: Option<Instant>,
    relays: Option<relays::Relays>,
    monitoring: Monitoring,
    readiness: Readiness,
    examined: Option<Instant>,
    examining: bool,
    chain_problem: Option<Problem>,
    shares_asked: Option<Instant>,
    shares: report::Shares,
    peers: BTreeMap<qbft::Member, report::Peer>,
    own_identity_seen: Option<Instant>,
    /// What members are told that is sent in their name.
    echo: echo::Echo,
    /// When a member last said that something is sent in ours.
    our_name_heard: BTreeMap<qbft::Member, Instant>,
    /// What members have signed last.
    last_votes: remembered::LastVotes,
    /// Whom the first vote waits for.
    listening: remembered::Listening,
    liars: BTreeMap<qbft::Member, Instant>,
    combining: combine::Combining,
    duties: resolve::Duties,
    infosync: infosync::InfoSync,
    exits: exits::Exits,
    /// Only when the owner wants it.
    obol_api: Option<obol_api::Service>,
    kept: kept::Kept,
    /// The block to vote for.
    head: head::Head,
    /// Partial signatures from before the chain was known.
    early: early::Early,
    /// Who signs in the place of the signer, if somebody does.
    client: Option<client::Client>,
    running: Option<Running>,
    /// Events for the engine that came up while another one was being dealt with.
    queued: VecDeque<duty::Event<Seal>>,
    stepping: bool,
    repair_tried: Option<Instant>,
    /// When the last pulse was.
    pulsed: UnixMillis,
    /// Since when something has happened that the status does not show yet.
    news: Option<UnixMillis>,
}

/// What exists once the chain is known.
pub(crate) struct Running {
    chain: Arc<ChainInfo>,
    /// When duties began in this run.
    since: UnixMillis,
    engine: Engine<ObolNetwork>,
    journal: Journal,
    trusted: Option<Clock>,
    /// The slots that have begun.
    slots: slots::Slots,
    /// Restored duties of slots that are past: they are scheduled again when the duties of their epoch are known.
    restored: BTreeSet<Duty>,
    /// No duty of this slot or an earlier one is done: what we said about them is forgotten.
    silent_until: Option<Slot>,
    /// Later slots whose selections the engine has been handed, as their duties are known now.
    prepared: BTreeSet<Slot>,
    /// Our partial signatures as sent, for members that connect late.
    sent_partials: BTreeMap<Duty, Vec<Arc<[u8]>>>,
    /// What the signer must not be asked for.
    first_votes: first_votes::FirstVotes,
}

/// Why a node cannot even begin.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A beacon node address of the stored cluster is not usable.
    #[error(transparent)]
    Beacon(#[from] beacon::ConfigError),
    /// The state directory cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The state belongs to another cluster, or to another member of this one.
    #[error("what this box remembers belongs to another cluster or another member of it")]
    OtherCluster,
}

/// Runs until told to stop.
pub async fn run(membership: Membership, around: Surroundings) -> Result<(), StartError> {
    let Surroundings { config, store, board, desk, mut stop, mut alive } = around;
    let pinned = store.load_chain()?;
    if pinned.as_ref().is_some_and(|chain| !chain.is_of(&membership)) {
        return Err(StartError::OtherCluster);
    }
    let expected = expected_chain(&membership, pinned.as_ref());
    let beacon = setup::beacon_nodes(&membership, config.beacon.into(), expected)?;
    let (events, mut inbox) = mpsc::channel(EVENTS);
    let (monitoring, registry) = Monitoring::new(&identity(&membership, &config));
    board.watch(registry);
    let mut chain_events = beacon.events();
    let obol_api = obol_api::Service::of(membership.obol_api, &config.obol_api);
    let others = membership.view.operators.len().saturating_sub(1);
    let mut node = Node {
        clock: ClockGuard::new(config.clock.max_offset_ms, others),
        validators: Arc::new(membership.keys.keys().copied().collect()),
        operators: membership.view.operators.iter().map(|operator| operator.public_key).collect(),
        signer: Signer::new(&config.signer_socket),
        config,
        store,
        board,
        membership,
        beacon,
        events,
        started: Instant::now(),
        host: None,
        host_problem: None,
        host_tried: None,
        relays: None,
        monitoring,
        readiness: Readiness::default(),
        examined: None,
        examining: false,
        chain_problem: None,
        shares_asked: None,
        shares: report::Shares::Unknown,
        peers: BTreeMap::new(),
        own_identity_seen: None,
        echo: echo::Echo::default(),
        our_name_heard: BTreeMap::new(),
        last_votes: remembered::LastVotes::default(),
        listening: remembered::Listening::default(),
        liars: BTreeMap::new(),
        combining: combine::Combining::default(),
        duties: resolve::Duties::default(),
        infosync: infosync::InfoSync::default(),
        exits: exits::Exits::new(desk),
        obol_api,
        kept: kept::Kept::default(),
        head: head::Head::default(),
        early: early::Early::default(),
        client: None,
        running: None,
        queued: VecDeque::new(),
        stepping: false,
        repair_tried: None,
        pulsed: UnixMillis(0),
        news: None,
    };
    let mut host_events: Option<mpsc::Receiver<HostEvent>> = None;
    tracing::info!(cluster = %node.membership.view.name, share_index = node.membership.share_index, "serving the cluster");
    node.show_validators();
    // Ends with this function.
    let mut serving = tokio::task::JoinSet::new();
    if let ipc::Signing::ValidatorClient { listen } = node.membership.signing {
        let client = client::Client::default();
        let link = client.link(node.events.clone());
        let requests = Arc::clone(client.requests());
        node.client = Some(client);
        let (membership, beacon) = (node.membership.clone(), node.beacon.clone());
        serving.spawn(validator_client::run(listen, membership, beacon, link, requests));
    }
    node.pulse();
    let mut wait = node.until_next_wake();
    loop {
        if let Some(receiver) = node.start_host() {
            host_events = Some(receiver);
        }
        let wake = tokio::time::Instant::now() + wait;
        let event = tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => return Ok(()),
            Some(question) = alive.recv() => Event::Alive(question),
            Some(event) = inbox.recv() => event,
            () = tokio::time::sleep_until(wake) => Event::Tick,
            // Before the members, who may send as much as they like: heads and reorganisations do not wait for them.
            Some(event) = chain_events.recv() => Event::Chain(event),
            event = receive(&mut host_events) => match event {
                Some(event) => Event::Host(event),
                None => {
                    host_events = None;
                    node.host_stopped();
                    Event::Tick
                }
            },
        };
        node.handle(event);
        // However many events wait: time is not starved by them.
        wait = node.until_next_wake();
        if wait.is_zero() {
            node.pulse();
            wait = node.until_next_wake();
        }
    }
}

/// The next event of the host; `None` when it has stopped.
async fn receive(events: &mut Option<mpsc::Receiver<HostEvent>>) -> Option<HostEvent> {
    match events {
        Some(receiver) => receiver.recv().await,
        None => std::future::pending().await,
    }
}

/// What is known about the cluster's chain: from the lock, from public knowledge, from what was served before.
pub(crate) fn expected_chain(membership: &Membership, pinned: Option<&PinnedChain>) -> ExpectedChain {
    let fork_version = membership.view.fork_version;
    let public = cluster::Network::by_fork_version(fork_version);
    let pinned_root = pinned.map(|chain| chain.genesis_validators_root);
    let pinned_time = pinned.map(|chain| chain.genesis_time);
    ExpectedChain {
        fork_version: Some(fork_version),
        genesis_validators_root: pinned_root
            .or_else(|| public.as_ref().and_then(cluster::Network::genesis_validators_root)),
        genesis_time_s: pinned_time.or_else(|| public.as_ref().map(|network| network.genesis_time)),
        // Of a private chain nobody but a node of the owner's says them.
        timing: public.as_ref().and_then(cluster::Network::timing),
    }
}

/// What the metrics of this cluster are labelled with.
fn identity(membership: &Membership, config: &Config) -> Identity {
    let view = &membership.view;
    let networks = config.custom_networks();
    let known = networks.iter().find(|network| network.genesis_fork_version == view.fork_version);
    let network = known.cloned().or_else(|| cluster::Network::by_fork_version(view.fork_version));
    Identity {
        hash: hex::encode(view.lock_hash).chars().take(7).collect(),
        cluster: view.name.clone(),
        network: network.map_or_else(|| "unknown".to_owned(), |network| network.name),
        peer: membership.name_of(membership.me()).to_owned(),
        nickname: config.p2p.nickname.clone(),
        version: CHARON_VERSION.to_owned(),
    }
}

/// The wall clock. Slots are wall-clock times; whether it may be believed is [`ClockGuard`]'s business.
pub(crate) fn wall() -> UnixMillis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMillis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

impl Node {
    /// Takes one event. Never waits for anything but the journal's disk.
    fn handle(&mut self, event: Event) {
        self.news.get_or_insert(wall());
        // Before anything is done by a clock that was set a moment ago.
        self.look_at_clock();
        match event {
            Event::Tick => {} // The loop looks at the time after every event.
            Event::Host(event) => self.on_host(event),
            Event::Chain(event) => self.on_chain(event),
            Event::BeaconExamined => self.on_beacon_examined(),
            Event::Validators(result) => self.on_validators(result),
            Event::Duties(epoch, result) => self.on_duties(epoch, result),
            Event::Proposers(epoch, result) => self.on_proposers(epoch, result),
            Event::SyncDuties(epoch, result) => self.on_sync_duties(epoch, result),
            Event::Shares(result) => self.on_shares(result),
            Event::RememberedTold(witness) => self.on_remembered_told(witness),
            Event::RememberedUntold(witness, why) => self.on_remembered_untold(witness, why),
            Event::ChainMarks(marks) => self.on_chain_marks(marks),
            Event::HeadVote(vote) => self.on_head_vote(vote),
            Event::Fetched(duty, result) => self.step(duty::Event::Fetched { duty, result }),
            Event::Signed(duty, results) => self.on_signed(duty, results),
            Event::Combined(duty, combined) => self.on_combined(duty, combined),
            Event::Published(duty, result) => self.step(duty::Event::Published { duty, result }),
            Event::Client(question) => self.on_question(question),
            Event::ClientSigned(duty) => self.on_client_signed(duty),
            Event::Priority(duty, member, answer) => self.on_priority_answer(duty, member, answer),
            Event::ExitSigned(validator, message, result) => self.on_exit_signed(validator, message, result),
            Event::ExitPublished(validator, message, result) => {
                self.on_exit_published(validator, message, result);
            }
            Event::ObolApi(call, answer) => self.on_obol_api(&call, answer),
            // Whoever asked has given up waiting: fine.
            Event::Alive(answer) => drop(answer.send(())),
        }
        self.answer_client();
    }

    fn monotonic_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// How long nothing is due; zero when something is.
    fn until_next_wake(&self) -> Duration {
        let now = wall();
        if now < self.pulsed {
            return Duration::ZERO; // The clock was set back.
        }
        let news = self.news.map(|since| since.saturating_add(NEWS_MS));
        let engine = self.running.as_ref().and_then(|running| running.engine.next_wake());
        // While the clock is not trusted no slot begins, so none is waited for.
        let trusted = self.running.as_ref().filter(|running| running.trusted == Some(Clock::Trusted));
        let slot = trusted.map(|running| {
            let timing = &running.chain.timing;
            timing.start_of(running.slots.last().map_or(Slot(0), |slot| slot.saturating_add(1)))
        });
        // A slot or a deadline that stays in the past for whatever reason must not become a busy loop.
        let soonest = self.pulsed.saturating_add(MIN_PULSE_MS);
        let due = [news, engine, slot, self.client_wake()].into_iter().flatten().map(|at| at.max(soonest));
        let due = due.chain([self.pulsed.saturating_add(PULSE_MS)]).min().unwrap_or(now);
        Duration::from_millis(due.0.saturating_sub(now.0))
    }

    /// Time passed: everything that is due.
    fn pulse(&mut self) {
        let now = wall();
        self.pulsed = now;
        self.look_at_clock();
        self.repair_journal();
        self.examine_beacon_nodes();
        self.ask_what_signer_holds();
        self.update_trust();
        self.on_slot(now);
        self.client_pulse(now);
        self.infosync_due(now);
        self.step(duty::Event::Tick);
        self.pursue_exits();
        self.call_obol_api();
        self.report();
        self.news = None;
    }

    fn look_at_clock(&mut self) {
        let (wall, monotonic_ms) = chain::read_together(wall, || self.monotonic_ms());
        if let Some(by_ms) = self.clock.look(wall, monotonic_ms) {
            tracing::warn!(by_ms, "the clock was set; nothing is signed until another clock confirms it");
            self.update_trust();
        }
    }

    fn repair_journal(&mut self) {
        let Some(running) = &mut self.running else { return };
        if !running.journal.is_broken() || self.repair_tried.is_some_and(|at| at.elapsed() < REPAIR_EVERY) {
            return;
        }
        self.repair_tried = Some(Instant::now());
        if let Err(error) = tokio::task::block_in_place(|| running.journal.repair()) {
            tracing::warn!(error = &error as &dyn std::error::Error, "the journal still cannot be written");
        }
    }

    fn host_stopped(&mut self) {
        tracing::error!("the connections to the other members ended unexpectedly; they are set up again");
        self.host = None;
        self.relays = None;
        for peer in self.peers.values_mut() {
            peer.connected = false;
        }
    }

    fn examine_beacon_nodes(&mut self) {
        if self.examining || self.examined.is_some_and(|at| at.elapsed() < EXAMINE_EVERY) {
            return;
        }
        self.examining = true;
        self.examined = Some(Instant::now());
        let beacon = self.beacon.clone();
        self.spawn(async move {
            beacon.refresh().await;
            Event::BeaconExamined
        });
    }

    fn on_beacon_examined(&mut self) {
        self.examining = false;
        // The clock furthest from ours among the nodes that can be used.
        let offsets =
            self.beacon.statuses().into_iter().filter(|status| status.health == beacon::Health::Ready);
        self.clock.beacon(
            offsets.filter_map(|status| status.clock).max_by_key(|offset| offset.estimate_ms().abs()),
        );
        if let Some(chain) = self.beacon.chain() {
            match &mut self.running {
                None => self.begin(&chain),
                Some(running) if running.chain != chain => {
                    // The same chain, with other forks to come.
                    tracing::info!(forks = ?chain.schedule.forks(), "the beacon node knows other forks to come");
                    let network = network_of(&chain);
                    running.engine.set_network(network);
                    running.chain = chain;
                }
                Some(_) => {}
            }
        }
        self.update_trust();
    }

    /// The chain is known: from here on duties can be done.
    fn begin(&mut self, chain: &Arc<ChainInfo>) {
        let pinned = PinnedChain {
            genesis_validators_root: chain.genesis_validators_root,
            genesis_time: chain.genesis_time_s,
            lock_hash: Some(hex::encode(self.membership.view.lock_hash)),
            share_index: Some(self.membership.share_index),
        };
        // What was said before counts from now on, so now must be right. Asked again with the next look at the beacon node.
        if self.clock.trust(self.monotonic_ms()) != Trust::Trusted {
            return;
        }
        let now = chain.timing.slot_at(wall());
        let opened = tokio::task::block_in_place(|| {
            // Pinned before the first duty, so that no other chain can ever slip in.
            let before = self.store.load_chain()?;
            let lost = self.store.load_forgotten()?;
            if now.is_none() && (before.is_some() || lost.is_some()) {
                return Ok(None); // There is no slot yet up to which we could be silent.
            }
            let silence = now.map(|slot| ((silence_from(slot, lost), SILENCE), vec![1]));
            let path = self.store.journal_path();
            // A chain that was served has left a journal. Without it, what we said is forgotten.
            let must_exist = before.is_some() || lost.is_some();
            let opened = Journal::open(&path, must_exist, silence.clone())
                .map_err(|source| StoreError::Io { doing: "open", path, source })?;
            if before.as_ref() != Some(&pinned) {
                self.store.save_chain(&pinned)?;
            }
            Ok::<_, StoreError>(Some((opened, lost, silence)))
        });
        let ((mut journal, found), lost, silence) = match opened {
            Ok(Some(opened)) => opened,
            Ok(None) => return,
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "cannot start doing duties");
                self.chain_problem = Some(report::disk_problem(&error.to_string()));
                return;
            }
        };
        self.chain_problem = None;
        let size = match qbft::Size::new(self.membership.view.operators.len()) {
            Ok(size) => size,
            Err(error) => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "the cluster has an impossible size"
                );
                return; // Checked at setup.
            }
        };
        let (restored, readable) = restore(&journal);
        let forgotten = found == Found::Damaged || !readable || lost.is_some();
        if forgotten {
            tracing::warn!("the journal was damaged: duties of past slots are left to the other members");
            if let Some(silence) = silence
                && let Err(error) = tokio::task::block_in_place(|| journal.append(&[silence]))
            {
                self.chain_problem = Some(report::disk_problem(&error.to_string()));
                return;
            }
            // The silence is durable, and only now is its reason forgotten.
            if let Err(error) = tokio::task::block_in_place(|| self.store.forgotten_is_settled()) {
                self.chain_problem = Some(report::disk_problem(&error.to_string()));
                return;
            }
        }
        let silent_until = silent_until(&mut journal, now);
        let settings = duty::Settings {
            timing: chain.timing,
            size,
            me: self.membership.me(),
            threshold: usize::from(self.membership.view.threshold),
            unknown_view: UNKNOWN_VIEW,
            view_patience_ms: VIEW_PATIENCE_MS,
        };
        let network = network_of(chain);
        tracing::info!(network = %chain.network, restored = restored.len(), "the chain is known; duties begin");
        self.running = Some(Running {
            chain: Arc::clone(chain),
            since: wall(),
            restored: restored.keys().copied().collect(),
            engine: Engine::new(settings, network, restored),
            journal,
            trusted: None,
            slots: slots::Slots::default(),
            silent_until,
            prepared: BTreeSet::new(),
            sent_partials: BTreeMap::new(),
            first_votes: first_votes::FirstVotes::default(),
        });
        for (sender, bytes) in self.early.take() {
            self.on_partials(sender, &bytes);
        }
    }

    fn update_trust(&mut self) {
        let trust = self.clock.trust(self.monotonic_ms());
        let clock = if trust == Trust::Trusted { Clock::Trusted } else { Clock::Untrusted };
        let changed = match &mut self.running {
            Some(running) => running.trusted.replace(clock) != Some(clock),
            None => false,
        };
        if changed {
            match clock {
                Clock::Trusted => tracing::info!("the clock is trusted"),
                Clock::Untrusted => tracing::error!(?trust, "the clock is not trusted: nothing is signed"),
            }
            self.step(duty::Event::Clock(clock));
        }
    }

    /// Gives the engine one event and does what it wants. An event that comes up while this is being done waits until all
    /// of it is done.
    fn step(&mut self, event: duty::Event<Seal>) {
        if self.running.is_none() {
            return;
        }
        self.queued.push_back(event);
        if std::mem::replace(&mut self.stepping, true) {
            return;
        }
        while let Some(event) = self.queued.pop_front() {
            let Some(running) = &mut self.running else { break };
            let mut out = Vec::new();
            if let Err(refusal) = running.engine.step(wall(), event, &mut out) {
                tracing::debug!(%refusal, "the engine did not take an event");
            }
            self.perform(out);
        }
        self.stepping = false;
    }

    /// Starts the peer-to-peer host when it does not run.
    fn start_host(&mut self) -> Option<mpsc::Receiver<HostEvent>> {
        if self.host.is_some() || self.host_tried.is_some_and(|at| at.elapsed() < HOST_RETRY) {
            return None;
        }
        self.host_tried = Some(Instant::now());
        let view = &self.membership.view;
        let started = Host::spawn(HostConfig {
            identity: self.membership.identity.secret_bytes().clone(),
            listen: self.config.p2p.listen.clone(),
            external: self.config.p2p.external(),
            members: self.membership.members.clone(),
            accepts: obol::host::Accepts::RunMode,
            info: obol::host::OwnInfo {
                charon_version: CHARON_VERSION.to_owned(),
                lock_hash: view.lock_hash,
                git_hash: "unknown".to_owned(),
                nickname: self.config.p2p.nickname.clone(),
                builder_api_enabled: self.builder_api(),
            },
        });
        match started {
            Ok((handle, events)) => {
                let hash = hex::encode(self.membership.view.lock_hash).chars().take(7).collect();
                let cluster = relays::Cluster { hash, uuid: self.membership.uuid.clone() };
                self.relays = Some(relays::Relays::start(&self.membership.relays, &cluster, &handle));
                self.host = Some(handle);
                self.host_problem = None;
                Some(events)
            }
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "cannot talk to the other members");
                self.host_problem = Some(Problem::new(
                    "p2p_failed",
                    crate::setup::sentence(&error.to_string()),
                    "Free the port or change `p2p.listen`; this box tries again by itself.",
                ));
                None
            }
        }
    }

    /// Runs something that ends in an event.
    fn spawn(&self, work: impl Future<Output = Event> + Send + 'static) {
        let events = self.events.clone();
        tokio::spawn(async move {
            let event = work.await;
            // The loop is gone when the node ends.
            drop(events.send(event).await);
        });
    }
}

/// The chain as the engine's network adapter needs it.
fn network_of(chain: &ChainInfo) -> ObolNetwork {
    ObolNetwork {
        timing: chain.timing,
        schedule: chain.schedule.clone(),
        genesis_validators_root: chain.genesis_validators_root,
    }
}

/// What the journal holds for duties that are not over. The flag says whether all of it could be read.
fn restore(journal: &Journal) -> (BTreeMap<Duty, Saved<Seal>>, bool) {
    let mut restored = BTreeMap::new();
    let mut readable = true;
    for ((slot, number), payload) in journal.live().filter(|((_, number), _)| *number != SILENCE) {
        let kind = duty::DutyKind::from_number(i64::from(number));
        match (kind, serde_json::from_slice::<Saved<Seal>>(payload)) {
            (Ok(kind), Ok(saved)) => drop(restored.insert(Duty::new(Slot(slot), kind), saved)),
            (Ok(_) | Err(_), _) => readable = false,
        }
    }
    (restored, readable)
}

/// The slot up to which nothing is said when words may be lost: now, and what a memory that nobody can assign speaks of. One
/// that speaks of much later slots is of another chain.
fn silence_from(now: Slot, lost: Option<Forgotten>) -> u64 {
    let spoken = lost.map_or(0, |lost| lost.slot);
    if spoken <= now.0.saturating_add(SILENCE_KEPT) { spoken.max(now.0) } else { now.0 }
}

/// Until which slot nothing is said after damage, now or before an earlier restart. What is over is forgotten, and so is a
/// silence of slots so far ahead that a wrong clock must have set it: by such a clock nothing was said.
fn silent_until(journal: &mut Journal, now: Option<Slot>) -> Option<Slot> {
    let silences: BTreeSet<u64> =
        journal.live().filter_map(|((slot, number), _)| (number == SILENCE).then_some(slot)).collect();
    let ahead = |slot: u64| now.is_some_and(|now| slot > now.0.saturating_add(SILENCE_KEPT));
    let latest = silences.iter().rev().copied().find(|slot| !ahead(*slot));
    let now = now.map_or(0, |now| now.0);
    for slot in silences {
        if Some(slot) != latest || slot.saturating_add(SILENCE_KEPT) < now {
            journal.forget((slot, SILENCE));
        }
    }
    latest.map(Slot)
}

/// Outputs of the engine.
pub(crate) type Outputs = Vec<Output<Seal>>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lost_words_silence_us_up_to_the_latest_of_their_slots() {
        let lost = |slot| Some(Forgotten { slot });
        assert_eq!(silence_from(Slot(100), None), 100);
        assert_eq!(silence_from(Slot(100), lost(90)), 100);
        assert_eq!(silence_from(Slot(100), lost(120)), 120);
        assert_eq!(silence_from(Slot(100), lost(100 + SILENCE_KEPT)), 100 + SILENCE_KEPT);
        assert_eq!(silence_from(Slot(100), lost(101 + SILENCE_KEPT)), 100, "another chain's");
    }

    #[test]
    fn a_silence_is_kept_while_it_matters() {
        let dir = tempfile::tempdir().unwrap();
        let silences = |slots: &[u64], now: Option<u64>| {
            let path = dir.path().join("journal");
            let _ = std::fs::remove_file(&path);
            let (mut journal, _) = Journal::open(&path, false, None).unwrap();
            let records: Vec<_> = slots.iter().map(|slot| ((*slot, SILENCE), vec![1])).collect();
            journal.append(&records).unwrap();
            let until = silent_until(&mut journal, now.map(Slot)).map(|slot| slot.0);
            (until, journal.live().map(|((slot, _), _)| slot).collect::<Vec<_>>())
        };
        assert_eq!(silences(&[], Some(9)), (None, vec![]));
        assert_eq!(silences(&[7, 12], Some(9)), (Some(12), vec![12]));
        assert_eq!(silences(&[7, 12], None), (Some(12), vec![12]));
        assert_eq!(silences(&[12], Some(13 + SILENCE_KEPT)), (Some(12), vec![]));
        // A clock that was a year ahead has said nothing, and does not silence us for a year.
        assert_eq!(silences(&[12, 3_000_000], Some(9)), (Some(12), vec![12]));
        assert_eq!(silences(&[3_000_000], Some(9)), (None, vec![]));
    }
}
