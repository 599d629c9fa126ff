//! What a lock's validator keys have signed themselves. Whoever hands a lock on can change much in it and make the hashes
//! fit again; a signature of the validator's own key, which no single member can make, it cannot change.

use chain::deposit::registration_signing_root;
use chain::{Bytes32, ForkVersion, PublicKeyBytes, ValidatorRegistration};

use super::Lock;
use crate::bls;
use crate::deposit::{message_of, signing_root};

/// What one validator's key has signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pledge {
    /// The validator.
    pub validator: PublicKeyBytes,
    /// The public shares, in operator order.
    pub public_shares: Vec<PublicKeyBytes>,
    /// Who may withdraw, from a deposit whose signature verifies; none when the lock holds no such deposit.
    pub withdrawal_credentials: Option<Bytes32>,
    /// The registration with builders, when its signature verifies.
    pub registration: Option<ValidatorRegistration>,
}

impl Lock {
    /// The chain of the lock, by its genesis fork version.
    pub fn fork_version(&self) -> ForkVersion {
        self.definition.fork_version
    }

    /// What the validators' own keys have signed. Checks nothing else: [`Lock::verify`] does.
    pub fn pledges(&self) -> Vec<Pledge> {
        let fork_version = self.fork_version();
        let pledge = |validator: &super::DistributedValidator| {
            let key = validator.public_key;
            let deposit = validator.deposits.first().filter(|deposit| {
                let root = signing_root(&message_of(deposit), fork_version);
                deposit.pubkey == key && bls::verify(&key, &root.0, &deposit.signature)
            });
            let registration = validator.builder_registration.as_ref().filter(|signed| {
                let root = registration_signing_root(&signed.message, fork_version);
                signed.message.pubkey == key && bls::verify(&key, &root.0, &signed.signature)
            });
            Pledge {
                validator: key,
                public_shares: validator.public_shares.clone(),
                withdrawal_credentials: deposit.map(|deposit| deposit.withdrawal_credentials),
                registration: registration.map(|signed| signed.message),
            }
        };
        self.validators.iter().map(pledge).collect()
    }
}
