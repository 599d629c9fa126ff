//! A Charon that the user already has, in the place of a member. Nothing of it is built here.
//!
//! The command lines are those of the specification's chapter 12; Charon finds its peers through a relay, which the same
//! binary can be.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::devnet::{Devnet, GENESIS_FORK_VERSION, wait};
use crate::ports::free_ports;
use crate::process::{self, Launch, POLL, Process, ProcessError, log_tail};

/// How long `charon version` may take.
const VERSION_PATIENCE: Duration = Duration::from_secs(20);
/// How long its ports may take; measured 2 s on idle cores.
const START_PATIENCE: Duration = Duration::from_secs(60);
/// Minor versions of 1.x whose wire forms the specification gives.
const SUPPORTED_MINORS: std::ops::RangeInclusive<u64> = 8..=11;
/// Fork versions of the local chain go up by one with each fork; Charon wants to know this one too.
const CAPELLA_FORK_VERSION: &str = "0x20000092";
const CHAIN_ID: &str = "1337";
/// Metrics of one node with many peers stay far below this.
const MAX_METRICS: usize = 4 * 1024 * 1024;

/// Why a Charon cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CharonError {
    /// The path leads nowhere.
    #[error(
        "there is no file {path}: give the path of a Charon binary, as in --member 2=charon:/usr/local/bin/charon"
    )]
    Missing {
        /// The path given.
        path: PathBuf,
    },
    /// It is a folder, or may not be run.
    #[error("{path} is not a program that can be run: is it the binary itself, and executable (chmod +x)?")]
    NotExecutable {
        /// The path given.
        path: PathBuf,
    },
    /// It does not answer like Charon.
    #[error("{path} is not Charon: `{path} version` says {said:?}")]
    NotCharon {
        /// The path given.
        path: PathBuf,
        /// The beginning of its answer.
        said: String,
    },
    /// A version whose wire forms we do not know.
    #[error(
        "{path} is Charon {version}; members of a mixed cluster can be v1.{least} to v1.{most}: build or download one of those",
        least = SUPPORTED_MINORS.start(), most = SUPPORTED_MINORS.end()
    )]
    Unsupported {
        /// The path given.
        path: PathBuf,
        /// What it says it is.
        version: String,
    },
    /// Its folder could not be filled.
    #[error("cannot use {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// It did not start, or ended.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// A port did not open.
    #[error("{what} did not answer within {seconds} s; the end of {log} says:\n{tail}")]
    Silent {
        /// Which one.
        what: String,
        /// For how long it was waited.
        seconds: u64,
        /// Its log.
        log: PathBuf,
        /// The end of it.
        tail: String,
    },
    /// Its metrics cannot be read.
    #[error("the metrics of {name} cannot be read: {why}")]
    Metrics {
        /// The member.
        name: String,
        /// The cause.
        why: String,
    },
}

/// A Charon binary that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Charon {
    path: PathBuf,
    version: String,
}

impl Charon {
    /// Looks at the binary: is it there, is it Charon, and of a version whose wire forms are known?
    ///
    /// # Errors
    /// Each with what to do.
    pub fn open(path: &Path) -> Result<Self, CharonError> {
        use std::os::unix::fs::PermissionsExt as _;
        let path = path.canonicalize().map_err(|_| CharonError::Missing { path: path.to_owned() })?;
        let metadata = fs::metadata(&path).map_err(|_| CharonError::Missing { path: path.clone() })?;
        if !metadata.is_file() || metadata.permissions().mode() & 0o111 == 0 {
            return Err(CharonError::NotExecutable { path });
        }
        let said = version_output(&path)?;
        let version = parse_version(&said);
        let Some((version, minor)) = version else {
            return Err(CharonError::NotCharon { path, said: said.trim().chars().take(80).collect() });
        };
        if !minor.is_some_and(|minor| SUPPORTED_MINORS.contains(&minor)) {
            return Err(CharonError::Unsupported { path, version });
        }
        Ok(Self { path, version })
    }

