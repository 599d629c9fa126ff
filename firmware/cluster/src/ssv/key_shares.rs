//! `keyshares.json`, as the tools of the SSV network write it (version 1): read only when everything in it that can be proven is.
//!
//! Of each validator: who owns it, among which operators its key is split, and `sharesData`, which goes on the chain as it
//! is: the validator's signature over owner and nonce, then the operators' public shares, then their encrypted shares.

use std::collections::BTreeSet;

use chain::{ExecutionAddress, PublicKeyBytes, SignatureBytes};
use rand::{CryptoRng, RngCore};
use serde::{Deserialize, Serialize};
use threshold::{PublicKey, PublicShare, SecretKey, ShareIndex};

use super::operator_key::{ENCRYPTED_SHARE_BYTES, OperatorPublicKey};
use crate::document::bounded;
use crate::primitives::{checksum_address, keccak256};
use crate::{AddressError, bls, read_address};

/// The largest file that is read. One validator of four operators takes 6 KB.
pub const MAX_KEY_SHARES_BYTES: usize = 4 * 1024 * 1024;
/// The most validators in one file.
pub const MAX_VALIDATORS: usize = 1000;
const MAX_OPERATORS: usize = 13;

/// How many operators share a validator. The contract knows these four sizes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Committee {
    /// Operators.
    pub size: usize,
    /// How many of them sign together.
    pub quorum: usize,
}

impl Committee {
    /// The committee of that many.
    pub fn of(size: usize) -> Option<Self> {
        [(4, 3), (7, 5), (10, 7), (13, 9)]
            .into_iter()
            .find(|(operators, _)| *operators == size)
            .map(|(size, quorum)| Self { size, quorum })
    }
}

/// What is wrong with a file. Places count from 0.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeySharesError {
    /// Larger than any such file that one box needs.
    #[error("{found} bytes is more than the {MAX_KEY_SHARES_BYTES} that are read; split the file")]
    TooLarge {
        /// Bytes found.
        found: usize,
    },
    /// Not of this form.
    #[error("it is no keyshares.json of version 1 (line {line}, column {column})")]
    Json {
        /// Line of the text.
        line: usize,
        /// Column of the text.
        column: usize,
    },
    /// Another version of the format.
    #[error("its version is not 1 but '{0}'")]
    Version(String),
    /// No validator in it.
    #[error("there is no validator in it")]
    Empty,
    /// The same validator twice.
    #[error("the validator {0} is in it twice")]
    ValidatorTwice(PublicKeyBytes),
    /// Something of one validator.
    #[error("validator {place} of the file cannot be believed")]
    Validator {
        /// Which one.
        place: usize,
        /// What is wrong.
        #[source]
        problem: ValidatorProblem,
    },
}

/// What is wrong with one validator in the file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ValidatorProblem {
    /// The contract knows no such committee.
    #[error("its key is split among {0} operators, and 4, 7, 10 or 13 are possible")]
    CommitteeSize(usize),
    /// Two parts of the file differ.
    #[error("'{0}' is not the same in 'data' and 'payload'")]
    Differs(&'static str),
    /// Not hex, or of another length.
    #[error("'{field}' must be {expected} bytes of hexadecimal text")]
    Bytes {
        /// Which member.
        field: &'static str,
        /// How many bytes.
        expected: usize,
    },
    /// The owner's address.
    #[error("'ownerAddress' is wrong")]
    Owner(#[source] AddressError),
    /// Ids begin at 1 and ascend, as the contract demands.
    #[error("the operators' ids do not ascend from 1 on")]
    OperatorIds,
    /// An operator's key is none.
    #[error("the key of operator {0} is no RSA key of 2048 bits")]
    OperatorKey(u64),
    /// Two operators have one key.
    #[error("operator {0} has the same key as another one")]
    OperatorKeyTwice(u64),
    /// A point that is none.
    #[error("a public key in it is no BLS key")]
    PublicKey,
    /// Two operators have one share.
    #[error("operator {0} has the same share as another one")]
    ShareTwice(u64),
    /// What the chain would refuse.
    #[error("the validator's key has not signed its owner and nonce")]
    Signature,
    /// The public shares are those of another key.
    #[error("the operators' public shares do not make up the validator's key")]
    OtherShares,
}

/// A file that was checked from end to end, as far as that can be done without the chain. Only the chain knows that the operators are
/// the registry's, that the nonce is the next one, and that these shares are the ones in use: the validator has signed its owner
/// and nonce, not its shares, and whoever copies that signature can make up others. What is encrypted only its operator can check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyShares {
    validators: Vec<ValidatorShares>,
}

