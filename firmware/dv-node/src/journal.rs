//! What the agreements must not forget: the latest state of each duty, durable before a word of it is spoken.
//!
//! One append-only file of records `length ‖ checksum ‖ payload`. A crash can tear only the last record, which had not
//! been acknowledged; it is cut off at the next start. Duties that are over are forgotten, and when most of the file is
//! about such duties it is written anew, beside its place and then renamed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use crate::store::{replace_file, sync_parent};

/// Length (4) and checksum (8).
const HEADER: usize = 12;
/// Room for one duty's state: the four values that an agreement can name at once, each as large as any that the engine
/// takes, as hex; and the proofs of all members.
const MAX_RECORD: usize = 4 * 2 * duty::MAX_BLOCK_BYTES_PER_MEMBER + (1 << 20);
/// Beyond this the file cannot be ours. What is not over yet takes far less: the engine bounds what each member brings.
const MAX_FILE: u64 = 512 << 20;
/// The file is written anew when it is larger than this and than four times what still matters.
const COMPACT_ABOVE: u64 = 1 << 20;
const KEY_LEN: usize = 9;

/// Which duty: slot and number of the kind.
pub type Key = (u64, u8);

/// The journal. Whoever appends must not act on the state before `append` has returned `Ok`.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: Option<File>,
    /// Bytes in the file, all of them whole records.
    len: u64,
    live: BTreeMap<Key, Vec<u8>>,
    /// Duties whose latest state is too large to be kept: nothing may be said about them any more.
    unkept: BTreeSet<Key>,
}

/// What had to be remembered is on the disk. Only the journal says so, and only after the disk did; without it nothing is said.
#[derive(Debug)]
pub struct Durable(());

/// What was found at the start.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing, or everything whole but perhaps the very last record.
    Whole,
    /// Records in the middle cannot be read: what was said about some duties is forgotten.
    Damaged,
}

impl Journal {
    /// Opens or makes the file and reads what is in it. A file that is not there although it `must_exist` is damaged. After
    /// damage, `marker` is kept along with what could be read, durably before anything else.
    pub fn open(path: &Path, must_exist: bool, marker: Option<(Key, Vec<u8>)>) -> io::Result<(Self, Found)> {
        let missing = must_exist && !path.try_exists()?;
        let (mut file, mut size, mut bytes) = (None, 0, Vec::new());
        // One that is missing is made with the marker in it, lest an empty one be found whole after a power cut.
        if !missing {
            let mut options = OpenOptions::new();
            let mut found =
                options.read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
            sync_parent(path)?;
            size = found.metadata()?.len();
            if size <= MAX_FILE {
                found.read_to_end(&mut bytes)?;
            }
            file = Some(found);
        }
        let (mut live, at) = scan(&bytes);
        let found = if missing { Found::Damaged } else { judge_rest(&bytes, at, size) };
        if let (Found::Damaged, Some((key, payload))) = (&found, marker) {
            keep(&mut live, key, &payload);
        }
        let len = u64::try_from(at).map_err(io::Error::other)?;
        let mut journal = Self { path: path.to_owned(), file, len, live, unkept: BTreeSet::new() };
        if len != size || found == Found::Damaged {
            tracing::warn!(
                kept_bytes = len,
                found_bytes = size,
                ?found,
                "the end of the journal could not be read"
            );
            journal.rewrite()?;
        }
        Ok((journal, found))
    }

    /// The latest state of every duty that is not over.
    pub fn live(&self) -> impl Iterator<Item = (Key, &[u8])> {
        self.live.iter().map(|(key, payload)| (*key, payload.as_slice()))
    }

    /// Adds states and returns when they are durable. After an error none of them may be acted upon; they are kept in
    /// memory, and [`Journal::repair`] tries again. After every error nothing else may be acted upon until then.
    pub fn append(&mut self, records: &[(Key, Vec<u8>)]) -> io::Result<Durable> {
        let mut bytes = Vec::new();
        let mut too_large = false;
        for (key, payload) in records {
            // What was kept of this duty is out of date either way.
            if write_record(&mut bytes, *key, payload).is_ok() {
                self.unkept.remove(key);
                keep(&mut self.live, *key, payload);
            } else {
                too_large = true;
                self.unkept.insert(*key);
            }
        }
        if too_large {
            self.file = None;
            return Err(io::Error::other("a state too large for the journal"));
        }
        let added = u64::try_from(bytes.len()).map_err(io::Error::other)?;
        if is_rewrite_due(self.len, added, self.live_bytes()) {
            return self.rewrite().map(Durable);
        }
        let Some(file) = &mut self.file else {
            return Err(io::Error::other("the journal is waiting for repair"));
        };
        let written = file
            .seek(SeekFrom::Start(self.len))
            .and_then(|_| file.write_all(&bytes))
            .and_then(|()| file.sync_data());
        match written {
            Ok(()) => {
                self.len += added;
                Ok(Durable(()))
            }
            Err(error) => {
                // After a failed sync the kernel may have dropped our pages: this descriptor is not to be trusted again.
                self.file = None;
                Err(error)
            }
        }
    }

