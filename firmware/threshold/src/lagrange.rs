//! Interpolation at zero.
//!
//! The coefficient of share i among the indices x is λ_i = Π_{j≠i} x_j / (x_j − x_i). Indices are small, so these are small
//! rationals: brought to a common denominator D they are c_i / D with integers c_i of a few bits. One double-and-add that
//! all points share then replaces one 255-bit multiplication per point; a single multiplication by D⁻¹ remains when D > 1.
//! Indices too large for that (nobody's today) take the plain way through the field.

use crate::MAX_SHARES;
use crate::ffi::{Fr, Group};
use crate::keys::ShareIndex;
use std::collections::BTreeSet;

/// Why a set of indices cannot be interpolated over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InterpolationError {
    /// Nothing was given.
    #[error("nothing to interpolate: no share was given")]
    Empty,
    /// More than [`MAX_SHARES`].
    #[error("{0} shares at once are more than {MAX_SHARES}")]
    TooMany(usize),
    /// The same index twice.
    #[error("share index {0} was given twice")]
    DuplicateIndex(ShareIndex),
}

/// λ_i = numerators[i] / denominator.
#[derive(Debug, PartialEq, Eq)]
struct Rationals {
    numerators: Vec<i128>,
    denominator: i128,
}

/// Numerators stay below 2^125, so that three times one fits.
const NUMERATOR_LIMIT: i128 = 1 << 125;

/// How to interpolate over one set of indices: worked out once, used for every validator.
#[derive(Debug)]
pub(crate) struct Plan {
    indices: Vec<ShareIndex>,
    /// None for indices too large for the integer way.
    rationals: Option<Rationals>,
}

impl Plan {
    /// For these indices, in this order.
    pub(crate) fn new(indices: Vec<ShareIndex>) -> Result<Self, InterpolationError> {
        check(&indices)?;
        Ok(Self { rationals: rationals(&indices), indices })
    }

    /// The indices, in the order in which [`Self::value_at_zero`] takes their points.
    pub(crate) fn indices(&self) -> &[ShareIndex] {
        &self.indices
    }

    /// The value at zero of the polynomial through the points. Public points only: the running time depends on the indices.
    pub(crate) fn value_at_zero<G: Group>(&self, points: &[G::Affine]) -> G {
        let Some(rationals) = &self.rationals else {
            return interpolate_in_field(points, &self.indices);
        };
        let sum = shared_double_and_add::<G>(points, &rationals.numerators);
        if rationals.denominator == 1 {
            return sum;
        }
        sum.mul(&Fr::from_u128(rationals.denominator.unsigned_abs()).inverse())
    }
}

/// Whether all coefficients are whole numbers; no for indices too large to tell quickly.
pub(crate) fn are_whole(indices: &[ShareIndex]) -> bool {
    let numbers: Option<Vec<i64>> = indices.iter().map(|index| i64::try_from(index.get()).ok()).collect();
    let Some(numbers) = numbers else { return false };
    let Some(product) = numbers.iter().try_fold(1_i64, |product, x| product.checked_mul(*x)) else {
        return false;
    };
    numbers.iter().all(|own| {
        let others = numbers.iter().filter(|x| *x != own);
        let denominator = others.map(|x| x - own).try_fold(1_i64, i64::checked_mul);
        denominator.and_then(|denominator| (product / own).checked_rem(denominator)) == Some(0)
    })
}

/// [`Plan::value_at_zero`] for a set of points that comes once.
pub(crate) fn interpolate<G: Group>(points: &[(ShareIndex, G::Affine)]) -> Result<G, InterpolationError> {
    let plan = Plan::new(points.iter().map(|(index, _)| *index).collect())?;
    let points: Vec<_> = points.iter().map(|(_, point)| *point).collect();
    Ok(plan.value_at_zero(&points))
}

/// The same with one full multiplication per point, as textbooks have it.
pub(crate) fn interpolate_plainly<G: Group>(
    points: &[(ShareIndex, G::Affine)],
) -> Result<G, InterpolationError> {
    let indices: Vec<_> = points.iter().map(|(index, _)| *index).collect();
    check(&indices)?;
    let points: Vec<_> = points.iter().map(|(_, point)| *point).collect();
    Ok(interpolate_in_field(&points, &indices))
}

