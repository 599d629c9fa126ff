//! Splitting a secret into shares, and the public commitments that let each holder check its share.

use crate::MAX_SHARES;
use crate::ffi::{Fr, G1, Group};
use crate::keys::{KeyError, PublicKey, PublicShare, SecretKey, SecretShare, ShareIndex};
use crate::lagrange::{InterpolationError, interpolate};
use chain::PublicKeyBytes;
use rand::CryptoRng;

/// Why shares cannot be made or checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ShamirError {
    /// Threshold or total make no sense.
    #[error(
        "a threshold of {threshold} among {total} shares is impossible (1 to total, at most {MAX_SHARES})"
    )]
    Size {
        /// Shares needed.
        threshold: usize,
        /// Shares made.
        total: usize,
    },
    /// A key is invalid.
    #[error("a key is invalid")]
    Key(#[from] KeyError),
    /// The indices cannot be interpolated over.
    #[error("the shares cannot be put together")]
    Interpolation(#[from] InterpolationError),
}

/// A secret polynomial over the scalar field. Its value at zero is the group secret, its value at i is share i.
pub struct Polynomial {
    coefficients: Vec<SecretKey>,
}

impl Polynomial {
    /// A new polynomial with a given value at zero, so that any `threshold` shares determine it.
    pub fn with_secret(
        secret: SecretKey,
        threshold: usize,
        rng: &mut (impl CryptoRng + ?Sized),
    ) -> Result<Self, ShamirError> {
        if threshold == 0 || threshold > MAX_SHARES {
            return Err(ShamirError::Size { threshold, total: MAX_SHARES });
        }
        let rest = std::iter::repeat_with(|| SecretKey::random(rng)).take(threshold - 1);
        Ok(Self { coefficients: std::iter::once(secret).chain(rest).collect() })
    }

    /// A new polynomial with a random secret.
    pub fn random(threshold: usize, rng: &mut (impl CryptoRng + ?Sized)) -> Result<Self, ShamirError> {
        Self::with_secret(SecretKey::random(rng), threshold, rng)
    }

    /// The polynomial with these coefficients, the secret first.
    pub fn from_coefficients(coefficients: Vec<SecretKey>) -> Result<Self, ShamirError> {
        if coefficients.is_empty() || coefficients.len() > MAX_SHARES {
            return Err(ShamirError::Size { threshold: coefficients.len(), total: MAX_SHARES });
        }
        Ok(Self { coefficients })
    }

    /// Shares needed to determine the polynomial.
    pub fn threshold(&self) -> usize {
        self.coefficients.len()
    }

    /// The secret itself.
    pub(crate) fn constant(&self) -> &SecretKey {
        &self.coefficients[0] // Never empty: checked when made.
    }

    /// The value at an index. Fails when it happens to be zero (once in 2^255), which would be no key.
    pub fn share(&self, index: ShareIndex) -> Result<SecretShare, ShamirError> {
        let x = Fr::from_u64(index.get());
        let value = self
            .coefficients
            .iter()
            .rev()
            .fold(Fr::zero(), |value, coefficient| value.mul(&x).add(&coefficient.0));
        Ok(SecretShare::new(index, SecretKey::from_scalar(value)?))
    }

    /// The Feldman commitments: each coefficient's public point.
    pub fn commitments(&self) -> Commitments {
        Commitments { points: self.coefficients.iter().map(SecretKey::public_key).collect() }
    }
}

/// Public commitments to a [`Polynomial`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commitments {
    points: Vec<PublicKey>,
}

impl Commitments {
    /// Checks commitments that came from outside.
    pub fn parse(points: &[PublicKeyBytes]) -> Result<Self, ShamirError> {
        if points.is_empty() || points.len() > MAX_SHARES {
            return Err(ShamirError::Size { threshold: points.len(), total: MAX_SHARES });
        }
        let points = points.iter().map(PublicKey::parse).collect::<Result<_, _>>()?;
        Ok(Self { points })
    }

    /// The same from points that were checked.
    pub(crate) fn from_points(points: Vec<PublicKey>) -> Result<Self, ShamirError> {
        if points.is_empty() || points.len() > MAX_SHARES {
            return Err(ShamirError::Size { threshold: points.len(), total: MAX_SHARES });
        }
        Ok(Self { points })
    }

    /// The points, the group key first.
    pub(crate) fn points(&self) -> &[PublicKey] {
        &self.points
    }

