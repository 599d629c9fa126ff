//! What the page may ask. It asks for its owner alone; who calls is checked by the socket's list.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use ipc::recovery::{
    NOTED_PATH, RecoveryNoted, RecoveryShown, RecoveryState, RecoveryStatus, SHOW_PATH, STATUS_PATH,
};
use ipc::server::{Body, refusal};
use ipc::{Problem, Sensitive};

use crate::folder::{self, FolderError, Kept};

/// The folder on /var, and what was shown of it.
struct Keeper {
    folder: PathBuf,
    /// Which start this is.
    start: String,
    /// A key waits in one start, so what was before this one is not missed.
    shown: Mutex<Shown>,
}

#[derive(Clone, Copy, Default)]
struct Shown {
    times: u32,
    last_ms: Option<u64>,
}

pub(crate) fn router(folder: PathBuf, start: String) -> Router {
    Router::new()
        .route(STATUS_PATH, get(status))
        .route(SHOW_PATH, post(show))
        .route(NOTED_PATH, post(noted))
        .with_state(Arc::new(Keeper { folder, start, shown: Mutex::default() }))
}

/// Why nothing is shown.
enum Refused {
    NoneWaits,
    WrongGroup,
    Disk(FolderError),
}

impl From<FolderError> for Refused {
    fn from(error: FolderError) -> Self {
        Self::Disk(error)
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let (status, problem) = match self {
            Self::NoneWaits => (
                StatusCode::GONE,
                Problem::new(
                    "no_recovery_key_waits",
                    "No recovery key waits to be written down on this box.",
                    "If you have one on paper, use it. Without one, nothing is lost as long as this board and its TPM work.",
                ),
            ),
            Self::WrongGroup => (
                StatusCode::UNPROCESSABLE_ENTITY,
                Problem::new(
                    "recovery_group_wrong",
                    "These are not the letters of that group. The key is still here.",
                    "Compare your paper with the page, then type the group from the paper.",
                ),
            ),
            Self::Disk(error) => {
                unreadable(&error);
                (
                    StatusCode::INTERNAL_SERVER_ERROR,
                    Problem::new(
                        "recovery_key_unreadable",
                        "The recovery key cannot be read from, or taken off, the box's disk.",
                        "The disk may be failing: look at the disks on the page. A key that you have on paper still opens it.",
                    ),
                )
            }
        };
        refusal(status, problem)
    }
}

fn unreadable(error: &FolderError) {
    tracing::error!(error = error as &dyn std::error::Error, "the recovery key's folder cannot be used");
}

fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
    u64::try_from(now).unwrap_or(u64::MAX)
}

impl Keeper {
    /// What the folder says, and the key only where the first system of this very start has found that it may be shown.
    fn look(&self) -> Result<Kept, FolderError> {
        let kept = folder::look(&self.folder)?;
        if matches!(kept, Kept::Waiting(_)) && !folder::may_be_shown(&self.folder, &self.start)? {
            return Err(FolderError::NotNow { path: self.folder.clone(), doing: "shown in this start" });
        }
        Ok(kept)
    }

    fn status(&self) -> RecoveryStatus {
        let (state, noted_ms) = match self.look() {
            Ok(Kept::Nothing) => (RecoveryState::None, None),
            Ok(Kept::Waiting(_)) => (RecoveryState::Waiting, None),
            Ok(Kept::Noted { at_ms }) => (RecoveryState::Noted, at_ms),
            Ok(Kept::Lapsed { slot_waits: false }) => (RecoveryState::Lapsed, None),
            // It still opens the disk, and the next start tries again to take it out.
            Ok(Kept::Lapsed { slot_waits: true }) => (RecoveryState::Failed, None),
            // The first system ends before this begins: it is not being made any more.
            Ok(Kept::Begun) => (RecoveryState::Failed, None),
            Err(error) => {
                unreadable(&error);
                (RecoveryState::Failed, None)
            }
        };
        let shown = *self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        RecoveryStatus { state, noted_ms, shown: shown.times, last_shown_ms: shown.last_ms }
    }
}

