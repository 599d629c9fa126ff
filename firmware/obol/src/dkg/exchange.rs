//! The exchange of partial signatures that ends a ceremony (obol spec 11.6).
//!
//! Only the form is checked here. Each signature is verified against its share before it is used, which names the liar.

use chain::{PublicKeyBytes, SignatureBytes};
use prost::Message as _;

use super::plan::Plan;
use crate::duty::{Duty, DutyType};
use crate::parsigex;
use crate::scan;
use crate::signed::Signed;
use crate::unsigned::read_set_key;
use crate::wire::{Complete as _, ParSigExMsg};

const LOCK_SLOT: u64 = 101;
const REGISTRATION_SLOT: u64 = 102;
const DEPOSIT_SLOT: u64 = 200;
/// A signature in JSON base64 with room to spare.
const MAX_ENTRY_BYTES: usize = 512;

/// What is signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Exchange {
    /// The deposit of the amount at this position.
    Deposit(u16),
    /// Builder registrations.
    Registration,
    /// The lock hash.
    Lock,
}

impl Exchange {
    /// The number that stands in place of a slot.
    pub fn slot(self) -> u64 {
        match self {
            Self::Lock => LOCK_SLOT,
            Self::Registration => REGISTRATION_SLOT,
            Self::Deposit(position) => DEPOSIT_SLOT + u64::from(position),
        }
    }

    /// What a number stands for, with that many deposit amounts.
    pub fn of_slot(slot: u64, amounts: usize) -> Option<Self> {
        match slot {
            LOCK_SLOT => Some(Self::Lock),
            REGISTRATION_SLOT => Some(Self::Registration),
            _ => {
                let position = u16::try_from(slot.checked_sub(DEPOSIT_SLOT)?).ok()?;
                (usize::from(position) < amounts).then_some(Self::Deposit(position))
            }
        }
    }
}

/// Why a set of partial signatures is refused. The sender is known to the caller.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExchangeRefusal {
    /// No such message.
    #[error("the bytes are not a partial-signature message")]
    Malformed,
    /// A mandatory sub-message is absent.
    #[error("the field {0} is absent")]
    Absent(&'static str),
    /// Nothing that is signed in a ceremony.
    #[error("nothing is signed under the number {0} in this ceremony")]
    Kind(u64),
    /// Not one signature for each validator.
    #[error("{found} signatures for {expected} validators")]
    Count {
        /// Validators.
        expected: usize,
        /// Signatures found.
        found: usize,
    },
    /// A validator's key that is none.
    #[error("a signature is for something that is no validator key")]
    Validator,
    /// The sender holds another share.
    #[error("it claims share index {0}, which is not its own")]
    NotTheSendersShare(i32),
    /// Not a signature.
    #[error("an entry is not a signature of 96 bytes")]
    Entry,
    /// A second, different set.
    #[error("it sent two different sets of signatures")]
    SecondDifferent,
    /// A signature that its share did not make.
    #[error("its signature for validator {validator} is wrong")]
    Signature {
        /// Position of the validator.
        validator: usize,
    },
    /// A validator that is not of this cluster.
    #[error("it made other keys than we did: it signed for a validator that is not of this cluster")]
    UnknownValidator,
}

/// One member's partial signatures by validator key.
pub type Partials = Vec<(PublicKeyBytes, SignatureBytes)>;

/// Reads a member's set.
pub fn read(plan: &Plan, sender: usize, bytes: &[u8]) -> Result<(Exchange, Partials), ExchangeRefusal> {
    let expected = |exchange| match exchange {
        // Every share signs the lock, also those of before.
        Exchange::Lock => plan.present().len() + plan.validators(),
        Exchange::Deposit(_) | Exchange::Registration => plan.validators(),
    };
    read_set(expected, plan.amounts().len(), sender, bytes)
}

/// Reads the set of a member that holds the share after `sender`, with so many validators in each exchange, at most as many as sign
/// the lock, and so many deposit amounts.
pub fn read_set(
    expected: impl Fn(Exchange) -> usize,
    amounts: usize,
    sender: usize,
    bytes: &[u8],
) -> Result<(Exchange, Partials), ExchangeRefusal> {
    let most = expected(Exchange::Lock);
    let mut found = 0;
    let mut rest = bytes;
    while let Some(field) = scan::next_field(&mut rest).map_err(|_| ExchangeRefusal::Malformed)? {
        if let (2, Some(set)) = (field.tag, field.contents) {
            found += scan::count(set, 1).map_err(|_| ExchangeRefusal::Malformed)?;
        }
    }
    if found > most {
        return Err(ExchangeRefusal::Count { expected: most, found });
    }
    let message = ParSigExMsg::decode(bytes).map_err(|_| ExchangeRefusal::Malformed)?;
    message.complete().map_err(ExchangeRefusal::Absent)?;
    let duty = message.duty.ok_or(ExchangeRefusal::Absent("duty"))?;
    let is_signature = Duty::from_wire(duty).is_some_and(|duty| duty.kind == DutyType::Signature);
    let exchange = Exchange::of_slot(duty.slot, amounts).filter(|_| is_signature);
    let exchange = exchange.ok_or(ExchangeRefusal::Kind(duty.slot))?;
    let expected = expected(exchange);
    let set = message.data_set.ok_or(ExchangeRefusal::Absent("data_set"))?.set;
    let found = if found == expected { set.len() } else { found };
    if found != expected {
        return Err(ExchangeRefusal::Count { expected, found });
    }
    let mut partials = Vec::with_capacity(expected);
    for (key, entry) in set {
        let key = read_set_key(&key).ok_or(ExchangeRefusal::Validator)?;
        if usize::try_from(entry.share_idx) != Ok(sender + 1) {
            return Err(ExchangeRefusal::NotTheSendersShare(entry.share_idx));
        }
        if entry.data.len() > MAX_ENTRY_BYTES {
            return Err(ExchangeRefusal::Entry);
        }
        let Ok(Signed::Raw(signature)) = Signed::decode(DutyType::Signature, &entry.data) else {
            return Err(ExchangeRefusal::Entry);
        };
        let signature = signature.as_slice().try_into().map_err(|_| ExchangeRefusal::Entry)?;
        partials.push((key, SignatureBytes(signature)));
    }
    Ok((exchange, partials))
}

/// Encodes our set.
pub fn write(own: usize, exchange: Exchange, partials: &Partials) -> Vec<u8> {
    let duty = Duty { slot: exchange.slot(), kind: DutyType::Signature };
    let share_index = u8::try_from(own + 1).unwrap_or(u8::MAX);
    let signed: Vec<_> =
        partials.iter().map(|(key, signature)| (*key, Signed::Raw(signature.0.to_vec()))).collect();
    parsigex::encode(duty, share_index, signed.iter().map(|(key, signed)| (key, signed)))
}