/// The shares of one validator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ValidatorShares {
    /// Whose validator it is.
    pub owner: ExecutionAddress,
    /// How many validators the owner had registered before.
    pub owner_nonce: u64,
    /// The validator's key.
    pub public_key: PublicKeyBytes,
    /// The validator's signature over owner and nonce.
    pub signature: SignatureBytes,
    /// Who shares it, in the order of their ids.
    pub operators: Vec<Operator>,
}

/// One operator of a validator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operator {
    /// Its number in the registry, from 1: where the polynomial was evaluated.
    pub id: u64,
    /// Its key.
    pub key: OperatorPublicKey,
    /// The public key of its share.
    pub public_share: PublicKeyBytes,
    /// Its share, encrypted to its key.
    pub encrypted_share: [u8; ENCRYPTED_SHARE_BYTES],
}

/// What the validator's key signs: the Keccak-256 of `<owner>:<nonce>`, the owner with its checksum's capitals.
pub fn ownership_message(owner: &ExecutionAddress, nonce: u64) -> [u8; 32] {
    keccak256(format!("{}:{nonce}", checksum_address(&owner.0)).as_bytes())
}

impl KeyShares {
    /// Reads a file and checks it.
    pub fn from_json(bytes: &[u8]) -> Result<Self, KeySharesError> {
        if bytes.len() > MAX_KEY_SHARES_BYTES {
            return Err(KeySharesError::TooLarge { found: bytes.len() });
        }
        let file: FileJson = serde_json::from_slice(bytes)
            .map_err(|error| KeySharesError::Json { line: error.line(), column: error.column() })?;
        if !file.version.starts_with("v1.") {
            return Err(KeySharesError::Version(file.version.chars().take(16).collect()));
        }
        if file.shares.is_empty() {
            return Err(KeySharesError::Empty);
        }
        let mut known = BTreeSet::new();
        let read = |(place, item): (usize, ItemJson)| {
            let validator = ValidatorShares::try_from(item)
                .and_then(|validator| validator.check().map(|()| validator))
                .map_err(|problem| KeySharesError::Validator { place, problem })?;
            if !known.insert(validator.public_key) {
                return Err(KeySharesError::ValidatorTwice(validator.public_key));
            }
            Ok(validator)
        };
        let validators = file.shares.into_iter().enumerate().map(read).collect::<Result<_, _>>()?;
        Ok(Self { validators })
    }

    /// What is in it.
    pub fn validators(&self) -> &[ValidatorShares] {
        &self.validators
    }

    /// Writes a file. `created_at` is a moment as text, which nobody reads.
    pub fn write(validators: &[ValidatorShares], created_at: &str) -> Vec<u8> {
        let file = FileJson {
            version: "v1.2.0".to_owned(),
            created_at: Some(created_at.to_owned()),
            shares: validators.iter().map(ItemJson::from).collect(),
        };
        serde_json::to_vec(&file).expect("plain structs with text keys always serialize")
    }
}

