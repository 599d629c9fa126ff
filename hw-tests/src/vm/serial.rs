//! The guest's serial console, as QEMU writes it to a file.

use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

/// Reads what was written since a mark. The file only ever grows.
#[derive(Debug)]
pub(crate) struct Serial {
    path: PathBuf,
    mark: u64,
}

impl Serial {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, mark: 0 }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Forgets what is there: the next boot begins here.
    pub(crate) fn mark(&mut self) {
        self.mark = self.length();
    }

    pub(crate) fn length(&self) -> u64 {
        fs::metadata(&self.path).map_or(0, |meta| meta.len())
    }

    /// The text since the mark, without terminal control sequences.
    pub(crate) fn text(&self) -> String {
        let read = || -> io::Result<Vec<u8>> {
            let mut file = File::open(&self.path)?;
            file.seek(SeekFrom::Start(self.mark))?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        // Before the first byte there is no file.
        plain(&String::from_utf8_lossy(&read().unwrap_or_default()))
    }

    /// The first finished line since the mark that contains `pattern`.
    pub(crate) fn line_with(&self, pattern: &str) -> Option<String> {
        let text = self.text();
        let finished = &text[..text.rfind('\n')?];
        finished.lines().find(|line| line.contains(pattern)).map(|line| line.trim().to_owned())
    }
}

/// Drops carriage returns and the sequences that move cursors and change colours.
pub(crate) fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\r' => {}
            '\u{1b}' if chars.peek() == Some(&'[') => {
                chars.next();
                // Parameters, up to the letter that ends the sequence.
                for c in chars.by_ref() {
                    if c.is_ascii_alphabetic() {
                        break;
                    }
                }
            }
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_sequences_are_dropped() {
        assert_eq!(
            plain("\u{1b}[2J\u{1b}[01;01Hone\r\ntwo \u{1b}[0;32mgreen\u{1b}[0m\n"),
            "one\ntwo green\n"
        );
    }

    #[test]
    fn only_finished_lines_after_the_mark_are_found() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("serial");
        let mut serial = Serial::new(path.clone());
        assert_eq!(serial.line_with("ready"), None);
        fs::write(&path, "one ready\nnot rea").unwrap();
        assert_eq!(serial.line_with("ready").as_deref(), Some("one ready"));
        serial.mark();
        assert_eq!(serial.line_with("ready"), None);
        fs::write(&path, "one ready\nnot ready yet").unwrap();
        assert_eq!(serial.line_with("dy yet"), None, "the line may still grow");
    }
}
