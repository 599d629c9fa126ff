//! `./hearth image`: builds what a buyer flashes.

mod programs;

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::ValueEnum;
use hw_tests::image::{self, Image};

use crate::{run, say};

/// Which image, and what to do with it.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// For which processor.
    #[arg(long, value_enum, default_value_t = Arch::X86_64)]
    arch: Arch,
    /// Which one.
    #[arg(long, value_enum, default_value_t = Profile::Dev)]
    profile: Profile,
    /// What signs a release: a folder with sb.key, sb.crt, pcr.key and pcr.crt.
    #[arg(long, value_name = "DIR")]
    keys: Option<PathBuf>,
    /// Also when nothing has changed.
    #[arg(long)]
    force: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Arch {
    /// Mini-PCs.
    #[value(name = "x86-64")]
    X86_64,
    /// Single-board computers.
    #[value(name = "arm64")]
    Arm64,
}

impl From<Arch> for image::Arch {
    fn from(arch: Arch) -> Self {
        match arch {
            Arch::X86_64 => Self::X86_64,
            Arch::Arm64 => Self::Arm64,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Profile {
    /// With consoles for people who work on it.
    Dev,
    /// What a buyer flashes.
    Release,
}

impl From<Profile> for image::Profile {
    fn from(profile: Profile) -> Self {
        match profile {
            Profile::Dev => Self::Dev,
            Profile::Release => Self::Release,
        }
    }
}

/// `./hearth image`.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let what = What {
        arch: arguments.arch.into(),
        profile: arguments.profile.into(),
        keys: arguments.keys.clone(),
        force: arguments.force,
    };
    let image = build(&run::repository(), &what)?;
    tell(&image)
}

/// The image of this machine's development, as tests and `./hearth run` boot it.
pub(crate) fn build_dev() -> anyhow::Result<Image> {
    let what = What { arch: image::Arch::X86_64, profile: image::Profile::Dev, keys: None, force: false };
    build(&run::repository(), &what)
}

/// What to build.
struct What {
    arch: image::Arch,
    profile: image::Profile,
    keys: Option<PathBuf>,
    force: bool,
}

/// Builds the programs of a checkout and the image around them.
fn build(repository: &Path, what: &What) -> anyhow::Result<Image> {
    let binaries = programs::build(repository, &programs::target()?, what.arch, what.profile)?;
    let options = image::Options {
        repository: repository.to_owned(),
        profile: what.profile,
        arch: what.arch,
        binaries,
        keys: what.keys.clone(),
        force: what.force,
    };
    let image = image::build(&options, |line| say::detail(&format!("image: {line}")))?;
    let short = image.sha256.get(..16).unwrap_or_default();
    say::good(&format!("image {} (SHA-256 {short}…)", image.raw.display()));
    Ok(image)
}

/// Path, sizes and checksum, on standard output.
fn tell(image: &Image) -> anyhow::Result<()> {
    let bytes = std::fs::metadata(&image.raw)
        .with_context(|| format!("cannot look at {}", image.raw.display()))?
        .len();
    println!("{}", image.raw.display());
    println!("size       {bytes} bytes");
    println!("sha256     {}", image.sha256);
    Ok(())
}
