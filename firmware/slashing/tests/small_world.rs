//! A small world, searched completely: whatever is asked in whatever order, with crashes, imports and prunings in between,
//! no two signatures that went out are slashable together. What is slashable is written here again, from the consensus
//! specification and not from the crate.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use chain::{Epoch, PublicKeyBytes, Root, Slot};
use slashing::{
    AttestationVote, BlockProposal, Floors, History, Interchange, Protection, Retention, SignedAttestation,
    check_attestation, check_block,
};

const KEY: PublicKeyBytes = PublicKeyBytes([7; 48]);
const CHAIN: Root = Root([9; 32]);

fn root(number: u8) -> Root {
    Root([number; 32])
}

/// `is_slashable_attestation_data` of consensus-specs, phase0/beacon-chain.md, either way round.
fn slashable(a: &AttestationVote, b: &AttestationVote) -> bool {
    let double = a.signing_root != b.signing_root && a.target == b.target;
    let surround = |outer: &AttestationVote, inner: &AttestationVote| {
        outer.source < inner.source && inner.target < outer.target
    };
    double || surround(a, b) || surround(b, a)
}

/// Every vote over epochs below `epochs` with either of two signing roots; impossible ones (source after target) too.
fn votes(epochs: u64) -> Vec<AttestationVote> {
    (0..epochs)
        .flat_map(|source| (0..epochs).map(move |target| (source, target)))
        .flat_map(|(source, target)| {
            [1, 2].map(|number| AttestationVote {
                source: Epoch(source),
                target: Epoch(target),
                signing_root: root(number),
            })
        })
        .collect()
}

/// What may happen between two requests.
#[derive(Clone, Copy, Debug)]
enum Event {
    Nothing,
    /// The process dies after the ledger was written and starts again from what is on disk.
    Restart,
    /// The process dies between check and record: no signature, no row.
    CrashBeforeRecord,
    Prune(u64),
    /// The owner imports our own complete export, our own minimal one, or an older file of the same key.
    ImportOwn,
    ImportOwnMinimal,
    ImportOlder,
    /// Our own complete export, the way the box imports.
    AdoptOwn,
    /// The box is replaced: a new one starts from the export alone.
    MoveComplete,
    MoveMinimal,
    /// The newest entries are lost, the floors are raised over whatever they can have been, and a new box starts from the
    /// export alone.
    PowerCutMoveComplete,
    PowerCutMoveMinimal,
}

const EVENTS: [Event; 13] = [
    Event::Nothing,
    Event::Restart,
    Event::CrashBeforeRecord,
    Event::Prune(0),
    Event::Prune(1),
    Event::ImportOwn,
    Event::ImportOwnMinimal,
    Event::ImportOlder,
    Event::AdoptOwn,
    Event::MoveComplete,
    Event::MoveMinimal,
    Event::PowerCutMoveComplete,
    Event::PowerCutMoveMinimal,
];

/// Without the newest entry of each kind, and with floors over it.
fn cut_short(history: &History, retention: Retention) -> History {
    let known = history.last_known();
    let newest_is_lost = |target: Epoch| Some(target) < known.target;
    let mut after = History::restore(
        KEY,
        retention,
        history.floors(),
        history.blocks().filter(|entry| Some(entry.slot) < known.block),
        history.attestations().filter(|entry| newest_is_lost(entry.target_epoch)),
    );
    after.raise(known);
    after
}

fn restored(history: &History, retention: Retention) -> History {
    History::restore(KEY, retention, history.floors(), history.blocks(), history.attestations())
}

fn happen(event: Event, history: History, retention: Retention) -> History {
    let imported = |from: Interchange, onto: Option<History>| {
        let bytes = serde_json::to_vec(&from).unwrap();
        let mut protection = Protection::new(CHAIN, retention);
        if let Some(history) = onto {
            protection.restore(history);
        } else {
            protection.declare_never_signed(KEY).unwrap();
        }
        protection.import(&Interchange::parse(&bytes, CHAIN).unwrap()).unwrap();
        protection.history(&KEY).unwrap().clone()
    };
    match event {
        Event::Nothing | Event::CrashBeforeRecord => history,
        Event::Restart => restored(&history, retention),
        Event::Prune(keep) => {
            let mut history = history;
            history.prune(keep, keep);
            history
        }
        Event::ImportOwn => imported(Interchange::complete(CHAIN, [&history]), Some(history)),
        Event::ImportOwnMinimal => imported(Interchange::minimal(CHAIN, [&history]), Some(history)),
        Event::ImportOlder => {
            let mut older = History::never_signed(KEY, Retention::Complete);
            let entry = SignedAttestation {
                source_epoch: Epoch(0),
                target_epoch: Epoch(0),
                signing_root: Some(root(1)),
            };
            older.learn([], [entry]);
            imported(Interchange::complete(CHAIN, [&older]), Some(history))
        }
        Event::AdoptOwn => {
            let mut history = history;
            let (blocks, attestations): (Vec<_>, Vec<_>) =
                (history.blocks().collect(), history.attestations().collect());
            history.adopt(blocks, attestations);
            history
        }
        Event::MoveComplete => imported(Interchange::complete(CHAIN, [&history]), None),
        Event::MoveMinimal => imported(Interchange::minimal(CHAIN, [&history]), None),
        Event::PowerCutMoveComplete => {
            imported(Interchange::complete(CHAIN, [&cut_short(&history, retention)]), None)
        }
        Event::PowerCutMoveMinimal => {
            imported(Interchange::minimal(CHAIN, [&cut_short(&history, retention)]), None)
        }
    }
}

