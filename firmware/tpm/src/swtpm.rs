//! A software TPM for native members and tests, run as a child process.

use std::{
    hash::{BuildHasher as _, Hasher as _},
    io,
    net::{TcpListener, TcpStream},
    os::{
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixDatagram},
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

const START_TIMEOUT: Duration = Duration::from_secs(20);

/// A running software TPM. Ends when dropped; its state stays in its directory.
#[derive(Debug)]
pub struct Swtpm {
    child: Child,
    tcti: String,
    state: PathBuf,
}

impl Swtpm {
    /// Starts a software TPM whose state is in `state` (made when missing). Starting it is what a power-on is to a
    /// chip: PCRs are reset, keys stay.
    pub fn start(state: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(state)?;
        let mut last = io::Error::other("no free ports");
        for _ in 0..20 {
            match Self::start_on(two_free_ports()?, state) {
                Ok(started) => return Ok(started),
                // Somebody else took the port in between.
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Starts it at an address where one was before, as when a chip comes back after a fault.
    pub fn start_at(tcti: &str, state: &Path) -> io::Result<Self> {
        let port = tcti.rsplit_once("port=").and_then(|(_, port)| port.parse().ok());
        Self::start_on(port.ok_or_else(|| io::Error::other("no port in the address"))?, state)
    }

    /// The address to open it at.
    pub fn tcti(&self) -> &str {
        &self.tcti
    }

    /// Switches it off and on again.
    pub fn power_cycle(self) -> io::Result<Self> {
        let state = self.state.clone();
        drop(self);
        Self::start(&state)
    }

    fn start_on(port: u16, state: &Path) -> io::Result<Self> {
        let child = Command::new("swtpm")
            .args(["socket", "--tpm2", "--tpmstate"])
            .arg(format!("dir={}", state.display()))
            .args(["--server", &format!("type=tcp,port={port}")])
            .args(["--ctrl", &format!("type=tcp,port={}", port + 1)])
            .args(["--flags", "not-need-init,startup-clear"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let tcti = format!("swtpm:host=127.0.0.1,port={port}");
        let mut started = Self { child, tcti, state: state.to_owned() };
        let begun = Instant::now();
        loop {
            if let Some(status) = started.child.try_wait()? {
                return Err(io::Error::other(format!("swtpm ended at once: {status}")));
            }
            if TcpStream::connect(("127.0.0.1", port + 1)).is_ok() {
                return Ok(started);
            }
            if begun.elapsed() > START_TIMEOUT {
                return Err(io::Error::other("swtpm does not answer"));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Swtpm {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The ports that this process has given out, each as a socket whose name nobody else can take.
static GIVEN: Mutex<Vec<UnixDatagram>> = Mutex::new(Vec::new());

/// The TPM library expects the control port right after the server port.
///
/// Nobody else who asks here gets them while this process lives: who asks whether its TPM listens yet must not be answered by another
/// one. The names that say so (`unix(7)`, abstract ones) go with the process, and are those of the ports of native members.
fn two_free_ports() -> io::Result<u16> {
    let mark =
        |port| UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(format!("hearth-port-{port}"))?);
    let free = |port| TcpListener::bind(("127.0.0.1", port)).is_ok();
    for _ in 0..1_000 {
        // Below the range from which connections get theirs: none takes it meanwhile, and none that looks whether swtpm
        // listens comes to connect to itself.
        let chance = std::hash::RandomState::new().build_hasher().finish();
        let port = 12_000 + u16::try_from(chance % 4_000).unwrap_or_default() * 2;
        if let (Ok(server), Ok(control)) = (mark(port), mark(port + 1))
            && free(port)
            && free(port + 1)
        {
            GIVEN.lock().unwrap_or_else(PoisonError::into_inner).extend([server, control]);
            return Ok(port);
        }
    }
    Err(io::Error::other("no two free ports in a row"))
}
