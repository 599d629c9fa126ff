//! Answers on a line that others talk on too.
//!
//! The shell keeps a command's output in a file, and tells it line by line in hexadecimal, each line marked with the
//! number of the command, with the SHA-256 of the whole at the end. A message of the kernel in between is passed over;
//! one in the middle of a line breaks the sum, and the answer is asked for again without running the command twice.

use sha2::{Digest as _, Sha256};

/// The longest answer taken: a board that babbles must not fill our memory.
const MOST_LINES: usize = 20_000;

/// An answer as it arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Frame {
    hex: String,
    status: String,
    sum: String,
}

/// Runs a command and keeps what it printed and how it ended.
pub(crate) fn command(command: &str, count: u32) -> String {
    format!("{{\n{command}\n}} >/run/board-{count} 2>&1 </dev/null; echo $? >/run/board-{count}.status\n")
}

/// Tells what was kept. The marks are computed, so that an echo of this very line is no answer.
pub(crate) fn tell(count: u32) -> String {
    format!(
        "f=/run/board-{count}; m=\"@$((40+2))-{count}\"; echo; od -An -v -tx1 $f | sed \"s/^/$m /\"; \
         echo \"$m = $(cat $f.status) $(sha256sum <$f | cut -c1-64) .\"\n"
    )
}

/// The answer to a command, once its last line has arrived whole.
pub(crate) fn read(text: &str, count: u32) -> Option<Frame> {
    let mark = format!("@42-{count} ");
    let finished = &text[..text.rfind('\n')?];
    let mut hex = String::new();
    for line in finished.lines().take(MOST_LINES) {
        let Some((_, told)) = line.split_once(&mark) else { continue };
        if let Some(end) = told.strip_prefix("= ") {
            let mut words = end.split_whitespace();
            let status = words.next().unwrap_or_default().to_owned();
            let sum = words.next().unwrap_or_default().to_owned();
            return Some(Frame { hex, status, sum });
        }
        hex.extend(told.chars().filter(|c| !c.is_whitespace()));
    }
    None
}

impl Frame {
    /// The exit status and the text, when nothing got lost or mixed in.
    pub(crate) fn open(&self) -> Option<(i32, String)> {
        let bytes = hex::decode(&self.hex).ok()?;
        let sum = hex::encode(Sha256::digest(&bytes));
        let status = self.status.parse().ok()?;
        (sum == self.sum).then(|| (status, String::from_utf8_lossy(&bytes).into_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(text: &str, status: i32) -> String {
        let sum = hex::encode(Sha256::digest(text.as_bytes()));
        let mut told = String::new();
        for chunk in text.as_bytes().chunks(16) {
            let bytes: Vec<String> = chunk.iter().map(|byte| format!("{byte:02x}")).collect();
            told += &format!("@42-7  {}\n", bytes.join(" "));
        }
        told += &format!("@42-7 = {status} {sum} .\n");
        told
    }

    #[test]
    fn an_answer_is_found_among_messages() {
        let text = "the first line\nand one that is long enough for several frames\n";
        let mut noisy = String::from("[   12.5] usb 1-1: new device\nm=\"@$((40+2))-7\"; echo\n");
        for line in answer(text, 3).lines() {
            noisy += &format!("{line}\nsystemd[1]: Started something.\n");
        }
        assert_eq!(read(&noisy, 7).unwrap().open(), Some((3, text.to_owned())));
        assert_eq!(read(&noisy, 8), None, "an answer to another command");
    }

    #[test]
    fn an_unfinished_answer_is_waited_for() {
        let whole = answer("some text", 0);
        for end in 0..whole.len() {
            assert_eq!(read(&whole[..end], 7), None, "after {end} bytes");
        }
    }

    #[test]
    fn an_answer_with_something_mixed_in_is_refused() {
        let whole = answer("some text that matters", 0);
        let broken = whole.replacen("73 6f", "73 [ 13.1] x\n6f", 1);
        assert_ne!(broken, whole);
        assert_eq!(read(&broken, 7).unwrap().open(), None);
        let lost = whole.replacen("73 6f", "73", 1);
        assert_eq!(read(&lost, 7).unwrap().open(), None);
    }

    #[test]
    fn empty_output_is_an_answer() {
        assert_eq!(read(&answer("", 0), 7).unwrap().open(), Some((0, String::new())));
    }
}
