use super::*;
use crate::{ledger::Resumed, message::Message};
use chain::Slot;
use ipc::signer::ChainPreset;
use slashing::{Floors, SignedAttestation, check_attestation};
use std::path::Path;

const CLOCK: ChainClock =
    ChainClock { genesis_time: 1000, slot_ms: 2000, slots_per_epoch: 8, preset: ChainPreset::Mainnet };
const BEFORE_GENESIS: UnixMillis = UnixMillis(5);

fn at_epoch(epoch: u64) -> UnixMillis {
    UnixMillis(1_000_000 + epoch * 8 * 2000 + 1)
}

fn key(number: u8) -> PublicKeyBytes {
    PublicKeyBytes([number; 48])
}

fn import(number: u8, group: u8) -> Import {
    let row = ShareRow {
        pubshare: key(number),
        group_key: key(group),
        share_index: 1,
        genesis_validators_root: Root([9; 32]),
        clock: CLOCK,
        sealed: vec![number],
    };
    Import { row, history: (vec![], vec![]), was_damaged: false, more_epochs: 0, stopped: None }
}

/// A signer's run on the ledger in `dir`, as far as the ledger sees it.
fn run(dir: &Path, counter: u64, now: UnixMillis) -> Writer {
    let mut writer = Writer::new(Store::open(dir).unwrap(), Metrics::default());
    writer.reload().unwrap();
    writer.begin_run(counter, Past::Known, now).unwrap();
    writer
}

fn attest(writer: &mut Writer, number: u8, source: u64, target: u64, root: u8) -> bool {
    let vote = Vote::Attestation { source: Epoch(source), target: Epoch(target) };
    ask(writer, number, vote, root)
}

fn propose(writer: &mut Writer, number: u8, slot: u64, root: u8) -> bool {
    ask(writer, number, Vote::Block { slot: Slot(slot) }, root)
}

fn ask(writer: &mut Writer, number: u8, vote: Vote, root: u8) -> bool {
    let (kind, signing_root) = (crate::message::Kind::Attestation, Root([root; 32]));
    let asks = crate::message::Asks::Duty;
    let message = Message { kind, signing_root, epoch: Epoch(0), vote, asks };
    writer.record_all(&[&Asked { key: key(number), message }], BEFORE_GENESIS).unwrap()[0].is_ok()
}

#[test]
fn a_run_that_was_cut_off_raises_the_floors_over_all_it_can_have_signed() {
    let dir = tempfile::tempdir().unwrap();
    let mut first = run(dir.path(), 1, BEFORE_GENESIS);
    first.import(&[import(1, 101)], BEFORE_GENESIS).unwrap();
    assert!(attest(&mut first, 1, 0, 1, 1));
    drop(first); // A power cut in epoch 5.
    let mut second = run(dir.path(), 3, at_epoch(5));
    assert_eq!(second.resuming, Resuming::from([(key(1), Epoch(7))]));
    assert!(attest(&mut second, 1, 0, 1, 1), "a repeat of what is on record is harmless");
    for (source, target, allowed) in [(4, 5, false), (4, 6, false), (3, 7, false), (4, 7, true)] {
        assert_eq!(attest(&mut second, 1, source, target, 2), allowed, "{source} to {target}");
    }
    for (slot, allowed) in [(40, false), (55, false), (56, true)] {
        assert_eq!(propose(&mut second, 1, slot, 2), allowed, "slot {slot}");
    }
    // The digest still fits, also when read back.
    second.reload().unwrap();
}

#[test]
fn a_history_of_the_far_future_is_not_taken_for_a_share_that_is_being_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let mut first = run(dir.path(), 1, BEFORE_GENESIS);
    let far = SignedAttestation { source_epoch: Epoch(5), target_epoch: Epoch(1 << 41), signing_root: None };
    let imported = Import { history: (vec![], vec![far]), ..import(1, 101) };
    first.import(&[imported], BEFORE_GENESIS).unwrap();
    first.import(&[import(2, 101)], BEFORE_GENESIS).expect("nothing is being replaced");
    let validator = (key(101), Root([9; 32]));
    assert_eq!(first.other_histories(validator, Some(key(2))).count(), 1);
    assert!(!attest(&mut first, 2, 6, 7, 1), "the other share's history binds it");
    drop(first); // A power cut.
    let second = run(dir.path(), 4, at_epoch(5));
    assert_eq!(second.resuming.keys().copied().collect::<Vec<_>>(), [key(1), key(2)]);
}

