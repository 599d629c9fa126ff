//! The cluster definition: what operators agree on before any key exists.

mod hash;
mod json;
mod verify;

use core::fmt;
use core::str::FromStr;

use chain::{ForkVersion, Gwei};

use crate::document::FieldError;
use crate::enr::{Enr, EnrError};
use crate::identity::IdentityError;

pub(crate) use hash::definition_chunk;
pub(crate) use json::DefinitionJson;

/// Schema version of definition and lock files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the names are the versions")]
pub enum SchemaVersion {
    V1_0,
    V1_1,
    V1_2,
    V1_3,
    V1_4,
    V1_5,
    V1_6,
    V1_7,
    V1_8,
    V1_9,
    V1_10,
    V1_11,
}

impl SchemaVersion {
    /// All versions, oldest first.
    pub const ALL: [Self; 12] = [
        Self::V1_0,
        Self::V1_1,
        Self::V1_2,
        Self::V1_3,
        Self::V1_4,
        Self::V1_5,
        Self::V1_6,
        Self::V1_7,
        Self::V1_8,
        Self::V1_9,
        Self::V1_10,
        Self::V1_11,
    ];

    /// As written in files, such as `v1.10.0`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V1_0 => "v1.0.0",
            Self::V1_1 => "v1.1.0",
            Self::V1_2 => "v1.2.0",
            Self::V1_3 => "v1.3.0",
            Self::V1_4 => "v1.4.0",
            Self::V1_5 => "v1.5.0",
            Self::V1_6 => "v1.6.0",
            Self::V1_7 => "v1.7.0",
            Self::V1_8 => "v1.8.0",
            Self::V1_9 => "v1.9.0",
            Self::V1_10 => "v1.10.0",
            Self::V1_11 => "v1.11.0",
        }
    }

    /// Byte members are base64 and operators carry a nonce.
    pub(crate) fn uses_base64(self) -> bool {
        self <= Self::V1_1
    }
}

impl fmt::Display for SchemaVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for SchemaVersion {
    type Err = DefinitionError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|version| version.as_str() == text)
            .ok_or_else(|| DefinitionError::UnsupportedVersion(text.chars().take(32).collect()))
    }
}

/// Who signed what, in error messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signer {
    /// The creator of the cluster.
    Creator,
    /// The operator at this position (0 is the first).
    Operator(usize),
}

impl fmt::Display for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Creator => f.write_str("the creator"),
            Self::Operator(index) => write!(f, "operators[{index}]"),
        }
    }
}

/// What to do about a contract wallet's signature.
const CONTRACT_WALLET: &str = "; whether a contract wallet accepts a signature only its contract on the chain can say, which this box \
    does not ask: have that member sign with an ordinary wallet, or make the definition from the members' ENRs without \
    anybody's signature";

/// Why a definition was refused. The file itself is what is wrong: ask whoever sent it for the original.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DefinitionError {
    /// Larger than any cluster file.
    #[error("cluster file: {found} bytes is more than the {limit} a cluster file may have")]
    FileTooLarge {
        /// Most bytes allowed.
        limit: usize,
        /// Bytes found.
        found: usize,
    },
    /// Not JSON of the right shape.
    #[error("cluster file: not valid JSON of the expected form ({0}); copy the file again from its source")]
    Json(String),
    /// A version this firmware does not know.
    #[error(
        "cluster definition: unsupported definition version '{0}'; update this box, or recreate the cluster"
    )]
    UnsupportedVersion(String),
    /// One member is malformed.
    #[error("cluster definition: {0}")]
    Field(#[from] FieldError),
    /// Addresses and count disagree.
    #[error("cluster definition: num_validators is {num_validators} but 'validators' has {found} entries")]
    ValidatorCount {
        /// `num_validators`.
        num_validators: u64,
        /// Entries of `validators`.
        found: usize,
    },
    /// Old schemas know only one pair of addresses.
    #[error("cluster definition: version {0} allows only one pair of addresses for all validators")]
    SeveralAddresses(SchemaVersion),
    /// `deposit_amounts` break a rule.
    #[error("cluster definition: {0}")]
    DepositAmounts(#[from] crate::deposit::AmountsError),
    /// The stored configuration hash is not that of the content.
    #[error(
        "cluster definition: config_hash is {found} but the content hashes to {expected}; the file was changed, get the original"
    )]
    ConfigHashMismatch {
        /// Hash of the content.
        expected: String,
        /// Hash in the file.
        found: String,
    },
    /// The stored definition hash is not that of the content.
    #[error(
        "cluster definition: definition_hash is {found} but the content hashes to {expected}; the file was changed, get the original"
    )]
    DefinitionHashMismatch {
        /// Hash of the content.
        expected: String,
        /// Hash in the file.
        found: String,
    },
    /// Signatures where the version has none.
    #[error("cluster definition: {signer} has a signature, which version {version} does not allow")]
    SignatureNotAllowed {
        /// Whose.
        signer: Signer,
        /// The schema version.
        version: SchemaVersion,
    },
    /// A signature of the wrong length.
    #[error("cluster definition: '{field}' of {signer} is {found} bytes long, which is not a valid length")]
    SignatureLength {
        /// Whose.
        signer: Signer,
        /// Which signature.
        field: &'static str,
        /// Its length.
        found: usize,
    },
    /// Some operators signed, some did not.
    #[error("cluster definition: operators[{0}] has not signed while others have; ask that operator to sign")]
    PartlySigned(usize),
    /// A required signature is not there.
    #[error("cluster definition: '{field}' of {signer} is missing; ask for the complete file")]
    SignatureMissing {
        /// Whose.
        signer: Signer,
        /// Which signature.
        field: &'static str,
    },
    /// A signature is not by the address it claims.
    #[error("cluster definition: '{field}' of {signer} is not a valid signature of {address}{}",
        if *contract { CONTRACT_WALLET } else { "" })]
    InvalidSignature {
        /// Whose.
        signer: Signer,
        /// Which signature.
        field: &'static str,
        /// The address that should have signed.
        address: String,
        /// It may be a contract wallet's signature.
        contract: bool,
    },
    /// Several signatures in one, which only a contract wallet's code can judge (ERC-1271, decision 0396).
    #[error(
        "cluster definition: '{field}' of {signer} is {owners} signatures in one, as the owners of a contract wallet (a Safe) at \
         {address} make them{}",
        CONTRACT_WALLET
    )]
    ContractWallet {
        /// Whose.
        signer: Signer,
        /// Which signature.
        field: &'static str,
        /// The wallet's address.
        address: String,
        /// Signatures in it.
        owners: usize,
    },
    /// The chain id of this fork version is not known.
    #[error(
        "cluster definition: fork_version {0} belongs to no known network, so its signatures cannot be checked"
    )]
    UnknownNetwork(ForkVersion),
    /// An operator's ENR is broken.
    #[error("cluster definition: operators[{operator}].enr: {source}")]
    Enr {
        /// Position of the operator.
        operator: usize,
        /// What is wrong.
        source: EnrError,
    },
    /// Two operators with one identity.
    #[error(
        "cluster definition: operators[{first}] and operators[{second}] have the same identity (peer id {peer_id})"
    )]
    DuplicatePeer {
        /// Position of the first.
        first: usize,
        /// Position of the second.
        second: usize,
        /// The shared peer id.
        peer_id: String,
    },
    /// A signature that is not one.
    #[error("cluster definition: '{field}' of {signer}: {source}")]
    Signature {
        /// Whose.
        signer: Signer,
        /// Which signature.
        field: &'static str,
        /// What is wrong.
        source: IdentityError,
    },
}

