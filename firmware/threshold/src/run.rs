//! One call of [`Combiner::combine`](crate::Combiner::combine), from partials to verified signatures.

use crate::batch::{Claim, Weighed, claims_hold};
use crate::combine::{CombineError, Combiner, Job, known_partials};
use crate::ffi::{G2, Group as _, HashedMessage};
use crate::keys::{PublicKey, ShareIndex};
use crate::lagrange::{InterpolationError, Plan};
use crate::signature::{Signature, in_subgroup};
use blst::blst_p2_affine;
use chain::SignatureBytes;
use rand::CryptoRng;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// How far one partial is believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// Not looked at; its operator has no lie on record.
    Trusted,
    /// Not looked at, and used only after it was.
    Doubted,
    /// Verified.
    Right,
    /// Found wrong.
    Wrong,
}

struct Candidate<'a> {
    index: ShareIndex,
    bytes: SignatureBytes,
    key: &'a PublicKey,
    standing: Standing,
    point: Option<blst_p2_affine>,
}

impl Candidate<'_> {
    fn usable(&self) -> bool {
        matches!(self.standing, Standing::Trusted | Standing::Right)
    }
}

/// One job on its way.
struct Open<'a> {
    group_key: &'a PublicKey,
    needed: usize,
    message: usize,
    candidates: Vec<Candidate<'a>>,
    plan: Option<Arc<Plan>>,
    /// The combination, if it is in the subgroup.
    result: Option<blst_p2_affine>,
    outcome: Option<Result<SignatureBytes, CombineError>>,
}

impl Open<'_> {
    fn usable(&self) -> usize {
        self.candidates.iter().filter(|candidate| candidate.usable()).count()
    }

    fn lacks(&self) -> bool {
        self.outcome.is_none() && self.usable() < self.needed
    }

    fn used(&self, index: ShareIndex) -> bool {
        self.plan.as_ref().is_some_and(|plan| plan.indices().contains(&index))
    }
}

/// The place of a partial: job and candidate.
type Place = (usize, usize);

/// What a run found out.
pub(crate) struct Found {
    /// One for each job.
    pub(crate) results: Vec<Result<SignatureBytes, CombineError>>,
    /// Operators with a wrong partial.
    pub(crate) liars: BTreeSet<ShareIndex>,
    /// Operators of which something was checked and right.
    pub(crate) right: BTreeSet<ShareIndex>,
}

pub(crate) struct Run<'a> {
    combiner: &'a Combiner,
    jobs: Vec<Open<'a>>,
    hashed: Vec<HashedMessage>,
    liars: BTreeSet<ShareIndex>,
    /// Operators of which something was checked and right.
    right: BTreeSet<ShareIndex>,
}

