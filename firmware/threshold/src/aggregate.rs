//! Plain aggregation: sums of signatures and keys, where everybody must have signed.

use crate::ffi::{DST, G1, G2, Group};
use crate::keys::PublicKey;
use crate::signature::{Signature, SignatureError};
use blst::BLST_ERROR;
use chain::PublicKeyBytes;

/// The sum of signatures.
pub fn aggregate_signatures(signatures: &[Signature]) -> Result<Signature, SignatureError> {
    if signatures.is_empty() {
        return Err(SignatureError::Empty);
    }
    let sum =
        signatures.iter().fold(G2::identity(), |sum, signature| sum.add(&G2::from_parsed(signature.inner())));
    Ok(Signature::from_trusted(sum.to_parsed()))
}

/// The sum of public keys. Keys that cancel out give the point at infinity, which no longer parses as a key; hence bytes.
pub fn aggregate_public_keys(keys: &[PublicKey]) -> Result<PublicKeyBytes, SignatureError> {
    if keys.is_empty() {
        return Err(SignatureError::Empty);
    }
    Ok(PublicKeyBytes(sum_of(keys).to_parsed().compress()))
}

fn sum_of(keys: &[PublicKey]) -> G1 {
    keys.iter().fold(G1::identity(), |sum, key| sum.add(&G1::from_parsed(&key.0)))
}

/// Whether all keys signed the one message. No keys: no.
pub fn fast_aggregate_verify(keys: &[PublicKey], message: &[u8], signature: &Signature) -> bool {
    if keys.is_empty() {
        return false;
    }
    match PublicKey::from_unchecked(sum_of(keys).to_parsed()) {
        Ok(sum) => crate::verify(&sum, message, signature),
        Err(_) => false, // The keys cancel out: nothing can be said about who signed.
    }
}

/// `eth_fast_aggregate_verify` of the consensus specifications: as above, but no keys and the signature at infinity match
/// (an empty sync aggregate).
pub fn eth_fast_aggregate_verify(keys: &[PublicKey], message: &[u8], signature: &Signature) -> bool {
    (keys.is_empty() && signature.is_infinity()) || fast_aggregate_verify(keys, message, signature)
}

/// Whether each key signed its own message. No keys, or another count of messages: no.
pub fn aggregate_verify(keys: &[PublicKey], messages: &[&[u8]], signature: &Signature) -> bool {
    if keys.is_empty() || keys.len() != messages.len() {
        return false;
    }
    let keys: Vec<_> = keys.iter().map(|key| &key.0).collect();
    signature.inner().aggregate_verify(false, messages, DST, &keys, false) == BLST_ERROR::BLST_SUCCESS
}
