//! Asking our signer. It makes up its own mind about every message; here we only decide when to ask.

use std::collections::{BTreeMap, BTreeSet};

use chain::{SignatureBytes, UnixMillis};
use qbft::Member;

use crate::engine::{Clock, SignError};
use crate::retry::Asking;
use crate::work::{Context, Work};
use crate::{Output, Partial, Reason, Refusal, Task, TaskId};

/// What is still to be signed, and how asking goes.
#[derive(Default)]
pub(crate) struct Signing {
    asking: Asking,
    left: BTreeMap<TaskId, Option<SignError>>,
    /// Everything that ever was to be signed: nothing is asked for twice.
    known: BTreeSet<TaskId>,
}

impl Signing {
    /// These are to be signed, apart from what is signed already.
    pub(crate) fn expect(&mut self, tasks: impl Iterator<Item = TaskId>) {
        let before = self.left.len();
        for id in tasks.filter(|id| self.known.insert(*id)) {
            self.left.insert(id, None);
        }
        if self.left.len() > before && self.asking.is_answered() {
            self.asking = Asking::Idle;
        }
    }

    pub(crate) fn wake(&self) -> Option<UnixMillis> {
        self.asking.wake()
    }

    /// Why a signature is missing, if one is.
    pub(crate) fn why_missing(&self, clock: Clock) -> Option<Reason> {
        if self.left.is_empty() {
            return None;
        }
        let told = self.left.values().flatten().next();
        Some(match told {
            Some(SignError::Refused(text)) => Reason::SignerRefused(text.clone()),
            Some(SignError::Unavailable(text)) => Reason::SignerUnavailable(text.clone()),
            Some(SignError::Withheld(text) | SignError::HeldBack(text)) => Reason::NotAsked(text.clone()),
            None if clock == Clock::Untrusted => Reason::ClockUntrusted,
            None => Reason::SignerSilent,
        })
    }

    /// Whether the signer has said no to anything so far.
    pub(crate) fn has_failed(&self) -> bool {
        self.left.values().any(Option::is_some)
    }

    /// What is worth asking for: everything that was not refused or withheld for good.
    fn open(&self) -> impl Iterator<Item = TaskId> {
        let is_final =
            |error: &Option<SignError>| matches!(error, Some(SignError::Refused(_) | SignError::Withheld(_)));
        self.left.iter().filter(move |(_, error)| !is_final(error)).map(|(id, _)| *id)
    }
}

impl<S: Clone + PartialEq> Work<S> {
    pub(crate) fn ask_signer<N>(&mut self, context: &Context<'_, N>, out: &mut Vec<Output<S>>) {
        let allowed = self.guard.passed() && context.clock == Clock::Trusted;
        let asking = self.signing.asking;
        if !allowed || !(asking.is_idle() || asking.is_due(context.now)) {
            return;
        }
        let Some(agreed) = &self.tasks else { return };
        let tasks: Vec<Task> = self.signing.open().filter_map(|id| agreed.get(&id).cloned()).collect();
        if !tasks.is_empty() {
            self.signing.asking.ask();
            out.push(Output::Sign { duty: self.duty, tasks });
        }
    }

    /// Our signer answered: what is signed becomes one message to the others and counts here.
    pub(crate) fn on_signed(
        &mut self,
        results: Vec<(TaskId, Result<SignatureBytes, SignError>)>,
        me: Member,
        now: UnixMillis,
        out: &mut Vec<Output<S>>,
    ) -> Result<(), Refusal> {
        // A signature may come from elsewhere than the signer (a validator client), one by one and much later.
        let wanted = results.iter().any(|(id, _)| self.signing.left.contains_key(id));
        if self.signing.asking.is_idle() || !wanted {
            return Err(Refusal::NotAsked);
        }
        let mut set = Vec::new();
        for (id, result) in results {
            let Some(task) = self.tasks.as_ref().and_then(|tasks| tasks.get(&id)) else { continue };
            if !self.signing.left.contains_key(&id) {
                continue; // Signed before: once is enough.
            }
            match result {
                Ok(signature) => {
                    let (message_root, data) = (task.message_root, task.data.clone());
                    set.push(Partial { id, message_root, signature, data });
                    self.signing.left.remove(&id);
                }
                Err(error) => drop(self.signing.left.insert(id, Some(error))),
            }
        }
        self.signing.asking.answered();
        if self.signing.open().next().is_some() {
            self.signing.asking.ask_again_later(now);
        }
        if !set.is_empty() {
            // A refusal to store our own word could only mean that we said it before.
            let _said_before = self.partials.add(me, set.clone());
            out.push(Output::SendPartials { duty: self.duty, set });
        }
        Ok(())
    }
}
