//! `./hearth test`: everything that must pass, each thing built once, progress all the way.

mod again;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::ValueEnum;
use hw_tests::image::{Arch, Image};
use hw_tests::vm::measure::MEASURED;
use serde_json::Value;

use crate::{arrows, conformance, image, promises, run, say};

/// The parts of the test, in the order they run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Part {
    /// Formatting, clippy, arrows between rooms, shell scripts.
    Lint,
    /// Every crate's own tests.
    Unit,
    /// The conformance vectors.
    Vectors,
    /// The deterministic simulator.
    Sim,
    /// How locked the units are.
    Units,
    /// A chain and four native members: `run --fast --check`, and the page in a browser.
    Fast,
    /// Every row of the Obol checklist against the tests named for it: those that have passed by now are not run again.
    Conformance,
    /// The image: built, booted, rebooted, inspected.
    Image,
    /// The same for ARM64, emulated: not among "all", because it takes too long (decision 0251).
    ImageArm64,
    /// Fifty power cuts while the first start completes the disk: not among "all" either.
    PowerCuts,
    /// The image with four processors, on an NVMe disk, on one that is too small, on a stick that installs it: not among "all" either.
    ImageMore,
    /// A release, signed with keys made for it alone: built with optimised programs, looked into, booted twice: not among "all".
    Release,
    /// A second checkout gives the same image: everything is compiled twice more.
    SameBytes,
    /// A cluster that changes on a real chain: about two minutes, not among "all".
    EditedCluster,
    /// Fulu with a block builder: about ten minutes, not among "all".
    Fulu,
    /// The box in QEMU attests on chain: `run --check`.
    E2e,
}

impl Part {
    fn name(self) -> &'static str {
        match self {
            Self::Lint => "lint",
            Self::Unit => "unit",
            Self::Vectors => "vectors",
            Self::Sim => "sim",
            Self::Conformance => "conformance",
            Self::Units => "units",
            Self::Fast => "fast",
            Self::Image => "image",
            Self::ImageArm64 => "image-arm64",
            Self::PowerCuts => "power-cuts",
            Self::ImageMore => "image-more",
            Self::Release => "release",
            Self::SameBytes => "same-bytes",
            Self::EditedCluster => "edited-cluster",
            Self::Fulu => "fulu",
            Self::E2e => "e2e",
        }
    }

    /// Runs test executables of the workspace.
    fn needs_tests(self) -> bool {
        !matches!(self, Self::Lint | Self::Vectors | Self::Units | Self::SameBytes | Self::Fulu | Self::E2e)
    }
}

/// What ran and how it ended.
#[derive(Default)]
struct Tally {
    passed: u64,
    failed: u64,
    skipped: u64,
    times: Vec<(&'static str, Duration)>,
    failures: Vec<String>,
    /// Executables of which every failed test waited in vain: not judged yet.
    waited: Vec<Waited>,
    /// Tests that waited in vain and passed when they were tried again.
    unsteady: Vec<String>,
    /// What has passed, by executable and name.
    passed_tests: PassedTests,
}

/// Tests of one executable that waited in vain, until they are tried again.
struct Waited {
    path: PathBuf,
    dir: PathBuf,
    /// Package and target.
    name: String,
    tests: Vec<String>,
    settings: Vec<(String, PathBuf)>,
    /// What the executable said.
    text: String,
    message: String,
}

/// Tests that have passed in this run: the executable, and the test's path in it.
pub(crate) type PassedTests = BTreeSet<(PathBuf, String)>;

impl Tally {
    fn pass(&mut self, what: &str) {
        self.passed += 1;
        say::good(what);
    }

    /// Takes in what another lane did.
    fn add(&mut self, other: Self) {
        let Self { passed, failed, skipped, times, failures, waited, unsteady, passed_tests } = other;
        self.passed += passed;
        self.failed += failed;
        self.skipped += skipped;
        self.times.extend(times);
        self.failures.extend(failures);
        self.waited.extend(waited);
        self.unsteady.extend(unsteady);
        self.passed_tests.extend(passed_tests);
    }

