//! What the beginning of a disk says is on it: its partition table (UEFI 2.10, section 5.3).

use std::ops::Range;

const SECTOR: u64 = 512;
/// The first bytes of a disk that say so: both sectors of the table's head and all its entries.
pub const HEAD: usize = 1024 + ENTRIES;
const ENTRIES: usize = 128 * 128;
/// C12A7328-F81F-11D2-BA4B-00A0C93EC93B, as it is written there.
const BOOT: [u8; 16] =
    [0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11, 0xba, 0x4b, 0x00, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b];

/// A table of the usual size: 128 entries of 128 bytes, from the third sector on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// How large the disk was for which it was made, in bytes.
    pub bytes: u64,
    /// Where the first partition of the boot partitions' kind is.
    pub boot: Option<Range<u64>>,
    /// The partitions' names, made printable.
    pub names: Vec<String>,
    /// Where they are, in the order of their names.
    pub places: Vec<Place>,
    /// Both checksums are right, and the head is where it says: nobody should act on a table that is not whole, as the kernel does not.
    pub whole: bool,
}

/// Where a partition is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Its number, from one on: that of its entry.
    pub number: u32,
    /// In bytes; `None` for an entry that begins after its end or ends after the disk.
    pub bytes: Option<Range<u64>>,
}

impl Table {
    /// The partitions of exactly this name.
    pub fn named(&self, name: &str) -> impl Iterator<Item = &Place> {
        self.names.iter().zip(&self.places).filter(move |(found, _)| *found == name).map(|(_, place)| place)
    }
}

/// Reads a table from a disk's first [`HEAD`] bytes. Nothing is trusted that the bytes say; a damaged one is read too, for whoever asks a
/// person what is on a disk ([`Table::whole`]).
pub fn read(head: &[u8]) -> Option<Table> {
    let header = head.get(512..1024)?;
    // The table's copy is in the last sector.
    let last = number(header, 32)?;
    if number(header, 72)? != 2 {
        return None;
    }
    let mut table = parse(header, head.get(1024..HEAD)?, last)?;
    table.whole &= number(header, 24) == Some(1);
    Some(table)
}

/// [`read`], but nothing of a table that is damaged.
pub fn read_whole(head: &[u8]) -> Option<Table> {
    read(head).filter(|table| table.whole)
}

/// Reads the copy from a disk's last bytes: its entries come before its head.
pub fn read_second(tail: &[u8]) -> Option<Table> {
    let header_at = tail.len().checked_sub(512)?;
    let entries_at = header_at.checked_sub(ENTRIES)?;
    let header = tail.get(header_at..)?;
    let last = number(header, 24)?;
    if number(header, 72)? != last.checked_sub(32)? {
        return None;
    }
    parse(header, tail.get(entries_at..header_at)?, last)
}

/// A head and its entries, on a disk that ends with this sector.
fn parse(header: &[u8], entries: &[u8], last: u64) -> Option<Table> {
    if !header.starts_with(b"EFI PART") || number(header, 80)? != (128 << 32) | 128 {
        return None;
    }
    let bytes = last.checked_add(1)?.checked_mul(SECTOR)?;
    let numbered = (1..).zip(entries.chunks_exact(128));
    let used: Vec<(u32, &[u8])> = numbered.filter(|(_, entry)| entry[..16] != [0; 16]).collect();
    let boot = used.iter().find(|(_, entry)| entry.starts_with(&BOOT)).and_then(|(_, entry)| range(entry));
    let names = used.iter().map(|(_, entry)| name(&entry[56..])).collect();
    let place = |(number, entry): &(u32, &[u8])| Place {
        number: *number,
        bytes: range(entry).filter(|range| range.end <= bytes),
    };
    let whole = is_whole(header, entries).unwrap_or(false);
    Some(Table { bytes, boot, names, places: used.iter().map(place).collect(), whole })
}

/// Whether the checksums of a head, and of its entries in it, are right.
fn is_whole(header: &[u8], entries: &[u8]) -> Option<bool> {
    let [sized, told, told_entries] = [12, 16, 88].map(|at| word(header, at));
    let mut counted = header.get(..usize::try_from(sized?).ok()?)?.to_vec();
    // The head's own checksum is left out, and nothing that is counted above may lie outside of it.
    counted.get_mut(16..20)?.fill(0);
    Some(counted.len() >= 92 && crc32(&counted) == told? && crc32(entries) == told_entries?)
}

/// The checksum of partition tables, CRC-32 of IEEE 802.3. Bit by bit: sixteen kilobytes at most.
pub fn crc32(bytes: &[u8]) -> u32 {
    let bit = |crc: u32, _| (crc >> 1) ^ (0xedb8_8320 * (crc & 1));
    !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), bit))
}

/// From the first to the last sector of an entry, in bytes.
fn range(entry: &[u8]) -> Option<Range<u64>> {
    let (first, last) = (number(entry, 32)?, number(entry, 40)?);
    let range = first.checked_mul(SECTOR)?..last.checked_add(1)?.checked_mul(SECTOR)?;
    (range.start < range.end).then_some(range)
}

