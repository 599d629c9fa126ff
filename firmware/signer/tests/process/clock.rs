//! What the signer does when its clock is not to be believed, with a real process. The kernel's clock cannot be set here, so what
//! vouches for it is taken away, and the ledger is told that its last vote was later than now.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use ipc::signer::History;

use crate::harness::*;

/// A machine whose time service vouches for the clock, or does not.
fn machine_with_a_mark() -> (Machine, PathBuf) {
    let mut machine = Machine::new();
    let mark = machine.dir.path().join("synchronised");
    machine.clock_mark = Some(mark.clone());
    (machine, mark)
}

fn vouch(mark: &std::path::Path, at: SystemTime) {
    let file = std::fs::File::create(mark).unwrap();
    file.set_modified(at).unwrap();
}

async fn until_believed(signer: &Running, believed: bool) {
    for _ in 0..200 {
        if signer.status().await.clock.unwrap().trusted == believed && !believed
            || believed && signer.status().await.import_key.is_some()
        {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the clock is not as it should be, believed: {believed}\n{}", signer.log_text());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_synchronised_clock_nothing_is_opened_taken_in_or_signed() {
    let (machine, mark) = machine_with_a_mark();
    let signer = machine.start().await;
    let status = signer.status().await;
    assert_eq!(signer.problem_codes().await, ["clock_unsynchronised"]);
    assert!(!status.clock.unwrap().trusted && status.import_key.is_none());
    assert_eq!(code(signer.attest(&pubshare(1), &vote(2, 3, 1)).await), refused(503, "clock_unsynchronised"));

    // Old, and from the future: neither is a word about now.
    let now = SystemTime::now();
    for at in [now - Duration::from_secs(120), now + Duration::from_secs(60)] {
        vouch(&mark, at);
        tokio::time::sleep(Duration::from_millis(1_300)).await;
        assert_eq!(signer.problem_codes().await, ["clock_unsynchronised"]);
    }
    vouch(&mark, SystemTime::now());
    until_believed(&signer, true).await;
    signer.import(&bundle(&[1], History::NeverSigned)).await.unwrap();
    signer.attest(&pubshare(1), &vote(2, 3, 1)).await.unwrap();

    // The time service goes silent while the signer runs.
    std::fs::remove_file(&mark).unwrap();
    until_believed(&signer, false).await;
    assert_eq!(code(signer.attest(&pubshare(1), &vote(3, 4, 1)).await), refused(503, "clock_unsynchronised"));
    assert_eq!(code(signer.import_only(&bundle(&[2], History::NeverSigned)).await).1, "clock_unsynchronised");
    vouch(&mark, SystemTime::now());
    tokio::time::sleep(Duration::from_millis(300)).await;
    signer.attest(&pubshare(1), &vote(3, 4, 1)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_behind_the_last_vote_on_record_signs_nothing_until_it_is_right() {
    let machine = Machine::new();
    let signer = machine.start().await;
    signer.import(&bundle(&[1], History::NeverSigned)).await.unwrap();
    signer.attest(&pubshare(1), &vote(1, 2, 1)).await.unwrap();
    signer.stop();
    let database = rusqlite::Connection::open(machine.state().join("ledger.db")).unwrap();
    let recorded: i64 = database
        .query_row("SELECT value FROM meta WHERE name = 'recorded_at'", [], |row| row.get(0))
        .unwrap();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis();
    assert!(now.abs_diff(u128::try_from(recorded).unwrap()) < 60_000, "the moment of the vote is on record");
    // As if the clock had gone back by an hour since.
    database.execute("UPDATE meta SET value = value + 3600000 WHERE name = 'recorded_at'", []).unwrap();
    drop(database);
    let signer = machine.start().await;
    assert_eq!(signer.problem_codes().await, ["clock_behind"]);
    assert_eq!(code(signer.attest(&pubshare(1), &vote(2, 3, 1)).await), refused(503, "clock_behind"));
    signer.stop();
    let database = rusqlite::Connection::open(machine.state().join("ledger.db")).unwrap();
    database.execute("UPDATE meta SET value = value - 3600000 WHERE name = 'recorded_at'", []).unwrap();
    drop(database);
    machine.start().await.attest(&pubshare(1), &vote(2, 3, 1)).await.unwrap();
}
