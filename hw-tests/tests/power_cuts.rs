//! Pulls the plug while the first start completes the disk, again and again from the same moment, each time a little
//! earlier or later: after a random line of what that work says, and a random part of the time to the next. Lines and not
//! seconds, because a busy host makes seconds of any length. Whatever is left must be the shipped table or the finished one, and the next start must finish the job.
//!
//! Needs a built dev image, named by HEARTH_IMAGE. HEARTH_POWER_CUTS says how often (50), HEARTH_POWER_CUTS_SEED when.
//! What a cut here cannot show: QEMU is killed, not the host, so what the guest wrote is on the disk even where a real
//! disk would have lost its cache.

#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use std::path::PathBuf;
use std::time::Instant;

use hw_tests::gpt;
use hw_tests::vm::Vm;
use hw_tests::vm::checks::BOOT_PATIENCE;
use hw_tests::vm::measure::MEASURED;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

/// The first line about the work that is cut short, and the last.
const BEGINS: &str = "Complete the disk";
const ENDS: &str = "Finished systemd-repart.service";
/// From before the table is written to after it.
const LAST_LINES: usize = 10;
/// After how many of the cuts the box is started for good; each start takes a minute.
const STARTED: usize = 3;

#[test]
fn a_power_cut_while_the_disk_is_completed_leaves_the_old_table_or_the_new_one() {
    let Some(image) = std::env::var_os("HEARTH_IMAGE").map(PathBuf::from) else {
        println!("SKIPPED: no image to boot; set HEARTH_IMAGE to the path of a built dev image");
        return;
    };
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let cuts = number("HEARTH_POWER_CUTS").map_or(50, |cuts| usize::try_from(cuts).unwrap());
    let seed = number("HEARTH_POWER_CUTS_SEED").unwrap_or_else(|| rand::rng().random());
    println!("{cuts} power cuts, HEARTH_POWER_CUTS_SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);

    let dir = tempfile::tempdir().unwrap();
    let mut vm = Vm::builder(image, dir.path().join("box")).start().unwrap();
    let shipped = labels(&vm);
    assert_eq!(shipped.len(), 3, "{shipped:?}");
    vm.wait_for(BEGINS, BOOT_PATIENCE).unwrap();
    let moment = vm.keep_moment(&dir.path().join("moment")).unwrap();

    // Once without a cut: how long it takes, and what the finished table is.
    vm.go_back(&moment).unwrap();
    let begun = Instant::now();
    vm.wait_for(ENDS, BOOT_PATIENCE).unwrap();
    let whole = begun.elapsed();
    let lines = vm.console_lines();
    let line_time = whole / u32::try_from(lines).unwrap().max(1);
    vm.power_cut().unwrap();
    let finished = labels(&vm);
    assert_eq!(finished.len(), 6, "{finished:?}");
    assert_eq!(finished[..3], shipped[..]);

    let (mut old, mut new, mut started) = (0, 0, 0);
    for cut in 0..cuts {
        // Every second one around the writing of the table, which is the end of it.
        let from = if cut % 2 == 0 { 0 } else { lines.saturating_sub(LAST_LINES) };
        let line = rng.random_range(from..=lines);
        let after = line_time.mul_f64(rng.random_range(0.0..2.0));
        vm.go_back(&moment).unwrap();
        vm.wait_lines(line, BOOT_PATIENCE).unwrap();
        std::thread::sleep(after);
        vm.power_cut().unwrap();
        let left = labels(&vm);
        match left.len() {
            3 => old += 1,
            6 => new += 1,
            _ => {}
        }
        assert!(left == shipped || left == finished, "cut {cut}, {after:?} after line {line}, left {left:?}");
        // Spread over the cuts, so that both kinds of table are among them.
        if started < STARTED && cut * STARTED >= started * cuts {
            started += 1;
            vm.power_on().unwrap();
            vm.wait_ready(BOOT_PATIENCE).unwrap();
            vm.expect("findmnt -no SOURCE /var | grep -qx /dev/mapper/data && echo kept >/var/lib/kept")
                .unwrap();
            vm.power_cut().unwrap();
            assert_eq!(labels(&vm), finished, "after cut {cut} the next start did not finish the job");
        }
    }
    assert!(old > 0 && (new > 0 || cuts < 10), "the cuts were all on one side: {old} before, {new} after");
    println!(
        "{MEASURED}{old} cuts left the shipped table, {new} the finished one; the work takes {whole:?}; {started} were started"
    );
}

/// The names of the partitions of the table in force; a disk with none at all fails.
fn labels(vm: &Vm) -> Vec<String> {
    let table = gpt::read(vm.disk()).unwrap().expect("neither copy of the partition table is whole");
    table.partitions.into_iter().map(|partition| partition.label).collect()
}
