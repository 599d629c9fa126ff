//! Key derivation of keystores, within bounds: a file must not make the box run out of memory or time.

use hmac::Hmac;
use sha2::Sha256;
use zeroize::Zeroizing;

use super::KeystoreError;

/// Most memory scrypt may ask for: twice what standard keystores take (n = 2^18, r = 8).
pub const MAX_SCRYPT_MEMORY: u64 = 512 * 1024 * 1024;
/// Most work scrypt may ask for, as n · r · p: four times the standard.
const MAX_SCRYPT_WORK: u64 = 4 * 262_144 * 8;
/// Most rounds PBKDF2 may ask for: 64 times the standard.
pub const MAX_PBKDF2_ROUNDS: u64 = 16 * 1024 * 1024;
/// Longest salt.
const MAX_SALT: usize = 1024;
/// Length of the derived key that cipher and checksum need.
const KEY_LEN: u64 = 32;

/// Key derivation and its parameters, as found in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kdf {
    /// PBKDF2 with HMAC-SHA-256.
    Pbkdf2 {
        /// Rounds.
        c: u64,
        /// Length of the derived key.
        dklen: u64,
        /// Salt.
        salt: Vec<u8>,
    },
    /// scrypt.
    Scrypt {
        /// CPU and memory cost, a power of two.
        n: u64,
        /// Block size.
        r: u64,
        /// Parallelism.
        p: u64,
        /// Length of the derived key.
        dklen: u64,
        /// Salt.
        salt: Vec<u8>,
    },
}

/// Cost of new keystores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KdfCost {
    /// PBKDF2 with 2^18 rounds, as the reference implementation writes.
    Standard,
    /// PBKDF2 with 2^4 rounds: no protection at all, for local test chains only.
    Insecure,
}

impl KdfCost {
    pub(super) fn with_salt(self, salt: [u8; 32]) -> Kdf {
        let c = match self {
            Self::Standard => 1 << 18,
            Self::Insecure => 1 << 4,
        };
        Kdf::Pbkdf2 { c, dklen: KEY_LEN, salt: salt.to_vec() }
    }
}

impl Kdf {
    /// Derives the 32-byte key.
    pub(super) fn derive(&self, password: &[u8]) -> Result<Zeroizing<[u8; 32]>, KeystoreError> {
        let mut key = Zeroizing::new([0; 32]);
        match self {
            Self::Pbkdf2 { c, dklen, salt } => {
                check_common(*dklen, salt)?;
                if *c == 0 {
                    return Err(KeystoreError::KdfParameter("c"));
                }
                let rounds = u32::try_from(*c).ok().filter(|_| *c <= MAX_PBKDF2_ROUNDS);
                let rounds = rounds.ok_or(KeystoreError::KdfTooCostly)?;
                pbkdf2::pbkdf2::<Hmac<Sha256>>(password, salt, rounds, key.as_mut_slice())
                    .map_err(|_| KeystoreError::KdfParameter("c"))?;
            }
            Self::Scrypt { n, r, p, dklen, salt } => {
                check_common(*dklen, salt)?;
                let params = scrypt_params(*n, *r, *p)?;
                scrypt::scrypt(password, salt, &params, key.as_mut_slice())
                    .map_err(|_| KeystoreError::KdfParameter("dklen"))?;
            }
        }
        Ok(key)
    }
}

fn check_common(dklen: u64, salt: &[u8]) -> Result<(), KeystoreError> {
    if dklen != KEY_LEN {
        return Err(KeystoreError::KdfParameter("dklen"));
    }
    if salt.len() > MAX_SALT {
        return Err(KeystoreError::KdfParameter("salt"));
    }
    Ok(())
}

fn scrypt_params(n: u64, r: u64, p: u64) -> Result<scrypt::Params, KeystoreError> {
    if n < 2 || !n.is_power_of_two() {
        return Err(KeystoreError::KdfParameter("n"));
    }
    for (name, value) in [("r", r), ("p", p)] {
        if value == 0 {
            return Err(KeystoreError::KdfParameter(name));
        }
    }
    let work = n.checked_mul(r).and_then(|nr| nr.checked_mul(p)).ok_or(KeystoreError::KdfTooCostly)?;
    // scrypt holds n · r blocks of 128 bytes and p · r more.
    let blocks = n.saturating_add(p).saturating_mul(r);
    if work > MAX_SCRYPT_WORK || blocks.saturating_mul(128) > MAX_SCRYPT_MEMORY {
        return Err(KeystoreError::KdfTooCostly);
    }
    let log_n = u8::try_from(n.trailing_zeros()).map_err(|_| KeystoreError::KdfTooCostly)?;
    let r = u32::try_from(r).map_err(|_| KeystoreError::KdfTooCostly)?;
    let p = u32::try_from(p).map_err(|_| KeystoreError::KdfTooCostly)?;
    scrypt::Params::new(log_n, r, p).map_err(|_| KeystoreError::KdfParameter("r"))
}
