//! What the beginning of a disk says is on it: its partition table (UEFI 2.10, section 5.3).

use std::ops::Range;

const SECTOR: u64 = 512;
/// The first bytes of a disk that say so: both sectors of the table's head and all its entries.
pub const HEAD: usize = 34 * 512;
/// C12A7328-F81F-11D2-BA4B-00A0C93EC93B, as it is written there.
const BOOT: [u8; 16] =
    [0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11, 0xba, 0x4b, 0x00, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b];
/// So many names are shown to a person.
const SHOWN: usize = 12;

/// A table of the usual size: 128 entries of 128 bytes, from the third sector on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// How large the disk was for which it was made, in bytes.
    pub bytes: u64,
    /// Where the first partition of the boot partitions' kind is.
    pub boot: Option<Range<u64>>,
    /// The partitions' names, made printable.
    pub names: Vec<String>,
}

/// Reads a table from a disk's first [`HEAD`] bytes. Nothing is trusted that the bytes say.
pub fn read(head: &[u8]) -> Option<Table> {
    let header = head.get(512..1024)?;
    if !header.starts_with(b"EFI PART") {
        return None;
    }
    // The table's copy is in the last sector.
    let last = number(header, 32)?;
    if number(header, 72)? != 2 || number(header, 80)? != (128 << 32) | 128 {
        return None;
    }
    let used: Vec<&[u8]> =
        head.get(1024..HEAD)?.chunks_exact(128).filter(|entry| entry[..16] != [0; 16]).collect();
    let boot = used.iter().find(|entry| entry.starts_with(&BOOT)).and_then(|entry| {
        let (first, last) = (number(entry, 32)?, number(entry, 40)?);
        let range = first.checked_mul(SECTOR)?..last.checked_add(1)?.checked_mul(SECTOR)?;
        (range.start < range.end).then_some(range)
    });
    let names = used.iter().map(|entry| name(&entry[56..])).collect();
    Some(Table { bytes: last.checked_add(1)?.checked_mul(SECTOR)?, boot, names })
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

/// What a person loses with a disk that begins so, as far as it can be told.
pub fn contents(head: &[u8]) -> String {
    let Some(table) = read(head) else {
        return if head.iter().all(|byte| *byte == 0) {
            "It looks empty."
        } else {
            "There is something on it."
        }
        .to_owned();
    };
    let named: Vec<&str> = table.names.iter().map(|name| if name.is_empty() { "?" } else { name }).collect();
    let more = if named.len() > SHOWN { " and more" } else { "" };
    let listed = format!("On it: {}{more}.", named[..named.len().min(SHOWN)].join(", "));
    if named.iter().any(|name| name.starts_with("hearth_")) && named.contains(&"data") {
        return format!(
            "{listed}\nIT IS THE DISK OF A HEARTH BOX. Its key shares, and the record of what they have signed, are lost for ever."
        );
    }
    listed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::made_up::head;

    fn named(names: &[&str]) -> Vec<u8> {
        let mut head = head(&vec![1 << 20..2 << 20; names.len()], 8 << 20);
        for (index, name) in names.iter().enumerate() {
            for (place, unit) in name.encode_utf16().enumerate() {
                head[1024 + 128 * index + 56 + 2 * place..][..2].copy_from_slice(&unit.to_le_bytes());
            }
        }
        head
    }

    #[test]
    fn what_is_on_a_disk_is_told() {
        assert_eq!(contents(&[0; HEAD]), "It looks empty.");
        assert_eq!(contents(&[7; HEAD]), "There is something on it.");
        assert_eq!(contents(&named(&["EFI", "Win\u{7}dows", ""])), "On it: EFI, Windows, ?.");
        assert_eq!(contents(&named(&["x"; 20])), format!("On it: {} and more.", ["x"; 12].join(", ")));
        assert!(contents(&named(&["esp", "hearth_1", "data"])).contains("A HEARTH BOX"));
        assert!(!contents(&named(&["esp", "hearth_1"])).contains("A HEARTH BOX"), "never started");
    }

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
}
