//! What changes how an image starts: one byte each.
//!
//! The image's boot partition carries signed add-ons to the kernel's command line. One starts the installer instead of a box (decision 0330), one
//! lets a board start that has no TPM (decision 0345). They lie in folders where nobody looks, `loader/ADDON_` and `loader/ADDONT`;
//! `loader/ADDONS`, whatever the case, is where systemd-stub looks (systemd-stub(7)). So that the names differ by one byte of the folder's
//! entry, a disk that starts otherwise can be told from the image that was signed, and made of it and turned back, without writing to the
//! file system. At most one is on: an image whose first folder is missing installs, one whose second is missing needs no TPM.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write as _};
use std::ops::Range;

use anyhow::{Context as _, bail, ensure};

use crate::fat::BootPartition;
use crate::table::{self, HEAD};

const LOADER: &[u8; 11] = b"LOADER     ";
const ON: &[u8; 11] = b"ADDONS     ";
/// Which byte of the name it is.
const BYTE: u64 = 5;

/// What an image can be made to do otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddOn {
    /// To run the installer instead of a box.
    Install,
    /// To start without a TPM.
    NoTpm,
}

impl AddOn {
    /// Its folder's name while it is off.
    fn off(self) -> &'static [u8; 11] {
        match self {
            Self::Install => b"ADDON_     ",
            Self::NoTpm => b"ADDONT     ",
        }
    }
}

/// Where the byte is, and what it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Switch {
    /// In bytes from the beginning of the disk.
    pub at: u64,
    /// Whether a machine that starts from here does as the add-on says.
    pub on: bool,
}

/// The switches of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Switches {
    /// [`AddOn::Install`].
    pub install: Switch,
    /// [`AddOn::NoTpm`]. What ships for x86-64 has none.
    pub no_tpm: Option<Switch>,
}

/// Looks for the folders in a boot partition, which lies there on a disk.
///
/// # Errors
/// When it cannot be read, or has other folders than an image.
pub fn find(disk: &mut (impl Read + Seek), boot: Range<u64>) -> anyhow::Result<Switches> {
    let start = boot.start;
    let mut partition = BootPartition::open(disk, boot)?;
    // Where a folder of each name is: off, off, on.
    let mut places: [Option<u64>; 3] = [None; 3];
    for loader in partition.in_root()?.iter().filter(|folder| folder.name == *LOADER).take(1) {
        for folder in partition.inside(loader)? {
            let names = [AddOn::Install.off(), AddOn::NoTpm.off(), ON];
            if let Some(which) = names.iter().position(|name| folder.name == **name) {
                ensure!(places[which].is_none(), "the boot partition has two folders of add-ons of one name");
                places[which] = Some(start + folder.at + BYTE);
            }
        }
    }
    let off = |at: u64| Switch { at, on: false };
    let on = |at: u64| Switch { at, on: true };
    match places {
        [Some(install), no_tpm, None] => Ok(Switches { install: off(install), no_tpm: no_tpm.map(off) }),
        [None, no_tpm, Some(install)] => Ok(Switches { install: on(install), no_tpm: no_tpm.map(off) }),
        [Some(install), None, Some(no_tpm)] => {
            Ok(Switches { install: off(install), no_tpm: Some(on(no_tpm)) })
        }
        [Some(_), Some(_), Some(_)] => bail!("the boot partition has a folder of add-ons too many"),
        [None, _, None] => bail!("this image has no installer"),
    }
}

/// Looks for them on a whole disk, or in its image.
///
/// # Errors
/// Those of [`find`], and when there is no boot partition.
pub fn on_disk(disk: &mut (impl Read + Seek)) -> anyhow::Result<Switches> {
    let boot = boot_partition(disk)?;
    find(disk, boot)
}

/// Where the boot partition is.
fn boot_partition(disk: &mut (impl Read + Seek)) -> anyhow::Result<Range<u64>> {
    let mut head = vec![0; HEAD];
    disk.rewind()?;
    disk.read_exact(&mut head).context("reading the partition table")?;
    table::read_whole(&head)
        .and_then(|table| table.boot)
        .context("there is no boot partition, or the table is damaged")
}

