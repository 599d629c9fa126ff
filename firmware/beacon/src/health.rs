//! What is known about one endpoint.

use std::sync::Arc;
use std::time::Instant;

use crate::chain_info::{ChainInfo, ChainMismatch};
use crate::error::{Cause, RequestError};
use crate::skew::{ClockOffset, SkewMeter};

/// Whether an endpoint can be used, and if not, why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// Not asked yet.
    Unknown,
    /// On our chain and synced.
    Ready,
    /// On our chain, but behind, or its head is not verified.
    Syncing {
        /// Slots between its head and now.
        distance: u64,
        /// What exactly is lacking, in words.
        why: &'static str,
        /// It says itself that it is syncing.
        admitted: bool,
    },
    /// It follows another chain. It is never asked for duties and never sent anything.
    WrongChain(ChainMismatch),
    /// It does not answer, or not with anything that can be used.
    Failing(RequestError),
}

impl Health {
    /// For the owner.
    pub fn describe(&self) -> String {
        match self {
            Self::Unknown => "not asked yet".to_owned(),
            Self::Ready => "ready".to_owned(),
            Self::Syncing { distance, why, .. } => format!("{why}, {distance} slots behind"),
            Self::WrongChain(mismatch) => mismatch.to_string(),
            Self::Failing(error) => error.to_string(),
        }
    }
}

/// One endpoint as shown to the owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointStatus {
    /// Scheme, host and port of the address, and a hint of its path.
    pub endpoint: String,
    /// Whether it can be used.
    pub health: Health,
    /// The software it says it is.
    pub version: Option<String>,
    /// Its clock minus ours.
    pub clock: Option<ClockOffset>,
    /// It is used only while none of the others can be.
    pub is_fallback: bool,
    /// How many peers it has, if it tells.
    pub peers: Option<u64>,
}

/// The changing part of an endpoint.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) health: Health,
    pub(crate) version: Option<String>,
    pub(crate) skew: SkewMeter,
    /// Requests that failed since the last one that did not; good endpoints are asked first.
    pub(crate) strikes: u32,
    /// It has shown the right chain since it was last out of reach for good.
    pub(crate) same_chain: bool,
    /// Examinations in a row in which nobody was there.
    pub(crate) unreachable: u32,
    /// The chain's parameters as it last told them, and when.
    pub(crate) told: Option<(Instant, Arc<ChainInfo>)>,
    /// When it last showed that it is on our chain; none when it did not, the last time it was asked.
    pub(crate) confirmed: Option<Instant>,
    /// When its last examination ended.
    pub(crate) finished: Option<Instant>,
    /// When it was last examined.
    pub(crate) examined: Option<Instant>,
    /// When it was last asked for the number of its peers, and what it said.
    pub(crate) peers: Option<(Instant, Option<u64>)>,
}

impl State {
    pub(crate) fn new() -> Self {
        Self {
            health: Health::Unknown,
            version: None,
            skew: SkewMeter::default(),
            strikes: 0,
            same_chain: false,
            unreachable: 0,
            told: None,
            confirmed: None,
            finished: None,
            examined: None,
            peers: None,
        }
    }

    pub(crate) fn succeeded(&mut self) {
        self.strikes = 0;
    }

    /// Notes a failed request. What the failure says about the endpoint itself changes its health at once.
    pub(crate) fn failed(&mut self, error: &RequestError) {
        match &error.cause {
            Cause::Unreachable(_) => {
                self.strikes = self.strikes.saturating_add(1);
                // It stays among those that may be tried as a last resort; the next examination decides.
                self.health = Health::Failing(error.clone());
            }
            Cause::Syncing(_) => {
                let why = "it says that it is syncing";
                self.health = Health::Syncing { distance: 0, why, admitted: true };
            }
            Cause::TimedOut { .. } | Cause::TooLarge { .. } | Cause::Unreadable(_) | Cause::Unfitting(_) => {
                self.strikes = self.strikes.saturating_add(1);
            }
            Cause::NotCurrentSlot(_) | Cause::Refused { .. } | Cause::NotUsable(_) => {}
        }
    }
}
