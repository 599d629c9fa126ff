//! Copies the system that was started from a stick to a disk of this machine. Started by `install.service` of the first system
//! (image/mkosi.images/initrd), which only a stick made by `./hearth flash --installer` asks for; a box at work never starts it.

use std::fs;
use std::io::{self, BufRead as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use installer::dialogue::{Machine, Taken, talk};
use installer::disk::{self, Candidate, Disk};
use installer::stick::Stick;
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
        for device in devices() {
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

/// Everything that hangs on a controller, by name.
fn devices() -> Vec<PathBuf> {
    let mut devices: Vec<PathBuf> = fs::read_dir("/sys/block")
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.path().join("device").exists())
        .map(|entry| Path::new("/dev").join(entry.file_name()))
        .collect();
    devices.sort();
    devices
}

fn install() -> anyhow::Result<bool> {
    println!("\nHearth: looking whether the stick is as it was written.");
    let stick = Stick::find(&mut |what, done, all| {
        println!("{what} {:3} % of {} MB", done * 100 / all.max(1), all / 1_000_000);
    })?;
    Ok(talk(&mut io::stdin().lock(), &mut io::stdout(), &mut Around { stick })?)
}

fn main() -> ExitCode {
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
