//! `validator-api`: what a real validator client asked of its beacon node, and what its library puts on the wire, sent through
//! the readers of our validator API.
//!
//! - Recorded runs: every request finds the route that it must; what the client signed is read and its signature verified over
//!   the signing root that our API computes. The recorded chain has the minimal preset, so that blocks, aggregates and
//!   contributions of it have another shape than ours and are counted as skipped.
//! - `modern/`: the same requests in JSON and SSZ must read to the same; forks whose containers we do not know are refused.

use std::collections::BTreeMap;
use std::path::Path;

use beacon::ChainInfo;
use beacon::validator_api::{
    ApiError, Claimed, Form, Message, Query, Route, accepted, content_form, fork_of, read_aggregates,
    read_attestations, read_block, read_committee_selections, read_contributions, read_exit,
    read_sync_messages, read_sync_selections, route,
};
use chain::{
    Attestation, AttestationData, Epoch, ForkName, ForkSchedule, ForkVersion, PublicKeyBytes, Root,
    ScheduledFork, Slot, SlotTiming, SyncCommitteeContribution, UnsignedBlock, ValidatorIndex,
};
use serde::de::DeserializeOwned;
use serde_json::Value;
use ssz::Decode;

use super::report::{Report, bytes_of, equal, files, label, list, read_as, read_json, text};

/// The whole set.
pub fn run(folder: &Path) -> Report {
    let mut report = Report::default();
    for file in files(folder, "json") {
        let name = label(folder, &file);
        let value = match read_json(&file) {
            Ok(value) => value,
            Err(why) => {
                report.case(name, Err(why));
                continue;
            }
        };
        let result = if name.starts_with("modern") {
            modern(&name, &value, &mut report)
        } else if name.ends_with("endpoints.json") {
            recorded(&name, &value, &mut report)
        } else {
            timeline(&name, &value, &mut report)
        };
        if let Err(why) = result {
            report.case(name, Err(why));
        }
    }
    report
}

// --- Which request is which.

/// The route of a path as the recordings name it.
fn expected_route(method: &str, path: &str) -> Result<&'static str, String> {
    Ok(match (method, path.trim_start_matches("/eth/")) {
        ("POST", "v1/validator/duties/attester/{n}" | "v1/validator/duties/sync/{n}")
        | ("GET", "v1/validator/duties/proposer/{n}" | "v2/validator/duties/proposer/{n}") => "duties",
        ("POST", "v1/beacon/states/head/validators") => "validators by POST",
        ("GET", "v1/beacon/states/head/validators") => "validators",
        ("GET", "v1/validator/attestation_data") => "attestation data",
        ("GET", "v3/validator/blocks/{n}") => "block",
        ("GET", "v2/validator/aggregate_attestation") => "aggregate",
        ("GET", "v1/validator/sync_committee_contribution") => "contribution",
        ("POST", "v2/beacon/blocks") => "full block",
        ("POST", "v2/beacon/blinded_blocks") => "blinded block",
        ("POST", "v2/beacon/pool/attestations") => "attestations",
        ("POST", "v2/validator/aggregate_and_proofs") => "aggregates",
        ("POST", "v1/beacon/pool/sync_committees") => "sync messages",
        ("POST", "v1/validator/contribution_and_proofs") => "contributions",
        ("POST", "v1/beacon/pool/voluntary_exits") => "exit",
        ("POST", "v1/validator/beacon_committee_selections") => "committee selections",
        ("POST", "v1/validator/sync_committee_selections") => "sync selections",
        ("POST", "v1/validator/register_validator" | "v1/validator/prepare_beacon_proposer") => "swallowed",
        // A client could sign by these what nobody agreed on.
        ("POST", "v1/beacon/pool/attestations" | "v1/validator/aggregate_and_proofs")
        | ("GET", "v1/validator/aggregate_attestation") => "gone",
        ("GET", "v1/node/version") => "version",
        ("GET", "v1/events") => "events",
        (
            _,
            "v1/beacon/genesis"
            | "v1/config/spec"
            | "v1/node/syncing"
            | "v1/beacon/blocks/head/root"
            | "v1/validator/beacon_committee_subscriptions"
            | "v1/validator/sync_committee_subscriptions"
            | "v1/validator/liveness/{n}",
        ) => "passed on",
        _ => return Err(format!("nobody said what {method} {path} must be")),
    })
}

