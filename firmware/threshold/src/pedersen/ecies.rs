//! Encryption of a share to a member's ephemeral key (specification 11.8): ECIES over G1, HKDF-SHA-256, AES-256-GCM.

use aes_gcm::aead::{Aead as _, KeyInit as _};
use aes_gcm::{Aes256Gcm, Key, Nonce};
use hkdf::Hkdf;
use rand::CryptoRng;
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::ffi::{G1, Group as _, HashedMessage};
use crate::keys::{PublicKey, SecretKey};
use crate::signature::{Signature, verify_with_tag};

const POINT_BYTES: usize = 48;
const SCALAR_BYTES: usize = 32;
const TAG_BYTES: usize = 16;
const KEY_BYTES: usize = 32;
/// A key and a nonce come out of one derivation; the key is used for one message only.
const DERIVED_BYTES: usize = KEY_BYTES + 12;

/// Length of an encrypted share.
pub const CIPHERTEXT_BYTES: usize = POINT_BYTES + SCALAR_BYTES + TAG_BYTES;

/// The tag of bundle signatures, which is not that of Ethereum's: no bundle's signature is ever a vote.
const BUNDLE_TAG: &[u8] = b"BLS_SIG_BLS12381G2_XMD:SHA-256_SSWU_RO_NUL_";

/// A member's key pair for one ceremony: it opens what is dealt to the member and signs its bundles.
pub struct EphemeralKey(SecretKey);

impl EphemeralKey {
    /// A new one.
    pub fn random(rng: &mut (impl CryptoRng + ?Sized)) -> Self {
        Self(SecretKey::random(rng))
    }

    /// What the others are told.
    pub fn public_key(&self) -> PublicKey {
        self.0.public_key()
    }

    pub(super) fn sign(&self, hash: &[u8; 32]) -> Signature {
        self.0.sign_hashed(&HashedMessage::with_tag(hash, BUNDLE_TAG))
    }

    /// Opens a share; none when it was not made for this key or was changed.
    pub(super) fn decrypt(&self, ciphertext: &[u8]) -> Option<SecretKey> {
        if ciphertext.len() != CIPHERTEXT_BYTES {
            return None;
        }
        let (point, sealed) = ciphertext.split_at(POINT_BYTES);
        let point = PublicKey::from_slice(point).ok()?;
        let (cipher, nonce) = derive(&point, &self.0)?;
        let opened = Zeroizing::new(cipher.decrypt(Nonce::from_slice(nonce.as_slice()), sealed).ok()?);
        SecretKey::from_bytes(&opened).ok()
    }
}

/// Whether a bundle's signature is by the holder of that ephemeral key.
pub(super) fn signed_by(key: &PublicKey, hash: &[u8; 32], signature: &[u8]) -> bool {
    Signature::from_slice(signature).is_ok_and(|signature| verify_with_tag(key, hash, BUNDLE_TAG, &signature))
}

/// Encrypts a share to a member's ephemeral key.
pub(super) fn encrypt(
    to: &PublicKey,
    share: &SecretKey,
    rng: &mut (impl CryptoRng + ?Sized),
) -> Option<Vec<u8>> {
    let one_time = SecretKey::random(rng);
    let (cipher, nonce) = derive(to, &one_time)?;
    let sealed = cipher.encrypt(Nonce::from_slice(nonce.as_slice()), share.expose_bytes().as_slice()).ok()?;
    Some([one_time.public_key().to_bytes().as_slice(), &sealed].concat())
}

/// The cipher and nonce that come from the shared point of `theirs` and `ours`.
fn derive(theirs: &PublicKey, ours: &SecretKey) -> Option<(Aes256Gcm, Zeroizing<Vec<u8>>)> {
    let shared = G1::from_parsed(&theirs.0).mul(&ours.0).to_parsed();
    let shared = Zeroizing::new(shared.compress());
    let mut derived = Zeroizing::new([0_u8; DERIVED_BYTES]);
    Hkdf::<Sha256>::new(None, shared.as_slice()).expand(&[], derived.as_mut_slice()).ok()?;
    let (key, nonce) = derived.split_at(KEY_BYTES);
    Some((Aes256Gcm::new(Key::<Aes256Gcm>::from_slice(key)), Zeroizing::new(nonce.to_vec())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng as _;
    use rand_chacha::ChaCha20Rng;

    #[test]
    fn a_share_opens_for_its_receiver_and_nobody_else() {
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        let (receiver, other) = (EphemeralKey::random(&mut rng), EphemeralKey::random(&mut rng));
        let share = SecretKey::random(&mut rng);
        let sealed = encrypt(&receiver.public_key(), &share, &mut rng).unwrap();
        assert_eq!(sealed.len(), CIPHERTEXT_BYTES);
        let opened = receiver.decrypt(&sealed).unwrap();
        assert!(opened.public_key() == share.public_key());
        assert!(other.decrypt(&sealed).is_none());
        for place in 0..CIPHERTEXT_BYTES {
            let mut changed = sealed.clone();
            changed[place] ^= 1;
            assert!(receiver.decrypt(&changed).is_none(), "byte {place}");
        }
        for length in 0..CIPHERTEXT_BYTES {
            assert!(receiver.decrypt(&sealed[..length]).is_none(), "{length} bytes");
        }
        assert!(receiver.decrypt(&[sealed.as_slice(), &[0]].concat()).is_none());
    }

    #[test]
    fn two_encryptions_of_one_share_differ() {
        let mut rng = ChaCha20Rng::seed_from_u64(2);
        let receiver = EphemeralKey::random(&mut rng).public_key();
        let share = SecretKey::random(&mut rng);
        assert_ne!(encrypt(&receiver, &share, &mut rng), encrypt(&receiver, &share, &mut rng));
    }

    /// A bundle's signature must never count as a vote, and the other way round.
    #[test]
    fn bundle_signatures_are_not_ethereum_s() {
        let mut rng = ChaCha20Rng::seed_from_u64(3);
        let key = EphemeralKey::random(&mut rng);
        let hash = [7; 32];
        let signature = key.sign(&hash);
        assert!(signed_by(&key.public_key(), &hash, &signature.to_bytes().0));
        assert!(!signed_by(&key.public_key(), &[8; 32], &signature.to_bytes().0));
        assert!(!crate::verify(&key.public_key(), &hash, &signature));
        assert!(!signed_by(&key.public_key(), &hash, &key.0.sign(&hash).to_bytes().0));
        assert!(!signed_by(&key.public_key(), &hash, &[]));
    }
}
