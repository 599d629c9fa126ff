//! Keeps the reference's metrics and readiness true, once a second.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use beacon::{EndpointStatus, Health};
use chain::Slot;
use ipc::node::NodeState;
use qbft::Member;

use super::{Node, wall};
use crate::monitoring::{self, BeaconFacts, Facts};

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// Of those that answer, the one that is nearest to being used speaks for all.
fn beacon_facts(statuses: &[EndpointStatus]) -> BeaconFacts {
    let ready = statuses.iter().find(|status| status.health == Health::Ready);
    if let Some(status) = ready {
        return BeaconFacts::Answers { behind: None, admitted: false, peers: status.peers };
    }
    let syncing = statuses.iter().filter_map(|status| match status.health {
        Health::Syncing { distance, admitted, .. } => Some((admitted, distance, status.peers)),
        Health::Unknown | Health::Ready | Health::WrongChain(_) | Health::Failing(_) => None,
    });
    match syncing.min() {
        Some((admitted, distance, peers)) => BeaconFacts::Answers { behind: Some(distance), admitted, peers },
        None => BeaconFacts::Down,
    }
}

impl Node {
    /// The metrics under the reference's names, and readiness.
    pub(crate) fn watch(&mut self) {
        let statuses = self.beacon.statuses();
        let connected = self.peers.values().filter(|peer| peer.connected).count();
        let slot_ms = self.running.as_ref().map_or(12_000, |running| running.chain.timing.slot_ms);
        let epoch = self.running.as_ref().and_then(|running| {
            let timing = running.chain.timing;
            Some(timing.epoch_of(timing.slot_at(wall())?).0)
        });
        let requests = self.client.as_ref().map(|client| client.requests().load(Ordering::Relaxed));
        let facts = Facts {
            beacon: beacon_facts(&statuses),
            // Without a chain nobody knows how long an epoch is.
            client_requests: requests.filter(|_| epoch.is_some()),
            epoch: epoch.unwrap_or_default(),
            quorum: connected + 1 >= self.membership.view.quorum(),
            halted: self.state() == NodeState::Halted,
            slot: Duration::from_millis(slot_ms),
        };
        let (gauge, ready) = self.readiness.judge(facts, Instant::now());
        self.board.set_ready(ready);
        let metrics = &self.monitoring;
        metrics.app_monitoring_readyz.set(gauge);
        metrics.eth2_using_fallback.set(i64::from(self.beacon.uses_fallback()));
        if let BeaconFacts::Answers { peers: Some(peers), .. } = facts.beacon {
            metrics.beacon_node_peers.set(i64::try_from(peers).unwrap_or(i64::MAX));
        }
        metrics.beacon_node_version.clear();
        for status in &statuses {
            let Some(version) = status.version.clone() else { continue };
            let labels = monitoring::BeaconVersion { version, beacon_id: status.endpoint.clone() };
            metrics.beacon_node_version.get_or_create(&labels).set(1);
        }
        let started = wall().0.saturating_sub(self.monotonic_ms()) / 1_000;
        metrics.app_start_time_secs.set(i64::try_from(started).unwrap_or(i64::MAX));
        let view = &self.membership.view;
        metrics.cluster_operators.set(i64::from(count(view.operators.len())));
        metrics.cluster_threshold.set(i64::from(view.threshold));
        metrics.cluster_validators.set(i64::from(count(view.validators.len())));
        if let Some(running) = &self.running {
            let slot = running.chain.timing.slot_at(wall()).unwrap_or(Slot(0));
            let epoch = running.chain.timing.epoch_of(slot);
            metrics.scheduler_current_slot.set(i64::try_from(slot.0).unwrap_or(i64::MAX));
            metrics.scheduler_current_epoch.set(i64::try_from(epoch.0).unwrap_or(i64::MAX));
            let active = self.duties.validators.values().filter(|info| info.active_at(epoch)).count();
            metrics.scheduler_validators_active.set(i64::from(count(active)));
        }
        self.watch_members();
    }

    fn watch_members(&self) {
        let metrics = &self.monitoring;
        metrics.peerinfo_version.clear();
        metrics.peerinfo_nickname.clear();
        metrics.peerinfo_dv_client.clear();
        metrics.p2p_peer_connection_types.clear();
        let seen = self.host.as_ref().map(obol::HostHandle::peers).unwrap_or_default();
        for operator in &self.membership.view.operators {
            let name = || operator.name.clone();
            let peer = monitoring::Peer { peer: name() };
            let Some(status) = seen.iter().find(|status| status.peer == operator.peer_id) else { continue };
            metrics.p2p_ping_success.get_or_create(&peer).set(i64::from(status.state.ping_us.is_some()));
            for (kind, number) in
                [("direct", status.state.direct_connections), ("relay", status.state.relayed_connections)]
            {
                let labels = monitoring::Connection {
                    peer: name(),
                    r#type: kind.to_owned(),
                    protocol: if number > 0 { "tcp" } else { "none" }.to_owned(),
                };
                metrics.p2p_peer_connection_types.get_or_create(&labels).set(i64::from(number));
            }
            let index = Member(u8::try_from(operator.index).unwrap_or(u8::MAX));
            let Some(info) = self.peers.get(&index).and_then(|peer| peer.info.as_ref()) else { continue };
            let version = monitoring::PeerVersion { peer: name(), version: info.charon_version.clone() };
            metrics.peerinfo_version.get_or_create(&version).set(1);
            let nickname = monitoring::PeerNickname { peer: name(), peer_nickname: info.nickname.clone() };
            metrics.peerinfo_nickname.get_or_create(&nickname).set(1);
            let client = monitoring::PeerClient { peer: name(), dv_client: info.dv_client.clone() };
            metrics.peerinfo_dv_client.get_or_create(&client).set(1);
            let supported = i64::from(info.version_supported);
            metrics.peerinfo_version_support.get_or_create(&peer).set(supported);
            metrics.peerinfo_index.get_or_create(&peer).set(i64::from(index.0));
            metrics.peerinfo_start_time_secs.get_or_create(&peer).set(info.started_at_s);
            let builder = i64::from(info.builder_api_enabled);
            metrics.peerinfo_builder_api_enabled.get_or_create(&peer).set(builder);
            // An hour at most, so it is exact.
            let offset = f64::from(i32::try_from(info.clock_offset_ms).unwrap_or(i32::MAX)) / 1_000.0;
            metrics.peerinfo_clock_offset_seconds.get_or_create(&peer).set(offset);
        }
    }
}
