//! The routes of a ceremony: the owner's on the control socket, `dv-node`'s on the signing socket.

use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use ipc::Problem;
use ipc::dkg::{
    CEREMONY_PATH, CEREMONY_STATUS_PATH, CeremonyConsent, DEAL_PATH, DealRequest, FINISH_PATH, FinishRequest,
    KEEP_PATH, KeepRequest, PARTIALS_PATH, PartialsRequest, RELEASE_PATH, ReleaseRequest,
};
use ipc::server::Body;
use serde::Serialize;

use crate::signer::Signer;

/// A lock of a thousand validators, or all broadcasts of a large ceremony.
const MAX_BODY_BYTES: usize = 64 << 20;

/// The keys of 32 members, or one member's shares of a thousand validators: about a quarter of this.
const MAX_SMALL_BYTES: usize = 1 << 20;

/// For the owner.
pub(crate) fn control_routes() -> Router<Arc<Signer>> {
    Router::new()
        .route(CEREMONY_PATH, get(status).put(begin).delete(discard))
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
}

/// For `dv-node`.
pub(crate) fn sign_routes() -> Router<Arc<Signer>> {
    let small = Router::new()
        .route(CEREMONY_STATUS_PATH, get(status))
        .route(DEAL_PATH, post(deal))
        .route(KEEP_PATH, post(keep))
        .layer(DefaultBodyLimit::max(MAX_SMALL_BYTES));
    Router::new()
        .route(FINISH_PATH, post(finish))
        .route(PARTIALS_PATH, post(partials))
        .route(RELEASE_PATH, post(release))
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .merge(small)
}

async fn status(State(signer): State<Arc<Signer>>) -> Response {
    answer(signer.ceremony_status().await)
}

async fn begin(State(signer): State<Arc<Signer>>, Body(consent): Body<CeremonyConsent>) -> Response {
    answer(signer.begin_ceremony(consent).await)
}

async fn discard(State(signer): State<Arc<Signer>>) -> Response {
    answer(signer.discard_ceremony().await)
}

async fn deal(State(signer): State<Arc<Signer>>, Body(request): Body<DealRequest>) -> Response {
    whole(async move { signer.deal(request).await }).await
}

async fn keep(State(signer): State<Arc<Signer>>, Body(request): Body<KeepRequest>) -> Response {
    whole(async move { signer.keep(request).await }).await
}

async fn finish(State(signer): State<Arc<Signer>>, Body(request): Body<FinishRequest>) -> Response {
    whole(async move { signer.finish(request).await }).await
}

async fn partials(State(signer): State<Arc<Signer>>, Body(request): Body<PartialsRequest>) -> Response {
    whole(async move { signer.ceremony_partials(request).await }).await
}

async fn release(State(signer): State<Arc<Signer>>, Body(request): Body<ReleaseRequest>) -> Response {
    whole(async move { signer.release(request).await }).await
}

/// Finished even when the caller hangs up: a step that is begun is stored whole, and the caller can ask again.
async fn whole<T: Serialize + Send + 'static>(
    work: impl Future<Output = Result<T, Problem>> + Send + 'static,
) -> Response {
    match tokio::spawn(work).await {
        Ok(result) => answer(result),
        Err(_) => {
            let problem =
                Problem::new("ceremony_failed", "A step failed by a fault of ours.", "Report this.");
            ipc::server::refusal(StatusCode::INTERNAL_SERVER_ERROR, problem)
        }
    }
}

fn answer<T: Serialize>(result: Result<T, Problem>) -> Response {
    match result {
        Ok(value) => Json(value).into_response(),
        Err(problem) => {
            tracing::warn!(code = %problem.code, reason = %problem.message, "a step of a ceremony was refused");
            ipc::server::refusal(crate::api::control::status_of(&problem), problem)
        }
    }
}
