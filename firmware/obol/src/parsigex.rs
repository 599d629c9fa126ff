//! Exchange of partial signatures: what we send, and what is checked before anybody uses what others send.
//!
//! The BLS signatures themselves are not verified here: the engine combines first and verifies the result, and looks for
//! the liar only when that fails. For this to name the right member, a member may only send its own share's signatures.
//! That is stricter than the reference, which does not tie the sender to the share; but all known releases send nothing
//! else, because every node sends to every other one directly.

use std::collections::{BTreeMap, BTreeSet};

use chain::{PublicKeyBytes, SignatureBytes};
use prost::Message as _;

use crate::duty::{Duty, DutyType, Expiry, Now};
use crate::scan;
use crate::signed::Signed;
use crate::unsigned::{read_set_key, set_key};
use crate::versioned::DecodeError;
use crate::wire::{Complete as _, ParSigExMsg, ParSignedData, ParSignedDataSet};

/// What the receiver must know.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// Group public keys of the cluster.
    pub validators: &'a BTreeSet<PublicKeyBytes>,
    /// Members of the cluster.
    pub members: u8,
    /// The duties this box does; what is said about others is dropped before its content is looked at.
    pub kinds: &'a [DutyType],
    /// The present.
    pub now: Now,
    /// Share index of the member whose connection this came from.
    pub sender: u8,
}

/// One partial signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partial {
    /// The object with the partial signature in it.
    pub signed: Signed,
    /// The same without its signature, encoded anew: a sender cannot make us keep more than the object itself, and what several
    /// members signed is the same bytes.
    pub data: Vec<u8>,
}

/// A message that passed every check but that of the BLS signatures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// The duty signed for.
    pub duty: Duty,
    /// Share index of the signer, from 1.
    pub share_index: u8,
    /// The partial signatures by group public key.
    pub partials: BTreeMap<PublicKeyBytes, Partial>,
}

