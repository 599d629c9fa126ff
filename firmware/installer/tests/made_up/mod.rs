//! Disks and machines that tests make up: the beginning of an image, and what the kernel says of disks.
#![allow(dead_code, unreachable_pub, reason = "each test that includes this uses a part of it")]

use std::fs;
use std::ops::Range;
use std::path::Path;

/// Where the clusters of [`boot_partition`] begin: after the first sector and the table of clusters.
pub const CLUSTERS_AT: usize = 2 * 512;
const BOOT: [u8; 16] =
    [0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11, 0xba, 0x4b, 0x00, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b];

/// An entry of a folder, which is one itself.
pub fn folder(name: &[u8; 11], first: u16) -> [u8; 32] {
    let mut entry = [0; 32];
    entry[..11].copy_from_slice(name);
    entry[11] = 0x10;
    entry[26..28].copy_from_slice(&first.to_le_bytes());
    entry
}

/// A boot partition (FAT32) with the folders `EFI`, which is empty, and `LOADER`, which has these entries. The first sector, one of the
/// table of clusters, then clusters of a sector each: the first folder, `EFI`, `LOADER`. Folders that begin nowhere are shown as `EFI` is.
pub fn boot_partition(entries: &[[u8; 32]]) -> Vec<u8> {
    let clusters = entries.len().div_ceil(16).max(1) + 2;
    let mut bytes = vec![0; CLUSTERS_AT + 512 * (clusters + 1)];
    bytes[11..13].copy_from_slice(&512_u16.to_le_bytes());
    bytes[13] = 1;
    bytes[14..16].copy_from_slice(&1_u16.to_le_bytes());
    bytes[16] = 1;
    bytes[36..40].copy_from_slice(&1_u32.to_le_bytes());
    bytes[44..48].copy_from_slice(&2_u32.to_le_bytes());
    bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
    for cluster in 2..u32::try_from(clusters).unwrap() + 2 {
        // Only the last folder is longer than a cluster.
        let is_last = cluster < 4 || usize::try_from(cluster).unwrap() == clusters + 1;
        let next = if is_last { 0x0fff_ffff } else { cluster + 1 };
        let at = 512 + 4 * usize::try_from(cluster).unwrap();
        bytes[at..at + 4].copy_from_slice(&next.to_le_bytes());
    }
    let mut put = |at: usize, entry: &[u8; 32]| {
        bytes[CLUSTERS_AT + at..][..32].copy_from_slice(entry);
    };
    put(0, &folder(b"EFI        ", 3));
    put(32, &folder(b"LOADER     ", 4));
    for (place, entry) in entries.iter().enumerate() {
        let mut entry = *entry;
        if entry[26..28] == [0, 0] {
            entry[26] = 3;
        }
        put(1024 + 32 * place, &entry);
    }
    bytes
}

/// Where the byte of the first entry's name is that makes a stick, in [`boot_partition`].
pub const SWITCH_AT: u64 = 2 * 512 + 1024 + 5;

/// The beginning of a disk of so many bytes with these partitions, of which the first is the boot partition.
pub fn head(partitions: &[Range<u64>], bytes: u64) -> Vec<u8> {
    let mut head = vec![0; 34 * 512];
    let mut put = |at: usize, bytes: &[u8]| head[at..at + bytes.len()].copy_from_slice(bytes);
    put(512, b"EFI PART");
    put(512 + 32, &(bytes / 512 - 1).to_le_bytes());
    put(512 + 72, &2_u64.to_le_bytes());
    put(512 + 80, &128_u32.to_le_bytes());
    put(512 + 84, &128_u32.to_le_bytes());
    for (index, range) in partitions.iter().enumerate() {
        let entry = 1024 + 128 * index;
        put(entry, if index == 0 { &BOOT } else { &[7; 16] });
        put(entry + 32, &(range.start / 512).to_le_bytes());
        put(entry + 40, &(range.end / 512 - 1).to_le_bytes());
    }
    put(512 + 12, &92_u32.to_le_bytes());
    put(512 + 24, &1_u64.to_le_bytes());
    count(&mut head);
    head
}

/// Writes the checksums of a table anew.
pub fn count(head: &mut [u8]) {
    let (header, entries) = head[512..].split_at_mut(512);
    count_parts(header, &entries[..128 * 128]);
}

fn count_parts(header: &mut [u8], entries: &[u8]) {
    header[88..92].copy_from_slice(&crc32(entries).to_le_bytes());
    header[16..20].fill(0);
    let sum = crc32(&header[..92]);
    header[16..20].copy_from_slice(&sum.to_le_bytes());
}

/// The checksum of partition tables (UEFI 2.10, section 5.3.2), written apart from the one that is tested.
fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 };
        }
    }
    !crc
}

/// The beginning of a disk of eight megabytes with partitions of these names.
pub fn named(names: &[&str]) -> Vec<u8> {
    let mut head = head(&vec![1 << 20..2 << 20; names.len()], 8 << 20);
    for (index, name) in names.iter().enumerate() {
        for (place, unit) in name.encode_utf16().enumerate() {
            head[1024 + 128 * index + 56 + 2 * place..][..2].copy_from_slice(&unit.to_le_bytes());
        }
    }
    count(&mut head);
    head
}

/// The copy of [`named`]'s table, as it lies at the end of the disk: the entries, then the head.
pub fn second_table(names: &[&str]) -> Vec<u8> {
    let first = named(names);
    let (last, mut header) = ((8_u64 << 11) - 1, first[512..1024].to_vec());
    header[24..32].copy_from_slice(&last.to_le_bytes());
    header[32..40].copy_from_slice(&1_u64.to_le_bytes());
    header[72..80].copy_from_slice(&(last - 32).to_le_bytes());
    count_parts(&mut header, &first[1024..]);
    [&first[1024..], &header].concat()
}

/// An image of seven megabytes with so many partitions that installs nothing. Its boot partition begins after the first megabyte.
pub fn image(partitions: u64) -> Vec<u8> {
    const MB: u64 = 1 << 20;
    let boot = std::iter::once(MB..4 * MB);
    let ranges: Vec<_> = boot.chain((1..partitions).map(|at| (3 + at) * MB..(4 + at) * MB)).collect();
    let mut image = head(&ranges, 7 * MB);
    image.resize(7 << 20, 5);
    let boot = boot_partition(&[folder(b"ADDON_     ", 0), folder(b"ADDONT     ", 0)]);
    image[1 << 20..][..boot.len()].copy_from_slice(&boot);
    image
}

/// A disk in a folder like /sys/block, with partitions of these names; one without a name is `""`.
pub fn list(system: &Path, disk: &str, names: &[&str]) {
    let folder = system.join(disk);
    fs::create_dir_all(folder.join("device")).unwrap();
    fs::write(folder.join("size"), "16777216\n").unwrap();
    for (number, name) in (1..).zip(names) {
        let part = folder.join(format!("{disk}p{number}"));
        fs::create_dir_all(&part).unwrap();
        fs::write(part.join("partition"), format!("{number}\n")).unwrap();
        // As [`named`] has them.
        fs::write(part.join("start"), "2048\n").unwrap();
        fs::write(part.join("size"), "2048\n").unwrap();
        let said = if name.is_empty() { String::new() } else { format!("PARTNAME={name}\n") };
        let uevent = format!("DEVNAME={disk}p{number}\nDEVTYPE=partition\nPARTN={number}\n{said}");
        fs::write(part.join("uevent"), uevent).unwrap();
    }
}
