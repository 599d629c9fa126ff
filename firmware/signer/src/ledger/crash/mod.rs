//! Power cuts and kills at every step of check → record → sign (issue of the sealed signer).
//!
//! A process of its own signs with the real ledger while a recorder in front of the C library writes down every change it makes
//! to its files, and when (`recorder.c`). From the record a disk is replayed (`disk.rs`), and at every step all that a kill or
//! a power cut can leave is laid out: every subset of what was not synced while that is possible, many of them otherwise,
//! whole or torn. Each of these disks is opened with the real ledger and asked for votes that conflict with those that were
//! given out by then. Lives go on from such disks, so that cuts during recovery are among them.

mod disk;
mod history;

use std::{
    collections::BTreeSet,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        LazyLock, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use chain::{Epoch, PublicKeyBytes, UnixMillis};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};

use self::disk::{Disk, Event, Fate, Files};
use self::history::{Mark, Play, SHARES, Way, live, message, read_marks, secret};
use super::{Asked, Store, writer::Writer};
use crate::{message::Vote, metrics::Metrics};

/// How many different disks are tried; more with this variable.
const POINTS: usize = 110_000;
const MORE: &str = "HEARTH_CRASH_POINTS";
const PLAY: &str = "HEARTH_CRASH_PLAY";
/// The test that is also the recorded process.
const SELF: &str = "ledger::crash::whatever_a_cut_leaves_no_signature_that_left_can_be_contradicted";

/// All subsets of this many changes are tried, and a random choice of more.
const ALL_SUBSETS: usize = 6;
const SOME_SUBSETS: usize = 48;
const TORN: usize = 24;

static KEYS: LazyLock<[PublicKeyBytes; 3]> =
    LazyLock::new(|| SHARES.map(|share| secret(share).public_key().to_bytes()));

fn key(share: u8) -> PublicKeyBytes {
    KEYS[usize::from(share) - 1]
}

#[test]
fn whatever_a_cut_leaves_no_signature_that_left_can_be_contradicted() {
    if let Ok(play) = std::env::var(PLAY) {
        let dir = std::env::var("HEARTH_RECORD_DIR").unwrap();
        return live(Path::new(&dir), play.parse().unwrap());
    }
    let points = std::env::var(MORE).ok().and_then(|more| more.parse().ok()).unwrap_or(POINTS);
    let place = Place::new();
    let (tried, refused, lives) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let search = || {
            // A chain of lives, each from a disk that a cut of the one before has left; now and then a new one.
            let mut from = Start::default();
            while tried.load(Ordering::Relaxed) < points {
                let number = lives.fetch_add(1, Ordering::Relaxed);
                if number.is_multiple_of(7) {
                    from = Start::default();
                }
                let play = Play { seed: number, way: Way::Sound, steps: 30 };
                let found = place.search(play, &from);
                if let Some(violation) = found.violation {
                    panic!("life {play}: {violation}");
                }
                tried.fetch_add(found.tried, Ordering::Relaxed);
                refused.fetch_add(found.refused, Ordering::Relaxed);
                from = found.next;
            }
        };
        for _ in 0..2 {
            scope.spawn(search);
        }
    });
    let (tried, refused) = (tried.into_inner(), refused.into_inner());
    println!(
        "{tried} different disks after {} lives; the ledger refused {refused} of them",
        lives.into_inner()
    );
    assert!(tried >= points);
    assert_eq!(refused, 0, "a power cut must not cost the box its ledger");
}

#[test]
fn the_search_finds_a_signer_that_signs_first_or_does_not_sync() {
    let place = Place::new();
    for way in [Way::SignsFirst, Way::NeverSyncs, Way::SyncsSeldom] {
        let violation =
            (0..4).find_map(|seed| place.search(Play { seed, way, steps: 12 }, &Start::default()).violation);
        let violation = violation.unwrap_or_else(|| panic!("{way:?} was not found out"));
        println!("{way:?}: {violation}");
        assert!(violation.contains("it also signs"), "{violation}");
    }
}

/// What a life begins with.
#[derive(Clone, Default)]
struct Start {
    files: Files,
    marks: Vec<Mark>,
}

#[derive(Default)]
struct Found {
    tried: usize,
    refused: usize,
    violation: Option<String>,
    next: Start,
}

/// Where all of it happens: in memory if possible, since thousands of disks are written each second.
struct Place {
    root: tempfile::TempDir,
    recorder: PathBuf,
    made: AtomicUsize,
    /// What was tried, by all lives: many begin alike, and a disk counts once.
    seen: Mutex<BTreeSet<u64>>,
}

