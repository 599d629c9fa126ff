//! The lock as JSON.

use chain::{
    Bytes32, DepositData, ExecutionAddress, Gwei, PublicKeyBytes, SignatureBytes,
    SignedValidatorRegistration, ValidatorRegistration,
};
use serde::{Deserialize, Serialize};

use super::{DistributedValidator, Lock, LockError};
use crate::definition::{Definition, DefinitionJson, SchemaVersion};
use crate::document::{
    FieldError, FieldProblem, MAX_DEPOSITS, MAX_FILE_BYTES, MAX_OPERATORS, MAX_VALIDATORS, bounded,
    bytes_from, bytes_to, decimal_from, exact, hex_from, hex_to, to_indented_json,
};

#[derive(Serialize, Deserialize)]
struct LockJson {
    cluster_definition: DefinitionJson,
    #[serde(deserialize_with = "bounded::<_, _, MAX_VALIDATORS>")]
    distributed_validators: Vec<ValidatorJson>,
    #[serde(default)]
    signature_aggregate: String,
    lock_hash: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    node_signatures: Option<SignatureList>,
}

#[derive(Serialize, Deserialize)]
#[serde(transparent)]
struct SignatureList(#[serde(deserialize_with = "bounded::<_, _, MAX_OPERATORS>")] Vec<String>);

#[derive(Serialize, Deserialize)]
struct ValidatorJson {
    distributed_public_key: String,
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "bounded::<_, _, MAX_OPERATORS>"
    )]
    public_shares: Vec<String>,
    #[serde(default, skip_serializing)]
    fee_recipient_address: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    deposit_data: Option<DepositJson>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    builder_registration: Option<RegistrationJson>,
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "bounded::<_, _, MAX_DEPOSITS>"
    )]
    partial_deposit_data: Vec<DepositJson>,
}

#[derive(Serialize, Deserialize)]
struct DepositJson {
    #[serde(default)]
    pubkey: String,
    #[serde(default)]
    withdrawal_credentials: String,
    #[serde(default)]
    amount: String,
    #[serde(default)]
    signature: String,
}

#[derive(Serialize, Deserialize)]
struct RegistrationJson {
    message: RegistrationMessageJson,
    signature: String,
}

#[derive(Serialize, Deserialize)]
struct RegistrationMessageJson {
    fee_recipient: String,
    gas_limit: u64,
    timestamp: u64,
    pubkey: String,
}

impl Lock {
    /// Reads a `cluster-lock.json` of any version. Hashes and signatures are kept as found; verify them next.
    pub fn from_json(bytes: &[u8]) -> Result<Self, LockError> {
        if bytes.len() > MAX_FILE_BYTES {
            return Err(LockError::FileTooLarge { limit: MAX_FILE_BYTES, found: bytes.len() });
        }
        let json: LockJson =
            serde_json::from_slice(bytes).map_err(|error| LockError::Json(error.to_string()))?;
        Self::try_from(json)
    }

    /// Reads a lock that came as a JSON value inside another message.
    pub fn from_value(value: serde_json::Value) -> Result<Self, LockError> {
        let json: LockJson =
            serde_json::from_value(value).map_err(|error| LockError::Json(error.to_string()))?;
        Self::try_from(json)
    }

    /// Writes the file (mode 0444 by convention) with freshly computed hashes.
    pub fn to_json(&self) -> Result<Vec<u8>, LockError> {
        let version = self.definition.version;
        let signatures = self.node_signatures.iter().map(|signature| hex_to(signature)).collect();
        let json = LockJson {
            cluster_definition: self.definition.to_json_members()?,
            distributed_validators: self
                .validators
                .iter()
                .map(|entry| validator_to(version, entry))
                .collect(),
            signature_aggregate: bytes_to(version, &self.signature_aggregate),
            lock_hash: bytes_to(version, &self.compute_lock_hash()?),
            node_signatures: (version >= SchemaVersion::V1_7).then_some(SignatureList(signatures)),
        };
        Ok(to_indented_json(&json))
    }
}

impl TryFrom<LockJson> for Lock {
    type Error = LockError;

    fn try_from(json: LockJson) -> Result<Self, Self::Error> {
        let definition = Definition::try_from(json.cluster_definition)?;
        let version = definition.version;
        let validators = json
            .distributed_validators
            .iter()
            .enumerate()
            .map(|(index, entry)| validator_from(version, index, entry))
            .collect::<Result<Vec<_>, _>>()?;
        let mut node_signatures = Vec::new();
        for (index, text) in json.node_signatures.iter().flat_map(|list| &list.0).enumerate() {
            node_signatures.push(hex_from(&format!("node_signatures[{index}]"), text)?);
        }
        let lock_hash = bytes_from(version, "lock_hash", &json.lock_hash)?;
        Ok(Self {
            definition,
            validators,
            signature_aggregate: bytes_from(version, "signature_aggregate", &json.signature_aggregate)?,
            lock_hash: exact("lock_hash", &lock_hash)?,
            node_signatures,
        })
    }
}

