//! The secp256k1 identity of an operator and its 65-byte signatures (`R ‖ S ‖ V`).

use core::fmt;
use core::str::FromStr;

use rand::{CryptoRng, RngCore};
use secp256k1::ecdsa::{RecoverableSignature, RecoveryId, Signature};
use secp256k1::{Message, PublicKey, SecretKey};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::primitives::keccak256;

/// Length of a recoverable signature: `R` (32), `S` (32), `V` (1).
pub const K1_SIGNATURE_LEN: usize = 65;

/// Why an identity key or an identity signature was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// The key file is not 64 hex digits.
    #[error(
        "the identity key file must hold exactly 64 hex digits (32 bytes), found {found} characters; restore charon-enr-private-key from your backup"
    )]
    KeyFileFormat {
        /// Characters found after trimming white space.
        found: usize,
    },
    /// The 32 bytes are zero or not below the order of the curve.
    #[error("the identity key is not a valid secp256k1 key; restore charon-enr-private-key from your backup")]
    KeyOutOfRange,
    /// The bytes are not a compressed point of the curve.
    #[error("not a compressed secp256k1 public key (33 bytes)")]
    PublicKey,
    /// A signature has the wrong length.
    #[error("a secp256k1 signature must be {expected} bytes, found {found}")]
    SignatureLength {
        /// Length this use asks for.
        expected: usize,
        /// Length found.
        found: usize,
    },
    /// The recovery byte is not 0, 1, 27 or 28.
    #[error("the last byte of a secp256k1 signature must be 0, 1, 27 or 28, found {0}")]
    RecoveryByte(u8),
    /// No key can be recovered, or another key signed.
    #[error("the secp256k1 signature does not belong to the expected key")]
    WrongSigner,
}

/// The secret identity of this operator. Wiped on drop; cannot be cloned or serialised, and prints as its public half.
pub struct IdentityKey {
    secret: Zeroizing<[u8; 32]>,
    public: IdentityPublicKey,
}

impl IdentityKey {
    /// Takes the 32-byte big-endian scalar.
    pub fn from_bytes(bytes: Zeroizing<[u8; 32]>) -> Result<Self, IdentityError> {
        let mut secret = SecretKey::from_secret_bytes(*bytes).map_err(|_| IdentityError::KeyOutOfRange)?;
        let public = IdentityPublicKey(secret.public_key().serialize());
        secret.non_secure_erase();
        Ok(Self { secret: bytes, public })
    }

    /// Reads the text of a `charon-enr-private-key` file: 64 hex digits, surrounding white space ignored.
    pub fn from_file_text(text: &str) -> Result<Self, IdentityError> {
        let trimmed = text.trim();
        let mut bytes = Zeroizing::new([0_u8; 32]);
        hex::decode_to_slice(trimmed, bytes.as_mut_slice())
            .map_err(|_| IdentityError::KeyFileFormat { found: trimmed.chars().count() })?;
        Self::from_bytes(bytes)
    }

    /// Makes a fresh key.
    pub fn generate<R: RngCore + CryptoRng + ?Sized>(rng: &mut R) -> Self {
        loop {
            let mut bytes = Zeroizing::new([0_u8; 32]);
            rng.fill_bytes(bytes.as_mut_slice());
            // Out of range once in 2^127 draws.
            if let Ok(key) = Self::from_bytes(bytes) {
                return key;
            }
        }
    }

    /// The text to write to `charon-enr-private-key` (mode 0600, no newline).
    pub fn to_file_text(&self) -> Zeroizing<String> {
        Zeroizing::new(hex::encode(self.secret.as_slice()))
    }

    /// The scalar, for the one library that wants it raw (the libp2p host).
    pub fn secret_bytes(&self) -> &Zeroizing<[u8; 32]> {
        &self.secret
    }

    /// The public half.
    pub fn public_key(&self) -> IdentityPublicKey {
        self.public
    }

    /// Signs a 32-byte digest: deterministic (RFC 6979), low S, `V` 0 or 1. Hashing is the caller's business.
    pub fn sign(&self, digest: &[u8; 32]) -> [u8; K1_SIGNATURE_LEN] {
        let mut secret = SecretKey::from_secret_bytes(*self.secret)
            .expect("the scalar was checked when this key was made");
        let signature = RecoverableSignature::sign_ecdsa_recoverable(Message::from_digest(*digest), &secret);
        secret.non_secure_erase();
        let (recovery, compact) = signature.serialize_compact();
        let mut out = [0_u8; K1_SIGNATURE_LEN];
        out[..64].copy_from_slice(&compact);
        out[64] = recovery.to_u8();
        out
    }
}

