//! What must not be in an image, looked for in the built one: shells, package managers, passwords, ways in.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Seek as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};
use hw_tests::image::{Image, Profile};
use installer::switch;
use serde_json::Value;

use super::programs::DAEMONS;
use super::{boot_partition, compare};
use crate::run;

/// Where an image keeps the list of everything in it.
const LIST: &str = "usr/share/hearth/sbom.cdx.json";
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

/// Words of the first system's systemd-repart.service, which no other file of it has.
const SEALS: &[u8] = b"--tpm2-public-key-pcrs=11";
/// Words of its units for the recovery key of /var: one made and one taken out, by order alone.
const RECOVERS: [&[u8]; 4] = [
    b"ConditionPathExists=/run/hearth-recovery/make",
    b"--unlock-tpm2-device=auto --recovery-key $TAKE_OUT $DISK",
    b"ConditionPathExists=/run/hearth-recovery/drop",
    b"--wipe-slot=recovery $DISK",
];
/// Words of its units for boards without a TPM: of their condition, and of their names.
const STARTS_WITHOUT_TPM: [&[u8]; 2] = [b"hearth.tpm=none", b"no-tpm-disk.service"];

/// Fails when the built image holds what it must not.
pub(super) fn check(
    image: &Image,
    profile: Profile,
    repository: &Path,
    keys: Option<&Path>,
    sbom: &Path,
) -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let tools = run::cache()?.join("mkosi/tools");
    compare::unpack_partition(&image.raw, |label| label.starts_with("hearth_"), dir.path(), &tools)?;
    let kernel = image.raw.with_extension("efi");
    let kernel = fs::read(&kernel).with_context(|| format!("cannot read {}", kernel.display()))?;
    let sections = compare::pe_sections(&kernel).context("the kernel image has no sections")?;
    let line = sections.get(".cmdline").context("the kernel image has no command line")?;
    let line = String::from_utf8_lossy(line);
    let mut wrong = in_tree(dir.path(), profile)?;
    let first_system = sections.get(".initrd").context("the kernel image has no first system")?;
    let first_system = unpacked(first_system, &tools)?;
    wrong.extend(without_tpm(dir.path(), &first_system, profile));
    wrong.extend(recovery(&first_system));
    wrong.extend(in_command_line(line.trim_end_matches('\0'), profile));
    wrong.extend(in_keys(&kernel, repository, profile)?);
    let certificate = keys.map_or_else(|| repository.join("image/test-keys"), Path::to_owned).join("sb.crt");
    let add_ons = boot_partition::add_ons(profile);
    wrong.extend(boot_partition::check(&image.raw, &certificate, add_ons, &tools)?);
    let switches = switch::on_disk(&mut fs::File::open(&image.raw)?)?;
    if switches.install.on || switches.no_tpm.is_some_and(|no_tpm| no_tpm.on) {
        wrong.push("an add-on that is switched on".to_owned());
    }
    let read = |path: &Path| fs::read(path).with_context(|| format!("cannot read {}", path.display()));
    let inside = read(&dir.path().join(LIST))?;
    wrong.extend(in_list(&inside, &read(sbom)?, &read(&image.raw.with_extension("manifest"))?)?);
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
        LIST,
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

/// What lets a board start that has no TPM is in dev images and in no release (decision 0345): how its disk is completed, when the signer asks for
/// a passphrase, and the first system's units, by their words: a dev image has all of them and a release none.
fn without_tpm(root: &Path, first_system: &[u8], profile: Profile) -> Vec<String> {
    let has = |words: &[u8]| first_system.windows(words.len()).any(|found| found == words);
    let in_first_system = match profile {
        Profile::Dev => STARTS_WITHOUT_TPM.iter().all(|words| has(words)),
        Profile::Release => STARTS_WITHOUT_TPM.iter().any(|words| has(words)),
    };
    let signer = fs::read_to_string(root.join("usr/lib/hearth/signer.toml")).unwrap_or_default();
    let found = [
        ("/usr/lib/hearth/repart-no-tpm.d", root.join("usr/lib/hearth/repart-no-tpm.d").exists()),
        ("[passphrase] in signer.toml", signer.lines().any(|line| line.trim().starts_with("[passphrase"))),
        ("a unit of the first system", in_first_system),
    ];
    let wrong = found.iter().filter(|(_, is_there)| *is_there != (profile == Profile::Dev));
    wrong
        .map(|(what, is_there)| {
            let told =
                if *is_there { "a way to start without a TPM" } else { "no way to start without a TPM" };
            format!("{told} ({what})")
        })
        .collect()
}

