//! The page and its API. Reading is free on the owner's network; every change needs the claim code.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use axum::extract::{DefaultBodyLimit, FromRequestParts, State};
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router, middleware};
use ipc::owner::OwnerRules;
use ipc::server::Body;
use ipc::web::{
    BoxStatus, CLUSTER_PATH, IMPORT_KEY_PATH, ImportKey, MachineStatus, SHARES_PATH, STATUS_PATH,
};
use ipc::{Client, ClientError, ClusterSetup, NodeStatus, Problem, ShareImport, SignerStatus};

use crate::claim::{Claim, Guess};
use crate::recovery::Keeper;

/// A lock of a thousand validators is about 2 MiB.
pub(crate) const MAX_BODY_BYTES: usize = 16 * 1024 * 1024;

/// What every handler may use.
pub(crate) struct Web {
    pub(crate) machine: MachineStatus,
    pub(crate) node: Client,
    pub(crate) signer: Client,
    pub(crate) recovery: Keeper,
    pub(crate) claim: Mutex<Claim>,
}

/// Everything the page can ask.
pub(crate) fn router(web: Arc<Web>) -> Router {
    Router::new()
        .route("/", get(|| asset("text/html; charset=utf-8", include_str!("../assets/page.html"))))
        .route(
            "/assets/page.css",
            get(|| asset("text/css; charset=utf-8", include_str!("../assets/page.css"))),
        )
        .route(
            "/assets/page.js",
            get(|| asset("text/javascript; charset=utf-8", include_str!("../assets/page.js"))),
        )
        .route(
            "/assets/outside.js",
            get(|| asset("text/javascript; charset=utf-8", include_str!("../assets/outside.js"))),
        )
        .route(
            "/assets/edit.js",
            get(|| asset("text/javascript; charset=utf-8", include_str!("../assets/edit.js"))),
        )
        .route(
            "/assets/moving.js",
            get(|| asset("text/javascript; charset=utf-8", include_str!("../assets/moving.js"))),
        )
        .route(
            "/assets/ssv.js",
            get(|| asset("text/javascript; charset=utf-8", include_str!("../assets/ssv.js"))),
        )
        .route(
            "/assets/settings.js",
            get(|| asset("text/javascript; charset=utf-8", include_str!("../assets/settings.js"))),
        )
        .route(
            "/assets/passphrase.js",
            get(|| asset("text/javascript; charset=utf-8", include_str!("../assets/passphrase.js"))),
        )
        .route(
            "/assets/recovery.js",
            get(|| asset("text/javascript; charset=utf-8", include_str!("../assets/recovery.js"))),
        )
        .route("/assets/hearth.svg", get(|| asset("image/svg+xml", include_str!("../assets/hearth.svg"))))
        .route(STATUS_PATH, get(box_status))
        .route(CLUSTER_PATH, put(set_cluster))
        .route(IMPORT_KEY_PATH, get(import_key))
        .route(SHARES_PATH, post(import_shares))
        .merge(crate::owner::routes())
        .merge(crate::remote::routes())
        .merge(crate::clusters::routes())
        .route("/metrics", get(metrics))
        .merge(crate::key_generation::routes())
        .merge(crate::cluster_edit::routes())
        .merge(crate::moving::routes())
        .merge(crate::recovery::routes())
        .fallback(nothing_here)
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(middleware::map_response(harden))
        .with_state(web)
}

/// The page loads nothing from elsewhere, runs no inline script, and is framed by nobody.
async fn harden(mut response: Response) -> Response {
    const HEADERS: [(HeaderName, &str); 5] = [
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
             base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        ),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
        (header::STRICT_TRANSPORT_SECURITY, "max-age=31536000"),
    ];
    for (name, value) in HEADERS {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

async fn asset(kind: &'static str, content: &'static str) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, kind)], content)
}

/// `GET /api/v1/status`: the whole box. A daemon that does not answer is a problem on the page, not an error of it.
async fn box_status(State(web): State<Arc<Web>>) -> Json<BoxStatus> {
    let (node, signer) = tokio::join!(
        web.node.get::<NodeStatus>(ipc::node::STATUS_PATH),
        web.signer.get::<SignerStatus>(ipc::signer::STATUS_PATH),
    );
    let mut problems = Vec::new();
    if let Err(error) = &signer {
        problems.push(silent("signer", "Nothing is signed until it is back.", error));
    }
    if let Err(error) = &node {
        problems.push(silent("dv-node", "No duty is done until it is back.", error));
    }
    let disks = crate::disks::read(std::path::Path::new("/"));
    problems.extend(disks.iter().filter_map(ipc::disks::judge));
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
    Json(BoxStatus {
        machine: web.machine.clone(),
        clusters: crate::clusters::further(&web, node.as_ref().ok()).await,
        node: node.ok(),
        signer: signer.ok(),
        disks,
        problems,
        now_ms: u64::try_from(now_ms).unwrap_or(u64::MAX),
    })
}

