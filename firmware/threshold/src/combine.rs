//! From partial signatures to the group's signature.
//!
//! Optimistic: `threshold` partials are combined without a look, and only the results are checked, all of a slot at once.
//! When that fails, the partials that were used are checked in one batch per operator, which names the liar directly; the
//! results are made again without it. A partial outside the subgroup spoils the result's check or cancels out; it never makes
//! a wrong result pass, since every result is itself checked for subgroup and signature (decision 0190).

use crate::MAX_SHARES;
use crate::ffi::{G2, HashedMessage};
use crate::keys::{PublicKey, ShareIndex};
use crate::lagrange::{InterpolationError, Plan, are_whole, interpolate};
use crate::memory::Bounded;
use crate::run::Run;
use crate::signature::{INFINITY, Signature, SignatureError, parse_on_curve};
use crate::suspects::Suspects;
use blst::blst_p2_affine;
use chain::{Epoch, SignatureBytes};
use rand::CryptoRng;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

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
    /// Fewer partials than the threshold; those of this message that turned out wrong are named.
    #[error("{valid} usable partial signatures are fewer than the {needed} needed")]
    TooFew {
        /// Those of known shares that were not found wrong.
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
    /// The partials: one per operator; those of unknown shares and repetitions are passed over.
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

/// What came out for the jobs of one call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Combination {
    /// One for each job, in their order. All signatures are verified.
    pub results: Vec<Result<SignatureBytes, CombineError>>,
    /// Operators that sent at least one wrong partial. Never an honest one.
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
        .map(|(index, bytes)| match point_of(bytes) {
            Ok(point) => Ok((*index, point)),
            Err(source) => Err(CombineError::Malformed { index: *index, source }),
        })
        .collect::<Result<_, _>>()?;
    let sum: G2 = interpolate(&points)?;
    let signature = Signature::from_unchecked(sum.to_parsed()).map_err(|_| CombineError::NotInSubgroup)?;
    Ok(signature.to_bytes())
}

/// Combines and verifies one job, with nothing remembered.
pub fn combine_and_verify(
    job: &Job<'_>,
    rng: &mut (impl CryptoRng + ?Sized),
) -> Result<Combined, CombineError> {
    let Combination { mut results, liars } =
        Combiner::default().combine(std::slice::from_ref(job), Epoch(0), rng);
    match results.pop() {
        Some(Ok(signature)) => Ok(Combined { signature, liars }),
        Some(Err(error)) => Err(error),
        None => Err(CombineError::NotInSubgroup), // One result per job: never happens.
    }
}

/// The partials of a job that come from known shares, the first of each, with the key each must match.
pub(crate) fn known_partials<'a>(
    job: &Job<'a>,
) -> impl Iterator<Item = (ShareIndex, SignatureBytes, &'a PublicKey)> {
    let (shares, mut seen) = (job.public_shares, BTreeSet::new());
    job.partials
        .iter()
        .filter_map(move |(index, bytes)| Some((*index, *bytes, shares.get(index)?)))
        .filter(move |(index, _, _)| seen.insert(*index))
        .take(MAX_SHARES)
}

/// A point of the curve, maybe outside the subgroup, but not infinity.
fn point_of(bytes: &SignatureBytes) -> Result<blst_p2_affine, SignatureError> {
    match parse_on_curve(&bytes.0) {
        Ok(_) if *bytes == INFINITY => Err(SignatureError::Empty),
        Ok(point) => Ok(point.into()),
        Err(source) => Err(source),
    }
}

/// Hashed messages kept: those of the duties of a slot or two.
const HASHES: usize = 64;
/// Points kept, of 96 + 192 bytes each: a slot's of the largest cluster.
const POINTS: usize = 2048;
/// Sets of operators whose plan is kept.
const PLANS: usize = 64;
/// Subsets tried in search for one with whole coefficients. Among those of 16 operators one in fifty has them.
const SUBSETS_TRIED: usize = 256;

/// Combines, and remembers between calls who lied, hashed messages and read points. For one cluster; may be used by several
/// threads at once.
pub struct Combiner {
    memory: Mutex<Memory>,
}

struct Memory {
    suspects: Suspects,
    hashes: Bounded<Vec<u8>, HashedMessage>,
    points: Bounded<SignatureBytes, Option<blst_p2_affine>>,
    /// By threshold and the operators at hand.
    plans: Bounded<(usize, Vec<ShareIndex>), Arc<Plan>>,
}

impl Default for Combiner {
    fn default() -> Self {
        let memory = Memory {
            suspects: Suspects::default(),
            hashes: Bounded::new(HASHES),
            points: Bounded::new(POINTS),
            plans: Bounded::new(PLANS),
        };
        Self { memory: Mutex::new(memory) }
    }
}

impl Combiner {
    /// Hashes a message that will be needed soon.
    pub fn expect_message(&self, message: &[u8]) {
        self.hashed(message);
    }