/// What makes the recovery key of /var and takes one out again does so by order of `recovery` alone, which knows whether the signer was there
/// (decision 0348).
fn recovery(first_system: &[u8]) -> Option<String> {
    let has = |words: &&[u8]| first_system.windows(words.len()).any(|found| found == *words);
    let missing = RECOVERS.iter().find(|words| !has(words))?;
    Some(format!("no words '{}' in the first system", String::from_utf8_lossy(missing).trim()))
}

/// The files of the first system, one after the other.
fn unpacked(section: &[u8], tools: &Path) -> anyhow::Result<Vec<u8>> {
    let mut file = tempfile::tempfile()?;
    file.write_all(section)?;
    file.rewind()?;
    let mut zstd = compare::pinned(tools, "zstd")?;
    // What lies between its archives is no frame, and zstd says so at the end.
    let output = zstd.arg("-dc").stdin(file).output().context("cannot run zstd")?;
    // Something that is there in every one.
    ensure!(
        output.stdout.windows(SEALS.len()).any(|words| words == SEALS),
        "the first system cannot be read: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(output.stdout)
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
        // `quiet` is a level as well, and the last word wins.
        let level = line.split_whitespace().rev().find(|word| {
            matches!(*word, "quiet" | "debug" | "ignore_loglevel") || word.starts_with("loglevel=")
        });
        if level != Some("loglevel=3") {
            wrong.push("a command line that lets the kernel name processes on the screen".to_owned());
        }
        wrong.extend(
            line.split_whitespace()
                .filter(|word| opens_the_system(word))
                .map(|word| format!("{word} on the command line")),
        );
    }
    wrong
}

/// Whether a word of the kernel's command line lets somebody in, or starts something else than the system that ships
/// (kernel-command-line(7), the kernel's kernel-parameters.txt).
fn opens_the_system(word: &str) -> bool {
    const WAYS: [&str; 25] = [
        "init",
        "rdinit",
        "systemd.unit",
        "systemd.wants",
        "systemd.mask",
        "systemd.run",
        "systemd.set_credential",
        "systemd.set_credential_binary",
        "systemd.setenv",
        "systemd.debug_shell",
        "systemd.default_debug_tty",
        "systemd.confirm_spawn",
        "systemd.sulogin_force",
        "systemd_sulogin_force",
        "break",
        "rescue",
        "emergency",
        "single",
        "s",
        "1",
        "earlycon",
        "earlyprintk",
        "netconsole",
        // What any daemon says would stand on the screen beside the signer's codes (decision 0304).
        "systemd.journald.forward_to_console",
        "kgdboc",
    ];
    let (key, value) = word.split_once('=').unwrap_or((word, ""));
    // The kernel takes either mark for the other, and systemd a setting for the first system alone.
    let key = key.replace('-', "_").to_ascii_lowercase();
    let key = key.strip_prefix("rd.").unwrap_or(&key);
    if key == "console" {
        // The screen, on which nothing answers. A serial port is a cable to somebody else's computer.
        return value != "tty0";
    }
    WAYS.contains(&key)
}

/// Sentences about whose keys an image trusts, seen from the signed kernel image: a release may hold no test key, in a
/// certificate of the signature or among what approves measurements; a dev image may trust no other.
fn in_keys(kernel: &[u8], repository: &Path, profile: Profile) -> anyhow::Result<Vec<String>> {
    let mut wrong = Vec::new();
    for name in ["sb", "pcr"] {
        let certificate = repository.join(format!("image/test-keys/{name}.crt"));
        let key = public_key(&certificate)?;
        // As bytes in a certificate, and as text where systemd-stub hands the approving key on.
        let found = holds(kernel, &key.bytes) || holds(kernel, key.text.as_bytes());
        match (found, profile) {
            (true, Profile::Release) => wrong.push(format!("the test key {name}, which everybody has")),
            (false, Profile::Dev) => wrong.push(format!("another key than the test key {name}")),
            (true, Profile::Dev) | (false, Profile::Release) => {}
        }
    }
    Ok(wrong)
}

/// A public key (RFC 5280, SubjectPublicKeyInfo), in both of the ways in which it is written down.
struct PublicKey {
    bytes: Vec<u8>,
    /// The lines of its text, without the first and the last.
    text: String,
}

fn public_key(certificate: &Path) -> anyhow::Result<PublicKey> {
    let mut openssl = Command::new("openssl");
    openssl.args(["x509", "-noout", "-pubkey", "-in"]).arg(certificate).stdin(Stdio::null());
    let pem = openssl.output().context("cannot run openssl")?;
    ensure!(pem.status.success(), "{} is no certificate", certificate.display());
    let pem = String::from_utf8(pem.stdout).context("openssl's answer")?;
    let lines: Vec<&str> = pem.lines().filter(|line| !line.starts_with("-----")).collect();
    let bytes = decode_base64(&lines.concat()).context("openssl's answer is not base64")?;
    ensure!(bytes.len() > 64, "{} holds no key", certificate.display());
    Ok(PublicKey { bytes, text: lines.join("\n") })
}