    /// Such as `v1.10.3`.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn version_output(path: &Path) -> Result<String, CharonError> {
    let dir =
        tempfile::tempdir().map_err(|source| CharonError::File { path: std::env::temp_dir(), source })?;
    let log = dir.path().join("version");
    // In an empty folder, so that no configuration file of the user's has a say.
    let launch = Launch::new("charon version", path, &log).arg("version").current_dir(dir.path());
    let not = |said: String| CharonError::NotCharon { path: path.to_owned(), said };
    let Ok(mut process) = launch.start() else {
        return Err(CharonError::NotExecutable { path: path.to_owned() });
    };
    match process.wait(VERSION_PATIENCE)? {
        Some(_) => Ok(log_tail(&log, 20)),
        None => Err(not(format!("nothing within {} s", VERSION_PATIENCE.as_secs()))),
    }
}

/// The version in what `charon version` prints (`v1.10.3 [git_commit_hash=…,git_commit_time=…]`), and the minor one when
/// the major one is 1.
fn parse_version(said: &str) -> Option<(String, Option<u64>)> {
    let line = said.lines().find(|line| line.contains("git_commit_hash="))?;
    let version = line.split_whitespace().next()?;
    let mut numbers = version.strip_prefix('v')?.split('.');
    let major: u64 = numbers.next()?.parse().ok()?;
    let minor: u64 = numbers.next()?.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()?;
    Some((version.to_owned(), (major == 1).then_some(minor)))
}

/// `charon relay`, through which Charon members find each other. Dropping it stops it.
#[derive(Debug)]
pub struct Relay {
    process: Process,
    http_port: u16,
}

impl Relay {
    /// Starts it below `dir`.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start(charon: &Charon, dir: &Path) -> Result<Self, CharonError> {
        make_dir(dir)?;
        let ports = free_ports(3);
        let process = Launch::new("charon relay", charon.path(), dir.join("relay.log"))
            .current_dir(dir)
            .args(["relay", "--data-dir", "data", "--http-address", &loopback(ports[0])])
            .args(["--p2p-tcp-address", &loopback(ports[1]), "--p2p-external-ip", "127.0.0.1"])
            .args(["--monitoring-address", &loopback(ports[2])])
            .args(["--p2p-advertise-private-addresses", "--p2p-relays", "", "--log-color", "disable"])
            .start()?;
        let mut relay = Self { process, http_port: ports[0] };
        let url = relay.url();
        wait_for(&mut relay.process, || get(&url).is_ok())?;
        Ok(relay)
    }

    /// Where it tells its addresses; what `--p2p-relays` takes.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.http_port)
    }

    /// Fails when it has ended by itself.
    ///
    /// # Errors
    /// With the end of its log.
    pub fn check_alive(&mut self) -> Result<(), CharonError> {
        Ok(self.process.check_alive()?)
    }
}

/// Charon in the place of a member. Dropping it stops it.
#[derive(Debug)]
pub struct CharonMember {
    name: String,
    dir: PathBuf,
    charon: Charon,
    /// The node's folder of `create cluster`.
    folder: PathBuf,
    beacon_url: String,
    relay_url: String,
    genesis_time: String,
    /// Whether it takes a builder's offers.
    builder: bool,
    p2p_port: u16,
    api_port: u16,
    monitoring_port: u16,
    process: Option<Process>,
}

