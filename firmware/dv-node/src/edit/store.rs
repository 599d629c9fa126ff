//! What a change of the cluster leaves on the disk: the request, the records, why it ended, and in the end the new lock. It
//! opens no share; the identity key of a box that joins is in it as it will be beside the cluster: sealed.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use ipc::edit::ClusterEdit;
use ipc::{Problem, Sensitive};
use obol::dkg::edit::Record;

use crate::sealed;

/// The folder's name.
pub const FOLDER: &str = "edit";
/// Where one is put that cannot be read.
pub const UNREADABLE: &str = "edit.unreadable";
/// The place on this box of the cluster that is changed.
const PLACE: &str = "place";
const REQUEST: &str = "request.json";
const RECORDS: &str = "records";
/// Why an attempt ended without a new cluster; while it is there, nothing is gone on with by itself.
const ENDED: &str = "ended.json";
/// A lock that was handed in and about which the signer is asked.
const BROUGHT: &str = "brought-lock.json";
/// The complete new lock; it outlives the rest, for members that are late.
const LOCK: &str = "cluster-lock.json";
/// A thousand validators and thirty members come to some ten megabytes.
const MAX_BYTES: u64 = 256 << 20;

/// The folder of the one change that a box may be in.
#[derive(Clone, Debug)]
pub struct EditStore {
    dir: PathBuf,
}

impl EditStore {
    /// The folder below the box's state directory; made when something is written.
    pub fn new(state_dir: &Path) -> Self {
        Self { dir: state_dir.join(FOLDER) }
    }

    /// The change that was begun and is not over, if there is one; the identity key of a box that joins is still sealed in it where
    /// this process has not had it opened.
    pub fn request(&self) -> io::Result<Option<ClusterEdit>> {
        let request = self.as_written()?;
        Ok(request.map(|request| ClusterEdit {
            identity_key: request.identity_key.map(sealed::if_opened),
            ..request
        }))
    }

    /// The identity key in the request, where software of before wrote it in the clear.
    fn plain_key(&self) -> io::Result<Option<Sensitive>> {
        let key = self.as_written()?.and_then(|request| request.identity_key);
        Ok(key.filter(sealed::is_key))
    }

    /// Where a request stands, and where one may that this version cannot read.
    pub(crate) fn request_paths(&self) -> [PathBuf; 2] {
        [self.dir.join(REQUEST), self.dir.with_file_name(UNREADABLE).join(REQUEST)]
    }

    fn as_written(&self) -> io::Result<Option<ClusterEdit>> {
        let Some(bytes) = read(&self.dir.join(REQUEST))? else { return Ok(None) };
        serde_json::from_slice(&bytes).map(Some).map_err(|_| damaged("the request"))
    }

    /// The same; one that is damaged counts as none, for nobody can go on with it. What was promised for it, the signer knows.
    pub fn readable_request(&self) -> io::Result<Option<ClusterEdit>> {
        none_if_damaged(self.request())
    }

    /// The place of the change that [`Self::readable_request`] gives.
    pub fn readable_place(&self) -> io::Result<Option<u8>> {
        none_if_damaged(self.place())
    }

    /// The records of that change; damaged ones, or a newer version's, count as none. What was promised, the signer knows.
    pub fn readable_records(&self) -> io::Result<Vec<Record>> {
        match self.readable_request()? {
            Some(_) => Ok(none_if_damaged(self.records().map(Some))?.unwrap_or_default()),
            None => Ok(Vec::new()),
        }
    }

    /// Begins a change anew: of what was there before, nothing is left, unless it could not be read.
    pub fn begin(&self, request: &ClusterEdit, place: u8) -> io::Result<()> {
        self.give_up()?;
        self.make_folder()?;
        self.write(PLACE, place.to_string().as_bytes())?;
        self.keep_request(request)
    }

    /// The place of the cluster that is changed.
    pub fn place(&self) -> io::Result<Option<u8>> {
        let Some(bytes) = read(&self.dir.join(PLACE))? else { return Ok(None) };
        let place = std::str::from_utf8(&bytes).ok().and_then(|text| text.parse().ok());
        place.map(Some).ok_or_else(|| damaged("the place"))
    }

