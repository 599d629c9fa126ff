//! Whether the processor's virtualisation really works here, or has to be emulated.

use std::fs;
use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use crate::process::Launch;

/// Writes 0x10 to port 0x501, where QEMU's `isa-debug-exit` turns it into the exit code 0x10 * 2 + 1:
/// `mov dx, 0x501; mov al, 0x10; out dx, al; hlt; jmp $-1`.
const GUEST: [u8; 9] = [0xba, 0x01, 0x05, 0xb0, 0x10, 0xee, 0xf4, 0xeb, 0xfd];
const GUEST_EXIT_CODE: i32 = 0x21;
const PROBE_PATIENCE: Duration = Duration::from_secs(10);

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
    pub fn best() -> Self {
        static BEST: OnceLock<Accel> = OnceLock::new();
        *BEST.get_or_init(|| if kvm_runs_a_guest() { Self::Kvm } else { Self::Emulated })
    }

    pub(crate) fn arguments(self) -> [&'static str; 4] {
        match self {
            Self::Kvm => ["-accel", "kvm", "-cpu", "host"],
            // The larger translation cache holds a whole boot.
            Self::Emulated => ["-accel", "tcg,thread=multi,tb-size=512", "-cpu", "max"],
        }
    }
}

/// Starts a guest of nine bytes. The device file alone proves nothing: inside a cloud machine or a container it may be
/// there, may even open, and still run no guest.
fn kvm_runs_a_guest() -> bool {
    if !Path::new("/dev/kvm").exists() {
        return false;
    }
    let attempt = || -> Option<i32> {
        let dir = tempfile::tempdir().ok()?;
        let disk = dir.path().join("boot-sector");
        let mut sector = [0_u8; 512];
        sector[..GUEST.len()].copy_from_slice(&GUEST);
        // The mark of a boot sector.
        sector[510..].copy_from_slice(&[0x55, 0xaa]);
        fs::write(&disk, sector).ok()?;
        let mut guest = Launch::new("KVM probe", "qemu-system-x86_64", dir.path().join("log"))
            .args(["-accel", "kvm", "-m", "16", "-nodefaults", "-display", "none", "-no-user-config", "-no-reboot"])
            .args(["-device", "isa-debug-exit,iobase=0x501,iosize=1", "-drive"])
            .arg(format!("if=ide,format=raw,readonly=off,file={}", disk.display()))
            .start()
            .ok()?;
        let status = guest.wait(PROBE_PATIENCE).ok()??;
        status.code()
    };
    attempt() == Some(GUEST_EXIT_CODE)
}
