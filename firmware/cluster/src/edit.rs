//! Changing who is in a cluster, and how many of them must sign, with the validators' keys unchanged (obol spec 11.9).
//!
//! An [`EditPlan`] follows from the lock that is in force and the owner's wish alone, so every member and every signer works
//! out the same one: who deals, who receives, and what the new lock will say. New shares come from a resharing; only the
//! public ones enter here.

use std::collections::{BTreeMap, BTreeSet};

use chain::PublicKeyBytes;
use sha2::{Digest as _, Sha256};

use crate::definition::{Creator, Operator};
use crate::document::FieldError;
use crate::enr::{Enr, EnrError};
use crate::identity::IdentityPublicKey;
use crate::lock::{Lock, LockError};
use crate::network::Network;
use crate::peer::PeerId;
use crate::view::ClusterView;

/// Fewest members of a cluster.
const MIN_MEMBERS: usize = 3;

/// What the owner wants. Members are named by their ENR text, as the lock has it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Edit {
    /// New shares for the same members, after which the old ones are worth nothing.
    Recreate {
        /// A new threshold. Left out, it stays as it is where that is safe. Only Hearths change it without removing somebody.
        #[serde(default)]
        threshold: Option<u8>,
    },
    /// New members behind the present ones.
    Add {
        /// Who joins.
        operators: Vec<String>,
        /// A new threshold. Left out, it stays as it is where that is safe for so many, and rises as far as it must.
        #[serde(default)]
        threshold: Option<u8>,
    },
    /// Members leave.
    Remove {
        /// Who leaves.
        operators: Vec<String>,
        /// Who of them still deals.
        #[serde(default)]
        dealing: Vec<String>,
        /// A new threshold; two thirds when left out.
        #[serde(default)]
        threshold: Option<u8>,
    },
    /// A new member takes a present one's place.
    Replace {
        /// Who leaves. It takes no part.
        old: String,
        /// Who comes.
        new: String,
    },
}

/// Why an edit cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EditError {
    /// The lock in force does not verify.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// A new member's record is not one.
    #[error("the operator record {record} cannot be used: {source}")]
    Enr {
        /// Its beginning.
        record: String,
        /// What is wrong.
        source: EnrError,
    },
    /// It is no member.
    #[error("{0} is no operator of this cluster; take the record from the cluster lock")]
    NotAMember(String),
    /// It is a member already.
    #[error("{0} is an operator of this cluster already")]
    AlreadyAMember(String),
    /// Nothing would change.
    #[error("no operator was named")]
    Nobody,
    /// Too few or too many would be left.
    #[error("the cluster would have {0} members; it needs {MIN_MEMBERS} to 255")]
    Size(usize),
    /// Too many leave at once.
    #[error(
        "only {staying} of the present members would stay and {threshold} must; let fewer leave at once and change the cluster in two steps"
    )]
    TooFewStay {
        /// Who stays.
        staying: usize,
        /// The present threshold.
        threshold: u8,
    },
    /// Those that leave and those that lie could sign with old shares.
    #[error(
        "{leaving} of the present members would leave, who with those that may lie could sign with {threshold} old shares; let fewer leave at once"
    )]
    TooManyLeave {
        /// Who leaves.
        leaving: usize,
        /// The present threshold.
        threshold: u8,
    },
    /// Those that join and those that lie could sign with shares of an edit that was given up.
    #[error(
        "{joining} members would join, who with those that may lie could sign alone with a threshold of {threshold}; let fewer join at once and change the cluster in two steps"
    )]
    TooManyJoin {
        /// Who joins.
        joining: usize,
        /// The new threshold.
        threshold: u8,
    },
    /// Impossible, or not safe.
    #[error(
        "a threshold of {threshold} of {members} cannot work or lets two groups sign different messages; it must be {least} to {members}"
    )]
    Threshold {
        /// Asked for.
        threshold: u8,
        /// Members.
        members: usize,
        /// The least that is safe.
        least: usize,
    },
    /// The new shares are not one for each new member and validator.
    #[error("the new public shares do not fit the new members")]
    Shares,
    /// A member of the lock is too long.
    #[error("cluster lock: {0}")]
    Field(#[from] FieldError),
}

/// One who takes part in an edit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EditMember {
    /// ENR text.
    pub enr: String,
    /// Identity key.
    pub public_key: IdentityPublicKey,
    /// Position in the lock in force; none for one that joins.
    pub old: Option<u32>,
    /// Position in the new lock; none for one that leaves.
    pub new: Option<u32>,
}