    /// Keeps the request of the change that is gone on with.
    pub fn keep_request(&self, request: &ClusterEdit) -> io::Result<()> {
        self.write_request(request)?;
        // Last: a request that could not be written is not gone on with by itself.
        remove(&self.dir.join(ENDED))?;
        File::open(&self.dir)?.sync_all()
    }

    fn write_request(&self, request: &ClusterEdit) -> io::Result<()> {
        let before = none_if_damaged(self.plain_key())?;
        let key = request.identity_key.as_ref().map(|key| sealed::written(key, before.as_ref()));
        let written = ClusterEdit {
            lock: request.lock.clone(),
            edit: request.edit.clone(),
            identity_key: key.transpose()?,
            minor: request.minor,
            peers: request.peers.clone(),
            relays: request.relays.clone(),
            beacon_nodes: request.beacon_nodes.clone(),
        };
        let text = serde_json::to_vec(&written).map_err(|_| damaged("the request"))?;
        self.write(REQUEST, &text)
    }

    /// Removes everything; what cannot be read is put beside instead, for it may be another version's, and the complete lock in
    /// it may be what finishes the change. One such folder is kept.
    pub fn give_up(&self) -> io::Result<()> {
        let is_damaged = |found: io::Error| found.kind() == io::ErrorKind::InvalidData;
        if self.request().is_err_and(is_damaged)
            || self.place().is_err_and(is_damaged)
            || self.records().is_err_and(is_damaged)
        {
            let aside = self.dir.with_file_name(UNREADABLE);
            match fs::remove_dir_all(&aside) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
            fs::rename(&self.dir, &aside)?;
            return crate::store::sync_parent(&self.dir);
        }
        self.discard()
    }

    /// Removes everything: the request first and durably, for without it nothing is gone on with after a cut in the middle.
    pub fn discard(&self) -> io::Result<()> {
        if !self.dir.exists() {
            return Ok(());
        }
        remove(&self.dir.join(REQUEST))?;
        File::open(&self.dir)?.sync_all()?;
        fs::remove_dir_all(&self.dir)?;
        crate::store::sync_parent(&self.dir)
    }

    /// The cluster that is changed is at another place of this box than it was: it was left and joined again.
    pub fn move_to(&self, place: u8) -> io::Result<()> {
        self.write(PLACE, place.to_string().as_bytes())
    }

    /// The cluster was changed, and the node has the new one: only the lock stays.
    pub fn finish(&self) -> io::Result<()> {
        // The request first: without it nothing is gone on with.
        for name in [REQUEST, RECORDS, ENDED, PLACE, BROUGHT] {
            remove(&self.dir.join(name))?;
        }
        File::open(&self.dir)?.sync_all()
    }

    /// An attempt is over for everybody: if it is begun again, then anew.
    pub fn forget_records(&self) -> io::Result<()> {
        remove(&self.dir.join(RECORDS))?;
        File::open(&self.dir)?.sync_all()
    }

    /// An attempt ended without a new cluster.
    pub fn end(&self, why: &[Problem]) -> io::Result<()> {
        let text = serde_json::to_vec(why).map_err(|_| damaged("the end"))?;
        self.write(ENDED, &text)
    }

    /// Why the last attempt ended, if it did.
    pub fn ended(&self) -> io::Result<Option<Vec<Problem>>> {
        let Some(bytes) = read(&self.dir.join(ENDED))? else { return Ok(None) };
        serde_json::from_slice(&bytes).map(Some).map_err(|_| damaged("the end"))
    }

    /// The records in the order they were made. A last line that was cut off by a power cut was never acted upon.
    pub fn records(&self) -> io::Result<Vec<Record>> {
        let path = self.dir.join(RECORDS);
        let Some(bytes) = read(&path)? else { return Ok(Vec::new()) };
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        if whole < bytes.len() {
            let length = u64::try_from(whole).unwrap_or_default();
            OpenOptions::new().write(true).open(&path)?.set_len(length)?;
        }
        let lines = bytes.get(..whole).unwrap_or_default().split(|byte| *byte == b'\n');
        let lines = lines.filter(|line| !line.is_empty());
        lines.map(|line| serde_json::from_slice(line).map_err(|_| damaged("a record"))).collect()
    }

