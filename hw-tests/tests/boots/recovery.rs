//! The recovery key of /var: shown to the owner in the first start, by the page, and good for the disk; gone in the next start where nobody wrote it
//! down (decision 0348).

#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use hw_tests::gpt;
use hw_tests::page::{Page, PageError};
use hw_tests::vm::Vm;
use ipc::Sensitive;
use ipc::recovery::{GROUPS, RecoveryNoted, RecoveryState, RecoveryStatus};

/// How long the keeper of the key may take to start.
const KEEPER_PATIENCE: Duration = Duration::from_secs(120);
/// LUKS2 as systemd-repart makes it: all that says which keys open a disk is at its beginning.
const HEADER: usize = 16 << 20;

/// How many keys open /var, and of which kind.
const SLOTS: &str = "cryptsetup luksDump --dump-json-metadata /dev/disk/by-partlabel/data | tr -d ' \\n\\t' | \
                     grep -oE '\"type\":\"(luks2|systemd-[a-z0-9]*)\"' | cut -d'\"' -f4 | sort";
const OF_TPM_AND_OWNER: &str = "luks2\nluks2\nsystemd-recovery\nsystemd-tpm2\n";
const OF_TPM_ALONE: &str = "luks2\nsystemd-tpm2\n";
/// What is kept, and whose it is.
const KEPT: &str = "cd /var/lib && stat -c '%n %U %a' recovery* recovery/*";

/// What became of the key. Its keeper is started by the first question, and a busy machine may take longer over that than the page waits.
fn status(page: &Page) -> RecoveryStatus {
    let begun = Instant::now();
    loop {
        match page.recovery_status() {
            Ok(status) => return status,
            Err(error) => assert!(begun.elapsed() < KEEPER_PATIENCE, "{error}"),
        }
        std::thread::sleep(Duration::from_secs(1));
    }
}

fn shown(page: &Page) -> String {
    let groups = page.recovery_key().unwrap().groups;
    assert_eq!(groups.len(), GROUPS);
    groups.iter().map(Sensitive::expose_secret).collect::<Vec<_>>().join("-")
}

/// All that was ever said, on the console from the firmware on and in the journal; the first system's is in it too.
fn nothing_says(vm: &mut Vm, key: &str) {
    // (Letters like those of a key: the guest's shell does not learn what is looked for.)
    let journal = vm
        .expect("journalctl -b -o export --no-pager | grep -aoE 'recovery key of /var|[cbdefghijklnrtuv]{8,}' | sort -u")
        .unwrap();
    assert!(journal.contains("recovery key of /var"), "the journal does not begin in the first system");
    let console = String::from_utf8_lossy(&std::fs::read(vm.serial_log()).unwrap()).into_owned();
    for group in key.split('-') {
        assert!(!journal.contains(group) && !console.contains(group), "a part of the key was logged");
    }
}

/// The first start: shown to the owner, written down, and then to nobody. Returns the key.
pub(crate) fn is_shown_once(vm: &mut Vm, port: u16) -> String {
    assert_eq!(vm.expect(SLOTS).unwrap(), OF_TPM_AND_OWNER);
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let code = vm.expect("cat /var/lib/web/claim-code").unwrap();
    let (stranger, owner) = (Page::new(address), Page::new(address).with_claim_code(code.trim()));
    let refused = |error| matches!(error, PageError::Refused { status: 401, .. });
    assert!(refused(stranger.recovery_status().unwrap_err()));
    assert!(refused(stranger.recovery_key().unwrap_err()));
    let told = status(&owner);
    assert_eq!((told.state, told.shown), (RecoveryState::Waiting, 0));
    assert_eq!(
        vm.expect(KEPT).unwrap(),
        "recovery recovery 700\nrecovery/key recovery 600\nrecovery/this-start recovery 644\n"
    );
    assert_eq!(
        vm.expect("ls -A /run/hearth-recovery 2>/dev/null; true").unwrap(),
        "",
        "in memory it is nowhere"
    );

    let key = shown(&owner);
    let groups: Vec<&str> = key.split('-').collect();
    let noted = |group, letters: &str| {
        owner.recovery_key_noted(&RecoveryNoted { group, letters: Sensitive::new(letters.to_owned()) })
    };
    assert!(matches!(noted(3, "cccccccc"), Err(PageError::Refused { status: 422, .. })));
    let told = status(&owner);
    assert_eq!((told.state, told.shown), (RecoveryState::Waiting, 1), "it is still there");
    let told = noted(3, groups[2]).unwrap();
    assert_eq!(told.state, RecoveryState::Noted);
    assert!(told.noted_ms.is_some());
    assert!(matches!(owner.recovery_key(), Err(PageError::Refused { status: 410, .. })));
    assert_eq!(vm.expect(KEPT).unwrap(), "recovery recovery 700\nrecovery/noted recovery 644\n");
    nothing_says(vm, &key);
    key
}

