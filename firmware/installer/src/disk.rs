//! Whether a disk may be overwritten.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt as _, FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};

use crate::contents;

/// A whole disk, found in the kernel's own list and held open for nobody but us.
///
/// It is opened before anybody is asked about it and never again: what was described to a person is what is written, even when
/// the name belongs to another disk by then.
#[derive(Debug)]
pub struct Disk {
    device: PathBuf,
    /// Its folder in /sys.
    system: PathBuf,
    file: File,
    seen: Seen,
}

/// What is another number as soon as another disk, or another medium in the same reader, is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen {
    bytes: u64,
    /// Counts every medium since this machine was started; older kernels than 5.15 do not say.
    sequence: Option<u64>,
}

impl Seen {
    fn look(system: &Path) -> anyhow::Result<Self> {
        let sectors: u64 = word(&system.join("size"))?.parse().context("the size of the disk")?;
        let bytes = sectors.checked_mul(512).context("the size of the disk")?;
        let sequence = word(&system.join("diskseq")).ok().and_then(|text| text.parse().ok());
        Ok(Self { bytes, sequence })
    }
}

impl Disk {
    /// Finds a disk, opens it for nobody but us, and refuses what must not be overwritten: what is no disk of its own, and what
    /// anything on this machine uses.
    ///
    /// # Errors
    /// With the reason, for a person.
    pub fn take(device: &Path) -> anyhow::Result<Self> {
        let (device, system, number) = find(device)?;
        suits(&system, &device)?;
        refuse_what_is_in_use(&system, &device)?;
        let file = open(&device)?;
        // Between looking and opening the name may have changed hands.
        let opened = file.metadata().with_context(|| format!("cannot look at {}", device.display()))?;
        ensure!(
            opened.file_type().is_block_device() && opened.rdev() == number,
            "{} became another device just now: look which disk is meant",
            device.display()
        );
        // And once more now that nothing else can begin to use it.
        refuse_what_is_in_use(&system, &device)?;
        let seen = Seen::look(&system)?;
        ensure!(seen.bytes > 0, "there is no medium in {}", device.display());
        Ok(Self { device, system, file, seen })
    }

    /// Fails when the disk, or the medium in the reader, is another one than was taken.
    ///
    /// # Errors
    /// When it is.
    pub fn refuse_if_exchanged(&self) -> anyhow::Result<()> {
        let now = Seen::look(&self.system).ok();
        ensure!(
            now == Some(self.seen),
            "{} is not the disk that was asked about any more: nothing was written; start again",
            self.device.display()
        );
        Ok(())
    }

    /// The disk, open for reading and writing.
    pub fn file(&mut self) -> &mut File {
        &mut self.file
    }

    /// How large it is.
    pub fn bytes(&self) -> u64 {
        self.seen.bytes
    }

    /// For a person: what is lost with it, as far as some of it says.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn contents(&self) -> anyhow::Result<String> {
        let read = || -> std::io::Result<String> {
            let head = part(&self.file, self.seen.bytes, 0, contents::HEAD)?;
            let end = self.seen.bytes.saturating_sub(u64::try_from(contents::TAIL).unwrap_or(u64::MAX));
            let tail = part(&self.file, self.seen.bytes, end, contents::TAIL)?;
            let mut between = Vec::new();
            for number in 1..=PLACES_BETWEEN {
                let at = self.seen.bytes / (PLACES_BETWEEN + 1) * number;
                between.extend(part(&self.file, self.seen.bytes, at / 4096 * 4096, 4096)?);
            }
            Ok(contents::contents(&head, &tail, &between))
        };
        read().with_context(|| format!("cannot read {}", self.device.display()))
    }

    /// For a person: what it is, and how large.
    pub fn description(&self) -> String {
        describe(&self.system, &self.device, self.seen.bytes)
    }
}

/// So many places are looked at between a disk's beginning and its end.
const PLACES_BETWEEN: u64 = 64;

