//! Keys and shares.

use crate::ffi::{Fr, G1, HashedMessage};
use crate::signature::Signature;
use blst::BLST_ERROR;
use blst::min_pk;
use chain::PublicKeyBytes;
use rand::CryptoRng;
use std::fmt;
use zeroize::Zeroizing;

/// Why bytes are not a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// A secret key has 32 bytes.
    #[error("a secret key has 32 bytes, not {0}")]
    SecretLength(usize),
    /// The secret is zero or not below the group order.
    #[error("the secret key is zero or too large for the curve")]
    SecretRange,
    /// A public key has 48 bytes.
    #[error("a public key has 48 bytes, not {0}")]
    PublicLength(usize),
    /// The bytes are no point of the curve.
    #[error("the public key is not a point of the curve")]
    NotOnCurve,
    /// The point lies outside the group of prime order.
    #[error("the public key is not in the right subgroup of the curve")]
    NotInSubgroup,
    /// The point at infinity has no secret.
    #[error("the public key is the point at infinity")]
    Infinity,
    /// Index 0 is the group secret itself.
    #[error("share indices start at 1; index 0 would be the group secret")]
    IndexZero,
}

/// The index of a share: 1 to n, the place where the secret polynomial is evaluated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShareIndex(u64);

impl ShareIndex {
    /// Any number but zero.
    pub fn new(index: u64) -> Result<Self, KeyError> {
        if index == 0 { Err(KeyError::IndexZero) } else { Ok(Self(index)) }
    }

    /// The number.
    pub fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for ShareIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl TryFrom<u8> for ShareIndex {
    type Error = KeyError;

    fn try_from(index: u8) -> Result<Self, KeyError> {
        Self::new(index.into())
    }
}

/// A secret key: never zero, wiped on drop, neither printable nor copyable.
pub struct SecretKey(pub(crate) Fr);

impl SecretKey {
    /// Reads 32 big-endian bytes. The caller wipes its own copy.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, KeyError> {
        let bytes: &[u8; 32] = bytes.try_into().map_err(|_| KeyError::SecretLength(bytes.len()))?;
        Self::from_scalar(Fr::from_be_bytes(bytes).ok_or(KeyError::SecretRange)?)
    }

    /// A new key from the given randomness.
    pub fn random(rng: &mut (impl CryptoRng + ?Sized)) -> Self {
        loop {
            // Zero comes once in 2^255 draws.
            if let Ok(key) = Self::from_scalar(Fr::random(rng)) {
                return key;
            }
        }
    }

    pub(crate) fn from_scalar(scalar: Fr) -> Result<Self, KeyError> {
        if scalar.is_zero() { Err(KeyError::SecretRange) } else { Ok(Self(scalar)) }
    }

    /// The key's 32 bytes, to be sealed or encrypted at once and nothing else.
    pub fn expose_bytes(&self) -> Zeroizing<[u8; 32]> {
        self.0.to_be_bytes()
    }

    /// The public key.
    pub fn public_key(&self) -> PublicKey {
        PublicKey(G1::from_secret(&self.0).to_parsed())
    }

    /// Signs a message; on Ethereum that is a 32-byte signing root.
    pub fn sign(&self, message: &[u8]) -> Signature {
        self.sign_hashed(&HashedMessage::new(message))
    }

    /// Signs a message that was hashed before, which halves the work when many keys sign it.
    pub fn sign_hashed(&self, message: &HashedMessage) -> Signature {
        Signature::from_trusted(message.sign(&self.0))
    }
}

/// One operator's share of a validator's key.
pub struct SecretShare {
    index: ShareIndex,
    key: SecretKey,
}

impl SecretShare {
    /// A share is an ordinary secret key with an index.
    pub fn new(index: ShareIndex, key: SecretKey) -> Self {
        Self { index, key }
    }

    /// Where the polynomial was evaluated.
    pub fn index(&self) -> ShareIndex {
        self.index
    }

    /// The share's secret.
    pub fn key(&self) -> &SecretKey {
        &self.key
    }

    /// The share's secret without its index.
    pub fn into_key(self) -> SecretKey {
        self.key
    }

    /// The public side of the share.
    pub fn public_share(&self) -> PublicShare {
        PublicShare { index: self.index, key: self.key.public_key() }
    }

    /// Makes a partial signature.
    pub fn sign(&self, message: &[u8]) -> Signature {
        self.key.sign(message)
    }
}

/// A public key that was checked: on the curve, in the subgroup, not infinity.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PublicKey(pub(crate) min_pk::PublicKey);

impl PublicKey {
    /// Checks 48 compressed bytes.
    pub fn parse(bytes: &PublicKeyBytes) -> Result<Self, KeyError> {
        Self::from_slice(&bytes.0)
    }

    /// Checks compressed bytes of any length.
    pub fn from_slice(bytes: &[u8]) -> Result<Self, KeyError> {
        if bytes.len() != PublicKeyBytes::LEN {
            return Err(KeyError::PublicLength(bytes.len()));
        }
        let key = min_pk::PublicKey::uncompress(bytes).map_err(|_| KeyError::NotOnCurve)?;
        Self::from_unchecked(key)
    }

    pub(crate) fn from_unchecked(key: min_pk::PublicKey) -> Result<Self, KeyError> {
        match key.validate() {
            Ok(()) => Ok(Self(key)),
            Err(BLST_ERROR::BLST_PK_IS_INFINITY) => Err(KeyError::Infinity),
            Err(_) => Err(KeyError::NotInSubgroup),
        }
    }

    /// The compressed form.
    pub fn to_bytes(&self) -> PublicKeyBytes {
        PublicKeyBytes(self.0.compress())
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", self.to_bytes())
    }
}

/// The public side of a [`SecretShare`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublicShare {
    /// The share's index.
    pub index: ShareIndex,
    /// The share's public key.
    pub key: PublicKey,
}
