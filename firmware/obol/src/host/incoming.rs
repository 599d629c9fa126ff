//! Receiving: reads one message per accepted stream, within a deadline and within the sender's share of memory.

use std::sync::Arc;
use std::time::Duration;

use futures::AsyncWriteExt;
use libp2p::swarm::Stream;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio::time::timeout;

use super::peer::{Counters, Peer};
use super::{HostEvent, Inbound, Responder, SERVE_DEADLINE, sync_stream};
use crate::frame::{self, FrameError};
use crate::protocol::Protocol;

/// A relay sends an empty question.
const MAX_RELAY_QUESTION: usize = 1 << 10;
/// How long one relay may keep the others waiting.
const RELAY_PATIENCE: Duration = Duration::from_secs(1);

/// Answers peerinfo with what is true now.
pub(super) type AnswerInfo = Arc<dyn Fn() -> Vec<u8> + Send + Sync>;

/// Serves one protocol of one peer.
pub(super) async fn run(
    peer: Arc<Peer>,
    protocol: Protocol,
    mut accepted: mpsc::Receiver<Stream>,
    events: mpsc::Sender<HostEvent>,
    info: AnswerInfo,
) {
    while let Some(stream) = accepted.recv().await {
        let Ok(place) = Arc::clone(&peer.messages).acquire_owned().await else { return };
        if protocol == Protocol::DkgSync {
            tokio::spawn(sync_stream::serve(Arc::clone(&peer), stream, place, events.clone()));
            continue;
        }
        let (peer, events, info) = (Arc::clone(&peer), events.clone(), Arc::clone(&info));
        tokio::spawn(async move {
            let served = timeout(SERVE_DEADLINE, serve(&peer, protocol, stream, place, &events, &info)).await;
            let why = match served {
                Ok(Ok(())) => return,
                Ok(Err(error)) => error.to_string(),
                Err(_) => "not done in time".to_owned(),
            };
            Counters::add(&peer.counters.inbound_refused);
            tracing::debug!(peer = %peer.id, ?protocol, why, "inbound message refused");
        });
    }
}

async fn serve(
    peer: &Arc<Peer>,
    protocol: Protocol,
    mut stream: Stream,
    place: OwnedSemaphorePermit,
    events: &mpsc::Sender<HostEvent>,
    info: &AnswerInfo,
) -> Result<(), FrameError> {
    let mut held: Option<OwnedSemaphorePermit> = None;
    let reserve = |step: usize| {
        let permit = u32::try_from(step)
            .ok()
            .and_then(|step| Arc::clone(&peer.bytes).try_acquire_many_owned(step).ok());
        match (permit, &mut held) {
            (None, _) => return false,
            (Some(permit), Some(held)) => held.merge(permit),
            (Some(permit), none) => *none = Some(permit),
        }
        true
    };
    let bytes = frame::read(&mut stream, protocol.max_bytes(), reserve).await?;
    Counters::add(&peer.counters.received);
    if protocol == Protocol::PeerInfo {
        return answer(&mut stream, &info()).await; // The question has no content.
    }
    let (responder, answered) = if protocol.is_request() {
        let (sender, receiver) = oneshot::channel();
        (Some(Responder(sender)), Some(receiver))
    } else {
        let _ = stream.close().await; // The sender may be gone by now; its message is whole.
        (None, None)
    };
    let message = Inbound { peer: peer.id, protocol, bytes, responder, _permit: Some((place, held)) };
    if events.send(HostEvent::Inbound(message)).await.is_err() {
        return Ok(()); // The daemon is stopping.
    }
    match answered {
        None => Ok(()),
        Some(answered) => match answered.await {
            Ok(bytes) => answer(&mut stream, &bytes).await,
            Err(_) => Ok(stream.close().await?), // The daemon chose not to answer.
        },
    }
}

/// Tells relays who we are, one after the other: they count their users so, and the question has no content.
pub(super) async fn answer_relays(mut asked: mpsc::Receiver<Stream>, info: AnswerInfo) {
    while let Some(mut stream) = asked.recv().await {
        let served = async {
            frame::read(&mut stream, MAX_RELAY_QUESTION, |_| true).await?;
            answer(&mut stream, &info()).await
        };
        if !matches!(timeout(RELAY_PATIENCE, served).await, Ok(Ok(()))) {
            tracing::debug!("a relay asked who we are and did not wait for the answer");
        }
    }
}

async fn answer(stream: &mut Stream, message: &[u8]) -> Result<(), FrameError> {
    stream.write_all(&frame::frame(message)).await?;
    Ok(stream.close().await?)
}
