//! FROST key generation without a dealer (obol spec 11.5): Feldman sharing by everybody, with a proof of possession.
//!
//! Each member deals a random polynomial per validator and proves that it knows the constant term; the validator's key is
//! the sum of the constant terms, a member's share the sum of what everybody dealt to it. Nobody ever holds the whole key.

use crate::ffi::{self, Fr, G1, Group};
use crate::keys::{KeyError, PublicKey, SecretKey, SecretShare, ShareIndex};
use crate::shamir::{Commitments, Polynomial, ShamirError};
use chain::PublicKeyBytes;
use rand::CryptoRng;

/// Tag of the challenge hash. It is that of a hash to the curve's points, which the reference took over.
const CHALLENGE_TAG: &[u8] = b"BLS12381_XMD:SHA-256_SSWU_RO_";
/// The byte after the dealer's index. The reference reads the definition hash as a decimal number, fails and puts zero.
const CONTEXT: u8 = 0;

/// Why something dealt is refused. The caller knows who dealt it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrostError {
    /// Share indices are one byte in the challenge.
    #[error("a dealer's index is 1 to 255, not {0}")]
    Dealer(ShareIndex),
    /// Not as many commitments as the threshold.
    #[error("{found} commitments for a threshold of {threshold}")]
    CommitmentCount {
        /// Shares needed.
        threshold: usize,
        /// Commitments found.
        found: usize,
    },
    /// A commitment that is no usable point.
    #[error("a commitment is not a point of the curve")]
    Commitment(#[source] KeyError),
    /// A number of the proof is zero or not below the group order.
    #[error("the proof holds a number that is zero or too large for the curve")]
    ProofRange,
    /// The proof does not fit the commitment and the dealer's index.
    #[error(
        "the proof of possession is wrong: made for another index, or by somebody who does not know the secret"
    )]
    Proof,
    /// The share is not on the dealer's polynomial.
    #[error("the share is not on the polynomial that was committed to")]
    Share,
    /// The share's bytes are no secret.
    #[error("the share is zero or too large for the curve")]
    ShareRange,
    /// Sums that are no keys, which happens once in 2^255 or when dealers cancel each other out on purpose.
    #[error("what was dealt adds up to nothing")]
    Cancelled,
    /// Nothing was dealt, or polynomials of different degree.
    #[error("there is nothing to add up, or the thresholds differ")]
    Mismatch,
}

/// What one member deals for one validator. Secret: wiped on drop.
pub struct Dealing {
    polynomial: Polynomial,
    nonce: SecretKey,
}

impl Dealing {
    /// A new random dealing.
    pub fn random(threshold: usize, rng: &mut (impl CryptoRng + ?Sized)) -> Result<Self, ShamirError> {
        Ok(Self { polynomial: Polynomial::random(threshold, rng)?, nonce: SecretKey::random(rng) })
    }

    /// A dealing with known numbers. The nonce must never have been used with another polynomial.
    pub fn new(polynomial: Polynomial, nonce: SecretKey) -> Self {
        Self { polynomial, nonce }
    }

    /// The public commitments, the constant term's first.
    pub fn commitments(&self) -> Commitments {
        self.polynomial.commitments()
    }

    /// The proof that the dealer knows the constant term.
    pub fn prove(&self, dealer: ShareIndex) -> Result<Proof, FrostError> {
        let point = self.nonce.public_key().to_bytes();
        let challenge = challenge(dealer, &self.polynomial.constant().public_key().to_bytes(), &point)?;
        let response = self.nonce.0.add(&self.polynomial.constant().0.mul(&challenge));
        Ok(Proof { challenge: *challenge.to_be_bytes(), response: *response.to_be_bytes() })
    }

    /// The share of one member.
    pub fn share(&self, of: ShareIndex) -> Result<SecretShare, ShamirError> {
        self.polynomial.share(of)
    }
}

/// A proof of possession as it travels: `ci` and `wi`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proof {
    /// The challenge, 32 bytes big-endian.
    pub challenge: [u8; 32],
    /// The response, 32 bytes big-endian.
    pub response: [u8; 32],
}

/// Commitments whose proof was checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dealt {
    commitments: Commitments,
    nonce_point: PublicKeyBytes,
}

