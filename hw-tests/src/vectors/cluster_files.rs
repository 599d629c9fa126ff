//! `obol/cluster`, `obol/layout`, `obol/deposit`: definitions and locks of all versions, what cluster creation writes.

use super::report::{
    Report, equal, files, hex_field, json_cases, label, list, read, read_as, read_json, text,
};
use chain::deposit::registration_signing_root;
use chain::{DepositMessage, ExecutionAddress, ForkVersion, Gwei, PublicKeyBytes, ValidatorRegistration};
use cluster::create::{self, Addresses, CreateOptions};
use cluster::deposit::{self, ETH};
use cluster::eip712::{self, Statement};
use cluster::keystore::KdfCost;
use cluster::{Definition, Lock, Network};
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;
use threshold::SecretKey;

/// `obol/cluster`.
pub fn cluster(folder: &Path) -> Report {
    let mut report = Report::default();
    for file in files(folder, "json") {
        let name = label(folder, &file);
        match name.as_str() {
            "expected.json" => expected_hashes(folder, &file, &mut report),
            "eip712.json" => match read_json(&file).and_then(|value| Ok(list(&value, "cases")?.to_vec())) {
                Ok(cases) => {
                    for case in &cases {
                        report.case(format!("{name} {}", case["primary_type"]), eip712_case(case));
                    }
                }
                Err(why) => report.case(name, Err(why)),
            },
            "eip712_terms.json" => report.case(name, read_json(&file).and_then(|case| terms_case(&case))),
            _ => report.case(&name, cluster_file(&name, &file)),
        }
    }
    report
}

/// Loads, writes back, and verifies a definition or a lock; what must hold depends on the folder it lies in.
fn cluster_file(name: &str, file: &Path) -> Result<(), String> {
    let bytes = read(file)?;
    let value: Value = serde_json::from_slice(&bytes).map_err(|error| error.to_string())?;
    let loaded = Loaded::read(&value, &bytes)?;
    if name.starts_with("negative/") {
        return match loaded.verify() {
            Ok(()) => Err("verifies, but must not".to_owned()),
            Err(_) => Ok(()),
        };
    }
    loaded.verify_hashes()?;
    let written: Value = serde_json::from_slice(&loaded.write()?).map_err(|error| error.to_string())?;
    equal("the file written back", &written, &value)?;
    if name.starts_with("real/") { loaded.verify() } else { Ok(()) }
}

enum Loaded {
    Definition(Box<Definition>),
    Lock(Box<Lock>),
}

impl Loaded {
    fn read(value: &Value, bytes: &[u8]) -> Result<Self, String> {
        if value.get("cluster_definition").is_some() {
            Lock::from_json(bytes).map(|lock| Self::Lock(Box::new(lock))).map_err(|error| error.to_string())
        } else {
            Definition::from_json(bytes)
                .map(|definition| Self::Definition(Box::new(definition)))
                .map_err(|error| error.to_string())
        }
    }

    fn definition(&self) -> &Definition {
        match self {
            Self::Definition(definition) => definition,
            Self::Lock(lock) => &lock.definition,
        }
    }

    fn verify_hashes(&self) -> Result<(), String> {
        match self {
            Self::Definition(definition) => definition.verify_hashes().map_err(|error| error.to_string()),
            Self::Lock(lock) => lock.verify_hashes().map_err(|error| error.to_string()),
        }
    }

    fn verify(&self) -> Result<(), String> {
        match self {
            Self::Definition(definition) => definition.verify(&[]).map_err(|error| error.to_string()),
            Self::Lock(lock) => lock.verify(&[]).map(|_| ()).map_err(|error| error.to_string()),
        }
    }

    fn write(&self) -> Result<Vec<u8>, String> {
        match self {
            Self::Definition(definition) => definition.to_json().map_err(|error| error.to_string()),
            Self::Lock(lock) => lock.to_json().map_err(|error| error.to_string()),
        }
    }
}

/// Every entry of the index: the recomputed hashes are the listed ones.
fn expected_hashes(folder: &Path, index: &Path, report: &mut Report) {
    let cases = match read_json(index).and_then(|value| Ok(list(&value, "cases")?.to_vec())) {
        Ok(cases) => cases,
        Err(why) => return report.case("expected.json", Err(why)),
    };
    for case in &cases {
        let name = text(case, "file").unwrap_or("unnamed");
        report.case(format!("hashes of {name}"), expected_entry(folder, name, case));
    }
}

