//! Without `--check`: runs until Ctrl-C and tells what happens.

use std::collections::BTreeSet;

use chain::{Slot, ValidatorIndex};
use hw_tests::devnet::Devnet;
use hw_tests::devnet::inclusion::{Follower, Reader};
use ipc::web::BoxStatus;

use super::members::Cluster;
use super::{pause, stopped};
use crate::say;

/// Until Ctrl-C: each duty of the box as it ends, each attestation of the cluster as it appears on chain.
pub(super) fn watch(
    chain: &mut Devnet,
    cluster: &mut Cluster,
    distributed: &BTreeSet<ValidatorIndex>,
) -> anyhow::Result<()> {
    say::begin("running; Ctrl-C ends it");
    let mut follower = Follower::new(Reader::new(chain.api(), chain.config().slots_per_epoch), Slot(1));
    let mut told = BTreeSet::new();
    let mut problems = BTreeSet::new();
    while !stopped() {
        if let Err(error) = pause(chain, cluster) {
            if stopped() {
                break;
            }
            return Err(error);
        }
        if let Ok(status) = cluster.page()?.status() {
            tell(&status, &mut told, &mut problems);
        }
        for vote in follower.poll().unwrap_or_default() {
            if distributed.contains(&vote.validator) {
                say::good(&format!(
                    "on chain: validator {} slot {} in block {}",
                    vote.validator, vote.attestation_slot, vote.block_slot
                ));
            }
        }
    }
    Ok(())
}

fn tell(status: &BoxStatus, told: &mut BTreeSet<(u64, String)>, problems: &mut BTreeSet<String>) {
    let now: BTreeSet<String> = status
        .problems
        .iter()
        .chain(status.node.iter().flat_map(|node| &node.problems))
        .chain(status.signer.iter().flat_map(|signer| &signer.problems))
        .map(ToString::to_string)
        .collect();
    for new in now.difference(problems) {
        say::note(new);
    }
    for gone in problems.difference(&now) {
        say::good(&format!("no longer: {gone}"));
    }
    *problems = now;
    let Some(node) = &status.node else { return };
    for duty in node.duties.iter().rev() {
        use ipc::node::DutyOutcome;
        let kind = format!("{:?}", duty.kind).to_lowercase();
        let ended = match duty.outcome {
            DutyOutcome::Pending => continue,
            DutyOutcome::Done => {
                let at = duty.published_ms_into_slot.unwrap_or_default();
                format!(
                    "done, round {}, by {:?}, {at} ms into the slot",
                    duty.decided_round.unwrap_or(1),
                    duty.partials_from
                )
            }
            DutyOutcome::Missed => {
                let why =
                    duty.reason.as_ref().map(|reason| format!("{} ({})", reason.message, reason.component));
                format!("missed: {}", why.unwrap_or_default())
            }
        };
        if told.insert((duty.slot, kind.clone())) {
            say::detail(&format!("slot {} {kind}: {ended}", duty.slot));
        }
    }
}
