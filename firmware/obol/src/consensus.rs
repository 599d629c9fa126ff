//! Agreement messages: signing what we say, and checking what others say before `qbft` hears it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use cluster::{IdentityKey, IdentityPublicKey};
use prost::Message as _;
use qbft::{Ballot, Digest, Kind, Member, Vote};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::canonical;
use crate::duty::{Duty, DutyType, Expiry, Now};
use crate::root::{bytes_root, message_root, unsigned_set_encoding};
use crate::scan;
use crate::wire::{
    Any, Complete as _, Named as _, PriorityResult, QbftConsensusMsg, QbftMsg, UnsignedDataSet,
};

/// Longest single vote, in bytes; an honest one has about 160.
const MAX_VOTE_BYTES: usize = 4096;
/// Fields of `QbftMsg`.
pub(crate) const VOTE_FIELDS: [u32; 8] = [1, 2, 3, 4, 6, 8, 11, 12];
/// Longest `PriorityResult`, in bytes; an honest one has one or two thousand per member.
const MAX_PRIORITY_RESULT: usize = 256 << 10;
/// Longest value apart from what belongs to single validators.
const MAX_VALUE_REST: usize = 1 << 10;
/// Longest value of all.
const MAX_VALUE: usize = 16 << 20;

/// The proof of authorship that `qbft` carries along: the signed vote exactly as it was on the wire, so that it can be
/// shown to others as justification.
#[derive(Clone, PartialEq, Eq)]
pub struct Seal(Arc<[u8]>);

impl Seal {
    /// The encoded `QBFTMsg`.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Seal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Seal({} bytes)", self.0.len())
    }
}

impl Serialize for Seal {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex::encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Seal {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        hex::decode(text).map(|bytes| Self(bytes.into())).map_err(serde::de::Error::custom)
    }
}

/// What the receiver must know.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// Identity keys of all operators, in cluster order.
    pub operators: &'a [IdentityPublicKey],
    /// Validators of the cluster: the most entries a value may have.
    pub validators: usize,
    /// The duties this box does; what is said about others is dropped before its content is looked at.
    pub kinds: &'a [DutyType],
    /// The present.
    pub now: Now,
}

/// A message that passed every check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// The duty agreed on.
    pub duty: Duty,
    /// What is said, for `qbft`.
    pub message: qbft::Message<Seal>,
    /// The values it names, by digest: the deterministic encoding of `UnsignedDataSet`, or of `PriorityResult` for
    /// info-sync.
    pub values: BTreeMap<Digest, Arc<[u8]>>,
}

/// Why a message is dropped. Each names whose fault it is by the rule it breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No such message.
    #[error("the bytes are not a consensus message")]
    Malformed,
    /// A mandatory sub-message is absent.
    #[error("the field {0} is absent")]
    Absent(&'static str),
    /// A vote of absurd length.
    #[error("a vote has {0} bytes")]
    VoteTooLong(usize),
    /// Not 1..=5.
    #[error("message type {0} does not exist")]
    UnknownType(i64),
    /// Not 1..=13.
    #[error("duty type {0} does not exist")]
    UnknownDuty(i32),
    /// Round below 1 or prepared round below 0.
    #[error("a round is out of range")]
    BadRound,
    /// Nobody by that index.
    #[error("member {0} does not exist")]
    UnknownMember(i64),
    /// The signature is not that of the claimed author.
    #[error("the signature of member {0} is wrong")]
    WrongSignature(u8),
    /// Not one of [`Context::kinds`]: nobody's fault.
    #[error("this box does not do such duties")]
    NotDoneHere,
    /// More than two epochs ahead.
    #[error("the duty lies too far in the future")]
    TooEarly,
    /// Its deadline has passed.
    #[error("the duty's deadline has passed")]
    Expired,
    /// Such duties are not agreed on.
    #[error("duties of this type are not agreed on")]
    NeverAgreed,
    /// More than two justifications per member.
    #[error("more justifications than two per member")]
    TooManyJustifications,
    /// A justification about something else.
    #[error("a justification belongs to another duty")]
    OtherDuty,
    /// More values than can be named.
    #[error("more values than the message can name")]
    TooManyValues,
    /// A value of a kind that does not belong to the duty.
    #[error("a value is of an unknown type")]
    UnknownValue,
    /// A value that cannot be decoded, or with more entries than the cluster has validators.
    #[error("a value is malformed")]
    BadValue,
    /// A hash whose value did not come along.
    #[error("the value of a hash is missing")]
    MissingValue,
}

