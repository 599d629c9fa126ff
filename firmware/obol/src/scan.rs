//! Walks over the fields of an encoded message without decoding it, so that what a peer may make us allocate is counted
//! before it is allocated: two bytes on the wire can stand for a hundred in memory.

use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

/// One field as it stands on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Field<'a> {
    /// Field number.
    pub(crate) tag: u32,
    /// Contents of a length-delimited field.
    pub(crate) contents: Option<&'a [u8]>,
    /// The whole field with its key.
    pub(crate) whole: &'a [u8],
}

/// The bytes are no protobuf message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

/// Takes the next field off `rest`.
pub(crate) fn next_field<'a>(rest: &mut &'a [u8]) -> Result<Option<Field<'a>>, Malformed> {
    if rest.is_empty() {
        return Ok(None);
    }
    let start = *rest;
    let (tag, wire_type) = decode_key(rest).map_err(|_| Malformed)?;
    let mut contents = None;
    if wire_type == WireType::LengthDelimited {
        let length =
            decode_varint(rest).ok().and_then(|length| usize::try_from(length).ok()).ok_or(Malformed)?;
        let (taken, after) = rest.split_at_checked(length).ok_or(Malformed)?;
        contents = Some(taken);
        *rest = after;
    } else {
        skip_field(wire_type, tag, rest, DecodeContext::default()).map_err(|_| Malformed)?;
    }
    let whole = start.get(..start.len() - rest.len()).ok_or(Malformed)?;
    Ok(Some(Field { tag, contents, whole }))
}

/// How often a field stands at the top level of a message.
pub(crate) fn count(bytes: &[u8], tag: u32) -> Result<usize, Malformed> {
    let mut rest = bytes;
    let mut found = 0;
    while let Some(field) = next_field(&mut rest)? {
        found += usize::from(field.tag == tag);
    }
    Ok(found)
}

/// The fields with numbers not in `known`, as they stand. The reference keeps them and signs them, so a newer release that
/// adds a field is still understood here.
pub(crate) fn unknown(bytes: &[u8], known: &[u32]) -> Result<Vec<u8>, Malformed> {
    let mut rest = bytes;
    let mut out = Vec::new();
    while let Some(field) = next_field(&mut rest)? {
        if !known.contains(&field.tag) {
            out.extend_from_slice(field.whole);
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message;

    use super::*;
    use crate::wire::{Duty, QbftMsg};

    #[test]
    fn fields_are_counted_and_unknown_ones_are_kept_as_they_stand() {
        let mut bytes = QbftMsg { r#type: 2, duty: Some(Duty { slot: 5, r#type: 2 }), ..QbftMsg::default() }
            .encode_to_vec();
        let known = bytes.len();
        bytes.extend_from_slice(&[0xf8, 0x01, 0x07]); // Field 31, varint 7.
        assert_eq!(count(&bytes, 2), Ok(1));
        assert_eq!(unknown(&bytes, &[1, 2, 3, 4, 6, 8, 11, 12]).unwrap(), &bytes[known..]);
    }

    proptest! {
        #[test]
        fn any_bytes_are_walked_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = count(&bytes, 1);
            let _ = unknown(&bytes, &[1]);
        }
    }
}
