//! What the boot partition of a built image holds: programs that the image's own key signed, and the add-on that makes an installer of it
//! (decision 0330) and the one for boards without a TPM (decision 0345), as harmless as they were signed.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::Context as _;

use hw_tests::image::Profile;

use super::compare;

/// An add-on to the signed command line: its place, where systemd-stub does not look, and all that it may say.
type AddOn = (&'static str, &'static str);
const INSTALL: AddOn = ("loader/ADDON_/install.addon.efi", "rd.systemd.unit=install.target");
const NO_TPM: AddOn =
    ("loader/ADDONT/no-tpm.addon.efi", "hearth.tpm=none rd.luks=no rd.systemd.mask=tpm2.target");

/// What an image holds. No release starts without a TPM.
pub(super) fn add_ons(profile: Profile) -> &'static [AddOn] {
    match profile {
        Profile::Release => &[INSTALL],
        Profile::Dev => &[INSTALL, NO_TPM],
    }
}

/// Sentences about the boot partition of an image whose programs this certificate must have signed.
pub(super) fn check(
    image: &Path,
    certificate: &Path,
    add_ons: &[AddOn],
    tools: &Path,
) -> anyhow::Result<Vec<String>> {
    let dir = tempfile::tempdir()?;
    compare::unpack_partition(image, |label| label == "esp", dir.path(), tools)?;
    in_tree(dir.path(), add_ons, &mut |program| {
        let mut command = compare::pinned(tools, "sbverify")?;
        command.arg("--cert").arg(certificate).arg(program);
        let output = command.stdin(Stdio::null()).output().context("cannot run sbverify")?;
        Ok(output.status.success())
    })
}

fn in_tree(
    tree: &Path,
    add_ons: &[AddOn],
    is_signed: &mut dyn FnMut(&Path) -> anyhow::Result<bool>,
) -> anyhow::Result<Vec<String>> {
    let programs = programs(tree)?;
    let mut wrong = Vec::new();
    for (name, path) in &programs {
        if !is_signed(path)? {
            wrong.push(format!("{name} on the boot partition, which its key did not sign"));
        }
        if !name.to_ascii_lowercase().ends_with(".addon.efi") {
            continue;
        }
        let bytes = fs::read(path)?;
        let line = compare::pe_sections(&bytes).and_then(|sections| sections.get(".cmdline").copied());
        let line =
            line.map(|line| String::from_utf8_lossy(line).trim_end_matches(['\0', ' ', '\n']).to_owned());
        match add_ons.iter().find(|(place, _)| place == name) {
            Some((_, wanted)) if line.as_deref() == Some(*wanted) => {}
            Some(_) => wrong.push(format!("the add-on {name}, which says {line:?}")),
            None => wrong.push(format!("an add-on that nobody knows: {name}")),
        }
    }
    for (place, _) in add_ons.iter().filter(|(place, _)| !programs.contains_key(*place)) {
        wrong.push(format!("no {place} on the boot partition"));
    }
    if !programs.keys().any(|name| name.starts_with("EFI/Linux/")) {
        wrong.push("no kernel image on the boot partition".to_owned());
    }
    Ok(wrong)
}

/// Everything that firmware could start, by its place on the partition.
fn programs(tree: &Path) -> anyhow::Result<BTreeMap<String, PathBuf>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![tree.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("efi")) {
                found.insert(path.strip_prefix(tree)?.to_string_lossy().into_owned(), path);
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A PE file with one section, which holds a command line.
    fn add_on(line: &str) -> Vec<u8> {
        let mut file = vec![0; 0x100];
        file[..2].copy_from_slice(b"MZ");
        file[0x3c] = 0x40;
        file[0x40..0x44].copy_from_slice(b"PE\0\0");
        file[0x46] = 1;
        file[0x58..0x60].copy_from_slice(b".cmdline");
        file[0x58 + 16] = u8::try_from(line.len() + 1).unwrap();
        file[0x58 + 20..0x58 + 22].copy_from_slice(&0x100_u16.to_le_bytes());
        file.extend(line.as_bytes());
        file.push(0);
        file
    }

    #[test]
    fn only_the_known_add_on_passes_and_only_signed_programs() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, bytes: &[u8]| {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        };
        let wrong = |unsigned: &str| {
            in_tree(dir.path(), &[INSTALL], &mut |path| Ok(unsigned.is_empty() || !path.ends_with(unsigned)))
                .unwrap()
        };
        assert_eq!(wrong("").len(), 2, "nothing is there");
        let (place, line) = INSTALL;
        write("EFI/BOOT/BOOTX64.EFI", b"MZ");
        write("EFI/Linux/hearth_1+3.efi", b"MZ");
        write("loader/loader.conf", b"timeout 0");
        write(place, &add_on(line));
        assert_eq!(wrong(""), Vec::<String>::new());
        for program in ["BOOTX64.EFI", "hearth_1+3.efi", "install.addon.efi"] {
            let told = wrong(program);
            assert!(told.len() == 1 && told[0].contains(program), "{told:?}");
        }
        for other in ["rd.systemd.unit=install.target init=/bin/sh", "rd.systemd.unit=emergency.target", ""] {
            write(place, &add_on(other));
            assert!(wrong("")[0].contains("which says"), "{other}");
        }
        write(place, b"MZ");
        assert!(wrong("")[0].contains("which says"));
        write(place, &add_on(line));
        // Where systemd-stub looks, for one kernel image and for all.
        for lies in ["loader/ADDONS/install.addon.efi", "EFI/Linux/hearth_1+3.efi.extra.d/x.addon.efi"] {
            write(lies, &add_on(line));
            assert!(wrong("")[0].contains("nobody knows"), "{lies}");
            fs::remove_file(dir.path().join(lies)).unwrap();
        }
        // What needs no TPM does not ship.
        write(NO_TPM.0, &add_on(NO_TPM.1));
        assert!(wrong("")[0].contains("nobody knows"));
        let both = in_tree(dir.path(), add_ons(Profile::Dev), &mut |_| Ok(true)).unwrap();
        assert_eq!(both, Vec::<String>::new());
        assert_eq!(add_ons(Profile::Release), [INSTALL]);
    }
}
