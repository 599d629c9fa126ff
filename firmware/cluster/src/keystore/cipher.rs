//! AES-128 in counter mode, and the checksum that tells a wrong password.

use aes::Aes128;
use ctr::Ctr128BE;
use ctr::cipher::{KeyIvInit as _, StreamCipher as _};

use crate::primitives::sha256;

/// En- or decrypts in place with the first half of the derived key.
pub(super) fn aes_128_ctr(key: &[u8; 32], iv: &[u8; 16], bytes: &mut [u8]) {
    let mut half = zeroize::Zeroizing::new([0; 16]);
    half.copy_from_slice(&key[..16]);
    let mut cipher = Ctr128BE::<Aes128>::new(&(*half).into(), &(*iv).into());
    cipher.apply_keystream(bytes);
}

/// SHA-256 over the second half of the derived key and the ciphertext.
pub(super) fn checksum(key: &[u8; 32], ciphertext: &[u8]) -> [u8; 32] {
    sha256(&[&key[16..], ciphertext])
}
