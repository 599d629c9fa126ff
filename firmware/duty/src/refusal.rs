//! Why an event was not listened to.

use qbft::Member;

use crate::{Duty, MAX_EPOCHS_AHEAD, MAX_SCHEDULED};

/// Why an event was not listened to. Nothing changed; whoever caused it is in the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A peer's clock or ours is wrong, or the peer plays.
    #[error("duty {0} lies more than {MAX_EPOCHS_AHEAD} epochs ahead; check both clocks")]
    TooFarAhead(Duty),
    /// Late by network delay, a replay, or a wrong clock.
    #[error("duty {0} has expired")]
    Expired(Duty),
    /// An answer or a message for a duty we do not know.
    #[error("duty {0} is not known here")]
    Unknown(Duty),
    /// Agreement messages for a duty that has no agreement.
    #[error("duty {0} needs no agreement")]
    NoAgreement(Duty),
    /// An author that is not in the cluster, or a peer speaking in our own name.
    #[error("member {0} cannot have said this")]
    NotAPeer(Member),
    /// The agreement itself refused the message.
    #[error("agreement message refused: {0}")]
    Agreement(#[from] qbft::Refusal),
    /// A digest without the value that it stands for.
    #[error("member {0} named a value without sending it")]
    ValueMissing(Member),
    /// A member introduced too many or too large values.
    #[error("member {0} proposes too much")]
    TooManyValues(Member),
    /// The duty has not begun here and the queue is full.
    #[error("too many messages wait for duty {0} to begin")]
    TooManyWaiting(Duty),
    /// A member speaks of too many duties that we did not schedule.
    #[error("member {0} speaks of too many unknown duties")]
    TooManyUnknown(Member),
    /// A member sends too many partial signatures for duties that we did not schedule, or fills too much memory with any.
    #[error("member {0} sent more partial signatures than are kept for it")]
    TooManyPartials(Member),
    /// Our own scheduler asks too much.
    #[error("more than {MAX_SCHEDULED} duties are scheduled")]
    TooManyScheduled,
    /// A set that is empty or larger than any cluster.
    #[error("a set of partial signatures with {0} entries")]
    BadSetSize(usize),
    /// A member that signed two different messages for one duty; the first is kept.
    #[error("member {0} signed two different messages for one duty")]
    Equivocation(Member),
    /// A member whose partial signature for this message was wrong before.
    #[error("member {0} sent a wrong partial signature for this message before")]
    KnownLiar(Member),
    /// An answer to a question that was not asked, or no longer matters.
    #[error("nobody asked")]
    NotAsked,
}
