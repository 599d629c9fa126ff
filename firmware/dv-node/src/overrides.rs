//! The file of fee recipients that goes over the lock (obol spec 12.7).

use std::sync::Arc;

use cluster::registrations::{Effective, parse_overrides};

use crate::setup::Membership;
use crate::store::Store;

/// Puts the newest registrations into the membership. A file that cannot be used changes nothing: the lock's fee recipients
/// are safe ones, and the log says why.
pub(crate) fn apply(membership: &mut Membership, store: &Store) {
    let bytes = match store.load_overrides() {
        Ok(Some(bytes)) => bytes,
        Ok(None) => return,
        Err(error) => return tracing::error!(%error, "the file of fee recipients cannot be read"),
    };
    match parse_overrides(&bytes, &membership.view) {
        Ok(overrides) => {
            Effective::new(&membership.view, &overrides).apply(Arc::make_mut(&mut membership.view));
            tracing::info!(entries = overrides.len(), "fee recipients are taken from the file of overrides");
        }
        Err(error) => tracing::error!(%error, "the file of fee recipients is not used"),
    }
}
