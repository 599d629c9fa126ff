//! Changes of the cluster for the owner: the signer hears them first, from here and not from the node, then the node begins.

use std::sync::Arc;

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use ipc::edit::{
    CLUSTER_EDIT_LOCK_PATH as NODE_LOCK_PATH, CLUSTER_EDIT_PATH as NODE_PATH, ClusterEditStatus, EDIT_PATH,
    EditCommit, EditDiscard, EditStatus, OpenEdit, UNREADABLE_EDIT, cluster_edit_discard_path,
    cluster_edit_forgo_path, edit_discard_path, edit_forgo_path, edit_name, edit_which,
};
use ipc::server::Body;
use ipc::web::{CLUSTER_EDIT_LOCK_PATH, CLUSTER_EDIT_PATH, ClusterEditShown, ClusterEditStart};

use crate::server::{Owner, Refusal, Web};

/// The routes.
pub(crate) fn routes() -> Router<Arc<Web>> {
    Router::new()
        .route(CLUSTER_EDIT_PATH, get(status).put(start).delete(discard))
        .route(CLUSTER_EDIT_LOCK_PATH, get(lock).put(bring_lock))
}

/// `GET /api/v1/cluster-edit`: how far every member is, and what can be given up.
async fn status(State(web): State<Arc<Web>>) -> Result<Json<ClusterEditShown>, Refusal> {
    Ok(Json(shown(&web, web.node.get(NODE_PATH).await?).await))
}

async fn shown(web: &Web, status: ClusterEditStatus) -> ClusterEditShown {
    // One that is locked has nothing in hand, and gives nothing up.
    let in_signer: Option<EditStatus> = web.signer.get(EDIT_PATH).await.ok();
    let open = open(&status, in_signer.map(|signer| signer.open).unwrap_or_default());
    ClusterEditShown { status, open }
}

/// What can be given up: what the signer knows, and what the node keeps besides. Of what was promised with old shares there is no
/// way back.
fn open(node: &ClusterEditStatus, mut in_signer: Vec<OpenEdit>) -> Vec<OpenEdit> {
    let Some(kept) = node.edit.as_ref().filter(|edit| edit.new_lock_hash.is_none()) else { return in_signer };
    let name = edit_name(&kept.lock_hash);
    if kept.promised {
        in_signer.retain(|open| open.name != name);
    } else if in_signer.iter().all(|open| open.name != name) {
        let name = name.to_owned();
        in_signer.push(OpenEdit { name, validators: kept.validators, validator: None, promised: false });
    }
    in_signer
}

/// `PUT /api/v1/cluster-edit`: takes part in a change, or goes on with the same one.
async fn start(
    State(web): State<Arc<Web>>,
    _owner: Owner,
    Body(start): Body<ClusterEditStart>,
) -> Result<Json<ClusterEditShown>, Refusal> {
    if let Some(consent) = &start.consent {
        web.signer.put::<serde_json::Value>(EDIT_PATH, consent).await?;
    }
    let status = web.node.put(NODE_PATH, &start.edit).await?;
    tracing::info!("the owner began a change of the cluster");
    Ok(Json(shown(&web, status).await))
}

/// `DELETE /api/v1/cluster-edit?lock_hash=…`: gives the change up that the owner was shown under this name, in both places.
/// Refused once something is promised, but for a promise to join that the owner says nobody counts on. What the node says that it
/// keeps decides nothing here.
async fn discard(
    State(web): State<Arc<Web>>,
    _owner: Owner,
    Query(which): Query<EditDiscard>,
) -> Result<Json<ClusterEditShown>, Refusal> {
    let name = which.name().ok_or_else(|| Refusal(StatusCode::UNPROCESSABLE_ENTITY, edit_which(&[])))?;
    let mut status = web.node.delete(&cluster_edit_discard_path(name)).await?;
    if name != UNREADABLE_EDIT {
        let path = if which.is_confirmed() { edit_forgo_path(name) } else { edit_discard_path(name) };
        web.signer.delete::<serde_json::Value>(&path).await?;
        if which.is_confirmed() {
            // What the signer holds no more, the node must not keep: it asks the signer, and forgets nothing on our word.
            status = web.node.delete(&cluster_edit_forgo_path(name)).await?;
        }
    }
    tracing::warn!(name, "the owner gave a change of a cluster up");
    Ok(Json(shown(&web, status).await))
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
) -> Result<Json<ClusterEditShown>, Refusal> {
    Ok(Json(shown(&web, web.node.put(NODE_LOCK_PATH, &lock).await?).await))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_given_up_is_what_signer_and_node_know_and_nothing_that_was_promised() {
        let hash = |byte: u8| format!("0x{}", format!("{byte:02x}").repeat(32));
        let in_signer = |name: &str| OpenEdit {
            name: name.to_owned(),
            validators: 2,
            validator: Some("0xaa".to_owned()),
            promised: false,
        };
        let node = |name: &str, promised: bool| -> ClusterEditStatus {
            let edit = serde_json::json!({"name": "", "lock_hash": name, "phase": "failed", "step": 0, "dealt": 0,
                "validators": 0, "promised": promised, "members": [], "problems": []});
            serde_json::from_value(serde_json::json!({ "edit": edit })).unwrap()
        };
        let names = |status: &ClusterEditStatus| {
            let open = open(status, vec![in_signer(&hash(1)), in_signer(&hash(2))]);
            open.into_iter().map(|open| open.name).collect::<Vec<_>>()
        };
        assert_eq!(names(&ClusterEditStatus { edit: None }), [hash(1), hash(2)]);
        assert_eq!(names(&node(&hash(2), false)), [hash(1), hash(2)]);
        assert_eq!(names(&node(&hash(3), false)), [hash(1), hash(2), hash(3)]);
        assert_eq!(names(&node("", false)), [hash(1), hash(2), UNREADABLE_EDIT.to_owned()]);
        assert_eq!(names(&node(&hash(2), true)), [hash(1)]);
    }
}
