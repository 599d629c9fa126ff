//! What the chain shows of a share's validator that is not on record here (decision 0402). No history is here.
//!
//! An old copy of the ledger whose TPM was put back with it, in a cluster whose members remember nothing, may have signed a part of
//! what the chain shows. It may as well have been off while the others went on, which is the ordinary case: so nothing is stopped,
//! and no alarm is raised. A validator votes once in an epoch, so to keep still about epochs in which it has voted costs nothing.
//!
//! Kept in memory for the run: whoever asks for votes asks the chain before the first one.

use std::collections::BTreeMap;

use chain::{Epoch, PublicKeyBytes, UnixMillis};
use ipc::{signer::ChainClock, web3signer::ChainMark};
use slashing::History;

use super::Asked;
use crate::{clock, message::Vote, refusal::Refusal};

/// Per share, what a new vote must lie above.
#[derive(Debug, Default)]
pub(super) struct ChainMarks(BTreeMap<PublicKeyBytes, Mark>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mark {
    /// Votes have a later target.
    target: Epoch,
    /// And no earlier source.
    source: Epoch,
}

impl ChainMarks {
    /// Takes note of a mark that goes beyond what is on record. What is beyond what this signer could have signed, by its clock, is
    /// cut to that.
    pub(super) fn note(&mut self, mark: &ChainMark, history: &History, clock: &ChainClock, now: UnixMillis) {
        let Some(epoch) = clock::epoch_at(clock, now) else { return };
        let target = mark.target.min(epoch.saturating_add(1));
        if Some(target) <= history.last_known().target {
            return;
        }
        // No chain has justified an epoch that is not over, and no vote has a source that is not before its target.
        let source = mark.justified.min(target.saturating_sub(1));
        let known = self.0.entry(mark.key).or_insert(Mark { target, source });
        *known = Mark { target: known.target.max(target), source: known.source.max(source) };
    }

    /// Whether a vote lies above what the chain shows.
    pub(super) fn allow(&self, asked: &Asked) -> Result<(), Refusal> {
        let (Some(mark), Vote::Attestation { source, target }) = (self.0.get(&asked.key), asked.message.vote)
        else {
            return Ok(());
        };
        if target > mark.target && source >= mark.source {
            return Ok(());
        }
        Err(Refusal::Slashable(format!(
            "the chain shows a vote of this validator for epoch {}, which is not on record here: this share may have had a part \
             in it, so it signs later epochs only, with a source no earlier than {}",
            mark.target, mark.source
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Asks, Kind, Message};
    use chain::Root;
    use ipc::signer::ChainPreset;
    use slashing::{Floors, Retention, SignedAttestation, SignedBlock};

    const KEY: PublicKeyBytes = PublicKeyBytes([1; 48]);
    const CLOCK: ChainClock =
        ChainClock { genesis_time: 1000, slot_ms: 2000, slots_per_epoch: 8, preset: ChainPreset::Mainnet };

    fn at_epoch(epoch: u64) -> UnixMillis {
        UnixMillis(1_000_000 + epoch * 8 * 2000 + 1)
    }

    fn known(targets: &[u64]) -> History {
        let votes = targets.iter().map(|target| SignedAttestation {
            source_epoch: Epoch(target - 1),
            target_epoch: Epoch(*target),
            signing_root: None,
        });
        History::restore(KEY, Retention::Complete, Floors::default(), [] as [SignedBlock; 0], votes)
    }

    fn allows(marks: &ChainMarks, source: u64, target: u64) -> bool {
        let vote = Vote::Attestation { source: Epoch(source), target: Epoch(target) };
        let (kind, signing_root) = (Kind::Attestation, Root([1; 32]));
        let message = Message { kind, signing_root, epoch: Epoch(target), vote, asks: Asks::Duty };
        marks.allow(&Asked { key: KEY, message }).is_ok()
    }

    fn note(marks: &mut ChainMarks, target: u64, justified: u64, history: &History, now: u64) {
        let mark = ChainMark { key: KEY, target: Epoch(target), justified: Epoch(justified) };
        marks.note(&mark, history, &CLOCK, at_epoch(now));
    }

    #[test]
    fn what_the_chain_shows_and_the_ledger_lacks_is_not_voted_against() {
        let mut marks = ChainMarks::default();
        note(&mut marks, 10, 8, &known(&[6, 7]), 10);
        for (source, target, allowed) in
            [(8, 9, false), (9, 10, false), (8, 11, true), (10, 11, true), (7, 11, false), (8, 10, false)]
        {
            assert_eq!(allows(&marks, source, target), allowed, "{source} to {target}");
        }
        // An older word changes nothing.
        note(&mut marks, 9, 7, &known(&[6, 7]), 10);
        assert!(allows(&marks, 8, 11) && !allows(&marks, 7, 11) && !allows(&marks, 8, 10));
    }

    #[test]
    fn what_is_on_record_needs_no_mark() {
        let mut marks = ChainMarks::default();
        note(&mut marks, 10, 8, &known(&[9, 10]), 10);
        assert!(allows(&marks, 9, 10), "the ledger judges that");
        assert!(allows(&ChainMarks::default(), 0, 1));
        let before_genesis = ChainMark { key: KEY, target: Epoch(3), justified: Epoch(1) };
        marks.note(&before_genesis, &known(&[]), &CLOCK, UnixMillis(5));
        assert!(allows(&marks, 0, 1));
    }

    #[test]
    fn what_no_signer_could_have_signed_yet_is_cut_to_what_it_could() {
        let mut marks = ChainMarks::default();
        note(&mut marks, u64::MAX, u64::MAX, &known(&[]), 10);
        assert!(!allows(&marks, 9, 10));
        assert!(!allows(&marks, 10, 11), "a target of the next epoch is signed as well");
        assert!(!allows(&marks, 9, 12), "on a chain that does not justify it stays still until it does");
        assert!(allows(&marks, 10, 12));
    }
}
