//! EIP-2335 keystores: one BLS secret, encrypted with a password.

mod cipher;
mod json;
mod kdf;
mod password;

use chain::PublicKeyBytes;
use rand::{CryptoRng, RngCore};
use zeroize::Zeroizing;

pub use kdf::{Kdf, KdfCost, MAX_PBKDF2_ROUNDS, MAX_SCRYPT_MEMORY};
pub use password::normalize_password;

use cipher::{aes_128_ctr, checksum};
use json::{CryptoJson, KeystoreJson};

/// Largest keystore file that is read; real ones take about a kilobyte.
pub const MAX_KEYSTORE_BYTES: usize = 64 * 1024;
/// Path written into key shares, which are derived from no seed.
pub const SHARE_PATH: &str = "m/12381/3600/0/0/0";

/// Why a keystore was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeystoreError {
    /// Larger than any keystore.
    #[error(
        "keystore: {found} bytes is more than the {limit} a keystore may have; this is another kind of file"
    )]
    FileTooLarge {
        /// Most bytes allowed.
        limit: usize,
        /// Bytes found.
        found: usize,
    },
    /// Not JSON of the right shape.
    ///
    /// Says where and what kind, never what it says there: somebody may have given us a bare secret.
    #[error(
        "keystore: not a valid EIP-2335 file ({category} at line {line}, column {column}); copy keystore-*.json again from its source"
    )]
    Json {
        /// Line of the text.
        line: usize,
        /// Column of the text.
        column: usize,
        /// What kind of fault.
        category: &'static str,
    },
    /// The parameters are not those of the key derivation that is named.
    #[error("keystore: 'crypto.kdf.params' belongs to another function than 'crypto.kdf' names")]
    KdfParams,
    /// Not version 4.
    #[error("keystore: version {0} is not supported, only version 4 (EIP-2335) is")]
    Version(u64),
    /// A member that is not hex, or not of the right length.
    #[error("keystore: '{member}' must be {expected} of hexadecimal text")]
    Hex {
        /// Path of the member.
        member: &'static str,
        /// What it should hold.
        expected: &'static str,
    },
    /// A function this firmware does not know.
    #[error("keystore: '{member}' names the unsupported function '{found}', expected {expected}")]
    Function {
        /// Which function.
        member: &'static str,
        /// Its name in the file, when it looks like a name.
        found: String,
        /// What is supported.
        expected: &'static str,
    },
    /// Parameters of the key derivation that make no sense.
    #[error("keystore: the parameter '{0}' of its key derivation is invalid")]
    KdfParameter(&'static str),
    /// Parameters that would take too much memory or time.
    #[error(
        "keystore: its key derivation asks for too much memory or time; export the key with standard parameters"
    )]
    KdfTooCostly,
    /// The checksum does not match.
    #[error("keystore: wrong password; the password is in the keystore-*.txt file of the same number")]
    WrongPassword,
    /// The secret is not 32 bytes.
    #[error("keystore: holds a secret of {0} bytes, a validator key share has 32")]
    SecretLength(usize),
    /// The secret does not belong to the public key.
    #[error(
        "keystore: the secret inside does not belong to its 'pubkey' {0}; the file is damaged or was edited"
    )]
    PublicKeyMismatch(PublicKeyBytes),
    /// The secret is no BLS key.
    #[error("keystore: the secret inside is not a valid BLS key")]
    InvalidSecret,
}

impl KeystoreError {
    fn of_json(error: &serde_json::Error) -> Self {
        use serde_json::error::Category;
        let category = match error.classify() {
            Category::Io | Category::Eof => "it ends too early",
            Category::Syntax => "no JSON",
            Category::Data => "a missing, unknown or unfitting member",
        };
        Self::Json { line: error.line(), column: error.column(), category }
    }
}

/// A parsed keystore, still encrypted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keystore {
    /// The encrypted secret.
    pub crypto: EncryptedSecret,
    /// Public key of the secret. Some tools leave it empty.
    pub public_key: Option<PublicKeyBytes>,
    /// EIP-2334 derivation path; empty when the key is derived from no seed.
    pub path: String,
    /// Unique id of the file.
    pub uuid: String,
    /// Free text.
    pub description: Option<String>,
    /// Free text some tools add.
    pub name: Option<String>,
}

/// The `crypto` part of a keystore.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncryptedSecret {
    kdf: Kdf,
    checksum: [u8; 32],
    iv: [u8; 16],
    ciphertext: Vec<u8>,
}