/// The Lagrange coefficients at zero, 32 bytes big-endian each, in the order of the indices.
pub fn lagrange_coefficients(indices: &[ShareIndex]) -> Result<Vec<[u8; 32]>, InterpolationError> {
    check(indices)?;
    Ok(indices.iter().map(|index| *field_coefficient(indices, *index).to_be_bytes()).collect())
}

fn check(indices: &[ShareIndex]) -> Result<(), InterpolationError> {
    if indices.is_empty() {
        return Err(InterpolationError::Empty);
    }
    if indices.len() > MAX_SHARES {
        return Err(InterpolationError::TooMany(indices.len()));
    }
    let mut seen = BTreeSet::new();
    match indices.iter().find(|index| !seen.insert(**index)) {
        Some(twice) => Err(InterpolationError::DuplicateIndex(*twice)),
        None => Ok(()),
    }
}

/// The coefficients as integers over one denominator, or none when they outgrow 125 bits.
fn rationals(indices: &[ShareIndex]) -> Option<Rationals> {
    let fractions: Vec<(i128, i128)> =
        indices.iter().map(|index| fraction(indices, *index)).collect::<Option<_>>()?;
    let denominator = fractions.iter().try_fold(1_i128, |lcm, (_, denominator)| {
        (lcm / greatest_common_divisor(lcm, *denominator)).checked_mul(*denominator)
    })?;
    let numerators: Vec<i128> = fractions
        .iter()
        .map(|(numerator, own)| numerator.checked_mul(denominator / own))
        .collect::<Option<_>>()?;
    let small = numerators.iter().all(|numerator| numerator.abs() < NUMERATOR_LIMIT);
    small.then_some(Rationals { numerators, denominator })
}

/// λ of one index as a reduced fraction with a positive denominator.
fn fraction(indices: &[ShareIndex], of: ShareIndex) -> Option<(i128, i128)> {
    let mut numerator = 1_i128;
    let mut denominator = 1_i128;
    for other in indices.iter().filter(|other| **other != of) {
        let x = i128::from(other.get());
        numerator = numerator.checked_mul(x)?;
        denominator = denominator.checked_mul(x - i128::from(of.get()))?;
        let divisor = greatest_common_divisor(numerator, denominator);
        numerator /= divisor;
        denominator /= divisor;
    }
    if denominator < 0 {
        numerator = numerator.checked_neg()?;
        denominator = denominator.checked_neg()?;
    }
    Some((numerator, denominator))
}

/// Never zero: the callers' numbers are not.
fn greatest_common_divisor(a: i128, b: i128) -> i128 {
    let (mut a, mut b) = (a, b);
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a.checked_abs().unwrap_or(1)
}

/// Σ numerators[i] · points[i], doubling once for all points. Digits are −1, 0 or 1 with no two neighbours set (the
/// non-adjacent form), which needs a third fewer additions than plain bits.
fn shared_double_and_add<G: Group>(points: &[G::Affine], numerators: &[i128]) -> G {
    let terms: Vec<_> = points
        .iter()
        .zip(numerators)
        .map(|(point, numerator)| {
            let magnitude = numerator.unsigned_abs();
            let triple = magnitude * 3;
            let opposite = G::negated(point);
            let (signed, negative) = if *numerator < 0 { (opposite, *point) } else { (*point, opposite) };
            // Digit i is the difference of bit i+1 of 3k and of k.
            (signed, negative, triple & !magnitude, magnitude & !triple)
        })
        .collect();
    let top = terms.iter().map(|(_, _, plus, minus)| 128 - (plus | minus).leading_zeros()).max().unwrap_or(0);
    let mut sum = G::identity();
    for bit in (1..top).rev() {
        sum = sum.double();
        for (point, negative, plus, minus) in &terms {
            if plus >> bit & 1 == 1 {
                sum = sum.add_affine(point);
            }
            if minus >> bit & 1 == 1 {
                sum = sum.add_affine(negative);
            }
        }
    }
    sum
}

