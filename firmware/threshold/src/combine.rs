//! From partial signatures to the group's signature.
//!
//! Optimistic: the first `threshold` partials are combined without a look, and only the result is checked. When it fails, the
//! partials are checked per operator in a batch, which names the liar at the cost of one extra pass, and the rest is combined
//! again. A partial outside the subgroup spoils the result's check or cancels out; it never makes a wrong result pass, since
//! the result itself is checked for subgroup and signature.

use crate::MAX_SHARES;
use crate::batch::{BatchItem, batch_verify};
use crate::ffi::G2;
use crate::keys::{PublicKey, ShareIndex};
use crate::lagrange::{InterpolationError, interpolate};
use crate::signature::{Signature, SignatureError, parse_on_curve, verify};
use chain::SignatureBytes;
use rand::CryptoRng;
use std::collections::{BTreeMap, BTreeSet};

/// Why no group signature came out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CombineError {
    /// The indices cannot be interpolated over.
    #[error("the partial signatures cannot be put together")]
    Interpolation(#[from] InterpolationError),
    /// A partial is no point of the curve, or infinity.
    #[error("the partial signature of share {index} is malformed")]
    Malformed {
        /// Whose.
        index: ShareIndex,
        /// What is wrong with it.
        #[source]
        source: SignatureError,
    },
    /// The combination lies outside the group, so at least one partial does.
    #[error("the combined signature is not in the right subgroup: at least one partial signature is wrong")]
    NotInSubgroup,
    /// Fewer valid partials than the threshold; the liars are named.
    #[error("{valid} valid partial signatures are fewer than the {needed} needed")]
    TooFew {
        /// Valid ones of known shares.
        valid: usize,
        /// The threshold.
        needed: usize,
        /// Shares whose partial was wrong.
        liars: Vec<ShareIndex>,
    },
    /// All partials are valid and still the result is not: the public shares do not belong to the group key.
    #[error(
        "all partial signatures are valid, but their combination is not: the public shares belong to another group key"
    )]
    WrongGroupKey,
}

/// One message of one validator, with the partials that arrived.
#[derive(Clone, Copy)]
pub struct Job<'a> {
    /// The validator's key.
    pub group_key: &'a PublicKey,
    /// The public share of every operator.
    pub public_shares: &'a BTreeMap<ShareIndex, PublicKey>,
    /// Partials needed.
    pub threshold: usize,
    /// What was signed; on Ethereum a 32-byte signing root.
    pub message: &'a [u8],
    /// The partials in the order they should be preferred: put those of an operator that lied last. One per operator; those
    /// of unknown shares and repetitions are passed over.
    pub partials: &'a [(ShareIndex, SignatureBytes)],
}

/// A verified group signature, and who sent a wrong partial (empty when nobody had to be checked).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Combined {
    /// The group's signature.
    pub signature: SignatureBytes,
    /// Shares whose partial turned out wrong.
    pub liars: Vec<ShareIndex>,
}

/// Combines all given partials, whatever their number, and checks nothing but that the result is in the group. With fewer
/// than the threshold or a wrong one among them the result is a valid point that verifies under no known key.
pub fn combine(partials: &[(ShareIndex, SignatureBytes)]) -> Result<SignatureBytes, CombineError> {
    if partials.len() > MAX_SHARES {
        return Err(InterpolationError::TooMany(partials.len()).into());
    }
    let points: Vec<_> = partials
        .iter()
        .map(|(index, bytes)| match parse_on_curve(&bytes.0) {
            Ok(_) if *bytes == crate::signature::INFINITY => {
                Err(CombineError::Malformed { index: *index, source: SignatureError::Empty })
            }
            Ok(point) => Ok((*index, G2::from_parsed(&point))),
            Err(source) => Err(CombineError::Malformed { index: *index, source }),
        })
        .collect::<Result<_, _>>()?;
    let sum = interpolate(&points)?;
    let signature = Signature::from_unchecked(sum.to_parsed()).map_err(|_| CombineError::NotInSubgroup)?;
    Ok(signature.to_bytes())
}

/// Combines and verifies one job.
pub fn combine_and_verify(
    job: &Job<'_>,
    rng: &mut (impl CryptoRng + ?Sized),
) -> Result<Combined, CombineError> {
    let [result] =
        combine_all(std::slice::from_ref(job), rng).try_into().unwrap_or([Err(CombineError::NotInSubgroup)]);
    result
}

