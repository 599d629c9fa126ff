//! What a ceremony leaves on the disk: the request, the records, and in the end the files. Nothing in it opens a share;
//! the identity key is in it as it is beside every cluster: sealed.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use ipc::Sensitive;
use ipc::dkg::{KeyGeneration, NamedFile};
use obol::dkg::ceremony::Record;

use crate::sealed;

/// Name of the folder in the state directory.
pub const FOLDER: &str = "dkg";
const REQUEST: &str = "request.json";
const PLACE: &str = "place";
const RECORDS: &str = "records";
const FILES: &str = "files";
const OVER: &str = "over";
/// A thousand validators and thirty members come to some ten megabytes.
const MAX_BYTES: u64 = 256 << 20;

/// A request that was read back.
pub type StoredRequest = KeyGeneration;

/// The folder of the one ceremony of this box.
#[derive(Clone, Debug)]
pub struct CeremonyStore {
    dir: PathBuf,
}

impl CeremonyStore {
    /// The folder below the state directory; made when something is written.
    pub fn new(state_dir: &Path) -> Self {
        Self { dir: state_dir.join(FOLDER) }
    }

    /// The ceremony that was begun, if there is one; its identity key still sealed where this process has not had it opened.
    pub fn request(&self) -> io::Result<Option<StoredRequest>> {
        let request = self.as_written()?;
        Ok(request.map(|request| KeyGeneration {
            identity_key: sealed::if_opened(request.identity_key),
            ..request
        }))
    }

    fn as_written(&self) -> io::Result<Option<StoredRequest>> {
        let Some(bytes) = read(&self.dir.join(REQUEST))? else { return Ok(None) };
        serde_json::from_slice(&bytes).map(Some).map_err(|_| damaged("the request"))
    }

    /// The identity key in the request, where software of before wrote it in the clear.
    fn plain_key(&self) -> io::Result<Option<Sensitive>> {
        let key = self.as_written()?.map(|request| request.identity_key);
        Ok(key.filter(sealed::is_key))
    }

    /// Where a request stands.
    pub(crate) fn request_path(&self) -> PathBuf {
        self.dir.join(REQUEST)
    }

