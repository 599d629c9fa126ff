//! The keystore as JSON. Modules hold a function, its parameters and a message.

use chain::PublicKeyBytes;
use serde::{Deserialize, Serialize};

use super::{EncryptedSecret, Kdf, Keystore, KeystoreError};

const VERSION: u64 = 4;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct KeystoreJson {
    crypto: CryptoJson,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    description: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    pubkey: String,
    #[serde(default)]
    path: String,
    uuid: String,
    version: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CryptoJson {
    kdf: KdfJson,
    checksum: ChecksumJson,
    cipher: CipherJson,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KdfJson {
    function: String,
    params: KdfParamsJson,
    message: String,
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum KdfParamsJson {
    Pbkdf2(Pbkdf2Json),
    Scrypt(ScryptJson),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Pbkdf2Json {
    dklen: u64,
    c: u64,
    prf: String,
    salt: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ScryptJson {
    dklen: u64,
    n: u64,
    p: u64,
    r: u64,
    salt: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ChecksumJson {
    function: String,
    params: NoParams,
    message: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct NoParams {}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct CipherJson {
    function: String,
    params: CipherParamsJson,
    message: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct CipherParamsJson {
    iv: String,
}

impl TryFrom<KeystoreJson> for Keystore {
    type Error = KeystoreError;

    fn try_from(json: KeystoreJson) -> Result<Self, Self::Error> {
        if json.version != VERSION {
            return Err(KeystoreError::Version(json.version));
        }
        let public_key = match json.pubkey.as_str() {
            "" => None,
            text => {
                let bytes = hex(text, "pubkey", "48 bytes")?;
                let wrong = KeystoreError::Hex { member: "pubkey", expected: "48 bytes" };
                Some(PublicKeyBytes(bytes.try_into().map_err(|_| wrong)?))
            }
        };
        Ok(Self {
            crypto: json.crypto.try_into()?,
            public_key,
            path: json.path,
            uuid: json.uuid,
            description: json.description,
            name: json.name,
        })
    }
}

impl TryFrom<CryptoJson> for EncryptedSecret {
    type Error = KeystoreError;

    fn try_from(json: CryptoJson) -> Result<Self, Self::Error> {
        expect_function("crypto.checksum", json.checksum.function, "sha256")?;
        expect_function("crypto.cipher", json.cipher.function, "aes-128-ctr")?;
        if !json.kdf.message.is_empty() {
            return Err(KeystoreError::Hex { member: "crypto.kdf.message", expected: "no bytes" });
        }
        let kdf = match (json.kdf.function.as_str(), json.kdf.params) {
            ("pbkdf2", KdfParamsJson::Pbkdf2(params)) => {
                expect_function("crypto.kdf.params.prf", params.prf, "hmac-sha256")?;
                Kdf::Pbkdf2 { c: params.c, dklen: params.dklen, salt: salt(&params.salt)? }
            }
            ("scrypt", KdfParamsJson::Scrypt(params)) => Kdf::Scrypt {
                n: params.n,
                r: params.r,
                p: params.p,
                dklen: params.dklen,
                salt: salt(&params.salt)?,
            },
            ("pbkdf2" | "scrypt", _) => {
                return Err(KeystoreError::KdfParams);
            }
            (_, _) => {
                return Err(KeystoreError::Function {
                    member: "crypto.kdf",
                    found: name_of(&json.kdf.function),
                    expected: "pbkdf2 or scrypt",
                });
            }
        };
        Ok(Self {
            kdf,
            checksum: array(&json.checksum.message, "crypto.checksum.message", "32 bytes")?,
            iv: array(&json.cipher.params.iv, "crypto.cipher.params.iv", "16 bytes")?,
            ciphertext: hex(&json.cipher.message, "crypto.cipher.message", "some bytes")?,
        })
    }
}

impl From<&Keystore> for KeystoreJson {
    fn from(keystore: &Keystore) -> Self {
        Self {
            crypto: (&keystore.crypto).into(),
            description: keystore.description.clone(),
            name: keystore.name.clone(),
            pubkey: keystore.public_key.map(|key| hex::encode(key.0)).unwrap_or_default(),
            path: keystore.path.clone(),
            uuid: keystore.uuid.clone(),
            version: VERSION,
        }
    }
}

impl From<&EncryptedSecret> for CryptoJson {
    fn from(secret: &EncryptedSecret) -> Self {
        let (function, params) = match &secret.kdf {
            Kdf::Pbkdf2 { c, dklen, salt } => (
                "pbkdf2",
                KdfParamsJson::Pbkdf2(Pbkdf2Json {
                    dklen: *dklen,
                    c: *c,
                    prf: "hmac-sha256".to_owned(),
                    salt: hex::encode(salt),
                }),
            ),
            Kdf::Scrypt { n, r, p, dklen, salt } => (
                "scrypt",
                KdfParamsJson::Scrypt(ScryptJson {
                    dklen: *dklen,
                    n: *n,
                    p: *p,
                    r: *r,
                    salt: hex::encode(salt),
                }),
            ),
        };
        Self {
            kdf: KdfJson { function: function.to_owned(), params, message: String::new() },
            checksum: ChecksumJson {
                function: "sha256".to_owned(),
                params: NoParams {},
                message: hex::encode(secret.checksum),
            },
            cipher: CipherJson {
                function: "aes-128-ctr".to_owned(),
                params: CipherParamsJson { iv: hex::encode(secret.iv) },
                message: hex::encode(&secret.ciphertext),
            },
        }
    }
}

fn expect_function(member: &'static str, found: String, expected: &'static str) -> Result<(), KeystoreError> {
    if found == expected {
        return Ok(());
    }
    Err(KeystoreError::Function { member, found: name_of(&found), expected })
}

/// A function's name for an error text. Whatever does not look like one is not repeated: it may be a misplaced secret.
fn name_of(text: &str) -> String {
    let is_name =
        text.len() <= 16 && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
    if is_name { text.to_owned() } else { format!("({} bytes, not shown)", text.len()) }
}

fn salt(text: &str) -> Result<Vec<u8>, KeystoreError> {
    hex(text, "crypto.kdf.params.salt", "some bytes")
}

fn array<const N: usize>(
    text: &str,
    member: &'static str,
    expected: &'static str,
) -> Result<[u8; N], KeystoreError> {
    hex(text, member, expected)?.try_into().map_err(|_| KeystoreError::Hex { member, expected })
}

fn hex(text: &str, member: &'static str, expected: &'static str) -> Result<Vec<u8>, KeystoreError> {
    hex::decode(text.strip_prefix("0x").unwrap_or(text)).map_err(|_| KeystoreError::Hex { member, expected })
}
