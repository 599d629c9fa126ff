//! Changing a cluster: the secret half of a resharing, and the change from the old shares to the new ones.
//!
//! The owner allows one edit on the control socket; `dv-node` carries its messages on the signing socket. Whatever it asks,
//! in whatever order: an old share is used for nothing but to deal, to keys that the identities of the members signed; a
//! new share signs nothing but the hash of the lock that this signer worked out itself, and only after the old one was
//! frozen; and the old one goes only when the complete lock, signed by every new share, is there (decisions 0180 to 0182).

mod api;
mod ceremony;
mod switch;

pub(crate) use api::{control_routes, sign_routes};
pub(crate) use ceremony::Ceremony;

use ipc::Problem;

/// A request that does not fit, in a whole sentence.
fn bad(code: &str, message: &str, next_step: &str) -> Problem {
    let mut letters = message.chars();
    let first = letters.next().map(|letter| letter.to_uppercase().to_string()).unwrap_or_default();
    Problem::new(code, format!("{first}{}.", letters.as_str()), next_step)
}

fn malformed(what: &str) -> Problem {
    bad("edit_request_invalid", what, "Send it as documented; the box does so by itself.")
}

fn none_under_way() -> Problem {
    bad("edit_none", "no change of the cluster is under way", "Let the owner begin one first.")
}

fn out_of_order(what: &str) -> Problem {
    bad("edit_out_of_order", what, "Begin the change again on every member.")
}

fn hex_bytes(text: &str, what: &str) -> Result<Vec<u8>, Problem> {
    hex::decode(text.strip_prefix("0x").unwrap_or(text))
        .map_err(|_| malformed(&format!("`{what}` is not hex")))
}

fn hash_of(text: &str) -> Result<[u8; 32], Problem> {
    hex_bytes(text, "lock_hash")?.try_into().map_err(|_| malformed("`lock_hash` is not 32 bytes of hex"))
}

fn hash_text(hash: &[u8; 32]) -> String {
    format!("0x{}", hex::encode(hash))
}
