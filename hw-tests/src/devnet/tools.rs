//! geth and Prysm, built once from the Go tool modules in `hw-tests/devnet/` and kept in the user's cache.
//!
//! Ordinary `go build`: `go.mod` pins the versions, `go.sum` and the checksum database pin the bytes, and the user's own
//! Go settings (proxy, flags) stay as they are.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use super::DevnetError;
use crate::process::{self, Launch, log_tail};

const BUILD_NICENESS: i32 = 10;
const PROGRESS_EVERY: Duration = Duration::from_secs(3);

/// One Go module whose only purpose is to pin programs.
struct ToolModule {
    /// Folder under `hw-tests/devnet/`.
    folder: &'static str,
    /// Main packages to build; the last path element names the program.
    packages: &'static [&'static str],
}

/// Two modules, because geth in Prysm's module would move requirements that Prysm needs where they are.
const MODULES: [ToolModule; 2] = [
    ToolModule { folder: "geth", packages: &["github.com/ethereum/go-ethereum/cmd/geth"] },
    ToolModule {
        folder: "prysm",
        packages: &[
            "github.com/OffchainLabs/prysm/v7/cmd/beacon-chain",
            "github.com/OffchainLabs/prysm/v7/cmd/prysmctl",
            "github.com/OffchainLabs/prysm/v7/cmd/validator",
        ],
    },
];

/// Where the programs of the chain are.
#[derive(Debug, Clone)]
pub struct Tools {
    pub(super) geth: PathBuf,
    pub(super) beacon_chain: PathBuf,
    pub(super) validator: PathBuf,
    pub(super) prysmctl: PathBuf,
}

impl Tools {
    /// Finds the programs in the cache, or builds them (some minutes), telling `progress` a line now and then.
    ///
    /// # Errors
    /// When no Go can be had or a build fails; the message carries the end of the build log.
    pub fn ensure(progress: &mut dyn FnMut(&str)) -> Result<Self, DevnetError> {
        let [geth, prysm] = &MODULES;
        let geth = geth.ensure(progress)?;
        let prysm = prysm.ensure(progress)?;
        Ok(Self {
            geth: geth.join("geth"),
            beacon_chain: prysm.join("beacon-chain"),
            validator: prysm.join("validator"),
            prysmctl: prysm.join("prysmctl"),
        })
    }

    /// Prysm's validator client.
    pub fn validator(&self) -> &Path {
        &self.validator
    }

    /// Release of geth and of Prysm as their modules pin them; a program built from a module does not know its own.
    ///
    /// # Errors
    /// When a `go.mod` of this source tree cannot be read.
    pub fn versions() -> Result<[(&'static str, String); 2], DevnetError> {
        let [geth, prysm] = &MODULES;
        Ok([
            ("geth", geth.pinned("github.com/ethereum/go-ethereum")?),
            ("prysm", prysm.pinned("github.com/OffchainLabs/prysm/v7")?),
        ])
    }

    /// Whether [`Tools::ensure`] would find everything without building.
    pub fn are_built() -> bool {
        MODULES.iter().all(|module| module.target().is_ok_and(|target| module.is_built(&target)))
    }
}

/// Where this harness keeps what is costly to make again: `$HEARTH_CACHE`, `$XDG_CACHE_HOME/hearth`, or `~/.cache/hearth`.
///
/// # Errors
/// When none of these variables, nor HOME, is set.
pub fn cache_dir() -> Result<PathBuf, DevnetError> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    variable("HEARTH_CACHE")
        .or_else(|| {
            variable("XDG_CACHE_HOME")
                .or_else(|| variable("HOME").map(|home| home.join(".cache")))
                .map(|cache| cache.join("hearth"))
        })
        .ok_or(DevnetError::NoCache)
}

/// The folder `hw-tests/devnet` of this source tree.
fn source_dir() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/devnet"))
}

impl ToolModule {
    fn source(&self) -> PathBuf {
        source_dir().join(self.folder)
    }

    /// The version of `module` in `go.mod`.
    fn pinned(&self, module: &str) -> Result<String, DevnetError> {
        let path = self.source().join("go.mod");
        let text = fs::read_to_string(&path).map_err(|source| DevnetError::File { path, source })?;
        let version = text.lines().find_map(|line| {
            let line = line.trim().trim_start_matches("require ").trim_start();
            line.strip_prefix(module)?.strip_prefix(' ')?.split_whitespace().next()
        });
        Ok(version.unwrap_or("unknown").to_owned())
    }

    /// Named after what decides the programs' bytes, so that a new version never meets an old build.
    fn target(&self) -> Result<PathBuf, DevnetError> {
        let mut hash = Sha256::new();
        for name in ["go.mod", "go.sum"] {
            let path = self.source().join(name);
            hash.update(fs::read(&path).map_err(|source| DevnetError::File { path, source })?);
        }
        let name = format!("{}-{}", self.folder, &hex::encode(hash.finalize())[..16]);
        Ok(cache_dir()?.join("go-tools").join(name))
    }

