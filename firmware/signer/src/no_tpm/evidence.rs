//! Whether a board has no TPM at all. Not finding one is no proof: the system may not show what there is, and a driver may come late.
//! So there must be evidence that somebody looked, and no sign of one anywhere (decision 0320).

use std::{
    fs,
    io::{self, ErrorKind, Read as _},
    path::{Path, PathBuf},
};

use crate::{config::Config, vault};

/// What device trees call TPMs: the binding for those behind a bus, and the makers' own names, newer and older.
const COMPATIBLE: [&str; 9] = [
    "tcg,",
    "microsoft,ftpm",
    "infineon,slb",
    "infineon,slm",
    "nuvoton,npct",
    "st,st33",
    "atmel,at97sc",
    "google,cr50",
    "ibm,vtpm",
];
/// Real trees have some thousand nodes, ten deep.
const MOST_NODES: usize = 20_000;
const DEEPEST: u8 = 24;
const LONGEST_PROPERTY: u64 = 4_096;

/// Whether there is no sign of a TPM, neither on the board nor in what was kept by an earlier one, and evidence that there is none.
pub(super) fn has_none(config: &Config) -> bool {
    let (signs, tree) = (&config.passphrase.signs_of_a_tpm, &config.passphrase.device_tree);
    !signs.is_empty()
        // Any other address is that of a TPM that somebody has set up.
        && config.tpm.tcti.starts_with("device:")
        && started_so(config)
        && is_empty(&config.passphrase.tpm_class)
        && firmware_was_asked(&config.efivars, tree)
        && !tree_has_a_tpm(tree)
        && !signs.iter().any(|path| is_there(path))
        && !is_there(&config.state_dir.join(vault::FILE))
}

/// Whether the first system made this start one of a board without a TPM.
pub(crate) fn started_so(config: &Config) -> bool {
    is_folder(&config.passphrase.started_without)
}

/// A file, or a folder with something in it. What cannot be looked at counts as there.
fn is_there(path: &Path) -> bool {
    let found =
        fs::metadata(path).and_then(|facts| Ok(!facts.is_dir() || fs::read_dir(path)?.next().is_some()));
    found.unwrap_or_else(|error| error.kind() != ErrorKind::NotFound)
}

/// A folder that is there. What cannot be looked at is none.
fn is_folder(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|facts| facts.is_dir())
}

/// A folder that is there and has nothing in it.
fn is_empty(folder: &Path) -> bool {
    fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_none())
}

/// Whether the kernel shows what the firmware said of the board: its variables, or its device tree. Variables that are missing where
/// the firmware has some were not mounted, and neither may be its tables.
fn firmware_was_asked(efivars: &Path, tree: &Path) -> bool {
    let shows_variables = fs::read_dir(efivars).is_ok_and(|mut entries| entries.next().is_some());
    let has_none = efivars.parent().is_some_and(|efi| !is_there(efi));
    shows_variables || has_none && fs::read_dir(tree).is_ok_and(|mut entries| entries.next().is_some())
}

/// Whether a device tree has a node for a TPM. One that cannot be read to its end counts as one that has.
fn tree_has_a_tpm(tree: &Path) -> bool {
    match fs::metadata(tree) {
        Err(error) if error.kind() == ErrorKind::NotFound => false,
        _ => find_a_tpm(tree).unwrap_or(true),
    }
}

fn find_a_tpm(tree: &Path) -> io::Result<bool> {
    let mut waiting: Vec<(PathBuf, u8)> = vec![(tree.to_owned(), 0)];
    let mut seen = 0_usize;
    while let Some((node, depth)) = waiting.pop() {
        seen += 1;
        if seen > MOST_NODES || depth > DEEPEST {
            return Ok(true);
        }
        for entry in fs::read_dir(&node)? {
            let entry = entry?;
            // A link leads to what is somewhere else in the tree.
            let kind = entry.file_type()?;
            if kind.is_dir() {
                waiting.push((entry.path(), depth + 1));
            } else if kind.is_file() && entry.file_name() == "compatible" {
                let mut property = Vec::new();
                fs::File::open(entry.path())?.take(LONGEST_PROPERTY).read_to_end(&mut property)?;
                if names_a_tpm(&property) {
                    return Ok(true);
                }
            }
        }
    }
    Ok(false)
}

