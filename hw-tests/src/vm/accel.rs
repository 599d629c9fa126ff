//! Whether the processor's virtualisation really works here, or has to be emulated.

use std::fs;
use std::path::Path;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use super::firmware::Firmware;
use crate::image::Arch;
use crate::process::{Launch, POLL};

/// Firmware that really runs speaks within a second; one that does not is not worth waiting for.
const PROBE_PATIENCE: Duration = Duration::from_secs(15);

/// How the guest's processor is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accel {
    /// By the host's processor.
    Kvm,
    /// By QEMU's emulation: ten times slower, works everywhere.
    Emulated,
}

impl Accel {
    /// The best one that works on this host, tried once per process.
    pub(crate) fn best(firmware: &Firmware) -> Self {
        if !firmware.arch.is_host() {
            return Self::Emulated;
        }
        static BEST: OnceLock<Accel> = OnceLock::new();
        *BEST.get_or_init(|| if kvm_starts_firmware(firmware).is_some() { Self::Kvm } else { Self::Emulated })
    }

    pub(crate) fn arguments(self, arch: Arch) -> [&'static str; 4] {
        // The larger translation cache holds a whole boot.
        let emulation = "tcg,thread=multi,tb-size=512";
        match (self, arch) {
            (Self::Kvm, _) => ["-accel", "kvm", "-cpu", "host"],
            (Self::Emulated, Arch::X86_64) => ["-accel", emulation, "-cpu", "max"],
            // The "max" of this one signs every return address, which costs more to emulate than all else.
            (Self::Emulated, Arch::Arm64) => ["-accel", emulation, "-cpu", "cortex-a76"],
        }
    }
}

/// Starts the very firmware and board that boxes use, without a disk, and waits until it speaks. Less proves nothing:
/// inside a cloud machine the device file may exist, open, run nine bytes of a boot sector, and still fail at the first
/// floating-point instruction or lack system management mode.
fn kvm_starts_firmware(firmware: &Firmware) -> Option<()> {
    if !Path::new("/dev/kvm").exists() {
        return None;
    }
    let dir = tempfile::tempdir().ok()?;
    let variables = dir.path().join("variables.fd");
    fs::copy(&firmware.blank_variables, &variables).ok()?;
    let serial = dir.path().join("serial");
    let mut guest = Launch::new("KVM probe", firmware.arch.qemu(), dir.path().join("log"))
        .args(Accel::Kvm.arguments(firmware.arch))
        .args(firmware.arguments(Accel::Kvm, &variables))
        .args(["-m", "256", "-nodefaults", "-display", "none", "-no-user-config", "-serial"])
        .arg(format!("file:{}", serial.display()))
        .start()
        .ok()?;
    let deadline = Instant::now() + PROBE_PATIENCE;
    while Instant::now() < deadline && guest.check_alive().is_ok() {
        if fs::metadata(&serial).is_ok_and(|meta| meta.len() > 0) {
            return Some(());
        }
        std::thread::sleep(POLL);
    }
    None
}
