//! What the members themselves say about their duties: Hearth's records and Charon's metrics.
//!
//! Never mixed with what the chain says. A record tells who took part and why something was missed.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use chain::Slot;
use hw_tests::charon::Metrics;
use ipc::node::{DutyKind, DutyOutcome, DutyRecord};
use serde_json::{Value, json};

use super::members::{Cluster, Seat};

/// A Hearth's counter of agreements, by kind of duty and by who led the round that decided.
const AGREED: &str = "hearth_dv_agreed_total";
/// What is kept of a Hearth's counters. It has Charon's names too (decision 0143), for whoever watches both with one dashboard: what
/// stands as Charon's in a report comes from Charons alone.
const OF_HEARTH: [&str; 1] = [AGREED];
/// What is kept of a Charon's.
const OF_CHARON: [&str; 9] = [
    "core_tracker_expect_duties_total",
    "core_tracker_success_duties_total",
    "core_tracker_failed_duties_total",
    "core_tracker_failed_duty_reasons_total",
    "core_tracker_participation_expected_total",
    "core_tracker_participation_success_total",
    "core_tracker_participation_missed_total",
    "core_bcast_broadcast_total",
    "core_validatorapi_request_error_total",
];

/// What one member said.
#[derive(Debug, Default)]
struct OfMember {
    /// Hearth: each duty's last state, by kind and slot.
    duties: BTreeMap<(DutyKind, u64), DutyRecord>,
    /// How far each counter moved since counting began, over restarts.
    counters: BTreeMap<Series, Moved>,
    /// Whether the counters were read since counting began.
    begun: bool,
    version: Option<String>,
}

/// A counter's name and its labels that matter.
type Series = (String, Vec<(String, String)>);

#[derive(Debug, Clone, Copy, Default)]
struct Moved {
    last: f64,
    sum: f64,
}

/// All that was said in the window.
#[derive(Debug)]
pub(super) struct Records {
    window: Range<Slot>,
    members: BTreeMap<u8, OfMember>,
}

impl Records {
    pub(super) fn new(window: Range<Slot>) -> Self {
        Self { window, members: BTreeMap::new() }
    }

    /// Lets slots before `end` count too.
    pub(super) fn extend(&mut self, end: Slot) {
        self.window.end = end;
    }

    /// Asks everybody who answers.
    pub(super) fn read(&mut self, cluster: &Cluster, now: Slot) {
        for seat in &cluster.seats {
            self.read_one(seat, now);
        }
    }

    fn read_one(&mut self, seat: &Seat, now: Slot) {
        let member = self.members.entry(seat.number).or_default();
        if let Some(charon) = seat.charon() {
            member.version = Some(charon.charon().version().to_owned());
            if let Ok(metrics) = charon.metrics() {
                member.count(&OF_CHARON, &metrics, now >= self.window.start);
            }
            return;
        }
        if let Ok(Some(page)) = seat.page()
            && let Ok(metrics) = page.metrics()
        {
            member.count(&OF_HEARTH, &Metrics::parse(&metrics), now >= self.window.start);
        }
        if let Some(node) = seat.status().and_then(|status| status.node) {
            member.version = Some(node.version);
            for duty in node.duties {
                if self.window.contains(&Slot(duty.slot)) {
                    member.duties.insert((duty.kind, duty.slot), duty);
                }
            }
        }
    }

    /// One line for the progress: what the Hearth members say of the kinds that are counted.
    pub(super) fn in_short(&self) -> String {
        let mut by_kind: BTreeMap<DutyKind, (u64, u64)> = BTreeMap::new();
        for record in self.members.values().flat_map(|member| member.duties.values()) {
            let (done, ended) = by_kind.entry(record.kind).or_default();
            *done += u64::from(record.outcome == DutyOutcome::Done);
            *ended += u64::from(record.outcome != DutyOutcome::Pending);
        }
        if by_kind.is_empty() {
            return "no records yet".to_owned();
        }
        let said = by_kind.into_iter().map(|(kind, (done, ended))| format!("{} {done}/{ended}", word(kind)));
        said.collect::<Vec<_>>().join(" ")
    }

    /// The first slot from `slot` on in which another member had a partial signature of this one.
    pub(super) fn first_partial_after(&self, member: u8, slot: u64) -> Option<u64> {
        let others = self.members.iter().filter(|(number, _)| **number != member);
        let records = others.flat_map(|(_, other)| other.duties.values());
        records
            .filter(|record| record.slot >= slot && record.partials_from.contains(&member))
            .map(|record| record.slot)
            .min()
    }