fn silent(who: &str, meaning: &str, error: &ClientError) -> Problem {
    tracing::warn!(who, %error, "a daemon does not answer");
    Problem::new(
        &format!("{}_silent", who.replace('-', "_")),
        format!("The part of the box named {who} does not answer. {meaning}"),
        "It is restarted by itself. If this stays for more than a minute, restart the box.",
    )
}

/// `PUT /api/v1/cluster`: makes the box a member of a cluster. dv-node checks everything and says what is wrong.
pub(crate) async fn set_cluster(
    State(web): State<Arc<Web>>,
    _owner: Owner,
    Body(setup): Body<ClusterSetup>,
) -> Result<Json<serde_json::Value>, Refusal> {
    let answer = web.node.put::<serde_json::Value>(ipc::node::CLUSTER_PATH, &setup).await?;
    tracing::info!("the owner set the cluster");
    // The signer learns from the same lock where money goes. Duties do not wait for it: without it only registrations and
    // top-ups are refused, and say what to do.
    let rules = OwnerRules { lock: setup.lock, capella_fork_version: None, payments: Vec::new() };
    if let Err(error) = web.signer.put::<serde_json::Value>(ipc::owner::RULES_PATH, &rules).await {
        tracing::warn!(%error, "the signer did not take the cluster lock");
    }
    Ok(Json(answer))
}

/// `GET /api/v1/import-key`: the key that shares are sealed to, before they are sent to this page's server.
async fn import_key(State(web): State<Arc<Web>>) -> Result<Json<ImportKey>, Refusal> {
    let status = web.signer.get::<SignerStatus>(ipc::signer::STATUS_PATH).await?;
    match status.import_key {
        Some(import_key) => Ok(Json(ImportKey { import_key })),
        None => Err(Refusal(
            StatusCode::SERVICE_UNAVAILABLE,
            status.problems.into_iter().next().unwrap_or_else(|| {
                Problem::new(
                    "no_import_key",
                    "The signer cannot take shares now.",
                    "Look at the problems on the page.",
                )
            }),
        )),
    }
}

/// `POST /api/v1/shares`: hands a sealed envelope to the signer, which alone can open it.
async fn import_shares(
    State(web): State<Arc<Web>>,
    _owner: Owner,
    Body(sealed): Body<ShareImport>,
) -> Result<Json<serde_json::Value>, Refusal> {
    let answer = web.signer.post::<serde_json::Value>(ipc::signer::SHARES_PATH, &sealed).await?;
    tracing::info!("the owner imported key shares");
    Ok(Json(answer))
}

/// `GET /metrics`: what the daemons count, for the owner's own Prometheus (bearer token: the claim code).
async fn metrics(State(web): State<Arc<Web>>, _owner: Owner) -> Result<String, Refusal> {
    let (node, signer) = tokio::join!(web.node.get_text("/metrics"), web.signer.get_text("/metrics"));
    Ok(format!("{}{}", without_end(&node?), without_end(&signer?)) + "# EOF\n")
}

/// OpenMetrics text ends with one marker, and two documents joined must not have it in the middle.
fn without_end(metrics: &str) -> &str {
    metrics.trim_end().strip_suffix("# EOF").unwrap_or(metrics)
}

async fn nothing_here() -> Refusal {
    Refusal(
        StatusCode::NOT_FOUND,
        Problem::new("not_found", "There is nothing at this address.", "The box's page is at /."),
    )
}

/// Proof that the request came with the claim code.
pub(crate) struct Owner;

