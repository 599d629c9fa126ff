//! What can go wrong between us and a beacon node, and whose fault it is.

use thiserror::Error;

/// One request to one endpoint that did not give a usable answer.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("beacon node {endpoint}, {doing}: {cause}")]
pub struct RequestError {
    /// The endpoint by scheme, host, port and a hint of its path.
    pub endpoint: String,
    /// What was being asked, in words for the owner.
    pub doing: &'static str,
    /// Why there is no answer.
    pub cause: Cause,
}

/// Why a request failed. Each variant leads the caller somewhere else.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Cause {
    /// No connection, or it broke. The node is down or the address is wrong.
    #[error("no connection ({0})")]
    Unreachable(String),
    /// The node accepted the request and did not answer in time.
    #[error("no answer within {limit_ms} ms")]
    TimedOut {
        /// The limit that passed.
        limit_ms: u64,
    },
    /// The node's current slot is not ours: one of the two clocks is early, or the slot has passed.
    #[error("the node is not in this slot: {0}")]
    NotCurrentSlot(String),
    /// The node says that it is still syncing.
    #[error("the node is syncing ({0})")]
    Syncing(String),
    /// The node refused. The message is the node's own, cut to a sane length.
    #[error("refused with status {status}: {message}")]
    Refused {
        /// HTTP status code.
        status: u16,
        /// The node's words.
        message: String,
        /// For a refused list: which items, by position, and why. Empty when the node did not say.
        items: Vec<(usize, String)>,
    },
    /// The answer is larger than anything this request can need.
    #[error("the answer is larger than {limit} bytes")]
    TooLarge {
        /// The limit in bytes.
        limit: usize,
    },
    /// The answer does not have the form that the beacon API prescribes.
    #[error("the answer cannot be read: {0}")]
    Unreadable(String),
    /// The answer has the right form, but is not about what was asked.
    #[error("the answer does not fit the question: {0}")]
    Unfitting(String),
    /// A fallback that has not shown just now that it is on our chain and follows it. Nothing was asked of it, so this says nothing
    /// about the question.
    #[error("it cannot be used now: {0}")]
    NotUsable(String),
}

impl Cause {
    /// Whether the same request may succeed a moment later (obol.md 7.7).
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Unreachable(_)
            | Self::TimedOut { .. }
            | Self::NotCurrentSlot(_)
            | Self::Syncing(_)
            | Self::NotUsable(_) => true,
            Self::Refused { status, .. } => *status >= 500 || *status == 429,
            Self::TooLarge { .. } | Self::Unreadable(_) | Self::Unfitting(_) => false,
        }
    }

    /// Whether the node did its part: another one would most likely say the same, so no fallback is asked. What a proxy says
    /// before a dead node is no answer of the node.
    pub(crate) fn is_an_answer(&self) -> bool {
        match self {
            Self::Refused { status, .. } => !is_of_a_proxy(*status),
            Self::NotCurrentSlot(_) => true,
            Self::Unreachable(_)
            | Self::TimedOut { .. }
            | Self::Syncing(_)
            | Self::TooLarge { .. }
            | Self::Unreadable(_)
            | Self::Unfitting(_)
            | Self::NotUsable(_) => false,
        }
    }
}

/// 502, 503 and 504: the node itself is away or not ready.
pub(crate) fn is_of_a_proxy(status: u16) -> bool {
    (502..=504).contains(&status)
}

/// A request that no endpoint could answer.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum BeaconError {
    /// No endpoint is on our chain and synced, so none was asked.
    #[error("no beacon node is ready for {doing}: {states}")]
    NoneReady {
        /// What was being asked.
        doing: &'static str,
        /// The state of every endpoint, in words.
        states: String,
    },
    /// Every endpoint that was asked failed; the last failure is kept.
    #[error("{last}")]
    AllFailed {
        /// The failure of the endpoint that failed last.
        #[source]
        last: RequestError,
        /// How many endpoints were asked.
        asked: usize,
    },
}

impl BeaconError {
    /// Whether the same request may succeed a moment later.
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::NoneReady { .. } => true,
            Self::AllFailed { last, .. } => last.cause.is_temporary(),
        }
    }
}

/// An endpoint in the configuration that cannot be used at all.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ConfigError {
    /// There is nothing to ask.
    #[error("no beacon node is configured: name at least one, such as http://127.0.0.1:5052")]
    NoEndpoint,
    /// More endpoints than we are willing to watch.
    #[error("{0} beacon nodes are configured, at most {1} are supported: remove some")]
    TooMany(usize, usize),
    /// Not a URL that a request can be sent to.
    #[error("beacon node address {0:?} is not usable: {1}; write it like http://127.0.0.1:5052")]
    BadUrl(String, String),
    /// The HTTP client could not be set up: our fault or the system's.
    #[error("the HTTP client could not be set up: {0}")]
    Client(String),
}
