//! Every reason for not signing, as a closed list, with the words a person reads.

use axum::{
    http::StatusCode,
    response::{IntoResponse, Response},
};
use ipc::Problem;

/// Why a request was refused. The stake is never at risk in any of them: a missed duty costs cents.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The key is not here.
    #[error("no share with the public key {0} is held")]
    UnknownKey(String),
    /// The request is not one.
    #[error("the request is malformed: {0}")]
    Malformed(String),
    /// A type that is not signed yet.
    #[error("messages of type {0} are not supported yet")]
    NotSupported(&'static str),
    /// The message belongs to another chain.
    #[error("the message is for another chain than the one this share was imported for")]
    WrongChain,
    /// The message belongs to another fork of its chain.
    #[error(
        "the message would be signed under the fork version {asked}, and in epoch {epoch} its chain has {expected}"
    )]
    WrongFork {
        /// The version in the request.
        asked: String,
        /// The message's epoch.
        epoch: u64,
        /// The version of that epoch.
        expected: String,
    },
    /// The system is signed with keys that everybody has, and the chain is a public one.
    #[error("this system is signed with keys that everybody has, and serves no share of {0}")]
    TestKeys(String),
    /// The caller expects another root.
    #[error("the signing root in the request is not that of its message")]
    RootMismatch,
    /// The message is from the future.
    #[error(
        "the message has epoch {epoch} and the clock says epoch {now}: a vote so far ahead would block all votes before it"
    )]
    TooFarAhead {
        /// The message's epoch.
        epoch: u64,
        /// The epoch now.
        now: u64,
    },
    /// A vote on a chain that has not begun.
    #[error("by this box's clock the chain has not begun, and nothing can be voted on yet")]
    NotBegun,
    /// The message's time is long over.
    #[error("the message has epoch {epoch} and the clock says epoch {now}: its time is over")]
    TooOld {
        /// The message's epoch.
        epoch: u64,
        /// The epoch now.
        now: u64,
    },
    /// The owner has not said what holds for this validator.
    #[error("this box does not know what its owner has settled for this validator")]
    NoRules,
    /// The message names another validator than the share's.
    #[error("the message is about the validator {0}, of which this share is none")]
    OtherValidator(String),
    /// Blocks would pay somebody else.
    #[error("the message pays {asked}, and the owner has set {set}")]
    FeeRecipient {
        /// Who would be paid.
        asked: String,
        /// Who shall be.
        set: String,
    },
    /// Another gas limit.
    #[error("the message votes for a gas limit of {asked}, and the owner has set {set}")]
    GasLimit {
        /// In the message.
        asked: u64,
        /// As set.
        set: u64,
    },
    /// A registration that would shut out all honest ones.
    #[error("the registration is dated in the future")]
    RegistrationAhead,
    /// The stake would be paid out elsewhere.
    #[error(
        "the deposit names the withdrawal credentials {asked}, and the validator's own key has signed {signed}"
    )]
    WithdrawalCredentials {
        /// In the message.
        asked: String,
        /// As signed before.
        signed: String,
    },
    /// No deposit has this amount.
    #[error("a deposit of {gwei} gwei is not possible: it must be 1 ETH at least and {most} gwei at most")]
    DepositAmount {
        /// Asked for.
        gwei: u64,
        /// Most for this validator.
        most: u64,
    },
    /// Nobody told this box that the validator leaves.
    #[error("the owner has not confirmed on this box that the validator leaves the chain")]
    ExitNotConfirmed,
    /// The time in which it can be cancelled is not over.
    #[error("the owner's time to cancel this exit is not over: {left_s} seconds are left")]
    ExitTooEarly {
        /// What is left.
        left_s: u64,
    },
    /// Another epoch than confirmed.
    #[error("the exit has epoch {asked}, and the owner has confirmed epoch {confirmed}")]
    ExitEpoch {
        /// In the message.
        asked: u64,
        /// As confirmed.
        confirmed: u64,
    },
    /// Another signer has this share.
    #[error(
        "this share was seen signing what this box has no record of: it signs nothing here until the owner decides"
    )]
    SignsElsewhere,
    /// Nobody vouches for the clock.
    #[error("the time service does not call this box's clock synchronised")]
    ClockUnsynchronised,
    /// The clock was set.
    #[error(
        "this box's clock was set by {by_ms} milliseconds, and the time service has not confirmed it since"
    )]
    ClockStepped {
        /// By how much; negative is back.
        by_ms: i64,
    },
    /// The clock was set, and what nobody remembers any more must be waited for once more.
    #[error(
        "this box's clock was set, and its shares are made to wait for what may have been forgotten until now"
    )]
    ClockWasSet,
    /// The clock has gone back since something was recorded.
    #[error("this box's clock is {by_s} seconds behind the moment at which it last recorded a vote")]
    ClockBehind {
        /// By how much.
        by_s: u64,
    },
    /// EIP-3076 says no.
    #[error("signing this could be punished: {0}")]
    Slashable(String),
    /// The record could not be made durable.
    #[error("the record of this vote could not be written: {0}")]
    NotDurable(String),
    /// The signer does not sign at all now.
    #[error("{}", .0.message)]
    NotReady(Problem),
}