impl EditMember {
    /// The number that it has in the ceremony's nonces and in the dry run: its position in the lock in force, and for one that
    /// joins in the new one. Members that are removed without taking part leave gaps, as with the reference.
    pub fn index(&self) -> u32 {
        self.old.or(self.new).unwrap_or(u32::MAX)
    }
}

/// An edit of a verified lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EditPlan {
    base: Lock,
    view: ClusterView,
    members: Vec<EditMember>,
    /// The new operators, in order.
    operators: Vec<String>,
    threshold: u8,
}

impl EditPlan {
    /// Works out what an edit of this lock means. `custom` adds networks to the public ones.
    pub fn new(base: Lock, edit: &Edit, custom: &[Network]) -> Result<Self, EditError> {
        let view = base.verify(custom)?;
        let present: Vec<&str> = view.operators.iter().map(|operator| operator.enr.as_str()).collect();
        let place_of = |enr: &str| {
            present.iter().position(|known| *known == enr).ok_or_else(|| EditError::NotAMember(short(enr)))
        };
        // For each new position, the old one, or the record of who joins.
        let mut next: Vec<Result<usize, &str>> = (0..present.len()).map(Ok).collect();
        let mut absent: BTreeSet<usize> = BTreeSet::new();
        let mut wanted = None;
        let mut usual = Some(view.threshold);
        match edit {
            Edit::Recreate { threshold } => wanted = *threshold,
            Edit::Add { operators, threshold } => {
                if operators.is_empty() {
                    return Err(EditError::Nobody);
                }
                next.extend(operators.iter().map(|enr| Err(enr.as_str())));
                wanted = *threshold;
            }
            Edit::Remove { operators, dealing, threshold } => {
                if operators.is_empty() {
                    return Err(EditError::Nobody);
                }
                absent = operators.iter().map(|enr| place_of(enr)).collect::<Result<_, _>>()?;
                next.retain(|place| !place.is_ok_and(|place| absent.contains(&place)));
                for enr in dealing {
                    if !absent.remove(&place_of(enr)?) {
                        return Err(EditError::NotAMember(short(enr)));
                    }
                }
                wanted = *threshold;
                usual = None;
            }
            Edit::Replace { old, new } => {
                let place = place_of(old)?;
                next[place] = Err(new);
                absent.insert(place);
            }
        }
        let size = next.len();
        if !(MIN_MEMBERS..=usize::from(u8::MAX)).contains(&size) {
            return Err(EditError::Size(size));
        }
        let threshold = safe_threshold(wanted, usual, size)?;
        let mut members = Vec::new();
        for (place, operator) in (0..).zip(&view.operators) {
            let new = next.iter().position(|from| *from == Ok(operator.index));
            if absent.contains(&operator.index) {
                continue;
            }
            members.push(EditMember {
                enr: operator.enr.clone(),
                public_key: operator.public_key,
                old: Some(place),
                new: new.and_then(|new| u32::try_from(new).ok()),
            });
        }
        // Nothing proves that a member that leaves has stopped to use its old share, so those that leave and those that lie
        // must together be too few to sign with old shares (decision 0180).
        let staying = members.iter().filter(|member| member.new.is_some()).count();
        if staying < usize::from(view.threshold) {
            return Err(EditError::TooFewStay { staying, threshold: view.threshold });
        }
        let leaving = present.len() - staying;
        if leaving + most_lying(present.len()) >= usize::from(view.threshold) {
            return Err(EditError::TooManyLeave { leaving, threshold: view.threshold });
        }
        // Nor does anything prove that one that joins forgets its new share when another edit takes this one's place.
        let joining = next.iter().filter(|from| from.is_err()).count();
        if joining + most_lying(size) >= usize::from(threshold) {
            return Err(EditError::TooManyJoin { joining, threshold });
        }
        let mut identities: BTreeSet<_> = view.operators.iter().map(|operator| operator.public_key).collect();
        for (new, enr) in (0..).zip(&next) {
            let Err(enr) = enr else { continue };
            let record = Enr::parse(enr).map_err(|source| EditError::Enr { record: short(enr), source })?;
            if !identities.insert(record.public_key()) {
                return Err(EditError::AlreadyAMember(short(enr)));
            }
            let public_key = record.public_key();
            members.push(EditMember { enr: (*enr).to_owned(), public_key, old: None, new: Some(new) });
        }
        let operators = next.iter().map(|from| match from {
            Ok(place) => present[*place].to_owned(),
            Err(enr) => (*enr).to_owned(),
        });
        let operators = operators.collect();
        // The reference's order: as in the lock in force, with who joins behind, and at its place who replaces another.
        members.sort_by_key(EditMember::index);
        Ok(Self { base, view, members, operators, threshold })
    }

