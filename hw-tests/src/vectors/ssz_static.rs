//! `ssz`: encoding and hash tree roots of the containers that get signed, in the layout of the consensus spec tests.

use super::report::{Report, equal, files, label, read};
use chain::{Mainnet, Minimal, Preset, Root};
use serde::Serialize;
use serde::de::DeserializeOwned;
use ssz::{Decode, Encode};
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::Path;
use tree_hash::TreeHash;

/// The whole set. Types or forks nobody built count as skipped, by name.
pub fn run(folder: &Path) -> Report {
    let mut report = Report::default();
    let mut not_built: BTreeMap<String, u64> = BTreeMap::new();
    for file in files(folder, "ssz_snappy") {
        let Some(case) = file.parent() else { continue };
        let name = label(folder, case);
        let parts: Vec<&str> = name.split('/').collect();
        let Some([preset, fork, kind]) =
            parts.windows(3).find(|part| matches!(part[0], "mainnet" | "minimal"))
        else {
            not_built
                .entry(format!("{name}: not in the layout preset/fork/type"))
                .and_modify(|n| *n += 1)
                .or_insert(1);
            continue;
        };
        let result = match *preset {
            "mainnet" => check::<Mainnet>(fork, kind, case),
            _ => check::<Minimal>(fork, kind, case),
        };
        match result {
            Some(result) => report.case(name, result),
            None => *not_built.entry(format!("{fork} {kind} is not built")).or_default() += 1,
        }
    }
    for (why, count) in not_built {
        report.skip(count, &why);
    }
    report
}

/// None when the type is not built for this fork.
fn check<P: Preset>(fork: &str, kind: &str, case: &Path) -> Option<Result<(), String>> {
    match fork {
        "electra" | "fulu" => electra::<P>(kind, case).or_else(|| unchanged(kind, case)),
        "gloas" => gloas::<P>(kind, case).or_else(|| unchanged(kind, case)),
        _ => None,
    }
}

/// Types that are the same in every fork we know.
fn unchanged(kind: &str, case: &Path) -> Option<Result<(), String>> {
    let run = match kind {
        "AttestationData" => run_case::<chain::AttestationData>,
        "BLSToExecutionChange" => run_case::<chain::BlsToExecutionChange>,
        "BeaconBlockHeader" => run_case::<chain::BeaconBlockHeader>,
        "Checkpoint" => run_case::<chain::Checkpoint>,
        "Deposit" => run_case::<chain::Deposit>,
        "DepositData" => run_case::<chain::DepositData>,
        "DepositMessage" => run_case::<chain::DepositMessage>,
        "DepositRequest" => run_case::<chain::DepositRequest>,
        "Eth1Data" => run_case::<chain::Eth1Data>,
        "Fork" => run_case::<chain::Fork>,
        "ForkData" => run_case::<chain::ForkData>,
        "ProposerSlashing" => run_case::<chain::ProposerSlashing>,
        "SignedBLSToExecutionChange" => run_case::<chain::SignedBlsToExecutionChange>,
        "SignedBeaconBlockHeader" => run_case::<chain::SignedBeaconBlockHeader>,
        "SignedVoluntaryExit" => run_case::<chain::SignedVoluntaryExit>,
        "SigningData" => run_case::<chain::SigningData>,
        "SingleAttestation" => run_case::<chain::SingleAttestation>,
        "SyncAggregatorSelectionData" => run_case::<chain::SyncAggregatorSelectionData>,
        "SyncCommitteeMessage" => run_case::<chain::SyncCommitteeMessage>,
        "VoluntaryExit" => run_case::<chain::VoluntaryExit>,
        "Withdrawal" => run_case::<chain::Withdrawal>,
        "WithdrawalRequest" => run_case::<chain::WithdrawalRequest>,
        "ConsolidationRequest" => run_case::<chain::ConsolidationRequest>,
        _ => return None,
    };
    Some(run(case))
}

/// Electra and fulu.
fn electra<P: Preset>(kind: &str, case: &Path) -> Option<Result<(), String>> {
    let run = match kind {
        "AggregateAndProof" => run_case::<chain::AggregateAndProof<P>>,
        "Attestation" => run_case::<chain::Attestation<P>>,
        "AttesterSlashing" => run_case::<chain::AttesterSlashing<P>>,
        "BeaconBlock" => run_case::<chain::BeaconBlock<P>>,
        "BeaconBlockBody" => run_case::<chain::BeaconBlockBody<P>>,
        "ContributionAndProof" => run_case::<chain::ContributionAndProof<P>>,
        "ExecutionPayload" => run_case::<chain::ExecutionPayload<P>>,
        "ExecutionPayloadHeader" => run_case::<chain::ExecutionPayloadHeader>,
        "ExecutionRequests" => run_case::<chain::ExecutionRequests>,
        "IndexedAttestation" => run_case::<chain::IndexedAttestation<P>>,
        "SignedAggregateAndProof" => run_case::<chain::SignedAggregateAndProof<P>>,
        "SignedBeaconBlock" => run_case::<chain::SignedBeaconBlock<P>>,
        "SignedContributionAndProof" => run_case::<chain::SignedContributionAndProof<P>>,
        "SyncAggregate" => run_case::<chain::SyncAggregate<P>>,
        "SyncCommitteeContribution" => run_case::<chain::SyncCommitteeContribution<P>>,
        _ => return None,
    };
    Some(run(case))
}

