//! `./hearth fuzz`: builds the fuzzer and lets it try the targets one after another. docs/fuzzing.md says what they assert.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use crate::{run, say};

/// What LLVM's coverage pass needs for libFuzzer, on a stable toolchain: counters for every edge, and what is compared.
const COVERAGE: [&str; 5] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
];
const CORPUS: &str = "fuzz/corpus";
const PAGE: &str = "docs/fuzzing.md";
/// The table stands between these lines of the page.
const TABLE: (&str, &str) = ("<!-- table: written by ./hearth fuzz --page -->", "<!-- end of the table -->");
/// No parser needs a second for one input; the machine may be busy.
const INPUT_TIMEOUT_S: u32 = 20;
const SIGN_OF_LIFE: Duration = Duration::from_secs(20);

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// One target; all of them when left out. The names are the folders of fuzz/corpus.
    target: Option<String>,
    /// How long each target runs.
    #[arg(long, default_value_t = 1.0)]
    minutes: f64,
    /// The result as JSON in the last line of standard output.
    #[arg(long)]
    json: bool,
    /// Write what all runs together have shown into docs/fuzzing.md. Runs nothing by itself with --minutes 0.
    #[arg(long)]
    page: bool,
}

/// What the runs of one target have shown.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Shown {
    /// How long it has run, all runs together.
    seconds: u64,
    /// Inputs tried, all runs together.
    executions: u64,
    /// Edges of the code that were reached, at last.
    coverage: u64,
    /// Inputs that reach something of their own, at last.
    inputs: u64,
    /// Where inputs lie that broke a rule.
    findings: Vec<PathBuf>,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let targets = chosen(arguments.target.as_deref())?;
    let home = run::cache()?.join("fuzz");
    fs::create_dir_all(&home).with_context(|| format!("cannot make {}", home.display()))?;
    let kept = home.join("shown.json");
    let mut all: BTreeMap<String, Shown> =
        fs::read(&kept).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
    let mut now: BTreeMap<String, Shown> = BTreeMap::new();
    if arguments.minutes > 0.0 {
        let program = build(&home)?;
        for target in &targets {
            let shown = try_target(&program, target, arguments.minutes, &home)?;
            let known = all.entry(target.clone()).or_default();
            known.seconds += shown.seconds;
            known.executions += shown.executions;
            (known.coverage, known.inputs) = (shown.coverage, shown.inputs);
            known.findings.extend(shown.findings.iter().cloned());
            fs::write(&kept, serde_json::to_vec_pretty(&all)?)?;
            now.insert(target.clone(), shown);
        }
    }
    if arguments.page {
        write_page(Path::new(PAGE), &all)?;
        say::good(&format!("the table of {PAGE} is written"));
    }
    let findings: usize = now.values().map(|shown| shown.findings.len()).sum();
    if arguments.json {
        println!("{}", serde_json::json!({ "targets": now, "findings": findings }));
    } else {
        now.iter().for_each(|(name, shown)| println!("{name:<20} {}", sentence(shown)));
    }
    anyhow::ensure!(
        findings == 0,
        "{findings} findings; put the input into {CORPUS}/TARGET/regression-NAME once it is mended"
    );
    Ok(())
}

fn chosen(wanted: Option<&str>) -> anyhow::Result<Vec<String>> {
    let mut names = Vec::new();
    for folder in fs::read_dir(CORPUS).with_context(|| format!("cannot read {CORPUS}"))? {
        names.push(folder?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    match wanted {
        None => Ok(names),
        Some(name) if names.iter().any(|known| known == name) => Ok(vec![name.to_owned()]),
        Some(name) => anyhow::bail!("there is no target {name}; there are {}", names.join(", ")),
    }
}

/// A build of its own, in a folder of its own: with other flags nothing of the usual one can be used again.
fn build(home: &Path) -> anyhow::Result<PathBuf> {
    say::begin("building the fuzzer (the first time takes some minutes)");
    let version = Command::new("rustc").arg("-vV").output().context("cannot run rustc")?;
    let version = String::from_utf8_lossy(&version.stdout).into_owned();
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).context("rustc names no host")?;
    let folder = run::cache()?.join("target-fuzz");
    let log = home.join("build.log");
    let mut command = Command::new(env!("CARGO"));
    command.args(["build", "--locked", "--release", "--manifest-path", "fuzz/Cargo.toml", "--target", host]);
    command.arg("--target-dir").arg(&folder).env("RUSTFLAGS", COVERAGE.join(" "));
    wait(command, &log, || last_line(&log))?;
    Ok(folder.join(host).join("release/fuzz"))
}

fn try_target(program: &Path, target: &str, minutes: f64, home: &Path) -> anyhow::Result<Shown> {
    say::begin(&format!("{target}: {minutes} min"));
    let found = home.join("corpus").join(target);
    let artifacts = home.join("findings");
    fs::create_dir_all(&found)?;
    fs::create_dir_all(&artifacts)?;
    let log = home.join(format!("{target}.log"));
    let seconds =
        Duration::try_from_secs_f64(minutes * 60.0).context("--minutes is no time")?.as_secs().max(1);
    let mut command = Command::new("nice");
    command.args(["-n", "19"]).arg(program).arg(format!("--target={target}"));
    command.arg(format!("-max_total_time={seconds}")).arg(format!("-timeout={INPUT_TIMEOUT_S}"));
    command.args(["-print_final_stats=1", "-rss_limit_mb=2048", "-max_len=32768"]);
    command.arg(format!("-artifact_prefix={}/{target}-", artifacts.display()));
    // What it finds worth keeping goes to the first folder; the second is the committed one, and only read.
    command.arg(&found).arg(Path::new(CORPUS).join(target));
    let begun = Instant::now();
    let ended = wait(command, &log, || last_line(&log));
    let text = fs::read_to_string(&log).unwrap_or_default();
    let mut shown = read_log(&text);
    shown.seconds = begun.elapsed().as_secs();
    match (&ended, shown.findings.is_empty()) {
        (Ok(()), true) => say::good(&format!("{target}: {}", sentence(&shown))),
        (_, false) => say::failed(&format!("{target}: {} (its log: {})", sentence(&shown), log.display())),
        (Err(error), true) => anyhow::bail!("{target}: {error:#}"),
    }
    Ok(shown)
}

fn sentence(shown: &Shown) -> String {
    let found = match shown.findings.as_slice() {
        [] => "nothing found".to_owned(),
        some => some.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", "),
    };
    let Shown { seconds, executions, coverage, inputs, .. } = shown;
    format!("{executions} inputs tried in {seconds} s, {coverage} edges, {inputs} kept; {found}")
}