impl FromRequestParts<Arc<Web>> for Owner {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, web: &Arc<Web>) -> Result<Self, Refusal> {
        let given = parts.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let Some(code) = given.and_then(|value| value.strip_prefix("Bearer ")) else {
            return Err(Refusal(
                StatusCode::UNAUTHORIZED,
                Problem::new(
                    "claim_code_missing",
                    "Changing the box needs its claim code.",
                    "Read the code on the box's own screen and send it as `Authorization: Bearer CODE`.",
                ),
            ));
        };
        let judged = web.claim.lock().unwrap_or_else(PoisonError::into_inner).judge(code, Instant::now());
        match judged {
            Guess::Right => Ok(Self),
            Guess::Wrong => {
                tracing::warn!("a wrong claim code was tried");
                Err(Refusal(
                    StatusCode::UNAUTHORIZED,
                    Problem::new(
                        "claim_code_wrong",
                        "That is not this box's claim code.",
                        "Read it again on the box's own screen.",
                    ),
                ))
            }
            Guess::TooMany { retry_after_s } => Err(Refusal(
                StatusCode::TOO_MANY_REQUESTS,
                Problem::new(
                    "too_many_tries",
                    "Too many wrong claim codes.",
                    format!(
                        "Wait {retry_after_s} seconds, then try again with the code on the box's own screen."
                    ),
                ),
            )),
        }
    }
}

/// An answer that says what happened and what to do.
#[derive(Debug)]
pub(crate) struct Refusal(pub(crate) StatusCode, pub(crate) Problem);

impl From<ClientError> for Refusal {
    fn from(error: ClientError) -> Self {
        match error {
            // The daemon's own words are for the owner; pass them on as they are.
            ClientError::Refused { status, problem } => {
                Self(StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY), problem)
            }
            error @ (ClientError::Unreachable { .. }
            | ClientError::Broken { .. }
            | ClientError::Timeout { .. }
            | ClientError::Malformed { .. }) => Self(
                StatusCode::BAD_GATEWAY,
                Problem::new(
                    "daemon_silent",
                    format!("A part of the box does not answer: {error}."),
                    "Try again in a minute. If it stays so, restart the box.",
                ),
            ),
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.0, Json(self.1)).into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body as RawBody;
    use axum::http::Request;
    use proptest::prelude::*;
    use tower::ServiceExt as _;

    const CODE: &str = "0F1G-HJKM-NPQR";

    /// A page whose daemons are not there.
    fn page(directory: &std::path::Path) -> Router {
        router(Arc::new(Web {
            machine: crate::facts::read(directory, "hearth-test"),
            node: Client::new(directory.join("node.sock")),
            signer: Client::new(directory.join("signer.sock")),
            recovery: Keeper::new(Some(directory.join("recovery.sock"))),
            claim: Mutex::new(Claim::new(CODE)),
        }))
    }

