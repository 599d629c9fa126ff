//! The reports of `disk-health@.service`, one file for each disk.

use std::io::Read as _;
use std::path::Path;

use ipc::disks::{DiskHealth, MAX_REPORT};

/// Where they are, below the root.
const FOLDER: &str = "run/hearth/disks";
/// More disks than this are not looked at.
const MOST: usize = 16;

/// What the disks of this machine say, in the order of their names. A report that cannot be read, such as one that is being
/// written at this moment, is left out: the next look finds it.
pub(crate) fn read(root: &Path) -> Vec<DiskHealth> {
    let Ok(entries) = std::fs::read_dir(root.join(FOLDER)) else { return Vec::new() };
    let mut paths: Vec<_> = entries
        .take(MOST * 4)
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
        .collect();
    paths.sort();
    paths.truncate(MOST);
    paths
        .into_iter()
        .filter_map(|path| {
            let mut report = Vec::new();
            let limit = u64::try_from(MAX_REPORT).ok()? + 1;
            std::fs::File::open(path).ok()?.take(limit).read_to_end(&mut report).ok()?;
            ipc::disks::read(&report).ok()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_reports_are_read_and_others_left_out() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(dir.path()), Vec::new());
        let folder = dir.path().join(FOLDER);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("sdb.json"), r#"{"model_name":"B"}"#).unwrap();
        std::fs::write(folder.join("nvme0n1.json"), r#"{"model_name":"A","smart_status":{"passed":false}}"#)
            .unwrap();
        std::fs::write(folder.join("sdc.json"), r#"{"model_name":"C"#).unwrap();
        std::fs::write(folder.join("notes.txt"), r#"{"model_name":"D"}"#).unwrap();
        let disks = read(dir.path());
        assert_eq!(disks.iter().map(|disk| disk.name.as_str()).collect::<Vec<_>>(), ["A", "B"]);
        assert_eq!(disks[0].passed, Some(false));
    }
}