/// Why a message is dropped as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No such message.
    #[error("the bytes are not a partial-signature message")]
    Malformed,
    /// A mandatory sub-message is absent.
    #[error("the field {0} is absent")]
    Absent(&'static str),
    /// Not 1..=13.
    #[error("duty type {0} does not exist")]
    UnknownDuty(i32),
    /// Nothing is signed for this duty in run mode.
    #[error("nothing is signed for duties of this type")]
    NothingSigned,
    /// Not one of [`Context::kinds`]: nobody's fault.
    #[error("this box does not do such duties")]
    NotDoneHere,
    /// More than two epochs ahead.
    #[error("the duty lies too far in the future")]
    TooEarly,
    /// Its deadline has passed.
    #[error("the duty's deadline has passed")]
    Expired,
    /// An empty set is invalid.
    #[error("the set is empty")]
    Empty,
    /// More entries than the cluster has validators.
    #[error("more entries than validators")]
    TooManyEntries,
    /// Not a validator of this cluster.
    #[error("the set names an unknown validator")]
    UnknownValidator,
    /// Not 1..=n.
    #[error("share index {0} does not exist")]
    UnknownShare(i32),
    /// The sender holds another share.
    #[error("share index {0} is not the sender's")]
    NotTheSendersShare(u8),
    /// An entry longer than any honest one.
    #[error("an entry of {0} bytes is longer than its kind can be")]
    EntryTooLong(usize),
    /// An entry that does not decode.
    #[error("an entry cannot be read")]
    Entry(#[source] DecodeError),
    /// An all-zero signature.
    #[error("a signature is all zero")]
    ZeroSignature,
}

/// Votes that are read of one message of the past at most: a cluster may have had more validators when it was sent.
const MOST_REMEMBERED: usize = 10_000;

/// Checks a message; any failure refuses all of it.
pub fn receive(bytes: &[u8], context: &Context<'_>) -> Result<Received, Refusal> {
    count_entries(bytes, context.validators.len())?;
    let in_time = |duty| match context.now.expiry(duty) {
        Expiry::Expired => Err(Refusal::Expired),
        Expiry::Scheduled | Expiry::Exempt => Ok(()),
    };
    check(bytes, context, in_time, |_| true)
}

/// The same for what is no longer of use to a duty, as a witness of what was signed: its deadline may have passed, and it may
/// speak of validators that whoever forgot it does not know either; those are left out.
pub fn receive_remembered(bytes: &[u8], context: &Context<'_>) -> Result<Received, Refusal> {
    count_entries(bytes, context.validators.len().max(MOST_REMEMBERED))?;
    let is_known = |key: &str| read_set_key(key).is_some_and(|key| context.validators.contains(&key));
    check(bytes, context, |_| Ok(()), is_known)
}

fn check(
    bytes: &[u8],
    context: &Context<'_>,
    in_time: impl FnOnce(Duty) -> Result<(), Refusal>,
    is_read: impl Fn(&str) -> bool,
) -> Result<Received, Refusal> {
    let message = ParSigExMsg::decode(bytes).map_err(|_| Refusal::Malformed)?;
    message.complete().map_err(Refusal::Absent)?;
    let wire_duty = message.duty.ok_or(Refusal::Absent("duty"))?;
    let set = message.data_set.ok_or(Refusal::Absent("data_set"))?.set;
    let duty = Duty::from_wire(wire_duty).ok_or(Refusal::UnknownDuty(wire_duty.r#type))?;
    if matches!(duty.kind, DutyType::Signature | DutyType::BuilderProposer | DutyType::InfoSync) {
        return Err(Refusal::NothingSigned);
    }
    if !context.kinds.contains(&duty.kind) {
        return Err(Refusal::NotDoneHere);
    }
    if !context.now.admits(duty) {
        return Err(Refusal::TooEarly);
    }
    in_time(duty)?;
    if set.is_empty() {
        return Err(Refusal::Empty);
    }
    let read = |(key, entry)| read_entry(duty.kind, key, entry, context);
    let partials = set.into_iter().filter(|(key, _)| is_read(key)).map(read).collect::<Result<_, _>>()?;
    Ok(Received { duty, share_index: context.sender, partials })
}

/// Counts before decoding, so that a message cannot make us allocate more than it is worth.
fn count_entries(bytes: &[u8], validators: usize) -> Result<(), Refusal> {
    let mut rest = bytes;
    let mut entries = 0;
    while let Some(field) = scan::next_field(&mut rest).map_err(|_| Refusal::Malformed)? {
        if let (2, Some(set)) = (field.tag, field.contents) {
            entries += scan::count(set, 1).map_err(|_| Refusal::Malformed)?;
        }
    }
    if entries > validators { Err(Refusal::TooManyEntries) } else { Ok(()) }
}

fn read_entry(
    kind: DutyType,
    key: String,
    entry: ParSignedData,
    context: &Context<'_>,
) -> Result<(PublicKeyBytes, Partial), Refusal> {
    let validator = read_set_key(&key).filter(|validator| context.validators.contains(validator));
    let validator = validator.ok_or(Refusal::UnknownValidator)?;
    let unknown_share = Refusal::UnknownShare(entry.share_idx);
    let share = u8::try_from(entry.share_idx).map_err(|_| unknown_share)?;
    if share == 0 || share > context.members {
        return Err(unknown_share);
    }
    if share != context.sender {
        return Err(Refusal::NotTheSendersShare(share));
    }
    if entry.data.len() > longest_entry(kind) {
        return Err(Refusal::EntryTooLong(entry.data.len()));
    }
    let signed = Signed::decode(kind, &entry.data).map_err(Refusal::Entry)?;
    if signed.signature() == Some(SignatureBytes::ZERO) {
        return Err(Refusal::ZeroSignature);
    }
    let data = signed.clone().with_signature(SignatureBytes::ZERO).encode();
    Ok((validator, Partial { signed, data }))
}

/// The longest entry of a kind, in its longest form (JSON), with room to spare.
fn longest_entry(kind: DutyType) -> usize {
    match kind {
        DutyType::Proposer => 16 << 20,
        // Bits of a whole slot's committees, as hex.
        DutyType::Aggregator => 64 << 10,
        DutyType::Attester
        | DutyType::Signature
        | DutyType::Exit
        | DutyType::BuilderProposer
        | DutyType::BuilderRegistration
        | DutyType::Randao
        | DutyType::PrepareAggregator
        | DutyType::SyncMessage
        | DutyType::PrepareSyncContribution
        | DutyType::SyncContribution
        | DutyType::InfoSync => 2 << 10,
    }
}

/// Encodes our own partial signatures of one duty.
pub fn encode<'a>(
    duty: Duty,
    share_index: u8,
    partials: impl IntoIterator<Item = (&'a PublicKeyBytes, &'a Signed)>,
) -> Vec<u8> {
    let entry = |(validator, signed): (&PublicKeyBytes, &Signed)| {
        let signature = if let Signed::Raw(bytes) = signed {
            bytes.clone()
        } else {
            signed.signature().map(|signature| signature.0.to_vec()).unwrap_or_default()
        };
        let data = ParSignedData { data: signed.encode(), signature, share_idx: i32::from(share_index) };
        (set_key(validator), data)
    };
    let data_set = ParSignedDataSet { set: partials.into_iter().map(entry).collect() };
    ParSigExMsg { duty: Some(duty.to_wire()), data_set: Some(data_set) }.encode_to_vec()
}
