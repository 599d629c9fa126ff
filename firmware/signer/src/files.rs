//! Files that are there whole or not at all.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

/// Writes a file so that after a crash at any moment the old or the new content is there: temporary file, fsync, rename,
/// fsync of the directory.
pub(crate) fn write_atomically(path: &Path, content: &[u8]) -> io::Result<()> {
    // By the whole name: two files that differ in their ending only must not share it.
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let temporary = Path::new(&temporary);
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(temporary)?;
    file.write_all(content)?;
    file.sync_all()?;
    drop(file);
    std::fs::rename(temporary, path)?;
    sync_dir(path.parent().unwrap_or(Path::new(".")))
}

/// Makes renames and new files in a directory durable.
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Reads a small file; none when it does not exist.
pub(crate) fn read_small(path: &Path, limit: u64) -> io::Result<Option<Vec<u8>>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut content = Vec::new();
    file.take(limit).read_to_end(&mut content)?;
    Ok(Some(content))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_could_not_be_made_durable_does_not_take_the_old_one_s_place() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        write_atomically(&path, b"old").unwrap();
        // This takes every byte and refuses to be synced.
        std::os::unix::fs::symlink("/dev/null", dir.path().join("x.new")).unwrap();
        assert!(write_atomically(&path, b"new").is_err());
        assert_eq!(read_small(&path, 9).unwrap().unwrap(), b"old");
    }
}
