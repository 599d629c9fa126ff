//! `./hearth image --verify`: two checkouts in different folders, at different times, must give the same bytes.
//!
//! The two share what is pinned by hash and no more: the tools tree, the fetched packages, the crates that cargo fetched.
//! Each compiles into a folder of its own, and no installed layer of another build is used.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};
use hw_tests::image::{Earlier, Image};
use serde_json::json;

use super::{Place, What, build, compare, image_of, programs, size};
use crate::{run, say};

/// Builds two checkouts and compares them.
pub(super) fn twice(what: &What, as_json: bool) -> anyhow::Result<()> {
    // Both before anything is built: what is changed here meanwhile is in neither.
    let [first, second] = ["first", SECOND].map(|name| place(name, what));
    let (first, second) = (first?, second?);
    let first_programs = programs(&first, what)?;
    // The first image is put together while the second checkout compiles: one waits for the disk where the other computes.
    let (first, second_programs) = std::thread::scope(|scope| {
        let image = scope.spawn(|| image_of(&first, what, first_programs, Earlier::Ignored));
        let programs = programs(&second, what);
        (image.join(), programs)
    });
    let first = first.map_err(|_| anyhow::anyhow!("building the first image broke off"))??;
    let second = image_of(&second, what, second_programs?, Earlier::Ignored)?;
    let identical = first.sha256 == second.sha256 && same_file(&first.compressed, &second.compressed)?;
    if !identical {
        explain(&first, &second)?;
    }
    if as_json {
        let result = json!({
            "identical": identical,
            "image_bytes": size(&first.raw)?,
            "compressed_bytes": size(&first.compressed)?,
            "sha256": first.sha256,
            "arch": what.arch.name(),
            "profile": what.profile.name(),
        });
        println!("{result}");
    }
    ensure!(identical, "two builds of one commit differ; what differs is listed above");
    say::good(&format!("two checkouts in different folders gave the same bytes: {}", first.sha256));
    Ok(())
}

/// Builds one more checkout and compares it with an image that is there.
pub(super) fn again(first: &Image, what: &What) -> anyhow::Result<()> {
    let second = build(&place(SECOND, what)?, what, Earlier::Ignored)?;
    if first.sha256 != second.sha256 {
        explain(first, &second)?;
        anyhow::bail!("two builds of one commit differ; what differs is listed above");
    }
    Ok(())
}

/// Paths of another length show what depends on where it was built.
const SECOND: &str = "second-with-a-longer-name";

/// A checkout in a folder of its own, and where what is made of it goes.
fn place(name: &str, what: &What) -> anyhow::Result<Place> {
    let dir = run::cache()?.join("verify").join(name);
    Ok(Place {
        repository: checkout(&dir.join("checkout"))?,
        target: dir.join("target"),
        out: Some(dir.join(format!("image-{}-{}", what.profile.name(), what.arch.name()))),
    })
}

/// What a release is built from: a fresh checkout of the commit, so that nothing that lies around here, or is put here while it
/// builds, is in what gets signed.
pub(super) fn of_commit() -> anyhow::Result<Place> {
    let changed = git(&run::repository(), &["status", "--porcelain", "--untracked-files=all"])?;
    ensure!(
        changed.trim().is_empty(),
        "a release is built from a commit, and these files are not committed:\n{changed}"
    );
    let dir = run::cache()?.join("release");
    Ok(Place { repository: checkout(&dir.join("checkout"))?, target: dir.join("target"), out: None })
}

/// A clean checkout: what is committed, and nothing that lies around. With changes that are not committed yet, these too.
fn checkout(dir: &Path) -> anyhow::Result<PathBuf> {
    let repository = run::repository();
    if dir.exists() {
        fs::remove_dir_all(dir).with_context(|| format!("cannot remove {}", dir.display()))?;
    }
    fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let changed = git(&repository, &["status", "--porcelain", "--untracked-files=all"])?;
    if changed.trim().is_empty() {
        // Nothing of this machine's settings changes a file on the way.
        let plain = [
            "-c",
            "core.autocrlf=false",
            "-c",
            "core.hooksPath=/dev/null",
            "-c",
            "core.attributesFile=/dev/null",
        ];
        let clone = ["clone", "--quiet", "--no-hardlinks", "--template=", ".", &dir.to_string_lossy()];
        git(&repository, &[&plain[..], &clone[..]].concat())?;
        return Ok(dir.to_owned());
    }
    say::note("not everything is committed: the checkouts hold the changes too");
    let files = git(&repository, &["ls-files", "-z", "--cached", "--others", "--exclude-standard"])?;
    for name in files.split('\0').filter(|name| !name.is_empty()) {
        let (from, to) = (repository.join(name), dir.join(name));
        let Ok(meta) = fs::symlink_metadata(&from) else { continue };
        if let Some(parent) = to.parent() {
            fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
        }
        if meta.is_symlink() {
            std::os::unix::fs::symlink(fs::read_link(&from)?, &to)
        } else {
            fs::copy(&from, &to).map(|_| ())
        }
        .with_context(|| format!("cannot write {}", to.display()))?;
    }
    Ok(dir.to_owned())
}

fn git(repository: &Path, arguments: &[&str]) -> anyhow::Result<String> {
    let output = Command::new("git")
        .current_dir(repository)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .context("cannot run git")?;
    ensure!(
        output.status.success(),
        "git {}: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn same_file(left: &Path, right: &Path) -> anyhow::Result<bool> {
    let status =
        Command::new("cmp").arg("--silent").args([left, right]).status().context("cannot run cmp")?;
    Ok(status.success())
}

fn explain(first: &Image, second: &Image) -> anyhow::Result<()> {
    let tools = run::cache()?.join("mkosi/tools");
    for line in compare::differences(&first.raw, &second.raw, &tools)? {
        say::failed(&line);
    }
    Ok(())
}
