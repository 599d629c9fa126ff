//! How a duty ended, and whose fault it was if it ended badly.

use qbft::Member;

use crate::Duty;

/// The one thing that is said about a duty when it is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Which duty.
    pub duty: Duty,
    /// How it ended.
    pub outcome: Outcome,
    /// How many messages had to be published (for attestations: one per validator).
    pub expected: usize,
    /// How many were.
    pub published: usize,
    /// The round in which the members agreed.
    pub decided_round: Option<u64>,
    /// Who led that round.
    pub leader: Option<Member>,
    /// Whose partial signatures are in the group signatures.
    pub partials_from: Vec<Member>,
    /// Who sent wrong partial signatures.
    pub liars: Vec<Member>,
    /// Who signed two different messages.
    pub equivocators: Vec<Member>,
    /// Why we did not add our own partial signature, if we did not. The duty may be done without it.
    pub withheld: Option<Reason>,
    /// When the last message was published, in milliseconds after the start of the slot.
    pub published_ms_into_slot: Option<u64>,
}

/// How a duty ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Everything is published (or, for duties that others wait for, combined).
    Done,
    /// There was nothing to do, for example no validator was selected to aggregate.
    NotNeeded,
    /// Something is missing, for exactly this reason.
    Missed(Reason),
}

/// Who has to be looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Component {
    /// This box's beacon node.
    BeaconNode,
    /// The other members, or the way to them.
    Members,
    /// This box's signer.
    Signer,
    /// This box's clock.
    Clock,
    /// This program.
    Ourselves,
}

impl Component {
    /// A stable name for records.
    pub fn name(self) -> &'static str {
        match self {
            Component::BeaconNode => "beacon_node",
            Component::Members => "members",
            Component::Signer => "signer",
            Component::Clock => "clock",
            Component::Ourselves => "dv_node",
        }
    }
}

/// Why a duty was missed, or why our part in it was withheld.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// The clock is not trusted.
    #[error("the clock is not synchronised, so nothing was signed; check the network's time server")]
    ClockUntrusted,
    /// The beacon node gave no data, and nobody else's was agreed on.
    #[error("no data from the beacon node ({0}); check that it is running and synchronised")]
    NoData(String),
    /// The beacon node never answered.
    #[error("the beacon node did not answer in time; check that it is running and not overloaded")]
    NoAnswer,
    /// Another duty that this one builds on was not done.
    #[error("a duty that this one needs was not done; see its own reason")]
    NeedsMissing,
    /// Too few members took part.
    #[error("only {heard} of the {needed} members needed took part; check the connections to the others")]
    MembersSilent {
        /// Members heard, ourselves included.
        heard: usize,
        /// A quorum.
        needed: usize,
    },
    /// Enough members took part, but no round ended well.
    #[error("the members did not agree in {rounds} rounds; check the members' clocks and connections")]
    NoAgreement {
        /// The last round.
        rounds: u64,
    },
    /// What was agreed on makes no sense.
    #[error(
        "the members agreed on a value that cannot be used ({0}); check that all run compatible versions"
    )]
    DecisionUnusable(String),
    /// What was agreed on leaves a validator out.
    #[error("the members agreed on data without this validator; check that all beacon nodes know it")]
    LeftOut,
    /// Source or target differ from what our beacon node says.
    #[error("the cluster voted for another chain than this box's beacon node sees, so this box did not sign")]
    ViewsDiffer,
    /// Our beacon node has no view, and the owner's policy is not to sign then.
    #[error("this box's beacon node could not confirm the vote, so this box did not sign")]
    ViewUnknown,
    /// The signer said no.
    #[error("the signer refused: {0}")]
    SignerRefused(String),
    /// We did not ask the signer, which has said nothing.
    #[error("this box did not ask its signer: {0}")]
    NotAsked(String),
    /// The signer could not be reached.
    #[error("the signer could not be reached ({0}); check that it is running and its shares are unlocked")]
    SignerUnavailable(String),
    /// The signer never answered.
    #[error("the signer did not answer in time")]
    SignerSilent,
    /// Too few partial signatures arrived.
    #[error("{have} of {need} partial signatures arrived; check the connections to the other members")]
    PartialsMissing {
        /// Most partial signatures for one message.
        have: usize,
        /// The threshold.
        need: usize,
    },
    /// Enough partial signatures arrived, but for different messages.
    #[error("the members signed different messages; check that all run compatible versions")]
    PartialsDiffer,
    /// Some partial signatures were wrong, and too few good ones arrived.
    #[error("members {0:?} sent wrong partial signatures")]
    PartialsWrong(Vec<Member>),
    /// The beacon node would not take the result.
    #[error("the beacon node did not accept the result: {0}")]
    PublishFailed(String),
    /// The result was ready too late to be published, or the beacon node did not answer.
    #[error("the beacon node did not confirm the result in time")]
    PublishUnconfirmed,
    /// Pushed out by newer duties.
    #[error("too many duties of this kind; this one made room for a newer one")]
    PushedOut,
}

impl Reason {
    /// Who has to be looked at.
    pub fn component(&self) -> Component {
        match self {
            Reason::ClockUntrusted => Component::Clock,
            Reason::NoData(_)
            | Reason::NoAnswer
            | Reason::ViewsDiffer
            | Reason::ViewUnknown
            | Reason::PublishFailed(_)
            | Reason::PublishUnconfirmed => Component::BeaconNode,
            Reason::MembersSilent { .. }
            | Reason::NoAgreement { .. }
            | Reason::DecisionUnusable(_)
            | Reason::LeftOut
            | Reason::PartialsMissing { .. }
            | Reason::PartialsDiffer
            | Reason::PartialsWrong(_) => Component::Members,
            Reason::SignerRefused(_) | Reason::SignerUnavailable(_) | Reason::SignerSilent => {
                Component::Signer
            }
            Reason::NeedsMissing | Reason::NotAsked(_) | Reason::PushedOut => Component::Ourselves,
        }
    }

    /// A stable name for records and metrics.
    pub fn code(&self) -> &'static str {
        match self {
            Reason::ClockUntrusted => "clock_untrusted",
            Reason::NoData(_) => "no_data",
            Reason::NoAnswer => "no_answer",
            Reason::NeedsMissing => "needs_missing",
            Reason::MembersSilent { .. } => "members_silent",
            Reason::NoAgreement { .. } => "no_agreement",
            Reason::DecisionUnusable(_) => "decision_unusable",
            Reason::LeftOut => "left_out",
            Reason::ViewsDiffer => "views_differ",
            Reason::ViewUnknown => "view_unknown",
            Reason::SignerRefused(_) => "signer_refused",
            Reason::NotAsked(_) => "not_asked",
            Reason::SignerUnavailable(_) => "signer_unavailable",
            Reason::SignerSilent => "signer_silent",
            Reason::PartialsMissing { .. } => "partials_missing",
            Reason::PartialsDiffer => "partials_differ",
            Reason::PartialsWrong(_) => "partials_wrong",
            Reason::PublishFailed(_) => "publish_failed",
            Reason::PublishUnconfirmed => "publish_unconfirmed",
            Reason::PushedOut => "pushed_out",
        }
    }
}