/// Checks a consensus message in full. The cheap checks come first and the signatures last, so that what would be refused
/// anyway costs little; about the duties of [`Context::kinds`], the set of messages refused is that of the reference and those
/// of absurd size.
pub fn receive(bytes: &[u8], context: &Context<'_>) -> Result<Received, Refusal> {
    let parts = Parts::split(bytes, context.operators.len())?;
    let main = parse_vote(parts.main, context)?;
    let duty = main.duty;
    if !context.now.admits(duty) {
        return Err(Refusal::TooEarly);
    }
    match context.now.expiry(duty) {
        Expiry::Scheduled => {}
        Expiry::Expired => return Err(Refusal::Expired),
        Expiry::Exempt => return Err(Refusal::NeverAgreed),
    }
    if !context.kinds.contains(&duty.kind) {
        return Err(Refusal::NotDoneHere);
    }
    let justification: Vec<_> =
        parts.justification.iter().map(|raw| parse_vote(raw, context)).collect::<Result<_, _>>()?;
    if justification.iter().any(|vote| vote.duty != duty) {
        return Err(Refusal::OtherDuty);
    }
    let mut values = BTreeMap::new();
    for raw in parts.values {
        let bytes = read_value(raw, duty.kind, context.validators)?;
        values.insert(Digest(bytes_root(&bytes)), Arc::from(bytes));
    }
    for ballot in justification.iter().chain([&main]).map(|vote| &vote.ballot) {
        for digest in [ballot.value, ballot.prepared_value] {
            if !digest.is_zero() && !values.contains_key(&digest) {
                return Err(Refusal::MissingValue);
            }
        }
    }
    main.verify(context)?;
    justification.iter().try_for_each(|vote| vote.verify(context))?;
    Ok(Received {
        duty,
        message: qbft::Message {
            vote: main.into_vote(),
            justification: justification.into_iter().map(Parsed::into_vote).collect(),
        },
        values,
    })
}

/// The three fields of a `QBFTConsensusMsg`, counted but not decoded.
struct Parts<'a> {
    main: &'a [u8],
    justification: Vec<&'a [u8]>,
    values: Vec<&'a [u8]>,
}

impl<'a> Parts<'a> {
    fn split(bytes: &'a [u8], members: usize) -> Result<Self, Refusal> {
        let mut main = None;
        let mut justification = Vec::new();
        let mut values = Vec::new();
        let mut rest = bytes;
        while let Some(field) = scan::next_field(&mut rest).map_err(|_| Refusal::Malformed)? {
            let contents = |field: scan::Field<'a>| field.contents.ok_or(Refusal::Malformed);
            match field.tag {
                1 => main = Some(contents(field)?),
                2 if justification.len() >= 2 * members => return Err(Refusal::TooManyJustifications),
                2 => justification.push(contents(field)?),
                3 if values.len() > 4 * members + 2 => return Err(Refusal::TooManyValues),
                3 => values.push(contents(field)?),
                _ => {}
            }
        }
        if values.len() > 2 * (justification.len() + 1) {
            return Err(Refusal::TooManyValues);
        }
        Ok(Self { main: main.ok_or(Refusal::Absent("msg"))?, justification, values })
    }
}

/// A vote that is well formed; its signature is not checked yet.
struct Parsed<'a> {
    duty: Duty,
    ballot: Ballot,
    author: usize,
    root: [u8; 32],
    signature: Vec<u8>,
    raw: &'a [u8],
}

