//! Folders of a boot partition (FAT32; Microsoft's FAT specification of 2000, sections 3, 4 and 6), read where they are and nowhere
//! else: four or five sectors tell whether a disk is a stick, and a disk that is not well need give no more.

use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;

use anyhow::{Context as _, ensure};

const SECTOR: usize = 512;
/// A folder's entry: a name of eleven bytes in capitals, then what it is.
const ENTRY: usize = 32;
/// The bits of a folder, and of the disk's own name, which looks like one.
const FOLDER: u8 = 0x10;
const DISK_NAME: u8 = 0x08;
/// The image's boot partition is exactly so large; a larger one is not the image's.
const MOST_BYTES: u64 = 512 << 20;
/// The image's folders have a handful of entries. Longer ones are not looked through.
const MOST_FOLDER_BYTES: u64 = 1 << 20;

/// What lies in a folder and is a folder itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Folder {
    /// As it is written there, without the dot.
    pub(crate) name: [u8; 11],
    /// Where the name is, in bytes from the beginning of the partition.
    pub(crate) at: u64,
    /// The first of its clusters.
    first: u32,
}

/// A boot partition of a disk.
pub(crate) struct BootPartition<'a, D> {
    disk: &'a mut D,
    range: Range<u64>,
    /// From the beginning of the partition, in bytes: the table of clusters, and the clusters.
    table: Range<u64>,
    clusters_at: u64,
    cluster_bytes: u64,
    root: u32,
}

impl<'a, D: Read + Seek> BootPartition<'a, D> {
    /// Reads its first sector.
    ///
    /// # Errors
    /// When it cannot be read, or holds no such file system.
    pub(crate) fn open(disk: &'a mut D, range: Range<u64>) -> anyhow::Result<Self> {
        ensure!(
            range.start < range.end && range.end - range.start <= MOST_BYTES,
            "this boot partition is not the image's"
        );
        let mut partition = Self { disk, range, table: 0..0, clusters_at: 0, cluster_bytes: 0, root: 0 };
        let mut sector = [0; SECTOR];
        partition.read(0, &mut sector)?;
        let two = |at: usize| u16::from_le_bytes([sector[at], sector[at + 1]]);
        let four =
            |at: usize| u32::from_le_bytes([sector[at], sector[at + 1], sector[at + 2], sector[at + 3]]);
        // FAT12 and FAT16 say the length of their tables, and of their first folder, in these two fields.
        let is_fat32 = two(510) == 0xaa55 && two(22) == 0 && two(17) == 0;
        ensure!(is_fat32 && two(11) == 512, "the boot partition holds no FAT32 with sectors of 512 bytes");
        let bytes = |sectors: u64| sectors.checked_mul(512).context("the boot partition's file system");
        let table_at = bytes(u64::from(two(14)))?;
        let table_bytes = bytes(u64::from(four(36)))?;
        // Or the folders would lie in the sector that says where they are.
        ensure!(table_at > 0 && sector[16] > 0, "the boot partition's file system has no table");
        partition.table = table_at..table_at + table_bytes;
        partition.clusters_at = table_at + table_bytes * u64::from(sector[16]);
        partition.cluster_bytes = bytes(u64::from(sector[13]))?;
        ensure!(partition.cluster_bytes > 0, "the boot partition's file system has no clusters");
        partition.root = four(44);
        Ok(partition)
    }

    /// The folders in the first folder.
    ///
    /// # Errors
    /// When it cannot be read, or is not as it must be.
    pub(crate) fn in_root(&mut self) -> anyhow::Result<Vec<Folder>> {
        self.within(self.root)
    }

    /// The folders in a folder.
    ///
    /// # Errors
    /// When it cannot be read, or is not as it must be.
    pub(crate) fn inside(&mut self, folder: &Folder) -> anyhow::Result<Vec<Folder>> {
        self.within(folder.first)
    }

    fn within(&mut self, first: u32) -> anyhow::Result<Vec<Folder>> {
        let mut found = Vec::new();
        let mut cluster = first;
        let mut looked_through = 0;
        let mut bytes = vec![0; usize::try_from(self.cluster_bytes)?];
        loop {
            ensure!(looked_through < MOST_FOLDER_BYTES, "a folder of the boot partition is too long");
            let number = cluster.checked_sub(2).context("a folder of the boot partition begins nowhere")?;
            let cluster_at = self.clusters_at + u64::from(number) * self.cluster_bytes;
            self.read(cluster_at, &mut bytes)?;
            for (place, entry) in bytes.chunks_exact(ENTRY).enumerate() {
                // Nothing comes after the first entry that was never used.
                if entry[0] == 0 {
                    return Ok(found);
                }
                if entry[11] & (FOLDER | DISK_NAME) != FOLDER {
                    continue;
                }
                let mut name = [0; 11];
                name.copy_from_slice(&entry[..11]);
                let first = u32::from_le_bytes([entry[26], entry[27], entry[20], entry[21]]);
                found.push(Folder { name, at: cluster_at + u64::try_from(place * ENTRY)?, first });
            }
            looked_through += self.cluster_bytes;
            let Some(next) = self.after(cluster)? else { return Ok(found) };
            cluster = next;
        }
    }

