//! `./hearth flash`: writes an image to a disk as a person would, without the ways in which a person destroys another disk.
//!
//! Nothing is written before the checksums' signature, the checksum of the file and the disk itself are found good, and
//! nothing is called done before every byte has been read back.

mod root;
mod sums;

use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};
use hw_tests::board::{BoardArch, Profile};
use installer::dialogue;
use installer::disk::Disk;
use installer::switch::{self, AddOn};
use installer::write::{self, Sums};

use crate::{called_from, run, say};

/// What to write, and where to.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The disk, as a whole: /dev/sdb, /dev/nvme1n1, /dev/mmcblk0.
    #[arg(value_parser = called_from::path)]
    device: PathBuf,
    /// The image (.img.zst), with its .SHA256SUMS and .SHA256SUMS.sig beside it; the last one built here when left out.
    #[arg(long, value_name = "FILE", value_parser = called_from::path)]
    image: Option<PathBuf>,
    /// The public key that must have signed the checksums (PEM); the test key for an image that was built here.
    #[arg(long, value_name = "FILE", value_parser = called_from::path)]
    signed_by: Option<PathBuf>,
    /// Without asking.
    #[arg(long)]
    yes: bool,
    /// Make a stick that writes the system to a disk which is built into the machine that starts from it, after asking there.
    #[arg(long)]
    installer: bool,
    /// For a board that has no TPM (its profile says so: --board): it starts without one, and its owner's passphrase opens the shares.
    #[arg(long, value_name = "none", requires = "board", conflicts_with = "installer")]
    tpm: Option<Tpm>,
    /// The kind of board that the disk is for: a file of image/boards, without ".toml".
    #[arg(long, value_name = "NAME", requires = "tpm")]
    board: Option<String>,
}

/// What may be said of a board's TPM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Tpm {
    /// There is none.
    None,
}

/// Whether a disk is written for a board without a TPM. Refused where the board's profile does not say that it has none: a TPM that was switched
/// off, or is not found, is never passed over.
fn without_tpm(arguments: &Arguments) -> anyhow::Result<bool> {
    let Some(name) = &arguments.board else { return Ok(false) };
    let profile = Profile::read(&run::repository(), name)?;
    if arguments.tpm.is_none() {
        return Ok(false);
    }
    ensure!(
        profile.arch == BoardArch::Arm64 && profile.has_no_tpm(),
        "{} is no board without a TPM ({}): switch the TPM on in its firmware, and write the disk without --tpm none",
        profile.name,
        profile.tpm
    );
    Ok(true)
}

/// The image that starts on such a board, if its disk was written for one.
const STARTS_WITHOUT_TPM: &str = "hearth-dev-arm64";

/// By its name, which the signed checksums hold it to.
fn starts_without_tpm(image: &Path) -> bool {
    image.file_name().is_some_and(|name| name.to_string_lossy() == format!("{STARTS_WITHOUT_TPM}.img.zst"))
}

/// `./hearth flash`.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let no_tpm = without_tpm(arguments)?;
    let kind = if no_tpm { STARTS_WITHOUT_TPM } else { "hearth-dev-x86-64" };
    let folder = kind.trim_start_matches("hearth-");
    let built_here = run::cache()?.join(format!("image/{folder}/{kind}.img.zst"));
    let image = arguments.image.clone().unwrap_or(built_here);
    ensure!(
        !no_tpm || starts_without_tpm(&image),
        "only {STARTS_WITHOUT_TPM}.img.zst starts on a board without a TPM: no release does, and no other processor's image"
    );
    let key = match &arguments.signed_by {
        Some(key) => key.clone(),
        None if arguments.image.is_none() => run::repository().join("image/test-keys/sums.pub"),
        None => anyhow::bail!("say with --signed-by FILE which public key must have signed the checksums"),
    };
    ensure!(
        arguments.image.is_some() || image.is_file(),
        "no image was built here yet ({}): build one with ./hearth image{}",
        image.display(),
        if no_tpm { " --arch arm64" } else { "" }
    );
    root::become_root_if_needed(&arguments.device)?;
    say::begin(&format!("checking {}", image.display()));
    let sums = sums::signed(&image, &key)?;
    say::good("the checksums are signed by the key, and the file is what they say");
    if key.ends_with("image/test-keys/sums.pub") {
        say::note(
            "this image is signed with keys that everybody has: for trying out, never for a real stake",
        );
    }

    let mut disk = Disk::take(&arguments.device)?;
    write::large_enough(disk.bytes(), &sums).with_context(|| disk.description())?;
    let (what, contents) = (disk.description(), disk.contents()?);
    if arguments.yes {
        say::note(&format!("{what}. {contents}"));
    } else {
        ask(&what, &contents)?;
    }
    disk.refuse_if_exchanged()?;
    say::begin(&format!("writing to {}", disk.description()));
    let told = &mut |what: &str, done: u64, all: u64| {
        say::detail(&format!("{what} {:3} % of {} MB", done * 100 / all.max(1), all / 1_000_000));
    };
    unpack_onto(&mut disk, &image, &sums, told)?;
    if arguments.installer {
        turn_on(&mut disk, AddOn::Install)?;
        say::good("it is an installer: start the machine from it, with a screen and a keyboard");
    }
    if no_tpm {
        turn_on(&mut disk, AddOn::NoTpm)?;
        say::good(
            "it starts on a board without a TPM, and on no other: its owner's passphrase opens the shares after each start",
        );
        say::note(
            "nothing but the shares is encrypted on such a board, and nothing notices changed software: docs/boards.md",
        );
    }
    say::good("written, read back, and every byte is right: the disk may be taken out");
    Ok(())
}

