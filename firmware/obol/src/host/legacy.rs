//! Yamux whose streams also understand the one protocol name that has no leading slash.
//!
//! Releases up to v1.10 know the priority protocol as `charon/priority/2.0.0` only. The negotiation library drops a
//! stream at such a name, so it is exchanged for an alias with a slash on its way in, and back on its way out. Only the
//! negotiation at the very start of a stream is looked at.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures::{AsyncRead, AsyncWrite, FutureExt as _, future::BoxFuture};
use libp2p::core::muxing::{StreamMuxer, StreamMuxerEvent};
use libp2p::core::upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade, UpgradeInfo};
use libp2p::yamux;

use super::cork::Cork;

/// What the negotiation library sees in place of the name without a slash.
pub(super) const ALIAS: &str = "/legacy/charon/priority/2.0.0";

/// Messages of the negotiation, with their length prefix.
const HEADER: &[u8] = b"\x13/multistream/1.0.0\n";
const NOT_AVAILABLE: &[u8] = b"\x03na\n";
/// Offered before the old name; when it is refused, the old one follows.
const PREFERRED_FRAME: &[u8] = b"\x17/charon/priority/2.0.0\n";
const LEGACY_FRAME: &[u8] = b"\x16charon/priority/2.0.0\n";
const ALIAS_FRAME: &[u8] = b"\x1e/legacy/charon/priority/2.0.0\n";
/// Bytes taken at once while negotiating.
const STEP: usize = 256;

/// Yamux with translated streams.
#[derive(Clone, Debug)]
pub(super) struct Config(pub(super) yamux::Config);

impl UpgradeInfo for Config {
    type Info = &'static str;
    type InfoIter = std::iter::Once<Self::Info>;

    fn protocol_info(&self) -> Self::InfoIter {
        self.0.protocol_info()
    }
}

impl<C> InboundConnectionUpgrade<C> for Config
where
    C: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    type Output = Muxer<yamux::Muxer<Cork<C>>>;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Self::Output>>;

    fn upgrade_inbound(self, io: C, info: Self::Info) -> Self::Future {
        self.0.upgrade_inbound(Cork::new(io), info).map(|muxer| muxer.map(Muxer)).boxed()
    }
}

impl<C> OutboundConnectionUpgrade<C> for Config
where
    C: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    type Output = Muxer<yamux::Muxer<Cork<C>>>;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Self::Output>>;

    fn upgrade_outbound(self, io: C, info: Self::Info) -> Self::Future {
        self.0.upgrade_outbound(Cork::new(io), info).map(|muxer| muxer.map(Muxer)).boxed()
    }
}

/// A muxer whose streams are translated.
#[derive(Debug)]
pub(super) struct Muxer<M>(M);

