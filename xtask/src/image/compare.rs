//! What differs between two disk images: the partitions, the files in them, and where in a file.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};

/// One partition of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Partition {
    label: String,
    start: u64,
    bytes: u64,
    /// Its own identifier, which verity makes of the root hash.
    id: [u8; 16],
}

/// Sentences about everything that differs. The programs that look into file systems are those of the tools tree.
pub(super) fn differences(left: &Path, right: &Path, tools: &Path) -> anyhow::Result<Vec<String>> {
    let [lefts, rights] = [partitions(left)?, partitions(right)?];
    let mut told = Vec::new();
    if lefts.len() != rights.len() {
        told.push(format!("the partition tables have {} and {} entries", lefts.len(), rights.len()));
    }
    for (l, r) in lefts.iter().zip(&rights) {
        if (&l.label, l.start, l.bytes) != (&r.label, r.start, r.bytes) {
            told.push(format!("partition {} is another one than {}, or elsewhere", l.label, r.label));
            continue;
        }
        if l.id != r.id {
            told.push(format!("partition {}: its identifier differs", l.label));
        }
        let Some(at) = first_difference(left, right, l.start, l.bytes)? else { continue };
        told.push(format!("partition {}: differs from byte {at} on", l.label));
        told.extend(inside(left, right, l, tools)?);
    }
    if told.is_empty() {
        let ends = [fs::metadata(left)?.len(), fs::metadata(right)?.len()];
        let at = first_difference(left, right, 0, ends[0].min(ends[1]))?;
        told.push(format!("outside of all partitions: sizes {ends:?}, first differing byte {at:?}"));
    }
    Ok(told)
}

/// The partition table (UEFI 2.10, section 5.3) of a disk with sectors of 512 bytes.
fn partitions(disk: &Path) -> anyhow::Result<Vec<Partition>> {
    let file = File::open(disk).with_context(|| format!("cannot open {}", disk.display()))?;
    let mut header = [0; 512];
    file.read_exact_at(&mut header, 512)?;
    ensure!(header.starts_with(b"EFI PART"), "{} has no partition table", disk.display());
    let entries = number(&header, 72);
    let (count, size) = (number(&header, 80) & 0xffff_ffff, number(&header, 84) & 0xffff_ffff);
    ensure!(
        count <= 128 && size == 128 && entries < 1 << 32,
        "{} has an odd partition table",
        disk.display()
    );
    let mut found = Vec::new();
    for index in 0..count {
        let mut entry = [0; 128];
        file.read_exact_at(&mut entry, entries * 512 + index * size)?;
        if entry[..16] == [0; 16] {
            continue;
        }
        let (first, last) = (number(&entry, 32), number(&entry, 40));
        ensure!(first <= last && last < 1 << 48, "{} has an odd partition", disk.display());
        let units: Vec<u16> =
            entry[56..].chunks_exact(2).map(|two| u16::from_le_bytes([two[0], two[1]])).collect();
        let mut id = [0; 16];
        id.copy_from_slice(&entry[16..32]);
        found.push(Partition {
            label: String::from_utf16_lossy(&units).trim_end_matches('\0').to_owned(),
            start: first * 512,
            bytes: (last - first + 1) * 512,
            id,
        });
    }
    Ok(found)
}

fn number(bytes: &[u8], at: usize) -> u64 {
    let mut eight = [0; 8];
    eight.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(eight)
}

/// Where two files first differ between two places, counted from the first.
fn first_difference(left: &Path, right: &Path, start: u64, bytes: u64) -> anyhow::Result<Option<u64>> {
    let open = |path: &Path| -> anyhow::Result<_> {
        let mut file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        file.seek(SeekFrom::Start(start))?;
        Ok(file.take(bytes))
    };
    let (mut left, mut right) = (open(left)?, open(right)?);
    let (mut a, mut b) = (Vec::new(), Vec::new());
    let mut at = 0;
    loop {
        a.clear();
        b.clear();
        left.by_ref().take(1 << 20).read_to_end(&mut a)?;
        right.by_ref().take(1 << 20).read_to_end(&mut b)?;
        if a != b {
            let same = a.iter().zip(&b).take_while(|(x, y)| x == y).count();
            return Ok(Some(at + u64::try_from(same)?));
        }
        if a.is_empty() {
            return Ok(None);
        }
        at += u64::try_from(a.len())?;
    }
}