impl Dealt {
    /// Checks what a dealer published for one validator.
    pub fn verify(
        dealer: ShareIndex,
        threshold: usize,
        commitments: &[PublicKeyBytes],
        proof: &Proof,
    ) -> Result<Self, FrostError> {
        if commitments.len() != threshold {
            return Err(FrostError::CommitmentCount { threshold, found: commitments.len() });
        }
        let parsed = Commitments::parse(commitments).map_err(|error| match error {
            ShamirError::Key(error) => FrostError::Commitment(error),
            ShamirError::Size { .. } | ShamirError::Interpolation(_) => {
                FrostError::CommitmentCount { threshold, found: commitments.len() }
            }
        })?;
        let claimed = Fr::from_be_bytes(&proof.challenge).ok_or(FrostError::ProofRange)?;
        let response = Fr::from_be_bytes(&proof.response).ok_or(FrostError::ProofRange)?;
        if claimed.is_zero() {
            return Err(FrostError::ProofRange);
        }
        let group = G1::from_parsed(&parsed.group_key().0);
        let point = G1::from_secret(&response).add(&group.mul(&Fr::zero().sub(&claimed)));
        // A nonce of zero would hand the constant term to everybody.
        let nonce_point =
            PublicKey::from_unchecked(point.to_parsed()).map_err(|_| FrostError::Proof)?.to_bytes();
        let expected = challenge(dealer, &commitments[0], &nonce_point)?;
        if expected.to_be_bytes() != claimed.to_be_bytes() {
            return Err(FrostError::Proof);
        }
        Ok(Self { commitments: parsed, nonce_point })
    }

    /// The commitments.
    pub fn commitments(&self) -> &Commitments {
        &self.commitments
    }

    /// The public side of the proof's nonce. The same one in two proofs gives the dealer's secret away.
    pub fn nonce_point(&self) -> PublicKeyBytes {
        self.nonce_point
    }

    /// Checks the share this dealer sent to `of`, 32 bytes big-endian.
    pub fn check_share(&self, of: ShareIndex, bytes: &[u8]) -> Result<SecretShare, FrostError> {
        let key = SecretKey::from_bytes(bytes).map_err(|_| FrostError::ShareRange)?;
        let share = SecretShare::new(of, key);
        if self.commitments.matches(&share) { Ok(share) } else { Err(FrostError::Share) }
    }
}

/// A member's share of the validator key: the sum of everything dealt to it, its own dealing included.
pub fn sum_shares<'a>(
    of: ShareIndex,
    shares: impl IntoIterator<Item = &'a SecretShare>,
) -> Result<SecretShare, FrostError> {
    let mut sum = Fr::zero();
    for share in shares {
        if share.index() != of {
            return Err(FrostError::Mismatch);
        }
        sum = sum.add(&share.key().0);
    }
    let key = SecretKey::from_scalar(sum).map_err(|_| FrostError::Cancelled)?;
    Ok(SecretShare::new(of, key))
}

/// The commitments to the sum of all dealt polynomials: the validator key and everybody's public share follow from them.
pub fn sum_commitments<'a>(
    dealt: impl IntoIterator<Item = &'a Commitments>,
) -> Result<Commitments, FrostError> {
    let mut sums: Vec<G1> = Vec::new();
    for commitments in dealt {
        let points = commitments.points().iter().map(|point| G1::from_parsed(&point.0));
        if sums.is_empty() {
            sums = points.collect();
            continue;
        }
        if sums.len() != commitments.threshold() {
            return Err(FrostError::Mismatch);
        }
        for (sum, point) in sums.iter_mut().zip(points) {
            *sum = sum.add(&point);
        }
    }
    let points = sums.into_iter().map(|sum| PublicKey::from_unchecked(sum.to_parsed()));
    let points = points.collect::<Result<Vec<_>, _>>().map_err(|_| FrostError::Cancelled)?;
    Commitments::from_points(points).map_err(|_| FrostError::Mismatch)
}

/// The challenge hash: 48 bytes of `expand_message_xmd` (RFC 9380), big-endian, reduced; as 32 bytes big-endian.
pub fn hash_to_scalar(message: &[u8]) -> [u8; 32] {
    *ffi::hash_to_scalar(message, CHALLENGE_TAG).to_be_bytes()
}

