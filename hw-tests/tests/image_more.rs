//! What the image does on other machines than the smallest one: with four processors, on an NVMe disk, on a disk that is too
//! small, on a stick that is to install it. By name only (`./hearth test image-more`), because each is a boot of its own.
//!
//! Needs a built dev image, named by HEARTH_IMAGE.

use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use hw_tests::gpt;
use hw_tests::vm::checks::{BOOT_PATIENCE, broken_facts};
use hw_tests::vm::measure::MEASURED;
use hw_tests::vm::{Vm, VmError};

/// The stick is read whole before the first question; then it is copied, and the copy is read back. All of it is hashed, emulated.
const PATIENCE_TO_COPY: Duration = Duration::from_secs(1500);

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

/// Three disks: the stick that a person made with `./hearth flash --installer`, the one that is built in, and one that is too small. The
/// person thinks twice, and then agrees.
#[test]
fn a_stick_writes_itself_to_the_disk_that_is_built_in() {
    let Some(image) = image() else { return };
    let dir = tempfile::tempdir().unwrap();
    let machine = Vm::builder(&image, dir.path()).built_in_gb(8).small_gb(2).installer().keyboard();
    let mut vm = machine.start().unwrap();
    vm.wait_shown("Number of the disk", PATIENCE_TO_COPY).unwrap();
    let console = std::fs::read_to_string(vm.serial_log()).unwrap();
    for told in [
        "1  /dev/nvme0n1 (QEMU NVMe Ctrl",
        "-  /dev/sda is what this was started from",
        "-  /dev/vda (no name, 2 GB): the disk has 2147 MB",
    ] {
        assert!(console.contains(told), "{told}: {console}");
    }

    // Anything but the word leaves the disk as it is.
    vm.type_text("1\ryes\r").unwrap();
    vm.wait_shown("Nothing was written.", BOOT_PATIENCE).unwrap();
    let built_in = vm.built_in_disk();
    assert!(gpt::read(&built_in).unwrap().is_none(), "something was written");

    vm.type_text("1\rERASE\r").unwrap();
    vm.wait_shown("Hearth is on /dev/nvme0n1", PATIENCE_TO_COPY).unwrap();
    vm.wait_shown("Pull the stick out now", BOOT_PATIENCE).unwrap();
    assert_eq!(partitions(&built_in), 3);
    let mut disk = std::fs::File::open(&built_in).unwrap();
    assert!(!installer::switch::on_disk(&mut disk).unwrap().install.on, "the copy is an installer too");
    // All of it but the boot partition, where systemd-boot counts starts in a file name, is the image's.
    let root = gpt::read(&image).unwrap().unwrap().partitions[1].start;
    let rest = image.metadata().unwrap().len() - root;
    let places = [format!("--ignore-initial={root}"), format!("--bytes={rest}")];
    assert!(Command::new("cmp").args(places).arg(&image).arg(&built_in).status().unwrap().success());
    // The stick made nothing of itself that could hold a secret, and can be used again.
    assert_eq!(partitions(vm.disk()), 3);
    // It waits for the stick to be pulled out, and for nothing else.
    vm.type_text("\r\r").unwrap();
    std::thread::sleep(Duration::from_secs(10));
    vm.check_alive().unwrap();
    vm.pull_stick().unwrap();
    vm.wait_off(BOOT_PATIENCE).unwrap();
}

fn partitions(disk: &Path) -> usize {
    gpt::read(disk).expect("the disk can be read").expect("it has a table").partitions.len()
}

/// The first start of the disk that was just installed: the machine's system, its hashes and its boot partition are on two disks
/// under the same names. Which ones are found is chance; nothing is made of either.
#[test]
fn a_stick_that_is_left_in_never_becomes_the_box() {
    let Some(image) = image() else { return };
    let dir = tempfile::tempdir().unwrap();
    let machine = Vm::builder(&image, dir.path()).built_in_gb(8).installed().installer().stick_left_in();
    let mut vm = machine.start().unwrap();
    vm.wait_for("Pull it out", BOOT_PATIENCE).unwrap();
    std::thread::sleep(Duration::from_secs(10));
    let built_in = vm.built_in_disk();
    assert_eq!((partitions(&built_in), partitions(vm.disk())), (3, 3));
    vm.pull_stick().unwrap();
    vm.wait_for("the stick is out", BOOT_PATIENCE).unwrap();
    let first = vm.wait_ready(BOOT_PATIENCE * 2).unwrap();
    assert_eq!(broken_facts(&mut vm).unwrap(), Vec::<String>::new());
    assert_eq!((partitions(&built_in), partitions(vm.disk())), (6, 3));
    println!("{MEASURED}what was installed from a stick was up {first:.0?} after the stick was pulled out");
}

/// Asks the signer as the page does.
const ASK_SIGNER: &str = "setpriv --reuid web --regid web --clear-groups curl -s --unix-socket /run/hearth/signer/control.sock http://signer";