fn interpolate_in_field<G: Group>(points: &[G::Affine], indices: &[ShareIndex]) -> G {
    points.iter().zip(indices).fold(G::identity(), |sum, (point, index)| {
        sum.add(&G::from_affine(point).mul(&field_coefficient(indices, *index)))
    })
}

/// λ of one index among `indices`, as a number of the field.
pub(crate) fn field_coefficient(indices: &[ShareIndex], of: ShareIndex) -> Fr {
    let own = Fr::from_u64(of.get());
    let mut numerator = Fr::from_u64(1);
    let mut denominator = Fr::from_u64(1);
    for other in indices.iter().filter(|other| **other != of) {
        let x = Fr::from_u64(other.get());
        denominator = denominator.mul(&x.sub(&own));
        numerator = numerator.mul(&x);
    }
    numerator.mul(&denominator.inverse())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ffi::G1;
    use crate::keys::SecretKey;
    use proptest::prelude::*;

    fn indices(numbers: &[u64]) -> Vec<ShareIndex> {
        numbers.iter().map(|number| ShareIndex::new(*number).unwrap()).collect()
    }

    #[test]
    fn small_clusters_have_small_coefficients() {
        let cases: &[(&[u64], &[i128], i128)] = &[
            (&[1], &[1], 1),
            (&[1, 2], &[2, -1], 1),
            (&[2, 1], &[-1, 2], 1),
            (&[1, 2, 3], &[3, -3, 1], 1),
            (&[1, 2, 4], &[8, -6, 1], 3),
            (&[2, 3, 4], &[6, -8, 3], 1),
            (&[1, 3, 4], &[2, -2, 1], 1),
        ];
        for (numbers, numerators, denominator) in cases {
            let expected = Rationals { numerators: numerators.to_vec(), denominator: *denominator };
            assert_eq!(rationals(&indices(numbers)), Some(expected), "{numbers:?}");
            assert_eq!(are_whole(&indices(numbers)), *denominator == 1, "{numbers:?}");
        }
    }

    #[test]
    fn every_cluster_up_to_sixteen_members_takes_the_integer_way() {
        for subset in 1_u32..1 << 16 {
            let numbers: Vec<u64> = (0..16).filter(|bit| subset >> bit & 1 == 1).map(|bit| bit + 1).collect();
            if numbers.len() > 11 || subset % 7 == 0 {
                let rationals = rationals(&indices(&numbers)).unwrap();
                assert_eq!(are_whole(&indices(&numbers)), rationals.denominator == 1, "{numbers:?}");
            }
        }
    }

    #[test]
    fn unusable_index_sets_are_refused() {
        let cases: &[(&[u64], InterpolationError)] = &[
            (&[], InterpolationError::Empty),
            (&[1, 2, 1], InterpolationError::DuplicateIndex(ShareIndex::new(1).unwrap())),
        ];
        for (numbers, expected) in cases {
            assert_eq!(check(&indices(numbers)), Err(*expected));
        }
        let many = indices(&(1..=257).collect::<Vec<_>>());
        assert_eq!(check(&many), Err(InterpolationError::TooMany(257)));
        assert!(ShareIndex::new(0).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]

        /// The integer way and the field way agree, for small, sparse and huge indices.
        #[test]
        fn both_ways_agree(numbers in proptest::collection::btree_set(prop_oneof![1_u64..20, 1_u64..2000, 1_u64..], 1..7)) {
            let numbers = indices(&numbers.into_iter().collect::<Vec<_>>());
            let points: Vec<_> = numbers
                .iter()
                .zip(1_u8..)
                .map(|(index, secret)| {
                    let mut bytes = [0; 32];
                    bytes[31] = secret;
                    let point = G1::from_secret(&SecretKey::from_bytes(&bytes).unwrap().0).to_parsed();
                    (*index, point.into())
                })
                .collect();
            let through_field = interpolate_plainly::<G1>(&points).unwrap().to_parsed();
            prop_assert!(interpolate::<G1>(&points).unwrap().to_parsed() == through_field);
        }
    }
}
