//! `./hearth board`: the image's tests on a real board, over its serial line.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use hw_tests::board::{self, Board};

use crate::{called_from, run, say};

/// How long a person has to press the button, and the board to start.
const PATIENCE: Duration = Duration::from_secs(900);

/// Which board, and how it is reached.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// A kind of board: a file of image/boards, without ".toml".
    name: String,
    /// The serial adapter.
    #[arg(long, value_name = "DEVICE", value_parser = called_from::path)]
    line: PathBuf,
    /// A command that cuts the board's power and gives it back (a smart plug, a relay). Without it no power is cut.
    #[arg(long, value_name = "COMMAND")]
    power: Option<String>,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let profile = board::Profile::read(&run::repository(), &arguments.name)?;
    let baud = profile.baud().context("the profile names no speed")?;
    let log = run::cache()?.join("boards").join(format!("{}.log", arguments.name));
    std::fs::create_dir_all(log.parent().unwrap_or(&log)).context("cannot make the folder of logs")?;
    let mut board = Board::open(&arguments.line, baud, &log)?;
    say::begin(&format!(
        "{}: switch it on now, with `./hearth image --board {}` on its disk",
        profile.name, arguments.name
    ));
    say::detail(&format!("serial pins: {}", profile.pins));
    say::detail(&format!("everything it says is kept in {}", log.display()));
    let report = board::prove(&mut board, arguments.power.as_deref(), PATIENCE)?;
    for start in &report.starts {
        say::detail(&format!("started in {}", say::seconds(*start)));
    }
    for fact in &report.broken {
        say::failed(fact);
    }
    if arguments.power.is_none() {
        say::note("no power was cut: give --power a command that does it");
    }
    ensure!(report.kept, "/var did not open again with what was written to it");
    ensure!(report.broken.is_empty(), "{} facts do not hold on this board", report.broken.len());
    say::good(&format!("{} does what a virtual box does", profile.name));
    Ok(())
}
