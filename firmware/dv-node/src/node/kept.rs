//! What was agreed on, what is to be signed and what the group has signed, where whoever waits for it can find it.

use std::collections::BTreeMap;

use chain::{SlotTiming, UnixMillis};
use duty::{Aggregate, Duty, Task, TaskId, Value};

/// Duties remembered at most, however many are alive.
const MAX_DUTIES: usize = 2_048;

/// Everything that is kept, until its duty is over.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    duties: BTreeMap<Duty, OfDuty>,
}

#[derive(Debug, Default)]
struct OfDuty {
    agreed: Option<Value>,
    to_sign: BTreeMap<TaskId, Task>,
    provided: BTreeMap<TaskId, Aggregate>,
}

#[expect(dead_code, reason = "what is kept is for the validator API, which reads it")]
impl Kept {
    /// The members agreed.
    pub(crate) fn agreed(&mut self, duty: Duty, value: &Value) {
        self.of(duty).agreed = Some(value.clone());
    }

    /// Partial signatures are asked for.
    pub(crate) fn signing(&mut self, duty: Duty, tasks: &[Task]) {
        self.of(duty).to_sign.extend(tasks.iter().map(|task| (task.id, task.clone())));
    }

    /// Group signatures that other duties, or a validator client, need.
    pub(crate) fn provided(&mut self, duty: Duty, set: Vec<Aggregate>) {
        self.of(duty).provided.extend(set.into_iter().map(|aggregate| (aggregate.id, aggregate)));
    }

    /// What the members agreed on.
    pub(crate) fn value(&self, duty: Duty) -> Option<&Value> {
        self.duties.get(&duty)?.agreed.as_ref()
    }

    /// The message that a validator has to sign for a duty.
    pub(crate) fn task(&self, duty: Duty, id: &TaskId) -> Option<&Task> {
        self.duties.get(&duty)?.to_sign.get(id)
    }

    /// The group's signature under a message that stays in the cluster.
    pub(crate) fn group_signature(&self, duty: Duty, id: &TaskId) -> Option<&Aggregate> {
        self.duties.get(&duty)?.provided.get(id)
    }

    /// The duty is over.
    pub(crate) fn forget(&mut self, duty: Duty) {
        self.duties.remove(&duty);
    }

    /// Drops what is over.
    pub(crate) fn trim(&mut self, timing: &SlotTiming, now: UnixMillis) {
        self.duties.retain(|duty, _| duty.deadline(timing).is_none_or(|deadline| deadline > now));
    }

    fn of(&mut self, duty: Duty) -> &mut OfDuty {
        while self.duties.len() >= MAX_DUTIES && !self.duties.contains_key(&duty) {
            self.duties.pop_first();
        }
        self.duties.entry(duty).or_default()
    }
}
