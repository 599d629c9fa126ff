//! What makes a stick of an image: one byte.
//!
//! The image's boot partition carries a signed add-on to the kernel's command line which starts the installer instead of a box. It
//! lies in a folder where nobody looks, `loader/ADDON_`; `loader/ADDONS`, whatever the case, is where systemd-stub looks
//! (systemd-stub(7)). So that the two differ by one byte of the folder's entry, a stick can be told from the image that was signed, and
//! made of it and turned back, without writing to the file system; and the disk that a stick writes is the signed image to the last byte.

use std::fs::File;
use std::io::{Read, Seek as _, SeekFrom, Write as _};
use std::ops::Range;

use anyhow::{Context as _, ensure};

use crate::table::{self, HEAD};

/// A folder's entry (Microsoft's FAT specification, section 6): a name of eleven bytes in capitals, then what it is.
const ENTRY: usize = 32;
const OFF: &[u8; 11] = b"ADDON_     ";
const ON: &[u8; 11] = b"ADDONS     ";
/// Which byte of the name it is.
const BYTE: u64 = 5;
const FOLDER: u8 = 0x10;
/// So much is read at once.
const CHUNK: usize = 1 << 20;
static EMPTY: [u8; CHUNK] = [0; CHUNK];

/// Where the byte is, and what it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Switch {
    /// In bytes from the beginning of what was searched.
    pub at: u64,
    /// Whether a machine that starts from here runs the installer.
    pub on: bool,
}

/// Looks for the folder in a boot partition.
///
/// # Errors
/// When it cannot be read, or when there is no such folder or more than one.
pub fn find(partition: impl Read) -> anyhow::Result<Switch> {
    search(partition, false)
}

/// Looks for it as every start of a box does before its disk was completed: what is found first counts, and the rest is not read.
///
/// # Errors
/// Those of [`on_disk`].
pub fn is_on(disk: &mut File) -> anyhow::Result<bool> {
    let boot = boot_partition(disk)?;
    Ok(search((&*disk).take(boot.end - boot.start), true)?.on)
}

fn search(mut partition: impl Read, first_only: bool) -> anyhow::Result<Switch> {
    let mut found = None;
    let mut at = 0_u64;
    let mut chunk = Vec::new();
    loop {
        chunk.clear();
        partition
            .by_ref()
            .take(u64::try_from(CHUNK)?)
            .read_to_end(&mut chunk)
            .context("reading the boot partition")?;
        if chunk.is_empty() {
            break;
        }
        // Most of it is: the first start of every box looks through all of it.
        if chunk == EMPTY {
            at += u64::try_from(CHUNK)?;
            continue;
        }
        for entry in chunk.chunks_exact(ENTRY) {
            let on = entry.starts_with(ON);
            if (on || entry.starts_with(OFF)) && entry[OFF.len()] == FOLDER {
                ensure!(found.is_none(), "the boot partition has two folders of add-ons");
                found = Some(Switch { at: at + BYTE, on });
            }
            at += u64::try_from(ENTRY)?;
        }
        if first_only && found.is_some() {
            break;
        }
    }
    found.context("this image has no installer")
}

/// Looks for it on a whole disk, or in its image.
///
/// # Errors
/// Those of [`find`], and when there is no boot partition.
pub fn on_disk(disk: &mut File) -> anyhow::Result<Switch> {
    let boot = boot_partition(disk)?;
    let found = find((&*disk).take(boot.end - boot.start))?;
    Ok(Switch { at: boot.start + found.at, ..found })
}

/// Where the boot partition is; the disk is at its beginning then.
fn boot_partition(disk: &mut File) -> anyhow::Result<Range<u64>> {
    let mut head = vec![0; HEAD];
    disk.rewind()?;
    disk.read_exact(&mut head).context("reading the partition table")?;
    let boot = table::read(&head).and_then(|table| table.boot).context("there is no boot partition")?;
    disk.seek(SeekFrom::Start(boot.start))?;
    Ok(boot)
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
    use super::*;
    use crate::table::tests::head;

    /// A folder's entry at its place among others.
    fn partition(name: &[u8; 11], kind: u8) -> Vec<u8> {
        let mut bytes = vec![0x20; 3 << 20];
        let at = (2 << 20) + 7 * ENTRY;
        bytes[at..at + 11].copy_from_slice(name);
        bytes[at + 11] = kind;
        bytes
    }

    #[test]
    fn the_folder_is_found_once_and_nothing_else_is_taken_for_it() {
        let at = (2 << 20) + 7 * 32 + 5;
        assert_eq!(find(partition(OFF, FOLDER).as_slice()).unwrap(), Switch { at, on: false });
        assert_eq!(find(partition(ON, FOLDER).as_slice()).unwrap(), Switch { at, on: true });
        assert!(find(partition(OFF, 0x20).as_slice()).is_err(), "a file");
        assert!(find(&partition(OFF, FOLDER)[1..]).is_err(), "not where entries are");
        assert!(find(&[][..]).is_err());
        let twice = [partition(OFF, FOLDER), partition(ON, FOLDER)].concat();
        assert!(find(twice.as_slice()).unwrap_err().to_string().contains("two"));
    }

    #[test]
    fn one_byte_makes_an_installer_and_no_other_changes() {
        let mut image = head(&[(1 << 20)..(4 << 20), (4 << 20)..(5 << 20), (5 << 20)..(6 << 20)], 7 << 20);
        image.resize(1 << 20, 0);
        image.extend(partition(OFF, FOLDER));
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&image).unwrap();
        assert!(!is_on(&mut file).unwrap());
        turn_on(&mut file).unwrap();
        assert!(on_disk(&mut file).unwrap().on && is_on(&mut file).unwrap());
        let mut now = Vec::new();
        file.rewind().unwrap();
        file.read_to_end(&mut now).unwrap();
        let changed: Vec<usize> = (0..image.len()).filter(|at| image[*at] != now[*at]).collect();
        assert_eq!(changed, [(3 << 20) + 7 * 32 + 5]);
        assert_eq!(now.len(), image.len());
        // Again changes nothing.
        turn_on(&mut file).unwrap();
        assert!(on_disk(&mut file).unwrap().on);
    }
}
