//! What a person loses with a disk, as far as its beginning, its end and a few places between tell.
//!
//! A disk without a partition table is not an empty one: a file system, encryption, or a part of an array can begin on the disk itself,
//! and where the first table was lost the second one still says what is there. What nothing here knows is called something.

use crate::table::{self, Table};

/// So much of a disk's beginning is looked at: as far as the marks of ZFS lie.
pub const HEAD: usize = 256 << 10;
/// So much of its end: what arrays and other systems' tables lie in, and what is emptied before an image is written.
pub const TAIL: usize = 1 << 20;
/// So many names are shown to a person.
const SHOWN: usize = 12;
const SECTOR: usize = 512;

/// Where in the beginning of a disk these bytes lie, and whose they are (their documentation, and libblkid's list).
const MARKS: [(usize, &[u8], &str); 23] = [
    (0x438, &[0x53, 0xef], "ext4"),
    (0, b"XFSB", "XFS"),
    (0x1_0040, b"_BHRfS_M", "btrfs"),
    (1024, &[0x10, 0x20, 0xf5, 0xf2], "F2FS"),
    (3, b"NTFS    ", "NTFS"),
    (3, b"EXFAT   ", "exFAT"),
    (54, b"FAT1", "FAT"),
    (82, b"FAT32", "FAT"),
    (1024, b"H+", "HFS+"),
    (1024, b"HX", "HFS+"),
    (32, b"NXSB", "APFS"),
    (0x8001, b"CD001", "an optical disc's image"),
    (4086, b"SWAPSPACE2", "swap"),
    (0, b"LUKS\xba\xbe", "encryption (LUKS)"),
    (3, b"-FVE-FS-", "encryption (BitLocker)"),
    (24, b"LVM2 001", "LVM"),
    (SECTOR + 24, b"LVM2 001", "LVM"),
    (2 * SECTOR + 24, b"LVM2 001", "LVM"),
    (3 * SECTOR + 24, b"LVM2 001", "LVM"),
    (0, &RAID, "a Linux RAID"),
    (4096, &RAID, "a Linux RAID"),
    (4096 + 24, &[0xc6, 0x85, 0x73, 0xf6, 0x4e, 0x1a, 0x45, 0xca], "bcache"),
    (0, b"bluestore block device", "Ceph"),
];
const RAID: [u8; 4] = [0xfc, 0x4e, 0x2b, 0xa9];
/// Of its four labels two are at the beginning and two at the end; a new one of 128 marks is written each time (either byte order).
const ZFS: [[u8; 8]; 2] = [0x00ba_b10c_u64.to_le_bytes(), 0x00ba_b10c_u64.to_be_bytes()];

/// A sentence or two for a person. `head` is the beginning of the disk ([`HEAD`] bytes or fewer), `tail` its end (up to [`TAIL`]),
/// `between` whatever was read elsewhere.
pub fn contents(head: &[u8], tail: &[u8], between: &[u8]) -> String {
    let (first, second) = (table::read(head), table::read_second(tail));
    let mut told = Vec::new();
    if let Some(table) = &first {
        told.push(format!("On it: {}.", listed(&table.names)));
    }
    let is_another = |table: &&Table| first.as_ref().is_none_or(|first| first.names != table.names);
    if let Some(table) = second.as_ref().filter(is_another) {
        told.push(format!("A second partition table at its end says: {}.", listed(&table.names)));
    }
    let old = table::mbr(head);
    if !old.is_empty() {
        told.push(format!("A table of the old kind (MBR) says: {}.", old.join(", ")));
    }
    let marks = marks(head, tail);
    if !marks.is_empty() {
        told.push(format!("There are marks of {}.", marks.join(", ")));
    }
    if told.is_empty() {
        let is_empty = |bytes: &[u8]| bytes.iter().all(|byte| *byte == 0);
        told.push(
            match (is_empty(head) && is_empty(tail), is_empty(between)) {
                (true, true) => "It looks empty.",
                (true, false) => "Its beginning and its end are empty, and there is something between.",
                (false, _) => "There is something on it that is not known here.",
            }
            .to_owned(),
        );
    }
    let is_box = |table: &Table| {
        table.names.iter().any(|name| name.starts_with("hearth_"))
            && table.names.iter().any(|name| name == "data")
    };
    if first.iter().chain(&second).any(is_box) {
        return format!(
            "{}\nIT IS THE DISK OF A HEARTH BOX. Its key shares, and the record of what they have signed, are lost for ever.",
            told.join(" ")
        );
    }
    told.join(" ")
}

fn listed(names: &[String]) -> String {
    let shown: Vec<&str> =
        names.iter().take(SHOWN).map(|name| if name.is_empty() { "?" } else { name.as_str() }).collect();
    match shown.as_slice() {
        [] => "no partitions".to_owned(),
        shown => format!("{}{}", shown.join(", "), if names.len() > SHOWN { " and more" } else { "" }),
    }
}

