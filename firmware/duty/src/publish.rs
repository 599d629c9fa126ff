//! Combining partial signatures, once there are enough, and handing over the result.

use std::collections::{BTreeMap, BTreeSet};

use chain::{Root, SignatureBytes, UnixMillis};
use qbft::Member;

use crate::engine::PublishError;
use crate::retry::Asking;
use crate::work::{Context, Work};
use crate::{Output, Payload, Publication, Reason, Refusal, TaskId};

/// Partial signatures of equal messages, as many as the threshold. Combine first and verify the result once; only if it
/// does not verify, find out who lied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CombineJob {
    /// Whose message.
    pub id: TaskId,
    /// Hash tree root of the message.
    pub message_root: Root,
    /// The message, from our own partial signature when it is among them.
    pub data: Payload,
    /// Who signed, and the signatures.
    pub partials: Vec<(Member, SignatureBytes)>,
}

/// A message with the group's verified signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Aggregate {
    /// Whose message.
    pub id: TaskId,
    /// Hash tree root of the message.
    pub message_root: Root,
    /// The message.
    pub data: Payload,
    /// The group's signature.
    pub signature: SignatureBytes,
    /// Whose partial signatures are in it.
    pub from: Vec<Member>,
}

/// The results of one duty, on their way out.
#[derive(Default)]
pub(crate) struct Results {
    combining: BTreeMap<TaskId, CombineJob>,
    /// Combinations that failed although nobody could be blamed; not tried again with the same members.
    failed: BTreeMap<TaskId, Vec<Member>>,
    combined: BTreeMap<TaskId, Aggregate>,
    publishing: Asking,
    sent: BTreeSet<TaskId>,
    published: BTreeSet<TaskId>,
    given_up: BTreeSet<TaskId>,
    error: Option<String>,
    last_published_at: Option<UnixMillis>,
}

impl Results {
    pub(crate) fn wake(&self) -> Option<UnixMillis> {
        self.publishing.wake()
    }

    /// The group signatures so far.
    pub(crate) fn combined(&self) -> &BTreeMap<TaskId, Aggregate> {
        &self.combined
    }

    pub(crate) fn published(&self) -> impl Iterator<Item = &TaskId> {
        self.published.iter()
    }

    pub(crate) fn any_published(&self) -> bool {
        !self.published.is_empty()
    }

    pub(crate) fn is_published(&self, id: &TaskId) -> bool {
        self.published.contains(id)
    }

    pub(crate) fn last_published_at(&self) -> Option<UnixMillis> {
        self.last_published_at
    }

    /// Whose partial signatures are in the results.
    pub(crate) fn contributors(&self) -> Vec<Member> {
        let all: BTreeSet<Member> = self.combined.values().flat_map(|a| a.from.iter().copied()).collect();
        all.into_iter().collect()
    }

    /// Why something that is ready has not been taken, if so.
    pub(crate) fn why_unpublished(&self) -> Option<Reason> {
        if self.combined.keys().all(|id| self.published.contains(id)) {
            return None;
        }
        Some(match &self.error {
            Some(text) => Reason::PublishFailed(text.clone()),
            None => Reason::PublishUnconfirmed,
        })
    }

    /// Whether nothing has been or is being combined for this task.
    fn is_open(&self, id: &TaskId) -> bool {
        !self.combined.contains_key(id) && !self.combining.contains_key(id)
    }

    /// Whether a combination of these members' signatures, for a task that is open, is worth starting.
    fn wants(&self, id: &TaskId, members: &[Member]) -> bool {
        self.failed.get(id).is_none_or(|before| before != members)
    }
}

