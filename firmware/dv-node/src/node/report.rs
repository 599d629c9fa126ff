//! What the owner is told: members, chain, duties, and every problem with its next step.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use beacon::{EndpointStatus, Health};
use chain::{Epoch, PublicKeyBytes, Slot};
use duty::{Duty, DutyKind, Outcome, Record};
use ipc::node::{
    self, BeaconNodeState, BeaconNodeStatus, ChainStatus, ClockState, ClockStatus, ClusterStatus,
    DutyOutcome, DutyReason, DutyRecord, NodeState, OperatorStatus, ValidatorStatus,
};
use ipc::{ClientError, NodeStatus, Problem};
use obol::peerinfo::Report;
use qbft::Member;

use super::{ASK_SIGNER_EVERY, Event, Node, wall};
use crate::board::Pace;
use crate::clock::{Reference, Trust};
use crate::setup::{sentence, wrong_chain};

/// A lie, or a second box with our identity, is shown this long.
const SHOWN: Duration = Duration::from_secs(600);
/// Members may take this long to connect before it is a problem.
const CONNECT_PATIENCE: Duration = Duration::from_secs(20);

/// A node that ends for a moment is back after this many slots more.
const PROPOSALS_AHEAD: u64 = 2;

/// What is known about another member.
#[derive(Debug, Default)]
pub(crate) struct Peer {
    pub(crate) connected: bool,
    pub(crate) address: Option<String>,
    pub(crate) why_not: Option<String>,
    pub(crate) info: Option<Report>,
    /// It has said once that it is a Hearth.
    pub(crate) was_hearth: bool,
}

/// What the signer holds for this cluster.
#[derive(Debug)]
pub(crate) enum Shares {
    Unknown,
    /// It answered; these of our public shares are not there.
    Missing(Vec<PublicKeyBytes>),
    /// It did not answer.
    Silent(String),
}

impl Node {
    pub(crate) fn ask_what_signer_holds(&mut self) {
        if self.client.is_some() {
            return; // The shares are the validator client's.
        }
        if self.shares_asked.is_some_and(|at| at.elapsed() < ASK_SIGNER_EVERY) {
            return;
        }
        self.shares_asked = Some(Instant::now());
        let signer = self.signer.clone();
        self.spawn(async move { Event::Shares(signer.shares().await) });
    }

    pub(crate) fn on_shares(&mut self, result: Result<BTreeSet<PublicKeyBytes>, ClientError>) {
        self.shares = match result {
            Ok(held) => {
                let needed = self.membership.keys.values().map(|keys| keys.own_share);
                Shares::Missing(needed.filter(|share| !held.contains(share)).collect())
            }
            Err(error) => Shares::Silent(error.to_string()),
        };
    }

    /// A duty ended.
    pub(crate) fn on_outcome(&mut self, record: Record) {
        let duty = record.duty;
        let names: Vec<&str> =
            self.membership.view.operators.iter().map(|operator| operator.name.as_str()).collect();
        self.monitoring.on_outcome(&record, &names);
        self.client_duty_ended(duty, &record.outcome);
        match &record.outcome {
            Outcome::Done if is_preparation(duty) => tracing::debug!(%duty, "duty done"),
            Outcome::Done => tracing::info!(
                %duty,
                validators = record.expected,
                round = record.decided_round,
                published_ms_into_slot = record.published_ms_into_slot,
                "duty done"
            ),
            Outcome::NotNeeded => tracing::debug!(%duty, "nothing to do for a duty"),
            Outcome::Missed(reason) if duty.kind == DutyKind::InfoSync => {
                tracing::debug!(%duty, reason = reason.code(), "the members did not agree on versions this time");
            }
            Outcome::Missed(reason) => {
                tracing::warn!(%duty, reason = reason.code(), message = %reason, "duty missed");
            }
        }
        if let Some(withheld) = &record.withheld
            && record.outcome == Outcome::Done
        {
            tracing::warn!(%duty, reason = withheld.code(), "this box did not sign, the others did: {withheld}");
        }
        for equivocator in &record.equivocators {
            tracing::warn!(%duty, member = self.membership.name_of(*equivocator), "a member signed two messages for one duty");
        }
        let quiet = record.outcome == Outcome::Done && is_preparation(duty);
        match shown(&record) {
            Some(record) if quiet => self.board.count(&record),
            Some(record) => self.board.finished(record),
            None => {}
        }
    }

