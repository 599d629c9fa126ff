//! More validators for a cluster that exists, with its members and its present validators as they are (obol spec 11.9).
//!
//! The members make the new keys in a key generation of their own and sign one new lock with all shares, old and new. What
//! that lock must say follows from the lock in force and the owner's wish alone.

use crate::definition::{Creator, Operator, ValidatorAddresses};
use crate::document::FieldError;
use crate::lock::{DistributedValidator, Lock, LockError};
use crate::network::Network;
use crate::primitives::{AddressError, checksum_address, read_address};
use crate::{Definition, SchemaVersion};

/// Most validators that are added at once: what one signer takes in.
pub const MAX_ADDED: usize = 1000;

/// Where the rewards and the stake of a validator go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddedValidator {
    /// `0x` address.
    pub fee_recipient: String,
    /// `0x` address. It cannot be changed any more once the validator is funded.
    pub withdrawal: String,
}

/// Why no validators can be added.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddError {
    /// The lock in force does not verify.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// Older schemas have no place for what a new validator signs.
    #[error("cluster lock: version {0} is too old to add validators; make a new cluster for them")]
    Version(SchemaVersion),
    /// None, or too many.
    #[error("{0} validators are to be added; it must be 1 to {MAX_ADDED}")]
    Count(usize),
    /// An address is not one.
    #[error("new validator {validator}: {source}")]
    Address {
        /// Its position among the new ones.
        validator: usize,
        /// What is wrong.
        source: AddressError,
    },
    /// A member of the lock is too long.
    #[error("cluster lock: {0}")]
    Field(#[from] FieldError),
}

/// A lock in force, verified, and the definition of the cluster with more validators. Made only by [`Addition::new`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Addition {
    base: Lock,
    definition: Definition,
}

impl Addition {
    /// Works out what adding these validators to the lock in force means. `custom` adds networks to the public ones.
    pub fn new(base: Lock, more: &[AddedValidator], custom: &[Network]) -> Result<Self, AddError> {
        base.verify(custom)?;
        if base.definition.version < SchemaVersion::V1_6 {
            return Err(AddError::Version(base.definition.version));
        }
        if !(1..=MAX_ADDED).contains(&more.len()) {
            return Err(AddError::Count(more.len()));
        }
        let mut definition = base.definition.clone();
        for (validator, wanted) in more.iter().enumerate() {
            let checksummed = |text: &str| match read_address(text) {
                Ok(address) => Ok(checksum_address(&address.0)),
                Err(source) => Err(AddError::Address { validator, source }),
            };
            definition.validators.push(ValidatorAddresses {
                fee_recipient_address: checksummed(&wanted.fee_recipient)?,
                withdrawal_address: checksummed(&wanted.withdrawal)?,
            });
        }
        definition.num_validators = u64::try_from(definition.validators.len()).unwrap_or(u64::MAX);
        // They signed another definition.
        definition.creator = Creator::default();
        for operator in &mut definition.operators {
            *operator = Operator {
                address: String::new(),
                enr: std::mem::take(&mut operator.enr),
                config_signature: Some(Vec::new()),
                enr_signature: Some(Vec::new()),
            };
        }
        definition.set_hashes()?;
        Ok(Self { base, definition })
    }

    /// The lock in force.
    pub fn base(&self) -> &Lock {
        &self.base
    }

    /// The cluster's definition with the new validators behind the present ones; nobody's wallet has signed it.
    pub fn definition(&self) -> &Definition {
        &self.definition
    }

    /// The new lock but for its signatures, given the new validators in their order.
    pub fn lock(&self, new: Vec<DistributedValidator>) -> Result<Lock, FieldError> {
        let mut validators = self.base.validators.clone();
        validators.extend(new);
        let mut lock = Lock {
            definition: self.definition.clone(),
            validators,
            signature_aggregate: Vec::new(),
            lock_hash: [0; 32],
            node_signatures: Vec::new(),
        };
        lock.lock_hash = lock.compute_lock_hash()?;
        Ok(lock)
    }

