//! `DELETE /eth/v1/keystores`: first the share signs no more, durably; then its history comes out.

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use axum::{
    Json,
    body::Bytes,
    extract::State,
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use chain::{PublicKeyBytes, Root};
use ipc::{Problem, signer::MAX_IMPORTED};
use serde::{Deserialize, Serialize};

use super::{Outcome, refuse, refuse_as_it_is};
use crate::{
    history::Form,
    ledger::LedgerError,
    rollback,
    signer::{Signer, ledger_problem},
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DeleteRequest {
    pubkeys: Vec<String>,
}

#[derive(Serialize)]
struct Deleted {
    data: Vec<Outcome>,
    /// An EIP-3076 document, as text.
    slashing_protection: String,
}

pub(super) async fn delete(State(signer): State<Arc<Signer>>, body: Bytes) -> Response {
    // Finished even when the caller hangs up; asked again, the answer is the same but for `not_active`.
    match tokio::spawn(async move { signer.delete_keystores(&body).await }).await {
        Ok(Ok(deleted)) => Json(deleted).into_response(),
        Ok(Err(problem)) => {
            tracing::warn!(code = %problem.code, reason = %problem.message, "a deletion was refused");
            refuse_as_it_is(problem)
        }
        Err(_) => refuse(
            StatusCode::INTERNAL_SERVER_ERROR,
            Problem::new("delete_failed", "The deletion failed by a fault of ours.", "Report this."),
        ),
    }
}

impl Signer {
    async fn delete_keystores(&self, body: &[u8]) -> Result<Deleted, Problem> {
        let named = read_request(body)?;
        let _no_import = self.importing.lock().await;
        let (_, ledger) = self.open_parts()?;
        let gone = ledger.deleted_rows().await.map_err(|error| ledger_problem(&error))?;
        let was_here: BTreeMap<PublicKeyBytes, Root> =
            gone.iter().map(|row| (row.pubshare, row.genesis_validators_root)).collect();
        let here: BTreeMap<PublicKeyBytes, Root> =
            self.known_rows().iter().map(|row| (row.pubshare, row.genesis_validators_root)).collect();
        // One document is of one chain.
        let chain =
            named.iter().flatten().find_map(|key| here.get(key).or_else(|| was_here.get(key))).copied();
        let of_chain = |key: &PublicKeyBytes, known: &BTreeMap<PublicKeyBytes, Root>| {
            known.get(key).is_some_and(|root| Some(*root) == chain)
        };
        let mut going: Vec<PublicKeyBytes> =
            named.iter().flatten().filter(|key| of_chain(key, &here)).copied().collect();
        going.sort_unstable();
        going.dedup();
        let stopped = if going.is_empty() { Ok(()) } else { self.give_up(&going).await };
        if let Err(problem) = &stopped
            && crate::api::control::status_of(problem) != StatusCode::UNPROCESSABLE_ENTITY
        {
            return Err(problem.clone());
        }
        let mut shown = Vec::new();
        let data = named
            .iter()
            .map(|key| {
                let Some(key) = key else { return Outcome::new("error", "This is no public key.") };
                if of_chain(key, &here) {
                    if let Err(problem) = &stopped {
                        return Outcome::error(problem);
                    }
                    shown.push(*key);
                    // Where nothing counts starts, no answer can say that the share is gone for good.
                    let copies = matches!(self.witness(), rollback::Witness::Nobody);
                    Outcome::new("deleted", if copies { COPIES_MAY_BE_LEFT } else { "" })
                } else if of_chain(key, &was_here) {
                    shown.push(*key);
                    Outcome::new("not_active", "This share was deleted before; its history is still known.")
                } else if here.contains_key(key) || was_here.contains_key(key) {
                    Outcome::new("error", "This share is of another chain; name it in a request of its own.")
                } else {
                    Outcome::new("not_found", "")
                }
            })
            .collect();
        // Only now, when nothing can be added to it any more.
        let document = self.history_of(Form::Complete, chain, |key| shown.contains(&key)).await?;
        let slashing_protection = serde_json::to_string(&document)
            .map_err(|error| invalid(&format!("the history cannot be written: {error}")))?;
        Ok(Deleted { data, slashing_protection })
    }

    /// Out of memory, then off the disk, then past every copy of the disk.
    async fn give_up(&self, keys: &[PublicKeyBytes]) -> Result<(), Problem> {
        let (_, ledger) = self.open_parts()?;
        self.may_step()?;
        let counter = match ledger.delete(keys.to_vec()).await {
            Ok(counter) => counter,
            // Refused before anything was written.
            Err(error @ LedgerError::Frozen(_)) => return Err(ledger_problem(&error)),
            // Whether it is on the disk is not known: nothing is signed until what is there was read anew.
            Err(error) => {
                let problem = ledger_problem(&error);
                self.lock_again(problem.clone());
                return Err(problem);
            }
        };
        self.wear.spend(Instant::now());
        // The ledger has refused these keys since; now they are out of memory too.
        self.forget(keys);
        if let Err(problem) = rollback::settle(self.witness(), counter).await {
            self.lock_again(problem.clone());
            return Err(problem);
        }
        // Another import key is in force now (decision 0303).
        self.show_keys();
        tracing::warn!(shares = keys.len(), "shares were deleted; what they signed stays known");
        Ok(())
    }
}

/// What a board without a TPM cannot promise (decision 0321).
const COPIES_MAY_BE_LEFT: &str = "This board has no TPM: an older copy of its disk, if there is one, still opens this share with the passphrase. Before the share signs elsewhere, be sure that no copy is left or will be started.";

/// The keys that a request names; none where it names something else.
pub(crate) fn read_request(body: &[u8]) -> Result<Vec<Option<PublicKeyBytes>>, Problem> {
    let request: DeleteRequest = serde_json::from_slice(body).map_err(|error| {
        invalid(&format!("not as expected at line {}, column {}", error.line(), error.column()))
    })?;
    if request.pubkeys.len() > MAX_IMPORTED {
        return Err(invalid(&format!("it names more than {MAX_IMPORTED} keys")));
    }
    Ok(request.pubkeys.iter().map(|text| text.parse().ok()).collect())
}

fn invalid(what: &str) -> Problem {
    Problem::new(
        "request_invalid",
        format!("The request makes no sense: {what}."),
        "Send it as the keymanager API has it (docs/keymanager.md).",
    )
}
