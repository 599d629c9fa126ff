//! A member whose duties a stock validator client signs: what its requests show, in quiet times and when something fails.

use std::fs;
use std::ops::Range;

use anyhow::{Context as _, ensure};
use hw_tests::client_manners::{self as manners, Finding};
use hw_tests::devnet::Devnet;

use super::members::{Cluster, Seat};
use super::options::Occupant;
use super::slots::Outcome;
use super::{pause, stopped};
use crate::say;

/// How long the others are frozen: the client meets duties of every kind that cannot be done.
const AWAY_SLOTS: u64 = 3;
/// What a client may take to start, and to be asked for a duty again.
const PATIENCE_EPOCHS: u64 = 2;
/// Prysm's client gives up after ten seconds, and does nothing else until then.
const CLIENT_GIVES_UP_MS: u64 = 10_000;

/// The seat with a client behind a Hearth, if there is one.
fn client_seat(cluster: &Cluster) -> Option<usize> {
    cluster.seats.iter().position(|seat| seat.occupant == Occupant::HearthWithClient && seat.is_on())
}

fn seat(cluster: &mut Cluster, position: usize) -> anyhow::Result<&mut Seat> {
    cluster.seats.get_mut(position).context("a seat went missing")
}

/// Wall-clock milliseconds of some slots.
fn window(chain: &Devnet, slots: Range<u64>) -> anyhow::Result<Range<u64>> {
    let slot_ms = chain.config().slot_seconds * 1000;
    let genesis_ms = chain.genesis_time()? * 1000;
    Ok(genesis_ms + slots.start * slot_ms..genesis_ms + slots.end * slot_ms)
}

