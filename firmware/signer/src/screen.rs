//! What the signer tells whoever stands before the box, past everybody on the network.
//!
//! The unit sends standard output to the journal and to the box's own screen, where of our units nobody else can write in words of his
//! own, nor read (decision 0304): so the owner can compare a key with it, and can prove with a code from it that they are at
//! the box. Whatever comes from elsewhere and is part of a line must be digits, or of an alphabet that was checked. Nothing
//! secret is shown: the journal keeps every line.

use std::io::Write as _;

/// Shows one line.
pub(crate) fn show(line: &str) {
    let mut out = std::io::stdout().lock();
    // A screen that cannot be written to must not end the signer.
    let _ = writeln!(out, "hearth: {line}").and_then(|()| out.flush());
}
