//! What this box is and how it started, read from the kernel and the image; nothing here is decided, only told.

use std::path::Path;

use ipc::web::{BootStatus, MachineStatus};

/// The firmware's own word on whether it checked signatures: 4 bytes of attributes, then 0 or 1.
const SECURE_BOOT: &str = "sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c";

/// Reads the facts below `root` (`/` on a box; tests bring their own).
pub(crate) fn read(root: &Path, name: &str) -> MachineStatus {
    let release = std::fs::read_to_string(root.join("etc/os-release")).unwrap_or_default();
    let is_image = field(&release, "IMAGE_ID").is_some();
    let command_line = std::fs::read_to_string(root.join("proc/cmdline")).unwrap_or_default();
    let secure_boot =
        is_image && std::fs::read(root.join(SECURE_BOOT)).is_ok_and(|bytes| bytes.get(4) == Some(&1));
    let tpm = root.join("sys/class/tpm/tpm0").exists();
    // On our images the root hash is in the signed command line, and only a verity device can then be the root.
    let verity = is_image && command_line.split_ascii_whitespace().any(|word| word.starts_with("roothash="));
    let own_keys = field(&release, "HEARTH_KEYS") == Some("release");
    MachineStatus {
        name: name.to_owned(),
        image_version: field(&release, "IMAGE_VERSION")
            .filter(|_| is_image)
            .unwrap_or(env!("CARGO_PKG_VERSION"))
            .to_owned(),
        profile: if is_image { field(&release, "VARIANT_ID").unwrap_or("release") } else { "native" }
            .to_owned(),
        boot: boot(is_image, own_keys, secure_boot, tpm, verity),
    }
}

fn boot(is_image: bool, own_keys: bool, secure_boot: bool, tpm: bool, verity: bool) -> BootStatus {
    let (state, explanation) = match (is_image, secure_boot && tpm && verity) {
        (true, _) if !own_keys => (
            "test keys",
            "Signed with keys that everybody has: whoever holds this box can open its shares. For trying out only: no share of a public chain is taken in or served.",
        ),
        (true, true) => ("verified", "Signed system, checked while it is read, measured by the TPM."),
        (true, false) => ("partial", "This board lacks part of what protects a start: see the lines below."),
        (false, _) => ("unverified", "Runs as an ordinary program, not from a Hearth image."),
    };
    BootStatus { secure_boot, tpm, verity, state: state.to_owned(), explanation: explanation.to_owned() }
}

/// One field of an os-release file, without its quotes.
fn field<'a>(release: &'a str, key: &str) -> Option<&'a str> {
    release
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
        .map(|value| value.trim_matches('"'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(root: &Path, path: &str, content: &[u8]) {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    #[test]
    fn tells_an_image_from_a_program_and_a_whole_start_from_a_partial_one() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        write(root, "etc/os-release", b"ID=debian\n");
        assert_eq!(read(root, "x").profile, "native");
        assert_eq!(read(root, "x").boot.state, "unverified");

        write(root, "etc/os-release", b"ID=debian\nIMAGE_ID=\"hearth\"\nIMAGE_VERSION=7\nVARIANT_ID=dev\n");
        write(root, "proc/cmdline", b"ro roothash=abc quiet");
        write(root, SECURE_BOOT, &[6, 0, 0, 0, 1]);
        write(root, "sys/class/tpm/tpm0", b"");
        assert_eq!(read(root, "x").boot.state, "test keys", "whatever else was checked");
        write(
            root,
            "etc/os-release",
            b"ID=debian\nIMAGE_ID=\"hearth\"\nIMAGE_VERSION=7\nVARIANT_ID=dev\nHEARTH_KEYS=release\n",
        );
        let whole = read(root, "x");
        assert_eq!(
            (whole.boot.state.as_str(), whole.image_version.as_str(), whole.profile.as_str()),
            ("verified", "7", "dev")
        );
        write(root, SECURE_BOOT, &[6, 0, 0, 0, 0]);
        assert_eq!(read(root, "x").boot.state, "partial");
    }
}
