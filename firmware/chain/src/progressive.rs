//! Progressive SSZ types (EIP-7916, EIP-7495): lists without a limit and containers whose tree keeps its shape when fields are
//! added. The draft fork gloas is the first to use them.

use crate::hex_form;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use ssz::{Decode, DecodeError, Encode};
use std::fmt;
use tree_hash::{
    BYTES_PER_CHUNK, Hash256, PackedEncoding, TreeHash, TreeHashType, merkle_root, mix_in_length,
};

/// `merkleize_progressive`: a chain of binary trees, each four times as large as the one before. `chunks` holds whole chunks.
pub(crate) fn merkleize(chunks: &[u8]) -> Hash256 {
    merkleize_from(chunks, 1)
}

fn merkleize_from(chunks: &[u8], leaves: usize) -> Hash256 {
    if chunks.is_empty() {
        return Hash256::ZERO;
    }
    let here = leaves.saturating_mul(BYTES_PER_CHUNK).min(chunks.len());
    let (first, rest) = chunks.split_at(here);
    // The depth of this recursion is the logarithm of the input's length.
    pair(merkle_root(first, leaves), merkleize_from(rest, leaves.saturating_mul(4)))
}

/// Mixes the active fields of a container into its root. All our containers have every field active, at most 32 of them.
pub(crate) fn mix_in_active_fields(roots: &[Hash256]) -> Hash256 {
    let mut active = [0; BYTES_PER_CHUNK];
    for field in 0..roots.len() {
        active[field / 8] |= 1 << (field % 8);
    }
    let chunks: Vec<u8> = roots.iter().flat_map(|root| root.0).collect();
    pair(merkleize(&chunks), Hash256::from(active))
}

fn pair(left: Hash256, right: Hash256) -> Hash256 {
    let both: Vec<u8> = left.0.into_iter().chain(right.0).collect();
    merkle_root(&both, 2)
}

fn padded(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.resize(bytes.len().next_multiple_of(BYTES_PER_CHUNK), 0);
    bytes
}

/// Implements [`TreeHash`] for a progressive container. The pattern names every field, or it does not compile.
macro_rules! progressive_container {
    ($name:ident $(<$preset:ident>)? { $($field:ident),+ $(,)? }) => {
        impl $(<$preset: crate::Preset>)? tree_hash::TreeHash for $name $(<$preset>)? {
            fn tree_hash_type() -> tree_hash::TreeHashType {
                tree_hash::TreeHashType::Container
            }

            fn tree_hash_packed_encoding(&self) -> tree_hash::PackedEncoding {
                // Never asked of a container; its root is the only sensible answer.
                tree_hash::PackedEncoding::from_slice(self.tree_hash_root().as_slice())
            }

            fn tree_hash_packing_factor() -> usize {
                1
            }

            fn tree_hash_root(&self) -> tree_hash::Hash256 {
                let Self { $($field),+ } = self;
                crate::progressive::mix_in_active_fields(&[$($field.tree_hash_root()),+])
            }
        }
    };
}
pub(crate) use progressive_container;

/// A list without a limit of its own; what it is read from bounds it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ProgressiveList<T>(pub Vec<T>);

impl<T> Default for ProgressiveList<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: Encode> Encode for ProgressiveList<T> {
    fn is_ssz_fixed_len() -> bool {
        false
    }

    fn ssz_bytes_len(&self) -> usize {
        self.0.ssz_bytes_len()
    }

    fn ssz_append(&self, buf: &mut Vec<u8>) {
        self.0.ssz_append(buf);
    }
}

impl<T: Decode> Decode for ProgressiveList<T> {
    fn is_ssz_fixed_len() -> bool {
        false
    }

    fn from_ssz_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        Vec::from_ssz_bytes(bytes).map(Self)
    }
}

impl<T: TreeHash> TreeHash for ProgressiveList<T> {
    fn tree_hash_type() -> TreeHashType {
        TreeHashType::List
    }

    fn tree_hash_packed_encoding(&self) -> PackedEncoding {
        PackedEncoding::from_slice(self.tree_hash_root().as_slice())
    }

    fn tree_hash_packing_factor() -> usize {
        1
    }

    fn tree_hash_root(&self) -> Hash256 {
        let chunks: Vec<u8> = match T::tree_hash_type() {
            TreeHashType::Basic => {
                padded(self.0.iter().flat_map(TreeHash::tree_hash_packed_encoding).collect())
            }
            TreeHashType::Vector | TreeHashType::List | TreeHashType::Container => {
                self.0.iter().flat_map(|item| item.tree_hash_root().0).collect()
            }
        };
        mix_in_length(&merkleize(&chunks), self.0.len())
    }
}

/// Bytes without a limit of their own, hex in JSON.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct ProgressiveBytes(pub Vec<u8>);

