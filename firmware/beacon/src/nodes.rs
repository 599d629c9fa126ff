//! The beacon nodes of one box, used as one.

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use chain::{Epoch, UnixMillis};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::sync::mpsc;

use crate::chain_info::{ChainInfo, ChainMismatch, ExpectedChain};
use crate::error::{BeaconError, Cause, ConfigError, RequestError};
use crate::events::{self, ChainEvent};
use crate::health::{EndpointStatus, Health, State};
use crate::http::{DateReading, Endpoint};
use crate::submit::Refusals;

/// A node is asked again for the chain's parameters this often: a new release brings forks to come.
const PARAMETERS_EVERY: Duration = Duration::from_secs(120);
/// Examinations in a row without anybody there, after which another node may have moved in.
const GONE_AFTER: u32 = 3;

/// How often a fallback is examined while it is not needed.
const FALLBACK_EVERY: Duration = Duration::from_secs(120);
/// A fallback that did not do is looked at again after this at the earliest.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// How often it is looked whether the events of fallbacks are needed.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// More beacon nodes than this would only cost requests.
pub const MAX_ENDPOINTS: usize = 8;

/// How patient we are with beacon nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// A read that takes longer has failed.
    pub read_ms: u64,
    /// A submission that takes longer has failed.
    pub submit_ms: u64,
    /// A read that takes longer is asked of the next endpoint too; the first good answer wins.
    pub hedge_ms: u64,
    /// A fallback that has shown within this time that it is on our chain need not show it again before it is used.
    pub fallback_fresh_ms: u64,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { read_ms: 2_000, submit_ms: 2_000, hedge_ms: 400, fallback_fresh_ms: 15_000 }
    }
}

/// The client. Cheap to clone; all clones share what is known about the endpoints.
#[derive(Debug, Clone)]
pub struct BeaconNodes {
    pub(crate) shared: Arc<Shared>,
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) nodes: Vec<Node>,
    pub(crate) timeouts: Timeouts,
    chain: Mutex<Chain>,
    /// Lists of which a part was refused while another node did not answer.
    pub(crate) refusals: Mutex<Refusals>,
}

#[derive(Debug, Default)]
struct Chain {
    expected: ExpectedChain,
    info: Option<Arc<ChainInfo>>,
    /// One of the owner's own nodes has told it. From then on fallbacks are compared with it and change nothing.
    is_told_by_first: bool,
}

#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) endpoint: Endpoint,
    /// Used only while none of the others can be (obol.md 8.9).
    pub(crate) is_fallback: bool,
    state: Mutex<State>,
    /// Who needs to know how a fallback does waits for the one who asks it.
    examining: tokio::sync::Mutex<()>,
}

/// What a node is wanted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    /// To be asked: it must follow the chain, too.
    Ask,
    /// To be given something signed, or a client's request as it is: one that is behind passes the first on and says so to the other.
    Submit,
}

impl Node {
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_ready(&self) -> bool {
        self.state().health == Health::Ready
    }

    fn was_examined_within(&self, time: Duration) -> bool {
        self.state().examined.is_some_and(|at| at.elapsed() < time)
    }

    /// Whether it is known to be on our chain, and not only since some time ago.
    fn has_shown_its_chain_within(&self, time: Duration) -> bool {
        let state = self.state();
        state.same_chain && state.confirmed.is_some_and(|at| at.elapsed() < time)
    }

    pub(crate) fn note_date(&self, reading: Option<DateReading>) {
        if let Some(reading) = reading {
            self.state().skew.add(reading);
        }
    }
}

fn wall() -> UnixMillis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMillis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

impl BeaconNodes {
    /// Endpoints in the owner's order of preference. Opens no connection yet.
    pub fn new(urls: &[String], timeouts: Timeouts, expected: ExpectedChain) -> Result<Self, ConfigError> {
        Self::with_fallbacks(urls, &[], timeouts, expected)
    }

