//! Child processes that never outlive the run that started them.
//!
//! A test or `./hearth run` that is killed hard (`kill -9`, the OOM killer) runs no destructor, so tidying up in `Drop`
//! is not enough. Every child is therefore started through `setpriv --pdeathsig KILL` (util-linux), which makes the
//! kernel end it together with us. Rust could ask the kernel itself, but only with `unsafe`, which this workspace forbids.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How long [`Process::stop`] waits after SIGTERM before it uses SIGKILL.
const STOP_PATIENCE: Duration = Duration::from_secs(10);
/// How often a waiting call looks again.
pub(crate) const POLL: Duration = Duration::from_millis(25);

/// Why a child process could not be started or did not stay up.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// The log file of the child could not be made.
    #[error("cannot write the log {path}; check that the folder exists and the disk is not full")]
    Log {
        /// The log file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The kernel refused to start it.
    #[error("cannot start {name} ({program}); is it installed, and setpriv from util-linux too?")]
    Start {
        /// The name given by the caller.
        name: String,
        /// The program.
        program: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// It ended when it should have kept running.
    #[error("{name} ended by itself ({status}); the end of its log {log} says:\n{tail}")]
    Ended {
        /// The name given by the caller.
        name: String,
        /// Exit code or signal.
        status: ExitStatus,
        /// The log file.
        log: PathBuf,
        /// The last lines of it.
        tail: String,
    },
    /// It could not be signalled or waited for.
    #[error("cannot control {name}")]
    Control {
        /// The name given by the caller.
        name: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

/// What to start, and where its output goes.
#[derive(Debug)]
pub struct Launch {
    name: String,
    program: OsString,
    args: Vec<OsString>,
    envs: Vec<(OsString, OsString)>,
    dir: Option<PathBuf>,
    log: PathBuf,
    niceness: Option<i32>,
}

impl Launch {
    /// A child called `name` in messages; standard output and error are appended to `log`.
    pub fn new(name: impl Into<String>, program: impl AsRef<OsStr>, log: impl Into<PathBuf>) -> Self {
        Self {
            name: name.into(),
            program: program.as_ref().to_owned(),
            args: Vec::new(),
            envs: Vec::new(),
            dir: None,
            log: log.into(),
            niceness: None,
        }
    }

    /// Adds one argument.
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds several arguments.
    pub fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Sets one environment variable on top of ours.
    pub fn env(mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.envs.push((key.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Starts it in this folder.
    pub fn current_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.dir = Some(dir.into());
        self
    }

    /// Lowers its share of the processor, for whatever is allowed to be late.
    pub fn nice(mut self, niceness: i32) -> Self {
        self.niceness = Some(niceness);
        self
    }

    fn command(&self, output: File, errors: File) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]);
        // We may die after the fork and before the kernel was told; then the child has another parent already.
        command.args(["sh", "-c", r#"[ "$PPID" = "$0" ] && exec "$@""#]).arg(std::process::id().to_string());
        if let Some(niceness) = self.niceness {
            command.arg("nice").arg("-n").arg(niceness.to_string());
        }
        command.arg(&self.program).args(&self.args).envs(self.envs.iter().map(|(key, value)| (key, value)));
        if let Some(dir) = &self.dir {
            command.current_dir(dir);
        }
        command.stdin(Stdio::null()).stdout(output).stderr(errors);
        // A group of its own, so that Ctrl-C in a terminal reaches only us and we end the children in order.
        command.process_group(0);
        command
    }

    /// Starts it.
    ///
    /// # Errors
    /// When the log cannot be written or the program cannot be started.
    pub fn start(self) -> Result<Process, ProcessError> {
        let log_error = |source| ProcessError::Log { path: self.log.clone(), source };
        let output = File::options().create(true).append(true).open(&self.log).map_err(log_error)?;
        let errors = output.try_clone().map_err(log_error)?;
        let child = spawn_for_life(self.command(output, errors)).map_err(|source| ProcessError::Start {
            name: self.name.clone(),
            program: self.program.to_string_lossy().into_owned(),
            source,
        })?;
        Ok(Process { name: self.name, log: self.log, child })
    }
}

type SpawnRequest = (Command, mpsc::Sender<io::Result<Child>>);

/// Spawns on one thread that lives as long as this process.
///
/// The kernel's parent-death signal follows the *thread* that forked, so a child started from a short-lived thread (a
/// test, a thread pool) would be killed when that thread ends.
fn spawn_for_life(command: Command) -> io::Result<Child> {
    static SPAWNER: OnceLock<mpsc::Sender<SpawnRequest>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (requests, inbox) = mpsc::channel::<SpawnRequest>();
        std::thread::spawn(move || {
            for (mut command, reply) in inbox {
                // A caller that went away has no use for the child.
                if let Err(mpsc::SendError(Ok(mut orphan))) = reply.send(command.spawn()) {
                    let _ = orphan.kill();
                }
            }
        });
        requests
    });
    let gone = |_| io::Error::other("the thread that starts processes has ended");
    let (reply, answer) = mpsc::channel();
    spawner.clone().send((command, reply)).map_err(|_| gone(()))?;
    answer.recv().map_err(|_| gone(()))?
}

/// A running child. Dropping it stops it.
#[derive(Debug)]
pub struct Process {
    name: String,
    log: PathBuf,
    child: Child,
}

impl Process {
    /// The name given at launch.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The file that takes its output.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Fails with the end of the log when the child is not running any more.
    ///
    /// # Errors
    /// [`ProcessError::Ended`] when it has ended.
    pub fn check_alive(&mut self) -> Result<(), ProcessError> {
        match self.ended()? {
            None => Ok(()),
            Some(status) => Err(ProcessError::Ended {
                name: self.name.clone(),
                status,
                log: self.log.clone(),
                tail: log_tail(&self.log, 15),
            }),
        }
    }

    /// Its exit status, or `None` while it runs.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>, ProcessError> {
        self.child.try_wait().map_err(|source| ProcessError::Control { name: self.name.clone(), source })
    }

    /// Waits until it ends by itself, at most `patience`; `None` means it still runs.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub fn wait(&mut self, patience: Duration) -> Result<Option<ExitStatus>, ProcessError> {
        let deadline = Instant::now() + patience;
        loop {
            let status = self.ended()?;
            if status.is_some() || Instant::now() >= deadline {
                return Ok(status);
            }
            std::thread::sleep(POLL);
        }
    }

    /// Sends a signal. A child that has already ended is no error.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn signal(&mut self, signal: Signal) -> Result<(), ProcessError> {
        // Once the status is collected the number may belong to somebody else.
        if self.ended()?.is_some() {
            return Ok(());
        }
        let id = i32::try_from(self.child.id()).map_err(|_| ProcessError::Control {
            name: self.name.clone(),
            source: io::Error::other("its process id does not fit the kernel's type"),
        })?;
        kill(Pid::from_raw(id), signal)
            .map_err(|errno| ProcessError::Control { name: self.name.clone(), source: errno.into() })
    }

    /// Freezes it (SIGSTOP): its ports stay open and nobody answers, like a machine that hangs.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn pause(&mut self) -> Result<(), ProcessError> {
        self.signal(Signal::SIGSTOP)
    }

    /// Lets it go on (SIGCONT).
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn resume(&mut self) -> Result<(), ProcessError> {
        self.signal(Signal::SIGCONT)
    }

    /// Asks it to end (SIGTERM), and makes it end when it does not within ten seconds.
    ///
    /// # Errors
    /// When it cannot be signalled or waited for.
    pub fn stop(&mut self) -> Result<ExitStatus, ProcessError> {
        self.signal(Signal::SIGTERM)?;
        // A frozen child would never see the first signal.
        self.signal(Signal::SIGCONT)?;
        match self.wait(STOP_PATIENCE)? {
            Some(status) => Ok(status),
            None => self.kill(),
        }
    }

    /// Ends it at once (SIGKILL), as a crash or a power cut would.
    ///
    /// # Errors
    /// When it cannot be signalled or waited for.
    pub fn kill(&mut self) -> Result<ExitStatus, ProcessError> {
        let control = |source| ProcessError::Control { name: self.name.clone(), source };
        self.child.kill().map_err(control)?;
        self.child.wait().map_err(control)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Nobody is left to tell; the kernel ends the child with us in any case.
        let _ = self.stop();
    }
}

