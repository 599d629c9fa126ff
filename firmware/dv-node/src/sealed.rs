//! The identity keys of this box as they lie on its disk: sealed by the signer, which alone opens them (decision 0373).
//!
//! In memory a key is what `dv-node` is to the other members. Beside a cluster, and in the request of a ceremony or a change, only
//! what the signer made of it is written. This process remembers what it had sealed or opened, so that files can be written and
//! read without asking again; with the process that is forgotten.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use cluster::IdentityKey;
use ipc::{Problem, Sensitive};

use crate::signer::Signer;

/// What begins with this is no key but a sealed one, in hex.
const MARK: &str = "sealed:";
/// No sealed key is longer, with its mark.
const MAX_TEXT: usize = 512;
/// More keys than a box has; past it all are forgotten, and opened again when they are needed.
const MAX_OPENED: usize = 256;
/// The code of a problem that passes when the signer can open its vault.
pub(crate) const LOCKED: &str = "identity_locked";
/// The code of one that does not.
pub(crate) const ELSEWHERE: &str = "identity_sealed_elsewhere";

/// By the sealed text, the key.
static OPENED: Mutex<BTreeMap<String, Sensitive>> = Mutex::new(BTreeMap::new());

fn opened() -> MutexGuard<'static, BTreeMap<String, Sensitive>> {
    OPENED.lock().unwrap_or_else(PoisonError::into_inner)
}

fn copy_of(key: &Sensitive) -> Sensitive {
    Sensitive::new(key.expose_secret().to_owned())
}

/// Whether it waits for the signer to open it.
pub(crate) fn is_sealed(key: &Sensitive) -> bool {
    key.expose_secret().starts_with(MARK)
}

/// Whether a file's text is what [`for_disk`] gave out, as far as one can see.
pub(crate) fn looks_sealed(text: &str) -> bool {
    let hex = text.strip_prefix(MARK).filter(|_| text.len() <= MAX_TEXT);
    hex.is_some_and(|hex| !hex.is_empty() && hex.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// Whether two texts are one key, however they are written: what comes from the signer is not as its owner typed it.
pub(crate) fn is_same(one: &Sensitive, other: &Sensitive) -> bool {
    one.expose_secret().trim().eq_ignore_ascii_case(other.expose_secret().trim())
}

/// How a key may be written down; none where the signer has not sealed it.
pub(crate) fn for_disk(key: &Sensitive) -> Option<String> {
    if is_sealed(key) {
        return Some(key.expose_secret().to_owned());
    }
    let identity = IdentityKey::from_file_text(key.expose_secret()).ok()?;
    let text = identity.to_file_text();
    let opened = opened();
    let mut found = opened.iter().filter(|(_, known)| known.expose_secret() == text.as_str());
    found.next().map(|(sealed, _)| sealed.clone())
}

/// The key as it goes into a file: as it is where the signer has not sealed it.
pub(crate) fn written(key: &Sensitive) -> Sensitive {
    for_disk(key).map_or_else(|| copy_of(key), Sensitive::new)
}

/// What was read, as the key where this process has opened it before.
pub(crate) fn if_opened(text: Sensitive) -> Sensitive {
    if !is_sealed(&text) {
        return text;
    }
    opened().get(text.expose_secret()).map(copy_of).unwrap_or(text)
}

/// The key itself, asked of the signer where that is needed.
pub(crate) async fn open(signer: &Path, key: &Sensitive) -> Result<Sensitive, Problem> {
    let known = if_opened(copy_of(key));
    let Some(sealed) = known.expose_secret().strip_prefix(MARK) else { return Ok(known) };
    let answer = Signer::new(signer).open_identity(sealed).await?;
    remember(key.expose_secret(), &answer)?;
    Ok(answer)
}

/// Has a key sealed, unless it is, and makes sure that it opens again: from now on [`for_disk`] knows how it is written down.
pub(crate) async fn seal(signer: &Path, key: &Sensitive) -> Result<(), Problem> {
    if for_disk(key).is_some() {
        return Ok(());
    }
    let asked = Signer::new(signer);
    let sealed = asked.seal_identity(key).await?;
    let again = asked.open_identity(&sealed).await?;
    if !is_same(&again, key) {
        return Err(not_the_same());
    }
    remember(&format!("{MARK}{sealed}"), &again)
}

/// Whether what is on the disk opens, asked of the signer and of nobody's memory.
pub(crate) async fn opens_to(signer: &Path, sealed: &str, key: &Sensitive) -> Result<(), Problem> {
    let hex = sealed.strip_prefix(MARK).ok_or_else(not_the_same)?;
    let again = Signer::new(signer).open_identity(hex).await?;
    if is_same(&again, key) { Ok(()) } else { Err(not_the_same()) }
}

/// The same problem for a change of the cluster, which waits for a signer that cannot be asked yet.
pub(crate) fn unavailable(problem: Problem) -> Problem {
    if problem.code == LOCKED {
        Problem { code: "signer_unavailable".to_owned(), ..problem }
    } else {
        problem
    }
}

fn remember(sealed: &str, key: &Sensitive) -> Result<(), Problem> {
    if !looks_sealed(sealed) || IdentityKey::from_file_text(key.expose_secret()).is_err() {
        return Err(not_the_same());
    }
    let mut opened = opened();
    if opened.len() >= MAX_OPENED {
        opened.clear();
    }
    opened.insert(sealed.to_owned(), copy_of(key));
    Ok(())
}

fn not_the_same() -> Problem {
    Problem::new(
        "identity_not_sealed",
        "What the signer made of this box's identity key does not open to the same key, so nothing was changed.",
        "Restart the box; if it comes back, send us the log.",
    )
}

#[cfg(test)]
pub(crate) fn as_if_opened(sealed: &str, key: &str) {
    remember(sealed, &Sensitive::new(key.to_owned())).unwrap();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_written_as_it_was_sealed_and_read_only_once_it_was_opened() {
        let (sealed, key) = ("sealed:0102aa", "31".repeat(32));
        assert!(for_disk(&Sensitive::new(key.clone())).is_none());
        let read = || if_opened(Sensitive::new(sealed.to_owned()));
        assert!(is_sealed(&read()));
        as_if_opened(sealed, &key);
        assert_eq!(read().expose_secret(), key);
        assert_eq!(for_disk(&Sensitive::new(format!("{}\n", key.to_uppercase()))).as_deref(), Some(sealed));
        // What is still sealed stays what it is, and another key is another key.
        let other = Sensitive::new("sealed:0102ab".to_owned());
        assert_eq!(for_disk(&other).as_deref(), Some("sealed:0102ab"));
        assert!(is_sealed(&if_opened(other)) && for_disk(&Sensitive::new("32".repeat(32))).is_none());
    }

    #[test]
    fn only_bounded_hex_behind_the_mark_looks_sealed() {
        for (text, looks) in [("sealed:00", true), ("sealed:", false), ("sealed:0x", false), ("00", false)] {
            assert_eq!(looks_sealed(text), looks, "{text}");
        }
        assert!(!looks_sealed(&format!("sealed:{}", "00".repeat(300))));
    }
}
