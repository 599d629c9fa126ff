//! What an adapter (Obol, SSV, pool) tells the engine about itself.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use chain::{Checkpoint, PublicKeyBytes, Root};
use qbft::Digest;
use serde::{Deserialize, Serialize};

use crate::{Aggregate, Duty, DutyKind};

/// Bytes that the engine carries and never reads.
pub type Payload = Arc<[u8]>;

/// [`Payload`]s are written as hex.
mod payload {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    use super::Payload;

    pub(super) fn serialize<S: Serializer>(bytes: &Payload, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex::encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Payload, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        hex::decode(text.as_ref()).map(Payload::from).map_err(D::Error::custom)
    }
}

/// A value that members may agree on, in the encoding of the network, with its digest. Whoever makes one (the adapter)
/// has computed the digest from the bytes.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Value {
    /// What `qbft` agrees on.
    pub digest: Digest,
    /// The value itself.
    #[serde(with = "payload")]
    pub bytes: Payload,
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Value({:?}, {} bytes)", self.digest, self.bytes.len())
    }
}

/// Names one message of a duty: the validator, and the sync subcommittee where it may sit in several (otherwise 0).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TaskId {
    /// The validator's group public key.
    pub validator: PublicKeyBytes,
    /// The subcommittee.
    pub subcommittee: u64,
}

impl From<PublicKeyBytes> for TaskId {
    fn from(validator: PublicKeyBytes) -> Self {
        TaskId { validator, subcommittee: 0 }
    }
}

/// The two checkpoints that an attestation votes for: what a chain split shows in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vote {
    /// Justified checkpoint.
    pub source: Checkpoint,
    /// Target checkpoint.
    pub target: Checkpoint,
}

/// One message for one validator to sign.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// Whose and which.
    pub id: TaskId,
    /// Hash tree root of the message; partial signatures of equal roots belong together.
    pub message_root: Root,
    /// For attestations: what it votes for.
    pub vote: Option<Vote>,
    /// The whole message for the signer, in the encoding of the adapter.
    pub data: Payload,
}

/// A value was agreed on (or fetched) that makes no sense for its duty.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unreadable(pub String);

/// Group signatures that other duties of the same slot gave.
pub type Given = BTreeMap<(DutyKind, TaskId), Aggregate>;

/// What is known of a duty besides a value, when the value is read.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    /// The validators that have this duty here, with the bytes they were scheduled with.
    pub validators: &'a BTreeMap<PublicKeyBytes, Payload>,
    /// What the duties it needs have given so far. More may come: then the value is read again.
    pub given: &'a Given,
}

/// A network of members, seen from the engine. Pure: every answer depends on the arguments alone.
pub trait Network {
    /// The proof of authorship that agreement messages carry.
    type Seal: Clone + PartialEq + fmt::Debug;

    /// Member `(offset + round) mod n` leads a round of this duty.
    fn leader_offset(&self, duty: Duty) -> u64 {
        duty.slot.0.wrapping_add(u64::from(duty.kind.row().number))
    }

    /// What each validator would sign if this value were agreed on. Must refuse a value that is not for exactly this duty:
    /// slot, validators and their places. For duties without agreement, the value is what this box itself fetched, and
    /// empty where the duty says it all ([`crate::Input::TheDutyItself`]). A message that cannot be made yet, because what
    /// it needs is not [given](Known::given) yet, is left out.
    fn read(&self, duty: Duty, value: &[u8], known: &Known<'_>) -> Result<Vec<Task>, Unreadable>;
}