    /// Of the kinds of duties that ended: how many, and how many were done with the partial signature of this member at some
    /// other one.
    pub(super) fn done_with(&self, member: u8) -> BTreeMap<String, (u64, u64)> {
        let mut duties: BTreeMap<(DutyKind, u64), bool> = BTreeMap::new();
        for (_, other) in self.members.iter().filter(|(number, _)| **number != member) {
            for (duty, record) in &other.duties {
                if record.outcome != DutyOutcome::Pending {
                    let with = record.outcome == DutyOutcome::Done && record.partials_from.contains(&member);
                    *duties.entry(*duty).or_default() |= with;
                }
            }
        }
        let mut kinds: BTreeMap<String, (u64, u64)> = BTreeMap::new();
        for ((kind, _), with) in duties {
            let (ended, done) = kinds.entry(word(kind)).or_default();
            *ended += 1;
            *done += u64::from(with);
        }
        kinds
    }

    pub(super) fn version_of(&self, member: u8) -> Option<&str> {
        self.members.get(&member)?.version.as_deref()
    }

    /// What a Hearth member says of its duties, by kind; nothing for a Charon.
    pub(super) fn own(&self, number: u8) -> BTreeMap<String, Value> {
        let Some(member) = self.members.get(&number) else { return BTreeMap::new() };
        let mut kinds: BTreeMap<String, (u64, u64)> = BTreeMap::new();
        for record in member.duties.values().filter(|record| record.outcome != DutyOutcome::Pending) {
            let (tried, succeeded) = kinds.entry(word(record.kind)).or_default();
            *tried += u64::from(record.validators);
            *succeeded += if record.outcome == DutyOutcome::Done { u64::from(record.validators) } else { 0 };
        }
        let said = |(kind, (tried, succeeded))| {
            (kind, json!({"tried": tried, "succeeded": succeeded, "source": "own_record"}))
        };
        kinds.into_iter().map(said).collect()
    }

    /// What a Charon's counters say of its duties, by kind; nothing for a Hearth. They move a duty's whole deadline later, so
    /// that the last ones of a window are missing, and are forgotten when it is killed.
    pub(super) fn charon_metrics(&self, number: u8) -> BTreeMap<String, Value> {
        let Some(member) = self.members.get(&number) else { return BTreeMap::new() };
        let tried = member.by_duty("core_tracker_expect_duties_total");
        let succeeded = member.by_duty("core_tracker_success_duties_total");
        let said = |(duty, tried): (String, u64)| {
            let succeeded = succeeded.get(&duty).copied().unwrap_or_default();
            (duty, json!({"tried": tried, "succeeded": succeeded, "source": "charon_metrics"}))
        };
        tried.into_iter().filter(|(_, tried)| *tried > 0).map(said).collect()
    }

    /// Why a member missed duties: reason → how often.
    pub(super) fn reasons(&self, number: u8) -> BTreeMap<String, u64> {
        let Some(member) = self.members.get(&number) else { return BTreeMap::new() };
        let mut reasons = BTreeMap::new();
        for record in member.duties.values() {
            if let Some(reason) = &record.reason {
                *reasons
                    .entry(format!("{} {}: {}", word(record.kind), reason.component, reason.code))
                    .or_default() += 1;
            }
        }
        for ((name, labels), moved) in &member.counters {
            let count = whole(moved.sum);
            if name == "core_tracker_failed_duty_reasons_total" && count > 0 {
                let label = |name: &str| {
                    labels.iter().find(|(key, _)| key == name).map_or("?", |(_, value)| value.as_str())
                };
                reasons.insert(format!("{} {}", label("duty"), label("reason")), count);
            }
        }
        reasons
    }

    /// In how many of the duties that ended with an agreement the partial signature of a member arrived at the Hearth
    /// members, by kind.
    pub(super) fn partials(&self, number: u8) -> BTreeMap<String, Value> {
        let mut duties: BTreeMap<(DutyKind, u64), BTreeSet<u8>> = BTreeMap::new();
        for (observer, member) in &self.members {
            for (duty, record) in &member.duties {
                if *observer != number && record.outcome != DutyOutcome::Pending {
                    duties.entry(*duty).or_default().extend(&record.partials_from);
                }
            }
        }
        let mut kinds: BTreeMap<String, (u64, u64)> = BTreeMap::new();
        for ((kind, _), from) in duties {
            let (tried, succeeded) = kinds.entry(word(kind)).or_default();
            *tried += 1;
            *succeeded += u64::from(from.contains(&number));
        }
        kinds
            .into_iter()
            .map(|(kind, (tried, succeeded))| {
                (kind, json!({"tried": tried, "succeeded": succeeded, "source": "records_of_hearth_peers"}))
            })
            .collect()
    }