/// Runs a command to its end and returns what it printed, or fails with its last words.
///
/// # Errors
/// [`ProcessError`] when it cannot be started or does not end with exit code 0.
pub fn run(launch: Launch) -> Result<(), ProcessError> {
    let mut process = launch.start()?;
    let status = process
        .child
        .wait()
        .map_err(|source| ProcessError::Control { name: process.name.clone(), source })?;
    if status.success() {
        return Ok(());
    }
    Err(ProcessError::Ended {
        name: process.name.clone(),
        status,
        log: process.log.clone(),
        tail: log_tail(&process.log, 15),
    })
}

/// Looks every few milliseconds until `condition` holds, at most `patience`; whether it came to hold.
pub fn wait_until(patience: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + patience;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(POLL);
    }
}

/// The last lines of a log file, or a sentence saying why there are none.
pub fn log_tail(path: &Path, lines: usize) -> String {
    // Enough for the lines anybody reads; a log may be huge.
    const WINDOW: u64 = 16 * 1024;
    let read = || -> io::Result<String> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(WINDOW)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    match read() {
        Err(error) => format!("(the log cannot be read: {error})"),
        Ok(text) => {
            let all: Vec<&str> = text.lines().collect();
            all[all.len().saturating_sub(lines)..].join("\n")
        }
    }
}

/// Whether a status says that a signal ended the child.
pub fn ended_by(status: ExitStatus, signal: Signal) -> bool {
    status.signal() == Some(signal as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(dir: &Path, script: &str) -> Launch {
        Launch::new("shell", "sh", dir.join("log")).args(["-c", script])
    }

    #[test]
    fn a_child_that_fails_is_reported_with_the_end_of_its_log() {
        let dir = tempfile::tempdir().unwrap();
        let error = run(shell(dir.path(), "echo one; echo the disk is full >&2; exit 3")).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("shell ended by itself") && text.contains("the disk is full"), "{text}");
    }

    #[test]
    fn stop_ends_a_child_that_listens_and_one_that_is_frozen() {
        let dir = tempfile::tempdir().unwrap();
        for frozen in [false, true] {
            let mut child = shell(dir.path(), "exec sleep 1000").start().unwrap();
            child.check_alive().unwrap();
            if frozen {
                child.pause().unwrap();
            }
            assert!(ended_by(child.stop().unwrap(), Signal::SIGTERM));
            assert!(child.check_alive().is_err());
        }
    }

    #[test]
    fn a_child_survives_the_thread_that_asked_for_it() {
        let dir = tempfile::tempdir().unwrap();
        let launch = shell(dir.path(), "exec sleep 1000");
        let mut child = std::thread::spawn(move || launch.start().unwrap()).join().unwrap();
        assert_eq!(child.wait(Duration::from_millis(200)).unwrap(), None);
        child.stop().unwrap();
    }

    #[test]
    fn a_missing_program_fails_with_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let error = run(Launch::new("ghost", "/nowhere/ghost", dir.path().join("log"))).unwrap_err();
        assert!(error.to_string().contains("/nowhere/ghost"), "{error}");
    }
}
