//! Four native members with real signers and software TPMs make a cluster together, without any chain.

#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use chain::{Epoch, ExecutionAddress, Fork, ForkInfo};
use cluster::create::{Addresses, CreateOptions};
use cluster::{Lock, Network};
use hw_tests::ceremony::{Ceremony, CeremonyChain, dry_run, status};
use hw_tests::member::Member;
use ipc::signer::{ChainClock, ChainPreset, STATUS_PATH, SignerStatus};

const PATIENCE: Duration = Duration::from_secs(180);

fn binaries() -> PathBuf {
    // This test is target/<profile>/deps/dkg-…, the daemons are beside the folder of it.
    let test = std::env::current_exe().unwrap();
    test.parent().and_then(Path::parent).unwrap().to_owned()
}

fn hoodi() -> Network {
    Network::by_name("hoodi").unwrap()
}

/// Hoodi's facts with a beacon node that is not there: no chain is needed to make keys.
fn chain() -> CeremonyChain {
    CeremonyChain {
        genesis_validators_root: hoodi().genesis_validators_root().unwrap().to_string(),
        clock: ChainClock {
            genesis_time: hoodi().genesis_time,
            slot_ms: 12_000,
            slots_per_epoch: 32,
            preset: ChainPreset::Mainnet,
        },
        network: None,
        beacon_nodes: vec!["http://127.0.0.1:9".to_owned()],
    }
}

fn options(validators: usize) -> CreateOptions {
    let addresses =
        Addresses { fee_recipient: ExecutionAddress([1; 20]), withdrawal: ExecutionAddress([2; 20]) };
    CreateOptions::new("born together", 4, validators, hoodi(), addresses)
}

fn members(dir: &Path) -> Vec<Member> {
    let start = |number| {
        let name = format!("m{number}");
        Member::start_as_released(&name, &dir.join(&name), &binaries()).unwrap()
    };
    (1..=4).map(start).collect()
}

/// The new lock is right, and any three of the new shares sign.
fn assert_usable(lock: &Lock, members: &[Member]) {
    lock.verify(&[]).unwrap();
    // What hoodi's beacon nodes say of it since Fulu: the signer knows it too.
    let [previous_version, current_version] =
        [[0x60, 0, 9, 0x10], [0x70, 0, 9, 0x10]].map(chain::ForkVersion);
    let fork_info = ForkInfo {
        fork: Fork { previous_version, current_version, epoch: Epoch(50_688) },
        genesis_validators_root: hoodi().genesis_validators_root().unwrap(),
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let epoch = Epoch((now - hoodi().genesis_time) / (12 * 32));
    let sockets: Vec<PathBuf> = members.iter().map(|member| member.dir().join("run/sign.sock")).collect();
    let all: Vec<(u64, &Path)> = (1..).zip(sockets.iter().map(PathBuf::as_path)).collect();
    for subset in [&all[..3], &all[1..]] {
        dry_run(subset, lock, fork_info, epoch).unwrap();
    }
}

fn signer_status(member: &Member) -> SignerStatus {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(ipc::Client::new(member.signer_socket()).get(STATUS_PATH)).unwrap()
}

#[test]
fn four_members_make_a_cluster_whose_shares_were_never_anywhere_else() {
    let dir = tempfile::tempdir().unwrap();
    let members = members(dir.path());
    let ceremony = Ceremony::among(&members, &options(2), chain()).unwrap();
    let lock = ceremony.run(&members, PATIENCE).unwrap();
    assert_usable(&lock, &members);
    for (place, member) in members.iter().enumerate() {
        // Every member dealt to every other's signer and to nobody in between.
        let progress = status(member).unwrap().ceremony.unwrap();
        assert!(progress.members.iter().all(|member| member.sealed), "{progress:?}");
        let held = signer_status(member);
        assert_eq!(held.shares.len(), 2);
        for validator in &lock.validators {
            let own = validator.public_shares[place].to_string();
            assert!(held.shares.iter().any(|share| share.pubshare == own && share.last_signed.is_none()));
        }
        assert!(!member.dir().join("signer/ceremony.sealed").exists(), "the seed is gone");
    }
    // Once everybody has left, each joins the new cluster by itself; here, its beacon node is all that is missing.
    let wants_beacon_node = |member: &Member| {
        let progress = status(member).unwrap().ceremony.unwrap();
        progress.phase == "done"
            && progress.problems.iter().any(|problem| problem.code == "beacon_node_unreachable")
    };
    let left = std::time::Instant::now();
    while !members.iter().all(wants_beacon_node) {
        assert!(left.elapsed() < PATIENCE, "in vain: {:?}", status(&members[0]).unwrap());
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn members_whose_power_fails_in_the_middle_come_back_and_all_finish() {
    let dir = tempfile::tempdir().unwrap();
    let mut members = members(dir.path());
    let ceremony = Ceremony::among(&members, &options(1), chain()).unwrap();
    for (place, member) in members.iter().enumerate().take(3) {
        ceremony.begin(place, member).unwrap();
    }
    // One waits for the last member, and dies; then the last one comes, and another dies while keys are made.
    std::thread::sleep(Duration::from_millis(1500));
    members[0].power_cut().unwrap();
    ceremony.begin(3, &members[3]).unwrap();
    members[0].power_on().unwrap();
    let begun = std::time::Instant::now();
    while begun.elapsed() < PATIENCE {
        let step = status(&members[1]).unwrap().ceremony.map_or(0, |ceremony| ceremony.step);
        if step >= 1 {
            break;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    members[1].power_cut().unwrap();
    // Its signer is up long after its node, and nobody looks at its page.
    members[1].power_on_without_signer().unwrap();
    std::thread::sleep(Duration::from_secs(1));
    members[1].power_on().unwrap();
    let lock =
        ceremony.finish(&members, PATIENCE).inspect_err(|_| eprintln!("{}", describe(&members))).unwrap();
    assert_usable(&lock, &members);
}

/// What every member says of itself, for whoever looks at a failure.
fn describe(members: &[Member]) -> String {
    let one = |member: &Member| {
        let log = std::fs::read_to_string(member.dir().join("dv-node.log")).unwrap_or_default();
        let last: Vec<&str> = log.lines().rev().take(400).collect();
        let last: String = last.iter().rev().map(|line| format!("{line}\n")).collect();
        format!("{}: {:?}\n{last}\n", member.name(), status(member))
    };
    members.iter().map(one).collect()
}
