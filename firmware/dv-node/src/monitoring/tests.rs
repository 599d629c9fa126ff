//! Names, labels and counts, as dashboards read them.

use chain::Slot;
use duty::Duty;
use qbft::Member;

use super::*;

fn text(registry: &Registry) -> String {
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, registry).unwrap();
    text
}

fn record(outcome: Outcome) -> Record {
    Record {
        duty: Duty::new(Slot(7), DutyKind::Attester),
        outcome,
        expected: 1,
        published: 1,
        decided_round: Some(2),
        leader: Some(Member(1)),
        partials_from: vec![Member(0)],
        liars: Vec::new(),
        equivocators: Vec::new(),
        withheld: None,
        published_ms_into_slot: Some(4100),
    }
}

#[test]
fn duties_are_counted_under_the_names_that_dashboards_expect() {
    let identity = Identity { hash: "0a1b2c3".into(), cluster: "us".into(), ..Identity::default() };
    let (metrics, registry) = Monitoring::new(&identity);
    metrics.on_outcome(&record(Outcome::Done), &["ann", "bob"]);
    metrics.on_outcome(&record(Outcome::Missed(Reason::NoAnswer)), &["ann", "bob"]);
    metrics.on_outcome(&record(Outcome::NotNeeded), &["ann", "bob"]);
    let text = text(&registry);
    let sample = |name: &str, labels: &[&str], value: &str| {
        let found = text.lines().any(|line| {
            line.starts_with(&format!("{name}{{"))
                && line.contains("cluster_hash=\"0a1b2c3\"")
                && labels.iter().all(|label| line.contains(label))
                && line.ends_with(&format!(" {value}"))
        });
        assert!(found, "{name} {labels:?} {value}:\n{text}");
    };
    sample("core_tracker_expect_duties_total", &["duty=\"attester\""], "2");
    sample("core_tracker_success_duties_total", &["duty=\"attester\""], "1");
    sample("core_tracker_failed_duties_total", &["duty=\"attester\""], "1");
    sample("core_tracker_failed_duty_reasons_total", &["reason=\"fetch_bn_error\""], "1");
    sample("core_tracker_participation", &["peer=\"ann\""], "1");
    sample("core_tracker_participation_missed_total", &["peer=\"bob\""], "2");
    sample("core_consensus_decided_rounds", &["protocol=\"qbft\"", "duty=\"attester\""], "2");
    sample("core_bcast_broadcast_total", &["duty=\"attester\""], "1");
}

/// obol.md 12.4: what each metric is called there, and its labels beside those that all have.
const REFERENCE: [(&str, &[&str]); 36] = [
    ("app_version", &["version"]),
    ("app_peer_name", &["peer_name"]),
    ("app_start_time_secs", &[]),
    ("app_monitoring_readyz", &[]),
    ("app_beacon_node_peers", &[]),
    ("app_beacon_node_version", &["beacon_id", "version"]),
    ("app_eth2_using_fallback", &[]),
    ("cluster_network", &["network"]),
    ("cluster_operators", &[]),
    ("cluster_threshold", &[]),
    ("cluster_validators", &[]),
    ("app_peerinfo_version", &["peer", "version"]),
    ("app_peerinfo_version_support", &["peer"]),
    ("app_peerinfo_nickname", &["peer", "peer_nickname"]),
    ("app_peerinfo_dv_client", &["dv_client", "peer"]),
    ("app_peerinfo_index", &["peer"]),
    ("app_peerinfo_start_time_secs", &["peer"]),
    ("app_peerinfo_clock_offset_seconds", &["peer"]),
    ("app_peerinfo_builder_api_enabled", &["peer"]),
    ("p2p_ping_success", &["peer"]),
    ("p2p_peer_connection_types", &["peer", "protocol", "type"]),
    ("p2p_peer_connection_total", &["peer"]),
    ("core_scheduler_current_slot", &[]),
    ("core_scheduler_current_epoch", &[]),
    ("core_scheduler_validators_active", &[]),
    ("core_consensus_decided_rounds", &["duty", "protocol", "timer"]),
    ("core_consensus_decided_leader_index", &["duty", "protocol"]),
    ("core_bcast_broadcast_total", &["duty"]),
    ("core_tracker_expect_duties_total", &["duty"]),
    ("core_tracker_success_duties_total", &["duty"]),
    ("core_tracker_failed_duties_total", &["duty"]),
    ("core_tracker_failed_duty_reasons_total", &["duty", "reason"]),
    ("core_tracker_participation", &["duty", "peer"]),
    ("core_tracker_participation_success_total", &["duty", "peer"]),
    ("core_tracker_participation_missed_total", &["duty", "peer"]),
    ("core_tracker_participation_expected_total", &["duty", "peer"]),
];

#[test]
fn every_metric_has_the_name_and_the_labels_that_the_reference_gives_it() {
    let (metrics, registry) = Monitoring::new(&Identity::default());
    metrics.on_outcome(&record(Outcome::Done), &["ann", "bob"]);
    metrics.on_outcome(&record(Outcome::Missed(Reason::NoAnswer)), &["ann", "bob"]);
    let (peer, version, text_of) = (|| "ann".to_owned(), || "v1.10.3".to_owned(), String::new);
    let of_peer = Peer { peer: peer() };
    metrics
        .beacon_node_version
        .get_or_create(&BeaconVersion { version: version(), beacon_id: text_of() })
        .set(1);
    metrics.peerinfo_version.get_or_create(&PeerVersion { peer: peer(), version: version() }).set(1);
    metrics.peerinfo_nickname.get_or_create(&PeerNickname { peer: peer(), peer_nickname: text_of() }).set(1);
    metrics.peerinfo_dv_client.get_or_create(&PeerClient { peer: peer(), dv_client: text_of() }).set(1);
    for gauge in [
        &metrics.peerinfo_version_support,
        &metrics.peerinfo_index,
        &metrics.peerinfo_start_time_secs,
        &metrics.peerinfo_builder_api_enabled,
        &metrics.p2p_ping_success,
    ] {
        gauge.get_or_create(&of_peer).set(1);
    }
    metrics.peerinfo_clock_offset_seconds.get_or_create(&of_peer).set(1.0);
    metrics.p2p_peer_connection.get_or_create(&of_peer).inc();
    let connection = Connection { peer: peer(), r#type: text_of(), protocol: text_of() };
    metrics.p2p_peer_connection_types.get_or_create(&connection).set(1);

    let constant =
        ["charon_version", "cluster_hash", "cluster_name", "cluster_network", "cluster_peer", "nickname"];
    let mut found = std::collections::BTreeSet::new();
    for line in text(&registry).lines().filter(|line| !line.starts_with('#')) {
        let (name, labels) = line.split_once('{').unwrap();
        let labels = labels.rsplit_once('}').unwrap().0;
        let mut names: Vec<&str> =
            labels.split("\",").filter_map(|label| Some(label.split_once('=')?.0)).collect();
        names.sort_unstable();
        assert!(constant.iter().all(|label| names.contains(label)), "{line}");
        names.retain(|label| !constant.contains(label));
        let (_, expected) = REFERENCE.iter().find(|(known, _)| *known == name).expect(line);
        assert_eq!(names, *expected, "{line}");
        found.insert(name.to_owned());
    }
    assert_eq!(found.len(), REFERENCE.len(), "{found:?}");
}