    /// Makes a record durable.
    pub fn append(&self, record: &Record) -> io::Result<()> {
        let mut line = serde_json::to_vec(record).map_err(|_| damaged("a record"))?;
        line.push(b'\n');
        let path = self.dir.join(RECORDS);
        let is_new = !path.exists();
        let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(&path)?;
        file.write_all(&line)?;
        file.sync_data()?;
        if is_new { File::open(&self.dir)?.sync_all() } else { Ok(()) }
    }

    /// Keeps the complete new lock.
    pub fn save_lock(&self, lock: &[u8]) -> io::Result<()> {
        self.make_folder()?;
        self.write(LOCK, lock)
    }

    /// Keeps a lock that was handed in until it is known what becomes of it.
    pub fn keep_brought(&self, lock: &serde_json::Value) -> io::Result<()> {
        self.make_folder()?;
        let text = serde_json::to_vec(lock).map_err(|_| damaged("the lock"))?;
        self.write(BROUGHT, &text)
    }

    /// The lock that was handed in and not done with.
    pub fn brought(&self) -> io::Result<Option<serde_json::Value>> {
        let Some(bytes) = read(&self.dir.join(BROUGHT))? else { return Ok(None) };
        serde_json::from_slice(&bytes).map(Some).map_err(|_| damaged("the lock that was handed in"))
    }

    /// It was refused.
    pub fn forget_brought(&self) -> io::Result<()> {
        remove(&self.dir.join(BROUGHT))?;
        File::open(&self.dir)?.sync_all()
    }

    /// The complete lock of the last change.
    pub fn lock(&self) -> io::Result<Option<serde_json::Value>> {
        let Some(bytes) = read(&self.dir.join(LOCK))? else { return Ok(None) };
        serde_json::from_slice(&bytes).map(Some).map_err(|_| damaged("the lock"))
    }

    fn make_folder(&self) -> io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.dir)?;
        // What is kept in it lasts only if the folder itself does.
        crate::store::sync_parent(&self.dir)
    }

    fn write(&self, name: &str, content: &[u8]) -> io::Result<()> {
        let temporary = self.dir.join(format!("{name}.new"));
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        let written = file
            .write_all(content)
            .and_then(|()| file.sync_all())
            .and_then(|()| fs::rename(&temporary, self.dir.join(name)));
        // What was written until the disk was full would keep it full, for the journal too.
        written.inspect_err(|_| drop(fs::remove_file(&temporary)))?;
        File::open(&self.dir)?.sync_all()
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
        Ok(found) if found.len() > MAX_BYTES => Err(damaged("a file")),
        Ok(_) => fs::read(path).map(Some),
    }
}

fn none_if_damaged<T>(found: io::Result<Option<T>>) -> io::Result<Option<T>> {
    match found {
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            tracing::warn!(%error, "it counts as none");
            Ok(None)
        }
        found => found,
    }
}

