//! The keymanager API (ethereum/keymanager-APIs) for whoever the owner trusts with the shares: list, import with history, delete
//! with history, and who is paid.
//!
//! On the control socket and behind the door for clients outside the box, each time with the token besides. What differs from
//! a box with whole keys is said in `docs/keymanager.md` and decision 0291. **No route gives a share out**, none loosens
//! anything that was recorded, and a validator leaves the chain by the owner's word on the page alone.

mod delete;
mod import;
mod policy;
mod token;

use std::{sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, Request, State},
    http::StatusCode,
    middleware::{self, Next},
    response::{IntoResponse as _, Response},
    routing::{get, post},
};
use ipc::{Problem, server::Limits};
use serde::Serialize;

pub(crate) use delete::read_request as read_deletion;
pub(crate) use import::read_request;

use crate::signer::Signer;

/// A complete history of many shares is large, and keystores take their time.
pub(crate) const LIMITS: Limits = Limits {
    body_bytes: 16 * 1024 * 1024,
    request_timeout: Duration::from_secs(900),
    idle_timeout: Duration::from_secs(120),
    connections: 64,
};
/// Requests whose bodies are in memory at once: this process may lock only so much of it.
const BODIES: usize = 2;

/// All routes; each asks for the token.
pub(crate) fn routes(signer: Arc<Signer>) -> Router {
    Router::new()
        .route(
            "/eth/v1/keystores",
            get(list).post(import::import).delete(delete::delete).route_layer(
                middleware::from_fn_with_state(Arc::new(tokio::sync::Semaphore::new(BODIES)), in_turn),
            ),
        )
        .route("/eth/v1/remotekeys", get(no_remote_keys).post(no_remote_keys).delete(no_remote_keys))
        .route(
            "/eth/v1/validator/{key}/feerecipient",
            get(policy::fee_recipient).post(policy::set_fee_recipient).delete(policy::keep_lock_s_word),
        )
        .route(
            "/eth/v1/validator/{key}/gas_limit",
            get(policy::gas_limit).post(policy::set_gas_limit).delete(policy::keep_lock_s_word),
        )
        .route("/eth/v1/validator/{key}/voluntary_exit", post(policy::no_exit_here))
        .layer(DefaultBodyLimit::max(LIMITS.body_bytes))
        .route_layer(middleware::from_fn_with_state(Arc::clone(&signer), token::only_with_token))
        .with_state(signer)
}

/// Waits for a place before the body is read. Who is here has shown the token.
async fn in_turn(
    State(places): State<Arc<tokio::sync::Semaphore>>,
    request: Request,
    next: Next,
) -> Response {
    let _place = places.acquire().await;
    next.run(request).await
}

/// What a request is answered with, as that API has it.
#[derive(Serialize)]
struct Data<T> {
    data: T,
}

/// A listed share. `validating_pubkey` is what the share signs with and what all other routes take; it is the public **share**,
/// for no whole key is here.
#[derive(Serialize)]
struct Listed {
    validating_pubkey: String,
    derivation_path: &'static str,
    readonly: bool,
    /// The validator's own key. Not of the standard.
    group_pubkey: String,
    /// Which share of it this is, from 1. Not of the standard.
    share_index: u8,
}

async fn list(State(signer): State<Arc<Signer>>) -> Response {
    let listed: Vec<Listed> = signer
        .known_rows()
        .iter()
        .map(|row| Listed {
            validating_pubkey: row.pubshare.to_string(),
            derivation_path: "",
            readonly: false,
            group_pubkey: row.group_key.to_string(),
            share_index: row.share_index,
        })
        .collect();
    Json(Data { data: listed }).into_response()
}

async fn no_remote_keys() -> Response {
    refuse(
        StatusCode::NOT_IMPLEMENTED,
        Problem::new(
            "no_remote_keys",
            "This is the signer itself: it has no keys that are elsewhere.",
            "Import shares as keystores.",
        ),
    )
}

/// One line for each key of a request, in its order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Outcome {
    pub(super) status: &'static str,
    pub(super) message: String,
}

impl Outcome {
    pub(super) fn new(status: &'static str, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }

    pub(super) fn error(problem: &Problem) -> Self {
        Self::new("error", format!("{} {}", problem.message, problem.next_step))
    }
}

/// Refusals have the `message` that the API asks for, and ours beside it.
fn refuse(status: StatusCode, problem: Problem) -> Response {
    ipc::server::refusal(status, problem)
}

/// The box's own trouble, or the caller's.
fn refuse_as_it_is(problem: Problem) -> Response {
    match crate::api::control::status_of(&problem) {
        StatusCode::UNPROCESSABLE_ENTITY => refuse(StatusCode::BAD_REQUEST, problem),
        status => refuse(status, problem),
    }
}