fn decode_base64(text: &str) -> Option<Vec<u8>> {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let (mut bytes, mut bits, mut held) = (Vec::new(), 0_u32, 0_u32);
    for byte in text.trim_end_matches('=').bytes() {
        let digit = DIGITS.iter().position(|digit| *digit == byte)?;
        held = ((held << 6) | u32::try_from(digit).ok()?) & 0xffff;
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push(u8::try_from((held >> bits) & 0xff).ok()?);
        }
    }
    Some(bytes)
}

/// Whether bytes lie somewhere in other bytes. Looks for the first byte only, then compares: a kernel image is large.
fn holds(all: &[u8], wanted: &[u8]) -> bool {
    let Some(first) = wanted.first() else { return true };
    let mut rest = all;
    while let Some(at) = rest.iter().position(|byte| byte == first) {
        rest = &rest[at..];
        if rest.starts_with(wanted) {
            return true;
        }
        rest = &rest[1..];
    }
    false
}

/// Sentences about the list of everything that is inside the image: it must be the one that the build wrote, and name every
/// package that the build installed and every crate with a hash.
fn in_list(inside: &[u8], beside: &[u8], manifest: &[u8]) -> anyhow::Result<Vec<String>> {
    let mut wrong = Vec::new();
    if inside != beside {
        wrong.push("another list of its parts than the one beside it".to_owned());
    }
    let list: Value = serde_json::from_slice(inside).context("the list of the image's parts")?;
    let manifest: Value = serde_json::from_slice(manifest).context("mkosi's manifest")?;
    let word = |value: &Value, key: &str| value[key].as_str().unwrap_or_default().to_owned();
    let components = list["components"].as_array().context("the list of the image's parts names none")?;
    let named: BTreeSet<(String, String)> =
        components.iter().map(|part| (word(part, "name"), word(part, "version"))).collect();
    let packages = manifest["packages"].as_array().context("mkosi's manifest names no packages")?;
    ensure!(!packages.is_empty(), "mkosi's manifest names no packages");
    for package in packages {
        let (name, version) = (word(package, "name"), word(package, "version"));
        if !named.contains(&(name.clone(), version.clone())) {
            wrong.push(format!("{name} {version}, which its list of parts does not name"));
        }
    }
    for daemon in DAEMONS {
        if !named.iter().any(|(name, _)| name == daemon) {
            wrong.push(format!("{daemon}, which its list of parts does not name"));
        }
    }
    for part in components.iter().filter(|part| part["publisher"] != "Hearth") {
        let hash = part["hashes"][0]["content"].as_str().unwrap_or_default();
        if hash.len() != 64 || !hash.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            wrong.push(format!("{} without a hash in its list of parts", word(part, "name")));
        }
    }
    Ok(wrong)
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
    fn a_way_to_start_without_a_tpm_is_found_where_none_belongs() {
        let dir = tree();
        let nothing = b"[Unit]\nDescription=Repartition Root Disk\n";
        let unit = b"[Unit]\nConditionKernelCommandLine=hearth.tpm=none\nAfter=no-tpm-disk.service\n";
        let left_in = b"[Unit]\nRequires=no-tpm-disk.service no-tpm-data.service\n";
        assert_eq!(without_tpm(dir.path(), nothing, Profile::Release), Vec::<String>::new());
        assert_eq!(without_tpm(dir.path(), nothing, Profile::Dev).len(), 3);
        assert!(without_tpm(dir.path(), unit, Profile::Release)[0].contains("first system"));
        assert!(without_tpm(dir.path(), left_in, Profile::Release)[0].contains("first system"));
        assert_eq!(without_tpm(dir.path(), left_in, Profile::Dev).len(), 3);
        fs::create_dir_all(dir.path().join("usr/lib/hearth/repart-no-tpm.d")).unwrap();
        assert!(without_tpm(dir.path(), nothing, Profile::Release)[0].contains("repart-no-tpm.d"));
        fs::write(dir.path().join("usr/lib/hearth/signer.toml"), "log = \"info\"\n[passphrase]\n").unwrap();
        assert_eq!(without_tpm(dir.path(), unit, Profile::Release).len(), 3);
        assert_eq!(without_tpm(dir.path(), unit, Profile::Dev), Vec::<String>::new());
    }

    #[test]
    fn a_first_system_that_makes_a_recovery_key_without_being_told_to_is_found() {
        let units = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../image/mkosi.images/initrd/mkosi.extra/etc/systemd/system");
        let text = ["make", "drop"]
            .map(|name| fs::read_to_string(units.join(format!("recovery-key-{name}.service"))).unwrap())
            .concat();
        assert_eq!(recovery(text.as_bytes()), None);
        for words in RECOVERS {
            let words = String::from_utf8_lossy(words);
            assert!(recovery(text.replace(&*words, "").as_bytes()).is_some(), "{words}");
        }
    }

    #[test]
    fn a_weak_command_line_is_found() {
        let line: Vec<String> = COMMAND_LINE.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let line = line.join(" ") + " roothash=ab systemd.import_credentials=no quiet loglevel=3";
        assert_eq!(in_command_line(&line, Profile::Release), Vec::<String>::new());
        for louder in ["quiet", "loglevel=4", "loglevel=7", "debug", "ignore_loglevel"] {
            let found = in_command_line(&format!("{line} {louder}"), Profile::Release).join("; ");
            assert!(found.contains("name processes on the screen"), "{louder}: {found}");
        }
        assert_eq!(in_command_line(&line.replace(" loglevel=3", ""), Profile::Release).len(), 1);
        let opened = line.clone() + " systemd.import_credentials=yes systemd.debug_shell=hvc0 lockdown=none";
        assert_eq!(in_command_line(&opened, Profile::Release).len(), 3);
        assert_eq!(in_command_line(&opened, Profile::Dev), ["a command line without lockdown=integrity"]);
        assert!(!in_command_line(&line.replace("roothash=ab", ""), Profile::Dev).is_empty());
    }

    #[test]
    fn every_word_that_opens_a_release_is_found() {
        for word in [
            "console=ttyS0",
            "console=ttyS0,115200n8",
            "console=ttyAMA0",
            "console=hvc0",
            "console=tty1",
            "init=/bin/sh",
            "rdinit=/bin/sh",
            "systemd.debug_shell",
            "systemd.debug-shell=ttyS1",
            "rd.systemd.debug_shell=hvc0",
            "rd.systemd.unit=emergency.target",
            "rd.break",
            "single",
            "S",
            "SYSTEMD_SULOGIN_FORCE=1",
            "netconsole=@/,@10.0.0.1/",
            "systemd.journald.forward_to_console=1",
        ] {
            assert!(opens_the_system(word), "{word}");
        }
        for word in ["console=tty0", "ro", "quiet", "panic=10", "roothash=ab", "systemd.machine_id=firmware"]
        {
            assert!(!opens_the_system(word), "{word}");
        }
    }

    #[test]
    fn a_release_with_a_test_key_is_found_however_it_is_written_down() {
        let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let [sb, pcr] = ["sb", "pcr"]
            .map(|name| public_key(&repository.join(format!("image/test-keys/{name}.crt"))).unwrap());
        let dev = [b"MZ".as_slice(), &sb.bytes, b"----\n", pcr.text.as_bytes(), b"\n"].concat();
        assert_eq!(in_keys(&dev, &repository, Profile::Dev).unwrap(), Vec::<String>::new());
        assert_eq!(in_keys(&dev, &repository, Profile::Release).unwrap().len(), 2);
        assert_eq!(in_keys(b"MZ and others", &repository, Profile::Dev).unwrap().len(), 2);
        assert_eq!(in_keys(b"MZ and others", &repository, Profile::Release).unwrap(), Vec::<String>::new());
        assert_eq!(decode_base64("aGVhcnRoIQ==").unwrap(), b"hearth!");
        assert!(decode_base64("a b").is_none());
    }

    #[test]
    fn a_list_that_names_less_than_there_is_is_found() {
        let hash = "ab".repeat(32);
        let part =
            |name: &str| serde_json::json!({ "name": name, "version": "1", "hashes": [{ "content": hash }] });
        let own = |name: &str| serde_json::json!({ "name": name, "version": "0", "publisher": "Hearth" });
        let list = serde_json::json!({ "components": [part("udev"), own("signer"), own("dv-node"), own("web"), own("cores"), own("installer"), own("recovery")] });
        let list = serde_json::to_vec(&list).unwrap();
        let manifest = |version: &str| {
            serde_json::to_vec(&serde_json::json!({ "packages": [{ "name": "udev", "version": version }] }))
                .unwrap()
        };
        assert_eq!(in_list(&list, &list, &manifest("1")).unwrap(), Vec::<String>::new());
        assert_eq!(in_list(&list, &list, &manifest("2")).unwrap().len(), 1);
        assert_eq!(in_list(&list, b"{}", &manifest("1")).unwrap().len(), 1);
        let text = String::from_utf8(list.clone()).unwrap();
        let bare = text.replace(&hash, "").into_bytes();
        assert_eq!(
            in_list(&bare, &bare, &manifest("1")).unwrap(),
            ["udev without a hash in its list of parts"]
        );
        let fewer = text.replace("dv-node", "other").into_bytes();
        assert_eq!(in_list(&fewer, &fewer, &manifest("1")).unwrap().len(), 1);
        assert!(in_list(&list, &list, b"{\"packages\": []}").is_err());
    }
}
