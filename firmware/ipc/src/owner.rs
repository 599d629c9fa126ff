//! What only the owner may say to the signer, on its control socket: what the box may sign besides its duties, and that a
//! validator leaves the chain.
//!
//! `PUT /v1/rules` takes [`OwnerRules`], `GET /v1/exits` answers [`ExitApprovals`], `POST /v1/exits` takes [`ExitOrder`]
//! and `POST /v1/exits/cancel` takes [`ExitCancel`]; the last two answer [`ExitApprovals`]. `POST /v1/shares/resume` takes
//! [`ResumeShare`]. `dv-node` is no caller of this
//! socket, so a `dv-node` in foreign hands can ask for an exit as often as it likes and gets none.

use serde::{Deserialize, Serialize};

/// Path that takes [`OwnerRules`].
pub const RULES_PATH: &str = "/v1/rules";
/// Path that takes [`ExitOrder`] and answers [`ExitApprovals`].
pub const EXITS_PATH: &str = "/v1/exits";
/// Path that takes [`ExitCancel`].
pub const EXITS_CANCEL_PATH: &str = "/v1/exits/cancel";
/// Path that takes [`ResumeShare`] and answers [`ShareResumed`].
pub const RESUME_PATH: &str = "/v1/shares/resume";
/// What the owner must type to resume a share that was seen signing elsewhere.
pub const RESUME_CONFIRMATION: &str = "nothing else uses this share";
/// Stands for every validator of which a share is held.
pub const ALL_VALIDATORS: &str = "all";

/// What must be typed a second time for an exit of all validators.
pub fn confirmation_of_all(validators: usize) -> String {
    format!("exit all {validators} validators")
}

/// What the owner has settled for the validators of one cluster.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OwnerRules {
    /// The cluster lock. The withdrawal credentials are read from the deposits in it, which the validator's own key has
    /// signed: whoever passes the lock on cannot change them.
    pub lock: serde_json::Value,
    /// Capella's fork version, `0x` hex, for chains that are not public: exits are signed with it (EIP-7044).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capella_fork_version: Option<String>,
    /// Where they differ from the lock's.
    #[serde(default)]
    pub payments: Vec<Payment>,
}

/// Who is paid for a validator's blocks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Payment {
    /// The validator's public key, `0x` hex.
    pub validator: String,
    /// The address that is paid, `0x` hex; with capitals, they must be its checksum.
    pub fee_recipient: String,
    /// The gas limit it votes for; left out, it is the lock's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gas_limit: Option<u64>,
}

/// The owner has found and ended what else signed with a share: it may sign here again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResumeShare {
    /// The share's public key, `0x` hex.
    pub share: String,
    /// What the owner was shown of it: [`crate::signer::HeldShare::stopped_at_ms`]. When it has been seen elsewhere since, the word
    /// was about something else, and is not taken (`share_stopped_anew`).
    pub stopped_at_ms: u64,
    /// [`RESUME_CONFIRMATION`], typed.
    pub confirm: String,
}

/// The answer to [`ResumeShare`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShareResumed {
    /// The first epoch in which it votes again.
    pub votes_from_epoch: Option<u64>,
}

/// The answer to [`OwnerRules`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RulesKept {
    /// Validators with rules from now on.
    pub validators: usize,
    /// Of these, how many have withdrawal credentials that their own key has signed.
    pub with_credentials: usize,
}

/// The owner wants validators to leave the chain. There is no way back once it is on the chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExitOrder {
    /// A validator's public key, `0x` hex, or [`ALL_VALIDATORS`].
    pub validator: String,
    /// The same key typed again; for all validators, [`confirmation_of_all`].
    pub typed_again: String,
    /// The epoch in the message. All members of the cluster must choose the same.
    pub epoch: u64,
    /// How long it can be cancelled before the signature is given; left out, the signer's own setting counts. Never less than
    /// the least one that the signer is set to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay_s: Option<u64>,
}

/// The owner has changed their mind. What is signed already cannot be called back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExitCancel {
    /// A validator's public key, `0x` hex, or [`ALL_VALIDATORS`].
    pub validator: String,
}

/// All exits the owner has confirmed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitApprovals {
    /// By validator.
    pub exits: Vec<ExitApproval>,
    /// The delay of an order that names none.
    pub usual_delay_s: u64,
    /// The least delay that is taken.
    pub least_delay_s: u64,
}

/// One confirmed exit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitApproval {
    /// The validator's public key, `0x` hex.
    pub validator: String,
    /// The epoch in the message.
    pub epoch: u64,
    /// When it was confirmed, unix milliseconds.
    pub confirmed_at_ms: u64,
    /// From when on it is signed, unix milliseconds.
    pub ready_at_ms: u64,
    /// When this box's partial signature was first given, unix milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signed_at_ms: Option<u64>,
}
