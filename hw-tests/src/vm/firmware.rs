//! UEFI firmware that enforces Secure Boot, and blank variables for it.

use std::path::{Path, PathBuf};

use super::accel::Accel;
use crate::image::Arch;

/// A firmware found on this host.
#[derive(Debug, Clone)]
pub(crate) struct Firmware {
    pub(crate) arch: Arch,
    pub(crate) code: PathBuf,
    pub(crate) blank_variables: PathBuf,
}

impl Firmware {
    pub(crate) fn find(arch: Arch) -> Option<Self> {
        let exist =
            |&&(code, variables): &&(&str, &str)| Path::new(code).exists() && Path::new(variables).exists();
        let &(code, variables) = arch.firmware_places().iter().find(exist)?;
        Some(Self { arch, code: code.into(), blank_variables: variables.into() })
    }

    /// The board that this firmware is made for, with its code and the variables of one box.
    pub(crate) fn arguments(&self, accel: Accel, variables: &Path) -> Vec<String> {
        self.arch.board(accel, &self.code, variables)
    }
}