#[test]
fn a_run_that_ended_in_order_costs_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut first = run(dir.path(), 1, BEFORE_GENESIS);
    first.import(&[import(1, 101)], BEFORE_GENESIS).unwrap();
    first.close().unwrap();
    let mut second = run(dir.path(), 3, at_epoch(5));
    assert!(second.resuming.is_empty());
    assert!(attest(&mut second, 1, 4, 5, 1));
}

fn run_without_a_witness(dir: &Path, counter: u64, now: UnixMillis) -> Writer {
    let mut writer = Writer::new(Store::open(dir).unwrap(), Metrics::default());
    writer.reload().unwrap();
    writer.begin_run(counter, Past::Unknown, now).unwrap();
    writer
}

#[test]
fn without_a_witness_an_orderly_end_proves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut first = run(dir.path(), 1, BEFORE_GENESIS);
    first.import(&[import(1, 101)], BEFORE_GENESIS).unwrap();
    first.close().unwrap();
    let mut second = run_without_a_witness(dir.path(), 3, at_epoch(5));
    // One epoch more than after a power cut: another copy may have signed in another box, by another clock.
    assert_eq!(second.resuming, Resuming::from([(key(1), Epoch(8))]));
    for (source, target, allowed) in [(5, 6, false), (5, 7, false), (4, 8, false), (5, 8, true)] {
        assert_eq!(attest(&mut second, 1, source, target, 2), allowed, "{source} to {target}");
    }
    for (slot, allowed) in [(40, false), (63, false), (64, true)] {
        assert_eq!(propose(&mut second, 1, slot, 2), allowed, "slot {slot}");
    }
    // Within one process nothing can have been forgotten.
    second.begin_run(4, Past::Unknown, at_epoch(9)).unwrap();
    assert!(attest(&mut second, 1, 7, 9, 1));
}

#[test]
fn a_clone_in_a_box_whose_clock_is_behind_begins_above_what_the_other_one_signed() {
    let dir = tempfile::tempdir().unwrap();
    let mut first = run(dir.path(), 1, BEFORE_GENESIS);
    first.import(&[import(1, 101)], BEFORE_GENESIS).unwrap();
    first.close().unwrap();
    // Elsewhere epoch 6 has begun, and a target one epoch ahead was signed; here epoch 5 has a moment left.
    let mut clone = run_without_a_witness(dir.path(), 3, UnixMillis(at_epoch(6).0 - 2));
    assert!(!attest(&mut clone, 1, 6, 7, 2));
    assert!(attest(&mut clone, 1, 6, 8, 2));
}

#[test]
fn without_a_witness_a_clock_that_was_set_makes_shares_wait_once_more() {
    let dir = tempfile::tempdir().unwrap();
    let mut first = run(dir.path(), 1, BEFORE_GENESIS);
    first.import(&[import(1, 101)], BEFORE_GENESIS).unwrap();
    first.close().unwrap();
    let mut second = run_without_a_witness(dir.path(), 3, at_epoch(5));
    assert!(attest(&mut second, 1, 7, 8, 1));
    second.raise_floors(at_epoch(50)).unwrap();
    assert_eq!(second.resuming, Resuming::from([(key(1), Epoch(53))]));
    for (source, target, allowed) in [(49, 51, false), (50, 52, false), (50, 53, true)] {
        assert_eq!(attest(&mut second, 1, source, target, 2), allowed, "{source} to {target}");
    }
    drop(second);
    let mut third = Writer::new(Store::open(dir.path()).unwrap(), Metrics::default());
    third.reload().unwrap();
    assert!(!attest(&mut third, 1, 50, 52, 3), "it is on the disk");
}

#[test]
fn without_a_witness_no_record_from_before_the_run_is_repeated_and_those_of_the_run_are() {
    for past in [Past::Known, Past::Unknown] {
        let dir = tempfile::tempdir().unwrap();
        let mut first = run(dir.path(), 1, BEFORE_GENESIS);
        first.import(&[import(1, 101)], BEFORE_GENESIS).unwrap();
        assert!(attest(&mut first, 1, 1, 2, 1) && attest(&mut first, 1, 2, 3, 1));
        assert!(propose(&mut first, 1, 16, 1) && propose(&mut first, 1, 24, 1));
        first.close().unwrap();
        let mut second = Writer::new(Store::open(dir.path()).unwrap(), Metrics::default());
        second.reload().unwrap();
        second.begin_run(3, past, at_epoch(5)).unwrap();
        let believed = past == Past::Known;
        for _ in 0..2 {
            assert_eq!(attest(&mut second, 1, 2, 3, 1), believed, "{past:?}");
            assert_eq!(propose(&mut second, 1, 24, 1), believed, "{past:?}");
            assert!(!attest(&mut second, 1, 2, 3, 2) && !propose(&mut second, 1, 24, 2));
            // Read back after a failed write, it is the same.
            second.reload().unwrap();
        }
        assert!(attest(&mut second, 1, 7, 8, 1) && propose(&mut second, 1, 70, 1));
        assert!(attest(&mut second, 1, 7, 8, 1) && propose(&mut second, 1, 70, 1), "sent twice");
    }
}

