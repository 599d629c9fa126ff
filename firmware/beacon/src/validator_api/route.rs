//! Which request is which: pure text, so that every path can be tried in a table.

use chain::{CommitteeIndex, Root, SignatureBytes, Slot};

use super::reply::ApiError;

/// What a request asks for (obol.md 9.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// Duties of an epoch: the beacon node's answer with our public shares in it.
    Duties,
    /// Validators of a state, whose identifiers are in the query.
    Validators {
        /// The path up to and with `validators`.
        path: String,
    },
    /// Validators of a state, whose identifiers are in the body.
    ValidatorsByPost,
    /// One validator of a state.
    Validator {
        /// The path up to and with `validators`.
        path: String,
        /// Key or index.
        id: String,
    },
    /// What to attest.
    AttestationData,
    /// A block to propose.
    ProduceBlock(Slot),
    /// The committee's aggregate.
    Aggregate,
    /// The subcommittee's contribution.
    Contribution,
    /// A signed block.
    SubmitBlock {
        /// Whether it lacks its payload.
        blinded: bool,
    },
    /// Signed attestations.
    SubmitAttestations,
    /// Signed aggregates.
    SubmitAggregates,
    /// Signed votes of sync-committee members.
    SubmitSyncMessages,
    /// Signed contributions.
    SubmitContributions,
    /// A signed exit.
    SubmitExit,
    /// Proofs of selection as aggregator.
    CommitteeSelections,
    /// Proofs of selection as sync aggregator.
    SyncSelections,
    /// Fee recipients and registrations: the cluster settles them.
    Swallowed,
    /// Superseded paths that would let a client sign what nobody agreed on.
    Gone,
    /// Who we are.
    Version,
    /// The stream of events.
    Events,
    /// Everything else goes to the beacon node as it is.
    Proxied,
}

/// Finds the route. Methods that a path is not known for are the beacon node's to refuse.
pub fn route(method: &str, path: &str) -> Result<Route, ApiError> {
    let parts: Vec<&str> = path.split('/').skip(1).collect();
    Ok(match (method, parts.as_slice()) {
        ("POST", ["eth", "v1", "validator", "duties", "attester" | "sync", epoch])
        | ("GET", ["eth", "v1" | "v2", "validator", "duties", "proposer", epoch]) => {
            number("epoch", epoch)?;
            Route::Duties
        }
        ("GET", ["eth", "v1", "beacon", "states", _, "validators"]) => {
            Route::Validators { path: path.to_owned() }
        }
        ("POST", ["eth", "v1", "beacon", "states", _, "validators"]) => Route::ValidatorsByPost,
        ("GET", ["eth", "v1", "beacon", "states", state, "validators", id]) => Route::Validator {
            path: format!("/eth/v1/beacon/states/{state}/validators"),
            id: (*id).to_owned(),
        },
        ("GET", ["eth", "v1", "validator", "attestation_data"]) => Route::AttestationData,
        ("GET", ["eth", "v3", "validator", "blocks", slot]) => {
            Route::ProduceBlock(Slot(number("slot", slot)?))
        }
        ("GET", ["eth", "v2", "validator", "aggregate_attestation"]) => Route::Aggregate,
        ("GET", ["eth", "v1", "validator", "sync_committee_contribution"]) => Route::Contribution,
        ("POST", ["eth", "v1" | "v2", "beacon", "blocks"]) => Route::SubmitBlock { blinded: false },
        ("POST", ["eth", "v1" | "v2", "beacon", "blinded_blocks"]) => Route::SubmitBlock { blinded: true },
        ("POST", ["eth", "v2", "beacon", "pool", "attestations"]) => Route::SubmitAttestations,
        ("POST", ["eth", "v2", "validator", "aggregate_and_proofs"]) => Route::SubmitAggregates,
        ("POST", ["eth", "v1", "beacon", "pool", "sync_committees"]) => Route::SubmitSyncMessages,
        ("POST", ["eth", "v1", "validator", "contribution_and_proofs"]) => Route::SubmitContributions,
        ("POST", ["eth", "v1", "beacon", "pool", "voluntary_exits"]) => Route::SubmitExit,
        ("POST", ["eth", "v1", "validator", "beacon_committee_selections"]) => Route::CommitteeSelections,
        ("POST", ["eth", "v1", "validator", "sync_committee_selections"]) => Route::SyncSelections,
        ("POST", ["eth", "v1", "validator", "register_validator" | "prepare_beacon_proposer"]) => {
            Route::Swallowed
        }
        ("POST", ["eth", "v1", "beacon", "pool", "attestations"])
        | ("POST", ["eth", "v1", "validator", "aggregate_and_proofs"])
        | ("GET", ["eth", "v1", "validator", "aggregate_attestation"])
        | ("GET", ["eth", "v2", "validator", "blocks", _])
        | ("GET", ["eth", "v1", "validator", "blinded_blocks", _])
        | ("GET", ["teku_proposer_config" | "proposer_config"]) => Route::Gone,
        ("GET", ["eth", "v1", "node", "version"]) => Route::Version,
        ("GET", ["eth", "v1", "events"]) => Route::Events,
        _ => Route::Proxied,
    })
}

