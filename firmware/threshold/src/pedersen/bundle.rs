//! What the members tell each other, and what exactly each of them signs (specification 11.8).

use chain::PublicKeyBytes;
use sha2::{Digest as _, Sha256};

use super::Session;

/// One receiver's part of a [`DealBundle`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deal {
    /// The receiver's index, from 0.
    pub share_index: u32,
    /// The polynomial's value, encrypted to the receiver's ephemeral key.
    pub encrypted_share: Vec<u8>,
}

/// A dealer's commitments and the shares it deals.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DealBundle {
    /// The dealer's index, from 0.
    pub dealer_index: u32,
    /// One for each receiver but the dealer itself.
    pub deals: Vec<Deal>,
    /// The commitments, as many as the threshold.
    pub public: Vec<PublicKeyBytes>,
    /// Which run this is of.
    pub session: Session,
    /// By the dealer's ephemeral key.
    pub signature: Vec<u8>,
}

/// Whether one dealer's share was good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Response {
    /// The dealer.
    pub dealer_index: u32,
    /// False is a complaint.
    pub is_good: bool,
}

/// What a receiver says of all shares dealt to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResponseBundle {
    /// The receiver's index, from 0.
    pub share_index: u32,
    /// One for each dealer that was not evicted.
    pub responses: Vec<Response>,
    /// Which run this is of.
    pub session: Session,
    /// By the receiver's ephemeral key.
    pub signature: Vec<u8>,
}

/// A share that its receiver complained of, for everybody to see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Justification {
    /// The receiver.
    pub share_index: u32,
    /// The value, big-endian.
    pub share: [u8; 32],
}

/// A dealer's answer to complaints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JustificationBundle {
    /// The dealer's index, from 0.
    pub dealer_index: u32,
    /// One for each complaint.
    pub justifications: Vec<Justification>,
    /// Which run this is of.
    pub session: Session,
    /// By the dealer's ephemeral key.
    pub signature: Vec<u8>,
}

impl DealBundle {
    /// What is signed.
    pub fn hash(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        hash.update(self.dealer_index.to_be_bytes());
        self.public.iter().for_each(|point| hash.update(point.as_slice()));
        let mut deals: Vec<_> = self.deals.iter().collect();
        deals.sort_by_key(|deal| deal.share_index);
        for deal in deals {
            hash.update(deal.share_index.to_be_bytes());
            hash.update(&deal.encrypted_share);
        }
        hash.update(self.session);
        hash.finalize().into()
    }
}

impl ResponseBundle {
    /// What is signed.
    pub fn hash(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        hash.update(self.share_index.to_be_bytes());
        let mut responses: Vec<_> = self.responses.iter().collect();
        responses.sort_by_key(|response| response.dealer_index);
        for response in responses {
            hash.update(response.dealer_index.to_be_bytes());
            hash.update([u8::from(response.is_good)]);
        }
        hash.update(self.session);
        hash.finalize().into()
    }
}

impl JustificationBundle {
    /// What is signed.
    pub fn hash(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        hash.update(self.dealer_index.to_be_bytes());
        let mut justifications: Vec<_> = self.justifications.iter().collect();
        justifications.sort_by_key(|justification| justification.share_index);
        for justification in justifications {
            hash.update(justification.share_index.to_be_bytes());
            hash.update(justification.share);
        }
        hash.update(self.session);
        hash.finalize().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_entries_does_not_change_a_hash_and_everything_else_does() {
        let deal = |share_index, byte| Deal { share_index, encrypted_share: vec![byte; 96] };
        let bundle = DealBundle {
            dealer_index: 1,
            deals: vec![deal(0, 1), deal(2, 2)],
            public: vec![PublicKeyBytes([3; 48])],
            session: [4; 32],
            signature: Vec::new(),
        };
        let turned = DealBundle { deals: vec![deal(2, 2), deal(0, 1)], ..bundle.clone() };
        assert_eq!(bundle.hash(), turned.hash());
        for changed in [
            DealBundle { dealer_index: 2, ..bundle.clone() },
            DealBundle { deals: vec![deal(0, 1)], ..bundle.clone() },
            DealBundle { deals: vec![deal(0, 2), deal(2, 2)], ..bundle.clone() },
            DealBundle { public: vec![PublicKeyBytes([5; 48])], ..bundle.clone() },
            DealBundle { session: [5; 32], ..bundle.clone() },
        ] {
            assert_ne!(bundle.hash(), changed.hash());
        }
    }
}
