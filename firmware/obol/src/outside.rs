//! The parsers of outside bytes that nobody but this crate calls, as plain functions on bytes: the way in for fuzzing.
//!
//! Not an interface: nothing that runs on the box calls it.

pub use crate::dkg::profile::major_minor;

/// The canonical encoding of a priority result, or nothing when it is malformed.
pub fn priority_result(raw: &[u8]) -> Option<Vec<u8>> {
    crate::canonical::priority_result(raw).ok()
}

/// What the author of a priority message signed, or nothing when it is malformed.
pub fn signed_part(raw: &[u8]) -> Option<Vec<u8>> {
    crate::canonical::signed_part(raw).ok()
}

/// Whose vote a vote's bytes claim to be, and the root that its signature must be of.
///
/// With it a damaged vote can be signed anew, so that what comes after the check of signatures is reached too.
pub fn vote_root(raw: &[u8]) -> Option<(i64, [u8; 32])> {
    use prost::Message as _;
    let mut message = crate::wire::QbftMsg::decode(raw).ok()?;
    message.signature.clear();
    let mut unsigned = message.encode_to_vec();
    unsigned.extend(crate::scan::unknown(raw, &crate::consensus::VOTE_FIELDS).ok()?);
    Some((message.peer_idx, crate::root::bytes_root(&unsigned)))
}

/// A message as it travels on a stream.
#[cfg(feature = "host")]
pub fn frame(message: &[u8]) -> Vec<u8> {
    crate::frame::frame(message)
}

/// Reads one message from a stream that ends after `bytes`; also how many bytes were set aside for it.
#[cfg(feature = "host")]
pub fn read_frame(bytes: &[u8], max: usize) -> (Option<Vec<u8>>, usize) {
    let mut reserved = 0_usize;
    let read =
        futures::executor::block_on(crate::frame::read(&mut futures::io::Cursor::new(bytes), max, |step| {
            reserved = reserved.saturating_add(step);
            true
        }));
    (read.ok(), reserved)
}

/// What is read of a stream whose beginning is looked through for the name without a slash, `step` bytes at a time.
#[cfg(feature = "host")]
pub fn translated(bytes: &[u8], step: usize) -> Vec<u8> {
    crate::host::translated(bytes, step)
}
