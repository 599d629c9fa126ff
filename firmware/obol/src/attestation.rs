//! Attestations and aggregates with their fork, as Charon writes them in SSZ and JSON.

use chain::{
    Attestation, AttestationData, Phase0Attestation, Root, SignatureBytes, SignedAggregateAndProof,
    ValidatorIndex,
};
use serde::{Deserialize, Serialize};
use ssz::Encode as _;
use ssz_derive::{Decode, Encode};
use tree_hash::TreeHash as _;

use crate::versioned::{self, DecodeError, ELECTRA, FULU};

/// An attestation of whichever fork.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum AnyAttestation {
    /// Up to deneb.
    Phase0(Phase0Attestation),
    /// From electra on.
    Electra(Attestation),
}

/// `VersionedAttestation`; also `VersionedAggregatedAttestation`, which never has a validator index.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct VersionedAttestation {
    /// Fork number.
    pub version: u64,
    /// The attester; always there from electra on.
    pub validator_index: Option<ValidatorIndex>,
    /// The attestation.
    pub attestation: AnyAttestation,
}

/// A signed aggregate of whichever fork.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum AnyAggregate {
    /// Up to deneb.
    Phase0(Phase0SignedAggregateAndProof),
    /// From electra on.
    Electra(SignedAggregateAndProof),
}

/// `SignedAggregateAndProof` up to deneb.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Encode, Decode)]
pub struct Phase0SignedAggregateAndProof {
    /// What was signed.
    pub message: chain::Phase0AggregateAndProof,
    /// The author's signature.
    pub signature: SignatureBytes,
}

/// `VersionedSignedAggregateAndProof`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct VersionedAggregate {
    /// Fork number.
    pub version: u64,
    /// The aggregate.
    pub aggregate_and_proof: AnyAggregate,
}

fn is_electra(version: u64) -> Result<bool, DecodeError> {
    if version > FULU { Err(DecodeError::UnknownFork(version)) } else { Ok(version >= ELECTRA) }
}

impl AnyAttestation {
    fn read(version: u64, bytes: &[u8]) -> Result<Self, DecodeError> {
        Ok(if is_electra(version)? {
            Self::Electra(versioned::ssz(bytes)?)
        } else {
            Self::Phase0(versioned::ssz(bytes)?)
        })
    }

    fn to_ssz(&self) -> Vec<u8> {
        match self {
            Self::Phase0(attestation) => attestation.as_ssz_bytes(),
            Self::Electra(attestation) => attestation.as_ssz_bytes(),
        }
    }

    /// What is voted for.
    pub fn data(&self) -> &AttestationData {
        match self {
            Self::Phase0(attestation) => &attestation.data,
            Self::Electra(attestation) => &attestation.data,
        }
    }

    /// The signature.
    pub fn signature(&self) -> SignatureBytes {
        match self {
            Self::Phase0(attestation) => attestation.signature,
            Self::Electra(attestation) => attestation.signature,
        }
    }

    pub(crate) fn set_signature(&mut self, signature: SignatureBytes) {
        match self {
            Self::Phase0(attestation) => attestation.signature = signature,
            Self::Electra(attestation) => attestation.signature = signature,
        }
    }
}

