//! The history that goes out: EIP-3076, minimal or complete, of shares that are here and of shares that were.

use std::{collections::BTreeSet, sync::Arc};

use axum::{
    Json, Router,
    extract::{Query, State},
    response::{IntoResponse as _, Response},
    routing::get,
};
use chain::{PublicKeyBytes, Root};
use ipc::{Problem, signer::HISTORY_PATH};
use serde::Deserialize;
use slashing::Interchange;

use crate::signer::{Signer, ledger_problem};

/// How much of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Form {
    /// The highest values of each share: all that is needed to go on elsewhere.
    #[default]
    Minimal,
    /// Everything known.
    Complete,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    #[serde(default)]
    form: Form,
    /// The chain, when shares of several are here.
    #[serde(default)]
    genesis_validators_root: Option<Root>,
}

/// To be merged into the control socket's router.
pub(crate) fn control_routes() -> Router<Arc<Signer>> {
    Router::new().route(HISTORY_PATH, get(export))
}

async fn export(State(signer): State<Arc<Signer>>, Query(wanted): Query<Wanted>) -> Response {
    match signer.history_of(wanted.form, wanted.genesis_validators_root, |_| true).await {
        Ok(document) => Json(document).into_response(),
        Err(problem) => ipc::server::refusal(crate::api::control::status_of(&problem), problem),
    }
}

impl Signer {
    /// What is known of some shares of one chain. With no chain named, that of all shares here.
    pub(crate) async fn history_of(
        &self,
        form: Form,
        chain: Option<Root>,
        of: impl Fn(PublicKeyBytes) -> bool,
    ) -> Result<Interchange, Problem> {
        let known = self.ledger()?.histories().await.map_err(|error| ledger_problem(&error))?;
        let chains: BTreeSet<Root> = known.iter().map(|(root, _)| *root).collect();
        let root = match (chain, chains.len()) {
            (Some(root), _) => root,
            (None, 0 | 1) => chains.first().copied().unwrap_or_default(),
            (None, _) => {
                let named: Vec<String> = chains.iter().map(ToString::to_string).collect();
                return Err(Problem::new(
                    "which_chain",
                    format!("There are shares of {} chains: {}.", chains.len(), named.join(", ")),
                    "Name one in `genesis_validators_root`: a history is of one chain.",
                ));
            }
        };
        let wanted = known.iter().filter(|(chain, history)| *chain == root && of(history.key()));
        let histories = wanted.map(|(_, history)| history);
        Ok(match form {
            Form::Minimal => Interchange::minimal(root, histories),
            Form::Complete => Interchange::complete(root, histories),
        })
    }
}