/// So many bytes of a disk from a place on, or what there is.
fn part(disk: &File, bytes: u64, at: u64, most: usize) -> std::io::Result<Vec<u8>> {
    let there = bytes.saturating_sub(at);
    let mut read = vec![0; usize::try_from(there).map_or(most, |there| there.min(most))];
    disk.read_exact_at(&mut read, at)?;
    Ok(read)
}

/// Everything that hangs on a controller, by name.
pub fn all() -> Vec<PathBuf> {
    let mut devices: Vec<PathBuf> = fs::read_dir("/sys/block")
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.path().join("device").exists())
        .map(|entry| Path::new("/dev").join(entry.file_name()))
        .collect();
    devices.sort();
    devices
}

/// A disk, or a medium in a reader, that somebody is to take out.
#[derive(Debug)]
pub struct Leaving {
    system: PathBuf,
    seen: Option<Seen>,
}

impl Leaving {
    /// The disk of this name in /dev, as it is now.
    pub fn of(device: &Path) -> Self {
        Self::in_folder(Path::new("/sys/block").join(device.file_name().unwrap_or_default()))
    }

    fn in_folder(system: PathBuf) -> Self {
        let seen = Seen::look(&system).ok();
        Self { system, seen }
    }

    /// Whether it is out: the kernel lists no such disk, nothing in it, or another one.
    pub fn is_out(&self) -> bool {
        let now = Seen::look(&self.system).ok();
        now.is_none_or(|now| now.bytes == 0) || now != self.seen
    }
}

/// What may be overwritten, as far as can be said without opening it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Its name in /dev.
    pub device: PathBuf,
    /// For a person: what it is, and how large.
    pub description: String,
    /// How large it is.
    pub bytes: u64,
    /// It hangs on a USB port: a stick, not what is built into a machine.
    pub usb: bool,
}

/// Looks at a disk without opening it; refuses what [`Disk::take`] refuses.
///
/// # Errors
/// With the reason, for a person.
pub fn look(device: &Path) -> anyhow::Result<Candidate> {
    let (device, system, _) = find(device)?;
    suits(&system, &device)?;
    refuse_what_is_in_use(&system, &device)?;
    let seen = Seen::look(&system)?;
    let description = describe(&system, &device, seen.bytes);
    Ok(Candidate { usb: on_usb(&system), device, description, bytes: seen.bytes })
}

/// A device's name without detours, its folder in the kernel's list, and its number.
fn find(device: &Path) -> anyhow::Result<(PathBuf, PathBuf, u64)> {
    let device = device.canonicalize().with_context(|| format!("there is no {}", device.display()))?;
    let meta = fs::metadata(&device).with_context(|| format!("cannot look at {}", device.display()))?;
    ensure!(meta.file_type().is_block_device(), "{} is no disk", device.display());
    let system = folder(meta.rdev(), &device)?;
    Ok((device, system, meta.rdev()))
}

fn describe(system: &Path, device: &Path, bytes: u64) -> String {
    let model = printable(&word(&system.join("device/model")).unwrap_or_default());
    let removable = word(&system.join("removable")).is_ok_and(|removable| removable == "1");
    format!(
        "{} ({}{}, {} GB)",
        device.display(),
        if model.is_empty() { "no name" } else { &model },
        if removable { ", removable" } else { "" },
        bytes / 1_000_000_000
    )
}

/// What a disk calls itself, as a person may see it: an NVMe disk's word comes as the disk wrote it.
fn printable(model: &str) -> String {
    model.chars().filter(|c| c.is_ascii_graphic() || *c == ' ').take(40).collect::<String>().trim().to_owned()
}

