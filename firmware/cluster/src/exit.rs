//! Voluntary exits of a distributed validator: partial ones as members exchange them, and whole ones (obol spec 12.5, 12.6
//! and 12.8).
//!
//! Most clusters exchange partial exits over their own network. This is for the others: the same bytes as the Obol API takes
//! and gives, as files, with every signature in them checked.

use std::collections::{BTreeMap, BTreeSet};

use chain::{
    Domain, Epoch, PublicKeyBytes, SignatureBytes, SignedVoluntaryExit, ValidatorIndex, VoluntaryExit,
};
use serde::{Deserialize, Serialize};
use threshold::{CombineError, ShareIndex};
use tree_hash::TreeHash as _;

use crate::bls;
use crate::document::{MAX_VALIDATORS, bounded, hex_from, hex_to};
use crate::identity::{IdentityError, IdentityKey};
use crate::merkle::Container;
use crate::view::ClusterView;

/// Epoch that `charon exit sign` writes when nobody names one: all members must choose the same.
pub const CHARON_EPOCH: Epoch = Epoch(194_048);
/// Largest file of exits that is read: an exit takes about 500 bytes.
pub const MAX_EXITS_BYTES: usize = 64 * 1024 * 1024;

/// Shares that the signatures of one answer are tried with, beyond those at whose places they stand: each costs a pairing. In a
/// cluster of twenty-two everything is tried.
const MAX_CHECKS: u32 = 512;

/// The epoch to use when the owner names none: the one that Charon uses, or 0 on a chain that has not come so far.
pub fn usual_epoch(now: Epoch) -> Epoch {
    if now < CHARON_EPOCH { Epoch(0) } else { CHARON_EPOCH }
}

/// An exit of one validator, signed by one share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExitBlob {
    /// The validator's public key.
    pub public_key: PublicKeyBytes,
    /// What the share signed, with its signature.
    pub signed_exit_message: SignedVoluntaryExit,
}

impl ExitBlob {
    /// Its root in a request.
    pub fn root(&self) -> [u8; 32] {
        let exit: chain::Root = self.signed_exit_message.tree_hash_root().into();
        let mut container = Container::new();
        container.bytes(&self.public_key.0).chunk(exit.0);
        container.root()
    }
}

/// Why partial exits were refused.
#[derive(Debug, thiserror::Error)]
pub enum ExitError {
    /// Larger than any such file.
    #[error("exit file: {0} bytes is more than such a file may have")]
    TooLarge(usize),
    /// Not JSON of the right shape.
    #[error("exit file: not valid JSON of the expected form ({0}); copy the file again")]
    Json(String),
    /// Nobody of this cluster.
    #[error(
        "exit file: share_idx {0} belongs to no operator of this cluster; ask which cluster the file is of"
    )]
    UnknownShare(u64),
    /// Not signed by the operator it claims.
    #[error("exit file: not signed by operator {operator}; get it again from that member")]
    NotByOperator {
        /// Share index.
        operator: u64,
        /// What is wrong.
        #[source]
        source: IdentityError,
    },
    /// Not hex.
    #[error("exit file: the member signature is not hex; copy the file again")]
    NotHex,
    /// A validator of another cluster.
    #[error("exit file: {0} is no validator of this cluster")]
    UnknownValidator(PublicKeyBytes),
    /// An index that none of the cluster's validators on the chain has.
    #[error("exit file: validator {0} is none of this cluster's on the chain")]
    UnknownIndex(ValidatorIndex),
    /// A share's signature that is none.
    #[error(
        "exit file: operator {operator}'s partial signature for {validator} does not verify; ask that member for a new one"
    )]
    WrongPartial {
        /// Share index; 0 when it is nobody's.
        operator: u64,
        /// The validator.
        validator: PublicKeyBytes,
    },
    /// Members signed different exits.
    #[error(
        "the members' partial exits of {0} name different epochs or indices; agree on one epoch and sign again"
    )]
    Differ(PublicKeyBytes),
    /// Too few to make it whole.
    #[error("exit file: more signatures of {validator} are in it than the cluster has members, {members}")]
    TooManyPartials {
        /// Members of the cluster.
        members: usize,
        /// The validator.
        validator: PublicKeyBytes,
    },
    /// Not enough yet.
    #[error("{have} partial exits of {validator} are there, {need} are needed; ask more members")]
    TooFew {
        /// The validator.
        validator: PublicKeyBytes,
        /// Have.
        have: usize,
        /// Need.
        need: usize,
    },
    /// Combining failed although all partial signatures verify: the lock is not of these keys.
    #[error("the partial exits of {0} do not combine to a signature of the validator")]
    Combination(PublicKeyBytes),
    /// A whole exit that does not verify.
    #[error("the exit of {0} is not signed by the validator; do not broadcast it")]
    NotByValidator(PublicKeyBytes),
    /// More validators than a cluster has.
    #[error("a request names at most {MAX_VALIDATORS} exits, not {0}")]
    TooMany(usize),
}

