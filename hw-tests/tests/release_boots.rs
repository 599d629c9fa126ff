//! Boots a release image in QEMU. Needs a built one, named by HEARTH_RELEASE_IMAGE: `./hearth test release` builds one with keys
//! made for it alone, and any other can be named by hand.

use std::path::PathBuf;
use std::time::Duration;

use hw_tests::ports::free_port;
use hw_tests::vm::Vm;
use hw_tests::vm::checks::BOOT_PATIENCE;
use hw_tests::vm::measure::MEASURED;

#[test]
fn the_release_image_serves_the_page_and_has_no_shell() {
    let Some(image) = std::env::var_os("HEARTH_RELEASE_IMAGE").map(PathBuf::from) else {
        println!("SKIPPED: no release image to boot; set HEARTH_RELEASE_IMAGE to the path of a built one");
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let page = free_port();
    let mut vm = Vm::builder(image, dir.path()).forward(page, 443).start().unwrap();
    let first = vm.wait_page(page, BOOT_PATIENCE).unwrap();
    assert!(!vm.has_shell(Duration::from_secs(20)).unwrap(), "a shell answers in a release image");
    // A power cut, and what was sealed at the first start opens.
    vm.power_cut().unwrap();
    let again = vm.power_on().and_then(|()| vm.wait_page(page, BOOT_PATIENCE)).unwrap();
    println!(
        "{MEASURED}the page of a release answered after {first:?} (first start), {again:?} (after a power cut)"
    );
}
