//! Every promise of the threat model and every finding of others' audits names tests, those tests are there, and what
//! `./hearth test` alone does not run is said.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

/// The pages, and what the first column of each page's tables is called.
const PAGES: [(&str, &str); 2] = [("docs/threat-model.md", "Promise"), ("docs/audits.md", "Finding")];
/// How a row says that no test function shows it: not at all, by a whole word of `./hearth` or the build itself, or because
/// there is nothing here that it could be about.
const NO_FUNCTION: [&str; 4] = ["*not shown yet*", "`./hearth ", "each build", "*does not apply*"];

/// The tests in these files of `hw-tests/tests` run only when their part of `./hearth test` is named.
const ON_DEMAND: [(&str, &str); 4] = [
    ("edited_cluster", "edited-cluster"),
    ("image_boots_arm64", "image-arm64"),
    ("image_more", "image-more"),
    ("power_cuts", "power-cuts"),
];

/// Every test there is, and the part that has to be named for it; none for those that always run.
type Tests = BTreeMap<String, Option<&'static str>>;

/// What is wrong with the pages, one line each.
pub(crate) fn broken() -> anyhow::Result<Vec<String>> {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut functions = Tests::new();
    let mut folders: Vec<PathBuf> = ["firmware", "hw-tests", "xtask"].map(|name| top.join(name)).into();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text =
                    fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
                let part = part_of(&path);
                for name in tests_in(&text) {
                    // One of two with the same name that always runs is enough.
                    let known = functions.entry(name.to_owned()).or_insert(part);
                    *known = known.and(part);
                }
            }
        }
    }
    let mut broken = Vec::new();
    for (name, first_column) in PAGES {
        let text = fs::read_to_string(top.join(name)).with_context(|| format!("cannot read {name}"))?;
        broken.extend(judge(&Page { name, first_column, text: &text }, &functions));
    }
    Ok(broken)
}

/// One page with tables of three columns, the last of which names tests.
struct Page<'a> {
    name: &'a str,
    first_column: &'a str,
    text: &'a str,
}

/// The part that has to be named for the tests in a file, if one has to be.
fn part_of(path: &Path) -> Option<&'static str> {
    let is_there = path.parent().is_some_and(|folder| folder.ends_with("hw-tests/tests"));
    let stem = path.file_stem().filter(|_| is_there)?;
    ON_DEMAND.iter().find(|(file, _)| stem == *file).map(|(_, part)| *part)
}

/// The names of all functions that come right after a line that makes them a test.
fn tests_in(text: &str) -> impl Iterator<Item = &str> {
    let mut is_test = false;
    text.lines().filter_map(move |line| {
        let line = line.trim();
        if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
            is_test = true;
            return None;
        }
        let signature = line.strip_prefix("async ").unwrap_or(line).strip_prefix("fn ")?;
        std::mem::take(&mut is_test).then(|| signature.split(['(', '<']).next()).flatten()
    })
}

fn judge(page: &Page<'_>, tests: &Tests) -> Vec<String> {
    let Page { name: page, first_column, text } = *page;
    let mut broken = Vec::new();
    for (number, line) in text.lines().enumerate().map(|(number, line)| (number + 1, line.trim())) {
        let Some(row) = line.strip_prefix('|') else { continue };
        let cells: Vec<&str> = row.trim_end_matches('|').split('|').collect();
        let (Some(promise), Some(shown_by)) = (cells.first(), cells.get(2)) else {
            broken.push(format!("{page}:{number} has not three columns"));
            continue;
        };
        if promise.trim() == first_column || promise.starts_with("---") {
            continue;
        }
        let names: Vec<&str> = shown_by.split('`').skip(1).step_by(2).collect();
        let names = names.into_iter().filter(|name| is_name(name));
        let (known, unknown): (Vec<&str>, Vec<&str>) = names.partition(|name| tests.contains_key(*name));
        broken.extend(unknown.iter().map(|name| format!("{page}:{number} names {name}, which is no test")));
        for name in &known {
            let part = tests.get(*name).copied().flatten();
            if let Some(part) = part.filter(|part| !shown_by.contains(&format!("`./hearth test {part}`"))) {
                broken.push(format!(
                    "{page}:{number} names {name}, which runs only in `./hearth test {part}`: say so there"
                ));
            }
        }
        if known.is_empty() && !NO_FUNCTION.iter().any(|words| shown_by.contains(words)) {
            broken.push(format!("{page}:{number} promises without a test:{promise}"));
        }
    }
    broken
}

/// Programs and files are named in backticks too; a test's name is several words.
fn is_name(text: &str) -> bool {
    text.contains('_') && text.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(text: &str, tests: &Tests) -> Vec<String> {
        judge(&Page { name: "page.md", first_column: "Promise", text }, tests)
    }

    #[test]
    fn a_promise_needs_a_test_that_is_there() {
        let tests = Tests::from([("it_holds".to_owned(), None)]);
        let page = "| Promise | Mechanism | Test |\n|---|---|---|\n| A | b | `it_holds`, see `x.rs` |\n\
                    | B | c | `it_held` |\n| C | d | by hand |\n| D | e | *not shown yet* |\n| E | f |\n";
        let broken = judged(page, &tests);
        assert_eq!(broken.len(), 4, "{broken:?}");
        for (at, word) in ["4 names it_held", "4 promises", "5 promises", "7 has not"].iter().enumerate() {
            assert!(broken[at].contains(word), "{broken:?}");
        }
    }

    #[test]
    fn a_test_that_runs_only_when_it_is_asked_for_is_said_to() {
        let tests = Tests::from([("it_boots".to_owned(), Some("image-more"))]);
        let row = |shown_by: &str| judged(&format!("| A | b | {shown_by} |"), &tests);
        assert_eq!(row("`it_boots`; `./hearth test image-more`"), [""; 0]);
        for silent in ["`it_boots`", "`it_boots`; `./hearth test image`"] {
            let broken = row(silent);
            assert!(broken.len() == 1 && broken[0].contains("only in"), "{broken:?}");
        }
        for (path, part) in [
            ("/x/hw-tests/tests/image_more.rs", Some("image-more")),
            ("/x/hw-tests/tests/image_boots.rs", None),
            ("/x/firmware/a/src/image_more.rs", None),
        ] {
            assert_eq!(part_of(Path::new(path)), part, "{path}");
        }
    }

    #[test]
    fn tests_are_told_from_other_functions() {
        let text = "fn helper() {}\n#[test]\n#[should_panic]\nfn first() {}\nfn other() {}\n\
                    #[tokio::test(flavor = \"multi_thread\")]\nasync fn second() {}\n";
        assert_eq!(tests_in(text).collect::<Vec<_>>(), ["first", "second"]);
    }

    #[test]
    fn the_pages_keep_their_promises() {
        assert_eq!(broken().unwrap(), [""; 0]);
    }
}