    /// Makes the status anew.
    pub(crate) fn report(&mut self) {
        self.watch();
        let problems = self.problems();
        let metrics = &self.board.metrics;
        let connected = self.peers.values().filter(|peer| peer.connected).count();
        let ready = self.beacon.statuses().iter().filter(|status| status.health == Health::Ready).count();
        metrics.peers_connected.set(i64::try_from(connected).unwrap_or(i64::MAX));
        metrics.beacon_nodes_ready.set(i64::try_from(ready).unwrap_or(i64::MAX));
        let clock = self.clock_status();
        metrics.clock_offset_ms.set(clock.offset_ms.unwrap_or(0));
        self.board.show_pace(self.pace());
        self.board.publish(NodeStatus {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            state: self.state(),
            problems,
            cluster: Some(self.cluster_status()),
            chain: self.chain_status(),
            duties: self.pending_duties(),
            clock,
            exits: self.exit_statuses(),
        });
    }

    /// How long slots are, and whether one of ours proposes soon.
    fn pace(&self) -> Option<Pace> {
        if self.state() != NodeState::Running {
            return None; // Nobody misses what is not done anyway.
        }
        let timing = self.running.as_ref()?.chain.timing;
        let now = timing.slot_at(wall())?;
        let mut near = (0..=PROPOSALS_AHEAD).map(|ahead| now.saturating_add(ahead));
        let last = near
            .rfind(|slot| !self.duties.proposers(timing.epoch_of(*slot), *slot).is_empty())
            .map(|slot| timing.start_of(slot.saturating_add(1)));
        Some(Pace { slot_ms: timing.slot_ms, proposes_until: last })
    }

    pub(crate) fn state(&self) -> NodeState {
        let halted = self.clock.trust(self.monotonic_ms()) != Trust::Trusted
            || self.running.as_ref().is_some_and(|running| running.journal.is_broken());
        let enough =
            self.peers.values().filter(|peer| peer.connected).count() + 1 >= self.membership.view.quorum();
        match () {
            () if halted => NodeState::Halted,
            () if self.running.is_some() && self.beacon.any_ready() && enough => NodeState::Running,
            () => NodeState::Starting,
        }
    }

    fn pending_duties(&self) -> Vec<DutyRecord> {
        let Some(running) = &self.running else { return Vec::new() };
        let pending =
            running.engine.pending().filter(|duty| !is_preparation(*duty)).filter_map(|duty: Duty| {
                Some(DutyRecord {
                    slot: duty.slot.0,
                    kind: kind(duty.kind)?,
                    validators: count(running.engine.scheduled_for(duty)),
                    outcome: DutyOutcome::Pending,
                    reason: None,
                    decided_round: None,
                    leader: None,
                    partials_from: Vec::new(),
                    published_ms_into_slot: None,
                })
            });
        let mut pending: Vec<DutyRecord> = pending.collect();
        pending.sort_by_key(|duty| std::cmp::Reverse(duty.slot));
        pending.truncate(node::MAX_DUTIES_SHOWN / 2);
        pending
    }

    fn cluster_status(&self) -> ClusterStatus {
        let view = &self.membership.view;
        let last_seen = self.host.as_ref().map(obol::HostHandle::peers).unwrap_or_default();
        let operators = view.operators.iter().map(|operator| {
            let member = Member(u8::try_from(operator.index).unwrap_or(u8::MAX));
            let is_self = member == self.membership.me();
            let peer = self.peers.get(&member);
            let info = peer.and_then(|peer| peer.info.as_ref());
            let seen = last_seen.iter().find(|status| status.peer == operator.peer_id);
            OperatorStatus {
                index: member.0.saturating_add(1),
                name: operator.name.clone(),
                peer_id: operator.peer_id.to_string(),
                is_self,
                connected: is_self || peer.is_some_and(|peer| peer.connected),
                address: seen
                    .and_then(|seen| seen.state.addr.as_ref().map(ToString::to_string))
                    .or_else(|| peer.and_then(|peer| peer.address.clone())),
                relayed: seen.is_some_and(|seen| seen.state.relayed),
                version: info
                    .map(|info| format!("{} {}", info.dv_client, info.charon_version).trim().to_owned()),
                clock_offset_ms: info.map(|info| info.clock_offset_ms),
                ping_us: seen.and_then(|status| status.state.ping_us),
                last_seen_ms: seen.and_then(|status| status.state.last_seen_ms),
            }
        });
        ClusterStatus {
            name: view.name.clone(),
            lock_hash: format!("0x{}", hex::encode(view.lock_hash)),
            threshold: view.threshold,
            share_index: self.membership.share_index,
            operators: operators.collect(),
            validators: Vec::new(), // The board adds them: see `show_validators`.
            relays: self.relay_status(),
        }
    }

