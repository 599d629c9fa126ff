//! Builds, makes and starts everything, then hands over to whoever watches it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, ensure};
use chain::ValidatorIndex;
use cluster::create::{self, Addresses, CreateOptions};
use cluster::keystore::KdfCost;
use cluster::network::Network;
use hw_tests::devnet::duties::{BLINDED, Counts, EXIT, REGISTRATION};
use hw_tests::devnet::{self, Devnet, DistributedValidator, Tools};
use hw_tests::join::NodeFolder;
use hw_tests::member::Member;
use threshold::SecretKey;

use super::members::{Body, Cluster};
use super::options::{Arguments, Fork, Plan};
use super::report::{self, CheckedAttestation};
use super::{Steps, boot, build_binaries, cache, check, client, exits, make_dir, outside, slots, watch};
use crate::say;

/// Validators that Prysm's own client runs, so that the chain lives without the cluster.
const FILLERS: u64 = 32;
/// Time between making the genesis and its first slot.
const GENESIS_DELAY: std::time::Duration = std::time::Duration::from_secs(20);

pub(super) fn stage(arguments: &Arguments, report: &mut report::CheckReport) -> anyhow::Result<()> {
    let plan = Plan::of(arguments)?;
    // A folder of its own for each run, so that two runs never meet; removed at the end unless it was asked for.
    let temporary = tempfile::Builder::new().prefix("run-").tempdir_in(make_dir(&cache()?.join("runs"))?)?;
    let dir = match &arguments.keep {
        Some(keep) => make_dir(keep)?.canonicalize()?,
        None => temporary.path().to_owned(),
    };
    let mut steps = Steps { report, begun: std::time::Instant::now() };

    let binaries = build_binaries(arguments.optimised)?;
    steps.done("programs built");
    say::begin("geth and Prysm (built from their Go modules the first time)");
    let tools = Tools::ensure(&mut |line| say::detail(line))?;
    steps.done("chain clients ready");
    let image = if arguments.fast {
        None
    } else {
        say::begin("the OS image (mkosi)");
        let image = crate::image::build_dev()?;
        steps.done("image built");
        Some(image)
    };
    let slot_seconds = slot_seconds(arguments, &tools, &dir)?;
    steps.report.slot_seconds = slot_seconds;
    steps.done(&format!("slot time chosen: {slot_seconds} s"));

    say::begin(&format!(
        "a cluster of {} members ({}), {} of which must sign, with {} validators",
        plan.occupants.len(),
        plan.mix(),
        plan.threshold,
        arguments.validators
    ));
    let made = make_cluster(&dir, &plan, arguments)?;
    let deposits = deposits(made.folders[0].path())?;
    let mut chain =
        Devnet::prepare(&dir.join("chain"), chain_config(arguments, slot_seconds), tools, &deposits)?;
    let mut cluster = Cluster::new(&plan, made.folders);
    steps.done("cluster and genesis made");

    // The box first: its boot is the longest wait, and the chain should not grow old meanwhile.
    match &image {
        Some(image) => cluster.seat_box(boot::boot_box(image, &dir.join("box"), &mut steps)?),
        None if plan.page_seat().is_some() => {
            let member = Member::start("hearth", &dir.join("hearth"), &binaries)?;
            cluster.seat_box(Body::Native(Box::new(member)));
        }
        None => {}
    }
    say::begin("the chain: geth, Prysm's beacon node, Prysm's validator client");
    chain.start(GENESIS_DELAY)?;
    steps.done("chain started");
    if arguments.slots.is_some() {
        cluster.witness_all(&chain)?;
    }
    cluster.start(&chain, &dir, &binaries)?;
    steps.done("all other members started");
    cluster.join_all(&chain, &dir, slot_seconds)?;
    steps.done("shares sealed in every Hearth member; cluster joined");
    let keys = keys_by_index(&chain, made.keys)?;
    let distributed: BTreeSet<ValidatorIndex> = keys.keys().copied().collect();

    cluster.say_addresses(&chain)?;
    let mut proposals = 0;
    if let Some(slots) = arguments.slots {
        let leaving = arguments.exits.map(|exits| exits::choose(&keys, exits)).unwrap_or_default();
        let wish = slots::Wish {
            slots,
            restart_members: arguments.restart_members,
            until_it_proposes: arguments.every_kind,
        };
        let mut outcome = slots::run(&mut chain, &mut cluster, keys, wish)?;
        steps.done("the duties of all slots counted");
        let left = if leaving.is_empty() {
            Ok(())
        } else {
            exits::run(&mut chain, &mut cluster, &leaving, &mut outcome.counts)
        };
        report::tell(&outcome);
        // What was counted is written before anything else can fail, and again with what comes after.
        let facts = report::Facts {
            plan: &plan,
            view: &made.view,
            optimised: arguments.optimised,
            command: arguments.command(slot_seconds),
        };
        if let Some(path) = &arguments.report {
            report::write(path, &outcome, &facts, (&cluster, &chain), &[])?;
        }
        left?;
        if !leaving.is_empty() {
            steps.done("what the owners let leave has left");
        }
        proposals = outcome.counts.duties.get("proposer").map_or(0, |count| count.tried);
        let client = client::try_it(&mut chain, &mut cluster, &outcome)?;
        if !client.is_empty() {
            steps.done("the validator client behind a member was tried");
        }
        if let Some(path) = &arguments.report {
            report::write(path, &outcome, &facts, (&cluster, &chain), &client)?;
            say::good(&format!("report in {}", path.display()));
        }
        if arguments.check {
            let mut wrong = wanting(&outcome.counts, arguments);
            let unreadable = cluster.unreadable();
            if unreadable > 0 {
                wrong.push(format!(
                    "{unreadable} requests that the beacon node accepted could not be read here"
                ));
            }
            ensure!(wrong.is_empty(), "{}", wrong.join("; "));
        }
        if arguments.check {
            client::ensure_all_hold(&client)?;
        }
        steps.report.client = client;
    }
    if arguments.check {
        let inclusion = check::check(&mut chain, &mut cluster, &distributed)?;
        steps.done("an attestation that needed the box is on chain");
        steps.report.attestation = Some(CheckedAttestation {
            validator: inclusion.validator.0,
            attestation_slot: inclusion.attestation_slot.0,
            block_slot: inclusion.block_slot.0,
            block_root: inclusion.block_root.to_string(),
        });
        let needed = check::client_is_needed(&mut chain, &mut cluster)?;
        if !needed.is_empty() {
            client::ensure_all_hold(&needed)?;
            steps.report.client.extend(needed);
            steps.done("duties that needed the validator client are done");
        }
        if let Some(found) = outside::look_at_signer(&cluster, proposals)? {
            client::ensure_all_hold(std::slice::from_ref(&found))?;
            steps.report.client.push(found);
            steps.done("a stock client has its duties signed by the box's signer");
        }
        check::look_for_shares(&mut cluster)?;
        steps.done("no share is anywhere but in a signer");
        if let Some(picture) = &arguments.picture {
            check::look_at_page(&cluster, picture)?;
            steps.done("the page shows it in a browser");
        }
    } else if arguments.slots.is_none() {
        watch::watch(&mut chain, &mut cluster, &distributed)?;
    }
    cluster.stop()?;
    drop(cluster);
    chain.stop();
    Ok(())
}

