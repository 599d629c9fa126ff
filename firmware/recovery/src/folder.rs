//! The key's folder on /var, inside the encryption.
//!
//! It comes into being whole, by a new name: what is in it beside the marks is the key that opens the disk. From then on it holds one of
//! `key` (it waits to be written down), `noted` (it was) and `lapsed` (it was not, in time). Where two of them are there, a power was cut in
//! between, and the first of `noted`, `lapsed`, `key` counts. Beside `key`, `this-start` names the start in which it may be shown. The same name with `.new` says that a key is being made, and was
//! shown to nobody. What cannot be read is an error and never absence.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::key::{LENGTH, RecoveryKey};

const KEY: &str = "key";
const NOTED: &str = "noted";
const LAPSED: &str = "lapsed";
/// The boot ID of the start in which the key may be shown.
const THIS_START: &str = "this-start";
/// In `lapsed`: the disk's header still has the slot of the key that went.
pub(crate) const SLOT_WAITS: &[u8] = b"its slot waits to be taken out\n";
const SLOT_GONE: &[u8] = b"its slot was taken out\n";
/// More than any mark holds.
const MARK_BYTES: u64 = 64;

/// Why the folder could not be used. It never quotes what was read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FolderError {
    /// The disk, or the file system on it.
    #[error("cannot use {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Not what systemd-cryptenroll writes.
    #[error("{path} holds no recovery key")]
    NoKey {
        /// The file.
        path: PathBuf,
    },
    /// The step is none that may follow on what the folder says.
    #[error("{path} does not say that a recovery key is {doing}")]
    NotNow {
        /// The folder.
        path: PathBuf,
        /// What would have to be going on.
        doing: &'static str,
    },
}

/// What the folder says.
pub(crate) enum Kept {
    /// No key was ever made.
    Nothing,
    /// One is being made, or was and was lost on the way. Nobody was shown it.
    Begun,
    /// The key waits to be written down.
    Waiting(RecoveryKey),
    /// It was written down, then.
    Noted {
        /// Unix milliseconds, where they can be read.
        at_ms: Option<u64>,
    },
    /// It was not, and is gone.
    Lapsed {
        /// Whether the disk's header may still have its slot.
        slot_waits: bool,
    },
}

fn at(path: &Path) -> impl Fn(io::Error) -> FolderError + use<> {
    let path = path.to_owned();
    move |source| FolderError::File { path: path.clone(), source }
}

/// Where a folder is made before it gets its name.
fn beside(folder: &Path) -> PathBuf {
    folder.with_extension("new")
}

/// Whether anything has this name. Only the system's word that nothing has is absence.
pub(crate) fn is_there(path: &Path) -> Result<bool, FolderError> {
    match fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(at(path)(error)),
    }
}

/// Looks into the folder.
pub(crate) fn look(folder: &Path) -> Result<Kept, FolderError> {
    let noted = folder.join(NOTED);
    if is_there(&noted)? {
        // That it is there is the owner's word; when that was is not worth a doubt.
        let at_ms =
            read_mark(&noted).ok().and_then(|text| std::str::from_utf8(&text).ok()?.trim().parse().ok());
        return Ok(Kept::Noted { at_ms });
    }
    let lapsed = folder.join(LAPSED);
    if is_there(&lapsed)? {
        // A slot is taken out on this word alone.
        return Ok(Kept::Lapsed { slot_waits: read_mark(&lapsed)? == SLOT_WAITS });
    }
    let key = folder.join(KEY);
    if is_there(&key)? {
        return read_key(&key).map(Kept::Waiting);
    }
    Ok(if is_there(&beside(folder))? { Kept::Begun } else { Kept::Nothing })
}

/// Says, durably, that a key is going to be made.
pub(crate) fn begin(folder: &Path) -> Result<(), FolderError> {
    // On the first start /var is empty, and its folders are everybody's to walk through.
    if let Some(parent) = folder.parent() {
        make(parent, 0o755)?;
        parent.parent().map_or(Ok(()), sync)?;
    }
    let new = beside(folder);
    make(&new, 0o700)?;
    wipe(&new.join(KEY))?;
    new.parent().map_or(Ok(()), sync)
}

/// Takes over the key that was just put into the disk's header and left at `from`: afterwards it is in `folder`, durably, and in any case no longer
/// there. A power cut before that leaves what [`begin`] has said.
pub(crate) fn take_over(from: &Path, folder: &Path) -> Result<(), FolderError> {
    let taken = read_key(from).and_then(|key| match look(folder)? {
        Kept::Begun => keep(&key, folder),
        Kept::Nothing | Kept::Waiting(_) | Kept::Noted { .. } | Kept::Lapsed { .. } => {
            Err(FolderError::NotNow { path: folder.to_owned(), doing: "being made" })
        }
    });
    wipe(from)?;
    taken
}

fn keep(key: &RecoveryKey, folder: &Path) -> Result<(), FolderError> {
    let new = beside(folder);
    let path = new.join(KEY);
    wipe(&path)?;
    let written = || -> io::Result<()> {
        let mut file = File::options().write(true).create_new(true).mode(0o600).open(&path)?;
        file.write_all(key.expose_secret().as_bytes())?;
        file.sync_all()
    };
    written().map_err(at(&path))?;
    sync(&new)?;
    rename(&new, folder)
}

