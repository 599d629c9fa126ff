//! Backups and moves, on the control socket. What is begun is finished even when the caller hangs up.

use std::sync::Arc;

use axum::{
    Router,
    extract::{DefaultBodyLimit, Query, State, rejection::QueryRejection},
    response::Response,
    routing::post,
};
use ipc::{
    Problem, ShareImport,
    moving::{ARRIVALS_PATH, Arrival, BACKUPS_PATH, MOVES_PATH, MoveOrder, MovesAfter, RESTORES_PATH},
    server::Body,
};

use super::control::{Place, answer};
use crate::signer::Signer;

/// The routes.
pub(super) fn routes() -> Router<Arc<Signer>> {
    Router::new()
        .route(BACKUPS_PATH, post(back_up))
        .route(RESTORES_PATH, post(restore).layer(DefaultBodyLimit::max(crate::MAX_LARGE_BYTES)))
        .route(MOVES_PATH, post(release).get(releases))
        .route(ARRIVALS_PATH, post(arrive).layer(DefaultBodyLimit::max(crate::MAX_LARGE_BYTES)))
}

/// Work that comes to its end even when the caller hangs up: what is begun is stored whole, and the caller can ask again.
pub(crate) async fn finished<T: Send + 'static>(
    place: Place,
    work: impl Future<Output = Result<T, Problem>> + Send + 'static,
) -> Result<T, Problem> {
    let kept = async move {
        let _place = place;
        work.await
    };
    tokio::spawn(kept).await.unwrap_or_else(|_| Err(crate::folder::fault()))
}

async fn back_up(
    State(signer): State<Arc<Signer>>,
    place: Place,
    Body(sealed): Body<ShareImport>,
) -> Response {
    answer(finished(place, async move { signer.back_up(sealed).await }).await)
}

async fn restore(
    State(signer): State<Arc<Signer>>,
    place: Place,
    Body(sealed): Body<ShareImport>,
) -> Response {
    answer(finished(place, async move { signer.restore(sealed).await }).await)
}

async fn release(State(signer): State<Arc<Signer>>, place: Place, Body(order): Body<MoveOrder>) -> Response {
    answer(finished(place, async move { signer.move_away(order).await }).await)
}

async fn releases(
    State(signer): State<Arc<Signer>>,
    after: Result<Query<MovesAfter>, QueryRejection>,
) -> Response {
    let Query(MovesAfter { after }) = after.unwrap_or_default();
    answer(signer.releases(after).await)
}

async fn arrive(State(signer): State<Arc<Signer>>, place: Place, Body(arrival): Body<Arrival>) -> Response {
    answer(finished(place, async move { signer.arrive(arrival).await }).await)
}
