//! The public repository's workflow files may run the words of `./hearth` and actions pinned by hash, and nothing else: what
//! passes there can be run by anybody, and nobody can change an action under our feet. What strangers write (titles, branch
//! names) never becomes a part of a command, and their changes never run with rights of the repository.

use std::fs;
use std::path::Path;

use anyhow::Context as _;

/// Sentences about every line that breaks the rule.
pub(crate) fn wrong(repository: &Path) -> anyhow::Result<Vec<String>> {
    let folder = repository.join(".github/workflows");
    let mut found = Vec::new();
    let entries = fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        found.extend(in_file(&text).into_iter().map(|(line, what)| format!("{name}:{line}: {what}")));
    }
    Ok(found)
}

fn in_file(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim_start().trim_start_matches("- ");
        if let Some(action) = line.strip_prefix("uses:") {
            let commit = action.split('#').next().and_then(|action| action.trim().split_once('@'));
            let pinned = commit.is_some_and(|(_, commit)| {
                commit.len() == 40 && commit.bytes().all(|byte| byte.is_ascii_hexdigit())
            });
            if !pinned {
                found.push((index + 1, format!("an action that is not pinned by its commit:{action}")));
            }
        } else if let Some(command) = line.strip_prefix("run:") {
            let plain = !command.contains(['|', ';', '&', '`', '>', '<']) && !command.contains("$(");
            if !command.trim().starts_with("./hearth ") || !plain {
                found.push((index + 1, format!("a command that is no word of ./hearth:{command}")));
            }
            if let Some(expression) = foreign_expression(command) {
                found.push((
                    index + 1,
                    format!("what a stranger may have written, in a command: {expression}"),
                ));
            }
        } else if ["pull_request_target", "workflow_run", "issue_comment"]
            .iter()
            .any(|event| line.contains(event))
        {
            found.push((
                index + 1,
                format!("an event that lets strangers start work with our rights: {line}"),
            ));
        } else if line.contains("write-all") || line.starts_with("shell:") {
            found.push((index + 1, format!("more rights, or another shell, than a step needs: {line}")));
        }
    }
    found
}

/// The first `${{ … }}` of a command that is more than a word of the file's own matrix. The forge puts the text in before the
/// shell reads the line, so a branch called `$(…)` would be run.
fn foreign_expression(command: &str) -> Option<&str> {
    command.split("${{").skip(1).find_map(|rest| {
        let expression = rest.split("}}").next().unwrap_or(rest).trim();
        let name = expression.strip_prefix("matrix.").unwrap_or_default();
        let own = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        (!own).then_some(expression)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pinned_actions_and_our_words_pass() {
        let good = "- uses: actions/checkout@11bd71901bbe5b1630ceea73d27597364c9af683 # v4.2.2\n- run: ./hearth test\n\
                    - run: ./hearth image --arch ${{ matrix.arch }}\n";
        assert!(in_file(good).is_empty());
        for bad in [
            "uses: actions/checkout@v4",
            "uses: actions/checkout",
            "- run: |",
            "run: curl example.org",
            "run: ./hearth test; true",
            "run: ./hearth test $(id)",
            "run: ./hearth image --arch ${{ github.event.pull_request.title }}",
            "run: ./hearth image --arch ${{matrix.arch}} ${{ github.head_ref }}",
            "run: ./hearth image --arch ${{ format('{0}', github.head_ref) }}",
            "run: ./hearth image --arch ${{ github.ref",
            "on: pull_request_target",
            "permissions: write-all",
            "shell: python",
        ] {
            assert_eq!(in_file(bad).len(), 1, "{bad}");
        }
    }

    #[test]
    fn our_own_files_keep_the_rule() {
        let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        assert_eq!(wrong(&repository).unwrap(), Vec::<String>::new());
    }
}
