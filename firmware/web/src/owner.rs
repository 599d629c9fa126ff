//! What only the owner may do on the page: exits, who is paid, deposits, and the checks before a box joins.

use std::sync::Arc;

use axum::extract::State;
use axum::routing::{get, post, put};
use axum::{Json, Router};
use ipc::node::{DepositPlan, DepositsAsked, ExitFiles, WantedExit};
use ipc::owner::{ExitApprovals, ExitCancel, ExitOrder, OwnerRules, ResumeShare, RulesKept, ShareResumed};
use ipc::preflight::{PreflightReport, PreflightRequest};
use ipc::server::Body;
use ipc::web::{
    DEPOSITS_PATH, EXIT_FILES_PATH, EXITS_CANCEL_PATH, EXITS_PATH, PREFLIGHT_PATH, RESUME_PATH, RULES_PATH,
};
use ipc::{node, owner, preflight};
use serde_json::Value;

use crate::server::{Owner, Refusal, Web};

/// The owner's routes.
pub(crate) fn routes() -> Router<Arc<Web>> {
    Router::new()
        .route(EXITS_PATH, post(order_exit))
        .route(EXITS_CANCEL_PATH, post(cancel_exit))
        .route(EXIT_FILES_PATH, get(exit_files).post(take_exit_file))
        .route(RULES_PATH, put(set_rules))
        .route(RESUME_PATH, post(resume_share))
        .route(PREFLIGHT_PATH, get(preflight_report).post(begin_preflight))
        .route(DEPOSITS_PATH, post(deposits))
}

/// `POST /api/v1/exits`: the signer first, for only it can refuse; then `dv-node` learns when to ask it. Ordered again, the
/// same order does what is missing.
async fn order_exit(
    State(web): State<Arc<Web>>,
    _owner: Owner,
    Body(order): Body<ExitOrder>,
) -> Result<Json<ExitApprovals>, Refusal> {
    let approvals: ExitApprovals = web.signer.post(owner::EXITS_PATH, &order).await?;
    let wanted = |exit: &owner::ExitApproval| WantedExit {
        validator: exit.validator.clone(),
        epoch: exit.epoch,
        not_before_ms: exit.ready_at_ms,
    };
    let wanted: Vec<WantedExit> = approvals.exits.iter().map(wanted).collect();
    let _status: Value = web.node.post(node::EXITS_PATH, &wanted).await?;
    tracing::warn!("the owner ordered an exit");
    Ok(Json(approvals))
}

/// `POST /api/v1/exits/cancel`: the signer first, for what it does not sign does not exist.
async fn cancel_exit(
    State(web): State<Arc<Web>>,
    _owner: Owner,
    Body(cancel): Body<ExitCancel>,
) -> Result<Json<ExitApprovals>, Refusal> {
    let approvals: ExitApprovals = web.signer.post(owner::EXITS_CANCEL_PATH, &cancel).await?;
    let _status: Value = web.node.post(node::EXITS_CANCEL_PATH, &cancel).await?;
    Ok(Json(approvals))
}

/// `GET /api/v1/exits/files`.
async fn exit_files(State(web): State<Arc<Web>>, _owner: Owner) -> Result<Json<ExitFiles>, Refusal> {
    Ok(Json(web.node.get(node::EXIT_FILES_PATH).await?))
}

/// `POST /api/v1/exits/files`: a member's partial exits, as its box gave them out.
async fn take_exit_file(
    State(web): State<Arc<Web>>,
    _owner: Owner,
    Body(file): Body<Value>,
) -> Result<Json<Value>, Refusal> {
    Ok(Json(web.node.post(node::EXIT_FILES_PATH, &file).await?))
}

/// `PUT /api/v1/rules`: the lock again, with who is paid where that differs.
async fn set_rules(
    State(web): State<Arc<Web>>,
    _owner: Owner,
    Body(rules): Body<OwnerRules>,
) -> Result<Json<RulesKept>, Refusal> {
    Ok(Json(web.signer.put(owner::RULES_PATH, &rules).await?))
}

/// `POST /api/v1/shares/resume`: a share that was seen signing elsewhere goes on.
async fn resume_share(
    State(web): State<Arc<Web>>,
    _owner: Owner,
    Body(wish): Body<ResumeShare>,
) -> Result<Json<ShareResumed>, Refusal> {
    let resumed = web.signer.post(owner::RESUME_PATH, &wish).await?;
    tracing::warn!("the owner lets a share go on that was seen elsewhere");
    Ok(Json(resumed))
}

/// `GET /api/v1/preflight`: reading is free, as the status is.
async fn preflight_report(State(web): State<Arc<Web>>) -> Result<Json<PreflightReport>, Refusal> {
    Ok(Json(web.node.get(preflight::PREFLIGHT_PATH).await?))
}

/// `POST /api/v1/preflight`: needs the claim code, for it makes the box work.
async fn begin_preflight(
    State(web): State<Arc<Web>>,
    _owner: Owner,
    Body(request): Body<PreflightRequest>,
) -> Result<Json<PreflightReport>, Refusal> {
    Ok(Json(web.node.post(preflight::PREFLIGHT_PATH, &request).await?))
}

/// `POST /api/v1/deposits`.
async fn deposits(
    State(web): State<Arc<Web>>,
    _owner: Owner,
    Body(asked): Body<DepositsAsked>,
) -> Result<Json<DepositPlan>, Refusal> {
    Ok(Json(web.node.post(node::DEPOSITS_PATH, &asked).await?))
}
