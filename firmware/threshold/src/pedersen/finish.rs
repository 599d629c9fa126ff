//! The end: what the dealers left in the run make together.

use chain::PublicKeyBytes;

use super::machine::{Failure, Output, Pedersen, Phase};
use super::setup::place;
use crate::ffi::{Fr, G1, Group as _};
use crate::keys::{SecretKey, SecretShare, ShareIndex};
use crate::lagrange::field_coefficient;
use crate::shamir::Commitments;

/// A run's result.
pub struct Outcome {
    /// Our new share; none for a member that leaves.
    pub share: Option<SecretShare>,
    /// The new sharing: the group key is its first point, and every public share follows from it.
    pub commitments: Commitments,
    /// The dealers whose polynomials are in it.
    pub dealers: Vec<u32>,
}

impl std::fmt::Debug for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outcome").field("dealers", &self.dealers).finish_non_exhaustive()
    }
}

impl Pedersen {
    /// Ends the run and wipes our polynomial.
    pub(super) fn finish(&mut self, out: &mut Vec<Output>) {
        self.evict_unjustified(out);
        self.enter(Phase::Finished, out);
        self.polynomial = None;
        out.push(match self.result() {
            Ok(outcome) => Output::Finished(Box::new(outcome)),
            Err(failure) => Output::Failed(failure),
        });
        self.deals.clear();
    }

    fn result(&self) -> Result<Outcome, Failure> {
        let usable = |dealer: &u32| {
            let dealt = self.deals.get(dealer);
            dealt.is_some_and(|dealt| self.own.receiver.is_none() || dealt.share.is_some())
        };
        let mut dealers: Vec<u32> = self.live_dealers().filter(usable).collect();
        let needed = self.setup.dealers_needed();
        if dealers.len() < needed {
            return Err(Failure::TooFewDealers { qualified: dealers.len(), needed });
        }
        if self.setup.old.is_some() {
            // Which dealers are taken decides what the new polynomial is, so all members must take the same: the first.
            dealers.truncate(needed);
        }
        let weights = self.weights(&dealers);
        let commitments = self.sum_of_commitments(&dealers, &weights)?;
        if self.setup.old.as_ref().is_some_and(|old| commitments.group_key() != old.group_key) {
            return Err(Failure::GroupKey);
        }
        let share = match self.own.receiver {
            Some(receiver) => Some(self.sum_of_shares(&dealers, &weights, place(receiver))?),
            None => None,
        };
        if share.as_ref().is_some_and(|share| !commitments.matches(share)) {
            return Err(Failure::Share);
        }
        Ok(Outcome { share, commitments, dealers })
    }

    /// What each polynomial counts: Lagrange's coefficient in a resharing, one in a key generation.
    fn weights(&self, dealers: &[u32]) -> Vec<Fr> {
        let places: Vec<ShareIndex> = dealers.iter().map(|dealer| place(*dealer)).collect();
        let weight = |of: &ShareIndex| match &self.setup.old {
            Some(_) => field_coefficient(&places, *of),
            None => Fr::from_u64(1),
        };
        places.iter().map(weight).collect()
    }

    fn sum_of_shares(
        &self,
        dealers: &[u32],
        weights: &[Fr],
        index: ShareIndex,
    ) -> Result<SecretShare, Failure> {
        let mut sum = Fr::zero();
        for (dealer, weight) in dealers.iter().zip(weights) {
            let share =
                self.deals.get(dealer).and_then(|dealt| dealt.share.as_ref()).ok_or(Failure::Share)?;
            sum = sum.add(&weight.mul(&share.0));
        }
        let key = SecretKey::from_scalar(sum).map_err(|_| Failure::Degenerate)?;
        Ok(SecretShare::new(index, key))
    }

    fn sum_of_commitments(&self, dealers: &[u32], weights: &[Fr]) -> Result<Commitments, Failure> {
        let mut sums = vec![G1::identity(); self.setup.threshold];
        for (dealer, weight) in dealers.iter().zip(weights) {
            let dealt = self.deals.get(dealer).ok_or(Failure::Share)?;
            for (sum, point) in sums.iter_mut().zip(dealt.commitments.points()) {
                *sum = sum.add(&G1::from_parsed(&point.0).mul(weight));
            }
        }
        let bytes: Vec<PublicKeyBytes> =
            sums.into_iter().map(|sum| PublicKeyBytes(sum.to_parsed().compress())).collect();
        Commitments::parse(&bytes).map_err(|_| Failure::Degenerate)
    }
}
