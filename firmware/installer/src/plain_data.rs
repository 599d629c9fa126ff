//! Where /var is on a board that has no TPM (decision 0345): the one partition `data` of the one disk that the running system lies on.
//!
//! A partition of that name on another disk is anybody's: whoever plugs it in would bring a ledger of their own. One that was
//! encrypted is the home of a box with a TPM, and is left alone.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail, ensure};

use crate::table::{self, HEAD, Place};

/// Of the kernel's lists, whatever those of the disk are.
const SECTOR: u64 = 512;
/// Where fstab looks for it: /dev/mapper/data.
const NAME: &str = "data";
/// LUKS of both versions begins so.
const ENCRYPTED: &[u8] = b"LUKS\xba\xbe";
/// The second copy of LUKS 2's head (its specification, section 2): with the first one damaged it is still encrypted.
const SECOND_HEAD: (&[u8], [u64; 10]) = (
    b"SKUL\xba\xbe",
    [0x4000, 0x8000, 0x1_0000, 0x2_0000, 0x4_0000, 0x8_0000, 0x10_0000, 0x20_0000, 0x40_0000, 0x80_0000],
);
/// The mark of ext4, which the first start makes, and where it is.
const EXT4: ([u8; 2], u64) = ([0x53, 0xef], 1024 + 56);

/// The partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// Its name in /dev.
    pub device: PathBuf,
    /// How large it is, in sectors of 512 bytes.
    pub sectors: u64,
}

/// Finds the partition. `system` is /sys/block, `roots` the disks beneath the running system.
///
/// The name is that of the disk's own table: the kernel has none for partitions that were added since it read the disk.
///
/// # Errors
/// When the system lies on two disks, there is no such partition or more than one, or the kernel knows of another one in its place.
pub fn find(system: &Path, roots: &[PathBuf]) -> anyhow::Result<Partition> {
    let [disk] = roots else {
        bail!("the system lies on {roots:?}: only one disk may be in this machine that holds it")
    };
    let mut head = vec![0; HEAD];
    let read = File::open(disk).and_then(|mut file| file.read_exact(&mut head));
    read.with_context(|| format!("cannot read {}", disk.display()))?;
    let table = table::read_whole(&head)
        .with_context(|| format!("{} has no partition table, or a damaged one", disk.display()))?;
    let named: Vec<&Place> = table.named(NAME).collect();
    let [place] = named.as_slice() else {
        bail!("{} has {} partitions named {NAME}, and must have one", disk.display(), named.len())
    };
    let bytes = place.bytes.clone().with_context(|| format!("the partition {NAME} is on no disk"))?;
    by_number(system, disk, place.number, &bytes)
}

/// The device of a partition, if the kernel has it where the table says.
fn by_number(system: &Path, disk: &Path, number: u32, bytes: &Range<u64>) -> anyhow::Result<Partition> {
    let folder = system.join(disk.file_name().context("a disk has a name")?);
    for entry in fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))? {
        let entry = entry?;
        let said = |file: &str| -> Option<u64> {
            fs::read_to_string(entry.path().join(file)).ok()?.trim().parse().ok()
        };
        if said("partition") != Some(u64::from(number)) {
            continue;
        }
        let sectors = (bytes.end - bytes.start) / SECTOR;
        ensure!(
            (said("start"), said("size")) == (Some(bytes.start / SECTOR), Some(sectors)),
            "the kernel has partition {number} of {} elsewhere than its table",
            disk.display()
        );
        return Ok(Partition { device: disk.with_file_name(entry.file_name()), sectors });
    }
    bail!("the kernel has no partition {number} of {}", disk.display())
}

/// Fails unless a partition holds the file system that the first start makes where there is no TPM.
///
/// # Errors
/// When it cannot be read, was encrypted, or holds something else.
pub fn refuse_encrypted(device: &Path) -> anyhow::Result<()> {
    let file = File::open(device).with_context(|| format!("cannot open {}", device.display()))?;
    let begins = |at: u64, mark: &[u8]| -> io::Result<bool> {
        let mut read = vec![0; mark.len()];
        file.read_exact_at(&mut read, at)?;
        Ok(read == mark)
    };
    let (second, places) = SECOND_HEAD;
    let mut encrypted = begins(0, ENCRYPTED)?;
    for place in places {
        encrypted |= begins(place, second)?;
    }
    ensure!(
        !encrypted,
        "{} was sealed to a TPM: this start, which is for boards that have none, leaves it alone. Write the disk anew without --tpm none, \
         or give the board its TPM back",
        device.display()
    );
    let (mark, at) = EXT4;
    ensure!(begins(at, &mark)?, "{} holds no file system that a first start made", device.display());
    Ok(())
}

