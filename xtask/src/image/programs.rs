//! The daemons as the image holds them: built apart from those of tests, in a way that leaves no trace of the machine.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};
use hw_tests::image::{Arch, Profile};

use super::foreign;
use crate::{run, say};

/// What the image runs.
pub(crate) const DAEMONS: [&str; 6] = ["signer", "dv-node", "web", "cores", "installer", "recovery"];

/// Where cargo keeps what it builds for images.
pub(crate) fn target() -> anyhow::Result<PathBuf> {
    Ok(run::cache()?.join("target-image"))
}

/// Builds the daemons of a checkout and says in which folder they are.
pub(crate) fn build(
    repository: &Path,
    target: &Path,
    arch: Arch,
    profile: Profile,
) -> anyhow::Result<PathBuf> {
    say::begin(&format!("building the programs for {} (cargo)", arch.name()));
    let mut command = Command::new(env!("CARGO"));
    command.current_dir(repository).args(["build", "--locked", "--target", arch.triple()]);
    command.args(DAEMONS.iter().flat_map(|daemon| ["-p", daemon]));
    let folder = match profile {
        Profile::Dev => "debug",
        Profile::Release => {
            command.arg("--release");
            "release"
        }
    };
    // One clone at a time: what this one touches is this one's until cargo has built it.
    std::fs::create_dir_all(target).with_context(|| format!("cannot make {}", target.display()))?;
    let one = target.join("clone.lock");
    let one = std::fs::File::create(&one).with_context(|| format!("cannot make {}", one.display()))?;
    one.lock().context("cannot wait for another build of the image's programs")?;
    let stamp = of_this_clone(repository, target)?;
    // Nothing in a program may tell where it was built; what an earlier build left behind may not shape it either.
    command.env("CARGO_TARGET_DIR", target).env("CARGO_INCREMENTAL", "0");
    let mut flags = flags(target)?;
    if !arch.is_host() {
        flags.extend(foreign::prepare(repository, arch, &mut command)?);
    }
    command.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"));
    let status = command.stdin(Stdio::null()).status().context("cannot run cargo")?;
    ensure!(status.success(), "the programs do not build");
    std::fs::write(&stamp, repository.as_os_str().as_encoded_bytes())
        .with_context(|| format!("cannot write {}", stamp.display()))?;
    Ok(target.join(arch.triple()).join(folder))
}

/// Cargo tells sources apart by their age alone: what another clone built last would pass for this one's. So where the clone
/// has changed since the last build that went well, its sources count as new. Gives the file that is to name this clone then.
fn of_this_clone(repository: &Path, target: &Path) -> anyhow::Result<PathBuf> {
    let stamp = target.join("clone");
    if std::fs::read(&stamp).is_ok_and(|last| last == repository.as_os_str().as_encoded_bytes()) {
        return Ok(stamp);
    }
    // Of a build that breaks off some is this clone's and some another one's: nobody's, then.
    let _ = std::fs::remove_file(&stamp);
    let touched = Command::new("find")
        .current_dir(repository)
        .arg("firmware")
        .args(["(", "-name", "*.rs", "-o", "-name", "Cargo.toml", ")", "-exec", "touch", "{}", "+"])
        .stdin(Stdio::null())
        .status()
        .context("cannot run find")?;
    ensure!(touched.success(), "cannot mark the sources as new");
    Ok(stamp)
}

/// Every path of this machine under a name that is the same everywhere. The clone's is not among them: cargo names what is in
/// it by paths that begin there, and flags that differ from clone to clone would have each compile all crates anew.
fn flags(target: &Path) -> anyhow::Result<Vec<String>> {
    let home = std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")))
        .context("neither CARGO_HOME nor HOME is set")?;
    // The last that fits wins, so the widest come first.
    Ok([(home.as_path(), "/cargo"), (target, "/target")]
        .iter()
        .map(|(path, name)| format!("--remap-path-prefix={}={name}", path.display()))
        // It would be a hash over the debugging information too, which the image leaves out.
        .chain(["-Clink-arg=-Wl,--build-id=none".to_owned()])
        .collect())
}
