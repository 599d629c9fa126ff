//! The little RLP an ENR needs: byte strings and one flat list of them.
//!
//! Only canonical encodings are accepted, so that a record has one form and its signature covers exactly that form.

/// Why bytes are not the flat RLP list of an ENR.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RlpError {
    /// The input ends inside an item.
    #[error("the record ends in the middle of an item")]
    Truncated,
    /// Bytes remain after the list.
    #[error("bytes follow the end of the record")]
    TrailingBytes,
    /// The outermost item is not a list.
    #[error("the record is not a list")]
    NotAList,
    /// A list inside the list.
    #[error("the record holds a nested list where a byte string belongs")]
    NestedList,
    /// A length or a single byte is not encoded in its shortest form.
    #[error("an item is not in its shortest encoding")]
    NotCanonical,
    /// More items than any ENR has.
    #[error("the record has more than {0} items")]
    TooManyItems(usize),
}

/// Items an ENR may have: signature, seq and 63 pairs, far above any record that fits in 300 bytes.
const MAX_ITEMS: usize = 128;

/// Splits a flat list into its byte strings.
pub(crate) fn decode_flat_list(bytes: &[u8]) -> Result<Vec<&[u8]>, RlpError> {
    let (is_list, mut rest, after) = split_item(bytes)?;
    if !is_list {
        return Err(RlpError::NotAList);
    }
    if !after.is_empty() {
        return Err(RlpError::TrailingBytes);
    }
    let mut items = Vec::new();
    while !rest.is_empty() {
        let (is_list, payload, after) = split_item(rest)?;
        if is_list {
            return Err(RlpError::NestedList);
        }
        if items.len() == MAX_ITEMS {
            return Err(RlpError::TooManyItems(MAX_ITEMS));
        }
        items.push(payload);
        rest = after;
    }
    Ok(items)
}

/// Encodes a flat list of byte strings.
pub(crate) fn encode_flat_list<'a>(items: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut payload = Vec::new();
    for item in items {
        encode_bytes(item, &mut payload);
    }
    let mut out = Vec::with_capacity(payload.len() + 4);
    encode_header(0xc0, payload.len(), &mut out);
    out.extend_from_slice(&payload);
    out
}

fn encode_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    if let [single] = bytes
        && *single < 0x80
    {
        out.push(*single);
        return;
    }
    encode_header(0x80, bytes.len(), out);
    out.extend_from_slice(bytes);
}

fn encode_header(base: u8, len: usize, out: &mut Vec<u8>) {
    if len < 56 {
        out.push(base + u8::try_from(len).expect("below 56"));
        return;
    }
    let big_endian = len.to_be_bytes();
    let significant = big_endian.iter().position(|byte| *byte != 0).unwrap_or(big_endian.len());
    let length_bytes = &big_endian[significant..];
    out.push(base + 55 + u8::try_from(length_bytes.len()).expect("at most 8"));
    out.extend_from_slice(length_bytes);
}

/// Reads one item: whether it is a list, its payload, and what follows.
fn split_item(bytes: &[u8]) -> Result<(bool, &[u8], &[u8]), RlpError> {
    let (&first, rest) = bytes.split_first().ok_or(RlpError::Truncated)?;
    let (is_list, short) = match first {
        0x00..=0x7f => return Ok((false, &bytes[..1], rest)),
        0x80..=0xbf => (false, first - 0x80),
        0xc0..=0xff => (true, first - 0xc0),
    };
    let (len, rest) = if short < 56 { (usize::from(short), rest) } else { long_length(short - 55, rest)? };
    if rest.len() < len {
        return Err(RlpError::Truncated);
    }
    let (payload, after) = rest.split_at(len);
    if let ([single], false) = (payload, is_list)
        && *single < 0x80
    {
        return Err(RlpError::NotCanonical);
    }
    Ok((is_list, payload, after))
}

/// Reads a length of `count` big-endian bytes.
fn long_length(count: u8, bytes: &[u8]) -> Result<(usize, &[u8]), RlpError> {
    let count = usize::from(count);
    if bytes.len() < count {
        return Err(RlpError::Truncated);
    }
    let (digits, rest) = bytes.split_at(count);
    if digits.first() == Some(&0) {
        return Err(RlpError::NotCanonical);
    }
    let mut len = 0_usize;
    for digit in digits {
        len = len
            .checked_mul(256)
            .and_then(|len| len.checked_add(usize::from(*digit)))
            .ok_or(RlpError::Truncated)?;
    }
    if len < 56 {
        return Err(RlpError::NotCanonical);
    }
    Ok((len, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(items: &[&[u8]], encoded: &str) {
        let bytes = encode_flat_list(items.iter().copied());
        assert_eq!(hex::encode(&bytes), encoded);
        assert_eq!(decode_flat_list(&bytes).unwrap(), items);
    }

    #[test]
    fn flat_lists_round_trip() {
        check(&[], "c0");
        check(&[b""], "c180");
        check(&[b"\x05"], "c105");
        check(&[b"\x80"], "c28180");
        check(&[b"cat", b"dog"], "c88363617483646f67");
        let long = [7_u8; 56];
        check(&[&long], &format!("f83ab838{}", hex::encode(long)));
    }

    #[test]
    fn other_encodings_are_refused() {
        let cases: [(&str, RlpError); 8] = [
            ("", RlpError::Truncated),
            ("83636174", RlpError::NotAList),
            ("c1", RlpError::Truncated),
            ("c00000", RlpError::TrailingBytes),
            ("c1c0", RlpError::NestedList),
            ("c28105", RlpError::NotCanonical),
            ("f80105", RlpError::NotCanonical),
            ("ffffffffffffffffff", RlpError::Truncated),
        ];
        for (input, expected) in cases {
            assert_eq!(decode_flat_list(&hex::decode(input).unwrap()), Err(expected), "{input}");
        }
    }
}
