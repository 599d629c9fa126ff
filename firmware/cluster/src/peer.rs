//! libp2p peer ids of operators and the two-word names Obol prints for them.

use core::fmt;
use core::str::FromStr;
use std::sync::LazyLock;

use serde::{Deserialize, Serialize};

use crate::identity::IdentityPublicKey;

/// Identity multihash (`00`, length) of the protobuf `{1: 2 (Secp256k1), 2: 33 bytes}`.
const PREFIX: [u8; 6] = [0x00, 0x25, 0x08, 0x02, 0x12, 0x21];

/// Text of a peer id is 53 characters; anything much longer is not one.
const MAX_TEXT: usize = 128;

/// The text is not the peer id of a secp256k1 key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a peer id of a secp256k1 key (such ids start with 16Uiu2HA)")]
pub struct PeerIdError;

/// Peer id of a secp256k1 key; the key is contained in it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PeerId(IdentityPublicKey);

impl PeerId {
    /// The peer id of a key.
    pub fn from_public_key(key: &IdentityPublicKey) -> Self {
        Self(*key)
    }

    /// Reads the binary form (39 bytes).
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, PeerIdError> {
        let key = bytes.strip_prefix(&PREFIX).ok_or(PeerIdError)?;
        IdentityPublicKey::from_bytes(key).map(Self).map_err(|_| PeerIdError)
    }

    /// The binary form.
    pub fn to_bytes(&self) -> [u8; 39] {
        let mut bytes = [0_u8; 39];
        bytes[..PREFIX.len()].copy_from_slice(&PREFIX);
        bytes[PREFIX.len()..].copy_from_slice(self.0.as_bytes());
        bytes
    }

    /// The key inside.
    pub fn public_key(&self) -> IdentityPublicKey {
        self.0
    }

    /// The name operators see in logs and metrics, such as `excited-jewelry`.
    pub fn name(&self) -> String {
        let hash = name_hash(&self.to_string());
        let pick = |words: &[&'static str]| {
            let count = u64::try_from(words.len()).expect("a short list");
            let index = usize::try_from(hash % count).expect("below the length of a short list");
            words[index]
        };
        format!("{}-{}", pick(&WORDS.adjectives), pick(&WORDS.nouns))
    }
}

/// Sum of character · 59^i, reduced at every step.
fn name_hash(text: &str) -> u64 {
    const MODULUS: u64 = 1_000_000_007;
    let mut hash = 0;
    let mut power = 1;
    for byte in text.bytes() {
        hash = (hash + u64::from(byte) * power) % MODULUS;
        power = power * 59 % MODULUS;
    }
    hash
}

struct Words {
    adjectives: Vec<&'static str>,
    nouns: Vec<&'static str>,
}

static WORDS: LazyLock<Words> = LazyLock::new(|| {
    let text = include_str!("../data/peer-name-words.txt");
    let lists = text.split_once("\nadjectives\n").and_then(|(_, lists)| lists.split_once("\nnouns\n"));
    let (adjectives, nouns) = lists.expect("the word file is part of this crate");
    Words { adjectives: adjectives.split_whitespace().collect(), nouns: nouns.split_whitespace().collect() }
});

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&bs58::encode(self.to_bytes()).into_string())
    }
}

impl fmt::Debug for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for PeerId {
    type Err = PeerIdError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() > MAX_TEXT {
            return Err(PeerIdError);
        }
        Self::from_bytes(&bs58::decode(text).into_vec().map_err(|_| PeerIdError)?)
    }
}

impl TryFrom<String> for PeerId {
    type Error = PeerIdError;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<PeerId> for String {
    fn from(peer: PeerId) -> Self {
        peer.to_string()
    }
}
