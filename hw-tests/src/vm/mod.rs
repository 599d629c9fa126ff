//! A box in QEMU: the real image, UEFI firmware that enforces Secure Boot, a software TPM, a disk that remembers.
//!
//! A [`Vm`] owns a folder with everything that outlives a power cut: the disk, the firmware's variables and the TPM's
//! state. Two with the same folder are the same box, one after the other. Only `dev` images have the shell that
//! [`Vm::run`] speaks to; a `release` image answers nothing but its ports.

mod accel;
mod arch;
pub mod checks;
mod firmware;
mod keyboard;
pub mod measure;
mod moment;
pub(crate) mod serial;
pub mod shares;
mod shell;

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::Arc;
use std::time::{Duration, Instant};

use installer::switch::AddOn;
use rand::Rng as _;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use tempfile::TempDir;

pub use accel::Accel;
pub use moment::Moment;
pub use shell::Output;

use crate::image::Arch;
use crate::process::{Launch, POLL, Process, ProcessError};
use crate::swtpm::{Swtpm, SwtpmError};
use firmware::Firmware;
use keyboard::Keyboard;
use serial::Serial;
use shell::Shell;

/// The line on the serial console of a dev image when every daemon is up.
pub const READY: &str = "Reached target hearth.target";
/// The first sign of life of the first system; before it, silence may be the emulator's own hang.
const INITRD_BANNER: &str = "Reached target initrd";
/// What an image says when it gives up and restarts.
pub(crate) const EMERGENCY: &str = "hearth: emergency";
/// About one emulated boot in thirty hangs in the early kernel on a busy host; nothing is ever silent this long otherwise.
const SILENCE: Duration = Duration::from_secs(60);
/// How the guest reaches the host's loopback.
pub const HOST_FROM_GUEST: &str = "10.0.2.2";
/// The second disk's file, and the third's.
const BUILT_IN: &str = "built-in.raw";
const SMALL: &str = "small.raw";
const SHELL_PATIENCE: Duration = Duration::from_secs(120);
const RUN_PATIENCE: Duration = Duration::from_secs(120);
const STOP_PATIENCE: Duration = Duration::from_secs(120);

