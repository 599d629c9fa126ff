//! The checks before a box joins a cluster, and whenever its owner wants to know (`charon alpha test` asks the same). What a
//! value means is [`judge`]'s business; here it is measured, one part after the other, so that no part disturbs another.
//!
//! Bounded: each part has its own limit, all together two minutes. Nothing is contacted but the beacon nodes and what the
//! owner has named.

mod judge;
mod measure;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ipc::Problem;
use ipc::preflight::{Finding, PreflightReport, PreflightRequest, PreflightState, Subject};

use crate::board::Board;
use crate::store::Store;

pub use judge::{About, Measure, judge};

/// More of them are not looked at.
const MAX_ADDRESSES: usize = 8;
/// Everything.
const WITHIN: Duration = Duration::from_secs(120);

/// The one run, and what it found.
#[derive(Debug)]
pub struct Preflight {
    board: Arc<Board>,
    store: Store,
    report: Mutex<PreflightReport>,
}

impl Preflight {
    /// None has run yet.
    pub fn new(board: Arc<Board>, store: Store) -> Self {
        let report = PreflightReport {
            state: PreflightState::Never,
            done: 0,
            of: 0,
            began_ms: None,
            findings: Vec::new(),
        };
        Self { board, store, report: Mutex::new(report) }
    }

    fn report_now(&self) -> MutexGuard<'_, PreflightReport> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was found so far.
    pub fn report(&self) -> PreflightReport {
        self.report_now().clone()
    }

    /// Begins, unless one is under way.
    pub fn begin(self: &Arc<Self>, request: PreflightRequest) -> Result<PreflightReport, Problem> {
        let lists = [&request.beacon_nodes, &request.relays, &request.internet];
        if lists.iter().any(|list| list.len() > MAX_ADDRESSES) {
            return Err(Problem::new(
                "too_many_addresses",
                format!("More than {MAX_ADDRESSES} addresses of one kind are named."),
                "Name fewer.",
            ));
        }
        let mut report = self.report_now();
        if report.state == PreflightState::Running {
            return Ok(report.clone()); // Whoever asks twice sees the same one.
        }
        let now = crate::node::wall();
        *report = PreflightReport {
            state: PreflightState::Running,
            done: 0,
            of: 7,
            began_ms: Some(now.0),
            findings: Vec::new(),
        };
        let begun = report.clone();
        drop(report);
        let preflight = Arc::clone(self);
        tokio::spawn(async move {
            if tokio::time::timeout(WITHIN, preflight.run(request)).await.is_err() {
                tracing::warn!("the preflight checks took too long and were ended");
            }
            preflight.report_now().state = PreflightState::Done;
        });
        Ok(begun)
    }

    async fn run(&self, request: PreflightRequest) {
        let status = self.board.status();
        self.found(vec![measure::clock(&status)]);
        self.found(measure::memory());
        self.found(measure::peers(&status));
        let dir = self.store.dir().to_owned();
        let disk = tokio::task::spawn_blocking(move || measure::disk(&dir)).await;
        self.found(disk.unwrap_or_default());

        let mut nodes = self.store.load_cluster().ok().flatten().map(|setup| setup.beacon_nodes.clone());
        let named = nodes.get_or_insert_default();
        named.extend(request.beacon_nodes);
        named.truncate(MAX_ADDRESSES);
        let mut findings = Vec::new();
        for url in named.iter() {
            findings.extend(measure::beacon_node(url, &status).await);
        }
        if findings.is_empty() {
            let why = "No beacon node is named: name the one this box shall use.";
            findings.push(measure::not_named(Subject::BeaconNode, why));
        }
        self.found(findings);

        let mut findings = Vec::new();
        for url in &request.relays {
            findings.push(measure::relay(url).await);
        }
        if findings.is_empty() {
            let why =
                "No relay is named, so none was looked at; without relays the box proposes its own blocks.";
            findings.push(measure::not_named(Subject::Relays, why));
        }
        self.found(findings);

        let mut findings = Vec::new();
        for url in &request.internet {
            findings.extend(measure::internet(url).await);
        }
        if findings.is_empty() {
            let why = "No address is named, so the line was not measured; this box contacts nobody unasked.";
            findings.push(measure::not_named(Subject::Internet, why));
        }
        self.found(findings);
    }

    fn found(&self, findings: Vec<Finding>) {
        let mut report = self.report_now();
        report.findings.extend(findings);
        report.done += 1;
    }
}
