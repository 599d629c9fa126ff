//! Sending what was signed: to every endpoint on our chain, done as soon as one of them has accepted. Fallbacks get what none of
//! the others has answered to.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};

use bytes::Bytes;
use chain::ForkName;
use serde::Serialize;
use tokio::sync::mpsc;

use crate::ask::{SMALL, encode};
use crate::error::{BeaconError, Cause, RequestError};
use crate::http::{JSON, Limits, SSZ, refusal_failures};
use crate::nodes::{BeaconNodes, Node, Use};

/// What became of a list that was sent to every endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Submitted {
    /// Items that no endpoint accepted, by position in the list, with the words of the last refusal.
    pub rejected: BTreeMap<usize, String>,
}

/// What is sent.
#[derive(Clone)]
pub(crate) enum Content {
    /// JSON.
    Json(Bytes),
    /// SSZ, and what makes JSON of it for a node that wants that.
    Ssz(Bytes, Arc<dyn Fn() -> Vec<u8> + Send + Sync>),
}

/// One submission.
pub(crate) struct Submission {
    pub(crate) doing: &'static str,
    pub(crate) path: &'static str,
    /// Goes into `Eth-Consensus-Version` where the path wants it.
    pub(crate) fork: Option<ForkName>,
    pub(crate) content: Content,
    /// How many items the content lists.
    pub(crate) items: usize,
    /// Who gets it.
    pub(crate) to: Recipients,
}

/// A list of which these items were refused so often in the same way is not sent once more for whoever does not answer.
const SAME_REFUSALS: u32 = 4;

/// By path, the last list of which a part was refused while another node did not answer: its content, the items, and how often
/// it came to the same.
#[derive(Debug, Default)]
pub(crate) struct Refusals(BTreeMap<&'static str, (Bytes, Vec<usize>, u32)>);

impl Refusals {
    /// Whether this has come to the same often enough.
    fn are_known(&mut self, path: &'static str, content: &Bytes, rejected: &BTreeMap<usize, String>) -> bool {
        let items: Vec<usize> = rejected.keys().copied().collect();
        let (known, which, times) = self.0.entry(path).or_insert_with(|| (content.clone(), items.clone(), 0));
        if (&*known, &*which) != (content, &items) {
            (*known, *which, *times) = (content.clone(), items, 0);
        }
        *times = times.saturating_add(1);
        *times >= SAME_REFUSALS
    }
}

/// Who gets a submission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Recipients {
    /// Fallbacks only when all others have failed.
    InTurn,
    /// Fallbacks too: what they must know before they are needed. Done when one of the others has accepted.
    Everybody,
}

impl BeaconNodes {
    /// Sends a list in JSON. Nothing is sent when it is empty: nodes refuse that.
    pub(crate) async fn submit_list(
        &self,
        doing: &'static str,
        path: &'static str,
        fork: Option<ForkName>,
        list: &[impl Serialize],
    ) -> Result<Submitted, BeaconError> {
        let (content, to) = (Content::Json(encode(&list).into()), Recipients::InTurn);
        self.submit(Submission { doing, path, fork, content, items: list.len(), to }).await
    }

