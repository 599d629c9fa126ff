//! The arithmetic of blst behind safe types: scalars, points of G1 and G2, hashing to G2.
//!
//! The only module with `unsafe`. Every block calls one C function with pointers to live, initialised Rust values of exactly
//! the type the generated binding asks for; the functions keep no pointer and touch nothing else.
#![expect(unsafe_code, reason = "blst offers field and group arithmetic only through its C interface")]

use blst::min_pk;
use blst::{
    MultiPoint as _, blst_fp, blst_fp12, blst_fr, blst_p1, blst_p1_affine, blst_p2, blst_p2_affine,
    blst_scalar,
};
use rand::CryptoRng;
use zeroize::{Zeroize, Zeroizing};

/// The domain separation tag of Ethereum's signatures.
pub(crate) const DST: &[u8] = b"BLS_SIG_BLS12381G2_XMD:SHA-256_SSWU_RO_POP_";

/// A number modulo the group order. It may be secret, so it is wiped on drop and not `Copy`.
pub(crate) struct Fr(blst_fr);

impl Drop for Fr {
    fn drop(&mut self) {
        self.0.l.zeroize();
    }
}

impl Fr {
    pub(crate) fn zero() -> Self {
        Self(blst_fr::default())
    }

    pub(crate) fn from_u64(value: u64) -> Self {
        Self::from_u128(value.into())
    }

    pub(crate) fn from_u128(value: u128) -> Self {
        let bytes = value.to_le_bytes();
        let (low, high) = bytes.split_at(8);
        let limb = |half: &[u8]| half.iter().rev().fold(0, |limb, byte| limb << 8 | u64::from(*byte));
        let limbs = [limb(low), limb(high), 0, 0];
        let mut out = Self::zero();
        // SAFETY: `out` is one blst_fr; the function reads exactly four 64-bit limbs, which `limbs` holds.
        unsafe { blst::blst_fr_from_uint64(&mut out.0, limbs.as_ptr()) };
        out
    }

    /// Reads a canonical big-endian number; none when it is not below the group order.
    pub(crate) fn from_be_bytes(bytes: &[u8; 32]) -> Option<Self> {
        let mut scalar = blst_scalar::default();
        // SAFETY: the function reads exactly 32 bytes, which `bytes` holds, and writes one blst_scalar.
        unsafe { blst::blst_scalar_from_bendian(&mut scalar, bytes.as_ptr()) };
        // SAFETY: reads one initialised blst_scalar.
        let canonical = unsafe { blst::blst_scalar_fr_check(&scalar) };
        canonical.then(|| Self::from_scalar(&scalar))
    }

    /// An evenly distributed number: 512 random bits reduced, so that the bias is below 2^-256.
    pub(crate) fn random(rng: &mut (impl CryptoRng + ?Sized)) -> Self {
        let mut wide = Zeroizing::new([0_u8; 64]);
        rng.fill_bytes(wide.as_mut());
        let mut scalar = blst_scalar::default();
        // SAFETY: the function reads the given count of bytes, all inside `wide`, and writes one blst_scalar.
        // Its result only says whether the number is not zero, which callers ask with `is_zero`.
        let _ = unsafe { blst::blst_scalar_from_be_bytes(&mut scalar, wide.as_ptr(), wide.len()) };
        Self::from_scalar(&scalar)
    }

    pub(crate) fn to_be_bytes(&self) -> Zeroizing<[u8; 32]> {
        let mut bytes = Zeroizing::new([0_u8; 32]);
        let scalar = self.to_scalar();
        // SAFETY: reads one blst_scalar and writes exactly 32 bytes, which `bytes` holds.
        unsafe { blst::blst_bendian_from_scalar(bytes.as_mut_ptr(), &scalar) };
        bytes
    }

    pub(crate) fn is_zero(&self) -> bool {
        self.0 == blst_fr::default()
    }

    pub(crate) fn add(&self, other: &Self) -> Self {
        let mut out = Self::zero();
        // SAFETY: three live blst_fr values.
        unsafe { blst::blst_fr_add(&mut out.0, &self.0, &other.0) };
        out
    }