impl EncryptedSecret {
    /// Parses the JSON of a `crypto` member alone.
    pub fn from_json(bytes: &[u8]) -> Result<Self, KeystoreError> {
        check_size(bytes)?;
        let json: CryptoJson =
            serde_json::from_slice(bytes).map_err(|error| KeystoreError::of_json(&error))?;
        Self::try_from(json)
    }

    /// Encrypts a secret.
    pub fn encrypt<R: RngCore + CryptoRng + ?Sized>(
        secret: &[u8],
        password: &str,
        cost: KdfCost,
        rng: &mut R,
    ) -> Self {
        let mut salt = [0; 32];
        let mut iv = [0; 16];
        rng.fill_bytes(&mut salt);
        rng.fill_bytes(&mut iv);
        let kdf = cost.with_salt(salt);
        let key = kdf
            .derive(normalize_password(password).as_bytes())
            .expect("the costs offered here are within the bounds");
        let mut ciphertext = secret.to_vec();
        aes_128_ctr(&key, &iv, &mut ciphertext);
        Self { checksum: checksum(&key, &ciphertext), kdf, iv, ciphertext }
    }

    /// The `crypto` member, as it is written into a file.
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::to_value(CryptoJson::from(self)).expect("plain structs with text keys always serialize")
    }

    /// Decrypts the secret. Takes as long as the key derivation was made to take.
    pub fn decrypt(&self, password: &str) -> Result<Zeroizing<Vec<u8>>, KeystoreError> {
        let key = self.kdf.derive(normalize_password(password).as_bytes())?;
        if !constant_time_eq(&checksum(&key, &self.ciphertext), &self.checksum) {
            return Err(KeystoreError::WrongPassword);
        }
        let mut secret = Zeroizing::new(self.ciphertext.clone());
        aes_128_ctr(&key, &self.iv, &mut secret);
        Ok(secret)
    }
}

impl Keystore {
    /// Parses a keystore file. Unknown members are refused: they may change what the file means.
    pub fn from_json(bytes: &[u8]) -> Result<Self, KeystoreError> {
        check_size(bytes)?;
        let json: KeystoreJson =
            serde_json::from_slice(bytes).map_err(|error| KeystoreError::of_json(&error))?;
        Self::try_from(json)
    }

    /// Writes the file.
    pub fn to_json(&self) -> Vec<u8> {
        crate::document::to_indented_json(&KeystoreJson::from(self))
    }

    /// Encrypts a key share as the reference implementation writes it.
    pub fn encrypt_share<R: RngCore + CryptoRng + ?Sized>(
        secret: &threshold::SecretKey,
        password: &str,
        cost: KdfCost,
        rng: &mut R,
    ) -> Self {
        let crypto = EncryptedSecret::encrypt(secret.expose_bytes().as_slice(), password, cost, rng);
        Self {
            crypto,
            public_key: Some(secret.public_key().to_bytes()),
            path: SHARE_PATH.to_owned(),
            uuid: crate::create::random_uuid(rng),
            description: None,
            name: None,
        }
    }

    /// Decrypts a BLS key and checks that it belongs to the public key in the file.
    pub fn decrypt_key(&self, password: &str) -> Result<threshold::SecretKey, KeystoreError> {
        let secret = self.crypto.decrypt(password)?;
        if secret.len() != 32 {
            return Err(KeystoreError::SecretLength(secret.len()));
        }
        let key = threshold::SecretKey::from_bytes(&secret).map_err(|_| KeystoreError::InvalidSecret)?;
        match self.public_key {
            Some(public_key) if key.public_key().to_bytes() != public_key => {
                Err(KeystoreError::PublicKeyMismatch(public_key))
            }
            Some(_) | None => Ok(key),
        }
    }
}

fn check_size(bytes: &[u8]) -> Result<(), KeystoreError> {
    if bytes.len() > MAX_KEYSTORE_BYTES {
        return Err(KeystoreError::FileTooLarge { limit: MAX_KEYSTORE_BYTES, found: bytes.len() });
    }
    Ok(())
}

/// Compares without stopping at the first difference.
fn constant_time_eq(a: &[u8; 32], b: &[u8; 32]) -> bool {
    a.iter().zip(b).fold(0, |difference, (a, b)| difference | (a ^ b)) == 0
}
