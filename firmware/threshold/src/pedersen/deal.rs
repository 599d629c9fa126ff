//! Phase one: every dealer sends commitments and encrypted shares.

use std::collections::BTreeSet;

use rand::CryptoRng;

use super::bundle::{Deal, DealBundle};
use super::ecies::{EphemeralKey, encrypt};
use super::machine::{Dealt, Fault, Output, Pedersen, Side};
use super::setup::{SetupError, place};
use crate::keys::{SecretKey, SecretShare};
use crate::shamir::{Commitments, Polynomial};

impl Pedersen {
    /// Makes our polynomial and deals it out.
    pub(super) fn deal(
        &mut self,
        dealer: u32,
        secret: Option<SecretKey>,
        key: &EphemeralKey,
        rng: &mut (impl CryptoRng + ?Sized),
    ) -> Result<DealBundle, SetupError> {
        let secret = match (&self.setup.old, secret) {
            // Dealing anything else would be refused by everybody, and perhaps be another validator's share.
            (Some(old), Some(secret)) if old.public_shares.get(&dealer) == Some(&secret.public_key()) => {
                secret
            }
            (None, None) => SecretKey::random(rng),
            (Some(_), _) | (None, Some(_)) => return Err(SetupError::OwnShare),
        };
        let polynomial =
            Polynomial::with_secret(secret, self.setup.threshold, rng).map_err(|_| SetupError::Unlucky)?;
        let mut deals = Vec::with_capacity(self.setup.receivers.len());
        let mut own_share = None;
        for (receiver, to) in &self.setup.receivers {
            let share = polynomial.share(place(*receiver)).map_err(|_| SetupError::Unlucky)?.into_key();
            if self.own.receiver == Some(*receiver) {
                own_share = Some(share);
                continue;
            }
            let encrypted_share = encrypt(to, &share, rng).ok_or(SetupError::Unlucky)?;
            deals.push(Deal { share_index: *receiver, encrypted_share });
        }
        let commitments = polynomial.commitments();
        let mut bundle = DealBundle {
            dealer_index: dealer,
            deals,
            public: commitments.to_bytes(),
            session: self.setup.session,
            signature: Vec::new(),
        };
        let hash = bundle.hash();
        bundle.signature = key.sign(&hash).to_bytes().0.to_vec();
        if let Some(receiver) = self.own.receiver {
            self.good.insert((dealer, receiver));
        }
        self.deals.insert(dealer, Dealt { hash, commitments, share: own_share });
        self.polynomial = Some(polynomial);
        Ok(bundle)
    }

    /// Takes a dealer's bundle. After the phase is over it can only show that the dealer says two things.
    pub(super) fn on_deal(&mut self, bundle: DealBundle, key: &EphemeralKey, out: &mut Vec<Output>) {
        let (dealer, hash) = (bundle.dealer_index, bundle.hash());
        if self.deals.get(&dealer).is_some_and(|known| known.hash == hash) {
            return; // Delivered twice.
        }
        if self.own.dealer == Some(dealer)
            || self.evicted_dealers.contains(&dealer)
            || !self.is_signed(Side::Dealer, dealer, &hash, &bundle.signature, out)
        {
            return;
        }
        if bundle.session != self.setup.session {
            return self.evict_dealer(dealer, Fault::DealerWrongSession, out);
        }
        if self.deals.contains_key(&dealer) {
            return self.evict_dealer(dealer, Fault::DealerEquivocated, out);
        }
        if self.phase != super::Phase::Deal {
            return; // Too late: it was reported as silent already.
        }
        if bundle.public.len() != self.setup.threshold {
            return self.evict_dealer(dealer, Fault::DealerCommitments, out);
        }
        let Ok(commitments) = Commitments::parse(&bundle.public) else {
            return self.evict_dealer(dealer, Fault::DealerCommitments, out);
        };
        let holds = |old: &super::OldSharing| {
            old.public_shares.get(&dealer).is_some_and(|share| *share == commitments.group_key())
        };
        if !self.setup.old.as_ref().is_none_or(holds) {
            return self.evict_dealer(dealer, Fault::DealerOtherShare, out);
        }
        let mut indices = BTreeSet::new();
        let known = |deal: &Deal| self.setup.receivers.contains_key(&deal.share_index);
        if !bundle.deals.iter().all(|deal| known(deal) && indices.insert(deal.share_index)) {
            return self.evict_dealer(dealer, Fault::DealerIndices, out);
        }
        let share = self.own_share(&bundle, &commitments, key);
        if let Some(receiver) = self.own.receiver {
            if share.is_some() {
                self.good.insert((dealer, receiver));
            } else {
                self.accuse(dealer, Fault::DealerBadShare, out);
            }
        }
        self.deals.insert(dealer, Dealt { hash, commitments, share });
    }

    /// Our value in a bundle, when it opens and fits the commitments.
    fn own_share(
        &self,
        bundle: &DealBundle,
        commitments: &Commitments,
        key: &EphemeralKey,
    ) -> Option<SecretKey> {
        let receiver = self.own.receiver?;
        let deal = bundle.deals.iter().find(|deal| deal.share_index == receiver)?;
        let share = SecretShare::new(place(receiver), key.decrypt(&deal.encrypted_share)?);
        commitments.matches(&share).then(|| share.into_key())
    }
}
