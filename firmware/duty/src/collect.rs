//! Partial signatures: one per member and message, the first one counts.

use std::collections::{BTreeMap, BTreeSet};

use chain::{Root, SignatureBytes};
use qbft::Member;

use crate::work::Work;
use crate::{MAX_TASKS, Payload, Refusal, TaskId};

/// One member's signature under one message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partial {
    /// Whose message.
    pub id: TaskId,
    /// Hash tree root of the message, computed by the adapter from `data`.
    pub message_root: Root,
    /// The partial signature.
    pub signature: SignatureBytes,
    /// The message, in the encoding of the adapter.
    pub data: Payload,
}

/// The partial signatures of one duty.
#[derive(Default)]
pub(crate) struct Partials {
    by_task: BTreeMap<TaskId, BTreeMap<Member, Partial>>,
    /// How many each member has in there.
    held: BTreeMap<Member, usize>,
    /// How many bytes each member made us keep.
    charged: BTreeMap<Member, usize>,
    wrong: BTreeSet<(TaskId, Member)>,
    equivocators: BTreeSet<Member>,
}

impl Partials {
    /// Adds what one member signed. All good entries are kept even when one is not.
    pub(crate) fn add(&mut self, member: Member, set: Vec<Partial>) -> Result<(), Refusal> {
        if set.is_empty() || set.len() > MAX_TASKS {
            return Err(Refusal::BadSetSize(set.len()));
        }
        let mut result = Ok(());
        for partial in set {
            if self.wrong.contains(&(partial.id, member)) {
                result = Err(Refusal::KnownLiar(member));
            } else if let Some(first) =
                self.by_task.get(&partial.id).and_then(|by_member| by_member.get(&member))
            {
                if first.message_root != partial.message_root || first.signature != partial.signature {
                    self.equivocators.insert(member);
                    result = Err(Refusal::Equivocation(member));
                }
            } else if self.held(member) >= MAX_TASKS {
                return Err(Refusal::BadSetSize(self.held(member)));
            } else {
                *self.held.entry(member).or_default() += 1;
                self.keep(member, partial);
            }
        }
        result
    }

    /// All members sign the same message: its bytes are kept once, and charged to whoever brought them first.
    fn keep(&mut self, member: Member, mut partial: Partial) {
        let cost = match self.same_message(&partial) {
            Some(data) => {
                partial.data = data;
                size_of::<Partial>()
            }
            None => size_of::<Partial>().saturating_add(partial.data.len()),
        };
        let charged = self.charged.entry(member).or_default();
        *charged = charged.saturating_add(cost);
        self.by_task.entry(partial.id).or_default().insert(member, partial);
    }

    /// The bytes of the same message, if another member has brought them.
    fn same_message(&self, partial: &Partial) -> Option<Payload> {
        let mut others = self.by_task.get(&partial.id)?.values();
        let same =
            |other: &&Partial| other.message_root == partial.message_root && other.data == partial.data;
        others.find(same).map(|other| other.data.clone())
    }

    /// How many bytes more would be kept for this member with these added; at most a little too many.
    pub(crate) fn cost(&self, member: Member, set: &[Partial]) -> usize {
        let new = |partial: &&Partial| {
            !self.has(&partial.id, member) && !self.wrong.contains(&(partial.id, member))
        };
        set.iter().filter(new).fold(0, |sum, partial| {
            let data = if self.same_message(partial).is_some() { 0 } else { partial.data.len() };
            sum.saturating_add(data).saturating_add(size_of::<Partial>())
        })
    }

    /// How many bytes are kept for this member.
    pub(crate) fn charged(&self, member: Member) -> usize {
        self.charged.get(&member).copied().unwrap_or(0)
    }

    /// Drops a partial signature that turned out to be wrong, and believes its author no more for this message. What it
    /// was charged for stays charged: others may share the bytes that it brought.
    pub(crate) fn drop_wrong(&mut self, id: &TaskId, member: Member) {
        let removed = self.by_task.get_mut(id).and_then(|by_member| by_member.remove(&member));
        if let Some(held) = self.held.get_mut(&member).filter(|_| removed.is_some()) {
            *held = held.saturating_sub(1);
        }
        self.wrong.insert((*id, member));
    }

    /// How many partial signatures of this member are here.
    pub(crate) fn held(&self, member: Member) -> usize {
        self.held.get(&member).copied().unwrap_or(0)
    }

    /// The first group of at least `threshold` members that signed the same message: all of it, so that whoever combines
    /// can choose.
    pub(crate) fn complete(&self, id: &TaskId, threshold: usize) -> Option<Vec<(Member, &Partial)>> {
        self.groups(id).into_values().find(|group| group.len() >= threshold)
    }

    fn groups(&self, id: &TaskId) -> BTreeMap<Root, Vec<(Member, &Partial)>> {
        let mut groups: BTreeMap<Root, Vec<(Member, &Partial)>> = BTreeMap::new();
        for (member, partial) in self.by_task.get(id).into_iter().flatten() {
            groups.entry(partial.message_root).or_default().push((*member, partial));
        }
        groups
    }

