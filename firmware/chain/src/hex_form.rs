//! The `0x…` form of bytes that the beacon API uses.

use serde::de::{Error, Visitor};
use serde::{Deserializer, Serializer};
use std::fmt;

/// Why a text is not the expected `0x` hex.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HexError {
    /// The text does not start with `0x`.
    #[error("hex text must start with 0x")]
    NoPrefix,
    /// The text has another length than the type.
    #[error("expected {expected} bytes of hex, found {found} characters")]
    Length {
        /// Bytes of the type.
        expected: usize,
        /// Characters after the prefix.
        found: usize,
    },
    /// A character is not a hex digit.
    #[error("text holds a character that is not a hex digit")]
    Digit,
}

/// Reads exactly `N` bytes of `0x` hex; either case.
pub(crate) fn parse<const N: usize>(text: &str) -> Result<[u8; N], HexError> {
    let digits = text.strip_prefix("0x").ok_or(HexError::NoPrefix)?;
    if digits.len() != 2 * N {
        return Err(HexError::Length { expected: N, found: digits.len() });
    }
    let mut bytes = [0; N];
    hex::decode_to_slice(digits, &mut bytes).map_err(|_| HexError::Digit)?;
    Ok(bytes)
}

/// Reads exactly `length` bytes of `0x` hex and appends them.
pub(crate) fn append(text: &str, length: usize, out: &mut Vec<u8>) -> Result<(), HexError> {
    let digits = text.strip_prefix("0x").ok_or(HexError::NoPrefix)?;
    if digits.len() != 2 * length {
        return Err(HexError::Length { expected: length, found: digits.len() });
    }
    let start = out.len();
    out.resize(start + length, 0);
    hex::decode_to_slice(digits, &mut out[start..]).map_err(|_| HexError::Digit)
}

/// Writes `0x` and lower-case hex.
pub(crate) fn write(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    f.write_str("0x")?;
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

pub(crate) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&format!("0x{}", hex::encode(bytes)))
}

pub(crate) fn deserialize<'de, const N: usize, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<[u8; N], D::Error> {
    struct Hex<const N: usize>;
    impl<const N: usize> Visitor<'_> for Hex<N> {
        type Value = [u8; N];

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "{N} bytes as 0x hex")
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
            parse(text).map_err(E::custom)
        }
    }
    deserializer.deserialize_str(Hex::<N>)
}

/// Reads `0x` hex of any length; what it is read from bounds it.
pub(crate) fn deserialize_any_length<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<u8>, D::Error> {
    struct Hex;
    impl Visitor<'_> for Hex {
        type Value = Vec<u8>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("bytes as 0x hex")
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
            let digits = text.strip_prefix("0x").ok_or(HexError::NoPrefix).map_err(E::custom)?;
            hex::decode(digits).map_err(|_| E::custom(HexError::Digit))
        }
    }
    deserializer.deserialize_str(Hex)
}