impl IdentityKey {
    /// The same signature as [`Self::sign`] makes, in DER as libp2p writes it.
    pub fn sign_der(&self, digest: &[u8; 32]) -> Vec<u8> {
        let mut secret = SecretKey::from_secret_bytes(*self.secret)
            .expect("the scalar was checked when this key was made");
        let signature = RecoverableSignature::sign_ecdsa_recoverable(Message::from_digest(*digest), &secret);
        secret.non_secure_erase();
        signature.to_standard().serialize_der().to_vec()
    }
}

/// Names the key by its public half, so that structs around it can derive `Debug` without showing a secret.
impl fmt::Debug for IdentityKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IdentityKey(of {})", self.public)
    }
}

/// A compressed secp256k1 public key that is known to be on the curve.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct IdentityPublicKey([u8; 33]);

impl IdentityPublicKey {
    /// Checks and takes a compressed key.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, IdentityError> {
        let compressed: [u8; 33] = bytes.try_into().map_err(|_| IdentityError::PublicKey)?;
        PublicKey::from_slice(&compressed).map_err(|_| IdentityError::PublicKey)?;
        Ok(Self(compressed))
    }

    /// The compressed form.
    pub fn as_bytes(&self) -> &[u8; 33] {
        &self.0
    }

    /// Verifies a 65-byte signature: recovers the signer and compares.
    pub fn verify(&self, digest: &[u8; 32], signature: &[u8]) -> Result<(), IdentityError> {
        if recover(digest, signature)? == *self { Ok(()) } else { Err(IdentityError::WrongSigner) }
    }

    /// Verifies a 64-byte signature without recovery byte (as in an ENR).
    pub fn verify_compact(&self, digest: &[u8; 32], signature: &[u8]) -> Result<(), IdentityError> {
        if signature.len() != 64 {
            return Err(IdentityError::SignatureLength { expected: 64, found: signature.len() });
        }
        let mut signature = Signature::from_compact(signature).map_err(|_| IdentityError::WrongSigner)?;
        // The library verifies low S only; ENRs of other writers may hold the other, equally valid, form.
        signature.normalize_s();
        let key = PublicKey::from_slice(&self.0).map_err(|_| IdentityError::PublicKey)?;
        signature.verify(Message::from_digest(*digest), &key).map_err(|_| IdentityError::WrongSigner)
    }

    /// Verifies a DER signature, as libp2p writes it.
    pub fn verify_der(&self, digest: &[u8; 32], signature: &[u8]) -> Result<(), IdentityError> {
        let mut signature = Signature::from_der(signature).map_err(|_| IdentityError::WrongSigner)?;
        signature.normalize_s();
        let key = PublicKey::from_slice(&self.0).map_err(|_| IdentityError::PublicKey)?;
        signature.verify(Message::from_digest(*digest), &key).map_err(|_| IdentityError::WrongSigner)
    }

    /// The execution-layer address of this key: the last 20 bytes of keccak256 over the uncompressed point.
    pub fn address(&self) -> [u8; 20] {
        let key = PublicKey::from_slice(&self.0).expect("checked when this key was made");
        let hash = keccak256(&key.serialize_uncompressed()[1..]);
        let mut address = [0_u8; 20];
        address.copy_from_slice(&hash[12..]);
        address
    }
}

impl fmt::Display for IdentityPublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for IdentityPublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for IdentityPublicKey {
    type Err = IdentityError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut bytes = [0_u8; 33];
        hex::decode_to_slice(text.strip_prefix("0x").unwrap_or(text), &mut bytes)
            .map_err(|_| IdentityError::PublicKey)?;
        Self::from_bytes(&bytes)
    }
}

impl TryFrom<String> for IdentityPublicKey {
    type Error = IdentityError;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<IdentityPublicKey> for String {
    fn from(key: IdentityPublicKey) -> Self {
        key.to_string()
    }
}

/// Recovers the signer of a 65-byte signature; `V` may be 0, 1, 27 or 28.
pub fn recover(digest: &[u8; 32], signature: &[u8]) -> Result<IdentityPublicKey, IdentityError> {
    let bytes: &[u8; K1_SIGNATURE_LEN] = signature
        .try_into()
        .map_err(|_| IdentityError::SignatureLength { expected: K1_SIGNATURE_LEN, found: signature.len() })?;
    let recovery = match bytes[64] {
        0 | 27 => RecoveryId::Zero,
        1 | 28 => RecoveryId::One,
        other => return Err(IdentityError::RecoveryByte(other)),
    };
    RecoverableSignature::from_compact(&bytes[..64], recovery)
        .and_then(|signature| signature.recover_ecdsa(Message::from_digest(*digest)))
        .map(|key| IdentityPublicKey(key.serialize()))
        .map_err(|_| IdentityError::WrongSigner)
}
