//! One vote, one file's history: what they change in a share's history and in its rows.

use rusqlite::Transaction;
use slashing::{AttestationVote, BlockProposal, History};

use super::{Entries, LedgerError, digest, store};
use crate::{
    message::{Message, Vote},
    refusal::Refusal,
};

/// Details are kept for about a day of epochs; the floors stand for everything older.
pub(super) const KEEP_EPOCHS: u64 = 256;
pub(super) const KEEP_SLOTS: u64 = KEEP_EPOCHS * 32;
/// Old details are dropped when a share's target reaches a multiple of this.
const PRUNE_EVERY_EPOCHS: u64 = 64;

/// One vote: the rules, then its row. Also gives what its entries add to the digest.
pub(super) fn record(
    transaction: &Transaction<'_>,
    share: i64,
    history: &mut History,
    message: &Message,
) -> Result<(Result<(), Refusal>, u64), LedgerError> {
    let slashable = |refusal: slashing::Refusal| Refusal::Slashable(refusal.to_string());
    let stale = |error: slashing::RecordError| Refusal::Slashable(error.to_string());
    let refused = |refusal| Ok((Err(refusal), 0));
    let signing_root = message.signing_root;
    match message.vote {
        Vote::None => Ok((Ok(()), 0)),
        Vote::Attestation { source, target } => {
            if i64::try_from(target.0).is_err() {
                return refused(Refusal::Malformed("no chain reaches this epoch".to_owned()));
            }
            let vote = AttestationVote { source, target, signing_root };
            let permit = match slashing::check_attestation(history, &vote) {
                Ok(permit) => permit,
                Err(refusal) => return refused(slashable(refusal)),
            };
            let is_repeat = permit.is_repeat();
            let entry = match history.record_attestation(permit) {
                Ok(entry) => entry,
                Err(error) => return refused(stale(error)),
            };
            store::insert_attestation(transaction, share, &entry)?;
            let added = if is_repeat { 0 } else { digest::of_attestation(history, &entry) };
            let dropped =
                if target.0 % PRUNE_EVERY_EPOCHS == 0 { prune(transaction, share, history)? } else { 0 };
            Ok((Ok(()), added.wrapping_sub(dropped)))
        }
        Vote::Block { slot } => {
            if i64::try_from(slot.0).is_err() {
                return refused(Refusal::Malformed("no chain reaches this slot".to_owned()));
            }
            let proposal = BlockProposal { slot, signing_root };
            let permit = match slashing::check_block(history, &proposal) {
                Ok(permit) => permit,
                Err(refusal) => return refused(slashable(refusal)),
            };
            let is_repeat = permit.is_repeat();
            let entry = match history.record_block(permit) {
                Ok(entry) => entry,
                Err(error) => return refused(stale(error)),
            };
            store::insert_block(transaction, share, &entry)?;
            Ok((Ok(()), if is_repeat { 0 } else { digest::of_block(history, &entry) }))
        }
    }
}

/// Drops old details; the floors rise over them. Gives what the dropped entries were in the digest.
fn prune(transaction: &Transaction<'_>, share: i64, history: &mut History) -> Result<u64, LedgerError> {
    let entries = |history: &History| digest::of_history(history).wrapping_sub(digest::of_floors(history));
    let before = entries(history);
    history.prune(KEEP_SLOTS, KEEP_EPOCHS);
    store::replace_history(transaction, share, history)?;
    Ok(before.wrapping_sub(entries(history)))
}

/// The history with what a file tells; see [`History::adopt`].
pub(super) fn with_imported(history: &History, (blocks, attestations): &Entries) -> History {
    let mut merged = history.clone();
    merged.adopt(blocks.iter().copied(), attestations.iter().copied());
    merged
}
