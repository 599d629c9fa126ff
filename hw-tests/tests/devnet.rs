//! The local chain itself: it makes blocks, its fillers attest, a foreign validator of genesis does not, and nothing of it
//! outlives its owner.

#![expect(clippy::unwrap_used, reason = "clippy knows the tests here as tests, but not what they call")]

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use chain::{Bytes32, Slot, ValidatorIndex};
use hw_tests::devnet::inclusion::{Follower, Reader};
use hw_tests::devnet::{Config, DepositEntry, Devnet, DistributedValidator, Place, Tools};
use hw_tests::process::wait_until;
use threshold::SecretKey;

const PATIENCE: Duration = Duration::from_secs(30);

/// Two chains at once would only make each other late.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    // A test that failed says nothing about the next one.
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

fn tools() -> Tools {
    Tools::ensure(&mut |line| eprintln!("{line}")).unwrap()
}

/// A validator for which nobody attests in these tests.
fn silent_validator() -> DistributedValidator {
    let mut bytes = [0; 32];
    bytes[31] = 77;
    let key = SecretKey::from_bytes(&bytes).unwrap();
    let mut credentials = [0; 32];
    credentials[0] = 1;
    DistributedValidator { deposit: DepositEntry::signed(&key, Bytes32(credentials)) }
}

fn is_running(id: u32) -> bool {
    // A child that ended and was waited for has no such folder.
    Path::new("/proc").join(id.to_string()).exists()
}

/// What runs with its files in `dir`.
fn processes_in(dir: &Path) -> usize {
    let dir = dir.canonicalize().unwrap();
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    entries.filter(|entry| entry.path().join("cwd").read_link().is_ok_and(|cwd| cwd == dir)).count()
}

#[test]
fn a_chain_makes_blocks_with_the_fillers_votes_and_leaves_nothing_behind() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let silent = silent_validator();
    let config = Config::electra();
    let fillers = config.filler_validators;
    let slots_per_epoch = config.slots_per_epoch;
    let mut chain = Devnet::prepare(dir.path(), config, tools(), std::slice::from_ref(&silent)).unwrap();
    chain.start(Duration::from_secs(60)).unwrap();
    let processes = chain.processes();
    assert_eq!(processes.len(), 3);

    // The order of genesis is the order asked for, and every deposit was good.
    let validators = chain.api().validators().unwrap();
    assert_eq!(validators.len() as u64, fillers + 1);
    assert!(validators.iter().all(|validator| validator.status == "active_ongoing"), "{validators:?}");
    assert_eq!(validators[0].pubkey, format!("0x{}", silent.deposit.pubkey));
    assert_eq!(validators[0].index, ValidatorIndex(0));

    // A whole epoch, in which everybody is due once.
    let mut reader = Reader::new(chain.api(), slots_per_epoch);
    let mut follower = Follower::new(Reader::new(chain.api(), slots_per_epoch), Slot(1));
    let epoch = Slot(0)..Slot(slots_per_epoch);
    chain.wait_for_head(Slot(slots_per_epoch + 1), 2 * PATIENCE).unwrap();
    let due: BTreeSet<_> =
        (0..slots_per_epoch).flat_map(|slot| reader.attesters(Slot(slot)).unwrap()).collect();
    assert_eq!(due.len() as u64, fillers + 1);
    let included = reader.included_of_all(epoch.clone()).unwrap();
    // A machine that compiles something meanwhile loses votes, most of them in the first slots.
    assert!(included.len() as u64 >= fillers / 3, "only {} of {fillers} votes", included.len());
    for inclusion in &included {
        assert!(inclusion.distance() >= 1 && reader.is_canonical(inclusion).unwrap());
    }
    let voters: BTreeSet<_> = included.iter().map(|inclusion| inclusion.validator).collect();
    assert_eq!(voters.len(), included.len(), "a validator votes once in an epoch");
    assert!(
        reader.included(ValidatorIndex(0), epoch.clone()).unwrap().is_empty(),
        "nobody holds the key of this one"
    );
    assert_eq!(reader.included(included[0].validator, epoch.clone()).unwrap(), included[..1]);

    // Following the blocks tells the same as looking back, and each vote once.
    let followed = follower.poll().unwrap();
    let of_epoch: Vec<_> = followed.iter().filter(|vote| epoch.contains(&vote.attestation_slot)).collect();
    let followed_voters: BTreeSet<_> = of_epoch.iter().map(|vote| vote.validator).collect();
    assert_eq!(followed_voters.len(), of_epoch.len(), "a vote is told once");
    assert!(followed_voters.is_superset(&voters));

    let health = chain.health().unwrap();
    assert!(health.head.0 > slots_per_epoch && health.missed.len() <= 4, "{health:?}");

    // A frozen node is not a dead one.
    chain.pause_beacon_node().unwrap();
    chain.check_alive().unwrap();
    let paused_at = health.head;
    chain.resume_beacon_node().unwrap();
    chain.wait_for_head(Slot(paused_at.0 + 2), PATIENCE).unwrap();

    let started = Instant::now();
    chain.stop();
    assert!(started.elapsed() < Duration::from_secs(40));
    assert!(processes.iter().all(|(_, id)| !is_running(*id)));
    assert_eq!(processes_in(dir.path()), 0);
}

#[test]
fn settings_of_genesis_are_what_was_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config { distributed: Place::Last, ..Config::electra() };
    let silent = silent_validator();
    Devnet::prepare(dir.path(), config, tools(), std::slice::from_ref(&silent)).unwrap();
    let deposits: Vec<DepositEntry> =
        serde_json::from_slice(&std::fs::read(dir.path().join("deposits.json")).unwrap()).unwrap();
    assert_eq!(deposits.last(), Some(&silent.deposit));
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &std::fs::metadata(dir.path().join("jwt.hex")).unwrap().permissions(),
    );
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_chain_dies_with_an_owner_that_is_killed_hard() {
    let _alone = alone();
    // The owner is this very test program, run again with an argument that selects the function below.
    let dir = tempfile::tempdir().unwrap();
    tools();
    let mut owner = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "owns_a_chain_until_killed"])
        .env("HEARTH_TEST_CHAIN_DIR", dir.path())
        .spawn()
        .unwrap();
    let started = wait_until(4 * PATIENCE, || processes_in(dir.path()) == 3);
    owner.kill().unwrap();
    owner.wait().unwrap();
    assert!(started, "the chain did not start");
    assert!(wait_until(PATIENCE, || processes_in(dir.path()) == 0), "the chain survived its owner");
}

/// Does nothing unless the test above runs it in a process of its own.
#[test]
fn owns_a_chain_until_killed() {
    let Some(dir) = std::env::var_os("HEARTH_TEST_CHAIN_DIR") else { return };
    let mut chain = Devnet::prepare(Path::new(&dir), Config::electra(), tools(), &[]).unwrap();
    chain.start(Duration::from_secs(600)).unwrap();
    loop {
        std::thread::park();
    }
}
