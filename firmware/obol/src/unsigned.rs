//! The unsigned objects that consensus agrees on, one per validator.

use std::collections::BTreeMap;

use chain::{
    AttestationData, AttesterDuty, CommitteeIndex, PublicKeyBytes, Slot, SyncCommitteeContribution,
    ValidatorIndex,
};
use serde::{Deserialize, Serialize};
use ssz::Encode as _;

use crate::attestation::VersionedAttestation;
use crate::duty::DutyType;
use crate::proposal::VersionedProposal;
use crate::versioned::{self, DecodeError, u32_at, u64_at};
use crate::wire::UnsignedDataSet;

/// Bytes of an encoded [`AttesterData`].
const ATTESTER_DATA: usize = 232;
/// Where the vote starts in it.
const DATA_AT: usize = 8;
/// Where the duty starts in it.
const DUTY_AT: usize = 136;

/// What an attester duty agrees on: the vote, and for whom it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttesterData {
    /// The vote.
    pub attestation_data: AttestationData,
    /// The validator's place in its committee.
    pub attestation_duty: AttesterDuty,
}

impl AttesterData {
    /// Reads the 232-byte form, or JSON.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        Self::decode_ssz(bytes).or_else(|error| versioned::json(bytes).map_err(|_| error))
    }

    fn decode_ssz(bytes: &[u8]) -> Result<Self, DecodeError> {
        if bytes.len() != ATTESTER_DATA || u32_at(bytes, 0) != Some(8) || u32_at(bytes, 4) != Some(136) {
            return Err(DecodeError::Malformed);
        }
        let (data, duty) = bytes[DATA_AT..].split_at(DUTY_AT - DATA_AT);
        let (pubkey, numbers) = duty.split_at(PublicKeyBytes::LEN);
        let number = |index: usize| u64_at(numbers, 8 * index).ok_or(DecodeError::Malformed);
        Ok(Self {
            attestation_data: versioned::ssz(data)?,
            attestation_duty: AttesterDuty {
                pubkey: PublicKeyBytes::try_from(pubkey).map_err(|_| DecodeError::Malformed)?,
                slot: Slot(number(0)?),
                validator_index: ValidatorIndex(number(1)?),
                committee_index: CommitteeIndex(number(2)?),
                committee_length: number(3)?,
                committees_at_slot: number(4)?,
                validator_committee_index: number(5)?,
            },
        })
    }

    /// The form on the wire.
    pub fn encode(&self) -> Vec<u8> {
        let duty = &self.attestation_duty;
        let mut out = Vec::with_capacity(ATTESTER_DATA);
        out.extend_from_slice(&8_u32.to_le_bytes());
        out.extend_from_slice(&136_u32.to_le_bytes());
        self.attestation_data.ssz_append(&mut out);
        out.extend_from_slice(&duty.pubkey.0);
        for number in [
            duty.slot.0,
            duty.validator_index.0,
            duty.committee_index.0,
            duty.committee_length,
            duty.committees_at_slot,
            duty.validator_committee_index,
        ] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out
    }

    /// The JSON form.
    pub fn to_json(&self) -> Vec<u8> {
        versioned::to_json(self)
    }
}

/// One unsigned object.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "a few live at a time, one per validator and duty")]
pub enum Unsigned {
    /// Duty 2.
    Attester(AttesterData),
    /// Duty 1.
    Proposal(VersionedProposal),
    /// Duty 9.
    Aggregate(VersionedAttestation),
    /// Duty 12: one contribution (single form), or several (plural form).
    Contributions(Vec<SyncCommitteeContribution>),
}

impl Unsigned {
    /// Reads the object of a duty.
    pub fn decode(kind: DutyType, bytes: &[u8]) -> Result<Self, DecodeError> {
        match kind {
            DutyType::Attester => AttesterData::decode(bytes).map(Self::Attester),
            DutyType::Proposer => VersionedProposal::decode(bytes).map(Self::Proposal),
            DutyType::Aggregator => {
                let versioned = VersionedAttestation::decode_aggregated(bytes);
                versioned.or_else(|error| bare_attestation(bytes).ok_or(error)).map(Self::Aggregate)
            }
            DutyType::SyncContribution => contributions(bytes).map(Self::Contributions),
            DutyType::Signature
            | DutyType::Exit
            | DutyType::BuilderProposer
            | DutyType::BuilderRegistration
            | DutyType::Randao
            | DutyType::PrepareAggregator
            | DutyType::SyncMessage
            | DutyType::PrepareSyncContribution
            | DutyType::InfoSync => Err(DecodeError::NotForThisDuty),
        }
    }

    /// The form on the wire; several contributions take the plural form.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Attester(data) => data.encode(),
            Self::Proposal(proposal) => proposal.encode(),
            Self::Aggregate(attestation) => attestation.encode(),
            Self::Contributions(several) => match several.as_slice() {
                [one] => one.as_ssz_bytes(),
                _ => versioned::to_json(several),
            },
        }
    }
}

