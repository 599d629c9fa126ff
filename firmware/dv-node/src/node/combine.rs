//! From the partial signatures of a duty to the validators' signatures.

use std::collections::BTreeMap;

use chain::{ForkInfo, PublicKeyBytes, SignatureBytes};
use duty::{CombineJob, TaskId};
use qbft::Member;
use threshold::{CombineError, Job, ShareIndex};

use crate::obol_network::{attester_signing_root, vote_of};
use crate::setup::ValidatorKeys;

/// Combines first and looks for liars only when the result does not verify.
pub(super) fn combine_jobs(
    jobs: &[CombineJob],
    keys: &BTreeMap<PublicKeyBytes, ValidatorKeys>,
    threshold: usize,
    fork_info: &ForkInfo,
) -> Vec<(TaskId, Result<SignatureBytes, Vec<Member>>)> {
    let mut results = Vec::with_capacity(jobs.len());
    let mut prepared = Vec::with_capacity(jobs.len());
    for job in jobs {
        match prepare(job, keys, fork_info) {
            Some(ready) => prepared.push(ready),
            None => results.push((job.id, Err(Vec::new()))),
        }
    }
    let to_combine: Vec<Job<'_>> = prepared
        .iter()
        .map(|ready| Job {
            group_key: &ready.keys.group,
            public_shares: &ready.keys.shares,
            threshold,
            message: &ready.signing_root.0,
            partials: &ready.partials,
        })
        .collect();
    let combined = threshold::combine_all(&to_combine, &mut rand::rng());
    for (ready, result) in prepared.iter().zip(combined) {
        let result = match result {
            Ok(combined) => Ok(combined.signature),
            Err(CombineError::TooFew { liars, .. }) => Err(liars.into_iter().filter_map(member_of).collect()),
            Err(CombineError::Malformed { index, .. }) => Err(member_of(index).into_iter().collect()),
            Err(
                CombineError::Interpolation(_) | CombineError::NotInSubgroup | CombineError::WrongGroupKey,
            ) => Err(Vec::new()),
        };
        results.push((ready.id, result));
    }
    results
}

struct Ready<'a> {
    id: TaskId,
    keys: &'a ValidatorKeys,
    signing_root: chain::Root,
    partials: Vec<(ShareIndex, SignatureBytes)>,
}

fn prepare<'a>(
    job: &CombineJob,
    keys: &'a BTreeMap<PublicKeyBytes, ValidatorKeys>,
    fork_info: &ForkInfo,
) -> Option<Ready<'a>> {
    let keys = keys.get(&job.id.validator)?;
    let vote = vote_of(&job.data).ok()?;
    let partials = job
        .partials
        .iter()
        .filter_map(|(member, signature)| Some((ShareIndex::new(u64::from(member.0) + 1).ok()?, *signature)));
    Some(Ready {
        id: job.id,
        keys,
        signing_root: attester_signing_root(job.message_root, &vote, fork_info),
        partials: partials.collect(),
    })
}

fn member_of(index: ShareIndex) -> Option<Member> {
    u8::try_from(index.get().checked_sub(1)?).ok().map(Member)
}
