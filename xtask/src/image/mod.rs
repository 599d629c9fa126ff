//! `./hearth image`: builds what a buyer flashes.

mod boot_partition;
mod compare;
mod foreign;
mod inspect;
mod programs;
mod sbom;
mod verify;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};
use clap::ValueEnum;
use hw_tests::board;
use hw_tests::image::{self, Earlier, Image};

use crate::{called_from, run, say};

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
    #[arg(long, value_name = "DIR", value_parser = called_from::path)]
    keys: Option<PathBuf>,
    /// Also when nothing has changed.
    #[arg(long)]
    force: bool,
    /// Build it twice, from two clean checkouts in different folders, and compare every byte.
    #[arg(long)]
    verify: bool,
    /// The result as JSON in the last line of standard output.
    #[arg(long)]
    json: bool,
    /// Fail unless the image is the one in this list of checksums, from another machine's build.
    #[arg(long, value_name = "SHA256SUMS", conflicts_with = "verify", value_parser = called_from::path)]
    expect: Option<PathBuf>,
    /// Write the list of distribution packages anew, from what the mirror has today, instead of building.
    #[arg(long, conflicts_with_all = ["verify", "json", "keys", "force"])]
    lock: bool,
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
    };
    if arguments.lock {
        return lock(what.arch);
    }
    if arguments.verify {
        return verify::twice(&what, arguments.json);
    }
    let earlier = if arguments.force { Earlier::Layers } else { Earlier::Kept };
    let place = match what.profile {
        image::Profile::Dev => Place::ordinary()?,
        image::Profile::Release => verify::of_commit()?,
    };
    let image = build(&place, &what, earlier)?;
    tell(&image, arguments.json)?;
    if what.profile == image::Profile::Release {
        small_enough(size(&image.compressed)?)?;
    }
    match &arguments.expect {
        Some(list) => expect(&image, list),
        None => Ok(()),
    }
}

/// Compares an image with the checksums that another machine's build wrote beside its own.
fn expect(image: &Image, list: &Path) -> anyhow::Result<()> {
    let theirs = std::fs::read_to_string(list).with_context(|| format!("cannot read {}", list.display()))?;
    // hearth-dev-x86-64.img.zst and hearth-dev-x86-64.SHA256SUMS.
    let path = image.compressed.with_extension("").with_extension("SHA256SUMS");
    let ours = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    ensure!(!ours.trim().is_empty(), "{} is empty", path.display());
    ensure!(ours == theirs, "this build is another one than {}:\n{ours}instead of\n{theirs}", list.display());
    say::good("the same bytes as the other machine's");
    Ok(())
}

/// The image of this machine's development, as tests and `./hearth run` boot it.
pub(crate) fn build_dev() -> anyhow::Result<Image> {
    build_dev_for(image::Arch::X86_64)
}

/// [`build_dev`] for a kind of processor.
pub(crate) fn build_dev_for(arch: image::Arch) -> anyhow::Result<Image> {
    build(&Place::ordinary()?, &What::dev(arch), Earlier::Kept)
}

/// A release of this commit, for nothing but to be looked into and booted here: its keys are gone when it is built.
pub(crate) fn build_release_to_try() -> anyhow::Result<Image> {
    let keys = tempfile::tempdir().context("cannot make a folder for keys")?;
    for name in ["sb", "pcr"] {
        let file = |kind| keys.path().join(format!("{name}.{kind}"));
        let mut openssl = Command::new("openssl");
        openssl.args(["req", "-new", "-x509", "-newkey", "rsa:2048", "-nodes", "-sha256", "-days", "7300"]);
        openssl.args(["-subj", "/CN=Hearth release to try/", "-keyout"]).arg(file("key"));
        let output = openssl.arg("-out").arg(file("crt")).output().context("cannot run openssl")?;
        ensure!(output.status.success(), "openssl: {}", String::from_utf8_lossy(&output.stderr));
    }
    let arch = image::Arch::X86_64;
    let what = What { arch, profile: image::Profile::Release, console: None, keys: Some(keys.path().into()) };
    // Beside, and not in the place of, a release that somebody means to give to people.
    let out = Some(run::cache()?.join("image").join(format!("release-to-try-{}", arch.name())));
    let image = build(&Place { out, ..verify::of_commit()? }, &what, Earlier::Layers)?;
    small_enough(size(&image.compressed)?)?;
    Ok(image)
}

/// Whether a second checkout in another folder gives the same bytes as this image of this checkout.
pub(crate) fn check_again(image: &Image) -> anyhow::Result<()> {
    verify::again(image, &What::dev(image::Arch::X86_64))
}