fn log(seat: &Seat) -> anyhow::Result<String> {
    let path = seat.client.as_ref().context("its client is gone")?.log();
    // Prysm writes colours and, now and then, half a character.
    let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Tries what a client has to bear, after duties were counted. Nothing when no member has a client.
pub(super) fn try_it(
    chain: &mut Devnet,
    cluster: &mut Cluster,
    counted: &Outcome,
) -> anyhow::Result<Vec<Finding>> {
    let Some(position) = client_seat(cluster) else { return Ok(Vec::new()) };
    let name = cluster.seats[position].name.clone();
    say::begin(&format!("what the validator client of {name} was told"));
    let first = counted.first_slot.0;
    let quiet = window(chain, first..first + counted.slots)?;
    let written = written(cluster, position)?;
    let mut findings = vec![
        manners::selections_are_asked_for_once(&written, &quiet),
        manners::no_refusal_became_a_server_error(&written, &quiet),
        manners::duties_are_never_stale(&log(seat(cluster, position)?)?),
    ];
    restart_client(chain, cluster, position)?;
    findings.push(manners::repeated_selections_are_answered_from_memory(&self::written(cluster, position)?));
    findings.extend(freeze_others(chain, cluster, position)?);
    if let Some(published) = openapi::published(openapi::BEACON) {
        findings.push(manners::answers_are_as_published(&self::written(cluster, position)?, published));
    }
    for line in manners::summary(&self::written(cluster, position)?) {
        say::detail(&line);
    }
    for finding in &findings {
        let line = format!("{}: {}", finding.what, finding.found);
        if finding.holds { say::good(&line) } else { say::failed(&line) }
    }
    Ok(findings)
}

fn written(cluster: &Cluster, position: usize) -> anyhow::Result<Vec<hw_tests::devnet::scribe::Exchange>> {
    let scribe = cluster.seats.get(position).and_then(|seat| seat.scribe.as_ref());
    Ok(scribe.context("nobody wrote down what the client asked")?.written())
}

/// A client that was started again asks for everything again.
fn restart_client(chain: &mut Devnet, cluster: &mut Cluster, position: usize) -> anyhow::Result<()> {
    let before = written(cluster, position)?.len();
    let client = seat(cluster, position)?.client.as_mut().context("its client is gone")?;
    client.power_cut()?;
    client.power_on()?;
    let per_epoch = chain.config().slots_per_epoch;
    let deadline = chain.clock_slot()?.0 + PATIENCE_EPOCHS * per_epoch;
    loop {
        pause(chain, cluster)?;
        let since = written(cluster, position)?;
        let asked = since.iter().skip(before).any(|exchange| {
            exchange.path.ends_with("beacon_committee_selections") && exchange.answer.is_some()
        });
        if asked {
            return Ok(());
        }
        ensure!(
            chain.clock_slot()?.0 <= deadline,
            "the validator client did not come back after it was killed"
        );
    }
}

/// The seats that stand still so that nothing can be agreed on or combined: one more than the cluster can spare, of those
/// that can, and not the client's own. None when there are too few of them.
fn to_freeze(can_freeze: &[bool], client: usize, threshold: u8) -> Option<Vec<usize>> {
    let needed = can_freeze.len().saturating_sub(usize::from(threshold)) + 1;
    let others = can_freeze.iter().enumerate().filter(|(seat, can)| **can && *seat != client);
    let chosen: Vec<usize> = others.map(|(seat, _)| seat).take(needed).collect();
    (chosen.len() == needed).then_some(chosen)
}

/// Some others stand still, so that nothing can be agreed on or combined; then they go on.
fn freeze_others(chain: &mut Devnet, cluster: &mut Cluster, position: usize) -> anyhow::Result<Vec<Finding>> {
    let seats = cluster.seats.iter();
    let can_freeze: Vec<bool> = seats.map(|seat| seat.occupant.can_freeze() && seat.is_on()).collect();
    let Some(chosen) = to_freeze(&can_freeze, position, cluster.threshold) else {
        // Not silently: what a check is content with has been tried.
        return Ok(vec![Finding {
            what: "a client bears that nothing can be agreed on",
            holds: false,
            found: "not tried: too few members are on and can be frozen".to_owned(),
        }]);
    };
    let seats = cluster.seats.iter_mut().enumerate().filter(|(seat, _)| chosen.contains(seat));
    let mut frozen: Vec<&mut hw_tests::process::Process> =
        seats.filter_map(|(_, seat)| seat.duty_process()).collect();
    ensure!(frozen.len() == chosen.len(), "a member whose duties were to stand still does not run");
    let from = chain.clock_slot()?.0 + 1;
    wait_for_slot(chain, from)?;
    frozen.iter_mut().try_for_each(|node| node.pause())?;
    say::note(&format!("slot {from}: {} members frozen for {AWAY_SLOTS} slots", frozen.len()));
    let waited = wait_for_slot(chain, from + AWAY_SLOTS);
    frozen.iter_mut().try_for_each(|node| node.resume())?;
    drop(frozen);
    waited?;
    let back = from + AWAY_SLOTS;
    // One slot to find each other again, and an epoch in which every validator votes.
    let end = back + 1 + chain.config().slots_per_epoch;
    while chain.clock_slot()?.0 < end {
        pause(chain, cluster)?;
    }
    let written = written(cluster, position)?;
    let limit = CLIENT_GIVES_UP_MS.min(chain.config().slot_seconds * 1000 * 2);
    Ok(vec![
        manners::everything_is_answered_in_time(&written, &window(chain, from..back)?, limit),
        manners::votes_are_taken(&written, &window(chain, back + 1..end)?),
    ])
}

fn wait_for_slot(chain: &mut Devnet, slot: u64) -> anyhow::Result<()> {
    while chain.clock_slot()?.0 < slot {
        ensure!(!stopped(), "stopped");
        chain.check_alive()?;
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    Ok(())
}

/// With no member to spare: duties of every kind that ended well had the client's signature.
pub(super) fn is_needed(by_kind: &std::collections::BTreeMap<String, (u64, u64)>) -> Finding {
    let said: Vec<String> =
        by_kind.iter().map(|(kind, (ended, with))| format!("{kind} {with} of {ended}")).collect();
    let must = ["attester", "aggregator", "sync_message"];
    let seen = must.iter().all(|kind| by_kind.contains_key(*kind));
    Finding {
        what: "with no member to spare, every kind of duty is done with the client's signatures",
        holds: seen && by_kind.values().all(|(_, with)| *with > 0),
        found: said.join(", "),
    }
}

/// Fails with all that does not hold.
pub(super) fn ensure_all_hold(findings: &[Finding]) -> anyhow::Result<()> {
    let wrong: Vec<String> = findings
        .iter()
        .filter(|finding| !finding.holds)
        .map(|finding| format!("not so: {} ({})", finding.what, finding.found))
        .collect();
    ensure!(wrong.is_empty(), "{}", wrong.join("; "));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_more_than_the_cluster_can_spare_stands_still_and_never_the_client() {
        // A client and three others of any kind; two of seven may be away.
        assert_eq!(to_freeze(&[true; 4], 0, 3), Some(vec![1, 2]));
        assert_eq!(to_freeze(&[true; 7], 1, 5), Some(vec![0, 2, 3]));
        // The last one is a box in QEMU.
        assert_eq!(to_freeze(&[true, true, true, false], 1, 3), Some(vec![0, 2]));
        assert_eq!(to_freeze(&[true, true, true, true], 1, 4), Some(vec![0]));
        // Somebody is away already: that is a finding, and loses no report.
        assert_eq!(to_freeze(&[true, false, true, false], 0, 3), None);
    }
}