/// Later starts show nothing, make no other key, and leave the owner's.
pub(crate) fn is_noted(vm: &mut Vm, port: u16) {
    assert_eq!(vm.expect(SLOTS).unwrap(), OF_TPM_AND_OWNER);
    let code = vm.expect("cat /var/lib/web/claim-code").unwrap();
    let owner = Page::new(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).with_claim_code(code.trim());
    let told = status(&owner);
    assert_eq!((told.state, told.shown), (RecoveryState::Noted, 0));
    assert!(matches!(owner.recovery_key(), Err(PageError::Refused { status: 410, .. })));
    assert_eq!(vm.expect(KEPT).unwrap(), "recovery recovery 700\nrecovery/noted recovery 644\n");
}

/// In the first start of a box whose owner looks at the key and does not write it down. Returns the key.
pub(crate) fn waits(page: &Page) -> String {
    assert_eq!(status(page).state, RecoveryState::Waiting);
    shown(page)
}

/// In its next start: nobody is shown anything, and the key that was shown opens nothing.
pub(crate) fn has_lapsed(vm: &mut Vm, page: &Page, key: &str) {
    assert_eq!(vm.expect(SLOTS).unwrap(), OF_TPM_ALONE);
    assert_eq!(status(page).state, RecoveryState::Lapsed);
    assert!(matches!(page.recovery_key(), Err(PageError::Refused { status: 410, .. })));
    assert_eq!(vm.expect("ls -A /var/lib/recovery").unwrap(), "lapsed\n");
    assert_eq!(vm.expect("cat /var/lib/recovery/lapsed").unwrap(), "its slot was taken out\n");
    nothing_says(vm, key);
}

/// With nothing but the disk of a box that is off: the key opens /var, and one that differs by a letter does not.
pub(crate) fn opens_the_disk_from_outside(disk: &Path, key: &str) {
    let last = if key.ends_with('c') { 'b' } else { 'c' };
    assert!(!opens(disk, &format!("{}{last}", &key[..key.len() - 1])), "a wrong key opens the disk");
    assert!(opens(disk, key), "the key does not open the disk");
}

/// Whether the key opens /var on the disk of a box that is off.
pub(crate) fn opens(disk: &Path, key: &str) -> bool {
    let table = gpt::read(disk).unwrap().unwrap();
    let data = table.partitions.iter().find(|partition| partition.label == "data").unwrap();
    let mut header = vec![0; HEADER];
    File::open(disk).unwrap().read_exact_at(&mut header, data.start).unwrap();
    let copy = tempfile::NamedTempFile::new().unwrap();
    copy.as_file().write_all_at(&header, 0).unwrap();
    copy.as_file().set_len(data.bytes).unwrap();
    let mut cryptsetup = Command::new("cryptsetup")
        .args(["open", "--test-passphrase", "--disable-external-tokens", "--key-file", "-"])
        .arg(copy.path())
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    cryptsetup.stdin.take().unwrap().write_all(key.as_bytes()).unwrap();
    let mut said = String::new();
    cryptsetup.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    let status = cryptsetup.wait().unwrap();
    assert!(status.success() || said.contains("No key available"), "{status}: {said}");
    status.success()
}
