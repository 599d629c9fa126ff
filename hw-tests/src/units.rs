//! Scores the unit files: how much of the system each daemon could reach if it were taken over.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The worst exposure level that passes, of `systemd-analyze security` (0 is sealed, 10 is open): whoever holds keys may show
/// nothing but its device.
const KEYS: f32 = 1.0;
/// Daemons of ours may show their sockets.
const OURS: f32 = 1.5;
/// Programs of others were not written for our locks. Their units say so with a line `# limit: third party`.
const THIRD_PARTY: f32 = 2.5;

/// The first system's units, of which those that run a program of ours are scored: it lies on the root.
const FIRST_SYSTEM: &str = "image/mkosi.images/initrd/mkosi.extra/etc/systemd/system";
const ON_THE_ROOT: &str = "RootDirectory=/sysroot";

/// One unit's score.
#[derive(Debug, Clone, PartialEq)]
pub struct Score {
    /// The unit file's name.
    pub unit: String,
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
    /// The unit files are not there.
    #[error("cannot read the unit files in {path}")]
    Folder {
        /// Where they should be.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// It did not say a level.
    #[error("systemd-analyze gave no score for {unit}:\n{said}")]
    NoScore {
        /// The unit file.
        unit: PathBuf,
        /// What it said.
        said: String,
    },
}

/// Scores every service in `systemd/system` below the repository, and those of the first system that run a program of ours, with the host's systemd (252 or later). Older versions know
/// fewer locks and are therefore a little stricter.
///
/// # Errors
/// When systemd-analyze is missing or refuses a unit file.
pub fn scores(repository: &Path) -> Result<Vec<Score>, UnitsError> {
    let mut scores = Vec::new();
    for (folder, marked) in [("systemd/system", ""), (FIRST_SYSTEM, ON_THE_ROOT)] {
        let folder = repository.join(folder);
        let file = |source| UnitsError::Folder { path: folder.clone(), source };
        for entry in std::fs::read_dir(&folder).map_err(file)? {
            let path = entry.map_err(file)?.path();
            if path.extension().is_none_or(|extension| extension != "service") {
                continue;
            }
            let text = std::fs::read_to_string(&path).map_err(file)?;
            let unit = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            // Those that end too: while they run they can be taken over like any other.
            if marked.is_empty() || text.lines().any(|line| line == marked) {
                scores.push(score(&path, limit(&unit, &text), unit)?);
            }
        }
    }
    scores.sort_by(|a, b| a.unit.cmp(&b.unit));
    Ok(scores)
}

fn limit(unit: &str, text: &str) -> f32 {
    if unit == "signer.service" {
        KEYS
    } else if text.lines().any(|line| line == "# limit: third party") {
        THIRD_PARTY
    } else {
        OURS
    }
}

fn score(path: &Path, limit: f32, unit: String) -> Result<Score, UnitsError> {
    let output = Command::new("systemd-analyze")
        .args(["security", "--offline=true", "--no-pager"])
        .arg(path)
        .env("SYSTEMD_COLORS", "0")
        .env("LC_ALL", "C.UTF-8")
        .output()
        .map_err(UnitsError::Start)?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let exposure = level(&said).ok_or_else(|| UnitsError::NoScore {
        unit: path.to_owned(),
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

    /// Whoever may open a stream to the journal can have it on the screen, so for everybody else that door is shut as well.
    #[test]
    fn only_the_signer_and_fixed_sentences_reach_the_screen() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../systemd/system");
        let mut on_screen = Vec::new();
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|extension| extension != "service") {
                continue;
            }
            let unit = path.file_name().unwrap().to_string_lossy().into_owned();
            let text = std::fs::read_to_string(&path).unwrap();
            let lines = || text.lines().map(str::trim);
            let said = |key: &str, word: &str| {
                lines().any(|line| {
                    line.strip_prefix(key)
                        .is_some_and(|value| value.split_whitespace().any(|one| one == word))
                })
            };
            for key in ["StandardOutput=", "StandardError=", "TTYPath="] {
                for value in lines().filter_map(|line| line.strip_prefix(key)) {
                    match value {
                        "journal" => {}
                        "journal+console" if key == "StandardOutput=" => on_screen.push(unit.clone()),
                        file => assert!(file.starts_with("truncate:/run/"), "{unit}: {key}{file}"),
                    }
                }
            }
            let is_shut = said("InaccessiblePaths=", "-/run/systemd/journal/stdout");
            assert_eq!(is_shut, unit != "signer.service", "{unit}");
            // The kernel writes a line about each process that it ends.
            let is_alone =
                ["RestrictAddressFamilies=none", "RestrictAddressFamilies=AF_UNIX", "Type=oneshot"];
            let makes_no_crowd = lines().any(|line| line.starts_with("TasksMax="));
            assert!(makes_no_crowd || lines().any(|line| is_alone.contains(&line)), "{unit}");
        }
        on_screen.sort();
        assert_eq!(on_screen, ["screen.service", "signer.service"]);
        // The distribution's own daemons that read what strangers send.
        for unit in ["systemd-resolved", "systemd-networkd"] {
            let path = folder.join(format!("{unit}.service.d/10-hearth.conf"));
            let text = std::fs::read_to_string(path).unwrap();
            assert!(text.lines().any(|line| {
                line.starts_with("InaccessiblePaths=") && line.contains("-/run/systemd/journal/stdout")
            }));
            assert!(text.lines().any(|line| line.starts_with("TasksMax=")), "{unit}");
        }
    }

