//! What the owner is told when something is wrong.

use serde::{Deserialize, Serialize};

/// Something that is wrong and what to do about it. Also the body of every error answer on every socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Stable word for programs and tests, such as `tpm_missing`.
    pub code: String,
    /// What happened and to what, for a person.
    pub message: String,
    /// What the owner can do now.
    pub next_step: String,
}

impl Problem {
    /// A problem; every one of them names a next step.
    pub fn new(code: &str, message: impl Into<String>, next_step: impl Into<String>) -> Self {
        Self { code: code.to_owned(), message: message.into(), next_step: next_step.into() }
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}: {} {}", self.code, self.message, self.next_step)
    }
}
