//! The program's own word about disks, asked as each start of a box asks it.

#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

mod made_up;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use installer::left_in::{Kind, ask};
use installer::switch::{self, AddOn};

/// A pipe that nobody writes to: whoever opens it waits for ever, as whoever reads a dying disk may.
#[test]
fn a_disk_that_never_answers_is_not_waited_for_and_hides_no_stick() {
    let program = Path::new(env!("CARGO_BIN_EXE_installer"));
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let (dying, stick, plain) = (path("dying"), path("stick"), path("plain"));
    nix::unistd::mkfifo(&dying, nix::sys::stat::Mode::S_IRWXU).unwrap();
    for disk in [&stick, &plain] {
        fs::write(disk, made_up::image(3)).unwrap();
    }
    switch::turn_on(&mut File::options().read(true).write(true).open(&stick).unwrap(), AddOn::Install)
        .unwrap();

    let disks = [dying.clone(), stick.clone(), plain.clone()];
    let begun = Instant::now();
    let found = ask(program, &disks, Duration::from_secs(5));
    assert!(begun.elapsed() < Duration::from_secs(30), "it was waited for");
    assert_eq!(found, [(dying, Kind::Unread), (stick.clone(), Kind::Stick), (plain.clone(), Kind::Other)]);

    // Those that answer are not kept waiting.
    let begun = Instant::now();
    let found = ask(program, &[stick, plain], Duration::from_secs(600));
    assert!(begun.elapsed() < Duration::from_secs(300));
    assert_eq!(found.iter().map(|(_, kind)| *kind).collect::<Vec<_>>(), [Kind::Stick, Kind::Other]);
    // No process could be started.
    let none = ask(&path("no-program"), &[PathBuf::from("/dev/x")], Duration::from_secs(600));
    assert_eq!(none, [(PathBuf::from("/dev/x"), Kind::Unread)]);
}