/// Changes the one byte, and reads it back by looking for it once more, past the kernel's cache.
fn turn_on(disk: &mut Disk, add_on: AddOn) -> anyhow::Result<()> {
    switch::turn_on(disk.file(), add_on)?;
    write::forget(disk.file())?;
    let now = switch::on_disk(disk.file())?;
    let is_on = match add_on {
        AddOn::Install => now.install.on,
        AddOn::NoTpm => now.no_tpm.is_some_and(|no_tpm| no_tpm.on),
    };
    ensure!(is_on, "the disk gives back other bytes than were written: do not use it");
    Ok(())
}

/// Unpacks the image onto the disk, and reads it back.
fn unpack_onto(
    disk: &mut Disk,
    image: &Path,
    sums: &Sums,
    told: &mut dyn FnMut(&str, u64, u64),
) -> anyhow::Result<()> {
    let mut zstd = Command::new("zstd")
        .args(["--decompress", "--stdout", "--quiet", "--"])
        .arg(image)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run zstd")?;
    let unpacked = zstd.stdout.take().context("zstd has no output")?;
    let written = write::image(unpacked, disk, sums, told);
    let status = zstd.wait().context("zstd")?;
    written?;
    ensure!(status.success(), "the image could not be unpacked");
    Ok(())
}

