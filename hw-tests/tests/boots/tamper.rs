//! What somebody changes who has the disk in hand: a block of the system, a byte of the kernel image, an add-on.
//!
//! The boot partition is written with mtools from outside, as that person would; nothing of it is Secure Boot's to protect.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use hw_tests::gpt;
use tempfile::TempDir;

use super::kernel_image::test_key;

/// The add-on that every image carries where nobody looks, and where systemd-stub looks (decision 0330).
const SHIPPED: &str = "::/loader/ADDON_/install.addon.efi";
const ACTIVE: &str = "::/loader/addons";
const SHIPPED_WORD: &str = "rd.systemd.unit=install.target";
/// A word that changes nothing, as long as the other one.
pub(crate) const WORD: &str = "systemd.log_level=info        ";

/// Turns one bit of the first byte of the system's partition. No file lies there and erofs leaves it alone: nothing but verity can notice.
/// Turned again it is as it was.
pub(crate) fn turn_a_bit_of_the_system(disk: &Path) {
    let table = gpt::read(disk).unwrap().unwrap();
    let start = table.partitions[1].start;
    let disk = File::options().read(true).write(true).open(disk).unwrap();
    let mut byte = [0];
    disk.read_exact_at(&mut byte, start).unwrap();
    disk.write_all_at(&[byte[0] ^ 1], start).unwrap();
}

/// The boot partition of a box that is off.
pub(crate) struct BootPartition {
    /// The disk, and where on it, as mtools want it.
    place: String,
    dir: TempDir,
}

impl BootPartition {
    pub(crate) fn of(disk: &Path) -> Self {
        let start = gpt::read(disk).unwrap().unwrap().partitions[0].start;
        Self { place: format!("{}@@{start}", disk.display()), dir: tempfile::tempdir().unwrap() }
    }

    fn run(&self, tool: &str, arguments: &[&str]) -> String {
        run(Command::new(tool).args(["-i", &self.place]).args(arguments).env("MTOOLS_SKIP_CHECK", "1"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn read(&self, from: &str) -> Vec<u8> {
        let path = self.path("read");
        self.run("mcopy", &["-n", "-o", from, path.to_str().unwrap()]);
        std::fs::read(path).unwrap()
    }

    fn write(&self, bytes: &[u8], to: &str) {
        let path = self.path("written");
        File::create(&path).unwrap().write_all(bytes).unwrap();
        self.run("mcopy", &["-o", path.to_str().unwrap(), to]);
    }

    /// Turns one bit in the middle of the kernel image. Turned again it is as it was.
    pub(crate) fn turn_a_bit_of_the_kernel_image(&self) {
        let mut image = self.kernel_image();
        let middle = image.len() / 2;
        image[middle] ^= 1;
        self.put_kernel_image(&image);
    }

    fn kernel_image_s_name(&self) -> String {
        let listed = self.run("mdir", &["-b", "::/EFI/Linux"]);
        let [name] = listed.lines().collect::<Vec<_>>()[..] else { panic!("one kernel image: {listed}") };
        name.to_owned()
    }

    /// The one kernel image.
    pub(crate) fn kernel_image(&self) -> Vec<u8> {
        self.read(&self.kernel_image_s_name())
    }

    /// Another one in its place.
    pub(crate) fn put_kernel_image(&self, image: &[u8]) {
        self.write(image, &self.kernel_image_s_name());
    }

    /// The same, signed for Secure Boot with the box's own key.
    pub(crate) fn put_signed_kernel_image(&self, image: &[u8]) {
        self.put_kernel_image(&self.signed(image, &test_key("sb.key"), &test_key("sb.crt")));
    }

    /// Add-ons that say [`WORD`], each with something wrong: changed after it was signed, signed by another key, not signed.
    pub(crate) fn add_wrong_add_ons(&self) {
        let shipped = self.read(SHIPPED);
        let changed = with_word(&shipped);
        self.run("mmd", &[ACTIVE]);
        self.write(&changed, &format!("{ACTIVE}/changed.addon.efi"));
        let [key, certificate] = ["foreign.key", "foreign.crt"].map(|name| self.path(name));
        let mut openssl = Command::new("openssl");
        openssl.args(["req", "-new", "-x509", "-newkey", "rsa:2048", "-nodes", "-sha256", "-days", "30"]);
        run(openssl.args(["-subj", "/CN=Somebody/", "-keyout"]).arg(&key).arg("-out").arg(&certificate));
        self.write(&self.signed(&changed, &key, &certificate), &format!("{ACTIVE}/foreign.addon.efi"));
        let [from, to] = ["from.efi", "to.efi"].map(|name| self.path(name));
        std::fs::write(&from, &changed).unwrap();
        let _ = std::fs::remove_file(&to);
        run(Command::new("osslsigncode").args(["remove-signature", "-in"]).arg(&from).arg("-out").arg(&to));
        self.write(&std::fs::read(&to).unwrap(), &format!("{ACTIVE}/bare.addon.efi"));
    }

    /// In their place one that says the same, and that the box's own key signed.
    pub(crate) fn add_a_signed_add_on(&self) {
        self.remove_add_ons();
        let changed = with_word(&self.read(SHIPPED));
        let signed = self.signed(&changed, &test_key("sb.key"), &test_key("sb.crt"));
        self.write(&signed, &format!("{ACTIVE}/signed.addon.efi"));
    }

    pub(crate) fn remove_add_ons(&self) {
        self.run("mdel", &[&format!("{ACTIVE}/*.efi")]);
    }

    fn signed(&self, program: &[u8], key: &Path, certificate: &Path) -> Vec<u8> {
        let [from, to] = ["from.efi", "to.efi"].map(|name| self.path(name));
        std::fs::write(&from, program).unwrap();
        let _ = std::fs::remove_file(&to);
        let mut sign = Command::new("osslsigncode");
        sign.args(["sign", "-h", "sha256", "-key"]).arg(key).arg("-certs").arg(certificate);
        run(sign.arg("-in").arg(from).arg("-out").arg(&to));
        std::fs::read(to).unwrap()
    }
}

fn with_word(add_on: &[u8]) -> Vec<u8> {
    assert_eq!(WORD.len(), SHIPPED_WORD.len());
    let mut changed = add_on.to_vec();
    let at = changed.windows(WORD.len()).position(|bytes| bytes == SHIPPED_WORD.as_bytes()).unwrap();
    changed[at..at + WORD.len()].copy_from_slice(WORD.as_bytes());
    changed
}

pub(crate) fn run(command: &mut Command) -> String {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}; image/host-packages.txt names what is needed"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
