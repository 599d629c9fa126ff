use std::path::PathBuf;

use tpm::swtpm::Swtpm;

use super::*;
use crate::folder::{note, slot_is_gone, take_over};
use crate::key::SAMPLE;

/// As systemd writes a boot ID.
const START: &str = "0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f";

/// A disk and the memory of one start.
struct Machine {
    _dir: tempfile::TempDir,
    folder: PathBuf,
    orders: PathBuf,
    /// The recovery keys that open the disk: what systemd-cryptenroll has put into its header.
    header: Vec<String>,
    made: usize,
}

impl Machine {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (folder, orders) = (dir.path().join("lib/recovery"), dir.path().join("orders"));
        Self { _dir: dir, folder, orders, header: Vec::new(), made: 0 }
    }

    /// A start whose power is cut after so many of its three steps.
    fn start(&mut self, steps: usize, signer_was_here: bool) {
        drop(fs::remove_dir_all(&self.orders));
        fs::create_dir(&self.orders).unwrap();
        if steps == 0 {
            return;
        }
        match decide(&self.folder, || signer_was_here).unwrap() {
            None => return,
            Some(Order::Drop) if steps > 1 => {
                self.header.clear();
                fs::write(self.orders.join(DROPPED), "").unwrap();
            }
            Some(order) if steps > 1 => {
                if order == Order::MakeAgain {
                    self.header.clear();
                }
                self.made += 1;
                let letter = char::from(b"cbdefghi"[self.made % 8]);
                let key = format!("{}{letter}", &SAMPLE[..SAMPLE.len() - 1]);
                fs::write(self.orders.join(KEY), format!("{key}\n")).unwrap();
                self.header.push(key);
            }
            Some(_) => return,
        }
        if steps > 2 {
            keep(&self.folder, &self.orders, START).unwrap();
            assert!(!self.orders.join(KEY).exists());
        }
    }

    fn waiting(&self) -> Option<String> {
        match folder::look(&self.folder) {
            Ok(Kept::Waiting(key)) => Some(key.expose_secret().to_owned()),
            _ => None,
        }
    }
}

#[test]
fn a_power_cut_between_any_steps_leaves_no_key_that_opens_and_nobody_knows_after_the_next_whole_start() {
    for first in 0..4 {
        for second in 0..4 {
            let mut machine = Machine::new();
            machine.start(first, false);
            machine.start(second, false);
            machine.start(3, false);
            let waits = machine.waiting().expect("a key waits");
            assert_eq!(machine.header.join(" "), waits, "after {first} and {second} steps");
            // As long as the signer never ran it is the same one that is shown.
            machine.start(3, false);
            assert_eq!((machine.waiting(), machine.header.len()), (Some(waits), 1));
            // Then it is gone before anything is shown, wherever that start is cut, and its slot with it.
            for steps in [first.max(1), second, 3, 3] {
                machine.start(steps, true);
                assert_eq!(machine.waiting(), None, "{first}, {second}, {steps}");
                assert!(!machine.folder.join("key").exists());
            }
            assert!(machine.header.is_empty());
            // And none is made any more, not even where the signer's state is lost.
            for here in [true, false] {
                machine.start(3, here);
                assert!(machine.header.is_empty() && machine.waiting().is_none());
            }
        }
    }
}

#[test]
fn a_key_that_was_never_kept_goes_when_the_signer_has_come_meanwhile() {
    for steps in 0..3 {
        let mut machine = Machine::new();
        machine.start(steps, false);
        machine.start(3, true);
        assert!(machine.header.is_empty() && machine.waiting().is_none(), "after {steps} steps");
    }
}

#[test]
fn where_the_signer_was_no_key_is_made() {
    let mut machine = Machine::new();
    machine.start(3, true);
    assert!(
        machine.header.is_empty()
            && !machine.folder.exists()
            && !machine.folder.with_extension("new").exists()
    );
}

/// What a dying disk or a meddler does to the folder.
type Damage = fn(&Path);

