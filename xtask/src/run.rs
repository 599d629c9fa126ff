//! `./hearth run`: a local chain, a cluster of four, and a box among them.

use std::collections::BTreeSet;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, bail, ensure};
use chain::{Slot, ValidatorIndex};
use clap::ValueEnum;
use cluster::create::{self, Addresses, CreateOptions};
use cluster::keystore::KdfCost;
use cluster::network::Network;
use hw_tests::devnet::inclusion::{Follower, Inclusion, Reader};
use hw_tests::devnet::{self, Devnet, DistributedValidator, Tools};
use hw_tests::image::{self, Image};
use hw_tests::join::{ChainFacts, NodeFolder};
use hw_tests::member::Member;
use hw_tests::page::Page;
use hw_tests::ports::free_ports;
use hw_tests::vm::Vm;
use ipc::signer::{ChainClock, ChainPreset};
use ipc::web::BoxStatus;

use crate::{Profile, say};

/// Members of the cluster; the last one is the box.
const MEMBERS: u8 = 4;
/// Partial signatures that make a whole one.
const THRESHOLD: u8 = 3;
/// Validators that Prysm's own client runs, so that the chain lives without the cluster.
const FILLERS: u64 = 32;
/// Time between making the genesis and its first slot.
const GENESIS_DELAY: Duration = Duration::from_secs(20);
/// An emulated first boot takes two minutes on two busy cores; nothing good comes after this.
const BOOT_PATIENCE: Duration = Duration::from_secs(900);
/// How often the emulated box's clock is compared with this machine's.
const TIME_CHECK: Duration = Duration::from_secs(20);
/// How far it may be off before it is set, in seconds; a step below half a second does not trouble the box.
const TIME_TOLERANCE: f64 = 0.2;
/// Once the box is in: how many epochs until an attestation of its must be on chain.
const CHECK_EPOCHS: u64 = 8;

/// Tests do not spend minutes on measuring: twice the floor, which two cores hold while they emulate the box.
const TEST_SLOT_SECONDS: Option<u64> = Some(4);

/// What `./hearth run` takes.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct Arguments {
    /// No image: all four members are native processes.
    #[arg(long)]
    pub(crate) fast: bool,
    /// Unattended: end as soon as the chain holds an attestation that needed the box.
    #[arg(long)]
    pub(crate) check: bool,
    /// With --check: the result as JSON on standard output.
    #[arg(long)]
    pub(crate) json: bool,
    /// The chain's newest fork.
    #[arg(long, value_enum, default_value_t = Fork::Electra)]
    pub(crate) fork: Fork,
    /// Length of a slot, instead of what this machine was measured to hold.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(2..=60))]
    pub(crate) slot_seconds: Option<u64>,
    /// Distributed validators of the cluster.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=500))]
    pub(crate) validators: u32,
    /// With --check: look at the box's page in headless Chromium too, and keep a picture of it (PNG).
    #[arg(long, value_name = "FILE", requires = "check")]
    pub(crate) picture: Option<PathBuf>,
}

/// Forks the local chain can have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Fork {
    /// Epochs of 8 slots.
    #[default]
    Electra,
    /// Epochs of 32 slots.
    Fulu,
}