impl<M: StreamMuxer + Unpin> StreamMuxer for Muxer<M>
where
    M::Substream: Unpin,
{
    type Substream = Translated<M::Substream>;
    type Error = M::Error;

    fn poll_inbound(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Self::Substream, Self::Error>> {
        Pin::new(&mut self.0).poll_inbound(cx).map_ok(Translated::new)
    }

    fn poll_outbound(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Self::Substream, Self::Error>> {
        Pin::new(&mut self.0).poll_outbound(cx).map_ok(Translated::new)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Pin::new(&mut self.0).poll_close(cx)
    }

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<StreamMuxerEvent, Self::Error>> {
        Pin::new(&mut self.0).poll(cx)
    }
}

/// A stream with both directions translated.
#[derive(Debug)]
pub(super) struct Translated<S> {
    inner: S,
    incoming: Translator,
    outgoing: Translator,
}

impl<S> Translated<S> {
    fn new(inner: S) -> Self {
        Self {
            inner,
            incoming: Translator::new(LEGACY_FRAME, ALIAS_FRAME),
            outgoing: Translator::new(ALIAS_FRAME, LEGACY_FRAME),
        }
    }
}

/// One direction: passes negotiation messages until the first name, which it may exchange. The new name of the priority
/// protocol may be refused, so it is passed and the next one looked at as well.
#[derive(Debug)]
struct Translator {
    from: &'static [u8],
    to: &'static [u8],
    negotiating: bool,
    /// The beginning of a message that is not whole yet.
    partial: Vec<u8>,
    /// Translated bytes that wait to be taken.
    ready: Vec<u8>,
    taken: usize,
}

impl Translator {
    fn new(from: &'static [u8], to: &'static [u8]) -> Self {
        Self { from, to, negotiating: true, partial: Vec::new(), ready: Vec::new(), taken: 0 }
    }

    fn push(&mut self, bytes: &[u8]) {
        self.partial.extend_from_slice(bytes);
        while self.negotiating && !self.partial.is_empty() {
            let candidates = [HEADER, NOT_AVAILABLE, PREFERRED_FRAME, self.from];
            if let Some(whole) = candidates.into_iter().find(|candidate| self.partial.starts_with(candidate))
            {
                self.partial.drain(..whole.len());
                self.negotiating = whole != self.from;
                self.ready.extend_from_slice(if whole == self.from { self.to } else { whole });
            } else if candidates.into_iter().any(|candidate| candidate.starts_with(&self.partial)) {
                return; // The rest is still on its way.
            } else {
                self.negotiating = false; // Another protocol's name.
            }
        }
        if !self.negotiating {
            self.ready.append(&mut self.partial);
        }
    }

    /// Nothing more comes for now: what is held back goes out as it is.
    fn give_up(&mut self) {
        if !self.partial.is_empty() {
            self.negotiating = false;
            self.ready.append(&mut self.partial);
        }
    }

    fn waiting(&self) -> &[u8] {
        self.ready.get(self.taken..).unwrap_or_default()
    }

    fn take(&mut self, count: usize) {
        self.taken += count;
        if self.taken >= self.ready.len() {
            self.taken = 0;
            self.ready = Vec::new();
        }
    }

    fn is_transparent(&self) -> bool {
        !self.negotiating && self.ready.is_empty()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Translated<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        loop {
            if this.incoming.is_transparent() {
                return Pin::new(&mut this.inner).poll_read(cx, buffer);
            }
            let waiting = this.incoming.waiting();
            if !waiting.is_empty() || buffer.is_empty() {
                let count = waiting.len().min(buffer.len());
                buffer[..count].copy_from_slice(&waiting[..count]);
                this.incoming.take(count);
                return Poll::Ready(Ok(count));
            }
            let mut step = [0; STEP];
            match ready!(Pin::new(&mut this.inner).poll_read(cx, &mut step))? {
                0 => {
                    this.incoming.negotiating = false;
                    this.incoming.give_up();
                    if this.incoming.waiting().is_empty() {
                        return Poll::Ready(Ok(0));
                    }
                }
                count => this.incoming.push(&step[..count]),
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> Translated<S> {
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.outgoing.waiting().is_empty() {
            match ready!(Pin::new(&mut self.inner).poll_write(cx, self.outgoing.waiting()))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => self.outgoing.take(count),
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Translated<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        ready!(this.poll_drain(cx))?;
        if this.outgoing.is_transparent() {
            return Pin::new(&mut this.inner).poll_write(cx, buffer);
        }
        let count = buffer.len().min(STEP);
        this.outgoing.push(&buffer[..count]);
        Poll::Ready(Ok(count))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.outgoing.give_up();
        ready!(self.poll_drain(cx))?;
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.outgoing.give_up();
        ready!(self.poll_drain(cx))?;
        Pin::new(&mut self.inner).poll_close(cx)
    }
}

/// What is read through a translator from a stream of these bytes, of which at most `step` come at a time.
pub(crate) fn translated(bytes: &[u8], step: usize) -> Vec<u8> {
    use futures::AsyncReadExt as _;
    let chunks = bytes.chunks(step.max(1)).map(|chunk| Ok::<_, io::Error>(chunk.to_vec()));
    let stream = futures::TryStreamExt::into_async_read(futures::stream::iter(chunks));
    let mut out = Vec::new();
    let read = futures::executor::block_on(Translated::new(stream).read_to_end(&mut out));
    read.map_or_else(|_| Vec::new(), |_| out)
}

#[cfg(test)]
mod tests {
    use futures::executor::block_on;
    use futures::io::Cursor;
    use futures::{AsyncReadExt as _, AsyncWriteExt as _};
    use proptest::prelude::*;

    use super::*;

    /// Gives a few bytes at a time, as a network may.
    struct Slow<'a>(&'a [u8], usize);

    impl AsyncRead for Slow<'_> {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buffer: &mut [u8],
        ) -> Poll<io::Result<usize>> {
            let count = self.0.len().min(self.1).min(buffer.len());
            let (now, later) = self.0.split_at(count);
            buffer[..count].copy_from_slice(now);
            self.0 = later;
            Poll::Ready(Ok(count))
        }
    }

    fn read(bytes: &[u8], step: usize) -> Vec<u8> {
        let mut out = Vec::new();
        block_on(Translated::new(Slow(bytes, step)).read_to_end(&mut out)).unwrap();
        out
    }

    fn written(bytes: &[u8]) -> Vec<u8> {
        let mut stream = Translated::new(Cursor::new(Vec::new()));
        block_on(async {
            stream.write_all(bytes).await.unwrap();
            stream.flush().await.unwrap();
        });
        stream.inner.into_inner()
    }

    fn join(parts: &[&[u8]]) -> Vec<u8> {
        parts.concat()
    }

    #[test]
    fn the_old_name_is_exchanged_in_both_directions_however_it_is_cut() {
        let wire = join(&[HEADER, LEGACY_FRAME, b"data"]);
        let inside = join(&[HEADER, ALIAS_FRAME, b"data"]);
        for step in 1..wire.len() + 1 {
            assert_eq!(read(&wire, step), inside, "{step} bytes at a time");
        }
        assert_eq!(written(&inside), wire);
        // Our own offer: first name refused, second accepted.
        assert_eq!(
            read(&join(&[HEADER, NOT_AVAILABLE, LEGACY_FRAME]), 7),
            join(&[HEADER, NOT_AVAILABLE, ALIAS_FRAME])
        );
        assert_eq!(
            written(&join(&[HEADER, PREFERRED_FRAME, ALIAS_FRAME, b"data"])),
            join(&[HEADER, PREFERRED_FRAME, LEGACY_FRAME, b"data"])
        );
        // The first name accepted: what follows is the message.
        let accepted = join(&[HEADER, PREFERRED_FRAME, b"\x04data", LEGACY_FRAME]);
        assert_eq!((read(&accepted, 5), written(&accepted)), (accepted.clone(), accepted));
        assert_eq!(usize::from(ALIAS_FRAME[0]), ALIAS.len() + 1);
        assert_eq!(PREFERRED_FRAME[1..PREFERRED_FRAME.len() - 1], *b"/charon/priority/2.0.0");
        assert_eq!(usize::from(PREFERRED_FRAME[0]), PREFERRED_FRAME.len() - 1);
    }

    #[test]
    fn after_the_first_name_nothing_is_touched() {
        let other = join(&[HEADER, b"\x05/abc\n", LEGACY_FRAME, ALIAS_FRAME]);
        assert_eq!(read(&other, 3), other);
        assert_eq!(written(&other), other);
        let cut = &LEGACY_FRAME[..9];
        assert_eq!(read(&join(&[HEADER, cut]), 4), join(&[HEADER, cut]));
    }

    proptest! {
        #[test]
        fn other_bytes_pass_unchanged(bytes in proptest::collection::vec(any::<u8>(), 0..600), step in 1_usize..300) {
            prop_assert_eq!(&read(&bytes, step), &bytes);
            prop_assert_eq!(&written(&bytes), &bytes);
        }
    }
}