/// Bits without a limit of their own, hex in JSON. Kept as SSZ writes them, with the bit that marks the end.
#[derive(Clone, PartialEq, Eq)]
pub struct ProgressiveBits(Vec<u8>);

impl ProgressiveBits {
    /// Bits in the given order.
    pub fn new(bits: impl IntoIterator<Item = bool>) -> Self {
        let mut bytes = vec![0];
        let mut count = 0_usize;
        for bit in bits {
            bytes[count / 8] |= u8::from(bit) << (count % 8);
            count += 1;
            if count.is_multiple_of(8) {
                bytes.push(0);
            }
        }
        bytes[count / 8] |= 1 << (count % 8);
        Self(bytes)
    }

    fn parse(bytes: Vec<u8>) -> Result<Self, &'static str> {
        match bytes.last() {
            None => Err("a bit list has at least the byte with its end mark"),
            Some(0) => Err("the last byte of a bit list must hold its end mark"),
            Some(_) => Ok(Self(bytes)),
        }
    }

    /// How many bits there are.
    pub fn len(&self) -> usize {
        let last = self.0.last().map_or(0, |byte| byte.checked_ilog2().unwrap_or(0));
        (self.0.len() - 1) * 8 + usize::try_from(last).unwrap_or(0)
    }

    /// Whether there is no bit.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bits in order.
    pub fn iter(&self) -> impl Iterator<Item = bool> {
        (0..self.len()).map(|place| self.0[place / 8] >> (place % 8) & 1 == 1)
    }

    /// The bits without the end mark, in as many bytes as they need.
    fn packed(&self) -> Vec<u8> {
        let mut bytes = self.0.clone();
        let bits = self.len();
        if let Some(last) = bytes.get_mut(bits / 8) {
            *last &= !(1 << (bits % 8));
        }
        bytes.truncate(bits.div_ceil(8));
        bytes
    }
}

macro_rules! byte_form {
    ($name:ident, $parse:expr, $root:expr) => {
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                hex_form::write(&self.0, f)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                hex_form::serialize(&self.0, serializer)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let bytes = hex_form::deserialize_any_length(deserializer)?;
                $parse(bytes).map_err(D::Error::custom)
            }
        }

        impl Encode for $name {
            fn is_ssz_fixed_len() -> bool {
                false
            }

            fn ssz_bytes_len(&self) -> usize {
                self.0.len()
            }

            fn ssz_append(&self, buf: &mut Vec<u8>) {
                buf.extend_from_slice(&self.0);
            }
        }

        impl Decode for $name {
            fn is_ssz_fixed_len() -> bool {
                false
            }

            fn from_ssz_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
                $parse(bytes.to_vec()).map_err(|error: &str| DecodeError::BytesInvalid(error.to_owned()))
            }
        }

        impl TreeHash for $name {
            fn tree_hash_type() -> TreeHashType {
                TreeHashType::List
            }

            fn tree_hash_packed_encoding(&self) -> PackedEncoding {
                PackedEncoding::from_slice(self.tree_hash_root().as_slice())
            }

            fn tree_hash_packing_factor() -> usize {
                1
            }

            fn tree_hash_root(&self) -> Hash256 {
                $root(self)
            }
        }
    };
}

byte_form!(
    ProgressiveBytes,
    |bytes| Ok::<_, &'static str>(ProgressiveBytes(bytes)),
    |bytes: &ProgressiveBytes| mix_in_length(&merkleize(&padded(bytes.0.clone())), bytes.0.len())
);
byte_form!(ProgressiveBits, ProgressiveBits::parse, |bits: &ProgressiveBits| {
    mix_in_length(&merkleize(&padded(bits.packed())), bits.len())
});

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_bit_list_needs_its_end_mark() {
        let cases: &[(&[u8], Option<usize>)] = &[
            (&[], None),
            (&[0], None),
            (&[1, 0], None),
            (&[1], Some(0)),
            (&[0b101], Some(2)),
            (&[0, 1], Some(8)),
        ];
        for (bytes, length) in cases {
            let found = ProgressiveBits::from_ssz_bytes(bytes).ok().map(|bits| bits.len());
            assert_eq!(found, *length, "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn bits_round_trip(bits in proptest::collection::vec(any::<bool>(), 0..600)) {
            let list = ProgressiveBits::new(bits.iter().copied());
            prop_assert_eq!(list.len(), bits.len());
            prop_assert_eq!(list.iter().collect::<Vec<_>>(), bits);
            prop_assert_eq!(ProgressiveBits::from_ssz_bytes(&list.as_ssz_bytes()).unwrap(), list);
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(bits) = ProgressiveBits::from_ssz_bytes(&bytes) {
                prop_assert_eq!(bits.as_ssz_bytes(), bytes);
                let _ = bits.tree_hash_root();
            }
        }
    }
}
