//! Blocks with their blobs, full or blinded, as Charon writes them. Electra and fulu only: earlier forks are history.

pub use chain::{AnyBlock as Block, BlockContents as Contents};
use chain::{
    BeaconBlock, BlindedBeaconBlock, InContents, Root, SignatureBytes, SignedBeaconBlock,
    SignedBlindedBeaconBlock, Slot,
};
use serde::{Deserialize, Serialize};
use ssz::{Decode, Encode};

use crate::versioned::{self, DecodeError, ELECTRA, FULU};

/// A versioned block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versioned<F, B> {
    /// Fork number.
    pub version: u64,
    /// The block.
    pub block: Block<F, B>,
}

/// `VersionedProposal`, what consensus agrees on.
pub type VersionedProposal = Versioned<BeaconBlock, BlindedBeaconBlock>;
/// `VersionedSignedProposal`, the partially signed block.
pub type VersionedSignedProposal = Versioned<SignedBeaconBlock, SignedBlindedBeaconBlock>;

impl<F: Decode + Encode, B: Decode + Encode> Versioned<F, B> {
    /// Reads the SSZ form.
    pub fn decode_ssz(bytes: &[u8]) -> Result<Self, DecodeError> {
        let (header, blinded) = versioned::read_blinded(bytes)?;
        if !(ELECTRA..=FULU).contains(&header.version) {
            return Err(DecodeError::UnsupportedFork(header.version));
        }
        let block = Block::from_ssz(blinded, header.value).map_err(|_| DecodeError::Malformed)?;
        Ok(Self { version: header.version, block })
    }

    /// The form on the wire.
    pub fn encode(&self) -> Vec<u8> {
        versioned::write_blinded(self.version, self.block.is_blinded(), &self.block.to_ssz())
    }
}

impl VersionedProposal {
    /// Reads SSZ, or JSON.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        Self::decode_ssz(bytes).or_else(|error| read_json(bytes).map_err(|_| error))
    }

    /// The JSON form.
    pub fn to_json(&self) -> Vec<u8> {
        write_json(self)
    }

    /// What is signed: the root of the block alone.
    pub fn message_root(&self) -> Root {
        self.block.message_root()
    }

    /// The slot of the block.
    pub fn slot(&self) -> Slot {
        self.block.slot()
    }
}

impl VersionedSignedProposal {
    /// Reads SSZ, or JSON.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        Self::decode_ssz(bytes).or_else(|error| read_json(bytes).map_err(|_| error))
    }

    /// The JSON form.
    pub fn to_json(&self) -> Vec<u8> {
        write_json(self)
    }

    /// What is signed: the root of the block alone.
    pub fn message_root(&self) -> Root {
        self.block.message_root()
    }

    /// The signature.
    pub fn signature(&self) -> SignatureBytes {
        self.block.signature()
    }

    pub(crate) fn set_signature(&mut self, signature: SignatureBytes) {
        self.block.set_signature(signature);
    }
}

/// The members around a block in JSON.
#[derive(Deserialize, Serialize)]
struct Outer<T> {
    version: u64,
    block: T,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    blinded: bool,
}

fn read_json<F, B>(bytes: &[u8]) -> Result<Versioned<F, B>, DecodeError>
where
    F: serde::de::DeserializeOwned + InContents,
    B: serde::de::DeserializeOwned,
{
    let outer: Outer<serde_json::Value> = versioned::json(bytes)?;
    if !(ELECTRA..=FULU).contains(&outer.version) {
        return Err(DecodeError::UnsupportedFork(outer.version));
    }
    let block = if outer.blinded {
        serde_json::from_value(outer.block).map(|block| Block::Blinded(Box::new(block)))
    } else {
        serde_json::from_value(outer.block).map(|contents| Block::Full(Box::new(contents)))
    };
    Ok(Versioned { version: outer.version, block: block.map_err(|_| DecodeError::Malformed)? })
}

fn write_json<F: Serialize + InContents, B: Serialize>(versioned: &Versioned<F, B>) -> Vec<u8> {
    let (block, blinded) = (&versioned.block, versioned.block.is_blinded());
    versioned::to_json(&Outer { version: versioned.version, block, blinded })
}
