//! Verification of a lock (obol spec 3.7): whoever passes gets a [`ClusterView`], and nobody else does.

use std::collections::BTreeMap;

use chain::deposit::registration_signing_root;
use chain::{ExecutionAddress, PublicKeyBytes, ValidatorRegistration};
use threshold::{PublicKey, Signature};

use super::{DistributedValidator, Lock, LockError};
use crate::bls::{self, interpolates_to};
use crate::definition::SchemaVersion;
use crate::document::{bytes_to, exact, hex_from};
use crate::enr::Enr;
use crate::network::Network;
use crate::view::ClusterView;

impl Lock {
    /// Checks every hash and signature of the lock. `custom` adds networks to the public ones (a local chain).
    pub fn verify(&self, custom: &[Network]) -> Result<ClusterView, LockError> {
        self.verify_hashes()?;
        self.definition.verify_signatures(custom)?;
        let records = self.definition.operator_records()?;
        let threshold = self.check_counts()?;
        let shares = self.verify_shares(threshold)?;
        self.verify_aggregate(&shares)?;
        self.verify_registrations()?;
        self.verify_node_signatures(&records)?;
        ClusterView::new(self, &records, threshold)
    }

    /// Checks the three stored hashes against the content.
    pub fn verify_hashes(&self) -> Result<(), LockError> {
        self.definition.verify_hashes()?;
        let expected = self.compute_lock_hash()?;
        if expected == self.lock_hash {
            return Ok(());
        }
        let written = |hash: &[u8; 32]| bytes_to(self.definition.version, hash);
        Err(LockError::LockHashMismatch { expected: written(&expected), found: written(&self.lock_hash) })
    }

    fn check_counts(&self) -> Result<u8, LockError> {
        let operators = self.definition.operators.len();
        if operators > usize::from(u8::MAX) {
            return Err(LockError::TooManyOperators(operators));
        }
        let found = self.validators.len();
        if u64::try_from(found) != Ok(self.definition.num_validators) {
            return Err(LockError::ValidatorCount { expected: self.definition.num_validators, found });
        }
        let threshold = self.definition.threshold;
        let fits = u8::try_from(threshold).ok().filter(|t| (1..=operators).contains(&usize::from(*t)));
        fits.ok_or(LockError::Threshold { threshold, operators })
    }

    /// All public shares of all validators, each checked to be a point of its validator's polynomial.
    fn verify_shares(&self, threshold: u8) -> Result<Vec<PublicKey>, LockError> {
        let operators = self.definition.operators.len();
        let mut seen: BTreeMap<PublicKeyBytes, usize> = BTreeMap::new();
        let mut all = Vec::with_capacity(self.validators.len() * operators);
        for (index, validator) in self.validators.iter().enumerate() {
            if let Some(first) = seen.insert(validator.public_key, index) {
                return Err(LockError::DuplicateValidator { first, second: index });
            }
            all.extend(verify_validator(index, validator, operators, usize::from(threshold))?);
        }
        Ok(all)
    }

    fn verify_aggregate(&self, shares: &[PublicKey]) -> Result<(), LockError> {
        if self.signature_aggregate.is_empty() {
            // The first tools did not make one.
            let optional = self.definition.version <= SchemaVersion::V1_1;
            return if optional { Ok(()) } else { Err(LockError::AggregateMissing) };
        }
        let signature =
            Signature::from_slice(&self.signature_aggregate).map_err(|_| LockError::AggregateInvalid)?;
        if threshold::fast_aggregate_verify(shares, &self.lock_hash, &signature) {
            Ok(())
        } else {
            Err(LockError::AggregateInvalid)
        }
    }

    fn verify_registrations(&self) -> Result<(), LockError> {
        let version = self.definition.version;
        for (validator, entry) in self.validators.iter().enumerate() {
            let registration = entry.builder_registration.as_ref();
            let Some(registration) = registration.filter(|_| version >= SchemaVersion::V1_7) else {
                match (registration, version >= SchemaVersion::V1_7) {
                    (Some(_), _) => return Err(LockError::RegistrationNotAllowed { validator, version }),
                    (None, true) => return Err(LockError::RegistrationMissing { validator }),
                    (None, false) => continue,
                }
            };
            // Rebuilt from what the members agreed on, so that a stored message cannot redirect the fees.
            let message = ValidatorRegistration {
                fee_recipient: self.fee_recipient(validator)?,
                gas_limit: registration.message.gas_limit,
                timestamp: registration.message.timestamp,
                pubkey: entry.public_key,
            };
            let root = registration_signing_root(&message, self.definition.fork_version);
            if message != registration.message
                || !bls::verify(&entry.public_key, &root.0, &registration.signature)
            {
                return Err(LockError::RegistrationInvalid { validator });
            }
        }
        Ok(())
    }

    /// The definition's fee recipient of a validator; no address means the zero address.
    pub(crate) fn fee_recipient(&self, validator: usize) -> Result<ExecutionAddress, LockError> {
        let text = self
            .definition
            .validators
            .get(validator)
            .map(|addresses| addresses.fee_recipient_address.as_str())
            .unwrap_or_default();
        if text.is_empty() {
            return Ok(ExecutionAddress::ZERO);
        }
        let field = format!("validators[{validator}].fee_recipient_address");
        Ok(ExecutionAddress(exact(&field, &hex_from(&field, text)?)?))
    }

    fn verify_node_signatures(&self, records: &[Enr]) -> Result<(), LockError> {
        let version = self.definition.version;
        if version < SchemaVersion::V1_7 {
            let empty = self.node_signatures.is_empty();
            return if empty { Ok(()) } else { Err(LockError::NodeSignaturesNotAllowed(version)) };
        }
        let found = self.node_signatures.len();
        if found != records.len() {
            return Err(LockError::NodeSignatureCount { operators: records.len(), found });
        }
        for (operator, (record, signature)) in records.iter().zip(&self.node_signatures).enumerate() {
            record
                .public_key()
                .verify(&self.lock_hash, signature)
                .map_err(|_| LockError::NodeSignatureInvalid { operator })?;
        }
        Ok(())
    }
}

fn verify_validator(
    index: usize,
    validator: &DistributedValidator,
    operators: usize,
    threshold: usize,
) -> Result<Vec<PublicKey>, LockError> {
    let found = validator.public_shares.len();
    if found != operators {
        return Err(LockError::ShareCount { validator: index, operators, found });
    }
    let mut seen: BTreeMap<PublicKeyBytes, usize> = BTreeMap::new();
    let mut shares = Vec::with_capacity(operators);
    for (position, share) in validator.public_shares.iter().enumerate() {
        if let Some(first) = seen.insert(*share, position) {
            return Err(LockError::DuplicateShare { validator: index, first, second: position });
        }
        shares.push(PublicKey::parse(share).map_err(|_| LockError::PublicKey { validator: index })?);
    }
    PublicKey::parse(&validator.public_key).map_err(|_| LockError::PublicKey { validator: index })?;
    let on_polynomial = |positions: &[usize]| interpolates_to(&shares, positions, &validator.public_key);
    let mut positions: Vec<usize> = (0..threshold).collect();
    if !on_polynomial(&positions) {
        return Err(LockError::SharesNotOfValidator { validator: index });
    }
    for share in threshold..operators {
        positions[threshold - 1] = share;
        if !on_polynomial(&positions) {
            return Err(LockError::ShareNotOfValidator { validator: index, share });
        }
    }
    Ok(shares)
}