    /// The compressed points, the group key first.
    pub fn to_bytes(&self) -> Vec<PublicKeyBytes> {
        self.points.iter().map(PublicKey::to_bytes).collect()
    }

    /// Shares needed.
    pub fn threshold(&self) -> usize {
        self.points.len()
    }

    /// The key whose secret was split.
    pub fn group_key(&self) -> PublicKey {
        self.points[0] // Never empty: checked when made.
    }

    /// The public share at an index.
    pub fn public_share(&self, index: ShareIndex) -> Result<PublicShare, ShamirError> {
        let x = Fr::from_u64(index.get());
        let value = self
            .points
            .iter()
            .rev()
            .fold(G1::identity(), |value, point| value.mul(&x).add(&G1::from_parsed(&point.0)));
        Ok(PublicShare { index, key: PublicKey::from_unchecked(value.to_parsed())? })
    }

    /// Whether a share belongs to this polynomial: what its holder checks before trusting the dealer.
    pub fn matches(&self, share: &SecretShare) -> bool {
        self.public_share(share.index()) == Ok(share.public_share())
    }
}

/// The result of [`split`].
pub struct Split {
    /// Shares 1 to n, in order.
    pub shares: Vec<SecretShare>,
    /// The commitments that prove them.
    pub commitments: Commitments,
}

/// Splits a key into `total` shares of which any `threshold` can sign.
pub fn split(
    secret: SecretKey,
    threshold: usize,
    total: usize,
    rng: &mut (impl CryptoRng + ?Sized),
) -> Result<Split, ShamirError> {
    if threshold == 0 || threshold > total || total > MAX_SHARES {
        return Err(ShamirError::Size { threshold, total });
    }
    let polynomial = Polynomial::with_secret(secret, threshold, rng)?;
    let indices = (1_u64..).take(total);
    let shares =
        indices.map(|index| polynomial.share(ShareIndex::new(index)?)).collect::<Result<_, ShamirError>>()?;
    Ok(Split { shares, commitments: polynomial.commitments() })
}

/// The group key that public shares belong to. With fewer than the threshold the result is a key of nobody.
pub fn interpolate_public_key(shares: &[PublicShare]) -> Result<PublicKey, ShamirError> {
    let points: Vec<_> = shares.iter().map(|share| (share.index, share.key.0.into())).collect();
    Ok(PublicKey::from_unchecked(interpolate::<G1>(&points)?.to_parsed())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha20Rng;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]

        #[test]
        fn any_threshold_of_public_shares_gives_the_group_key(seed: u64, total in 1_usize..8, pick: u8) {
            let mut rng = ChaCha20Rng::seed_from_u64(seed);
            let threshold = usize::from(pick) % total + 1;
            let secret = SecretKey::random(&mut rng);
            let group_key = secret.public_key();
            let split = split(secret, threshold, total, &mut rng).unwrap();
            prop_assert_eq!(split.commitments.group_key(), group_key);
            prop_assert!(split.shares.iter().all(|share| split.commitments.matches(share)));
            let public: Vec<_> = split.shares.iter().map(SecretShare::public_share).collect();
            let first = interpolate_public_key(&public[..threshold]).unwrap();
            let last = interpolate_public_key(&public[total - threshold..]).unwrap();
            prop_assert_eq!((first, last), (group_key, group_key));
            if threshold > 1 {
                prop_assert_ne!(interpolate_public_key(&public[..threshold - 1]).unwrap(), group_key);
            }
        }
    }

    #[test]
    fn impossible_sizes_are_refused() {
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        for (threshold, total) in [(0, 4), (5, 4), (1, 257), (0, 0)] {
            let secret = SecretKey::random(&mut rng);
            let refused = matches!(split(secret, threshold, total, &mut rng), Err(ShamirError::Size { .. }));
            assert!(refused, "{threshold} of {total}");
        }
    }

    #[test]
    fn a_share_of_another_polynomial_is_noticed() {
        let mut rng = ChaCha20Rng::seed_from_u64(2);
        let ours = Polynomial::random(3, &mut rng).unwrap();
        let other = Polynomial::random(3, &mut rng).unwrap();
        let index = ShareIndex::new(2).unwrap();
        assert!(ours.commitments().matches(&ours.share(index).unwrap()));
        assert!(!ours.commitments().matches(&other.share(index).unwrap()));
    }
}
