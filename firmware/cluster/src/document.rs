//! What definition and lock files share: bounded lists, text forms of bytes, and what can be wrong with a member.

use core::fmt;
use core::marker::PhantomData;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::de::{Deserialize, Deserializer, Error as _, SeqAccess, Visitor};

use crate::definition::SchemaVersion;

/// Largest cluster file that is read. A lock of 10,000 validators and 4 operators takes about 30 MB.
pub const MAX_FILE_BYTES: usize = 64 * 1024 * 1024;
/// Most operators a cluster may have.
pub(crate) const MAX_OPERATORS: usize = 256;
/// Most validators a cluster may have.
pub(crate) const MAX_VALIDATORS: usize = 65_536;
/// Most partial deposits of one validator, and most deposit amounts of a definition.
pub(crate) const MAX_DEPOSITS: usize = 256;

/// What is wrong with one member of a cluster file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FieldProblem {
    /// The member is not there.
    #[error("is missing")]
    Missing,
    /// Not hexadecimal.
    #[error("is not hexadecimal text")]
    NotHex,
    /// Not base64.
    #[error("is not base64 text")]
    NotBase64,
    /// Not a decimal number in a string.
    #[error("is not a whole number in quotes")]
    NotDecimal,
    /// Wrong number of bytes.
    #[error("must be {expected} bytes long and is {found}")]
    Length {
        /// Bytes asked for.
        expected: usize,
        /// Bytes found.
        found: usize,
    },
    /// Too many bytes or elements.
    #[error("is {found} long, at most {limit} is allowed")]
    TooLong {
        /// Most allowed.
        limit: usize,
        /// Found.
        found: usize,
    },
    /// This schema version does not allow the value.
    #[error("must be {0}")]
    MustBe(&'static str),
}

/// A member and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{field}' {problem}")]
pub struct FieldError {
    /// Path of the member, such as `operators[2].enr_signature`.
    pub field: String,
    /// What is wrong.
    pub problem: FieldProblem,
}

impl FieldError {
    pub(crate) fn new(field: impl Into<String>, problem: FieldProblem) -> Self {
        Self { field: field.into(), problem }
    }
}

impl From<crate::merkle::HashInputError> for FieldError {
    fn from(error: crate::merkle::HashInputError) -> Self {
        Self::new(error.field, FieldProblem::TooLong { limit: error.limit, found: error.found })
    }
}

/// Reads bytes that are base64 in v1.0 and v1.1 and hex later; `""` is no bytes.
pub(crate) fn bytes_from(version: SchemaVersion, field: &str, text: &str) -> Result<Vec<u8>, FieldError> {
    if version.uses_base64() {
        STANDARD.decode(text).map_err(|_| FieldError::new(field, FieldProblem::NotBase64))
    } else {
        hex_from(field, text)
    }
}

/// Writes bytes in the form of that version.
pub(crate) fn bytes_to(version: SchemaVersion, bytes: &[u8]) -> String {
    if version.uses_base64() { STANDARD.encode(bytes) } else { hex_to(bytes) }
}

/// Reads hex with or without `0x`.
pub(crate) fn hex_from(field: &str, text: &str) -> Result<Vec<u8>, FieldError> {
    hex::decode(text.strip_prefix("0x").unwrap_or(text))
        .map_err(|_| FieldError::new(field, FieldProblem::NotHex))
}

/// Writes `0x` hex; no bytes are `""`.
pub(crate) fn hex_to(bytes: &[u8]) -> String {
    if bytes.is_empty() { String::new() } else { format!("0x{}", hex::encode(bytes)) }
}

/// Exactly `N` bytes.
pub(crate) fn exact<const N: usize>(field: &str, bytes: &[u8]) -> Result<[u8; N], FieldError> {
    bytes
        .try_into()
        .map_err(|_| FieldError::new(field, FieldProblem::Length { expected: N, found: bytes.len() }))
}

/// A decimal number in a JSON string.
pub(crate) fn decimal_from(field: &str, text: &str) -> Result<u64, FieldError> {
    text.parse().map_err(|_| FieldError::new(field, FieldProblem::NotDecimal))
}

/// Deserializes a list of at most `MAX` elements and stops reading at the first one too many.
pub(crate) fn bounded<'de, D, T, const MAX: usize>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    struct Elements<T, const MAX: usize>(PhantomData<T>);
    impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for Elements<T, MAX> {
        type Value = Vec<T>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "a list of at most {MAX} elements")
        }
        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok(Vec::new())
        }
        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
            let mut elements = Vec::new();
            while let Some(element) = seq.next_element()? {
                if elements.len() == MAX {
                    return Err(A::Error::custom(format_args!("a list has more than {MAX} elements")));
                }
                elements.push(element);
            }
            Ok(elements)
        }
    }
    deserializer.deserialize_any(Elements::<T, MAX>(PhantomData))
}

/// Serializes with one space of indentation, as the reference implementation writes its files.
pub(crate) fn to_indented_json<T: serde::Serialize>(value: &T) -> Vec<u8> {
    let mut out = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b" ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut out, formatter);
    value.serialize(&mut serializer).expect("plain structs with text keys always serialize");
    out
}