/// Gives it the name under which /var is looked for.
///
/// # Errors
/// When the kernel does not.
pub fn name(partition: &Partition) -> anyhow::Result<()> {
    let table = format!("0 {} linear {} 0", partition.sectors, partition.device.display());
    let status = Command::new("/usr/sbin/dmsetup")
        .args(["create", NAME, "--table", &table])
        .stdin(Stdio::null())
        .status()
        .context("cannot run dmsetup")?;
    ensure!(status.success(), "the kernel does not take {} for /var", partition.device.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::made_up::{list, named};

    #[test]
    fn only_the_partition_on_the_disk_of_the_root_is_taken() {
        let (system, devices) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let box_s = ["esp", "hearth_1", "hearth_1", "_empty", "_empty", "data"];
        // What its table says, and for how many of its partitions the kernel says the name.
        for (disk, names, told) in [
            ("own", &box_s[..], 3),
            ("plugged", &["data"], 1),
            ("shipped", &box_s[..3], 3),
            ("twice", &["data", "data"], 2),
        ] {
            fs::write(devices.path().join(disk), named(names)).unwrap();
            let known = names.iter().enumerate().map(|(at, name)| if at < told { name } else { "" });
            list(system.path(), disk, &known.collect::<Vec<_>>());
        }
        // Tables that are not the kernel's, and what is no table.
        fs::write(devices.path().join("other"), named(&box_s)).unwrap();
        list(system.path(), "other", &box_s[..5]);
        fs::write(devices.path().join("moved"), named(&box_s)).unwrap();
        list(system.path(), "moved", &box_s);
        fs::write(system.path().join("moved/movedp6/start"), "4096\n").unwrap();
        fs::write(devices.path().join("empty"), [0; HEAD]).unwrap();
        fs::write(devices.path().join("short"), [0; HEAD - 1]).unwrap();
        let disks = |names: &[&str]| names.iter().map(|name| devices.path().join(name)).collect::<Vec<_>>();
        let found = |roots: &[&str]| find(system.path(), &disks(roots));
        let own = Partition { device: devices.path().join("ownp6"), sectors: 2048 };
        assert_eq!(found(&["own"]).unwrap(), own);
        for (roots, word) in [
            (&["own", "plugged"][..], "only one disk"),
            (&[], "only one disk"),
            (&["shipped"], "has 0 partitions"),
            (&["twice"], "has 2 partitions"),
            (&["other"], "has no partition 6"),
            (&["moved"], "elsewhere than its table"),
            (&["empty"], "no partition table"),
            (&["short"], "cannot read"),
            (&["none"], "cannot read"),
        ] {
            let error = format!("{:#}", found(roots).unwrap_err());
            assert!(error.contains(word), "{roots:?}: {error}");
        }
    }

    #[test]
    fn what_a_tpm_has_sealed_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data");
        let judged = |marks: &[(u64, &[u8])]| {
            let file = File::create(&path).unwrap();
            file.set_len(9 << 20).unwrap();
            for (at, mark) in marks {
                file.write_all_at(mark, *at).unwrap();
            }
            refuse_encrypted(&path).map_err(|error| format!("{error:#}"))
        };
        let (ext4, at) = EXT4;
        assert_eq!(judged(&[(at, &ext4)]), Ok(()));
        assert!(judged(&[]).unwrap_err().contains("no file system"));
        assert!(judged(&[(0, ENCRYPTED)]).unwrap_err().contains("sealed to a TPM"));
        // Whoever writes a file system's mark into it, or damages the first head, makes it no plain one.
        assert!(judged(&[(0, ENCRYPTED), (at, &ext4)]).unwrap_err().contains("sealed to a TPM"));
        for place in SECOND_HEAD.1 {
            assert!(
                judged(&[(place, SECOND_HEAD.0), (at, &ext4)]).unwrap_err().contains("sealed"),
                "{place}"
            );
        }
        assert!(refuse_encrypted(&dir.path().join("none")).is_err());
    }
}
