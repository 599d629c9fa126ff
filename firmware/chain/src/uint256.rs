//! A 256-bit number that is only carried, never calculated with (base fees, block values).

use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use ssz::{Decode, DecodeError, Encode};
use std::fmt;
use std::str::FromStr;
use tree_hash::{Hash256, PackedEncoding, TreeHash, TreeHashType};

use crate::quantity::QuantityError;

/// An unsigned 256-bit number, little-endian as in SSZ; a decimal string in JSON.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Uint256(pub [u8; 32]);

impl From<u64> for Uint256 {
    fn from(value: u64) -> Self {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&value.to_le_bytes());
        Self(bytes)
    }
}

impl FromStr for Uint256 {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        // 2^256 has 78 digits.
        if text.is_empty() || text.len() > 78 || !text.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(QuantityError);
        }
        let mut number = [0_u8; 32];
        for digit in text.bytes() {
            let mut carry = u16::from(digit - b'0');
            for byte in &mut number {
                let [low, high] = (u16::from(*byte) * 10 + carry).to_le_bytes();
                *byte = low;
                carry = u16::from(high);
            }
            if carry != 0 {
                return Err(QuantityError);
            }
        }
        Ok(Self(number))
    }
}

impl fmt::Display for Uint256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut number = self.0;
        let mut digits = Vec::with_capacity(78);
        while number.iter().any(|byte| *byte != 0) {
            let mut remainder = 0_u32;
            for byte in number.iter_mut().rev() {
                let value = remainder * 256 + u32::from(*byte);
                [*byte, ..] = (value / 10).to_le_bytes();
                remainder = value % 10;
            }
            digits.push(char::from_digit(remainder, 10).unwrap_or('0'));
        }
        if digits.is_empty() {
            digits.push('0');
        }
        f.write_str(&digits.iter().rev().collect::<String>())
    }
}

impl fmt::Debug for Uint256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Uint256({self})")
    }
}

impl Serialize for Uint256 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Uint256 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Decimal;
        impl Visitor<'_> for Decimal {
            type Value = Uint256;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a decimal number of at most 256 bits, as a string")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Uint256, E> {
                text.parse().map_err(E::custom)
            }

            fn visit_u64<E: Error>(self, value: u64) -> Result<Uint256, E> {
                Ok(value.into())
            }
        }
        deserializer.deserialize_any(Decimal)
    }
}

impl Encode for Uint256 {
    fn is_ssz_fixed_len() -> bool {
        true
    }

    fn ssz_fixed_len() -> usize {
        32
    }

    fn ssz_bytes_len(&self) -> usize {
        32
    }

    fn ssz_append(&self, buf: &mut Vec<u8>) {
        buf.extend_from_slice(&self.0);
    }
}

impl Decode for Uint256 {
    fn is_ssz_fixed_len() -> bool {
        true
    }

    fn ssz_fixed_len() -> usize {
        32
    }

    fn from_ssz_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        <[u8; 32]>::from_ssz_bytes(bytes).map(Self)
    }
}

impl TreeHash for Uint256 {
    fn tree_hash_type() -> TreeHashType {
        TreeHashType::Basic
    }

    fn tree_hash_packed_encoding(&self) -> PackedEncoding {
        PackedEncoding::from_slice(&self.0)
    }

    fn tree_hash_packing_factor() -> usize {
        1
    }

    fn tree_hash_root(&self) -> Hash256 {
        Hash256::from(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimal_text_round_trips() {
        let largest = "115792089237316195423570985008687907853269984665640564039457584007913129639935";
        for text in ["0", "1", "255", "256", "18446744073709551616", largest] {
            assert_eq!(text.parse::<Uint256>().unwrap().to_string(), text);
        }
        assert_eq!(largest.parse::<Uint256>().unwrap(), Uint256([255; 32]));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let too_large = "115792089237316195423570985008687907853269984665640564039457584007913129639936";
        for text in ["", "-1", "0x1", too_large, &"9".repeat(79)] {
            assert!(text.parse::<Uint256>().is_err(), "{text}");
        }
    }
}