/// Unpacks a partition of both images, when it holds a file system, and compares the files.
fn inside(left: &Path, right: &Path, partition: &Partition, tools: &Path) -> anyhow::Result<Vec<String>> {
    let dir = tempfile::tempdir()?;
    let mut trees = Vec::new();
    for (name, disk) in [("left", left), ("right", right)] {
        let (raw, tree) = (dir.path().join(format!("{name}.raw")), dir.path().join(name));
        let mut from = File::open(disk)?;
        from.seek(SeekFrom::Start(partition.start))?;
        std::io::copy(&mut from.take(partition.bytes), &mut File::create(&raw)?)?;
        fs::create_dir(&tree)?;
        if !unpack(&raw, &tree, tools)? {
            return Ok(Vec::new());
        }
        trees.push(tree);
    }
    let [l, r] = [listing(&trees[0])?, listing(&trees[1])?];
    let mut told = Vec::new();
    for name in l.keys().chain(r.keys().filter(|name| !l.contains_key(*name))) {
        let sentence = match (l.get(name), r.get(name)) {
            (Some(a), Some(b)) if a == b => continue,
            (Some(_), None) => "is only in the first".to_owned(),
            (None, _) => "is only in the second".to_owned(),
            (Some(a), Some(b)) => how(a, b, &trees[0].join(name), &trees[1].join(name))?,
        };
        told.push(format!("  {}: {} {sentence}", partition.label, name.display()));
    }
    Ok(told)
}

/// Unpacks the first partition of an image whose label is wanted.
pub(super) fn unpack_partition(
    disk: &Path,
    wanted: impl Fn(&str) -> bool,
    tree: &Path,
    tools: &Path,
) -> anyhow::Result<()> {
    let found = partitions(disk)?.into_iter().find(|partition| wanted(&partition.label));
    let partition = found.with_context(|| format!("{} lacks a partition", disk.display()))?;
    let dir = tempfile::tempdir()?;
    let raw = dir.path().join("raw");
    let mut from = File::open(disk)?;
    from.seek(SeekFrom::Start(partition.start))?;
    std::io::copy(&mut from.take(partition.bytes), &mut File::create(&raw)?)?;
    ensure!(unpack(&raw, tree, tools)?, "partition {} holds no file system", partition.label);
    Ok(())
}

fn unpack(raw: &Path, tree: &Path, tools: &Path) -> anyhow::Result<bool> {
    let mut start = vec![0; 2048];
    File::open(raw)?.read_exact(&mut start)?;
    let mut command = if start[1024..1028] == [0xe2, 0xe1, 0xf5, 0xe0] {
        let mut command = pinned(tools, "fsck.erofs")?;
        command.arg("--force").arg(format!("--extract={}", tree.display())).arg(raw);
        command
    } else if start[510..512] == [0x55, 0xaa] && start.windows(3).any(|three| three == b"FAT") {
        let mut command = pinned(tools, "mcopy")?;
        command.args(["-s", "-m", "-n", "-i"]).arg(raw).arg("::/").arg(tree);
        command
    } else {
        return Ok(false);
    };
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).status()?;
    ensure!(status.success(), "a partition could not be unpacked");
    Ok(true)
}

/// A program of the tools tree, with that tree's own libraries.
pub(super) fn pinned(tools: &Path, program: &str) -> anyhow::Result<Command> {
    let only = |dir: PathBuf, part: &str| -> anyhow::Result<PathBuf> {
        fs::read_dir(&dir)
            .with_context(|| format!("cannot list {}", dir.display()))?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .find(|path| path.to_string_lossy().contains(part))
            .with_context(|| format!("the tools tree has no {part}"))
    };
    let libraries = only(tools.join("usr/lib"), "-linux-gnu")?;
    let mut command = Command::new(only(libraries.clone(), "/ld-linux")?);
    command.arg("--library-path").arg(libraries).arg(tools.join("usr/bin").join(program));
    Ok(command)
}

#[derive(Debug, PartialEq, Eq)]
struct Entry {
    mode: u32,
    owner: (u32, u32),
    changed: i64,
    bytes: Vec<u8>,
}

/// Every file below a folder with what matters about it.
fn listing(root: &Path) -> anyhow::Result<BTreeMap<PathBuf, Entry>> {
    let mut found = BTreeMap::new();
    let mut waiting = vec![root.to_owned()];
    while let Some(dir) = waiting.pop() {
        for entry in fs::read_dir(&dir)? {
            let path = entry?.path();
            let meta = fs::symlink_metadata(&path)?;
            let bytes = if meta.is_symlink() {
                fs::read_link(&path)?.into_os_string().into_encoded_bytes()
            } else if meta.is_dir() {
                waiting.push(path.clone());
                Vec::new()
            } else {
                fs::read(&path)?
            };
            let entry =
                Entry { mode: meta.mode(), owner: (meta.uid(), meta.gid()), changed: meta.mtime(), bytes };
            found.insert(path.strip_prefix(root)?.to_owned(), entry);
        }
    }
    Ok(found)
}