    /// Forgets a duty that is over. Cheap: nothing is written.
    pub fn forget(&mut self, key: Key) {
        self.live.remove(&key);
        self.unkept.remove(&key);
    }

    /// Whether the latest state of this duty could be kept.
    pub fn keeps(&self, key: Key) -> bool {
        !self.unkept.contains(&key)
    }

    /// Whether the last write failed.
    pub fn is_broken(&self) -> bool {
        self.file.is_none()
    }

    /// Where nothing new has to be remembered: all that had to be is on the disk, unless the last write failed.
    pub fn nothing_to_append(&self) -> Option<Durable> {
        (!self.is_broken()).then_some(Durable(()))
    }

    /// After a failure: writes everything that matters into a new file. On success all of it is durable.
    pub fn repair(&mut self) -> io::Result<()> {
        if self.file.is_some() { Ok(()) } else { self.rewrite() }
    }

    fn live_bytes(&self) -> u64 {
        let bytes: usize = self.live.values().map(|payload| payload.len() + HEADER + KEY_LEN).sum();
        u64::try_from(bytes).unwrap_or(u64::MAX)
    }

    fn rewrite(&mut self) -> io::Result<()> {
        self.file = None;
        let bytes = write_bytes(&self.live)?;
        if u64::try_from(bytes.len()).is_ok_and(|length| length > MAX_FILE) {
            return Err(io::Error::other("more states than the journal can hold"));
        }
        replace_file(&self.path, &bytes)?;
        self.file = Some(OpenOptions::new().read(true).write(true).open(&self.path)?);
        self.len = u64::try_from(bytes.len()).map_err(io::Error::other)?;
        Ok(())
    }
}

/// Whether most of the file is about duties that are over, or what is added would make it too large to be read again.
fn is_rewrite_due(len: u64, added: u64, live: u64) -> bool {
    len.saturating_add(added) > MAX_FILE || (len > COMPACT_ABOVE && len > 4 * live)
}

/// An empty payload means that the duty is over.
fn keep(live: &mut BTreeMap<Key, Vec<u8>>, key: Key, payload: &[u8]) {
    if payload.is_empty() {
        live.remove(&key);
    } else {
        live.insert(key, payload.to_vec());
    }
}

fn checksum(body: &[u8]) -> [u8; 8] {
    let digest = Sha256::digest(body);
    let mut short = [0; 8];
    short.copy_from_slice(&digest[..8]);
    short
}

fn write_record(to: &mut Vec<u8>, key: Key, payload: &[u8]) -> io::Result<()> {
    if payload.len() > MAX_RECORD {
        return Err(io::Error::other("a state too large for the journal"));
    }
    let mut body = Vec::with_capacity(KEY_LEN + payload.len());
    body.extend_from_slice(&key.0.to_le_bytes());
    body.push(key.1);
    body.extend_from_slice(payload);
    let length = u32::try_from(body.len()).map_err(io::Error::other)?;
    to.extend_from_slice(&length.to_le_bytes());
    to.extend_from_slice(&checksum(&body));
    to.extend_from_slice(&body);
    Ok(())
}

/// The record at an offset and where the next one starts; `None` when there is no whole record.
fn read_record(bytes: &[u8], at: usize) -> Option<(Key, &[u8], usize)> {
    let header = bytes.get(at..at.checked_add(HEADER)?)?;
    let length = usize::try_from(u32::from_le_bytes(header[..4].try_into().ok()?)).ok()?;
    if !(KEY_LEN..=MAX_RECORD + KEY_LEN).contains(&length) {
        return None;
    }
    let end = at.checked_add(HEADER)?.checked_add(length)?;
    let body = bytes.get(at + HEADER..end)?;
    if header[4..] != checksum(body) {
        return None;
    }
    let slot = u64::from_le_bytes(body[..8].try_into().ok()?);
    Some(((slot, body[8]), &body[KEY_LEN..], end))
}

/// The latest state of each duty in a file, and where its last whole record ends.
fn scan(bytes: &[u8]) -> (BTreeMap<Key, Vec<u8>>, usize) {
    let mut live = BTreeMap::new();
    let mut at = 0;
    while let Some((key, payload, next)) = read_record(bytes, at) {
        keep(&mut live, key, payload);
        at = next;
    }
    (live, at)
}

