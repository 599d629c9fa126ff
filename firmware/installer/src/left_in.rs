//! What each start of a box looks for before anything is made of its disks: a stick that installs and was left in (decision 0330).
//!
//! Other disks may be broken, and a read of a broken disk may take minutes or never end. So disks are told apart by what the kernel
//! read of them already; only one that has the partitions of an image which no box has completed is opened, by a process of its own
//! that nobody waits for longer than [`PATIENCE`]. What does not answer by then, or answers with what no image has on its boot partition, stops
//! a start only where the box would live on it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crate::disk::Leaving;
use crate::{stick, switch};

/// How long a disk may take to give a handful of sectors. A good one needs milliseconds, an emulated machine on a busy host seconds.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// How often it is looked whether a disk has answered.
const ASK_EVERY: Duration = Duration::from_millis(20);
/// How often it is looked whether a stick is out.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// What a disk is that looks like a stick.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A machine that starts from it runs the installer.
    Stick,
    /// A disk that was never started from, without the byte that makes a stick of it; or one that was completed.
    Other,
    /// It could not be read, or what was read is damaged: whether it is a stick is not known.
    Unread,
}

impl Kind {
    /// How the process that read it ends.
    pub fn code(self) -> u8 {
        match self {
            Self::Stick => 10,
            Self::Other => 11,
            Self::Unread => 12,
        }
    }

    fn of(status: ExitStatus) -> Self {
        let ended_so = |kind: &Self| status.code() == Some(i32::from(kind.code()));
        [Self::Stick, Self::Other].into_iter().find(ended_so).unwrap_or(Self::Unread)
    }
}

/// The disks that have the partitions of an image as it was written and no others, by name. `system` is /sys/block; nothing is opened.
///
/// The first start of a box adds partitions, so a disk that somebody lives on is none of these.
pub fn look_alikes(system: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir(system)
        .into_iter()
        .flatten()
        .flatten()
        // What hangs on no controller lives in software and cannot be left in.
        .filter(|disk| disk.path().join("device").exists() && is_as_written(&partition_names(&disk.path())))
        .map(|disk| Path::new("/dev").join(disk.file_name()))
        .collect();
    found.sort();
    found
}

/// A disk's partitions by number, as the kernel read their names.
fn partition_names(disk: &Path) -> BTreeMap<u32, String> {
    let parts = fs::read_dir(disk).into_iter().flatten().flatten().map(|entry| entry.path());
    parts
        .filter_map(|part| {
            let number = fs::read_to_string(part.join("partition")).ok()?.trim().parse().ok()?;
            let said = fs::read_to_string(part.join("uevent")).unwrap_or_default();
            let name = said.lines().find_map(|line| line.strip_prefix("PARTNAME=")).unwrap_or_default();
            Some((number, name.to_owned()))
        })
        .collect()
}

/// Whether these are the names of image/mkosi.repart: the boot partition, a system, and its hashes under the same name.
fn is_as_written(names: &BTreeMap<u32, String>) -> bool {
    let names: Vec<(u32, &str)> = names.iter().map(|(number, name)| (*number, name.as_str())).collect();
    let [(1, "esp"), (2, root), (3, hashes)] = names.as_slice() else { return false };
    root == hashes && root.starts_with("hearth_")
}

/// Opens a disk and says what it is. It may never return.
pub fn kind_of(device: &Path) -> Kind {
    match is_stick(device) {
        Ok(true) => Kind::Stick,
        Ok(false) => Kind::Other,
        Err(_) => Kind::Unread,
    }
}

fn is_stick(device: &Path) -> anyhow::Result<bool> {
    let mut disk = File::open(device)?;
    // A disk that became a box is none, whatever its byte is: what it holds is somebody's.
    Ok(stick::is_as_written(&mut disk)? && switch::on_disk(&mut disk)?.install.on)
}

