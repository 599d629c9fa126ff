//! Looks for key shares where they must not be: in the memory of other processes, in files.
//!
//! A share is looked for in every form in which a program would plausibly hold it: raw and reversed, as the curve library has
//! it in a register (Montgomery form), as hex, decimal and base64; and by halves, so that a copy that was partly
//! overwritten is found too.

use std::fs;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use threshold::SecretKey;

/// Memory is read in pieces of this size.
const PIECE: usize = 1 << 20;
/// The order of the group, big-endian (BLS12-381).
const ORDER: [u8; 32] = [
    0x73, 0xed, 0xa7, 0x53, 0x29, 0x9d, 0x7d, 0x48, 0x33, 0x39, 0xd8, 0x08, 0x09, 0xa1, 0xd8, 0x05, 0x53,
    0xbd, 0xa4, 0x02, 0xff, 0xfe, 0x5b, 0xfe, 0xff, 0xff, 0xff, 0xff, 0x00, 0x00, 0x00, 0x01,
];

/// What is looked for.
struct Needle {
    bytes: Vec<u8>,
    /// Which share, and in what form.
    name: String,
}

/// Shares to look for.
pub struct Needles {
    /// By their first two bytes, so that most positions cost one look.
    by_start: Vec<Vec<Needle>>,
    longest: usize,
}

/// Where a share was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sighting {
    /// The process or file.
    pub place: String,
    /// Which share, and in what form.
    pub what: String,
}

impl Needles {
    /// Every form of these shares.
    pub fn of(shares: &[SecretKey]) -> Self {
        let mut by_start: Vec<Vec<Needle>> = Vec::new();
        by_start.resize_with(1 << 16, Vec::new);
        let mut longest = 0;
        for (number, share) in shares.iter().enumerate() {
            for (form, bytes) in forms(&share.expose_bytes()) {
                longest = longest.max(bytes.len());
                let start = usize::from(u16::from_be_bytes([bytes[0], bytes[1]]));
                by_start[start].push(Needle { bytes, name: format!("share {number}, {form}") });
            }
        }
        Self { by_start, longest }
    }

    /// What of it is in these bytes.
    pub fn find(&self, bytes: &[u8]) -> Option<String> {
        bytes.windows(2).enumerate().find_map(|(at, start)| {
            let candidates = &self.by_start[usize::from(u16::from_be_bytes([start[0], start[1]]))];
            candidates
                .iter()
                .find(|needle| bytes[at..].starts_with(&needle.bytes))
                .map(|needle| needle.name.clone())
        })
    }

    /// Looks through all of a process's memory that can be read. Gives how many bytes that were.
    ///
    /// # Errors
    /// When this user may not look, or the process is gone.
    pub fn in_process(&self, name: &str, pid: u32) -> io::Result<(u64, Option<Sighting>)> {
        let maps = fs::read_to_string(format!("/proc/{pid}/maps"))?;
        let memory = fs::File::open(format!("/proc/{pid}/mem"))?;
        let mut looked_at = 0;
        for line in maps.lines() {
            let Some((from, to)) = readable(line) else { continue };
            let mut at = from;
            while at < to {
                // Pieces overlap, so that nothing is missed between two of them.
                let length = usize::try_from(to - at).unwrap_or(PIECE).min(PIECE + self.longest);
                let mut piece = vec![0; length];
                let count = memory.read_at(&mut piece, at).unwrap_or(0); // Some of the kernel's own pages cannot be read.
                looked_at += u64::try_from(count).unwrap_or(0);
                if let Some(what) = self.find(&piece[..count]) {
                    let place = format!("the memory of {name} ({})", line.trim());
                    return Ok((looked_at, Some(Sighting { place, what })));
                }
                at = at.saturating_add(u64::try_from(PIECE).unwrap_or(u64::MAX));
            }
        }
        Ok((looked_at, None))
    }

    /// From each needle one line of up to sixteen bytes that no text tool stumbles over (no NUL, no newline): for a machine that has `grep`
    /// and nothing of ours.
    pub(crate) fn lines(&self) -> Vec<Vec<u8>> {
        let longest_run = |needle: &Needle| {
            let runs = needle.bytes.split(|byte| matches!(byte, 0 | b'\n'));
            let run = runs.max_by_key(|run| run.len()).unwrap_or_default();
            run[..run.len().min(16)].to_vec()
        };
        // A shorter one would be found by accident.
        self.by_start.iter().flatten().map(longest_run).filter(|line| line.len() >= 7).collect()
    }

