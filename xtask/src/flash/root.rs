//! Only root may open a disk as a whole. Whoever is not becomes root for the writing alone, and what was built stays theirs.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::ErrorKind;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::bail;

use crate::say;

/// What this program needs of its environment: `sudo` hands nothing on by itself.
const KEPT: [&str; 3] = ["HEARTH_CACHE", "HEARTH_CALLED_FROM", "CARGO_TARGET_DIR"];

/// Comes back when the disk can be opened, or when the reason that it cannot is another one. Otherwise this program is run
/// again by `sudo`, with the same words.
pub(super) fn become_root_if_needed(device: &Path) -> anyhow::Result<()> {
    let refused = OpenOptions::new().write(true).open(device).err();
    let missing = refused.is_some_and(|error| error.kind() == ErrorKind::PermissionDenied);
    if !missing || nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    say::note(&format!("only root may write to {}: asking sudo", device.display()));
    let environment = KEPT.into_iter().filter_map(|name| Some((name, std::env::var_os(name)?)));
    let words = words(environment, std::env::current_exe()?.into(), std::env::args_os().skip(1));
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
    fn nobody_becomes_root_for_a_disk_that_can_be_opened_or_is_not_there() {
        let dir = tempfile::tempdir().unwrap();
        let disk = dir.path().join("disk");
        std::fs::write(&disk, "").unwrap();
        assert!(become_root_if_needed(&disk).is_ok());
        assert!(become_root_if_needed(&dir.path().join("none")).is_ok());
    }
}
