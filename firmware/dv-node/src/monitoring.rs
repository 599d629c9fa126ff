//! What those who watch Charon clusters look for: its metric names and labels, and its readiness (spec section 12.4).
//!
//! Only what is true for us: a metric that we cannot fill honestly is absent, which dashboards show as "no data". Our own
//! counters stay beside these under `hearth_dv_`.

mod readiness;

use std::borrow::Cow;
use std::sync::atomic::AtomicU64;

use duty::{DutyKind, Outcome, Reason, Record};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
pub use readiness::{BeaconFacts, Facts, Readiness};

/// The protocol members agree by, as the reference names it in labels.
const QBFT: &str = "qbft";
/// Rounds are timed in one way (obol.md 6.10), which the reference names so in labels.
const TIMER: &str = "eager_dlinear";

/// What all metrics of a cluster are labelled with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// First seven hex digits of the lock hash.
    pub hash: String,
    /// Name of the cluster.
    pub cluster: String,
    /// Name of its network, or `unknown`.
    pub network: String,
    /// Our own readable name.
    pub peer: String,
    /// What the owner calls this box.
    pub nickname: String,
    /// The release of the reference whose wire we speak.
    pub version: String,
}

/// One member.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Peer {
    /// Its readable name.
    pub peer: String,
}

/// How a member is connected.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Connection {
    /// Its readable name.
    pub peer: String,
    /// `direct` or `relay`.
    pub r#type: String,
    /// `tcp`.
    pub protocol: String,
}

/// A member's version.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct PeerVersion {
    /// Its readable name.
    pub peer: String,
    /// Its version.
    pub version: String,
}

/// A member's nickname.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct PeerNickname {
    /// Its readable name.
    pub peer: String,
    /// What its owner calls it.
    pub peer_nickname: String,
}

/// A member's software.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct PeerClient {
    /// Its readable name.
    pub peer: String,
    /// What it runs; empty for old releases of the reference.
    pub dv_client: String,
}

/// A kind of duty.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct DutyName {
    /// Its name.
    pub duty: String,
}

/// A kind of duty and why it failed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct DutyFailure {
    /// Its name.
    pub duty: String,
    /// The reference's word for the reason.
    pub reason: String,
}

/// A member's part in a kind of duty.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Part {
    /// The duty's name.
    pub duty: String,
    /// The member's readable name.
    pub peer: String,
}

/// The round in which an agreement on a kind of duty came.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct TimedAgreement {
    /// The protocol.
    pub protocol: String,
    /// The duty's name.
    pub duty: String,
    /// How the length of rounds is found.
    pub timer: String,
}

/// An agreement on a kind of duty.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Agreement {
    /// The protocol.
    pub protocol: String,
    /// The duty's name.
    pub duty: String,
}

/// One label with one value.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Named {
    /// The value.
    pub version: String,
}

/// A beacon node's software.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct BeaconVersion {
    /// What it says it is.
    pub version: String,
    /// Its address.
    pub beacon_id: String,
}

/// The network.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct NetworkName {
    /// Its name.
    pub network: String,
}

/// Our own name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct OwnName {
    /// The name.
    pub peer_name: String,
}

type Gauges<L> = Family<L, Gauge>;
type Fractions<L> = Family<L, Gauge<f64, AtomicU64>>;
type Counters<L> = Family<L, Counter>;

/// The metrics by the reference's names.
#[derive(Debug, Default)]
#[expect(missing_docs, reason = "each is named as the reference names it")]
pub struct Monitoring {
    pub app_version: Gauges<Named>,
    pub app_peer_name: Gauges<OwnName>,
    pub app_start_time_secs: Gauge,
    pub app_monitoring_readyz: Gauge,
    pub beacon_node_peers: Gauge,
    pub beacon_node_version: Gauges<BeaconVersion>,
    pub eth2_using_fallback: Gauge,
    pub cluster_network: Gauges<NetworkName>,
    pub cluster_operators: Gauge,
    pub cluster_threshold: Gauge,
    pub cluster_validators: Gauge,
    pub peerinfo_version: Gauges<PeerVersion>,
    pub peerinfo_version_support: Gauges<Peer>,
    pub peerinfo_nickname: Gauges<PeerNickname>,
    pub peerinfo_dv_client: Gauges<PeerClient>,
    pub peerinfo_index: Gauges<Peer>,
    pub peerinfo_start_time_secs: Gauges<Peer>,
    pub peerinfo_clock_offset_seconds: Fractions<Peer>,
    pub peerinfo_builder_api_enabled: Gauges<Peer>,
    pub p2p_ping_success: Gauges<Peer>,
    pub p2p_peer_connection_types: Gauges<Connection>,
    pub p2p_peer_connection: Counters<Peer>,
    pub scheduler_current_slot: Gauge,
    pub scheduler_current_epoch: Gauge,
    pub scheduler_validators_active: Gauge,
    pub consensus_decided_rounds: Gauges<TimedAgreement>,
    pub consensus_decided_leader_index: Gauges<Agreement>,
    pub bcast_broadcast: Counters<DutyName>,
    pub tracker_expect_duties: Counters<DutyName>,
    pub tracker_success_duties: Counters<DutyName>,
    pub tracker_failed_duties: Counters<DutyName>,
    pub tracker_failed_duty_reasons: Counters<DutyFailure>,
    pub tracker_participation: Gauges<Part>,
    pub tracker_participation_success: Counters<Part>,
    pub tracker_participation_missed: Counters<Part>,
    pub tracker_participation_expected: Counters<Part>,
}

