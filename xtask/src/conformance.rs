//! `./hearth conformance`: the checklist of the Obol specification, row by row, against the tests and runs named for it.
//!
//! `docs/conformance-obol.toml` says which tests show a row. A row holds when something is named for it, everything named
//! passes, and nothing is said to be missing; so a test that is renamed or fails takes its rows with it. The page
//! `docs/conformance-obol.md` is written from that file and from the reports of measured runs in `docs/conformance/`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail, ensure};
use serde::Deserialize;
use serde_json::Value;

use crate::say;
use crate::test::{Executable, PassedTests, build_tests};

/// Rows of the checklist.
const ROWS: u64 = 64;
const TABLE: &str = "docs/conformance-obol.toml";
const PAGE: &str = "docs/conformance-obol.md";
const RUNS: &str = "docs/conformance";

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    /// What was found in mixed clusters and is not a row.
    #[serde(default)]
    finding: Vec<Finding>,
    row: Vec<Row>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Finding {
    what: String,
    state: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    number: u64,
    part: String,
    what: String,
    /// `crate: test_function`.
    #[serde(default)]
    tests: Vec<String>,
    /// Sets of `./hearth vectors`.
    #[serde(default)]
    vectors: Vec<String>,
    /// Reports in `docs/conformance/`, without `.json`.
    #[serde(default)]
    runs: Vec<String>,
    /// What the row asks and nothing named here shows.
    #[serde(default)]
    missing: String,
    /// Why the row is known not to hold.
    #[serde(default)]
    fails: String,
    /// Why there is nothing on the box that the row could be about.
    #[serde(default)]
    does_not_apply: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum State {
    Holds,
    InPart,
    DoesNotHold,
    NotTried,
    DoesNotApply,
}

impl Row {
    fn state(&self) -> State {
        if !self.does_not_apply.is_empty() {
            return State::DoesNotApply;
        }
        let named = !(self.tests.is_empty() && self.vectors.is_empty() && self.runs.is_empty());
        match (self.fails.is_empty(), named, self.missing.is_empty()) {
            (false, _, _) => State::DoesNotHold,
            (true, false, _) => State::NotTried,
            (true, true, true) => State::Holds,
            (true, true, false) => State::InPart,
        }
    }
}

impl State {
    fn words(self) -> &'static str {
        match self {
            Self::Holds => "holds",
            Self::InPart => "holds in part",
            Self::DoesNotHold => "**does not hold**",
            Self::NotTried => "not tried",
            Self::DoesNotApply => "does not apply",
        }
    }
}

/// What [`run`] does with the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Page {
    /// Writes it once everything named passes.
    Write,
    /// Writes it and runs nothing: `./hearth test conformance` has the last word.
    WriteUnseen,
    /// Runs everything named, and looks whether the page is up to date.
    Compare,
}

/// Runs everything that is named for a row and has not `passed` in this run already, and writes or compares the page.
pub(crate) fn run(page: Page, built: Option<&Vec<Executable>>, passed: &PassedTests) -> anyhow::Result<()> {
    let table = read_table(Path::new(TABLE))?;
    let runs = read_runs(Path::new(RUNS))?;
    for row in &table.row {
        let unknown = row.runs.iter().find(|name| !runs.contains_key(*name));
        ensure!(
            unknown.is_none(),
            "row {}: there is no {RUNS}/{}.json",
            row.number,
            unknown.map_or("", String::as_str)
        );
    }
    if page != Page::WriteUnseen {
        let fresh;
        let built = match built {
            Some(built) => built,
            None => {
                fresh = build_tests()?;
                &fresh
            }
        };
        run_named(&table, built, passed)?;
        check_vectors(&table)?;
    }
    let text = compose(&table, &runs);
    match page {
        Page::Write | Page::WriteUnseen => {
            std::fs::write(PAGE, text).with_context(|| format!("cannot write {PAGE}"))?;
            say::good(&format!("{PAGE} written"));
        }
        Page::Compare => {
            let have = std::fs::read_to_string(PAGE).unwrap_or_default();
            ensure!(have == text, "{PAGE} is not what {TABLE} and {RUNS} say: run ./hearth conformance");
        }
    }
    Ok(())
}

fn read_table(path: &Path) -> anyhow::Result<Table> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    parse_table(&text).with_context(|| path.display().to_string())
}

fn parse_table(text: &str) -> anyhow::Result<Table> {
    let table: Table = toml::from_str(text)?;
    let numbers: Vec<u64> = table.row.iter().map(|row| row.number).collect();
    ensure!(
        numbers == (1..=ROWS).collect::<Vec<_>>(),
        "the rows are not numbered 1 to {ROWS} in order: {numbers:?}"
    );
    Ok(table)
}