fn found_route(method: &str, path: &str) -> Result<&'static str, String> {
    Ok(match route(method, path).map_err(said)? {
        Route::Duties => "duties",
        Route::Validators { .. } => "validators",
        Route::ValidatorsByPost => "validators by POST",
        Route::Validator { .. } => "validator",
        Route::AttestationData => "attestation data",
        Route::ProduceBlock(_) => "block",
        Route::Aggregate => "aggregate",
        Route::Contribution => "contribution",
        Route::SubmitBlock { blinded: false } => "full block",
        Route::SubmitBlock { blinded: true } => "blinded block",
        Route::SubmitAttestations => "attestations",
        Route::SubmitAggregates => "aggregates",
        Route::SubmitSyncMessages => "sync messages",
        Route::SubmitContributions => "contributions",
        Route::SubmitExit => "exit",
        Route::CommitteeSelections => "committee selections",
        Route::SyncSelections => "sync selections",
        Route::Swallowed => "swallowed",
        Route::Gone => "gone",
        Route::Version => "version",
        Route::Events => "events",
        Route::Proxied => "passed on",
    })
}

fn said(error: ApiError) -> String {
    format!("{} {}", error.status, error.message)
}

/// The path of a request and its query.
fn target(request: &Value) -> Result<(&str, &str), String> {
    let whole = text(request, "path")?;
    Ok(whole.split_once('?').unwrap_or((whole, "")))
}

/// A path with `{n}` for a last numeric part, as the recordings name endpoints.
fn general(path: &str) -> String {
    match path.rsplit_once('/') {
        Some((stem, last)) if !last.is_empty() && last.bytes().all(|byte| byte.is_ascii_digit()) => {
            format!("{stem}/{{n}}")
        }
        _ => path.to_owned(),
    }
}

fn check_route(method: &str, path: &str) -> Result<(), String> {
    equal(
        &format!("the route of {method} {path}"),
        found_route(method, path)?,
        expected_route(method, &general(path))?,
    )
}

/// What is read from a query.
fn check_query(kind: &str, query: &str) -> Result<(), String> {
    let query = Query(query);
    match kind {
        "attestation data" => query.slot().and_then(|_| query.committee()).map(drop),
        "aggregate" => query
            .slot()
            .and_then(|_| query.root("attestation_data_root"))
            .and_then(|_| query.committee())
            .map(drop),
        "contribution" => query
            .slot()
            .and_then(|_| query.subcommittee())
            .and_then(|_| query.root("beacon_block_root"))
            .map(drop),
        "block" => query.randao_reveal().map(drop),
        _ => Ok(()),
    }
    .map_err(said)
}

// --- Bodies.

fn header<'a>(message: &'a Value, name: &str) -> Option<&'a str> {
    message["headers"][name].as_str()
}

fn body_bytes(message: &Value) -> Result<Vec<u8>, String> {
    let body = &message["body"];
    match body["ssz_hex"].as_str() {
        Some(hex) => bytes_of(hex),
        None if body.is_null() => Ok(Vec::new()),
        None => serde_json::to_vec(body).map_err(|error| error.to_string()),
    }
}