/// One member's partial exits: the body of the Obol API's call, and the file that members may pass on themselves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PartialExits {
    /// The exits, by validator index.
    #[serde(deserialize_with = "bounded::<_, _, MAX_VALIDATORS>")]
    pub partial_exits: Vec<ExitBlob>,
    /// Whose: share index, from 1.
    pub share_idx: u64,
    /// The member's identity signature over the request root, `0x` hex.
    pub signature: String,
}

impl PartialExits {
    /// Sorts and signs them.
    pub fn sign(
        mut exits: Vec<ExitBlob>,
        share_index: u8,
        identity: &IdentityKey,
    ) -> Result<Self, ExitError> {
        exits.sort_by_key(|exit| exit.signed_exit_message.message.validator_index);
        let share_idx = u64::from(share_index);
        let signature = hex_to(&identity.sign(&request_root(&exits, share_idx)?));
        Ok(Self { partial_exits: exits, share_idx, signature })
    }

    /// Reads a file. Nothing in it is believed before [`Self::verify`].
    pub fn from_json(bytes: &[u8]) -> Result<Self, ExitError> {
        if bytes.len() > MAX_EXITS_BYTES {
            return Err(ExitError::TooLarge(bytes.len()));
        }
        serde_json::from_slice(bytes).map_err(|error| ExitError::Json(error.to_string()))
    }

    /// The file.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("plain structs with text keys always serialize")
    }

    /// Checks that they are by the operator they claim, and that each share has signed what it says.
    pub fn verify(&self, view: &ClusterView, domain: Domain) -> Result<VerifiedPartialExits, ExitError> {
        let position = usize::try_from(self.share_idx).ok().and_then(|index| index.checked_sub(1));
        let operator = position.and_then(|position| view.operators.get(position));
        let (Some(position), Some(operator)) = (position, operator) else {
            return Err(ExitError::UnknownShare(self.share_idx));
        };
        let signature = hex_from("signature", &self.signature).map_err(|_| ExitError::NotHex)?;
        let root = request_root(&self.partial_exits, self.share_idx)?;
        operator
            .public_key
            .verify(&root, &signature)
            .map_err(|source| ExitError::NotByOperator { operator: self.share_idx, source })?;
        for exit in &self.partial_exits {
            let share = validator_of(view, &exit.public_key)?.public_shares.get(position);
            let wrong = || ExitError::WrongPartial { operator: self.share_idx, validator: exit.public_key };
            if !is_signed_by(share.ok_or_else(wrong)?, &exit.signed_exit_message, domain) {
                return Err(wrong());
            }
        }
        Ok(VerifiedPartialExits { share_index: self.share_idx, exits: self.partial_exits.clone() })
    }
}

/// Partial exits that [`PartialExits::verify`] has checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedPartialExits {
    share_index: u64,
    exits: Vec<ExitBlob>,
}

impl VerifiedPartialExits {
    /// Whose: share index, from 1.
    pub fn share_index(&self) -> u64 {
        self.share_index
    }

    /// The exits.
    pub fn exits(&self) -> &[ExitBlob] {
        &self.exits
    }
}

/// What a member's identity signs over its partial exits.
pub fn request_root(sorted: &[ExitBlob], share_index: u64) -> Result<[u8; 32], ExitError> {
    let roots: Vec<[u8; 32]> = sorted.iter().map(ExitBlob::root).collect();
    let mut container = Container::new();
    container
        .list("partial_exits", &roots, MAX_VALIDATORS)
        .map_err(|_| ExitError::TooMany(sorted.len()))?
        .u64(share_index);
    Ok(container.root())
}

/// What a member's identity signs to fetch or delete an exit.
pub fn authorization_root(lock_hash: &[u8; 32], validator: &PublicKeyBytes, share_index: u64) -> [u8; 32] {
    let mut container = Container::new();
    container.bytes(lock_hash).bytes(&validator.0).u64(share_index);
    container.root()
}

