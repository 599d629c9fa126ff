//! Whether the firmware checked what it started.
//!
//! A seal binds to the state of Secure Boot, whatever it is. One made while it is off would open for any kernel that
//! repeats a genuine image's measurements, which are public. So nothing is sealed then.

use std::{io::Read as _, path::Path};

use ipc::Problem;

/// EFI's own variables (UEFI specification, `EFI_GLOBAL_VARIABLE`).
const GLOBAL: &str = "8be4df61-93ca-11d2-aa0d-00e098032b8c";

/// Whether Secure Boot is on and its keys are in place, as the firmware says in `efivars`. Anything unreadable or odd is a no.
pub(crate) fn is_secure(efivars: &Path) -> bool {
    variable(efivars, "SecureBoot") == Some(1) && variable(efivars, "SetupMode") == Some(0)
}

/// A variable of one byte: the file has four bytes of attributes before it.
fn variable(efivars: &Path, name: &str) -> Option<u8> {
    let mut content = Vec::new();
    let file = std::fs::File::open(efivars.join(format!("{name}-{GLOBAL}"))).ok()?;
    file.take(16).read_to_end(&mut content).ok()?;
    match content.as_slice() {
        [_, _, _, _, value] => Some(*value),
        _ => None,
    }
}

/// What the owner is told when it must be on and is not.
pub(crate) fn secure_boot_off() -> Problem {
    Problem::new(
        "secure_boot_off",
        "Secure Boot is off, or its keys are not set: anything could have been started instead of this software, so no share is taken in.",
        "Switch Secure Boot on in the firmware settings, with the image's keys enrolled, and restart.",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_switched_on_with_keys_in_place_is_secure() {
        let set = |dir: &Path, name: &str, content: &[u8]| {
            std::fs::write(dir.join(format!("{name}-{GLOBAL}")), content).unwrap();
        };
        type Content = Option<&'static [u8]>;
        let cases: [(Content, Content, bool); 9] = [
            (Some(&[6, 0, 0, 0, 1]), Some(&[6, 0, 0, 0, 0]), true),
            (Some(&[6, 0, 0, 0, 0]), Some(&[6, 0, 0, 0, 0]), false),
            (Some(&[6, 0, 0, 0, 1]), Some(&[6, 0, 0, 0, 1]), false),
            (Some(&[6, 0, 0, 0, 2]), Some(&[6, 0, 0, 0, 0]), false),
            (Some(&[1]), Some(&[6, 0, 0, 0, 0]), false),
            (Some(&[6, 0, 0, 0, 1, 1]), Some(&[6, 0, 0, 0, 0]), false),
            (Some(&[]), Some(&[]), false),
            (Some(&[6, 0, 0, 0, 1]), None, false),
            (None, None, false),
        ];
        for (secure_boot, setup_mode, expected) in cases {
            let dir = tempfile::tempdir().unwrap();
            for (name, content) in [("SecureBoot", secure_boot), ("SetupMode", setup_mode)] {
                if let Some(content) = content {
                    set(dir.path(), name, content);
                }
            }
            assert_eq!(is_secure(dir.path()), expected, "{secure_boot:?} {setup_mode:?}");
        }
        assert!(!is_secure(Path::new("/no/such/place")));
    }
}
