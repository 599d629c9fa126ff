//! A software TPM 2.0 (swtpm) for virtual machines and for daemons that run as ordinary processes.
//!
//! Its state lives in a folder and survives restarts, as the chip on a board does: the same folder is the same TPM.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::ports::free_pair;
use crate::process::{Launch, POLL, Process, ProcessError};

/// How long swtpm may take to open its sockets.
const START_PATIENCE: Duration = Duration::from_secs(20);

/// Why there is no software TPM.
#[derive(Debug, thiserror::Error)]
pub enum SwtpmError {
    /// The state folder cannot be made.
    #[error("cannot make the TPM's folder {path}")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// It did not start or did not stay up.
    #[error("the software TPM does not run; is the package swtpm installed?")]
    Process(#[from] ProcessError),
    /// It runs and answers nobody.
    #[error("the software TPM in {path} opened no socket within 20 s; see swtpm.log there")]
    Silent {
        /// The folder.
        path: PathBuf,
    },
}

/// A running software TPM. Dropping it switches it off; its state stays in the folder.
#[derive(Debug)]
pub struct Swtpm {
    process: Process,
    port: u16,
}

impl Swtpm {
    /// A TPM that answers on loopback TCP, for programs that speak to it directly through the tss2 libraries.
    ///
    /// # Errors
    /// When swtpm is not installed, or the folder is in use by another one.
    pub fn start(dir: &Path) -> Result<Self, SwtpmError> {
        // The tss2 library takes it for granted that the control port follows the server port.
        let port = free_pair();
        let launch = launch(dir)?
            .args(["--server".to_owned(), format!("type=tcp,port={port},bindaddr=127.0.0.1")])
            .args(["--ctrl".to_owned(), format!("type=tcp,port={},bindaddr=127.0.0.1", port + 1)])
            // Nobody switches this TPM on as firmware would.
            .args(["--flags", "not-need-init,startup-clear"]);
        let mut tpm = Self { process: launch.start()?, port };
        // The control port, because the server port serves one client and looks closed to a second.
        tpm.wait(dir, || TcpStream::connect((Ipv4Addr::LOCALHOST, port + 1)).is_ok())?;
        Ok(tpm)
    }

    /// How the tss2 libraries are told to reach it (a "TCTI" string).
    pub fn tcti(&self) -> String {
        format!("swtpm:host=127.0.0.1,port={}", self.port)
    }

    /// Fails when it has ended.
    ///
    /// # Errors
    /// [`ProcessError::Ended`] with the end of its log.
    pub fn check_alive(&mut self) -> Result<(), ProcessError> {
        self.process.check_alive()
    }

    /// A TPM for QEMU, which switches it on and off itself through the socket at `control`.
    pub(crate) fn for_machine(dir: &Path, control: &Path) -> Result<Self, SwtpmError> {
        let launch =
            launch(dir)?.args(["--ctrl".to_owned(), format!("type=unixio,path={}", control.display())]);
        let mut tpm = Self { process: launch.start()?, port: 0 };
        // Seen, not tried: a connection that closes again would end it.
        tpm.wait(dir, || control.exists())?;
        Ok(tpm)
    }

    fn wait(&mut self, dir: &Path, ready: impl Fn() -> bool) -> Result<(), SwtpmError> {
        let deadline = Instant::now() + START_PATIENCE;
        while !ready() {
            self.process.check_alive()?;
            if Instant::now() > deadline {
                return Err(SwtpmError::Silent { path: dir.to_owned() });
            }
            std::thread::sleep(POLL);
        }
        Ok(())
    }
}

fn launch(dir: &Path) -> Result<Launch, SwtpmError> {
    fs::create_dir_all(dir).map_err(|source| SwtpmError::Folder { path: dir.to_owned(), source })?;
    Ok(Launch::new("software TPM", "swtpm", dir.join("swtpm.log"))
        .args(["socket", "--tpm2", "--tpmstate"])
        .arg(format!("dir={}", dir.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tpm_starts_twice_from_one_folder() {
        let dir = tempfile::tempdir().unwrap();
        for _ in 0..2 {
            let mut tpm = Swtpm::start(dir.path()).unwrap();
            tpm.check_alive().unwrap();
            assert!(tpm.tcti().starts_with("swtpm:host=127.0.0.1,port="));
        }
    }
}