/// What lies on the disk itself and not in a partition.
fn marks(head: &[u8], tail: &[u8]) -> Vec<&'static str> {
    let at = |bytes: &[u8], place: usize, mark: &[u8]| {
        bytes.get(place..).is_some_and(|rest| rest.starts_with(mark))
    };
    let mut found: Vec<&str> =
        MARKS.iter().filter(|(place, mark, _)| at(head, *place, mark)).map(|(_, _, name)| *name).collect();
    // As many bytes before the end of the disk.
    let before_end = |distance: usize, mark: &[u8]| {
        tail.len().checked_sub(distance).is_some_and(|place| at(tail, place, mark))
    };
    // Versions 1.0 (the last whole 4 kB before the last 8 kB) and 0.90 (the last whole 64 kB before the last 64 kB).
    let raid = (16..24).chain(128..256).any(|sectors| before_end(sectors * SECTOR, &RAID));
    let zfs =
        |bytes: &[u8]| bytes.chunks(SECTOR).any(|sector| ZFS.iter().any(|mark| sector.starts_with(mark)));
    for (is_there, name) in [
        (raid, "a Linux RAID"),
        (before_end(2 * SECTOR, b"Intel Raid ISM Cfg Sig."), "a RAID of the firmware (Intel)"),
        (before_end(SECTOR, &[0xde, 0x11, 0xde, 0x11]), "a RAID of a controller (DDF)"),
        (zfs(head.get(128 << 10..).unwrap_or_default()) || zfs(tail), "ZFS"),
    ] {
        if is_there {
            found.push(name);
        }
    }
    found.sort_unstable();
    found.dedup();
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::made_up::{named, second_table};

    /// What is told of a disk of zeros with these bytes at places of its beginning and, counted backwards, of its end.
    fn told(head: &[(usize, &[u8])], tail: &[(usize, &[u8])]) -> String {
        let (mut first, mut last) = (vec![0; HEAD], vec![0; TAIL]);
        for (at, bytes) in head {
            first[*at..at + bytes.len()].copy_from_slice(bytes);
        }
        for (before_end, bytes) in tail {
            last[TAIL - before_end..][..bytes.len()].copy_from_slice(bytes);
        }
        contents(&first, &last, &[0; 64])
    }

    #[test]
    fn what_is_on_a_disk_is_told() {
        let alone = |head: &[u8]| contents(head, &[], &[]);
        assert_eq!(alone(&[0; table::HEAD]), "It looks empty.");
        assert_eq!(alone(&[7; table::HEAD]), "There is something on it that is not known here.");
        assert_eq!(alone(&named(&["EFI", "Win\u{7}dows", ""])), "On it: EFI, Windows, ?.");
        assert_eq!(alone(&named(&["x"; 20])), format!("On it: {} and more.", ["x"; 12].join(", ")));
        assert_eq!(alone(&named(&[])), "On it: no partitions.");
        assert!(alone(&named(&["esp", "hearth_1", "data"])).contains("A HEARTH BOX"));
        assert!(!alone(&named(&["esp", "hearth_1"])).contains("A HEARTH BOX"), "never started");
    }

    #[test]
    fn a_disk_that_only_lost_its_first_table_does_not_look_empty() {
        let box_s = second_table(&["esp", "hearth_1", "data"]);
        let said = contents(&[0; HEAD], &box_s, &[]);
        assert!(
            said.contains("at its end says: esp, hearth_1, data.") && said.contains("A HEARTH BOX"),
            "{said}"
        );
        // The same table twice is one; another one is told about.
        let first = named(&["esp", "data"]);
        assert_eq!(contents(&first, &second_table(&["esp", "data"]), &[]), "On it: esp, data.");
        let said = contents(&first, &second_table(&["tank"]), &[]);
        assert_eq!(said, "On it: esp, data. A second partition table at its end says: tank.");
        assert!(contents(&named(&["x"]), &box_s, &[]).contains("A HEARTH BOX"));
        // A partition table of the old kind, with one empty place.
        let entry = |kind: u8| [0, 0, 0, 0, kind, 0, 0, 0, 0, 8, 0, 0, 0, 0, 1, 0];
        let mbr = [&entry(0x83)[..], &entry(7), &[0; 16], &entry(0x55)].concat();
        assert_eq!(
            told(&[(446, &mbr), (510, &[0x55, 0xaa])], &[]),
            "A table of the old kind (MBR) says: Linux, Windows, type 55."
        );
        // What only says that the real table is the new one is no table; and code is none.
        let protecting = entry(0xee);
        assert!(!told(&[(446, &protecting), (510, &[0x55, 0xaa])], &[]).contains("MBR"));
        assert!(!told(&[(446, &[0x90; 64]), (510, &[0x55, 0xaa])], &[]).contains("MBR"));
        // What has neither table nor mark, but was not emptied.
        let between = contents(&[0; HEAD], &[0; TAIL], &[0, 1]);
        assert!(between.contains("something between"), "{between}");
    }

    #[test]
    fn what_begins_on_the_disk_itself_is_named() {
        for (at, mark, name) in MARKS {
            let said = told(&[(at, mark)], &[]);
            assert_eq!(said, format!("There are marks of {name}."), "{at}");
        }
        for (before_end, mark, name) in [
            (16 * SECTOR, &RAID[..], "a Linux RAID"),
            (23 * SECTOR, &RAID, "a Linux RAID"),
            (128 * SECTOR, &RAID, "a Linux RAID"),
            (255 * SECTOR, &RAID, "a Linux RAID"),
            (2 * SECTOR, b"Intel Raid ISM Cfg Sig. 1.0", "a RAID of the firmware (Intel)"),
            (SECTOR, &[0xde, 0x11, 0xde, 0x11], "a RAID of a controller (DDF)"),
            (384 << 10, &ZFS[0], "ZFS"),
            (384 << 10, &ZFS[1], "ZFS"),
        ] {
            assert_eq!(
                told(&[], &[(before_end, mark)]),
                format!("There are marks of {name}."),
                "{before_end}"
            );
        }
        assert_eq!(told(&[(131 << 10, &ZFS[0])], &[]), "There are marks of ZFS.");
        let lvm_on_raid = told(&[(SECTOR + 24, b"LVM2 001")], &[(16 * SECTOR, &RAID)]);
        assert_eq!(lvm_on_raid, "There are marks of LVM, a Linux RAID.");
        // A disk of a few sectors.
        assert_eq!(contents(&[1; 40], &[1; 40], &[]), "There is something on it that is not known here.");
    }
}
