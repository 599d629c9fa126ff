//! The lock hash of every schema version (obol spec 3.6).

use chain::{DepositData, SignedValidatorRegistration};

use super::{DistributedValidator, Lock};
use crate::definition::{SchemaVersion, definition_chunk};
use crate::document::{FieldError, MAX_DEPOSITS, MAX_OPERATORS, MAX_VALIDATORS, hex_to};
use crate::merkle::{Chunk, Container};

impl Lock {
    /// Hash of the content: what nodes and shares sign.
    pub fn compute_lock_hash(&self) -> Result<[u8; 32], FieldError> {
        let mut root = Container::new();
        root.chunk(definition_chunk(&self.definition)?);
        if self.definition.version < SchemaVersion::V1_3 {
            return Ok(self.legacy_lock_hash(root));
        }
        let mut elements = Vec::with_capacity(self.validators.len());
        for validator in &self.validators {
            elements.push(validator_chunk(validator, self.definition.version)?);
        }
        root.list("distributed_validators", &elements, MAX_VALIDATORS)?;
        Ok(root.root())
    }

    /// v1.0 to v1.2: keys as text, lists without bound.
    fn legacy_lock_hash(&self, mut root: Container) -> Chunk {
        let mut elements = Container::new();
        for validator in &self.validators {
            let mut shares = Container::new();
            for share in &validator.public_shares {
                shares.bytes(&share.0);
            }
            let mut element = Container::new();
            element
                .bytes(hex_to(&validator.public_key.0).as_bytes())
                .chunk(shares.unbounded_list(validator.public_shares.len()));
            elements.chunk(element.root());
        }
        root.chunk(elements.unbounded_list(self.validators.len()));
        root.root()
    }
}

fn validator_chunk(validator: &DistributedValidator, version: SchemaVersion) -> Result<Chunk, FieldError> {
    let shares: Vec<Chunk> =
        validator.public_shares.iter().map(|share| Container::new().bytes(&share.0).root()).collect();
    let mut element = Container::new();
    element.bytes(&validator.public_key.0).list("public_shares", &shares, MAX_OPERATORS)?;
    match version {
        SchemaVersion::V1_6 => {
            // The deposit's members are hashed in line with the others: an old mistake that must be kept.
            add_deposit(&mut element, &validator.single_deposit());
        }
        SchemaVersion::V1_7 => {
            element.chunk(deposit_chunk(&validator.single_deposit()));
        }
        SchemaVersion::V1_8 | SchemaVersion::V1_9 | SchemaVersion::V1_10 | SchemaVersion::V1_11 => {
            let deposits: Vec<Chunk> = validator.deposits.iter().map(deposit_chunk).collect();
            element.list("partial_deposit_data", &deposits, MAX_DEPOSITS)?;
        }
        SchemaVersion::V1_0
        | SchemaVersion::V1_1
        | SchemaVersion::V1_2
        | SchemaVersion::V1_3
        | SchemaVersion::V1_4
        | SchemaVersion::V1_5 => {}
    }
    if version >= SchemaVersion::V1_7 {
        element.chunk(registration_chunk(&validator.builder_registration.unwrap_or_default()));
    }
    Ok(element.root())
}

impl DistributedValidator {
    /// The only deposit of v1.6 and v1.7; zeros stand for none.
    pub(super) fn single_deposit(&self) -> DepositData {
        self.deposits.first().cloned().unwrap_or_default()
    }
}

fn deposit_chunk(deposit: &DepositData) -> Chunk {
    let mut element = Container::new();
    add_deposit(&mut element, deposit);
    element.root()
}

fn add_deposit(element: &mut Container, deposit: &DepositData) {
    element
        .bytes(&deposit.pubkey.0)
        .bytes(&deposit.withdrawal_credentials.0)
        .u64(deposit.amount.0)
        .bytes(&deposit.signature.0);
}

fn registration_chunk(registration: &SignedValidatorRegistration) -> Chunk {
    let message = &registration.message;
    let mut inner = Container::new();
    inner
        .bytes(&message.fee_recipient.0)
        .u64(message.gas_limit)
        .u64(message.timestamp)
        .bytes(&message.pubkey.0);
    let mut element = Container::new();
    element.chunk(inner.root()).bytes(&registration.signature.0);
    element.root()
}