    /// The same with endpoints that are used only while none of the others can be.
    pub fn with_fallbacks(
        urls: &[String],
        fallbacks: &[String],
        timeouts: Timeouts,
        expected: ExpectedChain,
    ) -> Result<Self, ConfigError> {
        if urls.is_empty() {
            return Err(ConfigError::NoEndpoint);
        }
        let count = urls.len().saturating_add(fallbacks.len());
        if count > MAX_ENDPOINTS {
            return Err(ConfigError::TooMany(count, MAX_ENDPOINTS));
        }
        let node = |(url, is_fallback): (&String, bool)| {
            Ok(Node {
                endpoint: Endpoint::new(url)?,
                is_fallback,
                state: Mutex::new(State::new()),
                examining: tokio::sync::Mutex::new(()),
            })
        };
        let all = urls.iter().map(|url| (url, false)).chain(fallbacks.iter().map(|url| (url, true)));
        let nodes = all.map(node).collect::<Result<Vec<_>, ConfigError>>()?;
        let chain = Mutex::new(Chain { expected, ..Chain::default() });
        Ok(Self { shared: Arc::new(Shared { nodes, timeouts, chain, refusals: Mutex::default() }) })
    }

    /// The chain, once an endpoint on the expected chain has answered [`BeaconNodes::refresh`].
    pub fn chain(&self) -> Option<Arc<ChainInfo>> {
        self.chain_state().info.clone()
    }

    /// Every endpoint in configured order.
    pub fn statuses(&self) -> Vec<EndpointStatus> {
        let status = |node: &Node| {
            let state = node.state();
            EndpointStatus {
                endpoint: node.endpoint.name().to_owned(),
                health: state.health.clone(),
                version: state.version.clone(),
                clock: state.skew.offset(),
                is_fallback: node.is_fallback,
                peers: state.peers.and_then(|(_, count)| count),
            }
        };
        self.shared.nodes.iter().map(status).collect()
    }

    /// Whether at least one endpoint can be asked for duties.
    pub fn any_ready(&self) -> bool {
        self.shared.nodes.iter().any(Node::is_ready)
    }

    /// The software that the endpoint runs which is asked first.
    pub fn preferred_version(&self) -> Option<String> {
        let (first, _) = self.candidates();
        first.first().and_then(|node| node.state().version.clone())
    }

    /// Whether fallbacks do the work: one of them is ready and none of the others is.
    pub fn uses_fallback(&self) -> bool {
        !self.any_first_ready() && self.any_ready()
    }

    fn any_first_ready(&self) -> bool {
        self.shared.nodes.iter().any(|node| !node.is_fallback && node.is_ready())
    }

    /// Asks every endpoint who it is and how it does. Call it every few seconds: it is how endpoints come back. Fallbacks that
    /// are not needed are asked seldom: they may be somebody else's, or paid by the request.
    pub async fn refresh(&self) {
        self.refresh_those(|node| !node.is_fallback).await;
        let needed = !self.any_first_ready();
        // One that could not be used when it was last seen is not left alone as long.
        let pause = |node: &Node| if node.is_ready() { FALLBACK_EVERY } else { self.fresh() };
        self.refresh_those(|node| node.is_fallback && (needed || !node.was_examined_within(pause(node))))
            .await;
    }

    async fn refresh_those(&self, which: impl Fn(&Node) -> bool) {
        let mut checks: FuturesUnordered<_> =
            self.shared.nodes.iter().filter(|node| which(node)).map(|node| self.refresh_one(node)).collect();
        while checks.next().await.is_some() {}
    }

    /// Starts following the events of every endpoint, those of fallbacks while they do the work. The streams end when the
    /// receiver is dropped.
    pub fn events(&self) -> mpsc::Receiver<ChainEvent> {
        let (to, from) = mpsc::channel(64);
        for node in &self.shared.nodes {
            let (endpoint, to) = (node.endpoint.clone(), to.clone());
            if node.is_fallback {
                tokio::spawn(self.clone().follow_while_needed(endpoint, to));
            } else {
                tokio::spawn(events::follow(endpoint, self.shared.timeouts.read_ms, to));
            }
        }
        from
    }

    async fn follow_while_needed(self, fallback: Endpoint, to: mpsc::Sender<ChainEvent>) {
        let until = |needed: bool| {
            let nodes = self.clone();
            async move {
                while nodes.uses_fallback() != needed {
                    tokio::time::sleep(LOOK_EVERY).await;
                }
            }
        };
        while !to.is_closed() {
            tokio::select! {
                () = until(true) => {}
                () = to.closed() => return,
            }
            tokio::select! {
                () = events::follow(fallback.clone(), self.shared.timeouts.read_ms, to.clone()) => return,
                () = until(false) => {}
            }
        }
    }

