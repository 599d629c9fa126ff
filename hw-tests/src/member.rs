//! A member of a cluster as ordinary processes: the daemons of a box without the box.
//!
//! The same programs, the same sockets and the same TPM policy as in the image; the TPM is a program, nothing was
//! measured at start, and there is no systemd, so each daemon opens its own sockets.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cluster::Network;

use crate::page::{Page, PageError};
use crate::ports::{free_pair, free_ports};
use crate::process::{Launch, POLL, Process, ProcessError};
use crate::swtpm::{Swtpm, SwtpmError};

/// How long a daemon may take to open its sockets.
const START_PATIENCE: Duration = Duration::from_secs(60);
/// How far what is shown may be behind the answer that speaks of it.
const CODE_PATIENCE: Duration = Duration::from_secs(20);

/// As often as the image's time service.
const VOUCHES_EVERY: Duration = Duration::from_secs(20);
/// What the daemons listen on, in the folder `run`.
const SOCKETS: [&str; 4] = ["sign.sock", "signer-control.sock", "signer-remote.sock", "dv-node-control.sock"];

/// Why a native member does not run.
#[derive(Debug, thiserror::Error)]
pub enum MemberError {
    /// Its folder could not be filled.
    #[error("cannot use {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A process did not start, or ended.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// No software TPM.
    #[error(transparent)]
    Tpm(#[from] SwtpmError),
    /// Its page does not answer.
    #[error(transparent)]
    Page(#[from] PageError),
    /// Its signer has shown no code.
    #[error("no code appeared on the box's screen (signer.log) within 20 s")]
    NoCode,
    /// A daemon did not open its socket.
    #[error("{what} did not appear within 60 s; see the logs in {dir}")]
    Silent {
        /// What was waited for.
        what: String,
        /// The member's folder.
        dir: PathBuf,
    },
}

/// A native member. Dropping it stops its processes; its folder stays.
#[derive(Debug)]
pub struct Member {
    name: String,
    dir: PathBuf,
    binaries: PathBuf,
    /// It is a board without a TPM, and goes by its owner's passphrase.
    has_no_tpm: bool,
    /// As long as this is held, somebody vouches for that board's clock.
    time_service: Option<Arc<()>>,
    p2p_port: u16,
    /// A chain that is not public.
    network: Option<Network>,
    page_port: u16,
    api_port: u16,
    // Stopped in this order: whoever uses another one first.
    web: Option<Process>,
    node: Option<Process>,
    signer: Option<Process>,
    tpm: Option<Swtpm>,
}

impl Member {
    /// Makes the folder and starts the daemons from `binaries`. They wait for a cluster.
    ///
    /// # Errors
    /// When a daemon does not come up.
    pub fn start(name: &str, dir: &Path, binaries: &Path) -> Result<Self, MemberError> {
        Self::begin(name, dir, binaries, false)
    }

    /// The same on a board that has no TPM.
    ///
    /// # Errors
    /// When a daemon does not come up.
    pub fn start_without_tpm(name: &str, dir: &Path, binaries: &Path) -> Result<Self, MemberError> {
        Self::begin(name, dir, binaries, true)
    }

    fn begin(name: &str, dir: &Path, binaries: &Path, has_no_tpm: bool) -> Result<Self, MemberError> {
        // The one after it is for a second cluster of the same box.
        let (p2p_port, ports) = (free_pair(), free_ports(2));
        let mut member = Self {
            name: name.to_owned(),
            dir: dir.to_owned(),
            binaries: binaries.to_owned(),
            has_no_tpm,
            time_service: None,
            p2p_port,
            page_port: ports[0],
            api_port: ports[1],
            network: None,
            web: None,
            node: None,
            signer: None,
            tpm: None,
        };
        for sub in ["signer", "dv-node", "web", "run", "boot"] {
            member.make_dir(sub)?;
        }
        member.power_on()?;
        Ok(member)
    }

    /// The same as on an image that is signed with its maker's own keys: only there a signer takes in and serves shares of a public
    /// network. The keys and shares of such a test are worth nothing.
    ///
    /// # Errors
    /// When a daemon does not come up.
    pub fn start_as_released(name: &str, dir: &Path, binaries: &Path) -> Result<Self, MemberError> {
        std::fs::create_dir_all(dir)
            .and_then(|()| std::fs::write(dir.join("os-release"), "HEARTH_KEYS=release\n"))
            .map_err(|source| MemberError::File { path: dir.to_owned(), source })?;
        Self::start(name, dir, binaries)
    }

    /// Starts whatever does not run. The folder remembers everything, like a box that was switched off.
    ///
    /// # Errors
    /// When a daemon does not come up.
    pub fn power_on(&mut self) -> Result<(), MemberError> {
        if self.tpm.is_none() && !self.has_no_tpm {
            self.tpm = Some(Swtpm::start(&self.dir.join("tpm"))?);
        }
        if self.signer.is_none() {
            self.start_signer()?;
        }
        if self.node.is_none() {
            self.start_node()?;
        }
        if self.web.is_none() {
            self.start_web()?;
        }
        Ok(())
    }

    /// Starts what does not run but for the signer, which on a slow board is up last; [`Self::power_on`] starts that.
    ///
    /// # Errors
    /// When a daemon does not come up.
    pub fn power_on_without_signer(&mut self) -> Result<(), MemberError> {
        if self.tpm.is_none() && !self.has_no_tpm {
            self.tpm = Some(Swtpm::start(&self.dir.join("tpm"))?);
        }
        if self.node.is_none() {
            self.start_node()?;
        }
        Ok(())
    }

    /// Ends everything at once, as a power cut would.
    ///
    /// # Errors
    /// When a process cannot be ended.
    pub fn power_cut(&mut self) -> Result<(), MemberError> {
        for process in [&mut self.web, &mut self.node, &mut self.signer] {
            if let Some(mut process) = process.take() {
                process.kill()?;
            }
        }
        // As systemd makes them anew: whoever waits for one does not find the one of before.
        for name in SOCKETS {
            let _ = fs::remove_file(self.dir.join("run").join(name));
        }
        self.tpm = None;
        Ok(())
    }

    /// What it is called in messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its folder, with a log file for each daemon.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A chain that is not public, which its node knows when it is switched on the next time.
    pub fn know_network(&mut self, network: Network) {
        self.network = Some(network);
    }

    /// Where other members of its first cluster reach it; the next port is free as well, for those of a second one.
    pub fn p2p_port(&self) -> u16 {
        self.p2p_port
    }

    /// Where its page is.
    pub fn page_address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.page_port).into()
    }

