//! Blocks as beacon nodes make and take them (electra and fulu): with their blobs, or blinded.

use super::block::{BeaconBlock, BlindedBeaconBlock, SignedBeaconBlock, SignedBlindedBeaconBlock};
use crate::{Root, SignatureBytes, Slot, ValidatorIndex, hex_form};
use serde::de::Error as _;
use serde::ser::SerializeStruct as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use ssz::{Decode, DecodeError, Encode};
use tree_hash::TreeHash as _;

/// Bytes of a KZG proof.
const PROOF: usize = 48;
/// Bytes of a blob.
const BLOB: usize = 131_072;
/// The three offsets of the contents container.
const HEADER: usize = 12;

/// A block with the proofs and blobs that its beacon node publishes along: `BlockContents` and `SignedBlockContents`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockContents<B> {
    /// The block, signed or not.
    pub block: B,
    /// One KZG proof (electra: per blob, fulu: per cell) after another.
    pub kzg_proofs: Vec<u8>,
    /// One blob after another.
    pub blobs: Vec<u8>,
}

/// A block that may be full or blinded; `F` and `B` are the signed or the unsigned types.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AnyBlock<F, B> {
    /// With payload and blobs.
    Full(Box<BlockContents<F>>),
    /// With the payload's header only.
    Blinded(Box<B>),
}

/// What a beacon node proposes.
pub type UnsignedBlock = AnyBlock<BeaconBlock, BlindedBeaconBlock>;
/// What a beacon node publishes.
pub type SignedBlock = AnyBlock<SignedBeaconBlock, SignedBlindedBeaconBlock>;

/// What a block is called among its proofs and blobs in JSON.
pub trait InContents {
    /// The member's name.
    const NAME: &'static str;
}

impl InContents for BeaconBlock {
    const NAME: &'static str = "block";
}

impl InContents for SignedBeaconBlock {
    const NAME: &'static str = "signed_block";
}

impl<F, B> AnyBlock<F, B> {
    /// Whether the payload is missing.
    pub fn is_blinded(&self) -> bool {
        matches!(self, Self::Blinded(_))
    }
}

impl<F: Decode, B: Decode> AnyBlock<F, B> {
    /// Reads the SSZ form; whether it is blinded is told beside it.
    pub fn from_ssz(blinded: bool, bytes: &[u8]) -> Result<Self, DecodeError> {
        Ok(if blinded {
            Self::Blinded(Box::new(B::from_ssz_bytes(bytes)?))
        } else {
            Self::Full(Box::new(BlockContents::from_ssz(bytes)?))
        })
    }
}

impl<'de, F: Deserialize<'de> + InContents, B: Deserialize<'de>> AnyBlock<F, B> {
    /// Reads the JSON form; whether it is blinded is told beside it.
    pub fn deserialize_as<D: Deserializer<'de>>(blinded: bool, deserializer: D) -> Result<Self, D::Error> {
        Ok(if blinded {
            Self::Blinded(Box::new(B::deserialize(deserializer)?))
        } else {
            Self::Full(Box::new(BlockContents::deserialize(deserializer)?))
        })
    }
}

impl<F: Encode, B: Encode> AnyBlock<F, B> {
    /// The SSZ form.
    pub fn to_ssz(&self) -> Vec<u8> {
        match self {
            Self::Full(contents) => contents.to_ssz(),
            Self::Blinded(block) => block.as_ssz_bytes(),
        }
    }
}

impl<F: Serialize + InContents, B: Serialize> Serialize for AnyBlock<F, B> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Full(contents) => contents.serialize(serializer),
            Self::Blinded(block) => block.serialize(serializer),
        }
    }
}

impl UnsignedBlock {
    /// What is signed: the root of the block alone.
    pub fn message_root(&self) -> Root {
        match self {
            Self::Full(contents) => contents.block.tree_hash_root().into(),
            Self::Blinded(block) => block.tree_hash_root().into(),
        }
    }

    /// The slot of the block.
    pub fn slot(&self) -> Slot {
        match self {
            Self::Full(contents) => contents.block.slot,
            Self::Blinded(block) => block.slot,
        }
    }

