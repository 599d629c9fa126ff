//! A disk that loses what was not synced: it takes a process's recorded writes one by one and makes, at any moment, what a
//! power cut or a killed process can leave of them.
//!
//! What a file was synced with is safe. Of everything written since, any part may be there: each write for itself, whole,
//! lost, or torn at any sector. New and deleted names are safe once the folder was synced; until then a beginning of
//! them, in their order, may be there, as journalling file systems have it.

use std::collections::BTreeMap;

/// The unit in which disks write.
const SECTOR: usize = 512;
/// The file in which the recorded process says what it has given out. It is no file of the ledger and on no disk.
pub(super) const MARKS: &str = "marks";

/// Names and contents.
pub(super) type Files = BTreeMap<String, Vec<u8>>;

/// One entry of the recorder's log; see `recorder.c`.
#[derive(Clone, Debug)]
pub(super) enum Event {
    Open { fd: u32, name: String, creates: bool, truncates: bool },
    Write { fd: u32, offset: usize, bytes: Vec<u8> },
    Truncate { fd: u32, length: usize },
    Sync { fd: u32 },
    Close { fd: u32 },
    Unlink { name: String },
    Rename { from: String, to: String },
}

/// Reads the recorder's log.
pub(super) fn parse(mut log: &[u8]) -> Vec<Event> {
    let mut events = Vec::new();
    while let Some((head, rest)) = log.split_at_checked(17) {
        let fd = u32::from_le_bytes(head[1..5].try_into().unwrap());
        let number = u64::from_le_bytes(head[5..13].try_into().unwrap());
        let length = u32::from_le_bytes(head[13..17].try_into().unwrap());
        let (bytes, rest) = rest.split_at(usize::try_from(length).unwrap());
        let text = || String::from_utf8(bytes.to_vec()).unwrap();
        let has = |flag: nix::fcntl::OFlag| number & u64::try_from(flag.bits()).unwrap() != 0;
        let number_of_bytes = || usize::try_from(number).unwrap();
        events.push(match head[0] {
            b'O' => Event::Open {
                fd,
                name: text(),
                creates: has(nix::fcntl::OFlag::O_CREAT),
                truncates: has(nix::fcntl::OFlag::O_TRUNC),
            },
            b'W' => Event::Write { fd, offset: number_of_bytes(), bytes: bytes.to_vec() },
            b'T' => Event::Truncate { fd, length: number_of_bytes() },
            b'S' => Event::Sync { fd },
            b'C' => Event::Close { fd },
            b'U' => Event::Unlink { name: text() },
            b'R' => {
                let names = text();
                let (from, to) = names.split_once('\0').unwrap();
                Event::Rename { from: from.to_owned(), to: to.to_owned() }
            }
            other => panic!("an entry of kind {other} is unknown"),
        });
        log = rest;
    }
    assert!(log.is_empty(), "the log ends in the middle of an entry");
    events
}

#[derive(Clone, Debug)]
enum Change {
    Write { offset: usize, bytes: Vec<u8> },
    Truncate(usize),
}

/// What becomes of one change that was not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Whole,
    Lost,
    /// Of a write, the sectors whose bit is set.
    Torn(u64),
    /// The same, and the others hold zeros: the file grew and its new blocks were never written.
    Zeroed(u64),
}

#[derive(Clone, Debug, Default)]
struct File {
    durable: Vec<u8>,
    pending: Vec<Change>,
}

#[derive(Clone, Debug)]
enum Naming {
    Put(String, usize),
    Gone(String),
    Moved(String, String),
}

#[derive(Clone, Copy, Debug)]
enum Handle {
    Folder,
    File(usize),
    Marks,
}

/// The disk.
#[derive(Debug, Default)]
pub(super) struct Disk {
    files: Vec<File>,
    names: BTreeMap<String, usize>,
    pending_names: Vec<Naming>,
    handles: BTreeMap<u32, Handle>,
}

impl Disk {
    /// A disk on which these files are safe.
    pub(super) fn new(files: &Files) -> Self {
        let mut disk = Self::default();
        for (name, content) in files {
            disk.names.insert(name.clone(), disk.files.len());
            disk.files.push(File { durable: content.clone(), pending: Vec::new() });
        }
        disk
    }

