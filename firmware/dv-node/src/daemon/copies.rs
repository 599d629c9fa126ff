//! What became of the copies of identity keys that the signer is given for backups, moves and the version before (decision 0373).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// One copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Handed {
    /// The signer is asked to take it, again and again.
    UnderWay,
    /// It has it, or has said for good that it does not take it.
    Settled,
}

/// By the lock's hash, what this run knows.
#[derive(Debug, Default, Clone)]
pub(super) struct Copies(Arc<Mutex<BTreeMap<String, Handed>>>);

impl Copies {
    /// What is known of a copy.
    pub(super) fn of(&self, lock_hash: &str) -> Option<Handed> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(lock_hash).copied()
    }

    /// Notes it; nothing when nobody asks any more.
    pub(super) fn note(&self, lock_hash: &str, handed: Option<Handed>) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match handed {
            Some(handed) => drop(known.insert(lock_hash.to_owned(), handed)),
            None => drop(known.remove(lock_hash)),
        }
    }
}
