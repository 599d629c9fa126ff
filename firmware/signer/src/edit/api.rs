//! The routes of an edit: the owner's on the control socket, `dv-node`'s on the signing socket.

use std::future::Future;
use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use ipc::Problem;
use ipc::edit::{
    EDIT_BEGIN_PATH, EDIT_CHECK_PATH, EDIT_COMMIT_PATH, EDIT_DRY_RUN_PATH, EDIT_KEYS_PATH, EDIT_PATH,
    EDIT_PREPARE_PATH, EDIT_STATUS_PATH, EDIT_STEP_PATH, EditCheck, EditCommit, EditConsent, EditDiscard,
    EditDryRun, EditKeys, EditStep,
};
use ipc::server::{Body, CountedBody};
use serde::Serialize;

use crate::api::sign::Turn;
use crate::signer::Signer;

/// A lock of a thousand validators with all partial signatures of it.
const MAX_BODY_BYTES: usize = 64 << 20;

/// The partial signatures of 255 members for a thousand validators are a million.
const MAX_PARTS: usize = 2_000_000;

/// The keys of 255 members, or one bundle of one validator for as many: about a quarter of this.
const MAX_SMALL_BYTES: usize = 1 << 20;

/// For the owner.
pub(crate) fn control_routes() -> Router<Arc<Signer>> {
    Router::new()
        .route(EDIT_PATH, get(status).put(allow).delete(discard))
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
}

/// For `dv-node`.
pub(crate) fn sign_routes() -> Router<Arc<Signer>> {
    let small = Router::new()
        .route(EDIT_STATUS_PATH, get(status))
        .route(EDIT_BEGIN_PATH, post(begin))
        .route(EDIT_KEYS_PATH, post(keys))
        .route(EDIT_STEP_PATH, post(step))
        .route(EDIT_PREPARE_PATH, post(prepare))
        .route(EDIT_DRY_RUN_PATH, post(dry_run))
        .layer(DefaultBodyLimit::max(MAX_SMALL_BYTES));
    Router::new()
        .route(EDIT_CHECK_PATH, post(check))
        .route(EDIT_COMMIT_PATH, post(commit))
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .merge(small)
}

async fn status(State(signer): State<Arc<Signer>>) -> Response {
    answer(signer.edit_status().await)
}

async fn allow(State(signer): State<Arc<Signer>>, Body(consent): Body<EditConsent>) -> Response {
    whole(async move { signer.allow_edit(consent).await }).await
}

async fn discard(State(signer): State<Arc<Signer>>, Query(which): Query<EditDiscard>) -> Response {
    whole(async move { signer.discard_edit(which.name(), which.is_confirmed()).await }).await
}

async fn begin(State(signer): State<Arc<Signer>>) -> Response {
    answer(signer.begin_edit().await)
}

async fn keys(State(signer): State<Arc<Signer>>, Body(keys): Body<EditKeys>) -> Response {
    answer(signer.edit_keys(keys).await)
}

async fn step(State(signer): State<Arc<Signer>>, Body(step): Body<EditStep>) -> Response {
    whole(async move { signer.edit_step(step).await }).await
}

async fn prepare(State(signer): State<Arc<Signer>>) -> Response {
    whole(async move { signer.prepare_edit().await }).await
}

async fn dry_run(State(signer): State<Arc<Signer>>, Body(request): Body<EditDryRun>) -> Response {
    whole(async move { signer.dry_run(request).await }).await
}

async fn check(
    State(signer): State<Arc<Signer>>,
    turn: Turn,
    CountedBody(request): CountedBody<EditCheck, MAX_PARTS>,
) -> Response {
    let work = async move {
        let _turn = turn;
        signer.check_dry_run(request).await
    };
    whole(work).await
}

async fn commit(
    State(signer): State<Arc<Signer>>,
    turn: Turn,
    CountedBody(request): CountedBody<EditCommit, MAX_PARTS>,
) -> Response {
    let work = async move {
        let _turn = turn;
        signer.commit_edit(request).await
    };
    whole(work).await
}

/// Finished even when the caller hangs up: what is begun is brought to its end, and the caller can ask again.
async fn whole<T: Serialize + Send + 'static>(
    work: impl Future<Output = Result<T, Problem>> + Send + 'static,
) -> Response {
    match tokio::spawn(work).await {
        Ok(outcome) => answer(outcome),
        Err(_) => {
            let problem =
                Problem::new("edit_fault", "The change stopped by a fault of ours.", "Report this.");
            ipc::server::refusal(StatusCode::INTERNAL_SERVER_ERROR, problem)
        }
    }
}

fn answer<T: Serialize>(outcome: Result<T, Problem>) -> Response {
    match outcome {
        Ok(answer) => Json(answer).into_response(),
        Err(problem) => {
            tracing::warn!(code = %problem.code, reason = %problem.message, "a step of a change of the cluster was refused");
            // The box's own trouble may pass: `dv-node` asks again then, instead of giving the change up.
            ipc::server::refusal(crate::api::control::status_of(&problem), problem)
        }
    }
}