    /// Takes one event. Gives the words when it is one of the process about what it has given out.
    pub(super) fn apply(&mut self, event: &Event) -> Option<String> {
        match event {
            Event::Open { fd, name, creates, truncates } => {
                let handle = match name.as_str() {
                    "" => Handle::Folder,
                    MARKS => Handle::Marks,
                    name => {
                        assert!(!name.ends_with("-shm"), "shared memory is not recorded");
                        let file = self.names_now(self.pending_names.len()).get(name).copied();
                        let file = file.unwrap_or_else(|| {
                            assert!(*creates, "{name} was opened and is not there");
                            self.files.push(File::default());
                            self.pending_names.push(Naming::Put(name.to_owned(), self.files.len() - 1));
                            self.files.len() - 1
                        });
                        if *truncates {
                            self.files[file].pending.push(Change::Truncate(0));
                        }
                        Handle::File(file)
                    }
                };
                self.handles.insert(*fd, handle);
            }
            Event::Write { fd, offset, bytes } => match self.handles[fd] {
                Handle::Marks => return Some(String::from_utf8(bytes.clone()).unwrap()),
                Handle::File(file) => {
                    self.files[file].pending.push(Change::Write { offset: *offset, bytes: bytes.clone() });
                }
                Handle::Folder => panic!("a folder cannot be written"),
            },
            Event::Truncate { fd, length } => {
                let Handle::File(file) = self.handles[fd] else { panic!("only files are cut") };
                self.files[file].pending.push(Change::Truncate(*length));
            }
            Event::Sync { fd } => match self.handles[fd] {
                Handle::File(file) => {
                    let file = &mut self.files[file];
                    for change in std::mem::take(&mut file.pending) {
                        change_with(&mut file.durable, &change, Fate::Whole);
                    }
                }
                Handle::Folder => {
                    self.names = self.names_now(self.pending_names.len());
                    self.pending_names.clear();
                }
                Handle::Marks => {}
            },
            Event::Close { fd } => drop(self.handles.remove(fd)),
            Event::Unlink { name } => self.pending_names.push(Naming::Gone(name.clone())),
            Event::Rename { from, to } => {
                self.pending_names.push(Naming::Moved(from.clone(), to.clone()));
            }
        }
        None
    }

    fn names_now(&self, kept: usize) -> BTreeMap<String, usize> {
        let mut names = self.names.clone();
        for naming in &self.pending_names[..kept] {
            match naming {
                Naming::Put(name, file) => drop(names.insert(name.clone(), *file)),
                Naming::Gone(name) => drop(names.remove(name)),
                Naming::Moved(from, to) => {
                    if let Some(file) = names.remove(from) {
                        names.insert(to.clone(), file);
                    }
                }
            }
        }
        names
    }

    /// How many names are not safe yet.
    pub(super) fn unsafe_names(&self) -> usize {
        self.pending_names.len()
    }

    /// How many changes to contents are not safe yet.
    pub(super) fn unsafe_changes(&self) -> usize {
        self.files.iter().map(|file| file.pending.len()).sum()
    }

    /// How many sectors each of them touches; none for one that is not a write.
    pub(super) fn sectors(&self) -> Vec<usize> {
        let sectors = |change: &Change| match change {
            Change::Write { offset, bytes } => {
                (offset + bytes.len()).div_ceil(SECTOR).saturating_sub(offset / SECTOR)
            }
            Change::Truncate(_) => 0,
        };
        self.files.iter().flat_map(|file| file.pending.iter().map(sectors)).collect()
    }

    /// The position, among the changes that are not safe, of the last one that this event made.
    pub(super) fn position_of_last(&self, event: &Event) -> Option<usize> {
        let Event::Write { fd, .. } = event else { return None };
        let Handle::File(file) = self.handles[fd] else { return None };
        let before: usize = self.files[..file].iter().map(|file| file.pending.len()).sum();
        (before + self.files[file].pending.len()).checked_sub(1)
    }

