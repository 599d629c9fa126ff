//! Byte strings of fixed length, one type per meaning.

use crate::hex_form::{self, HexError};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use ssz::{Decode, DecodeError, Encode};
use std::fmt;
use std::str::FromStr;
use tree_hash::{Hash256, PackedEncoding, TreeHash, TreeHashType};

macro_rules! bytes_type {
    ($(#[$doc:meta])* $name:ident, $len:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; $len]);

        impl $name {
            /// Length in bytes.
            pub const LEN: usize = $len;
            /// All bytes zero.
            pub const ZERO: Self = Self([0; $len]);

            /// The bytes.
            pub fn as_slice(&self) -> &[u8] {
                &self.0
            }
        }

        impl Default for $name {
            fn default() -> Self {
                Self::ZERO
            }
        }

        impl From<[u8; $len]> for $name {
            fn from(bytes: [u8; $len]) -> Self {
                Self(bytes)
            }
        }

        impl AsRef<[u8]> for $name {
            fn as_ref(&self) -> &[u8] {
                &self.0
            }
        }

        impl TryFrom<&[u8]> for $name {
            type Error = HexError;

            fn try_from(bytes: &[u8]) -> Result<Self, HexError> {
                let bytes = bytes
                    .try_into()
                    .map_err(|_| HexError::Length { expected: $len, found: bytes.len().saturating_mul(2) })?;
                Ok(Self(bytes))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                hex_form::write(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                hex_form::write(&self.0, f)
            }
        }

        impl FromStr for $name {
            type Err = HexError;

            fn from_str(text: &str) -> Result<Self, HexError> {
                hex_form::parse(text).map(Self)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                hex_form::serialize(&self.0, serializer)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                hex_form::deserialize(deserializer).map(Self)
            }
        }

        impl Encode for $name {
            fn is_ssz_fixed_len() -> bool {
                true
            }

            fn ssz_fixed_len() -> usize {
                $len
            }

            fn ssz_bytes_len(&self) -> usize {
                $len
            }

            fn ssz_append(&self, buf: &mut Vec<u8>) {
                buf.extend_from_slice(&self.0);
            }
        }

        impl Decode for $name {
            fn is_ssz_fixed_len() -> bool {
                true
            }

            fn ssz_fixed_len() -> usize {
                $len
            }

            fn from_ssz_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
                let bytes = bytes
                    .try_into()
                    .map_err(|_| DecodeError::InvalidByteLength { len: bytes.len(), expected: $len })?;
                Ok(Self(bytes))
            }
        }

        impl TreeHash for $name {
            fn tree_hash_type() -> TreeHashType {
                TreeHashType::Vector
            }

            fn tree_hash_packed_encoding(&self) -> PackedEncoding {
                // A 32-byte vector is its own chunk; longer ones are never asked for a packed form.
                PackedEncoding::from_slice(self.tree_hash_root().as_slice())
            }

            fn tree_hash_packing_factor() -> usize {
                1
            }

            fn tree_hash_root(&self) -> Hash256 {
                self.0.tree_hash_root()
            }
        }
    };
}

bytes_type!(
    /// A hash tree root, or any other 32-byte root of the chain.
    Root, 32
);
bytes_type!(
    /// 32 bytes without a narrower meaning: graffiti, withdrawal credentials, execution hashes, randao mixes.
    Bytes32, 32
);
bytes_type!(
    /// A BLS public key, compressed and not yet checked (`threshold::PublicKey` is the checked one).
    PublicKeyBytes, 48
);
bytes_type!(
    /// A BLS signature, compressed and not yet checked.
    SignatureBytes, 96
);
bytes_type!(
    /// A fork version.
    ForkVersion, 4
);
bytes_type!(
    /// A signature domain: domain type and fork data, mixed into each signing root.
    Domain, 32
);
bytes_type!(
    /// The first four bytes of a domain: what kind of message is signed. The constants are in [`crate::domain`].
    DomainType, 4
);
bytes_type!(
    /// An execution-layer address.
    ExecutionAddress, 20
);
bytes_type!(
    /// A KZG commitment to a blob.
    KzgCommitment, 48
);
bytes_type!(
    /// The bloom filter of an execution block's logs.
    LogsBloom, 256
);

impl From<Hash256> for Root {
    fn from(hash: Hash256) -> Self {
        Self(hash.0)
    }
}

impl From<Root> for Hash256 {
    fn from(root: Root) -> Self {
        Self(root.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn hex_must_be_prefixed_and_of_the_right_length() {
        let cases = [
            ("0x01020304", Ok(ForkVersion([1, 2, 3, 4]))),
            ("0x0102030A", Ok(ForkVersion([1, 2, 3, 10]))),
            ("01020304", Err(HexError::NoPrefix)),
            ("0x010203", Err(HexError::Length { expected: 4, found: 6 })),
            ("0x0102030405", Err(HexError::Length { expected: 4, found: 10 })),
            ("0x0102030g", Err(HexError::Digit)),
            ("", Err(HexError::NoPrefix)),
        ];
        for (text, expected) in cases {
            assert_eq!(text.parse::<ForkVersion>(), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in ".{0,80}") {
            let _ = text.parse::<Root>();
            let _ = serde_json::from_str::<Root>(&text);
        }

        #[test]
        fn json_and_ssz_round_trip(bytes: [u8; 32]) {
            let root = Root(bytes);
            prop_assert_eq!(serde_json::from_str::<Root>(&serde_json::to_string(&root).unwrap()).unwrap(), root);
            prop_assert_eq!(Root::from_ssz_bytes(&root.as_ssz_bytes()).unwrap(), root);
            prop_assert_eq!(root.to_string().parse::<Root>().unwrap(), root);
        }
    }
}
