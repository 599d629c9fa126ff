//! How shares come in and move: everything here is sealed to a signer before it reaches this process, or encrypted by one.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::routing::post;
use axum::{Json, Router};
use ipc::folder::{self, FolderImported};
use ipc::moving::{self, Arrival, BackupFile, MoveBody, MoveCertificate, MoveOrder, Moves};
use ipc::node::{self, ClusterEntry, NodeStatus, cluster_path};
use ipc::passphrase::{self, PassphraseStatus};
use ipc::server::Body;
use ipc::signer::ShareImported;
use ipc::web::{
    ARRIVALS_PATH, BACKUPS_PATH, FOLDERS_PATH, FolderUpload, MOVES_PATH, PASSPHRASE_PATH, RESTORES_PATH,
};
use ipc::{Client, ClientError, ClusterSetup, Sensitive, ShareImport};
use serde_json::Value;

use crate::server::{Owner, Refusal, Web};

/// A thousand keystores take minutes on a small board.
const PATIENCE: Duration = Duration::from_secs(900);

/// The routes.
pub(crate) fn routes() -> Router<Arc<Web>> {
    Router::new()
        .route(FOLDERS_PATH, post(import_folder))
        .route(BACKUPS_PATH, post(back_up))
        .route(RESTORES_PATH, post(restore))
        .route(MOVES_PATH, post(move_away).get(moves))
        .route(ARRIVALS_PATH, post(arrive))
        .route(PASSPHRASE_PATH, post(passphrase))
}

fn patient(web: &Web) -> Client {
    Client::new(web.signer.socket()).with_timeout(PATIENCE)
}

/// `POST /api/v1/folders`: the shares first, all of them or none; then `dv-node` joins, and gets the identity key from the
/// signer. Sent again, it does what is missing.
async fn import_folder(
    State(web): State<Arc<Web>>,
    _owner: Owner,
    Body(upload): Body<FolderUpload>,
) -> Result<Json<FolderImported>, Refusal> {
    let imported: FolderImported = patient(&web).post(folder::FOLDERS_PATH, &upload.sealed).await?;
    tracing::info!(cluster = imported.cluster, "the owner imported a Charon folder");
    let setup = ClusterSetup {
        lock: upload.lock,
        identity_key: Sensitive::new(String::new()),
        beacon_nodes: upload.beacon_nodes,
        peers: upload.peers,
        relays: upload.relays,
        signing: ipc::Signing::BuiltIn,
    };
    let _status: Value = web.node.post(ipc::node::CLUSTERS_PATH, &setup).await?;
    Ok(Json(imported))
}

/// `POST /api/v1/backups`: the passphrase is sealed to the signer, which answers with an encrypted file.
async fn back_up(
    State(web): State<Arc<Web>>,
    _owner: Owner,
    Body(sealed): Body<ShareImport>,
) -> Result<Json<BackupFile>, Refusal> {
    Ok(Json(patient(&web).post(moving::BACKUPS_PATH, &sealed).await?))
}

/// `POST /api/v1/restores`.
async fn restore(
    State(web): State<Arc<Web>>,
    _owner: Owner,
    Body(sealed): Body<ShareImport>,
) -> Result<Json<ShareImported>, Refusal> {
    Ok(Json(patient(&web).post(moving::RESTORES_PATH, &sealed).await?))
}

/// `POST /api/v1/moves`: the signer gives its shares away; then `dv-node` leaves the clusters that they belonged to.
async fn move_away(
    State(web): State<Arc<Web>>,
    _owner: Owner,
    Body(order): Body<MoveOrder>,
) -> Result<Json<MoveCertificate>, Refusal> {
    let certificate: MoveCertificate = patient(&web).post(moving::MOVES_PATH, &order).await?;
    tracing::warn!("the owner moved all shares to another box");
    // Without its shares it can do no duty. That it stops speaking for this member is a courtesy to the new box, which the
    // certificate does not wait for.
    if let Err(error) = leave_clusters(&web, &certificate).await {
        tracing::warn!(%error, "a cluster whose shares have moved was not left");
    }
    Ok(Json(certificate))
}

async fn leave_clusters(web: &Web, certificate: &MoveCertificate) -> Result<(), ClientError> {
    let Ok(body) = serde_json::from_str::<MoveBody>(&certificate.body) else { return Ok(()) };
    let moved = |key: &str| body.shares.iter().any(|share| share.group_key == key);
    let entries: Vec<ClusterEntry> = web.node.get(node::CLUSTERS_PATH).await?;
    for entry in entries {
        let status: NodeStatus = web.node.get(&cluster_path(&entry.lock_hash)).await?;
        let validators = status.cluster.map(|cluster| cluster.validators).unwrap_or_default();
        if !validators.is_empty() && validators.iter().all(|validator| moved(&validator.group_public_key)) {
            let _left: Value = web.node.delete(&cluster_path(&entry.lock_hash)).await?;
        }
    }
    Ok(())
}

/// `GET /api/v1/moves`: for an answer that got lost.
async fn moves(State(web): State<Arc<Web>>, _owner: Owner) -> Result<Json<Moves>, Refusal> {
    Ok(Json(web.signer.get(moving::MOVES_PATH).await?))
}

/// `POST /api/v1/arrivals`: shares that another box gave to this one.
async fn arrive(
    State(web): State<Arc<Web>>,
    _owner: Owner,
    Body(arrival): Body<Arrival>,
) -> Result<Json<ShareImported>, Refusal> {
    Ok(Json(patient(&web).post(moving::ARRIVALS_PATH, &arrival).await?))
}

/// `POST /api/v1/passphrase`: on a board without a TPM, sealed to the signer.
async fn passphrase(
    State(web): State<Arc<Web>>,
    _owner: Owner,
    Body(sealed): Body<ShareImport>,
) -> Result<Json<PassphraseStatus>, Refusal> {
    Ok(Json(patient(&web).post(passphrase::PASSPHRASE_PATH, &sealed).await?))
}
