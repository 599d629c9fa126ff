//! What the person before the screen is told and asked. Pure: what they typed goes in, what they read comes out.

use std::io::{self, BufRead, Read as _, Write};
use std::path::Path;

use crate::disk::Candidate;

/// An answer is a number or a word; more of a line than this is not looked at.
const LONGEST_ANSWER: u64 = 256;

/// What a person types when a disk may be overwritten, here and at `./hearth flash`.
pub const WORD: &str = "ERASE";

/// What a person is asked before anything is written: which disk it is, what is lost with it, and for the word.
pub fn question(description: &str, contents: &str) -> String {
    format!("{description}. {contents}\nEverything on it will be lost. Type {WORD} to go on: ")
}

/// A disk that nobody else can use from now on.
#[derive(Debug)]
pub struct Taken<D> {
    /// The disk.
    pub disk: D,
    /// What it is, and how large, as it is now.
    pub description: String,
    /// What is lost with it.
    pub contents: String,
}

/// The disks of a machine.
pub trait Machine {
    /// A disk that may be written to.
    type Disk;

    /// What can be overwritten, and what cannot and why.
    fn disks(&mut self) -> (Vec<Candidate>, Vec<String>);

    /// Takes a disk, so that what the person agrees to is what will be written.
    ///
    /// # Errors
    /// With the reason, for a person.
    fn take(&mut self, device: &Path) -> anyhow::Result<Taken<Self::Disk>>;

    /// Writes the system and reads it back.
    ///
    /// # Errors
    /// With the reason, for a person.
    fn install(&mut self, disk: Self::Disk, told: &mut dyn FnMut(&str, u64, u64)) -> anyhow::Result<()>;

    /// Returns when the stick is no longer in the machine.
    fn wait_until_stick_is_out(&mut self);
}

/// Asks until the system is on a disk, or nobody answers any more. Says whether it is.
///
/// # Errors
/// When the screen or the keyboard is gone.
pub fn talk(input: &mut impl BufRead, out: &mut impl Write, machine: &mut impl Machine) -> io::Result<bool> {
    writeln!(out, "\nThis writes Hearth to a disk of this machine. Everything on that disk will be lost.")?;
    writeln!(out, "To leave things as they are, switch the machine off.")?;
    loop {
        let (disks, refused) = machine.disks();
        writeln!(out, "\nDisks of this machine:")?;
        for (number, disk) in disks.iter().enumerate() {
            writeln!(out, "  {}  {}", number + 1, disk.description)?;
        }
        for reason in refused {
            writeln!(out, "  -  {reason}")?;
        }
        if disks.is_empty() {
            writeln!(out, "None that Hearth can be written to.")?;
        }
        write!(out, "Number of the disk (only Enter looks for disks again): ")?;
        out.flush()?;
        let Some(answer) = answer(input)? else { return Ok(false) };
        let chosen = answer.parse::<usize>().ok().and_then(|number| disks.get(number.checked_sub(1)?));
        let Some(chosen) = chosen else { continue };
        let Taken { disk, description, contents } = match machine.take(&chosen.device) {
            Ok(taken) => taken,
            Err(error) => {
                writeln!(out, "Nothing was written: {error:#}")?;
                continue;
            }
        };
        write!(out, "\n{}", question(&description, &contents))?;
        out.flush()?;
        match self::answer(input)?.as_deref() {
            Some(WORD) => {}
            Some(_) => {
                writeln!(out, "Nothing was written.")?;
                continue;
            }
            None => return Ok(false),
        }
        // What cannot be shown is not worth stopping for.
        let mut told = |what: &str, done: u64, all: u64| {
            let _ = writeln!(out, "{what} {:3} % of {} MB", done * 100 / all.max(1), all / 1_000_000);
        };
        match machine.install(disk, &mut told) {
            Ok(()) => {
                writeln!(out, "\nHearth is on {description}: written, read back, and every byte is right.")?;
                // A stick that stays in could be taken for the disk at the next start.
                writeln!(out, "Pull the stick out now: the machine then switches itself off.")?;
                out.flush()?;
                machine.wait_until_stick_is_out();
                return Ok(true);
            }
            Err(error) => writeln!(out, "Hearth could not be written to {description}: {error:#}")?,
        }
    }
}

