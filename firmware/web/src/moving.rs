//! How shares come in and move: everything here is sealed to a signer before it reaches this process, or encrypted by one.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Query, State};
use axum::routing::post;
use axum::{Json, Router};
use ipc::folder::{self, FolderImported};
use ipc::moving::{self, Arrival, BackupFile, MoveBody, MoveCertificate, MoveOrder, Moves, MovesAfter};
use ipc::node::{self, ClusterEntry, NodeStatus, cluster_path};
use ipc::passphrase::{self, PassphraseStatus};
use ipc::server::Body;
use ipc::signer::{STATUS_PATH, ShareImported, SignerStatus};
use ipc::ssv::{self, SsvImported};
use ipc::web::{
    ARRIVALS_PATH, BACKUPS_PATH, FOLDERS_PATH, FolderUpload, MOVES_PATH, PASSPHRASE_PATH, RESTORES_PATH,
    SSV_PATH,
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
        .route(SSV_PATH, post(import_ssv))
        .route(BACKUPS_PATH, post(back_up))
        .route(RESTORES_PATH, post(restore))
        .route(MOVES_PATH, post(move_away).get(moves))
        .route(ARRIVALS_PATH, post(arrive))
        .route(PASSPHRASE_PATH, post(passphrase))
}

fn patient(web: &Web) -> Client {
    Client::new(web.signer.socket()).with_timeout(PATIENCE).with_answer_limit(moving::MAX_CARRIED_ANSWER)
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
        // Sent again, it changes nothing about them.
        fallback_beacon_nodes: None,
        proposals: None,
        obol_api: None,
    };
    let _status: Value = web.node.post(ipc::node::CLUSTERS_PATH, &setup).await?;
    Ok(Json(imported))
}

/// `POST /api/v1/ssv`: an SSV operator's key and key shares, sealed to the signer. No node is told of them: none here speaks SSV's
/// protocol yet, and the shares rest.
async fn import_ssv(
    State(web): State<Arc<Web>>,
    _owner: Owner,
    Body(sealed): Body<ShareImport>,
) -> Result<Json<SsvImported>, Refusal> {
    let imported: SsvImported = patient(&web).post(ssv::SSV_PATH, &sealed).await?;
    tracing::info!(shares = imported.imported.len(), "the owner imported files of an SSV operator");
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
    leave_clusters(&web, std::slice::from_ref(&certificate)).await;
    Ok(Json(certificate))
}

async fn leave_clusters(web: &Web, certificates: &[MoveCertificate]) {
    if let Err(error) = try_to_leave_clusters(web, certificates).await {
        tracing::warn!(%error, "a cluster whose shares have moved was not left");
    }
}

async fn try_to_leave_clusters(web: &Web, certificates: &[MoveCertificate]) -> Result<(), ClientError> {
    let bodies = certificates.iter().filter_map(|given| serde_json::from_str::<MoveBody>(&given.body).ok());
    let mut moved: BTreeSet<String> =
        bodies.flat_map(|body| body.shares).map(|share| share.group_key).collect();
    // A validator of which this box has got another share since, in a change of its cluster, is served here again.
    let held: SignerStatus = web.signer.get(STATUS_PATH).await?;
    moved.retain(|key| held.shares.iter().all(|share| share.group_key != *key));
    let moved = |key: &str| moved.contains(key);
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

/// `GET /api/v1/moves?after=N`: for an answer that got lost. It may have been lost before the clusters were left.
async fn moves(
    State(web): State<Arc<Web>>,
    _owner: Owner,
    Query(MovesAfter { after }): Query<MovesAfter>,
) -> Result<Json<Moves>, Refusal> {
    let path = format!("{}?after={after}", moving::MOVES_PATH);
    let given: Moves = patient(&web).get(&path).await?;
    leave_clusters(&web, &given.moves).await;
    Ok(Json(given))
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