    /// Tells the board of the validators. They may be many, so this is done only when something about them has changed.
    pub(crate) fn show_validators(&self) {
        let validators = self.membership.view.validators.iter().map(|validator| {
            let info = self.duties.validators.get(&validator.group_public_key);
            let share = self.membership.keys.get(&validator.group_public_key).map(|keys| keys.own_share);
            ValidatorStatus {
                group_public_key: validator.group_public_key.to_string(),
                pubshare: share.map(|share| share.to_string()).unwrap_or_default(),
                index: info.map(|info| info.index.0),
                status: info.map_or_else(|| "unknown".to_owned(), |info| info.status.clone()),
            }
        });
        self.board.show_validators(validators.collect());
    }

    fn chain_status(&self) -> Option<ChainStatus> {
        let chain = self.beacon.chain()?;
        let slot = chain.timing.slot_at(wall()).unwrap_or(Slot(0));
        Some(ChainStatus {
            slot: slot.0,
            epoch: chain.timing.epoch_of(slot).0,
            slot_ms: chain.timing.slot_ms,
            slots_per_epoch: chain.timing.slots_per_epoch,
            genesis_time: chain.genesis_time_s,
            network: chain.network.clone(),
            beacon_nodes: self.beacon.statuses().iter().map(beacon_status).collect(),
        })
    }

    fn clock_status(&self) -> ClockStatus {
        let monotonic_ms = self.monotonic_ms();
        let offset_ms = self.clock.offset_ms(monotonic_ms);
        let state = match self.clock.trust(monotonic_ms) {
            Trust::Trusted if offset_ms.is_some() => ClockState::Synchronised,
            Trust::Trusted => ClockState::Unknown,
            Trust::Stepped { .. } | Trust::Off { .. } => ClockState::Stepped,
        };
        // The status wants ours minus the reference.
        ClockStatus { state, offset_ms: offset_ms.map(i64::saturating_neg) }
    }