/// The value of the `Authorization` header for that.
pub fn bearer(
    identity: &IdentityKey,
    lock_hash: &[u8; 32],
    validator: &PublicKeyBytes,
    share_index: u64,
) -> String {
    format!("Bearer {}", hex_to(&identity.sign(&authorization_root(lock_hash, validator, share_index))))
}

/// Where Obol's own service is.
pub const OBOL_API: &str = "https://api.obol.tech/v1";

/// The whole address of a call: its path takes the place of the one that the service's address has (obol.md 12.5).
pub fn api_url(service: &str, path: &str) -> String {
    let host_at = service.find("://").map_or(0, |at| at + "://".len());
    let (scheme, rest) = service.split_at(host_at);
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    format!("{scheme}{host}{path}")
}

/// Where the Obol API keeps an exit: appended to the scheme and host of its address, whose own path is replaced.
pub fn full_exit_path(lock_hash: &[u8; 32], validator: &PublicKeyBytes, share_index: u64) -> String {
    format!("/exp/exit/{}/{share_index}/{validator}", hex_to(lock_hash))
}

/// Where the Obol API takes partial exits.
pub fn partial_exits_path(lock_hash: &[u8; 32]) -> String {
    format!("/exp/partial_exits/{}", hex_to(lock_hash))
}

/// Where the Obol API lets a member take its partial exit back.
pub fn own_partial_exit_path(lock_hash: &[u8; 32], validator: &PublicKeyBytes, share_index: u64) -> String {
    format!("{}/{share_index}/{validator}", partial_exits_path(lock_hash))
}

/// The Obol API's answer to the fetching of an exit.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct FullExitAnswer {
    /// Epoch in the message.
    #[serde(with = "chain::decimal")]
    pub epoch: u64,
    /// The validator's index.
    pub validator_index: ValidatorIndex,
    /// Partial signatures by share index, empty for those that are missing.
    #[serde(deserialize_with = "bounded::<_, _, 256>")]
    pub signatures: Vec<String>,
}

impl FullExitAnswer {
    /// The whole exit.
    pub fn combine(
        &self,
        view: &ClusterView,
        validator: &PublicKeyBytes,
        domain: Domain,
    ) -> Result<SignedVoluntaryExit, ExitError> {
        let partials = self.partials(view, validator, domain)?.right;
        whole(view, validator, self.message(), &partials, domain)
    }

    /// What the members have signed.
    pub fn message(&self) -> VoluntaryExit {
        VoluntaryExit { epoch: Epoch(self.epoch), validator_index: self.validator_index }
    }

    /// The partial signatures with their share indices. Positions are not believed: each signature is the share's that it
    /// verifies for. One that is nobody's is named by its place, and the others count all the same.
    pub fn partials(
        &self,
        view: &ClusterView,
        validator: &PublicKeyBytes,
        domain: Domain,
    ) -> Result<AnsweredPartials, ExitError> {
        let message = self.message();
        let shares = &validator_of(view, validator)?.public_shares;
        let is_by = |signature: &SignatureBytes, share: &PublicKeyBytes| {
            is_signed_by(share, &SignedVoluntaryExit { message, signature: *signature }, domain)
        };
        let mut found: BTreeMap<u64, SignatureBytes> = BTreeMap::new();
        let mut wrong: BTreeSet<u64> = BTreeSet::new();
        let mut elsewhere: Vec<(u64, SignatureBytes)> = Vec::new();
        // Each signature once, and each share once: whoever makes such a file must not choose how long it takes.
        let mut seen: BTreeSet<[u8; 96]> = BTreeSet::new();
        for (position, text) in (1_u64..).zip(&self.signatures).filter(|(_, text)| !text.is_empty()) {
            let Ok(signature) = text.parse::<SignatureBytes>() else {
                wrong.insert(position);
                continue;
            };
            if !seen.insert(signature.0) {
                continue;
            }
            if seen.len() > shares.len() {
                return Err(ExitError::TooManyPartials { members: shares.len(), validator: *validator });
            }
            // Where it stands is the likeliest.
            let own = usize::try_from(position - 1).ok().and_then(|position| shares.get(position));
            if own.is_some_and(|share| is_by(&signature, share)) {
                found.insert(position, signature);
            } else {
                elsewhere.push((position, signature));
            }
        }
        let mut checks = MAX_CHECKS;
        for (position, signature) in elsewhere {
            let others = (1_u64..).zip(shares).filter(|(index, _)| *index != position);
            let mut left = others.filter(|(index, _)| !found.contains_key(index));
            let owner = left.find(|(_, share)| {
                checks = checks.saturating_sub(1);
                checks > 0 && is_by(&signature, share)
            });
            match owner.map(|(index, _)| index) {
                Some(index) => drop(found.insert(index, signature)),
                None => drop(wrong.insert(position)),
            }
        }
        Ok(AnsweredPartials { right: found.into_iter().collect(), wrong: wrong.into_iter().collect() })
    }
}

