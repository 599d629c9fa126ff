//! What the image does on other machines than the smallest one: with four processors, on an NVMe disk, on a disk that is too
//! small. By name only (`./hearth test image-more`), because each is a boot of its own.
//!
//! Needs a built dev image, named by HEARTH_IMAGE.

use std::path::PathBuf;

use hw_tests::vm::checks::{BOOT_PATIENCE, broken_facts};
use hw_tests::vm::measure::MEASURED;
use hw_tests::vm::{Vm, VmError};

fn image() -> Option<PathBuf> {
    let image = std::env::var_os("HEARTH_IMAGE").map(PathBuf::from);
    if image.is_none() {
        println!("SKIPPED: no image to boot; set HEARTH_IMAGE to the path of a built dev image");
    }
    image
}

/// Four emulated processors take turns on the host's two: more patience than one needs.
#[test]
fn four_processors_leave_one_to_the_duties_and_an_nvme_disk_says_how_it_is() {
    let Some(image) = image() else { return };
    let dir = tempfile::tempdir().unwrap();
    let mut vm = Vm::builder(image, dir.path()).cpus(4).nvme().start().unwrap();
    let boot = vm.wait_ready(BOOT_PATIENCE * 2).unwrap();
    assert_eq!(broken_facts(&mut vm).unwrap(), Vec::<String>::new());

    // The kernel's own words.
    let isolated = vm.expect("cat /sys/fs/cgroup/cpuset.cpus.isolated").unwrap();
    assert_eq!(isolated.trim(), "3");
    let interrupts = vm.expect("cat /proc/irq/default_smp_affinity").unwrap();
    assert_eq!(interrupts.trim().trim_start_matches('0'), "7");
    // What burns time elsewhere does not get there.
    let burner = vm
        .expect(
            "sh -c 'while :; do :; done' & burner=$!; taskset -pc 0-3 $burner >/dev/null 2>&1; \
             grep Cpus_allowed_list /proc/$burner/status | cut -f2; kill $burner",
        )
        .unwrap();
    assert_eq!(burner.trim(), "0-2");

    // QEMU's NVMe disk answers as a real one does: healthy, unused.
    let report = vm
        .expect("for i in 1 2 3 4 5 6 7 8 9; do [ -s /run/hearth/disks/nvme0n1.json ] && break; sleep 5; done; cat /run/hearth/disks/nvme0n1.json")
        .unwrap();
    let disk = ipc::disks::read(report.trim().as_bytes()).unwrap();
    assert_eq!((disk.name.as_str(), disk.passed), ("QEMU NVMe Ctrl", Some(true)));
    assert_eq!(disk.used_percent, Some(0));
    // A kernel that does not take part (here: its file swallows every word) leaves nobody on less than everything.
    let widened = vm
        .expect(
            "p=/sys/fs/cgroup/dv.slice/cpuset.cpus.partition; echo member >$p; mount --bind /dev/null $p; \
             systemctl restart cores.service 2>/dev/null && echo isolated; umount $p; systemctl reset-failed cores.service; \
             for u in signer dv-node; do read pid </sys/fs/cgroup/dv.slice/$u.service/cgroup.procs; \
             grep Cpus_allowed_list /proc/$pid/status | cut -f2; done",
        )
        .unwrap();
    assert_eq!(widened.trim(), "0-3\n0-3");
    println!("{MEASURED}booted in {boot:.0?} with four processors: {disk:?}");
}

#[test]
fn a_disk_that_is_too_small_is_told_about() {
    let Some(image) = image() else { return };
    let dir = tempfile::tempdir().unwrap();
    let mut vm = Vm::builder(image, dir.path()).disk_gb(2).start().unwrap();
    let error = vm.wait_ready(BOOT_PATIENCE).unwrap_err();
    assert!(matches!(error, VmError::Emergency { .. }), "{error}");
    let console = std::fs::read_to_string(vm.serial_log()).unwrap();
    assert!(console.contains("It needs a disk of 4 GB or more"), "the console ends with: {error}");
}
