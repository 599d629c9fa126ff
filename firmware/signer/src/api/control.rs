//! The control socket: status, sealed imports, metrics.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, FromRequestParts, State},
    http::{StatusCode, header, request::Parts},
    response::{IntoResponse as _, Response},
    routing::{get, post, put},
};
use ipc::{
    Problem, ShareImport, SignerStatus,
    folder::FOLDERS_PATH,
    owner::{
        EXITS_CANCEL_PATH, EXITS_PATH, ExitApprovals, ExitCancel, ExitOrder, OwnerRules, RESUME_PATH,
        RULES_PATH, ResumeShare,
    },
    passphrase::PASSPHRASE_PATH,
    server::Body,
    signer::{SHARES_PATH, STATUS_PATH},
};

use crate::signer::Signer;

/// The router.
pub(crate) fn router(signer: Arc<Signer>) -> Router {
    Router::new()
        .route(STATUS_PATH, get(status))
        .route(SHARES_PATH, post(import))
        .route(FOLDERS_PATH, post(import_folder).layer(DefaultBodyLimit::max(crate::MAX_LARGE_BYTES)))
        .merge(super::moving::routes())
        .merge(crate::ssv::control_routes())
        .route(RULES_PATH, put(rules))
        .route(EXITS_PATH, get(exits).post(order_exit))
        .route(EXITS_CANCEL_PATH, post(cancel_exit))
        .route(RESUME_PATH, post(resume))
        .route(PASSPHRASE_PATH, get(passphrase).post(order_passphrase))
        .merge(crate::edit::control_routes())
        .merge(crate::remote::control_routes())
        .merge(crate::history::control_routes())
        .route("/metrics", get(metrics))
        .merge(crate::ceremony::control_routes())
        .with_state(Arc::clone(&signer))
        .merge(crate::keymanager::routes(signer))
}

async fn status(State(signer): State<Arc<Signer>>) -> Json<SignerStatus> {
    Json(signer.status().await)
}

/// A place among those whose large bodies are in memory. Asked for before the body is read, and kept until the work is done,
/// whether the caller waits for it or not.
pub(crate) struct Place(
    #[expect(dead_code, reason = "it is given back when dropped")] tokio::sync::OwnedSemaphorePermit,
);

impl FromRequestParts<Arc<Signer>> for Place {
    type Rejection = Response;

    async fn from_request_parts(_: &mut Parts, signer: &Arc<Signer>) -> Result<Self, Response> {
        Arc::clone(&signer.places).try_acquire_owned().map(Self).map_err(|_| {
            let problem = Problem::new(
                "signer_busy",
                "The signer has its hands full with other files.",
                "Try again in a minute.",
            );
            ipc::server::refusal(StatusCode::SERVICE_UNAVAILABLE, problem)
        })
    }
}

async fn import(
    State(signer): State<Arc<Signer>>,
    place: Place,
    Body(sealed): Body<ShareImport>,
) -> Response {
    // Finished even when the caller hangs up: what is begun is stored whole, and the caller can ask again.
    let importing = tokio::spawn(async move {
        let _place = place;
        signer.import(sealed).await
    });
    match importing.await {
        Ok(Ok(imported)) => Json(imported).into_response(),
        Ok(Err(problem)) => {
            tracing::warn!(code = %problem.code, reason = %problem.message, "an import was refused");
            ipc::server::refusal(status_of(&problem), problem)
        }
        Err(_) => {
            let problem =
                Problem::new("import_failed", "The import failed by a fault of ours.", "Report this.");
            ipc::server::refusal(StatusCode::INTERNAL_SERVER_ERROR, problem)
        }
    }
}

async fn import_folder(
    State(signer): State<Arc<Signer>>,
    place: Place,
    Body(sealed): Body<ShareImport>,
) -> Response {
    answer(super::moving::finished(place, async move { signer.import_folder(sealed).await }).await)
}

async fn rules(State(signer): State<Arc<Signer>>, Body(rules): Body<OwnerRules>) -> Response {
    answer(signer.set_rules(rules).await)
}

async fn exits(State(signer): State<Arc<Signer>>) -> Json<ExitApprovals> {
    Json(signer.exit_approvals())
}

async fn order_exit(State(signer): State<Arc<Signer>>, Body(order): Body<ExitOrder>) -> Response {
    answer(signer.order_exit(order).await)
}

async fn cancel_exit(State(signer): State<Arc<Signer>>, Body(cancel): Body<ExitCancel>) -> Response {
    answer(signer.cancel_exit(cancel).await)
}

async fn resume(State(signer): State<Arc<Signer>>, Body(wish): Body<ResumeShare>) -> Response {
    answer(signer.resume_share(wish).await)
}

async fn passphrase(State(signer): State<Arc<Signer>>) -> Response {
    answer(signer.passphrase_status().ok_or_else(|| {
        Problem::new(
            "passphrase_not_wanted",
            "No passphrase is asked for: this board has a TPM, or no passphrase helps with what keeps it locked.",
            "See what the status says is wrong.",
        )
    }))
}

async fn order_passphrase(State(signer): State<Arc<Signer>>, Body(sealed): Body<ShareImport>) -> Response {
    // Finished even when the caller hangs up, as above.
    let ordered = tokio::spawn(async move { signer.passphrase_order(sealed).await });
    answer(ordered.await.unwrap_or_else(|_| Err(crate::folder::fault())))
}

pub(crate) fn answer<T: serde::Serialize>(outcome: Result<T, Problem>) -> Response {
    match outcome {
        Ok(done) => Json(done).into_response(),
        Err(problem) => {
            tracing::warn!(code = %problem.code, reason = %problem.message, "the owner's word was not taken");
            ipc::server::refusal(status_of(&problem), problem)
        }
    }
}

/// The box's own trouble is 503; everything else is about the file.
pub(crate) fn status_of(problem: &Problem) -> StatusCode {
    const OURS: [&str; 31] = [
        "starting",
        "passphrase_unset",
        "passphrase_needed",
        "passphrase_too_often",
        "tpm_appeared",
        "tpm_late",
        "tpm_missing",
        "tpm_unsupported",
        "tpm_unavailable",
        "boot_changed",
        "software_changed",
        "other_tpm",
        "vault_damaged",
        "vault_missing",
        "vault_unavailable",
        "boot_not_measured",
        "ledger_damaged",
        "ledger_newer",
        "ledger_unavailable",
        "ledger_rolled_back",
        "ledger_not_durable",
        "counter_unusable",
        "counter_tired",
        "secure_boot_off",
        "remote_unusable",
        "token_unusable",
        "clock_unsynchronised",
        "clock_stepped",
        "clock_was_set",
        "time_service_missing",
        "clock_behind",
    ];
    if OURS.contains(&problem.code.as_str()) {
        StatusCode::SERVICE_UNAVAILABLE
    } else {
        StatusCode::UNPROCESSABLE_ENTITY
    }
}

async fn metrics(State(signer): State<Arc<Signer>>) -> Response {
    const TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, TYPE)], signer.metrics.text()).into_response()
}