/// The draft fork.
fn gloas<P: Preset>(kind: &str, case: &Path) -> Option<Result<(), String>> {
    use chain::gloas;
    let run = match kind {
        "AggregateAndProof" => run_case::<gloas::AggregateAndProof<P>>,
        "Attestation" => run_case::<gloas::Attestation<P>>,
        "AttesterSlashing" => run_case::<gloas::AttesterSlashing>,
        "BeaconBlock" => run_case::<gloas::BeaconBlock<P>>,
        "BeaconBlockBody" => run_case::<gloas::BeaconBlockBody<P>>,
        "BuilderDepositRequest" => run_case::<gloas::BuilderDepositRequest>,
        "BuilderExitRequest" => run_case::<gloas::BuilderExitRequest>,
        "ContributionAndProof" => run_case::<chain::ContributionAndProof<P>>,
        "ExecutionPayload" => run_case::<gloas::ExecutionPayload>,
        "ExecutionPayloadBid" => run_case::<gloas::ExecutionPayloadBid>,
        "ExecutionPayloadEnvelope" => run_case::<gloas::ExecutionPayloadEnvelope>,
        "ExecutionRequests" => run_case::<gloas::ExecutionRequests>,
        "IndexedAttestation" => run_case::<gloas::IndexedAttestation>,
        "IndexedPayloadAttestation" => run_case::<gloas::IndexedPayloadAttestation<P>>,
        "PayloadAttestation" => run_case::<gloas::PayloadAttestation<P>>,
        "PayloadAttestationData" => run_case::<gloas::PayloadAttestationData>,
        "PayloadAttestationMessage" => run_case::<gloas::PayloadAttestationMessage>,
        "ProposerPreferences" => run_case::<gloas::ProposerPreferences>,
        "SignedAggregateAndProof" => run_case::<gloas::SignedAggregateAndProof<P>>,
        "SignedContributionAndProof" => run_case::<chain::SignedContributionAndProof<P>>,
        "SignedExecutionPayloadBid" => run_case::<gloas::SignedExecutionPayloadBid>,
        "SignedExecutionPayloadEnvelope" => run_case::<gloas::SignedExecutionPayloadEnvelope>,
        "SignedProposerPreferences" => run_case::<gloas::SignedProposerPreferences>,
        "SyncAggregate" => run_case::<chain::SyncAggregate<P>>,
        "SyncCommitteeContribution" => run_case::<chain::SyncCommitteeContribution<P>>,
        _ => return None,
    };
    Some(run(case))
}

/// Decode, encode, root, and the same object from its text form and through JSON.
fn run_case<T>(case: &Path) -> Result<(), String>
where
    T: Encode + Decode + TreeHash + Serialize + DeserializeOwned + PartialEq + Debug,
{
    let compressed = read(&case.join("serialized.ssz_snappy"))?;
    let bytes = snap::raw::Decoder::new().decompress_vec(&compressed).map_err(|e| format!("snappy: {e}"))?;
    let object = T::from_ssz_bytes(&bytes).map_err(|error| format!("does not decode: {error:?}"))?;
    if object.as_ssz_bytes() != bytes {
        return Err("encodes to other bytes".to_owned());
    }
    let roots: BTreeMap<String, Root> = yaml(&case.join("roots.yaml"))?;
    let expected = *roots.get("root").ok_or("roots.yaml has no root")?;
    equal("root", Root::from(object.tree_hash_root()), expected)?;
    let from_text: T = yaml(&case.join("value.yaml"))?;
    if from_text != object {
        return Err("value.yaml reads as another object".to_owned());
    }
    let json = serde_json::to_vec(&object).map_err(|error| error.to_string())?;
    let from_json: T = serde_json::from_slice(&json).map_err(|error| format!("own JSON: {error}"))?;
    if from_json == object { Ok(()) } else { Err("JSON reads as another object".to_owned()) }
}

fn yaml<T: DeserializeOwned>(file: &Path) -> Result<T, String> {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    serde_yaml_ng::from_slice(&read(file)?).map_err(|error| format!("{name}: {error}"))
}
