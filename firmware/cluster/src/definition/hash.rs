//! Configuration hash and definition hash of every schema version (obol spec 3.5).

use super::{Definition, Operator, SchemaVersion};
use crate::document::{
    FieldError, FieldProblem, MAX_DEPOSITS, MAX_OPERATORS, MAX_VALIDATORS, hex_from, hex_to,
};
use crate::identity::K1_SIGNATURE_LEN;
use crate::merkle::{Chunk, Container};

/// Most 65-byte signatures in one signature member (v1.11).
pub(crate) const MAX_SIGNATURES: usize = 32;
const MAX_ENR: usize = 1024;

/// Which of the two hashes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Contents {
    Config,
    Full,
}

impl Definition {
    /// Hash of the configuration, which operators sign.
    pub fn compute_config_hash(&self) -> Result<[u8; 32], FieldError> {
        hash(self, Contents::Config)
    }

    /// Hash of everything, signatures and ENRs included.
    pub fn compute_definition_hash(&self) -> Result<[u8; 32], FieldError> {
        hash(self, Contents::Full)
    }

    /// Puts the hashes of the present content in place.
    pub fn set_hashes(&mut self) -> Result<(), FieldError> {
        self.config_hash = self.compute_config_hash()?;
        self.definition_hash = self.compute_definition_hash()?;
        Ok(())
    }
}

/// The definition's contribution to the lock hash.
pub(crate) fn definition_chunk(definition: &Definition) -> Result<Chunk, FieldError> {
    hash(definition, Contents::Full)
}

fn hash(definition: &Definition, contents: Contents) -> Result<Chunk, FieldError> {
    match definition.version {
        SchemaVersion::V1_0 | SchemaVersion::V1_1 | SchemaVersion::V1_2 => hash_v1_0(definition, contents),
        SchemaVersion::V1_3 | SchemaVersion::V1_4 => hash_v1_3(definition, contents),
        SchemaVersion::V1_5
        | SchemaVersion::V1_6
        | SchemaVersion::V1_7
        | SchemaVersion::V1_8
        | SchemaVersion::V1_9
        | SchemaVersion::V1_10
        | SchemaVersion::V1_11 => hash_v1_5(definition, contents),
    }
}

/// v1.0 to v1.2: text members without bounds, addresses and fork version as their text.
fn hash_v1_0(definition: &Definition, contents: Contents) -> Result<Chunk, FieldError> {
    let addresses = definition.common_addresses();
    let mut root = Container::new();
    root.bytes(definition.uuid.as_bytes())
        .bytes(definition.name.as_bytes())
        .bytes(definition.version.as_str().as_bytes())
        .u64(definition.num_validators)
        .u64(definition.threshold)
        .bytes(addresses.fee_recipient_address.as_bytes())
        .bytes(addresses.withdrawal_address.as_bytes())
        .bytes(definition.dkg_algorithm.as_bytes())
        .bytes(hex_to(&definition.fork_version.0).as_bytes());
    let mut operators = Container::new();
    for operator in &definition.operators {
        if contents == Contents::Config {
            operators.bytes(operator.address.as_bytes()); // An empty address adds nothing.
            continue;
        }
        let mut element = Container::new();
        element.bytes(operator.address.as_bytes()).bytes(operator.enr.as_bytes());
        if definition.version.uses_base64() {
            element.u64(0); // The nonce, which was never anything else.
        }
        element.bytes(operator.config_signature()).bytes(operator.enr_signature());
        operators.chunk(element.root());
    }
    root.chunk(operators.unbounded_list(definition.operators.len()));
    if contents == Contents::Config || definition.version != SchemaVersion::V1_0 {
        root.bytes(definition.timestamp.as_bytes());
    }
    Ok(root.root())
}

/// v1.3 and v1.4: bounded texts, but empty byte strings still vanish.
fn hash_v1_3(definition: &Definition, contents: Contents) -> Result<Chunk, FieldError> {
    let addresses = definition.common_addresses();
    let mut root = Container::new();
    texts(&mut root, definition)?;
    root.bytes(&hex_from("fee_recipient_address", &addresses.fee_recipient_address)?)
        .bytes(&hex_from("withdrawal_address", &addresses.withdrawal_address)?)
        .byte_list("dkg_algorithm", definition.dkg_algorithm.as_bytes(), 32)?
        .bytes(&definition.fork_version.0);
    let mut operators = Vec::with_capacity(definition.operators.len());
    for operator in &definition.operators {
        let mut element = Container::new();
        element.bytes(&hex_from("operators.address", &operator.address)?);
        if contents == Contents::Full {
            element
                .byte_list("operators.enr", operator.enr.as_bytes(), MAX_ENR)?
                .bytes(operator.config_signature())
                .bytes(operator.enr_signature());
        }
        operators.push(element.root());
    }
    root.list("operators", &operators, MAX_OPERATORS)?;
    if definition.version == SchemaVersion::V1_4 {
        let mut creator = Container::new();
        creator.bytes(&hex_from("creator.address", &definition.creator.address)?);
        if contents == Contents::Full {
            creator.bytes(&definition.creator.config_signature);
        }
        root.chunk(creator.root());
    }
    if contents == Contents::Full {
        root.bytes(&definition.config_hash);
    }
    Ok(root.root())
}