/// The numbers with which libFuzzer ends, or the last ones before it was ended.
fn read_log(text: &str) -> Shown {
    let mut shown = Shown::default();
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let after = |word: &str| {
            let at = words.iter().position(|known| *known == word)?;
            words.get(at + 1)?.split('/').next()?.parse().ok()
        };
        if let Some(tried) =
            line.strip_prefix('#').and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        {
            shown.executions = tried;
            shown.coverage = after("cov:").unwrap_or(shown.coverage);
            shown.inputs = after("corp:").unwrap_or(shown.inputs);
        }
        if let Some(tried) = after("stat::number_of_executed_units:") {
            shown.executions = tried;
        }
        if let Some((_, path)) = line.split_once("Test unit written to ") {
            shown.findings.push(path.trim().into());
        }
    }
    shown
}

fn last_line(log: &Path) -> String {
    let last = hw_tests::process::log_tail(log, 1);
    last.trim().chars().take(110).collect()
}

/// Runs a command with its output in a log, and says now and then where it is.
fn wait(mut command: Command, log: &Path, progress: impl Fn() -> String) -> anyhow::Result<()> {
    let out = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
    command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
    let mut child = command.spawn().context("cannot start it")?;
    let mut shown = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            anyhow::ensure!(status.success(), "{status}; its output is in {}", log.display());
            return Ok(());
        }
        if shown.elapsed() > SIGN_OF_LIFE {
            shown = Instant::now();
            say::detail(&progress());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn write_page(page: &Path, all: &BTreeMap<String, Shown>) -> anyhow::Result<()> {
    let text = fs::read_to_string(page).with_context(|| format!("cannot read {}", page.display()))?;
    fs::write(page, with_table(&text, all).context("the page has no place for the table")?)?;
    Ok(())
}

fn with_table(page: &str, all: &BTreeMap<String, Shown>) -> Option<String> {
    let (before, rest) = page.split_once(TABLE.0)?;
    let (_, after) = rest.split_once(TABLE.1)?;
    let mut table = "| target | ran | inputs tried | edges | inputs kept | findings open |\n|---|---:|---:|---:|---:|---:|\n".to_owned();
    for (name, shown) in all {
        let Shown { seconds, executions, coverage, inputs, .. } = shown;
        let open = shown.findings.iter().filter(|path| path.exists()).count();
        table.push_str(&format!(
            "| `{name}` | {seconds} s | {executions} | {coverage} | {inputs} | {open} |\n"
        ));
    }
    Some(format!("{before}{}\n{table}{}{after}", TABLE.0, TABLE.1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_how_a_run_ended() {
        let log = "INFO: seed\n#2\tINITED cov: 120 ft: 150 corp: 4/1201b exec/s: 0 rss: 60Mb\n\
            #4096\tpulse  cov: 321 ft: 400 corp: 17/2Kb lim: 4096 exec/s: 2048 rss: 61Mb\n\
            Done 9000 runs in 5 second(s)\nstat::number_of_executed_units: 9000\n";
        let shown = read_log(log);
        assert_eq!((shown.executions, shown.coverage, shown.inputs), (9000, 321, 17));
        assert!(shown.findings.is_empty());
        let crashed = read_log("#7\tREDUCE cov: 9 ft: 9 corp: 2/3b\nTest unit written to /x/frame-crash-1\n");
        assert_eq!((crashed.executions, crashed.findings.len()), (7, 1));
    }

    #[test]
    fn the_table_is_exchanged_and_nothing_else() {
        let page = format!("a\n{}\nold\n{}\nb\n", TABLE.0, TABLE.1);
        let all =
            BTreeMap::from([("frame".to_owned(), Shown { seconds: 60, executions: 7, ..Shown::default() })]);
        let written = with_table(&page, &all).unwrap();
        assert!(written.starts_with("a\n") && written.ends_with("\nb\n") && !written.contains("old"));
        assert!(written.contains("| `frame` | 60 s | 7 | 0 | 0 | 0 |"));
        assert_eq!(with_table(&written, &all), Some(written));
        assert_eq!(with_table("no place", &all), None);
    }
}
