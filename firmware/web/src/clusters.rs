//! A box in several clusters: the list, joining and leaving, and what is asked of one cluster by its lock hash.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use ipc::node::{ClusterEntry, DepositPlan, DepositsAsked, ExitFiles, NodeStatus, cluster_path};
use ipc::preflight::{PreflightReport, PreflightRequest};
use ipc::server::Body;
use ipc::web::CLUSTERS_PATH;
use ipc::{Client, ClusterSetup, Problem, node};
use serde_json::Value;

use crate::server::{MAX_BODY_BYTES, Owner, Refusal, Web, set_cluster};

/// The routes.
pub(crate) fn routes() -> Router<Arc<Web>> {
    let one = format!("{CLUSTERS_PATH}/{{lock_hash}}");
    Router::new()
        .route(CLUSTERS_PATH, get(list).post(set_cluster))
        .route(&one, delete(leave))
        .route(&format!("{one}/exits/files"), get(exit_files).post(take_exit_file))
        .route(&format!("{one}/preflight"), get(preflight_report).post(begin_preflight))
        .route(&format!("{one}/deposits"), post(deposits))
        .route(&format!("{one}/setup"), get(setup))
}

/// The clusters beside the first one, for the status.
pub(crate) async fn further(web: &Web, first: Option<&NodeStatus>) -> Vec<NodeStatus> {
    if first.is_none() {
        return Vec::new();
    }
    let entries: Vec<ClusterEntry> = match web.node.get(node::CLUSTERS_PATH).await {
        Ok(entries) => entries,
        Err(error) => {
            tracing::warn!(%error, "the list of clusters cannot be had");
            return Vec::new();
        }
    };
    let mut found = Vec::new();
    for entry in entries.into_iter().skip(1) {
        match web.node.get(&cluster_path(&entry.lock_hash)).await {
            Ok(status) => found.push(status),
            Err(error) => tracing::warn!(%error, "the status of a cluster cannot be had"),
        }
    }
    found
}

/// A lock hash as a path of the node. What comes from outside must not become another path.
fn path_of(lock_hash: &str, rest: &str) -> Result<String, Refusal> {
    let hex = lock_hash.strip_prefix("0x").unwrap_or(lock_hash);
    if hex.is_empty() || hex.len() > 64 || !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        let problem = Problem::new(
            "cluster_unknown",
            "This is not the lock hash of a cluster.",
            "Look up the lock hash in the list of this box's clusters.",
        );
        return Err(Refusal(StatusCode::NOT_FOUND, problem));
    }
    Ok(format!("{}{rest}", cluster_path(lock_hash)))
}

/// `GET /api/v1/clusters`: reading is free, as the status is.
async fn list(State(web): State<Arc<Web>>) -> Result<Json<Vec<ClusterEntry>>, Refusal> {
    Ok(Json(web.node.get(node::CLUSTERS_PATH).await?))
}

/// `DELETE /api/v1/clusters/<lock hash>`: the box does this cluster's duties no more. Shares and history stay in the signer.
async fn leave(
    State(web): State<Arc<Web>>,
    _owner: Owner,
    Path(lock_hash): Path<String>,
) -> Result<Json<Vec<ClusterEntry>>, Refusal> {
    let left = web.node.delete(&path_of(&lock_hash, "")?).await?;
    tracing::warn!(lock_hash, "the owner left a cluster");
    Ok(Json(left))
}

async fn exit_files(
    State(web): State<Arc<Web>>,
    _owner: Owner,
    Path(lock_hash): Path<String>,
) -> Result<Json<ExitFiles>, Refusal> {
    Ok(Json(web.node.get(&path_of(&lock_hash, "/exits/files")?).await?))
}

async fn take_exit_file(
    State(web): State<Arc<Web>>,
    _owner: Owner,
    Path(lock_hash): Path<String>,
    Body(file): Body<Value>,
) -> Result<Json<Value>, Refusal> {
    Ok(Json(web.node.post(&path_of(&lock_hash, "/exits/files")?, &file).await?))
}

/// `GET /api/v1/clusters/<lock hash>/setup`: what another box joins with, but for the identity key, which the signer carries. The
/// addresses in it may hold what a beacon node's provider charges by, so it takes the claim code.
async fn setup(
    State(web): State<Arc<Web>>,
    _owner: Owner,
    Path(lock_hash): Path<String>,
) -> Result<Json<ClusterSetup>, Refusal> {
    let node = Client::new(web.node.socket()).with_answer_limit(MAX_BODY_BYTES);
    let setup: ClusterSetup = node.get(&path_of(&lock_hash, "/setup")?).await?;
    Ok(Json(setup))
}

async fn preflight_report(
    State(web): State<Arc<Web>>,
    Path(lock_hash): Path<String>,
) -> Result<Json<PreflightReport>, Refusal> {
    Ok(Json(web.node.get(&path_of(&lock_hash, "/preflight")?).await?))
}

async fn begin_preflight(
    State(web): State<Arc<Web>>,
    _owner: Owner,
    Path(lock_hash): Path<String>,
    Body(request): Body<PreflightRequest>,
) -> Result<Json<PreflightReport>, Refusal> {
    Ok(Json(web.node.post(&path_of(&lock_hash, "/preflight")?, &request).await?))
}

async fn deposits(
    State(web): State<Arc<Web>>,
    _owner: Owner,
    Path(lock_hash): Path<String>,
    Body(asked): Body<DepositsAsked>,
) -> Result<Json<DepositPlan>, Refusal> {
    Ok(Json(web.node.post(&path_of(&lock_hash, "/deposits")?, &asked).await?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_lock_hash_becomes_part_of_a_path() {
        let hash = "ab".repeat(32);
        assert_eq!(path_of(&hash, "/x").unwrap(), format!("/v1/clusters/{hash}/x"));
        assert!(path_of(&format!("0x{hash}"), "").is_ok());
        for wrong in ["", "0x", "..", "ab/..", "ab?x", "zz", &"ab".repeat(33)] {
            assert!(path_of(wrong, "").is_err(), "{wrong}");
        }
    }
}