#[test]
fn only_the_run_that_was_begun_here_is_ended_here() {
    let dir = tempfile::tempdir().unwrap();
    let mut first = run(dir.path(), 1, BEFORE_GENESIS);
    first.import(&[import(1, 101)], BEFORE_GENESIS).unwrap();
    drop(first); // A power cut,
    let mut locked = Writer::new(Store::open(dir.path()).unwrap(), Metrics::default());
    locked.reload().unwrap();
    locked.close().unwrap(); // a start that never unlocked and ended in order,
    let mut third = run(dir.path(), 3, at_epoch(5));
    assert_eq!(third.resuming.len(), 1, "and the cut is not forgotten");
    // A second attempt within the same process is no second power cut.
    third.begin_run(4, Past::Known, at_epoch(9)).unwrap();
    assert!(attest(&mut third, 1, 6, 7, 1));
}

#[test]
fn a_power_cut_before_the_chain_began_costs_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut first = run(dir.path(), 1, BEFORE_GENESIS);
    first.import(&[import(1, 101)], BEFORE_GENESIS).unwrap();
    drop(first);
    let mut second = run(dir.path(), 3, BEFORE_GENESIS);
    assert!(second.resuming.is_empty());
    assert!(attest(&mut second, 1, 0, 0, 1));
}

#[test]
fn a_new_share_begins_above_every_epoch_it_can_have_voted_in() {
    for history in [vec![], vec![entry(1, 2)]] {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = run(dir.path(), 1, at_epoch(5));
        let new = Import { history: (vec![], history), ..import(1, 101) };
        let imported = writer.import(&[new], at_epoch(5)).unwrap();
        assert_eq!(imported.counter, 2);
        assert_eq!(imported.resuming, Resuming::from([(key(1), Epoch(7))]));
        assert!(!attest(&mut writer, 1, 4, 5, 1));
        assert!(!attest(&mut writer, 1, 4, 6, 1));
        assert!(attest(&mut writer, 1, 5, 7, 1));
        // The same envelope again opens nothing and costs nothing.
        let again = writer.import(&[import(1, 101)], at_epoch(20)).unwrap();
        assert!(again.resuming.is_empty());
        assert!(!attest(&mut writer, 1, 4, 6, 1));
        assert!(attest(&mut writer, 1, 7, 8, 1));
    }
}

#[test]
fn what_one_share_signed_binds_the_validator_s_other_shares() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = run(dir.path(), 1, BEFORE_GENESIS);
    writer.import(&[import(1, 101), import(3, 103)], BEFORE_GENESIS).unwrap();
    assert!(attest(&mut writer, 1, 3, 4, 1));
    assert!(propose(&mut writer, 1, 30, 1));
    // A second share of the same validator starts where the first one is.
    writer.import(&[import(2, 101)], BEFORE_GENESIS).unwrap();
    assert!(!attest(&mut writer, 2, 2, 3, 1), "older than what the first one signed");
    let floors = writer.held(&key(2)).unwrap().2.floors();
    assert_eq!(floors.target, Some(Epoch(4)), "of its own, whatever becomes of the first one");
    assert!(attest(&mut writer, 2, 4, 6, 1));
    for (number, source, target, root, allowed) in [
        (1, 4, 6, 2, false), // Another head for the second one's target,
        (1, 4, 6, 1, true),  // and the very same vote.
        (1, 3, 7, 1, false), // Surrounds the second one's vote.
        (1, 5, 7, 1, true),
        (2, 5, 7, 2, false),
        (3, 3, 7, 9, true), // Another validator.
    ] {
        assert_eq!(
            attest(&mut writer, number, source, target, root),
            allowed,
            "{number}: {source} to {target}"
        );
    }
    assert!(propose(&mut writer, 2, 41, 1));
    assert!(!propose(&mut writer, 1, 41, 2));
    assert!(!propose(&mut writer, 2, 30, 2));
    // Also after all of it was read back.
    writer.reload().unwrap();
    assert!(!attest(&mut writer, 2, 5, 7, 2));
}