fn expected_entry(folder: &Path, name: &str, case: &Value) -> Result<(), String> {
    let file = folder.join(name.strip_prefix("cluster/").unwrap_or(name));
    let bytes = read(&file)?;
    let value: Value = serde_json::from_slice(&bytes).map_err(|error| error.to_string())?;
    let loaded = Loaded::read(&value, &bytes)?;
    let definition = loaded.definition();
    equal("version", definition.version.as_str(), text(case, "version")?)?;
    // Files whose stored hashes are wrong list the right ones apart.
    let recomputed = case.get("recomputed");
    let listed = |long: &str, short: &str| match recomputed {
        Some(right) => text(right, short).map(str::to_owned),
        None => text(case, long).map(str::to_owned),
    };
    let check = |what: &str, found: [u8; 32], expected: String| {
        let bytes = if expected.starts_with("0x") { hex_text(&expected)? } else { base64_text(&expected)? };
        equal(what, found.to_vec(), bytes)
    };
    let error = |error: cluster::FieldError| error.to_string();
    check("config hash", definition.compute_config_hash().map_err(error)?, listed("config_hash", "config")?)?;
    check(
        "definition hash",
        definition.compute_definition_hash().map_err(error)?,
        listed("definition_hash", "definition")?,
    )?;
    if let Loaded::Lock(lock) = &loaded {
        check("lock hash", lock.compute_lock_hash().map_err(error)?, listed("lock_hash", "lock")?)?;
    }
    Ok(())
}

fn hex_text(text: &str) -> Result<Vec<u8>, String> {
    super::report::bytes_of(text)
}

/// Standard base64, for the index's oldest entries; kept apart from the code under test.
fn base64_text(text: &str) -> Result<Vec<u8>, String> {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = Vec::new();
    let (mut buffer, mut bits) = (0_u32, 0_u32);
    for byte in text.trim_end_matches('=').bytes() {
        let digit = ALPHABET.iter().position(|known| *known == byte).ok_or("not base64")?;
        buffer = (buffer << 6) | u32::try_from(digit).map_err(|error| error.to_string())?;
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            out.push(u8::try_from((buffer >> bits) & 0xff).map_err(|error| error.to_string())?);
        }
    }
    Ok(out)
}

fn eip712_case(case: &Value) -> Result<(), String> {
    let statement = match text(case, "primary_type")? {
        "CreatorConfigHash" => Statement::CreatorConfigHash,
        "OperatorConfigHash" => Statement::OperatorConfigHash,
        "ConfigHash" => Statement::ConfigHash,
        "ENR" => Statement::Enr,
        other => return Err(format!("unknown primary type {other}")),
    };
    let digest = eip712::digest(statement, text(case, "value")?, read_as(case, "chain_id")?);
    equal("digest", digest.to_vec(), hex_field(case, "digest")?)
}

fn terms_case(case: &Value) -> Result<(), String> {
    let digest = eip712::terms_digest(text(case, "terms_and_conditions_hash")?, read_as(case, "version")?);
    equal("digest", digest.to_vec(), hex_field(case, "digest")?)
}

/// `obol/layout`: the names of the files that cluster creation writes, two levels deep.
pub fn layout(folder: &Path) -> Report {
    json_cases(folder, |case| {
        let listed: BTreeSet<String> =
            serde_json::from_value(case.clone()).map_err(|error| error.to_string())?;
        let nodes = listed.iter().filter(|path| !path.contains('/')).count();
        let amounts: BTreeSet<u64> =
            listed.iter().filter_map(|path| path.rsplit('/').next().and_then(amount_of)).collect();
        let goerli = Network::by_name("goerli").ok_or("goerli is not known")?;
        let nobody = ExecutionAddress([0xde; 20]);
        let addresses = Addresses { fee_recipient: nobody, withdrawal: nobody };
        let mut options = CreateOptions::new("layout", nodes, 1, goerli, addresses);
        // The default amounts are left to the default.
        if amounts != BTreeSet::from([1, 32]) {
            options.deposit_amounts = amounts.iter().map(|eth| Gwei(eth * ETH.0)).collect();
        }
        let mut rng = StdRng::seed_from_u64(7);
        let created = create::cluster(&options, &mut rng).map_err(|error| error.to_string())?;
        let files = created.files(KdfCost::Insecure, &mut rng).map_err(|error| error.to_string())?;
        let mut written = BTreeSet::new();
        for file in &files {
            let parts: Vec<&str> = file.path.split('/').collect();
            for depth in 1..=parts.len().min(2) {
                written.insert(parts[..depth].join("/"));
            }
        }
        equal("the list of files", written, listed)
    })
}

