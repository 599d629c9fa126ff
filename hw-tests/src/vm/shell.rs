//! The root shell that a dev image opens on its virtio console.
//!
//! A command goes in between two marks that the shell itself computes, so that an echo of what was typed is never taken
//! for an answer.

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use super::serial::plain;

/// How long one read may block before deadlines are looked at again.
const SLICE: Duration = Duration::from_millis(200);
/// After how long an unanswered greeting is repeated: the shell may not have been started yet.
const GREETING_EVERY: Duration = Duration::from_secs(3);

/// The end of one finished command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Its exit status.
    pub status: i32,
    /// What it printed, both streams.
    pub text: String,
}

#[derive(Debug)]
pub(crate) struct Shell {
    stream: UnixStream,
    count: u32,
}

impl Shell {
    /// Connects and waits for the shell to answer.
    pub(crate) fn open(socket: &Path, patience: Duration) -> io::Result<Self> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(SLICE))?;
        let mut shell = Self { stream, count: 0 };
        let deadline = Instant::now() + patience;
        while Instant::now() < deadline {
            // A plain shell that neither echoes nor prompts, whatever shell was started.
            shell.stream.write_all(b"\nexec env TERM=dumb SYSTEMD_COLORS=0 SYSTEMD_PAGER= PS1= PS2= sh\n")?;
            shell.stream.write_all(b"stty -echo; echo hello-$((40+2))\n")?;
            if shell.read_until("hello-42\n", Instant::now() + GREETING_EVERY)?.is_some() {
                // Answers to repeated greetings, if there were any.
                shell.run("true", Duration::from_secs(20))?;
                return Ok(shell);
            }
        }
        Err(io::Error::new(io::ErrorKind::TimedOut, "the guest's shell does not answer"))
    }

    pub(crate) fn run(&mut self, command: &str, patience: Duration) -> io::Result<Output> {
        self.count += 1;
        let count = self.count;
        let begin = format!("begin-{count}-42\n");
        let end = format!("end-{count}-42:");
        write!(
            self.stream,
            "echo begin-{count}-$((40+2)); {{\n{command}\n}} 2>&1 </dev/null; echo \"end-{count}-$((40+2)):$?:\"\n"
        )?;
        let text = self.read_until(&end, Instant::now() + patience)?.ok_or_else(|| {
            io::Error::new(io::ErrorKind::TimedOut, format!("`{command}` did not end in time"))
        })?;
        let rest = self
            .read_until(":\n", Instant::now() + SLICE * 10)?
            .ok_or_else(|| io::Error::new(io::ErrorKind::TimedOut, "the exit status did not arrive"))?;
        let text = text.split_once(&begin).map_or(text.as_str(), |(_, after)| after).to_owned();
        let status =
            rest.trim().parse().map_err(|_| io::Error::other(format!("odd exit status {rest:?}")))?;
        Ok(Output { status, text })
    }

    /// Asks for something that ends the shell, and does not wait.
    pub(crate) fn send(&mut self, command: &str) -> io::Result<()> {
        writeln!(self.stream, "{command}")
    }

    /// What comes before `mark`, or nothing when it does not come in time.
    fn read_until(&mut self, mark: &str, deadline: Instant) -> io::Result<Option<String>> {
        let mut bytes = Vec::new();
        let mut byte = [0_u8; 1];
        while Instant::now() < deadline {
            match self.stream.read(&mut byte) {
                Ok(0) => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the guest is gone")),
                Ok(_) => bytes.extend_from_slice(&byte),
                Err(error) if is_timeout(&error) => continue,
                Err(error) => return Err(error),
            }
            if byte == *b"\n" || byte == *b":" {
                let text = plain(&String::from_utf8_lossy(&bytes));
                if let Some(before) = text.strip_suffix(mark) {
                    return Ok(Some(before.to_owned()));
                }
            }
        }
        Ok(None)
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted)
}