#[test]
fn what_a_share_signed_binds_the_others_also_after_its_cluster_was_left() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = run(dir.path(), 1, BEFORE_GENESIS);
    writer.import(&[import(1, 101), import(2, 101), import(3, 101), import(4, 104)], BEFORE_GENESIS).unwrap();
    assert!(attest(&mut writer, 1, 3, 4, 1) && propose(&mut writer, 1, 30, 1));
    writer.delete(&[key(3)]).unwrap();
    writer.leave(&[key(1)], &[7; 32]).unwrap();
    for (epoch, slot, allowed) in [(4, 30, false), (5, 31, true)] {
        assert_eq!(attest(&mut writer, 2, epoch - 1, epoch, 2), allowed, "epoch {epoch}");
        assert_eq!(propose(&mut writer, 2, slot, 2), allowed, "slot {slot}");
    }
    assert!(attest(&mut writer, 4, 3, 4, 2), "another validator");
    // One that was deleted and comes back is bound as well, by what is known of it alone.
    let (_, _, history) = writer.held(&key(3)).unwrap();
    assert_eq!((history.floors().block, history.floors().target), (Some(Slot(30)), Some(Epoch(4))));
}

#[test]
fn a_clock_behind_the_last_record_records_nothing_also_after_a_restart_and_raises_no_lower_floors() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = run(dir.path(), 1, BEFORE_GENESIS);
    writer.import(&[import(1, 101)], BEFORE_GENESIS).unwrap();
    let record = |writer: &mut Writer, target: u64, now: UnixMillis| {
        let vote = Vote::Attestation { source: Epoch(0), target: Epoch(target) };
        let (kind, asks) = (crate::message::Kind::Attestation, crate::message::Asks::Duty);
        let message = Message { kind, signing_root: Root([1; 32]), epoch: Epoch(target), vote, asks };
        writer.record_all(&[&Asked { key: key(1), message }], now).unwrap().remove(0)
    };
    let late = at_epoch(5);
    assert_eq!(record(&mut writer, 5, late), Ok(()));
    let earlier = UnixMillis(late.0 - 10_000);
    let refused = Err(Refusal::ClockBehind { by_s: 10 });
    for target in [5, 6] {
        assert_eq!(record(&mut writer, target, earlier), refused, "also a repeat");
    }
    drop(writer); // A power cut, and a start with a clock that has gone back to the first epoch.
    let mut writer = run(dir.path(), 3, at_epoch(0));
    assert_eq!(writer.resuming, Resuming::from([(key(1), Epoch(7))]), "floors by the later moment");
    assert!(record(&mut writer, 7, at_epoch(0)).is_err());
    assert!(record(&mut writer, 7, UnixMillis(late.0 - 1_000)).is_err(), "source below the floor");
}

#[test]
fn a_damaged_share_is_sealed_anew_and_keeps_its_history() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = run(dir.path(), 1, BEFORE_GENESIS);
    writer.import(&[import(1, 101)], BEFORE_GENESIS).unwrap();
    assert!(attest(&mut writer, 1, 9, 10, 1));
    // Another index in the same row is refused, unless the row is known to be damaged.
    let mut anew = import(1, 101);
    (anew.row.share_index, anew.row.sealed) = (2, vec![77]);
    assert!(matches!(writer.import(&[anew], at_epoch(5)), Err(LedgerError::Conflict(_))));
    let mut anew = Import { was_damaged: true, ..import(1, 101) };
    (anew.row.share_index, anew.row.sealed) = (2, vec![77]);
    let imported = writer.import(&[anew], at_epoch(20)).unwrap();
    assert_eq!(imported.resuming, Resuming::from([(key(1), Epoch(22))]), "who kept the file may have signed");
    let rows = writer.store.rows().unwrap();
    assert_eq!((rows.len(), rows[0].share_index, rows[0].sealed.as_slice()), (1, 2, &[77][..]));
    assert!(!attest(&mut writer, 1, 9, 10, 2));
    assert!(!attest(&mut writer, 1, 19, 21, 2));
    assert!(attest(&mut writer, 1, 20, 22, 2));
}