impl ValidatorShares {
    /// Splits a validator's key among operators, whose ids must ascend. None when there are not 4, 7, 10 or 13 of them.
    pub fn split<R: RngCore + CryptoRng + ?Sized>(
        secret: SecretKey,
        operators: &[(u64, OperatorPublicKey)],
        owner: ExecutionAddress,
        owner_nonce: u64,
        rng: &mut R,
    ) -> Option<Self> {
        let committee = Committee::of(operators.len())?;
        let public_key = secret.public_key().to_bytes();
        let signature = secret.sign(&ownership_message(&owner, owner_nonce)).to_bytes();
        let polynomial = threshold::Polynomial::with_secret(secret, committee.quorum, rng).ok()?;
        let operator = |(id, key): &(u64, OperatorPublicKey)| {
            let share = polynomial.share(ShareIndex::new(*id).ok()?).ok()?;
            Some(Operator {
                id: *id,
                key: key.clone(),
                public_share: share.key().public_key().to_bytes(),
                encrypted_share: key.encrypt_share(share.key(), rng),
            })
        };
        let operators = operators.iter().map(operator).collect::<Option<Vec<_>>>()?;
        Some(Self { owner, owner_nonce, public_key, signature, operators })
    }

    /// The operator with that key, and its place among the others, from 1.
    pub fn operator(&self, key: &OperatorPublicKey) -> Option<(u8, &Operator)> {
        (1..=u8::MAX).zip(&self.operators).find(|(_, operator)| operator.key == *key)
    }

    fn check(&self) -> Result<(), ValidatorProblem> {
        let committee = Committee::of(self.operators.len())
            .ok_or(ValidatorProblem::CommitteeSize(self.operators.len()))?;
        let mut last = 0;
        for operator in &self.operators {
            if operator.id <= last {
                return Err(ValidatorProblem::OperatorIds);
            }
            last = operator.id;
        }
        for (place, operator) in self.operators.iter().enumerate() {
            let before = self.operators.iter().take(place);
            if before.clone().any(|other| other.key == operator.key) {
                return Err(ValidatorProblem::OperatorKeyTwice(operator.id));
            }
            if before.clone().any(|other| other.public_share == operator.public_share) {
                return Err(ValidatorProblem::ShareTwice(operator.id));
            }
        }
        let message = ownership_message(&self.owner, self.owner_nonce);
        if !bls::verify(&self.public_key, &message, &self.signature) {
            return Err(ValidatorProblem::Signature);
        }
        let mut shares = Vec::with_capacity(self.operators.len());
        for operator in &self.operators {
            let index = ShareIndex::new(operator.id).map_err(|_| ValidatorProblem::OperatorIds)?;
            let key = PublicKey::parse(&operator.public_share).map_err(|_| ValidatorProblem::PublicKey)?;
            shares.push(PublicShare { index, key });
        }
        self.check_shares(&shares, committee)
    }

    /// Whether all shares lie on one polynomial of the quorum's degree with the validator's key at zero. The first ones as many as
    /// sign together determine it; each other one must, in the place of the last of these, give the same key.
    fn check_shares(&self, shares: &[PublicShare], committee: Committee) -> Result<(), ValidatorProblem> {
        let mut chosen: Vec<PublicShare> = shares.iter().take(committee.quorum).copied().collect();
        for share in shares.iter().skip(committee.quorum - 1) {
            if let Some(last) = chosen.last_mut() {
                *last = *share;
            }
            let key =
                threshold::interpolate_public_key(&chosen).map_err(|_| ValidatorProblem::OtherShares)?;
            if key.to_bytes() != self.public_key {
                return Err(ValidatorProblem::OtherShares);
            }
        }
        Ok(())
    }

    fn shares_data(&self) -> Vec<u8> {
        let public = self.operators.iter().flat_map(|operator| operator.public_share.0);
        let encrypted = self.operators.iter().flat_map(|operator| operator.encrypted_share);
        self.signature.0.into_iter().chain(public).chain(encrypted).collect()
    }
}

// The file. What else a tool writes into it is not read: nothing is believed that does not follow from these.

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct FileJson {
    version: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    created_at: Option<String>,
    #[serde(deserialize_with = "bounded::<_, _, MAX_VALIDATORS>")]
    shares: Vec<ItemJson>,
}

