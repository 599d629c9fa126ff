//! Where each cluster of this box has its files, and how they move when it is left and when it comes back (decision 0230).
//!
//! The first cluster lives in the state directory itself, as it did when a box had one: a box that was set up before is
//! taken over by leaving every file where it is, and software from before finds it there. Each further one has
//! `clusters/<place>`. What is left goes to `left/` with its journal and its chain, and comes back from there when the same
//! member of the same cluster is joined again: what was said in agreements is never forgotten while the box exists. What was
//! left when nobody could tell whose it was stays there under a name that says so, and whoever is joined for the first time
//! from then on counts as having spoken in it (decision 0280).
//!
//! A folder of its own moves in one rename. The first cluster's files move one by one: the folder they move to says so in its
//! name until all are there, and a start after a crash moves the rest before anything else. `cluster.json` goes first and
//! comes back last, so that there is never a cluster without its memory.

use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use crate::store::{CLUSTER, CLUSTER_BEFORE, PinnedChain, Store, StoreError};

/// Clusters on one box. Each has its own port, and the box's firewall lets as many through.
pub const MAX_CLUSTERS: u8 = 8;
const CLUSTERS: &str = "clusters";
const LEFT: &str = "left";
/// What stands in the state directory and belongs to no cluster.
const OF_THE_BOX: [&str; 5] =
    [CLUSTERS, LEFT, crate::dkg::FOLDER, crate::edit::FOLDER, crate::edit::UNREADABLE];
const LEAVING: &str = "leaving";
const RETURNING: &str = "returning";
/// What the small files beside a lock come to, many times over.
const SMALL_FILES: usize = 256 << 10;

/// The state directory of the box.
#[derive(Debug, Clone)]
pub struct Folders {
    state_dir: PathBuf,
}

impl Folders {
    /// Makes it (0700) when it is not there. [`Self::finish`] comes next: a crash may have interrupted a move.
    pub fn at(state_dir: &Path) -> Result<Self, StoreError> {
        Store::open(state_dir)?;
        Ok(Self { state_dir: state_dir.to_owned() })
    }

    /// The files of the cluster at a place. The folder is made, and durable, when it is not there.
    pub fn store(&self, place: u8) -> Result<Store, StoreError> {
        if place > 0 {
            self.make(CLUSTERS)?;
        }
        Store::open(&self.of(place))
    }

    /// The same when the folder cannot be opened.
    pub fn store_as_it_is(&self, place: u8) -> Store {
        Store::as_it_is(&self.of(place))
    }

    /// The places that have files. The first one always counts.
    pub fn places(&self) -> Result<Vec<u8>, StoreError> {
        let folder = self.state_dir.join(CLUSTERS);
        let mut places = vec![0];
        for name in names_in(&folder).map_err(failed("read", &folder))? {
            let place = name.to_str().and_then(|name| name.parse().ok());
            places.extend(place.filter(|place| (1..MAX_CLUSTERS).contains(place)));
        }
        places.sort_unstable();
        Ok(places)
    }

    /// What is left of a cluster that this box was a member of.
    pub fn left(&self, name: &str) -> Option<PathBuf> {
        let folder = self.state_dir.join(LEFT).join(name);
        folder.is_dir().then_some(folder)
    }

    /// The files of every cluster that this box is in, or was.
    pub fn all_stores(&self) -> Result<Vec<Store>, StoreError> {
        let left = self.state_dir.join(LEFT);
        let names = names_in(&left).map_err(failed("read", &left))?;
        let left = names.iter().map(|name| left.join(name)).filter(|folder| folder.is_dir());
        let served = self.places()?.into_iter().map(|place| self.of(place));
        Ok(served.chain(left).map(|folder| Store::as_it_is(&folder)).collect())
    }