/// Reads what a client signed, as our API does; nothing for requests without such.
fn read_claims(kind: &str, request: &Value) -> Result<Option<Vec<Claimed>>, ApiError> {
    let form = content_form(header(request, "content-type"))?;
    let body = body_bytes(request).map_err(ApiError::bad)?;
    let fork = || fork_of(header(request, "eth-consensus-version"));
    Ok(Some(match kind {
        "attestations" => {
            fork()?;
            read_attestations(form, &body)?
        }
        "aggregates" => read_aggregates(fork()?, form, &body)?,
        "sync messages" => read_sync_messages(form, &body)?,
        "contributions" => read_contributions(form, &body)?,
        "exit" => vec![read_exit(form, &body)?],
        "committee selections" => read_committee_selections(form, &body)?,
        "sync selections" => read_sync_selections(form, &body)?,
        "full block" => vec![read_block(fork()?, false, form, &body)?],
        "blinded block" => vec![read_block(fork()?, true, form, &body)?],
        _ => return Ok(None),
    }))
}

// --- Recorded runs.

/// The chain of a recorded run, and the keys of its validators.
struct Chain {
    info: ChainInfo,
    keys: BTreeMap<ValidatorIndex, PublicKeyBytes>,
}

impl Chain {
    fn read(run: &Value) -> Result<Self, String> {
        let endpoints = list(run, "endpoints")?;
        let first_answer = |path: &str| {
            let endpoint = endpoints.iter().find(|endpoint| endpoint["path"] == path);
            let sample = endpoint.and_then(|endpoint| endpoint["samples"].get(0));
            sample.map(|sample| &sample["response"]).ok_or_else(|| format!("{path} was not recorded"))
        };
        let genesis = body_bytes(first_answer("/eth/v1/beacon/genesis")?)?;
        let spec = &first_answer("/eth/v1/config/spec")?["body"]["data"];
        // As the recorded node wrote it: the root, the time, the version.
        let root: [u8; 32] =
            genesis.get(..32).and_then(|root| root.try_into().ok()).ok_or("no genesis root")?;
        let version: [u8; 4] =
            genesis.get(40..44).and_then(|version| version.try_into().ok()).ok_or("no genesis version")?;
        let version = ForkVersion(version);
        let mut forks = vec![ScheduledFork { name: ForkName::Phase0, version, epoch: Epoch(0) }];
        for (name, word) in [
            (ForkName::Altair, "ALTAIR"),
            (ForkName::Bellatrix, "BELLATRIX"),
            (ForkName::Capella, "CAPELLA"),
            (ForkName::Deneb, "DENEB"),
            (ForkName::Electra, "ELECTRA"),
        ] {
            if spec[format!("{word}_FORK_VERSION")].is_null() {
                continue;
            }
            forks.push(ScheduledFork {
                name,
                version: read_as(spec, &format!("{word}_FORK_VERSION"))?,
                epoch: read_as(spec, &format!("{word}_FORK_EPOCH"))?,
            });
        }
        let number = |field: &str| run[field].as_u64().ok_or_else(|| format!("field `{field}` is missing"));
        let genesis_time_s = number("genesis_time")?;
        let timing = SlotTiming::new(
            genesis_time_s * 1000,
            number("seconds_per_slot")? * 1000,
            number("slots_per_epoch")?,
        );
        let info = ChainInfo {
            network: "recorded".to_owned(),
            genesis_time_s,
            genesis_validators_root: Root(root),
            genesis_fork_version: version,
            timing: timing.map_err(|error| error.to_string())?,
            fork_versions: forks.iter().map(|fork| fork.version).collect(),
            schedule: ForkSchedule::new(forks).map_err(|error| error.to_string())?,
        };
        let validators = &first_answer("/eth/v1/beacon/states/head/validators")?["body"];
        let key = |entry: &Value| Ok((read_as(entry, "index")?, read_as(&entry["validator"], "pubkey")?));
        let keys: Result<BTreeMap<_, _>, String> = list(validators, "data")?.iter().map(key).collect();
        Ok(Self { info, keys: keys? })
    }