#[derive(Serialize, Deserialize)]
struct ItemJson {
    data: DataJson,
    payload: PayloadJson,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct DataJson {
    owner_nonce: u64,
    owner_address: String,
    public_key: String,
    #[serde(deserialize_with = "bounded::<_, _, MAX_OPERATORS>")]
    operators: Vec<OperatorJson>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct OperatorJson {
    id: u64,
    operator_key: String,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PayloadJson {
    public_key: String,
    #[serde(deserialize_with = "bounded::<_, _, MAX_OPERATORS>")]
    operator_ids: Vec<u64>,
    shares_data: String,
}

impl TryFrom<ItemJson> for ValidatorShares {
    type Error = ValidatorProblem;

    fn try_from(ItemJson { data, payload }: ItemJson) -> Result<Self, ValidatorProblem> {
        let public_key = PublicKeyBytes(hex_of("publicKey", &data.public_key)?);
        if public_key.0 != hex_of::<48>("publicKey", &payload.public_key)? {
            return Err(ValidatorProblem::Differs("publicKey"));
        }
        if !data.operators.iter().map(|operator| operator.id).eq(payload.operator_ids.iter().copied()) {
            return Err(ValidatorProblem::Differs("operatorIds"));
        }
        let size = data.operators.len();
        Committee::of(size).ok_or(ValidatorProblem::CommitteeSize(size))?;
        let expected = 96 + (48 + ENCRYPTED_SHARE_BYTES) * size;
        let bytes = hex::decode(digits(&payload.shares_data))
            .ok()
            .filter(|bytes| bytes.len() == expected)
            .ok_or(ValidatorProblem::Bytes { field: "sharesData", expected })?;
        let (signature, shares) = bytes.split_at(96);
        let (public, encrypted) = shares.split_at(48 * size);
        let parts = public.as_chunks::<48>().0.iter().zip(encrypted.as_chunks::<ENCRYPTED_SHARE_BYTES>().0);
        let operator = |(operator, (public, encrypted)): (OperatorJson, (&[u8; 48], &[u8; 256]))| {
            let key = OperatorPublicKey::from_text(&operator.operator_key)
                .map_err(|_| ValidatorProblem::OperatorKey(operator.id))?;
            let public_share = PublicKeyBytes(*public);
            Ok(Operator { id: operator.id, key, public_share, encrypted_share: *encrypted })
        };
        Ok(Self {
            owner: read_address(&data.owner_address).map_err(ValidatorProblem::Owner)?,
            owner_nonce: data.owner_nonce,
            public_key,
            signature: SignatureBytes(signature.try_into().map_err(|_| ValidatorProblem::Signature)?),
            operators: data.operators.into_iter().zip(parts).map(operator).collect::<Result<_, _>>()?,
        })
    }
}

impl From<&ValidatorShares> for ItemJson {
    fn from(validator: &ValidatorShares) -> Self {
        let operators = validator.operators.iter();
        Self {
            data: DataJson {
                owner_nonce: validator.owner_nonce,
                owner_address: checksum_address(&validator.owner.0),
                public_key: validator.public_key.to_string(),
                operators: operators
                    .clone()
                    .map(|operator| OperatorJson { id: operator.id, operator_key: operator.key.to_text() })
                    .collect(),
            },
            payload: PayloadJson {
                public_key: validator.public_key.to_string(),
                operator_ids: operators.map(|operator| operator.id).collect(),
                shares_data: format!("0x{}", hex::encode(validator.shares_data())),
            },
        }
    }
}

fn digits(text: &str) -> &str {
    text.strip_prefix("0x").unwrap_or(text)
}

fn hex_of<const N: usize>(field: &'static str, text: &str) -> Result<[u8; N], ValidatorProblem> {
    let mut bytes = [0; N];
    hex::decode_to_slice(digits(text), &mut bytes)
        .map_err(|_| ValidatorProblem::Bytes { field, expected: N })?;
    Ok(bytes)
}