    fn fail(&mut self, what: String) {
        self.failed += 1;
        say::failed(&what);
        self.failures.push(what);
    }

    /// A test executable failed, which said `text`: in as many tests as it counted, or as a whole.
    fn fail_with(&mut self, text: &str, message: String, failed: u64) {
        eprintln!("{}", interesting(text));
        say::failed(&message);
        self.failed += failed.max(1);
        self.failures.push(message);
    }

    fn judge(&mut self, what: &str, result: anyhow::Result<()>) {
        match result {
            Ok(()) => self.pass(what),
            Err(error) => self.fail(format!("{what}: {error:#}")),
        }
    }
}

/// Runs one part, or all of them.
pub(crate) fn run(part: Option<Part>) -> anyhow::Result<()> {
    let begun = Instant::now();
    let mut tally = Tally::default();
    if let Some(part) = part {
        run_one(&mut tally, part);
    } else {
        run_all(&mut tally);
    }
    // What the steps themselves could not do here.
    tally.skipped += say::skips();
    for (name, time) in &tally.times {
        say::detail(&format!("{name:<8} {}", say::seconds(*time)));
    }
    for unsteady in &tally.unsteady {
        say::note(&format!("UNSTEADY, passed at the second try: {unsteady}"));
    }
    for failure in &tally.failures {
        say::failed(failure);
    }
    say::detail(&format!("in all {}", say::seconds(begun.elapsed())));
    println!("{} passed, {} failed, {} skipped", tally.passed, tally.failed, tally.skipped);
    anyhow::ensure!(tally.failed == 0, "{} tests failed", tally.failed);
    Ok(())
}

fn run_one(tally: &mut Tally, part: Part) {
    let built = if part.needs_tests() { tests(tally) } else { None };
    if part.needs_tests() && built.is_none() {
        return;
    }
    run_part(tally, part, built.as_ref());
    try_again(tally);
}

/// Everything. The image has a lane of its own beside what runs on this machine itself: each of the two waits for most of its
/// time, the one for an emulated start, the other for slots to pass (decision 0400). What failed by waiting in vain, and what
/// is left, then has the machine to itself.
fn run_all(tally: &mut Tally) {
    run_part(tally, Part::Lint, None);
    let Some(built) = tests(tally) else { return };
    std::thread::scope(|scope| {
        let image = scope.spawn(|| {
            say::lane("image");
            let mut tally = Tally::default();
            run_part(&mut tally, Part::Image, Some(&built));
            tally
        });
        for part in [Part::Unit, Part::Vectors, Part::Sim, Part::Units, Part::Fast] {
            run_part(tally, part, Some(&built));
        }
        if !image.is_finished() {
            say::begin("the rest waits for the image's tests");
        }
        match image.join() {
            Ok(image) => tally.add(image),
            Err(_) => tally.fail("the image's tests ended in a panic, which stands above".to_owned()),
        }
    });
    try_again(tally);
    for part in [Part::Conformance, Part::E2e] {
        run_part(tally, part, Some(&built));
    }
    try_again(tally);
}

/// The executables of all tests; that they do not build is a failure.
fn tests(tally: &mut Tally) -> Option<Vec<Executable>> {
    match build_tests() {
        Ok(built) => Some(built),
        Err(error) => {
            tally.fail(format!("the tests do not build: {error:#}"));
            None
        }
    }
}

fn run_part(tally: &mut Tally, part: Part, built: Option<&Vec<Executable>>) {
    let begun = Instant::now();
    let name = part.name();
    say::begin(&format!("{name}: {}", describe(part)));
    match part {
        Part::Lint => lint(tally),
        Part::Unit => run_executables(tally, built, |test| !test.is_slow() && test.package != "sim", &[]),
        Part::Vectors => vectors(tally),
        Part::Sim => run_executables(tally, built, |test| test.package == "sim", &[]),
        Part::Conformance => {
            let outcome = conformance::run(conformance::Page::Compare, built, &tally.passed_tests);
            tally.judge("every row of the Obol checklist is as the page says", outcome);
        }
        Part::Units => tally.judge("every unit is locked tightly enough", run::check_units()),
        Part::Fast => {
            run_executables(tally, built, |test| test.is("devnet"), &[]);
            tally.judge("four native members do every kind of duty on chain", run::check_fast());
            // The daemons it starts are built by the line above.
            run_executables(tally, built, |test| test.is("key_generation"), &[]);
            for test in ["identity_key", "passphrase_page", "moving_page", "moved_box", "two_clusters"] {
                run_executables(tally, built, |executable| executable.is(test), &[]);
            }
            // Five members each, whose clocks are fast: one test at a time.
            let one_by_one = [("RUST_TEST_THREADS", PathBuf::from("1"))];
            run_executables(tally, built, |test| test.is("cluster_edit"), &one_by_one);
            // The same with the user's own Charon, when HEARTH_CHARON names one.
            run_executables(tally, built, |test| test.is("charon_edit"), &one_by_one);
        }
        Part::Image => boot_image(tally, built, Arch::X86_64, "image_boots", "HEARTH_IMAGE"),
        Part::Release => {
            let image = image::build_release_to_try();
            boot(tally, built, image, "release_boots", "HEARTH_RELEASE_IMAGE");
        }
        Part::SameBytes => {
            let again = image::build_dev().and_then(|image| image::check_again(&image));
            tally.judge("a second checkout, in another folder, gives the same bytes", again);
        }
        Part::ImageArm64 => {
            boot_image(tally, built, Arch::Arm64, "image_boots_arm64", "HEARTH_ARM64_IMAGE");
        }
        Part::ImageMore => boot_image(tally, built, Arch::X86_64, "image_more", "HEARTH_IMAGE"),
        Part::PowerCuts => boot_image(tally, built, Arch::X86_64, "power_cuts", "HEARTH_IMAGE"),
        Part::EditedCluster => {
            tally.judge("the daemons build", run::build_binaries(false).map(|_| ()));
            run_executables(tally, built, |test| test.is("edited_cluster"), &[]);
        }
        Part::Fulu => tally.judge(
            "every kind of duty is done on Fulu, with blocks of the node's own and a builder's",
            run::check_fulu(),
        ),
        Part::E2e => tally.judge("the box in QEMU attests on chain", run::check_box()),
    }
    tally.times.push((name, begun.elapsed()));
}

fn describe(part: Part) -> &'static str {
    match part {
        Part::Lint => "formatting, clippy, arrows between rooms, scripts",
        Part::Unit => "every crate's own tests",
        Part::Vectors => "conformance vectors",
        Part::Sim => "whole clusters under faults, seed by seed",
        Part::Conformance => "the tests named for each row of the Obol checklist",
        Part::Units => "how locked the units are",
        Part::Fast => "a real chain and four native members",
        Part::Image => "build the image, boot it, look inside",
        Part::ImageArm64 => "the same for ARM64, emulated",
        Part::Release => "a release with keys made for it: build it, look inside, boot it",
        Part::SameBytes => "a second checkout in another folder, byte by byte",
        Part::ImageMore => "four processors, an NVMe disk, a disk that is too small, a stick that installs",
        Part::EditedCluster => "a cluster that changes on a real chain",
        Part::Fulu => "every duty on Fulu, with blocks of the node's own and a builder's",
        Part::PowerCuts => "power cuts while the first start completes the disk",
        Part::E2e => "the box in QEMU, on a real chain, in a real cluster",
    }
}

