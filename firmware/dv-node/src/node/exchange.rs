//! Our partial signatures on their way to the other members.

use std::time::Duration;

use chain::{SlotTiming, UnixMillis};
use duty::{Duty, Partial};
use obol::Protocol;
use obol::host::SEND_DEADLINE;

use super::Node;
use crate::obol_network::encode_partials;

/// Duties whose partial signatures are kept for members that connect late.
const SENT_KEPT: usize = 256;
/// Messages of one duty kept: one for each time that the signer signed something new.
const SENT_PER_DUTY: usize = 64;
/// No message is tried for longer than this, whatever the clock says.
const LONGEST_SENDING: Duration = Duration::from_secs(1_800);

impl Node {
    pub(super) fn send_partials(&mut self, duty: Duty, set: &[Partial]) {
        let messages = match encode_partials(duty, self.membership.share_index, set) {
            Ok(messages) => messages,
            Err(error) => {
                return tracing::error!(%duty, %error, "our own partial signatures cannot be encoded");
            }
        };
        if let Some(host) = &self.host {
            let timing = &self.running.as_ref().map(|running| running.chain.timing);
            let left = timing.map_or(SEND_DEADLINE, |timing| left_of(duty, &timing, super::wall()));
            for bytes in &messages {
                host.broadcast_within(Protocol::ParSigEx, bytes, left);
            }
        }
        if let Some(running) = &mut self.running {
            let sent = running.sent_partials.entry(duty).or_default();
            for bytes in messages {
                if sent.len() < SENT_PER_DUTY {
                    sent.push(bytes.into());
                }
            }
            if running.sent_partials.len() > SENT_KEPT {
                let (timing, now) = (running.chain.timing, super::wall());
                running.sent_partials.retain(|duty, _| !left_of(*duty, &timing, now).is_zero());
            }
            while running.sent_partials.len() > SENT_KEPT {
                running.sent_partials.pop_first();
            }
        }
    }

    /// A member that connects may have missed what we sent while it was away.
    pub(crate) fn resend_partials(&self, peer: &cluster::PeerId) {
        let (Some(host), Some(running)) = (&self.host, &self.running) else { return };
        let now = super::wall();
        for (duty, messages) in &running.sent_partials {
            let left = left_of(*duty, &running.chain.timing, now);
            for bytes in messages.iter().filter(|_| !left.is_zero()) {
                let _only_strangers_fail = host.send_within(peer, Protocol::ParSigEx, bytes, left);
            }
        }
    }
}

/// How long a duty lives from now on.
fn left_of(duty: Duty, timing: &SlotTiming, now: UnixMillis) -> Duration {
    let left = duty.deadline(timing).map_or(u64::MAX, |deadline| deadline.0.saturating_sub(now.0));
    Duration::from_millis(left).min(LONGEST_SENDING)
}
