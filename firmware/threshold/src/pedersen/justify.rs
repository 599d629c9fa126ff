//! Phase three, only when somebody complained: dealers show the shares in question, so that everybody sees who lies.

use super::bundle::{Justification, JustificationBundle};
use super::ecies::EphemeralKey;
use super::machine::{Bundle, Fault, Output, Pedersen, Phase, Side};
use super::setup::place;
use crate::keys::{SecretKey, SecretShare};

impl Pedersen {
    /// Answers the complaints of us, unless the answers would say too much of our secret.
    pub(super) fn justify(&mut self, key: &EphemeralKey, out: &mut Vec<Output>) {
        let Some(dealer) = self.own.dealer.filter(|dealer| !self.evicted_dealers.contains(dealer)) else {
            return;
        };
        let complaints = self.complaints(dealer);
        if complaints.is_empty() {
            return;
        }
        if complaints.len() > self.setup.most_revealed() {
            // Better no dealer than a secret that leaks: the run goes on without us where it can.
            return self.evict_dealer(dealer, Fault::TooManyComplaints, out);
        }
        let Some(polynomial) = &self.polynomial else { return };
        let mut justifications = Vec::with_capacity(complaints.len());
        for receiver in complaints {
            let Ok(share) = polynomial.share(place(receiver)) else { continue };
            justifications.push(Justification { share_index: receiver, share: *share.key().expose_bytes() });
            self.good.insert((dealer, receiver));
        }
        let mut bundle = JustificationBundle {
            dealer_index: dealer,
            justifications,
            session: self.setup.session,
            signature: Vec::new(),
        };
        let hash = bundle.hash();
        bundle.signature = key.sign(&hash).to_bytes().0.to_vec();
        self.justified.insert(dealer, hash);
        out.push(Output::Send(Bundle::Justification(bundle)));
    }

    /// Takes a dealer's answers.
    pub(super) fn on_justification(&mut self, bundle: &JustificationBundle, out: &mut Vec<Output>) {
        let (dealer, hash) = (bundle.dealer_index, bundle.hash());
        if self.justified.get(&dealer) == Some(&hash) {
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
        if self.justified.contains_key(&dealer) {
            return self.evict_dealer(dealer, Fault::DealerEquivocated, out);
        }
        self.justified.insert(dealer, hash);
        for justification in &bundle.justifications {
            let receiver = justification.share_index;
            let share = self.justified_share(dealer, receiver, &justification.share);
            let Some(share) = share else {
                return self.evict_dealer(dealer, Fault::DealerBadJustification, out);
            };
            self.good.insert((dealer, receiver));
            if self.own.receiver == Some(receiver)
                && let Some(dealt) = self.deals.get_mut(&dealer)
            {
                dealt.share = Some(share);
            }
        }
    }

    /// The shown value, when the receiver exists and the value fits what the dealer committed itself to.
    fn justified_share(&self, dealer: u32, receiver: u32, value: &[u8; 32]) -> Option<SecretKey> {
        if !self.setup.receivers.contains_key(&receiver) {
            return None;
        }
        let dealt = self.deals.get(&dealer)?;
        let share = SecretShare::new(place(receiver), SecretKey::from_bytes(value).ok()?);
        dealt.commitments.matches(&share).then(|| share.into_key())
    }

    /// Dealers that were complained of and have not answered.
    pub(super) fn evict_unjustified(&mut self, out: &mut Vec<Output>) {
        debug_assert!(self.phase == Phase::Justification || self.phase == Phase::Response);
        let unjustified: Vec<u32> =
            self.live_dealers().filter(|dealer| self.has_complaints(*dealer)).collect();
        for dealer in unjustified {
            self.evict_dealer(dealer, Fault::DealerUnjustified, out);
        }
    }
}
