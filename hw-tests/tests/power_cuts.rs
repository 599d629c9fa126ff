//! Pulls the plug while the first start completes the disk, again and again from the same moment, each time a little
//! earlier or later: after a random line of what that work says, and a random part of the time to the next. Lines and not
//! seconds, because a busy host makes seconds of any length. Whatever is left must be the shipped table or the finished one, and the next start must finish the job.
//! The same while a stick writes the system to a disk.
//!
//! Needs a built dev image, named by HEARTH_IMAGE. HEARTH_POWER_CUTS says how often (50; a stick, which takes longer, is cut short a fifth as
//! often), HEARTH_POWER_CUTS_SEED when.
//! What a cut here cannot show: QEMU is killed, not the host, so what the guest wrote is on the disk even where a real
//! disk would have lost its cache.

#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use hw_tests::gpt;
use hw_tests::vm::checks::{BOOT_PATIENCE, broken_facts};
use hw_tests::vm::measure::MEASURED;
use hw_tests::vm::{Moment, Vm, VmBuilder};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

/// What completes the disk: its first line on the console, and its last.
struct Work {
    begins: &'static str,
    ends: &'static str,
}

const WITH_A_TPM: Work = Work { begins: "Complete the disk", ends: "Finished systemd-repart.service" };
const WITHOUT_A_TPM: Work =
    Work { begins: "Complete the disk of a board without a TPM", ends: "Finished no-tpm-disk.service" };
/// From before the table is written to after it.
const LAST_LINES: usize = 10;
/// After how many of the cuts the box is started for good; each start takes a minute.
const STARTED: usize = 3;

/// How many cuts, and when.
struct Cuts {
    image: PathBuf,
    number: usize,
    rng: StdRng,
}

impl Cuts {
    fn new() -> Option<Self> {
        let Some(image) = std::env::var_os("HEARTH_IMAGE").map(PathBuf::from) else {
            println!("SKIPPED: no image to boot; set HEARTH_IMAGE to the path of a built dev image");
            return None;
        };
        let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
        let cuts = number("HEARTH_POWER_CUTS").map_or(50, |cuts| usize::try_from(cuts).unwrap());
        let seed = number("HEARTH_POWER_CUTS_SEED").unwrap_or_else(|| rand::rng().random());
        println!("{cuts} power cuts, HEARTH_POWER_CUTS_SEED={seed}");
        Some(Self { image, number: cuts, rng: StdRng::seed_from_u64(seed) })
    }

    /// Goes on from a moment for so many lines at most, at least from some on, and a little more; then cuts the power.
    fn cut(&mut self, vm: &mut Vm, from: usize, lines: usize, line_time: Duration) -> String {
        let line = self.rng.random_range(from..=lines);
        let after = line_time.mul_f64(self.rng.random_range(0.0..2.0));
        vm.wait_lines(line, BOOT_PATIENCE).unwrap();
        std::thread::sleep(after);
        vm.power_cut().unwrap();
        format!("{after:?} after line {line}")
    }
}

#[test]
fn a_power_cut_while_the_disk_is_completed_leaves_the_old_table_or_the_new_one() {
    cut_the_first_start(WITH_A_TPM, |machine| machine);
}

#[test]
fn a_power_cut_while_the_disk_of_a_board_without_a_tpm_is_completed_leaves_the_old_table_or_the_new_one() {
    cut_the_first_start(WITHOUT_A_TPM, |machine| machine.needs_no_tpm().has_no_tpm());
}

