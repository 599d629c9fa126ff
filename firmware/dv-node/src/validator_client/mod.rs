//! The other way to sign: a stock validator client holds this member's shares, and the validator API takes its partial
//! signatures in the place of the signer's.
//!
//! The client has its own slashing protection. What is passed on from it must all the same be exactly what the duty engine
//! asks to be signed, which for everything that can be slashed is what the members agreed on: [`desk::Desk`] lets nothing else
//! through.

pub(crate) mod desk;
pub(crate) mod link;
pub(crate) mod question;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use beacon::BeaconNodes;
use beacon::validator_api::{KeyMap, Limits, Patience, ValidatorApi, serve};
use threshold::ShareIndex;
use tokio::net::TcpListener;

use crate::setup::Membership;
use link::Link;

/// A port that is taken is tried again this often.
const RETRY: Duration = Duration::from_secs(2);

/// Serves the validator API until the future is dropped.
pub(crate) async fn run(
    listen: SocketAddr,
    membership: Membership,
    nodes: BeaconNodes,
    link: Link,
    requests: Arc<AtomicU64>,
) {
    let listener = loop {
        match TcpListener::bind(listen).await {
            Ok(listener) => break listener,
            Err(error) => {
                tracing::error!(%listen, %error, "the validator API cannot listen; free the address or choose another one");
                tokio::time::sleep(RETRY).await;
            }
        }
    };
    let Ok(own) = ShareIndex::try_from(membership.share_index) else { return }; // Checked at setup.
    let validators = membership.keys.iter().map(|(key, keys)| (*key, keys.group, &keys.shares));
    let keys = Arc::new(KeyMap::new(own, validators));
    let api = ValidatorApi::new(nodes, keys, link, version(), Patience::default()).counted_by(requests);
    tracing::info!(%listen, "the validator API is open");
    serve(listener, Arc::new(api), Limits::default()).await;
}

/// What `node/version` says. Clients that look at it look for the middleware's name.
fn version() -> String {
    format!("obolnetwork/charon/{}-hearth-{}", crate::node::CHARON_VERSION, env!("CARGO_PKG_VERSION"))
}