/// Whether one of the names in a `compatible` property is a TPM's. Each ends with a zero byte.
pub(crate) fn names_a_tpm(property: &[u8]) -> bool {
    property
        .split(|byte| *byte == 0)
        .any(|name| COMPATIBLE.iter().any(|known| name.to_ascii_lowercase().starts_with(known.as_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_speaks_of_a_tpm_is_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::create_dir(path("empty")).unwrap();
        fs::create_dir_all(path("class/tpm0")).unwrap();
        fs::write(path("TPM2"), b"").unwrap();
        for (name, there) in [("none", false), ("none/below", false), ("empty", false), ("class", true)] {
            assert_eq!(is_there(&path(name)), there, "{name}");
        }
        assert!(is_there(&path("TPM2")));
        // What cannot be looked at: a file in the place of a folder.
        assert!(is_there(&path("TPM2/below")));
        // The word that there is none is taken from a folder alone.
        for (name, is) in [("empty", true), ("none", false), ("TPM2", false), ("TPM2/below", false)] {
            assert_eq!(is_folder(&path(name)), is, "{name}");
        }
    }

    #[test]
    fn not_finding_the_places_where_a_tpm_would_be_is_no_proof_that_there_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        assert!(!is_empty(&path("class")), "the kernel shows no list of TPMs");
        fs::create_dir(path("class")).unwrap();
        assert!(is_empty(&path("class")));
        fs::create_dir(path("class/tpm0")).unwrap();
        assert!(!is_empty(&path("class")));

        let asked = || firmware_was_asked(&path("efi/efivars"), &path("tree"));
        assert!(!asked(), "neither variables nor a tree");
        fs::create_dir(path("tree")).unwrap();
        assert!(!asked(), "a tree with nothing in it");
        fs::write(path("tree/compatible"), b"some,board\0").unwrap();
        assert!(asked(), "a board without UEFI");
        fs::create_dir_all(path("efi/efivars")).unwrap();
        assert!(!asked(), "UEFI whose variables are not mounted");
        fs::write(path("efi/efivars/BootOrder"), b"").unwrap();
        assert!(asked());
    }

    #[test]
    fn a_tpm_in_the_device_tree_is_one_before_its_driver_is_there() {
        let tree = |compatible: &[u8]| {
            let dir = tempfile::tempdir().unwrap();
            let bus = dir.path().join("soc/spi@1");
            fs::create_dir_all(bus.join("chip@0")).unwrap();
            fs::write(dir.path().join("compatible"), b"maker,board\0maker,chip\0").unwrap();
            fs::write(bus.join("chip@0/compatible"), compatible).unwrap();
            fs::write(bus.join("chip@0/reg"), [0, 0, 0, 0]).unwrap();
            dir
        };
        for (compatible, has) in [
            (&b"infineon,slb9670\0tcg,tpm_tis-spi\0"[..], true),
            (b"tcg,tpm_tis-spi\0", true),
            (b"maker,thing\0TCG,tpm-tis-i2c", true),
            (b"microsoft,ftpm\0", true),
            (b"jedec,spi-nor\0", false),
            (b"maker,not-tcg,tpm\0", false),
            (b"", false),
        ] {
            assert_eq!(tree_has_a_tpm(tree(compatible).path()), has, "{compatible:?}");
        }
        let dir = tempfile::tempdir().unwrap();
        assert!(!tree_has_a_tpm(&dir.path().join("none")));
        fs::write(dir.path().join("file"), b"").unwrap();
        assert!(tree_has_a_tpm(&dir.path().join("file")), "what cannot be read may have one");
        let mut deep = dir.path().join("deep");
        (0..=DEEPEST).for_each(|_| deep.push("n"));
        fs::create_dir_all(&deep).unwrap();
        assert!(tree_has_a_tpm(&dir.path().join("deep")), "deeper than any real one");
    }
}