fn cut_the_first_start(work: Work, machine: impl FnOnce(VmBuilder) -> VmBuilder) {
    let Some(mut cuts) = Cuts::new() else { return };
    let dir = tempfile::tempdir().unwrap();
    let mut vm = machine(Vm::builder(&cuts.image, dir.path().join("box"))).start().unwrap();
    let shipped = labels(vm.disk());
    assert_eq!(shipped.len(), 3, "{shipped:?}");
    vm.wait_for(work.begins, BOOT_PATIENCE).unwrap();
    let moment = vm.keep_moment(&dir.path().join("moment")).unwrap();

    // Once without a cut: how long it takes, and what the finished table is.
    vm.go_back(&moment).unwrap();
    let begun = Instant::now();
    vm.wait_for(work.ends, BOOT_PATIENCE).unwrap();
    let whole = begun.elapsed();
    let lines = vm.console_lines();
    let line_time = whole / u32::try_from(lines).unwrap().max(1);
    vm.power_cut().unwrap();
    let finished = labels(vm.disk());
    assert_eq!(finished.len(), 6, "{finished:?}");
    assert_eq!(finished[..3], shipped[..]);

    let (mut old, mut new, mut started) = (0, 0, 0);
    for cut in 0..cuts.number {
        // Every second one around the writing of the table, which is the end of it.
        let from = if cut % 2 == 0 { 0 } else { lines.saturating_sub(LAST_LINES) };
        vm.go_back(&moment).unwrap();
        let when = cuts.cut(&mut vm, from, lines, line_time);
        let left = labels(vm.disk());
        match left.len() {
            3 => old += 1,
            6 => new += 1,
            _ => {}
        }
        assert!(left == shipped || left == finished, "cut {cut}, {when}, left {left:?}");
        // Spread over the cuts, so that both kinds of table are among them.
        if started < STARTED && cut * STARTED >= started * cuts.number {
            started += 1;
            vm.power_on().unwrap();
            vm.wait_ready(BOOT_PATIENCE).unwrap();
            vm.expect("findmnt -no SOURCE /var | grep -qx /dev/mapper/data && echo kept >/var/lib/kept")
                .unwrap();
            vm.power_cut().unwrap();
            assert_eq!(labels(vm.disk()), finished, "after cut {cut} the next start did not finish the job");
        }
    }
    assert!(
        old > 0 && (new > 0 || cuts.number < 10),
        "the cuts were all on one side: {old} before, {new} after"
    );
    println!(
        "{MEASURED}{old} cuts left the shipped table, {new} the finished one; the work takes {whole:?}; {started} were started"
    );
}

/// Writing and reading back, all of it emulated.
const PATIENCE_TO_COPY: Duration = Duration::from_secs(1500);
/// So much of the disk is written at the second moment that is kept: what comes last is ahead.
const NEARLY_WRITTEN: &str = "written  9";
/// What firmware says of a disk from which nothing starts.
const NOTHING_STARTS: &str = "failed to load Boot0001";

