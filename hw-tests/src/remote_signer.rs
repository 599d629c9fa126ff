//! The way from a stock validator client to a member's signer, as it is outside a box.
//!
//! On the box systemd's own `systemd-socket-proxyd` carries bytes between a port and the signer's socket; here it does the
//! same for a native member. Prysm's client shows no certificate of its own to a remote signer (v7.1 goes by Go's default
//! transport), so in front of it stands a program that does: `openssl s_client`, one for each connection. Its port answers
//! whoever is on this machine, as any such helper does; that is for a chain that is worth nothing.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipc::remote::{RemoteClientMade, SERVER_NAME};

use crate::ports::free_ports;
use crate::process::{self, Launch, Process, ProcessError};

/// Where distributions put it.
const PROXIES: [&str; 2] = ["/usr/lib/systemd/systemd-socket-proxyd", "/lib/systemd/systemd-socket-proxyd"];
const START_PATIENCE: Duration = Duration::from_secs(10);

/// Why there is no way to the signer.
#[derive(Debug, thiserror::Error)]
pub enum RemoteSignerError {
    /// The client's files could not be written.
    #[error("cannot use {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A helper did not start.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// No systemd here.
    #[error("there is no systemd-socket-proxyd here; install systemd")]
    NoProxy,
    /// A helper does not listen.
    #[error("nobody listens on port {port}; see the logs in {dir}")]
    Silent {
        /// The port.
        port: u16,
        /// Where the logs are.
        dir: PathBuf,
    },
}

/// The way is open until this is dropped.
#[derive(Debug)]
pub struct RemoteSigner {
    // Stopped in this order.
    terminator: Process,
    gate: Process,
    url: String,
}

impl RemoteSigner {
    /// Opens the way to the signer's socket with what the owner was given for a client, in a folder of its own.
    ///
    /// # Errors
    /// When a file cannot be written or a helper does not start.
    pub fn open(dir: &Path, socket: &Path, made: &RemoteClientMade) -> Result<Self, RemoteSignerError> {
        use std::os::unix::fs::OpenOptionsExt as _;
        let file = |path: &Path| {
            let path = path.to_owned();
            move |source| RemoteSignerError::File { path, source }
        };
        fs::create_dir_all(dir).map_err(file(dir))?;
        let parts = [
            ("client.pem", made.certificate.as_str()),
            ("client.key", made.private_key.expose_secret()),
            ("signer-authority.pem", made.authority.as_str()),
        ];
        for (name, content) in parts {
            let path = dir.join(name);
            let written = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
            written
                .and_then(|mut open| io::Write::write_all(&mut open, content.as_bytes()))
                .map_err(file(&path))?;
        }
        let proxy = PROXIES.into_iter().find(|path| Path::new(path).exists());
        let proxy = proxy.ok_or(RemoteSignerError::NoProxy)?;
        let ports = free_ports(2);
        let at = |port: u16| SocketAddr::from((Ipv4Addr::LOCALHOST, port)).to_string();
        let gate = Launch::new("the gate to the signer", "systemd-socket-activate", dir.join("gate.log"))
            .args(["-l", &at(ports[0]), proxy])
            .arg(socket)
            .start()?;
        let shown = format!("{SERVER_NAME}:0");
        let terminator =
            Launch::new("TLS for the client", "systemd-socket-activate", dir.join("terminator.log"))
                .current_dir(dir)
                .args(["--accept", "--inetd", "-l", &at(ports[1]), "openssl", "s_client"])
                .args(["-quiet", "-no_ign_eof", "-nocommands", "-connect", &at(ports[0])])
                .arg("-cert")
                .arg(dir.join("client.pem"))
                .arg("-key")
                .arg(dir.join("client.key"))
                .arg("-CAfile")
                .arg(dir.join("signer-authority.pem"))
                .args(["-verify_return_error", "-verify_quiet", "-verify_hostname", SERVER_NAME])
                .args(["-servername", shown.trim_end_matches(":0")])
                .start()?;
        for port in ports.iter().copied() {
            // Not by a connection: each one would start a program.
            if !process::wait_until(START_PATIENCE, || is_listening(port)) {
                return Err(RemoteSignerError::Silent { port, dir: dir.to_owned() });
            }
        }
        Ok(Self { terminator, gate, url: format!("http://{}", at(ports[1])) })
    }

    /// Where a client finds the signer.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Fails when a helper has ended by itself.
    ///
    /// # Errors
    /// With the end of its log.
    pub fn check_alive(&mut self) -> Result<(), RemoteSignerError> {
        self.terminator.check_alive()?;
        Ok(self.gate.check_alive()?)
    }
}

/// Whether somebody listens on a loopback port, as the kernel's table says.
fn is_listening(port: u16) -> bool {
    let wanted = format!("0100007F:{port:04X}");
    let table = fs::read_to_string("/proc/net/tcp").unwrap_or_default();
    table.lines().any(|line| {
        let mut words = line.split_whitespace().skip(1);
        words.next() == Some(&wanted) && words.nth(1) == Some("0A")
    })
}