fn read_runs(dir: &Path) -> anyhow::Result<BTreeMap<String, Value>> {
    let mut runs = BTreeMap::new();
    let Ok(entries) = std::fs::read_dir(dir) else { return Ok(runs) };
    for path in entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|e| e == "json"))
    {
        let text =
            std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let report = serde_json::from_str(&text).with_context(|| path.display().to_string())?;
        runs.insert(path.file_stem().unwrap_or_default().to_string_lossy().into_owned(), report);
    }
    Ok(runs)
}

/// Finds each named test in its crate and runs it, if it has not passed in this run already.
fn run_named(table: &Table, built: &[Executable], earlier: &PassedTests) -> anyhow::Result<()> {
    let mut wanted: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for row in &table.row {
        for test in &row.tests {
            let (package, name) = test
                .split_once(": ")
                .with_context(|| format!("row {}: {test:?} is not `crate: test_function`", row.number))?;
            wanted.entry(package).or_default().insert(name);
        }
    }
    let mut passed = 0;
    for (package, names) in wanted {
        let mut left = names.clone();
        for executable in built.iter().filter(|executable| executable.package == package) {
            let list = Command::new(&executable.path).arg("--list").current_dir(&executable.dir).output()?;
            let list = String::from_utf8_lossy(&list.stdout).into_owned();
            let (done, here): (Vec<&str>, Vec<&str>) = list
                .lines()
                .filter_map(|line| line.strip_suffix(": test"))
                .filter(|path| names.contains(last_part(path)))
                .partition(|path| earlier.contains(&(executable.path.clone(), (*path).to_owned())));
            for path in &done {
                left.remove(last_part(path));
            }
            passed += done.len();
            if here.is_empty() {
                continue;
            }
            let output = Command::new(&executable.path)
                .arg("--exact")
                .args(&here)
                .current_dir(&executable.dir)
                .stdin(std::process::Stdio::null())
                .output()?;
            let said = String::from_utf8_lossy(&output.stdout);
            for path in here {
                let ok = said.lines().any(|line| line == format!("test {path} ... ok"));
                ensure!(ok, "{package}: {path}, named in {TABLE}, does not pass:\n{said}");
                left.remove(last_part(path));
                passed += 1;
            }
        }
        if let Some(missing) = left.first() {
            bail!("{TABLE} names {package}: {missing}, and there is no such test");
        }
    }
    say::detail(&format!("{passed} tests named for rows pass"));
    Ok(())
}

fn last_part(path: &str) -> &str {
    path.rsplit("::").next().unwrap_or(path)
}

fn check_vectors(table: &Table) -> anyhow::Result<()> {
    let dir =
        std::env::var_os("HEARTH_VECTORS").map_or_else(|| PathBuf::from("../shared/vectors"), PathBuf::from);
    let names: BTreeSet<&str> =
        table.row.iter().flat_map(|row| row.vectors.iter().map(String::as_str)).collect();
    let sets = hw_tests::vectors::sets();
    for name in names {
        let set = sets.iter().find(|set| set.name == name);
        let set = set.with_context(|| format!("{TABLE} names the vectors {name}, which nobody runs"))?;
        let folder = dir.join(name);
        if !folder.is_dir() {
            say::skipped(&format!("no vectors at {}; their rows are taken at their word", folder.display()));
            continue;
        }
        let report = (set.run)(&folder);
        ensure!(
            report.failed == 0 && report.passed > 0,
            "vectors {name}: {} passed, {} failed: {}",
            report.passed,
            report.failed,
            report.why.join("; ")
        );
    }
    Ok(())
}

