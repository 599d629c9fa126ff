//! Copies the system that was started from a stick to a disk of this machine. Started by `install.service` of the first system
//! (image/mkosi.images/initrd), which only a stick made by `./hearth flash --installer` asks for.
//!
//! With `--no-stick`, from `stick-is-out.service` at each start of a box: waits while such a stick is left in.

use std::io::{self, BufRead as _, Write as _};
use std::path::Path;
use std::process::ExitCode;

use installer::dialogue::{Machine, Taken, talk};
use installer::disk::{self, Candidate, Disk};
use installer::stick::{self, Stick};
use installer::write;

/// The stick, and the disks around it.
struct Around {
    stick: Stick,
}

impl Machine for Around {
    type Disk = Disk;

    fn disks(&mut self) -> (Vec<Candidate>, Vec<String>) {
        let mut fit = Vec::new();
        let mut refused = Vec::new();
        for device in disk::all() {
            match self.offer(&device) {
                Ok(disk) => fit.push(disk),
                Err(error) => refused.push(format!("{error:#}")),
            }
        }
        (fit, refused)
    }

    fn take(&mut self, device: &Path) -> anyhow::Result<Taken<Disk>> {
        self.offer(device)?;
        let mut disk = Disk::take(device)?;
        Ok(Taken { description: disk.description(), contents: disk.contents()?, disk })
    }

    fn install(&mut self, mut disk: Disk, told: &mut dyn FnMut(&str, u64, u64)) -> anyhow::Result<()> {
        disk.refuse_if_exchanged()?;
        write::image(self.stick.read()?, &mut disk, self.stick.sums(), told)
    }

    fn wait_until_stick_is_out(&mut self) {
        stick::wait_until_out(&[self.stick.device().to_owned()]);
    }
}

impl Around {
    /// A disk that is built in, in nobody's use and large enough.
    fn offer(&self, device: &Path) -> anyhow::Result<Candidate> {
        anyhow::ensure!(device != self.stick.device(), "{} is what this was started from", device.display());
        let disk = disk::look(device)?;
        anyhow::ensure!(!disk.usb, "{} is not built in", disk.description);
        write::large_enough(disk.bytes, self.stick.sums())
            .map_err(|error| error.context(disk.description.clone()))?;
        Ok(disk)
    }
}

fn install() -> anyhow::Result<bool> {
    println!("\nHearth: looking whether the stick is as it was written.");
    let stick = Stick::find(&mut |what, done, all| {
        println!("{what} {:3} % of {} MB", done * 100 / all.max(1), all / 1_000_000);
    })?;
    Ok(talk(&mut io::stdin().lock(), &mut io::stdout(), &mut Around { stick })?)
}

/// Nothing is made of a machine with a stick in it: stick and disk look alike, and the box could make its home on the stick.
fn no_stick() -> ExitCode {
    let sticks = stick::among(&disk::all());
    for stick in &sticks {
        println!(
            "hearth: {} is the stick that installs Hearth, and is still in this machine. Pull it out: the machine then goes on by itself",
            stick.display()
        );
    }
    if sticks.is_empty() {
        return ExitCode::SUCCESS;
    }
    stick::wait_until_out(&sticks);
    // Part of what was started already may have come from it.
    println!("hearth: the stick is out; starting anew");
    ExitCode::FAILURE
}

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some("--no-stick") {
        return no_stick();
    }
    match install() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            println!("Hearth cannot be installed from here: {error:#}");
            print!("Press Enter to switch the machine off. ");
            let _ = io::stdout().flush();
            let _ = io::stdin().lock().read_until(b'\n', &mut Vec::new());
            ExitCode::FAILURE
        }
    }
}