fn parse_vote<'a>(raw: &'a [u8], context: &Context<'_>) -> Result<Parsed<'a>, Refusal> {
    if raw.len() > MAX_VOTE_BYTES {
        return Err(Refusal::VoteTooLong(raw.len()));
    }
    let mut message = QbftMsg::decode(raw).map_err(|_| Refusal::Malformed)?;
    message.complete().map_err(Refusal::Absent)?;
    let wire_duty = message.duty.unwrap_or_default();
    let kind = Kind::from_number(message.r#type).ok_or(Refusal::UnknownType(message.r#type))?;
    let duty = Duty::from_wire(wire_duty).ok_or(Refusal::UnknownDuty(wire_duty.r#type))?;
    let round = u64::try_from(message.round).ok().filter(|round| *round >= 1).ok_or(Refusal::BadRound)?;
    let prepared_round = u64::try_from(message.prepared_round).map_err(|_| Refusal::BadRound)?;
    let unknown_member = Refusal::UnknownMember(message.peer_idx);
    let author = u8::try_from(message.peer_idx).map_err(|_| unknown_member)?;
    if usize::from(author) >= context.operators.len() {
        return Err(unknown_member);
    }
    let ballot = Ballot {
        kind,
        author: Member(author),
        round,
        value: digest(&message.value_hash),
        prepared_round,
        prepared_value: digest(&message.prepared_value_hash),
    };
    let signature = std::mem::take(&mut message.signature);
    let mut unsigned = message.encode_to_vec();
    unsigned.extend(scan::unknown(raw, &VOTE_FIELDS).map_err(|_| Refusal::Malformed)?);
    Ok(Parsed { duty, ballot, author: usize::from(author), root: bytes_root(&unsigned), signature, raw })
}

impl Parsed<'_> {
    fn verify(&self, context: &Context<'_>) -> Result<(), Refusal> {
        let wrong = Refusal::WrongSignature(self.ballot.author.0);
        let key = context.operators.get(self.author).ok_or(wrong)?;
        key.verify(&self.root, &self.signature).map_err(|_| wrong)
    }

    fn into_vote(self) -> Vote<Seal> {
        Vote { ballot: self.ballot, seal: Some(Seal(self.raw.into())) }
    }
}

/// A length other than 32 means "no value", as all zero does.
fn digest(bytes: &[u8]) -> Digest {
    bytes.try_into().map_or(Digest::ZERO, Digest)
}

/// The deterministic encoding of the message inside a value.
fn read_value(raw: &[u8], kind: DutyType, validators: usize) -> Result<Vec<u8>, Refusal> {
    let any = Any::decode(raw).map_err(|_| Refusal::BadValue)?;
    if kind == DutyType::InfoSync {
        if !PriorityResult::is_in(&any) {
            return Err(Refusal::UnknownValue);
        }
        if any.value.len() > MAX_PRIORITY_RESULT {
            return Err(Refusal::BadValue);
        }
        PriorityResult::decode(any.value.as_slice()).map_err(|_| Refusal::BadValue)?;
        return canonical::priority_result(&any.value).map_err(|_| Refusal::BadValue);
    }
    if !UnsignedDataSet::is_in(&any) {
        return Err(Refusal::UnknownValue);
    }
    if any.value.len() > longest_value(kind, validators) {
        return Err(Refusal::BadValue);
    }
    match scan::count(&any.value, 1) {
        Ok(entries) if entries <= validators => {}
        Ok(_) | Err(scan::Malformed) => return Err(Refusal::BadValue),
    }
    UnsignedDataSet::decode(any.value.as_slice())
        .map(|set| unsigned_set_encoding(&set))
        .map_err(|_| Refusal::BadValue)
}

/// The longest value of a duty, in its longest form (JSON), with room to spare.
fn longest_value(kind: DutyType, validators: usize) -> usize {
    let per_validator = match kind {
        DutyType::Proposer => 16 << 20,
        // Bits of a whole slot's committees, as hex.
        DutyType::Aggregator => 64 << 10,
        DutyType::SyncContribution => 8 << 10,
        DutyType::Attester
        | DutyType::Signature
        | DutyType::Exit
        | DutyType::BuilderProposer
        | DutyType::BuilderRegistration
        | DutyType::Randao
        | DutyType::PrepareAggregator
        | DutyType::SyncMessage
        | DutyType::PrepareSyncContribution
        | DutyType::InfoSync => 1 << 10,
    };
    validators.saturating_mul(per_validator).saturating_add(MAX_VALUE_REST).min(MAX_VALUE)
}

/// A value that a message names is not at hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// Values travel with every message that names them.
    #[error("the value {0} that our own message names is not at hand")]
    MissingValue(Digest),
    /// An unsigned vote that is not ours.
    #[error("the vote of member {0} has no signature")]
    NotOurs(Member),
}

/// Encodes what `qbft` wants said: signs our own votes and brings every value the message names.
pub fn encode(
    duty: Duty,
    message: &qbft::Message<Seal>,
    me: Member,
    key: &IdentityKey,
    value: impl Fn(&Digest) -> Option<Arc<[u8]>>,
) -> Result<Vec<u8>, SendError> {
    let votes = || [&message.vote].into_iter().chain(&message.justification);
    let mut values = BTreeMap::new();
    for ballot in votes().map(|vote| &vote.ballot) {
        for digest in [ballot.value, ballot.prepared_value].into_iter().filter(|digest| !digest.is_zero()) {
            values.insert(digest, value(&digest).ok_or(SendError::MissingValue(digest))?);
        }
    }
    let mut out = Vec::new();
    for (index, vote) in votes().enumerate() {
        let encoded = match &vote.seal {
            Some(seal) => seal.0.to_vec(),
            None if vote.ballot.author == me => sign(duty, &vote.ballot, key).encode_to_vec(),
            None => return Err(SendError::NotOurs(vote.ballot.author)),
        };
        prost::encoding::bytes::encode(if index == 0 { 1 } else { 2 }, &encoded, &mut out);
    }
    let type_url = value_type_url(duty.kind);
    for bytes in values.values() {
        let any = Any { type_url: type_url.clone(), value: bytes.to_vec() };
        prost::encoding::message::encode(3, &any, &mut out);
    }
    Ok(out)
}

/// What the values of a duty are called.
fn value_type_url(kind: DutyType) -> String {
    if kind == DutyType::InfoSync {
        PriorityResult::default().to_any().type_url
    } else {
        UnsignedDataSet::default().to_any().type_url
    }
}

/// Signs one of our own votes.
pub fn sign(duty: Duty, ballot: &Ballot, key: &IdentityKey) -> QbftMsg {
    // Rounds of ours stay below `qbft::MAX_ROUND`, which is what the wire can carry.
    let wire_round = |round: u64| i64::try_from(round).unwrap_or(i64::MAX);
    let mut message = QbftMsg {
        r#type: i64::from(ballot.kind.number()),
        duty: Some(duty.to_wire()),
        peer_idx: i64::from(ballot.author.0),
        round: wire_round(ballot.round),
        prepared_round: wire_round(ballot.prepared_round),
        signature: Vec::new(),
        value_hash: ballot.value.0.to_vec(),
        prepared_value_hash: ballot.prepared_value.0.to_vec(),
    };
    message.signature = key.sign(&message_root(&message)).to_vec();
    message
}

/// The digest that `qbft` agrees on, and the encoding that travels, of a set of unsigned data.
pub fn value_of(set: &UnsignedDataSet) -> (Digest, Arc<[u8]>) {
    let bytes = unsigned_set_encoding(set);
    (Digest(bytes_root(&bytes)), bytes.into())
}

/// The digest and the encoding of a priority result.
pub fn priority_value_of(result: &PriorityResult) -> (Digest, Arc<[u8]>) {
    let bytes = result.encode_to_vec();
    (Digest(bytes_root(&bytes)), bytes.into())
}

/// A whole message in its decoded form, for those who want to look at it.
pub fn decode(bytes: &[u8], members: usize) -> Result<QbftConsensusMsg, Refusal> {
    Parts::split(bytes, members)?;
    QbftConsensusMsg::decode(bytes).map_err(|_| Refusal::Malformed)
}
