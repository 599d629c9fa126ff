//! Verification of a definition: its hashes and the EIP-712 signatures of creator and operators (obol spec 3.7).

use super::hash::MAX_SIGNATURES;
use super::{Creator, Definition, DefinitionError, SchemaVersion, Signer};
use crate::document::{bytes_to, hex_from, hex_to};
use crate::eip712::{Statement, digest};
use crate::identity::{K1_SIGNATURE_LEN, recover};
use crate::network::Network;

impl Definition {
    /// Checks hashes and signatures. `custom` adds networks to the public ones (a local chain, for instance).
    pub fn verify(&self, custom: &[Network]) -> Result<(), DefinitionError> {
        self.verify_hashes()?;
        self.verify_signatures(custom)
    }

    /// Checks that both stored hashes are those of the content.
    pub fn verify_hashes(&self) -> Result<(), DefinitionError> {
        let written = |hash: &[u8; 32]| bytes_to(self.version, hash);
        let expected = self.compute_config_hash()?;
        if expected != self.config_hash {
            return Err(DefinitionError::ConfigHashMismatch {
                expected: written(&expected),
                found: written(&self.config_hash),
            });
        }
        let expected = self.compute_definition_hash()?;
        if expected != self.definition_hash {
            return Err(DefinitionError::DefinitionHashMismatch {
                expected: written(&expected),
                found: written(&self.definition_hash),
            });
        }
        Ok(())
    }

    /// Checks the signatures by the rules of the schema version.
    pub fn verify_signatures(&self, custom: &[Network]) -> Result<(), DefinitionError> {
        if self.version < SchemaVersion::V1_3 {
            return self.refuse_operator_signatures();
        }
        if self.version == SchemaVersion::V1_3 && self.creator != Creator::default() {
            return Err(DefinitionError::SignatureNotAllowed {
                signer: Signer::Creator,
                version: self.version,
            });
        }
        let signed = self.verify_operators(custom)?;
        if self.version == SchemaVersion::V1_3 || (self.creator == Creator::default() && !signed) {
            return Ok(());
        }
        let creator = Claim {
            signer: Signer::Creator,
            field: "config_signature",
            address: &self.creator.address,
            signature: &self.creator.config_signature,
        };
        self.verify_claim(&creator, Statement::CreatorConfigHash, &hex_to(&self.config_hash), custom)
    }

    fn refuse_operator_signatures(&self) -> Result<(), DefinitionError> {
        let signed = self.operators.iter().position(|operator| {
            !operator.config_signature().is_empty() || !operator.enr_signature().is_empty()
        });
        match signed {
            None => Ok(()),
            Some(index) => Err(DefinitionError::SignatureNotAllowed {
                signer: Signer::Operator(index),
                version: self.version,
            }),
        }
    }

    /// Whether the operators signed: all of them, or none.
    fn verify_operators(&self, custom: &[Network]) -> Result<bool, DefinitionError> {
        let unsigned = |index: usize| {
            let operator = &self.operators[index];
            operator.address.is_empty()
                && operator.config_signature().is_empty()
                && operator.enr_signature().is_empty()
        };
        let count = self.operators.len();
        let first_unsigned = (0..count).find(|index| unsigned(*index));
        let some_signed = (0..count).any(|index| !unsigned(index));
        match first_unsigned {
            Some(index) if some_signed => return Err(DefinitionError::PartlySigned(index)),
            Some(_) => return Ok(false),
            None => {}
        }
        let config_statement = if self.version == SchemaVersion::V1_3 {
            Statement::ConfigHash
        } else {
            Statement::OperatorConfigHash
        };
        let config_hash = hex_to(&self.config_hash);
        for (index, operator) in self.operators.iter().enumerate() {
            let claim = |field, signature| Claim {
                signer: Signer::Operator(index),
                field,
                address: &operator.address,
                signature,
            };
            let config = claim("config_signature", operator.config_signature());
            self.verify_claim(&config, config_statement, &config_hash, custom)?;
            let enr = claim("enr_signature", operator.enr_signature());
            self.verify_claim(&enr, Statement::Enr, &operator.enr, custom)?;
        }
        Ok(true)
    }

    fn verify_claim(
        &self,
        claim: &Claim<'_>,
        statement: Statement,
        value: &str,
        custom: &[Network],
    ) -> Result<(), DefinitionError> {
        let &Claim { signer, field, address, signature } = claim;
        if signature.is_empty() {
            return Err(DefinitionError::SignatureMissing { signer, field });
        }
        self.check_length(claim)?;
        let network = custom
            .iter()
            .find(|network| network.genesis_fork_version == self.fork_version)
            .cloned()
            .or_else(|| Network::by_fork_version(self.fork_version))
            .ok_or(DefinitionError::UnknownNetwork(self.fork_version))?;
        let invalid = || DefinitionError::InvalidSignature {
            signer,
            field,
            address: address.to_owned(),
            contract: self.version >= SchemaVersion::V1_11,
        };
        if signature.len() != K1_SIGNATURE_LEN {
            let owners = signature.len() / K1_SIGNATURE_LEN;
            return Err(DefinitionError::ContractWallet {
                signer,
                field,
                address: address.to_owned(),
                owners,
            });
        }
        let digest = digest(statement, value, network.chain_id);
        let key = recover(&digest, signature).map_err(|_| invalid())?;
        let claimed = hex_from("address", address)?;
        if claimed == key.address() { Ok(()) } else { Err(invalid()) }
    }

    /// One signature of 65 bytes; from v1.11 on up to 32 of them (contract wallets with several owners).
    fn check_length(&self, claim: &Claim<'_>) -> Result<(), DefinitionError> {
        let &Claim { signer, field, signature, .. } = claim;
        let most = if self.version >= SchemaVersion::V1_11 { MAX_SIGNATURES } else { 1 };
        let count = signature.len() / K1_SIGNATURE_LEN;
        if signature.len().is_multiple_of(K1_SIGNATURE_LEN) && (1..=most).contains(&count) {
            return Ok(());
        }
        Err(DefinitionError::SignatureLength { signer, field, found: signature.len() })
    }
}

/// A signature, and whose it claims to be.
struct Claim<'a> {
    signer: Signer,
    field: &'static str,
    address: &'a str,
    signature: &'a [u8],
}