impl<'a> Run<'a> {
    pub(crate) fn new(combiner: &'a Combiner, jobs: &[Job<'a>], suspects: &[ShareIndex]) -> Self {
        let mut places: BTreeMap<&[u8], usize> = BTreeMap::new();
        let mut hashed = Vec::new();
        let open = |job: &Job<'a>| {
            let message = *places.entry(job.message).or_insert_with(|| {
                hashed.push(combiner.hashed(job.message));
                hashed.len() - 1
            });
            let candidate = |(index, bytes, key)| {
                let standing = if suspects.contains(&index) { Standing::Doubted } else { Standing::Trusted };
                Candidate { index, bytes, key, standing, point: None }
            };
            Open {
                group_key: job.group_key,
                needed: job.threshold.max(1),
                message,
                candidates: known_partials(job).map(candidate).collect(),
                plan: None,
                result: None,
                outcome: None,
            }
        };
        let jobs = jobs.iter().map(open).collect();
        Self { combiner, jobs, hashed, liars: BTreeSet::new(), right: BTreeSet::new() }
    }

    pub(crate) fn finish(mut self, suspects: &[ShareIndex], rng: &mut (impl CryptoRng + ?Sized)) -> Found {
        let mut samples = self.samples(suspects, rng);
        // Each round finishes everything or takes the unchecked trust from at least one operator.
        while self.jobs.iter().any(|job| job.outcome.is_none()) {
            self.check_doubted(rng);
            self.choose();
            self.put_together();
            self.check_results(std::mem::take(&mut samples), rng);
        }
        let results = self.jobs.into_iter().filter_map(|job| job.outcome).collect();
        Found { results, liars: self.liars, right: self.right }
    }

    /// One partial of each suspect that is not needed, chosen so that nobody can foresee it. It is checked along with the
    /// results, at little cost: that is how a suspect shows that it is honest again, and a liar is named in every slot.
    fn samples(&mut self, suspects: &[ShareIndex], rng: &mut (impl CryptoRng + ?Sized)) -> Vec<Place> {
        let mut samples = Vec::new();
        for suspect in suspects {
            let at = |(number, job): (usize, &Open<'_>)| {
                if job.lacks() {
                    return None; // Its partial is checked anyway.
                }
                Some((number, job.candidates.iter().position(|candidate| candidate.index == *suspect)?))
            };
            let places: Vec<Place> = self.jobs.iter().enumerate().filter_map(at).collect();
            let count = u64::try_from(places.len()).unwrap_or(u64::MAX);
            let drawn = rng.next_u64().checked_rem(count).and_then(|drawn| usize::try_from(drawn).ok());
            samples.extend(drawn.and_then(|drawn| places.get(drawn)));
        }
        samples
    }

    /// Checks what is doubted wherever the rest is not enough.
    fn check_doubted(&mut self, rng: &mut (impl CryptoRng + ?Sized)) {
        let mut by_operator: BTreeMap<ShareIndex, Vec<Place>> = BTreeMap::new();
        for (number, job) in self.jobs.iter().enumerate().filter(|(_, job)| job.lacks()) {
            let doubted = |(_, candidate): &(usize, &Candidate<'_>)| candidate.standing == Standing::Doubted;
            for (place, candidate) in job.candidates.iter().enumerate().filter(doubted) {
                by_operator.entry(candidate.index).or_default().push((number, place));
            }
        }
        for places in by_operator.values() {
            let places = self.in_subgroup(places);
            self.settle(&places, false, rng);
        }
    }

    /// Finds out of each whether it is right, halving where a batch fails.
    fn settle(&mut self, places: &[Place], fails: bool, rng: &mut (impl CryptoRng + ?Sized)) {
        if places.is_empty() {
            return;
        }
        if !fails && self.hold(places, rng) {
            return self.mark_right(places);
        }
        if let [one] = places {
            return self.mark_wrong(*one);
        }
        let (left, right) = places.split_at(places.len() / 2);
        let left_holds = self.hold(left, rng);
        if left_holds {
            self.mark_right(left);
        } else {
            self.settle(left, true, rng);
        }
        // When the first half holds, what is wrong must be in the second.
        self.settle(right, left_holds, rng);
    }

    /// Who contributes to each result. Jobs without enough partials end here.
    fn choose(&mut self) {
        for number in 0..self.jobs.len() {
            self.choose_for(number);
        }
    }

    fn choose_for(&mut self, number: usize) {
        // Each pass finds a malformed partial or ends.
        loop {
            let Some(job) = self.jobs.get_mut(number).filter(|job| job.outcome.is_none()) else { return };
            let at_hand: Vec<ShareIndex> =
                job.candidates.iter().filter(|c| c.usable()).map(|c| c.index).collect();
            if at_hand.len() < job.needed {
                if job.candidates.iter().all(|c| c.standing != Standing::Doubted) {
                    let wrong = job.candidates.iter().filter(|c| c.standing == Standing::Wrong);
                    let liars = wrong.map(|c| c.index).collect();
                    job.outcome =
                        Some(Err(CombineError::TooFew { valid: at_hand.len(), needed: job.needed, liars }));
                }
                job.plan = None; // Otherwise the doubted are checked first, in the next round.
                return;
            }
            job.plan = self.combiner.plan(job.needed, at_hand);
            if job.plan.is_none() {
                job.outcome = Some(Err(InterpolationError::Empty.into())); // No set of known shares leads here.
                return;
            }
            let chosen = |(_, c): &(usize, &Candidate<'_>)| job.used(c.index);
            let places: Vec<Place> =
                job.candidates.iter().enumerate().filter(chosen).map(|(place, _)| (number, place)).collect();
            if places.into_iter().all(|place| self.read(place).is_some()) {
                return;
            }
        }
    }

    /// Makes the results. Those outside the subgroup are none.
    fn put_together(&mut self) {
        let mut numbers = Vec::new();
        let mut sums: Vec<G2> = Vec::new();
        for (number, job) in self.jobs.iter_mut().enumerate().filter(|(_, job)| job.outcome.is_none()) {
            job.result = None;
            let Some(plan) = &job.plan else { continue };
            let point = |index: &ShareIndex| job.candidates.iter().find(|c| c.index == *index)?.point;
            let Some(points) = plan.indices().iter().map(point).collect::<Option<Vec<_>>>() else { continue };
            let sum: G2 = plan.value_at_zero(&points);
            if !sum.is_identity() {
                numbers.push(number);
                sums.push(sum);
            }
        }
        for (number, point) in numbers.into_iter().zip(G2::to_affines(&sums)) {
            if in_subgroup(&point)
                && let Some(job) = self.jobs.get_mut(number)
            {
                job.result = Some(point);
            }
        }
    }

    /// Checks the results of this round, and finds out who is to blame for those that are wrong.
    fn check_results(&mut self, samples: Vec<Place>, rng: &mut (impl CryptoRng + ?Sized)) {
        let made: Vec<usize> = (0..self.jobs.len()).filter(|number| self.is_made(*number)).collect();
        let claims: Vec<_> = made.iter().filter_map(|number| self.result_claim(*number)).collect();
        let results = Weighed::new(&claims, rng);
        let samples = self.in_subgroup(&samples);
        if !samples.is_empty() {
            let sampled = samples.iter().filter_map(|place| self.claim(*place));
            if sampled.fold(results.clone(), |all, sample| all.and(&sample, rng)).hold(&self.hashed) {
                self.mark_right(&samples);
                return self.finish_and_blame(&made, rng);
            }
        }
        let all_hold = results.hold(&self.hashed);
        // When the results hold and a single sample did not hold with them, it is to blame.
        let fails = all_hold && samples.len() == 1;
        samples.into_iter().for_each(|sample| self.settle(&[sample], fails, rng));
        let right = if all_hold { made } else { self.right_messages(&made, rng) };
        self.finish_and_blame(&right, rng);
    }

    /// The results of those messages under which every result is right.
    fn right_messages(&self, made: &[usize], rng: &mut (impl CryptoRng + ?Sized)) -> Vec<usize> {
        let mut by_message: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for number in made {
            if let Some(job) = self.jobs.get(*number) {
                by_message.entry(job.message).or_default().push(*number);
            }
        }
        if by_message.len() < 2 {
            return Vec::new(); // It was checked already.
        }
        by_message.into_values().filter(|numbers| self.results_hold(numbers, rng)).flatten().collect()
    }

    fn finish_and_blame(&mut self, right: &[usize], rng: &mut (impl CryptoRng + ?Sized)) {
        for number in right {
            if let Some(job) = self.jobs.get_mut(*number)
                && let Some(point) = job.result
            {
                job.outcome = Some(Ok(compressed(point)));
            }
        }
        let failed: Vec<usize> = self
            .jobs
            .iter()
            .enumerate()
            .filter(|(_, job)| job.outcome.is_none() && job.plan.is_some())
            .map(|(number, _)| number)
            .collect();
        if !failed.is_empty() && !self.blame(&failed, rng) {
            // Everything that went in is right: each for itself, then.
            for number in failed {
                let holds = self.results_hold(&[number], rng);
                if let Some(job) = self.jobs.get_mut(number) {
                    job.outcome = Some(match job.result {
                        Some(point) if holds => Ok(compressed(point)),
                        Some(_) | None => Err(CombineError::WrongGroupKey),
                    });
                }
            }
        }
    }

    /// One batch per operator over what was used of it in the failed jobs. Whether anybody lied.
    fn blame(&mut self, failed: &[usize], rng: &mut (impl CryptoRng + ?Sized)) -> bool {
        let mut by_operator: BTreeMap<ShareIndex, Vec<Place>> = BTreeMap::new();
        for number in failed {
            let Some(job) = self.jobs.get(*number) else { continue };
            for (place, candidate) in job.candidates.iter().enumerate() {
                if job.used(candidate.index) && candidate.standing != Standing::Right {
                    by_operator.entry(candidate.index).or_default().push((*number, place));
                }
            }
        }
        let mut anybody = false;
        for (index, places) in by_operator {
            let good = self.in_subgroup(&places);
            let honest = good.len() == places.len() && self.hold(&good, rng);
            if honest {
                self.mark_right(&good);
            } else {
                anybody = true;
                self.name(index);
            }
        }
        anybody
    }

    /// Those that are points of the subgroup; the others are wrong.
    fn in_subgroup(&mut self, places: &[Place]) -> Vec<Place> {
        let mut good = Vec::with_capacity(places.len());
        for place in places {
            match self.read(*place) {
                Some(point) if in_subgroup(&point) => good.push(*place),
                Some(_) => self.mark_wrong(*place),
                None => {} // Said already.
            }
        }
        good
    }

    /// The point of a partial; what is none is wrong.
    fn read(&mut self, place: Place) -> Option<blst_p2_affine> {
        let combiner = self.combiner;
        let candidate = self.candidate(place)?;
        if candidate.point.is_none() {
            candidate.point = combiner.point(&candidate.bytes);
        }
        let point = candidate.point;
        if point.is_none() {
            self.mark_wrong(place);
        }
        point
    }

    fn mark_right(&mut self, places: &[Place]) {
        for place in places {
            if let Some(candidate) = self.candidate(*place) {
                candidate.standing = Standing::Right;
                let index = candidate.index;
                self.right.insert(index);
            }
        }
    }

    fn mark_wrong(&mut self, place: Place) {
        if let Some(candidate) = self.candidate(place) {
            candidate.standing = Standing::Wrong;
            let index = candidate.index;
            self.name(index);
        }
    }

    /// This operator lied: nothing more of it is used unseen.
    fn name(&mut self, liar: ShareIndex) {
        if !self.liars.insert(liar) {
            return;
        }
        for candidate in self.jobs.iter_mut().flat_map(|job| &mut job.candidates) {
            if candidate.index == liar && candidate.standing == Standing::Trusted {
                candidate.standing = Standing::Doubted;
            }
        }
    }

    fn candidate(&mut self, (job, place): Place) -> Option<&mut Candidate<'a>> {
        self.jobs.get_mut(job)?.candidates.get_mut(place)
    }

    fn is_made(&self, number: usize) -> bool {
        self.jobs.get(number).is_some_and(|job| job.outcome.is_none() && job.result.is_some())
    }

    fn claim(&self, (job, place): Place) -> Option<Claim<'a>> {
        let job = self.jobs.get(job)?;
        let candidate = job.candidates.get(place)?;
        Some(Claim { key: candidate.key, message: job.message, point: candidate.point? })
    }

    fn result_claim(&self, number: usize) -> Option<Claim<'a>> {
        let job = self.jobs.get(number)?;
        Some(Claim { key: job.group_key, message: job.message, point: job.result? })
    }

    /// Whether these partials, which are in the subgroup, are right.
    fn hold(&self, places: &[Place], rng: &mut (impl CryptoRng + ?Sized)) -> bool {
        let claims: Vec<_> = places.iter().filter_map(|place| self.claim(*place)).collect();
        claims_hold(&claims, &self.hashed, rng)
    }

    fn results_hold(&self, numbers: &[usize], rng: &mut (impl CryptoRng + ?Sized)) -> bool {
        let claims: Vec<_> = numbers.iter().filter_map(|number| self.result_claim(*number)).collect();
        claims_hold(&claims, &self.hashed, rng)
    }
}

fn compressed(point: blst_p2_affine) -> SignatureBytes {
    Signature::from_trusted(point.into()).to_bytes()
}