/// Before v1.3 aggregates stood there without a header.
fn bare_attestation(bytes: &[u8]) -> Option<VersionedAttestation> {
    let attestation = versioned::ssz(bytes).ok()?;
    Some(VersionedAttestation {
        version: 0,
        validator_index: None,
        attestation: crate::attestation::AnyAttestation::Phase0(attestation),
    })
}

/// The plural form is a JSON array; the single form SSZ, or a JSON object.
fn contributions(bytes: &[u8]) -> Result<Vec<SyncCommitteeContribution>, DecodeError> {
    if bytes.trim_ascii_start().first() == Some(&b'[')
        && let Ok(several) = serde_json::from_slice(bytes)
    {
        return Ok(several);
    }
    versioned::ssz(bytes).or_else(|error| versioned::json(bytes).map_err(|_| error)).map(|one| vec![one])
}

/// How a validator is named on the wire: `0x` and 96 lower-case hex digits.
pub fn set_key(validator: &PublicKeyBytes) -> String {
    format!("0x{}", hex::encode(validator.0))
}

/// Reads such a name; `None` for anything else, upper case included.
pub fn read_set_key(key: &str) -> Option<PublicKeyBytes> {
    let digits = key.strip_prefix("0x")?;
    if digits.len() != 96 || digits.bytes().any(|digit| digit.is_ascii_uppercase()) {
        return None;
    }
    let mut bytes = [0; 48];
    hex::decode_to_slice(digits, &mut bytes).ok()?;
    Some(PublicKeyBytes(bytes))
}

/// Why an agreed set cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SetError {
    /// No `UnsignedDataSet`.
    #[error("the value is not a set of unsigned data")]
    Malformed,
    /// An empty set is invalid.
    #[error("the set is empty")]
    Empty,
    /// A key that is no public key.
    #[error("the set names a validator by a malformed key")]
    BadKey,
    /// An entry that does not decode.
    #[error("an entry of the set cannot be read")]
    Entry(#[source] DecodeError),
}

/// A set of unsigned objects as message.
pub fn write_set<'a>(
    entries: impl IntoIterator<Item = (&'a PublicKeyBytes, &'a Unsigned)>,
) -> UnsignedDataSet {
    let set =
        entries.into_iter().map(|(validator, unsigned)| (set_key(validator), unsigned.encode())).collect();
    UnsignedDataSet { set }
}

/// Reads an agreed value.
pub fn read_set(kind: DutyType, bytes: &[u8]) -> Result<BTreeMap<PublicKeyBytes, Unsigned>, SetError> {
    let set = <UnsignedDataSet as prost::Message>::decode(bytes).map_err(|_| SetError::Malformed)?;
    if set.set.is_empty() {
        return Err(SetError::Empty);
    }
    let read = |(key, bytes): (&String, &Vec<u8>)| {
        let validator = read_set_key(key).ok_or(SetError::BadKey)?;
        Ok((validator, Unsigned::decode(kind, bytes).map_err(SetError::Entry)?))
    };
    set.set.iter().map(read).collect()
}

#[cfg(test)]
mod tests {
    use chain::{Root, SignatureBytes, Slot};

    use super::*;

    fn contribution(subcommittee_index: u64) -> SyncCommitteeContribution {
        SyncCommitteeContribution {
            slot: Slot(42),
            beacon_block_root: Root([7; 32]),
            subcommittee_index,
            aggregation_bits: Default::default(),
            signature: SignatureBytes([2; 96]),
        }
    }

    fn read(bytes: &[u8]) -> Option<Vec<SyncCommitteeContribution>> {
        match Unsigned::decode(DutyType::SyncContribution, bytes) {
            Ok(Unsigned::Contributions(several)) => Some(several),
            _ => None,
        }
    }

    #[test]
    fn one_contribution_is_160_bytes_several_are_a_list_and_every_form_is_read() {
        let one = vec![contribution(1)];
        let ssz = Unsigned::Contributions(one.clone()).encode();
        assert_eq!(ssz.len(), 160);
        assert_eq!(read(&ssz), Some(one.clone()));
        assert_eq!(read(&versioned::to_json(&one[0])), Some(one.clone()), "one as a JSON object");
        assert_eq!(read(&versioned::to_json(&one)), Some(one), "a list of one");

        let several = vec![contribution(0), contribution(3)];
        let list = Unsigned::Contributions(several.clone()).encode();
        assert!(list.starts_with(b"[{\"slot\":\"42\""), "{}", String::from_utf8_lossy(&list));
        assert_eq!(read(&list), Some(several));
        for bad in [&b""[..], b"[", b"[{}]", b"{}", &ssz[1..], b"null"] {
            assert_eq!(read(bad), None, "{}", String::from_utf8_lossy(bad));
        }
    }
}