/// The owner has it on paper: from now on it is nowhere on the box but as what opens the disk.
pub(crate) fn note(folder: &Path, now_ms: u64) -> Result<(), FolderError> {
    write_mark(&folder.join(NOTED), format!("{now_ms}\n").as_bytes())?;
    forget(folder)
}

/// Does away with the file of a key that is not to be shown any more.
pub(crate) fn forget(folder: &Path) -> Result<(), FolderError> {
    wipe(&folder.join(KEY))?;
    wipe(&folder.join(THIS_START))
}

/// Says that a key that waits may be shown in this start, and in no other. Without this word nobody is shown it: neither where the first
/// system broke off, nor where the disk took no writes, nor from an old copy.
pub(crate) fn allow(folder: &Path, start: &str) -> Result<(), FolderError> {
    write_mark(&folder.join(THIS_START), start.as_bytes())
}

/// Whether [`allow`] was said in this start.
pub(crate) fn may_be_shown(folder: &Path, start: &str) -> Result<bool, FolderError> {
    let mark = folder.join(THIS_START);
    Ok(!start.is_empty() && is_there(&mark)? && read_mark(&mark)? == start.as_bytes())
}

/// Nobody wrote it down in time, or it was never kept: it goes, and its slot waits to be taken out.
pub(crate) fn lapse(folder: &Path) -> Result<(), FolderError> {
    match look(folder)? {
        Kept::Waiting(_) => {
            // Where that cannot be said any more the key goes all the same; its slot is then nobody's.
            let said = write_mark(&folder.join(LAPSED), SLOT_WAITS);
            forget(folder)?;
            said
        }
        Kept::Begun => {
            let new = beside(folder);
            wipe(&new.join(KEY))?;
            write_mark(&new.join(LAPSED), SLOT_WAITS)?;
            rename(&new, folder)
        }
        Kept::Nothing | Kept::Noted { .. } | Kept::Lapsed { .. } => {
            Err(FolderError::NotNow { path: folder.to_owned(), doing: "waiting" })
        }
    }
}

/// The slot of the key that lapsed was taken out of the disk's header.
pub(crate) fn slot_is_gone(folder: &Path) -> Result<(), FolderError> {
    match look(folder)? {
        Kept::Lapsed { .. } => write_mark(&folder.join(LAPSED), SLOT_GONE),
        Kept::Nothing | Kept::Begun | Kept::Waiting(_) | Kept::Noted { .. } => {
            Err(FolderError::NotNow { path: folder.to_owned(), doing: "gone" })
        }
    }
}

fn make(folder: &Path, mode: u32) -> Result<(), FolderError> {
    match DirBuilder::new().mode(mode).create(folder) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(at(folder)(error)),
        // Whatever the unit's mask is.
        Ok(()) => fs::set_permissions(folder, fs::Permissions::from_mode(mode)).map_err(at(folder)),
    }
}

/// Overwrites a key and removes it, durably, where there is one.
pub(crate) fn wipe(path: &Path) -> Result<(), FolderError> {
    if !is_there(path)? {
        return Ok(());
    }
    let wiped = || -> io::Result<()> {
        if fs::symlink_metadata(path)?.is_file() {
            let mut file = File::options().write(true).open(path)?;
            file.write_all(&[b'-'; LENGTH])?;
            file.sync_all()?;
        }
        fs::remove_file(path)
    };
    wiped().map_err(at(path))?;
    path.parent().map_or(Ok(()), sync)
}

fn read_key(path: &Path) -> Result<RecoveryKey, FolderError> {
    // Whoever else may write there could want us to follow a link, or to read without end.
    if !fs::symlink_metadata(path).map_err(at(path))?.is_file() {
        return Err(FolderError::NoKey { path: path.to_owned() });
    }
    // Made large enough at once: growing would leave pieces of it in memory.
    let mut bytes = Zeroizing::new(Vec::with_capacity(LENGTH + 2));
    let limit = u64::try_from(LENGTH + 2).unwrap_or(u64::MAX);
    File::open(path).map_err(at(path))?.take(limit).read_to_end(&mut bytes).map_err(at(path))?;
    RecoveryKey::parse(&bytes).ok_or_else(|| FolderError::NoKey { path: path.to_owned() })
}

fn read_mark(path: &Path) -> Result<Vec<u8>, FolderError> {
    if !fs::symlink_metadata(path).map_err(at(path))?.is_file() {
        return Ok(Vec::new());
    }
    let mut text = Vec::new();
    File::open(path).map_err(at(path))?.take(MARK_BYTES).read_to_end(&mut text).map_err(at(path))?;
    Ok(text)
}

/// Written beside first, then renamed: it is there whole and durable, or not at all. Not secret.
fn write_mark(path: &Path, content: &[u8]) -> Result<(), FolderError> {
    let new = path.with_extension("new");
    let written = || -> io::Result<()> {
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        // Root writes some of them, and `recovery` reads all.
        let mut file = File::options().write(true).create_new(true).mode(0o644).open(&new)?;
        file.set_permissions(fs::Permissions::from_mode(0o644))?;
        file.write_all(content)?;
        file.sync_all()
    };
    written().map_err(at(&new))?;
    rename(&new, path)
}

fn rename(from: &Path, to: &Path) -> Result<(), FolderError> {
    fs::rename(from, to).map_err(at(to))?;
    to.parent().map_or(Ok(()), sync)
}

fn sync(folder: &Path) -> Result<(), FolderError> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(at(folder))
}
