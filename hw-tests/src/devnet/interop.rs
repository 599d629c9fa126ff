//! The fillers' keys: the publicly known interop keys, which every client can derive from a number.
//!
//! Derivation (eth2.0-pm, `mocked_start`): SHA-256 of the index as 32 little-endian bytes, read as a little-endian
//! integer, modulo the order of the BLS12-381 scalar field. Never to be used with value.

use chain::{Bytes32, PublicKeyBytes};
use sha2::{Digest, Sha256};
use threshold::SecretKey;

use super::{DepositEntry, DevnetError};

/// Order of the BLS12-381 scalar field, big-endian.
const CURVE_ORDER: [u8; 32] = [
    0x73, 0xed, 0xa7, 0x53, 0x29, 0x9d, 0x7d, 0x48, 0x33, 0x39, 0xd8, 0x08, 0x09, 0xa1, 0xd8, 0x05, 0x53,
    0xbd, 0xa4, 0x02, 0xff, 0xfe, 0x5b, 0xfe, 0xff, 0xff, 0xff, 0xff, 0x00, 0x00, 0x00, 0x01,
];

/// The signed deposit of filler `index`.
///
/// # Errors
/// Never, unless the derivation above is broken.
pub fn interop_deposit(index: u64) -> Result<DepositEntry, DevnetError> {
    let key = SecretKey::from_bytes(&interop_secret_key(index))
        .map_err(|error| DevnetError::Interop { index, why: error.to_string() })?;
    let credentials = bls_credentials(key.public_key().to_bytes());
    Ok(DepositEntry::signed(&key, credentials))
}

/// Withdrawal credentials of type `0x00`: the hash of a BLS key, here the validator's own.
fn bls_credentials(key: PublicKeyBytes) -> Bytes32 {
    let mut hash: [u8; 32] = Sha256::digest(key.0).into();
    hash[0] = 0;
    Bytes32(hash)
}

/// The interop secret key of an index, big-endian.
fn interop_secret_key(index: u64) -> [u8; 32] {
    let mut preimage = [0; 32];
    preimage[..8].copy_from_slice(&index.to_le_bytes());
    let mut key: [u8; 32] = Sha256::digest(preimage).into();
    key.reverse();
    // The order is a little less than half of 2^256, so this happens twice at most.
    while key >= CURVE_ORDER {
        key = subtract(key, CURVE_ORDER);
    }
    key
}

/// `left - right` for big-endian numbers with `left >= right`.
fn subtract(left: [u8; 32], right: [u8; 32]) -> [u8; 32] {
    let mut difference = [0; 32];
    let mut borrow = false;
    for place in (0..32).rev() {
        let (byte, under) = left[place].overflowing_sub(right[place]);
        let (byte, under_again) = byte.overflowing_sub(u8::from(borrow));
        difference[place] = byte;
        borrow = under || under_again;
    }
    difference
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use serde_json::Value;

    use super::*;

    fn vectors() -> PathBuf {
        std::env::var_os("HEARTH_VECTORS")
            .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/vectors"), PathBuf::from)
    }

    #[test]
    fn keys_are_those_that_real_clients_derive() {
        let path = vectors().join("interop-keys.json");
        let Ok(text) = std::fs::read_to_string(&path) else {
            eprintln!("SKIPPED: no {}", path.display());
            return;
        };
        let file: Value = serde_json::from_str(&text).unwrap();
        let keys = file["keys"].as_array().unwrap();
        assert!(!keys.is_empty());
        for expected in keys {
            let index = expected["index"].as_u64().unwrap();
            assert_eq!(expected["secret_key"], format!("0x{}", hex::encode(interop_secret_key(index))));
            let deposit = interop_deposit(index).unwrap();
            assert_eq!(expected["pubkey"], format!("0x{}", deposit.pubkey));
            assert_eq!(expected["withdrawal_credentials"], format!("0x{}", deposit.withdrawal_credentials));
        }
    }

    #[test]
    fn the_first_key_is_the_well_known_one() {
        assert_eq!(
            hex::encode(interop_secret_key(0)),
            "25295f0d1d592a90b333e26e85149708208e9f8e8bc18f6c77bd62f8ad7a6866"
        );
    }
}