    /// What is found after a cut that so many new names survived, and of the changes what `fates` say, in order.
    pub(super) fn after_a_cut(&self, names: usize, fates: &[Fate]) -> Files {
        let mut at = 0;
        let starts: Vec<usize> = self
            .files
            .iter()
            .map(|file| {
                at += file.pending.len();
                at - file.pending.len()
            })
            .collect();
        let content = |file: usize| {
            let mut content = self.files[file].durable.clone();
            for (change, fate) in self.files[file].pending.iter().zip(&fates[starts[file]..]) {
                change_with(&mut content, change, *fate);
            }
            content
        };
        self.names_now(names).into_iter().map(|(name, file)| (name, content(file))).collect()
    }

    /// What a killed process leaves: the system writes the rest by itself.
    pub(super) fn after_a_kill(&self) -> Files {
        self.after_a_cut(self.unsafe_names(), &vec![Fate::Whole; self.unsafe_changes()])
    }
}

fn change_with(content: &mut Vec<u8>, change: &Change, fate: Fate) {
    let (offset, bytes) = match change {
        _ if fate == Fate::Lost => return,
        Change::Truncate(length) => return content.resize(*length, 0),
        Change::Write { offset, bytes } => (*offset, bytes),
    };
    let mut from = 0;
    let mut sector = 0_u32;
    while from < bytes.len() {
        let to = bytes.len().min((offset + from) / SECTOR * SECTOR + SECTOR - offset);
        let is_there = |mask: u64| mask & (1 << (sector % 64)) != 0;
        let piece = match fate {
            Fate::Torn(mask) if !is_there(mask) => None,
            Fate::Zeroed(mask) if !is_there(mask) => Some(vec![0; to - from]),
            Fate::Whole | Fate::Lost | Fate::Torn(_) | Fate::Zeroed(_) => Some(bytes[from..to].to_vec()),
        };
        if let Some(piece) = piece {
            if content.len() < offset + to {
                content.resize(offset + to, 0);
            }
            content[offset + from..offset + to].copy_from_slice(&piece);
        }
        (from, sector) = (to, sector + 1);
    }
}

#[test]
fn a_cut_leaves_what_was_synced_and_any_part_of_the_rest() {
    let mut disk = Disk::new(&Files::from([("old".to_owned(), vec![1; 600])]));
    let open = |fd, name: &str| Event::Open { fd, name: name.to_owned(), creates: true, truncates: false };
    let write = |fd, offset, byte, length| Event::Write { fd, offset, bytes: vec![byte; length] };
    for event in [open(3, "old"), write(3, 0, 2, 600), Event::Sync { fd: 3 }, write(3, 500, 3, 200)] {
        assert_eq!(disk.apply(&event), None);
    }
    assert_eq!((disk.unsafe_changes(), disk.sectors()), (1, vec![2]));
    let at = |files: &Files| files["old"].clone();
    assert_eq!(at(&disk.after_a_cut(0, &[Fate::Lost])), vec![2; 600]);
    assert_eq!(at(&disk.after_a_kill())[499..], [&[2][..], &[3; 200]].concat());
    assert_eq!(at(&disk.after_a_cut(0, &[Fate::Torn(1)]))[499..], [&[2][..], &[3; 12], &[2; 88]].concat());
    assert_eq!(at(&disk.after_a_cut(0, &[Fate::Zeroed(2)]))[499..], [&[2][..], &[0; 12], &[3; 188]].concat());
    // A new name is not safe before the folder was synced.
    disk.apply(&open(4, "new"));
    disk.apply(&Event::Sync { fd: 4 });
    assert_eq!((disk.after_a_cut(0, &[Fate::Lost]).len(), disk.after_a_kill().len()), (1, 2));
    disk.apply(&open(5, ""));
    disk.apply(&Event::Sync { fd: 5 });
    assert_eq!(disk.after_a_cut(0, &[Fate::Lost]).len(), 2);
    assert_eq!(disk.apply(&open(6, MARKS)), None);
    assert_eq!(disk.apply(&write(6, 0, b'x', 2)), Some("xx".to_owned()));
}
