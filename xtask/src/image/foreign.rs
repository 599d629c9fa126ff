//! Building the daemons for another kind of processor than this machine's.
//!
//! The compiler is the host's; the libraries are those of the Debian that the image is made of, in a folder of their own
//! (decision 0250).

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail, ensure};
use hw_tests::image::Arch;

use crate::say;

/// Makes the folder of libraries, tells cargo, the C compiler and pkg-config where it is, and returns what the linker
/// must be told.
pub(crate) fn prepare(repository: &Path, arch: Arch, cargo: &mut Command) -> anyhow::Result<Vec<String>> {
    let (gnu, variable) = match arch {
        Arch::Arm64 => ("aarch64-linux-gnu", "aarch64_unknown_linux_gnu"),
        Arch::X86_64 => bail!("the x86-64 image is built on x86-64 machines only"),
    };
    install_target(arch)?;
    let root = sysroot(repository, arch)?;
    let compiler = format!("{gnu}-gcc");
    let sysroot = format!("--sysroot={}", root.display());
    let libraries = root.join("usr/lib").join(gnu);
    cargo.env(format!("CARGO_TARGET_{}_LINKER", variable.to_uppercase()), &compiler);
    cargo.env(format!("CC_{variable}"), &compiler);
    cargo.env(format!("CFLAGS_{variable}"), &sysroot);
    cargo.env("PKG_CONFIG_ALLOW_CROSS", "1");
    cargo.env("PKG_CONFIG_LIBDIR", libraries.join("pkgconfig"));
    cargo.env("PKG_CONFIG_SYSROOT_DIR", &root);
    Ok(vec![format!("-Clink-arg={sysroot}")])
}

/// Rust's own library for that processor, which a distribution's Rust has as a package and rustup fetches.
fn install_target(arch: Arch) -> anyhow::Result<()> {
    let rustc = Command::new("rustc").args(["--print", "target-libdir", "--target", arch.triple()]).output();
    let rustc = rustc.context("cannot run rustc")?;
    let folder = PathBuf::from(String::from_utf8_lossy(&rustc.stdout).trim());
    if rustc.status.success() && folder.is_dir() {
        return Ok(());
    }
    say::detail(&format!("fetching Rust's library for {}", arch.triple()));
    let added = Command::new("rustup").args(["target", "add", arch.triple()]).stdin(Stdio::null()).status();
    ensure!(
        added.is_ok_and(|status| status.success()),
        "there is no Rust library for {}; install it with rustup, or the package libstd-rust-dev:{}",
        arch.triple(),
        arch.name()
    );
    Ok(())
}

fn sysroot(repository: &Path, arch: Arch) -> anyhow::Result<PathBuf> {
    let mut script = Command::new(repository.join("image/foreign"));
    script.args(["sysroot", arch.name()]).stdin(Stdio::null()).stderr(Stdio::inherit());
    let output = script.output().context("cannot run image/foreign")?;
    ensure!(output.status.success(), "there are no {} libraries to link with", arch.name());
    Ok(PathBuf::from(String::from_utf8(output.stdout).context("the path of a folder")?.trim()))
}
