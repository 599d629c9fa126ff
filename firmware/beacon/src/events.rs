//! What a beacon node reports by itself, so that we need not ask.

use std::time::Duration;

use chain::{Epoch, Root, Slot};
use serde::Deserialize;
use tokio::sync::mpsc;

use crate::error::{Cause, RequestError};
use crate::http::Endpoint;
use crate::sse::{Parser, RawEvent};

/// Only topics that every client knows: one unknown topic makes Prysm refuse the whole stream.
const PATH: &str = "/eth/v1/events?topics=head,block,chain_reorg";
const DOING: &str = "listening to events";
/// First and longest wait before connecting again.
const BACKOFF_MS: (u64, u64) = (250, 10_000);
/// A stream that is silent this long is opened again; a chain without blocks is the only innocent cause.
const SILENCE: Duration = Duration::from_secs(60);

/// Something that happened on the chain, as one endpoint tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChainEvent {
    /// The node has a new head.
    Head {
        /// Slot of the head block.
        slot: Slot,
        /// Root of the head block.
        block: Root,
        /// The head is not verified by the execution client yet.
        optimistic: bool,
        /// Changes exactly when the attester duties of the head's epoch change.
        current_dependent_root: Root,
        /// The same for the epoch before; it decides the attester duties of the head's epoch.
        previous_dependent_root: Root,
    },
    /// The node has imported a block, which need not be the head.
    Block {
        /// Slot of the block.
        slot: Slot,
        /// Root of the block.
        block: Root,
    },
    /// The node has changed to another branch.
    Reorg {
        /// Slot of the new head.
        slot: Slot,
        /// How many slots back the branches part.
        depth: u64,
        /// Epoch of the new head.
        epoch: Epoch,
    },
    /// The stream is open.
    StreamOpen {
        /// Which endpoint.
        endpoint: String,
    },
    /// The stream broke; another attempt follows by itself.
    StreamLost(RequestError),
}

/// Follows one endpoint until the receiver is dropped. Never ends by itself.
pub(crate) async fn follow(endpoint: Endpoint, limit_ms: u64, to: mpsc::Sender<ChainEvent>) {
    let mut wait_ms = BACKOFF_MS.0;
    while !to.is_closed() {
        let error = match endpoint.open_stream(DOING, PATH, limit_ms).await {
            Ok(response) => {
                wait_ms = BACKOFF_MS.0;
                if to.send(ChainEvent::StreamOpen { endpoint: endpoint.name().to_owned() }).await.is_err() {
                    return;
                }
                match read(&endpoint, response, &to).await {
                    Some(error) => error,
                    None => return,
                }
            }
            Err(error) => error,
        };
        if to.send(ChainEvent::StreamLost(error)).await.is_err() {
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(Duration::from_millis(wait_ms)) => {}
            () = to.closed() => return,
        }
        wait_ms = (wait_ms * 2).min(BACKOFF_MS.1);
    }
}

/// Reads until the stream breaks (the error) or nobody listens any more (`None`).
async fn read(
    endpoint: &Endpoint,
    mut response: reqwest::Response,
    to: &mpsc::Sender<ChainEvent>,
) -> Option<RequestError> {
    let mut parser = Parser::default();
    let mut raw = Vec::new();
    loop {
        let chunk = tokio::select! {
            chunk = tokio::time::timeout(SILENCE, response.chunk()) => chunk,
            () = to.closed() => return None,
        };
        let lost = |text: &str| Some(endpoint.fail(DOING, Cause::Unreachable(text.to_owned())));
        match chunk {
            Err(_) => return lost("the stream fell silent"),
            Ok(Err(_)) => return lost("the stream broke"),
            Ok(Ok(None)) => return lost("the node closed the stream"),
            Ok(Ok(Some(bytes))) => {
                if parser.feed(&bytes, &mut raw).is_err() {
                    return Some(endpoint.fail(DOING, Cause::Unreadable("an event is too long".to_owned())));
                }
            }
        }
        for event in raw.drain(..).filter_map(|event| parse(&event)) {
            if to.send(event).await.is_err() {
                return None;
            }
        }
    }
}

#[derive(Deserialize)]
struct HeadWire {
    slot: Slot,
    block: Root,
    #[serde(default)]
    execution_optimistic: bool,
    current_duty_dependent_root: Root,
    previous_duty_dependent_root: Root,
}

#[derive(Deserialize)]
struct BlockWire {
    slot: Slot,
    block: Root,
}

#[derive(Deserialize)]
struct ReorgWire {
    slot: Slot,
    depth: chain::Slot, // A decimal string like every number; only the digits matter.
    epoch: Epoch,
}

/// `None` for anything we do not know or cannot read: events are hints, the clock drives duties without them.
pub(crate) fn parse(event: &RawEvent) -> Option<ChainEvent> {
    let data = event.data.as_str();
    match event.topic.as_str() {
        "head" => serde_json::from_str::<HeadWire>(data).ok().map(|head| ChainEvent::Head {
            slot: head.slot,
            block: head.block,
            optimistic: head.execution_optimistic,
            current_dependent_root: head.current_duty_dependent_root,
            previous_dependent_root: head.previous_duty_dependent_root,
        }),
        "block" => serde_json::from_str::<BlockWire>(data)
            .ok()
            .map(|block| ChainEvent::Block { slot: block.slot, block: block.block }),
        "chain_reorg" => serde_json::from_str::<ReorgWire>(data).ok().map(|reorg| ChainEvent::Reorg {
            slot: reorg.slot,
            depth: reorg.depth.0,
            epoch: reorg.epoch,
        }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_events_are_read_and_others_ignored() {
        let root = format!("0x{}", "ab".repeat(32));
        let raw = |topic: &str, data: String| RawEvent { topic: topic.to_owned(), data };
        let head = format!(
            r#"{{"slot":"10","block":"{root}","state":"{root}","epoch_transition":false,"execution_optimistic":false,
               "current_duty_dependent_root":"{root}","previous_duty_dependent_root":"{root}"}}"#
        );
        assert!(matches!(
            parse(&raw("head", head)),
            Some(ChainEvent::Head { slot: Slot(10), optimistic: false, .. })
        ));
        let block = format!(r#"{{"slot":"11","block":"{root}","execution_optimistic":false}}"#);
        assert!(matches!(parse(&raw("block", block)), Some(ChainEvent::Block { slot: Slot(11), .. })));
        let reorg = format!(
            r#"{{"slot":"200","depth":"50","old_head_block":"{root}","new_head_block":"{root}","old_head_state":"{root}","new_head_state":"{root}","epoch":"2","execution_optimistic":false}}"#
        );
        let expected = ChainEvent::Reorg { slot: Slot(200), depth: 50, epoch: Epoch(2) };
        assert_eq!(parse(&raw("chain_reorg", reorg)), Some(expected));
        assert_eq!(parse(&raw("payload_attributes", "{}".to_owned())), None);
        assert_eq!(parse(&raw("head", "{}".to_owned())), None);
    }
}
