//! Paths that a person types are meant from where the person stands. `./hearth` itself works inside the repository, and says
//! with `HEARTH_CALLED_FROM` which folder it was called from.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// The folder that `./hearth` was called from.
const FOLDER: &str = "HEARTH_CALLED_FROM";

/// A path as it was typed, for clap's `value_parser`.
///
/// # Errors
/// When nothing was typed.
pub(crate) fn path(typed: &str) -> Result<PathBuf, String> {
    if typed.is_empty() {
        return Err("a path is missing here".to_owned());
    }
    Ok(from(typed, std::env::var_os(FOLDER).as_deref()))
}

fn from(typed: &str, folder: Option<&OsStr>) -> PathBuf {
    // Joining with an absolute path gives that path.
    folder.map_or_else(|| PathBuf::from(typed), |folder| Path::new(folder).join(typed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_meant_from_where_the_person_stands() {
        let cases = [
            ("out.json", Some("/home/a"), "/home/a/out.json"),
            ("../first/SUMS", Some("/home/a"), "/home/a/../first/SUMS"),
            ("/tmp/out.json", Some("/home/a"), "/tmp/out.json"),
            // The program without its script.
            ("out.json", None, "out.json"),
        ];
        for (typed, folder, expected) in cases {
            assert_eq!(from(typed, folder.map(OsStr::new)), Path::new(expected));
        }
        assert!(path("").is_err());
    }

    /// The script alone knows where it was called from.
    #[test]
    fn the_script_hands_on_the_folder_it_was_called_from() {
        let script = include_str!("../../hearth");
        let (before, _) = script.split_once("\ncd ").expect("the script goes into its folder");
        assert!(before.contains("export HEARTH_CALLED_FROM="), "said before the script leaves that folder");
        // Under sudo the script calls itself once more, from the same folder.
        let again = script.lines().find(|line| line.contains("exec sudo -H -u")).expect("it does");
        assert!(again.contains("sh \"$HEARTH_CALLED_FROM\""), "{again}");
    }

    /// An option with a path that is read as it stands would be looked for inside the repository.
    #[test]
    fn every_path_that_is_typed_goes_through_here() {
        let sources = [
            include_str!("main.rs"),
            include_str!("board.rs"),
            include_str!("flash/mod.rs"),
            include_str!("image/mod.rs"),
            include_str!("run/options.rs"),
        ];
        let mut options = 0;
        for source in sources {
            let lines: Vec<&str> = source.lines().map(str::trim).collect();
            for pair in lines.windows(2) {
                let typed = pair[1].ends_with(": PathBuf,") || pair[1].ends_with(": Option<PathBuf>,");
                if typed && (pair[0].ends_with(")]") || pair[0].starts_with("///")) {
                    options += 1;
                    assert!(pair[0].contains("called_from::path"), "{} {}", pair[0], pair[1]);
                }
            }
        }
        assert!(options >= 10, "{options} options with a path are too few: are they still found?");
    }
}