    /// The cluster that follows another one.
    fn after(&mut self, cluster: u32) -> anyhow::Result<Option<u32>> {
        let at = self.table.start + u64::from(cluster) * 4;
        ensure!(at + 4 <= self.table.end, "a folder of the boot partition goes on outside of it");
        let mut next = [0; 4];
        self.read(at, &mut next)?;
        // The uppermost four bits mean nothing.
        let next = u32::from_le_bytes(next) & 0x0fff_ffff;
        Ok((next < 0x0fff_fff8).then_some(next))
    }

    fn read(&mut self, at: u64, into: &mut [u8]) -> anyhow::Result<()> {
        let end = at.checked_add(u64::try_from(into.len())?).context("a place on the boot partition")?;
        ensure!(end <= self.range.end - self.range.start, "the boot partition ends before its folders do");
        self.disk
            .seek(SeekFrom::Start(self.range.start + at))
            .and_then(|_| self.disk.read_exact(into))
            .context("reading the boot partition")
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;
    use crate::made_up::{CLUSTERS_AT, boot_partition, folder};

    fn names(bytes: &[u8]) -> anyhow::Result<Vec<String>> {
        let mut disk = Cursor::new(bytes);
        let mut partition = BootPartition::open(&mut disk, 0..u64::try_from(bytes.len()).unwrap())?;
        let root = partition.in_root()?;
        let mut all: Vec<_> = root.iter().map(|folder| folder.name).collect();
        for folder in root {
            all.extend(partition.inside(&folder)?.iter().map(|folder| folder.name));
        }
        Ok(all.iter().map(|name| String::from_utf8_lossy(name).trim().to_owned()).collect())
    }

    #[test]
    fn folders_are_found_and_files_are_not() {
        let entries = [folder(b"ADDON_     ", 0), folder(b"KEYS       ", 0)];
        assert_eq!(names(&boot_partition(&entries)).unwrap(), ["EFI", "LOADER", "ADDON_", "KEYS"]);
        let mut file = entries;
        file[0][11] = 0x20;
        assert_eq!(names(&boot_partition(&file)).unwrap(), ["EFI", "LOADER", "KEYS"]);
        file[0][11] = 0x0f; // A part of a long name.
        assert_eq!(names(&boot_partition(&file)).unwrap(), ["EFI", "LOADER", "KEYS"]);
        file[0][0] = 0; // Never used, and nothing after it.
        assert_eq!(names(&boot_partition(&file)).unwrap(), ["EFI", "LOADER"]);
    }

    #[test]
    fn a_folder_goes_on_in_other_clusters_and_not_for_ever() {
        let many: Vec<_> = (0..40_u8).map(|n| folder(&[b'A' + n % 26; 11], 0)).collect();
        let whole = boot_partition(&many);
        assert_eq!(names(&whole).unwrap().len(), 42);
        // The table of clusters says of the folder's first one that it follows itself.
        let mut endless = whole.clone();
        endless[512 + 4 * 4] = 4;
        endless[512 + 4 * 4 + 1..][..3].fill(0);
        let error = names(&endless).unwrap_err().to_string();
        assert!(error.contains("too long"), "{error}");
    }

    #[test]
    fn what_is_no_such_file_system_is_none_and_nothing_outside_the_partition_is_read() {
        let good = boot_partition(&[folder(b"ADDON_     ", 0)]);
        let with = |at: usize, bytes: &[u8]| {
            let mut odd = good.clone();
            odd[at..at + bytes.len()].copy_from_slice(bytes);
            names(&odd).map_err(|error| format!("{error:#}"))
        };
        assert!(with(0, &[]).is_ok());
        for (at, bytes, word) in [
            (510, &[0, 0][..], "no FAT32"),
            (22, &[1][..], "no FAT32"),
            (17, &[0, 2][..], "no FAT32"),
            (11, &[0, 16][..], "no FAT32"),
            (13, &[0][..], "no clusters"),
            (14, &[0, 0][..], "no table"),
            (16, &[0][..], "no table"),
            (44, &[0, 0, 0, 0][..], "begins nowhere"),
            (44, &[0xff; 4][..], "ends before"),
            (36, &[0xff; 4][..], "ends before"),
        ] {
            let error = with(at, bytes).unwrap_err();
            assert!(error.contains(word), "{at}: {error}");
        }
        // A folder of a whole cluster, and a table of clusters that has no place for it.
        let mut short = boot_partition(&[folder(b"KEYS       ", 0); 16]);
        (short[14], short[36]) = (2, 0);
        assert!(names(&short).unwrap_err().to_string().contains("goes on outside"));
        assert!(names(&good[..CLUSTERS_AT]).is_err());
        assert!(names(&good[..100]).is_err());
        let mut disk = Cursor::new(&good);
        assert!(BootPartition::open(&mut disk, 0..MOST_BYTES + 512).is_err(), "larger than the image's");
        assert!(BootPartition::open(&mut disk, 5..5).is_err());
    }
}