impl CharonMember {
    /// Starts it with its files in `folder`, against the beacon node at `beacon_url`.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start(
        name: &str,
        dir: &Path,
        charon: &Charon,
        folder: &Path,
        chain: &Devnet,
        beacon_url: &str,
        relay: &Relay,
    ) -> Result<Self, CharonError> {
        make_dir(dir)?;
        let ports = free_ports(3);
        let genesis_time = chain
            .genesis_time()
            .map_err(|error| CharonError::Metrics { name: name.to_owned(), why: error.to_string() })?;
        let mut member = Self {
            name: name.to_owned(),
            dir: dir.to_owned(),
            charon: charon.clone(),
            folder: folder.to_owned(),
            beacon_url: beacon_url.to_owned(),
            relay_url: relay.url(),
            genesis_time: genesis_time.to_string(),
            builder: chain.config().builder,
            p2p_port: ports[0],
            api_port: ports[1],
            monitoring_port: ports[2],
            process: None,
        };
        member.power_on()?;
        Ok(member)
    }

    /// Starts it when it does not run.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn power_on(&mut self) -> Result<(), CharonError> {
        if self.process.is_some() {
            return Ok(());
        }
        let fork_version = format!("0x{}", hex::encode(GENESIS_FORK_VERSION.0));
        let mut process = Launch::new(&self.name, self.charon.path(), self.log())
            .current_dir(&self.dir)
            .arg("run")
            .arg("--lock-file")
            .arg(self.folder.join("cluster-lock.json"))
            .arg("--private-key-file")
            .arg(self.folder.join("charon-enr-private-key"))
            .args(["--beacon-node-endpoints", &self.beacon_url])
            .args(["--validator-api-address", &loopback(self.api_port)])
            .args(["--monitoring-address", &loopback(self.monitoring_port)])
            .args(["--p2p-tcp-address", &loopback(self.p2p_port), "--p2p-external-ip", "127.0.0.1"])
            .args(["--p2p-relays", &self.relay_url, "--log-color", "disable"])
            // All of these, or Charon does not know the network.
            .args(["--testnet-name", "devnet", "--testnet-fork-version", &fork_version])
            .args(["--testnet-capella-hard-fork", CAPELLA_FORK_VERSION, "--testnet-chain-id", CHAIN_ID])
            .args(["--testnet-genesis-timestamp", &self.genesis_time])
            .args(self.builder.then_some("--builder-api"))
            .start()?;
        let metrics = self.monitoring_url("/livez");
        wait_for(&mut process, || get(&metrics).is_ok())?;
        let api = self.api_port;
        wait_for(&mut process, || std::net::TcpStream::connect(("127.0.0.1", api)).is_ok())?;
        self.process = Some(process);
        Ok(())
    }

    /// Ends it at once, as a power cut would.
    ///
    /// # Errors
    /// When it cannot be ended.
    pub fn power_cut(&mut self) -> Result<(), CharonError> {
        if let Some(mut process) = self.process.take() {
            process.kill()?;
        }
        Ok(())
    }

    /// The running process, to freeze.
    pub fn process(&mut self) -> Option<&mut Process> {
        self.process.as_mut()
    }

    /// What it is called in messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What was started.
    pub fn charon(&self) -> &Charon {
        &self.charon
    }

    /// Where other members reach it.
    pub fn p2p_port(&self) -> u16 {
        self.p2p_port
    }

    /// Its validator API.
    pub fn api_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.api_port)
    }

    /// Its output.
    pub fn log(&self) -> PathBuf {
        self.dir.join("charon.log")
    }

    /// Fails when it has ended by itself.
    ///
    /// # Errors
    /// With the end of its log.
    pub fn check_alive(&mut self) -> Result<(), CharonError> {
        match &mut self.process {
            Some(process) => Ok(process.check_alive()?),
            None => Ok(()),
        }
    }

    /// Its process id, while it runs.
    pub fn process_id(&self) -> Option<u32> {
        self.process.as_ref().map(Process::id)
    }

    /// Whether it says of itself that it can work; otherwise why not.
    pub fn readiness(&self) -> Result<(), String> {
        match get(&self.monitoring_url("/readyz")) {
            Ok(_) => Ok(()),
            Err(why) => Err(why),
        }
    }

    /// Its counters at this moment.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn metrics(&self) -> Result<Metrics, CharonError> {
        let text = get(&self.monitoring_url("/metrics"))
            .map_err(|why| CharonError::Metrics { name: self.name.clone(), why })?;
        Ok(Metrics::parse(&text))
    }

    fn monitoring_url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.monitoring_port)
    }
}

/// Numbers in Prometheus' text form.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metrics {
    samples: Vec<Sample>,
}

/// One number.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Its name.
    pub name: String,
    /// What tells it from others of that name.
    pub labels: BTreeMap<String, String>,
    /// The number.
    pub value: f64,
}

impl Metrics {
    /// Reads the text; lines that are no samples are left out.
    pub fn parse(text: &str) -> Self {
        let text = text.get(..MAX_METRICS).unwrap_or(text);
        Self { samples: text.lines().filter_map(Sample::parse).collect() }
    }

    /// All samples of one name.
    pub fn of<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Sample> {
        self.samples.iter().filter(move |sample| sample.name == name)
    }
}

impl Sample {
    fn parse(line: &str) -> Option<Self> {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            return None;
        }
        let (series, value) = line.rsplit_once(' ')?;
        let (name, labels) = match series.split_once('{') {
            None => (series, ""),
            Some((name, labels)) => (name, labels.strip_suffix('}')?),
        };
        Some(Self { name: name.to_owned(), labels: parse_labels(labels)?, value: value.parse().ok()? })
    }
}

