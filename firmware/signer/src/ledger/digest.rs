//! A number that stands for everything the ledger knows, written with every change.
//!
//! The database is two files while the signer runs: the ledger and its write-ahead log. Somebody who restores an old copy
//! of the first and leaves the second gets a mixture of two days that SQLite finds in order. The digest is in the log with
//! the newest change, the forgotten votes are not in the file: the two do not match, and nothing is signed.
//!
//! It is a sum, so that one vote changes it in one step. It finds accidents, not forgers: who can write as the signer can
//! also write a matching sum.

use sha2::{Digest as _, Sha256};
use slashing::{History, SignedAttestation, SignedBlock};

/// The digest of one share's history.
pub(super) fn of_history(history: &History) -> u64 {
    let blocks = history.blocks().map(|entry| of_block(history, &entry));
    let attestations = history.attestations().map(|entry| of_attestation(history, &entry));
    blocks.chain(attestations).fold(of_floors(history), u64::wrapping_add)
}

/// The part that stands for the floors.
pub(super) fn of_floors(history: &History) -> u64 {
    let floors = history.floors();
    let marks = [floors.block.map(|slot| slot.0), floors.source.map(|e| e.0), floors.target.map(|e| e.0)];
    number(history, b'f', &marks, None)
}

/// The part that stands for one attestation.
pub(super) fn of_attestation(history: &History, entry: &SignedAttestation) -> u64 {
    let epochs = [Some(entry.source_epoch.0), Some(entry.target_epoch.0)];
    number(history, b'a', &epochs, entry.signing_root.as_ref().map(chain::Root::as_slice))
}

/// The part that stands for one block.
pub(super) fn of_block(history: &History, entry: &SignedBlock) -> u64 {
    number(history, b'b', &[Some(entry.slot.0)], entry.signing_root.as_ref().map(chain::Root::as_slice))
}

fn number(history: &History, kind: u8, numbers: &[Option<u64>], root: Option<&[u8]>) -> u64 {
    let mut hash = Sha256::new();
    hash.update(history.key().as_slice());
    hash.update([kind, u8::from(root.is_some())]);
    hash.update(root.unwrap_or_default());
    for number in numbers {
        hash.update([u8::from(number.is_some())]);
        hash.update(number.unwrap_or_default().to_be_bytes());
    }
    let bytes: [u8; 32] = hash.finalize().into();
    u64::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3], bytes[4], bytes[5], bytes[6], bytes[7]])
}
