//! Only one process at a time works with a state directory: two would both speak for one member, each with half of its memory.
//!
//! The lock is the kernel's, on the directory itself (`flock`). It goes with the process, however that ends, so there is nothing
//! to wait for after a crash and nothing to clean up, as there is with a file that holds a time.

use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

/// Why a process may not begin.
#[derive(Debug, thiserror::Error)]
pub enum NotAlone {
    /// Another one is at work.
    #[error("another process works with {0}; end it first, or name another state_dir")]
    Taken(PathBuf),
    /// The directory cannot be locked.
    #[error("cannot lock {path}")]
    Io {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// The proof that nobody else works with a state directory while it lives.
#[derive(Debug)]
pub struct Alone {
    _directory: File,
}

impl Alone {
    /// Takes the directory, which must exist, or says who cannot have it. Never waits.
    pub fn with(state_dir: &Path) -> Result<Self, NotAlone> {
        let io = |source| NotAlone::Io { path: state_dir.to_owned(), source };
        let directory = File::open(state_dir).map_err(io)?;
        match directory.try_lock() {
            Ok(()) => Ok(Self { _directory: directory }),
            Err(TryLockError::WouldBlock) => Err(NotAlone::Taken(state_dir.to_owned())),
            Err(TryLockError::Error(source)) => Err(io(source)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_taken_once_and_free_again_afterwards() {
        let dir = tempfile::tempdir().unwrap();
        let first = Alone::with(dir.path()).unwrap();
        let refused = Alone::with(dir.path()).unwrap_err();
        assert!(matches!(refused, NotAlone::Taken(_)), "{refused}");
        drop(first);
        assert!(Alone::with(dir.path()).is_ok());
        assert!(matches!(Alone::with(&dir.path().join("none")), Err(NotAlone::Io { .. })));
    }
}