    pub(crate) fn tasks(&self) -> impl Iterator<Item = TaskId> {
        self.by_task.keys().copied()
    }

    /// The size of the largest group: for one message, or for any.
    pub(crate) fn most(&self, id: Option<&TaskId>) -> usize {
        let ids = self.by_task.keys().filter(|other| id.is_none_or(|id| id == *other));
        ids.flat_map(|id| self.groups(id).into_values().map(|group| group.len())).max().unwrap_or(0)
    }

    /// How many members signed anything for this task.
    pub(crate) fn all(&self, id: &TaskId) -> usize {
        self.by_task.get(id).map_or(0, BTreeMap::len)
    }

    pub(crate) fn has(&self, id: &TaskId, member: Member) -> bool {
        self.by_task.get(id).is_some_and(|by_member| by_member.contains_key(&member))
    }

    pub(crate) fn liars(&self) -> Vec<Member> {
        let liars: BTreeSet<Member> = self.wrong.iter().map(|(_, member)| *member).collect();
        liars.into_iter().collect()
    }

    pub(crate) fn equivocators(&self) -> Vec<Member> {
        self.equivocators.iter().copied().collect()
    }
}

impl<S> Work<S> {
    pub(crate) fn on_partials(&mut self, sender: Member, set: Vec<Partial>) -> Result<(), Refusal> {
        self.partials.add(sender, set)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chain::PublicKeyBytes;

    fn partial(root: u8) -> Partial {
        Partial {
            id: TaskId::from(PublicKeyBytes([1; 48])),
            message_root: Root([root; 32]),
            signature: SignatureBytes([root; 96]),
            data: Payload::from([root]),
        }
    }

    #[test]
    fn only_equal_messages_count_together() {
        let mut partials = Partials::default();
        let id = partial(1).id;
        for (member, root) in [(0, 1), (1, 2), (2, 1)] {
            partials.add(Member(member), vec![partial(root)]).unwrap();
        }
        assert!(partials.complete(&id, 3).is_none());
        assert_eq!((partials.most(Some(&id)), partials.all(&id)), (2, 3));
        partials.add(Member(3), vec![partial(1)]).unwrap();
        let group: Vec<Member> = partials.complete(&id, 3).unwrap().into_iter().map(|(m, _)| m).collect();
        assert_eq!(group, [Member(0), Member(2), Member(3)]);
    }

    #[test]
    fn equal_messages_are_kept_and_charged_once_whoever_lied() {
        let mut partials = Partials::default();
        let long = || Partial { data: Payload::from(vec![7; 1000]), ..partial(1) };
        let (id, entry) = (long().id, size_of::<Partial>());
        for member in [1, 2] {
            let cost = partials.cost(Member(member), &[long()]);
            partials.add(Member(member), vec![long()]).unwrap();
            assert_eq!(partials.charged(Member(member)), cost);
            assert_eq!(partials.cost(Member(member), &[long()]), 0, "a repetition is not kept");
        }
        assert_eq!([1, 2].map(|member| partials.charged(Member(member))), [1000 + entry, entry]);
        let group = partials.complete(&id, 2).unwrap();
        assert!(Payload::ptr_eq(&group[0].1.data, &group[1].1.data));
        partials.drop_wrong(&id, Member(1));
        assert_eq!(partials.charged(Member(1)), 1000 + entry, "member 2 still holds what it brought");
        let other = Partial { data: Payload::from(vec![8; 1000]), ..partial(1) };
        assert_eq!(partials.cost(Member(3), &[other]), 1000 + entry);
    }

    #[test]
    fn an_equivocator_is_named_and_its_first_word_counts() {
        let mut partials = Partials::default();
        let id = partial(1).id;
        partials.add(Member(2), vec![partial(1)]).unwrap();
        assert_eq!(partials.add(Member(2), vec![partial(1)]), Ok(()), "a repetition is no lie");
        assert_eq!(partials.add(Member(2), vec![partial(2)]), Err(Refusal::Equivocation(Member(2))));
        assert_eq!(partials.equivocators(), [Member(2)]);
        assert_eq!(partials.complete(&id, 1).unwrap()[0].1, &partial(1));
    }

    #[test]
    fn a_liar_is_not_believed_again() {
        let mut partials = Partials::default();
        let id = partial(1).id;
        partials.add(Member(2), vec![partial(1)]).unwrap();
        partials.drop_wrong(&id, Member(2));
        assert!(partials.complete(&id, 1).is_none());
        assert_eq!(partials.add(Member(2), vec![partial(1)]), Err(Refusal::KnownLiar(Member(2))));
        assert_eq!(partials.liars(), [Member(2)]);
    }

    #[test]
    fn sets_are_bounded() {
        let mut partials = Partials::default();
        assert_eq!(partials.add(Member(0), vec![]), Err(Refusal::BadSetSize(0)));
        let many = vec![partial(1); MAX_TASKS + 1];
        assert_eq!(partials.add(Member(0), many), Err(Refusal::BadSetSize(MAX_TASKS + 1)));
    }
}
