//! What a run found: the check's result, and the counts of `--slots` as JSON.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::Context as _;
use cluster::ClusterView;
use hw_tests::client_manners::Finding;
use hw_tests::devnet::{Devnet, Tools};
use serde_json::{Value, json};

use super::members::Cluster;
use super::options::{Occupant, Plan};
use super::slots::Outcome;
use super::{exits, usage};
use crate::say;

/// What a check found, also as JSON.
#[derive(Debug, serde::Serialize)]
pub(super) struct CheckReport {
    pub(super) ok: bool,
    #[serde(rename = "box")]
    pub(super) machine: &'static str,
    pub(super) slot_seconds: u64,
    /// Seconds each step took, in order.
    pub(super) steps: Vec<(String, f64)>,
    /// Seconds from the word to the attestation on chain.
    pub(super) total_seconds: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) attestation: Option<CheckedAttestation>,
    /// What a stock validator client behind one of the members showed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) client: Vec<Finding>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) reason: Option<String>,
}

#[derive(Debug, serde::Serialize)]
pub(super) struct CheckedAttestation {
    pub(super) validator: u64,
    pub(super) attestation_slot: u64,
    pub(super) block_slot: u64,
    pub(super) block_root: String,
}

/// Failures listed one by one; the counts have them all.
const MAX_FAILURES: usize = 200;

/// What belongs into a report beside the counts.
pub(super) struct Facts<'a> {
    pub(super) plan: &'a Plan,
    pub(super) view: &'a ClusterView,
    /// Whether the members' programs were compiled for measuring.
    pub(super) optimised: bool,
    /// What to type for the same run.
    pub(super) command: String,
}

/// The counts, for a person.
pub(super) fn tell(outcome: &Outcome) {
    for (kind, count) in &outcome.counts.duties {
        let line = format!("{kind:<18} {:>5} of {:>5}", count.succeeded, count.tried);
        match (count.tried, count.succeeded) {
            (0, _) => say::note(&format!("{kind:<18} not asked for by the chain in these slots")),
            (tried, succeeded) if tried == succeeded => say::good(&line),
            (_, 0) => say::failed(&line),
            (_, _) => say::note(&line),
        }
    }
    for problem in outcome.builder.iter().flat_map(|builder| &builder.problems) {
        say::note(&format!("builder: {problem}"));
    }
    for restart in &outcome.restarts {
        let again = match restart.signed_again_at_slot {
            Some(slot) => format!("signed again in slot {slot}"),
            None => "no other Hearth member saw it sign again".to_owned(),
        };
        say::detail(&format!(
            "member {} ({}) killed in slot {}, started in slot {}, {again}",
            restart.member, restart.kind, restart.killed_at_slot, restart.started_at_slot
        ));
    }
}

/// Writes the report; `client` is what a stock validator client behind a Hearth showed.
pub(super) fn write(
    path: &Path,
    outcome: &Outcome,
    facts: &Facts<'_>,
    running: (&Cluster, &Devnet),
    client: &[Finding],
) -> anyhow::Result<()> {
    let report = compose(outcome, facts, running, client)?;
    let text = serde_json::to_string_pretty(&report)? + "\n";
    std::fs::write(path, text).with_context(|| format!("cannot write the report {}", path.display()))
}