/// What is in a [`FullExitAnswer`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AnsweredPartials {
    /// Verified, by share index from 1.
    pub right: Vec<(u64, SignatureBytes)>,
    /// Places from 1 at which something stands that no share of this cluster has signed.
    pub wrong: Vec<u64>,
}

/// Makes one validator's exit whole from what members handed in.
pub fn combine(
    view: &ClusterView,
    validator: &PublicKeyBytes,
    members: &[VerifiedPartialExits],
    domain: Domain,
) -> Result<SignedVoluntaryExit, ExitError> {
    let mut message: Option<VoluntaryExit> = None;
    let mut partials: Vec<(u64, SignatureBytes)> = Vec::new();
    for member in members {
        let of_validator = member.exits.iter().filter(|exit| exit.public_key == *validator);
        for exit in of_validator {
            let signed = exit.signed_exit_message;
            if *message.get_or_insert(signed.message) != signed.message {
                return Err(ExitError::Differ(*validator));
            }
            if partials.iter().all(|(known, _)| *known != member.share_index) {
                partials.push((member.share_index, signed.signature));
            }
        }
    }
    whole(view, validator, message.unwrap_or_default(), &partials, domain)
}

fn whole(
    view: &ClusterView,
    validator: &PublicKeyBytes,
    message: VoluntaryExit,
    partials: &[(u64, SignatureBytes)],
    domain: Domain,
) -> Result<SignedVoluntaryExit, ExitError> {
    let need = usize::from(view.threshold);
    if partials.len() < need {
        return Err(ExitError::TooFew { validator: *validator, have: partials.len(), need });
    }
    let indexed: Option<Vec<(ShareIndex, SignatureBytes)>> = partials
        .iter()
        .take(need)
        .map(|(index, signature)| Some((ShareIndex::new(*index).ok()?, *signature)))
        .collect();
    let combined: Option<Result<SignatureBytes, CombineError>> =
        indexed.map(|partials| threshold::combine(&partials));
    let Some(Ok(signature)) = combined else { return Err(ExitError::Combination(*validator)) };
    let exit = SignedVoluntaryExit { message, signature };
    if is_signed_by(validator, &exit, domain) { Ok(exit) } else { Err(ExitError::Combination(*validator)) }
}

/// Name of the file with a whole exit.
pub fn file_name(validator: &PublicKeyBytes) -> String {
    format!("exit-{validator}.json")
}

/// Content of the file with a whole exit.
pub fn file_content(exit: &SignedVoluntaryExit) -> Vec<u8> {
    serde_json::to_vec(exit).expect("plain structs with text keys always serialize")
}

/// Reads the file with a whole exit and checks the validator's signature. The key is not in the file but in its name.
pub fn parse_file(
    bytes: &[u8],
    validator: &PublicKeyBytes,
    domain: Domain,
) -> Result<SignedVoluntaryExit, ExitError> {
    if bytes.len() > 4096 {
        return Err(ExitError::TooLarge(bytes.len()));
    }
    let exit: SignedVoluntaryExit =
        serde_json::from_slice(bytes).map_err(|error| ExitError::Json(error.to_string()))?;
    if is_signed_by(validator, &exit, domain) { Ok(exit) } else { Err(ExitError::NotByValidator(*validator)) }
}

fn validator_of<'a>(
    view: &'a ClusterView,
    key: &PublicKeyBytes,
) -> Result<&'a crate::view::ValidatorView, ExitError> {
    let found = view.validators.iter().find(|validator| validator.group_public_key == *key);
    found.ok_or(ExitError::UnknownValidator(*key))
}

fn is_signed_by(key: &PublicKeyBytes, exit: &SignedVoluntaryExit, domain: Domain) -> bool {
    bls::verify(key, &chain::signing_root(&exit.message, domain).0, &exit.signature)
}