#[test]
fn what_the_owner_has_noted_is_never_taken_out_and_never_made_again_whatever_the_disk_says_of_it() {
    let noted = || {
        let mut machine = Machine::new();
        machine.start(3, false);
        note(&machine.folder, 1).unwrap();
        assert_eq!(fs::read_to_string(machine.folder.join("noted")).unwrap(), "1\n");
        machine
    };
    let damages: [(&str, Damage); 8] = [
        ("nothing", |_| {}),
        ("empty", |folder| fs::write(folder.join("noted"), "").unwrap()),
        ("garbled", |folder| fs::write(folder.join("noted"), [0xff; 200]).unwrap()),
        ("a folder in its place", |folder| {
            fs::remove_file(folder.join("noted")).unwrap();
            fs::create_dir(folder.join("noted")).unwrap();
        }),
        ("the key's file came back as it was overwritten", |folder| {
            fs::remove_file(folder.join("noted")).unwrap();
            fs::write(folder.join("key"), "-".repeat(71)).unwrap();
        }),
        ("a mark that says something else", |folder| {
            fs::remove_file(folder.join("noted")).unwrap();
            fs::write(folder.join("lapsed"), "its slot").unwrap();
        }),
        ("the folder is no folder: an error", |folder| {
            fs::remove_dir_all(folder).unwrap();
            fs::write(folder, "").unwrap();
        }),
        ("the folder's name leads nowhere: an error", |folder| {
            fs::remove_dir_all(folder).unwrap();
            std::os::unix::fs::symlink(folder, folder).unwrap();
        }),
    ];
    for (damage, does) in damages {
        for signer_was_here in [true, false] {
            let mut machine = noted();
            does(&machine.folder);
            assert!(!matches!(decide(&machine.folder, || signer_was_here), Ok(Some(_))), "{damage}");
            assert_eq!((machine.header.len(), machine.waiting()), (1, None), "{damage}");
            if folder::look(&machine.folder).is_ok() {
                machine.start(3, signer_was_here);
            }
            assert_eq!(machine.header.len(), 1, "{damage}");
        }
    }
    // All of it lost: the signer's state, which each start leaves, speaks against another key.
    let mut machine = noted();
    fs::remove_dir_all(&machine.folder).unwrap();
    machine.start(3, true);
    assert_eq!((machine.header.len(), machine.made), (1, 1));
}

#[test]
fn a_power_cut_within_a_step_shows_no_key_that_is_not_kept_whole() {
    // While it is kept: half of it lies in a folder that has no name yet.
    for half in ["", &SAMPLE[..40], SAMPLE] {
        let mut machine = Machine::new();
        machine.start(2, false);
        fs::write(machine.folder.with_extension("new").join("key"), half).unwrap();
        assert!(matches!(folder::look(&machine.folder), Ok(Kept::Begun)));
        machine.start(3, false);
        assert_eq!(machine.header, [machine.waiting().unwrap()]);
    }
    // While it is noted, before the word is durable: it is shown again, and after: not, and the file goes in the next start.
    let mut machine = Machine::new();
    machine.start(3, false);
    fs::write(machine.folder.join("noted.new"), "1").unwrap();
    assert!(machine.waiting().is_some());
    for left in [SAMPLE.to_owned(), "-".repeat(71)] {
        fs::write(machine.folder.join("noted"), "1\n").unwrap();
        fs::write(machine.folder.join("key"), left).unwrap();
        assert!(matches!(folder::look(&machine.folder), Ok(Kept::Noted { at_ms: Some(1) })));
        machine.start(3, true);
        assert!(!machine.folder.join("key").exists() && machine.header.len() == 1);
    }
    // While it lapses, the same.
    let mut machine = Machine::new();
    machine.start(3, false);
    fs::write(machine.folder.join("lapsed"), folder::SLOT_WAITS).unwrap();
    assert!(matches!(folder::look(&machine.folder), Ok(Kept::Lapsed { slot_waits: true })));
    machine.start(3, true);
    assert!(!machine.folder.join("key").exists() && machine.header.is_empty());
}

#[test]
fn nothing_but_a_key_that_is_being_made_is_kept() {
    let mut machine = Machine::new();
    machine.start(3, false);
    let made = machine.orders.join(KEY);
    for noted in [false, true] {
        fs::write(&made, SAMPLE.replace('c', "v")).unwrap();
        assert!(matches!(take_over(&made, &machine.folder), Err(FolderError::NotNow { .. })));
        assert!(!made.exists(), "it stays nowhere");
        assert!(slot_is_gone(&machine.folder).is_err());
        assert_eq!(machine.waiting().is_some(), !noted);
        note(&machine.folder, 7).unwrap();
    }
    let mut machine = Machine::new();
    machine.start(2, false);
    let made = machine.orders.join(KEY);
    for bytes in [String::new(), "hunter2".to_owned(), format!("{SAMPLE}\n{SAMPLE}\n")] {
        fs::write(&made, bytes).unwrap();
        assert!(matches!(take_over(&made, &machine.folder), Err(FolderError::NoKey { .. })));
        assert!(!made.exists() && !machine.folder.exists());
    }
}