fn compose(
    outcome: &Outcome,
    facts: &Facts<'_>,
    (cluster, chain): (&Cluster, &Devnet),
    client: &[Finding],
) -> anyhow::Result<Value> {
    let config = chain.config();
    let mut versions: BTreeMap<&str, String> = Tools::versions()?.into_iter().collect();
    versions.insert("hearth", env!("CARGO_PKG_VERSION").to_owned());
    let charons = facts.plan.occupants.iter().filter_map(|occupant| match occupant {
        Occupant::Charon(charon) => Some(charon.version()),
        Occupant::Box | Occupant::Hearth | Occupant::HearthWithClient | Occupant::HearthWithRemoteClient => {
            None
        }
    });
    let charons: BTreeSet<&str> = charons.collect();
    if !charons.is_empty() {
        versions.insert("charon", charons.into_iter().collect::<Vec<_>>().join(" and "));
    }
    let genesis_ms = chain.genesis_time()? * 1000;
    let members: BTreeMap<String, Value> = cluster
        .seats
        .iter()
        .map(|seat| {
            let number = seat.number;
            let operator = facts.view.operators.get(usize::from(number) - 1);
            let name = operator.map_or("", |operator| operator.name.as_str());
            let client = match seat.occupant {
                Occupant::Box | Occupant::Hearth => None,
                Occupant::HearthWithClient | Occupant::HearthWithRemoteClient | Occupant::Charon(_) => {
                    versions.get("prysm").map(|version| format!("prysm validator {version} --distributed"))
                }
            };
            let seen = seat.witness.as_ref().map(|witness| witness.seen()).unwrap_or_default();
            let third_ms = config.slot_seconds * 1000 / 3;
            let window = outcome.first_slot.0..outcome.first_slot.0 + outcome.slots;
            let attested = seen.attested_at_ms.iter().filter(|(slot, _)| window.contains(&slot.0));
            // Negative for votes that did not wait for the third.
            let attested: Vec<i64> = attested
                .map(|(slot, at)| {
                    let third = genesis_ms + slot.0 * config.slot_seconds * 1000 + third_ms;
                    i64::try_from(*at).unwrap_or(i64::MAX) - i64::try_from(third).unwrap_or(i64::MAX)
                })
                .collect();
            let said = json!({
                "kind": seat.occupant.word(),
                "version": outcome.records.version_of(number),
                "validator_client": client,
                "peer_name": name,
                "usage": outcome.usage.of(seat, outcome.slots, &attested),
                "duties": outcome.counts.members.get(&number),
                "own_record": outcome.records.own(number),
                "charon_metrics": outcome.records.charon_metrics(number),
                "partials_at_hearth_members": outcome.records.partials(number),
                "partials_at_charon_members": outcome.records.partials_by_charon(name),
                "led": outcome.records.led(number),
                "missed_because": outcome.records.reasons(number),
                "builder_registrations": {
                    "tried": seen.registrations.0, "succeeded": seen.registrations.1, "source": "beacon_node_accepted",
                },
                "voluntary_exits": exits::of_member(seat),
                "unreadable_here": seen.unreadable,
                "refused_by_beacon_node": {"requests": seen.refusals, "first": seen.refused},
            });
            (number.to_string(), said)
        })
        .collect();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    Ok(json!({
        "command": facts.command,
        "cores": cores,
        "mix": facts.plan.mix(),
        "members_total": facts.plan.occupants.len(),
        "threshold": facts.plan.threshold,
        "validators": facts.view.validators.len(),
        "fork": format!("{:?}", config.fork).to_lowercase(),
        "slot_seconds": config.slot_seconds,
        "slots_per_epoch": config.slots_per_epoch,
        "versions": versions,
        "window": {
            "first_slot": outcome.first_slot.0,
            "slots": outcome.slots,
            "counted": "duties of these slots: whole epochs, from the second one on and after every member was at work",
            "not_at_work_when_it_began": outcome.not_ready,
        },
        "sources": {
            "chain": "canonical blocks and states; each vote once by slot and validator, a proposal by its slot's block, \
                      a sync-committee message by the seats' bits in the next slot's block; randao by the proposal that \
                      carries it, a lower bound; proposer_blinded: of the proposals, those whose payload has the builder's \
                      extra data; voluntary_exit: the validator's status in the head state",
            "duties_of_others": "the chain's other validators, which Prysm's own client runs: what this machine allowed",
            "members.N.duties": "tried: of the whole cluster; succeeded: done by the same sources, and the beacon node accepted \
                                 it from this member too (its vote, block, message, exit or registration; a reveal by its block)",
            "builder": "what the builder holds, each checked against the validator's own key",
            "beacon_node_accepted": "answers of the beacon node to what members handed in; tried is what the selection \
                                     proofs of the validators ask for",
            "own_record": "the member's own records of ended duties, times their validators",
            "records_of_hearth_peers": "slots in which another Hearth member recorded the duty, and in how many of them it \
                                        had this member's partial signature",
            "led": "duties that ended well by the records of the Hearth members, whose deciding round the member led",
            "unreadable_here": "requests that the beacon node accepted and the harness could not read: what they hand in counts for nobody",
            "agreed": "agreements decided since counting began, by kind of duty and by the member that led the round that decided: \
                       the Hearth members' counters, of each the most that one of them counted",
            "usage": "kernel accounts of the processes, `ss` for bytes between members, and the first arrival of each slot's \
                      votes at the beacon node; charon_over_hearth: means of the members, above one where Hearth needs less",
            "charon_metrics": "core_tracker_expect_duties_total and core_tracker_success_duties_total, by slot, which Charon \
                               moves some slots later, so that the last ones are missing, and forgets when it is killed",
        },
        "duties": outcome.counts.duties,
        "duties_of_others": outcome.counts.others,
        "builder": outcome.builder.as_ref().map(|builder| json!({
            "validators_registered": builder.registrations.len(),
            "registrations_taken": builder.registrations_taken,
            "registrations_refused": builder.registrations_refused,
            "offers": builder.offers,
            "payloads_shown": builder.revealed,
            "problems": builder.problems,
        })),
        "charon_over_hearth": usage::compare(&members),
        "agreed": outcome.records.agreed(),
        "programs": if facts.optimised { "measured" } else { "dev" },
        "members": members,
        "restarts": outcome.restarts,
        "validator_client": client,
        "failures": outcome.counts.failures.iter().take(MAX_FAILURES).collect::<Vec<_>>(),
        "empty_slots": outcome.counts.empty_slots,
        "attester_votes_at_once": outcome.counts.attester_votes_at_once,
        "sync_messages_unseen": outcome.counts.sync_messages_unseen,
        "chain_seconds": outcome.chain_seconds,
        "total_seconds": (say::elapsed().as_secs_f64() * 10.0).round() / 10.0,
    }))
}