fn number(what: &str, text: &str) -> Result<u64, ApiError> {
    text.parse::<Slot>().map(|slot| slot.0).map_err(|_| ApiError::bad(format!("invalid {what}: {text:.40}")))
}

/// The part of a URL after the question mark.
#[derive(Debug, Clone, Copy)]
pub struct Query<'a>(pub &'a str);

impl<'a> Query<'a> {
    /// Every value of a parameter. What we need has no characters that must be escaped, but for the comma.
    pub fn all(self, name: &str) -> impl Iterator<Item = &'a str> {
        self.0.split('&').filter_map(move |pair| {
            pair.split_once('=').filter(|(key, _)| *key == name).map(|(_, value)| value)
        })
    }

    fn one<T: std::str::FromStr>(self, name: &str) -> Result<T, ApiError> {
        let text = self.all(name).next().ok_or_else(|| ApiError::bad(format!("missing parameter {name}")))?;
        text.parse().map_err(|_| ApiError::bad(format!("invalid parameter {name}: {text:.40}")))
    }

    /// `slot`.
    pub fn slot(self) -> Result<Slot, ApiError> {
        self.one("slot")
    }

    /// `committee_index`, zero when absent: since electra it says nothing in attestation data.
    pub fn committee(self) -> Result<CommitteeIndex, ApiError> {
        match self.all("committee_index").next() {
            None => Ok(CommitteeIndex(0)),
            Some(_) => self.one("committee_index"),
        }
    }

    /// `subcommittee_index`.
    pub fn subcommittee(self) -> Result<u64, ApiError> {
        self.one::<Slot>("subcommittee_index").map(|index| index.0)
    }

    /// A root by its name.
    pub fn root(self, name: &str) -> Result<Root, ApiError> {
        self.one(name)
    }

    /// `randao_reveal`.
    pub fn randao_reveal(self) -> Result<SignatureBytes, ApiError> {
        self.one("randao_reveal")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_finds_its_route() {
        let states = "/eth/v1/beacon/states/head/validators";
        for (method, path, expected) in [
            ("POST", "/eth/v1/validator/duties/attester/5", Route::Duties),
            ("GET", "/eth/v1/validator/duties/attester/5", Route::Proxied),
            ("GET", "/eth/v2/validator/duties/proposer/5", Route::Duties),
            ("POST", "/eth/v1/validator/duties/sync/5", Route::Duties),
            ("GET", states, Route::Validators { path: states.to_owned() }),
            ("POST", states, Route::ValidatorsByPost),
            (
                "GET",
                "/eth/v1/beacon/states/head/validators/7",
                Route::Validator { path: states.to_owned(), id: "7".to_owned() },
            ),
            ("GET", "/eth/v3/validator/blocks/9", Route::ProduceBlock(Slot(9))),
            ("POST", "/eth/v1/beacon/blocks", Route::SubmitBlock { blinded: false }),
            ("POST", "/eth/v2/beacon/blinded_blocks", Route::SubmitBlock { blinded: true }),
            ("GET", "/eth/v2/beacon/blocks/head", Route::Proxied),
            ("GET", "/eth/v1/beacon/pool/attestations", Route::Proxied),
            ("POST", "/eth/v1/beacon/pool/attestations", Route::Gone),
            ("GET", "/eth/v2/validator/blocks/3", Route::Gone),
            ("GET", "/eth/v1/validator/blinded_blocks/3", Route::Gone),
            ("GET", "/eth/v1/validator/aggregate_attestation", Route::Gone),
            ("POST", "/eth/v1/validator/aggregate_and_proofs", Route::Gone),
            ("GET", "/teku_proposer_config", Route::Gone),
            ("GET", "/proposer_config", Route::Gone),
            ("POST", "/eth/v1/validator/prepare_beacon_proposer", Route::Swallowed),
            ("POST", "/eth/v1/validator/register_validator", Route::Swallowed),
            ("POST", "/eth/v1/validator/beacon_committee_subscriptions", Route::Proxied),
            ("GET", "/eth/v1/node/version", Route::Version),
            ("GET", "/eth/v1/node/syncing", Route::Proxied),
            ("GET", "/", Route::Proxied),
            ("DELETE", "//eth", Route::Proxied),
        ] {
            assert_eq!(route(method, path), Ok(expected), "{method} {path}");
        }
        for path in [
            "/eth/v3/validator/blocks/x",
            "/eth/v3/validator/blocks/",
            "/eth/v1/validator/duties/proposer/-1",
        ] {
            assert_eq!(route("GET", path).unwrap_err().status, 400, "{path}");
        }
    }

    #[test]
    fn parameters_are_read_or_named() {
        let query = Query("slot=5&committee_index=2&id=a&id=b,c&beacon_block_root=0x12");
        assert_eq!(query.slot(), Ok(Slot(5)));
        assert_eq!(query.committee(), Ok(CommitteeIndex(2)));
        assert_eq!(query.all("id").collect::<Vec<_>>(), ["a", "b,c"]);
        assert!(query.root("beacon_block_root").unwrap_err().message.contains("beacon_block_root"));
        assert!(query.subcommittee().unwrap_err().message.contains("missing"));
        assert_eq!(Query("").committee(), Ok(CommitteeIndex(0)));
    }
}
