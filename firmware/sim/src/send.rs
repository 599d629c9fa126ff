//! The network between members: what happens to a packet.

use std::rc::Rc;

use duty::{Duty, Partial, Value};
use qbft::{Member, Message};
use rand::Rng;
use rand_chacha::ChaCha8Rng;

use crate::values::Seal;
use crate::world::{Weather, World};

/// What members send each other.
#[derive(Clone, Debug)]
pub(crate) enum Packet {
    /// May be lost.
    Agreement { duty: Duty, message: Message<Seal>, values: Vec<Value> },
    /// Is retried by the sender until it arrives or expires.
    Partials { duty: Duty, set: Vec<Partial> },
}

impl Packet {
    pub(crate) fn duty(&self) -> Duty {
        match self {
            Packet::Agreement { duty, .. } | Packet::Partials { duty, .. } => *duty,
        }
    }
}

/// A packet on its way.
#[derive(Clone, Debug)]
pub(crate) struct Letter {
    pub(crate) from: Member,
    /// A crashed sender retries no more.
    pub(crate) from_life: u32,
    pub(crate) to: Member,
    pub(crate) packet: Rc<Packet>,
    pub(crate) attempt: u32,
}

/// When the copies of a letter arrive; none if it is lost.
pub(crate) fn arrivals(weather: &Weather, letter: &Letter, now_ms: u64, rng: &mut ChaCha8Rng) -> Vec<u64> {
    let calm = now_ms >= World::CALM_FROM_MS;
    if calm {
        return vec![now_ms + rng.random_range(5..=60)];
    }
    if weather.partitioned(letter.from, letter.to, now_ms) || rng.random_bool(weather.loss) {
        return Vec::new();
    }
    let copies = if rng.random_bool(weather.duplication) { 2 } else { 1 };
    (0..copies).map(|_| now_ms + rng.random_range(1..=weather.max_delay_ms)).collect()
}

/// How long a sender waits before it tries again.
pub(crate) fn retry_after_ms(attempt: u32) -> u64 {
    (0..attempt.min(9)).fold(250, |pause: u64, _| pause * 8 / 5).min(12_000)
}
