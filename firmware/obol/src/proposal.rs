//! Blocks with their blobs, full or blinded, as Charon writes them. Electra and fulu only: earlier forks are history.

use chain::{
    BeaconBlock, BlindedBeaconBlock, Root, SignatureBytes, SignedBeaconBlock, SignedBlindedBeaconBlock, Slot,
};
use serde::{Deserialize, Serialize};
use ssz::{Decode, Encode};
use tree_hash::TreeHash as _;

use crate::versioned::{self, DecodeError, ELECTRA, FULU, u32_at};

/// Bytes of a KZG proof.
const PROOF: usize = 48;
/// Bytes of a blob.
const BLOB: usize = 131_072;
/// The three offsets of the contents container.
const CONTENTS_HEADER: usize = 12;

/// A block with the proofs and blobs that its beacon node publishes along.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contents<B> {
    /// The block, signed or not.
    pub block: B,
    /// One KZG proof (electra: per blob, fulu: per cell) after another.
    pub kzg_proofs: Vec<u8>,
    /// One blob after another.
    pub blobs: Vec<u8>,
}

/// A block that may be full or blinded; `F` and `B` are the signed or the unsigned types.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Block<F, B> {
    /// With payload and blobs.
    Full(Box<Contents<F>>),
    /// With the payload's header only.
    Blinded(Box<B>),
}

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
        let block = if blinded {
            Block::Blinded(Box::new(versioned::ssz(header.value)?))
        } else {
            Block::Full(Box::new(Contents::decode(header.value)?))
        };
        Ok(Self { version: header.version, block })
    }

    /// The form on the wire.
    pub fn encode(&self) -> Vec<u8> {
        match &self.block {
            Block::Full(contents) => versioned::write_blinded(self.version, false, &contents.encode()),
            Block::Blinded(block) => versioned::write_blinded(self.version, true, &block.as_ssz_bytes()),
        }
    }
}

impl<B: Decode + Encode> Contents<B> {
    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let offset = |at| {
            u32_at(bytes, at).and_then(|offset| usize::try_from(offset).ok()).ok_or(DecodeError::Malformed)
        };
        let (block, proofs, blobs) = (offset(0)?, offset(4)?, offset(8)?);
        let part = |range: Option<&[u8]>| range.map(<[u8]>::to_vec).ok_or(DecodeError::Malformed);
        let kzg_proofs = part(bytes.get(proofs..blobs))?;
        let blobs = part(bytes.get(blobs..))?;
        if block != CONTENTS_HEADER || kzg_proofs.len() % PROOF != 0 || blobs.len() % BLOB != 0 {
            return Err(DecodeError::Malformed);
        }
        let block = bytes.get(block..proofs).ok_or(DecodeError::Malformed)?;
        Ok(Self { block: versioned::ssz(block)?, kzg_proofs, blobs })
    }

    fn encode(&self) -> Vec<u8> {
        let block = self.block.as_ssz_bytes();
        let proofs_at = CONTENTS_HEADER + block.len();
        let blobs_at = proofs_at + self.kzg_proofs.len();
        let mut out = Vec::with_capacity(blobs_at + self.blobs.len());
        for offset in [CONTENTS_HEADER, proofs_at, blobs_at] {
            // Contents come from messages of at most 32 MiB.
            out.extend_from_slice(&u32::try_from(offset).unwrap_or(u32::MAX).to_le_bytes());
        }
        out.extend_from_slice(&block);
        out.extend_from_slice(&self.kzg_proofs);
        out.extend_from_slice(&self.blobs);
        out
    }
}

impl VersionedProposal {
    /// Reads SSZ, or JSON.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        Self::decode_ssz(bytes).or_else(|error| read_json(bytes, "block").map_err(|_| error))
    }

    /// The JSON form.
    pub fn to_json(&self) -> Vec<u8> {
        write_json(self, "block")
    }

    /// What is signed: the root of the block alone.
    pub fn message_root(&self) -> Root {
        match &self.block {
            Block::Full(contents) => contents.block.tree_hash_root().into(),
            Block::Blinded(block) => block.tree_hash_root().into(),
        }
    }

    /// The slot of the block.
    pub fn slot(&self) -> Slot {
        match &self.block {
            Block::Full(contents) => contents.block.slot,
            Block::Blinded(block) => block.slot,
        }
    }
}

