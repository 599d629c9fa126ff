//! Boots the ARM64 image in QEMU. On another processor everything is emulated, which takes minutes: a test of its own.
//!
//! Needs a built dev image, named by HEARTH_ARM64_IMAGE (`./hearth image --arch arm64` prints its path).

mod boots;

use std::path::PathBuf;

use hw_tests::board::{Board, Report, prove};
use hw_tests::image::Arch;
use hw_tests::vm::Vm;
use hw_tests::vm::checks::BOOT_PATIENCE;

#[test]
fn the_arm64_image_boots_seals_its_disk_and_opens_it_again() {
    boots::boots_seals_and_opens_again(Arch::Arm64, "HEARTH_ARM64_IMAGE");
}

#[test]
fn a_share_on_arm64_opens_after_an_update_and_for_nothing_else() {
    boots::share::opens_for_an_update_and_nothing_else(Arch::Arm64, "HEARTH_ARM64_IMAGE");
}

/// The runner for real boards, against the same image behind a pseudo-terminal: the root shell shares the line with the
/// kernel's and the journal's messages, as on a board.
#[test]
fn the_runner_for_boards_proves_the_same_over_a_serial_line() {
    let Some(image) = std::env::var_os("HEARTH_ARM64_IMAGE").map(PathBuf::from) else {
        println!("SKIPPED: no ARM64 image to boot; set HEARTH_ARM64_IMAGE to the path of a built dev image");
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let mut vm = Vm::builder(image, dir.path()).arch(Arch::Arm64).serial_line().start().unwrap();
    let line = vm.serial_line().unwrap();
    let mut board = Board::open(&line, 115_200, &dir.path().join("board.log")).unwrap();
    let Report { starts, broken, kept } =
        prove(&mut board, None, BOOT_PATIENCE * Arch::Arm64.slowness()).unwrap();
    assert_eq!(broken, Vec::<String>::new());
    assert!(kept, "/var did not open again");
    println!("starts took {starts:?}");
}