/// Asks for a vote; what was signed joins `signed`, after checking it against all that went out before.
fn ask(
    history: &mut History,
    vote: AttestationVote,
    event: Event,
    signed: &mut Vec<AttestationVote>,
    story: &dyn Fn() -> String,
) {
    let Ok(permit) = check_attestation(history, &vote) else { return };
    if matches!(event, Event::CrashBeforeRecord) {
        return;
    }
    history.record_attestation(permit).unwrap();
    for earlier in signed.iter() {
        assert!(!slashable(earlier, &vote), "{earlier:?} and {vote:?} were both signed: {}", story());
    }
    signed.push(vote);
}

/// Every sequence of three votes over four epochs, every event between them, both kinds of history.
#[test]
fn no_sequence_of_votes_and_mishaps_signs_two_slashable_attestations() {
    let votes = votes(4);
    for retention in [Retention::Complete, Retention::Watermark] {
        for first in &votes {
            for (event, second) in EVENTS.iter().flat_map(|event| votes.iter().map(move |vote| (event, vote)))
            {
                let start = History::never_signed(KEY, retention);
                let mut signed = Vec::new();
                let mut history = start;
                ask(&mut history, *first, Event::Nothing, &mut signed, &|| "first".to_owned());
                history = happen(*event, history, retention);
                ask(&mut history, *second, *event, &mut signed, &|| format!("{first:?} {event:?}"));
                for third_event in EVENTS {
                    let after = happen(third_event, history.clone(), retention);
                    for third in &votes {
                        let mut history = after.clone();
                        let mut signed = signed.clone();
                        let story =
                            || format!("{retention:?}: {first:?} {event:?} {second:?} {third_event:?}");
                        ask(&mut history, *third, third_event, &mut signed, &story);
                    }
                }
            }
        }
    }
}

/// Deeper, without events: every sequence of four votes over three epochs.
#[test]
fn no_sequence_of_four_votes_is_slashable() {
    let votes = votes(3);
    for retention in [Retention::Complete, Retention::Watermark] {
        descend(&votes, &History::never_signed(KEY, retention), &[], 4);
    }
}

fn descend(votes: &[AttestationVote], history: &History, signed: &[AttestationVote], depth: u32) {
    if depth == 0 {
        return;
    }
    for vote in votes {
        let mut history = history.clone();
        let mut signed = signed.to_vec();
        ask(&mut history, *vote, Event::Nothing, &mut signed, &|| format!("{vote:?}"));
        descend(votes, &history, &signed, depth - 1);
    }
}

/// An import never makes a refused vote acceptable: for every history of two entries, every imported file of one or two
/// entries (slashable ones and such that no chain would accept included) and every vote.
#[test]
fn an_import_never_loosens() {
    let epochs = 3;
    let entries: Vec<SignedAttestation> = votes(epochs)
        .into_iter()
        .flat_map(|vote| {
            [Some(vote.signing_root), None].map(|signing_root| SignedAttestation {
                source_epoch: vote.source,
                target_epoch: vote.target,
                signing_root,
            })
        })
        .collect();
    for retention in [Retention::Complete, Retention::Watermark] {
        for known in &entries {
            for imported in &entries {
                let mut before = History::never_signed(KEY, retention);
                before.learn([], [*known]);
                let mut after = before.clone();
                after.learn([], [*imported]);
                for vote in votes(epochs + 1) {
                    let loosened = check_attestation(&before, &vote).is_err()
                        && check_attestation(&after, &vote).is_ok();
                    // A file that proves the very same vote was signed makes its repetition harmless.
                    let proven = imported.signing_root == Some(vote.signing_root)
                        && (imported.source_epoch, imported.target_epoch) == (vote.source, vote.target);
                    assert!(!loosened || proven, "{known:?} + {imported:?} allows {vote:?}");
                }
            }
        }
    }
}

