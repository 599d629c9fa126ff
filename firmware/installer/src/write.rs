//! Writing, and reading back.

use std::fs::File;
use std::io::{Read, Seek as _, SeekFrom, Write as _};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use sha2::{Digest as _, Sha256};

use crate::disk::Disk;

/// How often a person hears how far it is.
const TOLD_EVERY: Duration = Duration::from_secs(2);
const CHUNK: usize = 4 << 20;

/// What the first start makes of a disk: boot partition, two systems with their hashes, and the least of `/var`.
pub const LEAST_BYTES: u64 = (512 + 2 * (1024 + 16) + 256 + 8) * 1024 * 1024;

/// What a disk must hold once it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sums {
    /// SHA-256 of the image.
    pub raw: [u8; 32],
    /// How many bytes that are.
    pub raw_bytes: u64,
}

/// Writes an image to the disk, empties the kernel's cache, reads everything back and compares.
///
/// The first megabyte, which holds the partition table, is written last: a disk that was pulled out in the middle shows no
/// system that could be taken for a whole one.
///
/// # Errors
/// With the reason, for a person; the disk then has no partition table, or holds other bytes than it was given.
pub fn image(
    from: impl Read,
    disk: &mut Disk,
    sums: &Sums,
    told: &mut dyn FnMut(&str, u64, u64),
) -> anyhow::Result<()> {
    let bytes = disk.bytes();
    large_enough(bytes, sums)?;
    let device = disk.file();
    clear_end(device, bytes, sums.raw_bytes)?;
    device.rewind()?;
    copy(from, device, sums, told)?;
    let synced = device.sync_all().context("the disk did not take everything");
    let same = synced
        .and_then(|()| forget(device))
        .and_then(|()| read_back(device, sums, told))
        .and_then(|()| end_is_clear(device, bytes, sums.raw_bytes));
    if same.is_err() {
        // Nothing starts from a disk that gives back other bytes. That it may not take this either changes nothing.
        let _ = clear_head(device);
    }
    same
}

/// No system begins here any more, before anything else is written.
fn clear_head(disk: &mut File) -> anyhow::Result<()> {
    disk.rewind()?;
    disk.write_all(&vec![0; HEAD]).context("writing")?;
    disk.sync_data().context("the disk did not take everything")
}

/// Whether an image fits a disk, with all that its first start makes of it.
///
/// # Errors
/// When it does not.
pub fn large_enough(disk_bytes: u64, sums: &Sums) -> anyhow::Result<()> {
    ensure!(
        sums.raw_bytes <= disk_bytes,
        "the disk has {disk_bytes} bytes, the image needs {}: take a larger disk",
        sums.raw_bytes
    );
    ensure!(
        disk_bytes >= LEAST_BYTES,
        "the disk has {} MB; the system alone needs {} MB once it runs: take a larger disk",
        disk_bytes / 1_000_000,
        LEAST_BYTES / 1_000_000
    );
    Ok(())
}

/// Empties the kernel's cache of a device: what it still remembers would answer for the disk.
///
/// # Errors
/// When the kernel does not.
pub fn forget(device: &File) -> anyhow::Result<()> {
    nix::fcntl::posix_fadvise(device, 0, 0, nix::fcntl::PosixFadviseAdvice::POSIX_FADV_DONTNEED)
        .context("cannot empty the kernel's cache of the disk")
}

/// Where the end of the disk begins that is emptied: its last megabyte, as far as the image does not reach into it.
///
/// Another system's second partition table lies there. Firmware, and the first start, would take it for this disk's own.
fn end(disk_bytes: u64, image_bytes: u64) -> std::ops::Range<u64> {
    disk_bytes.saturating_sub(END).max(image_bytes)..disk_bytes
}

const END: u64 = 1 << 20;

fn clear_end(disk: &mut File, disk_bytes: u64, image_bytes: u64) -> anyhow::Result<()> {
    let end = end(disk_bytes, image_bytes);
    disk.seek(SeekFrom::Start(end.start))?;
    let zeros = vec![0; usize::try_from(end.end.saturating_sub(end.start))?];
    disk.write_all(&zeros).context("writing the end of the disk: does it claim to be larger than it is?")
}

fn end_is_clear(disk: &mut File, disk_bytes: u64, image_bytes: u64) -> anyhow::Result<()> {
    let end = end(disk_bytes, image_bytes);
    disk.seek(SeekFrom::Start(end.start))?;
    let mut bytes = Vec::new();
    (&*disk).take(END).read_to_end(&mut bytes).context("reading the end of the disk back")?;
    ensure!(
        u64::try_from(bytes.len())? == end.end.saturating_sub(end.start)
            && bytes.iter().all(|byte| *byte == 0),
        "the end of the disk gives back other bytes than were written: it is damaged or a fake; do not use it"
    );
    Ok(())
}