/// What a check does not accept: a kind of duty never done, or much less often than this machine allowed; and as a test of ours,
/// a kind that was never asked for.
fn wanting(counts: &Counts, arguments: &Arguments) -> Vec<String> {
    let never = |kind: &&str| format!("{kind}: asked for by the chain and never done");
    let mut wrong: Vec<String> = counts.without_success().iter().map(never).collect();
    wrong.extend(counts.too_little());
    let optional = |kind: &str| match kind {
        BLINDED | REGISTRATION => !arguments.builder,
        EXIT => arguments.exits.is_none(),
        _ => false,
    };
    let missing = counts.never_asked().into_iter().filter(|kind| arguments.every_kind && !optional(kind));
    wrong.extend(missing.map(|kind| format!("{kind}: never asked for by the chain, so nothing was shown")));
    wrong
}

fn chain_config(arguments: &Arguments, slot_seconds: u64) -> devnet::Config {
    let base = match arguments.fork {
        Fork::Electra => devnet::Config::electra(),
        Fork::Fulu => devnet::Config::fulu(),
    };
    devnet::Config { slot_seconds, filler_validators: FILLERS, builder: arguments.builder, ..base }
}

/// What was asked for, or what this machine was measured to hold.
fn slot_seconds(arguments: &Arguments, tools: &Tools, dir: &Path) -> anyhow::Result<u64> {
    if let Some(seconds) = arguments.slot_seconds {
        say::note(&format!("slots of {seconds} s, as asked"));
        return Ok(seconds);
    }
    say::begin("slot time: measuring what this machine holds while it is busy (remembered afterwards)");
    let seconds = devnet::choose_slot_seconds(&dir.join("measure"), tools, &mut |line| say::detail(line))?;
    say::good(&format!("slots of {seconds} s"));
    Ok(seconds)
}