    pub(crate) fn sub(&self, other: &Self) -> Self {
        let mut out = Self::zero();
        // SAFETY: three live blst_fr values.
        unsafe { blst::blst_fr_sub(&mut out.0, &self.0, &other.0) };
        out
    }

    pub(crate) fn mul(&self, other: &Self) -> Self {
        let mut out = Self::zero();
        // SAFETY: three live blst_fr values.
        unsafe { blst::blst_fr_mul(&mut out.0, &self.0, &other.0) };
        out
    }

    /// The inverse; zero for zero.
    pub(crate) fn inverse(&self) -> Self {
        let mut out = Self::zero();
        // SAFETY: two live blst_fr values.
        unsafe { blst::blst_fr_inverse(&mut out.0, &self.0) };
        out
    }

    fn from_scalar(scalar: &blst_scalar) -> Self {
        let mut out = Self::zero();
        // SAFETY: reads one initialised blst_scalar, writes one blst_fr.
        unsafe { blst::blst_fr_from_scalar(&mut out.0, scalar) };
        out
    }

    /// The plain form; `blst_scalar` wipes itself on drop.
    fn to_scalar(&self) -> blst_scalar {
        let mut scalar = blst_scalar::default();
        // SAFETY: reads one blst_fr, writes one blst_scalar.
        unsafe { blst::blst_scalar_from_fr(&mut scalar, &self.0) };
        scalar
    }
}

/// What G1 and G2 have in common, as far as interpolation needs it.
pub(crate) trait Group: Copy {
    /// A point with its plain coordinates: adding one costs a quarter less.
    type Affine: Copy;
    /// The neutral element.
    fn identity() -> Self;
    fn from_affine(affine: &Self::Affine) -> Self;
    fn negated(affine: &Self::Affine) -> Self::Affine;
    fn add(&self, other: &Self) -> Self;
    fn add_affine(&self, other: &Self::Affine) -> Self;
    fn double(&self) -> Self;
    /// In G2 right only for points of the subgroup; others give some other point, which the check of the result finds.
    fn mul(&self, scalar: &Fr) -> Self;
    fn is_identity(&self) -> bool;
}

macro_rules! group {
    ($name:ident, $point:ty, $affine:ty, $parsed:ty, $add:path, $add_affine:path, $double:path, $negate:path, $mul:path, $from:path, $to:path, $is_inf:path) => {
        /// A point in projective form.
        #[derive(Clone, Copy)]
        pub(crate) struct $name($point);

        impl Group for $name {
            type Affine = $affine;

            fn identity() -> Self {
                Self(<$point>::default()) // Z = 0 is blst's point at infinity.
            }

            fn from_affine(affine: &$affine) -> Self {
                let mut out = <$point>::default();
                // SAFETY: reads one affine point, writes one projective point.
                unsafe { $from(&mut out, affine) };
                Self(out)
            }

            fn negated(affine: &$affine) -> $affine {
                let mut out = *affine;
                // SAFETY: reads one field element, writes one of the same type.
                unsafe { $negate(&mut out.y, &affine.y, true) };
                out
            }

            fn add(&self, other: &Self) -> Self {
                let mut out = <$point>::default();
                // SAFETY: three live points; the function is defined for equal points and for infinity.
                unsafe { $add(&mut out, &self.0, &other.0) };
                Self(out)
            }

            fn add_affine(&self, other: &$affine) -> Self {
                let mut out = <$point>::default();
                // SAFETY: three live points; the function is defined for equal points and for infinity.
                unsafe { $add_affine(&mut out, &self.0, other) };
                Self(out)
            }

            fn double(&self) -> Self {
                let mut out = <$point>::default();
                // SAFETY: two live points.
                unsafe { $double(&mut out, &self.0) };
                Self(out)
            }

            fn is_identity(&self) -> bool {
                // SAFETY: reads one live point.
                unsafe { $is_inf(&self.0) }
            }

            fn mul(&self, scalar: &Fr) -> Self {
                let scalar = scalar.to_scalar();
                let mut out = <$point>::default();
                // SAFETY: two live points; reads 255 bits, that is 32 bytes, which `scalar.b` holds.
                unsafe { $mul(&mut out, &self.0, scalar.b.as_ptr(), 255) };
                Self(out)
            }
        }

        impl $name {
            pub(crate) fn from_parsed(parsed: &$parsed) -> Self {
                Self::from_affine(parsed.into())
            }

            pub(crate) fn to_parsed(self) -> $parsed {
                let mut affine = <$affine>::default();
                // SAFETY: reads one projective point, writes one affine point.
                unsafe { $to(&mut affine, &self.0) };
                affine.into()
            }
        }
    };
}