/// What a foreign file says was signed counts like our own signatures.
#[test]
fn nothing_slashable_against_an_imported_file_is_signed() {
    let entries = votes(4);
    for retention in [Retention::Complete, Retention::Watermark] {
        for (first, second) in entries.iter().flat_map(|a| entries.iter().map(move |b| (a, b))) {
            for known_root in [true, false] {
                let mut history = History::never_signed(KEY, retention);
                history.learn(
                    [],
                    [first, second].map(|vote| SignedAttestation {
                        source_epoch: vote.source,
                        target_epoch: vote.target,
                        signing_root: known_root.then_some(vote.signing_root),
                    }),
                );
                for vote in &entries {
                    if check_attestation(&history, vote).is_ok() {
                        assert!(
                            !slashable(first, vote) && !slashable(second, vote),
                            "{first:?} {second:?} {vote:?}"
                        );
                    }
                }
            }
        }
    }
}

/// Blocks: every sequence of four proposals over four slots with two roots, with every event between the last two.
#[test]
fn no_sequence_of_proposals_signs_two_blocks_of_one_slot() {
    let proposals: Vec<_> = (0..4)
        .flat_map(|slot| [1, 2].map(|number| BlockProposal { slot: Slot(slot), signing_root: root(number) }))
        .collect();
    for retention in [Retention::Complete, Retention::Watermark] {
        for number in 0..proposals.len().pow(3) {
            let place = |digit: u32| &proposals[number / proposals.len().pow(digit) % proposals.len()];
            let mut history = History::never_signed(KEY, retention);
            let mut signed: Vec<BlockProposal> = Vec::new();
            propose(&mut history, place(2), &mut signed);
            propose(&mut history, place(1), &mut signed);
            for event in EVENTS {
                let (mut history, mut signed) = (happen(event, history.clone(), retention), signed.clone());
                propose(&mut history, place(0), &mut signed);
                for last in &proposals {
                    propose(&mut history.clone(), last, &mut signed.clone());
                }
            }
        }
    }
}

fn propose(history: &mut History, proposal: &BlockProposal, signed: &mut Vec<BlockProposal>) {
    let Ok(permit) = check_block(history, proposal) else { return };
    history.record_block(permit).unwrap();
    let conflict = signed
        .iter()
        .find(|other| other.slot == proposal.slot && other.signing_root != proposal.signing_root);
    assert_eq!(conflict, None, "two blocks of one slot were signed");
    signed.push(*proposal);
}

/// A ledger that lost its entries but kept its floors still refuses everything that could conflict.
#[test]
fn floors_alone_protect() {
    for vote in votes(4) {
        for later in votes(4) {
            let mut history = History::never_signed(KEY, Retention::Complete);
            let Ok(permit) = check_attestation(&history, &vote) else { continue };
            history.record_attestation(permit).unwrap();
            let floors = Floors { block: None, source: Some(vote.source), target: Some(vote.target) };
            let bare = History::restore(KEY, Retention::Complete, floors, [], []);
            if check_attestation(&bare, &later).is_ok() {
                assert!(!slashable(&vote, &later), "{vote:?} then {later:?}");
            }
        }
    }
}

/// What some reader makes of a file: by the letter of EIP-3076, or keeping the highest values alone.
fn readers(file: &Interchange) -> Vec<History> {
    let bytes = serde_json::to_vec(file).unwrap();
    let file = Interchange::parse(&bytes, CHAIN).unwrap();
    let read = |retention| {
        let mut protection = Protection::new(CHAIN, retention);
        protection.import(&file).unwrap();
        protection.history(&KEY).unwrap().clone()
    };
    vec![read(Retention::Complete), read(Retention::Watermark)]
}

