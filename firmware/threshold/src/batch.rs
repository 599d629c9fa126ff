//! Many signatures checked at once.
//!
//! Each signature is multiplied by a random 64-bit number before the sums are compared, so that wrong signatures cannot cancel
//! each other out. What makes that sound (decision 0190):
//!
//! - every signature is a point of the subgroup. Outside it there are points of small order, which a multiplier divisible by
//!   that order would hide. [`Signature`] guarantees it, and so must whoever makes a [`Claim`];
//! - the multipliers come from a cryptographic generator after the signatures are fixed, and are never zero. Wrong signatures
//!   then pass with a chance of at most 1 in 2^64 − 1, whatever their number;
//! - public keys were checked when they were read, and infinity, with which nothing can be shown, always fails.

use crate::ffi::{G1, G2, Group as _, HashedMessage, nonzero_u64, pairings_agree};
use crate::keys::PublicKey;
use crate::signature::{Signature, verify};
use blst::{blst_p1_affine, blst_p2_affine};
use rand::CryptoRng;
use std::collections::BTreeMap;

/// One claim: this key signed this message.
#[derive(Clone, Copy)]
pub struct BatchItem<'a> {
    /// The key.
    pub key: &'a PublicKey,
    /// The message.
    pub message: &'a [u8],
    /// The signature.
    pub signature: &'a Signature,
}

/// Whether every claim is true. None at all: no, since a caller with nothing to check has lost something.
pub fn batch_verify(items: &[BatchItem<'_>], rng: &mut (impl CryptoRng + ?Sized)) -> bool {
    if items.iter().any(|item| item.signature.is_infinity()) {
        return false;
    }
    let mut places: BTreeMap<&[u8], usize> = BTreeMap::new();
    let mut hashed = Vec::new();
    let mut claims = Vec::with_capacity(items.len());
    for item in items {
        let message = *places.entry(item.message).or_insert_with(|| {
            hashed.push(HashedMessage::new(item.message));
            hashed.len() - 1
        });
        claims.push(Claim { key: item.key, message, point: (*item.signature.inner()).into() });
    }
    claims_hold(&claims, &hashed, rng)
}

/// Whether every key signed the one message: two pairings, whatever the count.
pub fn batch_verify_one_message(
    pairs: &[(PublicKey, Signature)],
    message: &[u8],
    rng: &mut (impl CryptoRng + ?Sized),
) -> bool {
    match pairs {
        [(key, signature)] => verify(key, message, signature),
        _ => {
            let item = |(key, signature)| BatchItem { key, message, signature };
            let items: Vec<_> = pairs.iter().map(|(key, signature)| item((key, signature))).collect();
            batch_verify(&items, rng)
        }
    }
}

/// A claim about a point that is known to be in the subgroup and is not infinity.
#[derive(Clone, Copy)]
pub(crate) struct Claim<'a> {
    pub(crate) key: &'a PublicKey,
    /// The message's place in the list of hashed messages.
    pub(crate) message: usize,
    pub(crate) point: blst_p2_affine,
}

