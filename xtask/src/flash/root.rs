//! Only root may open a disk as a whole. Whoever is not becomes root for the writing alone, and what was built stays theirs.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::{bail, ensure};

use crate::say;

/// What this program needs of its environment: `sudo` hands nothing on by itself.
const KEPT: [&str; 2] = ["HEARTH_CACHE", "HEARTH_CALLED_FROM"];

/// Comes back when the disk can be opened, or when the reason that it cannot is another one. Otherwise this program is run
/// again by `sudo`, with the same words.
pub(super) fn become_root_if_needed(device: &Path) -> anyhow::Result<()> {
    // Nothing else is opened, or it might be waited for; what is no disk is refused later, with the reason.
    let is_disk = std::fs::metadata(device).is_ok_and(|data| data.file_type().is_block_device());
    if !is_disk || nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    let at_once = nix::fcntl::OFlag::O_NONBLOCK.bits();
    let refused = OpenOptions::new().write(true).custom_flags(at_once).open(device).err();
    if refused.is_none_or(|error| error.kind() != ErrorKind::PermissionDenied) {
        return Ok(());
    }
    let program = std::env::current_exe()?;
    // `env` would take such a path for a variable, and run the next word instead.
    ensure!(
        !program.as_os_str().as_bytes().contains(&b'='),
        "sudo cannot be asked to run {}, which has a \"=\" in it: do this as root",
        program.display()
    );
    say::note(&format!("only root may write to {}: asking sudo", device.display()));
    let environment = KEPT.into_iter().filter_map(|name| Some((name, std::env::var_os(name)?)));
    let words = words(environment, program.into(), std::env::args_os().skip(1));
    // Does not come back unless it fails.
    let error = Command::new("sudo").args(words).exec();
    bail!("only root may write to {}, and sudo cannot be run ({error}): do this as root", device.display())
}

/// What `sudo` is asked to run. `env` brings the environment: a rule that allows every command allows that one too, and
/// `--preserve-env` needs a right of its own.
fn words(
    environment: impl IntoIterator<Item = (&'static str, OsString)>,
    program: OsString,
    arguments: impl IntoIterator<Item = OsString>,
) -> Vec<OsString> {
    let mut words: Vec<OsString> = vec!["--".into(), "env".into()];
    words.extend(environment.into_iter().map(|(name, value)| {
        let mut word = OsString::from(format!("{name}="));
        word.push(value);
        word
    }));
    words.push(program);
    words.extend(arguments);
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sudo_runs_the_same_program_with_the_same_words_and_the_same_cache() {
        let environment = [("HEARTH_CACHE", "/home/a/my cache".into())];
        let typed = ["flash", "/dev/sdb", "--yes"].map(OsString::from);
        let words = words(environment, "/home/a/xtask".into(), typed);
        let expected =
            ["--", "env", "HEARTH_CACHE=/home/a/my cache", "/home/a/xtask", "flash", "/dev/sdb", "--yes"];
        assert_eq!(words, expected);
    }

    #[test]
    fn nobody_becomes_root_for_what_is_no_disk() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(become_root_if_needed(&file).is_ok());
        assert!(become_root_if_needed(&dir.path().join("none")).is_ok());
        // Whoever opens one of these waits for somebody who reads it.
        let pipe = dir.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRUSR).unwrap();
        assert!(become_root_if_needed(&pipe).is_ok());
    }
}