/// Whether a USB controller is on the way to a device (its place in /sys names every step).
fn on_usb(system: &Path) -> bool {
    system.components().any(|step| {
        let step = step.as_os_str().to_string_lossy();
        step.strip_prefix("usb")
            .is_some_and(|number| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
    })
}

/// The folder of a device in the kernel's list.
fn folder(number: u64, device: &Path) -> anyhow::Result<PathBuf> {
    let (major, minor) = (nix::sys::stat::major(number), nix::sys::stat::minor(number));
    PathBuf::from(format!("/sys/dev/block/{major}:{minor}"))
        .canonicalize()
        .with_context(|| format!("the kernel does not know {}", device.display()))
}

/// Whether a device is a whole disk of its own with sectors that the image can live on.
fn suits(system: &Path, device: &Path) -> anyhow::Result<()> {
    let device = device.display();
    ensure!(!system.join("partition").exists(), "{device} is a part of a disk: name the whole disk");
    // LVM, encryption and RAID are made of other devices, whatever they are called.
    for (sign, kind) in [("dm", "a mapped device (LVM, encryption)"), ("md", "a RAID array")] {
        ensure!(!system.join(sign).exists(), "{device} is {kind} and no disk: name the disk itself");
    }
    if let Some(part) = first_in(&system.join("slaves"))? {
        bail!("{device} is made of {part} and no disk of its own: name the disk itself");
    }
    // A disk hangs on a controller. What does not (network block devices, memory, zram) lives in software; of that only loop
    // devices are taken, which stand for a file that somebody chose.
    ensure!(
        system.join("device").exists() || system.join("loop/backing_file").exists(),
        "{device} is no disk: nothing that can be taken out of this machine is behind it"
    );
    // The kernel's numbers of optical drives (Documentation/admin-guide/devices.txt).
    ensure!(!word(&system.join("dev"))?.starts_with("11:"), "{device} is an optical drive");
    ensure!(word(&system.join("ro"))? == "0", "{device} is write-protected");
    ensure!(word(&system.join("size"))? != "0", "there is no medium in {device}");
    let sector = word(&system.join("queue/logical_block_size"))?;
    ensure!(sector == "512", "{device} has sectors of {sector} bytes, the image is made for 512");
    Ok(())
}

/// Refuses a disk that anything on this machine uses: mounted, swapped to, or beneath another device, itself or a part.
fn refuse_what_is_in_use(system: &Path, device: &Path) -> anyhow::Result<()> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("cannot read what is mounted")?;
    let swaps = fs::read_to_string("/proc/swaps").context("cannot read where memory is swapped to")?;
    let parts = parts(system)?;
    for (name, number, folder) in &parts {
        if let Some(point) = mounted_at(&mounts, number) {
            if ["/", "/usr", "/boot", "/var", "/home", "/nix"].contains(&point.as_str()) {
                bail!("{name} holds this machine's own system ({point}): it is not overwritten");
            }
            bail!("{name} is mounted at {point}: unmount it first, when you are sure it is the right disk");
        }
        ensure!(!swapped(&swaps, name), "this machine swaps to {name}: it is not overwritten");
        if let Some(holder) = first_in(&folder.join("holders"))? {
            bail!("{name} is part of {holder}: it is in use");
        }
    }
    // A root that the list above does not show as a device, because something lies between (an overlay, a container).
    let root = fs::metadata("/").context("cannot look at /")?.dev();
    let number = format!("{}:{}", nix::sys::stat::major(root), nix::sys::stat::minor(root));
    ensure!(
        parts.iter().all(|(_, part, _)| *part != number),
        "{} holds this machine's own system: it is not overwritten",
        device.display()
    );
    Ok(())
}

/// Name, number and folder of the disk and of each of its partitions.
fn parts(system: &Path) -> anyhow::Result<Vec<(String, String, PathBuf)>> {
    let mut folders = vec![system.to_owned()];
    for entry in fs::read_dir(system).context("cannot list the disk's partitions")? {
        let path = entry?.path();
        if path.join("partition").exists() {
            folders.push(path);
        }
    }
    folders
        .into_iter()
        .map(|folder| {
            let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
            Ok((name, word(&folder.join("dev"))?, folder))
        })
        .collect()
}

/// Opens it for nobody but us: the kernel refuses while a file system or another device uses it, and refuses such use while
/// we have it open.
fn open(device: &Path) -> anyhow::Result<File> {
    let options = nix::fcntl::OFlag::O_EXCL | nix::fcntl::OFlag::O_CLOEXEC;
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(options.bits())
        .open(device)
        .with_context(|| format!("cannot open {} for writing (root may), or it is in use", device.display()))
}