/// A new cluster: a folder for each member, and all the keys.
struct Made {
    folders: Vec<NodeFolder>,
    /// The validators' whole keys: with them one can tell what the chain asks of whom.
    keys: Vec<SecretKey>,
    view: cluster::ClusterView,
}

fn deposits(folder: &Path) -> anyhow::Result<Vec<DistributedValidator>> {
    let path = folder.join("deposit-data.json");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let entries: Vec<devnet::DepositEntry> = serde_json::from_str(&text)?;
    Ok(entries.into_iter().map(|deposit| DistributedValidator { deposit }).collect())
}

/// Makes a cluster the way `create cluster` does: all keys in one place, once, for a chain that is worth nothing.
fn make_cluster(dir: &Path, plan: &Plan, arguments: &Arguments) -> anyhow::Result<Made> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    // A publicly known developer account: rewards of a local chain are worth nothing.
    let address =
        chain::ExecutionAddress(hex::FromHex::from_hex("8943545177806ed17b9f23f0a21ee5948ecaa776")?);
    let network = Network {
        name: "devnet".to_owned(),
        chain_id: 1337,
        genesis_fork_version: devnet::GENESIS_FORK_VERSION,
        // Only dates the builder registrations; the chain's own genesis is made later.
        genesis_time: SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs(),
    };
    let addresses = Addresses { fee_recipient: address, withdrawal: address };
    let (members, validators) = (plan.occupants.len(), arguments.validators);
    let mut options =
        CreateOptions::new("First light", members, usize::try_from(validators)?, network, addresses);
    options.threshold = Some(plan.threshold);
    if arguments.builder {
        // geth builds for everybody with one limit, and the beacon node refuses an offer with another one than registered.
        options.target_gas_limit = devnet::builder::GAS_LIMIT;
    }
    options.timestamp = "2026-01-01T00:00:00Z".to_owned();
    let mut rng = rand::rng();
    let secrets: Vec<SecretKey> = (0..validators).map(|_| SecretKey::random(&mut rng)).collect();
    let keys: Result<Vec<SecretKey>, _> =
        secrets.iter().map(|key| SecretKey::from_bytes(key.expose_bytes().as_slice())).collect();
    let created = create::split_keys(&options, secrets, &mut rng)?;
    for file in created.files(KdfCost::Insecure, &mut rng)? {
        let path = dir.join("cluster").join(&file.path);
        make_dir(path.parent().unwrap_or(dir))?;
        fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(file.mode)
            .open(&path)
            .and_then(|mut open| open.write_all(&file.content))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    let folder = |node: usize| -> PathBuf { dir.join(format!("cluster/node{node}")) };
    Ok(Made {
        folders: (0..members).map(|node| NodeFolder::new(folder(node))).collect(),
        keys: keys?,
        view: created.view,
    })
}

/// Each key under the index that the chain gave its validator.
fn keys_by_index(
    chain: &Devnet,
    keys: Vec<SecretKey>,
) -> anyhow::Result<BTreeMap<ValidatorIndex, SecretKey>> {
    let all = chain.api().validators()?;
    let by_key: BTreeMap<String, ValidatorIndex> =
        all.into_iter().map(|info| (info.pubkey.trim_start_matches("0x").to_owned(), info.index)).collect();
    keys.into_iter()
        .map(|key| {
            let public = hex::encode(key.public_key().to_bytes().0);
            let index = by_key.get(&public).context("a validator of the cluster is not on the chain")?;
            Ok((*index, key))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use hw_tests::devnet::duties::{Count, Source};

    use super::*;

    #[test]
    fn a_check_is_not_content_with_one_success_of_each_kind() {
        let count = |succeeded, tried| Count { tried, succeeded, source: Source::Chain };
        let wanting = |attester: Count, blinded: Count, every_kind| {
            let counts = Counts {
                duties: [("attester", attester), (BLINDED, blinded), (EXIT, count(0, 0))].into(),
                others: [("attester", count(64, 64))].into(),
                ..Counts::default()
            };
            super::wanting(&counts, &Arguments { every_kind, builder: true, ..Arguments::default() })
        };
        assert!(wanting(count(23, 24), count(1, 1), true).is_empty());
        assert!(wanting(count(1, 24), count(1, 1), false)[0].starts_with("attester: 1 of 24"));
        assert!(wanting(count(24, 24), count(0, 1), false)[0].contains("never done"));
        assert!(wanting(count(24, 24), count(0, 0), true)[0].contains("never asked"));
        // Whoever asks for few slots by hand may see few kinds.
        assert!(wanting(count(24, 24), count(0, 0), false).is_empty());
    }
}
