//! The long-lived streams of the sync protocol (obol spec 11.3): one in each direction, with a length of its own kind.

use std::sync::Arc;
use std::time::Duration;

use futures::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use libp2p::swarm::Stream;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio::time::timeout;

use super::peer::{Counters, Peer};
use super::streams::Open;
use super::{HostEvent, Inbound, RequestError, Responder, SEND_DEADLINE, outgoing};
use crate::dkg::sync::{PREFIX_BYTES, frame, frame_length};
use crate::protocol::Protocol;

/// A member that says nothing for this long has its stream closed; it sends ten messages a second.
const SILENCE: Duration = Duration::from_secs(15);

/// Our stream to one member.
#[derive(Debug)]
pub struct SyncStream(Stream);

impl SyncStream {
    pub(super) async fn open(peer: &Peer, opens: &mpsc::Sender<Open>) -> Result<Self, RequestError> {
        let opened = timeout(SEND_DEADLINE, outgoing::open(peer, opens, Protocol::DkgSync)).await;
        opened.unwrap_or(Err(RequestError::TimedOut)).map(Self)
    }

    /// Sends a message, in one piece, and waits for the answer.
    pub async fn exchange(&mut self, message: &[u8]) -> Result<Vec<u8>, RequestError> {
        let exchange = async {
            self.0.write_all(&frame(message)).await.map_err(|_| RequestError::Reset)?;
            self.0.flush().await.map_err(|_| RequestError::Reset)?;
            read(&mut self.0).await.ok_or(RequestError::Reset)
        };
        timeout(SEND_DEADLINE, exchange).await.unwrap_or(Err(RequestError::TimedOut))
    }
}

/// Serves a member's stream until it falls silent or the daemon ends it by not answering.
pub(super) async fn serve(
    peer: Arc<Peer>,
    mut stream: Stream,
    _place: OwnedSemaphorePermit,
    events: mpsc::Sender<HostEvent>,
) {
    while let Ok(Some(bytes)) = timeout(SILENCE, read(&mut stream)).await {
        Counters::add(&peer.counters.received);
        let (sender, answered) = oneshot::channel();
        let message = Inbound {
            peer: peer.id,
            protocol: Protocol::DkgSync,
            bytes,
            responder: Some(Responder(sender)),
            _permit: None,
        };
        if events.send(HostEvent::Inbound(message)).await.is_err() {
            return;
        }
        let Ok(answer) = answered.await else { break };
        let write = async {
            stream.write_all(&frame(&answer)).await?;
            stream.flush().await
        };
        if !matches!(timeout(SEND_DEADLINE, write).await, Ok(Ok(()))) {
            return;
        }
    }
    let _ = stream.close().await;
}

/// One message; none when the stream ended or the length is no length.
async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Option<Vec<u8>> {
    let mut prefix = [0; PREFIX_BYTES];
    stream.read_exact(&mut prefix).await.ok()?;
    let mut message = vec![0; frame_length(prefix)?];
    stream.read_exact(&mut message).await.ok()?;
    Some(message)
}
