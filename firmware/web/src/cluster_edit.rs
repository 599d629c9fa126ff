//! Changes of the cluster for the owner: the signer hears them first, from here and not from the node, then the node begins.

use std::sync::Arc;

use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use ipc::edit::{
    CLUSTER_EDIT_LOCK_PATH as NODE_LOCK_PATH, CLUSTER_EDIT_PATH as NODE_PATH, ClusterEditStatus, EDIT_PATH,
    EditCommit, edit_discard_path,
};
use ipc::server::Body;
use ipc::web::{CLUSTER_EDIT_LOCK_PATH, CLUSTER_EDIT_PATH, ClusterEditStart};

use crate::server::{Owner, Refusal, Web};

/// The routes.
pub(crate) fn routes() -> Router<Arc<Web>> {
    Router::new()
        .route(CLUSTER_EDIT_PATH, get(status).put(start).delete(discard))
        .route(CLUSTER_EDIT_LOCK_PATH, get(lock).put(bring_lock))
}

/// `GET /api/v1/cluster-edit`: how far every member is.
async fn status(State(web): State<Arc<Web>>) -> Result<Json<ClusterEditStatus>, Refusal> {
    Ok(Json(web.node.get(NODE_PATH).await?))
}

/// `PUT /api/v1/cluster-edit`: takes part in a change, or goes on with the same one.
async fn start(
    State(web): State<Arc<Web>>,
    _owner: Owner,
    Body(start): Body<ClusterEditStart>,
) -> Result<Json<ClusterEditStatus>, Refusal> {
    if let Some(consent) = &start.consent {
        web.signer.put::<serde_json::Value>(EDIT_PATH, consent).await?;
    }
    let status = web.node.put(NODE_PATH, &start.edit).await?;
    tracing::info!("the owner began a change of the cluster");
    Ok(Json(status))
}

/// `DELETE /api/v1/cluster-edit`: gives a change up, in both places. Refused once something is promised.
async fn discard(State(web): State<Arc<Web>>, _owner: Owner) -> Result<Json<ClusterEditStatus>, Refusal> {
    // Which one, while the node still knows it: the signer may know of changes of other clusters, which go on.
    let known: ClusterEditStatus = web.node.get(NODE_PATH).await?;
    let hash = known.edit.map(|edit| edit.lock_hash);
    let hash =
        hash.filter(|hash| hash.len() == 66 && hash.bytes().skip(2).all(|byte| byte.is_ascii_hexdigit()));
    let status = web.node.delete(NODE_PATH).await?;
    let path = hash.map_or_else(|| EDIT_PATH.to_owned(), |hash| edit_discard_path(&hash));
    web.signer.delete::<serde_json::Value>(&path).await?;
    tracing::warn!("the owner gave a change of the cluster up");
    Ok(Json(status))
}

/// `GET /api/v1/cluster-edit/lock`: the complete lock, for a member that was away at the end.
async fn lock(State(web): State<Arc<Web>>) -> Result<Json<EditCommit>, Refusal> {
    Ok(Json(web.node.get(NODE_LOCK_PATH).await?))
}

/// `PUT /api/v1/cluster-edit/lock`: brings it to that member.
async fn bring_lock(
    State(web): State<Arc<Web>>,
    _owner: Owner,
    Body(lock): Body<EditCommit>,
) -> Result<Json<ClusterEditStatus>, Refusal> {
    Ok(Json(web.node.put(NODE_LOCK_PATH, &lock).await?))
}