/// Has each disk looked at by a process of this program, and says what those are that answered in time.
pub fn ask(program: &Path, disks: &[PathBuf], patience: Duration) -> Vec<(PathBuf, Kind)> {
    let until = Instant::now() + patience;
    let start = |disk: &PathBuf| {
        let mut command = Command::new(program);
        command.arg("--is-stick").arg(disk).stdin(Stdio::null()).stdout(Stdio::null());
        command.spawn().ok()
    };
    let mut asked: Vec<Option<Child>> = disks.iter().map(start).collect();
    let mut kinds: Vec<Option<Kind>> =
        asked.iter().map(|child| child.is_none().then_some(Kind::Unread)).collect();
    while kinds.iter().any(Option::is_none) && Instant::now() < until {
        for (child, kind) in asked.iter_mut().zip(&mut kinds) {
            match child.as_mut().map(Child::try_wait) {
                Some(Ok(Some(status))) => *kind = Some(Kind::of(status)),
                Some(Err(_)) => *kind = Some(Kind::Unread),
                Some(Ok(None)) | None => {}
            }
        }
        std::thread::sleep(ASK_EVERY);
    }
    for (child, _) in asked.iter_mut().zip(&kinds).filter(|(_, kind)| kind.is_none()) {
        // It is not waited for: a process that waits for a disk ends when the disk does.
        let _ = child.as_mut().map(Child::kill);
    }
    disks.iter().cloned().zip(kinds.into_iter().map(|kind| kind.unwrap_or(Kind::Unread))).collect()
}

/// What a start does about the disks around it.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Judged {
    /// They must be out before the box starts.
    pub sticks: Vec<PathBuf>,
    /// They cannot be read, and the system lies on them: nothing is made of them.
    pub unread_roots: Vec<PathBuf>,
    /// They cannot be read and are passed over: the box lives on another disk.
    pub passed_over: Vec<PathBuf>,
}

/// Judges what was found. `roots` are the disks beneath the running system, as far as the kernel says.
///
/// The first start completes the disk beneath the root and no other, and `/var` is on the disk that was completed. So a stick that does
/// not answer, with the system on another disk, cannot become this box. With the system on it, it can; then nothing is lost by
/// not starting either, for a disk that looks as it was written holds nothing yet.
pub fn judge(found: &[(PathBuf, Kind)], roots: Option<&[PathBuf]>) -> Judged {
    let mut judged = Judged::default();
    for (disk, kind) in found {
        match kind {
            Kind::Stick => judged.sticks.push(disk.clone()),
            Kind::Other => {}
            Kind::Unread if roots.is_none_or(|roots| roots.contains(disk)) => {
                judged.unread_roots.push(disk.clone());
            }
            Kind::Unread => judged.passed_over.push(disk.clone()),
        }
    }
    judged
}