/// The latest slot that a journal speaks of, as far as it can be read; 0 when it says nothing.
pub(crate) fn latest_slot(path: &Path) -> u64 {
    let fits = std::fs::metadata(path).is_ok_and(|found| found.is_file() && found.len() <= MAX_FILE);
    let bytes = if fits { std::fs::read(path).unwrap_or_default() } else { Vec::new() };
    let (mut latest, mut at) = (0, 0);
    // Also of duties that were over: it is about what was said.
    while let Some(((slot, _), _, next)) = read_record(&bytes, at) {
        latest = slot.max(latest);
        at = next;
    }
    latest
}

/// Reads a whole file without a disk; written anew, it reads the same.
pub(crate) fn read_bytes(bytes: &[u8]) -> (BTreeMap<Key, Vec<u8>>, Found) {
    let (live, at) = scan(bytes);
    let size = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    (live, judge_rest(bytes, at, size))
}

/// The file that holds these states and nothing else.
pub(crate) fn write_bytes(live: &BTreeMap<Key, Vec<u8>>) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    for (key, payload) in live {
        write_record(&mut bytes, *key, payload)?;
    }
    Ok(bytes)
}

/// A torn last record is what a crash leaves. If whole records follow the unreadable place, it was no crash.
fn judge_rest(bytes: &[u8], at: usize, size: u64) -> Found {
    if u64::try_from(bytes.len()) != Ok(size) {
        return Found::Damaged; // Too large to be ours; nothing was read.
    }
    let rest = &bytes[at..];
    let torn = rest.len() <= HEADER + KEY_LEN + MAX_RECORD
        && !(1..rest.len()).any(|skip| read_record(rest, skip).is_some());
    if torn { Found::Whole } else { Found::Damaged }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn state(journal: &Journal) -> Vec<(Key, Vec<u8>)> {
        journal.live().map(|(key, payload)| (key, payload.to_vec())).collect()
    }

    fn open(path: &Path) -> (Journal, Found) {
        Journal::open(path, false, None).unwrap()
    }

    fn record(slot: u64, text: &str) -> (Key, Vec<u8>) {
        ((slot, 2), text.as_bytes().to_vec())
    }

    #[test]
    fn the_latest_state_of_each_duty_survives() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let (mut journal, found) = open(&path);
        assert_eq!(found, Found::Whole);
        journal.append(&[record(5, "a"), record(6, "b")]).unwrap();
        journal.append(&[record(5, "c")]).unwrap();
        journal.append(&[record(6, "")]).unwrap();
        drop(journal);
        let (journal, found) = open(&path);
        assert_eq!((state(&journal), found), (vec![record(5, "c")], Found::Whole));
    }

    #[test]
    fn a_state_too_large_breaks_the_journal_and_silences_its_duty() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let (mut journal, _) = open(&path);
        journal.append(&[record(5, "old"), record(6, "a")]).unwrap();
        let large = ((5, 2), vec![b'x'; MAX_RECORD + 1]);
        assert!(journal.append(&[record(6, "b"), large, record(7, "c")]).is_err());
        assert!(journal.is_broken());
        assert!(journal.append(&[record(8, "d")]).is_err(), "nothing goes out until the repair");
        journal.repair().unwrap();
        assert!(!journal.keeps((5, 2)) && journal.keeps((6, 2)) && journal.keeps((7, 2)));
        let (journal, found) = open(&path);
        let expected = vec![record(5, "old"), record(6, "b"), record(7, "c"), record(8, "d")];
        assert_eq!((state(&journal), found), (expected, Found::Whole));
    }

    #[test]
    fn the_largest_state_that_the_engine_saves_fits() {
        let vote = |author: u8| {
            let digest = qbft::Digest([author; 32]);
            let ballot = qbft::Ballot::for_value(qbft::Kind::Commit, qbft::Member(author), u64::MAX, digest);
            // The longest vote that is taken from the wire, as hex.
            qbft::Vote { ballot, seal: Some("f".repeat(2 * 4096)) }
        };
        let votes: Vec<_> = (0..16).map(vote).collect();
        let values: Vec<duty::Value> = (0..4)
            .map(|at| duty::Value { digest: qbft::Digest([at; 32]), bytes: vec![at; 1 << 16].into() })
            .collect();
        let [proposed, voted, prepared, decided] = [0, 1, 2, 3].map(|at| qbft::Digest([at; 32]));
        let round = u64::MAX;
        let journal = qbft::Journal {
            round,
            proposed: Some(proposed),
            voted: Some(voted),
            prepared: Some(qbft::Prepared { round, value: prepared, prepares: votes.clone() }),
            decided: Some(qbft::Decision { round, value: decided, commits: votes }),
        };
        let length = serde_json::to_vec(&duty::Saved { journal, values }).unwrap().len();
        let apart_from_values = length - 4 * 2 * (1 << 16);
        assert!(apart_from_values + 4 * 2 * duty::MAX_BLOCK_BYTES_PER_MEMBER <= MAX_RECORD);
        const { assert!(duty::MAX_VALUE_BYTES_PER_MEMBER <= duty::MAX_BLOCK_BYTES_PER_MEMBER) };
    }

    #[test]
    fn a_file_never_grows_beyond_what_is_read_again() {
        let half = MAX_FILE / 2;
        assert!(!is_rewrite_due(half, half, half));
        assert!(is_rewrite_due(half, half + 1, half));
        assert!(is_rewrite_due(COMPACT_ABOVE + 1, 0, 1) && !is_rewrite_due(COMPACT_ABOVE, 0, 1));
    }

    #[test]
    fn a_missing_file_that_must_exist_is_damage_and_the_marker_survives() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let marker = || Some(((9, 0), vec![1]));
        let (journal, found) = Journal::open(&path, false, marker()).unwrap();
        assert_eq!((state(&journal), found), (vec![], Found::Whole), "a first start is no damage");
        std::fs::remove_file(&path).unwrap();
        let (journal, found) = Journal::open(&path, true, marker()).unwrap();
        assert_eq!((state(&journal), found), (vec![((9, 0), vec![1])], Found::Damaged));
        let (journal, found) = Journal::open(&path, true, None).unwrap();
        assert_eq!((state(&journal), found), (vec![((9, 0), vec![1])], Found::Whole));
    }

    #[test]
    fn a_crash_at_any_byte_loses_at_most_the_record_being_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let (mut journal, _) = open(&path);
        journal.append(&[record(5, "first")]).unwrap();
        let first = std::fs::metadata(&path).unwrap().len();
        journal.append(&[record(6, "second")]).unwrap();
        drop(journal);
        let whole = std::fs::read(&path).unwrap();
        for cut in usize::try_from(first).unwrap()..whole.len() {
            std::fs::write(&path, &whole[..cut]).unwrap();
            let (mut journal, found) = open(&path);
            assert_eq!((state(&journal), found), (vec![record(5, "first")], Found::Whole), "cut at {cut}");
            journal.append(&[record(7, "third")]).unwrap();
            drop(journal);
            let (journal, _) = open(&path);
            assert_eq!(state(&journal), vec![record(5, "first"), record(7, "third")], "cut at {cut}");
        }
    }

    #[test]
    fn a_flipped_bit_in_the_middle_is_damage() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let (mut journal, _) = open(&path);
        journal.append(&[record(5, "first"), record(6, "second")]).unwrap();
        drop(journal);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[15] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let (journal, found) = open(&path);
        assert_eq!(found, Found::Damaged);
        assert!(state(&journal).is_empty());
    }

    #[test]
    fn forgotten_duties_leave_the_file_when_it_grows() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let (mut journal, _) = open(&path);
        let large = "x".repeat(64 * 1024);
        for slot in 0..100 {
            journal.append(&[record(slot, &large)]).unwrap();
            journal.forget((slot, 2));
        }
        assert!(std::fs::metadata(&path).unwrap().len() < 2 * COMPACT_ABOVE);
        journal.append(&[record(200, "kept")]).unwrap();
        drop(journal);
        let (journal, _) = open(&path);
        assert!(state(&journal).contains(&record(200, "kept")));
    }

    #[test]
    fn a_failed_write_is_repaired_with_everything_in_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let (mut journal, _) = open(&path);
        journal.append(&[record(1, "a")]).unwrap();
        // A read-only descriptor fails every write, as a full disk would.
        journal.file = Some(File::open(&path).unwrap());
        assert!(journal.append(&[record(2, "b")]).is_err());
        assert!(journal.is_broken());
        assert!(journal.append(&[record(3, "c")]).is_err());
        assert!(journal.nothing_to_append().is_none());
        journal.repair().unwrap();
        assert!(journal.nothing_to_append().is_some());
        // This takes every byte and refuses to be synced.
        journal.file = Some(OpenOptions::new().write(true).open("/dev/null").unwrap());
        assert!(journal.append(&[record(4, "d")]).is_err(), "written is not durable");
        assert!(journal.nothing_to_append().is_none());
        journal.repair().unwrap();
        drop(journal);
        let (journal, _) = open(&path);
        let expected = [(1, "a"), (2, "b"), (3, "c"), (4, "d")].map(|(slot, text)| record(slot, text));
        assert_eq!(state(&journal), expected);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]
        #[test]
        fn random_files_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("journal");
            std::fs::write(&path, bytes).unwrap();
            let (mut journal, _) = open(&path);
            journal.append(&[record(1, "a")]).unwrap();
        }
    }
}
