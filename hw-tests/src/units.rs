//! Scores the unit files: how much of the system each daemon could reach if it were taken over.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The worst exposure level that passes, of `systemd-analyze security` (0 is sealed, 10 is open).
/// Daemons with a network may show their sockets; the one with the keys may show nothing but its device.
const LIMITS: [(&str, f32); 3] = [("signer.service", 1.0), ("dv-node.service", 1.5), ("web.service", 1.5)];

/// One unit's score.
#[derive(Debug, Clone, PartialEq)]
pub struct Score {
    /// The unit file's name.
    pub unit: &'static str,
    /// Its exposure level.
    pub exposure: f32,
    /// The worst level that passes.
    pub limit: f32,
}

impl Score {
    /// Whether it is within its limit.
    pub fn passes(&self) -> bool {
        self.exposure <= self.limit
    }
}

/// Why there is no score.
#[derive(Debug, thiserror::Error)]
pub enum UnitsError {
    /// No systemd-analyze.
    #[error("cannot run systemd-analyze; is systemd installed?")]
    Start(#[source] io::Error),
    /// It did not say a level.
    #[error("systemd-analyze gave no score for {unit}:\n{said}")]
    NoScore {
        /// The unit file.
        unit: PathBuf,
        /// What it said.
        said: String,
    },
}

/// Scores our units in `systemd/system` below the repository with the host's systemd (252 or later). Older versions know
/// fewer locks and are therefore a little stricter.
///
/// # Errors
/// When systemd-analyze is missing or refuses a unit file.
pub fn scores(repository: &Path) -> Result<Vec<Score>, UnitsError> {
    LIMITS.iter().map(|&(unit, limit)| score(&repository.join("systemd/system"), unit, limit)).collect()
}

fn score(folder: &Path, unit: &'static str, limit: f32) -> Result<Score, UnitsError> {
    let path = folder.join(unit);
    let output = Command::new("systemd-analyze")
        .args(["security", "--offline=true", "--no-pager"])
        .arg(&path)
        .env("SYSTEMD_COLORS", "0")
        .env("LC_ALL", "C.UTF-8")
        .output()
        .map_err(UnitsError::Start)?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let exposure = level(&said).ok_or_else(|| UnitsError::NoScore {
        unit: path,
        said: format!("{said}{}", String::from_utf8_lossy(&output.stderr)),
    })?;
    Ok(Score { unit, exposure, limit })
}

/// The number in "→ Overall exposure level for x.service: 0.6 SAFE".
fn level(said: &str) -> Option<f32> {
    said.lines()
        .rev()
        .find_map(|line| line.split_once("exposure level for ")?.1.split_whitespace().nth(1)?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_level_is_read_from_the_last_line() {
        let said = "✓ UMask= fine\n\n→ Overall exposure level for signer.service: 0.6 SAFE 😀\n";
        assert_eq!(level(said), Some(0.6));
        assert_eq!(level("Failed to load"), None);
    }

    #[test]
    fn every_unit_is_within_its_limit() {
        let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        for score in scores(&repository).unwrap() {
            assert!(score.passes(), "{} scores {}, allowed is {}", score.unit, score.exposure, score.limit);
        }
    }
}
