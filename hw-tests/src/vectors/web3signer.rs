//! `web3signer`: recorded requests of a validator client to a remote signer. The signing root is computed from the whole
//! message, as the box's signer does, and the recorded answer must be a signature over it. No daemon's code may be named here, so this
//! is a reader of its own; the signer's tests send the same requests to the real process over its socket
//! (`a_stock_client_s_recorded_requests_are_answered_byte_by_byte`).

use super::report::{Report, equal, files, label, list, read_as, read_json, text};
use chain::domain::{self, domain_at};
use chain::{
    Domain, DomainType, Epoch, ForkInfo, ForkVersion, Minimal, PublicKeyBytes, Root, SignatureBytes, Slot,
    compute_domain,
};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use threshold::PublicKey;
use tree_hash::TreeHash;

/// The recorded chain has the minimal preset.
const SLOTS_PER_EPOCH: u64 = 8;
const GENESIS_VERSION: ForkVersion = ForkVersion([0, 0, 0, 1]);
const CAPELLA_VERSION: ForkVersion = ForkVersion([3, 0, 0, 1]);

/// The whole set. Unknown request types count as skipped, by name.
pub fn run(folder: &Path) -> Report {
    let mut report = Report::default();
    let mut unknown: BTreeMap<String, u64> = BTreeMap::new();
    for file in files(folder, "json") {
        let name = label(folder, &file);
        let read = read_json(&file).and_then(|value| Ok(list(&value, "cases")?.to_vec()));
        let cases = match read {
            Ok(cases) => cases,
            Err(why) => {
                report.case(name, Err(why));
                continue;
            }
        };
        for (number, case) in cases.iter().enumerate() {
            match check(case) {
                Ok(None) => report.case(&name, Ok(())),
                Ok(Some(kind)) => *unknown.entry(kind).or_default() += 1,
                Err(why) => report.case(format!("{name} case {number}"), Err(why)),
            }
        }
    }
    for (kind, count) in unknown {
        report.skip(count, &format!("requests of type {kind} are not built"));
    }
    report
}

/// The name of the type when it is not one we know.
fn check(case: &Value) -> Result<Option<String>, String> {
    let request = &case["request"];
    let answer = &case["response"]["body"];
    if let Some(keys) = answer.as_array() {
        return keys.iter().try_for_each(check_key).map(|()| None);
    }
    let body = &request["body"];
    let Some((root, domain)) = message(body)? else { return Ok(Some(text(body, "type")?.to_owned())) };
    let signing_root = domain::signing_root_of(root, domain);
    equal("signing root", signing_root, read_as(body, "signingRoot")?)?;
    let key = text(request, "path")?.rsplit('/').next().unwrap_or_default();
    let key: PublicKeyBytes = key.parse().map_err(|error| format!("the key in the path: {error}"))?;
    let signature: SignatureBytes = read_as(answer, "signature")?;
    threshold::verify_bytes(&key, &signing_root.0, &signature).map_err(|error| error.to_string())?;
    Ok(None)
}

fn check_key(key: &Value) -> Result<(), String> {
    let key: PublicKeyBytes = serde_json::from_value(key.clone()).map_err(|error| error.to_string())?;
    PublicKey::parse(&key).map(|_| ()).map_err(|error| error.to_string())
}

/// Root and domain of a request's message; none for a type we do not know.
fn message(body: &Value) -> Result<Option<(Root, Domain)>, String> {
    let at = |kind: DomainType, epoch: Epoch| -> Result<Domain, String> {
        Ok(domain_at(kind, epoch, &read_as::<ForkInfo>(body, "fork_info")?))
    };
    let epoch_of = |slot: Slot| slot.epoch(SLOTS_PER_EPOCH);
    let message = match text(body, "type")? {
        "AGGREGATION_SLOT" => {
            let slot: Slot = read_as(&body["aggregation_slot"], "slot")?;
            (root_of(&slot), at(domain::SELECTION_PROOF, epoch_of(slot))?)
        }
        "AGGREGATE_AND_PROOF" => {
            let message: chain::Phase0AggregateAndProof = read_as(body, "aggregate_and_proof")?;
            let epoch = epoch_of(message.aggregate.data.slot);
            (root_of(&message), at(domain::AGGREGATE_AND_PROOF, epoch)?)
        }
        "AGGREGATE_AND_PROOF_V2" => {
            let message: chain::AggregateAndProof<Minimal> = read_as(&body["aggregate_and_proof"], "data")?;
            let epoch = epoch_of(message.aggregate.data.slot);
            (root_of(&message), at(domain::AGGREGATE_AND_PROOF, epoch)?)
        }
        "ATTESTATION" => {
            let data: chain::AttestationData = read_as(body, "attestation")?;
            (root_of(&data), at(domain::BEACON_ATTESTER, data.target.epoch)?)
        }
        "BLOCK_V2" if body["beacon_block"].get("block_header").is_some() => {
            let header: chain::BeaconBlockHeader = read_as(&body["beacon_block"], "block_header")?;
            (root_of(&header), at(domain::BEACON_PROPOSER, epoch_of(header.slot))?)
        }
        "RANDAO_REVEAL" => {
            let epoch: Epoch = read_as(&body["randao_reveal"], "epoch")?;
            (root_of(&epoch), at(domain::RANDAO, epoch)?)
        }
        "SYNC_COMMITTEE_MESSAGE" => {
            let slot: Slot = read_as(&body["sync_committee_message"], "slot")?;
            let root: Root = read_as(&body["sync_committee_message"], "beacon_block_root")?;
            (root, at(domain::SYNC_COMMITTEE, epoch_of(slot))?)
        }
        "SYNC_COMMITTEE_SELECTION_PROOF" => {
            let data: chain::SyncAggregatorSelectionData = read_as(body, "sync_aggregator_selection_data")?;
            (root_of(&data), at(domain::SYNC_COMMITTEE_SELECTION_PROOF, epoch_of(data.slot))?)
        }
        "SYNC_COMMITTEE_CONTRIBUTION_AND_PROOF" => {
            let message: chain::ContributionAndProof<Minimal> = read_as(body, "contribution_and_proof")?;
            let epoch = epoch_of(message.contribution.slot);
            (root_of(&message), at(domain::CONTRIBUTION_AND_PROOF, epoch)?)
        }
        "VOLUNTARY_EXIT" => {
            // EIP-7044: capella's version, whatever the request says.
            let exit: chain::VoluntaryExit = read_as(body, "voluntary_exit")?;
            let info: ForkInfo = read_as(body, "fork_info")?;
            let domain =
                compute_domain(domain::VOLUNTARY_EXIT, CAPELLA_VERSION, info.genesis_validators_root);
            (root_of(&exit), domain)
        }
        "VALIDATOR_REGISTRATION" => {
            let registration: chain::ValidatorRegistration = read_as(body, "validator_registration")?;
            (root_of(&registration), domain::genesis_domain(domain::APPLICATION_BUILDER, GENESIS_VERSION))
        }
        "DEPOSIT" => {
            let deposit: chain::DepositMessage = read_as(body, "deposit")?;
            let version: ForkVersion = read_as(&body["deposit"], "genesis_fork_version")?;
            (root_of(&deposit), domain::genesis_domain(domain::DEPOSIT, version))
        }
        // Also a block from before Bellatrix, which comes whole: the signer refuses it, for no chain has such blocks any more.
        _ => return Ok(None),
    };
    Ok(Some(message))
}

fn root_of(object: &impl TreeHash) -> Root {
    object.tree_hash_root().into()
}
