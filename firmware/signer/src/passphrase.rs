//! Keys made of passphrases: Argon2id (RFC 9106).
//!
//! The cost is one for a box, not for a server farm: 256 MiB, as much as an EIP-2335 keystore's scrypt takes, so the limit for locked
//! memory has room for it, and three passes, about two seconds on a small board. Whoever guesses pays the same memory for each
//! try, which keeps graphics cards to a few hundred tries a second.

use argon2::{Algorithm, Argon2, Params, Version};
use zeroize::Zeroizing;

/// Memory of new keys, KiB.
pub(crate) const MEMORY_KIB: u32 = 256 * 1024;
/// Passes of new keys.
pub(crate) const PASSES: u32 = 3;
/// A file must not make the box run out of memory or time.
const MOST_MEMORY_KIB: u32 = 512 * 1024;
const MOST_PASSES: u32 = 16;
/// RFC 9106 recommends 16 bytes of salt.
pub(crate) const SALT_BYTES: usize = 16;
/// Shorter ones are guessed, whatever each guess costs.
pub(crate) const LEAST_LETTERS: usize = 14;

/// Makes a key of a passphrase; none when the cost is beyond what is allowed.
pub(crate) fn key(
    passphrase: &str,
    salt: &[u8; SALT_BYTES],
    memory_kib: u32,
    passes: u32,
) -> Option<Zeroizing<[u8; 32]>> {
    let params = params(memory_kib, passes)?;
    let mut key = Zeroizing::new([0_u8; 32]);
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into(passphrase.as_bytes(), salt, key.as_mut_slice())
        .ok()?;
    Some(key)
}

/// Whether a box can pay this.
pub(crate) fn is_affordable(memory_kib: u32, passes: u32) -> bool {
    params(memory_kib, passes).is_some()
}

fn params(memory_kib: u32, passes: u32) -> Option<Params> {
    if memory_kib > MOST_MEMORY_KIB || passes > MOST_PASSES {
        return None;
    }
    Params::new(memory_kib, passes, 1, Some(32)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_that_of_the_reference_implementation() {
        // Computed with the reference implementation in C, by way of Python.
        let key = key("correct horse battery", b"0123456789abcdef", 64, 3).unwrap();
        assert_eq!(
            hex::encode(key.as_slice()),
            "d954dcab5dd0ac649ec8e75007e75bc0a4dfcfe20819f55f9be92935d53ba4bf"
        );
    }

    #[test]
    fn a_file_cannot_ask_for_more_than_the_box_has() {
        for (memory, passes) in
            [(MOST_MEMORY_KIB + 1, 1), (u32::MAX, 1), (64, MOST_PASSES + 1), (0, 1), (64, 0)]
        {
            assert!(key("x", &[0; SALT_BYTES], memory, passes).is_none(), "{memory} {passes}");
        }
        assert!(key("x", &[0; SALT_BYTES], MOST_MEMORY_KIB, 1).is_some(), "the largest that is allowed");
    }
}
