//! `signing-roots`: domain, signing root and signature of every kind of message a validator signs.

use super::report::{Report, equal, files, hex_field, label, read_as, read_json, text};
use chain::{
    Domain, DomainType, Epoch, ForkInfo, ForkName, ForkVersion, Mainnet, Root, SignatureBytes, Slot,
};
use chain::{compute_domain, domain, gloas};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use threshold::SecretKey;
use tree_hash::TreeHash;

/// The whole set. Unknown message types count as skipped, by name.
pub fn run(folder: &Path) -> Report {
    let mut report = Report::default();
    let mut unknown: BTreeMap<String, u64> = BTreeMap::new();
    for file in files(folder, "json") {
        let name = label(folder, &file);
        match read_json(&file).and_then(|case| Ok((object(&case)?, case))) {
            Ok((Some(object), case)) => report.case(name, check(&case, &object)),
            Ok((None, case)) => {
                let kind = text(&case, "type").unwrap_or("?").to_owned();
                let fork = text(&case, "fork").unwrap_or("?").to_owned();
                *unknown.entry(format!("{kind} of fork {fork} is not built")).or_default() += 1;
            }
            Err(why) => report.case(name, Err(why)),
        }
    }
    for (why, count) in unknown {
        report.skip(count, &why);
    }
    report
}

/// What a message comes down to: its root, its domain type, and the rule that picks the fork version.
struct Object {
    root: Root,
    domain_type: DomainType,
    rule: Rule,
}

enum Rule {
    /// The version in force at the message's epoch.
    At(Epoch),
    /// As above, but capella's from deneb on (EIP-7044).
    Exit(Epoch),
    /// The genesis version and the network's root.
    GenesisVersion,
    /// The genesis version and no root.
    Genesis,
}

fn check(case: &Value, object: &Object) -> Result<(), String> {
    equal("object root", object.root, read_as(case, "object_root")?)?;
    equal("domain type", object.domain_type, read_as(case, "domain_type")?)?;
    let domain = domain_of(case, object)?;
    equal("domain", domain, read_as(case, "domain")?)?;
    let root = domain::signing_root_of(object.root, domain);
    equal("signing root", root, read_as(case, "signing_root")?)?;
    let key = SecretKey::from_bytes(&hex_field(case, "privkey")?).map_err(|error| error.to_string())?;
    equal("public key", key.public_key().to_bytes(), read_as(case, "pubkey")?)?;
    let expected: SignatureBytes = read_as(case, "signature")?;
    equal("signature", key.sign(&root.0).to_bytes(), expected)
}

fn domain_of(case: &Value, object: &Object) -> Result<Domain, String> {
    let fork_info = || read_as::<ForkInfo>(case, "fork_info");
    let kind = object.domain_type;
    match object.rule {
        Rule::At(epoch) => Ok(domain::domain_at(kind, epoch, &fork_info()?)),
        Rule::Exit(epoch) => {
            let info = fork_info()?;
            let fork: ForkName = text(case, "fork")?.parse().map_err(|_| "unknown fork".to_owned())?;
            if fork < ForkName::Deneb {
                return Ok(domain::domain_at(kind, epoch, &info));
            }
            Ok(compute_domain(kind, network(case)?.capella, info.genesis_validators_root))
        }
        Rule::GenesisVersion => {
            let info = case.get("fork_info").ok_or("no fork_info")?;
            let version: ForkVersion = read_as(info, "genesis_fork_version")?;
            Ok(compute_domain(kind, version, read_as(info, "genesis_validators_root")?))
        }
        Rule::Genesis => {
            let version = match case["message"].get("genesis_fork_version") {
                Some(_) => read_as(&case["message"], "genesis_fork_version")?,
                None => network(case)?.genesis,
            };
            Ok(domain::genesis_domain(kind, version))
        }
    }
}

/// What a case does not say about its network (from the networks' published configurations).
struct Network {
    name: &'static str,
    genesis: ForkVersion,
    capella: ForkVersion,
}

const NETWORKS: &[Network] = &[
    Network { name: "mainnet", genesis: ForkVersion([0, 0, 0, 0]), capella: ForkVersion([3, 0, 0, 0]) },
    Network {
        name: "hoodi",
        genesis: ForkVersion([0x10, 0, 9, 0x10]),
        capella: ForkVersion([0x40, 0, 9, 0x10]),
    },
    Network { name: "holesky", genesis: ForkVersion([1, 1, 0x70, 0]), capella: ForkVersion([4, 1, 0x70, 0]) },
    Network {
        name: "sepolia",
        genesis: ForkVersion([0x90, 0, 0, 0x69]),
        capella: ForkVersion([0x90, 0, 0, 0x72]),
    },
    Network {
        name: "gloas-devnet",
        genesis: ForkVersion([0x10, 0, 0, 0x38]),
        capella: ForkVersion([0x40, 0, 0, 0x38]),
    },
];

fn network(case: &Value) -> Result<&'static Network, String> {
    let name = text(case, "network")?;
    NETWORKS.iter().find(|network| network.name == name).ok_or_else(|| format!("unknown network `{name}`"))
}