/// The plug is pulled while the installer writes, at the beginning and around the end, where the table is written. What is left either starts
/// nothing, or is the whole system; and the stick makes a box of it afterwards.
#[test]
fn a_power_cut_while_a_stick_writes_leaves_nothing_that_starts_or_all_of_it() {
    let Some(mut cuts) = Cuts::new() else { return };
    let dir = tempfile::tempdir().unwrap();
    // QEMU keeps no moment of an NVMe disk.
    let machine = Vm::builder(&cuts.image, dir.path().join("box")).small_gb(8).installer().keyboard();
    let mut vm = machine.create().unwrap();
    let disk = vm.small_disk();
    // Something was on it: at its beginning, at its end, and where the system will lie.
    let before = File::options().write(true).open(&disk).unwrap();
    for at in [0, (8 << 30) - (1 << 20), 600 << 20] {
        before.write_all_at(&[0x55; 1 << 20], at).unwrap();
    }
    vm.power_on().unwrap();
    vm.wait_shown("Number of the disk", PATIENCE_TO_COPY).unwrap();
    vm.type_text("1\r").unwrap();
    vm.wait_shown("Type ERASE", BOOT_PATIENCE).unwrap();
    let asked = vm.keep_moment(&dir.path().join("asked")).unwrap();
    vm.go_back(&asked).unwrap();
    let begun = Instant::now();
    vm.type_text("ERASE\r").unwrap();
    // A quick machine says nothing in between.
    vm.wait_shown_any(&[NEARLY_WRITTEN, "read back"], PATIENCE_TO_COPY).unwrap();
    let line_time = begun.elapsed() / u32::try_from(vm.console_lines()).unwrap().max(1);
    let nearly = vm.keep_moment(&dir.path().join("nearly")).unwrap();
    // How many lines it is from there until everything is read back.
    vm.go_back(&nearly).unwrap();
    vm.wait_shown_any(&["read back", "Hearth is on"], PATIENCE_TO_COPY).unwrap();
    let lines = vm.console_lines();
    vm.power_cut().unwrap();

    let (mut nothing, mut whole) = (0, 0);
    let kept = |name: &str| dir.path().join(name);
    for cut in 0..(cuts.number / 5).max(2) {
        let (moment, most): (&Moment, usize) =
            if cut % 2 == 0 { (&asked, LAST_LINES) } else { (&nearly, lines + 2) };
        vm.go_back(moment).unwrap();
        if cut % 2 == 0 {
            vm.type_text("ERASE\r").unwrap();
        }
        let when = cuts.cut(&mut vm, 0, most, line_time);
        let to = match gpt::read(&disk).unwrap() {
            None => {
                nothing += 1;
                "half"
            }
            Some(table) => {
                assert_eq!(table.partitions.len(), 3, "cut {cut}, {when}");
                assert!(
                    is_the_image(&disk, &cuts.image),
                    "cut {cut}, {when}: a table before all that it names"
                );
                whole += 1;
                "whole"
            }
        };
        copy(&disk, &kept(to));
    }
    println!("{MEASURED}{nothing} cuts left a disk without a table, {whole} all of the system");
    assert!(nothing > 0, "no cut was in time");

    // The machine without its stick: firmware finds nothing in what was half written.
    let alone = |name: &str, disk: &Path| {
        let state = kept(name);
        std::fs::create_dir(&state).unwrap();
        std::fs::rename(disk, state.join("disk.raw")).unwrap();
        Vm::builder(&cuts.image, state).start().unwrap()
    };
    copy(&kept("half"), &disk);
    let mut half = alone("machine-of-half", &kept("half"));
    half.wait_shown(NOTHING_STARTS, BOOT_PATIENCE).unwrap();
    drop(half);
    if whole > 0 {
        let mut all = alone("machine-of-all", &kept("whole"));
        all.wait_ready(BOOT_PATIENCE).unwrap();
        all.power_cut().unwrap();
    }

    // With the stick again, from its own start.
    vm.power_on().unwrap();
    vm.wait_shown("Number of the disk", PATIENCE_TO_COPY).unwrap();
    vm.type_text("1\rERASE\r").unwrap();
    vm.wait_shown("Hearth is on /dev/vda", PATIENCE_TO_COPY).unwrap();
    vm.power_cut().unwrap();
    assert!(is_the_image(&disk, &cuts.image));
    let mut again = alone("machine", &disk);
    let first = again.wait_ready(BOOT_PATIENCE).unwrap();
    assert_eq!(broken_facts(&mut again).unwrap(), Vec::<String>::new());
    println!("{MEASURED}what was installed after a power cut was up after {first:.0?}");
}

/// All of it but the boot partition, where starts are counted in a file name.
fn is_the_image(disk: &Path, image: &Path) -> bool {
    let root = gpt::read(image).unwrap().unwrap().partitions[1].start;
    let rest = image.metadata().unwrap().len() - root;
    let places = [format!("--ignore-initial={root}"), format!("--bytes={rest}")];
    Command::new("cmp").args(places).arg(image).arg(disk).status().unwrap().success()
}

/// Holes stay holes.
fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").args(["--sparse=always", "--reflink=auto"]).args([from, to]).status();
    assert!(copied.unwrap().success(), "is the disk full?");
}

/// The names of the partitions of the table in force; a disk with none at all fails.
fn labels(disk: &Path) -> Vec<String> {
    let table = gpt::read(disk).unwrap().expect("neither copy of the partition table is whole");
    table.partitions.into_iter().map(|partition| partition.label).collect()
}