/// `GET /v1/recovery-key`.
async fn status(State(keeper): State<Arc<Keeper>>) -> Json<RecoveryStatus> {
    Json(keeper.status())
}

/// `POST /v1/recovery-key/show`: as often as the owner asks, until it is written down.
async fn show(State(keeper): State<Arc<Keeper>>) -> Result<Json<RecoveryShown>, Refused> {
    let Kept::Waiting(key) = keeper.look()? else { return Err(Refused::NoneWaits) };
    let mut shown = keeper.shown.lock().unwrap_or_else(PoisonError::into_inner);
    *shown = Shown { times: shown.times.saturating_add(1), last_ms: Some(now_ms()) };
    tracing::info!(times = shown.times, "the owner is shown the recovery key");
    let groups = key.groups().map(|group| Sensitive::new(group.to_owned())).collect();
    Ok(Json(RecoveryShown { groups }))
}

/// `POST /v1/recovery-key/noted`.
async fn noted(
    State(keeper): State<Arc<Keeper>>,
    Body(noted): Body<RecoveryNoted>,
) -> Result<Json<RecoveryStatus>, Refused> {
    let Kept::Waiting(key) = keeper.look()? else { return Err(Refused::NoneWaits) };
    if !key.has_group(noted.group, noted.letters.expose_secret()) {
        return Err(Refused::WrongGroup);
    }
    folder::note(&keeper.folder, now_ms())?;
    tracing::info!("the owner has written the recovery key down: it is not shown again");
    Ok(Json(keeper.status()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::SAMPLE;
    use ipc::server::{CallerName, CallerNames, Limits};
    use ipc::{Client, ClientError};

    const START: &str = "0f0f";

    fn serve(caller: CallerName) -> (tempfile::TempDir, Client) {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("recovery");
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("key"), SAMPLE).unwrap();
        std::fs::write(folder.join("this-start"), START).unwrap();
        let socket = dir.path().join("control.sock");
        let listener = ipc::listen::Inherited::default().take("control", Some(&socket)).unwrap();
        let callers = CallerNames::new(vec![caller]).resolve();
        tokio::spawn(ipc::server::serve(
            listener,
            router(folder, START.to_owned()),
            callers,
            Limits::default(),
        ));
        (dir, Client::new(socket))
    }

    fn code<T: std::fmt::Debug>(answer: Result<T, ClientError>) -> String {
        match answer {
            Err(ClientError::Refused { problem, .. }) => {
                assert!(SAMPLE.split('-').all(|group| !problem.to_string().contains(group)), "{problem}");
                problem.code
            }
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn the_owner_is_shown_the_key_until_a_group_of_it_was_typed_and_never_again() {
        let (dir, client) = serve(CallerName::Name("self".to_owned()));
        let nothing = serde_json::json!({});
        let status = async || client.get::<RecoveryStatus>(STATUS_PATH).await.unwrap();
        for before in 0..2 {
            let told = status().await;
            assert_eq!((told.state, told.shown, told.noted_ms), (RecoveryState::Waiting, before, None));
            assert_eq!(told.last_shown_ms.is_some(), before > 0);
            let shown: RecoveryShown = client.post(SHOW_PATH, &nothing).await.unwrap();
            let groups: Vec<_> = shown.groups.iter().map(Sensitive::expose_secret).collect();
            assert_eq!(groups.join("-"), SAMPLE);
        }
        let said =
            |group, letters: &str| RecoveryNoted { group, letters: Sensitive::new(letters.to_owned()) };
        for wrong in
            [said(0, "cbdefghi"), said(2, "cbdefghi"), said(1, ""), said(9, "cbdefghi"), said(1, SAMPLE)]
        {
            let answer = client.post::<RecoveryStatus>(NOTED_PATH, &wrong).await;
            assert_eq!(code(answer), "recovery_group_wrong");
        }
        assert_eq!(status().await.state, RecoveryState::Waiting);
        let begun = now_ms();
        let told: RecoveryStatus = client.post(NOTED_PATH, &said(2, " JKLNRTUV ")).await.unwrap();
        assert_eq!(told, status().await);
        assert_eq!((told.state, told.shown), (RecoveryState::Noted, 2));
        assert!(told.noted_ms.is_some_and(|at_ms| (begun..=now_ms()).contains(&at_ms)));
        assert!(!dir.path().join("recovery/key").exists());
        assert_eq!(code(client.post::<RecoveryShown>(SHOW_PATH, &nothing).await), "no_recovery_key_waits");
        let again = client.post::<RecoveryStatus>(NOTED_PATH, &said(2, "jklnrtuv")).await;
        assert_eq!(code(again), "no_recovery_key_waits");
    }

    #[tokio::test]
    async fn what_became_of_a_key_that_does_not_wait_is_told_and_nothing_is_shown() {
        let (dir, client) = serve(CallerName::Name("self".to_owned()));
        let folder = dir.path().join("recovery");
        let of = |name: &str| folder.join(name);
        let told = async || {
            let status: RecoveryStatus = client.get(STATUS_PATH).await.unwrap();
            let shown = client.post::<RecoveryShown>(SHOW_PATH, &serde_json::json!({})).await;
            (status.state, code(shown))
        };
        let gone = |state| (state, "no_recovery_key_waits".to_owned());
        // The first system did not get to its end: whatever there is, is not shown.
        for other in ["", "0f0e", "0f0f0"] {
            std::fs::write(of("this-start"), other).unwrap();
            assert_eq!(told().await, (RecoveryState::Failed, "recovery_key_unreadable".to_owned()));
        }
        std::fs::remove_file(of("this-start")).unwrap();
        assert_eq!(told().await, (RecoveryState::Failed, "recovery_key_unreadable".to_owned()));
        std::fs::write(of("this-start"), START).unwrap();
        let status: RecoveryStatus = client.get(STATUS_PATH).await.unwrap();
        assert_eq!(status.state, RecoveryState::Waiting);
        std::fs::write(of("lapsed"), folder::SLOT_WAITS).unwrap();
        assert_eq!(told().await, gone(RecoveryState::Failed), "its slot is still there");
        std::fs::write(of("lapsed"), "").unwrap();
        assert_eq!(told().await, gone(RecoveryState::Lapsed));
        std::fs::remove_file(of("lapsed")).unwrap();
        std::fs::write(of("key"), "-".repeat(71)).unwrap();
        assert_eq!(told().await, (RecoveryState::Failed, "recovery_key_unreadable".to_owned()));
        std::fs::remove_file(of("key")).unwrap();
        assert_eq!(told().await, gone(RecoveryState::None));
        std::fs::create_dir(dir.path().join("recovery.new")).unwrap();
        assert_eq!(told().await, gone(RecoveryState::Failed));
        std::fs::write(of("noted"), "not a date").unwrap();
        assert_eq!(told().await, gone(RecoveryState::Noted));
        std::fs::remove_dir_all(&folder).unwrap();
        std::fs::write(&folder, "").unwrap();
        assert_eq!(told().await, (RecoveryState::Failed, "recovery_key_unreadable".to_owned()));
    }

    #[tokio::test]
    async fn nobody_but_the_page_is_told_anything() {
        let (_dir, client) = serve(CallerName::Name("nobody-at-all".to_owned()));
        assert_eq!(code(client.get::<RecoveryStatus>(STATUS_PATH).await), "caller_not_allowed");
        let answer = client.post::<RecoveryShown>(SHOW_PATH, &serde_json::json!({})).await;
        assert_eq!(code(answer), "caller_not_allowed");
    }
}