    async fn refresh_one(&self, node: &Node) {
        let confirmed_before = {
            let mut state = node.state();
            state.examined = Some(Instant::now());
            state.confirmed
        };
        let mut shown = None;
        let health = match self.examine(node, &mut shown).await {
            Ok(health) => health,
            Err(error) => {
                let mut state = node.state();
                state.failed(&error);
                // It may have shown its chain this time, and failed at something else.
                if shown.is_none() && state.confirmed == confirmed_before {
                    state.confirmed = None;
                }
                if matches!(error.cause, Cause::Unreachable(_)) {
                    state.unreachable = state.unreachable.saturating_add(1);
                }
                // One slow answer does not make it another node; after an absence another one may be there.
                if state.unreachable >= GONE_AFTER {
                    state.same_chain = false;
                    state.told = None;
                }
                Health::Failing(error)
            }
        };
        let mut state = node.state();
        if std::mem::discriminant(&state.health) != std::mem::discriminant(&health) {
            let described = health.describe();
            tracing::info!(endpoint = node.endpoint.name(), state = %described, "beacon node state changed");
        }
        if health == Health::Ready {
            state.succeeded();
        }
        if !matches!(health, Health::Failing(_)) {
            state.unreachable = 0;
        }
        // Together: whoever finds that it has just shown its chain finds how it does now, and not two minutes ago.
        state.confirmed = shown.or(state.confirmed);
        state.health = health;
        state.finished = Some(Instant::now());
    }

    /// A fallback that was left alone for a while shows once more that it is on our chain before anything is asked of it or
    /// sent to it: another node may have taken its address over. And it must follow the chain before it is asked.
    pub(crate) async fn confirm(
        &self,
        node: &Node,
        wanted_for: Use,
        doing: &'static str,
    ) -> Result<(), RequestError> {
        if !node.is_fallback {
            return Ok(());
        }
        let asked = Instant::now();
        let is_fresh = node.has_shown_its_chain_within(self.fresh());
        if !is_fresh || (wanted_for == Use::Ask && !node.is_ready()) {
            let _others_wait = node.examining.lock().await;
            // What came of an examination that ended meanwhile holds for all who waited for it; and one that did not do a moment
            // ago is not asked with each request.
            let holds = |at: Instant| at >= asked || (is_fresh && at.elapsed() < ASK_AGAIN);
            if !node.state().finished.is_some_and(holds) {
                self.refresh_one(node).await;
            }
        }
        let (is_on_it, health) = {
            let state = node.state();
            (state.same_chain && state.confirmed.is_some(), state.health.clone())
        };
        if is_on_it && (wanted_for == Use::Submit || health == Health::Ready) {
            return Ok(());
        }
        Err(node.endpoint.fail(doing, Cause::NotUsable(health.describe())))
    }

    fn fresh(&self) -> Duration {
        Duration::from_millis(self.shared.timeouts.fallback_fresh_ms)
    }

    /// `shown` becomes when it was asked for the chain that it has shown, whatever comes afterwards.
    async fn examine(&self, node: &Node, shown: &mut Option<Instant>) -> Result<Health, RequestError> {
        let asked = Instant::now();
        if let Err(mismatch) = self.check_chain(node).await? {
            let mut state = node.state();
            state.same_chain = false;
            state.confirmed = None;
            state.told = None;
            return Ok(Health::WrongChain(mismatch));
        }
        *shown = Some(asked);
        node.state().same_chain = true;
        let health = self.fetch_sync_state(node).await?;
        self.count_peers(node).await;
        Ok(health)
    }

    /// The genesis is asked every time: another node may have taken the address over.
    async fn check_chain(&self, node: &Node) -> Result<Result<(), ChainMismatch>, RequestError> {
        let genesis = self.fetch_genesis(node).await?;
        if let Some(known) = self.chain()
            && let Err(mismatch) = known.check_genesis(&genesis)
        {
            return Ok(Err(mismatch));
        }
        let version = self.fetch_version(node).await?;
        let is_fresh = {
            let mut state = node.state();
            let same_version = state.version.replace(version.clone()) == Some(version);
            same_version && state.told.as_ref().is_some_and(|(at, _)| at.elapsed() < PARAMETERS_EVERY)
        };
        if is_fresh {
            return Ok(Ok(()));
        }
        let info = Arc::new(self.fetch_chain_info(node, &genesis).await?);
        if node.is_fallback
            && let Some(why) = self.not_from_a_fallback(&info)
        {
            return Err(node.endpoint.fail("asking for the genesis", Cause::NotUsable(why.to_owned())));
        }
        let checked = self.compare(node, &info);
        if checked.is_ok() {
            node.state().told = Some((Instant::now(), info));
            self.adopt_newest();
        }
        Ok(checked)
    }