    /// Whose block it is.
    pub fn proposer_index(&self) -> ValidatorIndex {
        match self {
            Self::Full(contents) => contents.block.proposer_index,
            Self::Blinded(block) => block.proposer_index,
        }
    }

    /// The block with its proposer's signature.
    pub fn signed(self, signature: SignatureBytes) -> SignedBlock {
        match self {
            Self::Full(contents) => SignedBlock::Full(Box::new(BlockContents {
                block: SignedBeaconBlock { message: contents.block, signature },
                kzg_proofs: contents.kzg_proofs,
                blobs: contents.blobs,
            })),
            Self::Blinded(block) => {
                SignedBlock::Blinded(Box::new(SignedBlindedBeaconBlock { message: *block, signature }))
            }
        }
    }
}

impl SignedBlock {
    /// What is signed: the root of the block alone.
    pub fn message_root(&self) -> Root {
        match self {
            Self::Full(contents) => contents.block.message.tree_hash_root().into(),
            Self::Blinded(block) => block.message.tree_hash_root().into(),
        }
    }

    /// The slot of the block.
    pub fn slot(&self) -> Slot {
        match self {
            Self::Full(contents) => contents.block.message.slot,
            Self::Blinded(block) => block.message.slot,
        }
    }

    /// Whose block it is.
    pub fn proposer_index(&self) -> ValidatorIndex {
        match self {
            Self::Full(contents) => contents.block.message.proposer_index,
            Self::Blinded(block) => block.message.proposer_index,
        }
    }

    /// The signature.
    pub fn signature(&self) -> SignatureBytes {
        match self {
            Self::Full(contents) => contents.block.signature,
            Self::Blinded(block) => block.signature,
        }
    }

    /// Replaces the signature.
    pub fn set_signature(&mut self, signature: SignatureBytes) {
        match self {
            Self::Full(contents) => contents.block.signature = signature,
            Self::Blinded(block) => block.signature = signature,
        }
    }
}

impl<B: Decode> BlockContents<B> {
    /// Reads the SSZ form.
    pub fn from_ssz(bytes: &[u8]) -> Result<Self, DecodeError> {
        let malformed = |why: &str| DecodeError::BytesInvalid(why.to_owned());
        let offset = |at: usize| {
            let four = bytes.get(at..).and_then(|rest| rest.first_chunk::<4>());
            let offset = four.and_then(|four| usize::try_from(u32::from_le_bytes(*four)).ok());
            offset.ok_or_else(|| malformed("no room for an offset"))
        };
        let (block, proofs, blobs) = (offset(0)?, offset(4)?, offset(8)?);
        let part = |range: Option<&[u8]>| {
            range.map(<[u8]>::to_vec).ok_or_else(|| malformed("an offset out of order or bounds"))
        };
        let kzg_proofs = part(bytes.get(proofs..blobs))?;
        let blobs = part(bytes.get(blobs..))?;
        if block != HEADER || kzg_proofs.len() % PROOF != 0 || blobs.len() % BLOB != 0 {
            return Err(malformed("a wrong first offset, or a part of a proof or blob"));
        }
        let block = bytes.get(block..proofs).ok_or_else(|| malformed("an offset out of order"))?;
        Ok(Self { block: B::from_ssz_bytes(block)?, kzg_proofs, blobs })
    }
}

impl<B: Encode> BlockContents<B> {
    /// The SSZ form.
    pub fn to_ssz(&self) -> Vec<u8> {
        let block = self.block.as_ssz_bytes();
        let proofs_at = HEADER + block.len();
        let blobs_at = proofs_at + self.kzg_proofs.len();
        let mut out = Vec::with_capacity(blobs_at + self.blobs.len());
        for offset in [HEADER, proofs_at, blobs_at] {
            // Contents come from answers and messages of at most 32 MiB.
            out.extend_from_slice(&u32::try_from(offset).unwrap_or(u32::MAX).to_le_bytes());
        }
        out.extend_from_slice(&block);
        out.extend_from_slice(&self.kzg_proofs);
        out.extend_from_slice(&self.blobs);
        out
    }
}