/// A cluster definition of any schema version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Definition {
    /// Human name of the cluster.
    pub name: String,
    /// Who made the definition (v1.4 and later).
    pub creator: Creator,
    /// The members, in the order that fixes their share indices.
    pub operators: Vec<Operator>,
    /// Unique id, upper-case UUID.
    pub uuid: String,
    /// Schema version.
    pub version: SchemaVersion,
    /// RFC 3339 time of creation.
    pub timestamp: String,
    /// Number of validators.
    pub num_validators: u64,
    /// Partial signatures needed.
    pub threshold: u64,
    /// Addresses of each validator. Before v1.5 all are equal.
    pub validators: Vec<ValidatorAddresses>,
    /// `default`, `frost` or `pedersen`.
    pub dkg_algorithm: String,
    /// Genesis fork version of the chain.
    pub fork_version: ForkVersion,
    /// Deposit amounts (v1.8 and later); `None` is JSON `null`, which means the defaults.
    pub deposit_amounts: Option<Vec<Gwei>>,
    /// Preferred agreement protocol (v1.9 and later).
    pub consensus_protocol: String,
    /// Gas limit of builder registrations (v1.10 and later).
    pub target_gas_limit: u64,
    /// 0x02 withdrawal credentials (v1.10 and later).
    pub compounding: bool,
    /// Configuration hash as found in the file.
    pub config_hash: [u8; 32],
    /// Definition hash as found in the file.
    pub definition_hash: [u8; 32],
}

/// The creator of a definition; both empty when nobody claims it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Creator {
    /// `0x` address or empty.
    pub address: String,
    /// EIP-712 signature or empty.
    pub config_signature: Vec<u8>,
}

/// One member of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Operator {
    /// `0x` address of the operator's wallet, or empty.
    pub address: String,
    /// ENR text, byte for byte.
    pub enr: String,
    /// EIP-712 signature over the configuration hash. `None` (JSON `null`, v1.0 and v1.1 only) equals empty.
    pub config_signature: Option<Vec<u8>>,
    /// EIP-712 signature over the ENR. `None` as above.
    pub enr_signature: Option<Vec<u8>>,
}

impl Operator {
    /// The configuration signature, empty when there is none.
    pub fn config_signature(&self) -> &[u8] {
        self.config_signature.as_deref().unwrap_or_default()
    }

    /// The ENR signature, empty when there is none.
    pub fn enr_signature(&self) -> &[u8] {
        self.enr_signature.as_deref().unwrap_or_default()
    }
}

/// Where the rewards and the stake of a validator go.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ValidatorAddresses {
    /// `0x` address or empty.
    pub fee_recipient_address: String,
    /// `0x` address or empty.
    pub withdrawal_address: String,
}

impl Definition {
    /// The operators' verified records, in order; refuses two operators with one identity.
    pub fn operator_records(&self) -> Result<Vec<Enr>, DefinitionError> {
        let mut records: Vec<Enr> = Vec::with_capacity(self.operators.len());
        for (operator, entry) in self.operators.iter().enumerate() {
            let record =
                Enr::parse(&entry.enr).map_err(|source| DefinitionError::Enr { operator, source })?;
            let peer_id = record.peer_id();
            if let Some(first) = records.iter().position(|other| other.peer_id() == peer_id) {
                let peer_id = peer_id.to_string();
                return Err(DefinitionError::DuplicatePeer { first, second: operator, peer_id });
            }
            records.push(record);
        }
        Ok(records)
    }
}