/// The page.
fn compose(table: &Table, runs: &BTreeMap<String, Value>) -> String {
    let mut page = String::from(
        "# Obol: what holds\n\n\
         Written by `./hearth conformance` from `docs/conformance-obol.toml` and the reports in `docs/conformance/`; edit\n\
         those. A row holds when tests or measured runs are named for it, all of them pass, and nothing is said to be\n\
         missing. The named tests run in `./hearth test`; the measured runs need a Charon binary and are repeated by hand.\n\n",
    );
    let mut counts: BTreeMap<State, usize> = BTreeMap::new();
    for row in &table.row {
        *counts.entry(row.state()).or_default() += 1;
    }
    let summary: Vec<String> =
        counts.iter().map(|(state, count)| format!("{count} {}", state.words().trim_matches('*'))).collect();
    // Writing to a string cannot fail, here and below.
    let _ = writeln!(page, "Of {ROWS} rows: {}.\n", summary.join(", "));
    page.push_str(&measured(runs));
    page.push_str(&who_led(runs));
    page.push_str(&beside_charon(runs));
    if !table.finding.is_empty() {
        page.push_str("## What mixed clusters showed\n\n");
        for finding in &table.finding {
            let _ = writeln!(page, "- {} *{}*", finding.what, finding.state);
        }
        page.push('\n');
    }
    page.push_str("## The checklist\n\n");
    let mut part = "";
    for row in &table.row {
        if row.part != part {
            part = &row.part;
            let _ = writeln!(page, "\n### {part}\n\n| row | asks | state | shown by |\n|---|---|---|---|");
        }
        let mut shown: Vec<String> =
            row.tests.iter().map(|test| format!("`{}`", last_part(&test.replace(": ", "::")))).collect();
        shown.extend(row.vectors.iter().map(|set| format!("vectors `{set}`")));
        shown.extend(row.runs.iter().map(|run| format!("run `{run}`")));
        if !row.missing.is_empty() {
            shown.push(format!("**missing:** {}", row.missing));
        }
        if !row.fails.is_empty() {
            shown.push(format!("**fails:** {}", row.fails));
        }
        if !row.does_not_apply.is_empty() {
            shown.push(format!("**because** {}", row.does_not_apply));
        }
        let _ = writeln!(
            page,
            "| {} | {} | {} | {} |",
            row.number,
            row.what,
            row.state().words(),
            shown.join(", ")
        );
    }
    page
}

/// Tables of the measured runs.
fn measured(runs: &BTreeMap<String, Value>) -> String {
    let mut page = String::new();
    if runs.is_empty() {
        return page;
    }
    page.push_str(
        "## Measured: duties tried and succeeded, by mix\n\n\
         Tried is what the chain asked of the cluster's validators in the counted slots; succeeded is what canonical blocks\n\
         show, and for aggregates and contributions, whose author no block shows, what the beacon node accepted. A\n\
         proposal's randao reveal counts with the proposal, and of the proposals `proposer_blinded` are those that a block\n\
         builder was asked for, in runs that have one (`--builder`). `vc` is Hearth with Prysm's validator client, `charon` is Charon\n\
         with Prysm's validator client.\n\n",
    );
    let kinds: BTreeSet<&str> = runs
        .values()
        .flat_map(|run| run["duties"].as_object().into_iter().flatten())
        .map(|(kind, _)| kind.as_str())
        .filter(|kind| *kind != "randao")
        .collect();
    let header: Vec<&str> = kinds.iter().copied().collect();
    let _ = writeln!(page, "| run | mix | fork | slots | restarts | {} | empty slots |", header.join(" | "));
    let _ = writeln!(page, "|---|---|---|---|---|{}---|", "---|".repeat(kinds.len()));
    for (name, run) in runs {
        let cells: Vec<String> = kinds
            .iter()
            .map(|kind| {
                let number = |what: &str| run["duties"][*kind][what].as_u64();
                match (number("succeeded"), number("tried")) {
                    (Some(succeeded), Some(tried)) if tried > 0 => format!("{succeeded} of {tried}"),
                    _ => "–".to_owned(),
                }
            })
            .collect();
        let length = |what: &str| run[what].as_array().map_or(0, Vec::len);
        let _ = writeln!(
            page,
            "| `{name}` | {} | {} | {} of {} s | {} | {} | {} |",
            run["mix"].as_str().unwrap_or("?"),
            run["fork"].as_str().unwrap_or("?"),
            run["window"]["slots"],
            run["slot_seconds"],
            length("restarts"),
            cells.join(" | "),
            length("empty_slots"),
        );
    }
    page.push_str("\nThe commands, and the versions that ran:\n\n");
    for (name, run) in runs {
        let versions: Vec<String> = run["versions"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(program, version)| format!("{program} {}", version.as_str().unwrap_or("?")))
            .collect();
        let _ = writeln!(
            page,
            "- `{name}`: `{}` ({})",
            run["command"].as_str().unwrap_or("?"),
            versions.join(", ")
        );
    }
    page.push('\n');
    page
}

/// How many agreements each side led, from the runs whose Hearths counted them.
fn who_led(runs: &BTreeMap<String, Value>) -> String {
    let mut page = String::new();
    for (name, run) in runs {
        for (kind, leaders) in run["agreed"].as_object().into_iter().flatten() {
            let mut sides: BTreeMap<&str, u64> = run["members"]
                .as_object()
                .into_iter()
                .flatten()
                .filter_map(|(_, member)| member["kind"].as_str())
                .map(|side| (side, 0))
                .collect();
            for (leader, count) in leaders.as_object().into_iter().flatten() {
                let side = run["members"][leader]["kind"].as_str().unwrap_or("?");
                *sides.entry(side).or_default() += count.as_u64().unwrap_or(0);
            }
            if page.is_empty() {
                page.push_str(
                    "## Measured: agreements, by who led the round that decided\n\n\
                     As the Hearths of the run counted them. Info-sync is once in an epoch, and nothing is signed for it.\n\n\
                     | run | kind | led by |\n|---|---|---|\n",
                );
            }
            let sides: Vec<String> = sides.iter().map(|(side, count)| format!("{side} {count}")).collect();
            let _ = writeln!(page, "| `{name}` | {kind} | {} |", sides.join(", "));
        }
    }
    if !page.is_empty() {
        page.push('\n');
    }
    page
}