impl Monitoring {
    /// Metrics of this cluster, and the registry that lists them.
    pub fn new(identity: &Identity) -> (Self, Registry) {
        let label = |name: &'static str, value: &str| (Cow::from(name), Cow::from(value.to_owned()));
        let labels = [
            label("cluster_hash", &identity.hash),
            label("cluster_name", &identity.cluster),
            label("cluster_network", &identity.network),
            label("cluster_peer", &identity.peer),
            label("nickname", &identity.nickname),
            label("charon_version", &identity.version),
        ];
        let metrics = Self::default();
        let mut registry = Registry::with_labels(labels.into_iter());
        metrics.register(&mut registry);
        metrics.app_version.get_or_create(&Named { version: identity.version.clone() }).set(1);
        metrics.app_peer_name.get_or_create(&OwnName { peer_name: identity.peer.clone() }).set(1);
        metrics.cluster_network.get_or_create(&NetworkName { network: identity.network.clone() }).set(1);
        (metrics, registry)
    }

    fn register(&self, to: &mut Registry) {
        to.register("app_version", "Release of the reference whose wire is spoken", self.app_version.clone());
        to.register("app_peer_name", "This member's name", self.app_peer_name.clone());
        to.register("app_start_time_secs", "When it started", self.app_start_time_secs.clone());
        to.register(
            "app_monitoring_readyz",
            "1 when ready, else the reason",
            self.app_monitoring_readyz.clone(),
        );
        to.register("app_beacon_node_peers", "Peers of the beacon node", self.beacon_node_peers.clone());
        let version = self.beacon_node_version.clone();
        to.register("app_beacon_node_version", "A beacon node's software", version);
        let fallback = self.eth2_using_fallback.clone();
        to.register("app_eth2_using_fallback", "1 while a fallback beacon node is used", fallback);
        to.register("cluster_network", "The network", self.cluster_network.clone());
        to.register("cluster_operators", "Members", self.cluster_operators.clone());
        to.register("cluster_threshold", "Signatures needed", self.cluster_threshold.clone());
        to.register("cluster_validators", "Validators", self.cluster_validators.clone());
        to.register("app_peerinfo_version", "A member's version", self.peerinfo_version.clone());
        to.register("app_peerinfo_version_support", "1 when known", self.peerinfo_version_support.clone());
        to.register("app_peerinfo_nickname", "A member's nickname", self.peerinfo_nickname.clone());
        to.register("app_peerinfo_dv_client", "A member's software", self.peerinfo_dv_client.clone());
        to.register("app_peerinfo_index", "A member's place", self.peerinfo_index.clone());
        to.register("app_peerinfo_start_time_secs", "When it started", self.peerinfo_start_time_secs.clone());
        let offset = self.peerinfo_clock_offset_seconds.clone();
        to.register("app_peerinfo_clock_offset_seconds", "A member's clock minus ours", offset);
        let builder = self.peerinfo_builder_api_enabled.clone();
        to.register("app_peerinfo_builder_api_enabled", "1 when it uses builders", builder);
        to.register("p2p_ping_success", "1 when the member answers", self.p2p_ping_success.clone());
        let types = self.p2p_peer_connection_types.clone();
        to.register("p2p_peer_connection_types", "Connections by kind", types);
        to.register("p2p_peer_connection", "Times a member was connected", self.p2p_peer_connection.clone());
        to.register("core_scheduler_current_slot", "The slot", self.scheduler_current_slot.clone());
        to.register("core_scheduler_current_epoch", "The epoch", self.scheduler_current_epoch.clone());
        let active = self.scheduler_validators_active.clone();
        to.register("core_scheduler_validators_active", "Validators active on the chain", active);
        let rounds = self.consensus_decided_rounds.clone();
        to.register("core_consensus_decided_rounds", "Round of the last agreement", rounds);
        let leader = self.consensus_decided_leader_index.clone();
        to.register("core_consensus_decided_leader_index", "Leader of the last agreement", leader);
        to.register("core_bcast_broadcast", "Duties published", self.bcast_broadcast.clone());
        to.register("core_tracker_expect_duties", "Duties", self.tracker_expect_duties.clone());
        to.register("core_tracker_success_duties", "Duties done", self.tracker_success_duties.clone());
        to.register("core_tracker_failed_duties", "Duties missed", self.tracker_failed_duties.clone());
        let reasons = self.tracker_failed_duty_reasons.clone();
        to.register("core_tracker_failed_duty_reasons", "Why duties were missed", reasons);
        let part = "A member's partial signatures";
        to.register("core_tracker_participation", part, self.tracker_participation.clone());
        let success = self.tracker_participation_success.clone();
        to.register("core_tracker_participation_success", part, success);
        let missed = self.tracker_participation_missed.clone();
        to.register("core_tracker_participation_missed", part, missed);
        let expected = self.tracker_participation_expected.clone();
        to.register("core_tracker_participation_expected", part, expected);
    }

