//! The sealed envelope in which shares travel to the signer.
//!
//! HPKE (RFC 9180) base mode: DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, ChaCha20-Poly1305, info [`INFO`], no additional
//! data. Whoever carries the envelope (the page's server, `dv-node`, a disk) learns its length and nothing else.
//!
//! What a browser seals has AES-256-GCM instead, for its WebCrypto knows no ChaCha20, and says in `info` what it is for. HPKE
//! binds the cipher and the purpose into the key, so one key pair serves all of them.

use hpke::{
    Deserializable, Kem as _, OpModeR, OpModeS, Serializable,
    aead::{AesGcm256, ChaCha20Poly1305},
    kdf::HkdfSha256,
    kem::X25519HkdfSha256,
};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::signer::{ShareBundle, ShareImport};

/// Binds an envelope to its purpose.
pub const INFO: &[u8] = b"hearth share import v1";
/// The largest plaintext: about a thousand keystores.
pub const MAX_PLAINTEXT_BYTES: usize = 2 * 1024 * 1024;

type Kem = X25519HkdfSha256;
type Aead = ChaCha20Poly1305;
type Kdf = HkdfSha256;

/// Why an envelope could not be made or opened.
#[derive(Debug, thiserror::Error)]
pub enum EnvelopeError {
    /// The public key is not 32 bytes of hex.
    #[error("the import key is not a valid X25519 public key: it must be 32 bytes in hex")]
    BadPublicKey,
    /// The encapsulated key or the ciphertext is not hex of a sensible length.
    #[error("the sealed envelope is damaged: its parts must be hex, `enc` of 32 bytes, at most 2 MiB in all")]
    Damaged,
    /// It was sealed to another key, or changed on the way.
    #[error(
        "the sealed envelope does not open: it was sealed for another box or changed on the way; fetch the import key again and seal anew"
    )]
    DoesNotOpen,
    /// What came out is not a bundle of shares.
    #[error("the sealed envelope holds no valid share bundle (line {line}, column {column})")]
    NotABundle {
        /// Line of the JSON text.
        line: usize,
        /// Column of the JSON text.
        column: usize,
    },
}

/// The signer's private import key. Wiped on drop.
pub struct ImportSecret(<Kem as hpke::Kem>::PrivateKey);

impl ImportSecret {
    /// A new key from the operating system's randomness.
    pub fn generate() -> Self {
        let mut rng = rand::rng();
        Self(Kem::gen_keypair(&mut rng).0)
    }

    /// Reads the key back from [`Self::to_bytes`].
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        <Kem as hpke::Kem>::PrivateKey::from_bytes(bytes).ok().map(Self)
    }

    /// The 32 bytes to keep under seal.
    pub fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(self.0.to_bytes().to_vec())
    }

    /// The public half, in hex, as shown in the signer's status.
    pub fn public_hex(&self) -> String {
        hex::encode(Kem::sk_to_pk(&self.0).to_bytes())
    }

    /// Opens what a browser sealed for this purpose, at most `limit` bytes of it.
    pub fn open_from_page(
        &self,
        sealed: &ShareImport,
        purpose: &[u8],
        limit: usize,
    ) -> Result<Zeroizing<Vec<u8>>, EnvelopeError> {
        let length = sealed.ciphertext.strip_prefix("0x").unwrap_or(&sealed.ciphertext).len();
        if length > 2 * (limit + 16) {
            return Err(EnvelopeError::Damaged);
        }
        let enc = unhex(&sealed.enc).ok_or(EnvelopeError::Damaged)?;
        let ciphertext = unhex(&sealed.ciphertext).ok_or(EnvelopeError::Damaged)?;
        let enc = <Kem as hpke::Kem>::EncappedKey::from_bytes(&enc).map_err(|_| EnvelopeError::Damaged)?;
        hpke::single_shot_open::<AesGcm256, Kdf, Kem>(
            &OpModeR::Base,
            &self.0,
            &enc,
            purpose,
            &ciphertext,
            &[],
        )
        .map(Zeroizing::new)
        .map_err(|_| EnvelopeError::DoesNotOpen)
    }

    /// Opens an envelope.
    pub fn open(&self, import: &ShareImport) -> Result<ShareBundle, EnvelopeError> {
        if import.ciphertext.len() > 2 * (MAX_PLAINTEXT_BYTES + 16) + 2 {
            return Err(EnvelopeError::Damaged);
        }
        let enc = unhex(&import.enc).ok_or(EnvelopeError::Damaged)?;
        let ciphertext = unhex(&import.ciphertext).ok_or(EnvelopeError::Damaged)?;
        let enc = <Kem as hpke::Kem>::EncappedKey::from_bytes(&enc).map_err(|_| EnvelopeError::Damaged)?;
        let plaintext =
            hpke::single_shot_open::<Aead, Kdf, Kem>(&OpModeR::Base, &self.0, &enc, INFO, &ciphertext, &[])
                .map(Zeroizing::new)
                .map_err(|_| EnvelopeError::DoesNotOpen)?;
        // The parser's own message may quote the text, which is secret: only the place is passed on.
        serde_json::from_slice(&plaintext)
            .map_err(|error| EnvelopeError::NotABundle { line: error.line(), column: error.column() })
    }
}