fn copy(
    mut from: impl Read,
    to: &mut File,
    sums: &Sums,
    told: &mut dyn FnMut(&str, u64, u64),
) -> anyhow::Result<()> {
    let mut hash = Sha256::new();
    let mut head = Vec::new();
    let mut done = 0_u64;
    let mut last = Instant::now();
    let mut chunk = Vec::with_capacity(CHUNK);
    clear_head(to)?;
    loop {
        chunk.clear();
        from.by_ref().take(u64::try_from(CHUNK)?).read_to_end(&mut chunk).context("reading the image")?;
        if chunk.is_empty() {
            break;
        }
        done += u64::try_from(chunk.len())?;
        ensure!(done <= sums.raw_bytes, "the image is longer than it says");
        hash.update(&chunk);
        if head.is_empty() {
            ensure!(chunk.len() >= HEAD, "the image is too short");
            head.extend_from_slice(&chunk[..HEAD]);
            to.write_all(&chunk[HEAD..]).context("writing")?;
        } else {
            to.write_all(&chunk).context("writing")?;
        }
        if last.elapsed() > TOLD_EVERY {
            last = Instant::now();
            told("written", done, sums.raw_bytes);
            to.sync_data().context("the disk did not take everything")?;
        }
    }
    ensure!(done == sums.raw_bytes, "the image is shorter than it says");
    let found: [u8; 32] = hash.finalize().into();
    ensure!(
        found == sums.raw,
        "the unpacked image is not what the signed list says; the disk was left without a partition table"
    );
    to.sync_all().context("the disk did not take everything")?;
    to.seek(SeekFrom::Start(0))?;
    to.write_all(&head).context("writing")
}

const HEAD: usize = 1 << 20;

fn read_back(disk: &mut File, sums: &Sums, told: &mut dyn FnMut(&str, u64, u64)) -> anyhow::Result<()> {
    disk.seek(SeekFrom::Start(0))?;
    let mut hash = Sha256::new();
    let mut done = 0_u64;
    let mut last = Instant::now();
    let mut chunk = Vec::with_capacity(CHUNK);
    while done < sums.raw_bytes {
        chunk.clear();
        let wanted = (sums.raw_bytes - done).min(u64::try_from(CHUNK)?);
        (&*disk).take(wanted).read_to_end(&mut chunk).context("reading the disk back")?;
        ensure!(!chunk.is_empty(), "the disk ends before the image does: it claims to be larger than it is");
        done += u64::try_from(chunk.len())?;
        hash.update(&chunk);
        if last.elapsed() > TOLD_EVERY {
            last = Instant::now();
            told("read back", done, sums.raw_bytes);
        }
    }
    let found: [u8; 32] = hash.finalize().into();
    ensure!(
        found == sums.raw,
        "the disk gives back other bytes than were written: it is damaged or a fake; do not use it"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sums(bytes: &[u8]) -> Sums {
        Sums { raw: Sha256::digest(bytes).into(), raw_bytes: bytes.len().try_into().unwrap() }
    }

    fn image_bytes() -> Vec<u8> {
        (0..HEAD * 3 + 7).map(|i| u8::try_from(i % 251).unwrap() | 1).collect()
    }

    #[test]
    fn what_was_written_is_what_is_read_back() {
        let bytes = image_bytes();
        let mut file = tempfile::tempfile().unwrap();
        copy(bytes.as_slice(), &mut file, &sums(&bytes), &mut |_, _, _| {}).unwrap();
        read_back(&mut file, &sums(&bytes), &mut |_, _, _| {}).unwrap();
        // One bit turns over on the disk.
        file.seek(SeekFrom::Start(2_000_000)).unwrap();
        file.write_all(&[0]).unwrap();
        let error = read_back(&mut file, &sums(&bytes), &mut |_, _, _| {}).unwrap_err();
        assert!(error.to_string().contains("gives back other bytes"));
        clear_head(&mut file).unwrap();
        file.rewind().unwrap();
        let mut head = vec![1; HEAD];
        file.read_exact(&mut head).unwrap();
        assert!(head.iter().all(|byte| *byte == 0), "nothing starts from it any more");
        // A disk that ends early.
        file.set_len(1_500_000).unwrap();
        let error = read_back(&mut file, &sums(&bytes), &mut |_, _, _| {}).unwrap_err();
        assert!(error.to_string().contains("larger than it is"));
    }

    #[test]
    fn the_end_of_the_disk_is_emptied_and_never_the_image() {
        assert_eq!(end(10 << 20, 4 << 20), 9 << 20..10 << 20);
        assert_eq!(end(10 << 20, (10 << 20) - 512), (10 << 20) - 512..10 << 20);
        assert!(end(1000, 1000).is_empty());
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&vec![7; 4 << 20]).unwrap();
        assert!(end_is_clear(&mut file, 4 << 20, 0).is_err());
        clear_end(&mut file, 4 << 20, 0).unwrap();
        end_is_clear(&mut file, 4 << 20, 0).unwrap();
        let mut bytes = Vec::new();
        file.rewind().unwrap();
        file.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes.iter().filter(|byte| **byte == 7).count(), 3 << 20);
        assert_eq!(bytes.len(), 4 << 20);
    }

    #[test]
    fn a_wrong_image_leaves_no_partition_table() {
        let bytes = image_bytes();
        for wrong in [
            &bytes[..bytes.len() - 1],
            &[bytes.as_slice(), b"x"].concat(),
            &[&bytes[..9], b"x", &bytes[10..]].concat(),
        ] {
            let mut file = tempfile::tempfile().unwrap();
            copy(wrong, &mut file, &sums(&bytes), &mut |_, _, _| {}).unwrap_err();
            let mut head = vec![1; HEAD];
            file.seek(SeekFrom::Start(0)).unwrap();
            file.read_exact(&mut head).unwrap();
            assert!(head.iter().all(|byte| *byte == 0));
        }
    }
}
