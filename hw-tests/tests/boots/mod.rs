//! What the image of each kind of processor must do.

#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use std::path::PathBuf;

use hw_tests::image::Arch;
use hw_tests::ports::free_port;
use hw_tests::vm::checks::{BOOT_PATIENCE, broken_facts};
use hw_tests::vm::measure::{MEASURED, MEMORY_GOAL_MB, PageWatch, memory, waited_for};
use hw_tests::vm::{Vm, VmError};

/// First start with partitioning and sealing, restart, power cut, a meddling host.
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
    vm.expect("echo kept >/var/lib/kept && sync -f /var").unwrap();

    vm.reboot().unwrap();
    let second = vm.wait_ready(patience).unwrap();
    assert_eq!(vm.expect("cat /var/lib/kept").unwrap(), "kept\n");

    vm.power_cut().unwrap();
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
    // The hole that PCR 12 closes: a host that appends to the signed command line gets a system without its secrets.
    drop(vm);
    let extra = "io.systemd.stub.kernel-cmdline-extra=systemd.log_level=info";
    let mut tampered = Vm::builder(image, dir.path()).arch(arch).smbios(extra).start().unwrap();
    let error = tampered.wait_ready(patience).unwrap_err();
    assert!(matches!(error, VmError::Emergency { .. }), "{error}");
    println!(
        "{MEASURED}power-on to page {first_page:.0?} (first start), {third_page:.0?} (after a power cut)"
    );
    println!(
        "{MEASURED}power-on to hearth.target {first:.0?} (first), {second:.0?} (restart), {third:.0?} (after a power cut)"
    );
}