impl VersionedAttestation {
    /// Reads either header, or JSON.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let plain = || versioned::read_plain(bytes).map(|versioned| (versioned, None));
        Self::read(versioned::read_indexed(bytes))
            // The plain form of an attestation of slot 20 has a 20 just where the indexed form has its offset.
            .or_else(|error| Self::read(plain()).map_err(|_| error))
            .or_else(|error| Self::from_json(bytes).map_err(|_| error))
    }

    /// Reads the plain header only (aggregates), or JSON.
    pub fn decode_aggregated(bytes: &[u8]) -> Result<Self, DecodeError> {
        let header = versioned::read_plain(bytes).map(|versioned| (versioned, None));
        Self::read(header).or_else(|error| Self::from_json(bytes).map_err(|_| error))
    }

    fn read(
        header: Result<(versioned::Versioned<'_>, Option<u64>), DecodeError>,
    ) -> Result<Self, DecodeError> {
        let (versioned, index) = header?;
        let attestation = AnyAttestation::read(versioned.version, versioned.value)?;
        Ok(Self { version: versioned.version, validator_index: index.map(ValidatorIndex), attestation })
    }

    fn from_json(bytes: &[u8]) -> Result<Self, DecodeError> {
        #[derive(Deserialize)]
        struct Raw {
            version: u64,
            validator_index: Option<ValidatorIndex>,
            attestation: serde_json::Value,
        }
        let raw: Raw = versioned::json(bytes)?;
        let attestation = if is_electra(raw.version)? {
            serde_json::from_value(raw.attestation).map(AnyAttestation::Electra)
        } else {
            serde_json::from_value(raw.attestation).map(AnyAttestation::Phase0)
        };
        let attestation = attestation.map_err(|_| DecodeError::Malformed)?;
        Ok(Self { version: raw.version, validator_index: raw.validator_index, attestation })
    }

    /// The form on the wire: the 20-byte header when the index is known, else the 12-byte one.
    pub fn encode(&self) -> Vec<u8> {
        let value = self.attestation.to_ssz();
        match self.validator_index {
            Some(index) => versioned::write_indexed(self.version, index.0, &value),
            None => versioned::write_plain(self.version, &value),
        }
    }

    /// The JSON form, which is read but not written on the wire.
    pub fn to_json(&self) -> Vec<u8> {
        versioned::to_json(self)
    }
}

impl AnyAggregate {
    /// What is signed.
    pub fn message_root(&self) -> Root {
        match self {
            Self::Phase0(signed) => {
                // The phase0 container is only read; its root is that of the three parts.
                signed.message.tree_hash_root().into()
            }
            Self::Electra(signed) => signed.message.tree_hash_root().into(),
        }
    }

    /// The signature.
    pub fn signature(&self) -> SignatureBytes {
        match self {
            Self::Phase0(signed) => signed.signature,
            Self::Electra(signed) => signed.signature,
        }
    }

    pub(crate) fn set_signature(&mut self, signature: SignatureBytes) {
        match self {
            Self::Phase0(signed) => signed.signature = signature,
            Self::Electra(signed) => signed.signature = signature,
        }
    }
}

impl VersionedAggregate {
    /// Reads a bare phase0 aggregate, the versioned form, or JSON.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        if let Ok(bare) = versioned::ssz(bytes) {
            return Ok(Self { version: 0, aggregate_and_proof: AnyAggregate::Phase0(bare) });
        }
        Self::read(bytes).or_else(|error| Self::from_json(bytes).map_err(|_| error))
    }

    fn read(bytes: &[u8]) -> Result<Self, DecodeError> {
        let versioned = versioned::read_plain(bytes)?;
        let aggregate_and_proof = if is_electra(versioned.version)? {
            AnyAggregate::Electra(versioned::ssz(versioned.value)?)
        } else {
            AnyAggregate::Phase0(versioned::ssz(versioned.value)?)
        };
        Ok(Self { version: versioned.version, aggregate_and_proof })
    }

    fn from_json(bytes: &[u8]) -> Result<Self, DecodeError> {
        #[derive(Deserialize)]
        struct Raw {
            version: u64,
            aggregate_and_proof: serde_json::Value,
        }
        let raw: Raw = versioned::json(bytes)?;
        let aggregate = if is_electra(raw.version)? {
            serde_json::from_value(raw.aggregate_and_proof).map(AnyAggregate::Electra)
        } else {
            serde_json::from_value(raw.aggregate_and_proof).map(AnyAggregate::Phase0)
        };
        Ok(Self { version: raw.version, aggregate_and_proof: aggregate.map_err(|_| DecodeError::Malformed)? })
    }

    /// The form on the wire.
    pub fn encode(&self) -> Vec<u8> {
        let value = match &self.aggregate_and_proof {
            AnyAggregate::Phase0(signed) => signed.as_ssz_bytes(),
            AnyAggregate::Electra(signed) => signed.as_ssz_bytes(),
        };
        versioned::write_plain(self.version, &value)
    }
}
