//! The one encoding of a priority result that all members hash, whatever fields a newer release adds.
//!
//! The reference decodes a value and encodes it again: known fields in the order of their numbers, then, message by
//! message, the fields it does not know as they stood. A decoder that forgets unknown fields would arrive at another hash.

use prost::Message;
use prost::encoding;

use crate::scan::{Malformed, next_field, unknown};
use crate::wire::{Any, Duty, PriorityMsg, PriorityScoredResult};

/// The encoding of a `PriorityResult` that is hashed.
pub(crate) fn priority_result(raw: &[u8]) -> Result<Vec<u8>, Malformed> {
    let mut out = Vec::with_capacity(raw.len());
    each(raw, 1, &mut out, |raw| priority_msg(raw, Signature::Kept))?;
    each(raw, 2, &mut out, topic_result)?;
    rest(raw, &[1, 2], out)
}

/// The encoding of a `PriorityMsg` that its author signs: all but the signature.
pub(crate) fn signed_part(raw: &[u8]) -> Result<Vec<u8>, Malformed> {
    priority_msg(raw, Signature::LeftOut)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Signature {
    Kept,
    LeftOut,
}

fn priority_msg(raw: &[u8], signature: Signature) -> Result<Vec<u8>, Malformed> {
    // The plain fields as the decoder sees them: of several the last counts.
    let decoded = decode::<PriorityMsg>(raw)?;
    let mut out = Vec::with_capacity(raw.len());
    single(raw, 1, &mut out, plain::<Duty>)?;
    each(raw, 2, &mut out, topic_proposal)?;
    if !decoded.peer_id.is_empty() {
        encoding::string::encode(3, &decoded.peer_id, &mut out);
    }
    if signature == Signature::Kept && !decoded.signature.is_empty() {
        encoding::bytes::encode(4, &decoded.signature, &mut out);
    }
    rest(raw, &[1, 2, 3, 4], out)
}

fn topic_proposal(raw: &[u8]) -> Result<Vec<u8>, Malformed> {
    let mut out = Vec::with_capacity(raw.len());
    single(raw, 1, &mut out, plain::<Any>)?;
    each(raw, 2, &mut out, plain::<Any>)?;
    rest(raw, &[1, 2], out)
}

fn topic_result(raw: &[u8]) -> Result<Vec<u8>, Malformed> {
    let mut out = Vec::with_capacity(raw.len());
    single(raw, 1, &mut out, plain::<Any>)?;
    each(raw, 2, &mut out, scored_result)?;
    rest(raw, &[1, 2], out)
}

fn scored_result(raw: &[u8]) -> Result<Vec<u8>, Malformed> {
    let decoded = decode::<PriorityScoredResult>(raw)?;
    let mut out = Vec::with_capacity(raw.len());
    single(raw, 1, &mut out, plain::<Any>)?;
    if decoded.score != 0 {
        encoding::int64::encode(2, &decoded.score, &mut out);
    }
    rest(raw, &[1, 2], out)
}

/// A message of two plain fields, 1 and 2.
fn plain<M: Message + Default>(raw: &[u8]) -> Result<Vec<u8>, Malformed> {
    rest(raw, &[1, 2], decode::<M>(raw)?.encode_to_vec())
}

fn decode<M: Message + Default>(raw: &[u8]) -> Result<M, Malformed> {
    M::decode(raw).map_err(|_| Malformed)
}

/// Every occurrence of a repeated message field.
fn each(
    raw: &[u8],
    tag: u32,
    out: &mut Vec<u8>,
    inner: impl Fn(&[u8]) -> Result<Vec<u8>, Malformed>,
) -> Result<(), Malformed> {
    let mut fields = raw;
    while let Some(field) = next_field(&mut fields)? {
        if field.tag == tag {
            encoding::bytes::encode(tag, &inner(field.contents.ok_or(Malformed)?)?, out);
        }
    }
    Ok(())
}

/// A single message field: several occurrences are one message in pieces.
fn single(
    raw: &[u8],
    tag: u32,
    out: &mut Vec<u8>,
    inner: impl Fn(&[u8]) -> Result<Vec<u8>, Malformed>,
) -> Result<(), Malformed> {
    let mut pieces: Option<Vec<u8>> = None;
    let mut fields = raw;
    while let Some(field) = next_field(&mut fields)? {
        if field.tag == tag {
            pieces.get_or_insert_default().extend_from_slice(field.contents.ok_or(Malformed)?);
        }
    }
    if let Some(whole) = pieces {
        encoding::bytes::encode(tag, &inner(&whole)?, out);
    }
    Ok(())
}

fn rest(raw: &[u8], known: &[u32], mut out: Vec<u8>) -> Result<Vec<u8>, Malformed> {
    out.extend(unknown(raw, known)?);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::{PriorityResult, PriorityTopicProposal, PriorityTopicResult, StringValue};

    /// Field 31, a text.
    const NEW_FIELD: &[u8] = &[0xfa, 0x01, 0x02, b'h', b'i'];

    fn message() -> PriorityMsg {
        PriorityMsg {
            duty: Some(Duty { slot: 31, r#type: 13 }),
            topics: vec![PriorityTopicProposal {
                topic: Some(StringValue::any("version")),
                priorities: vec![StringValue::any("v1.11"), StringValue::any("v1.10")],
            }],
            peer_id: "somebody".to_owned(),
            signature: vec![1, 2, 3],
        }
    }

    fn result() -> PriorityResult {
        let scored = PriorityScoredResult { priority: Some(StringValue::any("v1.10")), score: 3999 };
        PriorityResult {
            msgs: vec![message(), message()],
            topics: vec![PriorityTopicResult {
                topic: Some(StringValue::any("version")),
                priorities: vec![scored],
            }],
        }
    }

    #[test]
    fn what_we_know_in_full_is_encoded_as_it_stood() {
        let raw = result().encode_to_vec();
        assert_eq!(priority_result(&raw).unwrap(), raw);
        let unsigned = PriorityMsg { signature: Vec::new(), ..message() }.encode_to_vec();
        assert_eq!(signed_part(&message().encode_to_vec()).unwrap(), unsigned);
    }

    #[test]
    fn fields_of_newer_releases_stay_at_the_end_of_their_message() {
        // A new field in the message, in its duty and in the result, in front of the known ones.
        let mut duty = NEW_FIELD.to_vec();
        duty.extend(Duty { slot: 31, r#type: 13 }.encode_to_vec());
        let mut inner = NEW_FIELD.to_vec();
        inner.extend(PriorityMsg { duty: None, ..message() }.encode_to_vec());
        encoding::bytes::encode(1, &duty, &mut inner);
        let mut raw = NEW_FIELD.to_vec();
        encoding::bytes::encode(1, &inner, &mut raw);

        let mut duty = Duty { slot: 31, r#type: 13 }.encode_to_vec();
        duty.extend(NEW_FIELD);
        let mut inner = Vec::new();
        encoding::bytes::encode(1, &duty, &mut inner);
        inner.extend(PriorityMsg { duty: None, ..message() }.encode_to_vec());
        inner.extend(NEW_FIELD);
        let mut expected = Vec::new();
        encoding::bytes::encode(1, &inner, &mut expected);
        expected.extend(NEW_FIELD);
        assert_eq!(priority_result(&raw).unwrap(), expected);
        assert_eq!(priority_result(&expected).unwrap(), expected);
    }

    proptest! {
        #[test]
        fn any_bytes_are_encoded_or_refused_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = signed_part(&bytes);
            if let Ok(once) = priority_result(&bytes) {
                prop_assert_eq!(priority_result(&once).unwrap(), once);
            }
        }
    }
}