/// What a check found, also as JSON.
#[derive(Debug, serde::Serialize)]
struct CheckReport {
    ok: bool,
    #[serde(rename = "box")]
    machine: &'static str,
    slot_seconds: u64,
    /// Seconds each step took, in order.
    steps: Vec<(String, f64)>,
    /// Seconds from the word to the attestation on chain.
    total_seconds: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    attestation: Option<CheckedAttestation>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

#[derive(Debug, serde::Serialize)]
struct CheckedAttestation {
    validator: u64,
    attestation_slot: u64,
    block_slot: u64,
    block_root: String,
}

/// Where everything lives that is worth keeping between runs.
pub(crate) fn cache() -> anyhow::Result<PathBuf> {
    Ok(devnet::cache_dir()?)
}

fn repository() -> PathBuf {
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
    let mut report = CheckReport {
        ok: false,
        machine: if arguments.fast { "native" } else { "qemu" },
        slot_seconds: 0,
        steps: Vec::new(),
        total_seconds: 0.0,
        attestation: None,
        reason: None,
    };
    let begun = Instant::now();
    let mut result = stage(arguments, &mut report);
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

/// `run --fast --check`, as part of the tests.
pub(crate) fn check_fast() -> anyhow::Result<()> {
    let picture = Some(make_dir(&cache()?.join("test-logs"))?.join("page-fast.png"));
    run(&Arguments {
        fast: true,
        check: true,
        validators: 4,
        picture,
        slot_seconds: TEST_SLOT_SECONDS,
        ..Arguments::default()
    })
}

/// `run --check`, as part of the tests. Tried a second time, loudly: on a busy host the emulator itself hangs or falls
/// behind now and then. A fault of the box shows both times.
pub(crate) fn check_box() -> anyhow::Result<()> {
    let picture = Some(make_dir(&cache()?.join("test-logs"))?.join("page-box.png"));
    let arguments = Arguments {
        check: true,
        validators: 4,
        picture,
        slot_seconds: TEST_SLOT_SECONDS,
        ..Arguments::default()
    };
    run(&arguments).or_else(|error| {
        say::note(&format!("SECOND TRY, the first one failed: {error:#}"));
        run(&arguments)
    })
}

/// Every unit of ours against its limit.
pub(crate) fn check_units() -> anyhow::Result<()> {
    let scores = hw_tests::units::scores(&repository())?;
    for score in &scores {
        say::detail(&format!(
            "{:<16} exposure {:.1}, at most {:.1}",
            score.unit, score.exposure, score.limit
        ));
    }
    let bad: Vec<&str> = scores.iter().filter(|score| !score.passes()).map(|score| score.unit).collect();
    ensure!(bad.is_empty(), "too open: {}", bad.join(", "));
    Ok(())
}

/// Builds the programs and the image around them.
pub(crate) fn build_image(profile: Profile) -> anyhow::Result<Image> {
    let binaries = build_binaries(profile)?;
    let profile = match profile {
        Profile::Dev => image::Profile::Dev,
        Profile::Release => image::Profile::Release,
    };
    let options = image::Options { repository: repository(), profile, binaries, keys: None, force: false };
    let image = image::build(&options, |line| say::detail(&format!("image: {line}")))?;
    say::good(&format!(
        "image {} (SHA-256 {}…)",
        image.raw.display(),
        image.sha256.get(..16).unwrap_or_default()
    ));
    Ok(image)
}

/// Builds the daemons and says where they are.
fn build_binaries(profile: Profile) -> anyhow::Result<PathBuf> {
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| repository().join("target"), PathBuf::from);
    let mut command = Command::new(env!("CARGO"));
    command.current_dir(repository()).args(["build", "--locked"]).stdin(Stdio::null());
    let folder = match profile {
        // The same selection as the tests, so that no dependency is built twice with other features.
        Profile::Dev => {
            command.args(["--workspace", "--bins"]);
            "debug"
        }
        Profile::Release => {
            command.args(["--release", "-p", "signer", "-p", "dv-node", "-p", "web"]);
            "release"
        }
    };
    say::begin("building the programs (cargo)");
    let status = command.status().context("cannot run cargo")?;
    ensure!(status.success(), "the programs do not build");
    Ok(target.join(folder))
}

/// The box under test: the fourth member, in QEMU or native.
enum Machine {
    Qemu { vm: Box<Vm>, p2p_port: u16, page_port: u16, code: Option<String>, timed: Instant },
    Native(Box<Member>),
}

impl Machine {
    fn page(&self) -> anyhow::Result<Page> {
        match self {
            Self::Qemu { page_port, code, .. } => {
                let page = Page::new(SocketAddr::from((Ipv4Addr::LOCALHOST, *page_port)));
                Ok(match code {
                    Some(code) => page.with_claim_code(code.clone()),
                    None => page,
                })
            }
            Self::Native(member) => Ok(member.page()?),
        }
    }