group!(
    G1,
    blst_p1,
    blst_p1_affine,
    min_pk::PublicKey,
    blst::blst_p1_add_or_double,
    blst::blst_p1_add_or_double_affine,
    blst::blst_p1_double,
    blst::blst_fp_cneg,
    blst::blst_p1_mult,
    blst::blst_p1_from_affine,
    blst::blst_p1_to_affine,
    blst::blst_p1_is_inf
);
group!(
    G2,
    blst_p2,
    blst_p2_affine,
    min_pk::Signature,
    blst::blst_p2_add_or_double,
    blst::blst_p2_add_or_double_affine,
    blst::blst_p2_double,
    blst::blst_fp2_cneg,
    blst::blst_p2_mult,
    blst::blst_p2_from_affine,
    blst::blst_p2_to_affine,
    blst::blst_p2_is_inf
);

impl G2 {
    /// The plain coordinates of all points with one inversion for all. Infinity is not for this function.
    pub(crate) fn to_affines(points: &[Self]) -> Vec<blst_p2_affine> {
        if points.is_empty() {
            return Vec::new(); // The library reads the first point unasked.
        }
        let points: Vec<blst_p2> = points.iter().map(|point| point.0).collect();
        blst::p2_affines::from(&points).as_slice().to_vec()
    }

    /// Σ multipliers[i] · points[i], for 64-bit multipliers. Public numbers only: the time depends on them.
    pub(crate) fn sum_of_multiples(points: &[blst_p2_affine], multipliers: &[u64]) -> Self {
        match points {
            [] => Self::identity(),
            [_, ..] => Self(points.mult(&little_endian(multipliers), 64)),
        }
    }
}

impl G1 {
    /// The same in G1.
    pub(crate) fn sum_of_multiples(points: &[blst_p1_affine], multipliers: &[u64]) -> Self {
        match points {
            [] => Self::identity(),
            [_, ..] => Self(points.mult(&little_endian(multipliers), 64)),
        }
    }
}

/// At least one byte per eight bits and point, which the multi-point functions read.
fn little_endian(multipliers: &[u64]) -> Vec<u8> {
    multipliers.iter().flat_map(|multiplier| multiplier.to_le_bytes()).collect()
}

/// Whether e(g₁, signature) = Π e(keys[i], messages[i]): one Miller loop each and one final exponentiation for all.
/// False when one of the points is infinity, with which nothing can be shown.
pub(crate) fn pairings_agree(signature: G2, pairs: &[(G1, HashedMessage)]) -> bool {
    if pairs.is_empty() || signature.is_identity() || pairs.iter().any(|(key, _)| key.is_identity()) {
        return false;
    }
    let keys: Vec<blst_p1> = pairs.iter().map(|(key, _)| key.0).collect();
    // SAFETY: a constant of the library, which is never written.
    let negative_generator = unsafe { blst::BLS12_381_NEG_G1 };
    let mut in_g1 = vec![negative_generator];
    in_g1.extend_from_slice(blst::p1_affines::from(&keys).as_slice());
    let mut in_g2 = G2::to_affines(&[signature]);
    in_g2.extend(pairs.iter().map(|(_, message)| message.affine));
    // The default is one.
    blst_fp12::miller_loop_n(&in_g2, &in_g1).final_exp() == blst_fp12::default()
}

impl G1 {
    /// The public point of a secret number, in constant time.
    pub(crate) fn from_secret(secret: &Fr) -> Self {
        let scalar = secret.to_scalar();
        let mut out = blst_p1::default();
        // SAFETY: reads one blst_scalar, writes one point.
        unsafe { blst::blst_sk_to_pk_in_g1(&mut out, &scalar) };
        Self(out)
    }
}

/// A message hashed to the curve: the costly half of signing, shared by all shares that sign the same message.
#[derive(Clone, Copy)]
pub struct HashedMessage {
    affine: blst_p2_affine,
}

