//! Where the host keeps UEFI firmware that enforces Secure Boot, and blank variables for it.

use std::path::{Path, PathBuf};

/// Code and matching blank variables, by distribution: Debian and Ubuntu, Fedora, Arch.
/// Blank means setup mode: the image enrols its own keys at the first start. The `.ms` variants would not let it.
const PLACES: [(&str, &str); 4] = [
    ("/usr/share/OVMF/OVMF_CODE_4M.secboot.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"),
    ("/usr/share/OVMF/OVMF_CODE.secboot.fd", "/usr/share/OVMF/OVMF_VARS.fd"),
    ("/usr/share/edk2/ovmf/OVMF_CODE.secboot.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd"),
    ("/usr/share/edk2/x64/OVMF_CODE.secboot.4m.fd", "/usr/share/edk2/x64/OVMF_VARS.4m.fd"),
];

/// A firmware found on this host.
#[derive(Debug, Clone)]
pub(crate) struct Firmware {
    pub(crate) code: PathBuf,
    pub(crate) blank_variables: PathBuf,
}

impl Firmware {
    pub(crate) fn find() -> Option<Self> {
        PLACES.iter().find(|(code, variables)| Path::new(code).exists() && Path::new(variables).exists()).map(
            |(code, variables)| Self { code: PathBuf::from(code), blank_variables: PathBuf::from(variables) },
        )
    }
    /// The board that this firmware is made for, with its code and the variables of one box.
    pub(crate) fn arguments(&self, variables: &Path) -> Vec<String> {
        [
            // In system management mode, only the firmware itself can change its variables.
            "-machine",
            "q35,smm=on,vmport=off",
            "-global",
            "driver=cfi.pflash01,property=secure,value=on",
            "-drive",
            &format!("if=pflash,unit=0,format=raw,readonly=on,file={}", self.code.display()),
            "-drive",
            &format!("if=pflash,unit=1,format=raw,file={}", variables.display()),
        ]
        .map(str::to_owned)
        .to_vec()
    }
}