fn damaged(what: &str) -> io::Error {
    let text = format!("{what} of the change of the cluster cannot be read");
    io::Error::new(io::ErrorKind::InvalidData, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> ClusterEdit {
        ClusterEdit {
            lock: serde_json::json!({}),
            edit: serde_json::json!({ "recreate": {} }),
            identity_key: None,
            minor: 10,
            peers: Vec::new(),
            relays: None,
            beacon_nodes: Vec::new(),
        }
    }

    #[test]
    fn records_come_back_in_order_and_a_cut_line_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let store = EditStore::new(dir.path());
        assert!(store.request().unwrap().is_none() && store.records().unwrap().is_empty());
        store.begin(&request(), 3).unwrap();
        assert_eq!(store.place().unwrap(), Some(3));
        let records = [Record::Step(1), Record::Promised, Record::Committed];
        for record in &records {
            store.append(record).unwrap();
        }
        let mut file = OpenOptions::new().append(true).open(dir.path().join("edit/records")).unwrap();
        file.write_all(b"{\"step\":").unwrap();
        assert_eq!(store.records().unwrap(), records);
        store.append(&Record::Step(2)).unwrap();
        assert_eq!(store.records().unwrap()[3], Record::Step(2));
    }

    #[test]
    fn the_key_of_a_box_that_joins_is_sealed_and_an_attempt_that_ended_stays_so() {
        let dir = tempfile::tempdir().unwrap();
        let (store, key) = (EditStore::new(dir.path()), "62".repeat(32));
        let joins = ClusterEdit { identity_key: Some(Sensitive::new(key.clone())), ..request() };
        assert!(store.begin(&joins, 3).is_err(), "nothing is written in the clear");
        // As software of before wrote it.
        let [path, _] = store.request_paths();
        fs::write(&path, serde_json::to_vec(&joins).unwrap()).unwrap();
        store.keep_request(&joins).unwrap();
        store.end(&[Problem::new("edit_failed", "It failed.", "Again.")]).unwrap();
        assert_eq!(store.plain_key().unwrap().unwrap().expose_secret(), key);
        sealed::as_if_opened("sealed:62f0", &key);
        sealed::seal_in(&path).unwrap();
        let text = fs::read_to_string(dir.path().join(FOLDER).join(REQUEST)).unwrap();
        assert!(text.contains("sealed:62f0") && !text.contains(&key[..16]), "{text}");
        assert!(store.plain_key().unwrap().is_none() && store.ended().unwrap().is_some());
        let read = store.request().unwrap().unwrap();
        assert_eq!(serde_json::to_value(&read).unwrap(), serde_json::to_value(&joins).unwrap());
    }

    #[test]
    fn what_is_damaged_is_an_error_for_who_would_go_on_and_none_for_who_begins_or_gives_up() {
        let dir = tempfile::tempdir().unwrap();
        let store = EditStore::new(dir.path());
        store.begin(&request(), 3).unwrap();
        for name in [REQUEST, PLACE] {
            fs::write(dir.path().join(FOLDER).join(name), b"{\"cut").unwrap();
        }
        assert!(store.request().is_err() && store.place().is_err());
        assert!(store.readable_request().unwrap().is_none());
        assert_eq!(store.readable_place().unwrap(), None);
        store.save_lock(b"{}").unwrap();
        store.give_up().unwrap();
        assert!(store.request().unwrap().is_none() && store.lock().unwrap().is_none());
        assert!(dir.path().join("edit.unreadable").join(LOCK).exists());
        // The same for records, of which a newer version may know more kinds.
        store.begin(&request(), 3).unwrap();
        fs::write(dir.path().join(FOLDER).join(RECORDS), b"\"of_tomorrow\"\n").unwrap();
        assert!(store.records().is_err() && store.readable_records().unwrap().is_empty());
        store.give_up().unwrap();
        assert!(dir.path().join("edit.unreadable").join(RECORDS).exists());
    }

    #[test]
    fn giving_up_that_fails_in_the_middle_leaves_nothing_to_go_on_with() {
        let dir = tempfile::tempdir().unwrap();
        let store = EditStore::new(dir.path());
        store.begin(&request(), 3).unwrap();
        // Something in the folder that cannot be removed.
        let stuck = dir.path().join(FOLDER).join("a/b");
        fs::create_dir_all(&stuck).unwrap();
        let flags = |word: &str| std::process::Command::new("chattr").arg(word).arg(&stuck).status();
        if !flags("+i").is_ok_and(|status| status.success()) {
            return eprintln!("SKIPPED: this machine makes no file immutable");
        }
        let given_up = store.give_up();
        flags("-i").unwrap();
        assert!(given_up.is_err() && store.request().unwrap().is_none());
        store.give_up().unwrap();
        assert!(!dir.path().join(FOLDER).exists());
    }

    #[test]
    fn after_the_end_only_the_lock_is_left_and_a_new_beginning_takes_that_too() {
        let dir = tempfile::tempdir().unwrap();
        let store = EditStore::new(dir.path());
        store.begin(&request(), 0).unwrap();
        store.end(&[Problem::new("edit_failed", "It failed.", "Again.")]).unwrap();
        assert_eq!(store.ended().unwrap().unwrap().len(), 1);
        store.keep_request(&request()).unwrap();
        assert!(store.ended().unwrap().is_none());
        store.append(&Record::Committed).unwrap();
        store.save_lock(b"{}").unwrap();
        store.finish().unwrap();
        assert!(store.request().unwrap().is_none() && store.records().unwrap().is_empty());
        assert_eq!(store.lock().unwrap(), Some(serde_json::json!({})));
        store.begin(&request(), 0).unwrap();
        assert!(store.lock().unwrap().is_none());
    }
}
