//! The plain way from partial signatures to the group's, as other clients go: verify every partial on its own, combine with
//! one full multiplication each, verify the result. It is what [`crate::Combiner`] is compared with, in speed and in answers.

use crate::combine::{CombineError, Combined, Job, known_partials};
use crate::ffi::{G2, Group as _};
use crate::lagrange::interpolate_plainly;
use crate::signature::{Signature, verify};

/// Combines and verifies one job without any shortcut.
pub fn combine_plainly(job: &Job<'_>) -> Result<Combined, CombineError> {
    let mut valid = Vec::new();
    let mut liars = Vec::new();
    for (index, bytes, key) in known_partials(job) {
        match Signature::parse(&bytes) {
            Ok(signature) if verify(key, job.message, &signature) => valid.push((index, signature)),
            Ok(_) | Err(_) => liars.push(index),
        }
    }
    let needed = job.threshold.max(1);
    let Some(first) = valid.get(..needed) else {
        return Err(CombineError::TooFew { valid: valid.len(), needed, liars });
    };
    let points: Vec<_> =
        first.iter().map(|(index, signature)| (*index, (*signature.inner()).into())).collect();
    let sum: G2 = interpolate_plainly(&points)?;
    if sum.is_identity() {
        return Err(CombineError::WrongGroupKey);
    }
    let signature = Signature::from_unchecked(sum.to_parsed()).map_err(|_| CombineError::NotInSubgroup)?;
    if verify(job.group_key, job.message, &signature) {
        Ok(Combined { signature: signature.to_bytes(), liars })
    } else {
        Err(CombineError::WrongGroupKey)
    }
}
