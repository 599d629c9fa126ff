//! What must not be in an image, looked for in the built one: shells, package managers, passwords, ways in.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context as _, ensure};
use hw_tests::image::{Image, Profile};

use super::compare;
use crate::run;

/// Programs that no image has: they change the system, or let somebody in.
const NEVER: [&str; 22] = [
    "apt",
    "apt-get",
    "dpkg",
    "pip",
    "pip3",
    "snap",
    "rpm",
    "perl",
    "python3",
    "sshd",
    "ssh",
    "dropbear",
    "telnetd",
    "in.telnetd",
    "rlogind",
    "sudo",
    "doas",
    "pkexec",
    "busybox",
    "gcc",
    "gdb",
    "strace",
];
/// Programs that only development has.
const NOT_RELEASED: [&str; 9] = ["sh", "bash", "dash", "rbash", "zsh", "ksh", "curl", "cryptsetup", "ss"];
/// Units that would answer somebody at a console.
const NO_CONSOLES: [&str; 4] =
    ["getty@.service", "serial-getty@.service", "console-getty.service", "container-getty@.service"];
/// What every signed command line must say; the last value of a setting wins.
const COMMAND_LINE: [(&str, &str); 8] = [
    ("lockdown", "integrity"),
    ("module.sig_enforce", "1"),
    ("init_on_alloc", "1"),
    ("vsyscall", "none"),
    ("debugfs", "off"),
    ("systemd.gpt_auto", "no"),
    ("rd.systemd.gpt_auto", "no"),
    ("systemd.firstboot", "off"),
];

/// Fails when the built image holds what it must not.
pub(super) fn check(image: &Image, profile: Profile) -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let tools = run::cache()?.join("mkosi/tools");
    compare::unpack_partition(&image.raw, |label| label.starts_with("hearth_"), dir.path(), &tools)?;
    let kernel = image.raw.with_extension("efi");
    let kernel = fs::read(&kernel).with_context(|| format!("cannot read {}", kernel.display()))?;
    let sections = compare::pe_sections(&kernel).context("the kernel image has no sections")?;
    let line = sections.get(".cmdline").context("the kernel image has no command line")?;
    let line = String::from_utf8_lossy(line);
    let mut wrong = in_tree(dir.path(), profile)?;
    wrong.extend(in_command_line(line.trim_end_matches('\0'), profile));
    ensure!(wrong.is_empty(), "the image holds what it must not: {}", wrong.join("; "));
    Ok(())
}

fn in_tree(root: &Path, profile: Profile) -> anyhow::Result<Vec<String>> {
    let mut wrong = Vec::new();
    let unwanted =
        NEVER.iter().chain(if profile == Profile::Release { NOT_RELEASED.as_slice() } else { &[] });
    for program in unwanted {
        for folder in ["usr/bin", "usr/sbin", "usr/lib", "usr/libexec", "usr/local/bin"] {
            let path = root.join(folder).join(program);
            if fs::symlink_metadata(&path).is_ok_and(|meta| !meta.is_dir()) {
                wrong.push(format!("the program /{folder}/{program}"));
            }
        }
    }
    for unit in NO_CONSOLES {
        let mask = fs::read_link(root.join("etc/systemd/system").join(unit)).ok();
        if mask.as_deref() != Some(Path::new("/dev/null")) {
            wrong.push(format!("the unit {unit}, not masked"));
        }
    }
    if profile == Profile::Release && root.join("usr/lib/systemd/system/debug-shell.service").exists() {
        wrong.push("the unit debug-shell.service".to_owned());
    }
    for file in ["etc/passwd", "etc/shadow"] {
        let Ok(text) = fs::read_to_string(root.join(file)) else { continue };
        wrong.extend(passwords(&text).map(|user| format!("a way to log in as {user} (/{file})")));
    }
    for folder in ["usr/bin", "usr/sbin", "usr/lib", "usr/libexec"] {
        set_uid(root, &root.join(folder), &mut wrong)?;
    }
    let id = fs::read(root.join("etc/machine-id")).unwrap_or_default();
    if !id.is_empty() {
        wrong.push("an identity that every box would share (/etc/machine-id)".to_owned());
    }
    for needed in [
        "usr/share/hearth/sbom.cdx.json",
        "etc/nftables.conf",
        "usr/lib/hearth/chrony.conf",
        "usr/lib/hearth/clock-mark.conf",
        "usr/bin/chronyc",
        "usr/bin/systemd-tmpfiles",
    ] {
        if !root.join(needed).is_file() {
            wrong.push(format!("no /{needed}"));
        }
    }
    Ok(wrong)
}

/// Users whose password field is neither locked (`*`, `!`) nor kept elsewhere (`x`).
fn passwords(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let (user, password) = (fields.next()?, fields.next()?);
        (password != "x" && !password.starts_with(['*', '!'])).then_some(user)
    })
}