/// Builds a dev image and runs the test that boots it.
fn boot_image(tally: &mut Tally, built: Option<&Vec<Executable>>, arch: Arch, test: &str, named_by: &str) {
    boot(tally, built, image::build_dev_for(arch), test, named_by);
}

/// Runs the test that boots an image which was built.
fn boot(
    tally: &mut Tally,
    built: Option<&Vec<Executable>>,
    image: anyhow::Result<Image>,
    test: &str,
    named_by: &str,
) {
    let raw = image.as_ref().ok().map(|image| image.raw.clone());
    tally.judge("the image builds", image.map(|_| ()));
    if let Some(raw) = raw {
        // One box after the other: each takes a processor, one of them four.
        let settings = [(named_by, raw), ("RUST_TEST_THREADS", "1".into())];
        run_executables(tally, built, |executable| executable.is(test), &settings);
    }
}

fn lint(tally: &mut Tally) {
    tally.judge("formatting", quiet("fmt", Command::new(env!("CARGO")).args(["fmt", "--all", "--check"])));
    let clippy = ["clippy", "--workspace", "--all-targets", "--locked", "--quiet", "--", "-D", "warnings"];
    tally.judge("clippy", quiet("clippy", Command::new(env!("CARGO")).args(clippy)));
    match arrows::wrong() {
        Ok(wrong) if wrong.is_empty() => tally.pass("arrows between rooms"),
        Ok(wrong) => tally.fail(wrong.join("; ")),
        Err(error) => tally.fail(format!("arrows between rooms: {error:#}")),
    }
    match promises::broken() {
        Ok(broken) if broken.is_empty() => {
            tally.pass("every promise of the threat model and every finding of an audit has its tests")
        }
        Ok(broken) => tally.fail(broken.join("; ")),
        Err(error) => tally.fail(format!("the pages that name tests: {error:#}")),
    }
    match crate::workflows::wrong(&run::repository()) {
        Ok(wrong) if wrong.is_empty() => tally.pass("the public workflows run our words only"),
        Ok(wrong) => tally.fail(wrong.join("; ")),
        Err(error) => tally.fail(format!("workflows: {error:#}")),
    }
    for script in [
        "hearth",
        ".ci/run",
        "image/build",
        "image/foreign",
        "image/packages",
        "hw-tests/devnet/ensure-go.sh",
    ] {
        tally.judge(
            &format!("{script} is well-formed"),
            quiet("bash", Command::new("bash").args(["-n", script])),
        );
    }
}

