//! The messages of FROST key generation as they arrive (obol spec 11.5): bounded and matched to their sender before
//! anything is computed with them.

use std::collections::BTreeMap;

use chain::PublicKeyBytes;
use prost::Message as _;
use threshold::frost::{FrostError, Proof};
use zeroize::Zeroizing;

use super::bcast::Kind;
use super::plan::Plan;
use super::wire::{
    FrostMsgKey, FrostRound1Cast, FrostRound1Casts, FrostRound1P2P, FrostRound1ShamirShare, FrostRound2Cast,
    FrostRound2Casts, MsgNodeSig,
};
use crate::scan;
use crate::wire::{Complete as _, Named as _};

/// Identifier of the first round's broadcast.
pub const ROUND_1: &str = "/charon/dkg/frost/2.0.0/round1/cast";
/// Identifier of the second round's broadcast.
pub const ROUND_2: &str = "/charon/dkg/frost/2.0.0/round2/cast";
/// Identifier of the operators' signatures.
pub const NODE_SIGNATURE: &str = "/charon/dkg/node_sig";
/// In place of that signature: the sender leaves the cluster and signs nothing (obol spec 11.7).
pub const NO_SIGNATURE: [u8; 4] = [0xde, 0xad, 0xbe, 0xef];

/// Everything but the commitments of a cast, with room for the longest numbers.
const CAST_OVERHEAD: usize = 128;
/// A commitment with its tag and length.
const COMMITMENT_BYTES: usize = 50;

/// What may be broadcast in a ceremony, and how long it may be.
pub fn kinds(plan: &Plan) -> Vec<Kind> {
    let per_validator = plan.threshold() * COMMITMENT_BYTES + CAST_OVERHEAD;
    vec![
        Kind { id: ROUND_1, type_name: FrostRound1Casts::NAME, max_bytes: plan.validators() * per_validator },
        Kind {
            id: ROUND_2,
            type_name: FrostRound2Casts::NAME,
            max_bytes: plan.validators() * 2 * CAST_OVERHEAD,
        },
        Kind { id: NODE_SIGNATURE, type_name: MsgNodeSig::NAME, max_bytes: 128 },
    ]
}

/// Why a message of key generation is refused. The sender is known to the caller.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrostRefusal {
    /// No such message.
    #[error("the bytes are not a message of key generation")]
    Malformed,
    /// A mandatory sub-message is absent.
    #[error("the field {0} is absent")]
    Absent(&'static str),
    /// Not one entry for each validator.
    #[error("{found} entries for {expected} validators")]
    Count {
        /// Validators.
        expected: usize,
        /// Entries found.
        found: usize,
    },
    /// It speaks for another member.
    #[error("it claims to be share index {claimed} and is {}", .sender + 1)]
    NotTheSender {
        /// What it claims, from 1.
        claimed: u32,
        /// Who it is, from 0.
        sender: usize,
    },
    /// Meant for somebody else.
    #[error("it is meant for share index {0}")]
    Target(u32),
    /// No such validator.
    #[error("there is no validator {0}")]
    Validator(u32),
    /// Two entries for one validator.
    #[error("validator {0} is in it twice")]
    Twice(u32),
    /// Not as many commitments as the threshold.
    #[error("{found} commitments for validator {validator}; the threshold is {threshold}")]
    Commitments {
        /// Position of the validator.
        validator: u32,
        /// Shares needed.
        threshold: usize,
        /// Commitments found.
        found: usize,
    },
    /// A point or number of another length.
    #[error("a value for validator {0} has the wrong length")]
    Length(u32),
    /// The mathematics say no.
    #[error("validator {validator}: {source}")]
    Dealt {
        /// Position of the validator.
        validator: usize,
        /// What is wrong.
        #[source]
        source: FrostError,
    },
    /// One nonce in two proofs gives a secret away.
    #[error("the proofs for validators {first} and {second} use one nonce, which gives its secrets away")]
    NonceReused {
        /// Position of one validator.
        first: usize,
        /// Position of another.
        second: usize,
    },
    /// The result it names is not what everybody's commitments make.
    #[error("validator {validator}: the keys it arrived at are not those that the commitments make")]
    OtherResult {
        /// Position of the validator.
        validator: usize,
    },
    /// What was broadcast in our name is not what we made.
    #[error("what was broadcast in our name is not what this signer made")]
    NotOurs,
    /// Something of this member is missing.
    #[error("its message is missing")]
    Missing,
}

/// What a member published for one validator: well-formed, not yet verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cast {
    /// The commitments, as many as the threshold.
    pub commitments: Vec<PublicKeyBytes>,
    /// The proof.
    pub proof: Proof,
}

