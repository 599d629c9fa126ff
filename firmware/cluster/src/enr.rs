//! Ethereum node records (EIP-778, identity scheme `v4`) as Obol writes and reads them.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::identity::{IdentityError, IdentityKey, IdentityPublicKey};
use crate::peer::PeerId;
use crate::primitives::keccak256;
use crate::rlp::{RlpError, decode_flat_list, encode_flat_list};

/// Longest text a definition may hold (the definition hash is bounded to it).
pub const MAX_ENR_TEXT: usize = 1024;

/// Why a text is not an acceptable ENR.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnrError {
    /// `enr:` is missing.
    #[error("an ENR starts with 'enr:'; copy the whole text, from 'enr:' to its end")]
    Prefix,
    /// The text is longer than a cluster file may hold.
    #[error("the ENR is {found} characters long, at most {MAX_ENR_TEXT} are allowed")]
    TooLong {
        /// Characters found.
        found: usize,
    },
    /// Not base64url.
    #[error("the ENR is not valid base64url; a character was lost or added when it was copied")]
    Base64,
    /// Not the list an ENR is.
    #[error("the ENR is malformed")]
    Rlp(#[from] RlpError),
    /// Fewer than four items or an odd number of them.
    #[error("an ENR has an even number of items, at least 4; this one has {0}")]
    ItemCount(usize),
    /// The same key twice.
    #[error("the ENR holds the key '{0}' twice")]
    DuplicateKey(String),
    /// `id` is missing or not `v4`.
    #[error("the ENR does not use the identity scheme v4")]
    Scheme,
    /// `secp256k1` is missing or broken.
    #[error("the ENR holds no valid secp256k1 key")]
    PublicKey,
    /// The signature does not cover the content.
    #[error("the signature of the ENR does not match its content; ask the operator for a fresh copy")]
    Signature(#[source] IdentityError),
}

/// A verified node record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Enr {
    text: String,
    public_key: IdentityPublicKey,
    signature: [u8; 64],
    seq: u64,
    pairs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// Where a record may say its node listens. Operators' records hold none; relays' and old ones do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EnrEndpoint {
    /// IPv4 address.
    pub ip: Option<Ipv4Addr>,
    /// TCP port.
    pub tcp: Option<u16>,
    /// UDP port.
    pub udp: Option<u16>,
}

impl Enr {
    /// Parses and verifies a record.
    pub fn parse(text: &str) -> Result<Self, EnrError> {
        if text.len() > MAX_ENR_TEXT {
            return Err(EnrError::TooLong { found: text.len() });
        }
        let body = text.strip_prefix("enr:").ok_or(EnrError::Prefix)?.trim_end_matches('=');
        let bytes = URL_SAFE_NO_PAD.decode(body).map_err(|_| EnrError::Base64)?;
        let items = decode_flat_list(&bytes)?;
        if items.len() < 4 || !items.len().is_multiple_of(2) {
            return Err(EnrError::ItemCount(items.len()));
        }
        let pairs = collect_pairs(&items[2..])?;
        if pairs.get(b"id".as_slice()).map(Vec::as_slice) != Some(b"v4") {
            return Err(EnrError::Scheme);
        }
        let public_key = pairs
            .get(b"secp256k1".as_slice())
            .and_then(|bytes| IdentityPublicKey::from_bytes(bytes).ok())
            .ok_or(EnrError::PublicKey)?;
        let digest = keccak256(&encode_flat_list(items[1..].iter().copied()));
        public_key.verify_compact(&digest, items[0]).map_err(EnrError::Signature)?;
        let signature = items[0].try_into().map_err(|_| {
            EnrError::Signature(IdentityError::SignatureLength { expected: 64, found: items[0].len() })
        })?;
        let seq = unsigned(items[1]).unwrap_or(u64::MAX);
        Ok(Self { text: text.to_owned(), public_key, signature, seq, pairs })
    }

    /// The record an operator publishes: sequence 0, only `id` and `secp256k1`.
    pub fn build(key: &IdentityKey) -> Self {
        Self::build_with(key, EnrEndpoint::default())
    }

    /// A record with an address, as relays publish.
    pub fn build_with(key: &IdentityKey, endpoint: EnrEndpoint) -> Self {
        let public_key = key.public_key();
        let mut pairs = BTreeMap::from([
            (b"id".to_vec(), b"v4".to_vec()),
            (b"secp256k1".to_vec(), public_key.as_bytes().to_vec()),
        ]);
        if let Some(ip) = endpoint.ip {
            pairs.insert(b"ip".to_vec(), ip.octets().to_vec());
        }
        for (name, port) in [(b"tcp", endpoint.tcp), (b"udp", endpoint.udp)] {
            if let Some(port) = port {
                pairs.insert(name.to_vec(), minimal(port));
            }
        }
        let flat = |with: Option<&[u8]>| {
            let pairs = pairs.iter().flat_map(|(key, value)| [key.as_slice(), value.as_slice()]);
            encode_flat_list(with.into_iter().chain([[].as_slice()]).chain(pairs))
        };
        let signed = key.sign(&keccak256(&flat(None)));
        let mut signature = [0_u8; 64];
        signature.copy_from_slice(&signed[..64]);
        let text = format!("enr:{}", URL_SAFE_NO_PAD.encode(flat(Some(&signature))));
        Self { text, public_key, signature, seq: 0, pairs }
    }

    /// The text exactly as it was read or built. It is hashed byte for byte into the definition.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The operator's key.
    pub fn public_key(&self) -> IdentityPublicKey {
        self.public_key
    }

    /// The libp2p peer id of that key.
    pub fn peer_id(&self) -> PeerId {
        PeerId::from_public_key(&self.public_key)
    }

    /// The record's sequence number (the largest value when it does not fit).
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// The record's signature, `R ‖ S`.
    pub fn signature(&self) -> &[u8; 64] {
        &self.signature
    }

    /// A raw value of the record, unknown keys included.
    pub fn value(&self, key: &[u8]) -> Option<&[u8]> {
        self.pairs.get(key).map(Vec::as_slice)
    }

    /// Address and ports, as far as the record has well-formed ones. Only relays are ever dialled because of them.
    pub fn endpoint(&self) -> EnrEndpoint {
        let port =
            |name: &[u8]| self.value(name).and_then(unsigned).and_then(|port| u16::try_from(port).ok());
        let octets = self.value(b"ip").and_then(|bytes| <[u8; 4]>::try_from(bytes).ok());
        EnrEndpoint { ip: octets.map(Ipv4Addr::from), tcp: port(b"tcp"), udp: port(b"udp") }
    }
}

fn collect_pairs(items: &[&[u8]]) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, EnrError> {
    let mut pairs = BTreeMap::new();
    for pair in items.chunks_exact(2) {
        if pairs.insert(pair[0].to_vec(), pair[1].to_vec()).is_some() {
            return Err(EnrError::DuplicateKey(String::from_utf8_lossy(pair[0]).into_owned()));
        }
    }
    Ok(pairs)
}

/// Big-endian unsigned integer of at most 8 bytes.
fn unsigned(bytes: &[u8]) -> Option<u64> {
    if bytes.len() > 8 {
        return None;
    }
    Some(bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

fn minimal(port: u16) -> Vec<u8> {
    port.to_be_bytes().into_iter().skip_while(|byte| *byte == 0).collect()
}
