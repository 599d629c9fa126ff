//! From the partial signatures of a duty to the validators' signatures.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use chain::{PublicKeyBytes, Root, SignatureBytes};
use duty::{CombineJob, Duty, Partial, TaskId};
use qbft::Member;
use threshold::{CombineError, Combiner, Job, ShareIndex};
use tokio::sync::Semaphore;

use super::{Event, Node};
use crate::board::MemberLabels;
use crate::obol_network::ObolNetwork;
use crate::setup::ValidatorKeys;

/// Duties remembered as combined; partial signatures that come later are not read ahead.
const COMBINED_KEPT: usize = 64;

/// What came out for one duty.
#[derive(Debug)]
pub struct Combined {
    /// The verified signatures, or the members whose partials spoiled them.
    pub results: Vec<(TaskId, Result<SignatureBytes, Vec<Member>>)>,
    /// Members with at least one wrong partial signature, whether it did harm or not.
    pub liars: BTreeSet<Member>,
}

/// Messages whose partial signatures are read ahead at once. Combining needs the same threads.
const READ_AHEAD: usize = 2;

/// Combining for one cluster, and what is remembered between duties.
pub(crate) struct Combining {
    combiner: Arc<Combiner>,
    done: BTreeSet<Duty>,
    reading: Arc<Semaphore>,
}

impl Default for Combining {
    fn default() -> Self {
        let reading = Arc::new(Semaphore::new(READ_AHEAD));
        Self { combiner: Arc::default(), done: BTreeSet::new(), reading }
    }
}

impl Combining {
    /// Reads the points of partial signatures while others are on their way. `false` when it is not worth it or enough is
    /// being read: combining reads what was not read ahead.
    fn read_ahead(&self, duty: Duty, scheduled: bool, signatures: Vec<SignatureBytes>) -> bool {
        if !scheduled || self.done.contains(&duty) {
            return false;
        }
        let Ok(turn) = Arc::clone(&self.reading).try_acquire_owned() else { return false };
        let combiner = Arc::clone(&self.combiner);
        tokio::task::spawn_blocking(move || {
            combiner.expect_partials(signatures);
            drop(turn);
        });
        true
    }
}

impl Node {
    /// Pairings take milliseconds: they run on a thread of their own.
    pub(super) fn combine(&mut self, duty: Duty, jobs: Vec<CombineJob>) {
        let Some(running) = &self.running else { return };
        self.combining.done.insert(duty);
        while self.combining.done.len() > COMBINED_KEPT {
            self.combining.done.pop_first();
        }
        let network = running.engine.network().clone();
        let keys = Arc::clone(&self.membership.keys);
        let threshold = usize::from(self.membership.view.threshold);
        let combiner = Arc::clone(&self.combining.combiner);
        let (events, board) = (self.events.clone(), Arc::clone(&self.board));
        tokio::task::spawn_blocking(move || {
            let start = Instant::now();
            let cluster = ClusterKeys { keys: &keys, threshold };
            let combined = combine_jobs(&combiner, &jobs, cluster, &network, duty);
            board.metrics.combine_seconds.0.observe(start.elapsed().as_secs_f64());
            // The loop is gone when the node ends.
            drop(events.blocking_send(Event::Combined(duty, combined)));
        });
    }

    /// Hashes what will have to be verified while it is still being signed and sent.
    pub(super) fn expect_messages(&self, signing_roots: BTreeSet<Root>) {
        let combiner = Arc::clone(&self.combining.combiner);
        tokio::task::spawn_blocking(move || {
            signing_roots.iter().for_each(|root| combiner.expect_message(&root.0));
        });
    }

    /// Reads the points of partial signatures that have to wait for others, if we have this duty at all.
    pub(super) fn expect_partials(&self, duty: Duty, signatures: Vec<SignatureBytes>) {
        let scheduled = self.running.as_ref().is_some_and(|running| running.engine.scheduled_for(duty) > 0);
        self.combining.read_ahead(duty, scheduled, signatures);
    }

    pub(super) fn on_combined(&mut self, duty: Duty, combined: Combined) {
        for liar in combined.liars {
            let member = self.membership.name_of(liar).to_owned();
            tracing::warn!(%duty, member, "a member sent a wrong partial signature");
            self.board.metrics.liars.get_or_create(&MemberLabels { member }).inc();
            self.liars.insert(liar, Instant::now());
        }
        self.step(duty::Event::Combined { duty, results: combined.results });
    }
}