/// One line without the blanks around it; `None` when nobody will ever answer.
fn answer(input: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut line = Vec::new();
    if input.by_ref().take(LONGEST_ANSWER).read_until(b'\n', &mut line)? == 0 {
        return Ok(None);
    }
    Ok(Some(String::from_utf8_lossy(&line).trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two disks, of which the second cannot be taken; and what was written.
    #[derive(Default)]
    struct Two {
        written: Vec<String>,
        fails: bool,
        waited: bool,
    }

    fn disk(name: &str) -> Candidate {
        let description = format!("/dev/{name} (Disk {name}, 64 GB)");
        Candidate { device: Path::new("/dev").join(name), description, bytes: 64 << 30, usb: false }
    }

    impl Machine for Two {
        type Disk = String;

        fn disks(&mut self) -> (Vec<Candidate>, Vec<String>) {
            (vec![disk("nvme0n1"), disk("sda")], vec!["/dev/sdb is the stick".to_owned()])
        }

        fn take(&mut self, device: &Path) -> anyhow::Result<Taken<String>> {
            anyhow::ensure!(device == Path::new("/dev/nvme0n1"), "it is mounted");
            let description = disk("nvme0n1").description;
            Ok(Taken { disk: "nvme0n1".to_owned(), description, contents: "On it: letters.".to_owned() })
        }

        fn install(&mut self, disk: String, told: &mut dyn FnMut(&str, u64, u64)) -> anyhow::Result<()> {
            told("written", 800_000_000, 1_600_000_000);
            anyhow::ensure!(!self.fails, "the disk is damaged");
            self.written.push(disk);
            Ok(())
        }

        fn wait_until_stick_is_out(&mut self) {
            self.waited = true;
        }
    }

    /// What was said, whether it ended well, and what was written.
    fn after(typed: &str, fails: bool) -> (String, bool, Vec<String>) {
        let mut machine = Two { fails, ..Two::default() };
        let mut out = Vec::new();
        let done = talk(&mut typed.as_bytes(), &mut out, &mut machine).unwrap();
        assert_eq!(machine.waited, done, "it ends when the stick is out, and not before");
        (String::from_utf8(out).unwrap(), done, machine.written)
    }

    #[test]
    fn the_named_disk_is_written_after_the_word() {
        let (said, done, written) = after("1\nERASE\n", false);
        assert!(done);
        assert_eq!(written, ["nvme0n1"]);
        for told in [
            "  1  /dev/nvme0n1 (Disk nvme0n1, 64 GB)",
            "  -  /dev/sdb is the stick",
            "/dev/nvme0n1 (Disk nvme0n1, 64 GB). On it: letters.\nEverything on it will be lost.",
            "written  50 % of 1600 MB",
        ] {
            assert!(said.contains(told), "{said}");
        }
        assert!(said.contains("Hearth is on /dev/nvme0n1"), "{said}");
    }

    #[test]
    fn nothing_is_written_without_the_word_or_the_number() {
        for typed in [
            "",
            "1",
            "1\n",
            "1\nerase\n",
            "1\n\n",
            "1\nyes\n",
            "0\nERASE\n",
            "3\nERASE\n",
            "-1\nERASE\n",
            "ERASE\nERASE\n",
            "99999999999999999999\nERASE\n",
            "nvme0n1\nERASE\n",
            "2\nERASE\n",
            "\n\n\n",
        ] {
            let (said, done, written) = after(typed, false);
            assert!(!done && written.is_empty(), "{typed:?}: {said}");
        }
        let endless = "9".repeat(1_000_000);
        assert!(after(&format!("{endless}\nERASE\n"), false).2.is_empty());
    }

    #[test]
    fn a_disk_that_cannot_be_taken_or_written_is_told_about_and_asked_again() {
        let (said, done, written) = after("2\n1\nERASE\n", false);
        assert!(said.contains("Nothing was written: it is mounted"), "{said}");
        assert!(done);
        assert_eq!(written, ["nvme0n1"]);
        let (said, done, _) = after("1\nERASE\n", true);
        assert!(said.contains("could not be written to /dev/nvme0n1"), "{said}");
        assert!(!done);
    }
}