impl ImportSecret {
    /// The public half.
    pub fn public_bytes(&self) -> Vec<u8> {
        Kem::sk_to_pk(&self.0).to_bytes().to_vec()
    }

    /// Opens what [`seal_for`] made for the same purpose and context.
    pub fn open_for(
        &self,
        enc: &[u8],
        ciphertext: &[u8],
        purpose: &[u8],
        context: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, EnvelopeError> {
        let enc = <Kem as hpke::Kem>::EncappedKey::from_bytes(enc).map_err(|_| EnvelopeError::Damaged)?;
        let opened = hpke::single_shot_open::<Aead, Kdf, Kem>(
            &OpModeR::Base,
            &self.0,
            &enc,
            purpose,
            ciphertext,
            context,
        );
        opened.map(Zeroizing::new).map_err(|_| EnvelopeError::DoesNotOpen)
    }
}

/// Seals bytes to a public key for one purpose (HPKE's `info`) and context (its additional data); gives the encapsulated
/// key and the ciphertext. [`INFO`] is another purpose: nothing sealed here opens as an import.
pub fn seal_for(
    public_key: &[u8],
    purpose: &[u8],
    context: &[u8],
    plaintext: &[u8],
) -> Result<(Vec<u8>, Vec<u8>), EnvelopeError> {
    let key =
        <Kem as hpke::Kem>::PublicKey::from_bytes(public_key).map_err(|_| EnvelopeError::BadPublicKey)?;
    let mut rng = rand::rng();
    let (enc, ciphertext) = hpke::single_shot_seal::<Aead, Kdf, Kem, _>(
        &OpModeS::Base,
        &key,
        purpose,
        plaintext,
        context,
        &mut rng,
    )
    .map_err(|_| EnvelopeError::BadPublicKey)?;
    Ok((enc.to_bytes().to_vec(), ciphertext))
}

/// Seals a bundle for the signer whose status shows `import_key`.
pub fn seal(import_key: &str, bundle: &ShareBundle) -> Result<ShareImport, EnvelopeError> {
    let plaintext = Zeroizing::new(serde_json::to_vec(bundle).map_err(|_| EnvelopeError::Damaged)?);
    seal_bytes(import_key, &plaintext)
}

/// Seals as the page does in the browser.
pub fn seal_as_page(
    import_key: &str,
    purpose: &[u8],
    plaintext: &[u8],
) -> Result<ShareImport, EnvelopeError> {
    let key = unhex(import_key).ok_or(EnvelopeError::BadPublicKey)?;
    let key = <Kem as hpke::Kem>::PublicKey::from_bytes(&key).map_err(|_| EnvelopeError::BadPublicKey)?;
    let mut rng = rand::rng();
    let (enc, ciphertext) = hpke::single_shot_seal::<AesGcm256, Kdf, Kem, _>(
        &OpModeS::Base,
        &key,
        purpose,
        plaintext,
        &[],
        &mut rng,
    )
    .map_err(|_| EnvelopeError::BadPublicKey)?;
    Ok(ShareImport { enc: hex::encode(enc.to_bytes()), ciphertext: hex::encode(ciphertext) })
}

/// A public key in a form that people compare: on the box's own screen, and where the file is sealed. 80 bits of its SHA-256 in
/// Crockford's base 32.
pub fn fingerprint(public_key: &[u8]) -> String {
    const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
    let digest: [u8; 32] = Sha256::digest(public_key).into();
    let mut bits = 0_u32;
    let (mut held, mut text) = (0_u32, String::new());
    for byte in &digest[..10] {
        held = (held << 8) | u32::from(*byte);
        bits += 8;
        while bits >= 5 {
            bits -= 5;
            let letter = usize::try_from((held >> bits) & 31).unwrap_or(0);
            if text.len() % 5 == 4 {
                text.push('-');
            }
            text.push(char::from(ALPHABET[letter]));
        }
        held &= 31;
    }
    text
}

/// Seals any bytes; the signer accepts only a bundle.
pub fn seal_bytes(import_key: &str, plaintext: &[u8]) -> Result<ShareImport, EnvelopeError> {
    if plaintext.len() > MAX_PLAINTEXT_BYTES {
        return Err(EnvelopeError::Damaged);
    }
    let key = unhex(import_key).ok_or(EnvelopeError::BadPublicKey)?;
    let key = <Kem as hpke::Kem>::PublicKey::from_bytes(&key).map_err(|_| EnvelopeError::BadPublicKey)?;
    let mut rng = rand::rng();
    let (enc, ciphertext) =
        hpke::single_shot_seal::<Aead, Kdf, Kem, _>(&OpModeS::Base, &key, INFO, plaintext, &[], &mut rng)
            .map_err(|_| EnvelopeError::BadPublicKey)?;
    Ok(ShareImport { enc: hex::encode(enc.to_bytes()), ciphertext: hex::encode(ciphertext) })
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    hex::decode(text.strip_prefix("0x").unwrap_or(text)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Sensitive,
        signer::{ChainClock, ChainPreset, History, ShareEntry},
    };
    use proptest::prelude::*;

    fn bundle() -> ShareBundle {
        ShareBundle {
            validators: vec![ShareEntry {
                keystore: serde_json::json!({"version": 4}),
                password: Sensitive::new("hunter2".to_owned()),
                public_key: "0xaa".to_owned(),
                group_public_key: "0xbb".to_owned(),
                share_index: 1,
            }],
            history: History::NeverSigned,
            genesis_validators_root: "0x00".to_owned(),
            chain: ChainClock {
                genesis_time: 0,
                slot_ms: 12_000,
                slots_per_epoch: 32,
                preset: ChainPreset::Mainnet,
            },
        }
    }

    #[test]
    fn a_sealed_bundle_opens_with_the_same_key_only() {
        let key = ImportSecret::generate();
        let sealed = seal(&key.public_hex(), &bundle()).unwrap();
        assert_eq!(key.open(&sealed).unwrap().validators[0].password.expose_secret(), "hunter2");
        assert!(matches!(ImportSecret::generate().open(&sealed), Err(EnvelopeError::DoesNotOpen)));
        let again = ImportSecret::from_bytes(&key.to_bytes()).unwrap();
        assert_eq!(again.public_hex(), key.public_hex());
        assert!(again.open(&sealed).is_ok());
    }

    #[test]
    fn what_a_browser_seals_opens_for_its_purpose_and_no_other() {
        let key = ImportSecret::generate();
        let sealed = seal_as_page(&key.public_hex(), b"one", b"text").unwrap();
        assert_eq!(key.open_from_page(&sealed, b"one", 4).unwrap().as_slice(), b"text");
        assert!(key.open_from_page(&sealed, b"one", 3).is_err(), "longer than allowed");
        assert!(key.open_from_page(&sealed, b"two", 4).is_err());
        assert!(ImportSecret::generate().open_from_page(&sealed, b"one", 4).is_err());
        assert!(key.open(&sealed).is_err());
        for position in 0..sealed.ciphertext.len() {
            let mut changed = sealed.clone();
            let old = changed.ciphertext.remove(position);
            changed.ciphertext.insert(position, if old == '0' { '1' } else { '0' });
            assert!(key.open_from_page(&changed, b"one", 4).is_err(), "character {position}");
        }
    }

    #[test]
    fn what_the_page_s_own_script_sealed_opens() {
        // Made by `seal` of web/assets/moving.js for this key.
        let key = ImportSecret::from_bytes(&[7; 32]).unwrap();
        let sealed = ShareImport {
            enc: "6139836a47e10f5477ca727eb445c0e95cd4765ccd1a8997e65668c2fbb6ee7f".to_owned(),
            ciphertext: "a0067606ac88257eff462c01962151fe3b64c5b421b8386f2e26d57b06b3ea30dd37e2".to_owned(),
        };
        let opened = key.open_from_page(&sealed, crate::folder::FOLDER_INFO, 100).unwrap();
        assert_eq!(opened.as_slice(), b"sealed in a browser");
        assert_eq!(fingerprint(&key.public_bytes()), "1XPJ-AMZZ-1G7M-8YQ2");
    }

    #[test]
    fn a_fingerprint_has_sixteen_letters_and_is_the_key_s_own() {
        // Computed with Python's hashlib.
        assert_eq!(fingerprint(&[0; 32]), "CSM7-NBFR-CAYQ-EV4F");
        assert_ne!(fingerprint(&[0; 32]), fingerprint(&[1; 32]));
    }

    #[test]
    fn every_changed_byte_is_noticed() {
        let key = ImportSecret::generate();
        let sealed = seal(&key.public_hex(), &bundle()).unwrap();
        for position in 0..sealed.ciphertext.len() {
            let mut changed = sealed.clone();
            let old = changed.ciphertext.remove(position);
            changed.ciphertext.insert(position, if old == '0' { '1' } else { '0' });
            assert!(key.open(&changed).is_err(), "character {position}");
        }
    }

    #[test]
    fn an_envelope_of_something_else_does_not_quote_it() {
        let key = ImportSecret::generate();
        let sealed = seal_bytes(&key.public_hex(), br#"{"topsecret":1}"#).unwrap();
        let error = key.open(&sealed).unwrap_err().to_string();
        assert!(!error.contains("topsecret"), "{error}");
    }

    proptest! {
        #[test]
        fn random_envelopes_never_panic(enc in ".{0,80}", ciphertext in "[0-9a-fx]{0,200}") {
            let _ = ImportSecret::generate().open(&ShareImport { enc, ciphertext });
        }
    }
}