/// What a table of the old kind says is on a disk, in words; the entry that only says that there is a new one is left out.
pub fn mbr(head: &[u8]) -> Vec<String> {
    let (Some(entries), Some([0x55, 0xaa])) = (head.get(446..510), head.get(510..512)) else {
        return Vec::new();
    };
    let entries: Vec<&[u8]> = entries.chunks_exact(16).collect();
    // The beginning of a file system ends with the same two bytes and has code here.
    if entries.iter().any(|entry| entry[0] & 0x7f != 0) {
        return Vec::new();
    }
    let has_place = |entry: &&&[u8]| entry[8..12] != [0; 4] && entry[12..16] != [0; 4];
    let kind = |entry: &&[u8]| match entry[4] {
        0x05 | 0x0f | 0x85 => "more inside one (extended)".to_owned(),
        0x07 => "Windows".to_owned(),
        0x01 | 0x04 | 0x06 | 0x0b | 0x0c | 0x0e => "FAT".to_owned(),
        0x82 => "swap".to_owned(),
        0x83 => "Linux".to_owned(),
        0x8e => "LVM".to_owned(),
        0xa5 | 0xa6 | 0xa9 => "BSD".to_owned(),
        0xaf => "HFS+".to_owned(),
        0xef => "a boot partition".to_owned(),
        0xfd => "Linux RAID".to_owned(),
        other => format!("type {other:02x}"),
    };
    entries.iter().filter(|entry| !matches!(entry[4], 0 | 0xee)).filter(has_place).map(kind).collect()
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn number(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

fn name(bytes: &[u8]) -> String {
    let units = bytes.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]]));
    let units = units.take_while(|unit| *unit != 0);
    char::decode_utf16(units)
        .map(|c| c.unwrap_or('?'))
        .filter(|c| c.is_ascii_graphic() || *c == ' ')
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::made_up::{named, second_table};

    #[test]
    fn bytes_that_are_no_table_are_none() {
        assert_eq!(read(&[]), None);
        assert_eq!(read(&vec![0; HEAD]), None);
        let good = named(&["esp"]);
        assert_eq!(read(&good).unwrap().boot, Some(1 << 20..2 << 20));
        assert_eq!(read(&good[..HEAD - 1]), None);
        let with = |at: usize, bytes: &[u8]| {
            let mut odd = good.clone();
            odd[at..at + bytes.len()].copy_from_slice(bytes);
            read(&odd)
        };
        assert_eq!(with(512 + 84, &[129]), None, "entries of another size");
        assert_eq!(with(512 + 32, &[0xff; 8]), None, "a disk without end");
        assert_eq!(with(1024 + 40, &[0xff; 8]).unwrap().boot, None, "a partition without end");
        assert_eq!(with(1024 + 40, &[0; 8]).unwrap().boot, None, "a partition that ends before it begins");
    }

    #[test]
    fn no_byte_of_a_table_is_acted_on_without_its_checksum() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926, "the usual check value");
        let good = named(&["esp", "data"]);
        assert!(read_whole(&good).is_some());
        // The head, and some of the entries: what is used, and what is not.
        for at in (512..512 + 92).chain([1024, 1024 + 40, 1024 + 128 + 56, HEAD - 1]) {
            let mut torn = good.clone();
            torn[at] ^= 1;
            assert_eq!(read_whole(&torn), None, "byte {at}");
        }
        // A damaged name is still told to a person.
        let mut torn = good.clone();
        torn[1024 + 128 + 56] = b'D';
        assert_eq!(read(&torn).unwrap().names, ["esp", "Data"]);
        for sized in [0_u32, 16, 91, 513, u32::MAX] {
            let mut odd = good.clone();
            odd[512 + 12..][..4].copy_from_slice(&sized.to_le_bytes());
            assert_eq!(read_whole(&odd), None, "a head of {sized} bytes");
        }
        assert!(read_second(&second_table(&["esp"])).unwrap().whole);
        // A head that says it is another one's copy, with the right checksum.
        let mut elsewhere = good;
        elsewhere[512 + 24] = 2;
        crate::made_up::count(&mut elsewhere);
        assert!(read(&elsewhere).is_some_and(|table| !table.whole));
    }

    #[test]
    fn a_partition_is_found_by_its_whole_name_with_its_number_and_its_place() {
        let mut head = named(&["esp", "data", "database", "data"]);
        // The second entry is unused, and the last one ends after the disk.
        head[1024 + 128..][..16].fill(0);
        head[1024 + 3 * 128 + 40..][..8].copy_from_slice(&(8_u64 << 11).to_le_bytes());
        let table = read(&head).unwrap();
        let found = |name: &str| table.named(name).cloned().collect::<Vec<_>>();
        let place = |number: u32, bytes: Option<Range<u64>>| Place { number, bytes };
        assert_eq!(found("esp"), [place(1, Some(1 << 20..2 << 20))]);
        assert_eq!(found("database"), [place(3, Some(1 << 20..2 << 20))]);
        assert_eq!(found("data"), [place(4, None)]);
        assert_eq!(found("dat"), []);
        assert_eq!(read(&named(&["data", "esp", "data"])).unwrap().named("data").count(), 2);
    }

    #[test]
    fn the_copy_at_the_end_is_read_as_the_table_is() {
        let good = second_table(&["esp", "data"]);
        let table = read_second(&good).unwrap();
        assert_eq!((table.bytes, table.names), (8 << 20, vec!["esp".to_owned(), "data".to_owned()]));
        assert_eq!(read_second(&[&[9; 700][..], &good].concat()).unwrap().names.len(), 2);
        assert_eq!(read_second(&good[1..]), None, "the entries are cut off");
        assert_eq!(read_second(&good[..good.len() - 1]), None);
        assert_eq!(read_second(&[]), None);
        let mut elsewhere = good;
        let at = elsewhere.len() - 512 + 72;
        elsewhere[at] ^= 1;
        assert_eq!(read_second(&elsewhere), None, "its entries are not here");
    }
}