impl Refusal {
    /// Stable word for programs and metrics.
    pub fn code(&self) -> &'static str {
        match self {
            Self::UnknownKey(_) => "unknown_key",
            Self::Malformed(_) => "malformed",
            Self::NotSupported(_) => "not_supported_yet",
            Self::WrongChain => "wrong_chain",
            Self::WrongFork { .. } => "wrong_fork",
            Self::TestKeys(_) => "test_keys_real_chain",
            Self::RootMismatch => "signing_root_mismatch",
            Self::TooFarAhead { .. } => "too_far_ahead",
            Self::NotBegun => "chain_not_begun",
            Self::TooOld { .. } => "too_old",
            Self::NoRules => "no_rules",
            Self::OtherValidator(_) => "other_validator",
            Self::FeeRecipient { .. } => "fee_recipient_differs",
            Self::GasLimit { .. } => "gas_limit_differs",
            Self::RegistrationAhead => "registration_from_the_future",
            Self::WithdrawalCredentials { .. } => "withdrawal_credentials_differ",
            Self::DepositAmount { .. } => "deposit_amount",
            Self::ExitNotConfirmed => "exit_not_confirmed",
            Self::ExitTooEarly { .. } => "exit_too_early",
            Self::ExitEpoch { .. } => "exit_epoch_differs",
            Self::SignsElsewhere => "signs_elsewhere",
            Self::ClockUnsynchronised => "clock_unsynchronised",
            Self::ClockStepped { .. } => "clock_stepped",
            Self::ClockWasSet => "clock_was_set",
            Self::ClockBehind { .. } => "clock_behind",
            Self::Slashable(_) => "slashable",
            Self::NotDurable(_) => "not_durable",
            Self::NotReady(_) => "not_ready",
        }
    }

    /// Every code, so that each is a metric from the start.
    pub const CODES: [&'static str; 28] = [
        "unknown_key",
        "malformed",
        "not_supported_yet",
        "wrong_chain",
        "wrong_fork",
        "test_keys_real_chain",
        "signing_root_mismatch",
        "too_far_ahead",
        "chain_not_begun",
        "too_old",
        "no_rules",
        "other_validator",
        "fee_recipient_differs",
        "gas_limit_differs",
        "registration_from_the_future",
        "withdrawal_credentials_differ",
        "deposit_amount",
        "exit_not_confirmed",
        "exit_too_early",
        "exit_epoch_differs",
        "signs_elsewhere",
        "clock_unsynchronised",
        "clock_stepped",
        "clock_was_set",
        "clock_behind",
        "slashable",
        "not_durable",
        "not_ready",
    ];

    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::UnknownKey(_) => StatusCode::NOT_FOUND,
            Self::Malformed(_) | Self::NotSupported(_) => StatusCode::BAD_REQUEST,
            Self::WrongChain
            | Self::WrongFork { .. }
            | Self::TestKeys(_)
            | Self::RootMismatch
            | Self::TooFarAhead { .. }
            | Self::NotBegun
            | Self::TooOld { .. }
            | Self::NoRules
            | Self::OtherValidator(_)
            | Self::FeeRecipient { .. }
            | Self::GasLimit { .. }
            | Self::RegistrationAhead
            | Self::WithdrawalCredentials { .. }
            | Self::DepositAmount { .. }
            | Self::ExitNotConfirmed
            | Self::ExitTooEarly { .. }
            | Self::ExitEpoch { .. }
            | Self::SignsElsewhere
            | Self::Slashable(_) => StatusCode::PRECONDITION_FAILED,
            Self::ClockUnsynchronised
            | Self::ClockStepped { .. }
            | Self::ClockWasSet
            | Self::ClockBehind { .. }
            | Self::NotDurable(_)
            | Self::NotReady(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    fn next_step(&self) -> &'static str {
        match self {
            Self::UnknownKey(_) => {
                "Import the share first, or ask with the share's own public key and not the validator's."
            }
            Self::Malformed(_) => {
                "Correct the caller: it must send the whole message as the Web3Signer API has it."
            }
            Self::NotSupported(_) => "Update the box when a version that supports it is out.",
            Self::WrongChain => "Point the node at a beacon node of the cluster's chain.",
            Self::WrongFork { .. } => {
                "Update the node or client that asks, and its beacon node: one of them does not know the chain's forks. If all are up to date, update this box."
            }
            Self::TestKeys(_) => {
                "Install an image that is signed with its maker's own keys, and import the shares there."
            }
            Self::RootMismatch => {
                "Check that the caller and this box agree on the fork; update the older of the two."
            }
            Self::NotBegun => {
                "Wait for the chain's first slot; if it has begun, check the clock of this box."
            }
            Self::TooFarAhead { .. } => "Check the clocks of this box and of the beacon node.",
            Self::TooOld { .. } => {
                "Check the clocks of this box and of the beacon node; a duty that is over cannot be caught up."
            }
            Self::NoRules => {
                "Hand the cluster lock in again on the page: it says where money goes, signed by the validator's own key."
            }
            Self::OtherValidator(_) => {
                "Correct the caller: the message must name the validator's own key, and the path its share."
            }
            Self::FeeRecipient { .. } | Self::GasLimit { .. } => {
                "If this is a change you want, set it on the page first; if not, find out who asked for it."
            }
            Self::RegistrationAhead => "Check the clock of whoever asked.",
            Self::WithdrawalCredentials { .. } => {
                "Do not send this deposit: it was made by somebody who wants the stake paid out elsewhere, or for another validator."
            }
            Self::DepositAmount { .. } => "Choose another amount.",
            Self::ExitNotConfirmed => {
                "If you want the validator to leave, confirm it on this box's page; if not, nothing is lost."
            }
            Self::ExitTooEarly { .. } => {
                "Nothing to do: it is signed when the time is over. Until then it can be cancelled on the page."
            }
            Self::ExitEpoch { .. } => "Choose the same epoch on every member's box.",
            Self::SignsElsewhere => {
                "Find the box or client that uses this share too and end it for good; if an old copy of the disk was put back, there may be none. Then let the share go on on this page; it waits for three epochs."
            }
            Self::ClockUnsynchronised => {
                "Wait a minute after a start. If it stays so, let this box reach its time servers: TCP port 4460 and UDP port 123 to the internet."
            }
            Self::ClockStepped { .. } => {
                "Nothing to do: signing goes on as soon as the time service confirms the clock, or after a calm minute where there is none."
            }
            Self::ClockWasSet => {
                "Nothing to do: it takes a moment, then the shares wait for some epochs as after a start."
            }
            Self::ClockBehind { .. } => {
                "Set this box's clock right, or let it reach its time servers. Signing goes on by itself then."
            }
            Self::Slashable(_) => {
                "Nothing to do if it happens once, around a restart. If it repeats, make sure that no other box uses this share."
            }
            Self::NotDurable(_) => {
                "Free some disk space, or replace the disk. Signing goes on by itself once records can be written."
            }
            Self::NotReady(_) => "See the signer's status.",
        }
    }

    /// The same for the caller.
    pub fn to_problem(&self) -> Problem {
        if let Self::NotReady(problem) = self {
            return problem.clone();
        }
        Problem::new(self.code(), sentence(&self.to_string()), self.next_step())
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        ipc::server::refusal(self.status(), self.to_problem())
    }
}

