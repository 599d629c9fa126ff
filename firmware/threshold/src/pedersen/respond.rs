//! Phase two: every receiver says which of the shares it got are good.

use std::collections::BTreeSet;

use super::bundle::{Response, ResponseBundle};
use super::ecies::EphemeralKey;
use super::machine::{Bundle, Fault, Output, Pedersen, Phase, Side};

impl Pedersen {
    /// The deals' time is over: say what we think of each.
    pub(super) fn deals_are_over(&mut self, key: &EphemeralKey, out: &mut Vec<Output>) {
        let silent: Vec<u32> =
            self.live_dealers().filter(|dealer| !self.deals.contains_key(dealer)).collect();
        for dealer in silent {
            self.accuse(dealer, Fault::DealerSilent, out);
        }
        if let Some(receiver) = self.own.receiver {
            let responses = self
                .live_dealers()
                .map(|dealer| Response {
                    dealer_index: dealer,
                    is_good: self.good.contains(&(dealer, receiver)),
                })
                .collect();
            let mut bundle = ResponseBundle {
                share_index: receiver,
                responses,
                session: self.setup.session,
                signature: Vec::new(),
            };
            let hash = bundle.hash();
            bundle.signature = key.sign(&hash).to_bytes().0.to_vec();
            self.responded.insert(receiver, hash);
            out.push(Output::Send(Bundle::Response(bundle)));
        }
        self.enter(Phase::Response, out);
    }

    /// Takes a receiver's responses. They may come while we still wait for deals.
    pub(super) fn on_response(&mut self, bundle: &ResponseBundle, out: &mut Vec<Output>) {
        let (receiver, hash) = (bundle.share_index, bundle.hash());
        if self.responded.get(&receiver) == Some(&hash) {
            return; // Delivered twice.
        }
        if self.own.receiver == Some(receiver)
            || self.evicted_receivers.contains(&receiver)
            || !self.is_signed(Side::Receiver, receiver, &hash, &bundle.signature, out)
        {
            return;
        }
        if bundle.session != self.setup.session {
            return self.evict_receiver(receiver, Fault::ReceiverWrongSession, out);
        }
        if self.responded.contains_key(&receiver) {
            return self.evict_receiver(receiver, Fault::ReceiverEquivocated, out);
        }
        if self.phase > Phase::Response {
            return; // Too late: it was evicted as silent, or the phase ended without needing it.
        }
        let mut dealers = BTreeSet::new();
        let known = |response: &Response| self.setup.dealers.contains_key(&response.dealer_index);
        if !bundle.responses.iter().all(|response| known(response) && dealers.insert(response.dealer_index)) {
            return self.evict_receiver(receiver, Fault::ReceiverIndices, out);
        }
        self.responded.insert(receiver, hash);
        for response in &bundle.responses {
            if response.is_good {
                self.good.insert((response.dealer_index, receiver));
            } else {
                self.accuse(receiver, Fault::ReceiverComplained, out);
            }
        }
    }

    /// The responses' time is over: finish when nobody complains, else answer the complaints of us.
    pub(super) fn responses_are_over(&mut self, key: &EphemeralKey, out: &mut Vec<Output>) {
        let silent: Vec<u32> =
            self.live_receivers().filter(|receiver| !self.responded.contains_key(receiver)).collect();
        for receiver in silent {
            self.evict_receiver(receiver, Fault::ReceiverSilent, out);
        }
        let dealers: Vec<u32> = self.setup.dealers.keys().copied().collect();
        let disputed = dealers
            .iter()
            .any(|dealer| self.evicted_dealers.contains(dealer) || self.has_complaints(*dealer));
        if !disputed {
            return self.finish(out);
        }
        for dealer in dealers {
            // So many complainers could rebuild the secret from the answers.
            if !self.evicted_dealers.contains(&dealer)
                && self.complaints(dealer).len() >= self.setup.threshold
            {
                self.evict_dealer(dealer, Fault::DealerComplaints, out);
            }
        }
        self.enter(Phase::Justification, out);
        self.justify(key, out);
    }
}