fn challenge(
    dealer: ShareIndex,
    constant: &PublicKeyBytes,
    nonce: &PublicKeyBytes,
) -> Result<Fr, FrostError> {
    let index = u8::try_from(dealer.get()).map_err(|_| FrostError::Dealer(dealer))?;
    let message = [&[index, CONTEXT][..], &constant.0, &nonce.0].concat();
    Ok(ffi::hash_to_scalar(&message, CHALLENGE_TAG))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha20Rng;

    fn index(number: u64) -> ShareIndex {
        ShareIndex::new(number).unwrap()
    }

    #[test]
    fn any_threshold_of_born_shares_signs_for_the_sum_of_all_dealings() {
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        for (members, threshold) in [(2_u64, 2), (4, 3), (7, 5)] {
            let dealings: Vec<_> =
                (0..members).map(|_| Dealing::random(threshold, &mut rng).unwrap()).collect();
            let dealt: Vec<_> = (1..)
                .zip(&dealings)
                .map(|(number, dealing)| {
                    let proof = dealing.prove(index(number)).unwrap();
                    let commitments = dealing.commitments().to_bytes();
                    Dealt::verify(index(number), threshold, &commitments, &proof).unwrap()
                })
                .collect();
            let whole = sum_commitments(dealt.iter().map(Dealt::commitments)).unwrap();
            let mut partials = Vec::new();
            for of in (1..=members).map(index) {
                let to_it: Vec<_> = dealings
                    .iter()
                    .zip(&dealt)
                    .map(|(dealing, dealt)| {
                        let sent = dealing.share(of).unwrap().key().expose_bytes();
                        dealt.check_share(of, sent.as_slice()).unwrap()
                    })
                    .collect();
                let share = sum_shares(of, &to_it).unwrap();
                assert_eq!(whole.public_share(of).unwrap(), share.public_share());
                partials.push((of, share.sign(b"root").to_bytes()));
            }
            partials.drain(..partials.len() - threshold);
            let signature = crate::combine(&partials).unwrap();
            let signature = crate::Signature::from_slice(&signature.0).unwrap();
            assert!(crate::verify(&whole.group_key(), b"root", &signature));
        }
    }

    #[test]
    fn whatever_is_changed_is_refused_by_name() {
        let mut rng = ChaCha20Rng::seed_from_u64(2);
        let dealing = Dealing::random(3, &mut rng).unwrap();
        let points = dealing.commitments().to_bytes();
        let proof = dealing.prove(index(1)).unwrap();
        let verify = |dealer, points: &[PublicKeyBytes], proof: &Proof| {
            Dealt::verify(index(dealer), 3, points, proof).map(|_| ())
        };
        assert_eq!(verify(1, &points, &proof), Ok(()));
        assert_eq!(verify(2, &points, &proof), Err(FrostError::Proof), "a proof copied by another dealer");
        assert_eq!(
            verify(1, &points[..2], &proof),
            Err(FrostError::CommitmentCount { threshold: 3, found: 2 })
        );
        let longer = [&points[..], &points[..1]].concat();
        assert_eq!(verify(1, &longer, &proof), Err(FrostError::CommitmentCount { threshold: 3, found: 4 }));
        let mut infinity = points.clone();
        infinity[2] = PublicKeyBytes([0; 48]);
        infinity[2].0[0] = 0xc0;
        assert_eq!(verify(1, &infinity, &proof), Err(FrostError::Commitment(KeyError::Infinity)));
        for wrong in [[0; 32], [0xff; 32]] {
            assert_eq!(verify(1, &points, &Proof { challenge: wrong, ..proof }), Err(FrostError::ProofRange));
        }
        let mut response = proof.response;
        response[31] ^= 1;
        assert_eq!(verify(1, &points, &Proof { response, ..proof }), Err(FrostError::Proof));

        let dealt = Dealt::verify(index(1), 3, &points, &proof).unwrap();
        let share = dealing.share(index(2)).unwrap().key().expose_bytes();
        assert_eq!(dealt.check_share(index(3), share.as_slice()).map(|_| ()), Err(FrostError::Share));
        assert_eq!(dealt.check_share(index(2), &[0; 32]).map(|_| ()), Err(FrostError::ShareRange));
        assert_eq!(dealt.check_share(index(2), &share[..31]).map(|_| ()), Err(FrostError::ShareRange));
    }

    #[test]
    fn a_nonce_used_twice_shows() {
        let mut rng = ChaCha20Rng::seed_from_u64(3);
        let nonce = SecretKey::random(&mut rng).expose_bytes();
        let points: Vec<_> = (0..2)
            .map(|_| {
                let nonce = SecretKey::from_bytes(nonce.as_slice()).unwrap();
                let dealing = Dealing::new(Polynomial::random(2, &mut rng).unwrap(), nonce);
                let proof = dealing.prove(index(1)).unwrap();
                Dealt::verify(index(1), 2, &dealing.commitments().to_bytes(), &proof).unwrap().nonce_point()
            })
            .collect();
        assert_eq!(points[0], points[1]);
    }

    #[test]
    fn thresholds_are_not_mixed_and_nothing_is_not_summed() {
        let mut rng = ChaCha20Rng::seed_from_u64(4);
        let two = Polynomial::random(2, &mut rng).unwrap();
        let three = Polynomial::random(3, &mut rng).unwrap();
        assert_eq!(sum_commitments([&two.commitments(), &three.commitments()]), Err(FrostError::Mismatch));
        assert_eq!(sum_commitments([]), Err(FrostError::Mismatch));
        let share = two.share(index(1)).unwrap();
        assert!(sum_shares(index(2), [&share]).is_err());
        assert_eq!(sum_shares(index(1), []).map(|_| ()), Err(FrostError::Cancelled));
    }
}
