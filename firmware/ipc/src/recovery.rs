//! The recovery key of /var, which the owner is shown until it is written down, and in one start at most (decision 0348).
//!
//! On the control socket of `recovery`: `GET` [`STATUS_PATH`] answers [`RecoveryStatus`], `POST` [`SHOW_PATH`] answers
//! [`RecoveryShown`], and `POST` [`NOTED_PATH`] takes [`RecoveryNoted`], after which nothing shows the key again.

use serde::{Deserialize, Serialize};

use crate::Sensitive;

/// Path of [`RecoveryStatus`].
pub const STATUS_PATH: &str = "/v1/recovery-key";
/// Path that answers [`RecoveryShown`] to `POST`.
pub const SHOW_PATH: &str = "/v1/recovery-key/show";
/// Path that takes [`RecoveryNoted`] and answers [`RecoveryStatus`].
pub const NOTED_PATH: &str = "/v1/recovery-key/noted";
/// Groups of letters that a key has.
pub const GROUPS: usize = 8;
/// Letters of a group.
pub const GROUP_LETTERS: usize = 8;

/// Where the key stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RecoveryState {
    /// None was ever made on this disk.
    None,
    /// The owner has not written it down yet.
    Waiting,
    /// It was written down, and nobody is shown it any more.
    Noted,
    /// Nobody wrote it down in time, and it opens nothing any more.
    Lapsed,
    /// It could not be made, or what is known of it cannot be read. One that was written down before that still opens the disk.
    Failed,
}

/// Where the key stands, for its owner. Nothing in it is secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecoveryStatus {
    /// Where it stands.
    pub state: RecoveryState,
    /// When it was written down, by the box's clock, unix milliseconds; none where that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub noted_ms: Option<u64>,
    /// How often it was shown since the box started.
    #[serde(default)]
    pub shown: u32,
    /// When it was last shown, unix milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_shown_ms: Option<u64>,
}

/// The key, for its owner's eyes.
#[derive(Debug, Serialize, Deserialize)]
pub struct RecoveryShown {
    /// Its [`GROUPS`] groups of [`GROUP_LETTERS`] letters, in their order. The whole key has a hyphen between each two.
    pub groups: Vec<Sensitive>,
}

/// The owner has written it down, and shows it by one of its groups.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecoveryNoted {
    /// Which group, from 1 on.
    pub group: usize,
    /// Its letters, from the paper.
    pub letters: Sensitive,
}