/// What can go wrong with a virtual box.
#[derive(Debug, thiserror::Error)]
pub enum VmError {
    /// No firmware for Secure Boot on this host.
    #[error("no UEFI firmware with Secure Boot found; install the package {package}")]
    NoFirmware {
        /// The package that has it.
        package: &'static str,
    },
    /// A file of the box could not be read or written.
    #[error("cannot use {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The disk could not be copied.
    #[error("copying the image to {path} failed ({status}); is the disk full?")]
    Copy {
        /// The copy.
        path: PathBuf,
        /// What `cp` said.
        status: ExitStatus,
    },
    /// QEMU does not run.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// The TPM does not run.
    #[error(transparent)]
    Tpm(#[from] SwtpmError),
    /// Something was asked of a box that is off.
    #[error("the box is switched off; call power_on first")]
    Off,
    /// It did not happen in time.
    #[error("{what} did not happen within {seconds} s; the serial console ({log}) ends with:\n{tail}")]
    Timeout {
        /// What was waited for.
        what: String,
        /// How long.
        seconds: u64,
        /// The serial log.
        log: PathBuf,
        /// Its end.
        tail: String,
    },
    /// The image gave up.
    #[error("the guest failed to start and restarts itself; the serial console ({log}) ends with:\n{tail}")]
    Emergency {
        /// The serial log.
        log: PathBuf,
        /// Its end.
        tail: String,
    },
    /// The first message of TLS could not be made.
    #[error("cannot make a TLS client")]
    Tls(#[from] rustls::Error),
    /// The first message of TLS could not be written down.
    #[error("cannot write a TLS client's first message")]
    Hello(#[source] io::Error),
    /// The guest's shell could not be used.
    #[error("no answer from the guest's shell (only dev images have one)")]
    Shell(#[source] io::Error),
    /// Nothing can be typed.
    #[error("cannot type at the guest's serial port (only a box made with a keyboard has one)")]
    Keyboard(#[source] io::Error),
    /// The image cannot be made to start otherwise.
    #[error("the image cannot be made to start otherwise")]
    AddOn(#[source] anyhow::Error),
    /// QEMU's own prompt could not be used.
    #[error("cannot speak to QEMU's monitor")]
    Monitor(#[source] io::Error),
    /// A command in the guest failed.
    #[error("`{command}` ended with status {status} in the guest:\n{text}")]
    Command {
        /// The command.
        command: String,
        /// Its exit status.
        status: i32,
        /// What it printed.
        text: String,
    },
}

/// Something booted whose root shell answers: a virtual box, or a board on a serial line.
pub trait Guest {
    /// Why a command could not be run.
    type Error;

    /// Runs a command as root in a dev image and returns its status and output.
    ///
    /// # Errors
    /// When the shell does not answer in time.
    fn run(&mut self, command: &str) -> Result<Output, Self::Error>;
}

impl Guest for Vm {
    type Error = VmError;

    fn run(&mut self, command: &str) -> Result<Output, VmError> {
        Self::run(self, command)
    }
}

/// How a box is made.
#[derive(Debug, Clone)]
pub struct VmBuilder {
    image: PathBuf,
    state_dir: PathBuf,
    arch: Arch,
    memory_mb: u32,
    cpus: u32,
    disk_gb: u64,
    accel: Option<Accel>,
    forwards: Vec<(u16, u16)>,
    smbios: Vec<String>,
    console: Console,
    nvme: bool,
    built_in_gb: Option<u64>,
    small_gb: Option<u64>,
    installer: bool,
    left_in: bool,
    installed: bool,
    needs_no_tpm: bool,
    has_no_tpm: bool,
}

/// What is connected to the guest's consoles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Console {
    /// A log on the serial port, a shell on a virtio console.
    Watched,
    /// The same, and somebody types at the serial port.
    Typed,
    /// A pseudo-terminal on the serial port and nothing else, as a board has it.
    SerialLine,
}

impl VmBuilder {
    /// Gives the box a serial line for somebody else to open ([`Vm::serial_line`]) instead of the log and the virtio
    /// console that [`Vm::wait_ready`] and [`Vm::run`] need.
    pub fn serial_line(mut self) -> Self {
        self.console = Console::SerialLine;
        self
    }

    /// The kind of processor the image is for, x86-64 unless told.
    pub fn arch(mut self, arch: Arch) -> Self {
        self.arch = arch;
        self
    }

    /// Memory, 1024 MB unless told.
    pub fn memory_mb(mut self, memory_mb: u32) -> Self {
        self.memory_mb = memory_mb;
        self
    }

    /// Processors. One unless told: an emulated boot takes a quarter longer than with two, and half the host's work.
    pub fn cpus(mut self, cpus: u32) -> Self {
        self.cpus = cpus;
        self
    }

    /// The disk, 8 GB unless told; the file on the host is sparse.
    pub fn disk_gb(mut self, disk_gb: u64) -> Self {
        self.disk_gb = disk_gb;
        self
    }

    /// The disk as an NVMe one, which can be asked how it is, instead of QEMU's own kind.
    pub fn nvme(mut self) -> Self {
        self.nvme = true;
        self
    }

    /// A second disk, empty, of the NVMe kind: what is built into a machine that starts from a stick.
    pub fn built_in_gb(mut self, gb: u64) -> Self {
        self.built_in_gb = Some(gb);
        self
    }

    /// The second disk as an installer leaves it: it holds the image.
    pub fn installed(mut self) -> Self {
        self.installed = true;
        self
    }

    /// A third disk, of QEMU's own kind: to be too small for a box, or to be kept with a moment ([`Vm::keep_moment`]), as one of the NVMe kind
    /// cannot be.
    pub fn small_gb(mut self, gb: u64) -> Self {
        self.small_gb = Some(gb);
        self
    }

    /// The disk as a stick that installs: what `./hearth flash --installer` makes of the image. It can be pulled out
    /// ([`Vm::pull_stick`]).
    pub fn installer(mut self) -> Self {
        self.installer = true;
        self
    }

    /// The disk as it is written for a board without a TPM: what `./hearth flash --tpm none` makes of the image.
    pub fn needs_no_tpm(mut self) -> Self {
        self.needs_no_tpm = true;
        self
    }

    /// A machine without a TPM.
    pub fn has_no_tpm(mut self) -> Self {
        self.has_no_tpm = true;
        self
    }

    /// Starts the machine from the disk that is built in although the stick is in it.
    pub fn stick_left_in(mut self) -> Self {
        self.left_in = true;
        self
    }

    /// Lets a test type at the serial port ([`Vm::type_text`]), as a person does before a screen.
    pub fn keyboard(mut self) -> Self {
        self.console = Console::Typed;
        self
    }

    /// How to make the processor; the best that works here unless told.
    pub fn accel(mut self, accel: Accel) -> Self {
        self.accel = Some(accel);
        self
    }

    /// Makes a TCP port of the guest reachable at 127.0.0.1:`host_port`.
    pub fn forward(mut self, host_port: u16, guest_port: u16) -> Self {
        self.forwards.push((host_port, guest_port));
        self
    }

    /// Adds a string to the firmware's SMBIOS tables (type 11), the way a host, or an attacker, passes settings to
    /// systemd: `io.systemd.credential:name=value` (dev images), `io.systemd.stub.kernel-cmdline-extra=…`.
    pub fn smbios(mut self, string: impl Into<String>) -> Self {
        self.smbios.push(string.into());
        self
    }

    /// Makes the box, or finds it in its folder, and leaves it switched off.
    ///
    /// # Errors
    /// When the folder cannot be filled or the host lacks firmware.
    pub fn create(self) -> Result<Vm, VmError> {
        let firmware =
            Firmware::find(self.arch).ok_or(VmError::NoFirmware { package: self.arch.firmware_package() })?;
        let file = |path: &Path| {
            let path = path.to_owned();
            move |source| VmError::File { path, source }
        };
        fs::create_dir_all(&self.state_dir).map_err(file(&self.state_dir))?;
        let disk = self.state_dir.join("disk.raw");
        if !disk.exists() {
            copy_disk(&self.image, &disk, self.disk_gb)?;
            for (wanted, add_on) in [(self.installer, AddOn::Install), (self.needs_no_tpm, AddOn::NoTpm)] {
                if wanted {
                    let opened = File::options().read(true).write(true).open(&disk);
                    let mut opened = opened.map_err(file(&disk))?;
                    installer::switch::turn_on(&mut opened, add_on).map_err(VmError::AddOn)?;
                }
            }
        }
        if let (Some(gb), true) = (self.built_in_gb, self.installed) {
            copy_disk(&self.image, &self.state_dir.join(BUILT_IN), gb)?;
        }
        for (name, gb) in [(BUILT_IN, self.built_in_gb), (SMALL, self.small_gb)] {
            let path = self.state_dir.join(name);
            if let (Some(gb), false) = (gb, path.exists()) {
                let empty = File::create(&path).map_err(file(&path))?;
                empty.set_len(gb << 30).map_err(file(&path))?;
            }
        }
        let variables = self.state_dir.join("firmware-variables.fd");
        if !variables.exists() {
            fs::copy(&firmware.blank_variables, &variables).map_err(file(&variables))?;
        }
        // The board's identity, from which the machine id is made.
        let uuid_path = self.state_dir.join("uuid");
        if !uuid_path.exists() {
            fs::write(&uuid_path, random_uuid()).map_err(file(&uuid_path))?;
        }
        let uuid = fs::read_to_string(&uuid_path).map_err(file(&uuid_path))?;
        // Paths of unix sockets are limited to 107 bytes, so they cannot live in a folder of the caller's choice.
        let sockets =
            tempfile::Builder::new().prefix("hearth-vm-").tempdir().map_err(file(&std::env::temp_dir()))?;
        let serial = Serial::new(self.state_dir.join("serial.log"));
        Ok(Vm {
            recipe: self,
            firmware,
            disk,
            variables,
            uuid,
            sockets,
            serial,
            running: None,
            shell: None,
            keyboard: None,
        })
    }

    /// [`VmBuilder::create`] and [`Vm::power_on`].
    ///
    /// # Errors
    /// Those of both.
    pub fn start(self) -> Result<Vm, VmError> {
        let mut vm = self.create()?;
        vm.power_on()?;
        Ok(vm)
    }
}

/// What ends when the power is cut. QEMU first, then its TPM.
#[derive(Debug)]
struct Running {
    qemu: Process,
    tpm: Option<Swtpm>,
}

/// A box. Dropping it cuts its power; its folder stays.
#[derive(Debug)]
pub struct Vm {
    recipe: VmBuilder,
    firmware: Firmware,
    disk: PathBuf,
    variables: PathBuf,
    uuid: String,
    sockets: TempDir,
    serial: Serial,
    shell: Option<Shell>,
    keyboard: Option<Keyboard>,
    running: Option<Running>,
}

impl Vm {
    /// A box with a copy of `image` as its disk and everything it remembers in `state_dir`.
    pub fn builder(image: impl Into<PathBuf>, state_dir: impl Into<PathBuf>) -> VmBuilder {
        VmBuilder {
            image: image.into(),
            state_dir: state_dir.into(),
            arch: Arch::default(),
            memory_mb: 1024,
            cpus: 1,
            disk_gb: 8,
            accel: None,
            forwards: Vec::new(),
            smbios: Vec::new(),
            console: Console::Watched,
            nvme: false,
            built_in_gb: None,
            small_gb: None,
            installer: false,
            left_in: false,
            installed: false,
            needs_no_tpm: false,
            has_no_tpm: false,
        }
    }

    /// Everything the guest said on its serial port, over all boots.
    pub fn serial_log(&self) -> &Path {
        self.serial.path()
    }

    /// The box's disk, for tests that look at it or damage it while it is off.
    pub fn disk(&self) -> &Path {
        &self.disk
    }

    /// The disk of [`VmBuilder::built_in_gb`].
    pub fn built_in_disk(&self) -> PathBuf {
        self.state_dir().join(BUILT_IN)
    }

    /// The disk of [`VmBuilder::small_gb`].
    pub fn small_disk(&self) -> PathBuf {
        self.state_dir().join(SMALL)
    }

    /// The pseudo-terminal of a box made with [`VmBuilder::serial_line`], which QEMU names when it starts.
    ///
    /// # Errors
    /// When the box is off, or QEMU names none.
    pub fn serial_line(&mut self) -> Result<PathBuf, VmError> {
        let log = self.state_dir().join("qemu.log");
        let start = Instant::now();
        while start.elapsed() < SHELL_PATIENCE {
            self.check_alive()?;
            let text = fs::read_to_string(&log).unwrap_or_default();
            // The log holds every start; the last one counts.
            let named = text.lines().rev().find_map(|line| line.split_once("redirected to "));
            if let Some((_, rest)) = named {
                return Ok(PathBuf::from(rest.split_whitespace().next().unwrap_or_default()));
            }
            std::thread::sleep(POLL);
        }
        Err(self.timeout("QEMU naming its serial line", SHELL_PATIENCE))
    }

    fn state_dir(&self) -> &Path {
        &self.recipe.state_dir
    }

    /// Switches the box on.
    ///
    /// # Errors
    /// When QEMU or the TPM does not start.
    pub fn power_on(&mut self) -> Result<(), VmError> {
        self.power_on_from(None)
    }

    fn power_on_from(&mut self, moment: Option<&Moment>) -> Result<(), VmError> {
        self.power_cut()?;
        self.serial.mark();
        let tpm_socket = self.sockets.path().join("tpm");
        // A TPM that was killed leaves its socket behind.
        let _ = fs::remove_file(&tpm_socket);
        let tpm_dir = self.recipe.state_dir.join("tpm");
        let tpm = (!self.recipe.has_no_tpm).then(|| Swtpm::for_machine(&tpm_dir, &tpm_socket)).transpose()?;
        let arch = self.recipe.arch;
        let accel = self.recipe.accel.unwrap_or_else(|| Accel::best(&self.firmware));
        let qemu = Launch::new("QEMU", arch.qemu(), self.recipe.state_dir.join("qemu.log"))
            .args(accel.arguments(arch))
            .args(self.firmware.arguments(accel, &self.variables))
            .args(self.arguments(&tpm_socket))
            .args(
                moment
                    .map(|kept| ["-incoming".to_owned(), format!("exec:cat {}", kept.memory().display())])
                    .into_iter()
                    .flatten(),
            )
            .start()?;
        self.running = Some(Running { qemu, tpm });
        Ok(())
    }

    fn arguments(&self, tpm_socket: &Path) -> Vec<String> {
        let recipe = &self.recipe;
        let forwards: String = recipe
            .forwards
            .iter()
            .map(|(host, guest)| format!(",hostfwd=tcp:127.0.0.1:{host}-:{guest}"))
            .collect();
        let mut pairs = vec![
            ("-smp", recipe.cpus.to_string()),
            ("-m", recipe.memory_mb.to_string()),
            ("-uuid", self.uuid.clone()),
            ("-display", "none".to_owned()),
            // No fsync on the host: a power cut here kills QEMU, not the host.
            (
                "-drive",
                format!("if=none,id=disk,format=raw,cache=unsafe,discard=unmap,file={}", self.disk.display()),
            ),
            ("-object", "rng-random,id=rng,filename=/dev/urandom".to_owned()),
            ("-device", "virtio-rng-pci,rng=rng".to_owned()),
            ("-netdev", format!("user,id=net{forwards}")),
            // Without a boot ROM: the firmware would try to boot from the network.
            ("-device", "virtio-net-pci,netdev=net,romfile=".to_owned()),
            ("-serial", "chardev:serial".to_owned()),
            ("-monitor", format!("unix:{},server=on,wait=off", self.monitor_socket().display())),
        ];
        if !recipe.has_no_tpm {
            pairs.extend([
                ("-chardev", format!("socket,id=tpm,path={}", tpm_socket.display())),
                ("-tpmdev", "emulator,id=tpm,chardev=tpm".to_owned()),
                ("-device", recipe.arch.tpm_device().to_owned()),
            ]);
        }
        if recipe.installer {
            // On a bus of which things are pulled.
            let order = if recipe.left_in { 3 } else { 1 };
            pairs.extend([
                ("-device", "virtio-scsi-pci,id=sticks".to_owned()),
                ("-device", format!("scsi-hd,bus=sticks.0,drive=disk,id=stick,bootindex={order}")),
            ]);
        } else {
            let kind = if recipe.nvme { "nvme,serial=hearth" } else { "virtio-blk-pci" };
            pairs.push(("-device", format!("{kind},drive=disk,bootindex=1")));
        }
        let log = self.serial.path().display();
        match recipe.console {
            Console::SerialLine => pairs.push(("-chardev", "pty,id=serial".to_owned())),
            Console::Watched => pairs.push(("-chardev", format!("file,id=serial,append=on,path={log}"))),
            Console::Typed => {
                let socket = self.keyboard_socket();
                let socket = socket.display();
                let how = "socket,id=serial,server=on,wait=off,logappend=on";
                pairs.push(("-chardev", format!("{how},path={socket},logfile={log}")));
            }
        }
        if recipe.built_in_gb.is_some() {
            let file = self.built_in_disk();
            pairs.extend([
                ("-drive", format!("if=none,id=built-in,format=raw,cache=unsafe,file={}", file.display())),
                ("-device", "nvme,drive=built-in,serial=built-in,bootindex=2".to_owned()),
            ]);
        }
        if recipe.small_gb.is_some() {
            let file = self.small_disk();
            pairs.extend([
                ("-drive", format!("if=none,id=small,format=raw,cache=unsafe,file={}", file.display())),
                ("-device", "virtio-blk-pci,drive=small".to_owned()),
            ]);
        }
        match recipe.console {
            Console::SerialLine => {}
            Console::Watched | Console::Typed => pairs.extend([
                ("-device", "virtio-serial-pci".to_owned()),
                (
                    "-chardev",
                    format!("socket,id=shell,server=on,wait=off,path={}", self.shell_socket().display()),
                ),
                ("-device", "virtconsole,chardev=shell".to_owned()),
            ]),
        }
        pairs.extend(
            recipe
                .smbios
                .iter()
                .map(|text| ("-smbios", format!("type=11,value={}", text.replace(',', ",,")))),
        );
        let flags = ["-nodefaults", "-no-user-config"].map(str::to_owned);
        flags
            .into_iter()
            .chain(pairs.into_iter().flat_map(|(name, value)| [name.to_owned(), value]))
            .collect()
    }

    fn keyboard_socket(&self) -> PathBuf {
        self.sockets.path().join("keyboard")
    }

    fn monitor_socket(&self) -> PathBuf {
        self.sockets.path().join("monitor")
    }

    /// What a box remembers without power, whether it has all of it or not.
    fn remembers(&self) -> [PathBuf; 5] {
        let tpm = self.state_dir().join("tpm");
        [self.disk.clone(), self.variables.clone(), tpm, self.built_in_disk(), self.small_disk()]
    }

    fn shell_socket(&self) -> PathBuf {
        self.sockets.path().join("shell")
    }

    /// Waits until every daemon of a dev image is up. A boot that falls silent before the first system has started is
    /// the emulator's fault and is tried once more. Returns how long it took.
    ///
    /// # Errors
    /// [`VmError::Emergency`] when the image gives up, [`VmError::Timeout`].
    pub fn wait_ready(&mut self, patience: Duration) -> Result<Duration, VmError> {
        let start = Instant::now();
        let mut last = (self.serial.length(), Instant::now());
        let mut second_chance = true;
        while start.elapsed() < patience {
            self.check_alive()?;
            if self.serial.line_with(READY).is_some() {
                return Ok(start.elapsed());
            }
            if self.serial.line_with(EMERGENCY).is_some() {
                return Err(VmError::Emergency { log: self.serial.path().to_owned(), tail: self.tail() });
            }
            if self.serial.length() != last.0 {
                last = (self.serial.length(), Instant::now());
            } else if last.1.elapsed() > SILENCE * self.recipe.arch.slowness()
                && second_chance
                && self.serial.line_with(INITRD_BANNER).is_none()
            {
                second_chance = false;
                self.power_on()?;
                last = (self.serial.length(), Instant::now());
            }
            std::thread::sleep(POLL * 8);
        }
        Err(self.timeout("reaching hearth.target", patience))
    }

    /// Waits for a line on the serial console of this boot that contains `pattern`, and returns it.
    ///
    /// # Errors
    /// [`VmError::Timeout`], or when QEMU ends.
    pub fn wait_for(&mut self, pattern: &str, patience: Duration) -> Result<String, VmError> {
        let start = Instant::now();
        loop {
            if let Some(line) = self.serial.line_with(pattern) {
                return Ok(line);
            }
            self.check_alive()?;
            if start.elapsed() > patience {
                return Err(self.timeout(&format!("`{pattern}` on the console"), patience));
            }
            std::thread::sleep(POLL * 8);
        }
    }

    /// Waits until this boot has said so many lines on the serial console.
    ///
    /// # Errors
    /// [`VmError::Timeout`], or when QEMU ends.
    pub fn wait_lines(&mut self, lines: usize, patience: Duration) -> Result<(), VmError> {
        let start = Instant::now();
        while self.console_lines() < lines {
            self.check_alive()?;
            if start.elapsed() > patience {
                return Err(self.timeout(&format!("{lines} lines on the console"), patience));
            }
            std::thread::sleep(POLL);
        }
        Ok(())
    }

    /// How many lines this boot has said on the serial console.
    pub fn console_lines(&self) -> usize {
        self.serial.text().matches('\n').count()
    }

    /// Types at the serial port of a box with a [`VmBuilder::keyboard`].
    ///
    /// # Errors
    /// When the box is off or has no keyboard.
    pub fn type_text(&mut self, text: &str) -> Result<(), VmError> {
        self.check_alive()?;
        let keyboard = match self.keyboard.take() {
            Some(keyboard) => keyboard,
            None => Keyboard::open(&self.keyboard_socket()).map_err(VmError::Keyboard)?,
        };
        keyboard.press(text).map_err(VmError::Keyboard)?;
        self.keyboard = Some(keyboard);
        Ok(())
    }

    /// Waits until the serial console of this boot shows `pattern`, be it in a line that somebody is to finish.
    ///
    /// # Errors
    /// [`VmError::Timeout`], or when QEMU ends.
    pub fn wait_shown(&mut self, pattern: &str, patience: Duration) -> Result<(), VmError> {
        self.wait_shown_any(&[pattern], patience)
    }

    /// [`Vm::wait_shown`] for the first of several.
    ///
    /// # Errors
    /// [`VmError::Timeout`], or when QEMU ends.
    pub fn wait_shown_any(&mut self, patterns: &[&str], patience: Duration) -> Result<(), VmError> {
        let start = Instant::now();
        while start.elapsed() < patience {
            let text = self.serial.text();
            if patterns.iter().any(|pattern| text.contains(pattern)) {
                return Ok(());
            }
            self.check_alive()?;
            std::thread::sleep(POLL * 8);
        }
        Err(self.timeout(&format!("{patterns:?} on the console"), patience))
    }

    /// Waits until the guest has switched itself off.
    ///
    /// # Errors
    /// [`VmError::Timeout`].
    pub fn wait_off(&mut self, patience: Duration) -> Result<(), VmError> {
        let running = self.running.as_mut().ok_or(VmError::Off)?;
        if running.qemu.wait(patience)?.is_none() {
            return Err(self.timeout("switching off", patience));
        }
        self.power_cut()
    }

    /// Waits until the owner's page behind a forwarded port answers: the one sign of life that a release image gives.
    ///
    /// # Errors
    /// [`VmError::Timeout`], or when QEMU ends.
    pub fn wait_page(&mut self, host_port: u16, patience: Duration) -> Result<Duration, VmError> {
        let start = Instant::now();
        let hello = client_hello()?;
        while start.elapsed() < patience {
            self.check_alive()?;
            if answers(host_port, &hello) {
                return Ok(start.elapsed());
            }
            std::thread::sleep(POLL * 8);
        }
        Err(self.timeout(&format!("an answer of the page on port {host_port}"), patience))
    }

    /// Whether a shell answers on the virtio console within `patience`. In a release image none ever does.
    ///
    /// # Errors
    /// When QEMU ends.
    pub fn has_shell(&mut self, patience: Duration) -> Result<bool, VmError> {
        self.check_alive()?;
        Ok(Shell::open(&self.shell_socket(), patience).is_ok())
    }

    /// Runs a command as root in a dev image and returns its status and output.
    ///
    /// # Errors
    /// When the shell does not answer, or the command takes longer than two minutes.
    pub fn run(&mut self, command: &str) -> Result<Output, VmError> {
        self.check_alive()?;
        let mut shell = match self.shell.take() {
            Some(shell) => shell,
            None => Shell::open(&self.shell_socket(), SHELL_PATIENCE).map_err(VmError::Shell)?,
        };
        let output = shell.run(command, RUN_PATIENCE).map_err(VmError::Shell)?;
        // Kept only while in step: after an error the next call opens a new one.
        self.shell = Some(shell);
        Ok(output)
    }

    /// [`Vm::run`] for a command that must succeed; returns what it printed.
    ///
    /// # Errors
    /// Those of `run`, and [`VmError::Command`].
    pub fn expect(&mut self, command: &str) -> Result<String, VmError> {
        match self.run(command)? {
            Output { status: 0, text } => Ok(text),
            Output { status, text } => Err(VmError::Command { command: command.to_owned(), status, text }),
        }
    }

    /// Restarts a dev image in order; follow with [`Vm::wait_ready`].
    ///
    /// # Errors
    /// When the shell does not answer.
    pub fn reboot(&mut self) -> Result<(), VmError> {
        self.run("true")?;
        self.serial.mark();
        self.tell("systemctl --no-block reboot")
    }

    /// Shuts a dev image down in order and waits until it is off.
    ///
    /// # Errors
    /// When the shell does not answer or the guest does not switch itself off.
    pub fn shutdown(&mut self) -> Result<(), VmError> {
        self.run("true")?;
        self.tell("systemctl --no-block poweroff")?;
        self.wait_off(STOP_PATIENCE)
    }

    fn tell(&mut self, command: &str) -> Result<(), VmError> {
        self.shell.take().ok_or(VmError::Off)?.send(command).map_err(VmError::Shell)
    }

    /// Pulls the plug: nothing in the guest gets to finish anything.
    ///
    /// # Errors
    /// When the processes cannot be ended.
    pub fn power_cut(&mut self) -> Result<(), VmError> {
        self.shell = None;
        self.keyboard = None;
        if let Some(mut running) = self.running.take() {
            running.qemu.kill()?;
            drop(running.tpm);
        }
        Ok(())
    }

    /// Fails when QEMU or the TPM has ended by itself, or when the box is off.
    ///
    /// # Errors
    /// With the end of that one's log.
    pub fn check_alive(&mut self) -> Result<(), VmError> {
        let running = self.running.as_mut().ok_or(VmError::Off)?;
        running.qemu.check_alive()?;
        Ok(())
    }

    fn timeout(&self, what: &str, patience: Duration) -> VmError {
        VmError::Timeout {
            what: what.to_owned(),
            seconds: patience.as_secs(),
            log: self.serial.path().to_owned(),
            tail: self.tail(),
        }
    }

    fn tail(&self) -> String {
        let text = self.serial.text();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        let _ = self.power_cut();
    }
}

/// A sparse copy, grown to the size of the disk; the image completes it at its first start.
fn copy_disk(image: &Path, disk: &Path, disk_gb: u64) -> Result<(), VmError> {
    let error = |source| VmError::File { path: disk.to_owned(), source };
    let partial = disk.with_extension("partial");
    let status = Command::new("cp")
        .args(["--sparse=always", "--reflink=auto"])
        .args([image, &partial])
        .status()
        .map_err(error)?;
    if !status.success() {
        return Err(VmError::Copy { path: partial, status });
    }
    let file = File::options().write(true).open(&partial).map_err(error)?;
    let size = file.metadata().map_err(error)?.len().max(disk_gb << 30);
    file.set_len(size).map_err(error)?;
    fs::rename(&partial, disk).map_err(error)
}

/// The first message of a TLS client. Whether anybody answers it is all that is asked here.
fn client_hello() -> Result<Vec<u8>, VmError> {
    let client = || -> Result<ClientConnection, rustls::Error> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        let name = ServerName::try_from("hearth.local")
            .map_err(|error| rustls::Error::General(error.to_string()))?;
        ClientConnection::new(Arc::new(config), name)
    };
    let mut bytes = Vec::new();
    client()?.write_tls(&mut bytes).map_err(VmError::Hello)?;
    Ok(bytes)
}

/// Whether one byte comes back. A connection alone proves nothing: QEMU accepts it before the guest even has an address.
fn answers(port: u16, hello: &[u8]) -> bool {
    let attempt = || -> io::Result<bool> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(hello)?;
        Ok(stream.read(&mut [0_u8; 1])? > 0)
    };
    attempt().unwrap_or(false)
}

fn random_uuid() -> String {
    let [a, b, c, d] = rand::rng().random::<[u32; 4]>();
    format!("{a:08x}-{:04x}-4{:03x}-8{:03x}-{:04x}{d:08x}", b >> 16, b & 0xfff, c >> 20, c & 0xffff)
}
