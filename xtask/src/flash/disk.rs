//! Whether a disk may be overwritten.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};

/// A whole disk, found in the kernel's own list.
#[derive(Debug)]
pub(crate) struct Disk {
    device: PathBuf,
    /// Its folder in /sys.
    system: PathBuf,
    bytes: u64,
}

impl Disk {
    pub(crate) fn look(device: &Path) -> anyhow::Result<Self> {
        let device = device.canonicalize().with_context(|| format!("there is no {}", device.display()))?;
        let meta = fs::metadata(&device).with_context(|| format!("cannot look at {}", device.display()))?;
        ensure!(meta.file_type().is_block_device(), "{} is no disk", device.display());
        let (major, minor) = (nix::sys::stat::major(meta.rdev()), nix::sys::stat::minor(meta.rdev()));
        let system = PathBuf::from(format!("/sys/dev/block/{major}:{minor}")).canonicalize();
        let system = system.with_context(|| format!("the kernel does not know {}", device.display()))?;
        ensure!(
            !system.join("partition").exists(),
            "{} is a part of a disk: name the whole disk",
            device.display()
        );
        ensure!(word(&system.join("ro"))? == "0", "{} is write-protected", device.display());
        let sectors: u64 = word(&system.join("size"))?.parse().context("the size of the disk")?;
        ensure!(sectors > 0, "there is no medium in {}", device.display());
        let sector = word(&system.join("queue/logical_block_size"))?;
        ensure!(
            sector == "512",
            "{} has sectors of {sector} bytes, the image is made for 512",
            device.display()
        );
        Ok(Self { device, system, bytes: sectors * 512 })
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// For a person: what it is, and how large.
    pub(crate) fn description(&self) -> String {
        let model = word(&self.system.join("device/model")).unwrap_or_default();
        let removable = word(&self.system.join("removable")).is_ok_and(|removable| removable == "1");
        format!(
            "{} ({}{}, {} GB)",
            self.device.display(),
            if model.is_empty() { "no name" } else { &model },
            if removable { ", removable" } else { "" },
            self.bytes / 1_000_000_000
        )
    }

    /// Refuses a disk that anything on this machine uses: mounted, swapped to, or beneath another device, itself or a part.
    pub(crate) fn refuse_what_is_in_use(&self) -> anyhow::Result<()> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").context("cannot read what is mounted")?;
        let swaps = fs::read_to_string("/proc/swaps").context("cannot read where memory is swapped to")?;
        for (name, number, folder) in self.parts()? {
            if let Some(point) = mounted_at(&mounts, &number) {
                if ["/", "/usr", "/boot", "/var", "/home", "/nix"].contains(&point.as_str()) {
                    bail!("{name} holds this machine's own system ({point}): it is not overwritten");
                }
                bail!(
                    "{name} is mounted at {point}: unmount it first, when you are sure it is the right disk"
                );
            }
            ensure!(!swapped(&swaps, &name), "this machine swaps to {name}: it is not overwritten");
            let holders = folder.join("holders");
            if let Some(holder) = fs::read_dir(&holders).ok().and_then(|mut list| list.next()) {
                let holder = holder?.file_name();
                bail!("{name} is part of {}: it is in use", holder.to_string_lossy());
            }
        }
        // A root that the list above does not show as a device, because something lies between (an overlay, a container).
        let root = fs::metadata("/").context("cannot look at /")?.dev();
        let number = format!("{}:{}", nix::sys::stat::major(root), nix::sys::stat::minor(root));
        ensure!(
            self.parts()?.iter().all(|(_, part, _)| *part != number),
            "{} holds this machine's own system: it is not overwritten",
            self.device.display()
        );
        Ok(())
    }

    /// Name, number and folder of the disk and of each of its partitions.
    fn parts(&self) -> anyhow::Result<Vec<(String, String, PathBuf)>> {
        let mut folders = vec![self.system.clone()];
        for entry in fs::read_dir(&self.system).context("cannot list the disk's partitions")? {
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

    /// Opens it for nobody but us: the kernel refuses while a file system or another device uses it, and refuses such use
    /// while we write.
    pub(crate) fn open(&self) -> anyhow::Result<File> {
        let options = nix::fcntl::OFlag::O_EXCL | nix::fcntl::OFlag::O_CLOEXEC;
        OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(options.bits())
            .open(&self.device)
            .with_context(|| {
                format!("cannot open {} for writing (root may), or it is in use", self.device.display())
            })
    }
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
        assert!(format!("{:#}", Disk::look(&file).unwrap_err()).contains("is no disk"));
        assert!(Disk::look(&dir.path().join("none")).is_err());
        assert!(Disk::look(Path::new("/dev/null")).is_err());
    }
}
