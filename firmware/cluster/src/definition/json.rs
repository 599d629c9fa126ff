//! The definition as JSON: one set of members for all versions, of which each version uses its own.

use chain::{ForkVersion, Gwei};
use serde::{Deserialize, Serialize};

use super::{Creator, Definition, DefinitionError, Operator, SchemaVersion, ValidatorAddresses};
use crate::deposit::check_amounts;
use crate::document::{
    FieldError, FieldProblem, MAX_DEPOSITS, MAX_FILE_BYTES, MAX_OPERATORS, MAX_VALIDATORS, bounded,
    bytes_from, bytes_to, decimal_from, exact, hex_from, hex_to, to_indented_json,
};

/// Members in the order the reference implementation writes them.
#[derive(Serialize, Deserialize)]
pub(crate) struct DefinitionJson {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    creator: Option<CreatorJson>,
    #[serde(deserialize_with = "bounded::<_, _, MAX_OPERATORS>")]
    operators: Vec<OperatorJson>,
    uuid: String,
    pub(crate) version: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    timestamp: String,
    num_validators: u64,
    threshold: u64,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    fee_recipient_address: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    withdrawal_address: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    validators: Option<AddressList>,
    dkg_algorithm: String,
    fork_version: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    deposit_amounts: Option<Option<AmountList>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    consensus_protocol: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    target_gas_limit: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    compounding: Option<bool>,
    config_hash: String,
    definition_hash: String,
}

#[derive(Serialize, Deserialize)]
struct CreatorJson {
    #[serde(default)]
    address: String,
    #[serde(default)]
    config_signature: String,
}

#[derive(Serialize, Deserialize)]
struct OperatorJson {
    #[serde(default)]
    address: String,
    #[serde(default)]
    enr: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    nonce: Option<u64>,
    #[serde(default)]
    config_signature: Option<String>,
    #[serde(default)]
    enr_signature: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(transparent)]
