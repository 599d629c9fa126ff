//! `./hearth run`: a local chain, a cluster, and a box among its members.

mod boot;
mod check;
mod client;
mod exits;
mod members;
mod options;
mod outside;
mod records;
mod report;
mod slots;
mod stage;
mod usage;
mod watch;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use hw_tests::devnet::{self, Devnet};

use self::members::Cluster;
pub(crate) use self::options::Arguments;
use crate::say;

/// Tests do not spend minutes on measuring: twice the floor, which two cores hold while they emulate the box.
const TEST_SLOT_SECONDS: Option<u64> = Some(4);

/// Where everything lives that is worth keeping between runs.
pub(crate) fn cache() -> anyhow::Result<PathBuf> {
    Ok(devnet::cache_dir()?)
}

pub(crate) fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap_or_else(|_| PathBuf::from("."))
}

/// Set by Ctrl-C; everything that waits looks at it.
fn stop_flag() -> &'static Arc<AtomicBool> {
    static FLAG: OnceLock<Arc<AtomicBool>> = OnceLock::new();
    FLAG.get_or_init(|| {
        let flag = Arc::new(AtomicBool::new(false));
        let setter = Arc::clone(&flag);
        std::thread::spawn(move || {
            let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
                return;
            };
            runtime.block_on(async move {
                ipc::service::asked_to_stop().await;
                setter.store(true, Ordering::SeqCst);
                say::note(
                    "stopping: ending everything that was started (press Ctrl-C again to give up waiting)",
                );
                ipc::service::asked_to_stop().await;
                // The kernel ends the children together with us.
                std::process::exit(130);
            });
        });
        flag
    })
}

fn stopped() -> bool {
    stop_flag().load(Ordering::SeqCst)
}

/// `./hearth run`.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let _ = stop_flag();
    let mut report = report::CheckReport {
        ok: false,
        machine: if arguments.fast { "native" } else { "qemu" },
        slot_seconds: 0,
        steps: Vec::new(),
        total_seconds: 0.0,
        attestation: None,
        client: Vec::new(),
        reason: None,
    };
    let begun = Instant::now();
    let mut result = stage::stage(arguments, &mut report);
    if stopped() && !arguments.check {
        // Asked for, so whatever was interrupted by it is no failure.
        result = Ok(());
        say::good("stopped: nothing is left running");
    }
    report.total_seconds = (begun.elapsed().as_secs_f64() * 10.0).round() / 10.0;
    report.reason = result.as_ref().err().map(|error| format!("{error:#}"));
    report.ok = result.is_ok();
    if arguments.check {
        for (step, seconds) in &report.steps {
            say::detail(&format!("{seconds:7.1} s  {step}"));
        }
        if arguments.json {
            println!("{}", serde_json::to_string(&report)?);
        }
    }
    result
}

/// Two epochs in which a cluster of this many validators among the fillers surely has every kind of duty to do.
const TEST_SLOTS: u64 = 16;
const TEST_VALIDATORS: u32 = 12;

/// The members whose duties Prysm's validator client signs, once with keys of its own and once with that member's signer; not
/// the one that plays the box, nor the first, which is switched off when the box must be needed.
const TEST_CLIENTS: [&str; 2] = ["2=vc", "3=vc-signer"];

/// `run --fast --check --slots`, as part of the tests: every kind of duty that the chain asks for succeeds on it, with a stock
/// validator client behind one of the members. Tried a second time, loudly: four boxes and a chain on a busy host may miss the
/// only proposal with a builder's payload. A fault of ours shows both times.
pub(crate) fn check_fast() -> anyhow::Result<()> {
    let picture = Some(make_dir(&cache()?.join("test-logs"))?.join("page-fast.png"));
    let arguments = Arguments {
        fast: true,
        check: true,
        picture,
        slots: Some(TEST_SLOTS),
        validators: TEST_VALIDATORS,
        kinds: TEST_CLIENTS
            .into_iter()
            .map(|client| client.parse().map_err(anyhow::Error::msg))
            .collect::<Result<_, _>>()?,
        slot_seconds: TEST_SLOT_SECONDS,
        builder: true,
        every_kind: true,
        ..Arguments::default()
    };
    twice(&arguments)
}