    /// Reads points while the others are still on their way.
    pub fn expect_partials(&self, signatures: impl IntoIterator<Item = SignatureBytes>) {
        for bytes in signatures.into_iter().take(POINTS) {
            let known = self.lock().points.get(&bytes).is_some();
            if !known {
                let point = point_of(&bytes).ok();
                self.lock().points.insert(bytes, point);
            }
        }
    }

    /// Operators whose partials are used last, since one was wrong lately.
    pub fn suspects(&self, epoch: Epoch) -> Vec<ShareIndex> {
        self.lock().suspects.at(epoch)
    }

    /// Combines and verifies all jobs: one check for all results when everybody was honest.
    pub fn combine(
        &self,
        jobs: &[Job<'_>],
        epoch: Epoch,
        rng: &mut (impl CryptoRng + ?Sized),
    ) -> Combination {
        let suspects = self.suspects(epoch);
        let found = Run::new(self, jobs, &suspects).finish(&suspects, rng);
        let mut memory = self.lock();
        found.right.iter().for_each(|index| memory.suspects.was_right(*index));
        found.liars.iter().for_each(|index| memory.suspects.was_wrong(*index, epoch));
        drop(memory);
        Combination { results: found.results, liars: found.liars.into_iter().collect() }
    }

    pub(crate) fn hashed(&self, message: &[u8]) -> HashedMessage {
        if let Some(hashed) = self.lock().hashes.get(message) {
            return hashed;
        }
        let hashed = HashedMessage::new(message);
        self.lock().hashes.insert(message.to_vec(), hashed);
        hashed
    }

    pub(crate) fn point(&self, bytes: &SignatureBytes) -> Option<blst_p2_affine> {
        let known = self.lock().points.get(bytes);
        known.unwrap_or_else(|| point_of(bytes).ok())
    }

    /// Which `threshold` of these operators, and how. More than enough at hand: a set with whole coefficients, if one is
    /// found soon, since the division costs more than all the rest of the combination.
    pub(crate) fn plan(&self, threshold: usize, mut at_hand: Vec<ShareIndex>) -> Option<Arc<Plan>> {
        at_hand.sort_unstable();
        let key = (threshold, at_hand);
        if let Some(plan) = self.lock().plans.get(&key) {
            return Some(plan);
        }
        let whole = subsets(&key.1, threshold).take(SUBSETS_TRIED).find(|subset| are_whole(subset));
        let chosen = whole.or_else(|| subsets(&key.1, threshold).next())?;
        let plan = Arc::new(Plan::new(chosen).ok()?);
        self.lock().plans.insert(key, Arc::clone(&plan));
        Some(plan)
    }

    fn lock(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All subsets of one size, in lexicographic order of their places.
fn subsets(of: &[ShareIndex], size: usize) -> impl Iterator<Item = Vec<ShareIndex>> {
    let first: Vec<usize> = (0..size).collect();
    let next = move |places: &Vec<usize>| {
        let mut places = places.clone();
        let last = (0..size).rev().find(|i| places[*i] + size - i < of.len())?;
        places[last] += 1;
        for i in last + 1..size {
            places[i] = places[i - 1] + 1;
        }
        Some(places)
    };
    let start = (size <= of.len()).then_some(first);
    std::iter::successors(start, next).map(move |places| places.into_iter().map(|place| of[place]).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn indices(numbers: &[u64]) -> Vec<ShareIndex> {
        numbers.iter().map(|number| ShareIndex::new(*number).unwrap()).collect()
    }

    #[test]
    fn subsets_are_all_there_once() {
        let of = indices(&[1, 2, 3, 4, 5]);
        for (size, count) in [(1, 5), (2, 10), (3, 10), (5, 1), (6, 0)] {
            let all: BTreeSet<Vec<ShareIndex>> = subsets(&of, size).collect();
            assert_eq!((all.len(), subsets(&of, size).count()), (count, count), "{size}");
            assert!(all.iter().all(|subset| subset.len() == size));
        }
    }

    #[test]
    fn whole_coefficients_are_preferred_when_there_is_a_choice() {
        let combiner = Combiner::default();
        let cases: [(usize, &[u64], &[u64]); 4] = [
            (3, &[4, 2, 1], &[1, 2, 4]),
            (3, &[4, 3, 2, 1], &[1, 2, 3]),
            (3, &[4, 3, 1], &[1, 3, 4]),
            (2, &[2, 3, 4], &[2, 3]),
        ];
        for (threshold, at_hand, chosen) in cases {
            let plan = combiner.plan(threshold, indices(at_hand)).unwrap();
            assert_eq!(plan.indices(), indices(chosen), "{at_hand:?}");
        }
        assert!(combiner.plan(3, indices(&[1, 2])).is_none());
        let sixteen = indices(&(1..=16).collect::<Vec<_>>());
        assert!(are_whole(combiner.plan(11, sixteen).unwrap().indices()), "found among those tried");
    }
}
