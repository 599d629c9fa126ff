//! A moment of a running box, kept whole and come back to as often as wanted: memory, devices, TPM, disk.
//!
//! What takes seconds of a first start can so be cut short at fifty points without fifty starts. The box must be paused by
//! QEMU's own monitor, because its state and its disk have to be of one instant.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use super::{Vm, VmError};
use crate::process::POLL;

/// How long QEMU may take to write or read a guest's memory.
const PATIENCE: Duration = Duration::from_secs(120);
/// What the monitor ends every answer with.
const PROMPT: &str = "(qemu) ";

/// Everything a box was at one instant.
#[derive(Debug)]
pub struct Moment {
    dir: PathBuf,
}

impl Moment {
    pub(crate) fn memory(&self) -> PathBuf {
        self.dir.join("memory")
    }
}

impl Vm {
    /// Stops the box, keeps what it is in `dir`, and cuts its power.
    ///
    /// # Errors
    /// When QEMU cannot write its state, or a file cannot be copied.
    pub fn keep_moment(&mut self, dir: &Path) -> Result<Moment, VmError> {
        fs::create_dir_all(dir).map_err(file(dir))?;
        let moment = Moment { dir: dir.to_owned() };
        let mut monitor = self.monitor()?;
        monitor.say("stop").map_err(VmError::Monitor)?;
        monitor
            .say(&format!("migrate \"exec:cat >{}\"", moment.memory().display()))
            .map_err(VmError::Monitor)?;
        self.monitor_says(&mut monitor, "info migrate", "completed")?;
        self.power_cut()?;
        for path in self.remembers().iter().filter(|path| path.exists()) {
            let kept = dir.join(path.file_name().unwrap_or_default());
            remove(&kept)?;
            copy(path, &kept)?;
        }
        Ok(moment)
    }

    /// Makes the box what it was at that moment, and lets it go on.
    ///
    /// # Errors
    /// When a file cannot be copied or QEMU cannot read its state.
    pub fn go_back(&mut self, moment: &Moment) -> Result<(), VmError> {
        self.power_cut()?;
        for path in self.remembers() {
            remove(&path)?;
            let kept = moment.dir.join(path.file_name().unwrap_or_default());
            if kept.exists() {
                copy(&kept, &path)?;
            }
        }
        self.power_on_from(Some(moment))?;
        let mut monitor = self.monitor()?;
        self.monitor_says(&mut monitor, "info status", "paused")?;
        monitor.say("cont").map_err(VmError::Monitor)?;
        self.monitor_says(&mut monitor, "info status", "running")
    }

    /// Pulls the stick out of a box made with [`super::VmBuilder::installer`].
    ///
    /// # Errors
    /// When the box is off or QEMU has no stick.
    pub fn pull_stick(&mut self) -> Result<(), VmError> {
        let mut monitor = self.monitor()?;
        let answer = monitor.say("device_del stick").map_err(VmError::Monitor)?;
        if answer.contains("Error") {
            return Err(VmError::Monitor(io::Error::other(answer)));
        }
        Ok(())
    }

    fn monitor(&mut self) -> Result<Monitor, VmError> {
        let start = Instant::now();
        loop {
            self.check_alive()?;
            match Monitor::open(&self.monitor_socket()) {
                Ok(monitor) => return Ok(monitor),
                Err(error) if start.elapsed() > PATIENCE => return Err(VmError::Monitor(error)),
                Err(_) => std::thread::sleep(POLL),
            }
        }
    }

    fn monitor_says(&mut self, monitor: &mut Monitor, command: &str, word: &str) -> Result<(), VmError> {
        let start = Instant::now();
        loop {
            self.check_alive()?;
            let answer = monitor.say(command).map_err(VmError::Monitor)?;
            // "paused (inmigrate)" until everything has been read.
            if answer.contains(word) && !answer.contains("inmigrate") {
                return Ok(());
            }
            if answer.contains("failed") || start.elapsed() > PATIENCE {
                return Err(VmError::Monitor(io::Error::other(format!("`{command}` says {answer}"))));
            }
            std::thread::sleep(POLL);
        }
    }
}

/// QEMU's monitor for people, which is a prompt on a socket.
#[derive(Debug)]
struct Monitor {
    stream: UnixStream,
}

impl Monitor {
    fn open(socket: &Path) -> io::Result<Self> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut monitor = Self { stream };
        monitor.answer()?;
        Ok(monitor)
    }

    fn say(&mut self, command: &str) -> io::Result<String> {
        writeln!(self.stream, "{command}")?;
        self.answer()
    }

    fn answer(&mut self) -> io::Result<String> {
        let mut bytes = Vec::new();
        let mut part = [0_u8; 4096];
        while !bytes.ends_with(PROMPT.as_bytes()) {
            match self.stream.read(&mut part)? {
                0 => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "QEMU is gone")),
                count => bytes.extend_from_slice(&part[..count]),
            }
        }
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

fn file(path: &Path) -> impl FnOnce(io::Error) -> VmError {
    let path = path.to_owned();
    move |source| VmError::File { path, source }
}

fn remove(path: &Path) -> Result<(), VmError> {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(file(path)(error)),
        _ => Ok(()),
    }
}

/// Holes stay holes: a disk of 8 GB is mostly that.
fn copy(from: &Path, to: &Path) -> Result<(), VmError> {
    let status = Command::new("cp")
        .args(["-r", "--sparse=always", "--reflink=auto"])
        .args([from, to])
        .status()
        .map_err(file(to))?;
    if status.success() { Ok(()) } else { Err(VmError::Copy { path: to.to_owned(), status }) }
}
