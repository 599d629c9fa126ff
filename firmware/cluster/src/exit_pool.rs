//! Partial exits as they come in, from this box and from the other members, until there are enough to make one whole.
//!
//! An exit is asked for by people, at different hours and days, and never expires; so everything here is kept, and can be
//! written down and read back. Bounded: each member may say few different things about each validator.

use std::collections::BTreeMap;

use chain::{Domain, PublicKeyBytes, SignatureBytes, SignedVoluntaryExit, VoluntaryExit};
use serde::{Deserialize, Serialize};
use threshold::ShareIndex;

use crate::bls;
use crate::exit::{ExitBlob, ExitError};
use crate::view::ClusterView;

/// Different exits of one validator that one member may sign; people choose another epoch once or twice.
const MESSAGES_PER_SHARE: usize = 4;
/// Exits that are made whole at once.
const WHOLE_AT_ONCE: usize = 8;

/// One exit of one validator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    /// The validator.
    pub validator: PublicKeyBytes,
    /// What is signed.
    pub message: VoluntaryExit,
    /// Partial signatures by share index, each verified when it came.
    pub partials: BTreeMap<u8, SignatureBytes>,
    /// Whether a beacon node has taken the whole exit.
    #[serde(default)]
    pub published: bool,
}

/// What became of a partial exit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// It is kept.
    New,
    /// It was there.
    Known,
    /// This member has said too many different things about this validator.
    TooMany,
}

/// All partial exits of one cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitPool {
    pending: Vec<Pending>,
    /// Positions in `pending`, which only grows.
    #[serde(skip)]
    of_validator: BTreeMap<PublicKeyBytes, Vec<usize>>,
}

impl ExitPool {
    /// Reads what [`Self::to_json`] wrote. What is of another cluster or does not verify is left out.
    pub fn from_json(bytes: &[u8], view: &ClusterView, domain: Domain) -> Option<Self> {
        let written: Self = serde_json::from_slice(bytes).ok()?;
        let mut pool = Self::default();
        for pending in written.pending {
            for (share, signature) in pending.partials {
                let exit = SignedVoluntaryExit { message: pending.message, signature };
                // What was written by us and is not right now is not worth a word.
                let _left_out = pool.take(view, domain, share, &pending.validator, exit);
            }
            if pending.published {
                pool.set_published(&pending.validator, pending.message);
            }
        }
        Some(pool)
    }

    /// For the disk.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("plain structs with text keys always serialize")
    }

    /// Everything, in the order in which it was first heard of.
    pub fn pending(&self) -> &[Pending] {
        &self.pending
    }

    /// Takes one partial exit, after checking the share's signature.
    pub fn take(
        &mut self,
        view: &ClusterView,
        domain: Domain,
        share: u8,
        validator: &PublicKeyBytes,
        exit: SignedVoluntaryExit,
    ) -> Result<Taken, ExitError> {
        let shares = view.validators.iter().find(|known| known.group_public_key == *validator);
        let shares = &shares.ok_or(ExitError::UnknownValidator(*validator))?.public_shares;
        let position = usize::from(share).checked_sub(1);
        let pubshare = position.and_then(|position| shares.get(position));
        let pubshare = pubshare.ok_or(ExitError::UnknownShare(u64::from(share)))?;
        let by_share = self.of(validator).filter(|pending| pending.partials.contains_key(&share));
        let messages: Vec<VoluntaryExit> = by_share.map(|pending| pending.message).collect();
        if messages.contains(&exit.message) {
            return Ok(Taken::Known);
        }
        if messages.len() >= MESSAGES_PER_SHARE {
            return Ok(Taken::TooMany);
        }
        let root = chain::signing_root(&exit.message, domain);
        if !bls::verify(pubshare, &root.0, &exit.signature) {
            return Err(ExitError::WrongPartial { operator: u64::from(share), validator: *validator });
        }
        match self.find(validator, exit.message) {
            Some(pending) => drop(pending.partials.insert(share, exit.signature)),
            None => {
                self.of_validator.entry(*validator).or_default().push(self.pending.len());
                self.pending.push(Pending {
                    validator: *validator,
                    message: exit.message,
                    partials: BTreeMap::from([(share, exit.signature)]),
                    published: false,
                });
            }
        }
        Ok(Taken::New)
    }

    /// The wanted ones of the exits that are whole and that no beacon node has taken yet; a few at once, because each costs
    /// pairings.
    pub fn to_publish(
        &self,
        view: &ClusterView,
        domain: Domain,
        wanted: impl Fn(&Pending) -> bool,
    ) -> Vec<(PublicKeyBytes, Result<SignedVoluntaryExit, ExitError>)> {
        let enough =
            |pending: &&Pending| !pending.published && pending.partials.len() >= usize::from(view.threshold);
        let whole = |pending: &Pending| (pending.validator, whole(pending, view, domain));
        let wanted = |pending: &&Pending| wanted(pending);
        self.pending.iter().filter(enough).filter(wanted).take(WHOLE_AT_ONCE).map(whole).collect()
    }

    /// A beacon node has taken it.
    pub fn set_published(&mut self, validator: &PublicKeyBytes, message: VoluntaryExit) {
        if let Some(pending) = self.find(validator, message) {
            pending.published = true;
        }
    }

    /// What one share has signed, for members that connect late.
    pub fn signed_by(&self, share: u8) -> Vec<ExitBlob> {
        let blob = |pending: &Pending| {
            let signature = *pending.partials.get(&share)?;
            let signed_exit_message = SignedVoluntaryExit { message: pending.message, signature };
            Some(ExitBlob { public_key: pending.validator, signed_exit_message })
        };
        self.pending.iter().filter_map(blob).collect()
    }

    fn of(&self, validator: &PublicKeyBytes) -> impl Iterator<Item = &Pending> {
        let positions = self.of_validator.get(validator).into_iter().flatten();
        positions.filter_map(|position| self.pending.get(*position))
    }

    fn find(&mut self, validator: &PublicKeyBytes, message: VoluntaryExit) -> Option<&mut Pending> {
        let mut positions = self.of_validator.get(validator)?.iter();
        let is_it = |position: &&usize| self.pending.get(**position).is_some_and(|p| p.message == message);
        let position = *positions.find(is_it)?;
        self.pending.get_mut(position)
    }
}

/// The whole exit. Every partial signature in it was verified, so this fails only when the lock is not of these keys.
pub fn whole(
    pending: &Pending,
    view: &ClusterView,
    domain: Domain,
) -> Result<SignedVoluntaryExit, ExitError> {
    let need = usize::from(view.threshold);
    let failed = || ExitError::Combination(pending.validator);
    let partials: Vec<(ShareIndex, SignatureBytes)> = pending
        .partials
        .iter()
        .take(need)
        .filter_map(|(share, signature)| Some((ShareIndex::new(u64::from(*share)).ok()?, *signature)))
        .collect();
    if partials.len() < need {
        let have = partials.len();
        return Err(ExitError::TooFew { validator: pending.validator, have, need });
    }
    let signature = threshold::combine(&partials).map_err(|_| failed())?;
    let root = chain::signing_root(&pending.message, domain);
    if bls::verify(&pending.validator, &root.0, &signature) {
        Ok(SignedVoluntaryExit { message: pending.message, signature })
    } else {
        Err(failed())
    }
}
