//! What one duty needs of others, and reading a value with what they gave.

use std::collections::BTreeMap;

use chain::{PublicKeyBytes, SlotTiming, UnixMillis};
use qbft::Digest;

use crate::work::{Context, Work};
use crate::{Agreement, DutyKind, Input, Known, Network, Payload, Task, TaskId, Value};

impl<S> Work<S> {
    /// Until when a duty waits for the last of what it needs; afterwards it goes on with what there is.
    pub(crate) fn patience_ends(&self, timing: &SlotTiming) -> UnixMillis {
        if self.row().needs.is_empty() {
            return UnixMillis(0);
        }
        let trigger = self.duty.triggers_at(timing).unwrap_or(UnixMillis(0));
        trigger.saturating_add(timing.slot_ms / 24)
    }
}

impl<S: Clone + PartialEq> Work<S> {
    /// Whether what is signed follows from the duty and what it was scheduled with.
    pub(crate) fn says_it_all(&self) -> bool {
        self.row().agreement == Agreement::NotNeeded && self.row().input == Input::TheDutyItself
    }

    /// The validators for whom every duty that this one needs has given something. One whose selection is missing does not
    /// hold up the others.
    pub(crate) fn ready(&self) -> BTreeMap<PublicKeyBytes, Payload> {
        let needs = self.row().needs;
        if needs.is_empty() {
            return self.validators.clone();
        }
        let gave = |kind: &DutyKind, validator: &PublicKeyBytes| {
            let first = (*kind, TaskId { validator: *validator, subcommittee: 0 });
            let last = (*kind, TaskId { validator: *validator, subcommittee: u64::MAX });
            self.given.range(first..=last).next().is_some()
        };
        let ready = self.validators.iter().filter(|(v, _)| needs.iter().all(|kind| gave(kind, v)));
        ready.map(|(validator, definition)| (*validator, definition.clone())).collect()
    }

    /// What the network may know when it reads a value.
    pub(crate) fn known(&self) -> Known<'_> {
        Known { validators: &self.validators, given: &self.given }
    }

    /// Reads the value that counts: what was agreed on, or without agreement what we fetched or what the duty itself says.
    /// Again whenever more is known than the last time.
    pub(crate) fn read_what_counts<N: Network<Seal = S>>(&mut self, context: &Context<'_, N>) {
        let value = match (&self.decided, self.own) {
            (Some(decided), _) => self.values.get(decided.value),
            (None, Some(own)) if self.row().agreement == Agreement::NotNeeded => self.values.get(own),
            (None, _) if self.says_it_all() => Some(Value { digest: Digest::ZERO, bytes: Payload::from([]) }),
            (None, _) => None,
        };
        let knowing = (self.validators.len(), self.given.len());
        let Some(value) = value.filter(|_| self.read_with != Some(knowing)) else { return };
        self.read_with = Some(knowing);
        match context.network.read(self.duty, &value.bytes, &self.known()) {
            Ok(tasks) => {
                self.unusable = None;
                self.accept_tasks(tasks, context.now);
            }
            Err(unreadable) if self.tasks.is_none() => self.unusable = Some(unreadable.to_string()),
            Err(_) => {} // What was read before stays.
        }
    }

    /// Takes over the messages that are for our validators. A message that is known already is never replaced.
    fn accept_tasks(&mut self, tasks: Vec<Task>, now: UnixMillis) {
        let known = self.tasks.get_or_insert_default();
        let before = known.len();
        for task in tasks.into_iter().filter(|task| self.validators.contains_key(&task.id.validator)) {
            known.entry(task.id).or_insert(task);
        }
        self.signing.expect(known.keys().copied());
        if known.len() > before {
            self.guard.again(now); // What passed before says nothing about the messages that have come now.
        } else {
            self.guard.open(now);
        }
    }
}
