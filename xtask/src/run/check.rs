//! `--check`: until the chain holds an attestation that cannot exist without the box.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context as _, bail, ensure};
use chain::{Slot, ValidatorIndex};
use hw_tests::client_manners::Finding;
use hw_tests::devnet::Devnet;
use hw_tests::devnet::inclusion::{Follower, Inclusion, Reader};
use hw_tests::secrets::Needles;
use ipc::web::BoxStatus;

use super::members::{Body, Cluster, Seat};
use super::options::Occupant;
use super::records::Records;
use super::{client, pause};
use crate::say;

/// Once the box is in: how many epochs until an attestation of its must be on chain.
const CHECK_EPOCHS: u64 = 8;

/// Waits until an attestation that cannot exist without the box is in a block.
///
/// As many members as the threshold can spare are switched off for it, so every attestation of a distributed validator
/// from a later slot carries the box's partial signature.
pub(super) fn check(
    chain: &mut Devnet,
    cluster: &mut Cluster,
    distributed: &BTreeSet<ValidatorIndex>,
) -> anyhow::Result<Inclusion> {
    say::begin("waiting until the box signs");
    let slots = CHECK_EPOCHS * chain.config().slots_per_epoch;
    let first_deadline = chain.clock_slot()?.0 + slots;
    while !has_done_a_duty(&cluster.page()?.status()?) {
        pause(chain, cluster)?;
        if chain.clock_slot()?.0 > first_deadline {
            bail!(
                "the box did no duty within {slots} slots; its page says: {}",
                summary(&cluster.page()?.status()?)
            );
        }
    }
    let spare = cluster.seats.len().saturating_sub(usize::from(cluster.threshold));
    let machine = cluster.page_number();
    let leaving = cluster.seats.iter_mut().filter(|seat| Some(seat.number) != machine && seat.is_on());
    let mut leaving: Vec<_> = leaving.collect();
    // A validator client is to be needed too: its member leaves last.
    leaving.sort_by_key(|seat| seat.occupant.has_client());
    let mut names = Vec::new();
    for seat in leaving.into_iter().take(spare) {
        seat.switch_off()?;
        names.push(seat.name.clone());
    }
    // A duty of the running slot may have been signed with the members that just left.
    let from = Slot(chain.clock_slot()?.0 + 1);
    say::good(&format!(
        "{} switched off: from slot {from} on nothing can be signed without the box",
        names.join(" and ")
    ));

    let mut follower = Follower::new(Reader::new(chain.api(), chain.config().slots_per_epoch), from);
    let deadline = from.0 + slots;
    loop {
        pause(chain, cluster)?;
        let found = follower.poll()?;
        let wanted = found
            .into_iter()
            .find(|vote| vote.attestation_slot >= from && distributed.contains(&vote.validator));
        if let Some(vote) = wanted {
            say::good(&format!(
                "validator {}: attestation of slot {} is in block {} ({})",
                vote.validator, vote.attestation_slot, vote.block_slot, vote.block_root
            ));
            return Ok(vote);
        }
        if chain.clock_slot()?.0 > deadline {
            bail!(
                "no attestation of the cluster on chain within {slots} slots; the box's page says: {}",
                summary(&cluster.page()?.status()?)
            );
        }
    }
}

/// An epoch of duties of all kinds after [`check`], which left no member to spare: those that end well hold the signatures of
/// the validator clients of all members that have one.
pub(super) fn client_is_needed(chain: &mut Devnet, cluster: &mut Cluster) -> anyhow::Result<Vec<Finding>> {
    let with_client = |seat: &&Seat| seat.occupant.has_client() && seat.is_on();
    let members: Vec<u8> = cluster.seats.iter().filter(with_client).map(|seat| seat.number).collect();
    if members.is_empty() {
        return Ok(Vec::new());
    }
    let on = cluster.seats.iter().filter(|seat| seat.is_on()).count();
    ensure!(on == usize::from(cluster.threshold), "{on} members are on, which is not the threshold");
    let from = Slot(chain.clock_slot()?.0 + 1);
    let end = Slot(from.0 + chain.config().slots_per_epoch);
    let named: Vec<String> = members.iter().map(ToString::to_string).collect();
    say::begin(&format!(
        "an epoch in which no member with a validator client can be spared: {}",
        named.join(" and ")
    ));
    let mut records = Records::new(from..end);
    // One slot more, for what ends late.
    while chain.clock_slot()?.0 <= end.0 + 1 {
        pause(chain, cluster)?;
        records.read(cluster, chain.clock_slot()?);
    }
    let judge = |member: u8| {
        let found = client::is_needed(&records.done_with(member));
        say::detail(&format!("done with the signatures of member {member}: {}", found.found));
        found
    };
    Ok(members.into_iter().map(judge).collect())
}