    /// How many duties ended well with what a member proposed, as leader of the round that decided, by kind: what the Hearth
    /// members' records say, each duty once.
    pub(super) fn led(&self, number: u8) -> BTreeMap<String, u64> {
        let records = self.members.values().flat_map(|member| &member.duties);
        let led = records.filter(|(_, record)| {
            record.outcome == DutyOutcome::Done
                && record.decided_round.is_some()
                && record.leader == Some(number)
        });
        let mut kinds: BTreeMap<String, u64> = BTreeMap::new();
        for (kind, _) in led.map(|(duty, _)| *duty).collect::<BTreeSet<_>>() {
            *kinds.entry(word(kind)).or_default() += 1;
        }
        kinds
    }

    /// How many agreements of each kind were decided in a round that each member led, info-sync among them: the Hearths' counters.
    /// All of them take part in the same agreements, and one that was away saw fewer: so the most that any of them counted.
    pub(super) fn agreed(&self) -> BTreeMap<String, BTreeMap<String, u64>> {
        let mut kinds: BTreeMap<String, BTreeMap<String, u64>> = BTreeMap::new();
        for member in self.members.values() {
            let agreed = member.counters.iter().filter(|((name, _), _)| name == AGREED);
            for ((_, labels), moved) in agreed {
                let label = |name: &str| labels.iter().find(|(key, _)| key == name);
                if let (Some((_, kind)), Some((_, leader))) = (label("kind"), label("leader")) {
                    let counted = kinds.entry(kind.clone()).or_default().entry(leader.clone()).or_default();
                    *counted = whole(moved.sum).max(*counted);
                }
            }
        }
        kinds
    }

    /// In how many duties a member's partial signature arrived as the Charon members see it, whose metrics name a peer.
    pub(super) fn partials_by_charon(&self, peer: &str) -> BTreeMap<String, Value> {
        let mut kinds: BTreeMap<String, (u64, u64)> = BTreeMap::new();
        for member in self.members.values() {
            for (name, place) in [
                ("core_tracker_participation_expected_total", 0),
                ("core_tracker_participation_success_total", 1),
            ] {
                for ((series, labels), moved) in &member.counters {
                    let is = |key: &str, value: &str| labels.iter().any(|(k, v)| k == key && v == value);
                    if series == name && is("peer", peer) {
                        let duty = labels.iter().find(|(key, _)| key == "duty").map(|(_, duty)| duty.clone());
                        let counts = kinds.entry(duty.unwrap_or_default()).or_default();
                        if place == 0 { counts.0 += whole(moved.sum) } else { counts.1 += whole(moved.sum) }
                    }
                }
            }
        }
        kinds
            .into_iter()
            .filter(|(_, (tried, _))| *tried > 0)
            .map(|(kind, (tried, succeeded))| {
                (kind, json!({"tried": tried, "succeeded": succeeded, "source": "metrics_of_charon_peers"}))
            })
            .collect()
    }
}

impl OfMember {
    /// Adds what the counters moved since they were last read. A counter that fell began again with its process.
    fn count(&mut self, kept: &[&str], metrics: &Metrics, counted: bool) {
        for &name in kept {
            for sample in metrics.of(name) {
                let labels = ["duty", "peer", "reason", "endpoint", "status_code", "kind", "leader"];
                let labels = labels.into_iter().filter_map(|label| {
                    sample.labels.get(label).map(|value| (label.to_owned(), value.clone()))
                });
                let moved = self.counters.entry((name.to_owned(), labels.collect())).or_default();
                let step = if sample.value >= moved.last { sample.value - moved.last } else { sample.value };
                moved.last = sample.value;
                // The first look only says where it stood; a series that appears later began at nothing.
                if self.begun {
                    moved.sum += step;
                }
            }
        }
        self.begun |= counted;
    }

