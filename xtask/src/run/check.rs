//! `--check`: until the chain holds an attestation that cannot exist without the box.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context as _, bail, ensure};
use chain::{Slot, ValidatorIndex};
use hw_tests::client_manners::Finding;
use hw_tests::devnet::Devnet;
use hw_tests::devnet::inclusion::{Follower, Inclusion, Reader};
use hw_tests::secrets::Needles;
use hw_tests::vm::shares::{self, Looked};
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

/// Looks for the shares of every Hearth wherever they must not be: in everything that this run has started, in what members
/// have written, and inside the box in QEMU. To show that it can see, it also looks into the signers themselves, which only an
/// administrator of the machine can do.
pub(super) fn look_for_shares(cluster: &mut Cluster) -> anyhow::Result<()> {
    let (mut shares, mut signers, mut folders) = (Vec::new(), BTreeSet::new(), Vec::new());
    for seat in &cluster.seats {
        let Some(Body::Native(member)) = &seat.body else { continue };
        folders.push(member.dir());
        // Else its shares are with its client, as its owner wanted.
        if seat.occupant != Occupant::HearthWithClient {
            shares.extend(seat.share_keys()?);
            signers.extend(
                member.processes().into_iter().filter(|(name, _)| name == "signer").map(|(_, pid)| pid),
            );
        }
    }
    let needles = Needles::of(&shares);
    let (mut memory, mut files, mut processes, mut seen) = (0, 0, BTreeMap::new(), 0);
    for (pid, program) in started_by_us() {
        // A virtual machine's memory has its signer in it; that one is looked at from within, below.
        if program.starts_with("qemu-system") {
            continue;
        }
        let (bytes, found) = match needles.in_process(&program, pid) {
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                say::skipped(&format!("this user may not look into {program} for shares"));
                continue;
            }
            Err(error) if error.kind() == ErrorKind::NotFound => continue, // It has ended meanwhile.
            other => other.with_context(|| format!("looking into {program}"))?,
        };
        if signers.contains(&pid) {
            ensure!(found.is_some(), "no share is found where it must be, so nothing was shown");
            seen += 1;
            continue;
        }
        ensure!(found.is_none(), "a share is where it must not be: {found:?}");
        memory += bytes;
        *processes.entry(program).or_insert(0) += 1;
    }
    for folder in folders {
        let (count, found) = needles.in_folder(folder)?;
        ensure!(found.is_none(), "a share is where it must not be: {found:?}");
        files += count;
    }
    let names: Vec<String> = processes.iter().map(|(name, count)| format!("{count} {name}")).collect();
    say::good(&format!(
        "no share in the memory of {} ({} MiB) nor in {files} files, logs among them; found in {seen} signers",
        names.join(", "),
        memory >> 20
    ));
    for seat in &mut cluster.seats {
        let needles = Needles::of(&seat.share_keys()?);
        let Some(Body::Qemu { vm, .. }) = &mut seat.body else { continue };
        if let Some(found) = needles.in_file(vm.disk())? {
            bail!("a share is on the box's disk, which is encrypted: {found:?}");
        }
        say::detail("no share is on the box's disk as it lies there; looking inside the box");
        look_in_box(&shares::look(vm.as_mut(), &needles)?)?;
    }
    Ok(())
}

/// What was found inside the box, whose signer has to have its shares and nobody else anything of them.
fn look_in_box(looked: &[Looked]) -> anyhow::Result<()> {
    let (signer, others): (Vec<_>, Vec<_>) = looked.iter().partition(|looked| looked.place == "signer");
    ensure!(
        signer.iter().any(|looked| looked.found > 0),
        "no share is found in the box's signer, so nothing was shown: {signer:?}"
    );
    let wrong: Vec<_> = others.iter().filter(|looked| looked.found > 0).collect();
    ensure!(wrong.is_empty(), "a share is where it must not be in the box: {wrong:?}");
    let names: BTreeSet<&str> = others.iter().map(|looked| looked.place.as_str()).collect();
    for expected in ["systemd", "systemd-journal", "dv-node", "web", "the journal"] {
        ensure!(names.contains(expected), "{expected} was not looked at in the box: {names:?}");
    }
    say::good(&format!(
        "in the box a share is in the signer only; looked at: {}",
        names.into_iter().collect::<Vec<_>>().join(", ")
    ));
    Ok(())
}

/// Every process that this one has started, with those that they started: the number, and the program's name.
fn started_by_us() -> Vec<(u32, String)> {
    let mut parents = BTreeMap::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
        // The name may hold anything, brackets too.
        let Some((before, after)) = stat.rsplit_once(") ") else { continue };
        let name = before.split_once(" (").map_or("?", |(_, name)| name).to_owned();
        if let Some(parent) = after.split(' ').nth(1).and_then(|parent| parent.parse().ok()) {
            parents.insert(pid, (parent, name));
        }
    }
    let ours = std::process::id();
    let is_ours = |mut pid: u32| {
        while let Some((parent, _)) = parents.get(&pid) {
            if *parent == ours {
                return true;
            }
            pid = *parent;
        }
        false
    };
    parents.iter().filter(|(pid, _)| is_ours(**pid)).map(|(pid, (_, name))| (*pid, name.clone())).collect()
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
