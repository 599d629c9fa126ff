//! Sending: one stream per message, under a deadline, with one retry when the stream was reset.

use std::sync::Arc;

use futures::{AsyncReadExt, AsyncWriteExt, TryFutureExt};
use libp2p::swarm::Stream;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::peer::{Counters, Peer, Queued};
use super::streams::{Open, OpenError};
use super::{
    MAX_RESEND_AFTER, OUTGOING_STREAMS, RESEND_AFTER, RETRY_AFTER, RequestError, SEND_DEADLINE,
    SERVE_DEADLINE,
};
use crate::frame;
use crate::protocol::Protocol;

/// Doublings after which the pause between attempts grows no more.
const MAX_DOUBLINGS: u32 = 6;

/// Sends a peer's queue, several messages at once, so that one stalled stream delays nothing but itself.
pub(super) async fn run(peer: Arc<Peer>, opens: mpsc::Sender<Open>) {
    let streams = Arc::new(Semaphore::new(OUTGOING_STREAMS));
    while let Ok(place) = Arc::clone(&streams).acquire_owned().await {
        let message = peer.outgoing.next().await;
        if message.deadline <= Instant::now() {
            Counters::add(&peer.counters.send_dropped);
            continue;
        }
        let (peer, opens) = (Arc::clone(&peer), opens.clone());
        tokio::spawn(async move {
            let sent = send(&peer, &opens, &message).await;
            drop(place);
            if !sent {
                resend_later(&peer, message).await;
            }
        });
    }
}

/// Queues a message again after a pause, when its deadline allows.
async fn resend_later(peer: &Peer, message: Queued) {
    let pause = RESEND_AFTER.saturating_mul(1 << message.resent.min(MAX_DOUBLINGS)).min(MAX_RESEND_AFTER);
    if message.deadline <= Instant::now() + pause {
        return;
    }
    let Ok(_place) = peer.resending.try_acquire() else {
        return Counters::add(&peer.counters.send_dropped);
    };
    sleep(pause).await;
    Counters::add(&peer.counters.retried);
    if peer.outgoing.push(Queued { resent: message.resent.saturating_add(1), ..message }) {
        Counters::add(&peer.counters.send_dropped);
    }
}

/// Whether it was sent, or never can be.
async fn send(peer: &Peer, opens: &mpsc::Sender<Open>, message: &Queued) -> bool {
    let attempt = || async {
        let mut stream = open(peer, opens, message.protocol).await?;
        stream.write_all(&message.frame).await.map_err(|_| RequestError::Reset)?;
        stream.close().await.map_err(|_| RequestError::Reset)?;
        linger(peer, stream);
        Ok(())
    };
    let deadline = message.deadline.min(Instant::now() + SEND_DEADLINE);
    match with_retry(peer, deadline, attempt).await {
        Ok(()) => {
            Counters::add(&peer.counters.sent);
            true
        }
        Err(error) => {
            Counters::add(&peer.counters.send_failed);
            tracing::debug!(peer = %peer.id, protocol = ?message.protocol, %error, "message not sent");
            error == RequestError::Stopped
        }
    }
}

/// Keeps our half of a stream open until the peer closes its own, so that it is not reset while the peer still handles
/// the message; some releases write an empty answer and would complain.
fn linger(peer: &Peer, mut stream: Stream) {
    if let Ok(place) = Arc::clone(&peer.lingering).try_acquire_owned() {
        tokio::spawn(async move {
            let mut ignored = [0; 16];
            let ended = async { while stream.read(&mut ignored).await.is_ok_and(|read| read > 0) {} };
            let _ = timeout(SERVE_DEADLINE, ended).await;
            drop(place);
        });
    }
}

/// Asks a peer and waits for its answer.
pub(super) async fn request(
    peer: &Peer,
    opens: &mpsc::Sender<Open>,
    protocol: Protocol,
    message: &[u8],
) -> Result<Vec<u8>, RequestError> {
    let _place = peer.requests.try_acquire().map_err(|_| RequestError::Busy)?;
    let framed = frame::frame(message);
    let attempt = || async {
        let mut stream = open(peer, opens, protocol).await?;
        stream.write_all(&framed).await.map_err(|_| RequestError::Reset)?;
        stream.close().await.map_err(|_| RequestError::Reset)?;
        frame::read(&mut stream, protocol.max_bytes(), |_| true)
            .map_err(|error| match error {
                frame::FrameError::TooLong { .. } | frame::FrameError::Prefix => RequestError::TooLong,
                frame::FrameError::Io(_) | frame::FrameError::Ended | frame::FrameError::Budget => {
                    RequestError::Reset
                }
            })
            .await
    };
    let answer = with_retry(peer, Instant::now() + SEND_DEADLINE, attempt).await;
    Counters::add(if answer.is_ok() { &peer.counters.sent } else { &peer.counters.send_failed });
    answer
}

pub(super) async fn open(
    peer: &Peer,
    opens: &mpsc::Sender<Open>,
    protocol: Protocol,
) -> Result<Stream, RequestError> {
    let (reply, opened) = oneshot::channel();
    let request = Open { peer: peer.libp2p, protocol, reply };
    opens.send(request).await.map_err(|_| RequestError::Stopped)?;
    match opened.await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(OpenError::Unsupported)) => Err(RequestError::Unsupported),
        // A request whose connection closed is dropped unanswered.
        Ok(Err(OpenError::Broken)) | Err(_) => Err(RequestError::Reset),
    }
}

/// Runs an attempt, and once more after a pause when it was reset, all under one deadline.
async fn with_retry<T, F>(
    peer: &Peer,
    deadline: Instant,
    mut attempt: impl FnMut() -> F,
) -> Result<T, RequestError>
where
    F: Future<Output = Result<T, RequestError>>,
{
    let both = async {
        match attempt().await {
            Err(RequestError::Reset) => {
                sleep(RETRY_AFTER).await;
                Counters::add(&peer.counters.retried);
                attempt().await
            }
            other => other,
        }
    };
    timeout_at(deadline, both).await.unwrap_or(Err(RequestError::TimedOut))
}