fn how(a: &Entry, b: &Entry, left: &Path, right: &Path) -> anyhow::Result<String> {
    let mut ways = Vec::new();
    if a.bytes != b.bytes {
        let at = a.bytes.iter().zip(&b.bytes).take_while(|(x, y)| x == y).count();
        let around = |bytes: &[u8]| hex::encode(bytes.get(at..bytes.len().min(at + 16)).unwrap_or_default());
        ways.push(format!(
            "has {} and {} bytes, which differ from {at} on: {} and {}",
            a.bytes.len(),
            b.bytes.len(),
            around(&a.bytes),
            around(&b.bytes)
        ));
        ways.extend(sections(a, b));
    }
    if a.mode != b.mode || a.owner != b.owner {
        ways.push(format!("has mode {:o} of {:?} and {:o} of {:?}", a.mode, a.owner, b.mode, b.owner));
    }
    if a.changed != b.changed {
        ways.push(format!("was changed at {} and {}", a.changed, b.changed));
    }
    ensure!(!ways.is_empty(), "{} and {} differ in no known way", left.display(), right.display());
    Ok(ways.join("; "))
}

/// Which sections of two signed kernel images differ (PE/COFF, Microsoft's specification, section 4).
fn sections(a: &Entry, b: &Entry) -> Vec<String> {
    let [Some(a), Some(b)] = [pe_sections(&a.bytes), pe_sections(&b.bytes)] else { return Vec::new() };
    let names = a.iter().filter(|(name, bytes)| b.get(*name) != Some(bytes)).map(|(name, _)| name.clone());
    let names: Vec<String> = names.collect();
    vec![if names.is_empty() {
        "all sections are the same, only signature or headers differ".to_owned()
    } else {
        format!("sections that differ: {}", names.join(" "))
    }]
}

/// The sections of a PE file by name.
pub(super) fn pe_sections(file: &[u8]) -> Option<BTreeMap<String, &[u8]>> {
    let short = |at: usize| Some(usize::from(u16::from_le_bytes(file.get(at..at + 2)?.try_into().ok()?)));
    let long = |at: usize| usize::try_from(u32::from_le_bytes(file.get(at..at + 4)?.try_into().ok()?)).ok();
    let start = file.starts_with(b"MZ").then(|| long(0x3c))??;
    let count = file.get(start..start + 4)?.eq(b"PE\0\0").then(|| short(start + 6))??;
    let table = start + 24 + short(start + 20)?;
    (0..count)
        .map(|index| {
            let at = table + index * 40;
            let name = String::from_utf8_lossy(file.get(at..at + 8)?).trim_end_matches('\0').to_owned();
            let (size, from) = (long(at + 16)?, long(at + 20)?);
            Some((name, file.get(from..from + size)?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A disk with one partition of eight sectors, which hold this byte.
    fn disk(dir: &Path, name: &str, byte: u8) -> PathBuf {
        let mut bytes = vec![0; 64 * 512];
        bytes[512..520].copy_from_slice(b"EFI PART");
        bytes[512 + 72] = 2;
        bytes[512 + 80] = 4;
        bytes[512 + 84] = 128;
        bytes[1024] = 1;
        bytes[1024 + 32] = 40;
        bytes[1024 + 40] = 47;
        bytes[1024 + 56] = b'x';
        bytes[41 * 512] = byte;
        let path = dir.join(name);
        fs::write(&path, bytes).unwrap();
        path
    }

    #[test]
    fn the_partition_and_the_byte_that_differ_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let [a, b] = [disk(dir.path(), "a", 1), disk(dir.path(), "b", 2)];
        assert_eq!(partitions(&a).unwrap()[0].label, "x");
        let told = differences(&a, &b, Path::new("/nowhere")).unwrap();
        assert_eq!(told, ["partition x: differs from byte 512 on"]);
        assert!(differences(&a, &a, Path::new("/nowhere")).unwrap()[0].starts_with("outside of all"));
    }

    #[test]
    fn files_are_told_apart_by_bytes_mode_and_age() {
        let entry =
            |mode, changed, bytes: &[u8]| Entry { mode, owner: (0, 0), changed, bytes: bytes.to_vec() };
        let here = Path::new("f");
        let told = how(&entry(0o644, 1, b"same"), &entry(0o600, 2, b"some"), here, here).unwrap();
        assert!(told.contains("differ from 1 on: 616d65 and 6f6d65"), "{told}");
        assert!(told.contains("mode 644") && told.contains("at 1 and 2"), "{told}");
    }

    #[test]
    fn a_table_that_points_outside_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = disk(dir.path(), "a", 1);
        let mut bytes = fs::read(&path).unwrap();
        bytes[512 + 81] = 255;
        fs::write(&path, &bytes).unwrap();
        assert!(partitions(&path).is_err());
        fs::write(&path, &bytes[..600]).unwrap();
        assert!(partitions(&path).is_err());
        assert!(pe_sections(b"MZ").is_none());
        assert!(pe_sections(&[0xff; 200]).is_none());
    }
}