    #[test]
    fn a_unit_without_locks_is_found_wanting() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("systemd/system");
        std::fs::create_dir_all(&folder).unwrap();
        let first = dir.path().join(FIRST_SYSTEM);
        std::fs::create_dir_all(&first).unwrap();
        std::fs::write(first.join("theirs.service"), "[Service]\nExecStart=/bin/true\n").unwrap();
        let on_the_root = format!("[Service]\n{ON_THE_ROOT}\nExecStart=/bin/true\n");
        std::fs::write(first.join("first.service"), on_the_root).unwrap();
        std::fs::write(folder.join("open.service"), "[Service]\nExecStart=/bin/true\n").unwrap();
        std::fs::write(
            folder.join("client.service"),
            "# limit: third party\n[Service]\nType=oneshot\nExecStart=/bin/true\n",
        )
        .unwrap();
        let scores = scores(dir.path()).unwrap();
        let limits: Vec<(&str, f32)> = scores.iter().map(|s| (s.unit.as_str(), s.limit)).collect();
        assert_eq!(limits, [("client.service", 2.5_f32), ("first.service", 1.5), ("open.service", 1.5)]);
        assert!(scores.iter().all(|score| !score.passes() && score.exposure > 9.0));
    }

    /// The owner's own networks (RFC 1918, RFC 4193) and this machine.
    const PRIVATE: &str = "localhost link-local 10.0.0.0/8 172.16.0.0/12 192.168.0.0/16 fc00::/7";

    /// A connection that systemd took is filtered by its socket unit, never by the service that gets it.
    #[test]
    fn what_a_service_may_speak_with_is_said_in_its_sockets_too() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../systemd/system");
        let mut looked_at = 0;
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|extension| extension != "socket") {
                continue;
            }
            let socket = std::fs::read_to_string(&path).unwrap();
            let said = |text: &str, key: &str| {
                let lines = text.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('='));
                lines.map(str::to_owned).collect::<Vec<_>>()
            };
            // A path is a socket of this machine, anything else is reached from a network.
            if said(&socket, "ListenStream").iter().all(|listens| listens.starts_with('/')) {
                continue;
            }
            assert_eq!(said(&socket, "IPAddressDeny"), ["any"], "{} lets everybody in", path.display());
            assert_eq!(said(&socket, "IPAddressAllow"), [PRIVATE], "{}", path.display());
            let service = said(&socket, "Service").remove(0);
            let service = std::fs::read_to_string(folder.join(service)).unwrap();
            assert_eq!(said(&service, "IPAddressDeny"), ["any"], "the service of {}", path.display());
            // A service that opens nothing itself allows nothing; one that does, allows what its socket allows.
            let allowed = said(&service, "IPAddressAllow");
            if !allowed.is_empty() {
                assert_eq!(said(&socket, "IPAddressAllow"), allowed, "{}", path.display());
            }
            looked_at += 1;
        }
        assert!(looked_at > 0, "no socket that a network reaches");
    }

    /// Processors of their own are for what must be in time: a gate, a page or a timer there would be what they wait for.
    #[test]
    fn signer_and_node_alone_are_in_the_slice_of_the_duties() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../systemd/system");
        let mut there = Vec::new();
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            let slices: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("Slice=")).collect();
            assert!(slices.iter().all(|slice| *slice == "dv.slice"), "{}: {slices:?}", path.display());
            if !slices.is_empty() {
                there.push(path.file_name().unwrap().to_string_lossy().into_owned());
            }
        }
        there.sort();
        assert_eq!(there, ["dv-node.service", "signer.service"]);
    }

    #[test]
    fn every_unit_is_within_its_limit() {
        let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let scores = scores(&repository).unwrap();
        for unit in [
            "signer.service",
            "dv-node.service",
            "web.service",
            "cores.service",
            "disk-health@.service",
            "install.service",
            "stick-is-out.service",
            "recovery.service",
            "recovery-key-look.service",
            "recovery-key-kept.service",
        ] {
            assert!(scores.iter().any(|score| score.unit == unit), "{unit} is not looked at");
        }
        for score in scores {
            assert!(score.passes(), "{} scores {}, allowed is {}", score.unit, score.exposure, score.limit);
        }
    }
}