/// Makes a disk that holds the image start otherwise.
///
/// # Errors
/// Those of [`on_disk`], when the image has no such add-on or the other one is on, and when the byte cannot be written.
pub fn turn_on(disk: &mut File, add_on: AddOn) -> anyhow::Result<()> {
    let found = on_disk(disk)?;
    let (wanted, other) = match add_on {
        AddOn::Install => (Some(found.install), found.no_tpm),
        AddOn::NoTpm => (found.no_tpm, Some(found.install)),
    };
    let wanted = wanted.context("this image starts only with a TPM")?;
    ensure!(!other.is_some_and(|other| other.on), "this disk was made to start otherwise already");
    disk.seek(SeekFrom::Start(wanted.at))?;
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
    fn the_folders_are_found_once_and_nothing_else_is_taken_for_them() {
        let found = |entries: &[[u8; 32]]| {
            let bytes = boot_partition(entries);
            let all = 0..u64::try_from(bytes.len()).unwrap();
            find(&mut Cursor::new(bytes), all)
        };
        let [install, no_tpm, on] =
            [AddOn::Install.off(), AddOn::NoTpm.off(), ON].map(|name| folder(name, 0));
        let switch = |place: u64, on: bool| Switch { at: SWITCH_AT + 32 * place, on };
        let is = |install: Switch, no_tpm: Option<Switch>| Switches { install, no_tpm };
        assert_eq!(found(&[install]).unwrap(), is(switch(0, false), None));
        assert_eq!(found(&[no_tpm, install]).unwrap(), is(switch(1, false), Some(switch(0, false))));
        assert_eq!(found(&[folder(b"ENTRIES    ", 0), on]).unwrap(), is(switch(1, true), None));
        assert_eq!(found(&[on, no_tpm]).unwrap(), is(switch(0, true), Some(switch(1, false))));
        assert_eq!(found(&[install, on]).unwrap(), is(switch(0, false), Some(switch(1, true))));
        let mut file = install;
        file[11] = 0x20;
        for wrong in [&[file][..], &[], &[no_tpm], &[install, no_tpm, on], &[on, on], &[install, install]] {
            assert!(found(wrong).is_err(), "{wrong:?}");
        }
        // Where systemd-stub does not look.
        let mut elsewhere = boot_partition(&[install]);
        let loader = elsewhere.windows(11).position(|name| name == LOADER).unwrap();
        elsewhere[loader] = b'X';
        let all = 0..u64::try_from(elsewhere.len()).unwrap();
        assert!(find(&mut Cursor::new(elsewhere), all).is_err());
    }

    #[test]
    fn one_byte_makes_a_disk_start_otherwise_and_no_other_changes() {
        for (add_on, other, at) in
            [(AddOn::Install, AddOn::NoTpm, SWITCH_AT), (AddOn::NoTpm, AddOn::Install, SWITCH_AT + 32)]
        {
            let image = image(3);
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&image).unwrap();
            turn_on(&mut file, add_on).unwrap();
            let now_on = on_disk(&mut file).unwrap();
            assert_eq!(
                (now_on.install.on, now_on.no_tpm.unwrap().on),
                (add_on == AddOn::Install, add_on == AddOn::NoTpm)
            );
            let mut now = Vec::new();
            file.rewind().unwrap();
            file.read_to_end(&mut now).unwrap();
            let changed: Vec<usize> = (0..image.len()).filter(|at| image[*at] != now[*at]).collect();
            assert_eq!(changed, [(1 << 20) + usize::try_from(at).unwrap()]);
            assert_eq!(now.len(), image.len());
            // Again changes nothing, and the other one is refused.
            turn_on(&mut file, add_on).unwrap();
            assert!(turn_on(&mut file, other).is_err());
            assert_eq!(on_disk(&mut file).unwrap(), now_on);
        }
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
    fn no_more_is_read_than_says_where_they_are() {
        let mut disk = Counted(Cursor::new(image(3)), 0);
        assert!(!on_disk(&mut disk).unwrap().install.on);
        assert!(disk.1 <= HEAD + 3 * 512, "{} bytes were read", disk.1);
    }
}
