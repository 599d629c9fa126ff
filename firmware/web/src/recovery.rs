//! The recovery key of /var (decision 0348): what `recovery` says of it and gives, given on to whoever has the claim code, and to nobody else.

use std::path::PathBuf;
use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use ipc::recovery::{NOTED_PATH, RecoveryNoted, RecoveryShown, RecoveryStatus, SHOW_PATH, STATUS_PATH};
use ipc::server::Body;
use ipc::web::{RECOVERY_NOTED_PATH, RECOVERY_PATH, RECOVERY_SHOW_PATH};
use ipc::{Client, Problem};

use crate::DAEMON_TIMEOUT;
use crate::server::{Owner, Refusal, Web};

/// The way to what keeps the key.
pub(crate) struct Keeper(Option<Client>);

impl Keeper {
    pub(crate) fn new(socket: Option<PathBuf>) -> Self {
        // It is started by the question.
        Self(socket.map(|socket| Client::new(socket).with_timeout(DAEMON_TIMEOUT)))
    }

    fn client(&self) -> Result<&Client, Refusal> {
        self.0.as_ref().ok_or_else(|| {
            Refusal(
                StatusCode::NOT_FOUND,
                Problem::new(
                    "no_recovery_key",
                    "Nothing keeps a recovery key here.",
                    "Nothing is to be done: no disk of this one is sealed by a TPM.",
                ),
            )
        })
    }
}

/// The owner's routes.
pub(crate) fn routes() -> Router<Arc<Web>> {
    Router::new()
        .route(RECOVERY_PATH, get(status))
        .route(RECOVERY_SHOW_PATH, post(show))
        .route(RECOVERY_NOTED_PATH, post(noted))
}

/// `GET /api/v1/recovery-key`.
async fn status(State(web): State<Arc<Web>>, _owner: Owner) -> Result<Json<RecoveryStatus>, Refusal> {
    Ok(Json(web.recovery.client()?.get(STATUS_PATH).await?))
}

/// `POST /api/v1/recovery-key/show`.
async fn show(State(web): State<Arc<Web>>, _owner: Owner) -> Result<Json<RecoveryShown>, Refusal> {
    let shown = web.recovery.client()?.post(SHOW_PATH, &serde_json::json!({})).await?;
    tracing::warn!("whoever has the claim code was shown the recovery key");
    Ok(Json(shown))
}

/// `POST /api/v1/recovery-key/noted`.
async fn noted(
    State(web): State<Arc<Web>>,
    _owner: Owner,
    Body(noted): Body<RecoveryNoted>,
) -> Result<Json<RecoveryStatus>, Refusal> {
    Ok(Json(web.recovery.client()?.post(NOTED_PATH, &noted).await?))
}
