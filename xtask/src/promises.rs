//! Every promise of the threat model names tests, and those tests are there.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

const PAGE: &str = "docs/threat-model.md";
/// How a row says that no test function shows it: not at all, or by a whole word of `./hearth` or the build itself.
const NO_FUNCTION: [&str; 3] = ["*not shown yet*", "`./hearth ", "each build"];

/// What is wrong with the page, one line each.
pub(crate) fn broken() -> anyhow::Result<Vec<String>> {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let page = fs::read_to_string(top.join(PAGE)).with_context(|| format!("cannot read {PAGE}"))?;
    let mut functions = BTreeSet::new();
    let mut folders: Vec<PathBuf> = ["firmware", "hw-tests", "xtask"].map(|name| top.join(name)).into();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text =
                    fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
                functions.extend(tests_in(&text).map(str::to_owned));
            }
        }
    }
    Ok(judge(&page, &functions))
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

fn judge(page: &str, tests: &BTreeSet<String>) -> Vec<String> {
    let mut broken = Vec::new();
    for (number, line) in page.lines().enumerate().map(|(number, line)| (number + 1, line.trim())) {
        let Some(row) = line.strip_prefix('|') else { continue };
        let cells: Vec<&str> = row.trim_end_matches('|').split('|').collect();
        let (Some(promise), Some(shown_by)) = (cells.first(), cells.get(2)) else {
            broken.push(format!("{PAGE}:{number} has not three columns"));
            continue;
        };
        if promise.trim() == "Promise" || promise.starts_with("---") {
            continue;
        }
        let names: Vec<&str> = shown_by.split('`').skip(1).step_by(2).collect();
        let names = names.into_iter().filter(|name| is_name(name));
        let (known, unknown): (Vec<&str>, Vec<&str>) = names.partition(|name| tests.contains(*name));
        broken.extend(unknown.iter().map(|name| format!("{PAGE}:{number} names {name}, which is no test")));
        if known.is_empty() && !NO_FUNCTION.iter().any(|words| shown_by.contains(words)) {
            broken.push(format!("{PAGE}:{number} promises without a test:{promise}"));
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

    #[test]
    fn a_promise_needs_a_test_that_is_there() {
        let tests = BTreeSet::from(["it_holds".to_owned()]);
        let page = "| Promise | Mechanism | Test |\n|---|---|---|\n| A | b | `it_holds`, see `x.rs` |\n\
                    | B | c | `it_held` |\n| C | d | by hand |\n| D | e | *not shown yet* |\n| E | f |\n";
        let broken = judge(page, &tests);
        assert_eq!(broken.len(), 4, "{broken:?}");
        for (at, word) in ["4 names it_held", "4 promises", "5 promises", "7 has not"].iter().enumerate() {
            assert!(broken[at].contains(word), "{broken:?}");
        }
    }

    #[test]
    fn tests_are_told_from_other_functions() {
        let text = "fn helper() {}\n#[test]\n#[should_panic]\nfn first() {}\nfn other() {}\n\
                    #[tokio::test(flavor = \"multi_thread\")]\nasync fn second() {}\n";
        assert_eq!(tests_in(text).collect::<Vec<_>>(), ["first", "second"]);
    }

    #[test]
    fn the_page_keeps_its_promises() {
        assert_eq!(broken().unwrap(), [""; 0]);
    }
}
