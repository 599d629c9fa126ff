//! What a start costs: how long until the owner's page answers, what memory the system takes, and what was waited for.
//!
//! Each figure is printed as a line that begins with [`MEASURED`]; `./hearth test` shows those lines.

use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::{Guest, VmError, answers, client_hello};
use crate::process::POLL;

/// What a line with a figure for people begins with.
pub const MEASURED: &str = "MEASURED: ";

/// What the system may take without clients (issue 6, 8).
pub const MEMORY_GOAL_MB: u64 = 250;

/// Asks the owner's page until it answers, from the moment the box is switched on, while somebody else watches the box.
#[derive(Debug)]
pub struct PageWatch(JoinHandle<Option<Duration>>);

impl PageWatch {
    /// Begins to ask a forwarded port. Call it when the power comes on.
    ///
    /// # Errors
    /// When the first message of TLS cannot be made.
    pub fn begin(host_port: u16, patience: Duration) -> Result<Self, VmError> {
        let hello = client_hello()?;
        let begun = Instant::now();
        Ok(Self(std::thread::spawn(move || {
            while begun.elapsed() < patience {
                if answers(host_port, &hello) {
                    return Some(begun.elapsed());
                }
                std::thread::sleep(POLL * 8);
            }
            None
        })))
    }

    /// How long it took; `None` when it never answered.
    pub fn answered(self) -> Option<Duration> {
        self.0.join().ok().flatten()
    }
}

/// The memory that a box's system and its daemons take, in megabytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Memory {
    /// All that is not free and cannot be made free: the kernel's own part and every process.
    pub system: u64,
    /// What the kernel counts for each daemon, with the pages of files that only it has read.
    pub daemons: Vec<(String, u64)>,
}

/// Reads what memory a booted dev image takes.
///
/// # Errors
/// When the guest's shell does not answer.
pub fn memory<G: Guest>(guest: &mut G) -> Result<Memory, G::Error> {
    let text = guest.run("cat /proc/meminfo")?.text;
    let system = field(&text, "MemTotal").saturating_sub(field(&text, "MemAvailable")) >> 10;
    let mut daemons = Vec::new();
    for (slice, daemon) in [("dv", "signer"), ("dv", "dv-node"), ("system", "web"), ("system", "chrony")] {
        let path = format!("/sys/fs/cgroup/{slice}.slice/{daemon}.service/memory.current");
        let bytes: u64 = guest.run(&format!("cat {path}"))?.text.trim().parse().unwrap_or_default();
        daemons.push((daemon.to_owned(), bytes >> 20));
    }
    Ok(Memory { system, daemons })
}

/// What the start waited for, and how long each part of it took, in systemd's words.
///
/// # Errors
/// When the guest's shell does not answer.
pub fn waited_for<G: Guest>(guest: &mut G) -> Result<String, G::Error> {
    let times = guest.run("systemd-analyze --no-pager time")?.text;
    let chain = guest.run("systemd-analyze --no-pager critical-chain hearth.target")?.text;
    Ok(format!("{}\n{}", times.trim(), chain.trim()))
}

/// A number of kilobytes in /proc/meminfo.
fn field(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::Output;

    /// A guest that answers from a list.
    struct Says(Vec<(&'static str, &'static str)>);

    impl Guest for Says {
        type Error = ();

        fn run(&mut self, command: &str) -> Result<Output, ()> {
            let text = self.0.iter().find(|(part, _)| command.contains(part)).ok_or(())?.1;
            Ok(Output { status: 0, text: text.to_owned() })
        }
    }

    #[test]
    fn memory_is_what_is_not_available() {
        let mut guest = Says(vec![
            ("meminfo", "MemTotal:        1000448 kB\nMemFree:  3 kB\nMemAvailable:     795648 kB\n"),
            ("signer", "12582912\n"),
            ("dv-node", "31457280\n"),
            ("web", "0\n"),
            ("chrony", "cat: no such file\n"),
        ]);
        let memory = memory(&mut guest).unwrap();
        assert_eq!(memory.system, 200);
        assert_eq!(memory.daemons[0], ("signer".to_owned(), 12));
        assert_eq!(memory.daemons[1], ("dv-node".to_owned(), 30));
        assert_eq!(memory.daemons[3].1, 0);
    }
}
