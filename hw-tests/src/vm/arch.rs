//! What differs between the two kinds of processor under QEMU.

use std::path::Path;

use super::accel::Accel;
use crate::image::Arch;

impl Arch {
    /// QEMU's program for it.
    pub(crate) fn qemu(self) -> &'static str {
        match self {
            Self::X86_64 => "qemu-system-x86_64",
            Self::Arm64 => "qemu-system-aarch64",
        }
    }

    /// How the chip that QEMU connects to the software TPM is attached: neither machine offers the other's way.
    pub(crate) fn tpm_device(self) -> &'static str {
        match self {
            Self::X86_64 => "tpm-crb,tpmdev=tpm",
            Self::Arm64 => "tpm-tis-device,tpmdev=tpm",
        }
    }

    /// How many times as long as the x86-64 machine it may take: its kernel image is larger and never compressed.
    pub fn slowness(self) -> u32 {
        match self {
            Self::X86_64 => 1,
            Self::Arm64 => 3,
        }
    }

    /// Where distributions keep firmware that enforces Secure Boot, with blank variables: Debian and Ubuntu, Fedora,
    /// Arch. Blank means setup mode: the image enrols its own keys at the first start. The `.ms` variants would not let
    /// it. Debian 12's only ARM64 firmware can enforce it too; later ones have one with and one without.
    pub(crate) fn firmware_places(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::X86_64 => &[
                ("/usr/share/OVMF/OVMF_CODE_4M.secboot.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"),
                ("/usr/share/OVMF/OVMF_CODE.secboot.fd", "/usr/share/OVMF/OVMF_VARS.fd"),
                ("/usr/share/edk2/ovmf/OVMF_CODE.secboot.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd"),
                ("/usr/share/edk2/x64/OVMF_CODE.secboot.4m.fd", "/usr/share/edk2/x64/OVMF_VARS.4m.fd"),
            ],
            Self::Arm64 => &[
                ("/usr/share/AAVMF/AAVMF_CODE.secboot.fd", "/usr/share/AAVMF/AAVMF_VARS.fd"),
                ("/usr/share/AAVMF/AAVMF_CODE.fd", "/usr/share/AAVMF/AAVMF_VARS.fd"),
            ],
        }
    }

    /// The package that holds that firmware.
    pub(crate) fn firmware_package(self) -> &'static str {
        match self {
            Self::X86_64 => "ovmf",
            Self::Arm64 => "qemu-efi-aarch64",
        }
    }

    /// The board, with the firmware's code and the variables of one box.
    pub(crate) fn board(self, accel: Accel, code: &Path, variables: &Path) -> Vec<String> {
        let machine: &[&str] = match (self, accel) {
            // In system management mode, only the firmware itself can change its variables.
            (Self::X86_64, _) => &[
                "-machine",
                "q35,smm=on,vmport=off",
                "-global",
                "driver=cfi.pflash01,property=secure,value=on",
            ],
            // This machine has nothing like that mode: its firmware's variables are as safe as the system's root.
            (Self::Arm64, Accel::Emulated) => &["-machine", "virt,gic-version=3"],
            (Self::Arm64, Accel::Kvm) => &["-machine", "virt,gic-version=host"],
        };
        let flash = [
            "-drive".to_owned(),
            format!("if=pflash,unit=0,format=raw,readonly=on,file={}", code.display()),
            "-drive".to_owned(),
            format!("if=pflash,unit=1,format=raw,file={}", variables.display()),
        ];
        machine.iter().map(|&word| word.to_owned()).chain(flash).collect()
    }
}