fn object(case: &Value) -> Result<Option<Object>, String> {
    let message = &case["message"];
    let fork: ForkName = text(case, "fork")?.parse().map_err(|_| "unknown fork".to_owned())?;
    let epoch = || case_epoch(case);
    let object = match text(case, "type")? {
        "BLOCK_V2" | "BLOCK" => {
            let header: chain::BeaconBlockHeader = read_as(message, "block_header")?;
            of(&header, domain::BEACON_PROPOSER, Rule::At(epoch()?))
        }
        "ATTESTATION" => {
            let data: chain::AttestationData = whole(message)?;
            of(&data, domain::BEACON_ATTESTER, Rule::At(data.target.epoch))
        }
        "AGGREGATION_SLOT" => {
            let slot: Slot = read_as(message, "slot")?;
            of(&slot, domain::SELECTION_PROOF, Rule::At(epoch()?))
        }
        "RANDAO_REVEAL" => {
            let at: Epoch = read_as(message, "epoch")?;
            of(&at, domain::RANDAO, Rule::At(at))
        }
        "AGGREGATE_AND_PROOF" => {
            let aggregate: chain::Phase0AggregateAndProof = whole(message)?;
            of(&aggregate, domain::AGGREGATE_AND_PROOF, Rule::At(epoch()?))
        }
        "AGGREGATE_AND_PROOF_V2" => aggregate_v2(fork, message, epoch()?)?,
        "SYNC_COMMITTEE_MESSAGE" => {
            let root: Root = read_as(message, "beacon_block_root")?;
            of(&root, domain::SYNC_COMMITTEE, Rule::At(epoch()?))
        }
        "SYNC_COMMITTEE_SELECTION_PROOF" => {
            let data: chain::SyncAggregatorSelectionData = whole(message)?;
            of(&data, domain::SYNC_COMMITTEE_SELECTION_PROOF, Rule::At(epoch()?))
        }
        "SYNC_COMMITTEE_CONTRIBUTION_AND_PROOF" => {
            let contribution: chain::ContributionAndProof<Mainnet> = whole(message)?;
            of(&contribution, domain::CONTRIBUTION_AND_PROOF, Rule::At(epoch()?))
        }
        "VOLUNTARY_EXIT" => {
            let exit: chain::VoluntaryExit = whole(message)?;
            of(&exit, domain::VOLUNTARY_EXIT, Rule::Exit(exit.epoch))
        }
        "VALIDATOR_REGISTRATION" => {
            let registration: chain::ValidatorRegistration = whole(message)?;
            of(&registration, domain::APPLICATION_BUILDER, Rule::Genesis)
        }
        "DEPOSIT" => {
            let deposit: chain::DepositMessage = whole(message)?;
            of(&deposit, domain::DEPOSIT, Rule::Genesis)
        }
        "EXECUTION_PAYLOAD_BID" => {
            let bid: gloas::ExecutionPayloadBid = whole(message)?;
            of(&bid, domain::BEACON_BUILDER, Rule::At(epoch()?))
        }
        "PAYLOAD_ATTESTATION" => {
            let data: gloas::PayloadAttestationData = whole(message)?;
            of(&data, domain::PTC_ATTESTER, Rule::At(epoch()?))
        }
        "PROPOSER_PREFERENCES" => {
            let preferences: gloas::ProposerPreferences = whole(message)?;
            of(&preferences, domain::PROPOSER_PREFERENCES, Rule::At(epoch()?))
        }
        "BLS_TO_EXECUTION_CHANGE" => {
            let change: chain::BlsToExecutionChange = whole(message)?;
            of(&change, domain::BLS_TO_EXECUTION_CHANGE, Rule::GenesisVersion)
        }
        _ => return Ok(None),
    };
    Ok(Some(object))
}

fn aggregate_v2(fork: ForkName, message: &Value, epoch: Epoch) -> Result<Object, String> {
    let data = message.get("data").ok_or("no data")?;
    let rule = Rule::At(epoch);
    Ok(match fork {
        ForkName::Gloas => {
            let aggregate: gloas::AggregateAndProof = whole(data)?;
            of(&aggregate, domain::AGGREGATE_AND_PROOF, rule)
        }
        ForkName::Electra | ForkName::Fulu => {
            let aggregate: chain::AggregateAndProof = whole(data)?;
            of(&aggregate, domain::AGGREGATE_AND_PROOF, rule)
        }
        ForkName::Phase0 | ForkName::Altair | ForkName::Bellatrix | ForkName::Capella | ForkName::Deneb => {
            let aggregate: chain::Phase0AggregateAndProof = whole(data)?;
            of(&aggregate, domain::AGGREGATE_AND_PROOF, rule)
        }
    })
}

fn of(object: &impl TreeHash, domain_type: DomainType, rule: Rule) -> Object {
    Object { root: object.tree_hash_root().into(), domain_type, rule }
}

fn whole<T: DeserializeOwned>(message: &Value) -> Result<T, String> {
    serde_json::from_value(message.clone()).map_err(|error| format!("message: {error}"))
}

/// The epoch the case states, or that of its slot.
fn case_epoch(case: &Value) -> Result<Epoch, String> {
    match case.get("epoch") {
        Some(_) => read_as(case, "epoch"),
        None => Ok(read_as::<Slot>(case, "slot")?.epoch(32)),
    }
}