/// Waits until these disks are out of the machine, or so long. This program, which may itself lie on one, is kept in memory meanwhile.
pub fn wait_until_out(disks: &[PathBuf], at_most: Option<Duration>) {
    // A program that cannot be kept ends when the stick is pulled out, and its unit with it; both are to end here anyway.
    let _ = nix::sys::mman::mlockall(nix::sys::mman::MlockAllFlags::MCL_CURRENT);
    let begun = Instant::now();
    let leaving: Vec<Leaving> = disks.iter().map(|disk| Leaving::of(disk)).collect();
    while !leaving.iter().all(Leaving::is_out) && at_most.is_none_or(|limit| begun.elapsed() < limit) {
        std::thread::sleep(LOOK_EVERY);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::made_up::{image, list};

    fn disks(names: &[&str]) -> Vec<PathBuf> {
        names.iter().map(|name| Path::new("/dev").join(name)).collect()
    }

    #[test]
    fn only_a_disk_with_the_partitions_that_an_image_has_is_opened_at_all() {
        let system = tempfile::tempdir().unwrap();
        for (disk, names) in [
            ("stick", &["esp", "hearth_0.1.0", "hearth_0.1.0"][..]),
            ("older", &["esp", "hearth_0.0.9", "hearth_0.0.9"]),
            // The disk of a box, and one that was completed and lost its data.
            ("box", &["esp", "hearth_0.1.0", "hearth_0.1.0", "_empty", "_empty", "data"]),
            ("five", &["esp", "hearth_0.1.0", "hearth_0.1.0", "_empty", "_empty"]),
            ("data", &["esp", "hearth_0.1.0", "hearth_0.1.0", "data"]),
            // Others with three partitions.
            ("debian", &["esp", "root", "swap"]),
            ("three", &["EFI system partition", "Microsoft reserved partition", "Basic data partition"]),
            ("nameless", &["", "", ""]),
            ("mixed", &["esp", "hearth_0.1.0", "hearth_0.1.1"]),
            ("halves", &["esp", "hearth_0.1.0"]),
            ("turned", &["hearth_0.1.0", "esp", "hearth_0.1.0"]),
            ("empty", &[]),
        ] {
            list(system.path(), disk, names);
        }
        // A file behind a loop device hangs on nothing.
        list(system.path(), "loop0", &["esp", "hearth_0.1.0", "hearth_0.1.0"]);
        fs::remove_dir(system.path().join("loop0/device")).unwrap();
        assert_eq!(look_alikes(system.path()), disks(&["older", "stick"]));
        assert_eq!(look_alikes(&system.path().join("none")), disks(&[]));
    }

    #[test]
    fn a_stick_that_is_left_in_is_told_from_every_other_disk() {
        let dir = tempfile::tempdir().unwrap();
        let kind = |bytes: &[u8], turned: bool| {
            let path = dir.path().join("disk");
            fs::write(&path, bytes).unwrap();
            if turned {
                let mut disk = File::options().read(true).write(true).open(&path).unwrap();
                switch::turn_on(&mut disk, switch::AddOn::Install).unwrap();
            }
            kind_of(&path)
        };
        assert_eq!(kind(&image(3), true), Kind::Stick);
        assert_eq!(kind(&image(3), false), Kind::Other);
        assert_eq!(kind(&image(6), false), Kind::Other, "a box");
        // Whoever is root on a box can turn the byte. What the disk holds stays its owner's.
        assert_eq!(kind(&image(6), true), Kind::Other);
        // Garbled since it was written: the table, the boot partition's beginning, its folders.
        assert_eq!(kind(&vec![0; 1 << 20], false), Kind::Unread);
        for (at, length) in
            [(512 + 16, 4), (1024 + 56, 2), (1 << 20, 512), ((1 << 20) + 1024, 512), ((1 << 20) + 2048, 512)]
        {
            let mut garbled = image(3);
            garbled[at..at + length].fill(0xe5);
            assert_eq!(kind(&garbled, false), Kind::Unread, "{length} bytes at {at}");
        }
        assert_eq!(kind(&image(3)[..(1 << 20) + 100], false), Kind::Unread, "it ends in the boot partition");
        assert_eq!(kind(&[], false), Kind::Unread);
        assert_eq!(kind_of(&dir.path().join("none")), Kind::Unread);
        assert_eq!(kind_of(dir.path()), Kind::Unread, "reading it is an error");
        // Names that no disk has: nothing to wait for.
        wait_until_out(&[dir.path().join("none")], None);
    }

    #[test]
    fn a_broken_disk_stops_a_start_only_where_the_box_would_live_on_it() {
        let [stick, other, broken] = ["sda", "sdb", "sdc"].map(|name| Path::new("/dev").join(name));
        let found = |kinds: &[(&PathBuf, Kind)], roots: Option<&[PathBuf]>| {
            let found: Vec<_> = kinds.iter().map(|(disk, kind)| ((*disk).clone(), *kind)).collect();
            judge(&found, roots)
        };
        let one = |disk: &PathBuf| vec![disk.clone()];
        let own = one(&other);
        assert_eq!(found(&[], Some(&own)), Judged::default());
        assert_eq!(found(&[(&other, Kind::Other)], Some(&own)), Judged::default());
        let broken_beside = found(&[(&other, Kind::Other), (&broken, Kind::Unread)], Some(&own));
        assert_eq!(broken_beside, Judged { passed_over: one(&broken), ..Judged::default() });
        // A stick is waited for, whatever else does not answer.
        let both = found(&[(&stick, Kind::Stick), (&broken, Kind::Unread)], Some(&own));
        assert_eq!(both, Judged { sticks: one(&stick), passed_over: one(&broken), ..Judged::default() });
        // The root, or its hashes, may come from it.
        let beneath = Judged { unread_roots: one(&broken), ..Judged::default() };
        assert_eq!(found(&[(&broken, Kind::Unread)], Some(&one(&broken))), beneath);
        assert_eq!(found(&[(&broken, Kind::Unread)], Some(&[other.clone(), broken.clone()])), beneath);
        assert_eq!(
            found(&[(&broken, Kind::Unread)], None),
            beneath,
            "the kernel does not say where the root is"
        );
    }
}