    fn check_alive(&mut self) -> anyhow::Result<()> {
        match self {
            Self::Qemu { vm, timed, .. } => {
                vm.check_alive()?;
                if timed.elapsed() > TIME_CHECK {
                    keep_time(vm)?;
                    *timed = Instant::now();
                }
            }
            Self::Native(member) => member.check_alive()?,
        }
        Ok(())
    }

    /// Where the native members reach it, and how it sees them: host and port by member.
    fn p2p_port(&self) -> u16 {
        match self {
            Self::Qemu { p2p_port, .. } => *p2p_port,
            Self::Native(member) => member.p2p_port(),
        }
    }
}

/// Remembers how long each step took, and says so.
struct Steps<'a> {
    report: &'a mut CheckReport,
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

fn stage(arguments: &Arguments, report: &mut CheckReport) -> anyhow::Result<()> {
    // A folder of its own for each run, so that two runs never meet; removed at the end.
    let folder = tempfile::Builder::new().prefix("run-").tempdir_in(make_dir(&cache()?.join("runs"))?)?;
    let dir = folder.path();
    let mut steps = Steps { report, begun: Instant::now() };

    let binaries = build_binaries(Profile::Dev)?;
    steps.done("programs built");
    say::begin("geth and Prysm (built from their Go modules the first time)");
    let tools = Tools::ensure(&mut |line| say::detail(line))?;
    steps.done("chain clients ready");
    let image = if arguments.fast {
        None
    } else {
        say::begin("the OS image (mkosi)");
        let image = build_image(Profile::Dev)?;
        steps.done("image built");
        Some(image)
    };
    let slot_seconds = slot_seconds(arguments, &tools, dir)?;
    steps.report.slot_seconds = slot_seconds;
    steps.done(&format!("slot time chosen: {slot_seconds} s"));

    say::begin(&format!(
        "a cluster of {MEMBERS} members, {THRESHOLD} of which must sign, with {} validators",
        arguments.validators
    ));
    let folders = create_cluster(dir, arguments.validators)?;
    let deposits = folders[0].deposits()?;
    let mut chain =
        Devnet::prepare(&dir.join("chain"), chain_config(arguments, slot_seconds), tools, &deposits)?;
    steps.done("cluster and genesis made");

    // The box first: its boot is the longest wait, and the chain should not grow old meanwhile.
    let mut machine = match &image {
        Some(image) => boot_box(image, &dir.join("box"), &mut steps)?,
        None => Machine::Native(Box::new(Member::start("hearth", &dir.join("hearth"), &binaries)?)),
    };
    say::begin("the chain: geth, Prysm's beacon node, Prysm's validator client");
    chain.start(GENESIS_DELAY)?;
    steps.done("chain started");
    let mut natives = Vec::new();
    for number in 1..MEMBERS {
        let name = format!("member-{number}");
        natives.push(Member::start(&name, &dir.join(&name), &binaries)?);
    }
    steps.done("three native members started");
    join_all(&folders, &natives, &machine, &chain, slot_seconds)?;
    steps.done("shares sealed in every member, the box's among them; cluster joined");

    say_addresses(&machine, &natives, &chain)?;
    if arguments.check {
        let inclusion = check(&mut chain, &mut machine, &mut natives, arguments.validators)?;
        steps.done("an attestation that needed the box is on chain");
        steps.report.attestation = Some(CheckedAttestation {
            validator: inclusion.validator.0,
            attestation_slot: inclusion.attestation_slot.0,
            block_slot: inclusion.block_slot.0,
            block_root: inclusion.block_root.to_string(),
        });
        if let Some(picture) = &arguments.picture {
            look_at_page(&machine, picture)?;
            steps.done("the page shows it in a browser");
        }
    } else {
        watch(&mut chain, &mut machine, &mut natives, arguments.validators)?;
    }
    if let Machine::Qemu { vm, .. } = &mut machine {
        vm.power_cut()?;
    }
    drop(natives);
    chain.stop();
    Ok(())
}

fn make_dir(path: &Path) -> anyhow::Result<PathBuf> {
    fs::create_dir_all(path).with_context(|| format!("cannot make {}", path.display()))?;
    Ok(path.to_owned())
}

fn chain_config(arguments: &Arguments, slot_seconds: u64) -> devnet::Config {
    let base = match arguments.fork {
        Fork::Electra => devnet::Config::electra(),
        Fork::Fulu => devnet::Config::fulu(),
    };
    devnet::Config { slot_seconds, filler_validators: FILLERS, ..base }
}

/// What was asked for, or what this machine was measured to hold.
fn slot_seconds(arguments: &Arguments, tools: &Tools, dir: &Path) -> anyhow::Result<u64> {
    if let Some(seconds) = arguments.slot_seconds {
        say::note(&format!("slots of {seconds} s, as asked"));
        return Ok(seconds);
    }
    say::begin("slot time: measuring what this machine holds while it is busy (remembered afterwards)");
    let seconds = devnet::choose_slot_seconds(&dir.join("measure"), tools, &mut |line| say::detail(line))?;
    say::good(&format!("slots of {seconds} s"));
    Ok(seconds)
}

/// Boots the image and reads the claim code off its console, as an owner would off the screen.
fn boot_box(image: &Image, dir: &Path, steps: &mut Steps<'_>) -> anyhow::Result<Machine> {
    say::begin("booting the box in QEMU with UEFI Secure Boot and a software TPM");
    let ports = free_ports(2);
    let (p2p_port, page_port) = (ports[0], ports[1]);
    let mut vm = Vm::builder(&image.raw, dir).forward(p2p_port, 3610).forward(page_port, 443).start()?;
    let log = vm.serial_log().to_owned();
    let begun = Instant::now();
    let mut shown = String::new();
    while vm.wait_ready(Duration::from_secs(5)).is_err() {
        vm.check_alive()?;
        ensure!(!stopped(), "stopped");
        let last = hw_tests::process::log_tail(&log, 1);
        if last != shown && !last.trim().is_empty() {
            say::detail(&format!("box: {}", last.trim().chars().take(110).collect::<String>()));
            shown = last;
        }
        ensure!(
            begun.elapsed() < BOOT_PATIENCE,
            "the box did not come up within {} s; its console is in {}",
            BOOT_PATIENCE.as_secs(),
            log.display()
        );
    }
    let line = vm.wait_for("hearth: claim code ", Duration::from_secs(60))?;
    let code =
        line.rsplit("claim code ").next().unwrap_or_default().trim().chars().take(14).collect::<String>();
    steps.done("box booted");
    keep_time(&mut vm)?;
    let machine =
        Machine::Qemu { vm: Box::new(vm), p2p_port, page_port, code: Some(code), timed: Instant::now() };
    machine.page()?.wait(Duration::from_secs(120))?;
    steps.done("page answers");
    Ok(machine)
}

/// Does for the emulated box what a time server does for a real one, which it cannot reach: an emulated clock starts from
/// whole seconds and runs wrong on a busy host, and a box whose clock is off by more than a second rightly signs nothing.
fn keep_time(vm: &mut Vm) -> anyhow::Result<()> {
    let asked = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64();
    let text = vm.expect("date +%s.%N")?;
    let answered = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64();
    let guest: f64 = text.trim().parse().with_context(|| format!("the box's `date` says {text:?}"))?;
    let on_the_way = (answered - asked) / 2.0;
    let off = guest - asked - on_the_way;
    if off.abs() > TIME_TOLERANCE {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64() + on_the_way;
        vm.expect(&format!("date -s @{now:.3} >/dev/null"))?;
        say::note(&format!(
            "the box's clock was {off:+.2} s off and is set from here, for want of a time server"
        ));
    }
    Ok(())
}

/// The folders of a new cluster, as `create cluster` writes them.
struct ClusterFolder {
    path: PathBuf,
}

impl ClusterFolder {
    fn node(&self) -> NodeFolder {
        NodeFolder::new(&self.path)
    }

