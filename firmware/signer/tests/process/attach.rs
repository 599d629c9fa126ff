//! Debuggers, memory files and core dumps: nobody but an administrator looks into a running signer, not even its own user.

use crate::harness::*;
use ipc::signer::History;
use nix::unistd::Uid;
use std::{
    os::unix::{
        fs::PermissionsExt as _,
        process::{CommandExt as _, ExitStatusExt as _},
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// A user without any right, where this test runs as root.
const NOBODY: u32 = 65534;

fn build_attach(dir: &Path) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/process/attach.c");
    let program = dir.join("attach");
    let built = Command::new("cc").arg("-o").arg(&program).arg(source).status().unwrap();
    assert!(built.success(), "the test needs a C compiler");
    program
}

/// What each way ended with: 0 for success, otherwise the system's error number.
fn tries(attach: &Path, pid: u32, user: u32) -> Vec<(String, i32)> {
    let mut command = Command::new(attach);
    command.arg(pid.to_string());
    if Uid::effective().is_root() {
        command.uid(user).gid(user);
    }
    let output = command.output().unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    let line = |line: &str| {
        let (name, number) = line.rsplit_once(' ').unwrap();
        (name.to_owned(), number.parse().unwrap())
    };
    text.lines().map(line).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn not_even_its_own_user_can_attach_to_a_signer_or_read_its_memory() {
    let mut machine = Machine::new();
    let dir = machine.dir.path().to_owned();
    let attach = build_attach(&dir);
    std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o755)).unwrap();
    let me = Uid::effective();
    let user = if me.is_root() { NOBODY } else { me.as_raw() };
    machine.run_as(user, me.as_raw());
    let signer = machine.start().await;
    signer.import(&bundle(&[1], History::NeverSigned)).await.unwrap();
    signer.attest(&pubshare(1), &vote(1, 2, 1)).await.unwrap();

    let outcomes = tries(&attach, signer.child.id(), user);
    assert_eq!(outcomes.len(), 6, "{outcomes:?}");
    for (way, error) in outcomes {
        assert!([libc_eperm(), libc_eacces()].contains(&error), "{way}: {error}");
    }
    // The same ways lead into any other process of that user, or nothing was shown.
    let mut other = Command::new("sleep");
    other.arg("60").stdout(Stdio::null());
    if me.is_root() {
        other.uid(user).gid(user);
    }
    let mut other = other.spawn().unwrap();
    let open: Vec<_> =
        tries(&attach, other.id(), user).into_iter().filter(|(_, error)| *error == 0).collect();
    other.kill().unwrap();
    other.wait().unwrap();
    if open.is_empty() {
        println!(
            "SKIPPED: this system lets no process look into another, so the signer's own lock was not seen alone"
        );
    } else {
        assert!(open.iter().any(|(way, _)| way == "mem" || way == "seize"), "{open:?}");
    }
    // It was not disturbed.
    signer.attest(&pubshare(1), &vote(2, 3, 1)).await.unwrap();
    signer.stop();
}

fn libc_eperm() -> i32 {
    nix::errno::Errno::EPERM as i32
}

fn libc_eacces() -> i32 {
    nix::errno::Errno::EACCES as i32
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signer_that_crashes_leaves_no_core_file() {
    // As generous as a system can be: no limit, and a folder where it could be written.
    let dumped = |script: &str, dir: &Path| {
        let mut command = Command::new("sh");
        command.args(["-c", &format!("ulimit -c unlimited; {script}")]).current_dir(dir);
        command
    };
    let dir = tempfile::tempdir().unwrap();
    let control = dumped("exec sh -c 'kill -SEGV $$'", dir.path()).status().unwrap();
    if !control.core_dumped() {
        println!(
            "SKIPPED: this system writes no core files at all, so the signer's own lock was not seen alone"
        );
    }
    let machine = Machine::new();
    let signer = machine.start_in("ulimit -c unlimited", dir.path()).await;
    signer.import(&bundle(&[1], History::NeverSigned)).await.unwrap();
    let before = std::fs::read_dir(dir.path()).unwrap().count();
    let status = signer.crash();
    assert!(status.signal().is_some() && !status.core_dumped(), "{status:?}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), before);
}

/// One mapping of `/proc/PID/smaps`: its permissions, name, kilobytes of own memory, and its flags.
struct Mapping {
    line: String,
    anonymous_kb: u64,
    flags: Vec<String>,
}

impl Mapping {
    fn all(smaps: &str) -> Vec<Self> {
        let mut all: Vec<Self> = Vec::new();
        for line in smaps.lines() {
            let first = line.split_whitespace().next().unwrap_or_default();
            if first.contains('-') && !first.ends_with(':') {
                all.push(Self { line: line.to_owned(), anonymous_kb: 0, flags: Vec::new() });
            }
            let Some(mapping) = all.last_mut() else { continue };
            if let Some(rest) = line.strip_prefix("Anonymous:") {
                mapping.anonymous_kb = rest.trim().trim_end_matches(" kB").parse().unwrap();
            } else if let Some(rest) = line.strip_prefix("VmFlags:") {
                mapping.flags = rest.split_whitespace().map(str::to_owned).collect();
            }
        }
        all
    }

    fn has(&self, flag: &str) -> bool {
        self.flags.iter().any(|known| known == flag)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_memory_that_was_written_is_locked_and_what_was_never_touched_takes_none() {
    let machine = Machine::new();
    let dir = tempfile::tempdir().unwrap();
    let signer = machine.start_in("ulimit -l unlimited 2>/dev/null", dir.path()).await;
    signer.import(&bundle(&[1], History::NeverSigned)).await.unwrap();
    signer.attest(&pubshare(1), &vote(1, 2, 1)).await.unwrap();
    let smaps = std::fs::read_to_string(format!("/proc/{}/smaps", signer.child.id())).unwrap_or_default();
    let all = Mapping::all(&smaps);
    if !all.iter().any(|mapping| mapping.has("lo")) {
        println!("SKIPPED: this system's limit for locked memory is too low, or its smaps may not be read");
        return signer.stop();
    }
    let written = all.iter().filter(|mapping| mapping.anonymous_kb > 0 && mapping.has("wr"));
    let unlocked: Vec<&str> =
        written.clone().filter(|mapping| !mapping.has("lo")).map(|mapping| mapping.line.as_str()).collect();
    assert!(unlocked.is_empty(), "written and not locked: {unlocked:#?}");
    // Mapped after the start, too: the threads' stacks and heaps.
    assert!(written.count() > 4);
    // On fault: what was never touched is not brought in for the lock's sake.
    assert!(all.iter().any(|mapping| mapping.has("wr") && mapping.has("lf")));
    signer.stop();
}