    fn by_duty(&self, name: &str) -> BTreeMap<String, u64> {
        let mut counts: BTreeMap<String, u64> = BTreeMap::new();
        for ((series, labels), moved) in &self.counters {
            if let (true, Some((_, duty))) = (series == name, labels.iter().find(|(key, _)| key == "duty")) {
                *counts.entry(duty.clone()).or_default() += whole(moved.sum);
            }
        }
        counts
    }
}

/// A counter as the whole number that it is.
fn whole(value: f64) -> u64 {
    format!("{:.0}", value.max(0.0)).parse().unwrap_or_default()
}

/// The kind's name as the socket writes it.
fn word(kind: DutyKind) -> String {
    serde_json::to_value(kind).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_is_followed_over_a_restart_of_its_process() {
        let mut member = OfMember::default();
        let text = |value: u64| {
            Metrics::parse(&format!("core_tracker_expect_duties_total{{duty=\"attester\"}} {value}\n"))
        };
        member.count(&OF_CHARON, &text(10), false);
        member.count(&OF_CHARON, &text(12), true); // Where it stood when counting began.
        member.count(&OF_CHARON, &text(20), true);
        member.count(&OF_CHARON, &text(3), true); // Killed and started again.
        member.count(&OF_CHARON, &text(5), true);
        assert_eq!(member.by_duty("core_tracker_expect_duties_total")["attester"], 8 + 3 + 2);
    }

    #[test]
    fn an_agreement_counts_once_for_its_leader_however_many_hearths_saw_it() {
        let mut records = Records::new(Slot(8)..Slot(16));
        let text = |attester: u64, info_sync: u64| {
            Metrics::parse(&format!(
                "hearth_dv_agreed_total{{kind=\"attester\",leader=\"2\"}} {attester}\n\
                 hearth_dv_agreed_total{{kind=\"info_sync\",leader=\"1\"}} {info_sync}\n\
                 core_tracker_expect_duties_total{{duty=\"attester\"}} {attester}\n\
                 core_tracker_participation_expected_total{{duty=\"attester\",peer=\"x\"}} {attester}\n\
                 core_tracker_participation_success_total{{duty=\"attester\",peer=\"x\"}} {attester}\n"
            ))
        };
        for (observer, last) in [(1, text(9, 2)), (2, text(7, 2))] {
            let member = records.members.entry(observer).or_default();
            member.count(&OF_HEARTH, &text(5, 1), true);
            member.count(&OF_HEARTH, &last, true);
        }
        let agreed = records.agreed();
        assert_eq!(agreed["attester"], BTreeMap::from([("2".to_owned(), 4)]));
        assert_eq!(agreed["info_sync"], BTreeMap::from([("1".to_owned(), 1)]));
        // The names that it shares with Charon say nothing about Charons.
        assert!(records.charon_metrics(1).is_empty() && records.partials_by_charon("x").is_empty());
    }

    #[test]
    fn a_partial_signature_counts_once_however_many_saw_it() {
        let record = |slot, from: &[u8]| DutyRecord {
            slot,
            kind: DutyKind::Attester,
            validators: 2,
            outcome: DutyOutcome::Done,
            reason: None,
            decided_round: Some(1),
            leader: Some(1),
            partials_from: from.to_vec(),
            published_ms_into_slot: None,
        };
        let mut records = Records::new(Slot(0)..Slot(100));
        for (observer, slots) in
            [(1, [(8, vec![1, 3]), (9, vec![1])]), (2, [(8, vec![2, 3]), (9, vec![2, 3])])]
        {
            let member = records.members.entry(observer).or_default();
            for (slot, from) in slots {
                member.duties.insert((DutyKind::Attester, slot), record(slot, &from));
            }
        }
        assert_eq!(
            records.partials(3)["attester"],
            json!({"tried": 2, "succeeded": 2, "source": "records_of_hearth_peers"})
        );
        // What a member knows of itself is no evidence that it arrived anywhere.
        assert_eq!(records.partials(1)["attester"]["succeeded"], 0);
        assert_eq!(records.done_with(3)["attester"], (2, 2));
        assert_eq!(records.done_with(2)["attester"], (2, 0));
        assert_eq!(records.own(1)["attester"], json!({"tried": 4, "succeeded": 4, "source": "own_record"}));
        assert_eq!(records.first_partial_after(3, 9), Some(9));
        // Both recorded both slots: each counts once, for who led it.
        assert_eq!(records.led(1), BTreeMap::from([("attester".to_owned(), 2)]));
        assert!(records.led(2).is_empty());
    }
}