/// Whole ethers in a deposit file's name.
fn amount_of(name: &str) -> Option<u64> {
    if name == "deposit-data.json" {
        return Some(32);
    }
    name.strip_prefix("deposit-data-")?.strip_suffix("eth.json")?.parse().ok()
}

/// `obol/deposit`.
pub fn deposit(folder: &Path) -> Report {
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
        if value.is_array() {
            report.case(name, deposit_file(&file, &value));
            continue;
        }
        let check = if name.contains("registration") { registration_case } else { deposit_case };
        for (index, case) in list(&value, "cases").unwrap_or_default().iter().enumerate() {
            report.case(format!("{name} case {index}"), check(case));
        }
    }
    report
}

/// Every root and signature is right, and writing the deposits gives the same entries.
fn deposit_file(file: &Path, value: &Value) -> Result<(), String> {
    let deposits = deposit::parse_file(&read(file)?).map_err(|error| error.to_string())?;
    let name = text(&value[0], "network_name")?;
    let network = Network::by_name(name).ok_or_else(|| format!("network {name} is not known"))?;
    let written: Value = serde_json::from_slice(&deposit::file_content(&deposits, &network))
        .map_err(|error| error.to_string())?;
    let sorted = |value: &Value| {
        let mut entries = value.as_array().cloned().unwrap_or_default();
        entries.sort_by_key(|entry| entry["pubkey"].to_string());
        entries
    };
    equal("the file written back", sorted(&written), sorted(value))
}

fn deposit_case(case: &Value) -> Result<(), String> {
    let secret = SecretKey::from_bytes(&hex_field(case, "secret_key")?).map_err(|error| error.to_string())?;
    let address: ExecutionAddress = read_as(case, "withdrawal_address")?;
    let eth: u64 = read_as(case, "amount_eth")?;
    let message = DepositMessage {
        pubkey: secret.public_key().to_bytes(),
        withdrawal_credentials: deposit::credentials(address, read_as(case, "compounding")?),
        amount: Gwei(eth * ETH.0),
    };
    equal("pubkey", message.pubkey.0.to_vec(), hex_field(case, "pubkey")?)?;
    let credentials = message.withdrawal_credentials.0.to_vec();
    equal("withdrawal_credentials", credentials, hex_field(case, "withdrawal_credentials")?)?;
    let root = chain::deposit::deposit_message_root(&message);
    equal("deposit_message_root", root.0.to_vec(), hex_field(case, "deposit_message_root")?)?;
    let fork_version: ForkVersion = read_as(case, "genesis_fork_version")?;
    let signing_root = deposit::signing_root(&message, fork_version);
    equal("signing_root", signing_root.0.to_vec(), hex_field(case, "signing_root")?)?;
    let signature = secret.sign(&signing_root.0).to_bytes();
    equal("signature", signature.0.to_vec(), hex_field(case, "signature")?)?;
    let root = chain::deposit::deposit_data_root(&message, signature);
    equal("deposit_data_root", root.0.to_vec(), hex_field(case, "deposit_data_root")?)
}

fn registration_case(case: &Value) -> Result<(), String> {
    let secret = SecretKey::from_bytes(&hex_field(case, "secret_key")?).map_err(|error| error.to_string())?;
    let key = hex_field(case, "message_pubkey")?;
    let message = ValidatorRegistration {
        fee_recipient: read_as(case, "fee_recipient")?,
        gas_limit: read_as(case, "gas_limit")?,
        timestamp: read_as(case, "timestamp")?,
        pubkey: PublicKeyBytes::try_from(key.as_slice()).map_err(|error| error.to_string())?,
    };
    let root = registration_signing_root(&message, read_as(case, "genesis_fork_version")?);
    equal("signing_root", root.0.to_vec(), hex_field(case, "signing_root")?)?;
    let signature = secret.sign(&root.0).to_bytes();
    equal("signature", signature.0.to_vec(), hex_field(case, "signature")?)
}