    fn deposits(&self) -> anyhow::Result<Vec<DistributedValidator>> {
        let path = self.path.join("deposit-data.json");
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let entries: Vec<devnet::DepositEntry> = serde_json::from_str(&text)?;
        Ok(entries.into_iter().map(|deposit| DistributedValidator { deposit }).collect())
    }
}

/// Makes a cluster the way `create cluster` does: all keys in one place, once, for a chain that is worth nothing.
fn create_cluster(dir: &Path, validators: u32) -> anyhow::Result<Vec<ClusterFolder>> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    // A publicly known developer account: rewards of a local chain are worth nothing.
    let address =
        chain::ExecutionAddress(hex::FromHex::from_hex("8943545177806ed17b9f23f0a21ee5948ecaa776")?);
    let network = Network {
        name: "devnet".to_owned(),
        chain_id: 1337,
        genesis_fork_version: devnet::GENESIS_FORK_VERSION,
        // Only dates the builder registrations; the chain's own genesis is made later.
        genesis_time: SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs(),
    };
    let addresses = Addresses { fee_recipient: address, withdrawal: address };
    let mut options = CreateOptions::new(
        "First light",
        usize::from(MEMBERS),
        usize::try_from(validators)?,
        network,
        addresses,
    );
    options.threshold = Some(THRESHOLD);
    options.timestamp = "2026-01-01T00:00:00Z".to_owned();
    let mut rng = rand::rng();
    let created = create::cluster(&options, &mut rng)?;
    for file in created.files(KdfCost::Insecure, &mut rng)? {
        let path = dir.join("cluster").join(&file.path);
        make_dir(path.parent().unwrap_or(dir))?;
        fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(file.mode)
            .open(&path)
            .and_then(|mut open| open.write_all(&file.content))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok((0..MEMBERS).map(|node| ClusterFolder { path: dir.join(format!("cluster/node{node}")) }).collect())
}

/// Every member gets its shares and learns of the others.
fn join_all(
    folders: &[ClusterFolder],
    natives: &[Member],
    machine: &Machine,
    chain: &Devnet,
    slot_seconds: u64,
) -> anyhow::Result<()> {
    let lock = folders[0].node().lock()?;
    let view = lock.verify(&[]).context("the cluster lock just made does not verify")?;
    let clock = ChainClock {
        genesis_time: chain.genesis_time()?,
        slot_ms: slot_seconds * 1000,
        slots_per_epoch: chain.config().slots_per_epoch,
        preset: ChainPreset::Mainnet,
    };
    let genesis_validators_root = chain.api().genesis_validators_root()?;
    let in_guest = matches!(machine, Machine::Qemu { .. });
    let mut ports: Vec<u16> = natives.iter().map(Member::p2p_port).collect();
    ports.push(machine.p2p_port());
    for (position, folder) in folders.iter().enumerate() {
        ensure!(!stopped(), "stopped");
        let is_box = position == natives.len();
        let guest = is_box && in_guest;
        let host = if guest { hw_tests::vm::HOST_FROM_GUEST } else { "127.0.0.1" };
        let peers = view
            .operators
            .iter()
            .filter(|operator| operator.index != position)
            .map(|operator| format!("/ip4/{host}/tcp/{}/p2p/{}", ports[operator.index], operator.peer_id))
            .collect();
        let facts = ChainFacts {
            genesis_validators_root: genesis_validators_root.clone(),
            clock,
            beacon_nodes: vec![if guest { chain.beacon_url_for_guest() } else { chain.beacon_url() }],
        };
        let page = if is_box { machine.page()? } else { natives[position].page()? };
        let name = if is_box { "the box" } else { natives[position].name() };
        let share_index = u8::try_from(position + 1)?;
        folder
            .node()
            .import_shares(&page, share_index, &facts)
            .with_context(|| format!("importing the shares of {name}"))?;
        folder.node().join(&page, &facts, peers).with_context(|| format!("joining with {name}"))?;
        say::detail(&format!("{name}: shares sealed, cluster joined"));
    }
    Ok(())
}

fn say_addresses(machine: &Machine, natives: &[Member], chain: &Devnet) -> anyhow::Result<()> {
    eprintln!();
    say::good(&format!("the box's page: https://{}", machine.page()?.address()));
    if let Machine::Qemu { code: Some(code), vm, .. } = machine {
        say::detail(&format!("claim code {code} · console {}", vm.serial_log().display()));
    }
    for member in natives {
        say::detail(&format!(
            "{}: https://{} · logs {}",
            member.name(),
            member.page_address(),
            member.dir().display()
        ));
    }
    say::detail(&format!("beacon node {} · chain logs {}", chain.beacon_url(), chain.dir().display()));
    eprintln!();
    Ok(())
}

/// Waits until an attestation that cannot exist without the box is in a block.
///
/// One native member is switched off for it: three are left, three must sign, so every attestation of a distributed
/// validator from a later slot carries the box's partial signature.
fn check(
    chain: &mut Devnet,
    machine: &mut Machine,
    natives: &mut Vec<Member>,
    validators: u32,
) -> anyhow::Result<Inclusion> {
    say::begin("waiting until the box signs");
    let slots = CHECK_EPOCHS * chain.config().slots_per_epoch;
    let first_deadline = chain.clock_slot()?.0 + slots;
    while !has_done_a_duty(&machine.page()?.status()?) {
        pause(chain, machine, natives)?;
        if chain.clock_slot()?.0 > first_deadline {
            bail!(
                "the box did no duty within {slots} slots; its page says: {}",
                summary(&machine.page()?.status()?)
            );
        }
    }
    let absent = natives.remove(0);
    let name = absent.name().to_owned();
    drop(absent);
    // A duty of the running slot may have been signed with the member that just left.
    let from = Slot(chain.clock_slot()?.0 + 1);
    say::good(&format!("{name} switched off: from slot {from} on nothing can be signed without the box"));

    let distributed = distributed_indices(chain, validators)?;
    let mut follower = Follower::new(Reader::new(chain.api(), chain.config().slots_per_epoch), from);
    let deadline = from.0 + slots;
    loop {
        pause(chain, machine, natives)?;
        let found = follower.poll()?;
        let wanted = found
            .into_iter()
            .find(|vote| vote.attestation_slot >= from && distributed.contains(&vote.validator));
        if let Some(vote) = wanted {
            say::good(&format!(
                "validator {}: attestation of slot {} is in block {} ({})",
                vote.validator, vote.attestation_slot, vote.block_slot, vote.block_root
            ));
            return Ok(vote);
        }
        if chain.clock_slot()?.0 > deadline {
            bail!(
                "no attestation of the cluster on chain within {slots} slots; the box's page says: {}",
                summary(&machine.page()?.status()?)
            );
        }
    }
}

/// Opens the box's page as its owner would and holds it to what just happened.
fn look_at_page(machine: &Machine, picture: &Path) -> anyhow::Result<()> {
    let seen = hw_tests::browser::look(machine.page()?.address(), (1280, 1400), Some(picture))?;
    say::detail(&format!("the page says: {seen:?}"));
    ensure!(
        seen.members == usize::from(MEMBERS),
        "the page lists {} members instead of {MEMBERS}",
        seen.members
    );
    ensure!(
        seen.slot.chars().any(|letter| letter.is_ascii_digit()),
        "the page shows no slot but {:?}",
        seen.slot
    );
    ensure!(seen.state != "box not reachable", "the page cannot reach its own box");
    // The member that was switched off for the check must be named, with what to do.
    ensure!(!seen.problems.is_empty(), "the page does not say that a member is away");
    Ok(())
}

fn has_done_a_duty(status: &BoxStatus) -> bool {
    let duties = status.node.iter().flat_map(|node| &node.duties);
    duties.into_iter().any(|duty| duty.outcome == ipc::node::DutyOutcome::Done)
}

/// The box in one line, for a message about what went wrong.
fn summary(status: &BoxStatus) -> String {
    let problems = status.problems.iter();
    let problems = problems.chain(status.node.iter().flat_map(|node| &node.problems));
    let problems = problems.chain(status.signer.iter().flat_map(|signer| &signer.problems));
    let mut said: Vec<String> = problems.map(ToString::to_string).collect();
    for duty in status.node.iter().flat_map(|node| node.duties.iter().take(3)) {
        let why = duty.reason.as_ref().map(|reason| reason.message.as_str()).unwrap_or_default();
        said.push(format!("slot {}: {:?} {why}", duty.slot, duty.outcome));
    }
    if said.is_empty() { "nothing is wrong".to_owned() } else { said.join(" | ") }
}

/// Where the cluster's validators are on the chain: at the first indices, as the genesis was made.
fn distributed_indices(chain: &Devnet, validators: u32) -> anyhow::Result<BTreeSet<ValidatorIndex>> {
    let all = chain.api().validators()?;
    Ok(all.into_iter().take(usize::try_from(validators)?).map(|info| info.index).collect())
}

fn pause(chain: &mut Devnet, machine: &mut Machine, natives: &mut [Member]) -> anyhow::Result<()> {
    ensure!(!stopped(), "stopped");
    chain.check_alive()?;
    machine.check_alive()?;
    for member in natives {
        member.check_alive()?;
    }
    std::thread::sleep(Duration::from_millis(300));
    Ok(())
}

/// Until Ctrl-C: each duty of the box as it ends, each attestation of the cluster as it appears on chain.
fn watch(
    chain: &mut Devnet,
    machine: &mut Machine,
    natives: &mut [Member],
    validators: u32,
) -> anyhow::Result<()> {
    say::begin("running; Ctrl-C ends it");
    let distributed = distributed_indices(chain, validators)?;
    let mut follower = Follower::new(Reader::new(chain.api(), chain.config().slots_per_epoch), Slot(1));
    let mut told = BTreeSet::new();
    let mut problems = BTreeSet::new();
    while !stopped() {
        if let Err(error) = pause(chain, machine, natives) {
            if stopped() {
                break;
            }
            return Err(error);
        }
        if let Ok(status) = machine.page()?.status() {
            tell(&status, &mut told, &mut problems);
        }
        for vote in follower.poll().unwrap_or_default() {
            if distributed.contains(&vote.validator) {
                say::good(&format!(
                    "on chain: validator {} slot {} in block {}",
                    vote.validator, vote.attestation_slot, vote.block_slot
                ));
            }
        }
    }
    Ok(())
}

fn tell(status: &BoxStatus, told: &mut BTreeSet<(u64, String)>, problems: &mut BTreeSet<String>) {
    let now: BTreeSet<String> = status
        .problems
        .iter()
        .chain(status.node.iter().flat_map(|node| &node.problems))
        .chain(status.signer.iter().flat_map(|signer| &signer.problems))
        .map(ToString::to_string)
        .collect();
    for new in now.difference(problems) {
        say::note(new);
    }
    for gone in problems.difference(&now) {
        say::good(&format!("no longer: {gone}"));
    }
    *problems = now;
    let Some(node) = &status.node else { return };
    for duty in node.duties.iter().rev() {
        use ipc::node::DutyOutcome;
        let kind = format!("{:?}", duty.kind).to_lowercase();
        let ended = match duty.outcome {
            DutyOutcome::Pending => continue,
            DutyOutcome::Done => {
                let at = duty.published_ms_into_slot.unwrap_or_default();
                format!(
                    "done, round {}, by {:?}, {at} ms into the slot",
                    duty.decided_round.unwrap_or(1),
                    duty.partials_from
                )
            }
            DutyOutcome::Missed => {
                let why =
                    duty.reason.as_ref().map(|reason| format!("{} ({})", reason.message, reason.component));
                format!("missed: {}", why.unwrap_or_default())
            }
        };
        if told.insert((duty.slot, kind.clone())) {
            say::detail(&format!("slot {} {kind}: {ended}", duty.slot));
        }
    }
}