    /// Why what a fallback tells is not used. It may be a stranger's, and is not the first to say which chain this is or when
    /// its slots start: that a node, or the cluster, our memory and public knowledge must have said before.
    fn not_from_a_fallback(&self, told: &ChainInfo) -> Option<&'static str> {
        let chain = self.chain_state();
        if chain.info.is_some() {
            return None;
        }
        let ExpectedChain { genesis_validators_root, timing, .. } = &chain.expected;
        match (genesis_validators_root, timing) {
            (None, _) => Some("no beacon node of your own has told yet which chain this is"),
            (Some(_), None) => Some("no beacon node of your own has told yet when this chain's slots start"),
            (Some(_), Some(timing)) if *timing != told.timing => {
                Some("its slots start at other times than this chain's")
            }
            (Some(_), Some(_)) => None,
        }
    }

    /// Whether what a node told is the chain that is served. The first one that fits what is expected is; what only fallbacks
    /// have told gives way to what the first node of the owner's tells.
    fn compare(&self, node: &Node, told: &Arc<ChainInfo>) -> Result<(), ChainMismatch> {
        // A fallback does not vouch against a node of the owner's.
        let counts = |other: &Node| node.is_fallback || !other.is_fallback;
        let mut others =
            self.shared.nodes.iter().filter(|other| !std::ptr::eq(*other, node) && counts(other));
        let others_know = others.any(|other| other.state().told.is_some());
        let mut chain = self.chain_state();
        told.check(&chain.expected)?;
        let is_first_of_the_owner = !node.is_fallback && !chain.is_told_by_first;
        match &chain.info {
            None => {
                // From here on every endpoint must be on exactly this chain.
                chain.expected = told.as_expected(chain.expected.fork_version);
                chain.info = Some(Arc::clone(told));
            }
            // The timing of what runs already stays.
            Some(known) if is_first_of_the_owner && known.timing == told.timing => {
                chain.info = Some(Arc::clone(told));
            }
            Some(known) => {
                let now = told.timing.epoch_at(wall()).unwrap_or(Epoch(0));
                let is_only_compared = node.is_fallback && chain.is_told_by_first;
                known.check_past(told, now, !(others_know || is_only_compared))?;
            }
        }
        chain.is_told_by_first |= !node.is_fallback;
        Ok(())
    }

    /// Among what the endpoints on our chain say about forks to come, the most counts; among equals the owner's order.
    /// Fallbacks count only until a node of the owner's has told.
    fn adopt_newest(&self) {
        let mut newest: Option<Arc<ChainInfo>> = None;
        let only_first = self.chain_state().is_told_by_first;
        for node in self.shared.nodes.iter().filter(|node| !(only_first && node.is_fallback)) {
            let told = node.state().told.as_ref().map(|(_, info)| Arc::clone(info));
            if let Some(told) = told
                && newest
                    .as_ref()
                    .is_none_or(|newest| told.schedule.forks().len() > newest.schedule.forks().len())
            {
                newest = Some(told);
            }
        }
        let mut chain = self.chain_state();
        if let Some(newest) = newest
            && chain.info.as_ref() != Some(&newest)
        {
            chain.info = Some(newest);
        }
    }

    fn chain_state(&self) -> MutexGuard<'_, Chain> {
        self.shared.chain.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks the best endpoint; the next ones too when it fails or takes long. The first good answer wins. Fallbacks are asked
    /// when all others have failed, and not when one of them has answered with a refusal.
    pub(crate) async fn read<'a, T, F, Fut>(&'a self, doing: &'static str, ask: F) -> Result<T, BeaconError>
    where
        F: Fn(&'a Node) -> Fut,
        Fut: Future<Output = Result<T, RequestError>> + 'a,
    {
        let ask = &ask;
        let (first, mut fallbacks) = self.candidates();
        let mut waiting = first.into_iter();
        let request = |node: &'a Node| async move {
            match self.confirm(node, Use::Ask, doing).await {
                Ok(()) => (node, ask(node).await),
                Err(error) => (node, Err(error)),
            }
        };
        let Some(first) = waiting.next() else { return Err(self.none_ready(doing)) };
        let mut running = FuturesUnordered::new();
        running.push(request(first));
        let mut asked = 1;
        let mut answered = false;
        let hedge = Duration::from_millis(self.shared.timeouts.hedge_ms);
        loop {
            let ask_another = tokio::select! {
                finished = running.next() => match finished {
                    Some((node, Ok(value))) => {
                        node.state().succeeded();
                        return Ok(value);
                    }
                    Some((node, Err(error))) => {
                        node.state().failed(&error);
                        answered |= error.cause.is_an_answer();
                        if running.is_empty() && waiting.len() == 0 {
                            if answered || fallbacks.is_empty() {
                                return Err(BeaconError::AllFailed { last: error, asked });
                            }
                            waiting = std::mem::take(&mut fallbacks).into_iter();
                        }
                        true
                    }
                    None => return Err(self.none_ready(doing)),
                },
                () = tokio::time::sleep(hedge), if waiting.len() > 0 => true,
            };
            if ask_another && let Some(next) = waiting.next() {
                asked += 1;
                running.push(request(next));
            }
        }
    }

    /// Asks the best endpoint alone, and holds nothing against it: for what is asked before it is due.
    pub(crate) async fn read_early<'a, T, F, Fut>(
        &'a self,
        doing: &'static str,
        ask: F,
    ) -> Result<T, BeaconError>
    where
        F: FnOnce(&'a Node) -> Fut,
        Fut: Future<Output = Result<T, RequestError>> + 'a,
    {
        let (first, _) = self.candidates();
        let best = first.into_iter().find(|node| !node.is_fallback && node.is_ready());
        let best = best.ok_or_else(|| self.none_ready(doing))?;
        ask(best).await.map_err(|last| BeaconError::AllFailed { last, asked: 1 })
    }

    /// Whom to ask, and which fallbacks when all of those fail. Ready endpoints, the least failing first. If none is ready,
    /// those which just stopped answering may be tried.
    fn candidates(&self) -> (Vec<&Node>, Vec<&Node>) {
        let mut ready: [Vec<(u32, &Node)>; 2] = Default::default();
        let mut last_resort: [Vec<&Node>; 2] = Default::default();
        for node in &self.shared.nodes {
            let state = node.state();
            let rank = usize::from(node.is_fallback);
            match &state.health {
                Health::Ready => ready[rank].push((state.strikes, node)),
                Health::Failing(_) if state.same_chain => last_resort[rank].push(node),
                Health::Failing(_) | Health::Unknown | Health::Syncing { .. } | Health::WrongChain(_) => {}
            }
        }
        let [first, fallbacks] = if ready.iter().all(Vec::is_empty) {
            last_resort
        } else {
            ready.map(|mut ready| {
                ready.sort_by_key(|(strikes, _)| *strikes); // Stable: the owner's order holds among equals.
                ready.into_iter().map(|(_, node)| node).collect()
            })
        };
        if first.is_empty() { (fallbacks, first) } else { (first, fallbacks) }
    }

    /// Endpoints that a signed message may be sent to: all that are known to be on our chain. First those that it goes to,
    /// then the fallbacks, which get it when all of those fail.
    pub(crate) fn same_chain(&self) -> [Vec<usize>; 2] {
        let all = 0..self.shared.nodes.len();
        let on_it = all.filter(|index| self.shared.nodes[*index].state().same_chain);
        let (fallbacks, first): (Vec<usize>, Vec<usize>) =
            on_it.partition(|index| self.shared.nodes[*index].is_fallback);
        if self.any_first_ready() {
            return [first, fallbacks];
        }
        // None of the others is known to be there: no time is lost with waiting for them.
        [[first, fallbacks].concat(), Vec::new()]
    }

    pub(crate) fn none_ready(&self, doing: &'static str) -> BeaconError {
        let states = self
            .statuses()
            .into_iter()
            .map(|status| format!("{}: {}", status.endpoint, status.health.describe()));
        BeaconError::NoneReady { doing, states: states.collect::<Vec<_>>().join("; ") }
    }
}
