//! The identity keys of this box as they lie on its disk: sealed by the signer, which alone opens them (decision 0373).
//!
//! In memory a key is what `dv-node` is to the other members. Beside a cluster, and in the request of a ceremony or a change, only
//! what the signer made of it is written. This process remembers what it had sealed or opened, so that files can be written and
//! read without asking again; with the process that is forgotten.

use std::io;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use cluster::IdentityKey;
use ipc::{Problem, Sensitive};

use crate::signer::Signer;

/// What begins with this is no key but a sealed one, in hex.
const MARK: &str = "sealed:";
/// No sealed key is longer, with its mark.
const MAX_TEXT: usize = 512;
/// More keys than a box has; past it the one that was needed least lately is forgotten, and opened again when it is needed.
const MAX_OPENED: usize = 256;
/// The code of a problem that passes when the signer can open its vault.
pub(crate) const LOCKED: &str = "identity_locked";
/// The code of one that does not.
pub(crate) const ELSEWHERE: &str = "identity_sealed_elsewhere";

/// What this process has had sealed or opened, the key that was needed last at the end.
static OPENED: Mutex<Opened> = Mutex::new(Opened(Vec::new()));

/// Sealed texts and their keys.
struct Opened(Vec<(String, Sensitive)>);

impl Opened {
    fn find(&mut self, is_it: impl Fn(&(String, Sensitive)) -> bool) -> Option<&(String, Sensitive)> {
        let found = self.0.iter().position(is_it).map(|at| self.0.remove(at))?;
        self.0.push(found);
        self.0.last()
    }

    fn keep(&mut self, sealed: &str, key: Sensitive) {
        self.0.retain(|(known, _)| known != sealed);
        if self.0.len() >= MAX_OPENED {
            self.0.remove(0);
        }
        self.0.push((sealed.to_owned(), key));
    }
}

fn opened() -> MutexGuard<'static, Opened> {
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
    opened().find(|(_, known)| known.expose_secret() == text.as_str()).map(|(sealed, _)| sealed.clone())
}

/// The key as it goes into a file in which `before` stands now. One that the signer has not sealed is not written in the clear, but
/// where it stands so already; what is no key at all is nobody's secret.
pub(crate) fn written(key: &Sensitive, before: Option<&Sensitive>) -> io::Result<Sensitive> {
    match for_disk(key) {
        Some(sealed) => Ok(Sensitive::new(sealed)),
        None if is_key(key) && !before.is_some_and(|before| is_same(before, key)) => Err(io::Error::other(
            "this box's identity key is not written to its disk before the signer has sealed it",
        )),
        None => Ok(copy_of(key)),
    }
}

/// Whether it is a key in the clear.
pub(crate) fn is_key(text: &Sensitive) -> bool {
    IdentityKey::from_file_text(text.expose_secret()).is_ok()
}

/// The key in the clear in a request on the disk, whichever version wrote the rest of it.
pub(crate) fn key_in(request: &Path) -> io::Result<Option<Sensitive>> {
    Ok(parts_of(request)?.and_then(|(_, key)| key))
}

/// Writes the request with its key as the signer sealed it, and zeros over what stood there.
pub(crate) fn seal_in(request: &Path) -> io::Result<()> {
    let Some((mut value, Some(key))) = parts_of(request)? else { return Ok(()) };
    let sealed = for_disk(&key).ok_or_else(|| io::Error::other("the identity key is not sealed"))?;
    if let Some(place) = value.get_mut(KEY_FIELD) {
        *place = sealed.into();
    }
    let old = std::fs::OpenOptions::new().write(true).open(request)?;
    let text = serde_json::to_vec(&value).map_err(io::Error::other)?;
    crate::store::replace_file(request, &text)?;
    crate::store::overwrite(old)
}

/// The field of a request that has the key.
const KEY_FIELD: &str = "identity_key";
/// As much as a change of a large cluster asks for.
const MAX_REQUEST: u64 = 256 << 20;

fn parts_of(request: &Path) -> io::Result<Option<(serde_json::Value, Option<Sensitive>)>> {
    let found = match std::fs::metadata(request) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        found => found?,
    };
    if found.len() > MAX_REQUEST {
        return Ok(None);
    }
    // What is no JSON was never one of our requests.
    let Ok(value) = serde_json::from_slice::<serde_json::Value>(&std::fs::read(request)?) else {
        return Ok(None);
    };
    let key = value.get(KEY_FIELD).and_then(serde_json::Value::as_str);
    let key = key.map(|key| Sensitive::new(key.to_owned())).filter(is_key);
    Ok(Some((value, key)))
}

/// What was read, as the key where this process has opened it before.
pub(crate) fn if_opened(text: Sensitive) -> Sensitive {
    if !is_sealed(&text) {
        return text;
    }
    let known = opened().find(|(sealed, _)| sealed == text.expose_secret()).map(|(_, key)| copy_of(key));
    known.unwrap_or(text)
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
    opened().keep(sealed, copy_of(key));
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
    fn what_is_needed_least_is_forgotten_first_and_a_forgotten_key_is_not_written_in_the_clear() {
        let key = |number: u16| Sensitive::new(format!("{:04x}", number + 1).repeat(16));
        let mut opened = Opened(Vec::new());
        for number in 0..u16::try_from(MAX_OPENED).unwrap() {
            opened.keep(&number.to_string(), key(number));
        }
        assert!(opened.find(|(sealed, _)| sealed == "0").is_some());
        opened.keep("one more", key(999));
        assert!(opened.find(|(sealed, _)| sealed == "0").is_some(), "it was needed");
        assert!(opened.find(|(sealed, _)| sealed == "1").is_none());
        assert_eq!(opened.0.len(), MAX_OPENED);

        let never_sealed = key(1_000);
        assert!(written(&never_sealed, None).is_err() && written(&never_sealed, Some(&key(1))).is_err());
        let as_before = Sensitive::new(never_sealed.expose_secret().to_uppercase());
        assert!(
            written(&never_sealed, Some(&as_before)).is_ok(),
            "it is there already and waits to be taken over"
        );
    }

    #[test]
    fn the_key_in_a_request_of_another_version_is_sealed_and_the_rest_stays() {
        let dir = tempfile::tempdir().unwrap();
        let (path, key) = (dir.path().join("request.json"), "63".repeat(32));
        assert!(key_in(&path).unwrap().is_none());
        let request = serde_json::json!({ "identity_key": key, "of_tomorrow": [1, "two"] });
        std::fs::write(&path, request.to_string()).unwrap();
        assert_eq!(key_in(&path).unwrap().unwrap().expose_secret(), key);
        assert!(seal_in(&path).is_err() && key_in(&path).unwrap().is_some(), "it is not sealed yet");
        as_if_opened("sealed:63f0", &key);
        let old = std::fs::File::open(&path).unwrap();
        seal_in(&path).unwrap();
        let now: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        assert_eq!(now, serde_json::json!({ "identity_key": "sealed:63f0", "of_tomorrow": [1, "two"] }));
        let before = io::read_to_string(old).unwrap();
        assert!(before.bytes().all(|byte| byte == 0), "{before:?}");
        seal_in(&path).unwrap();
        std::fs::write(&path, "{").unwrap();
        assert!(key_in(&path).unwrap().is_none());
    }

    #[test]
    fn only_bounded_hex_behind_the_mark_looks_sealed() {
        for (text, looks) in [("sealed:00", true), ("sealed:", false), ("sealed:0x", false), ("00", false)] {
            assert_eq!(looks_sealed(text), looks, "{text}");
        }
        assert!(!looks_sealed(&format!("sealed:{}", "00".repeat(300))));
    }
}
