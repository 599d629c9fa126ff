//! What the image of each kind of processor must do.

#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

mod kernel_image;
mod recovery;
pub(crate) mod share;
mod tamper;

use std::path::{Path, PathBuf};
use std::time::Duration;

use hw_tests::image::Arch;
use hw_tests::ports::free_port;
use hw_tests::vm::checks::{BOOT_PATIENCE, broken_facts};
use hw_tests::vm::measure::{MEASURED, MEMORY_GOAL_MB, PageWatch, memory, waited_for};
use hw_tests::vm::{Vm, VmError};
use tamper::BootPartition;

/// The TPM does not give out the key of /var.
const SHUT: &str = "Failed to unseal secret using TPM2";
/// The kernel refuses to give out a block that is not what was signed.
const BAD_BLOCK: &str = "data block 0 is corrupted";
/// The firmware refuses to start a program that is not what was signed, and has no other.
const BAD_PROGRAM: &str = ".efi: Access denied";
const NOTHING_ELSE: &str = "No bootable option";
/// Who speaks once a kernel runs.
const KERNEL: &str = "systemd[1]";

/// First start with partitioning and sealing, restart, power cut, a meddling host, a disk that was tampered with.
pub(crate) fn boots_seals_and_opens_again(arch: Arch, named_by: &str) {
    let Some(image) = std::env::var_os(named_by).map(PathBuf::from) else {
        println!("SKIPPED: no {arch:?} image to boot; set {named_by} to the path of a built dev image");
        return;
    };
    let patience = BOOT_PATIENCE * arch.slowness();
    let dir = tempfile::tempdir().unwrap();
    let page = free_port();
    let mut vm = Vm::builder(&image, dir.path()).arch(arch).forward(page, 443).start().unwrap();

    let watch = PageWatch::begin(page, patience).unwrap();
    let first = vm.wait_ready(patience).unwrap();
    let first_page = watch.answered().unwrap();
    assert_eq!(broken_facts(&mut vm).unwrap(), Vec::<String>::new());
    let recovery_key = recovery::is_shown_once(&mut vm, page);
    vm.expect("echo kept >/var/lib/kept && sync -f /var").unwrap();

    vm.reboot().unwrap();
    let second = vm.wait_ready(patience).unwrap();
    assert_eq!(vm.expect("cat /var/lib/kept").unwrap(), "kept\n");
    recovery::is_noted(&mut vm, page);

    vm.power_cut().unwrap();
    recovery::opens_the_disk_from_outside(vm.disk(), &recovery_key);
    // What nobody signed is not heeded: this start is like the others.
    BootPartition::of(vm.disk()).add_wrong_add_ons();
    vm.power_on().unwrap();
    let watch = PageWatch::begin(page, patience).unwrap();
    let third = vm.wait_ready(patience).unwrap();
    let third_page = watch.answered().unwrap();
    // Before anything else is asked of it: docs/image.md has these figures.
    let memory = memory(&mut vm).unwrap();
    println!("what the start waited for:\n{}", waited_for(&mut vm).unwrap());
    println!(
        "{MEASURED}memory after a start without clients {} MB, of it {:?}",
        memory.system, memory.daemons
    );
    assert!((1..=MEMORY_GOAL_MB).contains(&memory.system), "a start takes {} MB", memory.system);
    assert_eq!(vm.expect("cat /var/lib/kept").unwrap(), "kept\n");
    let line = vm.expect("cat /proc/cmdline").unwrap();
    assert!(!line.contains(tamper::WORD.trim()), "an add-on that our key did not sign is heeded: {line}");
    let add_ons = vm.expect("ls /boot/loader/addons").unwrap();
    assert_eq!(add_ons.split_whitespace().count(), 3, "{add_ons}");
    // The hole that PCR 12 closes: a host that appends to the signed command line gets a system without its secrets.
    drop(vm);
    let extra = "io.systemd.stub.kernel-cmdline-extra=systemd.log_level=info";
    let mut tampered = Vm::builder(&image, dir.path()).arch(arch).smbios(extra).start().unwrap();
    let error = tampered.wait_ready(patience).unwrap_err();
    assert!(matches!(error, VmError::Emergency { .. }), "{error}");
    drop(tampered);
    let disk = dir.path().join("disk.raw");
    refuses_what_was_tampered_with(
        || Vm::builder(&image, dir.path()).arch(arch).start().unwrap(),
        &disk,
        patience,
    );
    println!(
        "{MEASURED}power-on to page {first_page:.0?} (first start), {third_page:.0?} (after a power cut)"
    );
    println!(
        "{MEASURED}power-on to hearth.target {first:.0?} (first), {second:.0?} (restart), {third:.0?} (after a power cut)"
    );
}

/// The disk of a box with a sealed /var, changed in one place at a time: no such start opens it.
fn refuses_what_was_tampered_with(start: impl Fn() -> Vm, disk: &Path, patience: Duration) {
    // Our own key signed a word that changes nothing: measured, so /var stays shut.
    let boot = BootPartition::of(disk);
    boot.add_a_signed_add_on();
    let mut vm = start();
    vm.wait_for(SHUT, patience).unwrap();
    let error = vm.wait_ready(patience).unwrap_err();
    assert!(matches!(error, VmError::Emergency { .. }), "{error}");
    vm.power_cut().unwrap();
    boot.remove_add_ons();

    tamper::turn_a_bit_of_the_system(disk);
    let mut vm = start();
    vm.wait_for(BAD_BLOCK, patience).unwrap();
    let error = vm.wait_ready(patience).unwrap_err();
    assert!(matches!(error, VmError::Emergency { .. }), "{error}");
    vm.power_cut().unwrap();
    tamper::turn_a_bit_of_the_system(disk);

    boot.turn_a_bit_of_the_kernel_image();
    let mut vm = start();
    vm.wait_shown(BAD_PROGRAM, patience).unwrap();
    vm.wait_shown(NOTHING_ELSE, patience).unwrap();
    let console = std::fs::read_to_string(vm.serial_log()).unwrap_or_default();
    let refused = console.rfind(BAD_PROGRAM).unwrap();
    assert!(!console[refused..].contains(KERNEL), "it was started all the same");
    vm.power_cut().unwrap();
    boot.turn_a_bit_of_the_kernel_image();
}