fn vectors(tally: &mut Tally) {
    let dir =
        std::env::var_os("HEARTH_VECTORS").map_or_else(|| PathBuf::from("../shared/vectors"), PathBuf::from);
    if !dir.is_dir() {
        say::skipped(&format!(
            "no conformance vectors at {}; set HEARTH_VECTORS to their folder",
            dir.display()
        ));
        return;
    }
    let totals = hw_tests::vectors::run(&dir, hw_tests::vectors::Format::Text);
    tally.passed += totals.passed;
    tally.failed += totals.failed;
    tally.skipped += totals.skipped;
    if totals.failed > 0 || totals.passed == 0 {
        tally
            .failures
            .push(format!("conformance vectors: {} failed, {} passed", totals.failed, totals.passed));
    }
}

/// One test executable that cargo built.
pub(crate) struct Executable {
    pub(crate) package: String,
    target: String,
    pub(crate) path: PathBuf,
    pub(crate) dir: PathBuf,
}

impl Executable {
    fn is(&self, target: &str) -> bool {
        self.package == "hw-tests" && self.target == target
    }

    /// Needs a chain, a browser or QEMU, and runs in a part of its own.
    fn is_slow(&self) -> bool {
        [
            "charon_edit",
            "cluster_edit",
            "devnet",
            "edited_cluster",
            "identity_key",
            "image_boots",
            "image_boots_arm64",
            "image_more",
            "key_generation",
            "moved_box",
            "moving_page",
            "passphrase_page",
            "power_cuts",
            "release_boots",
            "two_clusters",
        ]
        .iter()
        .any(|target| self.is(target))
    }
}