/// Reads a first broadcast: one entry per validator, by validator.
pub fn read_round_1(plan: &Plan, sender: usize, bytes: &[u8]) -> Result<Vec<Cast>, FrostRefusal> {
    count_entries(plan, bytes, |cast| {
        let found = scan::count(cast, 4).map_err(|_| FrostRefusal::Malformed)?;
        // The position is not known before decoding; the count alone bounds what decoding may allocate.
        let threshold = plan.threshold();
        if found == threshold {
            return Ok(());
        }
        let validator =
            FrostRound1Cast::decode(cast).ok().and_then(|cast| cast.key).map_or(0, |key| key.val_idx);
        Err(FrostRefusal::Commitments { validator, threshold, found })
    })?;
    let message = FrostRound1Casts::decode(bytes).map_err(|_| FrostRefusal::Malformed)?;
    message.complete().map_err(FrostRefusal::Absent)?;
    by_validator(
        plan,
        message.casts.into_iter().map(|cast| {
            let key = check_key(cast.key, sender, 0)?;
            let wrong = || FrostRefusal::Length(key.val_idx);
            let points = cast.commitments.iter().map(|point| point.as_slice().try_into().map(PublicKeyBytes));
            let commitments = points.collect::<Result<_, _>>().map_err(|_| wrong())?;
            let proof = Proof {
                challenge: cast.ci.as_slice().try_into().map_err(|_| wrong())?,
                response: cast.wi.as_slice().try_into().map_err(|_| wrong())?,
            };
            Ok((key.val_idx, Cast { commitments, proof }))
        }),
    )
}

/// Encodes our first broadcast.
pub fn write_round_1(own: usize, casts: &[Cast]) -> FrostRound1Casts {
    let cast = |(val_idx, cast): (u32, &Cast)| FrostRound1Cast {
        key: key(val_idx, own, 0),
        wi: cast.proof.response.to_vec(),
        ci: cast.proof.challenge.to_vec(),
        commitments: cast.commitments.iter().map(|point| point.0.to_vec()).collect(),
    };
    FrostRound1Casts { casts: (0..).zip(casts).map(cast).collect() }
}

/// Reads the shares a member sent to us, in the clear: one value per validator, by validator.
pub fn read_shares(
    plan: &Plan,
    sender: usize,
    bytes: &[u8],
) -> Result<Vec<Zeroizing<[u8; 32]>>, FrostRefusal> {
    count_entries(plan, bytes, |_| Ok(()))?;
    let message = FrostRound1P2P::decode(bytes).map_err(|_| FrostRefusal::Malformed)?;
    message.complete().map_err(FrostRefusal::Absent)?;
    let own = share_index(plan.own());
    by_validator(
        plan,
        message.shares.into_iter().map(|share| {
            let value = Zeroizing::new(share.value);
            let key = check_key(share.key, sender, own)?;
            if share.id != own {
                return Err(FrostRefusal::Target(share.id));
            }
            let value = value.as_slice().try_into().map_err(|_| FrostRefusal::Length(key.val_idx))?;
            Ok((key.val_idx, Zeroizing::new(value)))
        }),
    )
}

/// Encodes shares for a member, one per validator.
pub fn write_shares(own: usize, to: usize, values: &[Zeroizing<[u8; 32]>]) -> Zeroizing<Vec<u8>> {
    let id = share_index(to);
    let share = |(val_idx, value): (u32, &Zeroizing<[u8; 32]>)| FrostRound1ShamirShare {
        key: key(val_idx, own, id),
        id,
        value: value.to_vec(),
    };
    let mut message =
        FrostRound1P2P { shares: (0..).zip(values).map(share).collect(), ..FrostRound1P2P::default() };
    let bytes = Zeroizing::new(message.encode_to_vec());
    for share in &mut message.shares {
        zeroize::Zeroize::zeroize(&mut share.value);
    }
    bytes
}

/// What a member arrived at for one validator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrived {
    /// The validator's key.
    pub group_key: PublicKeyBytes,
    /// The member's public share.
    pub public_share: PublicKeyBytes,
}