impl HashedMessage {
    /// Hashes a message with Ethereum's domain separation tag.
    pub fn new(message: &[u8]) -> Self {
        Self::with_tag(message, DST)
    }

    /// Hashes a message with another tag, for signatures that are none of Ethereum's.
    pub(crate) fn with_tag(message: &[u8], tag: &[u8]) -> Self {
        let point = hash_to_g2(message, tag);
        let mut affine = blst_p2_affine::default();
        // SAFETY: reads one projective point, writes one affine point.
        unsafe { blst::blst_p2_to_affine(&mut affine, &point) };
        Self { affine }
    }

    /// Signs in constant time.
    pub(crate) fn sign(&self, secret: &Fr) -> min_pk::Signature {
        let scalar = secret.to_scalar();
        let mut out = blst_p2::default();
        // SAFETY: reads one point and one blst_scalar, writes one point.
        unsafe { blst::blst_sign_pk_in_g1(&mut out, &G2::from_affine(&self.affine).0, &scalar) };
        G2(out).to_parsed()
    }
}

/// Hashes to a number: 48 bytes of `expand_message_xmd` with SHA-256 (RFC 9380), big-endian, reduced.
pub(crate) fn hash_to_scalar(message: &[u8], dst: &[u8]) -> Fr {
    let mut wide = [0_u8; 48];
    // SAFETY: each pointer comes with the length of its slice; writes exactly the 48 bytes of `wide`.
    unsafe {
        blst::blst_expand_message_xmd(
            wide.as_mut_ptr(),
            wide.len(),
            message.as_ptr(),
            message.len(),
            dst.as_ptr(),
            dst.len(),
        );
    }
    let mut scalar = blst_scalar::default();
    // SAFETY: the function reads the given count of bytes, all inside `wide`, and writes one blst_scalar.
    // Its result only says whether the number is not zero, which callers ask with `is_zero`.
    let _ = unsafe { blst::blst_scalar_from_be_bytes(&mut scalar, wide.as_ptr(), wide.len()) };
    Fr::from_scalar(&scalar)
}

fn hash_to_g2(message: &[u8], dst: &[u8]) -> blst_p2 {
    let mut out = blst_p2::default();
    // SAFETY: each pointer comes with the length of its slice (the last pair is empty); writes one point.
    unsafe {
        blst::blst_hash_to_g2(
            &mut out,
            message.as_ptr(),
            message.len(),
            dst.as_ptr(),
            dst.len(),
            [].as_ptr(),
            0,
        );
    }
    out
}

/// Hashes to G2 with any tag and gives the affine coordinates x.c0, x.c1, y.c0, y.c1, big-endian.
/// Only conformance tests need this (RFC 9380).
pub fn hash_to_g2_affine(message: &[u8], dst: &[u8]) -> [[u8; 48]; 4] {
    let mut affine = blst_p2_affine::default();
    let point = hash_to_g2(message, dst);
    // SAFETY: reads one projective point, writes one affine point.
    unsafe { blst::blst_p2_to_affine(&mut affine, &point) };
    [affine.x.fp[0], affine.x.fp[1], affine.y.fp[0], affine.y.fp[1]].map(|element| field_bytes(&element))
}

fn field_bytes(element: &blst_fp) -> [u8; 48] {
    let mut bytes = [0; 48];
    // SAFETY: reads one field element, writes exactly 48 bytes.
    unsafe { blst::blst_bendian_from_fp(bytes.as_mut_ptr(), element) };
    bytes
}

/// A non-zero random number: zero would take its signature out of the check, so it becomes one (once in 2^64 draws).
pub(crate) fn nonzero_u64(rng: &mut (impl CryptoRng + ?Sized)) -> u64 {
    rng.next_u64().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_number_is_wiped_when_it_goes() {
        let mut number = std::mem::ManuallyDrop::new(Fr::from_u64(7));
        assert_ne!(number.0.l, [0; 4]);
        // SAFETY: it is dropped once; what is read afterwards are plain numbers, which are valid whatever they hold.
        unsafe { std::mem::ManuallyDrop::drop(&mut number) };
        assert_eq!(number.0.l, [0; 4]);
    }
}
