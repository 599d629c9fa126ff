//! Who takes part in one run, and what everybody knows beforehand.

use std::collections::{BTreeMap, BTreeSet};

use super::{MAX_MEMBERS, Session};
use crate::keys::{PublicKey, PublicShare, ShareIndex};
use crate::shamir::interpolate_public_key;

/// What all members agree on before the first bundle.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Shares needed of the new sharing.
    pub threshold: usize,
    /// This run's nonce.
    pub session: Session,
    /// Who deals, by index from 0, with its ephemeral key. In a resharing the index is that of the old sharing.
    pub dealers: BTreeMap<u32, PublicKey>,
    /// Who receives a share, by index from 0 in the new sharing, with its ephemeral key.
    pub receivers: BTreeMap<u32, PublicKey>,
    /// The sharing that exists; none in a key generation, where dealers and receivers are the same.
    pub old: Option<OldSharing>,
}

/// The sharing that a resharing starts from, as the cluster lock has it.
#[derive(Clone, Debug)]
pub struct OldSharing {
    /// Shares needed of it.
    pub threshold: usize,
    /// The public shares by index from 0. They must be those of a verified cluster lock: they decide what a dealer may deal.
    pub public_shares: BTreeMap<u32, PublicKey>,
    /// The validator's key, which does not change.
    pub group_key: PublicKey,
}

/// This member's places.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Own {
    /// Its index among the dealers; none for a member that joins.
    pub dealer: Option<u32>,
    /// Its index among the receivers; none for a member that leaves.
    pub receiver: Option<u32>,
}

/// Why a run cannot be begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SetupError {
    /// The counts do not fit.
    #[error("{dealers} dealers, {receivers} receivers and a threshold of {threshold} do not fit together")]
    Size {
        /// Who deals.
        dealers: usize,
        /// Who receives.
        receivers: usize,
        /// The new threshold.
        threshold: usize,
    },
    /// Too few of the old members take part.
    #[error("{dealers} of the old members deal; the old threshold is {threshold}")]
    TooFewDealers {
        /// Who deals.
        dealers: usize,
        /// The old threshold.
        threshold: usize,
    },
    /// Two members with one key, or one member that is not in the list.
    #[error("the members' list does not hold together at index {0}")]
    Member(u32),
    /// The old public shares are not those of the group key.
    #[error("the old public shares do not make the validator's key")]
    OldSharing,
    /// The secret given is not the one that the old sharing says.
    #[error("the share to deal is not the one that belongs to this member")]
    OwnShare,
    /// Something secret came out as zero, which happens once in 2^255 runs.
    #[error("an unlucky draw; start again")]
    Unlucky,
}

impl Setup {
    /// Checks that everything fits together, so that nothing needs to be checked later.
    pub(super) fn check(&self, own: Own) -> Result<(), SetupError> {
        let (dealers, receivers, threshold) = (self.dealers.len(), self.receivers.len(), self.threshold);
        let size = SetupError::Size { dealers, receivers, threshold };
        let fits = (1..=MAX_MEMBERS).contains(&dealers)
            && (1..=MAX_MEMBERS).contains(&receivers)
            && (1..=receivers).contains(&threshold);
        if !fits {
            return Err(size);
        }
        for side in [&self.dealers, &self.receivers] {
            let mut keys = BTreeSet::new();
            for (index, key) in side {
                if usize::try_from(*index).map_or(true, |index| index >= MAX_MEMBERS)
                    || !keys.insert(key.to_bytes())
                {
                    return Err(SetupError::Member(*index));
                }
            }
        }
        if let Some(index) = own.dealer.filter(|index| !self.dealers.contains_key(index)) {
            return Err(SetupError::Member(index));
        }
        if let Some(index) = own.receiver.filter(|index| !self.receivers.contains_key(index)) {
            return Err(SetupError::Member(index));
        }
        match &self.old {
            None if self.dealers == self.receivers && own.dealer == own.receiver => Ok(()),
            None => Err(size),
            Some(old) => old.check(&self.dealers),
        }
    }

    /// How many dealers must have dealt well.
    pub(super) fn dealers_needed(&self) -> usize {
        self.old.as_ref().map_or(self.threshold, |old| old.threshold)
    }

    /// How many shares this member will ever reveal to answer complaints. Each revealed value is one more that everybody
    /// knows of a polynomial whose value at zero is this member's secret. As many members as the new sharing tolerates may
    /// be dishonest and know their own values too, so no more is revealed than still leaves one value missing.
    ///
    /// In a resharing nothing is: the values that dealers would show of one receiver add up to its new share, and everybody
    /// who carries messages would know it. Its old shares go on, and the change can be begun again.
    pub(super) fn most_revealed(&self) -> usize {
        if self.old.is_some() {
            return 0;
        }
        let dishonest = self.receivers.len() - self.threshold;
        (self.threshold - 1).saturating_sub(dishonest)
    }
}

impl OldSharing {
    fn check(&self, dealers: &BTreeMap<u32, PublicKey>) -> Result<(), SetupError> {
        if self.threshold == 0 || dealers.len() < self.threshold {
            return Err(SetupError::TooFewDealers { dealers: dealers.len(), threshold: self.threshold });
        }
        if let Some(index) = dealers.keys().find(|index| !self.public_shares.contains_key(index)) {
            return Err(SetupError::Member(*index));
        }
        let first: Vec<_> = self
            .public_shares
            .iter()
            .take(self.threshold)
            .map(|(index, key)| PublicShare { index: place(*index), key: *key })
            .collect();
        let group = interpolate_public_key(&first).map_err(|_| SetupError::OldSharing)?;
        if group == self.group_key { Ok(()) } else { Err(SetupError::OldSharing) }
    }
}

/// Where the polynomial of the member at `index` is evaluated: one above, since zero would be the secret.
pub(super) fn place(index: u32) -> ShareIndex {
    ShareIndex::new(u64::from(index) + 1).expect("one more than a number is not zero")
}