#[test]
fn only_a_tpm_that_says_so_and_a_disk_that_says_so_had_no_signer() {
    let dir = tempfile::tempdir().unwrap();
    let swtpm = Swtpm::start(&dir.path().join("tpm")).unwrap();
    let signer = |state: &Path, tcti: &str| Signer {
        state_dir: state.to_owned(),
        tcti: tcti.to_owned(),
        counter_index: 0x0150_0021,
    };
    let nowhere = dir.path().join("signer");
    assert!(!signer_was_here(&signer(&nowhere, swtpm.tcti())));
    // No answer is no absence; nor is what cannot be looked for.
    assert!(signer_was_here(&signer(&nowhere, "device:/dev/null/tpm")));
    fs::write(dir.path().join("file"), "").unwrap();
    assert!(signer_was_here(&signer(&dir.path().join("file/signer"), swtpm.tcti())));
    assert!(signer_was_here(&signer(dir.path(), swtpm.tcti())));
    Tpm::open(swtpm.tcti()).unwrap().counter(0x0150_0020).increment().unwrap();
    Tpm::open(swtpm.tcti()).unwrap().counter(0x0150_0022).increment().unwrap();
    assert!(!signer_was_here(&signer(&nowhere, swtpm.tcti())));
    Tpm::open(swtpm.tcti()).unwrap().counter(0x0150_0021).increment().unwrap();
    assert!(signer_was_here(&signer(&nowhere, swtpm.tcti())));
}

#[test]
fn the_orders_say_what_goes_on_the_command_line() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("lib/recovery");
    let signer = Signer {
        state_dir: dir.path().join("signer"),
        tcti: "device:/dev/null/tpm".to_owned(),
        counter_index: 0x0150_0021,
    };
    // A TPM that does not answer: nothing is ordered.
    let disk = || Ok(PathBuf::from("/dev/vda7"));
    look(&folder, dir.path(), START, &signer, disk).unwrap();
    assert!(!dir.path().join(MAKE).exists() && !folder.with_extension("new").exists());
    let swtpm = Swtpm::start(&dir.path().join("tpm")).unwrap();
    let signer = Signer { tcti: swtpm.tcti().to_owned(), ..signer };
    for words in [TAKE_OUT_NOTHING, TAKE_OUT] {
        look(&folder, dir.path(), START, &signer, disk).unwrap();
        let order = fs::read_to_string(dir.path().join(MAKE)).unwrap();
        assert_eq!(order, format!("{words}DISK=/dev/vda7\n"));
        assert!(!dir.path().join(DROP).exists());
    }
    fs::create_dir(&signer.state_dir).unwrap();
    // Which disk it is about has to be known: another one may have the same label.
    assert!(look(&folder, dir.path(), START, &signer, || anyhow::bail!("two")).is_err());
    assert!(!dir.path().join(DROP).exists());
    look(&folder, dir.path(), START, &signer, disk).unwrap();
    assert_eq!(fs::read_to_string(dir.path().join(DROP)).unwrap(), "DISK=/dev/vda7\n");
}

#[test]
fn a_key_may_be_shown_in_the_start_that_has_looked_and_in_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let mut machine = Machine::new();
    machine.start(3, false);
    let folder = machine.folder.clone();
    let may = |start: &str| folder::may_be_shown(&folder, start).unwrap();
    assert!(may(START) && !may("another") && !may(""));
    // A start whose first system breaks off, or whose disk takes no writes, says nothing.
    let swtpm = Swtpm::start(&dir.path().join("tpm")).unwrap();
    let signer = Signer {
        state_dir: dir.path().join("signer"),
        tcti: swtpm.tcti().to_owned(),
        counter_index: 0x0150_0021,
    };
    let disk = || Ok(PathBuf::from("/dev/vda7"));
    look(&folder, dir.path(), "another", &signer, disk).unwrap();
    assert!(may("another") && !may(START));
    fs::create_dir(&signer.state_dir).unwrap();
    // Even where it cannot be said that it lapsed, it goes.
    fs::create_dir(folder.join("lapsed.new")).unwrap();
    assert!(look(&folder, dir.path(), "third", &signer, disk).is_err());
    assert!(!folder.join("key").exists() && !may("third") && !may("another"));
}
