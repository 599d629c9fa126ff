//! A serial line: everything that arrives goes to a log, which is read like a virtual box's console.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::vm::serial::Serial;

/// How many of a log's last lines a complaint shows.
const TAIL: usize = 20;

/// Why a line cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LineError {
    /// The device or its log.
    #[error("cannot use {path}; is the adapter plugged in, and may you open it (group dialout)?")]
    File {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The speed is refused.
    #[error("cannot set {path} to {baud} baud: {message}")]
    Speed {
        /// The device.
        path: PathBuf,
        /// The speed.
        baud: u32,
        /// What `stty` said.
        message: String,
    },
}

/// An open line.
#[derive(Debug)]
pub struct SerialLine {
    device: PathBuf,
    writer: File,
    console: Serial,
    answers: Serial,
}

impl SerialLine {
    /// Opens a device and keeps everything it says in `log`, from now on.
    ///
    /// # Errors
    /// When the device or the log cannot be opened.
    pub fn open(device: &Path, baud: u32, log: &Path) -> Result<Self, LineError> {
        let file = |path: &Path| {
            let path = path.to_owned();
            move |source| LineError::File { path, source }
        };
        let reader = OpenOptions::new().read(true).write(true).open(device).map_err(file(device))?;
        set_speed(device, baud)?;
        let writer = reader.try_clone().map_err(file(device))?;
        let mut console = Serial::new(log.to_owned());
        console.mark();
        let mut answers = Serial::new(log.to_owned());
        answers.mark();
        let kept = OpenOptions::new().create(true).append(true).open(log).map_err(file(log))?;
        // Ends by itself when the line does: an adapter that is unplugged, a QEMU that has ended.
        std::thread::spawn(move || keep(reader, kept));
        Ok(Self { device: device.to_owned(), writer, console, answers })
    }

    /// Writes to the board.
    ///
    /// # Errors
    /// When the line is gone.
    pub fn send(&mut self, text: &str) -> Result<(), LineError> {
        let sent = self.writer.write_all(text.as_bytes()).and_then(|()| self.writer.flush());
        sent.map_err(|source| LineError::File { path: self.device.clone(), source })
    }

    /// What this boot has said.
    pub(crate) fn console(&self) -> &Serial {
        &self.console
    }

    /// What was said since the last question.
    pub(crate) fn answers(&self) -> &Serial {
        &self.answers
    }

    pub(crate) fn forget_answers(&mut self) {
        self.answers.mark();
    }

    /// The next boot begins here.
    pub(crate) fn mark(&mut self) {
        self.console.mark();
        self.answers.mark();
    }

    pub(crate) fn log(&self) -> &Path {
        self.console.path()
    }

    pub(crate) fn tail(&self) -> String {
        let text = self.console.text();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(TAIL)..].join("\n")
    }
}

/// Raw bytes both ways at that speed, without our own echo of what the board says.
fn set_speed(device: &Path, baud: u32) -> Result<(), LineError> {
    let refused = |message: String| LineError::Speed {
        path: device.to_owned(),
        baud,
        message: message.trim().to_owned(),
    };
    let output = Command::new("stty")
        .arg("-F")
        .arg(device)
        .args([&baud.to_string(), "raw", "-echo", "-crtscts", "clocal"])
        .stdin(Stdio::null())
        .output()
        .map_err(|error| refused(error.to_string()))?;
    if output.status.success() {
        Ok(())
    } else {
        Err(refused(String::from_utf8_lossy(&output.stderr).into_owned()))
    }
}

fn keep(mut reader: File, mut log: File) {
    let mut bytes = [0_u8; 4096];
    loop {
        match reader.read(&mut bytes) {
            Ok(0) => return,
            Ok(count) => {
                if log.write_all(&bytes[..count]).is_err() {
                    return;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}
