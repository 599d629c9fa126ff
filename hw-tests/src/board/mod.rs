//! A real board, reached over its serial line: the same facts and restarts as a virtual box, from the same image.
//!
//! Needs a dev image made for the board (`./hearth image --board NAME`), flashed by hand, and a serial adapter. A board
//! has no virtio console, so the image's root shell shares the line with the kernel's and the journal's messages:
//! answers come in frames that tell them from those ([`frame`]). The tests of this runner drive QEMU through a
//! pseudo-terminal, which is all that a serial adapter is to this program.

mod frame;
mod line;
mod profile;

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

pub use line::{LineError, SerialLine};
pub use profile::{BoardArch, Profile, ProfileError};

use crate::process::POLL;
use crate::vm::checks::broken_facts;
use crate::vm::{EMERGENCY, Guest, Output, READY};

/// How often a greeting is repeated until the shell answers.
const GREETING_EVERY: Duration = Duration::from_secs(5);
/// How long one command may take, its answer's way over a slow line included.
const RUN_PATIENCE: Duration = Duration::from_secs(120);
/// How often an answer that arrived broken is asked for again.
const REPEATS: u32 = 6;

/// What can go wrong with a board.
#[derive(Debug, thiserror::Error)]
pub enum BoardError {
    /// The line cannot be used.
    #[error(transparent)]
    Line(#[from] LineError),
    /// It did not happen in time.
    #[error("{what} did not happen within {seconds} s; the line's log ({log}) ends with:\n{tail}")]
    Timeout {
        /// What was waited for.
        what: String,
        /// How long.
        seconds: u64,
        /// The log.
        log: PathBuf,
        /// Its end.
        tail: String,
    },
    /// The image gave up.
    #[error("the board failed to start and restarts itself; the line's log ({log}) ends with:\n{tail}")]
    Emergency {
        /// The log.
        log: PathBuf,
        /// Its end.
        tail: String,
    },
    /// An answer was garbled each time.
    #[error("the answer to `{command}` arrived broken every time: check the line's speed and its ground")]
    Garbled {
        /// The command.
        command: String,
    },
    /// A command in the board failed.
    #[error("`{command}` ended with status {status} on the board:\n{text}")]
    Command {
        /// The command.
        command: String,
        /// Its exit status.
        status: i32,
        /// What it printed.
        text: String,
    },
    /// The command that switches the board's power failed.
    #[error("the command that switches the power, `{command}`, failed")]
    Power {
        /// The command.
        command: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

/// A board on a serial line.
#[derive(Debug)]
pub struct Board {
    line: SerialLine,
    count: u32,
    shell: bool,
}

impl Board {
    /// Opens the line of a board, whose log is kept in `log`.
    ///
    /// # Errors
    /// When the device cannot be opened or set to that speed.
    pub fn open(device: &Path, baud: u32, log: &Path) -> Result<Self, BoardError> {
        Ok(Self { line: SerialLine::open(device, baud, log)?, count: 0, shell: false })
    }

    /// Waits until every daemon is up, as the journal's messages on the line tell.
    ///
    /// # Errors
    /// [`BoardError::Emergency`] when the image gives up, [`BoardError::Timeout`].
    pub fn wait_ready(&mut self, patience: Duration) -> Result<Duration, BoardError> {
        let start = Instant::now();
        while start.elapsed() < patience {
            if self.line.console().line_with(READY).is_some() {
                return Ok(start.elapsed());
            }
            if self.line.console().line_with(EMERGENCY).is_some() {
                return Err(BoardError::Emergency {
                    log: self.line.log().to_owned(),
                    tail: self.line.tail(),
                });
            }
            std::thread::sleep(POLL * 8);
        }
        Err(self.timeout("reaching hearth.target", patience))
    }

    /// Restarts the board in order; follow with [`Board::wait_ready`].
    ///
    /// # Errors
    /// When the shell does not answer.
    pub fn reboot(&mut self) -> Result<(), BoardError> {
        self.run("true")?;
        self.shell = false;
        self.line.mark();
        self.line.send("systemctl --no-block reboot\n")?;
        Ok(())
    }

    /// Cuts the board's power and gives it back, by a command that somebody made for their smart plug or relay.
    ///
    /// # Errors
    /// When the command fails.
    pub fn power_cycle(&mut self, command: &str) -> Result<(), BoardError> {
        let failed = |source| BoardError::Power { command: command.to_owned(), source };
        self.shell = false;
        self.line.mark();
        let status = Command::new("sh").args(["-c", command]).status().map_err(failed)?;
        if status.success() { Ok(()) } else { Err(failed(io::Error::other(status.to_string()))) }
    }

    /// Runs a command as root that must succeed; returns what it printed.
    ///
    /// # Errors
    /// Those of [`Guest::run`], and [`BoardError::Command`].
    pub fn expect(&mut self, command: &str) -> Result<String, BoardError> {
        match self.run(command)? {
            Output { status: 0, text } => Ok(text),
            Output { status, text } => Err(BoardError::Command { command: command.to_owned(), status, text }),
        }
    }

    /// Waits for the shell, and stops the kernel's and the terminal's own talk.
    fn greet(&mut self) -> Result<(), BoardError> {
        if self.shell {
            return Ok(());
        }
        let start = Instant::now();
        while start.elapsed() < RUN_PATIENCE {
            self.line.send("\nstty -echo -onlcr; dmesg -n 1; PS1=; PS2=; echo; echo hello-$((40+2))\n")?;
            let asked = Instant::now();
            while asked.elapsed() < GREETING_EVERY {
                if self.line.answers().line_with("hello-42").is_some() {
                    self.shell = true;
                    return Ok(());
                }
                std::thread::sleep(POLL);
            }
        }
        Err(self
            .timeout("an answer from the board's shell (only dev images for boards have one)", RUN_PATIENCE))
    }

    fn wait_frame(&mut self, count: u32, patience: Duration) -> Option<frame::Frame> {
        let start = Instant::now();
        while start.elapsed() < patience {
            let frame = frame::read(&self.line.answers().text(), count);
            if frame.is_some() {
                return frame;
            }
            std::thread::sleep(POLL);
        }
        None
    }

    fn timeout(&self, what: &str, patience: Duration) -> BoardError {
        BoardError::Timeout {
            what: what.to_owned(),
            seconds: patience.as_secs(),
            log: self.line.log().to_owned(),
            tail: self.line.tail(),
        }
    }
}

/// What a board did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// How long each start took, from the moment we began to watch.
    pub starts: Vec<Duration>,
    /// The facts that do not hold.
    pub broken: Vec<String>,
    /// Whether `/var` opened again with what had been written to it.
    pub kept: bool,
}

/// The tests of a virtual box, on a board that is switched on within `patience`: first start, facts, restart, and a power
/// cut when there is a command for it.
///
/// # Errors
/// When the board does not start or its shell does not answer.
pub fn prove(board: &mut Board, power: Option<&str>, patience: Duration) -> Result<Report, BoardError> {
    let mut starts = vec![board.wait_ready(patience)?];
    let broken = broken_facts(board)?;
    board.expect("echo kept >/var/lib/kept && sync -f /var")?;
    board.reboot()?;
    starts.push(board.wait_ready(patience)?);
    let mut kept = board.run("cat /var/lib/kept")?.text == "kept\n";
    if let Some(command) = power {
        board.power_cycle(command)?;
        starts.push(board.wait_ready(patience)?);
        kept &= board.run("cat /var/lib/kept")?.text == "kept\n";
    }
    Ok(Report { starts, broken, kept })
}

impl Guest for Board {
    type Error = BoardError;

    fn run(&mut self, command: &str) -> Result<Output, BoardError> {
        self.greet()?;
        self.count += 1;
        self.line.send(&frame::command(command, self.count))?;
        let mut patience = RUN_PATIENCE;
        for repeat in 0..REPEATS {
            self.line.forget_answers();
            if repeat > 0 {
                patience = GREETING_EVERY * 2;
            }
            self.line.send(&frame::tell(self.count))?;
            if let Some(frame) = self.wait_frame(self.count, patience)
                && let Some((status, text)) = frame.open()
            {
                return Ok(Output { status, text });
            }
        }
        Err(BoardError::Garbled { command: command.to_owned() })
    }
}