    /// Everything that is wrong, the worst first.
    fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        problems.extend(self.clock_problem());
        if self.running.as_ref().is_some_and(|running| running.journal.is_broken()) {
            problems.push(disk_problem("the journal cannot be written"));
        }
        problems.extend(self.chain_problem.clone());
        problems.extend(self.host_problem.clone());
        problems.extend(self.beacon_problems());
        problems.extend(self.signer_problem());
        problems.extend(self.member_problems());
        problems.extend(self.validator_problem());
        problems.extend(self.membership.unused.iter().cloned());
        // Duties do not need it.
        problems.extend(self.obol_api.iter().flat_map(super::obol_api::Service::problems));
        problems
    }

    fn clock_problem(&self) -> Option<Problem> {
        let message = match self.clock.trust(self.monotonic_ms()) {
            Trust::Trusted => return None,
            Trust::Stepped { by_ms } => format!(
                "This box's clock was set by {by_ms} ms and no other clock has confirmed it yet, so nothing is signed."
            ),
            Trust::Off { reference, offset_ms } => {
                let whose = match reference {
                    Reference::BeaconNode => "the beacon node's clock",
                    Reference::Members => "the clocks of most other members",
                };
                format!("This box's clock differs from {whose} by {offset_ms} ms, so nothing is signed.")
            }
        };
        Some(Problem::new(
            "clock_off",
            message,
            "Check the time server of this box and of the beacon node's machine.",
        ))
    }

    fn beacon_problems(&self) -> Vec<Problem> {
        let statuses = self.beacon.statuses();
        let mut problems: Vec<Problem> = statuses
            .iter()
            .filter_map(|status| match &status.health {
                Health::WrongChain(mismatch) => Some(wrong_chain(&status.endpoint, mismatch)),
                Health::Unknown | Health::Ready | Health::Syncing { .. } | Health::Failing(_) => None,
            })
            .collect();
        if self.beacon.uses_fallback() {
            problems.push(fallback_problem(&statuses));
        }
        if self.beacon.any_ready() || statuses.iter().all(|status| status.health == Health::Unknown) {
            return problems;
        }
        let syncing = statuses.iter().find(|status| matches!(status.health, Health::Syncing { .. }));
        let failing = statuses.iter().find(|status| matches!(status.health, Health::Failing(_)));
        if let Some(status) = syncing {
            problems.push(Problem::new(
                "beacon_node_syncing",
                format!("{} cannot serve duties yet: {}.", status.endpoint, status.health.describe()),
                "Wait until it has caught up; duties begin by themselves.",
            ));
        } else if let Some(status) = failing {
            problems.push(Problem::new(
                "beacon_node_unreachable",
                sentence(&status.health.describe()),
                "Start the beacon node or check the network to it; this box tries again by itself.",
            ));
        }
        problems
    }

    fn signer_problem(&self) -> Option<Problem> {
        match &self.shares {
            Shares::Unknown => None,
            Shares::Silent(why) => Some(Problem::new(
                "signer_unreachable",
                sentence(why),
                "Restart the signer, or look into its log; nothing can be signed without it.",
            )),
            Shares::Missing(missing) => missing.first().map(|first| {
                Problem::new(
                    "shares_missing",
                    format!(
                        "The signer lacks {} of the {} key shares of this cluster, the first with public share {first}.",
                        missing.len(),
                        self.membership.keys.len(),
                    ),
                    "Import the key shares of this box on its page.",
                )
            }),
        }
    }

    fn member_problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        if self.started.elapsed() > CONNECT_PATIENCE {
            problems.extend(super::relays::problem(&self.relay_status()));
        }
        let away: Vec<Member> = self.others().filter(|member| !self.is_connected(member)).collect();
        if self.started.elapsed() > CONNECT_PATIENCE && !away.is_empty() {
            problems.push(self.away_problem(&away));
        }
        if self.own_identity_seen.is_some_and(|at| at.elapsed() < SHOWN) {
            problems.push(Problem::new(
                "identity_used_twice",
                "Another machine connected with this box's own identity key.",
                "Find the second box with this key and stop it: two boxes with one identity endanger the stake.",
            ));
        }
        for (member, peer) in &self.peers {
            if peer.info.as_ref().is_some_and(|info| !info.same_lock) {
                problems.push(Problem::new(
                    "member_other_lock",
                    format!("Member {} runs with another cluster lock.", self.membership.name_of(*member)),
                    "Compare the lock hash with that member; one of you has an old file.",
                ));
            }
        }
        for member in self.liars.iter().filter(|(_, at)| at.elapsed() < SHOWN).map(|(member, _)| member) {
            problems.push(Problem::new(
                "member_wrong_signature",
                format!(
                    "Member {} sent partial signatures that are wrong.",
                    self.membership.name_of(*member)
                ),
                "Tell that member to check its key shares.",
            ));
        }
        problems
    }

    fn away_problem(&self, away: &[Member]) -> Problem {
        let names: Vec<String> = away
            .iter()
            .map(|member| {
                let name = self.membership.name_of(*member);
                match self.peers.get(member).and_then(|peer| peer.why_not.as_ref()) {
                    Some(why) => format!("{name} ({why})"),
                    None => name.to_owned(),
                }
            })
            .collect();
        let here = self.membership.view.operators.len().saturating_sub(away.len());
        if here < self.membership.view.quorum() {
            Problem::new(
                "too_few_members",
                format!(
                    "Only {here} of {} members are connected, {} are needed; missing: {}.",
                    self.membership.view.operators.len(),
                    self.membership.view.quorum(),
                    names.join(", ")
                ),
                "Ask these members whether their boxes run, and check this box's port and the addresses given.",
            )
        } else {
            Problem::new(
                "member_away",
                format!("Not connected: {}.", names.join(", ")),
                "Duties go on without; ask the member whether its box runs.",
            )
        }
    }

    fn validator_problem(&self) -> Option<Problem> {
        let running = self.running.as_ref()?;
        let epoch = running.chain.timing.epoch_at(wall()).unwrap_or(Epoch(0));
        if let Some((at, why)) = &self.duties.failed
            && at.elapsed() < Duration::from_secs(15)
            && self.beacon.any_ready()
        {
            return Some(Problem::new(
                "duties_unknown",
                sentence(why),
                "Look into the beacon node's log; this box asks again by itself.",
            ));
        }
        let active = self.duties.validators.values().filter(|info| info.active_at(epoch)).count();
        let none = active == 0 && !self.duties.validators.is_empty();
        none.then(|| {
            Problem::new(
                "no_active_validator",
                "None of the cluster's validators is active on the chain yet.",
                "Nothing to do: duties begin by themselves when the chain activates them.",
            )
        })
    }

    fn others(&self) -> impl Iterator<Item = Member> {
        let me = self.membership.me();
        let all = 0..u8::try_from(self.membership.view.operators.len()).unwrap_or(u8::MAX);
        all.map(Member).filter(move |member| *member != me)
    }

    fn is_connected(&self, member: &Member) -> bool {
        self.peers.get(member).is_some_and(|peer| peer.connected)
    }
}