    /// Begins a ceremony: its folder is empty but for the request.
    pub fn begin(&self, request: &KeyGeneration) -> io::Result<()> {
        self.discard()?;
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.dir)?;
        crate::store::sync_parent(&self.dir)?;
        self.keep_request(request)
    }

    /// The place that the new cluster will have on this box: the others were told its port.
    pub fn place(&self) -> io::Result<Option<u8>> {
        let Some(bytes) = read(&self.dir.join(PLACE))? else { return Ok(None) };
        serde_json::from_slice(&bytes).map(Some).map_err(|_| damaged("the place"))
    }

    /// Keeps it.
    pub fn keep_place(&self, place: u8) -> io::Result<()> {
        self.write(PLACE, place.to_string().as_bytes())
    }

    /// Keeps the request of the ceremony under way.
    pub fn keep_request(&self, request: &KeyGeneration) -> io::Result<()> {
        let before = self.plain_key().ok().flatten();
        let written = KeyGeneration {
            definition: request.definition.clone(),
            adding: request.adding.clone(),
            identity_key: sealed::written(&request.identity_key, before.as_ref())?,
            minor: request.minor,
            peers: request.peers.clone(),
            beacon_nodes: request.beacon_nodes.clone(),
            relays: request.relays.clone(),
        };
        let text = serde_json::to_vec(&written).map_err(|_| damaged("the request"))?;
        self.write(REQUEST, &text)
    }

    /// Whether it led to a cluster and is never resumed.
    pub fn is_over(&self) -> io::Result<bool> {
        self.dir.join(OVER).try_exists()
    }

    /// It is never resumed from now on: durable when this returns. Its files stay.
    pub fn end(&self) -> io::Result<()> {
        if self.is_over()? { Ok(()) } else { self.write(OVER, &[]) }
    }

    /// It is over, and what was asked for is not needed any more: only the files stay. What a box says in a request may be more than
    /// the version before can read, and that one must find nothing here that it stumbles over.
    pub fn end_without_request(&self) -> io::Result<()> {
        self.end()?;
        for name in [REQUEST, RECORDS, PLACE] {
            match fs::remove_file(self.dir.join(name)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
        }
        File::open(&self.dir)?.sync_all()
    }

    /// Removes everything, first of all what would be resumed.
    pub fn discard(&self) -> io::Result<()> {
        let is_there = |result: io::Result<()>| match result {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            result => result.map(|()| true),
        };
        if is_there(fs::remove_file(self.dir.join(REQUEST)))? {
            File::open(&self.dir)?.sync_all()?;
        }
        if is_there(fs::remove_dir_all(&self.dir))? {
            crate::store::sync_parent(&self.dir)?;
        }
        Ok(())
    }

    /// The records in the order they were made. A last line that was cut off by a power cut was never acted upon.
    pub fn records(&self) -> io::Result<Vec<Record>> {
        let path = self.dir.join(RECORDS);
        let Some(bytes) = read(&path)? else { return Ok(Vec::new()) };
        let (records, whole) = parse_records(&bytes);
        if whole < bytes.len() {
            let length = u64::try_from(whole).unwrap_or_default();
            OpenOptions::new().write(true).open(&path)?.set_len(length)?;
        }
        records.ok_or_else(|| damaged("a record"))
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

    /// Keeps the files that the owner downloads.
    pub fn save_files(&self, files: &[NamedFile]) -> io::Result<()> {
        let text = serde_json::to_vec(files).map_err(|_| damaged("the files"))?;
        self.write(FILES, &text)
    }

    /// The files, once there are any.
    pub fn files(&self) -> io::Result<Vec<NamedFile>> {
        let Some(bytes) = read(&self.dir.join(FILES))? else { return Ok(Vec::new()) };
        serde_json::from_slice(&bytes).map_err(|_| damaged("the files"))
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

/// The records of a file, none when one of them cannot be read, and how much of it is whole: a crash tears the last line.
pub(crate) fn parse_records(bytes: &[u8]) -> (Option<Vec<Record>>, usize) {
    let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    let lines = bytes[..whole].split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    (lines.map(|line| serde_json::from_slice(line).ok()).collect(), whole)
}

fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
        Ok(found) if found.len() > MAX_BYTES => Err(damaged("a file")),
        Ok(_) => fs::read(path).map(Some),
    }
}

fn damaged(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{what} of the key generation cannot be read"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_back_in_order_and_a_cut_line_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let store = CeremonyStore::new(dir.path());
        assert!(store.request().unwrap().is_none() && store.records().unwrap().is_empty());
        fs::create_dir(dir.path().join("dkg")).unwrap();
        let records = [Record::Step(1), Record::Kept { member: 2 }, Record::Released];
        for record in &records {
            store.append(record).unwrap();
        }
        let mut file = OpenOptions::new().append(true).open(dir.path().join("dkg/records")).unwrap();
        file.write_all(b"{\"step\":").unwrap();
        assert_eq!(store.records().unwrap(), records);
        store.append(&Record::Step(2)).unwrap();
        assert_eq!(store.records().unwrap()[3], Record::Step(2));
        store.discard().unwrap();
        assert!(store.records().unwrap().is_empty());
    }

    #[test]
    fn a_request_in_the_clear_is_sealed_and_read_with_its_key() {
        let dir = tempfile::tempdir().unwrap();
        let (store, key) = (CeremonyStore::new(dir.path()), "61".repeat(32));
        let request: KeyGeneration = serde_json::from_value(serde_json::json!({
            "definition": {"a": 1}, "identity_key": key, "minor": 9, "peers": ["b"], "beacon_nodes": ["c"], "relays": ["d"],
        }))
        .unwrap();
        assert!(store.begin(&request).is_err(), "nothing is written in the clear");
        // As software of before wrote it.
        let path = store.request_path();
        fs::write(&path, serde_json::to_vec(&request).unwrap()).unwrap();
        store.keep_request(&request).unwrap();
        assert_eq!(store.plain_key().unwrap().unwrap().expose_secret(), key);
        sealed::as_if_opened("sealed:61f0", &key);
        sealed::seal_in(&store.request_path()).unwrap();
        let text = fs::read_to_string(dir.path().join(FOLDER).join(REQUEST)).unwrap();
        assert!(text.contains("sealed:61f0") && !text.contains(&key[..16]), "{text}");
        assert!(store.plain_key().unwrap().is_none());
        let read = store.request().unwrap().unwrap();
        assert_eq!(serde_json::to_value(&read).unwrap(), serde_json::to_value(&request).unwrap());
    }

    #[test]
    fn a_ceremony_that_is_over_stays_so_with_its_files_until_another_one_begins() {
        let dir = tempfile::tempdir().unwrap();
        let store = CeremonyStore::new(dir.path());
        let request: KeyGeneration = serde_json::from_value(serde_json::json!({
            "definition": {}, "identity_key": "ab", "peers": [], "beacon_nodes": [],
        }))
        .unwrap();
        store.begin(&request).unwrap();
        assert!(!store.is_over().unwrap());
        let files = [NamedFile { name: "cluster-lock.json".to_owned(), content: "{}".to_owned() }];
        store.save_files(&files).unwrap();
        store.end().unwrap();
        store.end().unwrap();
        assert!(store.is_over().unwrap() && store.request().unwrap().is_some());
        assert_eq!(store.files().unwrap(), files);
        store.begin(&request).unwrap();
        assert!(!store.is_over().unwrap() && store.files().unwrap().is_empty());

        store.keep_place(3).unwrap();
        store.append(&Record::Released).unwrap();
        store.save_files(&files).unwrap();
        store.end_without_request().unwrap();
        store.end_without_request().unwrap();
        let mut left: Vec<_> =
            fs::read_dir(dir.path().join("dkg")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["files", "over"]);
        assert_eq!(store.files().unwrap(), files);
    }
}
