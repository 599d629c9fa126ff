//! What is known about a kind of board: one small file each in `image/boards/`.

use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::image::Arch;

/// A kind of board.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// What its maker calls it.
    pub name: String,
    /// Its kind of processor.
    pub arch: BoardArch,
    /// Its serial port as the kernel calls it, with the speed: `ttyS2,1500000`.
    pub console: String,
    /// Where the pins are.
    pub pins: String,
    /// Which UEFI firmware, and how it gets onto the board.
    pub firmware: String,
    /// Who describes the hardware to the kernel.
    pub hardware_description: String,
    /// What keeps an attacker who holds the board from our boot chain: 1 (as on a PC), 2 (less), or 3 (nothing does).
    pub tier: u8,
    /// Where the TPM is; begins with `none` when the board has none, and then the image starts only from a disk that was written so.
    pub tpm: String,
    /// Who has tried it, and with what result. Nothing counts that nobody has run.
    pub tried: String,
}

/// A kind of processor, as a profile names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum BoardArch {
    /// Mini-PCs.
    #[serde(rename = "x86-64")]
    X86_64,
    /// Single-board computers.
    #[serde(rename = "arm64")]
    Arm64,
}

/// Why a profile cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// It is not there.
    #[error("there is no board profile {path}; the known boards are the files beside it")]
    File {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// It says something else than it should.
    #[error("the board profile {path} is wrong: {message}")]
    Wrong {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
}

impl Profile {
    /// Reads `image/boards/NAME.toml`.
    ///
    /// # Errors
    /// When it is missing or incomplete.
    pub fn read(repository: &Path, name: &str) -> Result<Self, ProfileError> {
        let path = repository.join("image/boards").join(name).with_extension("toml");
        let text = std::fs::read_to_string(&path)
            .map_err(|source| ProfileError::File { path: path.clone(), source })?;
        Self::parse(&text).map_err(|message| ProfileError::Wrong { path, message })
    }

    fn parse(text: &str) -> Result<Self, String> {
        let profile: Self = toml::from_str(text).map_err(|error| error.to_string())?;
        if !(1..=3).contains(&profile.tier) {
            return Err(format!("tier is {}", profile.tier));
        }
        profile.baud().ok_or_else(|| format!("console is {:?}", profile.console))?;
        Ok(profile)
    }

    /// Which image it takes.
    pub fn image_arch(&self) -> Arch {
        match self.arch {
            BoardArch::X86_64 => Arch::X86_64,
            BoardArch::Arm64 => Arch::Arm64,
        }
    }

    /// Whether the board has no TPM that its firmware measures into.
    pub fn has_no_tpm(&self) -> bool {
        self.tpm.split(' ').next() == Some("none")
    }

    /// The speed of the serial line.
    pub fn baud(&self) -> Option<u32> {
        let (port, speed) = self.console.split_once(',')?;
        let port_is_plain = port.starts_with("tty") && port.chars().all(|c| c.is_ascii_alphanumeric());
        speed.parse().ok().filter(|_| port_is_plain)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_profile_is_complete_and_in_the_table_of_boards() {
        let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let page = std::fs::read_to_string(repository.join("docs/boards.md")).unwrap();
        let mut count = 0;
        for entry in std::fs::read_dir(repository.join("image/boards")).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            let profile = Profile::read(&repository, &name).unwrap();
            let row = format!("| `{name}` | {} | {} |", profile.name, profile.tier);
            assert!(page.contains(&row), "docs/boards.md has no row beginning with {row}");
            count += 1;
        }
        assert!(count >= 5, "{count} profiles");
    }

    #[test]
    fn a_console_that_would_change_the_command_line_is_refused() {
        let with = |console: &str| {
            let lines = ["pins", "firmware", "hardware_description", "tpm", "tried", "name"]
                .map(|field| format!("{field} = \"x\"\n"));
            Profile::parse(&format!(
                "arch = \"arm64\"\ntier = 2\nconsole = \"{console}\"\n{}",
                lines.concat()
            ))
        };
        assert_eq!(with("ttyS2,1500000").unwrap().baud(), Some(1_500_000));
        for console in ["ttyS2", "ttyS2,fast", "ttyS0 init=/bin/sh,115200", "hvc0,115200"] {
            assert!(with(console).is_err(), "{console}");
        }
    }
}