fn parse_labels(mut text: &str) -> Option<BTreeMap<String, String>> {
    let mut labels = BTreeMap::new();
    while !text.is_empty() {
        let (name, rest) = text.split_once("=\"")?;
        let mut value = String::new();
        let mut chars = rest.char_indices();
        let end = loop {
            match chars.next()? {
                (at, '"') => break at,
                (_, '\\') => value.push(chars.next()?.1),
                (_, other) => value.push(other),
            }
        };
        labels.insert(name.to_owned(), value);
        text = rest.get(end + 1..)?.trim_start_matches(',');
    }
    Some(labels)
}

fn loopback(port: u16) -> String {
    format!("127.0.0.1:{port}")
}

fn make_dir(dir: &Path) -> Result<(), CharonError> {
    fs::create_dir_all(dir).map_err(|source| CharonError::File { path: dir.to_owned(), source })
}

fn get(url: &str) -> Result<String, String> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(5)).build();
    let client = client.map_err(|error| error.to_string())?;
    let request = client.get(url);
    let (status, text) = wait(async move {
        let response = request.send().await?;
        Ok::<_, reqwest::Error>((response.status(), response.text().await?))
    })
    .map_err(|error| error.to_string())?;
    if status.is_success() { Ok(text) } else { Err(text.trim().chars().take(200).collect()) }
}

fn wait_for(process: &mut Process, answers: impl Fn() -> bool) -> Result<(), CharonError> {
    let deadline = Instant::now() + START_PATIENCE;
    loop {
        process.check_alive()?;
        if answers() {
            process.check_alive()?;
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(CharonError::Silent {
                what: process.name().to_owned(),
                seconds: START_PATIENCE.as_secs(),
                log: process.log().to_owned(),
                tail: process::log_tail(process.log(), 15),
            });
        }
        std::thread::sleep(4 * POLL);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn program(dir: &Path, script: &str) -> PathBuf {
        let path = dir.join("program");
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    #[test]
    fn only_a_charon_of_a_known_version_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let version = |text: &str| format!("echo '{text} [git_commit_hash=0123456,git_commit_time=2026]'");
        let cases = [
            (version("v1.10.3"), Ok("v1.10.3")),
            (version("v1.8.0-rc1"), Ok("v1.8.0-rc1")),
            (version("v1.7.2"), Err("v1.8 to v1.11")),
            (version("v2.9.0"), Err("v1.8 to v1.11")),
            ("echo hello".to_owned(), Err("is not Charon")),
            ("exit 1".to_owned(), Err("is not Charon")),
        ];
        for (script, expected) in cases {
            let path = program(dir.path(), &script);
            match (Charon::open(&path), expected) {
                (Ok(charon), Ok(version)) => assert_eq!(charon.version(), version),
                (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{error}"),
                (found, _) => panic!("{script}: {found:?}"),
            }
        }
    }

    #[test]
    fn a_wrong_path_is_told_from_a_file_that_is_no_program() {
        let dir = tempfile::tempdir().unwrap();
        let error = Charon::open(&dir.path().join("nothing")).unwrap_err();
        assert!(
            matches!(error, CharonError::Missing { .. }) && error.to_string().contains("--member 2=charon:")
        );
        let text = dir.path().join("text");
        fs::write(&text, "hello").unwrap();
        for path in [&text, &dir.path().to_owned()] {
            assert!(matches!(Charon::open(path), Err(CharonError::NotExecutable { .. })));
        }
    }

    #[test]
    fn metrics_are_read_with_their_labels() {
        let text = "# HELP x\ncore_tracker_success_duties_total{duty=\"attester\",cluster_name=\"First, \\\"light\\\"\"} 12\n\
                    up 1\nbroken{a=\"b} 3\n";
        let metrics = Metrics::parse(text);
        let found: Vec<_> = metrics.of("core_tracker_success_duties_total").collect();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].labels["duty"], "attester");
        assert_eq!(found[0].labels["cluster_name"], "First, \"light\"");
        assert_eq!(metrics.of("up").next().unwrap().value, 1.0);
        assert_eq!(metrics.of("broken").count(), 0);
    }
}
