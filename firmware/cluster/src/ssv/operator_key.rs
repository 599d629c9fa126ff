//! An SSV operator's RSA key: how it is read, written and used.

use core::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chain::PublicKeyBytes;
use rand::{CryptoRng, RngCore};
use rsa::pkcs1::{DecodeRsaPrivateKey as _, EncodeRsaPrivateKey as _};
use rsa::pkcs8::{Document, EncodePublicKey as _, LineEnding, SecretDocument, spki::DecodePublicKey as _};
use rsa::traits::PublicKeyParts as _;
use threshold::SecretKey;
use zeroize::Zeroizing;

use super::randomness::Randomness;
use crate::keystore::{EncryptedSecret, KdfCost, KeystoreError};

/// The largest file with an operator's key that is read. Encrypted ones take about 4 KB.
pub const MAX_OPERATOR_KEY_BYTES: usize = 16 * 1024;
/// SSV's operators have keys of 2048 bits and no others.
const MODULUS_BYTES: usize = 256;
/// A share encrypted to an operator: as long as the modulus.
pub const ENCRYPTED_SHARE_BYTES: usize = MODULUS_BYTES;
/// The DER of such a key; a file that says otherwise must not have us compute with larger numbers.
const MAX_DER_BYTES: usize = 2048;
/// The Base64 text of a public key has 612 letters, with other line ends a few more.
const MAX_PUBLIC_TEXT: usize = 1024;
const PRIVATE_LABEL: &str = "RSA PRIVATE KEY";
/// By its label PKCS#1, by its content SubjectPublicKeyInfo: so SSV writes it everywhere.
const PUBLIC_LABEL: &str = "RSA PUBLIC KEY";

/// Why an operator's key was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OperatorKeyError {
    /// Larger than any such file.
    #[error("{found} bytes is more than the {MAX_OPERATOR_KEY_BYTES} that an operator's key takes")]
    TooLarge {
        /// Bytes found.
        found: usize,
    },
    /// Neither of the two forms.
    #[error(
        "it is neither an SSV operator's private key (Base64 text that begins with LS0tLS1CRUdJTiBSU0Eg) nor its encrypted form (encrypted_private_key.json)"
    )]
    NoKeyFile,
    /// It is encrypted, and no password came along.
    #[error("it is encrypted, and the password is missing")]
    PasswordMissing,
    /// The password is wrong, or the file was changed.
    #[error("the password is wrong, or the file was changed")]
    WrongPassword,
    /// It is encrypted in a way that is not known, or not borne.
    #[error("it is not encrypted as SSV nodes do it")]
    Encryption(#[source] KeystoreError),
    /// The key itself is none that SSV uses.
    #[error("it holds no RSA key of 2048 bits, as SSV's operators have one")]
    NoRsaKey,
    /// A file whose public and private halves differ.
    #[error("the public key in it is not that of the private key in it")]
    OtherPublicKey,
}

/// A share does not open. Not said is why: whoever could try many files must learn nothing of the key from the answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the share that was encrypted to this operator is not the one that its public key says")]
pub struct ShareError;

/// The public half: who an operator is.
#[derive(Clone, PartialEq, Eq)]
pub struct OperatorPublicKey(rsa::PublicKey);

impl fmt::Debug for OperatorPublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OperatorPublicKey({})", self.fingerprint())
    }
}

