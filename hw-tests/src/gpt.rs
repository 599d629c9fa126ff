//! Reads a disk's partition table (UEFI 2.10, section 5.3) as firmware and kernel would after a power cut: the first copy
//! if it is whole, else the second.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::Path;

const SECTOR: u64 = 512;
/// Tables written by systemd-repart and mkosi have 128 entries of 128 bytes; anything larger is not ours.
const MOST_BYTES: usize = 128 * 128;

/// One partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// Its name.
    pub label: String,
    /// Where it begins, in bytes.
    pub start: u64,
    /// How long it is, in bytes.
    pub bytes: u64,
}

/// Which copies of the table are whole, and what the one in force says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// The copy at the disk's beginning is whole.
    pub first: bool,
    /// The copy at its end is whole.
    pub second: bool,
    /// The partitions.
    pub partitions: Vec<Partition>,
}

/// Reads the table of a disk; `None` when neither copy is whole.
///
/// # Errors
/// When the disk cannot be read.
pub fn read(disk: &Path) -> io::Result<Option<Table>> {
    let mut file = File::open(disk)?;
    let sectors = file.metadata()?.len() / SECTOR;
    let first = copy(&mut file, 1)?;
    let second = copy(&mut file, sectors.saturating_sub(1))?;
    let (has_first, has_second) = (first.is_some(), second.is_some());
    Ok(first.or(second).map(|partitions| Table { first: has_first, second: has_second, partitions }))
}

fn copy(file: &mut File, at: u64) -> io::Result<Option<Vec<Partition>>> {
    let Some(header) = bytes(file, at, 92)? else { return Ok(None) };
    let Some(layout) = parse_header(&header, at) else { return Ok(None) };
    let Some(entries) = bytes(file, layout.entries_at, layout.count * layout.size)? else { return Ok(None) };
    Ok((crc32(&entries) == layout.entries_crc).then(|| parse_entries(&entries, layout.size)))
}

fn bytes(file: &mut File, sector: u64, count: usize) -> io::Result<Option<Vec<u8>>> {
    let Some(offset) = sector.checked_mul(SECTOR) else { return Ok(None) };
    let mut bytes = vec![0; count];
    file.seek(SeekFrom::Start(offset))?;
    match file.read_exact(&mut bytes) {
        Ok(()) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
    }
}

struct Layout {
    entries_at: u64,
    count: usize,
    size: usize,
    entries_crc: u32,
}

/// What a header says, if it is whole and says it is where it was found.
fn parse_header(header: &[u8], at: u64) -> Option<Layout> {
    let sized = u32_at(header, 12)?;
    let mut zeroed = header.get(..92)?.to_vec();
    zeroed.get_mut(16..20)?.fill(0);
    let whole = header.get(..8)? == b"EFI PART" && sized == 92 && crc32(&zeroed) == u32_at(header, 16)?;
    if !whole || u64_at(header, 24)? != at {
        return None;
    }
    let count = usize::try_from(u32_at(header, 80)?).ok()?;
    let size = usize::try_from(u32_at(header, 84)?).ok()?;
    let fits = size >= 128 && count.checked_mul(size)? <= MOST_BYTES;
    fits.then_some(Layout { entries_at: u64_at(header, 72)?, count, size, entries_crc: u32_at(header, 88)? })
}

fn parse_entries(entries: &[u8], size: usize) -> Vec<Partition> {
    entries.chunks_exact(size).filter_map(parse_entry).collect()
}

fn parse_entry(entry: &[u8]) -> Option<Partition> {
    if entry.get(..16)?.iter().all(|byte| *byte == 0) {
        return None;
    }
    let (first, last) = (u64_at(entry, 32)?, u64_at(entry, 40)?);
    let units: Vec<u16> = entry
        .get(56..128)?
        .chunks_exact(2)
        .map(|pair| u16::from_le_bytes([pair[0], pair[1]]))
        .take_while(|unit| *unit != 0)
        .collect();
    Some(Partition {
        label: String::from_utf16_lossy(&units),
        start: first.checked_mul(SECTOR)?,
        bytes: last.checked_sub(first)?.checked_add(1)?.checked_mul(SECTOR)?,
    })
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

/// The CRC-32 of IEEE 802.3, bit by bit: sixteen kilobytes at most.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ if crc & 1 == 1 { 0xedb8_8320 } else { 0 })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECTORS: u64 = 200;

    /// A disk with one table at each end, made by hand after the specification.
    fn disk(labels: &[&str]) -> Vec<u8> {
        let mut entries = vec![0; 128 * 128];
        for (index, label) in labels.iter().enumerate() {
            let entry = &mut entries[index * 128..][..128];
            entry[..16].fill(7);
            entry[32..40].copy_from_slice(&(40 + index as u64).to_le_bytes());
            entry[40..48].copy_from_slice(&(40 + index as u64).to_le_bytes());
            for (at, unit) in label.encode_utf16().enumerate() {
                entry[56 + at * 2..][..2].copy_from_slice(&unit.to_le_bytes());
            }
        }
        let mut disk = vec![0; usize::try_from(SECTORS * SECTOR).unwrap()];
        for (at, entries_at) in [(1, 2), (SECTORS - 1, SECTORS - 33)] {
            let mut header = vec![0; 92];
            header[..8].copy_from_slice(b"EFI PART");
            header[12..16].copy_from_slice(&92_u32.to_le_bytes());
            header[24..32].copy_from_slice(&at.to_le_bytes());
            header[72..80].copy_from_slice(&entries_at.to_le_bytes());
            header[80..84].copy_from_slice(&128_u32.to_le_bytes());
            header[84..88].copy_from_slice(&128_u32.to_le_bytes());
            header[88..92].copy_from_slice(&crc32(&entries).to_le_bytes());
            let crc = crc32(&header);
            header[16..20].copy_from_slice(&crc.to_le_bytes());
            let place = |sector: u64| usize::try_from(sector * SECTOR).unwrap();
            disk[place(at)..][..92].copy_from_slice(&header);
            disk[place(entries_at)..][..entries.len()].copy_from_slice(&entries);
        }
        disk
    }

    fn read_bytes(bytes: &[u8]) -> Option<Table> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        std::fs::write(&path, bytes).unwrap();
        read(&path).unwrap()
    }

    #[test]
    fn the_checksum_is_the_usual_one() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn either_copy_is_enough() {
        let whole = disk(&["esp", "data"]);
        let table = read_bytes(&whole).unwrap();
        assert!(table.first && table.second);
        let labels: Vec<&str> = table.partitions.iter().map(|partition| partition.label.as_str()).collect();
        assert_eq!(labels, ["esp", "data"]);
        assert_eq!((table.partitions[1].start, table.partitions[1].bytes), (41 * 512, 512));

        let mut torn = whole.clone();
        torn[2 * 512 + 60] ^= 1;
        let table = read_bytes(&torn).unwrap();
        assert!(!table.first && table.second && table.partitions.len() == 2);
        let end = torn.len();
        torn[end - 512 + 30] ^= 1;
        assert_eq!(read_bytes(&torn), None);
    }

    #[test]
    fn no_byte_of_a_header_is_believed_without_its_checksum() {
        let whole = disk(&["esp"]);
        for at in 512..512 + 92 {
            let mut torn = whole.clone();
            torn[at] ^= 0x80;
            assert!(!read_bytes(&torn).unwrap().first, "byte {at}");
        }
        assert_eq!(read_bytes(&[]), None);
        assert_eq!(read_bytes(&whole[..600]), None);
    }
}