fn ask(what: &str, contents: &str) -> anyhow::Result<()> {
    ensure!(
        std::io::stdin().is_terminal(),
        "nobody to ask whether {what} may be erased; say --yes if it may"
    );
    eprint!("{}", dialogue::question(what, contents));
    std::io::stderr().flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).context("cannot read the answer")?;
    ensure!(answer.trim() == dialogue::WORD, "nothing was written");
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::FileExt as _;

    use installer::write::LEAST_BYTES;
    use sha2::{Digest as _, Sha256};

    use super::*;

    /// A loop device that is gone when the test is.
    struct Loop(PathBuf);

    impl Loop {
        /// `None` where this machine lets nobody make one.
        fn of(file: &Path) -> Option<Self> {
            let output = Command::new("losetup").args(["--find", "--show"]).arg(file).output().ok()?;
            output.status.success().then(|| Self(String::from_utf8_lossy(&output.stdout).trim().into()))
        }
    }

    impl Drop for Loop {
        fn drop(&mut self) {
            let _ = Command::new("losetup").arg("--detach").arg(&self.0).status();
        }
    }

    fn run(program: &str, arguments: &[&str]) {
        let output = Command::new(program).args(arguments).output().unwrap();
        assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// An image of nine megabytes, compressed, listed and signed; the key that signed it.
    fn image(dir: &Path) -> (PathBuf, PathBuf, Vec<u8>) {
        let bytes: Vec<u8> = (0..9_000_000_u32).map(|i| i.to_le_bytes()[usize::from(i % 3 == 0)]).collect();
        let path = |name: &str| dir.join(name).to_string_lossy().into_owned();
        fs::write(path("x.raw"), &bytes).unwrap();
        run("zstd", &["-q", "-3", &path("x.raw"), "-o", &path("x.img.zst")]);
        let sum = |name: &str| hex::encode(Sha256::digest(fs::read(path(name)).unwrap()));
        let list = format!("{}  x.raw\n{}  x.img.zst\n", sum("x.raw"), sum("x.img.zst"));
        fs::write(path("x.SHA256SUMS"), list).unwrap();
        run("openssl", &["genpkey", "-algorithm", "ed25519", "-out", &path("k.key")]);
        run("openssl", &["pkey", "-in", &path("k.key"), "-pubout", "-out", &path("k.pub")]);
        let (key, list, out) = (path("k.key"), path("x.SHA256SUMS"), path("x.SHA256SUMS.sig"));
        run("openssl", &["pkeyutl", "-sign", "-rawin", "-inkey", &key, "-in", &list, "-out", &out]);
        (dir.join("x.img.zst"), dir.join("k.pub"), bytes)
    }

    fn flash(device: &Path, image: &Path, key: &Path) -> anyhow::Result<()> {
        super::run(&Arguments {
            device: device.to_owned(),
            image: Some(image.to_owned()),
            signed_by: Some(key.to_owned()),
            yes: true,
            installer: false,
            tpm: None,
            board: None,
        })
    }

    #[test]
    fn only_a_board_that_has_none_is_written_for_without_a_tpm() {
        let judged = |board: &str| {
            without_tpm(&Arguments {
                device: "/dev/none".into(),
                image: None,
                signed_by: None,
                yes: true,
                installer: false,
                tpm: Some(Tpm::None),
                board: Some(board.to_owned()),
            })
            .map_err(|error| format!("{error:#}"))
        };
        for board in ["rock-5b", "orange-pi-5", "raspberry-pi-4", "raspberry-pi-5"] {
            assert_eq!(judged(board), Ok(true), "{board}");
        }
        for board in ["mini-pc", "qemu-arm64"] {
            assert!(judged(board).unwrap_err().contains("is no board without a TPM"), "{board}");
        }
        assert!(judged("toaster").unwrap_err().contains("no board profile"));
        assert!(starts_without_tpm(Path::new("a/hearth-dev-arm64.img.zst")));
        for other in
            ["hearth-dev-x86-64.img.zst", "hearth-release-arm64.img.zst", "hearth-dev-arm64.img", "/"]
        {
            assert!(!starts_without_tpm(Path::new(other)), "{other}");
        }
    }

    #[test]
    fn an_unsigned_or_damaged_image_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (image, key, _) = self::image(dir.path());
        let wrong_key = Path::new(env!("CARGO_MANIFEST_DIR")).join("../image/test-keys/sums.pub");
        assert!(sums::signed(&image, &key).is_ok());
        assert!(sums::signed(&image, &wrong_key).unwrap_err().to_string().contains("not signed by"));
        let file = fs::OpenOptions::new().write(true).open(&image).unwrap();
        file.write_all_at(b"x", 100).unwrap();
        assert!(sums::signed(&image, &key).unwrap_err().to_string().contains("damaged"));
        fs::write(dir.path().join("x.SHA256SUMS"), "").unwrap();
        assert!(sums::signed(&image, &key).is_err());
    }

    #[test]
    fn a_loop_device_is_flashed_and_a_mounted_one_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (image, key, bytes) = self::image(dir.path());
        let backing = dir.path().join("disk");
        let file = fs::File::create(&backing).unwrap();
        file.set_len(LEAST_BYTES).unwrap();
        // The copy of a partition table that another system left behind.
        file.write_all_at(b"EFI PART", LEAST_BYTES - 512).unwrap();
        let Some(disk) = Loop::of(&backing) else {
            println!("SKIPPED: this machine makes no loop devices; flashing is tried on files only");
            return;
        };
        flash(&disk.0, &image, &key).unwrap();
        let mut start = vec![0; bytes.len()];
        fs::File::open(&backing).unwrap().read_exact_at(&mut start, 0).unwrap();
        assert!(start == bytes, "the disk holds other bytes than the image");
        let mut end = [1; 8];
        fs::File::open(&backing).unwrap().read_exact_at(&mut end, LEAST_BYTES - 512).unwrap();
        assert_eq!(end, [0; 8], "the old copy of a partition table is still there");

        let name = disk.0.to_string_lossy().into_owned();
        run("mkfs.ext4", &["-q", "-F", &name]);
        let point = dir.path().join("mounted");
        fs::create_dir(&point).unwrap();
        let point_name = point.to_string_lossy().into_owned();
        run("mount", &[&name, &point_name]);
        let refused = flash(&disk.0, &image, &key);
        run("umount", &[&point_name]);
        let refused = format!("{:#}", refused.unwrap_err());
        assert!(refused.contains("is mounted at"), "{refused}");

        drop(disk);
        file.set_len(LEAST_BYTES - 512).unwrap();
        let small = Loop::of(&backing).unwrap();
        let refused = format!("{:#}", flash(&small.0, &image, &key).unwrap_err());
        assert!(refused.contains("take a larger disk"), "{refused}");
    }

    #[test]
    fn the_disk_of_this_machine_is_refused() {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let root = mounts.lines().find(|line| line.split(' ').nth(4) == Some("/")).unwrap();
        let device = root.split(" - ").nth(1).unwrap().split(' ').nth(1).unwrap();
        if !Path::new(device).exists() {
            println!("SKIPPED: this machine's root is on no disk of its own ({device})");
            return;
        }
        let refused = format!("{:#}", Disk::take(Path::new(device)).unwrap_err());
        // Mounted as a whole, or a part of a disk, or made of other devices.
        assert!(refused.contains("not overwritten") || refused.contains("name the"), "{refused}");
    }
}