impl OperatorPublicKey {
    /// Reads the text that goes round everywhere: Base64 of a PEM text.
    pub fn from_text(text: &str) -> Result<Self, OperatorKeyError> {
        let wrong = OperatorKeyError::NoRsaKey;
        if text.len() > MAX_PUBLIC_TEXT {
            return Err(wrong);
        }
        let pem = STANDARD.decode(text.trim()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        let pem = pem.ok_or_else(|| wrong.clone())?;
        let (label, document) = Document::from_pem(&pem).map_err(|_| wrong.clone())?;
        if label != PUBLIC_LABEL || document.as_bytes().len() > MAX_DER_BYTES {
            return Err(wrong);
        }
        let key = rsa::PublicKey::from_public_key_der(document.as_bytes()).map_err(|_| wrong.clone())?;
        if key.size() == MODULUS_BYTES { Ok(Self(key)) } else { Err(wrong) }
    }

    /// The key with this modulus and the exponent that all have; none where no such key can be.
    pub fn from_modulus(modulus: &[u8; MODULUS_BYTES]) -> Option<Self> {
        let modulus = rsa::BoxedUint::from_be_slice(modulus, 2048).ok()?;
        let key = rsa::PublicKey::new(modulus, rsa::BoxedUint::from(65_537_u64)).ok()?;
        (key.size() == MODULUS_BYTES).then_some(Self(key))
    }

    /// Writes that text.
    pub fn to_text(&self) -> String {
        let pem = self.to_der().to_pem(PUBLIC_LABEL, LineEnding::LF);
        STANDARD.encode(pem.expect("the label is a label"))
    }

    /// The SHA-256 of the key, 32 bytes in hex: its short name.
    pub fn fingerprint(&self) -> String {
        hex::encode(crate::primitives::sha256(&[self.to_der().as_bytes()]))
    }

    fn to_der(&self) -> Document {
        self.0.to_public_key_der().expect("a key that was read can be written")
    }

    /// Encrypts a share to this operator, as the tools do that split a key.
    pub fn encrypt_share<R: RngCore + CryptoRng + ?Sized>(
        &self,
        secret: &SecretKey,
        rng: &mut R,
    ) -> [u8; ENCRYPTED_SHARE_BYTES] {
        let text = Zeroizing::new(format!("0x{}", hex::encode(secret.expose_bytes().as_slice())));
        let encrypted = self
            .0
            .pkcs1v15_encrypt_with_rng(&mut Randomness(rng), text.as_bytes())
            .expect("66 letters fit into 256 bytes");
        encrypted.try_into().expect("a ciphertext is as long as the modulus")
    }
}

/// An operator's key. Wiped on drop by `rsa`, neither printable nor copyable.
pub struct OperatorKey(rsa::PrivateKey);

impl OperatorKey {
    /// A new one. Takes seconds: two primes have to be found.
    pub fn generate<R: RngCore + CryptoRng + ?Sized>(rng: &mut R) -> Self {
        let key = rsa::PrivateKey::new(&mut Randomness(rng), 2048);
        Self(key.expect("the length is allowed and this randomness does not fail"))
    }

    /// Reads a file in either form: the Base64 text, or the encrypted file with its password.
    pub fn from_file(file: &[u8], password: Option<&str>) -> Result<Self, OperatorKeyError> {
        if file.len() > MAX_OPERATOR_KEY_BYTES {
            return Err(OperatorKeyError::TooLarge { found: file.len() });
        }
        let text = std::str::from_utf8(file).map_err(|_| OperatorKeyError::NoKeyFile)?.trim();
        if text.starts_with('{') {
            return Self::from_encrypted(text, password.ok_or(OperatorKeyError::PasswordMissing)?);
        }
        let pem = Zeroizing::new(STANDARD.decode(text).map_err(|_| OperatorKeyError::NoKeyFile)?);
        Self::from_pem(std::str::from_utf8(&pem).map_err(|_| OperatorKeyError::NoKeyFile)?)
    }

    /// The `crypto` part of an EIP-2335 file with a PEM text in it, and beside its members the public key.
    fn from_encrypted(text: &str, password: &str) -> Result<Self, OperatorKeyError> {
        let mut members: serde_json::Map<String, serde_json::Value> =
            serde_json::from_str(text).map_err(|_| OperatorKeyError::NoKeyFile)?;
        let stated = ["pubKey", "pubkey", "publicKey"].map(|name| members.remove(name));
        let crypto = serde_json::to_vec(&members).map_err(|_| OperatorKeyError::NoKeyFile)?;
        let refused = |error: KeystoreError| {
            let is_wrong_password = error == KeystoreError::WrongPassword;
            if is_wrong_password {
                OperatorKeyError::WrongPassword
            } else {
                OperatorKeyError::Encryption(error)
            }
        };
        let pem = EncryptedSecret::from_json(&crypto).and_then(|secret| secret.decrypt(password));
        let pem = pem.map_err(refused)?;
        let key = Self::from_pem(std::str::from_utf8(&pem).map_err(|_| OperatorKeyError::NoRsaKey)?)?;
        for stated in stated.into_iter().flatten() {
            let stated = OperatorPublicKey::from_text(stated.as_str().unwrap_or_default());
            if stated != Ok(key.public_key()) {
                return Err(OperatorKeyError::OtherPublicKey);
            }
        }
        Ok(key)
    }