impl Place {
    fn new() -> Self {
        let memory = Path::new("/dev/shm");
        let root = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
        let root = root.unwrap();
        let recorder = root.path().join("recorder.so");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/ledger/crash/recorder.c");
        let built = Command::new("cc")
            .args(["-Wall", "-O1", "-shared", "-fPIC", "-o"])
            .arg(&recorder)
            .arg(source)
            .arg("-ldl")
            .status();
        assert!(built.unwrap().success(), "the recorder needs a C compiler");
        Self { root, recorder, made: AtomicUsize::new(0), seen: Mutex::default() }
    }

    fn folder(&self) -> PathBuf {
        let dir = self.root.path().join(self.made.fetch_add(1, Ordering::Relaxed).to_string());
        std::fs::create_dir(&dir).unwrap();
        dir
    }

    /// Records one life, and tries every disk that a cut in it can leave.
    fn search(&self, play: Play, from: &Start) -> Found {
        let dir = self.folder();
        write_files(&dir, &from.files);
        let log = dir.with_extension("log");
        let done = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", SELF, "--nocapture", "--test-threads=1"])
            .env(PLAY, play.to_string())
            .env("HEARTH_RECORD_DIR", &dir)
            .env("HEARTH_RECORD_LOG", &log)
            .env("LD_PRELOAD", &self.recorder)
            .stdout(Stdio::null())
            .status()
            .unwrap();
        assert!(done.success(), "the recorded process failed in life {play}");
        let events = disk::parse(&std::fs::read(&log).unwrap());
        let mut tries = Tries {
            dir: self.folder(),
            random: StdRng::seed_from_u64(play.seed),
            seen: &self.seen,
            found: Found::default(),
            kept: Vec::new(),
        };
        let mut disk = Disk::new(&from.files);
        let mut marks = from.marks.clone();
        for event in &events {
            if matches!(event, Event::Sync { .. }) {
                tries.all_of(&disk, &marks);
            }
            let said = disk.apply(event);
            if let Some(said) = said {
                // Of those that work wrongly, a signature must be found that can be contradicted, and not something else before.
                let counts = |mark: &Mark| play.way == Way::Sound || matches!(mark, Mark::Signed { .. });
                marks.extend(read_marks(&said).into_iter().filter(counts));
                tries.all_of(&disk, &marks);
            }
            tries.kill(&disk, event, &marks);
            if tries.found.violation.is_some() {
                break;
            }
        }
        if tries.found.violation.is_none() {
            // Otherwise something was written that the recorder does not see, and all of this would show nothing.
            assert_eq!(disk.after_a_kill(), read_files(&dir), "the record is not the whole truth");
            assert!(marks.len() > from.marks.len(), "nothing was given out");
        }
        std::fs::remove_dir_all(&dir).unwrap();
        std::fs::remove_dir_all(&tries.dir).unwrap();
        std::fs::remove_file(&log).unwrap();
        tries.found.next = tries.kept.choose(&mut tries.random).cloned().unwrap_or_default();
        tries.found
    }
}

struct Tries<'a> {
    dir: PathBuf,
    random: StdRng,
    seen: &'a Mutex<BTreeSet<u64>>,
    found: Found,
    /// Some of the disks, for lives to go on from.
    kept: Vec<Start>,
}

