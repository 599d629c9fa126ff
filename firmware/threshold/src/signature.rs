//! Signatures and their verification.

use crate::ffi::DST;
use crate::keys::{KeyError, PublicKey};
use blst::{BLST_ERROR, blst_p2_affine, min_pk};
use chain::{PublicKeyBytes, SignatureBytes};
use std::fmt;

/// Why bytes are not a valid signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// A signature has 96 bytes.
    #[error("a signature has 96 bytes, not {0}")]
    Length(usize),
    /// The bytes are no point of the curve; all-zero bytes end here too.
    #[error("the signature is not a point of the curve")]
    NotOnCurve,
    /// The point lies outside the group of prime order.
    #[error("the signature is not in the right subgroup of the curve")]
    NotInSubgroup,
    /// The key is invalid.
    #[error("the public key is invalid")]
    Key(#[from] KeyError),
    /// Key, message and signature do not belong together.
    #[error("the signature does not match the public key and message")]
    Mismatch,
    /// Nothing was given.
    #[error("no signature was given")]
    Empty,
}

/// A signature that is a point of the right group. Whether it matches a key is [`verify`]'s question. The point at infinity is
/// such a point, but matches no key.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Signature(min_pk::Signature);

impl Signature {
    /// Checks 96 compressed bytes.
    pub fn parse(bytes: &SignatureBytes) -> Result<Self, SignatureError> {
        Self::from_slice(&bytes.0)
    }

    /// Checks compressed bytes of any length.
    pub fn from_slice(bytes: &[u8]) -> Result<Self, SignatureError> {
        Self::from_unchecked(parse_on_curve(bytes)?)
    }

    pub(crate) fn from_unchecked(signature: min_pk::Signature) -> Result<Self, SignatureError> {
        if signature.subgroup_check() { Ok(Self(signature)) } else { Err(SignatureError::NotInSubgroup) }
    }

    /// Wraps what we calculated ourselves from points known to be in the group.
    pub(crate) fn from_trusted(signature: min_pk::Signature) -> Self {
        Self(signature)
    }

    pub(crate) fn inner(&self) -> &min_pk::Signature {
        &self.0
    }

    /// The compressed form.
    pub fn to_bytes(&self) -> SignatureBytes {
        SignatureBytes(self.0.compress())
    }

    /// Whether this is the point at infinity.
    pub fn is_infinity(&self) -> bool {
        self.to_bytes() == INFINITY
    }
}

/// The compressed point at infinity of G2.
pub(crate) const INFINITY: SignatureBytes = {
    let mut bytes = [0; 96];
    bytes[0] = 0xc0;
    SignatureBytes(bytes)
};

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signature({})", self.to_bytes())
    }
}

/// Reads a point of the curve without the subgroup check, for points whose combination is checked instead.
pub(crate) fn parse_on_curve(bytes: &[u8]) -> Result<min_pk::Signature, SignatureError> {
    if bytes.len() != SignatureBytes::LEN {
        return Err(SignatureError::Length(bytes.len()));
    }
    min_pk::Signature::uncompress(bytes).map_err(|_| SignatureError::NotOnCurve)
}

/// Whether a point of the curve is in the subgroup of prime order.
pub(crate) fn in_subgroup(point: &blst_p2_affine) -> bool {
    min_pk::Signature::from(*point).subgroup_check()
}

/// Whether `signature` is `key`'s over `message`.
pub fn verify(key: &PublicKey, message: &[u8], signature: &Signature) -> bool {
    // Both points were checked when their types were made.
    signature.0.verify(false, message, DST, &[], &key.0, false) == BLST_ERROR::BLST_SUCCESS
}

/// Whether `signature` is `key`'s over `message` under another tag than Ethereum's.
pub(crate) fn verify_with_tag(key: &PublicKey, message: &[u8], tag: &[u8], signature: &Signature) -> bool {
    signature.0.verify(false, message, tag, &[], &key.0, false) == BLST_ERROR::BLST_SUCCESS
}

/// The same from unchecked bytes, with the reason when it fails.
pub fn verify_bytes(
    key: &PublicKeyBytes,
    message: &[u8],
    signature: &SignatureBytes,
) -> Result<(), SignatureError> {
    let key = PublicKey::parse(key)?;
    let signature = Signature::parse(signature)?;
    if verify(&key, message, &signature) { Ok(()) } else { Err(SignatureError::Mismatch) }
}
