//! A bounded reader of server-sent events.
//!
//! The beacon API's stream is lines of `event:` and `data:`, ended by an empty line. A line or an event that grows beyond
//! the bound ends the stream: no beacon node needs more, and memory is ours.

/// Largest line and largest event.
const MAX_EVENT_BYTES: usize = 64 * 1024;

/// One complete event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RawEvent {
    pub(crate) topic: String,
    pub(crate) data: String,
}

/// The stream has a line or an event beyond the bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooLong;

/// Takes bytes as they come, gives complete events.
#[derive(Debug, Default)]
pub(crate) struct Parser {
    line: Vec<u8>,
    topic: String,
    data: String,
    after_return: bool,
}

impl Parser {
    pub(crate) fn feed(&mut self, bytes: &[u8], out: &mut Vec<RawEvent>) -> Result<(), TooLong> {
        for &byte in bytes {
            // `\r\n`, `\n` and `\r` all end a line.
            let swallow = byte == b'\n' && self.after_return;
            self.after_return = byte == b'\r';
            if swallow {
                continue;
            }
            if byte == b'\n' || byte == b'\r' {
                let line = std::mem::take(&mut self.line);
                self.end_line(&String::from_utf8_lossy(&line), out)?;
            } else if self.line.len() >= MAX_EVENT_BYTES {
                return Err(TooLong);
            } else {
                self.line.push(byte);
            }
        }
        Ok(())
    }

    fn end_line(&mut self, line: &str, out: &mut Vec<RawEvent>) -> Result<(), TooLong> {
        if line.is_empty() {
            let (topic, data) = (std::mem::take(&mut self.topic), std::mem::take(&mut self.data));
            if !data.is_empty() {
                out.push(RawEvent { topic, data });
            }
            return Ok(());
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => self.topic = value.to_owned(),
            "data" => {
                if self.data.len() + value.len() > MAX_EVENT_BYTES {
                    return Err(TooLong);
                }
                if !self.data.is_empty() {
                    self.data.push('\n');
                }
                self.data.push_str(value);
            }
            _ => {} // Comments (empty field name), `id`, `retry`: nothing we need.
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(chunks: &[&[u8]]) -> Result<Vec<(String, String)>, TooLong> {
        let (mut parser, mut out) = (Parser::default(), Vec::new());
        for chunk in chunks {
            parser.feed(chunk, &mut out)?;
        }
        Ok(out.into_iter().map(|event| (event.topic, event.data)).collect())
    }

    #[test]
    fn events_are_read_however_the_bytes_are_cut() {
        let stream =
            b":\n\nevent: head\ndata: {\"slot\":\"1\"}\n\nevent:block\r\ndata:{}\r\n\r\nevent: x\n\n";
        let expected =
            vec![("head".to_owned(), "{\"slot\":\"1\"}".to_owned()), ("block".to_owned(), "{}".to_owned())];
        assert_eq!(parse(&[stream]).unwrap(), expected);
        for cut in 0..stream.len() {
            assert_eq!(parse(&[&stream[..cut], &stream[cut..]]).unwrap(), expected, "cut at {cut}");
        }
    }

    #[test]
    fn an_endless_line_or_event_ends_the_stream() {
        let long = vec![b'a'; MAX_EVENT_BYTES + 1];
        assert_eq!(parse(&[&long]), Err(TooLong));
        let line = [b"data: ".as_slice(), &vec![b'b'; MAX_EVENT_BYTES / 2], b"\n"].concat();
        assert_eq!(parse(&[&line, &line, &line]), Err(TooLong));
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2_000)) {
            let _ = parse(&[&bytes]);
        }
    }
}