/// A board without a TPM, as `./hearth flash --tpm none` writes its disk: /var is plain and on the disk of the system, and the signer waits
/// for a passphrase, and does so again after a power cut.
#[test]
fn a_board_without_a_tpm_starts_and_waits_for_a_passphrase() {
    let Some(image) = image() else { return };
    let dir = tempfile::tempdir().unwrap();
    let mut vm = Vm::builder(image, dir.path()).needs_no_tpm().has_no_tpm().start().unwrap();
    let first = vm.wait_ready(BOOT_PATIENCE).unwrap();
    let [status, passphrase] = ["/v1/status", "/v1/passphrase"].map(|path| format!("{ASK_SIGNER}{path}"));
    let facts: [(&str, &str); 9] = [
        ("cat /proc/cmdline", "hearth.tpm=none"),
        ("dmsetup table data", " linear "),
        ("findmnt -no SOURCE,FSTYPE,OPTIONS /var", "/dev/mapper/data ext4 rw,nosuid,nodev,noexec"),
        ("lsblk -no FSTYPE $(readlink -f /dev/disk/by-partlabel/data) | head -n 1", "ext4"),
        ("stat -c %U-%a /run/hearth-no-tpm", "root-755"),
        ("systemctl is-active signer dv-node web", "active\nactive\nactive"),
        ("systemctl list-units --failed --no-legend --plain; echo none", "none"),
        (&status, "\"passphrase\""),
        (&passphrase, "\"unset\""),
    ];
    for (asked, word) in facts {
        let said = vm.expect(asked).unwrap();
        assert!(said.contains(word), "{asked}: {said}");
    }
    vm.expect("echo kept >/var/lib/kept; sync").unwrap();
    vm.power_cut().unwrap();
    assert_eq!(partitions(vm.disk()), 6);
    vm.power_on().unwrap();
    vm.wait_ready(BOOT_PATIENCE).unwrap();
    assert_eq!(vm.expect("cat /var/lib/kept").unwrap().trim(), "kept");
    assert!(vm.expect(&passphrase).unwrap().contains("\"unset\""));
    println!("{MEASURED}without a TPM it was up after {first:.0?}");
}

/// The byte on the boot partition is all that somebody changed: the TPM is there, so nothing is made of the disk.
#[test]
fn a_box_with_a_tpm_that_starts_as_one_without_makes_nothing_of_its_disk() {
    let Some(image) = image() else { return };
    let dir = tempfile::tempdir().unwrap();
    let mut vm = Vm::builder(&image, dir.path()).needs_no_tpm().start().unwrap();
    vm.wait_for("Assertion failed for no-tpm-disk.service", BOOT_PATIENCE).unwrap();
    let error = vm.wait_ready(BOOT_PATIENCE).unwrap_err();
    assert!(matches!(error, VmError::Emergency { .. }), "{error}");
    assert_eq!(partitions(vm.disk()), 3, "something was made of the disk");
}

/// A box's sealed disk with the byte turned: with its TPM nothing of it is opened, and with the TPM taken away neither. No byte of it is
/// changed, so with the byte turned back the box has all that it had.
#[test]
fn a_sealed_disk_that_starts_as_one_without_a_tpm_is_left_alone() {
    let Some(image) = image() else { return };
    let dir = tempfile::tempdir().unwrap();
    let mut vm = Vm::builder(&image, dir.path()).start().unwrap();
    vm.wait_ready(BOOT_PATIENCE).unwrap();
    vm.expect("echo kept >/var/lib/kept; sync").unwrap();
    vm.power_cut().unwrap();
    let before = dir.path().join("before.raw");
    let copied =
        Command::new("cp").args(["--sparse=always", "--reflink=auto"]).args([vm.disk(), &before]).status();
    assert!(copied.unwrap().success());
    // All that comes after the boot partition, where starts are counted, up to the table's copy at the disk's end.
    let places = gpt::read(&before).unwrap().unwrap().partitions;
    assert_eq!(places[5].label, "data");
    let (from, to) = (places[1].start, places[5].start + places[5].bytes);
    let is_as_before = |vm: &Vm| {
        let range = [format!("--ignore-initial={from}"), format!("--bytes={}", to - from)];
        let same = Command::new("cmp").args(range).arg(&before).arg(vm.disk()).status().unwrap();
        assert!(same.success(), "something was written to the sealed disk");
        assert_eq!(gpt::read(vm.disk()).unwrap().unwrap().partitions, places);
    };
    let turned = |vm: &Vm| std::fs::File::options().read(true).write(true).open(vm.disk()).unwrap();

    installer::switch::turn_on(&mut turned(&vm), installer::switch::AddOn::NoTpm).unwrap();
    vm.power_on().unwrap();
    let error = vm.wait_ready(BOOT_PATIENCE).unwrap_err();
    assert!(matches!(error, VmError::Emergency { .. }), "{error}");
    vm.power_cut().unwrap();
    is_as_before(&vm);
    drop(vm);

    let mut vm = Vm::builder(&image, dir.path()).has_no_tpm().start().unwrap();
    vm.wait_for("was sealed to a TPM", BOOT_PATIENCE).unwrap();
    let error = vm.wait_ready(BOOT_PATIENCE).unwrap_err();
    assert!(matches!(error, VmError::Emergency { .. }), "{error}");
    vm.power_cut().unwrap();
    is_as_before(&vm);
    let mut disk = turned(&vm);
    let switch = installer::switch::on_disk(&mut disk).unwrap().no_tpm.unwrap();
    assert!(switch.on);
    disk.write_all_at(b"T", switch.at).unwrap();
    drop(vm);

    let mut vm = Vm::builder(&image, dir.path()).start().unwrap();
    vm.wait_ready(BOOT_PATIENCE).unwrap();
    assert_eq!(vm.expect("cat /var/lib/kept").unwrap().trim(), "kept");
}