impl VersionedSignedProposal {
    /// Reads SSZ, or JSON.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        Self::decode_ssz(bytes).or_else(|error| read_json(bytes, "signed_block").map_err(|_| error))
    }

    /// The JSON form.
    pub fn to_json(&self) -> Vec<u8> {
        write_json(self, "signed_block")
    }

    /// What is signed: the root of the block alone.
    pub fn message_root(&self) -> Root {
        match &self.block {
            Block::Full(contents) => contents.block.message.tree_hash_root().into(),
            Block::Blinded(block) => block.message.tree_hash_root().into(),
        }
    }

    /// The signature.
    pub fn signature(&self) -> SignatureBytes {
        match &self.block {
            Block::Full(contents) => contents.block.signature,
            Block::Blinded(block) => block.signature,
        }
    }

    pub(crate) fn set_signature(&mut self, signature: SignatureBytes) {
        match &mut self.block {
            Block::Full(contents) => contents.block.signature = signature,
            Block::Blinded(block) => block.signature = signature,
        }
    }
}

/// The members around a block in JSON.
#[derive(Deserialize, Serialize)]
struct Outer {
    version: u64,
    block: serde_json::Value,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    blinded: bool,
}

fn read_json<F, B>(bytes: &[u8], block_name: &str) -> Result<Versioned<F, B>, DecodeError>
where
    F: serde::de::DeserializeOwned,
    B: serde::de::DeserializeOwned,
{
    let malformed = |_| DecodeError::Malformed;
    let outer: Outer = versioned::json(bytes)?;
    if !(ELECTRA..=FULU).contains(&outer.version) {
        return Err(DecodeError::UnsupportedFork(outer.version));
    }
    if outer.blinded {
        let block = serde_json::from_value(outer.block).map_err(malformed)?;
        return Ok(Versioned { version: outer.version, block: Block::Blinded(Box::new(block)) });
    }
    let serde_json::Value::Object(mut members) = outer.block else { return Err(DecodeError::Malformed) };
    let mut take = |name: &str| members.remove(name).ok_or(DecodeError::Malformed);
    let contents = Contents {
        block: serde_json::from_value(take(block_name)?).map_err(malformed)?,
        kzg_proofs: read_hex_list(take("kzg_proofs")?, PROOF)?,
        blobs: read_hex_list(take("blobs")?, BLOB)?,
    };
    Ok(Versioned { version: outer.version, block: Block::Full(Box::new(contents)) })
}

fn read_hex_list(value: serde_json::Value, length: usize) -> Result<Vec<u8>, DecodeError> {
    let texts: Vec<String> = serde_json::from_value(value).map_err(|_| DecodeError::Malformed)?;
    let mut out = Vec::new();
    for text in texts {
        let digits = text.strip_prefix("0x").filter(|digits| digits.len() == 2 * length);
        out.extend(digits.and_then(|digits| hex::decode(digits).ok()).ok_or(DecodeError::Malformed)?);
    }
    Ok(out)
}

fn write_json<F: Serialize, B: Serialize>(versioned: &Versioned<F, B>, block_name: &str) -> Vec<u8> {
    let hex_list = |bytes: &[u8], length: usize| {
        serde_json::Value::from(
            bytes.chunks(length).map(|item| format!("0x{}", hex::encode(item))).collect::<Vec<_>>(),
        )
    };
    let value =
        |block: Result<serde_json::Value, _>| block.expect("blocks have string keys only and cannot fail");
    let (block, blinded) = match &versioned.block {
        Block::Blinded(block) => (value(serde_json::to_value(block)), true),
        Block::Full(contents) => {
            let mut members = serde_json::Map::new();
            members.insert(block_name.to_owned(), value(serde_json::to_value(&contents.block)));
            members.insert("kzg_proofs".to_owned(), hex_list(&contents.kzg_proofs, PROOF));
            members.insert("blobs".to_owned(), hex_list(&contents.blobs, BLOB));
            (serde_json::Value::Object(members), false)
        }
    };
    versioned::to_json(&Outer { version: versioned.version, block, blinded })
}
