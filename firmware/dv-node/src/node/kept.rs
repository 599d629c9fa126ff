//! What was agreed on and what the group has signed, where whoever waits for it can find it.

use std::collections::BTreeMap;

use chain::{SlotTiming, UnixMillis};
use duty::{Aggregate, Duty, TaskId, Value};

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
    provided: BTreeMap<TaskId, Aggregate>,
}

impl Kept {
    /// The members agreed.
    pub(crate) fn agreed(&mut self, duty: Duty, value: &Value) {
        self.of(duty).agreed = Some(value.clone());
    }

    /// Group signatures that other duties, or a validator client, need.
    pub(crate) fn provided(&mut self, duty: Duty, set: Vec<Aggregate>) {
        self.of(duty).provided.extend(set.into_iter().map(|aggregate| (aggregate.id, aggregate)));
    }

    /// What the members agreed on.
    pub(crate) fn value(&self, duty: Duty) -> Option<&Value> {
        self.duties.get(&duty)?.agreed.as_ref()
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