struct AddressList(#[serde(deserialize_with = "bounded::<_, _, MAX_VALIDATORS>")] Vec<AddressesJson>);

#[derive(Serialize, Deserialize)]
#[serde(transparent)]
struct AmountList(#[serde(deserialize_with = "bounded::<_, _, MAX_DEPOSITS>")] Vec<String>);

#[derive(Serialize, Deserialize)]
struct AddressesJson {
    #[serde(default)]
    fee_recipient_address: String,
    #[serde(default)]
    withdrawal_address: String,
}

impl Definition {
    /// Reads a `cluster-definition.json` of any version. Hashes and signatures are kept as found; verify them next.
    pub fn from_json(bytes: &[u8]) -> Result<Self, DefinitionError> {
        if bytes.len() > MAX_FILE_BYTES {
            return Err(DefinitionError::FileTooLarge { limit: MAX_FILE_BYTES, found: bytes.len() });
        }
        let json: DefinitionJson =
            serde_json::from_slice(bytes).map_err(|error| DefinitionError::Json(error.to_string()))?;
        Self::try_from(json)
    }

    /// Writes the file with freshly computed hashes.
    pub fn to_json(&self) -> Result<Vec<u8>, DefinitionError> {
        Ok(to_indented_json(&self.to_json_members()?))
    }

    pub(crate) fn to_json_members(&self) -> Result<DefinitionJson, DefinitionError> {
        let mut hashed = self.clone();
        hashed.set_hashes()?;
        Ok(DefinitionJson::from(&hashed))
    }

    /// The one pair of addresses of versions before v1.5.
    pub(super) fn common_addresses(&self) -> ValidatorAddresses {
        self.validators.first().cloned().unwrap_or_default()
    }
}

impl TryFrom<DefinitionJson> for Definition {
    type Error = DefinitionError;

    fn try_from(json: DefinitionJson) -> Result<Self, Self::Error> {
        let version: SchemaVersion = json.version.parse()?;
        let validators = validator_addresses(version, &json)?;
        let operators = json
            .operators
            .into_iter()
            .enumerate()
            .map(|(index, operator)| operator_from(version, index, operator))
            .collect::<Result<Vec<_>, _>>()?;
        if operators.is_empty() {
            return Err(FieldError::new("operators", FieldProblem::Missing).into());
        }
        let creator = match json.creator {
            Some(creator) if version >= SchemaVersion::V1_4 => Creator {
                address: creator.address,
                config_signature: hex_from("creator.config_signature", &creator.config_signature)?,
            },
            Some(_) | None => Creator::default(),
        };
        let deposit_amounts = match json.deposit_amounts.flatten() {
            Some(AmountList(amounts)) if version >= SchemaVersion::V1_8 => {
                Some(amounts_from(&amounts, json.compounding.unwrap_or_default())?)
            }
            Some(_) | None => None,
        };
        let config_hash = bytes_from(version, "config_hash", &json.config_hash)?;
        let definition_hash = bytes_from(version, "definition_hash", &json.definition_hash)?;
        let fork_version = hex_from("fork_version", &json.fork_version)?;
        let definition = Self {
            name: json.name,
            creator,
            operators,
            uuid: json.uuid,
            version,
            timestamp: json.timestamp,
            num_validators: json.num_validators,
            threshold: json.threshold,
            validators,
            dkg_algorithm: json.dkg_algorithm,
            fork_version: ForkVersion(exact("fork_version", &fork_version)?),
            deposit_amounts,
            consensus_protocol: json.consensus_protocol.unwrap_or_default(),
            target_gas_limit: json.target_gas_limit.unwrap_or_default(),
            compounding: json.compounding.unwrap_or_default(),
            config_hash: exact("config_hash", &config_hash)?,
            definition_hash: exact("definition_hash", &definition_hash)?,
        };
        // Hashing applies every remaining bound on lengths, so a definition that loads can be hashed and written.
        definition.compute_definition_hash()?;
        Ok(definition)
    }
}

fn validator_addresses(
    version: SchemaVersion,
    json: &DefinitionJson,
) -> Result<Vec<ValidatorAddresses>, DefinitionError> {
    let count = usize::try_from(json.num_validators).unwrap_or(usize::MAX);
    if count == 0 || count > MAX_VALIDATORS {
        let problem = FieldProblem::MustBe("between 1 and 65536");
        return Err(FieldError::new("num_validators", problem).into());
    }
    if version < SchemaVersion::V1_5 {
        let common = ValidatorAddresses {
            fee_recipient_address: json.fee_recipient_address.clone(),
            withdrawal_address: json.withdrawal_address.clone(),
        };
        return Ok(vec![common; count]);
    }
    let entries = json.validators.as_ref().map(|list| list.0.as_slice()).unwrap_or_default();
    if entries.len() != count {
        return Err(DefinitionError::ValidatorCount {
            num_validators: json.num_validators,
            found: entries.len(),
        });
    }
    let addresses = entries.iter().map(|entry| ValidatorAddresses {
        fee_recipient_address: entry.fee_recipient_address.clone(),
        withdrawal_address: entry.withdrawal_address.clone(),
    });
    Ok(addresses.collect())
}

fn operator_from(version: SchemaVersion, index: usize, json: OperatorJson) -> Result<Operator, FieldError> {
    if json.nonce.unwrap_or_default() != 0 {
        let problem = FieldProblem::MustBe("0");
        return Err(FieldError::new(format!("operators[{index}].nonce"), problem));
    }
    let signature = |member: &str, text: Option<String>| match text {
        None if version.uses_base64() => Ok(None),
        None => Ok(Some(Vec::new())),
        Some(text) => bytes_from(version, &format!("operators[{index}].{member}"), &text).map(Some),
    };
    Ok(Operator {
        address: json.address,
        enr: json.enr,
        config_signature: signature("config_signature", json.config_signature)?,
        enr_signature: signature("enr_signature", json.enr_signature)?,
    })
}

fn amounts_from(texts: &[String], compounding: bool) -> Result<Vec<Gwei>, DefinitionError> {
    let mut amounts = Vec::with_capacity(texts.len());
    for (index, text) in texts.iter().enumerate() {
        amounts.push(Gwei(decimal_from(&format!("deposit_amounts[{index}]"), text)?));
    }
    check_amounts(&amounts, compounding)?;
    Ok(amounts)
}

impl From<&Definition> for DefinitionJson {
    fn from(definition: &Definition) -> Self {
        let version = definition.version;
        let since = |first: SchemaVersion| version >= first;
        let common = definition.common_addresses();
        let (fee_recipient_address, withdrawal_address) = if since(SchemaVersion::V1_5) {
            Default::default()
        } else {
            (common.fee_recipient_address, common.withdrawal_address)
        };
        let creator = CreatorJson {
            address: definition.creator.address.clone(),
            config_signature: hex_to(&definition.creator.config_signature),
        };
        let operators = definition.operators.iter().map(|operator| operator_to(version, operator));
        let validators = definition.validators.iter().map(|entry| AddressesJson {
            fee_recipient_address: entry.fee_recipient_address.clone(),
            withdrawal_address: entry.withdrawal_address.clone(),
        });
        let amounts = definition
            .deposit_amounts
            .as_ref()
            .map(|amounts| AmountList(amounts.iter().map(|amount| amount.0.to_string()).collect()));
        Self {
            name: definition.name.clone(),
            creator: since(SchemaVersion::V1_4).then_some(creator),
            operators: operators.collect(),
            uuid: definition.uuid.clone(),
            version: version.as_str().to_owned(),
            timestamp: definition.timestamp.clone(),
            num_validators: definition.num_validators,
            threshold: definition.threshold,
            fee_recipient_address,
            withdrawal_address,
            validators: since(SchemaVersion::V1_5).then(|| AddressList(validators.collect())),
            dkg_algorithm: definition.dkg_algorithm.clone(),
            fork_version: hex_to(&definition.fork_version.0),
            deposit_amounts: since(SchemaVersion::V1_8).then_some(amounts),
            consensus_protocol: since(SchemaVersion::V1_9).then(|| definition.consensus_protocol.clone()),
            target_gas_limit: since(SchemaVersion::V1_10).then_some(definition.target_gas_limit),
            compounding: since(SchemaVersion::V1_10).then_some(definition.compounding),
            config_hash: bytes_to(version, &definition.config_hash),
            definition_hash: bytes_to(version, &definition.definition_hash),
        }
    }
}

fn operator_to(version: SchemaVersion, operator: &Operator) -> OperatorJson {
    let signature = |bytes: &Option<Vec<u8>>| match bytes {
        None if version.uses_base64() => None,
        None => Some(String::new()),
        Some(bytes) => Some(bytes_to(version, bytes)),
    };
    OperatorJson {
        address: operator.address.clone(),
        enr: operator.enr.clone(),
        nonce: version.uses_base64().then_some(0),
        config_signature: signature(&operator.config_signature),
        enr_signature: signature(&operator.enr_signature),
    }
}