    pub(crate) async fn submit(&self, submission: Submission) -> Result<Submitted, BeaconError> {
        let Submission { doing, items, to, .. } = submission;
        if items == 0 {
            return Ok(Submitted { rejected: BTreeMap::new() });
        }
        let turns = match (to, self.same_chain()) {
            (Recipients::InTurn, turns) => turns,
            (Recipients::Everybody, turns) => [turns.concat(), Vec::new()],
        };
        let mut asked = 0;
        let mut answered = false;
        let mut rejected: Option<BTreeMap<usize, String>> = None;
        let mut last = None;
        for indices in turns {
            if answered {
                break;
            }
            asked += indices.len();
            let mut results = self.send_to(indices, &submission);
            while let Some((is_fallback, result)) = results.recv().await {
                if to == Recipients::Everybody && is_fallback {
                    continue; // That the owner's own node was not told must not be hidden by it.
                }
                let error = match result {
                    Ok(()) => return Ok(Submitted { rejected: BTreeMap::new() }),
                    Err(error) => error,
                };
                answered |= error.cause.is_an_answer();
                if let Some(bad) = refusal_failures(&error.cause, items) {
                    if bad.is_empty() {
                        return Ok(Submitted { rejected: bad });
                    }
                    rejected = Some(match rejected {
                        None => bad,
                        Some(before) => {
                            bad.into_iter().filter(|(item, _)| before.contains_key(item)).collect()
                        }
                    });
                }
                // While one may still take it, it is not given up, whichever answer came last.
                if last.as_ref().is_none_or(|last: &RequestError| !last.cause.is_temporary()) {
                    last = Some(error);
                }
            }
        }
        // Where one may yet take what another refused, all of it is sent again: who has a part of it says so. When that comes to the same
        // again and again, the rest is out, and what was refused has had its chance with who is away.
        let may_yet = last.as_ref().is_some_and(|last| last.cause.is_temporary());
        let may_yet = may_yet && !self.is_refused_as_before(&submission, rejected.as_ref());
        match (rejected, last) {
            (Some(rejected), _) if rejected.len() < items && !may_yet => Ok(Submitted { rejected }),
            (_, Some(last)) => Err(BeaconError::AllFailed { last, asked }),
            (_, None) => Err(self.none_ready(doing)),
        }
    }

    fn is_refused_as_before(
        &self,
        submission: &Submission,
        rejected: Option<&BTreeMap<usize, String>>,
    ) -> bool {
        let (Some(rejected), Content::Json(content)) = (rejected, &submission.content) else { return false };
        let mut refusals = self.shared.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        refusals.are_known(submission.path, content, rejected)
    }

    /// Sends to these endpoints at once. With each answer comes whether it is a fallback's.
    fn send_to(
        &self,
        indices: Vec<usize>,
        submission: &Submission,
    ) -> mpsc::Receiver<(bool, Result<(), RequestError>)> {
        let (to, results) = mpsc::channel(indices.len().max(1));
        let Submission { doing, path, fork, .. } = *submission;
        for index in indices {
            let (nodes, to, content) = (self.clone(), to.clone(), submission.content.clone());
            let limits = Limits { limit_ms: self.shared.timeouts.submit_ms, max_bytes: SMALL };
            // A task of its own: the others go on after the first has succeeded.
            tokio::spawn(async move {
                let node = &nodes.shared.nodes[index];
                let result = match nodes.confirm(node, Use::Submit, doing).await {
                    Ok(()) => send(node, doing, path, fork, content, limits).await,
                    Err(error) => Err(error),
                };
                if let Err(error) = &result {
                    node.state().failed(error);
                    tracing::debug!(error = %error, "submission not accepted");
                }
                let _ = to.send((node.is_fallback, result)).await; // Nobody waits any more: fine.
            });
        }
        results
    }
}

/// In SSZ where there is that; in JSON to a node that does not read it.
async fn send(
    node: &Node,
    doing: &'static str,
    path: &'static str,
    fork: Option<ForkName>,
    content: Content,
    limits: Limits,
) -> Result<(), RequestError> {
    let headers: Vec<_> = fork.iter().map(|fork| ("Eth-Consensus-Version", fork.as_str())).collect();
    let json = match content {
        Content::Json(json) => json,
        Content::Ssz(ssz, json) => {
            match node.endpoint.post_as(doing, path, &headers, SSZ, ssz, limits).await {
                Err(RequestError { cause: Cause::Refused { status: 415, .. }, .. }) => json().into(),
                other => return other.map(|_| ()),
            }
        }
    };
    node.endpoint.post_as(doing, path, &headers, JSON, json, limits).await.map(|_| ())
}