    /// Whether a cluster was left of which nobody can tell any more which one it was, and the latest slot that any such memory
    /// speaks of.
    pub fn left_by_unknown(&self) -> Result<Option<u64>, StoreError> {
        let left = self.state_dir.join(LEFT);
        let names = names_in(&left).map_err(failed("read", &left))?;
        let unknown = names.iter().filter(|name| !names_a_member(name)).map(|name| left.join(name));
        let stores = unknown.filter(|folder| folder.is_dir()).map(|folder| Store::as_it_is(&folder));
        Ok(stores.map(|store| crate::journal::latest_slot(&store.journal_path())).max())
    }

    /// The latest slot that a memory of this very member speaks of, among the clusters that were left: by their locks, and so under
    /// whatever name, but for the one given. What cannot be read may be this member's.
    pub fn left_by_member(
        &self,
        member: &cluster::IdentityPublicKey,
        but: &str,
    ) -> Result<Option<u64>, StoreError> {
        let left = self.state_dir.join(LEFT);
        let names = names_in(&left).map_err(failed("read", &left))?;
        let folders = names.into_iter().filter(|name| name != but).map(|name| left.join(name));
        let its = folders.filter(|folder| folder.is_dir() && may_be_of(folder, member));
        Ok(its.map(|folder| crate::journal::latest_slot(&Store::as_it_is(&folder).journal_path())).max())
    }

    /// Takes so much room on the disk for what is to be written soon, where clusters are left and at a place. It is free again when
    /// the answer is dropped, and when the process ends.
    pub fn take_room(&self, place: u8, bytes: usize) -> Result<Room, StoreError> {
        self.make(LEFT)?;
        let held = |folder: PathBuf, bytes| hold(&folder, bytes).map_err(failed("write", &folder));
        let left = held(self.state_dir.join(LEFT), SMALL_FILES)?;
        Ok(Room { _held: [left, held(self.of(place), bytes.saturating_add(SMALL_FILES))?] })
    }

    /// Puts the files of a place away under a name. Nobody may be using them.
    pub fn leave(&self, place: u8, name: &str) -> Result<(), StoreError> {
        let to = self.state_dir.join(LEFT).join(name);
        if to.exists() {
            let source = io::Error::from(io::ErrorKind::AlreadyExists);
            return Err(StoreError::Io { doing: "write", path: to, source });
        }
        self.make(LEFT)?;
        if place > 0 {
            return rename(&self.of(place), &to).map_err(failed("write", &to));
        }
        let moving = to.with_added_extension(LEAVING);
        make_dir(&moving).map_err(failed("write", &moving))?;
        self.finish()
    }

    /// Puts what a member said at a place away under its name, while the other files there go on with another lock. First of all
    /// it is noted in both places how far it spoke: whoever is served from either is silent up to there and up to then. May be
    /// repeated after a crash.
    pub fn put_memory_away(
        &self,
        place: u8,
        name: &str,
        chain: Option<&PinnedChain>,
    ) -> Result<(), StoreError> {
        let from = Store::as_it_is(&self.of(place));
        let latest = crate::journal::latest_slot(&from.journal_path());
        from.note_forgotten(latest)?;
        self.make(LEFT)?;
        let folder = self.state_dir.join(LEFT).join(name);
        make_dir(&folder).map_err(failed("make", &folder))?;
        let to = Store::as_it_is(&folder);
        to.note_forgotten(latest)?;
        if let Some(chain) = chain {
            to.save_chain(chain)?;
        }
        match rename(&from.journal_path(), &to.journal_path()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            moved => moved.map_err(failed("write", &folder)),
        }
    }

    /// Brings the files back to a place that has none.
    pub fn take_back(&self, name: &str, place: u8) -> Result<(), StoreError> {
        let from = self.state_dir.join(LEFT).join(name);
        if place > 0 {
            self.make(CLUSTERS)?;
            return rename(&from, &self.of(place)).map_err(failed("write", &from));
        }
        rename(&from, &from.with_added_extension(RETURNING)).map_err(failed("write", &from))?;
        self.finish()
    }

