//! The daemons as the image holds them: built apart from those of tests, in a way that leaves no trace of the machine.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};
use hw_tests::image::{Arch, Profile};

use super::foreign;
use crate::{run, say};

/// What the image runs.
pub(crate) const DAEMONS: [&str; 5] = ["signer", "dv-node", "web", "cores", "installer"];

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
    // Nothing in a program may tell where it was built; what an earlier build left behind may not shape it either.
    command.env("CARGO_TARGET_DIR", target).env("CARGO_INCREMENTAL", "0");
    let mut flags = flags(repository, target)?;
    if !arch.is_host() {
        flags.extend(foreign::prepare(repository, arch, &mut command)?);
    }
    command.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"));
    let status = command.stdin(Stdio::null()).status().context("cannot run cargo")?;
    ensure!(status.success(), "the programs do not build");
    Ok(target.join(arch.triple()).join(folder))
}

/// Every path of this machine under a name that is the same everywhere.
fn flags(repository: &Path, target: &Path) -> anyhow::Result<Vec<String>> {
    let home = std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")))
        .context("neither CARGO_HOME nor HOME is set")?;
    // The last that fits wins, so the widest come first.
    Ok([(home.as_path(), "/cargo"), (repository, "/hearth"), (target, "/target")]
        .iter()
        .map(|(path, name)| format!("--remap-path-prefix={}={name}", path.display()))
        // It would be a hash over the debugging information too, which the image leaves out.
        .chain(["-Clink-arg=-Wl,--build-id=none".to_owned()])
        .collect())
}