/// What to build.
struct What {
    arch: image::Arch,
    profile: image::Profile,
    console: Option<String>,
    keys: Option<PathBuf>,
}

impl What {
    fn dev(arch: image::Arch) -> Self {
        Self { arch, profile: image::Profile::Dev, console: None, keys: None }
    }
}

/// From which checkout, and where cargo and the image go.
struct Place {
    repository: PathBuf,
    target: PathBuf,
    out: Option<PathBuf>,
}

impl Place {
    fn ordinary() -> anyhow::Result<Self> {
        Ok(Self { repository: run::repository(), target: programs::target()?, out: None })
    }
}

/// Builds the programs of a checkout and the image around them.
fn build(place: &Place, what: &What, earlier: Earlier) -> anyhow::Result<Image> {
    image_of(place, what, programs(place, what)?, earlier)
}

/// The folder with the programs of a checkout.
fn programs(place: &Place, what: &What) -> anyhow::Result<PathBuf> {
    programs::build(&place.repository, &place.target, what.arch, what.profile)
}

/// Builds the image around the programs of a checkout.
fn image_of(place: &Place, what: &What, binaries: PathBuf, earlier: Earlier) -> anyhow::Result<Image> {
    // The set of packages in the lock: a dev image for a real board has that board's kernel.
    let set = if what.console.is_some() { "dev-hardware" } else { what.profile.name() };
    let sbom = place.target.join(format!("sbom-{set}-{}.cdx.json", what.arch.name()));
    std::fs::write(&sbom, sbom::text(&place.repository, what.arch, set)?)
        .with_context(|| format!("cannot write {}", sbom.display()))?;
    let options = image::Options {
        repository: place.repository.clone(),
        profile: what.profile,
        arch: what.arch,
        binaries,
        console: what.console.clone(),
        sbom,
        keys: what.keys.clone(),
        out: place.out.clone(),
        earlier,
    };
    let image = image::build(&options, |line| say::detail(&format!("image: {line}")))?;
    inspect::check(&image, what.profile, &place.repository, what.keys.as_deref(), &options.sbom)?;
    let short = image.sha256.get(..16).unwrap_or_default();
    say::good(&format!("image {} (SHA-256 {short}…)", image.raw.display()));
    Ok(image)
}

/// Path, sizes and checksum, on standard output.
fn tell(image: &Image, json: bool) -> anyhow::Result<()> {
    let [bytes, compressed] = [size(&image.raw)?, size(&image.compressed)?];
    println!("{}", image.raw.display());
    println!("size        {bytes} bytes");
    println!("compressed  {compressed} bytes: {}", image.compressed.display());
    println!("sha256      {}", image.sha256);
    if json {
        let result = serde_json::json!({
            "image": image.raw, "image_bytes": bytes, "compressed_bytes": compressed, "sha256": image.sha256,
        });
        println!("{result}");
    }
    Ok(())
}

/// What a buyer downloads, at most, in bytes.
const DOWNLOAD_GOAL: u64 = 250_000_000;

/// Fails when a release has outgrown what people are to download.
fn small_enough(compressed: u64) -> anyhow::Result<()> {
    ensure!(
        compressed <= DOWNLOAD_GOAL,
        "the compressed image has {compressed} bytes, and the goal is {DOWNLOAD_GOAL} at most: find out what came in \
         (the list of parts beside it names everything), or change the goal in xtask/src/image/mod.rs with a decision"
    );
    say::good(&format!(
        "{} % of the {} MB that a download may have",
        compressed * 100 / DOWNLOAD_GOAL,
        DOWNLOAD_GOAL / 1_000_000
    ));
    Ok(())
}

fn size(path: &Path) -> anyhow::Result<u64> {
    Ok(std::fs::metadata(path).with_context(|| format!("cannot look at {}", path.display()))?.len())
}

/// `./hearth image --lock`.
fn lock(arch: image::Arch) -> anyhow::Result<()> {
    let mut command = Command::new(run::repository().join("image/packages"));
    let status = command.args(["lock", arch.name()]).status().context("cannot run image/packages")?;
    ensure!(status.success(), "the list of packages was not written");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_that_outgrows_its_goal_fails() {
        small_enough(DOWNLOAD_GOAL).unwrap();
        let error = small_enough(DOWNLOAD_GOAL + 1).unwrap_err().to_string();
        assert!(error.contains("250000001"), "{error}");
    }
}
