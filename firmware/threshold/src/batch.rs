//! Many signatures checked at once.
//!
//! Each signature is multiplied by a random 64-bit number before the sums are compared, so that wrong signatures cannot cancel
//! each other out. That holds only for points of the right subgroup, which [`Signature`] guarantees, and for multipliers an
//! attacker cannot foresee, which is why the random generator must be a cryptographic one.

use crate::ffi::{DST, nonzero_u64, random_multiplier};
use crate::keys::PublicKey;
use crate::signature::{Signature, verify};
use blst::{BLST_ERROR, MultiPoint, blst_p1_affine, blst_p2_affine, min_pk};
use rand::CryptoRng;

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
        return false; // Infinity matches no key; kept away from the multi-point arithmetic.
    }
    let messages: Vec<_> = items.iter().map(|item| item.message).collect();
    match items {
        [] => false,
        [one] => verify(one.key, one.message, one.signature),
        [first, ..] if messages.iter().all(|message| *message == first.message) => {
            let pairs: Vec<_> = items.iter().map(|item| (*item.key, *item.signature)).collect();
            batch_verify_one_message(&pairs, first.message, rng)
        }
        [_, ..] => {
            let keys: Vec<_> = items.iter().map(|item| &item.key.0).collect();
            let signatures: Vec<_> = items.iter().map(|item| item.signature.inner()).collect();
            let multipliers: Vec<_> = items.iter().map(|_| random_multiplier(rng)).collect();
            let result = min_pk::Signature::verify_multiple_aggregate_signatures(
                &messages,
                DST,
                &keys,
                false,
                &signatures,
                false,
                &multipliers,
                64,
            );
            result == BLST_ERROR::BLST_SUCCESS
        }
    }
}

/// Whether every key signed the one message: two pairings, whatever the count.
pub fn batch_verify_one_message(
    pairs: &[(PublicKey, Signature)],
    message: &[u8],
    rng: &mut (impl CryptoRng + ?Sized),
) -> bool {
    if pairs.iter().any(|(_, signature)| signature.is_infinity()) {
        return false;
    }
    match pairs {
        [] => false,
        [(key, signature)] => verify(key, message, signature),
        [_, ..] => {
            let multipliers: Vec<u8> = pairs.iter().flat_map(|_| nonzero_u64(rng).to_le_bytes()).collect();
            let keys: Vec<blst_p1_affine> = pairs.iter().map(|(key, _)| key.0.into()).collect();
            let signatures: Vec<blst_p2_affine> =
                pairs.iter().map(|(_, signature)| (*signature.inner()).into()).collect();
            let key: min_pk::PublicKey =
                min_pk::AggregatePublicKey::from(keys.mult(&multipliers, 64)).to_public_key();
            let signature: min_pk::Signature =
                min_pk::AggregateSignature::from(signatures.mult(&multipliers, 64)).to_signature();
            signature.verify(false, message, DST, &[], &key, false) == BLST_ERROR::BLST_SUCCESS
        }
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
