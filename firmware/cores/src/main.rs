//! Gives the duties a processor of their own, on machines that have one to give (issue 6, decision 0310).
//!
//! Two moments of the start need a look at the machine, which a unit file cannot have. systemd calls this program as a generator
//! before it reads any unit: it then says in drop-ins which processors `dv.slice` and its two services may use. Later
//! `cores.service` calls `cores apply`, which makes those processors an isolated partition (the kernel's
//! Documentation/admin-guide/cgroup-v2.rst, "cpuset.cpus.partition") and sends interrupts elsewhere. Whatever fails
//! gives all processors back to everybody: a box that works as well as without this program.

mod plan;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use plan::Plan;

/// Makes the partition, on machines that `generate` finds large enough.
const UNIT: &str = "/usr/lib/systemd/system/cores.service";
/// The slice of signer and node, below the root of the kernel's process groups.
const PARTITION: &str = "sys/fs/cgroup/dv.slice/cpuset.cpus.partition";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let root = Path::new("/");
    let result = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        // systemd.generator(7): three folders, of which the first is for ordinary drop-ins.
        [folder, _, _] => generate(root, Path::new(folder)),
        ["apply"] => apply(root, &mut set_processors),
        _ => Err(io::Error::other("say `cores apply`; systemd calls it as a generator with three folders")),
    };
    match result {
        Ok(said) => {
            for line in said {
                println!("{line}");
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("cores: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The cores of this machine that are switched on, each with its hardware threads.
fn cores(root: &Path) -> io::Result<Vec<Vec<u32>>> {
    let folder = root.join("sys/devices/system/cpu");
    let online = read(&folder.join("online"))?;
    let online = plan::read_list(&online)
        .ok_or_else(|| io::Error::other(format!("the kernel's list of processors is {online:?}")))?;
    let mut cores: Vec<Vec<u32>> = Vec::new();
    for processor in &online {
        if cores.iter().any(|threads| threads.contains(processor)) {
            continue;
        }
        // Where the kernel does not say, every processor counts as a core.
        let siblings = read(&folder.join(format!("cpu{processor}/topology/thread_siblings_list"))).ok();
        let mut threads = siblings.and_then(|text| plan::read_list(&text)).unwrap_or_default();
        threads.retain(|thread| online.contains(thread));
        if !threads.contains(processor) {
            threads = vec![*processor];
        }
        cores.push(threads);
    }
    Ok(cores)
}

/// Writes which processors the slice and its services may use, and has `cores.service` started.
fn generate(root: &Path, folder: &Path) -> io::Result<Vec<String>> {
    let Some(plan) = plan::plan(&cores(root)?) else { return Ok(Vec::new()) };
    for (unit, section, processors) in [
        ("dv.slice", "Slice", plan::list(&plan.duties)),
        ("dv-node.service", "Service", plan.node.to_string()),
        ("signer.service", "Service", plan.signer.to_string()),
    ] {
        let folder = folder.join(format!("{unit}.d"));
        fs::create_dir_all(&folder).map_err(about(&folder))?;
        let path = folder.join("50-cores.conf");
        let text = format!(
            "# Written by `cores` for this machine's processors.\n[{section}]\nAllowedCPUs={processors}\n"
        );
        fs::write(&path, text).map_err(about(&path))?;
    }
    let wants = folder.join("hearth.target.wants");
    fs::create_dir_all(&wants).map_err(about(&wants))?;
    let link = wants.join("cores.service");
    std::os::unix::fs::symlink(UNIT, &link).map_err(about(&link))?;
    Ok(Vec::new())
}

/// Who has processors of their own.
const PINNED: [&str; 3] = ["dv.slice", "dv-node.service", "signer.service"];

/// Makes the slice's processors its own, and sends interrupts elsewhere. `set` gives a unit other processors.
///
/// When the kernel does not take part, everybody gets all processors: signer and node would otherwise share theirs with everybody
/// else and have no others to go to.
fn apply(root: &Path, set: &mut dyn FnMut(&str, &str) -> io::Result<()>) -> io::Result<Vec<String>> {
    let cores = cores(root)?;
    let Some(plan) = plan::plan(&cores) else {
        return Ok(vec![format!(
            "{} cores are too few to give one away: the duties' weight must do",
            cores.len()
        )]);
    };
    let partition = root.join(PARTITION);
    if let Err(error) = isolate(&partition) {
        // As it is when nobody asked; where there is no such file there is nothing to take back.
        let _ = fs::write(&partition, "member");
        let all = plan::list(&plan.all());
        for unit in PINNED {
            set(unit, &all)?;
        }
        return Err(error);
    }
    let (moved, stayed) = move_interrupts(root, &plan);
    Ok(vec![format!(
        "signer and node have processors {} to themselves; {moved} interrupts were sent to {}, {stayed} stay where their hardware has them",
        plan::list(&plan.duties),
        plan::list(&plan.others)
    )])
}

/// Asks the kernel for the partition. It takes the word and says only afterwards whether it does what was asked, and why not.
fn isolate(partition: &Path) -> io::Result<()> {
    fs::write(partition, "isolated").map_err(about(partition))?;
    let state = read(partition)?;
    if state == "isolated" {
        return Ok(());
    }
    Err(io::Error::other(format!("the duties share all processors: the kernel says `{state}`")))
}

/// Has systemd give a unit other processors until the next start, also before the unit is started.
fn set_processors(unit: &str, processors: &str) -> io::Result<()> {
    let status = Command::new("/usr/bin/systemctl")
        .args(["--runtime", "set-property", unit, &format!("AllowedCPUs={processors}")])
        .status()?;
    if status.success() {
        return Ok(());
    }
    Err(io::Error::other(format!("systemd does not give {unit} other processors: {status}")))
}

/// Sends every interrupt to the other processors that lets itself be sent, and those that come later too. How many went, and
/// how many did not: some belong to one processor (timers, a disk's queue for each), and wake only who used them.
fn move_interrupts(root: &Path, plan: &Plan) -> (usize, usize) {
    let folder = root.join("proc/irq");
    // Not worth a failure: the partition holds without it.
    let _ = fs::write(folder.join("default_smp_affinity"), plan::mask(&plan.others));
    let others = plan::list(&plan.others);
    let (mut moved, mut stayed) = (0, 0);
    for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
        let path = entry.path().join("smp_affinity_list");
        if path.exists() {
            match fs::write(&path, &others) {
                Ok(()) => moved += 1,
                Err(_) => stayed += 1,
            }
        }
    }
    (moved, stayed)
}

fn read(path: &Path) -> io::Result<String> {
    Ok(fs::read_to_string(path).map_err(about(path))?.trim().to_owned())
}

/// An error that says which file it is about.
fn about(path: &Path) -> impl FnOnce(io::Error) -> io::Error {
    let path: PathBuf = path.to_owned();
    move |error| io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine's files with this many cores, each with two threads when `twice`.
    fn machine(cores: u32, twice: bool) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let write = |path: String, text: String| {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let all = if twice { cores * 2 } else { cores };
        write("sys/devices/system/cpu/online".into(), format!("0-{}\n", all - 1));
        for cpu in 0..all {
            let core = cpu % cores;
            let siblings = if twice { format!("{core},{}\n", core + cores) } else { format!("{core}\n") };
            write(format!("sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"), siblings);
        }
        write(PARTITION.into(), "member\n".into());
        write("proc/irq/default_smp_affinity".into(), "f\n".into());
        for irq in [1, 8] {
            write(format!("proc/irq/{irq}/smp_affinity_list"), "0-3\n".into());
        }
        dir
    }

    #[test]
    fn drop_ins_say_who_runs_where() {
        let (dir, out) = (machine(4, true), tempfile::tempdir().unwrap());
        generate(dir.path(), out.path()).unwrap();
        for (unit, line) in [
            ("dv.slice", "[Slice]\nAllowedCPUs=3,7\n"),
            ("dv-node.service", "[Service]\nAllowedCPUs=3\n"),
            ("signer.service", "[Service]\nAllowedCPUs=7\n"),
        ] {
            let text = fs::read_to_string(out.path().join(format!("{unit}.d/50-cores.conf"))).unwrap();
            assert!(text.ends_with(line), "{text}");
        }
        let wanted = fs::read_link(out.path().join("hearth.target.wants/cores.service")).unwrap();
        assert_eq!(wanted, Path::new(UNIT));
    }

    #[test]
    fn a_small_machine_stays_as_it_is() {
        let (dir, out) = (machine(2, true), tempfile::tempdir().unwrap());
        generate(dir.path(), out.path()).unwrap();
        assert_eq!(fs::read_dir(out.path()).unwrap().count(), 0);
        assert!(apply(dir.path(), &mut nobody).unwrap()[0].contains("too few"));
        assert_eq!(fs::read_to_string(dir.path().join(PARTITION)).unwrap(), "member\n");
    }

    #[test]
    fn the_partition_is_made_and_interrupts_are_sent_away() {
        let dir = machine(4, false);
        let said = apply(dir.path(), &mut nobody).unwrap().join("\n");
        assert!(said.contains("processors 3 to themselves; 2 interrupts were sent to 0,1,2"), "{said}");
        let read = |path: &str| fs::read_to_string(dir.path().join(path)).unwrap();
        assert_eq!(read(PARTITION), "isolated");
        assert_eq!(read("proc/irq/1/smp_affinity_list"), "0,1,2");
        assert_eq!(read("proc/irq/default_smp_affinity"), "00000007");
    }

    /// No unit is to get other processors.
    fn nobody(unit: &str, processors: &str) -> io::Result<()> {
        Err(io::Error::other(format!("{unit} got {processors}")))
    }

    #[test]
    fn a_kernel_without_partitions_is_told_about_and_everybody_has_all_processors() {
        let dir = machine(4, false);
        fs::remove_file(dir.path().join(PARTITION)).unwrap();
        fs::remove_dir(dir.path().join("sys/fs/cgroup/dv.slice")).unwrap();
        let mut given = Vec::new();
        let error = apply(dir.path(), &mut |unit, processors| {
            given.push(format!("{unit} {processors}"));
            Ok(())
        });
        assert!(error.unwrap_err().to_string().contains("cpuset.cpus.partition"));
        assert_eq!(given, ["dv.slice 0,1,2,3", "dv-node.service 0,1,2,3", "signer.service 0,1,2,3"]);
    }
}