    fn is_built(&self, target: &Path) -> bool {
        self.packages.iter().all(|package| target.join(program(package)).is_file())
    }

    fn ensure(&self, progress: &mut dyn FnMut(&str)) -> Result<PathBuf, DevnetError> {
        let target = self.target()?;
        if self.is_built(&target) {
            return Ok(target);
        }
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| DevnetError::File { path, source }
        };
        fs::create_dir_all(&target).map_err(io(&target))?;
        // One builder at a time; whoever waited finds the work done.
        let lock_path = target.with_extension("lock");
        let lock = File::create(&lock_path).map_err(io(&lock_path))?;
        lock.lock().map_err(io(&lock_path))?;
        if self.is_built(&target) {
            return Ok(target);
        }
        let started = Instant::now();
        // Built beside and moved, so that a build that was interrupted never looks finished.
        let unfinished = target.with_extension("unfinished");
        fs::create_dir_all(&unfinished).map_err(io(&unfinished))?;
        self.build(&find_go(progress)?, &unfinished, progress)?;
        for package in self.packages {
            let built = unfinished.join(program(package));
            fs::rename(&built, target.join(program(package))).map_err(io(&built))?;
        }
        fs::remove_dir_all(&unfinished).map_err(io(&unfinished))?;
        progress(&format!("{}: built in {} s", self.folder, started.elapsed().as_secs()));
        Ok(target)
    }

    fn build(&self, go: &Path, out: &Path, progress: &mut dyn FnMut(&str)) -> Result<(), DevnetError> {
        let log = out.join("build.log");
        let launch = |name: &str, log: &Path| {
            // A `go.work` further up is about somebody else's modules.
            Launch::new(format!("{name} ({})", self.folder), go, log)
                .current_dir(self.source())
                .env("GOWORK", "off")
                .nice(BUILD_NICENESS)
        };
        progress(&format!("{}: fetching sources (Go module proxy, checked against go.sum)", self.folder));
        let list = out.join("packages.log");
        process::run(launch("go list", &list).args(["list", "-deps"]).args(self.packages))?;
        let total = line_count(&list);
        let mut build =
            launch("go build", &log).args(["build", "-v", "-o"]).arg(out).args(self.packages).start()?;
        loop {
            match build.wait(PROGRESS_EVERY)? {
                Some(status) if status.success() => return Ok(()),
                Some(_) => {
                    return Err(DevnetError::Build { module: self.folder, tail: log_tail(&log, 20), log });
                }
                None => progress(&format!(
                    "{}: compiled {} packages (at most {total}; ready ones are skipped)",
                    self.folder,
                    line_count(&log)
                )),
            }
        }
    }
}

fn program(package: &str) -> &str {
    package.rsplit_once('/').map_or(package, |(_, name)| name)
}

fn line_count(path: &Path) -> usize {
    fs::read_to_string(path).map_or(0, |text| text.lines().count())
}

/// A Go that is new enough to fetch the toolchain a module asks for (1.21 and later), installed if need be.
fn find_go(progress: &mut dyn FnMut(&str)) -> Result<PathBuf, DevnetError> {
    let script = source_dir().join("ensure-go.sh");
    progress("looking for Go 1.21 or newer");
    let output = Command::new("bash")
        .arg(&script)
        .output()
        .map_err(|source| DevnetError::File { path: script.clone(), source })?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    match text(&output.stdout).lines().last() {
        Some(path) if output.status.success() => Ok(PathBuf::from(path)),
        Some(_) | None => Err(DevnetError::NoGo { reason: text(&output.stderr) }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_module_pins_exact_versions_and_names_its_programs() {
        for module in &MODULES {
            let go_mod = fs::read_to_string(module.source().join("go.mod")).unwrap();
            let tools = fs::read_to_string(module.source().join("tools.go")).unwrap();
            assert!(go_mod.contains("require github.com/"));
            for package in module.packages {
                assert!(tools.contains(&format!("_ \"{package}\"")), "{package} is not in tools.go");
            }
        }
    }

    #[test]
    fn the_pinned_releases_are_known() {
        for (name, version) in Tools::versions().unwrap() {
            assert!(version.starts_with('v') && version.contains('.'), "{name} {version}");
        }
    }

    #[test]
    fn the_cache_folder_follows_the_pinned_bytes() {
        let [geth, prysm] = &MODULES;
        assert_eq!(geth.target().unwrap(), geth.target().unwrap());
        assert_ne!(geth.target().unwrap().file_name(), prysm.target().unwrap().file_name());
    }
}