    /// The lock in force.
    pub fn base(&self) -> &ClusterView {
        &self.view
    }

    /// Everybody that takes part: in the order of the lock in force, those that leave too, with who joins behind and a new member
    /// at the place of the one that it replaces.
    pub fn members(&self) -> &[EditMember] {
        &self.members
    }

    /// The place of an identity among [`Self::members`].
    pub fn place_of(&self, identity: &IdentityPublicKey) -> Option<usize> {
        self.members.iter().position(|member| member.public_key == *identity)
    }

    /// The new threshold.
    pub fn threshold(&self) -> u8 {
        self.threshold
    }

    /// The present public shares of one validator, by position.
    pub fn old_shares(&self, validator: usize) -> Option<BTreeMap<u32, PublicKeyBytes>> {
        Some((0..).zip(self.view.validators.get(validator)?.public_shares.iter().copied()).collect())
    }

    /// What this edit is: the lock in force, the new operators in their order, the new threshold, and who deals. Members who
    /// mean different edits have different ones.
    pub fn digest(&self) -> [u8; 32] {
        let mut hasher = Sha256::new();
        hasher.update(b"hearth edit v1");
        hasher.update(self.base.lock_hash);
        hasher.update([self.threshold]);
        for member in &self.members {
            for place in [member.old, member.new] {
                hasher.update(place.map_or(u64::MAX, u64::from).to_be_bytes());
            }
            hasher.update(member.public_key.as_bytes());
        }
        for enr in &self.operators {
            hasher.update(u64::try_from(enr.len()).unwrap_or(u64::MAX).to_be_bytes());
            hasher.update(enr.as_bytes());
        }
        hasher.finalize().into()
    }

    /// A member's readable name.
    pub fn name_of(&self, place: usize) -> String {
        self.members.get(place).map_or_else(
            || "nobody".to_owned(),
            |member| {
                let name = PeerId::from_public_key(&member.public_key).name();
                match member.new {
                    Some(new) => format!("member {} ({name})", new + 1),
                    None => format!("the leaving member {name}"),
                }
            },
        )
    }

    /// The new lock, not signed yet. `shares` are the new public shares: for each validator, by new position.
    pub fn lock(&self, shares: &[Vec<PublicKeyBytes>]) -> Result<Lock, EditError> {
        if shares.len() != self.base.validators.len()
            || shares.iter().any(|shares| shares.len() != self.operators.len())
        {
            return Err(EditError::Shares);
        }
        let mut lock = self.base.clone();
        lock.definition.creator = Creator::default();
        lock.definition.operators = self
            .operators
            .iter()
            .map(|enr| Operator {
                address: String::new(),
                enr: enr.clone(),
                config_signature: Some(Vec::new()),
                enr_signature: Some(Vec::new()),
            })
            .collect();
        lock.definition.threshold = u64::from(self.threshold);
        lock.definition.set_hashes()?;
        for (validator, shares) in lock.validators.iter_mut().zip(shares) {
            validator.public_shares.clone_from(shares);
        }
        lock.signature_aggregate = Vec::new();
        lock.node_signatures = Vec::new();
        lock.lock_hash = lock.compute_lock_hash()?;
        Ok(lock)
    }
}

/// How many of so many members may lie.
fn most_lying(members: usize) -> usize {
    members.saturating_sub(1) / 3
}

/// The one asked for; else the present one or two thirds, raised to what is safe. Never one that lets two groups sign
/// different messages.
fn safe_threshold(wanted: Option<u8>, present: Option<u8>, members: usize) -> Result<u8, EditError> {
    let least = (members + most_lying(members)) / 2 + 1;
    let byte = |number: usize| u8::try_from(number).map_err(|_| EditError::Size(members));
    let (lowest, two_thirds) = (byte(least)?, byte((members * 2).div_ceil(3))?);
    let threshold = wanted.unwrap_or_else(|| present.unwrap_or(two_thirds).max(lowest));
    if (least..=members).contains(&usize::from(threshold)) {
        Ok(threshold)
    } else {
        Err(EditError::Threshold { threshold, members, least })
    }
}

/// Enough of a record to tell it from others.
fn short(enr: &str) -> String {
    enr.chars().take(24).collect()
}
