//! What makes a stick of an image: one byte.
//!
//! The image's boot partition carries a signed add-on to the kernel's command line which starts the installer instead of a box. It
//! lies in a folder where nobody looks, `loader/ADDON_`; `loader/ADDONS`, whatever the case, is where systemd-stub looks
//! (systemd-stub(7)). So that the two differ by one byte of the folder's entry, a stick can be told from the image that was signed, and
//! made of it and turned back, without writing to the file system; and the disk that a stick writes is the signed image to the last byte.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write as _};
use std::ops::Range;

use anyhow::{Context as _, ensure};

use crate::fat::BootPartition;
use crate::table::{self, HEAD};

const LOADER: &[u8; 11] = b"LOADER     ";
const OFF: &[u8; 11] = b"ADDON_     ";
const ON: &[u8; 11] = b"ADDONS     ";
/// Which byte of the name it is.
const BYTE: u64 = 5;

/// Where the byte is, and what it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Switch {
    /// In bytes from the beginning of the disk.
    pub at: u64,
    /// Whether a machine that starts from here runs the installer.
    pub on: bool,
}

/// Looks for the folder in a boot partition, which lies there on a disk.
///
/// # Errors
/// When it cannot be read, or when there is no such folder or more than one.
pub fn find(disk: &mut (impl Read + Seek), boot: Range<u64>) -> anyhow::Result<Switch> {
    let found = folders(disk, boot)?;
    ensure!(found.len() < 2, "the boot partition has two folders of add-ons");
    found.first().copied().context("this image has no installer")
}

/// Looks for it on a whole disk, or in its image.
///
/// # Errors
/// Those of [`find`], and when there is no boot partition.
pub fn on_disk(disk: &mut (impl Read + Seek)) -> anyhow::Result<Switch> {
    let boot = boot_partition(disk)?;
    find(disk, boot)
}

/// Whether a machine that starts from this disk runs the installer. Reads a handful of sectors.
///
/// # Errors
/// When they cannot be read, or hold no boot partition of an image.
pub fn is_on(disk: &mut (impl Read + Seek)) -> anyhow::Result<bool> {
    let boot = boot_partition(disk)?;
    Ok(folders(disk, boot)?.iter().any(|found| found.on))
}

fn folders(disk: &mut (impl Read + Seek), boot: Range<u64>) -> anyhow::Result<Vec<Switch>> {
    let start = boot.start;
    let mut partition = BootPartition::open(disk, boot)?;
    let mut found = Vec::new();
    for loader in partition.in_root()?.iter().filter(|folder| folder.name == *LOADER).take(1) {
        for folder in partition.inside(loader)? {
            let on = folder.name == *ON;
            if on || folder.name == *OFF {
                found.push(Switch { at: start + folder.at + BYTE, on });
            }
        }
    }
    Ok(found)
}

/// Where the boot partition is.
fn boot_partition(disk: &mut (impl Read + Seek)) -> anyhow::Result<Range<u64>> {
    let mut head = vec![0; HEAD];
    disk.rewind()?;
    disk.read_exact(&mut head).context("reading the partition table")?;
    table::read(&head).and_then(|table| table.boot).context("there is no boot partition")
}

/// Makes an installer of a disk that holds the image.
///
/// # Errors
/// Those of [`on_disk`], and when the byte cannot be written.
pub fn turn_on(disk: &mut File) -> anyhow::Result<()> {
    let found = on_disk(disk)?;
    disk.seek(SeekFrom::Start(found.at))?;
    disk.write_all(&ON[5..6]).context("writing the boot partition")?;
    disk.sync_all().context("the disk did not take everything")
}

/// The byte of an image that installs nothing.
pub(crate) const BYTE_OFF: &[u8] = b"_";

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;
    use crate::made_up::{SWITCH_AT, boot_partition, folder, image};

    #[test]
    fn the_folder_is_found_once_and_nothing_else_is_taken_for_it() {
        let found = |entries: &[[u8; 32]]| {
            let bytes = boot_partition(entries);
            let all = 0..u64::try_from(bytes.len()).unwrap();
            find(&mut Cursor::new(bytes), all)
        };
        let (off, on) = (folder(OFF, 0), folder(ON, 0));
        assert_eq!(found(&[off]).unwrap(), Switch { at: SWITCH_AT, on: false });
        assert_eq!(found(&[folder(b"ENTRIES    ", 0), on]).unwrap(), Switch { at: SWITCH_AT + 32, on: true });
        let mut file = off;
        file[11] = 0x20;
        assert!(found(&[file]).is_err());
        assert!(found(&[]).unwrap_err().to_string().contains("no installer"));
        assert!(found(&[off, on]).unwrap_err().to_string().contains("two"));
        // Where systemd-stub does not look.
        let mut elsewhere = boot_partition(&[off]);
        let loader = elsewhere.windows(11).position(|name| name == LOADER).unwrap();
        elsewhere[loader] = b'X';
        let all = 0..u64::try_from(elsewhere.len()).unwrap();
        assert!(find(&mut Cursor::new(elsewhere), all).is_err());
    }

    #[test]
    fn one_byte_makes_an_installer_and_no_other_changes() {
        let image = image(3);
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&image).unwrap();
        assert!(!is_on(&mut file).unwrap());
        turn_on(&mut file).unwrap();
        assert!(on_disk(&mut file).unwrap().on && is_on(&mut file).unwrap());
        let mut now = Vec::new();
        file.rewind().unwrap();
        file.read_to_end(&mut now).unwrap();
        let changed: Vec<usize> = (0..image.len()).filter(|at| image[*at] != now[*at]).collect();
        assert_eq!(changed, [(1 << 20) + usize::try_from(SWITCH_AT).unwrap()]);
        assert_eq!(now.len(), image.len());
        // Again changes nothing.
        turn_on(&mut file).unwrap();
        assert!(on_disk(&mut file).unwrap().on);
    }

    /// A disk that counts what is read of it.
    struct Counted(Cursor<Vec<u8>>, usize);

    impl Read for Counted {
        fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
            let read = self.0.read(into)?;
            self.1 += read;
            Ok(read)
        }
    }

    impl Seek for Counted {
        fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
            self.0.seek(to)
        }
    }

    #[test]
    fn no_more_is_read_than_says_where_it_is() {
        let mut disk = Counted(Cursor::new(image(3)), 0);
        assert!(!is_on(&mut disk).unwrap());
        assert!(disk.1 <= HEAD + 3 * 512, "{} bytes were read", disk.1);
    }
}