fn sentence(text: &str) -> String {
    let mut letters = text.chars();
    let first = letters.next().map(|letter| letter.to_uppercase().to_string()).unwrap_or_default();
    format!("{first}{}.", letters.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_what_happened_and_what_to_do() {
        let problem = Refusal::TooFarAhead { epoch: 9, now: 2 }.to_problem();
        assert_eq!(problem.code, "too_far_ahead");
        assert!(problem.message.starts_with("The message has epoch 9"), "{}", problem.message);
        assert!(problem.next_step.contains("clocks"));
    }

    /// One of each, in their order. The match is there to fail when a kind is added that is not in the list.
    fn one_of_each() -> Vec<Refusal> {
        let text = || "x".to_owned();
        let all = vec![
            Refusal::UnknownKey(text()),
            Refusal::Malformed(text()),
            Refusal::NotSupported("BLOCK"),
            Refusal::WrongChain,
            Refusal::WrongFork { asked: text(), epoch: 1, expected: text() },
            Refusal::TestKeys(text()),
            Refusal::RootMismatch,
            Refusal::TooFarAhead { epoch: 9, now: 2 },
            Refusal::NotBegun,
            Refusal::TooOld { epoch: 2, now: 9 },
            Refusal::NoRules,
            Refusal::OtherValidator(text()),
            Refusal::FeeRecipient { asked: text(), set: text() },
            Refusal::GasLimit { asked: 1, set: 2 },
            Refusal::RegistrationAhead,
            Refusal::WithdrawalCredentials { asked: text(), signed: text() },
            Refusal::DepositAmount { gwei: 1, most: 2 },
            Refusal::ExitNotConfirmed,
            Refusal::ExitTooEarly { left_s: 1 },
            Refusal::ExitEpoch { asked: 1, confirmed: 2 },
            Refusal::SignsElsewhere,
            Refusal::ClockUnsynchronised,
            Refusal::ClockStepped { by_ms: 1 },
            Refusal::ClockWasSet,
            Refusal::ClockBehind { by_s: 1 },
            Refusal::Slashable(text()),
            Refusal::NotDurable(text()),
            Refusal::NotReady(Problem::new("starting", "It starts.", "Wait.")),
        ];
        for (place, refusal) in all.iter().enumerate() {
            let expected = match refusal {
                Refusal::UnknownKey(_) => 0,
                Refusal::Malformed(_) => 1,
                Refusal::NotSupported(_) => 2,
                Refusal::WrongChain => 3,
                Refusal::WrongFork { .. } => 4,
                Refusal::TestKeys(_) => 5,
                Refusal::RootMismatch => 6,
                Refusal::TooFarAhead { .. } => 7,
                Refusal::NotBegun => 8,
                Refusal::TooOld { .. } => 9,
                Refusal::NoRules => 10,
                Refusal::OtherValidator(_) => 11,
                Refusal::FeeRecipient { .. } => 12,
                Refusal::GasLimit { .. } => 13,
                Refusal::RegistrationAhead => 14,
                Refusal::WithdrawalCredentials { .. } => 15,
                Refusal::DepositAmount { .. } => 16,
                Refusal::ExitNotConfirmed => 17,
                Refusal::ExitTooEarly { .. } => 18,
                Refusal::ExitEpoch { .. } => 19,
                Refusal::SignsElsewhere => 20,
                Refusal::ClockUnsynchronised => 21,
                Refusal::ClockStepped { .. } => 22,
                Refusal::ClockWasSet => 23,
                Refusal::ClockBehind { .. } => 24,
                Refusal::Slashable(_) => 25,
                Refusal::NotDurable(_) => 26,
                Refusal::NotReady(_) => 27,
            };
            assert_eq!(place, expected, "{refusal}");
        }
        all
    }

    #[test]
    fn every_refusal_has_a_code_of_its_own_in_the_list_a_sentence_and_a_next_step() {
        let all = one_of_each();
        let codes: Vec<&str> = all.iter().map(Refusal::code).collect();
        assert_eq!(codes, Refusal::CODES);
        assert_eq!(codes.iter().collect::<std::collections::BTreeSet<_>>().len(), codes.len());
        for refusal in all {
            let problem = refusal.to_problem();
            assert!(problem.message.ends_with('.') && problem.message.len() > 5, "{problem:?}");
            assert!(problem.next_step.ends_with('.') && !refusal.next_step().is_empty(), "{problem:?}");
        }
    }
}