/// Looks for the shares of every native member wherever they must not be. To show that it can see, it also looks into the
/// signers themselves, which only an administrator of the machine can do.
pub(super) fn look_for_shares(cluster: &Cluster) -> anyhow::Result<()> {
    let (mut memory, mut files, mut processes, mut signers) = (0, 0, 0, 0);
    for seat in &cluster.seats {
        let Some(Body::Native(member)) = &seat.body else { continue };
        let needles = Needles::of(&seat.share_keys()?);
        for (name, pid) in member.processes() {
            let looked = needles.in_process(&format!("{name} of {}", seat.name), pid);
            let (bytes, found) = match looked {
                Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                    say::skipped(&format!("this user may not look into {name} for shares"));
                    continue;
                }
                other => other.with_context(|| format!("looking into {name} of {}", seat.name))?,
            };
            if name == "signer" && seat.occupant == Occupant::HearthWithClient {
                continue; // Its shares are with its client, as its owner wanted.
            }
            if name == "signer" {
                ensure!(found.is_some(), "no share is found where it must be, so nothing was shown");
                signers += 1;
                continue;
            }
            ensure!(found.is_none(), "a share is where it must not be: {found:?}");
            memory += bytes;
            processes += 1;
        }
        let (count, found) = needles.in_folder(member.dir())?;
        ensure!(found.is_none(), "a share is where it must not be: {found:?}");
        files += count;
    }
    say::good(&format!(
        "no share in {processes} other processes ({} MiB of memory) nor in {files} files, logs among them; found in {signers} signers",
        memory >> 20
    ));
    Ok(())
}

/// Opens the box's page as its owner would and holds it to what just happened.
pub(super) fn look_at_page(cluster: &Cluster, picture: &Path) -> anyhow::Result<()> {
    if !hw_tests::browser::is_here() {
        say::skipped(
            "no chromedriver with Chromium on this machine: the page was not looked at in a browser",
        );
        return Ok(());
    }
    let seen = hw_tests::browser::look(cluster.page()?.address(), (1280, 1400), Some(picture))?;
    say::detail(&format!("the page says: {seen:?}"));
    let members = cluster.seats.len();
    ensure!(seen.members == members, "the page lists {} members instead of {members}", seen.members);
    ensure!(
        seen.slot.chars().any(|letter| letter.is_ascii_digit()),
        "the page shows no slot but {:?}",
        seen.slot
    );
    ensure!(seen.state != "box not reachable", "the page cannot reach its own box");
    // The member that was switched off for the check must be named, with what to do.
    ensure!(!seen.problems.is_empty(), "the page does not say that a member is away");
    Ok(())
}

pub(super) fn has_done_a_duty(status: &BoxStatus) -> bool {
    let duties = status.node.iter().flat_map(|node| &node.duties);
    duties.into_iter().any(|duty| duty.outcome == ipc::node::DutyOutcome::Done)
}

/// The box in one line, for a message about what went wrong.
pub(super) fn summary(status: &BoxStatus) -> String {
    let problems = status.problems.iter();
    let problems = problems.chain(status.node.iter().flat_map(|node| &node.problems));
    let problems = problems.chain(status.signer.iter().flat_map(|signer| &signer.problems));
    let mut said: Vec<String> = problems.map(ToString::to_string).collect();
    for duty in status.node.iter().flat_map(|node| node.duties.iter().take(3)) {
        let why = duty.reason.as_ref().map(|reason| reason.message.as_str()).unwrap_or_default();
        said.push(format!("slot {}: {:?} {why}", duty.slot, duty.outcome));
    }
    if said.is_empty() { "nothing is wrong".to_owned() } else { said.join(" | ") }
}
