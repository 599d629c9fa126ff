//! `./hearth bench`: what things cost here, as ratios within one run. docs/benchmarks.md says how to read them.

use std::process::Command;

use anyhow::Context as _;
use clap::ValueEnum;

use crate::say;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum What {
    /// From partial signatures to verified ones, in the distributed validator's node.
    Dv,
    /// What a flood in one cluster of a box costs another cluster of it.
    Isolation,
    /// How late results are on a busy machine, with and without processors of their own.
    Pinning,
    /// The real signer process with a software TPM: signatures with a durable ledger.
    Signer,
}

/// Builds the program that measures, with optimisation, and hands over standard output to it.
pub(crate) fn run(what: What, whole: bool, json: bool) -> anyhow::Result<()> {
    let (package, program) = match (what, whole) {
        (What::Dv, false) => ("dv-node", "combine"),
        (What::Dv, true) => ("dv-node", "whole"),
        (What::Isolation, false) => ("dv-node", "isolation"),
        (What::Pinning, false) => ("threshold", "pinning"),
        (What::Signer, false) => ("signer", "burst"),
        (What::Signer | What::Isolation | What::Pinning, true) => {
            anyhow::bail!("--whole belongs to `bench dv`")
        }
    };
    say::begin("building with optimisation (the first time takes some minutes)");
    let mut command = Command::new(env!("CARGO"));
    command.args([
        "bench",
        "--locked",
        "--quiet",
        "--profile",
        "measured",
        "-p",
        package,
        "--bench",
        program,
    ]);
    if json {
        command.args(["--", "--json"]);
    }
    let status = command.status().context("cannot run cargo")?;
    anyhow::ensure!(status.success(), "the benchmark failed");
    Ok(())
}