fn validator_from(
    version: SchemaVersion,
    index: usize,
    json: &ValidatorJson,
) -> Result<DistributedValidator, LockError> {
    let at = |member: &str| format!("distributed_validators[{index}].{member}");
    if !json.fee_recipient_address.is_empty() {
        let problem = FieldProblem::MustBe("absent or empty");
        return Err(FieldError::new(at("fee_recipient_address"), problem).into());
    }
    let key = at("distributed_public_key");
    let public_key = PublicKeyBytes(exact(&key, &hex_from(&key, &json.distributed_public_key)?)?);
    let mut public_shares = Vec::with_capacity(json.public_shares.len());
    for (share, text) in json.public_shares.iter().enumerate() {
        let field = at(&format!("public_shares[{share}]"));
        public_shares.push(PublicKeyBytes(exact(&field, &bytes_from(version, &field, text)?)?));
    }
    let mut deposits = Vec::new();
    if version >= SchemaVersion::V1_8 {
        for (deposit, entry) in json.partial_deposit_data.iter().enumerate() {
            deposits.push(deposit_from(&at(&format!("partial_deposit_data[{deposit}]")), entry)?);
        }
    } else if version >= SchemaVersion::V1_6 {
        // Empty members stand for no deposit.
        let given = json.deposit_data.as_ref().filter(|entry| !entry.pubkey.is_empty());
        if let Some(entry) = given {
            deposits.push(deposit_from(&at("deposit_data"), entry)?);
        }
    }
    let builder_registration = json
        .builder_registration
        .as_ref()
        .map(|entry| registration_from(&at("builder_registration"), entry))
        .transpose()?;
    Ok(DistributedValidator { public_key, public_shares, deposits, builder_registration })
}

fn deposit_from(path: &str, json: &DepositJson) -> Result<DepositData, FieldError> {
    let at = |member: &str| format!("{path}.{member}");
    let bytes = |member: &str, text: &str| hex_from(&at(member), text);
    Ok(DepositData {
        pubkey: PublicKeyBytes(exact(&at("pubkey"), &bytes("pubkey", &json.pubkey)?)?),
        withdrawal_credentials: Bytes32(exact(
            &at("withdrawal_credentials"),
            &bytes("withdrawal_credentials", &json.withdrawal_credentials)?,
        )?),
        amount: Gwei(decimal_from(&at("amount"), &json.amount)?),
        signature: SignatureBytes(exact(&at("signature"), &bytes("signature", &json.signature)?)?),
    })
}

fn registration_from(path: &str, json: &RegistrationJson) -> Result<SignedValidatorRegistration, FieldError> {
    let at = |member: &str| format!("{path}.{member}");
    let bytes = |member: &str, text: &str| hex_from(&at(member), text);
    let message = &json.message;
    Ok(SignedValidatorRegistration {
        message: ValidatorRegistration {
            fee_recipient: ExecutionAddress(exact(
                &at("message.fee_recipient"),
                &bytes("message.fee_recipient", &message.fee_recipient)?,
            )?),
            gas_limit: message.gas_limit,
            timestamp: message.timestamp,
            pubkey: PublicKeyBytes(exact(&at("message.pubkey"), &bytes("message.pubkey", &message.pubkey)?)?),
        },
        signature: SignatureBytes(exact(&at("signature"), &bytes("signature", &json.signature)?)?),
    })
}

fn validator_to(version: SchemaVersion, validator: &DistributedValidator) -> ValidatorJson {
    let single = version == SchemaVersion::V1_6 || version == SchemaVersion::V1_7;
    let several = version >= SchemaVersion::V1_8;
    let partial = validator.deposits.iter().filter(|_| several).map(deposit_to);
    ValidatorJson {
        distributed_public_key: hex_to(&validator.public_key.0),
        public_shares: validator.public_shares.iter().map(|share| bytes_to(version, &share.0)).collect(),
        fee_recipient_address: String::new(),
        deposit_data: single.then(|| match validator.deposits.first() {
            Some(deposit) => deposit_to(deposit),
            None => no_deposit(),
        }),
        builder_registration: validator.builder_registration.as_ref().map(registration_to),
        partial_deposit_data: partial.collect(),
    }
}

fn deposit_to(deposit: &DepositData) -> DepositJson {
    DepositJson {
        pubkey: hex_to(&deposit.pubkey.0),
        withdrawal_credentials: hex_to(&deposit.withdrawal_credentials.0),
        amount: deposit.amount.0.to_string(),
        signature: hex_to(&deposit.signature.0),
    }
}

fn no_deposit() -> DepositJson {
    DepositJson {
        pubkey: String::new(),
        withdrawal_credentials: String::new(),
        amount: "0".to_owned(),
        signature: String::new(),
    }
}

fn registration_to(registration: &SignedValidatorRegistration) -> RegistrationJson {
    RegistrationJson {
        message: RegistrationMessageJson {
            fee_recipient: hex_to(&registration.message.fee_recipient.0),
            gas_limit: registration.message.gas_limit,
            timestamp: registration.message.timestamp,
            pubkey: hex_to(&registration.message.pubkey.0),
        },
        signature: hex_to(&registration.signature.0),
    }
}
