//! The sealed envelope in which shares travel to the signer.
//!
//! HPKE (RFC 9180) base mode: DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, ChaCha20-Poly1305, info [`INFO`], no additional
//! data. Whoever carries the envelope (the page's server, `dv-node`, a disk) learns its length and nothing else.

use hpke::{
    Deserializable, Kem as _, OpModeR, OpModeS, Serializable, aead::ChaCha20Poly1305, kdf::HkdfSha256,
    kem::X25519HkdfSha256,
};
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
