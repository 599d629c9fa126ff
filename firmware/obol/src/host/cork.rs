//! Several frames in one packet.
//!
//! The yamux library flushes after each of its frames, and a message is three of them: its protocol's name, itself, the end of
//! its stream. Each flush would be an encrypted packet and a call to the kernel of its own, at the other end too. But the library
//! ends every round of its work by looking for what has arrived; so what it writes is held back until that look finds nothing,
//! and then goes out at once. Nothing waits for a timer.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures::{AsyncRead, AsyncWrite};

/// Looks that find something before what is held back goes out anyway: a member that sends without end must not make us silent.
const MAX_LOOKS: u32 = 64;

/// A connection whose flushes wait for the end of the round.
#[derive(Debug)]
pub(super) struct Cork<C> {
    io: C,
    /// Something was written and not flushed yet.
    held: bool,
    /// Looks since then.
    looks: u32,
}

impl<C> Cork<C> {
    pub(super) fn new(io: C) -> Self {
        Self { io, held: false, looks: 0 }
    }
}

impl<C: AsyncWrite + Unpin> Cork<C> {
    /// Sends what is held back. When it does not go yet, the writer is woken, and looks again.
    fn poll_release(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.held {
            ready!(Pin::new(&mut self.io).poll_flush(cx))?;
            (self.held, self.looks) = (false, 0);
        }
        Poll::Ready(Ok(()))
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin> AsyncRead for Cork<C> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let read = Pin::new(&mut self.io).poll_read(cx, buffer);
        self.looks = self.looks.saturating_add(u32::from(self.held));
        if (read.is_pending() || self.looks >= MAX_LOOKS)
            && let Poll::Ready(Err(error)) = self.poll_release(cx)
            && read.is_pending()
        {
            return Poll::Ready(Err(error));
        }
        read
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Cork<C> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.io).poll_write(cx, buffer))?;
        self.held = true;
        Poll::Ready(Ok(written))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(())) // The look that follows does it.
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_release(cx))?;
        Pin::new(&mut self.io).poll_close(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use futures::task::noop_waker_ref;

    use super::*;

    /// Says what was done to it.
    #[derive(Default)]
    struct Wire {
        arriving: VecDeque<u8>,
        endless: bool,
        full: bool,
        written: Vec<u8>,
        /// How much was written at each flush.
        flushed: Vec<usize>,
    }

    impl AsyncRead for Wire {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            to: &mut [u8],
        ) -> Poll<io::Result<usize>> {
            let next = if self.endless { Some(7) } else { self.arriving.pop_front() };
            next.map_or(Poll::Pending, |byte| {
                to[0] = byte;
                Poll::Ready(Ok(1))
            })
        }
    }

    impl AsyncWrite for Wire {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
            self.written.extend(from);
            Poll::Ready(Ok(from.len()))
        }

        fn poll_flush(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            if self.full {
                return Poll::Pending;
            }
            let all = self.written.len();
            self.flushed.push(all);
            Poll::Ready(Ok(()))
        }

        fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    fn cork(wire: Wire) -> (Cork<Wire>, Context<'static>) {
        (Cork::new(wire), Context::from_waker(noop_waker_ref()))
    }

    fn say(cork: &mut Cork<Wire>, cx: &mut Context<'_>, what: &[u8]) {
        assert!(Pin::new(&mut *cork).poll_write(cx, what).is_ready());
        assert!(Pin::new(&mut *cork).poll_flush(cx).is_ready());
    }

    fn look(cork: &mut Cork<Wire>, cx: &mut Context<'_>) -> bool {
        Pin::new(cork).poll_read(cx, &mut [0; 4]).is_ready()
    }

    #[test]
    fn what_is_said_in_one_round_goes_out_together() {
        let (mut cork, mut cx) = cork(Wire { arriving: [1, 2].into(), ..Wire::default() });
        say(&mut cork, &mut cx, b"one");
        assert!(look(&mut cork, &mut cx) && look(&mut cork, &mut cx));
        say(&mut cork, &mut cx, b"two");
        assert!(cork.io.flushed.is_empty());
        assert!(!look(&mut cork, &mut cx));
        assert_eq!(cork.io.flushed, [6]);
        assert!(!look(&mut cork, &mut cx));
        assert_eq!(cork.io.flushed, [6], "nothing is held back any more");
    }

    #[test]
    fn who_sends_without_end_hears_us_all_the_same() {
        let (mut cork, mut cx) = cork(Wire { endless: true, ..Wire::default() });
        (0..MAX_LOOKS).for_each(|_| assert!(look(&mut cork, &mut cx)));
        say(&mut cork, &mut cx, b"one");
        (1..MAX_LOOKS).for_each(|_| assert!(look(&mut cork, &mut cx)));
        assert!(cork.io.flushed.is_empty(), "only looks with something held back count");
        assert!(look(&mut cork, &mut cx));
        assert_eq!(cork.io.flushed, [3]);
    }

    #[test]
    fn what_does_not_go_yet_goes_later_and_before_the_end() {
        let (mut cork, mut cx) = cork(Wire { full: true, ..Wire::default() });
        say(&mut cork, &mut cx, b"one");
        assert!(!look(&mut cork, &mut cx));
        assert!(Pin::new(&mut cork).poll_close(&mut cx).is_pending());
        cork.io.full = false;
        assert!(Pin::new(&mut cork).poll_close(&mut cx).is_ready());
        assert_eq!(cork.io.flushed, [3]);
    }
}