/// Builds everything there is to test, once, and asks cargo where it put it.
pub(crate) fn build_tests() -> anyhow::Result<Vec<Executable>> {
    say::detail("building all tests");
    let (log, log_path) = log("build-tests")?;
    let json_path = log_path.with_extension("json");
    let mut command = Command::new(env!("CARGO"));
    command.args(["test", "--workspace", "--no-run", "--locked", "--message-format=json"]);
    command.stdin(Stdio::null()).stdout(File::create(&json_path)?).stderr(log);
    wait(command, &log_path)?;
    let mut executables = BTreeMap::new();
    for line in std::fs::read_to_string(&json_path)?.lines() {
        let message: Value = serde_json::from_str(line).context("cargo's messages")?;
        let (Some(path), true) = (message["executable"].as_str(), message["profile"]["test"] == true) else {
            continue;
        };
        let manifest = PathBuf::from(message["manifest_path"].as_str().unwrap_or_default());
        let dir = manifest.parent().context("a manifest has a folder")?.to_owned();
        let package = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let target = message["target"]["name"].as_str().unwrap_or_default().to_owned();
        executables.insert(
            (package.clone(), target.clone()),
            Executable { package, target, path: path.into(), dir },
        );
    }
    Ok(executables.into_values().collect())
}

fn run_executables(
    tally: &mut Tally,
    built: Option<&Vec<Executable>>,
    wanted: impl Fn(&Executable) -> bool,
    settings: &[(&str, PathBuf)],
) {
    let chosen: Vec<&Executable> = built.into_iter().flatten().filter(|test| wanted(test)).collect();
    if chosen.is_empty() {
        tally.fail("there is no test to run here, although there should be".to_owned());
    }
    for test in chosen {
        let name = format!("{}/{}", test.package, test.target);
        let begun = Instant::now();
        let (result, text) = match run_executable(&test.path, &test.dir, &name, &[], settings) {
            Ok(ended) => ended,
            Err(error) => {
                tally.fail(format!("{name}: {error:#}"));
                continue;
            }
        };
        let [passed, failed, ignored] = counts(&text);
        let ok = text.lines().filter_map(passed_name);
        tally.passed_tests.extend(ok.map(|name| (test.path.clone(), name.to_owned())));
        tally.passed += passed;
        tally.skipped += ignored;
        for skipped in text.lines().filter(|line| line.contains("SKIPPED:")) {
            tally.skipped += 1;
            say::note(skipped);
        }
        for measured in text.lines().filter_map(|line| line.strip_prefix(MEASURED)) {
            say::detail(measured);
        }
        let Err(error) = result else {
            say::good(&format!("{name}: {passed} passed in {}", say::seconds(begun.elapsed())));
            continue;
        };
        let message = format!("{name}: {error:#}");
        match again::worth_another_try(&text) {
            Some(tests) if u64::try_from(tests.len()) == Ok(failed) => {
                say::note(&format!(
                    "{name}: {passed} passed, and these waited in vain: {}",
                    tests.join(", ")
                ));
                let settings =
                    settings.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
                let (path, dir) = (test.path.clone(), test.dir.clone());
                tally.waited.push(Waited { path, dir, name, tests, settings, text, message });
            }
            _ => tally.fail_with(&text, message, failed),
        }
    }
}

/// Tries what waited in vain once more, each test alone; nothing else runs meanwhile. More than a few are no accident.
fn try_again(tally: &mut Tally) {
    let waited = std::mem::take(&mut tally.waited);
    let tries = tally.unsteady.len() + waited.iter().map(|waited| waited.tests.len()).sum::<usize>();
    for Waited { path, dir, name, tests, settings, text, message } in waited {
        let settings: Vec<_> = settings.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
        let passes = |test: &String| {
            say::note(&format!("SECOND TRY, alone: {name}: {test} waited in vain"));
            let log = format!("{name}/{test}/again");
            let outcome = run_executable(&path, &dir, &log, &["--exact", test], &settings);
            outcome.is_ok_and(|(result, text)| result.is_ok() && counts(&text) == [1, 0, 0])
        };
        if tries <= again::AT_MOST && tests.iter().all(passes) {
            tally.passed += tests.len() as u64;
            tally.passed_tests.extend(tests.iter().map(|test| (path.clone(), test.clone())));
            tally.unsteady.extend(tests.iter().map(|test| format!("{name}: {test}")));
        } else {
            tally.fail_with(&text, message, tests.len() as u64);
        }
    }
}

