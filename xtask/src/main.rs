//! The one door for tools, behind `./hearth`: every word a person or a build machine types ends here.
//!
//! It starts, watches and reports; what it starts lives in `hw-tests` and in the rooms. It never runs on the box.

mod arrows;
mod bench;
mod board;
mod called_from;
mod conformance;
mod flash;
mod fuzz;
mod image;
mod promises;
mod run;
mod say;
mod test;
mod workflows;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Hearth: firmware for a plug-and-play Ethereum staking box.
#[derive(Parser)]
#[command(name = "hearth", version, disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    word: Option<Word>,
}

#[derive(Subcommand)]
enum Word {
    /// Boot a box beside a local chain and three other members, and show its page.
    Run(run::Arguments),
    /// Run everything that must pass, or one part of it.
    Test {
        /// The part; all of them when left out.
        part: Option<test::Part>,
    },
    /// Run the conformance suite on a folder laid out like ../shared/vectors.
    Vectors {
        /// The folder.
        #[arg(value_parser = called_from::path)]
        dir: PathBuf,
        /// One JSON object a line.
        #[arg(long)]
        json: bool,
    },
    /// Measure what things cost here.
    Bench {
        /// What.
        #[arg(value_enum)]
        what: bench::What,
        /// Whole processes instead of the combining alone (`dv` only).
        #[arg(long)]
        whole: bool,
        /// The result as JSON in the last line of standard output.
        #[arg(long)]
        json: bool,
    },
    /// Feed the parsers of outside bytes whatever a fuzzer thinks of.
    Fuzz(fuzz::Arguments),
    /// Check the Obol checklist against the tests named for each row, and write docs/conformance-obol.md.
    Conformance {
        /// Only write the page; ./hearth test conformance runs the tests.
        #[arg(long)]
        no_tests: bool,
    },
    /// Build the OS image, or show that building it again gives the same bytes.
    Image(image::Arguments),
    /// Run the image's tests on a real board over its serial line.
    Board(board::Arguments),
    /// Write an image to a disk, and read it back.
    Flash(flash::Arguments),
    /// Say what each word does.
    Help,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match arguments.word.unwrap_or(Word::Help) {
        Word::Run(arguments) => run::run(&arguments),
        Word::Test { part } => test::run(part),
        Word::Vectors { dir, json } => vectors(&dir, json),
        Word::Bench { what, whole, json } => bench::run(what, whole, json),
        Word::Fuzz(arguments) => fuzz::run(&arguments),
        Word::Conformance { no_tests: false } => {
            conformance::run(conformance::Page::Write, None, &test::PassedTests::new())
        }
        Word::Conformance { no_tests: true } => {
            conformance::run(conformance::Page::WriteUnseen, None, &test::PassedTests::new())
        }
        Word::Image(arguments) => image::run(&arguments),
        Word::Board(arguments) => board::run(&arguments),
        Word::Flash(arguments) => flash::run(&arguments),
        Word::Help => {
            help();
            Ok(())
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say::failed(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn vectors(dir: &std::path::Path, json: bool) -> anyhow::Result<()> {
    use hw_tests::vectors::Format;
    anyhow::ensure!(
        dir.is_dir(),
        "there is no folder {}; give one laid out like ../shared/vectors",
        dir.display()
    );
    let totals = hw_tests::vectors::run(dir, if json { Format::Json } else { Format::Text });
    anyhow::ensure!(totals.failed == 0, "{} conformance cases failed", totals.failed);
    if totals.passed == 0 {
        say::note(&format!("no conformance case ran; is {} laid out like ../shared/vectors?", dir.display()));
    }
    Ok(())
}

fn help() {
    println!(
        "Hearth: firmware for a plug-and-play Ethereum staking box.

  ./hearth run             boot a box in QEMU beside a local chain and three other members; prints the page's address
      --fast               no image: the box is a native process too
      --check              unattended: ends as soon as the chain holds an attestation that needed the box
      --json               the result as JSON on standard output
      --fork fulu          Fulu with epochs of 32 slots (default: Electra with epochs of 8)
      --slot-seconds N     instead of the measured slot time
      --members N          members of the cluster (default 4), with --threshold N and --validators N
      --member N=KIND      what member N is: charon:PATH, vc (Hearth with Prysm's validator client) or hearth
      --slots S            count what the chain asks of the cluster in S slots, and what was done; --report FILE as JSON
      --builder            a block builder beside the beacon node, and a cluster that takes its offers (docs/devnet.md)
      --exits N            with --slots: in the end the members' owners let N validators leave
      --restart-members    with --slots: kill members in turn and start them again
  ./hearth test [PART]     everything that must pass, or one part: lint unit vectors sim conformance units
                           fast image e2e; only when named:
                           image-arm64 image-more power-cuts same-bytes edited-cluster fulu
  ./hearth vectors DIR     the conformance suite on a folder of test vectors   [--json]
  ./hearth bench WHAT      what things cost here: dv, isolation, pinning or signer   [--json]
      --whole              whole processes and the time they add to a duty (dv)
  ./hearth fuzz [TARGET]   let a fuzzer try every parser of outside bytes   [--minutes M] [--json] [--page]
  ./hearth conformance     the Obol checklist against its tests; writes docs/conformance-obol.md
  ./hearth image           build the OS image   [--arch x86-64|arm64] [--profile dev|release]
      --board NAME         a dev image for a kind of board of image/boards, watched over its serial port
      --keys DIR           what signs a release: sb.key sb.crt pcr.key pcr.crt sums.key
      --verify             build it twice, from clean checkouts in different folders, and compare every byte   [--json]
      --expect SHA256SUMS  fail unless another machine's build gave the same
      --lock               write the list of distribution packages anew, from what the mirror has today
  ./hearth flash DISK      write an image to a disk, and read it back   [--image FILE.img.zst --signed-by KEY] [--yes]
  ./hearth board NAME      the image's tests on a real board   --line /dev/ttyUSB0
      --power COMMAND      cuts the board's power and gives it back"
    );
}