fn set_uid(root: &Path, dir: &Path, wrong: &mut Vec<String>) -> anyhow::Result<()> {
    let Ok(entries) = fs::read_dir(dir) else { return Ok(()) };
    for entry in entries {
        let path = entry?.path();
        let meta = fs::symlink_metadata(&path)?;
        if meta.is_dir() {
            set_uid(root, &path, wrong)?;
        } else if meta.is_file() && meta.permissions().mode() & 0o6000 != 0 {
            wrong.push(format!("a program that lends its rights: /{}", path.strip_prefix(root)?.display()));
        }
    }
    Ok(())
}

fn in_command_line(line: &str, profile: Profile) -> Vec<String> {
    let last = |key: &str| {
        line.split_whitespace()
            .rev()
            .find_map(|word| word.strip_prefix(key)?.strip_prefix('=').map(str::to_owned))
    };
    let mut wrong: Vec<String> = COMMAND_LINE
        .iter()
        .filter(|(key, value)| last(key).as_deref() != Some(*value))
        .map(|(key, value)| format!("a command line without {key}={value}"))
        .collect();
    if !line.split_whitespace().any(|word| word.starts_with("roothash=")) {
        wrong.push("a command line without a root hash".to_owned());
    }
    if profile == Profile::Release {
        if last("systemd.import_credentials").as_deref() != Some("no") {
            wrong.push("a command line that takes credentials from outside".to_owned());
        }
        for way in
            ["systemd.debug_shell", "rd.systemd.debug_shell", "init", "console=ttyS0", "console=ttyAMA0"]
        {
            if line.split_whitespace().any(|word| word == way || word.split('=').next() == Some(way)) {
                wrong.push(format!("{way} on the command line"));
            }
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The least that passes.
    fn tree() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let file = |path: &str, text: &str| {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        for unit in NO_CONSOLES {
            file("etc/systemd/system/x", "");
            std::os::unix::fs::symlink("/dev/null", dir.path().join("etc/systemd/system").join(unit))
                .unwrap();
        }
        file("usr/share/hearth/sbom.cdx.json", "{}");
        file("etc/nftables.conf", "");
        file("usr/lib/hearth/chrony.conf", "");
        file("usr/lib/hearth/clock-mark.conf", "");
        file("usr/bin/chronyc", "");
        file("usr/bin/systemd-tmpfiles", "");
        file("etc/machine-id", "");
        file("etc/passwd", "root:x:0:0::/root:/bin/sh\n");
        file("etc/shadow", "root:*:1::::::\nsigner:!*:1::::::\n");
        file("usr/bin/signer", "");
        dir
    }

    #[test]
    fn every_way_in_is_found() {
        let dir = tree();
        assert_eq!(in_tree(dir.path(), Profile::Release).unwrap(), Vec::<String>::new());
        let bin = dir.path().join("usr/bin");
        fs::write(bin.join("sh"), "").unwrap();
        assert_eq!(in_tree(dir.path(), Profile::Dev).unwrap(), Vec::<String>::new());
        assert_eq!(in_tree(dir.path(), Profile::Release).unwrap(), ["the program /usr/bin/sh"]);
        fs::write(bin.join("sshd"), "").unwrap();
        std::os::unix::fs::symlink("nowhere", bin.join("dpkg")).unwrap();
        fs::write(dir.path().join("etc/shadow"), "root::1::::::\nweb:$6$x:1\n").unwrap();
        fs::set_permissions(bin.join("signer"), fs::Permissions::from_mode(0o4755)).unwrap();
        fs::write(dir.path().join("etc/machine-id"), "0123").unwrap();
        fs::remove_file(dir.path().join("etc/systemd/system/getty@.service")).unwrap();
        let found = in_tree(dir.path(), Profile::Dev).unwrap().join("; ");
        for part in
            ["/usr/bin/sshd", "/usr/bin/dpkg", "as root", "as web", "/usr/bin/signer", "machine-id", "getty@"]
        {
            assert!(found.contains(part), "{part} is not in: {found}");
        }
    }

    #[test]
    fn a_weak_command_line_is_found() {
        let line: Vec<String> = COMMAND_LINE.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let line = line.join(" ") + " roothash=ab systemd.import_credentials=no";
        assert_eq!(in_command_line(&line, Profile::Release), Vec::<String>::new());
        let opened = line.clone() + " systemd.import_credentials=yes systemd.debug_shell=hvc0 lockdown=none";
        assert_eq!(in_command_line(&opened, Profile::Release).len(), 3);
        assert_eq!(in_command_line(&opened, Profile::Dev), ["a command line without lockdown=integrity"]);
        assert!(!in_command_line(&line.replace("roothash=ab", ""), Profile::Dev).is_empty());
    }
}
