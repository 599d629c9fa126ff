//! Boots the image in QEMU: first start with partitioning and sealing, restart, power cut, a meddling host.
//!
//! Needs a built dev image, named by HEARTH_IMAGE (`./hearth image` prints its path): a test does not spend minutes on
//! building one unasked.

mod boots;

use hw_tests::image::Arch;

#[test]
fn the_image_boots_seals_its_disk_and_opens_it_again() {
    boots::boots_seals_and_opens_again(Arch::X86_64, "HEARTH_IMAGE");
}

#[test]
fn a_share_opens_after_an_update_and_for_nothing_else() {
    boots::share::opens_for_an_update_and_nothing_else(Arch::X86_64, "HEARTH_IMAGE");
}
