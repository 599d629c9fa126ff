//! The token of the keymanager API: made once, kept in a file that only the signer's user can read, compared in constant time.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    http::{StatusCode, header},
    middleware::Next,
    response::Response,
};
use ipc::Problem;
use rand::TryRngCore as _;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::refuse;
use crate::{files, signer::Signer};

const FILE: &str = "keymanager-token";
const MAX_BYTES: u64 = 256;
const SECRET_BYTES: usize = 32;

impl Signer {
    /// The token; made now when there is none. A new one is made when the file is removed.
    pub(crate) fn keymanager_token(&self) -> Result<Zeroizing<String>, Problem> {
        let path = self.config.state_dir.join(FILE);
        let unusable = |why: String| {
            Problem::new(
                "token_unusable",
                format!("The keymanager token in {} cannot be used: {why}.", path.display()),
                "Free some disk space, or remove the file, and try again.",
            )
        };
        if let Some(known) =
            files::read_small(&path, MAX_BYTES).map_err(|error| unusable(error.to_string()))?
        {
            let known = Zeroizing::new(known);
            let text = std::str::from_utf8(&known).map_err(|_| unusable("it is no text".to_owned()))?.trim();
            return if text.len() == SECRET_BYTES * 2 {
                Ok(Zeroizing::new(text.to_owned()))
            } else {
                Err(unusable("it is not of the right length".to_owned()))
            };
        }
        let mut secret = Zeroizing::new([0; SECRET_BYTES]);
        rand::rngs::OsRng
            .try_fill_bytes(secret.as_mut())
            .map_err(|_| unusable("the operating system gave no randomness".to_owned()))?;
        let text = Zeroizing::new(hex::encode(*secret));
        files::write_atomically(&path, text.as_bytes()).map_err(|error| unusable(error.to_string()))?;
        Ok(text)
    }
}

pub(super) async fn only_with_token(
    State(signer): State<Arc<Signer>>,
    request: Request,
    next: Next,
) -> Response {
    let given = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let Some(given) = given.and_then(|value| value.strip_prefix("Bearer ")) else {
        return refuse(
            StatusCode::UNAUTHORIZED,
            Problem::new(
                "token_missing",
                "The keymanager API needs its token.",
                "Send `Authorization: Bearer TOKEN`, with the token that came with the client's certificate.",
            ),
        );
    };
    match signer.keymanager_token() {
        Ok(token) if same(given.trim(), &token) => next.run(request).await,
        Ok(_) => {
            tracing::warn!("a wrong keymanager token was tried");
            refuse(
                StatusCode::FORBIDDEN,
                Problem::new(
                    "token_wrong",
                    "That is not this signer's keymanager token.",
                    "Send the token that came with the client's certificate.",
                ),
            )
        }
        Err(problem) => refuse(StatusCode::SERVICE_UNAVAILABLE, problem),
    }
}

/// Compares digests, and all of them: how long it takes says nothing about where two texts begin to differ.
fn same(given: &str, token: &str) -> bool {
    let (given, token) = (Sha256::digest(given), Sha256::digest(token));
    given.iter().zip(token.iter()).fold(0, |differs, (a, b)| differs | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_token_is_the_same() {
        assert!(same("ab", "ab"));
        for other in ["", "a", "aB", "abc", "ba"] {
            assert!(!same(other, "ab"), "{other}");
        }
    }
}