    /// Looks through what a file holds, without its holes: an emulated disk is mostly those.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn in_file(&self, path: &Path) -> io::Result<Option<Sighting>> {
        let file = fs::File::open(path)?;
        let length = file.metadata()?.len();
        let mut at = 0;
        while let Some((mut from, to)) = next_data(&file, at, length)? {
            while from < to {
                let size = usize::try_from(to - from).unwrap_or(PIECE).min(PIECE + self.longest);
                let mut piece = vec![0; size];
                let count = file.read_at(&mut piece, from)?;
                if let Some(what) = self.find(&piece[..count]) {
                    return Ok(Some(Sighting { place: path.display().to_string(), what }));
                }
                from += u64::try_from(PIECE).unwrap_or(u64::MAX);
            }
            at = to;
        }
        Ok(None)
    }

    /// Looks through all files of a folder. Gives how many those were.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn in_folder(&self, folder: &Path) -> io::Result<(usize, Option<Sighting>)> {
        let (mut folders, mut files) = (vec![folder.to_owned()], Vec::<PathBuf>::new());
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder)? {
                let entry = entry?;
                match entry.file_type()? {
                    kind if kind.is_dir() => folders.push(entry.path()),
                    kind if kind.is_file() => files.push(entry.path()),
                    _ => {} // Sockets hold nothing.
                }
            }
        }
        for path in &files {
            let found = match self.in_file(path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                other => other?,
            };
            if found.is_some() {
                return Ok((files.len(), found));
            }
        }
        Ok((files.len(), None))
    }
}

/// Where the file has content from here on, up to the next hole. A file that grows meanwhile is looked at as it was.
fn next_data(file: &fs::File, at: u64, length: u64) -> io::Result<Option<(u64, u64)>> {
    use nix::unistd::{Whence, lseek};
    if at >= length {
        return Ok(None);
    }
    let seek = |from: u64, whence| lseek(file, i64::try_from(from).unwrap_or(i64::MAX), whence);
    let from = match seek(at, Whence::SeekData) {
        Ok(from) => u64::try_from(from).unwrap_or(length),
        Err(nix::errno::Errno::ENXIO) => return Ok(None), // Holes to the end.
        Err(nix::errno::Errno::EINVAL) => return Ok(Some((at, length))), // A file system that knows of no holes.
        Err(error) => return Err(error.into()),
    };
    let to = seek(from, Whence::SeekHole).map_or(length, |to| u64::try_from(to).unwrap_or(length));
    Ok(Some((from, to.max(from + 1))))
}

/// The addresses of a line of `/proc/PID/maps` whose pages can be read.
fn readable(line: &str) -> Option<(u64, u64)> {
    let mut words = line.split_whitespace();
    let (from, to) = words.next()?.split_once('-')?;
    let may_read = words.next()?.starts_with('r');
    let address = |text| u64::from_str_radix(text, 16).ok();
    may_read.then_some((address(from)?, address(to)?))
}

/// A share in every form.
fn forms(secret: &[u8; 32]) -> Vec<(&'static str, Vec<u8>)> {
    use base64_text as base64;
    let reversed = reversed(secret);
    let montgomery = self::reversed(&times_two_to_the_256(secret));
    let mut forms = Vec::new();
    let mut add = |form, bytes: &[u8]| forms.push((form, bytes.to_vec()));
    let raw = [("raw", secret), ("raw reversed", &reversed), ("in a register", &montgomery)];
    for (form, bytes) in raw {
        add(form, &bytes[..16]);
        add(form, &bytes[16..]);
    }
    for (form, bytes) in [("hex", secret), ("hex reversed", &reversed), ("hex of a register", &montgomery)] {
        let hex = hex::encode(bytes);
        for text in [hex.clone(), hex.to_uppercase()] {
            add(form, &text.as_bytes()[..32]);
            add(form, &text.as_bytes()[32..]);
        }
    }
    for (form, bytes) in [("decimal", secret), ("decimal reversed", &reversed)] {
        let text = decimal(bytes);
        add(form, &text.as_bytes()[..text.len().min(24)]);
        add(form, text.as_bytes());
    }
    for (form, bytes) in [("base64", secret), ("base64 reversed", &reversed)] {
        // Wherever it begins in what was encoded: of three ways, the letters that only the share decides.
        for shift in 0..3 {
            let mut shifted = vec![0; shift];
            shifted.extend(bytes);
            for url in [false, true] {
                let text = base64(&shifted, url);
                add(form, &text.as_bytes()[4..28]);
            }
        }
    }
    forms
}

fn reversed(bytes: &[u8; 32]) -> [u8; 32] {
    let mut reversed = *bytes;
    reversed.reverse();
    reversed
}

/// The value times 2^256 in the field, by doubling.
fn times_two_to_the_256(value: &[u8; 32]) -> [u8; 32] {
    let mut value = *value;
    for _ in 0..256 {
        let mut carry = 0;
        for byte in value.iter_mut().rev() {
            let doubled = (u16::from(*byte) << 1) | carry;
            [_, *byte] = doubled.to_be_bytes();
            carry = doubled >> 8;
        }
        // The order has 255 bits, so the double of what is below it fits.
        if value >= ORDER {
            let mut borrow = 0;
            for (byte, of_order) in value.iter_mut().zip(ORDER).rev() {
                let (first, one) = byte.overflowing_sub(of_order);
                let (second, two) = first.overflowing_sub(borrow);
                (*byte, borrow) = (second, u8::from(one || two));
            }
        }
    }
    value
}

