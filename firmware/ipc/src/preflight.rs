//! The checks before a box joins a cluster, and whenever its owner wants to know: what was measured, how good it is, and
//! what to do.
//!
//! `POST /v1/preflight` with a [`PreflightRequest`] begins, `GET /v1/preflight` answers a [`PreflightReport`] at any time.

use serde::{Deserialize, Serialize};

/// Path of both.
pub const PREFLIGHT_PATH: &str = "/v1/preflight";

/// What to look at besides the box itself, its members and its beacon nodes. Nothing that is not named here, or set by the
/// owner before, is ever contacted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PreflightRequest {
    /// Beacon nodes, before the box is in a cluster; later, the cluster's own are looked at.
    #[serde(default)]
    pub beacon_nodes: Vec<String>,
    /// Addresses of block relays, such as `https://relay.example`.
    #[serde(default)]
    pub relays: Vec<String>,
    /// An address that answers with some megabytes: how fast the line is. None: the box works without the internet.
    #[serde(default)]
    pub internet: Vec<String>,
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PreflightReport {
    /// How far it is.
    pub state: PreflightState,
    /// Parts done.
    pub done: u32,
    /// Parts in all.
    pub of: u32,
    /// When it began, unix milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub began_ms: Option<u64>,
    /// What was found so far.
    pub findings: Vec<Finding>,
}

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PreflightState {
    /// None was asked for since the start.
    Never,
    /// Under way.
    Running,
    /// Over.
    Done,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What it belongs to.
    pub subject: Subject,
    /// Stable word for what was measured, such as `ping`.
    pub code: String,
    /// Which one, such as a member's name; empty when there is only one.
    #[serde(default)]
    pub of: String,
    /// How good it is.
    pub verdict: Verdict,
    /// The measured value, for a person.
    pub measured: String,
    /// What it means and what to do, in one sentence.
    pub sentence: String,
}

/// What a finding belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Subject {
    /// The other members.
    Peers,
    /// The beacon nodes.
    BeaconNode,
    /// Block relays.
    Relays,
    /// The disk.
    Disk,
    /// The memory.
    Memory,
    /// The line to the internet.
    Internet,
    /// The clock.
    Clock,
}

/// How good it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Nothing to do.
    Pass,
    /// It works, and costs something now and then.
    Average,
    /// Duties are missed with it.
    Poor,
    /// It was not looked at; the sentence says why.
    Skipped,
}