    /// The new validators of a lock that is otherwise exactly what this addition makes of the lock in force; none when it is
    /// anything else. Its hashes and signatures are [`Lock::verify`]'s to check.
    pub fn added<'a>(&self, lock: &'a Lock) -> Option<&'a [DistributedValidator]> {
        let (old, new) = lock.validators.split_at_checked(self.base.validators.len())?;
        let wanted = self.definition.validators.len() - self.base.validators.len();
        (lock.definition == self.definition && old == self.base.validators && new.len() == wanted)
            .then_some(new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::create::{self, Addresses, CreateOptions};
    use chain::ExecutionAddress;

    fn hoodi() -> Network {
        Network::by_name("hoodi").unwrap()
    }

    fn lock(validators: usize) -> Lock {
        let addresses =
            Addresses { fee_recipient: ExecutionAddress([1; 20]), withdrawal: ExecutionAddress([2; 20]) };
        let options = CreateOptions::new("growing", 4, validators, hoodi(), addresses);
        create::cluster(&options, &mut rand::rng()).unwrap().lock
    }

    fn more(fee_recipient: &str) -> AddedValidator {
        AddedValidator {
            fee_recipient: fee_recipient.to_owned(),
            withdrawal: format!("0x{}", "0a".repeat(20)),
        }
    }

    #[test]
    fn only_what_is_appended_differs_from_the_lock_in_force() {
        let base = lock(2);
        let wanted = [more(&format!("0x{}", "ab".repeat(20))), more(&format!("0x{}", "cd".repeat(20)))];
        let addition = Addition::new(base.clone(), &wanted, &[]).unwrap();
        let definition = addition.definition();
        assert_eq!(definition.num_validators, 4);
        assert_eq!(definition.validators[..2], base.definition.validators);
        let written = &definition.validators[2].fee_recipient_address;
        assert!(
            written != &wanted[0].fee_recipient && written.eq_ignore_ascii_case(&wanted[0].fee_recipient)
        );
        definition.verify(&[]).unwrap();
        let back = Definition {
            num_validators: 2,
            validators: base.definition.validators.clone(),
            config_hash: base.definition.config_hash,
            definition_hash: base.definition.definition_hash,
            ..definition.clone()
        };
        assert_eq!(back, base.definition, "a cluster made in one place has no signatures that are left out");

        let new = lock(2).validators;
        let grown = addition.lock(new.clone()).unwrap();
        assert_eq!(addition.added(&grown), Some(new.as_slice()));
        // Signed by nobody, it is no lock yet.
        assert_eq!(grown.verify(&[]), Err(LockError::AggregateMissing));
        grown.verify_hashes().unwrap();
        let mut changed = vec![grown.clone(); 4];
        changed[0].validators[1].public_shares.swap(0, 1);
        changed[1].validators.pop();
        changed[2].definition.threshold += 1;
        changed[3].definition.validators[0].fee_recipient_address = written.clone();
        assert!(changed.iter().all(|lock| addition.added(lock).is_none()));
        assert_eq!(addition.added(&base), None);
    }

    #[test]
    fn what_cannot_be_added_is_named() {
        let base = lock(1);
        let good = more(&format!("0x{}", "ab".repeat(20)));
        let refused =
            |base: &Lock, more: &[AddedValidator]| Addition::new(base.clone(), more, &[]).unwrap_err();
        assert_eq!(refused(&base, &[]), AddError::Count(0));
        assert_eq!(refused(&base, &vec![good.clone(); MAX_ADDED + 1]), AddError::Count(MAX_ADDED + 1));
        let bad = more("0xab");
        assert!(matches!(refused(&base, &[good.clone(), bad]), AddError::Address { validator: 1, .. }));
        let mut forged = base;
        forged.validators[0].public_shares.swap(0, 1);
        assert!(matches!(refused(&forged, &[good]), AddError::Lock(LockError::LockHashMismatch { .. })));
    }
}
