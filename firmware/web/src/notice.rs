//! What the page has to say on the box's own screen, in a form that lets it choose nothing but two values (decision 0304).
//!
//! The signer shows codes and fingerprints on the same screen, and a page in foreign hands could paint over them if it wrote there
//! itself. So it leaves a file, and `screen.service`, the same program started as another user, reads it once: digits of a
//! certificate's fingerprint, letters of a claim code, nothing else. What is shown is written here anew from what was read.

use std::fmt::Write as _;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use crate::claim;

/// SHA-256, two digits a byte.
const FINGERPRINT_BYTES: usize = 32;
/// What a file may have: digits and colons, a line's end, the code, a line's end.
const LONGEST: usize = FINGERPRINT_BYTES * 3 + claim::CODE_LENGTH + 1;

/// The two values.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Notice {
    fingerprint: String,
    code: String,
}

/// Why nothing is shown. It never quotes what was read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoticeError {
    #[error("cannot read what the page has left for the screen")]
    Read(#[source] io::Error),
    #[error("what the page has left for the screen is neither code nor fingerprint: nothing is shown")]
    Form,
}

impl Notice {
    /// Whether these are a certificate's fingerprint (`AB:CD:…`) and a claim code, letter by letter.
    pub(crate) fn new(fingerprint: &str, code: &str) -> Option<Self> {
        let is_byte = |byte: &str| {
            byte.len() == 2 && byte.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'A'..=b'F'))
        };
        let is_fingerprint =
            fingerprint.split(':').count() == FINGERPRINT_BYTES && fingerprint.split(':').all(is_byte);
        (is_fingerprint && claim::is_code(code))
            .then(|| Self { fingerprint: fingerprint.to_owned(), code: code.to_owned() })
    }

    /// Reads what [`Self::leave`] has written, and nothing that differs from it by a byte.
    fn parse(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?;
        let (fingerprint, code) = text.strip_suffix('\n')?.split_once('\n')?;
        Self::new(fingerprint, code)
    }

    /// Leaves it for the screen. The folder's group is that of `screen.service`; nobody else may read the code.
    pub(crate) fn leave(&self, path: &Path) -> io::Result<()> {
        let beside = path.with_extension("new");
        let mut file = std::fs::File::create(&beside)?;
        file.write_all(format!("{}\n{}\n", self.fingerprint, self.code).as_bytes())?;
        file.set_permissions(std::fs::Permissions::from_mode(0o640))?;
        std::fs::rename(&beside, path)
    }

    /// What is shown.
    pub(crate) fn sentences(&self, name: &str) -> String {
        let mut shown = String::new();
        // Writing to a string cannot fail.
        let _ = writeln!(shown, "hearth: page https://{name}.local");
        let _ = writeln!(shown, "hearth: certificate SHA-256 {}", self.fingerprint);
        let _ = writeln!(shown, "hearth: claim code {}", self.code);
        shown
    }
}

/// Reads the file at `path`. Whoever wrote it may want us to read something else, or without end.
pub(crate) fn read(path: &Path) -> Result<Notice, NoticeError> {
    if !std::fs::symlink_metadata(path).map_err(NoticeError::Read)?.is_file() {
        return Err(NoticeError::Form);
    }
    let file = std::fs::File::open(path).map_err(NoticeError::Read)?;
    let mut bytes = Vec::with_capacity(LONGEST + 1);
    let limit = u64::try_from(LONGEST + 1).unwrap_or(u64::MAX);
    file.take(limit).read_to_end(&mut bytes).map_err(NoticeError::Read)?;
    Notice::parse(&bytes).ok_or(NoticeError::Form)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CODE: &str = "0F1G-HJKM-NPQR";

    fn fingerprint() -> String {
        ["AB"; FINGERPRINT_BYTES].join(":")
    }

    #[test]
    fn what_is_left_for_the_screen_is_shown_in_fixed_sentences() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notice");
        Notice::new(&fingerprint(), CODE).unwrap().leave(&path).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o640);
        assert_eq!(path.metadata().unwrap().len(), u64::try_from(LONGEST).unwrap(), "no byte to spare");
        let expected = format!(
            "hearth: page https://hearth.local\nhearth: certificate SHA-256 {}\nhearth: claim code {CODE}\n",
            fingerprint()
        );
        assert_eq!(read(&path).unwrap().sentences("hearth"), expected);
    }

    #[test]
    fn nothing_but_a_fingerprint_and_a_code_reaches_the_screen() {
        let good = format!("{}\n{CODE}\n", fingerprint());
        assert!(Notice::parse(good.as_bytes()).is_some());
        let mut bad: Vec<Vec<u8>> = vec![
            Vec::new(),
            format!("{good}\n").into_bytes(),
            format!("{good}more").into_bytes(),
            good.trim_end().as_bytes().to_vec(),
            good.replace('\n', "\r\n").into_bytes(),
            good.to_lowercase().into_bytes(),
            good.replace(CODE, "0F1G-HJKM-NPQ").into_bytes(),
            good.replace(CODE, "0F1GHHJKMHNPQR").into_bytes(),
            good.replace("AB:AB", "AB AB").into_bytes(),
            good.replacen("AB:", "", 1).into_bytes(),
            format!("{}\ntype\u{e9}-HJKM-NPQ\n", fingerprint()).into_bytes(),
        ];
        // No byte anywhere that is not its like: no escape, no line, no letter of a sentence.
        for place in 0..good.len() {
            for byte in [0x1b, b'\n', b'\r', 0x08, b' ', b'z', b'U', 0x00, 0x9b, 0xff] {
                let mut changed = good.clone().into_bytes();
                if changed[place] != byte {
                    changed[place] = byte;
                    bad.push(changed);
                }
            }
        }
        for bytes in bad {
            assert_eq!(Notice::parse(&bytes), None, "{:?}", String::from_utf8_lossy(&bytes));
        }
    }

    #[test]
    fn what_is_no_file_or_too_long_is_not_shown() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notice");
        assert!(matches!(read(&path), Err(NoticeError::Read(_))));
        let good = folder.path().join("good");
        Notice::new(&fingerprint(), CODE).unwrap().leave(&good).unwrap();
        std::os::unix::fs::symlink(&good, &path).unwrap();
        assert!(matches!(read(&path), Err(NoticeError::Form)), "a link to what the other user may read");
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/dev/zero", &path).unwrap();
        assert!(matches!(read(&path), Err(NoticeError::Form)));
        std::fs::remove_file(&path).unwrap();
        let mut long = std::fs::read(&good).unwrap();
        long.resize(1 << 20, b'\n');
        std::fs::write(&path, long).unwrap();
        assert!(matches!(read(&path), Err(NoticeError::Form)));
    }
}
