//! The claim code: proof that whoever changes the box stands in front of it.
//!
//! Made once, kept in the state directory, shown on the box's own screen and nowhere on the network. Guesses are
//! limited by number for everybody together: 60 random bits against a handful of tries a minute.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use rand::RngCore as _;
use sha2::{Digest as _, Sha256};

/// Letters that nobody mistakes for another (Crockford's base 32).
const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
const GROUPS: usize = 3;
const GROUP_LENGTH: usize = 4;
/// With its hyphens.
pub(crate) const CODE_LENGTH: usize = GROUPS * GROUP_LENGTH + GROUPS - 1;
/// Wrong guesses allowed in one window.
const GUESSES: u32 = 5;
const WINDOW: Duration = Duration::from_secs(60);

/// What a guess was.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Guess {
    Right,
    Wrong,
    /// Too many wrong ones lately; not looked at.
    TooMany {
        retry_after_s: u64,
    },
}

/// The code (as a digest, so that comparing takes the same time wherever a guess first differs) and the guesses so far.
pub(crate) struct Claim {
    digest: [u8; 32],
    window_began: Option<Instant>,
    wrong: u32,
}

impl Claim {
    pub(crate) fn new(code: &str) -> Self {
        Self { digest: digest(code), window_began: None, wrong: 0 }
    }

    /// Judges `guess`, made at `now`.
    pub(crate) fn judge(&mut self, guess: &str, now: Instant) -> Guess {
        if let Some(began) = self.window_began {
            let age = now.saturating_duration_since(began);
            if age >= WINDOW {
                self.window_began = None;
                self.wrong = 0;
            } else if self.wrong >= GUESSES {
                return Guess::TooMany { retry_after_s: (WINDOW - age).as_secs().max(1) };
            }
        }
        if digest(guess) == self.digest {
            return Guess::Right;
        }
        self.window_began.get_or_insert(now);
        self.wrong += 1;
        Guess::Wrong
    }
}

/// Hashes what was typed, without regard to case, hyphens, spaces and look-alike letters.
fn digest(code: &str) -> [u8; 32] {
    let mut hasher = Sha256::new();
    for character in code.chars().take(64).filter(|c| c.is_ascii_alphanumeric()) {
        let canonical = match character.to_ascii_uppercase() {
            'O' => '0',
            'I' | 'L' => '1',
            other => other,
        };
        hasher.update([u8::try_from(canonical).unwrap_or(b'?')]);
    }
    hasher.finalize().into()
}

/// Reads the code, or makes it the first time; the file appears whole or not at all.
pub(crate) fn load_or_create(state_dir: &Path) -> std::io::Result<String> {
    let path = state_dir.join("claim-code");
    match std::fs::read_to_string(&path) {
        Ok(code) if is_code(code.trim()) => {
            return Ok(code.trim().to_owned());
        }
        Ok(_) => {} // Not a code of ours: an interrupted write cannot leave this, so make a new one.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let code = generate();
    write_private(&path, code.as_bytes())?;
    Ok(code)
}

/// Whether this is a code, exactly as one is shown.
pub(crate) fn is_code(text: &str) -> bool {
    let is_group =
        |group: &str| group.len() == GROUP_LENGTH && group.bytes().all(|letter| ALPHABET.contains(&letter));
    text.split('-').count() == GROUPS && text.split('-').all(is_group)
}

fn generate() -> String {
    let mut bytes = [0_u8; GROUPS * GROUP_LENGTH];
    rand::rng().fill_bytes(&mut bytes);
    let letters: Vec<char> = bytes.iter().map(|byte| char::from(ALPHABET[usize::from(byte & 31)])).collect();
    letters.chunks(GROUP_LENGTH).map(|group| group.iter().collect::<String>()).collect::<Vec<_>>().join("-")
}

/// Writes a file that only we may read: beside it first, then renamed over, so that a crash leaves old or new.
pub(crate) fn write_private(path: &Path, content: &[u8]) -> std::io::Result<()> {
    let beside = path.with_extension("new");
    let _ = std::fs::remove_file(&beside);
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
    file.write_all(content)?;
    file.sync_all()?;
    std::fs::rename(&beside, path)?;
    if let Some(directory) = path.parent() {
        std::fs::File::open(directory)?.sync_all()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_the_code_as_people_type_it() {
        let now = Instant::now();
        for typed in ["0F1G-HJKM-NPQR", "0f1ghjkmnpqr", "of1g hjkm npqr", " OFLG-HJKM-NPQR "] {
            assert_eq!(Claim::new("0F1G-HJKM-NPQR").judge(typed, now), Guess::Right, "{typed}");
        }
        for typed in ["", "0F1G-HJKM-NPQS", "0F1G-HJKM-NPQ", "0F1G-HJKM-NPQRR"] {
            assert_eq!(Claim::new("0F1G-HJKM-NPQR").judge(typed, now), Guess::Wrong, "{typed}");
        }
    }

    #[test]
    fn stops_looking_after_five_wrong_guesses_even_at_the_right_code() {
        let mut claim = Claim::new("0F1G-HJKM-NPQR");
        let start = Instant::now();
        for _ in 0..GUESSES {
            assert_eq!(claim.judge("x", start), Guess::Wrong);
        }
        assert!(matches!(claim.judge("0F1G-HJKM-NPQR", start), Guess::TooMany { .. }));
        assert_eq!(claim.judge("0F1G-HJKM-NPQR", start + WINDOW), Guess::Right);
    }

    #[test]
    fn is_the_same_after_a_restart_and_private() {
        use std::os::unix::fs::PermissionsExt as _;
        let directory = tempfile::tempdir().unwrap();
        let first = load_or_create(directory.path()).unwrap();
        assert_eq!(load_or_create(directory.path()).unwrap(), first);
        assert_eq!(first.len(), 14);
        let mode = std::fs::metadata(directory.path().join("claim-code")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
