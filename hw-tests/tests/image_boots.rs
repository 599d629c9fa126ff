//! Boots the image in QEMU: first start with partitioning and sealing, restart, power cut, a meddling host.
//!
//! Needs a built dev image, named by HEARTH_IMAGE (`./hearth image` prints its path): a test does not spend minutes on
//! building one unasked.

mod boots;

use std::path::PathBuf;
use std::time::Duration;

use hw_tests::image::Arch;
use hw_tests::ports::free_port;
use hw_tests::vm::Vm;
use hw_tests::vm::checks::BOOT_PATIENCE;
use hw_tests::vm::measure::MEASURED;

#[test]
fn the_image_boots_seals_its_disk_and_opens_it_again() {
    boots::boots_seals_and_opens_again(Arch::X86_64, "HEARTH_IMAGE");
}

#[test]
fn a_share_opens_after_an_update_and_for_nothing_else() {
    boots::share::opens_for_an_update_and_nothing_else(Arch::X86_64, "HEARTH_IMAGE");
}

#[test]
fn the_release_image_serves_the_page_and_has_no_shell() {
    let Some(image) = std::env::var_os("HEARTH_RELEASE_IMAGE").map(PathBuf::from) else {
        println!("SKIPPED: no release image to boot; set HEARTH_RELEASE_IMAGE to the path of a built one");
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let page = free_port();
    let mut vm = Vm::builder(image, dir.path()).forward(page, 443).start().unwrap();
    let boot = vm.wait_page(page, BOOT_PATIENCE).unwrap();
    assert!(!vm.has_shell(Duration::from_secs(20)).unwrap(), "a shell answers in a release image");
    println!("{MEASURED}the page of a release answered after {boot:?}");
}
