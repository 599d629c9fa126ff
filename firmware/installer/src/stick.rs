//! What the system was started from: the disk beneath the root, as it was written, with one byte turned back.
//!
//! Its bytes need not be trusted. What is copied is checked by the firmware (the kernel image's signature) and by the kernel
//! (the root's hashes) whenever the copy is started, as it was when the stick was.

use std::fs::{self, File};
use std::io::{Read, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use sha2::{Digest as _, Sha256};

use crate::switch;
use crate::table::{self, HEAD};
use crate::write::Sums;

/// Boot partition, root, its hashes: what is shipped. The first start as a box adds three more, of which one may hold secrets.
const SHIPPED_PARTITIONS: usize = 3;

/// The stick, as it was found.
#[derive(Debug)]
pub struct Stick {
    device: PathBuf,
    sums: Sums,
    /// Where the byte is that makes it a stick.
    switch: u64,
}

impl Stick {
    /// Finds the disk that holds the running root, and reads all of the image on it once.
    ///
    /// # Errors
    /// When the root is on no such disk, when the disk is no freshly written stick, or when it cannot be read.
    pub fn find(told: &mut dyn FnMut(&str, u64, u64)) -> anyhow::Result<Self> {
        let disks = disks_of_root()?;
        let [disk] = disks.as_slice() else { bail!("the system is not on one disk but on {disks:?}") };
        Self::open(disk.clone(), told)
    }

    fn open(device: PathBuf, told: &mut dyn FnMut(&str, u64, u64)) -> anyhow::Result<Self> {
        let cannot = || format!("cannot read {}", device.display());
        let mut file = File::open(&device).with_context(cannot)?;
        let mut head = vec![0; HEAD];
        file.read_exact(&mut head).with_context(cannot)?;
        let raw_bytes = shipped_bytes(&head)?;
        let switch = switch::on_disk(&mut file).with_context(cannot)?.install;
        ensure!(
            switch.on,
            "this was started from a stick, but found its system on {}, a disk in this machine that holds the very version that is on \
             the stick: start with that disk taken out or emptied",
            device.display()
        );
        let sums = Sums { raw: [0; 32], raw_bytes };
        let mut stick = Self { device, sums, switch: switch.at };
        stick.sums.raw = digest(stick.read()?, raw_bytes, told)
            .with_context(|| format!("{} is damaged: write it again", stick.device.display()))?;
        Ok(stick)
    }

    /// Its name in /dev.
    pub fn device(&self) -> &Path {
        &self.device
    }

    /// What a copy of it must hold.
    pub fn sums(&self) -> &Sums {
        &self.sums
    }

    /// The image's bytes from the beginning: the copy is a box, not another installer.
    ///
    /// # Errors
    /// When it was pulled out.
    pub fn read(&self) -> anyhow::Result<impl Read + use<>> {
        let from = |start: u64| -> anyhow::Result<File> {
            let mut file =
                File::open(&self.device).with_context(|| format!("cannot read {}", self.device.display()))?;
            file.seek(SeekFrom::Start(start))?;
            Ok(file)
        };
        let after = self.switch + 1;
        let rest = from(after)?.take(self.sums.raw_bytes.saturating_sub(after));
        Ok(from(0)?.take(self.switch).chain(switch::BYTE_OFF).chain(rest))
    }
}

/// The disks on which the running system lies: one, or two where two look alike.
///
/// # Errors
/// When the kernel does not say.
pub fn disks_of_root() -> anyhow::Result<Vec<PathBuf>> {
    let root = fs::canonicalize("/dev/mapper/root").context("there is no /dev/mapper/root")?;
    let root = root.file_name().unwrap_or_default();
    let names = disks_beneath(&Path::new("/sys/class/block").join(root))?;
    Ok(names.iter().map(|name| Path::new("/dev").join(name)).collect())
}

/// The names of the disks whose partitions a mapped device is made of.
fn disks_beneath(mapped: &Path) -> anyhow::Result<Vec<String>> {
    let slaves = mapped.join("slaves");
    let mut disks = Vec::new();
    for entry in fs::read_dir(&slaves).with_context(|| format!("cannot list {}", slaves.display()))? {
        let part = fs::canonicalize(entry?.path()).context("the kernel's list of devices")?;
        ensure!(part.join("partition").exists(), "the system is on no partition of a disk");
        let disk = part.parent().and_then(Path::file_name).context("a partition is part of a disk")?;
        disks.push(disk.to_string_lossy().into_owned());
    }
    disks.sort();
    disks.dedup();
    Ok(disks)
}

/// Whether a disk begins as an image does that no box has completed; otherwise a box, or something else, made its own table.
///
/// # Errors
/// When it cannot be read, or its table is damaged.
pub fn is_as_written(disk: &mut File) -> anyhow::Result<bool> {
    let mut head = vec![0; HEAD];
    disk.read_exact(&mut head).context("reading the partition table")?;
    let table = table::read_whole(&head).context("there is no partition table, or a damaged one")?;
    Ok(table.names.len() == SHIPPED_PARTITIONS)
}

/// How large the image is that a disk begins with; refused unless it is as shipped.
///
/// # Errors
/// When there is no partition table, or a box has made its own of it already.
pub fn shipped_bytes(head: &[u8]) -> anyhow::Result<u64> {
    let table = table::read_whole(head).context(
        "the system was started from a disk without a partition table of ours, or with a damaged one",
    )?;
    ensure!(
        table.names.len() == SHIPPED_PARTITIONS,
        "this system was not started from a freshly written stick: its disk has {} partitions, as a box makes them for \
         itself. Either the stick was once started as a box: write it again. Or a disk in this machine holds the very version \
         that is on the stick, and answered first: start with that disk taken out or emptied",
        table.names.len()
    );
    Ok(table.bytes)
}

/// Reads so many bytes, and what they add up to.
fn digest(mut from: impl Read, bytes: u64, told: &mut dyn FnMut(&str, u64, u64)) -> anyhow::Result<[u8; 32]> {
    let mut hash = Sha256::new();
    let mut done = 0_u64;
    let mut chunk = vec![0; 4 << 20];
    while done < bytes {
        let read = from.read(&mut chunk).context("it cannot be read")?;
        ensure!(read > 0, "it ends before the image does");
        hash.update(&chunk[..read]);
        let before = done;
        done += u64::try_from(read)?;
        // Every tenth.
        if before * 10 / bytes.max(1) != done * 10 / bytes.max(1) {
            told("read", done, bytes);
        }
    }
    Ok(hash.finalize().into())
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;
    use crate::made_up::image;

    const MB: u64 = 1 << 20;

    #[test]
    fn a_stick_s_copy_is_the_image_it_was_made_of() {
        let image = image(3);
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&image).unwrap();
        // A stick is larger than the image.
        file.write_all(&[9; 1000]).unwrap();
        let open = |path: &Path| {
            let mut told = Vec::new();
            let stick = Stick::open(path.to_owned(), &mut |_, done, all| told.push((done, all)));
            stick.map(|stick| (stick, told))
        };
        assert!(open(file.path()).unwrap_err().to_string().contains("taken out or emptied"));
        switch::turn_on(file.as_file_mut(), switch::AddOn::Install).unwrap();
        let (stick, told) = open(file.path()).unwrap();
        let mut copy = Vec::new();
        stick.read().unwrap().read_to_end(&mut copy).unwrap();
        assert!(copy == image, "the copy is another one than the image");
        assert_eq!(*stick.sums(), Sums { raw: Sha256::digest(&image).into(), raw_bytes: 7 * MB });
        assert_eq!(told.last(), Some(&(7 * MB, 7 * MB)));
    }

    #[test]
    fn only_a_freshly_written_stick_is_copied() {
        assert_eq!(shipped_bytes(&image(3)).unwrap(), 7 * MB);
        let error = shipped_bytes(&image(6)).unwrap_err().to_string();
        assert!(error.contains("write it again") && error.contains("taken out or emptied"), "{error}");
        assert!(shipped_bytes(&image(1)).is_err());
        assert!(shipped_bytes(&vec![0; HEAD]).is_err());
    }

    #[test]
    fn a_stick_that_ends_early_is_damaged() {
        let bytes = vec![1; 1000];
        assert_eq!(
            digest(bytes.as_slice(), 1000, &mut |_, _, _| {}).unwrap(),
            <[u8; 32]>::from(Sha256::digest(&bytes))
        );
        assert!(digest(bytes.as_slice(), 1001, &mut |_, _, _| {}).is_err());
    }

    #[test]
    fn the_disks_beneath_the_root_are_found() {
        let dir = tempfile::tempdir().unwrap();
        let disk = dir.path().join("devices/pci/block/sda");
        for part in ["sda2", "sda3"] {
            fs::create_dir_all(disk.join(part)).unwrap();
            fs::write(disk.join(part).join("partition"), "2\n").unwrap();
        }
        let mapped = dir.path().join("devices/virtual/block/dm-0");
        fs::create_dir_all(mapped.join("slaves")).unwrap();
        for part in ["sda2", "sda3"] {
            std::os::unix::fs::symlink(disk.join(part), mapped.join("slaves").join(part)).unwrap();
        }
        assert_eq!(disks_beneath(&mapped).unwrap(), ["sda"]);
        let other = dir.path().join("devices/pci/block/sdb/sdb3");
        fs::create_dir_all(&other).unwrap();
        fs::write(other.join("partition"), "3\n").unwrap();
        std::os::unix::fs::symlink(&other, mapped.join("slaves/sdb3")).unwrap();
        assert_eq!(disks_beneath(&mapped).unwrap(), ["sda", "sdb"]);
    }
}