/// One epoch of Fulu, which has 32 slots, after those in which the members come in: every kind of duty, with blocks that the
/// beacon node made and blocks that a builder made.
pub(crate) fn check_fulu() -> anyhow::Result<()> {
    twice(&Arguments {
        fast: true,
        check: true,
        fork: options::Fork::Fulu,
        builder: true,
        every_kind: true,
        slots: Some(TEST_SLOTS),
        validators: TEST_VALIDATORS,
        kinds: vec![TEST_CLIENTS[0].parse().map_err(anyhow::Error::msg)?],
        slot_seconds: TEST_SLOT_SECONDS,
        ..Arguments::default()
    })
}

/// `run --check`, as part of the tests. Tried a second time, loudly: on a busy host the emulator itself hangs or falls
/// behind now and then. A fault of the box shows both times.
pub(crate) fn check_box() -> anyhow::Result<()> {
    let picture = Some(make_dir(&cache()?.join("test-logs"))?.join("page-box.png"));
    twice(&Arguments { check: true, picture, slot_seconds: TEST_SLOT_SECONDS, ..Arguments::default() })
}

fn twice(arguments: &Arguments) -> anyhow::Result<()> {
    run(arguments).or_else(|error| {
        say::note(&format!("SECOND TRY, the first one failed: {error:#}"));
        run(arguments)
    })
}

/// Every unit of ours against its limit.
pub(crate) fn check_units() -> anyhow::Result<()> {
    let scores = hw_tests::units::scores(&repository())?;
    for score in &scores {
        say::detail(&format!(
            "{:<24} exposure {:.1}, at most {:.1}",
            score.unit, score.exposure, score.limit
        ));
    }
    let bad: Vec<&str> =
        scores.iter().filter(|score| !score.passes()).map(|score| score.unit.as_str()).collect();
    ensure!(bad.is_empty(), "too open: {}", bad.join(", "));
    Ok(())
}

/// Builds every program natively and says where they are.
pub(crate) fn build_binaries(optimised: bool) -> anyhow::Result<PathBuf> {
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| repository().join("target"), PathBuf::from);
    let mut command = Command::new(env!("CARGO"));
    // The same selection as the tests, so that no dependency is built twice with other features.
    command.current_dir(repository()).args(["build", "--locked", "--bins"]);
    if optimised {
        // The daemons alone: what drives them is not measured.
        command.args(["--profile", "measured", "-p", "dv-node", "-p", "signer", "-p", "web"]);
    } else {
        command.arg("--workspace");
    }
    say::begin("building the programs (cargo)");
    let status = command.stdin(Stdio::null()).status().context("cannot run cargo")?;
    ensure!(status.success(), "the programs do not build");
    Ok(target.join(if optimised { "measured" } else { "debug" }))
}

/// Remembers how long each step took, and says so.
struct Steps<'a> {
    report: &'a mut report::CheckReport,
    begun: Instant,
}

impl Steps<'_> {
    fn done(&mut self, what: &str) {
        let seconds = self.begun.elapsed().as_secs_f64();
        say::good(&format!("{what} ({seconds:.1} s)"));
        self.report.steps.push((what.to_owned(), (seconds * 10.0).round() / 10.0));
        self.begun = Instant::now();
    }
}

fn make_dir(path: &Path) -> anyhow::Result<PathBuf> {
    fs::create_dir_all(path).with_context(|| format!("cannot make {}", path.display()))?;
    Ok(path.to_owned())
}

fn pause(chain: &mut Devnet, cluster: &mut Cluster) -> anyhow::Result<()> {
    ensure!(!stopped(), "stopped");
    chain.check_alive()?;
    cluster.check_alive()?;
    std::thread::sleep(Duration::from_millis(300));
    Ok(())
}
