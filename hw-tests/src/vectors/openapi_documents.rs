//! `openapi`: the published documents that the APIs' own tests are held against (crate `openapi`).
//!
//! A case is an example in a document, which must fit the schema it stands in: what understands both can be believed about
//! our answers. The calls of our own APIs must be listed.

use std::path::Path;

use beacon::validator_api::{Route, route};
use openapi::Document;

use super::report::Report;

/// Calls that our APIs answer themselves, and the document that has them.
const OURS: &[(&str, &[(&str, &str)])] = &[
    (
        openapi::BEACON,
        &[
            ("POST", "/eth/v1/validator/duties/attester/1"),
            ("POST", "/eth/v1/validator/duties/sync/1"),
            ("GET", "/eth/v1/validator/duties/proposer/1"),
            ("GET", "/eth/v1/beacon/states/head/validators"),
            ("POST", "/eth/v1/beacon/states/head/validators"),
            ("GET", "/eth/v1/validator/attestation_data"),
            ("GET", "/eth/v3/validator/blocks/1"),
            ("GET", "/eth/v2/validator/aggregate_attestation"),
            ("GET", "/eth/v1/validator/sync_committee_contribution"),
            ("POST", "/eth/v2/beacon/blocks"),
            ("POST", "/eth/v2/beacon/blinded_blocks"),
            ("POST", "/eth/v2/beacon/pool/attestations"),
            ("POST", "/eth/v2/validator/aggregate_and_proofs"),
            ("POST", "/eth/v1/beacon/pool/sync_committees"),
            ("POST", "/eth/v1/validator/contribution_and_proofs"),
            ("POST", "/eth/v1/beacon/pool/voluntary_exits"),
            ("POST", "/eth/v1/validator/beacon_committee_selections"),
            ("POST", "/eth/v1/validator/sync_committee_selections"),
            ("POST", "/eth/v1/validator/register_validator"),
            ("POST", "/eth/v1/validator/prepare_beacon_proposer"),
        ],
    ),
    (
        openapi::KEYMANAGER,
        &[
            ("GET", "/eth/v1/keystores"),
            ("POST", "/eth/v1/keystores"),
            ("DELETE", "/eth/v1/keystores"),
            ("GET", "/eth/v1/validator/0x00/feerecipient"),
            ("POST", "/eth/v1/validator/0x00/feerecipient"),
            ("GET", "/eth/v1/validator/0x00/gas_limit"),
        ],
    ),
    (
        openapi::WEB3SIGNER,
        &[("POST", "/api/v1/eth2/sign/0x00"), ("GET", "/api/v1/eth2/publicKeys"), ("GET", "/upcheck")],
    ),
    ("remote-signing-api/remote-signing-oapi.yaml", &[]),
];

/// The whole set.
pub fn run(folder: &Path) -> Report {
    let mut report = Report::default();
    for (name, calls) in OURS {
        let document = match Document::read(&folder.join(name)) {
            Ok(document) => document,
            Err(why) => {
                report.case(name, Err(why.to_string()));
                continue;
            }
        };
        for (example, fits) in document.examples() {
            report.case(format!("{name} {example:.160}"), fits);
        }
        for (method, path) in *calls {
            let listed = if document.lists(method, path) { Ok(()) } else { Err("is not listed".to_owned()) };
            report.case(format!("{name} {method} {path}"), listed);
            if *name == openapi::BEACON {
                let ours = match route(method, path) {
                    Ok(Route::Proxied | Route::Gone) => Err("is not answered by ourselves".to_owned()),
                    Ok(_) => Ok(()),
                    Err(error) => Err(error.message),
                };
                report.case(format!("our validator API: {method} {path}"), ours);
            }
        }
    }
    report
}