    /// A duty ended. `names` are the members' names in the order of the cluster.
    pub fn on_outcome(&self, record: &Record, names: &[&str]) {
        let duty = record.duty.kind.row().name.to_owned();
        let kind = DutyName { duty: duty.clone() };
        let agreement = || Agreement { protocol: QBFT.to_owned(), duty: duty.clone() };
        if let Some(round) = record.decided_round {
            let round = i64::try_from(round).unwrap_or(i64::MAX);
            let labels =
                TimedAgreement { protocol: QBFT.to_owned(), duty: duty.clone(), timer: TIMER.to_owned() };
            self.consensus_decided_rounds.get_or_create(&labels).set(round);
        }
        if let Some(leader) = record.leader {
            self.consensus_decided_leader_index.get_or_create(&agreement()).set(i64::from(leader.0));
        }
        match &record.outcome {
            Outcome::NotNeeded => return,
            Outcome::Done => {
                self.tracker_success_duties.get_or_create(&kind).inc();
                if record.published > 0 {
                    self.bcast_broadcast.get_or_create(&kind).inc();
                }
            }
            Outcome::Missed(reason) => {
                self.tracker_failed_duties.get_or_create(&kind).inc();
                let reason = reference_reason(reason).to_owned();
                self.tracker_failed_duty_reasons
                    .get_or_create(&DutyFailure { duty: duty.clone(), reason })
                    .inc();
            }
        }
        self.tracker_expect_duties.get_or_create(&kind).inc();
        if record.duty.kind == DutyKind::InfoSync {
            return; // Nobody signs anything.
        }
        for (index, name) in names.iter().enumerate() {
            let part = Part { duty: duty.clone(), peer: (*name).to_owned() };
            let took = record.partials_from.iter().any(|member| usize::from(member.0) == index);
            self.tracker_participation.get_or_create(&part).set(i64::from(took));
            self.tracker_participation_expected.get_or_create(&part).inc();
            let counter =
                if took { &self.tracker_participation_success } else { &self.tracker_participation_missed };
            counter.get_or_create(&part).inc();
        }
    }
}

/// The reference's word for why a duty failed; `unknown` where it has none.
fn reference_reason(reason: &Reason) -> &'static str {
    match reason {
        Reason::NoData(_) | Reason::NoAnswer => "fetch_bn_error",
        Reason::NoAgreement { .. } => "no_consensus",
        Reason::MembersSilent { .. } => "no_peer_signatures",
        Reason::PartialsMissing { .. } => "insufficient_peer_signatures",
        Reason::PartialsDiffer => "par_sig_db_inconsistent_sync",
        Reason::PublishFailed(_) | Reason::PublishUnconfirmed => "broadcast_bn_error",
        Reason::SignerRefused(_)
        | Reason::SignerUnavailable(_)
        | Reason::SignerSilent
        | Reason::NotAsked(_) => "no_local_vc_signature",
        Reason::ClockUntrusted
        | Reason::NeedsMissing
        | Reason::DecisionUnusable(_)
        | Reason::LeftOut
        | Reason::ViewsDiffer
        | Reason::ViewUnknown
        | Reason::PartialsWrong(_)
        | Reason::PushedOut => "unknown",
    }
}

#[cfg(test)]
mod tests;