    async fn ask(page: &Router, request: Request<RawBody>) -> (StatusCode, String) {
        let response = page.clone().oneshot(request).await.unwrap();
        assert!(response.headers().contains_key(header::CONTENT_SECURITY_POLICY));
        let status = response.status();
        let body = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    fn change(path: &str, method: &str, code: Option<&str>, body: &str) -> Request<RawBody> {
        let mut request =
            Request::builder().method(method).uri(path).header("content-type", "application/json");
        if let Some(code) = code {
            request = request.header("authorization", format!("Bearer {code}"));
        }
        request.body(RawBody::from(body.to_owned())).unwrap()
    }

    #[tokio::test]
    async fn no_change_without_the_claim_code() {
        let directory = tempfile::tempdir().unwrap();
        let share = r#"{"enc":"00","ciphertext":"00"}"#;
        let setup = r#"{"lock":{},"identity_key":"00","beacon_nodes":[],"peers":[]}"#;
        let change_of_cluster = r#"{"edit":{"lock":{},"edit":{},"peers":[]}}"#;
        for (path, method, body) in [
            (SHARES_PATH, "POST", share),
            (CLUSTER_PATH, "PUT", setup),
            (ipc::web::CLUSTERS_PATH, "POST", setup),
            (ipc::web::SSV_PATH, "POST", share),
            (ipc::web::BACKUPS_PATH, "POST", share),
            (ipc::web::RESTORES_PATH, "POST", share),
            (ipc::web::MOVES_PATH, "POST", r#"{"to":"00"}"#),
            (ipc::web::MOVES_PATH, "GET", ""),
            (
                ipc::web::ARRIVALS_PATH,
                "POST",
                r#"{"from":"00","certificate":{"body":"","enc":"","ciphertext":"","signature":""}}"#,
            ),
            (
                ipc::web::FOLDERS_PATH,
                "POST",
                r#"{"sealed":{"enc":"00","ciphertext":"00"},"lock":{},"beacon_nodes":[]}"#,
            ),
            ("/api/v1/clusters/0xab", "DELETE", ""),
            ("/api/v1/clusters/0xab/exits/files", "GET", ""),
            ("/api/v1/clusters/0xab/exits/files", "POST", "{}"),
            ("/api/v1/clusters/0xab/preflight", "POST", "{}"),
            ("/api/v1/clusters/0xab/deposits", "POST", "{}"),
            ("/metrics", "GET", ""),
            (ipc::web::EXITS_PATH, "POST", r#"{"validator":"all","typed_again":"","epoch":0}"#),
            (ipc::web::EXITS_CANCEL_PATH, "POST", r#"{"validator":"all"}"#),
            (ipc::web::EXIT_FILES_PATH, "GET", ""),
            (ipc::web::EXIT_FILES_PATH, "POST", "{}"),
            (ipc::web::RULES_PATH, "PUT", r#"{"lock":{}}"#),
            (ipc::web::PREFLIGHT_PATH, "POST", "{}"),
            (ipc::web::DEPOSITS_PATH, "POST", "{}"),
            (ipc::web::REMOTE_PATH, "GET", ""),
            (ipc::web::HISTORY_PATH, "GET", ""),
            (ipc::web::REMOTE_CLIENTS_PATH, "POST", r#"{"name":"a","may":["sign"]}"#),
            (ipc::web::REMOTE_REMOVE_PATH, "POST", r#"{"name":"a"}"#),
            (ipc::web::CLUSTER_EDIT_PATH, "PUT", change_of_cluster),
            ("/api/v1/cluster-edit?lock_hash=unreadable", "DELETE", ""),
            (ipc::web::CLUSTER_EDIT_LOCK_PATH, "PUT", r#"{"lock":{}}"#),
            (ipc::web::RECOVERY_PATH, "GET", ""),
            (ipc::web::RECOVERY_SHOW_PATH, "POST", ""),
            (ipc::web::RECOVERY_NOTED_PATH, "POST", r#"{"group":1,"letters":""}"#),
        ] {
            let page = page(directory.path());
            let (status, text) = ask(&page, change(path, method, None, body)).await;
            assert_eq!(status, StatusCode::UNAUTHORIZED, "{path}");
            assert!(text.contains("claim_code_missing"));
            let (status, text) = ask(&page, change(path, method, Some("AAAA-AAAA-AAAA"), body)).await;
            assert_eq!(status, StatusCode::UNAUTHORIZED, "{path}");
            assert!(text.contains("claim_code_wrong"));
            // With the code it goes through to a daemon, which is not there.
            let (status, text) = ask(&page, change(path, method, Some(CODE), body)).await;
            assert_eq!(status, StatusCode::BAD_GATEWAY, "{path} {text}");
        }
    }

    #[tokio::test]
    async fn no_change_of_a_cluster_is_given_up_without_its_name() {
        let directory = tempfile::tempdir().unwrap();
        for query in ["", "?lock_hash=", "?lock_hash=0xab", "?lock_hash=../v1/status"] {
            let page = page(directory.path());
            let path = format!("{}{query}", ipc::web::CLUSTER_EDIT_PATH);
            let (status, text) = ask(&page, change(&path, "DELETE", Some(CODE), "")).await;
            assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{text}");
            assert!(text.contains("edit_which"), "{text}");
        }
    }

    /// Answers everything with an empty object, and writes down what it was asked.
    fn daemon(socket: &std::path::Path, name: &'static str, asked: &Arc<Mutex<Vec<String>>>) {
        let asked = Arc::clone(asked);
        let answers = Router::new().fallback(move |request: Request<RawBody>| {
            asked.lock().unwrap().push(format!("{name} {} {}", request.method(), request.uri()));
            async { axum::Json(serde_json::json!({})) }
        });
        let listener = ipc::listen::Inherited::default().take("control", Some(socket)).unwrap();
        let callers =
            ipc::server::CallerNames::new(vec![ipc::server::CallerName::Name("self".to_owned())]).resolve();
        tokio::spawn(ipc::server::serve(listener, answers, callers, ipc::server::Limits::default()));
    }

    #[tokio::test]
    async fn a_promise_to_join_that_is_given_up_in_the_signer_is_forgotten_by_the_node_after_it() {
        let directory = tempfile::tempdir().unwrap();
        let asked = Arc::default();
        daemon(&directory.path().join("node.sock"), "node", &asked);
        daemon(&directory.path().join("signer.sock"), "signer", &asked);
        let page = page(directory.path());
        let name = format!("0x{}", "ab".repeat(32));
        let typed = "&confirm=No%20member%20has%20the%20new%20lock";
        let said = "&confirm=no%20member%20has%20the%20new%20lock";
        for (query, words) in [("", ""), ("&confirm=no", ""), (typed, said)] {
            asked.lock().unwrap().clear();
            let path = format!("{}?lock_hash={name}{query}", ipc::web::CLUSTER_EDIT_PATH);
            let (status, text) = ask(&page, change(&path, "DELETE", Some(CODE), "")).await;
            assert_eq!(status, StatusCode::OK, "{text}");
            let mut expected = vec![
                format!("node DELETE /v1/cluster/edit?lock_hash={name}"),
                format!("signer DELETE /v1/edit?lock_hash={name}{words}"),
            ];
            if !words.is_empty() {
                expected.push(format!("node DELETE /v1/cluster/edit?lock_hash={name}{words}"));
            }
            expected.push("signer GET /v1/edit".to_owned());
            assert_eq!(*asked.lock().unwrap(), expected);
        }
    }

    #[tokio::test]
    async fn guessing_is_slowed_down() {
        let directory = tempfile::tempdir().unwrap();
        let page = page(directory.path());
        for _ in 0..5 {
            ask(&page, change("/metrics", "GET", Some("x"), "")).await;
        }
        let (status, _) = ask(&page, change("/metrics", "GET", Some(CODE), "")).await;
        assert_eq!(status, StatusCode::TOO_MANY_REQUESTS);
    }

    #[tokio::test]
    async fn silent_daemons_are_problems_on_the_page_and_not_errors_of_it() {
        let directory = tempfile::tempdir().unwrap();
        let (status, text) = ask(&page(directory.path()), change(STATUS_PATH, "GET", None, "")).await;
        assert_eq!(status, StatusCode::OK);
        let shown: BoxStatus = serde_json::from_str(&text).unwrap();
        assert_eq!(
            shown.problems.iter().map(|p| p.code.as_str()).collect::<Vec<_>>(),
            ["signer_silent", "dv_node_silent"]
        );
        assert!(shown.node.is_none() && shown.signer.is_none());
    }

    #[tokio::test]
    async fn joined_metrics_have_one_end() {
        assert_eq!(
            format!("{}{}# EOF\n", without_end("a 1\n# EOF\n"), without_end("b 2\n# EOF\n")),
            "a 1\nb 2\n# EOF\n"
        );
    }

    #[test]
    fn the_page_refers_to_nothing_outside_the_box() {
        for text in [
            include_str!("../assets/page.html"),
            include_str!("../assets/page.css"),
            include_str!("../assets/page.js"),
            include_str!("../assets/edit.js"),
            include_str!("../assets/moving.js"),
            include_str!("../assets/passphrase.js"),
            include_str!("../assets/recovery.js"),
            include_str!("../assets/settings.js"),
            include_str!("../assets/ssv.js"),
        ] {
            assert!(!text.contains("http://") && !text.contains("https://"));
            assert!(!text.contains("innerHTML"));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn garbage_is_answered_and_never_believed(path in "/[ -~]{0,40}", body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let directory = tempfile::tempdir().unwrap();
            let page = page(directory.path());
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            if let Ok(request) = Request::builder().method("POST").uri(path).body(RawBody::from(body)) {
                let status = runtime.block_on(page.oneshot(request)).unwrap().status();
                prop_assert!(status.is_client_error(), "{}", status);
            }
        }
    }

    #[tokio::test]
    async fn a_refused_request_is_not_quoted() {
        let directory = tempfile::tempdir().unwrap();
        let page = page(directory.path());
        let secret = "5ec4e7".repeat(10);
        for (path, method) in
            [(CLUSTER_PATH, "PUT"), (SHARES_PATH, "POST"), (ipc::web::RECOVERY_NOTED_PATH, "POST")]
        {
            for body in
                [format!("\"{secret}\""), format!("{{\"identity_key\":[\"{secret}\"]}}"), secret.clone()]
            {
                let (status, text) = ask(&page, change(path, method, Some(CODE), &body)).await;
                assert!(status.is_client_error(), "{status}");
                assert!(text.contains("request_invalid") && !text.contains("5ec4e7"), "{text}");
            }
        }
    }
}
