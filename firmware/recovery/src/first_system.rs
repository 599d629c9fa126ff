//! What happens in the first system, after /var is open and before anything of it is shown: whether a key is to be made, and whether one that
//! waits has to go (decision 0348).
//!
//! A key is made only where the signer never had state, and goes unwritten in the first start in which it has. So whoever carries off a box
//! with shares finds no key waiting in it.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use tpm::Tpm;

use crate::config::Signer;
use crate::folder::{self, FolderError, Kept};

/// In the folder of orders: systemd-cryptenroll is to make a key. What is in it goes on its command line.
const MAKE: &str = "make";
/// It is to take out the slot of one that lapsed.
const DROP: &str = "drop";
/// It has.
const DROPPED: &str = "dropped";
/// What it has made.
const KEY: &str = "key";
/// Slots that an earlier start made for a key that nobody was shown: marked as a recovery key's, or, where it came less far, not marked at all.
const TAKE_OUT: &str = "TAKE_OUT=--wipe-slot=recovery,password\n";
const TAKE_OUT_NOTHING: &str = "TAKE_OUT=\n";

/// The partition beneath the encrypted disk that a folder is on, however many others have its label.
pub(crate) fn disk_beneath(folder: &Path) -> anyhow::Result<PathBuf> {
    // Before anything was made on it the folder is not there; that it is on /var is.
    let mounted = folder.ancestors().find(|path| path.exists()).context("no folder")?;
    let device =
        fs::metadata(mounted).with_context(|| format!("cannot look at {}", mounted.display()))?.dev();
    let (major, minor) = (nix::sys::stat::major(device), nix::sys::stat::minor(device));
    let slaves = PathBuf::from(format!("/sys/dev/block/{major}:{minor}/slaves"));
    let entries = fs::read_dir(&slaves).with_context(|| format!("cannot list {}", slaves.display()))?;
    let names: Vec<_> = entries.map(|entry| Ok(entry?.file_name())).collect::<std::io::Result<_>>()?;
    match names.as_slice() {
        [one] => Ok(Path::new("/dev").join(one)),
        others => anyhow::bail!("{} partitions are beneath {}", others.len(), mounted.display()),
    }
}

/// What is to be done to the disk's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    /// A key on a disk that never had one.
    Make,
    /// A key in the place of one that a power cut took before anybody was shown it.
    MakeAgain,
    /// The slot of a key that nobody wrote down goes.
    Drop,
}

/// Whether the signer ever had state on this machine: its folder is on the disk, or its counter in the TPM (decision 0123). What cannot
/// be asked counts as state.
pub(crate) fn signer_was_here(signer: &Signer) -> bool {
    let on_disk = folder::is_there(&signer.state_dir);
    let in_tpm = || Tpm::open(&signer.tcti)?.counter(signer.counter_index).exists();
    match on_disk {
        Ok(true) => true,
        Ok(false) => in_tpm().unwrap_or_else(|error| {
            eprintln!("the TPM cannot be asked for the signer's counter: {}", chain(&error));
            true
        }),
        Err(error) => {
            eprintln!("the signer's folder cannot be looked for: {}", chain(&error));
            true
        }
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text = format!("{text}: {next}");
        cause = next.source();
    }
    text
}

/// Does to the folder what this start must do to it, and says what the header needs.
fn decide(folder: &Path, signer_was_here: impl Fn() -> bool) -> Result<Option<Order>, FolderError> {
    match folder::look(folder)? {
        Kept::Noted { .. } => folder::forget(folder).map(|()| None),
        Kept::Lapsed { slot_waits } => {
            folder::forget(folder)?;
            Ok(slot_waits.then_some(Order::Drop))
        }
        Kept::Waiting(_) | Kept::Begun if signer_was_here() => {
            folder::lapse(folder)?;
            Ok(Some(Order::Drop))
        }
        Kept::Waiting(_) => Ok(None),
        Kept::Begun => folder::begin(folder).map(|()| Some(Order::MakeAgain)),
        Kept::Nothing if signer_was_here() => Ok(None),
        Kept::Nothing => folder::begin(folder).map(|()| Some(Order::Make)),
    }
}

/// `recovery look`: leaves in `orders` what the next units are to do.
pub(crate) fn look(
    folder: &Path,
    orders: &Path,
    start: &str,
    signer: &Signer,
    disk: impl Fn() -> anyhow::Result<PathBuf>,
) -> anyhow::Result<()> {
    let order = decide(folder, || signer_was_here(signer))
        .context("the recovery key is left as it is: none is made and none is taken away")?;
    let (name, words) = match order {
        None if matches!(folder::look(folder)?, Kept::Waiting(_)) => {
            return folder::allow(folder, start).context("the recovery key is not shown in this start");
        }
        None => return Ok(()),
        Some(Order::Make) => (MAKE, TAKE_OUT_NOTHING),
        Some(Order::MakeAgain) => (MAKE, TAKE_OUT),
        Some(Order::Drop) => (DROP, ""),
    };
    let disk =
        disk().context("the recovery key's slot is left as it is: which disk this is cannot be told")?;
    let path = orders.join(name);
    fs::write(&path, format!("{words}DISK={}\n", disk.display()))
        .with_context(|| format!("cannot write {}", path.display()))
}

/// `recovery keep`: takes over what those units have done.
pub(crate) fn keep(folder: &Path, orders: &Path, start: &str) -> anyhow::Result<()> {
    if folder::is_there(&orders.join(DROPPED))? {
        folder::slot_is_gone(folder).context("it is not written down that the key's slot is gone")?;
    }
    let made = orders.join(KEY);
    if folder::is_there(&made)? {
        folder::take_over(&made, folder).context("this start leaves no recovery key behind")?;
        folder::allow(folder, start).context("the recovery key is not shown in this start")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
