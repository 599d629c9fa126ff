//! `vault.passphrase`: the vault's root, encrypted under a key that Argon2id makes of the owner's passphrase.
//!
//! The root is random and never changes, so another passphrase encrypts it anew and no share has to be sealed again. Cost,
//! salt and nonce stand in the file, bounded on reading and bound to the ciphertext.

use chacha20poly1305::{
    XChaCha20Poly1305, XNonce,
    aead::{Aead as _, KeyInit as _, Payload},
};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::passphrase;

/// The file's name in the state folder.
pub(crate) const FILE: &str = "vault.passphrase";
/// The largest file that is read.
pub(crate) const MAX_BYTES: usize = 1024;
const VERSION: u8 = 1;
const NONCE_BYTES: usize = 24;
/// Of the root.
pub(crate) const ROOT_BYTES: usize = 32;

/// What is in the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Wrapped {
    hearth_vault: u8,
    memory_kib: u32,
    passes: u32,
    salt: String,
    nonce: String,
    ciphertext: String,
}

/// What must be new each time.
#[derive(Default)]
pub(crate) struct Fresh {
    /// For Argon2id.
    pub(crate) salt: [u8; passphrase::SALT_BYTES],
    /// For the cipher.
    pub(crate) nonce: [u8; NONCE_BYTES],
}

impl Wrapped {
    /// Encrypts a root; none when the cost is out of bounds.
    pub(crate) fn wrap(root: &[u8; ROOT_BYTES], words: &str, memory_kib: u32, fresh: &Fresh) -> Option<Self> {
        let key = passphrase::key(words, &fresh.salt, memory_kib, passphrase::PASSES)?;
        let mut wrapped = Self {
            hearth_vault: VERSION,
            memory_kib,
            passes: passphrase::PASSES,
            salt: hex::encode(fresh.salt),
            nonce: hex::encode(fresh.nonce),
            ciphertext: String::new(),
        };
        let cipher = XChaCha20Poly1305::new_from_slice(key.as_slice()).ok()?;
        let payload = Payload { msg: root, aad: &wrapped.header() };
        wrapped.ciphertext = hex::encode(cipher.encrypt(XNonce::from_slice(&fresh.nonce), payload).ok()?);
        Some(wrapped)
    }

    /// Reads a file; none when it is not one of ours, or not all of it.
    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        if bytes.len() > MAX_BYTES {
            return None;
        }
        let wrapped: Self = serde_json::from_slice(bytes).ok()?;
        let is_hex = |text: &str, length| hex::decode(text).is_ok_and(|bytes| bytes.len() == length);
        (wrapped.hearth_vault == VERSION
            && passphrase::is_affordable(wrapped.memory_kib, wrapped.passes)
            && is_hex(&wrapped.salt, passphrase::SALT_BYTES)
            && is_hex(&wrapped.nonce, NONCE_BYTES)
            && is_hex(&wrapped.ciphertext, ROOT_BYTES + 16))
        .then_some(wrapped)
    }

    /// Whether trying a passphrase costs next to nothing, as in tests.
    pub(crate) fn is_cheap(&self) -> bool {
        self.memory_kib <= 64 && self.passes <= passphrase::PASSES
    }

    /// The file's content.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Opens it; none when the passphrase is another one, or the file was changed.
    pub(crate) fn open(&self, words: &str) -> Option<Zeroizing<[u8; ROOT_BYTES]>> {
        let salt: [u8; passphrase::SALT_BYTES] = hex::decode(&self.salt).ok()?.try_into().ok()?;
        let nonce: [u8; NONCE_BYTES] = hex::decode(&self.nonce).ok()?.try_into().ok()?;
        let ciphertext = hex::decode(&self.ciphertext).ok()?;
        let key = passphrase::key(words, &salt, self.memory_kib, self.passes)?;
        let cipher = XChaCha20Poly1305::new_from_slice(key.as_slice()).ok()?;
        let payload = Payload { msg: &ciphertext, aad: &self.header() };
        let plain = Zeroizing::new(cipher.decrypt(XNonce::from_slice(&nonce), payload).ok()?);
        Some(Zeroizing::new(plain.as_slice().try_into().ok()?))
    }

    fn header(&self) -> Vec<u8> {
        let Self { hearth_vault, memory_kib, passes, salt, nonce, ciphertext: _ } = self;
        format!("hearth vault under a passphrase {hearth_vault} {memory_kib} {passes} {salt} {nonce}")
            .into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT: [u8; ROOT_BYTES] = [9; ROOT_BYTES];

    fn wrapped() -> Wrapped {
        let fresh = Fresh { salt: [1; passphrase::SALT_BYTES], nonce: [2; NONCE_BYTES] };
        Wrapped::wrap(&ROOT, "right words", 64, &fresh).unwrap()
    }

    #[test]
    fn the_right_passphrase_opens_it_and_no_other() {
        let file = wrapped().to_bytes();
        assert!(file.len() <= MAX_BYTES);
        let read = Wrapped::read(&file).unwrap();
        assert_eq!(read.open("right words").unwrap().as_slice(), ROOT);
        assert!(read.open("wrong words").is_none());
        assert!(!String::from_utf8(file).unwrap().contains(&hex::encode(ROOT)));
    }

    #[test]
    fn a_changed_or_cut_file_opens_nothing_and_never_panics() {
        let file = wrapped().to_bytes();
        for place in 0..file.len() {
            assert!(Wrapped::read(&file[..place]).is_none(), "cut at {place}");
            for bit in [1, 4] {
                let mut changed = file.clone();
                changed[place] ^= bit;
                let opened = Wrapped::read(&changed)
                    .filter(|read| read.memory_kib <= 1024)
                    .and_then(|read| read.open("right words"));
                assert!(opened.is_none(), "byte {place}");
            }
        }
    }

    #[test]
    fn a_file_cannot_ask_for_more_than_the_box_has() {
        for (memory_kib, passes) in [(u32::MAX, 3), (64, u32::MAX), (0, 3), (64, 0)] {
            let file = Wrapped { memory_kib, passes, ..wrapped() }.to_bytes();
            assert!(Wrapped::read(&file).is_none(), "{memory_kib} {passes}");
        }
    }
}