fn decimal(bytes: &[u8; 32]) -> String {
    let (mut rest, mut digits) = (bytes.to_vec(), Vec::new());
    while rest.iter().any(|byte| *byte != 0) {
        let mut remainder = 0_u16;
        for byte in &mut rest {
            let value = remainder * 256 + u16::from(*byte);
            [_, *byte] = (value / 10).to_be_bytes();
            remainder = value % 10;
        }
        digits.push(char::from_digit(u32::from(remainder), 10).unwrap_or('?'));
    }
    digits.iter().rev().collect()
}

fn base64_text(bytes: &[u8], url: bool) -> String {
    let letters = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    let last = if url { b"-_" } else { b"+/" };
    let alphabet: Vec<u8> = letters.iter().chain(last).copied().collect();
    let sextets = |three: &[u8]| {
        let all = three.iter().fold(0_usize, |all, byte| all * 256 + usize::from(*byte));
        [18, 12, 6, 0].map(|shift| char::from(alphabet[(all >> shift) % 64]))
    };
    bytes.chunks_exact(3).flat_map(sextets).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};
    use std::process::{Command, Stdio};

    fn share() -> SecretKey {
        let mut bytes = [0; 32];
        for (byte, value) in bytes.iter_mut().zip(0x13_u8..) {
            *byte = value.wrapping_mul(0x35);
        }
        bytes[0] = 0x11;
        SecretKey::from_bytes(&bytes).unwrap()
    }

    #[test]
    fn every_form_is_what_its_name_says() {
        let mut small = [0; 32];
        (small[30], small[31]) = (1, 2);
        assert_eq!(decimal(&small), "258");
        assert_eq!(base64_text(b"any carnal pleas", false), "YW55IGNhcm5hbCBwbGVh");
        assert_eq!(base64_text(&[0xfb, 0xff, 0xff], true), "-___");
        // One in Montgomery form is 2^256 modulo the order, as every description of the curve has it.
        let mut one = [0; 32];
        one[31] = 1;
        let expected = "1824b159acc5056f998c4fefecbc4ff55884b7fa0003480200000001fffffffe";
        assert_eq!(hex::encode(times_two_to_the_256(&one)), expected);
        let forms = forms(&share().expose_bytes());
        assert_eq!(forms.len(), 6 + 12 + 4 + 12);
        assert!(forms.iter().all(|(_, bytes)| bytes.len() >= 16));
    }

    #[test]
    fn a_share_that_was_planted_is_found_in_every_form_and_nothing_else_is() {
        let needles = Needles::of(&[share()]);
        for (form, bytes) in forms(&share().expose_bytes()) {
            let planted = [&[7; 1000][..], &bytes, &[7; 1000]].concat();
            assert!(needles.find(&planted).is_some(), "{form}");
            let damaged = [&[7; 1000][..], &bytes[1..], &[7; 1000]].concat();
            assert_eq!(needles.find(&damaged), None, "{form}");
        }
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("deep")).unwrap();
        fs::write(dir.path().join("deep/clean"), [7; 5000]).unwrap();
        assert_eq!(needles.in_folder(dir.path()).unwrap(), (1, None));
        fs::write(dir.path().join("deep/log"), hex::encode(share().expose_bytes())).unwrap();
        let (_, found) = needles.in_folder(dir.path()).unwrap();
        assert!(found.unwrap().place.ends_with("deep/log"));
        // Behind a hole, over the border of two pieces.
        let sparse = fs::File::create(dir.path().join("sparse")).unwrap();
        sparse.write_all_at(&share().expose_bytes()[..], (5 << 20) - 20).unwrap();
        sparse.set_len(4 << 30).unwrap();
        assert!(needles.in_file(&dir.path().join("sparse")).unwrap().is_some());
        sparse.write_all_at(&[7; 32], (5 << 20) - 20).unwrap();
        assert_eq!(needles.in_file(&dir.path().join("sparse")).unwrap(), None);
    }

    #[test]
    fn a_share_in_the_memory_of_another_process_is_found() {
        let needles = Needles::of(&[share()]);
        for (planted, expected) in [(share().expose_bytes().to_vec(), true), (vec![9; 32], false)] {
            // What `cat` has passed on is still in its buffer.
            let mut cat = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
            cat.stdin.as_mut().unwrap().write_all(&planted).unwrap();
            cat.stdout.as_mut().unwrap().read_exact(&mut [0; 32]).unwrap();
            let looked = needles.in_process("cat", cat.id());
            cat.kill().unwrap();
            cat.wait().unwrap();
            match looked {
                Ok((bytes, found)) => {
                    assert!(bytes > 100_000);
                    assert_eq!(found.is_some(), expected, "{found:?}");
                }
                Err(error) => println!("SKIPPED: this user may not look into other processes: {error}"),
            }
        }
    }
}