#[test]
fn a_number_that_was_changed_in_a_row_is_found_by_the_digest() {
    for change in [
        "UPDATE attestations SET target = target - 1",
        "UPDATE attestations SET source = source + 1",
        "UPDATE attestations SET signing_root = zeroblob(32)",
        "UPDATE blocks SET slot = slot + 1",
        "UPDATE shares SET floor_target = 3",
        "DELETE FROM blocks",
    ] {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = run(dir.path(), 1, BEFORE_GENESIS);
        writer.import(&[import(1, 101)], BEFORE_GENESIS).unwrap();
        assert!(attest(&mut writer, 1, 9, 10, 1) && propose(&mut writer, 1, 80, 1));
        drop(writer);
        let database = rusqlite::Connection::open(dir.path().join("ledger.db")).unwrap();
        assert_eq!(database.execute(change, []).unwrap(), 1, "{change}");
        drop(database);
        // SQLite finds nothing wrong with it.
        let mut writer = Writer::new(Store::open(dir.path()).unwrap(), Metrics::default());
        assert!(matches!(writer.reload(), Err(LedgerError::Damaged(_))), "{change}");
    }
}

#[test]
fn no_floor_is_raised_by_a_clock_that_has_gone_back() {
    let asked = |source, target, root| {
        let (kind, asks) = (crate::message::Kind::Attestation, crate::message::Asks::Duty);
        let vote = Vote::Attestation { source: Epoch(source), target: Epoch(target) };
        let message = Message { kind, signing_root: Root([root; 32]), epoch: Epoch(target), vote, asks };
        Asked { key: key(1), message }
    };
    let dirs = [(); 3].map(|()| tempfile::tempdir().unwrap());
    let [mut importing, mut raising, mut resuming] = dirs.each_ref().map(|dir| {
        let mut writer = run(dir.path(), 1, BEFORE_GENESIS);
        writer.import(&[import(1, 101)], BEFORE_GENESIS).unwrap();
        assert!(writer.record_all(&[&asked(0, 5, 1)], at_epoch(5)).unwrap()[0].is_ok());
        writer
    });
    let new = importing.import(&[import(2, 102)], at_epoch(0)).unwrap();
    assert_eq!(new.resuming, Resuming::from([(key(2), Epoch(7))]));
    raising.raise_floors(at_epoch(0)).unwrap();
    assert_eq!(raising.resuming, Resuming::from([(key(1), Epoch(7))]));
    assert_eq!(resuming.seen(&[asked(3, 4, 9)], at_epoch(5)).unwrap(), [key(1)]);
    let resumed = resuming.resume(&key(1), at_epoch(5), at_epoch(0)).unwrap();
    assert!(matches!(resumed, Resumed::GoesOn(Some(first)) if first >= Epoch(7)), "{resumed:?}");
}

#[test]
fn a_run_whose_records_stay_in_doubt_is_not_ended_in_order() {
    let closed_with = |change: &str| {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = run(dir.path(), 1, BEFORE_GENESIS);
        writer.import(&[import(1, 101)], BEFORE_GENESIS).unwrap();
        assert!(attest(&mut writer, 1, 9, 10, 1));
        let transaction = writer.store.begin().unwrap();
        transaction.execute(change, []).unwrap();
        transaction.commit().unwrap();
        writer.doubtful = true;
        writer.close().unwrap();
        !Store::open(dir.path()).unwrap().is_open().unwrap()
    };
    assert!(
        closed_with("UPDATE attestations SET target = target"),
        "what can be read back is in doubt no more"
    );
    assert!(!closed_with("UPDATE attestations SET target = target - 1"), "the next run raises the floors");
}

fn entry(source: u64, target: u64) -> SignedAttestation {
    SignedAttestation { source_epoch: Epoch(source), target_epoch: Epoch(target), signing_root: None }
}

#[test]
fn a_minimal_file_closes_the_epochs_it_does_not_list() {
    let own = (1..10).map(|epoch| entry(epoch, epoch + 1));
    let key = PublicKeyBytes([1; 48]);
    let known = History::restore(key, Retention::Complete, Floors::default(), [], own);
    let merged = with_imported(&known, &(vec![], vec![entry(19, 20)]));
    for (source, target, allowed) in
        [(13, 14, false), (19, 20, false), (18, 21, false), (19, 21, true), (20, 21, true)]
    {
        let vote = AttestationVote {
            source: Epoch(source),
            target: Epoch(target),
            signing_root: Default::default(),
        };
        assert_eq!(check_attestation(&merged, &vote).is_ok(), allowed, "{source} to {target}");
    }
}

#[test]
fn an_older_file_never_loosens() {
    let key = PublicKeyBytes([1; 48]);
    let floors = Floors { block: Some(Slot(9)), source: Some(Epoch(5)), target: Some(Epoch(6)) };
    let known = History::restore(key, Retention::Complete, floors, [], []);
    let merged = with_imported(&known, &(vec![], vec![entry(1, 2)]));
    assert_eq!(merged.floors(), floors);
}
