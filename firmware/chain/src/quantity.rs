//! Numbers of the chain, one type per meaning. In JSON they are decimal strings, as in the beacon API.

use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use ssz::{Decode, DecodeError, Encode};
use std::fmt;
use std::str::FromStr;
use tree_hash::{Hash256, PackedEncoding, TreeHash, TreeHashType};

/// Why a text is not a number of the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected a decimal number of at most 64 bits, digits only")]
pub struct QuantityError;

macro_rules! quantity {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub u64);

        impl $name {
            /// The next one, or none at the end of the range.
            pub fn checked_add(self, count: u64) -> Option<Self> {
                self.0.checked_add(count).map(Self)
            }

            /// Adds, stopping at the end of the range.
            pub fn saturating_add(self, count: u64) -> Self {
                Self(self.0.saturating_add(count))
            }

            /// Subtracts, stopping at zero.
            pub fn saturating_sub(self, count: u64) -> Self {
                Self(self.0.saturating_sub(count))
            }
        }

        impl From<u64> for $name {
            fn from(value: u64) -> Self {
                Self(value)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }

        impl FromStr for $name {
            type Err = QuantityError;

            fn from_str(text: &str) -> Result<Self, QuantityError> {
                parse(text).map(Self)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                decimal::deserialize(deserializer).map(Self)
            }
        }

        impl Encode for $name {
            fn is_ssz_fixed_len() -> bool {
                true
            }

            fn ssz_fixed_len() -> usize {
                8
            }

            fn ssz_bytes_len(&self) -> usize {
                8
            }

            fn ssz_append(&self, buf: &mut Vec<u8>) {
                self.0.ssz_append(buf);
            }
        }

        impl Decode for $name {
            fn is_ssz_fixed_len() -> bool {
                true
            }

            fn ssz_fixed_len() -> usize {
                8
            }

            fn from_ssz_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
                u64::from_ssz_bytes(bytes).map(Self)
            }
        }

        impl TreeHash for $name {
            fn tree_hash_type() -> TreeHashType {
                u64::tree_hash_type()
            }

            fn tree_hash_packed_encoding(&self) -> PackedEncoding {
                self.0.tree_hash_packed_encoding()
            }

            fn tree_hash_packing_factor() -> usize {
                u64::tree_hash_packing_factor()
            }

            fn tree_hash_root(&self) -> Hash256 {
                self.0.tree_hash_root()
            }
        }
    };
}

quantity!(
    /// A slot: the time of one block.
    Slot
);
quantity!(
    /// An epoch: `slots_per_epoch` slots.
    Epoch
);
quantity!(
    /// The number of a validator in the beacon state.
    ValidatorIndex
);
quantity!(
    /// The number of a committee within a slot.
    CommitteeIndex
);
quantity!(
    /// Milliseconds since 1970-01-01 00:00 UTC.
    UnixMillis
);
quantity!(
    /// 10⁻⁹ ether.
    Gwei
);

impl Slot {
    /// The epoch this slot is in. `slots_per_epoch` is 32 on mainnet; zero counts as one.
    pub fn epoch(self, slots_per_epoch: u64) -> Epoch {
        Epoch(self.0 / slots_per_epoch.max(1))
    }
}

impl Epoch {
    /// The first slot of the epoch, or the last slot of all when that is out of range.
    pub fn start_slot(self, slots_per_epoch: u64) -> Slot {
        Slot(self.0.saturating_mul(slots_per_epoch))
    }
}

/// Reads digits only: no sign, no space.
fn parse(text: &str) -> Result<u64, QuantityError> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(QuantityError);
    }
    text.parse().map_err(|_| QuantityError)
}

/// A plain `u64` field as a decimal string: `#[serde(with = "chain::decimal")]`.
pub mod decimal {
    use super::*;

    /// Writes the number as a decimal string.
    pub fn serialize<S: Serializer>(value: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    /// Reads a decimal string. A bare number is read too, since some tools and all spec tests write it.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        struct Decimal;
        impl Visitor<'_> for Decimal {
            type Value = u64;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a decimal number, as a string")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<u64, E> {
                parse(text).map_err(E::custom)
            }

            fn visit_u64<E: Error>(self, value: u64) -> Result<u64, E> {
                Ok(value)
            }
        }
        deserializer.deserialize_any(Decimal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_a_decimal_string() {
        assert_eq!(serde_json::to_string(&Slot(7)).unwrap(), "\"7\"");
        let cases = [
            ("\"7\"", Some(7)),
            ("7", Some(7)),
            ("\"18446744073709551615\"", Some(u64::MAX)),
            ("\"18446744073709551616\"", None),
            ("\"-1\"", None),
            ("\"+1\"", None),
            ("\" 1\"", None),
            ("\"\"", None),
            ("1.5", None),
            ("null", None),
        ];
        for (json, expected) in cases {
            assert_eq!(serde_json::from_str::<Slot>(json).ok().map(|slot| slot.0), expected, "{json}");
        }
    }

    #[test]
    fn slots_and_epochs_convert() {
        let cases = [(0, 0), (31, 0), (32, 1), (33, 1), (64, 2)];
        for (slot, epoch) in cases {
            assert_eq!(Slot(slot).epoch(32), Epoch(epoch));
        }
        assert_eq!(Epoch(2).start_slot(32), Slot(64));
        assert_eq!(Epoch(u64::MAX).start_slot(32), Slot(u64::MAX));
    }
}