/// What whole processes cost beside Charon's, from the runs whose daemons were built with optimisation.
fn beside_charon(runs: &BTreeMap<String, Value>) -> String {
    let compared: Vec<(&String, &Value)> = runs
        .iter()
        .filter(|(_, run)| run["programs"] == "measured" && run["charon_over_hearth"].is_object())
        .collect();
    let mut page = String::new();
    if compared.is_empty() {
        return page;
    }
    page.push_str(
        "## Measured: whole processes beside Charon's\n\n\
         Members of one cluster on one machine, in one run: for a Hearth `dv-node` and its signer, for a Charon itself without\n\
         the validator client that signs for it. Above one, Hearth needs less.\n\n\
         | run | validators | CPU for each slot | memory | bytes sent to members | vote after a third of the slot, p50 | p90 |\n\
         |---|---|---|---|---|---|---|\n",
    );
    for (name, run) in compared {
        let of = |kind: &str, figure: &str| {
            let members = run["members"].as_object().into_iter().flatten();
            let figures: Vec<f64> = members
                .filter(|(_, member)| member["kind"] == kind)
                .filter_map(|(_, member)| member["usage"][figure].as_f64())
                .collect();
            let count = u32::try_from(figures.len()).unwrap_or(u32::MAX).max(1);
            figures.iter().sum::<f64>() / f64::from(count)
        };
        let cell = |figure: &str, unit: &str| {
            let (charon, hearth) = (of("charon", figure), of("hearth", figure));
            match run["charon_over_hearth"][figure].as_f64() {
                Some(ratio) => format!("**{ratio:.1}** ({charon:.0} : {hearth:.0} {unit})"),
                // A vote before the third of its slot has no ratio to one after it.
                None => format!("{charon:.0} : {hearth:.0} {unit}"),
            }
        };
        let _ = writeln!(
            page,
            "| `{name}` | {} | {} | {} | {} | {} | {} |",
            run["validators"],
            cell("cpu_ms_per_slot", "ms"),
            cell("rss_mib", "MiB"),
            cell("p2p_sent_kib_per_slot", "KiB"),
            cell("attested_ms_after_a_third_p50", "ms"),
            cell("attested_ms_after_a_third_p90", "ms"),
        );
    }
    page.push('\n');
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_this_repository_has_every_row_and_its_page_is_up_to_date() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let table = read_table(&root.join(TABLE)).unwrap();
        let runs = read_runs(&root.join(RUNS)).unwrap();
        let page = std::fs::read_to_string(root.join(PAGE)).unwrap();
        assert!(page == compose(&table, &runs), "run ./hearth conformance");
    }

    #[test]
    fn a_row_holds_only_by_what_is_named_for_it() {
        let row = |tests: &[&str], missing: &str, fails: &str| Row {
            tests: tests.iter().map(|test| (*test).to_owned()).collect(),
            missing: missing.to_owned(),
            fails: fails.to_owned(),
            ..Row::default()
        };
        let cases = [
            (row(&[], "", ""), State::NotTried),
            (row(&[], "all of it", ""), State::NotTried),
            (row(&["a: b"], "", ""), State::Holds),
            (row(&["a: b"], "a part", ""), State::InPart),
            (row(&["a: b"], "", "it is refused"), State::DoesNotHold),
            (
                Row { does_not_apply: "there is none".to_owned(), ..row(&["a: b"], "", "") },
                State::DoesNotApply,
            ),
        ];
        for (row, state) in cases {
            assert_eq!(row.state(), state, "{row:?}");
        }
    }

    #[test]
    fn a_table_with_a_row_left_out_is_refused() {
        let row = |number| format!("[[row]]\nnumber = {number}\npart = \"x\"\nwhat = \"y\"\n");
        let all: String = (1..=ROWS).map(row).collect();
        assert!(parse_table(&all).is_ok());
        let cut: String = (2..=ROWS).map(row).collect();
        assert!(parse_table(&cut).is_err());
        assert!(parse_table(&(all + "wrong = 1\n")).is_err());
    }
}