    fn verify(&self, claimed: &Claimed) -> Result<(), String> {
        let key = self.keys.get(&claimed.index).ok_or_else(|| format!("no validator {}", claimed.index))?;
        let root = claimed.message.signing_root(&self.info);
        threshold::verify_bytes(key, &root.0, &claimed.signature)
            .map_err(|error| format!("{:?} of validator {}: {error}", claimed.message, claimed.index))
    }

    /// Whoever it was that proposed: the reveal is that of exactly one validator.
    fn verify_reveal(&self, path: &str, query: &str) -> Result<(), String> {
        let slot: Slot = path.rsplit('/').next().unwrap_or_default().parse().map_err(|_| "no slot")?;
        let signature = Query(query).randao_reveal().map_err(said)?;
        let message = Message::Randao { slot, epoch: self.info.timing.epoch_of(slot) };
        let of = |index: &&ValidatorIndex| {
            self.verify(&Claimed { index: **index, message: message.clone(), signature }).is_ok()
        };
        equal("validators with this reveal", self.keys.keys().filter(of).count(), 1)
    }
}

fn recorded(name: &str, run: &Value, report: &mut Report) -> Result<(), String> {
    let chain = Chain::read(run)?;
    for endpoint in list(run, "endpoints")? {
        let method = text(endpoint, "method")?;
        for sample in list(endpoint, "samples")? {
            let request = &sample["request"];
            let (path, query) = target(request)?;
            let kind = found_route(method, path)?;
            let case = format!("{name} {method} {path}");
            report.case(&case, check_route(method, path).and_then(|()| check_query(kind, query)));
            match kind {
                "full block" | "aggregates" | "contributions" => {
                    report
                        .skip(1, "blocks, aggregates and contributions were recorded in the minimal preset");
                }
                "attestations" => {
                    // The recorded client is older than the electra form of an attestation.
                    let refused = read_claims(kind, request).err().map(|error| error.status);
                    report.case(&case, equal("the refusal of the old form", refused, Some(400)));
                }
                "block" => report.case(&case, chain.verify_reveal(path, query)),
                _ => match read_claims(kind, request) {
                    Ok(None) => {}
                    Ok(Some(claims)) => {
                        report.case(&case, claims.iter().try_for_each(|claim| chain.verify(claim)));
                    }
                    Err(error) => report.case(&case, Err(said(error))),
                },
            }
            if kind == "attestation data" && sample["response"]["status"] == 200 {
                let read =
                    body_bytes(&sample["response"]).and_then(|bytes| ssz_of::<AttestationData>(&bytes));
                let slot = Query(query).slot().map_err(said);
                report.case(&case, read.and_then(|data| equal("the slot", data.slot, slot?)));
            }
        }
    }
    Ok(())
}

fn timeline(name: &str, run: &Value, report: &mut Report) -> Result<(), String> {
    for row in list(run, "rows")? {
        let text = |at: usize| row[at].as_str().ok_or_else(|| format!("column {at} is no text"));
        let (method, path) = (text(2)?, text(3)?);
        let path = path.split('?').next().unwrap_or_default();
        report.case(format!("{name} {method} {path}"), check_route(method, path));
    }
    Ok(())
}

// --- What the newest client library sends.

/// Operations of forks that are not built.
const UNBUILT: [&str; 4] =
    ["produceBlockV4", "getPtcDuties", "producePayloadAttestationData", "submitPayloadAttestationMessages"];