/// The signatures of a set as it came in.
pub(super) fn signatures_of(set: &[Partial]) -> Vec<SignatureBytes> {
    set.iter().map(|partial| partial.signature).collect()
}

/// Whose signatures are put together.
#[derive(Clone, Copy)]
pub struct ClusterKeys<'a> {
    /// The keys of every validator.
    pub keys: &'a BTreeMap<PublicKeyBytes, ValidatorKeys>,
    /// Partial signatures needed.
    pub threshold: usize,
}

/// Combines first and looks for liars only when a result does not verify: see [`Combiner`].
pub fn combine_jobs(
    combiner: &Combiner,
    jobs: &[CombineJob],
    cluster: ClusterKeys<'_>,
    network: &ObolNetwork,
    duty: Duty,
) -> Combined {
    let epoch = network.timing.epoch_of(duty.slot);
    let mut results = Vec::with_capacity(jobs.len());
    let mut ready = Vec::with_capacity(jobs.len());
    for job in jobs {
        match prepare(job, cluster.keys, network.signing_root(duty, job.message_root)) {
            Some(prepared) => ready.push(prepared),
            None => results.push((job.id, Err(Vec::new()))),
        }
    }
    let to_combine: Vec<Job<'_>> = ready
        .iter()
        .map(|ready| Job {
            group_key: &ready.keys.group,
            public_shares: &ready.keys.shares,
            threshold: cluster.threshold,
            message: &ready.signing_root.0,
            partials: &ready.partials,
        })
        .collect();
    let combination = combiner.combine(&to_combine, epoch, &mut rand::rng());
    for (ready, result) in ready.iter().zip(combination.results) {
        let result = result.map_err(|error| match error {
            CombineError::TooFew { liars, .. } => liars.into_iter().filter_map(member_of).collect(),
            CombineError::Malformed { index, .. } => member_of(index).into_iter().collect(),
            CombineError::Interpolation(_) | CombineError::NotInSubgroup | CombineError::WrongGroupKey => {
                Vec::new()
            }
        });
        results.push((ready.id, result));
    }
    Combined { results, liars: combination.liars.into_iter().filter_map(member_of).collect() }
}

struct Ready<'a> {
    id: TaskId,
    keys: &'a ValidatorKeys,
    signing_root: Root,
    partials: Vec<(ShareIndex, SignatureBytes)>,
}

fn prepare<'a>(
    job: &CombineJob,
    keys: &'a BTreeMap<PublicKeyBytes, ValidatorKeys>,
    signing_root: Root,
) -> Option<Ready<'a>> {
    let keys = keys.get(&job.id.validator)?;
    let partials = job
        .partials
        .iter()
        .filter_map(|(member, signature)| Some((ShareIndex::new(u64::from(member.0) + 1).ok()?, *signature)));
    Some(Ready { id: job.id, keys, signing_root, partials: partials.collect() })
}

fn member_of(index: ShareIndex) -> Option<Member> {
    u8::try_from(index.get().checked_sub(1)?).ok().map(Member)
}

#[cfg(test)]
mod tests {
    use duty::DutyKind;

    use super::*;

    #[tokio::test]
    async fn partial_signatures_are_read_ahead_for_our_own_duties_and_few_at_once() {
        let mut combining = Combining::default();
        let duty = Duty::new(chain::Slot(5), DutyKind::Attester);
        let some = || vec![SignatureBytes::ZERO];
        assert!(!combining.read_ahead(duty, false, some()), "a duty that we do not have");
        let busy = Arc::clone(&combining.reading).try_acquire_many_owned(2).unwrap();
        for _ in 0..1_000 {
            assert!(!combining.read_ahead(duty, true, some()), "no task waits for its turn");
        }
        drop(busy);
        assert!(combining.read_ahead(duty, true, some()));
        // Those that are over make room.
        drop(combining.reading.acquire_many(2).await.unwrap());
        assert!(combining.read_ahead(duty, true, some()));
        combining.done.insert(duty);
        assert!(!combining.read_ahead(duty, true, some()), "it is combined");
    }
}
