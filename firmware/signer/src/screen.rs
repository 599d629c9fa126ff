//! What the signer tells whoever stands before the box, past everybody on the network.
//!
//! The unit sends standard output to the journal and to the box's own screen. `web` cannot write there in the signer's name
//! without its own name before the line, and cannot read it: so the owner can compare a key with it, and can prove with a code from
//! it that they are at the box. Nothing secret is shown: the journal keeps every line.

use std::io::Write as _;

/// Shows one line.
pub(crate) fn show(line: &str) {
    let mut out = std::io::stdout().lock();
    // A screen that cannot be written to must not end the signer.
    let _ = writeln!(out, "hearth: {line}").and_then(|()| out.flush());
}