/// Reads a second broadcast: one entry per validator, by validator.
pub fn read_round_2(plan: &Plan, sender: usize, bytes: &[u8]) -> Result<Vec<Arrived>, FrostRefusal> {
    count_entries(plan, bytes, |_| Ok(()))?;
    let message = FrostRound2Casts::decode(bytes).map_err(|_| FrostRefusal::Malformed)?;
    message.complete().map_err(FrostRefusal::Absent)?;
    by_validator(
        plan,
        message.casts.into_iter().map(|cast| {
            let key = check_key(cast.key, sender, 0)?;
            let point = |bytes: &[u8]| {
                bytes.try_into().map(PublicKeyBytes).map_err(|_| FrostRefusal::Length(key.val_idx))
            };
            let arrived =
                Arrived { group_key: point(&cast.verification_key)?, public_share: point(&cast.vk_share)? };
            Ok((key.val_idx, arrived))
        }),
    )
}

/// Encodes our second broadcast.
pub fn write_round_2(own: usize, arrived: &[Arrived]) -> FrostRound2Casts {
    let cast = |(val_idx, arrived): (u32, &Arrived)| FrostRound2Cast {
        key: key(val_idx, own, 0),
        verification_key: arrived.group_key.0.to_vec(),
        vk_share: arrived.public_share.0.to_vec(),
    };
    FrostRound2Casts { casts: (0..).zip(arrived).map(cast).collect() }
}

/// Reads an operator's signature over the lock hash, or [`NO_SIGNATURE`].
pub fn read_node_signature(sender: usize, bytes: &[u8]) -> Result<Vec<u8>, FrostRefusal> {
    let message = MsgNodeSig::decode(bytes).map_err(|_| FrostRefusal::Malformed)?;
    if usize::try_from(message.peer_index) != Ok(sender) {
        let claimed = message.peer_index.saturating_add(1);
        return Err(FrostRefusal::NotTheSender { claimed, sender });
    }
    Ok(message.signature)
}

fn share_index(member: usize) -> u32 {
    u32::try_from(member + 1).unwrap_or(u32::MAX)
}

fn key(val_idx: u32, own: usize, target_id: u32) -> Option<FrostMsgKey> {
    Some(FrostMsgKey { val_idx, source_id: share_index(own), target_id })
}

fn check_key(key: Option<FrostMsgKey>, sender: usize, target: u32) -> Result<FrostMsgKey, FrostRefusal> {
    let key = key.ok_or(FrostRefusal::Absent("key"))?;
    if key.source_id != share_index(sender) {
        return Err(FrostRefusal::NotTheSender { claimed: key.source_id, sender });
    }
    if key.target_id != target {
        return Err(FrostRefusal::Target(key.target_id));
    }
    Ok(key)
}

/// Counts before decoding, so that a message cannot make us allocate more than it is worth.
fn count_entries(
    plan: &Plan,
    bytes: &[u8],
    check: impl Fn(&[u8]) -> Result<(), FrostRefusal>,
) -> Result<(), FrostRefusal> {
    let expected = plan.validators();
    let found = scan::count(bytes, 1).map_err(|_| FrostRefusal::Malformed)?;
    if found != expected {
        return Err(FrostRefusal::Count { expected, found });
    }
    let mut rest = bytes;
    while let Some(field) = scan::next_field(&mut rest).map_err(|_| FrostRefusal::Malformed)? {
        if let (1, Some(entry)) = (field.tag, field.contents) {
            check(entry)?;
        }
    }
    Ok(())
}

/// Puts entries, in whatever order they came, in the order of the validators: each exactly once.
fn by_validator<T>(
    plan: &Plan,
    entries: impl Iterator<Item = Result<(u32, T), FrostRefusal>>,
) -> Result<Vec<T>, FrostRefusal> {
    let mut found: BTreeMap<u32, T> = BTreeMap::new();
    for entry in entries {
        let (validator, value) = entry?;
        if !usize::try_from(validator).is_ok_and(|validator| validator < plan.validators()) {
            return Err(FrostRefusal::Validator(validator));
        }
        if found.insert(validator, value).is_some() {
            return Err(FrostRefusal::Twice(validator));
        }
    }
    let count = found.len();
    if count != plan.validators() {
        return Err(FrostRefusal::Count { expected: plan.validators(), found: count });
    }
    Ok(found.into_values().collect())
}

/// The encapsulated key and the ciphertext of a share message that another Hearth sealed; none when it is not sealed.
pub fn read_sealed(bytes: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let message = FrostRound1P2P::decode(bytes).ok()?;
    let sealed = message.shares.is_empty() && !message.sealed.is_empty();
    sealed.then_some((message.sealed_enc, message.sealed))
}

/// A share message that only its receiver's signer can open.
pub fn write_sealed(sealed_enc: Vec<u8>, sealed: Vec<u8>) -> Vec<u8> {
    FrostRound1P2P { shares: Vec::new(), sealed_enc, sealed }.encode_to_vec()
}