/// The disk does not take our state.
pub(crate) fn disk_problem(what: &str) -> Problem {
    Problem::new(
        "disk_write_failed",
        sentence(&format!("{what}, so nothing is signed")),
        "Free space on this box's disk, or replace it; work goes on by itself when it can be written again.",
    )
}

/// Duties are done, and what stands between them and nothing is not what the owner meant for every day.
fn fallback_problem(statuses: &[EndpointStatus]) -> Problem {
    let own = statuses.iter().filter(|status| !status.is_fallback);
    let why: Vec<String> =
        own.map(|status| format!("{} ({})", status.endpoint, status.health.describe())).collect();
    Problem::new(
        "beacon_fallback_in_use",
        sentence(&format!(
            "A fallback beacon node is used, because none of the others can be: {}",
            why.join("; ")
        )),
        "Start the beacon node or check the network to it; this box goes back to it by itself.",
    )
}

fn beacon_status(status: &EndpointStatus) -> BeaconNodeStatus {
    let (state, sync_distance) = match &status.health {
        Health::Unknown => (BeaconNodeState::Unknown, None),
        Health::Ready => (BeaconNodeState::Ready, None),
        Health::Syncing { distance, .. } => (BeaconNodeState::Syncing, Some(*distance)),
        Health::WrongChain(_) => (BeaconNodeState::WrongChain, None),
        Health::Failing(_) => (BeaconNodeState::Unreachable, None),
    };
    let message = (status.health != Health::Ready).then(|| status.health.describe());
    BeaconNodeStatus {
        url: status.endpoint.clone(),
        state,
        version: status.version.clone(),
        sync_distance,
        message,
        is_fallback: status.is_fallback,
    }
}

/// Whether a duty only gives others what they need; then it is worth a word only when it fails.
fn is_preparation(duty: Duty) -> bool {
    duty.kind.row().publication == duty::Publication::OtherDuties
}

/// A duty as the page shows it; `None` for those that nobody but the members cares about.
fn shown(record: &Record) -> Option<DutyRecord> {
    let kind = kind(record.duty.kind)?;
    let (outcome, reason) = match &record.outcome {
        Outcome::Done => (DutyOutcome::Done, None),
        Outcome::NotNeeded => return None,
        Outcome::Missed(reason) => (DutyOutcome::Missed, Some(reason)),
    };
    Some(DutyRecord {
        slot: record.duty.slot.0,
        kind,
        validators: count(record.expected),
        outcome,
        reason: reason.map(|reason| DutyReason {
            code: reason.code().to_owned(),
            component: reason.component().name().to_owned(),
            message: sentence(&reason.to_string()),
        }),
        decided_round: record.decided_round,
        leader: record.leader.map(share_of),
        partials_from: record.partials_from.iter().copied().map(share_of).collect(),
        published_ms_into_slot: record.published_ms_into_slot,
    })
}

fn share_of(member: Member) -> u8 {
    member.0.saturating_add(1)
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn kind(kind: DutyKind) -> Option<node::DutyKind> {
    Some(match kind {
        DutyKind::Proposer => node::DutyKind::Proposer,
        DutyKind::Attester => node::DutyKind::Attester,
        DutyKind::Exit => node::DutyKind::Exit,
        DutyKind::BuilderRegistration => node::DutyKind::BuilderRegistration,
        DutyKind::Randao => node::DutyKind::Randao,
        DutyKind::PrepareAggregator => node::DutyKind::PrepareAggregator,
        DutyKind::Aggregator => node::DutyKind::Aggregator,
        DutyKind::SyncMessage => node::DutyKind::SyncMessage,
        DutyKind::PrepareSyncContribution => node::DutyKind::PrepareSyncContribution,
        DutyKind::SyncContribution => node::DutyKind::SyncContribution,
        DutyKind::InfoSync => return None,
    })
}