/// Combines and verifies the jobs of a slot: one batch verification for all results when everybody was honest.
pub fn combine_all(
    jobs: &[Job<'_>],
    rng: &mut (impl CryptoRng + ?Sized),
) -> Vec<Result<Combined, CombineError>> {
    let usable: Vec<Usable> = jobs.iter().map(Usable::of).collect();
    let optimistic: Vec<Option<Signature>> =
        jobs.iter().zip(&usable).map(|(job, usable)| usable.combine_first(job.threshold)).collect();
    let results: Vec<BatchItem<'_>> = jobs
        .iter()
        .zip(&optimistic)
        .filter_map(|(job, signature)| {
            signature.as_ref().map(|signature| BatchItem {
                key: job.group_key,
                message: job.message,
                signature,
            })
        })
        .collect();
    let all_valid = batch_verify(&results, rng);
    let failed: Vec<bool> = jobs
        .iter()
        .zip(&optimistic)
        .map(|(job, signature)| match signature {
            Some(signature) => !all_valid && !verify(job.group_key, job.message, signature),
            None => true,
        })
        .collect();
    let suspects: Vec<(&Job<'_>, &Usable)> =
        jobs.iter().zip(&usable).zip(&failed).filter(|(_, failed)| **failed).map(|(pair, _)| pair).collect();
    let mut second_pass = Checked::of(&suspects, rng).into_iter();
    jobs.iter()
        .zip(&optimistic)
        .zip(&failed)
        .map(|((job, signature), failed)| match (signature, failed) {
            (Some(signature), false) => Ok(Combined { signature: signature.to_bytes(), liars: Vec::new() }),
            (Some(_) | None, _) => match second_pass.next() {
                Some(checked) => checked.combine(job),
                None => Err(CombineError::NotInSubgroup), // One entry per failed job: never happens.
            },
        })
        .collect()
}

/// The partials of a job that come from known shares, first come first.
struct Usable {
    partials: Vec<(ShareIndex, SignatureBytes)>,
}

impl Usable {
    fn of(job: &Job<'_>) -> Self {
        let mut seen = BTreeSet::new();
        let known = |index: &ShareIndex| job.public_shares.contains_key(index);
        let partials = job
            .partials
            .iter()
            .filter(|(index, _)| known(index) && seen.insert(*index))
            .take(MAX_SHARES)
            .copied();
        Self { partials: partials.collect() }
    }

    /// The unverified combination of the preferred partials, when there are enough and they are points.
    fn combine_first(&self, threshold: usize) -> Option<Signature> {
        let first = self.partials.get(..threshold.max(1))?;
        let bytes = combine(first).ok()?;
        Signature::parse(&bytes).ok()
    }
}

/// The partials of a job after each was checked.
struct Checked {
    valid: Vec<(ShareIndex, SignatureBytes)>,
    liars: Vec<ShareIndex>,
}

impl Checked {
    /// Checks all partials of all jobs: one batch per operator over its well-formed partials, then one by one where that
    /// batch fails. An honest operator costs one batch, whatever the number of jobs.
    fn of(jobs: &[(&Job<'_>, &Usable)], rng: &mut (impl CryptoRng + ?Sized)) -> Vec<Self> {
        let mut by_operator: BTreeMap<ShareIndex, Vec<Claim<'_>>> = BTreeMap::new();
        for (number, (job, usable)) in jobs.iter().enumerate() {
            for (index, bytes) in &usable.partials {
                let Some(key) = job.public_shares.get(index) else { continue };
                if let Ok(signature) = Signature::parse(bytes) {
                    let claim = Claim { job: number, key, message: job.message, signature };
                    by_operator.entry(*index).or_default().push(claim);
                }
            }
        }
        let mut valid: BTreeSet<(usize, ShareIndex)> = BTreeSet::new();
        for (index, claims) in &by_operator {
            let items: Vec<_> = claims.iter().map(Claim::item).collect();
            let honest = batch_verify(&items, rng);
            let good = claims.iter().filter(|claim| honest || claim.holds()).map(|claim| (claim.job, *index));
            valid.extend(good);
        }
        jobs.iter()
            .enumerate()
            .map(|(number, (_, usable))| {
                let (good, bad): (Vec<_>, Vec<_>) =
                    usable.partials.iter().partition(|(index, _)| valid.contains(&(number, *index)));
                Self { valid: good, liars: bad.into_iter().map(|(index, _)| index).collect() }
            })
            .collect()
    }

    fn combine(self, job: &Job<'_>) -> Result<Combined, CombineError> {
        let needed = job.threshold.max(1);
        let Some(first) = self.valid.get(..needed) else {
            return Err(CombineError::TooFew { valid: self.valid.len(), needed, liars: self.liars });
        };
        let signature = combine(first)?;
        let verified = Signature::parse(&signature)
            .is_ok_and(|signature| verify(job.group_key, job.message, &signature));
        if verified {
            Ok(Combined { signature, liars: self.liars })
        } else {
            Err(CombineError::WrongGroupKey)
        }
    }
}

/// One operator's word on one job.
struct Claim<'a> {
    job: usize,
    key: &'a PublicKey,
    message: &'a [u8],
    signature: Signature,
}

impl Claim<'_> {
    fn item(&self) -> BatchItem<'_> {
        BatchItem { key: self.key, message: self.message, signature: &self.signature }
    }

    fn holds(&self) -> bool {
        verify(self.key, self.message, &self.signature)
    }
}