/// The name of something in a folder, which may be missing.
fn first_in(folder: &Path) -> anyhow::Result<Option<String>> {
    let Some(entry) = fs::read_dir(folder).ok().and_then(|mut list| list.next()) else { return Ok(None) };
    Ok(Some(entry?.file_name().to_string_lossy().into_owned()))
}

fn word(path: &Path) -> anyhow::Result<String> {
    Ok(fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?.trim().to_owned())
}

/// Where a device of this number is mounted (proc_pid_mountinfo(5)).
fn mounted_at(mounts: &str, number: &str) -> Option<String> {
    mounts.lines().find_map(|line| {
        let mut words = line.split(' ');
        (words.nth(2)? == number).then(|| words.nth(1).unwrap_or_default().to_owned())
    })
}

fn swapped(swaps: &str, name: &str) -> bool {
    swaps.lines().skip(1).any(|line| line.split_whitespace().next() == Some(&format!("/dev/{name}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_s_own_name_cannot_paint_on_the_screen() {
        assert_eq!(printable("SSD 870\n  2  /dev/sda (\u{1b}[2J"), "SSD 870  2  /dev/sda ([2J");
        assert_eq!(printable(&"x".repeat(500)).len(), 40);
    }

    #[test]
    fn what_is_mounted_or_swapped_to_is_found() {
        let mounts = "22 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n30 22 8:17 / /media/stick rw - vfat /dev/sdb1 rw\n";
        assert_eq!(mounted_at(mounts, "254:0").as_deref(), Some("/"));
        assert_eq!(mounted_at(mounts, "8:17").as_deref(), Some("/media/stick"));
        assert_eq!(mounted_at(mounts, "8:1"), None);
        let swaps = "Filename Type Size Used Priority\n/dev/sda2 partition 1 0 -2\n";
        assert!(swapped(swaps, "sda2"));
        assert!(!swapped(swaps, "sda"));
    }

    #[test]
    fn a_file_or_nothing_is_no_disk() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("f");
        fs::write(&file, [0; 512]).unwrap();
        assert!(format!("{:#}", Disk::take(&file).unwrap_err()).contains("is no disk"));
        assert!(Disk::take(&dir.path().join("none")).is_err());
        assert!(Disk::take(Path::new("/dev/null")).is_err());
    }

    #[test]
    fn a_stick_is_told_from_what_is_built_in() {
        let usb = "/sys/devices/pci0000:00/0000:00:14.0/usb2/2-1/2-1:1.0/host6/target6:0:0/6:0:0:0/block/sdb";
        assert!(on_usb(Path::new(usb)));
        for built_in in [
            "/sys/devices/pci0000:00/0000:00:1d.0/0000:03:00.0/nvme/nvme0/nvme0n1",
            "/sys/devices/pci0000:00/0000:00:17.0/ata1/host0/target0:0:0/0:0:0:0/block/sda",
            "/sys/devices/platform/usbdrd/mmc_host/mmc0/mmc0:0001/block/mmcblk0",
        ] {
            assert!(!on_usb(Path::new(built_in)), "{built_in}");
        }
    }

    /// A folder as the kernel shows a disk, with these files besides.
    fn listed(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let usual = [("dev", "8:16"), ("ro", "0"), ("size", "16777216"), ("queue/logical_block_size", "512")];
        for (name, text) in usual.iter().chain(files) {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, format!("{text}\n")).unwrap();
        }
        dir
    }

    #[test]
    fn only_whole_disks_of_their_own_are_taken() {
        let wrong = |files: &[(&str, &str)]| {
            let dir = listed(files);
            suits(dir.path(), Path::new("/dev/x")).map_err(|error| error.to_string())
        };
        let disk = ("device/model", "Samsung");
        assert_eq!(wrong(&[disk]), Ok(()));
        assert_eq!(wrong(&[("loop/backing_file", "/tmp/disk")]), Ok(()));
        for (files, word) in [
            (vec![], "no disk"),
            (vec![("pid", "77")], "no disk"), // A network block device that is connected.
            (vec![("dm/name", "vg-root"), ("slaves/sda2/x", "")], "mapped"),
            (vec![("md/level", "raid1"), ("slaves/sda2/x", "")], "RAID"),
            (vec![disk, ("slaves/sda2/x", "")], "made of sda2"),
            (vec![disk, ("partition", "1")], "whole disk"),
            (vec![disk, ("dev", "11:0")], "optical"),
            (vec![disk, ("ro", "1")], "write-protected"),
            (vec![disk, ("size", "0")], "no medium"),
            (vec![disk, ("queue/logical_block_size", "4096")], "sectors of 4096"),
        ] {
            let error = wrong(&files).unwrap_err();
            assert!(error.contains(word), "{files:?}: {error}");
        }
    }

    #[test]
    fn another_medium_in_the_same_reader_is_noticed() {
        let dir = listed(&[("device/model", "reader"), ("diskseq", "7")]);
        let file = tempfile::tempfile().unwrap();
        let seen = Seen::look(dir.path()).unwrap();
        let disk = Disk { device: "/dev/x".into(), system: dir.path().to_owned(), file, seen };
        disk.refuse_if_exchanged().unwrap();
        fs::write(dir.path().join("diskseq"), "8\n").unwrap();
        assert!(disk.refuse_if_exchanged().unwrap_err().to_string().contains("nothing was written"));
        fs::write(dir.path().join("diskseq"), "7\n").unwrap();
        fs::write(dir.path().join("size"), "0\n").unwrap();
        assert!(disk.refuse_if_exchanged().is_err());
        drop(dir);
        assert!(disk.refuse_if_exchanged().is_err(), "a disk that was pulled out");
    }

    #[test]
    fn a_disk_that_was_not_emptied_everywhere_does_not_look_empty() {
        let dir = listed(&[("device/model", "disk")]);
        let file = tempfile::tempfile().unwrap();
        file.set_len(64 << 20).unwrap();
        let seen = Seen { bytes: 64 << 20, sequence: None };
        let disk = Disk { device: "/dev/x".into(), system: dir.path().to_owned(), file, seen };
        assert_eq!(disk.contents().unwrap(), "It looks empty.");
        disk.file.write_all_at(&[1; 3 << 20], 30 << 20).unwrap();
        assert!(disk.contents().unwrap().contains("something between"));
        disk.file.write_all_at(b"LVM2 001", 512 + 24).unwrap();
        assert_eq!(disk.contents().unwrap(), "There are marks of LVM.");
        let end = crate::made_up::second_table(&["tank"]);
        disk.file.write_all_at(&end, (64 << 20) - u64::try_from(end.len()).unwrap()).unwrap();
        let told = disk.contents().unwrap();
        assert!(told.contains("at its end says: tank") && told.contains("LVM"), "{told}");
        disk.file.set_len(63 << 20).unwrap();
        assert!(disk.contents().is_err(), "a disk that ends early is told about");
    }

    #[test]
    fn a_stick_is_out_when_it_or_its_medium_is_gone_and_not_before() {
        let dir = listed(&[("device/model", "reader"), ("diskseq", "7")]);
        let leaving = Leaving::in_folder(dir.path().to_owned());
        assert!(!leaving.is_out());
        fs::write(dir.path().join("size"), "0\n").unwrap();
        assert!(leaving.is_out(), "the reader is empty");
        fs::write(dir.path().join("size"), "16777216\n").unwrap();
        assert!(!leaving.is_out());
        fs::write(dir.path().join("diskseq"), "8\n").unwrap();
        assert!(leaving.is_out(), "another medium");
        fs::write(dir.path().join("diskseq"), "7\n").unwrap();
        drop(dir);
        assert!(leaving.is_out());
        assert!(Leaving::of(Path::new("/dev/none-of-this-name")).is_out());
    }
}
