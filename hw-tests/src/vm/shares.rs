//! Looks for key shares inside a booted dev image: in the memory of every process, in its files, in what its journal says.
//!
//! With what the image has: `dd`, `tr` and `grep`. The shell is told the shares in octal, so that what it was told is not what
//! is looked for.

use super::Guest;
use crate::secrets::Needles;

/// Where the lines that are looked for lie meanwhile: in memory, and nobody else's.
const LINES: &str = "/run/hearth-looked-for";
/// Bytes of lines in one command. A terminal takes 4,096 letters at once, and each byte is four.
const AT_ONCE: usize = 600;

/// What was looked at, and how many lines of a share were found in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Looked {
    /// A process with its name, or another place.
    pub place: String,
    /// Lines that hold a part of a share.
    pub found: u64,
}

/// Looks everywhere. Processes that ended meanwhile are left out.
///
/// # Errors
/// Those of the guest; a place that could not be looked at is there as one in which something was found.
pub fn look<G: Guest>(guest: &mut G, needles: &Needles) -> Result<Vec<Looked>, G::Error> {
    tell(guest, needles, LINES)?;
    let listed = guest.run(
        "for d in /proc/[0-9]*; do head -c 1 $d/maps 2>/dev/null | grep -q . && echo \"${d#/proc/} $(cat $d/comm)\"; done",
    )?;
    let mut looked = Vec::new();
    for line in listed.text.lines() {
        let Some((pid, name)) = line.trim().split_once(' ') else { continue };
        if let Some(found) = in_process(guest, pid, LINES)? {
            looked.push(Looked { place: name.to_owned(), found });
        }
    }
    let counted = counted(LINES);
    let files =
        format!("find /var /run /tmp -type f ! -path {LINES} -exec cat {{}} + 2>/dev/null | {counted}");
    let journal = format!("journalctl -o export --no-pager | {counted}");
    // Each counts, whatever is in it: there is to be none.
    let cores = "find /var /run /tmp -type f '(' -path '*/coredump/*' -o -name core -o -name 'core.[0-9]*' ')' | wc -l";
    let places = [
        ("the files in /var, /run and /tmp", files.as_str()),
        ("the journal", journal.as_str()),
        ("core files", cores),
    ];
    for (place, command) in places {
        let output = guest.run(command)?;
        looked.push(Looked { place: place.to_owned(), found: number(&output.text) });
    }
    guest.run(&format!("rm {LINES}"))?;
    Ok(looked)
}

/// Writes down in the guest what is looked for.
fn tell<G: Guest>(guest: &mut G, needles: &Needles, path: &str) -> Result<(), G::Error> {
    guest.run(&format!("umask 077; : >{path}"))?;
    let mut octal = String::new();
    let mut lines = needles.lines().into_iter().peekable();
    while let Some(line) = lines.next() {
        for byte in line.iter().chain(b"\n") {
            octal.push_str(&format!("\\{byte:03o}"));
        }
        if octal.len() > AT_ONCE * 4 || lines.peek().is_none() {
            // Not the shell's own, which would have the lines in its memory from then on.
            guest.run(&format!("env printf '{octal}' >>{path}"))?;
            octal.clear();
        }
    }
    Ok(())
}

/// How many lines of this process's own memory hold a part of a share; none when it has ended.
fn in_process<G: Guest>(guest: &mut G, pid: &str, lines: &str) -> Result<Option<u64>, G::Error> {
    let output = guest.run(&format!(
        "sed -n 's/^\\([0-9a-f]*\\)-\\([0-9a-f]*\\) rw.*/\\1 \\2/p' /proc/{pid}/maps 2>/dev/null | while read from to; do \
         dd if=/proc/{pid}/mem bs=1M iflag=skip_bytes,count_bytes,fullblock skip=$((0x$from)) count=$((0x$to - 0x$from)) \
         2>/dev/null; done | {}; [ -d /proc/{pid} ] || echo ended",
        counted(lines)
    ))?;
    Ok((!output.text.contains("ended")).then(|| number(&output.text)))
}

/// Counts the lines that hold one of ours.
fn counted(lines: &str) -> String {
    format!("tr '\\0' '\\n' | LC_ALL=C grep -acFf {lines}")
}

/// What cannot be read counts as a find.
fn number(text: &str) -> u64 {
    text.trim().parse().unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::process::{Command, Stdio};

    use threshold::SecretKey;

    use super::*;
    use crate::vm::Output;

    /// This machine in the guest's place.
    struct Here;

    impl Guest for Here {
        type Error = std::io::Error;

        fn run(&mut self, command: &str) -> Result<Output, Self::Error> {
            let output = Command::new("sh").arg("-c").arg(command).output()?;
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            Ok(Output { status: output.status.code().unwrap_or(-1), text })
        }
    }

    #[test]
    fn what_a_process_holds_is_found_with_nothing_but_the_tools_of_a_guest() {
        if !nix::unistd::geteuid().is_root() {
            println!("SKIPPED: only root may look into other processes");
            return;
        }
        let mut bytes = [0x42; 32];
        (bytes[0], bytes[5], bytes[9]) = (0x11, 0, b'\n');
        let needles = Needles::of(&[SecretKey::from_bytes(&bytes).unwrap()]);
        let dir = tempfile::tempdir().unwrap();
        let lines = dir.path().join("lines").display().to_string();
        tell(&mut Here, &needles, &lines).unwrap();
        for (planted, expected) in [(bytes.to_vec(), true), (vec![9; 32], false)] {
            // What `cat` has passed on is still in its buffer.
            let mut cat = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
            cat.stdin.as_mut().unwrap().write_all(&planted).unwrap();
            cat.stdout.as_mut().unwrap().read_exact(&mut [0; 32]).unwrap();
            let found = in_process(&mut Here, &cat.id().to_string(), &lines).unwrap();
            cat.kill().unwrap();
            cat.wait().unwrap();
            assert_eq!(found.map(|found| found > 0), Some(expected));
            assert_eq!(in_process(&mut Here, &cat.id().to_string(), &lines).unwrap(), None);
        }
    }
}