/// Runs a test executable, with what it says in a log of its own; returns how it ended and what it said.
fn run_executable(
    program: &Path,
    dir: &Path,
    name: &str,
    chosen: &[&str],
    settings: &[(&str, PathBuf)],
) -> anyhow::Result<(anyhow::Result<()>, String)> {
    let (out, path) = log(&name.replace(['/', ':'], "-"))?;
    let err = out.try_clone()?;
    let mut command = Command::new(program);
    // What a test that passed has said is shown too: what it measured, and that it was skipped.
    command.arg("--show-output").args(chosen);
    command.current_dir(dir).stdin(Stdio::null()).stdout(out).stderr(err);
    command.envs(settings.iter().map(|(name, value)| (name, value)));
    let result = wait(command, &path);
    let text = std::fs::read(&path).unwrap_or_default();
    Ok((result, String::from_utf8_lossy(&text).into_owned()))
}

/// The test of which this line says that it has passed.
fn passed_name(line: &str) -> Option<&str> {
    line.strip_prefix("test ")?.strip_suffix(" ... ok")
}

/// The numbers of the line with which a Rust test executable ends.
fn counts(text: &str) -> [u64; 3] {
    let Some(line) = text.lines().rev().find(|line| line.starts_with("test result:")) else { return [0; 3] };
    ["passed", "failed", "ignored"].map(|word| {
        let before = line.split(';').find_map(|part| part.trim().strip_suffix(word));
        before.and_then(|before| before.trim().rsplit(' ').next()?.parse().ok()).unwrap_or(0)
    })
}

/// The part of a failed test's output that says why.
fn interesting(text: &str) -> &str {
    let from = text
        .find("\nfailures:\n")
        .unwrap_or_else(|| text.char_indices().rev().nth(4000).map_or(0, |(position, _)| position));
    &text[from..]
}

/// Runs a command that should say nothing; shows what it said when it fails.
fn quiet(name: &str, command: &mut Command) -> anyhow::Result<()> {
    let (out, path) = log(name)?;
    command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
    let mut owned = Command::new(command.get_program());
    std::mem::swap(&mut owned, command);
    let result = wait(owned, &path);
    if result.is_err() {
        eprintln!("{}", std::fs::read_to_string(&path).unwrap_or_default());
    }
    result
}

/// A log file of this test run.
fn log(name: &str) -> anyhow::Result<(File, PathBuf)> {
    let dir = run::cache()?.join("test-logs");
    std::fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let path = dir.join(format!("{name}.log"));
    Ok((File::create(&path).with_context(|| format!("cannot write {}", path.display()))?, path))
}

/// Waits for a command; every twenty seconds says what it is at.
fn wait(mut command: Command, log: &Path) -> anyhow::Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let mut child = command.spawn().with_context(|| format!("cannot start {program}"))?;
    let mut shown = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            anyhow::ensure!(status.success(), "{status}; its output is in {}", log.display());
            return Ok(());
        }
        if shown.elapsed() > Duration::from_secs(20) {
            shown = Instant::now();
            let last = hw_tests::process::log_tail(log, 1);
            say::detail(last.trim().get(..120).unwrap_or(last.trim()));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_how_a_test_executable_ended() {
        let text = "x\ntest result: FAILED. 12 passed; 3 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.4s\n";
        assert_eq!(counts(text), [12, 3, 1]);
        assert_eq!(counts("nothing"), [0, 0, 0]);
    }
}
