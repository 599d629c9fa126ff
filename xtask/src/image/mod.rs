//! `./hearth image`: builds what a buyer flashes.

mod foreign;
mod programs;

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::ValueEnum;
use hw_tests::board;
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
    /// A dev image for a kind of board of image/boards, with the console on its serial port.
    #[arg(long, value_name = "NAME")]
    board: Option<String>,
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
    let board =
        arguments.board.as_deref().map(|name| board::Profile::read(&run::repository(), name)).transpose()?;
    let what = What {
        arch: board.as_ref().map_or(arguments.arch.into(), board::Profile::image_arch),
        profile: arguments.profile.into(),
        console: board.map(|board| board.console),
        keys: arguments.keys.clone(),
        force: arguments.force,
    };
    let image = build(&run::repository(), &what)?;
    tell(&image)
}

/// The image of this machine's development, as tests and `./hearth run` boot it.
pub(crate) fn build_dev() -> anyhow::Result<Image> {
    build_dev_for(image::Arch::X86_64)
}

/// [`build_dev`] for a kind of processor.
pub(crate) fn build_dev_for(arch: image::Arch) -> anyhow::Result<Image> {
    let what = What { arch, profile: image::Profile::Dev, console: None, keys: None, force: false };
    build(&run::repository(), &what)
}

/// What to build.
struct What {
    arch: image::Arch,
    profile: image::Profile,
    console: Option<String>,
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
        console: what.console.clone(),
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