impl<B: Serialize + InContents> Serialize for BlockContents<B> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut members = serializer.serialize_struct("BlockContents", 3)?;
        members.serialize_field(B::NAME, &self.block)?;
        members.serialize_field("kzg_proofs", &HexItems::<PROOF>(&self.kzg_proofs))?;
        members.serialize_field("blobs", &HexItems::<BLOB>(&self.blobs))?;
        members.end()
    }
}

impl<'de, B: Deserialize<'de> + InContents> Deserialize<'de> for BlockContents<B> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(bound(deserialize = "B: Deserialize<'de>"))]
        struct Members<B> {
            block: Option<B>,
            signed_block: Option<B>,
            kzg_proofs: OwnedItems<PROOF>,
            blobs: OwnedItems<BLOB>,
        }
        let members = Members::<B>::deserialize(deserializer)?;
        let block = match (members.block, members.signed_block) {
            (Some(block), None) if B::NAME == "block" => block,
            (None, Some(block)) if B::NAME == "signed_block" => block,
            _ => return Err(D::Error::missing_field(B::NAME)),
        };
        Ok(Self { block, kzg_proofs: members.kzg_proofs.0, blobs: members.blobs.0 })
    }
}

/// Bytes as a list of hex texts for `LENGTH` of them each.
struct HexItems<'a, const LENGTH: usize>(&'a [u8]);

impl<const LENGTH: usize> Serialize for HexItems<'_, LENGTH> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.chunks(LENGTH).map(|item| format!("0x{}", hex::encode(item))))
    }
}

struct OwnedItems<const LENGTH: usize>(Vec<u8>);

impl<'de, const LENGTH: usize> Deserialize<'de> for OwnedItems<LENGTH> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let texts = Vec::<String>::deserialize(deserializer)?;
        let mut out = Vec::new();
        for text in texts {
            hex_form::append(&text, LENGTH, &mut out).map_err(D::Error::custom)?;
        }
        Ok(Self(out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contents() -> Vec<u8> {
        let header: Vec<u8> = [12_u32, 20, 20 + 96].iter().flat_map(|offset| offset.to_le_bytes()).collect();
        [&header[..], &7_u64.to_le_bytes(), &[1; 96], &[2; BLOB]].concat()
    }

    // The codec does not care what the block is.
    impl InContents for u64 {
        const NAME: &'static str = "signed_block";
    }

    #[test]
    fn contents_keep_their_bytes_in_ssz_and_json() {
        let read = BlockContents::<u64>::from_ssz(&contents()).unwrap();
        assert_eq!((read.block, read.kzg_proofs.len(), read.blobs.len()), (7, 96, BLOB));
        assert_eq!(read.to_ssz(), contents());
        let json = serde_json::to_string(&read).unwrap();
        assert!(json.starts_with(r#"{"signed_block":7,"kzg_proofs":["0x0101"#), "{}", &json[..60]);
        assert_eq!(serde_json::from_str::<BlockContents<u64>>(&json).unwrap(), read);
        assert!(serde_json::from_str::<BlockContents<u64>>(&json.replace("signed_block", "block")).is_err());
        assert!(serde_json::from_str::<BlockContents<u64>>(&json.replace("\"0x0101", "\"0x01")).is_err());
    }

    #[test]
    fn contents_with_bad_offsets_or_parts_of_blobs_are_refused() {
        for (at, value) in [(0, 11), (0, 13), (4, 11), (4, 200), (8, 19), (8, 21), (8, u8::MAX)] {
            let mut bytes = contents();
            bytes[at] = value;
            assert!(BlockContents::<u64>::from_ssz(&bytes).is_err(), "{value} at {at}");
        }
        for length in [0, 5, 11, 12, 100, contents().len() - 1] {
            assert!(BlockContents::<u64>::from_ssz(&contents()[..length]).is_err(), "{length} bytes");
        }
    }
}
