//! Who is paid and which gas limit is voted for, validator by validator. The same rules that the page sets (decision 0201).

use std::sync::Arc;

use axum::{
    Json,
    body::Bytes,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use chain::PublicKeyBytes;
use cluster::read_address;
use ipc::Problem;
use serde::{Deserialize, Serialize};

use super::{Data, refuse, refuse_as_it_is};
use crate::{
    ledger::AllRules,
    rules::Rules,
    signer::{Signer, ledger_problem},
};

#[derive(Serialize)]
struct FeeRecipient {
    pubkey: String,
    ethaddress: String,
}

#[derive(Serialize)]
struct GasLimit {
    pubkey: String,
    gas_limit: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SetFeeRecipient {
    ethaddress: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SetGasLimit {
    gas_limit: String,
}

pub(super) async fn fee_recipient(State(signer): State<Arc<Signer>>, Path(key): Path<String>) -> Response {
    match signer.rules_for(&key) {
        Ok((_, rules)) => {
            Json(Data { data: FeeRecipient { pubkey: key, ethaddress: rules.fee_recipient.to_string() } })
                .into_response()
        }
        Err(problem) => refuse(StatusCode::NOT_FOUND, problem),
    }
}

pub(super) async fn gas_limit(State(signer): State<Arc<Signer>>, Path(key): Path<String>) -> Response {
    match signer.rules_for(&key) {
        Ok((_, rules)) => {
            Json(Data { data: GasLimit { pubkey: key, gas_limit: rules.gas_limit.to_string() } })
                .into_response()
        }
        Err(problem) => refuse(StatusCode::NOT_FOUND, problem),
    }
}

pub(super) async fn set_fee_recipient(
    State(signer): State<Arc<Signer>>,
    Path(key): Path<String>,
    body: Bytes,
) -> Response {
    let address = serde_json::from_slice::<SetFeeRecipient>(&body)
        .map_err(|_| invalid("`ethaddress` is missing"))
        .and_then(|wanted| {
            read_address(&wanted.ethaddress).map_err(|error| invalid(&format!("the address: {error}")))
        });
    match address {
        Ok(address) => set(&signer, &key, |rules| rules.fee_recipient = address).await,
        Err(problem) => refuse(StatusCode::BAD_REQUEST, problem),
    }
}

pub(super) async fn set_gas_limit(
    State(signer): State<Arc<Signer>>,
    Path(key): Path<String>,
    body: Bytes,
) -> Response {
    let limit = serde_json::from_slice::<SetGasLimit>(&body)
        .ok()
        .and_then(|wanted| wanted.gas_limit.parse::<u64>().ok())
        // What the ledger cannot hold is no gas limit of any chain.
        .filter(|limit| i64::try_from(*limit).is_ok());
    match limit {
        Some(limit) => set(&signer, &key, |rules| rules.gas_limit = limit).await,
        None => refuse(StatusCode::BAD_REQUEST, invalid("`gas_limit` must be a number in quotes")),
    }
}

/// Back to what the lock says is for the page: the signer keeps what holds, not where it came from.
pub(super) async fn keep_lock_s_word() -> Response {
    refuse(
        StatusCode::FORBIDDEN,
        Problem::new(
            "set_by_the_lock",
            "There is no setting to fall back to here: every validator has the one that holds.",
            "Set another one, or hand the cluster lock in again on the page.",
        ),
    )
}

/// An exit is the cluster's: this box's part of it is given when the owner has confirmed it (decision 0200).
pub(super) async fn no_exit_here() -> Response {
    refuse(
        StatusCode::FORBIDDEN,
        Problem::new(
            "exit_not_confirmed",
            "A validator leaves the chain only by its owners' word, each on the page of their own box.",
            "Confirm the exit on the page. This box then signs its part when the time to cancel is over.",
        ),
    )
}

async fn set(signer: &Arc<Signer>, key: &str, change: impl FnOnce(&mut Rules)) -> Response {
    match signer.change_rules(key, change).await {
        Ok(()) => StatusCode::ACCEPTED.into_response(),
        Err(problem) if problem.code == "validator_unknown" || problem.code == "no_rules" => {
            refuse(StatusCode::NOT_FOUND, problem)
        }
        Err(problem) => refuse_as_it_is(problem),
    }
}

impl Signer {
    /// The validator of which this is the key, or of which this is a share here.
    fn validator_of(&self, key: &str) -> Result<PublicKeyBytes, Problem> {
        let parsed: Option<PublicKeyBytes> = key.parse().ok();
        let rows = self.known_rows();
        let row = rows.iter().find(|row| parsed == Some(row.pubshare) || parsed == Some(row.group_key));
        row.map(|row| row.group_key).ok_or_else(|| {
            Problem::new(
                "validator_unknown",
                "No share with that public key, and none of that validator, is here.",
                "List the keystores and take a key from there.",
            )
        })
    }

    fn rules_for(&self, key: &str) -> Result<(PublicKeyBytes, Rules), Problem> {
        let validator = self.validator_of(key)?;
        let rules = self.known_rules(&validator).ok_or_else(|| {
            Problem::new(
                "no_rules",
                "This box does not know what its owner has settled for this validator.",
                "Hand the cluster lock in on the page first: it says where money goes.",
            )
        })?;
        Ok((validator, rules))
    }

    async fn change_rules(&self, key: &str, change: impl FnOnce(&mut Rules)) -> Result<(), Problem> {
        let _one_at_a_time = self.wishing.lock().await;
        let (validator, mut rules) = self.rules_for(key)?;
        change(&mut rules);
        let changed = AllRules::from([(validator, rules)]);
        self.ledger()?.keep_rules(changed.clone()).await.map_err(|error| ledger_problem(&error))?;
        tracing::warn!(%validator, "who is paid or the gas limit was set over the keymanager API");
        self.adopt_rules(changed);
        Ok(())
    }
}

fn invalid(what: &str) -> Problem {
    Problem::new(
        "request_invalid",
        format!("The request makes no sense: {what}."),
        "Send it as the keymanager API has it (docs/keymanager.md).",
    )
}