    /// Moves the rest of what was being moved.
    pub fn finish(&self) -> Result<(), StoreError> {
        let left = self.state_dir.join(LEFT);
        for name in names_in(&left).map_err(failed("read", &left))? {
            let folder = left.join(&name);
            let moved = match folder.extension().and_then(|extension| extension.to_str()) {
                Some(LEAVING) => self.finish_leaving(&folder),
                Some(RETURNING) => self.finish_returning(&folder),
                Some(_) | None => Ok(()),
            };
            moved.map_err(failed("write", &folder))?;
        }
        Ok(())
    }

    fn finish_leaving(&self, folder: &Path) -> io::Result<()> {
        let mut names = names_in(&self.state_dir)?;
        names.retain(|name| !OF_THE_BOX.iter().any(|of_the_box| name == of_the_box));
        names.sort_by_key(|name| name != CLUSTER);
        for name in names {
            rename(&self.state_dir.join(&name), &folder.join(&name))?;
        }
        rename(folder, &folder.with_extension(""))
    }

    fn finish_returning(&self, folder: &Path) -> io::Result<()> {
        let mut names = names_in(folder)?;
        names.sort_by_key(|name| name == CLUSTER);
        for name in names {
            rename(&folder.join(&name), &self.state_dir.join(&name))?;
        }
        fs::remove_dir(folder)?;
        crate::store::sync_parent(folder)
    }

    fn of(&self, place: u8) -> PathBuf {
        match place {
            0 => self.state_dir.clone(),
            further => self.state_dir.join(CLUSTERS).join(further.to_string()),
        }
    }

    fn make(&self, name: &str) -> Result<(), StoreError> {
        let folder = self.state_dir.join(name);
        make_dir(&folder).map_err(failed("make", &folder))
    }
}

/// Room on the disk that nobody else has.
#[derive(Debug)]
pub struct Room {
    _held: [File; 2],
}