/// Every history of two entries with floors anywhere, and every vote: what this box refuses is refused wherever its exports
/// are read.
#[test]
fn whoever_reads_an_export_refuses_what_the_exporter_refuses() {
    let epochs = 4;
    let floors: Vec<Option<Epoch>> =
        std::iter::once(None).chain((0..epochs).map(|n| Some(Epoch(n)))).collect();
    let of = |vote: &AttestationVote, signing_root| SignedAttestation {
        source_epoch: vote.source,
        target_epoch: vote.target,
        signing_root,
    };
    for first in votes(epochs) {
        for second in votes(epochs).into_iter().filter(|vote| vote.signing_root == root(1)) {
            let unknown_second = first.signing_root == root(2);
            let entries = [of(&first, Some(root(1))), of(&second, (!unknown_second).then_some(root(1)))];
            for (source, target) in floors.iter().flat_map(|a| floors.iter().map(move |b| (*a, *b))) {
                let mut ours = History::restore(KEY, Retention::Complete, Floors::default(), [], entries);
                ours.raise(Floors { block: None, source, target });
                if first.source == second.target {
                    ours.distrust_repeats();
                }
                let files = [Interchange::complete(CHAIN, [&ours]), Interchange::minimal(CHAIN, [&ours])];
                for (file, theirs) in
                    files.iter().flat_map(|file| readers(file).into_iter().map(move |h| (file, h)))
                {
                    for vote in votes(epochs + 1) {
                        let loosened = check_attestation(&theirs, &vote).is_ok()
                            && check_attestation(&ours, &vote).is_err();
                        assert!(!loosened, "{ours:?} as {file:?} allows {vote:?}");
                    }
                }
            }
        }
    }
}

#[test]
fn whoever_reads_an_export_refuses_the_blocks_that_the_exporter_refuses() {
    let slots = 5;
    for (first, second) in (0..slots).flat_map(|first| (0..slots).map(move |second| (first, second))) {
        for (floor, is_distrusted) in (0..=slots).flat_map(|floor| [(floor, false), (floor, true)]) {
            let entries = [(first, Some(root(1))), (second, None)]
                .map(|(slot, signing_root)| slashing::SignedBlock { slot: Slot(slot), signing_root });
            let mut ours = History::restore(KEY, Retention::Complete, Floors::default(), entries, []);
            ours.raise(Floors { block: floor.checked_sub(1).map(Slot), ..Floors::default() });
            if is_distrusted {
                ours.distrust_repeats();
            }
            for file in [Interchange::complete(CHAIN, [&ours]), Interchange::minimal(CHAIN, [&ours])] {
                for theirs in readers(&file) {
                    for (slot, number) in (0..=slots).flat_map(|slot| [(slot, 1), (slot, 2)]) {
                        let proposal = BlockProposal { slot: Slot(slot), signing_root: root(number) };
                        let loosened =
                            check_block(&theirs, &proposal).is_ok() && check_block(&ours, &proposal).is_err();
                        assert!(!loosened, "{ours:?} as {file:?} allows {proposal:?}");
                    }
                }
            }
        }
    }
}

/// Floors above old entries, as after a power cut: the old entries stay out of the file, and the rest is exact.
#[test]
fn what_a_box_may_have_forgotten_is_in_its_complete_export() {
    let entry = |source, target, signing_root| SignedAttestation {
        source_epoch: Epoch(source),
        target_epoch: Epoch(target),
        signing_root,
    };
    let mut history =
        History::restore(KEY, Retention::Complete, Floors::default(), [], [entry(9, 10, Some(root(1)))]);
    history.raise(Floors { block: None, source: Some(Epoch(20)), target: Some(Epoch(21)) });
    let vote = AttestationVote { source: Epoch(20), target: Epoch(23), signing_root: root(1) };
    let permit = check_attestation(&history, &vote).unwrap();
    history.record_attestation(permit).unwrap();
    let file = Interchange::complete(CHAIN, [&history]);
    let told = &file.data[0].signed_attestations;
    assert_eq!(*told, [entry(20, 21, None), entry(20, 23, Some(root(1)))]);
    let by_the_letter = &readers(&file)[0];
    for (source, target, number, is_allowed) in [
        (10, 11, 1, false),
        (15, 16, 1, false),
        (20, 21, 1, false),
        (19, 24, 1, false),
        (20, 22, 1, true),
        (20, 23, 1, true),
        (20, 23, 2, false),
        (21, 24, 1, true),
    ] {
        let vote =
            AttestationVote { source: Epoch(source), target: Epoch(target), signing_root: root(number) };
        assert_eq!(check_attestation(by_the_letter, &vote).is_ok(), is_allowed, "{vote:?}");
        assert_eq!(check_attestation(&history, &vote).is_ok(), is_allowed, "{vote:?}");
    }
    // Above the floor of the targets and below that of the sources: only the highest values say all of that.
    let mut odd = History::restore(KEY, Retention::Complete, Floors::default(), [], [entry(2, 30, None)]);
    odd.raise(Floors { block: None, source: Some(Epoch(20)), target: Some(Epoch(21)) });
    let file = Interchange::complete(CHAIN, [&odd]);
    assert_eq!(file.data[0].signed_attestations, [entry(20, 30, None)]);
}