/// Whether all claims hold: one Miller loop for each message, one for all signatures, one final exponentiation.
pub(crate) fn claims_hold(
    claims: &[Claim<'_>],
    hashed: &[HashedMessage],
    rng: &mut (impl CryptoRng + ?Sized),
) -> bool {
    Weighed::new(claims, rng).hold(hashed)
}

/// Claims, each multiplied by its random number and summed up: what a check needs of them.
#[derive(Clone)]
pub(crate) struct Weighed {
    signature: G2,
    /// By message.
    keys: BTreeMap<usize, G1>,
}

impl Weighed {
    pub(crate) fn new(claims: &[Claim<'_>], rng: &mut (impl CryptoRng + ?Sized)) -> Self {
        let multipliers: Vec<u64> = match claims {
            // Nothing here that could cancel out, and what is added later has a random multiplier.
            [_] => vec![1],
            _ => claims.iter().map(|_| nonzero_u64(rng)).collect(),
        };
        let mut groups: BTreeMap<usize, (Vec<blst_p1_affine>, Vec<u64>)> = BTreeMap::new();
        for (claim, multiplier) in claims.iter().zip(&multipliers) {
            let (keys, own) = groups.entry(claim.message).or_default();
            keys.push(claim.key.0.into());
            own.push(*multiplier);
        }
        let keys = groups.iter().map(|(message, (keys, own))| (*message, weighted_key(keys, own))).collect();
        let signature = match claims {
            [one] => G2::from_affine(&one.point),
            _ => {
                let points: Vec<blst_p2_affine> = claims.iter().map(|claim| claim.point).collect();
                G2::sum_of_multiples(&points, &multipliers)
            }
        };
        Self { signature, keys }
    }

    /// These claims and one more, which gets a random multiplier of its own.
    pub(crate) fn and(&self, claim: &Claim<'_>, rng: &mut (impl CryptoRng + ?Sized)) -> Self {
        let multiplier = [nonzero_u64(rng)];
        let signature = self.signature.add(&G2::sum_of_multiples(&[claim.point], &multiplier));
        let key = G1::sum_of_multiples(&[claim.key.0.into()], &multiplier);
        let mut keys = self.keys.clone();
        keys.entry(claim.message).and_modify(|sum| *sum = sum.add(&key)).or_insert(key);
        Self { signature, keys }
    }

    /// Whether all of them hold. None at all: no.
    pub(crate) fn hold(&self, hashed: &[HashedMessage]) -> bool {
        let pair = |(message, key): (&usize, &G1)| Some((*key, *hashed.get(*message)?));
        let pairs: Option<Vec<_>> = self.keys.iter().map(pair).collect();
        pairs.is_some_and(|pairs| pairings_agree(self.signature, &pairs))
    }
}

fn weighted_key(keys: &[blst_p1_affine], multipliers: &[u64]) -> G1 {
    match (keys, multipliers) {
        ([key], [1]) => G1::from_affine(key),
        _ => G1::sum_of_multiples(keys, multipliers),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aggregate::aggregate_signatures;
    use crate::keys::SecretKey;
    use chain::SignatureBytes;
    use rand::SeedableRng;
    use rand_chacha::ChaCha20Rng;

    fn rng() -> ChaCha20Rng {
        ChaCha20Rng::seed_from_u64(11)
    }

    fn signed(messages: &[&[u8]]) -> Vec<(PublicKey, Signature)> {
        let mut rng = rng();
        let sign = |message: &&[u8]| {
            let key = SecretKey::random(&mut rng);
            (key.public_key(), key.sign(message))
        };
        messages.iter().map(sign).collect()
    }

    fn items<'a>(pairs: &'a [(PublicKey, Signature)], messages: &[&'a [u8]]) -> Vec<BatchItem<'a>> {
        pairs
            .iter()
            .zip(messages)
            .map(|((key, signature), message)| BatchItem { key, message, signature })
            .collect()
    }

    #[test]
    fn batches_of_every_size_accept_the_true_and_refuse_one_false() {
        let same: &[u8] = b"same";
        for messages in [vec![same; 1], vec![same; 5], vec![same, b"b", b"c"], vec![same, same, b"b"]] {
            let mut pairs = signed(&messages);
            assert!(batch_verify(&items(&pairs, &messages), &mut rng()));
            for place in 0..pairs.len() {
                let right = pairs[place].1;
                pairs[place].1 = SecretKey::random(&mut rng()).sign(b"wrong");
                assert!(!batch_verify(&items(&pairs, &messages), &mut rng()));
                pairs[place].1 = right;
            }
        }
    }

    #[test]
    fn nothing_to_check_is_not_a_pass() {
        assert!(!batch_verify(&[], &mut rng()));
        assert!(!batch_verify_one_message(&[], b"m", &mut rng()));
    }

    /// Two forgeries whose sum is right: S1 + T and S2 - T.
    #[test]
    fn forgeries_that_cancel_out_are_refused() {
        for messages in [[b"one".as_slice(), b"one"], [b"one".as_slice(), b"two"]] {
            let pairs = signed(&messages);
            let shift = SecretKey::random(&mut rng()).sign(b"shift");
            let mut opposite: SignatureBytes = shift.to_bytes();
            opposite.0[0] ^= 0x20; // The sign bit of the compressed form.
            let opposite = Signature::parse(&opposite).unwrap();
            let forged = [
                (pairs[0].0, aggregate_signatures(&[pairs[0].1, shift]).unwrap()),
                (pairs[1].0, aggregate_signatures(&[pairs[1].1, opposite]).unwrap()),
            ];
            let sum = aggregate_signatures(&[forged[0].1, forged[1].1]).unwrap();
            assert_eq!(sum, aggregate_signatures(&[pairs[0].1, pairs[1].1]).unwrap());
            assert!(!batch_verify(&items(&forged, &messages), &mut rng()));
        }
    }

    #[test]
    fn a_signature_at_infinity_is_refused() {
        let messages: [&[u8]; 2] = [b"m", b"m"];
        let mut pairs = signed(&messages);
        pairs[1].1 = Signature::parse(&crate::signature::INFINITY).unwrap();
        assert!(!batch_verify(&items(&pairs, &messages), &mut rng()));
        assert!(!batch_verify_one_message(&pairs, b"m", &mut rng()));
    }
}