fn modern(name: &str, file: &Value, report: &mut Report) -> Result<(), String> {
    let fork: ForkName = text(file, "fork")?.parse().map_err(|_| "an unknown fork")?;
    let built = matches!(fork, ForkName::Electra | ForkName::Fulu);
    let mut read_before: BTreeMap<&str, Vec<Claimed>> = BTreeMap::new();
    let mut served_before: BTreeMap<&str, Served> = BTreeMap::new();
    for row in list(file, "rows")? {
        let (op, wire) = (text(row, "op")?, text(row, "wire")?);
        let case = format!("{name} {op} {wire}");
        if UNBUILT.contains(&op) {
            report.skip(1, "operations of the fork gloas are not built");
            continue;
        }
        let request = &row["request"];
        let (path, query) = target(request)?;
        let method = text(request, "method")?;
        report.case(&case, check_route(method, path));
        let kind = found_route(method, path)?;
        report.case(&case, check_query(kind, query));
        if let Some(result) = check_body(fork, built, kind, wire, request).transpose() {
            let same = result.and_then(|claims| same_as(&mut read_before, op, claims));
            report.case(&case, same);
        }
        if built && let Some(served) = Served::read(kind, &row["response"]).transpose() {
            report.case(&case, served.and_then(|served| same_as(&mut served_before, op, served)));
            // A client that prefers SSZ gets it.
            let form = if wire == "ssz" { Form::Ssz } else { Form::Json };
            report.case(&case, equal("the form of the answer", accepted(header(request, "accept")), form));
        }
    }
    Ok(())
}

/// The second of two forms of one object must be the first.
fn same_as<'a, T: PartialEq + std::fmt::Debug>(
    seen: &mut BTreeMap<&'a str, T>,
    op: &'a str,
    value: T,
) -> Result<(), String> {
    match seen.get(op) {
        Some(first) if *first != value => Err(format!("the two forms differ: {first:?} and {value:?}")),
        Some(_) => Ok(()),
        None => {
            seen.insert(op, value);
            Ok(())
        }
    }
}

/// What our readers make of a body; nothing when there is none of ours, or when it is refused as it must be.
fn check_body(
    fork: ForkName,
    built: bool,
    kind: &str,
    wire: &str,
    request: &Value,
) -> Result<Option<Vec<Claimed>>, String> {
    let versioned = matches!(kind, "attestations" | "aggregates" | "full block" | "blinded block");
    let only_json = matches!(kind, "committee selections" | "sync selections");
    match read_claims(kind, request) {
        Ok(claims) if built || !versioned => Ok(claims),
        Ok(_) => Err(format!("a message of the fork {fork} was read")),
        Err(error) if versioned && !built => equal("the refusal", error.status, 400).map(|()| None),
        // Has no SSZ form in the specification; the refusal makes the client send JSON.
        Err(error) if only_json && wire == "ssz" => equal("the refusal", error.status, 415).map(|()| None),
        Err(error) => Err(said(error)),
    }
}

/// Answers that our API makes itself, read back.
#[derive(Debug, PartialEq)]
enum Served {
    Vote(AttestationData),
    Aggregate(Box<Attestation>),
    Contribution(Box<SyncCommitteeContribution>),
    Block(Box<UnsignedBlock>),
}

impl Served {
    fn read(kind: &str, response: &Value) -> Result<Option<Self>, String> {
        Ok(Some(match kind {
            "attestation data" => Self::Vote(either(response)?),
            "aggregate" => Self::Aggregate(Box::new(either(response)?)),
            "contribution" => Self::Contribution(Box::new(either(response)?)),
            "block" => {
                let blinded = header(response, "eth-execution-payload-blinded") == Some("true");
                let block = match response["body"]["ssz_hex"].as_str() {
                    Some(hex) => UnsignedBlock::from_ssz(blinded, &bytes_of(hex)?)
                        .map_err(|error| format!("{error:?}"))?,
                    None => UnsignedBlock::deserialize_as(blinded, &response["body"]["data"])
                        .map_err(|error| error.to_string())?,
                };
                Self::Block(Box::new(block))
            }
            _ => return Ok(None),
        }))
    }
}

fn either<T: DeserializeOwned + Decode>(response: &Value) -> Result<T, String> {
    match response["body"]["ssz_hex"].as_str() {
        Some(hex) => ssz_of(&bytes_of(hex)?),
        None => read_as(&response["body"], "data"),
    }
}

fn ssz_of<T: Decode>(bytes: &[u8]) -> Result<T, String> {
    T::from_ssz_bytes(bytes).map_err(|error| format!("{error:?}"))
}