/// v1.5 and later: every member has its fixed place.
fn hash_v1_5(definition: &Definition, contents: Contents) -> Result<Chunk, FieldError> {
    let version = definition.version;
    let mut root = Container::new();
    texts(&mut root, definition)?;
    root.byte_list("dkg_algorithm", definition.dkg_algorithm.as_bytes(), 32)?.fixed(
        "fork_version",
        &definition.fork_version.0,
        4,
    )?;
    let mut operators = Vec::with_capacity(definition.operators.len());
    for operator in &definition.operators {
        operators.push(operator_v1_5(operator, version, contents)?);
    }
    root.list("operators", &operators, MAX_OPERATORS)?;

    let mut creator = Container::new();
    address(&mut creator, "creator.address", &definition.creator.address)?;
    if contents == Contents::Full {
        signature(&mut creator, version, "creator.config_signature", &definition.creator.config_signature)?;
    }
    root.chunk(creator.root());

    let mut validators = Vec::with_capacity(definition.validators.len());
    for entry in &definition.validators {
        let mut element = Container::new();
        address(&mut element, "validators.fee_recipient_address", &entry.fee_recipient_address)?;
        address(&mut element, "validators.withdrawal_address", &entry.withdrawal_address)?;
        validators.push(element.root());
    }
    root.list("validators", &validators, MAX_VALIDATORS)?;

    if version >= SchemaVersion::V1_8 {
        let amounts: Vec<u64> = definition.deposit_amounts.iter().flatten().map(|amount| amount.0).collect();
        root.packed_u64("deposit_amounts", &amounts, MAX_DEPOSITS)?;
    }
    if version >= SchemaVersion::V1_9 {
        root.byte_list("consensus_protocol", definition.consensus_protocol.as_bytes(), 256)?;
    }
    if version >= SchemaVersion::V1_10 {
        root.u64(definition.target_gas_limit).boolean(definition.compounding);
    }
    if contents == Contents::Full {
        root.fixed("config_hash", &definition.config_hash, 32)?;
    }
    Ok(root.root())
}

/// The members every hash since v1.3 begins with.
fn texts(root: &mut Container, definition: &Definition) -> Result<(), FieldError> {
    root.byte_list("uuid", definition.uuid.as_bytes(), 64)?
        .byte_list("name", definition.name.as_bytes(), 256)?
        .byte_list("version", definition.version.as_str().as_bytes(), 16)?
        .byte_list("timestamp", definition.timestamp.as_bytes(), 32)?
        .u64(definition.num_validators)
        .u64(definition.threshold);
    Ok(())
}

fn operator_v1_5(
    operator: &Operator,
    version: SchemaVersion,
    contents: Contents,
) -> Result<Chunk, FieldError> {
    let mut element = Container::new();
    address(&mut element, "operators.address", &operator.address)?;
    if contents == Contents::Full {
        element.byte_list("operators.enr", operator.enr.as_bytes(), MAX_ENR)?;
        signature(&mut element, version, "operators.config_signature", operator.config_signature())?;
        signature(&mut element, version, "operators.enr_signature", operator.enr_signature())?;
    }
    Ok(element.root())
}

fn address(container: &mut Container, field: &'static str, text: &str) -> Result<(), FieldError> {
    let bytes = hex_from(field, text)?;
    if !bytes.is_empty() && bytes.len() != 20 {
        return Err(FieldError::new(field, FieldProblem::Length { expected: 20, found: bytes.len() }));
    }
    container.fixed(field, &bytes, 20)?;
    Ok(())
}

fn signature(
    container: &mut Container,
    version: SchemaVersion,
    field: &'static str,
    bytes: &[u8],
) -> Result<(), FieldError> {
    if version < SchemaVersion::V1_11 {
        container.fixed(field, bytes, K1_SIGNATURE_LEN)?;
        return Ok(());
    }
    if !bytes.len().is_multiple_of(K1_SIGNATURE_LEN) {
        return Err(FieldError::new(field, FieldProblem::MustBe("one or several signatures of 65 bytes")));
    }
    let pieces: Vec<Chunk> =
        bytes.chunks(K1_SIGNATURE_LEN).map(|piece| Container::new().bytes(piece).root()).collect();
    container.list(field, &pieces, MAX_SIGNATURES)?;
    Ok(())
}