    /// Where its validator API is, for a member whose duties a validator client signs; nobody listens there otherwise.
    pub fn validator_api(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.api_port).into()
    }

    /// Its page, with the claim code that the member's owner would read on a screen.
    ///
    /// # Errors
    /// When the page has not written its code.
    pub fn page(&self) -> Result<Page, MemberError> {
        let path = self.dir.join("web/claim-code");
        let code = fs::read_to_string(&path).map_err(|source| MemberError::File { path, source })?;
        Ok(Page::new(self.page_address()).with_claim_code(code.trim()))
    }

    /// Everything that its signer has shown on the box's own screen, which for a native member is its output.
    ///
    /// # Errors
    /// When there is no such file.
    pub fn screen(&self) -> Result<String, MemberError> {
        let path = self.dir.join("signer.log");
        fs::read_to_string(&path).map_err(|source| MemberError::File { path, source })
    }

    /// The last code that its signer has shown after the first `seen` bytes of its screen, as somebody before the box reads it.
    ///
    /// # Errors
    /// When none is shown.
    pub fn code_on_screen(&self, seen: usize) -> Result<String, MemberError> {
        let begun = Instant::now();
        loop {
            let screen = self.screen()?;
            let news = screen.get(seen..).unwrap_or_default();
            let line = news.lines().rev().find(|line| line.ends_with("to allow it")).unwrap_or_default();
            if let Some(code) = line.rsplit_once("type ").and_then(|(_, rest)| rest.split(' ').next()) {
                return Ok(code.to_owned());
            }
            if begun.elapsed() > CODE_PATIENCE {
                return Err(MemberError::NoCode);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The control socket of dv-node.
    pub fn node_socket(&self) -> PathBuf {
        self.dir.join("run/dv-node-control.sock")
    }

    /// The control socket of the signer.
    pub fn signer_socket(&self) -> PathBuf {
        self.dir.join("run/signer-control.sock")
    }

    /// Where its page looks for what keeps a recovery key. A native member has no disk of its own, so nobody listens there but in tests.
    pub fn recovery_socket(&self) -> PathBuf {
        self.dir.join("run/recovery-control.sock")
    }

    /// The signer's socket for clients outside the box.
    pub fn signer_remote_socket(&self) -> PathBuf {
        self.dir.join("run/signer-remote.sock")
    }

    /// The dv-node process, to stop, freeze or kill.
    pub fn node(&mut self) -> &mut Option<Process> {
        &mut self.node
    }

    /// The signer process, to stop, freeze or kill.
    pub fn signer(&mut self) -> &mut Option<Process> {
        &mut self.signer
    }

    /// Names and process ids, for benchmarks and for people who look.
    pub fn processes(&self) -> Vec<(String, u32)> {
        let all = [("signer", &self.signer), ("dv-node", &self.node), ("web", &self.web)];
        all.into_iter()
            .filter_map(|(name, process)| Some((name.to_owned(), process.as_ref()?.id())))
            .collect()
    }

    /// Fails when one of its processes has ended by itself.
    ///
    /// # Errors
    /// [`ProcessError::Ended`] with the end of that one's log.
    pub fn check_alive(&mut self) -> Result<(), MemberError> {
        for process in [&mut self.signer, &mut self.node, &mut self.web].into_iter().flatten() {
            process.check_alive()?;
        }
        Ok(())
    }

    fn start_signer(&mut self) -> Result<(), MemberError> {
        let boot = self.dir.join("boot");
        let approval =
            tpm::devpolicy::make(&boot, &[tpm::devpolicy::UNMEASURED]).map_err(self.file(&boot))?;
        let tcti = self.tpm.as_ref().map_or_else(|| "device:/dev/no-such-tpm".to_owned(), Swtpm::tcti);
        let signs = if self.has_no_tpm { self.show_no_tpm()? } else { String::new() };
        let dir = self.dir.display();
        let efivars = if self.has_no_tpm { format!("efivars = \"{dir}/efivars\"\n") } else { String::new() };
        let config = format!(
            "state_dir = \"{dir}/signer\"\n{efivars}os_release = \"{dir}/os-release\"\n\n\
             [tpm]\ntcti = \"{tcti}\"\npcr_public_key = \"{}\"\npcr_signature = \"{}\"\nliteral_pcrs = [7, 12]\n\n\
             {signs}[exits]\ndelay_s = 2\nleast_delay_s = 1\n\n\
             [callers]\nsign = [\"self\"]\ncontrol = [\"self\"]\nremote = [\"self\"]\n\n\
             [listen]\nsign = \"{dir}/run/sign.sock\"\ncontrol = \"{dir}/run/signer-control.sock\"\n\
             remote = \"{dir}/run/signer-remote.sock\"\n",
            approval.public_key.display(),
            approval.signature.display(),
        );
        self.signer = Some(self.launch("signer", &config)?);
        self.wait_for_file("run/sign.sock")?;
        self.wait_for_file("run/signer-control.sock")
    }

    /// What the kernel of a board without a TPM shows, and a time service that vouches for the clock as long as this member is there.
    fn show_no_tpm(&mut self) -> Result<String, MemberError> {
        let (dir, mark) = (self.dir.display(), self.dir.join("synchronised"));
        for sub in ["tpm-class", "efivars", "started-without-tpm"] {
            self.make_dir(sub)?;
        }
        let variable = self.dir.join("efivars/BootOrder");
        std::fs::write(&variable, [7, 0, 0, 0, 0, 0]).map_err(self.file(&variable))?;
        std::fs::write(&mark, []).map_err(self.file(&mark))?;
        let text = format!(
            "[clock]\nmark = \"{}\"\n\n[passphrase]\nsigns_of_a_tpm = [\"{dir}/signs-of-a-tpm\"]\n\
             started_without = \"{dir}/started-without-tpm\"\n\
             tpm_class = \"{dir}/tpm-class\"\ndevice_tree = \"{dir}/no-device-tree\"\n\n",
            mark.display()
        );
        if self.time_service.is_none() {
            let here = Arc::new(());
            let still_here = Arc::downgrade(&here);
            self.time_service = Some(here);
            std::thread::spawn(move || {
                // A folder that is gone ends it as well.
                while still_here.upgrade().is_some() && std::fs::write(&mark, []).is_ok() {
                    std::thread::sleep(VOUCHES_EVERY);
                }
            });
        }
        Ok(text)
    }

    fn start_node(&mut self) -> Result<(), MemberError> {
        let dir = self.dir.display();
        let mut config = format!(
            "state_dir = \"{dir}/dv-node\"\nsigner_socket = \"{dir}/run/sign.sock\"\n\n\
             [p2p]\nlisten = [\"/ip4/127.0.0.1/tcp/{}\"]\n\n\
             [callers]\ncontrol = [\"self\"]\n\n\
             [listen]\ncontrol = \"{dir}/run/dv-node-control.sock\"\n",
            self.p2p_port,
        );
        if let Some(network) = &self.network {
            config.push_str(&format!(
                "\n[[networks]]\nname = \"{}\"\nchain_id = {}\ngenesis_fork_version = \"{}\"\ngenesis_time = {}\n",
                network.name, network.chain_id, network.genesis_fork_version, network.genesis_time
            ));
        }
        self.node = Some(self.launch("dv-node", &config)?);
        self.wait_for_file("run/dv-node-control.sock")
    }

    fn start_web(&mut self) -> Result<(), MemberError> {
        let dir = self.dir.display();
        let config = format!(
            "state_dir = \"{dir}/web\"\nname = \"{}\"\nlisten = \"{}\"\n\
             node_socket = \"{dir}/run/dv-node-control.sock\"\nsigner_socket = \"{dir}/run/signer-control.sock\"\n\
             recovery_socket = \"{dir}/run/recovery-control.sock\"\n",
            self.name,
            self.page_address(),
        );
        self.web = Some(self.launch("web", &config)?);
        Page::new(self.page_address()).wait(START_PATIENCE)?;
        Ok(())
    }

    fn launch(&self, program: &str, config: &str) -> Result<Process, MemberError> {
        let config_path = self.dir.join(format!("{program}.toml"));
        fs::write(&config_path, config).map_err(self.file(&config_path))?;
        Ok(Launch::new(
            format!("{program} of {}", self.name),
            self.binaries.join(program),
            self.dir.join(format!("{program}.log")),
        )
        .arg("--config")
        .arg(&config_path)
        // As in its unit file.
        .env("MALLOC_ARENA_MAX", "2")
        .start()?)
    }

    fn make_dir(&self, sub: &str) -> Result<(), MemberError> {
        use std::os::unix::fs::DirBuilderExt as _;
        let path = self.dir.join(sub);
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&path).map_err(self.file(&path))
    }

    fn file(&self, path: &Path) -> impl FnOnce(io::Error) -> MemberError + use<> {
        let path = path.to_owned();
        move |source| MemberError::File { path, source }
    }

    fn wait_for_file(&mut self, name: &str) -> Result<(), MemberError> {
        let path = self.dir.join(name);
        let deadline = Instant::now() + START_PATIENCE;
        while !path.exists() {
            self.check_alive()?;
            if Instant::now() > deadline {
                return Err(MemberError::Silent { what: path.display().to_string(), dir: self.dir.clone() });
            }
            std::thread::sleep(POLL);
        }
        Ok(())
    }
}
