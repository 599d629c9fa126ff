//! From a connection to a request: the kernel's word for who carries the bytes, the handshake, and the owner's list.

use std::{sync::Arc, time::Duration};

use axum::{
    Extension, Router,
    extract::{Request, State},
    http::StatusCode,
    middleware::{self, Next},
    response::Response,
};
use ipc::{
    Problem,
    remote::RemoteRight,
    server::{AllowedCallers, Limits, bounded, caller_of, converse},
};
use tokio::net::{UnixListener, UnixStream};

use super::authority::fingerprint;
use crate::{api, keymanager, signer::Signer};

/// A handshake is two messages each way.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// By which certificate a request came.
#[derive(Clone)]
struct Client(Arc<str>);

/// Answers clients outside the box until the future is dropped.
pub(crate) async fn serve(
    listener: UnixListener,
    signer: Arc<Signer>,
    callers: AllowedCallers,
    limits: Limits,
) {
    let router = router(&signer, limits);
    let places = Arc::new(tokio::sync::Semaphore::new(limits.connections));
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        while connections.try_join_next().is_some() {}
        match caller_of(&stream) {
            Some(caller) if callers.permits(caller.uid) => {}
            Some(caller) => {
                tracing::warn!(uid = caller.uid, "a user that is not on the socket's list was refused");
                continue;
            }
            None => continue,
        }
        let (signer, router) = (Arc::clone(&signer), router.clone());
        connections.spawn(async move {
            talk(stream, &signer, router, limits).await;
            drop(place);
        });
    }
}

async fn talk(stream: UnixStream, signer: &Signer, router: Router, limits: Limits) {
    let door = match signer.door().await {
        Ok(Some(door)) if !door.clients.is_empty() => door,
        Ok(_) => return tracing::warn!("somebody knocks, and the owner has let nobody in"),
        Err(problem) => return tracing::warn!(code = %problem.code, "nobody outside the box is let in now"),
    };
    let stream = match tokio::time::timeout(HANDSHAKE, door.acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::warn!(%error, "a client outside the box was not let in"),
        Err(_) => return tracing::warn!("a client outside the box did not finish its handshake"),
    };
    let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let Some(known) = certificate.map(|certificate| fingerprint(certificate)) else { return };
    let Some(client) = door.client(&known) else {
        return tracing::warn!("a client that the owner has shut out knocked");
    };
    tracing::debug!(client = %client.name, "a client outside the box is in");
    let router = router.layer(Extension(Client(known.into())));
    converse(stream, router, limits).await;
}

/// What is reachable from outside the box, and nothing else: each route asks the list again.
fn router(signer: &Arc<Signer>, limits: Limits) -> Router {
    let guard = |right: RemoteRight| {
        let signer = Arc::clone(signer);
        middleware::from_fn_with_state((signer, right), only_with_right)
    };
    let signing = api::sign::remote_routes(Arc::clone(signer)).route_layer(guard(RemoteRight::Sign));
    let keys = keymanager::routes(Arc::clone(signer)).route_layer(guard(RemoteRight::ManageKeys));
    bounded(signing.fallback(nothing_here), limits).merge(bounded(keys, keymanager::LIMITS))
}

async fn only_with_right(
    State((signer, right)): State<(Arc<Signer>, RemoteRight)>,
    Extension(Client(fingerprint)): Extension<Client>,
    request: Request,
    next: Next,
) -> Response {
    if signer.remote_may(&fingerprint, right).await {
        return next.run(request).await;
    }
    let problem = Problem::new(
        "client_not_allowed",
        "The owner does not allow this client to do that.",
        "Let the client in with this right, on the box's page.",
    );
    ipc::server::refusal(StatusCode::FORBIDDEN, problem)
}

async fn nothing_here() -> Response {
    let problem = Problem::new(
        "not_found",
        "There is nothing at this address.",
        "Signing is at /api/v1/eth2/, the keymanager API at /eth/v1/.",
    );
    ipc::server::refusal(StatusCode::NOT_FOUND, problem)
}