/// A file that is in no folder any more: it takes its room until it is closed.
fn hold(folder: &Path, bytes: usize) -> io::Result<File> {
    let path = folder.join("room.new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path)?;
    fs::remove_file(&path)?;
    let block = [0x5a; 1 << 16];
    let mut left = bytes;
    while left > 0 {
        let now = left.min(block.len());
        file.write_all(&block[..now])?;
        left -= now;
    }
    file.sync_all()?;
    Ok(file)
}

/// Whether what was left there was this member's, by the lock in it. A memory that was put away for another lock has none, and its
/// words were noted with that lock.
fn may_be_of(folder: &Path, member: &cluster::IdentityPublicKey) -> bool {
    let read = |name: &str| match fs::read(folder.join(name)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        read => Some(read),
    };
    let Some(file) = read(CLUSTER).or_else(|| read(CLUSTER_BEFORE)) else { return false };
    let records = |bytes: Vec<u8>| -> Option<Vec<cluster::Enr>> {
        let file: serde_json::Value = serde_json::from_slice(&bytes).ok()?;
        let operators = file.pointer("/lock/cluster_definition/operators")?.as_array()?;
        let record = |operator: &serde_json::Value| cluster::Enr::parse(operator.get("enr")?.as_str()?).ok();
        operators.iter().map(record).collect()
    };
    let records = file.ok().and_then(records);
    records.is_none_or(|records| records.iter().any(|record| record.public_key() == *member))
}

/// Whether a name says which member of which cluster: the lock hash and the share index.
fn names_a_member(name: &OsStr) -> bool {
    let parts = name.to_str().and_then(|name| name.split_once('-'));
    parts.is_some_and(|(lock_hash, index)| {
        lock_hash.len() == 64
            && lock_hash.bytes().all(|byte| byte.is_ascii_hexdigit())
            && index.parse::<u8>().is_ok_and(|index| index > 0)
    })
}

fn failed(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError + use<> {
    let path = path.to_owned();
    move |source| StoreError::Io { doing, path, source }
}

/// Sorted; none when the folder is not there.
fn names_in(folder: &Path) -> io::Result<Vec<OsString>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut names =
        entries.map(|entry| entry.map(|entry| entry.file_name())).collect::<io::Result<Vec<_>>>()?;
    names.sort();
    Ok(names)
}

fn make_dir(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    crate::store::sync_parent(folder)
}

/// Renames, and returns when both folders know it for good.
fn rename(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)?;
    if let Some(folder) = to.parent() {
        File::open(folder)?.sync_all()?;
    }
    crate::store::sync_parent(from)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILES: [&str; 5] = ["cluster.json", "identity.key", "chain.json", "journal", "exits.json"];

    fn content(folder: &Path) -> Vec<(OsString, Vec<u8>)> {
        let names = names_in(folder).unwrap();
        let files = names.into_iter().filter(|name| folder.join(name).is_file());
        files.map(|name| (name.clone(), fs::read(folder.join(&name)).unwrap())).collect()
    }

    /// A box with a cluster in the state directory, as boxes were, and another one.
    fn state() -> (tempfile::TempDir, Folders) {
        let dir = tempfile::tempdir().unwrap();
        let folders = Folders::at(dir.path()).unwrap();
        folders.store(1).unwrap();
        for folder in [dir.path().to_owned(), dir.path().join("clusters/1")] {
            for name in FILES {
                fs::write(folder.join(name), format!("{} {name}", folder.display())).unwrap();
            }
        }
        fs::create_dir(dir.path().join("dkg")).unwrap();
        (dir, folders)
    }

    #[test]
    fn what_is_left_comes_back_as_it_was_at_any_place() {
        for (place, back) in [(0, 0), (0, 2), (1, 1), (1, 3)] {
            let (dir, folders) = state();
            let other = folders.of(1 - place);
            let (before, untouched) = (content(&folders.of(place)), content(&other));
            folders.leave(place, "ab-1").unwrap();
            assert!(folders.leave(1 - place, "ab-1").is_err(), "never over another one");
            assert!(content(&folders.of(place)).is_empty() && folders.left("ab-1").is_some());
            assert!(dir.path().join("dkg").is_dir());
            folders.take_back("ab-1", back).unwrap();
            assert_eq!(content(&folders.of(back)), before);
            assert_eq!(content(&other), untouched);
            assert!(folders.left("ab-1").is_none());
        }
    }

    #[test]
    fn a_crash_at_any_step_of_a_move_is_made_good_at_the_next_start() {
        for moved in 0..=FILES.len() {
            // Leaving: the first files are away.
            let (dir, folders) = state();
            let before = content(dir.path());
            let folder = dir.path().join("left/ab-1.leaving");
            fs::create_dir_all(&folder).unwrap();
            for name in FILES.iter().take(moved) {
                fs::rename(dir.path().join(name), folder.join(name)).unwrap();
            }
            Folders::at(dir.path()).unwrap().finish().unwrap();
            assert_eq!(content(&dir.path().join("left/ab-1")), before);
            assert!(content(dir.path()).is_empty());

            // Coming back: the last files are here.
            let folder = dir.path().join("left/ab-1.returning");
            fs::rename(dir.path().join("left/ab-1"), &folder).unwrap();
            for name in FILES.iter().rev().take(moved) {
                fs::rename(folder.join(name), dir.path().join(name)).unwrap();
            }
            Folders::at(dir.path()).unwrap().finish().unwrap();
            assert_eq!(content(dir.path()), before);
            assert!(folders.left("ab-1").is_none() && folders.left("ab-1.returning").is_none());
        }
    }

    #[test]
    fn there_is_never_a_cluster_without_its_memory_while_files_move() {
        let (dir, folders) = state();
        // A move that cannot go on: the target of one file is a folder that is not empty.
        fs::create_dir_all(dir.path().join("left/ab-1.leaving/journal/x")).unwrap();
        assert!(folders.finish().is_err());
        assert!(!dir.path().join("cluster.json").exists() && dir.path().join("journal").exists());
        fs::remove_dir_all(dir.path().join("left/ab-1.leaving/journal")).unwrap();
        folders.finish().unwrap();
        fs::create_dir_all(dir.path().join("journal/x")).unwrap();
        assert!(folders.take_back("ab-1", 0).is_err());
        assert!(!dir.path().join("cluster.json").exists());
    }

    #[test]
    fn a_memory_that_no_member_is_named_by_is_found_with_the_latest_slot_it_speaks_of() {
        let (dir, folders) = state();
        assert_eq!(folders.left_by_unknown().unwrap(), None);
        let known = format!("left/{}-3", "ab".repeat(32));
        fs::create_dir_all(dir.path().join(known)).unwrap();
        assert_eq!(folders.left_by_unknown().unwrap(), None, "whose it is stands in its name");
        for (name, slot, latest) in [("unreadable-17", 8, 8), ("-0", 5, 8), ("ab-1", 9, 9)] {
            let folder = dir.path().join("left").join(name);
            fs::create_dir_all(&folder).unwrap();
            let live = std::collections::BTreeMap::from([((slot, 2), vec![1])]);
            fs::write(folder.join("journal"), crate::journal::write_bytes(&live).unwrap()).unwrap();
            assert_eq!(folders.left_by_unknown().unwrap(), Some(latest), "{name}");
        }
        fs::write(dir.path().join("left/unreadable-17/journal"), "garbage").unwrap();
        fs::remove_dir_all(dir.path().join("left/ab-1")).unwrap();
        assert_eq!(folders.left_by_unknown().unwrap(), Some(5));
    }

    #[test]
    fn what_was_said_under_an_old_lock_is_put_away_and_binds_whoever_is_served_from_either_place() {
        let chain = PinnedChain {
            genesis_validators_root: chain::Root([1; 32]),
            genesis_time: 7,
            lock_hash: Some("ab".repeat(32)),
            share_index: Some(3),
        };
        let name = format!("{}-3", "ab".repeat(32));
        let spoken = crate::journal::write_bytes(&std::collections::BTreeMap::from([
            ((40, 2), vec![1]),
            ((52, 2), vec![1]),
        ]));
        let spoken = spoken.unwrap();
        for (place, known) in [(0, Some(&chain)), (1, Some(&chain)), (1, None)] {
            let (_dir, folders) = state();
            let here = folders.of(place);
            fs::write(here.join("journal"), &spoken).unwrap();
            fs::remove_file(here.join("chain.json")).unwrap();
            // A crash may come after any step: it is all done again.
            for _ in 0..2 {
                folders.put_memory_away(place, &name, known).unwrap();
                let left = Store::as_it_is(&folders.left(&name).unwrap());
                assert_eq!(fs::read(left.journal_path()).unwrap(), spoken);
                assert_eq!(left.load_chain().unwrap().as_ref(), known);
                for store in [&left, &folders.store(place).unwrap()] {
                    assert_eq!(store.load_forgotten().unwrap().map(|forgotten| forgotten.slot), Some(52));
                }
                assert!(!here.join("journal").exists() && here.join("cluster.json").exists());
            }
            // The old member that is joined again, at any place, has it.
            folders.take_back(&name, 2).unwrap();
            assert_eq!(fs::read(folders.of(2).join("journal")).unwrap(), spoken);
            assert_eq!(folders.left_by_unknown().unwrap(), None);
        }
    }

    #[test]
    fn places_are_those_that_have_folders() {
        let (dir, folders) = state();
        for name in ["x", "0", "7", "8", "300"] {
            fs::create_dir(dir.path().join("clusters").join(name)).unwrap();
        }
        assert_eq!(folders.places().unwrap(), [0, 1, 7]);
    }
}