    /// Reads the PEM text of a key (PKCS#1).
    pub fn from_pem(pem: &str) -> Result<Self, OperatorKeyError> {
        if pem.len() > MAX_OPERATOR_KEY_BYTES {
            return Err(OperatorKeyError::TooLarge { found: pem.len() });
        }
        let (label, document) = SecretDocument::from_pem(pem).map_err(|_| OperatorKeyError::NoKeyFile)?;
        let der = document.as_bytes();
        if label != PRIVATE_LABEL || der.len() > MAX_DER_BYTES {
            return Err(OperatorKeyError::NoRsaKey);
        }
        let key = rsa::PrivateKey::from_pkcs1_der(der).map_err(|_| OperatorKeyError::NoRsaKey)?;
        if key.size() == MODULUS_BYTES { Ok(Self(key)) } else { Err(OperatorKeyError::NoRsaKey) }
    }

    /// Writes the PEM text, to be sealed or encrypted at once and nothing else.
    pub fn expose_pem(&self) -> Zeroizing<String> {
        let der = self.0.to_pkcs1_der().expect("a key that was read can be written");
        der.to_pem(PRIVATE_LABEL, LineEnding::LF).expect("the label is a label")
    }

    /// The unencrypted file that SSV's tools write.
    pub fn expose_text(&self) -> Zeroizing<String> {
        Zeroizing::new(STANDARD.encode(self.expose_pem().as_bytes()))
    }

    /// The encrypted file that SSV's nodes write (`encrypted_private_key.json`).
    pub fn to_encrypted<R: RngCore + CryptoRng + ?Sized>(
        &self,
        password: &str,
        cost: KdfCost,
        rng: &mut R,
    ) -> String {
        let secret = EncryptedSecret::encrypt(self.expose_pem().as_bytes(), password, cost, rng);
        let mut file = secret.to_json();
        file["pubKey"] = self.public_key().to_text().into();
        file.to_string()
    }

    /// The public half.
    pub fn public_key(&self) -> OperatorPublicKey {
        OperatorPublicKey((&self.0).into())
    }

    /// Decrypts a share, and takes it only when it is that of this public key.
    ///
    /// Blinded by `rng`; wrong padding gives a wrong text and is not told apart from one. Both against timing and answers as an
    /// oracle (Bleichenbacher, Marvin).
    pub fn decrypt_share<R: RngCore + CryptoRng + ?Sized>(
        &self,
        encrypted: &[u8; ENCRYPTED_SHARE_BYTES],
        public_share: &PublicKeyBytes,
        rng: &mut R,
    ) -> Result<SecretKey, ShareError> {
        let text = self.0.pkcs1v15_decrypt_with_rng(&mut Randomness(rng), encrypted);
        let text = Zeroizing::new(text.map_err(|_| ShareError)?);
        // The tool that splits a key writes `0x`, the one of key generation does not.
        let digits = text.strip_prefix(b"0x".as_slice()).unwrap_or(&text);
        let mut bytes = Zeroizing::new([0_u8; 32]);
        hex::decode_to_slice(digits, bytes.as_mut_slice()).map_err(|_| ShareError)?;
        let secret = SecretKey::from_bytes(bytes.as_slice()).map_err(|_| ShareError)?;
        if secret.public_key().to_bytes() == *public_share { Ok(secret) } else { Err(ShareError) }
    }
}

impl fmt::Debug for OperatorKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OperatorKey({}, not shown)", self.public_key().fingerprint())
    }
}
