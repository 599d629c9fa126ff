//! One message on a stream: its length as unsigned varint, then its bytes.

use std::io;

use futures::{AsyncRead, AsyncReadExt};

/// Most bytes asked from the stream, and so allocated, ahead of what has arrived.
const STEP: usize = 16 << 10;
/// Bytes a varint length may take: 5 hold any length we allow.
const MAX_PREFIX: usize = 5;

/// Why no message could be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FrameError {
    /// The stream broke.
    #[error("the stream broke")]
    Io(#[from] io::Error),
    /// The stream ended before the message did.
    #[error("the stream ended within a message")]
    Ended,
    /// The length prefix is no varint.
    #[error("the length prefix is malformed")]
    Prefix,
    /// The announced length exceeds what the protocol allows.
    #[error("a message of {announced} bytes was announced, {max} are allowed")]
    TooLong {
        /// Announced.
        announced: u64,
        /// Allowed.
        max: usize,
    },
    /// The peer has too many bytes under way already.
    #[error("the peer has too many bytes under way")]
    Budget,
}

/// A message with its length prefix.
pub(crate) fn frame(message: &[u8]) -> Vec<u8> {
    let mut buffer = unsigned_varint::encode::usize_buffer();
    let prefix = unsigned_varint::encode::usize(message.len(), &mut buffer);
    let mut out = Vec::with_capacity(prefix.len() + message.len());
    out.extend_from_slice(prefix);
    out.extend_from_slice(message);
    out
}

/// Reads one message. Memory grows with what has arrived, never with what was announced, and `reserve` is asked before
/// every growth.
pub(crate) async fn read(
    stream: &mut (impl AsyncRead + Unpin),
    max: usize,
    mut reserve: impl FnMut(usize) -> bool,
) -> Result<Vec<u8>, FrameError> {
    let announced = read_prefix(stream).await?;
    let length = usize::try_from(announced).ok().filter(|length| *length <= max);
    let length = length.ok_or(FrameError::TooLong { announced, max })?;
    let mut message = Vec::new();
    while message.len() < length {
        let filled = message.len();
        // Doubling keeps copying linear; a peer must have sent half of what we hold for it.
        let step = (length - filled).min(STEP.max(filled));
        if !reserve(step) {
            return Err(FrameError::Budget);
        }
        message.reserve_exact(step);
        message.resize(filled + step, 0);
        stream.read_exact(&mut message[filled..]).await.map_err(|error| {
            if error.kind() == io::ErrorKind::UnexpectedEof {
                FrameError::Ended
            } else {
                FrameError::Io(error)
            }
        })?;
    }
    Ok(message)
}

async fn read_prefix(stream: &mut (impl AsyncRead + Unpin)) -> Result<u64, FrameError> {
    let mut value = 0;
    for index in 0..MAX_PREFIX {
        let mut byte = [0];
        if stream.read(&mut byte).await? == 0 {
            return Err(FrameError::Ended);
        }
        value |= u64::from(byte[0] & 0x7f) << (7 * index);
        if byte[0] & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(FrameError::Prefix)
}

#[cfg(test)]
mod tests {
    use futures::executor::block_on;
    use proptest::prelude::*;

    use super::*;

    fn read_all(bytes: &[u8], max: usize) -> (Result<Vec<u8>, FrameError>, usize) {
        let mut reserved = 0;
        let result = block_on(read(&mut futures::io::Cursor::new(bytes), max, |step| {
            reserved += step;
            true
        }));
        (result, reserved)
    }

    #[test]
    fn a_frame_reads_back_at_every_prefix_width() {
        for length in [0, 1, 127, 128, 16383, 16384, 70_000] {
            let message = vec![0xa5; length];
            assert_eq!(read_all(&frame(&message), 1 << 20).0.unwrap(), message);
        }
    }

    #[test]
    fn an_announced_length_costs_nothing_until_bytes_arrive() {
        let mut bytes = frame(&vec![1; 1 << 20]);
        bytes.truncate(100);
        let (result, reserved) = read_all(&bytes, 1 << 20);
        assert!(matches!(result, Err(FrameError::Ended)));
        assert_eq!(reserved, STEP);
    }

    #[test]
    fn too_long_endless_and_empty_prefixes_are_named() {
        assert!(matches!(
            read_all(&frame(&[0; 11]), 10).0,
            Err(FrameError::TooLong { announced: 11, max: 10 })
        ));
        assert!(matches!(read_all(&[0xff; 20], 10).0, Err(FrameError::Prefix)));
        assert!(matches!(read_all(&[], 10).0, Err(FrameError::Ended)));
    }

    proptest! {
        #[test]
        fn any_bytes_read_without_panic_and_within_the_bound(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let (_, reserved) = read_all(&bytes, 1 << 20);
            prop_assert!(reserved <= STEP);
        }
    }
}