impl<S: Clone + PartialEq> Work<S> {
    /// Upon a threshold of equal messages: combine them, once. What becomes complete while a combination is under way waits for
    /// its end and goes together: members that send one message for each validator would else cost a check for each.
    pub(crate) fn combine<N>(&mut self, context: &Context<'_, N>, out: &mut Vec<Output<S>>) {
        if !self.results.combining.is_empty() {
            return;
        }
        let mut jobs = Vec::new();
        let ours = |id: &TaskId| self.validators.contains_key(&id.validator) && self.results.is_open(id);
        for id in self.partials.tasks().filter(ours) {
            let Some(group) = self.partials.complete(&id, context.settings.threshold) else { continue };
            let members: Vec<Member> = group.iter().map(|(member, _)| *member).collect();
            if !self.results.wants(&id, &members) {
                continue;
            }
            let ours = group.iter().find(|(member, _)| *member == context.settings.me);
            let Some((_, chosen)) = ours.or(group.first()) else { continue };
            jobs.push(CombineJob {
                id,
                message_root: chosen.message_root,
                data: chosen.data.clone(),
                partials: group.iter().map(|(member, partial)| (*member, partial.signature)).collect(),
            });
        }
        if !jobs.is_empty() {
            self.results.combining.extend(jobs.iter().map(|job| (job.id, job.clone())));
            out.push(Output::Combine { duty: self.duty, jobs });
        }
    }

    pub(crate) fn on_combined(
        &mut self,
        results: Vec<(TaskId, Result<SignatureBytes, Vec<Member>>)>,
    ) -> Result<(), Refusal> {
        for (id, result) in results {
            let job = self.results.combining.remove(&id).ok_or(Refusal::NotAsked)?;
            let from: Vec<Member> = job.partials.iter().map(|(member, _)| *member).collect();
            match result {
                Ok(signature) => {
                    let aggregate =
                        Aggregate { id, message_root: job.message_root, data: job.data, signature, from };
                    self.results.combined.insert(id, aggregate);
                }
                Err(liars) if liars.is_empty() => drop(self.results.failed.insert(id, from)),
                Err(liars) => liars.into_iter().for_each(|liar| self.partials.drop_wrong(&id, liar)),
            }
        }
        Ok(())
    }

    /// Hands over what is combined and not yet taken.
    pub(crate) fn publish<N>(&mut self, context: &Context<'_, N>, out: &mut Vec<Output<S>>) {
        let results = &mut self.results;
        let open = |id: &TaskId| !results.published.contains(id) && !results.given_up.contains(id);
        let set: Vec<Aggregate> = results.combined.values().filter(|a| open(&a.id)).cloned().collect();
        if set.is_empty() {
            return;
        }
        match self.duty.kind.row().publication {
            Publication::OtherDuties | Publication::NothingSigned => {
                results.published.extend(set.iter().map(|aggregate| aggregate.id));
                results.last_published_at = Some(context.now);
                out.push(Output::Provide { duty: self.duty, set });
            }
            Publication::BeaconNode => {
                let asking = results.publishing;
                if asking.is_idle() || asking.is_answered() || asking.is_due(context.now) {
                    results.publishing.ask();
                    results.sent = set.iter().map(|aggregate| aggregate.id).collect();
                    out.push(Output::Publish { duty: self.duty, set });
                }
            }
        }
    }

    pub(crate) fn on_published<N>(
        &mut self,
        result: Result<(), PublishError>,
        context: &Context<'_, N>,
    ) -> Result<(), Refusal> {
        let results = &mut self.results;
        if !results.publishing.is_waiting() {
            return Err(Refusal::NotAsked);
        }
        let sent = std::mem::take(&mut results.sent);
        match result {
            Ok(()) => {
                results.published.extend(sent);
                results.last_published_at = Some(context.now);
                results.publishing.answered();
            }
            Err(PublishError::Temporary(text)) => {
                results.error = Some(text);
                results.publishing.ask_again_later(context.now);
            }
            Err(PublishError::Permanent(text)) => {
                results.error = Some(text);
                results.given_up.extend(sent);
                results.publishing.answered();
            }
            Err(PublishError::Partly(refused)) => {
                let (out, taken): (Vec<_>, Vec<_>) =
                    sent.into_iter().partition(|id| refused.contains_key(id));
                if !taken.is_empty() {
                    results.published.extend(taken);
                    results.last_published_at = Some(context.now);
                }
                results.given_up.extend(out);
                // One refusal is told as often as it was said only once.
                let texts: BTreeSet<String> = refused.into_values().collect();
                results.error = Some(texts.into_iter().collect::<Vec<_>>().join("; "));
                results.publishing.answered();
            }
        }
        Ok(())
    }
}