impl Tries<'_> {
    /// The process is killed at this moment, or in the middle of the write it has just made.
    fn kill(&mut self, disk: &Disk, event: &Event, marks: &[Mark]) {
        let whole = vec![Fate::Whole; disk.unsafe_changes()];
        self.try_one(&disk.after_a_cut(disk.unsafe_names(), &whole), marks);
        let Some(last) = disk.position_of_last(event) else { return };
        for sectors in 1..disk.sectors()[last].min(64) {
            let mut fates = whole.clone();
            fates[last] = Fate::Torn((1 << sectors) - 1);
            self.try_one(&disk.after_a_cut(disk.unsafe_names(), &fates), marks);
        }
    }

    /// The power is cut at this moment: what was not synced is there in any part.
    fn all_of(&mut self, disk: &Disk, marks: &[Mark]) {
        let count = disk.unsafe_changes();
        let sectors = disk.sectors();
        for names in 0..=disk.unsafe_names() {
            let mut choices: Vec<Vec<Fate>> = Vec::new();
            let pick = |is_there: &dyn Fn(usize) -> bool| -> Vec<Fate> {
                (0..count).map(|at| if is_there(at) { Fate::Whole } else { Fate::Lost }).collect()
            };
            if count <= ALL_SUBSETS {
                choices.extend((0..1_u64 << count).map(|subset| pick(&|at| subset & (1 << at) != 0)));
            } else {
                choices.extend((0..=count).map(|first| pick(&|at| at < first)));
                choices.extend((0..count).map(|lost| pick(&|at| at != lost)));
                for _ in 0..SOME_SUBSETS {
                    let subset: Vec<bool> = (0..count).map(|_| self.random.random()).collect();
                    choices.push(pick(&|at| subset[at]));
                }
            }
            for _ in 0..if count > 0 { TORN } else { 0 } {
                let fate = |at: &usize| {
                    let mask = match sectors[*at] {
                        0..=1 => 0,
                        most => self.random.random_range(0..1_u64 << most.min(63)),
                    };
                    match self.random.random_range(0..5) {
                        0 => Fate::Lost,
                        1 => Fate::Whole,
                        2 => Fate::Zeroed(mask),
                        _ => Fate::Torn(mask),
                    }
                };
                let every: Vec<usize> = (0..count).collect();
                choices.push(every.iter().map(fate).collect());
            }
            for fates in choices {
                self.try_one(&disk.after_a_cut(names, &fates), marks);
            }
        }
    }

    fn try_one(&mut self, files: &Files, marks: &[Mark]) {
        let mut hash = DefaultHasher::new();
        (files, format!("{marks:?}")).hash(&mut hash);
        if self.found.violation.is_some() {
            return;
        }
        let is_new = self.seen.lock().unwrap_or_else(PoisonError::into_inner).insert(hash.finish());
        if !is_new {
            return;
        }
        self.found.tried += 1;
        write_files(&self.dir, files);
        match judge(&self.dir, marks) {
            Ok(Verdict::Opens) => {
                if self.random.random_range(0..200) == 0 {
                    self.kept.push(Start { files: files.clone(), marks: marks.to_vec() });
                }
            }
            Ok(Verdict::Refuses) => self.found.refused += 1,
            Err(violation) => {
                let sizes: Vec<_> = files.iter().map(|(name, content)| (name, content.len())).collect();
                self.found.violation = Some(format!("{violation} (disk {}: {sizes:?})", self.found.tried));
            }
        }
    }
}

enum Verdict {
    Opens,
    Refuses,
}

/// Opens what is in the folder and asks for all that must not be signed any more.
fn judge(dir: &Path, marks: &[Mark]) -> Result<Verdict, String> {
    let Ok(store) = Store::open(dir) else { return Ok(Verdict::Refuses) };
    let counter = store.counter().ok().flatten();
    let mut writer = Writer::new(store, Metrics::default());
    if writer.reload().is_err() {
        return Ok(Verdict::Refuses);
    }
    let mut conflicts = Vec::new();
    for mark in marks {
        match mark {
            Mark::Counter(value) if counter < Some(*value) => {
                return Err(format!("the counter is {counter:?} and was {value}"));
            }
            Mark::Held(share) if writer.held(&key(*share)).is_none() => {
                return Err(format!("share {share} is gone"));
            }
            Mark::Counter(_) | Mark::Held(_) => {}
            Mark::Signed { share, vote, root } => {
                for (vote, root) in conflicting(*vote, *root) {
                    conflicts.push((*mark, Asked { key: key(*share), message: message(vote, root) }));
                }
            }
        }
    }
    let asked: Vec<&Asked> = conflicts.iter().map(|(_, asked)| asked).collect();
    // By a clock that is behind nothing: the records alone must refuse.
    let Ok(verdicts) = writer.record_all(&asked, UnixMillis(1 << 60)) else { return Ok(Verdict::Refuses) };
    match verdicts.iter().position(Result::is_ok) {
        None => Ok(Verdict::Opens),
        Some(at) => {
            let (mark, asked) = &conflicts[at];
            Err(format!("after {mark:?} it also signs {:?}", asked.message.vote))
        }
    }
}

/// What would be punished together with a vote.
fn conflicting(vote: Vote, root: u8) -> Vec<(Vote, u8)> {
    let other = if root == 77 { 78 } else { 77 };
    match vote {
        Vote::None => Vec::new(),
        Vote::Block { .. } => vec![(vote, other)],
        Vote::Attestation { source, target } => {
            let between = |source, target| (Vote::Attestation { source, target }, other);
            let mut all = vec![(vote, other), between(target.saturating_sub(1), target)];
            if source > Epoch(0) {
                all.push(between(source.saturating_sub(1), target.saturating_add(1)));
            }
            if source.saturating_add(1) < target {
                all.push(between(source.saturating_add(1), target.saturating_sub(1)));
            }
            all
        }
    }
}

fn write_files(dir: &Path, files: &Files) {
    for old in std::fs::read_dir(dir).unwrap() {
        std::fs::remove_file(old.unwrap().path()).unwrap();
    }
    for (name, content) in files {
        std::fs::write(dir.join(name), content).unwrap();
    }
}

fn read_files(dir: &Path) -> Files {
    let names =
        std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names
        .filter(|name| name != disk::MARKS)
        .map(|name| (name.clone(), std::fs::read(dir.join(name)).unwrap()))
        .collect()
}
