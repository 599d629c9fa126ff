//! Copies the system that was started from a stick to a disk of this machine. Started by `install.service` of the first system
//! (image/mkosi.images/initrd), which only a stick made by `./hearth flash --installer` asks for.
//!
//! With `--no-stick`, from `stick-is-out.service` at each start of a box: waits while such a stick is left in. It has each disk that
//! may be one looked at by itself with `--is-stick`, because that may never end. With `--plain-data`, from `no-tpm-data.service`: finds /var where
//! no TPM has sealed it (decision 0345).

use std::ffi::OsStr;
use std::io::{self, BufRead as _, Write as _};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use installer::dialogue::{Machine, Taken, talk};
use installer::disk::{self, Candidate, Disk};
use installer::stick::{self, Stick};
use installer::{left_in, plain_data, write};

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
        let disk = Disk::take(device)?;
        Ok(Taken { description: disk.description(), contents: disk.contents()?, disk })
    }

    fn install(&mut self, mut disk: Disk, told: &mut dyn FnMut(&str, u64, u64)) -> anyhow::Result<()> {
        disk.refuse_if_exchanged()?;
        write::image(self.stick.read()?, &mut disk, self.stick.sums(), told)
    }

    fn wait_until_stick_is_out(&mut self) {
        left_in::wait_until_out(&[self.stick.device().to_owned()], None);
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
    let alike = left_in::look_alikes(Path::new("/sys/block"));
    // This very program, wherever it lies.
    let found = left_in::ask(Path::new("/proc/self/exe"), &alike, left_in::PATIENCE);
    let judged = left_in::judge(&found, stick::disks_of_root().ok().as_deref());
    for disk in &judged.passed_over {
        println!(
            "hearth: {} does not answer, or its boot partition is garbled, and is passed over: this box lives on another disk. It is \
             damaged, or a damaged stick that installs Hearth: take it out",
            disk.display()
        );
    }
    for disk in &judged.sticks {
        println!(
            "hearth: {} is the stick that installs Hearth, and is still in this machine. Pull it out: the machine then goes on by itself",
            disk.display()
        );
    }
    if !judged.sticks.is_empty() {
        left_in::wait_until_out(&judged.sticks, None);
        // Part of what was started already may have come from it.
        println!("hearth: the stick is out; starting anew");
        return ExitCode::FAILURE;
    }
    for disk in &judged.unread_roots {
        println!(
            "hearth: {}, from which this machine started, cannot be read, or its boot partition is garbled. Nothing is made of it, \
             nothing on it is lost. If it is the stick that installs Hearth, pull it out; if it is built in, install Hearth on it anew, and \
             on another one if that does not help",
            disk.display()
        );
    }
    if judged.unread_roots.is_empty() {
        return ExitCode::SUCCESS;
    }
    left_in::wait_until_out(&judged.unread_roots, Some(TRIED_AGAIN_AFTER));
    println!("hearth: starting anew");
    ExitCode::FAILURE
}

/// Where there is no TPM: /var is the partition on the disk that the system lies on.
fn plain_data() -> ExitCode {
    let named = stick::disks_of_root().and_then(|roots| {
        let partition = plain_data::find(Path::new("/sys/block"), &roots)?;
        plain_data::refuse_encrypted(&partition.device)?;
        plain_data::name(&partition)
    });
    match named {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("hearth: this box starts without its /var: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Long enough to read why, short enough for a disk that was only slow.
const TRIED_AGAIN_AFTER: Duration = Duration::from_secs(120);

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    match (arguments.next().as_deref().and_then(OsStr::to_str), arguments.next()) {
        (Some("--no-stick"), None) => return no_stick(),
        (Some("--plain-data"), None) => return plain_data(),
        (Some("--is-stick"), Some(disk)) => return ExitCode::from(left_in::kind_of(Path::new(&disk)).code()),
        _ => {}
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
